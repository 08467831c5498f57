package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catraca/catraca/internal/testenv"
)

// build makes the binary as it ships, for tests that kill processes.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "catraca")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// deployment is control plane, proxies, database, Redis and simulator, each a process of its own.
type deployment struct {
	*testing.T
	bin             string
	postgres, redis *testenv.Server
	simulator       string
	control, link   string // addresses of the admin API and for proxies
	shared          []string
}

// process is one Catraca.
type process struct {
	d       *deployment
	name    string
	command string
	env     []string
	cmd     *exec.Cmd
	log     *logged
	exited  chan struct{}
}

// logged collects what a process says.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

const (
	planesToken  = "sidecar-0123456789abcdefghij"
	planesAdmin  = "admin-0123456789abcdefghij"
	planesPeriod = 2 * time.Second // in which a change must be in use
)

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	if testing.Short() {
		t.Skip("starts servers and kills them")
	}
	bin := build(t)
	d := &deployment{T: t, bin: bin, simulator: freeAddress(t), control: freeAddress(t), link: freeAddress(t)}
	var err error
	d.postgres, err = testenv.StartPostgres(true)
	testenv.Need(t, err)
	t.Cleanup(d.postgres.Stop)
	d.redis, err = testenv.StartRedis(false)
	testenv.Need(t, err)
	t.Cleanup(d.redis.Stop)
	d.shared = []string{
		"CATRACA_DATABASE_URL=" + d.postgres.URL, "CATRACA_REDIS_URL=" + d.redis.URL, "CATRACA_MASTER_KEY=" + goodMasterKey(),
		"CATRACA_ADMIN_TOKEN=" + planesAdmin, "CATRACA_ADMIN_LISTEN=" + d.control, "CATRACA_CONTROL_LISTEN=" + d.link,
		"CATRACA_SIDECAR_TOKEN=" + planesToken, "CATRACA_EXCHANGE_RATE_URL=http://" + d.simulator + "/_exchange/er-api",
		"CATRACA_PTAX_URL=http://" + d.simulator + "/_exchange/ptax", "CATRACA_LOG_LEVEL=debug",
	}
	d.do("migrate")
	sim := exec.Command(bin, "simulate", "--listen", d.simulator)
	sim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Process.Kill(); _ = sim.Wait() })
	d.until(10*time.Second, "the simulator answers", func() bool { return d.get("http://"+d.simulator+"/_stats", "").status == 200 })
	return d
}

// do runs one command of the admin client to its end.
func (d *deployment) do(args ...string) string {
	d.Helper()
	var out, errs bytes.Buffer
	if code := catraca(d.Context(), args, append(d.shared, "CATRACA_ADMIN_URL=http://"+d.control), &out, &errs); code != 0 {
		d.Fatalf("catraca %q: exit %d\n%s%s", args, code, out.String(), errs.String())
	}
	return out.String()
}

func (d *deployment) newControl() *process {
	return &process{d: d, name: "control", command: "control", env: append(d.shared, "CATRACA_DATA_DIR="+d.TempDir())}
}

func (d *deployment) newProxy(name string) (p *process, wire, admin string) {
	wire, admin = freeAddress(d.T), freeAddress(d.T)
	return &process{d: d, name: name, command: "proxy", env: []string{
		"CATRACA_CONTROL_URL=http://" + d.link, "CATRACA_SIDECAR_TOKEN=" + planesToken, "CATRACA_REDIS_URL=" + d.redis.URL,
		"CATRACA_LISTEN=" + wire, "CATRACA_ADMIN_LISTEN=" + admin, "CATRACA_DATA_DIR=" + d.TempDir(), "CATRACA_LOG_LEVEL=debug",
		// Straight to the provider: the gateway would say itself what a call costs.
		"ENABLE_AI_GATEWAY=false", "OPENAI_API_KEY=sk-planes-0123456789", "OPENAI_BASE_URL=http://" + d.simulator + "/openai/v1",
	}}, wire, admin
}

func (p *process) start() *process {
	p.d.Helper()
	if p.log == nil {
		p.log = &logged{}
		p.d.Cleanup(func() {
			p.stop(syscall.SIGKILL)
			if p.d.Failed() {
				p.d.Logf("%s said:\n%s", p.name, tail(p.log.String(), 6000))
			}
		})
	}
	p.cmd, p.exited = exec.Command(p.d.bin, p.command), make(chan struct{})
	p.cmd.Env, p.cmd.Stderr = append(p.env, "PATH="+os.Getenv("PATH")), p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.d.Fatal(err)
	}
	go func(cmd *exec.Cmd, exited chan struct{}) { _ = cmd.Wait(); close(exited) }(p.cmd, p.exited)
	return p
}

func (p *process) stop(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.exited:
	case <-time.After(20 * time.Second):
		p.d.Errorf("%s does not stop", p.name)
		_ = p.cmd.Process.Kill()
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

type reply struct {
	status int
	text   string
}

func (d *deployment) get(url, key string) reply { return d.call(http.MethodGet, url, key, "") }

func (d *deployment) call(method, url, key, body string) reply {
	ctx, cancel := context.WithTimeout(d.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reply{0, err.Error()}
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return reply{response.StatusCode, string(text) + response.Header.Get("X-Catraca-Cost-Usd")}
}

func (d *deployment) chat(wire, key, model string) reply {
	return d.call(http.MethodPost, "http://"+wire+"/v1/chat/completions", key,
		`{"model":"`+model+`","messages":[{"role":"user","content":"oi"}]}`)
}

func (d *deployment) until(limit time.Duration, what string, holds func() bool) time.Duration {
	d.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > limit {
			d.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

func (d *deployment) newKey(tenant string) (id, secret string) {
	d.Helper()
	var made struct {
		ID     string
		Secret string
		Key    struct{ ID string }
	}
	out := d.do("key", "create", "--tenant", tenant, "--json")
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Secret == "" {
		d.Fatalf("key create printed %s", out)
	}
	if made.ID == "" {
		made.ID = made.Key.ID
	}
	return made.ID, made.Secret
}

// ledger counts the calls that are recorded, and how many of them are the same call twice.
func (d *deployment) ledger() (rows, twice int) {
	ctx, cancel := context.WithTimeout(d.Context(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.postgres.URL)
	if err != nil {
		return -1, 0
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT count(*), count(*) - count(DISTINCT request_id) FROM gateway_usage_logs").Scan(&rows, &twice)
	if err != nil {
		return -1, 0
	}
	return rows, twice
}

// One deployment through its life: changes reach both proxies in time, whatever goes down they go on answering, after a
// restart too, and in the end every call is in the ledger once.
func TestPlanes(t *testing.T) {
	d := newDeployment(t)
	control := d.newControl().start()
	a, wireA, adminA := d.newProxy("proxy a")
	b, wireB, adminB := d.newProxy("proxy b")
	a.start()
	b.start()
	ready := func(admin string) func() bool {
		return func() bool { return d.get("http://"+admin+"/readyz", "").status == 200 }
	}
	for _, admin := range []string{d.control, adminA, adminB} {
		d.until(15*time.Second, "all are ready", ready(admin))
	}
	served := 0
	must := func(wire, key string) string {
		t.Helper()
		r := d.chat(wire, key, "openai/gpt-4o-mini")
		if r.status != 200 {
			t.Fatalf("a call got %d: %s", r.status, r.text)
		}
		served++
		return r.text
	}
	d.do("tenant", "create", "ACME")
	id, secret := d.newKey("ACME")
	_, other := d.newKey("ACME")
	for _, wire := range []string{wireA, wireB} {
		must(wire, secret)
		must(wire, other)
	}

	// Revoked.
	d.do("key", "revoke", id)
	for _, wire := range []string{wireA, wireB} {
		took := d.until(planesPeriod, "the revoked key is refused", func() bool { return d.get("http://"+wire+"/v1/models", secret).status == 401 })
		t.Logf("revoked key refused after %s", took)
	}

	// A new price.
	before := must(wireA, other)
	d.do("model", "price", "openai/gpt-4o-mini", "--input", "1000", "--output", "1000")
	took := d.until(planesPeriod, "the new price is in use", func() bool {
		return costOf(must(wireA, other)) > 100*costOf(before) && costOf(must(wireB, other)) > 100*costOf(before)
	})
	t.Logf("new price in use at both after %s", took)
	time.Sleep(3 * time.Second) // the snapshot is written every two

	// Control, Redis and Postgres away: both go on, and a after a restart, as quickly as with all of them.
	control.stop(syscall.SIGKILL)
	must(wireA, other)
	d.redis.Kill()
	d.postgres.Halt()
	must(wireB, other)
	a.stop(syscall.SIGTERM)
	a.start()
	took = d.until(5*time.Second, "the restarted proxy answers", func() bool {
		if d.get("http://"+wireA+"/v1/models", other).status != 200 {
			return false
		}
		must(wireA, other)
		return true
	})
	t.Logf("restarted with all away, answering after %s", took)
	if r := d.get("http://"+wireA+"/v1/models", secret); r.status != 401 && r.status != 503 {
		t.Errorf("the revoked key gets %d after a restart with all away", r.status)
	}
	if r := d.get("http://"+adminA+"/readyz", ""); r.status != 200 || !strings.Contains(r.text, "the control plane does not answer since") {
		t.Errorf("readyz says %d %q", r.status, r.text)
	}
	a.stop(syscall.SIGKILL) // and once more, without a goodbye
	a.start()
	d.until(5*time.Second, "the killed proxy answers again", func() bool { return d.get("http://"+wireA+"/v1/models", other).status == 200 })
	must(wireA, other)
	must(wireB, other)

	// All back.
	if err := d.postgres.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := d.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	control.start()
	var rows, twice int
	d.until(60*time.Second, "every call is in the ledger", func() bool { rows, twice = d.ledger(); return rows >= served })
	time.Sleep(time.Second)
	if rows, twice = d.ledger(); rows != served || twice != 0 {
		t.Errorf("%d calls were served, the ledger has %d, %d of them twice", served, rows, twice)
	}
	_, third := d.newKey("ACME")
	took = d.until(10*time.Second, "a key made after it all works", func() bool { return d.get("http://"+wireA+"/v1/models", third).status == 200 })
	t.Logf("a key made after all are back works after %s", took)
	a.stop(syscall.SIGTERM)
	b.stop(syscall.SIGTERM)
	d.until(10*time.Second, "both proxies are known to have stopped", func() bool {
		return strings.Count(d.do("proxies", "--json"), `"state": "stopped"`) == 2
	})
	control.stop(syscall.SIGTERM)
	for _, p := range []*process{a, b, control} {
		for _, secret := range []string{other, secret, planesToken, planesAdmin} {
			if strings.Contains(p.log.String(), secret) {
				t.Errorf("%s has logged a secret", p.name)
			}
		}
	}
}

// costOf reads the cost that call put behind the body.
func costOf(text string) (usd float64) {
	_, _ = fmt.Sscan(text[strings.LastIndexByte(text, '}')+1:], &usd)
	return usd
}

// Both planes in one process start with Postgres and Redis away, and take the database that comes back only if it is
// the right one.
func TestServeStartsWithoutItsDatabase(t *testing.T) {
	d := newDeployment(t)
	wire := freeAddress(t)
	p := &process{d: d, name: "serve", command: "serve", env: []string{
		"CATRACA_LISTEN=" + wire, "CATRACA_DATA_DIR=" + t.TempDir(), "ENABLE_AI_GATEWAY=false",
		"OPENAI_API_KEY=sk-planes-0123456789", "OPENAI_BASE_URL=http://" + d.simulator + "/openai/v1",
	}}
	for _, entry := range d.shared {
		if !strings.HasPrefix(entry, "CATRACA_CONTROL_LISTEN") {
			p.env = append(p.env, entry)
		}
	}
	p.start()
	d.until(15*time.Second, "it is ready", func() bool { return d.get("http://"+d.control+"/readyz", "").text == "ready\n" })
	d.do("tenant", "create", "ACME")
	_, secret := d.newKey("ACME")
	served := 0
	must := func() {
		t.Helper()
		if r := d.chat(wire, secret, "openai/gpt-4o-mini"); r.status != 200 {
			t.Fatalf("a call got %d: %s", r.status, r.text)
		}
		served++
	}
	must()
	time.Sleep(3 * time.Second)
	p.stop(syscall.SIGTERM)
	d.postgres.Halt()
	d.redis.Kill()
	began := time.Now()
	p.start()
	d.until(10*time.Second, "it answers with the database away", func() bool { return d.get("http://"+wire+"/v1/models", secret).status == 200 })
	t.Logf("answering after %s", time.Since(began))
	must()
	if r := d.get("http://"+d.control+"/readyz", ""); r.status != 200 || !strings.Contains(r.text, "the database does not answer") {
		t.Errorf("readyz says %d %q", r.status, r.text)
	}
	if err := d.postgres.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := d.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	d.until(60*time.Second, "every call is in the ledger", func() bool { rows, _ := d.ledger(); return rows == served })
	p.stop(syscall.SIGTERM)

	// Another master key than the one that the database was filled with.
	for i, entry := range p.env {
		if strings.HasPrefix(entry, "CATRACA_MASTER_KEY=") {
			p.env[i] = "CATRACA_MASTER_KEY=" + strings.Repeat("ab", 32)
		}
	}
	p.start()
	select {
	case <-p.exited:
	case <-time.After(15 * time.Second):
		t.Fatal("it serves with a master key that opens nothing")
	}
	if !strings.Contains(p.log.String(), "CATRACA_MASTER_KEY is not the one") {
		t.Error("it does not say that the master key is another")
	}
}
