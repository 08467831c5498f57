package dashboard

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
)

// Call is one call as the log has it.
type Call struct {
	ID             uuid.UUID `json:"id" format:"uuid"`
	RequestID      string    `json:"request_id"`
	At             time.Time `json:"at" doc:"When it was admitted, which fixed price, rate and day."`
	ClientID       uuid.UUID `json:"client_id" format:"uuid"`
	Client         string    `json:"client" doc:"The tenant's name; empty when it was deleted."`
	KeyID          uuid.UUID `json:"key_id,omitzero" format:"uuid"`
	ConversationID string    `json:"conversation_id,omitempty"`

	Endpoint   string `json:"endpoint"`
	Streamed   bool   `json:"streamed"`
	Route      string `json:"route" doc:"gateway or direct."`
	Provider   string `json:"provider"`
	Model      string `json:"model" doc:"That served, or was asked for when none did."`
	ModelAsked string `json:"model_asked"`

	Outcome      string    `json:"outcome" enum:"ok,refused,client_gone,truncated,unreachable,crashed,internal_error,correction"`
	Corrects     uuid.UUID `json:"corrects,omitzero" format:"uuid" doc:"Of a correction: the id of the row whose estimate it brings to the truth. Its numbers are the difference."`
	Status       int       `json:"status" doc:"What the upstream answered; 0: nothing."`
	ErrorCode    string    `json:"error_code,omitempty"`
	FinishReason string    `json:"finish_reason,omitempty"`
	LatencyMs    int64     `json:"latency_ms"`
	TTFTMs       int64     `json:"ttft_ms" doc:"Time to the first byte; 0: none came."`

	Source           string `json:"usage_source" enum:"none,measured,estimated"`
	InputTokens      int64  `json:"input_tokens"`
	OutputTokens     int64  `json:"output_tokens"`
	TotalTokens      int64  `json:"total_tokens"`
	CachedTokens     int64  `json:"cached_tokens"`
	CacheWriteTokens int64  `json:"cache_write_tokens"`
	ReasoningTokens  int64  `json:"reasoning_tokens"`
	AudioMs          int64  `json:"audio_ms"`
	Images           int64  `json:"images"`
	Characters       int64  `json:"characters"`

	CostKnown  bool   `json:"cost_known" doc:"false: no price was known, and the costs are empty."`
	CostUSD    string `json:"cost_usd" example:"0.00190375"`
	CostBRL    string `json:"cost_brl" example:"0.00979382"`
	ListUSD    string `json:"cost_usd_list,omitempty" doc:"By our price list."`
	GatewayUSD string `json:"cost_usd_gateway,omitempty" doc:"As the gateway said."`
	Rate       string `json:"usd_to_brl_rate" example:"5.1442"`
	RateDate   string `json:"rate_date,omitempty" format:"date"`
	RateSource string `json:"rate_source,omitempty"`

	WasCached      bool   `json:"was_cached"`
	WasFallback    bool   `json:"was_fallback"`
	FallbackReason string `json:"fallback_reason,omitempty"`
}

// CallPage is a page of calls, newest first.
type CallPage struct {
	Calls []Call `json:"calls" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"Send it as cursor to get the next page; absent on the last."`
}

// Span is which calls are meant. Huma reads parameters from exported fields alone, of embedded structs too.
type Span struct {
	ClientID uuid.UUID `query:"client_id" format:"uuid" doc:"Only this tenant."`
	From     time.Time `query:"from" doc:"Inclusive."`
	To       time.Time `query:"to" doc:"Exclusive."`
}

func (s Span) query() metering.UsageQuery {
	return metering.UsageQuery{ClientID: s.ClientID, From: s.From, To: s.To, Limit: -1}
}

func (s *server) usageRoutes() {
	const tag = "usage"
	huma.Register(s.api, operation(http.MethodGet, "/api/usage", "list-calls", "List calls, newest first", tag), s.listCalls)
	huma.Register(s.api, operation(http.MethodGet, "/api/usage/summary", "sum-calls", "Sums of calls", tag,
		describe("From hourly roll-ups: every hour that the time touches counts as a whole.")), s.sumCalls)
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/metrics", "gateway-metrics", "All tenants' usage, seen from several sides", tag,
		describe("From hourly roll-ups; the last 24 hours when no time is given.")), s.gatewayMetrics)
	huma.Register(s.api, operation(http.MethodGet, "/api/analytics/gateway", "client-analytics", "One tenant's usage, in its own days", tag, fails(http.StatusNotFound),
		describe("From hourly roll-ups; the last 30 days when no time is given.")), s.clientAnalytics)
	huma.Register(s.api, operation(http.MethodGet, "/api/exchange-rate", "exchange-rate", "The rate in use: reais for one dollar", tag), s.exchangeRate)
}

func (s *server) listCalls(ctx context.Context, in *struct {
	Span
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50"`
	Cursor string `query:"cursor" pattern:"^([A-Za-z0-9_-]{32})?$" patternDescription:"the next of a page before" doc:"next of the page before."`
},
) (*body[CallPage], error) {
	q := in.query()
	q.Limit, q.Cursor, q.RowsOnly = in.Limit, in.Cursor, true
	report, err := s.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	names, err := s.tenantNames(ctx)
	if err != nil {
		return nil, err
	}
	page := CallPage{Calls: make([]Call, 0, len(report.Rows)), Next: report.Next}
	for i := range report.Rows {
		page.Calls = append(page.Calls, callBody(&report.Rows[i], names))
	}
	return answer(page), nil
}

// ask tells apart what the caller got wrong from what went wrong here: a query is checked before a store is asked.
func (s *server) ask(ctx context.Context, q metering.UsageQuery) (metering.UsageReport, error) {
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		return metering.UsageReport{}, huma.Error422UnprocessableEntity("to is before from; exchange them", &huma.ErrorDetail{Location: "query.to", Message: "is before from"})
	}
	report, err := s.Usage.Usage(ctx, q)
	if err != nil {
		return metering.UsageReport{}, s.fail(ctx, "usage", err)
	}
	return report, nil
}

// tenantNames gives names to the ids of calls.
func (s *server) tenantNames(ctx context.Context) (map[uuid.UUID]string, error) {
	all, err := s.Tenants.Tenants(ctx)
	if err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	names := make(map[uuid.UUID]string, len(all))
	for _, t := range all {
		names[t.ID] = t.Name
	}
	return names, nil
}

// Sum is a sum over calls.
type Sum struct {
	Calls            int64  `json:"calls"`
	Errors           int64  `json:"errors" doc:"Ended as neither ok nor client_gone."`
	ErrorPercent     string `json:"error_percent" example:"0.42"`
	ClientGone       int64  `json:"client_gone"`
	Streamed         int64  `json:"streamed"`
	Estimated        int64  `json:"estimated" doc:"Calls whose tokens were worked out by us."`
	UnknownCost      int64  `json:"unknown_cost" doc:"Calls that are missing from the costs."`
	WasCached        int64  `json:"was_cached"`
	WasFallback      int64  `json:"was_fallback"`
	InputTokens      int64  `json:"input_tokens"`
	OutputTokens     int64  `json:"output_tokens"`
	TotalTokens      int64  `json:"total_tokens"`
	CachedTokens     int64  `json:"cached_tokens"`
	CachedPercent    string `json:"cached_percent" doc:"Of the prompt tokens." example:"31.07"`
	CacheWriteTokens int64  `json:"cache_write_tokens"`
	ReasoningTokens  int64  `json:"reasoning_tokens"`
	AudioMs          int64  `json:"audio_ms"`
	Images           int64  `json:"images"`
	Characters       int64  `json:"characters"`
	MeanLatencyMs    int64  `json:"mean_latency_ms"`
	MeanTTFTMs       int64  `json:"mean_ttft_ms"`
	CostUSD          string `json:"cost_usd" example:"12.3045"`
	CostBRL          string `json:"cost_brl" example:"63.30"`

	Latency *Quantiles `json:"latency,omitempty" doc:"To the last byte, of all calls; where it was asked for."`
	TTFT    *Quantiles `json:"ttft,omitempty" doc:"To the first byte, of the calls that had one; where it was asked for."`
}

// Quantiles are of a histogram, and within 2 % of those of the calls themselves.
type Quantiles struct {
	P50Ms int64 `json:"p50_ms"`
	P90Ms int64 `json:"p90_ms"`
	P95Ms int64 `json:"p95_ms"`
	P99Ms int64 `json:"p99_ms"`
}

func quantiles(h *metering.Histogram) *Quantiles {
	if h.Count() == 0 {
		return nil
	}
	return &Quantiles{h.Quantile(0.5), h.Quantile(0.9), h.Quantile(0.95), h.Quantile(0.99)}
}

// Group is a sum over calls that are alike in what was asked for.
type Group struct {
	Start    time.Time `json:"start,omitzero" doc:"Of the hour, day or month, in the zone asked for."`
	ClientID uuid.UUID `json:"client_id,omitzero" format:"uuid"`
	Client   string    `json:"client,omitempty"`
	Model    string    `json:"model,omitempty"`
	Provider string    `json:"provider,omitempty"`
	Route    string    `json:"route,omitempty"`
	Endpoint string    `json:"endpoint,omitempty"`
	Sum
}

// Summary is the sum of all, and of each group.
type Summary struct {
	Total  Sum     `json:"total"`
	Groups []Group `json:"groups" nullable:"false"`
}

func (s *server) sumCalls(ctx context.Context, in *struct {
	Span
	GroupBy   []string `query:"group_by" enum:"hour,day,month,client,model,provider,route,endpoint" doc:"Comma-separated."`
	TimeZone  string   `query:"time_zone" default:"UTC" doc:"Whose days and months; IANA name."`
	Quantiles bool     `query:"quantiles" doc:"Quantiles of latency and time to the first byte too."`
},
) (*body[Summary], error) {
	zone, err := time.LoadLocation(in.TimeZone)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity("time_zone is not an IANA name such as America/Sao_Paulo", &huma.ErrorDetail{Location: "query.time_zone", Message: "is unknown"})
	}
	q := in.query()
	q.Zone, q.Quantiles = zone, in.Quantiles
	for _, d := range in.GroupBy {
		q.GroupBy = append(q.GroupBy, metering.Dimension(d))
	}
	summary, err := s.summary(ctx, q)
	if err != nil {
		return nil, err
	}
	return answer(*summary), nil
}

func (s *server) summary(ctx context.Context, q metering.UsageQuery) (*Summary, error) {
	report, err := s.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	var names map[uuid.UUID]string
	if slices.Contains(q.GroupBy, metering.ByClient) {
		if names, err = s.tenantNames(ctx); err != nil {
			return nil, err
		}
	}
	summary := &Summary{Total: sumBody(&report.Total), Groups: make([]Group, 0, len(report.Groups))}
	for i := range report.Groups {
		g := &report.Groups[i]
		summary.Groups = append(summary.Groups, Group{
			Start: g.Start, ClientID: g.ClientID, Client: names[g.ClientID], Model: g.Model, Provider: g.Provider,
			Route: g.Route, Endpoint: g.Endpoint, Sum: sumBody(&g.Totals),
		})
	}
	return summary, nil
}

// Metrics is one stretch of usage, seen from several sides.
type Metrics struct {
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	TimeZone   string    `json:"time_zone"`
	Total      Sum       `json:"total"`
	ByTime     []Group   `json:"by_time" nullable:"false" doc:"By the hour up to three days, else by the day."`
	ByClient   []Group   `json:"by_client,omitempty"`
	ByModel    []Group   `json:"by_model" nullable:"false"`
	ByProvider []Group   `json:"by_provider" nullable:"false"`
	ByRoute    []Group   `json:"by_route" nullable:"false"`
	ByEndpoint []Group   `json:"by_endpoint" nullable:"false"`
}

func (s *server) gatewayMetrics(ctx context.Context, in *struct {
	From time.Time `query:"from" doc:"Inclusive; default: 24 hours before to."`
	To   time.Time `query:"to" doc:"Exclusive; default: now."`
},
) (*body[Metrics], error) {
	m, err := s.metrics(ctx, Span{From: in.From, To: in.To}, 24*time.Hour, s.Settings.TimeZone)
	if err != nil {
		return nil, err
	}
	return answer(*m), nil
}

func (s *server) clientAnalytics(ctx context.Context, in *struct {
	ClientID uuid.UUID `query:"client_id" format:"uuid" required:"true"`
	From     time.Time `query:"from" doc:"Inclusive; default: 30 days before to."`
	To       time.Time `query:"to" doc:"Exclusive; default: now."`
},
) (*body[Metrics], error) {
	t, err := s.Tenants.Tenant(ctx, in.ClientID)
	if err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	m, err := s.metrics(ctx, Span{in.ClientID, in.From, in.To}, 30*24*time.Hour, t.TimeZone)
	if err != nil {
		return nil, err
	}
	return answer(*m), nil
}

// metrics asks the roll-ups once for each side. Each is small; their product would not be.
func (s *server) metrics(ctx context.Context, in Span, length time.Duration, zoneName string) (*Metrics, error) {
	if in.To.IsZero() {
		in.To = s.Now()
	}
	if in.From.IsZero() {
		in.From = in.To.Add(-length)
	}
	zone, err := time.LoadLocation(zoneName)
	if err != nil {
		zone = time.UTC
	}
	m := &Metrics{From: in.From.UTC(), To: in.To.UTC(), TimeZone: zone.String()}
	step := metering.ByDay
	if in.To.Sub(in.From) <= 72*time.Hour {
		step = metering.ByHour
	}
	sides := []struct {
		by metering.Dimension
		to *[]Group
	}{
		{step, &m.ByTime},
		{metering.ByModel, &m.ByModel},
		{metering.ByProvider, &m.ByProvider},
		{metering.ByRoute, &m.ByRoute},
		{metering.ByEndpoint, &m.ByEndpoint},
		{metering.ByClient, &m.ByClient},
	}
	for _, side := range sides {
		if side.by == metering.ByClient && in.ClientID != uuid.Nil {
			continue
		}
		q := in.query()
		q.Zone, q.GroupBy, q.Quantiles = zone, []metering.Dimension{side.by}, true
		summary, err := s.summary(ctx, q)
		if err != nil {
			return nil, err
		}
		m.Total, *side.to = summary.Total, summary.Groups
	}
	return m, nil
}

func sumBody(t *metering.Totals) Sum {
	return Sum{
		Calls: t.Calls, Errors: t.Errors, ErrorPercent: t.ErrorPercent().StringFixed(2), ClientGone: t.ClientGone, Streamed: t.Streamed,
		Estimated: t.Estimated, UnknownCost: t.UnknownCost, WasCached: t.WasCached, WasFallback: t.WasFallback,
		InputTokens: t.Input, OutputTokens: t.Output, TotalTokens: t.Total, CachedTokens: t.Cached,
		CachedPercent: t.CachedPercent().StringFixed(2), CacheWriteTokens: t.CacheWrite, ReasoningTokens: t.Reasoning,
		AudioMs: t.AudioMs, Images: t.Images, Characters: t.Characters, MeanLatencyMs: t.MeanLatencyMs(), MeanTTFTMs: t.MeanTTFTMs(),
		CostUSD: t.USD.String(), CostBRL: t.BRL.String(), Latency: quantiles(&t.Latency), TTFT: quantiles(&t.TTFT),
	}
}

func callBody(r *metering.UsageRow, names map[uuid.UUID]string) Call {
	c := Call{
		ID: r.ID, RequestID: r.RequestID, At: r.AdmittedAt.UTC(), ClientID: r.ClientID, Client: names[r.ClientID], KeyID: r.KeyID,
		ConversationID: r.ConversationID, Endpoint: r.Endpoint, Streamed: r.Streamed, Route: r.Route, Provider: r.Provider,
		Model: r.ModelServed, ModelAsked: r.ModelAsked, Outcome: outcomeWord(r.Outcome), Status: r.Status, ErrorCode: r.ErrorCode,
		FinishReason: r.FinishReason, LatencyMs: r.LatencyMs, TTFTMs: r.TTFTMs, Source: sourceWord(r.Usage.Source),
		InputTokens: r.Input, OutputTokens: r.Output, TotalTokens: r.Total, CachedTokens: r.Cached, CacheWriteTokens: r.CacheWrite,
		ReasoningTokens: r.Reasoning, AudioMs: r.AudioMs, Images: r.Images, Characters: r.Characters,
		CostKnown: r.Known, CostUSD: amount(r.USD, r.Known), CostBRL: amount(r.BRL, r.Known),
		ListUSD: amount(r.ListUSD, r.ListKnown), GatewayUSD: amount(r.GateUSD, r.GateKnown),
		WasCached: r.WasCached, WasFallback: r.WasFallback, FallbackReason: r.FallbackReason, Corrects: r.Corrects,
	}
	if c.Corrects != uuid.Nil {
		c.Outcome = "correction"
	}
	if r.Rate.Rate > 0 {
		c.Rate, c.RateSource = r.Rate.Rate.String(), r.Rate.Source
	}
	if !r.Rate.Date.IsZero() {
		c.RateDate = r.Rate.Date.Format(time.DateOnly)
	}
	return c
}

// amount is empty where nothing is known: a zero would be taken for free.
func amount(p money.Pico, known bool) string {
	if !known {
		return ""
	}
	return p.String()
}

func sourceWord(s metering.Source) string {
	switch s {
	case metering.Measured:
		return "measured"
	case metering.Estimated:
		return "estimated"
	}
	return "none"
}

func outcomeWord(o metering.Outcome) string {
	words := map[metering.Outcome]string{
		metering.OK: "ok", metering.Refused: "refused", metering.ClientGone: "client_gone", metering.Truncated: "truncated",
		metering.Unreachable: "unreachable", metering.Crashed: "crashed", metering.InternalError: "internal_error",
	}
	if w := words[o]; w != "" {
		return w
	}
	return "internal_error"
}
