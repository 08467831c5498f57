package metering

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// auditFacts is what a store finds in its snapshot. What it means is worked out here, the same for both stores.
type auditFacts struct {
	at           time.Time // by the store's clock
	from         time.Time // of the comparison of log and roll-ups
	incarnations int
	received     uint64 // numbers in all watermarks
	open         []openIncarnation
	rows         rowFacts
	sums         sumFacts
	latencies    latencyFacts
	cache        cacheFacts
	costs        costFacts
	totals       AuditTotals
}

// openIncarnation is one whose watermark has holes, or does not reach as far as numbers were given out.
type openIncarnation struct {
	incarnation   uint64
	reported      bool // some proxy ever spoke of it
	holder        string
	heard         time.Time // when the holder last spoke, or when the ledger last took an event where nobody did
	covered       uint64    // the holder spoke of the numbers up to here
	live, over    bool
	goneAt        time.Time
	open, waiting Ranges
	lost          Ranges
	missing       Ranges // up to the highest number given out or received
}

// verdict says what is to be thought of each missing number.
type verdict struct {
	onTheWay, silent, unjudged, lost, unaccounted Ranges
}

// judge sorts the missing numbers. A report was made before the snapshot, and what it did not claim was in the ledger
// when it was made; so a number that it covers and does not claim, and that the snapshot lacks, is lost for certain.
// What is newer than the report is left for the next one.
func (n *openIncarnation) judge(now time.Time, o AuditOptions) (v verdict) {
	silence := now.Sub(n.heard)
	believedLost := silence > o.WriteOff || !n.goneAt.IsZero() && now.Sub(n.goneAt) > o.GoneAfter
	judged := n.missing
	switch {
	case believedLost:
	case !n.reported:
		judged, v.unjudged = nil, n.missing
	case n.live:
		judged = n.missing.and(Ranges{{1, max(n.covered, 1)}})
		if n.covered == 0 {
			judged = nil
		}
		v.unjudged = n.missing.minus(judged)
	}
	var claimed Ranges
	if !believedLost && !n.over {
		claimed = judged.and(n.open.Union(n.waiting))
	}
	rest := judged.minus(claimed)
	v.lost = rest.and(n.lost)
	v.unaccounted = rest.minus(v.lost)
	if silence > o.SilentAfter {
		v.silent, v.unjudged = claimed.Union(v.unjudged), nil
	} else {
		v.onTheWay = claimed
	}
	return v
}

// rowFacts compares the watermarks with what is really there.
type rowFacts struct {
	watermark, log, letters uint64
	wrong                   []wrongRows // the first of them
	wrongCount              int
	partly                  int // incarnations some of whose rows were let go of: they are only checked for having too many
}

// wrongRows is an incarnation whose rows are not those that its watermark has.
type wrongRows struct {
	incarnation      uint64
	missing, surplus Ranges // a number that is there more than once is surplus
}

func (f *rowFacts) check(depth AuditDepth) AuditCheck {
	c := AuditCheck{
		ID: "I1-rows", Name: "watermark = log + dead letters", Left: fmt.Sprint(f.watermark), Right: fmt.Sprint(f.log + f.letters),
		Difference: fmt.Sprint(int64(f.watermark) - int64(f.log+f.letters)), Holds: f.wrongCount == 0,
	}
	if depth == AuditRecent {
		c.Left, c.Right, c.Difference, c.Holds, c.Skipped, c.Detail = "", "", "", true, true, "only a full audit counts all rows"
		return c
	}
	var parts []string
	for _, w := range f.wrong {
		if len(w.missing) > 0 {
			parts = append(parts, fmt.Sprintf("%016x lacks %s", w.incarnation, firstOf(w.missing)))
		}
		if len(w.surplus) > 0 {
			parts = append(parts, fmt.Sprintf("%016x has %s too often", w.incarnation, firstOf(w.surplus)))
		}
	}
	if f.wrongCount > len(f.wrong) {
		parts = append(parts, fmt.Sprintf("and %d incarnations more", f.wrongCount-len(f.wrong)))
	}
	if f.letters > 0 {
		parts = append(parts, fmt.Sprintf("%d are dead letters", f.letters))
	}
	if f.partly > 0 {
		parts = append(parts, fmt.Sprintf("%d incarnations have rows that were let go of", f.partly))
	}
	c.Detail = strings.Join(parts, "; ")
	return c
}

// watermarkSum is a set of numbers as something that can be compared with rows without listing them.
type watermarkSum struct {
	count uint64
	sum   decimal.Decimal
}

func sumOf(r Ranges) (s watermarkSum) {
	for _, iv := range r {
		n := iv[1] - iv[0] + 1
		s.count += n
		ends := decimal.NewFromUint64(iv[0]).Add(decimal.NewFromUint64(iv[1]))
		s.sum = s.sum.Add(ends.Mul(decimal.NewFromUint64(n)))
	}
	s.sum = s.sum.Div(decimal.NewFromInt(2))
	return s
}

// wrongRowsOf compares a watermark with the numbers that are there, in order.
func wrongRowsOf(incarnation uint64, watermark Ranges, there []uint64) wrongRows {
	w := wrongRows{incarnation: incarnation}
	var have Ranges
	slices.Sort(there)
	for i, seq := range there {
		if i > 0 && there[i-1] == seq {
			w.surplus = w.surplus.Add(seq)
			continue
		}
		have = have.then(seq)
	}
	w.missing = watermark.minus(have)
	w.surplus = w.surplus.Union(have.minus(watermark))
	return w
}

// sumNames are the columns that log and roll-ups are compared in.
func sumNames() []string {
	names := make([]string, 0, len(rollupSums)+2)
	for _, s := range rollupSums {
		names = append(names, s.name)
	}
	return append(names, "cost_usd", "cost_brl")
}

// sumFacts compares the sums of the log with the roll-ups.
type sumFacts struct {
	logKeys, rollupKeys int
	log, rollups        []decimal.Decimal // by sumNames
	wrong               []wrongSum        // the first of them
	wrongCount          int
}

// wrongSum is one key of the roll-ups with log minus roll-ups, by sumNames.
type wrongSum struct {
	key     string
	surplus []decimal.Decimal
}

func (w *wrongSum) String() string {
	var parts []string
	for i, name := range sumNames() {
		if d := w.surplus[i]; !d.IsZero() {
			parts = append(parts, name+" "+signed(d))
		}
	}
	return w.key + ": log has " + strings.Join(parts, ", ")
}

func signed(d decimal.Decimal) string {
	if d.IsPositive() {
		return "+" + d.String()
	}
	return d.String()
}

func (f *sumFacts) checks() (checks []AuditCheck) {
	at := func(values []decimal.Decimal, name string) decimal.Decimal {
		if i := slices.Index(sumNames(), name); i < len(values) {
			return values[i]
		}
		return decimal.Zero
	}
	for _, c := range []struct{ id, name, column string }{
		{"I3-calls", "calls: log = roll-ups", "calls"},
		{"I3-tokens", "tokens: log = roll-ups", "total_tokens"},
		{"I3-usd", "US$: log = roll-ups", "cost_usd"},
		{"I3-brl", "R$: log = roll-ups", "cost_brl"},
	} {
		left, right := at(f.log, c.column), at(f.rollups, c.column)
		checks = append(checks, AuditCheck{
			ID: c.id, Name: c.name, Left: left.String(), Right: right.String(), Difference: left.Sub(right).String(), Holds: left.Equal(right),
		})
	}
	keys := AuditCheck{
		ID: "I3", Name: "every counter of every hour, tenant, model, route: log = roll-ups", Left: fmt.Sprint(f.logKeys), Right: fmt.Sprint(f.rollupKeys),
		Difference: fmt.Sprint(f.wrongCount), Holds: f.wrongCount == 0,
	}
	var parts []string
	for i := range f.wrong {
		parts = append(parts, f.wrong[i].String())
	}
	if f.wrongCount > len(f.wrong) {
		parts = append(parts, fmt.Sprintf("and %d more", f.wrongCount-len(f.wrong)))
	}
	keys.Detail = strings.Join(parts, "; ")
	return append(checks, keys)
}

// latencyFacts compares the calls of roll-ups with those in their histograms.
type latencyFacts struct {
	calls, inHistograms uint64
	wrong               []string
	wrongCount          int
}

// add looks at one roll-up: how many calls and answers it has, and its two histograms.
func (f *latencyFacts) add(key string, calls, answered int64, latency, ttft []byte) {
	l, err1 := DecodeHistogram(latency)
	t, err2 := DecodeHistogram(ttft)
	f.calls += uint64(calls)
	f.inHistograms += l.Count()
	if err1 == nil && err2 == nil && l.Count() == uint64(calls) && t.Count() == uint64(answered) {
		return
	}
	if f.wrongCount++; len(f.wrong) >= maxNamed {
		return
	}
	if err1 != nil || err2 != nil {
		f.wrong = append(f.wrong, key+": a histogram cannot be read")
		return
	}
	f.wrong = append(f.wrong, fmt.Sprintf("%s: %d calls and %d answers, the histograms have %d and %d", key, calls, answered, l.Count(), t.Count()))
}

func (f *latencyFacts) check() AuditCheck {
	return AuditCheck{
		ID: "I3-latency", Name: "calls: roll-ups = latency histograms", Left: fmt.Sprint(f.calls), Right: fmt.Sprint(f.inHistograms),
		Difference: fmt.Sprint(int64(f.calls) - int64(f.inHistograms)), Holds: f.wrongCount == 0, Detail: named(f.wrong, f.wrongCount),
	}
}

// cacheFacts compares gateway_cache_performance with the roll-ups, hour by hour and tenant by tenant.
type cacheFacts struct {
	calls, requests int64
	wrong           []string
	wrongCount      int
}

func (f *cacheFacts) check() AuditCheck {
	return AuditCheck{
		ID: "I3-cache", Name: "calls: roll-ups = gateway_cache_performance", Left: fmt.Sprint(f.calls), Right: fmt.Sprint(f.requests),
		Difference: fmt.Sprint(f.calls - f.requests), Holds: f.wrongCount == 0, Detail: named(f.wrong, f.wrongCount),
	}
}

// costFacts compares each cost with what its source said.
type costFacts struct {
	charged, said decimal.Decimal // US$
	wrong         []string        // rows whose cost is not what their source said
	wrongCount    int
}

func (f *costFacts) check() AuditCheck {
	return AuditCheck{
		ID: "I7", Name: "US$ charged = US$ by gateway or price list", Left: f.charged.String(), Right: f.said.String(),
		Difference: f.charged.Sub(f.said).String(), Holds: f.wrongCount == 0 && f.charged.Equal(f.said), Detail: named(f.wrong, f.wrongCount),
	}
}

// maxNamed is how many faults of a kind a report names.
const maxNamed = 10

func named(wrong []string, count int) string {
	if count > len(wrong) {
		wrong = append(slices.Clone(wrong), fmt.Sprintf("and %d more", count-len(wrong)))
	}
	return strings.Join(wrong, "; ")
}

// add takes a row of a store's comparison: how many are wrong, or -1 in the row of the sums, then calls and requests, hits
// by the roll-ups and by the table, and milliseconds by the two.
func (f *cacheFacts) add(key string, n [7]int64) {
	if n[0] < 0 {
		f.calls, f.requests = n[1], n[2]
		return
	}
	f.wrongCount = int(n[0])
	f.wrong = append(f.wrong, fmt.Sprintf("%s: roll-ups have %d calls, %d hits, %d ms; the table has %d, %d, %d", key, n[1], n[3], n[5], n[2], n[4], n[6]))
}

// add takes a row of a store's comparison: how many are wrong, or -1 in the row of the sums.
func (f *costFacts) add(count int64, key, charged, said string) (err error) {
	if count < 0 {
		if f.charged, err = decimal.NewFromString(charged); err == nil {
			f.said, err = decimal.NewFromString(said)
		}
		return err
	}
	f.wrongCount = int(count)
	f.wrong = append(f.wrong, fmt.Sprintf("%s: charged %s, its source said %s", key, charged, said))
	return nil
}

// of is the sum that rows of a source belong to.
func (t *AuditTotals) of(source string) *AuditAmount {
	switch source {
	case "measured":
		return &t.Measured
	case "estimated":
		return &t.Estimated
	case "dead":
		return &t.Dead
	}
	return &t.None
}

// forgetProxies is after how long without a word a proxy is no more listed. What it held is kept.
const forgetProxies = 30 * 24 * time.Hour

// costRows are all rows with what was charged and what should have been: what its source said, nothing without a source,
// and nothing from our own cache. A correction should make up, together with the call that it corrects, what the later
// source said; one whose call is gone is held to that alone.
const costRows = `(
	SELECT incarnation, seq, created_at, cost_usd, CASE WHEN was_cached THEN cost_usd * 0 WHEN cost_source = 'gateway' THEN cost_usd_gateway
		WHEN cost_source = 'list' THEN cost_usd_list ELSE cost_usd * 0 END AS said
	FROM gateway_usage_logs WHERE created_at >= $1 AND corrects IS NULL
	UNION ALL
	SELECT c.incarnation, c.seq, c.created_at, c.cost_usd, CASE WHEN c.cost_usd IS NULL THEN NULL
		WHEN c.cost_source = 'gateway' THEN coalesce(e.cost_usd_gateway, 0) + c.cost_usd_gateway - coalesce(e.cost_usd, 0)
		WHEN c.cost_source = 'list' THEN coalesce(e.cost_usd_list, 0) + c.cost_usd_list - coalesce(e.cost_usd, 0)
		ELSE 0 - coalesce(e.cost_usd, 0) END
	FROM gateway_usage_logs c LEFT JOIN gateway_usage_logs e
		ON e.client_id = c.client_id AND e.created_at = c.created_at AND e.incarnation = c.incarnation AND e.seq = -c.seq
	WHERE c.created_at >= $1 AND c.corrects IS NOT NULL
) x`

// amountColumns are those of AuditAmount in the log, but for calls and money.
const amountColumns = "input_tokens, output_tokens, total_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, audio_ms, images, characters"
