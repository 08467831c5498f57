package metering

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// histogramShapes are ways in which latencies are spread, in milliseconds.
var histogramShapes = map[string]func(r *rand.Rand) int64{
	"uniform":      func(r *rand.Rand) int64 { return r.Int64N(60_000) },
	"small":        func(r *rand.Rand) int64 { return r.Int64N(120) },
	"lognormal":    func(r *rand.Rand) int64 { return int64(math.Exp(r.NormFloat64()*0.8 + 7)) },
	"two humps":    func(r *rand.Rand) int64 { return int64(max(0, r.NormFloat64()*15+80+float64(r.IntN(2))*9000)) },
	"heavy tail":   func(r *rand.Rand) int64 { return int64(50 / math.Pow(1-r.Float64(), 1.2)) },
	"all the same": func(*rand.Rand) int64 { return 1234 },
}

func TestHistogramQuantiles(t *testing.T) {
	for name, shape := range histogramShapes {
		for seed := range uint64(5) {
			r := rand.New(rand.NewPCG(seed, 77))
			var h Histogram
			all := make([]int64, 100_000)
			for i := range all {
				all[i] = shape(r)
				h.Add(all[i])
			}
			if h.Count() != uint64(len(all)) {
				t.Fatalf("%s: %d counted of %d", name, h.Count(), len(all))
			}
			slices.Sort(all)
			for _, q := range []float64{0, 0.001, 0.5, 0.9, 0.95, 0.99, 0.999, 1} {
				want := all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
				got := h.Quantile(q)
				if math.Abs(float64(got-want)) > 0.02*float64(want) {
					t.Errorf("%s, seed %d: p%v is %d, want %d within 2 %%", name, seed, 100*q, got, want)
				}
			}
		}
	}
}

// Every single value, alone, comes back within 2 %, up to a day and beyond.
func TestHistogramBuckets(t *testing.T) {
	for ms := int64(0); ms < 400_000_000; ms += 1 + ms/1000 {
		var h Histogram
		h.Add(ms)
		got := h.Quantile(0.5)
		if ms < 50 && got != ms || math.Abs(float64(got-ms)) > 0.02*float64(ms) {
			t.Fatalf("%d ms came back as %d", ms, got)
		}
	}
	var h Histogram
	h.Add(math.MaxInt64)
	h.Add(-7)
	if h.Count() != 2 || h.Quantile(0) != 0 || h.Quantile(1) < 30*24*60*60*1000 {
		t.Errorf("%d counted, from %d to %d", h.Count(), h.Quantile(0), h.Quantile(1))
	}
	if n := len(bucketEnds); n > 1200 {
		t.Errorf("%d buckets", n)
	}
	if h = (Histogram{}); h.Quantile(0.5) != 0 || h.Count() != 0 || len(h.Append(nil)) != 0 {
		t.Error("the empty histogram is not empty")
	}
}

func TestHistogramMergesInAnyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var whole Histogram
		parts := make([]Histogram, 1+r.IntN(9))
		shape := histogramShapes[[]string{"small", "lognormal", "heavy tail"}[r.IntN(3)]]
		for range r.IntN(3000) {
			ms := shape(r)
			whole.Add(ms)
			parts[r.IntN(len(parts))].Add(ms)
		}
		want := whole.Append(nil)
		for range 5 {
			// Some are merged as they are, some as the bytes of several in a row, some in groups of their own.
			r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			var sum, group Histogram
			var row []byte
			for i := range parts {
				switch r.IntN(3) {
				case 0:
					sum.Merge(&parts[i])
				case 1:
					group.Merge(&parts[i])
				default:
					row = parts[i].Append(row)
				}
			}
			decoded, err := DecodeHistogram(row)
			if err != nil {
				t.Fatal(err)
			}
			group.Merge(&decoded)
			sum.Merge(&group)
			if got := sum.Append(nil); !bytes.Equal(got, want) {
				t.Fatalf("merged in another order: %x, want %x", got, want)
			}
		}
		for i := range parts { // merging reads what it merges and keeps none of it
			before := parts[i].Append(nil)
			var sum Histogram
			sum.Merge(&parts[i])
			sum.Add(5)
			sum.Add(5000)
			if !bytes.Equal(parts[i].Append(nil), before) {
				t.Fatal("a merged histogram changed with the sum")
			}
		}
	}
}

func TestDecodeHistogramRefuses(t *testing.T) {
	var h Histogram
	for _, ms := range []int64{3, 70, 70, 4000} {
		h.Add(ms)
	}
	good := h.Append(nil)
	for end := 1; end < len(good); end++ {
		if _, err := DecodeHistogram(good[:end]); !errors.Is(err, errHistogram) {
			t.Errorf("cut after %d bytes: %v", end, err)
		}
	}
	for name, raw := range map[string][]byte{
		"another version":       append([]byte{2}, good[1:]...),
		"no buckets":            {1, 0},
		"more buckets than are": {1, 0xff, 0xff, 0x7f},
		"the same bucket twice": {1, 2, 5, 1, 0, 1},
		"past the last bucket":  {1, 1, 0xff, 0x7f, 1},
		"an empty bucket":       {1, 1, 5, 0},
		"a number too long":     {1, 1, 0x85, 0x00, 1},
		"too many calls":        {1, 2, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 1},
		"something behind":      append(slices.Clone(good), 0),
	} {
		if _, err := DecodeHistogram(raw); !errors.Is(err, errHistogram) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzHistogram(f *testing.F) {
	var h Histogram
	for ms := int64(1); ms < 1<<40; ms *= 3 {
		h.AddTimes(ms, uint64(ms))
	}
	f.Add(h.Append(nil))
	f.Add(h.Append(h.Append(nil)))
	f.Add([]byte{1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := DecodeHistogram(raw)
		if err != nil {
			return
		}
		whole := h.Append(nil)
		again, err := DecodeHistogram(whole)
		if err != nil || !bytes.Equal(again.Append(nil), whole) || again.Count() != h.Count() {
			t.Fatalf("%x became %x, %v", raw, whole, err)
		}
		if len(whole) > len(raw) {
			t.Fatalf("%x is longer as %x", raw, whole)
		}
		for _, q := range []float64{0, 0.5, 0.999, 1, math.NaN(), math.Inf(1)} {
			if v := h.Quantile(q); v < 0 {
				t.Fatalf("p%v is %d", q, v)
			}
		}
	})
}

func BenchmarkHistogramAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	values := make([]int64, 4096)
	for i := range values {
		values[i] = histogramShapes["lognormal"](r)
	}
	var h Histogram
	for i := 0; b.Loop(); i++ {
		h.Add(values[i%len(values)])
	}
}

func BenchmarkHistogramDecode(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	var h Histogram
	for range 2000 {
		h.Add(histogramShapes["lognormal"](r))
	}
	raw := h.Append(nil)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := DecodeHistogram(raw); err != nil {
			b.Fatal(err)
		}
	}
}
