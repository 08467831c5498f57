-- Who may ask: clients, their settings and keys, the feed of changes that proxies follow, and the audit log.
--
-- On a SaaS's own database `clients` is the SaaS's table: it gets the plan's one column and nothing else of it is
-- touched. What we keep of a client is in `client_settings`; a client without a row there is a tenant with the defaults.
--
-- Row-level security is on and no policy is made, so that Supabase's REST roles (which are granted every new table of
-- `public`) see nothing. The tables' owner, members of that role and roles with BYPASSRLS see everything: Catraca must
-- run as one of them.

-- +goose Up
CREATE TABLE IF NOT EXISTS clients (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text        NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'clients'::regclass AND attname = 'id' AND atttypid = 'uuid'::regtype AND NOT attisdropped
    ) THEN
        RAISE EXCEPTION 'the existing table "clients" has no column "id" of type uuid'
            USING HINT = 'Catraca joins its tables to clients(id) as uuid. Give it a schema or a database of its own.';
    END IF;
END
$$;
-- +goose StatementEnd

ALTER TABLE clients ADD COLUMN IF NOT EXISTS use_ai_gateway boolean DEFAULT false;

CREATE TABLE client_settings (
    client_id      uuid        PRIMARY KEY REFERENCES clients (id) ON DELETE CASCADE,
    name           text        NOT NULL DEFAULT '',  -- empty: clients.name, where there is one
    paused         boolean     NOT NULL DEFAULT false,
    paused_reason  text        NOT NULL DEFAULT '',
    allowed_models text[]      NOT NULL DEFAULT '{}', -- empty: all active models
    default_model  text        NOT NULL DEFAULT '',
    unknown_models text        NOT NULL DEFAULT '' CHECK (unknown_models IN ('', 'refuse', 'meter')),
    time_zone      text        NOT NULL DEFAULT 'America/Sao_Paulo',
    raw_phones     boolean     NOT NULL DEFAULT false,
    phone_key      bytea,                             -- sealed by the master key; made when first needed
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz
);

CREATE TABLE client_api_keys (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    client_id    uuid        NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    name         text        NOT NULL DEFAULT '',
    digest       bytea       NOT NULL UNIQUE CHECK (octet_length(digest) = 32), -- SHA-256 of the secret
    prefix       text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    successor_id uuid -- the key it was rotated to
);
CREATE INDEX client_api_keys_client_id ON client_api_keys (client_id, created_at);

CREATE SEQUENCE config_changes_version;
CREATE TABLE config_changes (
    version   bigint      PRIMARY KEY,
    client_id uuid, -- null: something global changed, models or prices
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER SEQUENCE config_changes_version OWNED BY config_changes.version;
CREATE INDEX config_changes_at ON config_changes (at);

-- A follower asks for what is newer than the newest version it has seen, so versions must become visible in their own
-- order. The lock, held until commit, sees to that. Now and then rows of a month ago are dropped here: nobody
-- else would.
-- +goose StatementBegin
CREATE FUNCTION catraca_number_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('catraca.config_changes', 0));
    NEW.version := nextval('config_changes_version');
    IF NEW.version % 1000 = 0 THEN
        DELETE FROM config_changes WHERE at < clock_timestamp() - interval '30 days';
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER config_changes_number BEFORE INSERT ON config_changes
    FOR EACH ROW EXECUTE FUNCTION catraca_number_change();

-- Puts a change of any table into the feed. Its argument names the column that holds the client's id; without one
-- the change is global. Use it from CONSTRAINT TRIGGERs that are DEFERRABLE INITIALLY DEFERRED: it then runs at
-- commit, so the lock above is held for moments, however long the SaaS's own transaction was.
-- SECURITY DEFINER, because the SaaS's role may change clients but knows nothing of our tables.
-- +goose StatementBegin
CREATE FUNCTION catraca_note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    former uuid;
    client uuid;
BEGIN
    IF TG_NARGS > 0 THEN
        IF TG_OP <> 'INSERT' THEN former := to_jsonb(OLD) ->> TG_ARGV[0]; END IF;
        IF TG_OP <> 'DELETE' THEN client := to_jsonb(NEW) ->> TG_ARGV[0]; END IF;
    END IF;
    INSERT INTO config_changes (client_id) VALUES (coalesce(client, former));
    IF former <> client THEN
        INSERT INTO config_changes (client_id) VALUES (former);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- A SECURITY DEFINER function must not look names up where its caller says, temporary tables included.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION catraca_note_change() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION catraca_number_change() SET search_path = %I, pg_temp', current_schema());
END
$$;
-- +goose StatementEnd

CREATE CONSTRAINT TRIGGER clients_came_or_went AFTER INSERT OR DELETE ON clients
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_change('id');
CREATE CONSTRAINT TRIGGER clients_flag_changed AFTER UPDATE OF use_ai_gateway ON clients
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.use_ai_gateway IS DISTINCT FROM NEW.use_ai_gateway) EXECUTE FUNCTION catraca_note_change('id');
CREATE CONSTRAINT TRIGGER client_settings_came_or_went AFTER INSERT OR DELETE ON client_settings
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_change('client_id');
CREATE CONSTRAINT TRIGGER client_settings_changed AFTER UPDATE ON client_settings
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION catraca_note_change('client_id');
CREATE CONSTRAINT TRIGGER client_api_keys_came_or_went AFTER INSERT OR DELETE ON client_api_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_change('client_id');
-- Not last_used_at: it is written all the time and changes nothing.
CREATE CONSTRAINT TRIGGER client_api_keys_changed AFTER UPDATE OF client_id, digest, expires_at, revoked_at ON client_api_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_change('client_id');

-- The feed is never empty, so that a first look at it always gives a version to go on from.
INSERT INTO config_changes (client_id) VALUES (NULL);

CREATE TABLE audit_log (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor     text        NOT NULL,
    action    text        NOT NULL, -- tenant.update, key.revoke, …
    client_id uuid,
    subject   text        NOT NULL, -- id of what was changed
    before    jsonb,
    after     jsonb
);
CREATE INDEX audit_log_client_id ON audit_log (client_id, id);

ALTER TABLE client_settings ENABLE ROW LEVEL SECURITY;
ALTER TABLE client_api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE config_changes  ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log       ENABLE ROW LEVEL SECURITY;
