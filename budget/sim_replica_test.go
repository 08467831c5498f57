package budget

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// simReplica is a proxy's machine: a volume, and a process on it as often as one is started.
type simReplica struct {
	s    *sim
	n    int
	name string
	life *simLife // nil: dead

	volume []*simLife  // all that ran on the volume, the newest last
	spool  []*simUsage // what ended and the ledger is not known to have, in order
	ships  bool        // a round is planned
	paused time.Time   // until when the process stands still
	cut    time.Time   // until when no message comes or goes
	later  []func()    // what waits for the process to go on
}

// simLife is one run of the process: an incarnation.
type simLife struct {
	*simReplica
	name        string
	incarnation uint64
	purse       *Purse
	born        time.Time
	clock       time.Time // what the machine thought the time was when it was born
	drift       float64
	dead        bool
	destroyed   bool // with its volume
	suspended   bool // by a person
	left        bool
	gone        bool // the ledger lost events of it that the spool had let go of

	seq     uint64
	open    []*simCall
	unread  int // events that the spool has
	waits   []*simWait
	wake    time.Time
	busy    time.Time // when a call came last
	ask     Ask
	asking  bool
	sent    time.Time
	trip    time.Duration           // the longest that an answer was under way
	known   map[uuid.UUID]time.Time // clients: when the ledger told of their accounts
	clients []uuid.UUID             // of known, as they came

	done        uint64 // the newest message that was answered
	leaving     bool
	tale        int       // of the database's losses, which one it has come to terms with
	unsure      bool      // it could not speak when a lost database asked
	composed    time.Time // when the newest message was first sent
	content     time.Time // when it was first answered: of then is what the answer tells
	contentTale int
	stale       []simStale // what it heard of changes since the message before

	credit     map[int64]int64 // by window: granted less returned, as far as the purse was told and told others
	unsettled  map[int64]int64 // by window: what ended calls used of their holds, and the ledger has not settled
	stirs      bool
	lastDenied *Denied
}

// simStale is word of a change.
type simStale struct {
	client uuid.UUID
	at     time.Time
}

// simWait is a call that waits for the ledger.
type simWait struct {
	poll   func() (bool, error)
	giveUp func() error
	then   func(error)
	until  time.Time
}

// simCall is a call and what is true of it.
type simCall struct {
	life    *simLife
	client  *simClient
	id      EventID
	worst   Cost
	truly   Cost // what the upstream bills
	price   simPrice
	account *Account
	hold    Hold
	parts   []HeldFor // as the spool has them
	all     bool      // it costs its worst
	topping bool      // it waits for more
	over    bool      // and ends then
	counted []HeldFor // what the oracle counts
	at      time.Time // when it was admitted, as its event says
}

// simUsage is an event, or a correction of one.
type simUsage struct {
	Charge
	call  *simCall
	acked bool
}

func newSimReplica(s *sim, n int) *simReplica {
	return &simReplica{s: s, n: n, name: fmt.Sprintf("proxy%d", n)}
}

// boot starts the process. What was open on the volume ends as crashed.
func (r *simReplica) boot() {
	s := r.s
	if r.life != nil {
		return
	}
	l := &simLife{
		simReplica: r, incarnation: s.r.Uint64()>>1 | 1, born: s.now, drift: 1 + (s.r.Float64()-0.5)*1e-5,
		clock: s.now.Add(time.Duration(s.r.Int64N(int64(2*time.Hour))) - time.Hour),
		known: map[uuid.UUID]time.Time{}, credit: map[int64]int64{}, unsettled: map[int64]int64{}, tale: s.control.restores,
	}
	l.name = fmt.Sprintf("%s/%x", r.name, l.incarnation)
	for _, earlier := range r.volume {
		for _, c := range earlier.open {
			s.stats.Crashed++
			estimate := s.estimate(c)
			r.spool = append(r.spool, &simUsage{Charge: c.charge(estimate, true), call: c})
			earlier.unread++
		}
		earlier.open = nil
	}
	purse, err := OpenPurse(PurseOptions{Incarnation: l.incarnation, Name: r.name, Over: l.over, Now: l.time})
	if err != nil {
		s.failf(nil, "%s does not start: %v", l.name, err)
	}
	l.purse = purse
	r.volume, r.life = append(r.volume, l), l
	s.control.lives = append(s.control.lives, l)
	r.paused = time.Time{}
	r.later = nil
	s.tracef("%s starts", l.name)
	r.ship()
	l.pump()
}

// time is what the machine's clock says: some hours off, running on, a little too fast or too slow.
func (l *simLife) time() time.Time {
	return l.clock.Add(time.Duration(float64(l.s.now.Sub(l.born)) * l.drift))
}

// wall is what time calls are said to be admitted at: machines know the time, but in some stories they do not.
func (l *simLife) wall() time.Time {
	if l.s.world.skewed {
		return l.s.now.Add(l.clock.Sub(l.born)).Truncate(time.Microsecond)
	}
	return l.s.now.Truncate(time.Microsecond)
}

// slack is how wrong the process may be about the ledger's clock: it learned of it from messages.
func (l *simLife) slack() time.Duration {
	return l.trip + 5*time.Millisecond + l.s.now.Sub(l.born)/50_000
}

// over lists the lives that the volume has no event of any more.
func (l *simLife) over() (closes []Close) {
	for _, earlier := range l.volume {
		if earlier != l && earlier.unread == 0 && len(earlier.open) == 0 {
			closes = append(closes, Close{earlier.incarnation, earlier.seq})
		}
	}
	return closes
}

// runs tells whether the process does anything.
func (l *simLife) runs() bool { return !l.dead && !l.s.now.Before(l.paused) }

// awake does something now, or when the process goes on.
func (l *simLife) awake(do func()) {
	switch {
	case l.dead:
	case l.runs():
		do()
	default:
		l.later = append(l.later, do)
	}
}

// pump lets the purse do what is due.
func (l *simLife) pump() {
	if !l.runs() {
		return
	}
	s := l.s
	for again := true; again; {
		again = false
		for i := 0; i < len(l.waits); i++ {
			w := l.waits[i]
			done, err := w.poll()
			if !done && !s.now.Before(w.until) {
				err, done = w.giveUp(), true
			}
			if done {
				l.waits = slices.Delete(l.waits, i, i+1)
				w.then(err)
				again = true
				break
			}
		}
	}
	if !l.asking {
		if ask, ok := l.purse.next(); ok {
			l.send(ask)
		}
	}
	s.oracle.stir(l)
	if d, ok := l.purse.due(); ok {
		if d > 500*time.Millisecond && len(l.waits) == 0 && s.now.Sub(l.busy) > 10*time.Second && !l.hasty() {
			d += s.world.lag // nothing happens here, and the machine has better things to do
		}
		l.wakeAt(s.now.Add(max(d, 10*time.Millisecond)))
	}
}

// hasty tells whether the process should do things as soon as they are due.
func (l *simLife) hasty() bool {
	c := l.s.control
	return l.leaving || l.s.spending || !c.restored.IsZero() && l.s.now.Sub(c.restored) < time.Minute
}

func (l *simLife) wakeAt(t time.Time) {
	if !l.wake.IsZero() && !t.Before(l.wake) && l.wake.After(l.s.now) {
		return
	}
	l.wake = t
	l.s.after(t.Sub(l.s.now), func() {
		if l.wake.Equal(t) {
			l.awake(func() { l.wake = time.Time{}; l.pump() })
		}
	})
}

// send sends a message, and it meets with what messages meet with.
func (l *simLife) send(ask Ask) {
	s := l.s
	if ask.Op != l.ask.Op {
		l.composed, l.content = s.now, time.Time{}
		for _, r := range ask.Return {
			l.credit[r.Window] -= r.Amount
		}
	}
	l.ask, l.asking, l.sent = ask, true, s.now
	sent := s.now
	ask.Open, ask.Want, ask.Return = slices.Clone(ask.Open), slices.Clone(ask.Want), slices.Clone(ask.Return)
	ask.Refused, ask.Watch = slices.Clone(ask.Refused), slices.Clone(ask.Watch)
	ask.Close, ask.Assert = slices.Clone(ask.Close), slices.Clone(ask.Assert)
	s.traceAsk(l, &ask)
	copies := 1
	if s.mishap(s.world.doubling) {
		copies = 2
		s.stats.Doubled++
	}
	s.stats.Messages++
	for i := range copies {
		delay := s.between(time.Millisecond, 40*time.Millisecond)
		if s.mishap(0.03) || i > 0 {
			delay = s.between(time.Millisecond, 8*time.Second)
		}
		if s.now.Before(l.cut) || s.mishap(s.world.loss) {
			l.loses()
			continue
		}
		s.after(delay, func() { l.arrives(ask, sent) })
	}
	op := ask.Op
	s.after(3*time.Second, func() {
		l.awake(func() {
			if l.asking && l.ask.Op == op && l.sent.Equal(sent) {
				l.asking = false
				l.purse.failed(ErrUnavailable)
				l.pump()
			}
		})
	})
}

// arrives is a message at the control plane.
func (l *simLife) arrives(ask Ask, sent time.Time) {
	s := l.s
	reply, err := s.control.lease(ask)
	tale := s.control.restores
	if err == nil && ask.Op == l.ask.Op && (l.content.IsZero() || tale != l.contentTale) {
		l.content, l.contentTale = s.now, tale // a repeated answer is as old as it was
	}
	s.traceReply(l, &ask, &reply, err)
	if s.now.Before(l.cut) || s.mishap(s.world.loss) {
		l.loses()
		return
	}
	for range 1 + s.r.IntN(20)/19 {
		delay := s.between(time.Millisecond, 40*time.Millisecond)
		if s.mishap(0.03) {
			delay = s.between(time.Millisecond, 8*time.Second)
		}
		s.after(delay, func() {
			if !l.runs() && s.chance(0.7) {
				l.loses() // the connection is gone by the time that the process goes on
				return
			}
			l.awake(func() { l.answered(ask.Op, reply, err, sent, tale) })
		})
	}
}

// answered is an answer at the proxy.
func (l *simLife) answered(op uint64, reply Reply, err error, sent time.Time, tale int) {
	s := l.s
	if err != nil {
		if l.asking && l.ask.Op == op && l.sent.Equal(sent) {
			l.asking = false
			l.purse.failed(err)
			l.pump()
		}
		return
	}
	if l.ask.Op == op && !l.left && l.fresh(op) {
		l.trip = max(l.trip, s.now.Sub(sent))
		for _, g := range reply.Grants {
			l.credit[g.Window] += g.Amount
		}
		for _, a := range reply.Accounts {
			if _, ok := l.known[a.Client]; !ok {
				l.clients = append(l.clients, a.Client)
			}
			l.known[a.Client] = l.content
		}
		for i := 0; i < len(l.stale); i++ {
			if st := l.stale[i]; st.at.Before(l.composed) {
				if was, ok := l.known[st.client]; ok && was.Before(st.at) {
					l.known[st.client] = st.at
				}
				l.stale = slices.Delete(l.stale, i, i+1)
				i--
			}
		}
		l.asking, l.done = false, op
		if tale == s.control.restores && !reply.Assert {
			l.tale = tale
		}
	}
	l.purse.replied(reply)
	if l.purse.left() && !l.left {
		l.left = true
		s.tracef("%s has left", l.name)
	}
	l.pump()
}

func (l *simLife) fresh(op uint64) bool { return op > l.done }

// call is a call of a client that comes in.
func (l *simLife) call(client *simClient) {
	s := l.s
	s.stats.Calls++
	l.busy = s.now
	c := &simCall{life: l, client: client, price: client.prices[s.r.IntN(2)]}
	c.at = l.wall()
	c.worst = c.price.cost(1 + s.r.Int64N(client.worst))
	l.account(c)
}

// account finds the client's account, with a question where it must.
func (l *simLife) account(c *simCall) {
	a, w := l.purse.account(c.client.id)
	if w == nil {
		c.account = a
		l.reserve(c, false)
		return
	}
	l.wait(w, func(err error) {
		if err != nil {
			l.s.stats.Unavailable++
			return
		}
		l.account(c)
	})
}

func (l *simLife) wait(w *purseWait, then func(error)) {
	until := l.s.now.Add(250 * time.Millisecond)
	l.waits = append(l.waits, &simWait{w.poll, func() error { return l.purse.giveUp(w) }, then, until})
	l.wakeAt(until)
}

func (l *simLife) reserve(c *simCall, asked bool) {
	s := l.s
	if c.account == nil {
		l.admit(c)
		return
	}
	if s.chance(0.02) && !c.all && !c.account.Counts(BRL) && !c.account.Counts(USD) {
		c.worst = Cost{Tokens: c.worst.Tokens, Unpriced: true}
	}
	w, err := c.account.reserve(c.worst, 0, &c.hold)
	if w != nil {
		l.wait(w, func(err error) { l.reserved(c, err, true) })
		return
	}
	l.reserved(c, err, asked)
}

func (l *simLife) reserved(c *simCall, err error, asked bool) {
	s := l.s
	var denied *Denied
	switch {
	case errors.As(err, &denied):
		s.stats.Denied++
		s.tracef("%s: %s is denied %d: %v", l.name, c.client.name, c.worst.Tokens, err)
		l.lastDenied = denied
	case errors.Is(err, ErrUnavailable):
		s.stats.Unavailable++
		s.tracef("%s: %s finds no ledger", l.name, c.client.name)
	case err != nil:
		s.failf([]string{l.name}, "%s: reserve says %v", l.name, err)
	default:
		if asked {
			s.stats.Asked++
		} else {
			s.stats.Local++
		}
		l.admit(c)
	}
}

// admit opens the call in the spool and sends it upstream. What it will be billed is settled here, for the oracle.
func (l *simLife) admit(c *simCall) {
	s := l.s
	l.seq++
	c.id = EventID{l.incarnation, l.seq}
	c.parts = slices.Clone(c.hold.Parts())
	tokens := s.r.Int64N(c.worst.Tokens + 1)
	switch n := s.r.IntN(100); {
	case c.all:
		tokens = c.worst.Tokens
	case n < 70:
		tokens /= 2
	case n < 80:
		tokens = c.worst.Tokens
	case n == 80:
		tokens = c.worst.Tokens + 1 + s.r.Int64N(c.worst.Tokens)
		s.stats.Overruns++
	}
	c.truly = c.cost(tokens)
	l.open = append(l.open, c)
	s.tracef("%s: call %d of %s holds %v, will cost %d", l.name, c.id.Seq, c.client.name, c.parts, tokens)
	s.oracle.admitted(c)
	lasts := s.between(50*time.Millisecond, 40*time.Second)
	if c.all {
		lasts = 50 * time.Millisecond
	} else if s.chance(0.03) {
		lasts = s.between(time.Minute, 4*time.Minute)
	}
	if s.chance(0.04) && !c.all {
		s.after(lasts/2, func() { l.awake(func() { l.topUp(c) }) })
	}
	s.after(lasts, func() { l.awake(func() { l.ends(c) }) })
}

// cost is what so many tokens of the call cost.
func (c *simCall) cost(tokens int64) Cost {
	if c.worst.Unpriced {
		return Cost{Tokens: tokens, Unpriced: true}
	}
	return c.price.cost(tokens)
}

// topUp has a call outrun its hold.
func (l *simLife) topUp(c *simCall) {
	s := l.s
	if len(c.parts) == 0 || !slices.Contains(l.open, c) {
		return
	}
	c.topping = true
	more := c.cost(1 + s.r.Int64N(c.client.worst/2))
	then := func(ok bool) {
		c.topping = false
		if c.over {
			defer l.ends(c)
		}
		if !ok {
			return
		}
		s.stats.Topped++
		extra := s.r.Int64N(more.Tokens + 1)
		before := c.truly
		if before.Tokens > c.worst.Tokens {
			extra = 0
		}
		c.worst = c.cost(c.worst.Tokens + more.Tokens)
		c.truly = c.cost(before.Tokens + extra)
		c.parts = slices.Clone(c.hold.Parts()) // written to the spool before more of the stream passes
		s.tracef("%s: call %d is topped up to %v, will cost %d", l.name, c.id.Seq, c.parts, c.truly.Tokens)
		s.oracle.count(c)
	}
	w, ok := c.hold.topUp(more)
	if w == nil {
		then(ok)
		l.pump()
		return
	}
	l.wait(w, func(err error) { then(err == nil) })
	l.pump()
}

// ends is the end of a call: in the purse, and in the spool.
func (l *simLife) ends(c *simCall) {
	s := l.s
	i := slices.Index(l.open, c)
	if c.over = c.topping; i < 0 || c.topping {
		return
	}
	l.open = slices.Delete(l.open, i, i+1)
	cost, doubt := c.truly, false
	switch n := s.r.IntN(100); {
	case c.all:
		c.hold.Settle(cost, false)
	case n < 3: // it never reached the upstream
		cost = c.cost(0)
		c.truly = cost
		s.oracle.count(c)
		c.hold.Release()
	case n < 12 && (c.client.policy == nil || !c.client.policy.AcceptEstimates):
		s.stats.CutShort++
		doubt = true
		cost = s.estimate(c)
		c.hold.Settle(cost, true)
	default:
		c.hold.Settle(cost, false)
	}
	s.tracef("%s: call %d ends, %d tokens, doubt %v", l.name, c.id.Seq, cost.Tokens, doubt)
	u := &simUsage{Charge: c.charge(cost, doubt), call: c}
	u.unsettled(1)
	l.spool = append(l.spool, u)
	l.unread++
	l.ship()
	l.pump()
}

// estimate is what is thought of a call that was cut short: never more than it was.
func (s *sim) estimate(c *simCall) Cost { return c.cost(s.r.Int64N(c.truly.Tokens + 1)) }

func (c *simCall) charge(cost Cost, doubt bool) Charge {
	return Charge{EventID: c.id, Client: c.client.id, AdmittedAt: c.at, Cost: cost, Holds: c.parts, Doubt: doubt}
}

// takes is what an event takes of a hold: with doubt, all of it.
func (u *simUsage) takes(h HeldFor) int64 {
	if u.Doubt {
		return h.Amount
	}
	return min(h.Amount, simAmount(&u.Cost, u.call.life.s.oracle.truth(h.Window).unit))
}

// unsettled adds what an event takes of its holds to what the ledger is still to settle, or takes it off.
func (u *simUsage) unsettled(sign int64) {
	for _, h := range u.Holds {
		u.call.life.unsettled[h.Window] += sign * u.takes(h)
	}
}

// loses is a message that does not come.
func (l *simLife) loses() {
	l.s.stats.Lost++
	l.cannotSpeak()
}

// cannotSpeak notes that the proxy may be late in telling a ledger that forgot what it has.
func (l *simLife) cannotSpeak() {
	if l.tale != l.s.control.restores {
		l.unsure = true
	}
}

// kill ends the process at once; the volume may be lost with it.
func (r *simReplica) kill(destroy bool) {
	s, l := r.s, r.life
	if l == nil {
		return
	}
	s.stats.Kills++
	s.tracef("%s is killed, volume destroyed: %v", l.name, destroy)
	l.cannotSpeak()
	l.dead, r.life = true, nil
	if destroy {
		s.stats.Destroyed++
		for _, earlier := range r.volume {
			earlier.destroyed, earlier.dead = true, true
		}
		r.volume, r.spool = nil, nil
	}
}

// ship sends what the spool has to the worker, now and then, until the ledger is known to have it.
func (r *simReplica) ship() {
	s := r.s
	if r.ships || len(r.spool) == 0 {
		return
	}
	r.ships = true
	s.after(s.between(20*time.Millisecond, 1500*time.Millisecond), func() {
		r.ships = false
		l := r.life
		if l == nil {
			return // the next process ships
		}
		l.awake(func() {
			batch := r.spool[:min(len(r.spool), 40)]
			if !s.now.Before(r.cut) && !s.mishap(s.world.loss) {
				s.control.deliver(r, slices.Clone(batch))
			}
			r.ship()
		})
	})
}

// acked is the ledger's word that it has events: the spool lets go of them.
func (r *simReplica) acked(events []*simUsage) {
	for _, u := range events {
		if i := slices.Index(r.spool, u); i >= 0 {
			r.spool = slices.Delete(r.spool, i, i+1)
			u.acked = true
			u.call.life.unread--
		}
	}
	if r.life != nil {
		r.life.awake(r.life.pump)
	}
}

// spends is a call at the end of the story, which costs all that it may.
func (l *simLife) spends(client *simClient, cost Cost, price simPrice) {
	c := &simCall{life: l, client: client, price: price, worst: cost, at: l.s.now.Truncate(time.Microsecond), all: true}
	l.account(c)
	l.pump()
}

func (s *sim) traceAsk(l *simLife, a *Ask) {
	if s.out == nil {
		return
	}
	text := fmt.Sprintf("%s asks %d (epoch %d):", l.name, a.Op, a.Epoch)
	for _, o := range a.Open {
		text += fmt.Sprintf(" open %.8s need %d ahead %v;", o.Client, o.Need.Tokens, o.Ahead)
	}
	for _, w := range a.Want {
		text += fmt.Sprintf(" want %s %d/%d/%d;", simName(w.Window), w.Least, w.Need, w.More)
	}
	for _, r := range a.Return {
		text += fmt.Sprintf(" return %s %d;", simName(r.Window), r.Amount)
	}
	for _, r := range a.Assert {
		text += fmt.Sprintf(" assert %s %d-%d;", simName(r.Window), r.Granted, r.Returned)
	}
	for _, c := range a.Close {
		text += fmt.Sprintf(" close %x %d;", c.Incarnation, c.Last)
	}
	s.tracef("%s refused %d, watch %d, leaving %v", text, a.Refused, a.Watch, a.Leaving)
}

func (s *sim) traceReply(l *simLife, a *Ask, r *Reply, err error) {
	if s.out == nil {
		return
	}
	text := fmt.Sprintf("%s is answered %d (epoch %d, learning %v, assert %v):", l.name, a.Op, r.Epoch, r.Learning, r.Assert)
	for _, g := range r.Grants {
		text += fmt.Sprintf(" grant %s %d;", simName(g.Window), g.Amount)
	}
	for _, st := range r.Accounts {
		text += fmt.Sprintf(" account %.8s %d next %d paused %v;", st.Client, st.Windows, st.Next, st.IsPaused)
	}
	for _, w := range r.Windows {
		text += fmt.Sprintf(" %s free %d of %d exact %v;", simName(w.ID), w.Free, w.Limit, w.Exact)
	}
	s.tracef("%s closed %x %v", text, r.Closed, err)
}
