package openai

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
)

// wrong is the error for a value of the wrong type at b[i]: the syntax error, if it is not even JSON, otherwise message.
func (r *Request) wrong(i int, param, message string) *Error {
	if _, err := r.skip(i, 3); err != nil {
		return err
	}
	return invalid(param, message)
}

// null says that b[i] starts the literal null; anything else that starts with n is left to skip.
func (r *Request) null(i int) bool {
	end, ok := scanLiteral(r.Body, i)
	return ok && r.Body[i] == 'n' && end > i
}

// boolean reads true, false or null into v.
func (r *Request) boolean(i int, param string, v *bool) (int, *Error) {
	switch r.Body[i] {
	case 't', 'f', 'n':
		end, ok := scanLiteral(r.Body, i)
		if !ok {
			return 0, syntax(i, "expected a value here")
		}
		*v = r.Body[i] == 't'
		return end, nil
	}
	return 0, r.wrong(i, param, param+" must be true or false.")
}

func (r *Request) streamOptions(i int) (int, *Error) {
	r.pos.optionsFrom = i
	var err *Error
	switch {
	case r.Body[i] == '{':
		r.pos.optionsOpen = i + 1
		r.pos.optionsTo, err = r.object(i+1, streamOptions)
	case r.null(i):
		r.pos.optionsTo = i + len("null")
	default:
		err = r.wrong(i, "stream_options", "stream_options must be an object.")
	}
	return r.pos.optionsTo, err
}

func (r *Request) includeUsage(i int) (end int, err *Error) {
	end, err = r.boolean(i, "stream_options.include_usage", &r.WantsUsage)
	r.pos.usageFrom, r.pos.usageTo = i, end
	return end, err
}

// integer reads an integer of at most most, written plainly, or null, which leaves v alone. Parsers differ in what
// they make of 1e3, 10.9 or 1e400, so only digits will do.
func (r *Request) integer(i int, param string, least, most int64, v *int64) (int, *Error) {
	b := r.Body
	if r.null(i) {
		return i + len("null"), nil
	}
	end, _ := scanNumber(b, i)
	text := b[i:end]
	if n, ok := plainInteger(text); ok && n >= least && n <= most && !(text[0] == '0' && len(text) > 1) {
		*v = n
		return end, nil
	}
	return 0, r.wrong(i, param, param+" must be an integer from "+strconv.FormatInt(least, 10)+" to "+
		strconv.FormatInt(most, 10)+", written with digits only.")
}

// plainInteger reads up to 18 decimal digits.
func plainInteger(text []byte) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 18 {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func (r *Request) limit(i int, key string, which int) (int, *Error) {
	n := int64(-1)
	end, err := r.integer(i, key, 0, maxTokens, &n)
	r.limits[which], r.pos.limits[which] = n+1, span{i, end}
	r.MaxOutput = max(r.MaxOutput, n)
	return end, err
}

func (r *Request) choices(i int, key string) (int, *Error) {
	n := int64(1)
	end, err := r.integer(i, key, 1, maxChoices, &n)
	r.N = max(r.N, n)
	return end, err
}

func (r *Request) previous(i int) (end int, err *Error) {
	if r.null(i) {
		return i + len("null"), nil
	}
	r.PreviousResponse, end, err = r.nameValue(i, "previous_response_id")
	return end, err
}

// models reads an array of model names.
func (r *Request) models(i int, param string) (int, *Error) {
	if r.null(i) {
		return i + len("null"), nil
	}
	if r.Body[i] != '[' {
		return 0, r.wrong(i, param, param+" must be an array of model names.")
	}
	return r.elements(i, func(r *Request, i int) (int, *Error) {
		name, end, err := r.nameValue(i, param)
		if err != nil {
			return 0, err
		}
		if len(r.Fallbacks) == maxFallbacks {
			return 0, invalid(param, param+" may name at most "+strconv.Itoa(maxFallbacks)+" models.")
		}
		r.Fallbacks = append(r.Fallbacks, name)
		return end, nil
	})
}

// input reads the value of the key "input": a text, or anything else.
func (r *Request) input(i int) (int, *Error) {
	b := r.Body
	if b[i] != '"' {
		return r.prompt(i)
	}
	end, flags := scanString(b, i+1)
	if flags&badString != 0 {
		return 0, badStringAt(b, end)
	}
	r.TextBytes += int64(end - i - 1)
	r.InputChars = countChars(b[i+1:end], flags)
	return end + 1, nil
}

// countChars counts the characters that the inside of a validated JSON string stands for.
func countChars(raw []byte, f stringFlags) int64 {
	n := len(raw)
	if f&hasNonASCII != 0 {
		n -= countFollowing(raw)
	}
	if f&hasEscape == 0 {
		return int64(n)
	}
	for i := bytes.IndexByte(raw, '\\'); ; {
		size := 2
		if raw[i+1] == 'u' {
			size = 6
			if _, pair := escapedRune(raw[i:]); pair == 12 {
				size = 12
			}
		}
		n -= size - 1
		i += size
		next := bytes.IndexByte(raw[i:], '\\')
		if next < 0 {
			return int64(n)
		}
		i += next
	}
}

// countFollowing counts the bytes of b that continue a rune.
func countFollowing(b []byte) (n int) {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i : i+8])
		n += bits.OnesCount64(x &^ (x << 1) & topBits)
	}
	for ; i < len(b); i++ {
		if b[i]&0xc0 == 0x80 {
			n++
		}
	}
	return n
}
