package metering

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// In Redis, with N a shard:
//
//	catraca:usage:{N}             stream of events: field e has the event. Never trimmed by length: an entry goes when
//	                              the ledger has its event, and the braces let a cluster spread the shards
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
	macBytes    = 16
)

// RedisQueue is the queue between processes: Redis Streams, sharded by client.
type RedisQueue struct {
	client  redis.UniversalClient
	key     []byte
	checked atomic.Bool
	pending [redisShards]string // by shard: the last entry read again after Claim; empty when reading what is new
}

var (
	_ Queue       = (*RedisQueue)(nil)
	_ Consumer    = (*RedisQueue)(nil)
	_ generations = (*RedisQueue)(nil)
)

// ErrEviction says that this Redis would throw events away when its memory is full.
var ErrEviction = errors.New("this Redis may evict keys")

var errSignature = errors.New("its signature is missing or wrong: written by a stranger, or with another key")

// NewRedisQueue makes one end of the queue, to publish or to consume. With a key, which all ends must share, events and
// what is told of the ledger are signed: who can write to Redis but does not know it can neither invent usage nor make
// a spool let go of it.
func NewRedisQueue(client redis.UniversalClient, key []byte) *RedisQueue {
	return &RedisQueue{client: client, key: key}
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
		for _, m := range batch {
			p.XAdd(ctx, &redis.XAddArgs{
				Stream: streamKey(shardOf(m.ClientID, redisShards)), Values: []any{"e", q.sign("event", m.Payload)},
			})
		}
		return nil
	})
	return err
}

// sign puts a signature before b, where there is a key to sign with. kind keeps what is signed for one use from being
// passed off in another.
func (q *RedisQueue) sign(kind string, b []byte) []byte {
	if len(q.key) == 0 {
		return b
	}
	return append(q.mac(kind, b), b...)
}

func (q *RedisQueue) mac(kind string, b []byte) []byte {
	h := hmac.New(sha256.New, q.key)
	h.Write([]byte(kind))
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil)[:macBytes]
}

// verify takes the signature off.
func (q *RedisQueue) verify(kind string, b []byte) (signed []byte, ok bool) {
	if len(q.key) == 0 {
		return b, true
	}
	if len(b) < macBytes || !hmac.Equal(b[:macBytes], q.mac(kind, b[macBytes:])) {
		return nil, false
	}
	return b[macBytes:], true
}

// Received implements Queue: it is the union of what the shards' workers published.
func (q *RedisQueue) Received(ctx context.Context, incarnation uint64) (Ranges, error) {
	fields, err := q.client.HGetAll(ctx, receivedKey(incarnation)).Result()
	if err != nil {
		return nil, err
	}
	var all Ranges
	for shard, value := range fields {
		b, ok := q.verify(receivedKey(incarnation)+"/"+shard, []byte(value))
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

// Generation tells what Redis is remembered by. It changes when any shard lost its memory.
func (q *RedisQueue) Generation(ctx context.Context) (string, error) {
	var fresh [16]byte
	rand.Read(fresh[:]) // never fails
	word := hex.EncodeToString(fresh[:])
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
	return all.String(), nil
}

// Shards implements Consumer.
func (q *RedisQueue) Shards() int { return redisShards }

// Claim implements Consumer.
func (q *RedisQueue) Claim(ctx context.Context, shard int) error {
	if err := q.ensureChecked(ctx); err != nil {
		return err
	}
	q.pending[shard] = "0"
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

// Next implements Consumer.
func (q *RedisQueue) Next(ctx context.Context, shard, most int, wait time.Duration) ([]Delivery, error) {
	if from := q.pending[shard]; from != "" {
		ds, last, err := q.read(ctx, shard, from, most, 0)
		if err != nil {
			return nil, err
		}
		q.pending[shard] = last
		if last != "" {
			return ds, nil
		}
	}
	ds, _, err := q.read(ctx, shard, ">", most, wait)
	return ds, err
}

// read is XREADGROUP. last is the id of the last entry that came, empty when none did.
func (q *RedisQueue) read(ctx context.Context, shard int, from string, most int, wait time.Duration) (ds []Delivery, last string, err error) {
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
		return nil, "", nil
	case err != nil && strings.HasPrefix(err.Error(), "NOGROUP"): // Redis was emptied, or someone deleted it
		return nil, "", q.createGroup(ctx, shard)
	case err != nil:
		return nil, "", fmt.Errorf("read shard %d: %w", shard, err)
	}
	var gone []Delivery
	for _, stream := range streams {
		for _, m := range stream.Messages {
			last = m.ID
			e, ok := m.Values["e"].(string)
			if !ok && len(m.Values) == 0 { // it was pending, and someone has trimmed the stream
				gone = append(gone, Delivery{ID: m.ID})
				continue
			}
			d := Delivery{ID: m.ID, Payload: []byte(e)}
			if b, ok := q.verify("event", d.Payload); ok {
				d.Payload = b
			} else {
				d.Spoilt = errSignature
			}
			ds = append(ds, d)
		}
	}
	if len(gone) > 0 { // the spool will send them again
		err = q.Done(ctx, shard, gone)
	}
	return ds, last, err
}

// Done implements Consumer. XACK does not delete, so both are needed.
func (q *RedisQueue) Done(ctx context.Context, shard int, ds []Delivery) error {
	ids := make([]string, len(ds))
	for i, d := range ds {
		ids[i] = d.ID
	}
	_, err := q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
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
		p.HSet(ctx, key, field, q.sign(key+"/"+field, []byte(r.String())))
		p.Expire(ctx, key, receivedFor)
		return nil
	})
	return err
}

// silence is a logger for go-redis, which would write every failed dial to stderr: what fails is returned too.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// OpenRedis makes a client; it connects when it is first used. The forms, each with s for TLS and with user and
// password where needed:
//
//	redis://[user:password@]host:6379/0                    rediss://…           one server
//	redis+cluster://host:6379,host2:6379                   rediss+cluster://…   a cluster; some of its nodes
//	redis+sentinel://host:26379,host2:26379/0?master_name=mymaster              sentinels, and what they watch
//
// Options of go-redis may follow as a query: ?dial_timeout=2s&pool_size=50.
func OpenRedis(address string) (redis.UniversalClient, error) {
	redis.SetLogger(silence{})
	scheme, rest, found := strings.Cut(address, "://")
	base, form, _ := strings.Cut(scheme, "+")
	if !found || base != "redis" && base != "rediss" || form != "" && form != "cluster" && form != "sentinel" {
		return nil, errors.New("redis URL: it must begin with redis://, rediss://, redis+cluster:// or redis+sentinel://")
	}
	single := base + "://" + rest
	if form != "" {
		single = oneHost(base, rest)
	}
	client, err := dialer(single, form)
	// The error of a URL that cannot be parsed quotes it, password and all.
	if parse := (*url.Error)(nil); errors.As(err, &parse) {
		err = parse.Err
	}
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	return client, nil
}

// oneHost turns host,host2/path?query into what go-redis parses: the first as host, the others as addr parameters.
func oneHost(base, rest string) string {
	end := len(rest)
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		end = i
	}
	authority, tail := rest[:end], rest[end:]
	user := ""
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, authority = authority[:i+1], authority[i+1:]
	}
	hosts := strings.Split(authority, ",")
	path, query, _ := strings.Cut(tail, "?")
	for _, h := range hosts[1:] {
		if query != "" {
			query += "&"
		}
		query += "addr=" + url.QueryEscape(h)
	}
	return base + "://" + user + hosts[0] + path + "?" + query
}

// How long Redis may take. Nothing waits for it but the shipper and the worker, which try again themselves: the
// client's own retries would only turn a second into many.
const (
	redisDial = time.Second
	redisIO   = 2 * time.Second
	redisPool = 64 // sixteen shards block on one each
)

func dialer(address, form string) (redis.UniversalClient, error) {
	quiet := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch form {
	case "cluster":
		o, err := redis.ParseClusterURL(address)
		if err != nil {
			return nil, err
		}
		o.ContextTimeoutEnabled, o.DisableIdentity, o.MaintNotificationsConfig = true, true, quiet
		calm(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		return redis.NewClusterClient(o), nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(address)
		if err != nil {
			return nil, err
		}
		if o.MasterName == "" {
			return nil, errors.New("sentinels need ?master_name=")
		}
		o.ContextTimeoutEnabled, o.DisableIdentity = true, true
		calm(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		return redis.NewFailoverClient(o), nil
	}
	o, err := redis.ParseURL(address)
	if err != nil {
		return nil, err
	}
	o.ContextTimeoutEnabled, o.DisableIdentity, o.MaintNotificationsConfig = true, true, quiet
	calm(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
	return redis.NewClient(o), nil
}

// calm sets what the URL did not.
func calm(retries, dials, pool *int, dial, read, write *time.Duration) {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(retries, -1)
	set(dials, 1)
	set(pool, redisPool)
	for p, v := range map[*time.Duration]time.Duration{dial: redisDial, read: redisIO, write: redisIO} {
		if *p == 0 {
			*p = v
		}
	}
}
