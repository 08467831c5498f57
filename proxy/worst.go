package proxy

import (
	"fmt"
	"math"
	"strconv"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
)

// dearTier is how many times the list price a call may cost that asks for a faster tier: 1.67 to 2 at all providers
// that have one. Price lists have the standard tier only, and a tier of another name has no bound.
const dearTier = 2

// dearCache is how many times the list's price a prompt token may cost that is written to a cache for longer than the
// shortest time: 2 / 1.25 and 2.5 / 1.25 where it is known.
const dearCache = 2

// rates are the most that a token can cost, whatever of it is cached, and whichever tier of the price list the true
// length of the prompt falls in.
type rates struct {
	in, audioIn, out, audioOut money.Pico
	times                      int64 // for the service's tier
	known                      bool
}

func dearest(p *metering.Price, r *openai.Request, input int64) rates {
	n := rates{times: 1}
	if r.DearTier() {
		n.times = dearTier
	}
	if p == nil || p.Input == metering.NoPrice && p.Output == metering.NoPrice {
		return n
	}
	n.known = true
	n.add(p.Input, p.Cached, p.CacheWrite, p.Output, r.LongCache)
	for i := range p.Tiers {
		if t := &p.Tiers[i]; t.MinInput <= input {
			n.add(t.Input, t.Cached, t.CacheWrite, t.Output, r.LongCache)
		}
	}
	n.audioIn, n.audioOut = max(n.in, p.AudioInput), max(n.out, p.AudioOutput)
	return n
}

func (n *rates) add(in, cached, write, out money.Pico, longCache bool) {
	if longCache {
		if write == metering.NoPrice {
			write = in
		}
		if dear, ok := write.Times(dearCache); ok && write > 0 {
			write = dear
		}
	}
	n.in = max(n.in, in, cached, write)
	n.out = max(n.out, out)
}

// sum adds up charges; once one does not fit, or has no price, there is no sum.
type sum struct {
	usd     money.Pico
	charged bool
	broken  bool
}

func (s *sum) add(price money.Pico, n int64) {
	if n <= 0 {
		return
	}
	cost, fits := price.Times(n)
	total, ok := s.usd.Add(cost)
	s.usd, s.charged, s.broken = total, true, s.broken || price < 0 || !fits || !ok
}

// costOf is the most that a bound can cost by a price list; ok is false where it is not known. It charges what
// metering.Price.Cost does, each piece at the dearest.
func costOf(p *metering.Price, n *rates, b *openai.Bound) (usd money.Pico, ok bool) {
	if p == nil {
		return 0, false
	}
	var s sum
	if n.known {
		// An input or output that the list has no price for would have none when it is used either.
		if b.Input > 0 && p.Input == metering.NoPrice || b.Output > 0 && p.Output == metering.NoPrice {
			return 0, false
		}
		s.add(n.in, b.Input-b.AudioInput)
		s.add(n.audioIn, b.AudioInput)
		s.add(n.out, b.Output-b.AudioOutput)
		s.add(n.audioOut, b.AudioOutput)
	}
	if p.AudioSecond != metering.NoPrice && b.AudioMs > 0 {
		c, fits := money.MulDivUp(int64(p.AudioSecond), b.AudioMs, 1000)
		total, ok := s.usd.Add(money.Pico(c))
		s.usd, s.charged, s.broken = total, true, s.broken || !fits || !ok
	}
	if p.Image != metering.NoPrice {
		s.add(p.Image, b.Images)
	}
	if p.Character != metering.NoPrice {
		s.add(p.Character, b.Characters)
	}
	used := b.Input > 0 || b.Output > 0 || b.AudioMs > 0 || b.Images > 0 || b.Characters > 0
	if s.broken || used && !s.charged {
		return 0, false
	}
	return s.usd.Times(n.times)
}

// candidate is a model that may serve the call, with the most that it may use for it.
type candidate struct {
	limits openai.Limits
	bound  openai.Bound
	price  *metering.Price
	rates  rates
}

// candidate looks at a model that may serve: the one that is aimed at, or a fallback that the request names.
func (c *call) candidate(m *metering.Model, name string, outputCap int64) (k candidate) {
	k.limits = openai.Limits{Model: name, OutputCap: outputCap, Counted: c.stake.policy.Bound == budget.BoundTokenizer}
	if m != nil {
		k.limits.Provider, k.limits.Model = m.Provider, m.Name
		k.limits.Context, k.limits.MaxOutput = int64(m.ContextWindow), int64(m.MaxOutput)
		k.price = m.PriceAt(c.start)
	}
	k.bound = c.req.Worst(c.ep.kind, &k.limits)
	k.rates = dearest(k.price, &c.req, k.bound.Input)
	return k
}

// aimed is the candidate that the call is sent to.
func (c *call) aimed() candidate {
	name := c.req.Model
	if c.model == nil && name == "" {
		name = c.send
	}
	return c.candidate(c.model, name, c.stake.policy.OutputCap)
}

// others calls f with the fallbacks of the request. Where it sets no limit, they have the one that is sent for the model
// that is aimed at.
func (c *call) others(f func(k *candidate) error) error {
	for _, name := range c.req.Fallbacks {
		outputCap := c.stake.policy.OutputCap
		if c.stake.most > 0 && c.stake.sends {
			outputCap = c.stake.most
		}
		k := c.candidate(c.p.Prices.Catalog().Lookup(name), name, outputCap)
		if err := f(&k); err != nil {
			return err
		}
	}
	return nil
}

// worstCase finds the most that the call can cost as it is aimed now, in every unit that a hard budget of its client
// counts. It is an error when there is no bound.
func (c *call) worstCase() error {
	s := &c.stake
	s.worst, s.output, s.most, s.outPrice, s.sends, s.fitted = budget.Cost{}, 0, 0, 0, false, false
	if !s.countsTokens && !s.countsMoney {
		return nil // nothing is held: what there is only alerts
	}
	aimed := c.aimed()
	if err := c.consider(&aimed, aimed.bound.Output); err != nil {
		return err
	}
	s.most = c.req.FitOutput(c.ep.kind, &aimed.limits, aimed.bound.Output)
	s.sends = !s.policy.LeaveOutput && aimed.limits.SendsLimit(&aimed.bound, s.most)
	return c.others(func(k *candidate) error { return c.consider(k, k.bound.Output) })
}

// consider raises the worst case to that of one candidate with so much output.
func (c *call) consider(k *candidate, output int64) error {
	s, b := &c.stake, k.bound
	b.Output, b.AudioOutput = output, min(b.AudioOutput, output)
	if b.Open.Tokens() || s.countsMoney && b.Open.Money() {
		return c.unbounded(openText(b.Open, c.req.Unknown()))
	}
	s.output = max(s.output, output)
	s.worst.Tokens = max(s.worst.Tokens, b.Tokens())
	if !s.countsMoney {
		s.worst.Unpriced = true
		return nil
	}
	usd, ok := costOf(k.price, &k.rates, &b)
	brl, fits := c.rate.Rate.Convert(usd)
	switch {
	case !ok:
		return c.unbounded("no price is set for this use of the model " + strconv.Quote(k.limits.Model) + ": have one set, or use another model")
	case c.req.DearTier() && !knownTier(c.req.ServiceTier):
		return c.unbounded("the price of its service_tier is not known: leave service_tier out")
	case c.req.Routed && c.target.Route == "gateway":
		return c.unbounded("the providers or regions that providerOptions.gateway asks for may be dearer than the list price: leave order, only, sort and inferenceRegion out")
	case !fits || c.rate.Rate <= 0:
		return c.unbounded("it is too large a sum, or there is no exchange rate: ask for less")
	}
	s.worst.USD, s.worst.BRL = max(s.worst.USD, usd), max(s.worst.BRL, brl)
	if price, ok := max(k.rates.out, k.rates.audioOut).Times(k.rates.times); ok {
		s.outPrice = max(s.outPrice, price)
	}
	return nil
}

func knownTier(name string) bool { return name == "priority" || name == "scale" }

// openText says what a client can do about a bound that is open.
func openText(o openai.Open, unknown string) string {
	switch {
	case o&openai.OpenTools != 0:
		return "the provider charges for each use of the tools that it runs: leave out hosted tools and web_search_options"
	case o&openai.OpenInput != 0:
		return "it refers to input that cannot be seen here, and the registry does not know the model's context window: send the input itself, or have context_window set"
	case o&openai.OpenOutput != 0:
		return "nothing limits its output: set max_tokens (max_output_tokens for responses), or have the model's max_output set"
	case o&openai.OpenAudio != 0:
		return "how long the audio plays cannot be read from the file: send WAV, MP3, Ogg, MP4 or FLAC"
	}
	return fmt.Sprintf("its member %.64q is not known here and may cost money: leave it out", unknown)
}

func (c *call) unbounded(why string) error {
	c.p.metrics.budgets.unbounded.Inc()
	return costUnbounded(why)
}

// leastOutput is the shortest answer worth paying a prompt for, and the least limit that OpenAI's Responses take.
const leastOutput = 16

// fit lowers the output of all candidates to what there is room for. False: there is no room for an answer worth having.
func (c *call) fit(room budget.Cost) (ok bool) {
	s := &c.stake
	output := s.output
	usd := room.USD
	if most, fits := money.MulDivUp(int64(room.BRL), int64(money.RateUnit), int64(c.rate.Rate)); fits {
		usd = min(usd, money.Pico(most)-1) // rounded up, and converted back it must not be more
	}
	aimed := c.aimed()
	lower := func(k *candidate) error {
		output = min(output, k.outputWithin(room.Tokens, usd, s.countsMoney))
		return nil
	}
	_ = lower(&aimed)
	_ = c.others(lower)
	most := c.req.FitOutput(c.ep.kind, &aimed.limits, output)
	_ = c.others(func(k *candidate) error {
		most = min(most, c.req.FitOutput(c.ep.kind, &k.limits, output))
		return nil
	})
	if output < leastOutput || most < leastOutput {
		return false
	}
	s.worst, s.output = budget.Cost{}, 0
	again := func(k *candidate) error { return c.consider(k, min(k.bound.Output, output)) }
	if again(&aimed) != nil || c.others(again) != nil {
		return false
	}
	s.most, s.fitted = most, true
	return true
}

// outputWithin is how many tokens of output there is room for behind the prompt.
func (k *candidate) outputWithin(tokens int64, usd money.Pico, money bool) int64 {
	left := tokens - k.bound.Input
	if !money {
		return left
	}
	prompt := k.bound
	prompt.Output, prompt.AudioOutput = 0, 0
	spent, ok := costOf(k.price, &k.rates, &prompt)
	price, fits := max(k.rates.out, k.rates.audioOut).Times(k.rates.times)
	switch {
	case !ok || !fits || usd < spent:
		return 0
	case price > 0:
		left = min(left, int64((usd-spent)/price))
	}
	return min(left, math.MaxInt32)
}
