-- What was used and what it cost: the registry of models and their prices, exchange rates, the log of calls, its
-- roll-ups, and what keeps both exact when events come twice.
--
-- The plan's tables keep their names and columns. A database that has the plan's ai_models_registry or
-- shared_gateway_config already keeps its rows; they get the columns they lack. Money is NUMERIC with twelve places, so
-- that one cheap call is not rounded to nothing; token counts are BIGINT.
--
-- Row-level security is on without policies, for the reason that 00001_tenancy.sql gives.

-- +goose Up

-- A retired model stays is_active, as the plan's rows are, and carries retires_at: past that date the model is warned
-- about, and its provider's own refusal is what a caller sees. Only is_active = false makes Catraca refuse a model. A
-- date that a provider moves must not be what stops a tenant's traffic.
--
-- The three *_price_per_million columns repeat the price in force from model_prices, for readers of the plan's columns.
-- model_prices is what calls are priced by.
CREATE TABLE IF NOT EXISTS ai_models_registry (
    id                             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    provider                       text NOT NULL,
    model_name                     text NOT NULL,
    gateway_identifier             text NOT NULL UNIQUE,
    capabilities                   jsonb NOT NULL,
    context_window                 integer,
    max_output_tokens              integer,
    input_price_per_million        numeric(18, 6) NOT NULL,
    output_price_per_million       numeric(18, 6) NOT NULL,
    cached_input_price_per_million numeric(18, 6),
    is_active                      boolean DEFAULT true,
    description                    text,
    created_at                     timestamptz DEFAULT now(),
    updated_at                     timestamptz DEFAULT now(),
    UNIQUE (provider, model_name)
);
ALTER TABLE ai_models_registry ADD COLUMN IF NOT EXISTS kind        text NOT NULL DEFAULT 'language';
ALTER TABLE ai_models_registry ADD COLUMN IF NOT EXISTS retires_at  timestamptz;
ALTER TABLE ai_models_registry ADD COLUMN IF NOT EXISTS replacement text NOT NULL DEFAULT ''; -- gateway_identifier of what the provider names instead

-- Prices are in dollars for one piece: a token, a second, an image, a character. NULL: the price list has no figure.
-- tiers: [{"min_input": 272001, "input": "0.000004", "output": …, "cached": …, "cache_write": …}], ascending.
-- Usage rows point at the price they were charged by, so a row is closed and followed, never changed.
CREATE TABLE model_prices (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    model_id         uuid NOT NULL REFERENCES ai_models_registry (id),
    effective_from   timestamptz NOT NULL,
    effective_to     timestamptz, -- exclusive; null: still in force
    source           text NOT NULL, -- seed, gateway, manual
    note             text NOT NULL DEFAULT '',
    input_usd        numeric(24, 12) CHECK (input_usd >= 0),
    output_usd       numeric(24, 12) CHECK (output_usd >= 0),
    cached_usd       numeric(24, 12) CHECK (cached_usd >= 0),
    cache_write_usd  numeric(24, 12) CHECK (cache_write_usd >= 0),
    audio_input_usd  numeric(24, 12) CHECK (audio_input_usd >= 0),
    audio_output_usd numeric(24, 12) CHECK (audio_output_usd >= 0),
    audio_second_usd numeric(24, 12) CHECK (audio_second_usd >= 0),
    image_usd        numeric(24, 12) CHECK (image_usd >= 0),
    character_usd    numeric(24, 12) CHECK (character_usd >= 0),
    tiers            jsonb NOT NULL DEFAULT '[]',
    created_at       timestamptz NOT NULL DEFAULT now(),
    CHECK (effective_to >= effective_from)
);
CREATE UNIQUE INDEX model_prices_open ON model_prices (model_id) WHERE effective_to IS NULL;
CREATE INDEX model_prices_model ON model_prices (model_id, effective_from DESC);

-- One row a source and day; fetched again on the same day, the later figure stays.
CREATE TABLE exchange_rates (
    source     text NOT NULL, -- ptax, er-api, manual
    date       date NOT NULL, -- the day the source gives the rate for
    rate       numeric(16, 8) NOT NULL CHECK (rate > 0), -- BRL for one USD
    fetched_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, date)
);
CREATE INDEX exchange_rates_fetched_at ON exchange_rates (fetched_at DESC);

-- The secret ids have no foreign key to vault.secrets: there is a vault only on Supabase.
CREATE TABLE IF NOT EXISTS shared_gateway_config (
    id                          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    gateway_api_key_secret_id   uuid,
    openai_api_key_secret_id    uuid,
    groq_api_key_secret_id      uuid,
    anthropic_api_key_secret_id uuid,
    google_api_key_secret_id    uuid,
    cache_enabled               boolean DEFAULT true,
    cache_ttl_seconds           integer DEFAULT 3600,
    default_fallback_chain      jsonb DEFAULT '[]'::jsonb,
    max_requests_per_minute     integer DEFAULT 1000,
    max_tokens_per_minute       integer DEFAULT 500000,
    created_at                  timestamptz DEFAULT now(),
    updated_at                  timestamptz DEFAULT now()
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_shared_gateway_config_singleton ON shared_gateway_config ((true));
INSERT INTO shared_gateway_config DEFAULT VALUES ON CONFLICT DO NOTHING;

-- One row a call, partitioned by the month (UTC) it was admitted in.
--
-- No foreign keys: a call has cost money whether or not its client, model or conversation is still there when its event
-- arrives, and a row that a constraint refuses is a bill that vanishes. conversation_id is text because it is the
-- SaaS's own word for the conversation, and not every SaaS numbers them by uuid.
CREATE TABLE gateway_usage_logs (
    id                  uuid NOT NULL, -- made of incarnation and seq, so the same event always has the same id
    client_id           uuid NOT NULL,
    conversation_id     text,
    phone               text NOT NULL DEFAULT '', -- a pseudonym, or raw where the tenant asked for that
    request_id          text,
    model_registry_id   uuid,
    provider            text NOT NULL DEFAULT '',
    model_name          text NOT NULL DEFAULT '', -- what served; what was asked for when nothing did
    input_tokens        bigint NOT NULL DEFAULT 0,
    output_tokens       bigint NOT NULL DEFAULT 0,
    cached_tokens       bigint NOT NULL DEFAULT 0,
    total_tokens        bigint NOT NULL DEFAULT 0,
    latency_ms          bigint NOT NULL DEFAULT 0,
    was_cached          boolean NOT NULL DEFAULT false,
    was_fallback        boolean NOT NULL DEFAULT false,
    fallback_reason     text,
    cost_usd            numeric(24, 12), -- null: unknown
    cost_brl            numeric(24, 12),
    usd_to_brl_rate     numeric(16, 8),
    metadata            jsonb NOT NULL DEFAULT '{}'::jsonb,
    error_details       jsonb,           -- {"code": …}: a code, never a text
    created_at          timestamptz NOT NULL, -- when the call was admitted

    incarnation         bigint NOT NULL, -- 64 bits of identity; the sign means nothing
    seq                 bigint NOT NULL,
    key_id              uuid,
    endpoint            text NOT NULL DEFAULT '',
    route               text NOT NULL DEFAULT '',
    streamed            boolean NOT NULL DEFAULT false,
    model_requested     text NOT NULL DEFAULT '',
    outcome             text NOT NULL,
    status              integer NOT NULL DEFAULT 0, -- HTTP status of the upstream; 0: none came
    usage_source        text NOT NULL,              -- measured, estimated, none
    cache_write_tokens  bigint NOT NULL DEFAULT 0,
    reasoning_tokens    bigint NOT NULL DEFAULT 0,
    audio_input_tokens  bigint NOT NULL DEFAULT 0,
    audio_output_tokens bigint NOT NULL DEFAULT 0,
    audio_ms            bigint NOT NULL DEFAULT 0,
    images              bigint NOT NULL DEFAULT 0,
    characters          bigint NOT NULL DEFAULT 0,
    cost_source         text,                       -- gateway or list: which of the two below cost_usd is
    cost_usd_list       numeric(24, 12),
    cost_usd_gateway    numeric(24, 12),
    price_id            uuid,
    rate_date           date,
    rate_source         text,
    ttft_ms             bigint NOT NULL DEFAULT 0,
    overhead_us         bigint NOT NULL DEFAULT 0,
    upstream_id         text,
    upstream_request_id text,
    finish_reason       text,
    request_bytes       bigint NOT NULL DEFAULT 0,
    response_bytes      bigint NOT NULL DEFAULT 0,
    recorded_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_id, created_at, incarnation, seq)
) PARTITION BY RANGE (created_at);
CREATE INDEX idx_gateway_usage_logs_created_at ON gateway_usage_logs (created_at DESC, incarnation DESC, seq DESC);
CREATE INDEX gateway_usage_logs_upstream_id ON gateway_usage_logs (client_id, upstream_id) WHERE upstream_id IS NOT NULL;

-- Takes what no month's partition takes, so that a missing partition costs tidiness and never a row.
CREATE TABLE gateway_usage_logs_default PARTITION OF gateway_usage_logs DEFAULT;
ALTER TABLE gateway_usage_logs_default ENABLE ROW LEVEL SECURITY;

-- Makes the partitions of some months, from the month of first on, and says how many were missing. Rows that the
-- default partition took in the meantime move into them.
-- +goose StatementBegin
CREATE FUNCTION catraca_make_usage_partitions(first timestamptz, months integer) RETURNS integer LANGUAGE plpgsql AS $$
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
SELECT catraca_make_usage_partitions(now(), 4);

-- The sums of the log, changed in the transaction that writes it, so the two are always equal. cost_usd and cost_brl
-- are exact for as long as anyone lives. errors are the calls that ended as neither ok nor client_gone. Quantiles of
-- latency need a table of their own beside this one: the same key, a bucket and a count.
CREATE TABLE usage_rollups (
    client_id           uuid NOT NULL,
    hour                timestamptz NOT NULL, -- its beginning, UTC
    model_registry_id   uuid NOT NULL,        -- all zeros: not in the registry
    model_name          text NOT NULL,
    provider            text NOT NULL,
    route               text NOT NULL,
    endpoint            text NOT NULL,
    calls               bigint NOT NULL,
    errors              bigint NOT NULL,
    client_gone         bigint NOT NULL,
    streamed            bigint NOT NULL,
    estimated           bigint NOT NULL, -- usage_source = 'estimated'
    unknown_cost        bigint NOT NULL, -- cost_usd is null in the log
    was_cached          bigint NOT NULL,
    was_fallback        bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    total_tokens        bigint NOT NULL,
    cached_tokens       bigint NOT NULL,
    cache_write_tokens  bigint NOT NULL,
    reasoning_tokens    bigint NOT NULL,
    audio_input_tokens  bigint NOT NULL,
    audio_output_tokens bigint NOT NULL,
    audio_ms            bigint NOT NULL,
    images              bigint NOT NULL,
    characters          bigint NOT NULL,
    latency_ms          bigint NOT NULL,
    answered            bigint NOT NULL, -- calls with a first byte: what ttft_ms is to be divided by
    ttft_ms             bigint NOT NULL,
    overhead_us         bigint NOT NULL,
    cost_usd            numeric(38, 12) NOT NULL,
    cost_brl            numeric(38, 12) NOT NULL,
    PRIMARY KEY (client_id, hour, model_registry_id, model_name, provider, route, endpoint)
);
CREATE INDEX usage_rollups_hour ON usage_rollups (hour);

-- The watermark: which sequence numbers of an incarnation have arrived, as log rows or dead letters. It outlives the
-- log's partitions, so an event that comes again years later is still known, and a hole in it is a loss that shows.
CREATE TABLE producers (
    incarnation bigint PRIMARY KEY,
    received    int8multirange NOT NULL DEFAULT '{}',
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now()
);

-- What could not be recorded, as it came: bytea, because text cannot hold NUL or invalid UTF-8. What the event claimed
-- to have used stands beside it where it could be read, so that sums can be made to agree.
CREATE TABLE dead_letters (
    incarnation  bigint NOT NULL, -- with seq = 0: could not be read
    seq          bigint NOT NULL,
    digest       bytea NOT NULL,  -- SHA-256 of raw: the same letter twice is one letter
    raw          bytea NOT NULL,
    reason       text NOT NULL,
    client_id    uuid,
    total_tokens numeric,
    cost_usd     numeric(24, 12),
    cost_brl     numeric(24, 12),
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incarnation, seq, digest)
);
CREATE INDEX dead_letters_created_at ON dead_letters (created_at DESC);

-- A change of models or prices is one global change in the feed that proxies follow, however many rows it touched.
-- +goose StatementBegin
CREATE FUNCTION catraca_note_models() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF coalesce(current_setting('catraca.models_noted', true), '') <> txid_current()::text THEN
        PERFORM set_config('catraca.models_noted', txid_current()::text, true);
        INSERT INTO config_changes (client_id) VALUES (NULL);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION catraca_note_models() SET search_path = %I, pg_temp', current_schema());
END
$$;
-- +goose StatementEnd
CREATE CONSTRAINT TRIGGER ai_models_registry_came_or_went AFTER INSERT OR DELETE ON ai_models_registry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_models();
CREATE CONSTRAINT TRIGGER ai_models_registry_changed AFTER UPDATE ON ai_models_registry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION catraca_note_models();
CREATE CONSTRAINT TRIGGER model_prices_changed AFTER INSERT OR UPDATE OR DELETE ON model_prices
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catraca_note_models();

ALTER TABLE ai_models_registry    ENABLE ROW LEVEL SECURITY;
ALTER TABLE model_prices          ENABLE ROW LEVEL SECURITY;
ALTER TABLE exchange_rates        ENABLE ROW LEVEL SECURITY;
ALTER TABLE shared_gateway_config ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_usage_logs    ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_rollups         ENABLE ROW LEVEL SECURITY;
ALTER TABLE producers             ENABLE ROW LEVEL SECURITY;
ALTER TABLE dead_letters          ENABLE ROW LEVEL SECURITY;
