package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/catraca/catraca/internal/simulator"
	"github.com/catraca/catraca/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// freeAddress is one that nobody listens on, for now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// simulated is an environment in which everything outside is the simulator.
func simulated(t *testing.T, more ...string) []string {
	t.Helper()
	sim := simulator.New(simulator.Config{Keys: []string{"right-key-0123456789"}})
	server := httptest.NewServer(sim)
	t.Cleanup(func() { sim.Close(); server.Close() })
	u := server.URL
	return append([]string{
		"CATRACA_LISTEN=" + freeAddress(t), "CATRACA_ADMIN_LISTEN=" + freeAddress(t), "CATRACA_DATA_DIR=" + t.TempDir(),
		"AI_GATEWAY_BASE_URL=" + u + "/v1", "OPENAI_BASE_URL=" + u + "/openai/v1", "GROQ_BASE_URL=" + u + "/groq/openai/v1",
		"ANTHROPIC_BASE_URL=" + u + "/anthropic/v1", "GOOGLE_BASE_URL=" + u + "/google/v1beta/openai",
		"CATRACA_EXCHANGE_RATE_URL=" + u + "/_exchange/er-api", "CATRACA_PTAX_URL=" + u + "/_exchange/ptax",
	}, more...)
}

func allKeys(key string) []string {
	return []string{"AI_GATEWAY_API_KEY=" + key, "OPENAI_API_KEY=" + key, "GROQ_API_KEY=" + key, "ANTHROPIC_API_KEY=" + key, "GOOGLE_API_KEY=" + key}
}

// diagnose runs doctor and gives its findings by name.
func diagnose(t *testing.T, environ []string) (findings map[string]finding, code int, text string) {
	t.Helper()
	var out bytes.Buffer
	code = catraca(t.Context(), []string{"doctor", "--json", "--timeout=5s"}, environ, &out, &out)
	var answer struct {
		OK     bool
		Checks []finding
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	if answer.OK != (code == 0) {
		t.Errorf("ok is %v and the exit code %d", answer.OK, code)
	}
	findings = make(map[string]finding)
	for _, f := range answer.Checks {
		findings[f.Name] = f
		if f.Status == verdictFail && f.Advice == "" {
			t.Errorf("%s fails without advice: %s", f.Name, f.Detail)
		}
	}
	return findings, code, out.String()
}

func TestDoctorWhenAllIsWell(t *testing.T) {
	findings, code, text := diagnose(t, append(simulated(t), allKeys("right-key-0123456789")...))
	if code != 0 {
		t.Errorf("exit %d", code)
	}
	for name, status := range map[string]verdict{
		"settings": verdictOK, "listen": verdictOK, "admin listen": verdictOK, "data directory": verdictOK, "database": verdictOK, "redis": verdictSkip,
		"gateway": verdictOK, "gateway key": verdictOK, "openai": verdictOK, "groq": verdictOK, "anthropic": verdictOK, "google": verdictOK,
		"exchange rate": verdictOK, "ptax": verdictOK, "clock": verdictOK,
	} {
		if findings[name].Status != status {
			t.Errorf("%s: %+v, want %s", name, findings[name], status)
		}
	}
	if strings.Contains(text, "right-key") {
		t.Errorf("a key is shown: %s", text)
	}
	var out bytes.Buffer
	if code := catraca(t.Context(), []string{"doctor"}, simulated(t), &out, &out); code != 0 || !strings.Contains(out.String(), " ok, ") || !strings.Contains(out.String(), " not configured\n") {
		t.Errorf("as text: exit %d\n%s", code, &out)
	}
}

func TestDoctorWhenKeysAreWrong(t *testing.T) {
	findings, code, text := diagnose(t, append(simulated(t), allKeys("wrong-key-0123456789")...))
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, name := range []string{"gateway key", "openai", "groq", "anthropic", "google"} {
		if f := findings[name]; f.Status != verdictFail || !strings.Contains(f.Detail, "****6789 is refused") {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if findings["gateway"].Status != verdictOK {
		t.Errorf("the list of models needs no key: %+v", findings["gateway"])
	}
	if strings.Contains(text, "wrong-key") {
		t.Errorf("a key is shown: %s", text)
	}
}

func TestDoctorWhenNothingAnswers(t *testing.T) {
	dead := "http://" + freeAddress(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	findings, code, text := diagnose(t, append([]string{
		"CATRACA_LISTEN=" + taken.Addr().String(), "CATRACA_ADMIN_LISTEN=" + freeAddress(t), "CATRACA_DATA_DIR=" + filepath.Join(file, "data"),
		"CATRACA_DATABASE_URL=postgres://u:hunter2hunter2@" + dead[7:] + "/x", "CATRACA_REDIS_URL=redis://:hunter2hunter2@" + dead[7:] + "/0",
		"CATRACA_MASTER_KEY=" + goodMasterKey(), "CATRACA_ADMIN_TOKEN=" + goodToken,
		"AI_GATEWAY_BASE_URL=" + dead + "/v1", "OPENAI_BASE_URL=" + dead + "/v1", "GROQ_BASE_URL=" + dead, "ANTHROPIC_BASE_URL=" + dead, "GOOGLE_BASE_URL=" + dead,
		"CATRACA_EXCHANGE_RATE_URL=" + dead, "CATRACA_PTAX_URL=" + dead,
	}, allKeys("some-key-0123456789")...))
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for name, want := range map[string]finding{
		"settings":       {Status: verdictOK},
		"listen":         {Status: verdictFail, Detail: "address already in use", Advice: "ss -ltnp"},
		"admin listen":   {Status: verdictOK},
		"data directory": {Status: verdictFail, Detail: "not a directory", Advice: "CATRACA_DATA_DIR"},
		"database":       {Status: verdictFail, Detail: "connection refused", Advice: "start Postgres"},
		"redis":          {Status: verdictFail, Detail: "connection refused", Advice: "start Redis"},
		"gateway":        {Status: verdictFail, Detail: "connection refused", Advice: "AI_GATEWAY_BASE_URL"},
		"gateway key":    {Status: verdictFail, Detail: "connection refused"},
		"openai":         {Status: verdictFail, Detail: "connection refused", Advice: "OPENAI_BASE_URL"},
		"google":         {Status: verdictFail, Detail: "connection refused", Advice: "GOOGLE_BASE_URL"},
		"exchange rate":  {Status: verdictWarn, Detail: "connection refused", Advice: "the last known rate stays in use"},
		"ptax":           {Status: verdictWarn, Detail: "connection refused"},
		"clock":          {Status: verdictSkip},
	} {
		f := findings[name]
		if f.Status != want.Status || !strings.Contains(f.Detail, want.Detail) || !strings.Contains(f.Advice, want.Advice) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, f, want)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("a password is shown: %s", text)
	}
}

func TestDoctorOfARunningServe(t *testing.T) {
	running := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
	}))
	defer running.Close()
	address := running.Listener.Addr().String()
	findings, _, _ := diagnose(t, append(simulated(t), "CATRACA_ADMIN_LISTEN="+address))
	if f := findings["admin listen"]; f.Status != verdictOK || !strings.Contains(f.Detail, "a Catraca answers") {
		t.Errorf("%+v", f)
	}
}

func TestDoctorNamesWrongSettings(t *testing.T) {
	findings, code, _ := diagnose(t, append(simulated(t), "CATRACA_TIME_ZONE=Marte"))
	if f := findings["settings"]; code != 1 || !strings.Contains(f.Detail, "no upstream has a key") && !strings.Contains(f.Detail, "CATRACA_TIME_ZONE") {
		t.Errorf("exit %d, %+v", code, f)
	}
}

func TestDoctorReadsClocks(t *testing.T) {
	sim := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-90*time.Second).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, `{"data":[{}]}`)
	}))
	defer sim.Close()
	environ := []string{
		"CATRACA_LISTEN=127.0.0.1:0", "CATRACA_ADMIN_LISTEN=127.0.0.1:0", "CATRACA_DATA_DIR=" + t.TempDir(), "AI_GATEWAY_BASE_URL=" + sim.URL,
		"CATRACA_EXCHANGE_RATE_URL=" + sim.URL, "CATRACA_PTAX_URL=" + sim.URL,
	}
	findings, code, _ := diagnose(t, environ)
	if f := findings["clock"]; code != 1 || f.Status != verdictFail || !strings.Contains(f.Detail, "1m30s off") && !strings.Contains(f.Detail, "1m31s off") || !strings.Contains(f.Advice, "NTP") {
		t.Errorf("exit %d, %+v", code, f)
	}
	if f := findings["exchange rate"]; f.Status != verdictWarn || !strings.Contains(f.Detail, "no rate for BRL") {
		t.Errorf("%+v", f)
	}
}

// sharedEnvironment is one with a real Postgres and a real Redis.
func sharedEnvironment(t *testing.T, database, redisAddress string) []string {
	t.Helper()
	return simulated(t, "CATRACA_DATABASE_URL="+database, "CATRACA_REDIS_URL="+redisAddress, "CATRACA_MASTER_KEY="+goodMasterKey(), "CATRACA_ADMIN_TOKEN="+goodToken)
}

func TestDoctorAndMigrateOnPostgresAndRedis(t *testing.T) {
	database, address := testenv.Postgres(t), testenv.Redis(t)
	environ := sharedEnvironment(t, database, address)
	findings, code, _ := diagnose(t, environ)
	if f := findings["database"]; code != 0 || f.Status != verdictWarn || !strings.Contains(f.Detail, "migrations pending") || f.Advice != "run `catraca migrate`" {
		t.Errorf("before migrate: exit %d, %+v", code, f)
	}
	if f := findings["redis"]; f.Status != verdictOK || !strings.Contains(f.Detail, "maxmemory-policy noeviction") {
		t.Errorf("%+v", f)
	}
	run := func(args ...string) string {
		var out bytes.Buffer
		if code := catraca(t.Context(), args, environ, &out, &out); code != 0 {
			t.Fatalf("%v: exit %d: %s", args, code, &out)
		}
		return out.String()
	}
	if out := run("migrate", "--status"); strings.Count(out, "pending") < 3 || strings.Count(out, "pending") != strings.Count(out, "\n") {
		t.Errorf("status before:\n%s", out)
	}
	if out := run("migrate"); !strings.HasPrefix(out, "Took ") || !strings.HasSuffix(out, "The database is up to date.\n") {
		t.Errorf("migrate: %s", out)
	}
	if out := run("migrate"); out != "The database is up to date.\n" {
		t.Errorf("again: %s", out)
	}
	if out := run("migrate", "--status"); strings.Contains(out, "pending") {
		t.Errorf("status after:\n%s", out)
	}
	findings, code, text := diagnose(t, environ)
	if f := findings["database"]; code != 0 || f.Status != verdictOK || !strings.Contains(f.Detail, "no migration pending") {
		t.Errorf("after migrate: exit %d, %+v", code, f)
	}
	if f := findings["clock"]; f.Status != verdictOK {
		t.Errorf("%+v", f)
	}
	if strings.Contains(text, goodToken) {
		t.Error("the admin token is shown")
	}

	wrong := strings.Replace(database, "/"+database[strings.LastIndexByte(database, '/')+1:], "/does_not_exist", 1)
	findings, _, _ = diagnose(t, sharedEnvironment(t, wrong, address))
	if f := findings["database"]; f.Status != verdictFail || !strings.Contains(f.Advice, "create the database") {
		t.Errorf("no such database: %+v", f)
	}
}

// A Redis that evicts loses events that wait in it. It needs a server of its own, whose settings the test may change.
func TestDoctorRefusesARedisThatEvicts(t *testing.T) {
	server, err := testenv.StartRedis(false)
	if err != nil {
		testenv.Redis(t) // says why, or skips
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	options, err := redis.ParseURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	if err := client.ConfigSet(context.Background(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	findings, code, _ := diagnose(t, sharedEnvironment(t, testenv.Postgres(t), server.URL))
	if f := findings["redis"]; code != 1 || f.Status != verdictFail || !strings.Contains(f.Advice, "noeviction") {
		t.Errorf("exit %d, %+v", code, f)
	}
	if err := client.ConfigSet(context.Background(), "requirepass", "secret-of-redis").Err(); err != nil {
		t.Fatal(err)
	}
	findings, _, text := diagnose(t, sharedEnvironment(t, testenv.Postgres(t), strings.Replace(server.URL, "redis://", "redis://:wrong-of-redis@", 1)))
	if f := findings["redis"]; f.Status != verdictFail || !strings.Contains(f.Advice, "check user and password") || strings.Contains(text, "wrong-of-redis") {
		t.Errorf("%+v", f)
	}
}

func TestMigrateEmbedded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	environ := []string{"CATRACA_DATA_DIR=" + dir}
	var out bytes.Buffer
	if code := catraca(t.Context(), []string{"migrate", "--status", "--json"}, environ, &out, &out); code != 0 || !strings.Contains(out.String(), `"version": 1`) || strings.Contains(out.String(), "applied_at") {
		t.Errorf("exit %d: %s", code, &out)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("to look left something behind: %v", err)
	}
	out.Reset()
	if code := catraca(t.Context(), []string{"migrate"}, environ, &out, &out); code != 0 || !strings.HasPrefix(out.String(), "Took ") {
		t.Errorf("exit %d: %s", code, &out)
	}
	out.Reset()
	if code := catraca(t.Context(), []string{"migrate"}, []string{"CATRACA_REDIS_URL=" + goodRedis}, &out, &out); code != 1 || !strings.Contains(out.String(), "set both") {
		t.Errorf("exit %d: %s", code, &out)
	}
}

func TestSimulateCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address := freeAddress(t)
	var out bytes.Buffer
	done := make(chan int)
	go func() {
		done <- catraca(ctx, []string{"simulate", "--listen", address, "--key=right-key-0123456789"}, nil, &out, &out)
	}()
	status := 0
	for end := time.Now().Add(10 * time.Second); status == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if response, err := http.Get("http://" + address + "/v1/models"); err == nil {
			status = response.StatusCode
			_ = response.Body.Close()
		}
	}
	cancel()
	if code := <-done; code != 0 || status != 200 || !strings.Contains(out.String(), "AI_GATEWAY_BASE_URL=http://"+address+"/v1") {
		t.Errorf("exit %d, status %d: %s", code, status, &out)
	}
	for line, hint := range map[string]string{
		"simulate --error-rate=2":       "between 0 and 1",
		"simulate --behaviour=explode":  "--list",
		"simulate --listen=nowhere:x:y": "--listen",
	} {
		out.Reset()
		if code := catraca(t.Context(), strings.Fields(line), nil, &out, &out); code != 1 || !strings.Contains(out.String(), hint) {
			t.Errorf("%s: exit %d: %s", line, code, &out)
		}
	}
	out.Reset()
	if code := catraca(t.Context(), []string{"simulate", "--list"}, nil, &out, &out); code != 0 || !strings.Contains(out.String(), "sim/429 ") {
		t.Errorf("exit %d: %s", code, &out)
	}
}

func TestDoctorOfAProxy(t *testing.T) {
	var looked []string
	answer := func(w http.ResponseWriter, r *http.Request) {
		looked = append(looked, r.URL.Path)
		w.Header().Set("X-Catraca-Link", "1")
		if r.Header.Get("Authorization") != "Bearer sidecar-0123456789abcdef" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"code":"unauthorized","message":"no"}`)
			return
		}
		fmt.Fprintf(w, `{"at":%q,"version":7}`, time.Now().UTC().Format(time.RFC3339Nano))
	}
	control := httptest.NewServer(http.HandlerFunc(answer))
	defer control.Close()
	environ := func(url, token string) []string {
		return []string{"CATRACA_CONTROL_URL=" + url, "CATRACA_SIDECAR_TOKEN=" + token, "CATRACA_REDIS_URL=redis://127.0.0.1:9/0", "CATRACA_DATA_DIR=" + t.TempDir()}
	}
	for _, c := range []struct {
		url, token string
		status     verdict
		detail     string
	}{
		{control.URL, "sidecar-0123456789abcdef", verdictOK, "configuration at version 7"},
		{control.URL, "sidecar-0123456789abcdeX", verdictFail, "refuses our credential"},
		{"http://127.0.0.1:9", "sidecar-0123456789abcdef", verdictFail, "refused"},
	} {
		findings, code, text := diagnose(t, environ(c.url, c.token))
		got := findings["control"]
		if got.Status != c.status || !strings.Contains(got.Detail, c.detail) || code == 0 /* there is no Redis */ {
			t.Errorf("%s: %+v, exit %d", c.url, got, code)
		}
		if _, asked := findings["database"]; asked {
			t.Error("a proxy has no database to look at")
		}
		if strings.Contains(text, c.token) {
			t.Error("the token is printed")
		}
	}
	if len(looked) == 0 {
		t.Error("the control plane was not asked")
	}
}
