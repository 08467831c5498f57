package budget

import "context"

// Hold is what is held for one call. The zero Hold holds nothing. It is used by one goroutine at a time, and may be used
// again once it has ended.
type Hold struct {
	p     *Purse // nil: it has not begun, or has ended
	n     int
	parts [MaxHolds]HeldFor
	slots [MaxHolds]*slot
}

// begin makes the hold ready for parts.
func (h *Hold) begin(p *Purse) {
	if h.p != nil {
		h.Release()
	}
	h.p, h.n = p, 0
}

// add holds w of each of the windows, or stops at the first that does not have it. A window of which nothing is needed is
// a part too: should the call cost something after all, the charge belongs there.
func (h *Hold) add(slots []*slot, amounts *[len(unitCodes)]int64, leave int, tick uint32) outcome {
	for _, s := range slots {
		w := amounts[s.unit]
		if leave > 0 && !s.leavesTail(w, leave) {
			if tick-s.stateAt.Load() > stateFresh {
				return outcome{tryStale, s, w}
			}
			return outcome{tryTail, s, w}
		}
		left, ok := s.take(w)
		if !ok {
			if s.is(slotFull) && tick-s.stateAt.Load() <= stateFresh && w-left > s.free.Load() {
				return outcome{tryFull, s, w}
			}
			return outcome{tryShort, s, w}
		}
		s.open.Add(1)
		h.parts[h.n] = HeldFor{s.id, w}
		h.slots[h.n] = s
		h.n++
		e := s.effort.Load()
		if e == nil {
			e = h.p.wake(s)
		}
		if w > e.biggest.Load() {
			e.biggest.Store(w)
		}
		if left < e.low.Load() {
			h.p.thirsty(s, e)
		}
	}
	return outcome{}
}

// undo gives back what add took, and ends the hold.
func (h *Hold) undo() {
	for i := range h.n {
		h.slots[i].give(h.p, h.parts[i].Amount)
	}
	h.p, h.n = nil, 0
}

// give ends a hold of the slot, of which back is left.
func (s *slot) give(p *Purse, back int64) {
	s.avail.Add(back)
	s.open.Add(-1)
	if s.is(slotExact | slotRetired) {
		p.spill(s)
	}
}

// Settle ends the hold with what the call cost. With doubt the rest stays held, for the ledger to keep in suspense.
func (h *Hold) Settle(c Cost, doubt bool) {
	p := h.p
	if p == nil {
		return
	}
	h.p = nil
	spent := c.amounts()
	for i := range h.n {
		s, amount := h.slots[i], h.parts[i].Amount
		back := max(amount-spent[s.unit], 0)
		if doubt || c.Unpriced && unitCodes[s.unit] != Tokens {
			back = 0
		}
		s.give(p, back)
	}
	if p.waiting.Load() > 0 {
		p.serveWaiting()
	}
}

// Release ends the hold: nothing was used.
func (h *Hold) Release() { h.Settle(Cost{}, false) }

// TopUp holds more for a call that outruns its hold. False: there is no more.
func (h *Hold) TopUp(ctx context.Context, more Cost) bool {
	w, ok := h.topUp(more)
	if w == nil {
		return ok
	}
	return h.p.await(ctx, w) == nil
}

// topUp is TopUp that does not wait.
func (h *Hold) topUp(more Cost) (*purseWait, bool) {
	p := h.p
	if p == nil {
		return nil, false
	}
	w := purseWait{kind: waitTopUp, h: h, worst: more}
	o := h.extend(&more, p.tick())
	if o.kind == tryHeld {
		return nil, true
	}
	return p.enlist(w)
}

// extend adds to the parts of a hold, to all or to none.
func (h *Hold) extend(more *Cost, tick uint32) outcome {
	var extra Hold
	extra.p = h.p
	amounts := more.amounts()
	if o := extra.add(h.slots[:h.n], &amounts, 0, tick); o.kind != tryHeld {
		extra.undo()
		return o
	}
	for i := range h.n {
		h.parts[i].Amount += extra.parts[i].Amount
		h.slots[i].open.Add(-1) // it is one hold
	}
	return outcome{}
}

// Parts are the windows and the amounts held. They stay as they are when the hold ends, until it is used again.
func (h *Hold) Parts() []HeldFor { return h.parts[:h.n] }

// Tightest is the state of the window that has the least left in proportion to its limit, as far as known here. ok is
// false when the hold has none.
func (h *Hold) Tightest() (s Standing, ok bool) {
	least := 2.0
	var which *slot
	for _, s := range h.slots[:h.n] {
		left := 0.0
		if limit := s.limit.Load(); limit > 0 {
			left = float64(s.free.Load()+s.avail.Load()) / float64(limit)
		}
		if which == nil || left < least {
			which, least = s, left
		}
	}
	if which == nil {
		return Standing{}, false
	}
	return which.standing(), true
}
