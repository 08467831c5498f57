package simulator

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is what the clients of a test know of their own bills.
type ledger struct {
	mu       sync.Mutex
	counts   map[outcome]int64
	in, out  int64 // of whole answers, as reported to the clients
	cut      int64 // output tokens of answers the simulator broke off
	received int64 // output tokens seen by clients that left
	cost     pico
}

// usageTotals reads prompt and completion tokens of a body or an event.
func usageTotals(t testing.TB, text string) (in, out int64) {
	u := at(t, tree(t, []byte(text)), "usage")
	_, err := fmt.Sscan(fmt.Sprint(at(t, u, "prompt_tokens"))+" "+fmt.Sprint(at(t, u, "completion_tokens")), &in, &out)
	if err != nil {
		t.Errorf("no usage in %.200s", text)
	}
	return in, out
}

func (l *ledger) whole(m string, in, out int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, _ := pricing(m)
	l.counts[completed]++
	l.in, l.out = l.in+in, l.out+out
	l.cost += line.cost(usage{prompt: in, output: out})
}

func (l *ledger) note(end outcome, tokens int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[end]++
	switch end {
	case cut:
		l.cut += tokens
	case gone:
		l.received += tokens
	}
}

// one asks in one of the ways and books what the client learns.
func (l *ledger) one(b *bench, i int, d *rand.Rand) {
	prefix := []string{"/v1", "/openai/v1", "/groq/openai/v1", "/anthropic/v1"}[d.IntN(4)]
	path := prefix + "/chat/completions"
	m := []string{"gpt-4o", "gpt-4o-mini", "sim/ok"}[d.IntN(3)]
	limit := 1 + d.IntN(40)
	more := fmt.Sprintf(`,"max_tokens":%d,"seed":%d`, limit, i)
	switch d.IntN(6) {
	case 0, 1:
		a := b.post(path, chatBody(m, more))
		in, out := usageTotals(b, string(a.body))
		l.whole(m, in, out)
	case 2, 3:
		es := b.post(path, chatBody(m, more+streamed)).events(b)
		in, out := usageTotals(b, es[len(es)-2])
		l.whole(m, in, out)
	case 4:
		if d.IntN(2) == 0 {
			b.post(path, chatBody("sim/503", more))
			l.note(refused, 0)
			return
		}
		es := b.post(path, chatBody("sim/cut-after-9", `,"stream":true`)).events(b)
		l.note(cut, int64(len(es)-1))
	case 5:
		l.leave(b, path, 2+d.IntN(5))
	}
}

// leave reads some events of a slow stream and goes.
func (l *ledger) leave(b *bench, path string, events int) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	resp, err := b.do(ctx, "POST", path, "application/json", chatBody("sim/slow-20+tokens-500", `,"stream":true`))
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	seen := 0
	for seen < events && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			seen++
		}
	}
	l.note(gone, int64(seen-1))
}

// Two hundred clients at once, of every kind; then the bills must agree to the token and the pico-dollar.
func TestTallyIsExactUnderConcurrency(t *testing.T) {
	b := start(t, Config{UniqueIDs: true})
	l := &ledger{counts: map[outcome]int64{}}
	const clients, each = 200, 5
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			d := rand.New(rand.NewPCG(11, uint64(i)))
			for k := range each {
				l.one(b, i*each+k, d)
			}
		})
	}
	all.Wait()
	total := b.total()
	want(t, "requests", total.Requests, clients*each)
	want(t, "completed", total.Completed, l.counts[completed])
	want(t, "cut", total.Cut, l.counts[cut])
	want(t, "gone", total.ClientGone, l.counts[gone])
	want(t, "refused", total.Refused, l.counts[refused])
	want(t, "input reported", total.Reported.Input, l.in)
	want(t, "output reported", total.Reported.Output, l.out)
	want(t, "cost reported", total.Reported.CostUSD, l.cost)
	broken := total.Generated.Output - total.Reported.Output
	left := int64(0)
	for _, d := range b.sim.Stats().Departures {
		// Every stream here opens with one event that has no token.
		left += int64(max(0, d.Events-1))
	}
	want(t, "tokens of broken answers", broken, l.cut+left)
	if left < l.received {
		t.Errorf("clients that left saw %d tokens, only %d were made for them", l.received, left)
	}
	var rows Tally
	for _, r := range b.sim.Stats().Rows {
		if r.Model == "sim/cut-after-9" {
			want(t, r.Route+" cuts", r.Generated.Output, r.Cut*8)
		}
		rows.Requests += r.Requests
		rows.Generated.Total += r.Generated.Total
		rows.Issued.cost += r.Issued.cost
	}
	want(t, "rows' requests", rows.Requests, total.Requests)
	want(t, "rows' tokens", rows.Generated.Total, total.Generated.Total)
	want(t, "rows' cost", rows.Issued.cost, total.Issued.cost)
	if st := b.sim.Stats(); st.MaxOpen < 20 || st.Open != 0 {
		t.Errorf("at most %d at once, %d still open", st.MaxOpen, st.Open)
	}
}

// Whoever has read an answer's end finds it in the tally, without waiting.
func TestTallyIsFinalBeforeTheEnd(t *testing.T) {
	b := start(t, Config{})
	for i := range 200 {
		b.post("/v1/chat/completions", chatBody("sim/tokens-3", streamed))
		want(t, "streams", b.sim.Stats().Total.Completed, 2*i+1)
		b.post("/openai/v1/chat/completions", chatBody("sim/tokens-3", ""))
		want(t, "answers", b.sim.Stats().Total.Reported.Output, 6*(i+1))
	}
}

func TestDeparturesAreNoticed(t *testing.T) {
	b := start(t, Config{})
	for _, body := range []string{
		chatBody("sim/slow-5+tokens-2000", `,"stream":true`), // between tokens
		chatBody("sim/slow-60000", `,"stream":true`),         // in a long silence
		chatBody("sim/slow-5+tokens-2000", ""),               // before a plain answer
		chatBody("sim/first-60000", ""),
		chatBody("sim/pause-60000", `,"stream":true`),
		chatBody("sim/hang", ""),
		chatBody("sim/blackhole", `,"stream":true`),
	} {
		b.sim.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if resp, err := b.do(ctx, "POST", "/v1/chat/completions", "application/json", body); err == nil {
				_, _ = bufio.NewReader(resp.Body).ReadString(0)
				resp.Body.Close()
			}
		}()
		for b.sim.Stats().Total.Requests == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(60 * time.Millisecond)
		left := time.Now()
		cancel()
		<-ended
		want(t, "gone", b.total().ClientGone, 1)
		d := b.sim.Stats().Departures[0]
		if late := d.AtUnixMs - left.UnixMilli(); late < -1 || late > 500 {
			t.Errorf("%s: noticed after %d ms", body, late)
		}
		if strings.Contains(body, "slow-5+") && b.total().Generated.Output < 3 {
			t.Errorf("%s: made %d tokens", body, b.total().Generated.Output)
		}
	}
}

func TestResetWhileAnswering(t *testing.T) {
	b := start(t, Config{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.post("/v1/chat/completions", chatBody("sim/slow-5+tokens-20", streamed))
	}()
	for b.sim.Stats().Open == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	b.sim.Reset()
	<-ended
	total := b.total()
	want(t, "requests", total.Requests, 0)
	want(t, "completed", total.Completed, 0)
	want(t, "tokens", total.Generated.Total, 0)
}

// Thousands of slow streams must cost little: no goroutine but the connection's own.
func TestManyStreamsAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("two thousand sockets")
	}
	b := start(t, Config{})
	const n = 2000
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if a := b.post("/openai/v1/chat/completions", chatBody("sim/slow-100+tokens-12", streamed)); a.err != nil {
				t.Error(a.err)
			}
		})
	}
	all.Wait()
	want(t, "completed", b.total().Completed, n)
	want(t, "tokens", b.total().Reported.Output, 12*n)
	if most := b.sim.Stats().MaxOpen; most < n/4 {
		t.Errorf("only %d at once", most)
	}
	t.Logf("at most %d at once", b.sim.Stats().MaxOpen)
}
