package budget

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
)

// planBudgets is what a database has that was made by the plan.
const planBudgets = `
CREATE TABLE clients (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), company TEXT NOT NULL);
CREATE TABLE client_budgets (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  client_id UUID NOT NULL REFERENCES clients(id),
  budget_type TEXT NOT NULL, -- 'tokens' | 'brl' | 'usd'
  budget_limit NUMERIC NOT NULL,
  budget_period TEXT NOT NULL, -- 'daily' | 'weekly' | 'monthly'
  current_usage NUMERIC DEFAULT 0,
  usage_percentage NUMERIC(5, 2) GENERATED ALWAYS AS
    (CASE WHEN budget_limit > 0 THEN (current_usage / budget_limit * 100) ELSE 0 END) STORED,
  period_start_date DATE NOT NULL DEFAULT CURRENT_DATE,
  next_reset_at TIMESTAMPTZ NOT NULL,
  alert_threshold_80 BOOLEAN DEFAULT true,
  alert_threshold_90 BOOLEAN DEFAULT true,
  alert_threshold_100 BOOLEAN DEFAULT true,
  pause_at_limit BOOLEAN DEFAULT false,
  is_paused BOOLEAN DEFAULT false,
  notification_email TEXT,
  notification_webhook TEXT,
  created_at TIMESTAMPTZ DEFAULT NOW(),
  updated_at TIMESTAMPTZ DEFAULT NOW(),
  UNIQUE(client_id)
);
CREATE UNIQUE INDEX one_budget_each ON client_budgets (client_id);
INSERT INTO clients VALUES ('11111111-1111-4111-8111-111111111111', 'Padaria'), ('22222222-2222-4222-8222-222222222222', 'Oficina');
INSERT INTO client_budgets (client_id, budget_type, budget_limit, budget_period, current_usage, next_reset_at, pause_at_limit, alert_threshold_80, created_at, updated_at) VALUES
	('11111111-1111-4111-8111-111111111111', 'brl', 500.000000000001, 'monthly', 12.5, now(), true, NULL, NULL, NULL);
`

func planDatabase(t *testing.T, more string) (*sql.DB, string) {
	t.Helper()
	url := testenv.Postgres(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec(planBudgets + more); err != nil {
		t.Fatal(err)
	}
	return db, url
}

// TestPlanBudgetsGoOn has budgets of the plan's own table, which may have one for each client and no percentage of a
// thousand, go on as ours.
func TestPlanBudgetsGoOn(t *testing.T) {
	t.Parallel()
	db, url := planDatabase(t, "")
	if err := migrations.Up(t.Context(), db, migrations.Postgres); err != nil {
		t.Fatal(err)
	}
	s := openBooksPostgres(t, url)
	ctx, client := t.Context(), uuid.MustParse("11111111-1111-4111-8111-111111111111")
	bs := booksMust[[]Budget](t)(s.Budgets(ctx, &client))
	if len(bs) != 1 {
		t.Fatalf("%d budgets", len(bs))
	}
	b := bs[0]
	if b.Limit != 500_000_000_000_001 || b.Unit != BRL || b.Period != Monthly || !b.PauseAtLimit || !b.Alert80 || b.TimeZone != DefaultZone || b.BillingDay != 1 ||
		time.Since(b.StartsAt) > time.Minute {
		t.Errorf("read as %+v", b)
	}
	booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(client, Tokens, Daily, 10)))
	booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(uuid.Nil, Tokens, Daily, 10)))
	if _, err := s.CreateBudget(ctx, booksBudget(client, BRL, Monthly, 10)); !errors.Is(err, ErrExists) {
		t.Errorf("a second one of the kind: %v", err)
	}
	for seq := range uint64(2) {
		c := Charge{EventID: EventID{1, seq + 1}, Client: client, AdmittedAt: time.Now(), Cost: Cost{Tokens: 50_000, BRL: 600_000_000_000_000}}
		if err := s.record(ctx, []Charge{c}); err != nil {
			t.Fatal(err)
		}
	}
	if n := booksMust[int](t)(s.Project(ctx, time.Now().Add(-time.Minute))); n != 3 {
		t.Errorf("%d rows shown, want 3", n)
	}
	var shown string
	err := s.pool.QueryRow(ctx, `SELECT string_agg(budget_type || ' ' || current_usage || ' of ' || budget_limit || ' ' || usage_percentage || ' ' || is_paused, ', ' ORDER BY client_id IS NULL, budget_type)
		FROM client_budgets`).Scan(&shown)
	if want := "brl 1200 of 500.000000000001 240.00 true, tokens 100000 of 10 1000000.00 true, tokens 100000 of 10 1000000.00 true"; err != nil || shown != want {
		t.Errorf("shows %q, want %q; %v", shown, want, err)
	}
	b.Limit++
	if b = booksMust[Budget](t)(s.UpdateBudget(ctx, b)); b.Limit != 500_000_000_000_002 {
		t.Errorf("changed to %+v", b)
	}
	booksSound(t, s, 3)
}

func TestPlanBudgetsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for what, row := range map[string]string{
		"a type":               "'eur', 5, 'daily'",
		"a period":             "'brl', 5, 'yearly'",
		"half a token":         "'tokens', 0.5, 'daily'",
		"too small a part":     "'brl', 0.0000000000001, 'daily'",
		"too much":             "'usd', 4611686.1, 'daily'",
		"less than nothing":    "'usd', -1, 'daily'",
		"not a number":         "'usd', 'NaN', 'daily'",
		"more tokens than 2⁶²": "'tokens', 4611686018427387904, 'daily'",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db, _ := planDatabase(t, "INSERT INTO client_budgets (id, client_id, next_reset_at, budget_type, budget_limit, budget_period) VALUES ('33333333-3333-4333-8333-333333333333', '22222222-2222-4222-8222-222222222222', now(), "+row+")")
			err := migrations.Up(t.Context(), db, migrations.Postgres)
			if err == nil || !strings.Contains(err.Error(), "are no budgets: 33333333-3333-4333-8333-333333333333") {
				t.Errorf("the error does not say what is wrong: %v", err)
			}
		})
	}
}

// TestPostgresTellsWhatItIs takes the ways to tell it away, one after the other.
func TestPostgresTellsWhatItIs(t *testing.T) {
	t.Parallel()
	admin := newBooksPostgres(t)
	ctx := t.Context()
	role := "catraca_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	admin.exec(t, "CREATE ROLE "+role+" LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role+"; ALTER TABLE budget_epoch DISABLE ROW LEVEL SECURITY")
	t.Cleanup(func() { admin.pool.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	config := admin.pool.Config().ConnConfig
	as := (&url.URL{Scheme: "postgres", User: url.User(role), Host: fmt.Sprintf("%s:%d", config.Host, config.Port), Path: config.Database, RawQuery: "sslmode=disable"}).String()
	s := openBooksPostgres(t, as)
	tells := func(s *Postgres) (identity string) {
		t.Helper()
		err := s.Update(ctx, func(tx Tx) (err error) {
			_, identity, err = tx.Epoch(ctx)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return identity
	}
	if best := tells(s.Postgres); !strings.HasPrefix(best, "system ") || !strings.Contains(best, " timeline 0000000") || best != tells(admin.Postgres) || best != tells(s.Postgres) {
		t.Errorf("a role without rights is told %q, the administrator %q", best, tells(admin.Postgres))
	}
	admin.exec(t, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	err := s.Update(ctx, func(tx Tx) error { _, _, err := tx.Epoch(ctx); return err })
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" {
		t.Errorf("what was allowed is no more, once: %v", err)
	}
	if second := tells(s.Postgres); !strings.HasPrefix(second, "database ") || !strings.Contains(second, " timeline 0000000") {
		t.Errorf("told %q", second)
	}
	admin.exec(t, "REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC")
	if third := tells(NewPostgres(s.pool)); !strings.HasPrefix(third, "database ") || !strings.Contains(third, " started ") {
		t.Errorf("told %q", third)
	}
}

// TestPostgresRewritesInPlace holds that the rows that change all the time are changed within their page.
func TestPostgresRewritesInPlace(t *testing.T) {
	t.Parallel()
	s := newBooksPostgres(t)
	ctx := t.Context()
	client := booksClients(t, s, 1)[0]
	booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(client, Tokens, Daily, MaxLimit)))
	a := NewAuthority(s, AuthorityOptions{})
	r := booksMust[Reply](t)(a.Lease(ctx, Ask{Incarnation: 1, Op: 1, Open: []Opening{{Client: client, Need: Cost{Tokens: 10}}}}))
	for op := uint64(2); op < 200; op++ {
		booksMust[Reply](t)(a.Lease(ctx, Ask{Incarnation: 1, Op: op, Epoch: r.Epoch, Want: []Want{{Window: r.Grants[0].Window, Least: 1, Need: 5}}}))
		c := Charge{EventID: EventID{1, op - 1}, Client: client, AdmittedAt: time.Now(), Cost: Cost{Tokens: 3}, Holds: []HeldFor{{r.Grants[0].Window, 4}}}
		if err := s.record(ctx, []Charge{c}); err != nil {
			t.Fatal(err)
		}
	}
	s.pool.Reset() // a connection tells what it counted when it ends
	for _, table := range []string{"budget_windows", "budget_leases", "budget_holders"} {
		all, hot := int64(0), int64(0)
		for end := time.Now().Add(5 * time.Second); all < 190 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			all = s.number(t, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = '"+table+"'")
			hot = s.number(t, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '"+table+"'")
		}
		t.Logf("%s: %d of %d rewritten in place", table, hot, all)
		if all < 190 || hot*100 < all*90 {
			t.Errorf("%s: only %d of %d", table, hot, all)
		}
	}
	booksSound(t, s, 1)
}

// TestPostgresSettlementGivesWay has a settlement meet a new budget while another one is under way: it must not wait for it,
// but be tried again with the barrier for itself.
func TestPostgresSettlementGivesWay(t *testing.T) {
	t.Parallel()
	s := newBooksPostgres(t)
	ctx := t.Context()
	client := booksClients(t, s, 1)[0]
	other, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(ctx)
	if _, err := s.Within(other).Budgets(ctx, nil); err != nil {
		t.Fatal(err)
	}
	s.exec(t, fmt.Sprintf("INSERT INTO client_budgets (client_id, budget_type, budget_limit, budget_period) VALUES ('%s', 'tokens', 9, 'daily')", client))
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	begun := time.Now()
	err = Settle(ctx, s.Within(tx), []Charge{{EventID: EventID{1, 1}, Client: client, AdmittedAt: time.Now(), Cost: Cost{Tokens: 3}}})
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "40001" || time.Since(begun) > 900*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	tx.Rollback(ctx)
	done := make(chan error, 1)
	go func() {
		done <- s.record(ctx, []Charge{{EventID: EventID{1, 1}, Client: client, AdmittedAt: time.Now(), Cost: Cost{Tokens: 3}}})
	}()
	select {
	case err := <-done:
		t.Errorf("it did not wait for the other: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	other.Rollback(ctx)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := s.number(t, "SELECT unheld FROM budget_windows"); n != 3 {
		t.Errorf("%d used, want 3", n)
	}
}

// TestPostgresPlansForBigLogs holds that neither the check nor a new window reads the log from end to end.
func TestPostgresPlansForBigLogs(t *testing.T) {
	t.Parallel()
	s := newBooksPostgres(t)
	ctx := t.Context()
	clients := booksClients(t, s, 2)
	s.exec(t, fmt.Sprintf(`INSERT INTO gateway_usage_logs (id, client_id, total_tokens, created_at, incarnation, seq, outcome, usage_source)
SELECT gen_random_uuid(), CASE WHEN n %% 50 = 0 THEN '%s' ELSE '%s' END::uuid, 1, now() - n * interval '10 seconds', 1, n, 'ok', 'measured' FROM generate_series(1, 100000) n`, clients[0], clients[1]))
	s.exec(t, "ANALYZE gateway_usage_logs")
	var ids []int64
	for _, client := range []uuid.UUID{clients[0], uuid.Nil} {
		b := booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(client, Tokens, Daily, MaxLimit)))
		ids = append(ids, booksMust[[]*Window](t)(s.History(ctx, b.ID, 1))[0].ID)
	}
	for what, query := range map[string]string{"check": pgCheckLog, "open": pgUnheldSQL} {
		args := []any{ids}
		if what == "check" {
			args = append(args, checkEdge)
		}
		rows, err := s.pool.Query(ctx, "EXPLAIN "+query, args...)
		plan, err := pgCollect(rows, err, func(row pgx.CollectableRow) (line string, err error) {
			err = row.Scan(&line)
			return line, err
		})
		if err != nil {
			t.Fatal(err)
		}
		// Partitions that are empty are read in any way.
		if slices.ContainsFunc(plan, func(line string) bool {
			rows := regexp.MustCompile(`Seq Scan on (gateway_usage_logs|usage_rollups).* rows=\d{4}`)
			return rows.MatchString(line)
		}) {
			t.Errorf("%s:\n%s", what, strings.Join(plan, "\n"))
		}
	}
}
