package money

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/shopspring/decimal"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Pico{
		"0":                       0,
		"1":                       Unit,
		"0.00190375":              1_903_750_000,
		"1.5e-7":                  150_000,
		"0.0000000000001":         1, // finer than a pico-unit: away from free
		"9223372.036854775807":    math.MaxInt64,
		"-0.000000000001":         -1,
		"00000000000000000000001": Unit,
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "x", "1e999999999", "9223372.036854775808", "NaN", "1,5", "1e-99999"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
		}
	}
}

func TestStringAndAppendAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		p := Pico(r.Uint64() >> r.IntN(64))
		if i%3 == 0 {
			p = -p
		}
		if got := string(p.AppendTo(nil)); got != p.String() {
			t.Fatalf("AppendTo(%d) = %s, String = %s", int64(p), got, p)
		}
		back, err := Parse(p.String())
		if err != nil || back != p {
			t.Fatalf("Parse(String(%d)) = %d, %v", int64(p), int64(back), err)
		}
	}
}

func TestMulDivUpAgainstBigIntegers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		a, b, c := r.Int64()>>r.IntN(63), r.Int64()>>r.IntN(63), r.Int64()>>r.IntN(62)+1
		want := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
		want.Add(want, big.NewInt(c-1)).Div(want, big.NewInt(c))
		got, ok := MulDivUp(a, b, c)
		if ok != want.IsInt64() || ok && got != want.Int64() {
			t.Fatalf("MulDivUp(%d, %d, %d) = %d, %v; want %s", a, b, c, got, ok, want)
		}
	}
	for _, bad := range [][3]int64{{-1, 1, 1}, {1, -1, 1}, {1, 1, 0}, {1, 1, -1}} {
		if _, ok := MulDivUp(bad[0], bad[1], bad[2]); ok {
			t.Errorf("MulDivUp(%v) was accepted", bad)
		}
	}
}

func TestConvertRoundsUpOnce(t *testing.T) {
	rate, err := ParseRate("5.1442")
	if err != nil {
		t.Fatal(err)
	}
	for usd, want := range map[Pico]Pico{0: 0, 1: 6, Unit: 5_144_200_000_000, 1_903_750_000: 9_793_270_750} {
		if got, ok := rate.Convert(usd); !ok || got != want {
			t.Errorf("Convert(%d) = %d, %v; want %d", usd, got, ok, want)
		}
	}
	if _, ok := rate.Convert(math.MaxInt64); ok {
		t.Error("an amount that does not fit was converted")
	}
	for _, bad := range []string{"0", "-1", "x", "1001", "", "1e9"} {
		if _, err := ParseRate(bad); err == nil {
			t.Errorf("ParseRate(%q) was accepted", bad)
		}
	}
}

func TestAddSeesOverflow(t *testing.T) {
	for _, c := range []struct {
		a, b Pico
		ok   bool
	}{{1, 2, true}, {math.MaxInt64, 1, false}, {math.MinInt64, -1, false}, {5, 0, true}, {0, 0, true}, {-5, 3, true}} {
		if _, ok := c.a.Add(c.b); ok != c.ok {
			t.Errorf("%d + %d: ok = %v", c.a, c.b, ok)
		}
	}
}

func TestFromDecimalIsExact(t *testing.T) {
	d := decimal.RequireFromString("0.0375").Shift(-6) // a price for a million, for one
	if got, err := FromDecimal(d); err != nil || got != 37_500 {
		t.Errorf("a cached token at US$ 0.0375 per million is %d pico, %v; want 37500", got, err)
	}
}
