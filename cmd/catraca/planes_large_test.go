package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catraca/catraca/tenancy"
)

const (
	manyTenants = 100_000
	mostRSS     = 150 << 20
)

// fillTenants puts tenants with a key each into a database, past its triggers, and gives the keys.
func fillTenants(t *testing.T, database, masterKey string, n int) []string {
	t.Helper()
	vault, err := tenancy.ParseMasterKeys(masterKey)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "SET session_replication_role = replica"); err != nil {
		t.Fatal(err)
	}
	secrets := make([]string, n)
	clients, settings, keys := make([][]any, n), make([][]any, n), make([][]any, n)
	for i := range n {
		id, name := uuid.New(), fmt.Sprintf("Empresa de exemplo %d Ltda.", i)
		secret, digest, prefix := tenancy.NewSecret()
		phoneKey := make([]byte, 32)
		rand.Read(phoneKey)
		secrets[i] = secret
		clients[i] = []any{id, true, name}
		settings[i] = []any{id, name, vault.Seal(phoneKey, "client_settings.phone_key/"+id.String())}
		keys[i] = []any{uuid.New(), id, "main", digest[:], prefix}
	}
	for _, c := range []struct {
		table   string
		columns []string
		rows    [][]any
	}{
		{"clients", []string{"id", "use_ai_gateway", "name"}, clients},
		{"client_settings", []string{"client_id", "name", "phone_key"}, settings},
		{"client_api_keys", []string{"id", "client_id", "name", "digest", "prefix"}, keys},
	} {
		if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{c.table}, c.columns, pgx.CopyFromRows(c.rows)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), "ANALYZE"); err != nil {
		t.Fatal(err)
	}
	return secrets
}

// rss reads how much memory a process has, and the most it ever had.
func rss(t *testing.T, pid int) (now, peak int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("skipped: ", err)
	}
	for line := range strings.Lines(string(status)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			now = kb << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			peak = kb << 10
		}
	}
	return now, peak
}

// A proxy that has served 100 000 tenants stays small, and starts again with all of them and everything else away.
// It takes a minute: CATRACA_TEST_LARGE=1 asks for it.
func TestManyTenants(t *testing.T) {
	if os.Getenv("CATRACA_TEST_LARGE") == "" {
		t.Skip("skipped: set CATRACA_TEST_LARGE=1")
	}
	d := newDeployment(t)
	secrets := fillTenants(t, d.postgres.URL, goodMasterKey(), manyTenants)
	control := d.newControl().start()
	p, wire, admin := d.newProxy("proxy")
	p.start()
	d.until(15*time.Second, "the proxy is ready", func() bool { return d.get("http://"+admin+"/readyz", "").status == 200 })
	now, _ := rss(t, p.cmd.Process.Pid)
	t.Logf("empty: proxy %d MiB", now>>20)

	ask := func(keys []string) (refused int64) {
		var next, wrong atomic.Int64
		var asking sync.WaitGroup
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
		for range 16 {
			asking.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(keys)); i = next.Add(1) - 1 {
					request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+wire+"/v1/models/gpt-4o-mini", nil)
					request.Header.Set("Authorization", "Bearer "+keys[i])
					response, err := client.Do(request)
					if err != nil || response.StatusCode != 200 {
						wrong.Add(1)
					}
					if err == nil {
						_ = response.Body.Close()
					}
				}
			})
		}
		asking.Wait()
		return wrong.Load()
	}
	began := time.Now()
	if n := ask(secrets); n != 0 {
		t.Fatalf("%d of %d tenants were not served", n, len(secrets))
	}
	t.Logf("%d tenants served for the first time in %s", len(secrets), time.Since(began).Round(time.Millisecond))
	time.Sleep(5 * time.Second) // the snapshot is written
	now, peak := rss(t, p.cmd.Process.Pid)
	size := func() int64 {
		info, err := os.Stat(filepath.Join(p.dataDir(), "last-good"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	t.Logf("%d tenants known: proxy %d MiB, at most %d MiB; snapshot %d KiB", manyTenants, now>>20, peak>>20, size()>>10)
	if peak > mostRSS {
		t.Errorf("the proxy took %d MiB", peak>>20)
	}
	now, peak = rss(t, control.cmd.Process.Pid)
	t.Logf("control: %d MiB, at most %d MiB", now>>20, peak>>20)

	control.stop(syscall.SIGKILL)
	d.redis.Kill()
	d.postgres.Halt()
	p.stop(syscall.SIGKILL)
	began = time.Now()
	p.start()
	d.until(5*time.Second, "the proxy answers", func() bool { return d.get("http://"+wire+"/v1/models", secrets[0]).status == 200 })
	t.Logf("started with %d tenants and all else away in %s", manyTenants, time.Since(began).Round(time.Millisecond))
	if n := ask(secrets); n != 0 {
		t.Errorf("%d tenants are not served after a restart", n)
	}
	now, peak = rss(t, p.cmd.Process.Pid)
	t.Logf("after the restart: proxy %d MiB, at most %d MiB", now>>20, peak>>20)
	if peak > mostRSS {
		t.Errorf("the proxy took %d MiB", peak>>20)
	}
}

func (p *process) dataDir() string {
	for _, entry := range p.env {
		if dir, ok := strings.CutPrefix(entry, "CATRACA_DATA_DIR="); ok {
			return dir
		}
	}
	return ""
}
