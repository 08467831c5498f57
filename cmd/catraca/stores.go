package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/migrations"
	"github.com/catraca/catraca/tenancy"
)

// usageStore is what Postgres and SQLite both are to metering.
type usageStore interface {
	metering.Ledger
	metering.RateStore
	metering.Fleet
	metering.Auditor
	metering.Corrections
	dashboard.Registry
	dashboard.Meter
	dashboard.Ledger
	Usage(ctx context.Context, q metering.UsageQuery) (metering.UsageReport, error)
	Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error)
	Seen(ctx context.Context, client uuid.UUID, conversation string, since time.Time) (bool, error)
}

// budgetStore is what Postgres and SQLite both are to budgets.
type budgetStore interface {
	budget.Store
	budget.Outbox
	dashboard.BudgetStore
}

// stores is everything that outlives a call: tenants, ledger and the queue between the planes.
type stores struct {
	tenants tenancy.Store
	usage   usageStore
	budgets budgetStore
	queue   metering.Consumer
	// publisher makes the other end of the queue.
	publisher   publisher
	signingKeys [][]byte           // of events, newest first
	shards      metering.ShardLock // nil: no other process consumes
	upkeep      func(context.Context) error
	// await waits until the database has answered and is one that this release can work with. Its error says that it
	// is not.
	await func(context.Context) error
	ping  func(context.Context) error
	close func()
}

// state says what is amiss with the database, for /readyz; empty when nothing is. A database that is away makes nobody
// unready: what is known is served, and the meter goes to the spool.
func (st *stores) state(ctx context.Context) string {
	if st.ping(ctx) != nil {
		return "the database does not answer, usage is kept in the spool"
	}
	return ""
}

// openStores opens Postgres and Redis where they are set, else the embedded SQLite.
func openStores(ctx context.Context, cfg *Config, vault *tenancy.Vault, log *slog.Logger) (*stores, error) {
	if cfg.Embedded() {
		return openEmbedded(ctx, cfg, vault, log)
	}
	return openShared(ctx, cfg, vault, log)
}

// memoryEvents bounds the queue in process. What does not fit waits in the spool, on disk.
const memoryEvents = 10_000

func openEmbedded(ctx context.Context, cfg *Config, vault *tenancy.Vault, log *slog.Logger) (*stores, error) {
	if err := os.MkdirAll(filepath.Dir(cfg.SQLitePath()), 0o700); err != nil {
		return nil, fmt.Errorf("CATRACA_DATA_DIR: %w", err)
	}
	write, err := openSQLite(cfg.SQLitePath(), "_txlock=immediate")
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1) // one writer is all SQLite has; more would only wait for each other
	read, err := openSQLite(cfg.SQLitePath(), "_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	closeBoth := func() { _ = errors.Join(read.Close(), write.Close()) }
	if err := migrations.Up(ctx, write, migrations.SQLite); err != nil {
		closeBoth()
		return nil, fmt.Errorf("bring %s up to date: %w", cfg.SQLitePath(), err)
	}
	budgets, queue := budget.NewSQLite(write, read), metering.NewMemoryQueue(1, memoryEvents)
	ledger := metering.NewSQLite(write, read, func(ctx context.Context, tx *sql.Tx, fresh []metering.Event) error {
		return budget.Settle(ctx, budgets.Within(tx), charges(fresh))
	})
	return &stores{
		tenants:   tenancy.NewSQLite(write, vault),
		usage:     auditedUsage{ledger, budgets},
		budgets:   budgets,
		queue:     queue,
		publisher: func(func() [][]byte) metering.Queue { return queue }, // nobody else can write to it
		upkeep: func(ctx context.Context) error {
			return metering.KeepHouse(ctx, ledger, metering.HouseOptions{MonthsKept: cfg.LogKeepMonths}, log)
		},
		await: func(context.Context) error { return nil },
		ping:  read.PingContext,
		close: closeBoth,
	}, nil
}

func openSQLite(path, option string) (*sql.DB, error) {
	// synchronous FULL: the spool lets go of what this database says it has, so that must survive a power loss.
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&" + option
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

func openShared(ctx context.Context, cfg *Config, vault *tenancy.Vault, log *slog.Logger) (*stores, error) {
	pool, err := pgxpool.New(ctx, cfg.DatabaseURL.Reveal())
	if err != nil {
		return nil, errors.New("CATRACA_DATABASE_URL cannot be read: write postgres://user:password@host:5432/database")
	}
	budgets, tenants := budget.NewPostgres(pool), tenancy.NewPostgres(pool, vault)
	ledger := metering.NewPostgres(pool, func(ctx context.Context, tx pgx.Tx, fresh []metering.Event) error {
		return budget.Settle(ctx, budgets.Within(tx), charges(fresh))
	})
	database := &databaseCheck{log: log, try: func(ctx context.Context) error { return checkDatabase(ctx, cfg, tenants) }}
	if err := database.first(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	client, err := openRedis(ctx, cfg, log)
	if err != nil {
		pool.Close()
		return nil, err
	}
	keys := vault.Derive("events")
	return &stores{
		tenants:     tenants,
		usage:       auditedUsage{ledger, budgets},
		budgets:     budgets,
		queue:       newRedisQueue(client, keys),
		publisher:   func(keys func() [][]byte) metering.Queue { return &signedQueue{client: client, keys: keys} },
		signingKeys: keys,
		shards:      ledger,
		upkeep: func(ctx context.Context) error {
			return metering.KeepHouse(ctx, ledger, metering.HouseOptions{MonthsKept: cfg.LogKeepMonths}, log)
		},
		await: database.await,
		ping:  pool.Ping,
		close: func() { pool.Close(); _ = client.Close() },
	}, nil
}

// openRedis opens the queue between the planes. One that is away is waited for; one that would throw usage away is not
// used.
func openRedis(ctx context.Context, cfg *Config, log *slog.Logger) (redis.UniversalClient, error) {
	client, err := metering.OpenRedis(cfg.RedisURL.Reveal())
	if err != nil {
		return nil, fmt.Errorf("CATRACA_REDIS_URL: %w", err)
	}
	err = newRedisQueue(client, nil).Check(ctx)
	if errors.Is(err, metering.ErrEviction) {
		return nil, errors.Join(err, client.Close())
	}
	if err != nil {
		log.Warn("Redis does not answer; calls are kept in the spool until it does", "error", err)
	}
	return client, nil
}

// newRedisQueue makes an end of the queue. keys are newest first: the first signs, all verify.
func newRedisQueue(client redis.UniversalClient, keys [][]byte) *metering.RedisQueue {
	return metering.NewRedisQueue(client, keys...)
}
