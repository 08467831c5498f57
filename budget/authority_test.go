package budget

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

func TestOpenGrantsAFirstSlice(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	daily := w.budget(client, 1000)
	monthly := w.budget(client, 100_000, func(b *Budget) { b.Period, b.Unit = Monthly, USD })
	soft := w.budget(client, 500, func(b *Budget) { b.Period, b.PauseAtLimit = Weekly, false })
	w.budget(uuid.New(), 1000) // another client's
	w.books.SetPolicy(client, Policy{AtLimit: Handoff, ContactBRL: 5, ConversationBRL: 7})
	r := w.ask(1, Ask{Open: []Opening{{Client: client, Need: Cost{Tokens: 10, USD: 2000}}, {Client: uuid.New()}}})
	if len(r.Accounts) != 2 || len(r.Accounts[0].Windows) != 3 || len(r.Accounts[1].Windows) != 0 {
		t.Fatalf("%+v", r.Accounts)
	}
	if p := r.Accounts[0].Policy; p == nil || *p != (Policy{AtLimit: Handoff, ContactBRL: 5, ConversationBRL: 7}) || r.Accounts[1].Policy != nil {
		t.Errorf("policies %+v, %+v", p, r.Accounts[1].Policy)
	}
	want := map[int64]int64{
		WindowID(daily.ID, time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)):  40,
		WindowID(monthly.ID, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)): 8000,
		WindowID(soft.ID, time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC)):    0,
	}
	for _, g := range r.Grants {
		if amount, known := want[g.Window]; !known || amount != g.Amount {
			t.Errorf("grant %+v, want %v", g, want)
		}
	}
	for _, s := range r.Windows {
		if s.Held != want[s.ID] || s.Free != s.Limit-s.Held || s.Client != client || s.Hard != (s.Budget != soft.ID) {
			t.Errorf("state %+v", s)
		}
	}
	if len(r.Grants) != 3 || len(r.Windows) != 3 || r.Op != 1 || r.Epoch != 1 || r.Learning || r.Assert {
		t.Errorf("%+v", r)
	}
	w.check()
}

func TestOpenAhead(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	w.budget(client, 1000)
	w.budget(client, 1000, func(b *Budget) { b.Period, b.Debt = Weekly, true })
	later := w.budget(client, 1000, func(b *Budget) { b.Period, b.StartsAt = Monthly, w.now.Add(time.Hour) })
	r := w.ask(1, Ask{Open: []Opening{{Client: client, Need: Cost{Tokens: 10}, Ahead: true}}})
	if a := r.Accounts[0]; len(a.Windows) != 2 || len(a.Next) != 2 || len(r.Grants) != 4 {
		t.Fatalf("%+v", r)
	}
	tomorrow := w.window(r.Accounts[0].Next[0])
	if !tomorrow.StartsAt.Equal(time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC)) || tomorrow.Held != 40 {
		t.Errorf("tomorrow %+v", tomorrow)
	}
	first := w.window(r.Accounts[0].Next[1])
	if first.BudgetID != later.ID || !first.StartsAt.Equal(w.now.Add(time.Hour)) || !first.EndsAt.Equal(time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the one that has not begun: %+v", first)
	}
	w.now = w.now.Add(9 * time.Hour) // tomorrow
	if r := w.ask(1, Ask{Open: []Opening{{Client: client}}}); !slices.Contains(r.Accounts[0].Windows, tomorrow.ID) || len(r.Accounts[0].Windows) != 3 {
		t.Errorf("the window of tomorrow is not the one of now: %+v", r.Accounts)
	}
	w.check()
}

func TestPausedAccounts(t *testing.T) {
	w := newLedgerWorld(t)
	w.budget(uuid.Nil, 1000, func(b *Budget) { b.Paused, b.PausedReason = true, "for the weekend" })
	r := w.ask(1, Ask{Open: []Opening{{Client: uuid.Nil}}})
	if a := r.Accounts[0]; !a.IsPaused || a.Paused != "for the weekend" || len(a.Windows) != 1 {
		t.Errorf("%+v", a)
	}
}

func TestARepeatedMessageChangesNothing(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 10)
	ask := Ask{
		Incarnation: 1, Name: "a", Op: 2, Epoch: 1, Open: []Opening{{Client: b.ClientID, Need: Cost{Tokens: 3}}},
		Want: []Want{{Window: window, Least: 5, Need: 5, More: 20}}, Return: []Return{{window, 7}}, Refused: []int64{window}, Watch: []int64{window},
	}
	first, err := w.auth.Lease(context.Background(), ask)
	if err != nil {
		t.Fatal(err)
	}
	before := w.books.at.copy()
	w.now = w.now.Add(time.Minute)
	again, err := w.auth.Lease(context.Background(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if !again.At.Equal(first.At.Add(time.Minute)) {
		t.Errorf("the time of the repeated answer is %s", again.At)
	}
	if again.At = first.At; !reflect.DeepEqual(first, again) {
		t.Errorf("first %+v\nagain %+v", first, again)
	}
	if !reflect.DeepEqual(before, w.books.at.copy()) {
		t.Error("repeating a message changed the books")
	}
	for _, op := range []uint64{0, 1} {
		ask.Op = op
		if op == 0 {
			ask.Incarnation = 55
		} else {
			ask.Incarnation = 1
		}
		if _, err := w.auth.Lease(context.Background(), ask); !errors.Is(err, ErrStale) {
			t.Errorf("message %d after 2: %v", op, err)
		}
	}
	w.check()
}

func TestAStoredAnswerThatCannotBeReadIsAnError(t *testing.T) {
	w := newLedgerWorld(t)
	w.ask(1, Ask{})
	w.books.at.holders[1].Reply = []byte("{")
	_, err := w.auth.Lease(context.Background(), Ask{Incarnation: 1, Op: 1})
	if err == nil || errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "stored answer 1 of incarnation 1") {
		t.Errorf("%v", err)
	}
}

func TestWantReturnAndRefused(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 10)
	r := w.ask(1, Ask{Want: []Want{{window, 10, 10, 50}, {999, 1, 1, 1}}})
	if want := []Grant{{window, 60}, {999, 0}}; !slices.Equal(r.Grants, want) {
		t.Errorf("grants %v, want %v", r.Grants, want)
	}
	w.places(window, 0, 100, 0, 0, 0)
	w.ask(1, Ask{Return: []Return{{window, 30}, {999, 5}}})
	w.places(window, 0, 70, 0, 0, 0)
	w.ask(1, Ask{Return: []Return{{window, 700}}})
	w.places(window, 0, 0, 0, 0, 0)
	w.ask(2, Ask{Return: []Return{{window, 700}}}) // it has none of it
	w.places(window, 0, 0, 0, 0, 0)
	first := w.now
	for range 3 {
		w.ask(1, Ask{Refused: []int64{window, window, 12345}})
		w.now = w.now.Add(time.Second)
	}
	if as := w.books.Alerts(); len(as) != 1 || as[0].Threshold != 100 || as[0].Window != window || as[0].LimitVersion != 1 || as[0].Limit != 1000 || !as[0].At.Equal(first) {
		t.Errorf("alerts %+v", as)
	}
	if err := w.books.SetBudget(b.with(func(b *Budget) { b.Limit = 2000 })); err != nil {
		t.Fatal(err)
	}
	w.ask(1, Ask{Refused: []int64{window}})
	if as := w.books.Alerts(); len(as) != 2 || as[1].LimitVersion != 2 {
		t.Errorf("under the new limit it was not alerted again: %+v", as)
	}
	soft := w.budget(uuid.New(), 1000, func(b *Budget) { b.PauseAtLimit = false })
	r = w.ask(1, Ask{Open: []Opening{{Client: soft.ClientID}}})
	w.ask(1, Ask{Refused: r.Accounts[0].Windows})
	if as := w.books.Alerts(); len(as) != 2 {
		t.Errorf("nothing is refused for a limit that only alerts: %+v", as)
	}
	if err := w.books.SetBudget(b.with(func(b *Budget) { b.Limit, b.Alert100 = 3000, false })); err != nil {
		t.Fatal(err)
	}
	w.ask(1, Ask{Refused: []int64{window}})
	if as := w.books.Alerts(); len(as) != 2 {
		t.Errorf("alerted although that is off: %+v", as)
	}
	w.check()
}

func (b Budget) with(change func(*Budget)) Budget {
	change(&b)
	return b
}

func TestNothingIsGrantedOfAWindowThatIsOver(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 10)
	w.now = time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC).Add(-time.Microsecond)
	if r := w.ask(1, Ask{Want: []Want{{window, 1, 1, 0}}}); r.Grants[0].Amount != 1 {
		t.Errorf("at its end: %+v", r.Grants)
	}
	w.now = w.now.Add(time.Microsecond)
	if r := w.ask(1, Ask{Want: []Want{{window, 1, 1, 0}}}); r.Grants[0].Amount != 0 {
		t.Errorf("after its end: %+v", r.Grants)
	}
	// The end may come while a lock is waited for.
	next, _ := w.openTokens(1, b.ClientID, 10)
	end := w.window(next).EndsAt
	w.now = end.Add(-time.Second)
	asked := 0
	clock := w.books.now
	w.books.now = func() time.Time {
		if asked++; asked > 1 {
			return end
		}
		return clock()
	}
	if r := w.ask(1, Ask{Want: []Want{{next, 1, 1, 0}}}); r.Grants[0].Amount != 0 {
		t.Errorf("ended in the meantime: %+v", r.Grants)
	}
}

func TestExactModeIsToldToAll(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 10)
	w.openTokens(2, b.ClientID, 10)
	w.ask(1, Ask{Want: []Want{{window, 880, 880, 0}}}) // more than a share: two sharers
	w.now = w.now.Add(tellEvery)
	r := w.ask(2, Ask{})
	if len(r.Windows) != 1 || r.Windows[0].Recall != 1 || !r.Windows[0].Exact {
		t.Errorf("the other one was told %+v", r.Windows)
	}
	if r := w.ask(2, Ask{Want: []Want{{window, 5, 20, 100}}}); r.Grants[0].Amount != 20 {
		t.Errorf("grants %+v", r.Grants)
	}
	if r := w.ask(2, Ask{Want: []Want{{window, 50, 90, 100}}}); r.Grants[0].Amount != 0 {
		t.Errorf("grants %+v of %d that are free", r.Grants, w.window(window).Free())
	}
	w.ask(1, Ask{Return: []Return{{window, 880}}})
	r = w.ask(2, Ask{Want: []Want{{window, 5, 20, 100}}})
	if r.Grants[0].Amount != 112 || r.Windows[0].Exact || r.Windows[0].Recall != 1 {
		t.Errorf("after it came back: %+v", r)
	}
	w.check()
}

func TestStatesOfLeasedWindowsAreToldWhenTheyChange(t *testing.T) {
	w := newLedgerWorld(t)
	b, other := w.budget(uuid.New(), 1000), w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 10)
	watched, _ := w.openTokens(2, other.ClientID, 10)
	w.now = w.now.Add(time.Minute)
	w.ask(1, Ask{})
	w.now = w.now.Add(time.Minute)
	if r := w.ask(1, Ask{}); len(r.Windows) != 0 {
		t.Errorf("nothing changed: %+v", r.Windows)
	}
	if r := w.ask(1, Ask{Watch: []int64{watched, 77}}); len(r.Windows) != 1 || r.Windows[0].ID != watched {
		t.Errorf("watched: %+v", r.Windows)
	}
	w.settle(w.charge(3, b.ClientID, 60))
	if r := w.ask(1, Ask{}); len(r.Windows) != 0 {
		t.Errorf("told again at once: %+v", r.Windows)
	}
	w.now = w.now.Add(tellEvery)
	if r := w.ask(1, Ask{}); len(r.Windows) != 1 || r.Windows[0].ID != window || r.Windows[0].Used != 60 {
		t.Errorf("somebody else changed it: %+v", r.Windows)
	}
}

func TestCloseOnlyByProof(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	first, second := w.charge(1, b.ClientID, 60, HeldFor{window, 100}), w.charge(1, b.ClientID, 70, HeldFor{window, 100})
	w.settle(second)
	if r := w.ask(2, Ask{Close: []Close{{1, 2}}}); len(r.Closed) != 0 {
		t.Fatalf("closed before all had arrived: %v", r.Closed)
	}
	w.places(window, 70, granted-70, 0, 0, 0)
	w.settle(first)
	if r := w.ask(2, Ask{Close: []Close{{1, 3}}}); len(r.Closed) != 0 {
		t.Fatalf("closed before all had arrived: %v", r.Closed)
	}
	if r := w.ask(2, Ask{Close: []Close{{1, 2}, {2, 0}, {77, 5}}}); !slices.Equal(r.Closed, []uint64{77, 1}) {
		t.Fatalf("closed %v; a proxy does not close itself, and one that is not known is done with", r.Closed)
	}
	w.places(window, 130, 0, 0, 0, 0)
	if r := w.ask(2, Ask{Close: []Close{{1, 2}}}); !slices.Equal(r.Closed, []uint64{1}) {
		t.Errorf("asked again: %v", r.Closed)
	}
	if _, err := w.tryAsk(1, Ask{}); !errors.Is(err, ErrStale) {
		t.Errorf("a closed incarnation speaks: %v", err)
	}
	entries := w.books.Entries()
	if last := entries[len(entries)-1]; last.Kind != "close" || last.Amount != granted-130 || last.Incarnation != 1 {
		t.Errorf("journal %+v", last)
	}
}

func TestLeavingIsClosedWhenAllIsSettled(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	event := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
	w.ask(1, Ask{Return: []Return{{window, granted - 60}}, Leaving: true})
	if _, err := w.tryAsk(1, Ask{}); !errors.Is(err, ErrStale) {
		t.Errorf("one that left speaks: %v", err)
	}
	w.tidy()
	if r := w.ask(2, Ask{Close: []Close{{1, 1}}}); len(r.Closed) != 0 {
		t.Errorf("closed before its event arrived: %v", r.Closed)
	}
	w.places(window, 0, 60, 0, 0, 0)
	if h := w.books.Holders()[0]; h.State != Left {
		t.Errorf("state %s while 60 are held", h.State)
	}
	w.settle(event)
	w.tidy()
	w.places(window, 60, 0, 0, 0, 0)
	if h := w.books.Holders()[0]; h.State != Closed || !w.books.Leases()[0].Closed {
		t.Errorf("state %s when all is settled", h.State)
	}
	if r, err := w.auth.Lease(context.Background(), Ask{Incarnation: 1, Op: 2, Epoch: 1}); err != nil || r.Op != 2 {
		t.Errorf("its last message repeated: %+v, %v", r, err)
	}
}

func TestSuspendedOneSpeaksAgain(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	if err := w.auth.Suspend(context.Background(), 1, "its node burned down"); err != nil {
		t.Fatal(err)
	}
	w.places(window, 0, 0, granted, 0, 0)
	w.settle(w.charge(1, b.ClientID, 60, HeldFor{window, 100}))
	w.places(window, 60, 0, granted-60, 0, 0)
	w.ask(1, Ask{})
	w.places(window, 60, granted-60, 0, 0, 0)
	if h := w.books.Holders()[0]; h.State != Live {
		t.Errorf("state %s", h.State)
	}
	var kinds []string
	for _, e := range w.books.Entries() {
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); got != "suspend resume" || w.books.Entries()[0].Reason != "its node burned down" {
		t.Errorf("journal: %s", got)
	}
	if err := w.auth.Suspend(context.Background(), 99, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("Suspend of nobody: %v", err)
	}
}

func TestSuspendedOneIsClosedByProof(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 100)
	event := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
	if err := w.auth.Suspend(context.Background(), 1, "gone"); err != nil {
		t.Fatal(err)
	}
	w.settle(event)
	w.ask(2, Ask{Close: []Close{{1, 1}}})
	w.places(window, 60, 0, 0, 0, 0)
	if err := w.auth.Suspend(context.Background(), 1, "again"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Suspend of a closed one: %v", err)
	}
}

func TestAWindowOpensWithTheAlertsOfWhatWasUsed(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	w.settle(w.charge(1, client, 850))
	w.budget(client, 1000)
	w.ask(1, Ask{Open: []Opening{{Client: client}}})
	if as := w.books.Alerts(); len(as) != 1 || as[0].Threshold != 80 || as[0].Used != 850 {
		t.Errorf("alerts %+v", as)
	}
	w.check()
}

func TestReleaseDoubts(t *testing.T) {
	w := newLedgerWorld(t)
	client := uuid.New()
	b := w.budget(client, 1000)
	w.budget(client, 1000, func(b *Budget) { b.Period = Weekly })
	r := w.ask(1, Ask{Open: []Opening{{Client: client, Need: Cost{Tokens: 100}}}})
	day, week := r.Accounts[0].Windows[0], r.Accounts[0].Windows[1]
	if w.window(day).BudgetID != b.ID {
		t.Fatal("the order of budgets")
	}
	c := w.charge(1, client, 60, HeldFor{day, 100}, HeldFor{week, 100})
	c.Doubt = true
	w.settle(c)
	if err := w.auth.Suspend(context.Background(), 1, "gone"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{day, week} {
		row := w.window(id)
		w.places(id, 60, 0, row.Suspense, 0, 0)
		if row.Suspense < 40 || row.Free() != 1000-60-row.Suspense {
			t.Fatalf("%+v", row)
		}
		if err := w.auth.ReleaseDoubts(context.Background(), id, "the provider's bill says so"); err != nil {
			t.Fatal(err)
		}
		w.places(id, 60, 0, 0, 0, 0)
		if state := w.books.Holders()[0].State; (state == Closed) != (id == week) {
			t.Errorf("the incarnation is %s", state)
		}
	}
	if _, err := w.tryAsk(1, Ask{}); !errors.Is(err, ErrStale) {
		t.Errorf("one whose leases were released speaks: %v", err)
	}
	if err := w.auth.ReleaseDoubts(context.Background(), 5, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("ReleaseDoubts of no window: %v", err)
	}
	if err := w.auth.ReleaseDoubts(context.Background(), day, "again"); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestTopUp(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	ctx := context.Background()
	if err := w.auth.TopUp(ctx, b.ID, 500, "a campaign"); err != nil {
		t.Fatal(err)
	}
	current, err := w.auth.Current(ctx, b.ClientID, uuid.Nil)
	if err != nil || len(current) != 1 || current[0].Window.Limit() != 1500 || current[0].Window.LimitVersion != 2 || current[0].Budget.ID != b.ID {
		t.Fatalf("%+v, %v", current, err)
	}
	if e := w.books.Entries()[0]; e.Kind != "top_up" || e.Amount != 500 || e.Reason != "a campaign" || e.Window != current[0].Window.ID {
		t.Errorf("journal %+v", e)
	}
	future := w.budget(uuid.New(), 1000, func(b *Budget) { b.StartsAt = w.now.Add(time.Hour) })
	for _, id := range []uuid.UUID{uuid.New(), future.ID} {
		if err := w.auth.TopUp(ctx, id, 1, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("TopUp: %v", err)
		}
	}
	for _, amount := range []int64{0, -1, MaxLimit + 1} {
		if err := w.auth.TopUp(ctx, b.ID, amount, ""); err == nil {
			t.Errorf("a top-up of %d was accepted", amount)
		}
	}
	if current, err := w.auth.Current(ctx, future.ClientID); err != nil || len(current) != 1 || current[0].Window != nil {
		t.Errorf("a budget that has not begun: %+v, %v", current, err)
	}
	w.now = w.now.Add(24 * time.Hour)
	if current, err := w.auth.Current(ctx, b.ClientID); err != nil || current[0].Window.Limit() != 1000 {
		t.Errorf("the day after: %+v, %v", current, err)
	}
}

func TestALimitThatChanges(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 400)
	w.settle(w.charge(1, b.ClientID, 300, HeldFor{window, 400}))
	held := w.window(window).Held
	if err := w.books.SetBudget(b.with(func(b *Budget) { b.Limit = 350 })); err != nil {
		t.Fatal(err)
	}
	w.places(window, 300, held, 0, 0, 0)
	if row := w.window(window); row.Committed != 300+held || row.Recall != 1 || row.LimitVersion != 2 {
		t.Errorf("lowered: %+v", row)
	}
	if as := w.books.Alerts(); len(as) != 1 || as[0].Threshold != 80 || as[0].LimitVersion != 2 || as[0].Used != 300 {
		t.Errorf("a limit that comes down to what was used is a threshold crossed: %+v", as)
	}
	if r := w.ask(2, Ask{Want: []Want{{window, 1, 1, 1}}}); r.Grants[0].Amount != 0 {
		t.Errorf("granted %v of a limit that is committed", r.Grants)
	}
	unused := w.budget(uuid.New(), 10)
	w.openTokens(1, unused.ClientID, 1)
	if err := w.books.SetBudget(unused.with(func(b *Budget) { b.Limit = 0 })); err != nil {
		t.Fatal(err)
	}
	if as := w.books.Alerts(); len(as) != 1 {
		t.Errorf("alerts of a budget of which nothing was used: %+v", as)
	}
	w.settle(w.charge(1, b.ClientID, held, HeldFor{window, held})) // admitted before
	w.places(window, 300+held, 0, 0, 0, 0)
	if err := w.books.SetBudget(b.with(func(b *Budget) { b.Limit, b.PauseAtLimit = 5000, false })); err != nil {
		t.Fatal(err)
	}
	if row := w.window(window); row.Limit() != 5000 || row.Committed != 0 || row.Hard || row.Alerted != 0 {
		t.Errorf("raised: %+v", row)
	}
	w.check()
}

func TestPolicyAmountsSurviveTheWire(t *testing.T) {
	s := AccountState{Client: uuid.New(), Policy: &Policy{AtLimit: Answer, ConversationBRL: 3 * money.Unit, ContactBRL: 1}, Windows: []int64{1 << 62}, IsPaused: true}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back AccountState
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(s, back) {
		t.Errorf("%s came back as %+v, %v", text, back, err)
	}
}

func TestOneThatIsAliveIsNotTakenForLost(t *testing.T) {
	w := newLedgerWorld(t)
	w.auth = NewAuthority(w.books, AuthorityOptions{AliveFor: 15 * time.Second})
	w.openTokens(1, w.budget(uuid.New(), 1000).ClientID, 100)
	if err := w.auth.Suspend(t.Context(), 1, "gone"); !errors.Is(err, ErrAlive) {
		t.Errorf("of one that spoke just now: %v", err)
	}
	w.now = w.now.Add(15 * time.Second)
	if err := w.auth.Suspend(t.Context(), 1, "gone"); err != nil {
		t.Errorf("of one that is silent: %v", err)
	}
}
