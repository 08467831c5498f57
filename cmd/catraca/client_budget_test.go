package main

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/notify"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// noForecast is a store that forecasts have nothing to go by: what is foreseen depends on the hour of the day.
type noForecast struct{ budgetStore }

func (noForecast) HourlyUsage(context.Context, uuid.UUID, budget.Unit, time.Time) ([]budget.UsagePoint, error) {
	return nil, nil
}

// budgetTestSite is a testSite whose API serves budgets, by the clock that is.
func budgetTestSite(t *testing.T) *testSite {
	t.Helper()
	s := newTestSite(t)
	token, err := os.ReadFile(filepath.Join(strings.TrimPrefix(s.environ[0], "CATRACA_DATA_DIR="), "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	authority := budget.NewAuthority(s.st.budgets, budget.AuthorityOptions{})
	server := httptest.NewServer(dashboard.New(dashboard.Options{
		Token: strings.TrimSpace(string(token)), Tenants: s.st.tenants, Registry: s.st.usage, Usage: s.st.usage, Auditor: s.st.tenants, Rates: testRate{}, Version: "test",
		Settings: dashboard.Settings{Embedded: true, TimeZone: "America/Sao_Paulo", UnknownModelPolicy: tenancy.RefuseUnknown},
		Budgets: &dashboard.Budgets{
			Store: noForecast{s.st.budgets}, Authority: authority, CheckURL: (&notify.Rules{}).CheckURL, CheckAddress: notify.CheckAddress,
			WebhookSecret: func(client string) string { return "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" },
			CheckAlerts: func(ctx context.Context) (budget.AlertsReport, error) {
				return budget.CheckAlerts(ctx, s.st.budgets, nil)
			},
		},
	}))
	t.Cleanup(server.Close)
	s.environ[len(s.environ)-1] = "CATRACA_ADMIN_URL=" + server.URL
	return s
}

// steadyBudgets takes out of an output what differs from run to run: most times are of the day that is, and have one
// length each.
func steadyBudgets(out, dir string) string {
	out = steady(out, dir)
	for _, r := range [][2]string{
		{`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d -0\d`, "2026-11-22 10:00:00 -03"},
		{`20\d\d-\d\d-\d\d \d\d:\d\d -0\d`, "2026-11-22 10:00 -03"},
		{`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d`, "2026-11-22 10:00:00"},
		{`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d-0\d:00`, "2026-11-22T10:00:00-03:00"},
	} {
		out = regexp.MustCompile(r[0]).ReplaceAllString(out, r[1])
	}
	return out
}

// callThisMonth records one call of a tenant, when the month began.
func (s *testSite) callThisMonth(tenant string, month time.Time) {
	s.Helper()
	all, err := s.st.tenants.Tenants(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	ev := metering.Event{
		Incarnation: 9, Seq: 77, RequestID: "req_1", Endpoint: "chat.completions", AdmittedAt: month.Add(time.Minute).UTC(), Status: 200,
		Usage: metering.Usage{Source: metering.Measured, Input: 12345, Output: 678, Total: 13023}, Cost: metering.Cost{Known: true, USD: 2_202_750_000, BRL: 11_331_386_550, Rate: ptaxOfFriday()},
	}
	for _, t := range all {
		if t.Name == tenant {
			ev.ClientID = t.ID
		}
	}
	if err := s.st.usage.Record(s.Context(), []metering.Event{ev}); err != nil {
		s.Fatal(err)
	}
}

// One session about budgets. `go test ./cmd/catraca -run BudgetSession -update` writes it anew.
func TestBudgetSession(t *testing.T) {
	s := budgetTestSite(t)
	var session strings.Builder
	zone, err := time.LoadLocation("America/Sao_Paulo")
	if err != nil {
		t.Fatal(err)
	}
	month := time.Now().In(zone)
	month = time.Date(month.Year(), month.Month(), 1, 0, 0, 0, 0, zone)
	starts := "--starts=" + month.Format(time.RFC3339)
	for _, line := range [][]string{
		{"tenant", "create", "Padaria São João"},
		{"tenant", "create", "Oficina"},
		{"budget", "list"},
		{"budget", "usage"},
		{"budget", "show", "Oficina"},
		{"budget", "set", "Padaria São João"},
		{"budget", "set", "Padaria São João", "--pause-at-limit"},
		{"budget", "set", "Padaria São João", "--type=brl", "--period=monthly", "--limit=0.02", "--pause-at-limit", starts, "--thresholds=50,75%", "--carry-over", "--carry-max=10"},
		{"budget", "set", "Padaria São João", "--type=tokens", "--period=daily", "--limit=1000000", "--no-alert-80", "--email=ana@example.com", "--webhook=https://hooks.example/alerts"},
		{"budget", "set", "Padaria São João", "--type=usd", "--period=daily", "--limit=-1", "--zone=Marte", "--billing-day=40", "--thresholds=0", "--email=nobody", "--webhook=http://localhost"},
		{"budget", "set", "Padaria São João", "--thresholds=half"},
		{"budget", "set", "Padaria São João", "--limit=5"},
		{"budget", "set", "Padaria São João", "--type=eur", "--limit=5"},
		{"budget", "set", "all", "--type=tokens", "--period=weekly", "--limit=5000000", "--zone=America/Sao_Paulo"},
		{"budget", "set", "Oficina", "--only", "--type=brl", "--period=monthly", "--limit=100", "--billing-day=10"},
		{"budget", "set", "Oficina", "--limit=150.50", "--debt"},
		{"budget", "set", "Oficina", "--only", "--type=usd", "--period=weekly", "--limit=30"},
		{"budget", "list"},
		{"budget", "list", "Padaria São João"},
		{"usage"}, // here the calls come
		{"budget", "usage"},
		{"budget", "usage", "all"},
		{"budget", "show", "Padaria São João"},
		{"budget", "show", "Padaria São João", "--type=brl"},
		{"budget", "show", "Padaria São João", "--type=usd"},
		{"budget", "history", "Padaria São João", "--period=monthly"},
		{"budget", "alerts"},
		{"budget", "alerts", "Oficina"},
		{"budget", "top-up", "Padaria São João", "50", "--period=monthly", "--reason=pago por fora"},
		{"budget", "top-up", "Padaria São João", "0", "--period=monthly", "--reason=x"},
		{"budget", "journal", "Padaria São João", "--period=monthly"},
		{"budget", "journal", "Oficina"},
		{"budget", "pause", "Oficina"},
		{"budget", "pause", "Oficina", "--reason=fatura em aberto"},
		{"budget", "usage", "Oficina"},
		{"budget", "resume", "Oficina", "--reason=pago"},
		{"budget", "release", "Oficina", "--reason=conferido"},
		{"budget", "suspend", "77", "--reason=x"},
		{"budget", "policy", "Oficina"},
		{"budget", "policy", "Oficina", "--at-limit=downgrade"},
		{"budget", "policy", "Oficina", "--at-limit=downgrade", "--downgrade-model=gpt-4o-mini", "--tail-calls=3", "--conversation-calls=60", "--conversation-brl=2.50", "--output-cap=1024", "--fit-output"},
		{"budget", "policy", "all"},
		{"budget", "secret", "Oficina"},
		{"budget", "delete", "Oficina"},
		{"budget", "delete", "Oficina", "--yes"},
		{"budget", "show", "Farmácia"},
	} {
		if line[0] == "usage" {
			s.callThisMonth("Padaria São João", month)
			continue
		}
		out, code := s.run(line...)
		words := make([]string, len(line))
		for i, w := range line {
			words[i] = shellWord(w)
		}
		session.WriteString("$ catraca " + strings.Join(words, " ") + "\n" + out)
		if code != 0 {
			session.WriteString("[exit " + string(rune('0'+code)) + "]\n")
		}
		session.WriteByte('\n')
	}
	text := strings.ReplaceAll(session.String(), month.Format(time.RFC3339), "2026-11-22T10:00:00-03:00")
	golden(t, "budget_session.txt", steadyBudgets(text, strings.TrimPrefix(s.environ[0], "CATRACA_DATA_DIR=")))
}

// What-if has times of its own, so its golden file is exact.
func TestBudgetWhatIfSession(t *testing.T) {
	s := budgetTestSite(t)
	if out, code := s.run("tenant", "create", "Padaria"); code != 0 {
		t.Fatal(out)
	}
	tenants, err := s.st.tenants.Tenants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.calls(tenants[0].ID)
	var session strings.Builder
	span := []string{"--from=2026-11-21", "--to=2026-11-23"}
	for _, line := range [][]string{
		{"--type=brl", "--period=daily", "--limit=0.0112"},
		{"--type=brl", "--period=daily", "--limit=1"},
		{"--type=tokens", "--period=daily", "--limit=20000"},
		{"--type=tokens", "--period=daily", "--limit=20000", "--no-pause-at-limit"},
		{"--type=tokens", "--period=daily", "--limit=20000", "--carry-over", "--zone=Asia/Tokyo"},
		{"--type=tokens", "--period=weekly", "--limit=0"},
		{"--type=tokens", "--period=hourly", "--limit=5"},
	} {
		args := append(append([]string{"budget", "what-if", "Padaria"}, line...), span...)
		out, code := s.run(args...)
		session.WriteString("$ catraca " + strings.Join(args, " ") + "\n" + out)
		if code != 0 {
			session.WriteString("[exit " + string(rune('0'+code)) + "]\n")
		}
		session.WriteByte('\n')
	}
	golden(t, "budget_what_if.txt", session.String())
	s.says(1, "--from: write a day", "budget", "what-if", "all", "--type=brl", "--period=daily", "--limit=5", "--from=gestern")
	s.says(0, "0 calls", "budget", "what-if", "all", "--type=brl", "--period=monthly", "--limit=5", "--from=2026-10-01", "--to=2026-11-01")
}

func TestBudgetJSONOutputs(t *testing.T) {
	s := budgetTestSite(t)
	s.run("tenant", "create", "Uma")
	for _, line := range []string{
		"budget list", "budget usage", "budget set Uma --type tokens --period daily --limit 100", "budget show Uma", "budget set Uma --limit 200", "budget usage Uma", "budget history Uma",
		"budget journal Uma", "budget alerts", "budget policy Uma", "budget policy Uma --at-limit answer", "budget pause Uma --reason x", "budget resume Uma --reason x",
		"budget top-up Uma 5 --reason x", "budget what-if Uma --type tokens --limit 5 --period daily", "budget release Uma --reason x", "budget delete Uma --yes",
	} {
		out, code := s.run(append(strings.Fields(line), "--json")...)
		if code != 0 || !json.Valid([]byte(out)) || out == "null\n" {
			t.Errorf("%s: exit %d\n%s", line, code, out)
		}
	}
}

// A budget is found by its id, by its client, and where there are several by type and period.
func TestBudgetIsFound(t *testing.T) {
	s := budgetTestSite(t)
	s.run("tenant", "create", "Uma")
	var made dashboard.Budget
	out, _ := s.run("budget", "set", "Uma", "--type=brl", "--period=daily", "--limit=5", "--json")
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(out)
	}
	s.says(0, "R$ 5,00, daily", "budget", "show", made.ID.String())
	s.says(0, "R$ 5,00, daily", "budget", "show", made.ClientID.String())
	s.says(0, "R$ 5,00, daily", "budget", "show", "uma")
	s.says(1, "all clients has no budget", "budget", "show", "all")
	s.says(1, "no such tenant", "budget", "show", uuid.NewString())
	s.run("budget", "set", "Uma", "--type=brl", "--period=weekly", "--limit=20")
	s.says(1, "2 budgets: name one by --type and --period", "budget", "show", "Uma")
	s.says(0, "R$ 20,00, weekly", "budget", "show", "Uma", "--period=weekly")
	s.says(2, "--type must be one of", "budget", "show", "Uma", "--type=eur")
}

func TestBudgetHelp(t *testing.T) {
	var all strings.Builder
	for _, line := range []string{"budget", "budget set", "budget what-if", "budget top-up"} {
		out, code := (&testSite{T: t}).run(append(strings.Fields(line), "--help")...)
		if code != 0 {
			t.Errorf("%s: exit %d", line, code)
		}
		all.WriteString("$ catraca " + line + " --help\n" + out + "\n")
	}
	golden(t, "budget_help.txt", all.String())
}

func TestForecastAndAttemptsInWords(t *testing.T) {
	at := time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC)
	u := dashboard.BudgetUsage{TimeZone: "America/Sao_Paulo", Forecast: []dashboard.Forecast{{Threshold: 90, At: at}, {Threshold: 100, At: at.Add(time.Hour)}}}
	if text := forecastText(&u); text != "90 % 2026-11-26 15:00 -03, 100 % 2026-11-26 16:00 -03" {
		t.Error(text)
	}
	a := dashboard.BudgetAlert{Attempts: []budget.Attempt{
		{Channel: "webhook", Try: 1, Error: "503"},
		{Channel: "email", Try: 1, Error: "refused"},
		{Channel: "webhook", Try: 2, Done: true, Status: 204},
		{Channel: "email", Try: 2, Error: "refused"},
		{Channel: "default_email", Try: 7, Error: "refused", Done: true},
	}}
	if text := told(&a); text != "webhook, email: try 2 failed, default_email: given up after 7" {
		t.Error(text)
	}
}
