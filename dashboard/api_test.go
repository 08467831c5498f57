package dashboard_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/migrations"
	"github.com/catraca/catraca/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const adminToken = "admin-token-for-tests-0123456789"

// noon is when all tests happen: a Sunday in November, an hour past ten in São Paulo.
var noon = time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)

type store interface {
	metering.Ledger
	metering.ModelStore
	dashboard.UsageReader
	metering.Corrections
}

type fixedRate struct{ rate metering.ExchangeRate }

func (r fixedRate) Rate() metering.ExchangeRate { return r.rate }

// site is an API over real stores.
type site struct {
	*testing.T
	handler http.Handler
	tenants tenancy.Store
	ledger  store
	bodies  bytes.Buffer // every answer there was
	log     bytes.Buffer
}

func vault(t *testing.T) *tenancy.Vault {
	t.Helper()
	v, err := tenancy.ParseMasterKeys(tenancy.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func onSQLite(t *testing.T) (tenancy.Store, store) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "catraca.db")+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	if err := migrations.Up(t.Context(), db, migrations.SQLite); err != nil {
		t.Fatal(err)
	}
	return tenancy.NewSQLite(db, vault(t)), metering.NewSQLite(db, db)
}

func onPostgres(t *testing.T) (tenancy.Store, store) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testenv.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return tenancy.NewPostgres(pool, vault(t)), metering.NewPostgres(pool)
}

func newSite(t *testing.T, tenants tenancy.Store, ledger store, change ...func(*dashboard.Options)) *site {
	s := &site{T: t, tenants: tenants, ledger: ledger}
	opts := dashboard.Options{
		Token: adminToken, Tenants: tenants, Registry: ledger, Usage: ledger, Version: "test",
		Rates: fixedRate{metering.ExchangeRate{Rate: 514_420_000, Date: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"}},
		Settings: dashboard.Settings{
			Embedded: true, Listen: "127.0.0.1:8080", EnableGateway: true, TimeZone: "America/Sao_Paulo", UnknownModelPolicy: tenancy.RefuseUnknown,
			Upstreams: []dashboard.Upstream{{Name: "gateway", BaseURL: "https://gateway.example/v1", HasKey: true}},
		},
		Now: func() time.Time { return noon },
		Log: slog.New(slog.NewJSONHandler(&s.log, nil)),
	}
	for _, c := range change {
		c(&opts)
	}
	s.handler = dashboard.New(opts)
	return s
}

// everyStore runs a test over both stores.
func everyStore(t *testing.T, test func(*site)) {
	t.Run("sqlite", func(t *testing.T) {
		tenants, ledger := onSQLite(t)
		test(newSite(t, tenants, ledger))
	})
	t.Run("postgres", func(t *testing.T) {
		tenants, ledger := onPostgres(t)
		test(newSite(t, tenants, ledger))
	})
}

// do sends a request with the token and gives status and answer.
func (s *site) do(method, path string, in any) (int, []byte) {
	s.Helper()
	var body io.Reader
	switch in := in.(type) {
	case nil:
	case string:
		body = strings.NewReader(in)
	default:
		text, err := json.Marshal(in)
		if err != nil {
			s.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	r := httptest.NewRequestWithContext(s.Context(), method, path, body)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	s.bodies.Write(w.Body.Bytes())
	if w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
		s.Errorf("%s %s: %d as %s: %s", method, path, w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		s.Errorf("%s %s may be cached", method, path)
	}
	return w.Code, w.Body.Bytes()
}

// want is do with an answer that must have come.
func want[T any](s *site, status int, method, path string, in any) T {
	s.Helper()
	code, text := s.do(method, path, in)
	if code != status {
		s.Fatalf("%s %s: %d, want %d: %s", method, path, code, status, text)
	}
	var out T
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			s.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return out
}

type problem struct {
	Title  string
	Status int
	Detail string
	Errors []struct{ Message, Location string }
}

func TestTenants(t *testing.T) {
	everyStore(t, func(s *site) {
		if list := want[dashboard.TenantList](s, 200, "GET", "/api/tenants", nil); list.Tenants == nil || len(list.Tenants) > 0 {
			s.Fatalf("a new deployment has tenants %v", list.Tenants)
		}
		made := want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "Padaria São João"})
		if made.ID == uuid.Nil || made.Name != "Padaria São João" || !made.UseGateway || made.TimeZone != "America/Sao_Paulo" || made.Paused || made.AllowedModels == nil {
			s.Errorf("made %+v", made)
		}
		path := "/api/tenants/" + made.ID.String()
		changed := want[dashboard.Tenant](s, 200, "PATCH", path, map[string]any{
			"allowed_models": []string{"openai/gpt-4o-mini", "gpt-4o"}, "default_model": "gpt-4o", "time_zone": "America/Manaus", "use_ai_gateway": false,
		})
		if changed.Name != made.Name || len(changed.AllowedModels) != 2 || changed.DefaultModel != "gpt-4o" || changed.UseGateway || changed.TimeZone != "America/Manaus" {
			s.Errorf("changed %+v", changed)
		}
		if again := want[dashboard.Tenant](s, 200, "PATCH", path, map[string]any{"allowed_models": []string{}, "default_model": ""}); len(again.AllowedModels) != 0 || again.DefaultModel != "" || again.UseGateway {
			s.Errorf("after taking the list back: %+v", again)
		}
		paused := want[dashboard.Tenant](s, 200, "POST", path+"/pause", map[string]any{"reason": "fatura em aberto"})
		if !paused.Paused || paused.PausedReason != "fatura em aberto" {
			s.Errorf("paused %+v", paused)
		}
		if resumed := want[dashboard.Tenant](s, 200, "POST", path+"/resume", nil); resumed.Paused || resumed.PausedReason != "" {
			s.Errorf("resumed %+v", resumed)
		}
		if made.OnClientGone != "cancel" {
			s.Errorf("when a caller leaves, a new tenant has %q", made.OnClientGone)
		}
		if on := want[dashboard.Tenant](s, 200, "PATCH", path, map[string]any{"on_client_gone": "read_on"}); on.OnClientGone != "read_on" {
			s.Errorf("when a caller leaves: %q", on.OnClientGone)
		}
		if kept := want[dashboard.Tenant](s, 200, "PATCH", path, map[string]any{"time_zone": "America/Manaus"}); kept.OnClientGone != "read_on" {
			s.Errorf("a change of something else: %q", kept.OnClientGone)
		}
		own := uuid.New()
		if other := want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "Outra", "id": own, "use_ai_gateway": false, "on_client_gone": "read_on"}); other.ID != own || other.UseGateway || other.OnClientGone != "read_on" {
			s.Errorf("with an id of its own: %+v", other)
		}
		if shown := want[dashboard.Tenant](s, 200, "GET", path, nil); shown.ID != made.ID || shown.UpdatedAt.IsZero() {
			s.Errorf("shown %+v", shown)
		}
		want[struct{}](s, 204, "DELETE", path, nil)
		if p := want[problem](s, 404, "GET", path, nil); !strings.Contains(p.Detail, "no such tenant") {
			s.Errorf("deleted: %+v", p)
		}
		if list := want[dashboard.TenantList](s, 200, "GET", "/api/tenants", nil); len(list.Tenants) != 1 || list.Tenants[0].ID != own {
			s.Errorf("left are %+v", list.Tenants)
		}
	})
}

func TestWhatATenantCannotBe(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	made := want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "Uma"})
	path := "/api/tenants/" + made.ID.String()
	for _, c := range []struct {
		method, path, body string
		status             int
		hint               string
	}{
		{"POST", "/api/tenants", `{}`, 422, "name"},
		{"POST", "/api/tenants", `{"name":""}`, 422, "name"},
		{"POST", "/api/tenants", `{"name":"   "}`, 422, "name"},
		{"POST", "/api/tenants", `{"name":"x\u0000y"}`, 422, "name"},
		{"POST", "/api/tenants", `{"name":"` + strings.Repeat("x", 201) + `"}`, 422, "name"},
		{"POST", "/api/tenants", `{"name":"uma"}`, 409, "has this name already"},
		{"POST", "/api/tenants", `{"name":"x","id":"` + made.ID.String() + `"}`, 409, "exists already"},
		{"POST", "/api/tenants", `{"name":"x","id":"7"}`, 422, "id"},
		{"POST", "/api/tenants", `{"name":"x","time_zone":"Brasilia"}`, 422, "time_zone"},
		{"POST", "/api/tenants", `{"name":"x","allowed_models":["gpt-4o-minni"]}`, 422, `no model \"gpt-4o-minni\"`},
		{"POST", "/api/tenants", `{"name":"x","default_model":"nope"}`, 422, "default_model"},
		{"POST", "/api/tenants", `{"name":"x","allowed_models":["gpt-4o"],"default_model":"gpt-4o-mini"}`, 422, "default_model"},
		{"POST", "/api/tenants", `{"name":"x","unknown_models":"allow"}`, 422, "unknown_models"},
		{"POST", "/api/tenants", `{"name":"x","on_client_gone":"wait"}`, 422, "on_client_gone"},
		{"PATCH", path, `{"on_client_gone":""}`, 422, "on_client_gone"},
		{"POST", "/api/tenants", `{"name":"x","budget":5}`, 422, "budget"},
		{"POST", "/api/tenants", `{"name":"x"`, 400, ""},
		{"POST", "/api/tenants", ``, 400, ""},
		{"PATCH", path, `{"name":null,"time_zone":7}`, 422, "time_zone"},
		{"PATCH", path, `{"default_model":"nope"}`, 422, "registry"},
		{"GET", "/api/tenants/7", ``, 422, "id"},
		{"GET", "/api/tenants/" + uuid.NewString(), ``, 404, "no such tenant"},
		{"PATCH", "/api/tenants/" + uuid.NewString(), `{}`, 404, "no such tenant"},
		{"DELETE", "/api/tenants/" + uuid.NewString(), ``, 404, "no such tenant"},
		{"POST", "/api/tenants/" + uuid.NewString() + "/resume", ``, 404, "no such tenant"},
		{"POST", path + "/pause", `{}`, 422, "reason"},
		{"GET", "/api/tenants?name=x", ``, 422, "unknown query parameter"},
		{"PUT", "/api/tenants", `{}`, 405, "GET, POST"},
		{"GET", "/api/tenant", ``, 404, "no such path"},
		{"GET", "/api/../secret", ``, 0, ""},
	} {
		if c.status == 0 {
			continue
		}
		var in any
		if c.body != "" || c.method == "POST" {
			in = c.body
		}
		code, text := s.do(c.method, c.path, in)
		var p problem
		if err := json.Unmarshal(text, &p); err != nil || p.Status != c.status || p.Detail == "" || p.Title == "" {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, code, text)
		}
		if code != c.status || !strings.Contains(string(text), c.hint) {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d … %s", c.method, c.path, c.body, code, text, c.status, c.hint)
		}
	}
	// Where unknown models are metered, any name may be allowed.
	want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "x", "unknown_models": "meter", "allowed_models": []string{"acme/new"}})
	if s.log.Len() > 0 {
		t.Errorf("mistakes of callers are no news: %s", &s.log)
	}
}

func TestKeys(t *testing.T) {
	everyStore(t, func(s *site) {
		tenant := want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "Uma"})
		path := "/api/tenants/" + tenant.ID.String() + "/keys"
		expires := noon.Add(90 * 24 * time.Hour)
		first := want[dashboard.KeyMade](s, 201, "POST", path, map[string]any{"name": "produção", "expires_at": expires})
		digest, ok := tenancy.Digest([]byte(first.Secret))
		if !ok || !strings.HasPrefix(first.Secret, first.Prefix) || first.State != "active" || !first.ExpiresAt.Equal(expires) || first.ClientID != tenant.ID {
			s.Errorf("made %+v", first)
		}
		if who, err := s.tenants.PrincipalByKey(s.Context(), digest); err != nil || who.ClientID != tenant.ID {
			s.Errorf("the secret opens nothing: %v", err)
		}
		second := want[dashboard.KeyMade](s, 201, "POST", path, map[string]any{})
		next := want[dashboard.KeyMade](s, 201, "POST", "/api/keys/"+second.ID.String()+"/rotate", map[string]any{"grace_seconds": 0})
		if next.ID == second.ID || next.Secret == second.Secret || next.State != "active" {
			s.Errorf("rotated %+v", next)
		}
		want[dashboard.KeyMade](s, 201, "POST", "/api/keys/"+next.ID.String()+"/rotate", nil)
		want[struct{}](s, 204, "DELETE", "/api/keys/"+first.ID.String(), nil)
		if _, err := s.tenants.PrincipalByKey(s.Context(), digest); !errors.Is(err, tenancy.ErrNotFound) {
			s.Errorf("a revoked key still opens: %v", err)
		}
		list := want[dashboard.KeyList](s, 200, "GET", path, nil)
		states := map[string]int{}
		for _, k := range list.Keys {
			states[k.State]++
		}
		if len(list.Keys) != 4 || states["revoked"] < 1 || states["active"] < 2 {
			s.Errorf("%d keys, %v", len(list.Keys), states)
		}
		want[problem](s, 422, "POST", path, map[string]any{"expires_at": noon.Add(-time.Second)})
		want[problem](s, 404, "POST", "/api/tenants/"+uuid.NewString()+"/keys", map[string]any{})
		want[problem](s, 404, "GET", "/api/tenants/"+uuid.NewString()+"/keys", nil)
		want[problem](s, 404, "DELETE", "/api/keys/"+uuid.NewString(), nil)
		want[problem](s, 422, "POST", "/api/keys/"+first.ID.String()+"/rotate", map[string]any{})
		want[problem](s, 422, "POST", "/api/keys/"+next.ID.String()+"/rotate", map[string]any{"grace_seconds": -1})
		want[dashboard.ChangePage](s, 200, "GET", "/api/audit", nil)

		// Each secret was in one answer, and neither the log nor the audit log knows it.
		for _, secret := range []string{first.Secret, second.Secret, next.Secret} {
			if n := strings.Count(s.bodies.String(), secret); n != 1 {
				s.Errorf("a secret was in %d places", n)
			}
			if strings.Contains(s.log.String(), secret) {
				s.Errorf("a secret is in the log: %s", &s.log)
			}
		}
		if strings.Contains(s.bodies.String()+s.log.String(), adminToken) {
			s.Error("the admin token was shown")
		}
	})
}

func TestAudit(t *testing.T) {
	everyStore(t, func(s *site) {
		tenant := want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "Uma"})
		want[dashboard.Tenant](s, 201, "POST", "/api/tenants", map[string]any{"name": "Outra"})
		want[dashboard.Tenant](s, 200, "POST", "/api/tenants/"+tenant.ID.String()+"/pause", map[string]any{"reason": "x"})
		page := want[dashboard.ChangePage](s, 200, "GET", "/api/audit?limit=2", nil)
		if len(page.Changes) != 2 || page.Next == 0 {
			s.Fatalf("page %+v", page)
		}
		newest := page.Changes[0]
		if newest.ClientID != tenant.ID || !strings.HasPrefix(newest.Actor, "admin:") || newest.Before == nil || newest.After == nil {
			s.Errorf("newest %+v", newest)
		}
		own := want[dashboard.ChangePage](s, 200, "GET", "/api/audit?client_id="+tenant.ID.String(), nil)
		if len(own.Changes) != 2 || own.Next != 0 {
			s.Errorf("of one tenant: %+v", own)
		}
	})
}

func TestNobodyGetsInWithoutTheToken(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	for path, item := range document(s).Paths {
		for method := range item {
			for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "bearer " + adminToken[:len(adminToken)-1], "Basic " + adminToken, adminToken, "Bearer " + adminToken + "x"} {
				r := httptest.NewRequest(strings.ToUpper(method), strings.ReplaceAll(path, "{id}", uuid.NewString()), nil)
				if header != "" {
					r.Header.Set("Authorization", header)
				}
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, r)
				var p problem
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 401 || p.Status != 401 || !strings.Contains(p.Detail, "CATRACA_ADMIN_TOKEN") ||
					w.Header().Get("Content-Type") != "application/problem+json" || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("%s %s with %q: %d %s", method, path, header, w.Code, w.Body)
				}
			}
		}
	}
	// A server without a token lets nobody in, rather than everybody.
	open := newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Token = "" })
	r := httptest.NewRequest("GET", "/api/tenants", nil)
	r.Header.Set("Authorization", "Bearer ")
	w := httptest.NewRecorder()
	open.handler.ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("no token configured: %d", w.Code)
	}
	// The scheme's name is case-insensitive.
	r = httptest.NewRequest("GET", "/api/tenants", nil)
	r.Header.Set("Authorization", "bearer "+adminToken)
	w = httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != 200 {
		t.Errorf("bearer in small letters: %d", w.Code)
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		r := httptest.NewRequest("POST", "/api/tenants", strings.NewReader(`{"name":"x"}`))
		r.Header.Set("Authorization", "Bearer "+adminToken)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(header[0], header[1])
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != 403 || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%v: %d %s", header, w.Code, w.Body)
		}
	}
	if list := want[dashboard.TenantList](s, 200, "GET", "/api/tenants", nil); len(list.Tenants) != 0 {
		t.Errorf("made all the same: %v", list)
	}
}

// broken fails in ways whose words must not get out.
type broken struct {
	tenancy.Store
	err error
}

func (b broken) Tenants(context.Context) ([]tenancy.Tenant, error) {
	if b.err == nil {
		panic("secret of the stack")
	}
	return nil, b.err
}

func TestWhatFailsInsideStaysInside(t *testing.T) {
	tenants, ledger := onSQLite(t)
	for _, c := range []struct {
		err    error
		status int
		hint   string
	}{
		{errors.New("dial postgres://u:hunter2@db"), 500, "the log has it under fault "},
		{nil, 500, "the log has it under fault "},
		{tenancy.ErrUnavailable, 503, "catraca doctor"},
		{tenancy.ErrConflict, 409, "read it again"},
		{context.Canceled, 500, "fault"},
	} {
		s := newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Tenants = broken{tenants, c.err} })
		p := want[problem](s, c.status, "GET", "/api/tenants", nil)
		if !strings.Contains(p.Detail, c.hint) || strings.Contains(s.bodies.String(), "hunter2") || strings.Contains(s.bodies.String(), "secret of") {
			t.Errorf("%v: %s", c.err, &s.bodies)
		}
		if _, id, ok := strings.Cut(p.Detail, "under fault "); ok && !strings.Contains(s.log.String(), id) {
			t.Errorf("fault %s is not in the log: %s", id, &s.log)
		}
	}
}

type spec struct {
	OpenAPI    string
	Paths      map[string]map[string]struct{ OperationID, Summary string }
	Components struct {
		Schemas         map[string]json.RawMessage
		SecuritySchemes map[string]json.RawMessage
	}
	Security []map[string][]string
}

func document(s *site) spec {
	s.Helper()
	r := httptest.NewRequest("GET", "/api/openapi.json", nil)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	var doc spec
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 {
		s.Fatalf("%d %v %s", w.Code, err, w.Body)
	}
	return doc
}

func TestDocument(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	doc := document(s)
	listed := map[string]bool{}
	for path, item := range doc.Paths {
		for method, op := range item {
			listed[strings.ToUpper(method)+" "+path] = true
			if op.OperationID == "" || op.Summary == "" {
				t.Errorf("%s %s has no id or summary", method, path)
			}
		}
	}
	for _, route := range []string{
		"GET /api/tenants", "POST /api/tenants", "GET /api/tenants/{id}", "PATCH /api/tenants/{id}", "DELETE /api/tenants/{id}",
		"POST /api/tenants/{id}/pause", "POST /api/tenants/{id}/resume", "GET /api/tenants/{id}/keys", "POST /api/tenants/{id}/keys",
		"POST /api/keys/{id}/rotate", "DELETE /api/keys/{id}", "GET /api/ai-gateway/models", "POST /api/ai-gateway/models",
		"GET /api/ai-gateway/models/{id}", "PATCH /api/ai-gateway/models/{id}", "POST /api/ai-gateway/models/{id}/prices",
		"POST /api/ai-gateway/models/sync", "GET /api/ai-gateway/config", "GET /api/ai-gateway/metrics", "GET /api/analytics/gateway",
		"GET /api/usage", "GET /api/usage/summary", "GET /api/exchange-rate", "GET /api/audit", "GET /api/ai-gateway/audit", "GET /api/ai-gateway/proxies",
	} {
		if !listed[route] {
			t.Errorf("%s is not in the document", route)
		}
		delete(listed, route)
	}
	for route := range listed {
		t.Errorf("%s is in the document and not in this test", route)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Security) != 1 || doc.Components.SecuritySchemes["token"] == nil {
		t.Errorf("%s, security %v, schemes %v", doc.OpenAPI, doc.Security, doc.Components.SecuritySchemes)
	}
	whole, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(whole), `"#/components/schemas/`)[1:] {
		if name, _, _ := strings.Cut(part, `"`); doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is referred to and not there", name)
		}
	}
}

// Parameters of embedded structs are easily lost: huma reads exported ones alone and does not complain.
func TestEveryParameterIsInTheDocument(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest("GET", "/api/openapi.json", nil))
	var doc struct {
		Paths map[string]map[string]struct{ Parameters []struct{ Name string } }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	has := func(path, method, name string) {
		for _, p := range doc.Paths[path][method].Parameters {
			if p.Name == name {
				return
			}
		}
		t.Errorf("%s %s lacks %s", method, path, name)
	}
	for path, item := range doc.Paths {
		for method := range item {
			if strings.Contains(path, "{id}") {
				has(path, method, "id")
			}
		}
	}
	for _, name := range []string{"client_id", "from", "to", "limit", "cursor"} {
		has("/api/usage", "get", name)
	}
	for _, name := range []string{"client_id", "from", "to", "group_by", "time_zone"} {
		has("/api/usage/summary", "get", name)
	}
}

func TestRootTellsTheWay(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "/api/openapi.json") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	cfg := want[dashboard.GatewayConfig](s, 200, "GET", "/api/ai-gateway/config", nil)
	if cfg.Listen != "127.0.0.1:8080" || !cfg.EnableGateway || len(cfg.Upstreams) != 1 || !cfg.Upstreams[0].HasKey || cfg.UnknownModelPolicy != "refuse" {
		t.Errorf("%+v", cfg)
	}
	if rate := want[dashboard.ExchangeRate](s, 200, "GET", "/api/exchange-rate", nil); rate != (dashboard.ExchangeRate{Rate: "5.1442", Date: "2026-11-20", Source: "ptax"}) {
		t.Errorf("%+v", rate)
	}
	if strings.Contains(s.bodies.String(), "$schema") {
		t.Error("answers hold links to schemas")
	}
}

// pico reads an amount of a test.
func pico(t *testing.T, text string) money.Pico {
	t.Helper()
	p, err := money.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
