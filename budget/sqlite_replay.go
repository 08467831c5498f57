package budget

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"
)

// PastCalls are the calls of a client (uuid.Nil: of all) that were admitted in a time, in order of admission. They are
// read while they are taken: whatever their number, it needs the memory of a few.
func (s *SQLite) PastCalls(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[PastCall, error] {
	return func(yield func(PastCall, error) bool) {
		units, err := s.unitsOf(ctx, client, from, to)
		if err != nil {
			yield(PastCall{}, fmt.Errorf("read past calls: %w", err))
			return
		}
		pastCalls(s.pastRows(ctx, client, from, to), units)(yield)
	}
}

// unitsOf are the windows that calls of a client may have been held in, with their units.
func (s *SQLite) unitsOf(ctx context.Context, client uuid.UUID, from, to time.Time) (map[int64]Unit, error) {
	rows, err := s.read.QueryContext(ctx, `
		SELECT w.id, w.budget_type FROM budget_windows w JOIN client_budgets b ON w.budget_id = b.id
		 WHERE (b.client_id IS NULL OR b.client_id = ?) AND w.ends_at > ? AND w.starts_at < ?`, liteClient(client), from.UnixMicro(), to.UnixMicro())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	units := map[int64]Unit{}
	for rows.Next() {
		var id int64
		var unit string
		if err := rows.Scan(&id, &unit); err != nil {
			return nil, err
		}
		units[id] = Unit(unit)
	}
	return units, rows.Err()
}

func (s *SQLite) pastRows(ctx context.Context, client uuid.UUID, from, to time.Time) iter.Seq2[pastRow, error] {
	return func(yield func(pastRow, error) bool) {
		where, args := "created_at >= ? AND created_at < ?", []any{from.UnixMicro(), to.UnixMicro()}
		if client != uuid.Nil {
			where, args = where+" AND client_id = ?", append(args, client.String())
		}
		rows, err := s.read.QueryContext(ctx, `
			SELECT created_at, incarnation, seq, latency_ms, total_tokens, coalesce(cost_usd, 0), coalesce(cost_brl, 0),
			       cost_usd IS NOT NULL AND cost_brl IS NOT NULL, coalesce(budget_holds, '')
			  FROM gateway_usage_logs WHERE `+where+` ORDER BY created_at, incarnation, seq`, args...)
		if err != nil {
			yield(pastRow{}, fmt.Errorf("read past calls: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var r pastRow
			var at int64
			if err := rows.Scan(&at, &r.incarnation, &r.seq, &r.tookMs, &r.tokens, &r.usd, &r.brl, &r.priced, &r.holds); err != nil {
				yield(r, fmt.Errorf("read past calls: %w", err))
				return
			}
			r.at = time.UnixMicro(at).UTC()
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(pastRow{}, fmt.Errorf("read past calls: %w", err))
		}
	}
}
