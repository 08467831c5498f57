package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

const chatPath = "/openai/v1/chat/completions"

// plain and stream ask for the example's model.
func (b *bench) plain(model string) answer {
	b.Helper()
	return b.post(chatPath, chatBody(model, ""))
}

func (b *bench) stream(model string) answer {
	b.Helper()
	return b.post(chatPath, chatBody(model, streamed))
}

// total is the only row's tally, once nothing is open any more.
func (b *bench) total() Tally {
	b.Helper()
	for range 1000 {
		if b.sim.Stats().Open == 0 {
			return b.sim.Stats().Total
		}
		time.Sleep(time.Millisecond)
	}
	b.Fatal("requests stay open")
	return Tally{}
}

// usageOf is the usage of a plain answer, raw.
func usageOf(t testing.TB, a answer) string {
	t.Helper()
	var body struct {
		Usage json.RawMessage `json:"usage"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("%v in %.200s", err, a.body)
	}
	var compact bytes.Buffer
	if len(body.Usage) > 0 {
		_ = json.Compact(&compact, body.Usage)
	}
	return compact.String()
}

// checks has one entry for every behaviour; TestEveryBehaviour fails for one that has none.
var checks = map[string]func(*bench, string){
	"ok": func(b *bench, m string) {
		a := b.stream(m)
		es := a.events(b)
		want(b, "last event", es[len(es)-1], "[DONE]")
		want(b, "tokens", at(b, tree(b, []byte(es[len(es)-2])), "usage", "completion_tokens"), 32)
		want(b, "bytes of text", len(contents(b, es)), 4*32)
	},
	"echo": func(b *bench, m string) {
		want(b, "text", contents(b, b.stream(m).events(b)), chatBody(m, streamed))
	},
	"tokens-N": func(b *bench, m string) {
		want(b, "tokens", b.plain(m).at(b, "usage", "completion_tokens"), 100)
		limited := b.post(chatPath, chatBody(m, `,"max_tokens":7`))
		want(b, "tokens under a limit", limited.at(b, "usage", "completion_tokens"), 7)
		want(b, "finish", limited.at(b, "choices", 0, "finish_reason"), "length")
	},
	"reason": func(b *bench, m string) {
		a := b.plain(m)
		want(b, "reasoning", a.at(b, "usage", "completion_tokens_details", "reasoning_tokens"), 64)
		want(b, "completion", a.at(b, "usage", "completion_tokens"), 96)
		g := b.post("/google/v1beta/openai/chat/completions", chatBody(m, ""))
		want(b, "visible at google", g.at(b, "usage", "completion_tokens"), 32)
		want(b, "total at google", g.at(b, "usage", "total_tokens"), 96+5)
		want(b, "output tallied", b.sim.Stats().Total.Reported.Output, 2*96)
	},
	"cached": func(b *bench, m string) {
		want(b, "cached", b.plain(m).at(b, "usage", "prompt_tokens_details", "cached_tokens"), 3)
		want(b, "at anthropic", fmt.Sprint(b.post("/anthropic/v1/chat/completions", chatBody(m, "")).at(b, "usage", "prompt_tokens_details")), "map[]")
		want(b, "tallied", b.sim.Stats().Total.Reported.Cached, 3)
	},
	"cache-write": func(b *bench, m string) {
		want(b, "written", b.plain(m).at(b, "usage", "prompt_tokens_details", "cache_write_tokens"), 2)
		want(b, "at the gateway", b.post("/v1/chat/completions", chatBody(m, "")).at(b, "usage", "cache_creation_input_tokens"), 2)
	},
	"wrong-model": func(b *bench, m string) { want(b, "model", b.plain(m).at(b, "model"), "sim/quite-another-model") },

	"401": status(401), "402": status(402), "403": status(403), "404": status(404), "408": status(408), "424": status(424),
	"500": status(500), "503": status(503), "529": status(529),
	"429": func(b *bench, m string) {
		status(429)(b, m)
		want(b, "retry-after", b.plain(m).Header.Get("Retry-After"), "1")
	},
	"429-bare": func(b *bench, m string) {
		status(429)(b, m)
		want(b, "retry-after", b.plain(m).Header.Get("Retry-After"), "")
	},
	"string-error": func(b *bench, m string) {
		want(b, "error", b.plain(m).at(b, "error"), "No providers available for this request")
	},
	"array-error": func(b *bench, m string) {
		want(b, "status", b.plain(m).at(b, 0, "error", "status"), "INVALID_ARGUMENT")
	},
	"html-error": func(b *bench, m string) {
		a := b.plain(m)
		want(b, "status", a.StatusCode, 502)
		want(b, "type", a.Header.Get("Content-Type"), "text/html")
	},
	"echo-key": func(b *bench, m string) {
		if a := b.plain(m); !bytes.Contains(a.body, []byte("Bearer "+testKey)) {
			b.Errorf("no key in %s", a.body)
		}
	},
	"redirect": func(b *bench, m string) {
		a := b.plain(m)
		want(b, "status", a.StatusCode, 302)
		want(b, "location", a.Header.Get("Location"), b.url+"/_elsewhere")
		resp, err := http.Get(a.Header.Get("Location"))
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		want(b, "recorded", b.sim.Last()[0].Path, "/_elsewhere")
	},

	"cut-after-N": func(b *bench, m string) {
		a := b.stream(m)
		want(b, "events", len(a.events(b)), 5)
		if !bytes.HasSuffix(a.body, []byte("\n\n")) || !errors.Is(a.err, io.ErrUnexpectedEOF) {
			b.Errorf("ended in %.60q with %v", a.body[len(a.body)-20:], a.err)
		}
		// The first event has no token.
		want(b, "generated", b.total().Generated.Output, 4)
		want(b, "reported", b.total().Reported.Output, 0)
		want(b, "issued", b.total().Issued.Total, 4+5)
		want(b, "cut", b.total().Cut, 1)
		b.sim.Reset()
		want(b, "events of a long cut", len(b.stream("sim/cut-after-60").events(b)), 60)
		want(b, "cut before any", len(b.stream("sim/cut-after-0").body), 0)
	},
	"cut-mid-N": func(b *bench, m string) {
		a := b.stream(m)
		parts := bytes.Split(a.body, []byte("\n\n"))
		want(b, "whole events", len(parts)-1, 5)
		if half := parts[5]; len(half) < 20 || bytes.HasSuffix(half, []byte("}")) || !errors.Is(a.err, io.ErrUnexpectedEOF) {
			b.Errorf("the half event is %q, %v", half, a.err)
		}
	},
	"cut-utf8": func(b *bench, m string) {
		a := b.stream(m)
		if r, n := utf8.DecodeLastRune(a.body); r != utf8.RuneError || n != 1 || a.err == nil {
			b.Errorf("ended in %q, %v", a.body[len(a.body)-4:], a.err)
		}
	},
	"reset-after-N": func(b *bench, m string) {
		a := b.stream(m)
		if !errors.Is(a.err, syscall.ECONNRESET) {
			b.Errorf("ended with %v", a.err)
		}
		want(b, "cut", b.total().Cut, 1)
	},
	"cut-body": func(b *bench, m string) {
		a := b.plain(m)
		length, _ := strconv.Atoi(a.Header.Get("Content-Length"))
		if length < 2*len(a.body)-1 || !errors.Is(a.err, io.ErrUnexpectedEOF) {
			b.Errorf("%d of %d bytes, %v", len(a.body), length, a.err)
		}
		want(b, "generated", b.total().Generated.Output, 32)
		want(b, "reported", b.total().Reported.Output, 0)
	},
	"mid-error": func(b *bench, m string) {
		a := b.stream(m)
		es := a.events(b)
		want(b, "code", at(b, tree(b, []byte(es[len(es)-1])), "error", "code"), "tool_use_failed")
		want(b, "named", bytes.Count(a.body, []byte("event: error\n")), 1)
		want(b, "end", a.err, nil)
		want(b, "cut", b.total().Cut, 1)
		want(b, "generated", b.total().Generated.Output, 16)
	},
	"data-error": func(b *bench, m string) {
		a := b.stream(m)
		es := a.events(b)
		want(b, "type", at(b, tree(b, []byte(es[len(es)-1])), "error", "type"), "server_error")
		want(b, "named", bytes.Count(a.body, []byte("event:")), 0)
	},
	"no-done": func(b *bench, m string) {
		a := b.stream(m)
		want(b, "marks", bytes.Count(a.body, []byte("[DONE]")), 0)
		want(b, "end", a.err, nil)
		want(b, "completed", b.total().Completed, 1)
	},

	"no-usage": func(b *bench, m string) {
		for _, route := range routes {
			for _, a := range []answer{b.post(route.prefix+"/chat/completions", chatBody(m, "")), b.post(route.prefix+"/chat/completions", chatBody(m, streamed))} {
				want(b, route.name, bytes.Count(a.body, []byte(`"usage"`)), 0)
			}
		}
		want(b, "unreported", b.total().Unreported, 10)
		want(b, "issued", b.total().Issued.Output, 320)
	},
	"usage-zero": func(b *bench, m string) {
		want(b, "total", b.plain(m).at(b, "usage", "total_tokens"), 0)
		want(b, "issued", b.total().Issued.Total, 0)
		want(b, "generated", b.total().Generated.Output, 32)
	},
	"usage-null":     func(b *bench, m string) { want(b, "usage", usageOf(b, b.plain(m)), "null") },
	"usage-string":   func(b *bench, m string) { illegible(b, m, `"completion_tokens":"32"`) },
	"usage-negative": func(b *bench, m string) { illegible(b, m, `"completion_tokens":-33`) },
	"usage-huge":     func(b *bench, m string) { illegible(b, m, `"completion_tokens":9223372036854775807`) },
	"usage-float": func(b *bench, m string) {
		if u := usageOf(b, b.plain(m)); !strings.Contains(u, `"completion_tokens":32.0`) {
			b.Error(u)
		}
		want(b, "reported", b.total().Reported.Output, 32)
	},
	"usage-first-chunk": func(b *bench, m string) {
		for _, prefix := range []string{"/v1", "/openai/v1", "/groq/openai/v1", "/anthropic/v1"} {
			es := b.post(prefix+"/chat/completions", chatBody(m, streamed)).events(b)
			want(b, prefix+" first", at(b, tree(b, []byte(es[0])), "usage", "completion_tokens"), 32)
			for _, e := range es[1 : len(es)-1] {
				if strings.Contains(e, `"usage":{`) {
					b.Errorf("%s: usage in %s", prefix, e)
				}
			}
		}
	},

	"first-N": func(b *bench, m string) { takes(b, 50*time.Millisecond, func() { b.stream(m); b.plain(m) }, 2) },
	"slow-N":  func(b *bench, m string) { takes(b, 5*time.Millisecond, func() { b.stream(m); b.plain(m) }, 62) },
	"pause-N": func(b *bench, m string) { takes(b, 50*time.Millisecond, func() { b.stream(m); b.plain(m) }, 2) },
	"hang": func(b *bench, m string) {
		ctx, cancel := context.WithTimeout(b.Context(), 50*time.Millisecond)
		defer cancel()
		resp, err := b.do(ctx, "POST", chatPath, "application/json", chatBody(m, streamed))
		if err != nil {
			b.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); len(body) > 0 || err == nil {
			b.Errorf("%q, %v", body, err)
		}
		want(b, "gone", b.total().ClientGone, 1)
	},
	"blackhole": func(b *bench, m string) {
		ctx, cancel := context.WithTimeout(b.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := b.do(ctx, "POST", chatPath, "application/json", chatBody(m, "")); err == nil {
			b.Error("an answer")
		}
		want(b, "gone", b.total().ClientGone, 1)
	},

	"crlf": func(b *bench, m string) { unspelled(b, m, "\r\n", "\n") },
	"cr":   func(b *bench, m string) { unspelled(b, m, "\r", "\n") },
	"nospace": func(b *bench, m string) {
		a := b.stream(m)
		want(b, "spaces", bytes.Count(a.body, []byte("data: ")), 0)
		unspelled(b, m, "data:", "data: ")
	},
	"multiline": func(b *bench, m string) { unspelled(b, m, ",\ndata: ", ",") },
	"comments":  func(b *bench, m string) { unspelled(b, m, ": keep-alive\n\n", "") },
	"bom":       func(b *bench, m string) { unspelled(b, m, "\ufeff", "") },
	"bytes": func(b *bench, m string) {
		unspelled(b, m, "", "")
		resp, err := b.do(b.Context(), "POST", chatPath, "application/json", chatBody(m, streamed))
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		// Several one-byte chunks may arrive together; a whole first event would mean they were not flushed apart.
		n, _ := resp.Body.Read(make([]byte, 4096))
		if n > 100 {
			b.Errorf("the first read brought %d bytes", n)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	},
	"big-line": func(b *bench, m string) {
		longest := 0
		for _, e := range b.stream(m).events(b) {
			longest = max(longest, len(e))
		}
		if longest < 1<<20 {
			b.Errorf("the longest line has %d bytes", longest)
		}
	},
	"tiny-chunks": func(b *bench, m string) {
		es := b.stream(m).events(b)
		for _, e := range es[1 : len(es)-3] {
			if s := contents(b, []string{e}); utf8.RuneCountInString(s) != 1 {
				b.Errorf("%q", s)
			}
		}
		want(b, "tokens", b.total().Generated.Output, 32)
	},

	"gzip": func(b *bench, m string) {
		for _, a := range []answer{b.plain(m), b.stream(m)} {
			want(b, "encoding", a.Header.Get("Content-Encoding"), "gzip")
			z, err := gzip.NewReader(bytes.NewReader(a.body))
			if err != nil {
				b.Fatal(err)
			}
			text, err := io.ReadAll(z)
			if err != nil || !bytes.Contains(text, []byte(`"usage"`)) {
				b.Errorf("%v in %.100s", err, text)
			}
		}
	},
	"close": func(b *bench, m string) {
		for _, a := range []answer{b.plain(m), b.stream(m)} {
			if a.ContentLength != -1 || len(a.TransferEncoding) > 0 || !a.Close || a.err != nil {
				b.Errorf("length %d, encoding %v, close %v, %v", a.ContentLength, a.TransferEncoding, a.Close, a.err)
			}
		}
	},
	"no-content-type": func(b *bench, m string) {
		for _, a := range []answer{b.plain(m), b.stream(m)} {
			want(b, "types", len(a.Header["Content-Type"]), 0)
		}
	},
	"100-continue": func(b *bench, m string) { interim(b, m, 100) },
	"early-hints":  func(b *bench, m string) { interim(b, m, 103) },
}

// illegible wants a usage that cannot be read as counts, and the tally to know.
func illegible(b *bench, m, part string) {
	b.Helper()
	if u := usageOf(b, b.plain(m)); !strings.Contains(u, part) {
		b.Errorf("%s not in %s", part, u)
	}
	want(b, "reported", b.total().Reported.Total, 0)
	want(b, "unreported", b.total().Unreported, 1)
	want(b, "issued", b.total().Issued.Output, 32)
}

// status wants that status on every route, plain and streamed, and a message.
func status(code int) func(*bench, string) {
	return func(b *bench, m string) {
		for _, route := range routes {
			for _, more := range []string{"", streamed} {
				a := b.post(route.prefix+"/chat/completions", chatBody(m, more))
				want(b, route.name, a.StatusCode, code)
				v := tree(b, a.body)
				if route.name == google {
					v = at(b, v, 0)
				}
				if s, ok := at(b, v, "error", "message").(string); !ok || s == "" {
					b.Errorf("%s: no message in %s", route.name, a.body)
				}
			}
		}
		want(b, "refused", b.sim.Stats().Total.Refused, 10)
	}
}

// takes wants f to last at least n times each.
func takes(b *bench, each time.Duration, f func(), n int) {
	b.Helper()
	begun := time.Now()
	f()
	if took := time.Since(begun); took < each*time.Duration(n) {
		b.Errorf("took %v, want %d × %v", took, n, each)
	}
}

// unspelled wants the stream to be an ordinary one but for odd, written where ordinary belongs.
func unspelled(b *bench, m, odd, ordinary string) {
	b.Helper()
	a := b.stream(m)
	if odd != "" && !bytes.Contains(a.body, []byte(odd)) {
		b.Errorf("no %q in the stream", odd)
	}
	text := string(a.body)
	if odd != "" {
		text = strings.ReplaceAll(text, odd, ordinary)
	}
	es := answer{body: []byte(text)}.events(b)
	want(b, "last event", es[len(es)-1], "[DONE]")
	want(b, "text", len(contents(b, es)), 4*32)
	want(b, "end", a.err, nil)
}

// interim wants an informational answer before the real one.
func interim(b *bench, m string, code int) {
	b.Helper()
	var got []int
	ctx := httptrace.WithClientTrace(b.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { got = append(got, code); return nil },
		Got100Continue: func() { got = append(got, 100) },
	})
	resp, err := b.do(ctx, "POST", chatPath, "application/json", chatBody(m, ""))
	if err != nil {
		b.Fatal(err)
	}
	resp.Body.Close()
	want(b, "status", resp.StatusCode, 200)
	if len(got) == 0 || got[0] != code {
		b.Errorf("interim answers: %v", got)
	}
}

func TestEveryBehaviour(t *testing.T) {
	for _, be := range Behaviours() {
		t.Run(be.Name, func(t *testing.T) {
			t.Parallel()
			check := checks[be.Name]
			if check == nil {
				t.Fatal("no check for this behaviour")
			}
			if be.What == "" {
				t.Error("no words for this behaviour")
			}
			b := start(t, Config{})
			check(b, be.Example)
		})
	}
}

func TestNamesOfBehaviours(t *testing.T) {
	b := start(t, Config{})
	for _, c := range []struct {
		model  string
		status int
	}{
		{"sim/429", 429},
		{"openai/sim/429", 429},
		{"429", 429},
		{"gpt-4o+429", 429},
		{"openai/gpt-4o+gzip+429", 429},
		{"sim/nothing", 404},
		{"sim/cut-after", 404},
		{"sim/cut-after-N", 404},
		{"sim/cut-after--1", 404},
		{"sim/tokens-99999999", 404},
		{"sim/", 404},
		{"gpt-4o+", 404},
		{"sim/ok+", 404},
		{"simples/ok-model", 200},
		{"gpt-4o", 200},
		{"gpt-4o+bytes", 200},
	} {
		want(t, c.model, b.plain(c.model).StatusCode, c.status)
	}
	joined := b.stream("openai/gpt-4o+crlf+gzip+cut-after-3")
	want(t, "encoding", joined.Header.Get("Content-Encoding"), "gzip")
	if joined.err == nil {
		t.Error("not cut")
	}
	always := start(t, Config{Behaviours: []string{"gzip", "tokens-3"}})
	a := always.plain("gpt-4o")
	want(t, "encoding by flag", a.Header.Get("Content-Encoding"), "gzip")
	want(t, "tokens by flag", always.total().Reported.Output, 3)
	priced := start(t, Config{})
	priced.plain("gpt-4o+tokens-4")
	want(t, "a suffixed model keeps its price", priced.total().Issued.CostUSD, "0.0000525")
}

// Cuts and framing apply to every kind of stream, not to chats alone.
func TestBehavioursOfOtherStreams(t *testing.T) {
	for path, body := range map[string]string{
		"/openai/v1/responses":   `{"model":"%s","input":"oi","stream":true}`,
		"/openai/v1/completions": `{"model":"%s","prompt":"oi","stream":true}`,
		"/v1/chat/completions":   `{"model":"%s","stream":true,"messages":[{"role":"user","content":"oi"}]}`,
	} {
		b := start(t, Config{})
		want(t, path, len(b.post(path, fmt.Sprintf(body, "sim/cut-after-4")).events(t)), 4)
		want(t, path, b.post(path, fmt.Sprintf(body, "sim/503")).StatusCode, 503)
		if a := b.post(path, fmt.Sprintf(body, "sim/crlf")); !bytes.Contains(a.body, []byte("\r\n\r\n")) || a.err != nil {
			t.Errorf("%s: %.100q, %v", path, a.body, a.err)
		}
		want(t, path+" cut", b.total().Cut, 1)
	}
}
