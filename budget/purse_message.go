package budget

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// The times of the conversation.
const (
	heartbeat = time.Second // between messages while nothing is urgent
	// gap is between two messages: near the limit it bounds them to 50 a second, and calls that come within it share one.
	gap = 20 * time.Millisecond
	// gapInVain is before asking again for what was asked and neither given nor refused.
	gapInVain  = 50 * time.Millisecond
	gapLeaving = 100 * time.Millisecond // between looks whether all holds have ended
	watchFor   = time.Minute            // after the last refusal
	overEvery  = 2 * time.Second        // between looks at what is over of earlier incarnations
	retryFirst = 20 * time.Millisecond
	retryMost  = time.Second
)

// Bounds of one message. What does not fit goes with the next one.
const (
	mostOpenings = 500
	mostReturns  = 5000
)

// due tells in how long next wants to be called. It does not while a message is under way, unless a call wants something.
func (p *Purse) due() (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dueIn(p.mono())
}

func (p *Purse) dueIn(now time.Duration) (time.Duration, bool) {
	if p.finished || p.hasLeft {
		return 0, false
	}
	if p.under != nil {
		if !p.lost {
			return 0, false
		}
		return max(p.retryAt-now, 0), true
	}
	p.takeInbox(now)
	at := p.tickAt + heartbeat
	for _, w := range p.waits {
		if w.inVain {
			at = min(at, max(p.sentAt+gap, p.slowUntil))
		} else {
			at = min(at, p.sentAt+gap)
			break
		}
	}
	if p.restless() {
		at = min(at, p.sentAt+gap)
	}
	if p.leaving {
		at = min(at, p.restAt+gapLeaving)
	}
	return max(at-now, p.notBefore-now, 0), true
}

// restless tells whether there is something to send before the next heartbeat.
func (p *Purse) restless() bool {
	return len(p.opens) > 0 || len(p.back) > 0 || len(p.want) > 0 || p.assert
}

// next is the message to send now.
func (p *Purse) next() (Ask, bool) {
	p.lookForOver()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.mono()
	if in, ok := p.dueIn(now); !ok || in > 0 {
		return Ask{}, false
	}
	if p.under != nil {
		p.lost = false
		p.messages.Add(1)
		return *p.under, true
	}
	beat := now >= p.tickAt+heartbeat
	if beat {
		p.upkeep(now)
	}
	p.serve()
	last := p.leaving && p.lastWord(now)
	if len(p.waits) == 0 && !p.restless() && !last && !(beat && p.watchful() && now-p.sentAt >= heartbeat/2) {
		return Ask{}, false
	}
	if !p.noted {
		if err := p.note(); err != nil {
			p.log.Error("The file that remembers this run's leases cannot be written; until it is there, no budget is lent. Is the volume full or read-only?", "error", err)
			p.notBefore = now + heartbeat
			return Ask{}, false
		}
		p.noted = true
	}
	a := p.compose(now, last)
	p.op = a.Op
	p.under, p.lost, p.retries, p.sentAt = &a, false, 0, now
	p.messages.Add(1)
	return a, true
}

// watchful tells whether a heartbeat is wanted.
func (p *Purse) watchful() bool {
	return p.leases > 0 || len(p.watch) > 0 || len(p.refused) > 0 || len(p.closable) > 0
}

// takeInbox sorts in what calls have left.
func (p *Purse) takeInbox(now time.Duration) {
	in := &p.inbox
	in.mu.Lock()
	spilt, refused, watched, woken, thirst := in.spilt, in.refused, in.watched, in.woken, in.thirst
	in.spilt, in.refused, in.watched, in.woken, in.thirst = nil, nil, nil, nil, nil
	in.mu.Unlock()
	for _, s := range spilt {
		s.flags.And(^uint32(slotQueued))
		p.back[s] = true
	}
	for _, s := range refused {
		s.flags.And(^uint32(slotRefused))
		p.watch[s] = now + watchFor
		p.refused[s] = true
	}
	for _, s := range watched {
		s.flags.And(^uint32(slotWatched))
		p.watch[s] = now + watchFor
	}
	for _, s := range woken {
		if e := s.effort.Load(); e != nil {
			e.last, e.at, e.usedAt = s.avail.Load(), now, now
			e.low.Store(e.biggest.Load())
			p.active = append(p.active, s)
		}
	}
	for _, s := range thirst {
		p.want[s] = true
	}
}

// compose makes the next message. What it gives back is deducted here, before it is sent.
func (p *Purse) compose(now time.Duration, last bool) Ask {
	a := Ask{Incarnation: p.o.Incarnation, Name: p.o.Name, Op: p.op + 1, Epoch: p.epoch}
	p.sent = map[int64]*slot{}
	if p.assert {
		a.Assert = p.assertions()
		p.assert = false
	}
	a.Open = p.openings()
	needs := p.needs()
	a.Return = p.returns(needs)
	a.Want = p.wants(needs, now)
	a.Refused = windowIDs(p.refused)
	clear(p.refused)
	watched := map[*slot]bool{}
	for s := range p.watch {
		watched[s] = true
	}
	for _, w := range p.waits {
		if w.kind == waitReserve && w.leave > 0 { // what is left of the limit decides, whatever is held here
			for _, f := range w.a.folios() {
				if f != nil {
					for _, s := range f.current() {
						watched[s] = true
					}
				}
			}
		}
		w.asked = true
	}
	a.Watch = windowIDs(watched)
	for s := range watched {
		p.sent[s.id] = s
	}
	if now >= p.closeAt {
		a.Close, p.closeAt = slices.Clone(p.closable), now+heartbeat/2
	}
	a.Leaving = last
	return a
}

func windowIDs(slots map[*slot]bool) []int64 {
	if len(slots) == 0 {
		return nil
	}
	ids := make([]int64, 0, len(slots))
	for s := range slots {
		ids = append(ids, s.id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// openings are the accounts to ask for. Those that calls wait for come first.
func (p *Purse) openings() []Opening {
	if len(p.opens) == 0 {
		return nil
	}
	clients := p.nextToOpen()
	needs := map[uuid.UUID]*Cost{}
	for _, w := range p.waits {
		if w.kind != waitReserve {
			continue
		}
		for _, a := range [2]*Account{w.a, p.everyone} {
			if f := a.folio.Load(); f != nil && !f.lapsed {
				continue // its windows are known, and are asked for one by one
			}
			n := needs[a.client]
			if n == nil {
				n = &Cost{}
				needs[a.client] = n
			}
			n.Tokens = min(n.Tokens+max(w.worst.Tokens, 0), MaxLimit)
			n.BRL = min(n.BRL+max(w.worst.BRL, 0), MaxLimit)
			n.USD = min(n.USD+max(w.worst.USD, 0), MaxLimit)
		}
	}
	list := make([]Opening, 0, len(clients))
	for _, c := range clients {
		o := Opening{Client: c, Ahead: p.opens[c]}
		if n := needs[c]; n != nil {
			o.Need = *n
		} else if o.Ahead {
			o.Need = p.usual(c)
		}
		list = append(list, o)
		delete(p.opens, c)
	}
	return list
}

// nextToOpen are the accounts that go with the next message. When word comes that all may have changed there are as many
// as the proxy has clients, so they are put in order once and not for each message.
func (p *Purse) nextToOpen() (clients []uuid.UUID) {
	taken := map[uuid.UUID]bool{}
	take := func(c uuid.UUID) {
		if _, asked := p.opens[c]; asked && !taken[c] && len(clients) < mostOpenings {
			taken[c] = true
			clients = append(clients, c)
		}
	}
	take(uuid.Nil)
	for _, w := range p.waits {
		if w.a != nil {
			take(w.a.client)
		}
	}
	if !p.openSorted {
		slices.SortFunc(p.openQueue, func(x, y uuid.UUID) int { return bytes.Compare(x[:], y[:]) })
		p.openSorted = true
	}
	for len(clients) < mostOpenings && len(p.openQueue) > 0 {
		take(p.openQueue[0])
		p.openQueue = p.openQueue[1:]
	}
	return clients
}

// usual is what an account needs for a few seconds, by what it used lately: as much is asked for ahead.
func (p *Purse) usual(client uuid.UUID) Cost {
	var n [len(unitCodes)]int64
	if a := p.accountOf(client, false); a != nil {
		if f := a.folio.Load(); f != nil {
			for _, s := range f.current() {
				if e := s.effort.Load(); e != nil {
					_, _, target := e.marks()
					n[s.unit] = max(n[s.unit], target)
				}
			}
		}
	}
	return Cost{Tokens: n[0], BRL: money.Pico(n[1]), USD: money.Pico(n[2])}
}

// slotNeed is what calls that wait need of a window.
type slotNeed struct{ least, sum int64 }

// needs adds up what the calls that wait need, window by window.
func (p *Purse) needs() map[*slot]*slotNeed {
	needs := map[*slot]*slotNeed{}
	add := func(s *slot, w int64) {
		n := needs[s]
		if n == nil {
			n = &slotNeed{least: w}
			needs[s] = n
		}
		n.least = min(n.least, w)
		n.sum = min(n.sum+w, MaxLimit)
	}
	for _, w := range p.waits {
		amounts := w.worst.amounts()
		switch w.kind {
		case waitTopUp:
			for _, s := range w.h.slots[:w.h.n] {
				add(s, amounts[s.unit])
			}
		case waitReserve:
			for _, f := range w.a.folios() {
				if f != nil && !f.lapsed {
					for _, s := range f.current() {
						add(s, amounts[s.unit])
					}
				}
			}
		}
	}
	return needs
}

// wants asks for what the calls that wait need, and for what the next seconds will.
func (p *Purse) wants(needs map[*slot]*slotNeed, now time.Duration) []Want {
	list := make([]Want, 0, len(needs)+len(p.want))
	for s, n := range needs {
		avail := s.avail.Load()
		if n.sum <= avail {
			continue
		}
		w := Want{Window: s.id, Least: max(n.least-avail, 1), Need: n.sum - avail}
		if !s.is(slotExact | slotRetired) {
			w.More = n.least // of one that was not used lately nothing is known but that a call waits: one like it may follow
			if e := s.effort.Load(); e != nil {
				e.measure(s, now)
				_, _, target := e.marks()
				w.More = max(w.More, target)
			}
		}
		list = append(list, w)
		delete(p.want, s)
		p.sent[s.id] = s
	}
	for s := range p.want {
		e := s.effort.Load()
		if e == nil || p.leaving || s.is(slotExact|slotRetired) {
			continue
		}
		e.measure(s, now)
		low, enough, target := e.marks()
		avail := s.avail.Load()
		if avail >= enough {
			e.low.Store(low)
			continue
		}
		list = append(list, Want{Window: s.id, More: target - avail})
		p.sent[s.id] = s
	}
	clear(p.want)
	slices.SortFunc(list, func(x, y Want) int { return cmp.Compare(x.Window, y.Window) })
	return list
}

// returns takes back what is idle of the slots that were marked for it, but for what calls that wait need.
func (p *Purse) returns(needs map[*slot]*slotNeed) []Return {
	if len(p.back) == 0 {
		return nil
	}
	slots := slices.SortedFunc(maps.Keys(p.back), func(x, y *slot) int { return cmp.Compare(x.id, y.id) })
	var list []Return
	var kept []*slot
	for _, s := range slots {
		if len(list) == mostReturns {
			break
		}
		delete(p.back, s)
		keep := int64(0)
		if n := needs[s]; n != nil {
			keep = n.sum
		}
		e := s.effort.Load()
		if e != nil && !p.leaving && !s.is(slotExact|slotRetired) {
			_, _, target := e.marks()
			keep = max(keep, target)
		}
		amount := s.takeBeyond(keep)
		if keep > 0 && s.avail.Load() > 0 && s.is(slotExact|slotRetired) {
			kept = append(kept, s) // for calls that may be refused in the end, and nothing else would have it looked at again
		}
		if amount == 0 {
			continue
		}
		if e != nil {
			e.last -= amount
		}
		list = append(list, Return{s.id, amount})
		p.sent[s.id] = s
	}
	for _, s := range kept {
		p.back[s] = true
	}
	return list
}

// assertions are what was granted and returned of each window that is known here, as answered so far.
func (p *Purse) assertions() []Assertion {
	var list []Assertion
	p.eachSlot(func(client uuid.UUID, s *slot) {
		if s.granted > 0 {
			list = append(list, s.assertion(client))
		}
	})
	for _, g := range p.ghosts {
		list = append(list, g.Assertion)
	}
	slices.SortFunc(list, func(x, y Assertion) int { return cmp.Compare(x.Window, y.Window) })
	return list
}

func (s *slot) assertion(client uuid.UUID) Assertion {
	return Assertion{Client: client, Budget: s.budget, Window: s.id, StartsAt: time.Unix(0, s.period.Load().start).UTC(), Granted: s.granted, Returned: s.returned}
}

// failed says that the message under way, or its answer, was lost.
func (p *Purse) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failedLocked(err)
}
