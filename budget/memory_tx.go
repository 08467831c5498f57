package budget

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// memoryTx is what one transaction changed: rows that it saved stand before those of the state.
type memoryTx struct {
	m       *Memory
	epoch   *Epoch
	holders map[uint64]*Holder
	windows map[int64]*Window
	leases  map[LeaseKey]*Lease
	budgets []Budget
	added   []Doubt
	dropped []Doubt
	alerts  []Alert
	entries []Entry
	charges []Charge
	events  []EventID
}

func (m *Memory) begin() *memoryTx {
	return &memoryTx{m: m, holders: map[uint64]*Holder{}, windows: map[int64]*Window{}, leases: map[LeaseKey]*Lease{}}
}

// commit puts all that was changed into the state.
func (t *memoryTx) commit() {
	s := t.m.at
	if t.epoch != nil {
		s.epoch = *t.epoch
	}
	for id, h := range t.holders {
		s.holders[id] = h
	}
	for i := range t.budgets {
		b := &t.budgets[i]
		if s.budgets[b.ID] == nil {
			s.clientOf[b.ClientID] = append(s.clientOf[b.ClientID], b.ID)
		}
		s.budgets[b.ID] = b
	}
	for id, w := range t.windows {
		if s.windows[id] == nil {
			s.index(w)
		}
		s.windows[id] = w
	}
	for k, l := range t.leases {
		if s.leases[k] == nil {
			s.leasesOf[k.Incarnation] = append(s.leasesOf[k.Incarnation], k.Window)
			s.leasesIn[k.Window] = append(s.leasesIn[k.Window], k.Incarnation)
		}
		s.leases[k] = l
	}
	for _, d := range t.dropped {
		delete(s.doubts, doubtKey{d.EventID, d.Window})
	}
	for _, d := range t.added {
		s.doubts[doubtKey{d.EventID, d.Window}] = d
	}
	for _, a := range t.alerts {
		key := alertKey{a.Window, a.Threshold, a.LimitVersion}
		if _, there := s.alerts[key]; !there {
			s.alerts[key] = a
		}
	}
	for _, c := range t.charges {
		s.charges[c.Client] = append(s.charges[c.Client], c)
	}
	for _, e := range t.events {
		s.arrive(e)
	}
	s.journal = append(s.journal, t.entries...)
}

// index keeps a budget's windows by their beginning.
func (s *memoryState) index(w *Window) {
	ids := s.windowsOf[w.BudgetID]
	at, _ := slices.BinarySearchFunc(ids, w, func(id int64, w *Window) int {
		return s.windows[id].StartsAt.Compare(w.StartsAt)
	})
	s.windowsOf[w.BudgetID] = slices.Insert(slices.Clone(ids), at, w.ID)
	s.windows[w.ID] = w
}

func (t *memoryTx) Now(context.Context) (time.Time, error) {
	return t.m.now().Truncate(time.Microsecond), nil
}

func (t *memoryTx) Epoch(context.Context) (Epoch, string, error) {
	stored := t.m.at.epoch
	if t.epoch != nil {
		stored = *t.epoch
	}
	return stored, "memory " + strconv.Itoa(t.m.at.identity), nil
}

func (t *memoryTx) SaveEpoch(_ context.Context, e Epoch) error {
	t.epoch = &e
	return nil
}

func (t *memoryTx) Holders(_ context.Context, ids []uint64) (hs []*Holder, err error) {
	for _, id := range ids {
		if h := cmp.Or(t.holders[id], t.m.at.holders[id]); h != nil {
			c := *h
			hs = append(hs, &c)
		}
	}
	return hs, nil
}

func (t *memoryTx) LiveHolders(ctx context.Context) (hs []*Holder, err error) {
	ids := make([]uint64, 0, len(t.m.at.holders))
	for id := range t.m.at.holders {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	all, err := t.Holders(ctx, ids)
	return slices.DeleteFunc(all, func(h *Holder) bool { return h.State == Closed }), err
}

func (t *memoryTx) SaveHolders(_ context.Context, hs []*Holder) error {
	for _, h := range hs {
		c := *h
		t.holders[h.Incarnation] = &c
	}
	return nil
}

func (t *memoryTx) Budgets(_ context.Context, clients []uuid.UUID) (bs []Budget, err error) {
	for _, client := range clients {
		for _, id := range t.m.at.clientOf[client] {
			if b := t.m.at.budgets[id]; b.DeletedAt.IsZero() {
				bs = append(bs, *b)
			}
		}
	}
	return bs, nil
}

func (t *memoryTx) BudgetsByID(_ context.Context, ids []uuid.UUID) (bs []Budget, err error) {
	for _, id := range ids {
		if b := t.m.at.budgets[id]; b != nil && b.DeletedAt.IsZero() {
			bs = append(bs, *b)
		}
	}
	return bs, nil
}

func (t *memoryTx) Policies(_ context.Context, clients []uuid.UUID) (map[uuid.UUID]*Policy, error) {
	ps := map[uuid.UUID]*Policy{}
	for _, client := range clients {
		if p := t.m.at.policies[client]; p != nil {
			c := *p
			ps[client] = &c
		}
	}
	return ps, nil
}

func (t *memoryTx) window(id int64) *Window {
	w := cmp.Or(t.windows[id], t.m.at.windows[id])
	if w == nil {
		return nil
	}
	c := *w
	return &c
}

func (t *memoryTx) Windows(_ context.Context, ids []int64) (ws []*Window, err error) {
	for _, id := range ids {
		if w := t.window(id); w != nil {
			ws = append(ws, w)
		}
	}
	return ws, nil
}

// ofBudget are the windows of a budget, oldest first, those that this transaction opened included.
func (t *memoryTx) ofBudget(budget uuid.UUID) (ws []*Window) {
	for _, id := range t.m.at.windowsOf[budget] {
		ws = append(ws, cmp.Or(t.windows[id], t.m.at.windows[id]))
	}
	for id, w := range t.windows {
		if w.BudgetID == budget && t.m.at.windows[id] == nil {
			ws = append(ws, w)
		}
	}
	slices.SortFunc(ws, func(a, b *Window) int { return a.StartsAt.Compare(b.StartsAt) })
	return ws
}

func (t *memoryTx) WindowsOf(_ context.Context, budgets []uuid.UUID, after time.Time) (ws []*Window, err error) {
	for _, b := range budgets {
		for _, w := range t.ofBudget(b) {
			if w.EndsAt.After(after) {
				c := *w
				ws = append(ws, &c)
			}
		}
	}
	slices.SortStableFunc(ws, func(a, b *Window) int { return a.StartsAt.Compare(b.StartsAt) })
	return ws, nil
}

func (t *memoryTx) LastWindows(_ context.Context, budgets []uuid.UUID, before time.Time) (ws []*Window, err error) {
	for _, b := range budgets {
		var last *Window
		for _, w := range t.ofBudget(b) {
			if w.StartsAt.Before(before) {
				last = w
			}
		}
		if last != nil {
			c := *last
			ws = append(ws, &c)
		}
	}
	return ws, nil
}

func (t *memoryTx) OpenWindows(_ context.Context, ws []*Window) (opened []*Window, isNew []bool, err error) {
	for _, w := range ws {
		there := t.window(w.ID)
		if there == nil {
			c := *w
			c.Unheld = max(0, plus(c.Unheld, t.logged(w)))
			t.windows[w.ID] = &c
			there = t.window(w.ID)
			isNew = append(isNew, true)
		} else {
			isNew = append(isNew, false)
		}
		opened = append(opened, there)
	}
	return opened, isNew, nil
}

// logged is what the usage log has for a new window, without what was held in a window of its budget.
func (t *memoryTx) logged(w *Window) (sum int64) {
	count := func(cs []Charge) {
		for i := range cs {
			c := &cs[i]
			held := slices.ContainsFunc(c.Holds, func(h HeldFor) bool {
				o := t.window(h.Window)
				return h.Window == w.ID || o != nil && o.BudgetID == w.BudgetID
			})
			mine := w.ClientID == uuid.Nil || c.Client == w.ClientID
			if mine && !held && !c.AdmittedAt.Before(w.StartsAt) && c.AdmittedAt.Before(w.EndsAt) {
				sum += c.amount(w.Unit)
			}
		}
	}
	if w.ClientID == uuid.Nil {
		for _, cs := range t.m.at.charges {
			count(cs)
		}
	} else {
		count(t.m.at.charges[w.ClientID])
	}
	count(t.charges)
	return sum
}

func (t *memoryTx) SaveWindows(_ context.Context, ws []*Window) error {
	for _, w := range ws {
		c := *w
		t.windows[w.ID] = &c
	}
	return nil
}

func (t *memoryTx) States(_ context.Context, ids []int64, incarnation uint64, changed time.Time) (ws []*Window, err error) {
	all := slices.Clone(ids)
	for _, window := range t.m.at.leasesOf[incarnation] {
		if l := t.lease(LeaseKey{window, incarnation}); l.Rest() > 0 {
			all = append(all, window)
		}
	}
	for k, l := range t.leases {
		if k.Incarnation == incarnation && l.Rest() > 0 {
			all = append(all, k.Window)
		}
	}
	slices.Sort(all)
	for _, id := range slices.Compact(all) {
		if w := t.window(id); w != nil && w.Since.After(changed) {
			ws = append(ws, w)
		}
	}
	return ws, nil
}

func (t *memoryTx) lease(key LeaseKey) *Lease {
	l := cmp.Or(t.leases[key], t.m.at.leases[key])
	if l == nil {
		return nil
	}
	c := *l
	return &c
}

func (t *memoryTx) Leases(_ context.Context, keys []LeaseKey) (ls []*Lease, err error) {
	for _, key := range keys {
		if l := t.lease(key); l != nil {
			ls = append(ls, l)
		}
	}
	return ls, nil
}

// openLeases are those that are not closed and that a test picks, in order.
func (t *memoryTx) openLeases(committed []LeaseKey, pick func(LeaseKey) bool) (ls []*Lease) {
	keys := committed
	for k := range t.leases {
		if t.m.at.leases[k] == nil && pick(k) {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		if l := t.lease(k); !l.Closed {
			ls = append(ls, l)
		}
	}
	slices.SortFunc(ls, func(a, b *Lease) int { return compareKeys(a.LeaseKey, b.LeaseKey) })
	return ls
}

func (t *memoryTx) LeasesOf(_ context.Context, incarnations []uint64) ([]*Lease, error) {
	var keys []LeaseKey
	for _, i := range incarnations {
		for _, w := range t.m.at.leasesOf[i] {
			keys = append(keys, LeaseKey{w, i})
		}
	}
	return t.openLeases(keys, func(k LeaseKey) bool { return slices.Contains(incarnations, k.Incarnation) }), nil
}

func (t *memoryTx) LeasesIn(_ context.Context, windows []int64) ([]*Lease, error) {
	var keys []LeaseKey
	for _, w := range windows {
		for _, i := range t.m.at.leasesIn[w] {
			keys = append(keys, LeaseKey{w, i})
		}
	}
	return t.openLeases(keys, func(k LeaseKey) bool { return slices.Contains(windows, k.Window) }), nil
}

func (t *memoryTx) Sharers(ctx context.Context, windows []int64) (map[int64]int, error) {
	n := map[int64]int{}
	ls, err := t.LeasesIn(ctx, windows)
	for _, l := range ls {
		if !l.Lost {
			n[l.Window]++
		}
	}
	return n, err
}

func (t *memoryTx) SaveLeases(_ context.Context, ls []*Lease) error {
	for _, l := range ls {
		c := *l
		t.leases[l.LeaseKey] = &c
	}
	return nil
}

func (t *memoryTx) Doubts(_ context.Context, events []EventID) (ds []Doubt, err error) {
	for _, d := range t.m.at.doubts {
		if slices.Contains(events, d.EventID) {
			ds = append(ds, d)
		}
	}
	return sortedDoubts(ds), nil
}

func (t *memoryTx) DoubtsIn(_ context.Context, window int64) (ds []Doubt, err error) {
	for _, d := range t.m.at.doubts {
		if d.Window == window {
			ds = append(ds, d)
		}
	}
	return sortedDoubts(ds), nil
}

func (t *memoryTx) AddDoubts(_ context.Context, ds []Doubt) error {
	t.added = append(t.added, ds...)
	return nil
}

func (t *memoryTx) DropDoubts(_ context.Context, ds []Doubt) error {
	t.dropped = append(t.dropped, ds...)
	return nil
}

func (t *memoryTx) AddAlerts(_ context.Context, as []Alert) error {
	t.alerts = append(t.alerts, as...)
	return nil
}

func (t *memoryTx) Arrived(_ context.Context, closes []Close) (map[uint64]bool, error) {
	arrived := map[uint64]bool{}
	for _, c := range closes {
		a := t.m.at.arrived[c.Incarnation]
		arrived[c.Incarnation] = c.Last == 0 || a != nil && a.all >= c.Last
	}
	return arrived, nil
}

func (t *memoryTx) Journal(_ context.Context, entries []Entry) error {
	t.entries = append(t.entries, entries...)
	return nil
}

func (t *memoryTx) DueBudgets(_ context.Context, now time.Time, most int) (bs []Budget, err error) {
	for _, b := range t.m.at.budgets {
		if !b.DeletedAt.IsZero() || b.StartsAt.After(now) {
			continue
		}
		ws := t.ofBudget(b.ID)
		if len(ws) == 0 || !ws[len(ws)-1].EndsAt.After(now) {
			bs = append(bs, *b)
		}
	}
	slices.SortFunc(bs, func(a, b Budget) int { return compareIDs(a.ID, b.ID) })
	return bs[:min(len(bs), most)], nil
}

func (t *memoryTx) DueWindows(_ context.Context, now time.Time, most int) (ids []int64, err error) {
	var due []*Window
	for budget := range t.m.at.windowsOf {
		for _, w := range t.ofBudget(budget) {
			if w.Sealed {
				continue
			}
			if !w.EndsAt.After(now) && (w.Held == 0 && w.Suspense == 0 || !w.EndsAt.Add(SealAfter).After(now)) {
				due = append(due, w)
			}
			break
		}
	}
	slices.SortFunc(due, func(a, b *Window) int { return cmp.Or(a.EndsAt.Compare(b.EndsAt), cmp.Compare(a.ID, b.ID)) })
	for _, w := range due[:min(len(due), most)] {
		ids = append(ids, w.ID)
	}
	return ids, nil
}
