package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// badBodies has bodies that are too much, no JSON, or JSON that two readers could take for two different things.
func badBodies() (rows []bad) {
	body := func(status int, code, name, text string) {
		rows = append(rows, bad{name, postJSON("/v1/chat/completions", "ck_direct", text), status, code, false})
	}
	invalid := func(name, text string) { body(400, "invalid_json", name, text) }
	rows = append(rows,
		bad{"33 MiB announced", bare("", postLine, hostLine, keyLine, jsonLine, fmt.Sprint("Content-Length: ", 33<<20)), 413, "body_too_large", true},
		bad{"33 MiB announced and sent", bare(strings.Repeat("a", 33<<20), postLine, hostLine, keyLine, jsonLine, fmt.Sprint("Content-Length: ", 33<<20)), 413, "body_too_large", true},
		bad{"33 MiB in chunks", bare(strings.Repeat(chunk(strings.Repeat("a", 1<<20)), 33), postLine, hostLine, keyLine, jsonLine, "Transfer-Encoding: chunked"), 413, "body_too_large", true},
		bad{"one chunk of 1 GiB", bare("40000000\r\naaaa", postLine, hostLine, keyLine, jsonLine, "Transfer-Encoding: chunked"), 413, "body_too_large", true},
		bad{"8 EiB announced", bare("", postLine, hostLine, keyLine, jsonLine, "Content-Length: 9223372036854775807"), 413, "body_too_large", true},
	)
	// Syntax.
	for name, text := range map[string]string{
		"empty body": "", "spaces": "   \n", "not JSON": "hello", "an array": `[{"model":"gpt-4o-mini"}]`, "a string": `"model"`, "a number": "1", "null": "null", "true": "true",
		"half an object": `{"model":"gpt-4o-mini"`, "half a string": `{"model":"gpt-4o-m`, "half a key": `{"mod`, "trailing garbage": goodBody + "x", "two objects": goodBody + goodBody,
		"two objects on two lines": goodBody + "\n" + goodBody, "trailing brace": goodBody + "}", "trailing NUL": goodBody + "\x00", "trailing comma": `{"model":"gpt-4o-mini",}`,
		"comma in an array": `{"model":"gpt-4o-mini","messages":[1,]}`, "leading comma": `{,"model":"gpt-4o-mini"}`, "no colon": `{"model" "gpt-4o-mini"}`, "no value": `{"model":}`,
		"single quotes": `{'model':'gpt-4o-mini'}`, "bare key": `{model:"gpt-4o-mini"}`, "comment": `{"model":"gpt-4o-mini"/*x*/}`, "line comment": "{\"model\":\"gpt-4o-mini\"//x\n}",
		"byte order mark": "\xef\xbb\xbf" + goodBody, "UTF-16": "\xff\xfe{\x00}\x00", "UTF-16 without a mark": "{\x00}\x00", "form": "model=gpt-4o-mini&stream=true",
		"NaN": `{"model":"gpt-4o-mini","temperature":NaN}`, "Infinity": `{"model":"gpt-4o-mini","temperature":Infinity}`, "undefined": `{"model":"gpt-4o-mini","x":undefined}`,
		"hexadecimal": `{"model":"gpt-4o-mini","max_tokens":0x10}`, "leading zero": `{"model":"gpt-4o-mini","temperature":01}`, "leading plus": `{"model":"gpt-4o-mini","temperature":+1}`,
		"leading point": `{"model":"gpt-4o-mini","temperature":.5}`, "trailing point": `{"model":"gpt-4o-mini","temperature":1.}`, "exponent without digits": `{"model":"gpt-4o-mini","temperature":1e}`,
		"minus alone": `{"model":"gpt-4o-mini","temperature":-}`, "True": `{"model":"gpt-4o-mini","stream":True}`, "tru": `{"model":"gpt-4o-mini","stream":tru}`,
		"control character in a string": "{\"model\":\"gpt-4o-mini\",\"x\":\"a\nb\"}", "NUL in a string": "{\"model\":\"gpt-4o-mini\",\"x\":\"a\x00b\"}", "NUL between": "{\"model\":\x00\"gpt-4o-mini\"}",
		"invalid UTF-8 in a string": "{\"model\":\"gpt-4o-mini\",\"x\":\"\xff\"}", "overlong UTF-8": "{\"model\":\"gpt-4o-mini\",\"x\":\"\xc0\xaf\"}", "surrogate in UTF-8": "{\"model\":\"gpt-4o-mini\",\"x\":\"\xed\xa0\x80\"}",
		"cut UTF-8": "{\"model\":\"gpt-4o-mini\",\"x\":\"\xe2\x82\"}", "invalid UTF-8 in a key": "{\"model\":\"gpt-4o-mini\",\"\xff\":1}", "unknown escape": `{"model":"gpt-4o-mini","x":"\q"}`, "short escape": `{"model":"gpt-4o-mini","x":"\u12"}`,
		"wrong brackets": `{"model":"gpt-4o-mini","messages":[}]`, "form feed": "{\f\"model\":\"gpt-4o-mini\"}", "no-break space": "{\u00a0\"model\":\"gpt-4o-mini\"}",
		// Bombs.
		"65 deep": deep(65, "[", "]"), "65 objects deep": deep(65, `{"a":`, "}"), "100000 deep": deep(100_000, "[", "]"), "100000 open": `{"model":"gpt-4o-mini","messages":` + strings.Repeat("[", 100_000),
		"5 MB open": strings.Repeat("[", 5<<20), "5 MB open inside": `{"model":"gpt-4o-mini","messages":` + strings.Repeat("[", 5<<20), "5 MB of objects": strings.Repeat(`{"a":`, 1<<20),
		"100000 keys": `{"model":"gpt-4o-mini"` + manyKeys(100_000) + "}",
		// Twice, or nearly.
		"model twice": `{"model":"gpt-4o-mini","messages":[],"model":"gpt-4o"}`, "stream twice": `{"model":"gpt-4o-mini","stream":true,"stream":false}`, "max_tokens twice": `{"model":"gpt-4o-mini","max_tokens":1,"max_tokens":100000}`,
		"unknown key twice": `{"model":"gpt-4o-mini","x":1,"x":2}`, "model twice, escaped": `{"model":"gpt-4o-mini","mod\u0065l":"gpt-4o"}`, "model twice, escaped first": `{"\u006dodel":"gpt-4o","model":"gpt-4o-mini"}`,
		"stream_options twice": `{"model":"gpt-4o-mini","stream":true,"stream_options":{},"stream_options":null}`, "include_usage twice": `{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}`,
		"n twice": `{"model":"gpt-4o-mini","n":1,"n":100}`, "MODEL": `{"model":"gpt-4o-mini","MODEL":"gpt-4o"}`, "Model alone": `{"Model":"gpt-4o-mini"}`, "Stream": `{"model":"gpt-4o-mini","Stream":true}`, "Max_Tokens": `{"model":"gpt-4o-mini","Max_Tokens":5}`,
		"ſtream": `{"model":"gpt-4o-mini","ſtream":true}`, "max_toKens": `{"model":"gpt-4o-mini","max_toKens":5}`, "providerOptions.gateway twice": `{"model":"gpt-4o-mini","providerOptions":{"gateway":{"models":[]},"gateway":{"models":["openai/gpt-4o"]}}}`,
	} {
		invalid(name, text)
	}
	// Values.
	for field, values := range map[string][]string{
		"model":                 {"1", "null", "true", `["gpt-4o-mini"]`, `{}`, `""`, `"` + strings.Repeat("a", 300) + `"`, `"gpt-4o\nmini"`, `"gpt\u0000"`, `"\ud800"`},
		"max_tokens":            {"1e400", "-5", "10.9", `"10"`, "1e3", "9223372036854775808", "true", "[]", "-0", "1E2", "99999999999999999999999"},
		"max_completion_tokens": {"-1", "1.0", `"x"`},
		"n":                     {"0", "-1", "1000000000", "1.5", `"1"`, "1e1"},
		"stream":                {`"true"`, "1", "0", "[]", "{}"},
		"stream_options":        {"true", `"x"`, "[]", "1"},
		"models":                {`"gpt-4o"`, "{}", "[1]", `[null]`},
	} {
		for _, v := range values {
			text := fmt.Sprintf(`{"model":"gpt-4o-mini","%s":%s}`, field, v)
			if field == "model" {
				text = fmt.Sprintf(`{"model":%s}`, v)
			}
			invalid(fmt.Sprintf("%s %.40s", field, v), text)
		}
	}
	invalid("include_usage 1", `{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":1}}`)
	body(400, "model_required", "no model", `{"messages":[]}`)
	body(404, "model_not_found", "unknown model", `{"model":"no such model"}`)
	body(404, "model_not_found", "model with markup", `{"model":"<script>alert(1)</script>"}`)
	body(404, "model_not_found", "model with a path", `{"model":"../../etc/passwd"}`)
	body(404, "model_not_found", "inactive model", `{"model":"gpt-retired"}`)
	rows = append(rows, bad{"previous response of another", postJSON("/v1/responses", "ck_direct", `{"model":"gpt-4o-mini","previous_response_id":"resp_other","input":""}`), 400, "previous_response_not_found", false})
	return append(rows, badForms()...)
}

func deep(n int, open, shut string) string {
	return `{"model":"gpt-4o-mini","messages":` + strings.Repeat(open, n-1) + "1" + strings.Repeat(shut, n-1) + "}"
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":1`, i)
	}
	return b.String()
}

// badForms has multipart bodies.
func badForms() (rows []bad) {
	form := func(status int, code, name, contentType, body string) {
		lines := []string{"POST /v1/audio/transcriptions HTTP/1.1", hostLine, keyLine, lengthLine(body)}
		if contentType != "" {
			lines = append(lines, "Content-Type: "+contentType)
		}
		rows = append(rows, bad{"form: " + name, bare(body, lines...), status, code, false})
	}
	part := func(name, value string) string {
		return "--x\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	file := "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n"
	const mp, end = "multipart/form-data; boundary=x", "--x--\r\n"
	whole := part("model", "whisper-1") + file + end
	form(400, "invalid_multipart", "JSON instead", "application/json", goodBody)
	form(400, "invalid_multipart", "no content type", "", whole)
	form(400, "invalid_multipart", "no boundary", "multipart/form-data", whole)
	form(400, "invalid_multipart", "empty boundary", "multipart/form-data; boundary=", whole)
	form(400, "invalid_multipart", "boundary of 100 characters", "multipart/form-data; boundary="+strings.Repeat("x", 100), whole)
	form(400, "invalid_multipart", "urlencoded", "application/x-www-form-urlencoded", "model=whisper-1")
	form(400, "invalid_json", "another boundary", "multipart/form-data; boundary=y", whole)
	form(400, "invalid_json", "empty", mp, "")
	form(400, "invalid_json", "no end", mp, part("model", "whisper-1")+file)
	form(400, "invalid_json", "model twice", mp, part("model", "whisper-1")+part("model", "gpt-4o-transcribe")+file+end)
	form(400, "invalid_json", "two files", mp, part("model", "whisper-1")+file+file+end)
	form(400, "invalid_multipart", "no file", mp, part("model", "whisper-1")+end)
	form(400, "invalid_json", "model of 300 characters", mp, part("model", strings.Repeat("a", 300))+file+end)
	form(400, "invalid_json", "model with a line break", mp, part("model", "a\nb")+file+end)
	form(400, "model_required", "no model", mp, file+end)
	form(404, "model_not_found", "unknown model", mp, part("model", "nothing")+file+end)
	return rows
}

// What comes too slowly, or stops coming, holds nothing for longer than the limit.
func TestSlowInput(t *testing.T) {
	const limit = time.Second
	w := start(t, answers(answer200("application/json", "{}")), func(o *Options) { o.ReadTimeout = limit; o.IdleTimeout = limit })
	whole := withLines()
	for _, tt := range []struct {
		name   string
		send   string
		drip   string // a byte of it every tenth of the limit, for twice the limit
		status int
	}{
		{"nothing at all", "", "", 0},
		{"half a request line", "POST /v1/ch", "", 408},
		{"half a header", whole[:60], "", 408},
		{"half a body", whole[:len(whole)-5], "", 408},
		{"headers drop by drop", whole[:60], strings.Repeat("a", 100), 408},
		{"body drop by drop", strings.Replace(whole, lengthLine(goodBody), "Content-Length: 1000", 1), strings.Repeat(" ", 100), 408},
		{"chunks drop by drop", bare("", postLine, hostLine, keyLine, "Transfer-Encoding: chunked"), strings.Repeat("1\r\n \r\n", 100), 408},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := w.dial()
			began := time.Now()
			c.say(tt.send)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; i < len(tt.drip) && time.Since(began) < 2*limit; i++ {
					if _, err := io.WriteString(c, tt.drip[i:i+1]); err != nil {
						return
					}
					time.Sleep(limit / 20)
				}
			}()
			a, err := c.answer()
			took := time.Since(began)
			switch {
			case tt.status == 0 && err == nil && a.status == 408: // said so, or only closed: both end it
			case tt.status == 0 && err == errNoAnswer:
			case err != nil:
				t.Error(err)
			case strings.HasPrefix(tt.name, "chunks") && a.status == 400:
				// Between two chunks fasthttp tells a time-out as a framing error. It ends all the same.
				checkError(t, a, "malformed_request")
			case a.status != tt.status:
				t.Errorf("status %d: %s", a.status, a.body)
			default:
				checkError(t, a, "request_timeout")
			}
			if took > 2*limit || took < limit/2 {
				t.Errorf("after %s", took)
			}
			if !c.ended(5 * time.Second) {
				t.Error("the connection goes on")
			}
			<-done
		})
	}
}

// A client that ends its side, or all of it, in the middle of a request leaves nothing behind.
func TestHalfRequests(t *testing.T) {
	w := start(t, answers(answer200("application/json", "{}")), nil)
	whole := withLines()
	for _, tt := range []struct {
		name string
		send string
	}{
		{"nothing", ""},
		{"half a request line", "POST /v1"},
		{"half a header", whole[:60]},
		{"half a body", whole[:len(whole)-5]},
		{"half a chunk", bare("25\r\n{", postLine, hostLine, keyLine, "Transfer-Encoding: chunked")},
		{"no last chunk", bare(chunk(goodBody), postLine, hostLine, keyLine, "Transfer-Encoding: chunked")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, end := range []func(*net.TCPConn){
				func(c *net.TCPConn) { c.CloseWrite() },
				func(c *net.TCPConn) { c.Close() },
				func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
			} {
				c := w.dial()
				c.say(tt.send)
				end(c.Conn.(*net.TCPConn))
				if a, err := c.answer(); err == nil && a.status != 400 {
					t.Errorf("status %d: %s", a.status, a.body)
				}
				c.Close()
			}
		})
	}
	if opened, _ := w.meter.counts(); opened != 0 {
		t.Errorf("%d calls were opened", opened)
	}
	good(t, w.dial())
}
