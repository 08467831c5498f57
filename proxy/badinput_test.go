package proxy

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// bad is one thing that a client should not send, and what it gets for it.
type bad struct {
	name   string
	raw    string
	status int    // 0: the connection ends without an answer
	code   string // of the error; "": the answer is none of ours, and 200
	closes bool   // the connection ends behind the answer
}

// After each of these the process serves a good request, on the same connection where that is still open. Nothing goes
// upstream, nothing is metered, nothing is answered twice, and no answer holds anything of another tenant.
func TestBadInput(t *testing.T) {
	rows := append(append(badFraming(), badHeads()...), append(badPaths(), badBodies()...)...)
	if len(rows) < 170 {
		t.Errorf("only %d rows", len(rows))
	}
	const canary = "canary-of-another-tenant"
	w := start(t, answers(answer200("application/json", `{"id":"`+canary+`","model":"gpt-4o-mini","choices":[]}`)), func(o *Options) {
		o.ReadTimeout = 2 * time.Second
	})
	other := postJSON("/v1/chat/completions", "ck_other", `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"`+canary+`"}]}`,
		"X-Phone: +5511987654321", "X-Conversation-Id: "+canary)
	if a := w.ask(other); a.status != 200 {
		t.Fatal(a.status, string(a.body))
	}
	seen := map[string]bool{}
	for _, b := range rows {
		if seen[b.name] {
			t.Errorf("two rows are called %q", b.name)
		}
		seen[b.name] = true
		t.Run(b.name, func(t *testing.T) {
			c, answer := w.suffer(t, b)
			defer c.Close()
			if answer != nil && strings.Contains(string(answer.body)+fmt.Sprint(answer.header), "canary") {
				t.Errorf("the answer holds what is another tenant's: %s", answer.body)
			}
			if b.closes || b.status == 0 {
				if !c.ended(5 * time.Second) {
					t.Error("the connection goes on, or there is a second answer")
				}
				c = w.dial()
				defer c.Close()
			}
			good(t, c)
		})
	}
	if n := w.metric("catraca_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
	if log := w.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the log has errors of ours: %.2000s", log)
	}
}

// suffer sends a bad request and checks what comes back.
func (w *world) suffer(t *testing.T, b bad) (*client, *answer) {
	t.Helper()
	opened, _ := w.meter.counts()
	c := w.dial()
	go func() { // a refusal may come before all is sent
		c.say(b.raw)
		if b.status == 0 {
			c.Conn.(*net.TCPConn).CloseWrite()
		}
	}()
	a, err := c.answer()
	if now, _ := w.meter.counts(); now != opened {
		t.Errorf("%d calls were opened", now-opened)
	}
	if b.status == 0 {
		if err != errNoAnswer {
			t.Errorf("answered: %v, %+v", err, a)
		}
		return c, nil
	}
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if a.status != b.status || !a.whole {
		t.Errorf("status %d, whole %t, want %d: %s", a.status, a.whole, b.status, a.body)
	}
	if a.closing != b.closes {
		t.Errorf("closing %t, want %t", a.closing, b.closes)
	}
	if b.code != "" {
		checkError(t, a, b.code)
	}
	return c, a
}

// checkError holds an answer to the shape of OpenAI's errors: all four keys, and our request id.
func checkError(t *testing.T, a *answer, code string) {
	t.Helper()
	var e struct {
		Error map[string]*string `json:"error"`
	}
	if err := json.Unmarshal(a.body, &e); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	for _, key := range []string{"message", "type", "param", "code"} {
		if _, ok := e.Error[key]; !ok {
			t.Errorf("no key %q in %s", key, a.body)
		}
	}
	if len(e.Error) != 4 || e.Error["message"] == nil || *e.Error["message"] == "" || e.Error["type"] == nil {
		t.Errorf("error %s", a.body)
	}
	if got := e.Error["code"]; got == nil || *got != code {
		t.Errorf("code in %s, want %s", a.body, code)
	}
	if a.get("Content-Type") != "application/json" || !strings.HasPrefix(a.get("X-Request-Id"), "req_") {
		t.Errorf("header %q", a.header)
	}
}

var goodBody = `{"model":"gpt-4o-mini","messages":[]}`

func good(t *testing.T, c *client) {
	t.Helper()
	c.say(postJSON("/v1/chat/completions", "ck_direct", goodBody))
	a, err := c.answer()
	if err != nil || a.status != 200 {
		t.Errorf("a good request afterwards: %v, %+v", err, a)
	}
}

// head is a request with a good body and the header lines given beside the necessary ones.
func withLines(lines ...string) string {
	return postJSON("/v1/chat/completions", "ck_direct", goodBody, lines...)
}

// bare is a request of exactly these lines and body.
func bare(body string, lines ...string) string {
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

const (
	postLine = "POST /v1/chat/completions HTTP/1.1"
	hostLine = "Host: catraca"
	keyLine  = "Authorization: Bearer ck_direct"
	jsonLine = "Content-Type: application/json"
)

func lengthLine(body string) string { return fmt.Sprint("Content-Length: ", len(body)) }

// smuggled is a whole second request, which must never be taken for one.
var smuggled = "GET /v1/models HTTP/1.1\r\nHost: catraca\r\nAuthorization: Bearer ck_other\r\n\r\n"

// badFraming has what two readers of HTTP could see two different requests in. All of it ends the connection.
func badFraming() (rows []bad) {
	add := func(name, raw string) { rows = append(rows, bad{name, raw, 400, "malformed_request", true}) }
	own := func(name, raw string) { rows = append(rows, bad{name, raw, 400, "invalid_header", true}) }
	chunked := func(te, body string) string { return bare(body, postLine, hostLine, keyLine, jsonLine, te) }
	goodChunks := chunk(goodBody) + "0\r\n\r\n"
	te := "Transfer-Encoding: chunked"

	own("length and chunks", bare(goodChunks+smuggled, postLine, hostLine, keyLine, jsonLine, "Content-Length: 5", te))
	own("chunks and length", bare(goodChunks+smuggled, postLine, hostLine, keyLine, jsonLine, te, "Content-Length: 5"))
	own("right length and chunks", bare(goodChunks, postLine, hostLine, keyLine, jsonLine, te, fmt.Sprint("Content-Length: ", len(goodChunks))))
	for _, v := range []string{"xchunked", "chunked, identity", "gzip, chunked", "identity, chunked", "chunked, chunked", "\"chunked\"", "chunked;q=1", "gzip", "", "\x0bchunked"} {
		add("transfer encoding "+fmt.Sprintf("%q", v), chunked("Transfer-Encoding: "+v, goodChunks+smuggled))
	}
	add("transfer encoding twice", chunked(te+"\r\n"+te, goodChunks+smuggled))
	own("transfer encoding identity", chunked("Transfer-Encoding: identity", goodBody))
	add("transfer encoding with a space before the colon", chunked("Transfer-Encoding : chunked", goodChunks+smuggled))
	add("transfer encoding under HTTP/1.0", bare(goodChunks+smuggled, "POST /v1/chat/completions HTTP/1.0", hostLine, keyLine, jsonLine, te))
	for _, v := range []string{"5, 5", "5,6", "+5", "-5", "0x25", "5 5", "", "5.0", "five", "99999999999999999999", "5;a"} {
		add("length "+fmt.Sprintf("%q", v), bare(goodBody+smuggled, postLine, hostLine, keyLine, jsonLine, "Content-Length: "+v))
	}
	add("length twice, equal", bare(goodBody, postLine, hostLine, keyLine, jsonLine, lengthLine(goodBody), lengthLine(goodBody)))
	add("length twice, unequal", bare(goodBody+smuggled, postLine, hostLine, keyLine, jsonLine, lengthLine(goodBody), "Content-Length: 0"))
	add("length with a space before the colon", bare(goodBody, postLine, hostLine, keyLine, jsonLine, "Content-Length : 5"))
	add("length with a tab before the colon", bare(goodBody, postLine, hostLine, keyLine, jsonLine, "Content-Length\t: 5"))

	for _, size := range []string{"0x25", "+25", "-1", "", " 25", "g", "25\x00", "fffffffffffffffff", "7fffffffffffffff", "25;a\nb"} {
		add("chunk size "+fmt.Sprintf("%q", size), chunked(te, size+"\r\n"+goodBody+"\r\n0\r\n\r\n"+smuggled))
	}
	add("chunk shorter than its size", chunked(te, "5\r\n"+goodBody+"\r\n0\r\n\r\n"+smuggled))
	add("chunk ended by bare LF", chunked(te, fmt.Sprintf("%x\r\n%s\n0\r\n\r\n", len(goodBody), goodBody)))
	add("chunk size ended by bare LF", chunked(te, fmt.Sprintf("%x\n%s\r\n0\r\n\r\n", len(goodBody), goodBody)))
	add("chunk ended by nothing", chunked(te, fmt.Sprintf("%x\r\n%s0\r\n\r\n", len(goodBody), goodBody)))
	add("forbidden trailer", chunked(te, chunk(goodBody)+"0\r\nAuthorization: Bearer ck_other\r\n\r\n"))
	add("trailer without a colon", chunked(te, chunk(goodBody)+"0\r\nnothing\r\n\r\n"))

	own("folded header", withLines("X-A: b", " c"))
	own("folded header with a tab", withLines("X-A: b", "\tc"))
	own("folded key", bare(goodBody, postLine, hostLine, "Authorization: Bearer", " ck_direct", lengthLine(goodBody)))
	add("header without a colon", withLines("nothing"))
	add("header that is a colon", withLines(": x"))
	own("header name with a space", withLines("X A: b"))
	add("header name with NUL", withLines("X-\x00A: b"))
	add("header value with NUL", withLines("X-A: b\x00c"))
	add("header value with a bare CR", withLines("X-A: b\rAuthorization: Bearer ck_other"))
	add("header value with DEL", withLines("X-A: b\x7f"))
	add("header name not ASCII", withLines("X-Ã: b"))
	add("header name with a bracket", withLines("X(A): b"))
	own("header ended by bare LF", strings.Replace(withLines("X-A: b"), "X-A: b\r\n", "X-A: b\n", 1))
	rows = append(rows, bad{"all line ends bare LF", strings.ReplaceAll(bare("", "GET /v1/models HTTP/1.1", hostLine, keyLine), "\r\n", "\n"), 408, "request_timeout", true})
	add("all line ends bare CR", strings.ReplaceAll(bare("", "GET /v1/models HTTP/1.1", hostLine, keyLine), "\r\n", "\r")+"\r\n\r\n")
	return rows
}

// badHeads has request lines and headers that are framed well, but mean nothing good.
func badHeads() (rows []bad) {
	add := func(status int, code string, closes bool, name, raw string) {
		rows = append(rows, bad{name, raw, status, code, closes})
	}
	for _, h := range []string{"Authorization: Bearer ck_other", "X-Client-Id: a", "X-Conversation-Id: a", "X-Phone: 1", "X-Catraca-Token: a", "X-Catraca-Cache: bypass", "Content-Type: text/plain", "Expect: x"} {
		name, _, _ := strings.Cut(h, ":")
		add(400, "duplicate_header", true, name+" twice", withLines(h, strings.ToLower(h)))
	}
	add(400, "duplicate_header", true, "two keys, the same", withLines(keyLine))
	add(400, "malformed_request", true, "host twice", withLines("Host: other"))
	add(400, "malformed_request", true, "no host", bare(goodBody, postLine, keyLine, lengthLine(goodBody)))
	add(431, "headers_too_large", true, "header of 64 KiB", withLines("X-A: "+strings.Repeat("a", 64<<10)))
	add(431, "headers_too_large", true, "header name of 64 KiB", withLines(strings.Repeat("A", 64<<10)+": b"))
	add(431, "headers_too_large", true, "1000 headers", withLines(strings.Split(strings.TrimSuffix(strings.Repeat("X-Stainless-Something: b\n", 1000), "\n"), "\n")...))
	add(431, "headers_too_large", true, "key of 64 KiB", bare(goodBody, postLine, hostLine, keyLine+strings.Repeat("a", 64<<10), lengthLine(goodBody)))
	add(431, "headers_too_large", true, "URI of 1 MiB", bare("", "GET /v1/models?"+strings.Repeat("a", 1<<20)+" HTTP/1.1", hostLine, keyLine))
	add(431, "headers_too_large", true, "endless request line", strings.Repeat("A", 64<<10))

	key := func(name, line string) {
		lines := []string{postLine, hostLine, jsonLine, lengthLine(goodBody)}
		if line != "" {
			lines = append(lines, line)
		}
		add(401, "invalid_api_key", false, name, bare(goodBody, lines...))
	}
	key("no key", "")
	key("empty key", "Authorization: ")
	key("scheme without a key", "Authorization: Bearer")
	key("scheme and a space", "Authorization: Bearer ")
	key("unknown key", "Authorization: Bearer ck_nobody")
	key("basic", "Authorization: Basic Y2tfZGlyZWN0Og==")
	key("key in the wrong place", "X-Api-Key: ck_direct")
	key("key in another case", "Authorization: Bearer CK_DIRECT")
	key("key with more behind it", "Authorization: Bearer ck_direct ck_other")
	key("key with a comma", "Authorization: Bearer ck_direct, Bearer ck_other")
	key("key with a tab before it", "Authorization: Bearer\tck_direct")
	key("two schemes", "Authorization: Bearer Bearer ck_direct")
	key("key of 6 KiB", "Authorization: Bearer ck_"+strings.Repeat("a", 6<<10))
	key("key not ASCII", "Authorization: Bearer ck_dirécté")
	key("key with an underscore in the header's name", "Authorization_: Bearer ck_direct")
	key("client id where it is not trusted", "X-Client-Id: 00000000-0000-4000-8000-000000000001")
	key("key in a cookie", "Cookie: Authorization=ck_direct")
	key("key of a proxy", "Proxy-Authorization: Bearer ck_direct")
	add(400, "malformed_request", true, "key with NUL", bare(goodBody, postLine, hostLine, keyLine+"\x00", lengthLine(goodBody)))
	add(401, "invalid_api_key", false, "key in the URI", bare("", "GET /v1/models?api_key=ck_direct HTTP/1.1", hostLine))
	add(401, "invalid_api_key", false, "key in a trailer that is not refused", bare(chunk(goodBody)+"0\r\nX-Api-Key: ck_direct\r\nX-Client-Id: 00000000-0000-4000-8000-000000000001\r\n\r\n", postLine, hostLine, jsonLine, "Transfer-Encoding: chunked"))
	add(503, "overloaded", false, "key that cannot be judged", bare(goodBody, postLine, hostLine, "Authorization: Bearer ck_unavailable", lengthLine(goodBody)))
	add(403, "tenant_paused", false, "paused", postJSON("/v1/chat/completions", "ck_paused", goodBody))

	add(400, "invalid_header", false, "conversation id of 300 characters", withLines("X-Conversation-Id: "+strings.Repeat("a", 300)))
	add(400, "invalid_header", false, "conversation id not ASCII", withLines("X-Conversation-Id: olá"))
	add(400, "invalid_header", false, "phone of 100 characters", withLines("X-Phone: "+strings.Repeat("1", 100)))
	add(400, "invalid_header", false, "phone not ASCII", withLines("X-Phone: +5511 ٩٨٧"))
	add(400, "invalid_header", false, "phone with a tab inside", withLines("X-Phone: 11\t98765"))
	add(400, "unsupported_encoding", false, "compressed body", withLines("Content-Encoding: gzip"))
	add(400, "unsupported_encoding", false, "compressed body with brotli", withLines("Content-Encoding: br"))

	method := func(m string, status int, code string, closes bool) {
		add(status, code, closes, "method "+m, bare("", m+" /v1/chat/completions HTTP/1.1", hostLine, keyLine, "Content-Length: 0"))
	}
	for _, m := range []string{"GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "POSTX", "X-Y"} {
		method(m, 405, "method_not_allowed", false)
	}
	for _, m := range []string{"PO ST", "P(ST", "", "PÖST"} {
		method(m, 400, "malformed_request", true)
	}
	version := func(v string, status int, code string) {
		add(status, code, true, "version "+v, bare(goodBody, "POST /v1/chat/completions "+v, hostLine, keyLine, lengthLine(goodBody)))
	}
	for _, v := range []string{"HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/9.9"} {
		version(v, 505, "http_version")
	}
	for _, v := range []string{"HTTP/1", "HTTP/1.10", "HTP/1.1", "http/1.1", "HTTP 1.1"} {
		version(v, 400, "malformed_request")
	}
	add(400, "malformed_request", true, "HTTP/0.9", "GET /v1/models\r\n\r\n")
	add(505, "http_version", true, "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	add(400, "malformed_request", true, "TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
	add(400, "malformed_request", true, "SOCKS", "\x05\x01\x00\r\n\r\n")
	return rows
}

// badPaths has paths that name nothing here, and ids that would name something elsewhere.
func badPaths() (rows []bad) {
	get := func(path string, status int, code string, closes bool) {
		rows = append(rows, bad{"GET " + path, bare("", "GET "+path+" HTTP/1.1", hostLine, keyLine), status, code, closes})
	}
	for _, path := range []string{
		"/", "/v1", "/v1/", "/v2/models", "/v1/v1/models", "//v1/models", "/v1//models", "/v1/./models", "/v1/../models",
		"/v1/%6dodels", "/v1%2fmodels", "/%2e%2e/v1/models", "/v1/%2e%2e/admin", "/V1/models", "/v1/Models", "/v1/chat/completions/", "/v1/chat",
		"/v1/files", "/v1/batches", "/v1/realtime", "/v1/assistants", "/v1/fine_tuning/jobs", "/v1/generation?id=gen_1", "/admin", "/metrics", "/healthz",
		"/debug/pprof/", "/v1/models\\..\\x", "*", "http://catraca/v1/models", "https://evil.example/v1/models", "/v1/models;x=y", "/v1/embeddings%00",
		"/v1/responses/", "/v1/responses/..", "/v1/responses/../models", "/v1/responses/%2e%2e", "/v1/responses/a%2fb", "/v1/responses/a.b", "/v1/responses/a/b",
		"/v1/responses/a/input_items/b", "/v1/responses/a/../b", "/v1/responses//input_items", "/v1/responses/" + strings.Repeat("a", 300), "/v1/responses/é",
		"/v1/responses/a%00", "/v1/responses/a;b",
	} {
		get(path, 404, "not_found", false)
	}
	for _, path := range []string{"/v1/models/%00", "/v1/models/a%0d%0ab", "/v1/models/%ff", "/v1/models/%zz", "/v1/models/%", "/v1/models/..", "/v1/models/../x", "/v1/models/../../admin", "/v1/models/" + strings.Repeat("a", 300), "/v1/models/<script>"} {
		get(path, 404, "model_not_found", false)
	}
	get("/v1/responses/resp_of_another", 404, "response_not_found", false)
	get("/v1/responses/a/cancel", 405, "method_not_allowed", false)
	get("v1/models", 400, "malformed_request", true)
	get("/v1/models?a=b c", 400, "malformed_request", true)
	get("/v1/models?a=\x01", 400, "malformed_request", true)
	get("/v1/models#fragment", 404, "not_found", false)
	return rows
}
