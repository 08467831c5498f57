package metering

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// In Redis, with N a shard:
//
//	catraca:usage:{N}             stream: field b has some events, or field e one event of an earlier release. Never
//	                              trimmed by length: an entry goes when the ledger has all its events, and the braces
//	                              let a cluster spread the shards
//	catraca:usage:{N}:generation  a random word; gone or changed, Redis has lost what the shard held
//	catraca:received:HEX          hash of one incarnation, shard → the sequence numbers that the ledger has
//
// None of it is true: all may vanish at any moment, and the spools send again.
const (
	redisShards   = 16
	redisGroup    = "ledger"
	redisConsumer = "worker" // one name for all: what a worker took and did not finish is pending for the next
	// receivedFor is how long a spool that nobody opens finds what the ledger has of it. Afterwards it sends again, and
	// the ledger knows.
	receivedFor = 7 * 24 * time.Hour
	// mostEntries bounds what one read brings: with entries as full as they may be that is 2 MiB of usual events.
	mostEntries = 128
)

// RedisQueue is the queue between processes: Redis Streams, sharded by client.
type RedisQueue struct {
	client  redis.UniversalClient
	keys    sharedKeys
	checked atomic.Bool
	shards  [redisShards]redisShard
}

// redisShard is a shard as its one consumer sees it. Claim begins it anew.
type redisShard struct {
	after    string         // the last entry read again after Claim; empty when reading what is new
	ready    []Delivery     // read, and not handed out yet
	left     map[string]int // by entry: how many of its events are not done
	perEntry int            // events in an entry, by the last read
	looked   time.Time      // when what was handed out was last read again
}

// lookEvery is how often what was handed out and is not done is read again while nothing is held here. There is some
// after a failover: the new server has the entry and never heard that it is done.
const lookEvery = 30 * time.Second

func newRedisShard(after string) redisShard {
	return redisShard{after: after, left: make(map[string]int), perEntry: entryEvents, looked: time.Now()}
}

var (
	_ Queue       = (*RedisQueue)(nil)
	_ Consumer    = (*RedisQueue)(nil)
	_ generations = (*RedisQueue)(nil)
)

// ErrEviction says that this Redis would throw events away when its memory is full.
var ErrEviction = errors.New("this Redis may evict keys")

// NewRedisQueue makes one end of the queue, to publish or to consume. With a key, which all ends must share, events and
// what is told of the ledger are signed: who can write to Redis but does not know it can neither invent usage nor make
// a spool let go of it. To change the key, let all ends know the new one in the second place, then in the first, and
// then forget the old one.
func NewRedisQueue(client redis.UniversalClient, keys ...[]byte) *RedisQueue {
	q := &RedisQueue{client: client}
	for shard := range q.shards {
		q.shards[shard] = newRedisShard("")
	}
	for _, key := range keys {
		if len(key) > 0 {
			q.keys = append(q.keys, key)
		}
	}
	return q
}

// Check refuses a Redis whose maxmemory-policy evicts: a full one must answer with an error, and the spool waits.
func (q *RedisQueue) Check(ctx context.Context) error {
	check := func(ctx context.Context, node redis.Cmdable) error {
		info, err := node.Info(ctx, "memory").Result() // CONFIG GET is forbidden on many managed ones
		if err != nil {
			return err
		}
		for line := range strings.Lines(info) {
			policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
			if ok && policy != "noeviction" {
				return fmt.Errorf("%w: maxmemory-policy is %s; set it to noeviction, or give usage a Redis of its own", ErrEviction, policy)
			}
		}
		return nil
	}
	var err error
	if cluster, ok := q.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return check(ctx, node) })
	} else {
		err = check(ctx, q.client)
	}
	if err == nil {
		q.checked.Store(true)
	}
	return err
}

// ensureChecked is Check, once: Redis may be down when a process starts.
func (q *RedisQueue) ensureChecked(ctx context.Context) error {
	if q.checked.Load() {
		return nil
	}
	return q.Check(ctx)
}

func streamKey(shard int) string     { return "catraca:usage:{" + strconv.Itoa(shard) + "}" }
func generationKey(shard int) string { return streamKey(shard) + ":generation" }
func receivedKey(incarnation uint64) string {
	return fmt.Sprintf("catraca:received:%016x", incarnation)
}

// Publish implements Queue. Some of a batch may have been taken when it fails.
func (q *RedisQueue) Publish(ctx context.Context, batch []Message) error {
	if err := q.ensureChecked(ctx); err != nil {
		return err
	}
	_, err := q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, e := range pack(batch, redisShards) {
			p.XAdd(ctx, &redis.XAddArgs{Stream: streamKey(e.shard), Values: []any{"b", q.keys.sign(kindBatch, e.value)}})
		}
		return nil
	})
	return err
}

// Received implements Queue: it is the union of what the shards' workers published.
func (q *RedisQueue) Received(ctx context.Context, incarnation uint64) (Ranges, error) {
	fields, err := q.client.HGetAll(ctx, receivedKey(incarnation)).Result()
	if err != nil {
		return nil, err
	}
	var all Ranges
	for shard, value := range fields {
		b, ok := q.keys.verify(receivedKey(incarnation)+"/"+shard, []byte(value))
		if !ok {
			return nil, fmt.Errorf("what Redis says is recorded of %016x by shard %.4q has a wrong signature", incarnation, shard)
		}
		r, err := ParseRanges(string(b))
		if err != nil {
			return nil, err
		}
		all = all.Union(r)
	}
	return all, nil
}

// Generation tells what Redis is remembered by. It changes when any shard lost its memory, and when another server took
// over: a replica has the words, and not necessarily the last events.
func (q *RedisQueue) Generation(ctx context.Context) (string, error) {
	word := randomWord()
	cmds := make([]*redis.StatusCmd, redisShards)
	_, err := q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for shard := range cmds {
			cmds[shard] = p.SetArgs(ctx, generationKey(shard), word, redis.SetArgs{Mode: "NX", Get: true})
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", err
	}
	var all strings.Builder
	for _, cmd := range cmds {
		old, err := cmd.Result()
		switch {
		case errors.Is(err, redis.Nil): // there was none, and now there is ours
			old = word
		case err != nil:
			return "", err
		}
		all.WriteString(old)
	}
	all.WriteString(q.histories(ctx))
	return all.String(), nil
}

// histories names the replication histories of the servers. Each begins where a server becomes a primary. One that
// will not tell is not asked again in other ways: then what it lost is sent again when patience ends.
func (q *RedisQueue) histories(ctx context.Context) string {
	var mu sync.Mutex
	var ids []string
	ask := func(ctx context.Context, node redis.Cmdable) error {
		info, err := node.Info(ctx, "replication").Result()
		for line := range strings.Lines(info) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "master_replid:"); ok {
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		}
		return err
	}
	if cluster, ok := q.client.(*redis.ClusterClient); ok {
		_ = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return ask(ctx, node) })
	} else {
		_ = ask(ctx, q.client)
	}
	slices.Sort(ids)
	return strings.Join(ids, "")
}

func randomWord() string {
	var fresh [16]byte
	rand.Read(fresh[:]) // never fails
	return hex.EncodeToString(fresh[:])
}

// Shards implements Consumer.
func (q *RedisQueue) Shards() int { return redisShards }

// Claim implements Consumer.
func (q *RedisQueue) Claim(ctx context.Context, shard int) error {
	if err := q.ensureChecked(ctx); err != nil {
		return err
	}
	q.shards[shard] = newRedisShard("0")
	return q.createGroup(ctx, shard)
}

// createGroup makes stream and group where they are missing. The group begins at the stream's first entry: what is
// there is not recorded yet, and if it is, the ledger knows.
func (q *RedisQueue) createGroup(ctx context.Context, shard int) error {
	err := q.client.XGroupCreateMkStream(ctx, streamKey(shard), redisGroup, "0").Err()
	if err != nil && !strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return fmt.Errorf("create group of shard %d: %w", shard, err)
	}
	return nil
}

// renewGeneration makes every spool send again what it has on its way, because some of what the shard held is gone. A
// Redis that was emptied has no word to change; the next who asks makes one.
func (q *RedisQueue) renewGeneration(ctx context.Context, shard int) error {
	err := q.client.SetXX(ctx, generationKey(shard), randomWord(), 0).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("renew generation of shard %d: %w", shard, err)
	}
	return nil
}

// Next implements Consumer. Of what was read and is more than asked for, the rest is handed out the next time.
func (q *RedisQueue) Next(ctx context.Context, shard, most int, wait time.Duration) ([]Delivery, error) {
	s := &q.shards[shard]
	if len(s.left) == 0 && s.after == "" && time.Since(s.looked) >= lookEvery {
		s.after, s.looked = "0", time.Now()
	}
	for len(s.ready) < most {
		entries := min(max((most-len(s.ready))/s.perEntry, 1), mostEntries)
		if len(s.ready) > 0 {
			wait = 0
		}
		came, err := q.fill(ctx, shard, entries, wait)
		if err != nil {
			return nil, err
		}
		if came < entries {
			break
		}
	}
	n := min(most, len(s.ready))
	ds := s.ready[:n:n]
	if s.ready = s.ready[n:]; len(s.ready) == 0 {
		s.ready = nil
	}
	return ds, nil
}

// fill reads some entries: those that were handed out before Claim first, then what is new.
func (q *RedisQueue) fill(ctx context.Context, shard, most int, wait time.Duration) (came int, err error) {
	s := &q.shards[shard]
	if s.after != "" {
		entries, err := q.read(ctx, shard, s.after, most, 0)
		if err != nil {
			return 0, err
		}
		if len(entries) > 0 {
			s.after = entries[len(entries)-1].ID
			return len(entries), q.take(ctx, shard, entries)
		}
		s.after = ""
	}
	entries, err := q.read(ctx, shard, ">", most, wait)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	return len(entries), q.take(ctx, shard, entries)
}

// read is XREADGROUP.
func (q *RedisQueue) read(ctx context.Context, shard int, from string, most int, wait time.Duration) ([]redis.XMessage, error) {
	block := time.Duration(-1)
	if wait > 0 {
		block = max(wait, time.Millisecond) // 0 would mean for ever
	}
	// A connection that is half open answers never: a deadline finds out, where the client alone would take ten seconds.
	timed, cancel := context.WithTimeout(ctx, max(wait, 0)+2*time.Second)
	defer cancel()
	streams, err := q.client.XReadGroup(timed, &redis.XReadGroupArgs{
		Group: redisGroup, Consumer: redisConsumer, Streams: []string{streamKey(shard), from}, Count: int64(most), Block: block,
	}).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil && strings.HasPrefix(err.Error(), "NOGROUP"): // Redis was emptied, or someone deleted stream or group
		return nil, errors.Join(q.renewGeneration(ctx, shard), q.createGroup(ctx, shard))
	case err != nil:
		return nil, fmt.Errorf("read shard %d: %w", shard, err)
	case len(streams) == 0:
		return nil, nil
	}
	return streams[0].Messages, nil
}

// take makes deliveries of entries.
func (q *RedisQueue) take(ctx context.Context, shard int, entries []redis.XMessage) error {
	s := &q.shards[shard]
	var gone []string
	before := len(s.ready)
	for _, e := range entries {
		if len(e.Values) == 0 { // it was pending, and someone has trimmed the stream
			gone = append(gone, e.ID)
			continue
		}
		ds := q.open(e)
		s.ready = append(s.ready, ds...)
		s.left[e.ID] = len(ds)
	}
	s.perEntry = max(1, (len(s.ready)-before)/len(entries))
	if len(gone) == 0 {
		return nil
	}
	if err := q.renewGeneration(ctx, shard); err != nil {
		return err
	}
	return q.forget(ctx, shard, gone)
}

// open gives the events of an entry. What cannot be believed or read is one spoilt delivery.
func (q *RedisQueue) open(e redis.XMessage) []Delivery {
	kind := kindBatch
	value, ok := e.Values["b"].(string)
	if !ok {
		kind = kindEvent
		value, _ = e.Values["e"].(string)
	}
	raw := []byte(value)
	signed, ok := q.keys.verify(kind, raw)
	switch {
	case !ok:
		return []Delivery{{ID: e.ID, Payload: raw, Spoilt: errSignature}}
	case kind == kindEvent:
		return []Delivery{{ID: e.ID, Payload: signed}}
	}
	payloads, err := unpack(signed)
	if err != nil {
		return []Delivery{{ID: e.ID, Payload: raw, Spoilt: err}}
	}
	ds := make([]Delivery, len(payloads))
	for i, p := range payloads {
		ds[i] = Delivery{ID: e.ID, Payload: p}
	}
	return ds
}

// Done implements Consumer. An entry goes when the last of its events is done.
func (q *RedisQueue) Done(ctx context.Context, shard int, ds []Delivery) error {
	left := q.shards[shard].left
	var ids []string
	for _, d := range ds {
		switch left[d.ID] {
		case 0: // handed out before the last Claim, after which it comes again
		case 1:
			delete(left, d.ID)
			ids = append(ids, d.ID)
		default:
			left[d.ID]--
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return q.forget(ctx, shard, ids)
}

// forget takes entries off the stream. XACK does not delete, so both are needed, and together: an entry that is only
// acknowledged stays for ever, and one that is only deleted looks like one that was lost.
func (q *RedisQueue) forget(ctx context.Context, shard int, ids []string) error {
	_, err := q.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.XAck(ctx, streamKey(shard), redisGroup, ids...)
		p.XDel(ctx, streamKey(shard), ids...)
		return nil
	})
	return err
}

// PublishReceived implements Consumer. Each shard has a field of its own, for what two workers read of the ledger at
// different times must not overwrite each other.
func (q *RedisQueue) PublishReceived(ctx context.Context, shard int, incarnation uint64, r Ranges) error {
	key, field := receivedKey(incarnation), strconv.Itoa(shard)
	_, err := q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, key, field, q.keys.sign(key+"/"+field, []byte(r.String())))
		p.Expire(ctx, key, receivedFor)
		return nil
	})
	return err
}
