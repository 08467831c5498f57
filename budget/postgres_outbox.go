package budget

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var _ Outbox = (*Postgres)(nil)

// pgDueSQL claims alerts and tells what there is to tell. One that another process is about to claim is passed by. For
// to_jsonb see tenancy: the table clients may be the SaaS's, with or without a name.
const pgDueSQL = `WITH clock AS MATERIALIZED (
	SELECT coalesce($1::timestamptz, clock_timestamp()) AS now
), due AS (
	SELECT id FROM budget_alerts WHERE deliver_at <= (SELECT now FROM clock)
	ORDER BY deliver_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
), claimed AS (
	UPDATE budget_alerts a SET deliver_at = clock.now + $2::interval FROM due, clock WHERE a.id = due.id
	RETURNING a.*, clock.now
)
SELECT a.id, a.window_id, a.budget_id, coalesce(a.client_id, $4), a.threshold, a.limit_version, a.limit_amount, a.used_amount, a.at,
	a.now, a.deliver_at, coalesce(nullif(s.name, ''), to_jsonb(c) ->> 'name', ''),
	coalesce(b.notification_email, ''), coalesce(b.notification_webhook, ''),
	coalesce(w.id, 0), coalesce(w.budget_type, ''), coalesce(w.budget_period, ''), coalesce(w.hard, false), coalesce(w.time_zone, ''),
	coalesce(w.starts_at, a.at), coalesce(w.ends_at, a.at), coalesce(w.base, 0), coalesce(w.carried, 0), coalesce(w.topped_up, 0),
	coalesce(w.limit_version, 0), coalesce(w.spent, 0), coalesce(w.overrun, 0), coalesce(w.unheld, 0)
FROM claimed a
LEFT JOIN budget_windows w ON w.id = a.window_id
LEFT JOIN client_budgets b ON b.id = a.budget_id
LEFT JOIN clients c ON c.id = a.client_id
LEFT JOIN client_settings s ON s.client_id = a.client_id
ORDER BY a.id`

// Due claims alerts that are due. See Outbox.
func (p *Postgres) Due(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Delivery, error) {
	var at *time.Time
	if !now.IsZero() {
		at = &now
	}
	rows, err := p.pool.Query(ctx, pgDueSQL, at, lease, most, uuid.Nil)
	if err != nil {
		return nil, fmt.Errorf("alerts that are due: %w", err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Delivery, err error) {
		w := &d.Window
		err = row.Scan(&d.AlertID, &d.Alert.Window, &d.BudgetID, &d.ClientID, &d.Threshold, &d.LimitVersion, &d.Limit, &d.Used, &d.At,
			&d.Now, &d.Until, &d.Client, &d.Email, &d.Webhook,
			&w.ID, &w.Unit, &w.Period, &w.Hard, &w.TimeZone, &w.StartsAt, &w.EndsAt, &w.Base, &w.Carried, &w.ToppedUp,
			&w.LimitVersion, &w.Spent, &w.Overrun, &w.Unheld)
		w.BudgetID, w.ClientID = d.BudgetID, d.ClientID
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("alerts that are due: %w", err)
	}
	return due, p.attempts(ctx, due)
}

// attempts adds to deliveries what was tried so far.
func (p *Postgres) attempts(ctx context.Context, due []Delivery) error {
	if len(due) == 0 {
		return nil
	}
	of := map[int64]*Delivery{}
	var ids []int64
	for i := range due {
		of[due[i].AlertID] = &due[i]
		ids = append(ids, due[i].AlertID)
	}
	rows, err := p.pool.Query(ctx, `SELECT alert_id, channel, try, at, status, error, done FROM budget_alert_attempts
WHERE alert_id = ANY ($1) ORDER BY alert_id, channel, try`, ids)
	if err != nil {
		return fmt.Errorf("attempts to deliver alerts: %w", err)
	}
	var id int64
	var a Attempt
	_, err = pgx.ForEachRow(rows, []any{&id, &a.Channel, &a.Try, &a.At, &a.Status, &a.Error, &a.Done}, func() error {
		of[id].Attempts = append(of[id].Attempts, a)
		return nil
	})
	if err != nil {
		return fmt.Errorf("attempts to deliver alerts: %w", err)
	}
	return nil
}

// Record writes down tries. See Outbox.
func (p *Postgres) Record(ctx context.Context, d *Delivery, tries []Attempt, next time.Time) error {
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		// The lock makes the numbers of two that record at once differ.
		err := tx.QueryRow(ctx, "SELECT FROM budget_alerts WHERE id = $1 FOR UPDATE", d.AlertID).Scan()
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, a := range tries {
			_, err := tx.Exec(ctx, `INSERT INTO budget_alert_attempts (alert_id, channel, try, at, status, error, done)
SELECT $1, $2, coalesce(max(try), 0) + 1, $3, $4, $5, $6 FROM budget_alert_attempts WHERE alert_id = $1 AND channel = $2`,
				d.AlertID, a.Channel, a.At, a.Status, a.Error, a.Done)
			if err != nil {
				return err
			}
		}
		var at *time.Time
		if !next.IsZero() {
			at = &next
		}
		_, err = tx.Exec(ctx, "UPDATE budget_alerts SET deliver_at = $3 WHERE id = $1 AND deliver_at = $2", d.AlertID, d.Until, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("record attempts to deliver an alert: %w", err)
	}
	return nil
}

// HourlyUsage is what was used since a time. See Outbox.
func (p *Postgres) HourlyUsage(ctx context.Context, client uuid.UUID, unit Unit, from time.Time) ([]UsagePoint, error) {
	amount := "sum(total_tokens)"
	switch unit {
	case BRL:
		amount = "sum(cost_brl) * 1000000000000"
	case USD:
		amount = "sum(cost_usd) * 1000000000000"
	}
	query, args := "SELECT hour, round("+amount+")::text FROM usage_rollups WHERE hour >= $1", []any{from}
	if client != uuid.Nil {
		query, args = query+" AND client_id = $2", append(args, client)
	}
	rows, err := p.pool.Query(ctx, query+" GROUP BY hour ORDER BY hour", args...)
	if err != nil {
		return nil, fmt.Errorf("usage by the hour: %w", err)
	}
	var points []UsagePoint
	var hour time.Time
	var used string
	_, err = pgx.ForEachRow(rows, []any{&hour, &used}, func() error {
		n, ok := new(big.Int).SetString(used, 10)
		if !ok {
			return fmt.Errorf("an amount is %.40q", used)
		}
		// What all clients together used may be more than an amount can hold, and no limit is that high.
		point := UsagePoint{Hour: hour, Used: MaxLimit}
		if n.IsInt64() {
			point.Used = min(n.Int64(), MaxLimit)
		}
		points = append(points, point)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("usage by the hour: %w", err)
	}
	return points, nil
}
