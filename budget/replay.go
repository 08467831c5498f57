package budget

import (
	"container/heap"
	"iter"
	"slices"
	"time"
)

// What would this limit have done? Replay runs calls of the past through the rules of a window, in the order in which they
// were admitted, as if there had been one proxy that asked for each of them: exact mode. It holds for a call what was held
// for it then, where that is known, and else what it cost; a call is under way for as long as it was, so that what was
// held at the same time then is held at the same time now. A call that is refused is not tried again.

// PastCall is a call as the usage log has it, with what corrections added.
type PastCall struct {
	At    time.Time // admitted
	Took  time.Duration
	Cost       // what it was charged
	Worst Cost // what was held for it, as far as is known; 0 in a unit: not known
}

// ReplayReport is what a limit would have done.
type ReplayReport struct {
	Unit    Unit
	Windows []ReplayWindow // oldest first, without a gap
	ReplaySum
	FirstRefusal time.Time // zero: none
	Unpriced     int64     // calls of unknown cost: in Calls, and in no amount; a hard cap on money lets none of them through
}

// ReplayWindow is one period of it.
type ReplayWindow struct {
	StartsAt, EndsAt time.Time
	Limit            int64 // with what was carried over
	Carried          int64
	ReplaySum
	Crossed      []ReplayCrossing // in the order of their thresholds
	FirstRefusal time.Time
}

// ReplaySum adds up calls.
type ReplaySum struct {
	Calls       int64
	Refused     int64 // of them, for they did not fit
	Used        int64 // by those that were let through
	RefusedCost int64 // that those refused had, when nothing refused them
	Peak        int64 // the most that was used and held at one time
}

// ReplayCrossing is when a share of the limit was used, or (100) the first call was refused.
type ReplayCrossing struct {
	Threshold int // percent
	At        time.Time
}

// Replay runs past calls, in order of admission, through a budget. What was admitted before its StartsAt, or from its
// DeletedAt on, does not count; periods without calls are there up to DeletedAt where that is set. An error of the calls
// ends it.
func Replay(b Budget, calls iter.Seq2[PastCall, error]) (ReplayReport, error) {
	r := replay{b: &b, thresholds: replayThresholds(&b)}
	for call, err := range calls {
		if err != nil {
			return ReplayReport{}, err
		}
		if call.At.Before(b.StartsAt) || !b.DeletedAt.IsZero() && !call.At.Before(b.DeletedAt) {
			continue
		}
		r.admit(&call)
	}
	if len(r.windows) > 0 || !b.StartsAt.IsZero() {
		if !b.DeletedAt.IsZero() {
			r.windowAt(b.DeletedAt.Add(-1))
		}
	}
	for len(r.open) > 0 {
		r.endNext()
	}
	return r.report(), nil
}

// replayThresholds are those of the budget, and 80, 90 and 100, which are asked for whether they alert or not.
func replayThresholds(b *Budget) []int {
	list := append([]int{80, 90, 100}, b.Thresholds...)
	slices.Sort(list)
	return slices.Compact(list)
}

// replay is one at work.
type replay struct {
	b          *Budget
	thresholds []int
	windows    []*replayed
	open       underWay
	unpriced   int64
}

// replayed is a window with the lease of the one proxy that there is.
type replayed struct {
	Window
	lease   Lease
	seen    ReplayWindow
	crossed int // how many of the thresholds
}

// windowAt is the window that an instant lies in. All before it are opened as well, for each carries on to the next.
func (r *replay) windowAt(at time.Time) *replayed {
	for {
		var there []*Window
		next := r.b.StartsAt
		if n := len(r.windows); n > 0 {
			last := r.windows[n-1]
			if at.Before(last.EndsAt) {
				return last
			}
			there, next = []*Window{&last.Window}, last.EndsAt
		} else if next.IsZero() {
			next = at
		}
		_, start, end, ok := r.b.place(there, next)
		if !ok { // a calendar that changed in between; there is none here
			start, end = next, at.Add(1)
		}
		w := &replayed{Window: *r.b.newWindow(start, end)}
		w.lease.Window = w.ID
		w.seen = ReplayWindow{StartsAt: start, EndsAt: end}
		r.windows = append(r.windows, w)
		r.carryInto(len(r.windows) - 1)
	}
}

// carryInto hands on to a window what the one before it has, as that stands.
func (r *replay) carryInto(i int) {
	if i > 0 && i < len(r.windows) {
		r.windows[i].carry(r.windows[i-1].carryOf(r.b))
	}
}

// admit decides about a call.
func (r *replay) admit(call *PastCall) {
	for len(r.open) > 0 && !r.open[0].end.After(call.At) {
		r.endNext()
	}
	w := r.windowAt(call.At)
	w.seen.Calls++
	if call.Unpriced && r.b.Unit != Tokens {
		r.unpriced++
		return
	}
	charge := max(0, call.In(r.b.Unit))
	if !w.Hard {
		w.useUnheld(charge)
		w.note(call.At.Add(call.Took), r.thresholds)
		return
	}
	// Nothing is admitted for nothing: a call that turned out to cost nothing held something while it was under way.
	worst := max(1, call.Worst.In(r.b.Unit))
	if call.Worst.In(r.b.Unit) == 0 {
		worst = max(1, charge)
	}
	if w.offer(Want{Window: w.ID, Least: worst, Need: worst}, 1) < worst {
		w.refuse(call.At, charge)
		return
	}
	w.grant(&w.lease, worst)
	w.seen.Peak = max(w.seen.Peak, plus(w.Used(), w.Held))
	heap.Push(&r.open, pastHold{end: call.At.Add(call.Took), window: len(r.windows) - 1, charge: charge, hold: worst})
}

func (w *replayed) refuse(at time.Time, charge int64) {
	w.seen.Refused++
	w.seen.RefusedCost = plus(w.seen.RefusedCost, charge)
	if !w.seen.FirstRefusal.IsZero() {
		return
	}
	w.seen.FirstRefusal = at
	// A hard cap may never come to 100 %: what is left is too little for the next call.
	w.cross(100, at)
}

// cross writes down the first time that a threshold was crossed.
func (w *replayed) cross(threshold int, at time.Time) {
	if !slices.ContainsFunc(w.seen.Crossed, func(c ReplayCrossing) bool { return c.Threshold == threshold }) {
		w.seen.Crossed = append(w.seen.Crossed, ReplayCrossing{threshold, at})
	}
}

// endNext settles the call that ends next, and gives back what it did not need.
func (r *replay) endNext() {
	call := heap.Pop(&r.open).(pastHold)
	w := r.windows[call.window]
	w.settle(&w.lease, call.charge, call.hold, false)
	w.giveBack(&w.lease, call.hold-min(call.charge, call.hold))
	w.note(call.end, r.thresholds)
	for i := call.window + 1; i < len(r.windows); i++ { // a call that ends in the next period
		r.carryInto(i)
	}
}

// note writes down which thresholds were crossed.
func (w *replayed) note(at time.Time, thresholds []int) {
	used := w.Used()
	w.seen.Peak = max(w.seen.Peak, plus(used, w.Held))
	for ; w.crossed < len(thresholds) && used >= share(w.Limit(), thresholds[w.crossed]); w.crossed++ {
		w.cross(thresholds[w.crossed], at)
	}
}

func (r *replay) report() ReplayReport {
	report := ReplayReport{Unit: r.b.Unit, Windows: make([]ReplayWindow, 0, len(r.windows)), Unpriced: r.unpriced}
	for _, w := range r.windows {
		s := w.seen
		s.Limit, s.Carried, s.Used = w.Limit(), w.Carried, w.Used()
		slices.SortFunc(s.Crossed, func(a, b ReplayCrossing) int { return a.Threshold - b.Threshold })
		report.Windows = append(report.Windows, s)
		report.Calls += s.Calls
		report.Refused += s.Refused
		report.Used = plus(report.Used, s.Used)
		report.RefusedCost = plus(report.RefusedCost, s.RefusedCost)
		report.Peak = max(report.Peak, s.Peak)
		if report.FirstRefusal.IsZero() {
			report.FirstRefusal = s.FirstRefusal
		}
	}
	return report
}

// pastHold is a call under way.
type pastHold struct {
	end          time.Time
	window       int
	charge, hold int64
}

// underWay is a heap: the call that ends next is first.
type underWay []pastHold

func (u underWay) Len() int           { return len(u) }
func (u underWay) Less(i, j int) bool { return u[i].end.Before(u[j].end) }
func (u underWay) Swap(i, j int)      { u[i], u[j] = u[j], u[i] }
func (u *underWay) Push(x any)        { *u = append(*u, x.(pastHold)) }
func (u *underWay) Pop() any {
	old := *u
	last := old[len(old)-1]
	*u = old[:len(old)-1]
	return last
}
