package metering

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
)

// A Histogram keeps how long many calls took, in so little room that one stands in each row of the roll-ups, and so that
// quantiles over any hours, clients or models are those of all their calls: adding histograms up loses nothing.
//
// Its buckets grow by 101/99, so that a quantile is within 1 % of the time that some call really took, and within 2 %
// as a whole number; up to 49 ms every bucket is one millisecond and the quantile is exact. The zero value is empty.
type Histogram struct {
	buckets []bucket // by index, ascending, none of them empty
}

type bucket struct {
	index uint16
	n     uint64
}

// bucketEnds is the last millisecond of each bucket. It is made of whole numbers only, so that all machines have the
// same buckets. The last one takes all that is longer than a month.
var bucketEnds = makeBucketEnds()

func makeBucketEnds() []int64 {
	const month = 31 * 24 * 60 * 60 * 1000
	ends := []int64{0}
	for first := int64(1); first <= month; first = ends[len(ends)-1] + 1 {
		ends = append(ends, first*101/99)
	}
	return append(ends, math.MaxInt64)
}

// Add counts a call that took so many milliseconds.
func (h *Histogram) Add(ms int64) { h.AddTimes(ms, 1) }

// AddTimes counts n calls that took so many milliseconds each.
func (h *Histogram) AddTimes(ms int64, n uint64) {
	if n == 0 {
		return
	}
	i, _ := slices.BinarySearch(bucketEnds, max(ms, 0))
	index := uint16(i)
	at, found := slices.BinarySearchFunc(h.buckets, index, func(b bucket, index uint16) int { return cmp.Compare(b.index, index) })
	if found {
		h.buckets[at].n += n
		return
	}
	h.buckets = slices.Insert(h.buckets, at, bucket{index, n})
}

// Merge counts all calls of another histogram as well.
func (h *Histogram) Merge(o *Histogram) {
	switch {
	case len(o.buckets) == 0:
		return
	case len(h.buckets) == 0:
		h.buckets = slices.Clone(o.buckets)
		return
	}
	merged := make([]bucket, 0, len(h.buckets)+len(o.buckets))
	a, b := h.buckets, o.buckets
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].index < b[0].index:
			merged, a = append(merged, a[0]), a[1:]
		case a[0].index > b[0].index:
			merged, b = append(merged, b[0]), b[1:]
		default:
			merged = append(merged, bucket{a[0].index, a[0].n + b[0].n})
			a, b = a[1:], b[1:]
		}
	}
	h.buckets = append(append(merged, a...), b...)
}

// Count is how many calls were counted.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, b := range h.buckets {
		n += b.n
	}
	return n
}

// Quantile is the time in milliseconds that the share q of the calls did not exceed, such as 0.95; 0 when there are none.
func (h *Histogram) Quantile(q float64) int64 {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(min(max(q, 0), 1) * float64(total)))
	rank = min(max(rank, 1), total)
	var seen uint64
	for _, b := range h.buckets {
		if seen += b.n; seen >= rank {
			return middle(b.index)
		}
	}
	panic("BUG: the buckets of a histogram hold fewer calls than it counts")
}

// middle is the value that is as far, in proportion, from the first millisecond of a bucket as from its last.
func middle(index uint16) int64 {
	if index == 0 {
		return 0
	}
	first, last := float64(bucketEnds[index-1]+1), float64(bucketEnds[index])
	if int(index) == len(bucketEnds)-1 {
		return bucketEnds[index-1] + 1 // it has no end
	}
	return int64(math.Round(2 * first * last / (first + last)))
}

// The encoding is any number of parts, one after the other, which add up:
//
//	version u8 │ buckets uvarint │ for each: its index as the distance from the one before, uvarint │ calls, uvarint
//
// A store can so add to a histogram by appending a part, without reading it. Append writes one part and the empty
// histogram as nothing, so that equal histograms have equal bytes, however they came to be.
const histogramVersion = 1

var errHistogram = errors.New("not a histogram as this release writes it")

// Append appends the encoding of h.
func (h *Histogram) Append(to []byte) []byte {
	if len(h.buckets) == 0 {
		return to
	}
	to = append(to, histogramVersion)
	to = binary.AppendUvarint(to, uint64(len(h.buckets)))
	last := -1
	for _, b := range h.buckets {
		to = binary.AppendUvarint(to, uint64(int(b.index)-last))
		to = binary.AppendUvarint(to, b.n)
		last = int(b.index)
	}
	return to
}

// DecodeHistogram reads what Append wrote, once or several times in a row.
func DecodeHistogram(from []byte) (Histogram, error) {
	var h Histogram
	var calls uint64
	for len(from) > 0 {
		var part Histogram
		if from[0] != histogramVersion {
			return Histogram{}, errHistogram
		}
		var count uint64
		if count, from = readUvarint(from[1:]); from == nil || count == 0 || count > uint64(len(bucketEnds)) {
			return Histogram{}, errHistogram
		}
		part.buckets = make([]bucket, 0, count)
		index := -1
		for range count {
			var step, n uint64
			if step, from = readUvarint(from); from == nil || step == 0 || step >= uint64(len(bucketEnds)-index) {
				return Histogram{}, errHistogram
			}
			if n, from = readUvarint(from); from == nil || n == 0 || calls+n < calls {
				return Histogram{}, errHistogram
			}
			index += int(step)
			calls += n
			part.buckets = append(part.buckets, bucket{uint16(index), n})
		}
		if len(h.buckets) == 0 {
			h = part // mostly the only one
		} else {
			h.Merge(&part)
		}
	}
	return h, nil
}

// readUvarint reads a number in its shortest form and gives the rest, which is nil when there is no such number.
func readUvarint(from []byte) (v uint64, rest []byte) {
	if len(from) > 0 && from[0] < 0x80 { // nearly all are that small
		return uint64(from[0]), from[1:]
	}
	v, n := binary.Uvarint(from)
	if n <= 0 || n > 1 && from[n-1] == 0 {
		return 0, nil
	}
	return v, from[n:]
}
