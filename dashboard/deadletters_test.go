package dashboard_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

// everyLedger runs a test over both stores, with what is done to a ledger over the years.
func everyLedger(t *testing.T, test func(*site, dashboard.Ledger)) {
	t.Run("sqlite", func(t *testing.T) {
		tenants, ledger := onSQLite(t)
		upkeep := ledger.(dashboard.Ledger)
		test(newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Ledger, o.Auditor = upkeep, tenants }), upkeep)
	})
	t.Run("postgres", func(t *testing.T) {
		tenants, ledger := onPostgres(t)
		upkeep := ledger.(dashboard.Ledger)
		test(newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Ledger, o.Auditor = upkeep, tenants }), upkeep)
	})
}

// changesOf lists the audit log's lines of an action.
func changesOf(s *site, action string) (lines []dashboard.Change) {
	s.Helper()
	for _, c := range want[dashboard.ChangePage](s, 200, "GET", "/api/audit?limit=1000", nil).Changes {
		if c.Action == action {
			lines = append(lines, c)
		}
	}
	return lines
}

const lettersPath = "/api/ai-gateway/dead-letters"

func TestDeadLettersAtTheAPI(t *testing.T) {
	everyLedger(t, func(s *site, _ dashboard.Ledger) {
		clients := twoTenants(s)
		events := record(s, clients, 3)
		// Three that were parked by an older release, which this one can record, and one that nobody can read.
		for i := range 3 {
			ev := events[0]
			ev.Seq = uint64(100 + i)
			if err := s.ledger.DeadLetter(s.Context(), ev.Append(nil), ev, "an older release could not record it"); err != nil {
				s.Fatal(err)
			}
		}
		if err := s.ledger.DeadLetter(s.Context(), []byte("\x00garbage"), metering.Event{}, "not an event"); err != nil {
			s.Fatal(err)
		}
		before := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil)
		page := want[dashboard.DeadLetterPage](s, 200, "GET", lettersPath+"?limit=3", nil)
		if len(page.Letters) != 3 || page.Next == "" || len(page.Claims) != 1 || page.Claims[0].Count != 4 || page.Claims[0].Unread != 1 || page.Claims[0].TotalTokens != "330" || page.Claims[0].CostUSD != "0.000063" {
			s.Fatalf("first page %+v", page)
		}
		rest := want[dashboard.DeadLetterPage](s, 200, "GET", lettersPath+"?limit=3&cursor="+url.QueryEscape(page.Next), nil)
		if len(rest.Letters) != 1 || rest.Next != "" {
			s.Fatalf("second page %+v", rest)
		}
		own := want[dashboard.DeadLetterPage](s, 200, "GET", lettersPath+"?reason=OLDER&client_id="+clients[0].String(), nil)
		if len(own.Letters) != 3 || own.Letters[0].CostUSD != "0.000021" || own.Letters[0].TotalTokens != 110 || own.Letters[0].State != "open" {
			s.Fatalf("by tenant and reason %+v", own)
		}
		first := lettersPath + "/" + own.Letters[0].ID
		whole := want[dashboard.DeadLetterWhole](s, 200, "GET", first, nil)
		if whole.Call == nil || whole.Call.Model != events[0].ModelServed || whole.Call.Client != "Uma" || whole.Unreadable != "" || !bytes.Contains(whole.Raw, []byte("chat.completions")) {
			s.Errorf("whole %+v", whole)
		}
		for i, outcome := range []string{"recorded", "settled"} {
			if r := want[dashboard.Replayed](s, 200, "POST", first+"/replay", nil); r.Outcome != outcome {
				s.Errorf("replay %d: %+v", i, r)
			}
		}
		discarded := want[dashboard.DeadLetter](s, 200, "POST", lettersPath+"/"+own.Letters[1].ID+"/discard", map[string]any{"reason": "a test of ours"})
		if discarded.State != "discarded" || discarded.Note != "a test of ours" || discarded.SettledAt.IsZero() {
			s.Errorf("discarded %+v", discarded)
		}
		want[problem](s, 409, "POST", lettersPath+"/"+own.Letters[1].ID+"/discard", map[string]any{"reason": "twice"})
		many := want[dashboard.ReplayedMany](s, 200, "POST", lettersPath+"/replay", nil)
		if many.Recorded != 1 || many.Refused != 1 || many.Had != 0 || many.Next != "" {
			s.Errorf("all others %+v", many)
		}
		after := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil)
		if after.Total.Calls != before.Total.Calls+2 || after.Total.InputTokens != before.Total.InputTokens+200 {
			s.Errorf("sums went from %+v to %+v", before.Total, after.Total)
		}
		for action, n := range map[string]int{"dead_letter.replay": 1, "dead_letter.discard": 1, "dead_letter.replay_many": 1} {
			lines := changesOf(s, action)
			if len(lines) != n || !strings.HasPrefix(lines[0].Actor, "admin:") {
				s.Errorf("%s is in the audit log as %+v", action, lines)
			}
		}
		for _, c := range []struct {
			method, path, body string
			status             int
		}{
			{"GET", lettersPath + "/x", "", 404},
			{"GET", lettersPath + "/0000000000000001.2.0011223344556677", "", 404},
			{"POST", lettersPath + "/0000000000000001.2.0011223344556677/replay", "", 404},
			{"POST", first + "/discard", `{"reason":"  "}`, 422},
			{"POST", first + "/discard", `{"reason":"late"}`, 409},
			{"GET", lettersPath + "?state=lost", "", 422},
			{"GET", lettersPath + "?cursor=abc", "", 422},
		} {
			var in any
			if c.body != "" {
				in = c.body
			}
			if code, text := s.do(c.method, c.path, in); code != c.status {
				s.Errorf("%s %s: %d, want %d: %s", c.method, c.path, code, c.status, text)
			}
		}
	})
}

func TestPersonsAtTheAPI(t *testing.T) {
	everyLedger(t, func(s *site, _ dashboard.Ledger) {
		clients := twoTenants(s)
		const number = "+55 11 98765-4321"
		raw := clients[1]
		want[dashboard.Tenant](s, 200, "PATCH", "/api/tenants/"+raw.String(), map[string]any{"raw_phones": true})
		events := record(s, clients, 1)
		var more []metering.Event
		for i, client := range clients {
			principal, err := s.tenants.PrincipalByClient(s.Context(), client)
			if err != nil {
				s.Fatal(err)
			}
			for j, phone := range []string{"5511987654321@s.whatsapp.net", "(11) 98765-4321", "+5521999998888", ""} {
				ev := events[0]
				ev.ClientID, ev.Seq = client, uint64(1000+10*i+j)
				ev.Phone, ev.ConversationID = principal.Phone([]byte(phone)), "c-"+phone
				if phone == "" {
					ev.ConversationID = "c-(11) 98765-4321"
				}
				more = append(more, ev)
			}
		}
		if err := s.ledger.Record(s.Context(), more); err != nil {
			s.Fatal(err)
		}
		before := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil)
		for _, client := range clients {
			path := "/api/ai-gateway/clients/" + client.String() + "/persons/"
			code, text := s.do("POST", path+"export", map[string]any{"phone": number})
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			if code != 200 || len(lines) != 3 {
				s.Fatalf("export of a person: %d, %d lines: %s", code, len(lines), text)
			}
			for _, line := range lines {
				var c dashboard.PersonCall
				if err := json.Unmarshal([]byte(line), &c); err != nil || c.ClientID != client || c.InputTokens != 100 {
					s.Errorf("%v: %s", err, line)
				}
			}
			if erased := want[dashboard.PersonErased](s, 200, "POST", path+"erase", map[string]any{"phone": number}); erased.Calls != 3 || erased.Letters != 0 {
				s.Errorf("erased %+v", erased)
			}
			if erased := want[dashboard.PersonErased](s, 200, "POST", path+"erase", map[string]any{"phone": "11 98765 4321"}); erased.Calls != 0 {
				s.Errorf("again %+v", erased)
			}
			if _, text := s.do("POST", path+"export", map[string]any{"phone": number}); len(text) != 0 {
				s.Errorf("the person is still there: %s", text)
			}
			want[problem](s, 422, "POST", path+"erase", map[string]any{"phone": " "})
		}
		want[problem](s, 404, "POST", "/api/ai-gateway/clients/"+uuid.NewString()+"/persons/erase", map[string]any{"phone": number})
		after := want[dashboard.Summary](s, 200, "GET", "/api/usage/summary", nil)
		if a, b := asText(s, after), asText(s, before); a != b {
			s.Errorf("sums\n got %s\nwant %s", a, b)
		}
		// By the pseudonym, as the log has it.
		principal, err := s.tenants.PrincipalByClient(s.Context(), clients[0])
		if err != nil {
			s.Fatal(err)
		}
		other := principal.Phone([]byte("+5521999998888"))
		if erased := want[dashboard.PersonErased](s, 200, "POST", "/api/ai-gateway/clients/"+clients[0].String()+"/persons/erase", map[string]any{"phone": other}); erased.Calls != 1 {
			s.Errorf("by pseudonym %+v", erased)
		}
		lines := changesOf(s, "person.erase")
		if len(lines) != 5 || lines[0].Subject != clients[0].String() {
			s.Errorf("in the audit log: %+v", lines)
		}
		for _, place := range []string{s.log.String(), asText(s, lines)} {
			if strings.Contains(place, "98765") || strings.Contains(place, "4321") {
				s.Errorf("the number was written down: %s", place)
			}
		}
	})
}

func asText(s *site, v any) string {
	s.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}

func TestUpkeepIsInTheDocument(t *testing.T) {
	tenants, ledger := onSQLite(t)
	upkeep := ledger.(dashboard.Ledger)
	with := document(newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Ledger = upkeep }))
	without := document(newSite(t, tenants, ledger))
	for path, methods := range map[string]string{
		lettersPath: "get", lettersPath + "/{id}": "get", lettersPath + "/{id}/replay": "post", lettersPath + "/replay": "post", lettersPath + "/{id}/discard": "post",
		"/api/ai-gateway/clients/{id}/persons/erase": "post", "/api/ai-gateway/clients/{id}/persons/export": "post", "/api/ai-gateway/export": "get",
	} {
		if op := with.Paths[path][methods]; op.OperationID == "" || op.Summary == "" {
			t.Errorf("%s %s is not in the document", methods, path)
		}
		if _, there := without.Paths[path]; there {
			t.Errorf("%s is there without a ledger", path)
		}
	}
	if n := len(with.Paths) - len(without.Paths); n != 8 {
		t.Errorf("%d paths more with a ledger than without", n)
	}
}
