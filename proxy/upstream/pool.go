package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// readBuffer holds an answer's whole head and is what a held stream costs on this side. The largest heads seen from
// providers, with their rate-limit and cookie lines, are about 2 KiB; a larger one gets a buffer of largeHead.
const (
	readBuffer = 4 << 10
	largeHead  = 64 << 10
)

// KeepIdle is how long an unused connection is kept. It stays under the shortest keep-alive seen upstream (60 s at
// common load balancers), so that we are the one who closes.
const KeepIdle = 45 * time.Second

// conn is one connection with its reader, which stays with it: answers are small and streams long, so there is
// nothing to win by sharing readers.
type conn struct {
	net.Conn
	br       *bufio.Reader
	lastUsed time.Time
	deadline time.Time // read deadline now armed, so that it is not armed again for a few seconds' difference
	vec      net.Buffers
}

// widen gives the connection a larger buffer, with what the present one holds.
func (c *conn) widen() {
	held, _ := c.br.Peek(c.br.Buffered())
	c.br = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(held)), c.Conn), largeHead)
}

// arm makes reads fail after d of silence. Deadlines are re-armed only when the one in force is more than an eighth
// of d off, because each costs a system-timer change and d is minutes.
func (c *conn) arm(now time.Time, d time.Duration) error {
	want := now.Add(d)
	if off := want.Sub(c.deadline); off >= 0 && off < d/8 {
		return nil
	}
	c.deadline = want
	return c.SetDeadline(want)
}

// pool keeps connections to one address, the last used first.
type pool struct {
	addr    string
	tls     *tls.Config
	connect time.Duration

	mu   sync.Mutex
	idle []*conn
}

// get takes a kept connection, or dials where there is none or fresh is asked for. kept tells which.
func (p *pool) get(now time.Time, fresh bool) (c *conn, kept bool, err error) {
	p.mu.Lock()
	for n := len(p.idle); n > 0 && !fresh; n = len(p.idle) {
		c = p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		if now.Sub(c.lastUsed) < KeepIdle {
			p.mu.Unlock()
			return c, true, nil
		}
		_ = c.Close()
	}
	p.mu.Unlock()
	c, err = p.dial()
	return c, false, err
}

func (p *pool) dial() (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.connect)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", p.addr)
	if err == nil && p.tls != nil {
		tc := tls.Client(nc, p.tls)
		if err = tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
		}
		nc = tc
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	return &conn{Conn: nc, br: bufio.NewReaderSize(nc, readBuffer)}, nil
}

// put keeps a connection whose last answer was read to its end.
func (p *pool) put(c *conn, now time.Time) {
	c.lastUsed = now
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
}

// closeIdle is called now and then: connections beyond their time would otherwise stay open while others are reused.
func (p *pool) closeIdle(keep time.Duration) {
	cut := time.Now().Add(-keep)
	p.mu.Lock()
	var old []*conn
	for len(p.idle) > 0 && !p.idle[0].lastUsed.After(cut) { // the least recently used stands first
		old = append(old, p.idle[0])
		p.idle = append(p.idle[:0], p.idle[1:]...)
	}
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
}
