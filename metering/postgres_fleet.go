package metering

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

var _ Fleet = (*Postgres)(nil)

// reportSQL keeps reports in one statement. Three rules make it safe against reports that come late or twice:
//   - A process lists an incarnation from its start until the ledger has all of it. What it no longer lists is over.
//   - What a later process of the same name does not list should still be there and is gone: a volume was lost, or two
//     processes have one name. An audit waits a moment before it believes the former.
//   - Of two processes that have, or had, the same log the one that began later knows it better.
//
// An incarnation of which nothing is new is not written, only its proxy's row is.
const reportSQL = `WITH said AS (
	SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bool[], $4::text[]) AS x (name, started_at, stopped, report)
), listed AS (
	SELECT incarnation, holder, holder_started, last, live, open_calls::int8multirange, waiting::int8multirange, lost::int8multirange
	FROM unnest($5::int8[], $6::text[], $7::timestamptz[], $8::int8[], $9::bool[], $10::text[], $11::text[], $12::text[])
		AS x (incarnation, holder, holder_started, last, live, open_calls, waiting, lost)
), told AS (
	INSERT INTO proxies (name, started_at, stopped, report, at)
	SELECT name, started_at, stopped, report::jsonb, clock_timestamp() FROM said ORDER BY name
	ON CONFLICT (name) DO UPDATE SET started_at = excluded.started_at, stopped = excluded.stopped, report = excluded.report, at = excluded.at
), held AS (
	INSERT INTO incarnations AS i (incarnation, holder, holder_started, issued, covered, live, open_calls, waiting, lost, over)
	SELECT incarnation, holder, holder_started, last, last, live, open_calls, waiting, lost, NOT live AND open_calls = '{}' AND waiting = '{}'
	FROM listed ORDER BY incarnation
	ON CONFLICT (incarnation) DO UPDATE SET holder = excluded.holder, holder_started = excluded.holder_started,
		issued = greatest(i.issued, excluded.issued), covered = excluded.covered, live = excluded.live,
		open_calls = excluded.open_calls, waiting = excluded.waiting, lost = i.lost + excluded.lost, over = excluded.over,
		reported_at = clock_timestamp(), gone_at = NULL, settled_at = NULL
	WHERE excluded.holder_started >= i.holder_started AND (
		i.gone_at IS NOT NULL OR NOT i.lost @> excluded.lost OR
		(i.holder, i.holder_started, i.covered, i.live, i.open_calls, i.waiting, i.over) IS DISTINCT FROM
		(excluded.holder, excluded.holder_started, excluded.covered, excluded.live, excluded.open_calls, excluded.waiting, excluded.over))
)
UPDATE incarnations i SET
	over       = s.started_at = i.holder_started,
	live       = i.live AND s.started_at > i.holder_started,
	open_calls = CASE WHEN s.started_at > i.holder_started THEN i.open_calls ELSE '{}' END,
	waiting    = CASE WHEN s.started_at > i.holder_started THEN i.waiting ELSE '{}' END,
	gone_at    = CASE WHEN s.started_at > i.holder_started THEN clock_timestamp() END
FROM said s
WHERE i.holder = s.name AND NOT i.over AND NOT EXISTS (SELECT FROM listed l WHERE l.incarnation = i.incarnation)
	AND (s.started_at = i.holder_started OR s.started_at > i.holder_started AND i.gone_at IS NULL)`

// Report keeps what proxies say of themselves. See Fleet.
func (p *Postgres) Report(ctx context.Context, reports []ProxyReport) error {
	proxies, logs := newestOf(reports)
	if len(proxies) == 0 {
		return nil
	}
	var (
		names, documents, holders, open, waiting, lost []string
		started, holderStarted                         []time.Time
		stopped, live                                  []bool
		incarnations, last                             []int64
	)
	for _, r := range proxies {
		document, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("keep a report of %s: %w", r.Name, err)
		}
		names, documents = append(names, r.Name), append(documents, string(document))
		started, stopped = append(started, r.StartedAt), append(stopped, r.Stopped)
	}
	for _, l := range logs {
		incarnations, last = append(incarnations, int64(l.Incarnation)), append(last, int64(l.Last))
		holders, holderStarted, live = append(holders, l.holder), append(holderStarted, l.started), append(live, l.Live)
		open, waiting, lost = append(open, multirange(l.Open)), append(waiting, multirange(l.Waiting)), append(lost, multirange(l.Lost))
	}
	err := p.retry(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, reportSQL, names, started, stopped, documents, incarnations, holders, holderStarted, last, live, open, waiting, lost)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep the reports of %d proxies: %w", len(proxies), err)
	}
	return nil
}

// Proxies lists the proxies that were heard of since a time. See Fleet.
func (p *Postgres) Proxies(ctx context.Context, since time.Time) ([]ProxyReport, error) {
	rows, err := p.pool.Query(ctx, "SELECT report, at FROM proxies WHERE at >= $1 ORDER BY name", since)
	if err != nil {
		return nil, fmt.Errorf("list proxies: %w", err)
	}
	reports, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ProxyReport, err error) {
		var document []byte
		var at time.Time
		if err = row.Scan(&document, &at); err == nil {
			err = json.Unmarshal(document, &r)
		}
		r.At = at.UTC()
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list proxies: %w", err)
	}
	names := make([]string, len(reports))
	for i := range reports {
		names[i] = reports[i].Name
	}
	rows, err = p.pool.Query(ctx, `SELECT incarnation, holder, covered, live, open_calls::text, waiting::text, lost::text
FROM incarnations WHERE holder = ANY($1) AND NOT over ORDER BY incarnation`, names)
	if err != nil {
		return nil, fmt.Errorf("list the logs of proxies: %w", err)
	}
	logs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l heldLog, err error) {
		var incarnation, last int64
		if err = row.Scan(&incarnation, &l.holder, &last, &l.Live, (*pgRanges)(&l.Open), (*pgRanges)(&l.Waiting), (*pgRanges)(&l.Lost)); err == nil {
			l.Incarnation, l.Last = uint64(incarnation), uint64(last)
		}
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the logs of proxies: %w", err)
	}
	return withLogs(reports, logs), nil
}

// pgRanges reads an int8multirange that was selected as text.
type pgRanges Ranges

// Scan implements sql.Scanner.
func (r *pgRanges) Scan(src any) error {
	text, ok := src.(string)
	if src == nil {
		*r = nil
		return nil
	}
	if !ok {
		return fmt.Errorf("a multirange as a %T", src)
	}
	// Postgres writes {[1,3),[5,6)}: in order, disjoint, the end excluded.
	text = strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}")
	var all Ranges
	for text != "" {
		one, rest, _ := strings.Cut(text, ")")
		text = strings.TrimPrefix(rest, ",")
		low, high, both := strings.Cut(strings.TrimPrefix(one, "["), ",")
		first, err1 := strconv.ParseUint(low, 10, 64)
		after, err2 := strconv.ParseUint(high, 10, 64)
		if !both || err1 != nil || err2 != nil || after <= first {
			return fmt.Errorf("%.40q is no range of sequence numbers", one)
		}
		all = append(all, [2]uint64{first, after - 1})
	}
	*r = pgRanges(all)
	return nil
}
