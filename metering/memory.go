package metering

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
)

// shardOf spreads clients over shards. It must never change: two releases run side by side in an upgrade.
func shardOf(client uuid.UUID, shards int) int {
	h := uint32(2166136261) // FNV-1a
	for _, b := range client {
		h = (h ^ uint32(b)) * 16777619
	}
	return int(h % uint32(shards))
}

// MemoryQueue is the queue of a process that is proxy and worker in one. It holds a bounded number of events; Publish
// waits when it is full, and the spool is where the rest is.
type MemoryQueue struct {
	size int

	mu       sync.Mutex
	changed  chan struct{} // closed at each change, and made anew
	shards   []memoryShard
	held     int
	lastID   uint64
	received map[uint64]Ranges
}

type memoryShard struct {
	ready   []Delivery
	pending []Delivery // handed out, and not done
}

var (
	_ Queue    = (*MemoryQueue)(nil)
	_ Consumer = (*MemoryQueue)(nil)
)

// NewMemoryQueue makes a queue for so many events. One shard is right for SQLite, which has one writer.
func NewMemoryQueue(shards, size int) *MemoryQueue {
	return &MemoryQueue{
		size: max(size, 1), changed: make(chan struct{}), shards: make([]memoryShard, max(shards, 1)),
		received: make(map[uint64]Ranges),
	}
}

// wait sleeps until something changes. It is called with the lock held and returns with it held.
func (q *MemoryQueue) wait(ctx context.Context, timeout <-chan time.Time) (ok bool) {
	changed := q.changed
	q.mu.Unlock()
	defer q.mu.Lock()
	select {
	case <-changed:
		return true
	case <-timeout:
		return false
	case <-ctx.Done():
		return false
	}
}

func (q *MemoryQueue) change() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// Publish implements Queue. It takes part of a batch when ctx ends before all of it fits.
func (q *MemoryQueue) Publish(ctx context.Context, batch []Message) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range batch {
		for q.held >= q.size {
			if !q.wait(ctx, nil) {
				return ctx.Err()
			}
		}
		q.lastID++
		q.held++
		s := &q.shards[shardOf(m.ClientID, len(q.shards))]
		s.ready = append(s.ready, Delivery{ID: strconv.FormatUint(q.lastID, 10), Payload: slices.Clone(m.Payload)})
		if len(s.ready) == 1 {
			q.change()
		}
	}
	return nil
}

// Received implements Queue.
func (q *MemoryQueue) Received(_ context.Context, incarnation uint64) (Ranges, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.received[incarnation]), nil
}

// Shards implements Consumer.
func (q *MemoryQueue) Shards() int { return len(q.shards) }

// Claim implements Consumer.
func (q *MemoryQueue) Claim(_ context.Context, shard int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := &q.shards[shard]
	s.ready, s.pending = append(s.pending, s.ready...), nil
	return nil
}

// Next implements Consumer.
func (q *MemoryQueue) Next(ctx context.Context, shard, most int, wait time.Duration) ([]Delivery, error) {
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := &q.shards[shard]
	for len(s.ready) == 0 {
		if wait <= 0 || !q.wait(ctx, timer.C) {
			return nil, ctx.Err()
		}
	}
	n := min(most, len(s.ready))
	ds := slices.Clone(s.ready[:n])
	s.pending = append(s.pending, ds...)
	clear(s.ready[:n])
	s.ready = s.ready[n:]
	return ds, nil
}

// Done implements Consumer.
func (q *MemoryQueue) Done(_ context.Context, shard int, ds []Delivery) error {
	done := make(map[string]bool, len(ds))
	for _, d := range ds {
		done[d.ID] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := &q.shards[shard]
	before := len(s.pending)
	s.pending = slices.DeleteFunc(s.pending, func(d Delivery) bool { return done[d.ID] })
	q.held -= before - len(s.pending)
	q.change()
	return nil
}

// PublishReceived implements Consumer.
func (q *MemoryQueue) PublishReceived(_ context.Context, _ int, incarnation uint64, r Ranges) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.received[incarnation] = q.received[incarnation].Union(r)
	return nil
}
