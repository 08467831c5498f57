package budget

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// simControl is the control plane: authorities and a worker over one database, which keeps its promises and fails in every
// way that it may.
type simControl struct {
	s           *sim
	memory      *Memory
	authorities [2]*Authority
	down        time.Time // until when the database does not answer
	restored    time.Time // when it last lost its end
	restores    int
	recorded    map[EventID]bool // by the usage log, of which each event is one row
	corrected   map[EventID]bool
	queue       []simDelivery
	works       bool // a round of the worker is planned

	lives []*simLife // all there ever were

	asking *Ask // whose answer is being worked out
	saved  *simSaved
}

type simDelivery struct {
	from   *simReplica
	events []*simUsage
}

// simSaved is a state of the database that it will fall back to.
type simSaved struct {
	memory    Snapshot
	oracle    *simOracle
	recorded  map[EventID]bool
	corrected map[EventID]bool
	budgets   []simBudget
}

var errSim = errors.New("simulated: the database does not answer")

func newSimControl(s *sim) *simControl {
	c := &simControl{s: s, recorded: map[EventID]bool{}, corrected: map[EventID]bool{}}
	c.memory = NewMemory(func() time.Time { return s.now })
	c.restart()
	return c
}

// restart makes new authorities: they keep nothing.
func (c *simControl) restart() {
	for i := range c.authorities {
		c.authorities[i] = NewAuthority(c, AuthorityOptions{})
	}
}

// Update is the database's, with what may go wrong: it is down, the transaction is rolled back, is run twice for a
// conflict, or is committed and nobody hears of it.
func (c *simControl) Update(ctx context.Context, f func(Tx) error) error {
	s := c.s
	if s.now.Before(c.down) || s.mishap(0.003) {
		return errSim
	}
	abort, again := s.mishap(0.003), s.mishap(0.003)
	var t *simTx
	if again {
		c.memory.Update(ctx, func(tx Tx) error {
			f(&simTx{Tx: tx, c: c})
			return errSim
		})
	}
	err := c.memory.Update(ctx, func(tx Tx) error {
		t = &simTx{Tx: tx, c: c}
		if c.asking != nil {
			t.refused, t.lending = c.asking.Refused, len(c.asking.Assert) == 0
		}
		if err := f(t); err != nil {
			return err
		}
		if abort {
			return errSim
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, errSim) || errors.Is(err, ErrStale) || errors.Is(err, ErrNotFound) {
			return err
		}
		s.failf(nil, "a transaction fails: %v", err)
	}
	if t.done != nil {
		*t.done = true
	}
	s.oracle.committed(t)
	for _, u := range t.recorded {
		c.logged(u)
	}
	if s.mishap(0.003) {
		return errSim
	}
	return nil
}

// simTx tells what a transaction writes, and holds it to the order of locks.
type simTx struct {
	Tx
	c        *simControl
	locked   []int64
	opened   []Window
	windows  []Window
	leases   []Lease
	alerts   []Alert
	added    []Doubt
	dropped  []Doubt
	recorded []*simUsage
	refused  []int64
	lending  bool
	done     *bool // set when it is committed
}

func (t *simTx) lock(ids []int64) {
	for _, id := range ids {
		if !slices.Contains(t.locked, id) {
			t.locked = append(t.locked, id)
		}
	}
}

func (t *simTx) Windows(ctx context.Context, ids []int64) ([]*Window, error) {
	t.lock(ids)
	return t.Tx.Windows(ctx, ids)
}

func (t *simTx) OpenWindows(ctx context.Context, ws []*Window) ([]*Window, []bool, error) {
	opened, isNew, err := t.Tx.OpenWindows(ctx, ws)
	for i, w := range opened {
		t.lock([]int64{w.ID})
		if isNew[i] {
			t.opened = append(t.opened, *w)
		}
	}
	return opened, isNew, err
}

func (t *simTx) holds(window int64, what string) {
	if !slices.Contains(t.locked, window) {
		t.c.s.failf([]string{simName(window)}, "%s of %s is written, and the window is not locked", what, simName(window))
	}
}

func (t *simTx) SaveWindows(ctx context.Context, ws []*Window) error {
	for _, w := range ws {
		t.holds(w.ID, "the row")
		t.windows = append(t.windows, *w)
	}
	return t.Tx.SaveWindows(ctx, ws)
}

func (t *simTx) SaveLeases(ctx context.Context, ls []*Lease) error {
	for _, l := range ls {
		t.holds(l.Window, "a lease")
		t.leases = append(t.leases, *l)
	}
	return t.Tx.SaveLeases(ctx, ls)
}

func (t *simTx) AddDoubts(ctx context.Context, ds []Doubt) error {
	for _, d := range ds {
		t.holds(d.Window, "a doubt")
	}
	t.added = append(t.added, ds...)
	return t.Tx.AddDoubts(ctx, ds)
}

func (t *simTx) DropDoubts(ctx context.Context, ds []Doubt) error {
	for _, d := range ds {
		t.holds(d.Window, "a doubt")
	}
	t.dropped = append(t.dropped, ds...)
	return t.Tx.DropDoubts(ctx, ds)
}

func (t *simTx) AddAlerts(ctx context.Context, as []Alert) error {
	t.alerts = append(t.alerts, as...)
	return t.Tx.AddAlerts(ctx, as)
}

// books is the transaction on the memory.
func (t *simTx) books() *memoryTx { return t.Tx.(*memoryTx) }

// lease answers a message.
func (c *simControl) lease(ask Ask) (Reply, error) {
	c.asking = &ask
	defer func() { c.asking = nil }()
	return c.authorities[c.s.r.IntN(len(c.authorities))].Lease(context.Background(), ask)
}

func (c *simControl) has(id EventID) bool { return c.recorded[id] }

// deliver brings events to the queue, now or later, once or twice.
func (c *simControl) deliver(from *simReplica, events []*simUsage) {
	s := c.s
	for range 1 + s.r.IntN(10)/9 {
		s.after(s.between(time.Millisecond, 400*time.Millisecond), func() {
			c.queue = append(c.queue, simDelivery{from, events})
			if !c.works {
				c.works = true
				s.after(s.between(10*time.Millisecond, time.Second), c.work)
			}
		})
	}
}

// work is a round of the worker: a batch, in any order, with repeats.
func (c *simControl) work() {
	s := c.s
	c.works = false
	queue := c.queue
	c.queue = nil
	var batch []*simUsage
	for _, d := range queue {
		batch = append(batch, d.events...)
	}
	if s.chance(0.5) {
		s.r.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	}
	for len(batch) > 0 {
		n := min(len(batch), 1+s.r.IntN(60))
		if !c.record(batch[:n]) {
			break
		}
		batch = batch[n:]
	}
	for _, d := range queue {
		known := slices.DeleteFunc(slices.Clone(d.events), func(u *simUsage) bool { return !c.has(u.EventID) })
		if len(known) == 0 || !s.now.Before(d.from.cut) && s.mishap(s.world.loss) {
			continue
		}
		s.after(s.between(5*time.Millisecond, 300*time.Millisecond), func() {
			if !s.now.Before(d.from.cut) {
				d.from.acked(slices.DeleteFunc(known, func(u *simUsage) bool { return !c.has(u.EventID) }))
			}
		})
	}
}

// record records events that are new, with their charges, in one transaction.
func (c *simControl) record(batch []*simUsage) bool {
	s := c.s
	var fresh []*simUsage
	var charges []Charge
	seen := map[EventID]bool{}
	for _, u := range batch {
		if c.recorded[u.EventID] || seen[u.EventID] {
			s.stats.Repeats++
			continue
		}
		seen[u.EventID] = true
		fresh = append(fresh, u)
		charges = append(charges, u.Charge)
	}
	if len(fresh) == 0 {
		return true
	}
	err := c.Update(context.Background(), func(tx Tx) error {
		t := tx.(*simTx)
		t.recorded = fresh
		for _, u := range fresh {
			t.books().events = append(t.books().events, u.EventID)
		}
		t.books().charges = charges
		return Settle(context.Background(), tx, charges)
	})
	return err == nil
}

// logged is what follows on an event in the log: of a call that was cut short the truth may become known.
func (c *simControl) logged(u *simUsage) {
	s := c.s
	if u.Correction {
		c.corrected[u.EventID] = true
		s.stats.Corrections++
		s.tracef("call %x/%d is corrected by %d", u.Incarnation, u.Seq, u.Tokens)
		return
	}
	c.recorded[u.EventID] = true
	u.unsettled(-1)
	c.homeless(u)
	s.tracef("call %x/%d is in the log: %d, doubt %v", u.Incarnation, u.Seq, u.Tokens, u.Doubt)
	if u.Doubt && s.chance(0.7) {
		s.after(s.between(5*time.Second, 10*time.Minute), func() { c.correct(u) })
	}
}

// homeless looks for windows that an event was held in and that a lost tail took away. Nobody has said yet that they were
// there, so nothing takes the event off its lease: until people do, its cost stays held.
func (c *simControl) homeless(u *simUsage) {
	for _, h := range u.Holds {
		if c.s.oracle.rows[h.Window] == nil {
			amount := u.takes(h)
			u.call.life.unsettled[h.Window] += amount
			u.call.life.gone = true
			c.s.oracle.truth(h.Window).bound += amount // should its incarnation be closed, that comes back a second time
			c.s.stats.Homeless++
		}
	}
}

// correct records what a call truly was, once.
func (c *simControl) correct(u *simUsage) {
	s := c.s
	if !c.recorded[u.EventID] || c.corrected[u.EventID] {
		return
	}
	truly := u.call.truly
	charge := Charge{EventID: u.EventID, Client: u.Client, AdmittedAt: u.AdmittedAt, Holds: u.Holds, Correction: true, Cost: Cost{
		Tokens: truly.Tokens - u.Tokens, BRL: truly.BRL - u.BRL, USD: truly.USD - u.USD, Unpriced: truly.Unpriced,
	}}
	c.Update(context.Background(), func(tx Tx) error {
		t := tx.(*simTx)
		t.recorded = []*simUsage{{Charge: charge, call: u.call}}
		t.books().charges = []Charge{charge}
		return Settle(context.Background(), tx, t.books().charges)
	})
	if !c.corrected[u.EventID] {
		s.after(s.between(time.Second, time.Minute), func() { c.correct(u) })
	}
}

// save keeps the state of the database, for it to fall back to.
func (c *simControl) save() {
	c.saved = &simSaved{c.memory.Snapshot(), c.s.oracle.copied(), maps.Clone(c.recorded), maps.Clone(c.corrected), nil}
	for _, b := range c.s.world.budgets {
		copied := *b
		copied.toppedUp = maps.Clone(b.toppedUp)
		c.saved.budgets = append(c.saved.budgets, copied)
	}
}

// fallBack is the database's loss of everything since save. The oracle knows which events the log lost that no spool has
// any more, and which budgets people will have to set again.
func (c *simControl) fallBack() {
	s, saved := c.s, c.saved
	if saved == nil {
		return
	}
	c.saved = nil
	s.stats.Restores++
	c.restores++
	c.restored = s.now
	s.tracef("the database loses its end")
	c.memory.Restore(saved.memory)
	lost := s.oracle.log[len(saved.oracle.log):]
	s.oracle.rows, s.oracle.order, s.oracle.log = saved.oracle.rows, saved.oracle.order, saved.oracle.log
	c.recorded, c.corrected = saved.recorded, saved.corrected
	for _, u := range lost {
		if u.Correction {
			continue
		}
		u.unsettled(1)
		if u.acked {
			s.stats.Gone++
			u.call.life.gone = true
		}
	}
	for i, b := range s.world.budgets {
		if i >= len(saved.budgets) {
			b.DeletedAt = s.now // it was created since
			continue
		}
		was := saved.budgets[i]
		b.Budget, b.hardAt, b.zonal, b.toppedUp = was.Budget, was.hardAt, was.zonal, was.toppedUp
		if b.pausedAt = s.now; !b.hardAt.IsZero() {
			b.hardAt = s.now // proxies may have heard of something else since
		}
	}
	for _, l := range c.lives {
		if !l.dead {
			l.wakeAt(s.now.Add(time.Second))
		}
		l.suspended = false // if it was, people say it again
		l.unsure = l.unsure || l.dead || s.now.Before(l.cut) || s.now.Before(l.paused)
	}
	c.down = s.now.Add(s.between(0, 20*time.Second))
}

// set writes what people set into the books. It tells whether that was done.
func (c *simControl) set(b *simBudget) bool {
	done := false
	c.Update(context.Background(), func(tx Tx) error {
		t := tx.(*simTx)
		t.done = &done
		t.books().budgets = append(t.books().budgets, b.Budget)
		if !b.DeletedAt.IsZero() {
			return nil
		}
		return AmendWindows(context.Background(), tx, b.Budget)
	})
	c.s.tracef("%s of %.8s is set (%v): %s %s %d, hard %v, %s day %d, paused %v, deleted %v", b.name(), b.ClientID, done, b.Period, b.Unit, b.Limit, b.PauseAtLimit, b.TimeZone, b.BillingDay, b.Paused, !b.DeletedAt.IsZero())
	return done
}

// topUp raises a limit for now.
func (c *simControl) topUp(b *simBudget, amount int64) {
	c.s.stats.TopUps++
	c.s.tracef("%s is topped up by %d", b.name(), amount)
	c.authorities[0].TopUp(context.Background(), b.ID, amount, "a person's words")
}

// tidy is what control planes do every now and then.
func (c *simControl) tidy() { c.authorities[1].Tidy(context.Background()) }

// suspendLost has people say which volumes are destroyed. At the end they look again: a message of one that was on its way
// all the time makes it alive once more.
func (c *simControl) suspendLost() {
	for _, l := range c.lives {
		if l.dead && (!l.suspended || c.s.calm) && (l.destroyed || l.gone && c.s.calm) {
			err := c.authorities[0].Suspend(context.Background(), l.incarnation, "its volume is gone")
			l.suspended = err == nil
			c.s.tracef("%s is suspended: %v", l.name, err)
		}
	}
}

// learns tells whether the ledger is hearing what proxies hold.
func (c *simControl) learns() bool { return !c.memory.at.epoch.Learning.IsZero() }

// stuck is what only people can free of a window: it was used by events that the ledger lost with its end, after the
// spools had let go of them.
func (c *simControl) stuck(row *simRow) (sum int64) {
	for _, l := range c.lives {
		if lease := row.leases[l.incarnation]; l.gone && !lease.Lost {
			// Below zero it is of an incarnation whose grant was forgotten, and found again by the event: that frees nothing.
			sum += max(0, l.unsettled[row.ID])
		}
	}
	return sum
}
