package proxy

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/proxy/openai"
)

// Names of the headers that tell how a client's budget stands, and what was done at its limit.
var (
	headerLimit        = []byte("X-Catraca-Limit")
	headerShouldRetry  = []byte("X-Should-Retry")
	headerBudgetLimit  = []byte("X-Catraca-Budget-Limit")
	headerBudgetUsed   = []byte("X-Catraca-Budget-Used")
	headerBudgetHeld   = []byte("X-Catraca-Budget-Held")
	headerBudgetUnit   = []byte("X-Catraca-Budget-Unit")
	headerBudgetPeriod = []byte("X-Catraca-Budget-Period")
	headerBudgetReset  = []byte("X-Catraca-Budget-Reset")
)

// The error types that only limits have.
const (
	insufficientQuota = "insufficient_quota"
	rateLimited       = "rate_limit_error"
)

// overBudget is the answer to a call that does not fit. Official SDKs send it once: trying again cannot help.
func overBudget(d *budget.Denied) *refusal {
	r := &refusal{status: fasthttp.StatusPaymentRequired, final: true, standing: &d.Standing}
	r.body = openai.Error{Type: insufficientQuota, Code: "budget_exceeded"}
	switch {
	case d.Paused && d.Shared:
		r = forbidden("tenant_paused", "", "the budget that all clients of this service share is paused")
		r.final = true
	case d.Paused:
		r = forbidden("tenant_paused", "", "this client's budget is paused"+reason(d.Reason))
		if r.final = true; d.Unit != "" {
			r.standing = &d.Standing
		}
	case d.Shared:
		r.body.Message = "the budget that all clients of this service share is reached" + resetText(&d.Standing)
	default:
		b := append([]byte("the "), d.Period...)
		b = appendAmount(append(b, " budget of "...), d.Unit, d.Limit)
		b = appendAmount(append(b, " has not enough left: "...), d.Unit, d.Used)
		b = appendAmount(append(b, " used, "...), d.Unit, d.Held)
		b = appendAmount(append(b, " held for calls under way, and this call may take up to "...), d.Unit, d.Need)
		r.body.Message = string(b) + resetText(&d.Standing) + "; ask for less output, or have the limit raised"
	}
	return r
}

// cutByBudget is what the client of a stream is told when it went beyond what was held for it and there was no more.
func cutByBudget() *refusal {
	return &refusal{status: fasthttp.StatusPaymentRequired, final: true, body: openai.Error{
		Type: insufficientQuota, Code: "budget_exceeded", Message: "the answer was cut off: it went beyond what the budget had left for it",
	}}
}

// costUnbounded refuses a call whose worst case has no bound: a hard cap would mean nothing.
func costUnbounded(why string) *refusal {
	r := forbidden("cost_unbounded", "", "this client has a hard budget, and what this call can cost has no bound: "+why)
	r.final = true
	return r
}

// loopDetected refuses a call of a conversation or contact that made or spent as much within the hour as it may.
func loopDetected(of string, wait time.Duration) *refusal {
	return &refusal{
		status: fasthttp.StatusTooManyRequests, final: true, retry: int((wait + time.Second - 1) / time.Second),
		body: openai.Error{
			Type: rateLimited, Code: "loop_detected",
			Message: "this " + of + " has made as many calls, or spent as much, as one may within an hour: it looks like a loop",
		},
	}
}

func resetText(s *budget.Standing) string {
	if s.ResetsAt.IsZero() {
		return ""
	}
	at := inZone(s)
	return ". It resets at " + at.Format(time.RFC3339) + " (" + at.Location().String() + ")"
}

func inZone(s *budget.Standing) time.Time {
	if s.Zone == nil {
		return s.ResetsAt.UTC()
	}
	return s.ResetsAt.In(s.Zone)
}

// appendAmount writes an amount for people: "BRL 12.50", "3000 tokens". Money is rounded up to the sixth place.
func appendAmount(b []byte, u budget.Unit, n int64) []byte {
	if u == budget.Tokens {
		return append(strconv.AppendInt(b, n, 10), " tokens"...)
	}
	const sixth = int64(money.Unit / 1_000_000)
	if rest := n % sixth; rest > 0 && n <= 1<<62 {
		n += sixth - rest
	}
	if u == budget.BRL {
		b = append(b, "BRL "...)
	} else {
		b = append(b, "USD "...)
	}
	from := len(b)
	b = money.Pico(n).AppendTo(b)
	point := 0
	for i := from; i < len(b); i++ {
		if b[i] == '.' {
			point = i
		}
	}
	switch {
	case point == 0:
		b = append(b, ".00"...)
	case len(b)-point == 2:
		b = append(b, '0')
	}
	return b
}

// appendFigure writes an amount for programs: whole tokens, or a decimal number of the currency.
func appendFigure(b []byte, u budget.Unit, n int64) []byte {
	if u == budget.Tokens {
		return strconv.AppendInt(b, n, 10)
	}
	return money.Pico(n).AppendTo(b)
}

// appendStanding is the member that an error at the limit has beside the usual four. Of a budget over all clients it
// tells no figure.
func appendStanding(b []byte, s *budget.Standing) []byte {
	b = append(b, `"budget":{`...)
	if s.Shared {
		b = append(b, `"shared":true`...)
	} else {
		b = append(append(b, `"type":"`...), s.Unit...)
		b = append(append(b, `","period":"`...), s.Period...)
		for _, f := range [...]struct {
			name string
			n    int64
		}{{`","limit":"`, s.Limit}, {`","used":"`, s.Used}, {`","held":"`, s.Held}} {
			b = appendFigure(append(b, f.name...), s.Unit, f.n)
		}
		b = append(b, '"')
	}
	if !s.ResetsAt.IsZero() {
		b = append(b, `,"resets_at":"`...)
		b = append(inZone(s).AppendFormat(b, time.RFC3339), '"')
	}
	return append(b, '}')
}

// standingHeaders tell how the tightest of a client's budgets stands.
func standingHeaders(h *fasthttp.ResponseHeader, s *budget.Standing) {
	if s.Shared {
		return
	}
	var buf [64]byte
	h.SetCanonical(headerBudgetLimit, appendFigure(buf[:0], s.Unit, s.Limit))
	h.SetCanonical(headerBudgetUsed, appendFigure(buf[:0], s.Unit, s.Used))
	h.SetCanonical(headerBudgetHeld, appendFigure(buf[:0], s.Unit, s.Held))
	h.SetCanonical(headerBudgetUnit, append(buf[:0], s.Unit...))
	h.SetCanonical(headerBudgetPeriod, append(buf[:0], s.Period...))
	if !s.ResetsAt.IsZero() {
		h.SetCanonical(headerBudgetReset, inZone(s).AppendFormat(buf[:0], time.RFC3339))
	}
}

// asDenied is err as the word of a budget, nil where it is another error.
func asDenied(err error) *budget.Denied {
	var d *budget.Denied
	errors.As(err, &d)
	return d
}

// What was done about a call that did not fit its client's budgets.
const (
	limitBlock = iota
	limitAnswer
	limitDowngrade
	limitHandoff
	limitFit
	limitTail
	limitPaused
	limitActions
)

var limitActionNames = [limitActions]string{"block", "answer", "downgrade", "handoff", "fit_output", "tail", "paused"}

// budgetMetrics count what budgets do to calls. Whose budget it was is for the dashboard.
type budgetMetrics struct {
	limits      [limitActions]prometheus.Counter
	loops       [2]prometheus.Counter
	unavailable prometheus.Counter
	unbounded   prometheus.Counter
	toppedUp    prometheus.Counter
	cut         prometheus.Counter
}

func (m *budgetMetrics) register(reg prometheus.Registerer) {
	limits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_budget_limited_total", Help: "Calls that did not fit their client's budgets, by what was done.",
	}, []string{"action"})
	for i, name := range limitActionNames {
		m.limits[i] = limits.WithLabelValues(name)
	}
	loops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catraca_loops_total", Help: "Calls refused by the loop breaker, by what they were counted for.",
	}, []string{"of"})
	for i, name := range loopNames {
		m.loops[i] = loops.WithLabelValues(name)
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m.unavailable = one("catraca_budget_unavailable_total", "Calls refused because the ledger of budgets did not answer.")
	m.unbounded = one("catraca_budget_unbounded_total", "Calls refused because what they could cost has no bound.")
	m.toppedUp = one("catraca_budget_topped_up_total", "Times that a stream outran what was held for it and more was held.")
	m.cut = one("catraca_budget_cut_total", "Streams cut because they outran what was held for them.")
	reg.MustRegister(limits, loops, m.unavailable, m.unbounded, m.toppedUp, m.cut)
}
