package metering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/internal/money"
)

// store is all that the stores have in common.
type store interface {
	Ledger
	Usage(ctx context.Context, q UsageQuery) (UsageReport, error)
	UsageFromLog(ctx context.Context, q UsageQuery) ([]UsageGroup, Totals, error)
	Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error)
	ModelStore
	ShowPrices(ctx context.Context, now time.Time) error
	RateStore
	ExchangeRates(ctx context.Context, limit int) ([]ExchangeRate, error)
}

// onStores runs a test on each store. One suite is what makes them the same.
func onStores(t *testing.T, test func(t *testing.T, s store)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, newSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, newPostgres(t)) })
}

// clientIDs are tenants of tests: few, so that roll-ups have something to add up.
var clientIDs = []uuid.UUID{
	uuid.MustParse("11111111-1111-4111-8111-111111111111"),
	uuid.MustParse("22222222-2222-4222-8222-222222222222"),
	uuid.MustParse("33333333-3333-4333-8333-333333333333"),
}

var testDay = time.Date(2026, 11, 20, 22, 0, 0, 0, time.UTC)

// randomEvent is an event as a proxy could have made it.
func randomEvent(r *rand.Rand, incarnation, seq uint64) Event {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	input, output := r.Int64N(5000), r.Int64N(3000)
	ev := Event{
		Incarnation: incarnation, Seq: seq, RequestID: fmt.Sprintf("req-%x-%d", incarnation, seq),
		ClientID: clientIDs[r.IntN(len(clientIDs))], ConversationID: pick("", "5511-conversa", "b2d8"), Phone: pick("", "ph_7f21"),
		Endpoint: pick("chat.completions", "embeddings"), Streamed: r.IntN(2) == 0, Route: pick("gateway", "direct"),
		Provider: pick("openai", "groq"), ModelAsked: "openai/gpt-4o-mini", ModelServed: pick("gpt-4o-mini", "openai/gpt-oss-120b"),
		AdmittedAt: testDay.Add(time.Duration(r.Int64N(int64(6 * time.Hour)))).Truncate(time.Microsecond),
		LatencyMs:  r.Int64N(9000), TTFTMs: r.Int64N(3) * 211, OverheadUs: r.Int64N(900),
		Outcome: Outcome(r.IntN(len(outcomeWords))), Status: 200,
		Usage: Usage{
			Source: Source(r.IntN(3)), Input: input, Output: output, Total: input + output, Cached: input / 3, CacheWrite: input / 7,
			Reasoning: output / 2, AudioInput: input / 9, AudioOutput: output / 9, AudioMs: r.Int64N(60000), Images: r.Int64N(2), Characters: r.Int64N(99),
		},
		UpstreamID: fmt.Sprintf("gen_%x_%d", incarnation, seq), UpstreamRequestID: "up-1", FinishReason: pick("", "stop"),
		ErrorCode: pick("", "rate_limit_exceeded"), WasCached: r.IntN(9) == 0, WasFallback: r.IntN(9) == 0,
		RequestBytes: r.Int64N(9999), ResponseBytes: r.Int64N(9999),
	}
	if r.IntN(10) > 0 {
		usd := money.Pico(r.Int64N(3 * int64(money.Unit)))
		brl, _ := money.Rate(514420000).Convert(usd)
		ev.Cost = Cost{
			USD: usd, BRL: brl, Known: true, ListUSD: usd + 1, ListKnown: true, PriceID: uuid.MustParse("44444444-4444-4444-8444-444444444444"),
			Rate: ExchangeRate{Rate: 514420000, Date: time.Date(2026, 11, 19, 0, 0, 0, 0, time.UTC), Source: "ptax"},
		}
		if ev.Route == "gateway" {
			ev.GateUSD, ev.GateKnown = usd, true
		}
	}
	if r.IntN(2) == 0 {
		ev.KeyID, ev.ModelID = uuid.New(), uuid.MustParse("55555555-5555-4555-8555-555555555555")
	}
	return ev
}

func randomEvents(seed uint64, incarnation uint64, n int) []Event {
	r := rand.New(rand.NewPCG(seed, incarnation))
	all := make([]Event, n)
	for i := range all {
		all[i] = randomEvent(r, incarnation, uint64(i+1))
	}
	return all
}

// expected adds events up in another way than the stores do.
func expected(events []Event) Totals {
	var t Totals
	for _, ev := range events {
		t.Calls++
		switch ev.Outcome {
		case OK:
		case ClientGone:
			t.ClientGone++
		default:
			t.Errors++
		}
		if ev.Streamed {
			t.Streamed++
		}
		if ev.Usage.Source == Estimated {
			t.Estimated++
		}
		if ev.Known {
			t.USD = t.USD.Add(ev.USD.Decimal())
			t.BRL = t.BRL.Add(ev.BRL.Decimal())
		} else {
			t.UnknownCost++
		}
		if ev.WasCached {
			t.WasCached++
		}
		if ev.WasFallback {
			t.WasFallback++
		}
		if ev.TTFTMs > 0 {
			t.Answered++
		}
		t.Input += ev.Input
		t.Output += ev.Output
		t.Total += ev.Usage.Total
		t.Cached += ev.Cached
		t.CacheWrite += ev.CacheWrite
		t.Reasoning += ev.Reasoning
		t.AudioInput += ev.AudioInput
		t.AudioOutput += ev.AudioOutput
		t.AudioMs += ev.AudioMs
		t.Images += ev.Images
		t.Characters += ev.Characters
		t.LatencyMs += ev.LatencyMs
		t.TTFTMs += ev.TTFTMs
		t.OverheadUs += ev.OverheadUs
	}
	return t
}

// plain makes totals comparable: equal decimals may be written in different ways.
func plain(t Totals) string {
	usd, brl := t.USD.String(), t.BRL.String()
	t.USD, t.BRL = decimal.Decimal{}, decimal.Decimal{}
	return fmt.Sprintf("%+v usd=%s brl=%s", t, usd, brl)
}

// mustHold checks that log, roll-ups and events are equal.
func mustHold(t *testing.T, s store, events []Event) {
	t.Helper()
	want := plain(expected(events))
	report, err := s.Usage(t.Context(), UsageQuery{Limit: -1})
	if err != nil {
		t.Fatal(err)
	}
	if got := plain(report.Total); got != want {
		t.Errorf("roll-ups\n got %s\nwant %s", got, want)
	}
	_, total, err := s.UsageFromLog(t.Context(), UsageQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if got := plain(total); got != want {
		t.Errorf("log\n got %s\nwant %s", got, want)
	}
}

func mustRecord(t *testing.T, s store, events ...Event) {
	t.Helper()
	if err := s.Record(t.Context(), events); err != nil {
		t.Fatal(err)
	}
}

func TestRecordKeepsEveryField(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(1, 0xfedcba9876543210, 40) // an incarnation past the signed half
		mustRecord(t, s, events...)
		report, err := s.Usage(t.Context(), UsageQuery{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Rows) != len(events) || report.Next != "" {
			t.Fatalf("%d rows and next %q, want %d and none", len(report.Rows), report.Next, len(events))
		}
		for _, row := range report.Rows {
			want := events[row.Seq-1]
			if !reflect.DeepEqual(row.Event, want) {
				t.Fatalf("row\n got %+v\nwant %+v", row.Event, want)
			}
			if row.ID != EventID(want.Incarnation, want.Seq) {
				t.Errorf("id %s", row.ID)
			}
			if since := time.Since(row.RecordedAt); since < -time.Minute || since > time.Minute {
				t.Errorf("recorded at %s", row.RecordedAt)
			}
		}
		mustHold(t, s, events)
	})
}

func TestRecordTwiceIsOnce(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(2, 7, 90)
		mustRecord(t, s, events[:30]...)
		mustRecord(t, s, events[:30]...)                             // the whole batch again
		mustRecord(t, s, events[20:60]...)                           // some of it again
		mustRecord(t, s, slices.Concat(events[55:], events[55:])...) // twice in one batch
		changed := events[10]
		changed.Output += 1000 // the same identity with another content is still a repeat
		changed.AdmittedAt = changed.AdmittedAt.Add(time.Hour)
		mustRecord(t, s, changed)
		mustRecord(t, s) // nothing
		mustHold(t, s, events)
		got, err := s.Received(t.Context(), 7)
		if err != nil || !reflect.DeepEqual(got, Ranges{{1, 90}}) {
			t.Errorf("received %v, %v", got, err)
		}
	})
}

func TestRecordInParallel(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		const incarnations, each, workers = 4, 1500, 6
		var events []Event
		for i := range incarnations {
			events = append(events, randomEvents(3, uint64(i+1), each)...)
		}
		// Deliveries: every event, three in ten of them again, all out of order and in batches that straddle incarnations
		// and tenants, so that workers meet on rows of every table.
		r := rand.New(rand.NewPCG(3, 3))
		deliveries := slices.Clone(events)
		for _, i := range r.Perm(len(events))[:len(events)*3/10] {
			deliveries = append(deliveries, events[i])
		}
		r.Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })
		batches := make(chan []Event)
		errs := make(chan error, workers)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for batch := range batches {
					if err := s.Record(context.Background(), batch); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		for batch := range slices.Chunk(deliveries, 100) {
			select {
			case batches <- batch:
			case err := <-errs:
				t.Fatal(err)
			}
		}
		close(batches)
		wg.Wait()
		mustHold(t, s, events)
		for i := range incarnations {
			got, err := s.Received(t.Context(), uint64(i+1))
			if err != nil || !reflect.DeepEqual(got, Ranges{{1, each}}) {
				t.Errorf("received %v, %v", got, err)
			}
		}
	})
}

func TestReceivedShowsGaps(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		if got, err := s.Received(t.Context(), 9); err != nil || len(got) != 0 {
			t.Errorf("of an unknown incarnation: %v, %v", got, err)
		}
		events := randomEvents(4, 9, 60)
		mustRecord(t, s, events[10:20]...)
		mustRecord(t, s, events[30], events[32])
		mustRecord(t, s, events[0])
		got, err := s.Received(t.Context(), 9)
		want := Ranges{{1, 1}, {11, 20}, {31, 31}, {33, 33}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("received %v, %v; want %v", got, err, want)
		}
		mustRecord(t, s, events[31])
		mustRecord(t, s, events[1:10]...)
		got, err = s.Received(t.Context(), 9)
		want = Ranges{{1, 20}, {31, 33}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("received %v, %v; want %v", got, err, want)
		}
	})
}

func TestDeadLetters(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(5, 9, 3)
		mustRecord(t, s, events[0])
		raw := []byte("\x00\xff not an event")
		for range 2 { // again changes nothing
			if err := s.DeadLetter(t.Context(), raw, Event{}, "cannot be decoded"); err != nil {
				t.Fatal(err)
			}
			if err := s.DeadLetter(t.Context(), []byte("two"), events[1], "newer than this worker"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DeadLetter(t.Context(), nil, Event{}, ""); err != nil {
			t.Fatal(err)
		}
		// What the log has needs no letter, and what is a letter does not become a row by being sent again.
		if err := s.DeadLetter(t.Context(), []byte("one"), events[0], "late"); err != nil {
			t.Fatal(err)
		}
		mustRecord(t, s, events...)
		mustHold(t, s, []Event{events[0], events[2]})
		got, err := s.Received(t.Context(), 9)
		if err != nil || !reflect.DeepEqual(got, Ranges{{1, 3}}) {
			t.Errorf("received %v, %v", got, err)
		}
	})
}

func TestUnrecordable(t *testing.T) {
	good := randomEvents(6, 9, 2)
	spoil := map[string]func(*Event){
		"no incarnation":   func(e *Event) { e.Incarnation = 0 },
		"no sequence":      func(e *Event) { e.Seq = 0 },
		"sequence too big": func(e *Event) { e.Seq = 1 << 63 },
		"no client":        func(e *Event) { e.ClientID = uuid.Nil },
		"no time":          func(e *Event) { e.AdmittedAt = time.Time{} },
		"far future":       func(e *Event) { e.AdmittedAt = time.Date(30000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"negative count":   func(e *Event) { e.Output = -1 },
		"absurd count":     func(e *Event) { e.Characters = 1 << 62 },
		"negative cost":    func(e *Event) { e.Known, e.USD = true, -1 },
		"unknown outcome":  func(e *Event) { e.Outcome = 77 },
		"unknown source":   func(e *Event) { e.Usage.Source = 9 },
		"absurd rate":      func(e *Event) { e.Rate.Rate = 1 << 60 },
	}
	onStores(t, func(t *testing.T, s store) {
		for name, f := range spoil {
			bad := good[1]
			f(&bad)
			if err := s.Record(t.Context(), []Event{good[0], bad}); !errors.Is(err, ErrUnrecordable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		mustHold(t, s, nil) // all or nothing
	})
}

func TestBadTextDoesNotLoseTheBill(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		ev := randomEvents(7, 9, 1)[0]
		ev.ConversationID, ev.Phone, ev.ErrorCode = "a\x00b", "\xff\xfe", "\xf0\x28"
		ev.UpstreamID = strings.Repeat("é", 4000)
		ev.ModelServed = strings.Repeat("m", 99999)
		ev.LatencyMs = -5
		mustRecord(t, s, ev)
		report, err := s.Usage(t.Context(), UsageQuery{})
		if err != nil {
			t.Fatal(err)
		}
		row := report.Rows[0]
		if row.ConversationID != "a\uFFFDb" || row.Phone != "\uFFFD" || row.LatencyMs != 0 {
			t.Errorf("%q %q %d", row.ConversationID, row.Phone, row.LatencyMs)
		}
		if _, _, owns, err := s.Owner(t.Context(), ev.ClientID, ev.UpstreamID); err != nil || !owns {
			t.Errorf("owns a long id: %v, %v", owns, err)
		}
		if plain(report.Total) != plain(func() Totals { ev.LatencyMs = 0; return expected([]Event{ev}) }()) {
			t.Errorf("total %s", plain(report.Total))
		}
	})
}

func TestSumsPastSixtyFourBits(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(8, 9, 50)
		for i := range events {
			events[i].Cost = Cost{USD: 1<<63 - 1, BRL: 1<<63 - 1 - money.Pico(i), Known: true}
			events[i].Usage = Usage{Source: Measured, Input: maxCount, Total: maxCount}
		}
		mustRecord(t, s, events[:1]...)
		mustRecord(t, s, events[1:]...)
		mustHold(t, s, events)
	})
}

func TestOwner(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		ev := randomEvents(9, 9, 1)[0]
		ev.ClientID, ev.UpstreamID = clientIDs[0], "resp_1"
		bare := randomEvents(9, 9, 2)[1]
		bare.UpstreamID = ""
		mustRecord(t, s, ev, bare)
		for _, c := range []struct {
			client uuid.UUID
			id     string
			want   bool
		}{{clientIDs[0], "resp_1", true}, {clientIDs[1], "resp_1", false}, {clientIDs[0], "resp_2", false}, {bare.ClientID, "", false}} {
			route, provider, got, err := s.Owner(t.Context(), c.client, c.id)
			if err != nil || got != c.want {
				t.Errorf("%s owns %q: %v, %v", c.client, c.id, got, err)
			}
			if got && (route != ev.Route || provider != ev.Provider) {
				t.Errorf("%q was made on %s/%s, want %s/%s", c.id, route, provider, ev.Route, ev.Provider)
			}
		}
	})
}

func TestUsagePages(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(10, 9, 120)
		events = append(events, randomEvents(10, 1<<63+5, 80)...)
		for i := range events {
			events[i].AdmittedAt = events[i].AdmittedAt.Truncate(time.Hour) // many at one time: the rest of the key must decide
		}
		mustRecord(t, s, events...)
		for _, client := range []uuid.UUID{uuid.Nil, clientIDs[1]} {
			var want, got []uuid.UUID
			for _, ev := range events {
				if client == uuid.Nil || ev.ClientID == client {
					want = append(want, EventID(ev.Incarnation, ev.Seq))
				}
			}
			q := UsageQuery{ClientID: client, Limit: 7}
			var last time.Time
			for {
				report, err := s.Usage(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, row := range report.Rows {
					if !last.IsZero() && row.AdmittedAt.After(last) {
						t.Fatal("not newest first")
					}
					last = row.AdmittedAt
					got = append(got, row.ID)
				}
				if q.Cursor = report.Next; q.Cursor == "" {
					break
				}
			}
			byBytes := func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }
			slices.SortFunc(want, byBytes)
			slices.SortFunc(got, byBytes)
			if !slices.Equal(got, want) {
				t.Errorf("%d rows in pages, want %d, each once", len(got), len(want))
			}
		}
		if _, err := s.Usage(t.Context(), UsageQuery{Cursor: "nonsense"}); err == nil {
			t.Error("a cursor of nobody's was taken")
		}
	})
}

func TestUsageGroups(t *testing.T) {
	zone := time.FixedZone("America/Sao_Paulo", -3*60*60)
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(11, 9, 300)
		mustRecord(t, s, events...)
		for _, by := range [][]Dimension{
			{ByClient},
			{ByModel},
			{ByProvider, ByRoute},
			{ByEndpoint, ByHour},
			{ByDay, ByClient},
			{ByMonth},
		} {
			q := UsageQuery{GroupBy: by, Zone: zone, Limit: -1}
			want := map[string][]Event{}
			for _, ev := range events {
				k := ""
				for _, d := range by {
					at := ev.AdmittedAt.In(zone)
					k += "|" + map[Dimension]string{
						ByClient: ev.ClientID.String(), ByModel: ev.ModelServed, ByProvider: ev.Provider, ByRoute: ev.Route, ByEndpoint: ev.Endpoint,
						ByHour: at.Format("2006-01-02 15"), ByDay: at.Format(time.DateOnly), ByMonth: at.Format("2006-01"),
					}[d]
				}
				want[k] = append(want[k], ev)
			}
			report, err := s.Usage(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			fromLog, _, err := s.UsageFromLog(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for source, groups := range map[string][]UsageGroup{"roll-ups": report.Groups, "log": fromLog} {
				if len(groups) != len(want) {
					t.Errorf("%v from %s: %d groups, want %d", by, source, len(groups), len(want))
				}
				for _, g := range groups {
					k := ""
					for _, d := range by {
						k += "|" + map[Dimension]string{
							ByClient: g.ClientID.String(), ByModel: g.Model, ByProvider: g.Provider, ByRoute: g.Route, ByEndpoint: g.Endpoint,
							ByHour: g.Start.Format("2006-01-02 15"), ByDay: g.Start.Format(time.DateOnly), ByMonth: g.Start.Format("2006-01"),
						}[d]
					}
					if plain(g.Totals) != plain(expected(want[k])) {
						t.Errorf("%v from %s, group %s\n got %s\nwant %s", by, source, k, plain(g.Totals), plain(expected(want[k])))
					}
				}
			}
			if !slices.IsSortedFunc(report.Groups, func(a, b UsageGroup) int { return a.Start.Compare(b.Start) }) {
				t.Errorf("%v: groups are not in the order of time", by)
			}
		}
		if _, err := s.Usage(t.Context(), UsageQuery{GroupBy: []Dimension{"phone"}}); err == nil {
			t.Error("grouped by something unknown")
		}
	})
}

func TestUsageOfATime(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		events := randomEvents(12, 9, 200)
		mustRecord(t, s, events...)
		from, to := testDay.Add(70*time.Minute), testDay.Add(3*time.Hour)
		report, err := s.Usage(t.Context(), UsageQuery{ClientID: clientIDs[0], From: from, To: to, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		var hours []Event // sums are by whole hours, rows are exact
		rows := 0
		for _, ev := range events {
			if ev.ClientID == clientIDs[0] && !ev.AdmittedAt.Before(testDay.Add(time.Hour)) && ev.AdmittedAt.Before(to) {
				hours = append(hours, ev)
				if !ev.AdmittedAt.Before(from) {
					rows++
				}
			}
		}
		if rows == 0 || rows == len(hours) || len(report.Rows) != rows {
			t.Errorf("%d rows, want %d of %d", len(report.Rows), rows, len(hours))
		}
		if plain(report.Total) != plain(expected(hours)) {
			t.Errorf("total\n got %s\nwant %s", plain(report.Total), plain(expected(hours)))
		}
		if _, err := s.Usage(t.Context(), UsageQuery{From: to, To: from}); err == nil {
			t.Error("a time that ends before it begins was taken")
		}
	})
}

// benchmarkBatch is 500 events with the sequence numbers after seq, as a busy second brings them: three tenants, four
// models.
func benchmarkBatch(incarnation uint64, seq int) []Event {
	r := rand.New(rand.NewPCG(incarnation, uint64(seq)))
	events := make([]Event, 500)
	for i := range events {
		ev := randomEvent(r, incarnation, uint64(seq+i+1))
		ev.AdmittedAt = testDay.Add(time.Duration(seq+i) * time.Millisecond)
		ev.Endpoint, ev.Route, ev.Provider = "chat.completions", "gateway", "openai"
		events[i] = ev
	}
	return events
}

func benchmarkRecord(b *testing.B, s store) {
	for seq := 0; b.Loop(); seq += 500 {
		b.StopTimer()
		events := benchmarkBatch(1, seq)
		b.StartTimer()
		if err := s.Record(b.Context(), events); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
