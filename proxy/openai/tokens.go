package openai

import "unicode/utf8"

// withMargin is a count of tokens with what it may be wrong by.
func withMargin(n int64) int64 { return n + (n+9)/10 + 64 }

// countPrompt counts the tokens of the body without its inline data, as the tokenizers of today's models would about.
func (r *Request) countPrompt() int64 {
	n, at := int64(0), 0
	for _, s := range r.load.spans {
		if s.to > at {
			n += countText(r.Body[at:s.from])
			at = s.to
		}
	}
	return n + countText(r.Body[at:])
}

// countText counts the tokens of JSON text by what it is made of. It is no tokenizer: a vocabulary of 200 000 pieces is
// megabytes in each proxy, slower than all else it does, and each maker has another one. The weights are such that for
// the kinds of text in testdata/tokens.jsonl the count and its margin are no lower than what OpenAI's two vocabularies
// make of them, but for words of random letters and letters heaped with accents; for Portuguese prose they are a third
// more, for English a half.
//
// Tokenizers part words from numbers, marks and line ends first, so a change of class begins a new piece.
func countText(b []byte) int64 {
	n, before := int64(0), space
	for _, c := range b {
		now := classOf[c]
		n += int64(weightOf[before&15][now&15])
		before = now
	}
	return n/tokenWeight + 1
}

// tokenWeight is what a token weighs.
const tokenWeight = 24

// weightOf is what a byte weighs, by the class of the one before it and its own.
var weightOf = func() (t [16][16]uint8) {
	for before := range classes {
		t[before][small], t[before][capital], t[before][digit], t[before][mark] = 22, 20, 22, 26
		t[before][two], t[before][three], t[before][four] = 28, 32, 92
	}
	// What goes on weighs less than what begins. A space belongs to the word behind it, but not to a number.
	t[small][small], t[capital][small], t[capital][capital], t[digit][digit] = 3, 12, 13, 8
	t[mark][mark], t[space][space], t[space][digit], t[small][capital] = 14, 5, 46, 24
	return t
}()

// A class is of bytes that tokenizers treat alike.
type class uint8

const (
	mark class = iota
	small
	capital
	digit
	space
	follow // of a rune: it adds nothing to what its first byte tells
	two    // the first byte of a rune of two bytes, and so on
	three
	four
	classes
)

var classOf = func() (t [256]class) {
	for c := range t {
		switch {
		case 'a' <= c && c <= 'z':
			t[c] = small
		case 'A' <= c && c <= 'Z':
			t[c] = capital
		case '0' <= c && c <= '9':
			t[c] = digit
		case c <= ' ':
			t[c] = space
		case c >= 0xf0:
			t[c] = four
		case c >= 0xe0:
			t[c] = three
		case c >= 0xc0:
			t[c] = two
		case c >= utf8.RuneSelf:
			t[c] = follow
		}
	}
	return t
}()
