package metering

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// estimatedEvents are calls that were cut short and that the gateway can be asked about.
func estimatedEvents(seed, incarnation uint64, n int) []Event {
	events := randomEvents(seed, incarnation, n)
	for i := range events {
		events[i].Usage.Source, events[i].Route, events[i].Outcome = Estimated, "gateway", ClientGone
	}
	return events
}

func mustCorrect(t *testing.T, s ledgerStore, truth Event) {
	t.Helper()
	if err := s.Correct(t.Context(), truth); err != nil {
		t.Fatal(err)
	}
}

func TestLedgerCorrection(t *testing.T) {
	onLedgers(t, func(t *testing.T, s ledgerStore) {
		estimate := estimatedEvents(61, 1<<63+9, 1)[0]
		estimate.Known, estimate.USD, estimate.BRL = true, 5_000_000_000, 25_000_000_000
		mustRecord(t, s, estimate)
		truth := estimate
		truth.ModelServed, truth.Provider, truth.LatencyMs, truth.FinishReason = "another", "other", 9, "length"
		truth.Usage = Usage{Source: Measured, Input: estimate.Input + 3, Output: estimate.Output - 2, Total: estimate.Usage.Total + 1}
		truth.USD, truth.BRL, truth.GateUSD, truth.GateKnown = 4_999_999_999, 25_000_000_007, 4_999_999_999, true
		mustCorrect(t, s, truth)
		mustCorrect(t, s, truth)
		wrong := truth // what was done is done, whatever comes later
		wrong.Output, wrong.Usage.Total = 0, 0
		mustCorrect(t, s, wrong)
		mustRecord(t, s, estimate)

		report, err := s.Usage(t.Context(), UsageQuery{})
		if err != nil || len(report.Rows) != 2 {
			t.Fatalf("%d rows, %v", len(report.Rows), err)
		}
		call, row := report.Rows[0], report.Rows[1]
		if call.Corrects != uuid.Nil {
			call, row = row, call
		}
		if row.Corrects != call.ID || row.ID == call.ID || call.Corrects != uuid.Nil || row.Incarnation != call.Incarnation || row.Seq != call.Seq {
			t.Errorf("the correction is %s of %s, the call %s", row.ID, row.Corrects, call.ID)
		}
		if !row.AdmittedAt.Equal(call.AdmittedAt) || row.ClientID != call.ClientID || row.RequestID != call.RequestID || row.Phone != call.Phone ||
			row.ModelServed != call.ModelServed || row.Provider != call.Provider || row.FinishReason != "length" {
			t.Errorf("the correction is another call's:\n%+v\n%+v", row, call)
		}
		if row.Input != 3 || row.Output != -2 || row.Usage.Total != 1 || row.Cached != -estimate.Cached || row.Usage.Source != Measured || row.LatencyMs != 0 {
			t.Errorf("the difference is %+v", row.Usage)
		}
		if row.USD != -1 || row.BRL != 7 || !row.Known {
			t.Errorf("the difference costs %+v", row.Cost)
		}
		if word := ledgerValue[string](t, s, "SELECT outcome FROM gateway_usage_logs WHERE seq = -1"); word != "correction" {
			t.Errorf("its outcome is %q", word)
		}
		total := mustAgree(t, s)
		if total.Calls != 1 || total.ClientGone != 1 || total.Errors != 0 || total.Estimated != 0 || total.UnknownCost != 0 ||
			total.Output != truth.Output || total.USD.String() != truth.USD.String() || total.BRL.String() != truth.BRL.String() {
			t.Errorf("the sums are %s", counted(total))
		}
	})
}

func TestLedgerCorrectionOfUnknownCost(t *testing.T) {
	onLedgers(t, func(t *testing.T, s ledgerStore) {
		events := estimatedEvents(62, 5, 4)
		for i := range events { // by the bits of i: whether the estimate's cost is known, and the truth's
			events[i].Cost = Cost{}
			if i&1 != 0 {
				events[i].Known, events[i].USD, events[i].BRL = true, 100, 500
			}
		}
		mustRecord(t, s, events...)
		for i, truth := range events {
			truth.Usage.Source = Measured
			truth.Known, truth.USD, truth.BRL = i&2 != 0, 0, 0
			if truth.Known {
				truth.USD, truth.BRL = 130, 650
			}
			mustCorrect(t, s, truth)
		}
		// Unknown twice, 100 that stay, 130 that became known, and 130 in place of 100.
		total := mustAgree(t, s)
		if total.UnknownCost != 1 || total.Calls != 4 || total.Estimated != 0 || total.USD.Shift(12).IntPart() != 360 || total.BRL.Shift(12).IntPart() != 1800 {
			t.Errorf("the sums are %s", counted(total))
		}
	})
}

func TestLedgerCorrectionIsRefused(t *testing.T) {
	onLedgers(t, func(t *testing.T, s ledgerStore) {
		events := estimatedEvents(63, 5, 2)
		events[1].Usage.Source = Measured
		mustRecord(t, s, events...)
		truth := func(i int, change func(*Event)) Event {
			ev := events[i]
			ev.Usage.Source = Measured
			change(&ev)
			return ev
		}
		for name, ev := range map[string]Event{
			"a call that was measured":  truth(1, func(*Event) {}),
			"a call that is not there":  truth(0, func(e *Event) { e.Seq = 77 }),
			"another client's call":     truth(0, func(e *Event) { e.ClientID = uuid.New() }),
			"a call of another time":    truth(0, func(e *Event) { e.AdmittedAt = e.AdmittedAt.Add(time.Second) }),
			"another estimate":          truth(0, func(e *Event) { e.Usage.Source = Estimated }),
			"a count less than nothing": truth(0, func(e *Event) { e.Input = -1 }),
			"a cost less than nothing":  truth(0, func(e *Event) { e.Known, e.USD = true, -1 }),
		} {
			if err := s.Correct(t.Context(), ev); !errors.Is(err, ErrUnrecordable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		mustHold(t, s, events)
		for _, spoil := range []func(*Event){func(e *Event) { e.Seq = 1 << 57 }, func(e *Event) { e.Seq = -e.Seq }} {
			ev := events[0]
			spoil(&ev)
			if err := s.Record(t.Context(), []Event{ev}); !errors.Is(err, ErrUnrecordable) {
				t.Errorf("recorded %d: %v", ev.Seq, err)
			}
		}
	})
}

func TestLedgerDueEstimates(t *testing.T) {
	onLedgers(t, func(t *testing.T, s ledgerStore) {
		events := estimatedEvents(64, 1<<63+1, 9)
		events[4].Usage.Source = Measured
		events[5].Route = "direct"
		events[6].UpstreamID = "chatcmpl-1"
		events[7].UpstreamID = ""
		events[8].Usage.Source = None
		mustRecord(t, s, events...)
		mustRecord(t, s, events...)
		due := func(after time.Duration, most int) map[uint64]Estimate {
			t.Helper()
			all, err := s.DueEstimates(t.Context(), time.Now().Add(after), time.Minute, most)
			if err != nil {
				t.Fatal(err)
			}
			bySeq := map[uint64]Estimate{}
			for _, e := range all {
				bySeq[e.Seq] = e
			}
			if len(bySeq) != len(all) || len(all) > most {
				t.Fatalf("%d estimates, %d different, at most %d were asked for", len(all), len(bySeq), most)
			}
			return bySeq
		}
		if n := len(due(0, 10)); n != 0 {
			t.Errorf("%d are due at once", n)
		}
		first := due(40*time.Second, 3)
		rest := due(40*time.Second, 10)
		if len(first) != 3 || len(rest) != 1 || len(due(40*time.Second, 10)) != 0 {
			t.Errorf("%d and %d are due, want 3 and 1, and then none while they are leased", len(first), len(rest))
		}
		for seq, e := range first {
			want := events[seq-1]
			if e.Tries != 0 || e.UpstreamID != want.UpstreamID || e.Incarnation != want.Incarnation || e.Usage != want.Usage || !e.AdmittedAt.Equal(want.AdmittedAt) {
				t.Errorf("due is\n%+v, want\n%+v", e, want)
			}
		}
		again := due(2*time.Minute, 10)
		if len(again) != 4 || again[1].Tries != 1 {
			t.Errorf("%d are due after their leases, tried %d times", len(again), again[1].Tries)
		}
		put := func(seq uint64, until time.Time) {
			t.Helper()
			if err := s.PutOff(t.Context(), again[seq], until); err != nil {
				t.Fatal(err)
			}
		}
		put(1, time.Time{}) // given up
		put(2, time.Now().Add(time.Hour))
		truth := again[3].Event
		truth.Usage.Source = Measured
		mustCorrect(t, s, truth)
		last := due(10*time.Minute, 10)
		if _, four := last[4]; len(last) != 1 || !four {
			t.Errorf("%d are due of one, after one was given up, one put off and one corrected", len(last))
		}
		if later := due(2*time.Hour, 10); len(later) != 2 || later[2].Tries != 2 || later[4].Tries != 3 {
			t.Errorf("later %d are due; tried %d and %d times", len(later), later[2].Tries, later[4].Tries)
		}
		given := events[0] // the answer came after all
		given.Usage.Source = Measured
		mustCorrect(t, s, given)
	})
}

// TestLedgerDueEstimatesTogether: what one has taken, no other gets.
func TestLedgerDueEstimatesTogether(t *testing.T) {
	onLedgers(t, func(t *testing.T, s ledgerStore) {
		events := estimatedEvents(65, 3, 200)
		mustRecord(t, s, events...)
		var mu sync.Mutex
		taken := map[uint64]int{}
		var wg sync.WaitGroup
		now := time.Now().Add(time.Minute)
		for range 5 {
			wg.Go(func() {
				for {
					all, err := s.DueEstimates(context.Background(), now, time.Hour, 7)
					if err != nil {
						t.Error(err)
					}
					if len(all) == 0 {
						return
					}
					for i := range all {
						mu.Lock()
						taken[all[i].Seq]++
						mu.Unlock()
						truth := all[i].Event
						truth.Usage.Source = Measured
						truth.Output++
						if err := s.Correct(context.Background(), truth); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		for _, ev := range events {
			if taken[ev.Seq] != 1 {
				t.Errorf("%d was taken %d times", ev.Seq, taken[ev.Seq])
			}
		}
		if total := mustAgree(t, s); total.Estimated != 0 || total.Output != expected(events).Output+200 {
			t.Errorf("the sums are %s", counted(total))
		}
	})
}

// TestPostgresCorrectionsAndPartitions: rows with corrections move into their partition whole, and an estimate whose
// partition is gone is not asked about any more.
func TestPostgresCorrectionsAndPartitions(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	events := estimatedEvents(66, 4, 20)
	for i := range events {
		events[i].AdmittedAt = time.Date(2034, time.Month(1+i%2), 6, 7, 0, 0, 0, time.UTC)
	}
	mustRecord(t, p, events...)
	for _, truth := range events[:10] {
		truth.Usage.Source = Measured
		truth.Known, truth.USD, truth.BRL = true, 1, 5
		mustCorrect(t, p, truth)
	}
	before := whole(mustAgree(t, p))
	if _, err := p.MakePartitions(t.Context(), events[0].AdmittedAt, 1); err != nil {
		t.Fatal(err)
	}
	if n := pgValue[int](t, p, "SELECT count(*) FROM gateway_usage_logs_default"); n != 0 {
		t.Errorf("%d rows are left in the default partition", n)
	}
	for _, truth := range events[:10] { // again, now that they have moved
		truth.Usage.Source = Measured
		mustCorrect(t, p, truth)
	}
	if after := whole(mustAgree(t, p)); after != before {
		t.Errorf("after the move\n%s, before\n%s", after, before)
	}
	pgExec(t, p, "DROP TABLE gateway_usage_logs_2034_01")
	due, err := p.DueEstimates(t.Context(), time.Now().Add(time.Minute), time.Minute, 100)
	if err != nil || len(due) != 5 {
		t.Errorf("%d are due, %v", len(due), err)
	}
	if n := pgValue[int](t, p, "SELECT count(*) FROM usage_estimates"); n != 5 {
		t.Errorf("%d are still to be asked about", n)
	}
}

func TestPostgresLedgerTablesAreNotForEverybody(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	for _, table := range []string{"gateway_cache_performance", "usage_estimates"} {
		if !pgValue[bool](t, p, "SELECT relrowsecurity FROM pg_class WHERE oid = $1::text::regclass", table) {
			t.Errorf("%s has no row-level security", table)
		}
	}
}

// TestEventIDOfACorrection: no correction has the id of any call.
func TestEventIDOfACorrection(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	seen := map[uuid.UUID]bool{}
	for range 20_000 {
		incarnation, seq := r.Uint64N(8), 1+r.Uint64N(maxSeq)
		if r.IntN(2) == 0 {
			seq = []uint64{1 + r.Uint64N(50), maxSeq - r.Uint64N(50)}[r.IntN(2)]
		}
		call, correction := EventID(incarnation, seq), EventID(incarnation, -seq)
		if correction.Version() != 8 || correction.Variant() != uuid.RFC4122 {
			t.Fatalf("%s is no id", correction)
		}
		if was, ok := seen[call]; ok && was {
			t.Fatalf("%d has the id of a correction", seq)
		}
		if was, ok := seen[correction]; ok && !was {
			t.Fatalf("the correction of %d has the id of a call", seq)
		}
		seen[call], seen[correction] = false, true
	}
}
