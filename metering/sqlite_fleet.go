package metering

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

var _ Fleet = (*SQLite)(nil)

// Report keeps what proxies say of themselves, by the rules that reportSQL of postgres_fleet.go gives. See Fleet.
func (s *SQLite) Report(ctx context.Context, reports []ProxyReport) error {
	proxies, logs := newestOf(reports)
	if len(proxies) == 0 {
		return nil
	}
	err := s.transact(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMicro()
		listed := make(map[int64]bool, len(logs))
		for i := range logs {
			listed[int64(logs[i].Incarnation)] = true
			if err := keepLog(ctx, tx, &logs[i], now); err != nil {
				return err
			}
		}
		for i := range proxies {
			if err := keepProxy(ctx, tx, &proxies[i], listed, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep the reports of %d proxies: %w", len(proxies), err)
	}
	return nil
}

func keepProxy(ctx context.Context, tx *sql.Tx, r *ProxyReport, listed map[int64]bool, now int64) error {
	document, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO proxies (name, started_at, at, stopped, report) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET started_at = excluded.started_at, at = excluded.at, stopped = excluded.stopped, report = excluded.report`,
		r.Name, r.StartedAt.UnixMicro(), now, r.Stopped, string(document))
	if err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, "SELECT incarnation FROM incarnations WHERE holder = ? AND over = 0", r.Name)
	if err != nil {
		return err
	}
	defer rows.Close()
	var absent []int64
	for rows.Next() {
		var incarnation int64
		if err := rows.Scan(&incarnation); err != nil {
			return err
		}
		if !listed[incarnation] {
			absent = append(absent, incarnation)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, incarnation := range absent {
		_, err := tx.ExecContext(ctx, `UPDATE incarnations SET over = 1, live = 0, open_calls = '[]', waiting = '[]', gone_at = NULL
WHERE incarnation = ? AND holder_started = ?`, incarnation, r.StartedAt.UnixMicro())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE incarnations SET gone_at = ? WHERE incarnation = ? AND holder_started < ? AND gone_at IS NULL",
			now, incarnation, r.StartedAt.UnixMicro())
		if err != nil {
			return err
		}
	}
	return nil
}

func keepLog(ctx context.Context, tx *sql.Tx, l *heldLog, now int64) error {
	var lost string
	err := tx.QueryRowContext(ctx, "SELECT lost FROM incarnations WHERE incarnation = ?", int64(l.Incarnation)).Scan(&lost)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	before, err := readRanges(lost)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO incarnations AS i
	(incarnation, holder, holder_started, issued, covered, live, open_calls, waiting, lost, over, reported_at)
VALUES (?, ?, ?, ?4, ?4, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET holder = excluded.holder, holder_started = excluded.holder_started,
	issued = max(i.issued, excluded.issued), covered = excluded.covered, live = excluded.live, open_calls = excluded.open_calls,
	waiting = excluded.waiting, lost = excluded.lost, over = excluded.over, reported_at = excluded.reported_at, gone_at = NULL, settled_at = NULL
WHERE excluded.holder_started >= i.holder_started AND (i.gone_at IS NOT NULL OR
	(i.holder, i.holder_started, i.covered, i.live, i.open_calls, i.waiting, i.lost, i.over) IS NOT
	(excluded.holder, excluded.holder_started, excluded.covered, excluded.live, excluded.open_calls, excluded.waiting, excluded.lost, excluded.over))`,
		int64(l.Incarnation), l.holder, l.started.UnixMicro(), int64(l.Last), l.Live, writeRanges(l.Open), writeRanges(l.Waiting),
		writeRanges(before.Union(l.Lost)), l.over(), now)
	return err
}

// readRanges reads a set as SQLite keeps it.
func readRanges(text string) (Ranges, error) {
	if text == "" || text == "[]" {
		return nil, nil
	}
	var r [][2]uint64
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("a set of sequence numbers: %w", err)
	}
	return r, nil
}

func writeRanges(r Ranges) string {
	if len(r) == 0 {
		return "[]"
	}
	text, _ := json.Marshal([][2]uint64(r)) // numbers always marshal
	return string(text)
}

// sqliteRanges reads a column that holds a set.
type sqliteRanges struct{ r *Ranges }

// Scan implements sql.Scanner. Null is the empty set.
func (s sqliteRanges) Scan(src any) (err error) {
	text, ok := src.(string)
	if src != nil && !ok {
		return fmt.Errorf("a %T is no set of sequence numbers", src)
	}
	*s.r, err = readRanges(text)
	return err
}

// Proxies lists the proxies that were heard of since a time. See Fleet.
func (s *SQLite) Proxies(ctx context.Context, since time.Time) ([]ProxyReport, error) {
	reports, err := s.proxies(ctx, since)
	if err != nil {
		return nil, fmt.Errorf("list proxies: %w", err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT incarnation, holder, covered, live, open_calls, waiting, lost FROM incarnations
WHERE over = 0 ORDER BY incarnation`)
	if err != nil {
		return nil, fmt.Errorf("list the logs of proxies: %w", err)
	}
	defer rows.Close()
	var logs []heldLog
	for rows.Next() {
		var l heldLog
		var incarnation, last int64
		err := rows.Scan(&incarnation, &l.holder, &last, &l.Live, sqliteRanges{&l.Open}, sqliteRanges{&l.Waiting}, sqliteRanges{&l.Lost})
		if err != nil {
			return nil, fmt.Errorf("list the logs of proxies: %w", err)
		}
		l.Incarnation, l.Last = uint64(incarnation), uint64(last)
		logs = append(logs, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list the logs of proxies: %w", err)
	}
	return withLogs(reports, logs), nil
}

func (s *SQLite) proxies(ctx context.Context, since time.Time) ([]ProxyReport, error) {
	from := int64(0)
	if !since.IsZero() {
		from = since.UnixMicro()
	}
	rows, err := s.read.QueryContext(ctx, "SELECT report, at FROM proxies WHERE at >= ? ORDER BY name", from)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var reports []ProxyReport
	for rows.Next() {
		var r ProxyReport
		var document string
		var at time.Time
		if err := rows.Scan(&document, sqliteInstant{&at}); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(document), &r); err != nil {
			return nil, err
		}
		r.At = at
		reports = append(reports, r)
	}
	return reports, rows.Err()
}
