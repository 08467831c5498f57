package budget

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

// opening is a budget's window that is asked for: the one that an instant lies in. It stays nil before the budget starts.
type opening struct {
	budget *Budget
	at     time.Time
	window *Window
	isNew  bool
}

// open finds windows, and opens those that are not there yet. Those that are there come back as they were read, not
// locked; new ones are on the page.
func (p *page) open(ctx context.Context, os []*opening) error {
	var missing []*opening
	there, err := p.find(ctx, os, func(o *opening) time.Time { return o.at })
	if err != nil {
		return err
	}
	for _, o := range os {
		var ok bool
		if o.window, _, _, ok = o.budget.placeIn(p.zones, there[o.budget.ID], o.at); ok && o.window == nil {
			missing = append(missing, o)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	// What comes before a window that is missing may reach into its period, by an older calendar.
	there, err = p.find(ctx, missing, func(o *opening) time.Time {
		start, _ := Span(o.budget.Period, o.budget.BillingDay, p.zones.of(o.budget), o.at)
		return start
	})
	if err != nil {
		return err
	}
	fresh := map[int64]*Window{}
	for _, o := range missing {
		w, start, end, _ := o.budget.placeIn(p.zones, there[o.budget.ID], o.at)
		if w == nil {
			w = o.budget.newWindowIn(p.zones.of(o.budget), start, end)
			there[o.budget.ID] = append(there[o.budget.ID], w)
			fresh[w.ID] = w
		}
		o.window = w
	}
	return p.insert(ctx, fresh, missing)
}

// find reads the windows of the openings' budgets that end after the earliest of their times.
func (p *page) find(ctx context.Context, os []*opening, from func(*opening) time.Time) (map[uuid.UUID][]*Window, error) {
	there := map[uuid.UUID][]*Window{}
	if len(os) == 0 {
		return there, nil
	}
	var ids []uuid.UUID
	after := from(os[0])
	for _, o := range os {
		if at := from(o); at.Before(after) {
			after = at
		}
		ids = append(ids, o.budget.ID)
	}
	slices.SortFunc(ids, compareIDs)
	ws, err := p.tx.WindowsOf(ctx, slices.Compact(ids), after)
	for _, w := range ws {
		there[w.BudgetID] = append(there[w.BudgetID], w)
	}
	return there, err
}

func compareIDs(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }

// newWindow is a window of the budget as it is now.
func (b *Budget) newWindow(start, end time.Time) *Window { return b.newWindowIn(b.zone(), start, end) }

func (b *Budget) newWindowIn(zone *time.Location, start, end time.Time) *Window {
	return &Window{
		ID: WindowID(b.ID, start), BudgetID: b.ID, ClientID: b.ClientID, Unit: b.Unit, Period: b.Period,
		Hard: b.PauseAtLimit, TimeZone: zone.String(), StartsAt: start, EndsAt: end, Base: b.Limit, LimitVersion: 1,
	}
}

// insert opens new windows with what the ones before them hand on.
func (p *page) insert(ctx context.Context, fresh map[int64]*Window, os []*opening) error {
	if len(fresh) == 0 {
		return nil
	}
	before := make(map[int64]*Window, len(fresh)) // by id of the new one
	if err := p.predecessors(ctx, fresh, os, before); err != nil {
		return err
	}
	ws := make([]*Window, 0, len(fresh))
	for _, w := range fresh {
		w.Since = p.now
		if last := before[w.ID]; last != nil {
			w.Carried = last.carryOf(p.budgets[w.BudgetID])
			p.note(w.ID, 0, "carry", w.Carried, "what the window before had left when this one was opened")
		}
		ws = append(ws, w)
	}
	slices.SortFunc(ws, func(a, b *Window) int { return cmp.Compare(a.ID, b.ID) })
	opened, isNew, err := p.tx.OpenWindows(ctx, ws)
	if err != nil {
		return err
	}
	news := map[int64]bool{}
	for i, w := range opened {
		p.windows[w.ID], news[w.ID] = w, isNew[i]
		if w.Unheld > 0 && isNew[i] {
			p.touched[w.ID] = true // what the usage log has for it may be beyond a threshold
		}
	}
	for _, o := range os {
		if w := p.windows[o.window.ID]; w != nil {
			o.window, o.isNew = w, news[w.ID]
		}
	}
	return nil
}

// predecessors locks the windows that hand something on to the new ones: nobody may be granted more of them meanwhile.
func (p *page) predecessors(ctx context.Context, fresh map[int64]*Window, os []*opening, before map[int64]*Window) error {
	var ids []uuid.UUID
	var latest time.Time
	for _, o := range os {
		if o.budget.carries() && fresh[o.window.ID] != nil {
			p.budgets[o.budget.ID] = o.budget
			ids = append(ids, o.budget.ID)
			latest = later(latest, o.window.StartsAt)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.SortFunc(ids, compareIDs)
	last, err := p.tx.LastWindows(ctx, slices.Compact(ids), latest)
	if err != nil {
		return err
	}
	locked := map[int64]bool{}
	for _, w := range last {
		locked[w.ID] = true
	}
	if err := p.lock(ctx, locked); err != nil {
		return err
	}
	for _, l := range last {
		for _, w := range fresh {
			if w.BudgetID == l.BudgetID && !l.EndsAt.After(w.StartsAt) && p.windows[l.ID] != nil {
				before[w.ID] = p.windows[l.ID]
			}
		}
	}
	return nil
}

// carries tells whether a window hands anything on to the next one.
func (b *Budget) carries() bool { return b.CarryOver || b.Debt }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
