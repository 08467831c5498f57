package proxy

import (
	"context"
	"io"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
)

// outran tells whether a stream went beyond what is held for it and must be cut: where the policy does not have more held
// for it, or there is no more. What is only thought to be beyond makes us ask for more; only what is surely beyond is cut.
func (c *call) outran() (cut bool) {
	s := &c.stake
	if !s.held || s.output == 0 || c.settled || c.reading.Complete {
		return false
	}
	if sofar := c.reading.OutputSoFar(); sofar > s.output && sofar >= s.nextTry && s.policy.Outrun != budget.Cut {
		c.topUp(sofar)
	}
	return c.reading.OutputAtLeast() > s.output
}

// topUpStep is the least that more is held for at once, in tokens.
const topUpStep = 256

// topUp holds for more output: a good piece ahead, or else at least what has passed.
func (c *call) topUp(sofar int64) {
	s := &c.stake
	behind := sofar - s.output
	for _, more := range [...]int64{behind + max(topUpStep, s.output/4), behind + leastOutput} {
		cost := budget.Cost{Tokens: more, Unpriced: s.worst.Unpriced}
		if !cost.Unpriced {
			var ok, fits bool
			cost.USD, ok = s.outPrice.Times(more)
			if cost.BRL, fits = c.rate.Rate.Convert(cost.USD); !ok || !fits {
				continue
			}
		}
		if s.hold.TopUp(context.Background(), cost) {
			s.output += more
			c.event.Holds = c.heldParts()
			c.p.metrics.budgets.toppedUp.Inc()
			c.progress(c.p.watch.clock.Load()) // a crash must know what is held
			return
		}
	}
	s.nextTry = sofar + topUpStep
}

// cutStream ends a stream that outran what is held for it: the upstream's work first, then the client's wait, with an error
// and no sign of a clean end.
func (c *call) cutStream(w io.Writer) error {
	c.x.Finish()
	c.event.ErrorCode = "budget_exceeded"
	c.p.metrics.budgets.cut.Inc()
	c.settle(metering.Truncated)
	rest := append(c.joined, c.stream.End(false)...)
	c.joined = c.joined[:0]
	if len(rest) > 0 && !endsEvent(rest) {
		rest = append(rest, '\n', '\n')
	}
	r := cutByBudget()
	if err := c.say(w, r.body.AppendEvent(rest)); err != nil {
		return err
	}
	return r // makes fasthttp close the connection without the chunk that would mean a clean end
}
