package metering

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// What a batch changes beside the log is worked out here, from the rows that the log took as new, once for both stores:
//
//	fresh rows ──► fold ──► usage_rollups               one row an hour, client, model, provider, route and endpoint
//	                        gateway_cache_performance   one row an hour and client
//	                        usage_estimates             one row a call that the gateway can be asked about
//
// Everything comes in the order of its keys, which is the order in which the stores lock rows, so that two workers
// cannot wait for each other.
type changes struct {
	rollups []rollupChange
	caches  []cacheChange
	lookUps []*logRow
}

// rollupKey is what usage_rollups is keyed by.
type rollupKey struct {
	client                          uuid.UUID
	hour                            int64 // microseconds
	model                           uuid.UUID
	name, provider, route, endpoint string
}

// rollupChange is what is added to one row of usage_rollups.
type rollupChange struct {
	rollupKey
	counts        Totals
	usd, brl      splitMoney
	latency, ttft Histogram // of calls; a correction took no time
}

// cacheKey is what gateway_cache_performance is keyed by.
type cacheKey struct {
	client uuid.UUID
	hour   int64 // microseconds
}

// cacheChange is what is added to one row of gateway_cache_performance.
//
// An answer from our own cache is an event with WasCached: it cost nothing, so its USD and BRL are 0; its Usage is what
// the call would have used, and its ListUSD what that would have cost by the price list. Those are what was saved.
type cacheChange struct {
	cacheKey
	hits, misses       int64
	tokensSaved        int64
	hitMs, missMs      int64
	savedUSD, savedBRL splitMoney
}

// lookUpAfter is when the gateway is first asked about a call that was cut short. It says "shortly after the end".
const lookUpAfter = 30 * time.Second

// splitMoney is an amount as whole units and a rest of at least 0 and less than one unit, each far from overflow
// whatever is added up.
type splitMoney struct{ whole, pico int64 }

func (s *splitMoney) add(n nullInt64) {
	if !n.Valid {
		return
	}
	const unit = int64(money.Unit)
	s.whole += n.V / unit
	s.pico += n.V % unit
	switch {
	case s.pico >= unit:
		s.whole, s.pico = s.whole+1, s.pico-unit
	case s.pico < 0:
		s.whole, s.pico = s.whole-1, s.pico+unit
	}
}

// fold adds rows up. A batch is far too small for its counts, each at most maxCount, to overflow.
func fold(rows []*logRow) changes {
	var c changes
	rollups := make(map[rollupKey]int, len(rows))
	caches := make(map[cacheKey]int)
	for _, r := range rows {
		hour := r.AdmittedAt.Truncate(time.Hour).UnixMicro()
		key := rollupKey{r.ClientID, hour, r.ModelID, r.model, r.Provider, r.Route, r.Endpoint}
		i, ok := rollups[key]
		if !ok {
			i = len(c.rollups)
			rollups[key] = i
			c.rollups = append(c.rollups, rollupChange{rollupKey: key})
		}
		c.rollups[i].add(r)
		if r.isCorrection() {
			continue
		}
		ofCache := cacheKey{r.ClientID, hour}
		if i, ok = caches[ofCache]; !ok {
			i = len(c.caches)
			caches[ofCache] = i
			c.caches = append(c.caches, cacheChange{cacheKey: ofCache})
		}
		c.caches[i].add(r)
		if r.Usage.Source == Estimated && r.Route == "gateway" && strings.HasPrefix(r.UpstreamID, "gen_") {
			c.lookUps = append(c.lookUps, r)
		}
	}
	slices.SortFunc(c.rollups, func(a, b rollupChange) int { return a.compare(&b.rollupKey) })
	slices.SortFunc(c.caches, func(a, b cacheChange) int {
		return cmp.Or(bytes.Compare(a.client[:], b.client[:]), cmp.Compare(a.hour, b.hour))
	})
	slices.SortFunc(c.lookUps, compareRows)
	return c
}

// freshEvents is the rows as a step of the transaction gets them: as they were handed in, but for what a column cannot
// hold.
func freshEvents(fresh []*logRow) []Event {
	events := make([]Event, len(fresh))
	for i, r := range fresh {
		events[i] = r.Event
		events[i].Incarnation, events[i].Seq = uint64(r.incarnation), uint64(r.seq)
	}
	return events
}

func (k *rollupKey) compare(o *rollupKey) int {
	return cmp.Or(
		bytes.Compare(k.client[:], o.client[:]), cmp.Compare(k.hour, o.hour), bytes.Compare(k.model[:], o.model[:]),
		strings.Compare(k.name, o.name), strings.Compare(k.provider, o.provider), strings.Compare(k.route, o.route),
		strings.Compare(k.endpoint, o.endpoint),
	)
}

// compareRows is the order of the log's key.
func compareRows(a, b *logRow) int {
	return cmp.Or(
		bytes.Compare(a.ClientID[:], b.ClientID[:]), a.AdmittedAt.Compare(b.AdmittedAt),
		cmp.Compare(a.incarnation, b.incarnation), cmp.Compare(a.seq, b.seq),
	)
}

func (c *rollupChange) add(r *logRow) {
	counts := r.count()
	c.counts.addCounts(&counts)
	c.usd.add(r.usd)
	c.brl.add(r.brl)
	if r.isCorrection() {
		return
	}
	c.latency.Add(r.LatencyMs)
	if r.TTFTMs > 0 {
		c.ttft.Add(r.TTFTMs)
	}
}

func (c *cacheChange) add(r *logRow) {
	if !r.WasCached {
		c.misses++
		c.missMs += r.LatencyMs
		return
	}
	c.hits++
	c.hitMs += r.LatencyMs
	c.tokensSaved += r.Usage.Total
	c.savedUSD.add(r.listUSD)
	if brl, ok := r.Rate.Rate.Convert(max(money.Pico(r.listUSD.V), 0)); ok && r.listUSD.Valid {
		c.savedBRL.add(nullInt64{V: int64(brl), Valid: true})
	}
}

// rollupKeys are the columns of rollupKey.
const rollupKeys = "client_id, hour, model_registry_id, model_name, provider, route, endpoint"

// A histogram of a roll-up grows by appending what a batch adds, because a row that is changed anyway costs the least
// when nothing of it has to be read, merged here and written a second time. What has become long is then written anew,
// as one part; histogramRoom is how long both may be until then: twice what they need, so that it happens rarely, and
// some more, so that a young roll-up is left alone.
func histogramRoom(latency, ttft []byte) int64 { return int64(2*(len(latency)+len(ttft)) + 512) }

// shorten merges the parts of the two histograms of a roll-up.
func shorten(latency, ttft []byte) (shortLatency, shortTTFT []byte, room int64, err error) {
	l, err := DecodeHistogram(latency)
	if err != nil {
		return nil, nil, 0, err
	}
	t, err := DecodeHistogram(ttft)
	if err != nil {
		return nil, nil, 0, err
	}
	// Not nil when there is nothing: the columns are not null.
	shortLatency, shortTTFT = l.Append([]byte{}), t.Append([]byte{})
	return shortLatency, shortTTFT, histogramRoom(shortLatency, shortTTFT), nil
}
