package budget

import (
	"fmt"
	"math/bits"
	"time"
)

// The rules of a window. They are pure: the authority and the settlement run them inside a store's transaction, the
// simulation and what-if run them with no store at all. An amount moves between the places of a window only here.

// Limit is what may be used in the window in all.
func (w *Window) Limit() int64 { return min(MaxLimit, max(0, plus(w.Base, w.Carried, w.ToppedUp))) }

// Used is what was used, as far as it is known.
func (w *Window) Used() int64 { return plus(w.Spent, w.Overrun, w.Unheld) }

// Free is what may still be lent.
func (w *Window) Free() int64 { return max(0, w.left()) }

// left is what is left of the limit. It is below zero where more was used, or is held, than the limit is now.
func (w *Window) left() int64 { return plus(w.Limit(), -w.Used(), -w.committedNow(), w.Spent) }

// committedNow is what the limit must cover: what calls were admitted against.
func (w *Window) committedNow() int64 { return plus(w.Spent, w.Held, w.Suspense) }

// plus adds without overflowing: amounts are far from the bounds, and one that is not shall rather stick there than turn
// into its opposite.
func plus(amounts ...int64) (sum int64) {
	for _, a := range amounts {
		sum = min(MaxLimit, max(-MaxLimit, sum+min(MaxLimit, max(-MaxLimit, a))))
	}
	return sum
}

// share is amount × percent / 100, rounded up.
func share(amount int64, percent int) int64 {
	hi, lo := bits.Mul64(uint64(max(0, amount)), uint64(max(0, percent)))
	lo, carry := bits.Add64(lo, 99, 0)
	if hi += carry; hi >= 100 {
		return MaxLimit
	}
	q, _ := bits.Div64(hi, lo, 100)
	return int64(min(q, MaxLimit))
}

// Rest is what the incarnation still has of the window.
func (l *Lease) Rest() int64 { return l.Granted - l.Returned - l.Settled - l.Doubted }

// pool is the place where the rest of a lease is.
func (w *Window) pool(l *Lease) *int64 {
	if l.Lost {
		return &w.Suspense
	}
	return &w.Held
}

// offer is how much a want is granted. Far from the limit that is what will be needed soon, within a share of what is
// free, so that no proxy starves the others. Near it, it is what the calls that wait need and no more: exact mode.
func (w *Window) offer(want Want, sharers int) int64 {
	least, need, more := max(0, want.Least), max(0, want.Need), max(0, want.More)
	free, r := w.Free(), int64(min(max(1, sharers), 1<<20))
	w.turn(free, max(w.Limit()/20, min(MaxLimit/r, least)*r))
	if w.Exact {
		if free < least {
			return 0
		}
		return min(free, need)
	}
	return min(free, max(need, min(plus(need, more), free/(4*r))))
}

// turn switches exact mode on where less than tight is free, and calls idle slices back, once. It stays on until there is
// plenty: every switch costs every proxy its slices.
func (w *Window) turn(free, tight int64) {
	switch {
	case !w.Exact && free < tight:
		w.Exact = true
		w.Recall++
	case w.Exact && free >= max(w.Limit()/4, plus(tight, tight)):
		w.Exact = false
	}
}

// grant lends an amount that is free.
func (w *Window) grant(l *Lease, amount int64) {
	if amount < 0 || amount > w.Free() {
		panic(fmt.Sprintf("BUG: grant of %d where %d is free in window %d", amount, w.Free(), w.ID))
	}
	l.Granted += amount
	l.Closed = false
	*w.pool(l) += amount
}

// remember writes down what an incarnation turned out to have, though the books do not say so: they lost their end. It
// may be more than was free.
func (w *Window) remember(l *Lease, amount int64) {
	l.Granted += amount
	*w.pool(l) += amount
	w.cover()
}

// cover sets what is committed beyond the limit, where it is.
func (w *Window) cover() {
	if c := w.committedNow(); c > w.Limit() {
		w.Committed = max(w.Committed, c)
	}
}

// giveBack returns an amount, though never more than the lease has left, and tells how much it was.
func (w *Window) giveBack(l *Lease, amount int64) int64 {
	amount = min(max(0, amount), l.Rest())
	l.Returned += amount
	*w.pool(l) -= amount
	return amount
}

// settle charges a call against what was held for it. What was charged within the hold goes from held to spent, what was
// charged beyond it is an overrun. The rest of the hold stays with the incarnation, which has credited it to itself already;
// with doubt it goes into suspense instead. missing is what the books did not know to be lent.
func (w *Window) settle(l *Lease, charge, hold int64, doubt bool) (doubted, missing int64) {
	charge, hold = max(0, charge), max(0, hold)
	most := l.Rest() + min(MaxLimit-l.Granted, MaxLimit-w.committedNow()) // nothing that is real comes near
	within := min(charge, hold, most)
	if doubt {
		doubted = min(hold-within, most-within)
	}
	if missing = within + doubted - l.Rest(); missing > 0 {
		w.remember(l, missing)
	}
	*w.pool(l) -= within + doubted
	l.Settled += within
	l.Doubted += doubted
	w.Spent += within
	w.Suspense += doubted
	w.Overrun = plus(w.Overrun, charge-within)
	return doubted, max(0, missing)
}

// undoubt ends a doubt: what the call was charged more, or less, than what was recorded of it.
func (w *Window) undoubt(doubted, difference int64) {
	doubted = min(doubted, w.Suspense)
	w.Suspense -= doubted
	if difference <= 0 {
		w.unuse(&w.Spent, -difference)
		return
	}
	covered := min(difference, doubted)
	w.Spent += covered
	w.Overrun = plus(w.Overrun, difference-covered)
}

// adjust corrects a charge that was settled: more of it comes from what is free, and is an overrun beyond that.
func (w *Window) adjust(difference int64) {
	if difference <= 0 {
		w.unuse(&w.Spent, -difference)
		return
	}
	covered := min(difference, w.Free())
	w.Spent += covered
	w.Overrun = plus(w.Overrun, difference-covered)
}

// useUnheld counts what was used without a hold, or corrects that.
func (w *Window) useUnheld(amount int64) {
	if amount < 0 {
		w.unuse(&w.Unheld, -amount)
		return
	}
	w.Unheld = plus(w.Unheld, amount)
}

// unuse takes an amount off what was used: first where it is thought to be, then wherever there is some. What a charge was
// split into is not remembered, and the sum is what must be right.
func (w *Window) unuse(first *int64, amount int64) {
	for _, place := range []*int64{first, &w.Overrun, &w.Unheld, &w.Spent} {
		off := min(amount, *place)
		*place -= off
		amount -= off
	}
}

// closeLease ends a lease: nothing of it is in use any more, by proof or by a person's word. It tells what came back.
func (w *Window) closeLease(l *Lease) int64 {
	back := w.giveBack(l, l.Rest())
	l.Closed = true
	return back
}

// suspendLease puts the rest of a lease into suspense and tells how much that was; resumeLease takes it out again.
func (w *Window) suspendLease(l *Lease) int64 { return w.move(l, true) }
func (w *Window) resumeLease(l *Lease) int64  { return w.move(l, false) }

func (w *Window) move(l *Lease, lost bool) int64 {
	if l.Lost == lost {
		return 0
	}
	*w.pool(l) -= l.Rest()
	l.Lost = lost
	*w.pool(l) += l.Rest()
	return l.Rest()
}

// release ends a doubt by a person's word: it is free again.
func (w *Window) release(doubted int64) { w.Suspense -= min(doubted, w.Suspense) }

// assert takes an incarnation's word for what it was granted and gave back, where that is more than the books say. It
// tells by how much what is lent changed.
func (w *Window) assert(l *Lease, granted, returned int64) int64 {
	was := l.Rest()
	returned = max(l.Returned, min(returned, MaxLimit-l.Settled-l.Doubted))
	granted = max(l.Granted, min(granted, MaxLimit), plus(returned, l.Settled, l.Doubted))
	pool := w.pool(l)
	if granted-returned-l.Settled-l.Doubted-was > MaxLimit-w.committedNow() {
		return 0 // nothing that is real comes near
	}
	l.Granted, l.Returned = granted, returned
	l.Closed = l.Closed && l.Rest() == 0
	*pool += l.Rest() - was
	w.cover()
	return l.Rest() - was
}

// Amend is a change of the budget in a window that is open or to come. A limit that is lowered takes nothing back from
// work in flight: nothing more is granted, and idle slices are called back at once.
func (w *Window) Amend(limit int64, hard bool) {
	w.Hard = hard
	w.relimit(func() { w.Base = limit })
}

// TopUp raises the limit of this window only.
func (w *Window) TopUp(amount int64) {
	w.relimit(func() { w.ToppedUp = plus(w.ToppedUp, amount) })
}

// carry sets what comes from the window before.
func (w *Window) carry(amount int64) {
	w.relimit(func() { w.Carried = amount })
}

// relimit changes a part of the limit. With another limit the alerts start over, under a new version.
func (w *Window) relimit(change func()) {
	before := w.Limit()
	change()
	after := w.Limit()
	if after == before {
		return
	}
	w.LimitVersion++
	w.Alerted = 0
	w.Committed = 0
	w.cover()
	w.turn(w.Free(), max(1, after/20))
}

// carryOf is what a window hands on to the next one, as it stands: what is held or in suspense counts as used.
func (w *Window) carryOf(b *Budget) int64 {
	left := w.left()
	switch {
	case left > 0 && b.CarryOver && b.CarryMax > 0:
		return min(left, b.CarryMax)
	case left > 0 && b.CarryOver, left < 0 && b.Debt:
		return left
	}
	return 0
}

// over tells whether the window has ended. From then on nothing is granted: what is left may have been carried on.
func (w *Window) over(now time.Time) bool { return w.Sealed || !now.Before(w.EndsAt) }

// State is what a proxy must know of the window.
func (w *Window) State() WindowState {
	return WindowState{
		ID: w.ID, Budget: w.BudgetID, Client: w.ClientID, Unit: w.Unit, Period: w.Period, Hard: w.Hard,
		TimeZone: w.TimeZone, StartsAt: w.StartsAt, EndsAt: w.EndsAt,
		Limit: w.Limit(), Used: w.Used(), Held: plus(w.Held, w.Suspense), Free: w.Free(), Recall: w.Recall, Exact: w.Exact,
	}
}

// Check tells what is wrong with a window; nil when it adds up.
func (w *Window) Check() error {
	for what, amount := range map[string]int64{
		"base": w.Base, "topped up": w.ToppedUp, "committed": w.Committed, "spent": w.Spent, "held": w.Held,
		"suspense": w.Suspense, "overrun": w.Overrun, "unheld": w.Unheld,
	} {
		if amount < 0 || amount > MaxLimit {
			return fmt.Errorf("window %d: %s is %d", w.ID, what, amount)
		}
	}
	if c := w.committedNow(); c > max(w.Limit(), w.Committed) {
		return fmt.Errorf("window %d: %d spent + %d held + %d in suspense is more than %d, and than %d committed before that",
			w.ID, w.Spent, w.Held, w.Suspense, w.Limit(), w.Committed)
	}
	return nil
}

// Check tells what is wrong with a lease; nil when it adds up.
func (l *Lease) Check() error {
	if min(l.Granted, l.Returned, l.Settled, l.Doubted, l.Rest()) < 0 || l.Closed && l.Rest() != 0 {
		return fmt.Errorf("lease of %x on window %d does not add up: %+v", l.Incarnation, l.Window, *l)
	}
	return nil
}
