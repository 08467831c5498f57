package proxy

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/proxy/openai"
)

// head is what one pass over a request's header block finds. It reads the raw block and not fasthttp's parsed one,
// because trailers of a chunked body are added to that, and because repeats must be seen.
type head struct {
	secret       []byte // of the Authorization header, without its scheme
	clientID     []byte
	callerToken  []byte
	conversation []byte
	phone        []byte
	contentType  []byte
	encoding     []byte
	lines        []byte // lines that go upstream, each ended by CRLF
	seen         uint16
}

// Headers that must not be repeated: two readers could take a different one of the two.
const (
	seenAuthorization uint16 = 1 << iota
	seenClientID
	seenCallerToken
	seenConversation
	seenPhone
	seenContentType
	seenContentLength
	seenTransferEncoding
	seenHost
	seenCache
	seenExpect
)

// read goes through the block. The slices point into it; lines is copied.
func (h *head) read(raw []byte) error {
	*h = head{lines: h.lines[:0]}
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end < 0 {
			end = len(raw) - 1
		}
		line := raw[:end+1]
		raw = raw[end+1:]
		text := bytes.TrimSuffix(line, []byte("\r\n"))
		if len(text) == len(line) {
			return badRequest("invalid_header", "a header line does not end in CRLF")
		}
		if len(text) == 0 {
			continue
		}
		if text[0] == ' ' || text[0] == '\t' {
			return badRequest("invalid_header", "a header line begins with a space: folded headers are not accepted, send each header on one line")
		}
		colon := bytes.IndexByte(text, ':')
		if colon <= 0 || bytes.IndexByte(text[:colon], ' ') >= 0 {
			return badRequest("invalid_header", "a header line has no name and colon, or a space in its name")
		}
		if err := h.take(text[:colon], bytes.Trim(text[colon+1:], " \t"), text); err != nil {
			return err
		}
	}
	if h.seen&seenContentLength != 0 && h.seen&seenTransferEncoding != 0 {
		return badRequest("invalid_header", "Content-Length and Transfer-Encoding came together: send one of them")
	}
	return nil
}

// longestName is the longest header name that means something here.
const longestName = 24

func (h *head) take(name, value, line []byte) error {
	var buf [longestName]byte
	if len(name) > longestName {
		if hasPrefixFold(name, "x-stainless-") {
			h.pass(line)
		}
		return nil
	}
	low := buf[:len(name)]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	switch string(low) {
	case "authorization":
		h.secret = value
		if len(value) > 7 && hasPrefixFold(value, "bearer ") {
			h.secret = bytes.TrimLeft(value[7:], " ")
		}
		return h.once(seenAuthorization, "Authorization")
	case "x-client-id":
		h.clientID = value
		return h.once(seenClientID, "X-Client-Id")
	case "x-catraca-token":
		h.callerToken = value
		return h.once(seenCallerToken, "X-Catraca-Token")
	case "x-conversation-id":
		h.conversation = value
		return h.once(seenConversation, "X-Conversation-Id")
	case "x-phone":
		h.phone = value
		return h.once(seenPhone, "X-Phone")
	case "x-catraca-cache":
		return h.once(seenCache, "X-Catraca-Cache")
	case "host":
		return h.once(seenHost, "Host")
	case "content-length":
		return h.once(seenContentLength, "Content-Length")
	case "transfer-encoding":
		if !bytes.EqualFold(value, []byte("chunked")) {
			return badRequest("invalid_header", "the only Transfer-Encoding that is known here is chunked")
		}
		return h.once(seenTransferEncoding, "Transfer-Encoding")
	case "expect":
		return h.once(seenExpect, "Expect")
	case "content-encoding":
		h.encoding = value
	case "content-type":
		h.contentType = value
		h.pass(line)
		return h.once(seenContentType, "Content-Type")
	case "accept", "user-agent", "openai-beta", "anthropic-beta", "anthropic-version", "traceparent", "tracestate",
		"http-referer", "x-title", "x-session-affinity", "idempotency-key":
		h.pass(line)
	default:
		if hasPrefixFold(name, "x-stainless-") {
			h.pass(line)
		}
	}
	return nil
}

// pass keeps a line for the upstream. Everything that is not listed stays here: credentials, cookies, hop-by-hop
// headers, OpenAI-Organization and OpenAI-Project (they choose who is billed), addresses of clients and proxies.
func (h *head) pass(line []byte) {
	h.lines = append(h.lines, line...)
	h.lines = append(h.lines, '\r', '\n')
}

func (h *head) once(bit uint16, name string) error {
	if h.seen&bit != 0 {
		return badRequest("duplicate_header", "the header "+name+" came twice: send it once")
	}
	h.seen |= bit
	return nil
}

// limits of the values that are kept on the ledger row.
const (
	maxConversation = 256
	maxPhone        = 64
)

func (h *head) check() error {
	if len(h.conversation) > maxConversation || !printable(h.conversation) {
		return badRequest("invalid_header", "X-Conversation-Id must be at most 256 printable ASCII characters")
	}
	if len(h.phone) > maxPhone || !printable(h.phone) {
		return badRequest("invalid_header", "X-Phone must be at most 64 printable ASCII characters")
	}
	if len(h.encoding) > 0 && !bytes.EqualFold(h.encoding, []byte("identity")) {
		return &openai.Error{
			Type: invalidRequest, Code: "unsupported_encoding",
			Message: "the request body is compressed, which is not supported: send it without Content-Encoding",
		}
	}
	return nil
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && bytes.EqualFold(b[:len(lower)], []byte(lower))
}

// expect answers "Expect: 100-continue" before the body is read: a body that will be refused is not worth sending.
func (p *Proxy) expect(ctx *fasthttp.RequestCtx) (status int) {
	c := p.begin(ctx)
	defer p.release(c)
	defer func() {
		if fault := recover(); fault != nil {
			c.panicked(fault)
			status = fasthttp.StatusInternalServerError
		}
	}()
	err := c.admit()
	if err == nil && ctx.Request.Header.ContentLength() > p.MaxBody {
		err = errBodyTooLarge(p.MaxBody)
	}
	if err == nil {
		return fasthttp.StatusContinue
	}
	c.fail(err)
	return ctx.Response.StatusCode()
}
