package budget

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// act does what a message asks for. First all rows are read, windows in the order of their ids; then the rules run.
func (m *message) act(ctx context.Context) error {
	accounts, err := m.openAccounts(ctx)
	if err != nil {
		return err
	}
	if err := m.findClosing(ctx); err != nil {
		return err
	}
	if err := m.lockAll(ctx, accounts); err != nil {
		return err
	}
	sharers, err := m.sharers(ctx, accounts)
	if err != nil {
		return err
	}
	m.resume()
	m.takeAssertions()
	m.takeReturns()
	m.closeLeases()
	if err := m.moveOn(ctx); err != nil {
		return err
	}
	m.grantAll(accounts, sharers)
	if m.Leaving {
		m.self.State = Left
	}
	return m.noteRefusals(ctx)
}

// account is an Opening with what it opens.
type account struct {
	need    Cost
	current []*opening
	next    []*opening
}

// openAccounts finds the windows of the clients that are asked for, and those that assertions name, and opens what is
// not there.
func (m *message) openAccounts(ctx context.Context) ([]*account, error) {
	clients := map[uuid.UUID]bool{}
	for _, o := range m.Open {
		clients[o.Client] = true
	}
	asked := slices.SortedFunc(maps.Keys(clients), compareIDs)
	for _, s := range m.Assert {
		clients[s.Client] = true
	}
	if len(clients) == 0 {
		return nil, nil
	}
	bs, err := m.tx.Budgets(ctx, slices.SortedFunc(maps.Keys(clients), compareIDs))
	if err != nil {
		return nil, err
	}
	of := map[uuid.UUID][]*Budget{}
	for _, b := range m.keep(bs) {
		of[b.ClientID] = append(of[b.ClientID], b)
	}
	policies := map[uuid.UUID]*Policy{}
	if len(asked) > 0 {
		if policies, err = m.tx.Policies(ctx, asked); err != nil {
			return nil, err
		}
	}
	var accounts []*account
	var current, next []*opening
	for _, o := range m.Open {
		a := &account{need: o.Need}
		state := AccountState{Client: o.Client, Policy: policies[o.Client]}
		for _, b := range of[o.Client] {
			a.current = append(a.current, &opening{budget: b, at: m.now})
			if b.Paused {
				state.IsPaused, state.Paused = true, b.PausedReason
			}
		}
		current = append(current, a.current...)
		accounts = append(accounts, a)
		m.reply.Accounts = append(m.reply.Accounts, state)
	}
	if err := m.open(ctx, current); err != nil {
		return nil, err
	}
	for i, o := range m.Open {
		accounts[i].next = accounts[i].following(o.Ahead)
		next = append(next, accounts[i].next...)
	}
	if err := m.open(ctx, next); err != nil {
		return nil, err
	}
	return accounts, m.reopen(ctx)
}

// following are the windows that come next: of budgets that have not begun the first one, always, for a proxy that did not
// know of it would let calls through unheld from then on; and those after the current ones when they are asked for. One
// that something is carried into has none ahead: with what it begins is known only when the one before is over.
func (a *account) following(ahead bool) (next []*opening) {
	for _, o := range a.current {
		switch {
		case o.window != nil && ahead && !o.budget.carries():
			next = append(next, &opening{budget: o.budget, at: o.window.EndsAt})
		case o.window == nil:
			next = append(next, &opening{budget: o.budget, at: o.budget.StartsAt})
		}
	}
	return next
}

// reopen makes windows again that an incarnation has something of and the books do not know.
func (m *message) reopen(ctx context.Context) error {
	asserted := map[int64]bool{}
	for _, s := range m.Assert {
		asserted[s.Window] = true
	}
	if len(asserted) == 0 {
		return nil
	}
	known, err := m.tx.States(ctx, sortedWindows(asserted), 0, time.Time{})
	if err != nil {
		return err
	}
	for _, w := range known {
		delete(asserted, w.ID)
	}
	fresh := map[int64]*Window{}
	var os []*opening
	for _, s := range m.Assert {
		b := m.budgets[s.Budget]
		if !asserted[s.Window] || m.windows[s.Window] != nil || b == nil || WindowID(s.Budget, s.StartsAt) != s.Window {
			continue
		}
		zone := m.zones.of(b)
		_, end := Span(b.Period, b.BillingDay, zone, s.StartsAt)
		w := b.newWindowIn(zone, s.StartsAt, end)
		fresh[w.ID] = w
		os = append(os, &opening{budget: b, window: w})
	}
	return m.insert(ctx, fresh, os)
}

// findClosing tells which of the incarnations to close are done with, and finds what they have.
func (m *message) findClosing(ctx context.Context) error {
	var ask []Close
	for _, c := range m.Close {
		switch h := m.holders[c.Incarnation]; {
		case c.Incarnation == m.Incarnation:
		case h == nil || h.State == Closed:
			m.reply.Closed = append(m.reply.Closed, c.Incarnation)
		default:
			ask = append(ask, c)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	arrived, err := m.tx.Arrived(ctx, ask)
	if err != nil {
		return err
	}
	var done []uint64
	for _, c := range ask {
		if arrived[c.Incarnation] {
			done = append(done, c.Incarnation)
			m.holders[c.Incarnation].State = Closed
			m.reply.Closed = append(m.reply.Closed, c.Incarnation)
		}
	}
	if len(done) == 0 {
		return nil
	}
	// All of their events have been settled, so no lease of theirs can be new from here on.
	m.closing, err = m.tx.LeasesOf(ctx, sortedIncarnations(done))
	return err
}

// lockAll locks all windows that may change, and loads the leases on them.
func (m *message) lockAll(ctx context.Context, accounts []*account) (err error) {
	if m.self.State == Lost {
		if m.resumed, err = m.tx.LeasesOf(ctx, []uint64{m.Incarnation}); err != nil {
			return err
		}
	}
	keys := map[LeaseKey]bool{}
	for _, l := range slices.Concat(m.closing, m.resumed) {
		keys[l.LeaseKey] = true
	}
	own := func(window int64) { keys[LeaseKey{window, m.Incarnation}] = true }
	for _, r := range m.Return {
		own(r.Window)
	}
	for _, s := range m.Assert {
		own(s.Window)
	}
	if !m.learning {
		for _, w := range m.Want {
			own(w.Window)
		}
		for _, a := range accounts {
			for _, o := range a.wanting() {
				own(o.window.ID)
			}
		}
	}
	windows := map[int64]bool{}
	for k := range keys {
		windows[k.Window] = true
	}
	if err := m.lock(ctx, windows); err != nil {
		return err
	}
	if err := m.load(ctx, keys); err != nil {
		return err
	}
	m.closing, m.resumed = m.locked(m.closing), m.locked(m.resumed)
	return nil
}

// wanting are the windows of which an account is lent a first slice.
func (a *account) wanting() (os []*opening) {
	for _, o := range slices.Concat(a.current, a.next) {
		if o.window != nil && o.window.Hard && a.need.In(o.budget.Unit) > 0 {
			os = append(os, o)
		}
	}
	return os
}

// sharers counts, for the windows that something is wanted of, those that share it.
func (m *message) sharers(ctx context.Context, accounts []*account) (map[int64]int, error) {
	ids := map[int64]bool{}
	for _, w := range m.Want {
		ids[w.Window] = true
	}
	for _, a := range accounts {
		for _, o := range a.wanting() {
			ids[o.window.ID] = true
		}
	}
	if len(ids) == 0 || m.learning {
		return nil, nil
	}
	return m.tx.Sharers(ctx, sortedWindows(ids))
}

// resume takes what one that was taken for lost has out of suspense: it lives.
func (m *message) resume() {
	for _, l := range m.resumed {
		w, l := m.touch(l.Window, l.Incarnation)
		m.note(w.ID, l.Incarnation, "resume", w.resumeLease(l), "taken for lost, and spoke again")
	}
	if m.self.State == Lost {
		m.self.State = Live
	}
}

func (m *message) takeAssertions() {
	for _, s := range m.Assert {
		if w, l := m.touch(s.Window, m.Incarnation); w != nil {
			m.note(w.ID, m.Incarnation, "assert", w.assert(l, s.Granted, s.Returned), "the books had lost their end")
		}
	}
}

func (m *message) takeReturns() {
	for _, r := range m.Return {
		if l := m.leases[LeaseKey{r.Window, m.Incarnation}]; l != nil {
			w, l := m.touch(r.Window, m.Incarnation)
			w.giveBack(l, r.Amount)
		}
	}
}

func (m *message) closeLeases() {
	for _, l := range m.closing {
		w, l := m.touch(l.Window, l.Incarnation)
		m.note(w.ID, l.Incarnation, "close", w.closeLease(l), "all of its events have arrived")
	}
}

// moveOn looks at the clock again where a window is about to end: while its lock was waited for, what it had left may
// have been carried on.
func (m *message) moveOn(ctx context.Context) (err error) {
	for _, w := range m.windows {
		if left := w.EndsAt.Sub(m.now); left > 0 && left < changeSlack {
			m.now, err = m.tx.Now(ctx)
			return err
		}
	}
	return nil
}

// grantAll answers wants, and gives the accounts that were opened their first slices.
func (m *message) grantAll(accounts []*account, sharers map[int64]int) {
	for _, want := range m.Want {
		m.grant(want, sharers[want.Window])
	}
	for i, a := range accounts {
		state := &m.reply.Accounts[i]
		for _, o := range a.current {
			state.Windows = m.firstSlice(state.Windows, o, &a.need, sharers)
		}
		need := a.need
		if !m.Open[i].Ahead { // the calls that wait are not for a window that has yet to begin
			need = Cost{}
		}
		for _, o := range a.next {
			state.Next = m.firstSlice(state.Next, o, &need, sharers)
		}
	}
}

// firstSlice lends for the calls that wait, and for a few like them.
func (m *message) firstSlice(ids []int64, o *opening, worst *Cost, sharers map[int64]int) []int64 {
	if o.window == nil {
		return ids
	}
	need := max(0, worst.In(o.budget.Unit))
	m.grant(Want{Window: o.window.ID, Least: need, Need: need, More: plus(need, need, need)}, sharers[o.window.ID])
	return append(ids, o.window.ID)
}

// grant answers one want. Nothing is lent of windows that only alert, for nothing is held in them; and nothing of those
// that are over.
func (m *message) grant(want Want, sharers int) {
	g := Grant{Window: want.Window}
	if w := m.windows[want.Window]; w != nil && w.Hard && !w.over(m.now) && !m.learning {
		recall, exact := w.Recall, w.Exact
		if g.Amount = w.offer(want, sharers); g.Amount > 0 {
			w, l := m.touch(want.Window, m.Incarnation)
			g.Amount = min(g.Amount, MaxLimit-l.Granted) // so that its sums never overflow
			w.grant(l, g.Amount)
		} else if w.Recall != recall || w.Exact != exact {
			m.touched[w.ID] = true
		}
	}
	m.reply.Grants = append(m.reply.Grants, g)
}

// noteRefusals alerts that a hard limit is reached in effect: a call was refused for it. An alert that there is already
// stays as it is.
func (m *message) noteRefusals(ctx context.Context) error {
	if len(m.Refused) == 0 || m.learning {
		return nil
	}
	ids, of := map[int64]bool{}, map[uuid.UUID]bool{}
	for _, id := range m.Refused {
		ids[id] = true
	}
	ws, err := m.tx.States(ctx, sortedWindows(ids), 0, time.Time{})
	if err != nil {
		return err
	}
	for _, w := range ws {
		if w.Hard && w.Alerted < 100 {
			of[w.BudgetID] = true
		}
	}
	if len(of) == 0 {
		return nil
	}
	bs, err := m.tx.BudgetsByID(ctx, slices.SortedFunc(maps.Keys(of), compareIDs))
	if err != nil {
		return err
	}
	m.keep(bs)
	for _, w := range ws {
		if b := m.budgets[w.BudgetID]; b != nil && b.Alert100 && of[w.BudgetID] {
			m.alert(w, 100)
		}
	}
	return nil
}

func sortedWindows(ids map[int64]bool) []int64 { return slices.Sorted(maps.Keys(ids)) }
