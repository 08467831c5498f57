-- What clients may spend, and the ledger that holds them to it; as in postgres/00008_budgets.sql, which has the reasons.
--
-- All amounts are tokens, or whole pico-units of the currency, those of client_budgets too: SQLite has no exact decimals.

-- +goose Up
CREATE TABLE client_budgets (
    id                   TEXT    PRIMARY KEY,
    client_id            TEXT    REFERENCES clients (id) ON DELETE CASCADE, -- null: over all clients together
    budget_type          TEXT    NOT NULL CHECK (budget_type IN ('tokens', 'brl', 'usd')),
    budget_limit         INTEGER NOT NULL CHECK (budget_limit BETWEEN 0 AND 4611686018427387903),
    budget_period        TEXT    NOT NULL CHECK (budget_period IN ('daily', 'weekly', 'monthly')),
    current_usage        INTEGER NOT NULL DEFAULT 0,
    usage_percentage     REAL    GENERATED ALWAYS AS (
        CASE WHEN budget_limit > 0 THEN round(100.0 * current_usage / budget_limit, 2) ELSE 0.0 END),
    period_start_date    TEXT    NOT NULL, -- 2026-11-22
    next_reset_at        INTEGER NOT NULL,
    alert_threshold_80   INTEGER NOT NULL DEFAULT 1,
    alert_threshold_90   INTEGER NOT NULL DEFAULT 1,
    alert_threshold_100  INTEGER NOT NULL DEFAULT 1,
    pause_at_limit       INTEGER NOT NULL DEFAULT 0,
    is_paused            INTEGER NOT NULL DEFAULT 0, -- at the limit, or by a person: see paused
    notification_email   TEXT,
    notification_webhook TEXT,
    created_at           INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    updated_at           INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    time_zone            TEXT    NOT NULL DEFAULT 'America/Sao_Paulo',
    billing_day          INTEGER NOT NULL DEFAULT 1 CHECK (billing_day BETWEEN 1 AND 31),
    starts_at            INTEGER NOT NULL,
    carry_over           INTEGER NOT NULL DEFAULT 0,
    carry_max            INTEGER NOT NULL DEFAULT 0 CHECK (carry_max BETWEEN 0 AND 4611686018427387903),
    debt                 INTEGER NOT NULL DEFAULT 0,
    thresholds           TEXT    NOT NULL DEFAULT '[]',
    paused               INTEGER NOT NULL DEFAULT 0,
    paused_reason        TEXT    NOT NULL DEFAULT '',
    limit_version        INTEGER NOT NULL DEFAULT 1,
    deleted_at           INTEGER
) STRICT;
CREATE UNIQUE INDEX client_budgets_one ON client_budgets (coalesce(client_id, ''), budget_type, budget_period) WHERE deleted_at IS NULL;

CREATE INDEX client_budgets_client ON client_budgets (client_id) WHERE deleted_at IS NULL;

CREATE TABLE budget_policies (
    client_id  TEXT    PRIMARY KEY REFERENCES clients (id) ON DELETE CASCADE,
    policy     TEXT    NOT NULL,
    updated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;

CREATE TABLE budget_windows (
    id            INTEGER PRIMARY KEY,
    budget_id     TEXT    NOT NULL,
    client_id     TEXT,
    budget_type   TEXT    NOT NULL CHECK (budget_type IN ('tokens', 'brl', 'usd')),
    budget_period TEXT    NOT NULL CHECK (budget_period IN ('daily', 'weekly', 'monthly')),
    hard          INTEGER NOT NULL,
    time_zone     TEXT    NOT NULL,
    starts_at     INTEGER NOT NULL,
    ends_at       INTEGER NOT NULL,
    base          INTEGER NOT NULL,
    carried       INTEGER NOT NULL,
    topped_up     INTEGER NOT NULL,
    limit_version INTEGER NOT NULL,
    committed     INTEGER NOT NULL,
    spent         INTEGER NOT NULL,
    held          INTEGER NOT NULL,
    suspense      INTEGER NOT NULL,
    overrun       INTEGER NOT NULL,
    unheld        INTEGER NOT NULL,
    recall        INTEGER NOT NULL,
    exact         INTEGER NOT NULL,
    alerted       INTEGER NOT NULL,
    sealed        INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL,
    opened_at     INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    CONSTRAINT budget_windows_period   CHECK (starts_at < ends_at),
    CONSTRAINT budget_windows_spent    CHECK (spent >= 0),
    CONSTRAINT budget_windows_held     CHECK (held >= 0),
    CONSTRAINT budget_windows_suspense CHECK (suspense >= 0),
    CONSTRAINT budget_windows_adds_up  CHECK (spent + held + suspense <= max(base + carried + topped_up, committed))
) STRICT;
CREATE INDEX budget_windows_of ON budget_windows (budget_id, starts_at DESC);
CREATE INDEX budget_windows_ends_at ON budget_windows (budget_id, ends_at);
CREATE INDEX budget_windows_recent ON budget_windows (ends_at);
CREATE INDEX budget_windows_unsealed ON budget_windows (ends_at) WHERE NOT sealed;

CREATE TABLE budget_leases (
    window_id   INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    granted     INTEGER NOT NULL,
    returned    INTEGER NOT NULL,
    settled     INTEGER NOT NULL,
    doubted     INTEGER NOT NULL,
    lost        INTEGER NOT NULL,
    closed      INTEGER NOT NULL,
    PRIMARY KEY (window_id, incarnation),
    CONSTRAINT budget_leases_signs   CHECK (granted >= 0 AND returned >= 0 AND settled >= 0 AND doubted >= 0),
    CONSTRAINT budget_leases_adds_up CHECK (returned + settled + doubted <= granted)
) STRICT, WITHOUT ROWID;
CREATE INDEX budget_leases_open ON budget_leases (incarnation) WHERE NOT closed;

CREATE TABLE budget_holders (
    incarnation INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    op          INTEGER NOT NULL,
    reply       BLOB,
    epoch       INTEGER NOT NULL,
    heard_at    INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('live', 'left', 'lost', 'closed'))
) STRICT;
CREATE INDEX budget_holders_open ON budget_holders (incarnation) WHERE state <> 'closed';

CREATE TABLE budget_doubts (
    incarnation INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    window_id   INTEGER NOT NULL,
    amount      INTEGER NOT NULL CHECK (amount >= 0),
    at          INTEGER NOT NULL,
    PRIMARY KEY (incarnation, seq, window_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX budget_doubts_window ON budget_doubts (window_id);

CREATE TABLE budget_alerts (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    window_id     INTEGER NOT NULL,
    budget_id     TEXT    NOT NULL,
    client_id     TEXT,
    threshold     INTEGER NOT NULL,
    limit_version INTEGER NOT NULL,
    limit_amount  INTEGER NOT NULL,
    used_amount   INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    UNIQUE (window_id, threshold, limit_version)
) STRICT;
CREATE INDEX budget_alerts_client ON budget_alerts (client_id, id DESC);

CREATE TABLE budget_journal (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    window_id   INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    amount      INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    at          INTEGER NOT NULL
) STRICT;
CREATE INDEX budget_journal_window ON budget_journal (window_id, id DESC);

-- file_id is what this file is told apart by from another one in its place.
CREATE TABLE budget_epoch (
    only_one INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_one = 1),
    number   INTEGER NOT NULL,
    identity TEXT    NOT NULL,
    learning INTEGER,
    since    INTEGER NOT NULL,
    file_id  TEXT    NOT NULL
) STRICT;
INSERT INTO budget_epoch (number, identity, since, file_id)
VALUES (0, '', CAST(unixepoch('subsec') * 1000000 AS INTEGER), lower(hex(randomblob(16))));

ALTER TABLE gateway_usage_logs ADD COLUMN budget_holds TEXT;

-- +goose StatementBegin
CREATE TRIGGER client_budgets_came AFTER INSERT ON client_budgets BEGIN
    INSERT INTO config_changes (client_id) SELECT NEW.client_id WHERE NEW.client_id IS NOT NULL;
    INSERT INTO config_changes (client_id) SELECT id FROM clients WHERE NEW.client_id IS NULL;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_budgets_changed AFTER UPDATE ON client_budgets
WHEN (OLD.client_id, OLD.budget_type, OLD.budget_limit, OLD.budget_period, OLD.alert_threshold_80, OLD.alert_threshold_90,
      OLD.alert_threshold_100, OLD.pause_at_limit, OLD.time_zone, OLD.billing_day, OLD.starts_at, OLD.carry_over,
      OLD.carry_max, OLD.debt, OLD.thresholds, OLD.paused, OLD.paused_reason, OLD.deleted_at)
   IS NOT
     (NEW.client_id, NEW.budget_type, NEW.budget_limit, NEW.budget_period, NEW.alert_threshold_80, NEW.alert_threshold_90,
      NEW.alert_threshold_100, NEW.pause_at_limit, NEW.time_zone, NEW.billing_day, NEW.starts_at, NEW.carry_over,
      NEW.carry_max, NEW.debt, NEW.thresholds, NEW.paused, NEW.paused_reason, NEW.deleted_at) BEGIN
    INSERT INTO config_changes (client_id) SELECT NEW.client_id WHERE NEW.client_id IS NOT NULL;
    INSERT INTO config_changes (client_id) SELECT id FROM clients WHERE NEW.client_id IS NULL;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_budgets_went AFTER DELETE ON client_budgets BEGIN
    INSERT INTO config_changes (client_id) SELECT OLD.client_id WHERE OLD.client_id IS NOT NULL;
    INSERT INTO config_changes (client_id) SELECT id FROM clients WHERE OLD.client_id IS NULL;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER budget_policies_came AFTER INSERT ON budget_policies BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER budget_policies_changed AFTER UPDATE ON budget_policies BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER budget_policies_went AFTER DELETE ON budget_policies BEGIN
    INSERT INTO config_changes (client_id) VALUES (OLD.client_id);
END;
-- +goose StatementEnd
