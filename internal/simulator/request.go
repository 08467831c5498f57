package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// question is the part of a chat, text or responses request the answer depends on, in one form for all of them.
type question struct {
	n          int
	limit      int // of output tokens; 0: none
	stops      []string
	format     json.RawMessage // schema the answer's JSON must match
	anyJSON    bool
	tool       *toolSpec // to be called
	noThinking bool
	prompt     int64
	fixed      string // the whole answer, where it is not to be invented
}

// toolSpec is one tool as both chat and responses describe it.
type toolSpec struct {
	Name       string
	Parameters json.RawMessage
}

// choice is one alternative answer, in tokens.
type choice struct {
	pieces []string
	tool   *toolSpec
	finish string
}

func (ch choice) text() string { return strings.Join(ch.pieces, "") }

// thought is how many tokens a reasoning model spends before it answers.
const thought = 64

// compose makes the answer to q and what it costs.
func (c *call) compose(q question) (choices []choice, u usage) {
	reasoning := 0
	if (c.priced.reasons || c.traits.has("reason")) && !q.noThinking {
		reasoning = thought
		if q.limit > 0 {
			reasoning = min(thought, q.limit/2)
		}
	}
	u.prompt = max(1, q.prompt)
	u.reasoning = int64(reasoning * q.n)
	u.output = u.reasoning
	for i := range q.n {
		ch := c.alternative(q, i)
		if room := q.limit - reasoning; q.limit > 0 && len(ch.pieces) > room {
			ch.pieces, ch.finish = ch.pieces[:room], "length"
		}
		u.output += int64(len(ch.pieces))
		choices = append(choices, ch)
	}
	if c.route == anthropic || c.route == google {
		// These layers never tell of caches, so there is nothing to bill for them.
		return choices, u
	}
	if c.traits.has("cached") {
		u.cached = u.prompt * 3 / 4
	}
	if c.traits.has("cache-write") {
		u.written = min(u.prompt/2, u.prompt-u.cached)
	}
	return choices, u
}

// alternative is the i-th answer before its limit.
func (c *call) alternative(q question, i int) choice {
	d := c.dice + dice(i)*0x632be59bd9b4e019
	switch {
	case c.traits.has("echo"):
		return choice{pieces: split(string(c.body)), finish: "stop"}
	case q.fixed != "":
		return choice{pieces: split(q.fixed), finish: "stop"}
	case q.tool != nil:
		return choice{pieces: split(string(invent(q.tool.Parameters, d))), tool: q.tool, finish: "tool_calls"}
	case q.format != nil:
		return choice{pieces: split(string(invent(q.format, d))), finish: "stop"}
	case q.anyJSON:
		return choice{pieces: split(string(encode(object{"resposta", strings.Join(prose(d, 8), ""), "ok", true}))), finish: "stop"}
	}
	pieces, _ := cutAtStop(prose(d, c.length(q.limit)), q.stops)
	return choice{pieces: pieces, finish: "stop"}
}

// length is how many tokens an invented text has.
func (c *call) length(limit int) int {
	n := c.sim.cfg.Tokens
	if t, ok := c.traits["tokens"]; ok {
		n = t
	}
	// There must be something left to cut.
	for _, name := range []string{"cut-after", "cut-mid", "reset-after"} {
		if at, ok := c.traits[name]; ok {
			n = max(n, at+8)
		}
	}
	if limit > 0 {
		// One more than allowed, so that the limit shows as the reason for the end.
		n = min(n, limit+1)
	}
	return n
}

// message is one entry of a conversation; only its text matters here.
type message struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	Name      string          `json:"name"`
	ToolCalls json.RawMessage `json:"tool_calls"`
}

// part is one part of a message's content.
type part struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// pictureTokens is what a picture, a sound or a file in a prompt counts for.
const pictureTokens = 85

// promptOf counts a conversation: the bytes of all texts and calls at four a token, plus a fixed price for the rest.
func promptOf(messages []message, tools json.RawMessage) (int64, error) {
	size, others := 0, 0
	for i, m := range messages {
		n, parts, err := contentSize(m.Content)
		if err != nil {
			return 0, fmt.Errorf("messages[%d].content: %w", i, err)
		}
		size, others = size+n+present(m.ToolCalls), others+parts
	}
	return countTokens(size+present(tools)) + int64(others)*pictureTokens, nil
}

// present is the length of a JSON value, 0 for null.
func present(v json.RawMessage) int {
	if isNull(v) {
		return 0
	}
	return len(v)
}

func isNull(v json.RawMessage) bool {
	v = bytes.TrimSpace(v)
	return len(v) == 0 || string(v) == "null"
}

// contentSize is the bytes of text in a content, and how many parts of it are something else.
func contentSize(content json.RawMessage) (size, others int, err error) {
	if isNull(content) {
		return 0, 0, nil
	}
	var text string
	if json.Unmarshal(content, &text) == nil {
		return len(text), 0, nil
	}
	var parts []part
	if json.Unmarshal(content, &parts) != nil {
		return 0, 0, fmt.Errorf("expected a string or an array of parts")
	}
	for _, p := range parts {
		switch p.Type {
		case "text", "input_text", "output_text", "refusal", "":
			size += len(p.Text)
		default:
			others++
		}
	}
	return size, others, nil
}

// stringsOf reads a member that is a string or an array of them, as "stop" is.
func stringsOf(v json.RawMessage) ([]string, error) {
	if isNull(v) {
		return nil, nil
	}
	var one string
	if json.Unmarshal(v, &one) == nil {
		return []string{one}, nil
	}
	var many []string
	if err := json.Unmarshal(v, &many); err != nil {
		return nil, fmt.Errorf("expected a string or an array of strings")
	}
	return many, nil
}

// decode reads a JSON body; the words of a failure are for the client.
func decode(body []byte, into any) (problemText string) {
	if err := json.Unmarshal(body, into); err != nil {
		return "We could not parse the JSON body of your request: " + err.Error()
	}
	return ""
}
