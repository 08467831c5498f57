package dashboard

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/tenancy"
)

// cronPath is what schedulers call. Nothing depends on it: alerts are sent within seconds, and a period is a matter of the
// calendar. It is there for those who want to see it done, and does no harm however often it is called.
const cronPath = "/api/cron/"

func (s *server) budgetCronRoutes() {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		verb := "-by-" + strings.ToLower(method)
		if s.Budgets.CheckAlerts != nil {
			huma.Register(s.api, operation(method, cronPath+"check-budget-alerts", "check-budget-alerts"+verb, "Look for alerts that are due, and send those that wait", budgetTag,
				describe("This is done all the time; it may be called at any time and any number of times. It takes the admin token or CATRACA_CRON_TOKEN.")), s.checkBudgetAlerts)
		}
		if s.Budgets.ResetPeriods != nil {
			huma.Register(s.api, operation(method, cronPath+"reset-budget-periods", "reset-budget-periods"+verb, "Open periods that have begun, and close those that are over", budgetTag,
				describe("A period is a matter of the calendar, and nothing is reset: this only does now what else is done within a minute. It may be called at any time and any number of times. It takes the admin token or CATRACA_CRON_TOKEN.")), s.resetBudgetPeriods)
		}
	}
}

func (s *server) checkBudgetAlerts(ctx context.Context, _ *struct{}) (*body[budget.AlertsReport], error) {
	report, err := s.Budgets.CheckAlerts(ctx)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	return answer(report), nil
}

func (s *server) resetBudgetPeriods(ctx context.Context, _ *struct{}) (*body[budget.ResetReport], error) {
	report, err := s.Budgets.ResetPeriods(ctx)
	if err != nil {
		return nil, s.failBudget(ctx, err)
	}
	return answer(report), nil
}

// orCron lets a scheduler in to its two routes by a token of its own, so that it need not be given the one that opens
// everything. Whoever comes otherwise goes the usual way.
func (s *server) orCron(routes, usual http.Handler) http.Handler {
	if s.Budgets == nil || s.Budgets.CronToken == "" {
		return usual
	}
	want := sha256.Sum256([]byte(s.Budgets.CronToken))
	actor := "cron:" + hex.EncodeToString(want[:4])
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if !strings.HasPrefix(r.URL.Path, cronPath) || !strings.EqualFold(scheme, "bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			usual.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		routes.ServeHTTP(w, r.WithContext(tenancy.WithActor(r.Context(), actor)))
	})
}
