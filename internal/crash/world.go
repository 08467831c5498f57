//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/catraca/catraca/internal/testenv"
)

// world is all that a scenario runs on, and nobody else: two servers, the simulator, control planes and proxies.
type world struct {
	o       *options
	dir     string
	pg      *testenv.Server
	redis   *testenv.Server
	retired []*testenv.Server // Redis servers that were failed over from

	database string // URL
	secrets  []string
	token    string // of the admin API
	sim      *process
	controls []*process
	proxies  []*process
	wires    []string // base URLs of the proxies' OpenAI side
	reports  []string // base URLs of the proxies' other side
	admins   []string // of the control planes
	tenants  []*tenant
	cleanups []func()
	slow     bool // the upstream takes its time, so that faults find calls open
}

// tenant is one client company.
type tenant struct {
	id, key string
	gateway bool
	readOn  bool
}

// plan says what a scenario needs.
type plan struct {
	proxies, controls int
	tenants           int    // 0: six
	dataDir           string // of the proxies; empty: of the scenario's folder
	slow              bool
}

// build starts everything. What was started when it fails is in the world, for close.
func (w *world) build(ctx context.Context, p plan) error {
	var err error
	if w.pg, err = testenv.StartPostgres(true); err != nil {
		return err
	}
	if w.redis, err = testenv.StartRedis(false); err != nil { // it keeps nothing: the hard case
		return err
	}
	if w.database, err = createDatabase(ctx, w.pg.URL); err != nil {
		return err
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	w.token, w.slow = rand.Text(), p.slow
	w.secrets = []string{"CATRACA_MASTER_KEY=" + base64.StdEncoding.EncodeToString(key[:]), "CATRACA_ADMIN_TOKEN=" + w.token}
	if out, err := w.command(ctx, "migrate"); err != nil {
		return fmt.Errorf("migrate: %w: %s", err, out)
	}
	if err := w.startSimulator(ctx); err != nil {
		return err
	}
	if err := w.addPlanes(p); err != nil {
		return err
	}
	for _, list := range [][]*process{w.controls, w.proxies} {
		for _, one := range list {
			if err := errors.Join(one.start(), one.await(ctx, time.Minute)); err != nil {
				return err
			}
		}
	}
	if err := w.addModels(ctx); err != nil {
		return err
	}
	return w.addTenants(ctx, cmp.Or(p.tenants, 6))
}

// close ends everything, the servers last.
func (w *world) close() {
	for _, list := range [][]*process{w.proxies, w.controls} {
		for _, p := range list {
			p.stop()
		}
	}
	if w.sim != nil {
		w.sim.stop()
	}
	for _, undo := range w.cleanups {
		undo()
	}
	for _, s := range append(w.retired, w.redis) {
		if s != nil {
			s.Kill() // it keeps nothing, and a regular stop may wait for a replica that is no more
			s.Stop()
		}
	}
	if w.pg != nil {
		w.pg.Stop()
	}
}

// environ is for a process of the control plane, or for a command.
func (w *world) environ(more ...string) []string {
	env := []string{
		"CATRACA_DATABASE_URL=" + w.database, "CATRACA_REDIS_URL=" + w.redis.URL,
		"CATRACA_LOG_LEVEL=info", "TMPDIR=" + os.TempDir(), "PATH=" + os.Getenv("PATH"),
	}
	return append(append(env, w.secrets...), more...)
}

// command runs one of the binary's to its end.
func (w *world) command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.o.bin, args...)
	env := w.environ(w.upstreams()...)
	if len(w.admins) > 0 {
		env = append(env, "CATRACA_ADMIN_URL="+w.admins[0])
	}
	cmd.Env, cmd.Dir = env, w.dir
	return cmd.CombinedOutput()
}

func (w *world) process(name string, args, env []string, ready string) *process {
	return &process{name: name, bin: w.o.bin, args: args, env: env, dir: w.dir, logs: w.dir, ready: ready, cradle: w.o.cradle}
}

// startSimulator starts the upstream, and has it keep a journal of each call.
func (w *world) startSimulator(ctx context.Context) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	first, each := "1ms", "0s"
	if w.slow {
		first, each = "10ms", "5ms"
	}
	w.sim = w.process("simulator", []string{
		"simulate", "--listen", addr, "--unique-ids", "--first-token-delay", first, "--token-delay", each,
	}, w.environ(), "http://"+addr+"/_healthz")
	if err := errors.Join(w.sim.start(), w.sim.await(ctx, time.Minute)); err != nil {
		return err
	}
	return request(ctx, http.MethodPost, w.simulator()+"/_journal", "", nil, nil)
}

func (w *world) simulator() string { return strings.TrimSuffix(w.sim.ready, "/_healthz") }

// upstreams are the settings that send every call to the simulator.
func (w *world) upstreams() []string {
	if w.sim == nil {
		return nil
	}
	base := w.simulator()
	return []string{
		"AI_GATEWAY_API_KEY=vck_crash", "AI_GATEWAY_BASE_URL=" + base + "/v1",
		"OPENAI_API_KEY=sk-crash", "OPENAI_BASE_URL=" + base + "/openai/v1",
		"CATRACA_EXCHANGE_RATE_URL=" + base + "/_exchange/er-api", "CATRACA_PTAX_URL=" + base + "/_exchange/ptax",
	}
}

// addPlanes makes the processes of both planes.
func (w *world) addPlanes(p plan) error {
	if !w.o.split {
		return w.addServes(p)
	}
	sidecar := rand.Text() + rand.Text()
	var links []string
	for i := range p.controls {
		addrs, err := addresses(3)
		if err != nil {
			return err
		}
		env := w.environ(append(w.upstreams(),
			"CATRACA_CONTROL_LISTEN="+addrs[0], "CATRACA_ADMIN_LISTEN="+addrs[1], "CATRACA_SIDECAR_TOKEN="+sidecar,
			"CATRACA_DATA_DIR="+filepath.Join(w.dir, fmt.Sprintf("control%d", i+1)))...)
		w.controls = append(w.controls, w.process(fmt.Sprintf("control%d", i+1), []string{"control"}, env, "http://"+addrs[1]+"/readyz"))
		w.admins = append(w.admins, "http://"+addrs[1])
		links = append(links, "http://"+addrs[0])
	}
	for i := range p.proxies {
		addrs, err := addresses(2)
		if err != nil {
			return err
		}
		env := append([]string{
			"CATRACA_REDIS_URL=" + w.redis.URL, "CATRACA_CONTROL_URL=" + links[i%len(links)], "CATRACA_SIDECAR_TOKEN=" + sidecar,
			"CATRACA_LISTEN=" + addrs[0], "CATRACA_ADMIN_LISTEN=" + addrs[1], "CATRACA_DATA_DIR=" + w.proxyDir(p, i),
		}, w.upstreams()...)
		w.addProxy(i, []string{"proxy"}, env, addrs)
	}
	return nil
}

// addServes makes processes that are both planes at once.
func (w *world) addServes(p plan) error {
	for i := range p.proxies {
		addrs, err := addresses(2)
		if err != nil {
			return err
		}
		env := w.environ(append(w.upstreams(),
			"CATRACA_LISTEN="+addrs[0], "CATRACA_ADMIN_LISTEN="+addrs[1], "CATRACA_DATA_DIR="+w.proxyDir(p, i))...)
		w.addProxy(i, []string{"serve"}, env, addrs)
		w.admins = append(w.admins, "http://"+addrs[1])
	}
	return nil
}

func (w *world) proxyDir(p plan, i int) string {
	if p.dataDir != "" {
		return p.dataDir
	}
	return filepath.Join(w.dir, fmt.Sprintf("proxy%d", i+1))
}

func (w *world) addProxy(i int, args, env, addrs []string) {
	w.proxies = append(w.proxies, w.process(fmt.Sprintf("proxy%d", i+1), args, env, "http://"+addrs[1]+"/readyz"))
	w.wires = append(w.wires, "http://"+addrs[0]+"/v1")
	w.reports = append(w.reports, "http://"+addrs[1])
}

func addresses(n int) (list []string, err error) {
	for range n {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		list = append(list, addr)
	}
	return list, nil
}

// addModels puts the names that ask the upstream to fail into the registry, at the price that the simulator has for
// them: a call is then priced by the same list on both sides, whatever becomes of it.
func (w *world) addModels(ctx context.Context) error {
	names := map[string]bool{}
	for _, list := range [][]string{plainFailures, streamFailures, {"cached", "reason", unhurried, wordy}} {
		for _, f := range list {
			names[f] = true
		}
	}
	provider, name, _ := strings.Cut(chatModel, "/")
	for f := range names {
		err := w.admin(ctx, http.MethodPost, "/api/ai-gateway/models", map[string]any{
			"provider": provider, "model_name": name + "+" + f,
			"price": map[string]string{
				"input_price_per_million": "0.15", "cached_input_price_per_million": "0.075", "output_price_per_million": "0.6",
			},
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// addTenants makes so many: two in three through the gateway and the others straight to the provider, half of them
// reading on when their callers leave.
func (w *world) addTenants(ctx context.Context, n int) error {
	for i := range n {
		t := &tenant{gateway: i%3 != 2, readOn: i%2 == 1}
		gone := "cancel"
		if t.readOn {
			gone = "read_on"
		}
		var made struct {
			ID string `json:"id"`
		}
		err := w.admin(ctx, http.MethodPost, "/api/tenants", map[string]any{
			"name": fmt.Sprintf("Client %d", i+1), "use_ai_gateway": t.gateway, "on_client_gone": gone,
		}, &made)
		if err != nil {
			return err
		}
		var key struct {
			Secret string `json:"secret"`
		}
		if err := w.admin(ctx, http.MethodPost, "/api/tenants/"+made.ID+"/keys", map[string]any{"name": "crash"}, &key); err != nil {
			return err
		}
		t.id, t.key = made.ID, key.Secret
		w.tenants = append(w.tenants, t)
	}
	return w.warm(ctx)
}

// warm makes a call of each tenant at each proxy and forgets what came of it: from then on every proxy knows every
// tenant, also with nobody left to ask.
func (w *world) warm(ctx context.Context) error {
	deadline := time.Now().Add(15 * time.Second)
	for _, wire := range w.wires {
		for _, t := range w.tenants {
			for {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, wire+"/models", nil)
				if err != nil {
					return err
				}
				req.Header.Set("Authorization", "Bearer "+t.key)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return err
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK && bytes.Contains(text, []byte(chatModel+"+reason")) {
					break
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("a new tenant or model is not known to a proxy: status %d", resp.StatusCode)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
	// A model is known before its price is, and the snapshot on disk follows: a change is in use within two seconds.
	sleep(ctx, 3*time.Second)
	return nil
}

// admin asks the admin API of the first control plane.
func (w *world) admin(ctx context.Context, method, path string, in, out any) error {
	return request(ctx, method, w.admins[0]+path, w.token, in, out)
}

// request sends JSON and reads JSON.
func request(ctx context.Context, method, url, token string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d: %.300s", method, url, resp.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}
