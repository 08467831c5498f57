-- What was used and what it cost; as in postgres/00002_metering.sql, which has the reasons.
--
-- SQLite has no exact decimals: a NUMERIC column becomes floating point without a word. So money in the log and in the
-- price list is a whole number of pico-units (1e-12 of a dollar or a real), and the sums of the roll-ups, which one
-- 64-bit number cannot hold for ever, are two: whole units and the pico-units left over. Rates are in 1e-8, as whole
-- numbers. Ids are uuids as text, times whole microseconds since 1970, UTC, dates text: "2026-11-22".

-- +goose Up
CREATE TABLE ai_models_registry (
    id                             TEXT PRIMARY KEY,
    provider                       TEXT NOT NULL,
    model_name                     TEXT NOT NULL,
    gateway_identifier             TEXT NOT NULL UNIQUE,
    capabilities                   TEXT NOT NULL,
    context_window                 INTEGER,
    max_output_tokens              INTEGER,
    input_price_per_million        TEXT NOT NULL, -- a decimal number, as the plan writes it
    output_price_per_million       TEXT NOT NULL,
    cached_input_price_per_million TEXT,
    is_active                      INTEGER DEFAULT 1,
    description                    TEXT,
    created_at                     INTEGER DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    updated_at                     INTEGER DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    kind                           TEXT NOT NULL DEFAULT 'language',
    retires_at                     INTEGER,
    replacement                    TEXT NOT NULL DEFAULT '',
    UNIQUE (provider, model_name)
) STRICT;

CREATE TABLE model_prices (
    id               TEXT PRIMARY KEY,
    model_id         TEXT NOT NULL REFERENCES ai_models_registry (id),
    effective_from   INTEGER NOT NULL,
    effective_to     INTEGER,
    source           TEXT NOT NULL,
    note             TEXT NOT NULL DEFAULT '',
    input_usd        INTEGER CHECK (input_usd >= 0),
    output_usd       INTEGER CHECK (output_usd >= 0),
    cached_usd       INTEGER CHECK (cached_usd >= 0),
    cache_write_usd  INTEGER CHECK (cache_write_usd >= 0),
    audio_input_usd  INTEGER CHECK (audio_input_usd >= 0),
    audio_output_usd INTEGER CHECK (audio_output_usd >= 0),
    audio_second_usd INTEGER CHECK (audio_second_usd >= 0),
    image_usd        INTEGER CHECK (image_usd >= 0),
    character_usd    INTEGER CHECK (character_usd >= 0),
    tiers            TEXT NOT NULL DEFAULT '[]',
    created_at       INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    CHECK (effective_to >= effective_from)
) STRICT;
CREATE UNIQUE INDEX model_prices_open ON model_prices (model_id) WHERE effective_to IS NULL;
CREATE INDEX model_prices_model ON model_prices (model_id, effective_from DESC);

CREATE TABLE exchange_rates (
    source     TEXT NOT NULL,
    date       TEXT NOT NULL,
    rate       INTEGER NOT NULL CHECK (rate > 0),
    fetched_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (source, date)
) STRICT;
CREATE INDEX exchange_rates_fetched_at ON exchange_rates (fetched_at DESC);

CREATE TABLE shared_gateway_config (
    id                          TEXT PRIMARY KEY,
    gateway_api_key_secret_id   TEXT,
    openai_api_key_secret_id    TEXT,
    groq_api_key_secret_id      TEXT,
    anthropic_api_key_secret_id TEXT,
    google_api_key_secret_id    TEXT,
    cache_enabled               INTEGER DEFAULT 1,
    cache_ttl_seconds           INTEGER DEFAULT 3600,
    default_fallback_chain      TEXT DEFAULT '[]',
    max_requests_per_minute     INTEGER DEFAULT 1000,
    max_tokens_per_minute       INTEGER DEFAULT 500000,
    created_at                  INTEGER DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    updated_at                  INTEGER DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;
CREATE UNIQUE INDEX idx_shared_gateway_config_singleton ON shared_gateway_config ((1));
INSERT INTO shared_gateway_config (id) VALUES ('00000000-0000-8000-8000-000000000001');

CREATE TABLE gateway_usage_logs (
    id                  TEXT NOT NULL,
    client_id           TEXT NOT NULL,
    conversation_id     TEXT,
    phone               TEXT NOT NULL DEFAULT '',
    request_id          TEXT,
    model_registry_id   TEXT,
    provider            TEXT NOT NULL DEFAULT '',
    model_name          TEXT NOT NULL DEFAULT '',
    input_tokens        INTEGER NOT NULL DEFAULT 0,
    output_tokens       INTEGER NOT NULL DEFAULT 0,
    cached_tokens       INTEGER NOT NULL DEFAULT 0,
    total_tokens        INTEGER NOT NULL DEFAULT 0,
    latency_ms          INTEGER NOT NULL DEFAULT 0,
    was_cached          INTEGER NOT NULL DEFAULT 0,
    was_fallback        INTEGER NOT NULL DEFAULT 0,
    fallback_reason     TEXT,
    cost_usd            INTEGER, -- pico-dollars
    cost_brl            INTEGER, -- pico-reais
    usd_to_brl_rate     INTEGER, -- 1e-8
    metadata            TEXT NOT NULL DEFAULT '{}',
    error_details       TEXT,
    created_at          INTEGER NOT NULL,
    incarnation         INTEGER NOT NULL,
    seq                 INTEGER NOT NULL,
    key_id              TEXT,
    endpoint            TEXT NOT NULL DEFAULT '',
    route               TEXT NOT NULL DEFAULT '',
    streamed            INTEGER NOT NULL DEFAULT 0,
    model_requested     TEXT NOT NULL DEFAULT '',
    outcome             TEXT NOT NULL,
    status              INTEGER NOT NULL DEFAULT 0,
    usage_source        TEXT NOT NULL,
    cache_write_tokens  INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens    INTEGER NOT NULL DEFAULT 0,
    audio_input_tokens  INTEGER NOT NULL DEFAULT 0,
    audio_output_tokens INTEGER NOT NULL DEFAULT 0,
    audio_ms            INTEGER NOT NULL DEFAULT 0,
    images              INTEGER NOT NULL DEFAULT 0,
    characters          INTEGER NOT NULL DEFAULT 0,
    cost_source         TEXT,
    cost_usd_list       INTEGER,
    cost_usd_gateway    INTEGER,
    price_id            TEXT,
    rate_date           TEXT,
    rate_source         TEXT,
    ttft_ms             INTEGER NOT NULL DEFAULT 0,
    overhead_us         INTEGER NOT NULL DEFAULT 0,
    upstream_id         TEXT,
    upstream_request_id TEXT,
    finish_reason       TEXT,
    request_bytes       INTEGER NOT NULL DEFAULT 0,
    response_bytes      INTEGER NOT NULL DEFAULT 0,
    recorded_at         INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (client_id, created_at, incarnation, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_gateway_usage_logs_created_at ON gateway_usage_logs (created_at DESC, incarnation DESC, seq DESC);
CREATE INDEX gateway_usage_logs_upstream_id ON gateway_usage_logs (client_id, upstream_id) WHERE upstream_id IS NOT NULL;

CREATE TABLE usage_rollups (
    client_id           TEXT NOT NULL,
    hour                INTEGER NOT NULL,
    model_registry_id   TEXT NOT NULL,
    model_name          TEXT NOT NULL,
    provider            TEXT NOT NULL,
    route               TEXT NOT NULL,
    endpoint            TEXT NOT NULL,
    calls               INTEGER NOT NULL,
    errors              INTEGER NOT NULL,
    client_gone         INTEGER NOT NULL,
    streamed            INTEGER NOT NULL,
    estimated           INTEGER NOT NULL,
    unknown_cost        INTEGER NOT NULL,
    was_cached          INTEGER NOT NULL,
    was_fallback        INTEGER NOT NULL,
    input_tokens        INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    total_tokens        INTEGER NOT NULL,
    cached_tokens       INTEGER NOT NULL,
    cache_write_tokens  INTEGER NOT NULL,
    reasoning_tokens    INTEGER NOT NULL,
    audio_input_tokens  INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    audio_ms            INTEGER NOT NULL,
    images              INTEGER NOT NULL,
    characters          INTEGER NOT NULL,
    latency_ms          INTEGER NOT NULL,
    answered            INTEGER NOT NULL,
    ttft_ms             INTEGER NOT NULL,
    overhead_us         INTEGER NOT NULL,
    cost_usd            INTEGER NOT NULL, -- whole dollars
    cost_usd_pico       INTEGER NOT NULL CHECK (cost_usd_pico BETWEEN 0 AND 999999999999),
    cost_brl            INTEGER NOT NULL, -- whole reais
    cost_brl_pico       INTEGER NOT NULL CHECK (cost_brl_pico BETWEEN 0 AND 999999999999),
    PRIMARY KEY (client_id, hour, model_registry_id, model_name, provider, route, endpoint)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_rollups_hour ON usage_rollups (hour);

CREATE TABLE producers (
    incarnation INTEGER PRIMARY KEY,
    received    TEXT NOT NULL DEFAULT '[]', -- [[first,last],…], sorted and disjoint
    first_seen  INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    last_seen   INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;

CREATE TABLE dead_letters (
    incarnation  INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    digest       BLOB NOT NULL,
    raw          BLOB NOT NULL,
    reason       TEXT NOT NULL,
    client_id    TEXT,
    total_tokens INTEGER,
    cost_usd     INTEGER,
    cost_brl     INTEGER,
    created_at   INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (incarnation, seq, digest)
) STRICT;
CREATE INDEX dead_letters_created_at ON dead_letters (created_at DESC);

-- A change of models or prices is a global change in the feed. SQLite cannot tell one transaction's rows apart from
-- the next one's, so each row is a change; followers take them in one go.
-- +goose StatementBegin
CREATE TRIGGER ai_models_registry_came AFTER INSERT ON ai_models_registry BEGIN
    INSERT INTO config_changes (client_id) VALUES (NULL);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER ai_models_registry_changed AFTER UPDATE ON ai_models_registry BEGIN
    INSERT INTO config_changes (client_id) VALUES (NULL);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER ai_models_registry_went AFTER DELETE ON ai_models_registry BEGIN
    INSERT INTO config_changes (client_id) VALUES (NULL);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER model_prices_came AFTER INSERT ON model_prices BEGIN
    INSERT INTO config_changes (client_id) VALUES (NULL);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER model_prices_changed AFTER UPDATE ON model_prices BEGIN
    INSERT INTO config_changes (client_id) VALUES (NULL);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER model_prices_went AFTER DELETE ON model_prices BEGIN
    INSERT INTO config_changes (client_id) VALUES (NULL);
END;
-- +goose StatementEnd
