package budget

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite" // database/sql's driver "sqlite"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
)

// alertsDB is a database with an outbox, for tests that write rows as the ledger would.
type alertsDB struct {
	Outbox
	exec func(query string, args ...any) // with $1, $2, …
	rows func(query string) [][]string   // all values as text; times in microseconds
	at   func(t time.Time) any
}

func alertsPostgres(t testing.TB) *alertsDB {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testenv.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &alertsDB{
		Outbox: NewPostgres(pool),
		exec: func(query string, args ...any) {
			t.Helper()
			if _, err := pool.Exec(context.Background(), query, args...); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		},
		rows: func(query string) (all [][]string) {
			t.Helper()
			query = strings.NewReplacer("micros(", "((extract(epoch from ", "/*end*/", ") * 1000000)::bigint", "flag(", "(").Replace(query)
			rows, err := pool.Query(context.Background(), query)
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			defer rows.Close()
			for rows.Next() {
				values, err := rows.Values()
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, alertsText(values))
			}
			return all
		},
		at: func(t time.Time) any { return t },
	}
}

func alertsSQLite(t testing.TB) *alertsDB {
	t.Helper()
	dir := t.TempDir()
	open := func(option string) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "catraca.db")+
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
	read := open("_pragma=query_only(1)")
	return &alertsDB{
		Outbox: NewSQLite(write, read),
		exec: func(query string, args ...any) {
			t.Helper()
			if _, err := write.ExecContext(context.Background(), strings.ReplaceAll(query, "$", "?"), args...); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		},
		rows: func(query string) (all [][]string) {
			t.Helper()
			rows, err := read.QueryContext(context.Background(), strings.NewReplacer("micros(", "(", "/*end*/", "", "flag(", "(").Replace(query))
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			defer rows.Close()
			columns, err := rows.Columns()
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				values, to := make([]any, len(columns)), make([]any, len(columns))
				for i := range values {
					to[i] = &values[i]
				}
				if err := rows.Scan(to...); err != nil {
					t.Fatal(err)
				}
				all = append(all, alertsText(values))
			}
			return all
		},
		at: func(t time.Time) any { return t.UnixMicro() },
	}
}

func alertsText(values []any) (text []string) {
	for _, v := range values {
		switch v {
		case true:
			v = 1
		case false:
			v = 0
		}
		text = append(text, fmt.Sprint(v))
	}
	return text
}

func onAlertsDBs(t *testing.T, test func(t *testing.T, db *alertsDB)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, alertsSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, alertsPostgres(t)) })
}

var alertsNow = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

// addAlert writes an alert with its client, budget and window. It gives the alert's id.
func (db *alertsDB) addAlert(t testing.TB, email, webhook string, threshold int) (budget uuid.UUID, window int64) {
	t.Helper()
	client, budget, window := uuid.New(), uuid.New(), rand.Int64N(1<<62)
	starts, ends := alertsNow.AddDate(0, 0, -21), alertsNow.AddDate(0, 0, 9)
	db.exec("INSERT INTO clients (id, name) VALUES ($1, $2)", client.String(), "Loja da Ana")
	db.exec(`INSERT INTO client_budgets (id, client_id, budget_type, budget_limit, budget_period, notification_email, notification_webhook, period_start_date, next_reset_at, starts_at)
VALUES ($1, $2, 'tokens', 1000, 'monthly', $3, $4, '2026-11-01', $5, $6)`, budget.String(), client.String(), email, webhook, db.at(ends), db.at(starts))
	db.exec(`INSERT INTO budget_windows (id, budget_id, client_id, budget_type, budget_period, hard, time_zone, starts_at, ends_at, base, carried, topped_up,
	limit_version, committed, spent, held, suspense, overrun, unheld, recall, exact, alerted, sealed, changed_at)
VALUES ($1, $2, $3, 'tokens', 'monthly', $7, 'America/Sao_Paulo', $4, $5, 1000, 0, 0, 1, 1000, 800, 0, 0, 5, 7, 0, $8, $6, $8, $4)`,
		window, budget.String(), client.String(), db.at(starts), db.at(ends), threshold, true, false)
	db.exec("INSERT INTO budget_alerts (window_id, budget_id, client_id, threshold, limit_version, limit_amount, used_amount, at) VALUES ($1, $2, $3, $4, 1, 1000, 812, $5)",
		window, budget.String(), client.String(), threshold, db.at(alertsNow))
	return budget, window
}

// sends remembers what was sent.
type sends struct {
	mu  sync.Mutex
	all []sent
}

type sent struct {
	channel, to, id string
	ok              bool
	at              time.Time
}

func (s *sends) by(channel string, fails func(to string) error) SendFunc {
	return func(_ context.Context, to string, n *Notice) (int, error) {
		var err error
		if fails != nil {
			err = fails(to)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, sent{channel, to, n.ID, err == nil, time.Now()})
		if err != nil {
			return 503, err
		}
		return 200, nil
	}
}

func (s *sends) count(channel string, ok bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.all {
		if x.channel == channel && x.ok == ok {
			n++
		}
	}
	return n
}

const attemptsSQL = `SELECT channel, try, status, error, flag(done) FROM budget_alert_attempts ORDER BY alert_id, channel, try`

func TestAlertsAreDelivered(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "dono@loja.example", "https://loja.example/hook", 80)
		db.addAlert(t, "", "", 90)
		var notices []Notice
		var s sends
		hook := s.by("webhook", nil)
		c := NewCourier(CourierOptions{
			Outbox: db, Now: func() time.Time { return alertsNow.Add(time.Minute) }, Email: s.by("email", nil),
			Webhook: func(ctx context.Context, to string, n *Notice) (int, error) {
				notices = append(notices, *n)
				return hook(ctx, to, n)
			},
		})
		got, err := c.Deliver(t.Context())
		if err != nil || got != (Deliveries{Sent: 2}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if again, err := c.Deliver(t.Context()); err != nil || again != (Deliveries{}) {
			t.Errorf("again: %+v, %v", again, err)
		}
		if rows := fmt.Sprint(db.rows(attemptsSQL)); rows != "[[email 1 200  1] [webhook 1 200  1]]" {
			t.Errorf("attempts: %s", rows)
		}
		if left := db.rows("SELECT id FROM budget_alerts WHERE deliver_at IS NOT NULL"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if len(notices) != 1 {
			t.Fatal(notices)
		}
		n := notices[0]
		if n.Client != "Loja da Ana" || n.Unit != "tokens" || n.Period != "monthly" || n.Threshold != 80 || n.Limit != 1000 || n.Used != 812 || !n.Hard ||
			!n.At.Equal(alertsNow) || n.TimeZone != "America/Sao_Paulo" || !n.EndsAt.Equal(alertsNow.AddDate(0, 0, 9)) || !n.Foreseen || len(n.Forecast) != 0 || !strings.HasPrefix(n.ID, "alert_") || strings.Contains(n.ID, ".") {
			t.Errorf("%+v", n)
		}
	})
}

func TestAlertsGoToTheOperatorToo(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "dono@loja.example", "", 80)
		db.addAlert(t, "ops@saas.example", "https://saas.example/hook", 80) // the budget names those of the operator itself
		var s sends
		c := NewCourier(CourierOptions{
			Outbox: db, Now: func() time.Time { return alertsNow }, Email: s.by("email", nil), Webhook: s.by("webhook", nil),
			DefaultWebhook: "https://saas.example/hook", DefaultEmails: []string{"ops@saas.example", "boss@saas.example"},
		})
		if got, err := c.Deliver(t.Context()); err != nil || got.Sent != 7 {
			t.Fatalf("%+v, %v", got, err)
		}
		rows := fmt.Sprint(db.rows("SELECT channel, count(*) FROM budget_alert_attempts GROUP BY channel ORDER BY channel"))
		if rows != "[[default_email 1] [default_email_2 2] [default_webhook 1] [email 2] [webhook 1]]" {
			t.Error(rows)
		}
	})
}

func TestAlertsAreTriedForADay(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "dono@loja.example", "https://loja.example/hook", 80)
		now := alertsNow
		var s sends
		c := NewCourier(CourierOptions{
			Outbox: db, Now: func() time.Time { return now }, Email: s.by("email", nil),
			Webhook: s.by("webhook", func(string) error { return errors.New("it answered with status 503") }),
		})
		var gaps []time.Duration
		last := now
		for range 100 {
			if due := db.rows("SELECT micros(min(deliver_at)/*end*/) FROM budget_alerts"); due[0][0] == "<nil>" {
				break
			}
			got, err := c.Deliver(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.Failed+got.GivenUp > 0 {
				gaps = append(gaps, now.Sub(last))
				last = now
			}
			var next int64
			if rows := db.rows("SELECT micros(min(deliver_at)/*end*/) FROM budget_alerts"); rows[0][0] != "<nil>" {
				fmt.Sscan(rows[0][0], &next)
				now = time.UnixMicro(next).Add(time.Microsecond)
			}
		}
		if ok, bad := s.count("email", true), s.count("webhook", false); ok != 1 || bad != len(gaps) || bad < 12 || bad > 30 {
			t.Fatalf("%d e-mails, %d webhooks, gaps %v", ok, bad, gaps)
		}
		if took := now.Sub(alertsNow); took < 20*time.Hour || took > 24*time.Hour {
			t.Errorf("given up after %v", took)
		}
		for i, gap := range gaps[1:] {
			base := min(5*time.Second*time.Duration(pow3(i)), 2*time.Hour)
			if gap < base*3/4 || gap > base*5/4+time.Second {
				t.Errorf("try %d came after %v, want %v and a quarter more or less", i+2, gap, base)
			}
		}
		rows := db.rows(attemptsSQL)
		if fmt.Sprint(rows[0]) != "[email 1 200  1]" || len(rows) != len(gaps)+1 {
			t.Errorf("attempts: %v", rows)
		}
		for i, row := range rows[1:] {
			done := "0"
			if i == len(gaps)-1 {
				done = "1"
			}
			if want := fmt.Sprintf("[webhook %d 503 it answered with status 503 %s]", i+1, done); fmt.Sprint(row) != want {
				t.Errorf("attempt %v, want %s", row, want)
			}
		}
	})
}

func pow3(n int) int {
	p := 1
	for range min(n, 10) {
		p *= 3
	}
	return p
}

// finalError is one that no further try changes.
type finalError struct{ error }

func (finalError) Final() bool { return true }

func TestAlertsFollowTheBudgetAsItIs(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		wrong, _ := db.addAlert(t, "", "https://loja.example/wrong", 80)
		gone, _ := db.addAlert(t, "", "https://loja.example/gone", 80)
		removed, _ := db.addAlert(t, "", "https://loja.example/removed", 80)
		now := alertsNow
		var s sends
		c := NewCourier(CourierOptions{Outbox: db, Now: func() time.Time { return now }, Webhook: s.by("webhook", func(to string) error {
			switch {
			case strings.HasSuffix(to, "gone"):
				return finalError{errors.New("nobody wants its notices any more")}
			case strings.HasSuffix(to, "right"):
				return nil
			}
			return errors.New("it answered with status 404")
		})})
		if got, err := c.Deliver(t.Context()); err != nil || got != (Deliveries{Failed: 2, GivenUp: 1}) {
			t.Fatalf("%+v, %v", got, err)
		}
		db.exec("UPDATE client_budgets SET notification_webhook = 'https://loja.example/right' WHERE id = $1", wrong.String())
		db.exec("UPDATE client_budgets SET notification_webhook = 'https://loja.example/right' WHERE id = $1", gone.String())
		db.exec("UPDATE client_budgets SET notification_webhook = NULL WHERE id = $1", removed.String())
		now = now.Add(time.Minute)
		if got, err := c.Deliver(t.Context()); err != nil || got != (Deliveries{Sent: 1}) {
			t.Errorf("%+v, %v", got, err)
		}
		if left := db.rows("SELECT id FROM budget_alerts WHERE deliver_at IS NOT NULL"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestAlertsWithoutAnythingSetUpSayWhy(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "dono@loja.example", "https://loja.example/hook", 80)
		c := NewCourier(CourierOptions{Outbox: db, Now: func() time.Time { return alertsNow }})
		if got, err := c.Deliver(t.Context()); err != nil || got != (Deliveries{Failed: 2}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if rows := fmt.Sprint(db.rows(attemptsSQL)); !strings.Contains(rows, "no mail server is set") || !strings.Contains(rows, "no webhook secret is set") {
			t.Error(rows)
		}
	})
}

func TestAlertsOfBudgetsAndClientsThatAreGone(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		budget, window := db.addAlert(t, "dono@loja.example", "", 80)
		db.exec("DELETE FROM client_budgets WHERE id = $1", budget.String())
		db.exec("DELETE FROM clients")
		_, lost := db.addAlert(t, "dono@loja.example", "", 80)
		db.exec("DELETE FROM budget_windows WHERE id = $1", lost)
		var notices []*Notice
		c := NewCourier(CourierOptions{
			Outbox: db, Now: func() time.Time { return alertsNow }, DefaultEmails: []string{"ops@saas.example"},
			Email: func(_ context.Context, _ string, n *Notice) (int, error) {
				notices = append(notices, n)
				return 250, nil
			},
		})
		if got, err := c.Deliver(t.Context()); err != nil || got.Sent != 1 || len(notices) != 1 || notices[0].Client != "" || notices[0].BudgetID != budget.String() {
			t.Fatalf("%+v, %v, %v, window %d", got, err, notices, window)
		}
		if left := db.rows("SELECT id FROM budget_alerts WHERE deliver_at IS NOT NULL"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// mortal is an outbox whose user dies: what it wrote down, or was given, is as if it had not been.
type mortal struct {
	Outbox
	mu           sync.Mutex
	r            *rand.Rand
	percent      int            // of how often it dies
	unrecorded   map[string]int // tries that were made and not written down, by alert and channel
	unrecordedOK map[string]int
	lostClaims   int
}

func (m *mortal) dies() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.r.IntN(100) < m.percent
}

func (m *mortal) Due(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Delivery, error) {
	due, err := m.Outbox.Due(ctx, now, lease, 1+rand.IntN(most))
	if len(due) > 0 && m.dies() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.lostClaims++
		return nil, errors.New("killed")
	}
	return due, err
}

func (m *mortal) Record(ctx context.Context, d *Delivery, tries []Attempt, next time.Time) error {
	if !m.dies() {
		return m.Outbox.Record(ctx, d, tries, next)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range tries {
		key := fmt.Sprint(d.AlertID, " ", a.Channel)
		m.unrecorded[key]++
		if a.Error == "" {
			m.unrecordedOK[key]++
		}
	}
	return nil
}

// TestAlertsSurviveEverything lets several couriers deliver while they die between sending and writing that down, receivers
// fail, and time goes by. At the end each alert has reached every address that could be reached, and was sent again only
// where a courier died after it had sent.
func TestAlertsSurviveEverything(t *testing.T) {
	runs := map[string]int{"sqlite": 1000, "postgres": 500}
	if testing.Short() {
		runs = map[string]int{"sqlite": 100, "postgres": 25}
	}
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		kind := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
		var total, again int
		for seed := range uint64(runs[kind]) {
			s, a := survive(t, db, seed)
			total, again = total+s, again+a
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		t.Logf("%d runs, %d notices sent, %d of them once more after a death", runs[kind], total, again)
		if again == 0 {
			t.Error("nobody died at the wrong moment: this proves nothing")
		}
	})
}

func survive(t *testing.T, db *alertsDB, seed uint64) (total, again int) {
	t.Helper()
	db.exec("DELETE FROM budget_alerts")
	r := rand.New(rand.NewPCG(seed, 1))
	type want struct{ email, webhook bool }
	wants := map[string]want{} // by the notice's id
	channels := 0
	for range 1 + r.IntN(5) {
		w := want{r.IntN(3) > 0, r.IntN(3) > 0}
		email, webhook := "", ""
		if w.email {
			email = "dono@loja.example"
			channels++
		}
		if w.webhook {
			webhook = "https://loja.example/hook"
			channels++
		}
		threshold := []int{80, 90, 100}[r.IntN(3)]
		budget, window := db.addAlert(t, email, webhook, threshold)
		wants["alert_"+alertID(&Alert{BudgetID: budget, Window: window, Threshold: threshold, LimitVersion: 1}).String()] = w
	}
	var s sends
	var faults sync.Mutex
	flaky := func(string) error {
		faults.Lock()
		defer faults.Unlock()
		if r.IntN(100) < 40 {
			return errors.New("it answered with status 503")
		}
		return nil
	}
	m := &mortal{Outbox: db, r: rand.New(rand.NewPCG(seed, 2)), percent: 25, unrecorded: map[string]int{}, unrecordedOK: map[string]int{}}
	now := alertsNow
	var couriers []*Courier
	for range 1 + r.IntN(3) {
		couriers = append(couriers, NewCourier(CourierOptions{Outbox: m, Now: func() time.Time { return now }, AtOnce: 3, Email: s.by("email", flaky), Webhook: s.by("webhook", flaky)}))
	}
	for step := 0; ; step++ {
		if step > 40 {
			m.mu.Lock()
			m.percent = 0
			m.mu.Unlock()
		}
		var wait sync.WaitGroup
		for _, c := range couriers {
			wait.Go(func() { c.Deliver(t.Context()) })
		}
		wait.Wait()
		left := db.rows("SELECT count(*) FROM budget_alerts WHERE deliver_at IS NOT NULL")[0][0]
		if left == "0" {
			break
		}
		if step > 2000 {
			t.Fatalf("seed %d: %s alerts are left", seed, left)
		}
		now = now.Add(time.Duration(r.Int64N(int64(10 * time.Minute))))
	}
	arrived := map[string]map[string]int{}
	for _, x := range s.all {
		if arrived[x.id] == nil {
			arrived[x.id] = map[string]int{}
		}
		if x.ok {
			arrived[x.id][x.channel]++
			total++
		}
	}
	for id, w := range wants {
		for channel, wanted := range map[string]bool{"email": w.email, "webhook": w.webhook} {
			if n := arrived[id][channel]; wanted && n == 0 || !wanted && n > 0 {
				t.Errorf("seed %d: %s wanted %v by %s and got it %d times", seed, id, wanted, channel, n)
			}
		}
	}
	for id := range arrived {
		if _, known := wants[id]; !known {
			t.Errorf("seed %d: a notice of nothing: %s", seed, id)
		}
	}
	var unrecorded int
	for key, n := range m.unrecorded {
		unrecorded += n
		again += m.unrecordedOK[key]
	}
	recorded := db.rows("SELECT alert_id, channel, count(*), max(try), sum(CASE WHEN done THEN 1 ELSE 0 END), sum(CASE WHEN error = '' THEN 1 ELSE 0 END) FROM budget_alert_attempts GROUP BY alert_id, channel")
	tries := 0
	for _, row := range recorded {
		var n int
		fmt.Sscan(row[2], &n)
		tries += n
		if row[2] != row[3] || row[4] != "1" || row[5] != "1" {
			t.Errorf("seed %d: alert %s by %s: %s tries up to number %s, %s done, %s arrived", seed, row[0], row[1], row[2], row[3], row[4], row[5])
		}
	}
	if len(recorded) != channels || tries+unrecorded != len(s.all) || total != channels+again {
		t.Errorf("seed %d: %d channels, of which %d have tries; %d tries written down, %d not, %d made; %d arrived, %d once more", seed, channels, len(recorded), tries, unrecorded, len(s.all), total, again)
	}
	return total, again
}

// TestTwoCouriersDoNotSendTwice runs two at full speed, by the store's own clock.
func TestTwoCouriersDoNotSendTwice(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		ctx, stop := context.WithCancel(t.Context())
		var s sends
		var running sync.WaitGroup
		slow := func(to string) error {
			if strings.Contains(to, "slow") {
				time.Sleep(500 * time.Millisecond)
			}
			return nil
		}
		for range 2 {
			c := NewCourier(CourierOptions{Outbox: db, Webhook: s.by("webhook", slow), Email: s.by("email", nil), Every: 50 * time.Millisecond, AtOnce: 8, Log: slog.New(slog.DiscardHandler)})
			running.Go(func() {
				if err := c.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		const alerts = 120
		began := time.Now()
		for i := range alerts {
			host := "quick"
			if i%10 == 0 {
				host = "slow"
			}
			db.addAlert(t, "dono@loja.example", "https://"+host+".example/hook", 80)
		}
		written := time.Now()
		for s.count("email", true) < alerts || s.count("webhook", true) < alerts {
			if time.Since(written) > 10*time.Second {
				t.Fatalf("after 10 s: %d e-mails and %d webhooks of %d", s.count("email", true), s.count("webhook", true), alerts)
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("%d alerts written in %v, all told %v later", alerts, written.Sub(began), time.Since(written))
		time.Sleep(300 * time.Millisecond)
		stop()
		running.Wait()
		if e, w := s.count("email", true), s.count("webhook", true); e != alerts || w != alerts {
			t.Errorf("%d e-mails and %d webhooks of %d alerts", e, w, alerts)
		}
		if n := db.rows("SELECT count(*) FROM budget_alert_attempts")[0][0]; n != fmt.Sprint(2*alerts) {
			t.Errorf("%s attempts were written down", n)
		}
	})
}

// TestAStopIsNotAFailure stops a courier while a receiver takes its time: what is cut off is sent by the next one at once.
func TestAStopIsNotAFailure(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "", "https://loja.example/hook", 80)
		ctx, stop := context.WithCancel(t.Context())
		begun := make(chan struct{})
		c := NewCourier(CourierOptions{Outbox: db, Every: 10 * time.Millisecond, Webhook: func(ctx context.Context, _ string, _ *Notice) (int, error) {
			close(begun)
			<-ctx.Done()
			return 0, ctx.Err()
		}})
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		<-begun
		stop()
		began := time.Now()
		if err := <-done; err != nil || time.Since(began) > partingTime+2*time.Second {
			t.Fatal(err, time.Since(began))
		}
		if rows := db.rows(attemptsSQL); len(rows) > 0 {
			t.Errorf("attempts: %v", rows)
		}
		var s sends
		next := NewCourier(CourierOptions{Outbox: db, Webhook: s.by("webhook", nil)})
		if got, err := next.Deliver(t.Context()); err != nil || got.Sent != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestRecordAfterTheClaimPassedOn(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "", "https://loja.example/hook", 80)
		first, err := db.Due(t.Context(), alertsNow, time.Minute, 10)
		if err != nil || len(first) != 1 {
			t.Fatal(first, err)
		}
		if early, err := db.Due(t.Context(), alertsNow.Add(59*time.Second), time.Minute, 10); err != nil || len(early) != 0 {
			t.Fatal("claimed twice", early, err)
		}
		second, err := db.Due(t.Context(), alertsNow.Add(time.Minute), time.Minute, 10)
		if err != nil || len(second) != 1 {
			t.Fatal(second, err)
		}
		late := []Attempt{{Channel: "webhook", At: alertsNow, Status: 503, Error: "late"}}
		if err := db.Record(t.Context(), &first[0], late, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := db.Record(t.Context(), &second[0], []Attempt{{Channel: "webhook", At: alertsNow, Status: 500, Error: "failed"}}, alertsNow.Add(5*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := db.Record(t.Context(), &first[0], late, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if rows := fmt.Sprint(db.rows(attemptsSQL)); rows != "[[webhook 1 503 late 0] [webhook 2 500 failed 0] [webhook 3 503 late 0]]" {
			t.Error(rows)
		}
		third, err := db.Due(t.Context(), alertsNow.Add(5*time.Minute), time.Minute, 10)
		if err != nil || len(third) != 1 || len(third[0].Attempts) != 3 || third[0].Attempts[1].Error != "failed" {
			t.Errorf("%+v, %v", third, err)
		}
	})
}

func TestHourlyUsage(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		one, other := uuid.New(), uuid.New()
		hour := alertsNow.Add(-5 * time.Hour)
		_, lite := db.Outbox.(*SQLite)
		add := func(client uuid.UUID, hour time.Time, model string, tokens int64, usd string, whole, pico int64) {
			columns, values := "cost_usd, cost_brl", "$6, $6"
			args := []any{client.String(), db.at(hour), uuid.Nil.String(), model, tokens, usd}
			if lite {
				columns, values = "cost_usd, cost_usd_pico, cost_brl, cost_brl_pico", "$6, $7, $6, $7"
				args = append(args[:5], whole, pico)
			} else {
				values = "($6::text)::numeric, ($6::text)::numeric"
			}
			db.exec(`INSERT INTO usage_rollups (client_id, hour, model_registry_id, model_name, provider, route, endpoint, calls, errors, client_gone, streamed, estimated, unknown_cost,
	was_cached, was_fallback, input_tokens, output_tokens, total_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, audio_ms, images,
	characters, latency_ms, answered, ttft_ms, overhead_us, `+columns+`)
VALUES ($1, $2, $3, $4, 'p', 'gateway', 'chat', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, $5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, `+values+")", args...)
		}
		add(one, hour.Add(-time.Hour), "a", 1000, "9", 9, 0)
		add(one, hour, "a", 10, "1.500000000001", 1, 500_000_000_001)
		add(one, hour, "b", 20, "0.75", 0, 750_000_000_000)
		add(one, hour.Add(2*time.Hour), "a", 5, "0.25", 0, 250_000_000_000)
		add(other, hour, "a", 7, "9000000", 9_000_000, 0)
		for _, c := range []struct {
			client uuid.UUID
			unit   Unit
			want   []int64
		}{
			{one, Tokens, []int64{30, 5}},
			{one, USD, []int64{2_250_000_000_001, 250_000_000_000}},
			{one, BRL, []int64{2_250_000_000_001, 250_000_000_000}},
			{uuid.Nil, Tokens, []int64{37, 5}},
			{uuid.Nil, USD, []int64{MaxLimit, 250_000_000_000}},
			{uuid.New(), Tokens, nil},
		} {
			points, err := db.HourlyUsage(t.Context(), c.client, c.unit, hour)
			if err != nil || len(points) != len(c.want) {
				t.Fatalf("%s of %v: %v, %v", c.unit, c.client, points, err)
			}
			for i, p := range points {
				if p.Used != c.want[i] || !p.Hour.Equal(hour.Add(time.Duration(2*i)*time.Hour)) {
					t.Errorf("%s of %v: %v, want %v", c.unit, c.client, points, c.want)
				}
			}
		}
	})
}
