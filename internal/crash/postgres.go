//go:build linux

package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

const databaseName = "catraca_crash"

// createDatabase makes an empty database on a server and gives its URL.
func createDatabase(ctx context.Context, server string) (string, error) {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+databaseName); err != nil {
		return "", err
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	u.Path = "/" + databaseName
	return u.String(), nil
}

// onLedger runs f on a connection to the database.
func (w *world) onLedger(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, w.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// count is one number of the ledger.
func (w *world) count(ctx context.Context, query string, args ...any) (n int, err error) {
	return n, w.onLedger(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, query, args...).Scan(&n) })
}

// readLedger fetches all rows and asks the database for what it can be asked about itself, all as of one moment: a
// correction may arrive at any time.
func (w *world) readLedger(ctx context.Context, ev *evidence) error {
	return w.onLedger(ctx, func(conn *pgx.Conn) error {
		moment, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { _ = moment.Rollback(context.WithoutCancel(ctx)) }() // it has changed nothing
		for _, read := range []func(context.Context, pgx.Tx, *evidence) error{readRows, readSums, readFlaws} {
			if err := read(ctx, moment, ev); err != nil {
				return fmt.Errorf("read the ledger: %w", err)
			}
		}
		return nil
	})
}

func readRows(ctx context.Context, conn pgx.Tx, ev *evidence) error {
	rows, err := conn.Query(ctx, `
		SELECT client_id::text, coalesce(conversation_id, ''), coalesce(request_id, ''), route, outcome, usage_source, coalesce(upstream_id, ''),
		       status, incarnation, seq, cost_usd IS NOT NULL, coalesce(cost_usd, 0)::text,
		       input_tokens, output_tokens, total_tokens, cached_tokens, cache_write_tokens, reasoning_tokens
		FROM gateway_usage_logs`)
	if err != nil {
		return err
	}
	ev.rows, err = pgx.CollectRows(rows, func(from pgx.CollectableRow) (*row, error) {
		var r row
		var usd string
		err := from.Scan(&r.client, &r.mark, &r.requestID, &r.route, &r.outcome, &r.source, &r.upstreamID,
			&r.status, &r.incarnation, &r.seq, &r.priced, &usd,
			&r.Input, &r.Output, &r.Total, &r.Cached, &r.CacheWrite, &r.Reasoning)
		r.usd = amount(usd)
		return &r, err
	})
	return err
}

// The sums that must be equal in the log and in the roll-ups, and the key that they are kept by.
const (
	sums = `sum(input_tokens) AS i, sum(output_tokens) AS o, sum(total_tokens) AS t, sum(cached_tokens) AS c, sum(cache_write_tokens) AS w,
		sum(reasoning_tokens) AS r, coalesce(sum(cost_usd), 0) AS usd, coalesce(sum(cost_brl), 0) AS brl`
	rollupKey = `client_id, %s AS hour, coalesce(model_registry_id, '00000000-0000-0000-0000-000000000000') AS model, model_name, provider, route, endpoint`
)

func readSums(ctx context.Context, conn pgx.Tx, ev *evidence) error {
	var usd string
	b := &ev.booked
	err := conn.QueryRow(ctx, `SELECT coalesce(i, 0)::int8, coalesce(o, 0)::int8, coalesce(t, 0)::int8, coalesce(c, 0)::int8, coalesce(w, 0)::int8,
		coalesce(r, 0)::int8, usd::text FROM (SELECT `+sums+` FROM gateway_usage_logs) s`).
		Scan(&b.Input, &b.Output, &b.Total, &b.Cached, &b.CacheWrite, &b.Reasoning, &usd)
	b.usd = amount(usd)
	return err
}

// flaws are statements that give a line for each thing that is wrong, and nothing in a sound ledger.
var flaws = []string{
	// Log and roll-ups, sum by sum.
	`SELECT format('roll-up of %s %s %s %s %s %s differs from the log: %s, %s', client_id, hour, model_name, provider, route, endpoint,
		(a.i, a.o, a.t, a.c, a.w, a.r, a.usd, a.brl), (b.i, b.o, b.t, b.c, b.w, b.r, b.usd, b.brl))
	FROM (SELECT ` + fmt.Sprintf(rollupKey, "date_trunc('hour', created_at, 'UTC')") + `, ` + sums + ` FROM gateway_usage_logs GROUP BY 1, 2, 3, 4, 5, 6, 7) a
	FULL JOIN (SELECT ` + fmt.Sprintf(rollupKey, "hour") + `, ` + sums + ` FROM usage_rollups GROUP BY 1, 2, 3, 4, 5, 6, 7) b
		USING (client_id, hour, model, model_name, provider, route, endpoint)
	WHERE (a.i, a.o, a.t, a.c, a.w, a.r, a.usd, a.brl) IS DISTINCT FROM (b.i, b.o, b.t, b.c, b.w, b.r, b.usd, b.brl)`,
	`SELECT format('the roll-ups count %s calls, the log has %s', b.n, a.n)
	FROM (SELECT count(*) AS n FROM gateway_usage_logs WHERE seq > 0) a, (SELECT coalesce(sum(calls), 0) AS n FROM usage_rollups) b WHERE a.n <> b.n`,
	// The watermark of each process has no hole, begins at 1, and is what the log has.
	`SELECT format('incarnation %s received %s and has %s rows up to %s', to_hex(incarnation), received, n, last)
	FROM (SELECT incarnation, count(*) FILTER (WHERE seq > 0) AS n, max(seq) AS last FROM gateway_usage_logs GROUP BY 1) l
	FULL JOIN producers p USING (incarnation)
	WHERE p.received * '{[1,)}'::int8multirange IS DISTINCT FROM int8multirange(int8range(1, last, '[]')) OR n <> last`,
	`SELECT format('dead letter %s/%s: %s', to_hex(incarnation), seq, reason) FROM dead_letters`,
}

func readFlaws(ctx context.Context, conn pgx.Tx, ev *evidence) error {
	for _, statement := range flaws {
		rows, err := conn.Query(ctx, statement)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		ev.flaws = append(ev.flaws, found...)
	}
	return nil
}

// stealLocks ends the sessions in which workers hold their shards: each goes on believing that the shard is its own,
// while the other takes it.
func (w *world) stealLocks(ctx context.Context) (n int, err error) {
	return w.count(ctx, `SELECT count(pg_terminate_backend(pid)) FROM (SELECT DISTINCT pid FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) holders`)
}

// estimatesWaiting counts the estimates that the gateway has still to be asked about.
func (w *world) estimatesWaiting(ctx context.Context) (n int, err error) {
	there, err := w.corrects(ctx)
	if err != nil || !there {
		return 0, err
	}
	return w.count(ctx, "SELECT count(*) FROM "+estimatesTable)
}

// estimatesTable holds the estimates to be looked up.
const estimatesTable = "usage_estimates"

// corrects says whether this ledger looks estimates up.
func (w *world) corrects(ctx context.Context) (there bool, err error) {
	return there, w.onLedger(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", estimatesTable).Scan(&there)
	})
}

// sessionsOf is a word on who is connected, for the report of a scenario that did not come to rest.
func (w *world) sessionsOf(ctx context.Context) string {
	var text strings.Builder
	err := w.onLedger(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT format('%s %s %s', pid, state, left(query, 80)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		if err != nil {
			return err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		text.WriteString(strings.Join(lines, "\n"))
		return err
	})
	if err != nil {
		return err.Error()
	}
	return text.String()
}
