package main

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/metering"
)

// auditGauges shows the newest audit. Nothing is shown before the first one: a zero would say that all is well.
type auditGauges struct {
	last atomic.Pointer[metering.AuditReport]
	now  func() time.Time

	unaccounted, silent, onTheWay, holds, age *prometheus.Desc
}

// watchAudit registers the gauges of the audit and gives what sets them, for metering.RunAudit.
func watchAudit(reg prometheus.Registerer) (set func(metering.AuditReport)) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	g := &auditGauges{
		now:         time.Now,
		unaccounted: desc("catraca_audit_unaccounted", "Calls that began and that neither the ledger nor any proxy has."),
		silent:      desc("catraca_audit_silent", "Calls that only a proxy has that is not heard of."),
		onTheWay:    desc("catraca_audit_on_the_way", "Calls that a proxy has and the ledger not yet."),
		holds:       desc("catraca_audit_holds", "1 where an equality of the audit holds, 0 where not.", "check"),
		age:         desc("catraca_audit_age_seconds", "Time since the newest audit's snapshot."),
	}
	reg.MustRegister(g)
	return func(r metering.AuditReport) { g.last.Store(&r) }
}

// Describe implements prometheus.Collector.
func (g *auditGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.unaccounted, g.silent, g.onTheWay, g.holds, g.age} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *auditGauges) Collect(ch chan<- prometheus.Metric) {
	r := g.last.Load()
	if r == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(g.unaccounted, float64(r.Unaccounted))
	gauge(g.silent, float64(r.Silent))
	gauge(g.onTheWay, float64(r.OnTheWay))
	gauge(g.age, max(0, g.now().Sub(r.At).Seconds()))
	for _, c := range r.Checks {
		switch {
		case c.Skipped:
		case c.Holds:
			gauge(g.holds, 1, c.ID)
		default:
			gauge(g.holds, 0, c.ID)
		}
	}
}
