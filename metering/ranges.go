package metering

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Contains tells whether n is in the set.
func (r Ranges) Contains(n uint64) bool {
	i, _ := slices.BinarySearchFunc(r, n, func(iv [2]uint64, n uint64) int { return cmp.Compare(iv[1], n) })
	return i < len(r) && r[i][0] <= n
}

// Count is how many numbers the set has.
func (r Ranges) Count() uint64 {
	var n uint64
	for _, iv := range r {
		n += iv[1] - iv[0] + 1
	}
	return n
}

// Union is every number of r and of q. Neither need be sorted, and intervals may touch or overlap: the result is in order.
func (r Ranges) Union(q Ranges) Ranges {
	all := slices.Concat(r, q)
	slices.SortFunc(all, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	out := all[:0]
	for _, iv := range all {
		if iv[0] > iv[1] {
			continue
		}
		last := len(out) - 1
		// Written so that it cannot overflow where an interval ends at the largest number.
		if last >= 0 && (iv[0] <= out[last][1] || iv[0]-out[last][1] == 1) {
			out[last][1] = max(out[last][1], iv[1])
			continue
		}
		out = append(out, iv)
	}
	return out
}

// Add is r with n.
func (r Ranges) Add(n uint64) Ranges {
	// Numbers come nearly in order, so the end is where to look first.
	if last := len(r) - 1; last >= 0 && r[last][1] < n && n-r[last][1] == 1 {
		r[last][1] = n
		return r
	}
	if r.Contains(n) {
		return r
	}
	return r.Union(Ranges{{n, n}})
}

// String writes the set as "1-500,502,510-512"; ParseRanges reads it.
func (r Ranges) String() string {
	var b []byte
	for i, iv := range r {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, iv[0], 10)
		if iv[1] != iv[0] {
			b = strconv.AppendUint(append(b, '-'), iv[1], 10)
		}
	}
	return string(b)
}

// ParseRanges reads what String writes. Out of order, overlapping or touching intervals are refused: whoever wrote
// them did not mean what we would read.
func ParseRanges(s string) (Ranges, error) {
	if s == "" {
		return nil, nil
	}
	r := make(Ranges, 0, 1+strings.Count(s, ","))
	for part := range strings.SplitSeq(s, ",") {
		low, high, both := strings.Cut(part, "-")
		if !both {
			high = low
		}
		a, errA := strconv.ParseUint(low, 10, 64)
		b, errB := strconv.ParseUint(high, 10, 64)
		last := len(r) - 1
		if errA != nil || errB != nil || a > b || last >= 0 && (a <= r[last][1] || a-r[last][1] == 1) {
			return nil, fmt.Errorf("ranges: %.40q is not an interval that can stand here", part)
		}
		r = append(r, [2]uint64{a, b})
	}
	return r, nil
}
