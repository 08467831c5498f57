package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size. It is written as a whole number, with KiB, MiB, GiB or TiB behind it if one likes.
type Bytes int64

// units of sizes, the largest first, so that a size prints in the largest that divides it.
func units() []struct {
	suffix string
	factor int64
} {
	return []struct {
		suffix string
		factor int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, factor := strings.TrimSpace(string(text)), int64(1)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return errors.New("write a size such as 33554432, 32MiB or 4GiB")
	}
	*b = Bytes(n * factor)
	return nil
}

// String writes the size in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range units() {
		if b != 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
