// Package money holds the one unit that prices, costs and budgets are counted in: the pico-unit, 1e-12 of a dollar or a real.
//
// A price list says at its finest "US$ 0.000001 per million tokens", which is one pico-dollar a token, so a charge is a
// product of two integers and exact. An int64 of them holds 9.2 million dollars: enough for any one call and any one
// budget period; sums over longer times belong in SQL NUMERIC or decimal.Decimal.
package money

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strings"

	"github.com/shopspring/decimal"
)

// Pico is an amount in 1e-12 of a currency's unit. The currency stands in the name of the variable or field that
// holds it: CostUSD, LimitBRL.
type Pico int64

// Unit is one dollar, or one real.
const Unit Pico = 1_000_000_000_000

// digits is how many decimal places a Pico has.
const digits = 12

// ErrRange says that an amount does not fit an int64 of pico-units (about 9.2 million).
var ErrRange = errors.New("amount out of range: at most 9223372.036854775807")

// FromDecimal converts exactly. An amount finer than a pico-unit is rounded up, away from free: rounding happens once
// a charge and never against the one who pays the upstream.
func FromDecimal(d decimal.Decimal) (Pico, error) {
	shifted := d.Shift(digits).RoundCeil(0).BigInt()
	if !shifted.IsInt64() {
		return 0, ErrRange
	}
	return Pico(shifted.Int64()), nil
}

// Parse reads a decimal number as JSON, SQL and people write it: "0.00190375", "5", "1.5e-7".
func Parse(s string) (Pico, error) {
	// An exponent of millions would make decimal build a number of as many digits.
	if i := strings.IndexAny(s, "eE"); len(s) > 64 || i >= 0 && len(s)-i > 5 {
		return 0, fmt.Errorf("amount %.20q: %w", s, ErrRange)
	}
	d, err := decimal.NewFromString(s)
	if err != nil {
		return 0, fmt.Errorf("amount %q is not a decimal number", s)
	}
	return FromDecimal(d)
}

// Decimal is p in whole units, exactly.
func (p Pico) Decimal() decimal.Decimal { return decimal.New(int64(p), -digits) }

// String writes p in whole units with no trailing zeros: "0.00190375".
func (p Pico) String() string { return p.Decimal().String() }

// AppendTo appends String to dst without allocating; the hot path writes cost headers with it.
func (p Pico) AppendTo(dst []byte) []byte {
	u := uint64(p)
	if p < 0 {
		dst = append(dst, '-')
		u = -u
	}
	whole, frac := u/uint64(Unit), u%uint64(Unit)
	var tmp [20]byte
	i := len(tmp)
	for {
		i--
		tmp[i] = byte('0' + whole%10)
		whole /= 10
		if whole == 0 {
			break
		}
	}
	dst = append(dst, tmp[i:]...)
	if frac == 0 {
		return dst
	}
	for i = digits - 1; i >= 0; i-- {
		tmp[i] = byte('0' + frac%10)
		frac /= 10
	}
	end := digits
	for tmp[end-1] == '0' {
		end--
	}
	return append(append(dst, '.'), tmp[:end]...)
}

// Times is p for n pieces, for example a price per token times tokens. ok is false when it does not fit.
func (p Pico) Times(n int64) (product Pico, ok bool) {
	v, ok := MulDivUp(int64(p), n, 1)
	return Pico(v), ok
}

// Add is p + q; ok is false when it does not fit.
func (p Pico) Add(q Pico) (sum Pico, ok bool) {
	s := p + q
	return s, (s > p) == (q > 0)
}

// MulDivUp is a*b/c rounded up, with a 128-bit product. a and b must not be negative and c must be positive; ok is
// false when that is broken or the quotient does not fit.
func MulDivUp(a, b, c int64) (quotient int64, ok bool) {
	if a < 0 || b < 0 || c <= 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return 0, false
	}
	q, r := bits.Div64(hi, lo, uint64(c))
	if r > 0 {
		q++
	}
	if q > math.MaxInt64 {
		return 0, false
	}
	return int64(q), true
}

// Rate is an exchange rate: BRL for one USD, in 1e-8. Sources give four to six places.
type Rate int64

// RateUnit is a rate of exactly 1.
const RateUnit Rate = 100_000_000

// ParseRate reads a rate such as "5.1442". It refuses zero and less, and what no real rate could be.
func ParseRate(s string) (Rate, error) {
	d, err := decimal.NewFromString(s)
	if err != nil || len(s) > 32 {
		return 0, fmt.Errorf("exchange rate %.32q is not a decimal number", s)
	}
	v := d.Shift(8).Round(0).BigInt()
	if v.Sign() <= 0 || v.Cmp(big.NewInt(int64(RateUnit)*1000)) > 0 {
		return 0, fmt.Errorf("exchange rate %s is outside 0 … 1000", d)
	}
	return Rate(v.Int64()), nil
}

// Decimal is r as a number: 5.1442.
func (r Rate) Decimal() decimal.Decimal { return decimal.New(int64(r), -8) }

// String writes r with no trailing zeros.
func (r Rate) String() string { return r.Decimal().String() }

// Convert is usd in reais, rounded up to the pico once. ok is false when it does not fit.
func (r Rate) Convert(usd Pico) (brl Pico, ok bool) {
	v, ok := MulDivUp(int64(usd), int64(r), int64(RateUnit))
	return Pico(v), ok
}
