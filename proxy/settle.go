package proxy

import (
	"strings"
	"time"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
)

// settle closes an opened call in the meter: what was used, what it cost, how it ended. Every way that a call can end
// comes here, and the first one counts.
func (c *call) settle(outcome metering.Outcome) {
	if c.settled || !c.opened {
		return
	}
	c.settled = true
	defer c.p.metrics.settled(c)
	e, rd := &c.event, &c.reading
	e.Outcome = outcome
	if outcome == metering.OK && c.readingOn() {
		e.Outcome, c.exact = metering.ClientGone, true // and what was used is known as if it had stayed
	}
	e.LatencyMs = time.Since(c.start).Milliseconds()
	e.ResponseBytes = rd.TextBytes
	e.UpstreamID, e.FinishReason = rd.ID, rd.FinishReason
	if rd.Model != "" {
		e.ModelServed = rd.Model
	}
	if rd.Provider != "" {
		e.Provider = rd.Provider
	}
	if e.ErrorCode == "" {
		e.ErrorCode = rd.ErrorCode
	}
	e.Usage = c.used(outcome)
	var price *metering.Price
	if m := c.served(); m != nil {
		e.ModelID = m.ID
		price = m.PriceAt(c.start)
	}
	e.Cost = metering.ComputeCost(price, &e.Usage, rd.GatewayUSD, rd.HasGatewayUSD && c.target.Route == "gateway", c.rate)
	if e.Source == metering.None && !e.Known {
		e.Known = true // nothing was used, so the cost is nothing, whatever the price would have been
	}
	e.Doubt = c.doubtful(outcome)
	c.p.Meter.Close(e)
	c.settleHold()
	if c.ep.index == epResponses && outcome == metering.OK && rd.ID != "" {
		c.p.owned.put(strings.Clone(rd.ID), owner{c.who.ClientID, c.target.Route, c.target.Provider})
	}
}

// served is the model that is priced: the one that answered, where the registry knows it, else the one asked for.
func (c *call) served() *metering.Model {
	name := c.reading.Model
	if name == "" || name == c.send || c.model != nil && (name == c.model.Name || name == c.model.GatewayID) {
		return c.model
	}
	catalog := c.p.Prices.Catalog()
	for _, name := range [...]string{name, undated(name)} {
		if m := catalog.Lookup(name); m != nil {
			return m
		}
		if m := catalog.Lookup(c.event.Provider + "/" + name); m != nil {
			return m
		}
	}
	return c.model
}

// undated takes the date off a model's name: a provider answers "gpt-4o-mini-2024-07-18" for "gpt-4o-mini", and
// "claude-3-opus-20240229" is written with and without.
func undated(name string) string {
	for _, form := range [...]string{"-0000-00-00", "-00000000"} {
		cut := len(name) - len(form)
		if cut > 0 && sameForm(name[cut:], form) {
			return name[:cut]
		}
	}
	return name
}

// sameForm reports whether s has digits where form has zeros and is form elsewhere.
func sameForm(s, form string) bool {
	for i := range len(form) {
		if digit := '0' <= s[i] && s[i] <= '9'; digit != (form[i] == '0') || !digit && s[i] != form[i] {
			return false
		}
	}
	return true
}

// used turns what was read of the answer into what the ledger counts.
func (c *call) used(outcome metering.Outcome) metering.Usage {
	rd := &c.reading
	u := metering.Usage{
		Input: rd.Input, Output: rd.Output, Total: rd.Total, Cached: rd.Cached, CacheWrite: rd.CacheWrite,
		Reasoning: rd.Reasoning, AudioInput: rd.AudioInput, AudioOutput: rd.AudioOutput,
		AudioMs: rd.AudioMs, Images: rd.Images, Characters: rd.Characters,
	}
	switch {
	case outcome == metering.Refused, outcome == metering.Unreachable, c.event.Status >= 400, c.ep.kind == openai.Opaque:
		return metering.Usage{}
	case rd.HasUsage && (outcome == metering.OK || rd.Complete):
		u.Source = metering.Measured
		return u
	case rd.HasUsage:
		// Some upstreams tell usage so far on every chunk: what passed after the last one is ours to count.
		u.Source = metering.Estimated
		u.Output = max(u.Output, rd.EstimateOutput())
		u.Total = max(u.Total, u.Input+u.Output)
		return u
	}
	return c.estimate(u)
}

// estimate counts an answer that came without usage, by what we saw of it.
func (c *call) estimate(u metering.Usage) metering.Usage {
	u.Source = metering.Estimated
	switch c.ep.kind {
	case openai.Moderations:
		return metering.Usage{}
	case openai.Speech:
		// The upstream counts the characters of the request, and so can we.
		u.Characters = c.req.InputChars
		u.Source = metering.Measured
		if price := c.priceNow(); price == nil || price.Character == metering.NoPrice {
			u.Source = metering.Estimated
			u.Input = openai.EstimateTokens(c.req.TextBytes)
		}
	case openai.Transcriptions:
		if u.AudioMs == 0 && c.req.Body != nil {
			u.AudioMs, _ = openai.AudioDuration(c.req.File())
		} else if u.AudioMs == 0 {
			u.AudioMs = c.audioMs
		}
	case openai.Images:
		if u.Images == 0 {
			u.Images = c.req.N
		} else {
			u.Source = metering.Measured
		}
	default:
		u.Input = openai.EstimateTokens(c.req.TextBytes)
		u.Output = c.reading.EstimateOutput()
	}
	u.Total = u.Input + u.Output
	return u
}

func (c *call) priceNow() *metering.Price {
	if c.model == nil {
		return nil
	}
	return c.model.PriceAt(c.start)
}
