package openai

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// The scanner validates the whole JSON grammar in one pass over the body. It reads strings eight bytes at a time: a
// prompt or a base64 image is one long run of plain bytes, and there a loop over single bytes would cost more than the
// rest of the gateway.

const (
	// maxDepth bounds nesting. The scanner keeps one bit for each open container, so depth costs no memory and no stack.
	maxDepth = 64
	// maxNumber bounds the digits of one number; the longest that a float64 needs has fewer than 800.
	maxNumber = 1024

	eachByte = 0x0101010101010101
	topBits  = 0x80 * eachByte
)

// stringFlags tells what a scanned string holds beside plain ASCII.
type stringFlags uint8

const (
	hasEscape stringFlags = 1 << iota
	hasNonASCII
	badString // the string is not valid; the returned index is where
)

// stops marks in the top bit of each byte of x the bytes where a run of plain ASCII inside a string ends: '"', '\\',
// control characters and non-ASCII. The lowest mark is exact; those above it may be wrong, because a subtraction
// borrows from its neighbour.
func stops(x uint64) uint64 {
	// XOR with 2 swaps '"' with ' ' and leaves control characters below 0x20, so one subtraction finds both.
	return (x | (x ^ 0x02*eachByte - 0x21*eachByte) | (x ^ '\\'*eachByte - eachByte)) & topBits
}

// scanString validates the string whose first byte after the opening quote is b[i] and returns the index of its
// closing quote. It begins with words of plain ASCII, and hands over to scanText where they end.
func scanString(b []byte, i int) (end int, f stringFlags) {
	for run := 0; i+8 <= len(b); {
		m := stops(binary.LittleEndian.Uint64(b[i : i+8]))
		if m == 0 {
			i += 8
			if run++; run == 4 {
				i, run = skipLongPlain(b, i), 0
			}
			continue
		}
		i += bits.TrailingZeros64(m) >> 3
		switch c := b[i]; {
		case c == '"':
			return i, f
		case c >= utf8.RuneSelf:
			return scanText(b, i, f|hasNonASCII)
		}
		n := escapeLen(b, i)
		if n == 0 {
			return i, f | badString
		}
		i += n
		f |= hasEscape
	}
	return scanTail(b, i, f)
}

// scanText is scanString for text with accents, where a branch for each of them would cost more than all else, as no
// predictor knows where the next one stands. So a word of ASCII and two-byte sequences (nearly all of Portuguese) is
// checked whole, the same steps whatever is in it; longer sequences go rune by rune.
func scanText(b []byte, i int, f stringFlags) (end int, _ stringFlags) {
	carry := uint64(0) // 0x80 when the word before ended in the first byte of a two-byte sequence
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i : i+8])
		lead, follow := x&(x<<1), x&^(x<<1) // 11...... and 10......, by the top bit of each byte
		// Wrong are: leads of three and four bytes, which are not wrong but not for here; C0 and C1, which would be
		// overlong (a lead must have one of the bits of 0x1e); a lead that nothing follows, and what follows none.
		wrong := lead&(x<<2|^(x&(0x1e*eachByte)+0x7e*eachByte)) | (follow ^ (lead<<8 | carry))
		stop := asciiStops(x)
		if (wrong|stop)&topBits == 0 {
			carry = lead >> 56 & 0x80
			i += 8
			continue
		}
		// Up to the first stop all may be well.
		stop &= topBits
		if first := stop & -stop; stop == 0 || wrong&topBits&(first<<1-1) != 0 {
			var ok bool
			if i, ok = skipRunes(b, i-int(carry>>7), i+8); !ok {
				return i, f | badString
			}
			carry = 0
			continue
		}
		carry = 0
		if i += bits.TrailingZeros64(stop) >> 3; b[i] == '"' {
			return i, f
		}
		n := escapeLen(b, i)
		if n == 0 {
			return i, f | badString
		}
		i += n
		f |= hasEscape
	}
	return scanTail(b, i-int(carry>>7), f)
}

// asciiStops is stops without the marks for non-ASCII, exact beside such bytes. What is not a top bit means nothing.
func asciiStops(x uint64) uint64 {
	return ((x ^ 0x02*eachByte - 0x21*eachByte) | (x ^ '\\'*eachByte - eachByte)) &^ x
}

// scanTail is scanString for the last bytes of a body, one by one.
func scanTail(b []byte, i int, f stringFlags) (int, stringFlags) {
	for i < len(b) {
		n := runeLen(b, i)
		if n == 0 {
			if b[i] == '"' {
				return i, f
			}
			n = escapeLen(b, i)
			f |= hasEscape
		} else if b[i] >= utf8.RuneSelf {
			f |= hasNonASCII
		}
		if n <= 0 {
			return i, f | badString
		}
		i += n
	}
	return len(b), f | badString
}

// skipRunes goes rune by rune to the first ASCII at stop or behind it, or to the first '"', '\\' or control character.
// When ok is false the index is that of the invalid byte.
func skipRunes(b []byte, i, stop int) (at int, ok bool) {
	for i < len(b) && (i < stop || b[i] >= utf8.RuneSelf) {
		n := runeLen(b, i)
		if n <= 0 {
			return i, n == 0
		}
		i += n
	}
	return i, true
}

// skipLongPlain skips blocks of 32 plain bytes.
func skipLongPlain(b []byte, i int) int {
	for i+32 <= len(b) {
		w := b[i : i+32 : i+32]
		m := stops(binary.LittleEndian.Uint64(w[0:8])) | stops(binary.LittleEndian.Uint64(w[8:16])) |
			stops(binary.LittleEndian.Uint64(w[16:24])) | stops(binary.LittleEndian.Uint64(w[24:32]))
		if m != 0 {
			break
		}
		i += 32
	}
	return i
}

// runeLen is the length of the rune at b[i]; 0 when it is '"', '\\' or a control character, -1 when it is invalid.
func runeLen(b []byte, i int) int {
	c := b[i]
	if c < utf8.RuneSelf {
		if c == '"' || c == '\\' || c < ' ' {
			return 0
		}
		return 1
	}
	// Chinese, Japanese and Korean are nearly all three bytes with a lead that allows any two that follow.
	if c > 0xe0 && c < 0xed && len(b)-i >= 3 && b[i+1]&0xc0 == 0x80 && b[i+2]&0xc0 == 0x80 {
		return 3
	}
	if r, n := utf8.DecodeRune(b[i:]); r != utf8.RuneError || n > 1 {
		return n
	}
	return -1
}

// escapeLen is the length of the escape sequence at b[i], 0 when none is there.
func escapeLen(b []byte, i int) int {
	if len(b)-i < 2 || b[i] != '\\' {
		return 0
	}
	switch b[i+1] {
	case 'n', '"', '\\', '/', 't', 'r', 'b', 'f':
		return 2
	case 'u':
		if _, ok := hex4(b[i+2:]); ok {
			return 6
		}
	}
	return 0
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// skipSpace returns the index of the first byte from i on that is not JSON white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) {
		if c := b[i]; c > ' ' || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			break
		}
		i++
	}
	return i
}

// scanNumber returns the index after the number at b[i]; ok is false when it is not one, and the index is where.
func scanNumber(b []byte, i int) (end int, ok bool) {
	start := i
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i, ok = scanDigits(b, i); !ok {
		return i, false
	}
	if i < len(b) && b[i] == '.' {
		if i, ok = scanDigits(b, i+1); !ok {
			return i, false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if i, ok = scanDigits(b, i); !ok {
			return i, false
		}
	}
	return i, i-start <= maxNumber
}

func scanDigits(b []byte, i int) (end int, ok bool) {
	start := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i, i > start
}

// scanLiteral returns the index after true, false or null at b[i].
func scanLiteral(b []byte, i int) (end int, ok bool) {
	word := "null"
	switch b[i] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	}
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return i, false
	}
	return i + len(word), true
}

// appendUnescaped appends what the inside of a validated JSON string stands for. ok is false when a \u escape is half
// of a surrogate pair: parsers replace it by different things, so no name may hold one.
func appendUnescaped(dst, raw []byte) (out []byte, ok bool) {
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			continue
		}
		i++
		switch raw[i] {
		case 'n':
			dst = append(dst, '\n')
		case 't':
			dst = append(dst, '\t')
		case 'r':
			dst = append(dst, '\r')
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'u':
			r, n := escapedRune(raw[i-1:])
			if n == 0 {
				return dst, false
			}
			dst = utf8.AppendRune(dst, r)
			i += n - 2
		default: // '"', '\\', '/'
			dst = append(dst, raw[i])
		}
	}
	return dst, true
}

// escapedRune reads the \u escape, or the pair of them, that raw starts with. n is 0 for half a pair.
func escapedRune(raw []byte) (r rune, n int) {
	r, _ = hex4(raw[2:])
	switch {
	case r < 0xd800 || r > 0xdfff:
		return r, 6
	case r >= 0xdc00 || len(raw) < 12 || raw[6] != '\\' || raw[7] != 'u':
		return 0, 0
	}
	low, ok := hex4(raw[8:])
	if !ok || low < 0xdc00 || low > 0xdfff {
		return 0, 0
	}
	return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000, 12
}
