package proxy

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// call is one request on its way. It is taken from a pool and goes back when its answer has been written; bytes of the
// request that it points to live as long.
type call struct {
	p    *Proxy
	ctx  *fasthttp.RequestCtx
	conn *clientConn // nil where the listener is not ours
	solo upstream.Canceller

	start time.Time
	id    [32]byte
	ep    *endpoint
	rest  []byte // of the path, behind the endpoint's own
	head  head

	who    *tenancy.Principal
	req    openai.Request
	model  *metering.Model // nil: not in the registry
	send   string          // the model's name on the chosen route
	target *upstream.Target
	edits  [8]openai.Edit
	out    upstream.Request
	x      upstream.Exchange

	rate  metering.ExchangeRate // pinned when the call was admitted, as its price is
	phone string                // as the ledger keeps it, where it was needed early
	stake stake

	reading openai.Reading
	stream  openai.Stream
	event   metering.Event
	opened  bool
	settled bool
	hide    bool  // usage was asked for by us and not by the client
	audioMs int64 // of the file to be transcribed, once the request was let go
	piece   []byte
	joined  []byte
	beat    time.Time // of the last PROGRESS record
	extra   int64     // bytes that were read after the client had gone
	exact   bool      // they were read to the end
}

var protocol = []byte("HTTP/1.1")

// Names of our own headers.
var (
	headerRequestID  = []byte("X-Request-Id")
	headerUpstreamID = []byte("X-Upstream-Request-Id")
	headerRoute      = []byte("X-Catraca-Route")
	headerProvider   = []byte("X-Catraca-Provider")
	headerModel      = []byte("X-Catraca-Model")
	headerCostUSD    = []byte("X-Catraca-Cost-Usd")
	headerCostBRL    = []byte("X-Catraca-Cost-Brl")
	headerRetryAfter = []byte("Retry-After")
)

func (p *Proxy) begin(ctx *fasthttp.RequestCtx) *call {
	c := p.calls.Get().(*call)
	c.ctx = ctx
	c.start = time.Now()
	c.conn, _ = ctx.Conn().(*clientConn)
	n := p.idBase + p.idNext.Add(1)
	copy(c.id[:], "req_")
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(n >> (56 - 8*i))
	}
	hex.Encode(c.id[4:20], raw[:])
	return c
}

// release gives the call back. Every pointer into the request is dropped first; what has memory of its own keeps it.
func (p *Proxy) release(c *call) {
	c.ctx, c.conn, c.ep, c.who, c.model, c.target = nil, nil, nil, nil, nil, nil
	c.rest, c.piece, c.send, c.phone = nil, nil, "", ""
	c.head = head{lines: c.head.lines[:0]}
	c.req.Reset()
	c.out = upstream.Request{}
	c.event, c.rate = metering.Event{}, metering.ExchangeRate{}
	if c.stake.account != nil {
		c.stake = stake{}
	}
	c.opened, c.settled, c.hide, c.exact, c.extra = false, false, false, false, 0
	if cap(c.joined) > 64<<10 {
		c.joined = nil
	}
	p.calls.Put(c)
}

func (c *call) idBytes() []byte   { return c.id[:20] }
func (c *call) requestID() string { return unsafeString(c.id[:20]) }
func (c *call) endpointName() string {
	if c.ep == nil {
		return "unknown"
	}
	return c.ep.name
}

func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// handle is what fasthttp calls. The call outlives it when the answer is streamed: then whoever ends the body releases.
func (p *Proxy) handle(ctx *fasthttp.RequestCtx) {
	c := p.begin(ctx)
	streaming := false
	defer func() {
		if fault := recover(); fault != nil {
			c.panicked(fault)
			streaming = false
		}
		if !streaming {
			c.end()
			p.release(c)
		}
	}()
	var err error
	if streaming, err = c.run(); err != nil {
		c.fail(err)
	}
}

var errPanic = errors.New("panic")

// panicked turns a panic into the failure of the one call that it happened in.
func (c *call) panicked(fault any) {
	c.p.Log.Error("panic in a call", "request_id", c.requestID(), "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
	c.p.metrics.panics.Inc()
	c.settle(metering.InternalError)
	c.fail(errPanic)
}

// run is the call as a straight line. streaming says that the answer's body is still to be written.
func (c *call) run() (streaming bool, err error) {
	if err := c.admit(); err != nil {
		return false, err
	}
	if c.ep.index == epModels || c.ep.index == epModel {
		return false, c.listModels()
	}
	if err := c.read(); err != nil {
		return false, err
	}
	if err := c.choose(); err != nil {
		return false, err
	}
	// An answer already paid for would be given here (issue: response cache).
	if answered, err := c.hold(); answered || err != nil {
		return false, err
	}
	if err := c.open(); err != nil {
		return false, err
	}
	return c.forward()
}

// admit reads the head and says whose request it is.
func (c *call) admit() error {
	h := &c.ctx.Request.Header
	if c.p.draining.Load() {
		r := unavailable("draining", "this instance is shutting down: send the request again", 1)
		r.closes = true
		return r
	}
	if !h.IsHTTP11() && string(h.Protocol()) != "HTTP/1.0" {
		return &refusal{status: fasthttp.StatusHTTPVersionNotSupported, closes: true, body: openai.Error{
			Type: invalidRequest, Code: "http_version", Message: "HTTP/1.1 is spoken here",
		}}
	}
	if err := c.head.read(h.RawHeaders()); err != nil {
		return &refusal{status: fasthttp.StatusBadRequest, closes: true, body: *asOpenAI(err)}
	}
	var err error
	if c.ep, c.rest, err = match(h.Method(), h.RequestURI()); err != nil {
		return err
	}
	if err := c.head.check(); err != nil {
		return err
	}
	if c.who, err = c.identify(); err != nil {
		return err
	}
	if c.who.Paused {
		return forbidden("tenant_paused", "", "this client is paused"+reason(c.who.PausedReason))
	}
	return nil
}

func reason(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

func asOpenAI(err error) *openai.Error {
	var e *openai.Error
	if errors.As(err, &e) {
		return e
	}
	return &openai.Error{Type: invalidRequest, Code: "malformed_request", Message: err.Error()}
}

// keyPrefix marks our keys. SDKs always send some Authorization; where X-Client-Id is trusted, one that is not ours
// means nothing.
const keyPrefix = "ck_"

// identify finds the tenant: by its key, or by a header where the listener is trusted. When both are there the header
// can only confirm the key: it never widens what a key may do.
func (c *call) identify() (*tenancy.Principal, error) {
	trusted := c.p.TrustClientID && len(c.head.clientID) > 0
	if trusted && !strings.HasPrefix(unsafeString(c.head.secret), keyPrefix) {
		if want := c.p.CallerToken; want != "" && subtle.ConstantTimeCompare([]byte(want), c.head.callerToken) != 1 {
			return nil, tenancy.ErrInvalidKey
		}
		return c.p.Keys.Client(context.Background(), c.head.clientID)
	}
	who, err := c.p.Keys.Key(context.Background(), c.head.secret)
	if err != nil {
		return nil, err
	}
	if trusted && !strings.EqualFold(unsafeString(c.head.clientID), who.ClientID.String()) {
		return nil, forbidden("client_mismatch", "", "X-Client-Id names another client than the key belongs to: leave the header out")
	}
	return who, nil
}

// read takes the few fields that are needed from the body.
func (c *call) read() error {
	body := c.ctx.Request.Body()
	switch c.ep.body {
	case jsonBody:
		return openai.Parse(body, &c.req)
	case multipartBody:
		b, err := boundary(c.head.contentType)
		if err != nil {
			return err
		}
		if err := openai.ParseMultipart(body, b, &c.req); err != nil {
			return err
		}
		if c.req.File() == nil {
			return &openai.Error{Type: invalidRequest, Code: "invalid_multipart", Param: "file", Message: "the form has no file"}
		}
		return nil
	}
	c.req.Reset()
	return nil
}

// open writes the call into the spool: from here on it will be in the ledger, whatever happens.
func (c *call) open() error {
	c.reading.Reset() // it may still hold what an earlier call read
	c.x.Sent = false
	if c.phone == "" {
		c.phone = c.who.Phone(c.head.phone)
	}
	if c.rate.Rate == 0 {
		c.rate = c.p.Prices.Rate()
	}
	e := &c.event
	*e = metering.Event{
		RequestID:      c.requestID(),
		ClientID:       c.who.ClientID,
		KeyID:          c.who.KeyID,
		ConversationID: unsafeString(c.head.conversation),
		Phone:          c.phone,
		Endpoint:       c.ep.name,
		Streamed:       c.req.Stream,
		Route:          c.target.Route,
		Provider:       c.target.Provider,
		ModelAsked:     c.req.Model,
		ModelServed:    c.send,
		AdmittedAt:     c.start,
		RequestBytes:   c.req.TextBytes,
		Cost:           metering.Cost{Rate: c.rate},
	}
	if c.stake.held {
		e.Holds = c.heldParts()
	}
	if c.model != nil {
		e.ModelID = c.model.ID
		e.Provider = c.model.Provider
	}
	if err := c.p.Meter.Open(e); err != nil {
		return err
	}
	c.opened = true
	c.p.metrics.open.Inc()
	return nil
}

// forward sends the request and begins the answer.
func (c *call) forward() (streaming bool, err error) {
	cancel := &c.solo
	if c.conn != nil {
		cancel = &c.conn.cancel
		cancel.Begin()
		c.allowReadOn()
		c.conn.busySince.Store(c.start.UnixNano())
	} else {
		cancel.Begin()
	}
	c.out = upstream.Request{Method: c.ctx.Request.Header.Method(), Path: c.ep.path, Suffix: c.rest, Lines: c.head.lines}
	if c.ep.body != noBody {
		c.out.Body = c.ctx.Request.Body()
		if c.send != "" {
			c.out.Edits = c.limitOutput(c.req.AimAt(c.send, c.hide, c.edits[:0]))
		}
	} else if c.ep.method == fasthttp.MethodPost {
		c.out.Body = []byte{}
	}
	sent := time.Now()
	c.event.OverheadUs = sent.Sub(c.start).Microseconds()
	h := &c.ctx.Response.Header
	if err := c.x.Do(c.target, &c.out, cancel, h); err != nil {
		return false, c.failed(err)
	}
	c.event.TTFTMs = time.Since(c.start).Milliseconds()
	c.p.metrics.firstByte(c.target, time.Since(sent))
	c.event.Status = h.StatusCode()
	if h.StatusCode() >= 300 && h.StatusCode() < 400 && h.StatusCode() != fasthttp.StatusNotModified {
		// A redirect would take the request, and with it the key, to a place that nobody configured.
		return false, c.failed(upstream.ErrMalformed)
	}
	return c.relay()
}

// failed ends a call that got no answer.
func (c *call) failed(err error) error {
	outcome := metering.Unreachable
	switch {
	case errors.Is(err, upstream.ErrCancelled):
		outcome = metering.ClientGone
	case errors.Is(err, upstream.ErrTimeout):
		c.event.ErrorCode = "upstream_timeout"
	default:
		c.event.ErrorCode = "all_routes_failed"
	}
	c.settle(outcome)
	return &attemptError{c.target.Route, c.target.Provider, err}
}

// end frees what the call holds of others. It may be called more than once.
func (c *call) end() {
	if c.opened && !c.settled {
		// A way out that settles nothing is a fault of ours; the call must not vanish for it.
		c.settle(metering.InternalError)
	}
	c.letGo()
	c.x.Finish()
	if c.conn != nil {
		c.conn.busySince.Store(0)
		c.endReadOn()
	}
}
