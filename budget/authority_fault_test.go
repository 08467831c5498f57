package budget

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
)

var errBooks = errors.New("the books do not answer")

// failingBooks fail with the call of a transaction that follows so many others.
type failingBooks struct {
	*Memory
	left int
}

func (f *failingBooks) Update(ctx context.Context, do func(Tx) error) error {
	return f.Memory.Update(ctx, func(tx Tx) error { return do(&failingTx{tx, f}) })
}

type failingTx struct {
	tx Tx
	f  *failingBooks
}

func (t *failingTx) fail() error {
	if t.f.left--; t.f.left < 0 {
		return errBooks
	}
	return nil
}

func (t *failingTx) Now(ctx context.Context) (time.Time, error) {
	if err := t.fail(); err != nil {
		return time.Time{}, err
	}
	return t.tx.Now(ctx)
}

func (t *failingTx) Epoch(ctx context.Context) (Epoch, string, error) {
	if err := t.fail(); err != nil {
		return Epoch{}, "", err
	}
	return t.tx.Epoch(ctx)
}

func (t *failingTx) SaveEpoch(ctx context.Context, e Epoch) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.SaveEpoch(ctx, e)
}

func (t *failingTx) Holders(ctx context.Context, ids []uint64) ([]*Holder, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Holders(ctx, ids)
}

func (t *failingTx) LiveHolders(ctx context.Context) ([]*Holder, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.LiveHolders(ctx)
}

func (t *failingTx) SaveHolders(ctx context.Context, hs []*Holder) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.SaveHolders(ctx, hs)
}

func (t *failingTx) Budgets(ctx context.Context, clients []uuid.UUID) ([]Budget, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Budgets(ctx, clients)
}

func (t *failingTx) BudgetsByID(ctx context.Context, ids []uuid.UUID) ([]Budget, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.BudgetsByID(ctx, ids)
}

func (t *failingTx) Policies(ctx context.Context, clients []uuid.UUID) (map[uuid.UUID]*Policy, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Policies(ctx, clients)
}

func (t *failingTx) Windows(ctx context.Context, ids []int64) ([]*Window, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Windows(ctx, ids)
}

func (t *failingTx) WindowsOf(ctx context.Context, budgets []uuid.UUID, after time.Time) ([]*Window, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.WindowsOf(ctx, budgets, after)
}

func (t *failingTx) LastWindows(ctx context.Context, budgets []uuid.UUID, before time.Time) ([]*Window, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.LastWindows(ctx, budgets, before)
}

func (t *failingTx) OpenWindows(ctx context.Context, ws []*Window) ([]*Window, []bool, error) {
	if err := t.fail(); err != nil {
		return nil, nil, err
	}
	return t.tx.OpenWindows(ctx, ws)
}

func (t *failingTx) SaveWindows(ctx context.Context, ws []*Window) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.SaveWindows(ctx, ws)
}

func (t *failingTx) States(ctx context.Context, ids []int64, incarnation uint64, changed time.Time) ([]*Window, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.States(ctx, ids, incarnation, changed)
}

func (t *failingTx) Leases(ctx context.Context, keys []LeaseKey) ([]*Lease, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Leases(ctx, keys)
}

func (t *failingTx) LeasesOf(ctx context.Context, incarnations []uint64) ([]*Lease, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.LeasesOf(ctx, incarnations)
}

func (t *failingTx) LeasesIn(ctx context.Context, windows []int64) ([]*Lease, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.LeasesIn(ctx, windows)
}

func (t *failingTx) Sharers(ctx context.Context, windows []int64) (map[int64]int, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Sharers(ctx, windows)
}

func (t *failingTx) SaveLeases(ctx context.Context, ls []*Lease) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.SaveLeases(ctx, ls)
}

func (t *failingTx) Doubts(ctx context.Context, events []EventID) ([]Doubt, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Doubts(ctx, events)
}

func (t *failingTx) DoubtsIn(ctx context.Context, window int64) ([]Doubt, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.DoubtsIn(ctx, window)
}

func (t *failingTx) AddDoubts(ctx context.Context, ds []Doubt) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.AddDoubts(ctx, ds)
}

func (t *failingTx) DropDoubts(ctx context.Context, ds []Doubt) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.DropDoubts(ctx, ds)
}

func (t *failingTx) AddAlerts(ctx context.Context, as []Alert) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.AddAlerts(ctx, as)
}

func (t *failingTx) Arrived(ctx context.Context, closes []Close) (map[uint64]bool, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.Arrived(ctx, closes)
}

func (t *failingTx) Journal(ctx context.Context, entries []Entry) error {
	if err := t.fail(); err != nil {
		return err
	}
	return t.tx.Journal(ctx, entries)
}

func (t *failingTx) DueBudgets(ctx context.Context, now time.Time, most int) ([]Budget, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.DueBudgets(ctx, now, most)
}

func (t *failingTx) DueWindows(ctx context.Context, now time.Time, most int) ([]int64, error) {
	if err := t.fail(); err != nil {
		return nil, err
	}
	return t.tx.DueWindows(ctx, now, most)
}

// Wherever the books fail, the error is told and nothing is changed: no rule goes on with half of what it read.
func TestErrorsOfTheBooksAreToldAndChangeNothing(t *testing.T) {
	ctx := context.Background()
	for name, act := range map[string]func(*ledgerWorld, *failingBooks, Budget, int64) error{
		"lease": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			_, err := NewAuthority(f, AuthorityOptions{}).Lease(ctx, Ask{
				Incarnation: 1, Op: 3, Epoch: 1, Open: []Opening{{Client: b.ClientID, Need: Cost{Tokens: 5, BRL: 5}, Ahead: true}},
				Want: []Want{{window, 1, 1, 1}}, Return: []Return{{window, 1}}, Refused: []int64{window}, Watch: []int64{window}, Close: []Close{{2, 0}},
				Assert: []Assertion{{b.ClientID, b.ID, WindowID(b.ID, march(12, 0)), march(12, 0), 5, 0}},
			})
			return err
		},
		"lease of a lost one": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			_, err := NewAuthority(f, AuthorityOptions{}).Lease(ctx, Ask{Incarnation: 3, Op: 2, Epoch: 9})
			return err
		},
		"settle": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			doubt := Charge{EventID: EventID{1, 5}, Client: b.ClientID, AdmittedAt: w.now, Cost: Cost{Tokens: 1}, Holds: []HeldFor{{window, 5}}, Doubt: true}
			correction := Charge{EventID: EventID{1, 1}, Client: b.ClientID, AdmittedAt: w.now, Cost: Cost{Tokens: 900}, Correction: true}
			return f.Update(ctx, func(tx Tx) error { return Settle(ctx, tx, []Charge{doubt, correction}) })
		},
		"tidy": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			now := w.now
			w.now = march(13, 0)
			defer func() { w.now = now }()
			return NewAuthority(f, AuthorityOptions{}).Tidy(ctx)
		},
		"learning": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			now := w.now
			w.now = march(10, 20)
			defer func() { w.now = now }()
			a := NewAuthority(f, AuthorityOptions{})
			return a.update(ctx, func(p *page) error {
				return a.endLearning(ctx, p, Epoch{Number: 5, Since: now, Learning: now})
			})
		},
		"top up": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			return NewAuthority(f, AuthorityOptions{}).TopUp(ctx, b.ID, 5, "")
		},
		"suspend": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			return NewAuthority(f, AuthorityOptions{}).Suspend(ctx, 1, "")
		},
		"release": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			return NewAuthority(f, AuthorityOptions{}).ReleaseDoubts(ctx, window, "")
		},
		"current": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			now := w.now
			w.now = march(11, 0)
			defer func() { w.now = now }()
			_, err := NewAuthority(f, AuthorityOptions{}).Current(ctx, b.ClientID)
			return err
		},
		"amend": func(w *ledgerWorld, f *failingBooks, b Budget, window int64) error {
			b.Limit = 5
			return f.Update(ctx, func(tx Tx) error { return AmendWindows(ctx, tx, b) })
		},
	} {
		w := newLedgerWorld(t)
		b := w.budget(uuid.New(), 1000)
		w.budget(b.ClientID, 1000, func(b *Budget) { b.Unit, b.CarryOver = BRL, true })
		w.budget(b.ClientID, 1000, func(b *Budget) { b.Unit = USD })
		r := w.ask(1, Ask{Open: []Opening{{Client: b.ClientID, Need: Cost{Tokens: 5, USD: 5}}}})
		window := r.Accounts[0].Windows[0]
		usd := r.Grants[2]
		w.ask(1, Ask{Return: []Return{{usd.Window, usd.Amount}}}) // nothing is left of this lease
		doubt := w.charge(1, b.ClientID, 1, HeldFor{window, 3})
		doubt.Doubt = true
		w.settle(doubt)
		for _, other := range []uint64{2, 3, 4} {
			w.ask(other, Ask{Want: []Want{{window, 5, 5, 0}}})
		}
		if err := w.auth.Suspend(ctx, 3, ""); err != nil {
			t.Fatal(err)
		}
		w.ask(4, Ask{Return: []Return{{window, 5}}, Leaving: true})
		calls := 0
		for ; ; calls++ {
			before := w.books.at.copy()
			err := act(w, &failingBooks{w.books, calls}, b, window)
			if err == nil {
				break
			}
			if !errors.Is(err, errBooks) {
				t.Fatalf("%s, call %d: %v", name, calls, err)
			}
			if name != "tidy" && !reflect.DeepEqual(before, w.books.at.copy()) {
				t.Errorf("%s, call %d: something was changed although it failed", name, calls)
			}
			w.books.at = before // what Tidy did in the transactions before
		}
		if calls < 4 {
			t.Errorf("%s has %d calls only: it did not do what this test is for", name, calls)
		}
		if err := w.books.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
