package dashboard_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/dashboard"
)

const usagePath = "/api/budget/current-usage"

// ask is a message of a proxy to the authority.
func (s *budgetSite) ask(a budget.Ask) budget.Reply {
	s.Helper()
	reply, err := s.authority.Lease(s.Context(), a)
	if err != nil {
		s.Fatal(err)
	}
	return reply
}

// lease takes an amount of a client's windows for an incarnation that has said nothing yet.
func (s *budgetSite) lease(incarnation uint64, tokens int64) (window int64) {
	s.Helper()
	reply := s.ask(budget.Ask{Incarnation: incarnation, Name: "one", Op: 1, Open: []budget.Opening{{Client: s.client.ID, Need: budget.Cost{Tokens: tokens}}}})
	if len(reply.Grants) == 0 || reply.Grants[0].Amount < tokens {
		s.Fatalf("granted %+v, not %d", reply.Grants, tokens)
	}
	return reply.Grants[0].Window
}

// settle records a charge against what an incarnation holds.
func (s *budgetSite) settle(c budget.Charge) {
	s.Helper()
	c.Client, c.AdmittedAt = s.client.ID, time.Now()
	if err := s.store.Update(s.Context(), func(tx budget.Tx) error { return budget.Settle(s.Context(), tx, []budget.Charge{c}) }); err != nil {
		s.Fatal(err)
	}
}

func (s *budgetSite) usage(b dashboard.Budget) dashboard.BudgetUsage {
	s.Helper()
	for _, u := range want[dashboard.BudgetUsagePage](s.site, 200, "GET", usagePath+"?client_id="+b.ClientID.String(), nil).Budgets {
		if u.BudgetID == b.ID {
			return u
		}
	}
	s.Fatalf("budget %s is not shown", b.ID)
	return dashboard.BudgetUsage{}
}

// thisMonth is where the month that is open now begins, in UTC.
func thisMonth() time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
}

func TestCurrentUsage(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		start := thisMonth()
		s.calls(start.Add(time.Minute), 100)
		b := s.make("tokens", "monthly", "1000", map[string]any{"pause_at_limit": true, "starts_at": start, "time_zone": "UTC", "thresholds": []int{5, 50}})
		u := s.usage(b)
		if u.CurrentUsage != "100" || u.Limit != "1000" || u.Base != "1000" || u.Held != "0" || u.Suspense != "0" || u.Remaining != "900" || u.UsagePercentage != "10.00" ||
			!u.PeriodStart.Equal(start) || !u.NextResetAt.Equal(start.AddDate(0, 1, 0)) || u.PeriodStartDate != start.Format(time.DateOnly) || u.TimeZone != "UTC" ||
			u.IsPaused || u.PausedBy != "" || !u.Started || u.Client != "Padaria" || u.Forecast == nil || len(u.Forecast) > 0 || !u.PauseAtLimit {
			s.Errorf("at first %+v", u)
		}
		if !slices.Equal(u.Alerted, []int{5}) {
			s.Errorf("alerted at %v", u.Alerted)
		}
		window := s.lease(5, 800)
		if u = s.usage(b); u.Held != "800" || u.CurrentUsage != "100" || u.IsPaused {
			s.Errorf("with a lease %+v", u)
		}
		s.settle(budget.Charge{EventID: budget.EventID{Incarnation: 5, Seq: 1}, Cost: budget.Cost{Tokens: 780}, Holds: []budget.HeldFor{{Window: window, Amount: 780}}})
		if u = s.usage(b); u.CurrentUsage != "880" || u.UsagePercentage != "88.00" || !slices.Equal(u.Alerted, []int{5, 50, 80}) || u.IsPaused {
			s.Errorf("settled %+v", u)
		}
		// What was held comes back, or is used, and then nothing is left.
		s.settle(budget.Charge{EventID: budget.EventID{Incarnation: 5, Seq: 2}, Cost: budget.Cost{Tokens: 120}, Holds: []budget.HeldFor{{Window: window, Amount: 20}}})
		if u = s.usage(b); u.CurrentUsage != "1000" || u.Overrun != "100" || !u.IsPaused || u.PausedBy != "limit" || u.Remaining != "0" || !slices.Equal(u.Alerted, []int{5, 50, 80, 90, 100}) {
			s.Errorf("at the limit %+v", u)
		}
		want[dashboard.Budget](s.site, 200, "POST", "/api/budget/"+b.ID.String()+"/pause", map[string]any{"reason": "fatura"})
		if u = s.usage(b); !u.IsPaused || u.PausedBy != "person" || u.PausedReason != "fatura" {
			s.Errorf("paused %+v", u)
		}
		later := s.make("brl", "daily", "1", map[string]any{"starts_at": time.Now().Add(72 * time.Hour)})
		if u = s.usage(later); u.Started || u.CurrentUsage != "0" || u.IsPaused || !u.NextResetAt.After(u.PeriodStart) || !u.PeriodStart.Equal(later.StartsAt) || u.Limit != "1" {
			s.Errorf("before it starts %+v", u)
		}
	})
}

// A hard cap may never be used up: once a call was refused for it, it is at its limit all the same.
func TestUsageAfterARefusal(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		b := s.make("tokens", "monthly", "1000", map[string]any{"pause_at_limit": true})
		window := s.lease(5, 960)
		s.settle(budget.Charge{EventID: budget.EventID{Incarnation: 5, Seq: 1}, Cost: budget.Cost{Tokens: 960}, Holds: []budget.HeldFor{{Window: window, Amount: 960}}})
		if u := s.usage(b); u.IsPaused || !slices.Equal(u.Alerted, []int{80, 90}) {
			s.Errorf("before %+v", u)
		}
		s.ask(budget.Ask{Incarnation: 5, Op: 2, Epoch: 1, Want: []budget.Want{{Window: window, Least: 100, Need: 100}}})
		s.ask(budget.Ask{Incarnation: 5, Op: 3, Epoch: 1, Refused: []int64{window}})
		if u := s.usage(b); !u.IsPaused || u.PausedBy != "limit" || !slices.Equal(u.Alerted, []int{80, 90, 100}) || u.Remaining != "40" {
			s.Errorf("after a refusal %+v", u)
		}
		// It may be resumed, for something is left; and with more there is no limit to be at.
		path := "/api/budget/" + b.ID.String()
		want[dashboard.Budget](s.site, 200, "POST", path+"/resume", map[string]any{"reason": "x"})
		if u := want[dashboard.BudgetUsage](s.site, 200, "POST", path+"/top-up", map[string]any{"amount": "1000", "reason": "x"}); u.IsPaused || len(u.Alerted) != 0 || u.UsagePercentage != "48.00" {
			s.Errorf("topped up %+v", u)
		}
	})
}

// A budget that only alerts counts what comes without a hold, and stops nothing.
func TestUsageOfABudgetThatOnlyAlerts(t *testing.T) {
	s := budgetSQLite(t)
	start := thisMonth()
	s.calls(start.Add(time.Minute), 60, 60)
	b := s.make("tokens", "monthly", "100", map[string]any{"starts_at": start, "time_zone": "UTC", "alert_threshold_90": false})
	if u := s.usage(b); u.CurrentUsage != "120" || u.UsagePercentage != "120.00" || u.Remaining != "0" || u.IsPaused || !slices.Equal(u.Alerted, []int{80, 100}) {
		t.Errorf("%+v", u)
	}
}

func TestForecastOfUsage(t *testing.T) {
	s := budgetSQLite(t)
	b := s.make("tokens", "monthly", "100000", map[string]any{"time_zone": "Asia/Tokyo"})
	now := time.Now()
	for h := range 24 {
		s.points = append(s.points, budget.UsagePoint{Hour: now.Truncate(time.Hour).Add(-time.Duration(h+1) * time.Hour), Used: 80_000})
	}
	u := s.usage(b)
	if len(u.Forecast) != 3 || u.Forecast[0].Threshold != 80 || u.Forecast[2].Threshold != 100 {
		t.Fatalf("%+v", u.Forecast)
	}
	if bare := want[dashboard.BudgetUsagePage](s.site, 200, "GET", usagePath+"?bare=true", nil); len(bare.Budgets) != 1 || bare.Budgets[0].Forecast == nil || len(bare.Budgets[0].Forecast) > 0 {
		t.Errorf("without forecasts: %+v", bare)
	}
	// At 80 000 an hour, 80 % are an hour away.
	if in := u.Forecast[0].At.Sub(now); in < 50*time.Minute || in > 70*time.Minute {
		t.Errorf("80 %% in %v", in)
	}
	if _, offset := u.Forecast[0].At.Zone(); offset != 9*3600 {
		t.Errorf("in zone %v", u.Forecast[0].At)
	}
}

func TestUsageComesInPages(t *testing.T) {
	s := budgetSQLite(t)
	all := map[uuid.UUID]bool{}
	add := func(client uuid.UUID, periods ...string) {
		for _, p := range periods {
			b := want[dashboard.Budget](s.site, 201, "POST", budgetsPath, map[string]any{"client_id": client, "budget_type": "tokens", "budget_period": p, "budget_limit": "5"})
			all[b.ID] = true
		}
	}
	add(uuid.Nil, "daily")
	for i := range 5 {
		c := want[dashboard.Tenant](s.site, 201, "POST", "/api/tenants", map[string]any{"name": fmt.Sprint("T", i)})
		add(c.ID, []string{"daily", "weekly", "monthly"}[:i%3+1]...)
	}
	pages, cursor := 0, ""
	for {
		page := want[dashboard.BudgetUsagePage](s.site, 200, "GET", usagePath+"?limit=2&cursor="+cursor, nil)
		pages++
		clients := map[uuid.UUID]bool{}
		for _, u := range page.Budgets {
			if !all[u.BudgetID] {
				t.Fatalf("%s comes twice", u.BudgetID)
			}
			delete(all, u.BudgetID)
			clients[u.ClientID] = true
		}
		if len(clients) > 2 {
			t.Errorf("%d clients on a page", len(clients))
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if pages != 3 || len(all) > 0 {
		t.Errorf("%d pages, without %v", pages, all)
	}
	if page := want[dashboard.BudgetUsagePage](s.site, 200, "GET", usagePath+"?cursor=ffffffff-ffff-ffff-ffff-ffffffffffff", nil); len(page.Budgets) != 0 || page.Budgets == nil || page.Next != "" {
		t.Errorf("behind the last: %+v", page)
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?cursor=x", "?client_id=x", "?client=x"} {
		want[problem](s.site, 422, "GET", usagePath+query, nil)
	}
}

func TestPauseResumeAndTopUp(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		start := thisMonth()
		s.calls(start.Add(time.Minute), 900)
		b := s.make("tokens", "monthly", "1000", map[string]any{"pause_at_limit": true, "starts_at": start, "time_zone": "UTC"})
		path := "/api/budget/" + b.ID.String()
		reason := map[string]any{"reason": "fatura em aberto"}
		if p := want[dashboard.Budget](s.site, 200, "POST", path+"/pause", reason); !p.Paused || p.PausedReason != "fatura em aberto" || p.Limit != "1000" {
			s.Errorf("paused %+v", p)
		}
		if reply := s.ask(budget.Ask{Incarnation: 3, Op: 1, Open: []budget.Opening{{Client: s.client.ID}}}); !reply.Accounts[0].IsPaused || reply.Accounts[0].Paused != "fatura em aberto" {
			s.Errorf("proxies hear %+v", reply.Accounts)
		}
		if p := want[dashboard.Budget](s.site, 200, "POST", path+"/resume", reason); p.Paused || p.PausedReason != "" {
			s.Errorf("resumed %+v", p)
		}
		want[dashboard.Budget](s.site, 200, "POST", path+"/resume", reason) // again, which changes nothing
		window := s.lease(5, 100)
		s.settle(budget.Charge{EventID: budget.EventID{Incarnation: 5, Seq: 1}, Cost: budget.Cost{Tokens: 100}, Holds: []budget.HeldFor{{Window: window, Amount: 100}}})
		want[dashboard.Budget](s.site, 200, "POST", path+"/pause", reason)
		p := want[problem](s.site, 409, "POST", path+"/resume", reason)
		for _, words := range []string{"at its limit", "1000 of 1000", path + "/top-up", budgetsPath + "/" + b.ID.String(), start.AddDate(0, 1, 0).Format(time.RFC3339)} {
			if !strings.Contains(p.Detail, words) {
				s.Errorf("without %q: %s", words, p.Detail)
			}
		}
		u := want[dashboard.BudgetUsage](s.site, 200, "POST", path+"/top-up", map[string]any{"amount": "500", "reason": "pago"})
		if u.Limit != "1500" || u.ToppedUp != "500" || u.Base != "1000" || u.Remaining != "500" || u.UsagePercentage != "66.67" {
			s.Errorf("topped up %+v", u)
		}
		if p := want[dashboard.Budget](s.site, 200, "POST", path+"/resume", reason); p.Paused || p.Limit != "1000" {
			s.Errorf("resumed %+v", p)
		}
		if actions, lines := s.audited(); !slices.Equal(actions, []string{"budget.create", "budget.pause", "budget.resume", "budget.pause", "budget.top_up", "budget.resume"}) ||
			!strings.Contains(fmt.Sprint(lines[4].After), "pago") || !strings.Contains(fmt.Sprint(lines[4].Before), "1000") {
			s.Errorf("audited %v: %v", actions, lines)
		}
		journal := want[dashboard.BudgetJournal](s.site, 200, "GET", budgetsPath+"/"+b.ID.String()+"/journal", nil)
		if i := slices.IndexFunc(journal.Entries, func(e dashboard.JournalEntry) bool { return e.Kind == "top_up" }); i < 0 || journal.Entries[i].Amount != "500" || journal.Entries[i].Reason != "pago" {
			s.Errorf("journal %+v", journal)
		}
		later := s.make("brl", "daily", "1", map[string]any{"starts_at": time.Now().Add(72 * time.Hour)})
		for _, c := range []struct {
			path, body string
			status     int
			hint       string
		}{
			{path + "/pause", `{}`, 422, "reason"},
			{path + "/pause", `{"reason":" "}`, 422, "reason"},
			{path + "/pause", `{"reason":"` + strings.Repeat("x", 201) + `"}`, 422, "reason"},
			{path + "/resume", ``, 400, "body"},
			{path + "/top-up", `{"reason":"x"}`, 422, "amount"},
			{path + "/top-up", `{"reason":"x","amount":"0"}`, 422, "must be more than 0"},
			{path + "/top-up", `{"reason":"x","amount":"-5"}`, 422, "must be more than 0"},
			{path + "/top-up", `{"reason":"x","amount":"1.5"}`, 422, "whole number"},
			{path + "/top-up", `{"reason":"x","amount":"4611686018427387903"}`, 422, "more than fits"},
			{path + "/top-up", `{"amount":"5"}`, 422, "reason"},
			{"/api/budget/" + later.ID.String() + "/top-up", `{"reason":"x","amount":"5"}`, 409, "has not begun"},
			{"/api/budget/" + later.ID.String() + "/release", `{"reason":"x"}`, 409, "has not begun"},
			{path + "/release", `{"reason":"x","window":"77"}`, 404, "no such window"},
			{path + "/release", `{"reason":"x","window":"-7"}`, 422, "window"},
			{path + "/release", `{}`, 422, "reason"},
			{"/api/budget/suspend", `{"reason":"x","incarnation":"xyz"}`, 422, "hexadecimal"},
			{"/api/budget/suspend", `{"reason":"x","incarnation":"0"}`, 422, "hexadecimal"},
			{"/api/budget/suspend", `{"reason":"x","incarnation":"77"}`, 404, "no run of a proxy"},
		} {
			var in any = c.body
			if code, text := s.do("POST", c.path, in); code != c.status || !strings.Contains(string(text), c.hint) {
				s.Errorf("%s %s:\n got %d %s\nwant %d … %s", c.path, c.body, code, text, c.status, c.hint)
			}
		}
		for _, verb := range []string{"pause", "resume", "release"} {
			want[problem](s.site, 404, "POST", "/api/budget/"+uuid.NewString()+"/"+verb, reason)
		}
		want[problem](s.site, 404, "POST", "/api/budget/"+uuid.NewString()+"/top-up", map[string]any{"amount": "1", "reason": "x"})
		if again, _ := s.audited(); len(again) != 7 { // and the budget that starts later
			s.Errorf("what was refused is audited: %v", again)
		}
	})
}

func TestSuspendAndRelease(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		b := s.make("tokens", "monthly", "1000", map[string]any{"pause_at_limit": true})
		path := "/api/budget/" + b.ID.String()
		window := s.lease(0xabc, 300)
		s.settle(budget.Charge{EventID: budget.EventID{Incarnation: 0xabc, Seq: 1}, Cost: budget.Cost{Tokens: 50}, Doubt: true, Holds: []budget.HeldFor{{Window: window, Amount: 120}}})
		if u := s.usage(b); u.CurrentUsage != "50" || u.Suspense != "70" {
			s.Errorf("in doubt %+v", u)
		}
		want[struct{}](s.site, 204, "POST", "/api/budget/suspend", map[string]any{"incarnation": "abc", "reason": "o disco queimou"})
		u := s.usage(b)
		if u.CurrentUsage != "50" || u.Held != "0" || u.Suspense == "70" {
			s.Errorf("suspended %+v", u)
		}
		done := want[dashboard.BudgetWindow](s.site, 200, "POST", path+"/release", map[string]any{"reason": "conferido com o provedor"})
		if done.Suspense != "0" || done.Used != "50" || done.ID != fmt.Sprint(window) {
			s.Errorf("released %+v", done)
		}
		if after := s.usage(b); after.Suspense != "0" || after.Remaining != "950" {
			s.Errorf("after that %+v", after)
		}
		actions, lines := s.audited()
		if !slices.Equal(actions, []string{"budget.create", "budget.suspend", "budget.release"}) || !strings.Contains(fmt.Sprint(lines[1].After), "o disco queimou") ||
			!strings.Contains(fmt.Sprint(lines[2].Before), u.Suspense) || !strings.Contains(fmt.Sprint(lines[2].After), "conferido") {
			s.Errorf("audited %v", lines)
		}
		journal := want[dashboard.BudgetJournal](s.site, 200, "GET", budgetsPath+"/"+b.ID.String()+"/journal?window="+done.ID, nil)
		var kinds []string
		for _, e := range journal.Entries {
			kinds = append(kinds, e.Kind)
			if e.Kind == "release" && e.Incarnation != "0000000000000abc" {
				s.Errorf("released %+v", e)
			}
		}
		if !slices.Contains(kinds, "suspend") || !slices.Contains(kinds, "release") {
			s.Errorf("journal %v", kinds)
		}
	})
}

func TestHistoryAndAlerts(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		start := thisMonth()
		s.calls(start.Add(time.Minute), 950)
		b := s.make("tokens", "monthly", "1000", map[string]any{"starts_at": start, "time_zone": "UTC"})
		other := s.make("usd", "daily", "1", nil)
		path := budgetsPath + "/" + b.ID.String()
		if h := want[dashboard.BudgetHistory](s.site, 200, "GET", path+"/windows", nil); h.Windows == nil {
			s.Errorf("no history: %+v", h)
		}
		s.usage(b)
		history := want[dashboard.BudgetHistory](s.site, 200, "GET", path+"/windows?limit=5", nil)
		if len(history.Windows) != 1 {
			s.Fatalf("%d periods", len(history.Windows))
		}
		w := history.Windows[0]
		if w.Used != "950" || w.Unheld != "950" || w.Spent != "0" || w.Limit != "1000" || w.Percentage != "95.00" || w.Alerted != 90 || w.Sealed || w.PauseAtLimit || !w.StartsAt.Equal(start) {
			s.Errorf("period %+v", w)
		}
		alerts := want[dashboard.BudgetAlertList](s.site, 200, "GET", "/api/budget/alerts?client_id="+s.client.ID.String(), nil)
		if len(alerts.Alerts) != 2 {
			s.Fatalf("alerts %+v", alerts.Alerts)
		}
		for i, threshold := range []int{90, 80} {
			a := alerts.Alerts[i]
			if a.Threshold != threshold || a.BudgetID != b.ID || a.ClientID != s.client.ID || a.Client != "Padaria" || a.Type != "tokens" || a.Period != "monthly" || a.Used != "950" ||
				a.Limit != "1000" || a.Window != w.ID || a.Attempts == nil || a.ID == 0 || a.At.IsZero() {
				s.Errorf("alert %+v", a)
			}
		}
		if none := want[dashboard.BudgetAlertList](s.site, 200, "GET", "/api/budget/alerts?client_id="+uuid.Nil.String(), nil); len(none.Alerts) != 0 || none.Alerts == nil {
			s.Errorf("over all clients: %+v", none)
		}
		// The journal of another budget's period is not shown, and those of deleted ones are.
		want[problem](s.site, 404, "GET", budgetsPath+"/"+other.ID.String()+"/journal?window="+w.ID, nil)
		want[problem](s.site, 422, "GET", path+"/journal?window=x", nil)
		want[problem](s.site, 422, "GET", path+"/windows?limit=0", nil)
		want[problem](s.site, 404, "GET", budgetsPath+"/"+uuid.NewString()+"/windows", nil)
		want[problem](s.site, 404, "GET", budgetsPath+"/"+uuid.NewString()+"/journal", nil)
		want[struct{}](s.site, 204, "DELETE", path, nil)
		if kept := want[dashboard.BudgetAlertList](s.site, 200, "GET", "/api/budget/alerts", nil); len(kept.Alerts) != 2 || kept.Alerts[0].Type != "tokens" {
			s.Errorf("after the budget was deleted: %+v", kept)
		}
	})
}

func TestWhatIf(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		day := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
		s.calls(day, 400, 500, 200, 50)                       // 400 + 500, then 200 does not fit, then 950
		s.calls(day.AddDate(0, 0, 1), 1000)                   // to the last token
		s.calls(time.Date(2026, 11, 6, 0, 0, 0, 0, time.UTC)) // none
		in := map[string]any{
			"client_id": s.client.ID, "budget_type": "tokens", "budget_limit": "1000", "budget_period": "daily", "time_zone": "UTC",
			"from": "2026-11-03T00:00:00Z", "to": "2026-11-06T00:00:00Z",
		}
		r := want[dashboard.WhatIfReport](s.site, 200, "POST", "/api/budget/what-if", in)
		if r.Calls != 5 || r.Refused != 1 || r.Used != "1950" || r.RefusedCost != "200" || r.Peak != "1000" || r.Unpriced != 0 || !r.FirstRefusal.Equal(day.Add(2*time.Hour)) || len(r.Windows) != 3 {
			s.Fatalf("%+v", r)
		}
		if first := r.Windows[0]; first.Used != "950" || first.Percentage != "95.00" || first.Calls != 4 || fmt.Sprint(crossedAt(first)) != "[80:13 90:13 100:14]" {
			s.Errorf("first day %+v: %v", first, crossedAt(first))
		}
		if second := r.Windows[1]; second.Used != "1000" || second.Refused != 0 || !second.FirstRefusal.IsZero() || fmt.Sprint(crossedAt(second)) != "[80:12 90:12 100:12]" {
			s.Errorf("second day %+v", second)
		}
		if third := r.Windows[2]; third.Calls != 0 || third.Used != "0" || third.Crossed == nil {
			s.Errorf("third day %+v", third)
		}
		in["client_id"] = uuid.Nil
		if all := want[dashboard.WhatIfReport](s.site, 200, "POST", "/api/budget/what-if", in); all.Calls != 5 || all.Refused != 1 {
			s.Errorf("all clients: %+v", all)
		}
		in["client_id"], in["pause_at_limit"], in["budget_type"], in["budget_limit"] = s.client.ID, false, "brl", "0.00001"
		if alerting := want[dashboard.WhatIfReport](s.site, 200, "POST", "/api/budget/what-if", in); alerting.Refused != 0 || alerting.Used != "0.000025" {
			s.Errorf("only alerting: %+v", alerting)
		}
		if actions, _ := s.audited(); len(actions) != 0 {
			s.Errorf("audited %v", actions)
		}
		if list := want[dashboard.BudgetList](s.site, 200, "GET", budgetsPath, nil); len(list.Budgets) != 0 {
			s.Errorf("made %+v", list)
		}
	})
}

func crossedAt(w dashboard.WhatIfWindow) (out []string) {
	for _, c := range w.Crossed {
		out = append(out, fmt.Sprintf("%d:%d", c.Threshold, c.At.Hour()))
	}
	return out
}

func TestWhatIfByDefaultAndWhatItRefuses(t *testing.T) {
	s := budgetSQLite(t)
	in := func(period string) map[string]any {
		return map[string]any{"client_id": s.client.ID, "budget_type": "brl", "budget_limit": "5", "budget_period": period}
	}
	now := time.Now()
	for period, windows := range map[string]int{"monthly": 1, "weekly": 4, "daily": 30} {
		r := want[dashboard.WhatIfReport](s.site, 200, "POST", "/api/budget/what-if", in(period))
		if len(r.Windows) != windows || r.TimeZone != "America/Manaus" || r.To.After(now) || now.Sub(r.To) > 32*24*time.Hour {
			t.Errorf("%s: %d windows from %v to %v", period, len(r.Windows), r.From, r.To)
		}
		for i, w := range r.Windows {
			if i > 0 && !w.StartsAt.Equal(r.Windows[i-1].EndsAt) {
				t.Errorf("%s: a gap before %v", period, w.StartsAt)
			}
		}
	}
	for _, c := range []struct {
		change map[string]any
		hint   string
	}{
		{map[string]any{"budget_limit": "0"}, "must be more than 0"},
		{map[string]any{"client_id": uuid.New()}, "no such client"},
		{map[string]any{"time_zone": "Marte"}, "IANA"},
		{map[string]any{"billing_day": 99}, "1 to 31"},
		{map[string]any{"from": "2026-11-05T00:00:00Z", "to": "2026-11-05T00:00:00Z"}, "must be after from"},
		{map[string]any{"from": "2024-11-05T00:00:00Z", "to": "2026-11-05T00:00:00Z"}, "400 days"},
		{map[string]any{"budget_type": "eur"}, "budget_type"},
		{map[string]any{"starts_at": "2026-11-05T00:00:00Z"}, "unexpected property"},
	} {
		body := in("monthly")
		for k, v := range c.change {
			body[k] = v
		}
		if code, text := s.do("POST", "/api/budget/what-if", body); code != 422 || !strings.Contains(string(text), c.hint) {
			t.Errorf("%v: %d %s", c.change, code, text)
		}
	}
}
