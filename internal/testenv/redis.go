package testenv

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Tests of several processes share one Redis: each holds a database number, noted in database 0 under this prefix. A
// note that nobody took away (kill -9) lapses.
const (
	redisClaim    = "catraca:testenv:claim:"
	redisClaimFor = 20 * time.Minute
)

// privateDatabases is how many numbers our own server has: more than tests run at once on any machine.
const privateDatabases = 512

// Redis gives the URL of an empty Redis database that no other test uses, emptied again when the test is over.
func Redis(t testing.TB) string {
	t.Helper()
	server, err := redisServer()
	Need(t, err)
	opts, err := redis.ParseURL(server)
	if err != nil {
		t.Fatalf("CATRACA_TEST_REDIS_URL: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	opts.DB = 0
	claims := redis.NewClient(opts)
	t.Cleanup(func() { claims.Close() })
	db, err := claimRedis(ctx, claims)
	if err != nil {
		t.Fatalf("find a free Redis database: %v", err)
	}
	mine := *opts
	mine.DB = db
	flush := func() error {
		rdb := redis.NewClient(&mine)
		defer rdb.Close()
		return rdb.FlushDB(context.Background()).Err()
	}
	if err := flush(); err != nil {
		t.Fatalf("empty Redis database %d: %v", db, err)
	}
	t.Cleanup(func() {
		if err := errors.Join(flush(), claims.Del(context.Background(), redisClaim+strconv.Itoa(db)).Err()); err != nil {
			t.Logf("give back Redis database %d: %v", db, err) // the test may have stopped the server
		}
	})
	return redisURL(&mine)
}

func redisURL(o *redis.Options) string {
	scheme, user := "redis", ""
	if o.TLSConfig != nil {
		scheme = "rediss"
	}
	if o.Password != "" {
		user = o.Username + ":" + o.Password + "@"
	}
	return fmt.Sprintf("%s://%s%s/%d", scheme, user, o.Addr, o.DB)
}

// claimRedis waits for a database number that no test holds.
func claimRedis(ctx context.Context, rdb *redis.Client) (int, error) {
	count := 16 // Redis' own default, for servers that do not tell
	if told, err := rdb.ConfigGet(ctx, "databases").Result(); err == nil {
		if n, err := strconv.Atoi(told["databases"]); err == nil {
			count = n
		}
	}
	for {
		for db := 1; db < count; db++ {
			err := rdb.SetArgs(ctx, redisClaim+strconv.Itoa(db), "held", redis.SetArgs{Mode: "NX", TTL: redisClaimFor}).Err()
			if err == nil {
				return db, nil
			}
			if !errors.Is(err, redis.Nil) {
				return 0, err
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("all %d are in use: %w", count-1, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// StartRedis starts a server that keeps nothing on disk or, when durable, syncs its append-only file every second, as
// the documentation asks of a deployment.
func StartRedis(durable bool) (*Server, error) {
	bin, ok := find([]string{"redis-server"}, "/opt/homebrew/bin")
	program := "redis-server"
	if !ok {
		bin, ok = find([]string{"valkey-server"}, "/opt/homebrew/bin")
		program = "valkey-server"
	}
	if !ok {
		return nil, fmt.Errorf("Redis (redis-server or valkey-server) is %w: install it (Debian: apt-get install redis-server) or set CATRACA_TEST_REDIS_URL", ErrNotInstalled)
	}
	var addr string
	r := recipe{
		name: "redis",
		args: func(port int) []string {
			args := []string{
				filepath.Join(bin, program), "--port", strconv.Itoa(port), "--bind", "127.0.0.1",
				"--databases", strconv.Itoa(privateDatabases), "--save", "",
			}
			if durable {
				args = append(args, "--appendonly", "yes", "--appendfsync", "everysec")
			}
			return args
		},
		ready: func(ctx context.Context, port int) error {
			addr = fmt.Sprintf("127.0.0.1:%d", port)
			rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
			defer rdb.Close()
			return rdb.Ping(ctx).Err()
		},
	}
	s, err := r.start()
	if err != nil {
		return nil, err
	}
	s.URL = "redis://" + addr + "/0"
	return s, nil
}

// Follow makes a Redis the replica of another and waits until it has all that the other has.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	rdb := s.redisClient()
	defer rdb.Close()
	if err := rdb.ReplicaOf(ctx, "127.0.0.1", strconv.Itoa(primary.port)).Err(); err != nil {
		return err
	}
	for {
		info, err := rdb.Info(ctx, "replication").Result()
		if err == nil && strings.Contains(info, "master_link_status:up") && strings.Contains(info, "master_sync_in_progress:0") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the replica does not follow: %w", errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Promote makes a replica a primary of its own. The other one knows nothing of it and goes on taking writes, which are
// lost with it: that is how a failover loses what was acknowledged.
func (s *Server) Promote(ctx context.Context) error {
	rdb := s.redisClient()
	defer rdb.Close()
	return rdb.ReplicaOf(ctx, "NO", "ONE").Err()
}

// TakeOver lets a promoted replica answer under the address of the one it followed, which must be gone by now.
func (s *Server) TakeOver(ctx context.Context, old *Server) error {
	rdb := s.redisClient()
	defer rdb.Close()
	if err := rdb.ConfigSet(ctx, "port", strconv.Itoa(old.port)).Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port, s.URL = old.port, old.URL
	return nil
}

func (s *Server) redisClient() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", s.port), MaxRetries: -1})
}
