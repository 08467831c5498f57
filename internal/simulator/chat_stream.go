package simulator

import (
	"strings"
	"unicode/utf8"
)

// stream sends the answer in the order of chunks that was recorded from the upstream.
func (a *chatAnswer) stream() {
	c := a.c
	s := c.open(a.usage)
	c.remember(a.id, a.choices[0].finish, a.byok, a.usage)
	early := c.traits.has("usage-first-chunk")
	if c.route != google {
		for i := range a.choices {
			chunk := a.chunk(list{a.delta(i, a.opening(i), nil, nil)}, i == 0)
			if early && i == 0 {
				chunk = a.withUsage(chunk, a.usage)
			}
			if !s.send("", encode(chunk), 0) {
				return
			}
			if early && i == 0 {
				a.c.tell(a.usage)
			}
		}
	}
	if a.tokens(s) && a.closing(s, !early) {
		s.done(true)
	}
}

// opening is the first delta of choice i.
func (a *chatAnswer) opening(i int) object {
	c, ch := a.c, a.choices[i]
	d := object{"role", "assistant"}
	if ch.tool != nil {
		d = d.with("content", nil)
		if c.route == openai || c.route == gateway || c.route == anthropic {
			call := object{"index", 0}
			return d.with("tool_calls", list{append(call, a.toolCall(i, ch, "")...)})
		}
		return d
	}
	switch c.route {
	case gateway:
		return d
	case openai:
		return d.with("content", "").with("refusal", nil)
	}
	return d.with("content", "")
}

// tokens sends what the choices say, one token of each in turn.
func (a *chatAnswer) tokens(s *stream) bool {
	longest := 0
	for _, ch := range a.choices {
		longest = max(longest, len(ch.pieces))
	}
	for at := range longest {
		for i, ch := range a.choices {
			if at >= len(ch.pieces) {
				continue
			}
			if ch.tool != nil && (a.c.route == groq || a.c.route == google) {
				// These send a call in one piece.
				if at == 0 && !a.wholeCall(s, i, ch) {
					return false
				}
				continue
			}
			if !a.token(s, i, ch, at) {
				return false
			}
		}
	}
	return true
}

// token sends the token of choice i at its place, or its characters one by one.
func (a *chatAnswer) token(s *stream, i int, ch choice, at int) bool {
	piece := ch.pieces[at]
	if !a.c.traits.has("tiny-chunks") {
		return a.piece(s, i, ch, at, piece, 1)
	}
	worth := int64(1)
	for len(piece) > 0 {
		_, n := utf8.DecodeRuneInString(piece)
		if !a.piece(s, i, ch, at, piece[:n], worth) {
			return false
		}
		piece, worth = piece[n:], 0
	}
	return true
}

func (a *chatAnswer) piece(s *stream, i int, ch choice, at int, text string, worth int64) bool {
	delta := object{"content", text}
	switch {
	case ch.tool != nil:
		delta = object{"tool_calls", list{object{"index", 0, "function", object{"arguments", text}}}}
	case a.c.route == google:
		delta = delta.with("role", "assistant")
	}
	var probabilities any
	if a.request.Logprobs {
		probabilities = a.logprobs(ch.pieces[at : at+1])
	}
	var finish any
	if a.c.route == google && at == len(ch.pieces)-1 {
		finish = ch.finish
	}
	return a.sendPiece(s, list{a.delta(i, delta, probabilities, finish)}, worth)
}

// wholeCall sends a tool call in one chunk that carries all its tokens.
func (a *chatAnswer) wholeCall(s *stream, i int, ch choice) bool {
	call := append(object{"index", 0}, a.toolCall(i, ch, ch.text())...)
	delta := object{"tool_calls", list{call}}
	var finish any
	if a.c.route == google {
		delta, finish = object{"role", "assistant", "tool_calls", list{call}}, ch.finish
	}
	return a.sendPiece(s, list{a.delta(i, delta, nil, finish)}, int64(len(ch.pieces)))
}

// sendPiece sends a chunk with tokens in it; one of the layers counts along in every chunk.
func (a *chatAnswer) sendPiece(s *stream, choices list, worth int64) bool {
	chunk := a.chunk(choices, false)
	if a.c.route != google {
		return s.send("", encode(chunk), worth)
	}
	so := a.c.made
	so.output += worth
	if !s.send("", encode(a.withUsage(chunk, so)), worth) {
		return false
	}
	a.c.tell(so)
	return true
}

// closing sends the finish of every choice, and usage where this upstream puts it.
func (a *chatAnswer) closing(s *stream, late bool) bool {
	c := a.c
	asked := a.request.StreamOptions.IncludeUsage
	if c.route == google {
		if a.usage.output > a.usage.reasoning {
			return true
		}
		// Nothing but thoughts fitted the limit: the finish has a chunk of its own.
		return a.last(s, a.chunk(list{a.delta(0, object{"role", "assistant"}, nil, a.choices[0].finish)}, false), true)
	}
	for i, ch := range a.choices {
		delta, end := object{}, i == len(a.choices)-1
		if c.route == gateway && end {
			if a.usage.reasoning > 0 {
				delta = delta.with("reasoning_details", a.reasoningDetails())
			}
			delta = delta.with("provider_metadata", a.gatewayMetadata())
		}
		chunk := a.chunk(list{a.delta(i, delta, nil, ch.finish)}, false)
		carries := false
		switch {
		case c.route == gateway && end:
			carries = late && asked
			if carries {
				chunk = a.withUsage(chunk, a.usage)
			}
			chunk = chunk.with("service_tier", "default").with("generationId", a.id)
		case c.route == groq && end && late:
			carries = true
			chunk = a.groqFinish(chunk)
		}
		if !a.last(s, chunk, carries) {
			return false
		}
	}
	if !asked || !late || c.route == gateway || c.traits.has("no-usage") {
		return true
	}
	return a.last(s, a.withUsage(a.chunk(list{}, false), a.usage), true)
}

// last sends a chunk without tokens; carries says that usage rides it.
func (a *chatAnswer) last(s *stream, chunk object, carries bool) bool {
	if a.c.route == google {
		chunk = a.withUsage(chunk, a.usage)
	}
	if !s.send("", encode(chunk), 0) {
		return false
	}
	if carries {
		a.c.tell(a.usage)
	}
	return true
}

// groqFinish has the usage twice, once under the upstream's own name.
func (a *chatAnswer) groqFinish(chunk object) object {
	own := object{"id", "req_01" + strings.ToLower(a.c.letters("xgroq", crockford, 24))}
	if u, ok := a.usageField(a.usage); ok {
		return chunk.with("x_groq", own.with("usage", u)).with("usage", u)
	}
	return chunk.with("x_groq", own)
}

// withUsage sets usage on a chunk, in place of the null it may carry.
func (a *chatAnswer) withUsage(chunk object, u usage) object {
	value, ok := a.usageField(u)
	if !ok {
		return chunk
	}
	for i := 0; i < len(chunk); i += 2 {
		if chunk[i] == "usage" {
			chunk[i+1] = value
			return chunk
		}
	}
	return chunk.with("usage", value)
}

// delta is one entry of a chunk's choices.
func (a *chatAnswer) delta(i int, delta object, probabilities, finish any) object {
	switch a.c.route {
	case anthropic:
		return object{"index", i, "delta", delta, "finish_reason", finish}
	case google:
		if finish == nil {
			return object{"delta", delta, "index", i}
		}
		return object{"delta", delta, "finish_reason", finish, "index", i}
	}
	return object{"index", i, "delta", delta, "logprobs", probabilities, "finish_reason", finish}
}

// chunk is a chunk without usage, its members in the order the upstream has them.
func (a *chatAnswer) chunk(choices list, first bool) object {
	c := a.c
	const kind = "chat.completion.chunk"
	switch c.route {
	case anthropic:
		return object{"id", a.id, "choices", choices, "created", a.created, "model", c.served(), "object", kind}
	case google:
		return object{"choices", choices, "created", a.created, "id", a.id, "model", c.served(), "object", kind}
	case openai:
		o := object{
			"id", a.id, "object", kind, "created", a.created, "model", c.served(), "service_tier", "default",
			"system_fingerprint", a.fingerprint, "choices", choices,
		}
		if a.request.StreamOptions.IncludeUsage && !c.traits.has("no-usage") {
			o = o.with("usage", nil)
		}
		if want := a.request.StreamOptions.IncludeObfuscation; want == nil || *want {
			// Padding that hides the length of a token on the wire.
			o = o.with("obfuscation", a.pad[:1+c.events*7%padding])
		}
		return o
	}
	o := object{"id", a.id, "object", kind, "created", a.created, "model", c.served()}
	if c.route == groq {
		o = o.with("system_fingerprint", a.fingerprint).with("choices", choices)
		if first {
			o = o.with("x_groq", object{"id", "req_01" + strings.ToLower(c.letters("xgroq", crockford, 24)), "seed", int64(c.dice % 1_000_000_007)})
		}
		return o
	}
	return o.with("choices", choices).with("system_fingerprint", a.fingerprint)
}
