package budget

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestSettleNothing(t *testing.T) {
	if err := Settle(context.Background(), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestSettleGoesToTheWindowThatAdmitted(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	c := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
	w.now = w.now.Add(48 * time.Hour)
	w.tidy()
	w.settle(c)
	w.places(window, 60, granted-60, 0, 0, 0)
	for _, row := range w.books.Windows() {
		if row.ID != window && row.Used() != 0 {
			t.Errorf("another window was charged: %+v", row)
		}
	}
}

func TestSettleWithoutAHold(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	soft := w.budget(client, 1000, func(b *Budget) { b.PauseAtLimit = false })
	all := w.budget(uuid.Nil, 100_000)
	usd := w.budget(client, 1000, func(b *Budget) { b.Unit = USD })
	later := w.budget(client, 1000, func(b *Budget) { b.Period, b.StartsAt = Weekly, w.now.Add(time.Hour) })
	c := w.charge(1, client, 60)
	c.USD = 7
	unpriced := w.charge(1, client, 40)
	unpriced.USD, unpriced.Unpriced = 99, true
	w.settle(c, unpriced, w.charge(1, uuid.New(), 5), w.charge(1, uuid.Nil, 3))
	day := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	w.places(WindowID(soft.ID, day), 0, 0, 0, 0, 100)
	w.places(WindowID(all.ID, day), 0, 0, 0, 0, 108)
	w.places(WindowID(usd.ID, day), 0, 0, 0, 0, 7)
	for _, row := range w.books.Windows() {
		if row.BudgetID == later.ID {
			t.Errorf("a window of a budget that has not begun: %+v", row)
		}
	}
	// Now the windows are there.
	w.settle(w.charge(1, client, 11))
	w.places(WindowID(soft.ID, day), 0, 0, 0, 0, 111)
	w.places(WindowID(all.ID, day), 0, 0, 0, 0, 119)
	// A window that is opened later comes with what the log has.
	late := w.budget(client, 1000, func(b *Budget) { b.Period = Monthly })
	w.settle(w.charge(1, client, 1))
	w.places(WindowID(late.ID, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)), 0, 0, 0, 0, 112)
}

func TestSettleSomeHeldAndSomeNot(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	w.budget(client, 1000)
	r := w.ask(1, Ask{Open: []Opening{{Client: client, Need: Cost{Tokens: 100}}}})
	window, granted := r.Grants[0].Window, r.Grants[0].Amount
	all := w.budget(uuid.Nil, 100_000) // set up after the proxy held
	w.settle(w.charge(1, client, 60, HeldFor{window, 100}, HeldFor{window, 100}, HeldFor{4242, 100}))
	w.places(window, 60, granted-60, 0, 0, 0)
	w.places(WindowID(all.ID, time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)), 0, 0, 0, 0, 60)
}

func TestSettleOverrunAndForgotten(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	w.settle(w.charge(1, b.ClientID, 130, HeldFor{window, 100}))
	w.places(window, 100, granted-100, 0, 30, 0)
	w.settle(w.charge(2, b.ClientID, 50, HeldFor{window, 100})) // it has no lease
	w.places(window, 150, granted-100, 0, 30, 0)
	if es := w.books.Entries(); len(es) != 1 || es[0].Kind != "forgotten" || es[0].Amount != 50 || es[0].Incarnation != 2 {
		t.Errorf("journal %+v", es)
	}
	w.check()
}

func TestDoubtAndCorrection(t *testing.T) {
	for _, c := range []struct {
		what                     string
		difference               int64
		holds                    bool
		spent, suspense, overrun int64
	}{
		{"nothing more", 0, true, 60, 0, 0},
		{"a little more", 15, true, 75, 0, 0},
		{"more than was in doubt", 50, true, 100, 0, 10},
		{"less", -20, true, 40, 0, 0},
		{"the correction does not say what was held", 15, false, 75, 0, 0},
	} {
		for _, together := range []bool{false, true} {
			w := newLedgerWorld(t)
			b := w.budget(uuid.New(), 1000)
			window, granted := w.openTokens(1, b.ClientID, 100)
			event := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
			event.Doubt = true
			correction := event
			correction.Doubt, correction.Correction, correction.Tokens = false, true, c.difference
			if !c.holds {
				correction.Holds = nil
			}
			if together {
				w.settle(event, correction)
			} else {
				w.settle(event)
				w.places(window, 60, granted-100, 40, 0, 0)
				if ds := w.books.Doubts(); len(ds) != 1 || ds[0].Amount != 40 || ds[0].EventID != event.EventID || ds[0].Window != window {
					t.Fatalf("doubts %+v", ds)
				}
				w.settle(correction)
			}
			w.places(window, c.spent, granted-100, c.suspense, c.overrun, 0)
			if ds := w.books.Doubts(); len(ds) != 0 {
				t.Errorf("%s: doubts %+v", c.what, ds)
			}
			// A second correction finds no doubt.
			correction.Tokens, correction.Holds = 5, event.Holds
			w.settle(correction)
			w.places(window, c.spent+5, granted-100, 0, c.overrun, 0)
			if t.Failed() {
				t.Fatalf("%s, together %v", c.what, together)
			}
		}
	}
}

func TestCorrectionWithoutAHold(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	event := w.charge(1, b.ClientID, 60)
	w.settle(event)
	window := WindowID(b.ID, time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC))
	for _, c := range []struct{ difference, unheld int64 }{{10, 70}, {-30, 40}} {
		correction := event
		correction.Correction, correction.Tokens = true, c.difference
		w.settle(correction)
		w.places(window, 0, 0, 0, 0, c.unheld)
	}
}

// The window's row was lost with the end of the database: it is made again, with what the log has, and the batch counts once.
func TestSettleInAWindowThatWasForgotten(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	w.settle(w.charge(2, client, 100)) // before there is a budget
	b := w.budget(client, 1000)
	saved := w.books.Snapshot()
	window, _ := w.openTokens(1, b.ClientID, 100)
	w.books.Restore(saved)
	event := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
	w.settle(event, w.charge(1, b.ClientID, 5))
	w.places(window, 60, 0, 0, 0, 105)
}

// Windows that are opened late, for events that come late, are handed what the one before each of them left, and not what a
// later one did.
func TestLateEventsOpenTheirWindows(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000, func(b *Budget) { b.CarryOver = true })
	at := func(day int) Charge {
		c := w.charge(1, b.ClientID, int64(day))
		c.AdmittedAt = march(day, 12)
		return c
	}
	w.settle(at(9))
	w.settle(at(10), at(8))
	for day, carried := range map[int]int64{8: 0, 9: 0, 10: 991} {
		row := w.window(WindowID(b.ID, march(day, 0)))
		if row.Unheld != int64(day) || row.Carried != carried {
			t.Errorf("day %d: %+v", day, row)
		}
	}
	w.check()
}

func TestThresholdsAlertOnce(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000, func(b *Budget) { b.Thresholds, b.Alert90, b.PauseAtLimit = []int{50, 120, 80, 200}, false, false })
	alerted := func() (ts []int) {
		for _, a := range w.books.Alerts() {
			if a.BudgetID != b.ID || a.ClientID != b.ClientID || a.Limit != 1000 {
				t.Errorf("%+v", a)
			}
			ts = append(ts, a.Threshold)
		}
		return ts
	}
	for _, c := range []struct {
		tokens int64
		want   int
	}{{499, 0}, {1, 1}, {100, 1}, {399, 2}, {1, 3}, {0, 3}, {-100, 3}, {100, 3}, {200, 4}, {10_000, 5}} {
		e := w.charge(1, b.ClientID, c.tokens)
		if c.tokens < 0 {
			e.Correction = true
		}
		w.settle(e)
		if got := alerted(); len(got) != c.want {
			t.Fatalf("after %d: %v", c.tokens, got)
		}
		if row := w.books.Windows()[0]; c.want > 0 && row.Alerted != []int{50, 80, 100, 120, 200}[c.want-1] {
			t.Fatalf("after %d: alerted up to %d", c.tokens, row.Alerted)
		}
	}
	w.check()
}

func TestAWindowWithoutALimitAlertsWithItsFirstUse(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 0)
	w.settle(w.charge(1, b.ClientID, 0))
	if as := w.books.Alerts(); len(as) != 0 {
		t.Fatalf("%+v", as)
	}
	w.settle(w.charge(1, b.ClientID, 1))
	if as := w.books.Alerts(); len(as) != 3 {
		t.Errorf("%+v", as)
	}
}

func TestSettleForABudgetThatWasDeleted(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	event := w.charge(1, b.ClientID, 990, HeldFor{window, 1000})
	if err := w.books.SetBudget(b.with(func(b *Budget) { b.DeletedAt = w.now })); err != nil {
		t.Fatal(err)
	}
	w.settle(event, w.charge(1, b.ClientID, 5))
	row := w.window(window)
	if row.Spent != 990 || row.Held != 0 || row.Unheld != 0 || granted > 990 {
		t.Errorf("%+v", row)
	}
	if as := w.books.Alerts(); len(as) != 0 {
		t.Errorf("alerts of a deleted budget: %+v", as)
	}
}
