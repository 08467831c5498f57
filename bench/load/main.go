// Command load is the client of the benchmark: keep-alive connections that send prebuilt requests and check every answer.
// It must be much cheaper than what it measures, so it speaks raw HTTP/1.1 over net.Conn and parses no more than it checks.
//
// It prints one JSON line at each mark ("begin" and "end" of the measured window, "done" after the last answer), so that
// whoever started it can read the clocks of the other processes at those moments.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"
)

// Options say what to send, how much of it, and for how long.
type Options struct {
	Addr, Reference     string
	Path, Key, Model    string
	Mode                string
	Conns, BodyBytes    int
	Chunks, EveryMillis int
	Rate                float64
	Warm, Window        time.Duration
}

func main() {
	var o Options
	flag.StringVar(&o.Addr, "addr", "", "host:port of the target")
	flag.StringVar(&o.Reference, "reference", "", "host:port of the upstream itself: its answer is what every answer must equal")
	flag.StringVar(&o.Path, "path", "/v1/chat/completions", "path to post to")
	flag.StringVar(&o.Key, "key", "ck_bench", "bearer token to send")
	flag.StringVar(&o.Model, "model", "openai/gpt-5", "model to ask for")
	flag.StringVar(&o.Mode, "mode", "plain", "plain, image, stream or held (streams that stay open until the end)")
	flag.IntVar(&o.Conns, "conns", 64, "connections at once")
	flag.IntVar(&o.BodyBytes, "body", 1024, "size of the request body in bytes")
	flag.IntVar(&o.Chunks, "chunks", 100, "content chunks of each stream")
	flag.IntVar(&o.EveryMillis, "every", 20, "milliseconds between the chunks of a stream; 0 is flat out")
	flag.Float64Var(&o.Rate, "rate", 0, "requests a second over all connections; 0 is as fast as answers come")
	flag.DurationVar(&o.Warm, "warm", time.Second, "time before the measured window; connections open in its first half")
	flag.DurationVar(&o.Window, "window", 5*time.Second, "length of the measured window")
	flag.Parse()
	if o.Addr == "" || o.Conns < 1 {
		fmt.Fprintln(os.Stderr, "nothing to do: name the target with -addr 127.0.0.1:PORT and at least one connection with -conns")
		os.Exit(2)
	}
	if err := run(o, json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run drives the load through its window and fails when an answer was wrong.
func run(o Options, out *json.Encoder) error {
	want, err := reference(o)
	if err != nil {
		return err
	}
	g := &generator{Options: o, request: buildRequest(o, o.Addr), want: want, stop: make(chan struct{}), conns: map[*conn]struct{}{}}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range o.Conns {
		first := start.Add(o.Warm / 2 * time.Duration(i) / time.Duration(o.Conns)) // spread, so that streams do not tick together
		wg.Go(func() { g.connection(first) })
	}
	time.Sleep(time.Until(start.Add(o.Warm)))
	g.latency.reset()
	mark(out, "begin", g)
	time.Sleep(time.Until(start.Add(o.Warm + o.Window)))
	mark(out, "end", g)
	close(g.stop)
	if o.Mode != "held" {
		const grace = 15 * time.Second // what a call may still take once the window is over; after it the target hangs
		defer time.AfterFunc(grace+time.Duration(o.Chunks*o.EveryMillis)*time.Millisecond, g.closeAll).Stop()
	} else {
		g.closeAll()
	}
	wg.Wait()
	mark(out, "done", g)
	if n := g.failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d answers were wrong; the first: %v", n, g.requests.Load()+n, *g.firstErr.Load())
	}
	if g.requests.Load()+g.events.Load() == 0 {
		return fmt.Errorf("no answer came from %s within %s", o.Addr, o.Warm+o.Window)
	}
	return nil
}

// Mark is what load prints at a moment of its run; the counts are since the start.
type Mark struct {
	Mark     string  `json:"mark"`
	Requests int64   `json:"requests"`
	Events   int64   `json:"events"`
	Failed   int64   `json:"failed"`
	Open     int64   `json:"open"`
	P50ms    float64 `json:"p50_ms"`
	P99ms    float64 `json:"p99_ms"`
}

func mark(out *json.Encoder, name string, g *generator) {
	_ = out.Encode(Mark{
		Mark: name, Requests: g.requests.Load(), Events: g.events.Load(), Failed: g.failed.Load(), Open: g.open.Load(),
		P50ms: g.latency.quantile(0.50), P99ms: g.latency.quantile(0.99),
	})
}

// reference asks the upstream itself, so that what a proxy answers can be compared with the truth.
func reference(o Options) (*answer, error) {
	if o.Reference == "" || o.Mode == "held" {
		return nil, nil
	}
	o.EveryMillis = 0 // only the content matters here
	c, err := dial(o.Reference)
	if err != nil {
		return nil, fmt.Errorf("no answer to compare with: %w", err)
	}
	defer func() { _ = c.Close() }()
	a, err := c.exchange(buildRequest(o, o.Reference), nil)
	if err != nil {
		return nil, fmt.Errorf("no answer to compare with: %s: %w", o.Reference, err)
	}
	a.body = append([]byte(nil), a.body...)
	return &a, nil
}
