package openai

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// The functions here walk an upstream's JSON without judging it: what an upstream sends is the client's to have, and
// reading must neither stop at an oddity nor run past the end. An index of -1 says that the text ended too early.

// nextMember finds the next member of the object in b. i stands behind its '{' or behind a value. It returns the key
// without its quotes, the index of its opening quote and the index of its value, which is -1 when there is none.
func nextMember(b []byte, i int) (key []byte, quote, value int) {
	for i < len(b) && (b[i] <= ' ' || b[i] == ',') {
		i++
	}
	if i >= len(b) || b[i] != '"' {
		return nil, i, -1
	}
	end := endOfString(b, i+1)
	if value = end + 1; value >= len(b) {
		return nil, i, -1
	}
	if b[value] != ':' {
		if value = skipBlank(b, value); value == len(b) || b[value] != ':' {
			return nil, i, -1
		}
	}
	if value++; value < len(b) && b[value] <= ' ' {
		value = skipBlank(b, value)
	}
	if value >= len(b) {
		return nil, i, -1
	}
	return b[i+1 : end], i, value
}

// eachMember calls f with the key and the index of the value of each member of the object at b[i]; f returns the index
// behind that value. So does eachMember for the object, or whatever else stands there.
func eachMember(b []byte, i int, f func(key []byte, value int) (end int)) (end int) {
	if b[i] != '{' {
		return skipValue(b, i)
	}
	for i++; i >= 0; {
		key, quote, v := nextMember(b, i)
		if v < 0 {
			if quote < len(b) && b[quote] == '}' {
				return quote + 1
			}
			return -1
		}
		i = f(key, v)
	}
	return -1
}

// eachElement is eachMember for the elements of an array.
func eachElement(b []byte, i int, f func(element int) (end int)) (end int) {
	if b[i] != '[' {
		return skipValue(b, i)
	}
	for i++; i >= 0; {
		for i < len(b) && (b[i] <= ' ' || b[i] == ',') {
			i++
		}
		if i >= len(b) || b[i] == '}' {
			return -1
		}
		if b[i] == ']' {
			return i + 1
		}
		i = f(i)
	}
	return -1
}

func skipBlank(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' {
		i++
	}
	return i
}

// endOfString returns the index of the closing quote of the string whose inside starts at b[i], len(b) if there is
// none. Most strings are keys and end within the first word.
func endOfString(b []byte, i int) int {
	for n := 0; i+8 <= len(b); n++ {
		x := binary.LittleEndian.Uint64(b[i : i+8])
		m := (x ^ '"'*eachByte - eachByte) | (x ^ '\\'*eachByte - eachByte)
		if m = m &^ x & topBits; m != 0 {
			if i += bits.TrailingZeros64(m) >> 3; b[i] == '"' {
				return i
			}
			i += 2
			continue
		}
		if i += 8; n >= 4 {
			return endOfLongString(b, i)
		}
	}
	for i < len(b) {
		switch b[i] {
		case '"':
			return i
		case '\\':
			i++
		}
		i++
	}
	return len(b)
}

// endOfLongString does the same with the machine's byte search: it looks for quotes only, and whether one is escaped
// is told by the number of backslashes before it.
func endOfLongString(b []byte, from int) int {
	for i := from; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			break
		}
		i += n
		k := i
		for k > from && b[k-1] == '\\' {
			k--
		}
		if (i-k)%2 == 0 {
			return i
		}
		i++
		from = i
	}
	return len(b)
}

// skipValue returns the index behind the value at b[i], -1 when the text ends inside it.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		if i = endOfString(b, i+1); i >= len(b) {
			return -1
		}
		return i + 1
	case '{', '[':
		return skipContainer(b, i)
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == ',' || c == '}' || c == ']' || c <= ' ' {
			return i
		}
	}
	return -1
}

// skipContainer looks at the quotes, brackets and braces only, eight bytes at a time.
func skipContainer(b []byte, i int) int {
	for depth := 0; i < len(b); i++ {
		if i = nextMark(b, i); i >= len(b) {
			break
		}
		switch b[i] {
		case '"':
			i = endOfString(b, i+1)
		case '{', '[':
			depth++
		default:
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// nextMark returns the index of the first quote, bracket or brace from i on, len(b) if there is none.
func nextMark(b []byte, i int) int {
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i : i+8])
		// '[' and '{', ']' and '}' differ in one bit.
		quote, open, shut := x^'"'*eachByte, (x|0x20*eachByte)^'{'*eachByte, (x|0x20*eachByte)^'}'*eachByte
		m := ((quote-eachByte)&^quote | (open-eachByte)&^open | (shut-eachByte)&^shut) & topBits
		if m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for ; i < len(b); i++ {
		switch b[i] {
		case '"', '[', ']', '{', '}':
			return i
		}
	}
	return i
}

// stringAt is the inside of the string at b[i], nil when it is another value, and the index behind it.
func stringAt(b []byte, i int) (text []byte, end int) {
	if b[i] != '"' {
		return nil, skipValue(b, i)
	}
	end = endOfString(b, i+1)
	if end >= len(b) {
		return nil, -1
	}
	return b[i+1 : end], end + 1
}

// textLen is the length in bytes of the text that the inside of a JSON string stands for.
func textLen(raw []byte) int64 {
	n := len(raw)
	for i := 0; ; {
		next := bytes.IndexByte(raw[i:], '\\')
		if next < 0 {
			return int64(n)
		}
		if i += next; len(raw)-i >= 6 && raw[i+1] == 'u' {
			r, size := escapedRune(raw[i:])
			if size == 0 {
				r, size = utf8.RuneError, 6
			}
			n -= size - utf8.RuneLen(r)
			i += size
			continue
		}
		n--
		i = min(i+2, len(raw))
	}
}

// textIn adds up the text in the value at b[i]: a string, or the strings under the keys of isTextKey, however deep. It
// returns the index behind the value.
func textIn(b []byte, i int) (n int64, end int) {
	if b[i] != '{' && b[i] != '[' {
		text, end := stringAt(b, i)
		return textLen(text), end
	}
	counted := false
	for depth := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			end := endOfString(b, i+1)
			if end >= len(b) {
				return n, -1
			}
			text := b[i+1 : end]
			i = end
			if next := skipBlank(b, end+1); next < len(b) && b[next] == ':' {
				counted = isTextKey(text)
			} else if counted {
				n += textLen(text)
				counted = false
			}
		case '{', '[':
			counted = false
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return n, i + 1
			}
		case ',':
			counted = false
		}
	}
	return n, -1
}

// isTextKey says that a string under key is output that was generated.
func isTextKey(key []byte) bool {
	switch string(key) {
	case "text", "thinking", "arguments", "transcript":
		return true
	}
	return false
}
