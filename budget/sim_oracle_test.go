package budget

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// simOracle knows what is true: what every call costs the upstream, what every proxy was lent, what people set. After
// every step it looks at what that step changed:
//
//	(a)  what calls with a hold truly cost fits the limit that was in force when they were admitted; nothing is granted
//	     that is not free
//	(b)  I4: spent + overrun + unheld of a window is the sum of what the log charges to it
//	(c)  I5: held is the sum of what leases still hold; suspense the sum of doubts and of what lost leases hold
//	(d)  I6: what a proxy has at hand, what its calls hold and what it used and is not settled yet, is its lease
//	(e)  I8: one alert for each window, threshold and limit version that calls for one, and no other
//	(f)  each instant is in one window of a budget, and calls are held in the window of their time
//
// It is told of the books by what transactions write, and compares its copy with them from time to time.
type simOracle struct {
	s     *sim
	rows  map[int64]*simRow
	order []int64 // of rows, as they came: nothing walks over a map, for its order is not from the seed
	log   []*simUsage
	true  map[int64]*simTruth // of windows; no lost database takes it back

	touched []int64
	stirred []*simLife // proxies to look at after this step
	stirs   int
	looks   int
}

// simRow is a window as the books have it.
type simRow struct {
	Window
	budget   *simBudget
	leases   map[uint64]Lease
	doubts   map[EventID]int64
	rests    int64 // Σ what leases hold that are not lost
	lost     int64 // Σ what lost leases hold
	doubted  int64 // Σ doubts
	recorded int64 // Σ what the log charges
	alerts   []simAlert
	exempt   int64 // the limit version under which its budget's thresholds were changed
}

type simAlert struct {
	threshold int
	version   int64
}

// simTruth is what a window has to bear, whatever its row says.
type simTruth struct {
	unit    Unit
	bound   int64 // the most that calls with a hold may cost
	cost    int64 // Σ of what they truly cost, up to their holds
	allowed map[uint64]int64
}

func newSimOracle(s *sim) *simOracle {
	return &simOracle{s: s, rows: map[int64]*simRow{}, true: map[int64]*simTruth{}}
}

func (r *simRow) limit() int64 { return max(0, r.Base+r.Carried+r.ToppedUp) }
func (r *simRow) used() int64  { return r.Spent + r.Overrun + r.Unheld }

// name is how a window is called in what is printed.
func simName(window int64) string { return fmt.Sprintf("w%d", window) }

// simRest is what a lease still holds.
func simRest(l *Lease) int64 {
	if l.Closed {
		return 0
	}
	return l.Granted - l.Returned - l.Settled - l.Doubted
}

func (r *simRow) put(l *Lease, o *simOracle) {
	if was, ok := r.leases[l.Incarnation]; ok {
		if was.Lost {
			r.lost -= simRest(&was)
		} else {
			r.rests -= simRest(&was)
		}
	}
	if simRest(l) < 0 {
		o.s.failf([]string{simName(r.ID)}, "(c) lease of %x in %s holds less than nothing: %+v", l.Incarnation, simName(r.ID), *l)
	}
	r.leases[l.Incarnation] = *l
	if l.Lost {
		r.lost += simRest(l)
	} else {
		r.rests += simRest(l)
	}
}

// copied is a copy of the books' side of the oracle, for a database that will lose what comes after.
func (o *simOracle) copied() *simOracle {
	c := &simOracle{rows: make(map[int64]*simRow, len(o.rows)), order: slices.Clone(o.order), log: slices.Clone(o.log)}
	for _, id := range o.order {
		row := *o.rows[id]
		row.leases, row.doubts, row.alerts = maps.Clone(row.leases), maps.Clone(row.doubts), slices.Clone(row.alerts)
		c.rows[id] = &row
	}
	return c
}

// truth is what is true of a window.
func (o *simOracle) truth(window int64) *simTruth {
	t := o.true[window]
	if t == nil {
		t = &simTruth{allowed: map[uint64]int64{}}
		o.true[window] = t
	}
	return t
}

// committed takes in what a transaction wrote.
func (o *simOracle) committed(t *simTx) {
	before := map[int64]simRow{}
	note := func(window int64) *simRow {
		row := o.rows[window]
		if row == nil {
			return nil
		}
		if _, ok := before[window]; !ok {
			before[window] = *row
			o.touched = append(o.touched, window)
		}
		return row
	}
	for i := range t.opened {
		o.opened(&t.opened[i])
		note(t.opened[i].ID)
	}
	for i := range t.windows {
		w := &t.windows[i]
		if row := note(w.ID); row != nil {
			row.Window = *w
		} else {
			o.s.failf([]string{simName(w.ID)}, "%s is saved and was never opened", simName(w.ID))
		}
	}
	granted := map[int64]bool{}
	for i := range t.leases {
		l := &t.leases[i]
		row := note(l.Window)
		if row == nil {
			o.s.failf([]string{simName(l.Window)}, "a lease of %s, which was never opened", simName(l.Window))
		}
		if l.Granted > row.leases[l.Incarnation].Granted && t.lending {
			granted[l.Window] = true
		}
		row.put(l, o)
	}
	for _, d := range t.dropped {
		if row := note(d.Window); row != nil {
			row.doubted -= row.doubts[d.EventID]
			delete(row.doubts, d.EventID)
		}
	}
	for _, d := range t.added {
		row := note(d.Window)
		if row == nil {
			o.s.failf([]string{simName(d.Window)}, "a doubt on %s, which was never opened", simName(d.Window))
		}
		row.doubted += d.Amount - row.doubts[d.EventID]
		row.doubts[d.EventID] = d.Amount
	}
	for _, u := range t.recorded {
		o.record(u, note)
	}
	for _, a := range t.alerts {
		o.alerted(&a, t, note)
	}
	for i := range t.opened {
		o.carried(o.rows[t.opened[i].ID], before)
	}
	for _, w := range o.touched {
		was, ok := before[w]
		if ok {
			o.judge(o.rows[w], &was, granted[w], before)
		}
	}
	o.touched = o.touched[:0]
}

// opened takes in a new window (f).
func (o *simOracle) opened(w *Window) {
	s, name := o.s, simName(w.ID)
	row := &simRow{Window: *w, leases: map[uint64]Lease{}, doubts: map[EventID]int64{}}
	for _, b := range s.world.budgets {
		if b.ID == w.BudgetID {
			row.budget = b
		}
	}
	if row.budget == nil {
		s.failf([]string{name}, "(f) %s is of no budget", name)
	}
	if !w.StartsAt.Before(w.EndsAt) {
		s.failf([]string{name}, "(f) %s ends before it begins", name)
	}
	for _, id := range o.order {
		other := o.rows[id]
		if other.BudgetID == w.BudgetID && other.StartsAt.Before(w.EndsAt) && w.StartsAt.Before(other.EndsAt) {
			s.failf([]string{name}, "(f) %s (%v to %v) and %s (%v to %v) overlap", name, w.StartsAt, w.EndsAt, simName(id), other.StartsAt, other.EndsAt)
		}
	}
	if b := row.budget; !b.zonal {
		zone, _ := time.LoadLocation(b.TimeZone)
		from, to := simSpan(b.Period, b.BillingDay, zone, w.StartsAt)
		if b.StartsAt.After(from) {
			from = b.StartsAt.Truncate(time.Microsecond)
		}
		if !from.Equal(w.StartsAt) || !to.Equal(w.EndsAt) {
			s.failf([]string{name}, "(f) %s (%s of %s) is from %v to %v, and should be from %v to %v", name, b.Period, b.TimeZone, w.StartsAt, w.EndsAt, from, to)
		}
	}
	for _, u := range o.log {
		row.recorded += o.unheld(u, row)
	}
	o.rows[w.ID] = row
	o.order = append(o.order, w.ID)
	t := o.truth(w.ID)
	t.unit, t.bound = w.Unit, max(t.bound, row.limit())
	s.stats.Windows++
	if slices.ContainsFunc(o.order, func(id int64) bool { return id != w.ID && o.rows[id].BudgetID == w.BudgetID }) {
		s.stats.Turns++
	}
	s.tracef("%s opens: %s %s %s, client %.8s, %v to %v, limit %d (carried %d)", name, row.Period, row.Unit, row.budget.name(), w.ClientID, w.StartsAt, w.EndsAt, row.limit(), row.Carried)
}

// amount is what a cost is in a window.
func simAmount(c *Cost, u Unit) int64 {
	if c.Unpriced && u != Tokens {
		return 0
	}
	return c.In(u)
}

// unheld is what an event without a hold of a window's budget charges to it.
func (o *simOracle) unheld(u *simUsage, row *simRow) int64 {
	if row.ClientID != uuid.Nil && row.ClientID != u.Client {
		return 0
	}
	if u.AdmittedAt.Before(row.StartsAt) || !u.AdmittedAt.Before(row.EndsAt) || u.AdmittedAt.Before(row.budget.StartsAt) {
		return 0
	}
	for _, h := range u.Holds {
		if other := o.rows[h.Window]; h.Window == row.ID || other != nil && other.BudgetID == row.BudgetID {
			return 0
		}
	}
	return simAmount(&u.Cost, row.Unit)
}

// record takes in an event that the log has now (b).
func (o *simOracle) record(u *simUsage, note func(int64) *simRow) {
	if !u.Correction {
		o.s.stats.Events++
	}
	o.log = append(o.log, u)
	for _, h := range u.Holds {
		if row := note(h.Window); row != nil {
			row.recorded += simAmount(&u.Cost, row.Unit)
		}
	}
	for _, id := range o.order {
		row := o.rows[id]
		if row.budget.DeletedAt.IsZero() {
			if charge := o.unheld(u, row); charge != 0 {
				note(id)
				row.recorded += charge
			}
		}
	}
}

// alerted takes in an alert (e).
func (o *simOracle) alerted(a *Alert, t *simTx, note func(int64) *simRow) {
	row, name := note(a.Window), simName(a.Window)
	key := simAlert{a.Threshold, a.LimitVersion}
	if row == nil || slices.Contains(row.alerts, key) {
		return // the store has it already
	}
	row.alerts = append(row.alerts, key)
	o.s.stats.Alerts++
	o.s.tracef("alert: %s, %d %%, version %d, %d of %d", name, a.Threshold, a.LimitVersion, a.Used, a.Limit)
	if !slices.Contains(row.budget.thresholds(), a.Threshold) {
		o.s.failf([]string{name}, "(e) an alert of %s at %d %%, which nobody asked for", name, a.Threshold)
	}
	if a.LimitVersion != row.LimitVersion {
		o.s.failf([]string{name}, "(e) an alert of %s at %d %% for limit version %d, which is %d", name, a.Threshold, a.LimitVersion, row.LimitVersion)
	}
	refused := a.Threshold == 100 && slices.Contains(t.refused, a.Window)
	if !simReached(row, a.Threshold) && !refused {
		o.s.failf([]string{name}, "(e) an alert of %s at %d %%, and %d of %d are used", name, a.Threshold, row.used(), row.limit())
	}
}

// thresholds are those that the budget alerts at.
func (b *simBudget) thresholds() []int {
	var of []int
	for percent, on := range map[int]bool{80: b.Alert80, 90: b.Alert90, 100: b.Alert100} {
		if on {
			of = append(of, percent)
		}
	}
	of = append(of, b.Thresholds...)
	slices.Sort(of)
	return slices.Compact(of)
}

func (b *simBudget) name() string { return fmt.Sprintf("b%.8s", b.ID) }

// simReached tells whether so many percent are used. Limits of the simulation are small enough to multiply.
func simReached(row *simRow, percent int) bool {
	limit := row.limit()
	return limit <= 0 && row.used() > 0 || limit > 0 && row.used()/100 >= limit/100+1 || limit > 0 && float64(row.used())*100 >= float64(limit)*float64(percent)
}

// judge looks at a window that a transaction changed.
func (o *simOracle) judge(row, was *simRow, granted bool, before map[int64]simRow) {
	s, name := o.s, simName(row.ID)
	about := []string{name}
	s.tracef("%s: limit %d (v%d), spent %d, held %d, suspense %d, overrun %d, unheld %d, recall %d", name, row.limit(), row.LimitVersion, row.Spent, row.Held, row.Suspense, row.Overrun, row.Unheld, row.Recall)
	if row.Held != row.rests {
		s.failf(about, "(c) %s: held is %d, and leases hold %d", name, row.Held, row.rests)
	}
	if row.Suspense != row.doubted+row.lost {
		s.failf(about, "(c) %s: suspense is %d, doubts are %d and lost leases hold %d", name, row.Suspense, row.doubted, row.lost)
	}
	if row.used() != row.recorded {
		s.failf(about, "(b) %s: spent %d + overrun %d + unheld %d = %d, and the log has %d", name, row.Spent, row.Overrun, row.Unheld, row.used(), row.recorded)
	}
	if row.Spent < 0 || row.Held < 0 || row.Suspense < 0 || row.Overrun < 0 {
		s.failf(about, "(c) %s: below zero: %+v", name, row.Window)
	}
	committed := row.Spent + row.Held + row.Suspense
	if granted && row.Hard && committed+row.Overrun+row.Unheld > row.limit() {
		s.failf(about, "(a) %s: granted what is not free: %d of %d are spoken for", name, committed+row.Overrun+row.Unheld, row.limit())
	}
	o.bound(row, was, committed)
	if granted {
		o.remembers(row)
	}
	if row.Carried != was.Carried || row.LimitVersion == was.LimitVersion && row.limit() != was.limit() {
		o.carried(row, before)
	}
	for _, percent := range row.budget.thresholds() {
		if row.budget.DeletedAt.IsZero() && row.exempt != row.LimitVersion && simReached(row, percent) && !slices.Contains(row.alerts, simAlert{percent, row.LimitVersion}) {
			s.failf(about, "(e) %s: no alert at %d %%, version %d, and %d of %d are used", name, percent, row.LimitVersion, row.used(), row.limit())
		}
	}
}

// bound follows what a window's limit allows. What was granted before it was lowered stays allowed.
func (o *simOracle) bound(row, was *simRow, committed int64) {
	t := o.truth(row.ID)
	var allowed int64
	for _, a := range t.allowed {
		allowed += a
	}
	if row.limit() < was.limit() && o.s.control.restores == 0 { // else the books may not know what was granted
		t.bound = min(t.bound, committed)
	}
	t.bound = max(t.bound, row.limit()+allowed)
}

// left is what a window has left, with all that is held or in doubt taken for used.
func (r *simRow) left() int64 { return r.limit() - r.used() - r.Held - r.Suspense }

// carried looks at what a window got from the one before, as that was before the same transaction changed it, or after.
func (o *simOracle) carried(row *simRow, before map[int64]simRow) {
	s, name, b := o.s, simName(row.ID), row.budget
	if row.Carried == 0 {
		return
	}
	s.stats.Carried++
	if row.Carried > 0 && !b.CarryOver || row.Carried < 0 && !b.Debt {
		s.failf([]string{name}, "%s carries %d, which its budget does not", name, row.Carried)
	}
	if b.CarryMax > 0 && row.Carried > b.CarryMax {
		s.failf([]string{name}, "%s carries %d, at most %d is allowed", name, row.Carried, b.CarryMax)
	}
	for _, id := range o.order {
		if prev := o.rows[id]; prev.BudgetID == row.BudgetID && prev.EndsAt.Equal(row.StartsAt) {
			left := prev.left()
			if was, ok := before[id]; ok {
				left = max(left, was.left())
			}
			if row.Carried > 0 && row.Carried > left {
				s.failf([]string{name}, "%s carries %d of %s, which has %d left (held %d, suspense %d)", name, row.Carried, simName(id), left, prev.Held, prev.Suspense)
			}
			return
		}
	}
	s.failf([]string{name}, "%s carries %d of no window", name, row.Carried)
}

// admitted takes in a call that a proxy let through, with what it holds (a), (f).
func (o *simOracle) admitted(c *simCall) {
	s, l := o.s, c.life
	for _, h := range c.parts {
		name := simName(h.Window)
		about := []string{name, l.name}
		row := o.rows[h.Window]
		if row == nil {
			if s.control.restores == 0 {
				s.failf(about, "(f) a call is held in %s, which was never opened", name)
			}
			continue
		}
		if want := simAmount(&c.worst, row.Unit); h.Amount != want {
			s.failf(about, "a call holds %d of %s, and its worst is %d", h.Amount, name, want)
		}
		slack := l.slack()
		if s.now.Before(row.StartsAt.Add(-slack)) || !s.now.Before(row.EndsAt.Add(slack)) {
			s.failf(about, "(f) a call of %v is held in %s, which is from %v to %v (slack %v)", s.now, name, row.StartsAt, row.EndsAt, slack)
		}
	}
	o.inAll(c)
	o.count(c)
}

// inAll looks that a call is held in every hard window of its client that the proxy was told of, or it should not be let
// through.
func (o *simOracle) inAll(c *simCall) {
	s, l := o.s, c.life
	for _, b := range s.world.budgets {
		told, ok := l.known[b.ClientID]
		if b.ClientID != uuid.Nil && b.ClientID != c.client.id || !ok || !b.DeletedAt.IsZero() {
			continue
		}
		if b.Paused && b.ClientID != uuid.Nil && b.pausedAt.Before(told) {
			s.failf([]string{l.name}, "%s lets a call of %s through, whose budget %s is paused", l.name, c.client.name, b.name())
		}
		if b.hardAt.IsZero() || !b.hardAt.Before(told) || !b.StartsAt.Add(l.slack()).Before(s.now) {
			continue
		}
		if !slices.ContainsFunc(c.parts, func(h HeldFor) bool { row := o.rows[h.Window]; return row == nil || row.BudgetID == b.ID }) && !(c.worst.Unpriced && b.Unit != Tokens) {
			s.failf([]string{l.name, b.name()}, "%s holds %v for a call of %s, and nothing of its budget %s, which it was told of at %v", l.name, c.parts, c.client.name, b.name(), told)
		}
	}
}

// count adds what a call truly costs to what its windows bear (a). It may be counted anew when that changes.
func (o *simOracle) count(c *simCall) {
	for _, h := range c.counted {
		o.truth(h.Window).cost -= h.Amount
	}
	c.counted = c.counted[:0]
	for _, h := range c.parts {
		t := o.truth(h.Window)
		amount := min(simAmount(&c.truly, t.unit), h.Amount)
		c.counted = append(c.counted, HeldFor{h.Window, amount})
		if t.cost += amount; t.cost > t.bound {
			o.s.failf([]string{simName(h.Window), c.life.name}, "(a) OVERSPENT: %s allows %d, and calls were admitted that cost %d", simName(h.Window), t.bound, t.cost)
		}
	}
}

// remembers looks whether all that proxies were lent of a window is in the books, where something of it was just granted:
// after a database lost its end they have to say it first. A proxy that cannot speak is the exception that cannot be
// helped; what it was lent may then be lent again, so much and no more.
func (o *simOracle) remembers(row *simRow) {
	s := o.s
	if s.control.restores == 0 {
		return
	}
	t := o.truth(row.ID)
	for _, l := range s.control.lives {
		lease := row.leases[l.incarnation]
		forgotten := l.credit[row.ID] - (lease.Granted - lease.Returned)
		if lease.Closed || forgotten <= t.allowed[l.incarnation] {
			continue
		}
		if !l.unsure {
			s.failf([]string{simName(row.ID), l.name}, "(a) %s is granted while %s has %d of it that the books do not know", simName(row.ID), l.name, forgotten)
		}
		t.bound += forgotten - t.allowed[l.incarnation]
		t.allowed[l.incarnation] = forgotten
		s.stats.Forgotten++
		s.tracef("%s: forgotten that %s has %d", simName(row.ID), l.name, forgotten)
	}
}

// look is what happens after every step: proxies that did something are compared with their leases (d).
func (o *simOracle) look() {
	for _, l := range o.stirred {
		l.stirs = false
		if !l.dead && l.tale == o.s.control.restores {
			o.compare(l)
		}
	}
	o.stirred = o.stirred[:0]
	if o.looks++; o.looks%2000 == 0 {
		o.whole()
	}
}

// stir has a proxy looked at after this step. In a crowd, now and then.
func (o *simOracle) stir(l *simLife) {
	if o.stirs++; !l.stirs && (len(o.s.replicas) < 8 || o.stirs%16 == 0) {
		l.stirs = true
		o.stirred = append(o.stirred, l)
	}
}

// compare compares what a proxy has with its leases (d): never more, and the same when nothing is under way.
func (o *simOracle) compare(l *simLife) {
	p := l.purse
	open := map[int64]int64{}
	for _, c := range l.open {
		for _, h := range c.hold.Parts() {
			open[h.Window] += h.Amount
		}
	}
	for _, client := range l.clients {
		if a := p.accountOf(client, false); a != nil {
			if f := a.folio.Load(); f != nil {
				for _, s := range f.slots {
					o.compareSlot(l, s, open[s.id])
				}
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.retired)) {
		o.compareSlot(l, p.retired[id].slot, open[id])
	}
}

func (o *simOracle) compareSlot(l *simLife, s *slot, open int64) {
	row := o.rows[s.id]
	if row == nil {
		return
	}
	lease, avail := row.leases[l.incarnation], s.avail.Load()
	has, rest := avail+open+l.unsettled[s.id], simRest(&lease)
	if avail < 0 || has > rest || has < rest && l.ask.Op == l.done {
		o.s.failf([]string{simName(s.id), l.name}, "(d) %s has %d of %s (%d to lend, %d in calls, %d not settled), and its lease %d (%+v)",
			l.name, has, simName(s.id), avail, open, l.unsettled[s.id], rest, lease)
	}
}

// whole compares all of the oracle's copy with the books.
func (o *simOracle) whole() {
	ctx := context.Background()
	o.s.control.memory.Update(ctx, func(tx Tx) error {
		rows, _ := tx.Windows(ctx, o.order)
		if len(rows) != len(o.order) {
			o.s.failf(nil, "the books have %d windows of %d", len(rows), len(o.order))
		}
		for _, w := range rows {
			if row := o.rows[w.ID]; *w != row.Window {
				o.s.failf([]string{simName(w.ID)}, "%s is not as it was written: %+v, %+v", simName(w.ID), *w, row.Window)
			}
		}
		leases, _ := tx.LeasesIn(ctx, o.order)
		for _, l := range leases {
			if was := o.rows[l.Window].leases[l.Incarnation]; *l != was {
				o.s.failf([]string{simName(l.Window)}, "a lease is not as it was written: %+v, %+v", *l, was)
			}
		}
		return nil
	})
}

// atRest looks at the end of all things: nothing is held by anybody.
func (o *simOracle) atRest() {
	for _, id := range o.order {
		if row := o.rows[id]; row.Held != 0 {
			var of []string
			for _, l := range o.s.control.lives {
				if lease := row.leases[l.incarnation]; !lease.Lost && simRest(&lease) > 0 {
					of = append(of, fmt.Sprintf("%s %+v (dead %v, gone %v)", l.name, lease, l.dead, l.gone))
				}
			}
			o.s.failf(append([]string{simName(id)}, of...), "at rest, %d of %s are held: %v", row.Held, simName(id), of)
		}
	}
}

// busy tells whether anybody waits for an answer.
func (o *simOracle) busy() bool {
	return slices.ContainsFunc(o.s.replicas, func(r *simReplica) bool { return r.life != nil && len(r.life.waits) > 0 })
}

// hardOf are the hard windows of now that a client's calls count in.
func (o *simOracle) hardOf(c *simClient) (rows []*simRow) {
	for _, id := range o.order {
		row := o.rows[id]
		if (row.ClientID == c.id || row.ClientID == uuid.Nil) && row.Hard && row.budget.DeletedAt.IsZero() && !o.s.now.Before(row.StartsAt) && o.s.now.Before(row.EndsAt) {
			rows = append(rows, row)
		}
	}
	return rows
}
