package metering

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"
)

var _ Auditor = (*Postgres)(nil)

// Audit compares what must be equal, in one snapshot. See Auditor.
func (p *Postgres) Audit(ctx context.Context, o AuditOptions) (AuditReport, error) {
	o = o.withDefaults()
	began := time.Now()
	var f auditFacts
	err := pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		a := pgAudit{ctx: ctx, tx: tx, o: o, f: &f}
		if err := a.begin(); err != nil {
			return err
		}
		for _, part := range []struct {
			what string
			read func() error
		}{
			{"numbers", a.numbers},
			{"rows", a.rows},
			{"sums", a.sums},
			{"histograms", a.latencies},
			{"cache performance", a.cache},
			{"costs", a.costs},
			{"totals", a.totals},
		} {
			if err := part.read(); err != nil {
				return fmt.Errorf("%s: %w", part.what, err)
			}
		}
		return nil
	})
	if err != nil {
		return AuditReport{}, fmt.Errorf("audit: %w", err)
	}
	r := f.report(o)
	r.Took = time.Since(began)
	return r, nil
}

// pgAudit is an audit at work in its transaction.
type pgAudit struct {
	ctx  context.Context
	tx   pgx.Tx
	o    AuditOptions
	f    *auditFacts
	kept time.Time // the log is complete from then on; zero: from its beginning on
	// histogramsFrom is when roll-ups began to have histograms; zero: always.
	histogramsFrom time.Time
}

func (a *pgAudit) begin() error {
	var kept, upgraded *time.Time
	// Sums of whole hours are hashed and sorted; what is set here ends with the transaction.
	if _, err := a.tx.Exec(a.ctx, "SET LOCAL work_mem = '64MB'"); err != nil {
		return err
	}
	err := a.tx.QueryRow(a.ctx, `SELECT now(), (SELECT since FROM usage_log_kept), (
	SELECT max(tstamp)::timestamptz FROM catraca_migrations WHERE version_id = 4
	HAVING max(tstamp) > (SELECT max(tstamp) + interval '1 minute' FROM catraca_migrations WHERE version_id = 2))`).Scan(&a.f.at, &kept, &upgraded)
	if err != nil {
		return err
	}
	a.f.at = a.f.at.UTC()
	if kept != nil {
		a.kept = kept.UTC()
	}
	if upgraded != nil {
		// A day, because the table has a local time without its zone.
		a.histogramsFrom = upgraded.UTC().Truncate(time.Hour).Add(24 * time.Hour)
	}
	a.f.from = a.o.window(a.f.at, a.kept)
	return nil
}

// numbers reads the watermarks, and in full those that are not whole up to the last number given out.
func (a *pgAudit) numbers() error {
	settled := ""
	if a.o.Depth == AuditRecent {
		settled = "WHERE i.settled_at IS NULL"
	}
	// All of it is worked out once: there is a row for each incarnation there ever was.
	rows, err := a.tx.Query(a.ctx, `WITH x AS (
	SELECT incarnation, i.holder, coalesce(greatest(i.reported_at, CASE WHEN h.started_at = i.holder_started THEN h.at END), p.last_seen) AS heard,
		coalesce(i.covered, 0) AS covered, coalesce(i.live, false) AS live, coalesce(i.over, false) AS over, i.gone_at,
		i.open_calls, i.waiting, i.lost, coalesce(p.received, '{}') AS received,
		int8multirange(int8range(1, greatest(i.issued + 1, upper(p.received), 1))) - coalesce(p.received, '{}') AS missing
	FROM producers p FULL JOIN incarnations i USING (incarnation) LEFT JOIN proxies h ON h.name = i.holder `+settled+`
)
SELECT count(*), coalesce(sum((SELECT sum(upper(r) - lower(r)) FROM unnest(received) r)), 0)::int8, 0, '', now(), 0, false, false, NULL::timestamptz, '{}', '{}', '{}', '{}' FROM x
UNION ALL
SELECT -1, 0, incarnation, coalesce(holder, ''), heard, covered, live, over, gone_at,
	coalesce(open_calls, '{}')::text, coalesce(waiting, '{}')::text, coalesce(lost, '{}')::text, missing::text
FROM x WHERE missing <> '{}'`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var count int
		var received, incarnation, covered int64
		var n openIncarnation
		var gone *time.Time
		err := rows.Scan(&count, &received, &incarnation, &n.holder, &n.heard, &covered, &n.live, &n.over, &gone,
			(*pgRanges)(&n.open), (*pgRanges)(&n.waiting), (*pgRanges)(&n.lost), (*pgRanges)(&n.missing))
		if err != nil {
			return err
		}
		if count >= 0 {
			a.f.incarnations, a.f.received = count, uint64(received)
			continue
		}
		n.incarnation, n.covered, n.reported, n.heard = uint64(incarnation), uint64(covered), n.holder != "", n.heard.UTC()
		if gone != nil {
			n.goneAt = *gone
		}
		a.f.open = append(a.f.open, n)
	}
	return rows.Err()
}

// rows compares the number and the sum of the sequence numbers that are there with those of the watermark, and where
// they differ the numbers themselves. Corrections have negative ones and are no calls.
func (a *pgAudit) rows() error {
	if a.o.Depth == AuditRecent {
		return nil
	}
	// An incarnation that was seen a week after what is left of the log begins has all its rows there.
	whole := time.Time{}
	if !a.kept.IsZero() {
		whole = a.kept.AddDate(0, 0, 7)
	}
	rows, err := a.tx.Query(a.ctx, `WITH have AS (
	SELECT incarnation, sum(n) AS n, sum(s) AS s, sum(n) FILTER (WHERE dead) AS dead FROM (
		SELECT incarnation, count(*) AS n, sum(seq) AS s, false AS dead FROM gateway_usage_logs WHERE seq > 0 GROUP BY 1
		UNION ALL SELECT incarnation, count(DISTINCT seq), sum(DISTINCT seq), true FROM dead_letters WHERE seq > 0 AND state <> 'replayed' GROUP BY 1
	) h GROUP BY 1
), want AS (
	SELECT incarnation, first_seen, (SELECT sum(upper(r) - lower(r)) FROM unnest(received) r) AS n,
		(SELECT sum((lower(r)::numeric + upper(r) - 1) * (upper(r) - lower(r)) / 2) FROM unnest(received) r) AS s FROM producers
), x AS (
	SELECT incarnation, coalesce(w.n, 0) AS want, coalesce(h.n, 0) AS have, coalesce(h.dead, 0) AS dead, coalesce(w.first_seen < $1, false) AS partly,
		coalesce(w.n, 0) <> coalesce(h.n, 0) OR coalesce(w.s, 0) <> coalesce(h.s, 0) AS differs
	FROM want w FULL JOIN have h USING (incarnation)
)
SELECT 0, coalesce(sum(want) FILTER (WHERE NOT partly), 0)::int8, coalesce(sum(have - dead) FILTER (WHERE NOT partly), 0)::int8,
	coalesce(sum(dead) FILTER (WHERE NOT partly), 0)::int8,
	count(*) FILTER (WHERE partly), count(*) FILTER (WHERE differs AND (NOT partly OR have > want)) FROM x
UNION ALL (SELECT incarnation, 0, 0, 0, 0, -1 FROM x WHERE differs AND (NOT partly OR have > want) ORDER BY incarnation LIMIT `+fmt.Sprint(maxNamed)+`)`, whole)
	if err != nil {
		return err
	}
	var wrong []int64
	for rows.Next() {
		var incarnation, watermark, log, letters int64
		var partly, count int
		if err := rows.Scan(&incarnation, &watermark, &log, &letters, &partly, &count); err != nil {
			rows.Close()
			return err
		}
		if count < 0 {
			wrong = append(wrong, incarnation)
			continue
		}
		a.f.rows = rowFacts{watermark: uint64(watermark), log: uint64(log), letters: uint64(letters), partly: partly, wrongCount: count}
	}
	if err := rows.Err(); err != nil || len(wrong) == 0 {
		return err
	}
	return a.wrongRows(wrong)
}

func (a *pgAudit) wrongRows(incarnations []int64) error {
	rows, err := a.tx.Query(a.ctx, `SELECT incarnation, coalesce((SELECT received::text FROM producers p WHERE p.incarnation = x.incarnation), '{}'), array_agg(seq)
FROM (SELECT incarnation, seq FROM gateway_usage_logs WHERE seq > 0 AND incarnation = ANY($1)
	UNION ALL SELECT DISTINCT incarnation, seq FROM dead_letters WHERE seq > 0 AND state <> 'replayed' AND incarnation = ANY($1)
	UNION ALL SELECT unnest($1), 0) x GROUP BY 1 ORDER BY 1`, incarnations)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var incarnation int64
		var watermark Ranges
		var there []uint64
		if err := rows.Scan(&incarnation, (*pgRanges)(&watermark), &there); err != nil {
			return err
		}
		var real []uint64
		for _, seq := range there { // without the 0 that stands for an incarnation with no rows
			if seq > 0 {
				real = append(real, seq)
			}
		}
		a.f.rows.wrong = append(a.f.rows.wrong, wrongRowsOf(uint64(incarnation), watermark, real))
	}
	return rows.Err()
}

// pgRollupKey is the roll-ups' key as a reader can find it again.
const pgRollupKey = `concat_ws(' ', to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24"Z"'), 'tenant', client_id, route, provider, model_name, endpoint)`

// sums adds up the log by the roll-ups' key and takes the roll-ups off: what is left is wrong.
func (a *pgAudit) sums() error {
	var ofLog, ofRollups, minus, left, differs, total []string
	for _, s := range rollupSums {
		ofLog = append(ofLog, "("+s.of+")::numeric AS "+s.name)
	}
	ofLog = append(ofLog, "coalesce(sum(cost_usd), 0) AS cost_usd", "coalesce(sum(cost_brl), 0) AS cost_brl")
	for _, name := range sumNames() {
		ofRollups = append(ofRollups, name+"::numeric AS "+name)
		minus = append(minus, "-"+name)
		left = append(left, "sum("+name+") AS "+name)
		differs = append(differs, "sum("+name+") <> 0")
		total = append(total, "coalesce(sum("+name+"), 0)")
	}
	names, all := strings.Join(sumNames(), ", "), "ARRAY["+strings.Join(total, ", ")+"]::text[]"
	rows, err := a.tx.Query(a.ctx, `WITH l AS MATERIALIZED (
	SELECT client_id, date_trunc('hour', created_at, 'UTC') AS hour,
		coalesce(model_registry_id, '00000000-0000-0000-0000-000000000000') AS model_registry_id, model_name, provider, route, endpoint, `+
		strings.Join(ofLog, ", ")+` FROM gateway_usage_logs WHERE created_at >= $1 GROUP BY 1, 2, 3, 4, 5, 6, 7
), r AS MATERIALIZED (
	SELECT `+rollupKeys+`, `+strings.Join(ofRollups, ", ")+` FROM usage_rollups WHERE hour >= $1
), d AS (
	SELECT `+rollupKeys+`, `+strings.Join(left, ", ")+` FROM (
		SELECT `+rollupKeys+`, `+names+` FROM l UNION ALL SELECT `+rollupKeys+`, `+strings.Join(minus, ", ")+` FROM r) u
	GROUP BY `+rollupKeys+` HAVING `+strings.Join(differs, " OR ")+`
)
SELECT 0, count(*), '', `+all+` FROM l UNION ALL SELECT 1, count(*), '', `+all+` FROM r
UNION ALL (SELECT 2, count(*) OVER (), `+pgRollupKey+`, ARRAY[`+names+`]::text[] FROM d ORDER BY hour, client_id LIMIT `+fmt.Sprint(maxNamed)+`)`, a.f.from)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var kind, count int
		var key string
		var texts []string
		if err := rows.Scan(&kind, &count, &key, &texts); err != nil {
			return err
		}
		values := make([]decimal.Decimal, len(texts))
		for i, t := range texts {
			if values[i], err = decimal.NewFromString(t); err != nil {
				return err
			}
		}
		switch kind {
		case 0:
			a.f.sums.logKeys, a.f.sums.log = count, values
		case 1:
			a.f.sums.rollupKeys, a.f.sums.rollups = count, values
		default:
			a.f.sums.wrongCount = count
			a.f.sums.wrong = append(a.f.sums.wrong, wrongSum{key, values})
		}
	}
	return rows.Err()
}

func (a *pgAudit) latencies() error {
	from := a.f.from
	if from.Before(a.histogramsFrom) {
		from = a.histogramsFrom
	}
	rows, err := a.tx.Query(a.ctx, "SELECT "+pgRollupKey+", calls, answered, latency_histogram, ttft_histogram FROM usage_rollups WHERE hour >= $1", from)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		var calls, answered int64
		var latency, ttft []byte
		if err := rows.Scan(&key, &calls, &answered, &latency, &ttft); err != nil {
			return err
		}
		a.f.latencies.add(key, calls, answered, latency, ttft)
	}
	return rows.Err()
}

func (a *pgAudit) cache() error {
	rows, err := a.tx.Query(a.ctx, `WITH d AS (
	SELECT client_id, hour, sum(calls) AS calls, sum(requests) AS requests, sum(hits) AS hits, sum(cached) AS cached, sum(ms) AS ms, sum(perf_ms) AS perf_ms FROM (
		SELECT client_id, hour, calls, 0 AS requests, 0 AS hits, was_cached AS cached, latency_ms AS ms, 0 AS perf_ms FROM usage_rollups WHERE hour >= $1
		UNION ALL
		SELECT client_id, (date + make_interval(hours => hour)) AT TIME ZONE 'UTC', 0, total_requests, cache_hits, 0, 0, latency_cached_ms + latency_uncached_ms
		FROM gateway_cache_performance WHERE (date + make_interval(hours => hour)) AT TIME ZONE 'UTC' >= $1) u
	GROUP BY 1, 2
), bad AS (SELECT * FROM d WHERE calls <> requests OR hits <> cached OR ms <> perf_ms)
SELECT -1::int8, '', coalesce(sum(calls), 0)::int8, coalesce(sum(requests), 0)::int8, 0::int8, 0::int8, 0::int8, 0::int8 FROM d
UNION ALL (SELECT count(*) OVER (), concat_ws(' ', to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24"Z"'), 'tenant', client_id),
	calls::int8, requests::int8, cached::int8, hits::int8, ms::int8, perf_ms::int8
	FROM bad ORDER BY hour, client_id LIMIT `+fmt.Sprint(maxNamed)+`)`, a.f.from)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var n [7]int64
		var key string
		if err := rows.Scan(&n[0], &key, &n[1], &n[2], &n[3], &n[4], &n[5], &n[6]); err != nil {
			return err
		}
		a.f.cache.add(key, n)
	}
	return rows.Err()
}

// costs compares each row's cost with the figure that its source names.
func (a *pgAudit) costs() error {
	rows, err := a.tx.Query(a.ctx, `SELECT -1::int8, '', coalesce(sum(cost_usd), 0)::text, coalesce(sum(said), 0)::text FROM `+costRows+`
UNION ALL (SELECT count(*) OVER (), lpad(to_hex(incarnation), 16, '0') || '/' || seq, coalesce(cost_usd::text, 'unknown'), coalesce(said::text, 'unknown')
	FROM `+costRows+` WHERE cost_usd IS DISTINCT FROM said ORDER BY created_at LIMIT `+fmt.Sprint(maxNamed)+`)`, a.f.from)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var count int64
		var key, charged, said string
		if err := rows.Scan(&count, &key, &charged, &said); err != nil {
			return err
		}
		if err := a.f.costs.add(count, key, charged, said); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (a *pgAudit) totals() error {
	since := a.o.TotalsSince
	if since.IsZero() {
		since = a.f.from
	}
	sums := ""
	for name := range strings.SplitSeq(amountColumns, ", ") {
		sums += ", coalesce(sum(" + name + "), 0)::int8"
	}
	// An estimate that was corrected counts as measured, together with its correction.
	rows, err := a.tx.Query(a.ctx, `WITH fixed AS MATERIALIZED (SELECT corrects AS id FROM gateway_usage_logs WHERE created_at >= $1 AND corrects IS NOT NULL)
SELECT CASE WHEN corrects IS NOT NULL OR usage_source = 'estimated' AND id IN (SELECT id FROM fixed) THEN 'measured' ELSE usage_source END,
	count(*) FILTER (WHERE corrects IS NULL)`+sums+`, coalesce(sum(cost_usd), 0)::text, coalesce(sum(cost_brl), 0)::text
FROM gateway_usage_logs WHERE created_at >= $1 GROUP BY 1
UNION ALL SELECT 'dead', count(*), 0, 0, coalesce(sum(total_tokens), 0)::int8, 0, 0, 0, 0, 0, 0, coalesce(sum(cost_usd), 0)::text, coalesce(sum(cost_brl), 0)::text
FROM dead_letters WHERE state = 'open' AND seq > 0 AND created_at >= $1`, since)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var source string
		var m AuditAmount
		if err := rows.Scan(&source, &m.Calls, &m.Input, &m.Output, &m.Total, &m.Cached, &m.CacheWrite, &m.Reasoning, &m.AudioMs, &m.Images,
			&m.Characters, textDecimal{&m.USD}, textDecimal{&m.BRL}); err != nil {
			return err
		}
		*a.f.totals.of(source) = m
	}
	return rows.Err()
}
