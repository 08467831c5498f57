package metering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres is the ledger, the registry and the rates in Postgres 14 or newer.
type Postgres struct {
	pool   *pgxpool.Pool
	steps  []PostgresStep
	record string // SQL
	rollup string
	shards shardLocks
}

var _ Ledger = (*Postgres)(nil)

// PostgresStep is something that must happen to an event exactly once, such as the settlement of a budget. It runs in
// the transaction that records events, with those that are new, in the order of the batch; when it fails, nothing of
// the batch is recorded. A transaction that Postgres breaks off is tried again, and the step with it.
//
// A correction comes as an event that used and cost the difference, which may be less than nothing; its Seq is that of
// the event it corrects, negated: int64(Seq) is below zero.
type PostgresStep func(ctx context.Context, tx pgx.Tx, fresh []Event) error

// NewPostgres uses a pool whose database has been migrated. The pool stays its owner's to close. The steps are taken in
// the transaction of Record and of Correct.
func NewPostgres(pool *pgxpool.Pool, steps ...PostgresStep) *Postgres {
	return &Postgres{pool: pool, steps: steps, record: recordSQL(logColumns), rollup: rollupSQL()}
}

// pgArray is a column's type as the parameter of unnest, and what makes a column's value of an element of it.
func pgArray(c logColumn) (typ, value string) {
	x := "x." + c.name
	switch c.kind {
	case asOptional:
		return "text", "nullif(" + x + ", '')"
	case asDocument:
		return "text", "nullif(" + x + ", '')::jsonb"
	case asNumber:
		return "int8", x
	case asFlag:
		return "bool", x
	case asInstant:
		return "timestamptz", x
	case asDay:
		return "date", x
	case asID:
		return "uuid", x
	case asIDOrNil:
		return "uuid", "nullif(" + x + ", '00000000-0000-0000-0000-000000000000')"
	case asAmount:
		return "int8", x + " * 0.000000000001"
	case asRate:
		return "int8", "nullif(" + x + ", 0) * 0.00000001"
	default:
		return "text", x
	}
}

// recordSQL writes a batch into the log and tells which rows were new. What the producers' watermark has is left out,
// because the partition that would know it may be gone.
//
// The rows are ordered by their key, so that two workers take locks in the same order.
func recordSQL(columns []logColumn) string {
	var arrays, values []string
	for i, c := range columns {
		typ, value := pgArray(c)
		arrays = append(arrays, "$"+strconv.Itoa(i+1)+"::"+typ+"[]")
		values = append(values, value)
	}
	return `INSERT INTO gateway_usage_logs (` + columnNames(columns) + `)
SELECT ` + strings.Join(values, ", ") + `
FROM unnest(` + strings.Join(arrays, ", ") + `) AS x (` + columnNames(columns) + `)
LEFT JOIN producers p ON p.incarnation = x.incarnation
WHERE p.received IS NULL OR NOT p.received @> x.seq
ORDER BY x.client_id, x.created_at, x.incarnation, x.seq
ON CONFLICT DO NOTHING
RETURNING incarnation, seq`
}

const receiveSQL = `INSERT INTO producers AS p (incarnation, received)
SELECT * FROM unnest($1::int8[], $2::text[]::int8multirange[]) ORDER BY 1
ON CONFLICT (incarnation) DO UPDATE SET received = p.received + excluded.received, last_seen = now()`

// Record writes a batch: log, roll-ups and watermark in one transaction. See Ledger.
func (p *Postgres) Record(ctx context.Context, batch []Event) error {
	rows, err := newLogRows(batch)
	if err != nil || len(rows) == 0 {
		return err
	}
	args := columnArrays(logColumns, rows)
	incarnations, received := receivedOf(rows)
	err = p.retry(ctx, func(tx pgx.Tx) error {
		fresh, err := insertFresh(ctx, tx, p.record, args, rows)
		if err != nil {
			return err
		}
		return p.settle(ctx, tx, fresh, receiveSQL, incarnations, received)
	})
	if err != nil {
		return fmt.Errorf("record %d events: %w", len(rows), permanent(err))
	}
	return nil
}

// columnArrays is the rows as the arguments of recordSQL.
func columnArrays(columns []logColumn, rows []logRow) []any {
	args := make([]any, len(columns))
	for i, c := range columns {
		args[i] = columnArray(c, rows)
	}
	return args
}

// insertFresh writes rows into the log and gives those that it did not have.
func insertFresh(ctx context.Context, tx pgx.Tx, query string, args []any, rows []logRow) ([]*logRow, error) {
	answer, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	had := make([]logIdentity, 0, len(rows))
	for answer.Next() {
		var id logIdentity
		if err := answer.Scan(&id.incarnation, &id.seq); err != nil {
			return nil, err
		}
		had = append(had, id)
	}
	if err := answer.Err(); err != nil {
		return nil, err
	}
	fresh := make([]*logRow, 0, len(had))
	var isFresh map[logIdentity]bool
	if len(had) < len(rows) { // else all are, which is the rule
		isFresh = make(map[logIdentity]bool, len(had))
		for _, id := range had {
			isFresh[id] = true
		}
	}
	for i := range rows {
		if isFresh == nil || isFresh[logIdentity{rows[i].incarnation, rows[i].seq}] {
			fresh = append(fresh, &rows[i])
		}
	}
	return fresh, nil
}

// settle changes all that follows from fresh rows, and ends with a statement of the caller's.
func (p *Postgres) settle(ctx context.Context, tx pgx.Tx, fresh []*logRow, last string, args ...any) error {
	c := fold(fresh)
	if err := p.change(ctx, tx, &c); err != nil {
		return err
	}
	if len(fresh) > 0 && len(p.steps) > 0 {
		events := freshEvents(fresh)
		for _, step := range p.steps {
			if err := step(ctx, tx, events); err != nil {
				return err
			}
		}
	}
	_, err := tx.Exec(ctx, last, args...)
	return err
}

// columnArray is one column of all rows, in a form that pgx encodes without reflection.
func columnArray(c logColumn, rows []logRow) any {
	switch c.at(&rows[0]).(type) {
	case *string:
		return collect(c, rows, func(v *string) string { return *v })
	case *int64:
		return collect(c, rows, func(v *int64) int64 { return *v })
	case *bool:
		return collect(c, rows, func(v *bool) pgtype.Bool { return pgtype.Bool{Bool: *v, Valid: true} })
	case *uuid.UUID:
		return collect(c, rows, func(v *uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: *v, Valid: true} })
	case *time.Time:
		if c.kind == asDay {
			return collect(c, rows, func(v *time.Time) pgtype.Date { return pgtype.Date{Time: *v, Valid: !v.IsZero()} })
		}
		return collect(c, rows, func(v *time.Time) pgtype.Timestamptz { return pgtype.Timestamptz{Time: *v, Valid: true} })
	case *nullInt64:
		return collect(c, rows, func(v *nullInt64) pgtype.Int8 { return pgtype.Int8{Int64: v.V, Valid: v.Valid} })
	default:
		panic("BUG: column " + c.name + " has a type that no store knows")
	}
}

func collect[From, To any](c logColumn, rows []logRow, value func(*From) To) pgtype.FlatArray[To] {
	all := make(pgtype.FlatArray[To], len(rows))
	for i := range rows {
		all[i] = value(c.at(&rows[i]).(*From))
	}
	return all
}

// receivedOf lists the incarnations of a batch, and what it has of each as a multirange.
func receivedOf(rows []logRow) (incarnations []int64, received []string) {
	seqs := map[int64][]int64{}
	for i := range rows {
		r := &rows[i]
		seqs[r.incarnation] = append(seqs[r.incarnation], r.seq)
	}
	for incarnation, all := range seqs {
		slices.Sort(all)
		var ranges Ranges
		for _, seq := range all {
			ranges = ranges.Add(uint64(seq))
		}
		incarnations = append(incarnations, incarnation)
		received = append(received, multirange(ranges))
	}
	return incarnations, received
}

// multirange writes a set as Postgres reads it.
func multirange(ranges Ranges) string {
	b := []byte{'{'}
	for i, r := range ranges {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, "[%d,%d]", r[0], r[1])
	}
	return string(append(b, '}'))
}

// retry runs a transaction, and again when Postgres broke it off for a reason that passes.
func (p *Postgres) retry(ctx context.Context, do func(pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, p.pool, do)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || !passing(pg) || try == 8 {
			return err
		}
		wait := time.Duration(1+rand.IntN(10<<min(try, 5))) * time.Millisecond
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// passing tells whether the same transaction may well succeed now: it was broken off so that another could go on, or it
// had chosen the default partition while the right one was being attached. That last one comes as a broken check
// (23514) with no name, unlike those that tables have.
func passing(pg *pgconn.PgError) bool {
	return pg.Code == "40P01" || pg.Code == "40001" || pg.Code == "23514" && pg.ConstraintName == ""
}

// permanent marks what Postgres will refuse for ever: bad data (class 22) and broken constraints (class 23).
func permanent(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && !passing(pg) && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23")) {
		return fmt.Errorf("%w: %w", ErrUnrecordable, err)
	}
	return err
}

// Received is the watermark of an incarnation. See Ledger.
func (p *Postgres) Received(ctx context.Context, incarnation uint64) (Ranges, error) {
	rows, err := p.pool.Query(ctx, `SELECT lower(r), upper(r) - 1 FROM producers, unnest(received) AS r
WHERE incarnation = $1 ORDER BY 1`, int64(incarnation))
	if err != nil {
		return nil, fmt.Errorf("read the watermark: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([2]uint64, error) {
		var first, last int64
		err := row.Scan(&first, &last)
		return [2]uint64{uint64(first), uint64(last)}, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the watermark: %w", err)
	}
	return Ranges(all), nil
}

// DeadLetter keeps what can never be recorded. The same letter again changes nothing, nor does one whose event is in
// the log after all. See Ledger.
func (p *Postgres) DeadLetter(ctx context.Context, raw []byte, ev Event, reason string) error {
	l := newDeadLetter(raw, ev, reason)
	err := p.retry(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO dead_letters
	(incarnation, seq, digest, raw, reason, client_id, total_tokens, cost_usd, cost_brl)
SELECT $1::int8, $2::int8, $3, $4, $5, nullif($6::uuid, '00000000-0000-0000-0000-000000000000'), $7, $8::int8 * 0.000000000001, $9::int8 * 0.000000000001
WHERE $2::int8 = 0 OR NOT EXISTS (SELECT FROM producers WHERE incarnation = $1::int8 AND received @> $2::int8)
ON CONFLICT DO NOTHING`,
			l.incarnation, l.seq, l.digest, l.raw, l.reason, l.client, l.tokens, l.usd, l.brl)
		if err != nil || l.seq == 0 {
			return err
		}
		_, err = tx.Exec(ctx, receiveSQL, []int64{l.incarnation}, []string{multirange(Ranges{{uint64(l.seq), uint64(l.seq)}})})
		return err
	})
	if err != nil {
		return fmt.Errorf("keep a dead letter: %w", err)
	}
	return nil
}

// MakePartitions makes the log's partitions for the month of now and the given number of months after it, and says how
// many were missing. Run it daily; a month that nobody made costs nothing but a move later.
func (p *Postgres) MakePartitions(ctx context.Context, now time.Time, ahead int) (made int, err error) {
	err = p.retry(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT catraca_make_usage_partitions($1, $2)", now, ahead+1).Scan(&made)
	})
	if err != nil {
		return 0, fmt.Errorf("make partitions of the usage log: %w", err)
	}
	return made, nil
}
