package simulator

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// reply sends a whole JSON answer that took u to make.
func (c *call) reply(body object, u usage) {
	b := encode(body)
	if c.route == openai {
		// The real one sends its plain answers indented, which a reader of usage must bear.
		var pretty bytes.Buffer
		_ = json.Indent(&pretty, b, "", "  ")
		b = append(pretty.Bytes(), '\n')
	}
	c.replyBytes(c.contentType(false), b, u)
}

// replyBytes sends a whole answer of any kind. It takes as long as its tokens would have taken streamed.
func (c *call) replyBytes(contentType string, b []byte, u usage) {
	if !c.think(u) {
		c.left()
	}
	c.made = u
	c.headers()
	h := c.w.Header()
	h["Content-Type"] = []string{contentType}
	if c.traits.has("no-content-type") {
		h["Content-Type"] = nil
	}
	if c.traits.has("gzip") {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, _ = z.Write(b)
		_ = z.Close()
		b = packed.Bytes()
		h.Set("Content-Encoding", "gzip")
	}
	if c.traits.has("close") {
		h.Set("Transfer-Encoding", "identity")
	} else {
		h.Set("Content-Length", strconv.Itoa(len(b)))
	}
	if c.traits.has("cut-body") {
		c.toldAny = false
		_, _ = c.w.Write(b[:len(b)/2])
		c.breakOff(nil, false)
		return
	}
	c.settle(completed)
	if !c.writeOut(b) {
		c.toldAny = false
		c.left()
	}
}

// think waits as long as an answer of u takes; what was made until the client left is in the tally.
func (c *call) think(u usage) bool {
	if c.model == "" {
		// Lists and stored answers are not generated.
		return c.wait(0)
	}
	c.made = u
	c.made.output = 0
	each := c.perToken()
	if n, ok := c.traits["pause"]; ok && !c.wait(time.Duration(n)*time.Millisecond) {
		return false
	}
	begun := time.Now()
	if c.wait(c.firstDelay() + each*time.Duration(max(0, u.output-1))) {
		return true
	}
	if spent := time.Since(begun) - c.firstDelay(); each > 0 && spent > 0 {
		c.made.output = min(u.output, 1+int64(spent/each))
	}
	c.made.reasoning = min(u.reasoning, c.made.output)
	c.toldAny = false
	return false
}

// writeOut writes and flushes, byte by byte where asked; it is false when the client is no longer there.
func (c *call) writeOut(b []byte) bool {
	rc := http.NewResponseController(c.w)
	step := len(b)
	if c.traits.has("bytes") {
		step = 1
	}
	for len(b) > 0 {
		n := min(step, len(b))
		if _, err := c.w.Write(b[:n]); err != nil || rc.Flush() != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

// breakOff closes the connection in the middle of the answer: after partial, which the HTTP framing announces as
// longer than it is, and with a reset where asked.
func (c *call) breakOff(partial []byte, reset bool) {
	rc := http.NewResponseController(c.w)
	_ = rc.Flush()
	c.settle(cut)
	conn, _, err := rc.Hijack()
	if err != nil {
		// Not HTTP/1.1: closing the stream is all that can be done.
		panic(http.ErrAbortHandler)
	}
	if len(partial) > 0 {
		if !c.traits.has("close") {
			_, _ = fmt.Fprintf(conn, "%x\r\n", len(partial)+64)
		}
		_, _ = conn.Write(partial)
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
