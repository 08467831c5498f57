package budget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// crowd is proxies as they should be, over a ledger: the truth that the ledger is compared with.
type crowd struct {
	*ledgerWorld
	rng      *rand.Rand
	clients  []uuid.UUID
	proxies  []*crowdProxy
	limits   map[int64]int64  // of windows, the highest that was
	used     map[int64]int64  // by window: what calls cost or may cost
	queue    []Charge         // on its way to the usage ledger
	lost     map[EventID]bool // recorded, and forgotten
	recorded []EventID        // lately
	lastID   uint64
	refused  int
}

// crowdProxy is one run of a proxy.
type crowdProxy struct {
	id       uint64
	op       uint64
	epoch    int64
	assert   bool
	pending  *Ask // sent, and not answered
	seq      uint64
	accounts map[uuid.UUID][]int64
	windows  map[int64]WindowState
	has      map[int64]*crowdLease
	calls    []*crowdCall
	close    []Close
}

type crowdLease struct{ granted, returned, avail int64 }

type crowdCall struct {
	client uuid.UUID
	at     time.Time
	seq    uint64
	holds  []HeldFor
	worst  int64
}

func newCrowd(t *testing.T, seed uint64) *crowd {
	c := &crowd{ledgerWorld: newLedgerWorld(t), rng: rand.New(rand.NewPCG(seed, 7)), limits: map[int64]int64{}, used: map[int64]int64{}, lost: map[EventID]bool{}}
	for range 3 {
		client := uuid.UUID{byte(c.rng.Uint32()), byte(c.rng.Uint32()), 1}
		c.clients = append(c.clients, client)
		c.budget(client, 500+c.rng.Int64N(5000), func(b *Budget) { b.CarryOver = c.rng.IntN(2) == 0 })
		c.budget(client, 500+c.rng.Int64N(20_000), func(b *Budget) { b.Period, b.TimeZone = Weekly, "Africa/Cairo" })
	}
	c.clients = append(c.clients, uuid.Nil)
	c.budget(uuid.Nil, 2000+c.rng.Int64N(20_000), func(b *Budget) { b.Period = Monthly })
	for range 2 + c.rng.IntN(4) {
		c.start()
	}
	return c
}

func (c *crowd) start(closes ...Close) *crowdProxy {
	c.lastID++
	p := &crowdProxy{id: c.lastID, accounts: map[uuid.UUID][]int64{}, windows: map[int64]WindowState{}, has: map[int64]*crowdLease{}, close: closes}
	c.proxies = append(c.proxies, p)
	return p
}

func (c *crowd) any() *crowdProxy { return c.proxies[c.rng.IntN(len(c.proxies))] }

// send sends a proxy's message, which may get lost, and so may the answer.
func (c *crowd) send(p *crowdProxy, sure bool) {
	if p.pending == nil {
		p.op++
		p.pending = c.compose(p)
	}
	if !sure && c.rng.IntN(6) == 0 {
		return // lost
	}
	r, err := c.auth.Lease(context.Background(), *p.pending)
	if err != nil {
		c.t.Fatal(err)
	}
	if !sure && c.rng.IntN(6) == 0 {
		return // the answer was lost
	}
	ask := p.pending
	p.pending, p.epoch, p.assert = nil, r.Epoch, r.Assert
	for _, s := range r.Windows {
		p.windows[s.ID] = s
	}
	for _, a := range r.Accounts {
		p.accounts[a.Client] = a.Windows
	}
	for _, g := range r.Grants {
		l := p.lease(g.Window)
		l.granted += g.Amount
		l.avail += g.Amount
	}
	for _, back := range ask.Return {
		p.lease(back.Window).returned += back.Amount
	}
	p.close = slices.DeleteFunc(p.close, func(cl Close) bool { return slices.Contains(r.Closed, cl.Incarnation) })
}

func (p *crowdProxy) lease(window int64) *crowdLease {
	if p.has[window] == nil {
		p.has[window] = &crowdLease{}
	}
	return p.has[window]
}

func (c *crowd) compose(p *crowdProxy) *Ask {
	a := &Ask{Incarnation: p.id, Op: p.op, Epoch: p.epoch, Close: slices.Clone(p.close)}
	if p.assert {
		for id, l := range p.has {
			s := p.windows[id]
			a.Assert = append(a.Assert, Assertion{s.Client, s.Budget, id, s.StartsAt, l.granted, l.returned})
		}
	}
	for _, client := range c.clients {
		if c.rng.IntN(3) == 0 {
			a.Open = append(a.Open, Opening{Client: client, Need: Cost{Tokens: c.rng.Int64N(200)}, Ahead: c.rng.IntN(5) == 0})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.has)) {
		l := p.has[id]
		switch c.rng.IntN(4) {
		case 0:
			need := c.rng.Int64N(300)
			a.Want = append(a.Want, Want{id, need / 2, need, c.rng.Int64N(500)})
		case 1:
			if l.avail > 0 {
				back := 1 + c.rng.Int64N(l.avail)
				l.avail -= back
				a.Return = append(a.Return, Return{id, back})
			}
		}
	}
	return a
}

// admit lets a call through, if it fits all of its windows.
func (c *crowd) admit(p *crowdProxy) {
	client := c.clients[c.rng.IntN(len(c.clients)-1)]
	worst := 1 + c.rng.Int64N(150)
	var holds []HeldFor
	for _, account := range []uuid.UUID{client, uuid.Nil} {
		for _, id := range p.accounts[account] {
			s := p.windows[id]
			if c.now.Before(s.StartsAt) || !c.now.Before(s.EndsAt) || p.lease(id).avail < worst {
				c.refused++
				return
			}
			holds = append(holds, HeldFor{id, worst})
		}
	}
	if len(holds) != 3 {
		return // the account is not known
	}
	p.seq++
	for _, h := range holds {
		p.lease(h.Window).avail -= worst
		c.used[h.Window] += worst
	}
	p.calls = append(p.calls, &crowdCall{client, c.now, p.seq, holds, worst})
}

// end ends a call: it cost less than the worst, or nobody knows yet.
func (c *crowd) end(p *crowdProxy, i int, crashed bool) {
	call := p.calls[i]
	p.calls = slices.Delete(p.calls, i, i+1)
	cost, doubt := c.rng.Int64N(call.worst+1), c.rng.IntN(4) == 0
	if crashed {
		cost, doubt = call.worst, false
	}
	e := Charge{EventID: EventID{p.id, call.seq}, Client: call.client, AdmittedAt: call.at, Cost: Cost{Tokens: cost}, Holds: call.holds, Doubt: doubt}
	c.queue = append(c.queue, e)
	if doubt {
		difference := c.rng.Int64N(call.worst-cost+1) - c.rng.Int64N(cost+1)
		correction := e
		correction.Doubt, correction.Correction, correction.Tokens = false, true, difference
		c.queue = append(c.queue, correction)
		cost += difference
	}
	for _, h := range call.holds {
		if !doubt {
			p.lease(h.Window).avail += call.worst - cost
		}
		c.used[h.Window] -= call.worst - cost
	}
}

// deliver brings some events to the usage ledger: now and then twice, and out of order; a correction comes after its event.
func (c *crowd) deliver(all bool) {
	n := len(c.queue)
	if !all {
		n = c.rng.IntN(n + 1)
	}
	batch := slices.Clone(c.queue[:n])
	c.queue = c.queue[n:]
	// What corrects an event that the ledger lost corrects nothing.
	batch = slices.DeleteFunc(batch, func(e Charge) bool {
		return e.Correction && c.lost[e.EventID]
	})
	for i := range batch {
		if j := c.rng.IntN(i + 1); !batch[i].Correction && !slices.ContainsFunc(batch, func(o Charge) bool { return o.Correction }) {
			batch[i], batch[j] = batch[j], batch[i]
		}
	}
	for i := range batch {
		c.recorded = append(c.recorded, batch[i].EventID)
	}
	c.settle(batch...)
	c.settle(slices.DeleteFunc(batch, func(o Charge) bool { return o.Correction || c.rng.IntN(2) == 0 })...)
}

// crash ends a proxy. The next one on its volume charges what was open at its worst, and closes it.
func (c *crowd) crash(p *crowdProxy) {
	for len(p.calls) > 0 {
		c.end(p, 0, true)
	}
	c.proxies = slices.DeleteFunc(c.proxies, func(o *crowdProxy) bool { return o == p })
	c.start(append(p.close, Close{p.id, p.seq})...)
}

// verify compares the ledger with the truth.
func (c *crowd) verify() error {
	if err := c.books.Check(); err != nil {
		return err
	}
	for _, w := range c.books.Windows() {
		c.limits[w.ID] = max(c.limits[w.ID], w.Limit())
		if c.used[w.ID] > w.Limit() {
			return fmt.Errorf("window %d: %d used or about to be, of %d", w.ID, c.used[w.ID], w.Limit())
		}
	}
	return nil
}

func (c *crowd) step(fragile bool) {
	p := c.any()
	switch k := c.rng.IntN(40); {
	case k < 12:
		c.send(p, false)
	case k < 24:
		c.admit(p)
	case k < 31 && len(p.calls) > 0:
		c.end(p, c.rng.IntN(len(p.calls)), false)
	case k < 35:
		c.deliver(false)
	case k < 37:
		c.now = c.now.Add(time.Duration(c.rng.Int64N(int64(20 * time.Minute))))
		c.tidy()
	case k == 37 && !fragile && c.rng.IntN(4) == 0:
		c.crash(p)
	case k == 38 && !fragile && c.rng.IntN(4) == 0 && p.op > 0 && p.pending == nil:
		if err := c.auth.Suspend(context.Background(), p.id, "a mistake"); err != nil && !errors.Is(err, ErrNotFound) {
			c.t.Fatal(err)
		}
	}
}

// lose takes the end of the database's history away. Events that were recorded meanwhile are lost to the usage log too.
func (c *crowd) lose() error {
	saved := c.books.Snapshot()
	c.recorded = nil
	for range c.rng.IntN(60) {
		c.step(true)
		if err := c.verify(); err != nil {
			return err
		}
	}
	c.books.Restore(saved)
	for _, id := range c.recorded {
		c.lost[id] = true
	}
	for _, p := range c.proxies {
		c.send(p, true)
		c.send(p, true)
	}
	c.now = c.now.Add(c.auth.o.LearnFor)
	c.tidy()
	return nil
}

// settleDown brings everything home: no call is open, all events arrive, all proxies leave.
func (c *crowd) settleDown() {
	for _, p := range c.proxies {
		for len(p.calls) > 0 {
			c.end(p, 0, false)
		}
	}
	c.deliver(true)
	for _, p := range c.proxies {
		c.send(p, true)
		c.send(p, true)
		for id, l := range p.has {
			if _, known := p.windows[id]; known && l.avail > 0 {
				p.op++
				r, err := c.auth.Lease(context.Background(), Ask{Incarnation: p.id, Op: p.op, Epoch: p.epoch, Return: []Return{{id, l.avail}}, Close: p.close})
				if err != nil {
					c.t.Fatal(err)
				}
				p.epoch = r.Epoch
			}
		}
	}
}

func TestManyProxiesNeverOverspend(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	var admitted, refused int64
	for seed := range seeds {
		c := newCrowd(t, seed)
		loses := seed%3 == 0
		for step := range 600 {
			c.step(false)
			err := c.verify()
			if err == nil && loses && step%200 == 199 {
				err = c.lose()
			}
			if err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
		c.settleDown()
		if err := c.verify(); err != nil {
			t.Fatalf("seed %d, at the end: %v", seed, err)
		}
		if err := c.books.CheckUsage(); err != nil {
			t.Fatalf("seed %d, at the end: %v", seed, err)
		}
		for _, w := range c.books.Windows() {
			if !loses && (w.Held != 0 || w.Suspense != 0 || w.Used() != c.used[w.ID]) {
				t.Fatalf("seed %d: %d held and %d in suspense are stranded; %d used, in truth %d", seed, w.Held, w.Suspense, w.Used(), c.used[w.ID])
			}
			admitted += w.Used()
		}
		refused += int64(c.refused)
	}
	t.Logf("%d tokens used, %d calls refused", admitted, refused)
}
