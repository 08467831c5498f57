package proxy

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/upstream"
)

// An event of a stream, and the three that end one.
func delta(text string) string {
	return `data: {"id":"chatcmpl-1","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"` + text + `"},"finish_reason":null}]}` + "\n\n"
}

const (
	finish = `data: {"id":"chatcmpl-1","model":"gpt-4o-mini","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	usage  = `data: {"id":"chatcmpl-1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}` + "\n\n"
	done   = "data: [DONE]\n\n"
)

var (
	plainCall  = postJSON("/v1/chat/completions", "ck_direct", `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Ola"}]}`)
	streamCall = postJSON("/v1/chat/completions", "ck_direct", `{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Ola"}]}`)
	plainGood  = answer200("application/json", `{"id":"chatcmpl-1","model":"gpt-4o-mini","choices":[{"index":0,"message":{"content":"Oi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}`)
	streamGood = streamHead + chunk(delta("Oi")) + chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n"
)

// until reads from the client's side until it has seen a text.
func (c *client) until(t *testing.T, text string) {
	t.Helper()
	var got []byte
	for !bytes.Contains(got, []byte(text)) {
		b, err := c.br.ReadByte()
		if err != nil {
			t.Fatalf("%v after %q, waiting for %q", err, got, text)
		}
		got = append(got, b)
	}
}

// However a client leaves, and whatever its call is doing, the upstream's work ends within a second, and what was used
// is on the bill as an estimate.
func TestClientGone(t *testing.T) {
	leave := map[string]func(*net.TCPConn){
		"closes":                   func(c *net.TCPConn) { c.Close() },
		"resets":                   func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"ends its side":            func(c *net.TCPConn) { c.CloseWrite() },
		"closes behind a request":  func(c *net.TCPConn) { io.WriteString(c, plainCall); c.Close() },
		"closes behind half a one": func(c *net.TCPConn) { io.WriteString(c, plainCall[:40]); c.Close() },
	}
	for _, call := range []struct{ name, request, said, seen string }{
		{"waiting", plainCall, "", ""},
		{"waiting for a stream", streamCall, "", ""},
		{"in the head", plainCall, "HTTP/1.1 200 OK\r\n", ""},
		{"in a plain body", plainCall, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", ""},
		{"streaming", streamCall, streamHead + chunk(delta("Oi")) + chunk(delta("!")), `"!"`},
		{"streaming to HTTP/1.0", strings.Replace(streamCall, "HTTP/1.1", "HTTP/1.0", 1), streamHead + chunk(delta("Oi")) + chunk(delta("!")), `"!"`},
		{"speaking", postJSON("/v1/audio/speech", "ck_direct", `{"model":"tts-1","input":"abc"}`), "HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("ID3!!"), "ID3!!"},
	} {
		for how, end := range leave {
			t.Run(call.name+" "+how, func(t *testing.T) {
				t.Parallel()
				asked, ended := make(chan bool, 1), make(chan time.Time, 1)
				w := start(t, func(c *upConn) {
					if _, _, err := c.request(); err != nil {
						return
					}
					c.say(call.said)
					asked <- true
					c.gone()
					ended <- time.Now()
				}, nil)
				c := w.dial()
				c.say(call.request)
				<-asked
				if call.seen != "" {
					c.until(t, call.seen)
				}
				time.Sleep(50 * time.Millisecond)
				left := time.Now()
				end(c.Conn.(*net.TCPConn))
				select {
				case at := <-ended:
					took := at.Sub(left)
					if took > time.Second {
						t.Errorf("the upstream's work ended after %s", took)
					}
					t.Logf("the upstream's work ended after %d ms", took.Milliseconds())
				case <-time.After(5 * time.Second):
					t.Fatal("the upstream still works")
				}
				e := w.meter.wait(1)
				if e.Outcome != metering.ClientGone || !e.Known || e.USD == 0 {
					t.Errorf("event %s", showEvent(&e))
				}
				if e.Source != metering.Estimated && e.Characters == 0 || call.name == "streaming" && (e.Input == 0 || e.Output != 2) {
					t.Errorf("event %s", showEvent(&e))
				}
				if how == "ends its side" && call.seen == "" {
					if a, err := c.answer(); err != nil || a.status != statusClientGone {
						t.Errorf("%v, %+v", err, a)
					}
				}
			})
		}
	}
}

// The silence of an upstream is its right for as long as Idle and FirstByte say. The limits on the client's side, for
// its request and between its requests, have nothing to do with it.
func TestPauses(t *testing.T) {
	pause := 3 * time.Second
	w := start(t, func(c *upConn) {
		if _, _, err := c.request(); err != nil {
			return
		}
		time.Sleep(pause)
		c.say(streamHead + chunk(delta("Oi")))
		time.Sleep(pause)
		c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		c.gone()
	}, func(o *Options) {
		o.ReadTimeout, o.IdleTimeout, o.WriteTimeout = 500*time.Millisecond, 500*time.Millisecond, time.Second
	})
	a := w.ask(streamCall)
	if !a.whole || !strings.HasSuffix(string(a.body), done) {
		t.Errorf("whole %t, %s", a.whole, a.body)
	}
	if e := w.meter.wait(1); e.Outcome != metering.OK || e.TTFTMs < 2900 || e.LatencyMs < 5900 || e.Source != metering.Measured {
		t.Errorf("ttft %d, latency %d, %s", e.TTFTMs, e.LatencyMs, showEvent(&e))
	}
}

func TestUpstreamSilent(t *testing.T) {
	limits := upstream.Timeouts{Connect: time.Second, FirstByte: time.Second, Idle: time.Second}
	for _, tt := range []struct {
		name, request, said string
		status              int
		whole               bool
		outcome             metering.Outcome
	}{
		{"before its answer", plainCall, "", 504, true, metering.Unreachable},
		{"before its stream", streamCall, "", 504, true, metering.Unreachable},
		{"in its stream", streamCall, streamHead + chunk(delta("Oi")), 200, false, metering.Truncated},
		{"behind the head of its stream", streamCall, streamHead, 200, false, metering.Truncated},
		{"in a plain answer", plainCall, plainGood[:len(plainGood)-5], 504, true, metering.Truncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := startWith(t, func(c *upConn) {
				c.request()
				c.say(tt.said)
				c.gone()
			}, limits, time.Second, nil)
			a := w.ask(tt.request)
			if a.status != tt.status || a.whole != tt.whole {
				t.Errorf("status %d, whole %t: %s", a.status, a.whole, a.body)
			}
			if tt.status == 504 {
				checkError(t, a, "upstream_timeout")
			} else if body := string(a.body); !strings.HasSuffix(body, `"type":"upstream_error","param":null,"code":"upstream_timeout"}}`+"\n\n") || strings.Contains(body, "[DONE]") {
				t.Errorf("the stream ends with %q", body)
			}
			if e := w.meter.wait(1); e.Outcome != tt.outcome {
				t.Errorf("%s", showEvent(&e))
			}
		})
	}
}

// A client that takes nothing holds the upstream only until WriteTimeout.
func TestClientStopsReading(t *testing.T) {
	const limit = time.Second
	for _, request := range []string{streamCall, strings.Replace(streamCall, "HTTP/1.1", "HTTP/1.0", 1)} {
		var ended time.Time
		over := make(chan bool)
		w := start(t, func(c *upConn) {
			c.request()
			c.say(streamHead)
			event := chunk(delta(strings.Repeat("x", 4<<10)))
			for {
				if _, err := io.WriteString(c, event); err != nil {
					ended = time.Now()
					close(over)
					return
				}
			}
		}, func(o *Options) { o.WriteTimeout = limit })
		c := w.dial()
		c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.say(request)
		began := time.Now()
		select {
		case <-over:
		case <-time.After(10 * time.Second):
			t.Fatal("the upstream still writes")
		}
		if took := ended.Sub(began); took > 3*limit {
			t.Errorf("the upstream was held for %s", took)
		}
		if e := w.meter.wait(1); e.Outcome != metering.ClientGone || e.Source != metering.Estimated || e.Output == 0 {
			t.Errorf("%s", showEvent(&e))
		}
		c.Close()
	}
}

// Events leave one by one as they arrive, and the ledger knows of the end before the client does.
func TestEventsOneByOne(t *testing.T) {
	next := make(chan bool)
	w := start(t, func(c *upConn) {
		c.request()
		c.say(streamHead)
		for i := range 5 {
			<-next
			c.say(chunk(delta(fmt.Sprint("nr", i))))
		}
		<-next
		c.say(chunk(finish) + chunk(usage))
		<-next
		c.say(chunk(done))
		<-next // the last chunk comes late: the client has all it waits for
		c.say("0\r\n\r\n")
		c.gone()
	}, nil)
	c := w.dial()
	c.say(streamCall)
	c.until(t, "\r\n\r\n") // the head does not wait for the first event
	for i := range 5 {
		next <- true
		c.until(t, fmt.Sprint("nr", i, `"},"finish_reason":null}]}`, "\n\n"))
	}
	if _, closed := w.meter.counts(); closed != 0 {
		t.Error("closed in the middle")
	}
	next <- true
	c.until(t, `"stop"`)
	next <- true
	c.until(t, "[DONE]\n\n")
	if _, closed := w.meter.counts(); closed != 1 {
		t.Error("the client saw the end before the ledger")
	}
	next <- true
	c.until(t, "0\r\n\r\n")
}

// A stream that lasts tells the spool how far it is.
func TestProgress(t *testing.T) {
	w := start(t, func(c *upConn) {
		c.request()
		c.say(streamHead)
		for range 14 {
			c.say(chunk(delta("0123456789")))
			time.Sleep(200 * time.Millisecond)
		}
		c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		c.gone()
	}, nil)
	w.ask(streamCall)
	w.meter.wait(1)
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	if n := len(w.meter.progress); n < 1 || n > 3 {
		t.Fatalf("%d notes of progress in 2.8 s", n)
	}
	if b := w.meter.progress[0].ResponseBytes; b < 40 || b > 140 {
		t.Errorf("first note: %d bytes", b)
	}
}

// Nothing goes upstream that cannot be accounted for.
func TestMeterRefuses(t *testing.T) {
	w := start(t, answers(plainGood), nil)
	for _, err := range []error{metering.ErrSpoolFull, metering.ErrSpoolBroken} {
		w.meter.refuse = fmt.Errorf("spool: %w", err)
		a := w.ask(plainCall)
		if checkError(t, a, "metering_unavailable"); a.status != 503 || a.get("Retry-After") != "10" {
			t.Errorf("%d %q", a.status, a.header)
		}
	}
	if n := w.up.connections(); n != 0 {
		t.Errorf("%d connections upstream", n)
	}
}

func TestOwnersFail(t *testing.T) {
	w := start(t, answers(plainGood), nil)
	w.own.fails = errors.New("down")
	a := w.ask(bare("", "GET /v1/responses/resp_1 HTTP/1.1", hostLine, keyLine))
	if checkError(t, a, "overloaded"); a.status != 503 || a.get("Retry-After") == "" {
		t.Errorf("%d %q", a.status, a.header)
	}
}

// A small compressed answer may be a huge one: it is refused when it has grown beyond what is ever right.
func TestGzipBomb(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 256 {
		z.Write(zeros)
	}
	z.Close()
	w := start(t, func(c *upConn) {
		c.request()
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", bomb.Len(), bomb.Bytes())
		c.gone()
	}, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a := w.ask(plainCall)
	runtime.ReadMemStats(&after)
	if checkError(t, a, "all_routes_failed"); a.status != 502 {
		t.Errorf("status %d", a.status)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 400<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	good := w.meter.wait(1)
	if good.Outcome != metering.Truncated {
		t.Errorf("%s", showEvent(&good))
	}
}

// Connections upstream are used again for every kind of answer that ended well.
func TestUpstreamConnectionsAreKept(t *testing.T) {
	for name, tt := range map[string][2]string{
		"plain":           {plainCall, plainGood},
		"stream":          {streamCall, streamGood},
		"speech, length":  {postJSON("/v1/audio/speech", "ck_direct", `{"model":"tts-1","input":"abc"}`), answer200("audio/mpeg", strings.Repeat("x", 100_000))},
		"speech, chunked": {postJSON("/v1/audio/speech", "ck_direct", `{"model":"tts-1","input":"abc"}`), "HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("xyz") + "0\r\n\r\n"},
		"refusal":         {plainCall, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, answers(tt[1]), nil)
			c := w.dial()
			for i := range 5 {
				c.say(tt[0])
				a, err := c.answer()
				if err != nil || !a.whole {
					t.Fatalf("%v, %+v", err, a)
				}
				w.meter.wait(i + 1)
				time.Sleep(5 * time.Millisecond) // the connection goes back just after the last byte
			}
			if n := w.up.connections(); n != 1 {
				t.Errorf("%d connections for 5 calls", n)
			}
		})
	}
}

// Goroutines, descriptors and upstream connections are all given back.
func TestNothingIsLeftBehind(t *testing.T) {
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc")
		}
		return len(list)
	}
	theTenants()
	runtime.GC()
	goroutines, files := runtime.NumGoroutine(), fds()
	func() {
		w := start(t, mixedUpstream, nil)
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() {
				c := w.dial()
				switch i % 6 {
				case 0:
					c.say(plainCall)
					c.answer()
				case 1:
					c.say(streamCall)
					c.answer()
				case 2:
					c.say(streamCall)
					c.until(t, "data: ")
				case 3:
					c.say("half a line")
				case 4:
					c.say(postJSON("/v1/chat/completions", "ck_nobody", "{}"))
					c.answer()
				case 5:
					c.say(strings.Replace(streamCall, "Ola", "cut", 1))
					c.answer()
				}
				c.Close()
			})
		}
		all.Wait()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		w.up.close()
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		g, f := runtime.NumGoroutine(), fds()
		if g <= goroutines && f <= files {
			break
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("goroutines %d, before %d; descriptors %d, before %d\n%s", g, goroutines, f, files, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// mixedUpstream answers plain calls, streams, and cuts where the prompt says so.
func mixedUpstream(c *upConn) {
	for {
		_, body, err := c.request()
		if err != nil {
			return
		}
		switch {
		case strings.Contains(body, `"cut"`):
			c.say(streamHead + chunk(delta("Oi")))
			return
		case strings.Contains(body, `"stream":true`):
			c.say(streamHead)
			for i := range 5 {
				c.say(chunk(delta(fmt.Sprint(i))))
				time.Sleep(time.Millisecond)
			}
			c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		default:
			c.say(plainGood)
		}
	}
}
