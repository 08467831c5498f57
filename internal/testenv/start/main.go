// Command start runs a command with a Postgres and a Redis for tests beside it, and stops both when it ends:
//
//	go run ./internal/testenv/start -- go test ./...
//
// Without a command it prints where the servers are, to be used from another shell, and waits for ^C. A server that
// CATRACA_TEST_DATABASE_URL or CATRACA_TEST_REDIS_URL names already is used as it is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/catraca/catraca/internal/testenv"
)

func main() {
	durable := flag.Bool("durable", false, "sync to disk as a deployment does (for tests about lost power)")
	flag.Parse()
	code, err := run(*durable, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		code = 1
	}
	os.Exit(code)
}

// service is one of the two servers.
type service struct {
	variable string // that names a server to use, and that the command finds it by
	pkg      string // Debian's package
	start    func(durable bool) (*testenv.Server, error)
}

func run(durable bool, command []string) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	services := []service{
		{"CATRACA_TEST_DATABASE_URL", "postgresql", testenv.StartPostgres},
		{"CATRACA_TEST_REDIS_URL", "redis-server", testenv.StartRedis},
	}
	for _, s := range services {
		url := os.Getenv(s.variable)
		if url == "" {
			server, err := startOrInstall(ctx, s, durable)
			if err != nil {
				return 0, err
			}
			defer server.Stop()
			url = server.URL
			os.Setenv(s.variable, url)
		}
		fmt.Fprintf(os.Stderr, "export %s='%s'\n", s.variable, url)
	}
	if len(command) == 0 {
		fmt.Fprintln(os.Stderr, "running until ^C")
		<-ctx.Done()
		return 0, nil
	}
	return under(ctx, command)
}

// startOrInstall starts a server. What is missing is installed where that needs no question: as root on Debian and its
// kin, which is what CI images and development containers are.
func startOrInstall(ctx context.Context, s service, durable bool) (*testenv.Server, error) {
	server, err := s.start(durable)
	if !errors.Is(err, testenv.ErrNotInstalled) || os.Getuid() != 0 {
		return server, err
	}
	if _, lookErr := exec.LookPath("apt-get"); lookErr != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "start: %s is missing; installing it with apt-get\n", s.pkg)
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", s.pkg}} {
		apt := exec.CommandContext(ctx, "apt-get", args...)
		apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		apt.Stdout, apt.Stderr = os.Stderr, os.Stderr
		if aptErr := apt.Run(); aptErr != nil {
			return nil, fmt.Errorf("%w (apt-get %s: %v)", err, args[0], aptErr)
		}
	}
	return s.start(durable)
}

// under runs the command and gives its exit code. A signal to us is passed on, and the command's end awaited: the
// servers stop after it, never under it.
func under(ctx context.Context, command []string) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if exit.ExitCode() < 0 { // ended by a signal
			return 1, nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}
