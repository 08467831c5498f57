package metering

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

var _ Auditor = (*SQLite)(nil)

// Audit compares what must be equal, in one snapshot. See Auditor.
func (s *SQLite) Audit(ctx context.Context, o AuditOptions) (AuditReport, error) {
	o = o.withDefaults()
	began := time.Now()
	var f auditFacts
	// A transaction of SQLite sees one state from its first read on, and never waits for the writer.
	tx, err := s.read.BeginTx(ctx, nil)
	if err != nil {
		return AuditReport{}, fmt.Errorf("audit: %w", err)
	}
	defer tx.Rollback()
	a := sqliteAudit{ctx: ctx, tx: tx, o: o, f: &f}
	if err := a.begin(); err != nil {
		return AuditReport{}, fmt.Errorf("audit: %w", err)
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
			return AuditReport{}, fmt.Errorf("audit: %s: %w", part.what, err)
		}
	}
	r := f.report(o)
	r.Took = time.Since(began)
	return r, nil
}

// sqliteAudit is an audit at work in its transaction.
type sqliteAudit struct {
	ctx            context.Context
	tx             *sql.Tx
	o              AuditOptions
	f              *auditFacts
	kept           time.Time // the log is complete from then on; zero: from its beginning on
	histogramsFrom int64     // when roll-ups began to have histograms; 0: always
	marks          map[int64]watermark
}

// watermark is what producers has of an incarnation.
type watermark struct {
	received  Ranges
	firstSeen time.Time
}

// each runs a query and calls f with each of its rows.
func (a *sqliteAudit) each(f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := a.tx.QueryContext(a.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (a *sqliteAudit) begin() error {
	err := a.tx.QueryRowContext(a.ctx, `SELECT (SELECT since FROM usage_log_kept), coalesce((
	SELECT max(unixepoch(tstamp)) FROM catraca_migrations WHERE version_id = 4
	HAVING max(unixepoch(tstamp)) > (SELECT max(unixepoch(tstamp)) + 60 FROM catraca_migrations WHERE version_id = 2)), 0)`).
		Scan(sqliteInstant{&a.kept}, &a.histogramsFrom)
	if err != nil {
		return err
	}
	if a.histogramsFrom > 0 {
		a.histogramsFrom = time.Unix(a.histogramsFrom, 0).Truncate(time.Hour).Add(time.Hour).UnixMicro()
	}
	a.f.at = time.Now().UTC().Truncate(time.Microsecond)
	a.f.from = a.o.window(a.f.at, a.kept)
	return nil
}

// from is the beginning of the window as SQLite has times.
func (a *sqliteAudit) from() int64 {
	if a.f.from.IsZero() {
		return 0
	}
	return a.f.from.UnixMicro()
}

// numbers reads the watermarks, and in full those that are not whole up to the last number given out.
func (a *sqliteAudit) numbers() error {
	a.marks = map[int64]watermark{}
	lastSeen := map[int64]time.Time{}
	err := a.each(func(rows *sql.Rows) error {
		var incarnation int64
		var m watermark
		var seen time.Time
		if err := rows.Scan(&incarnation, sqliteRanges{&m.received}, sqliteInstant{&m.firstSeen}, sqliteInstant{&seen}); err != nil {
			return err
		}
		a.marks[incarnation], lastSeen[incarnation] = m, seen
		return nil
	}, "SELECT incarnation, received, first_seen, last_seen FROM producers")
	if err != nil {
		return err
	}
	reported := map[int64]bool{}
	err = a.each(func(rows *sql.Rows) error {
		var incarnation, covered, issued int64
		var settled bool
		n := openIncarnation{reported: true}
		err := rows.Scan(&incarnation, &n.holder, sqliteInstant{&n.heard}, &covered, &issued, &n.live, &n.over, sqliteInstant{&n.goneAt},
			sqliteRanges{&n.open}, sqliteRanges{&n.waiting}, sqliteRanges{&n.lost}, &settled)
		if err != nil {
			return err
		}
		reported[incarnation] = true
		n.incarnation, n.covered = uint64(incarnation), uint64(covered)
		if !settled || a.o.Depth == AuditFull {
			a.judgeLater(n, a.marks[incarnation].received, uint64(issued))
		}
		return nil
	}, `SELECT i.incarnation, i.holder, max(i.reported_at, CASE WHEN h.started_at = i.holder_started THEN h.at ELSE 0 END), i.covered, i.issued,
	i.live, i.over, i.gone_at, i.open_calls, i.waiting, i.lost, i.settled_at IS NOT NULL
FROM incarnations i LEFT JOIN proxies h ON h.name = i.holder`)
	if err != nil {
		return err
	}
	for incarnation, m := range a.marks {
		if !reported[incarnation] {
			a.judgeLater(openIncarnation{incarnation: uint64(incarnation), heard: lastSeen[incarnation]}, m.received, 0)
		}
	}
	return nil
}

// judgeLater counts an incarnation and keeps it when there are numbers that the ledger lacks.
func (a *sqliteAudit) judgeLater(n openIncarnation, received Ranges, issued uint64) {
	a.f.incarnations++
	a.f.received += received.Count()
	if len(received) > 0 {
		issued = max(issued, received[len(received)-1][1])
	}
	if issued == 0 {
		return
	}
	if n.missing = (Ranges{{1, issued}}).minus(received); len(n.missing) > 0 {
		a.f.open = append(a.f.open, n)
	}
}

// rows compares the number and the sum of the sequence numbers that are there with those of the watermark, and where
// they differ the numbers themselves. Corrections have negative ones and are no calls.
func (a *sqliteAudit) rows() error {
	if a.o.Depth == AuditRecent {
		return nil
	}
	have := map[int64]watermarkSum{}
	dead := map[int64]uint64{}
	err := a.each(func(rows *sql.Rows) error {
		var incarnation int64
		var n uint64
		var high, low int64
		var letters bool
		if err := rows.Scan(&incarnation, &n, &high, &low, &letters); err != nil {
			return err
		}
		h := have[incarnation]
		h.count += n
		h.sum = h.sum.Add(decimal.NewFromInt(high).Mul(decimal.NewFromInt(1_000_000)).Add(decimal.NewFromInt(low)))
		have[incarnation] = h
		if letters {
			dead[incarnation] = n
		}
		return nil
	}, `SELECT incarnation, count(*), sum(seq / 1000000), sum(seq % 1000000), 0 FROM gateway_usage_logs WHERE seq > 0 GROUP BY 1
UNION ALL SELECT incarnation, count(*), sum(seq / 1000000), sum(seq % 1000000), 1
FROM (SELECT DISTINCT incarnation, seq FROM dead_letters WHERE seq > 0 AND state <> 'replayed') GROUP BY 1`)
	if err != nil {
		return err
	}
	f := &a.f.rows
	compare := func(incarnation int64, m watermark) error {
		want, got := sumOf(m.received), have[incarnation]
		partly := !a.kept.IsZero() && m.firstSeen.Before(a.kept.AddDate(0, 0, 7))
		if partly {
			f.partly++
		} else {
			f.watermark += want.count
			f.log += got.count - dead[incarnation]
			f.letters += dead[incarnation]
		}
		if want.count == got.count && want.sum.Equal(got.sum) || partly && got.count <= want.count {
			return nil
		}
		if f.wrongCount++; len(f.wrong) >= maxNamed {
			return nil
		}
		var there []uint64
		err := a.each(func(rows *sql.Rows) error {
			var seq uint64
			err := rows.Scan(&seq)
			there = append(there, seq)
			return err
		}, `SELECT seq FROM gateway_usage_logs WHERE seq > 0 AND incarnation = ?1
UNION ALL SELECT * FROM (SELECT DISTINCT seq FROM dead_letters WHERE seq > 0 AND state <> 'replayed' AND incarnation = ?1)`, incarnation)
		f.wrong = append(f.wrong, wrongRowsOf(uint64(incarnation), m.received, there))
		return err
	}
	for incarnation, m := range a.marks {
		if err := compare(incarnation, m); err != nil {
			return err
		}
	}
	for incarnation := range have {
		if _, known := a.marks[incarnation]; !known {
			if err := compare(incarnation, watermark{firstSeen: a.f.at}); err != nil {
				return err
			}
		}
	}
	return nil
}

const sqliteRollupKey = `strftime('%Y-%m-%dT%HZ', hour / 1000000, 'unixepoch') || ' tenant ' || client_id || ' ' || route || ' ' || provider || ' ' || model_name || ' ' || endpoint`

// sums adds up the log by the roll-ups' key and takes the roll-ups off: what is left is wrong. Money is in millionths and
// millionths of those, for a sum has 64 bits.
func (a *sqliteAudit) sums() error {
	var ofLog, columns, minus, left, differs, total []string
	for _, s := range rollupSums {
		ofLog = append(ofLog, s.of+" AS "+s.name)
		columns = append(columns, s.name)
		minus = append(minus, "-"+s.name)
		differs = append(differs, "sum("+s.name+") <> 0")
	}
	for _, m := range []string{"cost_usd", "cost_brl"} {
		ofLog = append(ofLog, "coalesce(sum("+m+" / 1000000), 0) AS "+m+"1", "coalesce(sum("+m+" % 1000000), 0) AS "+m+"2")
		columns = append(columns, m+"1", m+"2")
		minus = append(minus, "-("+m+" * 1000000 + "+m+"_pico / 1000000)", "-("+m+"_pico % 1000000)")
		differs = append(differs, "sum("+m+"1) * 1000000 + sum("+m+"2) <> 0")
	}
	for _, name := range columns {
		left = append(left, "sum("+name+") AS "+name)
		total = append(total, "coalesce(sum("+name+"), 0)")
	}
	names, all := strings.Join(columns, ", "), strings.Join(total, ", ")
	return a.each(func(rows *sql.Rows) error {
		var kind, count int
		var key string
		numbers := make([]int64, len(columns))
		dest := []any{&kind, &count, &key}
		for i := range numbers {
			dest = append(dest, &numbers[i])
		}
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		values := make([]decimal.Decimal, 0, len(sumNames()))
		for _, n := range numbers[:len(rollupSums)] {
			values = append(values, decimal.NewFromInt(n))
		}
		for parts := numbers[len(rollupSums):]; len(parts) > 0; parts = parts[2:] {
			values = append(values, decimal.New(parts[0], -6).Add(decimal.New(parts[1], -12)))
		}
		switch kind {
		case 0:
			a.f.sums.logKeys, a.f.sums.log = count, values
		case 1:
			for i := range values { // they were negated to be taken off
				values[i] = values[i].Neg()
			}
			a.f.sums.rollupKeys, a.f.sums.rollups = count, values
		default:
			a.f.sums.wrongCount = count
			a.f.sums.wrong = append(a.f.sums.wrong, wrongSum{key, values})
		}
		return nil
	}, `WITH l AS MATERIALIZED (
	SELECT client_id, created_at - created_at % 3600000000 AS hour, coalesce(model_registry_id, '`+uuid.Nil.String()+`') AS model_registry_id,
		model_name, provider, route, endpoint, `+strings.Join(ofLog, ", ")+`
	FROM gateway_usage_logs WHERE created_at >= ?1 GROUP BY 1, 2, 3, 4, 5, 6, 7
), r (`+rollupKeys+`, `+names+`) AS MATERIALIZED (SELECT `+rollupKeys+`, `+strings.Join(minus, ", ")+` FROM usage_rollups WHERE hour >= ?1
), d AS (
	SELECT `+rollupKeys+`, `+strings.Join(left, ", ")+` FROM (SELECT `+rollupKeys+`, `+names+` FROM l UNION ALL SELECT `+rollupKeys+`, `+names+` FROM r) u
	GROUP BY `+rollupKeys+` HAVING `+strings.Join(differs, " OR ")+`
)
SELECT 0, count(*), '', `+all+` FROM l UNION ALL SELECT 1, count(*), '', `+all+` FROM r
UNION ALL SELECT * FROM (SELECT 2, count(*) OVER (), `+sqliteRollupKey+`, `+names+` FROM d ORDER BY hour, client_id LIMIT `+fmt.Sprint(maxNamed)+`)`, a.from())
}

func (a *sqliteAudit) latencies() error {
	return a.each(func(rows *sql.Rows) error {
		var key string
		var calls, answered int64
		var latency, ttft []byte
		if err := rows.Scan(&key, &calls, &answered, &latency, &ttft); err != nil {
			return err
		}
		a.f.latencies.add(key, calls, answered, latency, ttft)
		return nil
	}, "SELECT "+sqliteRollupKey+", calls, answered, latency_histogram, ttft_histogram FROM usage_rollups WHERE hour >= ?",
		max(a.from(), a.histogramsFrom))
}

func (a *sqliteAudit) cache() error {
	return a.each(func(rows *sql.Rows) error {
		var n [7]int64
		var key string
		if err := rows.Scan(&n[0], &key, &n[1], &n[2], &n[3], &n[4], &n[5], &n[6]); err != nil {
			return err
		}
		a.f.cache.add(key, n)
		return nil
	}, `WITH d AS MATERIALIZED (
	SELECT client_id, hour, sum(calls) AS calls, sum(requests) AS requests, sum(hits) AS hits, sum(cached) AS cached, sum(ms) AS ms, sum(perf_ms) AS perf_ms FROM (
		SELECT client_id, hour, calls, 0 AS requests, 0 AS hits, was_cached AS cached, latency_ms AS ms, 0 AS perf_ms FROM usage_rollups WHERE hour >= ?1
		UNION ALL
		SELECT client_id, (unixepoch(date) + hour * 3600) * 1000000, 0, total_requests, cache_hits, 0, 0, latency_cached_ms + latency_uncached_ms
		FROM gateway_cache_performance WHERE (unixepoch(date) + hour * 3600) * 1000000 >= ?1) u
	GROUP BY 1, 2
)
SELECT -1, '', coalesce(sum(calls), 0), coalesce(sum(requests), 0), 0, 0, 0, 0 FROM d
UNION ALL SELECT * FROM (SELECT count(*) OVER (), strftime('%Y-%m-%dT%HZ', hour / 1000000, 'unixepoch') || ' tenant ' || client_id,
	calls, requests, cached, hits, ms, perf_ms FROM d WHERE calls <> requests OR hits <> cached OR ms <> perf_ms
	ORDER BY hour, client_id LIMIT `+fmt.Sprint(maxNamed)+`)`, a.from())
}

// costs compares each row's cost with the figure that its source names.
func (a *sqliteAudit) costs() error {
	err := a.each(func(rows *sql.Rows) error {
		var charged, said [3]int64
		if err := rows.Scan(&charged[0], &charged[1], &charged[2], &said[0], &said[1], &said[2]); err != nil {
			return err
		}
		a.f.costs.charged, a.f.costs.said = joinMoney(charged), joinMoney(said)
		return nil
	}, `SELECT `+inThree("cost_usd")+`, `+inThree("said")+` FROM `+costRows, a.from())
	if err != nil {
		return err
	}
	return a.each(func(rows *sql.Rows) error {
		var count, incarnation, seq int64
		var charged, said sql.NullInt64
		if err := rows.Scan(&count, &incarnation, &seq, &charged, &said); err != nil {
			return err
		}
		text := func(n sql.NullInt64) string {
			if !n.Valid {
				return "unknown"
			}
			return decimal.New(n.Int64, -12).String()
		}
		return a.f.costs.add(count, fmt.Sprintf("%016x/%d", uint64(incarnation), seq), text(charged), text(said))
	}, `SELECT count(*) OVER (), incarnation, seq, cost_usd, said FROM `+costRows+` WHERE cost_usd IS NOT said ORDER BY created_at LIMIT `+fmt.Sprint(maxNamed), a.from())
}

// inThree adds money up as joinMoney reads it.
func inThree(column string) string {
	return "coalesce(sum(" + column + " / 1000000000000), 0), coalesce(sum(" + column + " / 1000000 % 1000000), 0), coalesce(sum(" + column + " % 1000000), 0)"
}

func (a *sqliteAudit) totals() error {
	since := a.from()
	if !a.o.TotalsSince.IsZero() {
		since = a.o.TotalsSince.UnixMicro()
	}
	sums := ""
	for name := range strings.SplitSeq(amountColumns, ", ") {
		sums += ", coalesce(sum(" + name + "), 0)"
	}
	// An estimate that was corrected counts as measured, together with its correction.
	return a.each(func(rows *sql.Rows) error {
		var source string
		var m AuditAmount
		var usd, brl [3]int64
		if err := rows.Scan(&source, &m.Calls, &m.Input, &m.Output, &m.Total, &m.Cached, &m.CacheWrite, &m.Reasoning, &m.AudioMs, &m.Images,
			&m.Characters, &usd[0], &usd[1], &usd[2], &brl[0], &brl[1], &brl[2]); err != nil {
			return err
		}
		m.USD, m.BRL = joinMoney(usd), joinMoney(brl)
		*a.f.totals.of(source) = m
		return nil
	}, `SELECT CASE WHEN corrects IS NOT NULL OR usage_source = 'estimated' AND id IN (
		SELECT corrects FROM gateway_usage_logs WHERE created_at >= ?1 AND corrects IS NOT NULL) THEN 'measured' ELSE usage_source END,
	count(*) FILTER (WHERE corrects IS NULL)`+sums+`, `+inThree("cost_usd")+`, `+inThree("cost_brl")+`
FROM gateway_usage_logs WHERE created_at >= ?1 GROUP BY 1
UNION ALL SELECT 'dead', count(*), 0, 0, coalesce(sum(total_tokens), 0), 0, 0, 0, 0, 0, 0, `+inThree("cost_usd")+`, `+inThree("cost_brl")+`
FROM dead_letters WHERE state = 'open' AND seq > 0 AND created_at >= ?1`, since)
}
