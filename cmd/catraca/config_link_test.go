package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each environment of one plane has one mistake, and gets one line.
func TestEachMistakeOfThePlanes(t *testing.T) {
	const token, url = "CATRACA_SIDECAR_TOKEN=sidecar-0123456789abcdef", "CATRACA_CONTROL_URL=http://127.0.0.1:8082"
	redis := "CATRACA_REDIS_URL=" + goodRedis
	file := filepath.Join(t.TempDir(), "some.pem")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	shared := []string{"CATRACA_DATABASE_URL=" + goodDatabase, redis, "CATRACA_MASTER_KEY=" + goodMasterKey(), "CATRACA_ADMIN_TOKEN=" + goodToken}
	control := func(more ...string) []string { return append(append([]string{}, shared...), more...) }
	for _, c := range []struct {
		plane   plane
		environ []string
		line    string // begins with it; empty: all is well
	}{
		{planeProxy, []string{token, url, redis}, ""},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=https://control.example:8082", redis}, ""},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=https://control.example:8082/", redis}, ""},
		{planeProxy, []string{"CATRACA_PROXY_TLS_CERT=" + file, "CATRACA_PROXY_TLS_KEY=" + file, "CATRACA_CONTROL_URL=https://control.example:8082", redis}, ""},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=http://control.example:8082", "CATRACA_CONTROL_INSECURE=true", redis}, ""},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=http://control.example:8082", redis}, "CATRACA_CONTROL_URL=http://control.example:8082 would send the token"},
		{planeProxy, []string{token, redis}, "CATRACA_CONTROL_URL is required by a proxy"},
		{planeProxy, []string{token, url}, "CATRACA_REDIS_URL is required by a proxy"},
		{planeProxy, []string{url, redis}, "CATRACA_SIDECAR_TOKEN is required by a proxy"},
		{planeProxy, []string{token, url, redis, "CATRACA_DATABASE_URL=" + goodDatabase}, "CATRACA_DATABASE_URL is set, and a proxy never has a database"},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=control:8082", redis}, `CATRACA_CONTROL_URL="control:8082" is not an http`},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=https://u:p@control:8082", redis}, "CATRACA_CONTROL_URL holds a user or password"},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=https://control:8082/link", redis}, "CATRACA_CONTROL_URL=https://control:8082/link must end with its port"},
		{planeProxy, []string{token, "CATRACA_CONTROL_URL=http://127.0.0.1:8081", redis}, "CATRACA_CONTROL_URL=http://127.0.0.1:8081 is a listener of this proxy itself"},
		{planeProxy, []string{"CATRACA_SIDECAR_TOKEN=short", url, redis}, "CATRACA_SIDECAR_TOKEN is too weak"},
		{planeProxy, []string{"CATRACA_SIDECAR_TOKEN=sidecar-0123456789abcdef,short", url, redis}, "CATRACA_SIDECAR_TOKEN is too weak"},
		{planeProxy, []string{token, url, redis, "CATRACA_CONTROL_CA=/does/not/exist"}, "CATRACA_CONTROL_CA: open /does/not/exist"},
		{planeProxy, []string{token, url, redis, "CATRACA_PROXY_TLS_CERT=" + file}, "CATRACA_PROXY_TLS_CERT and CATRACA_PROXY_TLS_KEY go together"},
		{planeProxy, []string{url, redis, "CATRACA_PROXY_TLS_CERT=" + file, "CATRACA_PROXY_TLS_KEY=" + file}, "CATRACA_PROXY_TLS_CERT can only be shown over https://"},
		{planeControl, control(token), ""},
		{planeControl, control(token, "CATRACA_CONTROL_LISTEN=:8082", "CATRACA_CONTROL_INSECURE=true"), ""},
		{planeControl, control(token, "CATRACA_CONTROL_LISTEN=:8082", "CATRACA_CONTROL_TLS_CERT="+file, "CATRACA_CONTROL_TLS_KEY="+file), ""},
		{planeControl, control("CATRACA_CONTROL_CLIENT_CA="+file, "CATRACA_CONTROL_TLS_CERT="+file, "CATRACA_CONTROL_TLS_KEY="+file), ""},
		{planeControl, control(), "nothing says which proxies may come: set CATRACA_SIDECAR_TOKEN"},
		{planeControl, control("CATRACA_CONTROL_CLIENT_CA=" + file), "CATRACA_CONTROL_CLIENT_CA needs a certificate of our own"},
		{planeControl, control(token, "CATRACA_CONTROL_LISTEN=:8082"), "CATRACA_CONTROL_LISTEN=:8082 can be reached from other machines"},
		{planeControl, control(token, "CATRACA_CONTROL_LISTEN=127.0.0.1:8081"), "CATRACA_CONTROL_LISTEN=127.0.0.1:8081 is the same port as CATRACA_ADMIN_LISTEN"},
		{planeControl, control("CATRACA_SIDECAR_TOKEN=" + goodToken), "CATRACA_SIDECAR_TOKEN is the same as CATRACA_ADMIN_TOKEN"},
		{planeControl, append([]string{token}, shared[1:]...), "CATRACA_DATABASE_URL and CATRACA_REDIS_URL are both required by a control plane"},
		{planeControl, append([]string{token}, append(append([]string{}, shared[:2]...), shared[3])...), "CATRACA_MASTER_KEY is required"},
	} {
		cfg, err := LoadConfig(c.environ)
		cfg.plane = c.plane
		found := lines(errors.Join(err, cfg.Validate()))
		switch {
		case c.line == "" && len(found) > 0:
			t.Errorf("%s with %q: %q", c.plane.command(), c.environ, found)
		case c.line != "" && (len(found) != 1 || !strings.HasPrefix(found[0], c.line)):
			t.Errorf("%s with %q:\n got %q\nwant %q", c.plane.command(), c.environ, found, c.line)
		}
	}
}
