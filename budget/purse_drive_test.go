package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
)

// purseWorld drives purses by hand and in virtual time, with the real authority over books in memory.
type purseWorld struct {
	t      *testing.T
	now    time.Time
	books  *Memory
	ledger *Authority
	purses []*Purse
	seq    map[*Purse]uint64
	unsent []Charge // settled here, not yet there
}

func newPurseWorld(t *testing.T, purses int, budgets ...Budget) *purseWorld {
	t.Helper()
	w := &purseWorld{t: t, now: time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC), seq: map[*Purse]uint64{}}
	w.books = NewMemory(func() time.Time { return w.now })
	w.ledger = NewAuthority(w.books, AuthorityOptions{})
	for _, b := range budgets {
		if err := w.books.SetBudget(b); err != nil {
			t.Fatal(err)
		}
	}
	for i := range purses {
		w.add(uint64(i + 1))
	}
	return w
}

func (w *purseWorld) add(incarnation uint64) *Purse {
	p, err := OpenPurse(PurseOptions{Incarnation: incarnation, Name: "proxy", Now: func() time.Time { return w.now }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.purses = append(w.purses, p)
	return p
}

// pump delivers what there is to deliver now.
func (w *purseWorld) pump() {
	w.t.Helper()
	for _, p := range w.purses {
		for range 20 {
			a, ok := p.next()
			if !ok {
				break
			}
			w.deliver(p, a)
		}
	}
}

func (w *purseWorld) deliver(p *Purse, a Ask) {
	r, err := w.ledger.Lease(context.Background(), a)
	if err != nil {
		p.failed(err)
		return
	}
	p.replied(r)
}

// run lets time pass in steps of 10 ms.
func (w *purseWorld) run(d time.Duration) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(10 * time.Millisecond) {
		w.pump()
	}
}

// account is a client's account, once the ledger has answered.
func (w *purseWorld) account(p *Purse, client uuid.UUID) *Account {
	w.t.Helper()
	a, wait := p.account(client)
	for i := 0; wait != nil; i++ {
		if i == 100 {
			w.t.Fatal("the account never came")
		}
		w.run(10 * time.Millisecond)
		if done, err := wait.poll(); done {
			if err != nil {
				w.t.Fatal(err)
			}
			a, wait = p.account(client)
		}
	}
	return a
}

// reserve is a call that waits a quarter of a second at most.
func (w *purseWorld) reserve(a *Account, worst Cost, leave int, h *Hold) error {
	w.t.Helper()
	wait, err := a.reserve(worst, leave, h)
	if wait == nil {
		return err
	}
	for range 25 {
		w.run(10 * time.Millisecond)
		if done, err := wait.poll(); done {
			return err
		}
	}
	return a.p.giveUp(wait)
}

// settle ends a hold, and records the charge for later.
func (w *purseWorld) settle(p *Purse, client uuid.UUID, h *Hold, c Cost, doubt bool) {
	w.seq[p]++
	w.unsent = append(w.unsent, Charge{
		EventID: EventID{p.o.Incarnation, w.seq[p]}, Client: client, AdmittedAt: w.now, Cost: c, Doubt: doubt,
		Holds: append([]HeldFor(nil), h.Parts()...),
	})
	h.Settle(c, doubt)
}

// ship lets the ledger have what was settled.
func (w *purseWorld) ship() {
	w.t.Helper()
	if _, err := w.books.Settle(context.Background(), w.unsent); err != nil {
		w.t.Fatal(err)
	}
	w.unsent = nil
}

// check compares what purses hold with the leases, which is exact when nothing is under way and everything was shipped,
// and that no window has more lent and used than its limit.
func (w *purseWorld) check() {
	w.t.Helper()
	if err := w.books.Check(); err != nil {
		w.t.Fatal(err)
	}
	for _, win := range w.books.Windows() {
		if win.Hard && win.Spent+win.Held+win.Suspense+win.Overrun > win.Limit() {
			w.t.Fatalf("window %d: %d spent, %d held, %d in suspense, %d overrun of %d", win.ID, win.Spent, win.Held, win.Suspense, win.Overrun, win.Limit())
		}
	}
	if len(w.unsent) > 0 {
		return
	}
	of := map[uint64]map[int64]purseHolding{}
	for _, p := range w.purses {
		if p.under == nil { // else an answer may have been lost
			of[p.o.Incarnation] = p.holding()
		}
	}
	for _, l := range w.books.Leases() {
		h := of[l.Incarnation][l.Window]
		if h.Open > 0 || of[l.Incarnation] == nil {
			continue
		}
		if h.Avail != l.Rest() && !l.Closed {
			w.t.Fatalf("lease of %d on %d: %d here (%+v), %d there (%+v)", l.Incarnation, l.Window, h.Avail, h, l.Rest(), *l)
		}
	}
}

func purseTestBudget(client uuid.UUID, unit Unit, period Period, limit int64) Budget {
	return Budget{
		ID: uuid.New(), ClientID: client, Unit: unit, Period: period, Limit: limit, PauseAtLimit: true, BillingDay: 1, TimeZone: "America/Sao_Paulo",
		StartsAt: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), Alert80: true, Alert100: true,
	}
}

func TestPurseSpendsToTheLastToken(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 3, purseTestBudget(client, Tokens, Daily, 1000), purseTestBudget(uuid.Nil, Tokens, Monthly, 100_000))
	admitted, denied := 0, 0
	for i := range 1500 {
		p := w.purses[i%3]
		var h Hold
		err := w.reserve(w.account(p, client), Cost{Tokens: 1}, 0, &h)
		d := (*Denied)(nil)
		switch {
		case err == nil:
			admitted++
			w.settle(p, client, &h, Cost{Tokens: 1}, false)
		case errors.As(err, &d):
			denied++
			if d.Limit != 1000 || d.Unit != Tokens || d.Period != Daily || d.Shared || d.Need != 1 {
				t.Fatalf("%+v", d)
			}
			if i < 900 {
				w.run(time.Second)
			}
		default:
			t.Fatal(err)
		}
		if i%10 == 0 {
			w.run(100 * time.Millisecond)
			w.ship()
		}
	}
	w.run(2 * time.Second)
	w.ship()
	w.run(2 * time.Second)
	w.check()
	if admitted != 1000 || denied != 500 {
		t.Fatalf("%d admitted, %d denied", admitted, denied)
	}
	alerts := map[int]int{}
	for _, a := range w.books.Alerts() {
		alerts[a.Threshold]++
	}
	if alerts[80] != 1 || alerts[100] != 1 {
		t.Fatalf("alerts: %v", alerts)
	}
}

// TestPurseAddsUp does things at random, with lost messages and lost answers, and looks at the sums all along.
func TestPurseAddsUp(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { purseAddsUp(t, seed) })
	}
}

func purseAddsUp(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	clients := []uuid.UUID{{15: 1}, {15: 2}, {15: 3}, {15: 4}}
	budgets := []Budget{purseTestBudget(uuid.Nil, Tokens, Weekly, 400_000), purseTestBudget(clients[3], BRL, Daily, 0)}
	for i, c := range clients[:3] {
		budgets = append(budgets, purseTestBudget(c, Tokens, Daily, 40_000<<i), purseTestBudget(c, USD, Monthly, 60_000<<i))
	}
	budgets[3].PauseAtLimit = seed%2 == 0
	w := newPurseWorld(t, 3, budgets...)
	w.now = time.Date(2026, 3, 5, 2, 59, 0, 0, time.UTC) // a minute before a day ends in São Paulo
	type call struct {
		p      *Purse
		client uuid.UUID
		worst  Cost
		h      *Hold
		wait   *purseWait
	}
	var calls, waiting []*call
	type letter struct {
		p *Purse
		r Reply
	}
	var late []letter
	admitted := 0
	for step := range 4000 {
		w.now = w.now.Add(time.Duration(r.IntN(100)) * time.Millisecond)
		for _, p := range w.purses {
			a, ok := p.next()
			if !ok {
				continue
			}
			switch r.IntN(20) {
			case 0: // the message is lost
				p.failed(errors.New("lost"))
			case 1: // its answer is
				reply, err := w.ledger.Lease(t.Context(), a)
				if err == nil {
					late = append(late, letter{p, reply})
				}
				p.failed(errors.New("lost"))
			default:
				w.deliver(p, a)
			}
		}
		if len(late) > 0 && r.IntN(4) == 0 {
			l := late[0]
			late = late[1:]
			l.p.replied(l.r)
		}
		for range r.IntN(4) {
			c := &call{p: w.purses[r.IntN(3)], client: clients[r.IntN(4)], h: &Hold{}, worst: Cost{Tokens: 1 + r.Int64N(100), USD: 2, BRL: 1}}
			a, wait := c.p.account(c.client)
			if wait != nil {
				continue
			}
			wait, err := a.reserve(c.worst, r.IntN(2)*5, c.h)
			switch {
			case wait != nil:
				c.wait = wait
				waiting = append(waiting, c)
			case err == nil:
				calls = append(calls, c)
			}
		}
		keep := waiting[:0]
		for _, c := range waiting {
			done, err := c.wait.poll()
			if !done && r.IntN(5) == 0 {
				done, err = true, c.p.giveUp(c.wait)
			}
			switch {
			case !done:
				keep = append(keep, c)
			case err == nil:
				calls = append(calls, c)
			}
		}
		waiting = keep
		for range r.IntN(4) {
			if len(calls) == 0 {
				break
			}
			i := r.IntN(len(calls))
			c := calls[i]
			calls[i] = calls[len(calls)-1]
			calls = calls[:len(calls)-1]
			admitted++
			switch r.IntN(10) {
			case 0:
				c.h.Release()
			case 1:
				w.settle(c.p, c.client, c.h, Cost{Tokens: r.Int64N(c.worst.Tokens + 1), USD: 1}, r.IntN(2) == 0)
			case 2:
				if wait, ok := c.h.topUp(Cost{Tokens: 50}); wait == nil && ok {
					w.settle(c.p, c.client, c.h, Cost{Tokens: c.worst.Tokens + 50, USD: 2, BRL: 1}, false)
				} else {
					if wait != nil {
						_ = c.p.giveUp(wait)
					}
					w.settle(c.p, c.client, c.h, c.worst, false)
				}
			default:
				w.settle(c.p, c.client, c.h, Cost{Tokens: r.Int64N(c.worst.Tokens + 1), USD: 2, BRL: 1}, false)
			}
		}
		if r.IntN(10) == 0 {
			w.ship()
		}
		if r.IntN(300) == 0 {
			w.purses[r.IntN(3)].Stale([][]uuid.UUID{{uuid.Nil}, clients[:2]}[r.IntN(2)]...)
		}
		w.check()
		_ = step
	}
	for _, c := range waiting {
		if c.p.giveUp(c.wait) == nil {
			calls = append(calls, c)
		}
	}
	for _, c := range calls {
		w.settle(c.p, c.client, c.h, c.worst, false)
	}
	w.ship()
	w.run(5 * time.Second)
	w.check()
	if admitted < 500 {
		t.Errorf("only %d calls were admitted: this tests little", admitted)
	}
	for _, p := range w.purses {
		p.leave()
	}
	w.run(3 * time.Second)
	for _, p := range w.purses {
		if !p.left() {
			t.Error("a purse does not leave")
		}
	}
	for _, l := range w.books.Leases() {
		if l.Rest() != 0 {
			t.Errorf("at the end, %d of window %d is still lent to %d", l.Rest(), l.Window, l.Incarnation)
		}
	}
}

// TestPurseAsksSeldom spends a budget with 1 000 calls a second through one proxy and through eight, each call held for a
// second or two at four times what it costs, and counts what it takes of the ledger.
func TestPurseAsksSeldom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, c := range []struct{ proxies, perSecond, minutes int }{{1, 1000, 2}, {8, 1000, 2}} {
		t.Run(fmt.Sprintf("%d proxies, %d a second for %d minutes", c.proxies, c.perSecond, c.minutes), func(t *testing.T) { purseAsksSeldom(t, c.proxies, c.perSecond, c.minutes) })
	}
}

func purseAsksSeldom(t *testing.T, proxies, perSecond, minutes int) {
	const cost = 500
	limit := cost * 60 * perSecond * minutes
	client := uuid.New()
	w := newPurseWorld(t, proxies, purseTestBudget(client, Tokens, Daily, int64(limit)), purseTestBudget(client, BRL, Monthly, 1<<50), purseTestBudget(uuid.Nil, Tokens, Monthly, 1<<50))
	r := rand.New(rand.NewPCG(7, 7))
	type call struct {
		h    *Hold
		p    *Purse
		ends time.Time
	}
	type wait struct {
		w  *purseWait
		c  *call
		by time.Time
	}
	accounts := map[*Purse]*Account{}
	for _, p := range w.purses {
		accounts[p] = w.account(p, client)
	}
	var open []*call
	var waits []wait
	var asked, local, remote, refused, late, used int
	lateAfter := 0
	var messagesBefore int64
	settle := func(c *call) {
		used += cost
		w.settle(c.p, client, c.h, Cost{Tokens: cost, BRL: 7 * cost}, false)
	}
	messages := func() (n int64) {
		for _, p := range w.purses {
			n += p.messages.Load()
		}
		return n
	}
	spare := 0.0
	for step := 0; ; step++ {
		w.now = w.now.Add(2 * time.Millisecond)
		w.pump()
		if step%10 == 0 {
			w.ship()
		}
		keepOpen := open[:0]
		for _, c := range open {
			if c.ends.Before(w.now) {
				settle(c)
			} else {
				keepOpen = append(keepOpen, c)
			}
		}
		open = keepOpen
		keep := waits[:0]
		for _, x := range waits {
			done, err := x.w.poll()
			if !done && x.by.Before(w.now) {
				done, err = true, x.c.p.giveUp(x.w)
			}
			switch {
			case !done:
				keep = append(keep, x)
			case err == nil:
				remote++
				open = append(open, x.c)
			case errors.Is(err, ErrUnavailable):
				late++
			default:
				refused++
			}
		}
		waits = keep
		before95 := used < limit/100*95
		if before95 {
			messagesBefore = messages()
			lateAfter = remote + late
		}
		if used >= limit || step > 400_000 || refused > 2000 && len(open) == 0 {
			break
		}
		for spare += float64(perSecond) / 500 * 2 * r.Float64(); spare >= 1; spare-- {
			c := &call{h: &Hold{}, p: w.purses[r.IntN(proxies)], ends: w.now.Add(time.Second + time.Duration(r.Int64N(int64(time.Second))))}
			wt, err := accounts[c.p].reserve(Cost{Tokens: 4 * cost, BRL: 28 * cost}, 0, c.h)
			if before95 {
				asked++
			}
			switch {
			case wt != nil:
				waits = append(waits, wait{wt, c, w.now.Add(250 * time.Millisecond)})
			case err == nil:
				if before95 {
					local++
				}
				open = append(open, c)
			default:
				refused++
			}
		}
	}
	w.ship()
	w.check()
	if local*100 < asked*90 || proxies == 1 && int(messagesBefore)*100 > asked || late > 0 {
		t.Errorf("%d of %d from memory, %d messages, %d unanswered", local, asked, messagesBefore, late)
	}
	if used < limit/1000*999 {
		t.Errorf("%d of %d were spent before calls were refused for good", used, limit)
	}
	t.Logf("until 95 %%: %d calls, %.2f %% from memory, %d others; %d messages, %.2f per 100 calls; in all %d remote, %d refused, %d unanswered; %.3f %% of the limit spent after %v",
		asked, 100*float64(local)/float64(asked), lateAfter, messagesBefore, 100*float64(messagesBefore)/float64(asked), remote, refused, late,
		100*float64(used)/float64(limit), w.now.Sub(time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC)))
}
