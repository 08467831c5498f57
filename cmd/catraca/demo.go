package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/catraca/catraca/internal/simulator"
	"github.com/catraca/catraca/tenancy"
)

// demoTenant is the tenant that `serve --demo` makes, so that a first call needs nothing but a copy of one line.
const demoTenant = "Demo"

// serveDemo is serve for a first look: with a simulator where no upstream is configured, with a tenant and a key, and
// with the words that one needs next.
func serveDemo(ctx context.Context, cfg Config, log *slog.Logger, out io.Writer) error {
	simulated := len(targets(&cfg)) == 0
	if simulated {
		addr, err := startSimulator(ctx, log)
		if err != nil {
			return err
		}
		cfg.GatewayBaseURL = "http://" + addr + "/v1"
		cfg.GatewayKey = NewSecret("vck_simulated")
	}
	var greetErr error
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err := serve(ctx, cfg, log, func(st *stores, wire, admin net.Addr) {
		if greetErr = greet(ctx, &cfg, st, wire, simulated, out); greetErr != nil {
			stop()
		}
	})
	return errors.Join(greetErr, err)
}

// startSimulator runs the simulator on a free port of the loopback until ctx ends.
func startSimulator(ctx context.Context, log *slog.Logger) (addr string, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("simulator: %w", err)
	}
	sim := simulator.New(simulator.Config{
		FirstTokenDelay: 200 * time.Millisecond, TokenDelay: 30 * time.Millisecond, UniqueIDs: true, Log: log,
	})
	server := &http.Server{Handler: sim, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the simulator ended", "error", err)
		}
	}()
	// It outlives the proxy's drain a little: calls under way still want their answers.
	context.AfterFunc(ctx, func() {
		time.AfterFunc(time.Second, func() { sim.Close(); _ = server.Close() })
	})
	return listener.Addr().String(), nil
}

// greet makes the demo tenant and its key, and prints how to use them.
func greet(ctx context.Context, cfg *Config, st *stores, wire net.Addr, simulated bool, out io.Writer) error {
	ctx = tenancy.WithActor(ctx, "serve --demo")
	secret, err := demoKey(ctx, cfg, st.tenants)
	if err != nil {
		return fmt.Errorf("demo tenant: %w", err)
	}
	upstream := "the upstreams whose keys are set"
	if simulated {
		upstream = "a SIMULATOR: no upstream key is set (AI_GATEWAY_API_KEY, OPENAI_API_KEY, …), so no real model answers"
	}
	_, err = fmt.Fprintf(out, `
Catraca listens on http://%[1]s and answers from %[3]s.

  tenant  %[4]s
  key     %[2]s

Try it in another terminal:

  curl -N http://%[1]s/v1/chat/completions -H 'Authorization: Bearer %[2]s' -H 'Content-Type: application/json' -d '{"model":"openai/gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Bom dia!"}]}'

  bin/catraca usage        what the call used, in US$ and R$

Stop with Ctrl-C. What was used stays in %[5]s.

`, wire, secret, upstream, demoTenant, cfg.DataDir)
	return err
}

// demoKey finds the key of an earlier run in the data directory, or makes one. It is kept there because it must be
// printed again; real keys are shown once and kept nowhere.
func demoKey(ctx context.Context, cfg *Config, store tenancy.Store) (string, error) {
	path := filepath.Join(cfg.DataDir, "demo-key")
	if kept, err := os.ReadFile(path); err == nil {
		secret := strings.TrimSpace(string(kept))
		if digest, ok := tenancy.Digest([]byte(secret)); ok {
			_, err := store.PrincipalByKey(ctx, digest)
			if err == nil {
				return secret, nil
			} else if !errors.Is(err, tenancy.ErrNotFound) {
				return "", err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	tenant, err := demoClient(ctx, cfg, store)
	if err != nil {
		return "", err
	}
	secret, digest, prefix := tenancy.NewSecret()
	if _, err := store.CreateKey(ctx, tenancy.Key{ClientID: tenant.ID, Name: "demo", Prefix: prefix}, digest); err != nil {
		return "", err
	}
	return secret, os.WriteFile(path, []byte(secret+"\n"), 0o600)
}

func demoClient(ctx context.Context, cfg *Config, store tenancy.Store) (tenancy.Tenant, error) {
	all, err := store.Tenants(ctx)
	if err != nil {
		return tenancy.Tenant{}, err
	}
	for _, t := range all {
		if t.Name == demoTenant {
			return t, nil
		}
	}
	return store.CreateTenant(ctx, tenancy.Tenant{Name: demoTenant, UseGateway: cfg.GatewayKey.IsSet(), TimeZone: cfg.TimeZone})
}
