package tenancy

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// KeyringOptions tunes a Keyring. The zero value is right for production.
type KeyringOptions struct {
	// Poll is how often the change feed is read. Default 500 ms: a change must be in use within 2 s, a look costs one
	// index read.
	Poll time.Duration
	// LoadTimeout bounds one read of the store. Default 2 s.
	LoadTimeout time.Duration
	// MaxLoads is how many reads of the store run at once, so that a storm of unknown keys leaves it connections for
	// others. Default 8.
	MaxLoads int
	// MaxUnknown is how many unknown keys are remembered as such, so that one who keeps trying them does not reach the
	// store. Default 65 536, about 4 MB when full.
	MaxUnknown int
	// UnknownFor is how long they are remembered at most. Default 30 s; any change clears them, so a key that is made
	// works at once.
	UnknownFor time.Duration
	// TouchEvery is how often last-used times are written. Default 1 minute.
	TouchEvery time.Duration
	Log        *slog.Logger // nil: none
}

func (o KeyringOptions) withDefaults() KeyringOptions {
	setDefault(&o.Poll, 500*time.Millisecond)
	setDefault(&o.LoadTimeout, 2*time.Second)
	setDefault(&o.MaxLoads, 8)
	setDefault(&o.MaxUnknown, 1<<16)
	setDefault(&o.UnknownFor, 30*time.Second)
	setDefault(&o.TouchEvery, time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Keyring answers who a request is from, out of memory. What it does not hold yet it loads once, and Run keeps it true.
//
// When the store is down, what is held goes on working, changes or not; what is not held is ErrUnavailable rather than
// an invalid key. A key that expires stops at its second, store or no store.
type Keyring struct {
	store   Source
	opts    KeyringOptions
	keys    *ring[[32]byte]
	clients *ring[uuid.UUID]

	onGlobal  []func()
	downUntil atomic.Int64 // unix nanoseconds: the store failed a moment ago, do not make anybody wait for it
	lastPoll  atomic.Int64 // unix nanoseconds of the last look at the feed that succeeded; 0: none yet
}

// NewKeyring makes a keyring over a store. It works at once; changes are followed while Run runs.
func NewKeyring(store Source, opts KeyringOptions) *Keyring {
	k := &Keyring{store: store, opts: opts.withDefaults()}
	loads := make(chan struct{}, k.opts.MaxLoads)
	k.keys = newRing(k, loads, store.PrincipalByKey, func(d [32]byte) uint64 { return binary.LittleEndian.Uint64(d[:8]) })
	// The last bytes of a uuid: the first ones are a clock in version 7.
	k.clients = newRing(k, loads, store.PrincipalByClient, func(id uuid.UUID) uint64 { return binary.LittleEndian.Uint64(id[8:]) })
	return k
}

// Key finds whose a key is. The error is ErrInvalidKey, or one that wraps ErrUnavailable, or the context's.
func (k *Keyring) Key(ctx context.Context, secret []byte) (*Principal, error) {
	digest, ok := Digest(secret)
	if !ok {
		return nil, ErrInvalidKey
	}
	return k.keys.get(ctx, digest)
}

// Client finds the tenant that a trusted X-Client-Id names: a uuid in its usual form of 36 characters and no other. The
// errors are those of Key.
func (k *Keyring) Client(ctx context.Context, id []byte) (*Principal, error) {
	if len(id) != 36 {
		return nil, ErrInvalidKey
	}
	parsed, err := uuid.ParseBytes(id)
	if err != nil || parsed == uuid.Nil {
		return nil, ErrInvalidKey
	}
	return k.clients.get(ctx, parsed)
}

// Invalidate makes what is known of a client be read again before its next use: for whoever has just changed it in
// this process and need not wait for the feed.
func (k *Keyring) Invalidate(client uuid.UUID) {
	k.keys.outdate(client)
	k.clients.outdate(client)
}

// OnGlobalChange has f called, in Run's goroutine, when models or prices may have changed, and once when Run begins.
// Call it before Run.
func (k *Keyring) OnGlobalChange(f func()) { k.onGlobal = append(k.onGlobal, f) }

// KeyringStats is a look at a keyring, for metrics and readiness.
type KeyringStats struct {
	Keys, Clients int           // held in memory
	Unknown       int           // remembered as unknown
	Outdated      int           // held, but changed since and not read again yet: more than 0 for long means trouble
	SincePoll     time.Duration // since the feed was last read; negative: never yet
}

// Stats counts what is held. It walks over all of it: call it for a scrape, not for a request.
func (k *Keyring) Stats() KeyringStats {
	var s KeyringStats
	var unknown, outdated int
	s.Keys, s.Unknown, s.Outdated = k.keys.count()
	s.Clients, unknown, outdated = k.clients.count()
	s.Unknown, s.Outdated, s.SincePoll = s.Unknown+unknown, s.Outdated+outdated, -1
	if last := k.lastPoll.Load(); last != 0 {
		s.SincePoll = time.Since(time.Unix(0, last))
	}
	return s
}

// Run follows the change feed until the context ends, then writes the last last-used times.
func (k *Keyring) Run(ctx context.Context) error {
	poll := time.NewTicker(k.opts.Poll)
	defer poll.Stop()
	touch := time.NewTicker(k.opts.TouchEvery)
	defer touch.Stop()
	version, failing := int64(0), false
	for {
		next, err := k.follow(ctx, version)
		switch {
		case ctx.Err() != nil:
		case err != nil && !failing:
			k.opts.Log.Warn("tenant changes cannot be read; going on with what is known", "error", err)
		case err == nil && failing:
			k.opts.Log.Info("tenant changes are read again")
		}
		version, failing = next, err != nil
		select {
		case <-ctx.Done():
			k.touch(context.WithoutCancel(ctx))
			return nil
		case <-touch.C:
			k.touch(ctx)
		case <-poll.C:
		}
	}
}

// follow looks at the feed once: what changed is outdated at once, then read again. It gives the version to go on from.
func (k *Keyring) follow(ctx context.Context, after int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, k.opts.LoadTimeout)
	defer cancel()
	global := after == 0
	for more := true; more; {
		changes, newest, err := k.store.Changes(ctx, after)
		if errors.Is(err, ErrChangesLost) {
			k.opts.Log.Warn("the change feed does not reach back to what was seen last; reading everything again", "version", after)
			return 0, nil // the next look begins anew
		}
		if err != nil {
			return after, err
		}
		if after == 0 { // whatever was loaded before this version may have changed before it, too
			k.keys.outdateAll()
			k.clients.outdateAll()
		}
		if k.outdate(changes) {
			global = true
		}
		more, after = len(changes) == maxChanges, newest
	}
	k.lastPoll.Store(time.Now().UnixNano())
	if global {
		for _, f := range k.onGlobal {
			f()
		}
	}
	k.keys.refresh()
	k.clients.refresh()
	return after, nil
}

// outdate notes which clients changed, and says whether anything global did.
func (k *Keyring) outdate(changes []Change) (global bool) {
	seen := make(map[uuid.UUID]struct{}, len(changes))
	for _, c := range changes {
		if _, again := seen[c.ClientID]; again {
			continue
		}
		seen[c.ClientID] = struct{}{}
		if c.ClientID == uuid.Nil {
			global = true
		} else {
			k.Invalidate(c.ClientID)
		}
	}
	return global
}

// touch writes down which keys were used since the last time. Losing some of it, when the store is down, loses nothing
// but "last used".
func (k *Keyring) touch(ctx context.Context) {
	const batch = 2000
	ids, now := k.keys.used(), time.Now()
	for len(ids) > 0 {
		n := min(len(ids), batch)
		ctx, cancel := context.WithTimeout(ctx, 5*k.opts.LoadTimeout)
		err := k.store.TouchKeys(ctx, ids[:n], now)
		cancel()
		if err != nil {
			k.opts.Log.Warn("last-used times of keys were not written", "error", err)
			return
		}
		ids = ids[n:]
	}
}

// storeDown says whether the store failed within the last second.
func (k *Keyring) storeDown() bool { return time.Now().UnixNano() < k.downUntil.Load() }

// noteLoad keeps whether the store answers. A broken tenant is an answer.
func (k *Keyring) noteLoad(err error) {
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, errBroken) {
		k.downUntil.Store(0)
		return
	}
	k.downUntil.Store(time.Now().Add(time.Second).UnixNano())
}
