package budget

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// plan draws when calls come, what goes wrong, and what people do.
func (s *sim) plan() {
	w := s.world
	w.loss, w.doubling = s.r.Float64()*0.03, s.r.Float64()*0.05
	if s.chance(0.1) {
		w.loss = 0.2
	}
	at := func() time.Duration { return time.Duration(s.r.Int64N(int64(w.lasts))) }
	for range w.bursts {
		s.after(at(), s.burst)
	}
	faults := 4 + s.r.IntN(14) + len(s.replicas)/2
	for range faults {
		s.after(at(), s.fault)
	}
	for range 1 + s.r.IntN(6) + len(w.clients)/4 {
		s.after(at(), s.people)
	}
	if s.chance(0.35) {
		s.after(at(), s.tail)
	}
	s.upkeep()
}

// burst is a client in a hurry: many calls, close together.
func (s *sim) burst() {
	c := s.world.clients[s.r.IntN(len(s.world.clients))]
	gap := []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond, 4 * time.Second}[s.r.IntN(4)]
	var at time.Duration
	for range 3 + s.r.IntN(40) {
		at += time.Duration(s.r.ExpFloat64() * float64(gap))
		s.after(at, func() {
			if l := c.homes[s.r.IntN(len(c.homes))].life; l != nil && l.runs() && !s.calm {
				l.call(c)
				l.pump()
			}
		})
	}
}

// fault is one thing that goes wrong.
func (s *sim) fault() {
	if s.calm {
		return
	}
	r := s.replicas[s.r.IntN(len(s.replicas))]
	switch n := s.r.IntN(100); {
	case n < 36:
		r.kill(s.chance(0.15))
		s.after(s.between(100*time.Millisecond, 10*time.Minute), r.boot)
	case n < 50:
		r.pause(s.between(time.Second, 10*time.Minute))
	case n < 66:
		s.stats.Partitions++
		r.cut = s.now.Add(s.between(time.Second, 10*time.Minute))
		s.tracef("%s is cut off", r.name)
		if r.life != nil {
			r.life.cannotSpeak()
		}
	case n < 74:
		s.stats.Restarts++
		s.tracef("control planes restart")
		s.control.restart()
		s.control.queue = nil // the queue is flushed with it
	case n < 82:
		s.control.down = s.now.Add(s.between(time.Second, 3*time.Minute))
		s.tracef("the database is down")
	case n < 90: // orderly
		if l := r.life; l != nil && l.runs() {
			s.leave(l)
		}
	default: // many at once
		for _, r := range s.replicas {
			if s.chance(0.5) {
				r.kill(false)
				s.after(s.between(100*time.Millisecond, time.Minute), r.boot)
			}
		}
	}
}

// pause has a process stand still.
func (r *simReplica) pause(d time.Duration) {
	s, l := r.s, r.life
	if l == nil || !l.runs() {
		return
	}
	s.stats.Pauses++
	s.tracef("%s stands still for %v", l.name, d)
	r.paused = s.now.Add(d)
	l.cannotSpeak()
	s.after(d, func() { r.resume(l) })
}

func (r *simReplica) resume(l *simLife) {
	if r.life != l || l.dead || r.s.now.Before(r.paused) {
		return
	}
	r.s.tracef("%s goes on", l.name)
	l.wake = time.Time{}
	for len(r.later) > 0 && r.life == l {
		next := r.later[0]
		r.later = r.later[1:]
		next()
	}
	l.pump()
}

// leave stops a process as it should be stopped, and starts another one.
func (s *sim) leave(l *simLife) {
	s.tracef("%s is asked to leave", l.name)
	l.leaving = true
	l.purse.leave()
	l.pump()
	s.after(s.between(2*time.Second, 30*time.Second), func() {
		if l.simReplica.life == l {
			s.stats.Kills--
			l.kill(false)
			l.boot()
		}
	})
}

// tail has the database lose its end: what is committed from now on, until it does.
func (s *sim) tail() {
	if s.calm || s.control.saved != nil {
		return
	}
	s.tracef("what the database takes from now on it will lose")
	s.control.save()
	s.after(s.between(50*time.Millisecond, time.Minute), s.control.fallBack)
}

// people is one thing that people do.
func (s *sim) people() {
	if s.calm || s.now.Before(s.control.down) {
		return
	}
	w := s.world
	var live []*simBudget
	for _, b := range w.budgets {
		if b.DeletedAt.IsZero() {
			live = append(live, b)
		}
	}
	if len(live) == 0 {
		return
	}
	b := live[s.r.IntN(len(live))]
	was := b.Budget
	switch n := s.r.IntN(100); {
	case n < 20:
		b.Limit = max(1, b.Limit-s.r.Int64N(b.Limit))
	case n < 40:
		b.Limit += s.r.Int64N(b.Limit + 1)
	case n < 50:
		b.PauseAtLimit = !b.PauseAtLimit
	case n < 55:
		b.Alert80, b.Alert90, b.Thresholds = !b.Alert80, !b.Alert90, []int{1 + s.r.IntN(99)}
		for _, id := range s.oracle.order {
			if row := s.oracle.rows[id]; row.budget == b {
				row.exempt = row.LimitVersion // what was passed already is not alerted any more
			}
		}
	case n < 62:
		b.TimeZone, b.zonal = simZones[s.r.IntN(len(simZones))], true
	case n < 66:
		b.BillingDay, b.zonal = 1+s.r.IntN(31), true
	case n < 78:
		s.control.topUp(b, 1+s.r.Int64N(b.Limit))
		return
	case n < 86:
		b.Paused, b.PausedReason, b.pausedAt = !b.Paused, "a person's words", s.now
	case n < 92:
		s.stats.Deleted++
		b.DeletedAt = s.now
		if !s.control.set(b) {
			b.Budget = was
			return
		}
		s.told(b.ClientID)
		return
	default:
		client := uuid.Nil
		if s.chance(0.8) {
			client = w.clients[s.r.IntN(len(w.clients))].id
		}
		if b := s.createBudget(client); b != nil {
			s.told(client)
		}
		return
	}
	s.stats.Changes++
	if !s.control.set(b) {
		b.Budget = was
		return
	}
	switch {
	case b.PauseAtLimit && !was.PauseAtLimit:
		b.hardAt = s.now
	case !b.PauseAtLimit:
		b.hardAt = time.Time{}
	}
	s.told(b.ClientID)
}

// told has proxies hear of a change, each in its time.
func (s *sim) told(client uuid.UUID) {
	for _, r := range s.replicas {
		if r.life == nil {
			continue
		}
		l := r.life
		var hear func()
		hear = func() {
			if s.now.Before(l.cut) {
				s.after(l.cut.Sub(s.now)+time.Second, hear)
				return
			}
			l.awake(func() {
				l.stale = append(l.stale, simStale{client, s.now})
				l.purse.Stale(client)
				l.pump()
			})
		}
		s.after(s.between(5*time.Millisecond, 2*time.Second), hear)
	}
}

// upkeep is what control planes do now and then; and people, for volumes that they know to be destroyed.
func (s *sim) upkeep() {
	if !s.now.Before(s.control.down) {
		s.control.tidy()
		if s.chance(0.1) {
			s.control.suspendLost()
		}
	}
	wait := 20 * time.Second
	if s.oracle.busy() || s.control.learns() {
		wait = 2 * time.Second
	}
	s.after(wait, s.upkeep)
}

// end is what comes after: nothing fails any more, and everything must come to rest. Then what every hard budget has left
// must be there to be spent, and at last nothing may be held by anybody.
func (s *sim) end() {
	s.calm = true
	s.control.down = time.Time{}
	if s.control.saved != nil {
		s.control.fallBack()
		s.control.down = time.Time{}
	}
	s.tracef("calm")
	for _, r := range s.replicas {
		r.cut = time.Time{}
		if l := r.life; l != nil && !l.runs() {
			r.paused = s.now
			r.resume(l)
		}
		if r.life == nil {
			r.boot()
		}
	}
	s.until(s.now.Add(5 * time.Minute))
	for _, r := range s.replicas {
		if len(r.spool) > 0 || len(r.life.open) > 0 || len(r.life.waits) > 0 {
			s.failf([]string{r.name}, "long after the last fault %s has %d events, %d calls, %d waiting", r.life.name, len(r.spool), len(r.life.open), len(r.life.waits))
		}
	}
	s.control.suspendLost()
	s.oracle.whole()
	s.spending = true
	s.spendDown()
	for _, r := range s.replicas {
		r.life.leaving = true
		r.life.purse.leave()
		r.life.pump()
	}
	s.until(s.now.Add(30 * time.Second))
	for _, r := range s.replicas {
		if !r.life.purse.left() {
			s.failf([]string{r.life.name}, "%s cannot leave: %+v", r.life.name, r.life.purse.holding())
		}
	}
	// What ran last on each volume is closed by whoever looks at the volume next.
	for _, r := range s.replicas {
		r.life.dead, r.life = true, nil
		r.boot()
	}
	s.until(s.now.Add(30 * time.Second))
	s.control.suspendLost()
	s.oracle.whole()
	s.oracle.atRest()
}

// spendDown spends what hard budgets have left: all of it but less than one call must be there to be spent.
func (s *sim) spendDown() {
	w := s.world
	for _, b := range w.budgets {
		if b.Paused && b.DeletedAt.IsZero() {
			b.Paused = false
			s.control.set(b)
			s.told(b.ClientID)
		}
	}
	s.until(s.now.Add(20 * time.Second))
	clients := w.clients
	if len(clients) > 6 {
		first := s.r.IntN(len(clients) - 6)
		clients = clients[first : first+6]
	}
	for _, c := range clients {
		s.spend(c)
	}
}

// spend spends what a client has.
func (s *sim) spend(c *simClient) {
	hard := s.oracle.hardOf(c)
	if len(hard) == 0 {
		return
	}
	price := c.prices[0]
	cost := price.cost(c.worst)
	for _, row := range hard { // in few enough calls
		if left := row.limit() - row.used() - row.Suspense; left/40 > simAmount(&cost, row.Unit) {
			one := price.cost(1)
			cost = price.cost(left/40/max(1, one.In(row.Unit)) + 1)
		}
	}
	for range 3 { // corrections go on freeing what was in doubt
		if !s.spendAll(c, cost, price) {
			return // a period turned, or its limits are far away
		}
		s.until(s.now.Add(10 * time.Second))
		if hard = s.oracle.hardOf(c); slices.ContainsFunc(hard, func(row *simRow) bool { return s.left(row) < simAmount(&cost, row.Unit) }) {
			s.stats.Spends += len(hard)
			return
		}
	}
	about := []string{c.name}
	for _, row := range hard {
		about = append(about, simName(row.ID))
		s.tracef("%s: limit %d, used %d, held %d, suspense %d", simName(row.ID), row.limit(), row.used(), row.Held, row.Suspense)
		for _, l := range s.control.lives {
			if lease := row.leases[l.incarnation]; simRest(&lease) > 0 && !lease.Lost {
				s.tracef("%s: %s (dead %v, gone %v, left %v, unread %d, unsettled %d) has %+v", simName(row.ID), l.name, l.dead, l.gone, l.left, l.unread, l.unsettled[row.ID], lease)
			}
		}
	}
	s.failf(about, "stranded: %s is denied %d tokens, and each of its windows has room for that", c.name, cost.Tokens)
}

// left is what a window has to be spent.
func (s *sim) left(row *simRow) int64 {
	return row.limit() - row.used() - row.Suspense - s.control.stuck(row)
}

// spendAll makes calls until they are refused for good, and tells whether they are.
func (s *sim) spendAll(c *simClient, cost Cost, price simPrice) bool {
	denied := 0
	for range 400 {
		was := s.stats.Denied
		c.homes[s.r.IntN(len(c.homes))].life.spends(c, cost, price)
		s.until(s.now.Add(400 * time.Millisecond))
		if s.stats.Denied == was {
			denied = 0
			continue
		}
		if denied++; denied == 4 {
			return true
		}
		s.until(s.now.Add(3 * time.Second))
	}
	return false
}
