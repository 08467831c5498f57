package metering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

var _ Corrections = (*Postgres)(nil)

const byLogKey = " WHERE client_id = $1 AND created_at = $2 AND incarnation = $3 AND seq = $4"

func logKey(ev *Event) []any {
	return []any{ev.ClientID, ev.AdmittedAt.UTC().Truncate(time.Microsecond), int64(ev.Incarnation), int64(ev.Seq)}
}

// Correct records what a call truly used. See Corrections.
//
// That it was done is known for as long as it could be done again: the correction's row is in the same partition as the
// estimate's, without which there is nothing to correct.
func (p *Postgres) Correct(ctx context.Context, truth Event) error {
	if err := checkTruth(&truth); err != nil {
		return err
	}
	key := logKey(&truth)
	err := p.retry(ctx, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, "SELECT "+pgReadColumns("")+" FROM gateway_usage_logs"+byLogKey+" FOR UPDATE", key...)
		if err != nil {
			return err
		}
		estimate, err := pgx.CollectExactlyOneRow(found, scanPGRow)
		if errors.Is(err, pgx.ErrNoRows) {
			return noEstimate(&truth)
		}
		if err != nil {
			return err
		}
		row, err := difference(&estimate, &truth)
		if err != nil {
			return err
		}
		rows := []logRow{row}
		fresh, err := insertFresh(ctx, tx, recordSQL(allColumns), columnArrays(allColumns, rows), rows)
		if err != nil {
			return err
		}
		return p.settle(ctx, tx, fresh, "DELETE FROM usage_estimates"+byLogKey, key...)
	})
	if err != nil {
		return fmt.Errorf("record a correction: %w", permanent(err))
	}
	return nil
}

// DueEstimates takes estimates whose time has come. See Corrections.
func (p *Postgres) DueEstimates(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Estimate, error) {
	var due []Estimate
	err := p.retry(ctx, func(tx pgx.Tx) error {
		taken, err := tx.Query(ctx, `WITH due AS (
	SELECT client_id, created_at, incarnation, seq FROM usage_estimates WHERE next_at <= $1 ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE usage_estimates e SET next_at = $3, tries = tries + 1 FROM due d
WHERE e.client_id = d.client_id AND e.created_at = d.created_at AND e.incarnation = d.incarnation AND e.seq = d.seq
RETURNING e.client_id, e.created_at, e.incarnation, e.seq, e.tries - 1`, now, max(most, 0), now.Add(lease))
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(taken, func(row pgx.CollectableRow) (e Estimate, err error) {
			var incarnation, seq int64
			err = row.Scan(&e.ClientID, &e.AdmittedAt, &incarnation, &seq, &e.Tries)
			e.Incarnation, e.Seq = uint64(incarnation), uint64(seq)
			return e, err
		})
		if err != nil || len(all) == 0 {
			return err
		}
		due, err = readEstimates(ctx, tx, all)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take estimates to ask about: %w", err)
	}
	return due, nil
}

// readEstimates fills in the events, and drops estimates whose row the log no longer has.
func readEstimates(ctx context.Context, tx pgx.Tx, all []Estimate) (due []Estimate, err error) {
	var batch pgx.Batch
	var gone pgx.Batch
	for _, e := range all {
		key := logKey(&e.Event)
		batch.Queue("SELECT "+pgReadColumns("")+" FROM gateway_usage_logs"+byLogKey, key...).Query(func(rows pgx.Rows) error {
			row, err := pgx.CollectExactlyOneRow(rows, scanPGRow)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				gone.Queue("DELETE FROM usage_estimates"+byLogKey, key...)
				return nil
			case err != nil:
				return err
			}
			due = append(due, Estimate{Event: row.usageRow().Event, Tries: e.Tries})
			return nil
		})
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	if gone.Len() == 0 {
		return due, nil
	}
	return due, tx.SendBatch(ctx, &gone).Close()
}

// PutOff says when to ask about an estimate again. See Corrections.
func (p *Postgres) PutOff(ctx context.Context, e Estimate, until time.Time) error {
	query, args := "DELETE FROM usage_estimates"+byLogKey, logKey(&e.Event)
	if !until.IsZero() {
		query, args = "UPDATE usage_estimates SET next_at = $5, tries = $6"+byLogKey, append(args, until, e.Tries+1)
	}
	if _, err := p.pool.Exec(ctx, query, args...); err != nil {
		return fmt.Errorf("put an estimate off: %w", err)
	}
	return nil
}
