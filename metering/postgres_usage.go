package metering

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"
)

// pgWhere collects conditions and their arguments.
type pgWhere struct {
	conditions []string
	args       []any
}

// and adds a condition; each ? in it is the next of args.
func (w *pgWhere) and(condition string, args ...any) {
	for _, arg := range args {
		w.args = append(w.args, arg)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(w.args)), 1)
	}
	w.conditions = append(w.conditions, condition)
}

func (w *pgWhere) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// pgRead is how a column of the log is selected, so that it fits the field it is for.
func pgRead(c logColumn) string {
	switch c.kind {
	case asOptional:
		return "coalesce(" + c.name + ", '')"
	case asDocument:
		return "coalesce(" + c.name + "::text, '')"
	case asDay:
		return "coalesce(" + c.name + ", '0001-01-01')"
	case asIDOrNil:
		return "coalesce(" + c.name + ", '00000000-0000-0000-0000-000000000000')"
	case asAmount:
		return "(" + c.name + " * 1000000000000)::int8"
	case asRate:
		return "coalesce((" + c.name + " * 100000000)::int8, 0)"
	default:
		return c.name
	}
}

// pgReadColumns is what scanPGRow reads, of the log or of something joined with it.
func pgReadColumns(alias string) string {
	columns := make([]string, len(allColumns))
	for i, c := range allColumns {
		c.name = alias + c.name
		columns[i] = pgRead(c)
	}
	return strings.Join(columns, ", ") + ", " + alias + "recorded_at"
}

func scanPGRow(row pgx.CollectableRow) (r logRow, err error) {
	dest := make([]any, 0, len(allColumns)+1)
	for _, c := range allColumns {
		dest = append(dest, c.at(&r))
	}
	err = row.Scan(append(dest, &r.recordedAt)...)
	return r, err
}

// Usage answers a query: sums from the roll-ups and the newest calls from the log.
func (p *Postgres) Usage(ctx context.Context, q UsageQuery) (UsageReport, error) {
	plan, err := q.plan()
	if err != nil {
		return UsageReport{}, err
	}
	var report UsageReport
	if !plan.rowsOnly {
		if report.Groups, report.Total, err = p.sums(ctx, plan, false); err != nil {
			return UsageReport{}, err
		}
	}
	rows, err := p.logRows(ctx, plan)
	if err != nil {
		return UsageReport{}, err
	}
	report.Rows, report.Next = plan.page(rows)
	return report, nil
}

// UsageFromLog gives the sums of Usage, added up from the log itself: what an audit compares the roll-ups with.
func (p *Postgres) UsageFromLog(ctx context.Context, q UsageQuery) (groups []UsageGroup, total Totals, err error) {
	plan, err := q.plan()
	if err != nil {
		return nil, Totals{}, err
	}
	return p.sums(ctx, plan, true)
}

func (p *Postgres) sums(ctx context.Context, plan *usagePlan, fromLog bool) ([]UsageGroup, Totals, error) {
	var where pgWhere
	column := "u.hour"
	if fromLog {
		column = "created_at"
	}
	if plan.ClientID != uuid.Nil {
		where.and("client_id = ?", plan.ClientID)
	}
	from, to := plan.hourRange()
	if !from.IsZero() {
		where.and(column+" >= ?", from)
	}
	if !to.IsZero() {
		where.and(column+" < ?", to)
	}
	source := "usage_rollups u"
	conditions := where.String()
	if fromLog {
		source = plan.fromLog("client_id, date_trunc('hour', created_at, 'UTC') AS hour, model_registry_id, model_name, provider, route, endpoint",
			"coalesce(sum(cost_usd), 0) AS cost_usd, coalesce(sum(cost_brl), 0) AS cost_brl", conditions)
		conditions = ""
	}
	usd, brl := "sum(u.cost_usd)", "sum(u.cost_brl)"
	if plan.Quantiles {
		usd, brl = "u.cost_usd", "u.cost_brl"
	}
	rows, err := p.pool.Query(ctx, "SELECT "+plan.dimensions("timestamptz '1970-01-01 00:00:00+00'", "uuid '00000000-0000-0000-0000-000000000000'")+
		plan.sums()+", "+usd+"::text, "+brl+"::text"+plan.histogramColumns(fromLog)+
		" FROM "+source+" LEFT JOIN ai_models_registry r ON r.id = u.model_registry_id"+conditions+plan.groupBy(), where.args...)
	if err != nil {
		return nil, Totals{}, fmt.Errorf("read usage: %w", err)
	}
	defer rows.Close()
	sums := usageSums{plan: plan}
	for rows.Next() {
		var g UsageGroup
		var h histogramScan
		dest := []any{&g.Start, &g.ClientID, &g.Model, &g.Provider, &g.Route, &g.Endpoint}
		for _, n := range g.counters() {
			dest = append(dest, n)
		}
		dest = append(dest, textDecimal{&g.USD}, textDecimal{&g.BRL})
		err := rows.Scan(append(dest, h.dest(plan, fromLog)...)...)
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

func (p *Postgres) logRows(ctx context.Context, plan *usagePlan) ([]logRow, error) {
	if plan.Limit < 0 {
		return nil, nil
	}
	var where pgWhere
	if plan.ClientID != uuid.Nil {
		where.and("client_id = ?", plan.ClientID)
	}
	if !plan.From.IsZero() {
		where.and("created_at >= ?", plan.From)
	}
	if !plan.To.IsZero() {
		where.and("created_at < ?", plan.To)
	}
	if plan.after != nil {
		where.and("(created_at, incarnation, seq) < (?, ?, ?)", time.UnixMicro(plan.after.at), plan.after.incarnation, plan.after.seq)
	}
	rows, err := p.pool.Query(ctx, "SELECT "+pgReadColumns("")+" FROM gateway_usage_logs"+where.String()+
		" ORDER BY created_at DESC, incarnation DESC, seq DESC LIMIT "+strconv.Itoa(plan.Limit+1), where.args...)
	if err != nil {
		return nil, fmt.Errorf("read the usage log: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanPGRow)
	if err != nil {
		return nil, fmt.Errorf("read the usage log: %w", err)
	}
	return all, nil
}

// Owner tells on which route an upstream gave this id to a call of this client, as far as the ledger knows: a call of
// the last seconds may still be on its way here.
func (p *Postgres) Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error) {
	err = p.pool.QueryRow(ctx, "SELECT route, provider FROM gateway_usage_logs WHERE client_id = $1 AND upstream_id = $2 LIMIT 1",
		client, cleanText(upstreamID, maxColumn)).Scan(&route, &provider)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", false, nil
	}
	if err != nil {
		return "", "", false, fmt.Errorf("look up an upstream id: %w", err)
	}
	return route, provider, upstreamID != "", nil
}

// Seen tells whether the ledger has a call of a conversation since a time. Nothing indexes conversations: it looks through
// the client's calls since then, newest first, and is for rare questions.
func (p *Postgres) Seen(ctx context.Context, client uuid.UUID, conversation string, since time.Time) (seen bool, err error) {
	err = p.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM gateway_usage_logs WHERE client_id = $1 AND created_at >= $2 AND conversation_id = $3)",
		client, since, cleanText(conversation, maxColumn)).Scan(&seen)
	if err != nil {
		return false, fmt.Errorf("look up a conversation: %w", err)
	}
	return seen, nil
}

// textDecimal reads a decimal number that a store gives as text.
type textDecimal struct{ d *decimal.Decimal }

// Scan implements sql.Scanner.
func (t textDecimal) Scan(src any) (err error) {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("a %T is no decimal number", src)
	}
	*t.d, err = decimal.NewFromString(s)
	return err
}
