-- What keeps the ledger in order for years: dead letters that can be recorded after all, months that are let go of,
-- persons who want to be forgotten, and a role by which a tenant reads its own rows and no others.

-- +goose Up

-- A letter is an open claim on the sums until it is settled: recorded after all, or discarded by somebody who said why.
-- A settled one is kept, so that there is an answer to the question what became of it.
ALTER TABLE dead_letters ADD COLUMN state      text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded'));
ALTER TABLE dead_letters ADD COLUMN tries      integer     NOT NULL DEFAULT 0;  -- how often it was replayed and refused again
ALTER TABLE dead_letters ADD COLUMN settled_at timestamptz;
ALTER TABLE dead_letters ADD COLUMN note       text        NOT NULL DEFAULT ''; -- why it was discarded

-- From when on the log is complete: what is older was dropped on purpose and lives on in the roll-ups alone. No row:
-- nothing was ever dropped.
CREATE TABLE usage_log_kept (
    only_one boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    since    timestamptz NOT NULL
);

-- Who is to be forgotten, for as long as calls of theirs may still be on their way here. A digest is SHA-256 of salt and
-- phone or conversation; rows are deleted when nothing can be late any more, so that not even a digest stays.
CREATE TABLE erasures (
    client_id uuid        NOT NULL,
    erased_at timestamptz NOT NULL,
    salt      bytea       NOT NULL,
    digest    bytea       NOT NULL,
    PRIMARY KEY (client_id, erased_at, digest)
);

-- Which tenant a database login reads for. The login decides and nothing that it can set: not a variable, not SET ROLE.
-- by_jwt is for the one login of an API that checks tokens itself, such as PostgREST's: there the token names the tenant.
CREATE TABLE client_read_roles (
    role_name name    PRIMARY KEY,
    client_id uuid,
    by_jwt    boolean NOT NULL DEFAULT false,
    CHECK (by_jwt = (client_id IS NULL))
);

ALTER TABLE usage_log_kept    ENABLE ROW LEVEL SECURITY;
ALTER TABLE erasures          ENABLE ROW LEVEL SECURITY;
ALTER TABLE client_read_roles ENABLE ROW LEVEL SECURITY;

-- The tenant that this session reads for; null: none. app_metadata comes first, because there only the server writes,
-- and because an OAuth server may use client_id for the program that asks.
-- SECURITY DEFINER, because whoever reads may not read client_read_roles; session_user is still the login inside.
-- +goose StatementBegin
CREATE FUNCTION catraca_client_id() RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE AS $$
DECLARE
    bound  client_read_roles;
    claims jsonb;
    named  text;
BEGIN
    SELECT * INTO bound FROM client_read_roles WHERE role_name = session_user;
    IF NOT FOUND OR NOT bound.by_jwt THEN
        RETURN bound.client_id;
    END IF;
    claims := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    named := coalesce(claims -> 'app_metadata' ->> 'client_id', claims ->> 'client_id');
    IF named ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN
        RETURN named::uuid;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Lets readers see their rows of a table that has a client_id. Without the group role it does nothing.
-- +goose StatementBegin
CREATE FUNCTION catraca_open_to_readers(readable regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regrole('catraca_tenant_reader') IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT SELECT ON %s TO catraca_tenant_reader', readable);
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = readable AND polname = 'catraca_tenant_rows') THEN
        EXECUTE format('CREATE POLICY catraca_tenant_rows ON %s FOR SELECT TO catraca_tenant_reader USING (client_id = (SELECT catraca_client_id()))', readable);
    END IF;
END
$$;
-- +goose StatementEnd

-- Makes the group role where this user may, and opens to it what a tenant may read. Safe to repeat: a release that adds a
-- table calls it again.
-- +goose StatementBegin
CREATE FUNCTION catraca_open_all_to_readers() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    readable regclass;
BEGIN
    IF to_regrole('catraca_tenant_reader') IS NULL THEN
        BEGIN
            CREATE ROLE catraca_tenant_reader NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this server was faster
        END;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO catraca_tenant_reader', current_schema());
    FOR readable IN
        SELECT c.oid FROM pg_class c
        WHERE c.oid IN (to_regclass('gateway_usage_logs'), to_regclass('usage_rollups'), to_regclass('gateway_cache_performance'))
           OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('gateway_usage_logs'))
        ORDER BY c.oid
    LOOP
        PERFORM catraca_open_to_readers(readable);
    END LOOP;
    GRANT SELECT ON ai_models_registry TO catraca_tenant_reader;
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'ai_models_registry'::regclass AND polname = 'catraca_models') THEN
        CREATE POLICY catraca_models ON ai_models_registry FOR SELECT TO catraca_tenant_reader USING (true);
    END IF;
END
$$;
-- +goose StatementEnd

-- Binds a database login to a tenant: it then sees that tenant's calls and sums and the registry of models, reads only.
-- The login is yours to make: CREATE ROLE name LOGIN PASSWORD '…'. Bound again, it reads for the tenant named last.
-- +goose StatementBegin
CREATE FUNCTION catraca_grant_reader(reader name, client uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role pg_roles;
BEGIN
    SELECT * INTO role FROM pg_roles WHERE rolname = reader;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no role %', reader
            USING HINT = format('Make it first: CREATE ROLE %I LOGIN PASSWORD ''…''', reader);
    END IF;
    IF role.rolsuper OR role.rolbypassrls OR pg_has_role(role.oid, (SELECT relowner FROM pg_class WHERE oid = 'gateway_usage_logs'::regclass), 'MEMBER') THEN
        RAISE EXCEPTION 'role % is above row-level security and would see every tenant', reader
            USING HINT = 'Use a role that is no superuser, has no BYPASSRLS and is no member of the tables'' owner.';
    END IF;
    IF NOT EXISTS (SELECT FROM clients WHERE id = client) THEN
        RAISE EXCEPTION 'there is no client %', client USING HINT = 'catraca tenant list shows them.';
    END IF;
    PERFORM catraca_open_all_to_readers();
    INSERT INTO client_read_roles (role_name, client_id) VALUES (reader, client)
        ON CONFLICT (role_name) DO UPDATE SET client_id = excluded.client_id, by_jwt = false;
    IF NOT pg_has_role(reader, 'catraca_tenant_reader', 'MEMBER') THEN -- else it was granted by one who may, and this user need not
        EXECUTE format('GRANT catraca_tenant_reader TO %I', reader);
    END IF;
END
$$;
-- +goose StatementEnd

-- For an API in front of the database that checks tokens and hands their claims on in request.jwt.claims: login is the
-- role it connects as, reader the one it then takes. On Supabase: SELECT catraca_grant_jwt_reader('authenticator',
-- 'authenticated'). Nobody but that API may be able to connect as login, for who is can claim to be any tenant.
-- +goose StatementBegin
CREATE FUNCTION catraca_grant_jwt_reader(login name, reader name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[login, reader] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            RAISE EXCEPTION 'there is no role %', wanted;
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM client_read_roles WHERE role_name = login AND NOT by_jwt) THEN
        RAISE EXCEPTION 'role % is a tenant''s own login', login USING HINT = 'Name the role that the API connects as.';
    END IF;
    PERFORM catraca_open_all_to_readers();
    INSERT INTO client_read_roles (role_name, by_jwt) VALUES (login, true) ON CONFLICT (role_name) DO NOTHING;
    IF NOT pg_has_role(reader, 'catraca_tenant_reader', 'MEMBER') THEN -- else it was granted by one who may, and this user need not
        EXECUTE format('GRANT catraca_tenant_reader TO %I', reader);
    END IF;
END
$$;
-- +goose StatementEnd

-- Ends what the two above began.
-- +goose StatementBegin
CREATE FUNCTION catraca_revoke_reader(reader name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM client_read_roles WHERE role_name = reader;
    IF to_regrole(quote_ident(reader)) IS NOT NULL AND to_regrole('catraca_tenant_reader') IS NOT NULL THEN
        EXECUTE format('REVOKE catraca_tenant_reader FROM %I', reader);
    END IF;
END
$$;
-- +goose StatementEnd

-- As before, and each new partition is open to the readers of its rows: LIKE copies neither grants nor policies.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION catraca_make_usage_partitions(first timestamptz, months integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    lower_at timestamp;
    part     text;
    made     integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('catraca.make_usage_partitions', 0));
    FOR i IN 0 .. months - 1 LOOP
        lower_at := date_trunc('month', first AT TIME ZONE 'UTC') + make_interval(months => i);
        part := 'gateway_usage_logs_' || to_char(lower_at, 'YYYY_MM');
        CONTINUE WHEN to_regclass(quote_ident(part)) IS NOT NULL;
        -- Nobody may write to the default partition between the move and the attachment; other months go on.
        LOCK TABLE gateway_usage_logs_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('CREATE TABLE %I (LIKE gateway_usage_logs INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
        PERFORM catraca_open_to_readers(part::regclass);
        EXECUTE format(
            'WITH moved AS (DELETE FROM gateway_usage_logs_default WHERE created_at >= $1 AND created_at < $2 RETURNING *)
             INSERT INTO %I SELECT * FROM moved', part)
            USING lower_at AT TIME ZONE 'UTC', (lower_at + interval '1 month') AT TIME ZONE 'UTC';
        EXECUTE format('ALTER TABLE gateway_usage_logs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part,
            lower_at::text || '+00', (lower_at + interval '1 month')::text || '+00');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

-- Takes a month's partition out of the log; what the caller then drops bears a name that nothing else has. Returns the
-- new name, or null when the month has no partition. In moments, but it needs the whole log for them: set lock_timeout.
-- +goose StatementBegin
CREATE FUNCTION catraca_detach_usage_partition(month timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    part text := 'gateway_usage_logs_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('catraca.make_usage_partitions', 0));
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'gateway_usage_logs'::regclass AND inhrelid = to_regclass(quote_ident(part))) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE gateway_usage_logs DETACH PARTITION %I', part);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', part, part || '_let_go');
    RETURN part || '_let_go';
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION catraca_client_id() SET search_path = %I, pg_temp', current_schema());
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION catraca_open_to_readers(regclass), catraca_open_all_to_readers(), catraca_grant_reader(name, uuid),
    catraca_grant_jwt_reader(name, name), catraca_revoke_reader(name), catraca_detach_usage_partition(timestamptz) FROM PUBLIC;

-- Without the right to make roles everything else still works: the role is then somebody else's to make.
-- +goose StatementBegin
DO $$
BEGIN
    PERFORM catraca_open_all_to_readers();
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'no role for tenants who read their own rows: this user may not create roles'
            USING HINT = 'To have it, run CREATE ROLE catraca_tenant_reader NOLOGIN as one who may, then SELECT catraca_open_all_to_readers() as this user.';
END
$$;
-- +goose StatementEnd
