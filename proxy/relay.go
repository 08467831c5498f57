package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
	"github.com/catraca/catraca/proxy/upstream"
)

// maxAnswer bounds an answer that is read whole before it is passed on. The largest real ones are ten images in base64,
// about 40 MiB.
const maxAnswer = 64 << 20

// relay passes the answer on: whole when it is JSON, so that its cost can stand in the headers, piece by piece when it
// is a stream of events or a file.
func (c *call) relay() (streaming bool, err error) {
	h := &c.ctx.Response.Header
	contentType, status := h.ContentType(), h.StatusCode()
	events := status < 400 && hasPrefixFold(contentType, "text/event-stream") ||
		len(contentType) == 0 && c.req.Stream && status == fasthttp.StatusOK
	whole := status >= 400 || len(contentType) == 0 || hasPrefixFold(contentType, "application/json") ||
		hasPrefixFold(contentType, "text/") || c.ep.kind != openai.Speech
	c.passHead(h)
	if !events && whole {
		return false, c.relayWhole()
	}
	c.stream.Init(c.ep.kind, c.hide, &c.reading)
	c.event.Streamed = events
	if !events && c.conn != nil {
		// A file tells no usage: reading on would cost and teach nothing.
		c.endReadOn()
	}
	length := -1
	if !events {
		length = int(c.x.Body.Sized)
	}
	c.x.DropScratch()
	c.freeRequest()
	if length < 0 && !c.ctx.Request.Header.IsHTTP11() {
		c.relayToHTTP10(events)
		return true, nil
	}
	c.ctx.Response.ImmediateHeaderFlush = events
	if events {
		c.ctx.Response.SetBodyStream(&eventBody{c}, -1)
	} else {
		c.ctx.Response.SetBodyStream(&fileBody{c}, length)
	}
	return true, nil
}

// freeRequest lets a large prompt go before a long stream: only its text would be held for minutes for nothing.
func (c *call) freeRequest() {
	const small = 16 << 10
	if len(c.req.Body) <= small {
		return
	}
	if c.ep.kind == openai.Transcriptions {
		// The length of the audio, should the answer not tell it, can only be read now.
		c.audioMs, _ = openai.AudioDuration(c.req.File())
	}
	c.event.ModelAsked = strings.Clone(c.event.ModelAsked) // it points into the body, as the next two may
	c.event.ModelServed = strings.Clone(c.event.ModelServed)
	c.send = strings.Clone(c.send)
	kept := c.req
	c.req.Reset()
	c.req.N, c.req.TextBytes, c.req.InputChars = kept.N, kept.TextBytes, kept.InputChars
	c.out.Body, c.out.Edits = nil, nil
	c.ctx.Request.ReleaseBody(small)
	c.ctx.Request.ResetBody()
}

// passHead turns the upstream's header, which was read into the response, into ours.
func (c *call) passHead(h *fasthttp.ResponseHeader) {
	h.SetProtocol(protocol) // an upstream's HTTP/1.0 must not become the client's
	var room [16][]byte
	drop := room[:0]
	for key, value := range h.All() {
		switch verdict(key) {
		case keepHeader:
			continue
		case upstreamsID:
			c.event.UpstreamRequestID = string(value)
		}
		// Repeats of a header come one after the other and go together.
		if n := len(drop); n == 0 || !bytes.Equal(drop[n-1], key) {
			drop = append(drop, append([]byte(nil), key...))
		}
	}
	for _, key := range drop {
		h.DelBytes(key)
	}
	if c.x.Body.Decoded() {
		h.Del("Content-Encoding")
	}
	h.ResetConnectionClose()
	if id := c.event.UpstreamRequestID; id != "" {
		h.SetCanonical(headerUpstreamID, []byte(id))
	}
	h.SetCanonical(headerRequestID, c.idBytes())
	h.SetCanonical(headerRoute, []byte(c.target.Route))
	if c.event.Provider != "" {
		h.SetCanonical(headerProvider, []byte(c.event.Provider))
	}
	if c.send != "" {
		h.SetCanonical(headerModel, []byte(c.send))
	}
	c.standingHeaders(h)
}

type headerVerdict uint8

const (
	keepHeader headerVerdict = iota
	dropHeader
	upstreamsID
)

// verdict says what becomes of an upstream's header. What names the owner of the shared key, sets cookies, belongs to
// one connection, or could be taken for a word of ours, stays here.
func verdict(key []byte) headerVerdict {
	switch len(key) {
	case len("X-Request-Id"):
		if string(key) == "X-Request-Id" {
			return upstreamsID
		}
	case len("Request-Id"):
		switch string(key) {
		case "Request-Id":
			return upstreamsID
		case "Keep-Alive", "Set-Cookie", "Connection":
			return dropHeader
		}
	case len("Te"):
		if string(key) == "Te" {
			return dropHeader
		}
	case len("Upgrade"):
		switch string(key) {
		case "Upgrade", "Trailer", "Alt-Svc":
			return dropHeader
		}
	case len("Openai-Organization"):
		if string(key) == "Openai-Organization" {
			return dropHeader
		}
	case len("Openai-Project"):
		if string(key) == "Openai-Project" {
			return dropHeader
		}
	case len("Transfer-Encoding"):
		if string(key) == "Transfer-Encoding" {
			return dropHeader
		}
	}
	if bytes.HasPrefix(key, []byte("X-Catraca-")) || bytes.HasPrefix(key, []byte("Proxy-")) {
		return dropHeader
	}
	return keepHeader
}

// relayWhole reads the answer to its end, counts, and only then lets the client see it.
func (c *call) relayWhole() error {
	resp := &c.ctx.Response
	resp.ResetBody()
	total := 0
	for {
		p, err := c.x.Body.Next()
		if err == io.EOF {
			break
		}
		if c.readingOn() {
			c.readMore(len(p))
		}
		if total += len(p); err == nil && total > maxAnswer {
			err = upstream.ErrMalformed
		}
		if err != nil {
			c.readPart(resp.Body())
			resp.ResetBody()
			return c.brokeOff(err)
		}
		resp.AppendBody(p)
	}
	if !c.x.Body.Framed && hasPrefixFold(resp.Header.ContentType(), "application/json") && !json.Valid(resp.Body()) {
		c.readPart(resp.Body())
		resp.ResetBody()
		return c.brokeOff(upstream.ErrTruncated) // only the end of the connection ended it, and in its middle
	}
	c.reading.ReadBody(c.ep.kind, resp.Body())
	if resp.StatusCode() >= 400 || c.reading.Failed && !c.reading.HasUsage {
		c.scrub(resp)
		c.settle(metering.Refused)
	} else {
		c.settle(metering.OK)
		c.servedHeaders(&resp.Header)
	}
	c.x.Finish()
	return nil
}

// readPart looks through an answer that broke off for what it told of itself: the id by which the gateway can be asked
// what it cost stands at its beginning.
func (c *call) readPart(part []byte) {
	if mustFinish(c.ep.kind) && bytes.HasPrefix(bytes.TrimLeft(part, " \t\r\n"), []byte{'{'}) {
		c.reading.ReadBody(c.ep.kind, part)
	}
}

// brokeOff ends a call whose answer broke before the client saw any of it.
func (c *call) brokeOff(err error) error {
	c.event.ErrorCode = "all_routes_failed"
	outcome := metering.Truncated
	switch {
	case c.cancelled():
		outcome, err = metering.ClientGone, upstream.ErrCancelled
	case errors.Is(err, upstream.ErrTimeout):
		c.event.ErrorCode = "upstream_timeout"
	}
	c.settle(outcome)
	return &attemptError{c.target.Route, c.target.Provider, err}
}

func (c *call) cancelled() bool {
	if c.conn != nil {
		return c.conn.cancel.Cancelled()
	}
	return c.solo.Cancelled()
}

// scrub blots out our own credential where an upstream's error quotes it.
func (c *call) scrub(resp *fasthttp.Response) {
	key := c.target.Secret()
	if len(key) < 8 {
		return
	}
	body := resp.Body()
	for from := 0; ; {
		i := bytes.Index(body[from:], key)
		if i < 0 {
			return
		}
		from += i
		for j := range key {
			body[from+j] = '*'
		}
	}
}

// servedHeaders tells what is known only when the whole answer has been read: who answered and what it cost.
func (c *call) servedHeaders(h *fasthttp.ResponseHeader) {
	if c.reading.Model != "" {
		h.SetCanonical(headerModel, []byte(c.reading.Model))
	}
	if c.reading.Provider != "" {
		h.SetCanonical(headerProvider, []byte(c.reading.Provider))
	}
	if !c.event.Cost.Known {
		return
	}
	var b [32]byte
	h.SetCanonical(headerCostUSD, c.event.USD.AppendTo(b[:0]))
	h.SetCanonical(headerCostBRL, c.event.BRL.AppendTo(b[:0]))
}
