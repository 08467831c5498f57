package budget

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite" // database/sql's driver "sqlite"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
)

// booksStore is a durable store, and what a test needs of the database behind it.
type booksStore interface {
	Store
	// record is what the worker does with events: log, roll-up and watermark, and the settlement, in one transaction.
	record(ctx context.Context, charges []Charge) error
	// exec runs a statement with literal arguments in it.
	exec(t *testing.T, statement string)
	// number runs a query that gives one whole number.
	number(t *testing.T, query string) int64
	// instant writes a time as a literal.
	instant(at time.Time) string
	// yes is a literal as well.
	yes() string
}

func onBooksStores(t *testing.T, test func(t *testing.T, s booksStore)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, newBooksSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, newBooksPostgres(t)) })
}

type booksPostgres struct {
	*Postgres
	pool *pgxpool.Pool
}

func newBooksPostgres(t testing.TB) *booksPostgres {
	t.Helper()
	return openBooksPostgres(t, testenv.Migrated(t))
}

func openBooksPostgres(t testing.TB, url string) *booksPostgres {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 12
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &booksPostgres{NewPostgres(pool), pool}
}

func (s *booksPostgres) exec(t *testing.T, statement string) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *booksPostgres) number(t *testing.T, query string) (n int64) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (s *booksPostgres) yes() string { return "true" }

func (s *booksPostgres) instant(at time.Time) string {
	return "'" + at.UTC().Format(time.RFC3339Nano) + "'"
}

func (s *booksPostgres) record(ctx context.Context, charges []Charge) error {
	for try := 0; ; try++ {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			for _, r := range booksRowsOf(charges) {
				_, err := tx.Exec(ctx, `INSERT INTO gateway_usage_logs (id, client_id, total_tokens, cost_brl, cost_usd, created_at, incarnation, seq, outcome, usage_source, budget_holds)
VALUES ($1, $2, $3, $4::int8 * 0.000000000001, $5::int8 * 0.000000000001, $6, $7, $8, 'ok', 'measured', nullif($9, '')::jsonb)`,
					r.id, r.client, r.tokens, r.brl, r.usd, r.at, r.incarnation, r.seq, r.holds)
				if err != nil {
					return err
				}
				_, err = tx.Exec(ctx, "INSERT INTO usage_rollups AS u (client_id, hour, "+booksCounts+`, total_tokens, cost_brl, cost_usd, model_registry_id, model_name, provider, route, endpoint)
VALUES ($1, $2, `+booksZeros+`, $3, coalesce($4::int8, 0) * 0.000000000001, coalesce($5::int8, 0) * 0.000000000001, '00000000-0000-0000-0000-000000000000', '', '', '', '')
ON CONFLICT (client_id, hour, model_registry_id, model_name, provider, route, endpoint) DO UPDATE SET
	total_tokens = u.total_tokens + excluded.total_tokens, cost_usd = u.cost_usd + excluded.cost_usd, cost_brl = u.cost_brl + excluded.cost_brl`,
					r.client, r.at.Truncate(time.Hour), r.tokens, r.brl, r.usd)
				if err != nil {
					return err
				}
			}
			if err := Settle(ctx, s.Within(tx), charges); err != nil {
				return err
			}
			for i := range charges {
				r := booksRowOf(&charges[i])
				if r.seq < 0 {
					continue
				}
				_, err := tx.Exec(ctx, `INSERT INTO producers AS p (incarnation, received) VALUES ($1, int8multirange(int8range($2, $2, '[]')))
ON CONFLICT (incarnation) DO UPDATE SET received = p.received + excluded.received`, r.incarnation, r.seq)
				if err != nil {
					return err
				}
			}
			return nil
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "40001" && pg.Code != "40P01" || try == 8 {
			return err
		}
		time.Sleep(time.Duration(1+rand.IntN(20)) * time.Millisecond)
	}
}

type booksSQLite struct {
	*SQLite
	db *sql.DB
}

func newBooksSQLite(t testing.TB) *booksSQLite {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catraca.db")
	open := func(option string) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+path+
			"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&"+option)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	write := open("_txlock=immediate")
	write.SetMaxOpenConns(1)
	if err := migrations.Up(t.Context(), write, migrations.SQLite); err != nil {
		t.Fatal(err)
	}
	return &booksSQLite{NewSQLite(write, open("_pragma=query_only(1)")), write}
}

func (s *booksSQLite) exec(t *testing.T, statement string) {
	t.Helper()
	if _, err := s.db.Exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *booksSQLite) number(t *testing.T, query string) (n int64) {
	t.Helper()
	if err := s.db.QueryRow(query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (s *booksSQLite) yes() string { return "1" }

func (s *booksSQLite) instant(at time.Time) string { return fmt.Sprint(at.UnixMicro()) }

func (s *booksSQLite) record(ctx context.Context, charges []Charge) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for i := range charges {
		r := booksRowOf(&charges[i])
		_, err := tx.Exec(`INSERT INTO gateway_usage_logs (id, client_id, total_tokens, cost_brl, cost_usd, created_at, incarnation, seq, outcome, usage_source, budget_holds)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'ok', 'measured', nullif(?, ''))`,
			r.id.String(), r.client.String(), r.tokens, r.brl, r.usd, r.at.UnixMicro(), r.incarnation, r.seq, r.holds)
		if err != nil {
			return err
		}
		if err := booksRollUp(tx, r); err != nil {
			return err
		}
		if r.seq > 0 {
			// Tests number without a hole.
			if _, err := tx.Exec("INSERT INTO producers (incarnation, received) VALUES (?, ?) ON CONFLICT DO UPDATE SET received = excluded.received",
				r.incarnation, fmt.Sprintf("[[1,%d]]", r.seq)); err != nil {
				return err
			}
		}
	}
	if err := Settle(ctx, s.Within(tx), charges); err != nil {
		return err
	}
	return tx.Commit()
}

func booksRollUp(tx *sql.Tx, r booksRow) error {
	const unit = int64(money.Unit)
	hour := r.at.Truncate(time.Hour).UnixMicro()
	var brl, usd int64
	err := tx.QueryRow("SELECT cost_brl * 1000000000000 + cost_brl_pico, cost_usd * 1000000000000 + cost_usd_pico FROM usage_rollups WHERE client_id = ? AND hour = ?",
		r.client.String(), hour).Scan(&brl, &usd)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if r.brl != nil {
		brl, usd = brl+*r.brl, usd+*r.usd
	}
	_, err = tx.Exec("INSERT INTO usage_rollups (client_id, hour, "+booksCounts+`, total_tokens, cost_brl, cost_brl_pico, cost_usd, cost_usd_pico, model_registry_id, model_name, provider, route, endpoint)
VALUES (?, ?, `+booksZeros+`, ?, ?, ?, ?, ?, '', '', '', '', '')
ON CONFLICT DO UPDATE SET total_tokens = total_tokens + excluded.total_tokens, cost_brl = excluded.cost_brl, cost_brl_pico = excluded.cost_brl_pico,
	cost_usd = excluded.cost_usd, cost_usd_pico = excluded.cost_usd_pico`, r.client.String(), hour, r.tokens, brl/unit, brl%unit, usd/unit, usd%unit)
	return err
}

const (
	booksCounts = `calls, errors, client_gone, streamed, estimated, unknown_cost, was_cached, was_fallback, input_tokens, output_tokens, cached_tokens,
	cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, audio_ms, images, characters, latency_ms, answered, ttft_ms, overhead_us`
	booksZeros = "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0"
)

// booksRow is a charge as the usage log has it.
type booksRow struct {
	id, client       uuid.UUID
	tokens           int64
	brl, usd         *int64
	at               time.Time
	incarnation, seq int64
	holds            string
}

// booksRowsOf are charges in an order of their own, by which nobody waits for somebody who waits for them.
func booksRowsOf(charges []Charge) (rows []booksRow) {
	for i := range charges {
		rows = append(rows, booksRowOf(&charges[i]))
	}
	slices.SortFunc(rows, func(a, b booksRow) int { return cmp.Or(compareIDs(a.client, b.client), a.at.Compare(b.at)) })
	return rows
}

func booksRowOf(c *Charge) booksRow {
	r := booksRow{id: uuid.New(), client: c.Client, tokens: c.Tokens, at: c.AdmittedAt.UTC(), incarnation: int64(c.Incarnation), seq: int64(c.Seq)}
	if c.Correction {
		r.seq = -r.seq
	}
	if !c.Unpriced {
		r.brl, r.usd = (*int64)(&c.BRL), (*int64)(&c.USD)
	}
	if len(c.Holds) > 0 {
		var pairs [][2]int64
		for _, h := range c.Holds {
			pairs = append(pairs, [2]int64{h.Window, h.Amount})
		}
		b, _ := json.Marshal(pairs)
		r.holds = string(b)
	}
	return r
}

// booksClients makes clients.
func booksClients(t *testing.T, s booksStore, n int) (ids []uuid.UUID) {
	for i := range n {
		id := uuid.New()
		s.exec(t, fmt.Sprintf("INSERT INTO clients (id, name) VALUES ('%s', 'client %d')", id, i))
		ids = append(ids, id)
	}
	return ids
}

func booksBudget(client uuid.UUID, unit Unit, period Period, limit int64) Budget {
	return Budget{ClientID: client, Unit: unit, Period: period, Limit: limit, PauseAtLimit: true, Alert80: true, Alert90: true, Alert100: true, TimeZone: "UTC"}
}

func booksMust[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// booksSound holds that Check finds nothing.
func booksSound(t *testing.T, s Store, windows int) CheckReport {
	t.Helper()
	r, err := s.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Faults) > 0 || r.Spent != r.Logged || r.Windows < windows {
		t.Errorf("check: %d windows, used %d, logged %d, faults %+v", r.Windows, r.Spent, r.Logged, r.Faults)
	}
	return r
}

func TestStoreBudgets(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		clients := booksClients(t, s, 2)
		b := booksBudget(clients[0], BRL, Monthly, 1_234_567_890_123_456_789)
		b.BillingDay, b.TimeZone, b.CarryOver, b.CarryMax, b.Thresholds = 31, "America/Sao_Paulo", true, 1, []int{50, 75}
		b.Email, b.Webhook, b.Paused, b.PausedReason = "a@example.com", "https://example.com/hook", true, "férias"
		b.StartsAt = time.Now().Add(-time.Hour)
		made := booksMust[Budget](t)(s.CreateBudget(ctx, b))
		read := booksMust[Budget](t)(s.Budget(ctx, made.ID))
		if !reflect.DeepEqual(made, read) || made.Limit != b.Limit || made.CarryMax != 1 || made.ID == uuid.Nil || made.CreatedAt.IsZero() {
			t.Errorf("made\n%+v\nread\n%+v", made, read)
		}
		if _, err := s.CreateBudget(ctx, booksBudget(clients[0], BRL, Monthly, 1)); !errors.Is(err, ErrExists) {
			t.Errorf("a second one of the kind: %v", err)
		}
		if _, err := s.CreateBudget(ctx, booksBudget(uuid.New(), BRL, Monthly, 1)); !errors.Is(err, ErrNotFound) {
			t.Errorf("one of nobody: %v", err)
		}
		booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(clients[0], BRL, Daily, MaxLimit)))
		all := booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(uuid.Nil, Tokens, Monthly, MaxLimit)))
		if _, err := s.CreateBudget(ctx, booksBudget(uuid.Nil, Tokens, Monthly, 1)); !errors.Is(err, ErrExists) {
			t.Errorf("a second one over all: %v", err)
		}
		for want, of := range map[int]*uuid.UUID{3: nil, 2: &clients[0], 1: &uuid.Nil, 0: &clients[1]} {
			if got := booksMust[[]Budget](t)(s.Budgets(ctx, of)); len(got) != want {
				t.Errorf("%d budgets of %v, want %d", len(got), of, want)
			}
		}
		if booksMust[Budget](t)(s.Budget(ctx, all.ID)).Limit != MaxLimit {
			t.Error("the largest limit changed")
		}

		for i, b := range []Budget{
			booksBudget(clients[1], Tokens, Daily, 1), booksBudget(clients[1], Tokens, Weekly, 1), booksBudget(clients[1], Tokens, Monthly, 1),
			booksBudget(clients[1], BRL, Daily, 1), booksBudget(clients[1], BRL, Weekly, 1), booksBudget(clients[1], BRL, Monthly, 1),
			booksBudget(clients[1], USD, Daily, 1),
		} {
			if _, err := s.CreateBudget(ctx, b); errors.Is(err, ErrTooMany) != (i == MaxBudgets) {
				t.Errorf("budget %d: %v", i, err)
			}
		}

		read.Limit, read.PauseAtLimit, read.Thresholds, read.Paused = 7, false, nil, false
		read.Unit, read.ClientID = Tokens, clients[1] // which never change
		changed := booksMust[Budget](t)(s.UpdateBudget(ctx, read))
		if changed.Limit != 7 || changed.Unit != BRL || changed.ClientID != clients[0] || !changed.UpdatedAt.After(made.UpdatedAt) {
			t.Errorf("changed to %+v", changed)
		}
		if again := booksMust[Budget](t)(s.Budget(ctx, made.ID)); !reflect.DeepEqual(again, changed) {
			t.Errorf("read %+v after it was changed to %+v", again, changed)
		}
		if _, err := s.UpdateBudget(ctx, read); !errors.Is(err, ErrConflict) {
			t.Errorf("an update of what was read before another one: %v", err)
		}
		read.UpdatedAt = time.Time{}
		booksMust[Budget](t)(s.UpdateBudget(ctx, read))
		if err := s.DeleteBudget(ctx, made.ID); err != nil {
			t.Fatal(err)
		}
		_, errRead := s.Budget(ctx, made.ID)
		_, errWrite := s.UpdateBudget(ctx, read)
		for _, err := range []error{errRead, errWrite, s.DeleteBudget(ctx, made.ID)} {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("of a deleted budget: %v", err)
			}
		}
		booksMust[Budget](t)(s.CreateBudget(ctx, b)) // its place is free again
		if ws := booksMust[[]*Window](t)(s.History(ctx, made.ID, 10)); len(ws) != 1 || ws[0].Limit() != 7 || ws[0].LimitVersion != 2 || ws[0].Hard {
			t.Errorf("the windows of the deleted one: %+v", ws)
		}
		booksSound(t, s, 4)
	})
}

func TestStorePolicies(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		client := booksClients(t, s, 1)[0]
		if p := booksMust[Policy](t)(s.Policy(ctx, client)); p != (Policy{}) {
			t.Errorf("nobody set %+v", p)
		}
		want := Policy{
			AtLimit: Downgrade, DowngradeModel: "openai/gpt-4o-mini", FitOutput: true, Bound: BoundTokenizer, OutputCap: 9, Outrun: Cut,
			TailCalls: 3, ConversationCalls: 4, ConversationBRL: 5, ContactCalls: 6, ContactBRL: 7,
		}
		for _, p := range []Policy{{AtLimit: Handoff}, want} {
			if err := s.SetPolicy(ctx, client, p); err != nil {
				t.Fatal(err)
			}
		}
		if got := booksMust[Policy](t)(s.Policy(ctx, client)); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if err := s.SetPolicy(ctx, uuid.New(), want); !errors.Is(err, ErrNotFound) {
			t.Errorf("of nobody: %v", err)
		}
		err := s.Update(ctx, func(tx Tx) error {
			all, err := tx.Policies(ctx, []uuid.UUID{client, uuid.New(), uuid.Nil})
			if len(all) != 1 || *all[client] != want {
				t.Errorf("in a transaction: %+v", all)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestStoreFeed(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		clients := booksClients(t, s, 3)
		last := s.number(t, "SELECT max(version) FROM config_changes")
		after := func(what string, mine, all int64) {
			t.Helper()
			of := fmt.Sprintf("SELECT count(*) FROM config_changes WHERE version > %d AND client_id", last)
			if n := s.number(t, fmt.Sprintf("%s = '%s'", of, clients[0])); n != mine {
				t.Errorf("%s: %d changes of the client, want %d", what, n, mine)
			}
			if n := s.number(t, of+" IS NOT NULL"); n != all {
				t.Errorf("%s: %d changes in all, want %d", what, n, all)
			}
			if n := s.number(t, of+" IS NULL"); n != 0 {
				t.Errorf("%s: %d changes of models and prices", what, n)
			}
			last = s.number(t, "SELECT max(version) FROM config_changes")
		}
		b := booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(clients[0], Tokens, Daily, 100)))
		after("create", 1, 1)
		if err := s.record(ctx, []Charge{{EventID: EventID{1, 1}, Client: clients[0], AdmittedAt: time.Now(), Cost: Cost{Tokens: 100}}}); err != nil {
			t.Fatal(err)
		}
		if n := booksMust[int](t)(s.Project(ctx, time.Now().Add(-time.Minute))); n != 1 {
			t.Errorf("%d rows shown", n)
		}
		after("use", 0, 0)
		b.Limit = 200
		b = booksMust[Budget](t)(s.UpdateBudget(ctx, b))
		after("update", 1, 1)
		if err := s.DeleteBudget(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
		after("delete", 1, 1)
		if err := s.SetPolicy(ctx, clients[0], Policy{AtLimit: Handoff}); err != nil {
			t.Fatal(err)
		}
		after("policy", 1, 1)
		booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(uuid.Nil, Tokens, Daily, 100)))
		after("over all", 1, 3)
	})
}

func TestStoreShowsHowBudgetsStand(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		client := booksClients(t, s, 1)[0]
		b := booksBudget(client, Tokens, Daily, 100)
		b.TimeZone = "Pacific/Kiritimati"
		b = booksMust[Budget](t)(s.CreateBudget(ctx, b))
		shows := func(used, percent, paused int64) {
			t.Helper()
			booksMust[int](t)(s.Project(ctx, time.Now().Add(-time.Minute)))
			row := fmt.Sprintf("%d %d %d", s.number(t, "SELECT CAST(current_usage AS BIGINT) FROM client_budgets"),
				s.number(t, "SELECT CAST(usage_percentage AS BIGINT) FROM client_budgets"), s.number(t, "SELECT CASE WHEN is_paused THEN 1 ELSE 0 END FROM client_budgets"))
			if want := fmt.Sprintf("%d %d %d", used, percent, paused); row != want {
				t.Errorf("shows %s, want %s", row, want)
			}
		}
		shows(0, 0, 0)
		use := func(seq uint64, tokens int64) {
			t.Helper()
			if err := s.record(ctx, []Charge{{EventID: EventID{1, seq}, Client: client, AdmittedAt: time.Now(), Cost: Cost{Tokens: tokens, Unpriced: true}}}); err != nil {
				t.Fatal(err)
			}
		}
		use(1, 40)
		shows(40, 40, 0)
		use(2, 6000)
		shows(6040, 6040, 1) // far past what the plan's column could hold
		b.Limit = 10000
		b = booksMust[Budget](t)(s.UpdateBudget(ctx, b))
		shows(6040, 60, 0)
		b.Paused, b.PausedReason = true, "because"
		b = booksMust[Budget](t)(s.UpdateBudget(ctx, b))
		shows(6040, 60, 1)
		b.Paused = false
		booksMust[Budget](t)(s.UpdateBudget(ctx, b))
		shows(6040, 60, 0)
		w := booksMust[[]*Window](t)(s.History(ctx, b.ID, 1))[0]
		zone, _ := time.LoadLocation(b.TimeZone)
		day := w.StartsAt.In(zone).Format(time.DateOnly)
		if n := s.number(t, "SELECT count(*) FROM client_budgets WHERE period_start_date = '"+day+"' AND next_reset_at = "+s.instant(w.EndsAt)); n != 1 {
			t.Errorf("the period is not shown as from %s to %s", day, w.EndsAt)
		}
		if n := booksMust[int](t)(s.Project(ctx, time.Now().Add(-time.Minute))); n != 0 {
			t.Errorf("%d rows were written though nothing changed", n)
		}
		// Somebody may write into the table itself.
		edited := int64(20000)
		if _, lite := s.(*booksSQLite); lite {
			s.exec(t, "UPDATE client_budgets SET budget_limit = 20000, pause_at_limit = 0")
		} else {
			s.exec(t, "UPDATE client_budgets SET budget_limit = 20000, pause_at_limit = NULL")
		}
		shows(6040, 30, 0)
		if w := booksMust[[]*Window](t)(s.History(ctx, b.ID, 1))[0]; w.Limit() != edited || w.Hard || w.LimitVersion != 3 {
			t.Errorf("the window did not follow: %+v", w)
		}
		alerts := booksMust[[]AlertStatus](t)(s.Alerts(ctx, &client, 10))
		if len(alerts) != 3 || alerts[0].Used != 6040 || alerts[0].Limit != 100 || alerts[0].ClientID != client {
			t.Errorf("alerts: %+v", alerts)
		}
		if got := booksMust[[]AlertStatus](t)(s.Alerts(ctx, &uuid.Nil, 10)); len(got) != 0 {
			t.Errorf("alerts over all clients: %+v", got)
		}
	})
}
