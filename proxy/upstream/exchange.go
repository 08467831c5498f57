package upstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/proxy/openai"
)

// Canceller lets whoever watches the client close the upstream connection under a running exchange. Cancel may be
// called from any goroutine at any time; it does nothing to a connection that has gone back to its pool.
type Canceller struct {
	mu        sync.Mutex
	conn      net.Conn
	cancelled bool
}

// Begin makes the canceller ready for another exchange.
func (c *Canceller) Begin() {
	c.mu.Lock()
	c.conn, c.cancelled = nil, false
	c.mu.Unlock()
}

// Cancel ends the exchange under way, and any that would begin, until Begin.
func (c *Canceller) Cancel() {
	c.mu.Lock()
	c.cancelled = true
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.mu.Unlock()
}

// Cancelled reports whether Cancel was called.
func (c *Canceller) Cancelled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cancelled
}

func (c *Canceller) hold(conn net.Conn) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cancelled {
		c.conn = conn
	}
	return !c.cancelled
}

func (c *Canceller) letGo() (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	return !c.cancelled
}

// Request is what goes out: the path below the target's base, header lines to pass on, and the body with its edits.
type Request struct {
	Method []byte
	Path   string        // "/chat/completions"
	Suffix []byte        // what follows Path: an id, a query
	Lines  []byte        // header lines, each ended by CRLF, already checked and allowed
	Body   []byte        // nil: the request has none
	Edits  []openai.Edit // ascending
}

// Exchange is one request and its answer. Zero is ready; it is used again and again.
type Exchange struct {
	Body Body // the answer's body, after Do
	// Sent says that some of the request was written: from there on the upstream may work, and bill, whatever is heard
	// of it. It stays until the next Do.
	Sent bool

	target *Target
	conn   *conn
	cancel *Canceller
	head   []byte // scratch for the request's head
	keep   bool   // the answer's head allows the connection to be kept
}

// inOneWrite is up to which size a request is copied together for a single write. Larger ones go out as a vector:
// copying them would cost more than the system call it saves.
const inOneWrite = 16 << 10

// Do sends the request and reads the head of the answer into h. On success the caller reads Body to its end, or not,
// and must call Finish either way.
func (x *Exchange) Do(t *Target, r *Request, c *Canceller, h *fasthttp.ResponseHeader) error {
	x.target, x.cancel, x.Body.conn, x.Sent = t, c, nil, false
	x.buildHead(t, r)
	for again := false; ; again = true {
		now := time.Now()
		cn, kept, err := t.pool.get(now, again)
		if err != nil {
			return err
		}
		if !c.hold(cn.Conn) {
			_ = cn.Close()
			return ErrCancelled
		}
		x.conn = cn
		answered, err := x.try(r, h, now)
		if err == nil {
			return nil
		}
		_ = cn.Close()
		x.conn = nil
		if !c.letGo() {
			return ErrCancelled
		}
		// The peer closed a kept connection while we were about to use it: it tells so at once. One that closes only
		// after a while may have begun to work, and a second time would be paid twice.
		if kept && !answered && errors.Is(err, errClosedEarly) && time.Since(now) < staleWithin {
			continue
		}
		if errors.Is(err, errClosedEarly) {
			return ErrTruncated
		}
		return err
	}
}

// staleWithin is how soon a connection that was dead already shows it: a round trip and some load.
const staleWithin = time.Second

// errClosedEarly says that the connection ended before one byte of an answer.
var errClosedEarly = errors.New("connection closed before an answer")

// try does one attempt on x.conn. answered says that a byte of an answer came.
func (x *Exchange) try(r *Request, h *fasthttp.ResponseHeader, now time.Time) (answered bool, err error) {
	cn := x.conn
	if err := cn.arm(now, x.target.timeouts.FirstByte); err != nil {
		return false, errClosedEarly
	}
	n, err := x.write(r)
	x.Sent = x.Sent || n > 0
	if err != nil {
		// An upstream may refuse a long body before it has read it: its answer, if there is one, tells more than our
		// write error. Whatever it has said is there already, so this waits only briefly.
		_ = cn.SetReadDeadline(time.Now().Add(time.Second))
		cn.deadline = time.Time{}
	}
	if _, err := cn.br.Peek(1); err != nil {
		if isTimeout(err) {
			return false, ErrTimeout
		}
		return false, errClosedEarly
	}
	for {
		err := h.Read(cn.br)
		if small := (*fasthttp.ErrSmallBuffer)(nil); errors.As(err, &small) && cn.br.Size() < largeHead {
			cn.widen()
			err = h.Read(cn.br)
		}
		if err != nil {
			if isTimeout(err) {
				return true, ErrTimeout
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return true, ErrTruncated
			}
			return true, ErrMalformed
		}
		// 100, 102 and 103 announce; 101 would hand the connection over, which nothing here asks for.
		if code := h.StatusCode(); code >= 200 {
			break
		} else if code == fasthttp.StatusSwitchingProtocols || code < 100 {
			return true, ErrMalformed
		}
	}
	return true, x.Body.begin(cn, h, string(r.Method) == fasthttp.MethodHead, x.target.timeouts.Idle, &x.keep)
}

func (x *Exchange) buildHead(t *Target, r *Request) {
	b := append(x.head[:0], r.Method...)
	b = append(b, ' ')
	b = append(b, t.basePath...)
	b = append(b, r.Path...)
	b = append(b, r.Suffix...)
	b = append(b, t.head...)
	b = append(b, r.Lines...)
	if r.Body != nil {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(openai.EditedLen(r.Body, r.Edits)), 10)
		b = append(b, '\r', '\n')
	}
	x.head = append(b, '\r', '\n')
}

// write sends the request and tells how much of it went out.
func (x *Exchange) write(r *Request) (n int64, err error) {
	cn := x.conn
	if len(x.head)+len(r.Body) <= inOneWrite {
		end := len(x.head)
		x.head = openai.AppendEdited(x.head, r.Body, r.Edits)
		sent, err := cn.Write(x.head)
		x.head = x.head[:end]
		return int64(sent), err
	}
	vec := append(cn.vec[:0], x.head)
	at := 0
	for _, e := range r.Edits {
		vec = append(vec, r.Body[at:e.From], e.Insert)
		at = e.To
	}
	vec = append(vec, r.Body[at:])
	cn.vec = vec
	n, err = cn.vec.WriteTo(cn.Conn) // advances cn.vec; its array stays for the next time
	clear(vec)
	cn.vec = vec[:0]
	return n, err
}

// DropScratch lets go of the request's bytes, which a long answer would otherwise hold for minutes.
func (x *Exchange) DropScratch() { x.head = nil }

// Finish ends the exchange: the connection goes back to its pool when the answer was read to its end, else it is
// closed, which is also what cancels the work upstream. It may be called more than once.
func (x *Exchange) Finish() {
	if x.conn == nil {
		return
	}
	cn := x.conn
	x.conn, x.Body.conn = nil, nil
	x.Body.release()
	if x.cancel.letGo() && x.Body.done && x.keep && cn.br.Buffered() == 0 {
		x.target.pool.put(cn, time.Now())
		return
	}
	_ = cn.Close()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, fasthttp.ErrTimeout) || errors.Is(err, ErrTimeout) ||
		(errors.As(err, &ne) && ne.Timeout())
}

// lowerEqual compares header bytes to a lower-case word without regard to case.
func lowerEqual(b []byte, word string) bool {
	return len(b) == len(word) && bytes.EqualFold(b, []byte(word))
}
