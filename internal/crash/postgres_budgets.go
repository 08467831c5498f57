//go:build linux

package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// window is what the ledger of budgets has of one.
type window struct {
	client, unit                                                  string
	limit, spent, held, suspense, overrun, unheld, usedUp, leases int64
	exact                                                         bool // little of it is free
}

func (w *world) windows(ctx context.Context) (all []window, err error) {
	err = w.onLedger(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT coalesce(client_id::text, ''), budget_type, base + carried + topped_up, spent, held, suspense, overrun, unheld,
			spent + overrun + unheld + suspense, (SELECT count(*) FROM budget_leases l WHERE l.window_id = w.id AND NOT l.closed), exact FROM budget_windows w`)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (x window, err error) {
			return x, row.Scan(&x.client, &x.unit, &x.limit, &x.spent, &x.held, &x.suspense, &x.overrun, &x.unheld, &x.usedUp, &x.leases, &x.exact)
		})
		return err
	})
	return all, err
}
