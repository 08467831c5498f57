//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/catraca/catraca/internal/testenv"
)

// TestMatrix is the matrix in little: every fault once or twice, a few hundred calls each. `make crash` is the whole of
// it. One scenario waits until the gateway was asked about every estimate; for the others that would take too long.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	needServers(t)
	o := options{dir: t.TempDir(), requests: 800, least: 250, seed: time.Now().UnixNano() % 1_000_000, short: true, split: true, patience: time.Minute}
	if err := o.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d", o.seed)
	t.Run("faults", func(t *testing.T) { playAll(t, o) })
	t.Run("interrupt", func(t *testing.T) { interrupt(t, o) })
}

func playAll(t *testing.T, o options) {
	// They wait more than they work, so a few at a time share the machine well. The first of these waits for look-ups,
	// the second for events to be sent again: both for half a minute, in which they need no place.
	patient := []string{"base", "redis-failover"}
	places := make(chan struct{}, 4)
	results := make([]*outcome, len(matrix(true)))
	var all sync.WaitGroup
	for i, s := range matrix(true) {
		// Not as parallel tests: of those only as many run as there are processors.
		all.Go(func() {
			if !slices.Contains(patient, s.name) {
				places <- struct{}{}
				defer func() { <-places }()
			}
			mine := o
			mine.hasty = s.name != "base"
			results[i] = mine.play(t.Context(), s)
		})
	}
	all.Wait()
	for _, out := range results {
		t.Run(out.name, func(t *testing.T) {
			var said strings.Builder
			out.tell(&said)
			switch {
			case out.skipped != "":
				t.Skip(out.skipped)
			case out.failed():
				t.Error(said.String())
			default:
				t.Log(said.String())
			}
		})
	}
}

// interrupt stops a scenario in the middle and looks for what it left running.
func interrupt(t *testing.T, o options) {
	o.requests, o.dir = 1<<20, t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if out := o.play(ctx, matrix(true)[0]); out.err == nil {
		t.Fatal("it came to a verdict")
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
}

// needServers skips where Postgres or Redis is not installed, unless somebody relies on all tests being run.
func needServers(t *testing.T) {
	t.Helper()
	var errs []error
	for _, start := range []func(bool) (*testenv.Server, error){testenv.StartPostgres, testenv.StartRedis} {
		s, err := start(false)
		if err == nil {
			s.Stop()
		}
		errs = append(errs, err)
	}
	testenv.Need(t, errors.Join(errs...))
}

// TestMatrixIsComplete: a scenario that lost its faults would prove nothing and pass.
func TestMatrixIsComplete(t *testing.T) {
	var names []string
	for _, s := range matrix(true) {
		if s.faults == nil != s.base || s.title == "" || s.clients == 0 {
			t.Errorf("%s has no faults, or no clients", s.name)
		}
		names = append(names, s.name)
	}
	for _, want := range []string{
		"base", "kill-proxy", "kill-worker", "redis-stops", "redis-dies", "redis-flushed", "redis-failover", "postgres", "full-disk", "two-workers", "all-down",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("the matrix has no %s", want)
		}
	}
}

// TestDrawKeepsItsShares makes many calls up and counts: a load that asked for no faults would prove less than it says.
func TestDrawKeepsItsShares(t *testing.T) {
	l := newLoad("draw", nil, []*tenant{{id: "a"}, {id: "b"}}, 1, 1)
	const n = 20_000
	streamed, leaving, failing := 0, 0, 0
	again := newLoad("draw", nil, l.tenants, 1, 1)
	first, second := l.dice(0), again.dice(0)
	for i := range int64(n) {
		c, same := l.draw(first, i), again.draw(second, i)
		if string(c.body) != string(same.body) {
			t.Fatalf("one seed makes two calls: %s and %s", c.body, same.body)
		}
		streamed, leaving, failing = streamed+btoi(c.stream), leaving+btoi(c.leaves), failing+btoi(c.failing)
	}
	for what, share := range map[string][2]float64{
		"streamed": {float64(streamed) / n, streamedShare}, "left": {float64(leaving) / n, leavingShare}, "failed": {float64(failing) / n, failingShare},
	} {
		if share[0] < share[1]*0.9 || share[0] > share[1]*1.1 {
			t.Errorf("%s: a share of %.3f, want %.3f", what, share[0], share[1])
		}
	}
}

// children lists the processes that this one has.
func children(t *testing.T) (names []string) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skip("no /proc here")
	}
	for _, task := range tasks {
		list, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(list)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	return names
}
