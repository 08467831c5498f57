package proxy

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// Every error that a client can meet, word for word. What is not known becomes a 500 that tells nothing.
func TestErrors(t *testing.T) {
	const id = "req_0123456789abcdef"
	secret := errors.New("dial tcp 10.1.2.3:443: sk-secret")
	attempt := func(err error) error {
		return fmt.Errorf("forward: %w", &attemptError{"gateway", "vercel", fmt.Errorf("%w: %w", err, secret)})
	}
	for _, tt := range []struct {
		name   string
		err    error
		status int
		body   string
		retry  int
		closes bool
	}{
		{
			"a field of the body", &openai.Error{Type: invalidRequest, Code: "invalid_json", Param: "n", Message: "n must be 1."}, 400,
			`{"error":{"message":"n must be 1.","type":"invalid_request_error","param":"n","code":"invalid_json"}}`, 0, false,
		},
		{
			"wrapped", fmt.Errorf("read: %w", badRequest("invalid_header", "twice")), 400,
			`{"error":{"message":"twice","type":"invalid_request_error","param":null,"code":"invalid_header"}}`, 0, false,
		},
		{
			"key", fmt.Errorf("keyring: %w", tenancy.ErrInvalidKey), 401,
			`{"error":{"message":"invalid API key: send a key that is in force as 'Authorization: Bearer ck_…'","type":"authentication_error","param":null,"code":"invalid_api_key"}}`, 0, false,
		},
		{
			"key not judged", fmt.Errorf("keyring: %w: %w", tenancy.ErrUnavailable, secret), 503,
			`{"error":{"message":"the key could not be checked just now: try again","type":"server_error","param":null,"code":"overloaded"}}`, 2, false,
		},
		{
			"paused", forbidden("tenant_paused", "", "this client is paused"+reason("late")), 403,
			`{"error":{"message":"this client is paused: late","type":"permission_error","param":null,"code":"tenant_paused"}}`, 0, false,
		},
		{
			"model not allowed", modelNotAllowed("gpt-4o"), 403,
			`{"error":{"message":"this client may not use the model \"gpt-4o\": GET /v1/models lists those that it may","type":"permission_error","param":"model","code":"model_not_allowed"}}`, 0, false,
		},
		{
			"model not found", modelNotFound("<b>\n"), 404,
			`{"error":{"message":"the model \"\u003cb\u003e\\n\" does not exist here: GET /v1/models lists those that do","type":"invalid_request_error","param":"model","code":"model_not_found"}}`, 0, false,
		},
		{
			"no gateway", &upstream.ErrNoRoute{Route: "gateway"}, 404,
			`{"error":{"message":"no gateway is configured: set AI_GATEWAY_API_KEY","type":"invalid_request_error","param":"model","code":"model_not_found"}}`, 0, false,
		},
		{
			"no direct route", &upstream.ErrNoRoute{Route: "direct", Provider: "groq"}, 404,
			`{"error":{"message":"no direct route to provider \"groq\" is configured","type":"invalid_request_error","param":"model","code":"model_not_found"}}`, 0, false,
		},
		{
			"method", wrongMethod("POST"), 405,
			`{"error":{"message":"this path takes POST only","type":"invalid_request_error","param":null,"code":"method_not_allowed"}}`, 0, false,
		},
		{
			"body too large", errBodyTooLarge(1000), 413,
			`{"error":{"message":"the request body is larger than the limit of 1000 bytes","type":"invalid_request_error","param":null,"code":"body_too_large"}}`, 0, true,
		},
		{
			"disk full", fmt.Errorf("open: %w", metering.ErrSpoolFull), 503,
			`{"error":{"message":"the meter's disk is full, so no new call can be accounted for: try again later","type":"server_error","param":null,"code":"metering_unavailable"}}`, 10, false,
		},
		{
			"disk broken", fmt.Errorf("open: %w", metering.ErrSpoolBroken), 503,
			`{"error":{"message":"the meter cannot write, so no new call can be accounted for: try again later","type":"server_error","param":null,"code":"metering_unavailable"}}`, 10, false,
		},
		{
			"not reached", attempt(upstream.ErrConnect), 502,
			`{"error":{"message":"1 attempt failed: gateway/vercel: upstream could not be reached","type":"upstream_error","param":null,"code":"all_routes_failed"}}`, 0, false,
		},
		{
			"broke off", attempt(upstream.ErrTruncated), 502,
			`{"error":{"message":"1 attempt failed: gateway/vercel: upstream broke off its answer","type":"upstream_error","param":null,"code":"all_routes_failed"}}`, 0, false,
		},
		{
			"malformed", attempt(upstream.ErrMalformed), 502,
			`{"error":{"message":"1 attempt failed: gateway/vercel: upstream sent a malformed answer","type":"upstream_error","param":null,"code":"all_routes_failed"}}`, 0, false,
		},
		{
			"encoding", attempt(upstream.ErrEncoding), 502,
			`{"error":{"message":"1 attempt failed: gateway/vercel: upstream sent an encoding that was not asked for and cannot be read","type":"upstream_error","param":null,"code":"all_routes_failed"}}`, 0, false,
		},
		{
			"too slow", attempt(upstream.ErrTimeout), 504,
			`{"error":{"message":"1 attempt failed: gateway/vercel: upstream did not answer in time","type":"upstream_error","param":null,"code":"upstream_timeout"}}`, 0, false,
		},
		{
			"client gone", attempt(upstream.ErrCancelled), 499,
			`{"error":{"message":"the client ended the connection before the answer","type":"invalid_request_error","param":null,"code":"client_closed_request"}}`, 0, true,
		},
		{
			"panic", errPanic, 500,
			`{"error":{"message":"an internal error occurred; report request req_0123456789abcdef","type":"server_error","param":null,"code":"internal_error"}}`, 0, false,
		},
		{
			"anything else", secret, 500,
			`{"error":{"message":"an internal error occurred; report request req_0123456789abcdef","type":"server_error","param":null,"code":"internal_error"}}`, 0, false,
		},
	} {
		r := toOpenAI(tt.err, id)
		if got := string(r.body.AppendBody(nil)); r.status != tt.status || got != tt.body {
			t.Errorf("%s: %d %s\nwant %d %s", tt.name, r.status, got, tt.status, tt.body)
		}
		if r.retry != tt.retry || r.closes != tt.closes {
			t.Errorf("%s: retry %d, closes %t", tt.name, r.retry, r.closes)
		}
		if event := string(r.body.AppendEvent(nil)); event != "data: "+tt.body+"\n\n" {
			t.Errorf("%s as an event: %q", tt.name, event)
		}
	}
}

// A code that the sources make is one that some test has seen on the wire or in the table above.
func TestEveryErrorCodeIsTested(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var made, tested strings.Builder
	for _, f := range files {
		text, _ := os.ReadFile(f.Name())
		switch {
		case strings.HasSuffix(f.Name(), "_test.go"):
			tested.Write(text)
		case strings.HasSuffix(f.Name(), ".go"):
			made.Write(text)
		}
	}
	conversations, _ := os.ReadDir("testdata")
	for _, f := range conversations {
		text, _ := os.ReadFile("testdata/" + f.Name())
		tested.Write(text)
	}
	codes := regexp.MustCompile(`(?:Code: +|badRequest\(|notFound\(|forbidden\(|unavailable\(|Code, r\.body\.Param = \S+ )"([a-z_]+)"`).FindAllStringSubmatch(made.String(), -1)
	if len(codes) < 20 {
		t.Fatalf("found only %d codes in the sources", len(codes))
	}
	for _, c := range codes {
		if !strings.Contains(tested.String(), `"`+c[1]+`"`) {
			t.Errorf("no test expects the code %s", c[1])
		}
	}
}
