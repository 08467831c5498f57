package proxy

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
)

// endless is an upstream that ignores every limit: it sends pieces of 80 bytes, until the client or the number ends it.
func endless(pieces int) func(c *upConn) {
	return func(c *upConn) {
		if _, _, err := c.request(); err != nil {
			return
		}
		c.say(streamHead)
		for range pieces {
			if _, err := io.WriteString(c, chunk(delta(strings.Repeat("palavra ", 10)))); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		c.gone()
	}
}

// A stream that goes beyond what is held for it has more held, and is cut where there is no more: its upstream's work
// ends, and the client is told so by an error and no clean end.
func TestOutrun(t *testing.T) {
	for _, tt := range []struct {
		name       string
		policy     budget.Policy
		room       int64 // beyond what is held at first
		cut, tops  bool
		doubt      bool
		leastSpent int64
	}{
		{name: "cut", policy: budget.Policy{Outrun: budget.Cut}, room: 100_000, cut: true, doubt: true, leastSpent: 50},
		{name: "cut, estimates accepted", policy: budget.Policy{Outrun: budget.Cut, AcceptEstimates: true}, room: 100_000, cut: true, leastSpent: 50},
		{name: "nothing more to hold", policy: budget.Policy{}, room: 0, cut: true, doubt: true, leastSpent: 50},
		{name: "something more to hold", policy: budget.Policy{}, room: 400, cut: true, tops: true, doubt: true, leastSpent: 400},
		{name: "enough to hold", policy: budget.Policy{}, room: 100_000, tops: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t, endless(200), nil) // 16 000 bytes: no less than 2000 tokens
			const more = `,"max_tokens":50,"stream":true`
			worst := int64(len(chatBody("gpt-4o-mini", more))) + 256 + 50
			b.limit(direct, budget.Tokens, worst+tt.room)
			b.policy(direct, tt.policy)
			a := b.ask(chatCall("gpt-4o-mini", more))
			if a.status != 200 || a.get("X-Catraca-Budget-Unit") != "tokens" {
				t.Fatalf("%d %v %s", a.status, a.header, a.body)
			}
			e := b.meter.wait(1)
			text := string(a.body)
			if tt.cut {
				if a.whole || strings.Contains(text, "[DONE]") || !strings.HasSuffix(text, "\n\n") ||
					!strings.Contains(text, `data: {"error":{"message":"the answer was cut off: it went beyond what the budget had left for it","type":"insufficient_quota","param":null,"code":"budget_exceeded"}}`) {
					t.Errorf("it ended in %s", text[max(0, len(text)-400):])
				}
				if e.Outcome != metering.Truncated || e.ErrorCode != "budget_exceeded" || e.Source != metering.Estimated || b.counted("catraca_budget_cut_total", "") != 1 {
					t.Errorf("%s", showEvent(&e))
				}
				if passed := strings.Count(text, "palavra") * 8; int64(passed) > 8*(50+tt.room)+1000 {
					t.Errorf("%d bytes of text passed", passed)
				}
			} else if !a.whole || !strings.HasSuffix(text, done) || e.Source != metering.Measured {
				t.Errorf("it ended in %s: %s", text[max(0, len(text)-200):], showEvent(&e))
			}
			if tops := b.counted("catraca_budget_topped_up_total", "") > 0; tops != tt.tops || tops != (e.Holds[0].Amount > worst) {
				t.Errorf("topped up: %t, %d held of %d", tops, e.Holds[0].Amount, worst)
			}
			if e.Doubt != tt.doubt || e.Output < tt.leastSpent {
				t.Errorf("doubt %t, output %d", e.Doubt, e.Output)
			}
			if p := b.lastProgress(); tt.tops && (len(p.Holds) != 1 || p.Holds[0].Amount <= worst) {
				t.Errorf("the spool was not told of what is held: %v", p.Holds)
			}
			b.settle()
			if w := b.window(budget.Tokens); w.Spent+w.Held+w.Suspense > w.Base {
				t.Errorf("window %+v", w)
			}
		})
	}
}

func (b *bank) lastProgress() (e metering.Event) {
	b.meter.mu.Lock()
	defer b.meter.mu.Unlock()
	if n := len(b.meter.progress); n > 0 {
		e = b.meter.progress[n-1]
	}
	return e
}

// An answer that is read on for a client that has gone is held to what is held for it all the same.
func TestOutrunOfOneThatIsReadOn(t *testing.T) {
	t.Parallel()
	const more = `,"max_tokens":50,"stream":true`
	next := make(chan bool)
	ended := make(chan bool, 1)
	b := openBank(t, func(c *upConn) {
		if _, _, err := c.request(); err != nil {
			return
		}
		c.say(streamHead + chunk(delta("Oi")))
		<-next
		for range 200 {
			if _, err := io.WriteString(c, chunk(delta(strings.Repeat("palavra ", 10)))); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		c.gone()
		ended <- true
	}, nil)
	exact := clientID(11)
	b.limit(exact, budget.Tokens, 100_000)
	b.policy(exact, budget.Policy{Outrun: budget.Cut})
	c := b.dial()
	c.say(strings.Replace(chatCall("gpt-4o-mini", more), "ck_direct", "ck_exact-direct", 1))
	c.until(t, "Oi")
	c.Close()
	eventually(t, "the answer is read on", func() bool { return b.metric("catraca_reading_on") == 1 })
	close(next)
	e := b.meter.wait(1)
	if e.ErrorCode != "budget_exceeded" || !e.Doubt || e.Output < 50 || b.counted("catraca_budget_cut_total", "") != 1 {
		t.Errorf("doubt %t: %s", e.Doubt, showEvent(&e))
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the upstream goes on")
	}
	eventually(t, "its place is free", func() bool { return b.metric("catraca_reading_on") == 0 })
}
