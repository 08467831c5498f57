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

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/migrations"
	"github.com/catraca/catraca/tenancy"
)

// usageStore is what Postgres and SQLite both are to metering.
type usageStore interface {
	metering.Ledger
	metering.RateStore
	dashboard.Registry
	Usage(ctx context.Context, q metering.UsageQuery) (metering.UsageReport, error)
	Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error)
}

// stores is everything that outlives a call: tenants, ledger and the queue between the planes.
type stores struct {
	tenants tenancy.Store
	usage   usageStore
	queue   interface {
		metering.Queue
		metering.Consumer
	}
	shards metering.ShardLock // nil: no other process consumes
	upkeep func(context.Context) error
	ping   func(context.Context) error
	close  func()
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
	ledger := metering.NewSQLite(write, read)
	return &stores{
		tenants: tenancy.NewSQLite(write, vault),
		usage:   ledger,
		queue:   metering.NewMemoryQueue(1, memoryEvents),
		upkeep:  func(ctx context.Context) error { return metering.KeepHouse(ctx, ledger, log) },
		ping:    read.PingContext,
		close:   closeBoth,
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
	pending, err := pendingMigrations(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("CATRACA_DATABASE_URL: %w", err)
	}
	if pending > 0 {
		return nil, fmt.Errorf("the database lacks %d migrations: run `catraca migrate` first", pending)
	}
	pool, err := pgxpool.New(ctx, cfg.DatabaseURL.Reveal())
	if err != nil {
		return nil, errors.New("CATRACA_DATABASE_URL cannot be read: write postgres://user:password@host:5432/database")
	}
	client, err := metering.OpenRedis(cfg.RedisURL.Reveal())
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("CATRACA_REDIS_URL: %w", err)
	}
	queue := metering.NewRedisQueue(client, nil)
	if err := queue.Check(ctx); errors.Is(err, metering.ErrEviction) {
		pool.Close()
		return nil, errors.Join(err, client.Close())
	} else if err != nil {
		log.Warn("Redis does not answer; calls are kept in the spool until it does", "error", err)
	}
	ledger, tenants := metering.NewPostgres(pool), tenancy.NewPostgres(pool, vault)
	if err := tenants.Check(ctx); err != nil {
		pool.Close()
		return nil, errors.Join(fmt.Errorf("CATRACA_DATABASE_URL: %w", err), client.Close())
	}
	return &stores{
		tenants: tenants,
		usage:   ledger,
		queue:   queue,
		shards:  ledger,
		upkeep:  func(ctx context.Context) error { return metering.KeepHouse(ctx, ledger, log) },
		ping:    pool.Ping,
		close:   func() { pool.Close(); _ = client.Close() },
	}, nil
}
