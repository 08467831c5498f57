package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// SaveRate keeps a rate; the same source's of the same day is replaced.
func (s *SQLite) SaveRate(ctx context.Context, r ExchangeRate) error {
	_, err := s.write.ExecContext(ctx, `INSERT INTO exchange_rates (source, date, rate, fetched_at) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET rate = excluded.rate, fetched_at = excluded.fetched_at`,
		r.Source, r.Date.Format(time.DateOnly), int64(r.Rate), time.Now().UnixMicro())
	if err != nil {
		return fmt.Errorf("save the exchange rate of %s: %w", r.Source, err)
	}
	return nil
}

// LastRate is the rate that was saved last, and when; a zero rate when there is none.
func (s *SQLite) LastRate(ctx context.Context) (r ExchangeRate, savedAt time.Time, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT source, date, rate, fetched_at FROM exchange_rates
ORDER BY fetched_at DESC, source DESC LIMIT 1`).Scan(&r.Source, sqliteDate{&r.Date}, &r.Rate, sqliteInstant{&savedAt})
	if errors.Is(err, sql.ErrNoRows) {
		return ExchangeRate{}, time.Time{}, nil
	}
	if err != nil {
		return ExchangeRate{}, time.Time{}, fmt.Errorf("read the last exchange rate: %w", err)
	}
	return r, savedAt, nil
}

// ExchangeRates lists the rates that were saved last, newest first.
func (s *SQLite) ExchangeRates(ctx context.Context, limit int) ([]ExchangeRate, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT source, date, rate FROM exchange_rates ORDER BY fetched_at DESC, source DESC LIMIT ?", limit)
	if err != nil {
		return nil, fmt.Errorf("read exchange rates: %w", err)
	}
	defer rows.Close()
	var all []ExchangeRate
	for rows.Next() {
		var r ExchangeRate
		if err := rows.Scan(&r.Source, sqliteDate{&r.Date}, &r.Rate); err != nil {
			return nil, fmt.Errorf("read exchange rates: %w", err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read exchange rates: %w", err)
	}
	return all, nil
}
