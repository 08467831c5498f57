//go:build linux

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is the clients of a scenario: so many at once, each one call after the other until it is stopped. What each
// call was and what came of it is kept.
type load struct {
	targets []string // base URLs of the proxies
	tenants []*tenant
	clients int
	think   time.Duration // between two calls of a client, on average
	seed    uint64
	name    string // of the scenario: marks begin with it
	padding string // made part of the calls that are to be long in the spool
	plain   bool   // nothing but plain calls: for filling a disk
	wordy   bool   // most answers are long

	http   *http.Client
	begun  atomic.Int64
	most   atomic.Int64 // stop after so many; 0: when stopped
	stop   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	calls  []*call
	ended  []*call // in the order they ended
	paused atomic.Bool
}

func newLoad(name string, targets []string, tenants []*tenant, clients int, seed uint64) *load {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	return &load{
		name: name, targets: targets, tenants: tenants, clients: clients, seed: seed, stop: make(chan struct{}),
		http: &http.Client{Transport: &http.Transport{
			DialContext: dialer.DialContext, DisableCompression: true, MaxIdleConnsPerHost: clients, ResponseHeaderTimeout: 30 * time.Second,
		}},
	}
}

// start lets the clients begin.
func (l *load) start(ctx context.Context) {
	for i := range l.clients {
		l.done.Go(func() { l.client(ctx, uint64(i)) })
	}
}

// finish stops the clients after the call that they are in, and gives all calls made.
func (l *load) finish() []*call {
	close(l.stop)
	l.done.Wait()
	l.http.CloseIdleConnections()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// client is one of them. Its dice are its own, so that a seed makes the same calls whatever the timing.
func (l *load) client(ctx context.Context, number uint64) {
	dice := l.dice(number)
	for ctx.Err() == nil && !l.stopped() {
		if l.paused.Load() {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		n := l.begun.Add(1)
		if most := l.most.Load(); most > 0 && n > most {
			return
		}
		c := l.draw(dice, n)
		l.mu.Lock()
		l.calls = append(l.calls, c)
		l.mu.Unlock()
		c.do(ctx, l.http, l.targets[dice.IntN(len(l.targets))])
		l.mu.Lock()
		l.ended = append(l.ended, c)
		l.mu.Unlock()
		if l.think > 0 {
			time.Sleep(time.Duration(dice.Float64() * 2 * float64(l.think)))
		}
		if c.result == unreached {
			time.Sleep(10 * time.Millisecond) // a proxy that is starting must not be hammered
		}
	}
}

func (l *load) dice(client uint64) *rand.Rand { return rand.New(rand.NewPCG(l.seed, client)) }

// wait blocks until so many calls have begun, or the load has ended.
func (l *load) wait(ctx context.Context, calls int64) error {
	for l.begun.Load() < calls {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), errors.New("the load did not come so far"))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// adopt counts calls that were made beside the load as its own.
func (l *load) adopt(calls []*call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, calls...)
}

// recorded counts the calls that have ended.
func (l *load) recorded() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ended)
}

// anyEnded looks among the calls that ended since the first so many.
func (l *load) anyEnded(since int, is func(*call) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.ended[since:], is)
}
