package metering

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/internal/money"
)

// perMillion is a list price as people write it, for one token.
func perMillion(s string) money.Pico {
	p, err := money.Parse(decimal.RequireFromString(s).Shift(-6).String())
	if err != nil {
		panic(err)
	}
	return p
}

func tokenPrice(input, output, cached, write string) Price {
	p := NewPrice()
	p.Input, p.Output, p.Cached, p.CacheWrite = perMillion(input), perMillion(output), perMillion(cached), perMillion(write)
	return p
}

func TestCost(t *testing.T) {
	f := func(name string, p Price, u Usage, want string) {
		t.Helper()
		got, ok := p.Cost(&u)
		if want == "unknown" {
			if ok {
				t.Errorf("%s: %s, want it unknown", name, got)
			}
			return
		}
		if !ok || got.String() != want {
			t.Errorf("%s: %s, %v; want %s", name, got, ok, want)
		}
	}
	mini := tokenPrice("0.15", "0.60", "0.075", "0.15")
	f("a cheap call", mini, Usage{Input: 19, Output: 124}, "0.00007725")
	f("one token", mini, Usage{Input: 1}, "0.00000015")
	f("nothing", mini, Usage{}, "0")
	f("cached is a part of input", mini, Usage{Input: 5099, Cached: 5097, Output: 1}, "0.000383175")
	f("more cached than input", mini, Usage{Input: 10, Cached: 20}, "0.0000015")
	f("reasoning is a part of output", mini, Usage{Output: 100, Reasoning: 64}, "0.00006")
	f("negative", mini, Usage{Input: -1}, "unknown")
	f("negative part", mini, Usage{Input: 5, Reasoning: -1}, "unknown")

	luna := tokenPrice("0.10", "0.50", "0.01", "0.125")
	f("cache write", luna, Usage{Input: 1000, Cached: 300, CacheWrite: 500, Output: 10}, "0.0000905")
	bare := NewPrice()
	bare.Input, bare.Output = perMillion("0.59"), perMillion("0.79")
	f("no cache prices: as input", bare, Usage{Input: 100, Cached: 50, CacheWrite: 20, Output: 1}, "0.00005979")

	haiku := tokenPrice("0.10", "0.50", "0.01", "0.125")
	haiku.Tiers = []Tier{{MinInput: 100001, Input: perMillion("0.50"), Output: perMillion("2.50"), Cached: perMillion("0.05"), CacheWrite: NoPrice}}
	f("below the tier", haiku, Usage{Input: 100000, Output: 1}, "0.0100005")
	f("the tier prices the whole request", haiku, Usage{Input: 100001, Output: 1000}, "0.0525005")
	f("a tier without a write price: as its input", haiku, Usage{Input: 200000, CacheWrite: 100000}, "0.1")

	audio := tokenPrice("2.50", "10", "1.25", "2.50")
	audio.AudioInput, audio.AudioOutput = perMillion("40"), perMillion("80")
	f("audio tokens", audio, Usage{Input: 100, AudioInput: 60, Output: 50, AudioOutput: 50}, "0.0065")
	f("a cached audio token is a cached token", audio, Usage{Input: 100, Cached: 80, AudioInput: 60}, "0.0009")

	whisper := NewPrice()
	whisper.AudioSecond = 100_000_000 // 0.006 a minute
	f("a minute", whisper, Usage{AudioMs: 60_000}, "0.006")
	f("a millisecond", whisper, Usage{AudioMs: 1}, "0.0000001")
	f("tokens beside seconds", whisper, Usage{AudioMs: 60_000, Input: 99}, "0.006")
	f("tokens alone", whisper, Usage{Input: 99}, "unknown")
	groq := NewPrice()
	groq.AudioSecond = 11_111_112
	f("rounded up, once", groq, Usage{AudioMs: 1}, "0.000000011112")

	tts := NewPrice()
	tts.Character = perMillion("15")
	f("characters", tts, Usage{Characters: 1234}, "0.01851")
	image := NewPrice()
	image.Image = 4 * money.Unit / 100
	f("images", image, Usage{Images: 3}, "0.12")

	embedding := NewPrice()
	embedding.Input = perMillion("0.02")
	f("embedding", embedding, Usage{Input: 8}, "0.00000016")
	f("an output that has no price", embedding, Usage{Input: 8, Output: 1}, "unknown")
	f("nothing priced", NewPrice(), Usage{Input: 1}, "unknown")
	f("free", Price{}, Usage{Input: math.MaxInt64, Output: 5}, "0")
	f("a product that does not fit", mini, Usage{Input: math.MaxInt64}, "unknown")
	dear := mini
	dear.Input, dear.Output = 1<<62, 1<<62
	f("the largest that fits", dear, Usage{Input: 1}, money.Pico(1<<62).String())
	f("a sum that does not fit", dear, Usage{Input: 1, Output: 1}, "unknown")
}

// decimalCost is Price.Cost again, in decimals and with nothing that can overflow.
func decimalCost(p *Price, u *Usage) (decimal.Decimal, bool) {
	d := decimal.NewFromInt
	sum, known, charged := decimal.Zero, true, false
	charge := func(price money.Pico, n int64) {
		if n == 0 {
			return
		}
		known = known && price >= 0
		charged = true
		sum = sum.Add(price.Decimal().Mul(d(n)))
	}
	or := func(a, b money.Pico) money.Pico {
		if a < 0 {
			return b
		}
		return a
	}
	in, out, cached, write := p.Input, p.Output, p.Cached, p.CacheWrite
	for _, tier := range p.Tiers {
		if u.Input >= tier.MinInput {
			in, out, cached, write = tier.Input, tier.Output, tier.Cached, tier.CacheWrite
		}
	}
	if p.Input >= 0 || p.Output >= 0 {
		rest := max(0, u.Input-u.Cached-u.CacheWrite)
		speech := min(rest, u.AudioInput)
		charge(in, rest-speech)
		charge(or(cached, in), u.Cached)
		charge(or(write, in), u.CacheWrite)
		charge(or(p.AudioInput, in), speech)
		charge(out, max(0, u.Output-u.AudioOutput))
		charge(or(p.AudioOutput, out), u.AudioOutput)
	}
	if p.AudioSecond >= 0 && u.AudioMs > 0 {
		charged = true
		sum = sum.Add(p.AudioSecond.Decimal().Mul(d(u.AudioMs)).Shift(-3))
	}
	if p.Image >= 0 {
		charge(p.Image, u.Images)
	}
	if p.Character >= 0 {
		charge(p.Character, u.Characters)
	}
	sum = sum.RoundCeil(12)
	fits := sum.LessThanOrEqual(money.Pico(math.MaxInt64).Decimal())
	return sum, known && fits && (charged || *u == (Usage{}))
}

func TestCostEqualsDecimals(t *testing.T) {
	const seed = 20261122
	r := rand.New(rand.NewPCG(seed, 1))
	size := func(max int64) int64 { // of every order of magnitude, zero often
		if r.IntN(3) == 0 {
			return 0
		}
		return r.Int64N(1 + int64(math.Pow(float64(max), r.Float64())))
	}
	price := func() money.Pico {
		if r.IntN(3) == 0 {
			return NoPrice
		}
		return money.Pico(size(1 << 40))
	}
	knownSeen, unknownSeen := 0, 0
	for i := range 200_000 {
		p := NewPrice()
		for _, f := range p.figures() {
			*f = price()
		}
		for at := int64(0); r.IntN(2) == 0; {
			at += 1 + size(1<<30)
			p.Tiers = append(p.Tiers, Tier{MinInput: at, Input: price(), Output: price(), Cached: price(), CacheWrite: price()})
		}
		u := Usage{
			Input: size(1 << 40), Output: size(1 << 40), Cached: size(1 << 38), CacheWrite: size(1 << 38), AudioInput: size(1 << 38),
			AudioOutput: size(1 << 38), AudioMs: size(1 << 40), Images: size(1 << 30), Characters: size(1 << 40),
		}
		want, wantKnown := decimalCost(&p, &u)
		got, known := p.Cost(&u)
		if known != wantKnown || known && !got.Decimal().Equal(want) {
			t.Fatalf("seed %d, case %d: %s, %v; want %s, %v\n%+v\n%+v", seed, i, got, known, want, wantKnown, p, u)
		}
		if known && got < 0 {
			t.Fatalf("seed %d, case %d: negative: %s", seed, i, got)
		}
		if known {
			knownSeen++
		} else {
			unknownSeen++
		}
	}
	if knownSeen < 20_000 || unknownSeen < 20_000 {
		t.Errorf("the cases are not mixed: %d known, %d unknown", knownSeen, unknownSeen)
	}
}

func TestComputeCost(t *testing.T) {
	rate := ExchangeRate{Rate: 514420000, Date: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"}
	p := tokenPrice("0.15", "0.60", "0.075", "0.15")
	u := Usage{Input: 19, Output: 124}

	c := ComputeCost(&p, &u, 0, false, rate)
	if !c.Known || c.USD.String() != "0.00007725" || c.BRL != 397_389_450 || c.USD != c.ListUSD || c.GateKnown {
		t.Errorf("from the list: %+v", c)
	}
	c = ComputeCost(&p, &u, 80_000_001, true, rate)
	if !c.Known || c.USD != 80_000_001 || c.ListUSD.String() != "0.00007725" || !c.ListKnown || c.GateUSD != 80_000_001 || c.BRL != 411_536_006 {
		t.Errorf("from the gateway: %+v", c) // 80000001 × 5.1442 = 411536005.1442, rounded up
	}
	c = ComputeCost(nil, &u, 5, true, rate)
	if !c.Known || c.USD != 5 || c.ListKnown {
		t.Errorf("no price but a figure of the gateway: %+v", c)
	}
	for name, c := range map[string]Cost{
		"neither":            ComputeCost(nil, &u, 0, false, rate),
		"negative figure":    ComputeCost(nil, &u, -1, true, rate),
		"no rate":            ComputeCost(&p, &u, 0, false, ExchangeRate{}),
		"reais do not fit":   ComputeCost(&p, &u, math.MaxInt64, true, rate),
		"unpriced by a list": ComputeCost(&p, &Usage{Input: math.MaxInt64}, 0, false, rate),
	} {
		if c.Known || c.USD != 0 || c.BRL != 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestCostDoesNotAllocate(t *testing.T) {
	p := tokenPrice("0.15", "0.60", "0.075", "0.15")
	p.Tiers = []Tier{{MinInput: 10}}
	u := Usage{Input: 19, Output: 124, Cached: 3}
	rate := ExchangeRate{Rate: 514420000, Source: "ptax"}
	var kept Cost
	if n := testing.AllocsPerRun(100, func() { kept = ComputeCost(&p, &u, 7, true, rate) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	_ = kept
}

func TestPriceAt(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.DateTime, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	m := Model{Prices: []Price{
		{Note: "later", From: at("2027-01-01 00:00:00")},
		{Note: "promotion", From: at("2026-06-01 00:00:00"), To: at("2027-01-01 00:00:00")},
		{Note: "never in force", From: at("2026-06-01 00:00:00"), To: at("2026-06-01 00:00:00")},
	}}
	f := func(when, want string) {
		t.Helper()
		got := "none"
		if p := m.PriceAt(at(when)); p != nil {
			got = p.Note
		}
		if got != want {
			t.Errorf("at %s: %s, want %s", when, got, want)
		}
	}
	f("2026-05-31 23:59:59", "none")
	f("2026-06-01 00:00:00", "promotion")
	f("2026-12-31 23:59:59", "promotion")
	f("2027-01-01 00:00:00", "later")
	f("2099-01-01 00:00:00", "later")
}
