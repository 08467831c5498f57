//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// target is something to measure: how it is called and how it is started.
type target struct {
	name  string
	start func(ctx context.Context) (*running, error)
}

// running is a started target: where to send, with which key, and where its metrics are, if it has any.
type running struct {
	*process
	key      string
	metrics  string
	recorded string // where the metrics of its ledger are: its own, but with -shared
	cleanup  func()
}

func (r *running) end() {
	r.stop()
	if r.cleanup != nil {
		r.cleanup()
	}
}

func (b *bench) startBare(ctx context.Context) (*running, error) {
	p, err := b.startListening(ctx, "bare", b.targetCore, filepath.Join(b.bin, "bare"), "-upstream", b.upstream.addr)
	if err != nil {
		return nil, err
	}
	return &running{process: p, key: "ck_bench"}, nil
}

// nginxConfig keeps nginx to one process and to memory: no log, no body in a file, connections kept on both sides.
const nginxConfig = `daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr error; worker_rlimit_nofile 20000;
events { worker_connections 19000; }
http {
  access_log off; keepalive_requests 1000000000; client_max_body_size 64m; client_body_buffer_size 2m;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream up { server %[2]s; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen %[3]s backlog=8192;
    location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 600s; }
  }
}
`

func (b *bench) startNginx(ctx context.Context) (*running, error) {
	addr, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.tmp, "nginx-")
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, dir, b.upstream.addr, addr), 0o644); err != nil {
		return nil, err
	}
	p, _, err := b.start(ctx, "nginx", b.targetCore, nil, "nginx", "-p", dir, "-c", conf, "-e", "stderr")
	if err != nil {
		return nil, err
	}
	p.addr = addr
	err = p.waitFor("listening", 5*time.Second, func() bool {
		c, err := net.Dial("tcp4", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("nginx: %w", err)
	}
	return &running{process: p, key: "ck_bench"}, nil
}

// nobody is an address that refuses at once: a benchmark asks no service on the internet.
const nobody = "127.0.0.1:9"

// startCatraca starts a binary embedded, as a newcomer gets it, and makes one tenant and one key through its own commands.
func (b *bench) startCatraca(binary string) func(context.Context) (*running, error) {
	return func(ctx context.Context) (*running, error) {
		addr, err := freePort()
		if err != nil {
			return nil, err
		}
		admin, err := freePort()
		if err != nil {
			return nil, err
		}
		data, err := os.MkdirTemp(b.tmp, "data-")
		if err != nil {
			return nil, err
		}
		env := []string{
			"AI_GATEWAY_BASE_URL=http://" + b.upstream.addr + "/v1", "AI_GATEWAY_API_KEY=vck_bench",
			"CATRACA_DATA_DIR=" + data, "CATRACA_LISTEN=" + addr, "CATRACA_ADMIN_LISTEN=" + admin,
			"CATRACA_ADMIN_URL=http://" + admin, "CATRACA_UNKNOWN_MODEL_POLICY=refuse",
			"CATRACA_EXCHANGE_RATE_URL=http://" + nobody, "CATRACA_PTAX_URL=http://" + nobody,
		}
		recorded := "http://" + admin + "/metrics"
		if b.shared {
			if err := b.startLedger(ctx, binary); err != nil {
				return nil, err
			}
			env, recorded = append(env, b.ledger.env...), b.ledger.metrics
		}
		if b.envs != "" {
			env = append(env, strings.Split(b.envs, ",")...)
		}
		p, _, err := b.start(ctx, "catraca", b.targetCore, env, binary, "serve")
		if err != nil {
			return nil, err
		}
		p.addr = addr
		r := &running{process: p, metrics: "http://" + admin + "/metrics", recorded: recorded, cleanup: func() { _ = os.RemoveAll(data) }}
		err = p.waitFor("readiness", 20*time.Second, func() bool { return answers200("http://" + admin + "/readyz") })
		if err == nil {
			r.key, err = b.makeKey(ctx, binary, env)
		}
		if err == nil {
			err = p.waitFor("the new key's first answer", 5*time.Second, func() bool { return b.accepts(addr, r.key) })
		}
		if err != nil {
			r.end()
			return nil, fmt.Errorf("catraca: %w", err)
		}
		return r, nil
	}
}

// makeKey creates a tenant and a key for it with the admin commands of the binary under test.
func (b *bench) makeKey(ctx context.Context, binary string, env []string) (string, error) {
	call := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = append(cleanEnviron(), env...)
		var problem strings.Builder
		cmd.Stderr = &problem
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, problem.String())
		}
		return out, nil
	}
	name := fmt.Sprintf("bench %d", time.Now().UnixNano()) // with -shared the database outlives a target
	if _, err := call("tenant", "create", name, "--json"); err != nil {
		return "", err
	}
	out, err := call("key", "create", "--tenant", name, "--json")
	if err != nil {
		return "", err
	}
	var made struct{ Secret string }
	if err := json.Unmarshal(out, &made); err != nil {
		return "", fmt.Errorf("key create did not print JSON: %w", err)
	}
	if made.Secret == "" {
		return "", errors.New("key create printed no secret")
	}
	return made.Secret, nil
}

// cleanEnviron is our environment without settings of a gateway: the bench says itself what is on.
func cleanEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "CATRACA_") || strings.Contains(v, "AI_GATEWAY") || strings.Contains(v, "_API_KEY=")
	})
}

// accepts makes one call, because a new key may take a moment to reach the proxy.
func (b *bench) accepts(addr, key string) bool {
	req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/v1/chat/completions",
		strings.NewReader(`{"model":"`+b.model+`","messages":[{"role":"user","content":"oi"}]}`))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func answers200(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
