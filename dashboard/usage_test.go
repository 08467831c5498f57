package dashboard_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

// record puts calls of two tenants into the ledger, one every ten minutes back from noon.
func record(s *site, clients [2]uuid.UUID, n int) []metering.Event {
	s.Helper()
	catalog, err := s.ledger.LoadCatalog(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	model := catalog.Lookup("openai/gpt-4o-mini")
	var events []metering.Event
	for i := range n {
		ev := metering.Event{
			Incarnation: 7, Seq: uint64(i + 1), RequestID: fmt.Sprintf("req_%03d", i), ClientID: clients[i%2], Endpoint: "chat.completions",
			Route: "gateway", Provider: "openai", ModelAsked: "gpt-4o-mini", ModelServed: "gpt-4o-mini-2024-07-18", ModelID: model.ID,
			AdmittedAt: noon.Add(-time.Duration(i) * 10 * time.Minute), LatencyMs: 800, TTFTMs: 200, Outcome: metering.OK, Status: 200,
			Usage: metering.Usage{Source: metering.Measured, Input: 100, Output: 10, Total: 110, Cached: 25},
			Cost: metering.Cost{
				Known: true, ListKnown: true, USD: pico(s.T, "0.000021"), ListUSD: pico(s.T, "0.000021"), BRL: pico(s.T, "0.000108028200"),
				Rate: metering.ExchangeRate{Rate: 514_420_000, Date: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"},
			},
		}
		switch i {
		case 1:
			ev.Outcome, ev.Status, ev.ErrorCode = metering.Refused, 429, "rate_limit_exceeded"
			ev.Usage, ev.Cost = metering.Usage{}, metering.Cost{Known: true}
		case 2:
			ev.Outcome, ev.Usage.Source = metering.ClientGone, metering.Estimated
		case 3:
			ev.Cost = metering.Cost{}
		}
		events = append(events, ev)
	}
	if err := s.ledger.Record(s.Context(), events); err != nil {
		s.Fatal(err)
	}
	return events
}

func twoTenants(s *site) (clients [2]uuid.UUID) {
	for i, name := range []string{"Uma", "Outra"} {
		clients[i] = want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": name}).ID
	}
	return clients
}

func TestCallsPageByPage(t *testing.T) {
	everyStore(t, func(s *site) {
		clients := twoTenants(s)
		events := record(s, clients, 23)
		var got []dashboard.Call
		pages := 0
		for cursor := ""; ; pages++ {
			page := want[dashboard.CallPage](s, 200, "GET", "/api/usage?limit=5&cursor="+url.QueryEscape(cursor), nil)
			got = append(got, page.Calls...)
			if cursor = page.Next; cursor == "" || pages > 10 {
				break
			}
		}
		if len(got) != len(events) || pages != 4 {
			s.Fatalf("%d calls on %d pages, want %d on 5", len(got), pages+1, len(events))
		}
		for i, c := range got {
			if c.RequestID != events[i].RequestID || !c.At.Equal(events[i].AdmittedAt) {
				s.Errorf("call %d is %s of %s, want %s", i, c.RequestID, c.At, events[i].RequestID)
			}
		}
		first := got[0]
		if first.Client != "Uma" || first.Model != "gpt-4o-mini-2024-07-18" || first.CostUSD != "0.000021" || first.CostBRL != "0.0001080282" || first.Source != "measured" ||
			first.Outcome != "ok" || first.InputTokens != 100 || first.OutputTokens != 10 || first.CachedTokens != 25 || first.Rate != "5.1442" ||
			first.RateDate != "2026-11-20" || first.RateSource != "ptax" || !first.CostKnown {
			s.Errorf("first %+v", first)
		}
		if c := got[1]; c.Outcome != "refused" || c.Status != 429 || c.ErrorCode != "rate_limit_exceeded" || c.Source != "none" || c.CostUSD != "0" {
			s.Errorf("refused %+v", c)
		}
		if c := got[2]; c.Outcome != "client_gone" || c.Source != "estimated" {
			s.Errorf("client gone %+v", c)
		}
		if c := got[3]; c.CostKnown || c.CostUSD != "" || c.CostBRL != "" {
			s.Errorf("of unknown cost %+v", c)
		}
		own := want[dashboard.CallPage](s, 200, "GET", "/api/usage?limit=1000&client_id="+clients[1].String(), nil)
		if len(own.Calls) != 11 {
			s.Errorf("%d calls of one tenant, want 11", len(own.Calls))
		}
		for _, c := range own.Calls {
			if c.ClientID != clients[1] || c.Client != "Outra" {
				s.Errorf("another tenant's call: %+v", c)
			}
		}
		query := url.Values{"from": {noon.Add(-30 * time.Minute).Format(time.RFC3339)}, "to": {noon.Format(time.RFC3339)}}
		if page := want[dashboard.CallPage](s, 200, "GET", "/api/usage?"+query.Encode(), nil); len(page.Calls) != 3 || page.Calls[0].RequestID != "req_001" {
			s.Errorf("from and to: %+v", page)
		}
		truth := events[2]
		truth.Usage = metering.Usage{Source: metering.Measured, Input: 100, Output: 7, Total: 107, Cached: 25}
		if err := s.ledger.Correct(s.Context(), truth); err != nil {
			s.Fatal(err)
		}
		corrected := want[dashboard.CallPage](s, 200, "GET", "/api/usage?limit=5", nil)
		i := slices.IndexFunc(corrected.Calls, func(c dashboard.Call) bool { return c.Outcome == "correction" })
		if i < 0 || corrected.Calls[i].Corrects != got[2].ID || corrected.Calls[i].OutputTokens != -3 {
			s.Errorf("with a correction %+v", corrected.Calls)
		}
		if sum := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil); sum.Total.Calls != 23 || sum.Total.Estimated != 0 || sum.Total.OutputTokens != 22*10-3 {
			s.Errorf("the sum with a correction %+v", sum.Total)
		}
	})
}

func TestSums(t *testing.T) {
	everyStore(t, func(s *site) {
		clients := twoTenants(s)
		events := record(s, clients, 200) // back to 03:50 the day before
		var usd, brl decimal.Decimal
		for _, e := range events {
			usd, brl = usd.Add(e.USD.Decimal()), brl.Add(e.BRL.Decimal())
		}
		all := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil)
		if all.Total.Calls != 200 || all.Total.Errors != 1 || all.Total.ClientGone != 1 || all.Total.Estimated != 1 || all.Total.UnknownCost != 1 ||
			all.Total.InputTokens != 19900 || all.Total.CachedPercent != "25.00" || all.Total.ErrorPercent != "0.50" || len(all.Groups) != 0 {
			s.Errorf("all %+v", all)
		}
		if all.Total.CostUSD != usd.String() || all.Total.CostBRL != brl.String() {
			s.Errorf("sum %s, %s; want %s, %s", all.Total.CostUSD, all.Total.CostBRL, usd, brl)
		}
		days := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary?group_by=day,client&time_zone=America/Sao_Paulo", nil)
		if len(days.Groups) != 4 {
			s.Fatalf("%d groups, want 2 days of 2 tenants: %+v", len(days.Groups), days.Groups)
		}
		if start := days.Groups[0].Start.Format(time.RFC3339); start != "2026-11-21T00:00:00-03:00" {
			s.Errorf("the first day begins %s", start)
		}
		names := map[string]int64{}
		for _, g := range days.Groups {
			names[g.Client] += g.Calls
		}
		if names["Uma"] != 100 || names["Outra"] != 100 {
			s.Errorf("by tenant %v", names)
		}
		if all.Total.Latency != nil {
			s.Errorf("quantiles that nobody asked for: %+v", all.Total.Latency)
		}
		slow := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary?group_by=client&quantiles=true", nil)
		if q := slow.Total.Latency; q == nil || q.P50Ms < 784 || q.P50Ms > 816 || q.P99Ms != q.P50Ms {
			s.Errorf("200 calls of 800 ms have %+v", q)
		}
		for _, g := range slow.Groups {
			if g.TTFT == nil || g.TTFT.P95Ms < 196 || g.TTFT.P95Ms > 204 {
				s.Errorf("%s: first bytes at 200 ms have %+v", g.Client, g.TTFT)
			}
		}
		models := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary?group_by=model", nil)
		if len(models.Groups) != 1 || models.Groups[0].Model != "openai/gpt-4o-mini" || models.Groups[0].Calls != 200 {
			s.Errorf("by model %+v", models.Groups)
		}
	})
}

func TestMetrics(t *testing.T) {
	everyStore(t, func(s *site) {
		clients := twoTenants(s)
		record(s, clients, 200)
		m := want[dashboard.Metrics](s, 200, "GET", "/api/ai-gateway/metrics", nil)
		// The last 24 hours, and the hour at whose very end they begin.
		if !m.From.Equal(noon.Add(-24*time.Hour)) || !m.To.Equal(noon) || m.TimeZone != "America/Sao_Paulo" || m.Total.Calls != 144 {
			s.Errorf("from %s to %s in %s: %d calls", m.From, m.To, m.TimeZone, m.Total.Calls)
		}
		if len(m.ByTime) != 24 || len(m.ByClient) != 2 || len(m.ByModel) != 1 || len(m.ByProvider) != 1 || len(m.ByRoute) != 1 || len(m.ByEndpoint) != 1 {
			s.Errorf("sides %d %d %d %d %d %d", len(m.ByTime), len(m.ByClient), len(m.ByModel), len(m.ByProvider), len(m.ByRoute), len(m.ByEndpoint))
		}
		for _, side := range [][]dashboard.Group{m.ByTime, m.ByClient, m.ByModel, m.ByProvider, m.ByRoute, m.ByEndpoint} {
			var calls int64
			for _, g := range side {
				calls += g.Calls
			}
			if calls != m.Total.Calls {
				s.Errorf("a side adds up to %d, all are %d", calls, m.Total.Calls)
			}
		}
		want[dashboard.Tenant](s, 200, "PATCH", "/api/tenants/"+clients[0].String(), map[string]any{"time_zone": "America/Rio_Branco"})
		own := want[dashboard.Metrics](s, 200, "GET", "/api/analytics/gateway?client_id="+clients[0].String(), nil)
		if own.TimeZone != "America/Rio_Branco" || len(own.ByClient) != 0 || own.Total.Calls != 99 || !own.From.Equal(noon.Add(-30*24*time.Hour)) {
			s.Errorf("of one tenant: %+v", own)
		}
		if len(own.ByTime) != 3 || own.ByTime[0].Start.Format(time.RFC3339) != "2026-11-20T00:00:00-05:00" {
			s.Errorf("in its own days: %+v", own.ByTime)
		}
	})
}

func TestWhatCannotBeAsked(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	for path, hint := range map[string]string{
		"/api/usage?limit=0":        "limit",
		"/api/usage?limit=1001":     "limit",
		"/api/usage?limit=x":        "limit",
		"/api/usage?client_id=uma":  "client_id",
		"/api/usage?from=yesterday": "from",
		"/api/usage?from=2026-11-22T00:00:00Z&to=2026-11-21T00:00:00Z": "exchange them",
		"/api/usage?tenant=x":               "unknown query parameter",
		"/api/usage?cursor=abc":             "cursor",
		"/api/usage/summary?group_by=phone": "group_by",
		"/api/usage/summary?time_zone=Mars": "IANA",
		"/api/analytics/gateway":            "client_id",
		"/api/ai-gateway/metrics?from=2026-11-22T00:00:00Z&to=2026-11-21T00:00:00Z": "exchange them",
	} {
		code, text := s.do("GET", path, nil)
		if code != 422 || !strings.Contains(string(text), hint) {
			t.Errorf("%s: %d %s, want 422 … %s", path, code, text, hint)
		}
	}
	want[problem](s, 404, "GET", "/api/analytics/gateway?client_id="+uuid.NewString(), nil)
	if s.log.Len() > 0 {
		t.Errorf("mistakes of callers are no news: %s", &s.log)
	}
}
