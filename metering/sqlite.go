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
)

// SQLite is the ledger, the registry and the rates in a file, for one process.
type SQLite struct {
	write, read *sql.DB
	steps       []SQLiteStep
	insert      string // SQL
	rollup      string
}

var _ Ledger = (*SQLite)(nil)

// SQLiteStep is as PostgresStep.
type SQLiteStep func(ctx context.Context, tx *sql.Tx, fresh []Event) error

// NewSQLite uses a handle that writes, of one connection and with _txlock=immediate, and one that reads; they may be the
// same. The database has been migrated. The handles stay their owner's to close. The steps are taken in the transaction
// of Record and of Correct.
func NewSQLite(write, read *sql.DB, steps ...SQLiteStep) *SQLite {
	return &SQLite{write: write, read: read, steps: steps, insert: sqliteInsertSQL(logColumns), rollup: sqliteRollupSQL()}
}

func sqliteInsertSQL(columns []logColumn) string {
	return "INSERT INTO gateway_usage_logs (" + columnNames(columns) + ") VALUES (" + sqliteMarks(len(columns)) + ") ON CONFLICT DO NOTHING"
}

// sqliteMarks is n places of arguments.
func sqliteMarks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

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
		if fresh, err = insertSQLite(ctx, tx, s.insert, logColumns, fresh); err != nil {
			return err
		}
		return s.settle(ctx, tx, fresh)
	})
	if err != nil {
		return fmt.Errorf("record %d events: %w", len(rows), sqlitePermanent(err))
	}
	return nil
}

// settle changes all that follows from fresh rows.
func (s *SQLite) settle(ctx context.Context, tx *sql.Tx, fresh []*logRow) error {
	if len(fresh) == 0 {
		return nil
	}
	c := fold(fresh)
	if err := s.change(ctx, tx, &c); err != nil {
		return err
	}
	if len(s.steps) == 0 {
		return nil
	}
	events := freshEvents(fresh)
	for _, step := range s.steps {
		if err := step(ctx, tx, events); err != nil {
			return err
		}
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

// insertSQLite writes rows into the log and gives those that it did not have.
func insertSQLite(ctx context.Context, tx *sql.Tx, query string, columns []logColumn, rows []*logRow) (fresh []*logRow, err error) {
	if len(rows) == 0 {
		return nil, nil
	}
	stmt, err := tx.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	args := make([]any, len(columns))
	for _, r := range rows {
		for i, c := range columns {
			args[i] = sqliteValue(c, r)
		}
		res, err := stmt.ExecContext(ctx, args...)
		if err != nil {
			return nil, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return nil, err
		}
		if n > 0 {
			fresh = append(fresh, r)
		}
	}
	return fresh, nil
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
