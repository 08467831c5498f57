package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres is the books in Postgres 14 or newer.
//
// A window that is opened counts what the usage log has for it already, and from then on every settlement adds to it. That
// each event is counted once, though budgets come while usage is being recorded, is due to the barrier, an advisory
// lock: a settlement holds it shared from before it reads which budgets there are until it commits, and whoever opens
// the first window of a budget holds it alone while the log is summed. So a settlement that did not see the budget has
// committed, and is in the sum; one that comes later sees the budget and the window. Behind its first window nobody is
// left who does not see a budget, so later ones need no barrier.
//
// Whoever holds the barrier shared must not wait to have it alone, for two of them would wait for each other. Such a
// transaction is broken off and tried again, and takes the barrier alone before anything else.
type Postgres struct {
	pool *pgxpool.Pool
	// identity is which of the ways to tell databases apart works here, plus one; 0: not known yet.
	identity atomic.Int32
	// aloneUntil, in nanoseconds since 1970: until then settlements take the barrier alone, because one had to and could not.
	aloneUntil atomic.Int64
}

var _ Store = (*Postgres)(nil)

// NewPostgres is the books in a migrated database. The pool stays its owner's to close.
func NewPostgres(pool *pgxpool.Pool) *Postgres { return &Postgres{pool: pool} }

// Within is the books inside of somebody else's transaction: that of the worker that records usage. What it gives may ask
// for the transaction to be tried again, with an error that has the code 40001.
func (p *Postgres) Within(tx pgx.Tx) Tx { return &pgTx{p: p, tx: tx, settles: true} }

// pgTx is a transaction on the books.
type pgTx struct {
	p       *Postgres
	tx      pgx.Tx
	settles bool            // usage is recorded in it
	shared  bool            // it has the barrier, among others
	alone   map[string]bool // locks that it has for itself
}

var _ Tx = (*pgTx)(nil)

// Advisory locks, in the order in which they are taken.
const (
	pgBarrier = "catraca.budget_barrier"
	pgEpoch   = "catraca.budget_epoch"
)

// pgBusy says that a lock is needed from the beginning of the transaction. It reads as a failure that passes.
type pgBusy struct{ lock string }

func (b *pgBusy) Error() string { return "the transaction must begin anew with the lock " + b.lock }
func (b *pgBusy) Unwrap() error {
	return &pgconn.PgError{Severity: "ERROR", Code: "40001", Message: b.Error()}
}

// Update implements Books.
func (p *Postgres) Update(ctx context.Context, f func(Tx) error) error {
	return p.update(ctx, func(t *pgTx) error { return f(t) })
}

// pgTries is how often a transaction is begun. With as many proxies as there may be, one that is broken off that often
// in a row meets something that does not pass.
const pgTries = 10

func (p *Postgres) update(ctx context.Context, f func(*pgTx) error) error {
	first := map[string]bool{}
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
			t := &pgTx{p: p, tx: tx}
			for _, lock := range []string{pgBarrier, pgEpoch} {
				if !first[lock] {
					continue
				}
				if err := t.takeAlone(ctx, lock); err != nil {
					return err
				}
			}
			return f(t)
		})
		var busy *pgBusy
		if errors.As(err, &busy) {
			first[busy.lock] = true
		}
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "40001" && pg.Code != "40P01" || try == pgTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(1+rand.IntN(5<<min(try, 5))) * time.Millisecond):
		}
	}
}

// takeAlone waits for a lock. Only a transaction that has nothing else may.
func (t *pgTx) takeAlone(ctx context.Context, lock string) error {
	if _, err := t.tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", lock); err != nil {
		return err
	}
	if t.alone == nil {
		t.alone = map[string]bool{}
	}
	t.alone[lock] = true
	return nil
}

// needAlone takes a lock where nobody has it, or has the transaction begin anew with it.
func (t *pgTx) needAlone(ctx context.Context, lock string) error {
	if t.alone[lock] {
		return nil
	}
	var taken bool
	if err := t.tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", lock).Scan(&taken); err != nil {
		return err
	}
	if !taken {
		if t.settles {
			t.p.aloneUntil.Store(time.Now().Add(2 * time.Second).UnixNano())
		}
		return &pgBusy{lock}
	}
	return nil
}

// standBehindBarrier is what a settlement does before it reads which budgets there are.
func (t *pgTx) standBehindBarrier(ctx context.Context) error {
	if !t.settles || t.shared || t.alone[pgBarrier] {
		return nil
	}
	if time.Now().UnixNano() < t.p.aloneUntil.Load() {
		return t.takeAlone(ctx, pgBarrier)
	}
	_, err := t.tx.Exec(ctx, "SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))", pgBarrier)
	t.shared = err == nil
	return err
}

// Now implements Tx.
func (t *pgTx) Now(ctx context.Context) (now time.Time, err error) {
	err = t.tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now)
	return now.UTC(), err
}

// pgIdentities are ways to tell a database and its timeline apart from others, the best first. The timeline is that of
// the log being written: pg_control_checkpoint has it only after the first checkpoint that follows a failover. Managed
// servers may forbid the first way, and some have no such log; where nothing tells a failover from a restart, each
// restart counts as one.
var pgIdentities = []string{
	"SELECT 'system ' || system_identifier || ' timeline ' || left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()",
	"SELECT 'database ' || oid || ' timeline ' || left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_database WHERE datname = current_database()",
	"SELECT 'database ' || oid || ' started ' || extract(epoch FROM pg_postmaster_start_time()) FROM pg_database WHERE datname = current_database()",
}

// Epoch implements Tx.
func (t *pgTx) Epoch(ctx context.Context) (stored Epoch, current string, err error) {
	if !t.alone[pgEpoch] {
		if _, err := t.tx.Exec(ctx, "SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))", pgEpoch); err != nil {
			return stored, "", err
		}
	}
	var learning *time.Time
	err = t.tx.QueryRow(ctx, "SELECT number, identity, learning, since FROM budget_epoch").Scan(&stored.Number, &stored.Identity, &learning, &stored.Since)
	if err != nil {
		return stored, "", fmt.Errorf("read the row of budget_epoch: %w", err)
	}
	stored.Since = stored.Since.UTC()
	if learning != nil {
		stored.Learning = learning.UTC()
	}
	current, err = t.currentIdentity(ctx)
	return stored, current, err
}

// currentIdentity is what the database says of itself now.
func (t *pgTx) currentIdentity(ctx context.Context) (identity string, err error) {
	if known := t.p.identity.Load(); known > 0 {
		if err = t.tx.QueryRow(ctx, pgIdentities[known-1]).Scan(&identity); err != nil {
			t.p.identity.Store(0) // what was allowed may be no more
		}
		return identity, err
	}
	for i, query := range pgIdentities {
		err = pgx.BeginFunc(ctx, t.tx, func(inner pgx.Tx) error { return inner.QueryRow(ctx, query).Scan(&identity) })
		if err == nil {
			t.p.identity.Store(int32(i + 1))
			return identity, nil
		}
		// Forbidden, not there, or not to be had here; anything else is no reason for another name.
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "42501" && pg.Code != "42883" && pg.Code != "0A000" {
			return "", err
		}
	}
	return "", fmt.Errorf("this database does not tell what it is: %w", err)
}

// SaveEpoch implements Tx.
func (t *pgTx) SaveEpoch(ctx context.Context, e Epoch) error {
	if err := t.needAlone(ctx, pgEpoch); err != nil {
		return err
	}
	_, err := t.tx.Exec(ctx, "UPDATE budget_epoch SET number = $1, identity = $2, learning = $3, since = $4", e.Number, e.Identity, pgTime(e.Learning), e.Since)
	return err
}

// Holders implements Tx. One that is not there yet is locked as well, lest a message that comes twice at once be answered
// twice.
func (t *pgTx) Holders(ctx context.Context, ids []uint64) ([]*Holder, error) {
	_, err := t.tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('catraca.budget_holder ' || i, 0)) FROM unnest($1::int8[]) AS i", signed(ids))
	if err != nil {
		return nil, err
	}
	rows, err := t.tx.Query(ctx, `SELECT incarnation, name, op, reply, epoch, heard_at, state FROM budget_holders
WHERE incarnation = ANY($1) ORDER BY incarnation FOR UPDATE`, signed(ids))
	return pgCollect(rows, err, pgScanHolder)
}

// LiveHolders implements Tx.
func (t *pgTx) LiveHolders(ctx context.Context) ([]*Holder, error) {
	rows, err := t.tx.Query(ctx, `SELECT incarnation, name, op, NULL::bytea, epoch, heard_at, state FROM budget_holders
WHERE state <> 'closed' ORDER BY incarnation`)
	return pgCollect(rows, err, pgScanHolder)
}

func pgScanHolder(row pgx.CollectableRow) (*Holder, error) {
	var h Holder
	var incarnation, op int64
	err := row.Scan(&incarnation, &h.Name, &op, &h.Reply, &h.Epoch, &h.HeardAt, (*string)(&h.State))
	h.Incarnation, h.Op, h.HeardAt = uint64(incarnation), uint64(op), h.HeardAt.UTC()
	return &h, err
}

// SaveHolders implements Tx.
func (t *pgTx) SaveHolders(ctx context.Context, hs []*Holder) error {
	_, err := t.tx.Exec(ctx, `INSERT INTO budget_holders (incarnation, name, op, reply, epoch, heard_at, state)
SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::bytea[], $5::int8[], $6::timestamptz[], $7::text[]) ORDER BY 1
ON CONFLICT (incarnation) DO UPDATE SET name = excluded.name, op = excluded.op, reply = excluded.reply, epoch = excluded.epoch,
	heard_at = excluded.heard_at, state = excluded.state`,
		column(hs, func(h *Holder) int64 { return int64(h.Incarnation) }), column(hs, func(h *Holder) string { return h.Name }),
		column(hs, func(h *Holder) int64 { return int64(h.Op) }), column(hs, func(h *Holder) []byte { return h.Reply }),
		column(hs, func(h *Holder) int64 { return h.Epoch }), column(hs, func(h *Holder) time.Time { return h.HeardAt }),
		column(hs, func(h *Holder) string { return string(h.State) }))
	return err
}

// pgCollect reads all rows of a query that may have failed.
func pgCollect[T any](rows pgx.Rows, err error, scan pgx.RowToFunc[T]) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// pgTime is a time as an argument; zero is null.
func pgTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// pgInPlace is where pgx reads a time into.
func pgInPlace(t *time.Time) any { return t }

const pgNobody = "'00000000-0000-0000-0000-000000000000'::uuid"

// pgWindow selects a window, under the name w.
var pgWindow = "SELECT " + strings.Replace("w."+strings.Join(windowColumns, ", w."), "w.client_id", "coalesce(w.client_id, "+pgNobody+")", 1) + " FROM budget_windows w "

func pgScanWindow(row pgx.CollectableRow) (*Window, error) {
	var w Window
	err := row.Scan(windowFields(&w, pgInPlace)...)
	w.StartsAt, w.EndsAt, w.Since = w.StartsAt.UTC(), w.EndsAt.UTC(), w.Since.UTC()
	return &w, err
}

// pgClient is a client as an argument; nobody is null.
func pgClient(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
