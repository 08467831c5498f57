package main

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

var update = flag.Bool("update", false, "write the golden files anew")

type testRate struct{}

func (testRate) Rate() metering.ExchangeRate { return ptaxOfFriday() }

func ptaxOfFriday() metering.ExchangeRate {
	return metering.ExchangeRate{Rate: 514_420_000, Date: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"}
}

// testSite is an admin API over an embedded store, and a command line that talks to it.
type testSite struct {
	*testing.T
	st      *stores
	environ []string
}

func newTestSite(t *testing.T, more ...string) *testSite {
	t.Helper()
	dir := t.TempDir()
	environ := append([]string{"CATRACA_DATA_DIR=" + dir}, more...)
	cfg, err := LoadConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err = cfg.withLocalSecrets(); err != nil {
		t.Fatal(err)
	}
	vault, err := cfg.Vault()
	if err != nil {
		t.Fatal(err)
	}
	st, err := openEmbedded(t.Context(), &cfg, vault, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.close)
	server := httptest.NewServer(dashboard.New(dashboard.Options{
		Token: cfg.AdminToken.Reveal(), Tenants: st.tenants, Registry: st.usage, Usage: st.usage, Ledger: st.usage, Rates: testRate{}, Version: "test",
		Now:      func() time.Time { return time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC) }, // before the seeded models retire
		Settings: dashboard.Settings{Embedded: true, Listen: "127.0.0.1:8080", EnableGateway: true, TimeZone: cfg.TimeZone, UnknownModelPolicy: tenancy.RefuseUnknown},
		Gateway: func(context.Context) ([]metering.GatewayModel, []metering.BadRow, error) {
			price := metering.NewPrice()
			price.Input, price.Output = 2_000_000, 8_000_000
			return []metering.GatewayModel{{ID: "acme/new-1", Kind: "language", Price: price}}, []metering.BadRow{{ID: "odd", Reason: "its id is not creator/name"}}, nil
		},
	}))
	t.Cleanup(server.Close)
	return &testSite{T: t, st: st, environ: append(environ, "CATRACA_ADMIN_URL="+server.URL)}
}

// run is one command line: what it prints, and the code it ends with.
func (s *testSite) run(args ...string) (out string, code int) {
	s.Helper()
	var both bytes.Buffer
	code = catraca(s.Context(), args, s.environ, &both, &both)
	return both.String(), code
}

// calls puts calls into the ledger: two as usual, one refused, one of unknown cost.
func (s *testSite) calls(client uuid.UUID) {
	s.Helper()
	catalog, err := s.st.usage.LoadCatalog(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	at := time.Date(2026, 11, 22, 1, 30, 0, 0, time.UTC) // still Saturday in São Paulo
	usage := metering.Usage{Source: metering.Measured, Input: 12345, Output: 678, Total: 13023, Cached: 1024}
	cost := metering.Cost{Known: true, ListKnown: true, USD: 2_181_750_000, BRL: 11_223_358_350, Rate: ptaxOfFriday()}
	event := func(seq uint64, outcome metering.Outcome, status int, usage metering.Usage, cost metering.Cost) metering.Event {
		cost.Rate = ptaxOfFriday()
		return metering.Event{
			Incarnation: 9, Seq: seq, RequestID: "req_1", ClientID: client, Endpoint: "chat.completions", Route: "gateway", Provider: "openai",
			ModelAsked: "openai/gpt-4o-mini", ModelServed: "openai/gpt-4o-mini", ModelID: catalog.Lookup("openai/gpt-4o-mini").ID,
			AdmittedAt: at.Add(time.Duration(seq) * time.Minute), Outcome: outcome, Status: status, Usage: usage, Cost: cost,
		}
	}
	estimated := usage
	estimated.Source = metering.Estimated
	err = s.st.usage.Record(s.Context(), []metering.Event{
		event(1, metering.OK, 200, usage, cost),
		event(2, metering.Refused, 429, metering.Usage{}, metering.Cost{Known: true}),
		event(3, metering.Truncated, 200, estimated, metering.Cost{}),
		event(4, metering.OK, 200, metering.Usage{Source: metering.Measured, Input: 100, Output: 10, Total: 110}, metering.Cost{Known: true, USD: 21_000_000, BRL: 108_028_200}),
	})
	if err != nil {
		s.Fatal(err)
	}
}

// steady takes out of an output what differs from run to run.
func steady(out string, dir string) string {
	out = strings.ReplaceAll(out, dir, "DIR")
	for _, r := range [][2]string{
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "00000000-0000-0000-0000-000000000000"},
		{`ck_[0-9A-Za-z]{49}`, "ck_SECRETSECRETSECRETSECRETSECRETSECRETSECRETSECRETS"},
		{`ck_[0-9A-Za-z]{6}…`, "ck_SECRET…"},
		{`127\.0\.0\.1:[1-9][0-9]{4}`, "127.0.0.1:PORT"},
	} {
		out = regexp.MustCompile(r[0]).ReplaceAllString(out, r[1])
	}
	// Stores stamp what they make with the time of day; the calls of the test have times of their own.
	return regexp.MustCompile(`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d -0`).ReplaceAllStringFunc(out, func(at string) string {
		if strings.HasPrefix(at, "2026-11-21 22:3") {
			return at
		}
		return "2026-11-22 10:00:00 -0"
	})
}

// One session at a terminal, from an empty deployment on. `go test ./cmd/catraca -run Session -update` writes it anew.
func TestSession(t *testing.T) {
	s := newTestSite(t)
	var session strings.Builder
	for _, line := range [][]string{
		{"tenant", "list"},
		{"key", "list"},
		{"usage"},
		{"tenant", "create", "Padaria São João"},
		{"tenant", "create", "padaria são joão"},
		{"tenant", "create", "Oficina", "--no-gateway", "--models=gpt-4o-mini,gpt-4o", "--default-model=gpt-4o", "--time-zone=America/Manaus", "--unknown-models=refuse"},
		{"tenant", "create", "Erro", "--models=gpt-5o", "--time-zone=Marte"},
		{"tenant", "create", "Erro", "--models=gpt-5o"},
		{"tenant", "list"},
		{"tenant", "show", "oficina"},
		{"tenant", "set", "Oficina", "--models=", "--default-model=", "--gateway", "--name=Oficina do Zé"},
		{"tenant", "set", "Oficina do Zé", "--on-client-gone=read_on"},
		{"tenant", "set", "Oficina do Zé", "--on-client-gone=wait"},
		{"tenant", "set", "Oficina do Zé"},
		{"tenant", "pause", "Oficina do Zé", "--reason=fatura em aberto"},
		{"tenant", "list"},
		{"tenant", "resume", "Oficina do Zé"},
		{"tenant", "show", "Ofcina do Zé"},
		{"tenant", "show", "Farmácia"},
		{"tenant", "delete", "Oficina do Zé"},
		{"tenant", "delete", "Oficina do Zé", "--yes"},
		{"key", "create", "--tenant", "Padaria São João", "--name=produção"},
		{"key", "create", "--tenant", "Padaria São João", "--expires=-1h"},
		{"key", "create"},
		{"key", "list", "--tenant=Padaria São João"},
		{"key", "revoke", "ck_0000000000000000000000000000000000000000000000000"},
		{"key", "revoke", "00000000-0000-4000-8000-000000000000"},
		{"model", "show", "gpt-4o-mini"},
		{"model", "show", "gpt4o-mini"},
		{"model", "list", "--kind=moderation"},
		{"model", "create", "acme/fast-1", "--input=0.1", "--output=0.4", "--capabilities=text,tools", "--context-window=128000"},
		{"model", "create", "acme/fast-1"},
		{"model", "create", "fast-2"},
		{"model", "set", "acme/fast-1", "--no-active", "--retires=2027-01-31", "--replacement=acme/fast-2"},
		{"model", "set", "acme/fast-1"},
		{"model", "price", "acme/fast-1", "--from=2099-01-01", "--input=0.2", "--output=0.8", "--note=their page"},
		{"model", "price", "acme/fast-1", "--input=0.00000001"},
		{"model", "price", "acme/fast-1"},
		{"model", "list", "--provider=acme", "--all"},
		{"model", "sync"},
		{"usage"},
		{"usage", "--tenant=Padaria São João", "--limit=1"},
		{"usage", "--from=2026-11-22"},
		{"usage", "--from=2026-11-21", "--to=2026-11-22"},
		{"usage", "--summary=day,tenant"},
		{"usage", "--summary=model"},
		{"usage", "--summary=phone"},
		{"usage", "--from=gestern"},
		{"usage", "--since=1h", "--from=2026-11-22"},
		{"usage", "--limit=0"},
		{"tenant", "lst"},
		{"tenat"},
	} {
		if line[0] == "usage" && len(line) == 1 && session.Len() > 1000 {
			all, err := s.st.tenants.Tenants(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatalf("%d tenants, %v", len(all), err)
			}
			s.calls(all[0].ID)
		}
		out, code := s.run(line...)
		words := make([]string, len(line))
		for i, w := range line {
			words[i] = shellWord(w)
		}
		session.WriteString("$ catraca " + strings.Join(words, " ") + "\n" + out)
		if code != 0 {
			session.WriteString("[exit " + string(rune('0'+code)) + "]\n")
		}
		session.WriteByte('\n')
	}
	golden(t, "session.txt", steady(session.String(), strings.TrimPrefix(s.environ[0], "CATRACA_DATA_DIR=")))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		var g, w string
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if g != w {
			t.Fatalf("%s:%d:\n got %s\nwant %s\nIf this is meant: go test ./cmd/catraca -update", path, i+1, g, w)
		}
	}
}

func TestHelp(t *testing.T) {
	var all strings.Builder
	for _, line := range []string{"", "serve", "migrate", "check", "doctor", "simulate", "tenant", "tenant create", "tenant set", "key", "key create", "key rotate", "model", "model price", "usage"} {
		var out bytes.Buffer
		args := append(strings.Fields(line), "--help")
		if code := catraca(t.Context(), args, nil, &out, &out); code != 0 {
			t.Errorf("%q: exit %d", args, code)
		}
		all.WriteString("$ catraca " + strings.Join(args, " ") + "\n" + out.String() + "\n")
	}
	golden(t, "help.txt", all.String())
}

func TestCheckCommand(t *testing.T) {
	var all strings.Builder
	for _, environ := range [][]string{
		nil,
		{"CATRACA_DATABASE_URL=" + goodDatabase, "CATRACA_REDIS_URL=" + goodRedis, "CATRACA_MASTER_KEY=" + goodMasterKey(), "CATRACA_ADMIN_TOKEN=" + goodToken, "AI_GATEWAY_API_KEY=vck_0123456789abcdef"},
		{"CATRACA_LISTEN=8080", "CATRACA_LISTN=:80", "CATRACA_IDLE_TIMEOUT=10", "CATRACA_REDIS_URL=" + goodRedis},
	} {
		var out bytes.Buffer
		code := catraca(t.Context(), []string{"check"}, environ, &out, &out)
		all.WriteString(out.String() + "[exit " + string(rune('0'+code)) + "]\n\n")
	}
	golden(t, "check.txt", all.String())

	var out bytes.Buffer
	if code := catraca(t.Context(), []string{"check", "--explain"}, nil, &out, &out); code != 0 || !strings.Contains(out.String(), "# Listen is the address, host:port, where OpenAI clients connect.") {
		t.Errorf("explain: exit %d\n%s", code, &out)
	}
	out.Reset()
	if code := catraca(t.Context(), []string{"check", "--json"}, []string{"CATRACA_LISTEN=x"}, &out, &out); code != 1 || !strings.Contains(out.String(), `"ok": false`) || !strings.Contains(out.String(), `CATRACA_LISTEN=\"x\" is not host:port`) {
		t.Errorf("json: exit %d\n%s", code, &out)
	}
}

func TestServeRefusesWrongSettings(t *testing.T) {
	var out bytes.Buffer
	code := catraca(t.Context(), []string{"serve"}, []string{"CATRACA_LISTEN=x", "CATRACA_TIME_ZONE=Marte"}, &out, &out)
	if code != 1 || strings.Count(out.String(), "CATRACA_") != 2 {
		t.Errorf("exit %d\n%s", code, &out)
	}
}

func TestClientTroubles(t *testing.T) {
	s := newTestSite(t)
	address := s.environ[len(s.environ)-1]
	for _, c := range []struct {
		environ []string
		hint    string
	}{
		{[]string{address, "CATRACA_DATA_DIR=" + t.TempDir()}, "CATRACA_ADMIN_TOKEN is not set and there is no "},
		{[]string{address, "CATRACA_ADMIN_TOKEN=some-other-token-42"}, "refuses the admin token from CATRACA_ADMIN_TOKEN"},
		{[]string{"CATRACA_ADMIN_URL=http://127.0.0.1:1", "CATRACA_ADMIN_TOKEN=" + goodToken}, "no Catraca answers on http://127.0.0.1:1 (connection refused): start one with `catraca serve`"},
		{[]string{"CATRACA_ADMIN_URL=127.0.0.1:8081", "CATRACA_ADMIN_TOKEN=" + goodToken}, `CATRACA_ADMIN_URL="127.0.0.1:8081" is not an http:// or https:// address`},
		{[]string{address, "CATRACA_ADMIN_TOKN=x"}, "did you mean CATRACA_ADMIN_TOKEN?"},
		{[]string{address + "/elsewhere", s.environ[0]}, "404 Not Found and is not the admin API"},
	} {
		for _, command := range [][]string{{"tenant", "list"}, {"key", "list"}, {"model", "list"}, {"usage"}} {
			var out bytes.Buffer
			code := catraca(t.Context(), command, c.environ, &out, &out)
			if code != 1 || !strings.Contains(out.String(), c.hint) && !strings.Contains(out.String(), "no such path") {
				t.Errorf("%q %v: exit %d\n%s\nwant %s", c.environ, command, code, &out, c.hint)
			}
			if strings.Contains(out.String(), goodToken) || strings.Contains(out.String(), "some-other-token-42") {
				t.Errorf("a token is in %s", &out)
			}
		}
	}
}

// A file whose token others were meant to use is named when it is refused.
func TestRefusedTokenFileIsNamed(t *testing.T) {
	s := newTestSite(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "admin-token")
	if err := os.WriteFile(path, []byte("stale-token-of-an-old-server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := catraca(t.Context(), []string{"usage"}, []string{s.environ[len(s.environ)-1], "CATRACA_DATA_DIR=" + dir}, &out, &out)
	if code != 1 || !strings.Contains(out.String(), path) {
		t.Errorf("exit %d: %s", code, &out)
	}
}

func TestJSONOutputs(t *testing.T) {
	s := newTestSite(t)
	for _, line := range []string{
		"tenant list --json", "tenant create Uma --json", "tenant show Uma --json", "tenant set Uma --raw-phones --json", "tenant pause Uma --reason=x --json",
		"tenant resume Uma --json", "key create --tenant Uma --json", "key list --json", "model list --json", "model show gpt-4o --json", "model sync --json",
		"model price gpt-4o --input 3 --output 9 --json", "usage --json", "usage --summary day --json", "version --json", "simulate --list --json", "tenant delete Uma --yes --json",
	} {
		out, code := s.run(strings.Fields(line)...)
		if code != 0 || !strings.HasPrefix(out, "{") && !strings.HasPrefix(out, "[") {
			t.Errorf("%s: exit %d\n%s", line, code, out)
		}
	}
}

func TestMoneyIsReadable(t *testing.T) {
	for _, c := range []struct {
		amount     string
		brl, dolar string
	}{
		{"0", "R$ 0,00", "US$ 0.00"},
		{"0.00190375", "R$ 0,0019", "US$ 0.0019"},
		{"0.0042", "R$ 0,0042", "US$ 0.0042"},
		{"0.000021", "R$ 0,000021", "US$ 0.000021"},
		{"0.00010784142", "R$ 0,000108", "US$ 0.000108"},
		{"0.000000000001", "R$ 0,000000000001", "US$ 0.000000000001"},
		{"0.5", "R$ 0,50", "US$ 0.50"},
		{"0.105", "R$ 0,105", "US$ 0.105"},
		{"0.9999", "R$ 1,00", "US$ 1.00"},
		{"1", "R$ 1,00", "US$ 1.00"},
		{"1.005", "R$ 1,01", "US$ 1.01"},
		{"1234.56", "R$ 1.234,56", "US$ 1,234.56"},
		{"1234567.891", "R$ 1.234.567,89", "US$ 1,234,567.89"},
		{"-0.25", "R$ -0,25", "US$ -0.25"},
	} {
		p, err := money.Parse(c.amount)
		if err != nil {
			t.Fatal(err)
		}
		if got := reais(p.Decimal()); got != c.brl {
			t.Errorf("%s: %s, want %s", c.amount, got, c.brl)
		}
		if got := dollars(p.Decimal()); got != c.dolar {
			t.Errorf("%s: %s, want %s", c.amount, got, c.dolar)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := count(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
