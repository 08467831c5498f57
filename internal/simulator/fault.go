package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// problem is an error before any upstream has dressed it.
type problem struct {
	status  int
	kind    string // error.type; empty: what the upstream says for the status
	code    string // error.code; empty: null
	message string
	param   string
	ruleID  string // a gateway's param object
	retry   string // retry-after
	object  bool   // Google: one object even where it would send an array
}

// refuse ends the request with an error in the upstream's own shape.
func (c *call) refuse(p problem) {
	if p.kind == "" {
		p.kind = c.standard(p.status).kind
	}
	if p.retry != "" {
		c.w.Header().Set("Retry-After", p.retry)
		if c.route == openai {
			c.w.Header().Set("Retry-After-Ms", p.retry+"000")
		}
	}
	c.sendError(p.status, c.contentType(false), c.errorBody(p))
}

// sendError is the way out of every error: tallied, then written whole.
func (c *call) sendError(status int, contentType string, body []byte) {
	c.settle(refused)
	c.headers()
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body)
}

// errorBody is the error object as the upstream writes it.
func (c *call) errorBody(p problem) []byte {
	switch c.route {
	case openai:
		var b bytes.Buffer
		_ = json.Indent(&b, encode(object{"error", c.errorObject(p)}), "", "    ")
		return b.Bytes()
	case groq:
		return append(encode(object{"error", c.errorObject(p)}), '\n')
	case google:
		if p.object {
			return encode(object{"error", c.errorObject(p)})
		}
		return encode(list{object{"error", c.errorObject(p)}})
	}
	body := object{"error", c.errorObject(p)}
	if c.route == gateway && c.model != "" {
		body = body.with("generationId", "gen_"+c.ulid())
	}
	return encode(body)
}

// errorObject is what stands under "error", also in an event in mid-stream.
func (c *call) errorObject(p problem) object {
	switch c.route {
	case google:
		return object{"code", p.status, "message", p.message, "status", googleStatus(p.status)}
	case groq:
		o := object{"message", p.message, "type", p.kind}
		if p.code != "" {
			o = o.with("code", p.code)
		}
		return o
	case gateway:
		o := object{"message", p.message, "type", p.kind}
		if p.ruleID != "" {
			o = o.with("param", object{"ruleId", p.ruleID})
		} else if p.param != "" {
			o = o.with("param", p.param)
		}
		if p.code != "" {
			o = o.with("code", p.code)
		}
		return o
	}
	return object{"message", p.message, "type", p.kind, "param", orNull(p.param), "code", orNull(p.code)}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// standard is what the upstream says of a status when nothing more is known.
func (c *call) standard(status int) problem {
	p := problem{status: status}
	switch status {
	case 400:
		p.kind, p.message = "invalid_request_error", "The request could not be understood."
	case 401:
		p.kind, p.message = "authentication_error", "Invalid API key."
	case 402:
		p.kind, p.message = "insufficient_funds", "Insufficient funds: add credits and try again."
	case 403:
		p.kind, p.message = "permission_error", "This model is not allowed for your account."
	case 404:
		p.kind, p.code = "invalid_request_error", "model_not_found"
		p.message = fmt.Sprintf("The model `%s` does not exist or you do not have access to it.", c.model)
	case 408:
		p.kind, p.message = "timeout_error", "The request timed out."
	case 424:
		p.kind, p.message = "failed_dependency", "An upstream dependency failed."
	case 429:
		p.kind, p.code, p.message = "rate_limit_exceeded", "rate_limit_exceeded", "Rate limit exceeded"
	case 503:
		p.kind, p.message = "service_unavailable", "The service is temporarily unavailable."
	case 529:
		p.kind, p.message = "overloaded_error", "Overloaded"
	default:
		p.kind, p.message = "internal_server_error", "Internal server error"
	}
	c.flavour(&p)
	return p
}

// flavour puts the upstream's own words in, where they are known.
func (c *call) flavour(p *problem) {
	switch {
	case c.route == gateway && p.status == 402:
		p.kind, p.message = "quota_for_entity_exceeded", "Budget for API key exceeded: spent $10.02 of $10.00."
	case c.route == gateway && p.status == 403:
		p.kind, p.ruleID, p.message = "forbidden", "rule_simulada", "Model blocked by a routing rule."
	case c.route == gateway && p.status == 404:
		p.kind, p.code = "model_not_found", ""
	case c.route == gateway && p.status == 429:
		p.code = ""
	case c.route == openai && p.status == 401:
		p.kind, p.code = "invalid_request_error", "invalid_api_key"
		p.message = "Incorrect API key provided: " + masked("X-Api-Key", c.secret()) + ". You can find your API key at https://platform.openai.com/account/api-keys."
	case c.route == groq && p.status == 401:
		p.kind, p.code, p.message = "invalid_request_error", "invalid_api_key", "Invalid API Key"
	case c.route == anthropic && p.status == 401:
		p.message = "invalid x-api-key"
	case (c.route == openai || c.route == groq) && p.status == 429:
		p.kind = "tokens"
		p.message = fmt.Sprintf("Rate limit reached for model `%s` on tokens per min (TPM): Limit 300000, Used 299990, Requested 64. Please try again in 1s.", c.model)
	case c.route == anthropic && p.status == 429:
		p.kind, p.code = "rate_limit_error", ""
	case c.route == openai && p.status >= 500:
		p.kind = "server_error"
	}
}

func googleStatus(status int) string {
	names := map[int]string{
		400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
		424: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 402: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
	}
	if name, ok := names[status]; ok {
		return name
	}
	return "UNKNOWN"
}

func (c *call) badKey() problem {
	p := c.standard(http.StatusUnauthorized)
	if c.secret() == "" && c.route == openai {
		p.code = ""
		p.message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
	}
	p.object = true
	return p
}

func (c *call) unknownPath() problem {
	p := problem{
		status: http.StatusNotFound, kind: "invalid_request_error", object: true,
		message: fmt.Sprintf("Invalid URL (%s %s)", c.r.Method, c.r.URL.Path),
	}
	switch c.route {
	case groq:
		p.code = "unknown_url"
		p.message = fmt.Sprintf("Unknown request URL: %s %s. Please check the URL for typos, or see the docs at https://console.groq.com/docs/", c.r.Method, c.r.URL.Path)
	case gateway:
		p.kind = "not_found"
	}
	return p
}

// misbehave answers the requests whose traits ask for something else than an answer.
func (c *call) misbehave() bool {
	t := c.traits
	if status, ok := c.unlucky(); ok {
		c.refuse(c.standard(status))
		return true
	}
	if status := t.status(); status != 0 {
		p := c.standard(status)
		if status == http.StatusTooManyRequests && !t.has("429-bare") {
			p.retry = "1"
		}
		if c.wait(c.firstDelay()) {
			c.refuse(p)
		} else {
			c.left()
		}
		return true
	}
	switch {
	case t.has("string-error"):
		c.sendError(http.StatusBadRequest, c.contentType(false), encode(object{
			"error", "No providers available for this request", "type", "no_providers_available", "statusCode", 400,
		}))
	case t.has("array-error"):
		c.sendError(http.StatusBadRequest, c.contentType(false), encode(list{object{"error", object{
			"code", 400, "message", "API key not valid. Please pass a valid API key.", "status", "INVALID_ARGUMENT",
		}}}))
	case t.has("html-error"):
		c.sendError(http.StatusBadGateway, "text/html", []byte("<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"+
			"<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"))
	case t.has("echo-key"):
		p := c.standard(http.StatusUnauthorized)
		p.message = "Incorrect API key provided: " + c.r.Header.Get("Authorization")
		c.refuse(p)
	case t.has("redirect"):
		c.w.Header().Set("Location", "http://"+c.r.Host+"/_elsewhere")
		c.sendError(http.StatusFound, "text/plain; charset=utf-8", []byte("Found"))
	case t.has("blackhole"):
		c.linger()
		c.left()
	case t.has("hang"):
		c.headers()
		c.w.Header().Set("Content-Type", c.contentType(c.streamed))
		c.w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(c.w).Flush()
		c.linger()
		c.left()
	default:
		return false
	}
	return true
}
