package budget

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// simWorld is who is there, and what was set by people.
type simWorld struct {
	lasts          time.Duration
	clients        []*simClient
	budgets        []*simBudget // deleted ones too
	zones          []string
	ids            uint64
	bursts         int           // of calls, still to come
	loss, doubling float64       // of messages
	lag            time.Duration // of idle processes
	skewed         bool          // the clocks on the wall are wrong, by up to an hour
}

// simClient is a tenant, and how it calls.
type simClient struct {
	id     uuid.UUID
	name   string
	policy *Policy
	worst  int64 // tokens, of its largest call
	prices [2]simPrice
	homes  []*simReplica // where its calls come in
}

// simPrice is what a token costs.
type simPrice struct{ brl, usd int64 }

// cost is what so many tokens cost.
func (p simPrice) cost(tokens int64) Cost {
	return Cost{Tokens: tokens, BRL: money.Pico(tokens * p.brl), USD: money.Pico(tokens * p.usd)}
}

// simBudget is a budget with its past.
type simBudget struct {
	Budget
	born     time.Time
	hardAt   time.Time // since when it has been a hard cap, without a break
	pausedAt time.Time
	zonal    bool // its zone was changed
	toppedUp map[int64]int64
}

// simZones have clocks that change at midnight, by half an hour, the other way round, or never.
var simZones = []string{
	"America/Sao_Paulo", "America/New_York", "Europe/Lisbon", "Africa/Cairo", "Asia/Beirut", "America/Asuncion", "Australia/Lord_Howe",
	"Pacific/Apia", "Asia/Kathmandu", "America/St_Johns", "Atlantic/Azores", "America/Santiago", "America/Havana", "UTC", "Pacific/Kiritimati",
}

func (s *sim) id() uuid.UUID {
	s.world.ids++
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:], s.r.Uint64())
	binary.BigEndian.PutUint64(id[8:], s.world.ids)
	return id
}

// build draws the world.
func (s *sim) build() {
	w := &simWorld{}
	s.world = w
	w.skewed = s.chance(0.25)
	replicas, clients, most := 1+s.r.IntN(4), 1+s.r.IntN(4), 4*time.Hour
	w.bursts = 4 + s.r.IntN(12)
	switch n := s.r.IntN(1000); {
	case s.seed%1000 == 500:
		replicas, clients, most, w.bursts = 50, 200, 30*time.Minute, 260
	case n < 6:
		replicas, clients, most, w.bursts = 13+s.r.IntN(20), 20+s.r.IntN(80), time.Hour, 100
	case n < 80:
		replicas, clients, most, w.bursts = 5+s.r.IntN(8), 1+s.r.IntN(16), 2*time.Hour, 15+s.r.IntN(20)
	}
	x := s.r.Float64()
	w.lasts = 5*time.Minute + time.Duration(x*x*x*float64(most))
	if w.lasts > 15*time.Minute || s.chance(0.7) {
		w.lag = time.Duration(s.r.Float64() * float64(w.lasts) / 150)
	}
	for range 1 + s.r.IntN(3) {
		w.zones = append(w.zones, simZones[s.r.IntN(len(simZones))])
	}
	s.start = s.begin()
	s.now = s.start
	s.oracle = newSimOracle(s)
	s.control = newSimControl(s)
	for i := range replicas {
		s.replicas = append(s.replicas, newSimReplica(s, i))
	}
	for i := range clients {
		s.client(i)
	}
	for range s.r.IntN(3) {
		s.createBudget(uuid.Nil)
	}
	for _, r := range s.replicas {
		r.boot()
	}
	s.plan()
	s.stats.Proxies, s.stats.Clients = replicas, clients
}

// begin is when the story starts: mostly a little before a period turns somewhere, often while clocks change.
func (s *sim) begin() time.Time {
	zone, _ := time.LoadLocation(s.world.zones[0])
	t := time.Date(2024+s.r.IntN(4), time.Month(1+s.r.IntN(12)), 1+s.r.IntN(28), s.r.IntN(24), s.r.IntN(60), s.r.IntN(60), 0, time.UTC)
	lead := time.Duration(s.r.Int64N(int64(s.world.lasts)))
	switch s.r.IntN(4) {
	case 0:
		if _, change := t.In(zone).ZoneBounds(); !change.IsZero() {
			// The day that clocks change on, at its beginning or its end.
			day := simDateOf(change.Add(-time.Second).In(zone))
			return day.plus(s.r.IntN(2)).begins(zone).Add(-lead)
		}
	case 1:
		day := simDateOf(t.In(zone))
		return simDate{day.year, day.month, 1}.begins(zone).Add(-lead)
	case 2:
		return simDateOf(t.In(zone)).begins(zone).Add(-lead)
	}
	return t
}

func (s *sim) client(i int) {
	c := &simClient{id: s.id(), worst: 200 + s.r.Int64N(4000)}
	c.name = "client" + string(rune('A'+i%26))
	for j := range c.prices {
		c.prices[j] = simPrice{1 + s.r.Int64N(60_000_000), 1 + s.r.Int64N(12_000_000)}
	}
	for _, r := range s.replicas {
		if len(s.replicas) < 5 || s.chance(0.4) {
			c.homes = append(c.homes, r)
		}
	}
	if len(c.homes) == 0 {
		c.homes = append(c.homes, s.replicas[s.r.IntN(len(s.replicas))])
	}
	s.world.clients = append(s.world.clients, c)
	if s.chance(0.3) {
		c.policy = &Policy{AcceptEstimates: s.chance(0.5), OutputCap: 100}
		s.control.memory.SetPolicy(c.id, *c.policy)
	}
	for range 1 + s.r.IntN(3) {
		s.createBudget(c.id)
	}
}

// createBudget sets a budget, of a unit and period that the client has none of yet.
func (s *sim) createBudget(client uuid.UUID) *simBudget {
	units, periods := []Unit{Tokens, BRL, USD}, []Period{Daily, Daily, Weekly, Monthly}
	b := &simBudget{born: s.now, toppedUp: map[int64]int64{}}
	b.Budget = Budget{
		ID: s.id(), ClientID: client, Unit: units[s.r.IntN(len(units))], Period: periods[s.r.IntN(len(periods))],
		PauseAtLimit: s.chance(0.85), BillingDay: 1 + s.r.IntN(31), TimeZone: s.world.zones[s.r.IntN(len(s.world.zones))],
		CarryOver: s.chance(0.3), Debt: s.chance(0.3),
		Alert80: s.chance(0.7), Alert90: s.chance(0.7), Alert100: s.chance(0.7), CreatedAt: s.now, UpdatedAt: s.now,
	}
	zone, _ := time.LoadLocation(b.TimeZone)
	if b.Period == Monthly && s.chance(0.5) { // so that the month turns within the story
		b.BillingDay = simDateOf(s.start.Add(s.world.lasts).In(zone)).day
	}
	for _, other := range s.world.budgets {
		if other.ClientID == client && other.Unit == b.Unit && other.Period == b.Period && other.DeletedAt.IsZero() {
			return nil
		}
	}
	b.Limit = s.limit(client, b.Unit)
	if s.chance(0.3) {
		b.CarryMax = 1 + s.r.Int64N(b.Limit)
	}
	if s.chance(0.3) {
		b.Thresholds = []int{1 + s.r.IntN(60), 61 + s.r.IntN(15)}
	}
	from, _ := simSpan(b.Period, b.BillingDay, zone, s.now)
	b.StartsAt = from
	switch s.r.IntN(4) {
	case 0:
		b.StartsAt = s.now
	case 1:
		b.StartsAt = from.Add(-90 * 24 * time.Hour)
	case 2:
		b.StartsAt = s.now.Add(time.Duration(s.r.Int64N(int64(s.world.lasts))))
	}
	if b.PauseAtLimit {
		b.hardAt = s.now
	}
	s.world.budgets = append(s.world.budgets, b)
	s.stats.Budgets++
	if !s.control.set(b) {
		b.DeletedAt = s.now
		return nil
	}
	return b
}

// limit draws a limit, a few calls wide or a few hundred.
func (s *sim) limit(client uuid.UUID, u Unit) int64 {
	worst, price := int64(4000), simPrice{60_000_000, 12_000_000}
	for _, c := range s.world.clients {
		if c.id == client {
			worst, price = c.worst, c.prices[s.r.IntN(2)]
		}
	}
	calls := 2 + s.r.Int64N(40)
	if s.chance(0.3) {
		calls *= 10
	}
	if client == uuid.Nil {
		calls *= int64(len(s.world.clients))
	}
	cost := price.cost(worst)
	return calls*cost.In(u) + s.r.Int64N(worst)
}
