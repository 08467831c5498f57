package metering

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var _ Exporter = (*Postgres)(nil)

// snapshot runs reads that all see the database as it was when the first of them began.
func (p *Postgres) snapshot(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, do)
}

// Export gives each call to a function, oldest first. See Exporter.
func (p *Postgres) Export(ctx context.Context, q ExportQuery, each func(*UsageRow) error) error {
	if err := q.check(); err != nil {
		return err
	}
	var where pgWhere
	if q.ClientID != uuid.Nil {
		where.and("client_id = ?", q.ClientID)
	}
	if !q.From.IsZero() {
		where.and("created_at >= ?", q.From)
	}
	if !q.To.IsZero() {
		where.and("created_at < ?", q.To)
	}
	err := p.snapshot(ctx, func(tx pgx.Tx) error { return pgExport(ctx, tx, where.String(), where.args, each) })
	if err != nil {
		return fmt.Errorf("export the usage log: %w", err)
	}
	return nil
}

// pgExport reads through a cursor, so that each statement is short however slowly the rows are taken.
func pgExport(ctx context.Context, tx pgx.Tx, where string, args []any, each func(*UsageRow) error) error {
	_, err := tx.Exec(ctx, "DECLARE exported NO SCROLL CURSOR FOR SELECT "+pgReadColumns("")+" FROM gateway_usage_logs"+where+
		" ORDER BY created_at, incarnation, seq", args...)
	if err != nil {
		return err
	}
	for {
		rows, err := tx.Query(ctx, "FETCH "+strconv.Itoa(exportFetch)+" FROM exported")
		if err != nil {
			return err
		}
		n := 0
		for ; rows.Next() && err == nil; n++ {
			var r logRow
			if r, err = scanPGRow(rows); err == nil {
				row := r.usageRow()
				err = each(&row)
			}
		}
		rows.Close()
		if err = cmp.Or(err, rows.Err()); err != nil || n < exportFetch {
			return err
		}
	}
}
