package upstream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// script is a connection that yields its pieces one Read each, and then its end.
type script struct {
	pieces [][]byte
	end    error // what follows the pieces; nil: io.EOF
	reads  int
}

func (s *script) Read(p []byte) (int, error) {
	s.reads++
	if len(s.pieces) == 0 {
		if s.end != nil {
			return 0, s.end
		}
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)        { return len(p), nil }
func (s *script) Close() error                       { return nil }
func (s *script) LocalAddr() net.Addr                { return nil }
func (s *script) RemoteAddr() net.Addr               { return nil }
func (s *script) SetDeadline(time.Time) error        { return nil }
func (s *script) SetReadDeadline(t time.Time) error  { return nil }
func (s *script) SetWriteDeadline(t time.Time) error { return nil }

// slice cuts b into pieces of at most n bytes; 0: one piece.
func slice(b []byte, n int) (pieces [][]byte) {
	if n == 0 && len(b) > 0 {
		return [][]byte{b}
	}
	for len(b) > 0 {
		k := min(n, len(b))
		pieces = append(pieces, b[:k])
		b = b[k:]
	}
	return pieces
}

// read reads the answer that the pieces are: its head, then its body to the end, which err is.
func read(pieces [][]byte, end error) (body []byte, framed, reusable bool, err error) {
	cn := &conn{Conn: &script{pieces: pieces, end: end}}
	cn.br = bufio.NewReaderSize(cn.Conn, readBuffer)
	var h fasthttp.ResponseHeader
	if err := h.Read(cn.br); err != nil {
		return nil, false, false, fmt.Errorf("head: %w", err)
	}
	var b Body
	keep := false
	if err := b.begin(cn, &h, false, time.Minute, &keep); err != nil {
		return nil, false, false, err
	}
	for {
		b.Ready() // may be asked at any time
		p, err := b.Next()
		if err != nil {
			if len(p) != 0 {
				panic("a piece came with an error")
			}
			return body, b.Framed, keep && b.done && cn.br.Buffered() == 0, err
		}
		if len(p) == 0 {
			panic("an empty piece came without an error")
		}
		body = append(body, p...)
	}
}

func zip(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

func deflate(text string) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

const (
	headOK      = "HTTP/1.1 200 OK\r\n"
	headChunked = headOK + "Transfer-Encoding: chunked\r\n\r\n"
	headClosed  = headOK + "\r\n"
	headZipped  = headOK + "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
)

func headFixed(n int) string { return fmt.Sprintf("%sContent-Length: %d\r\n\r\n", headOK, n) }

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

func TestBody(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 4096) // many times the reader's buffer
	for _, tt := range []struct {
		name, raw, want string
		framed, reuse   bool
		err             error
	}{
		{"chunks", headChunked + chunk("one") + chunk("two") + "0\r\n\r\n", "onetwo", true, true, io.EOF},
		{"upper and lower case sizes", headChunked + "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", true, true, io.EOF},
		{"leading zeros", headChunked + "0003\r\none\r\n000\r\n\r\n", "one", true, true, io.EOF},
		{"extensions", headChunked + "3;a=b;c=\"d\"\r\none\r\n0;x\r\n\r\n", "one", true, true, io.EOF},
		{"space behind the size", headChunked + "3 \t\r\none\r\n0\r\n\r\n", "one", true, true, io.EOF},
		{"bare LF", headChunked + "3\none\n0\n\n", "one", true, true, io.EOF},
		{"trailers", headChunked + "3\r\none\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n", "one", true, true, io.EOF},
		{"long chunk", headChunked + chunk(long) + "0\r\n\r\n", long, true, true, io.EOF},
		{"no chunk but the last", headChunked + "0\r\n\r\n", "", true, true, io.EOF},
		{"bytes behind the end", headChunked + "0\r\n\r\nHTTP/1.1 200 OK\r\n", "", true, false, io.EOF},
		{"cut at a chunk boundary", headChunked + chunk("one"), "one", true, false, ErrTruncated},
		{"cut before the chunk's line end", headChunked + "3\r\none", "one", true, false, ErrTruncated},
		{"cut in a chunk", headChunked + "5\r\none", "one", true, false, ErrTruncated},
		{"cut in a size", headChunked + chunk("one") + "1", "one", true, false, ErrTruncated},
		{"cut before any chunk", headChunked, "", true, false, ErrTruncated},
		{"cut before the last line end", headChunked + chunk("one") + "0\r\n", "one", true, false, ErrTruncated},
		{"cut in the trailers", headChunked + chunk("one") + "0\r\nX-A: b\r\n", "one", true, false, ErrTruncated},
		{"size with sign", headChunked + "+3\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"size with 0x", headChunked + "0x3\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"size that is no number", headChunked + "three\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"empty size", headChunked + "\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"only an extension", headChunked + ";a=b\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"size of 16 digits", headChunked + "ffffffffffffffff\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"largest size, cut", headChunked + "fffffffffffffff\r\none", "one", true, false, ErrTruncated},
		{"chunk longer than its size", headChunked + "2\r\none\r\n0\r\n\r\n", "on", true, false, ErrTruncated},
		{"endless size line", headChunked + "3;" + strings.Repeat("x", 64<<10), "", true, false, ErrTruncated},
		{"size line above the limit", headChunked + "3;" + strings.Repeat("x", maxChunkLine) + "\r\none\r\n0\r\n\r\n", "", true, false, ErrTruncated},
		{"length", headFixed(3) + "one", "one", true, true, io.EOF},
		{"length 0", headFixed(0), "", true, true, io.EOF},
		{"long length", headFixed(len(long)) + long, long, true, true, io.EOF},
		{"length short of its bytes", headFixed(4) + "one", "one", true, false, ErrTruncated},
		{"length with none of its bytes", headFixed(4), "", true, false, ErrTruncated},
		{"bytes behind the length", headFixed(3) + "onetwo", "one", true, false, io.EOF},
		{"until closed", headClosed + "one", "one", false, false, io.EOF},
		{"until closed, nothing", headClosed, "", false, false, io.EOF},
		{"close asked for", headOK + "Connection: close\r\nContent-Length: 3\r\n\r\none", "one", true, false, io.EOF},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\none", "one", false, false, io.EOF},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", "", true, true, io.EOF},
		{"304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", true, true, io.EOF},
		{"gzip in chunks", headZipped + chunk(zip(long)) + "0\r\n\r\n", long, true, true, io.EOF},
		{"gzip in two members", headZipped + chunk(zip("one")+zip("two")) + "0\r\n\r\n", "onetwo", true, true, io.EOF},
		{"gzip of a length", headOK + "Content-Encoding: x-gzip\r\nContent-Length: " + fmt.Sprint(len(zip("one"))) + "\r\n\r\n" + zip("one"), "one", true, true, io.EOF},
		{"gzip until closed", headOK + "Content-Encoding: GZIP\r\n\r\n" + zip("one"), "one", false, false, io.EOF},
		{"deflate", headOK + "Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(deflate("one")) + "0\r\n\r\n", "one", true, true, io.EOF},
		{"identity", headOK + "Content-Encoding: identity\r\nContent-Length: 3\r\n\r\none", "one", true, true, io.EOF},
		{"gzip with no body", headOK + "Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", "", true, true, io.EOF},
		{"gzip cut inside", headZipped + chunk(zip("one two three")[:14]) + "0\r\n\r\n", "one", true, true, ErrTruncated},
		{"gzip whole, framing cut", headZipped + chunk(zip("one")), "one", true, false, ErrTruncated},
		{"not gzip at all", headZipped + chunk("one two three, which is not gzip") + "0\r\n\r\n", "", false, false, ErrTruncated},
		{"brotli", headOK + "Content-Encoding: br\r\nContent-Length: 3\r\n\r\none", "", false, false, ErrEncoding},
		{"two encodings", headOK + "Content-Encoding: gzip, br\r\nContent-Length: 3\r\n\r\none", "", false, false, ErrEncoding},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{0, 1, 2, 7, 4096} {
				body, framed, reuse, err := read(slice([]byte(tt.raw), size), nil)
				if string(body) != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("in pieces of %d: %.60q, %v, want %.60q, %v", size, body, err, tt.want, tt.err)
				}
				// Where one piece holds more than was asked for, the rest lies in the buffer; in smaller pieces it
				// is still to come, so only the whole one can tell.
				if framed != tt.framed || size == 0 && reuse != tt.reuse {
					t.Errorf("in pieces of %d: framed %t, reusable %t, want %t, %t", size, framed, reuse, tt.framed, tt.reuse)
				}
			}
		})
	}
}

// Every way to cut a framed answer short must be told from its end, wherever the cut is.
func TestBodyCutAnywhere(t *testing.T) {
	for name, raw := range map[string]string{
		"chunked": headChunked + chunk("data: {\"a\":1}\n\n") + chunk("data: [DONE]\n\n") + "0\r\n\r\n",
		"length":  headFixed(10) + "0123456789",
		"gzip":    headZipped + chunk(zip("data: {\"a\":1}\n\n")) + "0\r\n\r\n",
	} {
		first := strings.Index(raw, "\r\n\r\n") + 4
		for n := first; n < len(raw); n++ {
			for _, size := range []int{0, 1} {
				if _, _, reuse, err := read(slice([]byte(raw[:n]), size), nil); err != ErrTruncated || reuse {
					t.Errorf("%s cut after %d of %d bytes: %v, reusable %t", name, n-first, len(raw)-first, err, reuse)
				}
				if _, _, _, err := read(slice([]byte(raw[:n]), size), os.ErrDeadlineExceeded); err != ErrTimeout {
					t.Errorf("%s silent after %d of %d bytes: %v", name, n-first, len(raw)-first, err)
				}
			}
		}
		if _, _, reuse, err := read(slice([]byte(raw), 1), nil); err != io.EOF || !reuse {
			t.Errorf("%s uncut: %v, reusable %t", name, err, reuse)
		}
	}
}

// What has arrived can be had without waiting: Ready says so, and then Next does not read.
func TestReady(t *testing.T) {
	raw := headChunked + chunk("first, of some length") + chunk("second, of some length") + "5\r\nth"
	s := &script{pieces: [][]byte{[]byte(raw), []byte("ird\r\n0\r\n\r\n")}}
	cn := &conn{Conn: s, br: bufio.NewReaderSize(s, readBuffer)}
	var h fasthttp.ResponseHeader
	var b Body
	keep := false
	if err := errors.Join(h.Read(cn.br), b.begin(cn, &h, false, time.Minute, &keep)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		ready, before := b.Ready(), s.reads
		p, err := b.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if ready && s.reads != before {
			t.Errorf("before %q Ready said true, but Next had to read", p)
		}
		got = append(got, fmt.Sprint(ready, " ", string(p)))
	}
	want := []string{"true first, of some length", "true second, of some length", "false th", "false ird"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An event of a compressed stream must not wait for the next one inside the decompressor.
func TestGzipStreamsEventByEvent(t *testing.T) {
	var raw bytes.Buffer
	z := gzip.NewWriter(&raw)
	pieces := [][]byte{[]byte(headZipped)}
	events := []string{"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"}
	for _, e := range events {
		raw.Reset()
		io.WriteString(z, e)
		z.Flush()
		pieces = append(pieces, []byte(chunk(raw.String())))
	}
	s := &script{end: errors.New("read beyond what had arrived")}
	cn := &conn{Conn: s, br: bufio.NewReaderSize(s, readBuffer)}
	var h fasthttp.ResponseHeader
	var b Body
	keep := false
	s.pieces = pieces[:2]
	if err := errors.Join(h.Read(cn.br), b.begin(cn, &h, false, time.Minute, &keep)); err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if i > 0 {
			s.pieces = pieces[i+1 : i+2]
		}
		if p, err := b.Next(); string(p) != e || err != nil {
			t.Fatalf("event %d: %q, %v", i, p, err)
		}
	}
}

// A small compressed answer may be a huge one. Its reader takes it a piece at a time, so that it can stop.
func TestGzipBombComesInPieces(t *testing.T) {
	var raw bytes.Buffer
	z := gzip.NewWriter(&raw)
	zeros := make([]byte, 1<<20)
	for range 256 {
		z.Write(zeros)
	}
	z.Close()
	answer := headZipped + chunk(raw.String()) + "0\r\n\r\n"
	s := &script{pieces: slice([]byte(answer), 0)}
	cn := &conn{Conn: s, br: bufio.NewReaderSize(s, readBuffer)}
	var h fasthttp.ResponseHeader
	var b Body
	keep := false
	if err := errors.Join(h.Read(cn.br), b.begin(cn, &h, false, time.Minute, &keep)); err != nil {
		t.Fatal(err)
	}
	total := 0
	for total < 1<<20 {
		p, err := b.Next()
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > 64<<10 {
			t.Fatalf("a piece of %d bytes", len(p))
		}
		total += len(p)
	}
	b.release()
	if b.Decoded() {
		t.Error("still decoding after release")
	}
}

// FuzzBody holds the reader to three things: any bytes are read without a panic, to the same end whether they come
// whole or in pieces, and every answer that net/http's reader takes is taken alike.
func FuzzBody(f *testing.F) {
	for _, head := range []string{headChunked, headClosed, headFixed(5), headZipped} {
		f.Add([]byte(head+chunk("one")+chunk(zip("two"))+"0\r\n\r\n"), uint64(1))
		f.Add([]byte(head+"3\r\none\r\n0\r\nX: y\r\n\r\n"), uint64(2))
	}
	f.Add([]byte(headZipped+chunk(zip("one"))+"0\r\n\r\n"), uint64(3))
	f.Add([]byte("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), uint64(4))
	f.Add([]byte("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\none"), uint64(5))
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		want, framed, reuse, err := read(slice(raw, 0), nil)
		split := rand.New(rand.NewPCG(seed, 1))
		var pieces [][]byte
		for rest := raw; len(rest) > 0; {
			n := 1 + split.IntN(min(len(rest), 1+split.IntN(64)))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		for _, p := range [][][]byte{pieces, slice(raw, 1)} {
			got, framed2, _, err2 := read(p, nil)
			if fmt.Sprint(err) != fmt.Sprint(err2) && !(headFailed(err) && headFailed(err2)) || framed != framed2 {
				t.Fatalf("whole: %v, framed %t; in pieces: %v, framed %t", err, framed, err2, framed2)
			}
			if !bytes.Equal(want, got) {
				t.Fatalf("whole: %q; in pieces: %q", want, got)
			}
		}
		if reuse && err != io.EOF {
			t.Fatalf("reusable after %v", err)
		}
		agreesWithNetHTTP(t, raw, want, err)
	})
}

func headFailed(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "head: ") }

func agreesWithNetHTTP(t *testing.T, raw, ours []byte, err error) {
	in := bufio.NewReader(bytes.NewReader(raw))
	resp, err2 := http.ReadResponse(in, nil)
	if err2 != nil || headFailed(err) || resp.StatusCode < 200 {
		return // heads are fasthttp's to judge
	}
	theirs, err2 := io.ReadAll(resp.Body)
	if err2 != nil || resp.Header.Get("Content-Encoding") != "" || resp.Uncompressed {
		return
	}
	if resp.ContentLength == 0 || resp.StatusCode == 204 || resp.StatusCode == 304 {
		return
	}
	if err != io.EOF {
		// Lines of more than a kibibyte and sizes of more than 15 digits are refused here; net/http takes a little more.
		for line := range bytes.Lines(raw) {
			if size, _, _ := bytes.Cut(line, []byte{';'}); len(line) > maxChunkLine || len(bytes.TrimSpace(size)) > 15 {
				return
			}
		}
		t.Fatalf("net/http reads %q to the end, we: %q, %v", theirs, ours, err)
	}
	if !bytes.Equal(ours, theirs) {
		t.Fatalf("net/http reads %q, we %q", theirs, ours)
	}
}
