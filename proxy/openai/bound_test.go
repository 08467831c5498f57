package openai

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func parsed(t testing.TB, body string) *Request {
	t.Helper()
	r := &Request{}
	if err := Parse([]byte(body), r); err != nil {
		t.Fatalf("%v: %.200s", err, body)
	}
	return r
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// shapes put a text into a request, with the tokens that a template adds around it at most.
var shapes = []struct {
	name string
	kind Kind
	body func(text string) string
	more int64
}{
	{"message", Chat, func(s string) string { return `{"messages":[{"role":"user","content":` + s + `}]}` }, 20},
	{"parts", Chat, func(s string) string {
		return `{"messages":[{"role":"user","content":[` + strings.TrimSuffix(strings.Repeat(`{"type":"text","text":`+s+`},`, 3), ",") + `]}]}`
	}, 20},
	{"description", Chat, func(s string) string {
		return `{"messages":[],"tools":[{"type":"function","function":{"name":"f","description":` + s + `}}]}`
	}, 400},
	{"arguments", Chat, func(s string) string {
		return `{"messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":` + s + `}}]}]}`
	}, 20},
	{"schema", Chat, func(s string) string {
		return `{"messages":[],"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{` + s + `:{"type":"string"}}}}}}`
	}, 100},
	{"prompt", Completions, func(s string) string { return `{"prompt":` + s + `}` }, 2},
	{"input", Responses, func(s string) string { return `{"input":` + s + `,"instructions":` + s + `}` }, 20},
	{"items", Responses, func(s string) string {
		return `{"input":[{"role":"user","content":[{"type":"input_text","text":` + s + `}]}]}`
	}, 20},
	{"embedding", Embeddings, func(s string) string { return `{"input":[` + s + `,` + s + `]}` }, 4},
}

// TestBoundCoversTokens holds the bound against what real vocabularies make of texts of many kinds, however they are
// written and wherever they stand.
func TestBoundCoversTokens(t *testing.T) {
	for _, c := range countedTexts(t) {
		tokens := max(c.CL100K, c.O200K)
		for _, s := range shapes {
			times := int64(1)
			switch s.name {
			case "parts":
				times = 3
			case "input", "embedding":
				times = 2
			}
			for _, text := range []string{quoted(c.Text), onlyASCII(quoted(c.Text))} {
				r := parsed(t, s.body(text))
				least := times*tokens + s.more
				b := r.Worst(s.kind, &Limits{Provider: "openai", MaxOutput: 100})
				if b.Open != 0 || b.Input < least {
					t.Errorf("%s as %s: at most %d, open %d, but it has %d", c.Name, s.name, b.Input, b.Open, least)
				}
				if b.Input > int64(len(r.Body))*3+2000 {
					t.Errorf("%s as %s: %d for %d bytes", c.Name, s.name, b.Input, len(r.Body))
				}
				if c.Name == "words" || c.Name == "zalgo" {
					continue // which the count does not promise
				}
				if b = r.Worst(s.kind, &Limits{Provider: "openai", Counted: true, MaxOutput: 100}); b.Input < least {
					t.Errorf("%s as %s: counted %d, but it has %d", c.Name, s.name, b.Input, least)
				}
			}
		}
	}
}

func TestCountText(t *testing.T) {
	for _, c := range countedTexts(t) {
		got, want := withMargin(countText([]byte(c.Text)))-64, max(c.CL100K, c.O200K)
		switch c.Name {
		case "words", "zalgo":
			continue
		case "portugues", "english", "go", "json", "chinese", "capitals":
			if got > want*17/10 {
				t.Errorf("%s: %d counted for %d", c.Name, got, want)
			}
		}
		if got < want {
			t.Errorf("%s: %d counted for %d", c.Name, got, want)
		}
	}
}

// TestCountedIsTighter holds what the count is for.
func TestCountedIsTighter(t *testing.T) {
	r := parsed(t, history(7, 16<<10))
	bytes, counted := r.Worst(Chat, &Limits{Provider: "openai"}).Input, r.Worst(Chat, &Limits{Provider: "openai", Counted: true}).Input
	if counted*2 > bytes {
		t.Errorf("%d counted, %d by bytes", counted, bytes)
	}
}

// A schema is written anew by some templates, each bracket on a line of its own.
func TestBoundCoversIndentation(t *testing.T) {
	tools := `[{"type":"function","function":{"name":"f","parameters":{"enum":[[1],[2],[3],[4],[5],[6],[7],[8],[9],[[[[1]]]]]}}}]`
	var v any
	if err := json.Unmarshal([]byte(tools), &v); err != nil {
		t.Fatal(err)
	}
	indented, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	// A line end, its indentation and what stands there are three tokens at least; count each mark for itself.
	least := int64(0)
	for _, line := range strings.Split(string(indented), "\n") {
		least += 2 + int64(len(strings.TrimSpace(line)))
	}
	r := parsed(t, `{"messages":[],"tools":`+tools+`}`)
	empty := parsed(t, `{"messages":[],"tools":[]}`)
	if got := r.Worst(Chat, &Limits{}).Input - empty.Worst(Chat, &Limits{}).Input - toolsTokens - toolTokens; got < least {
		t.Errorf("%d for tools that may become %d tokens", got, least)
	}
}

// soundOf is a WAV file of 16-bit samples in base64; told is what its header says that a second has.
func soundOf(bytes int, perSecond, told uint32) string {
	return base64.StdEncoding.EncodeToString([]byte("RIFF\x00\x00\x00\x00WAVEfmt " + le32(16) + "\x01\x00\x01\x00" + le32(perSecond/2) + le32(told) + "\x02\x00\x10\x00" +
		"data\x00\x00\x00\x00" + strings.Repeat("\x00", bytes)))
}

func TestBoundMedia(t *testing.T) {
	data := "data:image/png;base64," + strings.Repeat("iVBORw0KGgoAAAAN", 4096)
	picture := func(more string) string {
		return `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + data + `"` + more + `}}]}]}`
	}
	const openAI4o, mini, newest, claude, llama, unknown = "openai/gpt-4o", "openai/gpt-4o-mini", "openai/gpt-6-luna", "anthropic/claude-opus-5", "groq", "sim/x"
	for _, c := range []struct {
		model, body string
		media       int64 // what comes on top of the text
	}{
		{openAI4o, picture(``), 1445},
		{openAI4o, picture(`,"detail":"high"`), 1445},
		{openAI4o, picture(`,"detail":"low"`), 85},
		{openAI4o, picture(`,"detail":"low","detail":"high"`), 85 + 1445}, // the last would do, and both are held for
		{openAI4o, picture(`,"detail":"l\u006fw"`), 1445},
		{mini, picture(``), 48169},
		{mini, picture(`,"detail":"low"`), 2833},
		{newest, picture(``), 24600},
		{newest, picture(`,"detail":"high"`), 6150},
		{"openai/gpt-5-nano", picture(``), 3779},
		{"openai/gpt-5.4-mini", picture(``), 24600},
		{claude, picture(``), 4784},
		{"google/gemini-3.8-flash", picture(``), 2240},
		{unknown, picture(``), 16384},
		// A detail that is not inside the picture changes nothing.
		{openAI4o, `{"messages":[{"role":"user","content":[{"type":"text","text":"a","detail":"low"},{"type":"image_url","image_url":{"url":"` + data + `"}},{"detail":"low"}]}]}`, 1445},
		{openAI4o, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"x":{},"detail":"low","url":"https://a/b.png"}}]}]}`, 1445},
		{openAI4o, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a/b.png"},"detail":"low"}]}]}`, 1445},
		// Without its type it may be a picture all the same.
		{openAI4o, `{"messages":[{"role":"user","content":[{"image_url":{"url":"https://a/b.png"}}]}]}`, 1445},
		{openAI4o, `{"input":[{"role":"user","content":[{"type":"input_image","image_url":"` + data + `","detail":"low"}]}]}`, 1445},
		{claude, `{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"` + data[22:] + `"}}]}]}`, 4784},
		// One second of sound, and one that does not say its rate.
		{openAI4o, `{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"` + soundOf(32000, 32000, 32000) + `","format":"wav"}}]}]}`, 11},
		{openAI4o, `{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"` + soundOf(32000, 32000, 1<<30) + `","format":"wav"}}]}]}`, 11},
		{"google/gemini-3.8-flash", `{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"` + soundOf(32000, 32000, 32000) + `","format":"wav"}}]}]}`, 33},
		{openAI4o, `{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"` + strings.Repeat("SUQz", 8000) + `","format":"mp3"}}]}]}`, 241},
	} {
		r := parsed(t, c.body)
		text := int64(len(c.body)) - r.load.inline + requestTokens
		if got := r.Worst(Chat, &Limits{Model: c.model}).Input - text; got != c.media || r.Hidden {
			t.Errorf("%s: %d for the media, want %d (hidden %v): %.150s … %s", c.model, got, c.media, r.Hidden, c.body, c.body[max(0, len(c.body)-60):])
		}
		if inline := strings.Contains(c.body, "base64") || strings.Contains(c.body, `"data"`); inline != (r.load.inline > 20000) {
			t.Errorf("%d bytes taken out of %d: %.150s", r.load.inline, len(c.body), c.body)
		}
	}
	r := parsed(t, picture(``))
	if got := r.Worst(Chat, &Limits{Model: llama, Provider: llama}).Input; got < 6400 {
		t.Errorf("Llama at Groq: %d", got)
	}
}

// Data that is a prompt all the same is not taken out.
func TestBoundKeepsText(t *testing.T) {
	long := strings.Repeat("QUJDREVGR0hJSktM", 1000)
	for _, body := range []string{
		`{"messages":[{"role":"assistant","content":"","reasoning_details":[{"type":"reasoning.encrypted","data":"` + long + `"}]}]}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"` + long + `"}]}]}`,
		`{"messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"image_url":{"url":"` + long + `"},"data":"` + long + `"}}}]}`,
		`{"prompt":"` + long + `"}`,
		`{"input":[{"type":"function_call_output","output":"` + long + `"},{"url":"` + long + `"}]}`,
	} {
		r := parsed(t, body)
		if got := r.Worst(Chat, &Limits{}).Input; got < int64(len(body)) || got > int64(len(body))+3000 {
			t.Errorf("%d for %d bytes: %.150s", got, len(body), body)
		}
	}
}

func TestBoundHidden(t *testing.T) {
	const part = `{"messages":[{"role":"user","content":[%s]}]}`
	for _, c := range []struct {
		body string
		open Open
	}{
		{`{"input":"a","previous_response_id":"resp_1"}`, 0},
		{`{"input":"a","conversation":"conv_1"}`, 0},
		{`{"input":"a","conversation":{"id":"conv_1"}}`, 0},
		{`{"prompt":{"id":"pmpt_1"}}`, 0},
		{`{"input":[{"type":"item_reference","id":"msg_1"}]}`, 0},
		{`{"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]}`, 0},
		{`{"input":[{"role":"user","content":[{"type":"input_image","file_id":"file-1"}]}]}`, 0},
		{`{"input":[{"role":"user","content":[{"type":"input_file","file_url":"https://a/b.pdf"}]}]}`, 0},
		{fmt.Sprintf(part, `{"type":"file","file":{"file_data":"data:application/pdf;base64,JVBERi0="}}`), 0},
		{fmt.Sprintf(part, `{"type":"video_url","video_url":{"url":"https://a/b.mp4"}}`), 0},
		{fmt.Sprintf(part, `{"type":"hologram","hologram":1}`), 0},
		{fmt.Sprintf(part, `{"type":"image\u005furl","x":1}`), 0},
		{fmt.Sprintf(part, `{"typ\u0065":"image_url","image\u005furl":{"url":"https://a/b.png"}}`), 0},
		{`{"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}`, 0},
		{`{"input":"a","tools":[{"type":"web_search"}]}`, OpenTools},
		{`{"input":"a","tools":[{"type":"function","name":"f"},{"type":"file_search","vector_store_ids":["v"]}]}`, OpenTools},
		{`{"input":"a","tools":[{"type":"function","type":"mcp"}]}`, OpenTools},
		{`{"input":"a","tools":[{"type":"co\u0064e_interpreter"}]}`, OpenTools},
		{`{"input":"a","tools":["web_search"]}`, OpenTools},
		{`{"messages":[],"web_search_options":{}}`, OpenTools},
		{`{"messages":[],"plugins":[{"id":"web"}]}`, OpenFields},
		{`{"messages":[],"Tools":[{"type":"web_search"}]}`, OpenFields},
	} {
		r := parsed(t, c.body)
		known, unknown := r.Worst(Responses, &Limits{Context: 128000, MaxOutput: 4096}), r.Worst(Responses, &Limits{MaxOutput: 4096})
		if known.Input != 128000 || known.Open != c.open {
			t.Errorf("window known: %+v, want open %d: %s", known, c.open, c.body)
		}
		if unknown.Input < 1<<20 || unknown.Open != c.open|OpenInput || !unknown.Open.Tokens() {
			t.Errorf("window unknown: %+v: %s", unknown, c.body)
		}
		if known.Open.Money() != (c.open != 0) || known.Open.Tokens() != (c.open == OpenTools) {
			t.Errorf("open %d says %v, %v", known.Open, known.Open.Tokens(), known.Open.Money())
		}
	}
	for _, body := range []string{
		string(typicalChat),
		`{"messages":[{"role":"tool","tool_call_id":"1","content":"a"}],"metadata":{"type":"x","file_id":"1"},"conversation":null}`,
		`{"messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"descri\u00e7\u00e3o":{"type":"string"},"file_id":{"type":"string"}}}}}]}`,
		`{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call","call_id":"1","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"1","output":"x"}]}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]}`,
	} {
		r := parsed(t, body)
		if b := r.Worst(Chat, &Limits{Context: 1 << 40, MaxOutput: 10}); r.Hidden || b.Open != 0 || b.Input > 4*int64(len(body))+2000 {
			t.Errorf("nothing is hidden here: %+v: %s", b, body)
		}
	}
}

func TestBoundOutput(t *testing.T) {
	for _, c := range []struct {
		kind   Kind
		body   string
		limits Limits
		want   int64
		open   Open
	}{
		{Chat, `{"max_tokens":100}`, Limits{Provider: "openai", MaxOutput: 4096}, 100, 0},
		{Chat, `{"max_tokens":100,"max_completion_tokens":200}`, Limits{Provider: "openai", MaxOutput: 4096}, 200, 0},
		{Chat, `{"max_tokens":9999}`, Limits{Provider: "openai", MaxOutput: 4096}, 4096, 0},
		{Chat, `{"max_tokens":100,"n":3}`, Limits{Provider: "openai"}, 300, 0},
		{Chat, `{"max_tokens":100,"n":3}`, Limits{Provider: "openai", Lowered: 50}, 150, 0},
		{Chat, `{}`, Limits{Provider: "openai", MaxOutput: 4096}, 4096, 0},
		{Chat, `{}`, Limits{Provider: "openai", MaxOutput: 4096, OutputCap: 500}, 500, 0},
		{Chat, `{"max_tokens":null}`, Limits{Provider: "openai", MaxOutput: 4096, OutputCap: 500}, 500, 0},
		{Chat, `{"max_tokens":0}`, Limits{Provider: "openai", MaxOutput: 4096}, 4096, 0},
		{Chat, `{"max_tokens":100}`, Limits{Provider: "openai", MaxOutput: 4096, OutputCap: 500}, 100, 0},
		{Chat, `{"max_output_tokens":100}`, Limits{Provider: "openai", MaxOutput: 4096}, 4096, 0},
		{Chat, `{}`, Limits{Context: 8192}, 8192, 0},
		{Chat, `{}`, Limits{}, muchOutput, OpenOutput},
		{Completions, `{"prompt":["a","b"],"max_tokens":10,"n":2,"best_of":4}`, Limits{}, 80, 0},
		{Completions, `{"prompt":[[1,2],[3]],"max_tokens":10}`, Limits{}, 20, 0},
		{Completions, `{"prompt":[1,2,3],"max_tokens":10}`, Limits{}, 10, 0},
		{Completions, `{"prompt":"a","max_tokens":0}`, Limits{}, 1, 0},
		{Responses, `{"max_output_tokens":70,"max_tokens":1}`, Limits{Provider: "openai"}, 70, 0},
		// Thinking that comes on top.
		{Chat, `{"max_tokens":100,"reasoning":{"max_tokens":2000}}`, Limits{Provider: "anthropic", MaxOutput: 4096}, 2100, 0},
		{Chat, `{"max_tokens":100,"reasoning":{"max_tokens":2000}}`, Limits{Provider: "openai", MaxOutput: 4096}, 100, 0},
		{Chat, `{"max_tokens":100,"reasoning_effort":"high"}`, Limits{Provider: "anthropic", MaxOutput: 4096}, 1124, 0},
		{Chat, `{"max_tokens":2000,"reasoning_effort":"high"}`, Limits{Provider: "anthropic", MaxOutput: 4096}, 4000, 0},
		{Chat, `{"max_tokens":100,"providerOptions":{"anthropic":{"thinking":{"budgetTokens":9000}}}}`, Limits{Provider: "anthropic", MaxOutput: 4096}, 4096, 0},
		{Chat, `{"max_tokens":100,"thinking":{"type":"enabled","budget_tokens":1e9}}`, Limits{Provider: "anthropic", MaxOutput: 4096}, 4096, 0},
		{Embeddings, `{"input":"a"}`, Limits{}, 0, 0},
		{Moderations, `{"input":"a"}`, Limits{}, 0, 0},
		{Opaque, `{"max_tokens":100}`, Limits{}, 0, 0},
		{Images, `{"prompt":"a","n":2}`, Limits{Model: "openai/gpt-image-1"}, 12480, 0},
		{Images, `{"prompt":"a","partial_images":3}`, Limits{Model: "openai/gpt-image-1"}, 6624, 0},
		{Speech, `{"input":"olá"}`, Limits{}, 1120, 0},
	} {
		b := parsed(t, c.body).Worst(c.kind, &c.limits)
		if b.Output != c.want || b.Open != c.open {
			t.Errorf("%s with %+v: %d, open %d; want %d, %d", c.body, c.limits, b.Output, b.Open, c.want, c.open)
		}
	}
	r := parsed(t, `{"max_tokens":100,"prediction":{"type":"content","content":"`+strings.Repeat("a", 500)+`"}}`)
	if got := r.Worst(Chat, &Limits{}).Output; got < 600 {
		t.Errorf("a prediction that is wrong is output too: %d", got)
	}
	r = parsed(t, `{"prompt":[`+strings.Repeat(`"",`, 1<<16)+`""],"n":128,"max_tokens":2147483647,"thinking":1e18}`)
	if got := r.Worst(Completions, &Limits{}).Output; got != maxCount {
		t.Errorf("%d, too much to count", got)
	}
	r = parsed(t, `{"input":"olá 😊","modalities":["text","audio"],"max_tokens":5}`)
	if b := r.Worst(Speech, &Limits{}); b.Characters != 5 || b.AudioOutput != b.Output {
		t.Errorf("speech: %+v", b)
	}
	if b := r.Worst(Chat, &Limits{}); b.AudioOutput != 5 {
		t.Errorf("spoken chat: %+v", b)
	}
	if b := parsed(t, `{"prompt":"a","n":3}`).Worst(Images, &Limits{}); b.Images != 3 {
		t.Errorf("pictures: %+v", b)
	}
}

func TestSendsLimit(t *testing.T) {
	for _, c := range []struct {
		m     Limits
		input int64
		most  int64
		want  bool
	}{
		{Limits{Context: 128_000, MaxOutput: 16_384}, 1000, 16_384, true},
		{Limits{Context: 128_000, MaxOutput: 16_384}, 120_000, 16_384, false},
		{Limits{Context: 128_000, MaxOutput: 16_384}, 120_000, 500, true},
		{Limits{Context: 128_000, MaxOutput: 128_000}, 300, 128_000, false},
		{Limits{Context: 128_000}, 300, 128_000, false},
		{Limits{MaxOutput: 4096}, 300, 4096, true},
	} {
		if got := c.m.SendsLimit(&Bound{Input: c.input}, c.most); got != c.want {
			t.Errorf("%+v, input %d, most %d: %v", c.m, c.input, c.most, got)
		}
	}
}

func TestBoundTranscription(t *testing.T) {
	form := func(file string) *Request {
		r := &Request{}
		body := "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n" + file + "\r\n--x--\r\n"
		if err := ParseMultipart([]byte(body), []byte("x"), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := form(wav(32000, 64000, 64000))
	if b := r.Worst(Transcriptions, &Limits{Provider: "openai"}); b.AudioMs != 2000 || b.AudioInput != 20 || b.Open != 0 || b.Output == 0 {
		t.Errorf("two seconds: %+v", b)
	}
	r = form(wav(192_000, 192_000, 192_000)) // 96000 samples of two bytes a second, as the rest of its head has it
	if b := r.Worst(Transcriptions, &Limits{}); b.AudioMs < 6000 || b.AudioMs > 6100 {
		t.Errorf("one second, or six: %+v", b)
	}
	hifi := strings.Replace(wav(192_000, 192_000, 192_000), le32(16000), le32(96000), 1)
	if b := form(hifi).Worst(Transcriptions, &Limits{}); b.AudioMs != 1000 {
		t.Errorf("one second: %+v", b)
	}
	r = form(strings.Repeat("?", 7500))
	if b := r.Worst(Transcriptions, &Limits{Provider: "openai"}); b.AudioMs != 10000 || b.Open != OpenAudio {
		t.Errorf("who knows: %+v", b)
	}
	// 100 packets of 20 ms, whose last page says that they play for half a second.
	pages := oggPage(0, "OpusHead\x01\x01\x00\x00"+le32(48000)+"\x00\x00\x00") + oggPage(0, "OpusTags........")
	for i := range 100 {
		pages += oggPage(24000*uint64(i/99), "\x08"+strings.Repeat("s", 40)) // SILK, 20 ms, one frame
	}
	r = form(pages)
	if b := r.Worst(Transcriptions, &Limits{}); b.AudioMs != 2000 || b.Open != 0 {
		t.Errorf("Opus: %+v", b)
	}
	// A header that says it plays for a moment does not make a megabyte short.
	r = form(wav(4<<20, 4<<20, 4<<20))
	if b := r.Worst(Transcriptions, &Limits{}); b.AudioMs < 5000 {
		t.Errorf("a lie: %+v", b)
	}
}

func TestPricedFields(t *testing.T) {
	show := func(r *Request) string {
		s := ""
		for _, f := range []struct {
			on   bool
			name string
		}{
			{r.ServiceTier != "", "tier=" + r.ServiceTier},
			{r.DearTier(), "dear"},
			{r.WebSearch, "search"},
			{r.HostedTools, "hosted"},
			{r.Background, "background"},
			{r.LongCache, "long"},
			{r.AudioOut, "audio"},
			{r.ImageOut, "image"},
			{r.WantsJSON, "json"},
			{r.Options, "options"},
			{r.Routed, "routed"},
			{r.Hidden, "hidden"},
		} {
			if f.on {
				s += " " + f.name
			}
		}
		return strings.TrimPrefix(s, " ")
	}
	for body, want := range map[string]string{
		`{"service_tier":"priority"}`:      "tier=priority dear",
		`{"service_tier":"flex"}`:          "tier=flex",
		`{"service_tier":null}`:            "",
		`{"service_tier":"pri\u006frity"}`: "tier=unknown dear",
		`{"service_tier":"auto","providerOptions":{"gateway":{"serviceTier":"priority"}}}`: "tier=priority dear",
		`{"providerOptions":{"gateway":{"serviceTier":"priority"}},"service_tier":"flex"}`: "tier=priority dear",
		`{"providerOptions":{"openai":{"x":1}}}`:                                           "options",
		`{"providerOptions":{"gateway":{"only":["azure"]}}}`:                               "routed",
		`{"background":true}`:                                              "background",
		`{"background":"transparent"}`:                                     "",
		`{"modalities":["text","audio"]}`:                                  "audio",
		`{"modalities":["text","im\u0061ge"]}`:                             "audio image",
		`{"prompt_cache_retention":"24h"}`:                                 "long",
		`{"prompt_cache_retention":"in_memory"}`:                           "",
		`{"messages":[{"cache_control":{"type":"ephemeral","ttl":"1h"}}]}`: "long",
		`{"messages":[{"cache_control":{"type":"ephemeral","ttl":"5m"}}]}`: "",
		`{"response_format":{"type":"json_object"}}`:                       "json",
		`{"text":{"format":{"type":"json_schema","schema":{}}}}`:           "json",
		`{"response_format":{"type":"text"}}`:                              "",
		`{"tools":[{"type":"web_search_preview"}]}`:                        "search hosted",
		`{"tools":[{"type":"computer_use_preview"}]}`:                      "hosted",
		`{"tools":[],"web_search_options":null}`:                           "",
	} {
		if got := show(parsed(t, body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestWorstAllocatesNothing(t *testing.T) {
	bodies := [][]byte{typicalChat, imageChat(1 << 10), []byte(`{"prompt":["a"],"tools":[{"type":"function"}],"reasoning":{"effort":"low"},"modalities":["text"],"service_tier":"auto","max_tokens":9}`)}
	var r Request
	var edits []Edit
	m := Limits{Model: "anthropic/claude-haiku-5-5", Context: 200_000, MaxOutput: 64_000}
	run := func() {
		for _, b := range bodies {
			if err := Parse(b, &r); err != nil {
				t.Fatal(err)
			}
			for _, k := range []Kind{Chat, Completions, Responses} {
				m.Counted = !m.Counted
				w := r.Worst(k, &m)
				edits = r.LimitOutput(k, OutputField(k, "anthropic", true), r.FitOutput(k, &m, w.Output/2), edits[:0])
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
