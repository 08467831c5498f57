package metering

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// shardClass is the first half of the advisory locks' keys, so that they meet nobody else's: "CTRC".
const shardClass = 0x43545243

// shardLocks are this process's advisory locks, all in one session: sixteen shards in ten replicas would else take 160
// of the server's connections only to wait.
type shardLocks struct {
	mu   sync.Mutex
	conn *pgx.Conn // nil when no lock is held
	held map[int]bool
}

// Acquire waits until this process is the only one to work on a shard, and gives what ends that. Locks die with their
// session: when the server restarts, two workers may hold one shard for a while. They then step on each other's rows,
// which Record repeats, and write nothing twice. The lock is for speed.
func (p *Postgres) Acquire(ctx context.Context, shard int) (release func(), err error) {
	for {
		got, err := p.shards.try(ctx, p, shard)
		if err != nil {
			return nil, fmt.Errorf("lock shard %d: %w", shard, err)
		}
		if got {
			var once sync.Once
			return func() { once.Do(func() { p.shards.release(shard) }) }, nil
		}
		// Somebody else works on it. How soon we notice that they stopped is not urgent: their queue is still there.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second + rand.N(time.Second)):
		}
	}
}

func (s *shardLocks) try(ctx context.Context, p *Postgres, shard int) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[shard] {
		return false, nil // by another worker of this process; the session would give the lock twice
	}
	if s.conn == nil || s.conn.IsClosed() {
		if err := s.connect(ctx, p); err != nil {
			return false, err
		}
	}
	var got bool
	if err := s.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", shardClass, shard).Scan(&got); err != nil {
		s.drop()
		return false, err
	}
	if got {
		s.held[shard] = true
	}
	return got, nil
}

// connect opens the session outside the pool, which may be small, and takes again what was held in one that was lost.
func (s *shardLocks) connect(ctx context.Context, p *Postgres) error {
	conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	s.conn = conn
	if s.held == nil {
		s.held = map[int]bool{}
	}
	for shard := range s.held {
		if _, err := conn.Exec(ctx, "SELECT pg_try_advisory_lock($1, $2)", shardClass, shard); err != nil {
			s.drop()
			return err
		}
	}
	return nil
}

func (s *shardLocks) release(shard int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, shard)
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := s.conn.Exec(ctx, "SELECT pg_advisory_unlock($1, $2)", shardClass, shard); err != nil || len(s.held) == 0 {
		s.drop() // a session that ends gives back all its locks
	}
}

func (s *shardLocks) drop() {
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.conn.Close(ctx)
	}
	s.conn = nil
}
