package simulator

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// stream writes an answer event by event.
type stream struct {
	c       *call
	zip     *gzip.Writer
	buf     []byte
	eol     string
	colon   string
	timer   *time.Timer
	each    time.Duration
	tokens  int64 // sent so far
	middle  int64 // the token half-way
	struck  bool  // what the traits want half-way has been done
	fat     bool  // the long line has been sent
	over    bool  // nothing more goes out
	cutAt   int   // events until the cut; -1: none
	cutMid  int
	cutRune bool
	resetAt int
}

// open sends the headers of a stream that will have u.output tokens, once the first one is ready.
func (c *call) open(u usage) *stream {
	s := &stream{c: c, eol: "\n", colon: ": ", each: c.perToken(), middle: max(1, (u.output-u.reasoning)/2)}
	s.cutRune = c.traits.has("cut-utf8")
	s.cutAt, s.cutMid, s.resetAt = c.at("cut-after"), c.at("cut-mid"), c.at("reset-after")
	switch {
	case c.traits.has("crlf"):
		s.eol = "\r\n"
	case c.traits.has("cr"):
		s.eol = "\r"
	}
	if c.traits.has("nospace") {
		s.colon = ":"
	}
	c.made = u
	c.made.output = 0
	c.made.reasoning = 0
	if !c.wait(c.firstDelay()) {
		c.left()
	}
	// What was thought before the first token has been made by now.
	c.made.output, c.made.reasoning = u.reasoning, u.reasoning
	c.headers()
	h := c.w.Header()
	h["Content-Type"] = []string{c.contentType(true)}
	if c.traits.has("no-content-type") {
		h["Content-Type"] = nil
	}
	if c.route != gateway {
		h.Set("Cache-Control", "no-cache")
	}
	if c.traits.has("close") {
		h.Set("Transfer-Encoding", "identity")
	}
	if c.traits.has("gzip") {
		h.Set("Content-Encoding", "gzip")
		s.zip = gzip.NewWriter(c.w)
	}
	c.w.WriteHeader(http.StatusOK)
	if c.traits.has("bom") {
		s.put([]byte("\ufeff"))
	}
	return s
}

// at is the N of a trait, -1 without it.
func (c *call) at(name string) int {
	if n, ok := c.traits[name]; ok {
		return n
	}
	return -1
}

// send writes one event that carries tokens (0 for the others) and waits for their turn first. It is false once the
// stream is over, whoever ended it.
func (s *stream) send(name string, data []byte, tokens int64) bool {
	if s.over || !s.ready(tokens) {
		return false
	}
	c := s.c
	if c.events == s.cutAt || c.events == s.resetAt {
		s.cut(nil, c.events == s.resetAt)
		return false
	}
	s.frame(name, s.padded(data))
	if c.events == s.cutMid {
		s.cut(s.buf[:len(s.buf)/2], false)
		return false
	}
	if s.cutRune && tokens > 0 {
		if at := splitRune(s.buf); at > 0 {
			s.cut(s.buf[:at], false)
			return false
		}
	}
	c.made.output += tokens
	s.tokens += tokens
	if !s.put(s.buf) {
		c.made.output -= tokens
		s.over = true
		c.left()
	}
	c.events++
	c.wrote = time.Now()
	return true
}

// ready waits between tokens, and does what the traits want half-way.
func (s *stream) ready(tokens int64) bool {
	c := s.c
	if tokens == 0 {
		return true
	}
	if s.tokens > 0 && !s.pass(s.each) {
		return false
	}
	if s.tokens < s.middle || s.struck {
		return true
	}
	s.struck = true
	if n, ok := c.traits["pause"]; ok && !s.pass(time.Duration(n)*time.Millisecond) {
		return false
	}
	if !c.traits.has("mid-error") && !c.traits.has("data-error") {
		return true
	}
	p := problem{status: http.StatusInternalServerError, kind: "server_error", message: "The server had an error while processing your request."}
	e := c.errorObject(p)
	name := ""
	if c.traits.has("mid-error") {
		name = "error"
		e = object{
			"message", "Failed to call a function. See 'failed_generation' for more details.", "type", "invalid_request_error",
			"code", "tool_use_failed", "failed_generation", "", "status_code", 400,
		}
	}
	// The tally comes first: after this event there is nothing a client would wait for.
	c.settle(cut)
	s.frame(name, encode(object{"error", e}))
	s.put(s.buf)
	s.finish()
	return false
}

// pass waits on one timer for the whole stream, so that thousands of slow streams cost a timer each and no goroutine.
func (s *stream) pass(d time.Duration) bool {
	c := s.c
	if d <= 0 {
		if c.r.Context().Err() == nil {
			return true
		}
	} else {
		if s.timer == nil {
			s.timer = time.NewTimer(d)
		} else {
			s.timer.Reset(d)
		}
		select {
		case <-s.timer.C:
			return true
		case <-c.r.Context().Done():
		case <-c.sim.closing:
		}
		s.timer.Stop()
	}
	s.over = true
	c.left()
	return false
}

// padded makes the event half-way a line of a megabyte with a member no client knows, where the traits ask for it.
func (s *stream) padded(data []byte) []byte {
	if s.fat || s.tokens+1 < s.middle || !s.c.traits.has("big-line") || !bytes.HasSuffix(data, []byte("}")) {
		return data
	}
	s.fat = true
	b := append(bytes.Clone(data[:len(data)-1]), `,"padding":"`...)
	b = append(b, bytes.Repeat([]byte("megabyte"), 1<<17)...)
	return append(b, `"}`...)
}

// frame puts one event into s.buf as the traits spell it.
func (s *stream) frame(name string, data []byte) {
	b := s.buf[:0]
	if s.c.traits.has("comments") {
		b = append(append(append(b, ": keep-alive"...), s.eol...), s.eol...)
	}
	if name != "" {
		b = append(append(append(append(b, "event"...), s.colon...), name...), s.eol...)
	}
	lines := [][]byte{data}
	if s.c.traits.has("multiline") {
		lines = breakJSON(data)
	}
	for _, line := range lines {
		b = append(append(append(append(b, "data"...), s.colon...), line...), s.eol...)
	}
	s.buf = append(b, s.eol...)
}

// put writes and flushes b.
func (s *stream) put(b []byte) bool {
	if s.zip == nil {
		return s.c.writeOut(b)
	}
	if _, err := s.zip.Write(b); err != nil || s.zip.Flush() != nil {
		return false
	}
	return http.NewResponseController(s.c.w).Flush() == nil
}

func (s *stream) cut(partial []byte, reset bool) {
	s.over = true
	if s.zip != nil {
		partial = nil
	}
	s.c.breakOff(partial, reset)
}

// done ends a stream that is whole: with [DONE] where the endpoint has one.
func (s *stream) done(mark bool) {
	if s.over {
		return
	}
	c := s.c
	if c.at("cut-after") >= 0 || c.at("cut-mid") >= 0 || c.at("reset-after") >= 0 || c.traits.has("cut-utf8") {
		// The answer was shorter than the place to cut it: a stream asked to break never looks whole.
		s.cut(nil, c.traits.has("reset-after"))
		return
	}
	c.settle(completed)
	if mark && !c.traits.has("no-done") {
		s.frame("", []byte("[DONE]"))
		if !s.put(s.buf) {
			s.over = true
			c.left()
		}
	}
	s.finish()
}

// finish closes what wraps the body; net/http ends the body itself.
func (s *stream) finish() {
	s.over = true
	if s.zip != nil {
		_ = s.zip.Close()
	}
}

// breakJSON cuts a JSON text into up to four lines at places where a line break means nothing.
func breakJSON(data []byte) [][]byte {
	var lines [][]byte
	inString, start := false, 0
	for i := 0; i < len(data) && len(lines) < 3; i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			inString = !inString
		case ',':
			if !inString {
				lines, start = append(lines, data[start:i+1]), i+1
			}
		}
	}
	return append(lines, data[start:])
}

// splitRune is a place between two bytes of one character, 0 if b has only ASCII.
func splitRune(b []byte) int {
	i := strings.IndexFunc(string(b), func(r rune) bool { return r >= utf8.RuneSelf })
	return i + 1
}
