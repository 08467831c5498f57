package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeUpstream is a gateway or provider that says the bytes it is told to say.
type fakeUpstream struct {
	addr  string
	ln    net.Listener
	all   sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	made  int // connections in all
}

// upConn is one connection that the proxy made.
type upConn struct {
	net.Conn
	br *bufio.Reader
	n  int // which connection this is, from 1
}

func listenUpstream(t testing.TB, serve func(c *upConn)) *fakeUpstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &fakeUpstream{addr: ln.Addr().String(), ln: ln, conns: map[net.Conn]struct{}{}}
	u.all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.made++
			c := &upConn{nc, bufio.NewReader(nc), u.made}
			u.conns[nc] = struct{}{}
			u.mu.Unlock()
			u.all.Go(func() {
				serve(c)
				nc.Close()
				u.mu.Lock()
				delete(u.conns, nc)
				u.mu.Unlock()
			})
		}
	})
	return u
}

// connections tells how many were ever made.
func (u *fakeUpstream) connections() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.made
}

func (u *fakeUpstream) close() {
	u.ln.Close()
	u.mu.Lock()
	for c := range u.conns {
		c.Close()
	}
	u.mu.Unlock()
	u.all.Wait()
}

// request reads one request to its end: its head and body as they came.
func (c *upConn) request() (head, body string, err error) {
	var b strings.Builder
	length := 0
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		b.WriteString(line)
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return "", "", err
			}
		}
		if line == "\r\n" {
			break
		}
	}
	raw := make([]byte, length)
	_, err = io.ReadFull(c.br, raw)
	return b.String(), string(raw), err
}

func (c *upConn) say(s string) { io.WriteString(c, s) }

// gone waits for the proxy to end the connection.
func (c *upConn) gone() { io.Copy(io.Discard, c.br) }

// answers serves every request on a connection with the same answer.
func answers(raw string) func(c *upConn) {
	return func(c *upConn) {
		for {
			if _, _, err := c.request(); err != nil {
				return
			}
			c.say(raw)
		}
	}
}

// client is one connection to the proxy.
type client struct {
	net.Conn
	br *bufio.Reader
}

func (w *world) dial() *client {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{nc, bufio.NewReader(nc)}
}

func (c *client) say(s string) { io.WriteString(c, s) }

// answer is what the client got of one answer, taken apart by the rules of RFC 9112 and by nothing that is lenient.
type answer struct {
	status  int
	first   string   // status line
	header  []string // lines, in order
	body    []byte
	chunks  int
	whole   bool // the framing says that the body is complete
	closing bool // the answer says or means that the connection ends
}

func (a *answer) get(name string) string {
	for _, line := range a.header {
		if k, v, _ := strings.Cut(line, ": "); strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

var errNoAnswer = errors.New("the connection ended without an answer")

// answer reads one answer. The error says that there was none, or that it broke the rules; a body that is cut short is
// no error, but not whole.
func (c *client) answer() (*answer, error) {
	a := &answer{}
	var err error
	if a.first, err = c.line(); err != nil {
		if a.first == "" && isEnd(err) {
			return nil, errNoAnswer
		}
		return nil, err
	}
	if _, err := fmt.Sscanf(a.first, "HTTP/1.1 %d ", &a.status); err != nil {
		return nil, fmt.Errorf("status line %q: %w", a.first, err)
	}
	length, chunked := -1, false
	for {
		line, err := c.line()
		if err != nil {
			return nil, fmt.Errorf("in the head: %w", err)
		}
		if line == "" {
			break
		}
		a.header = append(a.header, line)
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, fmt.Errorf("header line %q", line)
		}
		switch strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.Atoi(value); err != nil || length < 0 {
				return nil, fmt.Errorf("header line %q", line)
			}
		case "transfer-encoding":
			if chunked = true; value != "chunked" {
				return nil, fmt.Errorf("header line %q", line)
			}
		case "connection":
			a.closing = value == "close"
		}
	}
	if chunked && length >= 0 {
		return nil, errors.New("a length and chunks in one answer")
	}
	switch {
	case a.status < 200 || a.status == 204 || a.status == 304:
		a.whole = true
	case chunked:
		return a, c.chunks(a)
	case length >= 0:
		a.body = make([]byte, length)
		n, err := io.ReadFull(c.br, a.body)
		a.body, a.whole = a.body[:n], err == nil
		if err != nil && !isEnd(err) && err != io.ErrUnexpectedEOF {
			return a, err
		}
	default:
		a.closing, a.whole = true, true
		if a.body, err = io.ReadAll(c.br); err != nil && !isEnd(err) {
			return a, err
		}
	}
	return a, nil
}

func (c *client) chunks(a *answer) error {
	for {
		line, err := c.line()
		if err != nil {
			return endOnly(err)
		}
		n, err := strconv.ParseInt(line, 16, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("chunk size %q", line)
		}
		piece := make([]byte, n)
		got, err := io.ReadFull(c.br, piece)
		a.body = append(a.body, piece[:got]...)
		if err != nil {
			return endOnly(err)
		}
		if line, err = c.line(); err != nil {
			return endOnly(err)
		}
		if line != "" {
			return fmt.Errorf("%q behind a chunk", line)
		}
		if n == 0 {
			a.whole = true
			return nil
		}
		a.chunks++
	}
}

func (c *client) line() (string, error) {
	line, err := c.br.ReadString('\n')
	if err != nil {
		return line, err
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		return "", fmt.Errorf("line %q does not end in CRLF", line)
	}
	return text, nil
}

// ended says whether the proxy ended the connection. It waits for at most d, which is long only when it did not.
func (c *client) ended(d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	defer c.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, err := c.br.ReadByte()
	if err == nil {
		c.br.UnreadByte()
		return false
	}
	return isEnd(err)
}

func isEnd(err error) bool {
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func endOnly(err error) error {
	if isEnd(err) {
		return nil
	}
	return err
}

// ask makes one call over a connection of its own.
func (w *world) ask(raw string) *answer {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	c.say(raw)
	a, err := c.answer()
	if err != nil {
		w.t.Fatalf("%v (answer %+v)", err, a)
	}
	return a
}

// postJSON is a request with a JSON body and a key.
func postJSON(path, key, body string, header ...string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: catraca\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n", path, key)
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return b.String()
}

// answer200 is a whole answer with a length.
func answer200(contentType, body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body)
}

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
