package metering

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// sqliteRollupSQL adds to one roll-up, and gives its histograms where they have become long.
func sqliteRollupSQL() string {
	const tooLong = "CASE WHEN length(latency_histogram) + length(ttft_histogram) > histogram_room THEN "
	var names, added []string
	for _, s := range rollupSums {
		names = append(names, s.name)
		added = append(added, s.name+" = u."+s.name+" + excluded."+s.name)
	}
	return `INSERT INTO usage_rollups AS u (` + rollupKeys + `, ` + strings.Join(names, ", ") + `,
	cost_usd, cost_usd_pico, cost_brl, cost_brl_pico, latency_histogram, ttft_histogram)
VALUES (` + sqliteMarks(7+len(names)+6) + `) ON CONFLICT DO UPDATE SET ` + strings.Join(added, ", ") + `,
	` + sqliteAdded("u", "cost_usd") + `, ` + sqliteAdded("u", "cost_brl") + `,
	latency_histogram = CAST(u.latency_histogram || excluded.latency_histogram AS BLOB),
	ttft_histogram = CAST(u.ttft_histogram || excluded.ttft_histogram AS BLOB)
RETURNING ` + tooLong + `latency_histogram END, ` + tooLong + `ttft_histogram END`
}

// sqliteAdded adds amounts that are kept as whole units and a rest from 0 to below one.
func sqliteAdded(table, column string) string {
	sum := "(" + table + "." + column + "_pico + excluded." + column + "_pico)"
	return column + " = " + table + "." + column + " + excluded." + column + " + " + sum + " / 1000000000000, " +
		column + "_pico = " + sum + " % 1000000000000"
}

const sqliteShortenSQL = `UPDATE usage_rollups SET latency_histogram = ?, ttft_histogram = ?, histogram_room = ?
WHERE client_id = ? AND hour = ? AND model_registry_id = ? AND model_name = ? AND provider = ? AND route = ? AND endpoint = ?`

func sqliteCacheSQL() string {
	const columns = "cache_hits, cache_misses, tokens_saved, latency_cached_ms, latency_uncached_ms"
	var added []string
	for name := range strings.SplitSeq(columns, ", ") {
		added = append(added, name+" = c."+name+" + excluded."+name)
	}
	return `INSERT INTO gateway_cache_performance AS c
	(client_id, date, hour, ` + columns + `, cost_saved_usd, cost_saved_usd_pico, cost_saved_brl, cost_saved_brl_pico)
VALUES (` + sqliteMarks(12) + `) ON CONFLICT DO UPDATE SET ` + strings.Join(added, ", ") + `,
	` + sqliteAdded("c", "cost_saved_usd") + `, ` + sqliteAdded("c", "cost_saved_brl") + `,
	updated_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER)`
}

// change writes what fresh rows change beside the log.
func (s *SQLite) change(ctx context.Context, tx *sql.Tx, c *changes) error {
	if err := s.addToRollups(ctx, tx, c.rollups); err != nil {
		return err
	}
	err := sqliteEach(ctx, tx, sqliteCacheSQL(), c.caches, func(c *cacheChange) []any {
		at := time.UnixMicro(c.hour).UTC()
		return []any{
			c.client.String(), at.Format(time.DateOnly), at.Hour(), c.hits, c.misses, c.tokensSaved, c.hitMs, c.missMs,
			c.savedUSD.whole, c.savedUSD.pico, c.savedBRL.whole, c.savedBRL.pico,
		}
	})
	if err != nil {
		return err
	}
	next := time.Now().Add(lookUpAfter).UnixMicro()
	return sqliteEach(ctx, tx, `INSERT INTO usage_estimates (client_id, created_at, incarnation, seq, upstream_id, next_at)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, c.lookUps, func(r **logRow) []any {
		return []any{(*r).ClientID.String(), (*r).AdmittedAt.UnixMicro(), (*r).incarnation, (*r).seq, (*r).UpstreamID, next}
	})
}

// sqliteEach runs a statement for each of a list.
func sqliteEach[T any](ctx context.Context, tx *sql.Tx, query string, all []T, args func(*T) []any) error {
	if len(all) == 0 {
		return nil
	}
	stmt, err := tx.PrepareContext(ctx, query)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for i := range all {
		if _, err := stmt.ExecContext(ctx, args(&all[i])...); err != nil {
			return err
		}
	}
	return nil
}

func (s *SQLite) addToRollups(ctx context.Context, tx *sql.Tx, all []rollupChange) error {
	if len(all) == 0 {
		return nil
	}
	stmt, err := tx.PrepareContext(ctx, s.rollup)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for i := range all {
		c := &all[i]
		key := []any{c.client.String(), c.hour, c.model.String(), c.name, c.provider, c.route, c.endpoint}
		args := append(make([]any, 0, 7+counterCount+6), key...)
		for _, n := range c.counts.counters() {
			args = append(args, *n)
		}
		args = append(args, c.usd.whole, c.usd.pico, c.brl.whole, c.brl.pico, c.latency.Append([]byte{}), c.ttft.Append([]byte{}))
		var latency, ttft []byte
		if err := stmt.QueryRowContext(ctx, args...).Scan(&latency, &ttft); err != nil {
			return err
		}
		if latency == nil && ttft == nil {
			continue
		}
		latency, ttft, room, err := shorten(latency, ttft)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqliteShortenSQL, append([]any{latency, ttft, room}, key...)...); err != nil {
			return err
		}
	}
	return nil
}
