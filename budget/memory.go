package budget

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Memory is books that last as long as the process: for simulations and what-if. It keeps budgets and a usage log of its
// own, for there is no store beside it.
type Memory struct {
	mu  sync.Mutex
	now func() time.Time
	at  *memoryState
}

var _ Books = (*Memory)(nil)

// memoryState is all rows. A row in it is never changed: a transaction replaces rows. So a snapshot shares them.
type memoryState struct {
	identity int
	epoch    Epoch
	holders  map[uint64]*Holder
	budgets  map[uuid.UUID]*Budget
	policies map[uuid.UUID]*Policy
	windows  map[int64]*Window
	leases   map[LeaseKey]*Lease
	doubts   map[doubtKey]Doubt
	alerts   map[alertKey]Alert
	charges  map[uuid.UUID][]Charge // the usage log, by client
	arrived  map[uint64]*arrival
	journal  []Entry

	windowsOf map[uuid.UUID][]int64 // by beginning
	clientOf  map[uuid.UUID][]uuid.UUID
	leasesOf  map[uint64][]int64
	leasesIn  map[int64][]uint64
}

type doubtKey struct {
	EventID
	window int64
}

type alertKey struct {
	window    int64
	threshold int
	version   int64
}

// arrival is which sequence numbers of an incarnation arrived: all up to one, and some beyond.
type arrival struct {
	all    uint64
	beyond map[uint64]bool
}

// NewMemory makes empty books with a clock.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, at: &memoryState{
		identity: 1,
		holders:  map[uint64]*Holder{}, budgets: map[uuid.UUID]*Budget{}, policies: map[uuid.UUID]*Policy{},
		windows: map[int64]*Window{}, leases: map[LeaseKey]*Lease{}, doubts: map[doubtKey]Doubt{}, alerts: map[alertKey]Alert{},
		charges: map[uuid.UUID][]Charge{}, arrived: map[uint64]*arrival{},
		windowsOf: map[uuid.UUID][]int64{}, clientOf: map[uuid.UUID][]uuid.UUID{}, leasesOf: map[uint64][]int64{}, leasesIn: map[int64][]uint64{},
	}}
}

// Snapshot is the books as they were at one time.
type Snapshot struct{ state *memoryState }

// Snapshot remembers the books as they are.
func (m *Memory) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Snapshot{m.at.copy()}
}

// Restore brings back what was remembered, and forgets what came after: the books are another database from now on.
func (m *Memory) Restore(s Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	identity := m.at.identity + 1
	m.at = s.state.copy()
	m.at.identity = identity
}

// copy shares the rows. Slices are cut to their length, so that appending to one copy does not show in another.
func (s *memoryState) copy() *memoryState {
	c := *s
	c.holders, c.budgets, c.policies = maps.Clone(s.holders), maps.Clone(s.budgets), maps.Clone(s.policies)
	c.windows, c.leases, c.doubts, c.alerts = maps.Clone(s.windows), maps.Clone(s.leases), maps.Clone(s.doubts), maps.Clone(s.alerts)
	c.journal = slices.Clip(s.journal)
	c.charges = clipped(s.charges)
	c.windowsOf, c.clientOf, c.leasesOf, c.leasesIn = clipped(s.windowsOf), clipped(s.clientOf), clipped(s.leasesOf), clipped(s.leasesIn)
	c.arrived = make(map[uint64]*arrival, len(s.arrived))
	for id, a := range s.arrived {
		c.arrived[id] = &arrival{a.all, maps.Clone(a.beyond)}
	}
	return &c
}

func clipped[K comparable, V any](from map[K][]V) map[K][]V {
	to := make(map[K][]V, len(from))
	for k, v := range from {
		to[k] = slices.Clip(v)
	}
	return to
}

// Update implements Books. What f changed is kept aside until it returns nil.
func (m *Memory) Update(_ context.Context, f func(Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := m.begin()
	if err := f(tx); err != nil {
		return err
	}
	tx.commit()
	return nil
}

// SetBudget writes a budget, and brings it into its windows.
func (m *Memory) SetBudget(b Budget) error {
	return m.Update(context.Background(), func(tx Tx) error {
		t := tx.(*memoryTx)
		t.budgets = append(t.budgets, b)
		return AmendWindows(context.Background(), tx, b)
	})
}

// SetPolicy writes a client's policy.
func (m *Memory) SetPolicy(client uuid.UUID, p Policy) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at.policies[client] = &p
}

// Settle records charges in the usage log, and settles them, in one transaction. Those that were recorded already (their
// event has arrived) are dropped, as the usage ledger does. It tells how many were new.
func (m *Memory) Settle(ctx context.Context, charges []Charge) (recorded int, err error) {
	err = m.Update(ctx, func(tx Tx) error {
		t := tx.(*memoryTx)
		fresh := make([]Charge, 0, len(charges))
		seen := map[EventID]bool{}
		for _, c := range charges {
			if !c.Correction && (seen[c.EventID] || m.at.arrived[c.Incarnation].has(c.Seq)) {
				continue
			}
			if !c.Correction {
				seen[c.EventID] = true
				t.events = append(t.events, c.EventID)
			}
			fresh = append(fresh, c)
		}
		recorded = len(fresh)
		t.charges = fresh
		return Settle(ctx, tx, fresh)
	})
	return recorded, err
}

// Arrive notes that an event has arrived, as Settle does. A test uses it for events that no budget concerns.
func (m *Memory) Arrive(id EventID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at.arrive(id)
}

func (s *memoryState) arrive(id EventID) {
	a := s.arrived[id.Incarnation]
	if a == nil {
		a = &arrival{beyond: map[uint64]bool{}}
		s.arrived[id.Incarnation] = a
	}
	if !a.has(id.Seq) {
		a.beyond[id.Seq] = true
	}
	for a.beyond[a.all+1] {
		delete(a.beyond, a.all+1)
		a.all++
	}
}

func (a *arrival) has(seq uint64) bool { return a != nil && (seq <= a.all || a.beyond[seq]) }

// Windows are all windows, by id; Leases all leases, Holders all incarnations, Doubts all doubts, Alerts the outbox, and
// Entries the journal. They are copies.
func (m *Memory) Windows() []*Window {
	return memoryRows(m, func(s *memoryState) map[int64]*Window { return s.windows }, func(a, b *Window) int { return cmp.Compare(a.ID, b.ID) })
}

// Leases are all leases, by window and incarnation.
func (m *Memory) Leases() []*Lease {
	return memoryRows(m, func(s *memoryState) map[LeaseKey]*Lease { return s.leases }, func(a, b *Lease) int { return compareKeys(a.LeaseKey, b.LeaseKey) })
}

// Holders are all incarnations.
func (m *Memory) Holders() []*Holder {
	return memoryRows(m, func(s *memoryState) map[uint64]*Holder { return s.holders }, func(a, b *Holder) int { return cmp.Compare(a.Incarnation, b.Incarnation) })
}

func memoryRows[K comparable, V any](m *Memory, of func(*memoryState) map[K]*V, order func(a, b *V) int) (rows []*V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range of(m.at) {
		c := *row
		rows = append(rows, &c)
	}
	slices.SortFunc(rows, order)
	return rows
}

// Doubts are all doubts.
func (m *Memory) Doubts() []Doubt {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sortedDoubts(slices.Collect(maps.Values(m.at.doubts)))
}

func sortedDoubts(ds []Doubt) []Doubt {
	slices.SortFunc(ds, func(a, b Doubt) int {
		return cmp.Or(cmp.Compare(a.Window, b.Window), cmp.Compare(a.Incarnation, b.Incarnation), cmp.Compare(a.Seq, b.Seq))
	})
	return ds
}

// Alerts is the outbox.
func (m *Memory) Alerts() []Alert {
	m.mu.Lock()
	defer m.mu.Unlock()
	as := slices.Collect(maps.Values(m.at.alerts))
	slices.SortFunc(as, func(a, b Alert) int {
		return cmp.Or(cmp.Compare(a.Window, b.Window), cmp.Compare(a.LimitVersion, b.LimitVersion), cmp.Compare(a.Threshold, b.Threshold))
	})
	return as
}

// Entries is the journal, in its order.
func (m *Memory) Entries() []Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.at.journal)
}

// Check tells what does not add up: a window or a lease by itself, or what is held and in suspense by the leases and the
// doubts (I5).
func (m *Memory) Check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	held, suspense := map[int64]int64{}, map[int64]int64{}
	for key, l := range m.at.leases {
		if err := l.Check(); err != nil {
			return err
		}
		if l.Lost {
			suspense[key.Window] += l.Rest()
		} else {
			held[key.Window] += l.Rest()
		}
	}
	for key, d := range m.at.doubts {
		suspense[key.window] += d.Amount
	}
	for id, w := range m.at.windows {
		if err := w.Check(); err != nil {
			return err
		}
		if w.Held != held[id] || w.Suspense != suspense[id] {
			return fmt.Errorf("window %d has %d held and %d in suspense; its leases and doubts say %d and %d", id, w.Held, w.Suspense, held[id], suspense[id])
		}
	}
	return nil
}

// CheckUsage compares what the windows say was used with the usage log (I4). It reads the whole log.
func (m *Memory) CheckUsage() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	logged := map[int64]int64{}
	held := map[EventID][]HeldFor{}
	for _, cs := range m.at.charges {
		for i := range cs {
			if !cs[i].Correction {
				held[cs[i].EventID] = cs[i].Holds
			}
		}
	}
	for _, cs := range m.at.charges {
		for i := range cs {
			m.at.book(&cs[i], held[cs[i].EventID], logged)
		}
	}
	for id, w := range m.at.windows {
		if w.Used() != logged[id] {
			return fmt.Errorf("window %d has %d spent + %d overrun + %d unheld; the usage log says %d", id, w.Spent, w.Overrun, w.Unheld, logged[id])
		}
	}
	return nil
}

// book adds a charge to the windows that it belongs to.
func (s *memoryState) book(c *Charge, holds []HeldFor, logged map[int64]int64) {
	booked := map[uuid.UUID]bool{}
	for _, h := range holds {
		if w := s.windows[h.Window]; w != nil && !booked[w.BudgetID] {
			booked[w.BudgetID] = true
			logged[w.ID] += c.amount(w.Unit)
		}
	}
	for client := range map[uuid.UUID]bool{c.Client: true, uuid.Nil: true} {
		for _, b := range s.clientOf[client] {
			for _, id := range s.windowsOf[b] {
				if w := s.windows[id]; !booked[b] && !c.AdmittedAt.Before(w.StartsAt) && c.AdmittedAt.Before(w.EndsAt) {
					logged[id] += c.amount(w.Unit)
				}
			}
		}
	}
}
