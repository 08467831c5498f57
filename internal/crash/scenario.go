//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// scenario is one line of the matrix.
type scenario struct {
	name    string
	title   string
	plan    plan
	clients int
	think   time.Duration
	base    bool   // all the requests that were asked for; the others last as long as their faults
	allowed string // what clients may meet: "" nothing, "gone" that a proxy is not there, "full" that it has no room too, "budget" that a cap is reached too
	wordy   bool   // most answers are long
	split   bool   // only where the planes are processes of their own
	prepare func(*running) error
	settle  func(context.Context, *running) error                      // once everything runs, before the load
	after   func(context.Context, *running) error                      // once the load has ended
	more    func(context.Context, *running, *verdict, *evidence) error // beside the comparison that all have
	faults  func(context.Context, *running) error
}

// running is a scenario under way.
type running struct {
	*world
	*scenario
	load  *load
	dice  *rand.Rand
	hits  int // faults done
	notes []string
	caps  map[string]limits // of tenants, by id
	rest  []*call           // made after the load
}

// outcome is what a scenario came to.
type outcome struct {
	*scenario
	verdict *verdict
	hits    int
	notes   []string
	load    time.Duration
	drained time.Duration
	skipped string
	err     error
}

func (o *outcome) failed() bool { return o.err != nil || o.verdict != nil && !o.verdict.holds() }

func (r *running) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// errSkipped ends a scenario that this machine cannot run.
var errSkipped = errors.New("skipped")

// play runs a scenario from an empty database to its verdict.
func (o *options) play(ctx context.Context, s *scenario) (out *outcome) {
	out = &outcome{scenario: s}
	ctx, cancel := context.WithTimeout(ctx, 40*time.Minute)
	defer cancel()
	dir := filepath.Join(o.dir, s.name)
	if out.err = os.MkdirAll(dir, 0o755); out.err != nil {
		return out
	}
	w := &world{o: o, dir: dir}
	defer func() {
		w.close()
		if !o.keep && !out.failed() {
			_ = os.RemoveAll(dir)
		}
	}()
	seed := uint64(o.seed)
	r := &running{world: w, scenario: s, dice: rand.New(rand.NewPCG(seed, 1<<32))}
	if s.prepare != nil {
		if out.err = s.prepare(r); errors.Is(out.err, errSkipped) {
			out.skipped, out.err = out.err.Error(), nil
			return out
		} else if out.err != nil {
			return out
		}
	}
	if out.err = w.build(ctx, s.plan); out.err != nil {
		return out
	}
	if s.settle != nil {
		if out.err = s.settle(ctx, r); out.err != nil {
			return out
		}
	}
	began := time.Now()
	calls, err := r.underLoad(ctx, seed)
	out.load, out.hits = time.Since(began), r.hits
	if out.err = err; err != nil {
		return out
	}
	out.verdict, out.drained, out.err = r.judged(ctx, calls)
	out.notes = r.notes
	return out
}

// underLoad lets clients call while the faults happen.
func (r *running) underLoad(ctx context.Context, seed uint64) (calls []*call, err error) {
	r.load = newLoad(r.name, r.wires, r.tenants, r.clients, seed)
	r.load.think, r.load.wordy = r.think, r.wordy
	least := int64(r.o.least)
	if r.base {
		least = int64(r.o.requests)
		r.load.most.Store(least)
	}
	r.load.start(ctx)
	if r.faults != nil {
		err = r.faults(ctx, r)
	}
	if err == nil {
		err = r.load.wait(ctx, least)
	}
	calls = r.load.finish()
	if err == nil && r.after != nil {
		err = r.after(ctx, r)
		calls = append(calls, r.rest...)
	}
	if err != nil {
		err = fmt.Errorf("after %d calls: %w", len(calls), err)
	}
	return calls, err
}

// judged waits for rest and compares.
func (r *running) judged(ctx context.Context, calls []*call) (*verdict, time.Duration, error) {
	took, restless := r.drain(ctx, r.drainLimit(ctx), !r.o.hasty)
	ev, err := r.collect(ctx, calls)
	if err != nil {
		return nil, took, errors.Join(restless, err)
	}
	v := judge(ev)
	for what, n := range v.failures {
		if !r.mayMeet(what) {
			v.wrong += n
			v.complain("%d clients met what this fault must not make them meet: %s", n, what)
		}
	}
	if r.more != nil {
		if err := r.more(ctx, r, v, ev); err != nil {
			return nil, took, err
		}
	}
	if restless != nil {
		v.wrong++
		v.complain("%v", restless)
	}
	return v, took, r.audit(ctx, v)
}

// mayMeet says whether a client's failure is natural under this scenario's faults: a proxy that is killed is not there,
// and one that has no room to remember a call refuses it. Nothing else is.
func (r *running) mayMeet(what string) bool {
	gone := !strings.HasPrefix(what, string(ours))
	switch r.allowed {
	case "gone":
		return gone
	case "budget":
		return gone || budgetErrors[what]
	case "full":
		return gone || what == "ours: 503 "+spoolRefusal
	}
	return false
}

// spoolRefusal is the code of the refusal of a proxy whose spool is full.
const spoolRefusal = "metering_unavailable"

// times is how often a fault of the full matrix happens in this run.
func (r *running) times(n int) int {
	if r.o.short {
		return max(1, n/10)
	}
	return n
}

// lasting is how long one lasts.
func (r *running) lasting(d time.Duration) time.Duration {
	if r.o.short {
		return d / 12
	}
	return d
}

// sleep lets the load go on for a while.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// between is a random time.
func (r *running) between(a, b time.Duration) time.Duration {
	return a + time.Duration(r.dice.Int64N(int64(b-a)))
}
