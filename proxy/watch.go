package proxy

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/catraca/catraca/proxy/upstream"
)

// watch notices what fasthttp never tells: that a client has gone while its call waits or streams. One goroutine asks
// the kernel for the state of every connection whose call has been under way for a while. Calls that are answered
// sooner cost nothing for it; a reader per call, as net/http has, would cost each of them a wake-up.
type watch struct {
	writeTimeout time.Duration
	limits       ReadOn
	reading      atomic.Int64 // calls that are read on
	crowded      atomic.Int64 // calls that were not read on because so many were
	clock        atomic.Int64 // nanoseconds, as of the last sweep: good enough to decide about deadlines of minutes
	draining     atomic.Bool  // connections that have not sent a byte are closed: fasthttp would wait for them

	mu    sync.Mutex
	conns map[*clientConn]struct{}
}

// sweepEvery is how often connections are looked at: a client that leaves is noticed within patience + sweepEvery +
// the sweep itself, well under the second that is promised.
const (
	sweepEvery = 400 * time.Millisecond
	patience   = 200 * time.Millisecond
)

func newWatch(writeTimeout time.Duration, limits ReadOn) *watch {
	return &watch{writeTimeout: writeTimeout, limits: limits.withDefaults(), conns: make(map[*clientConn]struct{})}
}

// run sweeps until stop is called.
func (w *watch) run() (stop func()) {
	w.clock.Store(time.Now().UnixNano())
	ticker := time.NewTicker(sweepEvery)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case now := <-ticker.C:
				w.sweep(now)
			case <-done:
				ticker.Stop()
				return
			}
		}
	}()
	return func() { close(done) }
}

func (w *watch) sweep(now time.Time) {
	w.clock.Store(now.UnixNano())
	before := now.Add(-patience).UnixNano()
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		if since := c.busySince.Load(); since != 0 && since < before && c.clientGone() {
			c.leave(now.UnixNano())
		} else if w.draining.Load() && !c.spoke.Load() {
			_ = c.Conn.Close()
		}
	}
}

// clientGone tells whether the client has left the call that is under way. Once that is known it stays so.
func (c *clientConn) clientGone() bool {
	return c.departure.state.Load() == readsOn || c.probe != nil && c.probe.gone()
}

// wrap makes every accepted connection a clientConn.
func (w *watch) wrap(ln net.Listener) net.Listener { return &watchedListener{ln, w} }

type watchedListener struct {
	net.Listener
	w *watch
}

func (l *watchedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &clientConn{Conn: nc, w: l.w}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.probe = newProbe(raw)
		}
	}
	l.w.mu.Lock()
	l.w.conns[c] = struct{}{}
	l.w.mu.Unlock()
	return c, nil
}

// closeAll cuts every connection and returns how many there were.
func (w *watch) closeAll() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.cutOff(cutByStop)
		_ = c.Conn.Close() // its handler sees a failed write, settles its call and closes c itself
	}
	return len(w.conns)
}

// wait returns when all connections that closeAll cut have been given up by their handlers.
func (w *watch) wait(limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		n := len(w.conns)
		w.mu.Unlock()
		if n == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d connections did not end after they were cut", n)
		}
	}
}

// clientConn is a connection from a client. At most one call runs on it at a time.
type clientConn struct {
	net.Conn
	w         *watch
	probe     *probe // nil: nothing to ask
	busySince atomic.Int64
	cancel    upstream.Canceller
	departure departure
	closed    atomic.Bool
	spoke     atomic.Bool // it has sent a byte

	readBy  time.Time // deadlines in force, so that they are not set again for a small difference
	writeBy int64
}

// SetReadDeadline leaves out changes of less than an eighth of the time left: fasthttp sets a deadline of seconds for
// every request and again between requests, and each costs a change of a system timer.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && !c.readBy.IsZero() {
		if later := t.Sub(c.readBy); later >= 0 && int64(later) < (t.UnixNano()-c.w.clock.Load())/8 {
			return nil
		}
	}
	c.readBy = t
	return c.Conn.SetReadDeadline(t)
}

// Read notes that the client has begun to speak.
func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.spoke.Load() {
		c.spoke.Store(true)
	}
	return n, err
}

// Write bounds how long a client that reads nothing can hold an answer. The deadline is moved at most every few
// seconds and starts over with each write, so it never runs over a whole stream.
func (c *clientConn) Write(p []byte) (int, error) {
	if limit := int64(c.w.writeTimeout); limit > 0 {
		if now := c.w.clock.Load(); c.writeBy-now < limit-limit/8 {
			c.writeBy = now + limit
			if err := c.SetWriteDeadline(time.Unix(0, c.writeBy)); err != nil {
				return 0, err
			}
		}
	}
	return c.Conn.Write(p)
}

// Close forgets the connection.
func (c *clientConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.w.mu.Lock()
		delete(c.w.conns, c)
		c.w.mu.Unlock()
	}
	return c.Conn.Close()
}
