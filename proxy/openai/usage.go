package openai

import (
	"github.com/catraca/catraca/internal/money"
)

// Kind says which endpoint's answer is read.
type Kind uint8

// The kinds of answer. An Opaque one is passed on unread.
const (
	Opaque Kind = iota
	Chat
	Completions
	Responses
	Embeddings
	Moderations
	Transcriptions
	Speech
	Images
)

// maxCount is the largest number of tokens, milliseconds or pieces that is believed: large enough for any answer, small
// enough that sums of a few never overflow.
const maxCount = 1 << 40

// usage is one usage object as it came. A count is -1 when it is absent or no count: counts are believed when they are
// integers of zero or more ("12.0" is one), anything else is as good as not sent.
type usage struct {
	in, out, total                        int64
	cached, write, reasoning              int64
	audioIn, audioOut, ms                 int64
	cost, upstream                        money.Pico
	hasCost, hasUpstream, byok, knowsBYOK bool
}

// readUsage reads the usage object at b[i] and returns the index behind it. ok is false when it counts nothing: another
// value, or one that the text ends in.
func readUsage(b []byte, i int) (u usage, end int, ok bool) {
	u = usage{in: -1, out: -1, total: -1, cached: -1, write: -1, reasoning: -1, audioIn: -1, audioOut: -1, ms: -1}
	end = eachMember(b, i, func(key []byte, v int) int {
		switch string(key) {
		case "prompt_tokens", "input_tokens":
			u.in = max(u.in, count(b, v))
		case "completion_tokens", "output_tokens":
			u.out = max(u.out, count(b, v))
		case "total_tokens":
			u.total = count(b, v)
		case "prompt_tokens_details", "input_tokens_details", "input_token_details":
			return u.inputDetails(b, v)
		case "completion_tokens_details", "output_tokens_details", "output_token_details":
			return u.outputDetails(b, v)
		case "cache_creation_input_tokens":
			u.write = max(u.write, count(b, v))
		case "cache_read_input_tokens", "prompt_cache_hit_tokens": // Anthropic's and DeepSeek's names
			u.cached = max(u.cached, count(b, v))
		case "seconds":
			u.ms = milliseconds(b, v)
		case "cost":
			u.cost, u.hasCost = amount(b, v)
		case "is_byok":
			u.byok, u.knowsBYOK = b[v] == 't', true
		case "upstream_inference_cost":
			u.setUpstream(b, v)
		case "cost_details":
			return u.costDetails(b, v)
		}
		return skipValue(b, v)
	})
	return u, end, end > 0 && (u.in >= 0 || u.out >= 0 || u.total >= 0 || u.ms >= 0)
}

func (u *usage) inputDetails(b []byte, v int) (end int) {
	return eachMember(b, v, func(key []byte, v int) int {
		switch string(key) {
		case "cached_tokens":
			u.cached = max(u.cached, count(b, v))
		case "cache_write_tokens":
			u.write = max(u.write, count(b, v))
		case "audio_tokens":
			u.audioIn = count(b, v)
		}
		return skipValue(b, v)
	})
}

func (u *usage) outputDetails(b []byte, v int) (end int) {
	return eachMember(b, v, func(key []byte, v int) int {
		switch string(key) {
		case "reasoning_tokens":
			u.reasoning = count(b, v)
		case "audio_tokens":
			u.audioOut = count(b, v)
		}
		return skipValue(b, v)
	})
}

func (u *usage) costDetails(b []byte, v int) (end int) {
	return eachMember(b, v, func(key []byte, v int) int {
		if string(key) == "upstream_inference_cost" {
			u.setUpstream(b, v)
		}
		return skipValue(b, v)
	})
}

func (u *usage) setUpstream(b []byte, v int) {
	if p, ok := amount(b, v); ok {
		u.upstream, u.hasUpstream = p, true
	}
}

// count reads the integer at b[i]; -1 is for everything that is none, negative numbers included.
func count(b []byte, i int) int64 {
	end, ok := scanNumber(b, i)
	if !ok {
		return -1
	}
	text := b[i:end]
	digits := 0
	for digits < len(text) && '0' <= text[digits] && text[digits] <= '9' {
		digits++
	}
	if digits < len(text) && text[digits] == '.' {
		for _, c := range text[digits+1:] {
			if c != '0' {
				return -1
			}
		}
	} else if digits < len(text) {
		return -1
	}
	n, ok := plainInteger(text[:digits])
	if !ok && digits == 0 {
		return -1
	}
	if !ok || n > maxCount {
		return maxCount
	}
	return n
}

// milliseconds reads a number of seconds, which may have a fraction and may be in quotes, rounded up.
func milliseconds(b []byte, i int) int64 {
	p, ok := amount(b, i)
	if !ok {
		return -1
	}
	const ms = money.Unit / 1000
	return min(int64((p+ms-1)/ms), maxCount)
}

// amount reads a decimal number, in quotes or not, exactly. Negative ones are refused.
func amount(b []byte, i int) (money.Pico, bool) {
	text, end := stringAt(b, i)
	if end < 0 {
		return 0, false
	}
	if text == nil {
		text = b[i:end]
	}
	if p, ok := plainAmount(text); ok {
		return p, true
	}
	// The slow way takes exponents and more digits than a Pico has.
	if len(text) == 0 || len(text) > 64 || text[0] != '.' && (text[0] < '0' || text[0] > '9') {
		return 0, false
	}
	p, err := money.Parse(string(text))
	return p, err == nil && p >= 0
}

// plainAmount reads digits with at most six before the point and twelve behind it, as nearly all amounts are written.
func plainAmount(text []byte) (p money.Pico, ok bool) {
	const whole, fraction = 6, 12
	point, places := -1, 0
	for i, c := range text {
		switch {
		case '0' <= c && c <= '9':
			p = p*10 + money.Pico(c-'0')
			if point >= 0 {
				places++
			}
		case c == '.' && point < 0 && i > 0:
			point = i
		default:
			return 0, false
		}
		if places > fraction || point < 0 && i >= whole {
			return 0, false
		}
	}
	if len(text) == 0 || point == len(text)-1 {
		return 0, false
	}
	for ; places < fraction; places++ {
		p *= 10
	}
	return p, true
}
