package budget

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// showChange does what follows from a change of a budget: in its open windows, and in what client_budgets shows.
func (t *pgTx) showChange(ctx context.Context, b *Budget) error {
	if err := AmendWindows(ctx, t, *b); err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, "UPDATE client_budgets SET is_paused = paused WHERE id = $1", b.ID); err != nil {
		return err
	}
	_, err := t.project(ctx, "w.budget_id = $1", b.ID)
	return err
}

// project writes how current windows stand into client_budgets.
func (t *pgTx) project(ctx context.Context, which string, arg any) (int, error) {
	rows, err := t.tx.Query(ctx, pgWindow+"WHERE w.starts_at <= now() AND w.ends_at > now() AND "+which+" ORDER BY w.budget_id", arg)
	ws, err := pgCollect(rows, err, pgScanWindow)
	if err != nil || len(ws) == 0 {
		return 0, err
	}
	all := column(ws, (*Window).showing)
	done, err := t.tx.Exec(ctx, `UPDATE client_budgets b SET current_usage = x.used, period_start_date = x.since, next_reset_at = x.until, is_paused = x.paused
FROM (
	SELECT b.id, trim_scale(x.used * CASE b.budget_type WHEN 'tokens' THEN 1 ELSE 0.000000000001 END) AS used,
		x.since::date AS since, x.until, b.paused OR x.at_limit OR x.hard AND EXISTS (SELECT FROM budget_alerts a
			WHERE a.window_id = x.window_id AND a.threshold = 100 AND a.limit_version = x.limit_version) AS paused
	FROM unnest($1::uuid[], $2::int8[], $3::text[], $4::timestamptz[], $5::bool[], $6::bool[], $7::int8[], $8::int8[])
		AS x (budget_id, used, since, until, at_limit, hard, window_id, limit_version)
	JOIN client_budgets b ON b.id = x.budget_id WHERE b.deleted_at IS NULL
) x
WHERE b.id = x.id AND (b.current_usage, b.period_start_date, b.next_reset_at, b.is_paused) IS DISTINCT FROM (x.used, x.since, x.until, x.paused)`,
		column(all, func(s showing) uuid.UUID { return s.budget }), column(all, func(s showing) int64 { return s.used }),
		column(all, func(s showing) string { return s.since }), column(all, func(s showing) time.Time { return s.until }),
		column(all, func(s showing) bool { return s.full }), column(all, func(s showing) bool { return s.hard }),
		column(all, func(s showing) int64 { return s.window }), column(all, func(s showing) int64 { return s.limit }))
	return int(done.RowsAffected()), err
}

// amendEdited brings budgets that somebody edited in client_budgets itself, as the plan's own panels may, into their
// windows.
func (t *pgTx) amendEdited(ctx context.Context) error {
	rows, err := t.tx.Query(ctx, pgBudget+`WHERE b.deleted_at IS NULL AND EXISTS (SELECT FROM budget_windows w
	WHERE w.budget_id = b.id AND w.ends_at > now() AND NOT w.sealed AND (w.hard <> coalesce(b.pause_at_limit, false)
		OR w.base <> b.budget_limit * CASE b.budget_type WHEN 'tokens' THEN 1 ELSE 1000000000000 END))
ORDER BY b.id FOR UPDATE OF b`)
	edited, err := pgCollect(rows, err, pgScanBudget)
	for i := 0; i < len(edited) && err == nil; i++ {
		err = AmendWindows(ctx, t, edited[i])
	}
	return err
}

// Project implements Store.
func (p *Postgres) Project(ctx context.Context, since time.Time) (n int, err error) {
	err = p.update(ctx, func(t *pgTx) error {
		if err := t.amendEdited(ctx); err != nil {
			return err
		}
		n, err = t.project(ctx, "NOT w.sealed AND w.changed_at >= $1", since)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("show how budgets stand: %w", err)
	}
	return n, nil
}

// pgCheckLog sums what the usage log has for each of some windows ($1): by roll-ups for whole hours, corrected by the calls
// around ($2) the beginning and the end, each of which counts where it was held, or else where it was admitted. Without
// a client it is the windows over all of them, and written twice for the same reason as pgUnheldSQL. Left out are windows
// that began before what the log was kept of, and budgets that were deleted: what was under way then is counted or not, as
// it came.
var pgCheckLog = func() string {
	sums := func(of string) string {
		return `CASE w.budget_type WHEN 'tokens' THEN sum(` + of + `total_tokens) WHEN 'brl' THEN sum(` + of + `cost_brl) * 1000000000000 ELSE sum(` + of + `cost_usd) * 1000000000000 END`
	}
	half := func(of, whose string) string {
		return `SELECT w.id, least(4611686018427387903, coalesce(r.amount, 0) + coalesce(e.amount, 0))::int8
FROM (SELECT w.*, to_timestamp(ceil(extract(epoch FROM w.starts_at) / 3600) * 3600) AS first_hour,
		to_timestamp(floor(extract(epoch FROM w.ends_at) / 3600) * 3600) AS last_hour,
		ARRAY(SELECT o.id FROM budget_windows o WHERE o.budget_id = w.budget_id) AS siblings
	FROM budget_windows w JOIN client_budgets b ON b.id = w.budget_id AND b.deleted_at IS NULL
	WHERE w.id = ANY($1) AND w.client_id IS ` + of + `
		AND w.starts_at - $2::interval >= coalesce((SELECT since FROM usage_log_kept), '-infinity')) w
CROSS JOIN LATERAL (SELECT ` + sums("g.") + ` AS amount FROM usage_rollups g
	WHERE ` + whose + `g.hour >= w.first_hour AND g.hour < w.last_hour) r
CROSS JOIN LATERAL (SELECT ` + sums("c.sign * g.") + ` AS amount
	FROM (VALUES (w.starts_at - $2::interval, w.starts_at + $2::interval),
		(greatest(w.ends_at - $2::interval, w.starts_at + $2::interval), w.ends_at + $2::interval)) AS edge (since, until)
	JOIN gateway_usage_logs g ON ` + whose + `g.created_at >= edge.since AND g.created_at < edge.until
	CROSS JOIN LATERAL (SELECT CASE WHEN g.budget_holds IS NULL THEN '{}' ELSE ARRAY(
		SELECT (h ->> 0)::int8 FROM jsonb_array_elements(g.budget_holds) h) END AS ids) named
	CROSS JOIN LATERAL (SELECT (w.id = ANY(named.ids)
			OR g.created_at >= w.starts_at AND g.created_at < w.ends_at AND NOT w.siblings && named.ids)::int
		- (g.created_at >= w.first_hour AND g.created_at < w.last_hour)::int AS sign) c
	WHERE c.sign <> 0) e`
	}
	return half("NOT NULL", "g.client_id = w.client_id AND ") + "\nUNION ALL\n" + half("NULL", "")
}()

// Check implements Store, in one snapshot. It looks at windows that have begun and have not ended for longer than two
// days.
func (p *Postgres) Check(ctx context.Context) (r CheckReport, err error) {
	err = pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := pgPlainly(ctx, tx); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, pgWindow+"WHERE w.ends_at > now() - $1::interval AND w.starts_at <= now() ORDER BY w.id", checkBack)
		ws, err := pgCollect(rows, err, pgScanWindow)
		if err != nil {
			return err
		}
		ids := column(ws, (*Window).id)
		logged, err := pgAmounts(ctx, tx, pgCheckLog, ids, checkEdge)
		if err != nil {
			return err
		}
		const rest = "granted - returned - settled - doubted"
		holding, err := pgAmounts(ctx, tx, "SELECT window_id, sum("+rest+")::int8 FROM budget_leases WHERE window_id = ANY($1) AND NOT lost GROUP BY 1", ids)
		if err != nil {
			return err
		}
		suspended, err := pgAmounts(ctx, tx, `SELECT window_id, sum(amount)::int8 FROM (
	SELECT window_id, `+rest+` AS amount FROM budget_leases WHERE window_id = ANY($1) AND lost
	UNION ALL SELECT window_id, amount FROM budget_doubts WHERE window_id = ANY($1)) x GROUP BY 1`, ids)
		if err != nil {
			return err
		}
		r = checked(ws, logged, holding, suspended)
		return nil
	})
	if err != nil {
		return CheckReport{}, fmt.Errorf("compare budgets with the usage log: %w", err)
	}
	return r, nil
}

// pgPlainly has what is left of a transaction run without being compiled first: of sums over a log that is looked into
// here and there that takes many times what the sums take.
func pgPlainly(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "SET LOCAL jit = off")
	return err
}

// pgAmounts reads an amount for each of some windows.
func pgAmounts(ctx context.Context, tx pgx.Tx, query string, args ...any) (map[int64]int64, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	amounts := map[int64]int64{}
	var window, amount int64
	_, err = pgx.ForEachRow(rows, []any{&window, &amount}, func() error { amounts[window] = amount; return nil })
	return amounts, err
}
