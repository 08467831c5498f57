package budget

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
)

type replayStore interface {
	PastCalls(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[PastCall, error]
}

var (
	_ replayStore = (*Postgres)(nil)
	_ replayStore = (*SQLite)(nil)
)

func replayCollect(t *testing.T, calls iter.Seq2[PastCall, error]) (all []PastCall) {
	t.Helper()
	for c, err := range calls {
		if err != nil {
			t.Fatal(err)
		}
		c.At = c.At.UTC()
		all = append(all, c)
	}
	return all
}

// What the log has is what Replay is told: in order, within the time, with corrections added, and with what was held then.
func TestPastCallsOfStores(t *testing.T) {
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		clients := booksClients(t, s, 2)
		from := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
		tried := booksBudget(clients[0], BRL, Monthly, 1_000_000)
		tried.StartsAt = from.Add(-time.Hour)
		b := booksMust[Budget](t)(s.CreateBudget(ctx, tried))
		current := booksMust[[]Current](t)(NewAuthority(s, AuthorityOptions{}).Current(ctx, clients[0]))
		window := current[0].Window.ID
		charge := func(client uuid.UUID, seq uint64, after time.Duration, tokens int64, more func(*Charge)) Charge {
			c := Charge{EventID: EventID{Incarnation: 1 << 63, Seq: seq}, Client: client, AdmittedAt: from.Add(after), Cost: Cost{Tokens: tokens, BRL: 500, USD: 100}}
			if more != nil {
				more(&c)
			}
			return c
		}
		err := s.record(ctx, []Charge{
			charge(clients[0], 1, -time.Microsecond, 1, nil), // before
			charge(clients[0], 3, 2*time.Second, 30, func(c *Charge) { c.Holds = []HeldFor{{window, 900}} }),
			charge(clients[0], 2, time.Second, 20, func(c *Charge) { c.Unpriced, c.BRL, c.USD = true, 0, 0 }),
			charge(clients[1], 5, 1500*time.Millisecond, 50, nil),
			charge(clients[0], 6, time.Minute, 60, nil), // at the end
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.record(ctx, []Charge{charge(clients[0], 3, 2*time.Second, -5, func(c *Charge) { c.Correction, c.BRL, c.USD = true, -100, 7 })}); err != nil {
			t.Fatal(err)
		}
		second := PastCall{At: from.Add(time.Second), Cost: Cost{Tokens: 20, Unpriced: true}}
		third := PastCall{At: from.Add(2 * time.Second), Cost: Cost{Tokens: 25, BRL: 400, USD: 107}, Worst: Cost{BRL: 900}}
		past := s.(replayStore)
		if got := replayCollect(t, past.PastCalls(ctx, clients[0], from, from.Add(time.Minute))); !reflect.DeepEqual(got, []PastCall{second, third}) {
			t.Errorf("of the client: %+v", got)
		}
		other := PastCall{At: from.Add(1500 * time.Millisecond), Cost: Cost{Tokens: 50, BRL: 500, USD: 100}}
		third.Worst = Cost{} // whose budget that was is not looked up for all clients together
		if got := replayCollect(t, past.PastCalls(ctx, uuid.Nil, from, from.Add(time.Minute))); !reflect.DeepEqual(got, []PastCall{second, other, third}) {
			t.Errorf("of all: %+v", got)
		}
		// Once they are deleted, what was held in their windows is still known.
		if err := s.DeleteBudget(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
		third.Worst.BRL = 900
		if got := replayCollect(t, past.PastCalls(ctx, clients[0], from.Add(2*time.Second), from.Add(time.Minute))); !reflect.DeepEqual(got, []PastCall{third}) {
			t.Errorf("after the budget was deleted: %+v", got)
		}
		for range past.PastCalls(ctx, uuid.Nil, from, from.Add(time.Minute)) {
			break // whoever stops early leaves nothing behind
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		for _, err := range past.PastCalls(gone, uuid.Nil, from, from.Add(time.Minute)) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		}
		if got := replayCollect(t, past.PastCalls(ctx, clients[1], from, from.Add(time.Minute))); len(got) != 1 {
			t.Errorf("afterwards: %+v", got)
		}
	})
}

// A month of a million calls is read while it is replayed, not before. CATRACA_REPLAY_ROWS makes it that large; by
// default it is a fiftieth.
func TestReplayStreams(t *testing.T) {
	rows := 20_000
	if text := os.Getenv("CATRACA_REPLAY_ROWS"); text != "" {
		if _, err := fmt.Sscan(text, &rows); err != nil {
			t.Fatal(err)
		}
	}
	onBooksStores(t, func(t *testing.T, s booksStore) {
		client := booksClients(t, s, 1)[0]
		start := time.Date(2026, 10, 1, 3, 0, 0, 0, time.UTC)
		replayFill(t, s, client, start, rows)
		b := replayDaily(t, int64(rows)*10/31/2)
		b.ClientID, b.StartsAt, b.DeletedAt = client, start, start.AddDate(0, 1, 0)
		var before, during runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		n, most := 0, uint64(0)
		counted := func(yield func(PastCall, error) bool) {
			for c, err := range s.(replayStore).PastCalls(t.Context(), client, b.StartsAt, b.DeletedAt) {
				if n++; n%(rows/4) == 0 {
					runtime.GC()
					runtime.ReadMemStats(&during)
					most = max(most, during.HeapAlloc)
				}
				if !yield(c, err) {
					return
				}
			}
		}
		begun := time.Now()
		report, err := Replay(b, counted)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d calls in %v, heap %d KiB before and at most %d KiB during", n, time.Since(begun), before.HeapAlloc>>10, most>>10)
		if n != rows || report.Calls != int64(rows) || len(report.Windows) != 31 || report.Refused == 0 || report.Used+report.RefusedCost != int64(rows)*10 {
			t.Errorf("%d of %d rows, %+v in %d windows", n, rows, report.ReplaySum, len(report.Windows))
		}
		for _, w := range report.Windows {
			if w.Used > w.Limit {
				t.Errorf("%d used of %d", w.Used, w.Limit)
			}
		}
		// Some other test may run beside this one; a hundred thousand calls in memory would be 10 MiB.
		if rows > 500_000 && most > before.HeapAlloc+16<<20 {
			t.Errorf("the heap grew from %d to %d KiB", before.HeapAlloc>>10, most>>10)
		}
	})
}

// replayFill writes calls of 10 tokens, evenly over October.
func replayFill(t *testing.T, s booksStore, client uuid.UUID, start time.Time, rows int) {
	t.Helper()
	step := (31 * 24 * time.Hour / time.Duration(rows)).Microseconds()
	switch s.(type) {
	case *booksPostgres:
		s.exec(t, fmt.Sprintf(`INSERT INTO gateway_usage_logs (id, client_id, total_tokens, cost_brl, cost_usd, created_at, incarnation, seq, outcome, usage_source, latency_ms, budget_holds)
			SELECT gen_random_uuid(), '%s', 10, 0.0001, 0.00002, %s::timestamptz + i * interval '%d microseconds', 7, i + 1, 'ok', 'measured', 1500, '[[5,90]]' FROM generate_series(0, %d) i`,
			client, s.instant(start), step, rows-1))
	default:
		s.exec(t, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %[4]d)
			INSERT INTO gateway_usage_logs (id, client_id, total_tokens, cost_brl, cost_usd, created_at, incarnation, seq, outcome, usage_source, latency_ms, budget_holds)
			SELECT lower(hex(randomblob(16))), '%[1]s', 10, 100000000, 20000000, %[2]s + i * %[3]d, 7, i + 1, 'ok', 'measured', 1500, '[[5,90]]' FROM n`, client, s.instant(start), step, rows-1))
	}
}
