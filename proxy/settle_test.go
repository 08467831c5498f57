package proxy

import "testing"

func TestUndated(t *testing.T) {
	for in, want := range map[string]string{
		"gpt-4o-mini-2024-07-18":     "gpt-4o-mini",
		"claude-3-5-sonnet-20241022": "claude-3-5-sonnet",
		"openai/gpt-4o-2024-11-20":   "openai/gpt-4o",
		"gpt-4o":                     "gpt-4o",
		"gpt-4o-2024-7-18":           "gpt-4o-2024-7-18",
		"model-1234567":              "model-1234567",
		"-20241022":                  "-20241022",
		"":                           "",
		"a-2024_07_18":               "a-2024_07_18",
	} {
		if got := undated(in); got != want {
			t.Errorf("undated(%q) = %q, want %q", in, got, want)
		}
	}
}
