package budget

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const pgLease = "SELECT " + leaseColumns + " FROM budget_leases "

func pgScanLease(row pgx.CollectableRow) (*Lease, error) {
	var l Lease
	var incarnation int64
	err := row.Scan(leaseFields(&l, &incarnation)...)
	l.Incarnation = uint64(incarnation)
	return &l, err
}

// Leases implements Tx.
func (t *pgTx) Leases(ctx context.Context, keys []LeaseKey) ([]*Lease, error) {
	rows, err := t.tx.Query(ctx, pgLease+`JOIN (SELECT DISTINCT * FROM unnest($1::int8[], $2::int8[]) AS k (window_id, incarnation)) k
	USING (window_id, incarnation) ORDER BY window_id, incarnation`,
		column(keys, func(k LeaseKey) int64 { return k.Window }), column(keys, func(k LeaseKey) int64 { return int64(k.Incarnation) }))
	return pgCollect(rows, err, pgScanLease)
}

// LeasesOf implements Tx.
func (t *pgTx) LeasesOf(ctx context.Context, incarnations []uint64) ([]*Lease, error) {
	rows, err := t.tx.Query(ctx, pgLease+"WHERE incarnation = ANY($1) AND NOT closed ORDER BY window_id, incarnation", signed(incarnations))
	return pgCollect(rows, err, pgScanLease)
}

// LeasesIn implements Tx.
func (t *pgTx) LeasesIn(ctx context.Context, windows []int64) ([]*Lease, error) {
	rows, err := t.tx.Query(ctx, pgLease+"WHERE window_id = ANY($1) AND NOT closed ORDER BY window_id, incarnation", windows)
	return pgCollect(rows, err, pgScanLease)
}

// Sharers implements Tx.
func (t *pgTx) Sharers(ctx context.Context, windows []int64) (map[int64]int, error) {
	rows, err := t.tx.Query(ctx, `SELECT window_id, count(*) FROM budget_leases
WHERE window_id = ANY($1) AND NOT closed AND NOT lost GROUP BY window_id`, windows)
	if err != nil {
		return nil, err
	}
	sharers := map[int64]int{}
	var window int64
	var n int
	_, err = pgx.ForEachRow(rows, []any{&window, &n}, func() error { sharers[window] = n; return nil })
	return sharers, err
}

// SaveLeases implements Tx.
func (t *pgTx) SaveLeases(ctx context.Context, ls []*Lease) error {
	if len(ls) == 0 {
		return nil
	}
	amount := func(of func(*Lease) int64) []int64 { return column(ls, of) }
	_, err := t.tx.Exec(ctx, `INSERT INTO budget_leases (`+leaseColumns+`)
SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::bool[], $8::bool[]) ORDER BY 1, 2
ON CONFLICT (window_id, incarnation) DO UPDATE SET granted = excluded.granted, returned = excluded.returned,
	settled = excluded.settled, doubted = excluded.doubted, lost = excluded.lost, closed = excluded.closed`,
		amount(func(l *Lease) int64 { return l.Window }), amount(func(l *Lease) int64 { return int64(l.Incarnation) }),
		amount(func(l *Lease) int64 { return l.Granted }), amount(func(l *Lease) int64 { return l.Returned }),
		amount(func(l *Lease) int64 { return l.Settled }), amount(func(l *Lease) int64 { return l.Doubted }),
		column(ls, func(l *Lease) bool { return l.Lost }), column(ls, func(l *Lease) bool { return l.Closed }))
	return err
}

const pgDoubt = "SELECT incarnation, seq, window_id, amount, at FROM budget_doubts "

func pgScanDoubt(row pgx.CollectableRow) (d Doubt, err error) {
	var incarnation, seq int64
	err = row.Scan(&incarnation, &seq, &d.Window, &d.Amount, &d.At)
	d.Incarnation, d.Seq, d.At = uint64(incarnation), uint64(seq), d.At.UTC()
	return d, err
}

// Doubts implements Tx.
func (t *pgTx) Doubts(ctx context.Context, events []EventID) ([]Doubt, error) {
	rows, err := t.tx.Query(ctx, pgDoubt+`JOIN (SELECT DISTINCT * FROM unnest($1::int8[], $2::int8[]) AS e (incarnation, seq)) e
	USING (incarnation, seq) ORDER BY incarnation, seq, window_id`,
		column(events, func(e EventID) int64 { return int64(e.Incarnation) }), column(events, func(e EventID) int64 { return int64(e.Seq) }))
	return pgCollect(rows, err, pgScanDoubt)
}

// DoubtsIn implements Tx.
func (t *pgTx) DoubtsIn(ctx context.Context, window int64) ([]Doubt, error) {
	rows, err := t.tx.Query(ctx, pgDoubt+"WHERE window_id = $1 ORDER BY incarnation, seq", window)
	return pgCollect(rows, err, pgScanDoubt)
}

// AddDoubts implements Tx.
func (t *pgTx) AddDoubts(ctx context.Context, ds []Doubt) error {
	if len(ds) == 0 {
		return nil
	}
	_, err := t.tx.Exec(ctx, `INSERT INTO budget_doubts (incarnation, seq, window_id, amount, at)
SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::timestamptz[]) ORDER BY 1, 2, 3`,
		column(ds, func(d Doubt) int64 { return int64(d.Incarnation) }), column(ds, func(d Doubt) int64 { return int64(d.Seq) }),
		column(ds, func(d Doubt) int64 { return d.Window }), column(ds, func(d Doubt) int64 { return d.Amount }),
		column(ds, func(d Doubt) time.Time { return d.At }))
	return err
}

// DropDoubts implements Tx.
func (t *pgTx) DropDoubts(ctx context.Context, ds []Doubt) error {
	if len(ds) == 0 {
		return nil
	}
	_, err := t.tx.Exec(ctx, `DELETE FROM budget_doubts d USING unnest($1::int8[], $2::int8[], $3::int8[]) AS x (incarnation, seq, window_id)
WHERE d.incarnation = x.incarnation AND d.seq = x.seq AND d.window_id = x.window_id`,
		column(ds, func(d Doubt) int64 { return int64(d.Incarnation) }), column(ds, func(d Doubt) int64 { return int64(d.Seq) }),
		column(ds, func(d Doubt) int64 { return d.Window }))
	return err
}

// AddAlerts implements Tx.
func (t *pgTx) AddAlerts(ctx context.Context, as []Alert) error {
	if len(as) == 0 {
		return nil
	}
	_, err := t.tx.Exec(ctx, `INSERT INTO budget_alerts (window_id, budget_id, client_id, threshold, limit_version, limit_amount, used_amount, at)
SELECT * FROM unnest($1::int8[], $2::uuid[], $3::uuid[], $4::int4[], $5::int8[], $6::int8[], $7::int8[], $8::timestamptz[]) ORDER BY 1, 5, 4
ON CONFLICT (window_id, threshold, limit_version) DO NOTHING`,
		column(as, func(a Alert) int64 { return a.Window }), column(as, func(a Alert) uuid.UUID { return a.BudgetID }),
		column(as, func(a Alert) *uuid.UUID { return pgClient(a.ClientID) }), column(as, func(a Alert) int32 { return int32(a.Threshold) }),
		column(as, func(a Alert) int64 { return a.LimitVersion }), column(as, func(a Alert) int64 { return a.Limit }),
		column(as, func(a Alert) int64 { return a.Used }), column(as, func(a Alert) time.Time { return a.At }))
	return err
}

// Arrived implements Tx.
func (t *pgTx) Arrived(ctx context.Context, closes []Close) (map[uint64]bool, error) {
	rows, err := t.tx.Query(ctx, `SELECT c.incarnation, bool_and(c.last = 0 OR coalesce(p.received @> int8range(1, c.last, '[]'), false))
FROM unnest($1::int8[], $2::int8[]) AS c (incarnation, last) LEFT JOIN producers p USING (incarnation) GROUP BY c.incarnation`,
		column(closes, func(c Close) int64 { return int64(c.Incarnation) }), column(closes, func(c Close) int64 { return int64(c.Last) }))
	if err != nil {
		return nil, err
	}
	arrived := map[uint64]bool{}
	var incarnation int64
	var all bool
	_, err = pgx.ForEachRow(rows, []any{&incarnation, &all}, func() error { arrived[uint64(incarnation)] = all; return nil })
	return arrived, err
}

// Journal implements Tx.
func (t *pgTx) Journal(ctx context.Context, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	_, err := t.tx.Exec(ctx, `INSERT INTO budget_journal (window_id, incarnation, kind, amount, reason, at)
SELECT window_id, incarnation, kind, amount, reason, coalesce(at, clock_timestamp())
FROM unnest($1::int8[], $2::int8[], $3::text[], $4::int8[], $5::text[], $6::timestamptz[]) WITH ORDINALITY
	AS x (window_id, incarnation, kind, amount, reason, at, n) ORDER BY n`,
		column(entries, func(e Entry) int64 { return e.Window }), column(entries, func(e Entry) int64 { return int64(e.Incarnation) }),
		column(entries, func(e Entry) string { return e.Kind }), column(entries, func(e Entry) int64 { return e.Amount }),
		column(entries, func(e Entry) string { return e.Reason }), column(entries, func(e Entry) *time.Time { return pgTime(e.At) }))
	return err
}
