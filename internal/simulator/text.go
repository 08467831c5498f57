package simulator

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// A token of this simulator is four bytes of text (fewer at the end, or where a rune would be cut in two). The words
// below all come in four-byte pieces, so that a generated answer of N tokens has N pieces and 4×N bytes, and anybody
// can recount a bill with len(text)/4. Prompts are counted the same way, from the bytes of their text.
const tokenBytes = 4

// words are Portuguese, each already in its tokens; those of the second list close a sentence.
var (
	words = [...][]string{
		{" sol"},
		{" mar"},
		{" luz"},
		{" que"},
		{" com"},
		{" uma"},
		{" ela"},
		{" dia"},
		{" só"},
		{" já"},
		{" fé"},
		{" voz"},
		{" paz"},
		{" bem"},
		{" vai"},
		{" vem"},
		{" tem"},
		{" sim"},
		{" rua"},
		{" lua"},
		{" rio"},
		{" cé", "us a"},
		{" cam", "inho"},
		{" sau", "dade"},
		{" pal", "avra"},
		{" tam", "bém"},
		{" mú", "sica"},
		{" ama", "nhã"},
		{" ár", "vore"},
		{" fei", "jão"},
		{" sá", "bado"},
		{" rá", "pido"},
		{" nú", "mero"},
		{" có", "digo"},
		{" pá", "gina"},
		{" úl", "timo"},
		{" irm", "ão,"},
		{" por", " ali"},
		{" cat", "raca"},
		{" pas", "sa o"},
	}
	closings = [...][]string{{" cid", "ade."}, {" man", "hã."}, {" mar", "🌊"}, {" tu."}, {" oi!"}, {" eu."}}
)

// dice is a splitmix64 generator: one word of state, so every answer can have its own, and the same on any machine.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (d *dice) below(n int) int { return int(d.next() % uint64(n)) }

// seeded makes dice from whatever an answer may depend on.
func seeded(seed int64, parts ...[]byte) dice {
	h := sha256.New()
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(seed))
	h.Write(n[:])
	for _, p := range parts {
		// The length keeps ("ab","c") apart from ("a","bc").
		binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return dice(binary.LittleEndian.Uint64(h.Sum(nil)))
}

// prose is n tokens of text.
func prose(d dice, n int) []string {
	pieces := make([]string, 0, n+2)
	pieces = append(pieces, "Olá", "! Eu")
	for since := 0; len(pieces) < n; since++ {
		if since > 6 && d.below(6) == 0 {
			pieces, since = append(pieces, closings[d.below(len(closings))]...), 0
			continue
		}
		pieces = append(pieces, words[d.below(len(words))]...)
	}
	return pieces[:n]
}

// split cuts a text into tokens.
func split(s string) []string {
	pieces := make([]string, 0, len(s)/tokenBytes+1)
	for len(s) > 0 {
		n := min(tokenBytes, len(s))
		for n < len(s) && n > 1 && !utf8.RuneStart(s[n]) {
			n--
		}
		pieces = append(pieces, s[:n])
		s = s[n:]
	}
	return pieces
}

// countTokens is the price of n bytes of prompt.
func countTokens(n int) int64 { return int64((n + tokenBytes - 1) / tokenBytes) }

// cutAtStop ends the pieces before the first stop sequence and says whether there was one.
func cutAtStop(pieces, stops []string) ([]string, bool) {
	text, first := strings.Join(pieces, ""), -1
	for _, s := range stops {
		if i := strings.Index(text, s); s != "" && i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	if first < 0 {
		return pieces, false
	}
	return split(text[:first]), true
}
