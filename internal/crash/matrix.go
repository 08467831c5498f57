//go:build linux

package main

import "time"

// matrix is every scenario, in the order it runs. Clients are few and slow on purpose: what is tried is the road, and
// the clients, the upstream, the databases and both planes share two cores.
func matrix(short bool) []*scenario {
	pair, slow := plan{proxies: 2, controls: 1}, plan{proxies: 2, controls: 1, slow: true}
	capped := plan{proxies: 8, controls: 2, tenants: 64}
	if short {
		capped = plan{proxies: 3, controls: 2, tenants: 8}
	}
	const clients, think = 24, 30 * time.Millisecond
	return []*scenario{
		{name: "base", title: "no fault", plan: pair, clients: 32, base: true},
		{name: "kill-proxy", title: "`kill -9` of a proxy, at random moments", plan: slow, clients: clients, think: think, allowed: "gone", faults: killing(theProxies, 20)},
		{name: "kill-worker", title: "`kill -9` of the control plane with its worker", plan: slow, clients: clients, think: think, split: true, faults: killing(theWorkers, 20)},
		{name: "redis-stops", title: "Redis stopped for 30 s", plan: slow, clients: clients, think: think, faults: redisStops},
		{name: "redis-dies", title: "Redis killed, with all that it held", plan: slow, clients: clients, think: think, faults: redisDies},
		{name: "redis-flushed", title: "Redis flushed", plan: slow, clients: clients, think: think, faults: redisFlushed},
		{name: "redis-failover", title: "Redis failed over to a replica that lost writes", plan: slow, clients: clients, think: think, faults: redisFailsOver},
		{name: "postgres", title: "Postgres restarted 5 times, then stopped for 60 s", plan: slow, clients: clients, think: think, faults: postgresRestarts},
		{name: "full-disk", title: "full disk under the spool", plan: plan{proxies: 1, controls: 1}, clients: clients, think: think, allowed: "full", prepare: mountDisk, faults: diskFills},
		{name: "two-workers", title: "two workers on the same shards", plan: plan{proxies: 2, controls: 2, slow: true}, clients: clients, think: think, split: true, faults: workersFight},
		{name: "all-down", title: "Redis, Postgres and control plane down, proxies restarted", plan: slow, clients: clients, think: think, allowed: "gone", split: true, faults: allDown},
		{
			name: "budgets", title: "hard caps: proxies, control planes, Redis and Postgres die while tenants spend", plan: capped, clients: 48, think: 10 * time.Millisecond, allowed: "budget", wordy: true,
			settle: capTenants, faults: budgetFaults, after: spendRest, more: judgeCaps, split: true,
		},
	}
}
