package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets that grow by an eighth, in microseconds: about 6 % of error at any size.
type histogram struct {
	counts [8 * 40]atomic.Int64
}

func bucket(us uint64) int {
	if us < 8 {
		return int(us)
	}
	e := bits.Len64(us) - 4
	return min(e*8+int(us>>e), len(histogram{}.counts)-1)
}

// low is the smallest number of microseconds in a bucket.
func low(i int) float64 {
	if i < 16 {
		return float64(i)
	}
	e := i/8 - 1
	return float64(uint64(i-e*8) << e)
}

func (h *histogram) add(d time.Duration) { h.counts[bucket(uint64(d.Microseconds()))].Add(1) }

func (h *histogram) reset() {
	for i := range h.counts {
		h.counts[i].Store(0)
	}
}

// quantile gives milliseconds.
func (h *histogram) quantile(q float64) float64 {
	var total, sum int64
	for i := range h.counts {
		total += h.counts[i].Load()
	}
	for i := range h.counts {
		sum += h.counts[i].Load()
		if total > 0 && float64(sum) >= q*float64(total) {
			return (low(i) + low(i+1)) / 2 / 1000
		}
	}
	return 0
}
