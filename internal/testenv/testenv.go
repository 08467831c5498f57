// Package testenv gives tests a real Postgres and a real Redis.
//
// CATRACA_TEST_DATABASE_URL and CATRACA_TEST_REDIS_URL name servers to use; `make test` starts one of each for all
// packages (see start/). Where they are not set, the first test of a process that asks starts a private server from the
// installed binaries. Such a server dies with the process that started it, however that ends, and leaves no files.
//
// Each test gets a database of its own, so tests may run in parallel.
package testenv

import (
	"errors"
	"os"
	"sync"
	"testing"
)

// ErrNotInstalled says that a server's binaries are not on this machine, and how to get them.
var ErrNotInstalled = errors.New("not installed")

// The servers of this process. They are global because the process is what they belong to: tests of one package share
// them, and nothing but Main sees the end of all tests.
var (
	postgresServer = sync.OnceValues(func() (string, error) {
		return serverURL("CATRACA_TEST_DATABASE_URL", StartPostgres)
	})
	redisServer = sync.OnceValues(func() (string, error) {
		return serverURL("CATRACA_TEST_REDIS_URL", StartRedis)
	})
	startedMu sync.Mutex
	started   []*Server
)

// Main runs a package's tests and then stops what they started. A package without it leaks nothing, but its servers
// are then stopped after the process has ended rather than before.
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	startedMu.Lock()
	for _, s := range started {
		s.Stop()
	}
	startedMu.Unlock()
	os.Exit(code)
}

func serverURL(variable string, start func(durable bool) (*Server, error)) (string, error) {
	if url := os.Getenv(variable); url != "" {
		return url, nil
	}
	s, err := start(false)
	if err != nil {
		return "", err
	}
	startedMu.Lock()
	started = append(started, s)
	startedMu.Unlock()
	return s.URL, nil
}

// Need ends the test when a server could not be had. What is not installed only skips it, unless somebody relies on
// all tests being run.
func Need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNotInstalled) && os.Getenv("CI") != "true" && os.Getenv("CATRACA_TEST_REQUIRE_SERVICES") != "1":
		t.Skip("skipped: ", err)
	default:
		t.Fatal(err)
	}
}
