package dashboard_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/migrations"
	"github.com/catraca/catraca/tenancy"
)

const (
	budgetsPath = "/api/budget/config"
	cronToken   = "cron-token-for-tests-0123456789"
)

// budgetSite is an API with budgets, over real stores and a real authority.
type budgetSite struct {
	*site
	store     pastStore
	authority *budget.Authority
	points    []budget.UsagePoint // what forecasts are made from
	cronRuns  int
	client    dashboard.Tenant
}

// pastStore is a store that gives past calls.
type pastStore interface {
	budget.Store
	PastCalls(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[budget.PastCall, error]
}

// fixedPast is a store whose hourly usage is a test's.
type fixedPast struct {
	pastStore
	s *budgetSite
}

func (f fixedPast) HourlyUsage(context.Context, uuid.UUID, budget.Unit, time.Time) ([]budget.UsagePoint, error) {
	return f.s.points, nil
}

func (s *budgetSite) open(t *testing.T, tenants tenancy.Store, ledger store, books pastStore) {
	s.store, s.authority = books, budget.NewAuthority(books, budget.AuthorityOptions{})
	checked := func(what string) func(string) error {
		return func(text string) error {
			if strings.Contains(text, "bad") {
				return errors.New("is no " + what)
			}
			return nil
		}
	}
	s.site = newSite(t, tenants, ledger, func(o *dashboard.Options) {
		o.Auditor, o.Now = tenants, time.Now
		o.Budgets = &dashboard.Budgets{
			Store: fixedPast{books, s}, Authority: s.authority, CheckURL: checked("address of a webhook"), CheckAddress: checked("address"),
			CheckAlerts: func(context.Context) (budget.AlertsReport, error) {
				s.cronRuns++
				return budget.AlertsReport{Windows: 7}, nil
			},
			ResetPeriods: func(ctx context.Context) (budget.ResetReport, error) {
				return budget.ResetPeriods(ctx, s.authority, books)
			},
			WebhookSecret: func(client string) string { return "whsec_of_" + client }, CronToken: cronToken,
		}
	})
	s.client = want[dashboard.Tenant](s.site, 201, "POST", "/api/tenants", map[string]any{"name": "Padaria", "time_zone": "America/Manaus"})
}

func budgetSQLite(t *testing.T) *budgetSite {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "catraca.db")+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	if err := migrations.Up(t.Context(), db, migrations.SQLite); err != nil {
		t.Fatal(err)
	}
	s := &budgetSite{}
	s.open(t, tenancy.NewSQLite(db, vault(t)), metering.NewSQLite(db, db), budget.NewSQLite(db, db))
	return s
}

func budgetPostgres(t *testing.T) *budgetSite {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testenv.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &budgetSite{}
	s.open(t, tenancy.NewPostgres(pool, vault(t)), metering.NewPostgres(pool), budget.NewPostgres(pool))
	return s
}

func everyBudgetStore(t *testing.T, test func(*budgetSite)) {
	t.Run("sqlite", func(t *testing.T) { test(budgetSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(budgetPostgres(t)) })
}

// calls records calls of the client: so many tokens each, one after the other from a time on, an hour apart.
func (s *budgetSite) calls(from time.Time, tokens ...int64) {
	s.Helper()
	var events []metering.Event
	for i, n := range tokens {
		events = append(events, metering.Event{
			Incarnation: 9, Seq: uint64(from.Unix()%1_000_000)*1000 + uint64(i) + 1, RequestID: "req", ClientID: s.client.ID, Endpoint: "chat.completions",
			ModelServed: "openai/gpt-4o-mini", AdmittedAt: from.Add(time.Duration(i) * time.Hour), Status: 200,
			Usage: metering.Usage{Source: metering.Measured, Input: n, Total: n}, Cost: metering.Cost{Known: true, USD: 1_000_000, BRL: 5_000_000, Rate: metering.ExchangeRate{Rate: 500_000_000}},
		})
	}
	if err := s.ledger.Record(s.Context(), events); err != nil {
		s.Fatal(err)
	}
}

// make makes a budget of the client.
func (s *budgetSite) make(kind, period, limit string, more map[string]any) dashboard.Budget {
	s.Helper()
	in := map[string]any{"client_id": s.client.ID, "budget_type": kind, "budget_period": period, "budget_limit": limit}
	for k, v := range more {
		in[k] = v
	}
	return want[dashboard.Budget](s.site, 201, "POST", budgetsPath, in)
}

// audited gives the actions in the audit log, oldest first.
func (s *budgetSite) audited() (actions []string, all []dashboard.Change) {
	s.Helper()
	page := want[dashboard.ChangePage](s.site, 200, "GET", "/api/audit?limit=1000", nil)
	for _, c := range slices.Backward(page.Changes) {
		if strings.HasPrefix(c.Action, "budget.") {
			actions, all = append(actions, c.Action), append(all, c)
		}
	}
	return actions, all
}

func TestBudgets(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		if list := want[dashboard.BudgetList](s.site, 200, "GET", budgetsPath, nil); list.Budgets == nil || len(list.Budgets) > 0 {
			s.Fatalf("a new deployment has budgets %v", list.Budgets)
		}
		made := s.make("brl", "monthly", "200.50", map[string]any{"pause_at_limit": true, "notification_webhook": "https://hooks.example/secret-path?k=v"})
		if made.ID == uuid.Nil || made.ClientID != s.client.ID || made.Client != "Padaria" || made.Limit != "200.5" || made.TimeZone != "America/Manaus" || made.BillingDay != 1 ||
			!made.PauseAtLimit || !made.Alert80 || !made.Alert90 || !made.Alert100 || made.Thresholds == nil || made.CarryOver || made.CarryMax != "0" || made.Paused ||
			time.Since(made.StartsAt).Abs() > time.Minute || made.CreatedAt.IsZero() || made.UpdatedAt.IsZero() {
			s.Errorf("made %+v", made)
		}
		all := want[dashboard.Budget](s.site, 201, "POST", budgetsPath, map[string]any{
			"client_id": uuid.Nil, "budget_type": "tokens", "budget_period": "daily", "budget_limit": "1000000", "thresholds": []int{75, 50}, "alert_threshold_80": false,
			"time_zone": "Asia/Tokyo", "carry_over": true, "carry_max": "5", "debt": true, "notification_email": "ana@example.com",
		})
		if all.ClientID != uuid.Nil || all.Client != "" || all.Limit != "1000000" || !slices.Equal(all.Thresholds, []int{50, 75}) || all.Alert80 || !all.Alert90 || all.TimeZone != "Asia/Tokyo" ||
			!all.CarryOver || all.CarryMax != "5" || !all.Debt || all.Email != "ana@example.com" || all.PauseAtLimit {
			s.Errorf("over all clients: %+v", all)
		}
		path := budgetsPath + "/" + made.ID.String()
		changed := want[dashboard.Budget](s.site, 200, "PUT", path, map[string]any{"budget_limit": "1e2", "billing_day": 31, "time_zone": "America/Sao_Paulo", "budget_type": "brl"})
		if changed.Limit != "100" || changed.BillingDay != 31 || changed.TimeZone != "America/Sao_Paulo" || !changed.PauseAtLimit || changed.Webhook != made.Webhook || !changed.StartsAt.Equal(made.StartsAt) {
			s.Errorf("changed %+v", changed)
		}
		whole := want[dashboard.Budget](s.site, 200, "GET", path, nil)
		if fmt.Sprint(whole) != fmt.Sprint(changed) {
			s.Errorf("shown %+v, changed %+v", whole, changed)
		}
		// With the state that was read a change is refused when it is no more.
		want[dashboard.Budget](s.site, 200, "PUT", path, map[string]any{"debt": true, "updated_at": whole.UpdatedAt})
		if p := want[problem](s.site, 409, "PUT", path, map[string]any{"debt": false, "updated_at": whole.UpdatedAt}); !strings.Contains(p.Detail, "read it again") {
			s.Errorf("%+v", p)
		}
		for query, count := range map[string]int{"": 2, "?client_id=" + s.client.ID.String(): 1, "?client_id=" + uuid.Nil.String(): 1, "?client_id=" + uuid.NewString(): 0} {
			if list := want[dashboard.BudgetList](s.site, 200, "GET", budgetsPath+query, nil); len(list.Budgets) != count {
				s.Errorf("%s lists %d", query, len(list.Budgets))
			}
		}
		want[struct{}](s.site, 204, "DELETE", path, nil)
		want[problem](s.site, 404, "GET", path, nil)
		want[problem](s.site, 404, "DELETE", path, nil)
		actions, lines := s.audited()
		if !slices.Equal(actions, []string{"budget.create", "budget.create", "budget.update", "budget.update", "budget.delete"}) {
			s.Errorf("audited %v", actions)
		}
		for _, l := range lines {
			text, _ := json.Marshal(l)
			if strings.Contains(string(text), "secret-path") || !strings.HasPrefix(l.Actor, "admin:") || l.Subject != made.ID.String() && l.Subject != all.ID.String() {
				s.Errorf("audited %s", text)
			}
		}
		if text, _ := json.Marshal(lines[2]); !strings.Contains(string(text), `"200.5"`) || !strings.Contains(string(text), `"100"`) || !strings.Contains(string(text), "https://hooks.example/…") {
			s.Errorf("the change is not in %s", text)
		}
		if s.log.Len() > 0 {
			s.Errorf("logged: %s", &s.log)
		}
	})
}

func TestWhatABudgetCannotBe(t *testing.T) {
	s := budgetSQLite(t)
	made := s.make("tokens", "daily", "1000", nil)
	path := budgetsPath + "/" + made.ID.String()
	good := func(change string) string {
		return `{"client_id":"` + s.client.ID.String() + `","budget_type":"brl","budget_period":"monthly","budget_limit":"200"` + change + `}`
	}
	tokens := func(limit string) string {
		return `{"client_id":"` + s.client.ID.String() + `","budget_type":"tokens","budget_period":"weekly","budget_limit":"` + limit + `"}`
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		hint               string
	}{
		{"POST", budgetsPath, `{}`, 422, "client_id"},
		{"POST", budgetsPath, `{"client_id":"` + s.client.ID.String() + `","budget_type":"brl","budget_period":"monthly"}`, 422, "body.budget_limit"},
		{"POST", budgetsPath, good(`,"budget_limit":"0"`), 422, "must be more than 0"},
		{"POST", budgetsPath, good(`,"budget_limit":"-1"`), 422, "must be more than 0"},
		{"POST", budgetsPath, good(`,"budget_limit":"1,5"`), 422, "decimal number"},
		{"POST", budgetsPath, good(`,"budget_limit":"1e999999999"`), 422, "decimal number"},
		{"POST", budgetsPath, good(`,"budget_limit":"4611686.02"`), 422, "at most 4611686.01"},
		{"POST", budgetsPath, good(`,"budget_limit":"0.0000000000001"`), 422, "12 decimal places"},
		{"POST", budgetsPath, good(`,"budget_limit":200`), 422, "string"},
		{"POST", budgetsPath, tokens("1.5"), 422, "whole number of tokens"},
		{"POST", budgetsPath, tokens("4611686018427387904"), 422, "at most 4611686018427387903"},
		{"POST", budgetsPath, tokens("9223372036854775808"), 422, "at most 4611686018427387903"},
		{"POST", budgetsPath, tokens(""), 422, "whole number of tokens"},
		{"POST", budgetsPath, good(`,"time_zone":"Brasilia"`), 422, "IANA"},
		{"POST", budgetsPath, good(`,"time_zone":"Local"`), 422, "IANA"},
		{"POST", budgetsPath, good(`,"time_zone":""`), 422, "IANA"},
		{"POST", budgetsPath, good(`,"billing_day":32`), 422, "1 to 31"},
		{"POST", budgetsPath, good(`,"billing_day":0`), 422, "1 to 31"},
		{"POST", budgetsPath, strings.Replace(good(`,"billing_day":5`), "monthly", "weekly", 1), 422, "monthly budgets only"},
		{"POST", budgetsPath, good(`,"starts_at":"2020-01-01T00:00:00Z"`), 422, "400 days"},
		{"POST", budgetsPath, good(`,"starts_at":"2099-01-01T00:00:00Z"`), 422, "a year ahead"},
		{"POST", budgetsPath, good(`,"carry_max":"5"`), 422, "without carry_over"},
		{"POST", budgetsPath, good(`,"carry_over":true,"carry_max":"-5"`), 422, "must not be less than 0"},
		{"POST", budgetsPath, good(`,"thresholds":[0]`), 422, "1 to 1000"},
		{"POST", budgetsPath, good(`,"thresholds":[1001]`), 422, "1 to 1000"},
		{"POST", budgetsPath, good(`,"thresholds":[50,60,50]`), 422, "twice"},
		{"POST", budgetsPath, good(`,"thresholds":[90]`), 422, "alert_threshold_80"},
		{"POST", budgetsPath, good(`,"thresholds":[1,2,3,4,5,6,7,8,9,10,11]`), 422, "10 is the most"},
		{"POST", budgetsPath, good(`,"notification_email":"bad"`), 422, "is no address"},
		{"POST", budgetsPath, good(`,"notification_email":"a b@example.com"`), 422, "without blanks"},
		{"POST", budgetsPath, good(`,"notification_webhook":"bad"`), 422, "is no address of a webhook"},
		{"POST", budgetsPath, good(`,"notification_webhook":"` + strings.Repeat("x", 2001) + `"`), 422, "at most 2000"},
		{"POST", budgetsPath, good(`,"pause":true`), 422, "pause"},
		{"POST", budgetsPath, strings.Replace(good(""), "brl", "eur", 1), 422, "budget_type"},
		{"POST", budgetsPath, strings.Replace(good(""), "monthly", "yearly", 1), 422, "budget_period"},
		{"POST", budgetsPath, strings.Replace(good(""), s.client.ID.String(), uuid.NewString(), 1), 422, "no such client"},
		{"POST", budgetsPath, strings.Replace(tokens("5"), "weekly", "daily", 1), 409, "PUT /api/budget/config/" + made.ID.String()},
		{"POST", budgetsPath, `{"client_id":`, 400, ""},
		{"PUT", path, `{"budget_type":"brl"}`, 422, "cannot change"},
		{"PUT", path, `{"budget_period":"weekly"}`, 422, "cannot change"},
		{"PUT", path, `{"budget_limit":"0.5"}`, 422, "whole number of tokens"},
		{"PUT", path, `{"client_id":"` + uuid.NewString() + `"}`, 422, "client_id"},
		{"PUT", budgetsPath + "/" + uuid.NewString(), `{}`, 404, "no such budget"},
		{"PUT", budgetsPath, `{"budget_limit":"5"}`, 422, "client_id"},
		{"PUT", budgetsPath + "?client_id=" + uuid.NewString(), `{"budget_limit":"5"}`, 422, "budget_type"},
		{"GET", budgetsPath + "?client_id=7", ``, 422, "client_id"},
		{"GET", budgetsPath + "/7", ``, 422, "id"},
		{"PATCH", path, `{}`, 405, "GET, PUT, DELETE"},
		{"GET", "/api/budget", ``, 404, "no such path"},
	} {
		// A field that is named twice is one too many for readers, and the last one counts here.
		body := c.body
		if strings.Count(body, `"budget_limit"`) > 1 {
			body = strings.Replace(body, `,"budget_limit":"200"`, "", 1)
		}
		var in any
		if body != "" {
			in = body
		}
		code, text := s.do(c.method, c.path, in)
		if code != c.status || !strings.Contains(string(text), c.hint) {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d … %s", c.method, c.path, body, code, text, c.status, c.hint)
		}
	}
	if s.log.Len() > 0 {
		t.Errorf("mistakes of callers are no news: %s", &s.log)
	}
	if actions, _ := s.audited(); len(actions) != 1 {
		t.Errorf("audited %v", actions)
	}
}

// All that is wrong is said in one answer, each with its place.
func TestAllMistakesOfABudgetAtOnce(t *testing.T) {
	s := budgetSQLite(t)
	p := want[problem](s.site, 422, "POST", budgetsPath, map[string]any{
		"client_id": uuid.New(), "budget_type": "usd", "budget_period": "daily", "budget_limit": "0", "time_zone": "x", "billing_day": 40, "starts_at": "1999-01-01T00:00:00Z",
		"carry_max": "1", "thresholds": []int{0, 0}, "notification_email": "bad", "notification_webhook": "bad",
	})
	var places []string
	for _, e := range p.Errors {
		places = append(places, strings.TrimPrefix(e.Location, "body."))
		if e.Message == "" {
			t.Errorf("%s without a message", e.Location)
		}
	}
	want := []string{"client_id", "budget_limit", "time_zone", "billing_day", "starts_at", "carry_max", "thresholds", "notification_email", "notification_webhook"}
	if !slices.Equal(places, want) {
		t.Errorf("said %v, want %v", places, want)
	}
}

func TestSixBudgetsAreTheMost(t *testing.T) {
	s := budgetSQLite(t)
	for _, kind := range []string{"tokens", "brl"} {
		for _, period := range []string{"daily", "weekly", "monthly"} {
			s.make(kind, period, "5", nil)
		}
	}
	if p := want[problem](s.site, 409, "POST", budgetsPath, map[string]any{"client_id": s.client.ID, "budget_type": "usd", "budget_period": "daily", "budget_limit": "5"}); !strings.Contains(p.Detail, "6 is the most") {
		t.Errorf("%+v", p)
	}
	list := want[dashboard.BudgetList](s.site, 200, "GET", budgetsPath, nil)
	var order []string
	for _, b := range list.Budgets {
		order = append(order, b.Type+" "+b.Period)
	}
	if !slices.Equal(order, []string{"brl daily", "brl weekly", "brl monthly", "tokens daily", "tokens weekly", "tokens monthly"}) {
		t.Errorf("in the order %v", order)
	}
}

// The plan's table has one budget a client, and PUT with a client_id treats it so.
func TestTheOneBudgetOfAClient(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		path := budgetsPath + "?client_id=" + s.client.ID.String()
		first := want[dashboard.Budget](s.site, 200, "PUT", path, map[string]any{"budget_type": "brl", "budget_period": "monthly", "budget_limit": "200", "pause_at_limit": true, "billing_day": 10, "thresholds": []int{50}})
		again := want[dashboard.Budget](s.site, 200, "PUT", path, map[string]any{"budget_type": "brl", "budget_limit": "300"})
		if again.ID != first.ID || again.Limit != "300" || !again.PauseAtLimit || again.BillingDay != 10 {
			s.Errorf("changed %+v", again)
		}
		if p := want[problem](s.site, 422, "PUT", path, map[string]any{"budget_period": "daily"}); len(p.Errors) != 1 || p.Errors[0].Location != "body.budget_limit" {
			s.Errorf("another period without a limit: %+v", p)
		}
		replaced := want[dashboard.Budget](s.site, 200, "PUT", path, map[string]any{"budget_type": "tokens", "budget_period": "daily", "budget_limit": "1000"})
		if replaced.ID == first.ID || replaced.Type != "tokens" || replaced.Limit != "1000" || !replaced.PauseAtLimit || replaced.BillingDay != 1 || !slices.Equal(replaced.Thresholds, []int{50}) {
			s.Errorf("replaced %+v", replaced)
		}
		if list := want[dashboard.BudgetList](s.site, 200, "GET", path, nil); len(list.Budgets) != 1 || list.Budgets[0].ID != replaced.ID {
			s.Errorf("left are %+v", list.Budgets)
		}
		if actions, _ := s.audited(); !slices.Equal(actions, []string{"budget.create", "budget.update", "budget.create", "budget.delete"}) {
			s.Errorf("audited %v", actions)
		}
		s.make("usd", "daily", "1", nil)
		if p := want[problem](s.site, 409, "PUT", path, map[string]any{"budget_limit": "5"}); !strings.Contains(p.Detail, "there are 2 budgets") {
			s.Errorf("%+v", p)
		}
	})
}

func TestBudgetPolicy(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		path := "/api/budget/policy/" + s.client.ID.String()
		byDefault := dashboard.BudgetPolicy{AtLimit: "block", Bound: "bytes", Outrun: "top_up", TailPercent: 5, ConversationBRL: "0", ContactBRL: "0"}
		if p := want[dashboard.BudgetPolicy](s.site, 200, "GET", path, nil); p != byDefault {
			s.Errorf("by default %+v", p)
		}
		set := want[dashboard.BudgetPolicy](s.site, 200, "PUT", path, map[string]any{
			"at_limit": "downgrade", "downgrade_model": "gpt-4o-mini", "fit_output": true, "bound": "tokenizer", "output_cap": 512, "leave_output": true, "outrun": "cut",
			"accept_estimates": true, "tail_calls": 3, "tail_percent": 10, "conversation_calls_per_hour": 60, "conversation_brl_per_hour": "2.50", "contact_calls_per_hour": 90, "contact_brl_per_hour": "3",
		})
		want1 := dashboard.BudgetPolicy{
			AtLimit: "downgrade", DowngradeModel: "gpt-4o-mini", FitOutput: true, Bound: "tokenizer", OutputCap: 512, LeaveOutput: true, Outrun: "cut", AcceptEstimates: true,
			TailCalls: 3, TailPercent: 10, ConversationCalls: 60, ConversationBRL: "2.5", ContactCalls: 90, ContactBRL: "3",
		}
		if set != want1 {
			s.Errorf("set %+v", set)
		}
		want1.AtLimit, want1.AnswerText = "answer", "Volto já!"
		if p := want[dashboard.BudgetPolicy](s.site, 200, "PUT", path, map[string]any{"at_limit": "answer", "answer_text": "Volto já!"}); p != want1 {
			s.Errorf("changed %+v", p)
		}
		if p := want[dashboard.BudgetPolicy](s.site, 200, "GET", path, nil); p != want1 {
			s.Errorf("shown %+v", p)
		}
		if actions, _ := s.audited(); !slices.Equal(actions, []string{"budget.policy", "budget.policy"}) {
			s.Errorf("audited %v", actions)
		}
	})
}

// busy is a store where somebody else writes first, so many times.
type busy struct {
	dashboard.BudgetStore
	conflicts int
	err       error
}

func (b *busy) UpdateBudget(ctx context.Context, changed budget.Budget) (budget.Budget, error) {
	if b.conflicts--; b.conflicts >= 0 {
		other := changed
		other.Debt, other.Limit = true, 7
		other.UpdatedAt = time.Time{}
		if _, err := b.BudgetStore.UpdateBudget(ctx, other); err != nil {
			return other, err
		}
	}
	return b.BudgetStore.UpdateBudget(ctx, changed)
}

func (b *busy) Budgets(ctx context.Context, client *uuid.UUID) ([]budget.Budget, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.BudgetStore.Budgets(ctx, client)
}

// A change that meets another one is made again on top of it, so that neither is lost.
func TestChangesThatMeet(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		b := s.make("tokens", "daily", "5", nil)
		path := budgetsPath + "/" + b.ID.String()
		for conflicts, status := range map[int]int{0: 200, 1: 200, 3: 200, 4: 409} {
			store := &busy{BudgetStore: fixedPast{s.store, s}, conflicts: conflicts}
			other := newSite(s.T, s.tenants, s.ledger, func(o *dashboard.Options) {
				o.Budgets = &dashboard.Budgets{Store: store, Authority: s.authority}
			})
			if status == 409 {
				want[problem](other, 409, "PUT", path, map[string]any{"budget_limit": "9"})
				continue
			}
			after := want[dashboard.Budget](other, 200, "PUT", path, map[string]any{"budget_limit": "9", "debt": false})
			if after.Limit != "9" || after.Debt {
				s.Errorf("after %d changes of others: %+v", conflicts, after)
			}
		}
	})
}

func TestWhatFailsInsideBudgetsStaysInside(t *testing.T) {
	s := budgetSQLite(t)
	for _, c := range []struct {
		err    error
		status int
		hint   string
	}{
		{fmt.Errorf("dial postgres://u:hunter2@db: %w", budget.ErrUnavailable), 503, "catraca doctor"},
		{errors.New("dial postgres://u:hunter2@db"), 500, "the log has it under fault "},
	} {
		other := newSite(s.T, s.tenants, s.ledger, func(o *dashboard.Options) {
			o.Budgets = &dashboard.Budgets{Store: &busy{BudgetStore: fixedPast{s.store, s}, err: c.err}, Authority: s.authority}
		})
		for _, path := range []string{budgetsPath, usagePath} {
			if p := want[problem](other, c.status, "GET", path, nil); !strings.Contains(p.Detail, c.hint) || strings.Contains(other.bodies.String(), "hunter2") {
				t.Errorf("%v: %s", c.err, &other.bodies)
			}
		}
		// What cmd does not hand over is not there.
		want[problem](other, 404, "GET", "/api/cron/check-budget-alerts", nil)
		want[problem](other, 404, "POST", "/api/budget/policy/"+s.client.ID.String()+"/webhook-secret", nil)
	}
}

func TestWebhookSecret(t *testing.T) {
	s := budgetSQLite(t)
	path := func(client uuid.UUID) string { return "/api/budget/policy/" + client.String() + "/webhook-secret" }
	if got := want[dashboard.WebhookSecret](s.site, 200, "POST", path(s.client.ID), nil); got.Secret != "whsec_of_"+s.client.ID.String() {
		t.Errorf("%+v", got)
	}
	if got := want[dashboard.WebhookSecret](s.site, 200, "POST", path(uuid.Nil), nil); got.Secret != "whsec_of_" {
		t.Errorf("over all clients: %+v", got)
	}
	want[problem](s.site, 404, "POST", path(uuid.New()), nil)
	want[problem](s.site, 405, "GET", path(s.client.ID), nil)
	actions, lines := s.audited()
	if text, _ := json.Marshal(lines); len(actions) != 2 || actions[0] != "budget.webhook_secret" || strings.Contains(string(text), "whsec") {
		t.Errorf("audited %s", text)
	}
}

func TestWhatAPolicyCannotBe(t *testing.T) {
	s := budgetSQLite(t)
	off := want[dashboard.Model](s.site, 201, "POST", modelsPath, map[string]any{"provider": "acme", "model_name": "off-1"})
	want[dashboard.Model](s.site, 200, "PATCH", modelsPath+"/"+off.ID.String(), map[string]any{"is_active": false})
	path := "/api/budget/policy/" + s.client.ID.String()
	for _, c := range []struct {
		path, body string
		status     int
		hint       string
	}{
		{path, `{"at_limit":"shrug"}`, 422, "at_limit"},
		{path, `{"at_limit":"downgrade"}`, 422, "is missing"},
		{path, `{"downgrade_model":"gpt-9"}`, 422, `no model \"gpt-9\"`},
		{path, `{"downgrade_model":"` + off.GatewayID + `"}`, 422, "is not active"},
		{path, `{"answer_text":"` + strings.Repeat("á", 1001) + `"}`, 422, "2002 bytes"},
		{path, `{"output_cap":-1}`, 422, "must be from 0"},
		{path, `{"tail_calls":1001}`, 422, "to 1000"},
		{path, `{"tail_percent":0}`, 422, "from 1 to 50"},
		{path, `{"tail_percent":51}`, 422, "from 1 to 50"},
		{path, `{"conversation_calls_per_hour":-1}`, 422, "must be from 0"},
		{path, `{"conversation_brl_per_hour":"-1"}`, 422, "must not be less than 0"},
		{path, `{"contact_brl_per_hour":"x"}`, 422, "decimal number"},
		{path, `{"conversation_brl":"1"}`, 422, "unexpected property"},
		{"/api/budget/policy/" + uuid.NewString(), `{}`, 404, "no such client"},
		{"/api/budget/policy/" + uuid.Nil.String(), `{}`, 404, "no such client"},
	} {
		if code, text := s.do("PUT", c.path, c.body); code != c.status || !strings.Contains(string(text), c.hint) {
			t.Errorf("%s:\n got %d %s\nwant %d … %s", c.body, code, text, c.status, c.hint)
		}
	}
	p := want[problem](s.site, 422, "PUT", path, map[string]any{"answer_text": strings.Repeat("x", 2001), "output_cap": -1, "downgrade_model": "nope", "contact_brl_per_hour": "x"})
	if len(p.Errors) != 4 {
		t.Errorf("said %+v", p.Errors)
	}
	want[problem](s.site, 404, "GET", "/api/budget/policy/"+uuid.NewString(), nil)
	if got := want[dashboard.BudgetPolicy](s.site, 200, "GET", path, nil); got.AtLimit != "block" || got.OutputCap != 0 {
		t.Errorf("a refused change was made: %+v", got)
	}
}

func TestNobodyGetsToBudgetsWithoutTheToken(t *testing.T) {
	s := budgetSQLite(t)
	routes := 0
	for path, item := range document(s.site).Paths {
		if !strings.HasPrefix(path, "/api/budget") && !strings.HasPrefix(path, "/api/cron") {
			continue
		}
		for method := range item {
			routes++
			real := strings.NewReplacer("{id}", uuid.NewString(), "{client_id}", uuid.NewString()).Replace(path)
			tokens := []string{"", "Bearer", "Bearer wrong", "Basic " + adminToken, "Bearer " + adminToken + "x"}
			if !strings.HasPrefix(path, "/api/cron/") {
				tokens = append(tokens, "Bearer "+cronToken)
			} else {
				tokens = append(tokens, "Basic "+cronToken, "Bearer "+cronToken[1:], cronToken)
			}
			for _, header := range tokens {
				r := httptest.NewRequest(strings.ToUpper(method), real, nil)
				r.Header.Set("Authorization", header)
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, r)
				if w.Code != 401 || w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s with %q: %d %s", method, path, header, w.Code, w.Body)
				}
			}
		}
	}
	if routes != 23 {
		t.Errorf("%d routes", routes)
	}
	if s.cronRuns != 0 {
		t.Error("something ran")
	}
}

func TestCronRoutes(t *testing.T) {
	everyBudgetStore(t, func(s *budgetSite) {
		s.make("tokens", "daily", "100", nil)
		for _, method := range []string{"GET", "POST"} {
			for _, token := range []string{adminToken, cronToken} {
				for path, words := range map[string]string{"/api/cron/check-budget-alerts": `"windows":7`, "/api/cron/reset-budget-periods": `"shown":`} {
					r := httptest.NewRequestWithContext(s.Context(), method, path, nil)
					r.Header.Set("Authorization", "bearer "+token)
					w := httptest.NewRecorder()
					s.handler.ServeHTTP(w, r)
					if w.Code != 200 || !strings.Contains(w.Body.String(), words) || w.Header().Get("Cache-Control") != "no-store" {
						s.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
					}
				}
			}
		}
		if s.cronRuns != 4 {
			s.Errorf("ran %d times", s.cronRuns)
		}
		if windows, err := s.store.History(s.Context(), want[dashboard.BudgetList](s.site, 200, "GET", budgetsPath, nil).Budgets[0].ID, 5); err != nil || len(windows) != 1 {
			s.Errorf("%d periods, %v", len(windows), err)
		}
	})
}

func TestBudgetsAreInTheDocument(t *testing.T) {
	s := budgetSQLite(t)
	doc := document(s.site)
	var listed []string
	ids := map[string]bool{}
	for path, item := range doc.Paths {
		for method, op := range item {
			if ids[op.OperationID] || op.Summary == "" {
				t.Errorf("%s %s: id %q, summary %q", method, path, op.OperationID, op.Summary)
			}
			ids[op.OperationID] = true
			if strings.HasPrefix(path, "/api/budget") || strings.HasPrefix(path, "/api/cron") {
				listed = append(listed, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(listed)
	want := []string{
		"DELETE /api/budget/config/{id}", "GET /api/budget/alerts", "GET /api/budget/config", "GET /api/budget/config/{id}", "GET /api/budget/config/{id}/journal",
		"GET /api/budget/config/{id}/windows", "GET /api/budget/current-usage", "GET /api/budget/policy/{client_id}", "GET /api/cron/check-budget-alerts",
		"GET /api/cron/reset-budget-periods", "POST /api/budget/config", "POST /api/budget/policy/{client_id}/webhook-secret", "POST /api/budget/suspend", "POST /api/budget/what-if", "POST /api/budget/{id}/pause",
		"POST /api/budget/{id}/release", "POST /api/budget/{id}/resume", "POST /api/budget/{id}/top-up", "POST /api/cron/check-budget-alerts", "POST /api/cron/reset-budget-periods",
		"PUT /api/budget/config", "PUT /api/budget/config/{id}", "PUT /api/budget/policy/{client_id}",
	}
	if !slices.Equal(listed, want) {
		t.Errorf("listed %q", listed)
	}
	whole, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(whole), `"#/components/schemas/`)[1:] {
		if name, _, _ := strings.Cut(part, `"`); doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is referred to and not there", name)
		}
	}
	for _, name := range []string{"BudgetNew", "BudgetSet", "BudgetChange"} {
		if !strings.Contains(string(doc.Components.Schemas[name]), "notification_webhook") {
			t.Errorf("schema %s lacks the settings: %s", name, doc.Components.Schemas[name])
		}
	}
}
