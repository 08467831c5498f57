package budget

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

func (p *Purse) failedLocked(err error) {
	if p.under == nil || p.finished {
		return
	}
	p.failures.Add(1)
	if errors.Is(err, ErrStale) {
		p.finished = true
		p.shut.Store(true)
		p.log.Error("The authority has done with this run of the proxy: nothing is lent to it any more, and clients with hard budgets are refused. Restart the proxy. If this comes again, two proxies share one spool, or the authority was set back",
			"incarnation", p.o.Incarnation, "op", p.under.Op, "error", err)
		for _, w := range p.waits {
			if !w.ended {
				w.end(ErrUnavailable)
			}
		}
		p.sweepWaits()
		return
	}
	if p.retries == 0 {
		p.log.Warn("The ledger of budgets does not answer; what is held lasts, and calls beyond it are refused", "op", p.under.Op, "error", err)
	}
	p.lost = true
	p.retryAt = p.mono() + min(retryFirst<<min(p.retries, 10), retryMost)
	p.retries++
}

// replied takes in the answer to the message under way. Any other answer is of the past and is ignored.
func (p *Purse) replied(r Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.under == nil || r.Op != p.under.Op || p.finished {
		return
	}
	if p.retries > 0 {
		p.log.Info("The ledger of budgets answers again", "op", r.Op, "tries", p.retries+1)
	}
	now := p.mono()
	tick := tickOf(now)
	p.setClock(r.At.UnixNano(), now)
	p.answeredAt.Store(max(int64(now), 1))
	for _, ret := range p.under.Return {
		s := p.sent[ret.Window]
		p.count(s, 0, ret.Amount)
	}
	if r.Assert || r.Epoch != p.epoch && p.epoch != 0 {
		// The ledger may have forgotten what was lent, which runs were closed, and what people set.
		p.assert = true
		p.reopenAll()
		maps.Copy(p.again, p.closed)
		p.overAt = 0
	}
	p.epoch, p.learning = r.Epoch, r.Learning
	p.sortIn(&r, now, tick)
	for _, in := range r.Closed {
		p.forget(in)
	}
	if p.under.Leaving {
		p.hasLeft = true
	}
	p.under, p.sent = nil, nil
	p.judge(tick)
	p.serve()
	if len(p.waits) > 0 {
		p.slowUntil = now + gapInVain
		if p.learning {
			p.slowUntil = now + 4*gapInVain
		}
	}
}

// setClock learns the authority's clock. What it was at some time between the sending and now sets bounds to what it is;
// an answer that was long under way does not set it back.
func (p *Purse) setClock(at int64, now time.Duration) {
	earliest, latest := at-int64(now), at-int64(p.sentAt)
	if p.answeredAt.Load() == 0 {
		p.ledgerAt.Store(earliest)
		return
	}
	p.ledgerAt.Store(min(max(p.ledgerAt.Load(), earliest), latest))
}

// count adds to what was granted and returned of a slot, as answered.
func (p *Purse) count(s *slot, granted, returned int64) {
	before := s.granted > s.returned
	s.granted += granted
	s.returned += returned
	switch after := s.granted > s.returned; {
	case after && !before:
		p.leases++
	case before && !after:
		p.leases--
	}
}

// sortIn takes in accounts, windows and grants.
func (p *Purse) sortIn(r *Reply, now time.Duration, tick uint32) {
	states := make(map[int64]*WindowState, len(r.Windows))
	slots := make(map[int64]*slot, len(r.Windows))
	for i := range r.Windows {
		states[r.Windows[i].ID] = &r.Windows[i]
	}
	for i := range r.Accounts {
		p.sortInAccount(&r.Accounts[i], states, p.ledgerTime(now), tick)
	}
	for i := range r.Windows {
		w := &r.Windows[i]
		s := p.find(w.Client, w.ID)
		if s == nil {
			s = p.sent[w.ID]
		}
		if s == nil {
			continue
		}
		slots[w.ID] = s
		s.state(w, tick)
		switch {
		case w.Exact && w.Recall > s.recall:
			s.recall = w.Recall
			p.back[s] = true
			fallthrough
		case w.Exact:
			s.flags.Or(slotExact)
		case !p.leaving:
			s.flags.And(^uint32(slotExact))
		}
		if !s.is(slotRetired) && (!w.Hard || w.EndsAt.UnixNano() != s.period.Load().end) {
			p.reopen(w.Client) // it is not what it was
		}
	}
	for _, g := range r.Grants {
		if g.Amount <= 0 {
			continue
		}
		s := slots[g.Window]
		if s == nil {
			s = p.sent[g.Window]
		}
		if s == nil {
			s = p.stray(states[g.Window], g)
		}
		if s != nil {
			p.granted(s, g.Amount)
		}
	}
	for id := range p.sent {
		s := p.sent[id]
		if e := s.effort.Load(); e != nil { // it may ask again, but not before half of what there is now is used up
			low, _, _ := e.marks()
			e.low.Store(min(low, s.avail.Load()/2))
		}
	}
}

// granted adds what the authority gave.
func (p *Purse) granted(s *slot, amount int64) {
	p.count(s, amount, 0)
	if e := s.effort.Load(); e != nil {
		e.last += amount
	}
	s.avail.Add(amount)
	if s.is(slotExact | slotRetired) {
		p.back[s] = true // what is left of it once the calls that wait are served
	}
}

// stray makes a slot for a grant of a window that no account here has, so that it is counted and goes back.
func (p *Purse) stray(w *WindowState, g Grant) *slot {
	if w == nil {
		p.log.Error("BUG: a grant of a window that was neither asked for nor described; it stays with the lease until this run is closed", "window", g.Window, "amount", g.Amount)
		return nil
	}
	s := p.slotFor(w)
	if s == nil {
		return nil
	}
	p.retire(w.Client, s)
	return s
}

// find is the slot of a window, of an account or of those that no account has any more.
func (p *Purse) find(client uuid.UUID, id int64) *slot {
	if a := p.accountOf(client, false); a != nil {
		if f := a.folio.Load(); f != nil {
			for _, s := range f.slots {
				if s.id == id {
					return s
				}
			}
		}
	}
	return p.retired[id].slot
}

// sortInAccount takes in the state of one account.
func (p *Purse) sortInAccount(st *AccountState, states map[int64]*WindowState, ledger int64, tick uint32) {
	a := p.accountOf(st.Client, true)
	var slots []*slot
	for _, id := range slices.Concat(st.Windows, st.Next) {
		w := states[id]
		if w == nil {
			p.log.Error("BUG: the authority names a window that it does not describe; the account is asked for again", "client", st.Client, "window", id)
			p.reopenLater(st.Client, false)
			return
		}
		if !w.Hard {
			continue
		}
		s := p.find(st.Client, id)
		if s == nil {
			s = p.slotFor(w)
		}
		if s == nil {
			p.reopenLater(st.Client, false)
			return
		}
		s.period.Store(p.periodOf(w))
		if _, was := p.retired[id]; was {
			delete(p.retired, id)
			s.flags.And(^uint32(slotRetired))
		}
		slots = append(slots, s)
	}
	old := a.folio.Load()
	p.arrange(a, p.termsOf(st), slots, ledger, tick)
	if old != nil {
		p.retireOthers(a, old.slots)
	}
	p.retireOthers(a, slots)
}

// arrange makes a folio of slots by what time it is. A window that has ended is in it no more; where nothing is known of
// what came after it, the folio has lapsed, and the account is asked for again before a call is let through.
func (p *Purse) arrange(a *Account, terms *purseTerms, slots []*slot, ledger int64, readAt uint32) {
	f := &folio{terms: terms, readAt: readAt}
	var later []*slot
	for _, s := range slots {
		switch t := s.period.Load(); {
		case t.end <= ledger:
			f.lapsed = f.lapsed || !slices.ContainsFunc(slots, func(o *slot) bool {
				after := o.period.Load()
				return o.budget == s.budget && after.start <= ledger && ledger < after.end
			})
		case t.start <= ledger:
			f.slots = append(f.slots, s)
		default:
			later = append(later, s)
		}
	}
	if len(f.slots) > MaxBudgets {
		p.log.Error("BUG: an account has more hard windows than there can be budgets; its calls are refused", "client", a.client, "windows", len(f.slots))
		f.slots, later, f.lapsed = nil, nil, true
	}
	byID := func(x, y *slot) int { return cmp.Compare(x.id, y.id) }
	slices.SortFunc(f.slots, byID)
	slices.SortFunc(later, byID)
	f.now = uint8(len(f.slots))
	f.slots = slices.Clip(append(f.slots, later...))
	f.until = f.end()
	a.folio.Store(f)
}

// retireOthers retires those of the slots that an account does not have any more.
func (p *Purse) retireOthers(a *Account, slots []*slot) {
	f := a.folio.Load()
	for _, s := range slots {
		if !slices.Contains(f.slots, s) {
			p.retire(a.client, s)
		}
	}
}

// end is when a folio ceases to be true of now.
func (f *folio) end() int64 {
	until := int64(1<<63 - 1)
	for _, s := range f.current() {
		until = min(until, s.period.Load().end)
	}
	for _, s := range f.next() {
		until = min(until, s.period.Load().start)
	}
	return until
}

// slotFor makes the slot of a window, or takes up again what was dropped of it.
func (p *Purse) slotFor(w *WindowState) *slot {
	unit, ok := unitCode(w.Unit)
	if !ok {
		p.log.Error("The authority lends a unit that this proxy does not know: bring the proxy up to date. Until then the client's calls are refused", "client", w.Client, "unit", w.Unit)
		return nil
	}
	s := &slot{unit: unit, shared: w.Client == uuid.Nil, id: w.ID, budget: w.Budget}
	s.period.Store(p.periodOf(w))
	if g, was := p.ghosts[w.ID]; was {
		delete(p.ghosts, w.ID)
		p.count(s, g.Granted, g.Returned)
	}
	return s
}

// periodOf shares one period among all windows that have it in common.
func (p *Purse) periodOf(w *WindowState) *pursePeriod {
	k := periodKey{w.Period, w.TimeZone, w.StartsAt.UnixNano(), w.EndsAt.UnixNano()}
	if have := p.periods[k]; have != nil {
		return have
	}
	zone, err := time.LoadLocation(w.TimeZone)
	if err != nil {
		p.log.Warn("A budget's time zone is not known to this proxy; times are shown in UTC", "zone", w.TimeZone)
		zone = time.UTC
	}
	period := &pursePeriod{period: w.Period, start: k.start, end: k.end, zone: zone}
	p.periods[k] = period
	return period
}

// termsOf shares one set of terms among all accounts that have it in common.
func (p *Purse) termsOf(st *AccountState) *purseTerms {
	k := termsKey{isPaused: st.IsPaused, fallback: st.Policy == nil}
	if st.Policy != nil {
		k.policy = *st.Policy
	}
	if st.IsPaused {
		k.why = st.Paused
	}
	if have := p.terms[k]; have != nil {
		return have
	}
	if len(p.terms) >= mostTerms { // only to share: what is in use stays in use
		clear(p.terms)
	}
	t := &purseTerms{policy: &k.policy, isPaused: k.isPaused, why: k.why, fallback: k.fallback}
	p.terms[k] = t
	return t
}

// mostTerms bounds what is remembered for sharing.
const mostTerms = 10_000
