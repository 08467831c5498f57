package metering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	_ Retention   = (*Postgres)(nil)
	_ Housekeeper = (*Postgres)(nil)
)

// lockPatience is how long a month waits for the log to be free. Everybody who comes later waits behind it, so it is
// short, and tried again.
const (
	lockPatience = "500ms"
	lockTries    = 6
)

// DropMonths lets go of calls before the beginning of a month: partitions as a whole, and what the default partition has.
// See Retention.
func (p *Postgres) DropMonths(ctx context.Context, before time.Time) (dropped Dropped, err error) {
	before = KeptFrom(before, 0)
	months, err := p.monthsBefore(ctx, before)
	if err != nil {
		return dropped, fmt.Errorf("let go of old months: %w", err)
	}
	if err := p.dropDetached(ctx); err != nil { // of a process that did not get to it
		return dropped, fmt.Errorf("let go of old months: %w", err)
	}
	for _, month := range months {
		detached, err := p.detachMonth(ctx, month, before)
		if err != nil {
			return dropped, fmt.Errorf("let go of %s: %w", month.Format("2006-01"), err)
		}
		if detached {
			dropped.Partitions++
		}
	}
	if err := p.dropDetached(ctx); err != nil {
		return dropped, fmt.Errorf("let go of old months: %w", err)
	}
	dropped.Rows, err = p.deleteBefore(ctx, before)
	if err != nil {
		return dropped, fmt.Errorf("let go of old calls: %w", err)
	}
	return dropped, nil
}

// monthsBefore lists the months before a time that have a partition.
func (p *Postgres) monthsBefore(ctx context.Context, before time.Time) ([]time.Time, error) {
	rows, err := p.pool.Query(ctx, `SELECT month FROM (
	SELECT to_timestamp(right(c.relname, 7) || ' +00', 'YYYY_MM TZH') AS month
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
	WHERE i.inhparent = 'gateway_usage_logs'::regclass AND c.relname ~ '^gateway_usage_logs_\d{4}_\d{2}$'
) m WHERE month < $1 ORDER BY 1`, before)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[time.Time])
}

// detachMonth takes a month out of the log, and notes that from then on the log is not complete before a time.
func (p *Postgres) detachMonth(ctx context.Context, month, before time.Time) (detached bool, err error) {
	for try := 1; ; try++ {
		err = p.retry(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockPatience+"'"); err != nil {
				return err
			}
			var name *string
			if err := tx.QueryRow(ctx, "SELECT catraca_detach_usage_partition($1)", month).Scan(&name); err != nil || name == nil {
				return err
			}
			detached = true
			return pgNoteKept(ctx, tx, before)
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55P03" || try == lockTries {
			return detached && err == nil, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(time.Second + rand.N(time.Second)):
		}
	}
}

func pgNoteKept(ctx context.Context, tx pgx.Tx, since time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO usage_log_kept (since) VALUES ($1)
ON CONFLICT (only_one) DO UPDATE SET since = greatest(usage_log_kept.since, excluded.since)`, since)
	return err
}

// dropDetached removes the tables that months have become. It takes as long as the disk needs, and nobody waits for it.
func (p *Postgres) dropDetached(ctx context.Context) error {
	rows, err := p.pool.Query(ctx, `SELECT oid::regclass::text FROM pg_class
WHERE relkind = 'r' AND NOT relispartition AND relname ~ '^gateway_usage_logs_\d{4}_\d{2}_let_go$' AND pg_table_is_visible(oid)`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := p.pool.Exec(ctx, "DROP TABLE IF EXISTS "+name); err != nil {
			return err
		}
	}
	return nil
}

// deleteBefore deletes what the default partition has of calls before a time.
func (p *Postgres) deleteBefore(ctx context.Context, before time.Time) (rows int, err error) {
	for {
		var n int64
		err := p.retry(ctx, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `DELETE FROM gateway_usage_logs_default WHERE ctid = ANY (ARRAY(
	SELECT ctid FROM gateway_usage_logs_default WHERE created_at < $1 LIMIT $2))`, before, dropBatch)
			if n = tag.RowsAffected(); err != nil || n == 0 {
				return err
			}
			return pgNoteKept(ctx, tx, before)
		})
		rows += int(n)
		if err != nil || n < dropBatch {
			return rows, err
		}
	}
}

// LogSince tells from when on the log is complete. See Retention.
func (p *Postgres) LogSince(ctx context.Context) (since time.Time, err error) {
	err = p.pool.QueryRow(ctx, "SELECT since FROM usage_log_kept").Scan(&since)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read how far back the log reaches: %w", err)
	}
	return since.UTC(), nil
}
