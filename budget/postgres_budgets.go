package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pgBudget selects a budget, under the name b. Amounts are whole tokens, reais or dollars in the plan's columns, which
// may be null where somebody else wrote them.
const pgBudget = `SELECT b.id, coalesce(b.client_id, ` + pgNobody + `), b.budget_type, b.budget_period,
	(b.budget_limit * CASE b.budget_type WHEN 'tokens' THEN 1 ELSE 1000000000000 END)::int8,
	coalesce(b.pause_at_limit, false), b.billing_day, b.time_zone, b.starts_at, b.carry_over,
	(b.carry_max * CASE b.budget_type WHEN 'tokens' THEN 1 ELSE 1000000000000 END)::int8, b.debt,
	coalesce(b.alert_threshold_80, true), coalesce(b.alert_threshold_90, true), coalesce(b.alert_threshold_100, true), b.thresholds,
	coalesce(b.notification_email, ''), coalesce(b.notification_webhook, ''), b.paused, b.paused_reason,
	coalesce(b.created_at, b.starts_at), coalesce(b.updated_at, b.created_at, b.starts_at), b.deleted_at
FROM client_budgets b `

func pgScanBudget(row pgx.CollectableRow) (b Budget, err error) {
	var deleted *time.Time
	err = row.Scan(&b.ID, &b.ClientID, (*string)(&b.Unit), (*string)(&b.Period), &b.Limit, &b.PauseAtLimit, &b.BillingDay, &b.TimeZone,
		&b.StartsAt, &b.CarryOver, &b.CarryMax, &b.Debt, &b.Alert80, &b.Alert90, &b.Alert100, &b.Thresholds, &b.Email, &b.Webhook,
		&b.Paused, &b.PausedReason, &b.CreatedAt, &b.UpdatedAt, &deleted)
	b.StartsAt, b.CreatedAt, b.UpdatedAt = b.StartsAt.UTC(), b.CreatedAt.UTC(), b.UpdatedAt.UTC()
	if deleted != nil {
		b.DeletedAt = deleted.UTC()
	}
	if len(b.Thresholds) == 0 {
		b.Thresholds = nil
	}
	return b, err
}

// Budgets implements Tx.
func (t *pgTx) Budgets(ctx context.Context, clients []uuid.UUID) ([]Budget, error) {
	if err := t.standBehindBarrier(ctx); err != nil {
		return nil, err
	}
	rows, err := t.tx.Query(ctx, pgBudget+"WHERE b.deleted_at IS NULL AND (b.client_id = ANY($1) OR b.client_id IS NULL AND $2) ORDER BY b.id",
		clients, slices.Contains(clients, uuid.Nil))
	return pgCollect(rows, err, pgScanBudget)
}

// BudgetsByID implements Tx.
func (t *pgTx) BudgetsByID(ctx context.Context, ids []uuid.UUID) ([]Budget, error) {
	if err := t.standBehindBarrier(ctx); err != nil {
		return nil, err
	}
	rows, err := t.tx.Query(ctx, pgBudget+"WHERE b.deleted_at IS NULL AND b.id = ANY($1) ORDER BY b.id", ids)
	return pgCollect(rows, err, pgScanBudget)
}

// DueBudgets implements Tx.
func (t *pgTx) DueBudgets(ctx context.Context, now time.Time, most int) ([]Budget, error) {
	rows, err := t.tx.Query(ctx, pgBudget+`WHERE b.deleted_at IS NULL AND b.starts_at <= $1
	AND NOT EXISTS (SELECT FROM budget_windows w WHERE w.budget_id = b.id AND w.ends_at > $1) ORDER BY b.id LIMIT $2`, now, most)
	return pgCollect(rows, err, pgScanBudget)
}

// Policies implements Tx.
func (t *pgTx) Policies(ctx context.Context, clients []uuid.UUID) (map[uuid.UUID]*Policy, error) {
	rows, err := t.tx.Query(ctx, "SELECT client_id, policy FROM budget_policies WHERE client_id = ANY($1)", clients)
	if err != nil {
		return nil, err
	}
	policies := map[uuid.UUID]*Policy{}
	var client uuid.UUID
	var document []byte
	_, err = pgx.ForEachRow(rows, []any{&client, &document}, func() (err error) {
		policies[client], err = decodePolicy(client, document)
		return err
	})
	return policies, err
}

// Budgets implements Store.
func (p *Postgres) Budgets(ctx context.Context, client *uuid.UUID) ([]Budget, error) {
	rows, err := p.pool.Query(ctx, pgBudget+`WHERE b.deleted_at IS NULL AND ($1::uuid IS NULL OR coalesce(b.client_id, `+pgNobody+`) = $1)
ORDER BY b.client_id NULLS FIRST, b.budget_type, b.budget_period`, client)
	all, err := pgCollect(rows, err, pgScanBudget)
	if err != nil {
		return nil, fmt.Errorf("list budgets: %w", err)
	}
	return all, nil
}

// Budget implements Store.
func (p *Postgres) Budget(ctx context.Context, id uuid.UUID) (Budget, error) {
	rows, err := p.pool.Query(ctx, pgBudget+"WHERE b.deleted_at IS NULL AND b.id = $1", id)
	b, err := pgOne(rows, err, pgScanBudget)
	if err != nil {
		return Budget{}, fmt.Errorf("budget %s: %w", id, err)
	}
	return b, nil
}

// pgOne reads the one row of a query.
func pgOne[T any](rows pgx.Rows, err error, scan pgx.RowToFunc[T]) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	one, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return one, err
}

// CreateBudget implements Store.
func (p *Postgres) CreateBudget(ctx context.Context, b Budget) (Budget, error) {
	err := p.update(ctx, func(t *pgTx) error {
		// From the beginning, so that nobody sees the budget without its window.
		if err := t.takeAlone(ctx, pgBarrier); err != nil {
			return err
		}
		now, err := t.Now(ctx)
		if err != nil {
			return err
		}
		b = b.completed(now)
		start, end := Span(b.Period, b.BillingDay, b.zone(), orNow(b.StartsAt, now))
		shown := (&Window{TimeZone: b.TimeZone, StartsAt: start, EndsAt: end}).showing()
		_, err = t.tx.Exec(ctx, `INSERT INTO client_budgets (id, client_id, budget_type, budget_limit, budget_period, period_start_date, next_reset_at,
	alert_threshold_80, alert_threshold_90, alert_threshold_100, pause_at_limit, is_paused, notification_email, notification_webhook,
	time_zone, billing_day, starts_at, carry_over, carry_max, debt, thresholds, paused, paused_reason, created_at, updated_at)
VALUES ($1, $2, $3, trim_scale($4::int8 * CASE $3::text WHEN 'tokens' THEN 1 ELSE 0.000000000001 END), $5, $6::text::date, $7,
	$8, $9, $10, $11, $12, nullif($13, ''), nullif($14, ''),
	$15, $16, $17, $18, trim_scale($19::int8 * CASE $3::text WHEN 'tokens' THEN 1 ELSE 0.000000000001 END), $20, coalesce($21::int4[], '{}'), $12, $22, $23, $23)`,
			b.ID, pgClient(b.ClientID), string(b.Unit), b.Limit, string(b.Period), shown.since, shown.until,
			b.Alert80, b.Alert90, b.Alert100, b.PauseAtLimit, b.Paused, b.Email, b.Webhook,
			b.TimeZone, b.BillingDay, b.StartsAt, b.CarryOver, b.CarryMax, b.Debt, b.Thresholds, b.PausedReason, now)
		if err != nil {
			return pgRefused(err)
		}
		var n int
		err = t.tx.QueryRow(ctx, "SELECT count(*) FROM client_budgets WHERE deleted_at IS NULL AND client_id IS NOT DISTINCT FROM $1", pgClient(b.ClientID)).Scan(&n)
		if err == nil && n > MaxBudgets {
			err = ErrTooMany
		}
		if err != nil {
			return err
		}
		return begin(ctx, t, &b)
	})
	if err != nil {
		return Budget{}, fmt.Errorf("create budget: %w", err)
	}
	return b, nil
}

// pgRefused says in our words why the database does not take a budget or a policy.
func pgRefused(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == "23505" && pg.TableName == "client_budgets":
		return ErrExists
	case pg.Code == "23503":
		return fmt.Errorf("the client: %w", ErrNotFound)
	}
	return err
}

// UpdateBudget implements Store.
func (p *Postgres) UpdateBudget(ctx context.Context, b Budget) (after Budget, err error) {
	err = p.update(ctx, func(t *pgTx) error {
		rows, err := t.tx.Query(ctx, pgBudget+"WHERE b.deleted_at IS NULL AND b.id = $1 FOR UPDATE", b.ID)
		was, err := pgOne(rows, err, pgScanBudget)
		if err != nil {
			return err
		}
		if !b.UpdatedAt.IsZero() && !b.UpdatedAt.Equal(was.UpdatedAt) {
			return ErrConflict
		}
		var began bool
		if err := t.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM budget_windows WHERE budget_id = $1)", b.ID).Scan(&began); err != nil {
			return err
		}
		after = was.changed(&b, began)
		if err := t.writeBudget(ctx, &after); err != nil {
			return err
		}
		return t.showChange(ctx, &after)
	})
	if err != nil {
		return Budget{}, fmt.Errorf("update budget %s: %w", b.ID, err)
	}
	return after, nil
}

// writeBudget writes all that may change of a budget, and gives it a new UpdatedAt.
func (t *pgTx) writeBudget(ctx context.Context, b *Budget) error {
	err := t.tx.QueryRow(ctx, `UPDATE client_budgets SET
	budget_limit = trim_scale($2::int8 * CASE budget_type WHEN 'tokens' THEN 1 ELSE 0.000000000001 END),
	alert_threshold_80 = $3, alert_threshold_90 = $4, alert_threshold_100 = $5, pause_at_limit = $6,
	notification_email = nullif($7, ''), notification_webhook = nullif($8, ''), time_zone = $9, billing_day = $10, starts_at = $11,
	carry_over = $12, carry_max = trim_scale($13::int8 * CASE budget_type WHEN 'tokens' THEN 1 ELSE 0.000000000001 END), debt = $14,
	thresholds = coalesce($15::int4[], '{}'), paused = $16, paused_reason = $17, limit_version = limit_version + 1,
	updated_at = greatest(clock_timestamp(), coalesce(updated_at, 'epoch') + interval '1 microsecond')
WHERE id = $1 RETURNING updated_at`,
		b.ID, b.Limit, b.Alert80, b.Alert90, b.Alert100, b.PauseAtLimit, b.Email, b.Webhook, b.TimeZone, b.BillingDay, b.StartsAt,
		b.CarryOver, b.CarryMax, b.Debt, b.Thresholds, b.Paused, b.PausedReason).Scan(&b.UpdatedAt)
	b.UpdatedAt = b.UpdatedAt.UTC()
	return err
}

// DeleteBudget implements Store.
func (p *Postgres) DeleteBudget(ctx context.Context, id uuid.UUID) error {
	done, err := p.pool.Exec(ctx, "UPDATE client_budgets SET deleted_at = clock_timestamp(), updated_at = clock_timestamp() WHERE id = $1 AND deleted_at IS NULL", id)
	if err == nil && done.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete budget %s: %w", id, err)
	}
	return nil
}

// Policy implements Store.
func (p *Postgres) Policy(ctx context.Context, client uuid.UUID) (Policy, error) {
	var document []byte
	err := p.pool.QueryRow(ctx, "SELECT policy FROM budget_policies WHERE client_id = $1", client).Scan(&document)
	if errors.Is(err, pgx.ErrNoRows) {
		return Policy{}, nil
	}
	if err != nil {
		return Policy{}, fmt.Errorf("read the policy of client %s: %w", client, err)
	}
	policy, err := decodePolicy(client, document)
	if err != nil {
		return Policy{}, err
	}
	return *policy, nil
}

// SetPolicy implements Store.
func (p *Postgres) SetPolicy(ctx context.Context, client uuid.UUID, policy Policy) error {
	document, err := encodePolicy(policy)
	if err == nil {
		_, err = p.pool.Exec(ctx, `INSERT INTO budget_policies (client_id, policy) VALUES ($1, $2)
ON CONFLICT (client_id) DO UPDATE SET policy = excluded.policy, updated_at = now()`, client, document)
		err = pgRefused(err)
	}
	if err != nil {
		return fmt.Errorf("set the policy of client %s: %w", client, err)
	}
	return nil
}

// History implements Store.
func (p *Postgres) History(ctx context.Context, budget uuid.UUID, most int) ([]*Window, error) {
	rows, err := p.pool.Query(ctx, pgWindow+"WHERE w.budget_id = $1 ORDER BY w.starts_at DESC LIMIT $2", budget, most)
	ws, err := pgCollect(rows, err, pgScanWindow)
	if err != nil {
		return nil, fmt.Errorf("list windows of budget %s: %w", budget, err)
	}
	return ws, nil
}

// Entries implements Store.
func (p *Postgres) Entries(ctx context.Context, window int64, most int) ([]Entry, error) {
	rows, err := p.pool.Query(ctx, "SELECT window_id, incarnation, kind, amount, reason, at FROM budget_journal WHERE window_id = $1 ORDER BY id DESC LIMIT $2", window, most)
	all, err := pgCollect(rows, err, func(row pgx.CollectableRow) (e Entry, err error) {
		var incarnation int64
		err = row.Scan(&e.Window, &incarnation, &e.Kind, &e.Amount, &e.Reason, &e.At)
		e.Incarnation, e.At = uint64(incarnation), e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal of window %d: %w", window, err)
	}
	return all, nil
}

// Alerts implements Store.
func (p *Postgres) Alerts(ctx context.Context, client *uuid.UUID, most int) ([]AlertStatus, error) {
	rows, err := p.pool.Query(ctx, `SELECT a.id, a.window_id, a.budget_id, coalesce(a.client_id, `+pgNobody+`), a.threshold, a.limit_version,
	a.limit_amount, a.used_amount, a.at,
	coalesce((SELECT jsonb_agg(jsonb_build_object('channel', t.channel, 'try', t.try, 'at', t.at, 'status', t.status, 'error', t.error, 'done', t.done)
		ORDER BY t.at, t.channel, t.try) FROM budget_alert_attempts t WHERE t.alert_id = a.id), '[]')
FROM budget_alerts a WHERE $1::uuid IS NULL OR a.client_id IS NOT DISTINCT FROM nullif($1::uuid, `+pgNobody+`)
ORDER BY a.id DESC LIMIT $2`, client, most)
	all, err := pgCollect(rows, err, func(row pgx.CollectableRow) (s AlertStatus, err error) {
		var attempts []byte
		err = row.Scan(&s.ID, &s.Window, &s.BudgetID, &s.ClientID, &s.Threshold, &s.LimitVersion, &s.Limit, &s.Used, &s.At, &attempts)
		if err != nil {
			return s, err
		}
		s.At = s.At.UTC()
		err = json.Unmarshal(attempts, &s.Attempts)
		for i := range s.Attempts {
			s.Attempts[i].At = s.Attempts[i].At.UTC()
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list budget alerts: %w", err)
	}
	return all, nil
}
