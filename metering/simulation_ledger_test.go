package metering

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

type simID struct{ incarnation, seq uint64 }

// simLedger is a store that keeps its promise, and fails in every way that it may.
type simLedger struct {
	s       *sim
	down    bool
	mended  bool // takes what it could not: where a spool is full nothing else may come that shows up a poisoned event
	events  map[simID]Event
	dead    map[simID]Event
	alone   map[simID]int // how often an event failed alone for no fault of its own
	numbers map[uint64]Ranges
	keys    map[string]simID // whose each call is, by the request's id
}

func newSimLedger(s *sim) *simLedger {
	return &simLedger{
		s: s, events: map[simID]Event{}, dead: map[simID]Event{}, alone: map[simID]int{},
		numbers: map[uint64]Ranges{}, keys: map[string]simID{},
	}
}

func (l *simLedger) has(id simID) bool {
	_, logged := l.events[id]
	_, parked := l.dead[id]
	return logged || parked
}

// simLedgerOf is the ledger as one worker has it.
type simLedgerOf struct {
	*simLedger
	v *simView
}

// The poisons are in the error code, as garbage from an upstream would be.
const (
	poisonKnown   = "poison that is known for one"
	poisonUnknown = "poison that only fails"
)

func (l simLedgerOf) Record(_ context.Context, batch []Event) error {
	l.v.point("before record")
	for _, e := range batch {
		l.s.arrives(e)
	}
	if l.down {
		return errSim
	}
	if l.s.chance(0.05) && !l.spared(batch) {
		return errSim
	}
	for _, e := range batch {
		switch e.ErrorCode {
		case poisonKnown:
			return fmt.Errorf("%w: poison", ErrUnrecordable)
		case poisonUnknown:
			if !l.mended {
				return errSim
			}
		}
	}
	for _, e := range batch {
		id := simID{e.Incarnation, e.Seq}
		if l.has(id) {
			continue
		}
		if other, twice := l.keys[e.RequestID]; twice {
			l.s.failf("request %s is recorded as %v and as %v", e.RequestID, other, id)
		}
		l.keys[e.RequestID], l.events[id] = id, e
		l.numbers[e.Incarnation] = l.numbers[e.Incarnation].Add(e.Seq)
	}
	l.v.point("after record")
	if l.s.chance(0.03) && !l.spared(batch) {
		return errSim // it is committed, and the answer is lost
	}
	return nil
}

// spared keeps chance from making a good event look poisoned.
func (l simLedgerOf) spared(batch []Event) bool {
	if len(batch) > 1 {
		return false
	}
	id := simID{batch[0].Incarnation, batch[0].Seq}
	l.alone[id]++
	return l.alone[id] > 3
}

func (l simLedgerOf) Received(_ context.Context, incarnation uint64) (Ranges, error) {
	l.v.point("before ledger received")
	if l.down {
		return nil, errSim
	}
	return slices.Clone(l.numbers[incarnation]), nil
}

func (l simLedgerOf) DeadLetter(_ context.Context, raw []byte, ev Event, reason string) error {
	l.v.point("before dead letter")
	if l.down || l.s.chance(0.05) {
		return errSim
	}
	var e Event
	if err := e.Decode(raw); err != nil || !sameEvent(e, ev) || reason == "" {
		l.s.failf("a dead letter that is not the event: %v", err)
	}
	id := simID{e.Incarnation, e.Seq}
	if e.ErrorCode != poisonKnown && e.ErrorCode != poisonUnknown {
		l.s.failf("call %v is parked among the dead letters, and nothing is wrong with it", id)
	}
	if !l.has(id) {
		l.dead[id] = e
		l.numbers[e.Incarnation] = l.numbers[e.Incarnation].Add(e.Seq)
	}
	l.v.point("after dead letter")
	return nil
}

// arrives checks what a worker is about to record against what is true of the call.
func (s *sim) arrives(e Event) {
	id := simID{e.Incarnation, e.Seq}
	c := s.calls[id]
	if c == nil {
		if !slices.ContainsFunc(s.phantoms[id], func(p Event) bool { return sameEvent(simCrash(p), e) }) {
			s.failf("event %v is of no call", id)
		}
		return
	}
	if c.closing && sameEvent(e, c.versions[len(c.versions)-1]) {
		c.first = e // exact is right at any time
		return
	}
	if c.of.powered && s.ledger.has(id) {
		return // a deleted segment that the power loss brought back; the ledger has the call already
	}
	if !c.orphan {
		s.failf("call %v is sent as %+v while its process lives", c, e)
	}
	for v := max(c.lo, 0); v <= c.hi; v++ {
		if last := c.closing && v == len(c.versions)-1; !last && sameEvent(simCrash(c.versions[v]), e) {
			if c.first.Outcome == Crashed && !sameEvent(c.first, e) && !c.powered {
				s.failf("call %v is charged as %+v, and then as %+v", c, c.first, e)
			}
			c.first = e
			return
		}
	}
	if c.lo < 0 && slices.ContainsFunc(s.phantoms[id], func(p Event) bool { return sameEvent(simCrash(p), e) }) {
		return
	}
	s.failf("call %v, which may be known by version %d to %d, is sent as %+v", c, c.lo, c.hi, e)
}

// simCrash is what recovery promises to make of a call that was open: the bytes that passed, at four to a token, and no
// less than what was counted; at the price of the call.
func simCrash(e Event) Event {
	e.Outcome = Crashed
	if e.Usage.Source == Measured {
		return e
	}
	e.Usage.Source = Estimated
	if t := (e.RequestBytes + 3) / 4; t > e.Input {
		e.Input = t
	}
	if t := (e.ResponseBytes + 3) / 4; t > e.Output {
		e.Output = t
	}
	e.Total = e.Input + e.Output
	simPrice(&e)
	return e
}

func sameEvent(a, b Event) bool { return reflect.DeepEqual(a, b) }
