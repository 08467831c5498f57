//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// ledger is a second catraca, on the load's core: it holds the shards, so that the one under test proxies, spools and
// ships, and records nothing itself. That is how a sidecar works.
type ledger struct {
	*process
	env     []string
	metrics string
}

// startLedger starts it once for the whole run.
func (b *bench) startLedger(ctx context.Context, binary string) error {
	if b.ledger != nil {
		return nil
	}
	database, redis := os.Getenv("CATRACA_TEST_DATABASE_URL"), os.Getenv("CATRACA_TEST_REDIS_URL")
	if database == "" || redis == "" {
		return errors.New("-shared needs CATRACA_TEST_DATABASE_URL and CATRACA_TEST_REDIS_URL: run it under `go run ./internal/testenv/start -- …`")
	}
	var key [32]byte
	_, _ = rand.Read(key[:])
	l := &ledger{env: []string{
		"CATRACA_DATABASE_URL=" + database, "CATRACA_REDIS_URL=" + redis,
		"CATRACA_MASTER_KEY=" + base64.StdEncoding.EncodeToString(key[:]), "CATRACA_ADMIN_TOKEN=" + rand.Text(),
	}}
	migrate := exec.CommandContext(ctx, binary, "migrate")
	migrate.Env = append(cleanEnviron(), l.env...)
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w: %s", err, out)
	}
	addr, err := freePort()
	if err != nil {
		return err
	}
	admin, err := freePort()
	if err != nil {
		return err
	}
	env := append([]string{
		"CATRACA_DATA_DIR=" + filepath.Join(b.tmp, "ledger"), "CATRACA_LISTEN=" + addr, "CATRACA_ADMIN_LISTEN=" + admin,
		"CATRACA_EXCHANGE_RATE_URL=http://" + nobody, "CATRACA_PTAX_URL=http://" + nobody,
	}, l.env...)
	if l.process, _, err = b.start(ctx, "ledger", b.loadCore, env, binary, "serve"); err != nil {
		return err
	}
	l.metrics = "http://" + admin + "/metrics"
	err = l.waitFor("readiness", 20*time.Second, func() bool { return answers200("http://" + admin + "/readyz") })
	if err != nil {
		l.stop()
		return fmt.Errorf("ledger: %w", err)
	}
	time.Sleep(2 * time.Second) // to take all shards before another comes
	b.ledger = l
	return nil
}
