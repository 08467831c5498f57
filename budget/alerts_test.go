package budget

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// alertsStore is a store of which the sweep needs three methods.
type alertsStore struct {
	Store
	memory  *Memory
	budgets []Budget
	shown   int
}

func (s *alertsStore) Update(ctx context.Context, f func(Tx) error) error {
	return s.memory.Update(ctx, f)
}

func (s *alertsStore) Budgets(context.Context, *uuid.UUID) ([]Budget, error) { return s.budgets, nil }

func (s *alertsStore) Project(context.Context, time.Time) (int, error) {
	s.shown++
	return len(s.budgets), nil
}

func TestCheckAlertsFindsWhatIsMissing(t *testing.T) {
	now := alertsNow
	m := NewMemory(func() time.Time { return now })
	s := &alertsStore{memory: m}
	client := uuid.New()
	for _, b := range []Budget{
		{ID: uuid.New(), ClientID: client, Unit: Tokens, Period: Monthly, Limit: 1000, Alert80: true, Alert90: true, Alert100: true, TimeZone: DefaultZone, BillingDay: 1},
		{ID: uuid.New(), ClientID: client, Unit: Tokens, Period: Daily, Limit: 1000, Thresholds: []int{50}, TimeZone: DefaultZone},
		{ID: uuid.New(), Unit: Tokens, Period: Weekly, Limit: 1_000_000, Alert80: true, TimeZone: DefaultZone},
	} {
		if err := m.SetBudget(b); err != nil {
			t.Fatal(err)
		}
		s.budgets = append(s.budgets, b)
	}
	settled, err := m.Settle(t.Context(), []Charge{{EventID: EventID{1, 1}, Client: client, AdmittedAt: now, Cost: Cost{Tokens: 850}}})
	if err != nil || settled != 1 {
		t.Fatal(settled, err)
	}
	if n := len(m.Alerts()); n != 2 {
		t.Fatalf("settlement wrote %d alerts", n)
	}
	check := func(added int) {
		t.Helper()
		report, err := CheckAlerts(t.Context(), s, nil)
		if err != nil || report.Windows != 3 || report.Added != added {
			t.Errorf("%+v, %v; want %d added", report, err, added)
		}
	}
	check(0)
	// Usage that came past the rules, as after a repair by hand.
	windows := m.Windows()
	err = m.Update(t.Context(), func(tx Tx) error {
		for _, w := range windows {
			if w.Period == Monthly {
				ws, err := tx.Windows(t.Context(), []int64{w.ID})
				if err != nil {
					return err
				}
				ws[0].Unheld += 100
				return tx.SaveWindows(t.Context(), ws)
			}
		}
		return errors.New("no window")
	})
	if err != nil {
		t.Fatal(err)
	}
	check(1)
	check(0)
	alerts := m.Alerts()
	found := slices.IndexFunc(alerts, func(a Alert) bool { return a.Threshold == 90 })
	if len(alerts) != 3 || found < 0 {
		t.Fatalf("%+v", alerts)
	}
	if last := alerts[found]; last.Threshold != 90 || last.Used != 950 || last.Limit != 1000 || last.ClientID != client {
		t.Errorf("%+v", alerts)
	}
	a := NewAuthority(m, AuthorityOptions{})
	for range 2 {
		now = now.AddDate(0, 0, 1)
		if report, err := ResetPeriods(t.Context(), a, s); err != nil || report.Shown != 3 {
			t.Errorf("%+v, %v", report, err)
		}
	}
	days := 0
	for _, w := range m.Windows() {
		if w.Period == Daily && !w.StartsAt.After(now) && w.EndsAt.After(now) {
			days++
		}
	}
	if days != 1 || s.shown != 2 {
		t.Errorf("%d windows of today, shown %d times", days, s.shown)
	}
	check(0)
}

func TestCheckAlertsDelivers(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		db.addAlert(t, "dono@loja.example", "", 80)
		var s sends
		store := &alertsStore{memory: NewMemory(func() time.Time { return alertsNow })}
		c := NewCourier(CourierOptions{Outbox: db, Email: s.by("email", nil)})
		if report, err := CheckAlerts(t.Context(), store, c); err != nil || report.Sent != 1 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// TestAlertsAreKeptOutOfLogs looks for addresses in what a courier says and writes down.
func TestAlertsAreKeptOutOfLogs(t *testing.T) {
	onAlertsDBs(t, func(t *testing.T, db *alertsDB) {
		const canary = "cAnArY"
		db.addAlert(t, canary+"@loja.example", "https://loja.example/"+canary+"?k="+canary, 80)
		db.addAlert(t, canary+"@loja.example", "https://loja.example/"+canary, 90)
		var logged bytes.Buffer
		var s sends
		now := alertsNow
		c := NewCourier(CourierOptions{
			Outbox: db, Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
			DefaultWebhook: "https://saas.example/" + canary, DefaultEmails: []string{canary + "@saas.example"},
			Email: s.by("email", nil), Webhook: s.by("webhook", func(string) error { return errors.New("it answered with status 500") }),
		})
		for range 30 {
			if _, err := c.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Hour)
		}
		if text := logged.String(); strings.Contains(text, canary) || strings.Count(text, "alert delivered") != 4 || strings.Count(text, "given up") != 4 {
			t.Error(text)
		}
		for _, row := range db.rows(attemptsSQL) {
			if strings.Contains(strings.Join(row, " "), canary) {
				t.Error(row)
			}
		}
	})
}

func TestBackOffGrowsAndDiffers(t *testing.T) {
	differ := map[time.Duration]bool{}
	for alert := range int64(50) {
		base := firstRetry
		for tries := 1; tries < 40; tries++ {
			got := backOff(alert, "webhook", tries)
			if got < base*3/4 || got > base*5/4 {
				t.Fatalf("after %d tries %v, want about %v", tries, got, base)
			}
			base = min(base*3, lastRetry)
		}
		differ[backOff(alert, "webhook", 9)] = true
	}
	if len(differ) < 25 {
		t.Errorf("50 alerts come back at %d times", len(differ))
	}
}

func TestAlertIDsAreTheEvents(t *testing.T) {
	a := Alert{Window: 7, BudgetID: uuid.MustParse("b0000000-0000-4000-8000-000000000001"), Threshold: 80, LimitVersion: 1, Limit: 5, Used: 4, At: alertsNow}
	same := a
	same.Limit, same.Used, same.At = 6, 5, alertsNow.Add(time.Hour)
	if alertID(&a) != alertID(&same) {
		t.Error("the same event has two ids")
	}
	ids := map[uuid.UUID]bool{alertID(&a): true}
	for _, change := range []func(*Alert){func(a *Alert) { a.Window++ }, func(a *Alert) { a.Threshold++ }, func(a *Alert) { a.LimitVersion++ }, func(a *Alert) { a.BudgetID[0]++ }} {
		other := a
		change(&other)
		ids[alertID(&other)] = true
	}
	if len(ids) != 5 {
		t.Errorf("5 events have %d ids", len(ids))
	}
}
