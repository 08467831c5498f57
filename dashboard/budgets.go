package dashboard

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/tenancy"
)

// Budgets is what the API needs to serve budgets.
type Budgets struct {
	Store     BudgetStore
	Authority BudgetAuthority
	// CheckURL and CheckAddress say what is wrong with a webhook's address and an e-mail address; nil: all pass.
	CheckURL, CheckAddress func(string) error
	// CheckAlerts and ResetPeriods do now what else is done all the time; nil: not served.
	CheckAlerts  func(ctx context.Context) (budget.AlertsReport, error)
	ResetPeriods func(ctx context.Context) (budget.ResetReport, error)
	// WebhookSecret is what the webhooks of a client are signed with, those of budgets over all clients under the empty
	// name; nil: not served.
	WebhookSecret func(client string) string
	// CronToken opens the two cron routes beside the admin token; empty: only that does.
	CronToken string
}

// BudgetStore keeps budgets and shows what the ledger has of them.
type BudgetStore interface {
	Budgets(ctx context.Context, client *uuid.UUID) ([]budget.Budget, error)
	Budget(ctx context.Context, id uuid.UUID) (budget.Budget, error)
	CreateBudget(ctx context.Context, b budget.Budget) (budget.Budget, error)
	UpdateBudget(ctx context.Context, b budget.Budget) (budget.Budget, error)
	DeleteBudget(ctx context.Context, id uuid.UUID) error
	Policy(ctx context.Context, client uuid.UUID) (budget.Policy, error)
	SetPolicy(ctx context.Context, client uuid.UUID, p budget.Policy) error
	History(ctx context.Context, id uuid.UUID, most int) ([]*budget.Window, error)
	Entries(ctx context.Context, window int64, most int) ([]budget.Entry, error)
	Alerts(ctx context.Context, client *uuid.UUID, most int) ([]budget.AlertStatus, error)
	// HourlyUsage is what a client (uuid.Nil: all) used in each hour since a time.
	HourlyUsage(ctx context.Context, client uuid.UUID, unit budget.Unit, from time.Time) ([]budget.UsagePoint, error)
	// PastCalls are the calls of a client (uuid.Nil: of all) that were admitted in a time, in order of admission.
	PastCalls(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[budget.PastCall, error]
}

// Budget is a limit on what a client may use in a period.
type Budget struct {
	ID           uuid.UUID `json:"id" format:"uuid"`
	ClientID     uuid.UUID `json:"client_id" format:"uuid" doc:"The zero uuid: over all clients together."`
	Client       string    `json:"client" doc:"The client's name; empty when it was deleted, and over all clients."`
	Type         string    `json:"budget_type" enum:"tokens,brl,usd"`
	Limit        string    `json:"budget_limit" example:"200" doc:"Tokens, reais or dollars, exact."`
	Period       string    `json:"budget_period" enum:"daily,weekly,monthly"`
	PauseAtLimit bool      `json:"pause_at_limit" doc:"A hard cap; else it only alerts."`
	TimeZone     string    `json:"time_zone" example:"America/Sao_Paulo"`
	BillingDay   int       `json:"billing_day" doc:"On which a month begins; a month that is shorter begins on its last day."`
	StartsAt     time.Time `json:"starts_at" doc:"What is admitted from here on counts."`
	CarryOver    bool      `json:"carry_over" doc:"What is left of a period is added to the next one."`
	CarryMax     string    `json:"carry_max" doc:"At most so much; 0: no bound."`
	Debt         bool      `json:"debt" doc:"What went beyond a period's limit is taken off the next one."`
	Alert80      bool      `json:"alert_threshold_80"`
	Alert90      bool      `json:"alert_threshold_90"`
	Alert100     bool      `json:"alert_threshold_100"`
	Thresholds   []int     `json:"thresholds" nullable:"false" doc:"More of them, in percent."`
	Email        string    `json:"notification_email"`
	Webhook      string    `json:"notification_webhook"`
	Paused       bool      `json:"paused" doc:"By a person, with a reason. Whether the limit stops calls is in /api/budget/current-usage."`
	PausedReason string    `json:"paused_reason"`
	CreatedAt    time.Time `json:"created_at"`
	UpdatedAt    time.Time `json:"updated_at"`
}

// BudgetList is budgets by client, type and period.
type BudgetList struct {
	Budgets []Budget `json:"budgets" nullable:"false"`
}

const (
	budgetTag  = "budgets"
	budgetPath = "/api/budget"
	configPath = budgetPath + "/config"
)

func (s *server) budgetRoutes() {
	if s.Budgets == nil {
		return
	}
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, configPath, "list-budgets", "List budgets", budgetTag), s.listBudgets)
	huma.Register(s.api, operation(http.MethodPost, configPath, "create-budget", "Create a budget", budgetTag, status(http.StatusCreated), fails(http.StatusConflict),
		describe("A client may have one for each type and period, six in all; a call must fit all of them. It is in force within 2 seconds.")), s.createBudget)
	huma.Register(s.api, operation(http.MethodPut, configPath, "set-budget", "Set the one budget of a client", budgetTag, fails(http.StatusConflict),
		describe("For clients with one budget at most: it is created, changed, or, when type or period differ, replaced. What is not named stays as it is.")), s.setBudget)
	huma.Register(s.api, operation(http.MethodGet, configPath+"/{id}", "show-budget", "Show a budget", budgetTag, missing), s.showBudget)
	huma.Register(s.api, operation(http.MethodPut, configPath+"/{id}", "change-budget", "Change a budget", budgetTag, missing, fails(http.StatusConflict),
		describe("What is not named stays as it is. A raised limit is in force at once; a lowered one takes back nothing that is under way. A change of time zone, billing day or start takes effect with the next period.")), s.changeBudget)
	huma.Register(s.api, operation(http.MethodDelete, configPath+"/{id}", "delete-budget", "Delete a budget", budgetTag, missing,
		describe("Calls are no longer held to it. Its history stays.")), s.deleteBudget)
	s.budgetPolicyRoutes()
	s.budgetUsageRoutes()
	s.budgetControlRoutes()
	s.budgetWhatIfRoutes()
	s.budgetCronRoutes()
}

// BudgetOf says whose budgets are meant.
type BudgetOf struct {
	ClientID string `query:"client_id" format:"uuid" doc:"Only this client's; the zero uuid: those over all clients together; absent: all there are."`
}

// client is nil for all. Huma has checked the form.
func (b BudgetOf) client() *uuid.UUID {
	if id, err := uuid.Parse(b.ClientID); err == nil {
		return &id
	}
	return nil
}

func (s *server) listBudgets(ctx context.Context, in *BudgetOf) (*body[BudgetList], error) {
	all, err := s.Budgets.Store.Budgets(ctx, in.client())
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	names, err := s.namesOf(ctx, in.client())
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, compareBudgets)
	list := BudgetList{Budgets: make([]Budget, 0, len(all))}
	for i := range all {
		list.Budgets = append(list.Budgets, budgetBody(&all[i], names[all[i].ClientID]))
	}
	return answer(list), nil
}

// budget finds one by its id.
func (s *server) budget(ctx context.Context, id uuid.UUID) (budget.Budget, error) {
	b, err := s.Budgets.Store.Budget(ctx, id)
	if err != nil {
		return b, s.failBudget(ctx, err)
	}
	return b, nil
}

func (s *server) showBudget(ctx context.Context, in *ByID) (*body[Budget], error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return s.budgetAnswer(ctx, &b)
}

func (s *server) budgetAnswer(ctx context.Context, b *budget.Budget) (*body[Budget], error) {
	name, err := s.clientName(ctx, b.ClientID)
	if err != nil {
		return nil, err
	}
	return answer(budgetBody(b, name)), nil
}

// namesOf gives names to the ids of clients: of one, or with nil of all.
func (s *server) namesOf(ctx context.Context, client *uuid.UUID) (map[uuid.UUID]string, error) {
	if client == nil {
		return s.tenantNames(ctx)
	}
	name, err := s.clientName(ctx, *client)
	return map[uuid.UUID]string{*client: name}, err
}

// clientName is empty where there is no such client any more.
func (s *server) clientName(ctx context.Context, id uuid.UUID) (string, error) {
	if id == uuid.Nil {
		return "", nil
	}
	t, err := s.Tenants.Tenant(ctx, id)
	if err != nil && !errors.Is(err, tenancy.ErrNotFound) {
		return "", s.fail(ctx, "client", err)
	}
	return t.Name, nil
}

func (s *server) failBudget(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, budget.ErrNotFound):
		return huma.Error404NotFound("there is no such budget; list them to find the id")
	case errors.Is(err, budget.ErrExists):
		return huma.Error409Conflict("there is a budget of this type and period already; change it instead of creating it")
	case errors.Is(err, budget.ErrConflict):
		return huma.Error409Conflict("somebody else changed this budget in the meantime; read it again and repeat the change")
	case errors.Is(err, budget.ErrTooMany):
		return huma.Error409Conflict(fmt.Sprintf("there are %d budgets already, and that is the most; change or delete one of them", budget.MaxBudgets))
	case errors.Is(err, budget.ErrAlive):
		return huma.Error409Conflict("this proxy was heard of a moment ago and may go on spending what it holds; stop it first, and wait a quarter of a minute")
	case errors.Is(err, budget.ErrUnavailable) && ctx.Err() == nil:
		return s.fail(ctx, "budget", errors.Join(tenancy.ErrUnavailable, err))
	}
	return s.fail(ctx, "budget", err)
}
