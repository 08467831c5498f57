package openai

import (
	"bytes"
	"unsafe"

	"github.com/catraca/catraca/internal/money"
)

// A Reading is what was learnt of an answer. Its strings are copies, so it may outlive the answer's bytes.
type Reading struct {
	// The tokens of the last usage that was not null: upstreams repeat usage, so counts replace each other and are
	// never added. None is ever negative. Cached and CacheWrite are parts of Input, Reasoning of Output.
	Input, Output, Total          int64
	Cached, CacheWrite, Reasoning int64
	AudioInput, AudioOutput       int64

	AudioMs    int64 // seconds of audio that the answer says it heard
	Images     int64 // pictures in the answer
	Characters int64 // left to the caller: speech is billed by the request's InputChars, which no answer repeats
	HasUsage   bool  // the upstream counted; otherwise estimate

	// GatewayUSD is what the Vercel gateway says the call cost, and with the tenant's own key (IsBYOK) also what the
	// provider charged that key.
	GatewayUSD    money.Pico
	HasGatewayUSD bool
	IsBYOK        bool

	Model        string // that served
	ID           string
	Provider     string // that served, as the gateway tells
	FinishReason string
	ErrorCode    string // the error's code, or its type; never its message, which may quote a prompt
	Complete     bool   // the answer says itself that it is whole
	Failed       bool   // an error came instead of the answer or inside it

	// Deltas and TextBytes count the pieces of output that passed and the text in them, for EstimateOutput.
	Deltas, TextBytes int64

	opened, finished [2]uint64 // the choices of a stream, a bit each
	usageUSD         money.Pico
	blockUSD         money.Pico
	upstreamUSD      money.Pico
	hasUsageUSD      bool

	shape shape // of the last object read
}

// shape is what the stream relay needs to know of an event beyond what it counts.
type shape struct {
	cutFrom, cutTo int  // the top-level member "usage" and its comma; cutTo is 0 when there is none
	usage          bool // that member is an object
	choices        bool // there is at least one choice
	more           bool // it has something that clients who did not ask for usage would get too
}

// Reset forgets everything.
func (r *Reading) Reset() { *r = Reading{} }

const bytesPerToken = 4

// EstimateTokens guesses how many tokens so many bytes of text are: one for each four bytes, rounded up. That is
// OpenAI's own rule of thumb for English; Portuguese is nearer to three and a half, which the deltas make up for.
func EstimateTokens(textBytes int64) int64 {
	if textBytes <= 0 {
		return 0
	}
	return (textBytes-1)/bytesPerToken + 1
}

// EstimateOutput guesses the output tokens of an answer that ended without usage: the larger of the number of deltas
// and a token for each four bytes. Most providers send one token a delta, and then the first is exact; those that
// bundle several are caught by the second.
func (r *Reading) EstimateOutput() int64 {
	return max(r.Deltas, EstimateTokens(r.TextBytes))
}

// OutputSoFar is about how many output tokens a stream has used until now: what it told itself where it tells usage as
// it goes (Gemini's layer does on each chunk), or the estimate where that is more. By it more is held for a stream that
// outruns what was held: too much does no harm there. Tokens that were thought and not shown are in neither.
func (r *Reading) OutputSoFar() int64 { return max(r.Output, r.EstimateOutput()) }

// OutputAtLeast is how many it has used for sure: what it told, or a token for each ten bytes of text. The longest tokens
// on the average are those of Hindi, with 8.4 bytes; only white space goes beyond. Deltas are left out, for some upstreams
// cut theirs at will. By it a stream may be cut.
func (r *Reading) OutputAtLeast() int64 { return max(r.Output, r.TextBytes/10) }

// ReadBody reads a whole answer that is not a stream.
func (r *Reading) ReadBody(k Kind, body []byte) {
	b := bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	i := skipBlank(b, 0)
	switch {
	case k == Opaque || i == len(b):
		return
	case b[i] == '{':
		closed := r.object(k, b, i, true)
		r.Complete = closed && !r.Failed
	case b[i] == '[':
		r.errorArray(b, i)
	case k == Transcriptions:
		if ms, ok := subtitleEnd(b); ok {
			r.AudioMs, r.HasUsage = ms, true
		}
		r.TextBytes += int64(len(b))
		r.Complete = true
	case k == Speech:
		r.Complete = true
	}
}

// ReadEvent reads the payload of one server-sent event: its data lines, joined.
func (r *Reading) ReadEvent(k Kind, data []byte) {
	r.shape = shape{}
	i := skipBlank(data, 0)
	switch {
	case i == len(data):
	case data[i] == '{':
		if k != Opaque {
			r.object(k, data, i, false)
		}
	case bytes.HasPrefix(data[i:], []byte("[DONE]")):
		r.Complete = !r.Failed
	case k != Opaque && data[i] == '[':
		r.errorArray(data, i)
	}
}

// errorArray reads Google's form of an error: an array of one.
func (r *Reading) errorArray(b []byte, i int) {
	eachElement(b, i, func(e int) int {
		return eachMember(b, e, func(key []byte, v int) int {
			if string(key) == "error" {
				r.failure(b, v)
			}
			return skipValue(b, v)
		})
	})
}

// use takes over what a usage object counts.
func (r *Reading) use(k Kind, u *usage) {
	in, out := u.in, max(u.out, 0)
	cached, write := max(u.cached, 0), max(u.write, 0)
	if in < 0 && u.total >= 0 {
		in = max(u.total-out, 0)
	}
	// Cached tokens are part of the prompt. Where an upstream counts them apart (Anthropic's own way) the prompt is at
	// least as long as they are.
	in = max(in, 0, cached+write)
	if k != Embeddings && k != Moderations {
		// Gemini's thinking shows only in the total.
		out = max(out, u.total-in)
	}
	r.Input, r.Output, r.Total = in, out, max(u.total, in+out)
	r.Cached, r.CacheWrite, r.Reasoning = cached, write, max(u.reasoning, 0)
	r.AudioInput, r.AudioOutput = max(u.audioIn, 0), max(u.audioOut, 0)
	if u.ms >= 0 {
		r.AudioMs = u.ms
	}
	r.HasUsage = true
}

// price takes over what a usage object says of the cost.
func (r *Reading) price(u *usage) {
	if u.knowsBYOK {
		r.IsBYOK = u.byok
	}
	if u.hasCost {
		r.usageUSD, r.hasUsageUSD = u.cost, true
	}
	if u.hasUpstream {
		r.upstreamUSD = u.upstream
	}
	if u.hasCost || r.HasGatewayUSD {
		r.total()
	}
}

// total puts the gateway's cost together. usage.cost goes before the block's, which repeats it as text.
func (r *Reading) total() {
	sum := r.blockUSD
	if r.hasUsageUSD {
		sum = r.usageUSD
	}
	if r.IsBYOK {
		if with, ok := sum.Add(r.upstreamUSD); ok {
			sum = with
		}
	}
	r.GatewayUSD, r.HasGatewayUSD = sum, true
}

// gateway reads provider_metadata (or providerMetadata, as embeddings have it) at b[i].
func (r *Reading) gateway(b []byte, i int) (end int) {
	return eachMember(b, i, func(key []byte, v int) int {
		if string(key) != "gateway" {
			return skipValue(b, v)
		}
		return eachMember(b, v, func(key []byte, v int) int {
			switch string(key) {
			case "cost":
				if p, ok := amount(b, v); ok {
					r.blockUSD = p
					r.total()
				}
			case "routing":
				return r.routing(b, v)
			}
			return skipValue(b, v)
		})
	})
}

// routing reads who served.
func (r *Reading) routing(b []byte, i int) (end int) {
	var resolved, final []byte
	end = eachMember(b, i, func(key []byte, v int) (end int) {
		switch string(key) {
		case "canonicalSlug":
			var text []byte
			text, end = stringAt(b, v)
			r.Model = keep(r.Model, text)
		case "finalProvider":
			final, end = stringAt(b, v)
		case "resolvedProvider":
			resolved, end = stringAt(b, v)
		default:
			end = skipValue(b, v)
		}
		return end
	})
	if len(final) == 0 {
		final = resolved
	}
	r.Provider = keep(r.Provider, final)
	return end
}

// failure reads the value of the member "error": an object, or a text beside which the type stands.
func (r *Reading) failure(b []byte, i int) {
	switch b[i] {
	case '{':
		r.Failed = true
		var code, kind, status []byte
		eachMember(b, i, func(key []byte, v int) int {
			switch string(key) {
			case "code":
				code = word(b, v)
			case "type":
				kind = word(b, v)
			case "status":
				status = word(b, v)
			}
			return skipValue(b, v)
		})
		// Google's code is the HTTP status; its status is the word.
		if len(status) > 0 && (len(code) == 0 || code[0] <= '9') {
			code = status
		}
		if len(code) == 0 {
			code = kind
		}
		r.ErrorCode = keep(r.ErrorCode, code)
	case '"':
		if text, _ := stringAt(b, i); len(text) > 0 {
			r.Failed = true
		}
	case 't':
		r.Failed = true
	}
}

// word is the string or number at b[i] if it is a word.
func word(b []byte, i int) []byte {
	text, end := stringAt(b, i)
	if text == nil && end > 0 && ('0' <= b[i] && b[i] <= '9') {
		text = b[i:end]
	}
	if !isWord(text) {
		return nil
	}
	return text
}

// isWord says that text can stand in a log and a label: short, and of letters, digits and "_-./:".
func isWord(text []byte) bool {
	if len(text) > 64 {
		return false
	}
	for _, c := range text {
		switch {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9':
		case c == '_', c == '-', c == '.', c == '/', c == ':':
		default:
			return false
		}
	}
	return true
}

// keep is the inside of a JSON string as a string that owns its bytes, old itself when it says the same or when the
// text could not stand in a header, a log line and a label. It allocates only when something rare is new.
func keep(old string, text []byte) string {
	if old == string(text) || !sound(text) {
		if len(text) > 0 && bytes.IndexByte(text, '\\') >= 0 {
			return keepEscaped(old, text)
		}
		return old
	}
	switch string(text) {
	case "stop":
		return "stop"
	case "length":
		return "length"
	case "tool_calls":
		return "tool_calls"
	case "completed":
		return "completed"
	case "openai":
		return "openai"
	}
	return string(text)
}

func keepEscaped(old string, text []byte) string {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		n := escapeLen(text, i)
		if n == 0 {
			return old
		}
		i += n - 1
	}
	if plain, ok := appendUnescaped(nil, text); ok && soundName(string(plain)) {
		return string(plain)
	}
	return old
}

// sound is soundName for the inside of a JSON string without escapes.
func sound(text []byte) bool {
	return len(text) <= maxName && bytes.IndexByte(text, '\\') < 0 && soundName(unsafe.String(unsafe.SliceData(text), len(text)))
}
