package budget

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestAlertsFromSettlementToReceiver goes the whole way: calls are settled by several workers at once, and whoever crossed
// a threshold, each receiver is told of it once, within seconds, and the attempt is there to be seen.
func TestAlertsFromSettlementToReceiver(t *testing.T) {
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx, stop := context.WithCancel(t.Context())
		const tenants, calls = 8, 30
		clients := booksClients(t, s, tenants)
		for _, client := range append(clients, uuid.Nil) {
			b := booksBudget(client, Tokens, Monthly, calls*10)
			b.Alert80, b.Alert90, b.Alert100, b.Email = true, true, true, "dono@loja.example"
			if client == uuid.Nil {
				b.Limit, b.Email, b.Webhook = tenants*calls*10, "", "https://saas.example/hook"
			}
			booksMust[Budget](t)(s.CreateBudget(ctx, b))
		}
		var got sends
		var running sync.WaitGroup
		for range 2 {
			c := NewCourier(CourierOptions{Outbox: s.(Outbox), Every: 200 * time.Millisecond, Email: got.by("email", nil), Webhook: got.by("webhook", nil)})
			running.Go(func() { c.Run(ctx) })
		}
		at := time.Now().UTC()
		var workers sync.WaitGroup
		for w := range 3 {
			workers.Go(func() {
				for i := w; i < calls; i += 3 {
					for n, client := range clients {
						charge := Charge{EventID: EventID{uint64(1000*n + w + 1), uint64(i/3 + 1)}, Client: client, AdmittedAt: at, Cost: Cost{Tokens: 10}}
						for s.record(ctx, []Charge{charge}) != nil && ctx.Err() == nil {
							time.Sleep(time.Millisecond) // tried again, as the worker does
						}
					}
				}
			})
		}
		workers.Wait()
		settled := time.Now()
		for got.count("email", true) < 3*tenants || got.count("webhook", true) < 3 {
			if time.Since(settled) > 10*time.Second {
				t.Fatalf("after 10 s: %d e-mails, %d webhooks", got.count("email", true), got.count("webhook", true))
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("all told %v after the last settlement", time.Since(settled))
		report, err := CheckAlerts(ctx, s, nil)
		if err != nil || report.Added != 0 || report.Windows < tenants+1 {
			t.Errorf("%+v, %v", report, err)
		}
		time.Sleep(500 * time.Millisecond)
		stop()
		running.Wait()
		if e, w := got.count("email", true), got.count("webhook", true); e != 3*tenants || w != 3 {
			t.Errorf("%d e-mails and %d webhooks", e, w)
		}
		seenOf := map[string]int{}
		for _, x := range got.all {
			seenOf[x.id]++
		}
		if len(seenOf) != 3*tenants+3 {
			t.Errorf("%d ids", len(seenOf))
		}
		all := booksMust[[]AlertStatus](t)(s.Alerts(t.Context(), nil, 100))
		for _, a := range all {
			if len(a.Attempts) != 1 || !a.Attempts[0].Done || a.Attempts[0].Error != "" || a.Attempts[0].Try != 1 || a.Attempts[0].At.Before(a.At.Add(-time.Second)) {
				t.Errorf("%+v", a)
			}
			if a.Used < share(a.Limit, a.Threshold) {
				t.Errorf("alerted too early: %+v", a)
			}
		}
		if len(all) != 3*tenants+3 {
			t.Errorf("%d alerts", len(all))
		}
		if n := s.number(t, "SELECT count(*) FROM budget_alerts WHERE deliver_at IS NOT NULL"); n != 0 {
			t.Errorf("%d alerts are left", n)
		}
	})
}
