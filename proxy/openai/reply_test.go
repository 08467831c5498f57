package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

var replies = []Reply{
	{ID: "chatcmpl-1", Model: "openai/gpt-6-luna", Created: 1764000000, Text: "Olá! <b>\"Limite\"</b>\nvolte amanhã 😊"},
	{ID: "resp_1", Model: "mo\"del", Created: 1, Text: "a", Choices: 3, Previous: "resp_0"},
	{ID: "cmpl-1", Model: "m", Created: 1},
}

// lookup follows a path like "choices.0.message.content" through decoded JSON.
func lookup(t *testing.T, v any, path string) any {
	t.Helper()
	for _, step := range strings.Split(path, ".") {
		switch w := v.(type) {
		case map[string]any:
			inner, ok := w[step]
			if !ok {
				t.Fatalf("no %q on the way to %s", step, path)
			}
			v = inner
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(w) {
				t.Fatalf("no element %q on the way to %s", step, path)
			}
			v = w[i]
		default:
			t.Fatalf("%q leads into %v", path, v)
		}
	}
	return v
}

func decoded(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

// TestReplyBody holds the members that OpenAI's clients read without asking whether they are there.
func TestReplyBody(t *testing.T) {
	for _, p := range replies {
		for _, c := range []struct {
			kind   Kind
			object string
			want   map[string]any
		}{
			{Chat, "chat.completion", map[string]any{
				"choices.0.message.content": p.Text, "choices.0.message.role": "assistant", "choices.0.message.refusal": nil, "choices.0.finish_reason": "stop",
				"choices.0.index": 0.0, "choices.0.logprobs": nil, "usage.prompt_tokens": 0.0, "usage.completion_tokens": 0.0, "usage.total_tokens": 0.0, "created": float64(p.Created),
			}},
			{Completions, "text_completion", map[string]any{
				"choices.0.text": p.Text, "choices.0.finish_reason": "stop", "choices.0.index": 0.0, "choices.0.logprobs": nil, "usage.total_tokens": 0.0, "created": float64(p.Created),
			}},
			{Responses, "response", map[string]any{
				"status": "completed", "output.0.type": "message", "output.0.role": "assistant", "output.0.status": "completed", "output.0.content.0.type": "output_text",
				"output.0.content.0.text": p.Text, "error": nil, "incomplete_details": nil, "instructions": nil, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
				"tool_choice": "auto", "store": false, "usage.input_tokens": 0.0, "usage.output_tokens": 0.0, "usage.total_tokens": 0.0, "usage.input_tokens_details.cached_tokens": 0.0,
				"usage.output_tokens_details.reasoning_tokens": 0.0, "created_at": float64(p.Created),
			}},
		} {
			if !CanAnswer(c.kind) {
				t.Errorf("kind %d cannot be answered", c.kind)
			}
			b := p.AppendBody(nil, c.kind)
			v := decoded(t, b)
			c.want["id"], c.want["model"], c.want["object"] = p.ID, p.Model, c.object
			for path, want := range c.want {
				if got := lookup(t, v, path); got != want {
					t.Errorf("%s: %s is %v, want %v", c.object, path, got, want)
				}
			}
			if c.kind != Responses {
				if n := int64(len(lookup(t, v, "choices").([]any))); n != max(p.Choices, 1) {
					t.Errorf("%d choices, want %d", n, p.Choices)
				}
			}
			var rd Reading
			rd.ReadBody(c.kind, b)
			if !rd.HasUsage || rd.Total != 0 || !rd.Complete || rd.Failed || rd.ID != p.ID || rd.TextBytes != max(p.Choices, 1)*int64(len(p.Text)) && c.kind != Responses {
				t.Errorf("read as %+v", rd)
			}
		}
	}
	for _, k := range []Kind{Opaque, Embeddings, Moderations, Transcriptions, Speech, Images} {
		if CanAnswer(k) {
			t.Errorf("kind %d can be answered with words", k)
		}
	}
}

// events splits a stream into the payloads of its events, and holds its framing.
func events(t *testing.T, stream []byte) (names []string, data [][]byte) {
	t.Helper()
	if !bytes.HasSuffix(stream, []byte("\n\n")) {
		t.Fatalf("the stream does not end with an event: %q", stream)
	}
	for _, e := range strings.Split(strings.TrimSuffix(string(stream), "\n\n"), "\n\n") {
		name := ""
		if rest, found := strings.CutPrefix(e, "event: "); found {
			name, e, _ = strings.Cut(rest, "\n")
		}
		payload, found := strings.CutPrefix(e, "data: ")
		if !found || strings.Contains(payload, "\n") {
			t.Fatalf("no event: %q", e)
		}
		names, data = append(names, name), append(data, []byte(payload))
	}
	return names, data
}

func TestReplyStream(t *testing.T) {
	for _, p := range replies {
		for _, k := range []Kind{Chat, Completions} {
			for _, usage := range []bool{false, true} {
				stream := p.AppendStream(nil, k, usage)
				_, data := events(t, stream)
				if string(data[len(data)-1]) != "[DONE]" {
					t.Fatalf("the stream ends in %s", data[len(data)-1])
				}
				texts, ends, counted := make([]string, max(p.Choices, 1)), 0, 0
				for _, d := range data[:len(data)-1] {
					v := decoded(t, d).(map[string]any)
					told, has := v["usage"]
					if has != usage {
						t.Errorf("usage in a chunk: %v, asked for: %v", has, usage)
					}
					choices := v["choices"].([]any)
					if len(choices) == 0 {
						counted++
						if lookup(t, told, "total_tokens") != 0.0 {
							t.Errorf("usage %v", told)
						}
						continue
					}
					one := choices[0].(map[string]any)
					index := int(one["index"].(float64))
					if k == Completions {
						texts[index] += one["text"].(string)
					} else if text, ok := one["delta"].(map[string]any)["content"].(string); ok {
						texts[index] += text
					}
					if one["finish_reason"] == "stop" {
						ends++
					}
				}
				if ends != len(texts) || counted != map[bool]int{true: 1}[usage] {
					t.Errorf("%d ends of %d choices, %d chunks of usage: %s", ends, len(texts), counted, stream)
				}
				for _, text := range texts {
					if text != p.Text {
						t.Errorf("%q, want %q", text, p.Text)
					}
				}
				_, rd := checkPieces(t, k, !usage, stream, 3)
				if !rd.Complete || rd.Failed || rd.FinishReason != "stop" {
					t.Errorf("read as %+v", rd)
				}
			}
		}
	}
}

func TestReplyResponseStream(t *testing.T) {
	for _, p := range replies {
		stream := p.AppendStream(nil, Responses, false)
		names, data := events(t, stream)
		want := "created in_progress output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done completed"
		if p.Text == "" {
			want = strings.Replace(want, " output_text.delta", "", 1)
		}
		if got := strings.ReplaceAll(strings.Join(names, " "), "response.", ""); got != want {
			t.Errorf("events %s\n want %s", got, want)
		}
		for i, d := range data {
			v := decoded(t, d)
			if lookup(t, v, "type") != names[i] || lookup(t, v, "sequence_number") != float64(i) {
				t.Errorf("event %d: %s", i, d)
			}
		}
		last := decoded(t, data[len(data)-1])
		if lookup(t, last, "response.output.0.content.0.text") != p.Text || lookup(t, last, "response.usage.total_tokens") != 0.0 {
			t.Errorf("the last event: %v", last)
		}
		if whole := decoded(t, p.AppendBody(nil, Responses)); fmt.Sprint(whole) != fmt.Sprint(lookup(t, last, "response")) {
			t.Error("the last event has another response than the body")
		}
		_, rd := checkPieces(t, Responses, false, stream, 3)
		if !rd.Complete || !rd.HasUsage || rd.FinishReason != "completed" || rd.ID != p.ID {
			t.Errorf("read as %+v", rd)
		}
	}
}

func TestReplyID(t *testing.T) {
	for k, want := range map[Kind]string{Chat: "chatcmpl-7", Completions: "cmpl-7", Responses: "resp_7"} {
		if got := ReplyID(k, "7"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
