package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catraca/catraca/tenancy"
)

// databaseCheck finds out whether a database is one that this release can work with. A wrong one is refused at the
// start. One that does not answer is not: proxies go on without it, and so must the process that waits for it.
type databaseCheck struct {
	try func(context.Context) error
	log *slog.Logger

	mu   sync.Mutex
	fine bool
	err  error // why it can never be
}

const (
	databaseTimeout = 5 * time.Second
	databaseEvery   = time.Second
)

// first tries once.
func (d *databaseCheck) first(ctx context.Context) error {
	done, err := d.once(ctx)
	if err == nil && !done {
		d.log.Warn("the database does not answer; going on with what is known, and trying again")
	}
	return err
}

// once tries, unless that has been decided already. Neither done nor an error: it did not answer.
func (d *databaseCheck) once(ctx context.Context) (done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fine || d.err != nil {
		return d.fine, d.err
	}
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	err = d.try(ctx)
	switch {
	case err == nil:
		d.fine = true
	case answered(err):
		d.err = err
	default:
		d.log.Debug("the database does not answer", "error", err)
	}
	return d.fine, d.err
}

// await tries until the database answers, or ctx ends.
func (d *databaseCheck) await(ctx context.Context) error {
	for waited := false; ; waited = true {
		done, err := d.once(ctx)
		switch {
		case err != nil:
			return err
		case done && waited:
			d.log.Info("the database answers")
			return nil
		case done:
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(databaseEvery):
		}
	}
}

// answered says that trying again is of no use: the server refused us, or what it holds is not for this release.
func answered(err error) bool {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code[:2] {
		case "57", "53", "58", "08", "40": // starting up or stopping, full, failing
			return false
		}
		return true
	}
	var unconnected *pgconn.ConnectError
	var network net.Error
	return !errors.As(err, &unconnected) && !errors.As(err, &network) && !errors.Is(err, io.EOF) &&
		!errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// checkDatabase looks whether a database has this release's tables, lets this role see them, and was filled under these
// master keys.
func checkDatabase(ctx context.Context, cfg *Config, tenants *tenancy.Postgres) error {
	pending, err := pendingMigrations(ctx, cfg)
	if err != nil {
		return fmt.Errorf("CATRACA_DATABASE_URL: %w", err)
	}
	if pending > 0 {
		return fmt.Errorf("the database lacks %d migrations: run `catraca migrate` first", pending)
	}
	if err := tenants.Check(ctx); err != nil {
		return fmt.Errorf("CATRACA_DATABASE_URL: %w", err)
	}
	return tenants.CheckVault(ctx)
}
