package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/budget"
)

// purseGauges shows what a proxy holds of budgets, by one look at the purse for each scrape.
type purseGauges struct {
	stats func() budget.PurseStats

	accounts, windows, admissions, denied, messages, failures, waiting, learning, stopped, age *prometheus.Desc
}

func watchPurse(reg prometheus.Registerer, purse *budget.Purse) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("catraca_lease_"+name, help, labels, nil)
	}
	reg.MustRegister(&purseGauges{
		stats:      purse.Stats,
		accounts:   desc("accounts", "Clients whose budgets are in memory."),
		windows:    desc("windows", "Windows of budgets that this proxy knows."),
		admissions: desc("admissions_total", "Calls that were held for: from memory, or after the ledger was asked.", "by"),
		denied:     desc("denied_total", "Calls that did not fit a budget."),
		messages:   desc("messages_total", "Messages to the ledger of budgets."),
		failures:   desc("message_failures_total", "Messages that were not answered; each is sent again."),
		waiting:    desc("waiting_calls", "Calls that wait for the ledger."),
		learning:   desc("learning", "1 while the ledger grants nothing, because its database lost its end and it is hearing what proxies hold."),
		stopped:    desc("stopped", "1 when the ledger has closed this proxy's run: hard-capped calls are refused until it is restarted."),
		age:        desc("answer_age_seconds", "Since the ledger last answered; -1: not yet."),
	})
}

// Describe implements prometheus.Collector.
func (g *purseGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		g.accounts, g.windows, g.admissions, g.denied, g.messages, g.failures, g.waiting, g.learning, g.stopped, g.age,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *purseGauges) Collect(ch chan<- prometheus.Metric) {
	s := g.stats()
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	tell(g.accounts, prometheus.GaugeValue, float64(s.Accounts))
	tell(g.windows, prometheus.GaugeValue, float64(s.Slots))
	tell(g.admissions, prometheus.CounterValue, float64(s.Local), "memory")
	tell(g.admissions, prometheus.CounterValue, float64(s.Remote), "ledger")
	tell(g.denied, prometheus.CounterValue, float64(s.Denied))
	tell(g.messages, prometheus.CounterValue, float64(s.Messages))
	tell(g.failures, prometheus.CounterValue, float64(s.Failures))
	tell(g.waiting, prometheus.GaugeValue, float64(s.Waiting))
	tell(g.learning, prometheus.GaugeValue, btof(s.Learning))
	tell(g.stopped, prometheus.GaugeValue, btof(s.Finished))
	age := -1.0
	if !s.LastAnswered.IsZero() {
		age = time.Since(s.LastAnswered).Seconds()
	}
	tell(g.age, prometheus.GaugeValue, age)
}

func btof(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
