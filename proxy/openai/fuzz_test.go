package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

// wanted is what a slow reader built on encoding/json makes of a request, and whether the rules beyond JSON's grammar
// allow it.
type wanted struct {
	ok           bool
	model        string
	stream       bool
	wantsUsage   bool
	maxOutput, n int64
	inputChars   int64
	previous     string
	fallbacks    []string
}

type member struct {
	key string
	raw json.RawMessage
}

// slowMembers splits an object, or fails when a key is refused.
func slowMembers(body []byte, known []string) (out []member, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	seen := map[string]bool{}
	for dec.More() {
		from := dec.InputOffset()
		token, err := dec.Token()
		if err != nil {
			return nil, false
		}
		key := token.(string)
		raw := body[from:dec.InputOffset()]
		if halfSurrogate(raw) || seen[key] || len(seen) >= maxKeys {
			return nil, false
		}
		seen[key] = true
		for _, k := range known {
			if k != key && strings.EqualFold(k, key) {
				return nil, false
			}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, false
		}
		out = append(out, member{key, value})
	}
	return out, true
}

// halfSurrogate says that encoding/json replaced an escape in raw.
func halfSurrogate(raw []byte) bool {
	var s string
	raw = raw[bytes.IndexByte(raw, '"'):]
	return json.Unmarshal(raw, &s) == nil && strings.ContainsRune(s, utf8.RuneError) &&
		!bytes.Contains(raw, []byte("\xef\xbf\xbd")) && !bytes.Contains(bytes.ToLower(raw), []byte(`\ufffd`))
}

func slowDepth(body []byte) (depth int) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	for at := 0; ; {
		token, err := dec.Token()
		if err != nil {
			return depth
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			at++
			depth = max(depth, at)
		case json.Delim('}'), json.Delim(']'):
			at--
		}
	}
}

func slowName(raw json.RawMessage) (string, bool) {
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil || halfSurrogate(raw) || !soundName(*s) {
		return "", false
	}
	return *s, true
}

func slowInteger(raw json.RawMessage, least, most int64, v *int64) bool {
	if string(raw) == "null" {
		return true
	}
	var n int64
	if json.Unmarshal(raw, &n) != nil || n < least || n > most || raw[0] == '-' {
		return false
	}
	*v = max(*v, n)
	return true
}

func slowBool(raw json.RawMessage, v *bool) bool {
	return json.Unmarshal(raw, v) == nil
}

func slowModels(raw json.RawMessage, w *wanted) bool {
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return false
	}
	for _, one := range all {
		s, ok := slowName(one)
		if !ok || len(w.fallbacks) == maxFallbacks {
			return false
		}
		w.fallbacks = append(w.fallbacks, s)
	}
	return true
}

// slowParse is the reference for Parse.
func slowParse(body []byte) (w wanted) {
	w.maxOutput, w.n = -1, 1
	if !json.Valid(body) || !utf8.Valid(body) || slowDepth(body) > maxDepth || bytes.TrimLeft(body, " \t\r\n")[0] != '{' {
		return w
	}
	members, ok := slowMembers(body, knownKeys[top])
	for _, m := range members {
		switch m.key {
		case "model":
			w.model, _ = slowName(m.raw)
			ok = ok && w.model != ""
		case "stream":
			ok = slowBool(m.raw, &w.stream) && ok
		case "stream_options":
			ok = slowObject(m.raw, true, streamOptions, &w) && ok
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			ok = slowInteger(m.raw, 0, maxTokens, &w.maxOutput) && ok
		case "n", "best_of":
			ok = slowInteger(m.raw, 1, maxChoices, &w.n) && ok
		case "input":
			var s string
			if json.Unmarshal(m.raw, &s) == nil {
				w.inputChars = int64(utf8.RuneCountInString(s))
			}
		case "previous_response_id":
			if string(m.raw) != "null" {
				var good bool
				w.previous, good = slowName(m.raw)
				ok = ok && good
			}
		case "models":
			ok = slowModels(m.raw, &w) && ok
		case "providerOptions":
			ok = slowObject(m.raw, false, providerOptions, &w) && ok
		}
	}
	w.ok = ok
	return w
}

func slowObject(raw json.RawMessage, must bool, in scope, w *wanted) bool {
	if raw[0] != '{' {
		return !must || string(raw) == "null"
	}
	members, ok := slowMembers(raw, knownKeys[in])
	for _, m := range members {
		switch {
		case in == streamOptions && m.key == "include_usage":
			ok = slowBool(m.raw, &w.wantsUsage) && ok
		case in == providerOptions && m.key == "gateway":
			ok = slowObject(m.raw, false, gatewayOptions, w) && ok
		case in == gatewayOptions && m.key == "models":
			ok = slowModels(m.raw, w) && ok
		}
	}
	return ok
}

// checkParse holds Parse against slowParse and its edits against encoding/json.
func checkParse(t *testing.T, body []byte) {
	t.Helper()
	var r Request
	err := Parse(body, &r)
	want := slowParse(body)
	if (err == nil) != want.ok {
		if want.ok && longNumber(body) {
			return
		}
		t.Fatalf("Parse(%q) = %v, want ok=%v", body, err, want.ok)
	}
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Code != "invalid_json" || e.Type != "invalid_request_error" || e.Message == "" ||
			!json.Valid(e.AppendBody(nil)) {
			t.Fatalf("Parse(%q) = %#v", body, err)
		}
		return
	}
	got := wanted{true, r.Model, r.Stream, r.WantsUsage, r.MaxOutput, r.N, r.InputChars, r.PreviousResponse, r.Fallbacks}
	if is, was := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); is != was {
		t.Fatalf("Parse(%q)\n got %s\nwant %s", body, is, was)
	}
	if r.TextBytes < 0 || r.TextBytes > int64(len(body)) {
		t.Fatalf("Parse(%q): TextBytes %d", body, r.TextBytes)
	}
	checkEdits(t, body, &r)
}

func longNumber(body []byte) bool {
	run := 0
	for _, c := range body {
		if strings.IndexByte("0123456789+-.eE", c) < 0 {
			run = 0
		} else if run++; run > maxNumber {
			return true
		}
	}
	return false
}

func checkEdits(t *testing.T, body []byte, r *Request) {
	t.Helper()
	for _, model := range []string{r.Model, "new/model\"é\n"} {
		for _, usage := range []bool{false, true} {
			if model == "" {
				continue
			}
			edits := r.AimAt(model, usage, nil)
			out := AppendEdited(nil, body, edits)
			if len(out) != EditedLen(body, edits) {
				t.Fatalf("EditedLen(%q) = %d, want %d", body, EditedLen(body, edits), len(out))
			}
			if model == r.Model && (!usage || r.WantsUsage) && len(edits) > 0 {
				t.Fatalf("AimAt(%q) changes what is as it should be: %q", body, out)
			}
			var before, after map[string]json.RawMessage
			if json.Unmarshal(body, &before) != nil || json.Unmarshal(out, &after) != nil {
				t.Fatalf("AimAt(%q) made %q", body, out)
			}
			wantOptions := map[string]json.RawMessage{}
			_ = json.Unmarshal(before["stream_options"], &wantOptions)
			if usage {
				if wantOptions == nil {
					wantOptions = map[string]json.RawMessage{}
				}
				wantOptions["include_usage"] = json.RawMessage("true")
				var options map[string]json.RawMessage
				if err := json.Unmarshal(after["stream_options"], &options); err != nil || !maps.EqualFunc(options, wantOptions, equalRaw) {
					t.Fatalf("AimAt(%q) made %q", body, out)
				}
				delete(before, "stream_options")
				delete(after, "stream_options")
			}
			before["model"], _ = json.Marshal(model)
			var was, is string
			if json.Unmarshal(before["model"], &was) != nil || json.Unmarshal(after["model"], &is) != nil || was != is {
				t.Fatalf("AimAt(%q) made %q", body, out)
			}
			delete(before, "model")
			delete(after, "model")
			if !maps.EqualFunc(before, after, equalRaw) {
				t.Fatalf("AimAt(%q) made %q", body, out)
			}
		}
	}
}

func equalRaw(a, b json.RawMessage) bool { return bytes.Equal(a, b) }

func FuzzParse(f *testing.F) {
	for _, s := range parseSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkParse(t, body)
		boundary := "b"
		if at := bytes.IndexByte(body, '\r'); at > 2 && at < 60 {
			boundary = string(body[2:at])
		}
		var r Request
		if err := ParseMultipart(body, []byte(boundary), &r); err == nil {
			checkMultipart(t, body, boundary, &r)
		}
	})
}

func FuzzStream(f *testing.F) {
	for i, s := range framings {
		f.Add([]byte(s), uint8(Chat), uint64(i))
	}
	for _, s := range []string{ordinaryChunk, gatewayChunk, finishChunk, usageChunk} {
		f.Add([]byte("data: "+s+"\n\ndata: "+s+"\r\n\r\n"), uint8(Chat), uint64(1))
	}
	for _, s := range readingSeeds {
		f.Add([]byte("event: x\ndata: "+s+"\n\n"), uint8(Responses), uint64(2))
	}
	f.Fuzz(func(t *testing.T, stream []byte, kind uint8, seed uint64) {
		k := Kind(kind % (uint8(Images) + 1))
		out, rd := checkPieces(t, k, false, stream, seed)
		if !bytes.Equal(out, stream) {
			t.Fatalf("%q came out as %q", stream, out)
		}
		checkReading(t, &rd)
		_, hiddenRead := checkPieces(t, k, true, stream, seed)
		if hiddenRead != rd {
			t.Fatalf("hiding changes what is learnt: %+v, %+v", hiddenRead, rd)
		}
		if !bytes.Contains(stream, []byte(`"usage"`)) {
			return
		}
		for _, data := range slowEvents(stream) {
			// A second usage in one object, or one under an escaped name, is more than the relay promises to hide, and of
			// what is not JSON it promises nothing.
			if strings.HasPrefix(strings.TrimSpace(data), "[DONE]") {
				continue
			}
			if strings.Count(data, `"usage"`) > 1 || strings.Contains(data, `\u`) || !utf8.ValidString(data) || !json.Valid([]byte(data)) {
				return
			}
		}
		if k == Chat {
			checkHidden(t, k, stream)
		}
	})
}

// checkReading makes sure that nothing absurd was learnt.
func checkReading(t *testing.T, r *Reading) {
	t.Helper()
	for _, n := range []int64{
		r.Input, r.Output, r.Total, r.Cached, r.CacheWrite, r.Reasoning, r.AudioInput, r.AudioOutput, r.AudioMs, r.Images,
		r.Deltas, r.TextBytes, int64(r.GatewayUSD), r.EstimateOutput(),
	} {
		if n < 0 || n > 1<<62 {
			t.Fatalf("%d in %+v", n, r)
		}
	}
	if r.Cached+r.CacheWrite > r.Input || r.Total < r.Input+r.Output {
		t.Fatalf("the parts do not fit: %+v", r)
	}
	for _, s := range []string{r.ID, r.Model, r.Provider, r.FinishReason, r.ErrorCode} {
		if !soundName(s) || !utf8.ValidString(s) {
			t.Fatalf("%q in %+v", s, r)
		}
	}
	if r.Failed && r.Complete {
		t.Fatalf("failed and complete: %+v", r)
	}
}

func FuzzReading(f *testing.F) {
	for _, s := range readingSeeds {
		f.Add([]byte(s), uint8(Chat))
		f.Add([]byte(s), uint8(Responses))
	}
	f.Fuzz(func(t *testing.T, body []byte, kind uint8) {
		k := Kind(kind % (uint8(Images) + 1))
		var whole, event Reading
		whole.ReadBody(k, body)
		checkReading(t, &whole)
		event.ReadEvent(k, body)
		checkReading(t, &event)
		if sh := event.shape; sh.cutTo < 0 || sh.cutTo > len(body) || sh.cutFrom > sh.cutTo {
			t.Fatalf("cut %+v of %d bytes", sh, len(body))
		} else if sh.cutTo > 0 && json.Valid(body) {
			cut := append(bytes.Clone(body[:sh.cutFrom]), body[sh.cutTo:]...)
			if !json.Valid(cut) {
				t.Fatalf("%q cut to %q", body, cut)
			}
		}
		// What was read once is not changed by reading it again, but for what is counted.
		again := whole
		again.ReadBody(k, body)
		if again.Input != whole.Input || again.GatewayUSD != whole.GatewayUSD || again.ID != whole.ID {
			t.Fatalf("read twice: %+v, then %+v", whole, again)
		}
		// A cut-off body must not be taken for a whole one.
		if json.Valid(body) && len(body) > 0 && (k == Chat || k == Responses) {
			trimmed := bytes.TrimRight(body, " \t\r\n")
			var half Reading
			half.ReadBody(k, trimmed[:len(trimmed)-1])
			if half.Complete {
				t.Fatalf("%q without its end is taken for complete", body)
			}
		}
		if k == Chat {
			checkAgainstSlow(t, body, &whole)
		}
		_, _ = AudioDuration(body)
	})
}

// checkAgainstSlow holds what was read of a chat answer to a reader built on encoding/json. It leaves out what the two
// may read differently: keys that stand twice and escaped text.
func checkAgainstSlow(t *testing.T, body []byte, got *Reading) {
	t.Helper()
	if !json.Valid(body) || !utf8.Valid(body) || bytes.ContainsRune(body, '\\') || slowDepth(body) > maxDepth {
		return
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var m map[string]any
	if dec.Decode(&m) != nil || m == nil || keysTwice(body) {
		return
	}
	var want Reading
	name := func(v any) string {
		if s, _ := v.(string); soundName(s) {
			return s
		}
		return ""
	}
	want.ID, want.Model = name(m["id"]), name(m["model"])
	choices, _ := m["choices"].([]any)
	for _, c := range choices {
		c, _ := c.(map[string]any)
		n := slowText(c["text"])
		for _, key := range []string{"delta", "message"} {
			d, is := c[key].(map[string]any)
			if _, both := c["text"]; both || is && c["delta"] != nil && c["message"] != nil {
				return // the later one counts, and a map has no order
			}
			for _, k := range []string{"content", "refusal", "tool_calls", "function_call", "audio"} {
				n += slowText(d[k])
			}
			n += max(slowText(d["reasoning"]), slowText(d["reasoning_content"]))
			if d["provider_metadata"] != nil || d["providerMetadata"] != nil {
				return
			}
		}
		if n > 0 {
			want.Deltas, want.TextBytes = want.Deltas+1, want.TextBytes+n
		}
		if s := name(c["finish_reason"]); s != "" {
			want.FinishReason = s
		}
	}
	if m["provider_metadata"] != nil || m["providerMetadata"] != nil {
		return
	}
	if got.ID != want.ID || got.Model != want.Model || got.FinishReason != want.FinishReason || got.Deltas != want.Deltas || got.TextBytes != want.TextBytes {
		t.Fatalf("%q\n got %+v\nwant %+v", body, *got, want)
	}
	u, _ := m["usage"].(map[string]any)
	if in := slowCount(u["prompt_tokens"]); in >= 0 && u["input_tokens"] == nil && u["prompt_tokens_details"] == nil && u["input_tokens_details"] == nil &&
		u["input_token_details"] == nil && u["cache_creation_input_tokens"] == nil && u["cache_read_input_tokens"] == nil &&
		u["prompt_cache_hit_tokens"] == nil && got.Input != in {
		t.Fatalf("%q: input %d, want %d", body, got.Input, in)
	}
}

func slowCount(v any) int64 {
	n, _ := v.(json.Number)
	i, err := n.Int64()
	if err != nil || i < 0 {
		return -1
	}
	return min(i, maxCount)
}

func slowText(v any) (n int64) {
	switch v := v.(type) {
	case string:
		return int64(len(v))
	case []any:
		for _, e := range v {
			if _, is := e.(string); !is {
				n += slowText(e)
			}
		}
	case map[string]any:
		for key, e := range v {
			if _, is := e.(string); !is || isTextKey([]byte(key)) {
				n += slowText(e)
			}
		}
	}
	return n
}

// keysTwice says that some object in body has a key twice.
func keysTwice(body []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	_ = dec.Decode(&v)
	out, _ := json.Marshal(v)
	var compact bytes.Buffer
	_ = json.Compact(&compact, body)
	var again bytes.Buffer
	enc := json.NewEncoder(&again)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return len(out) == 0 || again.Len()-1 != compact.Len()
}
