package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/catraca/catraca/metering"
)

// A stop lets open calls end for as long as it may, then cuts them; either way each is closed in the meter.
func TestGracefulStop(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		takes, drain  time.Duration
		whole         bool
		outcome       metering.Outcome
	}{
		{"a stream that ends in time", streamCall, time.Second, 5 * time.Second, true, metering.OK},
		{"a plain call that ends in time", plainCall, time.Second, 5 * time.Second, true, metering.OK},
		{"a stream to HTTP/1.0 that ends in time", strings.Replace(streamCall, "HTTP/1.1", "HTTP/1.0", 1), time.Second, 5 * time.Second, true, metering.OK},
		{"a stream that does not", streamCall, 10 * time.Second, time.Second, false, metering.ClientGone},
		{"a plain call that does not", plainCall, 10 * time.Second, time.Second, false, metering.ClientGone},
		{"a stream to HTTP/1.0 that does not", strings.Replace(streamCall, "HTTP/1.1", "HTTP/1.0", 1), 10 * time.Second, time.Second, false, metering.ClientGone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan bool, 1)
			stopped := make(chan struct{})
			w := startWith(t, func(c *upConn) {
				_, body, err := c.request()
				if err != nil {
					return
				}
				wait := func() {
					asked <- true
					select {
					case <-time.After(tt.takes):
					case <-stopped:
					}
				}
				if strings.Contains(body, `"stream":true`) {
					c.say(streamHead + chunk(delta("Oi")))
					wait()
					c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
				} else {
					wait()
					c.say(plainGood)
				}
				c.gone()
			}, defaultTimeouts, tt.drain, nil)
			c := w.dial()
			c.say(tt.request)
			<-asked
			idle := w.dial() // has sent nothing
			kept := w.dial() // has a call behind it
			kept.say(bare("", "GET /v1/models HTTP/1.1", hostLine, keyLine))
			if a, err := kept.answer(); err != nil || a.status != 200 {
				t.Fatal(err)
			}
			began := time.Now()
			over := make(chan error, 1)
			go func() { over <- w.stop() }()
			time.Sleep(100 * time.Millisecond)
			if nc, err := net.Dial("tcp", w.addr); err == nil {
				nc.Close()
				t.Error("the listener still takes connections")
			}
			kept.say(bare("", "GET /v1/models HTTP/1.1", hostLine, keyLine))
			if a, err := kept.answer(); err == nil {
				if checkError(t, a, "draining"); a.status != 503 || !a.closing || a.get("Retry-After") == "" {
					t.Errorf("%d %q", a.status, a.header)
				}
			}
			a, err := c.answer()
			if tt.whole && (err != nil || !a.whole || a.status != 200) {
				t.Errorf("%v, %+v", err, a)
			}
			if !tt.whole && err == nil && a.whole && a.status == 200 && strings.Contains(string(a.body), "[DONE]") {
				t.Errorf("looks finished: %s", a.body)
			}
			if err := <-over; err != nil {
				t.Error("stop:", err)
			}
			took := time.Since(began)
			if took > max(tt.takes, tt.drain)+time.Second && tt.whole || !tt.whole && took > tt.drain+time.Second {
				t.Errorf("the stop took %s", took)
			}
			close(stopped)
			if e := w.meter.wait(1); e.Outcome != tt.outcome {
				t.Errorf("%s", showEvent(&e))
			}
			if opened, closed := w.meter.counts(); opened != 1 || closed != 1 {
				t.Errorf("%d opened, %d closed when Serve had returned", opened, closed)
			}
			idle.Close()
			t.Logf("the stop took %s", took.Round(time.Millisecond))
		})
	}
}

// A stop with nothing under way does not wait for connections that nobody uses.
func TestStopWithNothingUnderWay(t *testing.T) {
	w := startWith(t, answers(plainGood), defaultTimeouts, 10*time.Second, nil)
	kept := w.dial()
	kept.say(plainCall)
	if _, err := kept.answer(); err != nil {
		t.Fatal(err)
	}
	w.dial() // never sends a byte
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// A stop may come before the server has begun.
func TestStopAtOnce(t *testing.T) {
	for range 20 {
		w := startWith(t, answers(plainGood), defaultTimeouts, 10*time.Second, nil)
		began := time.Now()
		if err := w.stop(); err != nil || time.Since(began) > 3*time.Second {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
	}
}

// A panic, wherever it is, ends one call and nothing else.
func TestPanics(t *testing.T) {
	speech := postJSON("/v1/audio/speech", "ck_direct", `{"model":"tts-1","input":"abc"}`)
	http10 := func(s string) string { return strings.Replace(s, "HTTP/1.1", "HTTP/1.0", 1) }
	boom := func() { panic("boom") }
	for _, tt := range []struct {
		name    string
		arrange func(w *world)
		request string
		status  int // 0: whatever came is cut short
	}{
		{"in the keyring", func(w *world) { w.keys.before.set(boom) }, plainCall, 500},
		{"in the keyring, before the body", func(w *world) { w.keys.before.set(boom) }, strings.Replace(plainCall, hostLine, hostLine+"\r\nExpect: 100-continue", 1), 500},
		{"when opening", func(w *world) { w.meter.onOpen.set(boom) }, plainCall, 500},
		{"when closing a plain call", func(w *world) { w.meter.onClose.set(boom) }, plainCall, 500},
		{"when closing a stream", func(w *world) { w.meter.onClose.set(boom) }, streamCall, 0},
		{"when closing speech", func(w *world) { w.meter.onClose.set(boom) }, speech, 0},
		{"when closing a stream to HTTP/1.0", func(w *world) { w.meter.onClose.set(boom) }, http10(streamCall), 0},
		{"when closing speech to HTTP/1.0", func(w *world) { w.meter.onClose.set(boom) }, http10(speech), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, func(c *upConn) {
				for {
					head, body, err := c.request()
					switch {
					case err != nil:
						return
					case strings.Contains(head, "speech"):
						c.say("HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("xyz") + "0\r\n\r\n")
					case strings.Contains(body, `"stream":true`):
						c.say(streamGood)
					default:
						c.say(plainGood)
					}
				}
			}, nil)
			tt.arrange(w)
			c := w.dial()
			c.say(tt.request)
			a, err := c.answer()
			switch {
			case tt.status != 0 && err != nil:
				t.Fatal(err)
			case tt.status != 0:
				if checkError(t, a, "internal_error"); a.status != tt.status {
					t.Errorf("status %d", a.status)
				}
			case err == nil && a.whole && strings.Contains(string(a.body), "[DONE]"):
				t.Errorf("looks finished: %s", a.body)
			}
			c.Close()
			for _, h := range []*hook{w.keys.before, &w.meter.onOpen, &w.meter.onClose} {
				h.set(nil)
			}
			good(t, w.dial())
			if n := w.metric("catraca_panics_total"); n != 1 {
				t.Errorf("%v panics counted", n)
			}
			if !strings.Contains(w.log.String(), "boom") {
				t.Error("the log does not tell of it")
			}
			if n := w.metric("catraca_open_calls"); n != 0 {
				t.Errorf("%v calls are still open", n)
			}
		})
	}
}

// A body that would be refused need not be sent.
func TestExpectContinue(t *testing.T) {
	w := start(t, answers(plainGood), nil)
	for _, tt := range []struct {
		name   string
		head   []string
		status int
		code   string
	}{
		{"welcome", []string{postLine, hostLine, keyLine, jsonLine, lengthLine(goodBody)}, 100, ""},
		{"no key", []string{postLine, hostLine, jsonLine, lengthLine(goodBody)}, 401, "invalid_api_key"},
		{"paused", []string{postLine, hostLine, "Authorization: Bearer ck_paused", jsonLine, lengthLine(goodBody)}, 403, "tenant_paused"},
		{"too large", []string{postLine, hostLine, keyLine, jsonLine, fmt.Sprint("Content-Length: ", 33<<20)}, 413, "body_too_large"},
		{"no such path", []string{"POST /v1/files HTTP/1.1", hostLine, keyLine, jsonLine, lengthLine(goodBody)}, 404, "not_found"},
		{"two keys", []string{postLine, hostLine, keyLine, keyLine, jsonLine, lengthLine(goodBody)}, 400, "duplicate_header"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := w.dial()
			c.say(bare("", append(tt.head, "Expect: 100-continue")...))
			a, err := c.answer()
			if err != nil || a.status != tt.status {
				t.Fatalf("%v, %+v", err, a)
			}
			if tt.status != 100 {
				if checkError(t, a, tt.code); !a.closing {
					t.Error("the connection is kept, and the body could be taken for a request")
				}
				return
			}
			c.say(goodBody)
			if a, err := c.answer(); err != nil || a.status != 200 {
				t.Fatalf("%v, %+v", err, a)
			}
			good(t, c)
		})
	}
}

// Requests that come in one write are answered in order, and at a bad one it ends.
func TestPipelined(t *testing.T) {
	w := start(t, func(c *upConn) {
		for {
			_, body, err := c.request()
			if err != nil {
				return
			}
			if strings.Contains(body, "slow") {
				time.Sleep(300 * time.Millisecond)
			}
			c.say(answer200("application/json", body))
		}
	}, nil)
	ask := func(text string) string {
		return postJSON("/v1/chat/completions", "ck_direct", `{"model":"gpt-4o-mini","x":"`+text+`"}`)
	}
	c := w.dial()
	c.say(ask("first") + ask("slow") + ask("third") + withLines("X-A: b", " folded") + ask("never"))
	for _, want := range []string{"first", "slow", "third"} {
		a, err := c.answer()
		if err != nil || a.status != 200 || !strings.Contains(string(a.body), want) {
			t.Fatalf("%s: %v, %+v", want, err, a)
		}
	}
	a, err := c.answer()
	if err != nil || a.status != 400 {
		t.Fatalf("%v, %+v", err, a)
	}
	if checkError(t, a, "invalid_header"); !c.ended(5 * time.Second) {
		t.Error("the connection goes on")
	}
	if opened, _ := w.meter.counts(); opened != 3 {
		t.Errorf("%d calls were opened", opened)
	}
}

// A connection that the upstream closed while it was kept costs nobody a call; one on which an answer had begun is not
// asked again.
func TestStaleUpstreamConnection(t *testing.T) {
	var mu sync.Mutex
	requests := 0
	half := false
	w := start(t, func(c *upConn) {
		for i := 0; ; i++ {
			if _, _, err := c.request(); err != nil {
				return
			}
			mu.Lock()
			requests++
			cut := half && i > 0
			mu.Unlock()
			switch {
			case cut:
				c.say("HTTP/1.1 200")
				return
			case i > 0:
				return // closes without a word
			}
			c.say(plainGood)
		}
	}, nil)
	c := w.dial()
	ask := func() *answer {
		t.Helper()
		c.say(plainCall)
		a, err := c.answer()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(); a.status != 200 {
		t.Fatal(a.status)
	}
	if a := ask(); a.status != 200 || requests != 3 {
		t.Errorf("status %d after %d requests upstream", a.status, requests)
	}
	mu.Lock()
	half = true
	mu.Unlock()
	if a := ask(); a.status != 502 || requests != 4 {
		t.Errorf("status %d after %d requests upstream", a.status, requests)
	}
	if opened, closed := w.meter.counts(); opened != 3 || closed != 3 {
		t.Errorf("%d opened, %d closed", opened, closed)
	}
}

// Many calls of all kinds at once, each with an answer of its own.
func TestParallelCalls(t *testing.T) {
	w := start(t, func(c *upConn) {
		for {
			_, body, err := c.request()
			if err != nil {
				return
			}
			_, mark, _ := strings.Cut(body, `"mark":"`)
			mark, _, _ = strings.Cut(mark, `"`)
			switch {
			case strings.Contains(body, `"kind":"cut"`):
				c.say(streamHead + chunk(delta(mark)))
				return
			case strings.Contains(body, `"kind":"refused"`):
				fmt.Fprintf(c, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(mark), mark)
			case strings.Contains(body, `"stream":true`):
				c.say(streamHead)
				for i := range 10 {
					c.say(chunk(delta(fmt.Sprint(mark, ".", i))))
				}
				c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
			default:
				c.say(answer200("application/json", `{"id":"`+mark+`","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`))
			}
		}
	}, nil)
	var all sync.WaitGroup
	keys := []string{"ck_direct", "ck_gateway", "ck_other", "ck_raw"}
	for i := range 200 {
		all.Go(func() {
			c := w.dial()
			defer c.Close()
			for n := range 5 {
				mark := fmt.Sprintf("mark-%d-%d", i, n)
				kind := []string{"plain", "stream", "cut", "refused", "gone"}[(i+n)%5]
				stream := kind == "stream" || kind == "cut" || kind == "gone"
				body := fmt.Sprintf(`{"model":"gpt-4o-mini","mark":"%s","kind":"%s","stream":%t,"pad":"%s"}`, mark, kind, stream, strings.Repeat("x", i*100))
				c.say(postJSON("/v1/chat/completions", keys[i%len(keys)], body, "X-Conversation-Id: "+mark))
				if kind == "gone" {
					io.CopyN(io.Discard, c, 20)
					c.Close()
					c = w.dial()
					continue
				}
				a, err := c.answer()
				if err != nil {
					t.Error(kind, err)
					return
				}
				if got := string(a.body); strings.Count(got, "mark-") != strings.Count(got, mark) || !strings.Contains(got, mark) {
					t.Errorf("%s got %s", mark, got)
				}
				if a.whole == (kind == "cut") {
					t.Errorf("%s: whole %t", kind, a.whole)
				}
				if kind == "cut" {
					c.Close()
					c = w.dial()
				}
			}
		})
	}
	all.Wait()
	w.meter.wait(1000)
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range w.meter.closed {
		if seen[e.ConversationID] {
			t.Errorf("%s is there twice", e.ConversationID)
		}
		seen[e.ConversationID] = true
		var i, n int
		fmt.Sscanf(e.ConversationID, "mark-%d-%d", &i, &n)
		if want := w.keys.byKey[keys[i%len(keys)]]; e.ClientID != want.ClientID || e.KeyID != want.KeyID {
			t.Errorf("%s is on another tenant's bill", e.ConversationID)
		}
		want := []metering.Outcome{metering.OK, metering.OK, metering.Truncated, metering.Refused, metering.ClientGone}[(i+n)%5]
		if e.Outcome != want && want != metering.ClientGone { // one that leaves may have had all by then
			t.Errorf("%s: outcome %d, want %d", e.ConversationID, e.Outcome, want)
		}
	}
}
