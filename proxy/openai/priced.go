package openai

import (
	"bytes"
	"unsafe"
)

// priced reads the value at b[i] of a top-level member that Parse needs for nothing but the bound.
func (r *Request) priced(i int, key string) (int, *Error) {
	given := !r.null(i)
	switch key {
	case "messages", "instructions", "system":
		return r.prompt(i)
	case "prompt":
		return r.prompts(i)
	case "tools":
		return r.tools(i)
	case "functions", "response_format", "text":
		return r.schema(i, key)
	case "conversation":
		r.Hidden = r.Hidden || given
	case "service_tier":
		return r.tier(i, 1)
	case "web_search_options":
		r.WebSearch = r.WebSearch || given
	case "background": // of a picture it is a colour
		r.Background = r.Body[i] == 't'
	case "modalities":
		return r.modalities(i)
	case "prediction":
		end, err := r.skip(i, 1)
		r.load.prediction = int64(end - i)
		return end, err
	case "reasoning", "thinking", "reasoning_effort", "thinking_budget", "enable_thinking":
		return r.thinking(i)
	case "prompt_cache_retention":
		r.LongCache = r.LongCache || given && !bytes.HasPrefix(r.Body[i:], []byte(`"in`)) // in_memory
	case "cache_ttl":
		r.LongCache = r.LongCache || given
	case "partial_images":
		r.load.partial = min(max(count(r.Body, i), 0), maxChoices)
	default:
		if r.load.unknown == "" && !harmless(key) {
			r.load.unknown = key
		}
	}
	return r.skip(i, 1)
}

// harmless says that a top-level member brings nothing into the prompt but its own bytes, and changes no price. It is a
// list of what is known, not of what is feared: an upstream may give any other member a meaning that costs money.
func harmless(key string) bool {
	switch key {
	case "temperature", "top_p", "top_k", "min_p", "top_a", "seed", "stop", "user", "metadata", "frequency_penalty",
		"presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "tool_choice", "function_call",
		"parallel_tool_calls", "store", "safety_identifier", "prompt_cache_key", "verbosity", "echo", "suffix",
		"encoding_format", "dimensions", "input_type", "voice", "speed", "stream_format", "size", "quality", "style",
		"output_format", "output_compression", "moderation", "include", "truncation", "max_tool_calls", "audio",
		"caching", "cache_control", "cache_anchor_items", "include_reasoning", "reasoning_format", "timeout", "language",
		"timestamp_granularities", "strict", "guardrails", "title", "name", "description", "top_n", "return_documents":
		return true
	}
	return false
}

// prompt reads the value of a member that is part of the prompt.
func (r *Request) prompt(i int) (int, *Error) {
	r.load.prompt = true
	end, err := r.skip(i, 1)
	r.load.prompt = false
	return end, err
}

// prompts reads the prompt: a text; a list of texts, or of lists of tokens, each of which is answered; or the name of a
// prompt that the provider keeps.
func (r *Request) prompts(i int) (int, *Error) {
	switch r.Body[i] {
	case '[':
		return r.elements(i, func(r *Request, i int) (int, *Error) {
			if c := r.Body[i]; c == '"' || c == '[' {
				r.load.prompts++
			}
			return r.skip(i, 2)
		})
	case '{':
		r.Hidden = true
	}
	return r.prompt(i)
}

// elements reads an array whose elements f reads.
func (r *Request) elements(i int, f func(r *Request, i int) (int, *Error)) (end int, err *Error) {
	b := r.Body
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for i < len(b) {
		if i, err = f(r, i); err != nil {
			return 0, err
		}
		if i = skipSpace(b, i); i == len(b) {
			break
		}
		switch b[i] {
		case ']':
			return i + 1, nil
		case ',':
			i = skipSpace(b, i+1)
		default:
			return 0, syntax(i, "expected a comma or ] here")
		}
	}
	return 0, syntax(len(b), "the body ends inside an array")
}

// schema reads the value of a member that describes functions or the form of the answer.
func (r *Request) schema(i int, key string) (int, *Error) {
	strings := r.insideStrings()
	end, err := r.skip(i, 1)
	if err != nil {
		return 0, err
	}
	r.load.schema += int64(end-i) - (r.insideStrings() - strings)
	if value := r.Body[i:end]; key != "functions" && bytes.Contains(value, []byte(`"json_`)) {
		r.WantsJSON = true
	}
	return end, nil
}

// tools reads the list of tools.
func (r *Request) tools(i int) (end int, err *Error) {
	if r.Body[i] != '[' {
		return r.schema(i, "functions")
	}
	strings := r.insideStrings()
	end, err = r.elements(i, (*Request).tool)
	r.load.schema += int64(end-i) - (r.insideStrings() - strings)
	return end, err
}

// tool reads one tool. The client runs functions and the like; what else there is the provider runs.
func (r *Request) tool(i int) (end int, err *Error) {
	b := r.Body
	r.load.tools++
	if b[i] != '{' {
		r.HostedTools = true
		return r.skip(i, 2)
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		key, v, err := r.skipKey(i)
		if err != nil {
			return 0, err
		}
		if i, err = r.skip(v, 3); err != nil {
			return 0, err
		}
		if string(key) == "type" {
			r.toolKind(b[v:i])
		}
		if i = skipSpace(b, i); i == len(b) {
			return 0, syntax(i, "the body ends inside an object or array")
		}
		switch b[i] {
		case '}':
			return i + 1, nil
		case ',':
			i = skipSpace(b, i+1)
		default:
			return 0, syntax(i, "expected a comma or the end of the object or array here")
		}
	}
}

func (r *Request) toolKind(value []byte) {
	switch string(value) {
	case `"function"`, `"custom"`, `"local_shell"`, `"apply_patch"`:
		return
	}
	r.HostedTools = true
	r.WebSearch = r.WebSearch || bytes.Contains(value, []byte("search"))
}

// tier reads the tier of service at b[i], inside depth containers. One whose name cannot be shown is as dear as one that
// is not known.
func (r *Request) tier(i, depth int) (int, *Error) {
	end, err := r.skip(i, depth)
	if err != nil || r.Body[i] != '"' {
		return end, err
	}
	name := "unknown"
	if raw := r.Body[i+1 : end-1]; sound(raw) {
		name = unsafe.String(unsafe.SliceData(raw), len(raw))
	}
	if r.ServiceTier == "" || dearTier(name) {
		r.ServiceTier = name
	}
	return end, nil
}

// DearTier says that the tier of service asked for may cost more than the list price.
func (r *Request) DearTier() bool { return dearTier(r.ServiceTier) }

func dearTier(name string) bool {
	switch name {
	case "", "auto", "default", "flex", "standard", "standard_only", "on_demand", "batch":
		return false
	}
	return true
}

// modalities reads what the answer is to be made of.
func (r *Request) modalities(i int) (int, *Error) {
	end, err := r.skip(i, 1)
	if err != nil {
		return 0, err
	}
	value := r.Body[i:end]
	escaped := bytes.IndexByte(value, '\\') >= 0
	r.AudioOut = r.AudioOut || escaped || bytes.Contains(value, []byte(`"audio"`))
	r.ImageOut = r.ImageOut || escaped || bytes.Contains(value, []byte(`"image"`))
	return end, nil
}

// thinking reads how much the model shall think: a word, a number of tokens, or an object with either.
func (r *Request) thinking(i int) (int, *Error) {
	b := r.Body
	end, err := r.skip(i, 1)
	if err != nil {
		return 0, err
	}
	switch b[i] {
	case '{':
		eachMember(b, i, func(key []byte, v int) int {
			switch string(key) {
			case "max_tokens", "budget_tokens", "budgetTokens":
				r.thinkWith(v)
			case "effort", "enabled", "type":
				r.load.effort = true
			}
			return skipValue(b, v)
		})
	case '"', 't':
		r.load.effort = true
	default:
		r.thinkWith(i)
	}
	return end, nil
}

// thinkWith takes the number of tokens at b[i].
func (r *Request) thinkWith(i int) {
	if r.null(i) || r.Body[i] == 'f' {
		return
	}
	n := count(r.Body, i)
	if n < 0 {
		n = maxCount
	}
	r.load.thinking = max(r.load.thinking, n)
}
