package metering

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"
)

var errSim = errors.New("simulated fault")

// simQueue is a queue as Redis is one: nothing in it is true.
type simQueue struct {
	s          *sim
	shards     [simShards]simShard
	received   map[uint64]map[int]Ranges
	generation int
	down       bool
	nextID     int
	replica    *simQueue // as it was some time ago
}

const simShards = 2

type simShard struct {
	entries   []simEntry
	delivered int   // the last id that was handed out
	pending   []int // handed out and not done
}

type simEntry struct {
	id      int
	payload []byte
}

func (q *simQueue) flush() {
	q.shards, q.received = [simShards]simShard{}, map[uint64]map[int]Ranges{}
	q.generation++
}

func (q *simQueue) copied() *simQueue {
	c := &simQueue{received: map[uint64]map[int]Ranges{}}
	for i, sh := range q.shards {
		c.shards[i] = simShard{slices.Clone(sh.entries), sh.delivered, slices.Clone(sh.pending)}
	}
	for k, v := range q.received {
		c.received[k] = maps.Clone(v)
	}
	return c
}

// failover goes on with the replica, which has not seen the last writes. What it is remembered by may be the same.
func (q *simQueue) failover(noticed bool) {
	c := q.replica.copied()
	q.shards, q.received = c.shards, c.received
	if noticed {
		q.generation++
	}
}

// trim is somebody else's: a share of the entries goes, handed out or not.
func (q *simQueue) trim() {
	for i := range q.shards {
		sh := &q.shards[i]
		sh.entries = slices.DeleteFunc(sh.entries, func(simEntry) bool { return q.s.r.IntN(2) == 0 })
	}
}

func (sh *simShard) entry(id int) (e simEntry, ok bool) {
	i := slices.IndexFunc(sh.entries, func(e simEntry) bool { return e.id == id })
	if i < 0 {
		return e, false
	}
	return sh.entries[i], true
}

// simQueueOf is the queue as one process has it.
type simQueueOf struct {
	*simQueue
	v     *simView
	after [simShards]int // what Claim reads again; -1 when it is at the new ones
}

func (q *simQueueOf) Publish(_ context.Context, batch []Message) error {
	q.v.point("before publish")
	s := q.s
	if q.down {
		return errSim
	}
	fate, upto := s.r.IntN(12), len(batch)
	if s.quiet {
		fate = 11
	}
	if fate == 0 {
		upto = s.r.IntN(len(batch) + 1) // and then the connection breaks
	}
	for i := range upto {
		m := batch[i]
		if fate == 1 && s.chance(0.5) {
			continue // lost
		}
		for range 1 + s.r.IntN(6)/5 {
			q.nextID++
			sh := &q.shards[shardOf(m.ClientID, simShards)]
			sh.entries = append(sh.entries, simEntry{q.nextID, slices.Clone(m.Payload)})
			if fate == 2 && len(sh.entries) > 1 {
				a, b := &sh.entries[len(sh.entries)-1], &sh.entries[len(sh.entries)-2]
				if b.id > sh.delivered {
					a.payload, b.payload = b.payload, a.payload
				}
			}
		}
	}
	q.v.point("after publish")
	if fate == 0 || fate == 3 {
		return errSim
	}
	return nil
}

func (q *simQueueOf) Received(_ context.Context, incarnation uint64) (all Ranges, err error) {
	q.v.point("before received")
	if q.down {
		return nil, errSim
	}
	for _, shard := range slices.Sorted(maps.Keys(q.received[incarnation])) {
		all = all.Union(q.received[incarnation][shard])
	}
	return all, nil
}

func (q *simQueueOf) Generation(context.Context) (string, error) {
	if q.down {
		return "", errSim
	}
	return strconv.Itoa(q.generation), nil
}

func (q *simQueueOf) Shards() int { return simShards }

func (q *simQueueOf) Claim(_ context.Context, shard int) error {
	q.v.point("before claim")
	if q.down {
		return errSim
	}
	q.after[shard] = 0
	return nil
}

func (q *simQueueOf) Next(_ context.Context, shard, most int, _ time.Duration) (ds []Delivery, err error) {
	q.v.point("before next")
	if q.down {
		return nil, errSim
	}
	sh := &q.shards[shard]
	most = min(most, 1+q.s.r.IntN(40))
	if after := q.after[shard]; after >= 0 {
		for _, id := range slices.Clone(sh.pending) {
			if id <= after || len(ds) == most {
				continue
			}
			q.after[shard] = id
			if e, ok := sh.entry(id); ok {
				ds = append(ds, Delivery{ID: strconv.Itoa(id), Payload: e.payload})
			} else { // trimmed, and the spools are to send again
				sh.pending = slices.DeleteFunc(sh.pending, func(p int) bool { return p == id })
				q.generation++
			}
		}
		if len(ds) > 0 {
			return ds, nil
		}
		q.after[shard] = -1
	}
	for _, e := range sh.entries {
		if e.id > sh.delivered && len(ds) < most {
			sh.delivered = e.id
			sh.pending = append(sh.pending, e.id)
			ds = append(ds, Delivery{ID: strconv.Itoa(e.id), Payload: e.payload})
		}
	}
	q.v.point("after next")
	return ds, nil
}

func (q *simQueueOf) Done(_ context.Context, shard int, ds []Delivery) error {
	q.v.point("before done")
	sh := &q.shards[shard]
	gone := map[int]bool{}
	for _, d := range ds {
		var e Event
		if err := e.Decode(d.Payload); err != nil {
			q.s.failf("the worker was handed what is no event: %v", err)
		}
		if id := (simID{e.Incarnation, e.Seq}); !q.s.ledger.has(id) {
			q.s.failf("event %v is taken off the queue and is not in the ledger", id)
		}
		id, _ := strconv.Atoi(d.ID)
		gone[id] = true
	}
	if q.down {
		return errSim
	}
	sh.entries = slices.DeleteFunc(sh.entries, func(e simEntry) bool { return gone[e.id] })
	sh.pending = slices.DeleteFunc(sh.pending, func(id int) bool { return gone[id] })
	q.v.point("after done")
	if q.s.chance(0.02) {
		return errSim
	}
	return nil
}

func (q *simQueueOf) PublishReceived(_ context.Context, shard int, incarnation uint64, r Ranges) error {
	q.v.point("before publish received")
	for _, iv := range r {
		for seq := iv[0]; seq <= iv[1]; seq++ {
			if id := (simID{incarnation, seq}); !q.s.ledger.has(id) {
				q.s.failf("the spools are told that the ledger has %v, and it has not", id)
			}
		}
	}
	if q.down {
		return errSim
	}
	if q.received[incarnation] == nil {
		q.received[incarnation] = map[int]Ranges{}
	}
	q.received[incarnation][shard] = slices.Clone(r)
	q.v.point("after publish received")
	return nil
}
