package budget

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// Account is a client's budgets, as a proxy holds them.
type Account struct {
	p      *Purse
	client uuid.UUID
	folio  atomic.Pointer[folio] // nil: not known yet
	used   atomic.Uint32         // calls admitted
	called atomic.Bool           // since the purse last looked

	gone      bool   // it was dropped; under Purse.mu
	idleSince uint32 // tick; under Purse.mu
}

// folio is what is known of an account. It is never changed, but replaced.
type folio struct {
	slots  []*slot // of the hard windows that are open, and after those of the ones that come next
	terms  *purseTerms
	until  int64 // by the authority's clock: then a window ends, or the next one begins
	readAt uint32
	now    uint8 // how many of slots are open now
	lapsed bool  // it says nothing of now: a window ended, and what comes after it was not known
}

// purseTerms is what the accounts of many clients have in common.
type purseTerms struct {
	policy   *Policy
	isPaused bool
	why      string
	fallback bool // the policy is the default one
}

func (f *folio) current() []*slot { return f.slots[:f.now] }
func (f *folio) next() []*slot    { return f.slots[f.now:] }

// bare tells whether there is nothing in it that a call would have to heed.
func (f *folio) bare() bool {
	return len(f.slots) == 0 && !f.lapsed && f.terms.fallback && !f.terms.isPaused
}

// Policy is how the client is treated. It is shared: do not change it.
func (a *Account) Policy() *Policy { return a.folio.Load().terms.policy }

// Counts tells whether a hard budget of the account counts a unit: then a call whose cost in it has no bound cannot be
// let through.
func (a *Account) Counts(u Unit) bool {
	code, ok := unitCode(u)
	if !ok {
		return false
	}
	for _, f := range a.folios() {
		for _, s := range f.current() {
			if s.unit == code {
				return true
			}
		}
	}
	return false
}

// folios are the account's own and the one of the budgets over all clients.
func (a *Account) folios() [2]*folio {
	return [2]*folio{a.folio.Load(), a.p.everyone.folio.Load()}
}

// Reserve holds the worst that a call can cost, in all windows of the account and of the budgets over all clients, or in
// none. leave is the share of each limit, in percent, that must be left over (for the tail of open conversations).
// The error is a *Denied, or ErrUnavailable.
func (a *Account) Reserve(ctx context.Context, worst Cost, leave int, h *Hold) error {
	o := a.try(&worst, leave, h)
	if o.kind == tryHeld {
		return nil
	}
	w, err := a.p.notHeld(a, &worst, leave, h, o)
	if w == nil {
		return err
	}
	return a.p.await(ctx, w)
}

// reserve is Reserve that does not wait.
func (a *Account) reserve(worst Cost, leave int, h *Hold) (*purseWait, error) {
	o := a.try(&worst, leave, h)
	if o.kind == tryHeld {
		return nil, nil
	}
	return a.p.notHeld(a, &worst, leave, h, o)
}

// try holds from memory alone, and takes no lock.
func (a *Account) try(worst *Cost, leave int, h *Hold) outcome {
	p := a.p
	if p.shut.Load() {
		return outcome{kind: tryShut}
	}
	own, all := a.folio.Load(), p.everyone.folio.Load()
	if own == nil || all == nil || own.lapsed || all.lapsed {
		return outcome{kind: tryUnknown}
	}
	mono := p.mono()
	if now := p.ledgerTime(mono); now >= own.until || now >= all.until {
		return outcome{kind: tryTurned}
	}
	if own.terms.isPaused || all.terms.isPaused {
		return outcome{kind: tryPaused}
	}
	h.begin(p)
	amounts, tick := worst.amounts(), tickOf(mono)
	o := h.add(own.current(), &amounts, leave, tick)
	if o.kind == tryHeld {
		o = h.add(all.current(), &amounts, leave, tick)
	}
	if o.kind != tryHeld {
		h.undo()
		return o
	}
	a.used.Add(1)
	return o
}

// Room is about the most that Reserve would now hold, in each unit; the largest amount where no hard window counts the unit.
func (a *Account) Room(ctx context.Context, leave int) Cost {
	a.p.refresh(a)
	room := [len(unitCodes)]int64{math.MaxInt64, math.MaxInt64, math.MaxInt64}
	for _, f := range a.folios() {
		if f == nil {
			continue
		}
		for _, s := range f.current() {
			room[s.unit] = min(room[s.unit], s.room(leave))
		}
	}
	return Cost{Tokens: room[0], BRL: money.Pico(room[1]), USD: money.Pico(room[2])}
}

// Standing is how a window stands, for people.
type Standing struct {
	Unit     Unit
	Period   Period
	Shared   bool // over all clients: its figures are not for a client to see
	Limit    int64
	Used     int64
	Held     int64
	ResetsAt time.Time
	Zone     *time.Location
}

// Denied says that a call does not fit.
type Denied struct {
	Standing
	Paused bool   // by a person: Reason says why
	Reason string // a person's words
	Need   int64  // of the call, in the window's unit
}

func (d *Denied) Error() string {
	if d.Paused {
		return "budget paused: " + d.Reason
	}
	return fmt.Sprintf("%s %s budget: %d of %d used, %d held, %d needed", d.Period, d.Unit, d.Used, d.Limit, d.Held, d.Need)
}

// denied is the error for a call that is refused.
func (a *Account) denied(o outcome) *Denied {
	if o.kind != tryPaused {
		return &Denied{Standing: o.slot.standing(), Need: o.need}
	}
	d := &Denied{Paused: true}
	fs := a.folios()
	f := fs[0]
	if !f.terms.isPaused {
		f = fs[1]
	}
	d.Reason = f.terms.why
	if cur := f.current(); len(cur) > 0 {
		d.Standing = cur[0].standing()
	}
	d.Shared = f == fs[1]
	return d
}
