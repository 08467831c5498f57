package metering

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// rollupSQL adds to roll-ups, in the order in which they are given, and gives those whose histograms have become long.
// Its arguments are rollupKeys, the counters, the parts of the two amounts, and the two histograms.
func rollupSQL() string {
	types := []string{"uuid", "timestamptz", "uuid", "text", "text", "text", "text"}
	var names, added []string
	for _, s := range rollupSums {
		types = append(types, "int8")
		names = append(names, s.name)
		added = append(added, s.name+" = u."+s.name+" + excluded."+s.name)
	}
	types = append(types, "int8", "int8", "int8", "int8", "bytea", "bytea")
	for i, t := range types {
		types[i] = "$" + strconv.Itoa(i+1) + "::" + t + "[]"
	}
	columns := rollupKeys + ", " + strings.Join(names, ", ")
	return `WITH changed AS (
	INSERT INTO usage_rollups AS u (` + columns + `, cost_usd, cost_brl, latency_histogram, ttft_histogram)
	SELECT ` + columns + `, usd + usd_pico * 0.000000000001, brl + brl_pico * 0.000000000001, latency, ttft
	FROM unnest(` + strings.Join(types, ", ") + `) AS x (` + columns + `, usd, usd_pico, brl, brl_pico, latency, ttft)
	ON CONFLICT (` + rollupKeys + `) DO UPDATE SET
		` + strings.Join(added, ", ") + `,
		cost_usd = u.cost_usd + excluded.cost_usd, cost_brl = u.cost_brl + excluded.cost_brl,
		latency_histogram = u.latency_histogram || excluded.latency_histogram,
		ttft_histogram = u.ttft_histogram || excluded.ttft_histogram
	RETURNING ` + rollupKeys + `, latency_histogram, ttft_histogram, histogram_room
)
SELECT ` + rollupKeys + `, latency_histogram, ttft_histogram FROM changed
WHERE octet_length(latency_histogram) + octet_length(ttft_histogram) > histogram_room`
}

const shortenSQL = `UPDATE usage_rollups SET latency_histogram = $8, ttft_histogram = $9, histogram_room = $10
WHERE client_id = $1 AND hour = $2 AND model_registry_id = $3 AND model_name = $4 AND provider = $5 AND route = $6 AND endpoint = $7`

const cacheSQL = `INSERT INTO gateway_cache_performance AS c
	(client_id, date, hour, cache_hits, cache_misses, tokens_saved, cost_saved_usd, cost_saved_brl, latency_cached_ms, latency_uncached_ms)
SELECT client_id, date, hour, hits, misses, tokens, usd + usd_pico * 0.000000000001, brl + brl_pico * 0.000000000001, hit_ms, miss_ms
FROM unnest($1::uuid[], $2::date[], $3::int4[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::int8[])
	AS x (client_id, date, hour, hits, misses, tokens, usd, usd_pico, brl, brl_pico, hit_ms, miss_ms)
ON CONFLICT (client_id, date, hour) DO UPDATE SET
	cache_hits = c.cache_hits + excluded.cache_hits, cache_misses = c.cache_misses + excluded.cache_misses,
	tokens_saved = c.tokens_saved + excluded.tokens_saved,
	cost_saved_usd = c.cost_saved_usd + excluded.cost_saved_usd, cost_saved_brl = c.cost_saved_brl + excluded.cost_saved_brl,
	latency_cached_ms = c.latency_cached_ms + excluded.latency_cached_ms,
	latency_uncached_ms = c.latency_uncached_ms + excluded.latency_uncached_ms, updated_at = now()`

const lookUpSQL = `INSERT INTO usage_estimates (client_id, created_at, incarnation, seq, upstream_id, next_at)
SELECT *, $6::timestamptz FROM unnest($1::uuid[], $2::timestamptz[], $3::int8[], $4::int8[], $5::text[])
ON CONFLICT DO NOTHING`

// change writes what fresh rows change beside the log.
func (p *Postgres) change(ctx context.Context, tx pgx.Tx, c *changes) error {
	if len(c.rollups) == 0 {
		return nil
	}
	var batch, shortening pgx.Batch
	batch.Queue(p.rollup, rollupArrays(c.rollups)...).Query(func(rows pgx.Rows) error { return queueShortening(&shortening, rows) })
	if len(c.caches) > 0 {
		batch.Queue(cacheSQL, cacheArrays(c.caches)...)
	}
	if len(c.lookUps) > 0 {
		batch.Queue(lookUpSQL, append(lookUpArrays(c.lookUps), time.Now().Add(lookUpAfter))...)
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	if shortening.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &shortening).Close()
}

// queueShortening reads roll-ups whose histograms have become long, and writes them shorter.
func queueShortening(batch *pgx.Batch, rows pgx.Rows) error {
	for rows.Next() {
		var k rollupKey
		var hour time.Time
		var latency, ttft []byte
		if err := rows.Scan(&k.client, &hour, &k.model, &k.name, &k.provider, &k.route, &k.endpoint, &latency, &ttft); err != nil {
			return err
		}
		latency, ttft, room, err := shorten(latency, ttft)
		if err != nil {
			return err
		}
		batch.Queue(shortenSQL, k.client, hour, k.model, k.name, k.provider, k.route, k.endpoint, latency, ttft, room)
	}
	return rows.Err()
}

// column is one column of all changes, as an array that pgx encodes without reflection.
func column[From, To any](all []From, value func(*From) To) pgtype.FlatArray[To] {
	array := make(pgtype.FlatArray[To], len(all))
	for i := range all {
		array[i] = value(&all[i])
	}
	return array
}

func rollupArrays(all []rollupChange) []any {
	args := []any{
		column(all, func(c *rollupChange) pgtype.UUID { return pgtype.UUID{Bytes: c.client, Valid: true} }),
		column(all, func(c *rollupChange) pgtype.Timestamptz { return pgMicros(c.hour) }),
		column(all, func(c *rollupChange) pgtype.UUID { return pgtype.UUID{Bytes: c.model, Valid: true} }),
		column(all, func(c *rollupChange) string { return c.name }),
		column(all, func(c *rollupChange) string { return c.provider }),
		column(all, func(c *rollupChange) string { return c.route }),
		column(all, func(c *rollupChange) string { return c.endpoint }),
	}
	for i := range rollupSums {
		args = append(args, column(all, func(c *rollupChange) int64 { return *c.counts.counters()[i] }))
	}
	return append(args,
		column(all, func(c *rollupChange) int64 { return c.usd.whole }),
		column(all, func(c *rollupChange) int64 { return c.usd.pico }),
		column(all, func(c *rollupChange) int64 { return c.brl.whole }),
		column(all, func(c *rollupChange) int64 { return c.brl.pico }),
		column(all, func(c *rollupChange) []byte { return c.latency.Append([]byte{}) }),
		column(all, func(c *rollupChange) []byte { return c.ttft.Append([]byte{}) }),
	)
}

func cacheArrays(all []cacheChange) []any {
	return []any{
		column(all, func(c *cacheChange) pgtype.UUID { return pgtype.UUID{Bytes: c.client, Valid: true} }),
		column(all, func(c *cacheChange) pgtype.Date { return pgtype.Date{Time: time.UnixMicro(c.hour).UTC(), Valid: true} }),
		column(all, func(c *cacheChange) int32 { return int32(time.UnixMicro(c.hour).UTC().Hour()) }),
		column(all, func(c *cacheChange) int64 { return c.hits }),
		column(all, func(c *cacheChange) int64 { return c.misses }),
		column(all, func(c *cacheChange) int64 { return c.tokensSaved }),
		column(all, func(c *cacheChange) int64 { return c.savedUSD.whole }),
		column(all, func(c *cacheChange) int64 { return c.savedUSD.pico }),
		column(all, func(c *cacheChange) int64 { return c.savedBRL.whole }),
		column(all, func(c *cacheChange) int64 { return c.savedBRL.pico }),
		column(all, func(c *cacheChange) int64 { return c.hitMs }),
		column(all, func(c *cacheChange) int64 { return c.missMs }),
	}
}

func lookUpArrays(all []*logRow) []any {
	return []any{
		column(all, func(r **logRow) pgtype.UUID { return pgtype.UUID{Bytes: (*r).ClientID, Valid: true} }),
		column(all, func(r **logRow) pgtype.Timestamptz { return pgMicros((*r).AdmittedAt.UnixMicro()) }),
		column(all, func(r **logRow) int64 { return (*r).incarnation }),
		column(all, func(r **logRow) int64 { return (*r).seq }),
		column(all, func(r **logRow) string { return (*r).UpstreamID }),
	}
}

func pgMicros(at int64) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: time.UnixMicro(at).UTC(), Valid: true}
}
