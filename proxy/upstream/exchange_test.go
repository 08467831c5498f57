package upstream

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/proxy/openai"
)

var testTimeouts = Timeouts{Connect: 5 * time.Second, FirstByte: 10 * time.Second, Idle: 10 * time.Second}

// peer is an upstream on loopback. serve is run for every connection, with its number from 1; the connection is
// closed when it returns.
type peer struct {
	addr  string
	conns atomic.Int64
	all   sync.WaitGroup
}

func listen(t testing.TB, serve func(n int64, c *peerConn)) *peer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: ln.Addr().String()}
	p.all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			n := p.conns.Add(1)
			p.all.Go(func() {
				defer nc.Close()
				serve(n, &peerConn{nc, bufio.NewReader(nc)})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); p.all.Wait() })
	return p
}

type peerConn struct {
	net.Conn
	br *bufio.Reader
}

// request reads one request to its end and returns its head and body as they came.
func (c *peerConn) request() (head, body string, err error) {
	var b strings.Builder
	length := 0
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		b.WriteString(line)
		fmt.Sscanf(line, "Content-Length: %d", &length)
		if line == "\r\n" {
			break
		}
	}
	raw := make([]byte, length)
	_, err = io.ReadFull(c.br, raw)
	return b.String(), string(raw), err
}

func (c *peerConn) say(s string) { io.WriteString(c, s) }

// gone waits for the other side to end.
func (c *peerConn) gone() { io.Copy(io.Discard, c.br) }

func target(t testing.TB, base string, timeouts Timeouts) *Target {
	tg, err := NewTarget(TargetConfig{Route: "direct", Provider: "openai", BaseURL: base, APIKey: "sk-test"}, timeouts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tg.CloseIdle(0) })
	return tg
}

// call does one exchange to its end.
func call(tg *Target, r *Request, c *Canceller) (status int, body string, err error) {
	var x Exchange
	var h fasthttp.ResponseHeader
	c.Begin()
	if err := x.Do(tg, r, c, &h); err != nil {
		return 0, "", err
	}
	defer x.Finish()
	var b []byte
	for {
		p, err := x.Body.Next()
		if err == io.EOF {
			return h.StatusCode(), string(b), nil
		}
		if err != nil {
			return h.StatusCode(), string(b), err
		}
		b = append(b, p...)
	}
}

func post(body string) *Request {
	return &Request{Method: []byte("POST"), Path: "/chat/completions", Body: []byte(body)}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestRequestBytes(t *testing.T) {
	got := make(chan [2]string, 1)
	p := listen(t, func(_ int64, c *peerConn) {
		for {
			head, body, err := c.request()
			if err != nil {
				return
			}
			got <- [2]string{head, body}
			c.say(ok)
		}
	})
	tg := target(t, "http://"+p.addr+"/openai/v1/", testTimeouts)
	long := strings.Repeat("x", 40<<10)
	for _, tt := range []struct {
		name       string
		r          Request
		head, body string
	}{
		{
			"plain",
			Request{Method: []byte("POST"), Path: "/chat/completions", Body: []byte(`{"a":1}`)},
			"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: identity\r\nAuthorization: Bearer sk-test\r\nContent-Length: 7\r\n\r\n",
			`{"a":1}`,
		},
		{
			"lines, suffix and edits",
			Request{
				Method: []byte("POST"), Path: "/responses", Suffix: []byte("?x=y"), Lines: []byte("Accept: */*\r\n"),
				Body: []byte(`{"model":"m","z":2}`), Edits: []openai.Edit{{From: 1, To: 1, Insert: []byte(`"q":0,`)}, {From: 9, To: 12, Insert: []byte(`"longer"`)}},
			},
			"POST /openai/v1/responses?x=y HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: identity\r\nAuthorization: Bearer sk-test\r\nAccept: */*\r\nContent-Length: 30\r\n\r\n",
			`{"q":0,"model":"longer","z":2}`,
		},
		{
			"long, with edits: written as a vector",
			Request{
				Method: []byte("POST"), Path: "/embeddings",
				Body: []byte(`{"model":"m","input":"` + long + `"}`), Edits: []openai.Edit{{From: 9, To: 12, Insert: []byte(`"longer"`)}},
			},
			fmt.Sprintf("POST /openai/v1/embeddings HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: identity\r\nAuthorization: Bearer sk-test\r\nContent-Length: %d\r\n\r\n", len(long)+29),
			`{"model":"longer","input":"` + long + `"}`,
		},
		{
			"no body",
			Request{Method: []byte("GET"), Path: "/responses/", Suffix: []byte("resp_1/input_items?limit=2")},
			"GET /openai/v1/responses/resp_1/input_items?limit=2 HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: identity\r\nAuthorization: Bearer sk-test\r\n\r\n",
			"",
		},
		{
			"empty body",
			Request{Method: []byte("POST"), Path: "/responses/", Suffix: []byte("resp_1/cancel"), Body: []byte{}},
			"POST /openai/v1/responses/resp_1/cancel HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: identity\r\nAuthorization: Bearer sk-test\r\nContent-Length: 0\r\n\r\n",
			"",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, body, err := call(tg, &tt.r, new(Canceller)); status != 200 || body != "ok" || err != nil {
				t.Fatal(status, body, err)
			}
			sent := <-got
			if want := strings.Replace(tt.head, "HOST", p.addr, 1); sent[0] != want {
				t.Errorf("head\n%q, want\n%q", sent[0], want)
			}
			if sent[1] != tt.body {
				t.Errorf("body %.80q, want %.80q", sent[1], tt.body)
			}
		})
	}
	if n := p.conns.Load(); n != 1 {
		t.Errorf("%d connections for requests one after the other", n)
	}
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, say string
		status    int
		body      string
		err       error
		conns     int64 // for two exchanges
	}{
		{"plain", ok, 200, "ok", nil, 1},
		{"announced by 100 and 103", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok, 200, "ok", nil, 1},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0, "", ErrMalformed, 2},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", nil, 1},
		{"until closed", "HTTP/1.1 200 OK\r\n\r\nok", 200, "ok", nil, 2},
		{"close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, 2},
		{"more than was announced", ok + "more", 200, "ok", nil, 2},
		{"nothing", "", 0, "", ErrTruncated, 2},
		{"a byte", "H", 0, "", ErrTruncated, 2},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", 0, "", ErrTruncated, 2},
		{"no HTTP", "220 mail.example ESMTP ready\r\n\r\n", 0, "", ErrMalformed, 2},
		{"HTTP/2", "\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n\r\n", 0, "", ErrMalformed, 2},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 0, "", ErrMalformed, 2},
		{"length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", 0, "", ErrMalformed, 2},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", 0, "", ErrMalformed, 2},
		{"gzip in transfer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0, "", ErrMalformed, 2},
		{"NUL in a header", "HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2\r\n\r\nok", 0, "", ErrMalformed, 2},
		{"endless head", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 64<<10), 0, "", ErrMalformed, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := listen(t, func(_ int64, c *peerConn) {
				for {
					if _, _, err := c.request(); err != nil {
						return
					}
					if c.say(tt.say); tt.err != nil || tt.conns > 1 {
						return
					}
				}
			})
			tg := target(t, "http://"+p.addr, testTimeouts)
			var c Canceller
			for range 2 {
				status, body, err := call(tg, post("{}"), &c)
				if status != tt.status || body != tt.body || !errors.Is(err, tt.err) {
					t.Errorf("got %d, %q, %v", status, body, err)
				}
			}
			if n := p.conns.Load(); n != tt.conns {
				t.Errorf("%d connections, want %d", n, tt.conns)
			}
		})
	}
}

// A kept connection may have been closed by its peer a moment ago. Only when nothing came back on it is the request
// sent again, once, on a fresh one; a request that an answer had begun to is never sent twice.
func TestStaleConnection(t *testing.T) {
	for _, tt := range []struct {
		name     string
		second   string // what the second request on a connection is answered before the connection is closed
		after    time.Duration
		served   string
		requests int64
		err      error
	}{
		{"nothing came", "", 0, "ok", 3, nil},
		{"nothing came for a while", "", staleWithin, "", 2, ErrTruncated}, // it may have worked on it: not twice
		{"a byte came", "H", 0, "", 2, ErrTruncated},
		{"a head came", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 0, "", 2, ErrTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int64
			p := listen(t, func(_ int64, c *peerConn) {
				if _, _, err := c.request(); err != nil {
					return
				}
				requests.Add(1)
				c.say(ok)
				if _, _, err := c.request(); err != nil {
					return
				}
				requests.Add(1)
				time.Sleep(tt.after)
				c.say(tt.second)
			})
			tg := target(t, "http://"+p.addr, testTimeouts)
			var c Canceller
			if _, body, err := call(tg, post("{}"), &c); body != "ok" || err != nil {
				t.Fatal(body, err)
			}
			_, body, err := call(tg, post("{}"), &c)
			if body != tt.served || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v", body, err)
			}
			if n := requests.Load(); n != tt.requests {
				t.Errorf("the upstream had %d requests, want %d", n, tt.requests)
			}
		})
	}
}

// The peer closed while the connection was idle: the common case, in which it has not even seen the request.
func TestConnectionClosedWhileIdle(t *testing.T) {
	var requests atomic.Int64
	closed := make(chan bool)
	p := listen(t, func(n int64, c *peerConn) {
		for {
			if _, _, err := c.request(); err != nil {
				return
			}
			requests.Add(1)
			c.say(ok)
			if n == 1 {
				c.Close()
				close(closed)
				return
			}
		}
	})
	tg := target(t, "http://"+p.addr, testTimeouts)
	var c Canceller
	for i := range 3 {
		if _, body, err := call(tg, post(strings.Repeat("x", i*40<<10)), &c); body != "ok" || err != nil {
			t.Fatal(i, body, err)
		}
		<-closed
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("the upstream had %d requests, want 3", n)
	}
}

func TestTwiceStaleIsTheEnd(t *testing.T) {
	var requests atomic.Int64
	p := listen(t, func(n int64, c *peerConn) {
		c.request()
		requests.Add(1)
		if n == 1 {
			c.say(ok)
			c.request()
			requests.Add(1)
		}
	})
	tg := target(t, "http://"+p.addr, testTimeouts)
	var c Canceller
	call(tg, post("{}"), &c)
	if _, _, err := call(tg, post("{}"), &c); err != ErrTruncated {
		t.Error(err)
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("the upstream had %d requests, want 3", n)
	}
}

// An upstream may refuse a long body before it has read it, and close. Its answer must be seen, not our write error.
func TestRefusedBeforeTheBodyWasSent(t *testing.T) {
	refusal := "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large"
	p := listen(t, func(_ int64, c *peerConn) {
		c.br.ReadString('\n')
		c.say(refusal)
		c.Conn.(*net.TCPConn).CloseWrite()
		time.Sleep(50 * time.Millisecond) // lets the answer out before the reset that unread bytes bring about
	})
	tg := target(t, "http://"+p.addr, testTimeouts)
	status, body, err := call(tg, post(strings.Repeat("x", 32<<20)), new(Canceller))
	// A reset may destroy the answer under way; then it must be an error, and one that says "broke off".
	if err == nil && (status != 413 || body != "too large") || err != nil && !errors.Is(err, ErrTruncated) {
		t.Errorf("got %d, %q, %v", status, body, err)
	}
}

func TestTimeouts(t *testing.T) {
	const short = 400 * time.Millisecond
	for _, tt := range []struct {
		name   string
		say    []string // with a pause of a quarter of the limit between them, and then silence
		t      Timeouts
		body   string
		err    error
		within time.Duration
	}{
		{"no first byte", nil, Timeouts{FirstByte: short, Idle: time.Minute}, "", ErrTimeout, 3 * short},
		{"half a head", []string{"HTTP/1.1 2"}, Timeouts{FirstByte: short, Idle: time.Minute}, "", ErrTimeout, 3 * short},
		{"announced only", []string{"HTTP/1.1 100 Continue\r\n\r\n"}, Timeouts{FirstByte: short, Idle: time.Minute}, "", ErrTimeout, 3 * short},
		{"silent body", []string{headChunked}, Timeouts{FirstByte: time.Minute, Idle: short}, "", ErrTimeout, 3 * short},
		{"silent in the body", []string{headChunked, chunk("one")}, Timeouts{FirstByte: time.Minute, Idle: short}, "one", ErrTimeout, 3 * short},
		{"silent in a chunk", []string{headChunked, "5\r\none"}, Timeouts{FirstByte: time.Minute, Idle: short}, "one", ErrTimeout, 3 * short},
		{"silent before the end", []string{headChunked, chunk("one"), "0\r\n"}, Timeouts{FirstByte: time.Minute, Idle: short}, "one", ErrTimeout, 3 * short},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := listen(t, func(_ int64, c *peerConn) {
				c.request()
				for _, s := range tt.say {
					c.say(s)
					time.Sleep(short / 4)
				}
				c.gone()
			})
			tt.t.Connect = 5 * time.Second
			tg := target(t, "http://"+p.addr, tt.t)
			began := time.Now()
			_, body, err := call(tg, post("{}"), new(Canceller))
			if took := time.Since(began); !errors.Is(err, tt.err) || body != tt.body || took > tt.within || took < short*3/4 {
				t.Errorf("after %s: %q, %v", took, body, err)
			}
		})
	}
}

// No timer runs over a whole answer: one that takes many times the limit is fine while it keeps coming.
func TestSlowAnswerIsNotCut(t *testing.T) {
	const idle = 3 * time.Second
	p := listen(t, func(_ int64, c *peerConn) {
		c.request()
		c.say(headChunked)
		for range 24 {
			time.Sleep(idle / 12)
			c.say(chunk("x"))
		}
		c.say("0\r\n\r\n")
		c.gone()
	})
	tg := target(t, "http://"+p.addr, Timeouts{Connect: time.Second, FirstByte: idle, Idle: idle})
	if _, body, err := call(tg, post("{}"), new(Canceller)); body != strings.Repeat("x", 24) || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	for _, base := range []string{"http://" + addr, "http://nowhere.invalid", "https://" + addr} {
		tg := target(t, base, testTimeouts)
		if _, _, err := call(tg, post("{}"), new(Canceller)); !errors.Is(err, ErrConnect) {
			t.Errorf("%s: %v", base, err)
		}
	}
}

func TestCancel(t *testing.T) {
	for _, tt := range []struct{ name, say string }{
		{"while waiting", ""},
		{"in the head", "HTTP/1.1 200 OK\r\n"},
		{"in the body", headChunked + "5\r\none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			closed, asked := make(chan time.Time, 1), make(chan bool, 1)
			p := listen(t, func(_ int64, c *peerConn) {
				c.request()
				c.say(tt.say)
				asked <- true
				c.gone()
				closed <- time.Now()
			})
			tg := target(t, "http://"+p.addr, testTimeouts)
			var c Canceller
			var at time.Time
			go func() {
				<-asked
				time.Sleep(20 * time.Millisecond)
				at = time.Now()
				c.Cancel()
			}()
			_, _, err := call(tg, post("{}"), &c)
			if err == nil || !c.Cancelled() {
				t.Error(err)
			}
			if took := (<-closed).Sub(at); took > time.Second {
				t.Errorf("the upstream saw the end after %s", took)
			}
			// What was cancelled stays so until it is begun anew.
			var x Exchange
			var h fasthttp.ResponseHeader
			if err := x.Do(tg, post("{}"), &c, &h); err != ErrCancelled {
				t.Error(err)
			}
		})
	}
}

// Cancel at any moment, from another goroutine, must end the exchange at hand and never one that has the connection
// after it.
func TestCancelRaces(t *testing.T) {
	var served atomic.Int64
	p := listen(t, func(_ int64, c *peerConn) {
		for {
			if _, _, err := c.request(); err != nil {
				return
			}
			served.Add(1)
			c.say(headChunked + chunk("o"))
			c.say(chunk("k") + "0\r\n\r\n")
		}
	})
	tg := target(t, "http://"+p.addr, testTimeouts)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { // never cancelled: must never fail
			var c Canceller
			for range 300 {
				if _, body, err := call(tg, post("{}"), &c); body != "ok" || err != nil {
					t.Error("an exchange that nobody cancelled:", body, err)
				}
			}
		})
	}
	for i := range 2 {
		all.Go(func() {
			for n := range 300 {
				var c Canceller
				var watcher sync.WaitGroup
				watcher.Go(func() {
					time.Sleep(time.Duration((n*7+i)%200) * time.Microsecond)
					c.Cancel()
				})
				c2 := &c
				var x Exchange
				var h fasthttp.ResponseHeader
				if err := x.Do(tg, post("{}"), c2, &h); err == nil {
					for err == nil {
						_, err = x.Body.Next()
					}
				}
				x.Finish()
				x.Finish()
				watcher.Wait()
			}
		})
	}
	all.Wait()
	t.Logf("%d requests over %d connections", served.Load(), p.conns.Load())
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Proto, " ", r.Header.Get("Authorization"), " ", len(body))
	}))
	s.EnableHTTP2 = true // must not be taken
	s.StartTLS()
	defer s.Close()
	tg := target(t, s.URL, testTimeouts)
	if _, _, err := call(tg, post("{}"), new(Canceller)); !errors.Is(err, ErrConnect) {
		t.Fatal("a certificate that nobody signed:", err)
	}
	tg.pool.tls.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for range 2 {
		_, body, err := call(tg, post(strings.Repeat("x", 100_000)), new(Canceller))
		if body != "HTTP/1.1 Bearer sk-test 100000" || err != nil {
			t.Error(body, err)
		}
	}
	if v := tg.pool.tls.MinVersion; v < tls.VersionTLS12 {
		t.Errorf("TLS from version %x", v)
	}
}

// A peer that takes the connection and never answers the TLS handshake is bounded by Connect.
func TestSilentTLS(t *testing.T) {
	p := listen(t, func(_ int64, c *peerConn) { c.gone() })
	timeouts := testTimeouts
	timeouts.Connect = 200 * time.Millisecond
	tg := target(t, "https://"+p.addr, timeouts)
	began := time.Now()
	if _, _, err := call(tg, post("{}"), new(Canceller)); !errors.Is(err, ErrConnect) || time.Since(began) > 3*time.Second {
		t.Error(err, time.Since(began))
	}
}

// A truncated TLS stream is a truncated stream, with and without the peer's goodbye.
func TestTLSTruncation(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(c, headChunked+chunk("one"))
		if r.URL.Path == "/abrupt" {
			c.(*tls.Conn).NetConn().Close()
		}
		c.Close()
	}))
	s.StartTLS()
	defer s.Close()
	tg := target(t, s.URL, testTimeouts)
	tg.pool.tls.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, path := range []string{"/polite", "/abrupt"} {
		r := post("{}")
		r.Path = path
		if _, body, err := call(tg, r, new(Canceller)); body != "one" || !errors.Is(err, ErrTruncated) {
			t.Error(path, body, err)
		}
	}
}

func TestPool(t *testing.T) {
	var open atomic.Int64
	p := listen(t, func(_ int64, c *peerConn) {
		open.Add(1)
		defer open.Add(-1)
		for {
			if _, _, err := c.request(); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
			c.say(ok)
		}
	})
	tg := target(t, "http://"+p.addr, testTimeouts)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, _, err := call(tg, post("{}"), new(Canceller)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(tg.pool.idle); n == 0 || n > 20 {
		t.Fatalf("%d kept", n)
	}
	kept := len(tg.pool.idle)
	tg.CloseIdle(time.Minute)
	if n := len(tg.pool.idle); n != kept {
		t.Errorf("%d kept of %d that are all young", n, kept)
	}
	// Of connections beyond their time none is used, and CloseIdle ends the rest.
	for _, c := range tg.pool.idle[:kept/2] {
		c.lastUsed = time.Now().Add(-2 * KeepIdle)
	}
	tg.CloseIdle(KeepIdle)
	if n := len(tg.pool.idle); n != kept-kept/2 {
		t.Errorf("%d kept, want %d", n, kept-kept/2)
	}
	for _, c := range tg.pool.idle {
		c.lastUsed = time.Now().Add(-2 * KeepIdle)
	}
	before := p.conns.Load()
	if _, _, err := call(tg, post("{}"), new(Canceller)); err != nil {
		t.Fatal(err)
	}
	if n := p.conns.Load(); n != before+1 {
		t.Errorf("%d new connections, want a fresh one", n-before)
	}
	tg.CloseIdle(0)
	if n := len(tg.pool.idle); n != 0 {
		t.Errorf("%d kept after all were closed", n)
	}
	for end := time.Now().Add(5 * time.Second); open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the upstream still has %d connections", open.Load())
		}
	}
}

func TestNewTarget(t *testing.T) {
	for _, tt := range []struct {
		cfg    TargetConfig
		addr   string
		path   string
		broken bool
	}{
		{TargetConfig{BaseURL: "https://api.openai.com/v1"}, "api.openai.com:443", "/v1", false},
		{TargetConfig{BaseURL: "http://127.0.0.1:9000/groq/openai/v1/"}, "127.0.0.1:9000", "/groq/openai/v1", false},
		{TargetConfig{BaseURL: "http://[::1]/v1"}, "[::1]:80", "/v1", false},
		{TargetConfig{BaseURL: "https://host"}, "host:443", "", false},
		{TargetConfig{BaseURL: "api.openai.com/v1"}, "", "", true},
		{TargetConfig{BaseURL: "ftp://host/v1"}, "", "", true},
		{TargetConfig{BaseURL: "https://host/v1?x=y"}, "", "", true},
		{TargetConfig{BaseURL: "https://user:secret@host/v1"}, "", "", true},
		{TargetConfig{BaseURL: "https://"}, "", "", true},
		{TargetConfig{BaseURL: ""}, "", "", true},
		{TargetConfig{BaseURL: "https://host", APIKey: "sk-a\r\nX-Evil: 1"}, "", "", true},
		{TargetConfig{BaseURL: "https://host", APIKey: "sk a"}, "", "", true},
	} {
		tg, err := NewTarget(tt.cfg, testTimeouts)
		if (err != nil) != tt.broken {
			t.Errorf("%+v: %v", tt.cfg, err)
			continue
		}
		if err != nil {
			if key := tt.cfg.APIKey; key != "" && strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a secret: %v", err)
			}
			continue
		}
		if tg.pool.addr != tt.addr || tg.basePath != tt.path {
			t.Errorf("%s: %s and %s", tt.cfg.BaseURL, tg.pool.addr, tg.basePath)
		}
	}
}

func TestRoutes(t *testing.T) {
	r, err := NewRoutes([]TargetConfig{
		{Route: "direct", Provider: "openai", BaseURL: "https://a/v1"},
		{Route: "gateway", Provider: "vercel", BaseURL: "https://b/v1"},
		{Route: "direct", Provider: "groq", BaseURL: "https://c/v1"},
	}, testTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		gateway  bool
		provider string
		want     string
	}{
		{true, "openai", "gateway/vercel"},
		{true, "nobody", "gateway/vercel"},
		{false, "openai", "direct/openai"},
		{false, "groq", "direct/groq"},
		{false, "nobody", `no direct route to provider "nobody" is configured`},
	} {
		got := ""
		if tg, err := r.Pick(tt.gateway, tt.provider); err != nil {
			got = err.Error()
		} else {
			got = tg.Route + "/" + tg.Provider
		}
		if got != tt.want {
			t.Errorf("Pick(%t, %s): %s", tt.gateway, tt.provider, got)
		}
	}
	if tg, err := r.Named("gateway", "openai"); err != nil || tg.Route != "gateway" {
		t.Error("the provider that served through the gateway is not where to ask again:", err)
	}
	if tg, err := r.Named("direct", "groq"); err != nil || tg.Provider != "groq" {
		t.Error(err)
	}
	if all := r.All(); len(all) != 3 || all[0].Route != "gateway" || string(all[0].Secret()) != "" {
		t.Error(all)
	}
	var none *ErrNoRoute
	if _, err := new(Routes).Pick(true, ""); !errors.As(err, &none) {
		t.Error(err)
	}
	_, err = NewRoutes([]TargetConfig{{Route: "direct", Provider: "a"}, {Route: "direct", Provider: "b"}}, testTimeouts)
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("direct/a")) || !bytes.Contains([]byte(err.Error()), []byte("direct/b")) {
		t.Errorf("both mistakes are to be told at once: %v", err)
	}
}

// Most heads fit the small buffer that every open stream holds; one that does not must be read all the same.
func TestLargeHead(t *testing.T) {
	for size, want := range map[int]error{2 << 10: nil, 20 << 10: nil, 100 << 10: ErrMalformed} {
		p := listen(t, func(_ int64, c *peerConn) {
			for {
				if _, _, err := c.request(); err != nil {
					return
				}
				c.say("HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", size) + "\r\nContent-Length: 2\r\n\r\nok")
			}
		})
		tg := target(t, "http://"+p.addr, testTimeouts)
		var c Canceller
		for range 2 {
			_, body, err := call(tg, post("{}"), &c)
			if !errors.Is(err, want) || want == nil && body != "ok" {
				t.Errorf("a head of %d bytes: %q, %v; want %v", size, body, err, want)
			}
		}
		tg.CloseIdle(0)
	}
}
