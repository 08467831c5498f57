package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/migrations"
)

// ledgerStore is a store whose estimates can be corrected.
type ledgerStore interface {
	store
	Corrections
}

func onLedgers(t *testing.T, test func(t *testing.T, s ledgerStore)) {
	onStores(t, func(t *testing.T, s store) { test(t, s.(ledgerStore)) })
}

// ledgerValue asks a store for one value, in SQL that both understand.
func ledgerValue[T any](t *testing.T, s store, query string) (v T) {
	t.Helper()
	var err error
	switch s := s.(type) {
	case *Postgres:
		err = s.pool.QueryRow(t.Context(), query).Scan(&v)
	case *SQLite:
		err = s.read.QueryRowContext(t.Context(), query).Scan(&v)
	}
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// allSides are ways to ask for sums.
var allSides = [][]Dimension{
	nil,
	{ByHour},
	{ByDay},
	{ByMonth},
	{ByClient},
	{ByModel},
	{ByProvider},
	{ByRoute},
	{ByEndpoint},
	{ByHour, ByClient, ByModel, ByProvider, ByRoute, ByEndpoint},
}

// mustAgree checks that the roll-ups are the sums of the log from every side, histograms included, and gives the total.
func mustAgree(t *testing.T, s store) Totals {
	t.Helper()
	var total Totals
	for _, by := range allSides {
		q := UsageQuery{GroupBy: by, Limit: -1, Quantiles: true}
		report, err := s.Usage(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		groups, fromLog, err := s.UsageFromLog(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if whole(report.Total) != whole(fromLog) {
			t.Errorf("by %v: the roll-ups have\n%s, the log\n%s", by, whole(report.Total), whole(fromLog))
		}
		if len(groups) != len(report.Groups) {
			t.Errorf("by %v: the roll-ups have %d groups, the log %d", by, len(report.Groups), len(groups))
			continue
		}
		for i := range groups {
			a, b := report.Groups[i], groups[i]
			if !a.Start.Equal(b.Start) || a.sortKey() != b.sortKey() || whole(a.Totals) != whole(b.Totals) {
				t.Errorf("by %v, at %s %q, the roll-ups have\n%s, at %s %q the log\n%s", by, a.Start, a.sortKey(), whole(a.Totals), b.Start, b.sortKey(), whole(b.Totals))
			}
		}
		if q.Quantiles = false; by == nil {
			plainly, err := s.Usage(t.Context(), q)
			if err != nil || plainly.Total.Latency.Count() != 0 || counted(plainly.Total) != counted(report.Total) {
				t.Errorf("without quantiles the roll-ups have\n%s, with them\n%s, %v", counted(plainly.Total), counted(report.Total), err)
			}
			total = report.Total
		}
	}
	if total.Latency.Count() != uint64(total.Calls) || total.TTFT.Count() != uint64(total.Answered) {
		t.Errorf("%d latencies of %d calls, %d first bytes of %d answers", total.Latency.Count(), total.Calls, total.TTFT.Count(), total.Answered)
	}
	return total
}

// whole is all of a sum, as text; counted is without its histograms.
func whole(t Totals) string {
	return fmt.Sprintf("%s latency=%x ttft=%x", counted(t), t.Latency.Append(nil), t.TTFT.Append(nil))
}

func counted(t Totals) string {
	t.Latency, t.TTFT = Histogram{}, Histogram{}
	return plain(t)
}

// TestLedgerAgrees has recorders and correctors work at once on what they share, with repeats of everything. Afterwards
// the log and the roll-ups are what the events say, from every side.
func TestLedgerAgrees(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			onLedgers(t, func(t *testing.T, s ledgerStore) { agree(t, s, seed) })
		})
	}
}

func agree(t *testing.T, s ledgerStore, seed uint64) {
	const incarnations, each, workers = 3, 500, 5
	r := rand.New(rand.NewPCG(seed, 41))
	var events []Event
	for i := range incarnations {
		events = append(events, randomEvents(seed, 1<<63+uint64(i), each)...)
	}
	truths := map[int]Event{}
	for i := range events {
		if events[i].Usage.Source == Estimated && r.IntN(2) == 0 {
			truths[i] = randomTruth(r, &events[i])
		}
	}
	deliveries := slices.Concat(r.Perm(len(events)), r.Perm(len(events))[:len(events)*3/10])
	var done sync.WaitGroup
	work := make(chan []int)
	for w := range workers {
		own := rand.New(rand.NewPCG(seed, uint64(w)))
		done.Go(func() {
			for batch := range work {
				if err := recordAndCorrect(s, own, events, truths, batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for batch := range slices.Chunk(deliveries, 60) {
		work <- batch
	}
	close(work)
	done.Wait()

	want := expected(events)
	for i, truth := range truths {
		correctTotals(&want, &events[i], &truth)
	}
	got := mustAgree(t, s)
	if counted(got) != plain(want) {
		t.Errorf("the ledger has\n%s, want\n%s", counted(got), plain(want))
	}
	var latency, ttft Histogram
	for _, ev := range events {
		latency.Add(ev.LatencyMs)
		if ev.TTFTMs > 0 {
			ttft.Add(ev.TTFTMs)
		}
	}
	if want := whole(Totals{Latency: latency, TTFT: ttft}); whole(Totals{Latency: got.Latency, TTFT: got.TTFT}) != want {
		t.Errorf("the histograms are not those of the events")
	}
	rows := ledgerValue[int](t, s, "SELECT count(*) FROM gateway_usage_logs WHERE corrects IS NOT NULL")
	if rows != len(truths) {
		t.Errorf("%d corrections of %d", rows, len(truths))
	}
	left := 0
	for i, ev := range events {
		if _, corrected := truths[i]; !corrected && ev.Usage.Source == Estimated && ev.Route == "gateway" {
			left++
		}
	}
	if n := ledgerValue[int](t, s, "SELECT count(*) FROM usage_estimates"); n != left {
		t.Errorf("%d estimates are left to ask about, want %d", n, left)
	}
	mustMatchCache(t, s, events)
}

// recordAndCorrect records some events, and then corrects those of them that are to be corrected, some twice.
func recordAndCorrect(s ledgerStore, r *rand.Rand, events []Event, truths map[int]Event, batch []int) error {
	var all []Event
	for _, i := range batch {
		all = append(all, events[i])
	}
	if err := s.Record(context.Background(), all); err != nil {
		return err
	}
	for _, i := range batch {
		truth, ok := truths[i]
		for again := true; ok && again; again = r.IntN(3) == 0 {
			if err := s.Correct(context.Background(), truth); err != nil {
				return err
			}
		}
	}
	return nil
}

// randomTruth is what a call may have used in truth: more or less than was estimated, at a cost that may be unknown.
func randomTruth(r *rand.Rand, estimate *Event) Event {
	truth := randomEvent(r, estimate.Incarnation, estimate.Seq)
	truth.ClientID, truth.AdmittedAt = estimate.ClientID, estimate.AdmittedAt
	truth.Usage.Source = Measured
	return truth
}

// correctTotals is what a correction changes in sums.
func correctTotals(t *Totals, estimate, truth *Event) {
	t.Estimated--
	if truth.Known {
		t.USD, t.BRL = t.USD.Add(truth.USD.Decimal()), t.BRL.Add(truth.BRL.Decimal())
		if estimate.Known {
			t.USD, t.BRL = t.USD.Sub(estimate.USD.Decimal()), t.BRL.Sub(estimate.BRL.Decimal())
		} else {
			t.UnknownCost--
		}
	}
	t.Input += truth.Input - estimate.Input
	t.Output += truth.Output - estimate.Output
	t.Total += truth.Usage.Total - estimate.Usage.Total
	t.Cached += truth.Cached - estimate.Cached
	t.CacheWrite += truth.CacheWrite - estimate.CacheWrite
	t.Reasoning += truth.Reasoning - estimate.Reasoning
	t.AudioInput += truth.AudioInput - estimate.AudioInput
	t.AudioOutput += truth.AudioOutput - estimate.AudioOutput
	t.AudioMs += truth.AudioMs - estimate.AudioMs
	t.Images += truth.Images - estimate.Images
	t.Characters += truth.Characters - estimate.Characters
}

// mustMatchCache compares gateway_cache_performance with the events, row by row.
func mustMatchCache(t *testing.T, s store, events []Event) {
	t.Helper()
	type row struct{ hits, misses, tokens, hitMs, missMs int64 }
	type place struct {
		client, date string
		hour         int
	}
	want := map[place]row{}
	var usd, brl decimal.Decimal
	for _, ev := range events {
		p := place{ev.ClientID.String(), ev.AdmittedAt.UTC().Format(time.DateOnly), ev.AdmittedAt.UTC().Hour()}
		w := want[p]
		if ev.WasCached {
			w.hits++
			w.hitMs += ev.LatencyMs
			w.tokens += ev.Usage.Total
			if ev.ListKnown {
				usd = usd.Add(ev.ListUSD.Decimal())
				saved, _ := ev.Rate.Rate.Convert(ev.ListUSD)
				brl = brl.Add(saved.Decimal())
			}
		} else {
			w.misses++
			w.missMs += ev.LatencyMs
		}
		want[p] = w
	}
	if n := ledgerValue[int](t, s, "SELECT count(*) FROM gateway_cache_performance"); n != len(want) {
		t.Errorf("%d rows of cache performance, want %d", n, len(want))
	}
	for p, w := range want {
		where := fmt.Sprintf(" FROM gateway_cache_performance WHERE client_id = '%s' AND date = '%s' AND hour = %d", p.client, p.date, p.hour)
		get := func(column string) int64 { return ledgerValue[int64](t, s, "SELECT "+column+where) }
		got := row{get("cache_hits"), get("cache_misses"), get("tokens_saved"), get("latency_cached_ms"), get("latency_uncached_ms")}
		if got != w || get("total_requests") != w.hits+w.misses {
			t.Errorf("cache performance of %v is %+v, want %+v", p, got, w)
		}
		if w.hits > 0 && w.misses > 0 {
			avg, other := get("avg_latency_cached_ms"), get("avg_latency_uncached_ms")
			if avg != (w.hitMs+w.hits/2)/w.hits || other != (w.missMs+w.misses/2)/w.misses {
				t.Errorf("average latencies of %v: %d and %d of %+v", p, avg, other, w)
			}
			rate := ledgerValue[float64](t, s, "SELECT cache_hit_rate"+where)
			if want := 100 * float64(w.hits) / float64(w.hits+w.misses); math.Abs(rate-want) > 0.0051 {
				t.Errorf("hit rate of %v: %v, want %v", p, rate, want)
			}
			better := ledgerValue[float64](t, s, "SELECT latency_improvement_pct"+where)
			if want := 100 * (1 - float64(w.hitMs)/float64(w.hits)/(float64(w.missMs)/float64(w.misses))); math.Abs(better-want) > 0.0051 {
				t.Errorf("improvement of %v: %v, want %v", p, better, want)
			}
		}
	}
	for column, want := range map[string]decimal.Decimal{"cost_saved_usd": usd, "cost_saved_brl": brl} {
		var got decimal.Decimal
		if _, ok := s.(*SQLite); ok {
			got = decimal.New(ledgerValue[int64](t, s, "SELECT coalesce(sum("+column+"), 0) FROM gateway_cache_performance"), 0).
				Add(decimal.New(ledgerValue[int64](t, s, "SELECT coalesce(sum("+column+"_pico), 0) FROM gateway_cache_performance"), -12))
		} else {
			got = decimal.RequireFromString(ledgerValue[string](t, s, "SELECT coalesce(sum("+column+"), 0)::text FROM gateway_cache_performance"))
		}
		if !got.Equal(want) {
			t.Errorf("%s is %s, want %s", column, got, want)
		}
	}
}

// TestLedgerUpgradeFillsCachePerformance takes the step of the migration that fills the table from roll-ups of before.
func TestLedgerUpgradeFillsCachePerformance(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(71, 9, 200)
		for i := range events {
			events[i].WasCached = false
		}
		mustRecord(t, s, events...)
		dialect := migrations.SQLite
		if _, ok := s.(*Postgres); ok {
			dialect = migrations.Postgres
		}
		files, err := migrations.Files(dialect)
		if err != nil {
			t.Fatal(err)
		}
		text, err := fs.ReadFile(files, "00004_rollups.sql")
		if err != nil {
			t.Fatal(err)
		}
		_, fill, ok := strings.Cut(string(text), "INSERT INTO gateway_cache_performance")
		fill, _, _ = strings.Cut(fill, ";")
		if !ok {
			t.Fatal("the migration fills nothing")
		}
		for _, query := range []string{"DELETE FROM gateway_cache_performance", "INSERT INTO gateway_cache_performance" + fill} {
			if p, ok := s.(*Postgres); ok {
				pgExec(t, p, query)
			} else if _, err := s.(*SQLite).write.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		mustMatchCache(t, s, events)
		// Each row has an id, which is a UUID in either store.
		id := ledgerValue[string](t, s, "SELECT CAST(id AS text) FROM gateway_cache_performance LIMIT 1")
		if parsed, err := uuid.Parse(id); err != nil || parsed.Version() != 4 || parsed.Variant() != uuid.RFC4122 {
			t.Errorf("a row has the id %q, %v", id, err)
		}
	})
}

// TestLedgerHistogramsStayShort adds to one roll-up very often: its histograms are as long as they must be, not as long
// as what was ever appended.
func TestLedgerHistogramsStayShort(t *testing.T) {
	onLedgers(t, func(t *testing.T, s ledgerStore) {
		r := rand.New(rand.NewPCG(6, 6))
		base := randomEvents(6, 9, 1)[0]
		var longest int64
		for i := range 400 {
			batch := make([]Event, 5)
			for j := range batch {
				batch[j] = base
				batch[j].Seq = uint64(5*i + j + 1)
				batch[j].LatencyMs = histogramShapes["lognormal"](r)
				batch[j].TTFTMs = 1 + batch[j].LatencyMs/3
			}
			mustRecord(t, s, batch...)
			longest = max(longest, ledgerValue[int64](t, s, "SELECT max(length(latency_histogram) + length(ttft_histogram)) FROM usage_rollups"))
		}
		total := mustAgree(t, s)
		need := len(total.Latency.Append(nil)) + len(total.TTFT.Append(nil))
		if total.Calls != 2000 || longest > histogramRoom(make([]byte, need), nil) || longest < 512 {
			t.Errorf("%d calls; the histograms were up to %d bytes long and need %d", total.Calls, longest, need)
		}
	})
}

func TestUsageWithoutSums(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(31, 9, 30)
		mustRecord(t, s, events...)
		first, err := s.Usage(t.Context(), UsageQuery{Limit: 10, GroupBy: []Dimension{ByClient}})
		if err != nil || first.Total.Calls != 30 || len(first.Groups) == 0 || len(first.Rows) != 10 {
			t.Fatalf("%+v, %v", first.Total, err)
		}
		for name, q := range map[string]UsageQuery{
			"the second page": {Limit: 10, Cursor: first.Next, GroupBy: []Dimension{ByClient}},
			"rows only":       {Limit: 10, RowsOnly: true, GroupBy: []Dimension{ByClient}},
		} {
			got, err := s.Usage(t.Context(), q)
			if err != nil || got.Total.Calls != 0 || got.Groups != nil || len(got.Rows) != 10 {
				t.Errorf("%s: %+v, %d groups, %d rows, %v", name, got.Total, len(got.Groups), len(got.Rows), err)
			}
		}
	})
}

// ledgerSteps opens a store with a step that writes down in the transaction what it was given, and fails when told to.
func ledgerSteps(t *testing.T, s store, fail func([]Event) error) ledgerStore {
	const create = "CREATE TABLE settled (incarnation bigint NOT NULL, seq bigint NOT NULL, usd bigint NOT NULL, PRIMARY KEY (incarnation, seq))"
	switch s := s.(type) {
	case *Postgres:
		pgExec(t, s, create)
		return NewPostgres(s.pool, func(ctx context.Context, tx pgx.Tx, fresh []Event) error {
			for _, ev := range fresh {
				if _, err := tx.Exec(ctx, "INSERT INTO settled VALUES ($1, $2, $3)", int64(ev.Incarnation), int64(ev.Seq), int64(ev.USD)); err != nil {
					return err
				}
			}
			return fail(fresh)
		})
	case *SQLite:
		if _, err := s.write.ExecContext(t.Context(), create); err != nil {
			t.Fatal(err)
		}
		return NewSQLite(s.write, s.read, func(ctx context.Context, tx *sql.Tx, fresh []Event) error {
			for _, ev := range fresh {
				if _, err := tx.ExecContext(ctx, "INSERT INTO settled VALUES (?, ?, ?)", int64(ev.Incarnation), int64(ev.Seq), int64(ev.USD)); err != nil {
					return err
				}
			}
			return fail(fresh)
		})
	}
	return nil
}

func TestLedgerStepsAreTakenOnce(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		errNo := errors.New("no budget for that")
		var seen sync.Map
		ledger := ledgerSteps(t, s, func(fresh []Event) error {
			for _, ev := range fresh {
				if ev.RequestID == "refuse" {
					return errNo
				}
				seen.Store([2]uint64{ev.Incarnation, ev.Seq}, ev)
			}
			return nil
		})
		events := randomEvents(51, 1<<63+2, 200)
		bad := randomEvents(52, 77, 5)
		bad[3].RequestID = "refuse"
		if err := ledger.Record(t.Context(), slices.Concat(events[:20], bad)); !errors.Is(err, errNo) {
			t.Errorf("a step failed and the batch gave %v", err)
		}
		mustHold(t, ledger, nil) // all or nothing
		if n := ledgerValue[int](t, s, "SELECT count(*) FROM settled"); n != 0 {
			t.Errorf("%d events of a batch that failed are settled", n)
		}
		var wg sync.WaitGroup
		for w := range 4 {
			r := rand.New(rand.NewPCG(51, uint64(w)))
			wg.Go(func() {
				var all []Event
				for _, i := range r.Perm(len(events)) {
					all = append(all, events[i])
				}
				for batch := range slices.Chunk(all, 30) {
					if err := ledger.Record(context.Background(), batch); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		mustHold(t, ledger, events)
		want := int64(0)
		for _, ev := range events {
			if got, _ := seen.Load([2]uint64{ev.Incarnation, ev.Seq}); !reflect.DeepEqual(got, ev) {
				t.Fatalf("the step got\n%+v\nwant\n%+v", got, ev)
			}
			want += int64(ev.USD)
		}
		// A correction is settled as the difference it makes.
		i := slices.IndexFunc(events, func(ev Event) bool { return ev.Usage.Source == Estimated && ev.Known })
		truth := events[i]
		truth.Usage.Source, truth.USD = Measured, truth.USD/3+7
		for range 2 {
			if err := ledger.Correct(t.Context(), truth); err != nil {
				t.Fatal(err)
			}
		}
		if n := ledgerValue[int64](t, s, "SELECT usd FROM settled WHERE seq < 0"); n != int64(truth.USD-events[i].USD) {
			t.Errorf("the correction was settled with %d", n)
		}
		if n := ledgerValue[int64](t, s, "SELECT CAST(sum(usd) AS bigint) FROM settled"); n != want+int64(truth.USD-events[i].USD) {
			t.Errorf("%d is settled, want %d", n, want+int64(truth.USD-events[i].USD))
		}
	})
}

func TestSplitMoney(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		var s splitMoney
		want := decimal.Decimal{}
		for range r.IntN(20) {
			v := r.Int64N(math.MaxInt64)
			if r.IntN(2) == 0 {
				v = r.Int64N(2 * int64(money.Unit))
			}
			if r.IntN(2) == 0 {
				v = -v
			}
			s.add(nullInt64{V: v, Valid: true})
			s.add(nullInt64{V: v})
			want = want.Add(decimal.New(v, -12))
			if got := decimal.New(s.whole, 0).Add(decimal.New(s.pico, -12)); !got.Equal(want) || s.pico < 0 || s.pico >= int64(money.Unit) {
				t.Fatalf("%+v is %s, want %s", s, got, want)
			}
		}
	}
}

// TestFoldIsInOrder: the order of the keys is that in which rows are locked.
func TestFoldIsInOrder(t *testing.T) {
	var rows []*logRow
	for _, ev := range randomEvents(8, 9, 400) {
		row := newLogRow(&ev)
		rows = append(rows, &row)
	}
	c := fold(rows)
	if !slices.IsSortedFunc(c.rollups, func(a, b rollupChange) int { return a.compare(&b.rollupKey) }) || !slices.IsSortedFunc(c.lookUps, compareRows) {
		t.Error("not in order")
	}
	if !slices.IsSortedFunc(c.caches, func(a, b cacheChange) int {
		return strings.Compare(fmt.Sprint(a.client, a.hour), fmt.Sprint(b.client, b.hour))
	}) {
		t.Error("the cache's rows are not in order")
	}
	for i := 1; i < len(c.rollups); i++ {
		if c.rollups[i].rollupKey == c.rollups[i-1].rollupKey {
			t.Error("a key comes twice")
		}
	}
}
