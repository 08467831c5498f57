package openai

import "strconv"

// A Reply is an answer that the gateway gives itself, in the place of a model: a text, or nothing at all. It used no
// tokens and says so.
type Reply struct {
	ID       string // see ReplyID
	Model    string // as the client named it
	Created  int64  // seconds since 1970
	Text     string
	Choices  int64  // as many as the client asked for; 0: one
	Previous string // of the Responses API: previous_response_id
}

// CanAnswer says that an endpoint's answers are words, so that a reply can stand for one. Nobody would take a sentence
// for a vector, a picture or the words of a recording.
func CanAnswer(k Kind) bool { return k == Chat || k == Completions || k == Responses }

// ReplyID is an id in the form that an endpoint's ids have. unique is letters and digits.
func ReplyID(k Kind, unique string) string {
	switch k {
	case Completions:
		return "cmpl-" + unique
	case Responses:
		return "resp_" + unique
	}
	return "chatcmpl-" + unique
}

// AppendBody appends the reply as a whole answer of kind k, one that CanAnswer, to dst.
func (p *Reply) AppendBody(dst []byte, k Kind) []byte {
	switch k {
	case Completions:
		dst = p.head(dst, "text_completion")
		dst = p.eachChoice(dst, p.completionChoice)
		return append(dst, `,"usage":`+noTokens+`}`...)
	case Responses:
		return p.response(dst, "completed")
	}
	dst = p.head(dst, "chat.completion")
	dst = p.eachChoice(dst, func(dst []byte, i int64) []byte {
		dst = append(dst, `{"index":`...)
		dst = strconv.AppendInt(dst, i, 10)
		dst = append(dst, `,"message":{"role":"assistant","content":`...)
		dst = appendString(dst, p.Text)
		return append(dst, `,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}`...)
	})
	return append(dst, `,"usage":`+noTokens+`,"service_tier":"default","system_fingerprint":null}`...)
}

// noTokens is the usage of chats and completions.
const noTokens = `{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},` +
	`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`

// head is the beginning of a chat or completion, up to its choices.
func (p *Reply) head(dst []byte, object string) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, p.ID)
	dst = append(dst, `,"object":"`...)
	dst = append(dst, object...)
	dst = append(dst, `","created":`...)
	dst = strconv.AppendInt(dst, p.Created, 10)
	dst = append(dst, `,"model":`...)
	return appendString(dst, p.Model)
}

// eachChoice appends the member choices.
func (p *Reply) eachChoice(dst []byte, one func(dst []byte, i int64) []byte) []byte {
	dst = append(dst, `,"choices":[`...)
	for i := range max(p.Choices, 1) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, i)
	}
	return append(dst, ']')
}

func (p *Reply) completionChoice(dst []byte, i int64) []byte {
	dst = append(dst, `{"index":`...)
	dst = strconv.AppendInt(dst, i, 10)
	dst = append(dst, `,"text":`...)
	dst = appendString(dst, p.Text)
	return append(dst, `,"logprobs":null,"finish_reason":"stop"}`...)
}

// AppendStream appends the reply as a whole stream of kind k to dst. usage says that the client asked for a last chunk
// with usage; streams of responses always end in it.
func (p *Reply) AppendStream(dst []byte, k Kind, usage bool) []byte {
	switch k {
	case Responses:
		return p.responseStream(dst)
	case Completions:
		dst = p.chunks(dst, "text_completion", usage, p.completionChoice)
	default:
		dst = p.chunks(dst, "chat.completion.chunk", usage, delta(`{"role":"assistant","content":"","refusal":null}`, false))
		if p.Text != "" {
			text := append(appendString([]byte(`{"content":`), p.Text), '}')
			dst = p.chunks(dst, "chat.completion.chunk", usage, delta(string(text), false))
		}
		dst = p.chunks(dst, "chat.completion.chunk", usage, delta(`{}`, true))
	}
	if usage {
		object := "chat.completion.chunk"
		if k == Completions {
			object = "text_completion"
		}
		dst = append(dst, "data: "...)
		dst = p.head(dst, object)
		dst = append(dst, `,"choices":[],"usage":`+noTokens+"}\n\n"...)
	}
	return append(dst, "data: [DONE]\n\n"...)
}

// chunks appends an event for each choice, as upstreams send them.
func (p *Reply) chunks(dst []byte, object string, usage bool, one func(dst []byte, i int64) []byte) []byte {
	for i := range max(p.Choices, 1) {
		dst = append(dst, "data: "...)
		dst = p.head(dst, object)
		dst = append(dst, `,"choices":[`...)
		dst = append(one(dst, i), ']')
		if usage {
			dst = append(dst, `,"usage":null`...)
		}
		dst = append(dst, "}\n\n"...)
	}
	return dst
}

// delta is a choice of a chat's chunk, the last of it or not.
func delta(content string, last bool) func(dst []byte, i int64) []byte {
	return func(dst []byte, i int64) []byte {
		dst = append(dst, `{"index":`...)
		dst = strconv.AppendInt(dst, i, 10)
		dst = append(dst, `,"delta":`...)
		dst = append(dst, content...)
		dst = append(dst, `,"logprobs":null,"finish_reason":`...)
		if last {
			return append(dst, `"stop"}`...)
		}
		return append(dst, `null}`...)
	}
}
