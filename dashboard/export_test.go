package dashboard_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

func TestExportAtTheAPI(t *testing.T) {
	everyLedger(t, func(s *site, _ dashboard.Ledger) {
		clients := twoTenants(s)
		events := record(s, clients, 200)
		evil := events[0]
		evil.Seq, evil.ConversationID, evil.FallbackReason, evil.ModelServed = 900, `=HYPERLINK("http://evil.example","x")`, "@SUM(1)", "-2+3"
		if err := s.ledger.Record(s.Context(), []metering.Event{evil}); err != nil {
			s.Fatal(err)
		}
		sums := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil)
		code, text := s.do("GET", "/api/ai-gateway/export", nil)
		if code != 200 {
			s.Fatalf("%d: %s", code, text)
		}
		rows, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
		if err != nil || len(rows) != 202 {
			s.Fatalf("%d rows, %v", len(rows), err)
		}
		at := map[string]int{}
		for i, name := range rows[0] {
			at[name] = i
		}
		var usd, brl decimal.Decimal
		var input int64
		guarded := 0
		for _, row := range rows[1:] {
			if row[at["cost_known"]] == "true" {
				usd, brl = usd.Add(decimal.RequireFromString(row[at["cost_usd"]])), brl.Add(decimal.RequireFromString(row[at["cost_brl"]]))
			}
			n, err := strconv.ParseInt(row[at["input_tokens"]], 10, 64)
			if err != nil {
				s.Fatal(err)
			}
			input += n
			for _, field := range row {
				if strings.ContainsAny(field[:min(1, len(field))], "=+@\t\r") || strings.HasPrefix(field, "-") {
					s.Errorf("a spreadsheet would run %q", field)
				}
				if strings.HasPrefix(field, "'") {
					guarded++
				}
			}
		}
		if usd.String() != sums.Total.CostUSD || brl.String() != sums.Total.CostBRL || input != sums.Total.InputTokens || guarded != 3 {
			s.Errorf("the export has US$ %s, R$ %s, %d tokens and %d guarded fields; the sums %+v", usd, brl, input, guarded, sums.Total)
		}
		code, text = s.do("GET", "/api/ai-gateway/export?format=jsonl&client_id="+clients[1].String()+"&from="+noon.Add(-2*time.Hour).Format(time.RFC3339), nil)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if code != 200 || len(lines) != 6 {
			s.Fatalf("%d, %d lines: %s", code, len(lines), text)
		}
		last := ""
		for _, line := range lines {
			var c dashboard.ExportedCall
			if err := json.Unmarshal([]byte(line), &c); err != nil || c.ClientID != clients[1] || c.Client != "Outra" || c.RecordedAt.IsZero() || c.At.Format(time.RFC3339) < last {
				s.Errorf("%v: %s", err, line)
			}
			last = c.At.Format(time.RFC3339)
		}
		if code, text := s.do("GET", "/api/ai-gateway/export?client_id="+uuid.NewString(), nil); code != 200 || strings.Count(string(text), "\n") != 1 {
			s.Errorf("of nobody: %d %s", code, text)
		}
		for _, query := range []string{"format=xlsx", "from=2026-11-22T00:00:00Z&to=2026-11-21T00:00:00Z", "client_id=uma", "tenant=x"} {
			want[problem](s, 422, "GET", "/api/ai-gateway/export?"+query, nil)
		}
	})
}

// brokenLedger breaks off after some rows.
type brokenLedger struct {
	dashboard.Ledger
	after int
}

func (b brokenLedger) Export(_ context.Context, _ metering.ExportQuery, each func(*metering.UsageRow) error) error {
	for i := range b.after {
		if err := each(&metering.UsageRow{Event: metering.Event{RequestID: fmt.Sprint("req_", i)}}); err != nil {
			return err
		}
	}
	return errors.New("the database went away")
}

// An export that is not whole must not look like one.
func TestExportThatBreaksOff(t *testing.T) {
	tenants, ledger := onSQLite(t)
	for after, whole := range map[int]bool{0: true, 10: true, 5000: false} {
		s := newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Ledger = brokenLedger{after: after} })
		server := httptest.NewServer(s.handler)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/ai-gateway/export", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+adminToken)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatalf("after %d rows: %v; %s", after, err, &s.log)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		server.Close()
		if whole && (err != nil || response.StatusCode != 500 || response.Header.Get("Content-Type") != "application/problem+json" || strings.Contains(string(text), "went away")) {
			t.Errorf("after %d rows: %d, %v: %s", after, response.StatusCode, err, text)
		}
		if !whole && (err == nil || response.StatusCode != 200) {
			t.Errorf("after %d rows: %d, and %d bytes that look whole", after, response.StatusCode, len(text))
		}
		if !strings.Contains(s.log.String(), "went away") {
			t.Errorf("after %d rows the log says nothing of why", after)
		}
	}
}
