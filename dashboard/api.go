// Package dashboard is the admin side: an API over net/http, and the document that describes it.
//
//	admin client, scripts ──► token ──► routes ──► tenancy: tenants, keys (audited there)
//	                                       ├─────► Registry: models, prices, sync with the gateway
//	                                       └─────► UsageReader: roll-ups for sums, the log for single calls
//
// Promises:
//   - Nothing under /api answers without the token, but for the document itself.
//   - A secret leaves once, in the answer that made it; no other answer holds one, but for what webhooks are signed with,
//     and each time that is shown is in the audit log.
//   - Money is a decimal number in a string, exact; times are RFC 3339, in UTC unless a zone was asked for.
//   - Every error is application/problem+json (RFC 9457) and says what to do; what went wrong inside goes to the log.
package dashboard

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// TenantStore is what the API needs of tenancy: the whole store, whose writes are audited there.
type TenantStore = tenancy.Store

// UsageReader answers from roll-ups and log.
type UsageReader interface {
	Usage(ctx context.Context, q metering.UsageQuery) (metering.UsageReport, error)
}

// Options is what the API is built from.
type Options struct {
	Token    string // the admin credential
	Tenants  TenantStore
	Registry Registry
	Usage    UsageReader
	Rates    Rates
	Settings Settings
	Gateway  GatewayModels    // nil: there is no gateway to read models from
	Auditor  Auditor          // nil: changes of models are logged and no more
	Meter    Meter            // nil: the meter is not audited here, and proxies are not listed
	Ledger   Ledger           // nil: dead letters, persons and exports are not served here
	Budgets  *Budgets         // nil: budgets are not served here
	Log      *slog.Logger     // nil: silent
	Now      func() time.Time // nil: time.Now
	Version  string           // of this build, for the document
}

// Settings is what of the deployment's settings the API shows and falls back to. It holds no secret.
type Settings struct {
	Embedded           bool
	Listen             string // the OpenAI side, as it was opened
	EnableGateway      bool
	TimeZone           string         // of tenants that are created without one
	UnknownModelPolicy tenancy.Policy // of tenants that set none
	Upstreams          []Upstream
}

// Upstream is the gateway or a provider as it is configured.
type Upstream struct {
	Name    string `json:"name" doc:"gateway, openai, groq, anthropic or google."`
	BaseURL string `json:"base_url"`
	HasKey  bool   `json:"has_key" doc:"Whether the shared key is configured. The key itself is never shown."`
}

// server is the API at work.
type server struct {
	Options
	api huma.API
}

// New builds the handler of everything under /api, and of /, which says where to look.
func New(opts Options) http.Handler {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	s := &server{Options: opts, api: humago.New(mux, documentConfig(opts.Version))}
	s.tenantRoutes()
	s.keyRoutes()
	s.modelRoutes()
	s.gatewayRoutes()
	s.usageRoutes()
	s.auditRoutes()
	s.deadLetterRoutes()
	s.personRoutes()
	s.exportRoutes()
	s.meterRoutes()
	s.budgetRoutes()
	mux.HandleFunc("GET /{$}", root)
	mux.HandleFunc("/", noSuchRoute(mux))
	return s.recovered(s.sameOrigin(s.orCron(mux, s.authenticated(mux))))
}

// documentConfig is huma's, without what it adds to every body: a link to a schema that names the request's Host.
func documentConfig(version string) huma.Config {
	cfg := huma.DefaultConfig("Catraca admin API", version)
	cfg.CreateHooks = nil
	cfg.OpenAPIPath = "/api/openapi"
	cfg.DocsPath = ""
	cfg.SchemasPath = ""
	cfg.RejectUnknownQueryParameters = true
	cfg.Info.Description = "Tenants, their keys, the models and their prices, and what was used. Money is a decimal number in a string; " +
		"times are RFC 3339. Errors are application/problem+json and say what to do."
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "CATRACA_ADMIN_TOKEN, or the content of admin-token in the data directory."},
	}
	cfg.Security = []map[string][]string{{"token": {}}}
	return cfg
}

// operation describes a route for the document.
func operation(method, path, id, summary, tag string, change ...func(*huma.Operation)) huma.Operation {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{tag},
		Errors: []int{http.StatusUnauthorized, http.StatusUnprocessableEntity},
	}
	for _, c := range change {
		c(&op)
	}
	return op
}

// status is what a route answers when all went well.
func status(code int) func(*huma.Operation) {
	return func(op *huma.Operation) { op.DefaultStatus = code }
}

// fails lists what else a route may answer.
func fails(codes ...int) func(*huma.Operation) {
	return func(op *huma.Operation) { op.Errors = append(op.Errors, codes...) }
}

// describe says more than a summary can.
func describe(text string) func(*huma.Operation) {
	return func(op *huma.Operation) { op.Description = text }
}

// body is an answer of one type.
type body[T any] struct{ Body T }

func answer[T any](v T) *body[T] { return &body[T]{v} }

func root(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("Catraca, admin side. The API is described at /api/openapi.json; it wants the admin token as a bearer token.\n" +
		"Beside it: /metrics, /healthz, /readyz. On the command line: catraca tenant, key, model, usage.\n"))
}
