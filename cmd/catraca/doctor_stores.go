package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
)

// database tries Postgres, or the SQLite file when embedded.
func (d *doctor) database(ctx context.Context) finding {
	if d.cfg.Embedded() {
		return d.sqlite(ctx)
	}
	if !d.cfg.DatabaseURL.IsSet() {
		return skipped("CATRACA_DATABASE_URL is not set")
	}
	config, err := pgx.ParseConfig(d.cfg.DatabaseURL.Reveal())
	if err != nil {
		return failure("write CATRACA_DATABASE_URL as postgres://user:password@host:5432/database", "the address cannot be read")
	}
	where := fmt.Sprintf("%s:%d/%s", config.Host, config.Port, config.Database)
	began := time.Now()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return failure(postgresAdvice(err), "no connection to %s: %s", where, connectCause(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	took := time.Since(began).Round(time.Millisecond)

	var number int
	var version string
	var theirs time.Time
	err = conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, current_setting('server_version'), clock_timestamp()").Scan(&number, &version, &theirs)
	if err != nil {
		return failure("look into the server's log", "%s does not answer a query: %s", where, cause(err))
	}
	d.mu.Lock()
	d.skews = append(d.skews, clockSkew{"Postgres", d.now().Sub(theirs)})
	d.mu.Unlock()
	if number < 140000 {
		return failure("upgrade: Catraca needs Postgres 14", "%s is version %s", where, version)
	}
	return withPending(ctx, &d.cfg, fmt.Sprintf("Postgres %s at %s in %s", version, where, took))
}

func (d *doctor) sqlite(ctx context.Context) finding {
	path := d.cfg.SQLitePath()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return fine("embedded: SQLite, made at the first start in %s", path)
	}
	return withPending(ctx, &d.cfg, "embedded: SQLite in "+path)
}

func withPending(ctx context.Context, cfg *Config, what string) finding {
	pending, err := pendingMigrations(ctx, cfg)
	switch {
	case err != nil:
		return failure("the user needs a right to read the schema; see the error", "%s: migrations cannot be read: %s", what, cause(err))
	case pending > 0:
		return warning("run `catraca migrate`", "%s, %d migrations pending", what, pending)
	}
	return fine("%s, no migration pending", what)
}

// connectCause says why Postgres could not be reached, without the address, in which pgx leaves the user's name.
func connectCause(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Message
	}
	return networkCause(err)
}

func postgresAdvice(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code {
		case "28P01", "28000":
			return "check user and password in CATRACA_DATABASE_URL, with %40 for an @ inside the password"
		case "3D000":
			return "create the database, or correct its name in CATRACA_DATABASE_URL"
		case "53300":
			return "too many connections: raise max_connections, or use a pooler in session mode"
		}
		return "the server refused; its log says more"
	}
	return "start Postgres, or correct host and port in CATRACA_DATABASE_URL"
}

// networkCause puts the usual reasons why nothing answers into words.
func networkCause(err error) string {
	var noName *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		return "no answer in time"
	case errors.As(err, &noName):
		return "the name " + noName.Name + " does not resolve"
	}
	return cause(err)
}

// redis tries Redis, its version, and that it would not throw away calls that wait in its streams.
func (d *doctor) redis(ctx context.Context) finding {
	if !d.cfg.RedisURL.IsSet() {
		return skipped("CATRACA_REDIS_URL is not set: the queue is in process")
	}
	client, err := redisClient(d.cfg.RedisURL.Reveal())
	if err != nil {
		return failure("write CATRACA_REDIS_URL as redis://user:password@host:6379/0", "the address cannot be read")
	}
	defer client.Close()
	began := time.Now()
	info, err := client.Info(ctx, "server", "memory").Result()
	if err != nil {
		return failure(redisAdvice(err), "%s: %s", d.cfg.RedisURL, networkCause(err))
	}
	took := time.Since(began).Round(time.Millisecond)
	fields := redisInfo(info)
	name, version := "Redis", fields["redis_version"]
	if v := fields["valkey_version"]; v != "" {
		name, version = "Valkey", v
	}
	var major int
	_, _ = fmt.Sscanf(version, "%d.", &major)
	if major < 7 {
		return failure("upgrade: Catraca needs Redis or Valkey 7", "%s is %s %s", d.cfg.RedisURL, name, version)
	}
	policy := fields["maxmemory_policy"]
	if strings.HasPrefix(policy, "allkeys-") {
		return failure("set maxmemory-policy to noeviction: this Redis throws usage events away when memory is short. They are sent again from the spool, over and over",
			"%s %s evicts by %s", name, version, policy)
	}
	return fine("%s %s at %s in %s, maxmemory-policy %s", name, version, d.cfg.RedisURL, took, policy)
}

func redisAdvice(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "NOAUTH"), strings.Contains(text, "WRONGPASS"):
		return "check user and password in CATRACA_REDIS_URL"
	case strings.Contains(text, "NOPERM"):
		return "the user needs the right to INFO and to streams"
	}
	return "start Redis, or correct host and port in CATRACA_REDIS_URL"
}

// redisClient opens one server, a cluster (addr=…) or Sentinel (master_name=…), as the address says.
func redisClient(address string) (redis.UniversalClient, error) {
	switch {
	case strings.Contains(address, "master_name="):
		options, err := redis.ParseFailoverURL(address)
		if err != nil {
			return nil, errors.New("not a Sentinel address")
		}
		return redis.NewFailoverClient(options), nil
	case strings.Contains(address, "addr="):
		options, err := redis.ParseClusterURL(address)
		if err != nil {
			return nil, errors.New("not a cluster address")
		}
		return redis.NewClusterClient(options), nil
	}
	options, err := redis.ParseURL(address)
	if err != nil {
		return nil, errors.New("not a Redis address")
	}
	return redis.NewClient(options), nil
}

// redisInfo reads the answer to INFO.
func redisInfo(text string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}
