package metering

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// auditStore is a store that is audited.
type auditStore interface {
	store
	Fleet
	Auditor
}

// onAuditStores runs a test on each store.
func onAuditStores(t *testing.T, test func(t *testing.T, s auditStore)) {
	onStores(t, func(t *testing.T, s store) { test(t, s.(auditStore)) })
}

// auditSQL runs a statement by hand, as one would who breaks things.
func auditSQL(t *testing.T, s auditStore, query string) {
	t.Helper()
	switch s := s.(type) {
	case *Postgres:
		if tag, err := s.pool.Exec(t.Context(), query); err != nil || tag.RowsAffected() == 0 {
			t.Fatalf("%s: %v rows, %v", query, tag.RowsAffected(), err)
		}
	case *SQLite:
		res, err := s.write.ExecContext(t.Context(), query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if n, _ := res.RowsAffected(); n == 0 {
			t.Fatalf("%s: no rows", query)
		}
	}
}

func mustAudit(t *testing.T, s Auditor, o AuditOptions) AuditReport {
	t.Helper()
	r, err := s.Audit(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustReport(t *testing.T, s Fleet, reports ...ProxyReport) {
	t.Helper()
	if err := s.Report(t.Context(), reports); err != nil {
		t.Fatal(err)
	}
}

func auditNumber(t *testing.T, r AuditReport, want ...uint64) {
	t.Helper()
	got := []uint64{r.Unaccounted, r.OnTheWay, r.Silent, r.Unjudged}
	if !slices.Equal(got, want) {
		t.Errorf("unaccounted, on the way, silent, unjudged: %v, want %v; gaps %+v", got, want, r.Gaps)
	}
}

// auditedEvents are events of the last two hours, as a proxy makes them: what our own cache answered cost nothing.
func auditedEvents(seed, incarnation uint64, n int) []Event {
	events := randomEvents(seed, incarnation, n)
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range events {
		e := &events[i]
		e.AdmittedAt = now.Add(-time.Duration(i%7) * 17 * time.Minute)
		e.WasFallback = e.WasFallback && !e.WasCached
		if e.WasCached {
			e.USD, e.BRL, e.GateKnown, e.GateUSD = 0, 0, false, 0
		} else if e.Known && !e.GateKnown {
			e.USD = e.ListUSD
		}
	}
	return events
}

func TestAuditFindsDamage(t *testing.T) {
	const inc = 0xfedc000000000007 // past the signed half
	started := time.Now().UTC()
	live := func(last uint64, open, lost Ranges) ProxyReport {
		return ProxyReport{Name: "p1", StartedAt: started, Logs: []LogReport{{Incarnation: inc, Last: last, Live: true, Open: open, Lost: lost}}}
	}
	hole := map[bool]string{
		true:  "UPDATE producers SET received = received - '{[50,52]}'::int8multirange",
		false: "UPDATE producers SET received = '[[1,49],[53,200]]'",
	}
	pico := map[bool]string{true: "0.000000000001", false: "1"}
	columns := columnNames(logColumns)
	for _, c := range []struct {
		name    string
		damage  func(t *testing.T, s auditStore, postgres bool)
		broken  string // ids, in the order of the table
		says    string // in some detail, or in a gap
		missing uint64
	}{
		{"a deleted row", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "DELETE FROM gateway_usage_logs WHERE seq = 17")
		}, "I1-rows I3-calls I3-tokens I3-usd I3-brl I3 ", "fedc000000000007 lacks 17", 0},
		{"a roll-up's counter", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "UPDATE usage_rollups SET reasoning_tokens = reasoning_tokens + 1 WHERE hour = (SELECT max(hour) FROM usage_rollups)")
		}, "I3 ", "log has reasoning_tokens -1", 0},
		{"one pico of a cost", func(t *testing.T, s auditStore, postgres bool) {
			auditSQL(t, s, "UPDATE gateway_usage_logs SET cost_usd = cost_usd + "+pico[postgres]+" WHERE seq = 18")
		}, "I3-usd I3 I7 ", "/18: charged", 0},
		{"one pico of a roll-up", func(t *testing.T, s auditStore, postgres bool) {
			column := map[bool]string{true: "cost_brl", false: "cost_brl_pico"}[postgres]
			auditSQL(t, s, "UPDATE usage_rollups SET "+column+" = "+column+" + "+pico[postgres]+" WHERE hour = (SELECT min(hour) FROM usage_rollups)")
		}, "I3-brl I3 ", "log has cost_brl -0.000000000001", 0},
		{"one pico of a cost and of its roll-up", func(t *testing.T, s auditStore, postgres bool) {
			hour := map[bool]string{true: "date_trunc('hour', created_at, 'UTC')", false: "created_at - created_at % 3600000000"}[postgres]
			column := map[bool]string{true: "cost_usd", false: "cost_usd_pico"}[postgres]
			auditSQL(t, s, "UPDATE usage_rollups SET "+column+" = "+column+" + "+pico[postgres]+` WHERE (client_id, hour, model_registry_id, model_name, provider, route, endpoint) =
				(SELECT client_id, `+hour+`, coalesce(model_registry_id, '00000000-0000-0000-0000-000000000000'), model_name, provider, route, endpoint FROM gateway_usage_logs WHERE seq = 18)`)
			auditSQL(t, s, "UPDATE gateway_usage_logs SET cost_usd = cost_usd + "+pico[postgres]+" WHERE seq = 18")
		}, "I7 ", "/18: charged", 0},
		{"a row doubled under another number", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "INSERT INTO gateway_usage_logs ("+columns+") SELECT "+strings.Replace(columns, " seq,", " 9999,", 1)+" FROM gateway_usage_logs WHERE seq = 18")
		}, "I1-rows I3-calls I3-tokens I3-usd I3-brl I3 ", "has 9999 too often", 0},
		{"a row moved to another number", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "UPDATE gateway_usage_logs SET seq = 300 WHERE seq = 18")
		}, "I1-rows ", "lacks 18", 0},
		{"a hole in the watermark", func(t *testing.T, s auditStore, postgres bool) { auditSQL(t, s, hole[postgres]) }, "I1 I1-rows ", "50-52", 3},
		{"a lost range", func(t *testing.T, s auditStore, _ bool) {
			mustReport(t, s, live(203, Ranges{{203, 203}}, Ranges{{201, 202}}))
		}, "I1 ", "lost 201-202 of p1", 2},
		{"numbers that nobody has", func(t *testing.T, s auditStore, _ bool) {
			mustReport(t, s, live(205, Ranges{{203, 204}}, nil))
		}, "I1 ", "unaccounted 201-202,205 of p1", 3},
		{"performance of the cache", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "UPDATE gateway_cache_performance SET cache_misses = cache_misses + 1, cache_hits = cache_hits - 1 WHERE cache_hits > 0")
		}, "I3-cache ", "the table has", 0},
		{"a histogram", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "UPDATE usage_rollups SET ttft_histogram = latency_histogram WHERE calls <> answered")
		}, "I3-latency ", "answers, the histograms have", 0},
		{"a roll-up that nobody made", func(t *testing.T, s auditStore, _ bool) {
			auditSQL(t, s, "UPDATE usage_rollups SET route = 'sideways' WHERE hour = (SELECT max(hour) FROM usage_rollups) AND route = 'gateway' AND calls > 0")
		}, "I3 ", "sideways", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			onAuditStores(t, func(t *testing.T, s auditStore) {
				events := auditedEvents(1, inc, 200)
				events[17].Known, events[17].WasCached, events[17].ListKnown = true, false, true // seq 18
				events[17].USD = events[17].ListUSD
				if events[17].GateKnown {
					events[17].USD = events[17].GateUSD
				}
				mustRecord(t, s, events...)
				mustReport(t, s, live(203, Ranges{{201, 203}}, nil))
				for _, depth := range []AuditDepth{AuditFull, AuditRecent} {
					r := mustAudit(t, s, AuditOptions{Depth: depth})
					if !r.Holds || len(r.broken()) > 0 {
						t.Fatalf("%s, undamaged: %+v", depth, r)
					}
					auditNumber(t, r, 0, 3, 0, 0)
				}
				_, postgres := s.(*Postgres)
				c.damage(t, s, postgres)
				r := mustAudit(t, s, AuditOptions{})
				if got := strings.Join(r.broken(), " ") + " "; got != c.broken || r.Holds {
					t.Errorf("broken: %q, want %q", got, c.broken)
				}
				if r.Unaccounted != c.missing {
					t.Errorf("%d unaccounted, want %d", r.Unaccounted, c.missing)
				}
				said := ""
				for _, check := range r.Checks {
					said += check.Detail + "\n"
				}
				for _, g := range r.Gaps {
					said += g.State + " " + g.Numbers + " of " + g.Proxy + "\n"
				}
				if !strings.Contains(said, c.says) {
					t.Errorf("it says\n%s\nand not %q", said, c.says)
				}
			})
		})
	}
}

// TestAuditNetsCorrections holds that an estimate and its correction make up the truth, and that both are looked at.
func TestAuditNetsCorrections(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		_, postgres := s.(*Postgres)
		events := auditedEvents(8, 3, 30)
		for i := range events[:10] {
			e := &events[i]
			e.Usage.Source, e.WasCached, e.ListKnown = Estimated, false, true
			e.GateKnown, e.GateUSD, e.USD, e.Known = false, 0, e.ListUSD, i != 4
			e.ListKnown = i != 4
		}
		mustRecord(t, s, events...)
		for i, truth := range events[:10] {
			truth.Usage.Source, truth.Output, truth.Usage.Total = Measured, truth.Output+7, truth.Usage.Total+7
			truth.Known, truth.GateKnown, truth.GateUSD, truth.USD = true, true, 12_345, 12_345
			if i%3 == 0 { // by our list again, and less
				truth.GateKnown, truth.GateUSD, truth.ListKnown, truth.ListUSD, truth.USD = false, 0, true, 99, 99
			}
			truth.Rate.Rate = 514420000
			if err := s.(Corrections).Correct(t.Context(), truth); err != nil {
				t.Fatal(err)
			}
			events[i] = truth
		}
		r := mustAudit(t, s, AuditOptions{})
		if !r.Holds {
			t.Fatalf("%+v", r)
		}
		want := expected(events)
		if got := r.Totals.Measured.Total + r.Totals.Estimated.Total + r.Totals.None.Total; got != want.Total || r.Totals.Estimated.Calls != want.Estimated {
			t.Errorf("%d tokens, want %d; %d estimated, want %d", got, want.Total, r.Totals.Estimated.Calls, want.Estimated)
		}
		auditSQL(t, s, "UPDATE gateway_usage_logs SET cost_usd = cost_usd + "+map[bool]string{true: "0.000000000001", false: "1"}[postgres]+" WHERE seq = -2")
		r = mustAudit(t, s, AuditOptions{})
		if got := strings.Join(r.broken(), " "); got != "I3-usd I3 I7" {
			t.Errorf("broken: %s: %+v", got, r)
		}
	})
}

func TestAuditCountsLettersAndTotals(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		events := auditedEvents(2, 5, 50)
		mustRecord(t, s, events[:48]...)
		for _, e := range events[48:] {
			if err := s.DeadLetter(t.Context(), []byte("raw"), e, "of no use"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DeadLetter(t.Context(), []byte("no identity"), Event{}, "garbage"); err != nil {
			t.Fatal(err)
		}
		r := mustAudit(t, s, AuditOptions{})
		if !r.Holds {
			t.Errorf("%+v", r)
		}
		if c := r.Checks[1]; c.Left != "50" || c.Right != "50" || !strings.Contains(c.Detail, "2 are dead letters") {
			t.Errorf("%+v", c)
		}
		want := expected(events)
		sum := func(of func(AuditAmount) int64) int64 {
			return of(r.Totals.Measured) + of(r.Totals.Estimated) + of(r.Totals.None) + of(r.Totals.Dead)
		}
		if got := sum(func(a AuditAmount) int64 { return a.Total }); got != want.Total {
			t.Errorf("%d tokens, want %d", got, want.Total)
		}
		usd := r.Totals.Measured.USD.Add(r.Totals.Estimated.USD).Add(r.Totals.None.USD).Add(r.Totals.Dead.USD)
		if !usd.Equal(want.USD) {
			t.Errorf("US$ %s, want %s", usd, want.USD)
		}
		if sum(func(a AuditAmount) int64 { return a.Calls }) != 50 || r.Totals.Dead.Calls != 2 {
			t.Errorf("%+v", r.Totals)
		}
		later := mustAudit(t, s, AuditOptions{TotalsSince: time.Now().Add(time.Hour)})
		if later.Totals.Measured.Calls+later.Totals.Dead.Calls != 0 {
			t.Errorf("of calls to come: %+v", later.Totals)
		}
	})
}

// TestAuditAfterMonthsWereDropped holds that what was let go of on purpose is no gap.
func TestAuditAfterMonthsWereDropped(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		now := time.Now().UTC()
		old, fresh := auditedEvents(3, 5, 40), auditedEvents(4, 6, 10)
		for i := range old {
			old[i].AdmittedAt = now.AddDate(0, -3, 0)
		}
		mustRecord(t, s, old...)
		mustRecord(t, s, fresh...)
		kept := now.AddDate(0, -1, 0).Truncate(time.Hour)
		since := fmt.Sprint(kept.UnixMicro())
		cut := since
		seen := fmt.Sprint(now.AddDate(0, -3, 0).UnixMicro())
		if _, postgres := s.(*Postgres); postgres {
			since = "'" + kept.Format(time.RFC3339) + "'"
			cut, seen = since, "'"+now.AddDate(0, -3, 0).Format(time.RFC3339)+"'"
		}
		auditSQL(t, s, "DELETE FROM gateway_usage_logs WHERE created_at < "+cut)
		if r := mustAudit(t, s, AuditOptions{}); r.Holds {
			t.Error("a month that vanished is no gap")
		}
		auditSQL(t, s, "INSERT INTO usage_log_kept (since) VALUES ("+since+")")
		auditSQL(t, s, "UPDATE producers SET first_seen = "+seen+" WHERE incarnation = 5")
		r := mustAudit(t, s, AuditOptions{})
		if !r.Holds || !strings.Contains(r.Checks[1].Detail, "1 incarnations") {
			t.Errorf("%+v", r)
		}
		auditSQL(t, s, "DELETE FROM gateway_usage_logs WHERE seq = 3")
		if r := mustAudit(t, s, AuditOptions{}); r.Holds {
			t.Error("a row of a month that is kept may vanish")
		}
	})
}

func TestJudge(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	o := AuditOptions{}.withDefaults()
	for _, c := range []struct {
		name string
		n    openIncarnation
		want string // on the way, silent, unjudged, lost, unaccounted
	}{
		{"open and waiting", openIncarnation{reported: true, live: true, covered: 9, open: Ranges{{5, 5}}, waiting: Ranges{{7, 8}}, missing: Ranges{{5, 5}, {7, 8}}}, "5,7-8|||| "},
		{"nobody's", openIncarnation{reported: true, live: true, covered: 9, open: Ranges{{5, 5}}, missing: Ranges{{4, 5}}}, "5||||4"},
		{"received wins over a claim", openIncarnation{reported: true, live: true, covered: 9, open: Ranges{{3, 9}}, missing: Ranges{{9, 9}}}, "9|||| "},
		{"a hole above the last report", openIncarnation{reported: true, live: true, covered: 9, missing: Ranges{{8, 12}}}, "||10-12||8-9"},
		{"a first report is still to come", openIncarnation{reported: true, live: true, missing: Ranges{{1, 3}}}, "||1-3|| "},
		{"of a process that has ended", openIncarnation{reported: true, covered: 9, waiting: Ranges{{2, 2}}, missing: Ranges{{2, 2}, {10, 12}}}, "2||||10-12"},
		{"lost", openIncarnation{reported: true, covered: 9, lost: Ranges{{2, 3}}, missing: Ranges{{3, 4}}}, "|||3|4"},
		{"over", openIncarnation{reported: true, over: true, covered: 9, missing: Ranges{{9, 9}}}, "||||9"},
		{"never reported", openIncarnation{missing: Ranges{{2, 2}}}, "||2|| "},
		{"never reported and old", openIncarnation{heard: ago(time.Hour), missing: Ranges{{2, 2}}}, "|2||| "},
		{"silent", openIncarnation{reported: true, live: true, heard: ago(time.Hour), covered: 9, open: Ranges{{5, 5}}, missing: Ranges{{5, 6}, {11, 12}}}, "|5,11-12|||6"},
		{"silent for days", openIncarnation{reported: true, live: true, heard: ago(25 * time.Hour), covered: 9, open: Ranges{{5, 5}}, missing: Ranges{{5, 5}, {11, 12}}}, "||||5,11-12"},
		{"not on the disk that should have it", openIncarnation{reported: true, live: true, goneAt: ago(2 * time.Minute), covered: 9, open: Ranges{{5, 5}}, missing: Ranges{{5, 5}, {11, 12}}}, "||||5,11-12"},
		{"not there, for a moment", openIncarnation{reported: true, live: true, goneAt: ago(time.Second), covered: 9, open: Ranges{{5, 5}}, missing: Ranges{{5, 5}}}, "5|||| "},
	} {
		if c.n.heard.IsZero() {
			c.n.heard = ago(3 * time.Second)
		}
		v := c.n.judge(now, o)
		got := strings.Join([]string{v.onTheWay.String(), v.silent.String(), v.unjudged.String(), v.lost.String(), v.unaccounted.String()}, "|")
		if got != strings.TrimSpace(c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRangesMinusAndCoarser(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	random := func() (set Ranges) {
		for range r.IntN(12) {
			first := 1 + r.Uint64N(60)
			set = append(set, [2]uint64{first, first + r.Uint64N(6)})
		}
		return set.Union(nil)
	}
	for range 3000 {
		a, b := random(), random()
		minus, and := a.minus(b), a.and(b)
		for n := range uint64(80) {
			if minus.Contains(n) != (a.Contains(n) && !b.Contains(n)) || and.Contains(n) != (a.Contains(n) && b.Contains(n)) {
				t.Fatalf("%v and %v: minus %v, and %v", a, b, minus, and)
			}
		}
		if !reflect.DeepEqual(minus.Union(nil), minus.Union(minus)) || len(minus.Union(nil)) != len(minus) {
			t.Fatalf("%v minus %v is not in order: %v", a, b, minus)
		}
		coarse := a.coarser(3)
		if len(a) > 3 && len(coarse) != 3 || len(a.minus(coarse)) > 0 || len(coarse) > len(a) {
			t.Fatalf("%v made coarse: %v", a, coarse)
		}
	}
	if got := (Ranges{{1, 2}, {4, 5}, {90, 91}, {95, 95}}).coarser(2); !reflect.DeepEqual(got, Ranges{{1, 5}, {90, 95}}) {
		t.Errorf("%v", got)
	}
}

func TestSpoolReport(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSpool(SpoolOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	clock := int64(7)
	reporter := NewReporter("p1", "v9", s, func() int64 { return clock })
	var events []Event
	for i := range 600 {
		e := Event{ClientID: clientIDs[0], Endpoint: "chat.completions", AdmittedAt: time.Now()}
		if err := s.Open(&e); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			s.Close(&e)
		}
		events = append(events, e)
	}
	inc := s.Incarnation()
	r := reporter.Report(false)
	if len(r.Logs) != 1 || r.Logs[0].Incarnation != inc || r.Logs[0].Last != 600 || !r.Logs[0].Live || r.Logs[0].Coarse {
		t.Fatalf("%+v", r)
	}
	if r.Logs[0].Open.Count() != 300 || r.Logs[0].Waiting.Count() != 300 || r.Logs[0].Open.Contains(1) || !r.Logs[0].Waiting.Contains(1) {
		t.Errorf("open %s, waiting %s", r.Logs[0].Open, r.Logs[0].Waiting)
	}
	if r.ConfigVersion != 7 || r.Version != "v9" || r.Depth != 300 || r.Open != 300 || !r.LastFlush.IsZero() || r.MaxBytes != 1<<30 {
		t.Errorf("%+v", r)
	}
	for i := range events {
		if i%2 == 1 && i > 2 {
			s.Close(&events[i])
		}
	}
	s.Acknowledge(inc, Ranges{{5, 600}})
	r = reporter.Report(false)
	if r.Logs[0].Open.String() != "2" || r.Logs[0].Waiting.String() != "1,3-4" || r.LastFlush.IsZero() {
		t.Errorf("%+v", r)
	}
	flushed := r.LastFlush
	if r = reporter.Report(true); r.Logs[0].Live || !r.Stopped || !r.LastFlush.Equal(flushed) {
		t.Errorf("%+v", r)
	}
	if err := s.Shutdown(); err != nil {
		t.Fatal(err)
	}
	// The next process has what was left, and the call that was open ends as crashed there.
	s, err = OpenSpool(SpoolOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	logs := s.Report()
	i := slices.IndexFunc(logs, func(l LogReport) bool { return l.Incarnation == inc })
	if i < 0 || len(logs) != 2 {
		t.Fatalf("%+v", logs)
	}
	if l := logs[i]; l.Live || l.Last != 600 || len(l.Open) > 0 || l.Waiting.minus(Ranges{{1, 600}}) != nil || (Ranges{{1, 4}}).minus(l.Waiting) != nil {
		t.Errorf("%+v", l)
	}
}

func TestFleetReports(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		started := time.Now().UTC().Truncate(time.Microsecond)
		first := ProxyReport{
			Name: "a", Version: "v1", StartedAt: started, ConfigVersion: 4, Open: 2, Depth: 3, Oldest: 5 * time.Second, Bytes: 10, MaxBytes: 100, Lost: 1,
			LastFlush: started.Add(time.Second),
			Logs: []LogReport{
				{Incarnation: 1, Last: 9, Waiting: Ranges{{2, 3}, {5, 9}}, Lost: Ranges{{4, 4}}, Coarse: false},
				{Incarnation: 1<<63 + 5, Last: 40, Live: true, Open: Ranges{{39, 40}}},
			},
		}
		mustReport(t, s, first, ProxyReport{Name: "b", StartedAt: started}, ProxyReport{Name: "b", StartedAt: started, Version: "v2", Logs: []LogReport{{Incarnation: 8, Live: true}}})
		mustReport(t, s) // nothing
		proxies := func() []ProxyReport {
			t.Helper()
			got, err := s.Proxies(t.Context(), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		got := proxies()
		if len(got) != 2 || got[1].Version != "v2" || len(got[1].Logs) != 1 {
			t.Fatalf("%+v", got)
		}
		if age := time.Since(got[0].At); age < -time.Minute || age > time.Minute {
			t.Errorf("at %s", got[0].At)
		}
		got[0].At = time.Time{}
		slices.SortFunc(got[0].Logs, func(a, b LogReport) int { return int(a.Last) - int(b.Last) })
		if !reflect.DeepEqual(got[0], first) {
			t.Errorf("\n got %+v\nwant %+v", got[0], first)
		}
		if late, err := s.Proxies(t.Context(), time.Now().Add(time.Hour)); err != nil || len(late) != 0 {
			t.Errorf("%+v, %v", late, err)
		}
		audit := func(o AuditOptions) AuditReport { t.Helper(); return mustAudit(t, s, o) }
		auditNumber(t, audit(AuditOptions{}), 2+38, 7+2, 0, 0) // 1 and the lost 4; 1-38

		// The same process no longer lists its former run: the ledger has all of it.
		next := first
		next.Logs = first.Logs[1:]
		mustReport(t, s, next)
		auditNumber(t, audit(AuditOptions{}), 9+38, 2, 0, 0)
		// A report that was overtaken does no harm for longer than until the next.
		mustReport(t, s, first)
		auditNumber(t, audit(AuditOptions{}), 2+38, 9, 0, 0)
		mustReport(t, s, next)
		auditNumber(t, audit(AuditOptions{}), 9+38, 2, 0, 0)

		// A later process of that name that lacks the live one: a lost volume, believed after a moment.
		again := ProxyReport{Name: "a", StartedAt: started.Add(time.Minute), Logs: []LogReport{{Incarnation: 77, Live: true}}}
		mustReport(t, s, again)
		auditNumber(t, audit(AuditOptions{}), 9+38, 2, 0, 0)
		auditNumber(t, audit(AuditOptions{GoneAfter: time.Nanosecond}), 9+40, 0, 0, 0)
		// It has it after all, and knows better than the older process.
		again.Logs = append(again.Logs, LogReport{Incarnation: 1<<63 + 5, Last: 38, Waiting: Ranges{{1, 38}}})
		mustReport(t, s, again)
		mustReport(t, s, next)
		auditNumber(t, audit(AuditOptions{GoneAfter: time.Nanosecond}), 9+2, 38, 0, 0) // 39 and 40 were given out, and are not there
		auditNumber(t, audit(AuditOptions{SilentAfter: time.Nanosecond}), 9+2, 0, 38, 0)
		auditNumber(t, audit(AuditOptions{WriteOff: time.Nanosecond}), 9+40, 0, 0, 0)
	})
}

func TestAuditSettles(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		mustRecord(t, s, auditedEvents(5, 3, 20)...)
		mustReport(t, s, ProxyReport{Name: "a", Logs: []LogReport{{Incarnation: 3, Last: 20}, {Incarnation: 4}, {Incarnation: 5, Last: 2, Waiting: Ranges{{1, 2}}}}})
		r := mustAudit(t, s, AuditOptions{Depth: AuditRecent})
		if !r.Holds || r.Incarnations != 3 {
			t.Fatalf("%+v", r)
		}
		if err := s.ShareAudit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if r = mustAudit(t, s, AuditOptions{Depth: AuditRecent}); r.Incarnations != 1 || r.OnTheWay != 2 {
			t.Errorf("recent: %+v", r)
		}
		if r = mustAudit(t, s, AuditOptions{}); r.Incarnations != 2 { // one admitted nothing and is forgotten
			t.Errorf("full: %+v", r)
		}
	})
}

func TestRunAuditIsShared(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		mustRecord(t, s, auditedEvents(6, 3, 20)...)
		counted := &countingAuditor{Auditor: s}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		seen := map[int]map[time.Time]bool{}
		var all sync.WaitGroup
		for i := range 3 {
			seen[i] = map[time.Time]bool{}
			all.Go(func() {
				_ = RunAudit(ctx, counted, 200*time.Millisecond, func(r AuditReport) {
					mu.Lock()
					defer mu.Unlock()
					seen[i][r.At.UTC()] = r.Holds
				}, nil)
			})
		}
		deadline := time.Now().Add(30 * time.Second)
		enough := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(seen[0]) > 2 && len(seen[1]) > 2 && len(seen[2]) > 2
		}
		for !enough() && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
		all.Wait()
		shown := map[time.Time]bool{}
		for _, by := range seen {
			maps.Copy(shown, by)
		}
		if !enough() || int(counted.made.Load()) > len(shown)+1 {
			t.Errorf("%d audits were made; shown were %v", counted.made.Load(), seen)
		}
		for at, holds := range shown {
			if !holds {
				t.Errorf("the audit of %s does not hold", at)
			}
		}
	})
}

type countingAuditor struct {
	Auditor
	made atomic.Int64
}

func (c *countingAuditor) Audit(ctx context.Context, o AuditOptions) (AuditReport, error) {
	c.made.Add(1)
	return c.Auditor.Audit(ctx, o)
}

// TestAuditUnderLoad lets calls come and go while reports and audits are made: nothing may ever look lost.
func TestAuditUnderLoad(t *testing.T) {
	onAuditStores(t, func(t *testing.T, s auditStore) {
		length := 4 * time.Second
		if testing.Short() {
			length = time.Second
		}
		spool, err := OpenSpool(SpoolOptions{Dir: t.TempDir(), SegmentBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		shards := 1
		if _, postgres := s.(*Postgres); postgres {
			shards = 4 // numbers then come out of order
		}
		queue := NewMemoryQueue(shards, 2000)
		var road []func() // stops one part after the other
		for _, part := range []func(context.Context) error{NewShipper(spool, queue, nil).Run, NewWorker(s, queue, nil, nil).Run, spool.Run} {
			ctx, stop := context.WithCancel(context.Background())
			var done sync.WaitGroup
			done.Go(func() { _ = part(ctx) })
			road = append(road, func() { stop(); done.Wait() })
		}
		var load sync.WaitGroup
		until := time.Now().Add(length)
		clients := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New()}
		for i := range 8 {
			load.Go(func() {
				r := rand.New(rand.NewPCG(9, uint64(i)))
				for time.Now().Before(until) {
					e := auditedEvents(r.Uint64(), 1, 1)[0]
					e.ClientID = clients[r.IntN(len(clients))]
					if err := spool.Open(&e); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
					spool.Close(&e)
				}
			})
		}
		reporter := NewReporter("loaded", "test", spool, func() int64 { return 1 })
		load.Go(func() {
			for time.Now().Before(until) {
				if err := s.Report(context.Background(), []ProxyReport{reporter.Report(false)}); err != nil {
					t.Error(err)
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
		audits, busy := 0, 0
		for time.Now().Before(until) {
			r, err := s.Audit(context.Background(), AuditOptions{Depth: []AuditDepth{AuditFull, AuditRecent}[audits%2]})
			if err != nil {
				t.Error(err)
				break
			}
			if !r.Holds || r.Unaccounted > 0 || r.Silent > 0 {
				t.Errorf("a false alarm in audit %d: %+v", audits, r)
				break // and let the load end
			}
			if audits++; r.OnTheWay > 0 {
				busy++
			}
			time.Sleep(100 * time.Millisecond)
		}
		load.Wait()
		for _, stop := range road {
			stop()
		}
		last := reporter.Report(true)
		mustReport(t, s, last)
		r := mustAudit(t, s, AuditOptions{})
		if !r.Holds || r.Totals.Measured.Calls+r.Totals.Estimated.Calls+r.Totals.None.Calls != int64(last.Logs[0].Last) {
			t.Errorf("at the end: %+v", r)
		}
		auditNumber(t, r, 0, 0, 0, 0)
		if busy == 0 {
			t.Error("no audit met a call on its way: this proved nothing")
		}
		t.Logf("%d calls, %d audits, %d of them with calls on the way", last.Logs[0].Last, audits, busy)
		if err := spool.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}
