package testenv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

func TestMain(m *testing.M) {
	if os.Getenv("TESTENV_HANG") == "1" {
		hang()
	}
	Main(m)
}

func TestPostgresIsFreshAndOwn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	first, second := Postgres(t), Postgres(t)
	if first == second {
		t.Fatal("two calls gave one database")
	}
	err := onPostgres(ctx, first, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "CREATE TABLE marks (n int)")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = onPostgres(ctx, second, func(c *pgx.Conn) error {
		var there bool
		if err := c.QueryRow(ctx, "SELECT to_regclass('marks') IS NOT NULL").Scan(&there); err != nil {
			return err
		}
		if there {
			t.Error("one test sees another's table")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPostgresIsDroppedInTheEnd(t *testing.T) {
	ctx := context.Background()
	var gone string
	t.Run("uses one", func(t *testing.T) { gone = Migrated(t) })
	err := onPostgres(ctx, gone, func(*pgx.Conn) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Fatalf("the database is still there: %v", err)
	}
}

func TestMigratedHasTables(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for range 3 {
		err := onPostgres(ctx, Migrated(t), func(c *pgx.Conn) error {
			_, err := c.Exec(ctx, "INSERT INTO clients (name) VALUES ('a'); SELECT * FROM client_settings")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRedisIsFreshAndOwn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	open := func(t *testing.T) *redis.Client {
		opts, err := redis.ParseURL(Redis(t))
		if err != nil {
			t.Fatal(err)
		}
		rdb := redis.NewClient(opts)
		t.Cleanup(func() { rdb.Close() })
		return rdb
	}
	first, second := open(t), open(t)
	if err := first.Set(ctx, "mark", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n := second.DBSize(ctx).Val(); n != 0 {
		t.Fatalf("another test's keys are seen: %d", n)
	}
}

// hang starts both servers, says where they are, and waits to be killed.
func hang() {
	pg, err := StartPostgres(false)
	if err != nil {
		os.Stdout.WriteString("error " + err.Error() + "\n")
		os.Exit(1)
	}
	rdb, err := StartRedis(false)
	if err != nil {
		os.Stdout.WriteString("error " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString(pg.URL + " " + pg.dir + "\n" + rdb.URL + " " + rdb.dir + "\n")
	select {}
}

// TestServersDieWithTheProcess kills a process that started servers, in the way that leaves it no time for anything.
func TestServersDieWithTheProcess(t *testing.T) {
	t.Parallel()
	Postgres(t) // skips where nothing is installed
	Redis(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TESTENV_HANG=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addrs, dirs []string
	for lines := bufio.NewScanner(out); len(dirs) < 2 && lines.Scan(); {
		where, dir, _ := strings.Cut(lines.Text(), " ")
		u, err := url.Parse(where)
		if err != nil || u.Host == "" {
			t.Fatal(lines.Text())
		}
		if c, err := net.Dial("tcp", u.Host); err != nil {
			t.Errorf("%s does not answer while its starter lives: %v", u.Host, err)
		} else {
			c.Close()
		}
		addrs, dirs = append(addrs, u.Host), append(dirs, dir)
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	if len(dirs) != 2 {
		t.Fatal("the servers did not start")
	}
	for i := range dirs {
		gone := false
		for end := time.Now().Add(15 * time.Second); !gone && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			c, err := net.Dial("tcp", addrs[i])
			if err == nil {
				c.Close()
			}
			_, statErr := os.Stat(dirs[i])
			gone = err != nil && os.IsNotExist(statErr)
		}
		if !gone {
			t.Errorf("%s or its files outlived their process", addrs[i])
		}
	}
}

func TestFindPrefersTheNewest(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"9", "15", "14"} {
		if err := os.MkdirAll(root+"/v/"+v+"/bin", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+"/v/"+v+"/bin/prog", []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", root)
	t.Chdir(root)
	if dir, _ := find([]string{"prog"}, root+"/v/*/bin"); !strings.HasSuffix(dir, "/v/15/bin") {
		t.Errorf("found %q, want version 15", dir)
	}
	if dir, ok := find([]string{"prog", "other"}, root+"/v/*/bin"); ok {
		t.Errorf("found %q, which lacks a program", dir)
	}
}

// recorder is a test that only notes how it would have ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()      {}
func (r *recorder) Skip(...any)  { r.ended = "skipped" }
func (r *recorder) Fatal(...any) { r.ended = "failed" }

func TestMissingServers(t *testing.T) {
	missing := fmt.Errorf("Postgres is %w", ErrNotInstalled)
	for _, c := range []struct {
		err               error
		ci, require, want string
	}{
		{nil, "true", "1", ""},
		{missing, "", "", "skipped"},
		{missing, "true", "", "failed"},
		{missing, "", "1", "failed"},
		{errors.New("initdb: no space left"), "", "", "failed"},
	} {
		t.Setenv("CI", c.ci)
		t.Setenv("CATRACA_TEST_REQUIRE_SERVICES", c.require)
		r := &recorder{TB: t}
		if Need(r, c.err); r.ended != c.want {
			t.Errorf("%v with CI=%q and required=%q: %q, want %q", c.err, c.ci, c.require, r.ended, c.want)
		}
	}
}

// TestFailedStartLeavesNothing has a server that ends at once, and one that cannot be prepared.
func TestFailedStartLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	never := func(context.Context, int) error { return errors.New("no answer") }
	for says, r := range map[string]recipe{
		"out of order": {name: "x", args: func(int) []string { return []string{"/bin/sh", "-c", "echo out of order; exit 3"} }, ready: never},
		"no disk":      {name: "x", prepare: "echo no disk; false", args: func(int) []string { return []string{"/bin/sleep", "60"} }, ready: never},
	} {
		if _, err := r.start(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestInterruptedWhilePreparing closes the lifeline, as the end of our process does, before the server runs.
func TestInterruptedWhilePreparing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	r := recipe{
		name: "x", prepare: "touch preparing; sleep 60",
		args:  func(int) []string { return []string{"/bin/sleep", "60"} },
		ready: func(context.Context, int) error { return nil },
	}
	s, err := r.start()
	if err != nil {
		t.Fatal(err)
	}
	for _, err := os.Stat(s.dir + "/preparing"); err != nil; _, err = os.Stat(s.dir + "/preparing") {
		time.Sleep(5 * time.Millisecond)
	}
	s.lifeline.Close()
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(s.dir); os.IsNotExist(err) {
			return
		}
	}
	t.Error("its files are still there")
}

// TestServersComeBack kills, halts and pauses both servers, and finds what a deployment would find afterwards: the
// database as it was, and a Redis that has forgotten everything.
func TestServersComeBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	pg, err := StartPostgres(true)
	Need(t, err)
	defer pg.Stop()
	was := pg.URL
	if err := onPostgres(ctx, was, func(c *pgx.Conn) error { _, err := c.Exec(ctx, "CREATE TABLE marks (n int)"); return err }); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){pg.Kill, pg.Halt, func() {}} {
		end()
		if err := pg.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := onPostgres(ctx, was, func(c *pgx.Conn) error { _, err := c.Exec(ctx, "INSERT INTO marks VALUES (1)"); return err }); err != nil {
			t.Fatal(err)
		}
	}
	first, err := StartRedis(false)
	Need(t, err)
	defer first.Stop()
	set := func(s *Server, key string) error {
		rdb := s.redisClient()
		defer rdb.Close()
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		return rdb.Set(ctx, key, 1, 0).Err()
	}
	if err := set(first, "before"); err != nil {
		t.Fatal(err)
	}
	if err := first.Pause(); err != nil {
		t.Fatal(err)
	}
	if set(first, "paused") == nil {
		t.Error("a paused server answers")
	}
	if err := first.Resume(); err != nil {
		t.Fatal(err)
	}
	failOver(t, first, set)
	if first.Pause() == nil {
		t.Error("a killed server can be paused")
	}
	first.Stop()
	if first.Restart() == nil {
		t.Error("a stopped server comes back")
	}
}

// failOver has a replica take the place of a server that wrote on after they had parted.
func failOver(t *testing.T, first *Server, set func(*Server, string) error) {
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	second, err := StartRedis(false)
	Need(t, err)
	defer second.Stop()
	if err := second.Follow(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := second.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if err := set(first, "lost"); err != nil {
		t.Fatal(err)
	}
	first.Kill()
	if err := second.TakeOver(ctx, first); err != nil {
		t.Fatal(err)
	}
	opts, err := redis.ParseURL(first.URL)
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(opts)
	defer rdb.Close()
	if n, err := rdb.Exists(ctx, "before", "lost").Result(); err != nil || n != 1 || rdb.Exists(ctx, "before").Val() != 1 {
		t.Errorf("under the old address are %d of the two keys (%v), want the one from before they parted", n, err)
	}
}
