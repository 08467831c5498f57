package budget

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// liteBudget selects a budget, under the name b.
const liteBudget = `SELECT b.id, coalesce(b.client_id, ''), b.budget_type, b.budget_period, b.budget_limit, b.pause_at_limit, b.billing_day,
	b.time_zone, b.starts_at, b.carry_over, b.carry_max, b.debt, b.alert_threshold_80, b.alert_threshold_90, b.alert_threshold_100, b.thresholds,
	coalesce(b.notification_email, ''), coalesce(b.notification_webhook, ''), b.paused, b.paused_reason, b.created_at, b.updated_at, b.deleted_at
FROM client_budgets b `

func liteScanBudget(scan func(...any) error) (b Budget, err error) {
	var thresholds string
	err = scan(&b.ID, &b.ClientID, (*string)(&b.Unit), (*string)(&b.Period), &b.Limit, &b.PauseAtLimit, &b.BillingDay,
		&b.TimeZone, liteMicros{&b.StartsAt}, &b.CarryOver, &b.CarryMax, &b.Debt, &b.Alert80, &b.Alert90, &b.Alert100, &thresholds,
		&b.Email, &b.Webhook, &b.Paused, &b.PausedReason, liteMicros{&b.CreatedAt}, liteMicros{&b.UpdatedAt}, liteMicros{&b.DeletedAt})
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal([]byte(thresholds), &b.Thresholds); err != nil {
		return b, fmt.Errorf("client_budgets.thresholds of %s: %w", b.ID, err)
	}
	if len(b.Thresholds) == 0 {
		b.Thresholds = nil
	}
	return b, nil
}

// Budgets implements Tx.
func (t *liteTx) Budgets(ctx context.Context, clients []uuid.UUID) ([]Budget, error) {
	return liteCollect(ctx, t.tx, liteScanBudget, liteBudget+"WHERE b.deleted_at IS NULL AND (b.client_id"+liteIn+"OR b.client_id IS NULL AND ?) ORDER BY b.id",
		liteList(clients), slices.Contains(clients, uuid.Nil))
}

// BudgetsByID implements Tx.
func (t *liteTx) BudgetsByID(ctx context.Context, ids []uuid.UUID) ([]Budget, error) {
	return liteCollect(ctx, t.tx, liteScanBudget, liteBudget+"WHERE b.deleted_at IS NULL AND b.id"+liteIn+"ORDER BY b.id", liteList(ids))
}

// DueBudgets implements Tx.
func (t *liteTx) DueBudgets(ctx context.Context, now time.Time, most int) ([]Budget, error) {
	return liteCollect(ctx, t.tx, liteScanBudget, liteBudget+`WHERE b.deleted_at IS NULL AND b.starts_at <= ?1
	AND NOT EXISTS (SELECT 1 FROM budget_windows w WHERE w.budget_id = b.id AND w.ends_at > ?1) ORDER BY b.id LIMIT ?2`, now.UnixMicro(), most)
}

// Policies implements Tx.
func (t *liteTx) Policies(ctx context.Context, clients []uuid.UUID) (map[uuid.UUID]*Policy, error) {
	policies := map[uuid.UUID]*Policy{}
	_, err := liteCollect(ctx, t.tx, func(scan func(...any) error) (p *Policy, err error) {
		var client uuid.UUID
		var document []byte
		if err := scan(&client, &document); err != nil {
			return nil, err
		}
		policies[client], err = decodePolicy(client, document)
		return nil, err
	}, "SELECT client_id, policy FROM budget_policies WHERE client_id"+liteIn, liteList(clients))
	return policies, err
}

// Budgets implements Store.
func (s *SQLite) Budgets(ctx context.Context, client *uuid.UUID) ([]Budget, error) {
	query, args := liteBudget+"WHERE b.deleted_at IS NULL", []any{}
	if client != nil {
		query, args = query+" AND b.client_id IS ?", append(args, liteClient(*client))
	}
	all, err := liteCollect(ctx, s.read, liteScanBudget, query+" ORDER BY b.client_id, b.budget_type, b.budget_period", args...)
	if err != nil {
		return nil, fmt.Errorf("list budgets: %w", err)
	}
	return all, nil
}

// Budget implements Store.
func (s *SQLite) Budget(ctx context.Context, id uuid.UUID) (Budget, error) {
	b, err := liteReadBudget(ctx, s.read, id)
	if err != nil {
		return Budget{}, fmt.Errorf("budget %s: %w", id, err)
	}
	return b, nil
}

func liteReadBudget(ctx context.Context, q liteReader, id uuid.UUID) (Budget, error) {
	all, err := liteCollect(ctx, q, liteScanBudget, liteBudget+"WHERE b.deleted_at IS NULL AND b.id = ?", id.String())
	if err != nil {
		return Budget{}, err
	}
	if len(all) == 0 {
		return Budget{}, ErrNotFound
	}
	return all[0], nil
}

// CreateBudget implements Store.
func (s *SQLite) CreateBudget(ctx context.Context, b Budget) (Budget, error) {
	err := s.update(ctx, func(t *liteTx) error {
		now, err := t.Now(ctx)
		if err != nil {
			return err
		}
		b = b.completed(now)
		start, end := Span(b.Period, b.BillingDay, b.zone(), b.StartsAt)
		shown := (&Window{TimeZone: b.TimeZone, StartsAt: start, EndsAt: end}).showing()
		_, err = t.tx.ExecContext(ctx, `INSERT INTO client_budgets (id, client_id, budget_type, budget_limit, budget_period, period_start_date, next_reset_at,
	alert_threshold_80, alert_threshold_90, alert_threshold_100, pause_at_limit, is_paused, notification_email, notification_webhook,
	time_zone, billing_day, starts_at, carry_over, carry_max, debt, thresholds, paused, paused_reason, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			b.ID.String(), liteClient(b.ClientID), string(b.Unit), b.Limit, string(b.Period), shown.since, shown.until.UnixMicro(),
			b.Alert80, b.Alert90, b.Alert100, b.PauseAtLimit, b.Paused, b.Email, b.Webhook,
			b.TimeZone, b.BillingDay, b.StartsAt.UnixMicro(), b.CarryOver, b.CarryMax, b.Debt, liteList(b.Thresholds), b.Paused, b.PausedReason,
			now.UnixMicro(), now.UnixMicro())
		if err != nil {
			return liteRefused(err)
		}
		var n int
		err = t.tx.QueryRowContext(ctx, "SELECT count(*) FROM client_budgets WHERE deleted_at IS NULL AND client_id IS ?", liteClient(b.ClientID)).Scan(&n)
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

// liteRefused says in our words why the database does not take a budget or a policy.
func liteRefused(err error) error {
	const unique, foreignKey = 2067, 787
	var coded interface{ Code() int }
	switch {
	case !errors.As(err, &coded):
	case coded.Code() == unique && strings.Contains(err.Error(), "client_budgets_one"):
		return ErrExists
	case coded.Code() == foreignKey:
		return fmt.Errorf("the client: %w", ErrNotFound)
	}
	return err
}

// UpdateBudget implements Store.
func (s *SQLite) UpdateBudget(ctx context.Context, b Budget) (after Budget, err error) {
	err = s.update(ctx, func(t *liteTx) error {
		was, err := liteReadBudget(ctx, t.tx, b.ID)
		if err != nil {
			return err
		}
		if !b.UpdatedAt.IsZero() && !b.UpdatedAt.Equal(was.UpdatedAt) {
			return ErrConflict
		}
		var began bool
		if err := t.tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM budget_windows WHERE budget_id = ?)", b.ID.String()).Scan(&began); err != nil {
			return err
		}
		now, err := t.Now(ctx)
		if err != nil {
			return err
		}
		after = was.changed(&b, began)
		if after.UpdatedAt = now; !now.After(was.UpdatedAt) {
			after.UpdatedAt = was.UpdatedAt.Add(time.Microsecond)
		}
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

// writeBudget writes all that may change of a budget.
func (t *liteTx) writeBudget(ctx context.Context, b *Budget) error {
	_, err := t.tx.ExecContext(ctx, `UPDATE client_budgets SET budget_limit = ?, alert_threshold_80 = ?, alert_threshold_90 = ?, alert_threshold_100 = ?,
	pause_at_limit = ?, notification_email = nullif(?, ''), notification_webhook = nullif(?, ''), time_zone = ?, billing_day = ?, starts_at = ?,
	carry_over = ?, carry_max = ?, debt = ?, thresholds = ?, paused = ?, paused_reason = ?, limit_version = limit_version + 1, updated_at = ?
WHERE id = ?`,
		b.Limit, b.Alert80, b.Alert90, b.Alert100, b.PauseAtLimit, b.Email, b.Webhook, b.TimeZone, b.BillingDay, b.StartsAt.UnixMicro(),
		b.CarryOver, b.CarryMax, b.Debt, liteList(b.Thresholds), b.Paused, b.PausedReason, b.UpdatedAt.UnixMicro(), b.ID.String())
	return err
}

// DeleteBudget implements Store.
func (s *SQLite) DeleteBudget(ctx context.Context, id uuid.UUID) error {
	now := time.Now().UnixMicro()
	done, err := s.write.ExecContext(ctx, "UPDATE client_budgets SET deleted_at = ?1, updated_at = max(?1, updated_at + 1) WHERE id = ?2 AND deleted_at IS NULL", now, id.String())
	if err == nil {
		var n int64
		if n, err = done.RowsAffected(); err == nil && n == 0 {
			err = ErrNotFound
		}
	}
	if err != nil {
		return fmt.Errorf("delete budget %s: %w", id, err)
	}
	return nil
}

// Policy implements Store.
func (s *SQLite) Policy(ctx context.Context, client uuid.UUID) (Policy, error) {
	var document []byte
	err := s.read.QueryRowContext(ctx, "SELECT policy FROM budget_policies WHERE client_id = ?", client.String()).Scan(&document)
	if errors.Is(err, sql.ErrNoRows) {
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
func (s *SQLite) SetPolicy(ctx context.Context, client uuid.UUID, policy Policy) error {
	document, err := encodePolicy(policy)
	if err == nil {
		_, err = s.write.ExecContext(ctx, `INSERT INTO budget_policies (client_id, policy, updated_at) VALUES (?, ?, ?)
ON CONFLICT (client_id) DO UPDATE SET policy = excluded.policy, updated_at = excluded.updated_at`, client.String(), document, time.Now().UnixMicro())
		err = liteRefused(err)
	}
	if err != nil {
		return fmt.Errorf("set the policy of client %s: %w", client, err)
	}
	return nil
}

// History implements Store.
func (s *SQLite) History(ctx context.Context, budget uuid.UUID, most int) ([]*Window, error) {
	ws, err := liteCollect(ctx, s.read, liteScanWindow, liteWindow+"WHERE w.budget_id = ? ORDER BY w.starts_at DESC LIMIT ?", budget.String(), most)
	if err != nil {
		return nil, fmt.Errorf("list windows of budget %s: %w", budget, err)
	}
	return ws, nil
}

// Entries implements Store.
func (s *SQLite) Entries(ctx context.Context, window int64, most int) ([]Entry, error) {
	all, err := liteCollect(ctx, s.read, func(scan func(...any) error) (e Entry, err error) {
		var incarnation int64
		err = scan(&e.Window, &incarnation, &e.Kind, &e.Amount, &e.Reason, liteMicros{&e.At})
		e.Incarnation = uint64(incarnation)
		return e, err
	}, "SELECT window_id, incarnation, kind, amount, reason, at FROM budget_journal WHERE window_id = ? ORDER BY id DESC LIMIT ?", window, most)
	if err != nil {
		return nil, fmt.Errorf("read the journal of window %d: %w", window, err)
	}
	return all, nil
}

// Alerts implements Store.
func (s *SQLite) Alerts(ctx context.Context, client *uuid.UUID, most int) ([]AlertStatus, error) {
	which, args := "", []any{}
	if client != nil {
		which, args = "WHERE a.client_id IS ? ", append(args, liteClient(*client))
	}
	all, err := liteCollect(ctx, s.read, func(scan func(...any) error) (a AlertStatus, err error) {
		a.Attempts = []Attempt{}
		err = scan(&a.ID, &a.Window, &a.BudgetID, &a.ClientID, &a.Threshold, &a.LimitVersion, &a.Limit, &a.Used, liteMicros{&a.At})
		return a, err
	}, `SELECT a.id, a.window_id, a.budget_id, coalesce(a.client_id, ''), a.threshold, a.limit_version, a.limit_amount, a.used_amount, a.at
FROM budget_alerts a `+which+"ORDER BY a.id DESC LIMIT ?", append(args, most)...)
	for i := range all {
		if err != nil {
			break
		}
		var tries []Attempt
		tries, err = liteCollect(ctx, s.read, func(scan func(...any) error) (t Attempt, err error) {
			err = scan(&t.Channel, &t.Try, liteMicros{&t.At}, &t.Status, &t.Error, &t.Done)
			return t, err
		}, "SELECT channel, try, at, status, error, done FROM budget_alert_attempts WHERE alert_id = ? ORDER BY at, channel, try", all[i].ID)
		all[i].Attempts = append(all[i].Attempts, tries...)
	}
	if err != nil {
		return nil, fmt.Errorf("list budget alerts: %w", err)
	}
	return all, nil
}
