package upstream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"time"

	"github.com/valyala/fasthttp"
)

// Body reads an answer's body piece by piece as it arrives, with its framing taken off.
type Body struct {
	// Sized is the length when the framing told it and the body is passed on as it came; -1 otherwise.
	Sized int64
	// Framed is false when only the end of the connection ends the body: then a cut looks like an end, and whoever
	// reads must judge by what was said.
	Framed bool

	conn  *conn
	idle  time.Duration
	left  int64 // bytes left of the body or of the present chunk
	state frame
	taken int // bytes of the reader's buffer that the last piece lies in
	done  bool
	armed time.Time

	unzip   io.Reader // set when the upstream compressed without being asked
	unzipOf io.Closer
	plain   []byte // what unzip fills
}

type frame uint8

const (
	fixed       frame = iota
	chunkHead         // a chunk's size line comes next
	chunkBody         // left bytes of a chunk come next
	chunkEnd          // the line end behind a chunk comes next
	trailer           // lines behind the last chunk come next
	untilClosed       // everything until the connection ends
	none
)

// begin reads the framing from the answer's head.
func (b *Body) begin(cn *conn, h *fasthttp.ResponseHeader, headRequest bool, idle time.Duration, keep *bool) error {
	*b = Body{conn: cn, idle: idle, Sized: -1, Framed: true, plain: b.plain}
	*keep = !h.ConnectionClose()
	if err := b.readFraming(h, headRequest); err != nil {
		return err
	}
	if b.state == untilClosed {
		*keep = false
		b.Framed = false
	}
	if err := cn.arm(time.Now(), idle); err != nil {
		return ErrTruncated
	}
	enc := h.ContentEncoding()
	if len(enc) == 0 || lowerEqual(enc, "identity") || b.done {
		return nil
	}
	return b.startUnzip(enc)
}

func (b *Body) readFraming(h *fasthttp.ResponseHeader, headRequest bool) error {
	n := h.ContentLength()
	code := h.StatusCode()
	switch {
	case headRequest || code == fasthttp.StatusNoContent || code == fasthttp.StatusNotModified:
		b.state, b.done, b.Sized = none, true, 0
	case n >= 0:
		b.state, b.left, b.Sized = fixed, int64(n), int64(n)
		b.done = n == 0
	case n == -1:
		b.state = chunkHead
	default:
		b.state = untilClosed
	}
	return nil
}

// startUnzip decodes an answer that was compressed although identity was asked for: usage must be read, and the
// client may not be able to read what it did not ask for either.
func (b *Body) startUnzip(enc []byte) error {
	raw := &rawReader{b}
	var err error
	switch {
	case lowerEqual(enc, "gzip"), lowerEqual(enc, "x-gzip"):
		var z *gzip.Reader
		z, err = gzip.NewReader(raw)
		b.unzip, b.unzipOf = z, z
	case lowerEqual(enc, "deflate"):
		var z io.ReadCloser
		z, err = zlib.NewReader(raw)
		b.unzip, b.unzipOf = z, z
	default:
		return ErrEncoding
	}
	if err != nil {
		b.unzip = nil
		if isTimeout(err) {
			return ErrTimeout
		}
		return ErrTruncated
	}
	b.Sized = -1
	if b.plain == nil {
		b.plain = make([]byte, 4<<10)
	}
	return nil
}

// Decoded reports that the body is passed on decoded, so that the client must not be told of an encoding.
func (b *Body) Decoded() bool { return b.unzip != nil }

// Next waits for the next piece and returns it; it is valid until the next call. io.EOF means that the body is
// complete (or, when it is not Framed, that the connection ended).
func (b *Body) Next() ([]byte, error) {
	if b.unzip == nil {
		return b.nextRaw()
	}
	for {
		n, err := b.unzip.Read(b.plain)
		if n > 0 {
			return b.plain[:n], nil
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF:
			// What may follow the compressed data is the framing's own end.
			for !b.done {
				if _, err := b.nextRaw(); err != nil && err != io.EOF {
					return nil, err
				}
			}
			return nil, io.EOF
		case isTimeout(err):
			return nil, ErrTimeout
		default:
			return nil, ErrTruncated
		}
	}
}

// Ready reports whether Next would return at once, so that a caller can collect what has arrived and write it in one.
func (b *Body) Ready() bool {
	if b.unzip != nil || b.conn == nil || b.done {
		return false
	}
	// A byte or two may be the framing between chunks: waiting for the rest of it could hold back what is there.
	return b.conn.br.Buffered()-b.taken > 16
}

func (b *Body) nextRaw() ([]byte, error) {
	br := b.conn.br
	if b.taken > 0 {
		_, _ = br.Discard(b.taken)
		b.taken = 0
	}
	for !b.done {
		if b.state != fixed && b.state != untilClosed && b.state != chunkBody {
			if err := b.readChunkFraming(br); err != nil {
				return nil, err
			}
			continue
		}
		if br.Buffered() == 0 {
			if err := b.fill(br); err != nil {
				return nil, err
			}
			if b.done {
				break
			}
		}
		n := br.Buffered()
		if b.state != untilClosed && int64(n) > b.left {
			n = int(b.left)
		}
		piece, _ := br.Peek(n)
		b.taken = n
		b.advance(int64(n))
		return piece, nil
	}
	return nil, io.EOF
}

func (b *Body) advance(n int64) {
	if b.state == untilClosed {
		return
	}
	b.left -= n
	if b.left > 0 {
		return
	}
	if b.state == fixed {
		b.done = true
	} else {
		b.state = chunkEnd
	}
}

// fill waits for at least one byte.
func (b *Body) fill(br *bufio.Reader) error {
	if now := time.Now(); now.Sub(b.armed) > time.Second {
		b.armed = now
		if err := b.conn.arm(now, b.idle); err != nil {
			return ErrTruncated
		}
	}
	_, err := br.Peek(1)
	switch {
	case err == nil:
		return nil
	case isTimeout(err):
		return ErrTimeout
	case err == io.EOF && b.state == untilClosed:
		b.done = true
		return nil
	default:
		return ErrTruncated
	}
}

// maxChunkLine bounds a chunk's size line with its extensions, and a trailer line.
const maxChunkLine = 1 << 10

func (b *Body) readChunkFraming(br *bufio.Reader) error {
	if br.Buffered() == 0 {
		if err := b.fill(br); err != nil {
			return err
		}
	}
	line, err := br.ReadSlice('\n')
	if err != nil {
		if isTimeout(err) {
			return ErrTimeout
		}
		return ErrTruncated
	}
	if len(line) > maxChunkLine {
		return ErrTruncated
	}
	line = bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'})
	switch b.state {
	case chunkEnd:
		if len(line) != 0 {
			return ErrTruncated
		}
		b.state = chunkHead
	case chunkHead:
		n, ok := parseChunkSize(line)
		if !ok {
			return ErrTruncated
		}
		b.left, b.state = n, chunkBody
		if n == 0 {
			b.state = trailer
		}
	case trailer:
		b.done = len(line) == 0
	}
	return nil
}

// parseChunkSize reads the hexadecimal size in front of any extension. More than 15 digits would not fit.
func parseChunkSize(line []byte) (int64, bool) {
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		line = line[:i]
	}
	line = bytes.TrimRight(line, " \t")
	if len(line) == 0 || len(line) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range line {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | int64(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

func (b *Body) release() {
	if b.unzipOf != nil {
		_ = b.unzipOf.Close()
	}
	b.unzip, b.unzipOf = nil, nil
}

// rawReader shows the body below a decompressor. It implements io.ByteReader through nothing on purpose: flate then
// reads ahead only what has arrived.
type rawReader struct{ b *Body }

func (r *rawReader) Read(p []byte) (int, error) {
	piece, err := r.b.nextRaw()
	if err != nil {
		return 0, err
	}
	n := copy(p, piece)
	if n < len(piece) {
		// Give back what did not fit: the next call starts behind what was taken.
		r.b.giveBack(len(piece) - n)
	}
	return n, nil
}

func (b *Body) giveBack(n int) {
	b.taken -= n
	if b.state == untilClosed {
		return
	}
	if b.state == chunkEnd || (b.state == fixed && b.done) {
		b.done = false
		if b.state == chunkEnd {
			b.state = chunkBody
		}
	}
	b.left += int64(n)
}

// Done reports that the last byte has been handed out.
func (b *Body) Done() bool { return b.done && b.unzip == nil }
