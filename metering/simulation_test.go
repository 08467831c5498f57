package metering

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

var (
	simSeeds = flag.Uint64("seeds", 2000, "how many seeds TestSimulation runs")
	simSeed  = flag.Uint64("seed", 0, "the one seed that TestSimulation runs, with its steps printed")
)

// TestSimulation runs spools, shippers and workers, the real ones, through lives full of accidents. One seed is one such
// life: everything in it, time too, comes from the seed, in one goroutine, so a seed that fails fails again.
func TestSimulation(t *testing.T) {
	if *simSeed > 0 {
		s := newSim(*simSeed)
		s.out = os.Stdout
		if err := s.live(); err != nil {
			t.Fatal(err)
		}
		return
	}
	var next, crashes, calls atomic.Uint64
	var fewest atomic.Int64
	fewest.Store(1 << 30)
	var lives sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		lives.Go(func() {
			for seed := next.Add(1); seed <= *simSeeds && !t.Failed(); seed = next.Add(1) {
				s := newSim(seed)
				if err := s.live(); err != nil {
					t.Errorf("%v\nreplay: go test ./metering -run TestSimulation -seed %d", err, seed)
					return
				}
				crashes.Add(uint64(s.crashes))
				calls.Add(uint64(len(s.all)))
				fewest.Store(min(fewest.Load(), int64(s.crashes)))
			}
		})
	}
	lives.Wait()
	if !t.Failed() {
		t.Logf("%d seeds, %d calls, %d crashes, %d at the least in a seed", *simSeeds, calls.Load(), crashes.Load(), fewest.Load())
	}
}

// sim is one life.
type sim struct {
	seed    uint64
	r       *rand.Rand
	now     time.Time
	quiet   bool // nothing fails any more
	out     *os.File
	depth   int // of steps within steps
	crashes int

	proxies  []*simProxy
	workers  []*simWorker
	queue    *simQueue
	ledger   *simLedger
	calls    map[simID]*simCall
	all      []*simCall
	phantoms map[simID][]Event // whose Open failed with its record written
	used     map[uint64]bool   // incarnations
	at       map[string][]*simCall
}

// simView is a process as long as it lives. What was given to it fails when it is dead.
type simView struct {
	s    *sim
	name string
	busy map[string]bool
	end  func(power bool) // nil once it is dead
	safe bool             // from accidents
}

type simDied struct{ v *simView }

type simFailure string

func (v *simView) dead() bool { return v.end == nil }

// point is a place between two steps, or within one: time passes, others may act, and the process may die.
func (v *simView) point(where string) {
	s := v.s
	if v.dead() {
		panic(simDied{v})
	}
	if s.quiet || v.safe {
		return
	}
	s.now = s.now.Add(time.Duration(s.r.IntN(500)) * time.Microsecond)
	if s.chance(0.004) {
		v.die(where, s.chance(0.4))
	}
	if s.depth < 2 && s.chance(0.06) {
		s.depth++
		s.step()
		s.depth--
		if v.dead() {
			panic(simDied{v})
		}
	}
}

func (v *simView) die(where string, power bool) {
	if !v.dead() {
		v.s.tracef("%s dies: %s, power=%v", v.name, where, power)
		v.s.crashes++
		end := v.end
		v.end = nil
		end(power)
	}
	panic(simDied{v})
}

// act has a process do something, until it dies of it.
func (v *simView) act(what string, f func()) {
	if v.dead() || v.busy[what] {
		return
	}
	v.s.tracef("%s: %s", v.name, what)
	v.busy[what] = true
	depth := v.s.depth
	defer func() {
		delete(v.busy, what)
		if r := recover(); r != nil {
			if d, ok := r.(simDied); !ok || d.v != v {
				panic(r)
			}
			v.s.depth = depth
		}
	}()
	f()
}

func (s *sim) chance(p float64) bool { return !s.quiet && p > 0 && s.r.Float64() < p }

func (s *sim) failf(format string, args ...any) { panic(simFailure(fmt.Sprintf(format, args...))) }

func (s *sim) tracef(format string, args ...any) {
	if s.out != nil {
		fmt.Fprintf(s.out, "%s %s%s\n", s.now.Format("15:04:05.000000"), strings.Repeat("  ", s.depth), fmt.Sprintf(format, args...))
	}
}

func newSim(seed uint64) *sim {
	s := &sim{
		seed: seed, r: rand.New(rand.NewPCG(seed, 20)), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		calls: map[simID]*simCall{}, phantoms: map[simID][]Event{}, used: map[uint64]bool{}, at: map[string][]*simCall{},
	}
	s.queue = &simQueue{s: s}
	s.queue.flush()
	s.queue.replica = s.queue.copied()
	s.ledger = newSimLedger(s)
	for i := range 1 + s.r.IntN(3) {
		p := &simProxy{s: s, name: fmt.Sprintf("proxy%d", i)}
		p.disk = &simDisk{s: s, files: map[string]*simFile{}, unnamed: map[string]*simFile{}}
		p.segment = int64(4+s.r.IntN(5)) * maxRecord
		p.most = p.segment * int64(3+s.r.IntN(12))
		p.v = &simView{s: s, name: p.name}
		s.proxies = append(s.proxies, p)
	}
	for i := range 1 + s.r.IntN(2) {
		w := &simWorker{s: s, name: fmt.Sprintf("worker%d", i)}
		w.v = &simView{s: s, name: w.name}
		s.workers = append(s.workers, w)
	}
	return s
}

const (
	leastSteps   = 700
	mostSteps    = 6000
	leastCrashes = 20
)

// live lives the life, and looks at what became of everything.
func (s *sim) live() (err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(simFailure)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("seed %d: %s", s.seed, string(f))
			s.tracef("FAILED: %s", string(f))
		}
	}()
	for i := 0; i < leastSteps || s.crashes < leastCrashes; i++ {
		if i == mostSteps {
			s.failf("only %d crashes", s.crashes)
		}
		s.step()
	}
	s.calm()
	s.judge()
	return nil
}

// step is one thing that happens.
func (s *sim) step() {
	s.now = s.now.Add(time.Duration(s.r.IntN(10_000)) * time.Microsecond)
	p, w := s.proxies[s.r.IntN(len(s.proxies))], s.workers[s.r.IntN(len(s.workers))]
	switch n := s.r.IntN(1000); {
	case n < 620:
		p.step(n)
	case n < 850:
		w.step(s.r.IntN(simShards))
	case n < 900:
		s.now = s.now.Add(time.Duration(s.r.IntN(2000)) * time.Millisecond)
	case n < 905:
		s.now = s.now.Add(time.Duration(s.r.IntN(20)) * time.Minute) // a machine was suspended
	case n < 930:
		s.weather()
	case n < 940 && !p.v.dead() && s.depth == 0:
		p.v.act("is killed", func() { p.v.die("for no reason", s.chance(0.4)) })
	case n < 950 && !w.v.dead() && s.depth == 0:
		w.v.act("is killed", func() { w.v.die("for no reason", false) })
	case n < 955:
		p.stop()
	}
}

// weather changes what works and what does not.
func (s *sim) weather() {
	p, q := s.proxies[s.r.IntN(len(s.proxies))], s.queue
	switch n := s.r.IntN(16); n {
	case 0, 1:
		q.down = !q.down
	case 2:
		q.flush()
	case 3:
		q.trim()
	case 4, 5:
		q.replica = q.copied()
	case 6:
		q.failover(s.chance(0.5))
	case 7, 8:
		s.ledger.down = !s.ledger.down
	case 9:
		p.disk.full = !p.disk.full
	case 10:
		p.disk.ill = 0.1
	case 11, 12:
		p.disk.ill = 0
	case 13, 14:
		q.down, s.ledger.down, p.disk.full = false, false, false
	}
	s.tracef("weather: queue down %v, ledger down %v, %s: disk full %v, ill %v", q.down, s.ledger.down, p.name, p.disk.full, p.disk.ill)
}

// calm is what comes after: nothing fails, every call ends, and everything must arrive within bounds.
func (s *sim) calm() {
	s.quiet = true
	s.queue.down, s.ledger.down = false, false
	for _, p := range s.proxies {
		p.disk.full, p.disk.ill = false, 0
	}
	s.tracef("calm")
	for i := range 1000 {
		s.now = s.now.Add(2 * time.Second)
		waits := false
		s.ledger.mended = i > 500
		for _, p := range s.proxies {
			if p.v.dead() {
				p.start()
			}
			for len(p.open) > 0 {
				p.close(0)
			}
			p.tend()
			if i%8 == 1 { // to be held for poisoned an event must fail while others succeed
				for range 3 {
					p.admit()
				}
			}
			p.ship()
		}
		for _, w := range s.workers {
			for shard := range simShards {
				for range 3 {
					w.step(shard)
				}
			}
		}
		for _, p := range s.proxies {
			p.ship()
			st := p.spool.Stats()
			waits = waits || st.Depth > 0 || st.Open > 0
		}
		if !waits {
			return
		}
	}
	for _, p := range s.proxies {
		if st := p.spool.Stats(); st.Depth+st.Open > 0 {
			s.failf("half an hour after the last fault %s still has %+v", p.name, st)
		}
	}
}

// judge looks at the end of all things.
func (s *sim) judge() {
	for _, p := range s.proxies {
		for range 3 {
			s.now = s.now.Add(time.Second)
			p.tend()
		}
		if st := p.spool.Stats(); st.Lost > 0 && !p.powered {
			s.failf("%s names %d calls as lost, and no power was", p.name, st.Lost)
		}
		if err := p.spool.Shutdown(); err != nil {
			s.failf("%s: shutdown: %v", p.name, err)
		}
		if left := p.disk.segments(); len(left) > 0 {
			s.failf("%s: all is in the ledger, and these are left: %v", p.name, left)
		}
	}
	for _, c := range s.all {
		e, logged := s.ledger.events[c.id]
		parked, dead := s.ledger.dead[c.id]
		switch {
		case logged && dead:
			s.failf("call %v is in the ledger and among the dead letters", c)
		case !logged && !dead:
			if !c.orphan || c.lo >= 0 {
				s.failf("call %v is lost", c)
			}
		case c.closing && !c.orphan && !sameEvent(e, c.versions[len(c.versions)-1]) && !sameEvent(parked, c.versions[len(c.versions)-1]):
			s.failf("call %v is in the ledger as %+v", c, e)
		}
	}
}

// simCall is a call and what is true of it.
type simCall struct {
	id       simID
	of       *simProxy
	key      string
	versions []Event // as it was told to the spool: at Open, at each Progress, at Close
	path     string  // of the segment with the last of them
	also     string  // a segment that took a version whole and said that it failed
	safe     int     // the last version that a write took whole
	covered  int     // the last version that a sync covered, so that a power loss cannot take it
	hi       int     // the last version that a write began with
	closing  bool    // the last version is a Close
	orphan   bool    // its process died first
	powered  bool    // its disk has lost power
	lo       int     // of an orphan, the first version that it may be known by; below zero, it may be lost
	first    Event   // as it was first sent
}

func (c *simCall) String() string { return fmt.Sprintf("%x/%d", c.id.incarnation, c.id.seq) }

func (c *simCall) opened(s *sim, p *simProxy) {
	s.calls[c.id], c.of = c, p
	s.all = append(s.all, c)
	p.calls = append(p.calls, c)
	e := &c.versions[0]
	e.Incarnation, e.Seq = c.id.incarnation, c.id.seq
}

func simPrice(e *Event) {
	e.USD, e.BRL, e.Known = money.Pico(7*e.Total), money.Pico(35*e.Total), true
}

// simProxy is a machine with a disk, and a process on it as often as one is started.
type simProxy struct {
	s             *sim
	name          string
	disk          *simDisk
	segment, most int64
	powered       bool // power was lost
	calls         []*simCall

	v       *simView
	spool   *Spool
	shipper *Shipper
	open    []*simCall
	opening *simCall
	lastSeq uint64
	bad     bool          // its disk failed in this life
	written []simVersion  // and not covered
	beneath *[]simVersion // of them, what a sync is at work on
}

func (p *simProxy) start() {
	s := p.s
	v := &simView{s: s, name: p.name, busy: map[string]bool{}}
	v.end = func(power bool) { p.died(power) }
	p.v, p.spool, p.shipper = v, nil, nil
	p.open, p.opening, p.lastSeq, p.bad = nil, nil, 0, p.disk.ill > 0
	v.act("start", func() {
		incarnation := s.r.Uint64() | 1
		spool, err := OpenSpool(SpoolOptions{
			Dir: "/" + p.name, SegmentBytes: p.segment, MaxBytes: p.most, Price: simPrice,
			disk: simDiskOf{p.disk, v, p}, now: func() time.Time { return s.now }, incarnation: func() uint64 { return incarnation },
		})
		if err != nil {
			if p.disk.ill == 0 {
				s.failf("%s does not start: %v", p.name, err)
			}
			v.die("it cannot start", false)
		}
		if s.used[spool.Incarnation()] {
			s.failf("incarnation %x is used again", spool.Incarnation())
		}
		s.used[spool.Incarnation()] = true
		var second *Spool
		if second, err = OpenSpool(SpoolOptions{Dir: "/" + p.name, SegmentBytes: p.segment, MaxBytes: p.most, disk: simDiskOf{p.disk, &simView{s: s, end: v.end, safe: true}, p}}); err == nil {
			s.failf("two processes have the spool of %s: %x", p.name, second.Incarnation())
		}
		p.spool = spool
		p.shipper = NewShipper(spool, &simQueueOf{simQueue: s.queue, v: v}, nil)
		p.shipper.now = spool.o.now
		p.shipper.jitter = func(d time.Duration) time.Duration { return time.Duration(s.r.Int64N(int64(d))) }
	})
}

// died says what may be left of the calls.
func (p *simProxy) died(power bool) {
	if p.beneath != nil {
		p.written = append(*p.beneath, p.written...)
		*p.beneath, p.beneath = nil, nil
	}
	for _, c := range p.calls {
		if !c.orphan {
			c.orphan, c.lo = true, c.safe
		}
		if power {
			c.powered, c.lo = true, min(c.lo, c.covered)
		}
	}
	if power {
		p.powered = true
		p.disk.loses()
	}
	if !power && p.s.chance(0.1) {
		p.s.tracef("%s: and its disk was mended", p.name)
		p.disk.ill = 0
	}
	p.calls = slices.DeleteFunc(p.calls, func(c *simCall) bool { return p.s.ledger.has(c.id) || c.lo < 0 })
	if power {
		p.forget(func(simVersion) bool { return true })
	}
}

// forget takes records out of those that a sync will cover.
func (p *simProxy) forget(these func(simVersion) bool) {
	p.written = slices.DeleteFunc(p.written, these)
	if p.beneath != nil {
		*p.beneath = slices.DeleteFunc(*p.beneath, these)
	}
}

// step is one thing that a proxy does. What another of its threads has locked it cannot do now.
func (p *simProxy) step(n int) {
	if p.v.dead() {
		if n%4 == 0 {
			p.start()
		}
		return
	}
	if p.spool == nil || !p.spool.mu.TryLock() {
		return
	}
	p.spool.mu.Unlock()
	switch {
	case n < 180:
		p.admit()
	case n < 260 && len(p.open) > 0:
		p.progress(p.s.r.IntN(len(p.open)))
	case n < 420 && len(p.open) > 0:
		p.close(p.s.r.IntN(min(len(p.open), 3)))
	case n < 540:
		p.tend()
	case n < 620:
		p.ship()
	}
}

// admit opens a call. Its record must be written when Open says that it is.
func (p *simProxy) admit() {
	s := p.s
	c := &simCall{key: fmt.Sprintf("req%d", s.r.Uint64()), covered: -1}
	e := Event{
		RequestID: c.key, ClientID: uuid.UUID{15: byte(s.r.IntN(8) + 1)}, Endpoint: "chat.completions", ModelAsked: "gpt",
		AdmittedAt: s.now.Add(time.Duration(s.r.Int64N(int64(time.Hour))) - time.Hour/2).Truncate(time.Microsecond), RequestBytes: s.r.Int64N(5000),
	}
	c.versions = []Event{e}
	p.v.act("open", func() {
		p.opening = c
		defer func() { p.opening = nil }()
		err := p.spool.Open(&e)
		if err != nil {
			switch {
			case c.id != simID{}:
				s.failf("call %v is written, and Open refuses it: %v", c, err)
			case e.Seq != 0:
				s.failf("a refused call has a number")
			case !errors.Is(err, ErrSpoolFull) && !errors.Is(err, ErrSpoolBroken):
				s.failf("Open says %v", err)
			case errors.Is(err, ErrSpoolBroken) && !p.isBad():
				s.failf("Open says %v on a disk with no fault", err)
			}
			return
		}
		if (c.id != simID{e.Incarnation, e.Seq}) {
			s.failf("Open returned, and call %x/%d is not written down", e.Incarnation, e.Seq)
		}
		if e.Seq != p.lastSeq+1 || e.Incarnation != p.spool.Incarnation() {
			s.failf("after number %d comes %v", p.lastSeq, c)
		}
		p.lastSeq = e.Seq
		p.open = append(p.open, c)
	})
}

// isBad tells whether the disk of this process ever failed.
func (p *simProxy) isBad() bool {
	p.bad = p.bad || p.disk.ill > 0
	return p.bad
}

func (p *simProxy) progress(i int) {
	c := p.open[i]
	e := c.versions[len(c.versions)-1]
	e.ResponseBytes += p.s.r.Int64N(3000)
	e.LatencyMs += 1000
	if p.s.chance(0.1) {
		e.Usage = Usage{Source: Measured, Input: 11, Output: e.ResponseBytes, Total: 11 + e.ResponseBytes}
	}
	c.versions = append(c.versions, e)
	p.v.act("progress", func() {
		st := p.spool.Stats()
		p.spool.Progress(&e)
		if c.safe < len(c.versions)-1 && !p.isBad() && !p.disk.full && st.Step < StepSparing && st.Bytes+p.segment <= st.MaxBytes {
			p.s.failf("the progress of call %v is not written down, and there is room: %+v", c, st)
		}
	})
}

func (p *simProxy) close(i int) {
	s, c := p.s, p.open[i]
	e := c.versions[len(c.versions)-1]
	out := s.r.Int64N(4000)
	e.Usage = Usage{Source: Measured, Input: s.r.Int64N(4000), Output: out, Cached: s.r.Int64N(100)}
	e.Total, e.Status, e.LatencyMs = e.Input+out, 200, s.r.Int64N(100_000)
	simPrice(&e)
	if s.r.IntN(8) == 0 { // as long as an event can be
		for _, text := range []*string{&e.Phone, &e.Provider, &e.ModelServed, &e.UpstreamID, &e.UpstreamRequestID, &e.FinishReason, &e.FallbackReason} {
			*text = strings.Repeat("x", textLimit)
		}
	}
	switch n := s.r.IntN(150); {
	case s.quiet:
	case n == 0:
		e.ErrorCode = poisonKnown
	case n == 1:
		e.ErrorCode = poisonUnknown
	}
	c.versions = append(c.versions, e)
	c.closing = true
	p.open = slices.Delete(p.open, i, i+1)
	p.v.act("close", func() {
		p.spool.Close(&e)
		if len(p.spool.late) > 0 && !p.isBad() {
			s.failf("the CLOSE of call %v found no room", c)
		}
		if c.safe < len(c.versions)-1 && len(p.spool.late) == 0 {
			s.failf("the CLOSE of call %v is not written down", c)
		}
	})
}

// tend is a round of the spool's upkeep. What was written before it and synced with no fault, no power loss can take.
func (p *simProxy) tend() {
	p.v.act("tend", func() {
		if p.isBad() && !p.s.quiet && p.s.chance(0.3) {
			p.spool.mendAt = time.Time{}
		}
		faults, due := p.disk.faults, !p.s.now.Before(p.spool.syncAt)
		before := slices.Clone(p.written)
		p.written = nil
		defer func() { p.written = append(before, p.written...) }()
		p.beneath = &before
		defer func() { p.beneath = nil }()
		select {
		case <-p.spool.grow:
			p.spool.growAhead()
		default:
		}
		p.spool.tend()
		if due && faults == p.disk.faults {
			p.covered(before)
			before = nil
		}
	})
}

// covered notes what a sync with no fault brought to the disk. Nothing older may be left out of it, but in a segment that
// failed and that there was no room to write again.
func (p *simProxy) covered(written []simVersion) {
	for _, w := range written {
		w.c.covered = max(w.c.covered, w.version)
	}
	if slices.ContainsFunc(p.spool.live.segments, func(g *segment) bool { return g.suspect && g.open+g.closed > 0 }) {
		return
	}
	for _, c := range p.calls {
		fresh := slices.ContainsFunc(p.written, func(w simVersion) bool { return w.c == c })
		if !c.orphan && !fresh && c.covered < c.safe && !p.s.ledger.has(c.id) {
			p.s.failf("call %v is only in a segment that did not sync", c)
		}
	}
}

func (p *simProxy) ship() {
	p.v.act("ship", func() {
		h := p.shipper
		if h.generation == "" {
			h.poll(context.Background())
		}
		h.ship(context.Background())
		if !p.s.now.Before(h.pollAt) {
			h.poll(context.Background())
		}
	})
}

// stop ends a process as it should end: its calls first.
func (p *simProxy) stop() {
	if p.v.dead() || p.spool == nil || len(p.v.busy) > 0 {
		return
	}
	for len(p.open) > 0 && !p.v.dead() {
		p.close(0)
	}
	p.tend()
	p.ship()
	p.v.act("stop", func() {
		if err := p.spool.Shutdown(); err != nil && !p.isBad() {
			p.s.failf("%s: shutdown: %v", p.name, err)
		}
		p.v.end = nil
		for _, c := range p.calls {
			if !c.orphan {
				c.orphan, c.lo = true, c.safe
			}
		}
	})
}

// simWorker is a worker process, for all shards.
type simWorker struct {
	s      *sim
	name   string
	v      *simView
	worker *Worker
	queue  *simQueueOf
	shards [simShards]*consumption
}

func (w *simWorker) start() {
	s := w.s
	w.v = &simView{s: s, name: w.name, busy: map[string]bool{}, end: func(bool) {}}
	w.queue = &simQueueOf{simQueue: s.queue, v: w.v}
	w.worker = NewWorker(simLedgerOf{s.ledger, w.v}, w.queue, nil, nil)
	w.worker.now = func() time.Time { return s.now }
	w.worker.sleep = func(_ context.Context, d time.Duration) { s.now = s.now.Add(d) }
	w.shards = [simShards]*consumption{}
}

func (w *simWorker) step(shard int) {
	if w.v.dead() {
		w.start()
	}
	v := w.v
	v.act(fmt.Sprintf("shard %d", shard), func() {
		if w.shards[shard] == nil {
			if w.queue.Claim(context.Background(), shard) != nil {
				return
			}
			w.shards[shard] = w.worker.consume(shard)
			return
		}
		if last, _ := w.shards[shard].round(context.Background()); last {
			w.shards[shard] = nil
		}
	})
}
