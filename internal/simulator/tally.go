package simulator

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// usage is what one answer cost in everything that is ever billed. output holds the reasoning tokens too, prompt the
// cached, written and audio ones.
type usage struct {
	prompt, cached, written, output, reasoning int64
	audio, seconds, images, characters         int64
}

func (u usage) total() int64 { return u.prompt + u.output }

// outcome is how a request ended, seen from here.
type outcome int

const (
	unfinished outcome = iota
	completed          // the whole answer was handed to the network
	cut                // the simulator broke it off on purpose, by connection or by an error in mid-stream
	gone               // the client left first
	refused            // an error status
)

func (o outcome) String() string {
	return [...]string{"unfinished", "completed", "cut", "client gone", "refused"}[o]
}

// Amounts are sums over requests; CostUSD is exact, at list price.
type Amounts struct {
	Input      int64  `json:"input_tokens"`
	Output     int64  `json:"output_tokens"`
	Cached     int64  `json:"cached_tokens"`
	CacheWrite int64  `json:"cache_write_tokens"`
	Reasoning  int64  `json:"reasoning_tokens"`
	Total      int64  `json:"total_tokens"`
	Seconds    int64  `json:"audio_seconds"`
	Images     int64  `json:"images"`
	Characters int64  `json:"characters"`
	CostUSD    string `json:"cost_usd"`

	cost pico
}

func (a *Amounts) add(sign int64, u usage, cost pico) {
	a.Input += sign * u.prompt
	a.Output += sign * u.output
	a.Cached += sign * u.cached
	a.CacheWrite += sign * u.written
	a.Reasoning += sign * u.reasoning
	a.Total += sign * u.total()
	a.Seconds += sign * u.seconds
	a.Images += sign * u.images
	a.Characters += sign * u.characters
	a.cost += pico(sign) * cost
	a.CostUSD = a.cost.String()
}

// Tally counts the requests of one kind and what they were worth.
type Tally struct {
	Requests   int64 `json:"requests"`
	Streamed   int64 `json:"streamed"`
	Completed  int64 `json:"completed"`
	Cut        int64 `json:"cut"`
	ClientGone int64 `json:"client_gone"`
	Refused    int64 `json:"refused"`
	// Unreported counts the answers, whole or not, whose usage never went out as non-negative whole numbers.
	Unreported int64 `json:"unreported"`

	Reported  Amounts `json:"reported"`  // usage that was sent, whole, in an answer
	Generated Amounts `json:"generated"` // what was really made, also of answers cut short
	Issued    Amounts `json:"issued"`    // the bill: what was reported where something was, else what was generated
}

// account is what a request has come to.
type account struct {
	outcome outcome
	made    usage // so far
	told    usage // in usage objects that went out
	toldAny bool
}

// count books one request's end; sign -1 takes it back.
func (t *Tally) count(sign int64, m *model, c account) {
	switch c.outcome {
	case unfinished:
		return
	case completed:
		t.Completed += sign
	case cut:
		t.Cut += sign
	case gone:
		t.ClientGone += sign
	case refused:
		t.Refused += sign
		return
	}
	made := m.cost(c.made)
	t.Generated.add(sign, c.made, made)
	if !c.toldAny {
		if c.made != (usage{}) {
			t.Unreported += sign
		}
		t.Issued.add(sign, c.made, made)
		return
	}
	told := m.cost(c.told)
	t.Reported.add(sign, c.told, told)
	t.Issued.add(sign, c.told, told)
}

// Row is the tally of one model at one endpoint of one upstream.
type Row struct {
	Route    string `json:"route"`
	Endpoint string `json:"endpoint"`
	Model    string `json:"model"`
	Tally
}

// Departure is one client that left before its answer was whole.
type Departure struct {
	Route          string `json:"route"`
	Endpoint       string `json:"endpoint"`
	Model          string `json:"model"`
	AtUnixMs       int64  `json:"at_unix_ms"`        // when it was noticed here: compare with when the client left
	AfterMs        int64  `json:"after_ms"`          // since the request began
	LastWriteMsAgo int64  `json:"last_write_ms_ago"` // since the last event was sent
	Events         int    `json:"events"`            // sent until then
}

// Stats says exactly what the simulator served since its start or last reset.
type Stats struct {
	Since      time.Time   `json:"since"`
	Open       int         `json:"open"`
	MaxOpen    int         `json:"max_open"`
	Rows       []Row       `json:"rows"`
	Total      Tally       `json:"total"`
	Departures []Departure `json:"departures"` // the last 256, oldest first
}

type rowKey struct{ route, endpoint, model string }

// tallies is all counting, under one lock that a request takes four times and a token never.
type tallies struct {
	mu         sync.Mutex
	era        int // of resets: what began in another one is not counted in this
	since      time.Time
	open       int
	maxOpen    int
	rows       map[rowKey]*Tally
	total      Tally
	departures []Departure
	journal    journal
}

const (
	departuresKept = 256
	// rowsKept bounds the rows against clients that make names up; what is beyond shares one row.
	rowsKept = 10_000
)

func (t *tallies) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.era++
	t.since, t.maxOpen = time.Now(), t.open
	t.rows = map[rowKey]*Tally{}
	t.total, t.departures = Tally{}, nil
	t.journal.entries = nil
}

func (t *tallies) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open++
	t.maxOpen = max(t.maxOpen, t.open)
}

func (t *tallies) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
}

// row is where c is counted. The lock is held.
func (t *tallies) row(c *call) *Tally {
	key := rowKey{c.route, c.endpoint, c.model}
	r := t.rows[key]
	if r == nil {
		if len(t.rows) >= rowsKept {
			key.model = "(others)"
		}
		if r = t.rows[key]; r == nil {
			r = &Tally{}
			t.rows[key] = r
		}
	}
	return r
}

// begin counts a request; settle counts its end, and again if the end turns out otherwise.
func (t *tallies) begin(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.row, c.era = t.row(c), t.era
	t.journal.enrol(c)
	for _, r := range []*Tally{c.row, &t.total} {
		r.Requests++
		if c.streamed {
			r.Streamed++
		}
	}
}

func (t *tallies) settle(c *call, end outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.era != t.era {
		c.outcome = end
		return
	}
	for _, r := range []*Tally{c.row, &t.total} {
		r.count(-1, c.priced, c.booked)
	}
	c.outcome = end
	c.booked = c.account
	for _, r := range []*Tally{c.row, &t.total} {
		r.count(1, c.priced, c.booked)
	}
	if c.entry != nil {
		c.entry.note(c.priced, c.booked)
	}
	if end != gone {
		return
	}
	now := time.Now()
	d := Departure{
		Route: c.route, Endpoint: c.endpoint, Model: c.model, AtUnixMs: now.UnixMilli(),
		AfterMs: now.Sub(c.started).Milliseconds(), Events: c.events,
	}
	if !c.wrote.IsZero() {
		d.LastWriteMsAgo = now.Sub(c.wrote).Milliseconds()
	}
	if len(t.departures) >= departuresKept {
		t.departures = slices.Delete(t.departures, 0, 1)
	}
	t.departures = append(t.departures, d)
}

// Stats is a consistent copy of the counters.
func (s *Simulator) Stats() Stats {
	t := &s.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Stats{Since: t.since, Open: t.open, MaxOpen: t.maxOpen, Total: t.total.printable(), Departures: slices.Clone(t.departures)}
	out.Rows = make([]Row, 0, len(t.rows))
	for key, r := range t.rows {
		out.Rows = append(out.Rows, Row{key.route, key.endpoint, key.model, r.printable()})
	}
	slices.SortFunc(out.Rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Model, b.Model))
	})
	return out
}

// printable is t with every cost written, also where nothing was ever added.
func (t Tally) printable() Tally {
	for _, a := range []*Amounts{&t.Reported, &t.Generated, &t.Issued} {
		a.CostUSD = a.cost.String()
	}
	return t
}
