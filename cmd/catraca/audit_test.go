package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/simulator"
	"github.com/catraca/catraca/metering"
)

// auditSite is an admin API that only knows its meter, with three calls in the ledger and one on the way.
func auditSite(t *testing.T) (*testSite, metering.Fleet) {
	s := newTestSite(t)
	var token Secret
	cfg, err := LoadConfig(s.environ)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err = cfg.withLocalSecrets(); err != nil {
		t.Fatal(err)
	}
	token = cfg.AdminToken
	server := httptest.NewServer(dashboard.New(dashboard.Options{
		Token: token.Reveal(), Tenants: s.st.tenants, Registry: s.st.usage, Usage: s.st.usage, Meter: s.st.usage.(dashboard.Meter),
	}))
	t.Cleanup(server.Close)
	s.environ = append(s.environ, "CATRACA_ADMIN_URL="+server.URL)
	var events []metering.Event
	for seq := range uint64(3) {
		events = append(events, metering.Event{
			Incarnation: 0xab, Seq: seq + 1, ClientID: uuid.New(), AdmittedAt: time.Now(), Endpoint: "chat.completions", Route: "gateway",
			Usage: metering.Usage{Source: metering.Measured, Input: 10, Output: 5, Total: 15},
			Cost:  metering.Cost{Known: true, GateKnown: true, USD: 7, GateUSD: 7, BRL: 35},
		})
	}
	if err := s.st.usage.Record(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	return s, s.st.usage.(metering.Fleet)
}

func reportOf(waiting metering.Ranges, last uint64) []metering.ProxyReport {
	return []metering.ProxyReport{{
		Name: "pod-1", Version: "v3", StartedAt: time.Now(), Depth: int(waiting.Count()), MaxBytes: 100, Bytes: 7,
		Logs: []metering.LogReport{{Incarnation: 0xab, Last: last, Live: true, Waiting: waiting}},
	}}
}

func TestAuditCommand(t *testing.T) {
	s, fleet := auditSite(t)
	holds := func(code int, says string, args ...string) string {
		t.Helper()
		out, got := s.run(append([]string{"audit"}, args...)...)
		if got != code || !strings.Contains(out, says) {
			t.Errorf("audit %v: exit %d, want %d with %q:\n%s", args, got, code, says, out)
		}
		return out
	}
	holds(0, "Everything adds up: unaccounted 0")
	holds(0, "not checked", "--recent") // the rows
	holds(2, "--help", "--recent", "--full")

	var issued simulator.Stats
	issued.Since = time.Now().Add(-time.Hour)
	issued.Total.Issued = simulator.Amounts{Input: 30, Output: 15, Total: 45, CostUSD: "0.000000000021"}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_stats" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(issued)
	}))
	defer upstream.Close()
	holds(0, "I2-usd", "--simulator", upstream.URL)
	issued.Total.Issued.Cached = 1
	holds(1, "I2-cached", "--simulator", upstream.URL)
	issued.Open = 1
	holds(2, "still going on", "--simulator", upstream.URL)
	holds(2, "no simulator", "--simulator", upstream.URL+"/x")
	holds(2, "does not answer", "--simulator", "http://127.0.0.1:1")

	if err := fleet.Report(t.Context(), reportOf(metering.Ranges{{6, 6}}, 6)); err != nil {
		t.Fatal(err)
	}
	out := holds(1, "does NOT add up: unaccounted 2, on the way 1")
	if !strings.Contains(out, "00000000000000ab  2      4-5      pod-1") {
		t.Errorf("the gap is not named:\n%s", out)
	}
	var report dashboard.MeterAudit
	if err := json.Unmarshal([]byte(holds(1, "{", "--json")), &report); err != nil || report.Unaccounted != 2 {
		t.Errorf("%v: %+v", err, report)
	}
	if out, code := s.run("proxies"); code != 0 || !strings.Contains(out, "pod-1  live   v3") || !strings.Contains(out, "behind)") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	s.environ = append(s.environ, "CATRACA_ADMIN_URL=http://127.0.0.1:1")
	holds(2, "no Catraca answers")
}

// TestAuditAllowsForEstimates holds that a call that was cut short may differ, and that nothing else may.
func TestAuditAllowsForEstimates(t *testing.T) {
	stats := simulator.Stats{}
	stats.Total.Issued = simulator.Amounts{Input: 30, Output: 17, Total: 47, CostUSD: "0.5"}
	report := dashboard.MeterAudit{Totals: map[string]dashboard.MeterTotal{
		"measured":  {Calls: 2, InputTokens: 20, OutputTokens: 10, TotalTokens: 30, CostUSD: "0.3"},
		"estimated": {Calls: 1, InputTokens: 11, OutputTokens: 5, TotalTokens: 16, CostUSD: "0.19"},
	}}
	broken := func() (ids string) {
		checks, err := compareIssued(&stats, &report)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			if !c.Holds {
				ids += c.ID + " "
			}
		}
		return ids
	}
	if got := broken(); got != "" {
		t.Errorf("broken: %s", got)
	}
	stats.Total.Issued.Output = 9 // less than what was measured alone
	if got := broken(); got != "I2-output " {
		t.Errorf("broken: %s", got)
	}
	stats.Total.Issued.Output = 17
	report.Totals["estimated"] = dashboard.MeterTotal{}
	if got := broken(); got != "I2-input I2-output I2-total I2-usd " {
		t.Errorf("broken: %s", got)
	}
}

func TestAuditGauges(t *testing.T) {
	reg := prometheus.NewRegistry()
	set := watchAudit(reg)
	read := func() map[string]float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				values[name] = m.GetGauge().GetValue()
			}
		}
		return values
	}
	if got := read(); len(got) > 0 {
		t.Errorf("before the first audit: %v", got)
	}
	set(metering.AuditReport{
		At: time.Now().Add(-time.Minute), Unaccounted: 3, Silent: 2, OnTheWay: 1,
		Checks: []metering.AuditCheck{{ID: "I1"}, {ID: "I3", Holds: true}, {ID: "I1-rows", Holds: true, Skipped: true}},
	})
	got := read()
	age := got["catraca_audit_age_seconds"]
	delete(got, "catraca_audit_age_seconds")
	want := map[string]float64{
		"catraca_audit_unaccounted": 3, "catraca_audit_silent": 2, "catraca_audit_on_the_way": 1, "catraca_audit_holds I1": 0, "catraca_audit_holds I3": 1,
	}
	if len(got) != len(want) || age < 60 || age > 90 {
		t.Errorf("%v, age %v", got, age)
	}
	for name, v := range want {
		if got[name] != v {
			t.Errorf("%s is %v, want %v", name, got[name], v)
		}
	}
}
