package metering

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// SQLite is the ledger, the registry and the rates in a file, for one process.
type SQLite struct {
	write, read *sql.DB
	insert      string // SQL
	rollup      string
}

var _ Ledger = (*SQLite)(nil)

// NewSQLite uses a handle that writes, of one connection and with _txlock=immediate, and one that reads; they may be the
// same. The database has been migrated. The handles stay their owner's to close.
func NewSQLite(write, read *sql.DB) *SQLite {
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(logColumns)), ", ")
	names := make([]string, 0, len(rollupSums))
	added := make([]string, 0, len(rollupSums))
	for _, s := range rollupSums {
		names = append(names, s.name)
		added = append(added, s.name+" = u."+s.name+" + excluded."+s.name)
	}
	return &SQLite{
		write: write, read: read,
		insert: "INSERT INTO gateway_usage_logs (" + columnNames() + ") VALUES (" + marks + ") ON CONFLICT DO NOTHING",
		rollup: `INSERT INTO usage_rollups AS u (client_id, hour, model_registry_id, model_name, provider, route, endpoint, ` +
			strings.Join(names, ", ") + `, cost_usd, cost_usd_pico, cost_brl, cost_brl_pico)
VALUES (?, ?, ?, ?, ?, ?, ?, ` + strings.Repeat("?, ", len(names)) + `?, ?, ?, ?) ON CONFLICT DO UPDATE SET ` + strings.Join(added, ", ") + `,
	cost_usd = u.cost_usd + excluded.cost_usd + (u.cost_usd_pico + excluded.cost_usd_pico) / 1000000000000,
	cost_usd_pico = (u.cost_usd_pico + excluded.cost_usd_pico) % 1000000000000,
	cost_brl = u.cost_brl + excluded.cost_brl + (u.cost_brl_pico + excluded.cost_brl_pico) / 1000000000000,
	cost_brl_pico = (u.cost_brl_pico + excluded.cost_brl_pico) % 1000000000000`,
	}
}

// rollupKey is what usage_rollups is keyed by.
type rollupKey struct {
	client                          uuid.UUID
	hour                            int64 // microseconds
	model                           uuid.UUID
	name, provider, route, endpoint string
}

// rollupRow is what one batch adds to one row of usage_rollups.
type rollupRow struct {
	counts   Totals
	usd, brl splitMoney
}

// splitMoney is an amount as whole units and a rest below one, each far from overflow whatever is added up.
type splitMoney struct{ whole, pico int64 }

func (s *splitMoney) add(n nullInt64) {
	if n.Valid {
		s.pico += n.V % int64(money.Unit)
		s.whole += n.V/int64(money.Unit) + s.pico/int64(money.Unit)
		s.pico %= int64(money.Unit)
	}
}

// Record writes a batch: log, roll-ups and watermark in one transaction. See Ledger.
func (s *SQLite) Record(ctx context.Context, batch []Event) error {
	rows, err := newLogRows(batch)
	if err != nil || len(rows) == 0 {
		return err
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		fresh, err := receive(ctx, tx, rows)
		if err != nil {
			return err
		}
		sums, err := s.insertRows(ctx, tx, fresh)
		if err != nil {
			return err
		}
		return s.addToRollups(ctx, tx, sums)
	})
	if err != nil {
		return fmt.Errorf("record %d events: %w", len(rows), sqlitePermanent(err))
	}
	return nil
}

// sqlitePermanent marks what SQLite will refuse for ever: a broken constraint, a sum past 64 bits among them.
func sqlitePermanent(err error) error {
	const constraint = 19
	var coded interface{ Code() int }
	if errors.As(err, &coded) && coded.Code()&0xff == constraint {
		return fmt.Errorf("%w: %w", ErrUnrecordable, err)
	}
	return err
}

// receive moves the watermark and gives the rows that were new to it. The log needs no other guard: one process writes,
// and the watermark changes in the same transaction.
func receive(ctx context.Context, tx *sql.Tx, rows []logRow) ([]*logRow, error) {
	had := map[int64]Ranges{}
	var fresh []*logRow
	for i := range rows {
		r := &rows[i]
		ranges, ok := had[r.incarnation]
		if !ok {
			var err error
			if ranges, err = readReceived(ctx, tx, r.incarnation); err != nil {
				return nil, err
			}
		}
		if !ranges.Contains(uint64(r.seq)) {
			fresh = append(fresh, r)
			ranges = ranges.Add(uint64(r.seq))
		}
		had[r.incarnation] = ranges
	}
	for _, incarnation := range slices.Sorted(maps.Keys(had)) {
		if err := writeReceived(ctx, tx, incarnation, had[incarnation]); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// sqliteReader is a handle or a transaction.
type sqliteReader interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readReceived(ctx context.Context, db sqliteReader, incarnation int64) (Ranges, error) {
	var raw string
	err := db.QueryRowContext(ctx, "SELECT received FROM producers WHERE incarnation = ?", incarnation).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ranges [][2]uint64
	if err := json.Unmarshal([]byte(raw), &ranges); err != nil {
		return nil, fmt.Errorf("producers.received of %x: %w", uint64(incarnation), err)
	}
	return ranges, nil
}

func writeReceived(ctx context.Context, tx *sql.Tx, incarnation int64, ranges Ranges) error {
	raw, err := json.Marshal([][2]uint64(ranges))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO producers (incarnation, received) VALUES (?, ?)
ON CONFLICT DO UPDATE SET received = excluded.received, last_seen = CAST(unixepoch('subsec') * 1000000 AS INTEGER)`, incarnation, string(raw))
	return err
}

func (s *SQLite) insertRows(ctx context.Context, tx *sql.Tx, rows []*logRow) (map[rollupKey]*rollupRow, error) {
	sums := map[rollupKey]*rollupRow{}
	if len(rows) == 0 {
		return sums, nil
	}
	stmt, err := tx.PrepareContext(ctx, s.insert)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	args := make([]any, len(logColumns))
	for _, r := range rows {
		for i, c := range logColumns {
			args[i] = sqliteValue(c, r)
		}
		res, err := stmt.ExecContext(ctx, args...)
		if err != nil {
			return nil, err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			if err != nil {
				return nil, err
			}
			continue
		}
		key := rollupKey{r.ClientID, r.AdmittedAt.Truncate(time.Hour).UnixMicro(), r.ModelID, r.model, r.Provider, r.Route, r.Endpoint}
		if sums[key] == nil {
			sums[key] = &rollupRow{}
		}
		counts := r.count()
		if !sums[key].counts.add(&counts) {
			return nil, fmt.Errorf("%w: the counts of a batch do not fit 64 bits", ErrUnrecordable)
		}
		sums[key].usd.add(r.usd)
		sums[key].brl.add(r.brl)
	}
	return sums, nil
}

func (s *SQLite) addToRollups(ctx context.Context, tx *sql.Tx, sums map[rollupKey]*rollupRow) error {
	if len(sums) == 0 {
		return nil
	}
	stmt, err := tx.PrepareContext(ctx, s.rollup)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for k, row := range sums {
		args := []any{k.client.String(), k.hour, k.model.String(), k.name, k.provider, k.route, k.endpoint}
		for _, n := range row.counts.counters() {
			args = append(args, *n)
		}
		args = append(args, row.usd.whole, row.usd.pico, row.brl.whole, row.brl.pico)
		if _, err := stmt.ExecContext(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// sqliteValue is a column of a row as SQLite keeps it.
func sqliteValue(c logColumn, r *logRow) any {
	switch v := c.at(r).(type) {
	case *string:
		if *v == "" && c.kind != asText {
			return nil
		}
		return *v
	case *int64:
		if *v == 0 && c.kind == asRate {
			return nil
		}
		return *v
	case *bool:
		return *v
	case *uuid.UUID:
		if *v == uuid.Nil && c.kind == asIDOrNil {
			return nil
		}
		return v.String()
	case *time.Time:
		if c.kind == asDay {
			return sqliteDay(*v)
		}
		return v.UnixMicro()
	case *nullInt64:
		if !v.Valid {
			return nil
		}
		return v.V
	default:
		panic("BUG: column " + c.name + " has a type that no store knows")
	}
}

// sqliteDay is a date as SQLite keeps it; zero is null.
func sqliteDay(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Format(time.DateOnly)
}

// Received is the watermark of an incarnation. See Ledger.
func (s *SQLite) Received(ctx context.Context, incarnation uint64) (Ranges, error) {
	ranges, err := readReceived(ctx, s.read, int64(incarnation))
	if err != nil {
		return nil, fmt.Errorf("read the watermark: %w", err)
	}
	return ranges, nil
}

// DeadLetter keeps what can never be recorded. The same letter again changes nothing, nor does one whose event is in
// the log after all. See Ledger.
func (s *SQLite) DeadLetter(ctx context.Context, raw []byte, ev Event, reason string) error {
	l := newDeadLetter(raw, ev, reason)
	err := s.transact(ctx, func(tx *sql.Tx) error {
		if l.seq != 0 {
			had, err := readReceived(ctx, tx, l.incarnation)
			if err != nil || had.Contains(uint64(l.seq)) {
				return err
			}
			if err := writeReceived(ctx, tx, l.incarnation, had.Add(uint64(l.seq))); err != nil {
				return err
			}
		}
		var client any
		if l.client != uuid.Nil {
			client = l.client.String()
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO dead_letters
	(incarnation, seq, digest, raw, reason, client_id, total_tokens, cost_usd, cost_brl)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			l.incarnation, l.seq, l.digest, l.raw, l.reason, client, l.tokens, l.usd, l.brl)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep a dead letter: %w", err)
	}
	return nil
}

func (s *SQLite) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}
