package proxy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/catraca/catraca/budget"
)

// usageOf is a whole chat with a bill of its own.
func usageOf(in, out int) string {
	return answer200("application/json", fmt.Sprintf(
		`{"id":"chatcmpl-1","model":"gpt-4o-mini","choices":[{"index":0,"message":{"content":"Oi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`,
		in, out, in+out))
}

// What is held is the worst case, in the spool before the call leaves; what is settled is what the upstream said.
func TestHold(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(direct, budget.Tokens, 100_000)
	b.limit(direct, budget.BRL, int64(5*1_000_000_000_000))
	b.limit(direct, budget.USD, int64(1*1_000_000_000_000))
	a := b.ask(chatCall("gpt-4o-mini", ""))
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	e := b.meter.wait(1)
	if len(e.Holds) != 3 || e.Doubt || !slices.Equal(b.opened(1).Holds, e.Holds) {
		t.Fatalf("holds %v, opened with %v, doubt %t", e.Holds, b.opened(1).Holds, e.Doubt)
	}
	held := map[budget.Unit]int64{}
	for _, h := range e.Holds {
		for _, w := range b.books.Windows() {
			if w.ID == h.Window {
				held[w.Unit] = h.Amount
			}
		}
	}
	body := int64(len(chatBody("gpt-4o-mini", "")))
	input := held[budget.Tokens] - 1000 // the model's largest output
	if input < body || input > body+1024 {
		t.Errorf("%d tokens are held for a prompt in a body of %d bytes", input, body)
	}
	if usd := input*1_000_000 + 1000*4_000_000; held[budget.USD] != usd || held[budget.BRL] != 5*usd {
		t.Errorf("held %v, want %d of USD and five times that of BRL", held, usd)
	}
	if got, want := b.bodies()[0], strings.Replace(chatBody("gpt-4o-mini", ""), "{", `{"max_completion_tokens":1000,`, 1); got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	b.settle()
	for _, unit := range []struct {
		unit budget.Unit
		want int64
	}{{budget.Tokens, 13}, {budget.USD, 9*1_000_000 + 4*4_000_000}, {budget.BRL, 5 * (9*1_000_000 + 4*4_000_000)}} {
		if w := b.window(unit.unit); w.Spent != unit.want || w.Suspense != 0 || w.Overrun != 0 || w.Unheld != 0 {
			t.Errorf("window of %s: %+v, want %d spent", unit.unit, w, unit.want)
		}
	}
}

// Where budgets only alert nothing is held, and nothing of the request is changed.
func TestSoftBudgetHoldsNothing(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.budget(budget.Budget{ClientID: direct, Unit: budget.BRL, Period: budget.Daily, Limit: 1})
	for _, model := range []string{"gpt-4o-mini", "priceless", "endless"} {
		if a := b.ask(chatCall(model, "")); a.status != 200 {
			t.Fatalf("%s: %d %s", model, a.status, a.body)
		}
	}
	for i, model := range []string{"gpt-4o-mini", "priceless", "endless"} {
		if e := b.meter.wait(i + 1); len(e.Holds) != 0 || e.Doubt {
			t.Errorf("%s: %+v", model, e)
		}
		if got := b.bodies()[i]; got != chatBody(model, "") {
			t.Errorf("sent %s", got)
		}
	}
}

// Clients without budgets are not looked up.
func TestNoBudgets(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.lender.silent.Store(true)
	asked := b.lender.asked.Load()
	if a := b.ask(strings.Replace(chatCall("gpt-4o-mini", ""), "ck_direct", "ck_other", 1)); a.status != 200 && a.status != 404 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if e := b.meter.wait(1); len(e.Holds) != 0 {
		t.Error("something was held")
	}
	if now := b.lender.asked.Load(); now > asked+1 { // Run's own first message may come late
		t.Errorf("the ledger was asked %d times", now-asked)
	}
}

// A call's memory is used again: nothing of one client's budgets is told to the next.
func TestStakeEndsWithItsCall(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(direct, budget.Tokens, 1_000_000)
	b.policy(direct, budget.Policy{AtLimit: budget.Answer, ConversationCalls: 1000})
	for range 20 {
		if a := b.ask(chatCall("gpt-4o-mini", "", "X-Conversation-Id: a")); a.get("X-Catraca-Budget-Limit") == "" {
			t.Fatalf("%d %v", a.status, a.header)
		}
		a := b.ask(strings.Replace(chatCall("gpt-4o-mini", ""), "ck_direct", "ck_other", 1))
		if strings.Contains(strings.Join(a.header, "\n"), "X-Catraca-Budget") {
			t.Fatalf("another client is told %v", a.header)
		}
		n, _ := b.meter.counts()
		if e := b.meter.wait(n); e.ClientID == direct || len(e.Holds) != 0 {
			t.Fatalf("%+v", e)
		}
	}
}

// What the worst case is priced at, by models and requests. The body's length is known, and 256 tokens are for what
// upstreams put around it.
func TestWorstCase(t *testing.T) {
	const more = 256
	for _, tt := range []struct {
		name, model, more string
		in, out           int64 // prices of a token, in pico-dollars
		output            int64
		times             int64
	}{
		{"plain", "gpt-4o-mini", "", 1_000_000, 4_000_000, 1000, 1},
		{"own limit", "gpt-4o-mini", `,"max_tokens":10`, 1_000_000, 4_000_000, 10, 1},
		{"own limit beyond the model's", "gpt-4o-mini", `,"max_tokens":100000`, 1_000_000, 4_000_000, 1000, 1},
		{"choices", "gpt-4o-mini", `,"max_tokens":10,"n":3`, 1_000_000, 4_000_000, 30, 1},
		{"a dearer fallback", "gpt-4o-mini", `,"max_tokens":10,"models":["gpt-4o","gpt-4o-mini"]`, 10_000_000, 40_000_000, 10, 1},
		{"a cheaper fallback", "gpt-4o", `,"max_tokens":10,"models":["gpt-4o-mini"]`, 10_000_000, 40_000_000, 10, 1},
		{"priority", "gpt-4o-mini", `,"max_tokens":10,"service_tier":"priority"`, 1_000_000, 4_000_000, 10, 2},
		{"flex", "gpt-4o-mini", `,"max_tokens":10,"service_tier":"flex"`, 1_000_000, 4_000_000, 10, 1},
		{"cache writes, and tiers that are reached", "tiered", `,"max_tokens":10`, 5_000_000, 4_000_000, 10, 1},
		{"cache for long", "gpt-4o-mini", `,"max_tokens":10,"prompt_cache_retention":"24h"`, 2_000_000, 4_000_000, 10, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openSaying(t, usageOf(9, 4), nil)
			b.limit(direct, budget.USD, 1_000_000_000_000)
			b.limit(direct, budget.Tokens, 1_000_000)
			if a := b.ask(chatCall(tt.model, tt.more)); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			e := b.meter.wait(1)
			input := int64(len(chatBody(tt.model, tt.more))) + more
			for _, h := range e.Holds {
				want := input + tt.output
				if h.Window == b.window(budget.USD).ID {
					want = tt.times * (input*tt.in + tt.output*tt.out)
				}
				if h.Amount != want {
					t.Errorf("held %d, want %d", h.Amount, want)
				}
			}
			if len(e.Holds) != 2 {
				t.Errorf("holds %v", e.Holds)
			}
		})
	}
}

// The cap that is held for is what the upstream is asked to keep to; nothing else of the request changes.
func TestOutputCap(t *testing.T) {
	for _, tt := range []struct {
		name, path, body string
		policy           budget.Policy
		want             string // empty: as it was
	}{
		{name: "chat", path: "/v1/chat/completions", body: `{ "model" : "gpt-4o-mini" ,"messages":[]}`, want: `{"max_completion_tokens":1000, "model" : "gpt-4o-mini" ,"messages":[]}`},
		{name: "completions", path: "/v1/completions", body: `{"model":"gpt-3.5-turbo-instruct","prompt":"a"}`, want: `{"max_tokens":1000,"model":"gpt-3.5-turbo-instruct","prompt":"a"}`},
		{name: "responses", path: "/v1/responses", body: `{"model":"gpt-4o-mini","input":"a"}`, want: `{"max_output_tokens":1000,"model":"gpt-4o-mini","input":"a"}`},
		{name: "of the policy", path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[]}`, policy: budget.Policy{OutputCap: 77}, want: `{"max_completion_tokens":77,"model":"gpt-4o-mini","messages":[]}`},
		{name: "of the policy, where nothing else limits", path: "/v1/chat/completions", body: `{"model":"endless","messages":[]}`, policy: budget.Policy{OutputCap: 77}, want: `{"max_completion_tokens":77,"model":"endless","messages":[]}`},
		{name: "left out", path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","messages":[]}`, policy: budget.Policy{OutputCap: 77, LeaveOutput: true}},
		{name: "the request's own", path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","max_tokens":5,"messages":[]}`, policy: budget.Policy{OutputCap: 77}},
		{name: "beyond the model's", path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","max_tokens":50000,"messages":[]}`, want: `{"model":"gpt-4o-mini","max_tokens":1000,"messages":[]}`},
		{name: "with a fallback", path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","models":["endless"],"messages":[]}`, want: `{"max_completion_tokens":1000,"model":"gpt-4o-mini","models":["endless"],"messages":[]}`},
		{name: "more than there is beside the prompt", path: "/v1/chat/completions", body: `{"model":"gpt-3.5-turbo-instruct","messages":[{"role":"user","content":"` + strings.Repeat("a ", 1800) + `"}]}`},
		{name: "embeddings", path: "/v1/embeddings", body: `{"model":"text-embedding-3-small","input":"a"}`},
		{name: "moderations", path: "/v1/moderations", body: `{"model":"omni-moderation-latest","input":"a"}`},
		{name: "speech", path: "/v1/audio/speech", body: `{"model":"tts-1","voice":"alloy","input":"a"}`},
		{name: "images", path: "/v1/images/generations", body: `{"model":"dall-e-3","prompt":"a"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openSaying(t, usageOf(9, 4), nil)
			b.limit(direct, budget.BRL, 50_000_000_000_000)
			b.policy(direct, tt.policy)
			if a := b.ask(postJSON(tt.path, "ck_direct", tt.body)); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			want := tt.want
			if want == "" {
				want = tt.body
			}
			if got := b.bodies()[0]; got != want {
				t.Errorf("sent %s\nwant %s", got, want)
			}
			if e := b.meter.wait(1); len(e.Holds) != 1 || e.Holds[0].Amount <= 0 && tt.name != "moderations" {
				t.Errorf("holds %v", e.Holds)
			}
		})
	}
}

// The gateway documents max_tokens.
func TestOutputCapAtTheGateway(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(gateway, budget.Tokens, 1_000_000)
	b.ask(postJSON("/v1/chat/completions", "ck_gateway", `{"stream":true,"model":"gpt-4o-mini"}`))
	if got, want := b.bodies()[0], `{"stream_options":{"include_usage":true},"max_tokens":1000,"stream":true,"model":"openai/gpt-4o-mini"}`; got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
}

// A hard budget lets nothing through whose cost has no bound in what it counts.
func TestCostUnbounded(t *testing.T) {
	for _, tt := range []struct {
		name, path, body string
		unit             budget.Unit
		says             string // empty: it goes through
	}{
		{"no price, in money", "/v1/chat/completions", chatBody("priceless", ""), budget.BRL, "no price"},
		{"no price, in tokens", "/v1/chat/completions", chatBody("priceless", ""), budget.Tokens, ""},
		{"no limit of output", "/v1/chat/completions", chatBody("endless", ""), budget.Tokens, "max_tokens"},
		{"one in the request", "/v1/chat/completions", chatBody("endless", `,"max_tokens":9`), budget.Tokens, ""},
		{"hidden input", "/v1/responses", `{"model":"endless","max_output_tokens":9,"input":"a","conversation":"c"}`, budget.Tokens, "context_window"},
		{"hidden input within a window", "/v1/responses", `{"model":"gpt-4o-mini","input":"a","conversation":"c"}`, budget.Tokens, ""},
		{"hosted tools", "/v1/responses", `{"model":"gpt-4o-mini","input":"a","tools":[{"type":"web_search"}]}`, budget.BRL, "tools"},
		{"unheard-of member", "/v1/chat/completions", chatBody("gpt-4o-mini", `,"turbo":true`), budget.BRL, "not known"},
		{"a tier in tokens", "/v1/chat/completions", chatBody("gpt-4o-mini", `,"service_tier":"warp"`), budget.Tokens, ""},
		{"providers chosen, on the direct route", "/v1/chat/completions", chatBody("gpt-4o-mini", `,"providerOptions":{"gateway":{"only":["azure"]}}`), budget.USD, ""},
		{"unheard-of tier", "/v1/chat/completions", chatBody("gpt-4o-mini", `,"service_tier":"warp"`), budget.USD, "service_tier"},
		{"an endless fallback in tokens", "/v1/chat/completions", chatBody("gpt-4o-mini", `,"models":["priceless"]`), budget.USD, "no price"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openSaying(t, usageOf(9, 4), nil)
			b.limit(direct, tt.unit, 50_000_000_000_000)
			a := b.ask(postJSON(tt.path, "ck_direct", tt.body))
			if tt.says == "" {
				if a.status != 200 {
					t.Errorf("%d %s", a.status, a.body)
				}
				return
			}
			if a.status != 403 || !strings.Contains(string(a.body), `"code":"cost_unbounded"`) || !strings.Contains(string(a.body), tt.says) || !strings.Contains(string(a.body), `"type":"permission_error"`) {
				t.Errorf("%d %s", a.status, a.body)
			}
			if a.get("X-Should-Retry") != "false" || len(b.bodies()) != 0 || b.counted("catraca_budget_unbounded_total", "") != 1 {
				t.Errorf("retry %q, %d calls upstream", a.get("X-Should-Retry"), len(b.bodies()))
			}
		})
	}
}

// When a period has ended and the ledger could not be asked since, what the budgets count is not known before the call is
// held for: it must not be held for nothing.
func TestHoldBehindATurn(t *testing.T) {
	t.Parallel()
	for _, unit := range []budget.Unit{budget.Tokens, budget.BRL} {
		b := openSaying(t, usageOf(9, 4), nil)
		b.limit(direct, unit, 1_000_000_000_000)
		if a := b.ask(chatCall("gpt-4o-mini", "")); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		b.lender.silent.Store(true)
		b.ahead.Store(int64(25 * time.Hour))
		eventually(t, "what is known has lapsed", func() bool { return b.ask(chatCall("gpt-4o-mini", "")).status == 503 })
		b.lender.silent.Store(false)
		eventually(t, "the ledger answers again", func() bool { return b.ask(chatCall("gpt-4o-mini", "")).status == 200 })
		n, _ := b.meter.counts()
		first := b.meter.wait(1).Holds
		for i := 2; i <= n; i++ {
			if e := b.meter.wait(i); len(e.Holds) != 1 || e.Holds[0].Amount != first[0].Amount || e.Holds[0].Window == first[0].Window {
				t.Errorf("%s: call %d holds %v, the first one %v", unit, i, e.Holds, first)
			}
		}
	}
}

// At the gateway another provider, or a region, may be dearer than the list.
func TestRoutedIsUnbounded(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(gateway, budget.USD, 50_000_000_000_000)
	call := strings.Replace(chatCall("gpt-4o-mini", `,"providerOptions":{"gateway":{"only":["azure"]}}`), "ck_direct", "ck_gateway", 1)
	if a := b.ask(call); a.status != 403 || !strings.Contains(string(a.body), "cost_unbounded") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// A policy may have the prompt counted, which is tighter than its bytes.
func TestCountedBound(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(direct, budget.Tokens, 1_000_000)
	long := postJSON("/v1/chat/completions", "ck_direct", `{"model":"gpt-4o-mini","max_tokens":10,"messages":[{"role":"user","content":"`+strings.Repeat("uma palavra e mais ", 200)+`"}]}`)
	b.ask(long)
	b.policy(direct, budget.Policy{Bound: budget.BoundTokenizer})
	eventually(t, "the prompt is counted", func() bool {
		b.ask(long)
		n, _ := b.meter.counts()
		return b.meter.wait(n).Holds[0].Amount < b.meter.wait(1).Holds[0].Amount/2
	})
}

// What is billed above the worst case is told as overrun, and takes nothing from what others hold.
func TestOverrunIsTold(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 5000), nil)
	b.limit(direct, budget.Tokens, 100_000)
	b.ask(chatCall("gpt-4o-mini", `,"max_tokens":50`))
	held := b.meter.wait(1).Holds[0].Amount
	b.settle()
	if w := b.window(budget.Tokens); w.Spent != held || w.Overrun != 5009-held || w.Suspense != 0 {
		t.Errorf("window %+v of %d held", w, held)
	}
}

// A recording is held for by how long it plays.
func TestHoldForARecording(t *testing.T) {
	t.Parallel()
	b := openSaying(t, answer200("application/json", `{"text":"Ola"}`), nil)
	b.limit(direct, budget.USD, 1_000_000_000_000)
	form := func(file string) string {
		body := "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n" + file + "\r\n--x--\r\n"
		return strings.Replace(postJSON("/v1/audio/transcriptions", "ck_direct", body), "application/json", "multipart/form-data; boundary=x", 1)
	}
	wav := "RIFF\x24\xfa\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\xfa\x00\x00" + strings.Repeat("\x00", 64_000) // four seconds
	if a := b.ask(form(wav)); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	e := b.meter.wait(1)
	const second = 100_000_000 // of a dollar's 10^12
	if held := e.Holds[0].Amount; e.USD != 4*second || held < 4*second || held > 6*second {
		t.Errorf("%d held for a bill of %d", held, e.USD)
	}
	if a := b.ask(form("no recording at all")); a.status != 403 || !strings.Contains(string(a.body), "cost_unbounded") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// However many calls come at once, whole, streamed or left: what is spent, held and in doubt fits the limit, and it is used
// until the next call does not fit.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const more = `,"max_tokens":50`
	worst := int64(len(chatBody("gpt-4o-mini", more))) + 256 + 50
	b := openBank(t, func(c *upConn) {
		for n := 0; ; n++ {
			_, body, err := c.request()
			if err != nil {
				return
			}
			switch {
			case n%7 == 3:
				return // without an answer
			case strings.Contains(body, `"stream":true`):
				c.say(streamGood)
			default:
				c.say(usageOf(int(worst)-50, 50)) // as bad as it can be
			}
		}
	}, nil)
	const calls = 40
	b.limit(direct, budget.Tokens, calls*worst+worst/2)
	var refused atomic.Int64
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := range 12 {
				request := chatCall("gpt-4o-mini", more)
				if (i+n)%3 == 0 {
					request = chatCall("gpt-4o-mini", more+`,"stream":true`)
				}
				c := b.dial()
				c.say(request)
				if (i+n)%11 == 0 {
					c.Close()
					continue
				}
				if a, err := c.answer(); err == nil && a.status == 402 {
					refused.Add(1)
				}
				c.Close()
				if n%4 == 0 {
					b.settle()
				}
			}
		})
	}
	all.Wait()
	eventually(t, "all calls have ended", func() bool { opened, closed := b.meter.counts(); return opened == closed })
	b.settle()
	w := b.window(budget.Tokens)
	if w.Overrun != 0 || w.Unheld != 0 || w.Spent+w.Suspense > w.Base {
		t.Errorf("window %+v", w)
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused")
	}
	for b.ask(chatCall("gpt-4o-mini", more)).status != 402 {
	}
	b.settle()
	if w = b.window(budget.Tokens); w.Base-w.Spent-w.Suspense >= 2*worst || w.Spent+w.Suspense > w.Base || w.Overrun != 0 {
		t.Errorf("%d of %d are left, and a call of %d was refused", w.Base-w.Spent-w.Suspense, w.Base, worst)
	}
}

// A client that is not known here while the ledger is away is refused; one with a lease goes on.
func TestLedgerUnavailable(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(direct, budget.Tokens, 1_000_000_000)
	if a := b.ask(chatCall("gpt-4o-mini", `,"max_tokens":100`)); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	b.lender.silent.Store(true)
	if a := b.ask(chatCall("gpt-4o-mini", `,"max_tokens":10`)); a.status != 200 {
		t.Errorf("with a lease: %d %s", a.status, a.body)
	}
	began := time.Now()
	a := b.ask(strings.Replace(chatCall("gpt-4o-mini", ""), "ck_direct", "ck_gateway", 1))
	if a.status != 503 || !strings.Contains(string(a.body), `"code":"ledger_unavailable"`) || a.get("Retry-After") == "" || a.get("X-Should-Retry") != "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if waited := time.Since(began); waited > 2*time.Second {
		t.Errorf("it took %v to say so", waited)
	}
	if b.counted("catraca_budget_unavailable_total", "") != 1 || len(b.bodies()) != 2 {
		t.Errorf("%d calls upstream", len(b.bodies()))
	}
}

// Every answer of a client with budgets tells how the tightest of them stands, in the budget's zone; of a budget over all
// clients nothing is told.
func TestBudgetHeaders(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(direct, budget.BRL, 10_500_000_000_000)
	b.budget(budget.Budget{Unit: budget.Tokens, Period: budget.Daily, Limit: 5000, PauseAtLimit: true})
	b.limit(gateway, budget.BRL, 1_000_000_000_000_000)
	check := func(a *answer, want map[string]string) {
		t.Helper()
		for name, value := range want {
			if got := a.get("X-Catraca-Budget-" + name); got != value {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
	}
	a := b.ask(strings.Replace(chatCall("gpt-4o-mini", ""), "ck_direct", "ck_gateway", 1))
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	check(a, map[string]string{"Limit": "", "Used": "", "Held": "", "Unit": "", "Period": "", "Reset": ""})
	b.settle()
	b.budget(budget.Budget{ClientID: direct, Unit: budget.Tokens, Period: budget.Daily, Limit: 1300, PauseAtLimit: true})
	eventually(t, "the new budget is the tightest", func() bool {
		a = b.ask(chatCall("gpt-4o-mini", `,"max_tokens":10`))
		return a.get("X-Catraca-Budget-Unit") == "tokens"
	})
	check(a, map[string]string{"Limit": "1300", "Unit": "tokens", "Period": "daily"})
	reset, err := time.Parse(time.RFC3339, a.get("X-Catraca-Budget-Reset"))
	if _, offset := reset.Zone(); err != nil || offset != -3*3600 || reset.Hour() != 0 || time.Until(reset) > 24*time.Hour {
		t.Errorf("reset %q: %v", a.get("X-Catraca-Budget-Reset"), err)
	}
	// An error of the upstream has them too, and one of ours.
	if a := b.ask(chatCall("gpt-4o-mini", `,"max_tokens":100000`)); a.status != 402 || a.get("X-Catraca-Budget-Limit") != "1300" {
		t.Errorf("%d %v", a.status, a.header)
	}
}
