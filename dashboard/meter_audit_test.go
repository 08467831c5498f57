package dashboard_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

// withMeter is a site whose ledger can be audited.
func withMeter(s *site) *site {
	return newSite(s.T, s.tenants, s.ledger, func(o *dashboard.Options) { o.Meter = s.ledger.(dashboard.Meter) })
}

func TestMeterAudit(t *testing.T) {
	everyStore(t, func(s *site) {
		if code, _ := s.do("GET", "/api/ai-gateway/audit", nil); code != 404 {
			s.Errorf("without a ledger: %d", code)
		}
		if code, _ := s.do("GET", "/api/ai-gateway/proxies", nil); code != 404 {
			s.Errorf("without a ledger: %d", code)
		}
		s = withMeter(s)
		event := func(seq uint64) metering.Event {
			return metering.Event{
				Incarnation: 0xab, Seq: seq, ClientID: uuid.New(), AdmittedAt: time.Now(), Endpoint: "chat.completions", Route: "gateway",
				Usage: metering.Usage{Source: metering.Measured, Input: 10, Output: 5, Total: 15},
				Cost:  metering.Cost{Known: true, GateKnown: true, USD: 7, GateUSD: 7, BRL: 35},
			}
		}
		if err := s.ledger.Record(s.Context(), []metering.Event{event(1), event(2), event(4)}); err != nil {
			s.Fatal(err)
		}
		fleet := s.ledger.(metering.Fleet)
		report := metering.ProxyReport{
			Name: "pod-1", Version: "v3", StartedAt: noon, ConfigVersion: 0, Open: 1, Depth: 2, Oldest: 3 * time.Second, Bytes: 5, MaxBytes: 50,
			Logs: []metering.LogReport{{Incarnation: 0xab, Last: 6, Live: true, Open: metering.Ranges{{3, 3}}, Waiting: metering.Ranges{{5, 6}}}},
		}
		if err := fleet.Report(s.Context(), []metering.ProxyReport{report}); err != nil {
			s.Fatal(err)
		}
		for _, query := range []string{"", "?depth=recent", "?since=2026-01-01T00:00:00Z"} {
			got := want[dashboard.MeterAudit](s, 200, "GET", "/api/ai-gateway/audit"+query, nil)
			if !got.Holds || got.Unaccounted != 0 || got.OnTheWay != 3 || len(got.Checks) < 8 || got.Totals["measured"].TotalTokens != 45 || got.Totals["measured"].CostUSD != "0.000000000021" {
				s.Errorf("%q: %+v", query, got)
			}
		}
		report.Logs[0].Open = nil
		if err := fleet.Report(s.Context(), []metering.ProxyReport{report}); err != nil {
			s.Fatal(err)
		}
		got := want[dashboard.MeterAudit](s, 200, "GET", "/api/ai-gateway/audit?totals_since=2126-01-01T00:00:00Z", nil)
		if got.Holds || got.Unaccounted != 1 || len(got.Gaps) != 1 || got.Totals["measured"].Calls != 0 {
			s.Fatalf("%+v", got)
		}
		if g := got.Gaps[0]; g.Incarnation != "00000000000000ab" || g.Numbers != "3" || g.Proxy != "pod-1" || g.State != "unaccounted" || g.Heard.IsZero() {
			s.Errorf("%+v", g)
		}
		if code, _ := s.do("GET", "/api/ai-gateway/audit?depth=deep", nil); code != 422 {
			s.Errorf("an unknown depth: %d", code)
		}

		list := want[dashboard.Fleet](s, 200, "GET", "/api/ai-gateway/proxies", nil)
		if len(list.Proxies) != 1 || list.ConfigVersion == 0 {
			s.Fatalf("%+v", list)
		}
		p := list.Proxies[0]
		if p.State != "live" || p.Name != "pod-1" || p.ConfigBehind != list.ConfigVersion || p.SpoolDepth != 2 || p.SpoolOldestMs != 3000 || len(p.Logs) != 1 || p.Logs[0].Waiting != 2 {
			s.Errorf("%+v", p)
		}
		report.Stopped = true
		if err := fleet.Report(s.Context(), []metering.ProxyReport{report}); err != nil {
			s.Fatal(err)
		}
		if list = want[dashboard.Fleet](s, 200, "GET", "/api/ai-gateway/proxies", nil); list.Proxies[0].State != "stopped" {
			s.Errorf("%+v", list.Proxies)
		}
		if list = want[dashboard.Fleet](s, 200, "GET", "/api/ai-gateway/proxies?since=2126-01-01T00:00:00Z", nil); len(list.Proxies) != 0 {
			s.Errorf("%+v", list.Proxies)
		}
	})
}
