-- Roll-ups that know quantiles, the performance of the response cache, and corrections; as in
-- postgres/00004_rollups.sql, which says why. Money is kept as 00002_metering.sql keeps it.

-- +goose Up
ALTER TABLE gateway_usage_logs ADD COLUMN corrects TEXT;
ALTER TABLE gateway_usage_logs ADD COLUMN cost_became_known INTEGER NOT NULL DEFAULT 0;

ALTER TABLE usage_rollups ADD COLUMN latency_histogram BLOB NOT NULL DEFAULT x'';
ALTER TABLE usage_rollups ADD COLUMN ttft_histogram BLOB NOT NULL DEFAULT x'';
ALTER TABLE usage_rollups ADD COLUMN histogram_room INTEGER NOT NULL DEFAULT 512;

CREATE TABLE gateway_cache_performance (
    id                      TEXT    NOT NULL DEFAULT (lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
    client_id               TEXT    NOT NULL,
    date                    TEXT    NOT NULL, -- 2026-11-22
    hour                    INTEGER NOT NULL CHECK (hour BETWEEN 0 AND 23),
    total_requests          INTEGER GENERATED ALWAYS AS (cache_hits + cache_misses),
    cache_hits              INTEGER NOT NULL DEFAULT 0,
    cache_misses            INTEGER NOT NULL DEFAULT 0,
    cache_hit_rate          REAL    GENERATED ALWAYS AS (
        CASE WHEN cache_hits + cache_misses > 0 THEN round(100.0 * cache_hits / (cache_hits + cache_misses), 2) ELSE 0.0 END),
    tokens_saved            INTEGER NOT NULL DEFAULT 0,
    cost_saved_usd          INTEGER NOT NULL DEFAULT 0, -- whole dollars
    cost_saved_usd_pico     INTEGER NOT NULL DEFAULT 0 CHECK (cost_saved_usd_pico BETWEEN 0 AND 999999999999),
    cost_saved_brl          INTEGER NOT NULL DEFAULT 0, -- whole reais
    cost_saved_brl_pico     INTEGER NOT NULL DEFAULT 0 CHECK (cost_saved_brl_pico BETWEEN 0 AND 999999999999),
    latency_cached_ms       INTEGER NOT NULL DEFAULT 0, -- sums
    latency_uncached_ms     INTEGER NOT NULL DEFAULT 0,
    avg_latency_cached_ms   INTEGER GENERATED ALWAYS AS (CAST(round(1.0 * latency_cached_ms / nullif(cache_hits, 0)) AS INTEGER)),
    avg_latency_uncached_ms INTEGER GENERATED ALWAYS AS (CAST(round(1.0 * latency_uncached_ms / nullif(cache_misses, 0)) AS INTEGER)),
    latency_improvement_pct REAL    GENERATED ALWAYS AS (round(
        100 - 100.0 * latency_cached_ms * cache_misses / nullif(1.0 * latency_uncached_ms * cache_hits, 0), 2)),
    created_at              INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    updated_at              INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    PRIMARY KEY (client_id, date, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX gateway_cache_performance_date ON gateway_cache_performance (date, hour);

INSERT INTO gateway_cache_performance (client_id, date, hour, cache_misses, latency_uncached_ms)
SELECT client_id, date(hour / 1000000, 'unixepoch'), hour / 3600000000 % 24, sum(calls), sum(latency_ms)
FROM usage_rollups GROUP BY 1, 2, 3;

CREATE TABLE usage_estimates (
    client_id   TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    upstream_id TEXT    NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER NOT NULL,
    PRIMARY KEY (client_id, created_at, incarnation, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_estimates_next_at ON usage_estimates (next_at);
