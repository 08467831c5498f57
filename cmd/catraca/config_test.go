package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/catraca/catraca/tenancy"
)

const (
	goodToken    = "Zt4-kUw9_pQ2xLm7"
	goodDatabase = "postgres://catraca:p%40ss-of-postgres@db.example:5432/catraca?sslmode=require"
	goodRedis    = "redis://:pass-of-redis@redis.example:6379/0"
)

// goodMasterKey is 32 bytes that are not all the same.
func goodMasterKey() string {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i*7 + 1)
	}
	return base64.StdEncoding.EncodeToString(key)
}

func problems(environ ...string) []string {
	cfg, err := LoadConfig(environ)
	found := lines(err)
	return append(found, lines(cfg.Validate())...)
}

func TestDefaultsAreValid(t *testing.T) {
	cfg, err := LoadConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, got, want string }{
		{"listen", cfg.Listen, "127.0.0.1:8080"},
		{"admin listen", cfg.AdminListen, "127.0.0.1:8081"},
		{"data dir", cfg.DataDir, "./data"},
		{"body", cfg.MaxBodyBytes.String(), "32MiB"},
		{"spool", cfg.SpoolMaxBytes.String(), "4GiB"},
		{"drain", cfg.DrainTimeout.String(), "25s"},
		{"connect", cfg.ConnectTimeout.String(), "5s"},
		{"first byte", cfg.FirstByteTimeout.String(), "10m0s"},
		{"idle", cfg.IdleTimeout.String(), "10m0s"},
		{"level", cfg.LogLevel.String(), "INFO"},
		{"policy", string(cfg.UnknownModelPolicy), "refuse"},
		{"gateway", cfg.GatewayBaseURL, "https://ai-gateway.vercel.sh/v1"},
		{"zone", cfg.TimeZone, tenancy.DefaultTimeZone},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
	if !cfg.Embedded() || !cfg.EnableGateway || cfg.TrustClientID {
		t.Errorf("embedded %v, gateway %v, trust %v", cfg.Embedded(), cfg.EnableGateway, cfg.TrustClientID)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	want := map[string]string{
		"CATRACA_LISTEN": ":9000", "CATRACA_ADMIN_LISTEN": "[::1]:9001", "CATRACA_ADMIN_URL": "https://admin.example",
		"CATRACA_DATA_DIR": "/var/lib/catraca", "CATRACA_DATABASE_URL": goodDatabase, "CATRACA_REDIS_URL": goodRedis,
		"CATRACA_CONTROL_URL": "http://control:8081", "CATRACA_SIDECAR_TOKEN": "sidecar-token-0123456789",
		"CATRACA_CONTROL_LISTEN": ":9002", "CATRACA_CONTROL_TLS_CERT": "/tls/control.crt", "CATRACA_CONTROL_TLS_KEY": "/tls/control.key",
		"CATRACA_CONTROL_CLIENT_CA": "/tls/proxies.crt", "CATRACA_CONTROL_CA": "/tls/ca.crt", "CATRACA_PROXY_TLS_CERT": "/tls/proxy.crt",
		"CATRACA_PROXY_TLS_KEY": "/tls/proxy.key", "CATRACA_CONTROL_INSECURE": "true",
		"CATRACA_MASTER_KEY": goodMasterKey(), "CATRACA_ADMIN_TOKEN": goodToken, "CATRACA_TRUST_CLIENT_ID": "true",
		"CATRACA_CALLER_TOKEN": "caller-" + goodToken, "CATRACA_TIME_ZONE": "America/Manaus", "CATRACA_UNKNOWN_MODEL_POLICY": "meter",
		"CATRACA_MAX_BODY_BYTES": "64MiB", "CATRACA_SPOOL_MAX_BYTES": "1GiB", "CATRACA_LOG_KEEP_MONTHS": "12", "CATRACA_DRAIN_TIMEOUT": "50s",
		"CATRACA_CONNECT_TIMEOUT": "2s", "CATRACA_FIRST_BYTE_TIMEOUT": "1m", "CATRACA_IDLE_TIMEOUT": "2m", "CATRACA_LOG_LEVEL": "debug",
		"ENABLE_AI_GATEWAY": "false", "AI_GATEWAY_API_KEY": "vck_0123456789abcdef", "AI_GATEWAY_BASE_URL": "http://127.0.0.1:8090/v1",
		"OPENAI_API_KEY": "sk-0123456789abcdef", "OPENAI_BASE_URL": "http://127.0.0.1:8090/openai/v1",
		"GROQ_API_KEY": "gsk_0123456789abcdef", "GROQ_BASE_URL": "http://127.0.0.1:8090/groq/openai/v1",
		"ANTHROPIC_API_KEY": "sk-ant-0123456789abcdef", "ANTHROPIC_BASE_URL": "http://127.0.0.1:8090/anthropic/v1",
		"GOOGLE_API_KEY": "AIza0123456789abcdef", "GOOGLE_BASE_URL": "http://127.0.0.1:8090/google/v1beta/openai",
		"CATRACA_EXCHANGE_RATE_URL": "http://127.0.0.1:8090/rate", "CATRACA_PTAX_URL": "http://127.0.0.1:8090/ptax",
		"CATRACA_CRON_TOKEN": "cron-" + goodToken, "CATRACA_ALERT_WEBHOOK": "https://hooks.example/alerts", "CATRACA_ALERT_EMAIL": "ops@example.com",
		"CATRACA_ALERT_LANGUAGE": "en", "CATRACA_WEBHOOK_SECRET": goodHookSecret, "CATRACA_WEBHOOK_ALLOW_HTTP": "true",
		"CATRACA_WEBHOOK_ALLOW_PRIVATE": "10.20.0.0/16", "CATRACA_WEBHOOK_PORTS": "8443",
		"CATRACA_SMTP_URL": "smtp://user:password@mail.example:587", "CATRACA_SMTP_FROM": "Catraca <catraca@example.com>",
	}
	var environ []string
	for name, value := range want {
		environ = append(environ, name+"="+value)
	}
	cfg, err := LoadConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings(&cfg) {
		value, ok := want[s.name]
		if !ok {
			t.Errorf("%s is not in this test", s.name)
			continue
		}
		delete(want, s.name)
		got := settingText(s.value)
		switch secret := s.value.(type) {
		case Secret:
			got = secret.Reveal()
		case SecretURL:
			got = secret.Reveal()
		}
		if got != value {
			t.Errorf("%s: %q, want %q", s.name, got, value)
		}
		if cfg.origin[s.name] != "environment" {
			t.Errorf("%s comes from %q", s.name, cfg.origin[s.name])
		}
	}
	for name := range want {
		t.Errorf("%s is not a setting", name)
	}
}

// Each environment has one mistake, and gets one line that begins with the variable and holds the hint.
func TestEachMistakeHasItsLine(t *testing.T) {
	real := []string{"CATRACA_DATABASE_URL=" + goodDatabase, "CATRACA_REDIS_URL=" + goodRedis, "CATRACA_MASTER_KEY=" + goodMasterKey(), "CATRACA_ADMIN_TOKEN=" + goodToken}
	for _, c := range []struct {
		environ []string
		line    string // begins with it; … stands for anything
	}{
		{[]string{"CATRACA_LISTEN=8080"}, `CATRACA_LISTEN="8080" is not host:port…127.0.0.1:8080`},
		{[]string{"CATRACA_LISTEN=127.0.0.1"}, `CATRACA_LISTEN="127.0.0.1" is not host:port`},
		{[]string{"CATRACA_LISTEN=127.0.0.1:http"}, `CATRACA_LISTEN="127.0.0.1:http": port "http" is not a number`},
		{[]string{"CATRACA_LISTEN=127.0.0.1:70000"}, `CATRACA_LISTEN="127.0.0.1:70000": port "70000" is not a number from 0 to 65535`},
		{[]string{"CATRACA_LISTEN=http://127.0.0.1:8080"}, `CATRACA_LISTEN="http://127.0.0.1:8080" is not host:port`},
		{[]string{"CATRACA_ADMIN_LISTEN=localhost"}, `CATRACA_ADMIN_LISTEN="localhost" is not host:port`},
		{[]string{"CATRACA_ADMIN_LISTEN=127.0.0.1:8080"}, `CATRACA_ADMIN_LISTEN=127.0.0.1:8080 is the same port as CATRACA_LISTEN`},
		{[]string{"CATRACA_ADMIN_LISTEN=:8080"}, `CATRACA_ADMIN_LISTEN=:8080 is the same port as CATRACA_LISTEN`},
		{[]string{"CATRACA_ADMIN_LISTEN=localhost:8080"}, `CATRACA_ADMIN_LISTEN=localhost:8080 is the same port as CATRACA_LISTEN`},
		{[]string{"CATRACA_ADMIN_URL=127.0.0.1:8081"}, `CATRACA_ADMIN_URL="127.0.0.1:8081" is not an http:// or https:// address`},
		{[]string{"CATRACA_TRUST_CLIENT_ID=true", "CATRACA_LISTEN=:8080"}, `CATRACA_TRUST_CLIENT_ID=true lets whoever reaches CATRACA_LISTEN=:8080…CATRACA_CALLER_TOKEN`},
		{[]string{"CATRACA_TRUST_CLIENT_ID=true", "CATRACA_LISTEN=10.0.0.1:8080"}, `CATRACA_TRUST_CLIENT_ID=true lets whoever`},
		{[]string{"CATRACA_TRUST_CLIENT_ID=ja"}, `CATRACA_TRUST_CLIENT_ID="ja": write true or false`},
		{[]string{"CATRACA_CALLER_TOKEN=short"}, `CATRACA_CALLER_TOKEN is too weak…openssl rand -hex 24`},
		{[]string{"CATRACA_DATABASE_URL=" + goodDatabase, real[2], real[3]}, `CATRACA_DATABASE_URL is set and CATRACA_REDIS_URL is not: set both, or neither to run embedded`},
		{[]string{"CATRACA_REDIS_URL=" + goodRedis, real[2], real[3]}, `CATRACA_REDIS_URL is set and CATRACA_DATABASE_URL is not`},
		{[]string{"CATRACA_DATABASE_URL=mysql://db/catraca", real[1], real[2], real[3]}, `CATRACA_DATABASE_URL=mysql://db/catraca: write postgres://user:password@host:5432/database`},
		{[]string{"CATRACA_DATABASE_URL=host=db password=hunter2hunter2", real[1], real[2], real[3]}, `CATRACA_DATABASE_URL=****: write postgres://`},
		{[]string{"CATRACA_DATABASE_URL=postgres://u:p%zz@db/x", real[1], real[2], real[3]}, `CATRACA_DATABASE_URL cannot be read as a URL…%40 for an @`},
		{[]string{real[0], "CATRACA_REDIS_URL=redis.example:6379", real[2], real[3]}, `CATRACA_REDIS_URL=****: write redis://user:password@host:6379/0`},
		{[]string{real[0], real[1], real[3]}, `CATRACA_MASTER_KEY is required with CATRACA_DATABASE_URL…openssl rand -base64 32`},
		{[]string{real[0], real[1], real[2]}, `CATRACA_ADMIN_TOKEN is required with CATRACA_DATABASE_URL…openssl rand -hex 24`},
		{[]string{"CATRACA_MASTER_KEY=c2hvcnQ="}, `CATRACA_MASTER_KEY: master key 1 of 1 is not 32 bytes`},
		{[]string{"CATRACA_MASTER_KEY=" + goodMasterKey() + ",???"}, `CATRACA_MASTER_KEY: master key 2 of 2`},
		{[]string{"CATRACA_ADMIN_TOKEN=secret"}, `CATRACA_ADMIN_TOKEN is too weak: it needs 16 characters`},
		{[]string{"CATRACA_ADMIN_TOKEN=aaaaaaaaaaaaaaaaaaaaaaaa"}, `CATRACA_ADMIN_TOKEN is too weak`},
		{[]string{"CATRACA_ADMIN_TOKEN=0123456789 0123456789"}, `CATRACA_ADMIN_TOKEN has a space`},
		{[]string{"CATRACA_ADMIN_TOKEN=" + goodToken, "CATRACA_CALLER_TOKEN=" + goodToken}, `CATRACA_CALLER_TOKEN is the same as CATRACA_ADMIN_TOKEN`},
		{[]string{"AI_GATEWAY_API_KEY=vck_abc\n"}, `AI_GATEWAY_API_KEY has a space, a line break`},
		{[]string{"AI_GATEWAY_BASE_URL=ai-gateway.vercel.sh/v1"}, `AI_GATEWAY_BASE_URL="ai-gateway.vercel.sh/v1" is not an http`},
		{[]string{"GROQ_BASE_URL=https://me:hunter2@groq.example/v1"}, `GROQ_BASE_URL holds a user or password`},
		{[]string{"ANTHROPIC_BASE_URL=https://anthropic.example/v1?beta=1"}, `ANTHROPIC_BASE_URL=https://anthropic.example/v1?beta=1 must end with its path`},
		{[]string{"OPENAI_BASE_URL=http://localhost:8080/v1"}, `OPENAI_BASE_URL=http://localhost:8080/v1 is Catraca's own CATRACA_LISTEN`},
		{[]string{"OPENAI_BASE_URL=http://127.0.0.1:8080/v1", "CATRACA_LISTEN=0.0.0.0:8080"}, `OPENAI_BASE_URL=http://127.0.0.1:8080/v1 is Catraca's own`},
		{[]string{"GOOGLE_BASE_URL=ftp://google.example"}, `GOOGLE_BASE_URL="ftp://google.example" is not an http`},
		{[]string{"CATRACA_EXCHANGE_RATE_URL=https://"}, `CATRACA_EXCHANGE_RATE_URL="https://" is not an http`},
		{[]string{"CATRACA_PTAX_URL=olinda"}, `CATRACA_PTAX_URL="olinda" is not an http`},
		{[]string{"CATRACA_UNKNOWN_MODEL_POLICY=allow"}, `CATRACA_UNKNOWN_MODEL_POLICY="allow": write refuse or meter`},
		{[]string{"CATRACA_TIME_ZONE=Brasilia"}, `CATRACA_TIME_ZONE="Brasilia" is not an IANA time zone`},
		{[]string{"CATRACA_TIME_ZONE=Local"}, `CATRACA_TIME_ZONE="Local" is not an IANA time zone`},
		{[]string{"CATRACA_MAX_BODY_BYTES=32 megabytes"}, `CATRACA_MAX_BODY_BYTES="32 megabytes": write a size`},
		{[]string{"CATRACA_MAX_BODY_BYTES=-1"}, `CATRACA_MAX_BODY_BYTES="-1": write a size`},
		{[]string{"CATRACA_MAX_BODY_BYTES=9999999999GiB"}, `CATRACA_MAX_BODY_BYTES="9999999999GiB": write a size`},
		{[]string{"CATRACA_MAX_BODY_BYTES=100"}, `CATRACA_MAX_BODY_BYTES=100: choose from 1KiB to 1GiB`},
		{[]string{"CATRACA_MAX_BODY_BYTES=2GiB"}, `CATRACA_MAX_BODY_BYTES=2GiB: choose from`},
		{[]string{"CATRACA_SPOOL_MAX_BYTES=1MiB"}, `CATRACA_SPOOL_MAX_BYTES=1MiB: it needs at least 64MiB`},
		{[]string{"CATRACA_LOG_KEEP_MONTHS=1y"}, `CATRACA_LOG_KEEP_MONTHS="1y": write a whole number`},
		{[]string{"CATRACA_LOG_KEEP_MONTHS=-1"}, `CATRACA_LOG_KEEP_MONTHS=-1: write how many months`},
		{[]string{"CATRACA_DRAIN_TIMEOUT=25"}, `CATRACA_DRAIN_TIMEOUT="25": write a time with its unit`},
		{[]string{"CATRACA_DRAIN_TIMEOUT=-1s"}, `CATRACA_DRAIN_TIMEOUT=-1s: it cannot be negative`},
		{[]string{"CATRACA_CONNECT_TIMEOUT=0s"}, `CATRACA_CONNECT_TIMEOUT=0s: it must be more than 0`},
		{[]string{"CATRACA_FIRST_BYTE_TIMEOUT=-5m"}, `CATRACA_FIRST_BYTE_TIMEOUT=-5m0s: it must be more than 0`},
		{[]string{"CATRACA_IDLE_TIMEOUT=x"}, `CATRACA_IDLE_TIMEOUT="x": write a time with its unit`},
		{[]string{"CATRACA_LOG_LEVEL=loud"}, `CATRACA_LOG_LEVEL="loud": write debug, info, warn or error`},
		{[]string{"ENABLE_AI_GATEWAY=sim"}, `ENABLE_AI_GATEWAY="sim": write true or false`},
		{[]string{"CATRACA_CONTROL_URL=http://control:8081"}, "CATRACA_CONTROL_URL is for `catraca proxy`; serve is both planes"},
		{[]string{"CATRACA_LISTN=:80"}, `CATRACA_LISTN is not a setting of Catraca: did you mean CATRACA_LISTEN?`},
		{[]string{"CATRACA_DB_URL=x"}, `CATRACA_DB_URL is not a setting of Catraca…`},
		{[]string{"CATRACA_ADMIN_TOKEN_FIL=x"}, `CATRACA_ADMIN_TOKEN_FIL is not a setting of Catraca: did you mean CATRACA_ADMIN_TOKEN_FILE?`},
		{[]string{"CATRACA_TOTALLY_DIFFERENT_THING=x"}, "CATRACA_TOTALLY_DIFFERENT_THING is not a setting of Catraca; `catraca check` lists"},
		{[]string{"CATRACA_PORT=9999"}, `CATRACA_PORT is not a setting of Catraca`},
		{[]string{"OPENAI_API_KEY_FILE=/does/not/exist"}, `OPENAI_API_KEY_FILE: open /does/not/exist: no such file or directory; check the path`},
	} {
		found := problems(c.environ...)
		if len(found) != 1 {
			t.Errorf("%q gives %d lines:\n%s", c.environ, len(found), strings.Join(found, "\n"))
			continue
		}
		begin, more, _ := strings.Cut(c.line, "…")
		if rest, ok := strings.CutPrefix(found[0], begin); !ok || !strings.Contains(rest, more) {
			t.Errorf("%q:\n got %s\nwant %s", c.environ, found[0], c.line)
		}
		for _, secret := range []string{"hunter2", "p@ss-of-postgres", "p%40ss-of-postgres", "pass-of-redis", goodToken, goodMasterKey()} {
			if strings.Contains(found[0], secret) {
				t.Errorf("%q is in the message: %s", secret, found[0])
			}
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	found := problems("CATRACA_LISTEN=x", "CATRACA_LISTENN=y", "CATRACA_TIME_ZONE=Mars/Olympus", "CATRACA_IDLE_TIMEOUT=1", "GROQ_BASE_URL=?", "CATRACA_ADMIN_TOKEN=1")
	if len(found) != 6 {
		t.Errorf("%d lines, want 6:\n%s", len(found), strings.Join(found, "\n"))
	}
}

func TestKubernetesServiceLinksAreNotMistakes(t *testing.T) {
	// What a pod gets for Services called catraca and catraca-admin.
	for _, link := range []string{
		"CATRACA_SERVICE_HOST=10.96.0.17", "CATRACA_SERVICE_PORT=8080", "CATRACA_SERVICE_PORT_HTTP=8080",
		"CATRACA_PORT=tcp://10.96.0.17:8080", "CATRACA_PORT_8080_TCP=tcp://10.96.0.17:8080", "CATRACA_PORT_8080_TCP_PROTO=tcp",
		"CATRACA_PORT_8080_TCP_PORT=8080", "CATRACA_PORT_8080_TCP_ADDR=10.96.0.17", "CATRACA_ADMIN_SERVICE_HOST=10.96.0.18",
		"CATRACA_ADMIN_PORT=tcp://10.96.0.18:8081", "CATRACA_ADMIN_PORT_8081_TCP_ADDR=10.96.0.18", "CATRACA_TEST_REQUIRE_SERVICES=1",
	} {
		if found := problems(link); len(found) > 0 {
			t.Errorf("%s: %s", link, found)
		}
	}
}

func TestWhatIsMeantWell(t *testing.T) {
	for _, environ := range [][]string{
		{"CATRACA_DATABASE_URL=" + goodDatabase, "CATRACA_REDIS_URL=" + goodRedis, "CATRACA_MASTER_KEY=" + goodMasterKey(), "CATRACA_ADMIN_TOKEN=" + goodToken},
		{"CATRACA_REDIS_URL=", "CATRACA_DATABASE_URL=", "CATRACA_LISTEN="}, // empty is not set
		{"CATRACA_TRUST_CLIENT_ID=true", "CATRACA_LISTEN=[::1]:8080"},
		{"CATRACA_TRUST_CLIENT_ID=true", "CATRACA_LISTEN=:8080", "CATRACA_CALLER_TOKEN=" + goodToken},
		{"CATRACA_LISTEN=127.0.0.1:0", "CATRACA_ADMIN_LISTEN=127.0.0.1:0"},
		{"CATRACA_LISTEN=10.0.0.1:8080", "CATRACA_ADMIN_LISTEN=10.0.0.2:8080"},
		{"AI_GATEWAY_BASE_URL=http://127.0.0.1:8090/v1", "CATRACA_LISTEN=0.0.0.0:8080"},
		{"CATRACA_MAX_BODY_BYTES=33554432", "CATRACA_SPOOL_MAX_BYTES=64MiB"},
		{"UNRELATED=x", "PATH=/bin"},
	} {
		if found := problems(environ...); len(found) > 0 {
			t.Errorf("%q: %s", environ, found)
		}
	}
}

func TestSecretsFromFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{
		"sk-from-a-file-01":     "sk-from-a-file-01",
		"sk-from-a-file-02\n":   "sk-from-a-file-02",
		"sk-from-a-file-03\r\n": "sk-from-a-file-03",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadConfig([]string{"OPENAI_API_KEY_FILE=" + path})
		if err != nil || cfg.OpenAIKey.Reveal() != want {
			t.Errorf("%q: %q, %v", content, cfg.OpenAIKey.Reveal(), err)
		}
		if got := cfg.origin["OPENAI_API_KEY"]; got != "file "+path {
			t.Errorf("origin %q", got)
		}
	}
	_, err := LoadConfig([]string{"OPENAI_API_KEY_FILE=" + path, "OPENAI_API_KEY=sk-also-here-0001"})
	if err == nil || !strings.Contains(err.Error(), "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set") {
		t.Errorf("both set: %v", err)
	}
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig([]string{"OPENAI_API_KEY_FILE=" + path}); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("empty file: %v", err)
	}
	// A file that cannot be read is one mistake and not a second one about what now seems to be missing.
	if found := problems("CATRACA_DATABASE_URL_FILE=/does/not/exist", "CATRACA_REDIS_URL="+goodRedis, "CATRACA_MASTER_KEY="+goodMasterKey(), "CATRACA_ADMIN_TOKEN="+goodToken); len(found) != 1 {
		t.Errorf("unreadable file: %q", found)
	}
	for _, s := range settings(new(Config)) {
		if s.secret {
			if err := os.WriteFile(path, []byte(s.name+" value\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, _ := LoadConfig([]string{s.name + "_FILE=" + path})
			got := reflect.ValueOf(cfg).FieldByName(s.field).Interface().(interface{ Reveal() string }).Reveal()
			if got != s.name+" value" {
				t.Errorf("%s_FILE: %q", s.name, got)
			}
		}
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const canary = "canary-0123456789-WXYZ"
	environ := []string{}
	for _, s := range settings(new(Config)) {
		if s.secret {
			environ = append(environ, s.name+"="+canary)
		}
	}
	environ = append(environ, "CATRACA_DATABASE_URL=postgres://u:"+canary+"@db/x?sslpassword="+canary, "CATRACA_REDIS_URL=redis://:"+canary+"@redis:6379")
	cfg, err := LoadConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cfg", cfg, "key", cfg.OpenAIKey, "url", cfg.DatabaseURL)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cfg", cfg, "key", cfg.OpenAIKey, "url", cfg.DatabaseURL)
	wrapped := struct{ hidden Secret }{cfg.OpenAIKey}
	all := string(encoded) + log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		all += fmt.Sprintf(verb, cfg) + fmt.Sprintf(verb, wrapped) + fmt.Sprintf(verb, cfg.OpenAIKey) + fmt.Sprintf(verb, &cfg.OpenAIKey) + fmt.Sprintf(verb, cfg.DatabaseURL)
	}
	result := check(environ, forPlane{})
	text, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	all += string(text)
	for _, piece := range []string{canary, "0123456789", fmt.Sprintf("%x", canary)} {
		if strings.Contains(all, piece) {
			t.Errorf("%q can be read in:\n%s", piece, all)
		}
	}
	if !strings.Contains(all, "****WXYZ") || !strings.Contains(all, "postgres://u:****@db/x?sslpassword=****") {
		t.Errorf("no mask in:\n%s", all)
	}
	if got := NewSecret("fifteen-chars-x").String(); got != "****" {
		t.Errorf("a short secret prints as %s", got)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "1": 1, "1024": 1024, "1KiB": 1 << 10, "32MiB": 32 << 20, "4 GiB": 4 << 30, "1TiB": 1 << 40} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%s: %d, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "x", "1.5MiB", "MiB", "1MB", "-1KiB", "9223372036854775807KiB"} {
		var b Bytes
		if b.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is taken as %d", text, b)
		}
	}
	for b, want := range map[Bytes]string{0: "0", 1: "1", 1 << 10: "1KiB", 1536: "1536", 32 << 20: "32MiB", 5 << 30: "5GiB"} {
		if b.String() != want {
			t.Errorf("%d: %s, want %s", int64(b), b, want)
		}
	}
}

// Every field says what it is for and what its default is: this file is the one text about settings.
func TestEveryFieldOfConfigIsExplained(t *testing.T) {
	about := explanations()
	cfg, err := LoadConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings(&cfg) {
		text := about[s.name]
		if len(text) < 60 || !strings.HasPrefix(text, s.field+" ") {
			t.Errorf("%s: %q", s.name, text)
		}
		lower := strings.ToLower(text)
		if !strings.Contains(lower, "default") {
			t.Errorf("%s does not tell its default: %q", s.name, text)
		}
		if value := settingText(s.value); value != "" && !strings.HasPrefix(value, "https://") && !strings.Contains(text, value) {
			t.Errorf("%s: its default is %q, and the text does not say so: %q", s.name, value, text)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", configSource, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if !ast.FileExports(file) {
		t.Error("config.go exports nothing")
	}
}

func TestLocalSecrets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg, err := LoadConfig([]string{"CATRACA_DATA_DIR=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	first, err := cfg.withLocalSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Validate(); err != nil {
		t.Errorf("what was made is not valid: %v", err)
	}
	again, err := cfg.withLocalSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if first.AdminToken.Reveal() != again.AdminToken.Reveal() || first.MasterKey.Reveal() != again.MasterKey.Reveal() {
		t.Error("a second start made other secrets")
	}
	for _, path := range []string{cfg.AdminTokenPath(), cfg.MasterKeyPath()} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%d files, want 2: %v, %v", len(left), left, err)
	}
	given, err := LoadConfig([]string{"CATRACA_DATA_DIR=" + dir, "CATRACA_ADMIN_TOKEN=" + goodToken})
	if err != nil {
		t.Fatal(err)
	}
	if given, err = given.withLocalSecrets(); err != nil || given.AdminToken.Reveal() != goodToken {
		t.Errorf("a token that was given is not kept: %v", err)
	}
	if err := os.WriteFile(cfg.MasterKeyPath(), []byte("damaged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.withLocalSecrets(); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("a damaged master key: %v", err)
	}
}

// Two processes that start at once in a new directory must end up with the same secrets.
func TestLocalSecretsAreMadeOnce(t *testing.T) {
	cfg, err := LoadConfig([]string{"CATRACA_DATA_DIR=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	made := make(chan string)
	for range 8 {
		go func() {
			c, err := cfg.withLocalSecrets()
			made <- fmt.Sprint(c.AdminToken.Reveal(), c.MasterKey.Reveal(), err)
		}()
	}
	first := <-made
	for range 7 {
		if other := <-made; other != first {
			t.Errorf("%s, and %s", first, other)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		environ []string
		want    string
	}{
		{nil, "no upstream has a key"},
		{[]string{"OPENAI_API_KEY=sk-0123456789abcdef"}, "AI_GATEWAY_API_KEY is not set"},
		{[]string{"AI_GATEWAY_API_KEY=vck_0123456789", "AI_GATEWAY_BASE_URL=http://gateway.example/v1"}, "is not encrypted"},
		{[]string{"AI_GATEWAY_API_KEY=vck_0123456789", "CATRACA_CALLER_TOKEN=" + goodToken}, "CATRACA_CALLER_TOKEN does nothing"},
		{[]string{"AI_GATEWAY_API_KEY=vck_0123456789", "CATRACA_ADMIN_LISTEN=:8081"}, "can be reached from other machines"},
		{[]string{"AI_GATEWAY_API_KEY=vck_0123456789", "AI_GATEWAY_BASE_URL=http://127.0.0.1:8090/v1"}, ""},
	} {
		cfg, err := LoadConfig(c.environ)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(cfg.Warnings(), "\n")
		if !strings.Contains(got, c.want) || c.want == "" && got != "" || strings.Count(got, "\n") > 0 {
			t.Errorf("%q: %q, want %q", c.environ, got, c.want)
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{10 * time.Minute: "10m", 25 * time.Second: "25s", 0: "0s", time.Hour: "1h", 90 * time.Minute: "1h30m", 24 * time.Hour: "24h", 61 * time.Second: "1m1s"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
