package budget

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// page is what one transaction has open of the books: windows, locked, with their leases. Rules change the rows on it,
// save writes back those that were touched, each kind in one go.
type page struct {
	tx      Tx
	now     time.Time
	budgets map[uuid.UUID]*Budget
	windows map[int64]*Window
	leases  map[LeaseKey]*Lease
	zones   zones

	touched       map[int64]bool
	touchedLeases map[LeaseKey]bool
	entries       []Entry
	alerts        []Alert
}

func openPage(ctx context.Context, tx Tx) (*page, error) {
	now, err := tx.Now(ctx)
	return &page{
		tx: tx, now: now,
		budgets: map[uuid.UUID]*Budget{}, windows: map[int64]*Window{}, leases: map[LeaseKey]*Lease{}, zones: zones{},
		touched: map[int64]bool{}, touchedLeases: map[LeaseKey]bool{},
	}, err
}

// keep puts budgets on the page, where thresholds are looked up.
func (p *page) keep(bs []Budget) []*Budget {
	kept := make([]*Budget, len(bs))
	for i := range bs {
		kept[i] = &bs[i]
		p.budgets[bs[i].ID] = &bs[i]
	}
	return kept
}

// lock loads windows, in the order of their ids, that are not on the page yet.
func (p *page) lock(ctx context.Context, ids map[int64]bool) error {
	missing := make([]int64, 0, len(ids))
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if p.windows[id] == nil {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ws, err := p.tx.Windows(ctx, missing)
	for _, w := range ws {
		p.windows[w.ID] = w
	}
	return err
}

// load loads leases of windows that are locked.
func (p *page) load(ctx context.Context, keys map[LeaseKey]bool) error {
	missing := make([]LeaseKey, 0, len(keys))
	for k := range keys {
		if p.windows[k.Window] != nil && p.leases[k] == nil {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.SortFunc(missing, compareKeys)
	ls, err := p.tx.Leases(ctx, missing)
	for _, l := range ls {
		p.leases[l.LeaseKey] = l
	}
	return err
}

// compareKeys orders by window, then by incarnation.
func compareKeys(a, b LeaseKey) int {
	return cmp.Or(cmp.Compare(a.Window, b.Window), cmp.Compare(a.Incarnation, b.Incarnation))
}

// touch takes a window and a lease on it for changing. The lease may be a new one.
func (p *page) touch(window int64, incarnation uint64) (*Window, *Lease) {
	w, key := p.windows[window], LeaseKey{window, incarnation}
	if w == nil {
		return nil, nil
	}
	l := p.leases[key]
	if l == nil {
		l = &Lease{LeaseKey: key}
		p.leases[key] = l
	}
	p.touched[window], p.touchedLeases[key] = true, true
	return w, l
}

// note writes a line into the journal, unless nothing moved.
func (p *page) note(window int64, incarnation uint64, kind string, amount int64, reason string) {
	if amount != 0 {
		p.entries = append(p.entries, Entry{window, incarnation, kind, amount, reason, p.now})
	}
}

// alert puts an alert into the outbox, for the limit as it is now.
func (p *page) alert(w *Window, threshold int) {
	p.alerts = append(p.alerts, Alert{w.ID, w.BudgetID, w.ClientID, threshold, w.LimitVersion, w.Limit(), w.Used(), p.now})
}

// thresholds are the budget's in percent, rising, each once.
func (b *Budget) thresholds() []int {
	all := slices.Clone(b.Thresholds)
	for percent, on := range map[int]bool{80: b.Alert80, 90: b.Alert90, 100: b.Alert100} {
		if on {
			all = append(all, percent)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// raise alerts the thresholds that a window crossed since it was alerted last.
func (p *page) raise(w *Window) {
	b, used := p.budgets[w.BudgetID], w.Used()
	if b == nil || used <= 0 {
		return
	}
	for _, percent := range b.thresholds() {
		if percent > w.Alerted && used >= share(w.Limit(), percent) {
			w.Alerted = percent
			p.alert(w, percent)
		}
	}
}

// save writes back what was touched.
func (p *page) save(ctx context.Context) error {
	var ws []*Window
	for _, id := range slices.Sorted(maps.Keys(p.touched)) {
		w := p.windows[id]
		w.Since = p.now
		p.raise(w)
		ws = append(ws, w)
	}
	var ls []*Lease
	for _, k := range slices.SortedFunc(maps.Keys(p.touchedLeases), compareKeys) {
		ls = append(ls, p.leases[k])
	}
	for _, write := range []struct {
		n int
		f func() error
	}{
		{len(ws), func() error { return p.tx.SaveWindows(ctx, ws) }},
		{len(ls), func() error { return p.tx.SaveLeases(ctx, ls) }},
		{len(p.alerts), func() error { return p.tx.AddAlerts(ctx, p.alerts) }},
		{len(p.entries), func() error { return p.tx.Journal(ctx, p.entries) }},
	} {
		if write.n == 0 {
			continue
		}
		if err := write.f(); err != nil {
			return err
		}
	}
	return nil
}
