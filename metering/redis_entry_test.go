package metering

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/catraca/catraca/internal/testenv"
)

// entrySeqs reads which events came.
func entrySeqs(t *testing.T, ds []Delivery) (seqs []uint64) {
	t.Helper()
	for _, d := range ds {
		var e Event
		if err := e.Decode(d.Payload); err != nil || d.Spoilt != nil {
			t.Fatalf("a delivery of %d bytes: %v, %v", len(d.Payload), err, d.Spoilt)
		}
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

func entryRange(from, to uint64) (seqs []uint64) {
	for ; from <= to; from++ {
		seqs = append(seqs, from)
	}
	return seqs
}

// entryQueue is a queue that holds the events' one shard.
func entryQueue(t *testing.T, client redis.UniversalClient, events []Event, keys ...[]byte) (q *RedisQueue, shard int) {
	t.Helper()
	q, shard = NewRedisQueue(client, keys...), shardOf(events[0].ClientID, redisShards)
	if err := q.Claim(t.Context(), shard); err != nil {
		t.Fatal(err)
	}
	return q, shard
}

// publishTogether is one trip to the queue.
func publishTogether(t *testing.T, q Queue, events ...Event) {
	t.Helper()
	var batch []Message
	for _, e := range events {
		batch = append(batch, Message{e.ClientID, e.Append(nil)})
	}
	if err := q.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func mustNext(t *testing.T, q *RedisQueue, shard, most int) []Delivery {
	t.Helper()
	ds, err := q.Next(t.Context(), shard, most, 0)
	if err != nil || len(ds) > most {
		t.Fatalf("asked for %d, %d came, %v", most, len(ds), err)
	}
	return ds
}

func mustBeOnStream(t *testing.T, client redis.UniversalClient, shard int, entries, pending int64) {
	t.Helper()
	n, err := client.XLen(t.Context(), streamKey(shard)).Result()
	p, err2 := client.XPending(t.Context(), streamKey(shard), redisGroup).Result()
	if err != nil || err2 != nil || n != entries || p.Count != pending {
		t.Errorf("the stream has %d entries, %d pending, want %d and %d; %v, %v", n, p.Count, entries, pending, err, err2)
	}
}

func TestPack(t *testing.T) {
	var batch []Message
	for i := range 500 {
		id := uuid.UUID{byte(i), byte(i >> 8)}
		batch = append(batch, Message{id, bytes.Repeat([]byte{byte(i)}, 1+i%700)})
	}
	large := Message{batch[0].ClientID, make([]byte, 2*entryBytes)}
	batch = append(batch, large, batch[0])
	got := make(map[int][][]byte)
	entries := pack(batch, redisShards)
	for _, e := range entries {
		payloads, err := unpack(e.value)
		if err != nil || len(payloads) != e.events || e.events > entryEvents || e.events > 1 && len(e.value) > entryBytes+1000 {
			t.Fatalf("an entry of %d events, %d bytes: %d came out, %v", e.events, len(e.value), len(payloads), err)
		}
		got[e.shard] = append(got[e.shard], payloads...)
	}
	if len(entries) > redisShards+2 {
		t.Errorf("%d entries", len(entries))
	}
	want := make(map[int][][]byte)
	for _, m := range batch {
		shard := shardOf(m.ClientID, redisShards)
		want[shard] = append(want[shard], m.Payload)
	}
	for shard := range redisShards {
		if !slices.EqualFunc(got[shard], want[shard], bytes.Equal) {
			t.Errorf("shard %d does not have its events in order", shard)
		}
	}
	if e := pack(slices.Repeat(batch[:1], 500), redisShards); len(e) != (500+entryEvents-1)/entryEvents {
		t.Errorf("one client's 500 events make %d entries", len(e))
	}
	for _, broken := range [][]byte{nil, {0x80}, {2, 'a'}, {1, 'a', 9, 'b'}, bytes.Repeat([]byte{0xff}, 12)} {
		if p, err := unpack(broken); !errors.Is(err, errEntry) {
			t.Errorf("%x was read as %q, %v", broken, p, err)
		}
	}
}

// TestRedisBatchIsFewEntries counts what a full batch of one client, and of many, costs Redis.
func TestRedisBatchIsFewEntries(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	q := NewRedisQueue(client, []byte("key"))
	var batch []Message
	for i := range 500 {
		e := numbered(1)[0]
		e.ClientID[15], e.Seq = byte(i), uint64(i+1)
		batch = append(batch, Message{e.ClientID, e.Append(nil)})
	}
	if err := q.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	var entries, events int64
	for shard := range redisShards {
		entries += client.XLen(t.Context(), streamKey(shard)).Val()
		if err := q.Claim(t.Context(), shard); err != nil {
			t.Fatal(err)
		}
		ds := mustNext(t, q, shard, 500)
		events += int64(len(entrySeqs(t, ds)))
		if err := q.Done(t.Context(), shard, ds); err != nil {
			t.Fatal(err)
		}
	}
	if entries > redisShards || events != 500 {
		t.Errorf("%d entries with %d events", entries, events)
	}
	streamsAreEmpty(t, client)
}

// TestRedisPartlyDone takes the events of an entry off one by one, out of order, with a death in between.
func TestRedisPartlyDone(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	events := numbered(150)
	q, shard := entryQueue(t, client, events)
	publishTogether(t, q, events...) // entries of 64, 64 and 22
	ds := mustNext(t, q, shard, 100)
	if got := entrySeqs(t, ds); !slices.Equal(got, entryRange(1, 100)) {
		t.Fatalf("came %v", got)
	}
	done := func(ds ...Delivery) {
		t.Helper()
		if err := q.Done(t.Context(), shard, ds); err != nil {
			t.Fatal(err)
		}
	}
	slices.Reverse(ds[:64])
	done(ds[:63]...)
	mustBeOnStream(t, client, shard, 3, 2)
	done(ds[63])
	mustBeOnStream(t, client, shard, 2, 1)
	done(ds[64:]...) // 36 of the second, whose other 28 are not handed out yet
	mustBeOnStream(t, client, shard, 2, 1)
	rest := mustNext(t, q, shard, 500)
	if got := entrySeqs(t, rest); !slices.Equal(got, entryRange(101, 150)) {
		t.Fatalf("then came %v", got)
	}
	done(rest[1:28]...) // all but one of the second

	// It dies. Whoever comes next is given both entries whole, and what the dead one knew of them counts no more.
	stale := rest[0]
	if err := q.Claim(t.Context(), shard); err != nil {
		t.Fatal(err)
	}
	done(stale)
	mustBeOnStream(t, client, shard, 2, 2)
	again := mustNext(t, q, shard, 500)
	if got := entrySeqs(t, again); !slices.Equal(got, entryRange(65, 150)) {
		t.Fatalf("after the death came %v", got)
	}
	done(again[1:]...)
	mustBeOnStream(t, client, shard, 1, 1)
	done(again[0])
	mustBeOnStream(t, client, shard, 0, 0)
}

// TestRedisHandsOutNoMoreThanAsked reads with a bound that falls into entries, from a stream far longer than one read.
func TestRedisHandsOutNoMoreThanAsked(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	events := numbered(1200)
	q, shard := entryQueue(t, client, events)
	for i := range 300 { // entries of one, and then full ones
		deliver(t, q, events[i])
	}
	publishTogether(t, q, events[300:]...)
	var all []Delivery
	for i := 0; len(all) < len(events); i++ {
		ds := mustNext(t, q, shard, []int{1, 499, 3, 500, 65}[i%5])
		if len(ds) == 0 || i == 2 && len(ds) != 3 {
			t.Fatalf("%d came after %d", len(ds), len(all))
		}
		all = append(all, ds...)
		if err := q.Done(t.Context(), shard, ds); err != nil {
			t.Fatal(err)
		}
	}
	if got := entrySeqs(t, all); !slices.Equal(got, entryRange(1, 1200)) {
		t.Errorf("%d came, not in their order", len(got))
	}
	if ds := mustNext(t, q, shard, 500); len(ds) != 0 {
		t.Errorf("%d too many", len(ds))
	}
	mustBeOnStream(t, client, shard, 0, 0)
}

// TestRedisReadsEarlierEntries has entries of the release before, one event each, between those of today.
func TestRedisReadsEarlierEntries(t *testing.T) {
	for name, keys := range map[string][][]byte{"unsigned": nil, "signed": {[]byte("key")}} {
		t.Run(name, func(t *testing.T) {
			client := openRedis(t, testenv.Redis(t))
			events := numbered(6)
			q, shard := entryQueue(t, client, events, keys...)
			earlier := func(e Event) {
				t.Helper()
				value := sharedKeys(keys).sign(kindEvent, e.Append(nil))
				if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey(shard), Values: []any{"e", value}}).Err(); err != nil {
					t.Fatal(err)
				}
			}
			earlier(events[0])
			publishTogether(t, q, events[1:4]...)
			earlier(events[4])
			deliver(t, q, events[5])
			ds := mustNext(t, q, shard, 10)
			if got := entrySeqs(t, ds); !slices.Equal(got, entryRange(1, 6)) {
				t.Fatalf("came %v", got)
			}
			if err := q.Done(t.Context(), shard, ds); err != nil {
				t.Fatal(err)
			}
			mustBeOnStream(t, client, shard, 0, 0)
		})
	}
}

// TestRedisKeyRotation walks through a change of the key: each end may be a step ahead of the other, and none is refused.
func TestRedisKeyRotation(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	old, fresh := []byte("old"), []byte("fresh")
	events := numbered(1)
	steps := [][][]byte{{old}, {old, fresh}, {fresh, old}, {fresh}}
	for i, mine := range steps {
		for j, theirs := range steps {
			consumer, shard := entryQueue(t, client, events, theirs...)
			deliver(t, NewRedisQueue(client, mine...), events[0])
			ds := mustNext(t, consumer, shard, 10)
			if len(ds) != 1 {
				t.Fatalf("%d came", len(ds))
			}
			knows := func(keys [][]byte, key []byte) bool {
				return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
			}
			if near := i-j <= 1 && j-i <= 1; near && ds[0].Spoilt != nil || knows(theirs, mine[0]) != (ds[0].Spoilt == nil) {
				t.Errorf("from step %d to %d: %v", i, j, ds[0].Spoilt)
			}
			if err := consumer.PublishReceived(t.Context(), shard, 9, Ranges{{1, 2}}); err != nil {
				t.Fatal(err)
			}
			if r, err := NewRedisQueue(client, mine...).Received(t.Context(), 9); knows(mine, theirs[0]) != (err == nil && r.String() == "1-2") {
				t.Errorf("back from step %d to %d: %v, %v", j, i, r, err)
			}
			if err := consumer.Done(t.Context(), shard, ds); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What is unsigned, or signed for another use, is never believed.
	q, shard := entryQueue(t, client, events, fresh, old)
	payload := events[0].Append(nil)
	batch := pack([]Message{{events[0].ClientID, payload}}, redisShards)[0].value
	for field, value := range map[string][]byte{
		"b": batch, "e": payload,
		"b signed as one":   sharedKeys{old}.sign(kindEvent, batch),
		"e signed as batch": sharedKeys{old}.sign(kindBatch, payload),
	} {
		if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey(shard), Values: []any{field[:1], value}}).Err(); err != nil {
			t.Fatal(err)
		}
		if ds := mustNext(t, q, shard, 10); len(ds) != 1 || !errors.Is(ds[0].Spoilt, errSignature) {
			t.Errorf("%s: %d came, believed", field, len(ds))
		}
	}
	if n := NewRedisQueue(client, nil, []byte{}); len(n.keys) != 0 {
		t.Error("an empty key is one")
	}
}

// TestRedisSpoiltEntry has a signed entry that holds no events: it is parked whole, once, and then gone.
func TestRedisSpoiltEntry(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	q, shard := entryQueue(t, client, numbered(1), []byte("key"))
	value := q.keys.sign(kindBatch, []byte{200, 1, 'x'})
	if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey(shard), Values: []any{"b", value}}).Err(); err != nil {
		t.Fatal(err)
	}
	ds := mustNext(t, q, shard, 10)
	if len(ds) != 1 || !errors.Is(ds[0].Spoilt, errEntry) || !bytes.Equal(ds[0].Payload, value) {
		t.Fatalf("came %+v", ds)
	}
	if err := q.Done(t.Context(), shard, ds); err != nil {
		t.Fatal(err)
	}
	mustBeOnStream(t, client, shard, 0, 0)
}

// TestRedisLossRenewsGeneration trims a stream under a worker, and deletes one: the spools must send again at once.
func TestRedisLossRenewsGeneration(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	ctx := t.Context()
	events := numbered(70)
	q, shard := entryQueue(t, client, events)
	generation := func() string {
		t.Helper()
		g, err := q.Generation(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	first := generation()
	publishTogether(t, q, events...)
	if ds := mustNext(t, q, shard, 70); len(ds) != 70 {
		t.Fatalf("%d came", len(ds))
	}
	if err := q.Claim(ctx, shard); err != nil {
		t.Fatal(err)
	}
	if generation() != first {
		t.Error("a claim alone changes it")
	}
	if err := client.XTrimMaxLen(ctx, streamKey(shard), 1).Err(); err != nil {
		t.Fatal(err)
	}
	ds := mustNext(t, q, shard, 70)
	if got := entrySeqs(t, ds); !slices.Equal(got, entryRange(65, 70)) {
		t.Errorf("of what was left came %v", got)
	}
	second := generation()
	if second == first {
		t.Error("a trimmed entry changed nothing")
	}
	if err := q.Done(ctx, shard, ds); err != nil {
		t.Fatal(err)
	}
	mustBeOnStream(t, client, shard, 0, 0)

	if err := client.Del(ctx, streamKey(shard)).Err(); err != nil {
		t.Fatal(err)
	}
	if ds := mustNext(t, q, shard, 70); len(ds) != 0 {
		t.Fatalf("%d came of nothing", len(ds))
	}
	if generation() == second {
		t.Error("a deleted stream changed nothing")
	}
	// A Redis that was emptied has nothing to change: the word that the first spool finds is the word that stays.
	if err := client.FlushDB(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if ds := mustNext(t, q, shard, 70); len(ds) != 0 || client.Exists(ctx, generationKey(shard)).Val() != 0 {
		t.Errorf("%d came of nothing, or a generation", len(ds))
	}
}

// TestRedisTrimmedEventsAreSentAgain goes the whole way: someone trims what a dead worker held, and it is in the ledger
// long before the spool's patience ends.
func TestRedisTrimmedEventsAreSentAgain(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	ctx := t.Context()
	s := openSpool(t, SpoolOptions{})
	stopShipper := start(t, NewShipper(s, NewRedisQueue(client), nil).Run)
	want := makeCalls(t, s, 300)
	eventually(t, "all is in Redis and its generation is known", func() bool {
		return s.Stats().InFlight == 300 && client.Exists(ctx, generationKey(0)).Val() == 1
	})
	dying := NewRedisQueue(client)
	for shard := range redisShards {
		if err := dying.Claim(ctx, shard); err != nil {
			t.Fatal(err)
		}
		mustNext(t, dying, shard, 500)
		if err := client.XTrimMaxLen(ctx, streamKey(shard), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	ledger, began := newMapLedger(), time.Now()
	stopWorker := start(t, NewWorker(ledger, NewRedisQueue(client), nil, nil).Run)
	eventually(t, "all is acknowledged", func() bool { return s.Stats().Depth == 0 })
	if took := time.Since(began); took > minPatience/2 {
		t.Errorf("it took %s", took)
	}
	ledger.mustEqual(t, want)
	stopShipper()
	stopWorker()
	streamsAreEmpty(t, client)
	shutdown(t, s)
}

// BenchmarkRedisBatch carries full batches through a Redis: of one client, and of so many that all shards have some.
func BenchmarkRedisBatch(b *testing.B) {
	for name, clients := range map[string]int{"oneClient": 1, "manyClients": maxBatch} {
		b.Run(name, func(b *testing.B) {
			q := NewRedisQueue(openRedis(b, testenv.Redis(b)))
			var batch []Message
			for i, e := range numbered(maxBatch) {
				e.ClientID[14], e.ClientID[15] = byte(i%clients>>8), byte(i%clients)
				batch = append(batch, Message{e.ClientID, e.Append(nil)})
			}
			for shard := range redisShards {
				if err := q.Claim(b.Context(), shard); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := q.Publish(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				came := 0
				for shard := range redisShards {
					ds, err := q.Next(b.Context(), shard, maxBatch, 0)
					came += len(ds)
					if err != nil || q.Done(b.Context(), shard, ds) != nil {
						b.Fatal("not taken off", err)
					}
				}
				if came != maxBatch {
					b.Fatalf("%d came", came)
				}
			}
		})
	}
}

// TestRedisAfterAFailover: a replica takes over that never heard that an entry was done. The spools hear of it at once,
// and the entry, which is pending for ever, is handed out again and goes.
func TestRedisAfterAFailover(t *testing.T) {
	primary, err := testenv.StartRedis(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(primary.Stop)
	replica, err := testenv.StartRedis(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Stop)
	ctx := t.Context()
	client := openRedis(t, primary.URL)
	events := numbered(3)
	q, shard := entryQueue(t, client, events)
	publishTogether(t, q, events...)
	ds := mustNext(t, q, shard, 10)
	if err := replica.Follow(ctx, primary); err != nil {
		t.Fatal(err)
	}
	before, err := q.Generation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := q.Generation(ctx); err != nil || again != before {
		t.Fatalf("with no change another generation: %v", err)
	}
	if err := replica.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if err := q.Done(ctx, shard, ds); err != nil { // to the old one
		t.Fatal(err)
	}
	primary.Kill()
	if err := replica.TakeOver(ctx, primary); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other generation", func() bool {
		after, err := q.Generation(ctx)
		return err == nil && after != before
	})
	mustBeOnStream(t, client, shard, 1, 1)
	if got := mustNext(t, q, shard, 10); len(got) != 0 {
		t.Fatalf("%d events before it was time to look", len(got))
	}
	q.shards[shard].looked = time.Now().Add(-lookEvery)
	got := mustNext(t, q, shard, 10)
	if seqs := entrySeqs(t, got); !slices.Equal(seqs, []uint64{1, 2, 3}) {
		t.Fatalf("handed out again: %v", seqs)
	}
	if err := q.Done(ctx, shard, got); err != nil {
		t.Fatal(err)
	}
	mustBeOnStream(t, client, shard, 0, 0)
}
