package openai

import "bytes"

const (
	// maxEvent is the longest event that is held back until it is whole. A picture in base64 is one event of a megabyte
	// or two. What is longer passes unread and uncut, so that memory stays bounded whatever an upstream sends.
	maxEvent = 4 << 20

	// keepBuffer is the largest buffer that a Stream takes along to its next use.
	keepBuffer = 64 << 10
)

// A Stream relays server-sent events: the upstream's bytes in, whole events out, byte for byte but for the usage that
// the client did not ask for. Lines may end in LF, CR or CRLF, mixed; the zero value is ready for Init.
//
// A CR that ends a piece ends its line at once, because the upstream may send nothing more for minutes. When an LF
// follows in the next piece it belongs to that CR, and shares its fate: passed on with it or dropped with it.
//
// Comment lines and empty lines outside an event are passed on at once, each for itself.
type Stream struct {
	rd   *Reading
	kind Kind
	hide bool

	buf  []byte // the beginning of an event that is not whole yet, after what was sent
	sent int    // bytes of buf that the last call returned
	out  []byte // what a call returns when it cut something out of the middle
	join []byte // the lines of an event that has several

	// Offsets into buf, or into the piece that is being fed.
	from int // where the event in progress starts
	line int // where its last line starts; below zero in a raw event
	pos  int // where the search for the end of that line goes on
	run  int // where the bytes start that have not been returned

	event event

	started    bool // a line has been read, so no byte order mark can come
	afterCR    bool // the last byte fed was a CR that ended a line
	dropped    bool // the last event was dropped whole
	raw        bool // the event in progress is longer than maxEvent and passes as it comes
	rawComment bool // what passes is a comment, which ends with its line
	composed   bool // this call's result stands in out
}

// event is what is known of the event in progress.
type event struct {
	fields           bool // it has a line
	data             int  // data lines
	dataFrom, dataTo int  // the payload of the first
	failed           bool // event: error
}

// Init makes s ready for a new stream of answers of kind k, which rd shall learn of. hide says that the client did not
// ask for usage: of chats and completions it then gets no usage, as if the upstream had not been asked either. An event
// that was sent for its usage alone is dropped, from any other the member is cut out.
func (s *Stream) Init(k Kind, hide bool, rd *Reading) {
	*s = Stream{
		rd: rd, kind: k, hide: hide && (k == Chat || k == Completions),
		buf: reuse(s.buf), out: reuse(s.out), join: reuse(s.join),
	}
}

func reuse(b []byte) []byte {
	if cap(b) > keepBuffer {
		return nil
	}
	return b[:0]
}

// Feed takes the next bytes of the upstream and returns those that may go to the client now. The result is valid until
// the next call, and as long as p is; it is p itself, or a part of it, wherever possible.
func (s *Stream) Feed(p []byte) (out []byte) {
	s.release()
	if len(p) == 0 {
		return nil
	}
	b := p
	if len(s.buf) > 0 {
		s.buf = append(s.buf, p...)
		b = s.buf
	}
	s.scan(b)
	if len(b)-s.from > maxEvent && !s.raw {
		s.raw = true
		s.rawComment = !s.event.fields && s.trimBOM(b[s.line:])[0] == ':'
	}
	if s.raw {
		s.from = len(b)
	}
	out = s.result(b)
	if len(s.buf) > 0 {
		s.sent = s.from
	} else if s.from < len(p) {
		s.buf = append(s.buf, p[s.from:]...)
	}
	s.rebase()
	return out
}

// release lets go of what the last call returned.
func (s *Stream) release() {
	if s.sent > 0 {
		s.buf = s.buf[:copy(s.buf, s.buf[s.sent:])]
		s.sent = 0
	}
	s.out, s.composed = s.out[:0], false
}

// result is what stands before the event in progress and was not cut out.
func (s *Stream) result(b []byte) []byte {
	if !s.composed {
		return b[s.run:s.from]
	}
	s.out = append(s.out, b[s.run:s.from]...)
	return s.out
}

// rebase makes the offsets relative to the event in progress.
func (s *Stream) rebase() {
	s.line -= s.from
	s.pos -= s.from
	s.event.dataFrom -= s.from
	s.event.dataTo -= s.from
	s.from, s.run = 0, 0
}

// scan reads the lines that b completes.
func (s *Stream) scan(b []byte) {
	if s.afterCR && b[s.pos] == '\n' {
		s.pos++
		s.line = s.pos
		if !s.event.fields && !s.raw {
			s.from = s.pos
			if s.dropped {
				s.run = s.pos
			}
		}
	}
	s.afterCR = false
	lf, cr := -1, -1
	for {
		if lf < s.pos {
			lf = indexFrom(b, s.pos, '\n')
		}
		if cr < s.pos {
			cr = indexFrom(b, s.pos, '\r')
		}
		end := min(lf, cr)
		if end == len(b) {
			s.pos = end
			return
		}
		next := end + 1
		if end == cr {
			if lf == next && lf < len(b) {
				next++
			} else {
				s.afterCR = next == len(b)
			}
		}
		s.endLine(b, end, next)
		s.line, s.pos = next, next
		if next == len(b) {
			return
		}
	}
}

func indexFrom(b []byte, i int, c byte) int {
	if n := bytes.IndexByte(b[i:], c); n >= 0 {
		return i + n
	}
	return len(b)
}

// endLine takes note of the line that ends at end, the next of which starts at next.
func (s *Stream) endLine(b []byte, end, next int) {
	if s.raw {
		if s.rawComment || s.line == end {
			s.raw, s.rawComment, s.event = false, false, event{}
			s.from = next
			s.dropped = false
		}
		return
	}
	line := s.trimBOM(b[s.line:end])
	switch {
	case len(line) == 0:
		s.endEvent(b, end, next)
	case line[0] == ':':
		if !s.event.fields {
			s.from, s.dropped = next, false
		}
	default:
		s.event.fields = true
		s.field(line, end)
	}
}

// trimBOM takes the byte order mark off the first line of the stream.
func (s *Stream) trimBOM(line []byte) []byte {
	if s.started {
		return line
	}
	s.started = true
	return bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
}

// field takes note of a field's line, which ends at end.
func (s *Stream) field(line []byte, end int) {
	switch {
	case isField(line, "data"):
		if s.event.data++; s.event.data == 1 {
			s.event.dataFrom, s.event.dataTo = end-len(value(line)), end
		}
	case isField(line, "event"):
		s.event.failed = string(value(line)) == "error"
	}
}

func isField(line []byte, name string) bool {
	return len(line) >= len(name) && string(line[:len(name)]) == name && (len(line) == len(name) || line[len(name)] == ':')
}

// value is what stands behind the colon and at most one space.
func value(line []byte) []byte {
	i := bytes.IndexByte(line, ':')
	if i < 0 {
		return nil
	}
	if i++; i < len(line) && line[i] == ' ' {
		i++
	}
	return line[i:]
}

// endEvent reads the event that the empty line at end completes, and cuts out what the client shall not see.
func (s *Stream) endEvent(b []byte, end, next int) {
	ev := s.event
	start := s.from
	s.event, s.from, s.dropped = event{}, next, false
	if end-start > maxEvent || ev.data == 0 {
		return
	}
	data := b[ev.dataFrom:ev.dataTo]
	if ev.data > 1 {
		data = s.joined(b, ev, end)
	}
	s.rd.ReadEvent(s.kind, data)
	if ev.failed {
		s.rd.Failed, s.rd.Complete = true, false
	}
	sh := &s.rd.shape
	switch {
	case !s.hide || sh.cutTo <= 0:
	case !sh.choices && sh.usage && !sh.more:
		s.cut(b, start, next)
		s.dropped = true
	case ev.data == 1:
		s.cut(b, ev.dataFrom+sh.cutFrom, ev.dataFrom+sh.cutTo)
	default:
		s.cutJoined(b, ev, end)
	}
}

// cut takes b[from:to] out of what is returned.
func (s *Stream) cut(b []byte, from, to int) {
	if s.run < from {
		s.out = append(s.out, b[s.run:from]...)
		s.composed = true
	}
	s.run = to
}

// joined is the payload of an event with several data lines: their values with LFs between.
func (s *Stream) joined(b []byte, ev event, end int) []byte {
	s.join = s.join[:0]
	eachData(b, ev, end, func(from, to int) {
		if from > ev.dataFrom {
			s.join = append(s.join, '\n')
		}
		s.join = append(s.join, b[from:to]...)
	})
	return s.join
}

// cutJoined cuts the usage out of an event with several data lines: of each line the part that belongs to it. A line
// may end up empty, which is white space to JSON.
func (s *Stream) cutJoined(b []byte, ev event, end int) {
	sh := s.rd.shape
	at := 0
	eachData(b, ev, end, func(from, to int) {
		cutFrom, cutTo := max(sh.cutFrom-at, 0), min(sh.cutTo-at, to-from)
		if cutFrom < cutTo {
			s.cut(b, from+cutFrom, from+cutTo)
		}
		at += to - from + 1
	})
}

// eachData calls f with the bounds of the value of each data line of the event ev, which ends at end.
func eachData(b []byte, ev event, end int, f func(from, to int)) {
	f(ev.dataFrom, ev.dataTo)
	for at := ev.dataTo + 1; at < end; {
		to := end
		if n := bytes.IndexAny(b[at:end], "\r\n"); n >= 0 {
			to = at + n
		}
		if line := b[at:to]; isField(line, "data") {
			f(to-len(value(line)), to)
		}
		at = to + 1
	}
}

// End says that the upstream has sent all it will. When its framing said that the body is complete, the result is the
// rest: an event that lacks its empty line is read and passed on all the same. Otherwise that rest is dropped, so that
// an error frame can follow on the boundary of an event; where a part of it is gone already, because it was longer than
// maxEvent, the result is the empty line that ends it.
func (s *Stream) End(complete bool) (out []byte) {
	s.release()
	switch {
	case s.raw && !complete:
		return []byte("\n\n")
	case s.raw || !complete || len(s.buf) == 0:
		return nil
	}
	b := s.buf
	if s.line < len(b) {
		s.endLine(b, len(b), len(b))
		s.line = len(b)
	}
	if s.event.fields {
		s.endEvent(b, len(b), len(b))
	}
	s.from = len(b)
	out = s.result(b)
	s.sent = len(b)
	s.rebase()
	return out
}
