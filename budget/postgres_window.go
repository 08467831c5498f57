package budget

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Windows implements Tx.
func (t *pgTx) Windows(ctx context.Context, ids []int64) ([]*Window, error) {
	rows, err := t.tx.Query(ctx, pgWindow+"WHERE w.id = ANY($1) ORDER BY w.id FOR UPDATE", ids)
	return pgCollect(rows, err, pgScanWindow)
}

// WindowsOf implements Tx.
func (t *pgTx) WindowsOf(ctx context.Context, budgets []uuid.UUID, after time.Time) ([]*Window, error) {
	rows, err := t.tx.Query(ctx, pgWindow+"WHERE w.budget_id = ANY($1) AND w.ends_at > $2 ORDER BY w.starts_at, w.id", budgets, after)
	return pgCollect(rows, err, pgScanWindow)
}

// LastWindows implements Tx.
func (t *pgTx) LastWindows(ctx context.Context, budgets []uuid.UUID, before time.Time) ([]*Window, error) {
	rows, err := t.tx.Query(ctx, `SELECT w.* FROM (SELECT DISTINCT unnest($1::uuid[]) AS id) b CROSS JOIN LATERAL (
	`+pgWindow+`WHERE w.budget_id = b.id AND w.starts_at < $2 ORDER BY w.starts_at DESC LIMIT 1) w ORDER BY w.id`, budgets, before)
	return pgCollect(rows, err, pgScanWindow)
}

// States implements Tx.
func (t *pgTx) States(ctx context.Context, ids []int64, incarnation uint64, changed time.Time) ([]*Window, error) {
	// What the planner makes of all in one is a second's work with twenty thousand leases: it compares each window that
	// changed with each of them.
	const leased = `SELECT window_id FROM budget_leases l WHERE incarnation = $2 AND NOT closed AND granted - returned - settled - doubted > 0`
	var rows pgx.Rows
	var err error
	switch {
	case incarnation == 0:
		rows, err = t.tx.Query(ctx, pgWindow+"WHERE w.changed_at > $2 AND w.id = ANY($1) ORDER BY w.id", ids, changed)
	case changed.IsZero():
		rows, err = t.tx.Query(ctx, pgWindow+"WHERE w.id = ANY(ARRAY(SELECT unnest($1::int8[]) UNION "+leased+")) ORDER BY w.id", ids, int64(incarnation))
	default:
		rows, err = t.tx.Query(ctx, "WITH changed AS MATERIALIZED ("+pgWindow+"WHERE w.changed_at > $3 AND NOT w.sealed) SELECT * FROM changed w "+
			"WHERE EXISTS ("+leased+" AND l.window_id = w.id) UNION "+pgWindow+"WHERE w.changed_at > $3 AND w.id = ANY($1) ORDER BY 1", ids, int64(incarnation), changed)
	}
	return pgCollect(rows, err, pgScanWindow)
}

// DueWindows implements Tx.
func (t *pgTx) DueWindows(ctx context.Context, now time.Time, most int) ([]int64, error) {
	rows, err := t.tx.Query(ctx, `SELECT w.id FROM budget_windows w
WHERE NOT w.sealed AND w.ends_at <= $1 AND (w.held = 0 AND w.suspense = 0 OR w.ends_at <= $2)
	AND NOT EXISTS (SELECT FROM budget_windows o WHERE o.budget_id = w.budget_id AND NOT o.sealed AND o.starts_at < w.starts_at)
ORDER BY w.ends_at, w.id LIMIT $3`, now, now.Add(-SealAfter), most)
	return pgCollect(rows, err, pgx.RowTo[int64])
}

// OpenWindows implements Tx.
func (t *pgTx) OpenWindows(ctx context.Context, ws []*Window) ([]*Window, []bool, error) {
	there, err := t.Windows(ctx, column(ws, (*Window).id))
	if err != nil {
		return nil, nil, err
	}
	if len(there) == len(ws) {
		return arranged(ws, there, nil)
	}
	missing := slices.DeleteFunc(slices.Clone(ws), func(w *Window) bool {
		return slices.ContainsFunc(there, func(o *Window) bool { return o.ID == w.ID })
	})
	if err := t.passBarrier(ctx, missing); err != nil {
		return nil, nil, err
	}
	inserted, err := t.insertWindows(ctx, missing)
	if err != nil {
		return nil, nil, err
	}
	if len(inserted) > 0 {
		if err := pgPlainly(ctx, t.tx); err != nil {
			return nil, nil, err
		}
		// A statement of its own, for it must see what was committed while the barrier was waited for.
		if _, err := t.tx.Exec(ctx, pgUnheldSQL, inserted); err != nil {
			return nil, nil, fmt.Errorf("sum the usage of before: %w", err)
		}
	}
	more, err := t.Windows(ctx, column(missing, (*Window).id))
	if err != nil {
		return nil, nil, err
	}
	return arranged(ws, append(there, more...), inserted)
}

func (w *Window) id() int64 { return w.ID }

// passBarrier has the barrier for the first window of a budget. See Postgres.
func (t *pgTx) passBarrier(ctx context.Context, ws []*Window) error {
	var first bool
	err := t.tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM unnest($1::uuid[]) AS b (id)
	WHERE NOT EXISTS (SELECT FROM budget_windows w WHERE w.budget_id = b.id))`,
		column(ws, func(w *Window) uuid.UUID { return w.BudgetID })).Scan(&first)
	if err != nil || !first {
		return err
	}
	return t.needAlone(ctx, pgBarrier)
}

// pgInsertWindowSQL inserts windows in the order of their ids, so that two who open the same ones do not wait for each
// other, and gives those that were not there.
var pgInsertWindowSQL = func() string {
	types := []string{
		"int8", "uuid", "uuid", "text", "text", "bool", "text", "timestamptz", "timestamptz",
		"int8", "int8", "int8", "int8", "int8", "int8", "int8", "int8", "int8", "int8",
		"int8", "bool", "int4", "bool", "timestamptz",
	}
	for i, typ := range types {
		types[i] = "$" + strconv.Itoa(i+1) + "::" + typ + "[]"
	}
	columns := strings.Join(windowColumns, ", ")
	return "INSERT INTO budget_windows (" + columns + ")\nSELECT " + columns + " FROM unnest(" + strings.Join(types, ", ") + ") AS x (" +
		columns + ")\nORDER BY id ON CONFLICT (id) DO NOTHING RETURNING id"
}()

func (t *pgTx) insertWindows(ctx context.Context, ws []*Window) ([]int64, error) {
	now, err := t.Now(ctx)
	if err != nil {
		return nil, err
	}
	amount := func(of func(*Window) int64) []int64 { return column(ws, of) }
	rows, err := t.tx.Query(ctx, pgInsertWindowSQL,
		amount((*Window).id), column(ws, func(w *Window) uuid.UUID { return w.BudgetID }),
		column(ws, func(w *Window) *uuid.UUID { return pgClient(w.ClientID) }),
		column(ws, func(w *Window) string { return string(w.Unit) }), column(ws, func(w *Window) string { return string(w.Period) }),
		column(ws, func(w *Window) bool { return w.Hard }), column(ws, func(w *Window) string { return w.TimeZone }),
		column(ws, func(w *Window) time.Time { return w.StartsAt }), column(ws, func(w *Window) time.Time { return w.EndsAt }),
		amount(func(w *Window) int64 { return w.Base }), amount(func(w *Window) int64 { return w.Carried }),
		amount(func(w *Window) int64 { return w.ToppedUp }), amount(func(w *Window) int64 { return w.LimitVersion }),
		amount(func(w *Window) int64 { return w.Committed }), amount(func(w *Window) int64 { return w.Spent }),
		amount(func(w *Window) int64 { return w.Held }), amount(func(w *Window) int64 { return w.Suspense }),
		amount(func(w *Window) int64 { return w.Overrun }), amount(func(w *Window) int64 { return w.Unheld }),
		amount(func(w *Window) int64 { return w.Recall }), column(ws, func(w *Window) bool { return w.Exact }),
		column(ws, func(w *Window) int32 { return int32(w.Alerted) }), column(ws, func(w *Window) bool { return w.Sealed }),
		column(ws, func(w *Window) time.Time { return orNow(w.Since, now) }))
	return pgCollect(rows, err, pgx.RowTo[int64])
}

// pgUnheldSQL counts for new windows what the log has: of their client, or of all; but not calls that hold something of
// another window of the same budget, which are counted there. It is written twice, so that each half finds its index.
var pgUnheldSQL = func() string {
	half := func(of, whose string) string {
		return `SELECT w.id, g.tokens, g.brl, g.usd FROM budget_windows w CROSS JOIN LATERAL (
	SELECT sum(g.total_tokens) AS tokens, sum(g.cost_brl) AS brl, sum(g.cost_usd) AS usd FROM gateway_usage_logs g
	WHERE ` + whose + `g.created_at >= w.starts_at AND g.created_at < w.ends_at
		AND (g.budget_holds IS NULL OR NOT EXISTS (SELECT FROM jsonb_array_elements(g.budget_holds) h
			JOIN budget_windows o ON o.id = (h ->> 0)::int8 WHERE o.budget_id = w.budget_id))) g
WHERE w.id = ANY($1) AND w.client_id IS ` + of
	}
	return `UPDATE budget_windows w SET unheld = least(4611686018427387903, coalesce(CASE w.budget_type
	WHEN 'tokens' THEN x.tokens WHEN 'brl' THEN x.brl * 1000000000000 ELSE x.usd * 1000000000000 END, 0))::int8
FROM (
` + half("NOT NULL", "g.client_id = w.client_id AND ") + "\nUNION ALL\n" + half("NULL", "") + `
) x WHERE w.id = x.id`
}()

// SaveWindows implements Tx.
func (t *pgTx) SaveWindows(ctx context.Context, ws []*Window) error {
	if len(ws) == 0 {
		return nil
	}
	amount := func(of func(*Window) int64) []int64 { return column(ws, of) }
	done, err := t.tx.Exec(ctx, `UPDATE budget_windows w SET
	hard = x.hard, base = x.base, carried = x.carried, topped_up = x.topped_up, limit_version = x.limit_version,
	committed = x.committed, spent = x.spent, held = x.held, suspense = x.suspense, overrun = x.overrun, unheld = x.unheld,
	recall = x.recall, exact = x.exact, alerted = x.alerted, sealed = x.sealed, changed_at = coalesce(x.changed_at, clock_timestamp())
FROM unnest($1::int8[], $2::bool[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
	$10::int8[], $11::int8[], $12::int8[], $13::int8[], $14::bool[], $15::int4[], $16::bool[], $17::timestamptz[])
	AS x (id, hard, base, carried, topped_up, limit_version, committed, spent, held, suspense, overrun, unheld, recall, exact, alerted, sealed, changed_at)
WHERE w.id = x.id`,
		amount((*Window).id), column(ws, func(w *Window) bool { return w.Hard }),
		amount(func(w *Window) int64 { return w.Base }), amount(func(w *Window) int64 { return w.Carried }),
		amount(func(w *Window) int64 { return w.ToppedUp }), amount(func(w *Window) int64 { return w.LimitVersion }),
		amount(func(w *Window) int64 { return w.Committed }), amount(func(w *Window) int64 { return w.Spent }),
		amount(func(w *Window) int64 { return w.Held }), amount(func(w *Window) int64 { return w.Suspense }),
		amount(func(w *Window) int64 { return w.Overrun }), amount(func(w *Window) int64 { return w.Unheld }),
		amount(func(w *Window) int64 { return w.Recall }), column(ws, func(w *Window) bool { return w.Exact }),
		column(ws, func(w *Window) int32 { return int32(w.Alerted) }), column(ws, func(w *Window) bool { return w.Sealed }),
		column(ws, func(w *Window) *time.Time { return pgTime(w.Since) }))
	if err == nil && done.RowsAffected() != int64(len(ws)) {
		err = fmt.Errorf("only %d of %d windows were there to be saved", done.RowsAffected(), len(ws))
	}
	return err
}
