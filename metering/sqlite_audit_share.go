package metering

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// LeaseAudit tells who makes the next audit. See Auditor.
func (s *SQLite) LeaseAudit(ctx context.Context, every, lease time.Duration) (last AuditReport, mine bool, err error) {
	var document sql.NullString
	err = s.transact(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMicro()
		if _, err := tx.ExecContext(ctx, "INSERT INTO meter_audits (depth) VALUES (?) ON CONFLICT DO NOTHING", AuditRecent); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, `UPDATE meter_audits SET leased_until = ?
WHERE depth = ? AND (at IS NULL OR at <= ?) AND (leased_until IS NULL OR leased_until < ?) RETURNING report`,
			now+lease.Microseconds(), AuditRecent, now-every.Microseconds(), now).Scan(&document)
		if mine = err == nil; !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return tx.QueryRowContext(ctx, "SELECT report FROM meter_audits WHERE depth = ?", AuditRecent).Scan(&document)
	})
	if err == nil && document.Valid {
		err = json.Unmarshal([]byte(document.String), &last)
	}
	if err != nil {
		return AuditReport{}, false, fmt.Errorf("read the newest audit: %w", err)
	}
	return last, mine, nil
}

// ShareAudit keeps an audit for all processes. See Auditor.
func (s *SQLite) ShareAudit(ctx context.Context, r AuditReport) error {
	document, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep an audit: %w", err)
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		now := time.Now()
		_, err := tx.ExecContext(ctx, "UPDATE meter_audits SET at = ?, leased_until = NULL, report = ? WHERE depth = ?", now.UnixMicro(), string(document), r.Depth)
		if err != nil {
			return err
		}
		// What is over and whole needs no recent audit any more; a process that admitted nothing needs no row.
		if _, err = tx.ExecContext(ctx, `UPDATE incarnations AS i SET settled_at = ? FROM producers p WHERE i.settled_at IS NULL AND i.over
	AND p.incarnation = i.incarnation AND json_array_length(p.received) = 1 AND json_extract(p.received, '$[0][0]') = 1
	AND json_extract(p.received, '$[0][1]') >= i.issued`, now.UnixMicro()); err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, "DELETE FROM incarnations WHERE over AND issued = 0 AND settled_at IS NULL"); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM proxies WHERE at < ?", now.Add(-forgetProxies).UnixMicro())
		return err
	})
	if err != nil {
		return fmt.Errorf("keep an audit: %w", err)
	}
	return nil
}
