// Package openai reads and edits the few bytes of the OpenAI wire that the gateway must understand: the model and
// limits of a request, the usage of an answer, the frames of an event stream and the body of an error. Everything else
// passes as it came. The functions are pure: no I/O, no goroutines, no clock.
package openai

import (
	"strconv"
	"unicode/utf8"
)

// Error is an error as OpenAI's clients expect it. An empty Param or Code is written as null, because the SDKs
// require all four keys to be there.
type Error struct{ Message, Type, Param, Code string }

// Error makes an Error a Go error.
func (e *Error) Error() string {
	s := e.Message
	if e.Param != "" {
		s = e.Param + ": " + s
	}
	if e.Code != "" {
		s = e.Code + ": " + s
	}
	return s
}

// AppendBody appends the JSON body of e to dst.
func (e *Error) AppendBody(dst []byte) []byte {
	dst = append(dst, `{"error":{"message":`...)
	dst = appendString(dst, e.Message)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, e.Type)
	dst = append(dst, `,"param":`...)
	dst = appendStringOrNull(dst, e.Param)
	dst = append(dst, `,"code":`...)
	dst = appendStringOrNull(dst, e.Code)
	return append(dst, '}', '}')
}

// AppendEvent appends e as one whole SSE event, the frame that ends a stream which failed after its first byte.
func (e *Error) AppendEvent(dst []byte) []byte {
	dst = append(dst, "data: "...)
	dst = e.AppendBody(dst)
	return append(dst, '\n', '\n')
}

func appendStringOrNull(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return appendString(dst, s)
}

// appendString appends s as a JSON string. Beside what JSON demands it escapes '<', '>', '&' (a body may be shown by a
// browser), DEL and the two Unicode line ends (old JavaScript evaluates bodies), and replaces invalid UTF-8: messages
// may quote what a client sent. A newline can thus never end an SSE frame early.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plainByte[c] {
				i++
				continue
			}
			dst = append(dst, s[from:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' {
			dst = append(dst, s[from:i]...)
			switch r {
			case '\u2028':
				dst = append(dst, `\u2028`...)
			case '\u2029':
				dst = append(dst, `\u2029`...)
			default:
				dst = append(dst, `\ufffd`...)
			}
			i += size
			from = i
			continue
		}
		i += size
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// plainByte marks the ASCII bytes that appendString copies as they are.
var plainByte = func() (t [utf8.RuneSelf]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != 0x7f && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

// invalid is the error for a body that cannot be accepted.
func invalid(param, message string) *Error {
	return &Error{Message: message, Type: "invalid_request_error", Param: param, Code: "invalid_json"}
}

// syntax is the error for a body that is not JSON. It names the place and not the text there, which may be a prompt.
func syntax(at int, what string) *Error {
	return invalid("", "The request body is not valid JSON: "+what+" (byte "+strconv.Itoa(at)+").")
}
