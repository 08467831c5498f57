package metering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// SaveRate keeps a rate; the same source's of the same day is replaced.
func (p *Postgres) SaveRate(ctx context.Context, r ExchangeRate) error {
	_, err := p.pool.Exec(ctx, `INSERT INTO exchange_rates (source, date, rate, fetched_at)
VALUES ($1, $2::date, $3::int8 * 0.00000001, clock_timestamp())
ON CONFLICT (source, date) DO UPDATE SET rate = excluded.rate, fetched_at = excluded.fetched_at`, r.Source, r.Date, int64(r.Rate))
	if err != nil {
		return fmt.Errorf("save the exchange rate of %s: %w", r.Source, err)
	}
	return nil
}

// LastRate is the rate that was saved last, and when; a zero rate when there is none.
func (p *Postgres) LastRate(ctx context.Context) (r ExchangeRate, savedAt time.Time, err error) {
	err = p.pool.QueryRow(ctx, `SELECT source, date, (rate * 100000000)::int8, fetched_at FROM exchange_rates
ORDER BY fetched_at DESC, source DESC LIMIT 1`).Scan(&r.Source, &r.Date, &r.Rate, &savedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return ExchangeRate{}, time.Time{}, nil
	}
	if err != nil {
		return ExchangeRate{}, time.Time{}, fmt.Errorf("read the last exchange rate: %w", err)
	}
	r.Date = r.Date.UTC()
	return r, savedAt.UTC(), nil
}

// ExchangeRates lists the rates that were saved last, newest first.
func (p *Postgres) ExchangeRates(ctx context.Context, limit int) ([]ExchangeRate, error) {
	rows, err := p.pool.Query(ctx, `SELECT source, date, (rate * 100000000)::int8 FROM exchange_rates
ORDER BY fetched_at DESC, source DESC LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("read exchange rates: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ExchangeRate, err error) {
		err = row.Scan(&r.Source, &r.Date, &r.Rate)
		r.Date = r.Date.UTC()
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read exchange rates: %w", err)
	}
	return all, nil
}
