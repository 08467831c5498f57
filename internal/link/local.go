package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// LocalOptions is what a control plane is made of.
type LocalOptions struct {
	Tenants tenancy.Source
	// Cache keeps in memory what proxies ask for, so that a thousand of them that hear of a change cost one read. Leave
	// it out where the one proxy is in this process and has it in memory itself.
	Cache   bool
	Catalog func(ctx context.Context) (*metering.Catalog, error)
	Rate    func() metering.ExchangeRate
	Owners  interface {
		Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error)
	}
	SigningKeys [][]byte
	Fleet       metering.Fleet // nil: what proxies say of themselves is not kept
	Budgets     budget.Lender  // nil: no budgets are kept
	// Conversations tells of conversations that any proxy had; nil: of none.
	Conversations interface {
		Seen(ctx context.Context, client uuid.UUID, conversation string) (bool, error)
	}
	Log *slog.Logger // nil: none
}

// Local is the control plane's side of the link, over the stores.
type Local struct {
	o        LocalOptions
	known    *tenancy.Keyring // follows the feed; with Cache it holds principals, too
	feed     *feed
	settings atomic.Pointer[Settings]

	stale    atomic.Bool // the catalogue changed, and was not read again yet
	failing  atomic.Bool // to read it, and that was said
	renewing sync.Mutex  // held by who makes new settings
	catalog  *metering.Catalog

	mu       sync.Mutex
	reports  map[string]metering.ProxyReport // not handed to the fleet yet
	touched  map[uuid.UUID]time.Time         // not written yet
	heard    map[string]time.Time            // of each proxy, when it last said something
	finished bool
}

var _ Control = (*Local)(nil)

const (
	localEvery = 500 * time.Millisecond
	fleetEvery = 2 * time.Second
	touchEvery = 15 * time.Second
	// gone is after how long of silence a proxy is no longer counted.
	gone = 30 * time.Second
	// maxTouched bounds what waits to be written of last uses while the database is away.
	maxTouched = 200_000
)

// NewLocal makes a control plane's side. It answers while Run runs.
func NewLocal(o LocalOptions) *Local {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Local{
		o: o, feed: newFeed(),
		reports: map[string]metering.ProxyReport{}, touched: map[uuid.UUID]time.Time{}, heard: map[string]time.Time{},
	}
	l.stale.Store(true)
	l.known = tenancy.NewKeyring(o.Tenants, tenancy.KeyringOptions{Strict: true, OnChanges: l.feed.add, MaxLoads: 16, Log: o.Log})
	l.known.OnGlobalChange(l.Reload)
	return l
}

// Run follows the stores until ctx ends, and then writes what it still holds.
func (l *Local) Run(ctx context.Context) error {
	var following sync.WaitGroup
	following.Go(func() { _ = l.known.Run(ctx) })
	defer following.Wait()
	tick := time.NewTicker(localEvery)
	defer tick.Stop()
	fleetAt, touchAt := time.Now(), time.Now().Add(touchEvery)
	for {
		l.renew(ctx)
		if now := time.Now(); !now.Before(fleetAt) {
			l.flushFleet(ctx)
			fleetAt = now.Add(fleetEvery)
		}
		if now := time.Now(); !now.Before(touchAt) {
			l.flushTouched(ctx)
			touchAt = now.Add(touchEvery)
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			l.mu.Lock()
			l.finished = true
			l.mu.Unlock()
			l.flushFleet(last)
			l.flushTouched(last)
			return nil
		case <-tick.C:
		}
	}
}

// Reload says that models or prices changed.
func (l *Local) Reload() {
	l.stale.Store(true)
	l.renew(context.Background())
}

// renew puts new settings in force when the catalogue or the exchange rate is another. A bad read keeps the old ones,
// and is tried again.
func (l *Local) renew(ctx context.Context) {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	now, rate := l.settings.Load(), l.o.Rate()
	if l.stale.Swap(false) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		catalog, err := l.o.Catalog(ctx)
		if err != nil {
			l.stale.Store(true)
			if l.failing.CompareAndSwap(false, true) {
				l.o.Log.Warn("the model registry could not be loaded; what there is stays in use", "error", err)
			}
			return
		}
		l.catalog = catalog
		l.failing.Store(false)
	} else if l.catalog == nil || now != nil && now.Catalog == l.catalog && now.Rate == rate {
		return
	}
	next, err := newSettings(l.catalog, rate, l.o.SigningKeys)
	if err != nil {
		l.o.Log.Error("new settings cannot be sent to proxies", "error", err)
		return
	}
	l.settings.Store(next)
	if now == nil || now.Tag != next.Tag {
		l.feed.nudge()
	}
}

// Prices is the registry as last read; empty when it was not yet.
func (l *Local) Prices() *metering.Catalog {
	if s := l.settings.Load(); s != nil {
		return s.Catalog
	}
	return metering.NewCatalog(nil)
}

// errNotYet is told while the database has not answered once.
var errNotYet = errors.New("the control plane has not reached its database yet")

// Watch implements Control.
func (l *Local) Watch(ctx context.Context, after int64, settings string) (News, error) {
	patience := time.NewTimer(WatchFor)
	defer patience.Stop()
	for {
		changes, newest, at, grown := l.feed.after(after)
		tag := l.tag()
		var err error
		switch {
		case newest == 0:
			return News{}, fmt.Errorf("%w: %w", tenancy.ErrUnavailable, errNotYet)
		case after == 0:
			return News{Version: newest, Settings: tag}, nil
		case at == nowhere:
			return News{}, tenancy.ErrChangesLost
		case at == newer: // another replica was faster, or the database was restored
			changes, newest, err = l.o.Tenants.Changes(ctx, after)
		case at == older:
			changes, newest, err = l.feed.extend(ctx, l.o.Tenants, after)
		}
		if err != nil {
			return News{}, err
		}
		if len(changes) > 0 || newest != after || tag != settings && tag != "" {
			return News{Changes: changes, Version: newest, Settings: tag}, nil
		}
		select {
		case <-ctx.Done():
			return News{}, ctx.Err()
		case <-patience.C:
			return News{Version: newest, Settings: tag}, nil
		case <-grown:
		}
	}
}

func (l *Local) tag() string {
	if s := l.settings.Load(); s != nil {
		return s.Tag
	}
	return ""
}

// Settings implements Control.
func (l *Local) Settings(_ context.Context, have string) (*Settings, error) {
	s := l.settings.Load()
	switch {
	case s == nil:
		return nil, fmt.Errorf("%w: %w", tenancy.ErrUnavailable, errNotYet)
	case s.Tag == have:
		return nil, nil
	}
	return s, nil
}

// source is where to read what must hold all changes up to a version: memory, but for a proxy that has heard of a
// change from another replica before it came here.
func (l *Local) source(version int64) tenancy.Source {
	if !l.o.Cache || l.known.Version() < version {
		return l.o.Tenants
	}
	return cached{l.o.Tenants, l.known}
}

// cached reads principals from memory.
type cached struct {
	tenancy.Source
	known *tenancy.Keyring
}

func (c cached) PrincipalByKey(ctx context.Context, digest [32]byte) (*tenancy.Principal, error) {
	return c.known.PrincipalByKey(ctx, digest)
}

func (c cached) PrincipalByClient(ctx context.Context, id uuid.UUID) (*tenancy.Principal, error) {
	return c.known.PrincipalByClient(ctx, id)
}

// PrincipalByKey implements Control.
func (l *Local) PrincipalByKey(ctx context.Context, digest [32]byte) (*tenancy.Principal, error) {
	return l.source(0).PrincipalByKey(ctx, digest)
}

// PrincipalByClient implements Control.
func (l *Local) PrincipalByClient(ctx context.Context, id uuid.UUID) (*tenancy.Principal, error) {
	return l.source(0).PrincipalByClient(ctx, id)
}

// TouchKeys implements Control. What many proxies tell is written at once.
func (l *Local) TouchKeys(ctx context.Context, ids []uuid.UUID, at time.Time) error {
	l.mu.Lock()
	if l.finished {
		l.mu.Unlock()
		return l.o.Tenants.TouchKeys(ctx, ids, at)
	}
	defer l.mu.Unlock()
	for _, id := range ids {
		if len(l.touched) < maxTouched && l.touched[id].Before(at) {
			l.touched[id] = at
		}
	}
	return nil
}

func (l *Local) flushTouched(ctx context.Context) {
	l.mu.Lock()
	touched := l.touched
	l.touched = map[uuid.UUID]time.Time{}
	l.mu.Unlock()
	if len(touched) == 0 {
		return
	}
	at := time.Time{} // one time for all: it is "last used" as of the last minutes
	for _, t := range touched {
		if t.After(at) {
			at = t
		}
	}
	for ids := range slices.Chunk(slices.Collect(maps.Keys(touched)), 2000) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := l.o.Tenants.TouchKeys(ctx, ids, at)
		cancel()
		if err != nil {
			l.o.Log.Warn("last-used times of keys were not written", "keys", len(touched), "error", err)
			return
		}
	}
}

// Owner implements Control.
func (l *Local) Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error) {
	return l.o.Owners.Owner(ctx, client, upstreamID)
}

// Beat implements Control.
func (l *Local) Beat(ctx context.Context, b Beat) (Pulse, error) {
	now := time.Now().UTC()
	b.Report.At = now
	l.mu.Lock()
	if b.Report.Stopped {
		delete(l.heard, b.Report.Name)
	} else {
		l.heard[b.Report.Name] = now
	}
	if l.o.Fleet != nil {
		l.reports[b.Report.Name] = b.Report
	}
	last := l.finished || b.Report.Stopped
	l.mu.Unlock()
	if last {
		l.flushFleet(ctx) // its last word should not wait for a next time
	}
	return Pulse{At: now}, nil
}

// flushFleet hands over what proxies said. What fails is not tried again: they say it anew every few seconds. But a
// last word is kept, because nobody will say it again.
func (l *Local) flushFleet(ctx context.Context) {
	l.mu.Lock()
	reports := slices.Collect(maps.Values(l.reports))
	clear(l.reports)
	for name, at := range l.heard {
		if time.Since(at) > gone {
			delete(l.heard, name)
		}
	}
	l.mu.Unlock()
	if len(reports) == 0 || l.o.Fleet == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := l.o.Fleet.Report(ctx, reports)
	if err == nil {
		return
	}
	if ctx.Err() == nil {
		l.o.Log.Warn("what proxies say of themselves was not written", "proxies", len(reports), "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range reports {
		if _, newer := l.reports[r.Name]; r.Stopped && !newer {
			l.reports[r.Name] = r
		}
	}
}

// LocalStats is a look at a control plane, for metrics.
type LocalStats struct {
	Version int64 // of the feed
	Proxies int   // heard of within the last half minute, by this process
	Known   tenancy.KeyringStats
}

// Stats counts what is held.
func (l *Local) Stats() LocalStats {
	s := LocalStats{Version: l.known.Version(), Known: l.known.Stats()}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.heard {
		if time.Since(at) <= gone {
			s.Proxies++
		}
	}
	return s
}
