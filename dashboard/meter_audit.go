package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/catraca/catraca/metering"
)

// Meter is what the ledger knows of itself: whether it adds up, and which proxies it hears from.
type Meter interface {
	Audit(ctx context.Context, o metering.AuditOptions) (metering.AuditReport, error)
	Proxies(ctx context.Context, since time.Time) ([]metering.ProxyReport, error)
}

// MeterAudit says whether the meter adds up.
type MeterAudit struct {
	At           time.Time `json:"at" doc:"Of the snapshot that all of this is from."`
	Depth        string    `json:"depth" enum:"recent,full"`
	From         time.Time `json:"from,omitzero" doc:"Log and roll-ups were compared from this hour on; absent: all there is."`
	TookMs       int64     `json:"took_ms"`
	Holds        bool      `json:"holds"`
	Incarnations int       `json:"incarnations" doc:"Runs of proxies whose calls were looked at."`
	Unaccounted  uint64    `json:"unaccounted" doc:"Calls that began and that neither the ledger nor any proxy has."`
	OnTheWay     uint64    `json:"on_the_way" doc:"Calls that a proxy has and the ledger not yet."`
	Silent       uint64    `json:"silent" doc:"Calls that only a proxy has that is not heard of; after a day they count as unaccounted."`
	Unjudged     uint64    `json:"unjudged" doc:"Calls newer than the last report of their proxy."`

	Checks []MeterCheck          `json:"checks" nullable:"false"`
	Gaps   []MeterGap            `json:"gaps" nullable:"false" doc:"The first hundred."`
	Totals map[string]MeterTotal `json:"totals" doc:"What the ledger holds, by how it was counted: measured, estimated, none, and dead for open dead letters."`
}

// MeterCheck is one equality.
type MeterCheck struct {
	ID         string `json:"id" example:"I3-tokens"`
	Name       string `json:"name"`
	Left       string `json:"left"`
	Right      string `json:"right"`
	Difference string `json:"difference"`
	Holds      bool   `json:"holds"`
	Skipped    bool   `json:"skipped,omitzero" doc:"It was not checked; detail says why."`
	Detail     string `json:"detail,omitempty"`
}

// MeterGap is a set of calls that the ledger does not have.
type MeterGap struct {
	Incarnation string    `json:"incarnation" doc:"Of the run of a proxy, in hexadecimal."`
	Numbers     string    `json:"numbers" example:"7-9,12"`
	Count       uint64    `json:"count"`
	State       string    `json:"state" enum:"lost,unaccounted,silent"`
	Proxy       string    `json:"proxy,omitempty"`
	Heard       time.Time `json:"heard,omitzero" doc:"When that proxy was last heard of."`
}

// MeterTotal is a sum.
type MeterTotal struct {
	Calls            int64  `json:"calls"`
	InputTokens      int64  `json:"input_tokens"`
	OutputTokens     int64  `json:"output_tokens"`
	TotalTokens      int64  `json:"total_tokens"`
	CachedTokens     int64  `json:"cached_tokens"`
	CacheWriteTokens int64  `json:"cache_write_tokens"`
	ReasoningTokens  int64  `json:"reasoning_tokens"`
	AudioMs          int64  `json:"audio_ms"`
	Images           int64  `json:"images"`
	Characters       int64  `json:"characters"`
	CostUSD          string `json:"cost_usd"`
	CostBRL          string `json:"cost_brl"`
}

func (s *server) meterRoutes() {
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/audit", "audit-meter", "Whether every call is in the ledger once and all sums agree", "ai-gateway",
		describe("Everything is compared in one snapshot. A full audit reads the whole log: a million calls take some seconds."), fails(http.StatusNotFound)), s.auditMeter)
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/proxies", "list-proxies", "The proxies and what their spools hold", "ai-gateway",
		fails(http.StatusNotFound)), s.listProxies)
}

// errNoMeter is for a process that has no ledger of its own to look into.
func errNoMeter() error {
	return huma.Error404NotFound("this process keeps no ledger; ask the control plane")
}

func (s *server) auditMeter(ctx context.Context, in *struct {
	Depth       string    `query:"depth" enum:"recent,full" default:"full" doc:"recent compares the last two or three hours."`
	Since       time.Time `query:"since" doc:"A full audit leaves out the hours before."`
	TotalsSince time.Time `query:"totals_since" doc:"Totals are of the calls admitted from then on."`
},
) (*body[MeterAudit], error) {
	if s.Meter == nil {
		return nil, errNoMeter()
	}
	r, err := s.Meter.Audit(ctx, metering.AuditOptions{Depth: metering.AuditDepth(in.Depth), Since: in.Since, TotalsSince: in.TotalsSince})
	if err != nil {
		return nil, s.fail(ctx, "audit", err)
	}
	return answer(meterBody(&r)), nil
}

func meterBody(r *metering.AuditReport) MeterAudit {
	m := MeterAudit{
		At: r.At, Depth: string(r.Depth), From: r.From, TookMs: r.Took.Milliseconds(), Holds: r.Holds, Incarnations: r.Incarnations,
		Unaccounted: r.Unaccounted, OnTheWay: r.OnTheWay, Silent: r.Silent, Unjudged: r.Unjudged, Checks: []MeterCheck{}, Gaps: []MeterGap{},
		Totals: map[string]MeterTotal{},
	}
	for _, c := range r.Checks {
		m.Checks = append(m.Checks, MeterCheck(c))
	}
	for _, g := range r.Gaps {
		m.Gaps = append(m.Gaps, MeterGap(g))
	}
	for name, t := range map[string]metering.AuditAmount{"measured": r.Totals.Measured, "estimated": r.Totals.Estimated, "none": r.Totals.None, "dead": r.Totals.Dead} {
		m.Totals[name] = MeterTotal{
			Calls: t.Calls, InputTokens: t.Input, OutputTokens: t.Output, TotalTokens: t.Total, CachedTokens: t.Cached, CacheWriteTokens: t.CacheWrite,
			ReasoningTokens: t.Reasoning, AudioMs: t.AudioMs, Images: t.Images, Characters: t.Characters, CostUSD: t.USD.String(), CostBRL: t.BRL.String(),
		}
	}
	return m
}
