package metering

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// UsageRow is one call as the log has it, or a correction of one: what it truly used and cost minus what was estimated,
// so that the two rows add up to the truth.
type UsageRow struct {
	ID uuid.UUID
	Event
	RecordedAt time.Time
	Corrects   uuid.UUID // ID of the row that this one corrects; zero: it is a call
}

// Dimension is something sums can be told apart by.
type Dimension string

// The dimensions of usage.
const (
	ByHour     Dimension = "hour"
	ByDay      Dimension = "day"
	ByMonth    Dimension = "month"
	ByClient   Dimension = "client"
	ByModel    Dimension = "model"
	ByProvider Dimension = "provider"
	ByRoute    Dimension = "route"
	ByEndpoint Dimension = "endpoint"
)

// UsageQuery asks what was used. The zero value asks for the newest calls of all clients and the sum of everything.
type UsageQuery struct {
	ClientID uuid.UUID      // zero: all clients
	From     time.Time      // inclusive; zero: since the beginning
	To       time.Time      // exclusive; zero: until now
	GroupBy  []Dimension    // empty: one sum
	Zone     *time.Location // whose days and months; nil: UTC
	Limit    int            // rows; 0: 50, negative: none, at most 1000
	Cursor   string         // Next of the page before; sums are only for the first page
	RowsOnly bool           // no sums, on the first page either

	Quantiles bool // histograms, too: every roll-up has to be read for them, not only summed
}

// UsageReport is the answer: sums from the roll-ups, rows from the log.
//
// Roll-ups are by the hour, so the sums cover every hour that From … To touches, as a whole. The rows are exact. Where
// only rows were asked for, by RowsOnly or a Cursor, there are no sums.
type UsageReport struct {
	Total  Totals
	Groups []UsageGroup // ordered by time, then by the dimensions as asked
	Rows   []UsageRow   // newest first
	Next   string       // empty on the last page
}

// UsageGroup is a sum over calls that are alike in the dimensions asked for. The others are empty.
type UsageGroup struct {
	Start    time.Time // of the hour, day or month
	ClientID uuid.UUID
	Model    string // gateway id, where the registry knows the model; else the name the upstream gave
	Provider string
	Route    string
	Endpoint string
	Totals
}

// usagePlace is where a page of rows begins: after this row.
type usagePlace struct {
	at          int64 // microseconds
	incarnation int64
	seq         int64
}

var errCursor = errors.New("cursor: not one of ours; leave it out to begin again")

func (p usagePlace) String() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.at))
	b = binary.BigEndian.AppendUint64(b, uint64(p.incarnation))
	b = binary.BigEndian.AppendUint64(b, uint64(p.seq))
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseUsagePlace(s string) (usagePlace, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 24 {
		return usagePlace{}, errCursor
	}
	return usagePlace{
		at:          int64(binary.BigEndian.Uint64(b)),
		incarnation: int64(binary.BigEndian.Uint64(b[8:])),
		seq:         int64(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

// usagePlan is a checked UsageQuery.
type usagePlan struct {
	UsageQuery
	after    *usagePlace
	rowsOnly bool
}

// maxGroups bounds what one answer has. A year by the hour for one client is 8784.
const maxGroups = 200_000

var errTooManyGroups = errors.New("usage: too many groups; ask for a shorter time or fewer dimensions")

func (q UsageQuery) plan() (*usagePlan, error) {
	p := &usagePlan{UsageQuery: q, rowsOnly: q.RowsOnly || q.Cursor != ""}
	switch {
	case q.Limit == 0:
		p.Limit = 50
	case q.Limit > 1000:
		p.Limit = 1000
	}
	if p.Zone == nil {
		p.Zone = time.UTC
	}
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		return nil, errors.New("usage: to is before from")
	}
	if q.Cursor != "" {
		after, err := parseUsagePlace(q.Cursor)
		if err != nil {
			return nil, err
		}
		p.after = &after
	}
	for _, d := range q.GroupBy {
		if _, ok := rollupColumns[d]; !ok {
			return nil, fmt.Errorf("usage: cannot group by %.40q; one of hour, day, month, client, model, provider, route, endpoint", d)
		}
	}
	return p, nil
}

// rollupColumns is where a dimension is in usage_rollups (u), joined with ai_models_registry (r).
var rollupColumns = map[Dimension]string{
	ByHour: "u.hour", ByDay: "u.hour", ByMonth: "u.hour", ByClient: "u.client_id",
	ByModel: "coalesce(r.gateway_identifier, u.model_name)", ByProvider: "u.provider", ByRoute: "u.route", ByEndpoint: "u.endpoint",
}

func (p *usagePlan) has(d Dimension) bool { return slices.Contains(p.GroupBy, d) }

func (p *usagePlan) byTime() bool { return p.has(ByHour) || p.has(ByDay) || p.has(ByMonth) }

// dimensions are what a store must select and group by: hour, client, model, provider, route and endpoint, each a
// constant of its own type where it was not asked for.
func (p *usagePlan) dimensions(noHour, noClient string) string {
	all := []string{noHour, noClient, "''", "''", "''", "''"}
	if p.byTime() {
		all[0] = rollupColumns[ByHour]
	}
	for i, d := range []Dimension{ByClient, ByModel, ByProvider, ByRoute, ByEndpoint} {
		if p.has(d) {
			all[i+1] = rollupColumns[d]
		}
	}
	return strings.Join(all, ", ")
}

// sums selects the counters of u: added up by the store, or each row as it is where the histograms beside them can only
// be merged here.
func (p *usagePlan) sums() string {
	var b strings.Builder
	for _, s := range rollupSums {
		if p.Quantiles {
			b.WriteString(", u." + s.name)
		} else {
			b.WriteString(", CAST(sum(u." + s.name + ") AS bigint)")
		}
	}
	return b.String()
}

// groupBy ends a query for sums.
func (p *usagePlan) groupBy() string {
	if p.Quantiles {
		return ""
	}
	return fmt.Sprintf(" GROUP BY 1, 2, 3, 4, 5, 6 LIMIT %d", maxGroups+1)
}

// fromLog is usage_rollups (u), made of the log: columns of its key, which the stores write in different ways, and sums.
func (p *usagePlan) fromLog(key, money, where string) string {
	var b strings.Builder
	b.WriteString("(SELECT " + key)
	for _, s := range rollupSums {
		b.WriteString(", " + s.of + " AS " + s.name)
	}
	b.WriteString(", " + money)
	by := " GROUP BY 1, 2, 3, 4, 5, 6, 7"
	if p.Quantiles { // calls that took the same time can stay together
		b.WriteString(", latency_ms AS took_ms, ttft_ms AS answered_ms")
		by += ", latency_ms, ttft_ms"
	}
	return b.String() + " FROM gateway_usage_logs" + where + by + ") u"
}

// histogramColumns are what is read of u for the histograms.
func (p *usagePlan) histogramColumns(fromLog bool) string {
	switch {
	case !p.Quantiles:
		return ""
	case fromLog:
		return ", u.took_ms, u.answered_ms"
	default:
		return ", u.latency_histogram, u.ttft_histogram"
	}
}

// histogramScan reads histogramColumns.
type histogramScan struct {
	latency, ttft    []byte
	tookMs, answered int64
}

func (h *histogramScan) dest(p *usagePlan, fromLog bool) []any {
	switch {
	case !p.Quantiles:
		return nil
	case fromLog:
		return []any{&h.tookMs, &h.answered}
	default:
		return []any{&h.latency, &h.ttft}
	}
}

// addTo gives a group its histograms.
func (h *histogramScan) addTo(g *UsageGroup, p *usagePlan, fromLog bool) (err error) {
	switch {
	case !p.Quantiles:
		return nil
	case fromLog: // corrections count no calls
		g.Latency.AddTimes(h.tookMs, uint64(g.Calls))
		if h.answered > 0 {
			g.TTFT.AddTimes(h.answered, uint64(g.Calls))
		}
		return nil
	}
	if g.Latency, err = DecodeHistogram(h.latency); err != nil {
		return fmt.Errorf("usage_rollups.latency_histogram: %w", err)
	}
	if g.TTFT, err = DecodeHistogram(h.ttft); err != nil {
		return fmt.Errorf("usage_rollups.ttft_histogram: %w", err)
	}
	return nil
}

// hourRange is the time asked for, widened to whole hours; zero where it has no bound.
func (p *usagePlan) hourRange() (from, to time.Time) {
	if !p.From.IsZero() {
		from = p.From.Truncate(time.Hour)
	}
	if !p.To.IsZero() {
		to = p.To.Add(time.Hour - 1).Truncate(time.Hour)
	}
	return from, to
}

// page makes the answer's rows of those that the store read, which are one more than the limit where there are more.
func (p *usagePlan) page(rows []logRow) (page []UsageRow, next string) {
	if p.Limit >= 0 && len(rows) > p.Limit {
		rows = rows[:p.Limit]
		last := &rows[p.Limit-1]
		next = usagePlace{last.AdmittedAt.UnixMicro(), last.incarnation, last.seq}.String()
	}
	for i := range rows {
		page = append(page, rows[i].usageRow())
	}
	return page, next
}

// start is the beginning of the hour, day or month that a roll-up's hour is in.
func (p *usagePlan) start(hour time.Time) time.Time {
	at := hour.In(p.Zone)
	switch {
	case p.has(ByHour):
		return at
	case p.has(ByDay):
		return time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, p.Zone)
	case p.has(ByMonth):
		return time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, p.Zone)
	}
	return time.Time{}
}

// usageSums makes a report's groups and total of what a store reads, hour by hour.
type usageSums struct {
	plan   *usagePlan
	at     map[usageGroupKey]int
	groups []UsageGroup
	total  Totals
	read   int
}

type usageGroupKey struct {
	start  int64
	client uuid.UUID
	texts  [4]string
}

// add takes a sum that a store has read. Its time is the beginning of its hour.
func (s *usageSums) add(g UsageGroup) error {
	if s.read++; s.read > maxGroups && !s.plan.Quantiles { // the store stopped there
		return errTooManyGroups
	}
	if !s.total.add(&g.Totals) {
		return errors.New("usage: a sum of counts does not fit 64 bits; ask for a shorter time")
	}
	if len(s.plan.GroupBy) == 0 {
		return nil
	}
	if s.plan.byTime() {
		g.Start = s.plan.start(g.Start)
	} else {
		g.Start = time.Time{}
	}
	k := usageGroupKey{g.Start.UnixMicro(), g.ClientID, [4]string{g.Model, g.Provider, g.Route, g.Endpoint}}
	if i, ok := s.at[k]; ok {
		s.groups[i].Totals.add(&g.Totals) // fits, because the total does
		return nil
	}
	if len(s.groups) == maxGroups {
		return errTooManyGroups
	}
	if s.at == nil {
		s.at = map[usageGroupKey]int{}
	}
	s.at[k] = len(s.groups)
	s.groups = append(s.groups, g)
	return nil
}

// result is what was added, in the order of reports.
func (s *usageSums) result() (groups []UsageGroup, total Totals) {
	slices.SortStableFunc(s.groups, func(a, b UsageGroup) int {
		if c := a.Start.Compare(b.Start); c != 0 {
			return c
		}
		return strings.Compare(a.sortKey(), b.sortKey())
	})
	return s.groups, s.total
}

func (g *UsageGroup) sortKey() string {
	return g.ClientID.String() + "\x00" + g.Model + "\x00" + g.Provider + "\x00" + g.Route + "\x00" + g.Endpoint
}
