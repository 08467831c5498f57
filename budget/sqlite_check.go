package budget

import (
	"context"
	"fmt"
	"time"
)

// showChange does what follows from a change of a budget: in its open windows, and in what client_budgets shows.
func (t *liteTx) showChange(ctx context.Context, b *Budget) error {
	if err := AmendWindows(ctx, t, *b); err != nil {
		return err
	}
	if _, err := t.tx.ExecContext(ctx, "UPDATE client_budgets SET is_paused = paused WHERE id = ?", b.ID.String()); err != nil {
		return err
	}
	_, err := t.project(ctx, "w.budget_id = ?", b.ID.String())
	return err
}

// project writes how current windows stand into client_budgets.
func (t *liteTx) project(ctx context.Context, which string, arg any) (int, error) {
	now := time.Now().UnixMicro()
	ws, err := liteCollect(ctx, t.tx, liteScanWindow, liteWindow+"WHERE w.starts_at <= ? AND w.ends_at > ? AND "+which+" ORDER BY w.budget_id", now, now, arg)
	if err != nil {
		return 0, err
	}
	const atLimit = `(paused OR ?5 OR ?6 AND EXISTS (SELECT 1 FROM budget_alerts WHERE window_id = ?7 AND threshold = 100 AND limit_version = ?8))`
	n, err := liteEach(ctx, t, column(ws, (*Window).showing), `UPDATE client_budgets
SET current_usage = ?2, period_start_date = ?3, next_reset_at = ?4, is_paused = `+atLimit+`
WHERE id = ?1 AND deleted_at IS NULL AND (current_usage, period_start_date, next_reset_at, is_paused) IS NOT (?2, ?3, ?4, `+atLimit+`)`,
		func(s showing) []any {
			return []any{s.budget.String(), s.used, s.since, s.until.UnixMicro(), s.full, s.hard, s.window, s.limit}
		})
	return int(n), err
}

// amendEdited brings budgets that somebody edited in client_budgets itself into their windows.
func (t *liteTx) amendEdited(ctx context.Context) error {
	edited, err := liteCollect(ctx, t.tx, liteScanBudget, liteBudget+`WHERE b.deleted_at IS NULL AND EXISTS (SELECT 1 FROM budget_windows w
	WHERE w.budget_id = b.id AND w.ends_at > ? AND NOT w.sealed AND (w.hard <> b.pause_at_limit OR w.base <> b.budget_limit)) ORDER BY b.id`,
		time.Now().UnixMicro())
	for i := 0; i < len(edited) && err == nil; i++ {
		err = AmendWindows(ctx, t, edited[i])
	}
	return err
}

// Project implements Store.
func (s *SQLite) Project(ctx context.Context, since time.Time) (n int, err error) {
	err = s.update(ctx, func(t *liteTx) error {
		if err := t.amendEdited(ctx); err != nil {
			return err
		}
		n, err = t.project(ctx, "NOT w.sealed AND w.changed_at >= ?", since.UnixMicro())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("show how budgets stand: %w", err)
	}
	return n, nil
}

// liteCheckLog is as pgCheckLog: of one half of the windows. Amounts are summed in two parts, as in liteUnheld.
func liteCheckLog(of, whose string) string {
	sum := func(amount string) string {
		return "coalesce(sum((" + amount + ") / 1000000) * 1000000 + sum((" + amount + ") % 1000000), 0)"
	}
	edge := func(since, until string) string {
		return `coalesce((SELECT ` + sum(`c.sign * CASE w.budget_type WHEN 'tokens' THEN c.total_tokens WHEN 'brl' THEN c.cost_brl ELSE c.cost_usd END`) + ` FROM (
	SELECT g.total_tokens, g.cost_brl, g.cost_usd, (
		(g.budget_holds IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(g.budget_holds) h WHERE json_extract(h.value, '$[0]') = w.id))
		OR (g.created_at >= w.starts_at AND g.created_at < w.ends_at AND (g.budget_holds IS NULL OR NOT EXISTS (SELECT 1
			FROM json_each(g.budget_holds) h JOIN budget_windows o ON o.id = json_extract(h.value, '$[0]') WHERE o.budget_id = w.budget_id)))
		) - (g.created_at >= w.first_hour AND g.created_at < w.last_hour) AS sign
	FROM gateway_usage_logs g WHERE ` + whose + `g.created_at >= ` + since + ` AND g.created_at < ` + until + `) c WHERE c.sign <> 0), 0)`
	}
	return `SELECT w.id, CAST(min(4611686018427387903,
	coalesce((SELECT CASE w.budget_type WHEN 'tokens' THEN sum(g.total_tokens)
		WHEN 'brl' THEN sum(g.cost_brl) * 1000000000000 + sum(g.cost_brl_pico)
		ELSE sum(g.cost_usd) * 1000000000000 + sum(g.cost_usd_pico) END
		FROM usage_rollups g WHERE ` + whose + `g.hour >= w.first_hour AND g.hour < w.last_hour), 0)
	+ ` + edge("w.starts_at - ?2", "w.starts_at + ?2") + `
	+ ` + edge("max(w.ends_at - ?2, w.starts_at + ?2)", "w.ends_at + ?2") + `) AS INTEGER)
FROM (SELECT w.*, (w.starts_at + 3599999999) / 3600000000 * 3600000000 AS first_hour, w.ends_at / 3600000000 * 3600000000 AS last_hour
	FROM budget_windows w JOIN client_budgets b ON b.id = w.budget_id AND b.deleted_at IS NULL
	WHERE w.id IN (SELECT value FROM json_each(?1)) AND w.client_id IS ` + of + `
		AND w.starts_at - ?2 >= coalesce((SELECT since FROM usage_log_kept), 0)) w`
}

// Check implements Store, in one snapshot. It looks at windows that have begun and have not ended for longer than two
// days.
func (s *SQLite) Check(ctx context.Context) (CheckReport, error) {
	r, err := s.check(ctx)
	if err != nil {
		return CheckReport{}, fmt.Errorf("compare budgets with the usage log: %w", err)
	}
	return r, nil
}

func (s *SQLite) check(ctx context.Context) (r CheckReport, err error) {
	tx, err := s.read.BeginTx(ctx, nil)
	if err != nil {
		return r, err
	}
	defer tx.Rollback()
	now := time.Now()
	ws, err := liteCollect(ctx, tx, liteScanWindow, liteWindow+"WHERE w.ends_at > ? AND w.starts_at <= ? ORDER BY w.id", now.Add(-checkBack).UnixMicro(), now.UnixMicro())
	if err != nil {
		return r, err
	}
	ids := liteList(column(ws, (*Window).id))
	logged, err := liteAmounts(ctx, tx, liteCheckLog("NOT NULL", "g.client_id = w.client_id AND ")+"\nUNION ALL\n"+liteCheckLog("NULL", ""), ids, checkEdge.Microseconds())
	if err != nil {
		return r, err
	}
	const rest = "granted - returned - settled - doubted"
	holding, err := liteAmounts(ctx, tx, "SELECT window_id, sum("+rest+") FROM budget_leases WHERE window_id IN (SELECT value FROM json_each(?1)) AND NOT lost GROUP BY 1", ids)
	if err != nil {
		return r, err
	}
	suspended, err := liteAmounts(ctx, tx, `SELECT window_id, sum(amount) FROM (
	SELECT window_id, `+rest+` AS amount FROM budget_leases WHERE lost
	UNION ALL SELECT window_id, amount FROM budget_doubts) WHERE window_id IN (SELECT value FROM json_each(?1)) GROUP BY 1`, ids)
	if err != nil {
		return r, err
	}
	return checked(ws, logged, holding, suspended), nil
}

// liteAmounts reads an amount for each of some windows.
func liteAmounts(ctx context.Context, q liteReader, query string, args ...any) (map[int64]int64, error) {
	amounts := map[int64]int64{}
	_, err := liteCollect(ctx, q, func(scan func(...any) error) (none struct{}, err error) {
		var window, amount int64
		if err = scan(&window, &amount); err == nil {
			amounts[window] = amount
		}
		return none, err
	}, query, args...)
	return amounts, err
}
