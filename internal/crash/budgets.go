//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/shopspring/decimal"
)

// Budgets under fault: many tenants, each driven into a hard cap by clients at every proxy at once, while processes and
// servers die. What the upstream issued for a tenant must fit its cap to the last token and the last decimal; and when
// all is at rest, what is left of a cap must be less than one small call needs, for nothing may be stranded.

// cap is a tenant's hard limit.
type limits struct {
	tokens int64           // 0: none
	usd    decimal.Decimal // zero: none
}

// budgetErrors are what a client may be told at its cap, or while nobody can lend.
var budgetErrors = map[string]bool{"ours: 402 budget_exceeded": true, "ours: 503 ledger_unavailable": true}

// everybody stands for all tenants together.
const everybody = "00000000-0000-0000-0000-000000000000"

// capTenants gives every tenant its caps: half of them tokens, a quarter dollars, a quarter both; and one budget over all
// of them, which is never the one that is reached.
func capTenants(ctx context.Context, r *running) error {
	tokens := int64(80_000) // a small call is held for with some 370, and that must be less than half a percent
	if r.o.short {
		tokens = 15_000
	}
	usd := decimal.NewFromInt(tokens).Mul(decimal.RequireFromString("0.00000035"))
	zone := noonZone(time.Now())
	r.caps = map[string]limits{}
	create := func(client, unit, period, limit string) error {
		in := map[string]any{"client_id": client, "budget_type": unit, "budget_period": period, "budget_limit": limit, "pause_at_limit": true, "time_zone": zone}
		return r.admin(ctx, http.MethodPost, "/api/budget/config", in, nil)
	}
	for i, t := range r.tenants {
		var l limits
		if i%4 != 2 {
			l.tokens = tokens
			if err := create(t.id, "tokens", "daily", fmt.Sprint(tokens)); err != nil {
				return err
			}
		}
		if i%4 >= 2 {
			l.usd = usd
			if err := create(t.id, "usd", "monthly", usd.String()); err != nil {
				return err
			}
		}
		r.caps[t.id] = l
	}
	if err := create(everybody, "tokens", "monthly", fmt.Sprint(10*tokens*int64(len(r.tenants)))); err != nil {
		return err
	}
	sleep(ctx, 4*time.Second) // a change is in use within two seconds
	return nil
}

// noonZone is a zone in which no day, week or month ends while the scenario runs.
func noonZone(now time.Time) string {
	offset := 12 - now.UTC().Hour() // hours to add for noon
	switch {
	case offset > 0:
		return fmt.Sprintf("Etc/GMT-%d", offset) // the sign is the other way round in these names
	case offset < 0:
		return fmt.Sprintf("Etc/GMT+%d", -offset)
	}
	return "Etc/GMT"
}

// budgetFaults does all kinds of harm, one after the other, while tenants spend.
func budgetFaults(ctx context.Context, r *running) error {
	harm := []func(context.Context, *running) error{
		killOne(theProxies), killOne(theProxies), killOne(theWorkers), killOne(theWorkers),
		func(ctx context.Context, r *running) error { // Redis is stopped
			if err := r.redis.Pause(); err != nil {
				return err
			}
			sleep(ctx, r.between(500*time.Millisecond, 3*time.Second))
			return r.redis.Resume()
		},
		func(ctx context.Context, r *running) error { // Redis is killed, with all that it holds
			r.redis.Kill()
			sleep(ctx, r.between(0, time.Second))
			return r.redis.Restart()
		},
		func(ctx context.Context, r *running) error { return flush(ctx, r.redis) },
		func(_ context.Context, r *running) error { return r.pg.Restart() },
		func(_ context.Context, r *running) error { r.pg.Kill(); return r.pg.Restart() },
		pauseOne(theProxies),
	}
	for i := range max(len(harm), r.times(60)) {
		sleep(ctx, r.between(200*time.Millisecond, 1500*time.Millisecond))
		which := i % len(harm)
		if i >= len(harm) {
			which = r.dice.IntN(len(harm))
		}
		if err := harm[which](ctx, r); err != nil {
			return err
		}
		r.hits++
	}
	for _, list := range [][]*process{r.controls, r.proxies} {
		for _, p := range list {
			if err := p.await(ctx, time.Minute); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func killOne(which func(*running) []*process) func(context.Context, *running) error {
	return func(ctx context.Context, r *running) error {
		list := which(r)
		victim := list[r.dice.IntN(len(list))]
		if err := victim.await(ctx, time.Minute); err != nil {
			return err
		}
		if err := victim.kill(); err != nil {
			return err
		}
		sleep(ctx, r.between(0, 300*time.Millisecond))
		return victim.start()
	}
}

func pauseOne(which func(*running) []*process) func(context.Context, *running) error {
	return func(ctx context.Context, r *running) error {
		list := which(r)
		victim := list[r.dice.IntN(len(list))]
		if err := victim.pause(); err != nil {
			return err
		}
		sleep(ctx, r.between(time.Second, 3*time.Second))
		return victim.resume()
	}
}

// spendRest waits until all that was under way when the faults ended is settled, and then spends what is left.
func spendRest(ctx context.Context, r *running) error {
	if _, err := r.drain(ctx, r.drainLimit(ctx), true); err != nil {
		return err
	}
	return spendUp(ctx, r)
}

// spendUp goes on with small calls until every tenant is refused at every proxy, again and again: what a proxy gives
// back another one must be able to spend.
func spendUp(ctx context.Context, r *running) error {
	deadline := time.Now().Add(r.patienceFor(4 * time.Minute))
	open := append([]*tenant(nil), r.tenants...)
	quiet := map[*tenant]time.Time{}
	for round := 0; len(open) > 0; round++ {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d tenants are not at their limit yet", len(open))
		}
		calls, err := r.smallCalls(ctx, open, round)
		if err != nil {
			return err
		}
		next := open[:0:0]
		for _, t := range open {
			if calls[t] > 0 {
				delete(quiet, t)
			} else if quiet[t].IsZero() {
				quiet[t] = time.Now()
			}
			// What lies idle at other proxies comes back within some seconds of the recall.
			if quiet[t].IsZero() || time.Since(quiet[t]) < 12*time.Second {
				next = append(next, t)
			}
		}
		open = next
		sleep(ctx, 300*time.Millisecond)
	}
	return nil
}

// patienceFor shortens a wait in the short form.
func (r *running) patienceFor(d time.Duration) time.Duration {
	if r.o.short {
		return d / 2
	}
	return d
}

// smallCalls makes a few of the smallest calls of each tenant at every proxy, and tells how many were answered.
func (r *running) smallCalls(ctx context.Context, tenants []*tenant, round int) (answered map[*tenant]int, err error) {
	answered = map[*tenant]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	var made []*call
	places := make(chan struct{}, 16)
	for i, t := range tenants {
		wire := r.wires[(i+round)%len(r.wires)]
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			for n := 0; n < 200 && ctx.Err() == nil; n++ {
				c := &call{
					mark: fmt.Sprintf("%s-rest-%d-%d-%d", r.name, i, round, n), tenant: t, model: chatModel, endpoint: "/chat/completions",
				}
				c.body = fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"user","content":"oi"}],"max_tokens":1,"user":%q}`, chatModel, c.mark)
				c.do(ctx, r.load.http, wire)
				mu.Lock()
				made = append(made, c)
				if c.result == whole {
					answered[t]++
				}
				mu.Unlock()
				if c.result != whole {
					return
				}
			}
		})
	}
	all.Wait()
	r.rest = append(r.rest, made...)
	return answered, ctx.Err()
}

// atRest waits until what proxies gave back has arrived: a lease is held for as long as a proxy may still spend of it.
func (r *running) atRest(ctx context.Context) error {
	deadline := time.Now().Add(r.patienceFor(2 * time.Minute))
	for {
		all, err := r.windows(ctx)
		var held []string
		for _, w := range all {
			// A proxy may go on holding a little of a window that has plenty: it gives that back when little is left.
			if w.held > 0 && w.client != "" && w.exact {
				held = append(held, fmt.Sprintf("%s %s: %d held of %d", w.client, w.unit, w.held, w.limit))
			}
		}
		if err == nil && len(held) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(err, fmt.Errorf("stranded: %s", strings.Join(held[:min(len(held), 5)], "; ")))
		}
		sleep(ctx, 500*time.Millisecond)
	}
}

// judgeCaps compares what the upstream issued for each tenant with its cap, and what is left with nothing.
func judgeCaps(ctx context.Context, r *running, v *verdict, ev *evidence) error {
	if err := r.atRest(ctx); err != nil {
		v.wrong++
		v.complain("%v", err)
	}
	issued := map[string]bill{}
	for _, c := range ev.calls {
		for _, e := range ev.entries[c.mark] {
			issued[c.tenant.id] = issued[c.tenant.id].plus(1, bill{e.tokens(), e.cost()})
		}
	}
	for id, l := range r.caps {
		got := issued[id]
		if l.tokens > 0 && got.Total > l.tokens {
			v.wrong++
			v.complain("OVERSPENT: %s was issued %d tokens of %d", id, got.Total, l.tokens)
		}
		if !l.usd.IsZero() && got.usd.GreaterThan(l.usd) {
			v.wrong++
			v.complain("OVERSPENT: %s was issued US$ %s of %s", id, got.usd, l.usd)
		}
	}
	all, err := r.windows(ctx)
	if err != nil {
		return err
	}
	r.judgeRest(v, all)
	return nil
}

// judgeRest looks at what each tenant could spend. Of a tenant with two caps it is the tighter one that counts.
func (r *running) judgeRest(v *verdict, all []window) {
	best := map[string]float64{}
	var doubts, overruns int64
	for _, w := range all {
		if w.client == "" {
			continue
		}
		share := float64(w.usedUp) / float64(w.limit)
		best[w.client] = max(best[w.client], share)
		if w.unit == "tokens" {
			doubts += w.suspense
			overruns += w.overrun
		}
	}
	least, enough := 1.0, 0.995
	if r.o.short {
		enough = 0.965 // a small call is that much of a small cap
	}
	for id, share := range best {
		least = min(least, share)
		if share < enough {
			v.wrong++
			v.complain("STRANDED: %s could spend %.2f %% of its cap", id, 100*share)
		}
	}
	if len(best) != len(r.caps) {
		v.wrong++
		v.complain("%d tenants have a cap and %d windows were found", len(r.caps), len(best))
	}
	r.note("%d tenants; the one that could spend least spent %.2f %% of its cap; %d tokens in doubt, %d over what was held", len(best), 100*least, doubts, overruns)
}
