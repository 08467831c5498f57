package simulator

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Answers are built from these ordered values instead of structs, because the five dialects differ in which keys they
// send, in what order, and whether an unknown is null, zero or absent; a struct for each would hide just that.

// object is a JSON object as key, value, key, value in the order they are written.
type object []any

// list is a JSON array.
type list []any

// raw is JSON text written as it stands.
type raw string

// with returns the object with one more member at its end.
func (o object) with(key string, value any) object { return append(o, key, value) }

// encode writes any value the package builds.
func encode(v any) []byte { return appendValue(nil, v) }

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case object:
		return appendObject(b, v)
	case list:
		return appendList(b, v)
	case raw:
		return append(b, v...)
	case []byte:
		return append(b, v...)
	case string:
		return appendQuoted(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case pico:
		return append(b, v.String()...)
	}
	panic(fmt.Sprintf("BUG: no JSON form for a %T", v))
}

func appendObject(b []byte, o object) []byte {
	b = append(b, '{')
	for i := 0; i < len(o); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, o[i].(string)), ':')
		b = appendValue(b, o[i+1])
	}
	return append(b, '}')
}

func appendList(b []byte, l list) []byte {
	b = append(b, '[')
	for i, v := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(b, v)
	}
	return append(b, ']')
}

// appendQuoted escapes no more than JSON asks for: the real services leave <, > and & alone, encoding/json does not.
func appendQuoted(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c >= utf8.RuneSelf:
			b = append(b, `\ufffd`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
