package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// generator is the load as a whole: what it sends, what it expects, what it has counted.
type generator struct {
	Options
	request []byte
	want    *answer // what the upstream itself answered; nil when nothing is compared

	requests, events, failed, open atomic.Int64
	firstErr                       atomic.Pointer[error]
	latency                        histogram

	stop  chan struct{}
	mu    sync.Mutex
	conns map[*conn]struct{}
}

// connection is one client: it sends, checks and sends again until the load stops.
func (g *generator) connection(next time.Time) {
	var c *conn
	defer func() { g.drop(c) }()
	var step time.Duration
	if g.Rate > 0 {
		step = time.Duration(float64(time.Second) * float64(g.Conns) / g.Rate)
	}
	time.Sleep(time.Until(next))
	for !g.stopped() {
		err := g.once(&c)
		switch {
		case err == nil:
		case g.stopped() && g.Mode == "held":
			return // we closed it ourselves
		default:
			g.fail(err)
			g.drop(c)
			c = nil
			time.Sleep(20 * time.Millisecond) // a target that is down must not be hammered
		}
		if step > 0 {
			next = next.Add(step)
			time.Sleep(time.Until(next))
		}
	}
}

// once opens the connection if there is none, and makes one call on it.
func (g *generator) once(c **conn) error {
	if *c == nil {
		fresh, err := dial(g.Addr)
		if err != nil {
			return err
		}
		*c = fresh
		g.mu.Lock()
		g.conns[fresh] = struct{}{}
		g.mu.Unlock()
	}
	start := time.Now()
	g.open.Add(1)
	got, err := (*c).exchange(g.request, &g.events)
	g.open.Add(-1)
	if err == nil {
		err = g.check(got)
	}
	if err != nil {
		return err
	}
	g.requests.Add(1)
	g.latency.add(time.Since(start))
	return nil
}

// check compares an answer with what the upstream gives itself: a plain one byte for byte, a stream by its events.
func (g *generator) check(got answer) error {
	switch {
	case g.want == nil:
		return nil
	case got.events != g.want.events:
		return fmt.Errorf("the stream had %d events, the upstream sends %d", got.events, g.want.events)
	case g.Mode != "stream" && !bytes.Equal(got.body, g.want.body):
		return fmt.Errorf("the answer is not the upstream's: %d bytes, %q", len(got.body), clip(got.body))
	}
	return nil
}

func (g *generator) stopped() bool {
	select {
	case <-g.stop:
		return true
	default:
		return false
	}
}

func (g *generator) fail(err error) {
	g.failed.Add(1)
	g.firstErr.CompareAndSwap(nil, &err)
}

// drop closes one connection and forgets it.
func (g *generator) drop(c *conn) {
	if c == nil {
		return
	}
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
	_ = c.Close()
}

// closeAll ends the calls that would not end by themselves: held streams, and those of a target that hangs.
func (g *generator) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		_ = c.Close()
	}
}

// answer is what one call brought: a body when it was plain, the number of events when it was a stream.
type answer struct {
	body   []byte // valid until the next exchange on the connection
	events int
}

type conn struct {
	net.Conn
	r    *bufio.Reader
	body []byte
}

func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 8<<10)}, nil
}

// exchange sends one request and reads its answer to the end. Events are also added to live, if given, as they arrive.
func (c *conn) exchange(request []byte, live *atomic.Int64) (answer, error) {
	if _, err := c.Write(request); err != nil {
		return answer{}, fmt.Errorf("send: %w", err)
	}
	length, chunked, err := c.head()
	if err != nil {
		return answer{}, err
	}
	if chunked {
		n, err := c.stream(live)
		return answer{events: n}, err
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	body := c.body[:length]
	if _, err := io.ReadFull(c.r, body); err != nil {
		return answer{}, fmt.Errorf("the answer broke off: %w", err)
	}
	return answer{body: body}, nil
}

var (
	statusOK      = []byte("HTTP/1.1 200")
	contentLength = []byte("content-length:")
	chunkedMark   = []byte("transfer-encoding: chunked")
	doneEvent     = []byte("data: [DONE]\n\n")
)

// head reads the status line and the headers, of which only the framing matters.
func (c *conn) head() (length int, chunked bool, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, false, fmt.Errorf("no answer: %w", err)
	}
	if !bytes.HasPrefix(line, statusOK) {
		return 0, false, fmt.Errorf("status line %q", clip(line))
	}
	length = -1
	for {
		line, err = c.r.ReadSlice('\n')
		if err != nil {
			return 0, false, fmt.Errorf("the head broke off: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(line) == 0:
			if length < 0 && !chunked {
				return 0, false, errors.New("the answer has neither a length nor chunks")
			}
			return length, chunked, nil
		case (line[0]|0x20) == 'c' && len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength):
			length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):])))
			if err != nil {
				return 0, false, err
			}
		case (line[0]|0x20) == 't' && bytes.EqualFold(line, chunkedMark):
			chunked = true
		}
	}
}

// stream reads a chunked event stream to its last chunk and counts its events; it must end in [DONE].
func (c *conn) stream(live *atomic.Int64) (events int, err error) {
	var last [16]byte // the end of what has come, so that [DONE] and an event's end may lie across chunks
	seen := last[:0]
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return events, fmt.Errorf("the stream broke off after %d events: %w", events, err)
		}
		size, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return events, fmt.Errorf("chunk size: %w", err)
		}
		for left := int(size); left > 0; {
			part, err := c.r.Peek(min(left, max(1, c.r.Buffered())))
			if err != nil {
				return events, fmt.Errorf("a chunk broke off after %d events: %w", events, err)
			}
			n := bytes.Count(part, []byte("\n\n"))
			if len(seen) > 0 && seen[len(seen)-1] == '\n' && part[0] == '\n' {
				n++
			}
			events += n
			if live != nil {
				live.Add(int64(n))
			}
			seen = keepLast(&last, seen, part)
			left -= len(part)
			_, _ = c.r.Discard(len(part)) // cannot fail: it was peeked
		}
		if _, err := c.r.Discard(2); err != nil {
			return events, fmt.Errorf("a chunk has no end: %w", err)
		}
		if size == 0 {
			if !bytes.HasSuffix(seen, doneEvent) {
				return events, fmt.Errorf("the stream ended without [DONE] after %d events", events)
			}
			return events, nil
		}
	}
}

// keepLast moves the end of seen+part into buf.
func keepLast(buf *[16]byte, seen, part []byte) []byte {
	if len(part) >= len(buf) {
		return buf[:copy(buf[:], part[len(part)-len(buf):])]
	}
	if over := len(seen) + len(part) - len(buf); over > 0 {
		seen = buf[:copy(buf[:], seen[over:])]
	}
	return append(seen, part...)
}

// clip shortens what goes into an error.
func clip(b []byte) []byte { return b[:min(len(b), 120)] }
