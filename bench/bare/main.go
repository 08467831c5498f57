// Command bare is the floor of the benchmark: the leanest reverse proxy that fasthttp allows, with no rules and no memory.
// It never looks at a key, counts nothing and logs nothing; a gateway in Go cannot cost less than this.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"net"

	"github.com/valyala/fasthttp"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	upstream := flag.String("upstream", "", "address of the upstream, as host:port")
	flag.Parse()
	if *upstream == "" {
		log.Fatal("no upstream; name it with -upstream 127.0.0.1:PORT")
	}
	ln, err := net.Listen("tcp4", *listen)
	if err != nil {
		log.Fatalf("cannot listen on %s: %v; give another address with -listen", *listen, err)
	}
	fmt.Println("listening on", ln.Addr())
	log.Fatal(newServer(*upstream).Serve(ln))
}

// newServer gives a proxy that reads a plain answer whole and passes a stream on chunk by chunk, flushing each.
func newServer(upstream string) *fasthttp.Server {
	const many = 1 << 20 // no pool limit may decide a measurement
	plain := &fasthttp.HostClient{Addr: upstream, MaxConns: many, NoDefaultUserAgentHeader: true}
	stream := &fasthttp.HostClient{Addr: upstream, MaxConns: many, NoDefaultUserAgentHeader: true, StreamResponseBody: true}
	streamMark := []byte(`"stream":true`)
	return &fasthttp.Server{
		MaxRequestBodySize:    64 << 20,
		ReadBufferSize:        16 << 10,
		Concurrency:           many,
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		Handler: func(ctx *fasthttp.RequestCtx) {
			head := ctx.PostBody()
			if len(head) > 1024 {
				head = head[:1024]
			}
			client := plain
			if bytes.Contains(head, streamMark) {
				client = stream
				ctx.Response.ImmediateHeaderFlush = true
			}
			if err := client.Do(&ctx.Request, &ctx.Response); err != nil {
				ctx.Error("the upstream did not answer: "+err.Error(), fasthttp.StatusBadGateway)
			}
		},
	}
}
