package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func openPostgres(t testing.TB, url string) *Postgres {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return NewPostgres(pool)
}

func newPostgres(t testing.TB) *Postgres { return openPostgres(t, testenv.Migrated(t)) }

// feedLength counts the changes of anything in the feed that proxies follow.
func feedLength(t *testing.T, s store) int {
	t.Helper()
	const query = "SELECT count(*) FROM config_changes WHERE client_id IS NULL"
	var n int
	var err error
	switch s := s.(type) {
	case *Postgres:
		err = s.pool.QueryRow(t.Context(), query).Scan(&n)
	case *SQLite:
		err = s.read.QueryRowContext(t.Context(), query).Scan(&n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pgExec(t *testing.T, p *Postgres, query string, args ...any) {
	t.Helper()
	if _, err := p.pool.Exec(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

func pgValue[T any](t *testing.T, p *Postgres, query string, args ...any) (v T) {
	t.Helper()
	if err := p.pool.QueryRow(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPostgresPartitions(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	partitions := func() int {
		return pgValue[int](t, p, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'gateway_usage_logs'::regclass")
	}
	before := partitions()
	if before != 5 { // this month, three more, and the default
		t.Errorf("%d partitions after the migration", before)
	}
	events := randomEvents(20, 9, 60)
	for i := range events { // over months that nobody has made a partition for, their edges among them
		events[i].AdmittedAt = time.Date(2031, time.Month(1+i%4), 1, 0, 0, 0, 0, time.UTC)
		if i%8 > 3 {
			events[i].AdmittedAt = events[i].AdmittedAt.Add(-time.Microsecond)
		}
	}
	mustRecord(t, p, events...)
	inDefault := func() int { return pgValue[int](t, p, "SELECT count(*) FROM gateway_usage_logs_default") }
	if n := inDefault(); n != len(events) {
		t.Errorf("%d rows in the default partition", n)
	}
	made, err := p.MakePartitions(t.Context(), time.Date(2031, 1, 31, 23, 0, 0, 0, time.FixedZone("", -3*3600)), 1)
	if err != nil || made != 2 { // it is February in UTC: that month and March
		t.Errorf("made %d, %v", made, err)
	}
	if n := inDefault(); n == 0 || n == len(events) {
		t.Errorf("%d rows are left in the default partition", n)
	}
	made, err = p.MakePartitions(t.Context(), time.Date(2030, 12, 1, 0, 0, 0, 0, time.UTC), 5)
	if err != nil || made != 4 {
		t.Errorf("made %d more, %v", made, err)
	}
	if n := inDefault(); n != 0 {
		t.Errorf("%d rows are left in the default partition", n)
	}
	if made, err = p.MakePartitions(t.Context(), time.Date(2030, 12, 1, 0, 0, 0, 0, time.UTC), 5); err != nil || made != 0 {
		t.Errorf("made %d again, %v", made, err)
	}
	mustHold(t, p, events)
	mustRecord(t, p, events...) // repeats find their rows where they are now
	mustHold(t, p, events)
	if n := pgValue[int](t, p, "SELECT count(*) FROM pg_class WHERE relname ~ '^gateway_usage_logs_\\d' AND relkind = 'r' AND NOT relrowsecurity"); n != 0 {
		t.Errorf("%d partitions can be read by everybody", n)
	}
}

func TestPostgresPartitionsWhileRecording(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	events := randomEvents(21, 9, 3000)
	for i := range events {
		events[i].AdmittedAt = time.Date(2040, time.Month(1+i%6), 2, 3, 4, 5, 0, time.UTC)
	}
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := w * 1000; i < (w+1)*1000; i += 50 {
				if err := p.Record(context.Background(), events[i:i+50]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for month := range 6 {
		if _, err := p.MakePartitions(t.Context(), time.Date(2040, time.Month(1+month), 1, 0, 0, 0, 0, time.UTC), 0); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	mustHold(t, p, events)
}

func TestPostgresRepeatAfterItsPartitionIsGone(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	events := randomEvents(22, 9, 50)
	for i := range events {
		events[i].AdmittedAt = time.Date(2033, 5, 6, 7, 0, 0, 0, time.UTC)
	}
	if _, err := p.MakePartitions(t.Context(), events[0].AdmittedAt, 0); err != nil {
		t.Fatal(err)
	}
	mustRecord(t, p, events[:40]...)
	pgExec(t, p, "DROP TABLE gateway_usage_logs_2033_05")
	mustRecord(t, p, events...) // the last ten are new
	report, err := p.Usage(t.Context(), UsageQuery{Limit: 1000})
	if err != nil || len(report.Rows) != 10 || plain(report.Total) != plain(expected(events)) {
		t.Errorf("%d rows, total %s, %v\nwant %s", len(report.Rows), plain(report.Total), err, plain(expected(events)))
	}
}

// A SaaS on Supabase has tables of its own, and may have begun with the plan's.
func TestPostgresOnADatabaseOfASaaS(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	p := openPostgres(t, url)
	pgExec(t, p, `CREATE TABLE clients (
		id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, slug text NOT NULL UNIQUE, plan_tier text NOT NULL, api_settings jsonb NOT NULL);
	CREATE TABLE conversations (id uuid PRIMARY KEY, client_id uuid NOT NULL REFERENCES clients (id), phone text NOT NULL);
	INSERT INTO clients (id, name, slug, plan_tier, api_settings) VALUES ('11111111-1111-4111-8111-111111111111', 'Padaria', 'padaria', 'pro', '{}');
	CREATE TABLE ai_models_registry (
		id UUID PRIMARY KEY DEFAULT gen_random_uuid(), provider TEXT NOT NULL, model_name TEXT NOT NULL, gateway_identifier TEXT NOT NULL UNIQUE,
		capabilities JSONB NOT NULL, context_window INTEGER, max_output_tokens INTEGER, input_price_per_million NUMERIC(10, 6) NOT NULL,
		output_price_per_million NUMERIC(10, 6) NOT NULL, cached_input_price_per_million NUMERIC(10, 6), is_active BOOLEAN DEFAULT true,
		description TEXT, created_at TIMESTAMPTZ DEFAULT NOW(), updated_at TIMESTAMPTZ DEFAULT NOW(), UNIQUE (provider, model_name));
	INSERT INTO ai_models_registry (provider, model_name, gateway_identifier, capabilities, context_window, input_price_per_million, output_price_per_million, is_active)
		VALUES ('openai', 'gpt-4o', 'openai/gpt-4o', '{"text": true, "notes": "ours"}', 111, 2.5, 10, false), ('openai', 'fine-tuned', 'openai/fine-tuned', '{}', NULL, 1, 2, true);
	CREATE TABLE shared_gateway_config (
		id UUID PRIMARY KEY DEFAULT gen_random_uuid(), gateway_api_key_secret_id UUID, openai_api_key_secret_id UUID, groq_api_key_secret_id UUID,
		anthropic_api_key_secret_id UUID, google_api_key_secret_id UUID, cache_enabled BOOLEAN DEFAULT true, cache_ttl_seconds INTEGER DEFAULT 3600,
		default_fallback_chain JSONB DEFAULT '[]'::jsonb, max_requests_per_minute INTEGER DEFAULT 1000, max_tokens_per_minute INTEGER DEFAULT 500000,
		created_at TIMESTAMPTZ DEFAULT NOW(), updated_at TIMESTAMPTZ DEFAULT NOW());
	CREATE UNIQUE INDEX idx_shared_gateway_config_singleton ON shared_gateway_config ((true));
	INSERT INTO shared_gateway_config (cache_ttl_seconds) VALUES (77);`)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := migrations.Up(t.Context(), db, migrations.Postgres); err != nil {
		t.Fatal(err)
	}
	if ttl := pgValue[int](t, p, "SELECT cache_ttl_seconds FROM shared_gateway_config"); ttl != 77 {
		t.Errorf("their settings became %d", ttl)
	}
	c := mustLoad(t, p)
	gpt4o := c.Lookup("gpt-4o")
	if gpt4o.Active || gpt4o.ContextWindow != 111 || gpt4o.RetiresAt.IsZero() || !gpt4o.Capabilities["text"] || gpt4o.PriceAt(time.Now()) == nil || len(c.Models()) < 30 {
		t.Errorf("%+v", gpt4o)
	}
	if theirs := c.Lookup("fine-tuned"); theirs == nil || !theirs.Active || theirs.PriceAt(time.Now()) != nil {
		t.Errorf("%+v", theirs)
	}
	if err := p.ShowPrices(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	if price := pgValue[string](t, p, "SELECT input_price_per_million::text FROM ai_models_registry WHERE model_name = 'fine-tuned'"); price != "1.000000" {
		t.Errorf("a price of theirs became %s", price)
	}
	events := randomEvents(23, 9, 50) // of clients that are not in their table, too
	mustRecord(t, p, events...)
	mustHold(t, p, events)
	pgExec(t, p, "DELETE FROM clients")
	mustHold(t, p, events)
}

func TestPostgresShowsPricesThatBegin(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	prices := func() string {
		return pgValue[string](t, p, `SELECT input_price_per_million || ' ' || output_price_per_million || ' ' || coalesce(cached_input_price_per_million::text, '-')
FROM ai_models_registry WHERE gateway_identifier = 'google/gemini-3.8-flash'`)
	}
	if got := prices(); got != "0.750000 3.750000 0.075000" {
		t.Errorf("in 2026: %s", got)
	}
	if err := p.ShowPrices(t.Context(), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	if got := prices(); got != "1.500000 7.500000 0.150000" {
		t.Errorf("in 2027: %s", got)
	}
}

func TestPostgresRetries(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	for _, code := range []string{"40P01", "40001", "23514"} { // the last one without the name of a constraint
		tries := 0
		err := p.retry(t.Context(), func(pgx.Tx) error {
			if tries++; tries < 4 {
				return fmt.Errorf("record: %w", &pgconn.PgError{Code: code})
			}
			return nil
		})
		if err != nil || tries != 4 {
			t.Errorf("%s: %d tries, %v", code, tries, err)
		}
	}
	tries := 0
	err := p.retry(t.Context(), func(pgx.Tx) error { tries++; return &pgconn.PgError{Code: "23514", ConstraintName: "a_check"} })
	if tries != 1 || !errors.Is(permanent(err), ErrUnrecordable) {
		t.Errorf("%d tries, %v", tries, err)
	}
	if err := permanent(context.DeadlineExceeded); errors.Is(err, ErrUnrecordable) {
		t.Error("a time-out is held to be the event's fault")
	}
}

// Two sessions that take the same rows in opposite order make Postgres break one of them off: the one that has waited
// longer, which is Record here. It must be whole all the same.
func TestPostgresDeadlock(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	events := randomEvents(24, 9, 40)
	mustRecord(t, p, events[:20]...)
	pgExec(t, p, "INSERT INTO producers (incarnation) VALUES (10)")
	tx, err := p.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	// The stranger holds the watermark, which Record takes last, and then wants the roll-ups, which Record has by then.
	if _, err := tx.Exec(t.Context(), "SELECT FROM producers WHERE incarnation = 9 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Record(context.Background(), events) }()
	for pgValue[int](t, p, "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	_, err = tx.Exec(t.Context(), "UPDATE usage_rollups SET calls = calls")
	var pg *pgconn.PgError
	if err != nil && (!errors.As(err, &pg) || pg.Code != "40P01") {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	mustHold(t, p, events)
}

func TestPostgresShards(t *testing.T) {
	t.Parallel()
	url := testenv.Migrated(t)
	a, b := openPostgres(t, url), openPostgres(t, url)
	within := func(p *Postgres, d time.Duration, shard int) (func(), error) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return p.Acquire(ctx, shard)
	}
	release3, err := within(a, time.Second, 3)
	if err != nil {
		t.Fatal(err)
	}
	release4, err := within(a, time.Second, 4)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*Postgres{"another process": b, "another worker of this one": a} {
		if _, err := within(p, 100*time.Millisecond, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	release5, err := within(b, time.Second, 5)
	if err != nil {
		t.Fatal(err)
	}
	if n := pgValue[int](t, a, "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1", shardClass); n != 2 {
		t.Errorf("%d sessions hold shards, want one a process", n)
	}
	waited := make(chan error, 1)
	go func() {
		release, err := within(b, 10*time.Second, 3)
		if err == nil {
			release()
		}
		waited <- err
	}()
	release3()
	release3() // again is nothing
	if err := <-waited; err != nil {
		t.Errorf("a shard that was given back: %v", err)
	}
	// The session dies: others get the shard, and this process can lock again.
	pgExec(t, a, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = 4", shardClass)
	release, err := within(b, 5*time.Second, 4)
	if err != nil {
		t.Errorf("the shard of a session that died: %v", err)
	} else {
		release()
	}
	release6, err := within(a, time.Second, 6)
	if err != nil { // the first try finds out, the worker's next one connects
		release6, err = within(a, time.Second, 6)
	}
	if err != nil {
		t.Fatal(err)
	}
	release6()
	release4()
	release5()
	if n := pgValue[int](t, a, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1", shardClass); n != 0 {
		t.Errorf("%d shards are still locked", n)
	}
}

func TestPostgresRowsAreNotForEverybody(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	for _, table := range []string{
		"ai_models_registry", "model_prices", "exchange_rates", "shared_gateway_config", "gateway_usage_logs", "gateway_usage_logs_default",
		"usage_rollups", "producers", "dead_letters",
	} {
		if !pgValue[bool](t, p, "SELECT relrowsecurity FROM pg_class WHERE oid = $1::text::regclass", table) {
			t.Errorf("%s has no row-level security", table)
		}
	}
}

func BenchmarkRecordPostgres(b *testing.B) { benchmarkRecord(b, newPostgres(b)) }

func BenchmarkRecordPostgres4(b *testing.B) {
	p := newPostgres(b)
	var incarnation uint64
	var mu sync.Mutex
	b.SetParallelism(2) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		mu.Lock()
		incarnation++
		mine := incarnation
		mu.Unlock()
		seq := 0
		for pb.Next() {
			events := benchmarkBatch(mine, seq)
			for i := range events { // a tenant a worker, as shards make it
				events[i].ClientID = uuid.UUID{15: byte(mine), 8: 0x80}
			}
			seq += len(events)
			if err := p.Record(context.Background(), events); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
