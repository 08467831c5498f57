package simulator

import (
	"encoding/json"
	"net/http"
)

// Entry is what became of one request, for whoever compares call by call what was issued here with what a ledger says.
type Entry struct {
	Mark     string `json:"mark"` // the request's own member "user"
	Route    string `json:"route"`
	Endpoint string `json:"endpoint"`
	Model    string `json:"model"`
	Streamed bool   `json:"streamed"`
	Outcome  string `json:"outcome"`
	Told     bool   `json:"told"` // usage went out; Issued is then what was told, and else what was made
	Amounts
}

// journalKept bounds the journal; what comes after it is only counted in the tally.
const journalKept = 1 << 20

// journal has an entry for each request since it was asked for. It shares the tally's lock.
type journal struct {
	on      bool
	entries []*Entry
}

// startJournal begins to write down every request: POST /_journal. Off, it costs nothing.
func (s *Simulator) startJournal() {
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	s.tally.journal = journal{on: true}
}

// enrol gives a request its entry. The lock is held.
func (j *journal) enrol(c *call) {
	if !j.on || len(j.entries) >= journalKept {
		return
	}
	var r struct {
		User string `json:"user"`
	}
	_ = json.Unmarshal(c.body, &r)
	c.entry = &Entry{
		Mark: r.User, Route: c.route, Endpoint: c.endpoint, Model: c.model, Streamed: c.streamed, Outcome: unfinished.String(),
	}
	j.entries = append(j.entries, c.entry)
}

// note brings a request's entry up to date, by the same rule as the bill. The lock is held.
func (e *Entry) note(m *model, a account) {
	e.Outcome, e.Told, e.Amounts = a.outcome.String(), a.toldAny, Amounts{}
	issued := a.made
	if a.toldAny {
		issued = a.told
	}
	if a.outcome == refused {
		issued = usage{}
	}
	e.add(1, issued, m.cost(issued))
}

// serveJournal writes the entries, one JSON a line.
func (s *Simulator) serveJournal(w http.ResponseWriter) {
	s.tally.mu.Lock()
	entries := make([]Entry, len(s.tally.journal.entries))
	for i, e := range s.tally.journal.entries {
		entries[i] = *e
	}
	s.tally.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for i := range entries {
		if enc.Encode(&entries[i]) != nil {
			return // whoever asked has left
		}
	}
}
