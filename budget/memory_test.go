package budget

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
)

// ledgerWorld is an authority over books in memory, with a clock that a test sets.
type ledgerWorld struct {
	t     *testing.T
	now   time.Time
	books *Memory
	auth  *Authority
	ops   map[uint64]uint64
	seen  map[uint64]int64 // epoch
	seq   map[uint64]uint64
}

func newLedgerWorld(t *testing.T) *ledgerWorld {
	w := &ledgerWorld{t: t, now: time.Date(2026, 3, 10, 15, 0, 0, 0, time.UTC), ops: map[uint64]uint64{}, seen: map[uint64]int64{}, seq: map[uint64]uint64{}}
	w.books = NewMemory(func() time.Time { return w.now })
	w.auth = NewAuthority(w.books, AuthorityOptions{})
	return w
}

// budget adds a hard daily token budget of UTC days, changed as a test wants.
func (w *ledgerWorld) budget(client uuid.UUID, limit int64, change ...func(*Budget)) Budget {
	b := Budget{ID: uuid.New(), ClientID: client, Unit: Tokens, Period: Daily, Limit: limit, PauseAtLimit: true, TimeZone: "UTC", Alert80: true, Alert90: true, Alert100: true}
	for _, c := range change {
		c(&b)
	}
	if err := w.books.SetBudget(b); err != nil {
		w.t.Fatal(err)
	}
	return b
}

// ask sends the next message of an incarnation.
func (w *ledgerWorld) ask(incarnation uint64, a Ask) Reply {
	w.t.Helper()
	r, err := w.tryAsk(incarnation, a)
	if err != nil {
		w.t.Fatalf("message %d of %d: %v", w.ops[incarnation], incarnation, err)
	}
	return r
}

func (w *ledgerWorld) tryAsk(incarnation uint64, a Ask) (Reply, error) {
	w.ops[incarnation]++
	a.Incarnation, a.Op, a.Epoch = incarnation, w.ops[incarnation], w.seen[incarnation]
	r, err := w.auth.Lease(context.Background(), a)
	if err == nil {
		w.seen[incarnation] = r.Epoch
	}
	return r, err
}

// openTokens opens an account whose only window is a token one, and tells the window and what was granted.
func (w *ledgerWorld) openTokens(incarnation uint64, client uuid.UUID, need int64) (window, granted int64) {
	w.t.Helper()
	r := w.ask(incarnation, Ask{Open: []Opening{{Client: client, Need: Cost{Tokens: need}}}})
	if len(r.Accounts) != 1 || len(r.Accounts[0].Windows) != 1 || len(r.Grants) != 1 {
		w.t.Fatalf("opened %+v", r)
	}
	return r.Accounts[0].Windows[0], r.Grants[0].Amount
}

// charge is the next event of an incarnation.
func (w *ledgerWorld) charge(incarnation uint64, client uuid.UUID, tokens int64, holds ...HeldFor) Charge {
	w.seq[incarnation]++
	return Charge{EventID: EventID{incarnation, w.seq[incarnation]}, Client: client, AdmittedAt: w.now, Cost: Cost{Tokens: tokens}, Holds: holds}
}

func (w *ledgerWorld) settle(charges ...Charge) {
	w.t.Helper()
	if _, err := w.books.Settle(context.Background(), charges); err != nil {
		w.t.Fatal(err)
	}
}

func (w *ledgerWorld) tidy() {
	w.t.Helper()
	if err := w.auth.Tidy(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *ledgerWorld) window(id int64) *Window {
	w.t.Helper()
	for _, row := range w.books.Windows() {
		if row.ID == id {
			return row
		}
	}
	w.t.Fatalf("no window %d", id)
	return nil
}

// places checks what a window has where.
func (w *ledgerWorld) places(id, spent, held, suspense, overrun, unheld int64) {
	w.t.Helper()
	row := w.window(id)
	if got, want := [5]int64{row.Spent, row.Held, row.Suspense, row.Overrun, row.Unheld}, [5]int64{spent, held, suspense, overrun, unheld}; got != want {
		w.t.Errorf("spent, held, suspense, overrun, unheld = %v; want %v", got, want)
	}
	w.check()
}

func (w *ledgerWorld) check() {
	w.t.Helper()
	for _, err := range []error{w.books.Check(), w.books.CheckUsage()} {
		if err != nil {
			w.t.Error(err)
		}
	}
}

func TestMemoryForgetsWhatAFailedUpdateDid(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, _ := w.openTokens(1, b.ClientID, 100)
	before := w.books.at.copy()
	sorry := errors.New("sorry")
	err := w.books.Update(context.Background(), func(tx Tx) error {
		ctx := context.Background()
		rows, _ := tx.Windows(ctx, []int64{window})
		rows[0].Spent += 7
		leases, _ := tx.LeasesIn(ctx, []int64{window})
		leases[0].Granted += 7
		holders, _ := tx.Holders(ctx, []uint64{1})
		holders[0].Op = 99
		for _, err := range []error{
			tx.SaveWindows(ctx, rows), tx.SaveLeases(ctx, leases), tx.SaveHolders(ctx, holders), tx.SaveEpoch(ctx, Epoch{Number: 9}),
			tx.AddDoubts(ctx, []Doubt{{Window: window, Amount: 1}}), tx.AddAlerts(ctx, []Alert{{Window: window}}),
			tx.Journal(ctx, []Entry{{Window: window}}),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if again, _ := tx.Windows(ctx, []int64{window}); again[0].Spent != 7 {
			t.Error("a transaction does not see what it wrote")
		}
		return sorry
	})
	if !errors.Is(err, sorry) {
		t.Errorf("Update = %v", err)
	}
	if !reflect.DeepEqual(before, w.books.at.copy()) {
		t.Error("a failed Update left something behind")
	}
}

func TestMemorySnapshotIsAnotherDatabase(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	saved := w.books.Snapshot()
	w.settle(w.charge(1, b.ClientID, 60, HeldFor{window, 100}))
	w.places(window, 60, granted-60, 0, 0, 0)
	w.books.Restore(saved)
	w.places(window, 0, granted, 0, 0, 0)
	_ = w.books.Update(context.Background(), func(tx Tx) error {
		if stored, current, _ := tx.Epoch(context.Background()); stored.Identity == current {
			t.Error("restored books claim to be the same database")
		}
		if arrived, _ := tx.Arrived(context.Background(), []Close{{1, 1}}); arrived[1] {
			t.Error("an event that was forgotten has arrived")
		}
		return nil
	})
}

func TestMemoryKnowsWhatArrived(t *testing.T) {
	w := newLedgerWorld(t)
	arrived := func(last uint64) (yes bool) {
		_ = w.books.Update(context.Background(), func(tx Tx) error {
			got, err := tx.Arrived(context.Background(), []Close{{1, last}})
			yes = got[1]
			return err
		})
		return yes
	}
	for _, seq := range []uint64{1, 3, 3, 4} {
		w.books.Arrive(EventID{1, seq})
	}
	if !arrived(0) || !arrived(1) || arrived(2) || arrived(4) {
		t.Error("with 1, 3 and 4 all up to 1 have arrived, and no further")
	}
	w.books.Arrive(EventID{1, 2})
	if !arrived(4) || arrived(5) {
		t.Error("with 1 to 4 all up to 4 have arrived, and no further")
	}
}

func TestMemoryChecksSeeWhatIsWrong(t *testing.T) {
	for what, spoil := range map[string]func(*Window, *Lease, *memoryState){
		"a window":   func(w *Window, _ *Lease, _ *memoryState) { w.Spent = -1 },
		"a lease":    func(_ *Window, l *Lease, _ *memoryState) { l.Returned = l.Granted + 1 },
		"held":       func(w *Window, _ *Lease, _ *memoryState) { w.Held++ },
		"a lost one": func(_ *Window, l *Lease, _ *memoryState) { l.Lost = true },
		"suspense": func(w *Window, _ *Lease, s *memoryState) {
			s.doubts[doubtKey{window: w.ID}] = Doubt{Window: w.ID, Amount: 1}
		},
		"use":         func(w *Window, _ *Lease, _ *memoryState) { w.Spent++ },
		"a lost call": func(_ *Window, _ *Lease, s *memoryState) { clear(s.charges) },
	} {
		w := newLedgerWorld(t)
		b := w.budget(uuid.New(), 1000)
		window, _ := w.openTokens(1, b.ClientID, 100)
		w.settle(w.charge(1, b.ClientID, 60, HeldFor{window, 100}))
		w.check()
		spoil(w.books.at.windows[window], w.books.at.leases[LeaseKey{window, 1}], w.books.at)
		if errors.Join(w.books.Check(), w.books.CheckUsage()) == nil {
			t.Errorf("%s that is wrong was found in order", what)
		}
	}
}

func TestMemoryDropsRepeatedEvents(t *testing.T) {
	w := newLedgerWorld(t)
	b := w.budget(uuid.New(), 1000)
	window, granted := w.openTokens(1, b.ClientID, 100)
	c := w.charge(1, b.ClientID, 60, HeldFor{window, 100})
	for _, want := range []int{1, 0} {
		if n, err := w.books.Settle(context.Background(), []Charge{c, c}); n != want || err != nil {
			t.Errorf("Settle = %d, %v; want %d", n, err, want)
		}
	}
	w.places(window, 60, granted-60, 0, 0, 0)
}
