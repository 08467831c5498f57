package metering

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/catraca/catraca/internal/testenv"
)

func openRedis(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := OpenRedis(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// eventually waits for something that happens in another process.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(60 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func streamsAreEmpty(t testing.TB, client redis.UniversalClient) {
	t.Helper()
	for shard := range redisShards {
		n, err := client.XLen(t.Context(), streamKey(shard)).Result()
		if err != nil || n != 0 {
			t.Errorf("shard %d holds %d entries, %v", shard, n, err)
		}
		if p, err := client.XPending(t.Context(), streamKey(shard), redisGroup).Result(); err != nil || p.Count != 0 {
			t.Errorf("shard %d has pending entries: %+v, %v", shard, p, err)
		}
	}
}

// TestRoadThroughRedis has two workers that fight for the same shards, a queue that loses, repeats and reorders, and
// a Redis that is emptied while events are on their way.
func TestRoadThroughRedis(t *testing.T) {
	url := testenv.Redis(t)
	client := openRedis(t, url)
	ledger := newMapLedger()
	key := []byte("a key that all share")
	s := openSpool(t, SpoolOptions{SegmentBytes: 64 << 10})
	queue := &badQueue{Queue: NewRedisQueue(client, key), r: rand.New(rand.NewPCG(7, 7)), generation: "a"}
	shipper := NewShipper(s, lossyRedis{queue, NewRedisQueue(client, key)}, nil)
	stopSpool, stopShipper := start(t, s.Run), start(t, shipper.Run)
	workers := []*Worker{
		NewWorker(ledger, NewRedisQueue(openRedis(t, url), key), nil, nil),
		NewWorker(ledger, NewRedisQueue(openRedis(t, url), key), nil, nil),
	}
	stopOne, stopTwo := start(t, workers[0].Run), start(t, workers[1].Run)

	want := makeCalls(t, s, 4000)
	eventually(t, "half is recorded", func() bool { return ledger.size() > 1500 })
	if err := client.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for id, e := range makeCalls(t, s, 1000) {
		want[id] = e
	}
	stopOne() // a worker less
	// What the queue lost without a trace is sent again after 30 s; here the test says so, as a new generation would.
	eventually(t, "all is acknowledged", func() bool {
		s.resend()
		return s.Stats().Depth == 0
	})
	ledger.mustEqual(t, want)
	stopShipper()
	eventually(t, "repeats are taken off the streams", func() bool {
		var n int64
		for shard := range redisShards {
			n += client.XLen(t.Context(), streamKey(shard)).Val()
		}
		return n == 0
	})
	stopTwo()
	streamsAreEmpty(t, client)
	stopSpool()
	shutdown(t, s)
	if files := segmentFiles(t, s); len(files) > 0 {
		t.Errorf("left %v", files)
	}
	for i, w := range workers {
		if st := w.Stats(); st.Recorded == 0 || st.DeadLetters > 0 {
			t.Errorf("worker %d: %+v", i, st)
		}
	}
}

// lossyRedis publishes through one and asks the other.
type lossyRedis struct {
	*badQueue
	real *RedisQueue
}

func (q lossyRedis) Generation(ctx context.Context) (string, error) { return q.real.Generation(ctx) }

// TestRedisFlushIsNoticed has no other fault: the generation alone makes the shipper send again, long before 30 s.
func TestRedisFlushIsNoticed(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	ledger := newMapLedger()
	s := openSpool(t, SpoolOptions{})
	stopShipper := start(t, NewShipper(s, NewRedisQueue(client, nil), nil).Run)
	want := makeCalls(t, s, 2000)
	eventually(t, "all is in Redis and its generation is known", func() bool {
		return s.Stats().InFlight == 2000 && client.Exists(t.Context(), generationKey(0)).Val() == 1
	})
	if err := client.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stopWorker := start(t, NewWorker(ledger, NewRedisQueue(client, nil), nil, nil).Run)
	eventually(t, "all is acknowledged", func() bool { return s.Stats().Depth == 0 })
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	ledger.mustEqual(t, want)
	stopShipper()
	stopWorker()
	shutdown(t, s)
}

// TestRedisPendingEntries has a worker die with a batch in its hands, before and after it was recorded.
func TestRedisPendingEntries(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	ctx := t.Context()
	dying := NewRedisQueue(client, nil)
	events := numbered(30)
	shard := shardOf(events[0].ClientID, redisShards)
	if err := dying.Claim(ctx, shard); err != nil {
		t.Fatal(err)
	}
	deliver(t, dying, events...)
	ds, err := dying.Next(ctx, shard, 20, time.Second)
	if err != nil || len(ds) != 20 {
		t.Fatalf("%d came, %v", len(ds), err)
	}
	ledger := newMapLedger()
	if err := ledger.Record(ctx, events[:5]); err != nil { // and it died before XACK
		t.Fatal(err)
	}
	stop := start(t, NewWorker(ledger, NewRedisQueue(client, nil), nil, nil).Run)
	eventually(t, "the rest is recorded", func() bool { return ledger.size() == 30 })
	eventually(t, "the spool can hear of it", func() bool {
		r, err := dying.Received(ctx, 5)
		return err == nil && r.String() == "1-30"
	})
	stop()
	if ledger.repeats != 5 {
		t.Errorf("%d repeats, want the 5 that were not taken off", ledger.repeats)
	}
	streamsAreEmpty(t, client)
}

// TestRedisInOtherHands has someone trim a stream, delete a group and write what is no event.
func TestRedisInOtherHands(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	ctx := t.Context()
	q := NewRedisQueue(client, nil)
	e := numbered(1)[0]
	shard := shardOf(e.ClientID, redisShards)
	if err := q.Claim(ctx, shard); err != nil {
		t.Fatal(err)
	}
	deliver(t, q, numbered(4)...)
	if ds, err := q.Next(ctx, shard, 2, time.Second); err != nil || len(ds) != 2 {
		t.Fatalf("%d came, %v", len(ds), err)
	}
	if err := client.XTrimMaxLen(ctx, streamKey(shard), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := q.Claim(ctx, shard); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ds, err := q.Next(ctx, shard, 10, 0); err != nil || len(ds) != 0 {
			t.Fatalf("of a stream that was emptied came %v, %v", ds, err)
		}
	}
	if p := client.XPending(ctx, streamKey(shard), redisGroup).Val(); p.Count != 0 {
		t.Errorf("%d entries stay pending that are no more", p.Count)
	}

	if err := client.XGroupDestroy(ctx, streamKey(shard), redisGroup).Err(); err != nil {
		t.Fatal(err)
	}
	deliver(t, q, e)
	if _, err := q.Next(ctx, shard, 10, 0); err != nil {
		t.Fatal(err)
	}
	if ds, err := q.Next(ctx, shard, 10, 0); err != nil || len(ds) != 1 {
		t.Fatalf("after the group was deleted came %v, %v", ds, err)
	}

	if err := client.XAdd(ctx, &redis.XAddArgs{Stream: streamKey(shard), Values: []any{"x", "y"}}).Err(); err != nil {
		t.Fatal(err)
	}
	if ds, err := q.Next(ctx, shard, 10, 0); err != nil || len(ds) != 1 || len(ds[0].Payload) != 0 {
		t.Fatalf("of a stranger's entry came %v, %v", ds, err)
	}
}

func TestRedisSignatures(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	ctx := t.Context()
	q, forger := NewRedisQueue(client, []byte("key")), NewRedisQueue(client, []byte("guess"))
	e := numbered(1)[0]
	shard := shardOf(e.ClientID, redisShards)
	if err := q.Claim(ctx, shard); err != nil {
		t.Fatal(err)
	}
	deliver(t, q, e)
	deliver(t, forger, e)
	deliver(t, NewRedisQueue(client, nil), e)
	ds, err := q.Next(ctx, shard, 10, time.Second)
	if err != nil || len(ds) != 3 {
		t.Fatalf("%d came, %v", len(ds), err)
	}
	var got Event
	if err := got.Decode(ds[0].Payload); err != nil || ds[0].Spoilt != nil || !sameEvent(got, e) {
		t.Errorf("the true one: %v, %v", err, ds[0].Spoilt)
	}
	if ds[1].Spoilt == nil || ds[2].Spoilt == nil {
		t.Error("a forgery was taken")
	}

	if err := q.PublishReceived(ctx, shard, 5, Ranges{{1, 3}}); err != nil {
		t.Fatal(err)
	}
	if r, err := q.Received(ctx, 5); err != nil || r.String() != "1-3" {
		t.Errorf("got %v, %v", r, err)
	}
	// What is true of one incarnation, or of one shard, must not be passed off as another's.
	field := client.HGetAll(ctx, receivedKey(5)).Val()
	for name, value := range field {
		client.HSet(ctx, receivedKey(6), name, value)
		client.HSet(ctx, receivedKey(7), "15", value)
	}
	for _, incarnation := range []uint64{6, 7} {
		if r, err := q.Received(ctx, incarnation); err == nil {
			t.Errorf("a copied claim was believed: %v", r)
		}
	}
}

func TestRedisReceivedIsTheUnionOfShards(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	q := NewRedisQueue(client, nil)
	for shard, r := range map[int]Ranges{0: {{1, 4}}, 3: {{3, 9}, {20, 21}}, 15: nil} {
		if err := q.PublishReceived(t.Context(), shard, 9, r); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := q.Received(t.Context(), 9); err != nil || r.String() != "1-9,20-21" {
		t.Errorf("got %v, %v", r, err)
	}
	if r, err := q.Received(t.Context(), 10); err != nil || len(r) != 0 {
		t.Errorf("got %v, %v", r, err)
	}
	if err := client.HSet(t.Context(), receivedKey(9), "1", "everything").Err(); err != nil {
		t.Fatal(err)
	}
	if r, err := q.Received(t.Context(), 9); err == nil {
		t.Errorf("nonsense was read as %v", r)
	}
}

func TestRedisGeneration(t *testing.T) {
	client := openRedis(t, testenv.Redis(t))
	one, two := NewRedisQueue(client, nil), NewRedisQueue(client, nil)
	generation := func(q *RedisQueue) string {
		t.Helper()
		g, err := q.Generation(t.Context())
		if err != nil || len(g) < redisShards*16 {
			t.Fatalf("%q, %v", g, err)
		}
		return g
	}
	first := generation(one)
	if generation(two) != first || generation(one) != first {
		t.Error("it changes by being looked at")
	}
	client.Del(t.Context(), generationKey(11))
	second := generation(two)
	if second == first || generation(one) != second {
		t.Error("the loss of one shard is not seen")
	}
}

func TestRedisThatEvictsIsRefused(t *testing.T) {
	server, err := testenv.StartRedis(false)
	if errors.Is(err, testenv.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client := openRedis(t, server.URL)
	ctx := t.Context()
	set := func(name, value string) {
		t.Helper()
		if err := client.ConfigSet(ctx, name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("maxmemory-policy", "allkeys-lru")
	q := NewRedisQueue(client, nil)
	if err := q.Check(ctx); !errors.Is(err, ErrEviction) || !strings.Contains(err.Error(), "allkeys-lru") {
		t.Errorf("got %v", err)
	}
	e := numbered(1)[0]
	batch := []Message{{e.ClientID, e.Append(nil)}}
	if err := q.Publish(ctx, batch); !errors.Is(err, ErrEviction) {
		t.Errorf("published: %v", err)
	}
	if err := q.Claim(ctx, 0); !errors.Is(err, ErrEviction) {
		t.Errorf("claimed: %v", err)
	}
	set("maxmemory-policy", "noeviction")
	if err := q.Publish(ctx, batch); err != nil { // it looks again
		t.Error(err)
	}

	set("maxmemory", "1mb")
	for range 10_000 {
		if err = q.Publish(ctx, batch); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("a full Redis answered %v", err)
	}
}

// TestRedisThatHangs accepts and says nothing: calls end by the deadline of their context, or by their own.
func TestRedisThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	url := "redis://" + l.Addr().String()
	e := numbered(1)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := NewRedisQueue(openRedis(t, url), nil).Publish(ctx, []Message{{e.ClientID, e.Append(nil)}}); err == nil {
		t.Error("published")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("with a deadline of 200 ms it took %s", took)
	}
	began = time.Now()
	q := NewRedisQueue(openRedis(t, url), nil)
	q.checked.Store(true)
	if _, err := q.Next(t.Context(), 0, 10, 100*time.Millisecond); err == nil {
		t.Error("read")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a read took %s", took)
	}
	l.Close()
	began = time.Now()
	if err := q.Publish(t.Context(), []Message{{e.ClientID, nil}}); err == nil {
		t.Error("published to nobody")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("a refused connection took %s", took)
	}
}

func TestOpenRedis(t *testing.T) {
	for url, want := range map[string]string{
		"redis://127.0.0.1:7001/3":                                      "single 127.0.0.1:7001 3",
		"rediss://user:secret@r.example:7001?dial_timeout=7s":           "single r.example:7001 0 tls 7s",
		"redis+cluster://a:1,b:2,c:3":                                   "cluster a:1 b:2 c:3",
		"rediss+cluster://user:secret@a:1,b:2?pool_size=7":              "cluster a:1 b:2 tls",
		"redis+sentinel://a:1,b:2/4?master_name=mymaster":               "sentinel 4",
		"redis+sentinel://u:s3cret@a:1/4?master_name=m&read_timeout=3s": "sentinel 4 3s",
	} {
		client, err := OpenRedis(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got := describe(client); got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
		client.Close()
	}
	for _, url := range []string{
		"", "127.0.0.1:6379", "http://u:s3cret@h", "redis+other://h", "redis://u:s3cret@h:port", "redis://u:s3cret@h\x7f/", "redis://u:s3cret@h/x",
		"redis+sentinel://u:s3cret@h:1", "redis+cluster://u:s3cret@h:1,h2", "redis://u:s3cret@h?nonsense=1", "redis://u:s3cret%zz@h",
	} {
		client, err := OpenRedis(url)
		if err == nil {
			t.Errorf("%q was taken", url)
			client.Close()
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

func describe(client redis.UniversalClient) string {
	var words []string
	switch c := client.(type) {
	case *redis.ClusterClient:
		o := c.Options()
		words = append([]string{"cluster"}, o.Addrs...)
		if o.TLSConfig != nil {
			words = append(words, "tls")
		}
		if !o.ContextTimeoutEnabled || o.MaxRetries > 0 || o.DialerRetries != 1 {
			words = append(words, "impatient")
		}
	case *redis.Client:
		o := c.Options()
		words = []string{"single", o.Addr, "0"}
		if o.Addr == "FailoverClient" {
			words = []string{"sentinel", "0"}
		}
		words[len(words)-1] = string(rune('0' + o.DB))
		if o.TLSConfig != nil {
			words = append(words, "tls")
		}
		if o.DialTimeout != redisDial {
			words = append(words, o.DialTimeout.String())
		}
		if o.ReadTimeout != redisIO {
			words = append(words, o.ReadTimeout.String())
		}
		if !o.ContextTimeoutEnabled || o.MaxRetries > 0 || o.DialerRetries != 1 {
			words = append(words, "impatient")
		}
	}
	return strings.Join(words, " ")
}

func TestShards(t *testing.T) {
	var n [redisShards]int
	for range 16_000 {
		n[shardOf(uuid.Must(uuid.NewV7()), redisShards)]++
	}
	for shard, n := range n {
		if n < 800 || n > 1200 {
			t.Errorf("shard %d has %d clients of 16000", shard, n)
		}
	}
	// Written down, for a client must not change its shard between releases.
	if got := shardOf(uuid.MustParse("0193565e-7d4c-7d2b-9f0a-1b2c3d4e5f60"), redisShards); got != 6 {
		t.Errorf("shard %d", got)
	}
}

// TestRoadIntoStores goes all the way: through memory into SQLite, and through Redis into Postgres with its shard locks.
func TestRoadIntoStores(t *testing.T) {
	roads := map[string]func(t *testing.T) (Ledger, Queue, *Worker){
		"embedded": func(t *testing.T) (Ledger, Queue, *Worker) {
			ledger, queue := newSQLite(t), NewMemoryQueue(1, 1000)
			return ledger, queue, NewWorker(ledger, queue, nil, nil)
		},
		"shared": func(t *testing.T) (Ledger, Queue, *Worker) {
			ledger, url := newPostgres(t), testenv.Redis(t)
			queue := NewRedisQueue(openRedis(t, url), nil)
			return ledger, queue, NewWorker(ledger, NewRedisQueue(openRedis(t, url), nil), ledger, nil)
		},
	}
	for name, road := range roads {
		t.Run(name, func(t *testing.T) {
			ledger, queue, worker := road(t)
			s := openSpool(t, SpoolOptions{})
			stopWorker := start(t, worker.Run)
			stopShipper := start(t, NewShipper(s, queue, nil).Run)
			makeCalls(t, s, 1500)
			eventually(t, "some are recorded", func() bool { return worker.Stats().Recorded > 0 })
			s.resend()
			eventually(t, "all is acknowledged", func() bool { return s.Stats().Depth == 0 })
			stopShipper()
			stopWorker()
			if r, err := ledger.Received(t.Context(), s.Incarnation()); err != nil || r.String() != "1-1500" {
				t.Errorf("the ledger has %v, %v", r, err)
			}
			if st := worker.Stats(); st.DeadLetters > 0 || st.Recorded < 1500 {
				t.Errorf("%+v", st)
			}
			shutdown(t, s)
		})
	}
}
