package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// completionRequest is what is read of a request to the old text endpoint.
type completionRequest struct {
	Model         string          `json:"model"`
	Prompt        json.RawMessage `json:"prompt"`
	Stream        bool            `json:"stream"`
	StreamOptions streamOptions   `json:"stream_options"`
	N             *int            `json:"n"`
	MaxTokens     *int            `json:"max_tokens"`
	Stop          json.RawMessage `json:"stop"`
	Logprobs      *int            `json:"logprobs"`
	Echo          bool            `json:"echo"`
	Seed          json.RawMessage `json:"seed"`
}

// completions serves POST completions.
func (c *call) completions() {
	var r completionRequest
	if text := decode(c.body, &r); text != "" {
		c.malformed(text, "")
		return
	}
	if r.Model == "" {
		c.malformed("you must provide a model parameter", "model")
		return
	}
	if !c.begin(r.Model, r.Stream, r.Prompt, r.Stop, r.Seed) {
		return
	}
	inputs, err := readInputs(r.Prompt)
	if err != nil || len(inputs) == 0 {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "prompt", message: "Invalid 'prompt': expected a string, or an array of strings or tokens."})
		return
	}
	// The endpoint answers every prompt n times; 16 tokens is its old default.
	q := question{n: len(inputs), limit: 16}
	if r.N != nil {
		q.n *= *r.N
	}
	if r.MaxTokens != nil {
		q.limit = *r.MaxTokens
	}
	if q.n < 1 || q.n > 128 || q.limit < 1 {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "n", message: "Invalid 'n' or 'max_tokens': expected a value >= 1."})
		return
	}
	if q.stops, err = stringsOf(r.Stop); err != nil {
		c.refuse(problem{status: http.StatusBadRequest, kind: "invalid_request_error", param: "stop", message: fmt.Sprintf("Invalid type for 'stop': %v.", err)})
		return
	}
	for _, in := range inputs {
		q.prompt += in.tokens
	}
	a := &completionAnswer{c: c, request: &r, inputs: inputs, id: "cmpl-" + c.letters("text", base62, 29), created: c.created()}
	a.choices, a.usage = c.compose(q)
	if r.Stream {
		a.stream()
		return
	}
	a.plain()
}

type completionAnswer struct {
	c       *call
	request *completionRequest
	inputs  []input
	id      string
	created int64
	choices []choice
	usage   usage
}

func (a *completionAnswer) body(choices list) object {
	return object{"id", a.id, "object", "text_completion", "created", a.created, "model", a.c.served(), "choices", choices}
}

func (a *completionAnswer) choice(i int, text string, pieces []string, finish any) object {
	return object{"text", text, "index", i, "logprobs", a.logprobs(pieces), "finish_reason", finish}
}

// logprobs has this endpoint's own shape: parallel arrays.
func (a *completionAnswer) logprobs(pieces []string) any {
	if a.request.Logprobs == nil {
		return nil
	}
	tokens, probabilities, top, offsets := list{}, list{}, list{}, list{}
	at := 0
	for _, p := range pieces {
		value := raw(fmt.Sprintf("-0.%03d", 125+len(p)))
		tokens, probabilities, offsets = append(tokens, p), append(probabilities, value), append(offsets, at)
		top = append(top, object{p, value})
		at += len(p)
	}
	return object{"tokens", tokens, "token_logprobs", probabilities, "top_logprobs", top, "text_offset", offsets}
}

// prefix is the prompt, where the request wants it back before the answer.
func (a *completionAnswer) prefix(i int) string {
	if !a.request.Echo {
		return ""
	}
	return a.inputs[i*len(a.inputs)/len(a.choices)].text
}

func (a *completionAnswer) plain() {
	c := a.c
	choices := list{}
	for i, ch := range a.choices {
		choices = append(choices, a.choice(i, a.prefix(i)+ch.text(), ch.pieces, ch.finish))
	}
	body := a.body(choices)
	if !c.traits.has("no-usage") {
		body = body.with("usage", c.spoil(c.plainUsage(a.usage)))
		c.tell(a.usage)
	}
	c.reply(body, a.usage)
}

// plainUsage is usage with the details that the older endpoints have.
func (c *call) plainUsage(u usage) object {
	o := object{"prompt_tokens", u.prompt, "completion_tokens", u.output, "total_tokens", u.total()}
	if u.cached > 0 {
		o = o.with("prompt_tokens_details", object{"cached_tokens", u.cached})
	}
	if u.reasoning > 0 {
		o = o.with("completion_tokens_details", object{"reasoning_tokens", u.reasoning})
	}
	return o
}

func (a *completionAnswer) stream() {
	c := a.c
	s := c.open(a.usage)
	asked := a.request.StreamOptions.IncludeUsage && !c.traits.has("no-usage")
	event := func(choices list, tokens int64, last bool) bool {
		o := a.body(choices)
		if asked && last {
			o = o.with("usage", c.spoil(c.plainUsage(a.usage)))
		} else if asked {
			o = o.with("usage", nil)
		}
		return s.send("", encode(o), tokens)
	}
	for i, ch := range a.choices {
		if text := a.prefix(i); text != "" && !event(list{a.choice(i, text, nil, nil)}, 0, false) {
			return
		}
		for at, p := range ch.pieces {
			if !event(list{a.choice(i, p, ch.pieces[at:at+1], nil)}, 1, false) {
				return
			}
		}
		if !event(list{a.choice(i, "", nil, ch.finish)}, 0, false) {
			return
		}
	}
	if asked {
		if !event(list{}, 0, true) {
			return
		}
		c.tell(a.usage)
	}
	s.done(true)
}
