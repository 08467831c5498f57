package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
)

// repeated is a connection on which the same request comes again and again.
type repeated struct {
	net.Conn
	request []byte
	at      int
	left    int
	wrote   int
	last    []byte
}

func (c *repeated) Read(p []byte) (int, error) {
	if c.at == 0 && c.left == 0 {
		return 0, io.EOF
	}
	if c.at == 0 {
		c.left--
	}
	n := copy(p, c.request[c.at:])
	c.at = (c.at + n) % len(c.request)
	return n, nil
}

func (c *repeated) Write(p []byte) (int, error) {
	c.wrote++
	c.last = append(c.last[:0], p...)
	return len(p), nil
}
func (*repeated) Close() error                     { return nil }
func (*repeated) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*repeated) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*repeated) SetDeadline(time.Time) error      { return nil }
func (*repeated) SetReadDeadline(time.Time) error  { return nil }
func (*repeated) SetWriteDeadline(time.Time) error { return nil }

// chatOf is a call with a conversation of 8 KiB, as assistants have.
func chatOf(key string) string {
	text := make([]byte, 8<<10)
	for i := range text {
		text[i] = 'a' + byte(i%23)
	}
	return postJSON("/v1/chat/completions", key, `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"`+string(text)+`"}]}`,
		"X-Conversation-Id: c1", "X-Phone: +5511987654321")
}

// BenchmarkBlocked is a refused call from its first byte to the last of its answer, without the kernel: CPU is time here,
// for nothing waits.
func BenchmarkBlocked(b *testing.B) {
	for _, bench := range []struct {
		name   string
		policy budget.Policy
		status string
	}{
		{"block", budget.Policy{}, "HTTP/1.1 402"},
		{"answer", budget.Policy{AtLimit: budget.Answer}, "HTTP/1.1 200"},
		{"fit output", budget.Policy{FitOutput: true}, "HTTP/1.1 402"},
		{"tail", budget.Policy{TailCalls: 3, TailPercent: 10}, "HTTP/1.1 402"},
		{"loop", budget.Policy{ConversationCalls: 1}, "HTTP/1.1 429"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			bank := openBank(b, func(*upConn) {}, nil)
			bank.limit(direct, budget.Tokens, 10)
			bank.limit(direct, budget.BRL, 1<<60)
			bank.limit(direct, budget.USD, 1<<60)
			bank.policy(direct, bench.policy)
			bank.ask(chatOf("ck_direct"))
			conn := &repeated{request: []byte(chatOf("ck_direct")), left: b.N}
			b.ReportAllocs()
			b.ResetTimer()
			_ = bank.proxy.server.ServeConn(conn)
			b.StopTimer()
			if len(conn.last) < 12 || string(conn.last[:12]) != bench.status {
				b.Fatalf("%s", conn.last)
			}
		})
	}
}

// BenchmarkHold is what budgets add to a call that fits: its worst case, the hold in three windows, and the settlement.
func BenchmarkHold(b *testing.B) {
	bank := openBank(b, func(*upConn) {}, nil)
	for _, u := range []budget.Unit{budget.Tokens, budget.BRL, budget.USD} {
		bank.limit(direct, u, 1<<60)
	}
	c := benchCall(b, bank, "ck_direct")
	if _, err := c.hold(); err != nil { // the first one waits for the ledger
		b.Fatal(err)
	}
	c.letGo()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.hold(); err != nil {
			b.Fatal(err)
		}
		c.event.Holds = c.heldParts()
		c.event.Doubt = c.doubtful(metering.OK)
		c.settleHold()
	}
}

// BenchmarkNoHold is what they add to a call of a client without: nothing to speak of, and no allocation.
func BenchmarkNoHold(b *testing.B) {
	bank := openBank(b, func(*upConn) {}, nil)
	c := benchCall(b, bank, "ck_other")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.hold(); err != nil {
			b.Fatal(err)
		}
		c.event.Doubt = c.doubtful(metering.OK)
		c.settleHold()
	}
}

// benchCall is a call that was read and aimed, and not yet held for.
func benchCall(b testing.TB, bank *bank, key string) *call {
	b.Helper()
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(&fasthttp.Request{}, nil, nil)
	c := bank.proxy.begin(ctx)
	c.who, c.ep = bank.proxy.Keys.(*keys).byKey[key], &endpoints[epChat]
	ctx.Request.SetBodyString(chatBody("gpt-4o-mini", ""))
	if err := c.read(); err != nil {
		b.Fatal(err)
	}
	if err := c.choose(); err != nil {
		b.Fatal(err)
	}
	return c
}

func TestNoHoldAllocatesNothing(t *testing.T) {
	bank := openBank(t, func(*upConn) {}, nil)
	c := benchCall(t, bank, "ck_other")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.hold(); err != nil {
			t.Fatal(err)
		}
		c.event.Doubt = c.doubtful(metering.OK)
		c.settleHold()
	}); n != 0 {
		t.Errorf("%v allocations for a client without budgets", n)
	}
	if c = benchCall(t, bank, "ck_direct"); c.stake.account != nil {
		t.Fatal("a call with a stake from before")
	}
}
