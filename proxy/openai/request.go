package openai

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
	"unsafe"
)

const (
	maxKeys      = 1000 // of one object that is read here; the largest API has some forty
	maxName      = 256  // bytes of a model's name or of an id
	maxFallbacks = 16
	maxChoices   = 128
	maxTokens    = 1<<31 - 1
)

// Request is what the gateway reads of a request body. It is meant to be kept and parsed into again: a parse resets
// it and reuses its memory.
type Request struct {
	// Body is the parsed body itself, not a copy. Model, PreviousResponse, ResponseFormat, ServiceTier and Fallbacks may
	// point into it: they hold only as long as its bytes are left alone. Clone what must live longer.
	Body []byte

	Model            string
	HasModel         bool
	Stream           bool
	WantsUsage       bool   // the client itself sent stream_options.include_usage: true
	PreviousResponse string // previous_response_id
	ResponseFormat   string // multipart only: json, text, srt, verbose_json, vtt

	// MaxOutput is the largest of max_tokens, max_completion_tokens and max_output_tokens, -1 when there is none. An
	// upstream heeds only the names of its endpoint, so what bounds an answer is OutputLimit, not this.
	MaxOutput int64

	// N is the number of choices the upstream may bill: the larger of n and best_of, 1 when absent.
	N int64

	// Fallbacks are the other models that this request could make an upstream serve: top-level models (OpenRouter's)
	// and providerOptions.gateway.models (Vercel's).
	Fallbacks []string

	// TextBytes is the base of an input estimate: the bytes of all strings that are values, less those that are data:
	// URLs or hold base64 of an image, audio or file. It is no bound: names of members, which count where they describe
	// tools, are left out, and what an upstream adds of its own cannot be seen. For a form it is the length less its file.
	TextBytes int64

	// Media counts the content parts that are images, audio or files, inline or by reference. They cost tokens that
	// TextBytes does not see.
	Media int64

	// InputChars counts the characters of the top-level string input: what speech is billed by.
	InputChars int64

	// What changes the price or who is asked. A field that is not known here is in none of them: see Worst.
	ServiceTier string // service_tier or providerOptions.gateway.serviceTier, the dearer of the two
	WebSearch   bool   // web_search_options, or a tool that searches: charged by the call
	HostedTools bool   // a tool that the provider runs itself
	Background  bool   // the response is made whether or not anybody waits for it
	LongCache   bool   // the prompt is to stay cached for longer than usual, which some sell dearer
	Hidden      bool   // the prompt has parts that the body only refers to, or that are of a kind not known here
	AudioOut    bool   // the answer is to be spoken
	ImageOut    bool   // the answer is to have pictures
	WantsJSON   bool   // the answer is to be JSON, so that one in plain words breaks its reader
	Options     bool   // there are providerOptions other than the gateway's
	Routed      bool   // the gateway is told which providers, or where, which may be dearer than its list price

	load   load
	limits [3]int64 // one more than each limit, so that 0 is absent
	pos    positions
	keys   []string // of the objects that are open, outer ones first
	many   map[scopedKey]struct{}
	text   []byte // unescaped names
	insert []byte // what edits insert
}

// positions are offsets into Body of what AimAt edits; zero is absent, as no value can stand there.
type positions struct {
	open                   int // after the top-level '{'
	empty                  bool
	modelFrom, modelTo     int
	optionsFrom, optionsTo int
	optionsOpen            int // after the '{' of stream_options
	optionsEmpty           bool
	usageFrom, usageTo     int
	limits                 [3]span // the values of the limits, null included
	multipart              bool
	boundary               []byte // with the CR LF and the two dashes before it
	fileFrom, fileTo       int
	fields                 uint8 // of formFields, seen
}

// Reset forgets the request and lets go of its body, but keeps its own memory.
func (r *Request) Reset() {
	clear(r.keys[:cap(r.keys)])
	clear(r.Fallbacks[:cap(r.Fallbacks)])
	clear(r.many)
	*r = Request{
		MaxOutput: -1, N: 1,
		Fallbacks: r.Fallbacks[:0], keys: r.keys[:0], many: r.many, text: r.text[:0], insert: r.insert[:0],
	}
}

// OutputLimit is the most output tokens that the request lets one choice of an answer have, -1 when it sets no limit.
// A limit under the name of another endpoint does not count, since the upstream ignores it; of two that count the
// larger does, since upstreams differ in which one they follow.
func (r *Request) OutputLimit(k Kind) int64 {
	switch k {
	case Responses:
		return r.limits[limitOutput] - 1
	case Completions:
		return r.limits[limitTokens] - 1
	case Chat:
		return max(r.limits[limitTokens], r.limits[limitCompletion]) - 1
	}
	return -1
}

const (
	limitTokens = iota
	limitCompletion
	limitOutput
)

// Parse reads a JSON body into r and validates the whole of it. The error is an *Error that says what to mend. Beside
// JSON's grammar it demands what keeps two parsers from reading the body differently: no key twice and none that
// differs from a known one only in letter case (in the objects that are read here), no invalid UTF-8, no nesting
// deeper than 64. A lone surrogate (\ud800) is refused in keys and in the names read here and let through elsewhere:
// JavaScript clients produce it whenever they cut a text in the middle of an emoji.
func Parse(body []byte, r *Request) error {
	r.Reset()
	r.Body = body
	if err := r.parse(); err != nil {
		return err
	}
	return nil
}

func (r *Request) parse() *Error {
	b := r.Body
	i := skipSpace(b, 0)
	switch {
	case i == len(b):
		return invalid("", "The request body is empty; send a JSON object.")
	case len(b) >= 3 && string(b[:3]) == "\xef\xbb\xbf":
		return invalid("", "The request body starts with a byte order mark; send plain UTF-8 without it.")
	case b[i] != '{':
		return invalid("", "The request body must be a JSON object.")
	}
	r.pos.open = i + 1
	i, err := r.object(i+1, top)
	if err != nil {
		return err
	}
	if i = skipSpace(b, i); i < len(b) {
		return syntax(i, "nothing may follow the object")
	}
	return nil
}

// object reads the members of an object in scope in, from behind its '{', and returns the index behind its '}'.
func (r *Request) object(i int, in scope) (int, *Error) {
	b, first := r.Body, len(r.keys)
	i = skipSpace(b, i)
	if i < len(b) && b[i] == '}' {
		switch in {
		case top:
			r.pos.empty = true
		case streamOptions:
			r.pos.optionsEmpty = true
		}
		return i + 1, nil
	}
	for {
		key, after, err := r.key(i, in, first)
		if err != nil {
			return 0, err
		}
		if i, err = r.member(after, in, key); err != nil {
			if err.Param == "" {
				err.Param = shown(key)
			}
			return 0, err
		}
		if i = skipSpace(b, i); i == len(b) {
			return 0, syntax(i, "the body ends inside an object")
		}
		switch b[i] {
		case '}':
			r.keys = r.keys[:first]
			return i + 1, nil
		case ',':
			i = skipSpace(b, i+1)
		default:
			return 0, syntax(i, "expected a comma or } here")
		}
	}
}

// key reads a key and its colon, and returns the key and the index of its value.
func (r *Request) key(i int, in scope, first int) (key string, value int, err *Error) {
	b := r.Body
	if i == len(b) || b[i] != '"' {
		return "", 0, syntax(i, "expected a key in double quotes here")
	}
	end, flags := scanString(b, i+1)
	if flags&badString != 0 {
		return "", 0, badStringAt(b, end)
	}
	if key, err = r.name(i+1, end, flags); err != nil {
		return "", 0, err
	}
	if err = r.once(key, in, first); err != nil {
		return "", 0, err
	}
	if i = skipSpace(b, end+1); i == len(b) || b[i] != ':' {
		return "", 0, syntax(i, "expected a colon here")
	}
	if i = skipSpace(b, i+1); i == len(b) {
		return "", 0, syntax(i, "the body ends where a value should stand")
	}
	return key, i, nil
}

// name is the text of the string between two quotes, pointing into the body unless it has escapes.
func (r *Request) name(from, to int, f stringFlags) (string, *Error) {
	raw := r.Body[from:to]
	if f&hasEscape == 0 {
		return unsafe.String(unsafe.SliceData(raw), len(raw)), nil
	}
	out, ok := appendUnescaped(r.text[:0], raw)
	r.text = out
	if !ok {
		return "", syntax(from, "half a surrogate pair in a name")
	}
	return string(out), nil
}

// member reads the value at b[i] of the key of an object in scope in, and returns the index behind it.
func (r *Request) member(i int, in scope, key string) (int, *Error) {
	switch in {
	case streamOptions:
		if key == "include_usage" {
			return r.includeUsage(i)
		}
		return r.skip(i, 2)
	case providerOptions:
		if key == "gateway" && r.Body[i] == '{' {
			return r.object(i+1, gatewayOptions)
		}
		r.Options = true
		return r.skip(i, 2)
	case gatewayOptions:
		switch key {
		case "models":
			return r.models(i, "providerOptions.gateway.models")
		case "serviceTier":
			return r.tier(i, 3)
		case "order", "only", "sort", "inferenceRegion":
			r.Routed = true
		}
		return r.skip(i, 3)
	}
	switch key {
	case "model":
		return r.model(i)
	case "stream":
		return r.boolean(i, "stream", &r.Stream)
	case "stream_options":
		return r.streamOptions(i)
	case "max_tokens":
		return r.limit(i, key, limitTokens)
	case "max_completion_tokens":
		return r.limit(i, key, limitCompletion)
	case "max_output_tokens":
		return r.limit(i, key, limitOutput)
	case "n", "best_of":
		return r.choices(i, key)
	case "input":
		return r.input(i)
	case "previous_response_id":
		return r.previous(i)
	case "models":
		return r.models(i, key)
	case "providerOptions":
		if r.Body[i] == '{' {
			return r.object(i+1, providerOptions)
		}
	}
	return r.priced(i, key)
}

// model reads the value of the key "model".
func (r *Request) model(i int) (int, *Error) {
	name, end, err := r.nameValue(i, "model")
	if err != nil {
		return 0, err
	}
	if name == "" {
		return 0, invalid("model", "model must be a name, not an empty string.")
	}
	r.Model, r.HasModel, r.pos.modelFrom, r.pos.modelTo = name, true, i, end
	return end, nil
}

// nameValue reads a string of bounded length without control characters.
func (r *Request) nameValue(i int, param string) (name string, end int, err *Error) {
	b := r.Body
	if b[i] != '"' {
		return "", 0, r.wrong(i, param, param+" must be a string.")
	}
	to, flags := scanString(b, i+1)
	if flags&badString != 0 {
		return "", 0, badStringAt(b, to)
	}
	if name, err = r.name(i+1, to, flags); err != nil {
		return "", 0, err
	}
	if !soundName(name) {
		return "", 0, invalid(param, param+" must have at most "+strconv.Itoa(maxName)+" bytes and no control characters.")
	}
	return name, to + 1, nil
}

// soundName says that s may name a model: it can stand in a log line, a header and a label.
func soundName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == 0x7f {
			return false
		} else if c >= utf8.RuneSelf {
			return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
		}
	}
	return true
}
