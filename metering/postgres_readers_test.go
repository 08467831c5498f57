package metering

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catraca/catraca/internal/testenv"
)

// readerSite is a ledger of two tenants in a database of its own.
type readerSite struct {
	*testing.T
	url    string
	ledger *Postgres
	events []Event
}

func newReaderSite(t *testing.T) *readerSite {
	t.Helper()
	url := testenv.Migrated(t)
	s := &readerSite{T: t, url: url, ledger: openPostgres(t, url), events: randomEvents(100, 31, 300)}
	for i, client := range clientIDs {
		pgExec(t, s.ledger, "INSERT INTO clients (id, name) VALUES ($1, $2)", client, fmt.Sprint("tenant ", i))
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range s.events { // some in the partition of this month, some in the default one
		s.events[i].AdmittedAt = now
		if i%4 == 0 {
			s.events[i].AdmittedAt = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
		}
	}
	mustRecord(t, s.ledger, s.events...)
	bad := randomEvents(101, 32, 1)[0]
	if err := s.ledger.DeadLetter(t.Context(), bad.Append(nil), bad, "for the test"); err != nil {
		t.Fatal(err)
	}
	return s
}

// role makes a login that ends with the test. A role belongs to the whole server, so its name is nobody else's.
func (s *readerSite) role(options string) (name string) {
	s.Helper()
	name = "reader_" + strings.ToLower(rand.Text()[:12])
	pgExec(s.T, s.ledger, "CREATE ROLE "+name+" "+options)
	s.Cleanup(func() {
		pgClean(s.ledger, "DROP OWNED BY "+name)
		pgClean(s.ledger, "DROP ROLE IF EXISTS "+name)
	})
	return name
}

// pgClean is for the end of a test, when its context has ended.
func pgClean(p *Postgres, query string) {
	_, _ = p.pool.Exec(context.Background(), query)
}

const readerPassword = "only-for-this-test"

// login makes a role that can connect, and connects as it.
func (s *readerSite) login() (name string, conn *pgx.Conn) {
	s.Helper()
	name = s.role("LOGIN PASSWORD '" + readerPassword + "'")
	return name, s.connect(name)
}

func (s *readerSite) connect(name string) *pgx.Conn {
	s.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.Fatal(err)
	}
	u.User = url.UserPassword(name, readerPassword)
	conn, err := pgx.Connect(s.Context(), u.String())
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (s *readerSite) grant(name string, client uuid.UUID) {
	s.Helper()
	pgExec(s.T, s.ledger, "SELECT catraca_grant_reader($1::text::name, $2)", name, client)
}

// see gives how many rows a table shows, and of how many tenants.
func (s *readerSite) see(conn *pgx.Conn, table string) (rows, tenants int) {
	s.Helper()
	if err := conn.QueryRow(s.Context(), "SELECT count(*), count(DISTINCT client_id) FROM "+table).Scan(&rows, &tenants); err != nil {
		s.Fatalf("%s: %v", table, err)
	}
	return rows, tenants
}

// mustSeeOnly checks that a session sees all that is a tenant's, and nothing else, wherever it looks.
func (s *readerSite) mustSeeOnly(conn *pgx.Conn, client uuid.UUID) {
	s.Helper()
	for _, table := range s.readable() {
		var want int
		if err := s.ledger.pool.QueryRow(s.Context(), "SELECT count(*) FROM "+table+" WHERE client_id = $1", client).Scan(&want); err != nil {
			s.Fatal(err)
		}
		rows, tenants := s.see(conn, table)
		if rows != want || tenants > 1 {
			s.Errorf("%s shows %d rows of %d tenants, want the %d of one", table, rows, tenants, want)
		}
		if want == 0 {
			continue
		}
		var whose uuid.UUID
		if err := conn.QueryRow(s.Context(), "SELECT client_id FROM "+table+" LIMIT 1").Scan(&whose); err != nil || whose != client {
			s.Errorf("%s shows rows of %s, %v", table, whose, err)
		}
	}
}

func (s *readerSite) mustSeeNothing(conn *pgx.Conn, why string) {
	s.Helper()
	for _, table := range s.readable() {
		if rows, _ := s.see(conn, table); rows != 0 {
			s.Errorf("%s: %s shows %d rows", why, table, rows)
		}
	}
}

// readable lists the tables with a tenant's rows, each partition among them.
func (s *readerSite) readable() []string {
	s.Helper()
	rows, err := s.ledger.pool.Query(s.Context(), "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'gateway_usage_logs'::regclass ORDER BY 1")
	if err != nil {
		s.Fatal(err)
	}
	partitions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(partitions) < 5 {
		s.Fatalf("%v, %v", partitions, err)
	}
	return append(partitions, "gateway_usage_logs", "usage_rollups", "gateway_cache_performance")
}

func refusedWith(err error) string {
	if pg, ok := err.(*pgconn.PgError); ok { //nolint:errorlint // pgx gives it bare here
		return pg.Code
	}
	return ""
}

func TestPostgresTenantsReadTheirOwn(t *testing.T) {
	t.Parallel()
	s := newReaderSite(t)
	one, first := s.login()
	two, second := s.login()
	for _, table := range []string{"gateway_usage_logs", "usage_rollups", "gateway_cache_performance", "ai_models_registry"} {
		if _, err := first.Exec(t.Context(), "SELECT * FROM public."+table); refusedWith(err) != "42501" {
			t.Errorf("%s before it is granted: %v", table, err)
		}
	}
	s.grant(one, clientIDs[0])
	s.grant(two, clientIDs[1])
	s.mustSeeOnly(first, clientIDs[0])
	s.mustSeeOnly(second, clientIDs[1])

	// Partitions that are made later obey as well, with what moves into them.
	if _, err := s.ledger.MakePartitions(t.Context(), time.Date(2031, 5, 1, 0, 0, 0, 0, time.UTC), 0); err != nil {
		t.Fatal(err)
	}
	if rows, tenants := s.see(first, "gateway_usage_logs_2031_05"); rows == 0 || tenants != 1 {
		t.Errorf("the new partition shows %d rows of %d tenants", rows, tenants)
	}
	s.mustSeeOnly(first, clientIDs[0])
	s.mustSeeOnly(second, clientIDs[1])

	var models int
	if err := first.QueryRow(t.Context(), "SELECT count(*) FROM ai_models_registry").Scan(&models); err != nil || models < 30 {
		t.Errorf("%d models, %v", models, err)
	}
	// Bound again, it reads for the other; revoked, for nobody.
	s.grant(one, clientIDs[2])
	s.mustSeeOnly(first, clientIDs[2])
	pgExec(t, s.ledger, "SELECT catraca_revoke_reader($1::text::name)", one)
	if _, err := first.Exec(t.Context(), "SELECT * FROM usage_rollups"); refusedWith(err) != "42501" {
		t.Errorf("after it was revoked: %v", err)
	}
	s.mustSeeOnly(second, clientIDs[1])
}

func TestPostgresReadersCannotWiden(t *testing.T) {
	t.Parallel()
	s := newReaderSite(t)
	name, conn := s.login()
	s.grant(name, clientIDs[0])
	other := clientIDs[1].String()
	for _, try := range []string{
		"SET catraca.client_id = '" + other + "'",
		"SET request.jwt.claims = '{\"client_id\": \"" + other + "\", \"role\": \"service_role\"}'",
		"SET request.jwt.claim.client_id = '" + other + "'",
		"SET ROLE catraca_tenant_reader",
		"SET search_path = pg_temp, public",
		"CREATE TEMP TABLE client_read_roles (role_name name, client_id uuid, by_jwt boolean)",
		"INSERT INTO pg_temp.client_read_roles SELECT session_user, '" + other + "', false",
		"CREATE FUNCTION pg_temp.catraca_client_id() RETURNS uuid LANGUAGE sql AS 'SELECT ''" + other + "''::uuid'",
	} {
		if _, err := conn.Exec(t.Context(), try); err != nil {
			t.Errorf("%s: %v", try, err) // all of it is allowed, and none of it helps
		}
		s.mustSeeOnly(conn, clientIDs[0])
	}
	if _, err := conn.Exec(t.Context(), "RESET ROLE; SET row_security = off"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT * FROM gateway_usage_logs"); refusedWith(err) != "42501" {
		t.Errorf("with row_security off: %v", err)
	}
	if _, err := conn.Exec(t.Context(), "RESET row_security; RESET search_path"); err != nil {
		t.Fatal(err)
	}
	for _, refused := range []string{
		"SET SESSION AUTHORIZATION postgres",
		"INSERT INTO gateway_usage_logs (id, client_id, outcome, usage_source, created_at, incarnation, seq) VALUES (gen_random_uuid(), '" + clientIDs[0].String() + "', 'ok', 'none', now(), 1, 1)",
		"UPDATE gateway_usage_logs SET cost_usd = 0", "DELETE FROM gateway_usage_logs", "TRUNCATE gateway_usage_logs",
		"UPDATE usage_rollups SET cost_usd = 0", "DELETE FROM usage_rollups", "DELETE FROM gateway_cache_performance",
		"DELETE FROM gateway_usage_logs_default", "UPDATE ai_models_registry SET is_active = false",
		"SELECT * FROM gateway_usage_logs FOR UPDATE",
		"SELECT catraca_grant_reader('" + name + "', '" + other + "')", "SELECT catraca_open_all_to_readers()",
		"SELECT catraca_grant_jwt_reader('" + name + "', '" + name + "')", "SELECT catraca_revoke_reader('" + name + "')",
		"SELECT catraca_detach_usage_partition(now())", "SELECT catraca_make_usage_partitions(now(), 9)",
		"CREATE POLICY more ON usage_rollups USING (true)", "ALTER TABLE usage_rollups DISABLE ROW LEVEL SECURITY",
	} {
		if _, err := conn.Exec(t.Context(), refused); refusedWith(err) != "42501" {
			t.Errorf("%s: %v", refused, err)
		}
	}
	for _, table := range []string{
		"clients", "client_settings", "client_api_keys", "config_changes", "audit_log", "model_prices", "exchange_rates", "shared_gateway_config",
		"producers", "dead_letters", "erasures", "client_read_roles", "usage_log_kept", "usage_estimates",
	} {
		if _, err := conn.Exec(t.Context(), "SELECT * FROM public."+table); refusedWith(err) != "42501" {
			t.Errorf("%s can be read: %v", table, err)
		}
	}
	s.mustSeeOnly(conn, clientIDs[0])
}

// On Supabase one login is everybody's, and the token says who it is.
func TestPostgresReadersByToken(t *testing.T) {
	t.Parallel()
	s := newReaderSite(t)
	reader, anonymous := s.role("NOLOGIN"), s.role("NOLOGIN")
	api := s.role("LOGIN NOINHERIT PASSWORD '" + readerPassword + "'")
	for _, role := range []string{reader, anonymous} {
		pgExec(t, s.ledger, "GRANT "+role+" TO "+api)
		pgExec(t, s.ledger, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role) // as Supabase does
	}
	pgExec(t, s.ledger, "SELECT catraca_grant_jwt_reader($1::text::name, $2::text::name)", api, reader)
	conn := s.connect(api)
	as := func(role, claims string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), "RESET ROLE; SELECT set_config('request.jwt.claims', '"+claims+"', false); SET ROLE "+role)
		if err != nil {
			t.Fatal(err)
		}
	}
	mine := clientIDs[2].String()
	as(reader, `{"role": "authenticated", "client_id": "`+mine+`"}`)
	s.mustSeeOnly(conn, clientIDs[2])
	as(reader, `{"app_metadata": {"client_id": "`+mine+`"}, "client_id": "`+uuid.NewString()+`"}`)
	s.mustSeeOnly(conn, clientIDs[2])
	for _, refused := range []string{"DELETE FROM usage_rollups", "UPDATE gateway_usage_logs SET cost_usd = 0"} {
		if tag, err := conn.Exec(t.Context(), refused); err != nil || tag.RowsAffected() != 0 {
			t.Errorf("%s: %s, %v", refused, tag, err)
		}
	}
	for _, table := range []string{"client_api_keys", "producers", "dead_letters", "client_read_roles", "model_prices"} {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s shows %d rows, %v", table, n, err)
		}
	}
	for _, claims := range []string{
		`{}`, ``, `{"client_id": null}`, `{"client_id": "padaria"}`, `{"user_metadata": {"client_id": "` + mine + `"}}`, `{"app_metadata": "` + mine + `"}`,
	} {
		as(reader, claims)
		s.mustSeeNothing(conn, claims)
	}
	as(anonymous, `{"client_id": "`+mine+`"}`)
	s.mustSeeNothing(conn, "a role that was granted nothing")
}

func TestPostgresWhoCannotBeAReader(t *testing.T) {
	t.Parallel()
	s := newReaderSite(t)
	var owner string
	if err := s.ledger.pool.QueryRow(t.Context(), "SELECT current_user").Scan(&owner); err != nil {
		t.Fatal(err)
	}
	above, tenant := s.role("NOLOGIN BYPASSRLS"), s.role("NOLOGIN")
	pgExec(t, s.ledger, "SELECT catraca_grant_reader($1::text::name, $2)", tenant, clientIDs[0])
	for query, hint := range map[string]string{
		"SELECT catraca_grant_reader('nobody_at_all', '" + clientIDs[0].String() + "')":     "no role",
		"SELECT catraca_grant_reader('" + above + "', '" + clientIDs[0].String() + "')":     "above row-level security",
		"SELECT catraca_grant_reader('" + owner + "', '" + clientIDs[0].String() + "')":     "above row-level security",
		"SELECT catraca_grant_reader('" + tenant + "', '" + uuid.Max.String() + "')":        "no client",
		"SELECT catraca_grant_jwt_reader('" + tenant + "', '" + tenant + "')":               "tenant's own login",
		"SELECT catraca_grant_jwt_reader('nobody_at_all', '" + tenant + "')":                "no role",
		"INSERT INTO client_read_roles VALUES ('x', '" + clientIDs[0].String() + "', true)": "check",
	} {
		if _, err := s.ledger.pool.Exec(t.Context(), query); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v, want … %s", query, err, hint)
		}
	}
}

// Citus can distribute a table by a column that is in every unique key of it.
func TestPostgresKeysHoldTheTenant(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	rows, err := p.pool.Query(t.Context(), `SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text, coalesce((
	SELECT array_agg(a.attname::text) FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])), '{}')
FROM pg_index i
WHERE i.indisunique AND (i.indrelid IN ('gateway_usage_logs'::regclass, 'usage_rollups'::regclass, 'gateway_cache_performance'::regclass, 'usage_estimates'::regclass)
	OR i.indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'gateway_usage_logs'::regclass))`)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var table, index string
	var columns []string
	_, err = pgx.ForEachRow(rows, []any{&table, &index, &columns}, func() error {
		n++
		if !slices.Contains(columns, "client_id") {
			t.Errorf("the unique index %s of %s is over %v: without client_id the table cannot be distributed by tenant", index, table, columns)
		}
		return nil
	})
	if err != nil || n < 4+5 {
		t.Errorf("%d unique indexes, %v", n, err)
	}
}
