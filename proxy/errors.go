package proxy

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// The error types of OpenAI's wire that we use.
const (
	invalidRequest = "invalid_request_error"
	authentication = "authentication_error"
	permission     = "permission_error"
	upstreamFault  = "upstream_error"
	serverFault    = "server_error"
)

// statusClientGone is what nginx made of it; no RFC has a status for an answer that nobody waits for.
const statusClientGone = 499

// refusal is an error as the client will see it: the body and the status line.
type refusal struct {
	status int
	body   openai.Error
	retry  int  // seconds for Retry-After; 0: no such header
	closes bool // the connection cannot be used any more
	final  bool // sending it again cannot help: official SDKs are told not to

	standing *budget.Standing // of the budget that is reached, for the body and the headers; nil: no word of it
}

func (r *refusal) Error() string { return r.body.Error() }

// appendBody is the body that the client gets.
func (r *refusal) appendBody(b []byte) []byte {
	b = r.body.AppendBody(b)
	if r.standing == nil {
		return b
	}
	b = append(b[:len(b)-len("}}")], ',')
	return append(appendStanding(b, r.standing), "}}"...)
}

func badRequest(code, message string) error {
	return &openai.Error{Type: invalidRequest, Code: code, Message: message}
}

func notFound(code, param, message string) *refusal {
	return &refusal{status: fasthttp.StatusNotFound, body: openai.Error{Type: invalidRequest, Code: code, Param: param, Message: message}}
}

func forbidden(code, param, message string) *refusal {
	return &refusal{status: fasthttp.StatusForbidden, body: openai.Error{Type: permission, Code: code, Param: param, Message: message}}
}

func errBodyTooLarge(limit int) *refusal {
	return &refusal{
		status: fasthttp.StatusRequestEntityTooLarge, closes: true,
		body: openai.Error{Type: invalidRequest, Code: "body_too_large", Message: fmt.Sprintf("the request body is larger than the limit of %d bytes", limit)},
	}
}

// toOpenAI is the one place that turns an error into what a client sees. What it does not know becomes a 500 that
// tells nothing but the request id.
func toOpenAI(err error, requestID string) *refusal {
	var (
		known   *refusal
		invalid *openai.Error
		noRoute *upstream.ErrNoRoute
		denied  *budget.Denied
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &denied):
		return overBudget(denied)
	case errors.Is(err, budget.ErrUnavailable):
		return unavailable("ledger_unavailable", "the ledger of budgets does not answer just now, and what this proxy holds of it is not enough: try again", 2)
	case errors.As(err, &invalid):
		return &refusal{status: fasthttp.StatusBadRequest, body: *invalid}
	case errors.Is(err, tenancy.ErrInvalidKey):
		return &refusal{status: fasthttp.StatusUnauthorized, body: openai.Error{
			Type: authentication, Code: "invalid_api_key",
			Message: "invalid API key: send a key that is in force as 'Authorization: Bearer ck_…'",
		}}
	case errors.Is(err, tenancy.ErrUnavailable):
		return unavailable("overloaded", "the key could not be checked just now: try again", 2)
	case errors.Is(err, metering.ErrSpoolFull):
		return unavailable("metering_unavailable", "the meter's disk is full, so no new call can be accounted for: try again later", 10)
	case errors.Is(err, metering.ErrSpoolBroken):
		return unavailable("metering_unavailable", "the meter cannot write, so no new call can be accounted for: try again later", 10)
	case errors.As(err, &noRoute):
		return notFound("model_not_found", "model", noRoute.Error())
	case errors.Is(err, upstream.ErrCancelled):
		// Seen only by a client that ended its own side early and still listens.
		return &refusal{status: statusClientGone, closes: true, body: openai.Error{
			Type: invalidRequest, Code: "client_closed_request", Message: "the client ended the connection before the answer",
		}}
	case errors.Is(err, upstream.ErrTimeout):
		return upstreamFailed(fasthttp.StatusGatewayTimeout, "upstream_timeout", err)
	case errors.Is(err, upstream.ErrConnect), errors.Is(err, upstream.ErrTruncated),
		errors.Is(err, upstream.ErrMalformed), errors.Is(err, upstream.ErrEncoding):
		return upstreamFailed(fasthttp.StatusBadGateway, "all_routes_failed", err)
	}
	return &refusal{status: fasthttp.StatusInternalServerError, body: openai.Error{
		Type: serverFault, Code: "internal_error", Message: "an internal error occurred; report request " + requestID,
	}}
}

func unavailable(code, message string, retry int) *refusal {
	return &refusal{status: fasthttp.StatusServiceUnavailable, retry: retry, body: openai.Error{Type: serverFault, Code: code, Message: message}}
}

// attemptError is an upstream failure with where it happened, in words that hold no address.
type attemptError struct {
	route, provider string
	err             error
}

func (e *attemptError) Error() string { return e.route + "/" + e.provider + ": " + attemptText(e.err) }
func (e *attemptError) Unwrap() error { return e.err }

// attemptText names the kind of a failure; the error beneath may quote addresses.
func attemptText(err error) string {
	for _, kind := range []error{upstream.ErrTimeout, upstream.ErrConnect, upstream.ErrTruncated, upstream.ErrMalformed, upstream.ErrEncoding} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "upstream failed"
}

func upstreamFailed(status int, code string, err error) *refusal {
	message := attemptText(err)
	var attempt *attemptError
	if errors.As(err, &attempt) {
		message = "1 attempt failed: " + attempt.Error()
	}
	return &refusal{status: status, body: openai.Error{Type: upstreamFault, Code: code, Message: message}}
}

// fail answers the call with an error. The response header may hold the upstream's by now, so it is begun anew.
func (c *call) fail(err error) {
	r := toOpenAI(err, c.requestID())
	h := &c.ctx.Response.Header
	h.Reset()
	h.SetStatusCode(r.status)
	h.SetContentType("application/json")
	h.SetCanonical(headerRequestID, c.idBytes())
	if r.retry > 0 {
		h.SetCanonical(headerRetryAfter, strconv.AppendInt(nil, int64(r.retry), 10))
	}
	if r.status == fasthttp.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if r.final {
		h.SetCanonical(headerShouldRetry, []byte("false"))
	}
	if r.standing != nil {
		standingHeaders(h, r.standing)
	} else {
		c.standingHeaders(h)
	}
	if r.closes {
		c.ctx.SetConnectionClose()
	}
	c.ctx.Response.SetBody(r.appendBody(nil))
	c.p.metrics.refused(c.endpointName(), r.body.Code)
	if r.status == fasthttp.StatusInternalServerError {
		c.p.Log.Error("call failed", "request_id", c.requestID(), "endpoint", c.endpointName(), "error", err)
	}
}

// refuseMalformed answers what fasthttp could not read as a request at all. It closes the connection afterwards.
func (p *Proxy) refuseMalformed(ctx *fasthttp.RequestCtx, err error) {
	c := p.begin(ctx)
	defer p.release(c)
	var (
		small  *fasthttp.ErrSmallBuffer
		netErr net.Error
		r      = &refusal{status: fasthttp.StatusBadRequest, body: openai.Error{Type: invalidRequest, Code: "malformed_request", Message: "the bytes received are not a valid HTTP/1.1 request"}}
	)
	switch {
	case errors.As(err, &small):
		r = &refusal{status: fasthttp.StatusRequestHeaderFieldsTooLarge, body: openai.Error{
			Type: invalidRequest, Code: "headers_too_large",
			Message: fmt.Sprintf("the request's headers are larger than the limit of %d bytes", maxRequestHead),
		}}
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		r = errBodyTooLarge(p.MaxBody)
	case errors.As(err, &netErr) && netErr.Timeout():
		r = &refusal{status: fasthttp.StatusRequestTimeout, body: openai.Error{
			Type: invalidRequest, Code: "request_timeout", Message: "the request did not arrive whole in time",
		}}
	}
	r.closes = true
	c.fail(r)
}
