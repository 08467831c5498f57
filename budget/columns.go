package budget

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// ErrTooMany says that a client has as many budgets as one call may be held in.
var ErrTooMany = fmt.Errorf("budget: there are %d already, the most that a client may have, and that there may be over all clients", MaxBudgets)

// What the durable stores have in common: which columns a row has, in which order, and the documents among them.

// windowColumns are the columns of a window in the order of windowFields.
var windowColumns = []string{
	"id", "budget_id", "client_id", "budget_type", "budget_period", "hard", "time_zone", "starts_at", "ends_at",
	"base", "carried", "topped_up", "limit_version", "committed", "spent", "held", "suspense", "overrun", "unheld",
	"recall", "exact", "alerted", "sealed", "changed_at",
}

// windowFields are where a window's columns go. at is what a store reads a time into.
func windowFields(w *Window, at func(*time.Time) any) []any {
	return []any{
		&w.ID, &w.BudgetID, &w.ClientID, (*string)(&w.Unit), (*string)(&w.Period), &w.Hard, &w.TimeZone, at(&w.StartsAt), at(&w.EndsAt),
		&w.Base, &w.Carried, &w.ToppedUp, &w.LimitVersion, &w.Committed, &w.Spent, &w.Held, &w.Suspense, &w.Overrun, &w.Unheld,
		&w.Recall, &w.Exact, &w.Alerted, &w.Sealed, at(&w.Since),
	}
}

// leaseFields are where a lease's columns go: window_id, incarnation, granted, returned, settled, doubted, lost, closed.
func leaseFields(l *Lease, incarnation *int64) []any {
	return []any{&l.Window, incarnation, &l.Granted, &l.Returned, &l.Settled, &l.Doubted, &l.Lost, &l.Closed}
}

const leaseColumns = "window_id, incarnation, granted, returned, settled, doubted, lost, closed"

// A policy is kept as a document, in the form in which it crosses the link.

func encodePolicy(p Policy) (string, error) {
	b, err := json.Marshal(p)
	return string(b), err
}

func decodePolicy(client uuid.UUID, document []byte) (*Policy, error) {
	p := new(Policy)
	if err := json.Unmarshal(document, p); err != nil {
		return nil, fmt.Errorf("the policy of client %s in budget_policies cannot be read: %w", client, err)
	}
	return p, nil
}

// completed fills in what a new budget leaves open.
func (b Budget) completed(now time.Time) Budget {
	if b.ID == uuid.Nil {
		b.ID = uuid.New()
	}
	if b.StartsAt.IsZero() {
		b.StartsAt = now
	}
	b.StartsAt = b.StartsAt.UTC().Truncate(time.Microsecond)
	b.BillingDay = min(max(b.BillingDay, 1), 31)
	if b.TimeZone == "" {
		b.TimeZone = DefaultZone
	}
	b.CreatedAt, b.UpdatedAt, b.DeletedAt = now, now, time.Time{}
	return b
}

// changed is the budget with what may change taken from another one. When it starts is settled as soon as a window counts
// from there.
func (b Budget) changed(to *Budget, began bool) Budget {
	was := b
	b = *to
	b.ID, b.ClientID, b.Unit, b.Period = was.ID, was.ClientID, was.Unit, was.Period
	b.CreatedAt, b.UpdatedAt, b.DeletedAt = was.CreatedAt, was.UpdatedAt, was.DeletedAt
	b.StartsAt = b.StartsAt.UTC().Truncate(time.Microsecond)
	if began || to.StartsAt.IsZero() {
		b.StartsAt = was.StartsAt
	}
	b.BillingDay = min(max(b.BillingDay, 1), 31)
	if b.TimeZone == "" {
		b.TimeZone = was.TimeZone
	}
	return b
}

// begin opens the window of a new budget that is open now, with what was used in it already, and alerts of it.
func begin(ctx context.Context, tx Tx, b *Budget) error {
	p, err := openPage(ctx, tx)
	if err != nil {
		return err
	}
	if err := p.open(ctx, []*opening{{budget: p.keep([]Budget{*b})[0], at: p.now}}); err != nil {
		return err
	}
	return p.save(ctx)
}

// showing is how a window stands, as client_budgets shows it.
type showing struct {
	budget uuid.UUID
	used   int64
	since  string // the date, where the budget is, on which the period began
	until  time.Time
	full   bool // a hard cap with nothing left that could come back
	hard   bool // a hard cap; it is at its limit too once a call was refused for it, of which there is an alert
	window int64
	limit  int64 // its version
}

func (w *Window) showing() showing {
	zone, err := time.LoadLocation(w.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	return showing{
		w.BudgetID, w.Used(), w.StartsAt.In(zone).Format(time.DateOnly), w.EndsAt, w.Hard && plus(w.Used(), w.Suspense) >= w.Limit(),
		w.Hard, w.ID, w.LimitVersion,
	}
}

// column is one thing of each of all.
func column[T, V any](all []T, value func(T) V) []V {
	vs := make([]V, len(all))
	for i, one := range all {
		vs[i] = value(one)
	}
	return vs
}

// signed are incarnations as databases keep them, in order and each once.
func signed(incarnations []uint64) []int64 {
	ids := column(incarnations, func(i uint64) int64 { return int64(i) })
	slices.Sort(ids)
	return slices.Compact(ids)
}

// arranged puts opened windows in the order in which they were asked for.
func arranged(asked []*Window, rows []*Window, inserted []int64) (opened []*Window, isNew []bool, err error) {
	byID := make(map[int64]*Window, len(rows))
	for _, w := range rows {
		byID[w.ID] = w
	}
	for _, a := range asked {
		w := byID[a.ID]
		if w == nil {
			return nil, nil, fmt.Errorf("window %d is not there after it was opened", a.ID)
		}
		opened = append(opened, w)
		isNew = append(isNew, slices.Contains(inserted, a.ID))
	}
	return opened, isNew, nil
}

// orNow is a time, or now where there is none.
func orNow(t, now time.Time) time.Time {
	if t.IsZero() {
		return now
	}
	return t
}

// checkBack is how long ago a window may have ended that Check still looks at: nothing is settled much later.
const checkBack = 48 * time.Hour

// checkEdge is how far from a window's beginning and end its calls are looked at one by one. In between, the roll-ups
// tell what the log has, for the two are always equal; a call there counts in this window, unless the clock of the proxy
// that admitted it was wrong by more than this.
const checkEdge = time.Hour

// checked compares windows with the log, and with what their leases hold and what is suspended of these and by doubts. A
// window that logged does not have is not compared with the log.
func checked(ws []*Window, logged, holding, suspended map[int64]int64) CheckReport {
	r := CheckReport{Windows: len(ws)}
	for _, w := range ws {
		fault := func(what string, ledger, log int64) {
			if ledger != log {
				r.Faults = append(r.Faults, CheckLine{w.ID, w.BudgetID, w.ClientID, w.Unit, what, ledger, log})
			}
		}
		if log, known := logged[w.ID]; known {
			fault("spent", w.Used(), log)
			r.Spent, r.Logged = plus(r.Spent, w.Used()), plus(r.Logged, log)
		}
		fault("held", w.Held, holding[w.ID])
		fault("suspense", w.Suspense, suspended[w.ID])
		if w.Check() != nil {
			fault("adds up", w.committedNow(), max(w.Limit(), w.Committed))
		}
	}
	return r
}
