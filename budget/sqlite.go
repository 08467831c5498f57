package budget

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// SQLite is the books in a file, for one process. One writer at a time is all that SQLite has, so a transaction meets
// nobody else: no lock is taken here, and usage is never recorded while a budget comes.
type SQLite struct{ write, read *sql.DB }

var _ Store = (*SQLite)(nil)

// NewSQLite uses a handle that writes, of one connection and with _txlock=immediate, and one that reads; they may be the
// same. The database has been migrated. The handles stay their owner's to close.
func NewSQLite(write, read *sql.DB) *SQLite { return &SQLite{write: write, read: read} }

// Within is the books inside of somebody else's transaction: that of the worker that records usage.
func (s *SQLite) Within(tx *sql.Tx) Tx { return &liteTx{tx} }

// Update implements Books.
func (s *SQLite) Update(ctx context.Context, f func(Tx) error) error {
	return s.update(ctx, func(t *liteTx) error { return f(t) })
}

func (s *SQLite) update(ctx context.Context, f func(*liteTx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	if err := f(&liteTx{tx}); err != nil {
		return err
	}
	return tx.Commit()
}

// liteTx is a transaction on the books.
type liteTx struct{ tx *sql.Tx }

var _ Tx = (*liteTx)(nil)

// liteReader is a handle or a transaction.
type liteReader interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// liteMicros reads a time that is kept in microseconds; null is the zero time.
type liteMicros struct{ t *time.Time }

// Scan implements sql.Scanner.
func (m liteMicros) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*m.t = time.Time{}
	case int64:
		*m.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time is kept as %T", value)
	}
	return nil
}

func liteInPlace(t *time.Time) any { return liteMicros{t} }

// liteTime is a time as an argument; zero is null.
func liteTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// liteClient is a client as an argument; nobody is null.
func liteClient(id uuid.UUID) any {
	if id == uuid.Nil {
		return nil
	}
	return id.String()
}

// liteList is many values as one argument, for json_each.
func liteList[T any](all []T) string {
	if all == nil {
		return "[]"
	}
	b, err := json.Marshal(all)
	if err != nil {
		panic("BUG: a list of ids has no JSON: " + err.Error())
	}
	return string(b)
}

const liteIn = " IN (SELECT value FROM json_each(?)) "

// liteCollect reads all rows of a query.
func liteCollect[T any](ctx context.Context, q liteReader, scan func(scan func(...any) error) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// each runs a statement for each of some rows.
func liteEach[T any](ctx context.Context, t *liteTx, all []T, query string, args func(T) []any) (changed int64, err error) {
	if len(all) == 0 {
		return 0, nil
	}
	stmt, err := t.tx.PrepareContext(ctx, query)
	if err != nil {
		return 0, err
	}
	defer stmt.Close()
	for _, one := range all {
		done, err := stmt.ExecContext(ctx, args(one)...)
		if err != nil {
			return changed, err
		}
		n, err := done.RowsAffected()
		if err != nil {
			return changed, err
		}
		changed += n
	}
	return changed, nil
}

// Now implements Tx.
func (t *liteTx) Now(context.Context) (time.Time, error) {
	return time.Now().UTC().Truncate(time.Microsecond), nil
}

// Epoch implements Tx. A file that is put in the place of another is told by its id; an older copy of the same file is
// not, but proxies that remember later answers tell.
func (t *liteTx) Epoch(ctx context.Context) (stored Epoch, current string, err error) {
	err = t.tx.QueryRowContext(ctx, "SELECT number, identity, learning, since, 'file ' || file_id FROM budget_epoch").
		Scan(&stored.Number, &stored.Identity, liteMicros{&stored.Learning}, liteMicros{&stored.Since}, &current)
	if err != nil {
		return stored, "", fmt.Errorf("read the row of budget_epoch: %w", err)
	}
	return stored, current, nil
}

// SaveEpoch implements Tx.
func (t *liteTx) SaveEpoch(ctx context.Context, e Epoch) error {
	_, err := t.tx.ExecContext(ctx, "UPDATE budget_epoch SET number = ?, identity = ?, learning = ?, since = ?", e.Number, e.Identity, liteTime(e.Learning), e.Since.UnixMicro())
	return err
}

// Holders implements Tx.
func (t *liteTx) Holders(ctx context.Context, ids []uint64) ([]*Holder, error) {
	return liteCollect(ctx, t.tx, liteScanHolder, `SELECT incarnation, name, op, reply, epoch, heard_at, state FROM budget_holders
WHERE incarnation`+liteIn+`ORDER BY incarnation`, liteList(signed(ids)))
}

// LiveHolders implements Tx.
func (t *liteTx) LiveHolders(ctx context.Context) ([]*Holder, error) {
	return liteCollect(ctx, t.tx, liteScanHolder, `SELECT incarnation, name, op, NULL, epoch, heard_at, state FROM budget_holders
WHERE state <> 'closed' ORDER BY incarnation`)
}

func liteScanHolder(scan func(...any) error) (*Holder, error) {
	var h Holder
	var incarnation, op int64
	err := scan(&incarnation, &h.Name, &op, &h.Reply, &h.Epoch, liteMicros{&h.HeardAt}, (*string)(&h.State))
	h.Incarnation, h.Op = uint64(incarnation), uint64(op)
	return &h, err
}

// SaveHolders implements Tx.
func (t *liteTx) SaveHolders(ctx context.Context, hs []*Holder) error {
	_, err := liteEach(ctx, t, hs, `INSERT INTO budget_holders (incarnation, name, op, reply, epoch, heard_at, state) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (incarnation) DO UPDATE SET name = excluded.name, op = excluded.op, reply = excluded.reply, epoch = excluded.epoch,
	heard_at = excluded.heard_at, state = excluded.state`, func(h *Holder) []any {
		return []any{int64(h.Incarnation), h.Name, int64(h.Op), h.Reply, h.Epoch, h.HeardAt.UnixMicro(), string(h.State)}
	})
	return err
}

// liteWindow selects a window, under the name w.
var liteWindow = "SELECT " + strings.Replace("w."+strings.Join(windowColumns, ", w."), "w.client_id", "coalesce(w.client_id, '')", 1) + " FROM budget_windows w "

func liteScanWindow(scan func(...any) error) (*Window, error) {
	var w Window
	return &w, scan(windowFields(&w, liteInPlace)...)
}
