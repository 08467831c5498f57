package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/proxy/openai"
)

// everyEndpoint is a small call to each endpoint that costs money.
var everyEndpoint = []struct {
	name, path, body string
	streams          bool
}{
	{"chat", "/v1/chat/completions", `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Ola"}]}`, true},
	{"completions", "/v1/completions", `{"model":"gpt-3.5-turbo-instruct","prompt":["a","b"]}`, true},
	{"responses", "/v1/responses", `{"model":"gpt-4o-mini","input":"Ola"}`, true},
	{"embeddings", "/v1/embeddings", `{"model":"text-embedding-3-small","input":"a"}`, false},
	{"moderations", "/v1/moderations", `{"model":"omni-moderation-latest","input":"a"}`, false},
	{"speech", "/v1/audio/speech", `{"model":"tts-1","voice":"alloy","input":"a"}`, false},
	{"images", "/v1/images/generations", `{"model":"dall-e-3","prompt":"a"}`, false},
}

func never(t *testing.T) func(c *upConn) {
	return func(c *upConn) {
		if _, body, err := c.request(); err == nil {
			t.Errorf("a call went upstream: %s", body)
		}
	}
}

// What a client is answered at its limit, on each endpoint, whole and streamed: nothing goes upstream, and nothing is in
// the ledger.
func TestAtLimit(t *testing.T) {
	for _, policy := range []budget.Policy{
		{},
		{AtLimit: budget.Block},
		{AtLimit: budget.Answer},
		{AtLimit: budget.Answer, AnswerText: "Volte amanhã: \"às 9h\"."},
		{AtLimit: budget.Handoff},
	} {
		for _, ep := range everyEndpoint {
			for _, stream := range []bool{false, true} {
				if stream && !ep.streams {
					continue
				}
				t.Run(fmt.Sprintf("%s %s %s stream=%t", policy.AtLimit, policy.AnswerText, ep.name, stream), func(t *testing.T) {
					t.Parallel()
					b := openBank(t, never(t), nil)
					b.limit(direct, budget.Tokens, 10)
					b.policy(direct, policy)
					body := ep.body
					if stream {
						body = strings.Replace(body, "{", `{"stream":true,"stream_options":{"include_usage":true},`, 1)
						if ep.name == "responses" {
							body = strings.Replace(ep.body, "{", `{"stream":true,`, 1)
						}
					}
					a := b.ask(postJSON(ep.path, "ck_direct", body))
					if a.get("X-Request-Id") == "" || a.get("X-Catraca-Budget-Limit") != "10" || a.get("X-Catraca-Budget-Unit") != "tokens" {
						t.Errorf("header %v", a.header)
					}
					if policy.AtLimit == "" || policy.AtLimit == budget.Block || !ep.streams {
						checkBlocked(t, a)
						return
					}
					checkAnswered(t, a, &policy, ep.name, stream)
					if n := b.limited(string(policy.AtLimit)); n != 1 {
						t.Errorf("%v calls count as %s", n, policy.AtLimit)
					}
				})
			}
		}
	}
}

func checkBlocked(t *testing.T, a *answer) {
	t.Helper()
	var body struct {
		Error struct {
			Message, Type, Code string
			Param               *string
			Budget              struct {
				Type, Period, Limit, Used, Held string
				ResetsAt                        time.Time `json:"resets_at"`
			}
		}
	}
	if err := json.Unmarshal(a.body, &body); err != nil || a.status != 402 {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	e := body.Error
	if e.Type != "insufficient_quota" || e.Code != "budget_exceeded" || e.Param != nil || a.get("X-Should-Retry") != "false" || a.get("Retry-After") != "" {
		t.Errorf("%s\n%v", a.body, a.header)
	}
	if e.Budget.Type != "tokens" || e.Budget.Period != "daily" || e.Budget.Limit != "10" || e.Budget.Used != "0" || !e.Budget.ResetsAt.After(time.Now()) {
		t.Errorf("%s", a.body)
	}
	for _, want := range []string{"the daily budget of 10 tokens has not enough left", "0 tokens used", "this call may take up to", "(America/Sao_Paulo)", "-03:00"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("no %q in %s", want, e.Message)
		}
	}
}

func checkAnswered(t *testing.T, a *answer, p *budget.Policy, ep string, stream bool) {
	t.Helper()
	text := ""
	if p.AtLimit == budget.Answer {
		text = answerText(p)
	}
	if a.status != 200 || !a.whole || a.get("X-Catraca-Limit") != string(p.AtLimit) || a.get("X-Should-Retry") != "" || a.closing {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	quoted, _ := json.Marshal(text)
	if stream {
		if !strings.HasPrefix(a.get("Content-Type"), "text/event-stream") {
			t.Errorf("content type %q", a.get("Content-Type"))
		}
		if ep != "responses" && !strings.HasSuffix(string(a.body), done) {
			t.Errorf("no [DONE]: %s", a.body)
		}
		if text != "" && !strings.Contains(string(a.body), string(quoted)) {
			t.Errorf("no text: %s", a.body)
		}
		var rd openai.Reading
		var s openai.Stream
		kind := map[string]openai.Kind{"chat": openai.Chat, "completions": openai.Completions, "responses": openai.Responses}[ep]
		s.Init(kind, false, &rd)
		s.Feed(a.body)
		s.End(true)
		if !rd.Complete || rd.Failed || !rd.HasUsage || rd.Total != 0 {
			t.Errorf("our own reader makes %+v of %s", rd, a.body)
		}
		return
	}
	if a.get("Content-Type") != "application/json" || !json.Valid(a.body) {
		t.Errorf("%v %s", a.header, a.body)
	}
	if n := strings.Count(string(a.body), string(quoted)); text != "" && n != map[string]int{"chat": 1, "completions": 2, "responses": 1}[ep] {
		t.Errorf("the text is there %d times: %s", n, a.body)
	}
	if strings.Contains(string(a.body), `"error":{`) {
		t.Errorf("%s", a.body)
	}
}

// A sentence would break a client that waits for JSON.
func TestAnswerIsNoJSON(t *testing.T) {
	t.Parallel()
	b := openBank(t, never(t), nil)
	b.limit(direct, budget.Tokens, 10)
	b.policy(direct, budget.Policy{AtLimit: budget.Answer})
	checkBlocked(t, b.ask(chatCall("gpt-4o-mini", `,"response_format":{"type":"json_object"}`)))
}

// Of a budget over all clients a client is told that it is reached and no figure, in the body as in the headers.
func TestSharedBudgetTellsNothing(t *testing.T) {
	t.Parallel()
	b := openBank(t, never(t), nil)
	b.budget(budget.Budget{Unit: budget.BRL, Period: budget.Monthly, BillingDay: 5, Limit: 123_456, PauseAtLimit: true})
	a := b.ask(chatCall("gpt-4o-mini", ""))
	if a.status != 402 || !strings.Contains(string(a.body), "all clients of this service share") || !strings.Contains(string(a.body), `"budget":{"shared":true,"resets_at":"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, secret := range []string{"BRL", "123456", "monthly", "123_456", `"used"`} {
		if strings.Contains(string(a.body)+strings.Join(a.header, "\n"), secret) {
			t.Errorf("it tells %q: %v %s", secret, a.header, a.body)
		}
	}
}

// A budget that a person paused lets nothing through, whatever is to be done at the limit.
func TestBudgetPaused(t *testing.T) {
	t.Parallel()
	b := openBank(t, never(t), nil)
	b.policy(direct, budget.Policy{AtLimit: budget.Answer})
	b.budget(budget.Budget{ClientID: direct, Unit: budget.BRL, Period: budget.Daily, Limit: 1 << 60, Paused: true, PausedReason: "fatura em atraso"})
	a := b.ask(chatCall("gpt-4o-mini", ""))
	if want := `{"error":{"message":"this client's budget is paused: fatura em atraso","type":"permission_error","param":null,"code":"tenant_paused"`; a.status != 403 || !strings.HasPrefix(string(a.body), want) || a.get("X-Should-Retry") != "false" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if b.limited("paused") != 1 {
		t.Error("it is not counted")
	}
}

func TestFitOutput(t *testing.T) {
	for _, tt := range []struct {
		name, model, more string
		unit              budget.Unit
		limit             func(prompt int64) int64
		sends             string // what the body sent has; empty: 402
	}{
		{"tokens", "gpt-4o-mini", "", budget.Tokens, func(p int64) int64 { return p + 100 }, `"max_completion_tokens":100`},
		{"the request's own", "gpt-4o-mini", `,"max_tokens":500`, budget.Tokens, func(p int64) int64 { return p + 100 }, `"max_tokens":100`},
		{"choices", "gpt-4o-mini", `,"n":3`, budget.Tokens, func(p int64) int64 { return p + 100 }, `"max_completion_tokens":33`},
		{"dollars", "gpt-4o-mini", "", budget.USD, func(p int64) int64 { return p*1_000_000 + 4_000_000*50 + 5 }, `"max_completion_tokens":50`},
		{"reais", "gpt-4o-mini", "", budget.BRL, func(p int64) int64 { return 5*(p*1_000_000+4_000_000*50) + 12 }, `"max_completion_tokens":50`},
		{"a dearer fallback", "gpt-4o-mini", `,"models":["gpt-4o"]`, budget.USD, func(p int64) int64 { return p*10_000_000 + 40_000_000*20 }, `"max_completion_tokens":20`},
		{"too little", "gpt-4o-mini", "", budget.Tokens, func(p int64) int64 { return p + 15 }, ""},
		{"no room for the prompt", "gpt-4o-mini", "", budget.Tokens, func(p int64) int64 { return p - 100 }, ""},
		{"a model that reasons", "thinker", "", budget.Tokens, func(p int64) int64 { return p + 100 }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openSaying(t, usageOf(9, 4), nil)
			limit := tt.limit(int64(len(chatBody(tt.model, tt.more))) + 256)
			b.limit(direct, tt.unit, limit)
			b.policy(direct, budget.Policy{FitOutput: true})
			a := b.ask(chatCall(tt.model, tt.more))
			if tt.sends == "" {
				if a.status != 402 || len(b.bodies()) > 0 {
					t.Errorf("%d %s", a.status, a.body)
				}
				return
			}
			if a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if got := b.bodies()[0]; !strings.Contains(got, tt.sends) {
				t.Errorf("sent %s, want %s in it", got, tt.sends)
			}
			if e := b.meter.wait(1); e.Holds[0].Amount > limit || e.Holds[0].Amount < limit*9/10 {
				t.Errorf("%d of %d are held", e.Holds[0].Amount, limit)
			}
			if b.limited("fit_output") != 1 || b.limited("block") != 0 {
				t.Error("it is not counted")
			}
			b.settle()
		})
	}
}

func TestDowngrade(t *testing.T) {
	for _, tt := range []struct {
		name, to string
		dear     bool // the limit is for the cheaper model; else for none
		status   int
		logs     string
	}{
		{"a cheaper one", "gpt-4o-mini", true, 200, ""},
		{"by its gateway id", "openai/gpt-4o-mini", true, 200, ""},
		{"not even that", "gpt-4o-mini", false, 402, ""},
		{"itself", "gpt-4o", true, 402, ""},
		{"one that is not there", "gpt-9", true, 402, "downgrade"},
		{"one of another kind", "tts-1", true, 402, "downgrade"},
		{"one without a bound", "endless", true, 402, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openSaying(t, usageOf(9, 4), nil)
			prompt := int64(len(chatBody("gpt-4o", ""))) + 256
			limit := prompt*1_000_000 + 1000*4_000_000
			if !tt.dear {
				limit /= 2
			}
			b.limit(direct, budget.USD, limit)
			b.policy(direct, budget.Policy{AtLimit: budget.Downgrade, DowngradeModel: tt.to})
			var a *answer
			for range 2 {
				if a = b.ask(chatCall("gpt-4o", "")); a.status != tt.status {
					t.Fatalf("%d %s", a.status, a.body)
				}
				b.settle()
				if tt.status == 200 {
					break
				}
			}
			if n := strings.Count(b.log.String(), "downgrade"); (tt.logs != "") != (n == 1) {
				t.Errorf("%d log lines for two calls: %s", n, b.log.String())
			}
			if tt.status != 200 {
				if len(b.bodies()) > 0 || a.get("X-Catraca-Limit") != "" || b.limited("block") != 2 {
					t.Errorf("%v", a.header)
				}
				return
			}
			if a.get("X-Catraca-Limit") != "downgrade" || a.get("X-Catraca-Model") != "gpt-4o-mini" || b.limited("downgrade") != 1 {
				t.Errorf("%v", a.header)
			}
			if got := b.bodies()[0]; !strings.Contains(got, `"model":"gpt-4o-mini"`) {
				t.Errorf("sent %s", got)
			}
			if e := b.meter.wait(1); e.ModelAsked != "gpt-4o" || e.ModelServed != "gpt-4o-mini" || e.Holds[0].Amount != limit || e.USD != 9*1_000_000+4*4_000_000 {
				t.Errorf("%+v", e)
			}
		})
	}
}

// Through the gateway the cheaper model is called by the gateway's name for it.
func TestDowngradeAtTheGateway(t *testing.T) {
	t.Parallel()
	b := openSaying(t, usageOf(9, 4), nil)
	b.limit(gateway, budget.USD, 9_000_000_000)
	b.policy(gateway, budget.Policy{AtLimit: budget.Downgrade, DowngradeModel: "gpt-4o-mini"})
	if a := b.ask(strings.Replace(chatCall("gpt-4o", ""), "ck_direct", "ck_gateway", 1)); a.status != 200 || a.get("X-Catraca-Route") != "gateway" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := b.bodies()[0]; !strings.Contains(got, `"model":"openai/gpt-4o-mini"`) {
		t.Errorf("sent %s", got)
	}
}

// When little is left, conversations that are open end in it and new ones are refused.
func TestTail(t *testing.T) {
	t.Parallel()
	known := &conversations{}
	b := openSaying(t, usageOf(40, 10), func(o *Options) { o.Conversations = known })
	call := func(conversation string) *answer {
		return b.ask(chatCall("gpt-4o-mini", `,"max_tokens":10`, "X-Conversation-Id: "+conversation))
	}
	worst := int64(len(chatBody("gpt-4o-mini", `,"max_tokens":10`)) + 256 + 10)
	b.limit(direct, budget.Tokens, 10*worst)
	b.policy(direct, budget.Policy{TailCalls: 2, TailPercent: 50})
	if a := call("old"); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	b.settle()
	// Somebody else takes half of it, and more is left than any one call needs.
	b.spend(budget.Tokens, 5*worst)
	fresh := 0 // what the ledger has left is known here by the next heartbeat; who was let in before is under way
	eventually(t, "a new conversation is refused", func() bool { fresh++; return call(fmt.Sprint("new", fresh)).status == 402 })
	a := call("new")
	if !strings.Contains(string(a.body), "kept for conversations that are under way") || b.limited("tail") != 0 {
		t.Errorf("%s", a.body)
	}
	if a := b.ask(chatCall("gpt-4o-mini", `,"max_tokens":10`)); a.status != 402 {
		t.Errorf("no conversation: %d", a.status)
	}
	asked := known.asked.Load()
	for i := range 2 {
		if a := call("old"); a.status != 200 {
			t.Fatalf("call %d of the tail: %d %s", i, a.status, a.body)
		}
		b.settle()
	}
	if a := call("old"); a.status != 402 {
		t.Errorf("a third call: %d", a.status)
	}
	if known.asked.Load() != asked {
		t.Error("a conversation that is known here was asked for")
	}
	if b.limited("tail") != 2 {
		t.Errorf("%v calls of the tail", b.limited("tail"))
	}
	// Another replica knows it.
	known.seen.Store(new(string))
	*known.seen.Load() = "elsewhere"
	if a := call("elsewhere"); a.status != 200 || known.client != direct {
		t.Errorf("%d %s", a.status, a.body)
	}
	// Where nothing would fit at all, nobody is asked.
	b.settle()
	b.spend(budget.Tokens, 5*worst-300)
	eventually(t, "nothing is left", func() bool {
		asked = known.asked.Load()
		return call("yet another").status == 402 && known.asked.Load() == asked
	})
}

// The loop breaker counts calls and money of conversations and contacts, for clients without any budget too.
func TestLoopBreaker(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		policy       budget.Policy
		of           string
		calls        int // that go through
	}{
		{"calls of a conversation", "X-Conversation-Id: a", budget.Policy{ConversationCalls: 3}, "conversation", 3},
		{"calls of a contact", "X-Phone: +55 11 98765-4321", budget.Policy{ContactCalls: 2}, "contact", 2},
		{"money of a conversation", "X-Conversation-Id: a", budget.Policy{ConversationBRL: 5 * 50_000_000}, "conversation", 2},
		{"money of a contact", "X-Phone: 11987654321", budget.Policy{ContactBRL: 1}, "contact", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openSaying(t, usageOf(9, 4), nil)
			b.policy(direct, tt.policy)
			for i := range tt.calls {
				if a := b.ask(chatCall("gpt-4o-mini", "", tt.header)); a.status != 200 {
					t.Fatalf("call %d: %d %s", i, a.status, a.body)
				}
				b.meter.wait(i + 1)
			}
			a := b.ask(chatCall("gpt-4o-mini", "", tt.header))
			if a.status != 429 || !strings.Contains(string(a.body), `"type":"rate_limit_error","param":null,"code":"loop_detected"`) || !strings.Contains(string(a.body), "this "+tt.of) {
				t.Errorf("%d %s", a.status, a.body)
			}
			var wait int
			fmt.Sscan(a.get("Retry-After"), &wait)
			if a.get("X-Should-Retry") != "false" || wait < 55*60-5 || wait > 3600 {
				t.Errorf("%v", a.header)
			}
			if a := b.ask(chatCall("gpt-4o-mini", "")); a.status != 200 {
				t.Errorf("a call of nobody: %d", a.status)
			}
			if b.counted("catraca_loops_total", tt.of) != 1 || len(b.bodies()) != tt.calls+1 {
				t.Errorf("%d calls upstream", len(b.bodies()))
			}
			if e := b.meter.wait(1); strings.HasPrefix(tt.header, "X-Phone") && len(e.Phone) != 22 {
				t.Errorf("phone %q", e.Phone)
			}
		})
	}
}

func TestAmounts(t *testing.T) {
	for _, tt := range []struct {
		unit budget.Unit
		n    int64
		want string
	}{
		{budget.Tokens, 12_345, "12345 tokens"},
		{budget.BRL, int64(10 * money.Unit), "BRL 10.00"},
		{budget.BRL, int64(money.Unit / 2), "BRL 0.50"},
		{budget.USD, int64(money.Unit) + int64(money.Unit/4), "USD 1.25"},
		{budget.USD, 1, "USD 0.000001"},
		{budget.USD, 0, "USD 0.00"},
		{budget.BRL, int64(money.Unit) + 1_234_567_890, "BRL 1.001235"},
		{budget.BRL, budget.MaxLimit, "BRL 4611686.018428"},
	} {
		if got := string(appendAmount(nil, tt.unit, tt.n)); got != tt.want {
			t.Errorf("%s of %d: %q, want %q", tt.unit, tt.n, got, tt.want)
		}
	}
}

// Every error of budgets that a client can meet, word for word.
func TestBudgetErrors(t *testing.T) {
	zone, err := time.LoadLocation(budget.DefaultZone)
	must(err)
	at := time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC)
	month := budget.Standing{
		Unit: budget.BRL, Period: budget.Monthly, Limit: int64(200 * money.Unit), Used: int64(199*money.Unit + 871*money.Unit/1000), Held: int64(money.Unit / 10),
		ResetsAt: at, Zone: zone,
	}
	shared := month
	shared.Shared = true
	for _, tt := range []struct {
		name   string
		err    error
		status int
		body   string
		retry  int
		final  bool
	}{
		{
			"budget", fmt.Errorf("hold: %w", &budget.Denied{Standing: month, Need: int64(money.Unit / 4)}), 402,
			`{"error":{"message":"the monthly budget of BRL 200.00 has not enough left: BRL 199.871 used, BRL 0.10 held for calls under way, and this call may take up to BRL 0.25. It resets at 2026-12-01T00:00:00-03:00 (America/Sao_Paulo); ask for less output, or have the limit raised","type":"insufficient_quota","param":null,"code":"budget_exceeded","budget":{"type":"brl","period":"monthly","limit":"200","used":"199.871","held":"0.1","resets_at":"2026-12-01T00:00:00-03:00"}}}`, 0, true,
		},
		{
			"of all clients", &budget.Denied{Standing: shared, Need: 1}, 402,
			`{"error":{"message":"the budget that all clients of this service share is reached. It resets at 2026-12-01T00:00:00-03:00 (America/Sao_Paulo)","type":"insufficient_quota","param":null,"code":"budget_exceeded","budget":{"shared":true,"resets_at":"2026-12-01T00:00:00-03:00"}}}`, 0, true,
		},
		{
			"paused, with no window", &budget.Denied{Paused: true, Reason: "late"}, 403,
			`{"error":{"message":"this client's budget is paused: late","type":"permission_error","param":null,"code":"tenant_paused"}}`, 0, true,
		},
		{
			"all paused", &budget.Denied{Standing: shared, Paused: true, Reason: "the bank called"}, 403,
			`{"error":{"message":"the budget that all clients of this service share is paused","type":"permission_error","param":null,"code":"tenant_paused"}}`, 0, true,
		},
		{
			"ledger", fmt.Errorf("account: %w", budget.ErrUnavailable), 503,
			`{"error":{"message":"the ledger of budgets does not answer just now, and what this proxy holds of it is not enough: try again","type":"server_error","param":null,"code":"ledger_unavailable"}}`, 2, false,
		},
		{
			"no bound", costUnbounded("leave it out"), 403,
			`{"error":{"message":"this client has a hard budget, and what this call can cost has no bound: leave it out","type":"permission_error","param":null,"code":"cost_unbounded"}}`, 0, true,
		},
		{
			"loop", loopDetected("contact", 90*time.Second+1), 429,
			`{"error":{"message":"this contact has made as many calls, or spent as much, as one may within an hour: it looks like a loop","type":"rate_limit_error","param":null,"code":"loop_detected"}}`, 91, true,
		},
	} {
		r := toOpenAI(tt.err, "req_1")
		if got := string(r.appendBody(nil)); r.status != tt.status || got != tt.body {
			t.Errorf("%s: %d %s\nwant %d %s", tt.name, r.status, got, tt.status, tt.body)
		}
		if r.retry != tt.retry || r.final != tt.final {
			t.Errorf("%s: retry %d, final %t", tt.name, r.retry, r.final)
		}
	}
}
