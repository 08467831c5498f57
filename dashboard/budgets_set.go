package dashboard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/tenancy"
)

func (s *server) createBudget(ctx context.Context, in *struct{ Body BudgetNew }) (*body[Budget], error) {
	b := budget.Budget{ClientID: in.Body.ClientID, Unit: budget.Unit(in.Body.Type), Period: budget.Period(in.Body.Period)}
	others, err := s.Budgets.Store.Budgets(ctx, &b.ClientID)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	return s.putBudget(ctx, b, others, &in.Body.BudgetSettings)
}

// putBudget makes a budget from settings, beside others of its client.
func (s *server) putBudget(ctx context.Context, b budget.Budget, others []budget.Budget, settings *BudgetSettings) (*body[Budget], error) {
	form := s.newBudgetForm()
	if err := s.checkNewBudget(ctx, form, &b, others); err != nil {
		return nil, err
	}
	if settings.Limit == nil {
		form.wrong("budget_limit", "is missing")
	}
	form.apply(&b, settings)
	if err := form.err(); err != nil {
		return nil, err
	}
	made, err := s.Budgets.Store.CreateBudget(ctx, b)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	s.audit(ctx, "budget.create", made.ID, nil, auditedBudget(&made))
	return s.budgetAnswer(ctx, &made)
}

// checkNewBudget fills in what a new budget has by default, and finds what stands against it.
func (s *server) checkNewBudget(ctx context.Context, form *budgetForm, b *budget.Budget, others []budget.Budget) error {
	b.TimeZone, b.BillingDay, b.StartsAt = s.Settings.TimeZone, 1, s.Now().UTC()
	b.Alert80, b.Alert90, b.Alert100 = true, true, true
	if b.TimeZone == "" {
		b.TimeZone = budget.DefaultZone
	}
	if b.ClientID != uuid.Nil {
		t, err := s.Tenants.Tenant(ctx, b.ClientID)
		switch {
		case errors.Is(err, tenancy.ErrNotFound):
			form.wrong("client_id", "there is no such client; /api/tenants lists them")
		case err != nil:
			return s.fail(ctx, "client", err)
		case t.TimeZone != "":
			b.TimeZone = t.TimeZone
		}
	}
	for i := range others {
		if others[i].Unit == b.Unit && others[i].Period == b.Period {
			return huma.Error409Conflict(fmt.Sprintf("budget %s is of this type and period already; change it with PUT %s/%s", others[i].ID, configPath, others[i].ID))
		}
	}
	if len(others) >= budget.MaxBudgets {
		return huma.Error409Conflict(fmt.Sprintf("there are %d budgets already, and %d is the most; change or delete one of them", len(others), budget.MaxBudgets))
	}
	return nil
}

// setBudget is the plan's simple case: one row a client.
func (s *server) setBudget(ctx context.Context, in *struct {
	ClientID uuid.UUID `query:"client_id" format:"uuid" required:"true" doc:"The zero uuid: over all clients together."`
	Body     BudgetSet
},
) (*body[Budget], error) {
	there, err := s.Budgets.Store.Budgets(ctx, &in.ClientID)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	switch len(there) {
	case 0:
		return s.setFirst(ctx, in.ClientID, &in.Body)
	case 1:
	default:
		return nil, huma.Error409Conflict(fmt.Sprintf("there are %d budgets, so which one is meant? Change one with PUT %s/{id}, or add one with POST", len(there), configPath))
	}
	old := there[0]
	next := old
	if in.Body.Type != "" {
		next.Unit = budget.Unit(in.Body.Type)
	}
	if in.Body.Period != "" {
		next.Period = budget.Period(in.Body.Period)
	}
	if next.Unit == old.Unit && next.Period == old.Period {
		return s.editBudget(ctx, old.ID, &in.Body.BudgetSettings)
	}
	return s.replaceBudget(ctx, old, next, &in.Body.BudgetSettings)
}

func (s *server) setFirst(ctx context.Context, client uuid.UUID, in *BudgetSet) (*body[Budget], error) {
	form := s.newBudgetForm()
	if in.Type == "" {
		form.wrong("budget_type", "is missing; there is no budget yet")
	}
	if in.Period == "" {
		form.wrong("budget_period", "is missing; there is no budget yet")
	}
	if err := form.err(); err != nil {
		return nil, err
	}
	return s.putBudget(ctx, budget.Budget{ClientID: client, Unit: budget.Unit(in.Type), Period: budget.Period(in.Period)}, nil, &in.BudgetSettings)
}

// replaceBudget makes the new one before it deletes the old one: if it fails in between both are in force, which stops
// too much rather than too little.
func (s *server) replaceBudget(ctx context.Context, old, next budget.Budget, settings *BudgetSettings) (*body[Budget], error) {
	form := s.newBudgetForm()
	if settings.Limit == nil {
		form.wrong("budget_limit", "is missing: of another type or period it means something else")
	}
	if settings.UpdatedAt != nil && !settings.UpdatedAt.Equal(old.UpdatedAt) {
		return nil, s.failBudget(ctx, budget.ErrConflict)
	}
	next.ID, next.CreatedAt, next.UpdatedAt = uuid.Nil, time.Time{}, time.Time{}
	next.StartsAt = s.Now().UTC()
	if next.Period != budget.Monthly {
		next.BillingDay = 1
	}
	if next.Unit != old.Unit {
		next.CarryMax = 0
	}
	form.apply(&next, settings)
	if err := form.err(); err != nil {
		return nil, err
	}
	made, err := s.Budgets.Store.CreateBudget(ctx, next)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	s.audit(ctx, "budget.create", made.ID, nil, auditedBudget(&made))
	if err := s.Budgets.Store.DeleteBudget(ctx, old.ID); err != nil {
		return nil, s.failBudget(ctx, err)
	}
	s.audit(ctx, "budget.delete", old.ID, auditedBudget(&old), nil)
	return s.budgetAnswer(ctx, &made)
}

func (s *server) changeBudget(ctx context.Context, in *struct {
	ByID
	Body BudgetChange
},
) (*body[Budget], error) {
	if in.Body.Type == "" && in.Body.Period == "" {
		return s.editBudget(ctx, in.ID, &in.Body.BudgetSettings)
	}
	was, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	form := s.newBudgetForm()
	if in.Body.Type != "" && in.Body.Type != string(was.Unit) {
		form.wrong("budget_type", "cannot change: create a budget of the other type and delete this one")
	}
	if in.Body.Period != "" && in.Body.Period != string(was.Period) {
		form.wrong("budget_period", "cannot change: create a budget of the other period and delete this one")
	}
	if err := form.err(); err != nil {
		return nil, err
	}
	return s.editBudget(ctx, in.ID, &in.Body.BudgetSettings)
}

func (s *server) editBudget(ctx context.Context, id uuid.UUID, settings *BudgetSettings) (*body[Budget], error) {
	return s.amendBudget(ctx, id, "budget.update", settings.UpdatedAt, func(b *budget.Budget) error {
		form := s.newBudgetForm()
		form.apply(b, settings)
		return form.err()
	})
}

// amendTries is how often a change is made again that met another one. People click seldom enough.
const amendTries = 4

// amendBudget reads, changes and writes. Where somebody else wrote in between it does so again, unless the caller said
// which state it means to change.
func (s *server) amendBudget(ctx context.Context, id uuid.UUID, action string, asRead *time.Time, amend func(*budget.Budget) error) (*body[Budget], error) {
	for try := 1; ; try++ {
		was, err := s.budget(ctx, id)
		if err != nil {
			return nil, err
		}
		if asRead != nil && !asRead.Equal(was.UpdatedAt) {
			return nil, s.failBudget(ctx, budget.ErrConflict)
		}
		b := was
		b.Thresholds = slices.Clone(was.Thresholds)
		if err := amend(&b); err != nil {
			return nil, err
		}
		changed, err := s.Budgets.Store.UpdateBudget(ctx, b)
		if errors.Is(err, budget.ErrConflict) && asRead == nil && try < amendTries {
			continue
		}
		if err != nil {
			return nil, s.failBudget(ctx, err)
		}
		s.audit(ctx, action, id, auditedBudget(&was), auditedBudget(&changed))
		return s.budgetAnswer(ctx, &changed)
	}
}

func (s *server) deleteBudget(ctx context.Context, in *ByID) (*struct{}, error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.Budgets.Store.DeleteBudget(ctx, in.ID); err != nil {
		return nil, s.failBudget(ctx, err)
	}
	s.audit(ctx, "budget.delete", in.ID, auditedBudget(&b), nil)
	return nil, nil
}
