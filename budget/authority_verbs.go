package budget

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
)

// What people tell the ledger to do. Each is in the journal, with their reason.

// TopUp raises the limit of a budget's window of now, and of no other.
func (a *Authority) TopUp(ctx context.Context, budget uuid.UUID, amount int64, reason string) error {
	if amount <= 0 || amount > MaxLimit {
		return fmt.Errorf("budget: a top-up of %d: it must be above zero, and at most %d", amount, int64(MaxLimit))
	}
	return a.update(ctx, func(p *page) error {
		bs, err := p.tx.BudgetsByID(ctx, []uuid.UUID{budget})
		if err != nil {
			return err
		}
		if len(bs) == 0 {
			return fmt.Errorf("%w: budget %s", ErrNotFound, budget)
		}
		o := &opening{budget: p.keep(bs)[0], at: p.now}
		if err := p.open(ctx, []*opening{o}); err != nil {
			return err
		}
		if o.window == nil {
			return fmt.Errorf("%w: budget %s has not begun", ErrNotFound, budget)
		}
		if err := p.lock(ctx, map[int64]bool{o.window.ID: true}); err != nil {
			return err
		}
		w := p.windows[o.window.ID]
		w.TopUp(amount)
		p.touched[w.ID] = true
		p.note(w.ID, 0, "top_up", amount, reason)
		return nil
	})
}

// Suspend takes an incarnation's volume for destroyed: what it holds goes into suspense, where nobody can use it, until
// ReleaseDoubts, or the end of the window. Should it speak again, it lives.
func (a *Authority) Suspend(ctx context.Context, incarnation uint64, reason string) error {
	return a.update(ctx, func(p *page) error {
		hs, err := p.tx.Holders(ctx, []uint64{incarnation})
		if err != nil {
			return err
		}
		hs = slices.DeleteFunc(hs, func(h *Holder) bool { return h.State == Closed })
		if len(hs) == 0 {
			return fmt.Errorf("%w: an incarnation %x that is not closed", ErrNotFound, incarnation)
		}
		if silent := p.now.Sub(hs[0].HeardAt); hs[0].State == Live && silent < a.o.AliveFor {
			return fmt.Errorf("%w: incarnation %016x spoke %d seconds ago, and may be spending", ErrAlive, incarnation, int(silent.Seconds()))
		}
		return p.suspend(ctx, hs, reason)
	})
}

// ReleaseDoubts frees what is in suspense in a window: doubts about calls that were cut short, and what lost incarnations
// held. It takes a person's word that none of it was used. An incarnation of which this takes the last is closed.
func (a *Authority) ReleaseDoubts(ctx context.Context, window int64, reason string) error {
	return a.update(ctx, func(p *page) error {
		peeked, err := p.tx.LeasesIn(ctx, []int64{window})
		if err != nil {
			return err
		}
		peeked = slices.DeleteFunc(peeked, func(l *Lease) bool { return !l.Lost })
		holders, err := p.holdersOf(ctx, peeked)
		if err != nil {
			return err
		}
		if err := p.lock(ctx, map[int64]bool{window: true}); err != nil {
			return err
		}
		w := p.windows[window]
		if w == nil {
			return fmt.Errorf("%w: window %d", ErrNotFound, window)
		}
		leases, err := p.reload(ctx, peeked)
		if err != nil {
			return err
		}
		doubts, err := p.tx.DoubtsIn(ctx, window)
		if err != nil {
			return err
		}
		for _, d := range doubts {
			w.release(d.Amount)
			p.note(window, d.Incarnation, "release", d.Amount, reason)
		}
		for _, l := range leases {
			if l.Lost {
				_, l := p.touch(window, l.Incarnation)
				p.note(window, l.Incarnation, "release", w.closeLease(l), reason)
			}
		}
		p.touched[window] = true
		if err := p.tx.DropDoubts(ctx, doubts); err != nil {
			return err
		}
		return p.closeEmpty(ctx, holders, window)
	})
}

// holdersOf locks the holders of leases.
func (p *page) holdersOf(ctx context.Context, leases []*Lease) ([]*Holder, error) {
	ids := map[uint64]bool{}
	for _, l := range leases {
		ids[l.Incarnation] = true
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return p.tx.Holders(ctx, slices.Sorted(maps.Keys(ids)))
}

// closeEmpty closes those lost incarnations that have nothing in any window but one that was just closed.
func (p *page) closeEmpty(ctx context.Context, holders []*Holder, but int64) error {
	var ids []uint64
	for _, h := range holders {
		ids = append(ids, h.Incarnation)
	}
	if len(ids) == 0 {
		return nil
	}
	left, err := p.tx.LeasesOf(ctx, ids)
	if err != nil {
		return err
	}
	busy := map[uint64]bool{}
	for _, l := range left {
		busy[l.Incarnation] = busy[l.Incarnation] || l.Window != but && l.Rest() > 0
	}
	var done []*Holder
	for _, h := range holders {
		if h.State == Lost && !busy[h.Incarnation] {
			h.State = Closed
			done = append(done, h)
		}
	}
	if len(done) == 0 {
		return nil
	}
	return p.tx.SaveHolders(ctx, done)
}

// update runs f in a transaction, and writes back what it changed.
func (a *Authority) update(ctx context.Context, f func(p *page) error) error {
	return a.books.Update(ctx, func(tx Tx) error {
		p, err := openPage(ctx, tx)
		if err != nil {
			return err
		}
		if err := f(p); err != nil {
			return err
		}
		return p.save(ctx)
	})
}

// AmendWindows brings a budget that was changed into its windows of now and to come. A store calls it where it writes
// the budget, in the same transaction.
func AmendWindows(ctx context.Context, tx Tx, b Budget) error {
	p, err := openPage(ctx, tx)
	if err != nil {
		return err
	}
	p.keep([]Budget{b})
	open, err := tx.WindowsOf(ctx, []uuid.UUID{b.ID}, p.now)
	if err != nil {
		return err
	}
	ids := map[int64]bool{}
	for _, w := range open {
		ids[w.ID] = true
	}
	if err := p.lock(ctx, ids); err != nil {
		return err
	}
	for id, w := range p.windows {
		before := w.Limit()
		w.Amend(b.Limit, b.PauseAtLimit)
		p.touched[id] = true
		p.note(id, 0, "limit", plus(w.Limit(), -before), "the budget was changed")
	}
	return p.save(ctx)
}
