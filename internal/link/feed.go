package link

import (
	"context"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

const (
	// feedKeeps is how many changes are remembered: those of a busy day. Who asks for older ones costs a read.
	feedKeeps = 50_000
	// feedPage bounds one answer; the next gets the rest.
	feedPage = 10_000
)

// feed is the end of the change feed, in memory, and everybody who waits for it to go on.
type feed struct {
	mu      sync.Mutex
	base    int64 // a version of the feed; changes hold all after it
	changes []tenancy.Change
	newest  int64 // 0: nothing is known yet
	grown   chan struct{}
	extends sync.Mutex // held by who reads what is older than base
}

func newFeed() *feed { return &feed{grown: make(chan struct{})} }

// add takes in what a look at the store gave. No changes at a version that is not the newest begin the feed anew.
func (f *feed) add(changes []tenancy.Change, newest int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(changes) > 0:
		f.changes = append(f.changes, changes...)
		if n := len(f.changes) - feedKeeps; n > feedKeeps/4 {
			f.base = f.changes[n-1].Version
			f.changes = slices.Clone(f.changes[n:])
		}
	case newest != f.newest:
		f.base, f.changes = newest, nil
	default:
		return
	}
	f.newest = newest
	f.wake()
}

// nudge wakes everybody for news that are no change of the feed.
func (f *feed) nudge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wake()
}

func (f *feed) wake() {
	close(f.grown)
	f.grown = make(chan struct{})
}

// where says how a version stands to what is remembered.
type where int

const (
	here    where = iota // changes after it, if any, are remembered
	older                // than what is remembered
	newer                // than what was seen: of another replica, or of a database that is no more
	nowhere              // the feed never had it
)

// after gives what changed after a version, and what to wait for when that is nothing.
func (f *feed) after(version int64) (changes []tenancy.Change, newest int64, at where, grown <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case version > f.newest:
		return nil, f.newest, newer, f.grown
	case version < f.base:
		return nil, f.newest, older, f.grown
	case version == f.base:
		changes = f.changes
	default:
		i, found := slices.BinarySearchFunc(f.changes, version, func(c tenancy.Change, v int64) int { return int(c.Version - v) })
		if !found {
			return nil, f.newest, nowhere, f.grown
		}
		changes = f.changes[i+1:]
	}
	newest = f.newest
	if len(changes) > feedPage {
		changes = changes[:feedPage]
		newest = changes[feedPage-1].Version
	}
	return once(changes), newest, here, f.grown
}

// once names each client at its last change only.
func once(changes []tenancy.Change) []tenancy.Change {
	last := make(map[uuid.UUID]int64, len(changes))
	for _, c := range changes {
		last[c.ClientID] = c.Version
	}
	list := make([]tenancy.Change, 0, len(last))
	for _, c := range changes {
		if last[c.ClientID] == c.Version {
			list = append(list, c)
		}
	}
	return list
}

// extend reads what is older than what is remembered, and remembers it: after a restart of the control plane all its
// proxies ask for the same.
func (f *feed) extend(ctx context.Context, source tenancy.Source, version int64) ([]tenancy.Change, int64, error) {
	f.extends.Lock()
	defer f.extends.Unlock()
	if changes, newest, at, _ := f.after(version); at == here {
		return changes, newest, nil
	}
	changes, newest, err := source.Changes(ctx, version)
	if err != nil {
		return nil, 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(changes, func(c tenancy.Change) bool { return c.Version == f.base }); i >= 0 && len(f.changes)+i < feedKeeps {
		f.changes, f.base = append(slices.Clone(changes[:i+1]), f.changes...), version
	}
	return once(changes), newest, nil
}
