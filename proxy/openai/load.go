package openai

import "bytes"

// A load is what Parse saw of a request that Worst makes a bound of.
type load struct {
	prompt bool  // what is being read is part of the prompt, where content parts are looked for
	inside media // what the innermost open container is

	keys       int64 // bytes of keys
	numbers    int64 // that TextBytes counts
	data64     int64 // bytes that TextBytes leaves out
	schema     int64 // bytes of tools and schemas that are not inside strings
	arguments  int64 // bytes of arguments of tool calls
	inline     int64 // bytes of pictures, sounds and files written out: data, which no prompt shows
	tools      int64
	prompts    int64 // of a completion that has several
	prediction int64 // bytes of a predicted output: what of it is wrong is billed as output
	thinking   int64 // tokens that the request allows to think with, beside those of its limit
	effort     bool  // it says how hard to think
	pictures   [3]int64
	audioMs    int64 // of sounds in the prompt, at most
	partial    int64 // previews of each picture
	unknown    string
	spans      [4]span // where the first inline data stands
}

// A span is a part of the body.
type span struct{ from, to int }

// media is a container of a content part whose strings are no text.
type media uint8

const (
	outsideMedia media = iota
	insidePicture
	insideSettledPicture // its detail is known
	insideSound
	insideSource
)

// The details that pictures are asked to be seen in. Automatic and absent are full, which costs most.
const (
	lowDetail = iota
	highDetail
	fullDetail
)

// entered and weighed are the first letters of the keys that enter and weigh know, by their last five bits: most keys of
// a conversation, as role and content, are told apart by them at once.
const (
	entered = 1<<('i'&31) | 1<<('s'&31) | 1<<('a'&31) | 1<<('f'&31) | 1<<('v'&31)
	weighed = 1<<('t'&31) | 1<<('u'&31) | 1<<('d'&31) | 1<<('b'&31) | 1<<('i'&31) | 1<<('f'&31) | 1<<('a'&31)
)

// insideStrings is how many bytes of what was read so far stand inside strings, those of keys included.
func (r *Request) insideStrings() int64 {
	return r.TextBytes - bytesPerToken*r.load.numbers + r.load.data64 + r.load.keys
}

// enter takes note that a container opens under key in the prompt.
func (r *Request) enter(key []byte) {
	switch string(key) {
	case "image_url":
		r.load.inside = insidePicture
		r.load.pictures[fullDetail]++
	case "input_audio":
		r.load.inside = insideSound
	case "source":
		r.load.inside = insideSource
	case "audio": // of an earlier answer: {"id":"audio_…"}
		r.Hidden = true
	case "file", "video_url", "video":
		r.Hidden = true
	}
}

// weigh takes what is no text out of the input estimate, and takes note of what costs tokens by other rules than text
// does. The string is Body[from:to].
func (r *Request) weigh(key []byte, from, to int) {
	value := r.Body[from:to]
	switch string(key) {
	case "type":
		r.kind(value)
	case "url", "data", "b64_json", "image_url", "file_data":
		r.weighData(key, from, to)
	case "file_id", "file_url":
		r.Hidden = r.Hidden || r.load.prompt
	case "detail":
		r.detail(value)
	case "arguments":
		r.load.arguments += int64(len(value))
	case "ttl":
		r.LongCache = r.LongCache || string(value) != "5m"
	}
}

// weighData weighs what may be a picture, a sound or a file.
func (r *Request) weighData(key []byte, from, to int) {
	value := r.Body[from:to]
	data := len(value) >= 64 && isBase64(value)
	if data {
		r.TextBytes -= int64(len(value))
		r.load.data64 += int64(len(value))
	}
	if !r.load.prompt {
		return
	}
	switch string(key) {
	case "image_url": // the Responses API's form: the link itself
		r.load.pictures[fullDetail]++
	case "url":
		data = data && (r.load.inside == insidePicture || r.load.inside == insideSettledPicture)
	case "data":
		if r.load.inside == insideSound {
			r.load.audioMs += inlineSound(value)
			break
		}
		data = data && r.load.inside == insideSource
	case "file_data":
		r.Hidden = true
	default:
		data = false
	}
	if !data {
		return
	}
	r.load.inline += int64(len(value))
	for i := range r.load.spans {
		if s := &r.load.spans[i]; s.to == 0 {
			*s = span{from, to}
			break
		}
	}
}

// detail reads how closely a picture shall be looked at. Only the word inside a picture counts; one that is repeated
// counts as a picture more.
func (r *Request) detail(value []byte) {
	switch r.load.inside {
	case insidePicture:
		r.load.inside = insideSettledPicture
		switch string(value) {
		case "low":
			r.load.pictures[fullDetail]--
			r.load.pictures[lowDetail]++
		case "high":
			r.load.pictures[fullDetail]--
			r.load.pictures[highDetail]++
		}
	case insideSettledPicture:
		r.load.pictures[fullDetail]++
	}
}

// kind reads the type of a content part, or of an item of a conversation. One that is not known here may bring anything
// into the prompt.
func (r *Request) kind(value []byte) {
	switch string(value) {
	case "image_url", "input_image", "input_audio":
		r.Media++
	case "image":
		r.Media++
		if r.load.prompt {
			r.load.pictures[fullDetail]++
		}
	case "input_file", "file", "document":
		r.Media++
		r.Hidden = r.Hidden || r.load.prompt
	case "text", "input_text", "output_text", "refusal", "message", "function", "custom", "ephemeral",
		"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "tool_use", "tool_result",
		"reasoning", "summary_text", "reasoning_text", "thinking", "redacted_thinking",
		"reasoning.text", "reasoning.summary", "reasoning.encrypted", "base64", "url", "content", "url_citation":
	default:
		r.Hidden = r.Hidden || r.load.prompt
	}
}

// hidesLetter says that a key writes a letter as an escape: nobody does but to be read otherwise by others.
func hidesLetter(key []byte) bool {
	for {
		i := bytes.IndexByte(key, '\\')
		if i < 0 {
			return false
		}
		if key[i+1] != 'u' {
			key = key[i+2:]
			continue
		}
		if string(key[i+2:i+4]) == "00" && '4' <= key[i+4] && key[i+4] < '8' {
			return true
		}
		key = key[i+6:]
	}
}

// Unknown is the name of a top-level member that is not known here; empty where there is none. It points into the body.
func (r *Request) Unknown() string { return r.load.unknown }
