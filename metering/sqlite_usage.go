package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// sqliteWhere collects conditions and their arguments.
type sqliteWhere struct {
	conditions []string
	args       []any
}

func (w *sqliteWhere) and(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

func (w *sqliteWhere) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// sqliteInstant reads microseconds as a time.
type sqliteInstant struct{ t *time.Time }

// Scan implements sql.Scanner. Null is the zero time.
func (s sqliteInstant) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s.t = time.Time{}
	case int64:
		*s.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a %T is no time", src)
	}
	return nil
}

// sqliteDate reads "2026-11-22" as a time.
type sqliteDate struct{ t *time.Time }

// Scan implements sql.Scanner. Null is the zero time.
func (s sqliteDate) Scan(src any) error {
	v, ok := src.(string)
	if src == nil {
		*s.t = time.Time{}
		return nil
	}
	if !ok {
		return fmt.Errorf("a %T is no date", src)
	}
	t, err := time.Parse(time.DateOnly, v)
	*s.t = t
	return err
}

// Usage answers a query: sums from the roll-ups and the newest calls from the log.
func (s *SQLite) Usage(ctx context.Context, q UsageQuery) (UsageReport, error) {
	plan, err := q.plan()
	if err != nil {
		return UsageReport{}, err
	}
	var report UsageReport
	if !plan.rowsOnly {
		if report.Groups, report.Total, err = s.sums(ctx, plan, false); err != nil {
			return UsageReport{}, err
		}
	}
	rows, err := s.logRows(ctx, plan)
	if err != nil {
		return UsageReport{}, err
	}
	report.Rows, report.Next = plan.page(rows)
	return report, nil
}

// UsageFromLog gives the sums of Usage, added up from the log itself: what an audit compares the roll-ups with.
func (s *SQLite) UsageFromLog(ctx context.Context, q UsageQuery) (groups []UsageGroup, total Totals, err error) {
	plan, err := q.plan()
	if err != nil {
		return nil, Totals{}, err
	}
	return s.sums(ctx, plan, true)
}

// Money is added up in three parts, whole units, millionths and millionths of those, because SQLite's sum() has 64 bits
// and fails past them. Three sums of parts below a million hold for 9e12 rows.
const (
	sqliteRollupMoney = `u.cost_usd AS usd1, u.cost_usd_pico / 1000000 AS usd2, u.cost_usd_pico % 1000000 AS usd3,
	u.cost_brl AS brl1, u.cost_brl_pico / 1000000 AS brl2, u.cost_brl_pico % 1000000 AS brl3`
	sqliteLogMoney = `coalesce(sum(cost_usd / 1000000000000), 0) AS usd1, coalesce(sum(cost_usd / 1000000 % 1000000), 0) AS usd2,
	coalesce(sum(cost_usd % 1000000), 0) AS usd3, coalesce(sum(cost_brl / 1000000000000), 0) AS brl1,
	coalesce(sum(cost_brl / 1000000 % 1000000), 0) AS brl2, coalesce(sum(cost_brl % 1000000), 0) AS brl3`
)

func (s *SQLite) sums(ctx context.Context, plan *usagePlan, fromLog bool) ([]UsageGroup, Totals, error) {
	var where sqliteWhere
	column := "u.hour"
	if fromLog {
		column = "created_at"
	}
	if plan.ClientID != uuid.Nil {
		where.and("client_id = ?", plan.ClientID.String())
	}
	from, to := plan.hourRange()
	if !from.IsZero() {
		where.and(column+" >= ?", from.UnixMicro())
	}
	if !to.IsZero() {
		where.and(column+" < ?", to.UnixMicro())
	}
	source := "(SELECT *, " + sqliteRollupMoney + " FROM usage_rollups u" + where.String() + ") u"
	if fromLog {
		source = plan.fromLog("client_id, created_at - created_at % 3600000000 AS hour, model_registry_id, model_name, provider, route, endpoint",
			sqliteLogMoney, where.String())
	}
	money := ", sum(usd1), sum(usd2), sum(usd3), sum(brl1), sum(brl2), sum(brl3)"
	if plan.Quantiles {
		money = ", usd1, usd2, usd3, brl1, brl2, brl3"
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+plan.dimensions("0", "'"+uuid.Nil.String()+"'")+plan.sums()+money+plan.histogramColumns(fromLog)+
		" FROM "+source+" LEFT JOIN ai_models_registry r ON r.id = u.model_registry_id"+plan.groupBy(), where.args...)
	if err != nil {
		return nil, Totals{}, fmt.Errorf("read usage: %w", err)
	}
	defer rows.Close()
	sums := usageSums{plan: plan}
	for rows.Next() {
		var g UsageGroup
		var h histogramScan
		var usd, brl [3]int64
		dest := []any{sqliteInstant{&g.Start}, &g.ClientID, &g.Model, &g.Provider, &g.Route, &g.Endpoint}
		for _, n := range g.counters() {
			dest = append(dest, n)
		}
		dest = append(dest, &usd[0], &usd[1], &usd[2], &brl[0], &brl[1], &brl[2])
		err := rows.Scan(append(dest, h.dest(plan, fromLog)...)...)
		g.USD, g.BRL = joinMoney(usd), joinMoney(brl)
		if err == nil {
			err = h.addTo(&g, plan, fromLog)
		}
		if err == nil {
			err = sums.add(g)
		}
		if err != nil {
			return nil, Totals{}, fmt.Errorf("read usage: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, Totals{}, fmt.Errorf("read usage: %w", err)
	}
	groups, total := sums.result()
	return groups, total, nil
}

// joinMoney adds whole units, millionths, and millionths of those.
func joinMoney(parts [3]int64) decimal.Decimal {
	return decimal.New(parts[0], 0).Add(decimal.New(parts[1], -6)).Add(decimal.New(parts[2], -12))
}

func (s *SQLite) logRows(ctx context.Context, plan *usagePlan) ([]logRow, error) {
	if plan.Limit < 0 {
		return nil, nil
	}
	var where sqliteWhere
	if plan.ClientID != uuid.Nil {
		where.and("client_id = ?", plan.ClientID.String())
	}
	if !plan.From.IsZero() {
		where.and("created_at >= ?", plan.From.UnixMicro())
	}
	if !plan.To.IsZero() {
		where.and("created_at < ?", plan.To.UnixMicro())
	}
	if plan.after != nil {
		where.and("(created_at, incarnation, seq) < (?, ?, ?)", plan.after.at, plan.after.incarnation, plan.after.seq)
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+sqliteReadColumns()+" FROM gateway_usage_logs"+where.String()+
		" ORDER BY created_at DESC, incarnation DESC, seq DESC LIMIT "+strconv.Itoa(plan.Limit+1), where.args...)
	if err != nil {
		return nil, fmt.Errorf("read the usage log: %w", err)
	}
	defer rows.Close()
	var all []logRow
	for rows.Next() {
		var r logRow
		if err := scanSQLiteRow(rows, &r); err != nil {
			return nil, fmt.Errorf("read the usage log: %w", err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the usage log: %w", err)
	}
	return all, nil
}

// sqliteReadColumns is what scanSQLiteRow reads.
func sqliteReadColumns() string {
	columns := make([]string, len(allColumns))
	for i, c := range allColumns {
		columns[i] = c.name
		switch c.kind {
		case asOptional, asDocument, asIDOrNil:
			columns[i] = "coalesce(" + c.name + ", '')"
		case asRate:
			columns[i] = "coalesce(" + c.name + ", 0)"
		}
	}
	return strings.Join(columns, ", ") + ", recorded_at"
}

func scanSQLiteRow(rows interface{ Scan(...any) error }, r *logRow) error {
	dest := make([]any, 0, len(allColumns)+1)
	for _, c := range allColumns {
		at := c.at(r)
		if t, ok := at.(*time.Time); ok && c.kind == asDay {
			at = sqliteDate{t}
		} else if ok {
			at = sqliteInstant{t}
		}
		dest = append(dest, at)
	}
	return rows.Scan(append(dest, sqliteInstant{&r.recordedAt})...)
}

// Owner tells on which route an upstream gave this id to a call of this client, as far as the ledger knows: a call of
// the last seconds may still be on its way here.
func (s *SQLite) Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT route, provider FROM gateway_usage_logs WHERE client_id = ? AND upstream_id = ? LIMIT 1",
		client.String(), cleanText(upstreamID, maxColumn)).Scan(&route, &provider)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", false, nil
	}
	if err != nil {
		return "", "", false, fmt.Errorf("look up an upstream id: %w", err)
	}
	return route, provider, upstreamID != "", nil
}

// Seen tells whether the ledger has a call of a conversation since a time.
func (s *SQLite) Seen(ctx context.Context, client uuid.UUID, conversation string, since time.Time) (seen bool, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM gateway_usage_logs WHERE client_id = ? AND created_at >= ? AND conversation_id = ?)",
		client.String(), since.UnixMicro(), cleanText(conversation, maxColumn)).Scan(&seen)
	if err != nil {
		return false, fmt.Errorf("look up a conversation: %w", err)
	}
	return seen, nil
}

// MakePartitions has nothing to do: SQLite has no partitions.
func (s *SQLite) MakePartitions(context.Context, time.Time, int) (made int, err error) { return 0, nil }
