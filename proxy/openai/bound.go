package openai

import (
	"math/bits"
	"strings"
)

// Limits is what a bound must know of the model that may serve. Figures of zero are unknown.
type Limits struct {
	Provider  string // whose model it is: "openai", "anthropic", …; empty: what stands before the slash in Model
	Model     string // with its creator or without
	Context   int64  // tokens of its context window
	MaxOutput int64  // tokens
	OutputCap int64  // held for where the request sets no limit; 0: the model's maximum
	Lowered   int64  // the limit for each choice is lowered to this, by LimitOutput; 0: it is not
	Counted   bool   // the prompt's tokens are counted, with a margin, in place of its bytes
}

// Bound is the most that one attempt can use.
type Bound struct {
	Input, Output           int64 // tokens; the output is of all choices, reasoning included
	AudioInput, AudioOutput int64 // what of them may be audio
	Images                  int64
	Characters              int64
	AudioMs                 int64
	Choices                 int64 // answers that are made
	Open                    Open  // why it is no bound; 0: it is one
}

// Tokens is the sum of input and output.
func (b *Bound) Tokens() int64 { return b.Input + b.Output }

// Open says what of a bound is open, a bit for each reason.
type Open uint16

// What may be open.
const (
	OpenInput  Open = 1 << iota // there is input that cannot be seen, and the model's window is not known
	OpenOutput                  // neither the request nor what is known of the model limits the output
	OpenTools                   // the provider runs tools, charges for each use, and lets the model read on in what they found
	OpenFields                  // there is a member that is not known here
	OpenAudio                   // how long the audio plays is only guessed, by its size
)

// Tokens says that the tokens have no bound.
func (o Open) Tokens() bool { return o&(OpenInput|OpenOutput|OpenTools) != 0 }

// Money says that the money has none.
func (o Open) Money() bool { return o != 0 }

const (
	// manyTokens stands for a window that is not known; the largest of those that can be bought is no larger.
	manyTokens = 1 << 21
	// muchOutput stands for an output limit that is not known.
	muchOutput = 1 << 17

	// Around each request upstreams put words of their own: the date, the channels of gpt-oss, the system prompt that
	// explains tools to Claude (346 tokens in Anthropic's table, some models more) or to Llama.
	requestTokens = 256
	toolsTokens   = 1024
	toolTokens    = 16
	formTokens    = 256
	// structureTokens bounds what a byte of JSON outside strings becomes where a schema is written anew: some templates
	// indent it by four spaces, and then a bracket comes with a line end and its indentation.
	structureTokens = 3
)

// Worst is the most that an attempt at this request can use when the model that m describes serves it. It costs no
// pass over the body, unless m asks for the prompt to be counted, and is never too low as far as Open is 0:
//
//   - A byte-level BPE token covers at least one byte, and neither SentencePiece with byte fallback nor an escape in
//     JSON changes that (\u00e9 is six bytes and becomes two). So the bytes of the whole body are more than the tokens
//     of every text in it. The syntax around a message, `{"role":"user","content":""},`, has 28 bytes; the marks that
//     templates put there instead are at most ten tokens, so no message and no part needs an allowance of its own.
//   - Inline pictures and sounds are taken out and counted by what providers say they cost at most.
//   - What the body only refers to fills the context window.
//   - A prompt never has more tokens than the model's window, because a longer one is refused.
//
// Upstreams that charge for a call beside tokens do so for hosted tools, which are reported by OpenTools.
func (r *Request) Worst(k Kind, m *Limits) Bound {
	b := Bound{Choices: r.N}
	if k == Completions {
		b.Choices *= max(r.load.prompts, 1)
	}
	f := familyOf(m)
	switch k {
	case Opaque:
		return Bound{}
	case Chat, Completions, Responses:
		r.boundInput(&b, m, f)
		r.boundOutput(&b, k, m, f)
	case Embeddings, Moderations:
		r.boundInput(&b, m, f)
	case Speech:
		r.boundInput(&b, m, f)
		b.Characters = r.InputChars
		b.Output = spokenTokens(r.InputChars)
		b.AudioOutput = b.Output
	case Images:
		r.boundInput(&b, m, f)
		b.Images = r.N
		b.Output = r.N * (f.drawn + r.load.partial*previewTokens)
	case Transcriptions:
		r.boundTranscription(&b, m, f)
	}
	if r.HostedTools || r.WebSearch {
		b.Open |= OpenTools
	}
	if r.load.unknown != "" {
		b.Open |= OpenFields
	}
	return b
}

// boundInput bounds the prompt.
func (r *Request) boundInput(b *Bound, m *Limits, f family) {
	l := &r.load
	n := int64(len(r.Body)) - l.inline
	if m.Counted {
		n = min(n, withMargin(r.countPrompt()*f.counted/100)) // for a few words the margin is more than the bytes are
	}
	n += requestTokens + l.arguments + (structureTokens-1)*l.schema
	if l.tools > 0 {
		n += toolsTokens + toolTokens*l.tools
	}
	if r.WantsJSON {
		n += formTokens
	}
	n += l.pictures[lowDetail]*f.low + l.pictures[highDetail]*f.high + l.pictures[fullDetail]*f.full
	b.AudioInput = tokensHeard(l.audioMs, f)
	n += b.AudioInput
	switch hidden := r.Hidden || r.HostedTools || r.WebSearch || r.PreviousResponse != "" || l.unknown != ""; {
	case m.Context > 0 && (hidden || n > m.Context):
		n = m.Context
	case m.Context <= 0 && hidden:
		n = max(n, manyTokens)
		b.Open |= OpenInput
	}
	b.Input, b.AudioInput = n, min(b.AudioInput, n)
}

// boundOutput bounds the answers.
func (r *Request) boundOutput(b *Bound, k Kind, m *Limits, f family) {
	limit := r.OutputLimit(k)
	switch {
	case limit == 0 && k == Completions: // to have the prompt scored
		limit = 1
	case limit <= 0:
		limit = m.OutputCap
	}
	if m.Lowered > 0 && (limit <= 0 || limit > m.Lowered) {
		limit = m.Lowered
	}
	top := mostOutput(m)
	one := top
	switch {
	case limit <= 0, r.Options && f.addsThinking:
		// What providerOptions say of thinking is added to the limit.
		if one <= 0 {
			one = max(muchOutput, limit)
			b.Open |= OpenOutput
		}
	default:
		one = limit
		if f.addsThinking {
			one += r.addedThinking(limit)
		}
		if top > 0 {
			one = min(one, top)
		}
	}
	b.Output = times(b.Choices, one+r.load.prediction)
	if r.AudioOut {
		b.AudioOutput = b.Output
	}
}

// times is a product that stays believable, see maxCount.
func times(a, b int64) int64 {
	if hi, lo := bits.Mul64(uint64(a), uint64(b)); hi == 0 && lo < maxCount {
		return int64(lo)
	}
	return maxCount
}

// addedThinking is what the model may think on top of its limit. The gateway adds Claude's budget to the limit; where
// the request only says how hard to think, the budget is a share of the limit, and 1024 at least.
func (r *Request) addedThinking(limit int64) int64 {
	n := r.load.thinking
	if r.load.effort {
		n = max(n, limit, 1024)
	}
	return n
}

// mostOutput is the most that one answer of the model can have; 0: unknown. An answer shares the window with its prompt.
func mostOutput(m *Limits) int64 {
	switch {
	case m.MaxOutput <= 0:
		return max(m.Context, 0)
	case m.Context <= 0:
		return m.MaxOutput
	}
	return min(m.MaxOutput, m.Context)
}

// SendsLimit says that a limit which is held for is to be sent with a request that sets none itself. One below the
// model's own maximum always is. The maximum itself keeps a model no shorter, and where the prompt may need the window
// beside it, upstreams refuse what would have fitted.
func (m *Limits) SendsLimit(b *Bound, most int64) bool {
	return most < mostOutput(m) || m.Context <= 0 || b.Input+most <= m.Context
}

// boundTranscription bounds what is heard by how long the file plays: what is billed by time, and what by tokens.
func (r *Request) boundTranscription(b *Bound, m *Limits, f family) {
	file := r.File()
	b.AudioMs = heardMs(file)
	if _, ok := AudioDuration(file); !ok {
		b.Open |= OpenAudio
	}
	b.AudioInput = tokensHeard(b.AudioMs, f)
	b.Input = r.TextBytes + requestTokens + b.AudioInput // a form's text is its length less the file
	b.Output = writtenTokens(b.AudioMs)
	if top := mostOutput(m); top > 0 {
		b.Output = min(b.Output, top)
	}
}

// A family is what the models of one maker have in common in what they charge.
type family struct {
	low, high, full int64 // tokens of a picture that is read, at most, by detail
	drawn           int64 // tokens of a picture that is made, at most
	heard           int64 // tokens of a second that is heard, at most
	counted         int64 // percent of OpenAI's tokens that the same text has
	addsThinking    bool  // tokens to think with come on top of the output limit
}

// familyOf finds the model's family. Prices of pictures are the published maxima as of November 2026:
//
//   - OpenAI, by tiles: 85+8×170 (4o, 4.1, 4.5), 70+8×140 (5 to 5.3), 75+8×150 (o1, o3); 4o-mini 2833+8×5667. By patches: 1536,
//     for the small models ×1.62 to ×2.46; from 5.4 on 2500 for high, 10000 for original, taken at ×2.46 too.
//   - Anthropic: 1600, and 4784 since pictures of 2576 pixels are read. Gemini: 258 a tile before 3, then 2240.
//   - Groq bills 6400 for Llama's. Others are taken for Qwen-VL, which reads up to 16384 patches.
//
// A second of sound is ten tokens at OpenAI and 32 at Gemini. Claude's tokenizers since Opus 4.7 make up to 1.35 times the
// tokens of those before. Where who serves is not known, the largest of these figures holds.
func familyOf(m *Limits) family {
	creator, name, found := strings.Cut(m.Model, "/")
	if !found {
		creator, name = m.Provider, m.Model
	}
	f := family{low: 16384, drawn: drawnTokens, heard: 32, counted: 120, addsThinking: true}
	switch {
	case m.Provider == "groq":
		f.low, f.counted, f.addsThinking = 6400, 110, false
	case creator == "openai":
		return openAI(name)
	case creator == "anthropic":
		f.low, f.counted = 4784, 140
	case creator == "google" && (strings.HasPrefix(name, "gemini-1") || strings.HasPrefix(name, "gemini-2")):
		f.low = tiledTokens
	case creator == "google":
		f.low = 2240
	}
	f.high, f.full = f.low, f.low
	return f
}

const (
	// drawnTokens bounds a picture of any size that is made; gpt-image-1 needs 6240 for its largest.
	drawnTokens   = 16384
	previewTokens = 128 // of each preview of it: OpenAI's guide says 100
	// tiledTokens bounds Gemini's 258 a tile for pictures of up to some 10000 pixels a side.
	tiledTokens = 258 * 14 * 14
)

func openAI(name string) family {
	f := family{low: 630, high: 6150, full: 24600, drawn: drawnTokens, heard: 10, counted: 100}
	small := strings.Contains(name, "mini") || strings.Contains(name, "nano")
	switch {
	case strings.HasPrefix(name, "gpt-4o-mini"):
		f.low, f.high, f.full = 2833, 48169, 48169
	case strings.HasPrefix(name, "gpt-image-1"):
		f.drawn = 6240
	case newDetail(name):
	case small:
		f.high, f.full = 3779, 3779
	case strings.HasPrefix(name, "gpt-4"), strings.HasPrefix(name, "gpt-5"), strings.HasPrefix(name, "o1"), strings.HasPrefix(name, "o3"):
		f.low, f.high, f.full = 85, 1445, 1445
	}
	return f
}

// newDetail says that the model is one of those since GPT-5.4, which may look at a picture as it is.
func newDetail(name string) bool {
	minor, found := strings.CutPrefix(name, "gpt-5.")
	return found && minor >= "4"
}
