package testenv

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // database/sql's driver "pgx", for the migrations

	"github.com/catraca/catraca/migrations"
)

// Postgres gives the URL of a fresh and empty database, dropped when the test is over.
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := postgresServer()
	Need(t, err)
	return createDatabase(t, server, "template0")
}

// Migrated gives the URL of a fresh database with all migrations applied, dropped when the test is over.
func Migrated(t testing.TB) string {
	t.Helper()
	server, err := postgresServer()
	Need(t, err)
	template, err := migratedTemplate()
	Need(t, err)
	return createDatabase(t, server, template)
}

// StartPostgres starts a server with the user postgres and no password. Without durable it writes nothing for the case
// that the machine fails, which is faster; a test about lost power or killed servers must ask for durable.
func StartPostgres(durable bool) (*Server, error) {
	bin, ok := find([]string{"initdb", "postgres"}, "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin")
	if !ok {
		return nil, fmt.Errorf("Postgres (initdb, postgres) is %w: install it (Debian: apt-get install postgresql) or set CATRACA_TEST_DATABASE_URL", ErrNotInstalled)
	}
	as, err := postgresUser()
	if err != nil {
		return nil, err
	}
	var url string
	r := recipe{
		name: "postgres", as: as,
		prepare: "[ -e data/PG_VERSION ] || '" + filepath.Join(bin, "initdb") + "' --pgdata data --username postgres --auth trust --encoding UTF8 --locale C --no-sync",
		args: func(port int) []string {
			args := []string{
				filepath.Join(bin, "postgres"), "-D", "data", "-p", strconv.Itoa(port),
				"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=300",
			}
			if !durable {
				args = append(args, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
			}
			return args
		},
		ready: func(ctx context.Context, port int) error {
			url = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
			return onPostgres(ctx, url, func(*pgx.Conn) error { return nil })
		},
	}
	s, err := r.start()
	if err != nil {
		return nil, err
	}
	s.URL = url
	return s, nil
}

// migratedTemplate makes the database that Migrated copies, once a process and, on a server that several processes
// share, once a set of migrations: its name holds their digest.
var migratedTemplate = sync.OnceValues(func() (string, error) {
	server, err := postgresServer()
	if err != nil {
		return "", err
	}
	digest, err := migrationsDigest()
	if err != nil {
		return "", err
	}
	name := "catraca_template_" + digest
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err = onPostgres(ctx, server, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", name); err != nil {
			return err
		}
		var there bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there); err != nil || there {
			return err
		}
		return buildTemplate(ctx, conn, server, name)
	})
	if err != nil {
		return "", fmt.Errorf("make the migrated template: %w", err)
	}
	return name, nil
})

// buildTemplate migrates under another name first, so that a database called name is always a whole one.
func buildTemplate(ctx context.Context, conn *pgx.Conn, server, name string) error {
	draft := name + "_draft"
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + draft + " WITH (FORCE)", "CREATE DATABASE " + draft + " TEMPLATE template0"} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	url, err := withDatabase(server, draft)
	if err != nil {
		return err
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	err = migrations.Up(ctx, db, migrations.Postgres)
	db.Close()
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+draft+" RENAME TO "+name)
	return err
}

func migrationsDigest() (string, error) {
	dir, err := migrations.Files(migrations.Postgres)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	err = fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(dir, path)
		fmt.Fprintf(h, "%s %d %s", path, len(text), text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

func createDatabase(t testing.TB, server, template string) string {
	t.Helper()
	name := "catraca_test_" + strings.ToLower(rand.Text()[:16])
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	err := onPostgres(ctx, server, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template)
		return err
	})
	if err != nil {
		t.Fatalf("create a test database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
		defer cancel()
		err := onPostgres(ctx, server, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
			return err
		})
		if err != nil {
			t.Errorf("drop test database %s: %v", name, err)
		}
	})
	url, err := withDatabase(server, name)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// onPostgres runs f on a connection to url.
func onPostgres(ctx context.Context, url string, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// withDatabase is the same server's URL with another database in it.
func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("CATRACA_TEST_DATABASE_URL must be a URL: postgres://user@host:port/database")
	}
	u.Path = "/" + name
	return u.String(), nil
}
