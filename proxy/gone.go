package proxy

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
)

// ReadOn bounds what is spent on the answers of clients that have gone, for the tenants that have them read on to the
// exact bill. Beyond a bound the call ends as every other does whose client has gone: the upstream's work is ended and
// what was used is estimated. Zero fields stand for the defaults.
type ReadOn struct {
	// Time from when the client was found to have gone. Default 60 s: an answer of 4000 tokens at 70 a second.
	Time time.Duration
	// Bytes of an answer from then on. Default 16 MiB; an answer of text in events is about 1 MiB for 4000 tokens.
	Bytes int64
	// Calls at once, in this process. Default 256: each holds an upstream connection and a goroutine, and the money that
	// its answer costs, for nobody.
	Calls int
}

func (r ReadOn) withDefaults() ReadOn {
	if r.Time <= 0 {
		r.Time = time.Minute
	}
	if r.Bytes <= 0 {
		r.Bytes = 16 << 20
	}
	if r.Calls <= 0 {
		r.Calls = 256
	}
	return r
}

// What becomes of the call on a connection when the client has gone. The sweep and the call itself may find that out at
// the same moment, and a call may end while the sweep looks at it, so each step is one exchange of the state.
const (
	cancelsAtOnce int32 = iota // no call, or one whose upstream is cancelled
	mayReadOn                  // the client is there, and the tenant wants the exact bill
	readsOn                    // the client has gone and a place among those that are read on is taken
)

// How reading on ended. Those from cutByTime on are bounds.
const (
	readWhole int32 = iota
	readBroken
	cutByTime
	cutByBytes
	cutByStop
	readResults
)

var readResultNames = [readResults]string{"whole", "broken", "time", "bytes", "stop"}

// departure is a connection's share in reading on.
type departure struct {
	state atomic.Int32
	at    atomic.Int64 // when the client was found to have gone
	cut   atomic.Int32 // the bound that was met; 0: none
}

// leave is called when the client is known to have gone: by every sweep, and by the call when a write fails. on says
// that the answer is read on; otherwise the upstream's work has been ended.
func (c *clientConn) leave(now int64) (on bool) {
	d := &c.departure
	switch d.state.Load() {
	case readsOn:
		if now-d.at.Load() < int64(c.w.limits.Time) {
			return true
		}
		c.cutOff(cutByTime)
		return false
	case mayReadOn:
		if c.w.reading.Add(1) <= int64(c.w.limits.Calls) {
			d.at.Store(now)
			if d.state.CompareAndSwap(mayReadOn, readsOn) {
				return true
			}
			c.w.reading.Add(-1) // the other one who found out was first, or the call has ended
			return d.state.Load() == readsOn
		}
		c.w.reading.Add(-1)
		if d.state.CompareAndSwap(mayReadOn, cancelsAtOnce) {
			c.w.crowded.Add(1)
		}
	}
	c.cancel.Cancel()
	return false
}

// cutOff ends the upstream's work at a bound.
func (c *clientConn) cutOff(bound int32) {
	c.departure.cut.CompareAndSwap(0, bound)
	c.cancel.Cancel()
}

// allowReadOn is called when the request is about to leave. What has no usage in its answer is cancelled at once: there
// is nothing to be learnt from reading on.
func (c *call) allowReadOn() {
	if c.who.ReadOn && c.ep.kind != openai.Opaque {
		c.conn.departure.cut.Store(0)
		c.conn.departure.state.Store(mayReadOn)
	}
}

// readingOn says that the client has gone and its answer is read on for the bill alone: nothing is written any more.
func (c *call) readingOn() bool {
	return c.conn != nil && c.conn.departure.state.Load() == readsOn
}

// left is called when a write has failed: should the answer be read on? Not when all that matters has been counted.
func (c *call) left() bool {
	return !c.settled && c.conn != nil && c.conn.departure.state.Load() != cancelsAtOnce && c.conn.leave(c.p.watch.clock.Load())
}

// readMore counts what was read for nobody.
func (c *call) readMore(n int) {
	if c.extra += int64(n); c.extra > c.p.watch.limits.Bytes {
		c.conn.cutOff(cutByBytes)
	}
}

// endReadOn gives the place back.
func (c *call) endReadOn() {
	d := &c.conn.departure
	if d.state.Load() == cancelsAtOnce || d.state.Swap(cancelsAtOnce) != readsOn {
		return
	}
	c.p.watch.reading.Add(-1)
	result := readBroken
	switch {
	case c.exact || c.event.Outcome == metering.OK || c.event.Outcome == metering.Refused:
		result = readWhole
	case d.cut.Load() != 0:
		result = d.cut.Load()
	}
	c.p.metrics.readOn[result].Inc()
}

// say writes to the client as long as it is there. A nil error means that the call goes on, be it for the bill alone.
func (c *call) say(w io.Writer, out []byte) error {
	if c.readingOn() {
		return nil
	}
	if _, err := w.Write(out); err != nil && !c.left() {
		return err
	}
	return nil
}
