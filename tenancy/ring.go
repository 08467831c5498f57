package tenancy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// ringShards keeps the maps small that are copied when a tenant is added: 100 000 tenants make 100 entries in each.
	ringShards = 1024
	// maxFlights bounds who waits for the store. More keys than this at once that nobody has seen are an attack or a
	// start after an outage; in both cases 503 is a better answer than memory.
	maxFlights = 4096
	// maxRefresh is how many changed entries are read again before anybody asks. The others, after a change of very
	// many tenants, wait for their next request.
	maxRefresh = 256
)

// ring holds principals by one kind of name: a key's digest or a client's id.
//
// Readers take no lock: a shard is a map that is never changed, only replaced. All else is under one mutex; it happens
// when something is new or has changed.
type ring[K comparable] struct {
	keyring *Keyring
	load    func(context.Context, K) (*Principal, error)
	loads   chan struct{} // a slot for each read of the store that may run
	hash    func(K) uint64
	record  func(name K, p *Principal, outdated bool) []byte // of an entry, for the journal; a nil principal: it is gone
	shards  [ringShards]atomic.Pointer[map[K]*held]

	mu       sync.Mutex
	epoch    uint64            // counts changes: what was read before one may be older than it
	owned    map[uuid.UUID][]K // what is held of a client
	outdated map[K]struct{}    // what refresh still has to read again
	unknown  unknowns[K]
	flights  map[K]*flight
}

// held is one entry. It stays in place while its principal is replaced.
type held struct {
	principal atomic.Pointer[Principal]
	outdated  atomic.Bool // changed in the store since it was read
	used      atomic.Bool // since the last-used times were written
}

// flight is one read of the store, and all who wait for it.
type flight struct {
	done      chan struct{}
	principal *Principal
	err       error
}

func newRing[K comparable](k *Keyring, loads chan struct{}, load func(context.Context, K) (*Principal, error), hash func(K) uint64) *ring[K] {
	return &ring[K]{
		keyring: k, load: load, loads: loads, hash: hash,
		owned: map[uuid.UUID][]K{}, outdated: map[K]struct{}{}, flights: map[K]*flight{},
		unknown: unknowns[K]{limit: k.opts.MaxUnknown, keep: k.opts.UnknownFor},
	}
}

// get is the hot path: nothing is allocated, nothing is locked, and a line of memory is written once a minute.
func (r *ring[K]) get(ctx context.Context, name K) (*Principal, error) {
	if h := r.find(name); h != nil && !h.outdated.Load() {
		p := h.principal.Load()
		if p.ExpiresAt.IsZero() || !p.Expired(time.Now()) {
			if !h.used.Load() {
				h.used.Store(true)
			}
			return p, nil
		}
	}
	return r.ask(ctx, name)
}

func (r *ring[K]) find(name K) *held {
	m := r.shard(name).Load()
	if m == nil {
		return nil
	}
	return (*m)[name]
}

func (r *ring[K]) shard(name K) *atomic.Pointer[map[K]*held] {
	return &r.shards[r.hash(name)%ringShards]
}

// ask waits for the store, with all others who want the same. What was held before and has not expired is the answer
// when the store gives none.
func (r *ring[K]) ask(ctx context.Context, name K) (*Principal, error) {
	last, f, err := r.join(name)
	if f == nil {
		return last, err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if last != nil && errors.Is(f.err, ErrUnavailable) && !r.keyring.opts.Strict {
		return last, nil
	}
	return f.principal, f.err
}

// join gives the flight to wait for, or none with the answer there is already.
func (r *ring[K]) join(name K) (last *Principal, f *flight, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.find(name)
	if h != nil && h.principal.Load().Expired(time.Now()) { // from here on like one that never was
		r.drop(name, h)
		h = nil
	}
	if h != nil {
		last = h.principal.Load()
		if !h.outdated.Load() { // somebody was faster
			return last, nil, nil
		}
	} else if r.unknown.has(name) {
		return nil, nil, ErrInvalidKey
	}
	f = r.flights[name]
	if f == nil && (r.keyring.storeDown() || len(r.flights) >= maxFlights) {
		if last != nil && !r.keyring.opts.Strict {
			return last, nil, nil
		}
		return nil, nil, ErrUnavailable
	}
	if f == nil {
		f = r.start(name)
	}
	return last, f, nil
}

// start reads a name from the store in the background, because whoever waits for it may go. The mutex is held.
func (r *ring[K]) start(name K) *flight {
	f := &flight{done: make(chan struct{})}
	r.flights[name] = f
	go func() {
		f.principal, f.err = r.fly(name)
		r.mu.Lock()
		delete(r.flights, name)
		r.mu.Unlock()
		close(f.done)
	}()
	return f
}

// fly reads until no change came in between: what is read while something changes may be from before or from after.
func (r *ring[K]) fly(name K) (*Principal, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.keyring.opts.LoadTimeout)
	defer cancel()
	select {
	case r.loads <- struct{}{}:
		defer func() { <-r.loads }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: too many unknown keys at once", ErrUnavailable)
	}
	for attempt := 1; ; attempt++ {
		r.mu.Lock()
		epoch := r.epoch
		r.mu.Unlock()
		p, err := r.load(ctx, name)
		r.keyring.noteLoad(err)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if err == nil && p.Expired(time.Now()) {
			p, err = nil, ErrNotFound
		}
		if attempt == 3 && r.keyring.opts.Strict && !r.current(epoch) {
			return nil, fmt.Errorf("%w: it changes faster than it can be read", ErrUnavailable)
		}
		if r.land(name, p, epoch, attempt == 3) {
			if err != nil {
				return nil, ErrInvalidKey
			}
			return p, nil
		}
	}
}

func (r *ring[K]) current(epoch uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch == epoch
}

// land keeps what was read, unless something changed since the epoch. On the last attempt it is kept as outdated: good
// for those who wait, and read again for the next.
func (r *ring[K]) land(name K, p *Principal, epoch uint64, last bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch != epoch && !last {
		return false
	}
	h := r.find(name)
	switch {
	case p == nil:
		if h != nil {
			r.drop(name, h)
		}
		if r.epoch == epoch {
			r.unknown.add(name)
		}
		return true
	case h == nil:
		h = &held{}
		h.principal.Store(p)
		r.replace(name, h)
		r.owned[p.ClientID] = append(r.owned[p.ClientID], name)
	default:
		if was := h.principal.Load().ClientID; was != p.ClientID {
			r.disown(was, name)
			r.owned[p.ClientID] = append(r.owned[p.ClientID], name)
		}
		h.principal.Store(p)
	}
	if r.epoch == epoch {
		h.outdated.Store(false)
		delete(r.outdated, name)
	} else {
		h.outdated.Store(true)
		r.outdated[name] = struct{}{}
	}
	r.note(name, p, r.epoch != epoch)
	return true
}

// note puts what is now held under a name into the journal. The mutex is held.
func (r *ring[K]) note(name K, p *Principal, outdated bool) {
	if r.keyring.opts.Journal != nil {
		r.keyring.opts.Journal(r.record(name, p, outdated))
	}
}

// drop forgets an entry. The mutex is held.
func (r *ring[K]) drop(name K, h *held) {
	r.replace(name, nil)
	r.disown(h.principal.Load().ClientID, name)
	delete(r.outdated, name)
	r.note(name, nil, false)
}

func (r *ring[K]) disown(client uuid.UUID, name K) {
	names := r.owned[client]
	for i, n := range names {
		if n == name {
			names = append(names[:i], names[i+1:]...)
			break
		}
	}
	if r.owned[client] = names; len(names) == 0 {
		delete(r.owned, client)
	}
}

// replace puts a copy of a shard in its place, with one entry changed or (nil) gone. The mutex is held.
func (r *ring[K]) replace(name K, h *held) {
	shard := r.shard(name)
	next := map[K]*held{}
	if old := shard.Load(); old != nil {
		next = maps.Clone(*old)
	}
	if h == nil {
		delete(next, name)
	} else {
		next[name] = h
	}
	shard.Store(&next)
}

// outdate notes that something of a client changed.
func (r *ring[K]) outdate(client uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.unknown.clear() // the change may be a new key
	if names := r.owned[client]; len(names) > 0 {
		r.outdateOwned(names)
		r.keyring.journal(recordOutdated, client[:])
	}
}

// outdateAll notes that anything may have changed.
func (r *ring[K]) outdateAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.unknown.clear()
	for _, names := range r.owned {
		r.outdateOwned(names)
	}
	r.keyring.journal(recordOutdated, nil)
}

func (r *ring[K]) outdateOwned(names []K) {
	for _, name := range names {
		if h := r.find(name); h != nil {
			h.outdated.Store(true)
			r.outdated[name] = struct{}{}
		}
	}
}

// refresh begins to read again what is outdated, without waiting for it. What fails stays outdated, for the next time.
func (r *ring[K]) refresh() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keyring.storeDown() {
		return
	}
	for name := range r.outdated {
		if len(r.flights) >= maxRefresh {
			return
		}
		if r.flights[name] == nil {
			r.start(name)
		}
	}
}

// used lists the keys used since it was last called.
func (r *ring[K]) used() []uuid.UUID {
	var ids []uuid.UUID
	r.each(func(h *held) {
		if h.used.Swap(false) {
			ids = append(ids, h.principal.Load().KeyID)
		}
	})
	return ids
}

// each visits all entries.
func (r *ring[K]) each(visit func(*held)) {
	for i := range r.shards {
		if m := r.shards[i].Load(); m != nil {
			for _, h := range *m {
				visit(h)
			}
		}
	}
}

func (r *ring[K]) count() (entries, unknown, outdated int) {
	r.each(func(*held) { entries++ })
	r.mu.Lock()
	defer r.mu.Unlock()
	return entries, r.unknown.len(), len(r.outdated)
}
