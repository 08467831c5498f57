package openai

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
)

// A counted is a text with the number of tokens that OpenAI's vocabularies make of it.
type counted struct {
	Name   string `json:"name"`
	Text   string `json:"text"`
	CL100K int64  `json:"cl100k"`
	O200K  int64  `json:"o200k"`
}

// countedTexts are texts of many kinds. The counts were made with the published vocabularies, by a program that is not
// here because they are five megabytes.
func countedTexts(t testing.TB) (all []counted) {
	t.Helper()
	f, err := os.Open("testdata/tokens.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c counted
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) < 20 {
		t.Fatalf("only %d texts", len(all))
	}
	return all
}
