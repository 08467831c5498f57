package budget

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// slot is what this incarnation has of one hard window. What is held for calls has been taken from avail; avail never
// falls below zero, and rises by grants and by what calls give back alone. There are hundreds of thousands of them in a
// busy proxy, so what only a slot in use needs is in its effort.
type slot struct {
	avail   atomic.Int64
	effort  atomic.Pointer[effort] // nil: not used lately
	flags   atomic.Uint32
	open    atomic.Int32 // holds
	stateAt atomic.Uint32
	unit    uint8
	shared  bool // over all clients
	id      int64
	budget  uuid.UUID
	period  atomic.Pointer[pursePeriod]

	// What the authority last said of the window, at stateAt.
	limit, used, held, free atomic.Int64

	granted, returned int64 // as answered; under Purse.mu
	recall            int64 // the newest that was seen; under Purse.mu
}

// The flags of a slot.
const (
	slotExact   = 1 << iota // idle money goes back at once, and only what waits is asked for
	slotRetired             // no account has it any more: as exact, and nothing new is held
	slotFull                // the ledger said no
	slotWatched             // a call was refused since then for what is to be left over
	slotRefused             // a call was refused since the last message
	slotQueued              // it is in the inbox, for what came back to it
)

// stateFresh is for how long what the ledger said of a window is good enough to refuse a call: two heartbeats and a bit.
const stateFresh = 25 // tenths of a second

// effort is how a slot is used. All but low and biggest is under Purse.mu.
type effort struct {
	low     atomic.Int64 // with less than this, more is asked for
	biggest atomic.Int64 // about the largest that a call held lately

	last    int64         // avail when it was last measured, and since then what grants and returns did to it
	at      time.Duration // when that was
	rate    float64       // what is used up, in a second
	usedAt  time.Duration
	surplus time.Duration // since when there is more than twice the target; 0: there is not
}

// pursePeriod is what the windows of many clients have in common.
type pursePeriod struct {
	period     Period
	start, end int64 // Unix, in nanoseconds of the authority's clock
	zone       *time.Location
}

// unitCodes are the units in the order of Cost's amounts.
var unitCodes = [...]Unit{Tokens, BRL, USD}

func unitCode(u Unit) (uint8, bool) {
	for i, v := range unitCodes {
		if u == v {
			return uint8(i), true
		}
	}
	return 0, false
}

// amounts are a cost in the order of unitCodes. Less than nothing is nothing.
func (c *Cost) amounts() [len(unitCodes)]int64 {
	return [...]int64{max(c.Tokens, 0), max(int64(c.BRL), 0), max(int64(c.USD), 0)}
}

func (s *slot) is(flags uint32) bool { return s.flags.Load()&flags != 0 }

// take deducts w, if there is as much.
func (s *slot) take(w int64) (left int64, ok bool) {
	for {
		have := s.avail.Load()
		if have < w {
			return have, false
		}
		if s.avail.CompareAndSwap(have, have-w) {
			return have - w, true
		}
	}
}

// takeBeyond deducts all that is above keep, and tells how much that was.
func (s *slot) takeBeyond(keep int64) int64 {
	for {
		have := s.avail.Load()
		if have <= keep {
			return 0
		}
		if s.avail.CompareAndSwap(have, keep) {
			return have - keep
		}
	}
}

// leavesTail tells whether at least leave percent of the limit is left once w is held, as far as known here.
func (s *slot) leavesTail(w int64, leave int) bool {
	limit, percent := s.limit.Load(), int64(min(leave, 100))
	floor := limit/100*percent + limit%100*percent/100
	return s.avail.Load()+s.free.Load()-w >= floor
}

// outcome is how an attempt to hold something ended, and which window decided it.
type outcome struct {
	kind outcomeKind
	slot *slot
	need int64
}

type outcomeKind uint8

const (
	tryHeld    outcomeKind = iota
	tryShort               // more must be asked for
	tryFull                // there is no more, as the ledger said a moment ago
	tryTail                // what is left is for open conversations
	tryStale               // tail, by a state that is too old to refuse by
	tryTurned              // a period has ended
	tryUnknown             // the account must be asked for
	tryPaused
	tryShut // nothing is admitted any more
)

// state takes in what the authority says of the window. It is called under Purse.mu.
func (s *slot) state(w *WindowState, tick uint32) {
	if w.Free > s.free.Load() {
		s.flags.And(^uint32(slotFull))
	}
	s.limit.Store(w.Limit)
	s.used.Store(w.Used)
	s.held.Store(w.Held)
	s.free.Store(w.Free)
	s.stateAt.Store(tick)
}

func (s *slot) standing() Standing {
	t := s.period.Load()
	return Standing{
		Unit: unitCodes[s.unit], Period: t.period, Shared: s.shared, Limit: s.limit.Load(), Used: s.used.Load(),
		Held: s.held.Load(), ResetsAt: time.Unix(0, t.end).In(t.zone), Zone: t.zone,
	}
}

// room is about what could be held of the window.
func (s *slot) room(leave int) int64 {
	limit, percent := s.limit.Load(), int64(min(leave, 100))
	return max(s.avail.Load()+s.free.Load()-limit/100*percent-limit%100*percent/100, 0)
}

// refillSeconds is how long what is asked for shall last: the time between two heartbeats.
const refillSeconds = 1

// measure brings the rate up to date. One that rises is believed at once, one that falls by and by.
func (e *effort) measure(s *slot, now time.Duration) {
	avail := s.avail.Load()
	passed := now - e.at
	if avail != e.last || s.open.Load() > 0 {
		e.usedAt = now
	}
	// A burst that lasted a few milliseconds is no rate: it is taken to be a quarter of a second's.
	if seconds := max(passed, 250*time.Millisecond).Seconds(); passed > 0 {
		drained := max(float64(e.last-avail)/seconds, 0)
		if drained > e.rate {
			e.rate = drained
		} else if passed >= 250*time.Millisecond {
			e.rate += (drained - e.rate) * min(0.3*seconds, 1)
		}
		// The largest call is forgotten with a half-life of five minutes.
		big := e.biggest.Load()
		e.biggest.CompareAndSwap(big, int64(float64(big)*math.Exp2(-passed.Seconds()/300)))
		e.last, e.at = avail, now
	}
}

// marks tell what the slot should have: target is asked for. With less than enough at a heartbeat, or less than low at any
// time, more is asked for; so at a steady rate the heartbeats do it alone.
func (e *effort) marks() (low, enough, target int64) {
	lasts, big := clampAmount(e.rate*refillSeconds), e.biggest.Load()
	return lasts/2 + big, lasts + lasts/2 + big, min(2*lasts+big, MaxLimit)
}

func clampAmount(f float64) int64 {
	return int64(min(max(f, 0), MaxLimit/4))
}
