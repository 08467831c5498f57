package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
)

// BudgetAuthority is what people ask of the ledger.
type BudgetAuthority interface {
	// Current are the budgets of clients with their windows of now.
	Current(ctx context.Context, clients ...uuid.UUID) ([]budget.Current, error)
	// TopUp gives the open window of a budget more, for this period only.
	TopUp(ctx context.Context, budget uuid.UUID, amount int64, reason string) error
	// ReleaseDoubts gives free what is in suspense in a window, by a person's word that it was not used.
	ReleaseDoubts(ctx context.Context, window int64, reason string) error
	// Suspend says that the volume of an incarnation is destroyed: what it held stays in suspense.
	Suspend(ctx context.Context, incarnation uint64, reason string) error
}

// Because says why, for people and for the audit.
type Because struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500" pattern:"\\S" doc:"Kept in the audit log."`
}

// BudgetPause says why a budget is paused.
type BudgetPause struct {
	Reason string `json:"reason" minLength:"1" maxLength:"200" pattern:"\\S" doc:"The client's own callers see it."`
}

// BudgetTopUp is more for this period.
type BudgetTopUp struct {
	Amount string `json:"amount" example:"50.00" doc:"In the unit of the budget; more than 0."`
	Reason string `json:"reason" minLength:"1" maxLength:"500" pattern:"\\S" doc:"Kept in the journal and in the audit log."`
}

// Lost names a proxy's run whose volume is destroyed.
type Lost struct {
	Incarnation string `json:"incarnation" pattern:"^[0-9a-f]{1,16}$" patternDescription:"hexadecimal, as /api/ai-gateway/proxies shows it" example:"00f3a2b1c4d5e6f7"`
	Reason      string `json:"reason" minLength:"1" maxLength:"500" pattern:"\\S" doc:"Kept in the journal and in the audit log."`
}

// BudgetRelease says in which window.
type BudgetRelease struct {
	Window string `json:"window,omitempty" pattern:"^[0-9]{1,19}$" patternDescription:"the id of a window" doc:"Default: the one that is open now."`
	Reason string `json:"reason" minLength:"1" maxLength:"500" pattern:"\\S" doc:"Kept in the journal and in the audit log."`
}

func (s *server) budgetControlRoutes() {
	missing, conflict := fails(http.StatusNotFound), fails(http.StatusConflict)
	const one = budgetPath + "/{id}"
	huma.Register(s.api, operation(http.MethodPost, one+"/pause", "pause-budget", "Refuse the calls that a budget is for", budgetTag, missing, conflict,
		describe("Until it is resumed, whatever is left. It is in force within 2 seconds.")), s.pauseBudget)
	huma.Register(s.api, operation(http.MethodPost, one+"/resume", "resume-budget", "Take the calls that a budget is for again", budgetTag, missing, conflict,
		describe("A budget that is at its limit cannot be resumed: top it up or raise the limit.")), s.resumeBudget)
	huma.Register(s.api, operation(http.MethodPost, one+"/top-up", "top-up-budget", "Give a budget more, for this period only", budgetTag, missing, conflict,
		describe("Repeating it adds again.")), s.topUpBudget)
	huma.Register(s.api, operation(http.MethodPost, one+"/release", "release-budget-doubts", "Give free what is in suspense", budgetTag, missing,
		describe("What calls that were cut short may have used, and what proxies held whose volume is destroyed. It takes a person's word that none of it was used.")), s.releaseDoubts)
	huma.Register(s.api, operation(http.MethodPost, budgetPath+"/suspend", "suspend-incarnation", "Say that a proxy's volume is destroyed", budgetTag, missing, status(http.StatusNoContent),
		describe("What it held can never be proved unused: it stays in suspense until its windows end. Do this only when the volume will not come back.")), s.suspendIncarnation)
}

func (s *server) pauseBudget(ctx context.Context, in *struct {
	ByID
	Body BudgetPause
},
) (*body[Budget], error) {
	return s.amendBudget(ctx, in.ID, "budget.pause", nil, func(b *budget.Budget) error {
		b.Paused, b.PausedReason = true, in.Body.Reason
		return nil
	})
}

func (s *server) resumeBudget(ctx context.Context, in *struct {
	ByID
	Body Because
},
) (*body[Budget], error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	w, err := s.openWindow(ctx, &b)
	if err != nil {
		return nil, err
	}
	if w != nil && w.Hard && usedUp(w) {
		return nil, huma.Error409Conflict(fmt.Sprintf("this budget is at its limit: %s of %s used, until %s. Top it up for this period (POST %s/%s/top-up) or raise the limit (PUT %s/%s)",
			writeAmount(w.Unit, w.Used()), writeAmount(w.Unit, w.Limit()), inZoneOf(w.EndsAt, w.TimeZone), budgetPath, b.ID, configPath, b.ID))
	}
	if !b.Paused {
		return s.budgetAnswer(ctx, &b)
	}
	return s.amendBudget(ctx, in.ID, "budget.resume", nil, func(b *budget.Budget) error {
		b.Paused, b.PausedReason = false, ""
		return nil
	})
}

func (s *server) topUpBudget(ctx context.Context, in *struct {
	ByID
	Body BudgetTopUp
},
) (*body[BudgetUsage], error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	form := s.newBudgetForm()
	amount := form.amount("amount", b.Unit, in.Body.Amount, 1)
	if len(form.mistakes) > 0 {
		return nil, huma.Error422UnprocessableEntity("the top-up is not valid", form.mistakes...)
	}
	before, err := s.openWindow(ctx, &b)
	if err != nil {
		return nil, err
	}
	if before == nil {
		return nil, notBegun()
	}
	if before.Limit() > budget.MaxLimit-amount {
		return nil, huma.Error422UnprocessableEntity("the top-up is not valid", &huma.ErrorDetail{Location: "body.amount", Message: "is more than fits beside the limit"})
	}
	if err := s.Budgets.Authority.TopUp(ctx, b.ID, amount, in.Body.Reason); err != nil {
		return nil, s.failBudget(ctx, err)
	}
	usage, err := s.usageOf(ctx, &b)
	if err != nil {
		return nil, err
	}
	s.audit(ctx, "budget.top_up", b.ID, map[string]any{"budget_limit": writeAmount(b.Unit, before.Limit())},
		map[string]any{"budget_limit": usage.Limit, "amount": in.Body.Amount, "reason": in.Body.Reason})
	return answer(*usage), nil
}

func (s *server) releaseDoubts(ctx context.Context, in *struct {
	ByID
	Body BudgetRelease
},
) (*body[BudgetWindow], error) {
	b, err := s.budget(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	before, err := s.windowOf(ctx, b.ID, in.Body.Window)
	if err == nil && before == nil {
		err = notBegun()
	}
	if err != nil {
		return nil, err
	}
	if err := s.Budgets.Authority.ReleaseDoubts(ctx, before.ID, in.Body.Reason); err != nil {
		return nil, s.failBudget(ctx, err)
	}
	after, err := s.windowOf(ctx, b.ID, strconv.FormatInt(before.ID, 10))
	if err != nil {
		return nil, err
	}
	was, is := windowBody(before), windowBody(after)
	s.audit(ctx, "budget.release", b.ID, map[string]any{"window": was.ID, "in_suspense": was.Suspense},
		map[string]any{"window": is.ID, "in_suspense": is.Suspense, "reason": in.Body.Reason})
	return answer(is), nil
}

func notBegun() error {
	return huma.Error409Conflict("this budget has not begun: starts_at is still to come")
}

func (s *server) suspendIncarnation(ctx context.Context, in *struct{ Body Lost }) (*struct{}, error) {
	incarnation, err := strconv.ParseUint(in.Body.Incarnation, 16, 64)
	if err != nil || incarnation == 0 {
		return nil, huma.Error422UnprocessableEntity("the incarnation is not valid", &huma.ErrorDetail{Location: "body.incarnation", Message: "must be hexadecimal, as catraca proxies shows it"})
	}
	err = s.Budgets.Authority.Suspend(ctx, incarnation, in.Body.Reason)
	if errors.Is(err, budget.ErrNotFound) {
		return nil, huma.Error404NotFound("no run of a proxy with this incarnation holds anything; /api/ai-gateway/proxies lists them")
	}
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	s.audit(ctx, "budget.suspend", uuid.Nil, nil, in.Body)
	return nil, nil
}
