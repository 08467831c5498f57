package migrations_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func openPostgres(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func openSQLite(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// count runs a query that gives one number.
func count(t *testing.T, db *sql.DB, query string) int {
	t.Helper()
	var n int
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func exec(t *testing.T, db *sql.DB, statements string) {
	t.Helper()
	if _, err := db.Exec(statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

// upFourTimes is four replicas that start at once.
func upFourTimes(t *testing.T, dialect migrations.Dialect, open func() *sql.DB) *sql.DB {
	t.Helper()
	dbs := []*sql.DB{open(), open(), open(), open()}
	ctx := context.Background()
	all, err := migrations.Pending(ctx, dbs[0], dialect)
	if err != nil || all == 0 {
		t.Fatalf("a new database has %d pending, %v", all, err)
	}
	var wg sync.WaitGroup
	for i, db := range dbs {
		wg.Go(func() {
			if err := migrations.Up(ctx, db, dialect); err != nil {
				t.Errorf("replica %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n, err := migrations.Pending(ctx, dbs[0], dialect); n != 0 || err != nil {
		t.Errorf("afterwards %d are pending, %v", n, err)
	}
	if n := count(t, dbs[0], "SELECT count(*) FROM catraca_migrations WHERE version_id > 0"); n != all {
		t.Errorf("%d steps are noted as applied, want each of %d once", n, all)
	}
	return dbs[0]
}

func TestFourReplicasAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := testenv.Postgres(t)
		db := upFourTimes(t, migrations.Postgres, func() *sql.DB { return openPostgres(t, url) })
		exec(t, db, "INSERT INTO clients (name) VALUES ('a')")
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "catraca.db")
		db := upFourTimes(t, migrations.SQLite, func() *sql.DB { return openSQLite(t, path) })
		exec(t, db, "INSERT INTO clients (id, name) VALUES ('a', 'a')")
	})
}

func TestStatusChangesNothing(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, testenv.Postgres(t))
	all, err := migrations.Status(context.Background(), db, migrations.Postgres)
	if err != nil || len(all) == 0 || all[0].Name != "00001_tenancy.sql" || !all[0].AppliedAt.IsZero() {
		t.Fatalf("status of a new database: %+v, %v", all, err)
	}
	if n := count(t, db, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"); n != 0 {
		t.Errorf("looking at the status made %d relations", n)
	}
	if err := migrations.Up(context.Background(), db, migrations.Postgres); err != nil {
		t.Fatal(err)
	}
	all, err = migrations.Status(context.Background(), db, migrations.Postgres)
	if err != nil || slices.ContainsFunc(all, func(m migrations.Migration) bool { return m.AppliedAt.IsZero() }) {
		t.Errorf("status after Up: %+v, %v", all, err)
	}
}

func TestSameStepsInBothDialects(t *testing.T) {
	t.Parallel()
	pg, err := migrations.Status(context.Background(), openPostgres(t, testenv.Postgres(t)), migrations.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	lite, err := migrations.Status(context.Background(), openSQLite(t, filepath.Join(t.TempDir(), "x.db")), migrations.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pg, lite) {
		t.Errorf("postgres has %v, sqlite %v", pg, lite)
	}
}

// supabase is what the SaaS of the plan has before Catraca comes: its own columns, some of them required, row-level
// security with a policy, roles that are granted every new table of public, and rows.
const supabase = `
CREATE ROLE authenticated_%[1]s NOLOGIN;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO authenticated_%[1]s;
CREATE TABLE clients (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    company text NOT NULL,
    whatsapp_token text NOT NULL,
    plan text NOT NULL
);
CREATE TABLE conversations (id uuid PRIMARY KEY, client_id uuid NOT NULL REFERENCES clients(id), phone text NOT NULL);
ALTER TABLE clients ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversations ENABLE ROW LEVEL SECURITY;
CREATE POLICY everyone ON clients USING (true);
INSERT INTO clients VALUES
    ('11111111-1111-4111-8111-111111111111', 'Padaria', 'tok-1', 'pro'),
    ('22222222-2222-4222-8222-222222222222', 'Oficina', 'tok-2', 'free');
INSERT INTO conversations VALUES ('33333333-3333-4333-8333-333333333333', '11111111-1111-4111-8111-111111111111', '+55');
`

func TestOnSupabase(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	db := openPostgres(t, url)
	suffix := url[strings.LastIndex(url, "_")+1:][:16]
	exec(t, db, strings.ReplaceAll(supabase, "%[1]s", suffix))
	t.Cleanup(func() { // a role belongs to the whole server
		db.Exec("DROP OWNED BY authenticated_" + suffix + "; DROP ROLE authenticated_" + suffix)
	})
	before := count(t, db, "SELECT hashtext(string_agg(c::text, ';' ORDER BY id)) FROM (SELECT id, company, whatsapp_token, plan FROM clients) c")

	if err := migrations.Up(context.Background(), db, migrations.Postgres); err != nil {
		t.Fatal(err)
	}

	after := count(t, db, "SELECT hashtext(string_agg(c::text, ';' ORDER BY id)) FROM (SELECT id, company, whatsapp_token, plan FROM clients) c")
	if before != after {
		t.Error("the SaaS's rows changed")
	}
	if n := count(t, db, "SELECT count(*) FROM conversations"); n != 1 {
		t.Errorf("%d conversations, want 1", n)
	}
	if n := count(t, db, "SELECT count(*) FROM clients WHERE use_ai_gateway IS FALSE"); n != 2 {
		t.Errorf("%d clients have the flag at false, want both", n)
	}
	if n := count(t, db, "SELECT count(*) FROM information_schema.columns WHERE table_name = 'clients'"); n != 5 {
		t.Errorf("clients has %d columns, want the SaaS's four and the plan's one", n)
	}
	if n := count(t, db, "SELECT count(*) FROM pg_policies WHERE tablename = 'clients'"); n != 1 {
		t.Errorf("clients has %d policies, want its one", n)
	}

	// The SaaS flips the flag with a role that knows nothing of us, and the feed has it; but our tables show it nothing.
	changes := count(t, db, "SELECT count(*) FROM config_changes")
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := context.Background()
	if _, err := conn.ExecContext(ctx, "GRANT ALL ON clients TO authenticated_"+suffix+"; SET ROLE authenticated_"+suffix); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(ctx, "UPDATE clients SET use_ai_gateway = true WHERE company = 'Padaria'"); err != nil {
		t.Fatal(err)
	}
	var seen int
	if err := conn.QueryRowContext(ctx, "SELECT count(*) FROM config_changes").Scan(&seen); err != nil || seen != 0 {
		t.Errorf("a REST role sees %d of our rows, %v", seen, err)
	}
	// Nor may it put a table of its own in the function's way.
	if _, err := conn.ExecContext(ctx, "CREATE TEMP TABLE config_changes (version bigint, client_id uuid); UPDATE clients SET use_ai_gateway = true WHERE company = 'Oficina'"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "SELECT count(*) FROM config_changes"); n != changes+2 {
		t.Errorf("two flips made %d changes", n-changes)
	}
}

func TestForeignClientsTableIsRefused(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, testenv.Postgres(t))
	exec(t, db, "CREATE TABLE clients (id bigint PRIMARY KEY)")
	err := migrations.Up(context.Background(), db, migrations.Postgres)
	if err == nil || !strings.Contains(err.Error(), `no column "id" of type uuid`) {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
	if n := count(t, db, "SELECT count(*) FROM information_schema.columns WHERE table_name = 'clients'"); n != 1 {
		t.Error("the table was changed all the same")
	}
}

// TestChangesAreVisibleInOrder has many writers, and a follower who asks for what is newer than the newest it has
// seen: it must meet every change.
func TestChangesAreVisibleInOrder(t *testing.T) {
	t.Parallel()
	url := testenv.Migrated(t)
	db := openPostgres(t, url)
	last := count(t, db, "SELECT max(version) FROM config_changes")
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for range writers {
		db := openPostgres(t, url)
		wg.Go(func() {
			for range each {
				if _, err := db.Exec("INSERT INTO clients (name) VALUES ('x')"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen, stop := 0, false
	for !stop {
		select {
		case <-done:
			stop = true // one more look
		default:
		}
		rows, err := db.Query("SELECT version FROM config_changes WHERE version > $1 ORDER BY version", last)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			if err := rows.Scan(&last); err != nil {
				t.Fatal(err)
			}
			seen++
		}
		rows.Close()
	}
	if seen != writers*each {
		t.Errorf("the follower met %d of %d changes", seen, writers*each)
	}
}

// TestManyChangesAtOnce is a SaaS that switches all its clients in one statement. The cost of a change must not grow
// with the length of the feed: it did once, and this took a quarter of an hour.
func TestManyChangesAtOnce(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, testenv.Migrated(t))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const clients = 30_000
	for _, statement := range []string{
		"INSERT INTO clients (name) SELECT 'x' FROM generate_series(1, 30000)",
		"UPDATE clients SET use_ai_gateway = true",
	} {
		start := time.Now()
		if _, err := db.ExecContext(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		t.Logf("%s: %v", statement, time.Since(start).Round(time.Millisecond))
	}
	if n := count(t, db, "SELECT count(*) FROM config_changes WHERE client_id IS NOT NULL"); n != 2*clients {
		t.Errorf("%d changes for %d clients made and switched", n, clients)
	}
}
