package metering

import "github.com/shopspring/decimal"

// Totals are sums over calls. Money is exact.
type Totals struct {
	Calls       int64
	Errors      int64 // ended as neither OK nor ClientGone
	ClientGone  int64
	Streamed    int64
	Estimated   int64 // counts worked out by us and not corrected since
	UnknownCost int64 // calls that are missing from USD and BRL
	WasCached   int64
	WasFallback int64

	Input       int64
	Output      int64
	Total       int64
	Cached      int64
	CacheWrite  int64
	Reasoning   int64
	AudioInput  int64
	AudioOutput int64
	AudioMs     int64
	Images      int64
	Characters  int64

	LatencyMs  int64
	Answered   int64 // calls with a first byte
	TTFTMs     int64
	OverheadUs int64

	USD decimal.Decimal
	BRL decimal.Decimal

	// Where Quantiles were asked for: of all calls, and of those that were answered. Roll-ups from before there were
	// histograms are not in them.
	Latency Histogram
	TTFT    Histogram
}

// rollupSum is a column of usage_rollups and what it is the sum of, in SQL that both stores understand.
type rollupSum struct{ name, of string }

// rollupSums are the roll-ups' columns but for money, in the order of Totals.counters.
var rollupSums = []rollupSum{
	{"calls", "count(*) FILTER (WHERE corrects IS NULL)"},
	{"errors", "count(*) FILTER (WHERE outcome NOT IN ('ok', 'client_gone', 'correction'))"},
	{"client_gone", "count(*) FILTER (WHERE outcome = 'client_gone')"},
	{"streamed", "count(*) FILTER (WHERE streamed AND corrects IS NULL)"},
	{"estimated", "count(*) FILTER (WHERE usage_source = 'estimated') - count(corrects)"},
	{"unknown_cost", "count(*) FILTER (WHERE cost_usd IS NULL AND corrects IS NULL) - count(*) FILTER (WHERE cost_became_known)"},
	{"was_cached", "count(*) FILTER (WHERE was_cached AND corrects IS NULL)"},
	{"was_fallback", "count(*) FILTER (WHERE was_fallback AND corrects IS NULL)"},
	{"input_tokens", "sum(input_tokens)"},
	{"output_tokens", "sum(output_tokens)"},
	{"total_tokens", "sum(total_tokens)"},
	{"cached_tokens", "sum(cached_tokens)"},
	{"cache_write_tokens", "sum(cache_write_tokens)"},
	{"reasoning_tokens", "sum(reasoning_tokens)"},
	{"audio_input_tokens", "sum(audio_input_tokens)"},
	{"audio_output_tokens", "sum(audio_output_tokens)"},
	{"audio_ms", "sum(audio_ms)"},
	{"images", "sum(images)"},
	{"characters", "sum(characters)"},
	{"latency_ms", "sum(latency_ms)"},
	{"answered", "count(*) FILTER (WHERE ttft_ms > 0)"},
	{"ttft_ms", "sum(ttft_ms)"},
	{"overhead_us", "sum(overhead_us)"},
}

// counterCount is how many columns rollupSums has.
const counterCount = 23

func (t *Totals) counters() [counterCount]*int64 {
	return [...]*int64{
		&t.Calls, &t.Errors, &t.ClientGone, &t.Streamed, &t.Estimated, &t.UnknownCost, &t.WasCached, &t.WasFallback,
		&t.Input, &t.Output, &t.Total, &t.Cached, &t.CacheWrite, &t.Reasoning, &t.AudioInput, &t.AudioOutput,
		&t.AudioMs, &t.Images, &t.Characters, &t.LatencyMs, &t.Answered, &t.TTFTMs, &t.OverheadUs,
	}
}

// count is what one row adds to the sums, but for money: rollupSums, in Go.
func (r *logRow) count() Totals {
	one := func(is bool) int64 {
		if is {
			return 1
		}
		return 0
	}
	t := Totals{
		Input: r.Input, Output: r.Output, Total: r.Total, Cached: r.Cached, CacheWrite: r.CacheWrite,
		Reasoning: r.Reasoning, AudioInput: r.AudioInput, AudioOutput: r.AudioOutput, AudioMs: r.AudioMs,
		Images: r.Images, Characters: r.Characters, LatencyMs: r.LatencyMs, Answered: one(r.TTFTMs > 0),
		TTFTMs: r.TTFTMs, OverheadUs: r.OverheadUs,
	}
	if r.isCorrection() {
		t.Estimated, t.UnknownCost = -1, -one(r.becameKnown)
		return t
	}
	t.Calls, t.Errors, t.ClientGone = 1, one(r.Outcome != OK && r.Outcome != ClientGone), one(r.Outcome == ClientGone)
	t.Streamed, t.Estimated, t.UnknownCost = one(r.Streamed), one(r.Usage.Source == Estimated), one(!r.Known)
	t.WasCached, t.WasFallback = one(r.WasCached), one(r.WasFallback)
	return t
}

// addCounts sums counters up. ok is false when a sum would not fit, and t is then no sum any more.
func (t *Totals) addCounts(o *Totals) (ok bool) {
	ok = true
	from := o.counters()
	for i, n := range t.counters() {
		was := *n
		*n += *from[i]
		ok = ok && (*n >= was) == (*from[i] >= 0)
	}
	return ok
}

// add sums everything up. ok is as addCounts has it.
func (t *Totals) add(o *Totals) (ok bool) {
	t.USD, t.BRL = t.USD.Add(o.USD), t.BRL.Add(o.BRL)
	t.Latency.Merge(&o.Latency)
	t.TTFT.Merge(&o.TTFT)
	return t.addCounts(o)
}

// Percent is part of whole in percent with two places, half away from zero; 0 of nothing is 0.
func Percent(part, whole decimal.Decimal) decimal.Decimal {
	if whole.IsZero() {
		return decimal.Zero
	}
	return part.Shift(2).DivRound(whole, 2)
}

// ErrorPercent is the share of calls that failed.
func (t *Totals) ErrorPercent() decimal.Decimal {
	return Percent(decimal.NewFromInt(t.Errors), decimal.NewFromInt(t.Calls))
}

// CachedPercent is the share of prompt tokens that providers read from their caches.
func (t *Totals) CachedPercent() decimal.Decimal {
	return Percent(decimal.NewFromInt(t.Cached), decimal.NewFromInt(t.Input))
}

// MeanLatencyMs is the mean time to the last byte.
func (t *Totals) MeanLatencyMs() int64 { return meanOf(t.LatencyMs, t.Calls) }

// MeanTTFTMs is the mean time to the first byte, of calls that had one.
func (t *Totals) MeanTTFTMs() int64 { return meanOf(t.TTFTMs, t.Answered) }

func meanOf(total, n int64) int64 {
	if n == 0 {
		return 0
	}
	return (total + n/2) / n
}
