-- Who may ask: clients, their settings and keys, the feed of changes, and the audit log; as in postgres/00001_tenancy.sql.
--
-- Ids are uuids as text. Times are whole microseconds since 1970, UTC. Lists and documents are JSON text.

-- +goose Up
CREATE TABLE clients (
    id             TEXT    PRIMARY KEY,
    name           TEXT    NOT NULL DEFAULT '',
    created_at     INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    use_ai_gateway INTEGER DEFAULT 0
) STRICT;

CREATE TABLE client_settings (
    client_id      TEXT    PRIMARY KEY REFERENCES clients (id) ON DELETE CASCADE,
    name           TEXT    NOT NULL DEFAULT '',
    paused         INTEGER NOT NULL DEFAULT 0,
    paused_reason  TEXT    NOT NULL DEFAULT '',
    allowed_models TEXT    NOT NULL DEFAULT '[]',
    default_model  TEXT    NOT NULL DEFAULT '',
    unknown_models TEXT    NOT NULL DEFAULT '' CHECK (unknown_models IN ('', 'refuse', 'meter')),
    time_zone      TEXT    NOT NULL DEFAULT 'America/Sao_Paulo',
    raw_phones     INTEGER NOT NULL DEFAULT 0,
    phone_key      BLOB,
    created_at     INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    updated_at     INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    deleted_at     INTEGER
) STRICT;

CREATE TABLE client_api_keys (
    id           TEXT    PRIMARY KEY,
    client_id    TEXT    NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL DEFAULT '',
    digest       BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix       TEXT    NOT NULL,
    created_at   INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER,
    successor_id TEXT -- the key it was rotated to
) STRICT;
CREATE INDEX client_api_keys_client_id ON client_api_keys (client_id, created_at);

-- SQLite has one writer at a time, so versions become visible in their own order without more ado.
CREATE TABLE config_changes (
    version   INTEGER PRIMARY KEY AUTOINCREMENT,
    client_id TEXT, -- null: something global changed, models or prices
    at        INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;
CREATE INDEX config_changes_at ON config_changes (at);

-- +goose StatementBegin
CREATE TRIGGER config_changes_prune AFTER INSERT ON config_changes WHEN NEW.version % 1000 = 0 BEGIN
    DELETE FROM config_changes WHERE at < (unixepoch() - 30 * 86400) * 1000000;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER clients_came AFTER INSERT ON clients BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER clients_went AFTER DELETE ON clients BEGIN
    INSERT INTO config_changes (client_id) VALUES (OLD.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER clients_flag_changed AFTER UPDATE OF use_ai_gateway ON clients
WHEN OLD.use_ai_gateway IS NOT NEW.use_ai_gateway BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_settings_came AFTER INSERT ON client_settings BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_settings_changed AFTER UPDATE ON client_settings BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_api_keys_came AFTER INSERT ON client_api_keys BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_api_keys_changed AFTER UPDATE OF client_id, digest, expires_at, revoked_at ON client_api_keys BEGIN
    INSERT INTO config_changes (client_id) VALUES (NEW.client_id);
    INSERT INTO config_changes (client_id) SELECT OLD.client_id WHERE OLD.client_id <> NEW.client_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER client_api_keys_went AFTER DELETE ON client_api_keys BEGIN
    INSERT INTO config_changes (client_id) VALUES (OLD.client_id);
END;
-- +goose StatementEnd

-- The feed is never empty, so that a first look at it always gives a version to go on from.
INSERT INTO config_changes (client_id) VALUES (NULL);

CREATE TABLE audit_log (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    actor     TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    client_id TEXT,
    subject   TEXT    NOT NULL,
    before    TEXT,
    after     TEXT
) STRICT;
CREATE INDEX audit_log_client_id ON audit_log (client_id, id);
