package budget

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
)

// march is an hour of March 2026, UTC.
func march(day, hour int) time.Time { return time.Date(2026, 3, day, hour, 0, 0, 0, time.UTC) }

func TestTidyOpensWindowsOnTime(t *testing.T) {
	w := newLedgerWorld(t)
	for range 2*tidyBatch + 7 {
		w.budget(uuid.New(), 1000)
	}
	starting := w.budget(uuid.New(), 1000, func(b *Budget) { b.StartsAt = march(11, 5) })
	w.tidy()
	if n := len(w.books.Windows()); n != 2*tidyBatch+7 {
		t.Fatalf("%d windows", n)
	}
	w.tidy()
	w.now = march(11, 0)
	w.tidy()
	sealed := 0
	for _, row := range w.books.Windows() {
		if row.Sealed {
			sealed++
		}
	}
	if n := len(w.books.Windows()); n != 2*(2*tidyBatch+7) || sealed != n/2 {
		t.Errorf("%d windows at midnight, %d sealed", n, sealed)
	}
	w.now = march(11, 5)
	w.tidy()
	first := w.window(WindowID(starting.ID, march(11, 5)))
	if !first.EndsAt.Equal(march(12, 0)) {
		t.Errorf("the first window of a budget that begins in the middle of a day: %+v", first)
	}
	w.check()
}

func TestANewZoneTakesEffectWithTheNextWindow(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	w.tidy()
	if err := w.books.SetBudget(b.with(func(b *Budget) { b.TimeZone = "America/Sao_Paulo" })); err != nil {
		t.Fatal(err)
	}
	for _, now := range []time.Time{march(10, 23), march(11, 0), march(11, 4), march(12, 5)} {
		w.now = now
		w.tidy()
	}
	want := [][2]time.Time{{march(10, 0), march(11, 0)}, {march(11, 0), march(11, 3)}, {march(11, 3), march(12, 3)}, {march(12, 3), march(13, 3)}}
	got := map[time.Time]time.Time{}
	for _, row := range w.books.Windows() {
		got[row.StartsAt.UTC()] = row.EndsAt.UTC()
	}
	for _, span := range want {
		if !got[span[0]].Equal(span[1]) {
			t.Errorf("no window %v; there are %v", span, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("windows %v", got)
	}
}

func TestCarryOver(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000, func(b *Budget) { b.CarryOver, b.CarryMax = true, 900 })
	today, granted := w.openTokens(1, b.ClientID, 100) // 400
	event := w.charge(1, b.ClientID, 60, HeldFor{today, 100})
	w.now = march(11, 0)
	w.tidy()
	tomorrow := WindowID(b.ID, march(11, 0))
	if row := w.window(tomorrow); row.Carried != 1000-granted || row.Limit() != 2000-granted || row.LimitVersion != 1 {
		t.Fatalf("what is held counts as used: %+v", row)
	}
	if row := w.window(today); row.Sealed {
		t.Fatal("sealed while something is held")
	}
	w.settle(event)
	w.ask(1, Ask{Return: []Return{{today, granted - 60}}})
	w.tidy()
	if row := w.window(tomorrow); row.Carried != 900 || row.LimitVersion != 2 {
		t.Errorf("sealed: %+v", row)
	}
	if row := w.window(today); !row.Sealed || row.Spent != 60 {
		t.Errorf("today %+v", row)
	}
	if l := w.books.Leases()[0]; !l.Closed {
		t.Errorf("lease %+v", l)
	}
	w.check()
}

func TestDebt(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000, func(b *Budget) { b.Debt = true })
	w.settle(w.charge(1, b.ClientID, 1300))
	late := w.charge(1, b.ClientID, 90)
	w.now = march(11, 0)
	window, _ := w.openTokens(2, b.ClientID, 100)
	if row := w.window(window); row.Carried != -300 || row.Limit() != 700 {
		t.Fatalf("%+v", row)
	}
	w.settle(late)
	w.tidy()
	if row := w.window(window); row.Carried != -390 || row.Limit() != 610 {
		t.Errorf("after a late charge: %+v", row)
	}
	w.check()
}

func TestWindowsAreSealedInTheirOrderAndInTime(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000, func(b *Budget) { b.CarryOver = true })
	first, granted := w.openTokens(1, b.ClientID, 100)
	if err := w.auth.Suspend(context.Background(), 1, "gone"); err != nil {
		t.Fatal(err)
	}
	for day := 11; day <= 12; day++ {
		w.now = march(day, 0)
		w.tidy()
	}
	w.now = march(13, 0).Add(-time.Second)
	w.tidy()
	for _, row := range w.books.Windows() {
		if row.Sealed {
			t.Errorf("sealed: %+v", row)
		}
	}
	w.now = march(13, 0)
	w.tidy()
	for day, carried := range map[int]int64{10: 0, 11: 1000 - granted, 12: 2000 - granted, 13: 3000 - granted} {
		row := w.window(WindowID(b.ID, march(day, 0)))
		if row.Sealed != (day < 13) || row.Carried != carried {
			t.Errorf("day %d: %+v", day, row)
		}
	}
	w.places(first, 0, 0, granted, 0, 0)
}

// Two budgets are sealed at once, one of them two days late; each hands on to the window that comes next.
func TestWhatIsSealedLateGoesToTheNextWindow(t *testing.T) {
	w := newLedgerWorld(t)
	carrying := func(b *Budget) { b.CarryOver = true }
	late, prompt := w.budget(uuid.New(), 1000, carrying), w.budget(uuid.New(), 100, carrying)
	first, _ := w.openTokens(1, late.ClientID, 100)
	if err := w.auth.Suspend(context.Background(), 1, "gone"); err != nil {
		t.Fatal(err)
	}
	for day := 10; day <= 12; day++ {
		w.now = march(day, 0).Add(15 * time.Hour)
		if day == 12 {
			if err := w.auth.ReleaseDoubts(context.Background(), first, "nothing was used"); err != nil {
				t.Fatal(err)
			}
		}
		w.tidy()
	}
	for day := 10; day <= 12; day++ {
		for b, limit := range map[*Budget]int64{&late: 1000, &prompt: 100} {
			row := w.window(WindowID(b.ID, march(day, 0)))
			if row.Limit() != limit*int64(day-9) || row.Sealed != (day < 12) {
				t.Errorf("day %d of %d: %+v", day, limit, row)
			}
		}
	}
	w.check()
}

func TestDoubtsEndWithTheirWindow(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000, func(b *Budget) { b.CarryOver = true })
	window, granted := w.openTokens(1, b.ClientID, 100)
	event := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
	event.Doubt = true
	w.settle(event)
	w.ask(1, Ask{Return: []Return{{window, granted - 100}}})
	w.now = march(12, 23)
	w.tidy()
	if len(w.books.Doubts()) != 1 {
		t.Fatal("the doubt is gone before the window is sealed")
	}
	w.now = march(13, 0)
	w.tidy()
	w.places(window, 60, 0, 0, 0, 0)
	if ds := w.books.Doubts(); len(ds) != 0 {
		t.Errorf("doubts %+v", ds)
	}
	if row := w.window(WindowID(b.ID, march(12, 0))); row.Carried != 900 {
		t.Errorf("what was in doubt counts as used: carried %d", row.Carried)
	}
	event.Doubt, event.Correction, event.Tokens = false, true, 15
	w.settle(event)
	w.places(window, 75, 0, 0, 0, 0)
}

func TestBooksOfAnotherDatabaseAreLearnedAnew(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, first := w.openTokens(1, b.ClientID, 100)
	w.openTokens(2, b.ClientID, 10)
	saved := w.books.Snapshot()
	more := w.ask(1, Ask{Want: []Want{{window, 100, 100, 0}}}).Grants[0].Amount
	w.ask(1, Ask{Return: []Return{{window, 50}}})
	third, _ := w.openTokens(3, b.ClientID, 20)
	if third != window || more == 0 {
		t.Fatal("the scene")
	}
	threeHas := w.window(window).Held
	for _, l := range w.books.Leases() {
		if l.Incarnation != 3 {
			threeHas -= l.Rest()
		}
	}
	w.books.Restore(saved)

	// Two has lost nothing, but it is told.
	r := w.ask(2, Ask{Want: []Want{{window, 1, 1, 1}}, Return: []Return{{window, 0}}})
	if !r.Learning || !r.Assert || r.Epoch != 2 || r.Grants[0].Amount != 0 {
		t.Fatalf("%+v", r)
	}
	// One has a gap; it is known why.
	if r = w.ask(1, Ask{Want: []Want{{window, 1, 1, 1}}}); !r.Learning || !r.Assert || r.Epoch != 2 {
		t.Fatalf("%+v", r)
	}
	// Three was forgotten altogether.
	if r = w.ask(3, Ask{Return: []Return{{window, 5}}}); !r.Learning || !r.Assert || r.Epoch != 2 {
		t.Fatalf("%+v", r)
	}
	assertion := Assertion{Client: b.ClientID, Budget: b.ID, Window: window, StartsAt: march(10, 0)}
	assert := func(incarnation uint64, granted, returned int64) Reply {
		a := assertion
		a.Granted, a.Returned = granted, returned
		return w.ask(incarnation, Ask{Assert: []Assertion{a}, Refused: []int64{window}})
	}
	if r = assert(1, first+more, 50); !r.Learning || r.Assert {
		t.Fatalf("%+v", r)
	}
	w.now = w.now.Add(w.auth.o.LearnAtLeast)
	w.tidy() // two, heard lately, has not spoken
	if r = assert(3, threeHas, 5); !r.Learning || r.Assert {
		t.Fatalf("%+v", r)
	}
	assert(2, 40, 0)
	w.places(window, 0, first+more-50+threeHas-5+40, 0, 0, 0)
	w.tidy()
	if r = w.ask(3, Ask{Want: []Want{{window, 1, 1, 0}}}); r.Learning || r.Assert || r.Grants[0].Amount != 1 {
		t.Fatalf("after learning: %+v", r)
	}
	if as := w.books.Alerts(); len(as) != 0 {
		t.Errorf("what was refused while learning was not the limit: %+v", as)
	}
	w.check()
}

func TestLearningWaitsAtLeastAndAtMost(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	w.now = w.now.Add(2 * heardLately)
	w.openTokens(2, b.ClientID, 1)
	saved := w.books.Snapshot()
	w.books.Restore(saved)
	learning := func(after time.Duration) bool {
		w.now = w.now.Add(after)
		w.tidy()
		return w.ask(9, Ask{}).Learning
	}
	if !learning(0) || !learning(w.auth.o.LearnAtLeast) || !learning(w.auth.o.LearnFor-w.auth.o.LearnAtLeast-1) {
		t.Fatal("granting while one that was heard lately is silent")
	}
	if learning(time.Microsecond) {
		t.Fatal("still learning")
	}
	for _, h := range w.books.Holders() {
		if (h.State == Lost) != (h.Incarnation < 9) {
			t.Errorf("incarnation %d is %s", h.Incarnation, h.State)
		}
	}
	w.places(window, 0, 0, granted+4, 0, 0)
	if r := w.ask(1, Ask{}); !r.Assert || r.Learning {
		t.Errorf("a lost one speaks: %+v", r)
	}
	w.places(window, 0, granted, 4, 0, 0)

	// Nobody else was heard lately: only those that were forgotten are waited for.
	w = newLedgerWorld(t)
	w.ask(1, Ask{})
	w.now = w.now.Add(2 * heardLately)
	c := w.budget(uuid.New(), 1000)
	w.openTokens(3, c.ClientID, 100)
	w.ask(3, Ask{Leaving: true}) // with events on their way: it will not speak again
	w.books.Restore(w.books.Snapshot())
	if !learning(0) || !learning(w.auth.o.LearnAtLeast-1) || learning(1) {
		t.Error("with nobody to wait for, learning takes LearnAtLeast")
	}
	if h := w.books.Holders()[0]; h.State != Live {
		t.Errorf("one that is only silent is %s", h.State)
	}
}

func TestAnIncarnationBetraysALoss(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	lease := func(a Ask) Reply {
		t.Helper()
		r, err := w.auth.Lease(context.Background(), a)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// A gap in its own messages, in this epoch.
	if r := lease(Ask{Incarnation: 1, Op: 3, Epoch: 1}); r.Epoch != 2 || !r.Learning || !r.Assert {
		t.Fatalf("%+v", r)
	}
	// A gap from before this epoch is the same loss; one of an unknown incarnation too.
	if r := lease(Ask{Incarnation: 1, Op: 5, Epoch: 1}); r.Epoch != 2 {
		t.Fatalf("%+v", r)
	}
	if r := lease(Ask{Incarnation: 7, Op: 5, Epoch: 1}); r.Epoch != 2 || !r.Assert {
		t.Fatalf("%+v", r)
	}
	// One that nobody knows, with an answer from this epoch.
	if r := lease(Ask{Incarnation: 8, Op: 5, Epoch: 2}); r.Epoch != 3 || !r.Assert {
		t.Fatalf("%+v", r)
	}
	// An epoch that the books have forgotten.
	if r := lease(Ask{Incarnation: 1, Op: 6, Epoch: 9, Assert: []Assertion{{b.ClientID, b.ID, window, march(10, 0), granted, 0}}}); r.Epoch != 10 || !r.Learning || !r.Assert {
		t.Fatalf("%+v", r)
	}
	if r := lease(Ask{Incarnation: 1, Op: 7, Epoch: 10}); r.Epoch != 10 || r.Assert {
		t.Fatalf("%+v", r)
	}
	w.check()
}

func TestAssertionsMakeForgottenWindowsAgain(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	w.ask(1, Ask{})
	saved := w.books.Snapshot()
	window, granted := w.openTokens(1, b.ClientID, 100)
	w.openTokens(2, b.ClientID, 10)
	w.books.Restore(saved)
	w.ask(1, Ask{})
	gone := Assertion{Client: uuid.New(), Budget: uuid.New(), Window: 99, StartsAt: march(10, 0), Granted: 5}
	forged := Assertion{Client: b.ClientID, Budget: b.ID, Window: 98, StartsAt: march(9, 0), Granted: 5}
	w.ask(1, Ask{Assert: []Assertion{{b.ClientID, b.ID, window, march(10, 0), granted, 0}, gone, forged}})
	w.places(window, 0, granted, 0, 0, 0)
	row := w.window(window)
	if len(w.books.Windows()) != 1 || row.Limit() != 1000 || !row.EndsAt.Equal(march(11, 0)) || row.BudgetID != b.ID {
		t.Errorf("%+v", row)
	}
}
