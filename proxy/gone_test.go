package proxy

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/internal/simulator"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/migrations"
	"github.com/catraca/catraca/proxy/upstream"
)

// Calls of a tenant that has its answers read on.
var (
	exactPlain  = strings.Replace(plainCall, "ck_direct", "ck_exact-direct", 1)
	exactStream = strings.Replace(streamCall, "ck_direct", "ck_exact-direct", 1)
	exact10     = strings.Replace(exactStream, "HTTP/1.1", "HTTP/1.0", 1)
)

// leaving is every way in which a client goes.
var leaving = map[string]func(*net.TCPConn){
	"closes":        func(c *net.TCPConn) { c.Close() },
	"resets":        func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	"ends its side": func(c *net.TCPConn) { c.CloseWrite() },
}

// readOnEnds is how often reading on ended in a way.
func (w *world) readOnEnds(end string) (n float64) {
	w.t.Helper()
	families, err := w.proxy.Registry.(*prometheus.Registry).Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "catraca_read_on_total" && m.GetLabel()[0].GetValue() == end {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// eventually waits for something that follows the end of a call within moments.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came to be that", what)
		}
	}
}

// Where the tenant wants the exact bill, the upstream ends its work undisturbed, however the client left and whatever
// its call was doing, and the bill is what the upstream says.
func TestReadOn(t *testing.T) {
	for _, call := range []struct{ name, request, first, seen, rest string }{
		{"waiting", exactPlain, "", "", plainGood},
		{"waiting for a stream", exactStream, "", "", streamGood},
		{"in a plain body", exactPlain, plainGood[:120], "", plainGood[120:]},
		{"streaming", exactStream, streamHead + chunk(delta("Oi")), "Oi", chunk(delta("!")) + chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n"},
		{"streaming to HTTP/1.0", exact10, streamHead + chunk(delta("Oi")), "Oi", chunk(delta("!")) + chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n"},
	} {
		for how, leave := range leaving {
			t.Run(call.name+" "+how, func(t *testing.T) {
				t.Parallel()
				asked, again := make(chan bool, 1), make(chan bool, 1)
				w := start(t, func(c *upConn) {
					if _, _, err := c.request(); err != nil {
						return
					}
					c.say(call.first)
					asked <- true
					time.Sleep(1500 * time.Millisecond) // longer than any cancelling takes
					c.say(call.rest)
					if _, _, err := c.request(); err == nil {
						again <- true
						c.say(plainGood)
					}
				}, nil)
				c := w.dial()
				c.say(call.request)
				<-asked
				if call.seen != "" {
					c.until(t, call.seen)
				}
				time.Sleep(50 * time.Millisecond)
				leave(c.Conn.(*net.TCPConn))
				eventually(t, "the answer is read on", func() bool { return w.metric("catraca_reading_on") == 1 })
				e := w.meter.wait(1)
				if e.Outcome != metering.ClientGone || e.Source != metering.Measured || e.Input != 9 || e.Output != 4 || e.Total != 13 || e.LatencyMs < 1500 {
					t.Errorf("after %d ms: %s", e.LatencyMs, showEvent(&e))
				}
				eventually(t, "its place is free", func() bool { return w.metric("catraca_reading_on") == 0 })
				if n := w.readOnEnds("whole"); n != 1 {
					t.Errorf("%v answers count as read on to their end", n)
				}
				// Read to its end, the connection upstream serves the next call.
				good(t, w.dial())
				select {
				case <-again:
				case <-time.After(5 * time.Second):
					t.Error("the connection upstream was not kept")
				}
				c.Close()
			})
		}
	}
}

// A client that leaves while nothing is being written is found out by a write that fails, where the kernel cannot say.
func TestReadOnAfterAFailedWrite(t *testing.T) {
	w := start(t, func(c *upConn) {
		c.request()
		c.say(streamHead)
		for range 200 { // far more than the buffers between hold
			c.say(chunk(delta(strings.Repeat("x", 64<<10))))
		}
		c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		c.gone()
	}, func(o *Options) { o.WriteTimeout = 500 * time.Millisecond })
	c := w.dial()
	c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	c.say(exactStream) // and reads nothing
	e := w.meter.wait(1)
	if e.Outcome != metering.ClientGone || e.Source != metering.Measured || e.Output != 4 || e.ResponseBytes != 200*64<<10 {
		t.Errorf("%s", showEvent(&e))
	}
}

// Each bound ends the upstream's work, and what was used is estimated.
func TestReadOnBounds(t *testing.T) {
	endless := func(c *upConn) {
		_, body, err := c.request()
		if err != nil {
			return
		}
		if !strings.Contains(body, `"stream":true`) {
			c.gone()
			return
		}
		c.say(streamHead)
		event := chunk(delta(strings.Repeat("x", 1000)))
		for {
			if _, err := io.WriteString(c, event); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	for _, tt := range []struct {
		name, request, end string
		limits             ReadOn
		atMost             time.Duration
	}{
		{"time of a stream", exactStream, "time", ReadOn{Time: time.Second}, 2500 * time.Millisecond},
		{"time of a plain call", exactPlain, "time", ReadOn{Time: time.Second}, 2500 * time.Millisecond},
		{"bytes", exactStream, "bytes", ReadOn{Bytes: 50_000}, 2500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan time.Time, 1)
			asked := make(chan bool, 1)
			w := start(t, func(c *upConn) {
				asked <- true
				endless(c)
				ended <- time.Now()
			}, func(o *Options) { o.ReadOn = tt.limits })
			c := w.dial()
			c.say(tt.request)
			<-asked
			time.Sleep(300 * time.Millisecond)
			left := time.Now()
			c.Close()
			select {
			case at := <-ended:
				if took := at.Sub(left); took > tt.atMost || tt.limits.Time > 0 && took < tt.limits.Time-500*time.Millisecond {
					t.Errorf("the upstream's work ended after %s", took)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the upstream still works")
			}
			e := w.meter.wait(1)
			if e.Outcome != metering.ClientGone || e.Source != metering.Estimated || e.Input == 0 || !e.Known {
				t.Errorf("%s", showEvent(&e))
			}
			eventually(t, "the bound is counted", func() bool { return w.readOnEnds(tt.end) == 1 && w.metric("catraca_reading_on") == 0 })
		})
	}
}

// No more answers are read on at once than may be; those beyond are cancelled within the second, as ever.
func TestReadOnPlaces(t *testing.T) {
	const places, calls = 3, 8
	finishNow := make(chan bool)
	var mu sync.Mutex
	cancelled := 0
	w := start(t, func(c *upConn) {
		c.request()
		c.say(streamHead + chunk(delta("Oi")))
		gone := make(chan bool)
		go func() { c.gone(); close(gone) }()
		select {
		case <-gone:
			mu.Lock()
			cancelled++
			mu.Unlock()
		case <-finishNow:
			c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
			<-gone
		}
	}, func(o *Options) { o.ReadOn.Calls = places })
	for range calls {
		c := w.dial()
		c.say(exactStream)
		c.until(t, "Oi")
		c.Close()
	}
	eventually(t, "the rest is cancelled", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return cancelled == calls-places
	})
	time.Sleep(500 * time.Millisecond) // another sweep
	if n := w.metric("catraca_reading_on"); n != places {
		t.Errorf("%v are read on", n)
	}
	close(finishNow)
	w.meter.wait(calls)
	w.meter.mu.Lock()
	measured := 0
	for _, e := range w.meter.closed {
		if e.Outcome != metering.ClientGone {
			t.Errorf("%s", showEvent(&e))
		}
		if e.Source == metering.Measured {
			measured++
		}
	}
	w.meter.mu.Unlock()
	if refused := w.metric("catraca_read_on_refused_total"); measured != places || refused != calls-places {
		t.Errorf("%d of %d were measured, %v refused", measured, calls, refused)
	}
	eventually(t, "all places are free", func() bool { return w.metric("catraca_reading_on") == 0 })
}

// A stop waits for what is read on no longer than for anything else, and what is cut is estimated.
func TestReadOnWhenStopping(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		takes, drain  time.Duration
		source        metering.Source
		end           string
	}{
		{"a stream that ends in time", exactStream, time.Second, 5 * time.Second, metering.Measured, "whole"},
		{"a stream that does not", exactStream, time.Minute, time.Second, metering.Estimated, "stop"},
		{"a plain call that does not", exactPlain, time.Minute, time.Second, metering.Estimated, "stop"},
		{"a stream to HTTP/1.0 that does not", exact10, time.Minute, time.Second, metering.Estimated, "stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stopped := make(chan bool)
			w := startWith(t, func(c *upConn) {
				_, body, err := c.request()
				if err != nil {
					return
				}
				stream := strings.Contains(body, `"stream":true`)
				if stream {
					c.say(streamHead + chunk(delta("Oi")))
				}
				select {
				case <-time.After(tt.takes):
				case <-stopped:
				}
				if stream {
					c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
				}
				c.gone()
			}, defaultTimeouts, tt.drain, nil)
			c := w.dial()
			c.say(tt.request)
			time.Sleep(250 * time.Millisecond)
			c.Close()
			eventually(t, "the answer is read on", func() bool { return w.metric("catraca_reading_on") == 1 })
			began := time.Now()
			if err := w.stop(); err != nil {
				t.Error("stop:", err)
			}
			if took := time.Since(began); took > min(tt.takes, tt.drain)+1500*time.Millisecond {
				t.Errorf("the stop took %s", took)
			}
			close(stopped)
			if e := w.meter.wait(1); e.Outcome != metering.ClientGone || e.Source != tt.source {
				t.Errorf("%s", showEvent(&e))
			}
			if w.readOnEnds(tt.end) != 1 {
				t.Errorf("it did not end as %q", tt.end)
			}
		})
	}
}

// What the upstream does wrong while it is read on is its own: broken off, refused, silent.
func TestReadOnOfABrokenAnswer(t *testing.T) {
	for _, tt := range []struct {
		name, request, rest string
		outcome             metering.Outcome
		source              metering.Source
	}{
		{"a stream that is cut", exactStream, streamHead + chunk(delta("Oi")), metering.Truncated, metering.Estimated},
		{"a refusal", exactPlain, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", metering.Refused, metering.None},
		{"no answer", exactPlain, "", metering.Unreachable, metering.None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(c *upConn) {
				if _, _, err := c.request(); err != nil {
					return
				}
				time.Sleep(1200 * time.Millisecond)
				c.say(tt.rest)
			}, nil)
			c := w.dial()
			c.say(tt.request)
			time.Sleep(250 * time.Millisecond)
			c.Close()
			if e := w.meter.wait(1); e.Outcome != tt.outcome || e.Source != tt.source {
				t.Errorf("%s", showEvent(&e))
			}
			eventually(t, "its place is free", func() bool { return w.metric("catraca_reading_on") == 0 })
		})
	}
}

// A file that is spoken tells no usage: there is nothing to be learnt from the rest of it.
func TestFilesAreNotReadOn(t *testing.T) {
	ended := make(chan time.Time, 1)
	w := start(t, func(c *upConn) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("ID3!!"))
		c.gone()
		ended <- time.Now()
	}, nil)
	c := w.dial()
	c.say(postJSON("/v1/audio/speech", "ck_exact-direct", `{"model":"tts-1","input":"abc"}`))
	c.until(t, "ID3!!")
	left := time.Now()
	c.Close()
	if took := (<-ended).Sub(left); took > time.Second {
		t.Errorf("the upstream's work ended after %s", took)
	}
	if e := w.meter.wait(1); e.Outcome != metering.ClientGone || e.Characters != 3 {
		t.Errorf("%s", showEvent(&e))
	}
}

// Many clients that leave at once, by two tenants of different policies: each call is one or the other, and none is lost.
func TestManyLeave(t *testing.T) {
	w := start(t, func(c *upConn) {
		for {
			_, body, err := c.request()
			if err != nil {
				return
			}
			if !strings.Contains(body, `"stream":true`) {
				time.Sleep(20 * time.Millisecond)
				c.say(plainGood)
				continue
			}
			c.say(streamHead)
			for i := range 20 {
				c.say(chunk(delta(fmt.Sprint(i))))
				time.Sleep(10 * time.Millisecond)
			}
			c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		}
	}, func(o *Options) { o.ReadOn.Calls = 20 })
	var all sync.WaitGroup
	const calls = 120
	for i := range calls {
		all.Go(func() {
			c := w.dial()
			c.say([]string{exactStream, streamCall, exactPlain, exact10}[i%4])
			time.Sleep(time.Duration(i%13) * 10 * time.Millisecond)
			leaving[[]string{"closes", "resets", "ends its side"}[i%3]](c.Conn.(*net.TCPConn))
			time.Sleep(time.Second)
			c.Close()
		})
	}
	all.Wait()
	w.meter.wait(calls)
	eventually(t, "all places are free", func() bool { return w.metric("catraca_reading_on") == 0 && w.metric("catraca_open_calls") == 0 })
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	for _, e := range w.meter.closed {
		if e.Source == metering.Measured && (e.Input != 9 || e.Output != 4) || e.Outcome != metering.OK && e.Outcome != metering.ClientGone {
			t.Errorf("%s", showEvent(&e))
		}
	}
}

// simulated makes a world whose gateway is the simulator.
func simulated(t *testing.T, cfg simulator.Config) (w *world, sim *simulator.Simulator, base string) {
	t.Helper()
	sim = simulator.New(cfg)
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	t.Cleanup(sim.Close)
	routes, err := upstream.NewRoutes([]upstream.TargetConfig{
		{Route: "gateway", Provider: "vercel", BaseURL: server.URL + "/v1", APIKey: secrets["gateway"]},
	}, defaultTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	w = start(t, answers(plainGood), func(o *Options) { o.Routes = routes })
	return w, sim, server.URL + "/v1"
}

// The simulator counts what it served, to the token; so does the ledger when the clients of all calls have gone.
func TestReadOnEqualsTheSimulator(t *testing.T) {
	w, sim, _ := simulated(t, simulator.Config{Tokens: 60, TokenDelay: 25 * time.Millisecond, UniqueIDs: true})
	const calls = 10
	for i := range calls {
		stream := i%2 == 0
		c := w.dial()
		c.say(postJSON("/v1/chat/completions", "ck_exact", fmt.Sprintf(`{"model":"gpt-4o-mini","stream":%t,"messages":[{"role":"user","content":"Ola %d"}]}`, stream, i)))
		if stream {
			c.until(t, `"content":"`)
		} else {
			time.Sleep(100 * time.Millisecond)
		}
		c.Close()
	}
	var in, out int64
	w.meter.wait(calls)
	w.meter.mu.Lock()
	for _, e := range w.meter.closed {
		if e.Outcome != metering.ClientGone || e.Source != metering.Measured || !e.GateKnown || !strings.HasPrefix(e.UpstreamID, "gen_") {
			t.Errorf("%s", showEvent(&e))
		}
		in, out = in+e.Input, out+e.Output
	}
	w.meter.mu.Unlock()
	total := sim.Stats().Total
	if total.Completed != calls || total.ClientGone != 0 || in != total.Issued.Input || out != total.Issued.Output || out == 0 {
		t.Errorf("the ledger has %d and %d tokens, the simulator %+v", in, out, total)
	}
}

// By default the upstream is cancelled and the bill is an estimate; once the gateway has been asked, the ledger has what
// the simulator made, to the token and the last decimal.
func TestCancelledAndCorrected(t *testing.T) {
	const key = "vck_0123456789"
	w, sim, base := simulated(t, simulator.Config{Tokens: 200, TokenDelay: 15 * time.Millisecond, UniqueIDs: true})
	const calls = 9
	for i := range calls {
		c := w.dial()
		model := []string{"gpt-4o-mini", "openai/gpt-4o-mini+cut-after-5", "gpt-4o"}[i%3]
		c.say(postJSON("/v1/chat/completions", "ck_unknown", fmt.Sprintf(`{"model":"%s","stream":true,"messages":[{"role":"user","content":"Ola %d"}]}`, model, i)))
		c.until(t, `"content":"`)
		time.Sleep(time.Duration(i) * 10 * time.Millisecond)
		if i%3 != 1 {
			c.Close()
		}
	}
	w.meter.wait(calls)
	eventually(t, "the simulator has seen all of them end", func() bool {
		total := sim.Stats().Total
		return total.Cut+total.ClientGone == calls
	})

	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "ledger.db")+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	must(migrations.Up(ctx, db, migrations.SQLite))
	ledger := metering.NewSQLite(db, db)
	w.meter.mu.Lock()
	events := slices.Clone(w.meter.closed)
	w.meter.mu.Unlock()
	must(ledger.Record(ctx, events))
	for _, e := range events {
		if e.Source != metering.Estimated {
			t.Errorf("%s", showEvent(&e))
		}
		must(ledger.PutOff(ctx, metering.Estimate{Event: e}, time.Now())) // without the usual wait
	}
	price := func(e *metering.Event) {
		if m := theCatalog().ByID(e.ModelID); m != nil {
			e.Cost = metering.ComputeCost(m.PriceAt(e.AdmittedAt), &e.Usage, 0, false, e.Rate)
		}
	}
	corrector := metering.NewCorrector(ledger, metering.NewGatewayGenerations(nil, base, key), price, nil)
	over := make(chan error, 1)
	go func() { over <- corrector.Run(ctx) }()
	eventually(t, "all are corrected", func() bool { return corrector.Stats().Corrected == calls })
	stop()
	must(<-over)
	report, err := ledger.Usage(context.Background(), metering.UsageQuery{})
	if err != nil {
		t.Fatal(err)
	}
	got, want := report.Total, sim.Stats().Total.Generated
	if got.Calls != calls || got.Estimated != 0 || got.UnknownCost != 0 || got.Input != want.Input || got.Output != want.Output || got.USD.String() != want.CostUSD {
		t.Errorf("the ledger has %+v, the simulator %+v", got, want)
	}
}

// The id by which the gateway can be asked is in the spool as soon as it has passed, and on the row of a call that was
// cut short, however it was.
func TestUpstreamIDIsKept(t *testing.T) {
	const genDelta = `data: {"id":"gen_01","model":"openai/gpt-4o-mini","choices":[{"index":0,"delta":{"content":"Oi"},"finish_reason":null}]}` + "\n\n"
	const genPlain = `{"id":"gen_01","model":"openai/gpt-4o-mini","choices":[{"index":0,"message":{"content":"O`
	gateway := strings.NewReplacer("ck_direct", "ck_gateway")
	for _, tt := range []struct {
		name, request, said string
		first               bool // there is a record of progress at once
		leaves              bool
		outcome             metering.Outcome
	}{
		{"a stream whose client leaves", gateway.Replace(streamCall), streamHead + chunk(genDelta), true, true, metering.ClientGone},
		{"a stream that is cut", gateway.Replace(streamCall), streamHead + chunk(genDelta), true, false, metering.Truncated},
		{"a direct stream", streamCall, streamHead + chunk(genDelta), false, true, metering.ClientGone},
		{"a plain answer whose client leaves", gateway.Replace(plainCall), "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 300\r\n\r\n" + genPlain, false, true, metering.ClientGone},
		{"a plain answer that is cut", gateway.Replace(plainCall), "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 300\r\n\r\n" + genPlain, false, false, metering.Truncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(c *upConn) {
				if _, _, err := c.request(); err != nil {
					return
				}
				c.say(tt.said)
				time.Sleep(100 * time.Millisecond)
				if tt.leaves {
					c.gone()
				}
			}, nil)
			c := w.dial()
			c.say(tt.request)
			if tt.first {
				eventually(t, "the first event is in the spool", func() bool {
					w.meter.mu.Lock()
					defer w.meter.mu.Unlock()
					return len(w.meter.progress) > 0
				})
			}
			time.Sleep(50 * time.Millisecond)
			if tt.leaves {
				c.Close()
			}
			e := w.meter.wait(1)
			if e.UpstreamID != "gen_01" || e.Outcome != tt.outcome || e.Source != metering.Estimated {
				t.Errorf("%s", showEvent(&e))
			}
			w.meter.mu.Lock()
			defer w.meter.mu.Unlock()
			if n := len(w.meter.progress); n > 1 || (n == 1) != tt.first {
				t.Fatalf("%d records of progress in %d ms", n, e.LatencyMs)
			}
			if tt.first && w.meter.progress[0].UpstreamID != "gen_01" {
				t.Errorf("the record of progress has the id %q", w.meter.progress[0].UpstreamID)
			}
			c.Close()
		})
	}
}
