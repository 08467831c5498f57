package openai

import "bytes"

// An answer is what the members of one object add up to, until the last of them is read.
type answer struct {
	id, model []byte
	kind      []byte // "type": the name of an event
	status    []byte
	reason    []byte // incomplete_details.reason
	code      []byte
	delta     int64 // bytes of text
	whole     bool  // not one event of a stream
	nested    bool  // inside "response"
}

// object reads the object at b[i]: a whole answer, or the payload of one event. All kinds share it, because their
// members hardly overlap. closed says that the object ended as it should.
func (r *Reading) object(k Kind, b []byte, i int, whole bool) (closed bool) {
	a := answer{whole: whole}
	open := i + 1
	for i = open; ; {
		key, quote, v := nextMember(b, i)
		if v < 0 {
			closed = quote < len(b) && b[quote] == '}'
			break
		}
		end := r.member(k, &a, key, b, v)
		if end < 0 {
			break
		}
		if string(key) == "usage" {
			r.shape.cutFrom, r.shape.cutTo = i, end
			if i == open {
				r.shape.cutFrom, r.shape.cutTo = quote, behindComma(b, end)
			}
			r.shape.usage = b[v] == '{'
		}
		i = end
	}
	if !closed {
		r.shape.cutFrom, r.shape.cutTo = 0, 0 // what is not whole is passed on as it is
	}
	r.conclude(k, &a)
	return closed
}

// behindComma is the index behind the comma that follows i, i itself when another thing does.
func behindComma(b []byte, i int) int {
	if n := skipBlank(b, i); n < len(b) && b[n] == ',' {
		return n + 1
	}
	return i
}

// member reads one member of an answer and returns the index behind it, -1 when the text ends inside it.
func (r *Reading) member(k Kind, a *answer, key, b []byte, v int) (end int) {
	switch string(key) {
	case "object", "created", "system_fingerprint", "service_tier", "obfuscation", "generationId", "provider",
		"usage_breakdown", "created_at":
	case "id":
		a.id, end = stringAt(b, v)
		return end
	case "model":
		a.model, end = stringAt(b, v)
		return end
	case "choices":
		if k == Chat || k == Completions {
			return r.choices(b, v)
		}
	case "usage":
		return r.usageMember(k, b, v)
	case "x_groq":
		return r.groqMember(k, b, v)
	case "provider_metadata", "providerMetadata":
		return r.gateway(b, v)
	case "error":
		r.failure(b, v)
		r.shape.more = r.shape.more || b[v] != 'n'
	case "type":
		a.kind, end = stringAt(b, v)
		return end
	case "code":
		a.code = word(b, v)
	default:
		r.shape.more = r.shape.more || b[v] != 'n'
		return r.otherMember(k, a, key, b, v)
	}
	return skipValue(b, v)
}

// otherMember reads the members that only answers other than chat have.
func (r *Reading) otherMember(k Kind, a *answer, key, b []byte, v int) (end int) {
	switch k {
	case Responses:
		return r.responseMember(k, a, key, b, v)
	case Images:
		if string(key) == "data" {
			r.Images = 0
			return eachElement(b, v, func(e int) int {
				r.Images++
				return skipValue(b, e)
			})
		}
	case Transcriptions:
		switch string(key) {
		case "duration": // verbose_json; usage, where there is one, says what is billed
			if ms := milliseconds(b, v); ms >= 0 && !r.HasUsage {
				r.AudioMs, r.HasUsage = ms, true
			}
		case "text", "delta":
			text, end := stringAt(b, v)
			a.delta += textLen(text)
			return end
		}
	}
	return skipValue(b, v)
}

func (r *Reading) responseMember(k Kind, a *answer, key, b []byte, v int) (end int) {
	switch string(key) {
	case "response":
		if !a.nested {
			a.nested = true
			end = eachMember(b, v, func(key []byte, v int) int { return r.member(k, a, key, b, v) })
			a.nested = false
			return end
		}
	case "delta":
		text, end := stringAt(b, v)
		a.delta += textLen(text)
		return end
	case "output":
		if a.whole {
			n, end := textIn(b, v)
			a.delta += n
			return end
		}
	case "status":
		a.status, end = stringAt(b, v)
		return end
	case "incomplete_details":
		return eachMember(b, v, func(key []byte, v int) int {
			if string(key) == "reason" {
				a.reason, _ = stringAt(b, v)
			}
			return skipValue(b, v)
		})
	}
	return skipValue(b, v)
}

func (r *Reading) usageMember(k Kind, b []byte, v int) (end int) {
	u, end, ok := readUsage(b, v)
	if ok {
		r.use(k, &u)
	}
	if end > 0 && b[v] == '{' {
		r.price(&u)
	}
	return end
}

// groqMember reads Groq's second place for usage. What stands at the top of the same chunk goes before it.
func (r *Reading) groqMember(k Kind, b []byte, v int) (end int) {
	if r.shape.usage {
		return skipValue(b, v)
	}
	return eachMember(b, v, func(key []byte, v int) int {
		if string(key) == "usage" {
			return r.usageMember(k, b, v)
		}
		return skipValue(b, v)
	})
}

// choices reads the array of choices at b[i].
func (r *Reading) choices(b []byte, i int) (end int) {
	return eachElement(b, i, func(e int) int {
		r.shape.choices = true
		return r.choice(b, e)
	})
}

// choice reads one choice, of a chunk or of a whole answer.
func (r *Reading) choice(b []byte, i int) (end int) {
	index, text := int64(0), int64(0)
	var reason []byte
	end = eachMember(b, i, func(key []byte, v int) (end int) {
		switch string(key) {
		case "index":
			index = max(count(b, v), 0)
			end = skipValue(b, v)
		case "delta", "message":
			text, end = r.delta(b, v)
		case "text":
			text, end = textIn(b, v)
		case "finish_reason":
			reason, end = stringAt(b, v)
		default:
			end = skipValue(b, v)
		}
		return end
	})
	if end < 0 {
		return -1
	}
	bit := min(index, 127)
	r.opened[bit>>6] |= 1 << (bit & 63)
	r.count(text)
	if len(reason) > 0 {
		r.finished[bit>>6] |= 1 << (bit & 63)
		r.FinishReason = keep(r.FinishReason, reason)
	}
	return end
}

// delta adds up the text of a delta or message.
func (r *Reading) delta(b []byte, i int) (text int64, end int) {
	thought := int64(0)
	end = eachMember(b, i, func(key []byte, v int) (end int) {
		n := int64(0)
		switch string(key) {
		case "content", "refusal", "tool_calls", "function_call", "audio":
			n, end = textIn(b, v)
			text += n
		case "reasoning", "reasoning_content":
			// Some upstreams send the same thought under both names.
			n, end = textIn(b, v)
			thought = max(thought, n)
		case "provider_metadata", "providerMetadata":
			end = r.gateway(b, v)
		default:
			end = skipValue(b, v)
		}
		return end
	})
	return text + thought, end
}

// conclude draws what only shows when all members are read.
func (r *Reading) conclude(k Kind, a *answer) {
	r.identify(a)
	switch k {
	case Chat, Completions:
		if a.whole {
			break
		}
		if r.opened[0]|r.opened[1] != 0 && r.opened[0]&^r.finished[0] == 0 && r.opened[1]&^r.finished[1] == 0 ||
			!r.shape.choices && r.shape.usage && r.HasUsage {
			r.Complete = true
		}
	case Responses:
		r.concludeResponse(a)
	case Transcriptions:
		if a.whole || bytes.HasSuffix(a.kind, []byte(".delta")) {
			r.count(a.delta)
		}
		r.Complete = r.Complete || string(a.kind) == "transcript.text.done"
	case Speech:
		r.Complete = r.Complete || string(a.kind) == "speech.audio.done"
	case Images:
		if string(a.kind) == "image_generation.completed" || string(a.kind) == "image_edit.completed" {
			r.Images++
			r.Complete = true
		}
	}
	switch {
	case string(a.kind) == "error":
		r.Failed = true
		if r.ErrorCode == "" {
			r.ErrorCode = keep("", a.code)
		}
	case r.Failed && r.ErrorCode == "" && isWord(a.kind):
		r.ErrorCode = keep("", a.kind) // {"error":"text","type":"no_providers_available"}
	}
	if r.Failed {
		r.Complete = false
	}
}

func (r *Reading) concludeResponse(a *answer) {
	if a.whole || bytes.HasSuffix(a.kind, []byte(".delta")) && !bytes.HasSuffix(a.kind, []byte("audio.delta")) {
		r.count(a.delta)
	}
	status := a.status
	if !a.whole {
		var terminal bool
		if status, terminal = bytes.CutPrefix(a.kind, []byte("response.")); !terminal {
			return
		}
	}
	switch string(status) {
	case "completed", "incomplete", "cancelled":
		r.Complete = true
	case "failed":
		r.Failed = true
	default:
		return
	}
	if len(a.reason) > 0 {
		r.FinishReason = keep(r.FinishReason, a.reason)
	} else {
		r.FinishReason = keep(r.FinishReason, status)
	}
}

func (r *Reading) count(text int64) {
	if text > 0 {
		r.Deltas++
		r.TextBytes += text
	}
}

// identify keeps the id and the model that the answer came with first, in one allocation when they come together.
func (r *Reading) identify(a *answer) {
	if r.ID == "" && r.Model == "" && len(a.id) > 0 && len(a.model) > 0 &&
		sound(a.id) && sound(a.model) {
		both := string(a.id) + string(a.model)
		r.ID, r.Model = both[:len(a.id)], both[len(a.id):]
		return
	}
	if r.ID == "" {
		r.ID = keep("", a.id)
	}
	if r.Model == "" {
		r.Model = keep("", a.model)
	}
}
