package simulator

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// keys lists a JSON object's members in order.
func keys(t testing.TB, text string) string {
	t.Helper()
	var names []string
	for _, m := range members([]byte(text)) {
		names = append(names, m.name)
	}
	return strings.Join(names, " ")
}

func TestGatewayChat(t *testing.T) {
	b := start(t, Config{})
	a := b.post("/v1/chat/completions", chatBody("openai/gpt-5", ""))
	id := fmt.Sprint(a.at(t, "id"))
	if !strings.HasPrefix(id, "gen_") || len(id) != 30 {
		t.Errorf("id %s", id)
	}
	meta := a.at(t, "choices", 0, "message", "provider_metadata", "gateway")
	want(t, "generationId", at(t, meta, "generationId"), id)
	want(t, "top generationId", a.at(t, "generationId"), id)
	// 5 tokens at 1.25, 32 + 64 at 10 dollars a million.
	want(t, "cost in the metadata", at(t, meta, "cost"), "0.00096625")
	want(t, "cost in the usage", a.at(t, "usage", "cost"), "0.00096625")
	if _, isString := at(t, meta, "cost").(string); !isString {
		t.Error("the metadata's cost is not a string")
	}
	want(t, "provider", at(t, meta, "routing", "finalProvider"), "openai")
	want(t, "keys", keys(t, usageOf(t, a)), "prompt_tokens completion_tokens total_tokens cost is_byok prompt_tokens_details cost_details "+
		"completion_tokens_details cache_creation_input_tokens market_cost gateway_cost")

	byok := b.post("/v1/chat/completions", chatBody("openai/gpt-5", `,"providerOptions":{"gateway":{"byok":{"openai":[{"apiKey":"x"}]}}}`))
	want(t, "byok", byok.at(t, "usage", "is_byok"), true)
	want(t, "byok cost", byok.at(t, "usage", "cost"), "0")
	want(t, "byok upstream", byok.at(t, "usage", "cost_details", "upstream_inference_cost"), "0.00096625")

	es := b.post("/v1/chat/completions", chatBody("openai/gpt-5", streamed)).events(t)
	finish := es[len(es)-2]
	want(t, "keys of the first", keys(t, es[0]), "id object created model choices system_fingerprint")
	want(t, "keys of the finish", keys(t, finish), "id object created model choices system_fingerprint usage service_tier generationId")
	want(t, "finish", at(t, tree(t, []byte(finish)), "choices", 0, "finish_reason"), "stop")
	want(t, "cost in the last delta", at(t, tree(t, []byte(finish)), "choices", 0, "delta", "provider_metadata", "gateway", "cost"), "0.00096625")
	for _, e := range es[:len(es)-2] {
		if strings.Contains(e, `"usage"`) {
			t.Errorf("usage in %s", e)
		}
	}
	if silent := b.post("/v1/chat/completions", chatBody("openai/gpt-5", `,"stream":true`)); strings.Contains(string(silent.body), `"usage"`) {
		t.Error("usage nobody asked for")
	}
}

func TestGatewayGenerationAndLists(t *testing.T) {
	b := start(t, Config{})
	id := b.post("/v1/chat/completions", chatBody("openai/gpt-4o", "")).at(t, "id")
	g := b.ask("GET", fmt.Sprintf("/v1/generation?id=%s", id), "")
	want(t, "cost", g.at(t, "data", "total_cost"), "0.0003325")
	want(t, "tokens", g.at(t, "data", "tokens_completion"), 32)
	cutID := at(t, tree(t, []byte(b.post("/v1/chat/completions", chatBody("sim/cut-after-5", streamed)).events(t)[0])), "id")
	want(t, "tokens of a cut one", b.ask("GET", fmt.Sprintf("/v1/generation?id=%s", cutID), "").at(t, "data", "tokens_completion"), 4)
	want(t, "an unknown one", b.ask("GET", "/v1/generation?id=gen_none", "").StatusCode, 404)
	want(t, "credits", b.ask("GET", "/v1/credits", "").at(t, "balance"), "95.50")

	entry := b.ask("GET", "/v1/models/openai/gpt-4o", "")
	want(t, "id", entry.at(t, "id"), "openai/gpt-4o")
	want(t, "input", entry.at(t, "pricing", "input"), "0.0000025")
	want(t, "cached", entry.at(t, "pricing", "input_cache_read"), "0.00000125")
	want(t, "escaped", b.ask("GET", "/v1/models/openai%2Fgpt-4o", "").at(t, "id"), "openai/gpt-4o")
	want(t, "tier", b.ask("GET", "/v1/models/openai/gpt-6.1-sol", "").at(t, "pricing", "input_tiers", 1, "min"), 272001)
	want(t, "endpoints", b.ask("GET", "/v1/models/openai/gpt-4o/endpoints", "").at(t, "data", "endpoints", 0, "pricing", "prompt"), "0.0000025")
	want(t, "a behaviour as a model", b.ask("GET", "/v1/models/sim/echo", "").at(t, "id"), "sim/echo")
	list := b.ask("GET", "/v1/models", "").at(t, "data").([]any)
	for _, m := range list {
		if strings.Contains(fmt.Sprint(at(t, m, "id")), "claude-3") {
			t.Errorf("a retired model is listed: %v", at(t, m, "id"))
		}
	}
	want(t, "no model", b.ask("GET", "/openai/v1/models/none", "").StatusCode, 404)
	want(t, "openai", b.ask("GET", "/openai/v1/models/gpt-4o", "").at(t, "shutdown_date"), "2027-01-14")
	want(t, "groq", b.ask("GET", "/groq/openai/v1/models", "").at(t, "data", 0, "id"), "openai/gpt-oss-120b")
	want(t, "anthropic", b.ask("GET", "/anthropic/v1/models", "").at(t, "data", 0, "type"), "model")
	want(t, "google", b.ask("GET", "/google/v1beta/openai/models", "").at(t, "data", 0, "id"), "models/gemini-3.8-flash")
}

func TestOpenAIChat(t *testing.T) {
	b := start(t, Config{})
	a := b.post("/openai/v1/chat/completions", chatBody("gpt-4o", `,"n":3,"logprobs":true,"top_logprobs":2`))
	want(t, "choices", len(a.at(t, "choices").([]any)), 3)
	want(t, "tokens", a.at(t, "usage", "completion_tokens"), 96)
	want(t, "logprobs", len(a.at(t, "choices", 2, "logprobs", "content").([]any)), 32)
	want(t, "top", len(a.at(t, "choices", 2, "logprobs", "content", 0, "top_logprobs").([]any)), 2)
	if a.at(t, "choices", 0, "message", "content") == a.at(t, "choices", 1, "message", "content") {
		t.Error("the choices are equal")
	}
	if !strings.HasPrefix(string(a.body), "{\n  \"id\"") {
		t.Errorf("not indented: %.40s", a.body)
	}
	for _, h := range []string{"X-Request-Id", "Openai-Processing-Ms", "Openai-Version", "X-Ratelimit-Remaining-Tokens"} {
		if a.Header.Get(h) == "" {
			t.Errorf("no %s", h)
		}
	}
	s := b.post("/openai/v1/chat/completions", chatBody("gpt-4o", streamed+`,"n":2`))
	want(t, "type", s.Header.Get("Content-Type"), "text/event-stream; charset=utf-8")
	es := s.events(t)
	for _, e := range es[:len(es)-2] {
		if !strings.Contains(e, `"usage":null`) || !strings.Contains(e, `"obfuscation":"`) {
			t.Errorf("no null usage or no obfuscation in %s", e)
		}
	}
	last := tree(t, []byte(es[len(es)-2]))
	want(t, "choices of the usage chunk", at(t, last, "choices"), "[]")
	want(t, "usage", at(t, last, "usage", "total_tokens"), 64+5)
	want(t, "chunks", len(es), 2+64+2+1+1)
	bare := b.post("/openai/v1/chat/completions", chatBody("gpt-4o", `,"stream":true,"stream_options":{"include_obfuscation":false}`))
	if text := string(bare.body); strings.Contains(text, "usage") || strings.Contains(text, "obfuscation") {
		t.Errorf("usage or obfuscation in %.200s", text)
	}
}

func TestGroqChat(t *testing.T) {
	b := start(t, Config{})
	const path = "/groq/openai/v1/chat/completions"
	es := b.post(path, chatBody("openai/gpt-oss-20b", streamed)).events(t)
	n := len(es)
	if at(t, tree(t, []byte(es[0])), "x_groq", "seed") == nil {
		t.Errorf("no seed in %s", es[0])
	}
	want(t, "x_groq.usage", at(t, tree(t, []byte(es[n-3])), "x_groq", "usage", "completion_tokens"), 96)
	want(t, "usage", at(t, tree(t, []byte(es[n-3])), "usage", "completion_tokens"), 96)
	want(t, "again", at(t, tree(t, []byte(es[n-2])), "usage", "completion_tokens"), 96)
	want(t, "reported once", b.total().Reported.Output, 96)
	es = b.post(path, chatBody("openai/gpt-oss-20b", `,"stream":true`)).events(t)
	want(t, "unasked", at(t, tree(t, []byte(es[len(es)-2])), "usage", "completion_tokens"), 96)
	for _, more := range []string{`,"logprobs":true`, `,"top_logprobs":2`, `,"logit_bias":{"1":2}`, `,"n":2`} {
		want(t, more, b.post(path, chatBody("openai/gpt-oss-20b", more)).StatusCode, 400)
	}
	named := `{"model":"openai/gpt-oss-20b","messages":[{"role":"user","name":"ana","content":"oi"}]}`
	want(t, "name", b.post(path, named).StatusCode, 400)
}

func TestAnthropicAndGoogleChat(t *testing.T) {
	b := start(t, Config{})
	a := b.post("/anthropic/v1/chat/completions", chatBody("claude-haiku-5-5", ""))
	want(t, "details", a.at(t, "usage", "prompt_tokens_details"), "map[]")
	if a.Header.Get("Request-Id") == "" || a.Header.Get("X-Request-Id") != "" {
		t.Errorf("headers: %v", a.Header)
	}
	want(t, "n", b.post("/anthropic/v1/chat/completions", chatBody("claude-haiku-5-5", `,"n":2`)).StatusCode, 400)

	const google = "/google/v1beta/openai/chat/completions"
	es := b.post(google, chatBody("gemini-3.8-flash", `,"stream":true`)).events(t)
	want(t, "chunks", len(es), 33)
	for i, e := range es[:32] {
		u := at(t, tree(t, []byte(e)), "usage")
		want(t, "so far", at(t, u, "completion_tokens"), i+1)
		want(t, "total so far", at(t, u, "total_tokens"), 5+64+i+1)
	}
	cutShort := b.post(google, chatBody("gemini-3.8-flash+cut-after-3", `,"stream":true`))
	want(t, "events", len(cutShort.events(t)), 3)
	g := b.post(google, chatBody("gemini-3.8-flash", ""))
	if g.Header.Get("X-Request-Id") != "" || g.Header.Get("Server-Timing") == "" {
		t.Errorf("headers: %v", g.Header)
	}
	for _, row := range b.sim.Stats().Rows {
		if row.Model == "gemini-3.8-flash+cut-after-3" {
			want(t, "what a cut reported", row.Reported, row.Generated)
			want(t, "output", row.Reported.Output, 64+3)
		}
	}
}

const weather = `,"tools":[{"type":"function","function":{"name":"clima","parameters":{"type":"object","properties":{
	"cidade":{"type":"string"},"dias":{"type":"integer","minimum":1,"maximum":7}},"required":["cidade"]}}},
	{"type":"function","function":{"name":"hora","parameters":{}}}]`

func TestTools(t *testing.T) {
	b := start(t, Config{})
	for _, route := range routes {
		path := route.prefix + "/chat/completions"
		a := b.post(path, chatBody("gpt-4o", weather))
		want(t, "finish", a.at(t, "choices", 0, "finish_reason"), "tool_calls")
		call := a.at(t, "choices", 0, "message", "tool_calls", 0)
		want(t, "name", at(t, call, "function", "name"), "clima")
		arguments := fmt.Sprint(at(t, call, "function", "arguments"))
		want(t, "argument", at(t, tree(t, []byte(arguments)), "cidade"), "São Paulo")
		want(t, route.name+": an empty id", at(t, call, "id") == "", route.name == google)

		joined, finish := "", ""
		for _, e := range b.post(path, chatBody("gpt-4o", weather+streamed)).events(t) {
			if e == "[DONE]" || at(t, tree(t, []byte(e)), "choices") == nil || len(at(t, tree(t, []byte(e)), "choices").([]any)) == 0 {
				continue
			}
			choice := at(t, tree(t, []byte(e)), "choices", 0)
			if f, ok := at(t, choice, "finish_reason").(string); ok {
				finish = f
			}
			if calls, ok := at(t, choice, "delta", "tool_calls").([]any); ok {
				joined += fmt.Sprint(at(t, calls[0], "function", "arguments"))
			}
		}
		want(t, route.name+" streamed", joined, arguments)
		want(t, route.name+" finish", finish, "tool_calls")
		want(t, "none", b.post(path, chatBody("gpt-4o", weather+`,"tool_choice":"none"`)).at(t, "choices", 0, "finish_reason"), "stop")
		named := b.post(path, chatBody("gpt-4o", weather+`,"tool_choice":{"type":"function","function":{"name":"hora"}}`))
		want(t, "named", named.at(t, "choices", 0, "message", "tool_calls", 0, "function", "name"), "hora")
		after := b.post(path, `{"model":"gpt-4o","messages":[{"role":"user","content":"?"},{"role":"tool","tool_call_id":"x","content":"sol"}]`+weather+`}`)
		want(t, "after a result", after.at(t, "choices", 0, "finish_reason"), "stop")
	}
}

func TestChatDetails(t *testing.T) {
	b := start(t, Config{})
	const path = "/openai/v1/chat/completions"
	schema := `,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"nome":{"type":"string"},"idade":{"type":"integer"}},"required":["nome","idade"]}}}`
	made := fmt.Sprint(b.post(path, chatBody("gpt-4o", schema)).at(t, "choices", 0, "message", "content"))
	want(t, "members", keys(t, made), "nome idade")
	want(t, "streamed", contents(t, b.post(path, chatBody("gpt-4o", schema+streamed)).events(t)), made)
	tree(t, []byte(fmt.Sprint(b.post(path, chatBody("gpt-4o", `,"response_format":{"type":"json_object"}`)).at(t, "choices", 0, "message", "content"))))

	stopped := b.post(path, chatBody("gpt-4o", `,"stop":["! E"]`))
	want(t, "before the stop", stopped.at(t, "choices", 0, "message", "content"), "Olá")
	want(t, "finish", stopped.at(t, "choices", 0, "finish_reason"), "stop")
	short := b.post(path, chatBody("gpt-5", `,"max_completion_tokens":10`))
	want(t, "all tokens under the limit", short.at(t, "usage", "completion_tokens"), 10)
	want(t, "thoughts among them", short.at(t, "usage", "completion_tokens_details", "reasoning_tokens"), 5)
	want(t, "no thoughts", b.post(path, chatBody("gpt-5", `,"reasoning_effort":"none"`)).at(t, "usage", "completion_tokens"), 32)

	seen := b.post(path, `{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"o que é?"},{"type":"image_url","image_url":{"url":"data:,"}}]}]}`)
	want(t, "a picture", seen.at(t, "usage", "prompt_tokens"), 3+85)
	for body, status := range map[string]int{
		`{`:                                   400,
		`{}`:                                  400,
		`{"model":"gpt-4o"}`:                  400,
		`{"model":"gpt-4o","messages":"x"}`:   400,
		chatBody("gpt-4o", `,"n":0`):          400,
		chatBody("gpt-4o", `,"max_tokens":0`): 400,
		chatBody("gpt-4o", `,"stop":5`):       400,
		chatBody("gpt-4o", `,"stream":"yes"`): 400,
		`{"model":"gpt-4o","messages":[{"role":"user","content":7}]}`: 400,
	} {
		want(t, body, b.post(path, body).StatusCode, status)
	}
}

func TestHeadersOfRefusals(t *testing.T) {
	b := start(t, Config{})
	a := b.post("/openai/v1/chat/completions", chatBody("sim/429", ""))
	want(t, "ms", a.Header.Get("Retry-After-Ms"), "1000")
	r, _ := http.NewRequest("POST", b.url+"/openai/v1/chat/completions", strings.NewReader(chatBody("sim/ok", "")))
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want(t, "no key", resp.StatusCode, 401)
}
