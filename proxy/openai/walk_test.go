package openai

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

// randomJSON is a value with all that trips a careless reader: escaped quotes at every offset of a word, runs of
// backslashes, brackets inside strings, long strings, blanks.
func randomJSON(rnd *rand.Rand, depth int) string {
	switch n := rnd.IntN(8); {
	case n == 0 && depth > 0:
		var parts []string
		for range rnd.IntN(4) {
			parts = append(parts, randomJSON(rnd, depth-1))
		}
		return "[ " + strings.Join(parts, " ,") + "]"
	case n <= 2 && depth > 0:
		var parts []string
		for range rnd.IntN(4) {
			parts = append(parts, randomString(rnd)+" : "+randomJSON(rnd, depth-1))
		}
		return "{" + strings.Join(parts, ",\n") + " }"
	case n == 3:
		return []string{"0", "-1.5e+7", "true", "false", "null", "12345678901234567890"}[rnd.IntN(6)]
	}
	return randomString(rnd)
}

func randomString(rnd *rand.Rand) string {
	pieces := []string{"a", `\"`, `\\`, `\n`, "{", "}", "[", "]", ",", ":", "é", "😀", `\u00e9`, `\ud83d\ude00`, `\ud800`, "text", strings.Repeat("x", 40)}
	var b strings.Builder
	for range rnd.IntN(12) {
		b.WriteString(pieces[rnd.IntN(len(pieces))])
	}
	return `"` + b.String() + `"`
}

func TestWalk(t *testing.T) {
	const seed = 11
	rnd := rand.New(rand.NewPCG(seed, seed))
	for range 20_000 {
		s := randomJSON(rnd, 4)
		if !json.Valid([]byte(s)) {
			t.Fatalf("%q is not JSON", s)
		}
		if end := skipValue([]byte(s+","), 0); end != len(s) {
			t.Fatalf("skipValue(%q) = %d, want %d", s, end, len(s))
		}
		if _, end := textIn([]byte(s+"}"), 0); end != len(s) {
			t.Fatalf("textIn(%q) ends at %d, want %d", s, end, len(s))
		}
		if c := s[0]; c == '"' || c == '{' || c == '[' {
			if cut := s[:1+rnd.IntN(len(s)-1)]; skipValue([]byte(cut), 0) != -1 {
				t.Fatalf("skipValue(%q) does not see that the end is missing", cut)
			}
		}
		var text string
		if json.Unmarshal([]byte(s), &text) == nil && s[0] == '"' {
			if n := textLen([]byte(s[1 : len(s)-1])); n != int64(len(text)) {
				t.Fatalf("textLen(%s) = %d, want %d", s, n, len(text))
			}
		}
		body := `{"a":` + s + `,"usage":{"prompt_tokens":7},"b":` + s + `}`
		var r Reading
		if r.ReadBody(Chat, []byte(body)); r.Input != 7 || !r.Complete {
			t.Fatalf("%s: %+v", body, r)
		}
	}
}
