package proxy

import (
	"sync"

	"github.com/google/uuid"
)

// owned remembers who made the responses that passed lately, so that most look-ups need no ledger.
type owned struct {
	mu         sync.Mutex
	young, old map[string]owner // two generations: when young is full it becomes old, and old is forgotten
}

type owner struct {
	client          uuid.UUID
	route, provider string
}

// generation bounds each of the two maps: about 20 MiB in all when both are full.
const generation = 50_000

func newOwned() *owned { return &owned{young: make(map[string]owner)} }

func (o *owned) put(id string, who owner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.young) >= generation {
		o.young, o.old = make(map[string]owner), o.young
	}
	o.young[id] = who
}

func (o *owned) get(id string) (owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if who, ok := o.young[id]; ok {
		return who, true
	}
	who, ok := o.old[id]
	return who, ok
}
