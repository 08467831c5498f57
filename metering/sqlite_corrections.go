package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

var _ Corrections = (*SQLite)(nil)

const sqliteByLogKey = " WHERE client_id = ? AND created_at = ? AND incarnation = ? AND seq = ?"

func sqliteLogKey(ev *Event) []any {
	return []any{ev.ClientID.String(), ev.AdmittedAt.UnixMicro(), int64(ev.Incarnation), int64(ev.Seq)}
}

// Correct records what a call truly used. See Corrections.
func (s *SQLite) Correct(ctx context.Context, truth Event) error {
	if err := checkTruth(&truth); err != nil {
		return err
	}
	key := sqliteLogKey(&truth)
	err := s.transact(ctx, func(tx *sql.Tx) error {
		estimate, err := readSQLiteRow(ctx, tx, key)
		if errors.Is(err, sql.ErrNoRows) {
			return noEstimate(&truth)
		}
		if err != nil {
			return err
		}
		row, err := difference(&estimate, &truth)
		if err != nil {
			return err
		}
		fresh, err := insertSQLite(ctx, tx, sqliteInsertSQL(allColumns), allColumns, []*logRow{&row})
		if err != nil {
			return err
		}
		if err := s.settle(ctx, tx, fresh); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM usage_estimates"+sqliteByLogKey, key...)
		return err
	})
	if err != nil {
		return fmt.Errorf("record a correction: %w", sqlitePermanent(err))
	}
	return nil
}

func readSQLiteRow(ctx context.Context, tx *sql.Tx, key []any) (r logRow, err error) {
	err = scanSQLiteRow(tx.QueryRowContext(ctx, "SELECT "+sqliteReadColumns()+" FROM gateway_usage_logs"+sqliteByLogKey, key...), &r)
	return r, err
}

// DueEstimates takes estimates whose time has come. See Corrections.
func (s *SQLite) DueEstimates(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Estimate, error) {
	var due []Estimate
	err := s.transact(ctx, func(tx *sql.Tx) error {
		all, err := takeEstimates(ctx, tx, now, lease, most)
		if err != nil {
			return err
		}
		due = due[:0]
		for _, e := range all {
			key := sqliteLogKey(&e.Event)
			row, err := readSQLiteRow(ctx, tx, key)
			if errors.Is(err, sql.ErrNoRows) { // past its retention
				if _, err := tx.ExecContext(ctx, "DELETE FROM usage_estimates"+sqliteByLogKey, key...); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			due = append(due, Estimate{Event: row.usageRow().Event, Tries: e.Tries})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("take estimates to ask about: %w", err)
	}
	return due, nil
}

// takeEstimates moves estimates on whose time has come, and gives their keys.
func takeEstimates(ctx context.Context, tx *sql.Tx, now time.Time, lease time.Duration, most int) ([]Estimate, error) {
	rows, err := tx.QueryContext(ctx, `UPDATE usage_estimates SET next_at = ?, tries = tries + 1
WHERE (client_id, created_at, incarnation, seq) IN (
	SELECT client_id, created_at, incarnation, seq FROM usage_estimates WHERE next_at <= ? ORDER BY next_at LIMIT ?)
RETURNING client_id, created_at, incarnation, seq, tries - 1`, now.Add(lease).UnixMicro(), now.UnixMicro(), max(most, 0))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Estimate
	for rows.Next() {
		var e Estimate
		var incarnation, seq int64
		if err := rows.Scan(&e.ClientID, sqliteInstant{&e.AdmittedAt}, &incarnation, &seq, &e.Tries); err != nil {
			return nil, err
		}
		e.Incarnation, e.Seq = uint64(incarnation), uint64(seq)
		all = append(all, e)
	}
	return all, rows.Err()
}

// PutOff says when to ask about an estimate again. See Corrections.
func (s *SQLite) PutOff(ctx context.Context, e Estimate, until time.Time) error {
	query, args := "DELETE FROM usage_estimates"+sqliteByLogKey, sqliteLogKey(&e.Event)
	if !until.IsZero() {
		query, args = "UPDATE usage_estimates SET next_at = ?, tries = ?"+sqliteByLogKey, append([]any{until.UnixMicro(), e.Tries + 1}, args...)
	}
	if _, err := s.write.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("put an estimate off: %w", err)
	}
	return nil
}
