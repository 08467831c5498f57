// Command upstream is the fast stand-in for an AI gateway that the benchmark talks to: prebuilt answers, no work per request.
//
// What it answers is chosen by the request body, because a body passes through any honest proxy as it came:
//
//	"stream":true           server-sent events, otherwise one JSON answer of about 2 KiB
//	"bench_chunks":50       how many content chunks, before the finish chunk and [DONE]
//	"bench_every_ms":20     one chunk in so many milliseconds; 0 is as fast as the reader takes them
//
// The fields have to stand in the first kilobyte.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	flag.Parse()
	ln, err := net.Listen("tcp4", *listen)
	if err != nil {
		log.Fatalf("cannot listen on %s: %v; give another address with -listen", *listen, err)
	}
	fmt.Println("listening on", ln.Addr())
	log.Fatal(newServer().Serve(ln))
}

func newServer() *fasthttp.Server {
	return &fasthttp.Server{
		Handler:               serve,
		MaxRequestBodySize:    64 << 20,
		ReadBufferSize:        16 << 10,
		Concurrency:           1 << 20,
		NoDefaultServerHeader: true,
	}
}

var (
	streamMark = []byte(`"stream":true`)
	chunksMark = []byte(`"bench_chunks":`)
	everyMark  = []byte(`"bench_every_ms":`)
)

func serve(ctx *fasthttp.RequestCtx) {
	head := ctx.PostBody()
	if len(head) > 1024 {
		head = head[:1024]
	}
	h := &ctx.Response.Header
	h.Set("X-Vercel-Id", "gru1::iad1::bench-1763812345678-0123456789ab")
	h.Set("Cache-Control", "no-store")
	if !bytes.Contains(head, streamMark) {
		h.SetContentType("application/json")
		ctx.Response.SetBodyRaw(plainAnswer)
		return
	}
	h.SetContentType("text/event-stream")
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(&eventStream{
		left:  number(head, chunksMark, 20),
		every: time.Duration(number(head, everyMark, 0)) * time.Millisecond,
	}, -1)
}

// number reads the decimal that follows mark, or gives otherwise.
func number(in, mark []byte, otherwise int) int {
	at := bytes.Index(in, mark)
	if at < 0 {
		return otherwise
	}
	rest := in[at+len(mark):]
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return otherwise
	}
	return n
}

// eventStream gives one event for each Read, and fasthttp writes and flushes one HTTP chunk for each Read.
type eventStream struct {
	left  int
	every time.Duration
	next  time.Time
	stage int // 0 role, 1 content, 2 finish, 3 done, 4 ended
}

func (s *eventStream) Read(p []byte) (int, error) {
	switch s.stage {
	case 0:
		s.stage = 1
		s.next = time.Now()
		return copy(p, roleChunk), nil
	case 1:
		if s.left > 0 {
			s.left--
			s.wait()
			return copy(p, contentChunk), nil
		}
		s.stage = 2
		fallthrough
	case 2:
		s.stage = 3
		return copy(p, finishChunk), nil
	case 3:
		s.stage = 4
		return copy(p, doneChunk), nil
	}
	return 0, io.EOF
}

// wait keeps the pace against the start of the stream, so that a late wake-up does not slow all that follow.
func (s *eventStream) wait() {
	if s.every == 0 {
		return
	}
	s.next = s.next.Add(s.every)
	time.Sleep(time.Until(s.next))
}
