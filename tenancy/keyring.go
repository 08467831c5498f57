package tenancy

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// KeyringOptions tunes a Keyring. The zero value is right for production.
type KeyringOptions struct {
	// Poll is how often the change feed is read. Default 500 ms: a change must be in use within 2 s, a look costs one
	// index read.
	Poll time.Duration
	// Wait is for a source whose Changes waits for news itself: at most how long. It is then asked again at once, and
	// Poll is the pause after a failure. Default 0: the source answers at once.
	Wait time.Duration
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
	// Strict makes what has changed since it was read no answer while the store is down: for a control plane, whose
	// answers proxies keep as true from then on. A proxy itself goes on with what it has. It also notes no last uses.
	Strict bool
	// OnChanges is told of each look at the feed, after its changes are in force here: what changed, and the newest
	// version. A first look, and one after changes were lost, tells nil.
	OnChanges func(changes []Change, newest int64)
	// Journal is told of everything that is learnt, in order and under a lock: it must only take it down. See Recall.
	Journal func(record []byte)
	Log     *slog.Logger // nil: none
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
	zones   zones
	version atomic.Int64 // of the feed: every change up to it is in force here; 0: none is known

	onGlobal  []func()
	downUntil atomic.Int64 // unix nanoseconds: the store failed a moment ago, do not make anybody wait for it
	lastPoll  atomic.Int64 // unix nanoseconds of the last look at the feed that succeeded; 0: none yet
}

// NewKeyring makes a keyring over a store. It works at once; changes are followed while Run runs.
func NewKeyring(store Source, opts KeyringOptions) *Keyring {
	k := &Keyring{store: store, opts: opts.withDefaults()}
	loads := make(chan struct{}, k.opts.MaxLoads)
	k.keys = newRing(k, loads, store.PrincipalByKey, func(d [32]byte) uint64 { return binary.LittleEndian.Uint64(d[:8]) })
	k.keys.record = func(d [32]byte, p *Principal, old bool) []byte { return principalRecord(recordKey, d[:], p, old) }
	// The last bytes of a uuid: the first ones are a clock in version 7.
	k.clients = newRing(k, loads, store.PrincipalByClient, func(id uuid.UUID) uint64 { return binary.LittleEndian.Uint64(id[8:]) })
	k.clients.record = func(id uuid.UUID, p *Principal, old bool) []byte { return principalRecord(recordClient, id[:], p, old) }
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

// Version is the newest change of the feed that is in force here; 0 when none is known.
func (k *Keyring) Version() int64 { return k.version.Load() }

// Run follows the change feed until the context ends, then writes the last last-used times.
func (k *Keyring) Run(ctx context.Context) error {
	var upkeep sync.WaitGroup
	upkeep.Go(func() { k.upkeep(ctx) })
	defer upkeep.Wait()
	failing := 0
	for {
		news, err := k.follow(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil && failing == 0:
			k.opts.Log.Warn("tenant changes cannot be read; going on with what is known", "error", err)
		case err == nil && failing > 0:
			k.opts.Log.Info("tenant changes are read again")
		}
		pause := k.opts.Poll
		switch {
		case err != nil:
			failing++
			if k.opts.Wait > 0 { // a thousand proxies lose their control plane in the same moment
				pause = min(pause*time.Duration(failing), 4*pause)
				pause = pause/2 + rand.N(pause)
			}
		case k.opts.Wait > 0 && news:
			failing, pause = 0, 0
		default:
			failing = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// upkeep writes last-used times and, where the feed is waited for, tries again what could not be read again.
func (k *Keyring) upkeep(ctx context.Context) {
	touch := time.NewTicker(k.opts.TouchEvery)
	defer touch.Stop()
	var again <-chan time.Time
	if k.opts.Wait > 0 {
		ticker := time.NewTicker(k.opts.Poll)
		defer ticker.Stop()
		again = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			k.touch(context.WithoutCancel(ctx))
			return
		case <-touch.C:
			k.touch(ctx)
		case <-again:
			k.refresh()
		}
	}
}

func (k *Keyring) refresh() {
	k.keys.refresh()
	k.clients.refresh()
}

// follow looks at the feed once: what changed is outdated at once, then read again. news says that the source waited
// for as long as it would, or had something: that it may be asked again at once.
func (k *Keyring) follow(ctx context.Context) (news bool, err error) {
	began, after := time.Now(), k.version.Load()
	ctx, cancel := context.WithTimeout(ctx, k.opts.LoadTimeout+k.opts.Wait)
	defer cancel()
	global := after == 0
	for more := true; more; {
		changes, newest, err := k.store.Changes(ctx, after)
		if errors.Is(err, ErrChangesLost) {
			k.opts.Log.Warn("the change feed does not reach back to what was seen last; reading everything again", "version", after)
			k.setVersion(0) // the next look begins anew
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if after == 0 { // whatever was loaded before this version may have changed before it, too
			k.keys.outdateAll()
			k.clients.outdateAll()
		}
		if k.outdate(changes) {
			global = true
		}
		news = news || len(changes) > 0 || newest != after
		more, after = k.opts.Wait == 0 && len(changes) == maxChanges, newest
		k.setVersion(after)
		if k.opts.OnChanges != nil {
			k.opts.OnChanges(changes, newest)
		}
	}
	k.lastPoll.Store(time.Now().UnixNano())
	if global {
		for _, f := range k.onGlobal {
			f()
		}
	}
	k.refresh()
	return news || time.Since(began) >= k.opts.Wait/2, nil
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
	if k.opts.Strict { // proxies tell of uses
		return
	}
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
