-- Roll-ups that know quantiles, the performance of the response cache, and corrections of what was only estimated.
--
-- Row-level security is on without policies, for the reason that 00001_tenancy.sql gives.

-- +goose Up

-- A correction is a row of its own: what a call truly used and cost, minus what its row says, with the identity
-- (incarnation, -seq), the outcome 'correction', and everything else as in the row that it corrects. Sums over the log
-- are so exact, and no row is ever edited.
ALTER TABLE gateway_usage_logs
    ADD COLUMN corrects          uuid, -- the id of the row; null: this is a call
    ADD COLUMN cost_became_known boolean NOT NULL DEFAULT false; -- that row's cost was unknown and no longer is

-- The histograms are as metering/histogram.go writes them. Roll-ups of hours before this step have none. What is added to
-- them is appended; once both are longer than histogram_room together, they are written anew.
ALTER TABLE usage_rollups
    ADD COLUMN latency_histogram bytea NOT NULL DEFAULT '',
    ADD COLUMN ttft_histogram    bytea NOT NULL DEFAULT '',
    ADD COLUMN histogram_room    bigint NOT NULL DEFAULT 512;
-- A roll-up is changed many times in its hour. With room in its page, no index has to be.
ALTER TABLE usage_rollups SET (fillfactor = 60);
COMMENT ON COLUMN usage_rollups.estimated IS 'calls whose usage was estimated and has not been corrected';
COMMENT ON COLUMN usage_rollups.unknown_cost IS 'calls whose cost is unknown and has not been corrected';

-- The plan's table, with percentages that cannot overflow, an hour that is never null, and the sums that the averages
-- are made of. Dates and hours are UTC. What a hit saved is what the price list would have charged for it.
CREATE TABLE gateway_cache_performance (
    id                      uuid    NOT NULL DEFAULT gen_random_uuid(),
    client_id               uuid    NOT NULL,
    date                    date    NOT NULL,
    hour                    integer NOT NULL CHECK (hour BETWEEN 0 AND 23),
    total_requests          bigint  GENERATED ALWAYS AS (cache_hits + cache_misses) STORED,
    cache_hits              bigint  NOT NULL DEFAULT 0,
    cache_misses            bigint  NOT NULL DEFAULT 0,
    cache_hit_rate          numeric(5, 2) GENERATED ALWAYS AS (
        CASE WHEN cache_hits + cache_misses > 0 THEN 100.0 * cache_hits / (cache_hits + cache_misses) ELSE 0 END) STORED,
    tokens_saved            bigint  NOT NULL DEFAULT 0,
    cost_saved_usd          numeric(38, 12) NOT NULL DEFAULT 0,
    cost_saved_brl          numeric(38, 12) NOT NULL DEFAULT 0,
    latency_cached_ms       bigint  NOT NULL DEFAULT 0, -- sums
    latency_uncached_ms     bigint  NOT NULL DEFAULT 0,
    avg_latency_cached_ms   bigint  GENERATED ALWAYS AS (round(latency_cached_ms::numeric / nullif(cache_hits, 0))) STORED,
    avg_latency_uncached_ms bigint  GENERATED ALWAYS AS (round(latency_uncached_ms::numeric / nullif(cache_misses, 0))) STORED,
    latency_improvement_pct numeric GENERATED ALWAYS AS (round(
        100 - 100.0 * latency_cached_ms * cache_misses / nullif(latency_uncached_ms::numeric * cache_hits, 0), 2)) STORED,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_id, date, hour)
) WITH (fillfactor = 60);
CREATE INDEX gateway_cache_performance_date ON gateway_cache_performance (date, hour);

-- No release before this one had a response cache, so all its calls are misses.
INSERT INTO gateway_cache_performance (client_id, date, hour, cache_misses, latency_uncached_ms)
SELECT client_id, (hour AT TIME ZONE 'UTC')::date, extract(hour FROM hour AT TIME ZONE 'UTC')::integer, sum(calls), sum(latency_ms)
FROM usage_rollups GROUP BY 1, 2, 3;

-- Estimates that the gateway can be asked about, by the key of their row in the log.
CREATE TABLE usage_estimates (
    client_id   uuid        NOT NULL,
    created_at  timestamptz NOT NULL,
    incarnation bigint      NOT NULL,
    seq         bigint      NOT NULL,
    upstream_id text        NOT NULL,
    tries       integer     NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL, -- whoever asks moves it on first, which keeps others off
    PRIMARY KEY (client_id, created_at, incarnation, seq)
);
CREATE INDEX usage_estimates_next_at ON usage_estimates (next_at);

ALTER TABLE gateway_cache_performance ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_estimates           ENABLE ROW LEVEL SECURITY;
