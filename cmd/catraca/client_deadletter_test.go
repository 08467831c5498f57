package main

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

// upkeepSite has a tenant with calls, one of a person, and two dead letters.
func upkeepSite(t *testing.T) *testSite {
	t.Helper()
	s := newTestSite(t)
	if out, code := s.run("tenant", "create", "Padaria"); code != 0 {
		t.Fatal(out)
	}
	all, err := s.st.tenants.Tenants(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d tenants, %v", len(all), err)
	}
	s.calls(all[0].ID)
	who, err := s.st.tenants.PrincipalByClient(t.Context(), all[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	ev := metering.Event{
		Incarnation: 9, Seq: 50, RequestID: "req_ana", ClientID: all[0].ID, Phone: who.Phone([]byte("+5511987654321")), ConversationID: "conversa",
		Endpoint: "chat.completions", ModelServed: "openai/gpt-4o-mini", AdmittedAt: time.Date(2026, 11, 22, 1, 30, 0, 0, time.UTC), Status: 200,
		Usage: metering.Usage{Source: metering.Measured, Input: 1, Output: 1, Total: 2}, Cost: metering.Cost{Known: true},
	}
	if err := s.st.usage.Record(t.Context(), []metering.Event{ev}); err != nil {
		t.Fatal(err)
	}
	ev.Seq, ev.Phone, ev.RequestID = 51, "", "req_late"
	if err := s.st.usage.DeadLetter(t.Context(), ev.Append(nil), ev, "a constraint of an older release"); err != nil {
		t.Fatal(err)
	}
	if err := s.st.usage.DeadLetter(t.Context(), []byte("\x1b[2Jgarbage"), metering.Event{}, "not a well-formed event"); err != nil {
		t.Fatal(err)
	}
	return s
}

// says runs a command line, and checks its code and that it says something.
func (s *testSite) says(code int, words string, line ...string) string {
	s.Helper()
	out, got := s.run(line...)
	if got != code || !strings.Contains(out, words) {
		s.Errorf("catraca %s: exit %d, want %d and %q:\n%s", strings.Join(line, " "), got, code, words, out)
	}
	return out
}

func TestDeadLetterCommands(t *testing.T) {
	s := upkeepSite(t)
	list := s.says(0, "2 open in all; those that could be read claim 2 tokens", "deadletter", "list")
	if strings.Contains(list, "\x1b") || !strings.Contains(list, "a constraint of an older release") {
		t.Errorf("listed:\n%q", list)
	}
	var letters []dashboard.DeadLetter
	if err := json.Unmarshal([]byte(s.says(0, "", "deadletter", "list", "--json", "--reason=older", "--tenant=padaria")), &letters); err != nil || len(letters) != 1 {
		t.Fatalf("%+v, %v", letters, err)
	}
	id := letters[0].ID
	s.says(0, "req_late of 2026-11-22T01:30:00Z", "deadletter", "show", id)
	s.says(1, "no such dead letter", "deadletter", "show", "0000000000000001.2.0011223344556677")
	s.says(1, "name one dead letter by its id, or give --all", "deadletter", "replay")
	s.says(1, "name one dead letter by its id, or give --all", "deadletter", "replay", id, "--all")
	s.says(0, "Recorded", "deadletter", "replay", id)
	s.says(0, "nothing changed", "deadletter", "replay", id)
	s.says(1, "0 recorded, 0 the log had already, 1 refused again.", "deadletter", "replay", "--all")
	if err := json.Unmarshal([]byte(s.says(0, "", "deadletter", "list", "--json")), &letters); err != nil || len(letters) != 1 {
		t.Fatalf("%+v, %v", letters, err)
	}
	s.says(0, "garbage", "deadletter", "show", letters[0].ID) // in the dump, beside its bytes
	s.says(2, "--because", "deadletter", "discard", letters[0].ID)
	s.says(0, "Discarded", "deadletter", "discard", letters[0].ID, "--because=nobody can read it")
	s.says(0, "No open dead letters.", "deadletter", "list")
	s.says(0, "1 discarded in all", "deadletter", "list", "--state=discarded")
	s.says(1, "already", "deadletter", "discard", id, "--because=x")
}

func TestExportAndPersonCommands(t *testing.T) {
	s := upkeepSite(t)
	rows, err := csv.NewReader(strings.NewReader(s.says(0, "", "export"))).ReadAll()
	if err != nil || len(rows) != 1+5 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if out := s.says(0, "", "export", "--client=Padaria", "--from=2026-11-21", "--to=2026-11-22", "--format=jsonl"); strings.Count(out, "\n") != 5 {
		t.Errorf("all of it is Saturday in São Paulo:\n%s", out)
	}
	if out := s.says(0, "", "export", "--client=Padaria", "--from=2026-11-22", "--format=jsonl"); out != "" {
		t.Errorf("nothing of it is Sunday there:\n%s", out)
	}
	s.says(1, "to is before from", "export", "--from=2026-11-22", "--to=2026-11-21")
	s.says(1, "--from: write a day", "export", "--from=gestern")
	s.says(1, `no tenant "Paderia": did you mean "Padaria"?`, "export", "--tenant=Paderia")

	person := s.says(0, "req_ana", "person", "export", "--tenant=Padaria", "--phone=(11) 98765-4321")
	if strings.Count(person, "\n") != 1 || strings.Contains(person, "98765") {
		t.Errorf("the person:\n%s", person)
	}
	s.says(2, "--yes", "person", "erase", "--client=Padaria", "--phone=(11) 98765-4321")
	before := s.says(0, "", "usage", "--json", "--summary=day")
	// The letter names no phone, but a conversation of the person.
	s.says(0, "Erased the person from 1 calls and 1 dead letters.", "person", "erase", "--client=Padaria", "--phone=(11) 98765-4321", "--yes")
	if out := s.says(0, "", "person", "export", "--tenant=Padaria", "--phone=(11) 98765-4321"); out != "" {
		t.Errorf("the person is still there:\n%s", out)
	}
	if after := s.says(0, "", "usage", "--json", "--summary=day"); after != before {
		t.Errorf("sums went from\n%s to\n%s", before, after)
	}
}

func TestReadPhone(t *testing.T) {
	for _, c := range []struct{ flag, input, want string }{
		{"+55 11 1", "other", "+55 11 1"}, {"-", " 5511987654321 \nmore", "5511987654321"}, {"-", "5511987654321", "5511987654321"},
	} {
		if got, err := readPhone(c.flag, strings.NewReader(c.input)); err != nil || got != c.want {
			t.Errorf("%q with %q: %q, %v", c.flag, c.input, got, err)
		}
	}
	for _, flag := range []string{"", "-", "  "} {
		if got, err := readPhone(flag, strings.NewReader("\n")); err == nil {
			t.Errorf("%q is %q", flag, got)
		}
	}
}
