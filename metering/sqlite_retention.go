package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

var (
	_ Retention   = (*SQLite)(nil)
	_ Housekeeper = (*SQLite)(nil)
)

// DropMonths lets go of calls before the beginning of a month, some thousands at a time: there is one writer, and calls
// that end meanwhile are in its queue. See Retention.
func (s *SQLite) DropMonths(ctx context.Context, before time.Time) (dropped Dropped, err error) {
	before = KeptFrom(before, 0)
	for {
		var n int64
		err := s.transact(ctx, func(tx *sql.Tx) error {
			result, err := tx.ExecContext(ctx, `DELETE FROM gateway_usage_logs WHERE (client_id, created_at, incarnation, seq) IN (
	SELECT client_id, created_at, incarnation, seq FROM gateway_usage_logs WHERE created_at < ? LIMIT ?)`, before.UnixMicro(), dropBatch)
			if err != nil {
				return err
			}
			if n, err = result.RowsAffected(); err != nil || n == 0 {
				return err
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO usage_log_kept (only_one, since) VALUES (1, ?)
ON CONFLICT (only_one) DO UPDATE SET since = max(usage_log_kept.since, excluded.since)`, before.UnixMicro())
			return err
		})
		if err != nil {
			return dropped, fmt.Errorf("let go of old calls: %w", err)
		}
		dropped.Rows += int(n)
		if n < dropBatch {
			return dropped, nil
		}
	}
}

// LogSince tells from when on the log is complete. See Retention.
func (s *SQLite) LogSince(ctx context.Context) (since time.Time, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT since FROM usage_log_kept").Scan(sqliteInstant{&since})
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read how far back the log reaches: %w", err)
	}
	return since, nil
}
