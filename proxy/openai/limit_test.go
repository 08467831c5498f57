package openai

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"testing"
)

func TestOutputField(t *testing.T) {
	for _, c := range []struct {
		kind     Kind
		provider string
		gateway  bool
		want     string
	}{
		{Chat, "openai", false, "max_completion_tokens"},
		{Chat, "openai", true, "max_tokens"},
		{Chat, "groq", false, "max_tokens"},
		{Chat, "anthropic", false, "max_tokens"},
		{Chat, "google", false, "max_tokens"},
		{Completions, "openai", false, "max_tokens"},
		{Responses, "openai", false, "max_output_tokens"},
		{Embeddings, "openai", false, ""},
		{Speech, "openai", true, ""},
	} {
		if got := OutputField(c.kind, c.provider, c.gateway); got != c.want {
			t.Errorf("%v %s %v: %q, want %q", c.kind, c.provider, c.gateway, got, c.want)
		}
	}
}

func TestLimitOutput(t *testing.T) {
	for _, c := range []struct {
		kind              Kind
		field, body, want string
	}{
		{Chat, "max_tokens", `{"model":"a","messages":[]}`, `{"max_tokens":50,"model":"a","messages":[]}`},
		{Chat, "max_tokens", ` { "model" : "a" } `, ` {"max_tokens":50, "model" : "a" } `},
		{Chat, "max_tokens", `{"model":"b"}`, `{"max_tokens":50,"model":"a"}`},
		{Chat, "max_tokens", `{"messages":[]}`, `{"model":"a","max_tokens":50,"messages":[]}`},
		{Chat, "max_tokens", `{}`, `{"model":"a","max_tokens":50}`},
		{Chat, "max_tokens", `{"model":"a","max_tokens":40}`, `{"model":"a","max_tokens":40}`},
		{Chat, "max_tokens", `{"model":"a","max_tokens":50}`, `{"model":"a","max_tokens":50}`},
		{Chat, "max_tokens", `{"max_tokens": 900 ,"model":"b"}`, `{"max_tokens": 50 ,"model":"a"}`},
		{Chat, "max_tokens", `{"model":"b","max_tokens":900}`, `{"model":"a","max_tokens":50}`},
		{Chat, "max_tokens", `{"max_completion_tokens":900,"model":"b","max_tokens":900}`, `{"max_completion_tokens":50,"model":"a","max_tokens":50}`},
		{Chat, "max_tokens", `{"max_completion_tokens":10,"model":"b","max_tokens":900}`, `{"max_completion_tokens":10,"model":"a","max_tokens":50}`},
		{Chat, "max_tokens", `{"model":"a","max_tokens":null}`, `{"model":"a","max_tokens":50}`},
		{Chat, "max_completion_tokens", `{"model":"a","max_tokens":null}`, `{"max_completion_tokens":50,"model":"a","max_tokens":null}`},
		{Chat, "max_completion_tokens", `{"model":"a","max_tokens":20,"max_completion_tokens":null}`, `{"model":"a","max_tokens":20,"max_completion_tokens":null}`},
		{Chat, "max_tokens", `{"model":"a","max_tokens":0}`, `{"model":"a","max_tokens":50}`},
		{Chat, "max_tokens", `{"model":"a","max_output_tokens":900}`, `{"max_tokens":50,"model":"a","max_output_tokens":900}`},
		{Chat, "", `{"model":"a"}`, `{"model":"a"}`},
		{Chat, "", `{"model":"a","max_tokens":900}`, `{"model":"a","max_tokens":50}`},
		{Completions, "max_tokens", `{"model":"a","max_tokens":0}`, `{"model":"a","max_tokens":0}`},
		{Responses, "max_output_tokens", `{"model":"a","max_tokens":900}`, `{"max_output_tokens":50,"model":"a","max_tokens":900}`},
		{Responses, "max_output_tokens", `{"model":"a","max_output_tokens":900}`, `{"model":"a","max_output_tokens":50}`},
		{Embeddings, "", `{"model":"a","max_tokens":900}`, `{"model":"a","max_tokens":900}`},
	} {
		r := parsed(t, c.body)
		edits := r.LimitOutput(c.kind, c.field, 50, r.AimAt("a", false, nil))
		if got := string(AppendEdited(nil, r.Body, edits)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.body, got, c.want)
		}
	}
}

func TestLimitOutputAlone(t *testing.T) {
	for body, want := range map[string]string{`{}`: `{"max_tokens":7}`, `{ }`: `{"max_tokens":7 }`, `{"n":1}`: `{"max_tokens":7,"n":1}`} {
		r := parsed(t, body)
		if got := string(AppendEdited(nil, r.Body, r.LimitOutput(Chat, "max_tokens", 7, nil))); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

// checkLimit holds that a body with all edits differs from the one that came in nothing but what was asked for, and
// that a limit is what it should be.
func checkLimit(t *testing.T, k Kind, body []byte, r *Request, most int64) {
	field := OutputField(k, "openai", false)
	before := r.OutputLimit(k)
	edits := r.LimitOutput(k, field, most, r.AimAt("some/model", k == Chat, nil))
	if !slices.IsSortedFunc(edits, func(a, b Edit) int { return a.From - b.From }) {
		t.Fatalf("edits do not ascend: %v", edits)
	}
	edited := AppendEdited(nil, body, edits)
	if len(edited) != EditedLen(body, edits) {
		t.Fatalf("%d bytes, said %d", len(edited), EditedLen(body, edits))
	}
	var after Request
	if err := Parse(edited, &after); err != nil {
		t.Fatalf("%v\n%s\n%s", err, body, edited)
	}
	want := most
	if before > 0 && before < most || before == 0 && k == Completions {
		want = before
	}
	if got := after.OutputLimit(k); field != "" && got != want {
		t.Fatalf("limit %d, want %d (was %d)\n%s\n%s", got, want, before, body, edited)
	}
	var was, is map[string]json.RawMessage
	if json.Unmarshal(body, &was) != nil || json.Unmarshal(edited, &is) != nil {
		t.Fatalf("not JSON:\n%s\n%s", body, edited)
	}
	for _, m := range []map[string]json.RawMessage{was, is} {
		delete(m, "model")
		delete(m, "stream_options")
		for _, name := range fieldNames {
			if name == field || k == Chat && name != "max_output_tokens" {
				delete(m, name)
			}
		}
	}
	if len(was) != len(is) {
		t.Fatalf("other members:\n%s\n%s", body, edited)
	}
	for key := range was {
		if !bytes.Equal(was[key], is[key]) {
			t.Fatalf("%q changed:\n%s\n%s", key, body, edited)
		}
	}
}

// checkWorst holds what is true of the bound of every request.
func checkWorst(t *testing.T, r *Request, room int64) {
	for k := Chat; k <= Images; k++ {
		for _, m := range []Limits{
			{}, {Provider: "openai", Context: 8192, MaxOutput: 4096}, {Provider: "anthropic", Context: 200_000, MaxOutput: 64_000, OutputCap: 100}, {Model: "x/y", Counted: true},
		} {
			b := r.Worst(k, &m)
			if b.Input < 0 || b.Output < 0 || b.Images < 0 || b.AudioInput < 0 || b.AudioInput > b.Input || b.AudioOutput > b.Output || b.Tokens() < 0 {
				t.Fatalf("kind %d: %+v\n%s", k, b, r.Body)
			}
			if b.Open&OpenInput == 0 && m.Context > 0 && k != Transcriptions && b.Input > m.Context {
				t.Fatalf("more than the window: %+v", b)
			}
			if k > Responses {
				continue
			}
			if m.Lowered = r.FitOutput(k, &m, room); m.Lowered == 0 {
				continue
			}
			if fitted := r.Worst(k, &m); fitted.Output > room || fitted.Open&OpenOutput != 0 {
				t.Fatalf("kind %d: %d tokens fit %d, but make %+v with %+v\n%s", k, m.Lowered, room, fitted, m, r.Body)
			}
		}
	}
}

var limitSeeds = []string{
	`{"model":"a","max_tokens":null,"n":2,"prompt":["a","b"]}`, `{"max_tokens":5,"model":"b","max_completion_tokens":900,"stream_options":{}}`,
	`{"max_output_tokens":0,"reasoning":{"effort":"high","max_tokens":5000},"tools":[{"type":"function"}],"providerOptions":{"x":{}}}`,
	`{"max_completion_tokens": 77 , "reasoning_effort":"low","prediction":{"content":"abc"}}`, `{}`, `{"stream_options":null}`, `{"modalities":["audio"],"service_tier":"x"}`,
	`{"messages":[{"content":[{"type":"image_url","image_url":{"url":"u","detail":"low"}},{"input_audio":{"data":"UklGRg==","format":"wav"}}]}]}`,
	`{"functions":[{"name":"a"}],"response_format":{"type":"json_object"},"text":1,"background":null,"thinking":{"budget_tokens":"x"}}`,
}

func FuzzWorst(f *testing.F) {
	for _, s := range limitSeeds {
		f.Add([]byte(s), int64(100))
	}
	f.Add(typicalChat, int64(10))
	f.Fuzz(func(t *testing.T, body []byte, most int64) {
		most = most&0xffff + 1
		var r Request
		if Parse(body, &r) != nil {
			return
		}
		checkWorst(t, &r, most)
		if keysTwice(body) {
			return // encoding/json takes the last of two, inside objects that are not read here
		}
		for _, k := range []Kind{Chat, Completions, Responses, Embeddings} {
			if err := Parse(body, &r); err != nil {
				t.Fatal(err)
			}
			checkLimit(t, k, body, &r, most)
		}
	})
}

func TestWorstSeeds(t *testing.T) {
	for _, s := range append(limitSeeds, string(typicalChat)) {
		for _, most := range []int64{1, 6, 1023, 1024, 2047, 2048, 5000, 1 << 20} {
			r := parsed(t, s)
			checkWorst(t, r, most)
			for _, k := range []Kind{Chat, Completions, Responses, Embeddings} {
				checkLimit(t, k, []byte(s), parsed(t, s), most)
			}
		}
	}
}

// FuzzBoundText holds that the bound covers the bytes of every text that a prompt can show, wherever it stands.
func FuzzBoundText(f *testing.F) {
	f.Add("olá, descrição", true)
	f.Add("\x00\u2028😀\\u0041", false)
	f.Fuzz(func(t *testing.T, text string, escaped bool) {
		for _, s := range shapes {
			q := quoted(text)
			if escaped {
				q = onlyASCII(q)
			}
			var r Request
			if err := Parse([]byte(s.body(q)), &r); err != nil {
				t.Fatalf("%v: %s", err, s.body(q))
			}
			var plain string
			if err := json.Unmarshal([]byte(q), &plain); err != nil {
				t.Fatal(err)
			}
			if got := r.Worst(s.kind, &Limits{MaxOutput: 1}).Input; got < int64(len(plain))+s.more && got < manyTokens {
				t.Fatalf("%d for %d bytes as %s: %s", got, len(plain), s.name, strconv.Quote(text))
			}
		}
	})
}
