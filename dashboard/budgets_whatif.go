package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
)

// WhatIf is a limit to try on calls of the past.
type WhatIf struct {
	ClientID     uuid.UUID `json:"client_id" format:"uuid" doc:"The zero uuid: all clients together."`
	Type         string    `json:"budget_type" enum:"tokens,brl,usd"`
	Limit        string    `json:"budget_limit" example:"200.00" doc:"Tokens, reais or dollars; more than 0."`
	Period       string    `json:"budget_period" enum:"daily,weekly,monthly"`
	PauseAtLimit *bool     `json:"pause_at_limit,omitempty" doc:"Default true: what a hard cap would have refused."`
	TimeZone     *string   `json:"time_zone,omitempty" doc:"IANA name; default: the client's."`
	BillingDay   *int      `json:"billing_day,omitempty" doc:"1 to 31, of monthly budgets; default 1."`
	CarryOver    *bool     `json:"carry_over,omitempty"`
	CarryMax     *string   `json:"carry_max,omitempty"`
	Debt         *bool     `json:"debt,omitempty"`
	Thresholds   *[]int    `json:"thresholds,omitempty" doc:"Beside 80, 90 and 100."`
	From         time.Time `json:"from,omitzero" doc:"Default: a billing month, four weeks or thirty days before to."`
	To           time.Time `json:"to,omitzero" doc:"Exclusive; default: the beginning of the period that is open now."`
}

// WhatIfReport is what the limit would have done.
type WhatIfReport struct {
	Type     string    `json:"budget_type" enum:"tokens,brl,usd"`
	TimeZone string    `json:"time_zone"`
	From     time.Time `json:"from" doc:"In the budget's zone, as all times here."`
	To       time.Time `json:"to"`
	WhatIfSum
	FirstRefusal time.Time      `json:"first_refusal_at,omitzero" doc:"Absent: none."`
	Unpriced     int64          `json:"unpriced" doc:"Calls of unknown cost: in calls, and in no amount. A hard cap on money would have let none of them through."`
	Windows      []WhatIfWindow `json:"windows" nullable:"false" doc:"Oldest first. The first and the last are shorter where from and to lie within a period."`
}

// WhatIfWindow is one period of it.
type WhatIfWindow struct {
	StartsAt   time.Time `json:"starts_at"`
	EndsAt     time.Time `json:"ends_at"`
	Limit      string    `json:"budget_limit" doc:"With what was carried over."`
	Carried    string    `json:"carried"`
	Percentage string    `json:"usage_percentage" doc:"Of used, in the limit."`
	WhatIfSum
	Crossed      []Forecast `json:"crossed" nullable:"false" doc:"When shares of the limit were used; 100 also when the first call was refused."`
	FirstRefusal time.Time  `json:"first_refusal_at,omitzero"`
}

// WhatIfSum adds up calls.
type WhatIfSum struct {
	Calls       int64  `json:"calls"`
	Refused     int64  `json:"refused" doc:"Of them, because they did not fit. Calls that were refused then already cost nothing and are not in the log as what they would have cost."`
	Used        string `json:"used" doc:"By those that were let through."`
	RefusedCost string `json:"refused_cost" doc:"What those refused had cost."`
	Peak        string `json:"peak" doc:"The most that was used and held at one time, in one period."`
}

// longestReplay bounds how many calls are read for one question.
const longestReplay = 400 * 24 * time.Hour

func (s *server) budgetWhatIfRoutes() {
	huma.Register(s.api, operation(http.MethodPost, budgetPath+"/what-if", "try-budget", "What would this limit have done?", budgetTag,
		describe("Runs the calls in the usage log through the rules that budgets are kept by, as one proxy that asks for each call. Nothing is changed.")), s.tryBudget)
}

func (s *server) tryBudget(ctx context.Context, in *struct{ Body WhatIf }) (*body[WhatIfReport], error) {
	b, err := s.triedBudget(ctx, &in.Body)
	if err != nil {
		return nil, err
	}
	zone := zoneOf(b.TimeZone)
	report, err := budget.Replay(b, s.Budgets.Store.PastCalls(ctx, b.ClientID, b.StartsAt, b.DeletedAt))
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	out := WhatIfReport{
		Type: string(b.Unit), TimeZone: b.TimeZone, From: b.StartsAt.In(zone), To: b.DeletedAt.In(zone), WhatIfSum: whatIfSum(b.Unit, &report.ReplaySum),
		FirstRefusal: inOrZero(report.FirstRefusal, zone), Unpriced: report.Unpriced, Windows: make([]WhatIfWindow, 0, len(report.Windows)),
	}
	for i := range report.Windows {
		w := &report.Windows[i]
		line := WhatIfWindow{
			StartsAt: w.StartsAt.In(zone), EndsAt: w.EndsAt.In(zone), Limit: writeAmount(b.Unit, w.Limit), Carried: writeAmount(b.Unit, w.Carried),
			Percentage: percentage(w.Used, w.Limit), WhatIfSum: whatIfSum(b.Unit, &w.ReplaySum), Crossed: []Forecast{}, FirstRefusal: inOrZero(w.FirstRefusal, zone),
		}
		for _, c := range w.Crossed {
			line.Crossed = append(line.Crossed, Forecast{c.Threshold, c.At.In(zone)})
		}
		out.Windows = append(out.Windows, line)
	}
	return answer(out), nil
}

// triedBudget is the budget that was asked about, in force for the time that was asked about.
func (s *server) triedBudget(ctx context.Context, in *WhatIf) (budget.Budget, error) {
	b := budget.Budget{ClientID: in.ClientID, Unit: budget.Unit(in.Type), Period: budget.Period(in.Period)}
	form := s.newBudgetForm()
	if err := s.checkNewBudget(ctx, form, &b, nil); err != nil {
		return b, err
	}
	b.PauseAtLimit = true
	form.apply(&b, &BudgetSettings{
		Limit: &in.Limit, PauseAtLimit: in.PauseAtLimit, TimeZone: in.TimeZone, BillingDay: in.BillingDay,
		CarryOver: in.CarryOver, CarryMax: in.CarryMax, Debt: in.Debt, Thresholds: in.Thresholds,
	})
	b.StartsAt, b.DeletedAt = in.From.UTC(), in.To.UTC()
	if in.To.IsZero() {
		if b.DeletedAt, _ = budget.Span(b.Period, b.BillingDay, zoneOf(b.TimeZone), form.now); b.DeletedAt.Before(b.StartsAt) {
			b.DeletedAt = form.now.UTC() // it is asked of the running period
		}
	}
	if in.From.IsZero() {
		b.StartsAt = lastPeriods(&b)
	}
	switch length := b.DeletedAt.Sub(b.StartsAt); {
	case length <= 0:
		form.wrong("to", "must be after from")
	case length > longestReplay:
		form.wrong("from", "must not be more than 400 days before to")
	}
	return b, form.err()
}

// lastPeriods begins whole periods before the end of a replay: a month, four weeks or thirty days.
func lastPeriods(b *budget.Budget) time.Time {
	zone := zoneOf(b.TimeZone)
	before := map[budget.Period]int{budget.Monthly: 1, budget.Weekly: 4, budget.Daily: 30}[b.Period]
	start := b.DeletedAt
	for range before {
		start, _ = budget.Span(b.Period, b.BillingDay, zone, start.Add(-1))
	}
	return start
}

func whatIfSum(u budget.Unit, sum *budget.ReplaySum) WhatIfSum {
	return WhatIfSum{
		Calls: sum.Calls, Refused: sum.Refused, Used: writeAmount(u, sum.Used), RefusedCost: writeAmount(u, sum.RefusedCost), Peak: writeAmount(u, sum.Peak),
	}
}

func inOrZero(t time.Time, zone *time.Location) time.Time {
	if t.IsZero() {
		return t
	}
	return t.In(zone)
}
