package budget

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// A purse has three layers. Accounts and their slots are memory: calls are admitted there (account.go, hold.go, slot.go)
// with nothing but atomic operations. Under the lock mu is what the purse knows and wants (purse_message.go builds the
// messages, purse_reply.go takes in the answers, purse_upkeep.go looks after what is idle or over); none of it waits, starts
// a goroutine or reads a clock but Now. Around that, Run and await do the waiting and sending (purse_run.go).
//
// So a purse can be driven by hand, by one goroutine and in virtual time, and then does the same thing for the same
// events:
//
//	due                     when next wants to be called; not at all while a message is under way
//	next                    the message to send. After failed it is the same one again
//	replied, failed         how that ended; answers that are late or come twice are ignored
//	account, reserve, topUp the calls' side: they return what to wait for where they would wait
//	poll, giveUp            how a wait ended, and the end of the caller's patience
//	leave, left             the end: what is idle goes back, and the last word is said
//	holding                 what is held of each window

// PurseOptions is what a Purse is made of.
type PurseOptions struct {
	Incarnation uint64 // of this process: the spool's
	Name        string // of the proxy, for people
	// Dir is on the spool's volume: where incarnations that had leases are remembered until they are closed. Without one,
	// all that Over lists is closed.
	Dir    string
	Lender Lender
	// Over lists earlier incarnations of this volume of which the spool has nothing left: no call open, none waiting.
	Over func() []Close
	// Patience is how long a call waits for the ledger; 0: a quarter of a second.
	Patience time.Duration
	Now      func() time.Time // nil: time.Now; only differences count
	Log      *slog.Logger     // nil: none
}

// Purse is what a proxy holds of its clients' budgets. It is safe for any number of goroutines.
type Purse struct {
	o        PurseOptions
	log      *slog.Logger
	began    time.Time
	ledgerAt atomic.Int64 // the authority's clock when the purse began, as its newest answer had it
	shut     atomic.Bool  // nothing is admitted any more
	everyone *Account     // the budgets over all clients
	shards   [256]purseShard
	inbox    purseInbox
	waiting  atomic.Int32  // calls that wait
	nudge    chan struct{} // there may be something to send

	admittedRemote, deniedCalls, messages, failures, answeredAt atomic.Int64

	mu sync.Mutex
	purseEnd
}

// purseEnd is the purse's end of the conversation with the authority. All of it is under Purse.mu.
type purseEnd struct {
	op        uint64 // of the newest message
	epoch     int64
	learning  bool
	assert    bool          // the next message says what is held
	finished  bool          // the authority has done with this incarnation
	noted     bool          // its file is there
	notBefore time.Duration // nothing is sent

	under     *Ask // the message under way, or to be repeated
	sent      map[int64]*slot
	lost      bool // it, or its answer
	retries   int
	retryAt   time.Duration
	sentAt    time.Duration
	slowUntil time.Duration // what was asked in vain is not asked again before
	tickAt    time.Duration

	waits      []*purseWait
	opens      map[uuid.UUID]bool // accounts to ask for; true: with what comes next
	openQueue  []uuid.UUID        // the same; some may have been asked for since
	openSorted bool
	watch      map[*slot]time.Duration
	refused    map[*slot]bool
	want       map[*slot]bool // below their low mark
	back       map[*slot]bool // of which idle money is to go back
	active     []*slot        // those with an effort
	retired    map[int64]retiredSlot
	ghosts     map[int64]purseGhost // of slots that were dropped while their window was open
	leases     int                  // slots of which something was granted that was not returned

	terms   map[termsKey]*purseTerms
	periods map[periodKey]*pursePeriod

	earlier  map[uint64]bool // incarnations with a file
	closable []Close
	closed   map[uint64]Close // in this run
	again    map[uint64]Close // closed, and perhaps forgotten by the ledger since
	overAt   time.Duration
	closeAt  time.Duration // before that they are not sent again

	leaving, hurry, hasLeft bool
	restAt                  time.Duration // when it was last looked whether all holds have ended
	sweepAt                 int
	forgotten               int64 // calls that dropped accounts admitted
}

type periodKey struct {
	period     Period
	zone       string
	start, end int64
}

type termsKey struct {
	policy             Policy
	isPaused, fallback bool
	why                string
}

// purseGhost is what must be remembered of a slot that was dropped while its window is open.
type purseGhost struct {
	Assertion
	end int64
}

type retiredSlot struct {
	slot   *slot
	client uuid.UUID
}

type purseShard struct {
	mu       sync.RWMutex
	accounts map[uuid.UUID]*Account
}

// purseInbox is what calls leave for the purse to look at. It has a lock of its own, for mu may be held for as long as a
// large answer takes.
type purseInbox struct {
	mu                                     sync.Mutex
	spilt, refused, watched, woken, thirst []*slot
}

// OpenPurse makes the purse of an incarnation. It lends while Run runs.
func OpenPurse(o PurseOptions) (*Purse, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Patience == 0 {
		o.Patience = 250 * time.Millisecond
	}
	if o.Incarnation == 0 {
		return nil, fmt.Errorf("budget: a purse needs an incarnation")
	}
	p := &Purse{o: o, log: o.Log, nudge: make(chan struct{}, 1)}
	if o.Now == nil {
		p.began = time.Now()
	} else {
		p.began = o.Now()
	}
	for i := range p.shards {
		p.shards[i].accounts = map[uuid.UUID]*Account{}
	}
	p.purseEnd = purseEnd{
		opens: map[uuid.UUID]bool{}, watch: map[*slot]time.Duration{}, refused: map[*slot]bool{}, want: map[*slot]bool{}, back: map[*slot]bool{},
		retired: map[int64]retiredSlot{}, ghosts: map[int64]purseGhost{}, terms: map[termsKey]*purseTerms{}, periods: map[periodKey]*pursePeriod{},
		closed: map[uint64]Close{}, again: map[uint64]Close{}, sentAt: -heartbeat, tickAt: -heartbeat, restAt: -heartbeat,
	}
	p.everyone = p.accountOf(uuid.Nil, true)
	earlier, err := p.listEarlier()
	if err != nil {
		return nil, err
	}
	p.earlier = earlier
	return p, nil
}

// mono is the time since the purse began.
func (p *Purse) mono() time.Duration {
	if p.o.Now == nil {
		return time.Since(p.began) // reads the monotonic clock alone
	}
	return p.o.Now().Sub(p.began)
}

// ledgerTime is the authority's clock, as far as it is known here: Unix, in nanoseconds.
func (p *Purse) ledgerTime(mono time.Duration) int64 { return p.ledgerAt.Load() + int64(mono) }

// tickOf is a time in tenths of a second.
func tickOf(mono time.Duration) uint32 { return uint32(mono / (100 * time.Millisecond)) }

func (p *Purse) tick() uint32 { return tickOf(p.mono()) }

// accountOf is the account of a client, known or not.
func (p *Purse) accountOf(client uuid.UUID, make bool) *Account {
	sh := &p.shards[client[15]]
	sh.mu.RLock()
	a := sh.accounts[client]
	sh.mu.RUnlock()
	if a != nil || !make {
		return a
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if a := sh.accounts[client]; a != nil {
		return a
	}
	a = &Account{p: p, client: client, idleSince: p.tick()}
	sh.accounts[client] = a
	return a
}

// Account is a client's account: from memory, or with one question to the ledger. It is nil for a client that has no
// budget, no policy of its own, and is under none of the budgets over all clients. ErrUnavailable: it is not known here
// and the ledger does not answer.
func (p *Purse) Account(ctx context.Context, client uuid.UUID) (*Account, error) {
	a, w := p.account(client)
	if w == nil {
		return a, nil
	}
	if err := p.await(ctx, w); err != nil {
		return nil, err
	}
	return w.a.orNil(), nil
}

// account is Account that does not wait.
func (p *Purse) account(client uuid.UUID) (*Account, *purseWait) {
	a := p.accountOf(client, true)
	if !a.called.Load() {
		a.called.Store(true)
	}
	if a.folio.Load() != nil && p.everyone.folio.Load() != nil {
		return a.orNil(), nil
	}
	w, ok := p.enlist(purseWait{kind: waitAccount, a: a})
	switch {
	case w != nil:
		return nil, w
	case ok:
		return a.orNil(), nil
	}
	return nil, refusedWait()
}

// orNil is the account where there is something in it to heed.
func (a *Account) orNil() *Account {
	if a.folio.Load().bare() && a.p.everyone.folio.Load().bare() {
		return nil
	}
	return a
}

// Stale says that what is known of these clients' budgets and policies may have changed; uuid.Nil: of all clients. A
// change of a budget over all clients may come as one of each client, so that account is always asked for as well.
func (p *Purse) Stale(clients ...uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(clients) > 0 && p.everyone.folio.Load() != nil {
		p.reopenLater(uuid.Nil, false)
	}
	for _, c := range clients {
		if c != uuid.Nil {
			p.reopen(c)
			continue
		}
		p.reopenAll()
	}
	p.poke()
}

func (p *Purse) reopenAll() {
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.RLock()
		for id := range sh.accounts {
			p.reopenLater(id, false)
		}
		sh.mu.RUnlock()
	}
}

// reopen asks for an account anew, if it is one of those here; until the answer, what is known serves. One that is being
// asked for is asked for again: the answer under way may be from before the change.
func (p *Purse) reopen(client uuid.UUID) {
	if p.accountOf(client, false) != nil {
		p.reopenLater(client, false)
	}
}

func (p *Purse) reopenLater(client uuid.UUID, ahead bool) {
	if p.leaving {
		return
	}
	before, queued := p.opens[client]
	p.opens[client] = before || ahead
	if !queued {
		p.openQueue, p.openSorted = append(p.openQueue, client), false
	}
}

// poke lets Run look whether there is something to send.
func (p *Purse) poke() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// PurseStats is what a purse is doing, for metrics.
type PurseStats struct {
	Accounts, Slots             int
	Messages, Failures          int64 // sent, and how many of them were not answered
	Local, Remote, Denied       int64 // calls admitted from memory, after asking the ledger, and refused
	Waiting                     int
	LastAnswered                time.Time // by this process's clock; zero: never
	Learning, Finished, InDoubt bool
}

// Stats counts.
func (p *Purse) Stats() PurseStats {
	s := PurseStats{Messages: p.messages.Load(), Failures: p.failures.Load(), Denied: p.deniedCalls.Load(), Remote: p.admittedRemote.Load(), Waiting: int(p.waiting.Load())}
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.RLock()
		for _, a := range sh.accounts {
			f := a.folio.Load()
			if f == nil || a == p.everyone && len(f.slots) == 0 {
				continue
			}
			s.Accounts++
			s.Slots += len(f.slots)
			s.Local += int64(a.used.Load())
		}
		sh.mu.RUnlock()
	}
	if at := p.answeredAt.Load(); at != 0 {
		s.LastAnswered = p.began.Add(time.Duration(at))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Slots += len(p.retired)
	s.Local += p.forgotten - s.Remote
	s.Learning, s.Finished, s.InDoubt = p.learning, p.finished, p.under != nil && p.lost
	return s
}

// purseHolding is what is held of a window.
type purseHolding struct {
	Avail, Granted, Returned int64
	UnderWay                 int64 // has been deducted to go back, and was not answered yet
	Open                     int   // holds
}

// holding is what is held of each window that was ever leased from and is known here.
func (p *Purse) holding() map[int64]purseHolding {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[int64]purseHolding{}
	p.eachSlot(func(_ uuid.UUID, s *slot) {
		all[s.id] = purseHolding{Avail: s.avail.Load(), Granted: s.granted, Returned: s.returned, Open: int(s.open.Load())}
	})
	for id, g := range p.ghosts {
		all[id] = purseHolding{Granted: g.Granted, Returned: g.Returned}
	}
	if p.under != nil {
		for _, r := range p.under.Return {
			h := all[r.Window]
			h.UnderWay += r.Amount
			all[r.Window] = h
		}
	}
	return all
}

// eachSlot goes through all slots there are, in no order.
func (p *Purse) eachSlot(f func(client uuid.UUID, s *slot)) {
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.RLock()
		for client, a := range sh.accounts {
			if known := a.folio.Load(); known != nil {
				for _, s := range known.slots {
					f(client, s)
				}
			}
		}
		sh.mu.RUnlock()
	}
	for _, r := range p.retired {
		f(r.client, r.slot)
	}
}
