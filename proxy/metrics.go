package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/upstream"
)

// metrics are counted on the hot path, so every label set is looked up once, when the proxy is built: endpoints,
// targets and outcomes are all known then, which also bounds how many series there can be. Nothing a client sends
// becomes a label.
type metrics struct {
	byTarget map[*upstream.Target]*targetMetrics
	refusals *prometheus.CounterVec
	panics   prometheus.Counter
	overhead prometheus.Histogram
	open     prometheus.Gauge
	readOn   [readResults]prometheus.Counter
	budgets  budgetMetrics
}

type targetMetrics struct {
	requests  [][outcomes]prometheus.Counter // by endpoint
	firstByte prometheus.Observer
	tokens    [4]prometheus.Counter // input, cached, output, reasoning
	estimated prometheus.Counter
	unpriced  prometheus.Counter
}

const outcomes = int(metering.InternalError) + 1

func outcomeName(o metering.Outcome) string {
	return [...]string{"ok", "refused", "client_gone", "truncated", "unreachable", "crashed", "internal_error"}[o]
}

func newMetrics(reg prometheus.Registerer, targets []*upstream.Target, w *watch) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_requests_total", Help: "Calls that were sent upstream, by how they ended.",
	}, []string{"endpoint", "route", "provider", "outcome"})
	firstByte := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "catraca_upstream_first_byte_seconds", Help: "Time from sending a call upstream to the head of its answer.",
		Buckets: []float64{.05, .1, .2, .4, .8, 1.5, 3, 6, 12, 25, 50, 100},
	}, []string{"route", "provider"})
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_tokens_total", Help: "Tokens metered; cached are part of input, reasoning part of output.",
	}, []string{"route", "provider", "kind"})
	estimated := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_estimated_calls_total", Help: "Calls whose usage the upstream did not tell.",
	}, []string{"route", "provider"})
	unpriced := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_unpriced_calls_total", Help: "Calls whose cost is unknown because no price was found.",
	}, []string{"route", "provider"})
	m := &metrics{
		byTarget: make(map[*upstream.Target]*targetMetrics),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "catraca_refused_total", Help: "Calls answered with an error of ours.",
		}, []string{"endpoint", "code"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "catraca_panics_total", Help: "Faults of ours that ended one call."}),
		overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "catraca_overhead_seconds", Help: "Our own time on a call before it is sent upstream.",
			Buckets: []float64{.00001, .00002, .00005, .0001, .0002, .0005, .001, .005, .02, .1},
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "catraca_open_calls", Help: "Calls that are under way upstream."}),
	}
	reg.MustRegister(requests, firstByte, tokens, estimated, unpriced, m.refusals, m.panics, m.overhead, m.open)
	m.registerReadOn(reg, w)
	m.budgets.register(reg)
	for _, t := range targets {
		tm := &targetMetrics{
			firstByte: firstByte.WithLabelValues(t.Route, t.Provider),
			estimated: estimated.WithLabelValues(t.Route, t.Provider),
			unpriced:  unpriced.WithLabelValues(t.Route, t.Provider),
			requests:  make([][outcomes]prometheus.Counter, len(endpoints)),
		}
		for i := range tm.requests {
			for o := range outcomes {
				tm.requests[i][o] = requests.WithLabelValues(endpoints[i].name, t.Route, t.Provider, outcomeName(metering.Outcome(o)))
			}
		}
		for i, kind := range []string{"input", "cached", "output", "reasoning"} {
			tm.tokens[i] = tokens.WithLabelValues(t.Route, t.Provider, kind)
		}
		m.byTarget[t] = tm
	}
	return m
}

func (m *metrics) registerReadOn(reg prometheus.Registerer, w *watch) {
	ended := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_read_on_total",
		Help: "Answers read on after the client had gone, by how that ended: whole, broken by the upstream, or cut at a bound of time or bytes or by a stop.",
	}, []string{"end"})
	for i, name := range readResultNames {
		m.readOn[i] = ended.WithLabelValues(name)
	}
	reg.MustRegister(ended,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "catraca_reading_on", Help: "Answers that are being read on although the client has gone.",
		}, func() float64 { return float64(w.reading.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "catraca_read_on_refused_total", Help: "Answers that were cancelled and not read on, because as many as may be were read on already.",
		}, func() float64 { return float64(w.crowded.Load()) }))
}

func (m *metrics) firstByte(t *upstream.Target, d time.Duration) {
	m.byTarget[t].firstByte.Observe(d.Seconds())
}

func (m *metrics) refused(endpoint, code string) { m.refusals.WithLabelValues(endpoint, code).Inc() }

func (m *metrics) settled(c *call) {
	e, tm := &c.event, m.byTarget[c.target]
	tm.requests[c.ep.index][e.Outcome].Inc()
	m.open.Dec()
	m.overhead.Observe(float64(e.OverheadUs) / 1e6)
	for i, n := range [4]int64{e.Input, e.Cached, e.Output, e.Reasoning} {
		if n > 0 {
			tm.tokens[i].Add(float64(n))
		}
	}
	if e.Source == metering.Estimated {
		tm.estimated.Inc()
	}
	if !e.Known {
		tm.unpriced.Inc()
	}
}
