package proxy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
)

// Who is charged what when things end badly, and what becomes of what was held: row by row.
func TestHoldEnds(t *testing.T) {
	plain := chatCall("gpt-4o-mini", `,"max_tokens":50`)
	stream := chatCall("gpt-4o-mini", `,"max_tokens":50,"stream":true`)
	cut := streamHead + chunk(delta("Oi")) + chunk(delta("!"))
	for _, tt := range []struct {
		name, request, said string
		policy              budget.Policy
		leaves              bool // the client goes once it has seen something
		prepare             func(b *bank)
		spent               int64 // -1: something, by our own count
		doubt               bool
	}{
		{name: "usage", request: plain, said: usageOf(9, 4), spent: 13},
		{name: "usage of zero", request: plain, said: usageOf(0, 0), spent: 0},
		{name: "no usage", request: plain, said: answer200("application/json", `{"id":"x","choices":[{"message":{"content":"Ola, tudo bem?"}}]}`), spent: -1},
		{name: "4xx", request: plain, said: "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}", spent: 0},
		{name: "5xx", request: plain, said: "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}", spent: 0},
		{name: "5xx that breaks off", request: plain, said: "HTTP/1.1 503 Busy\r\nContent-Length: 20\r\n\r\n{", spent: 0},
		{name: "redirect", request: plain, said: "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", spent: 0},
		{name: "an error in a 200", request: plain, said: answer200("application/json", `{"error":{"message":"no","type":"x","param":null,"code":"y"}}`), spent: 0},
		{name: "not reached", request: plain, prepare: func(b *bank) { b.up.ln.Close() }, spent: 0},
		{name: "closed without an answer", request: plain, spent: 0, doubt: true},
		{name: "a head that breaks off", request: plain, said: "HTTP/1.1 200 OK\r\nContent-", spent: 0, doubt: true},
		{name: "a plain answer that breaks off", request: plain, said: usageOf(9, 4)[:150], spent: -1, doubt: true},
		{name: "too slow", request: plain, said: "hang", spent: 0, doubt: true},
		{name: "stream", request: stream, said: streamGood, spent: 13},
		{name: "stream without usage", request: stream, said: streamHead + chunk(delta("Oi")) + chunk(finish) + chunk(done) + "0\r\n\r\n", spent: -1},
		{name: "stream that breaks off", request: stream, said: cut, spent: -1, doubt: true},
		{name: "stream that breaks off, estimates accepted", request: stream, said: cut, policy: budget.Policy{AcceptEstimates: true}, spent: -1},
		{name: "stream that tells an error", request: stream, said: cut + chunk(`data: {"error":{"message":"x","type":"y","param":null,"code":"z"}}`+"\n\n") + "0\r\n\r\n", spent: -1, doubt: true},
		{name: "stream that breaks off behind its end", request: stream, said: cut + chunk(finish) + chunk(usage) + chunk(done), spent: 13},
		{name: "client gone", request: stream, said: cut + "hang", leaves: true, spent: -1, doubt: true},
		{name: "client gone, read on", request: strings.Replace(stream, "ck_direct", "ck_exact-direct", 1), said: cut + "later", leaves: true, spent: 13},
		{name: "client gone, waiting", request: plain, said: "hang", leaves: true, spent: -1, doubt: true},
		{name: "spool full", request: plain, prepare: func(b *bank) { b.meter.refuse = metering.ErrSpoolFull }, spent: 0},
		{name: "fault before it leaves", request: plain, prepare: func(b *bank) { b.meter.onOpen.set(func() { panic("planted") }) }, spent: 0},
		{name: "background", request: postJSON("/v1/responses", "ck_direct", `{"model":"gpt-4o-mini","background":true,"input":"a"}`), said: answer200("application/json", `{"id":"resp_1","object":"response","status":"queued","usage":null}`), spent: -1, doubt: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			timeouts := defaultTimeouts
			if tt.name == "too slow" {
				timeouts.FirstByte = 300 * time.Millisecond
			}
			asked := make(chan bool, 2)
			b := openBankWith(t, func(c *upConn) { play(c, asked, tt.said) }, timeouts, nil)
			const limit = 1_000_000
			client := direct
			if strings.Contains(tt.request, "ck_exact-direct") {
				client = clientID(11)
			}
			b.limit(client, budget.Tokens, limit)
			b.policy(client, tt.policy)
			if tt.prepare != nil {
				tt.prepare(b)
			}
			if tt.leaves {
				c := b.dial()
				c.say(tt.request)
				<-asked
				if strings.HasPrefix(tt.said, streamHead) {
					c.until(t, `"!"`)
				}
				time.Sleep(50 * time.Millisecond)
				c.Close()
				b.meter.wait(1)
			} else {
				b.ask(tt.request)
			}
			eventually(t, "the call has ended", func() bool { opened, closed := b.meter.counts(); return opened == closed })
			b.settle()
			_, events := b.meter.counts()
			var w *budget.Window
			if events == 0 {
				w = b.window(budget.Tokens)
			} else {
				e := b.meter.wait(1)
				if w = b.window(budget.Tokens); len(e.Holds) != 1 || e.Doubt != tt.doubt {
					t.Errorf("%s", showEvent(&e))
				}
				if suspense := max(e.Holds[0].Amount-w.Spent, 0); tt.doubt && w.Suspense != suspense || !tt.doubt && w.Suspense != 0 {
					t.Errorf("%d in suspense of %d held and %d spent", w.Suspense, e.Holds[0].Amount, w.Spent)
				}
			}
			if tt.spent < 0 && w.Spent <= 0 || tt.spent >= 0 && w.Spent != tt.spent || w.Overrun != 0 || w.Unheld != 0 {
				t.Errorf("window %+v, want %d spent", w, tt.spent)
			}
			account, err := b.purse.Account(context.Background(), client)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the rest can be spent", func() bool {
				w := b.window(budget.Tokens)
				return account.Room(context.Background(), 0).Tokens == limit-w.Spent-w.Suspense
			})
		})
	}
}

// play says what it is told to say to one request. "hang" at the end waits until it is left, and "later" ends a stream well
// after its client has gone.
func play(c *upConn, asked chan<- bool, said string) {
	if _, _, err := c.request(); err != nil {
		return
	}
	text, hang := strings.CutSuffix(said, "hang")
	text, later := strings.CutSuffix(text, "later")
	c.say(text)
	asked <- true
	switch {
	case hang:
		c.gone()
	case later:
		time.Sleep(1500 * time.Millisecond)
		c.say(chunk(finish) + chunk(usage) + chunk(done) + "0\r\n\r\n")
		c.gone()
	}
}
