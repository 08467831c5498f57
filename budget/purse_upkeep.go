package budget

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// When what is not used goes.
const (
	surplusFor  = 5 * time.Second  // more than twice the target, and it goes back
	effortFor   = time.Minute      // unused, and a slot is looked at no more
	leaseIdle   = 5 * 60 * 10      // ticks unused, and all of an account's leases go back
	accountIdle = 10 * 60 * 10     // ticks unused, and an account is dropped
	rereadAfter = 5 * 60 * 10      // ticks, and an account in use is read again, should word of a change have been lost
	aheadBy     = 30 * time.Second // what comes next is asked for so long before, or up to half of that less: not all at once
	sweepParts  = 8                // heartbeats that one look at all accounts takes
)

// upkeep is done with each heartbeat.
func (p *Purse) upkeep(now time.Duration) {
	p.tickAt = now
	tick, ledger := tickOf(now), p.ledgerTime(now)
	p.active = slices.DeleteFunc(p.active, func(s *slot) bool { return !p.tend(s, now) })
	maps.DeleteFunc(p.watch, func(_ *slot, until time.Duration) bool { return now > until })
	if p.answeredAt.Load() == 0 || p.leaving {
		return // what time it is by the authority's clock is not known yet, or matters no more
	}
	for id, r := range p.retired {
		p.dropRetired(id, r, ledger)
	}
	maps.DeleteFunc(p.ghosts, func(_ int64, g purseGhost) bool { return g.end <= ledger })
	maps.DeleteFunc(p.periods, func(_ periodKey, t *pursePeriod) bool { return t.end <= ledger })
	p.turnIfOver(p.everyone, ledger)
	p.lookAhead(p.everyone, ledger, tick)
	part := len(p.shards) / sweepParts
	for i := p.sweepAt * part; i < (p.sweepAt+1)*part; i++ {
		p.sweep(&p.shards[i], ledger, tick)
	}
	p.sweepAt = (p.sweepAt + 1) % sweepParts
}

// tend looks after a slot in use, and tells whether it still is.
func (p *Purse) tend(s *slot, now time.Duration) bool {
	e := s.effort.Load()
	if e == nil {
		return false
	}
	e.measure(s, now)
	low, enough, target := e.marks()
	avail := s.avail.Load()
	switch {
	case s.is(slotExact|slotRetired) || p.leaving:
		if avail > 0 {
			p.back[s] = true
		}
	case avail < enough:
		p.want[s] = true
	default:
		e.low.Store(low)
	}
	switch {
	case avail <= 2*target:
		e.surplus = 0
	case e.surplus == 0:
		e.surplus = now
	case now-e.surplus >= surplusFor:
		p.back[s], e.surplus = true, 0
	}
	if now-e.usedAt > effortFor && s.open.Load() == 0 {
		s.effort.Store(nil)
		return false
	}
	return true
}

// sweep looks after the accounts of a shard.
func (p *Purse) sweep(sh *purseShard, ledger int64, tick uint32) {
	var drop []*Account
	sh.mu.RLock()
	for _, a := range sh.accounts {
		if a.called.Load() {
			a.called.Store(false)
			a.idleSince = tick
		}
		idle := tick - a.idleSince
		if a == p.everyone {
			continue
		}
		f := p.turnIfOver(a, ledger)
		if idle > accountIdle && p.unused(a) {
			drop = append(drop, a)
			continue
		}
		if f == nil {
			continue
		}
		if idle > leaseIdle {
			for _, s := range f.slots {
				if s.avail.Load() > 0 && s.effort.Load() == nil {
					p.back[s] = true
				}
			}
			continue
		}
		p.lookAhead(a, ledger, tick)
	}
	sh.mu.RUnlock()
	if len(drop) == 0 {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, a := range drop {
		p.drop(sh, a, ledger)
	}
}

// lookAhead asks for what comes after the windows of an account that is in use, and from time to time for all of it.
func (p *Purse) lookAhead(a *Account, ledger int64, tick uint32) {
	f := a.folio.Load()
	if f == nil {
		return
	}
	spread := aheadBy / 2 * time.Duration(a.client[14]) / 256
	for _, s := range f.current() {
		t := s.period.Load()
		if t.end-ledger > int64(aheadBy-spread) {
			continue
		}
		if !slices.ContainsFunc(f.next(), func(n *slot) bool { return n.budget == s.budget }) {
			p.reopenLater(a.client, true)
		}
	}
	if tick-f.readAt > rereadAfter {
		p.reopenLater(a.client, false)
	}
}

// turnIfOver brings an account up to date with the time, and gives its folio.
func (p *Purse) turnIfOver(a *Account, ledger int64) *folio {
	f := a.folio.Load()
	if f == nil || f.lapsed || ledger < f.until {
		return f
	}
	p.arrange(a, f.terms, f.slots, ledger, f.readAt)
	p.retireOthers(a, f.slots)
	return a.folio.Load()
}

// turn is turnIfOver for a call that found it over.
func (p *Purse) turn(a *Account) { p.turnIfOver(a, p.ledgerTime(p.mono())) }

// refresh brings an account up to date with the time where it is not.
func (p *Purse) refresh(a *Account) {
	ledger := p.ledgerTime(p.mono())
	for _, f := range a.folios() {
		if f != nil && ledger >= f.until {
			p.mu.Lock()
			p.turnIfOver(a, ledger)
			p.turnIfOver(p.everyone, ledger)
			p.mu.Unlock()
			return
		}
	}
}

// retire has a slot that no account has any more go back, by and by: holds may still be on it.
func (p *Purse) retire(client uuid.UUID, s *slot) {
	if _, is := p.retired[s.id]; is {
		return
	}
	s.flags.Or(slotRetired)
	p.retired[s.id] = retiredSlot{s, client}
	p.back[s] = true
	delete(p.watch, s)
	delete(p.want, s)
}

// dropRetired forgets a retired slot once nothing is left on it.
func (p *Purse) dropRetired(id int64, r retiredSlot, ledger int64) {
	s := r.slot
	// In this order: a hold gives back before it ends.
	if s.open.Load() > 0 || s.avail.Load() > 0 || p.back[s] || s.is(slotQueued) {
		return
	}
	delete(p.retired, id)
	p.bury(r.client, s, ledger)
}

// bury forgets a slot, but for what a new epoch may ask for.
func (p *Purse) bury(client uuid.UUID, s *slot, ledger int64) {
	if s.granted > s.returned {
		p.leases--
	}
	if end := s.period.Load().end; s.granted > 0 && end > ledger {
		p.ghosts[s.id] = purseGhost{s.assertion(client), end}
	}
	delete(p.watch, s)
	delete(p.refused, s)
}

// unused tells whether an account can be dropped: nothing is held, nothing asked.
func (p *Purse) unused(a *Account) bool {
	if _, asked := p.opens[a.client]; asked {
		return false
	}
	if slices.ContainsFunc(p.waits, func(w *purseWait) bool { return w.a == a }) {
		return false
	}
	f := a.folio.Load()
	if f == nil {
		return true
	}
	return !slices.ContainsFunc(f.slots, func(s *slot) bool {
		return s.open.Load() > 0 || s.avail.Load() > 0 || p.back[s] || s.effort.Load() != nil
	})
}

// drop forgets an account. Whoever still has it comes to the new one by asking the ledger, for there is nothing on it.
func (p *Purse) drop(sh *purseShard, a *Account, ledger int64) {
	delete(sh.accounts, a.client)
	a.gone = true
	p.forgotten += int64(a.used.Load())
	if f := a.folio.Load(); f != nil {
		for _, s := range f.slots {
			p.bury(a.client, s, ledger)
		}
	}
}

// leave begins the end: nothing is admitted any more, and all that is idle goes back.
func (p *Purse) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut.Store(true)
	p.leaving = true
	for _, w := range p.waits {
		if !w.ended {
			w.end(ErrUnavailable)
		}
	}
	p.sweepWaits()
	clear(p.opens)
	p.openQueue = nil
	p.eachSlot(func(_ uuid.UUID, s *slot) {
		s.flags.Or(slotExact) // so that what calls give back from here on goes on
		if s.avail.Load() > 0 {
			p.back[s] = true
		}
	})
	p.poke()
}

// lastWord tells whether there is nothing left to wait for: all holds have ended and all has gone back, or it must be now.
func (p *Purse) lastWord(now time.Duration) bool {
	if now < p.restAt+gapLeaving && !p.hurry {
		return false
	}
	p.restAt = now
	if p.hurry {
		return len(p.back) <= mostReturns
	}
	rest := true
	p.eachSlot(func(_ uuid.UUID, s *slot) {
		if s.open.Load() > 0 {
			rest = false
		} else if s.avail.Load() > 0 {
			p.back[s] = true
		}
	})
	return rest && len(p.back) <= mostReturns
}

// left tells whether the last word was said, and heard.
func (p *Purse) left() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hasLeft || p.finished
}

// lookForOver asks for earlier incarnations that are over. It is not under mu, for it is somebody else's code.
func (p *Purse) lookForOver() {
	if p.o.Over == nil {
		return
	}
	p.mu.Lock()
	now := p.mono()
	wait := p.overAt != 0 && now < p.overAt+overEvery || p.o.Dir != "" && len(p.earlier) == 0 && len(p.again) == 0
	p.mu.Unlock()
	if wait {
		return
	}
	over := p.o.Over()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.overAt = max(now, 1)
	p.closable = slices.Collect(maps.Values(p.again))
	for _, c := range over {
		if _, done := p.closed[c.Incarnation]; done || c.Incarnation == p.o.Incarnation || p.o.Dir != "" && !p.earlier[c.Incarnation] {
			continue
		}
		p.closable = append(p.closable, c)
	}
	slices.SortFunc(p.closable, func(x, y Close) int { return cmp.Compare(x.Incarnation, y.Incarnation) })
	p.closable = p.closable[:min(len(p.closable), mostCloses)]
}

// mostCloses bounds how many earlier incarnations one message closes.
const mostCloses = 100
