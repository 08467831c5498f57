package budget

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeeds = flag.Uint64("budget.seeds", 2000, "how many seeds TestBudgetSimulation runs")
	simFirst = flag.Uint64("budget.first", 1, "the first of them")
	simSeed  = flag.Uint64("budget.seed", 0, "the one seed that TestBudgetSimulation runs, with its steps printed")
	simPart  = flag.String("budget.part", "", "with -budget.seed: print only steps that name this, a window or a proxy")
)

// TestBudgetSimulation runs purses, authorities and settlement, the real ones, through hours full of accidents. One seed
// is one such story: everything in it, time too, comes from the seed, in one goroutine, so a seed that fails fails again.
//
// A world has up to 50 proxies and 200 clients, with budgets in each unit and period, over single clients and over all.
// Proxies are killed, paused, cut off, and lose their volumes; messages are lost, repeated, late and out of order;
// control planes restart, and the database loses its last minutes; days, weeks and months turn, some of them when clocks
// change; people create, change, pause and delete budgets. See simOracle for what is checked, and simStats for what is
// left out of it and how often.
func TestBudgetSimulation(t *testing.T) {
	if *simSeed > 0 {
		if err := simRun(*simSeed, os.Stdout, *simPart, nil); err != nil {
			t.Fatal(err)
		}
		return
	}
	seeds := *simSeeds
	if testing.Short() {
		seeds = min(seeds, 200)
	}
	var next atomic.Uint64
	next.Store(*simFirst - 1)
	var total simStats
	done := 0
	var mu sync.Mutex
	var stories sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		stories.Go(func() {
			for seed := next.Add(1); seed < *simFirst+seeds && !t.Failed(); seed = next.Add(1) {
				var stats simStats
				err := simRun(seed, nil, "", &stats)
				if err != nil {
					t.Errorf("%v\n%sreplay: go test ./budget -run TestBudgetSimulation -budget.seed=%d -v", err, simEnding(seed, err), seed)
					return
				}
				mu.Lock()
				total.add(&stats)
				if done++; done%10_000 == 0 {
					t.Logf("%d seeds so far", done)
				}
				mu.Unlock()
			}
		})
	}
	stories.Wait()
	if !t.Failed() {
		t.Log(total.String())
	}
}

// TestBudgetSimulationRepeats holds the simulation to its word that a seed is a story: twice the same steps.
func TestBudgetSimulationRepeats(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		var once, again strings.Builder
		simRun(seed, &once, "", nil)
		simRun(seed, &again, "", nil)
		if a, b := once.String(), again.String(); a != b {
			as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
			for i := range as {
				if i >= len(bs) || as[i] != bs[i] {
					t.Fatalf("seed %d differs from itself at line %d:\n%s\n%s", seed, i, as[i], strings.Join(bs[min(i, len(bs)):min(i+1, len(bs))], ""))
				}
			}
			t.Fatalf("seed %d differs from itself", seed)
		}
	}
}

// simEnding is the end of a story that failed: what was last said of the window and the proxy that failed. It is told
// again from the start for that, so that stories that end well need not keep their words.
func simEnding(seed uint64, err error) string {
	failure, ok := err.(*simFailure)
	if !ok {
		return ""
	}
	last := simTail{about: failure.about}
	simRun(seed, &last, "", nil)
	return "the last of it:\n" + strings.Join(last.lines, "")
}

// simTail keeps the last lines written to it that name one of some things.
type simTail struct {
	about []string
	lines []string
}

func (l *simTail) Write(b []byte) (int, error) {
	line := string(b)
	if len(l.about) == 0 || slices.ContainsFunc(l.about, func(a string) bool { return strings.Contains(line, a) }) {
		l.lines = append(l.lines, line)
		if len(l.lines) > 20 {
			l.lines = l.lines[1:]
		}
	}
	return len(b), nil
}

// simFailure is what the oracle does not accept.
type simFailure struct {
	seed  uint64
	text  string
	about []string
}

func (f *simFailure) Error() string { return fmt.Sprintf("seed %d: %s", f.seed, f.text) }

// sim is one story.
type sim struct {
	seed     uint64
	r        *rand.Rand
	start    time.Time
	now      time.Time // by the database's clock, which is the true one
	queue    []simEvent
	count    uint64
	calm     bool // nothing fails any more
	spending bool // the end, when what is left is spent
	out      io.Writer
	part     string
	stats    simStats

	world    *simWorld
	replicas []*simReplica
	control  *simControl
	oracle   *simOracle
}

// simEvent is something that will happen.
type simEvent struct {
	at time.Time
	n  uint64 // of two at the same time, the one that was planned first
	do func()
}

func (e *simEvent) before(o *simEvent) bool {
	if e.at.Equal(o.at) {
		return e.n < o.n
	}
	return e.at.Before(o.at)
}

// after plans something.
func (s *sim) after(d time.Duration, do func()) {
	s.count++
	s.queue = append(s.queue, simEvent{s.now.Add(d), s.count, do})
	for i := len(s.queue) - 1; i > 0; {
		parent := (i - 1) / 2
		if !s.queue[i].before(&s.queue[parent]) {
			break
		}
		s.queue[i], s.queue[parent] = s.queue[parent], s.queue[i]
		i = parent
	}
}

// step has the next thing happen, if there is one before a time.
func (s *sim) step(end time.Time) bool {
	if len(s.queue) == 0 || s.queue[0].at.After(end) {
		return false
	}
	next := s.queue[0]
	last := len(s.queue) - 1
	s.queue[0] = s.queue[last]
	s.queue[last] = simEvent{}
	s.queue = s.queue[:last]
	for i := 0; ; {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < last && s.queue[child].before(&s.queue[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		s.queue[i], s.queue[least] = s.queue[least], s.queue[i]
		i = least
	}
	s.now = next.at
	next.do()
	s.oracle.look()
	return true
}

// until lets everything happen that happens before a time.
func (s *sim) until(end time.Time) {
	for s.step(end) {
	}
	s.now = end
}

func (s *sim) chance(p float64) bool { return p > 0 && s.r.Float64() < p }

// mishap is chance for what goes wrong: nothing does, once it is calm.
func (s *sim) mishap(p float64) bool { return !s.calm && s.chance(p) }

// between draws a time, most of them near the shorter end.
func (s *sim) between(least, most time.Duration) time.Duration {
	x := s.r.Float64()
	return least + time.Duration(x*x*float64(most-least))
}

func (s *sim) failf(about []string, format string, args ...any) {
	panic(&simFailure{s.seed, fmt.Sprintf(format, args...), about})
}

func (s *sim) tracef(format string, args ...any) {
	if s.out == nil {
		return
	}
	line := fmt.Sprintf("%s %s\n", s.now.Sub(s.start).Round(time.Microsecond), fmt.Sprintf(format, args...))
	if s.part == "" || strings.Contains(line, s.part) {
		io.WriteString(s.out, line)
	}
}

// simRun tells a story, and what the oracle says of it.
func simRun(seed uint64, out io.Writer, part string, stats *simStats) (err error) {
	s := &sim{seed: seed, r: rand.New(rand.NewPCG(seed, 4)), out: out, part: part}
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(*simFailure)
			if !ok {
				fmt.Fprintf(os.Stderr, "seed %d: replay: go test ./budget -run TestBudgetSimulation -budget.seed=%d -v\n", seed, seed)
				panic(r)
			}
			s.tracef("FAILED: %s", f.text)
			err = f
		}
		if stats != nil {
			*stats = s.stats
		}
	}()
	s.stats.Seeds = 1
	s.build()
	s.until(s.start.Add(s.world.lasts))
	s.end()
	return nil
}

// simStats counts what happened, over all stories.
type simStats struct {
	Seeds, Proxies, Clients, Budgets, Windows, Turns, Carried int
	Calls, Local, Asked, Denied, Unavailable, Topped          int
	Events, Repeats, Crashed, CutShort, Corrections, Overruns int
	Messages, Lost, Doubled                                   int
	Kills, Destroyed, Pauses, Partitions, Restarts, Restores  int
	Changes, TopUps, Deleted, Alerts                          int
	Spends                                                    int // hard budgets spent down at the end
	Forgotten                                                 int // leases of which a lost database tail left no witness: their sums are allowed for
	Gone                                                      int // events that only a lost database tail had
	Homeless                                                  int // events recorded before anybody said that their window, opened in a lost tail, was there
}

func (a *simStats) add(b *simStats) {
	for i, p := range a.fields() {
		*p += *b.fields()[i]
	}
}

func (a *simStats) fields() []*int {
	return []*int{
		&a.Seeds, &a.Proxies, &a.Clients, &a.Budgets, &a.Windows, &a.Turns, &a.Carried,
		&a.Calls, &a.Local, &a.Asked, &a.Denied, &a.Unavailable, &a.Topped,
		&a.Events, &a.Repeats, &a.Crashed, &a.CutShort, &a.Corrections, &a.Overruns,
		&a.Messages, &a.Lost, &a.Doubled,
		&a.Kills, &a.Destroyed, &a.Pauses, &a.Partitions, &a.Restarts, &a.Restores,
		&a.Changes, &a.TopUps, &a.Deleted, &a.Alerts, &a.Spends, &a.Forgotten, &a.Gone, &a.Homeless,
	}
}

func (a *simStats) String() string {
	return fmt.Sprintf(`%d seeds: %d proxies, %d clients, %d budgets, %d windows, %d of them by a turn, %d times something was carried on
calls: %d admitted from memory, %d after a question, %d denied, %d with no ledger; %d topped up; of %d
events: %d (%d repeated, %d crashed, %d cut short, %d corrected, %d above their hold)
faults: %d kills, %d volumes destroyed, %d pauses, %d partitions, %d restarts, %d lost database tails; %d messages (%d lost, %d doubled)
people: %d changes, %d top-ups, %d budgets deleted; %d alerts
at the end: %d hard budgets spent down
left out: %d leases forgotten with a lost tail whose holder never came back, %d events that only the lost tail had, %d that came home before their window`,
		a.Seeds, a.Proxies, a.Clients, a.Budgets, a.Windows, a.Turns, a.Carried,
		a.Local, a.Asked, a.Denied, a.Unavailable, a.Topped, a.Calls,
		a.Events, a.Repeats, a.Crashed, a.CutShort, a.Corrections, a.Overruns,
		a.Kills, a.Destroyed, a.Pauses, a.Partitions, a.Restarts, a.Restores, a.Messages, a.Lost, a.Doubled,
		a.Changes, a.TopUps, a.Deleted, a.Alerts, a.Spends, a.Forgotten, a.Gone, a.Homeless)
}
