package metering

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRanges(t *testing.T) {
	const top = math.MaxUint64
	f := func(a, b Ranges, want string) {
		t.Helper()
		if got := a.Union(b).String(); got != want {
			t.Errorf("%v and %v: got %s, want %s", a, b, got, want)
		}
		if got := b.Union(a).String(); got != want {
			t.Errorf("%v and %v: got %s, want %s", b, a, got, want)
		}
	}
	f(nil, nil, "")
	f(Ranges{{1, 3}}, nil, "1-3")
	f(Ranges{{1, 3}}, Ranges{{4, 4}}, "1-4")
	f(Ranges{{1, 3}}, Ranges{{5, 9}}, "1-3,5-9")
	f(Ranges{{1, 9}}, Ranges{{2, 3}, {11, 12}}, "1-9,11-12")
	f(Ranges{{7, 5}}, Ranges{{2, 2}}, "2")
	f(Ranges{{0, 0}, {top, top}}, Ranges{{1, top - 1}}, "0-18446744073709551615")
	f(Ranges{{5, top}}, Ranges{{3, 3}}, "3,5-18446744073709551615")
}

func TestRangesEqualAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var set Ranges
		model := map[uint64]bool{}
		for range r.IntN(60) {
			n := r.Uint64N(50)
			set, model[n] = set.Add(n), true
		}
		if set.Count() != uint64(len(model)) {
			t.Fatalf("%v counts %d, want %d", set, set.Count(), len(model))
		}
		for n := range uint64(60) {
			if set.Contains(n) != model[n] {
				t.Fatalf("%v contains %d: %v", set, n, set.Contains(n))
			}
		}
		back, err := ParseRanges(set.String())
		if err != nil || !slices.Equal(back, set) {
			t.Fatalf("%v read back as %v, %v", set, back, err)
		}
	}
}

func TestParseRangesRefuses(t *testing.T) {
	for _, s := range []string{
		",", "1,", "-", "1-", "-1", "a", "3-1", "1-3,2", "1-3,4", "5,1", "1,1", "0x1", "1 ", "+1", "18446744073709551616", "1-2-3",
	} {
		if r, err := ParseRanges(s); err == nil {
			t.Errorf("%q was read as %v", s, r)
		}
	}
}
