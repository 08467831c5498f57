package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/internal/link"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// What is shown on /metrics beside what the proxy counts itself.

func gauge(reg prometheus.Registerer, name, help string, value func() float64) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

func counter(reg prometheus.Registerer, name, help string, value func() int64) {
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
}

// watchSpool shows how full the road to the ledger is.
func watchSpool(reg prometheus.Registerer, spool *metering.Spool) {
	gauge(reg, "catraca_spool_depth", "Ended calls that the ledger does not have yet.", func() float64 { return float64(spool.Stats().Depth) })
	gauge(reg, "catraca_spool_open_calls", "Calls that have begun and not ended.", func() float64 { return float64(spool.Stats().Open) })
	gauge(reg, "catraca_spool_bytes", "Disk that the spool has.", func() float64 { return float64(spool.Stats().Bytes) })
	gauge(reg, "catraca_spool_used_bytes", "Of it, what can no longer be written to.", func() float64 { return float64(spool.Stats().Used) })
	gauge(reg, "catraca_spool_room_bytes", "Disk that the spool may have: its bound, or less where the volume has less.",
		func() float64 { return float64(spool.Stats().Room) })
	gauge(reg, "catraca_spool_step", "How full the spool is: 0 fine, 1 from 70 %, 2 from 85 %: the progress of long calls is not written down, 3 from 95 %: calls are refused.",
		func() float64 { return float64(spool.Stats().Step) })
	gauge(reg, "catraca_spool_oldest_seconds", "Age of the oldest ended call that the ledger does not have yet.",
		func() float64 { return spool.Stats().Oldest.Seconds() })
}

// watchWorker shows what reaches the ledger.
func watchWorker(reg prometheus.Registerer, worker *metering.Worker) {
	counter(reg, "catraca_ledger_recorded_total", "Events that the ledger took, repeats included.", func() int64 { return worker.Stats().Recorded })
	counter(reg, "catraca_ledger_dead_letters_total", "Events that could not be recorded and were parked.", func() int64 { return worker.Stats().DeadLetters })
	counter(reg, "catraca_ledger_failures_total", "Failures of the ledger or the queue; each is tried again.", func() int64 { return worker.Stats().Failures })
}

// watchCorrector shows what is done about estimates.
func watchCorrector(reg prometheus.Registerer, c *metering.Corrector) {
	counter(reg, "catraca_corrections_asked_total", "Questions to the gateway about calls that were cut short.", func() int64 { return c.Stats().Asked })
	counter(reg, "catraca_corrections_total", "Estimates that were corrected.", func() int64 { return c.Stats().Corrected })
	counter(reg, "catraca_corrections_given_up_total", "Estimates that stay, because the gateway does not know the call.", func() int64 { return c.Stats().GivenUp })
	counter(reg, "catraca_corrections_failures_total", "Questions that were not answered in a way to use; each is asked again.", func() int64 { return c.Stats().Failures })
}

// watchKeys shows what a data plane knows, and since when.
func watchKeys(reg prometheus.Registerer, keys *tenancy.Keyring, snapshot *link.Snapshot) {
	gauge(reg, "catraca_config_version", "Newest change of the configuration that is in use.", func() float64 { return float64(keys.Version()) })
	gauge(reg, "catraca_config_age_seconds", "Since the control plane last said that there is nothing newer; -1: not yet.", func() float64 {
		if since := keys.Stats().SincePoll; since >= 0 {
			return since.Seconds()
		}
		return -1
	})
	gauge(reg, "catraca_known_keys", "Keys of tenants that are in memory.", func() float64 { return float64(keys.Stats().Keys) })
	gauge(reg, "catraca_outdated_entries", "Keys and tenants that changed and could not be read again yet.", func() float64 { return float64(keys.Stats().Outdated) })
	if snapshot == nil {
		return
	}
	gauge(reg, "catraca_snapshot_bytes", "Size of the last good configuration on disk.", func() float64 { return float64(snapshot.Stats().Bytes) })
	gauge(reg, "catraca_snapshot_written_timestamp_seconds", "When it was last written by this process; 0: not yet.", func() float64 {
		if at := snapshot.Stats().WrittenAt; !at.IsZero() {
			return float64(at.Unix())
		}
		return 0
	})
	counter(reg, "catraca_snapshot_failures_total", "Writes of it that failed; each is tried again.", func() int64 { return snapshot.Stats().Failures })
}

// watchLink shows how a proxy's link to its control plane does.
func watchLink(reg prometheus.Registerer, client *link.Client) {
	gauge(reg, "catraca_control_up", "1 while the control plane answers.", func() float64 {
		if client.Stats().Up {
			return 1
		}
		return 0
	})
	reg.MustRegister(linkRequests{client})
}

// linkRequests counts calls to the control plane, by what was asked.
type linkRequests struct{ client *link.Client }

func linkRequestsDesc() *prometheus.Desc {
	return prometheus.NewDesc("catraca_link_requests_total", "Calls to the control plane.", []string{"call", "outcome"}, nil)
}

// Describe implements prometheus.Collector.
func (l linkRequests) Describe(to chan<- *prometheus.Desc) { to <- linkRequestsDesc() }

// Collect implements prometheus.Collector.
func (l linkRequests) Collect(to chan<- prometheus.Metric) {
	desc, stats := linkRequestsDesc(), l.client.Stats()
	for outcome, counts := range map[string]map[string]int64{"answered": stats.Answered, "failed": stats.Failed} {
		for call, n := range counts {
			to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), call, outcome)
		}
	}
}

// watchProxies shows a control plane's side of the links.
func watchProxies(reg prometheus.Registerer, local *link.Local, handler *link.Handler) {
	gauge(reg, "catraca_link_proxies", "Proxies that this control plane heard of within 30 seconds.", func() float64 { return float64(local.Stats().Proxies) })
	gauge(reg, "catraca_config_version", "Newest change of the configuration that proxies are told of.", func() float64 { return float64(local.Stats().Version) })
	counter(reg, "catraca_link_served_total", "Calls of proxies.", func() int64 { return handler.Stats().Requests })
	counter(reg, "catraca_link_refused_total", "Calls with a token or certificate that is not accepted.", func() int64 { return handler.Stats().Refused })
	counter(reg, "catraca_link_failures_total", "Calls of proxies that could not be answered.", func() int64 { return handler.Stats().Failed })
}

// linkState says what is amiss with the link, for /readyz; empty when nothing is.
func linkState(client *link.Client) string {
	s := client.Stats()
	switch {
	case s.Since.IsZero():
		return "the control plane was not asked yet"
	case !s.Up:
		return fmt.Sprintf("the control plane does not answer since %s: %s", s.Since.UTC().Format(time.RFC3339), s.Problem)
	}
	return ""
}
