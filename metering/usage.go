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
	"github.com/shopspring/decimal"
)

// UsageRow is one call as the log has it.
type UsageRow struct {
	ID uuid.UUID
	Event
	RecordedAt time.Time
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
	Cursor   string         // Next of the page before
}

// UsageReport is the answer: sums from the roll-ups, rows from the log.
//
// Roll-ups are by the hour, so the sums cover every hour that From … To touches, as a whole. The rows are exact.
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

// Totals are sums over calls. Money is exact.
type Totals struct {
	Calls       int64
	Errors      int64 // ended as neither OK nor ClientGone
	ClientGone  int64
	Streamed    int64
	Estimated   int64 // counts worked out by us
	UnknownCost int64 // calls that are missing from USD and BRL
	WasCached   int64
	WasFallback int64

	Input       int64
	Output      int64
	Total       int64
	Cached      int64
	CacheWrite  int64
	Reasoning   int64
	AudioInput  int64
	AudioOutput int64
	AudioMs     int64
	Images      int64
	Characters  int64

	LatencyMs  int64
	Answered   int64 // calls with a first byte
	TTFTMs     int64
	OverheadUs int64

	USD decimal.Decimal
	BRL decimal.Decimal
}

// rollupSum is a column of usage_rollups and what it is the sum of, in SQL that both stores understand.
type rollupSum struct{ name, of string }

// rollupSums are the roll-ups' columns but for money, in the order of Totals.counters.
var rollupSums = []rollupSum{
	{"calls", "count(*)"},
	{"errors", "count(*) FILTER (WHERE outcome NOT IN ('ok', 'client_gone'))"},
	{"client_gone", "count(*) FILTER (WHERE outcome = 'client_gone')"},
	{"streamed", "count(*) FILTER (WHERE streamed)"},
	{"estimated", "count(*) FILTER (WHERE usage_source = 'estimated')"},
	{"unknown_cost", "count(*) FILTER (WHERE cost_usd IS NULL)"},
	{"was_cached", "count(*) FILTER (WHERE was_cached)"},
	{"was_fallback", "count(*) FILTER (WHERE was_fallback)"},
	{"input_tokens", "sum(input_tokens)"},
	{"output_tokens", "sum(output_tokens)"},
	{"total_tokens", "sum(total_tokens)"},
	{"cached_tokens", "sum(cached_tokens)"},
	{"cache_write_tokens", "sum(cache_write_tokens)"},
	{"reasoning_tokens", "sum(reasoning_tokens)"},
	{"audio_input_tokens", "sum(audio_input_tokens)"},
	{"audio_output_tokens", "sum(audio_output_tokens)"},
	{"audio_ms", "sum(audio_ms)"},
	{"images", "sum(images)"},
	{"characters", "sum(characters)"},
	{"latency_ms", "sum(latency_ms)"},
	{"answered", "count(*) FILTER (WHERE ttft_ms > 0)"},
	{"ttft_ms", "sum(ttft_ms)"},
	{"overhead_us", "sum(overhead_us)"},
}

func (t *Totals) counters() []*int64 {
	return []*int64{
		&t.Calls, &t.Errors, &t.ClientGone, &t.Streamed, &t.Estimated, &t.UnknownCost, &t.WasCached, &t.WasFallback,
		&t.Input, &t.Output, &t.Total, &t.Cached, &t.CacheWrite, &t.Reasoning, &t.AudioInput, &t.AudioOutput,
		&t.AudioMs, &t.Images, &t.Characters, &t.LatencyMs, &t.Answered, &t.TTFTMs, &t.OverheadUs,
	}
}

// count is what one row adds to the sums, but for money: rollupSums, in Go.
func (r *logRow) count() Totals {
	one := func(is bool) int64 {
		if is {
			return 1
		}
		return 0
	}
	return Totals{
		Calls: 1, Errors: one(r.Outcome != OK && r.Outcome != ClientGone), ClientGone: one(r.Outcome == ClientGone),
		Streamed: one(r.Streamed), Estimated: one(r.Usage.Source == Estimated), UnknownCost: one(!r.Known),
		WasCached: one(r.WasCached), WasFallback: one(r.WasFallback),
		Input: r.Input, Output: r.Output, Total: r.Total, Cached: r.Cached, CacheWrite: r.CacheWrite,
		Reasoning: r.Reasoning, AudioInput: r.AudioInput, AudioOutput: r.AudioOutput, AudioMs: r.AudioMs,
		Images: r.Images, Characters: r.Characters, LatencyMs: r.LatencyMs, Answered: one(r.TTFTMs > 0),
		TTFTMs: r.TTFTMs, OverheadUs: r.OverheadUs,
	}
}

// add sums up. ok is false when a sum would not fit, and t is then no sum any more.
func (t *Totals) add(o *Totals) (ok bool) {
	ok = true
	from := o.counters()
	for i, n := range t.counters() {
		was := *n
		*n += *from[i]
		ok = ok && (*n >= was) == (*from[i] >= 0)
	}
	t.USD, t.BRL = t.USD.Add(o.USD), t.BRL.Add(o.BRL)
	return ok
}

// Percent is part of whole in percent with two places, half away from zero; 0 of nothing is 0.
func Percent(part, whole decimal.Decimal) decimal.Decimal {
	if whole.IsZero() {
		return decimal.Zero
	}
	return part.Shift(2).DivRound(whole, 2)
}

// ErrorPercent is the share of calls that failed.
func (t *Totals) ErrorPercent() decimal.Decimal {
	return Percent(decimal.NewFromInt(t.Errors), decimal.NewFromInt(t.Calls))
}

// CachedPercent is the share of prompt tokens that providers read from their caches.
func (t *Totals) CachedPercent() decimal.Decimal {
	return Percent(decimal.NewFromInt(t.Cached), decimal.NewFromInt(t.Input))
}

// MeanLatencyMs is the mean time to the last byte.
func (t *Totals) MeanLatencyMs() int64 { return meanOf(t.LatencyMs, t.Calls) }

// MeanTTFTMs is the mean time to the first byte, of calls that had one.
func (t *Totals) MeanTTFTMs() int64 { return meanOf(t.TTFTMs, t.Answered) }

func meanOf(total, n int64) int64 {
	if n == 0 {
		return 0
	}
	return (total + n/2) / n
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
	after *usagePlace
}

// maxGroups bounds what is read for one answer. A year by the hour for one client is 8784.
const maxGroups = 200_000

var errTooManyGroups = errors.New("usage: too many groups; ask for a shorter time or fewer dimensions")

func (q UsageQuery) plan() (*usagePlan, error) {
	p := &usagePlan{UsageQuery: q}
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

// fold makes the report's groups and total of what the store read, hour by hour.
func (p *usagePlan) fold(read []UsageGroup) (groups []UsageGroup, total Totals, err error) {
	type key struct {
		start  int64
		client uuid.UUID
		texts  [4]string
	}
	if len(read) > maxGroups {
		return nil, Totals{}, errTooManyGroups
	}
	at := make(map[key]int, len(read))
	for _, g := range read {
		if !total.add(&g.Totals) {
			return nil, Totals{}, errors.New("usage: a sum of counts does not fit 64 bits; ask for a shorter time")
		}
		if len(p.GroupBy) == 0 {
			continue
		}
		if p.byTime() {
			g.Start = p.start(g.Start)
		} else {
			g.Start = time.Time{}
		}
		k := key{g.Start.UnixMicro(), g.ClientID, [4]string{g.Model, g.Provider, g.Route, g.Endpoint}}
		if i, ok := at[k]; ok {
			groups[i].Totals.add(&g.Totals) // fits, because the total does
			continue
		}
		at[k] = len(groups)
		groups = append(groups, g)
	}
	slices.SortStableFunc(groups, func(a, b UsageGroup) int {
		if c := a.Start.Compare(b.Start); c != 0 {
			return c
		}
		return strings.Compare(a.sortKey(), b.sortKey())
	})
	return groups, total, nil
}

func (g *UsageGroup) sortKey() string {
	return g.ClientID.String() + "\x00" + g.Model + "\x00" + g.Provider + "\x00" + g.Route + "\x00" + g.Endpoint
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
