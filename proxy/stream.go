package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
	"github.com/catraca/catraca/proxy/upstream"
)

// eventBody is the answer's body as a stream of events. fasthttp hands WriteTo a writer that makes each write one
// chunk and flushes it, so an event leaves as soon as it is whole.
type eventBody struct{ c *call }

// SupportsBodyWriteTo tells fasthttp to use WriteTo.
func (b *eventBody) SupportsBodyWriteTo() bool { return true }

// Read is never used: the body has no length.
func (b *eventBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Close ends the call. fasthttp calls it exactly when it has done with the body, however it went.
func (b *eventBody) Close() error { return b.c.closeStream() }

// WriteTo runs the stream.
func (b *eventBody) WriteTo(w io.Writer) (n int64, err error) {
	defer b.c.recovered(&err)
	return 0, b.c.pump(w)
}

// recovered turns a panic into the failure of the one call that it happened in.
func (c *call) recovered(err *error) {
	if fault := recover(); fault != nil {
		c.p.Log.Error("panic in a stream", "request_id", c.requestID(), "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
		c.p.metrics.panics.Inc()
		c.settle(metering.InternalError)
		*err = errPanic
	}
}

// closeStream gives everything back. The call must not be touched afterwards.
func (c *call) closeStream() error {
	if !c.settled { // the writer gave up before the pump had begun
		c.closeUnread()
	}
	c.end()
	c.p.release(c)
	return nil
}

// closeUnread ends a stream whose head could not be written.
func (c *call) closeUnread() {
	var err error
	defer c.recovered(&err)
	if c.left() {
		_ = c.pump(io.Discard)
	}
	c.settle(metering.ClientGone)
}

// joinUpTo bounds how much is collected into one write while more is already there.
const joinUpTo = 16 << 10

// pump moves events from the upstream to the client until either ends.
func (c *call) pump(w io.Writer) error {
	err := c.moveEvents(w)
	if err == nil && c.readingOn() {
		err = upstream.ErrCancelled // makes fasthttp close the connection without the chunk that would mean a clean end
	}
	return err
}

func (c *call) moveEvents(w io.Writer) error {
	c.beat = c.start
	for {
		p, err := c.x.Body.Next()
		if err != nil {
			return c.endStream(w, err)
		}
		if c.readingOn() {
			c.readMore(len(p))
		}
		out := c.stream.Feed(p)
		if c.outran() {
			c.joined = append(c.joined, out...)
			return c.cutStream(w)
		}
		// What has arrived together leaves together: one system call for a burst instead of one for each event.
		if more := c.x.Body.Ready(); len(c.joined) > 0 || more {
			c.joined = append(c.joined, out...)
			if more && len(c.joined) < joinUpTo {
				continue
			}
			out, c.joined = c.joined, c.joined[:0]
		}
		if len(out) == 0 {
			continue
		}
		if err := c.emit(w, out); err != nil {
			return err
		}
	}
}

var doneEvent = []byte("data: [DONE]")

// emit writes events to the client. The ledger learns of the end before the client does: a call that looked finished
// to a client must never be found unfinished after a crash.
func (c *call) emit(w io.Writer, out []byte) error {
	rd := &c.reading
	switch {
	case rd.Complete && (c.ep.kind == openai.Responses || bytes.Contains(out[max(0, len(out)-64):], doneEvent)):
		c.settle(metering.OK)
	case c.settled:
	case rd.ID != "" && c.event.UpstreamID == "" && c.target.Route == "gateway":
		c.progress(c.p.watch.clock.Load())
	case rd.TextBytes > c.event.ResponseBytes:
		if now := c.p.watch.clock.Load(); now-c.beat.UnixNano() >= progressEvery {
			c.progress(now)
		}
	}
	if err := c.say(w, out); err != nil {
		c.settle(metering.ClientGone)
		return err
	}
	return nil
}

// progressEvery is how often a running stream tells the spool how far it is, so that a crash can be charged for what
// had passed. The gateway's streams do so with their first event too: with the id that is in it, what a crash leaves
// behind can be corrected later by what the gateway knows, and without it never.
const progressEvery = int64(time.Second)

func (c *call) progress(now int64) {
	c.beat = time.Unix(0, now)
	c.event.ResponseBytes = c.reading.TextBytes
	c.event.UpstreamID = c.reading.ID
	c.p.Meter.Progress(&c.event)
}

// endStream decides what the end of the upstream's body means. Only a body whose framing is complete and that said it
// was finished looks finished to the client.
func (c *call) endStream(w io.Writer, err error) error {
	complete := err == io.EOF && (c.x.Body.Framed || c.reading.Complete || c.reading.Failed)
	rest := c.stream.End(complete)
	if len(c.joined) > 0 {
		rest = append(c.joined, rest...)
		c.joined = c.joined[:0]
	}
	if err == io.EOF && !c.reading.Complete && !c.reading.Failed && mustFinish(c.ep.kind) {
		complete = false
	}
	if complete {
		outcome := metering.OK
		if c.reading.Failed {
			outcome = metering.Truncated // by an error that the upstream told, and the client has it
		}
		c.settle(outcome)
		if len(rest) > 0 {
			return c.say(w, rest)
		}
		return nil
	}
	if c.cancelled() {
		c.settle(metering.ClientGone)
		return upstream.ErrCancelled
	}
	if err == io.EOF {
		err = upstream.ErrTruncated
	}
	if c.settled {
		// All had been said: the upstream only failed to close the framing.
		if len(rest) > 0 {
			return c.say(w, rest)
		}
		return nil
	}
	c.event.ErrorCode = "upstream_truncated"
	c.settle(metering.Truncated)
	if len(rest) > 0 && !endsEvent(rest) {
		rest = append(rest, '\n', '\n')
	}
	frame := toOpenAI(&attemptError{c.target.Route, c.target.Provider, err}, c.requestID()).body
	if werr := c.say(w, frame.AppendEvent(rest)); werr != nil {
		return werr
	}
	return err // makes fasthttp close the connection without the chunk that would mean a clean end
}

// mustFinish names the streams that say themselves when they are finished.
func mustFinish(k openai.Kind) bool {
	return k == openai.Chat || k == openai.Completions || k == openai.Responses
}

func endsEvent(b []byte) bool {
	return bytes.HasSuffix(b, []byte("\n\n")) || bytes.HasSuffix(b, []byte("\r\n\r\n")) || bytes.HasSuffix(b, []byte("\r\r"))
}

// fileBody is the answer's body as it came: audio.
type fileBody struct{ c *call }

// Read hands out the body for a known length.
func (b *fileBody) Read(p []byte) (n int, err error) {
	c := b.c
	defer c.recovered(&err)
	if len(c.piece) == 0 {
		if c.piece, err = c.x.Body.Next(); err != nil {
			return 0, c.endFile(err)
		}
	}
	n = copy(p, c.piece)
	c.piece = c.piece[n:]
	if len(c.piece) == 0 && c.x.Body.Done() {
		c.settle(metering.OK) // before the last byte leaves
	}
	return n, nil
}

// SupportsBodyWriteTo tells fasthttp to use WriteTo where the length is not known.
func (b *fileBody) SupportsBodyWriteTo() bool { return b.c.x.Body.Sized < 0 }

// WriteTo hands out the body piece by piece.
func (b *fileBody) WriteTo(w io.Writer) (n int64, err error) {
	c := b.c
	defer c.recovered(&err)
	for {
		p, err := c.x.Body.Next()
		if err != nil {
			if err = c.endFile(err); err == io.EOF {
				err = nil
			}
			return n, err
		}
		m, err := w.Write(p)
		n += int64(m)
		if err != nil {
			c.settle(metering.ClientGone)
			return n, err
		}
	}
}

// Close ends the call.
func (b *fileBody) Close() error { return b.c.closeStream() }

func (c *call) endFile(err error) error {
	switch {
	case err == io.EOF && c.x.Body.Framed:
		c.settle(metering.OK)
		return io.EOF
	case c.cancelled():
		c.settle(metering.ClientGone)
		return upstream.ErrCancelled
	}
	c.event.ErrorCode = "upstream_truncated"
	c.settle(metering.Truncated)
	if err == io.EOF {
		return upstream.ErrTruncated
	}
	return err
}

// relayToHTTP10 streams to a client that knows no chunks (nginx speaks HTTP/1.0 upstream unless told otherwise): the
// end of the connection ends the body. fasthttp would send chunks all the same, so the connection is taken over.
func (c *call) relayToHTTP10(events bool) {
	h := &c.ctx.Response.Header
	h.SetContentLength(-2)
	h.SetConnectionClose()
	head := append([]byte(nil), h.Header()...)
	c.ctx.HijackSetNoResponse(true)
	c.ctx.Hijack(func(conn net.Conn) {
		defer func() { _ = c.closeStream() }()
		if _, err := conn.Write(head); err != nil {
			return
		}
		body := io.WriterTo(&fileBody{c})
		if events {
			body = &eventBody{c}
		}
		_, _ = body.WriteTo(conn)
	})
}
