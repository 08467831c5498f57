package proxy

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/google/uuid"
)

// recent remembers something of the newest of many keys, in bounded memory. Each shard has two generations: when the
// young one is full, or as old as anything needs to be remembered, it becomes the old one and what was old is forgotten.
type recent[V any] struct {
	shards [recentShards]recentShard[V]
	size   int           // of one generation of one shard
	life   time.Duration // what was touched within it is there still, unless so many others came
}

const recentShards = 16

type recentShard[V any] struct {
	mu         sync.Mutex
	young, old map[uint64]V
	born       time.Duration // of the young generation
	size       int
	life       time.Duration
}

func newRecent[V any](keys int, life time.Duration) *recent[V] {
	r := &recent[V]{size: max(1, keys/recentShards/2), life: life}
	for i := range r.shards {
		r.shards[i].size, r.shards[i].life = r.size, life
	}
	return r
}

// lock returns the shard of a key, locked: who calls unlocks.
func (r *recent[V]) lock(key uint64, now time.Duration) *recentShard[V] {
	s := &r.shards[key%recentShards]
	s.mu.Lock()
	if now-s.born >= s.life {
		s.turn(now)
	}
	return s
}

func (s *recentShard[V]) turn(now time.Duration) {
	s.young, s.old, s.born = nil, s.young, now
}

func (s *recentShard[V]) get(key uint64) (v V, ok bool) {
	if v, ok = s.young[key]; !ok {
		v, ok = s.old[key]
	}
	return v, ok
}

func (s *recentShard[V]) put(key uint64, v V, now time.Duration) {
	if _, there := s.young[key]; !there && len(s.young) >= s.size {
		s.turn(now)
	}
	if s.young == nil {
		s.young = make(map[uint64]V)
	}
	s.young[key] = v
}

// What is counted under one name.
const (
	aConversation byte = iota + 1
	aContact
	aDowngrade
)

// keyOf is a key for something of a client's; 0 is none. Two names meet with a chance of 1 in 2^64, and nobody outside can
// look for such two: the seed is of this process.
func keyOf(seed maphash.Seed, client uuid.UUID, kind byte, name string) uint64 {
	if name == "" {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.Write(client[:])
	_ = h.WriteByte(kind)
	_, _ = h.WriteString(name)
	return max(h.Sum64(), 1)
}
