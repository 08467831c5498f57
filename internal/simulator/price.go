package simulator

import (
	"fmt"
	"strings"
)

// pico is 1e-12 of a dollar. A price of so many micro-dollars per million tokens is as many pico-dollars a token, so
// every charge is a product of integers.
type pico int64

const picoPerDollar = 1_000_000_000_000

// String writes p in dollars with no trailing zeros: "0.00190375".
func (p pico) String() string {
	sign := ""
	if p < 0 {
		sign, p = "-", -p
	}
	whole, part := p/picoPerDollar, p%picoPerDollar
	if part == 0 {
		return fmt.Sprintf("%s%d", sign, whole)
	}
	return sign + strings.TrimRight(fmt.Sprintf("%d.%012d", whole, part), "0")
}

// rates are prices in pico-dollars a token.
type rates struct{ input, cached, write, output pico }

// model is one line of the catalogue.
type model struct {
	creator  string // the part before the slash at the gateway
	slug     string // the part after it
	native   string // the provider's own id, where it differs
	kind     string // language, embedding, image, speech, transcription, moderation
	at       rates
	above    int64 // prompts longer than this pay `long` for the whole request; 0: there is no such tier
	long     rates
	context  int
	maximum  int
	reasons  bool
	shutdown string // the date the provider has announced
	retired  bool   // a real upstream answers 404 by now; with Config.Strict so does this one

	perHour  pico // of audio, where it is not priced in tokens
	perImage pico
	perChar  pico
	audioIn  pico // an audio token of the prompt
}

// id is the name at the provider's own endpoint.
func (m *model) id() string {
	if m.native != "" {
		return m.native
	}
	return m.slug
}

// catalogue holds the plan's models and the ones a user would pick today, at the list prices of November 2026.
// Prices are micro-dollars per million tokens: 2_500_000 is US$ 2.50.
var catalogue = []model{
	{creator: "openai", slug: "gpt-4o", kind: "language", at: rates{2_500_000, 1_250_000, 0, 10_000_000}, context: 128_000, maximum: 16_384, shutdown: "2027-01-14"},
	{creator: "openai", slug: "gpt-4o-mini", kind: "language", at: rates{150_000, 75_000, 0, 600_000}, context: 128_000, maximum: 16_384, shutdown: "2027-01-14"},
	{creator: "openai", slug: "gpt-5", kind: "language", at: rates{1_250_000, 125_000, 0, 10_000_000}, context: 400_000, maximum: 128_000, reasons: true, shutdown: "2026-12-11"},
	{creator: "openai", slug: "gpt-5-mini", kind: "language", at: rates{250_000, 25_000, 0, 2_000_000}, context: 400_000, maximum: 128_000, reasons: true, shutdown: "2026-12-11"},
	{creator: "openai", slug: "gpt-6-luna", kind: "language", at: rates{100_000, 10_000, 125_000, 500_000}, context: 400_000, maximum: 128_000, reasons: true},
	{creator: "openai", slug: "gpt-6.1-terra", kind: "language", at: rates{1_000_000, 50_000, 1_250_000, 5_000_000}, context: 400_000, maximum: 128_000, reasons: true},
	{creator: "openai", slug: "gpt-6.1-sol", kind: "language", at: rates{2_000_000, 100_000, 2_500_000, 10_000_000}, above: 272_000, long: rates{4_000_000, 200_000, 5_000_000, 20_000_000}, context: 1_000_000, maximum: 128_000, reasons: true},
	{creator: "openai", slug: "gpt-oss-120b", native: "openai/gpt-oss-120b", kind: "language", at: rates{150_000, 75_000, 0, 600_000}, context: 131_072, maximum: 65_536, reasons: true},
	{creator: "openai", slug: "gpt-oss-20b", native: "openai/gpt-oss-20b", kind: "language", at: rates{75_000, 37_500, 0, 300_000}, context: 131_072, maximum: 65_536, reasons: true},
	{creator: "openai", slug: "gpt-3.5-turbo-instruct", kind: "language", at: rates{1_500_000, 1_500_000, 0, 2_000_000}, context: 4_096, maximum: 4_096},
	{creator: "anthropic", slug: "claude-haiku-5.5", native: "claude-haiku-5-5", kind: "language", at: rates{100_000, 10_000, 125_000, 500_000}, above: 100_000, long: rates{500_000, 50_000, 625_000, 2_500_000}, context: 200_000, maximum: 64_000},
	{creator: "anthropic", slug: "claude-sonnet-5.5", native: "claude-sonnet-5-5", kind: "language", at: rates{2_000_000, 100_000, 2_500_000, 10_000_000}, context: 1_000_000, maximum: 64_000},
	{creator: "anthropic", slug: "claude-opus-5.5", native: "claude-opus-5-5", kind: "language", at: rates{4_000_000, 200_000, 5_000_000, 20_000_000}, context: 200_000, maximum: 64_000},
	{creator: "anthropic", slug: "claude-3-5-sonnet", native: "claude-3-5-sonnet-20241022", kind: "language", at: rates{3_000_000, 300_000, 3_750_000, 15_000_000}, context: 200_000, maximum: 8_192, retired: true},
	{creator: "anthropic", slug: "claude-3-opus", native: "claude-3-opus-20240229", kind: "language", at: rates{15_000_000, 1_500_000, 18_750_000, 75_000_000}, context: 200_000, maximum: 4_096, retired: true},
	{creator: "google", slug: "gemini-3.8-flash", kind: "language", at: rates{750_000, 75_000, 0, 3_750_000}, context: 1_048_576, maximum: 65_536, reasons: true},
	{creator: "google", slug: "gemini-3.5-flash-lite", kind: "language", at: rates{300_000, 30_000, 0, 2_500_000}, context: 1_048_576, maximum: 65_536, reasons: true},
	{creator: "google", slug: "gemini-2.5-flash", kind: "language", at: rates{300_000, 30_000, 0, 2_500_000}, context: 1_048_576, maximum: 65_536, reasons: true, shutdown: "2026-12-01"},
	{creator: "google", slug: "gemini-2.5-pro", kind: "language", at: rates{1_250_000, 125_000, 0, 10_000_000}, context: 1_048_576, maximum: 65_536, reasons: true, shutdown: "2026-12-01"},
	{creator: "google", slug: "gemini-2.0-flash-exp", kind: "language", at: rates{100_000, 25_000, 0, 400_000}, context: 1_048_576, maximum: 8_192, retired: true},
	{creator: "meta", slug: "llama-3.3-70b", native: "llama-3.3-70b-versatile", kind: "language", at: rates{590_000, 590_000, 0, 790_000}, context: 131_072, maximum: 32_768, retired: true},
	{creator: "openai", slug: "text-embedding-3-small", kind: "embedding", at: rates{input: 20_000}, context: 8_192},
	{creator: "openai", slug: "text-embedding-3-large", kind: "embedding", at: rates{input: 130_000}, context: 8_192},
	{creator: "openai", slug: "text-embedding-ada-002", kind: "embedding", at: rates{input: 100_000}, context: 8_192},
	{creator: "google", slug: "gemini-embedding-001", kind: "embedding", at: rates{input: 150_000}, context: 8_192},
	{creator: "openai", slug: "omni-moderation-latest", kind: "moderation"},
	{creator: "openai", slug: "whisper-1", kind: "transcription", perHour: 360_000_000_000},
	{creator: "openai", slug: "whisper-large-v3", kind: "transcription", perHour: 111_000_000_000},
	{creator: "openai", slug: "whisper-large-v3-turbo", kind: "transcription", perHour: 40_000_000_000},
	{creator: "openai", slug: "gpt-4o-transcribe", kind: "transcription", at: rates{input: 2_500_000, output: 10_000_000}, audioIn: 6_000_000},
	{creator: "openai", slug: "gpt-4o-mini-transcribe", kind: "transcription", at: rates{input: 1_250_000, output: 5_000_000}, audioIn: 3_000_000},
	{creator: "openai", slug: "tts-1", kind: "speech", perChar: 15_000_000},
	{creator: "openai", slug: "tts-1-hd", kind: "speech", perChar: 30_000_000},
	{creator: "openai", slug: "gpt-4o-mini-tts", kind: "speech", at: rates{input: 600_000, output: 12_000_000}},
	{creator: "openai", slug: "dall-e-3", kind: "image", perImage: 40_000_000_000},
	{creator: "openai", slug: "gpt-image-1", kind: "image", at: rates{input: 5_000_000, output: 40_000_000}},
}

// unlisted is what a model costs that the catalogue does not know, among them all of sim/*.
var unlisted = model{creator: "sim", kind: "language", at: rates{1_000_000, 100_000, 1_250_000, 4_000_000}, context: 128_000, maximum: 1_000_000}

// pricing finds the line of the catalogue for a name as a client may write it, with or without its creator, in the
// gateway's spelling or the provider's.
func pricing(name string) (m *model, known bool) {
	for i := range catalogue {
		m := &catalogue[i]
		if name == m.slug || name == m.id() || strings.HasSuffix(name, "/"+m.slug) || strings.HasSuffix(name, "/"+m.id()) {
			return m, true
		}
	}
	return &unlisted, false
}

// cost is what u costs at m's list price; a fraction of a pico-dollar (audio by the hour) is rounded up.
func (m *model) cost(u usage) pico {
	at := m.at
	if m.above > 0 && u.prompt > m.above {
		at = m.long
	}
	// Where a list names no price for cached or written tokens, they are ordinary input.
	if at.cached == 0 {
		at.cached = at.input
	}
	if at.write == 0 {
		at.write = at.input
	}
	plain := u.prompt - u.cached - u.written - u.audio
	sum := at.input*pico(plain) + at.cached*pico(u.cached) + at.write*pico(u.written) + at.output*pico(u.output)
	sum += m.audioIn * pico(u.audio)
	sum += (m.perHour*pico(u.seconds) + 3599) / 3600
	return sum + m.perImage*pico(u.images) + m.perChar*pico(u.characters)
}
