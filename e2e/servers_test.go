// Package e2e runs real SDKs against the real binary: each result is compared with the same call made straight to the
// simulator. The servers are started once, as a stranger would start them, on ports of their own.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// servers is a running Catraca in front of a running simulator.
type servers struct {
	catraca, direct string // base URLs with /v1
	admin           string
	key             string
	bin, dir        string
	env             []string
}

var running servers

const gatewayKey = "vck_end_to_end_gateway_key"

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "catraca-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "catraca")
	build := exec.Command("go", "build", "-o", bin, "./cmd/catraca")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w\n%s", err, out)
	}
	sim, listen, admin := freeAddr(), freeAddr(), freeAddr()
	running = servers{
		catraca: "http://" + listen + "/v1", direct: "http://" + sim + "/v1", admin: "http://" + admin, bin: bin, dir: dir,
		env: append(os.Environ(),
			"CATRACA_LISTEN="+listen, "CATRACA_ADMIN_LISTEN="+admin, "CATRACA_DATA_DIR="+filepath.Join(dir, "data"),
			"AI_GATEWAY_BASE_URL=http://"+sim+"/v1", "AI_GATEWAY_API_KEY="+gatewayKey,
			"CATRACA_UNKNOWN_MODEL_POLICY=meter",
			"CATRACA_EXCHANGE_RATE_URL=http://"+sim+"/_exchange/er-api", "CATRACA_PTAX_URL=http://"+sim+"/_exchange/ptax"),
	}
	stopSim, err := start("simulator", bin, []string{"simulate", "--listen", sim}, running.env, "http://"+sim+"/_stats")
	if err != nil {
		return 1, err
	}
	defer stopSim()
	stop, err := start("catraca", bin, []string{"serve"}, running.env, running.admin+"/readyz")
	if err != nil {
		return 1, err
	}
	defer stop()
	if running.key, err = tenantKey("e2e"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// tenantKey makes a tenant and a key with the command line.
func tenantKey(name string) (string, error) {
	if _, err := cli("tenant", "create", name, "--json"); err != nil {
		return "", err
	}
	out, err := cli("key", "create", "--tenant", name, "--json")
	if err != nil {
		return "", err
	}
	var made struct{ Secret string }
	if err := json.Unmarshal(out, &made); err != nil || made.Secret == "" {
		return "", fmt.Errorf("key create printed no secret: %v", err)
	}
	return made.Secret, nil
}

func cli(args ...string) ([]byte, error) {
	cmd := exec.Command(running.bin, args...)
	cmd.Env = running.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("catraca %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes(), nil
}

// start runs a server until stop is called; it has started when url answers.
func start(name, bin string, args, env []string, url string) (stop func(), err error) {
	cmd := exec.Command(bin, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var tail tailBuffer
	go func() { _, _ = io.Copy(&tail, bufio.NewReader(logs)) }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(40 * time.Second):
			_ = cmd.Process.Kill()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return stop, nil
			}
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s ended: %v\n%s", name, err, tail.String())
		case <-ctx.Done():
			stop()
			return nil, fmt.Errorf("%s did not become ready\n%s", name, tail.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freeAddr finds a port that is free now.
func freeAddr() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// suite runs tests in another language with the addresses in its environment.
func suite(t *testing.T, dir string, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"E2E_CATRACA_URL="+running.catraca, "E2E_CATRACA_KEY="+running.key,
		"E2E_DIRECT_URL="+running.direct, "E2E_DIRECT_KEY="+gatewayKey)
	cmd.Env = append(cmd.Env, limitKeys(t)...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func TestNode(t *testing.T) {
	if _, err := os.Stat("node/node_modules/openai"); err != nil {
		install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
		install.Dir = "node"
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	suite(t, "node", "node", "--test", "--test-reporter=spec")
}

// TestPython is run by `make sdk`, which makes the virtual environment.
func TestPython(t *testing.T) {
	python := os.Getenv("E2E_PYTHON")
	if python == "" {
		t.Skip("make sdk runs the Python clients")
	}
	suite(t, "python", python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
}

// TestLedger looks at what the other tests left behind: every call is in the ledger, with its cost.
func TestLedger(t *testing.T) {
	out, err := cli("usage", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"cost_usd"`, `"cost_brl"`, `"measured"`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("catraca usage shows no %s:\n%.2000s", want, out)
		}
	}
	if bytes.Contains(out, []byte(gatewayKey)) || bytes.Contains(out, []byte(running.key)) {
		t.Error("a secret stands in the usage")
	}
}

// tailBuffer keeps the last of what is written to it.
type tailBuffer struct{ b []byte }

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 8<<10 {
		t.b = append([]byte(nil), t.b[len(t.b)-4<<10:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return string(t.b) }
