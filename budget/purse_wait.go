package budget

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// purseWait is a call that waits for the ledger.
type purseWait struct {
	kind  waitKind
	a     *Account
	h     *Hold
	worst Cost
	leave int

	inVain bool // it was asked for, and neither given nor refused
	asked  bool // the message under way, or one that was answered, asks for it
	ended  bool
	err    error
	done   chan struct{} // closed when ended
}

type waitKind uint8

const (
	waitAccount waitKind = iota
	waitReserve
	waitTopUp
)

// mostWaiting is how many calls wait at a time; more are refused at once. At 250 ms each that is 16 000 calls a second
// while the ledger is away, and it bounds what they cost.
const mostWaiting = 4096

// notHeld is what becomes of a call that memory alone could not admit: refused, or told to wait.
func (p *Purse) notHeld(a *Account, worst *Cost, leave int, h *Hold, o outcome) (*purseWait, error) {
	switch o.kind {
	case tryFull, tryTail, tryPaused:
		return nil, p.refuse(a, o)
	case tryShut:
		return nil, ErrUnavailable
	}
	w, ok := p.enlist(purseWait{kind: waitReserve, a: a, h: h, worst: *worst, leave: leave})
	if w == nil && !ok {
		return nil, ErrUnavailable
	}
	if w != nil {
		if done, err := w.poll(); done {
			return nil, err
		}
	}
	return w, nil
}

// refuse makes the error for a call that does not fit, and has the ledger hear of it.
func (p *Purse) refuse(a *Account, o outcome) error {
	p.deniedCalls.Add(1)
	flag := uint32(slotRefused)
	if o.kind == tryTail || o.slot != nil && o.need > o.slot.limit.Load() {
		flag = slotWatched // the limit is not reached: this call would not fit an untouched window either
	}
	if s := o.slot; s != nil && s.flags.Load()&flag == 0 && s.flags.Or(flag)&flag == 0 {
		p.inbox.mu.Lock()
		if flag == slotRefused {
			p.inbox.refused = append(p.inbox.refused, s)
		} else {
			p.inbox.watched = append(p.inbox.watched, s)
		}
		p.inbox.mu.Unlock()
	}
	return a.denied(o)
}

// enlist tries once more, now that nothing else happens, and puts the call among those that wait. Without a wait, the
// second value tells whether it could be done at once; a wait that has ended says how.
func (p *Purse) enlist(w purseWait) (*purseWait, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.attempt(&w)
	switch o.kind {
	case tryHeld:
		return nil, true
	case tryShut:
		return nil, false
	}
	if len(p.waits) >= mostWaiting {
		return nil, false
	}
	// Only now is there anything to allocate.
	waits := &purseWait{kind: w.kind, a: w.a, h: w.h, worst: w.worst, leave: w.leave, done: make(chan struct{})}
	switch o.kind {
	case tryFull, tryTail, tryPaused:
		if w.kind == waitTopUp {
			return nil, false
		}
		waits.end(p.refuse(w.a, o))
		return waits, false
	}
	p.waits = append(p.waits, waits)
	p.waiting.Add(1)
	p.poke()
	return waits, false
}

// attempt does what a wait is for, if it can be done. It is called under mu.
func (p *Purse) attempt(w *purseWait) outcome {
	switch w.kind {
	case waitTopUp:
		if p.shut.Load() {
			return outcome{kind: tryShut}
		}
		return w.h.extend(&w.worst, p.tick())
	case waitAccount:
		if p.known(w.a) {
			return outcome{}
		}
		if p.shut.Load() {
			return outcome{kind: tryShut}
		}
		return outcome{kind: tryUnknown}
	}
	if w.a.gone {
		w.a = p.accountOf(w.a.client, true)
	}
	o := w.a.try(&w.worst, w.leave, w.h)
	if o.kind == tryTurned {
		p.turn(w.a)
		p.turn(p.everyone)
		o = w.a.try(&w.worst, w.leave, w.h)
	}
	if o.kind == tryUnknown {
		p.known(w.a)
	}
	return o
}

// known tells whether an account serves, and sees to it that it is asked for otherwise.
func (p *Purse) known(a *Account) bool {
	all := true
	for _, a := range [2]*Account{a, p.everyone} {
		if f := a.folio.Load(); f == nil || f.lapsed {
			p.reopenLater(a.client, false)
			all = false
		}
	}
	return all
}

// end ends a wait. It is called under mu.
func (w *purseWait) end(err error) {
	w.ended, w.err = true, err
	close(w.done)
}

// serveWaiting looks whether what came back from a call is enough for one that waits.
func (p *Purse) serveWaiting() {
	if p.mu.TryLock() { // who has it looks as well
		p.serve()
		p.mu.Unlock()
	}
}

// serve ends the waits that can end now, in the order in which they came.
func (p *Purse) serve() {
	if len(p.waits) == 0 {
		return
	}
	for _, w := range p.waits {
		if w.ended {
			continue
		}
		switch o := p.attempt(w); o.kind {
		case tryHeld:
			if w.asked && w.kind == waitReserve {
				p.admittedRemote.Add(1)
			}
			w.end(nil)
		case tryShut:
			w.end(ErrUnavailable)
		case tryFull, tryTail, tryPaused:
			w.end(p.refuseWait(w, o))
		}
	}
	p.sweepWaits()
}

func (p *Purse) refuseWait(w *purseWait, o outcome) error {
	if w.kind == waitTopUp {
		return ErrUnavailable // nobody sees it: a top-up fails or does not
	}
	return p.refuse(w.a, o)
}

// judge refuses what was asked for and is not there, by what the ledger has just said of the windows.
func (p *Purse) judge(tick uint32) {
	for _, w := range p.waits {
		if w.ended || !w.asked || w.kind == waitAccount {
			continue
		}
		o := p.attempt(w)
		switch {
		case o.kind == tryHeld:
			if w.kind == waitReserve {
				p.admittedRemote.Add(1)
			}
			w.end(nil)
		case o.kind == tryShort && w.asked && !p.learning && o.slot.stateAt.Load() == tick && o.need-o.slot.avail.Load() > o.slot.free.Load():
			o.slot.flags.Or(slotFull)
			w.end(p.refuseWait(w, o))
		default:
			w.asked, w.inVain = false, true // it is asked for again
		}
	}
	p.sweepWaits()
}

// sweepWaits drops the waits that have ended.
func (p *Purse) sweepWaits() {
	p.waits = slices.DeleteFunc(p.waits, func(w *purseWait) bool { return w.ended })
	p.waiting.Store(int32(len(p.waits)))
}

// refusedWait is one that never waits: nothing can be had of the ledger.
func refusedWait() *purseWait {
	w := &purseWait{done: make(chan struct{})}
	w.end(ErrUnavailable)
	return w
}

// poll tells whether a wait has ended, and how.
func (w *purseWait) poll() (done bool, err error) {
	select {
	case <-w.done:
		return true, w.err
	default:
		return false, nil
	}
}

// giveUp ends a wait whose caller waits no longer.
func (p *Purse) giveUp(w *purseWait) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !w.ended {
		w.end(ErrUnavailable)
		p.sweepWaits()
	}
	return w.err
}

// await waits until the ledger answered, for as long as a call may.
func (p *Purse) await(ctx context.Context, w *purseWait) error {
	if done, err := w.poll(); done { // it never waited
		return err
	}
	timer := time.NewTimer(p.o.Patience)
	defer timer.Stop()
	select {
	case <-w.done:
		return w.err
	case <-timer.C:
		return p.giveUp(w)
	case <-ctx.Done():
		err := p.giveUp(w)
		if err == ErrUnavailable {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
		return err
	}
}

// wake gives a slot that is used again its effort.
func (p *Purse) wake(s *slot) *effort {
	e := &effort{}
	if !s.effort.CompareAndSwap(nil, e) {
		return s.effort.Load()
	}
	p.inbox.mu.Lock()
	p.inbox.woken = append(p.inbox.woken, s)
	p.inbox.mu.Unlock()
	return e
}

// thirsty has the purse ask for more of a window, once for each answer.
func (p *Purse) thirsty(s *slot, e *effort) {
	low := e.low.Load()
	if low <= 0 || !e.low.CompareAndSwap(low, 0) {
		return
	}
	p.inbox.mu.Lock()
	p.inbox.thirst = append(p.inbox.thirst, s)
	p.inbox.mu.Unlock()
	p.poke()
}

// spill has the purse look at a slot to which something came back that it should not keep.
func (p *Purse) spill(s *slot) {
	if s.flags.Or(slotQueued)&slotQueued != 0 {
		return
	}
	p.inbox.mu.Lock()
	p.inbox.spilt = append(p.inbox.spilt, s)
	p.inbox.mu.Unlock()
	p.poke()
}
