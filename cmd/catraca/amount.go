package main

import (
	"strconv"
	"strings"

	"github.com/shopspring/decimal"
)

// reais writes an amount as Brazilians do: R$ 1.234,56.
func reais(d decimal.Decimal) string { return "R$ " + grouped(d, ".", ",") }

// dollars writes an amount as Americans do: US$ 1,234.56.
func dollars(d decimal.Decimal) string { return "US$ " + grouped(d, ",", ".") }

// grouped writes two decimal places, and below one unit as many as show three digits that are not zero: one cheap call
// costs R$ 0,00042, and with two places all of them would be free.
func grouped(d decimal.Decimal, thousands, point string) string {
	places := int32(2)
	if a := d.Abs(); !a.IsZero() && a.LessThan(decimal.New(1, 0)) {
		// A number below one of n digits and exponent e has its first digit at place -e-n+1.
		first := -a.Exponent() - int32(a.NumDigits()) + 1
		places = max(2, first+2)
	}
	text := d.StringFixed(places)
	sign := ""
	if text, _ = strings.CutPrefix(text, "-"); d.IsNegative() {
		sign = "-"
	}
	whole, fraction, _ := strings.Cut(text, ".")
	for len(fraction) > 2 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return sign + inGroups(whole, thousands) + point + fraction
}

// count writes a whole number with its thousands apart.
func count(n int64) string {
	text, negative := strings.CutPrefix(strconv.FormatInt(n, 10), "-")
	if negative {
		return "-" + inGroups(text, ",")
	}
	return inGroups(text, ",")
}

// countOf writes a number with what it is a number of.
func countOf(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

func inGroups(digits, separator string) string {
	var b strings.Builder
	for i, r := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteString(separator)
		}
		b.WriteRune(r)
	}
	return b.String()
}
