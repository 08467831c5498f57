package dashboard

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
)

// BudgetWindow is one period of a budget.
type BudgetWindow struct {
	ID           string    `json:"id" doc:"A number that JavaScript cannot hold."`
	StartsAt     time.Time `json:"starts_at"`
	EndsAt       time.Time `json:"ends_at"`
	TimeZone     string    `json:"time_zone"`
	PauseAtLimit bool      `json:"pause_at_limit"`
	Limit        string    `json:"budget_limit" doc:"With what was carried over and topped up."`
	Base         string    `json:"base_limit"`
	Carried      string    `json:"carried"`
	ToppedUp     string    `json:"topped_up"`
	Used         string    `json:"used"`
	Spent        string    `json:"spent" doc:"Of used: settled against what was held."`
	Overrun      string    `json:"overrun" doc:"Of used: billed above what was held."`
	Unheld       string    `json:"unheld" doc:"Of used: without a hold, as where a budget only alerts."`
	Held         string    `json:"held"`
	Suspense     string    `json:"in_suspense"`
	Percentage   string    `json:"usage_percentage"`
	Alerted      int       `json:"alerted" doc:"The highest threshold that was crossed; 0: none."`
	Sealed       bool      `json:"sealed" doc:"It is over and nothing of it can change any more."`
}

// BudgetHistory is periods of a budget, newest first.
type BudgetHistory struct {
	Windows []BudgetWindow `json:"windows" nullable:"false"`
}

// JournalEntry is an amount that went from one place to another.
type JournalEntry struct {
	Window      string    `json:"window"`
	At          time.Time `json:"at"`
	Kind        string    `json:"kind" example:"top_up"`
	Amount      string    `json:"amount"`
	Incarnation string    `json:"incarnation,omitempty" doc:"In hexadecimal."`
	Reason      string    `json:"reason,omitempty"`
}

// BudgetJournal is what happened in a period, newest first.
type BudgetJournal struct {
	Entries []JournalEntry `json:"entries" nullable:"false"`
}

// BudgetAlert is a threshold that was crossed, with what became of telling people.
type BudgetAlert struct {
	ID        int64            `json:"id"`
	At        time.Time        `json:"at"`
	BudgetID  uuid.UUID        `json:"budget_id" format:"uuid"`
	ClientID  uuid.UUID        `json:"client_id" format:"uuid"`
	Client    string           `json:"client"`
	Type      string           `json:"budget_type" enum:"tokens,brl,usd"`
	Period    string           `json:"budget_period" enum:"daily,weekly,monthly"`
	Window    string           `json:"window"`
	Threshold int              `json:"threshold" doc:"Percent."`
	Limit     string           `json:"budget_limit"`
	Used      string           `json:"used"`
	Attempts  []budget.Attempt `json:"attempts" nullable:"false"`
}

// BudgetAlertList is alerts, newest first.
type BudgetAlertList struct {
	Alerts []BudgetAlert `json:"alerts" nullable:"false"`
}

func (s *server) budgetHistory(ctx context.Context, in *struct {
	ByID
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"24"`
},
) (*body[BudgetHistory], error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	windows, err := s.Budgets.Store.History(ctx, b.ID, in.Limit)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	out := BudgetHistory{Windows: make([]BudgetWindow, 0, len(windows))}
	for _, w := range windows {
		out.Windows = append(out.Windows, windowBody(w))
	}
	return answer(out), nil
}

func windowBody(w *budget.Window) BudgetWindow {
	amount := func(n int64) string { return writeAmount(w.Unit, n) }
	zone := zoneOf(w.TimeZone)
	return BudgetWindow{
		ID: strconv.FormatInt(w.ID, 10), StartsAt: w.StartsAt.In(zone), EndsAt: w.EndsAt.In(zone), TimeZone: w.TimeZone, PauseAtLimit: w.Hard,
		Limit: amount(w.Limit()), Base: amount(w.Base), Carried: amount(w.Carried), ToppedUp: amount(w.ToppedUp), Used: amount(w.Used()),
		Spent: amount(w.Spent), Overrun: amount(w.Overrun), Unheld: amount(w.Unheld), Held: amount(w.Held), Suspense: amount(w.Suspense),
		Percentage: percentage(w.Used(), w.Limit()), Alerted: w.Alerted, Sealed: w.Sealed,
	}
}

func (s *server) budgetJournal(ctx context.Context, in *struct {
	ByID
	Window string `query:"window" pattern:"^[0-9]{1,19}$" patternDescription:"the id of a window" doc:"Default: the newest."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
},
) (*body[BudgetJournal], error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := BudgetJournal{Entries: []JournalEntry{}}
	w, err := s.windowOf(ctx, b.ID, in.Window)
	if err != nil || w == nil {
		return answer(out), err
	}
	entries, err := s.Budgets.Store.Entries(ctx, w.ID, in.Limit)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	for _, e := range entries {
		line := JournalEntry{Window: strconv.FormatInt(e.Window, 10), At: e.At.In(zoneOf(w.TimeZone)), Kind: e.Kind, Amount: writeAmount(b.Unit, e.Amount), Reason: e.Reason}
		if e.Incarnation != 0 {
			line.Incarnation = fmt.Sprintf("%016x", e.Incarnation)
		}
		out.Entries = append(out.Entries, line)
	}
	return answer(out), nil
}

// windowOf finds a window among those of a budget: the journal of another's is not shown. It is nil where there is none
// yet and none was named.
func (s *server) windowOf(ctx context.Context, id uuid.UUID, named string) (*budget.Window, error) {
	most := 1
	if named != "" {
		most = 1000
	}
	windows, err := s.Budgets.Store.History(ctx, id, most)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	if named == "" {
		if len(windows) == 0 {
			return nil, nil
		}
		return windows[0], nil
	}
	for _, w := range windows {
		if strconv.FormatInt(w.ID, 10) == named {
			return w, nil
		}
	}
	return nil, huma.Error404NotFound("this budget has no such window; list them to find the id")
}

func (s *server) budgetAlerts(ctx context.Context, in *struct {
	BudgetOf
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"50"`
},
) (*body[BudgetAlertList], error) {
	alerts, err := s.Budgets.Store.Alerts(ctx, in.client(), in.Limit)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	all, err := s.Budgets.Store.Budgets(ctx, in.client())
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	known := make(map[uuid.UUID]*budget.Budget, len(all))
	for i := range all {
		known[all[i].ID] = &all[i]
	}
	names, err := s.namesOf(ctx, in.client())
	if err != nil {
		return nil, err
	}
	out := BudgetAlertList{Alerts: make([]BudgetAlert, 0, len(alerts))}
	for i := range alerts {
		a, b := &alerts[i], known[alerts[i].BudgetID]
		if b == nil { // deleted since: its window still says what it counted
			windows, err := s.Budgets.Store.History(ctx, a.BudgetID, 1)
			if err != nil || len(windows) == 0 {
				continue
			}
			b = &budget.Budget{Unit: windows[0].Unit, Period: windows[0].Period}
		}
		line := BudgetAlert{
			ID: a.ID, At: utc(a.At), BudgetID: a.BudgetID, ClientID: a.ClientID, Client: names[a.ClientID], Type: string(b.Unit), Period: string(b.Period),
			Window: strconv.FormatInt(a.Window, 10), Threshold: a.Threshold, Limit: writeAmount(b.Unit, a.Limit), Used: writeAmount(b.Unit, a.Used), Attempts: a.Attempts,
		}
		if line.Attempts == nil {
			line.Attempts = []budget.Attempt{}
		}
		out.Alerts = append(out.Alerts, line)
	}
	return answer(out), nil
}
