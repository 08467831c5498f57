-- What clients may spend, and the ledger that holds them to it: budgets, their windows, what proxies hold on leases of
-- them, and what became of it.
--
-- The plan's client_budgets keeps its name and columns; a database that has it keeps its rows. It says in whole tokens,
-- reais and dollars what people set, and shows how the current window stands. What decides is budget_windows, where
-- amounts are tokens, or whole pico-units (1e-12) of the currency: the unit that the ledger computes in.
--
-- Row-level security is on without policies, for the reason that 00001_tenancy.sql gives.

-- +goose Up

CREATE TABLE IF NOT EXISTS client_budgets (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    client_id            uuid REFERENCES clients (id) ON DELETE CASCADE, -- null: over all clients together
    budget_type          text NOT NULL,    -- tokens, brl, usd
    budget_limit         numeric NOT NULL,
    budget_period        text NOT NULL,    -- daily, weekly, monthly
    current_usage        numeric DEFAULT 0,
    usage_percentage     numeric(40, 2) GENERATED ALWAYS AS (
        CASE WHEN budget_limit > 0 THEN current_usage / budget_limit * 100 ELSE 0 END) STORED,
    period_start_date    date NOT NULL DEFAULT CURRENT_DATE,
    next_reset_at        timestamptz NOT NULL,
    alert_threshold_80   boolean DEFAULT true,
    alert_threshold_90   boolean DEFAULT true,
    alert_threshold_100  boolean DEFAULT true,
    pause_at_limit       boolean DEFAULT false,
    is_paused            boolean DEFAULT false, -- at the limit, or by a person: see paused
    notification_email   text,
    notification_webhook text,
    created_at           timestamptz DEFAULT now(),
    updated_at           timestamptz DEFAULT now()
);

-- The plan allows a client one budget, and its percentage ends at 999.99: a budget that is only watched goes past that.
-- +goose StatementBegin
DO $$
DECLARE
    only_client smallint[] := ARRAY(SELECT attnum FROM pg_attribute WHERE attrelid = 'client_budgets'::regclass AND attname = 'client_id');
    alone       record;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'client_budgets'::regclass AND attname = 'client_id' AND atttypid = 'uuid'::regtype AND NOT attisdropped
    ) THEN
        RAISE EXCEPTION 'the existing table "client_budgets" has no column "client_id" of type uuid'
            USING HINT = 'Catraca keeps budgets in the plan''s table. Rename the one that is there, or give Catraca a schema of its own.';
    END IF;
    FOR alone IN SELECT conname FROM pg_constraint
        WHERE conrelid = 'client_budgets'::regclass AND contype = 'u' AND conkey = only_client
    LOOP
        EXECUTE format('ALTER TABLE client_budgets DROP CONSTRAINT %I', alone.conname);
    END LOOP;
    FOR alone IN SELECT indexrelid::regclass AS index FROM pg_index
        WHERE indrelid = 'client_budgets'::regclass AND indisunique AND NOT indisprimary AND indpred IS NULL
          AND indnkeyatts = 1 AND indkey[0] = only_client[1]
    LOOP
        EXECUTE format('DROP INDEX %s', alone.index);
    END LOOP;
    IF (SELECT atttypmod FROM pg_attribute WHERE attrelid = 'client_budgets'::regclass AND attname = 'usage_percentage')
        IS DISTINCT FROM ((40 << 16) | 2) + 4
    THEN
        ALTER TABLE client_budgets ALTER COLUMN usage_percentage TYPE numeric(40, 2);
    END IF;
END
$$;
-- +goose StatementEnd

ALTER TABLE client_budgets ALTER COLUMN client_id DROP NOT NULL;
-- A row that somebody else writes says nothing of it: the ledger fills it in.
ALTER TABLE client_budgets ALTER COLUMN next_reset_at SET DEFAULT now();
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS time_zone     text        NOT NULL DEFAULT 'America/Sao_Paulo';
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS billing_day   integer     NOT NULL DEFAULT 1 CHECK (billing_day BETWEEN 1 AND 31);
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS starts_at     timestamptz NOT NULL DEFAULT now(); -- what is admitted from here on counts
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS carry_over    boolean     NOT NULL DEFAULT false;
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS carry_max     numeric     NOT NULL DEFAULT 0;     -- 0: no bound
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS debt          boolean     NOT NULL DEFAULT false;
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS thresholds    integer[]   NOT NULL DEFAULT '{}';  -- beside the three above, in percent
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS paused        boolean     NOT NULL DEFAULT false; -- by a person
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS paused_reason text        NOT NULL DEFAULT '';
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS limit_version bigint      NOT NULL DEFAULT 1;     -- rises with what changes open windows
ALTER TABLE client_budgets ADD COLUMN IF NOT EXISTS deleted_at    timestamptz;                        -- its windows stay

-- What the ledger cannot count by is refused here and now, not met later by a call.
-- +goose StatementBegin
DO $$
DECLARE
    wrong text;
BEGIN
    SELECT string_agg(id::text, ', ') INTO wrong FROM (
        SELECT id FROM client_budgets
        WHERE budget_type NOT IN ('tokens', 'brl', 'usd') OR budget_period NOT IN ('daily', 'weekly', 'monthly')
           OR NOT (budget_limit BETWEEN 0 AND CASE budget_type WHEN 'tokens' THEN 4611686018427387903 ELSE 4611686.018427387903 END)
           OR budget_limit <> round(budget_limit, CASE budget_type WHEN 'tokens' THEN 0 ELSE 12 END)
        ORDER BY id LIMIT 5) x;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'rows of the existing table "client_budgets" are no budgets: %', wrong
            USING HINT = 'budget_type is tokens, brl or usd; budget_period is daily, weekly or monthly; budget_limit is whole tokens, or up to 4611686 reais or dollars with at most 12 decimals. Correct or delete these rows.';
    END IF;
END
$$;
-- +goose StatementEnd
ALTER TABLE client_budgets ADD CONSTRAINT client_budgets_countable CHECK (
    budget_type IN ('tokens', 'brl', 'usd') AND budget_period IN ('daily', 'weekly', 'monthly')
    AND budget_limit BETWEEN 0 AND CASE budget_type WHEN 'tokens' THEN 4611686018427387903 ELSE 4611686.018427387903 END
    AND budget_limit = round(budget_limit, CASE budget_type WHEN 'tokens' THEN 0 ELSE 12 END)
    AND carry_max BETWEEN 0 AND CASE budget_type WHEN 'tokens' THEN 4611686018427387903 ELSE 4611686.018427387903 END
    AND carry_max = round(carry_max, CASE budget_type WHEN 'tokens' THEN 0 ELSE 12 END));

-- One budget of a client for each unit and period, those over all clients being nobody's. The expression stands for
-- NULLS NOT DISTINCT, which Postgres has since 15.
CREATE UNIQUE INDEX client_budgets_one ON client_budgets
    (coalesce(client_id, '00000000-0000-0000-0000-000000000000'::uuid), budget_type, budget_period) WHERE deleted_at IS NULL;

CREATE INDEX client_budgets_client ON client_budgets (client_id) WHERE deleted_at IS NULL;

-- How a client is treated at its limits. No row: the defaults.
CREATE TABLE budget_policies (
    client_id  uuid        PRIMARY KEY REFERENCES clients (id) ON DELETE CASCADE,
    policy     jsonb       NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A budget in one of its periods. The id is worked out of budget and beginning, so no other window can ever have it.
-- There are no foreign keys from here on: money that was spent was spent, whoever is still there.
--
-- The limit is base + carried + topped_up. It bounds what is spent, held and in suspense, but for what was committed when
-- it was lowered. Rows are rewritten all the time, in place for as long as their page has room, so no index has a column
-- that changes but sealed, which changes once.
CREATE TABLE budget_windows (
    id            bigint      PRIMARY KEY,
    budget_id     uuid        NOT NULL,
    client_id     uuid,       -- null: over all clients
    budget_type   text        NOT NULL CHECK (budget_type IN ('tokens', 'brl', 'usd')),
    budget_period text        NOT NULL CHECK (budget_period IN ('daily', 'weekly', 'monthly')),
    hard          boolean     NOT NULL,
    time_zone     text        NOT NULL,
    starts_at     timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL,
    base          bigint      NOT NULL,
    carried       bigint      NOT NULL,
    topped_up     bigint      NOT NULL,
    limit_version bigint      NOT NULL,
    committed     bigint      NOT NULL,
    spent         bigint      NOT NULL,
    held          bigint      NOT NULL,
    suspense      bigint      NOT NULL,
    overrun       bigint      NOT NULL,
    unheld        bigint      NOT NULL,
    recall        bigint      NOT NULL,
    exact         boolean     NOT NULL,
    alerted       integer     NOT NULL,
    sealed        boolean     NOT NULL,
    changed_at    timestamptz NOT NULL,
    opened_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT budget_windows_period   CHECK (starts_at < ends_at),
    CONSTRAINT budget_windows_spent    CHECK (spent >= 0),
    CONSTRAINT budget_windows_held     CHECK (held >= 0),
    CONSTRAINT budget_windows_suspense CHECK (suspense >= 0),
    CONSTRAINT budget_windows_adds_up  CHECK (spent + held + suspense <= greatest(base::numeric + carried + topped_up, committed))
) WITH (fillfactor = 50);
CREATE INDEX budget_windows_of ON budget_windows (budget_id, starts_at DESC);
CREATE INDEX budget_windows_ends_at ON budget_windows (budget_id, ends_at);
CREATE INDEX budget_windows_recent ON budget_windows (ends_at);
CREATE INDEX budget_windows_unsealed ON budget_windows (ends_at) WHERE NOT sealed;

-- What one incarnation has of one window. What it still holds of it is granted - returned - settled - doubted.
CREATE TABLE budget_leases (
    window_id   bigint  NOT NULL,
    incarnation bigint  NOT NULL, -- 64 bits of identity; the sign means nothing
    granted     bigint  NOT NULL,
    returned    bigint  NOT NULL,
    settled     bigint  NOT NULL,
    doubted     bigint  NOT NULL,
    lost        boolean NOT NULL,
    closed      boolean NOT NULL,
    PRIMARY KEY (window_id, incarnation),
    CONSTRAINT budget_leases_signs   CHECK (granted >= 0 AND returned >= 0 AND settled >= 0 AND doubted >= 0),
    CONSTRAINT budget_leases_adds_up CHECK (returned + settled + doubted <= granted)
) WITH (fillfactor = 50);
CREATE INDEX budget_leases_open ON budget_leases (incarnation) WHERE NOT closed;

-- The proxies' runs, as the ledger knows them.
CREATE TABLE budget_holders (
    incarnation bigint      PRIMARY KEY,
    name        text        NOT NULL,
    op          bigint      NOT NULL, -- the newest message that was answered
    reply       bytea,                -- to it, as it was
    epoch       bigint      NOT NULL,
    heard_at    timestamptz NOT NULL,
    state       text        NOT NULL CHECK (state IN ('live', 'left', 'lost', 'closed'))
) WITH (fillfactor = 50);
CREATE INDEX budget_holders_open ON budget_holders (incarnation) WHERE state <> 'closed';

-- What may have been used beyond the estimate of a call that was cut short.
CREATE TABLE budget_doubts (
    incarnation bigint      NOT NULL,
    seq         bigint      NOT NULL,
    window_id   bigint      NOT NULL,
    amount      bigint      NOT NULL CHECK (amount >= 0),
    at          timestamptz NOT NULL,
    PRIMARY KEY (incarnation, seq, window_id)
);
CREATE INDEX budget_doubts_window ON budget_doubts (window_id);

-- The outbox of alerts: exactly one row for each threshold of a window and limit.
CREATE TABLE budget_alerts (
    id            bigserial   PRIMARY KEY,
    window_id     bigint      NOT NULL,
    budget_id     uuid        NOT NULL,
    client_id     uuid,       -- null: over all clients
    threshold     integer     NOT NULL, -- percent
    limit_version bigint      NOT NULL,
    limit_amount  bigint      NOT NULL,
    used_amount   bigint      NOT NULL,
    at            timestamptz NOT NULL,
    UNIQUE (window_id, threshold, limit_version)
);
CREATE INDEX budget_alerts_client ON budget_alerts (client_id, id DESC);

CREATE TABLE budget_journal (
    id          bigserial   PRIMARY KEY,
    window_id   bigint      NOT NULL, -- 0: none
    incarnation bigint      NOT NULL, -- 0: none
    kind        text        NOT NULL,
    amount      bigint      NOT NULL,
    reason      text        NOT NULL,
    at          timestamptz NOT NULL
);
CREATE INDEX budget_journal_window ON budget_journal (window_id, id DESC);

-- The state of the ledger as a whole. identity tells the database and its timeline; another one means that the end of
-- the ledger may have been lost in between.
CREATE TABLE budget_epoch (
    only_one boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    number   bigint      NOT NULL,
    identity text        NOT NULL, -- empty: the ledger was not used yet
    learning timestamptz,          -- nothing is granted before; null: not learning
    since    timestamptz NOT NULL
);
INSERT INTO budget_epoch (number, identity, since) VALUES (0, '', now());

-- What was held for a call, [[window, amount], …]; null: nothing was. Kept with the call, because it tells which windows
-- the call is counted in.
ALTER TABLE gateway_usage_logs ADD COLUMN budget_holds jsonb;

-- A change of a budget or a policy is a change of its client in the feed that proxies follow; one of a budget over all
-- clients is a change of every client. SECURITY DEFINER, for the reason that catraca_note_change has.
-- +goose StatementBegin
CREATE FUNCTION catraca_note_budget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    of_former boolean := TG_OP <> 'INSERT';
    of_new    boolean := TG_OP <> 'DELETE';
BEGIN
    IF of_former AND OLD.client_id IS NULL OR of_new AND NEW.client_id IS NULL THEN
        INSERT INTO config_changes (client_id) SELECT id FROM clients;
        RETURN NULL;
    END IF;
    IF of_new THEN
        INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
    END IF;
    IF of_former AND (NOT of_new OR NEW.client_id <> OLD.client_id) THEN
        INSERT INTO config_changes (client_id) VALUES (OLD.client_id);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION catraca_note_budget() SET search_path = %I, pg_temp', current_schema());
END
$$;
-- +goose StatementEnd
CREATE CONSTRAINT TRIGGER client_budgets_came_or_went AFTER INSERT OR DELETE ON client_budgets
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_budget();
-- Not what the ledger shows there: it is written all the time and changes nothing.
CREATE CONSTRAINT TRIGGER client_budgets_changed AFTER UPDATE ON client_budgets
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.client_id, OLD.budget_type, OLD.budget_limit, OLD.budget_period, OLD.alert_threshold_80, OLD.alert_threshold_90,
           OLD.alert_threshold_100, OLD.pause_at_limit, OLD.time_zone, OLD.billing_day, OLD.starts_at, OLD.carry_over,
           OLD.carry_max, OLD.debt, OLD.thresholds, OLD.paused, OLD.paused_reason, OLD.deleted_at)
        IS DISTINCT FROM
          (NEW.client_id, NEW.budget_type, NEW.budget_limit, NEW.budget_period, NEW.alert_threshold_80, NEW.alert_threshold_90,
           NEW.alert_threshold_100, NEW.pause_at_limit, NEW.time_zone, NEW.billing_day, NEW.starts_at, NEW.carry_over,
           NEW.carry_max, NEW.debt, NEW.thresholds, NEW.paused, NEW.paused_reason, NEW.deleted_at))
    EXECUTE FUNCTION catraca_note_budget();
CREATE CONSTRAINT TRIGGER budget_policies_changed AFTER INSERT OR UPDATE OR DELETE ON budget_policies
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_budget();

ALTER TABLE client_budgets  ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_policies ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_windows  ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_leases   ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_holders  ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_doubts   ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_alerts   ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_journal  ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_epoch    ENABLE ROW LEVEL SECURITY;
