package openai

import (
	"bytes"
	"strconv"
)

// skip validates the value at b[i], whatever it is, and returns the index behind it. depth is the number of containers
// that are open around it. It does not recurse, so no body can exhaust the stack: what is open is a stack of bits.
func (r *Request) skip(i, depth int) (int, *Error) {
	b := r.Body
	var objects uint64 // the bit of a depth is set when the container open there is an object
	var key []byte     // of the value, nil in an array
	var err *Error
	outside := depth
value:
	if i >= len(b) {
		return 0, syntax(i, "the body ends where a value should stand")
	}
	if c := b[i]; c == '{' || c == '[' {
		if depth++; depth > maxDepth {
			return 0, invalid("", "The request body is nested deeper than "+strconv.Itoa(maxDepth)+" levels.")
		}
		r.load.inside = outsideMedia
		if r.load.prompt && len(key) > 3 && entered>>(key[0]&31)&1 != 0 {
			r.enter(key)
		}
		i, key = skipSpace(b, i+1), nil
		if i >= len(b) || b[i] != c+2 { // '}' and ']' stand two behind '{' and '[' in ASCII
			if c == '[' {
				objects &^= 1 << (depth - 1)
				goto value
			}
			objects |= 1 << (depth - 1)
			goto key
		}
		i, depth = i+1, depth-1
	} else if i, err = r.scalar(i, key); err != nil {
		return 0, err
	}
	for depth > outside {
		if i = skipSpace(b, i); i >= len(b) {
			return 0, syntax(i, "the body ends inside an object or array")
		}
		c, inObject := b[i], objects>>(depth-1)&1 == 1
		i++
		if c == ',' {
			i = skipSpace(b, i)
			if inObject {
				goto key
			}
			key = nil
			goto value
		}
		if inObject && c != '}' || !inObject && c != ']' {
			return 0, syntax(i-1, "expected a comma or the end of the object or array here")
		}
		depth--
		r.load.inside = outsideMedia
	}
	return i, nil
key:
	if key, i, err = r.skipKey(i); err != nil {
		return 0, err
	}
	goto value
}

// skipKey validates a key and its colon, and returns the key as it is written and the index of its value.
func (r *Request) skipKey(i int) (key []byte, value int, err *Error) {
	b := r.Body
	if i >= len(b) || b[i] != '"' {
		return nil, 0, syntax(i, "expected a key in double quotes here")
	}
	end, flags := scanString(b, i+1)
	if flags&badString != 0 {
		return nil, 0, badStringAt(b, end)
	}
	key = b[i+1 : end]
	r.load.keys += int64(len(key))
	if flags&hasEscape != 0 && hidesLetter(key) {
		r.Hidden = true
	}
	if i = skipSpace(b, end+1); i >= len(b) || b[i] != ':' {
		return nil, 0, syntax(i, "expected a colon here")
	}
	return key, skipSpace(b, i+1), nil
}

// scalar validates a string, number or literal.
func (r *Request) scalar(i int, key []byte) (int, *Error) {
	b := r.Body
	switch b[i] {
	case '"':
		end, flags := scanString(b, i+1)
		if flags&badString != 0 {
			return 0, badStringAt(b, end)
		}
		r.TextBytes += int64(end - i - 1)
		if len(key) > 2 && weighed>>(key[0]&31)&1 != 0 {
			r.weigh(key, i+1, end)
		}
		return end + 1, nil
	case 't', 'f', 'n':
		end, ok := scanLiteral(b, i)
		if !ok {
			return 0, syntax(i, "expected a value here")
		}
		return end, nil
	}
	end, ok := scanNumber(b, i)
	if !ok {
		return 0, badNumberAt(i, end)
	}
	if key == nil {
		r.TextBytes += bytesPerToken // prompts can be lists of token numbers
		r.load.numbers++
	}
	return end, nil
}

// isBase64 says that value looks like base64, behind a data: URL's head or bare. It takes samples, because reading a
// megabyte once more would double the cost of the request; one who disguises prompt text as base64 to lower an estimate
// has it billed by the upstream's own count all the same.
func isBase64(value []byte) bool {
	if bytes.HasPrefix(value, []byte("data:")) {
		head := bytes.IndexByte(value[:min(len(value), 128)], ',')
		if head < 0 || !bytes.HasSuffix(value[:head], []byte(";base64")) {
			return false
		}
		value = value[head+1:]
	}
	const sample = 32
	if len(value) <= 3*sample {
		return onlyBase64(value)
	}
	return onlyBase64(value[:sample]) && onlyBase64(value[len(value)/2:][:sample]) && onlyBase64(value[len(value)-sample:])
}

func onlyBase64(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9':
		case c == '+', c == '/', c == '-', c == '_', c == '=':
		case c == '\\': // PHP writes a slash as \/
		default:
			return false
		}
	}
	return true
}

func badStringAt(b []byte, at int) *Error {
	switch {
	case at >= len(b):
		return syntax(at, "the body ends inside a string")
	case b[at] == '\\':
		return syntax(at, "a backslash starts no valid escape")
	case b[at] < ' ':
		return syntax(at, "a control character in a string must be escaped")
	}
	return syntax(at, "a string is not valid UTF-8")
}

func badNumberAt(from, at int) *Error {
	if at-from > maxNumber {
		return syntax(from, "a number has more than "+strconv.Itoa(maxNumber)+" characters")
	}
	return syntax(at, "expected a value here")
}

// shown is key, short enough for an error.
func shown(key string) string {
	if len(key) > 64 {
		return key[:64]
	}
	return key
}
