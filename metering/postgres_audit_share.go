package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// LeaseAudit tells who makes the next audit. See Auditor.
func (p *Postgres) LeaseAudit(ctx context.Context, every, lease time.Duration) (last AuditReport, mine bool, err error) {
	var document []byte
	err = p.retry(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO meter_audits (depth) VALUES ($1) ON CONFLICT DO NOTHING", AuditRecent); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `UPDATE meter_audits SET leased_until = clock_timestamp() + $3
WHERE depth = $1 AND (at IS NULL OR at <= clock_timestamp() - $2::interval) AND (leased_until IS NULL OR leased_until < clock_timestamp())
RETURNING report`, AuditRecent, every, lease).Scan(&document)
		if mine = err == nil; !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return tx.QueryRow(ctx, "SELECT report FROM meter_audits WHERE depth = $1", AuditRecent).Scan(&document)
	})
	if err == nil && document != nil {
		err = json.Unmarshal(document, &last)
	}
	if err != nil {
		return AuditReport{}, false, fmt.Errorf("read the newest audit: %w", err)
	}
	return last, mine, nil
}

// ShareAudit keeps an audit for all processes. See Auditor.
func (p *Postgres) ShareAudit(ctx context.Context, r AuditReport) error {
	document, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep an audit: %w", err)
	}
	err = p.retry(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE meter_audits SET at = clock_timestamp(), leased_until = NULL, report = $2 WHERE depth = $1", r.Depth, string(document))
		if err != nil {
			return err
		}
		// What is over and whole needs no recent audit any more; a process that admitted nothing needs no row.
		if _, err = tx.Exec(ctx, `UPDATE incarnations i SET settled_at = clock_timestamp() FROM producers p
WHERE i.settled_at IS NULL AND i.over AND p.incarnation = i.incarnation
	AND p.received = int8multirange(int8range(1, greatest(i.issued + 1, upper(p.received), 1)))`); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, "DELETE FROM incarnations i WHERE i.over AND i.issued = 0 AND i.settled_at IS NULL"); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "DELETE FROM proxies WHERE at < clock_timestamp() - $1::interval", forgetProxies)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep an audit: %w", err)
	}
	return nil
}
