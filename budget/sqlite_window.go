package budget

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Windows implements Tx.
func (t *liteTx) Windows(ctx context.Context, ids []int64) ([]*Window, error) {
	return liteCollect(ctx, t.tx, liteScanWindow, liteWindow+"WHERE w.id"+liteIn+"ORDER BY w.id", liteList(ids))
}

// WindowsOf implements Tx.
func (t *liteTx) WindowsOf(ctx context.Context, budgets []uuid.UUID, after time.Time) ([]*Window, error) {
	return liteCollect(ctx, t.tx, liteScanWindow, liteWindow+"WHERE w.budget_id"+liteIn+"AND w.ends_at > ? ORDER BY w.starts_at, w.id",
		liteList(budgets), after.UnixMicro())
}

// LastWindows implements Tx.
func (t *liteTx) LastWindows(ctx context.Context, budgets []uuid.UUID, before time.Time) ([]*Window, error) {
	return liteCollect(ctx, t.tx, liteScanWindow, liteWindow+`WHERE w.id IN (
	SELECT (SELECT o.id FROM budget_windows o WHERE o.budget_id = b.value AND o.starts_at < ? ORDER BY o.starts_at DESC LIMIT 1)
	FROM json_each(?) b)
ORDER BY w.id`, before.UnixMicro(), liteList(budgets))
}

// States implements Tx.
func (t *liteTx) States(ctx context.Context, ids []int64, incarnation uint64, changed time.Time) ([]*Window, error) {
	return liteCollect(ctx, t.tx, liteScanWindow, liteWindow+`WHERE w.changed_at > ? AND w.id IN (
	SELECT value FROM json_each(?)
	UNION SELECT window_id FROM budget_leases WHERE incarnation = ? AND NOT closed AND granted - returned - settled - doubted > 0)
ORDER BY w.id`, changed.UnixMicro(), liteList(ids), int64(incarnation))
}

// DueWindows implements Tx.
func (t *liteTx) DueWindows(ctx context.Context, now time.Time, most int) ([]int64, error) {
	return liteCollect(ctx, t.tx, liteScanID, `SELECT w.id FROM budget_windows w
WHERE NOT w.sealed AND w.ends_at <= ? AND (w.held = 0 AND w.suspense = 0 OR w.ends_at <= ?)
	AND NOT EXISTS (SELECT 1 FROM budget_windows o WHERE o.budget_id = w.budget_id AND NOT o.sealed AND o.starts_at < w.starts_at)
ORDER BY w.ends_at, w.id LIMIT ?`, now.UnixMicro(), now.Add(-SealAfter).UnixMicro(), most)
}

// OpenWindows implements Tx.
func (t *liteTx) OpenWindows(ctx context.Context, ws []*Window) ([]*Window, []bool, error) {
	ids := column(ws, (*Window).id)
	there, err := t.Windows(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	missing := slices.DeleteFunc(slices.Clone(ws), func(w *Window) bool {
		return slices.ContainsFunc(there, func(o *Window) bool { return o.ID == w.ID })
	})
	if len(missing) == 0 {
		return arranged(ws, there, nil)
	}
	now, err := t.Now(ctx)
	if err != nil {
		return nil, nil, err
	}
	insert := "INSERT INTO budget_windows (" + strings.Join(windowColumns, ", ") + ") VALUES (" +
		strings.TrimSuffix(strings.Repeat("?, ", len(windowColumns)), ", ") + ")"
	_, err = liteEach(ctx, t, missing, insert, func(w *Window) []any {
		return []any{
			w.ID, w.BudgetID.String(), liteClient(w.ClientID), string(w.Unit), string(w.Period), w.Hard, w.TimeZone,
			w.StartsAt.UnixMicro(), w.EndsAt.UnixMicro(), w.Base, w.Carried, w.ToppedUp, w.LimitVersion, w.Committed,
			w.Spent, w.Held, w.Suspense, w.Overrun, w.Unheld, w.Recall, w.Exact, w.Alerted, w.Sealed, orNow(w.Since, now).UnixMicro(),
		}
	})
	if err != nil {
		return nil, nil, err
	}
	inserted := column(missing, (*Window).id)
	for _, half := range []string{"g.client_id = w.client_id AND ", ""} {
		which := "AND w.client_id IS NULL"
		if half != "" {
			which = "AND w.client_id IS NOT NULL"
		}
		_, err := t.tx.ExecContext(ctx, "UPDATE budget_windows AS w SET unheld = ("+liteUnheld(half)+") WHERE w.id"+liteIn+which, liteList(inserted))
		if err != nil {
			return nil, nil, fmt.Errorf("sum the usage of before: %w", err)
		}
	}
	if there, err = t.Windows(ctx, ids); err != nil {
		return nil, nil, err
	}
	return arranged(ws, there, inserted)
}

// liteUnheld counts what the log has for a window w: of its client, or of all; but not calls that hold something of
// another window of the same budget, which are counted there. Amounts are summed in two parts, because one 64-bit sum may
// not hold them, and SQLite refuses one that overflows.
func liteUnheld(whose string) string {
	return `SELECT CAST(min(4611686018427387903, coalesce(sum(x.amount / 1000000) * 1000000 + sum(x.amount % 1000000), 0)) AS INTEGER) FROM (
	SELECT CASE w.budget_type WHEN 'tokens' THEN g.total_tokens WHEN 'brl' THEN g.cost_brl ELSE g.cost_usd END AS amount
	FROM gateway_usage_logs g WHERE ` + whose + `g.created_at >= w.starts_at AND g.created_at < w.ends_at
		AND (g.budget_holds IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(g.budget_holds) h
			JOIN budget_windows o ON o.id = json_extract(h.value, '$[0]') WHERE o.budget_id = w.budget_id))) x`
}

// SaveWindows implements Tx.
func (t *liteTx) SaveWindows(ctx context.Context, ws []*Window) error {
	now, err := t.Now(ctx)
	if err != nil {
		return err
	}
	saved, err := liteEach(ctx, t, ws, `UPDATE budget_windows SET hard = ?, base = ?, carried = ?, topped_up = ?, limit_version = ?, committed = ?,
	spent = ?, held = ?, suspense = ?, overrun = ?, unheld = ?, recall = ?, exact = ?, alerted = ?, sealed = ?, changed_at = ? WHERE id = ?`,
		func(w *Window) []any {
			return []any{
				w.Hard, w.Base, w.Carried, w.ToppedUp, w.LimitVersion, w.Committed, w.Spent, w.Held, w.Suspense, w.Overrun, w.Unheld,
				w.Recall, w.Exact, w.Alerted, w.Sealed, orNow(w.Since, now).UnixMicro(), w.ID,
			}
		})
	if err == nil && saved != int64(len(ws)) {
		err = fmt.Errorf("only %d of %d windows were there to be saved", saved, len(ws))
	}
	return err
}

func liteScanID(scan func(...any) error) (id int64, err error) {
	err = scan(&id)
	return id, err
}
