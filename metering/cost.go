package metering

import (
	"time"

	"github.com/catraca/catraca/internal/money"
)

// Cost is what a use costs by this price list, exactly: every charge is a whole number of pico-dollars but for audio by
// the second, which is the one that is rounded, up. ok is false when it cannot be known: something was used that has no
// price, a count is negative, or the sum does not fit.
//
// A model may be priced by tokens, by the second, by the image, by the character, or by several of them. What it is not
// priced by does not count (transcription by tokens also tells the seconds), as long as something that was used does.
func (p *Price) Cost(u *Usage) (usd money.Pico, ok bool) {
	used := false
	for _, n := range u.counts() {
		if n < 0 {
			return 0, false
		}
		used = used || n > 0
	}
	if !used {
		return 0, true
	}
	var b bill
	if p.byTokens() && (u.Input > 0 || u.Output > 0 || u.Cached > 0 || u.CacheWrite > 0 || u.AudioInput > 0 || u.AudioOutput > 0) {
		p.chargeTokens(&b, u)
	}
	if p.AudioSecond != NoPrice && u.AudioMs > 0 {
		c, fits := money.MulDivUp(int64(p.AudioSecond), u.AudioMs, 1000)
		b.add(money.Pico(c), fits)
	}
	if p.Image != NoPrice {
		b.charge(p.Image, u.Images)
	}
	if p.Character != NoPrice {
		b.charge(p.Character, u.Characters)
	}
	if b.broken || !b.charged {
		return 0, false
	}
	return b.sum, true
}

// Cost is what a use at a time costs. ok is false when the model had no price then, or as Price.Cost says.
func (m *Model) Cost(at time.Time, u *Usage) (usd money.Pico, ok bool) {
	p := m.PriceAt(at)
	if p == nil {
		return 0, false
	}
	return p.Cost(u)
}

func (p *Price) byTokens() bool {
	return p.Input != NoPrice || p.Output != NoPrice
}

// chargeTokens charges each token once. Cached and written ones are charged as the provider counted them, and audio ones
// as far as they are neither: a cached audio token is a cached token.
func (p *Price) chargeTokens(b *bill, u *Usage) {
	t := p.tier(u.Input)
	rest := max(0, max(0, u.Input-u.Cached)-u.CacheWrite)
	audio := min(u.AudioInput, rest)
	b.charge(t.Input, rest-audio)
	b.charge(orElse(t.Cached, t.Input), u.Cached)
	b.charge(orElse(t.CacheWrite, t.Input), u.CacheWrite)
	b.charge(orElse(p.AudioInput, t.Input), audio)
	b.charge(t.Output, max(0, u.Output-u.AudioOutput))
	b.charge(orElse(p.AudioOutput, t.Output), u.AudioOutput)
}

// tier is the token prices that a whole request with so long a prompt is charged by.
func (p *Price) tier(input int64) Tier {
	t := Tier{Input: p.Input, Output: p.Output, Cached: p.Cached, CacheWrite: p.CacheWrite}
	for i := range p.Tiers {
		if input < p.Tiers[i].MinInput {
			break
		}
		t = p.Tiers[i]
	}
	return t
}

func orElse(price, instead money.Pico) money.Pico {
	if price == NoPrice {
		return instead
	}
	return price
}

// bill adds up charges. Once something did not fit it stays broken, so there is one check, at the end.
type bill struct {
	sum     money.Pico
	charged bool
	broken  bool
}

// charge adds n pieces at a price. NoPrice breaks the bill, unless n is 0.
func (b *bill) charge(price money.Pico, n int64) {
	if n > 0 {
		b.add(price.Times(n))
	}
}

func (b *bill) add(c money.Pico, fits bool) {
	sum, ok := b.sum.Add(c)
	b.sum, b.charged, b.broken = sum, true, b.broken || !fits || !ok
}

// ComputeCost puts a call's cost together: the gateway's own figure is the truth where it gave one, ours stands beside
// it. p may be nil: the model has no price. What does not fit, or has no exchange rate, is unknown rather than wrong.
func ComputeCost(p *Price, u *Usage, gateUSD money.Pico, gateKnown bool, rate ExchangeRate) Cost {
	c := Cost{Rate: rate}
	if p != nil {
		c.PriceID = p.ID
		c.ListUSD, c.ListKnown = p.Cost(u)
	}
	if gateKnown && gateUSD >= 0 {
		c.GateUSD, c.GateKnown = gateUSD, true
	}
	usd := c.ListUSD
	if c.GateKnown {
		usd = c.GateUSD
	}
	if !c.GateKnown && !c.ListKnown || rate.Rate <= 0 {
		return c
	}
	brl, ok := rate.Rate.Convert(usd)
	if !ok {
		return c
	}
	c.USD, c.BRL, c.Known = usd, brl, true
	return c
}
