package openai

import (
	"bytes"
	"strconv"
	"strings"
	"unsafe"
)

// maxParts bounds the parts of a form; a transcription has fewer than ten.
const maxParts = 256

// ParseMultipart reads a multipart/form-data body, as uploads of audio and pictures have it, into r. boundary is the
// parameter of the Content-Type header. Form parsers differ widely in what they forgive, so a body is refused when they
// could disagree about the fields read here: model, stream, response_format, n, and the bytes of file.
func ParseMultipart(body, boundary []byte, r *Request) error {
	r.Reset()
	r.Body = body
	r.TextBytes = int64(len(body))
	r.pos.multipart = true
	if err := r.form(boundary); err != nil {
		return err
	}
	return nil
}

// File is the content of the part named file, nil when there is none.
func (r *Request) File() []byte {
	if r.pos.fileTo == 0 {
		return nil
	}
	return r.Body[r.pos.fileFrom:r.pos.fileTo]
}

func (r *Request) form(boundary []byte) *Error {
	if len(boundary) == 0 || len(boundary) > 70 {
		return form("the Content-Type header must name a boundary of 1 to 70 characters")
	}
	r.text = append(append(r.text[:0], "\r\n--"...), boundary...)
	delimiter, b := r.text, r.Body
	if !bytes.HasPrefix(b, delimiter[2:]) {
		return form("the body does not start with its boundary")
	}
	r.pos.boundary = delimiter
	i := len(delimiter) - 2
	for parts := 0; ; parts++ {
		if bytes.HasPrefix(b[i:], []byte("--")) {
			if len(bytes.TrimSpace(b[i+2:])) > 0 {
				return form("something follows the last boundary")
			}
			return nil
		}
		if !bytes.HasPrefix(b[i:], []byte("\r\n")) {
			return form("a boundary is not followed by CR LF, or one part contains it")
		}
		if parts == maxParts {
			return form("more than " + strconv.Itoa(maxParts) + " parts")
		}
		n := bytes.Index(b[i:], delimiter)
		if n < 0 {
			return form("the last boundary is missing")
		}
		if n == 0 {
			return form("a part has no headers")
		}
		if err := r.part(i+2, i+n); err != nil {
			return err
		}
		i += n + len(delimiter)
	}
}

// A part is what its headers say of a part of a form.
type part struct {
	name        string
	disposition bool
	file        bool // it has a file name
	coded       bool // it has an encoding or a character set that parsers may or may not undo
}

// part reads the part from b[from] to b[to].
func (r *Request) part(from, to int) *Error {
	b := r.Body[:to]
	var p part
	for {
		n := bytes.Index(b[from:], []byte("\r\n"))
		if n < 0 {
			return form("a part lacks the empty line after its headers")
		}
		line := b[from : from+n]
		from += n + 2
		if n == 0 {
			break
		}
		if err := p.header(line); err != nil {
			return err
		}
	}
	if !p.disposition {
		return form("a part has no Content-Disposition header")
	}
	return r.formField(&p, from, to)
}

// header reads one header of a part.
func (p *part) header(line []byte) *Error {
	name, value, found := bytes.Cut(line, []byte(":"))
	if !found || len(name) == 0 || bytes.ContainsAny(name, " \t") || bytes.ContainsAny(line, "\r\n\x00") {
		return form("a part has a malformed header")
	}
	switch {
	case bytes.EqualFold(name, []byte("Content-Disposition")):
		if p.disposition {
			return form("a part has two Content-Disposition headers")
		}
		p.disposition = true
		return p.readDisposition(value)
	case bytes.EqualFold(name, []byte("Content-Transfer-Encoding")):
		switch strings.ToLower(string(bytes.TrimSpace(value))) {
		case "binary", "8bit", "7bit":
		default:
			p.coded = true
		}
	case bytes.EqualFold(name, []byte("Content-Type")):
		low := bytes.ToLower(value)
		if _, set, has := bytes.Cut(low, []byte("charset=")); has {
			p.coded = p.coded || !bytes.HasPrefix(bytes.Trim(set, `"`), []byte("utf-8"))
		}
	}
	return nil
}

// readDisposition reads `form-data; name="model"; filename="x"`.
func (p *part) readDisposition(v []byte) *Error {
	v = bytes.TrimSpace(v)
	if len(v) < 9 || !bytes.EqualFold(v[:9], []byte("form-data")) {
		return form("a part is no form-data")
	}
	named := false
	for v = v[9:]; ; {
		if v = bytes.TrimLeft(v, " \t"); len(v) == 0 {
			break
		}
		if v[0] != ';' {
			return form("a part has a malformed Content-Disposition header")
		}
		v = bytes.TrimLeft(v[1:], " \t")
		key, rest, found := bytes.Cut(v, []byte("="))
		if !found {
			return form("a part has a malformed Content-Disposition header")
		}
		text, rest, ok := parameter(rest)
		if !ok {
			return form("a part has a malformed Content-Disposition header")
		}
		v = rest
		switch {
		case bytes.EqualFold(key, []byte("name")):
			if named {
				return form("a part has two names")
			}
			p.name, named = string(text), true
		case bytes.EqualFold(key, []byte("filename")), bytes.EqualFold(key, []byte("filename*")):
			// A parser that reads a backslash otherwise sees the file name end elsewhere, and what follows as a name.
			if i := bytes.IndexByte(text, '\\'); i >= 0 && bytes.Contains(bytes.ToLower(text[i:]), []byte("name")) {
				return form("a part has a file name with a backslash and the word name")
			}
			p.file = true
		case len(key) >= 4 && bytes.EqualFold(key[:4], []byte("name")):
			return form("a part has its name in a form other than name=")
		}
	}
	if !named || p.name == "" {
		return form("a part has no name")
	}
	return nil
}

// parameter reads a quoted string or a token. The text of a quoted string stays as it is written.
func parameter(v []byte) (text, rest []byte, ok bool) {
	if len(v) == 0 || v[0] != '"' {
		n := bytes.IndexAny(v, "; \t")
		if n < 0 {
			n = len(v)
		}
		return v[:n], v[n:], n > 0 && !bytes.ContainsAny(v[:n], `"\`)
	}
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			return v[1:i], v[i+1:], true
		}
	}
	return nil, nil, false
}

var formFields = [...]string{"model", "stream", "response_format", "n", "file"}

// formField takes over the part p, whose content is Body[from:to].
func (r *Request) formField(p *part, from, to int) *Error {
	which := -1
	for i, known := range formFields {
		if p.name == known {
			which = i
		} else if foldsTo(p.name, known) {
			return invalid(shown(p.name), "The field "+strconv.Quote(shown(p.name))+" differs from "+strconv.Quote(known)+" only in letter case; write "+strconv.Quote(known)+".")
		}
	}
	if strings.ContainsAny(p.name, `\%`) && which < 0 {
		return invalid(shown(p.name), "A field's name must not contain backslash or percent.")
	}
	if which < 0 {
		return nil
	}
	if r.pos.fields&(1<<which) != 0 {
		return invalid(p.name, "The field "+strconv.Quote(p.name)+" stands twice in the form; send it once.")
	}
	r.pos.fields |= 1 << which
	if p.name == "file" {
		r.pos.fileFrom, r.pos.fileTo = from, to
		r.TextBytes -= int64(to - from)
		r.Media++
		return nil
	}
	if p.file || p.coded {
		return invalid(p.name, "The field "+strconv.Quote(p.name)+" must be plain UTF-8 text and no file.")
	}
	raw := r.Body[from:to]
	text := unsafe.String(unsafe.SliceData(raw), len(raw))
	if !soundName(text) {
		return invalid(p.name, p.name+" must have at most "+strconv.Itoa(maxName)+" bytes and no control characters.")
	}
	switch p.name {
	case "model":
		if text == "" {
			return invalid("model", "model must be a name, not an empty string.")
		}
		r.Model, r.HasModel, r.pos.modelFrom, r.pos.modelTo = text, true, from, to
	case "stream":
		return r.formStream(text)
	case "response_format":
		r.ResponseFormat = text
	case "n":
		n, ok := plainInteger(raw)
		if !ok || n < 1 || n > maxChoices {
			return invalid("n", "n must be an integer from 1 to "+strconv.Itoa(maxChoices)+", written with digits only.")
		}
		r.N = n
	}
	return nil
}

// formStream reads the text of the field stream. Frameworks take 1, on and yes for true; a client that means it writes
// true, and one that does not is not guessed at.
func (r *Request) formStream(text string) *Error {
	switch text {
	case "true", "True", "TRUE":
		r.Stream = true
	case "false", "False", "FALSE", "":
	default:
		return invalid("stream", "stream must be true or false.")
	}
	return nil
}

// aimMultipart is AimAt for a form.
func (r *Request) aimMultipart(model string, edits []Edit) []Edit {
	from := len(r.insert)
	if r.HasModel {
		if r.Model == model {
			return edits
		}
		r.insert = appendLine(r.insert, model)
		return append(edits, Edit{r.pos.modelFrom, r.pos.modelTo, r.insert[from:]})
	}
	r.insert = append(r.insert, r.pos.boundary[2:]...)
	r.insert = append(r.insert, "\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n"...)
	r.insert = appendLine(r.insert, model)
	r.insert = append(r.insert, "\r\n"...)
	return append(edits, Edit{0, 0, r.insert[from:]})
}

// appendLine appends s without control characters, so that it cannot end its part of the form.
func appendLine(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] >= ' ' {
			dst = append(dst, s[i])
		}
	}
	return dst
}

func form(what string) *Error {
	return invalid("", "The request body is not valid multipart/form-data: "+what+".")
}
