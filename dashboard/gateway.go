package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/catraca/catraca/metering"
)

// Rates is the exchange rate in use. It never waits.
type Rates interface {
	Rate() metering.ExchangeRate
}

// GatewayConfig is what the deployment runs with. It is set by environment variables and read here; no key is shown.
type GatewayConfig struct {
	Embedded           bool       `json:"embedded" doc:"SQLite in one process, or Postgres and Redis."`
	Listen             string     `json:"listen" doc:"Where OpenAI clients connect."`
	EnableGateway      bool       `json:"enable_ai_gateway" doc:"First level of the flag; the second is the tenant's use_ai_gateway."`
	TimeZone           string     `json:"time_zone" doc:"Of tenants that are created without one."`
	UnknownModelPolicy string     `json:"unknown_model_policy" enum:"refuse,meter"`
	Upstreams          []Upstream `json:"upstreams" nullable:"false"`
}

func (s *server) gatewayRoutes() {
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/config", "show-config", "What the deployment runs with", "gateway",
		describe("These are environment variables; catraca check explains each. Keys are never shown.")), s.showConfig)
}

func (s *server) showConfig(context.Context, *struct{}) (*body[GatewayConfig], error) {
	c := s.Settings
	upstreams := c.Upstreams
	if upstreams == nil {
		upstreams = []Upstream{}
	}
	return answer(GatewayConfig{
		Embedded: c.Embedded, Listen: c.Listen, EnableGateway: c.EnableGateway, TimeZone: c.TimeZone,
		UnknownModelPolicy: string(c.UnknownModelPolicy), Upstreams: upstreams,
	}), nil
}

// ExchangeRate is reais for one dollar.
type ExchangeRate struct {
	Rate   string `json:"rate" example:"5.1442"`
	Date   string `json:"date,omitempty" format:"date" doc:"The day the source gives it for; absent for fallback."`
	Source string `json:"source" doc:"ptax, er-api, manual; or fallback: nothing was ever fetched, and the rate is made up."`
}

func (s *server) exchangeRate(context.Context, *struct{}) (*body[ExchangeRate], error) {
	rate := s.Rates.Rate()
	out := ExchangeRate{Rate: rate.Rate.String(), Source: rate.Source}
	if !rate.Date.IsZero() {
		out.Date = rate.Date.Format(time.DateOnly)
	}
	return answer(out), nil
}
