package metering

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/catraca/catraca/internal/money"
)

// A Corrector asks the gateway about calls whose counts are estimates, and records what was true. Any number of them may
// run, in as many processes: the store gives each estimate to one of them at a time.
//
//	DueEstimates ──► ask, at most asksPerSecond ──┬─► known: Correct
//	                                              ├─► not known (yet): PutOff, by the age of the call; after a day, for good
//	                                              └─► no answer: PutOff, and after several of them a pause
type Corrector struct {
	store Corrections
	ask   Generations
	price func(*Event)
	log   *slog.Logger

	troubled bool // the last look at store or gateway failed, and the log says so
	asked    atomic.Int64
	done     atomic.Int64
	givenUp  atomic.Int64
	failures atomic.Int64
}

// NewCorrector makes a corrector. price puts a cost from the price list on an event, by its model and admission time; it
// may be nil. A nil log is silent.
func NewCorrector(store Corrections, ask Generations, price func(*Event), log *slog.Logger) *Corrector {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Corrector{store: store, ask: ask, price: price, log: log}
}

// CorrectorStats counts what a Corrector did since it was made.
type CorrectorStats struct {
	Asked     int64 // questions to the gateway
	Corrected int64
	GivenUp   int64 // estimates that stay, because the gateway does not know the call
	Failures  int64 // questions that were not answered, or not in a way to use, and work on the store that failed
}

// Stats tells how it is doing.
func (c *Corrector) Stats() CorrectorStats {
	return CorrectorStats{Asked: c.asked.Load(), Corrected: c.done.Load(), GivenUp: c.givenUp.Load(), Failures: c.failures.Load()}
}

const (
	// A gateway is asked this often at most by each process. It shares its rate limits with the tenants' own calls.
	asksPerSecond = 10
	// correctBatch is what is taken from the store at once: five seconds of asking.
	correctBatch = 50
	// correctLease keeps others off a batch: far longer than it takes, and short enough after a crash.
	correctLease = 2 * time.Minute
	// correctPoll is how long an estimate may lie about when nothing else is due.
	correctPoll = 5 * time.Second
	// outageAfter is how many questions in a row stay unanswered before no more are asked for a while: outagePause at
	// first, and twice as long each time, up to longestOutagePause.
	outageAfter        = 3
	outagePause        = 5 * time.Second
	longestOutagePause = 5 * time.Minute

	// knownWithin is how long a gateway may take to know a call. The documentation says "shortly after the end"; a day
	// leaves room for a fault on its side.
	knownWithin = 24 * time.Hour
	// bookedWithin is how long what it knows may be blank. A call that is blank for longer came to nothing.
	bookedWithin = 10 * time.Minute
	// forgottenAfter is when a gateway that gives no answer at all is no longer asked about a call. Routing data is kept
	// for 30 days there.
	forgottenAfter = 30 * 24 * time.Hour
)

// Run corrects until ctx is done.
func (c *Corrector) Run(ctx context.Context) error {
	pause := outagePause
	for {
		taken, err := c.round(ctx)
		wait := correctPoll
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if !c.troubled {
				c.log.Warn("estimates cannot be corrected for now; they stay as they are and are tried again", "error", err)
			}
			c.troubled = true
			wait = pause
			pause = min(2*pause, longestOutagePause)
		default:
			if c.troubled && taken > 0 {
				c.log.Info("estimates are corrected again")
				c.troubled = false
			}
			pause = outagePause
			if taken == correctBatch {
				wait = 0
			}
		}
		sleep(ctx, wait)
	}
}

// round takes what is due and asks about each. An error means that there is no use in going on now.
func (c *Corrector) round(ctx context.Context) (taken int, err error) {
	began := time.Now()
	due, err := c.store.DueEstimates(ctx, began, correctLease, correctBatch)
	if err != nil {
		c.failures.Add(1)
		return 0, err
	}
	inRow, last := 0, error(nil)
	for i := range due {
		next := time.Now().Add(time.Second / asksPerSecond)
		if err := c.correct(ctx, &due[i]); err != nil {
			inRow, last = inRow+1, err
		} else {
			inRow, last = 0, nil
		}
		// One question that is not answered may be the fault of what was asked. Several, or all there were, are an outage.
		// A slow gateway is no fault, but the lease must not end meanwhile.
		if inRow == outageAfter || ctx.Err() != nil || time.Since(began) > correctLease/2 {
			return len(due), errors.Join(last, c.giveBack(ctx, due[i+1:]))
		}
		sleep(ctx, time.Until(next))
	}
	if inRow < len(due) {
		last = nil
	}
	return len(due), last
}

// giveBack makes due again what was taken and not asked about. Should that fail, its lease will end.
func (c *Corrector) giveBack(ctx context.Context, rest []Estimate) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, e := range rest {
		if err := c.store.PutOff(ctx, e, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// correct asks about one estimate.
func (c *Corrector) correct(ctx context.Context, e *Estimate) error {
	if e.UpstreamID == "" || e.Route != "gateway" {
		return c.giveUp(ctx, e, "it has no id of the gateway's")
	}
	c.asked.Add(1)
	g, err := c.ask.Generation(ctx, e.UpstreamID)
	now := time.Now()
	age := now.Sub(e.AdmittedAt.Add(time.Duration(e.LatencyMs) * time.Millisecond))
	switch {
	case err == nil && g.blank() && age < bookedWithin:
		return c.store.PutOff(ctx, *e, now.Add(askAgainAfter(age)))
	case err == nil:
		if err := c.store.Correct(ctx, c.truth(e, &g)); errors.Is(err, ErrUnrecordable) {
			return c.giveUp(ctx, e, err.Error())
		} else if err != nil {
			c.failures.Add(1)
			return err
		}
		c.done.Add(1)
		return nil
	case errors.Is(err, ErrNoGeneration), errors.Is(err, ErrBadGeneration):
		if errors.Is(err, ErrBadGeneration) {
			c.failures.Add(1)
		}
		if age >= knownWithin {
			return c.giveUp(ctx, e, err.Error())
		}
		return c.store.PutOff(ctx, *e, now.Add(askAgainAfter(age)))
	case ctx.Err() != nil:
		return errors.Join(err, c.giveBack(ctx, []Estimate{*e}))
	case age >= forgottenAfter:
		return errors.Join(err, c.giveUp(ctx, e, err.Error()))
	}
	c.failures.Add(1)
	return errors.Join(err, c.store.PutOff(ctx, *e, now.Add(askAgainAfter(age))))
}

// giveUp leaves an estimate as it is, for good.
func (c *Corrector) giveUp(ctx context.Context, e *Estimate, why string) error {
	if err := c.store.PutOff(ctx, *e, time.Time{}); err != nil {
		return err
	}
	c.givenUp.Add(1)
	c.log.Info("an estimate stays: the gateway does not tell what the call used", "request_id", e.RequestID, "client_id", e.ClientID, "reason", why)
	return nil
}

// askAgainAfter is the pause before the next question about a call that ended so long ago and that the gateway does not
// know. It goes by the call's age and not by the number of tries, so that an outage uses none of them up: 30 s, 1, 2, 5
// and 15 minutes, and then every hour.
func askAgainAfter(age time.Duration) time.Duration {
	end := time.Duration(0)
	for _, wait := range [...]time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute} {
		if end += wait; age < end {
			return wait
		}
	}
	return time.Hour
}

// truth is the event as it would have been recorded, had the call told what it used. Model, provider and route stay
// those of the estimate: its row counts under them, and the correction must count there too.
func (c *Corrector) truth(e *Estimate, g *Generation) Event {
	t := e.Event
	t.Usage.Source = Measured
	t.Input, t.Output, t.Total = g.Input, g.Output, g.Input+g.Output
	t.Cached, t.CacheWrite, t.Reasoning = g.Cached, g.CacheWrite, g.Reasoning
	// The gateway tells nothing of these; what is known of them is part of the new counts at most.
	t.AudioInput, t.AudioOutput = min(t.AudioInput, t.Input), min(t.AudioOutput, t.Output)
	rate := e.Rate
	t.Cost = Cost{Rate: rate}
	if c.price != nil {
		c.price(&t)
	}
	t.Cost = t.Cost.withGateway(g.USD, g.HasUSD, rate)
	return t
}

// withGateway is a cost by the price list with the gateway's figure, where there is one, as the truth, at the exchange
// rate that the call was admitted at.
func (c Cost) withGateway(gateUSD money.Pico, known bool, rate ExchangeRate) Cost {
	c.Rate, c.GateUSD, c.GateKnown = rate, 0, false
	usd := c.ListUSD
	if known {
		c.GateUSD, c.GateKnown, usd = gateUSD, true, gateUSD
	}
	c.USD, c.BRL, c.Known = 0, 0, false
	if !c.GateKnown && !c.ListKnown || rate.Rate <= 0 {
		return c
	}
	if brl, ok := rate.Rate.Convert(usd); ok {
		c.USD, c.BRL, c.Known = usd, brl, true
	}
	return c
}
