package budget

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PastCalls are the calls of a client (uuid.Nil: of all) that were admitted in a time, in order of admission. They are
// read while they are taken: whatever their number, it needs the memory of a few.
func (p *Postgres) PastCalls(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[PastCall, error] {
	return func(yield func(PastCall, error) bool) {
		units, err := p.unitsOf(ctx, client, from, to)
		if err != nil {
			yield(PastCall{}, fmt.Errorf("read past calls: %w", err))
			return
		}
		pastCalls(p.pastRows(ctx, client, from, to), units)(yield)
	}
}

// unitsOf are the windows that calls of a client may have been held in, with their units.
func (p *Postgres) unitsOf(ctx context.Context, client uuid.UUID, from, to time.Time) (map[int64]Unit, error) {
	rows, err := p.pool.Query(ctx, `
		SELECT w.id, w.budget_type FROM budget_windows w JOIN client_budgets b ON w.budget_id = b.id
		 WHERE (b.client_id IS NULL OR b.client_id = $1::uuid) AND w.ends_at > $2 AND w.starts_at < $3`, pgClient(client), from, to)
	if err != nil {
		return nil, err
	}
	units := map[int64]Unit{}
	var id int64
	var unit string
	_, err = pgx.ForEachRow(rows, []any{&id, &unit}, func() error {
		units[id] = Unit(unit)
		return nil
	})
	return units, err
}

func (p *Postgres) pastRows(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[pastRow, error] {
	return func(yield func(pastRow, error) bool) {
		where, args := "created_at >= $1 AND created_at < $2", []any{from, to}
		if client != uuid.Nil {
			where, args = "client_id = $3 AND "+where, append(args, client)
		}
		// Closing rows that were not read to their end reads the rest, unless the connection is given up.
		ctx, giveUp := context.WithCancel(ctx)
		defer giveUp()
		rows, err := p.pool.Query(ctx, `
			SELECT created_at, incarnation, seq, latency_ms, total_tokens, coalesce((cost_usd * 1000000000000)::bigint, 0),
			       coalesce((cost_brl * 1000000000000)::bigint, 0), cost_usd IS NOT NULL AND cost_brl IS NOT NULL, coalesce(budget_holds::text, '')
			  FROM gateway_usage_logs WHERE `+where+` ORDER BY created_at, incarnation, seq`, args...)
		if err != nil {
			yield(pastRow{}, fmt.Errorf("read past calls: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var r pastRow
			err := rows.Scan(&r.at, &r.incarnation, &r.seq, &r.tookMs, &r.tokens, &r.usd, &r.brl, &r.priced, &r.holds)
			if err != nil {
				yield(r, fmt.Errorf("read past calls: %w", err))
				return
			}
			if !yield(r, nil) {
				giveUp()
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(pastRow{}, fmt.Errorf("read past calls: %w", err))
		}
	}
}
