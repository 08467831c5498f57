package budget

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"
)

var _ Outbox = (*SQLite)(nil)

// sqliteWaitingSQL is asked before a transaction that writes is begun, for that keeps other writers waiting.
const sqliteWaitingSQL = "SELECT EXISTS (SELECT 1 FROM budget_alerts WHERE deliver_at <= ?)"

const sqliteDueSQL = `SELECT a.id, a.window_id, a.budget_id, coalesce(a.client_id, ''), a.threshold, a.limit_version, a.limit_amount, a.used_amount, a.at,
	coalesce(nullif(s.name, ''), c.name, ''), coalesce(b.notification_email, ''), coalesce(b.notification_webhook, ''),
	coalesce(w.id, 0), coalesce(w.budget_type, ''), coalesce(w.budget_period, ''), coalesce(w.hard, 0), coalesce(w.time_zone, ''),
	coalesce(w.starts_at, a.at), coalesce(w.ends_at, a.at), coalesce(w.base, 0), coalesce(w.carried, 0), coalesce(w.topped_up, 0),
	coalesce(w.limit_version, 0), coalesce(w.spent, 0), coalesce(w.overrun, 0), coalesce(w.unheld, 0)
FROM budget_alerts a
LEFT JOIN budget_windows w ON w.id = a.window_id
LEFT JOIN client_budgets b ON b.id = a.budget_id
LEFT JOIN clients c ON c.id = a.client_id
LEFT JOIN client_settings s ON s.client_id = a.client_id
WHERE a.deliver_at <= ? ORDER BY a.deliver_at, a.id LIMIT ?`

// Due claims alerts that are due. See Outbox.
func (s *SQLite) Due(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Delivery, error) {
	if now.IsZero() {
		now = time.Now() // the file has no clock of its own
	}
	now = now.Truncate(time.Microsecond)
	var waiting bool
	if err := s.read.QueryRowContext(ctx, sqliteWaitingSQL, now.UnixMicro()).Scan(&waiting); err != nil || !waiting {
		return nil, sqliteOutboxError("alerts that are due", err)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, sqliteOutboxError("alerts that are due", err)
	}
	defer tx.Rollback()
	due, err := sqliteDue(ctx, tx, now, most)
	if err != nil {
		return nil, sqliteOutboxError("alerts that are due", err)
	}
	for i := range due {
		d := &due[i]
		d.Now, d.Until = now, now.Add(lease).Truncate(time.Microsecond)
		if _, err := tx.ExecContext(ctx, "UPDATE budget_alerts SET deliver_at = ? WHERE id = ?", d.Until.UnixMicro(), d.AlertID); err != nil {
			return nil, sqliteOutboxError("claim an alert", err)
		}
		if d.Attempts, err = sqliteAttempts(ctx, tx, d.AlertID); err != nil {
			return nil, sqliteOutboxError("attempts to deliver an alert", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, sqliteOutboxError("alerts that are due", err)
	}
	return due, nil
}

func sqliteOutboxError(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func sqliteDue(ctx context.Context, tx *sql.Tx, now time.Time, most int) ([]Delivery, error) {
	rows, err := tx.QueryContext(ctx, sqliteDueSQL, now.UnixMicro(), most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var due []Delivery
	for rows.Next() {
		var d Delivery
		var client string
		var at, starts, ends int64
		w := &d.Window
		err := rows.Scan(&d.AlertID, &d.Alert.Window, &d.BudgetID, &client, &d.Threshold, &d.LimitVersion, &d.Limit, &d.Used, &at,
			&d.Client, &d.Email, &d.Webhook,
			&w.ID, &w.Unit, &w.Period, &w.Hard, &w.TimeZone, &starts, &ends, &w.Base, &w.Carried, &w.ToppedUp,
			&w.LimitVersion, &w.Spent, &w.Overrun, &w.Unheld)
		if err != nil {
			return nil, err
		}
		if client != "" {
			if d.ClientID, err = uuid.Parse(client); err != nil {
				return nil, fmt.Errorf("budget_alerts.client_id of %d: %w", d.AlertID, err)
			}
		}
		d.At, w.StartsAt, w.EndsAt = time.UnixMicro(at).UTC(), time.UnixMicro(starts).UTC(), time.UnixMicro(ends).UTC()
		w.BudgetID, w.ClientID = d.BudgetID, d.ClientID
		due = append(due, d)
	}
	return due, rows.Err()
}

func sqliteAttempts(ctx context.Context, tx *sql.Tx, alert int64) (attempts []Attempt, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT channel, try, at, status, error, done FROM budget_alert_attempts WHERE alert_id = ? ORDER BY channel, try", alert)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a Attempt
		var at int64
		if err := rows.Scan(&a.Channel, &a.Try, &at, &a.Status, &a.Error, &a.Done); err != nil {
			return nil, err
		}
		a.At = time.UnixMicro(at).UTC()
		attempts = append(attempts, a)
	}
	return attempts, rows.Err()
}

// Record writes down tries. See Outbox.
func (s *SQLite) Record(ctx context.Context, d *Delivery, tries []Attempt, next time.Time) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return sqliteOutboxError("record attempts to deliver an alert", err)
	}
	defer tx.Rollback()
	for _, a := range tries {
		_, err := tx.ExecContext(ctx, `INSERT INTO budget_alert_attempts (alert_id, channel, try, at, status, error, done)
SELECT a.id, ?2, coalesce((SELECT max(try) FROM budget_alert_attempts WHERE alert_id = ?1 AND channel = ?2), 0) + 1, ?3, ?4, ?5, ?6
FROM budget_alerts a WHERE a.id = ?1`, d.AlertID, a.Channel, a.At.UnixMicro(), a.Status, a.Error, a.Done)
		if err != nil {
			return sqliteOutboxError("record attempts to deliver an alert", err)
		}
	}
	var at any
	if !next.IsZero() {
		at = next.UnixMicro()
	}
	if _, err := tx.ExecContext(ctx, "UPDATE budget_alerts SET deliver_at = ? WHERE id = ? AND deliver_at = ?", at, d.AlertID, d.Until.UnixMicro()); err != nil {
		return sqliteOutboxError("record attempts to deliver an alert", err)
	}
	return sqliteOutboxError("record attempts to deliver an alert", tx.Commit())
}

// HourlyUsage is what was used since a time. See Outbox.
func (s *SQLite) HourlyUsage(ctx context.Context, client uuid.UUID, unit Unit, from time.Time) ([]UsagePoint, error) {
	whole, pico := "total_tokens", "0"
	switch unit {
	case BRL:
		whole, pico = "cost_brl", "cost_brl_pico"
	case USD:
		whole, pico = "cost_usd", "cost_usd_pico"
	}
	query := "SELECT hour, sum(" + whole + "), sum(" + pico + ") FROM usage_rollups WHERE hour >= ?"
	args := []any{from.UnixMicro()}
	if client != uuid.Nil {
		query, args = query+" AND client_id = ?", append(args, client.String())
	}
	rows, err := s.read.QueryContext(ctx, query+" GROUP BY hour ORDER BY hour", args...)
	if err != nil {
		return nil, sqliteOutboxError("usage by the hour", err)
	}
	defer rows.Close()
	var points []UsagePoint
	for rows.Next() {
		var hour, n, fraction int64
		if err := rows.Scan(&hour, &n, &fraction); err != nil {
			return nil, sqliteOutboxError("usage by the hour", err)
		}
		if unit != Tokens {
			// What all clients together used may be more than an amount can hold, and no limit is that high.
			const pico = 1_000_000_000_000
			n = plus(min(MaxLimit/pico, n)*pico, fraction)
		}
		points = append(points, UsagePoint{Hour: time.UnixMicro(hour).UTC(), Used: min(n, MaxLimit)})
	}
	return points, sqliteOutboxError("usage by the hour", rows.Err())
}
