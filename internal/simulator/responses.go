package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// responsesRequest is what is read of a request to the responses endpoint; what is only repeated in the answer stays raw.
type responsesRequest struct {
	Model           string          `json:"model"`
	Input           json.RawMessage `json:"input"`
	Instructions    json.RawMessage `json:"instructions"`
	Stream          bool            `json:"stream"`
	StreamOptions   streamOptions   `json:"stream_options"`
	MaxOutputTokens *int            `json:"max_output_tokens"`
	Tools           json.RawMessage `json:"tools"`
	ToolChoice      json.RawMessage `json:"tool_choice"`
	Text            responsesText   `json:"text"`
	Reasoning       struct {
		Effort *string `json:"effort"`
	} `json:"reasoning"`
	Store      *bool           `json:"store"`
	Previous   string          `json:"previous_response_id"`
	Metadata   json.RawMessage `json:"metadata"`
	User       json.RawMessage `json:"user"`
	Background bool            `json:"background"`
}

type responsesText struct {
	Format json.RawMessage `json:"format"`
}

// inputItem is one entry of the input array.
type inputItem struct {
	Type    string          `json:"type"`
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
	Output  json.RawMessage `json:"output"`
	Name    string          `json:"name"`
	Args    string          `json:"arguments"`
}

// responses serves POST responses.
func (c *call) responses() {
	var r responsesRequest
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		c.malformed("Missing required parameter: 'model'.", "model")
		return
	}
	if !c.begin(r.Model, r.Stream, askedItems(r.Input), r.Instructions, r.Tools, r.ToolChoice, r.Text.Format) {
		return
	}
	q, items, p := c.readResponses(&r)
	if p != nil {
		c.refuse(*p)
		return
	}
	a := &responsesAnswer{c: c, request: &r, items: items, id: c.hexID("resp"), created: c.created()}
	var choices []choice
	choices, a.usage = c.compose(q)
	a.choice = choices[0]
	if r.Stream {
		a.stream()
		return
	}
	c.tell(a.usage)
	body := a.body(a.endStatus(), a.output())
	a.store(body)
	c.reply(body, a.usage)
}

// askedItems is what an input says, without the ids in it; an input that is not a list says itself.
func askedItems(input json.RawMessage) []byte {
	var items []inputItem
	if json.Unmarshal(input, &items) != nil {
		return input
	}
	var b []byte
	for _, it := range items {
		b = appendList(b, list{it.Type, it.Role, string(it.Content), string(it.Output), it.Name, it.Args})
	}
	return b
}

// readResponses checks the request and brings it to the common form.
func (c *call) readResponses(r *responsesRequest) (question, []json.RawMessage, *problem) {
	bad := func(param, format string, args ...any) (question, []json.RawMessage, *problem) {
		return question{}, nil, &problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: param, message: fmt.Sprintf(format, args...)}
	}
	q := question{n: 1, noThinking: r.Reasoning.Effort != nil && *r.Reasoning.Effort == "none"}
	if isNull(r.Input) {
		return bad("input", "Missing required parameter: 'input'.")
	}
	if n := r.MaxOutputTokens; n != nil {
		if *n < 1 {
			return bad("max_output_tokens", "Invalid 'max_output_tokens': expected a value >= 1, but got %d instead.", *n)
		}
		q.limit = *n
	}
	items, size, others, lastRole, err := readInput(r.Input)
	if err != nil {
		return bad("input", "Invalid 'input': %v.", err)
	}
	var instructions string
	_ = json.Unmarshal(r.Instructions, &instructions)
	q.prompt = countTokens(size+len(instructions)+present(r.Tools)) + int64(others)*pictureTokens
	if r.Previous != "" {
		before, ok := c.sim.stored.find(r.Previous)
		if !ok {
			return bad("previous_response_id", "Previous response with id '%s' not found.", r.Previous)
		}
		// The conversation so far is read, and billed, again.
		q.prompt += before.used.total()
	}
	if q.tool, err = chosenTool(r.Tools, r.ToolChoice, lastRole); err != nil {
		return bad("tools", "Invalid 'tools': %v.", err)
	}
	q.format, q.anyJSON = wantedFormat(r.Text.Format)
	return q, items, nil
}

// readInput measures an input, which is a string or an array of items, and brings it to the form it is listed in later.
func readInput(input json.RawMessage) (items []json.RawMessage, size, others int, lastRole string, err error) {
	var text string
	if json.Unmarshal(input, &text) == nil {
		item := encode(object{"type", "message", "role", "user", "content", list{object{"type", "input_text", "text", text}}})
		return []json.RawMessage{item}, len(text), 0, "user", nil
	}
	if json.Unmarshal(input, &items) != nil {
		return nil, 0, 0, "", fmt.Errorf("expected a string or an array of items")
	}
	for i, item := range items {
		var it inputItem
		if err := json.Unmarshal(item, &it); err != nil {
			return nil, 0, 0, "", fmt.Errorf("input[%d] is not an item", i)
		}
		n, parts, err := contentSize(it.Content)
		if err != nil {
			return nil, 0, 0, "", fmt.Errorf("input[%d].content: %w", i, err)
		}
		size, others, lastRole = size+n+len(it.Args)+present(it.Output), others+parts, it.Role
		if it.Type == "function_call_output" {
			lastRole = "tool"
		}
	}
	return items, size, others, lastRole, nil
}

// responsesAnswer is one response on its way out.
type responsesAnswer struct {
	c       *call
	request *responsesRequest
	items   []json.RawMessage
	id      string
	created int64
	choice  choice
	usage   usage
}

func (a *responsesAnswer) endStatus() string {
	if a.choice.finish == "length" {
		return "incomplete"
	}
	return "completed"
}

// output is the items of a whole answer.
func (a *responsesAnswer) output() list {
	items := list{}
	if a.usage.reasoning > 0 {
		items = append(items, a.thoughts())
	}
	return append(items, a.item("completed", a.choice.text()))
}

func (a *responsesAnswer) thoughts() object {
	return object{"id", a.c.hexID("rs"), "type", "reasoning", "summary", list{}}
}

// item is the message or the function call, with as much of it as is there.
func (a *responsesAnswer) item(status, text string) object {
	if a.choice.finish == "length" && status == "completed" {
		status = "incomplete"
	}
	if t := a.choice.tool; t != nil {
		return object{
			"id", a.itemID(), "type", "function_call", "status", status, "arguments", text,
			"call_id", "call_" + a.c.letters("call0", base62, 24), "name", t.Name,
		}
	}
	content := list{}
	if status != "in_progress" {
		content = append(content, a.part(text))
	}
	return object{"id", a.itemID(), "type", "message", "status", status, "content", content, "role", "assistant"}
}

func (a *responsesAnswer) itemID() string {
	if a.choice.tool != nil {
		return a.c.hexID("fc")
	}
	return a.c.hexID("msg")
}

func (a *responsesAnswer) part(text string) object {
	return object{"type", "output_text", "annotations", list{}, "logprobs", list{}, "text", text}
}

// usageField is the usage object; ok is false where the traits send none.
func (a *responsesAnswer) usageField() (value any, ok bool) {
	if a.c.traits.has("no-usage") {
		return nil, false
	}
	u := a.usage
	input := object{"cached_tokens", u.cached}
	if u.written > 0 {
		input = input.with("cache_write_tokens", u.written)
	}
	return a.c.spoil(object{
		"input_tokens", u.prompt, "input_tokens_details", input, "output_tokens", u.output,
		"output_tokens_details",
		object{"reasoning_tokens", u.reasoning},
		"total_tokens", u.total(),
	}), true
}

// body is the response object; usage is null until the end.
func (a *responsesAnswer) body(status string, output list) object {
	r, c := a.request, a.c
	incomplete := any(nil)
	if status == "incomplete" {
		incomplete = object{"reason", "max_output_tokens"}
	}
	format := any(object{"type", "text"})
	if !isNull(r.Text.Format) {
		format = raw(r.Text.Format)
	}
	effort, limit := any(nil), any(nil)
	if r.Reasoning.Effort != nil {
		effort = *r.Reasoning.Effort
	}
	if r.MaxOutputTokens != nil {
		limit = *r.MaxOutputTokens
	}
	o := object{
		"id", a.id, "object", "response", "created_at", a.created, "status", status, "background", r.Background, "error", nil,
		"incomplete_details", incomplete, "instructions", given(r.Instructions, nil), "max_output_tokens", limit, "max_tool_calls", nil,
		"model", c.served(), "output", output, "parallel_tool_calls", true, "previous_response_id", orNull(r.Previous), "prompt_cache_key", nil,
		"reasoning",
		object{"effort", effort, "summary", nil},
		"safety_identifier", nil, "service_tier", "default",
		"store", r.Store == nil || *r.Store, "temperature", raw("1.0"), "text",
		object{"format", format, "verbosity", "medium"},
		"tool_choice", given(r.ToolChoice, "auto"), "tools", given(r.Tools, list{}), "top_logprobs", 0, "top_p", raw("1.0"), "truncation", "disabled",
	}
	value := any(nil)
	if status != "in_progress" {
		if u, ok := a.usageField(); ok {
			value = u
		}
	}
	return o.with("usage", value).with("user", given(r.User, nil)).with("metadata", given(r.Metadata, object{}))
}

// given repeats a member of the request, or says what stands for none.
func given(v json.RawMessage, otherwise any) any {
	if isNull(v) {
		return otherwise
	}
	return raw(v)
}

// store keeps the answer for later requests unless the client asked otherwise or the upstream has no store.
func (a *responsesAnswer) store(body object) {
	if a.c.route == groq || a.request.Store != nil && !*a.request.Store {
		return
	}
	a.c.sim.stored.keep(a.id, stored{body: encode(body), input: a.items, used: a.usage})
}

// stream sends the events of a response, numbered, each under its name.
func (a *responsesAnswer) stream() {
	c := a.c
	s := c.open(a.usage)
	n := 0
	send := func(name string, tokens int64, members ...any) bool {
		o := append(object{"type", name, "sequence_number", n}, members...)
		n++
		return s.send(name, encode(o), tokens)
	}
	at := 0
	if !send("response.created", 0, "response", a.body("in_progress", list{})) ||
		!send("response.in_progress", 0, "response", a.body("in_progress", list{})) {
		return
	}
	if a.usage.reasoning > 0 {
		if !send("response.output_item.added", 0, "output_index", 0, "item", a.thoughts()) ||
			!send("response.output_item.done", 0, "output_index", 0, "item", a.thoughts()) {
			return
		}
		at = 1
	}
	if !send("response.output_item.added", 0, "output_index", at, "item", a.item("in_progress", "")) || !a.pieces(send, at) ||
		!send("response.output_item.done", 0, "output_index", at, "item", a.item("completed", a.choice.text())) {
		return
	}
	body := a.body(a.endStatus(), a.output())
	a.store(body)
	if !send("response."+a.endStatus(), 0, "response", body) {
		return
	}
	c.tell(a.usage)
	s.done(false)
}

// pieces sends the text or the arguments, token by token.
func (a *responsesAnswer) pieces(send func(name string, tokens int64, members ...any) bool, at int) bool {
	id, text := a.itemID(), a.choice.text()
	if t := a.choice.tool; t != nil {
		for _, p := range a.choice.pieces {
			if !send("response.function_call_arguments.delta", 1, "item_id", id, "output_index", at, "delta", p) {
				return false
			}
		}
		return send("response.function_call_arguments.done", 0, "item_id", id, "output_index", at, "name", t.Name, "arguments", text)
	}
	if !send("response.content_part.added", 0, "item_id", id, "output_index", at, "content_index", 0, "part", a.part("")) {
		return false
	}
	pad := a.c.letters("pad", base62, padding)
	for _, p := range a.choice.pieces {
		members := object{"item_id", id, "output_index", at, "content_index", 0, "delta", p, "logprobs", list{}}
		if want := a.request.StreamOptions.IncludeObfuscation; a.c.route == openai && (want == nil || *want) {
			members = members.with("obfuscation", pad[:1+a.c.events*7%padding])
		}
		if !send("response.output_text.delta", 1, members...) {
			return false
		}
	}
	return send("response.output_text.done", 0, "item_id", id, "output_index", at, "content_index", 0, "text", text, "logprobs", list{}) &&
		send("response.content_part.done", 0, "item_id", id, "output_index", at, "content_index", 0, "part", a.part(text))
}
