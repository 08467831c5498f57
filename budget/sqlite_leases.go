package budget

import (
	"context"
	"encoding/json"
	"fmt"
)

const liteLease = "SELECT " + leaseColumns + " FROM budget_leases "

func liteScanLease(scan func(...any) error) (*Lease, error) {
	var l Lease
	var incarnation int64
	err := scan(leaseFields(&l, &incarnation)...)
	l.Incarnation = uint64(incarnation)
	return &l, err
}

// Leases implements Tx.
func (t *liteTx) Leases(ctx context.Context, keys []LeaseKey) ([]*Lease, error) {
	pairs := column(keys, func(k LeaseKey) [2]int64 { return [2]int64{k.Window, int64(k.Incarnation)} })
	return liteCollect(ctx, t.tx, liteScanLease, liteLease+`WHERE (window_id, incarnation) IN (
	SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)) ORDER BY window_id, incarnation`, liteList(pairs))
}

// LeasesOf implements Tx.
func (t *liteTx) LeasesOf(ctx context.Context, incarnations []uint64) ([]*Lease, error) {
	return liteCollect(ctx, t.tx, liteScanLease, liteLease+"WHERE incarnation"+liteIn+"AND NOT closed ORDER BY window_id, incarnation", liteList(signed(incarnations)))
}

// LeasesIn implements Tx.
func (t *liteTx) LeasesIn(ctx context.Context, windows []int64) ([]*Lease, error) {
	return liteCollect(ctx, t.tx, liteScanLease, liteLease+"WHERE window_id"+liteIn+"AND NOT closed ORDER BY window_id, incarnation", liteList(windows))
}

// Sharers implements Tx.
func (t *liteTx) Sharers(ctx context.Context, windows []int64) (map[int64]int, error) {
	type count struct {
		window int64
		n      int
	}
	all, err := liteCollect(ctx, t.tx, func(scan func(...any) error) (c count, err error) {
		err = scan(&c.window, &c.n)
		return c, err
	},
		"SELECT window_id, count(*) FROM budget_leases WHERE window_id"+liteIn+"AND NOT closed AND NOT lost GROUP BY window_id", liteList(windows))
	sharers := map[int64]int{}
	for _, c := range all {
		sharers[c.window] = c.n
	}
	return sharers, err
}

// SaveLeases implements Tx.
func (t *liteTx) SaveLeases(ctx context.Context, ls []*Lease) error {
	_, err := liteEach(ctx, t, ls, `INSERT INTO budget_leases (`+leaseColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (window_id, incarnation) DO UPDATE SET granted = excluded.granted, returned = excluded.returned,
	settled = excluded.settled, doubted = excluded.doubted, lost = excluded.lost, closed = excluded.closed`, func(l *Lease) []any {
		return []any{l.Window, int64(l.Incarnation), l.Granted, l.Returned, l.Settled, l.Doubted, l.Lost, l.Closed}
	})
	return err
}

const liteDoubt = "SELECT incarnation, seq, window_id, amount, at FROM budget_doubts "

func liteScanDoubt(scan func(...any) error) (d Doubt, err error) {
	var incarnation, seq int64
	err = scan(&incarnation, &seq, &d.Window, &d.Amount, liteMicros{&d.At})
	d.Incarnation, d.Seq = uint64(incarnation), uint64(seq)
	return d, err
}

// Doubts implements Tx.
func (t *liteTx) Doubts(ctx context.Context, events []EventID) ([]Doubt, error) {
	pairs := column(events, func(e EventID) [2]int64 { return [2]int64{int64(e.Incarnation), int64(e.Seq)} })
	return liteCollect(ctx, t.tx, liteScanDoubt, liteDoubt+`WHERE (incarnation, seq) IN (
	SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)) ORDER BY incarnation, seq, window_id`, liteList(pairs))
}

// DoubtsIn implements Tx.
func (t *liteTx) DoubtsIn(ctx context.Context, window int64) ([]Doubt, error) {
	return liteCollect(ctx, t.tx, liteScanDoubt, liteDoubt+"WHERE window_id = ? ORDER BY incarnation, seq", window)
}

// AddDoubts implements Tx.
func (t *liteTx) AddDoubts(ctx context.Context, ds []Doubt) error {
	_, err := liteEach(ctx, t, ds, "INSERT INTO budget_doubts (incarnation, seq, window_id, amount, at) VALUES (?, ?, ?, ?, ?)", func(d Doubt) []any {
		return []any{int64(d.Incarnation), int64(d.Seq), d.Window, d.Amount, d.At.UnixMicro()}
	})
	return err
}

// DropDoubts implements Tx.
func (t *liteTx) DropDoubts(ctx context.Context, ds []Doubt) error {
	_, err := liteEach(ctx, t, ds, "DELETE FROM budget_doubts WHERE incarnation = ? AND seq = ? AND window_id = ?", func(d Doubt) []any {
		return []any{int64(d.Incarnation), int64(d.Seq), d.Window}
	})
	return err
}

// AddAlerts implements Tx.
func (t *liteTx) AddAlerts(ctx context.Context, as []Alert) error {
	_, err := liteEach(ctx, t, as, `INSERT INTO budget_alerts (window_id, budget_id, client_id, threshold, limit_version, limit_amount, used_amount, at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (window_id, threshold, limit_version) DO NOTHING`, func(a Alert) []any {
		return []any{a.Window, a.BudgetID.String(), liteClient(a.ClientID), a.Threshold, a.LimitVersion, a.Limit, a.Used, a.At.UnixMicro()}
	})
	return err
}

// Arrived implements Tx.
func (t *liteTx) Arrived(ctx context.Context, closes []Close) (map[uint64]bool, error) {
	type received struct {
		incarnation int64
		ranges      string
	}
	all, err := liteCollect(ctx, t.tx, func(scan func(...any) error) (r received, err error) {
		err = scan(&r.incarnation, &r.ranges)
		return r, err
	},
		"SELECT incarnation, received FROM producers WHERE incarnation"+liteIn, liteList(column(closes, func(c Close) int64 { return int64(c.Incarnation) })))
	if err != nil {
		return nil, err
	}
	first := map[uint64][2]uint64{} // the first range that arrived of each
	for _, r := range all {
		var ranges [][2]uint64
		if err := json.Unmarshal([]byte(r.ranges), &ranges); err != nil {
			return nil, fmt.Errorf("producers.received of %x: %w", uint64(r.incarnation), err)
		}
		if len(ranges) > 0 {
			first[uint64(r.incarnation)] = ranges[0]
		}
	}
	arrived := map[uint64]bool{}
	for _, c := range closes {
		r := first[c.Incarnation]
		arrived[c.Incarnation] = c.Last == 0 || r[0] == 1 && r[1] >= c.Last
	}
	return arrived, nil
}

// Journal implements Tx.
func (t *liteTx) Journal(ctx context.Context, entries []Entry) error {
	now, err := t.Now(ctx)
	if err != nil {
		return err
	}
	_, err = liteEach(ctx, t, entries, "INSERT INTO budget_journal (window_id, incarnation, kind, amount, reason, at) VALUES (?, ?, ?, ?, ?, ?)", func(e Entry) []any {
		return []any{e.Window, int64(e.Incarnation), e.Kind, e.Amount, e.Reason, orNow(e.At, now).UnixMicro()}
	})
	return err
}
