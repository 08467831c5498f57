package simulator

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// chatRequest is what is read of a chat completion request; the rest is accepted and ignored, as upstreams do.
type chatRequest struct {
	Model               string          `json:"model"`
	Messages            []message       `json:"messages"`
	Stream              bool            `json:"stream"`
	StreamOptions       streamOptions   `json:"stream_options"`
	N                   *int            `json:"n"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Stop                json.RawMessage `json:"stop"`
	Tools               json.RawMessage `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ResponseFormat      json.RawMessage `json:"response_format"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *int            `json:"top_logprobs"`
	LogitBias           json.RawMessage `json:"logit_bias"`
	ReasoningEffort     string          `json:"reasoning_effort"`
	Seed                json.RawMessage `json:"seed"`
	ProviderOptions     providerOptions `json:"providerOptions"`
}

type streamOptions struct {
	IncludeUsage       bool  `json:"include_usage"`
	IncludeObfuscation *bool `json:"include_obfuscation"`
}

// providerOptions is the gateway's part of a request.
type providerOptions struct {
	Gateway struct {
		BYOK map[string]json.RawMessage `json:"byok"`
	} `json:"gateway"`
}

// chat serves POST chat/completions.
func (c *call) chat() {
	var r chatRequest
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		c.malformed("you must provide a model parameter", "model")
		return
	}
	if !c.begin(r.Model, r.Stream, asked(r.Messages), r.Tools, r.ToolChoice, r.ResponseFormat, r.Stop, r.Seed) {
		return
	}
	q, p := c.readChat(&r)
	if p != nil {
		c.refuse(*p)
		return
	}
	a := &chatAnswer{c: c, request: &r, id: c.chatID(), created: c.created(), fingerprint: c.fingerprint()}
	a.pad = c.letters("pad", base62, padding)
	a.byok = len(r.ProviderOptions.Gateway.BYOK) > 0
	a.choices, a.usage = c.compose(q)
	if r.Stream {
		a.stream()
		return
	}
	a.plain()
}

// asked is what a conversation says, without the ids in it, which differ from upstream to upstream.
func asked(messages []message) []byte {
	var b []byte
	for _, m := range messages {
		b = appendList(b, list{m.Role, string(m.Content), m.Name})
		var calls []struct {
			Function struct{ Name, Arguments string }
		}
		_ = json.Unmarshal(m.ToolCalls, &calls)
		for _, call := range calls {
			b = appendList(b, list{call.Function.Name, call.Function.Arguments})
		}
	}
	return b
}

// readChat checks the request as the upstream would and brings it to the common form.
func (c *call) readChat(r *chatRequest) (question, *problem) {
	bad := func(param, format string, args ...any) (question, *problem) {
		return question{}, &problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: param, message: fmt.Sprintf(format, args...)}
	}
	q := question{n: 1, noThinking: r.ReasoningEffort == "none"}
	if len(r.Messages) == 0 {
		return bad("messages", "Missing required parameter: 'messages'.")
	}
	if r.N != nil {
		q.n = *r.N
	}
	if q.n < 1 || q.n > 128 {
		return bad("n", "Invalid value for 'n': expected between 1 and 128.")
	}
	if (c.route == groq || c.route == anthropic) && q.n != 1 {
		return bad("n", "'n' : number must be at most 1")
	}
	if c.route == groq {
		if name := unsupportedByGroq(r); name != "" {
			return bad(name, "property '%s' is unsupported", name)
		}
	}
	for _, limit := range []*int{r.MaxTokens, r.MaxCompletionTokens} {
		if limit != nil && *limit < 1 {
			return bad("max_tokens", "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got %d instead.", *limit)
		}
		if limit != nil {
			q.limit = *limit
		}
	}
	var err error
	if q.stops, err = stringsOf(r.Stop); err != nil {
		return bad("stop", "Invalid type for 'stop': %v.", err)
	}
	if q.prompt, err = promptOf(r.Messages, r.Tools); err != nil {
		return bad("messages", "Invalid type for '%v'.", err)
	}
	if q.tool, err = chosenTool(r.Tools, r.ToolChoice, r.Messages[len(r.Messages)-1].Role); err != nil {
		return bad("tools", "Invalid 'tools': %v.", err)
	}
	if c.route != anthropic {
		q.format, q.anyJSON = wantedFormat(r.ResponseFormat)
	}
	return q, nil
}

func unsupportedByGroq(r *chatRequest) string {
	switch {
	case r.Logprobs:
		return "logprobs"
	case r.TopLogprobs != nil:
		return "top_logprobs"
	case !isNull(r.LogitBias):
		return "logit_bias"
	}
	for i, m := range r.Messages {
		if m.Name != "" {
			return fmt.Sprintf("messages[%d].name", i)
		}
	}
	return ""
}

// chosenTool is the tool the answer calls: the one asked for, or else the first, unless the conversation has just
// brought a tool's result, which wants an answer in words.
func chosenTool(tools, choice json.RawMessage, lastRole string) (*toolSpec, error) {
	if isNull(tools) {
		return nil, nil
	}
	var all []struct {
		Type string `json:"type"`
		toolFields
		Function *toolFields `json:"function"`
	}
	if err := json.Unmarshal(tools, &all); err != nil {
		return nil, fmt.Errorf("expected an array of tools")
	}
	wanted, forced := toolChoice(choice)
	if wanted == "none" || len(all) == 0 || !forced && (lastRole == "tool" || lastRole == "function") {
		return nil, nil
	}
	for _, t := range all {
		f := t.toolFields
		if t.Function != nil {
			f = *t.Function
		}
		if t.Type != "function" && t.Type != "" || f.Name == "" || forced && wanted != "" && f.Name != wanted {
			continue
		}
		return &toolSpec{Name: f.Name, Parameters: f.Parameters}, nil
	}
	return nil, nil
}

type toolFields struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
}

// toolChoice reads "none", "auto", "required" or a named function; wanted is a name or "none".
func toolChoice(choice json.RawMessage) (wanted string, forced bool) {
	var word string
	if json.Unmarshal(choice, &word) == nil {
		if word == "none" {
			return "none", false
		}
		return "", word == "required"
	}
	var named struct {
		Name     string `json:"name"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(choice, &named) != nil {
		return "", false
	}
	name := named.Name + named.Function.Name
	return name, name != ""
}

// wantedFormat reads response_format, and text.format of the responses endpoint, which has the schema one level up.
func wantedFormat(format json.RawMessage) (schema json.RawMessage, anyJSON bool) {
	var f struct {
		Type       string          `json:"type"`
		Schema     json.RawMessage `json:"schema"`
		JSONSchema struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	}
	if isNull(format) || json.Unmarshal(format, &f) != nil {
		return nil, false
	}
	switch f.Type {
	case "json_object":
		return nil, true
	case "json_schema":
		if !isNull(f.Schema) {
			return f.Schema, false
		}
		return f.JSONSchema.Schema, isNull(f.JSONSchema.Schema)
	}
	return nil, false
}

// chatAnswer is one answer on its way out, plain or streamed.
type chatAnswer struct {
	c           *call
	request     *chatRequest
	id          string
	created     int64
	fingerprint string
	choices     []choice
	usage       usage
	byok        bool
	pad         string // obfuscation is cut from it
}

// plain sends the whole answer.
func (a *chatAnswer) plain() {
	c := a.c
	choices := list{}
	for i, ch := range a.choices {
		choices = append(choices, a.wholeChoice(i, ch))
	}
	body := object{"id", a.id, "object", "chat.completion", "created", a.created, "model", c.served(), "choices", choices}
	if u, ok := a.usageField(a.usage); ok {
		body = body.with("usage", u)
		c.tell(a.usage)
	}
	switch c.route {
	case gateway:
		body = body.with("system_fingerprint", a.fingerprint).with("service_tier", "default").with("generationId", a.id)
	case openai:
		body = body.with("service_tier", "default").with("system_fingerprint", a.fingerprint)
	case groq:
		body = body.with("usage_breakdown", nil).with("system_fingerprint", a.fingerprint).
			with("x_groq", object{"id", "req_01" + strings.ToLower(c.letters("xgroq", crockford, 24))}).with("service_tier", "on_demand")
	case anthropic:
		body = body.with("system_fingerprint", nil)
	}
	c.remember(a.id, a.choices[0].finish, a.byok, a.usage)
	c.reply(body, a.usage)
}

// padding is the most characters an obfuscated event is made longer by.
const padding = 16

// wholeChoice is one choice of a plain answer.
func (a *chatAnswer) wholeChoice(i int, ch choice) object {
	c := a.c
	m := object{"role", "assistant"}
	if ch.tool != nil {
		m = m.with("content", nil).with("tool_calls", list{a.toolCall(i, ch, ch.text())})
	} else {
		m = m.with("content", ch.text())
	}
	switch c.route {
	case openai:
		m = m.with("refusal", nil).with("annotations", list{})
	case gateway:
		if a.usage.reasoning > 0 {
			m = m.with("reasoning_details", a.reasoningDetails())
		}
		m = m.with("provider_metadata", a.gatewayMetadata())
	}
	switch c.route {
	case anthropic:
		return object{"index", i, "message", m, "finish_reason", ch.finish}
	case google:
		return object{"finish_reason", ch.finish, "index", i, "message", m}
	}
	return object{"index", i, "message", m, "logprobs", a.logprobs(ch.pieces), "finish_reason", ch.finish}
}

// toolCall is the call a choice makes; arguments may be only a part of them.
func (a *chatAnswer) toolCall(i int, ch choice, arguments string) object {
	return object{"id", a.callID(i), "type", "function", "function", object{"name", ch.tool.Name, "arguments", arguments}}
}

// callID is the id of choice i's tool call; one of the layers sends none.
func (a *chatAnswer) callID(i int) string {
	kind := fmt.Sprintf("call%d", i)
	switch a.c.route {
	case google:
		return ""
	case anthropic:
		return "toolu_01" + a.c.letters(kind, base62, 22)
	case groq:
		return a.c.letters(kind, "abcdefghijklmnopqrstuvwxyz0123456789", 9)
	}
	return "call_" + a.c.letters(kind, base62, 24)
}

func (a *chatAnswer) reasoningDetails() list {
	return list{object{
		"type", "reasoning.encrypted", "data", base64.StdEncoding.EncodeToString([]byte(a.c.letters("thought", base62, 64))),
		"id", a.c.hexID("rs"), "format", "openai-responses-v1", "index", 0,
	}}
}

// logprobs is null unless the request asked.
func (a *chatAnswer) logprobs(pieces []string) any {
	if !a.request.Logprobs || a.c.route == anthropic || a.c.route == google {
		return nil
	}
	top := 0
	if a.request.TopLogprobs != nil {
		top = min(max(0, *a.request.TopLogprobs), 20)
	}
	content := list{}
	for _, p := range pieces {
		content = append(content, tokenProbability(p, top))
	}
	return object{"content", content, "refusal", nil}
}

// tokenProbability is a token's entry, with the top likeliest tokens, itself first.
func tokenProbability(piece string, top int) object {
	entry := func(text string, place int) object {
		bytes := list{}
		for _, b := range []byte(text) {
			bytes = append(bytes, int(b))
		}
		return object{"token", text, "logprob", raw(fmt.Sprintf("-%d.%03d", place, 125+len(text))), "bytes", bytes}
	}
	alternatives := list{}
	for i := range top {
		text := piece
		if i > 0 {
			text = words[(i*7+len(piece))%len(words)][0]
		}
		alternatives = append(alternatives, entry(text, i))
	}
	return entry(piece, 0).with("top_logprobs", alternatives)
}
