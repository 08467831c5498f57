package budget

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// tidyBatch is how many budgets and windows one transaction of Tidy takes: so few that nobody waits long for their locks.
const tidyBatch = 200

// tidyFor is how long one Tidy goes on with batches. What is left then is for the next one.
const tidyFor = 5 * time.Second

// Tidy does what time brings: it ends learning, closes incarnations that left and have nothing any more, opens the windows
// that begin, and seals those that are over. It is called every second or so; several at once do no harm.
func (a *Authority) Tidy(ctx context.Context) error {
	var failed error
	for _, step := range []func(context.Context, *page) (more bool, err error){a.learn, closeLeft, openDue, sealDue} {
		for more, begun := true, time.Now(); more && time.Since(begun) < tidyFor; {
			err := a.update(ctx, func(p *page) (err error) {
				more, err = step(ctx, p)
				return err
			})
			more = more && err == nil
			failed = errors.Join(failed, err) // what one step cannot do shall not keep the others from being done
		}
	}
	return failed
}

// learn looks whether the database is another one, and ends learning when it may.
func (a *Authority) learn(ctx context.Context, p *page) (more bool, err error) {
	epoch, err := a.epoch(ctx, p)
	if err != nil {
		return false, err
	}
	return false, a.endLearning(ctx, p, epoch)
}

// closeLeft closes incarnations that said goodbye, when all that they had came back or was settled.
func closeLeft(ctx context.Context, p *page) (more bool, err error) {
	all, err := p.tx.LiveHolders(ctx)
	if err != nil {
		return false, err
	}
	var left []uint64
	for _, h := range all {
		if h.State == Left {
			left = append(left, h.Incarnation)
		}
	}
	if len(left) == 0 {
		return false, nil
	}
	holders, err := p.tx.Holders(ctx, sortedIncarnations(left))
	if err != nil {
		return false, err
	}
	leases, err := p.leasesOf(ctx, left)
	if err != nil {
		return false, err
	}
	holding := map[uint64]bool{}
	for _, l := range leases {
		holding[l.Incarnation] = holding[l.Incarnation] || l.Rest() > 0
	}
	var done []*Holder
	closed := map[uint64]bool{}
	for _, h := range holders {
		if h.State == Left && !holding[h.Incarnation] {
			h.State, closed[h.Incarnation] = Closed, true
			done = append(done, h)
		}
	}
	for _, l := range leases {
		if closed[l.Incarnation] {
			w, l := p.touch(l.Window, l.Incarnation)
			w.closeLease(l)
		}
	}
	if len(done) == 0 {
		return false, nil
	}
	return false, p.tx.SaveHolders(ctx, done)
}

// openDue opens the windows of now that nobody has asked for yet.
func openDue(ctx context.Context, p *page) (more bool, err error) {
	bs, err := p.tx.DueBudgets(ctx, p.now, tidyBatch)
	if err != nil || len(bs) == 0 {
		return false, err
	}
	var os []*opening
	for _, b := range p.keep(bs) {
		os = append(os, &opening{budget: b, at: p.now})
	}
	return len(bs) == tidyBatch, p.open(ctx, os)
}

// sealDue seals windows that are over: what they hand on is final.
func sealDue(ctx context.Context, p *page) (more bool, err error) {
	due, err := p.tx.DueWindows(ctx, p.now, tidyBatch)
	if err != nil || len(due) == 0 {
		return false, err
	}
	ids := map[int64]bool{}
	for _, id := range due {
		ids[id] = true
	}
	next, err := p.followers(ctx, due)
	if err != nil {
		return false, err
	}
	for _, w := range next {
		ids[w.ID] = true
	}
	if err := p.lock(ctx, ids); err != nil {
		return false, err
	}
	for _, id := range due {
		if w := p.windows[id]; w != nil && !w.Sealed && w.over(p.now) {
			p.seal(w, next[id])
			more = true // the one that follows may be due now
			if err := p.expireDoubts(ctx, w); err != nil {
				return false, err
			}
		}
	}
	return more, p.closeSealed(ctx, due)
}

// followers finds, by the id of a window, the one that comes after it, where it hands anything on.
func (p *page) followers(ctx context.Context, due []int64) (map[int64]*Window, error) {
	ws, err := p.tx.States(ctx, due, 0, time.Time{})
	if err != nil || len(ws) == 0 {
		return nil, err
	}
	var budgets []uuid.UUID
	after := ws[0].EndsAt
	for _, w := range ws {
		budgets = append(budgets, w.BudgetID)
		if w.EndsAt.Before(after) {
			after = w.EndsAt
		}
	}
	bs, err := p.tx.BudgetsByID(ctx, budgets)
	if err != nil {
		return nil, err
	}
	budgets = budgets[:0]
	for _, b := range p.keep(bs) {
		if b.carries() {
			budgets = append(budgets, b.ID)
		}
	}
	if len(budgets) == 0 {
		return nil, nil
	}
	open, err := p.tx.WindowsOf(ctx, budgets, after)
	if err != nil {
		return nil, err
	}
	next := map[int64]*Window{}
	for _, w := range ws {
		for _, o := range open { // oldest first
			if o.BudgetID == w.BudgetID && !o.StartsAt.Before(w.EndsAt) && next[w.ID] == nil {
				next[w.ID] = o
			}
		}
	}
	return next, nil
}

// seal ends a window, and sets what the next one has of it for good.
func (p *page) seal(w, next *Window) {
	w.Sealed = true
	p.touched[w.ID] = true
	if next == nil {
		return
	}
	next = p.windows[next.ID]
	was := next.Carried
	next.carry(w.carryOf(p.budgets[w.BudgetID]))
	if next.Carried != was {
		p.touched[next.ID] = true
		p.note(next.ID, 0, "carry", plus(next.Carried, -was), "the window before was sealed")
	}
}

// expireDoubts forgets doubts of a window that is sealed: they have counted as used in what it hands on, and nothing more is
// lent of it. A correction that comes still is booked without them.
func (p *page) expireDoubts(ctx context.Context, w *Window) error {
	if w.Suspense == 0 {
		return nil
	}
	doubts, err := p.tx.DoubtsIn(ctx, w.ID)
	if err != nil || len(doubts) == 0 {
		return err
	}
	for _, d := range doubts {
		w.release(d.Amount)
		p.note(w.ID, d.Incarnation, "expire", d.Amount, "the window was sealed")
	}
	return p.tx.DropDoubts(ctx, doubts)
}

// closeSealed closes the leases on windows that were sealed with nothing held, so that they need not be looked at again.
func (p *page) closeSealed(ctx context.Context, due []int64) error {
	var sealed []int64
	for _, id := range due {
		if w := p.windows[id]; w != nil && w.Sealed && w.Held == 0 {
			sealed = append(sealed, id)
		}
	}
	if len(sealed) == 0 {
		return nil
	}
	leases, err := p.tx.LeasesIn(ctx, sealed)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if l.Rest() == 0 {
			p.leases[l.LeaseKey] = l
			_, l := p.touch(l.Window, l.Incarnation)
			l.Closed = true
		}
	}
	return nil
}
