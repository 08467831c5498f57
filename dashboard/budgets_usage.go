package dashboard

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/budget"
)

// BudgetUsage is how a budget stands in the period that is open now.
type BudgetUsage struct {
	BudgetID        uuid.UUID `json:"budget_id" format:"uuid"`
	ClientID        uuid.UUID `json:"client_id" format:"uuid" doc:"The zero uuid: over all clients together."`
	Client          string    `json:"client"`
	Type            string    `json:"budget_type" enum:"tokens,brl,usd"`
	Period          string    `json:"budget_period" enum:"daily,weekly,monthly"`
	PauseAtLimit    bool      `json:"pause_at_limit"`
	Limit           string    `json:"budget_limit" doc:"Of this period: with what was carried over and topped up."`
	Base            string    `json:"base_limit" doc:"As it was set."`
	Carried         string    `json:"carried" doc:"From the period before; below zero: debt."`
	ToppedUp        string    `json:"topped_up" doc:"For this period only."`
	CurrentUsage    string    `json:"current_usage" doc:"Recorded in the ledger. Calls that are under way are held."`
	Held            string    `json:"held" doc:"By proxies, for calls under way and those to come."`
	Suspense        string    `json:"in_suspense" doc:"May have been used, and nobody knows yet."`
	Overrun         string    `json:"overrun" doc:"Of current_usage: what upstreams billed above the worst case."`
	Remaining       string    `json:"remaining" doc:"Neither used nor held nor in suspense."`
	UsagePercentage string    `json:"usage_percentage" example:"81.25"`
	TimeZone        string    `json:"time_zone"`
	PeriodStart     time.Time `json:"period_start" doc:"In the budget's zone, as the next two."`
	PeriodStartDate string    `json:"period_start_date" format:"date"`
	NextResetAt     time.Time `json:"next_reset_at"`
	Started         bool      `json:"started" doc:"false: starts_at is still to come, and nothing is counted."`
	IsPaused        bool      `json:"is_paused" doc:"Calls are stopped: by a person or by the limit."`
	PausedBy        string    `json:"paused_by,omitempty" enum:"person,limit"`
	PausedReason    string    `json:"paused_reason,omitempty" doc:"Of a person."`

	Alerted  []int      `json:"alerted" nullable:"false" doc:"Thresholds that were crossed in this period, at this limit."`
	Forecast []Forecast `json:"forecast" nullable:"false" doc:"When thresholds will be crossed if use goes on as it has; those that will not be in this period are left out."`
}

// Forecast is when a threshold will be crossed.
type Forecast struct {
	Threshold int       `json:"threshold" doc:"Percent."`
	At        time.Time `json:"at" doc:"In the budget's zone."`
}

// BudgetUsagePage is how budgets stand, by client.
type BudgetUsagePage struct {
	Budgets []BudgetUsage `json:"budgets" nullable:"false"`
	Next    string        `json:"next,omitempty" doc:"Send it as cursor to get the next page; absent on the last."`
}

func (s *server) budgetUsageRoutes() {
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, budgetPath+"/current-usage", "current-budget-usage", "How budgets stand", budgetTag,
		describe("What is held by proxies is in neither current_usage nor remaining; it goes to one of them when calls end.")), s.currentUsage)
	huma.Register(s.api, operation(http.MethodGet, configPath+"/{id}/windows", "list-budget-windows", "The periods of a budget, newest first", budgetTag, missing), s.budgetHistory)
	huma.Register(s.api, operation(http.MethodGet, configPath+"/{id}/journal", "list-budget-journal", "What happened in a period of a budget, newest first", budgetTag, missing), s.budgetJournal)
	huma.Register(s.api, operation(http.MethodGet, budgetPath+"/alerts", "list-budget-alerts", "Thresholds that were crossed, newest first", budgetTag), s.budgetAlerts)
}

func (s *server) currentUsage(ctx context.Context, in *struct {
	BudgetOf
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Clients a page."`
	Cursor string `query:"cursor" format:"uuid" doc:"next of the page before."`
	Bare   bool   `query:"bare" doc:"Without forecasts, which read what each client used in four weeks."`
},
) (*body[BudgetUsagePage], error) {
	all, err := s.Budgets.Store.Budgets(ctx, in.client())
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	slices.SortFunc(all, compareBudgets)
	var page BudgetUsagePage
	all, page.Next = clientPage(all, in.Cursor, in.Limit)
	names, err := s.namesOf(ctx, in.client())
	if err != nil {
		return nil, err
	}
	if page.Budgets, err = s.usages(ctx, all, names, !in.Bare); err != nil {
		return nil, err
	}
	return answer(page), nil
}

// clientPage takes the budgets of so many clients after the one that a cursor names. They are sorted by client.
func clientPage(all []budget.Budget, cursor string, most int) (page []budget.Budget, next string) {
	if after, err := uuid.Parse(cursor); err == nil {
		first := slices.IndexFunc(all, func(b budget.Budget) bool { return bytes.Compare(b.ClientID[:], after[:]) > 0 })
		if first < 0 {
			return nil, ""
		}
		all = all[first:]
	}
	for i := range all {
		if i > 0 && all[i].ClientID != all[i-1].ClientID {
			if most--; most == 0 {
				return all[:i], all[i-1].ClientID.String()
			}
		}
	}
	return all, ""
}

// usages tells how budgets stand, with one question to the ledger, and what is to be expected.
func (s *server) usages(ctx context.Context, budgets []budget.Budget, names map[uuid.UUID]string, foresee bool) ([]BudgetUsage, error) {
	out := make([]BudgetUsage, 0, len(budgets))
	if len(budgets) == 0 {
		return out, nil
	}
	var clients []uuid.UUID
	for i := range budgets {
		if i == 0 || budgets[i].ClientID != budgets[i-1].ClientID {
			clients = append(clients, budgets[i].ClientID)
		}
	}
	current, err := s.Budgets.Authority.Current(ctx, clients...)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	open := make(map[uuid.UUID]*budget.Window, len(current))
	for _, c := range current {
		open[c.Budget.ID] = c.Window
	}
	points := usagePoints{}
	for i := range budgets {
		b := &budgets[i]
		w := open[b.ID]
		u := usageBody(b, w, names[b.ClientID])
		if w != nil {
			if err := s.refusedAtLimit(ctx, w, &u); err != nil {
				return nil, err
			}
			if foresee {
				if u.Forecast, err = s.forecast(ctx, points, w); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, u)
	}
	return out, nil
}

// refusedAtLimit finds out whether a call was refused already. Where little is left of a hard cap it may never be used
// up, for the next call does not fit.
func (s *server) refusedAtLimit(ctx context.Context, w *budget.Window, u *BudgetUsage) error {
	if !w.Hard || !w.Exact || slices.Contains(u.Alerted, 100) {
		return nil
	}
	alerts, err := s.Budgets.Store.Alerts(ctx, &w.ClientID, 100)
	if err != nil {
		return s.failBudget(ctx, err)
	}
	for _, a := range alerts {
		if a.Window == w.ID && a.Threshold == 100 && a.LimitVersion == w.LimitVersion {
			u.Alerted = append(u.Alerted, 100)
			slices.Sort(u.Alerted)
			if !u.IsPaused {
				u.IsPaused, u.PausedBy = true, "limit"
			}
			return nil
		}
	}
	return nil
}

// usageOf tells how one budget stands.
func (s *server) usageOf(ctx context.Context, b *budget.Budget) (*BudgetUsage, error) {
	name, err := s.clientName(ctx, b.ClientID)
	if err != nil {
		return nil, err
	}
	us, err := s.usages(ctx, []budget.Budget{*b}, map[uuid.UUID]string{b.ClientID: name}, true)
	if err != nil {
		return nil, err
	}
	return &us[0], nil
}

// openWindow is the open window of a budget; nil before it starts.
func (s *server) openWindow(ctx context.Context, b *budget.Budget) (*budget.Window, error) {
	current, err := s.Budgets.Authority.Current(ctx, b.ClientID)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	for _, c := range current {
		if c.Budget.ID == b.ID {
			return c.Window, nil
		}
	}
	return nil, nil
}

// usagePoints remembers what forecasts were made from, for budgets of the same client and type.
type usagePoints map[pointsOf][]budget.UsagePoint

type pointsOf struct {
	client uuid.UUID
	unit   budget.Unit
}

func (s *server) forecast(ctx context.Context, known usagePoints, w *budget.Window) ([]Forecast, error) {
	now := s.Now()
	key := pointsOf{w.ClientID, w.Unit}
	points, ok := known[key]
	if !ok {
		var err error
		if points, err = s.Budgets.Store.HourlyUsage(ctx, w.ClientID, w.Unit, now.Add(-budget.ForecastHistory)); err != nil {
			return nil, s.failBudget(ctx, err)
		}
		known[key] = points
	}
	out := []Forecast{}
	for _, c := range budget.Forecast(w, now, points) {
		out = append(out, Forecast{c.Threshold, c.At.In(zoneOf(w.TimeZone))})
	}
	return out, nil
}

func usageBody(b *budget.Budget, w *budget.Window, client string) BudgetUsage {
	u := BudgetUsage{
		BudgetID: b.ID, ClientID: b.ClientID, Client: client, Type: string(b.Unit), Period: string(b.Period), PauseAtLimit: b.PauseAtLimit,
		Base: writeAmount(b.Unit, b.Limit), TimeZone: b.TimeZone, Alerted: []int{}, Forecast: []Forecast{}, Started: w != nil,
	}
	if w == nil { // it starts later: show the period that it will start in
		zone := zoneOf(b.TimeZone)
		_, end := budget.Span(b.Period, b.BillingDay, zone, b.StartsAt)
		w = &budget.Window{Unit: b.Unit, Base: b.Limit, Hard: b.PauseAtLimit, TimeZone: b.TimeZone, StartsAt: b.StartsAt, EndsAt: end}
	}
	amount := func(n int64) string { return writeAmount(w.Unit, n) }
	zone := zoneOf(w.TimeZone)
	u.Limit, u.Base, u.Carried, u.ToppedUp = amount(w.Limit()), amount(w.Base), amount(w.Carried), amount(w.ToppedUp)
	u.CurrentUsage, u.Held, u.Suspense, u.Overrun, u.Remaining = amount(w.Used()), amount(w.Held), amount(w.Suspense), amount(w.Overrun), amount(w.Free())
	u.UsagePercentage, u.TimeZone = percentage(w.Used(), w.Limit()), w.TimeZone
	u.PeriodStart, u.NextResetAt = w.StartsAt.In(zone), w.EndsAt.In(zone)
	u.PeriodStartDate = u.PeriodStart.Format(time.DateOnly)
	u.Alerted = alerted(b, w)
	switch {
	case b.Paused:
		u.IsPaused, u.PausedBy, u.PausedReason = true, "person", b.PausedReason
	case u.Started && w.Hard && usedUp(w):
		u.IsPaused, u.PausedBy = true, "limit"
	}
	return u
}

// alerted are the budget's thresholds that were crossed.
func alerted(b *budget.Budget, w *budget.Window) []int {
	all := slices.Clone(b.Thresholds)
	for _, t := range []struct {
		percent int
		on      bool
	}{{80, b.Alert80}, {90, b.Alert90}, {100, b.Alert100}} {
		if t.on {
			all = append(all, t.percent)
		}
	}
	slices.Sort(all)
	crossed := []int{}
	for _, percent := range slices.Compact(all) {
		if percent <= w.Alerted {
			crossed = append(crossed, percent)
		}
	}
	return crossed
}

// usedUp: nothing is left. What proxies hold for calls to come is left.
func usedUp(w *budget.Window) bool { return w.Used()+w.Suspense >= w.Limit() }

// percentage has two places, as the plan's column. Of a limit that debt has eaten up, all is used.
func percentage(used, limit int64) string {
	if limit <= 0 {
		return "100.00"
	}
	return decimal.NewFromInt(used).Mul(decimal.NewFromInt(100)).Div(decimal.NewFromInt(limit)).StringFixed(2)
}

func zoneOf(name string) *time.Location {
	if zone, err := time.LoadLocation(name); err == nil && name != "" {
		return zone
	}
	return time.UTC
}

func inZoneOf(at time.Time, zone string) string { return at.In(zoneOf(zone)).Format(time.RFC3339) }
