package dashboard

import (
	"context"
	"fmt"
	"time"

	"github.com/catraca/catraca/metering"
)

// Fleet is every proxy that was heard of.
type Fleet struct {
	ConfigVersion int64   `json:"config_version" doc:"The newest change of tenants, keys, models or prices."`
	Proxies       []Proxy `json:"proxies" nullable:"false"`
}

// Proxy is what a proxy said of itself last.
type Proxy struct {
	Name          string    `json:"name"`
	State         string    `json:"state" enum:"live,silent,stopped" doc:"silent: not heard of for a minute, and it did not say goodbye."`
	Version       string    `json:"version"`
	StartedAt     time.Time `json:"started_at"`
	SeenAt        time.Time `json:"seen_at"`
	ConfigVersion int64     `json:"config_version"`
	ConfigBehind  int64     `json:"config_behind" doc:"How many changes it has not taken yet."`
	LastFlush     time.Time `json:"last_flush,omitzero" doc:"When the ledger was last known to have taken a call of it."`
	OpenCalls     int       `json:"open_calls"`
	SpoolDepth    int       `json:"spool_depth" doc:"Ended calls that the ledger is not known to have."`
	SpoolOldestMs int64     `json:"spool_oldest_ms"`
	SpoolBytes    int64     `json:"spool_bytes"`
	SpoolMaxBytes int64     `json:"spool_max_bytes"`
	SpoolLost     int       `json:"spool_lost" doc:"Calls that its disk has lost."`
	Logs          []SpoolOf `json:"logs" nullable:"false"`
}

// SpoolOf is what a spool holds of one run of a proxy.
type SpoolOf struct {
	Incarnation string `json:"incarnation" doc:"In hexadecimal."`
	Last        uint64 `json:"last" doc:"The highest number that was given to a call."`
	Live        bool   `json:"live"`
	Open        uint64 `json:"open"`
	Waiting     uint64 `json:"waiting"`
	Lost        string `json:"lost,omitempty" example:"7-9,12"`
}

// silentAfter is when a proxy that reports every few seconds is held to be away.
const silentAfter = time.Minute

func (s *server) listProxies(ctx context.Context, in *struct {
	Since time.Time `query:"since" doc:"Only those heard of since; default: a day ago."`
},
) (*body[Fleet], error) {
	if s.Meter == nil {
		return nil, errNoMeter()
	}
	now := s.Now()
	if in.Since.IsZero() {
		in.Since = now.Add(-24 * time.Hour)
	}
	reports, err := s.Meter.Proxies(ctx, in.Since)
	if err != nil {
		return nil, s.fail(ctx, "proxy", err)
	}
	_, newest, err := s.Tenants.Changes(ctx, 0)
	if err != nil {
		return nil, s.fail(ctx, "configuration", err)
	}
	fleet := Fleet{ConfigVersion: newest, Proxies: make([]Proxy, 0, len(reports))}
	for i := range reports {
		fleet.Proxies = append(fleet.Proxies, proxyBody(&reports[i], now, newest))
	}
	return answer(fleet), nil
}

func proxyBody(r *metering.ProxyReport, now time.Time, newest int64) Proxy {
	p := Proxy{
		Name: r.Name, State: "live", Version: r.Version, StartedAt: utc(r.StartedAt), SeenAt: utc(r.At), ConfigVersion: r.ConfigVersion,
		ConfigBehind: max(0, newest-r.ConfigVersion), LastFlush: utc(r.LastFlush), OpenCalls: r.Open, SpoolDepth: r.Depth,
		SpoolOldestMs: r.Oldest.Milliseconds(), SpoolBytes: r.Bytes, SpoolMaxBytes: r.MaxBytes, SpoolLost: r.Lost, Logs: []SpoolOf{},
	}
	switch {
	case r.Stopped:
		p.State = "stopped"
	case now.Sub(r.At) > silentAfter:
		p.State = "silent"
	}
	for _, l := range r.Logs {
		p.Logs = append(p.Logs, SpoolOf{
			Incarnation: fmt.Sprintf("%016x", l.Incarnation), Last: l.Last, Live: l.Live, Open: l.Open.Count(), Waiting: l.Waiting.Count(), Lost: l.Lost.String(),
		})
	}
	return p
}
