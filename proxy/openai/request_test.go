package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"strings"
	"testing"
)

// parseSeeds are bodies that each try one corner of the reader; FuzzParse starts from them and TestParseSeeds holds
// the reader to encoding/json on them.
var parseSeeds = []string{
	string(typicalChat),
	``, ` `, `{}`, ` { } `, `{`, `}`, `[]`, `null`, `"x"`, `1`, `{} {}`, `{},`, "\xef\xbb\xbf{}",
	`{"model":"a"`, `{"model":"a"}garbage`, `{"model":"a",}`, `{,}`, `{"a"}`, `{"a":}`, `{"a" "b"}`, `{"a":1 "b":2}`, `{a:1}`, `{'a':1}`,
	`{"model":"a","model":"b"}`, `{"model":"a","mod\u0065l":"b"}`, `{"MODEL":"a"}`, `{"Model":"a","model":"b"}`, "{\"\u212a\":1}",
	"{\"\u017ftream\":true}", `{"\u017ftream":true}`, `{"maX_tokens":1}`, `{"provideroptions":{}}`, `{"x":1,"x":2}`, `{"":1,"":2}`,
	`{"\ud800":1}`, `{"x":"\ud800"}`, `{"x":"\ud83d\ude00"}`, `{"x":"\ude00\ud83d"}`, `{"model":"\ud800"}`, `{"\ud83d\ude00":1,"😀":2}`,
	"{\"x\":\"\xff\"}", "{\"x\":\"\xc3\"}", "{\"x\":\"\xc0\xaf\"}", "{\"x\":\"\xed\xa0\x80\"}", "{\"x\":\"\xf4\x90\x80\x80\"}",
	"{\"x\":\"aaaaaaa\xc3\"}", "{\"x\":\"ééééééééééé\xc3\xa9\xa9\"}", "{\"x\":\"áéíóúâêôãõç áéíóúâêôãõç áéíóúâêôãõç 😀 – “ok”\"}",
	"{\"x\":\"a\nb\"}", "{\"x\":\"a\x00b\"}", "{\"x\":\"a\x7fb\"}", `{"x":"\a"}`, `{"x":"\u12"}`, `{"x":"\u123g"}`, `{"x":"\`, `{"x":"\"}`, `{"x":"`,
	`{"x":"\"\\\/\b\f\n\r\t\u00e9"}`, `{"x":tru}`, `{"x":nul}`, `{"x":falsey}`, `{"x":True}`, `{"x":NaN}`,
	`{"x":-}`, `{"x":-0}`, `{"x":01}`, `{"x":1.}`, `{"x":.5}`, `{"x":1e}`, `{"x":1e+}`, `{"x":1E-7}`, `{"x":1e400}`, `{"x":+1}`, `{"x":0x10}`,
	`{"x":[1,2,{"y":[]},{}]}`, `{"x":[1,]}`, `{"x":[,1]}`, `{"x":[1 2]}`, `{"x":[}`, `{"x":{]}`, `{"x":[[[[]]]}`,
	`{"max_tokens":1e3}`, `{"max_tokens":-5}`, `{"max_tokens":10.9}`, `{"max_tokens":"10"}`, `{"max_tokens":1e400}`, `{"max_tokens":2147483647}`,
	`{"max_tokens":2147483648}`, `{"max_tokens":99999999999999999999}`, `{"max_tokens":null}`, `{"max_tokens":0}`, `{"max_tokens":00}`, `{"max_tokens":-0}`,
	`{"max_tokens":7,"max_completion_tokens":9,"max_output_tokens":8}`, `{"max_tokens":[1]}`, `{"max_tokens":nullx}`,
	`{"n":0}`, `{"n":1}`, `{"n":128}`, `{"n":129}`, `{"n":2,"best_of":5}`, `{"n":null}`, `{"n":true}`,
	`{"stream":null}`, `{"stream":true}`, `{"stream":"true"}`, `{"stream":1}`, `{"stream":truex}`,
	`{"model":""}`, `{"model":null}`, `{"model":5}`, `{"model":["a"]}`, `{"model":"a\u0000b"}`, `{"model":"a\nb"}`, `{"model":"a\u0085b"}`, `{"model":"gpt\/4"}`,
	`{"model":"` + strings.Repeat("m", 256) + `"}`, `{"model":"` + strings.Repeat("m", 257) + `"}`,
	`{"model":"m","stream_options":null}`, `{"model":"m","stream_options":{}}`, `{"model":"m","stream_options":{ }}`, `{"model":"m","stream_options":{"include_usage":false}}`,
	`{"stream_options":{"include_usage":true},"model":"m"}`, `{"stream_options":{"include_obfuscation":false,"include_usage":null},"model":"m"}`,
	`{"stream_options":{"x":{"include_usage":1}},"model":"m"}`, `{"stream_options":{"include_usage":"true"}}`, `{"stream_options":[]}`, `{"stream_options":true}`,
	`{"stream_options":{"include_usage":true,"include_usage":false}}`, `{"stream_options":{"INCLUDE_USAGE":true}}`, ` { "stream_options" : { "a" : 1 } , "z" : 2 } `,
	`{"models":["a","b"]}`, `{"models":[]}`, `{"models":null}`, `{"models":"a"}`, `{"models":[1]}`, `{"models":["a" "b"]}`, `{"models":["a",]}`, `{"models":["a"`,
	`{"models":[` + strings.TrimSuffix(strings.Repeat(`"m",`, 17), ",") + `]}`,
	`{"providerOptions":{"gateway":{"models":["x/y"],"order":["openai"]}}}`, `{"providerOptions":{"gateway":{"models":["x"],"models":["y"]}}}`,
	`{"providerOptions":{"gateway":{},"gateway":{}}}`, `{"providerOptions":{"Gateway":{}}}`, `{"providerOptions":null}`, `{"providerOptions":[1]}`, `{"providerOptions":{"gateway":[]}}`,
	`{"previous_response_id":"resp_1"}`, `{"previous_response_id":null}`, `{"previous_response_id":1}`, `{"previous_response_id":""}`,
	`{"input":"Olá, \u00e9 \ud83d\ude00 \ud83d 😀\n"}`, `{"input":["a","b"]}`, `{"input":"` + strings.Repeat("é", 50) + `"}`, `{"input":""}`,
	nested(63), nested(64), strings.Repeat("[", 100), `{"a":` + strings.Repeat("[", 100000),
	`{"x":` + strings.Repeat("9", 1024) + `}`, `{"x":` + strings.Repeat("9", 1025) + `}`,
	manyKeys(31), manyKeys(33), manyKeys(40) + " ", manyKeys(1000), manyKeys(1001), strings.Replace(manyKeys(50), `"k49"`, `"k\u0030"`, 1),
}

// nested is an object with so many levels below it.
func nested(levels int) string {
	return `{"a":` + strings.Repeat(`[{"b":`, levels/2) + strings.Repeat("[", levels%2) + strings.Repeat("]", levels%2) + strings.TrimSuffix(strings.Repeat("1", 1-levels%2)+strings.Repeat(`}]`, levels/2), "") + `}`
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":%d`, i, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestParseSeeds(t *testing.T) {
	for _, s := range parseSeeds {
		checkParse(t, []byte(s))
	}
}

// TestParseMutations holds the reader to encoding/json on bodies that are nearly right.
func TestParseMutations(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, seed))
	const alphabet = "{}[]\",:\\u0e1-.n tfé\xc3\x00"
	rounds := 100_000
	if testing.Short() {
		rounds = 5_000
	}
	for range rounds {
		body := []byte(parseSeeds[rnd.IntN(len(parseSeeds))])
		if len(body) == 0 || len(body) > 2000 {
			continue
		}
		for range 1 + rnd.IntN(3) {
			at := rnd.IntN(len(body))
			switch rnd.IntN(3) {
			case 0:
				body[at] = alphabet[rnd.IntN(len(alphabet))]
			case 1:
				body = append(body[:at], body[at+1:]...)
			default:
				body = append(body[:at], append([]byte{alphabet[rnd.IntN(len(alphabet))]}, body[at:]...)...)
			}
			if len(body) == 0 {
				break
			}
		}
		checkParse(t, body)
	}
}

// TestParseUTF8 tries every text of a few bytes from the classes that UTF-8 distinguishes, at every offset of a word.
func TestParseUTF8(t *testing.T) {
	classes := []string{"a", "\x80", "\xbf", "\xc1", "\xc3", "\xdf", "\xe0\xa0", "\xe0\x80", "\xed\xa0", "\xe2\x82", "\xf0\x90", "\xf4\x90", "\xf5", "é", "€", "😀", `\n`}
	for _, a := range classes {
		for _, b := range classes {
			for _, c := range classes {
				for pad := range 9 {
					body := `{"x":"` + strings.Repeat("é", pad/2) + strings.Repeat("a", pad) + a + b + c + "aaaaaaaaaaaaaaaaa\"}"
					var r Request
					if got, want := Parse([]byte(body), &r) == nil, slowParse([]byte(body)).ok; got != want {
						t.Fatalf("Parse(%q): accepted %v, want %v", body, got, want)
					}
				}
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	f := func(body, param, message string) {
		t.Helper()
		var r Request
		err, _ := Parse([]byte(body), &r).(*Error)
		if err == nil || err.Param != param || !strings.Contains(err.Message, message) {
			t.Errorf("Parse(%.80q) = %+v, want param %q and a message with %q", body, err, param, message)
		}
	}
	f(``, "", "empty")
	f(" \n", "", "empty")
	f("\xef\xbb\xbf{}", "", "byte order mark")
	f(`[]`, "", "must be a JSON object")
	f(`{"model":"a","model":"b"}`, "model", "twice")
	f(`{"model":"a","mod\u0065l":"b"}`, "model", "twice")
	f(`{"Stream":true}`, "Stream", `write "stream"`)
	f(`{"stream_options":{"include_usage":1}}`, "stream_options.include_usage", "true or false")
	f(`{"stream_options":{"a":1,"a":2}}`, "a", "twice")
	f(`{"max_tokens":10.9}`, "max_tokens", "integer from 0 to 2147483647")
	f(`{"max_tokens":1e3}`, "max_tokens", "digits only")
	f(`{"max_completion_tokens":-1}`, "max_completion_tokens", "integer")
	f(`{"n":1000}`, "n", "1 to 128")
	f(`{"messages":[{"content":"a`+"\n"+`"}]}`, "messages", "control character")
	f(`{"messages":[{"content":"`+"\xff"+`"}]}`, "messages", "UTF-8")
	f(`{"messages":[{"content":"\x"}]}`, "messages", "escape")
	f(`{"messages":[`, "messages", "ends")
	f(`{"messages":`+strings.Repeat("[", 1<<20), "messages", "deeper than 64")
	f(`{"model":7}`, "model", "must be a string")
	f(`{"model":tru`, "model", "not valid JSON")
	f(`{"model":""}`, "model", "empty")
	f(`{"model":"a\u0007"}`, "model", "control")
	f(`{"models":["a",7]}`, "models", "must be a string")
	f(`{"providerOptions":{"gateway":{"models":7}}}`, "providerOptions.gateway.models", "array of model names")
	f(`{"x":`+strings.Repeat("1", 2000)+`}`, "x", "more than 1024")
	f(manyKeys(1001), "", "more than 1000 keys")
	f(`{} x`, "", "nothing may follow")
	f(`{"secret prompt":1,"messages":[{"content":"secret prompt" "x"}]}`, "messages", "expected a comma")
}

// TestParseQuotesNothing makes sure that an error never repeats a value: it may be a prompt or a key.
func TestParseQuotesNothing(t *testing.T) {
	for _, body := range []string{`{"messages":"SECRET`, `{"model":["SECRET"]}`, `{"max_tokens":"SECRET"}`, `{"x":SECRET}`, `SECRET`, `{"stream":"SECRET"}`} {
		var r Request
		if err := Parse([]byte(body), &r); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("Parse(%q) = %v", body, err)
		}
	}
}

func TestParseFields(t *testing.T) {
	var r Request
	body := `{"models":["b","c"],"providerOptions":{"gateway":{"models":["d"]}},"model":"a\u00e9","n":3,"previous_response_id":"resp_1","input":"não","stream":true,"stream_options":{"include_usage":true}}`
	if err := Parse([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(r.Model, r.HasModel, r.Stream, r.WantsUsage, r.MaxOutput, r.N, r.PreviousResponse, r.Fallbacks, r.InputChars)
	if want := "aé true true true -1 3 resp_1 [b c d] 3\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := Parse([]byte(`{}`), &r); err != nil || r.Model != "" || r.HasModel || r.Stream || len(r.Fallbacks) > 0 || r.N != 1 {
		t.Errorf("a second parse kept something: %+v, %v", r, err)
	}
}

func TestOutputLimit(t *testing.T) {
	f := func(body string, k Kind, want int64) {
		t.Helper()
		var r Request
		if err := Parse([]byte(body), &r); err != nil || r.OutputLimit(k) != want {
			t.Errorf("OutputLimit(%s, %d) = %d, %v; want %d", body, k, r.OutputLimit(k), err, want)
		}
	}
	f(`{}`, Chat, -1)
	f(`{"max_tokens":5}`, Chat, 5)
	f(`{"max_tokens":5,"max_completion_tokens":3}`, Chat, 5)
	f(`{"max_output_tokens":5}`, Chat, -1) // an upstream ignores another endpoint's name
	f(`{"max_output_tokens":5}`, Responses, 5)
	f(`{"max_tokens":5}`, Responses, -1)
	f(`{"max_completion_tokens":5}`, Completions, -1)
	f(`{"max_tokens":0}`, Completions, 0)
	f(`{"max_tokens":5}`, Embeddings, -1)
	f(`{"max_tokens":null}`, Chat, -1)
	if n := new(Request).OutputLimit(Chat); n != -1 {
		t.Errorf("OutputLimit of no request = %d", n)
	}
}

func TestTextBytes(t *testing.T) {
	image := strings.Repeat("iVBORw0KGgo/+", 100)
	f := func(part string, text, media int) {
		t.Helper()
		body := `{"model":"m","messages":[{"role":"user","content":[` + part + `]}]}`
		var r Request
		if err := Parse([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		text += len("user")
		if r.TextBytes != int64(text) || r.Media != int64(media) {
			t.Errorf("%.60s: text %d, media %d; want %d, %d", part, r.TextBytes, r.Media, text, media)
		}
	}
	data, long := "data:image/png;base64,"+image, strings.Repeat("um texto ", 20)
	f(`{"type":"text","text":"oi"}`, len("text"+"oi"), 0)
	f(`{"type":"image_url","image_url":{"url":"`+data+`"}}`, len("image_url"), 1)
	f(`{"type":"input_image","image_url":"`+data+`"}`, len("input_image"), 1)
	f(`{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}`, len("image_url"+"https://example.com/a.png"), 1)
	f(`{"type":"input_audio","input_audio":{"data":"`+image+`","format":"wav"}}`, len("input_audio"+"wav"), 1)
	f(`{"type":"file","file":{"file_data":"data:application/pdf;base64,`+strings.ReplaceAll(image, "/", `\/`)+`"}}`, len("file"), 1)
	f(`{"type":"text","text":"`+data+`"}`, len("text")+len(data), 0) // text is text, whatever it looks like
	f(`{"type":"text","data":"`+long+`"}`, len("text")+len(long), 0)
	f(`{"url":"data:text/plain,`+long+`"}`, len("data:text/plain,")+len(long), 0)
	f(`{"url":["x",{"data":"y"},"`+data+`"]}`, len("x"+"y")+len(data), 0)
	f(`{"tokens":[1,22,333],"seed":7}`, 3*bytesPerToken, 0)
	f(`{"texts":"ol\u00e1"}`, len(`ol\u00e1`), 0)
}

func TestInputTextBytes(t *testing.T) {
	for body, want := range map[string]int64{
		`{"model":"m","input":"bom dia"}`:              7,
		`{"model":"m","input":["bom","dia"]}`:          6,
		`{"model":"m","prompt":"bom dia","n":2}`:       7,
		`{"model":"m","input":[[1,2],[3]]}`:            12,
		`{"model":"m","instructions":"a","input":"b"}`: 2,
	} {
		var r Request
		if err := Parse([]byte(body), &r); err != nil || r.TextBytes != want {
			t.Errorf("%s: %d text bytes, %v; want %d", body, r.TextBytes, err, want)
		}
	}
}

func TestAimAt(t *testing.T) {
	f := func(body, model string, usage bool, want string) {
		t.Helper()
		var r Request
		if err := Parse([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		edits := r.AimAt(model, usage, nil)
		if got := string(AppendEdited(nil, r.Body, edits)); got != want {
			t.Errorf("AimAt(%s, %q, %v)\n got %s\nwant %s", body, model, usage, got, want)
		}
		for i := 1; i < len(edits); i++ {
			if edits[i].From < edits[i-1].To {
				t.Errorf("AimAt(%s): edits are not ascending: %v", body, edits)
			}
		}
	}
	f(`{"model":"a"}`, "a", false, `{"model":"a"}`)
	f(`{"model":"\u0061"}`, "a", false, `{"model":"\u0061"}`)
	f(`{"model":"a"}`, "b/c", false, `{"model":"b/c"}`)
	f(`{ "model" : "a" , "x" : 1.0 }`, "b", false, `{ "model" : "b" , "x" : 1.0 }`)
	f(`{}`, "b", false, `{"model":"b"}`)
	f(`{ }`, "b", true, `{"model":"b","stream_options":{"include_usage":true} }`)
	f(`{"x":1}`, "b", false, `{"model":"b","x":1}`)
	f(`{"x":1}`, "b", true, `{"model":"b","stream_options":{"include_usage":true},"x":1}`)
	f(`{"model":"a"}`, "a", true, `{"stream_options":{"include_usage":true},"model":"a"}`)
	f(`{"stream_options":null,"model":"a"}`, "a", true, `{"stream_options":{"include_usage":true},"model":"a"}`)
	f(`{"stream_options":{},"model":"a"}`, "b", true, `{"stream_options":{"include_usage":true},"model":"b"}`)
	f(`{"model":"a","stream_options":{"include_obfuscation":false}}`, "b", true, `{"model":"b","stream_options":{"include_usage":true,"include_obfuscation":false}}`)
	f(`{"model":"a","stream_options":{"include_usage":false,"x":1}}`, "a", true, `{"model":"a","stream_options":{"include_usage":true,"x":1}}`)
	f(`{"model":"a","stream_options":{"include_usage":null}}`, "a", true, `{"model":"a","stream_options":{"include_usage":true}}`)
	f(`{"model":"a","stream_options":{"include_usage":true}}`, "a", true, `{"model":"a","stream_options":{"include_usage":true}}`)
	f(`{"model":"a","stream_options":{"include_usage":false}}`, "a", false, `{"model":"a","stream_options":{"include_usage":false}}`)
}

// TestAimAtTwice is a fallback: the same request aimed at one model, then at another.
func TestAimAtTwice(t *testing.T) {
	var r Request
	body := []byte(`{"model":"a","messages":[]}`)
	if err := Parse(body, &r); err != nil {
		t.Fatal(err)
	}
	first := r.AimAt("one", true, nil)
	second := r.AimAt("another/model", true, nil)
	if got, want := string(AppendEdited(nil, body, first)), `{"stream_options":{"include_usage":true},"model":"one","messages":[]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(AppendEdited(nil, body, second)), `{"stream_options":{"include_usage":true},"model":"another/model","messages":[]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	var r Request
	edits := make([]Edit, 0, 4)
	out := make([]byte, 0, 4096)
	n := testing.AllocsPerRun(100, func() {
		if Parse(typicalChat, &r) != nil {
			t.Fatal("refused")
		}
		edits = r.AimAt("another", true, edits[:0])
		out = AppendEdited(out[:0], typicalChat, edits)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// checkMultipart holds an accepted form to mime/multipart.
func checkMultipart(t *testing.T, body []byte, boundary string, r *Request) {
	t.Helper()
	fields, file := slowForm(t, body, boundary)
	stream := strings.EqualFold(fields["stream"], "true")
	if r.Model != fields["model"] || r.Stream != stream || r.ResponseFormat != fields["response_format"] || !bytes.Equal(r.File(), file) {
		t.Fatalf("ParseMultipart(%q) = model %q, stream %v, format %q, file %q; want %q, %q", body, r.Model, r.Stream, r.ResponseFormat, r.File(), fields, file)
	}
	for _, model := range []string{"x/y", r.Model} {
		if model == "" {
			continue
		}
		out := AppendEdited(nil, body, r.AimAt(model, true, nil))
		after, fileAfter := slowForm(t, out, boundary)
		fields["model"] = model
		if fmt.Sprint(after) != fmt.Sprint(fields) || !bytes.Equal(file, fileAfter) {
			t.Fatalf("AimAt(%q) made %q", body, out)
		}
	}
}

func slowForm(t *testing.T, body []byte, boundary string) (fields map[string]string, file []byte) {
	t.Helper()
	fields = map[string]string{}
	for r := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return fields, file
		}
		if err != nil {
			t.Fatalf("mime/multipart refuses %q: %v", body, err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatalf("mime/multipart refuses %q: %v", body, err)
		}
		if p.FormName() == "file" {
			file = text
		} else {
			fields[p.FormName()] = string(text)
		}
	}
}

func TestParseMultipart(t *testing.T) {
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	fw, _ := w.CreateFormFile("file", `voz "1".ogg`)
	audio := bytes.Repeat([]byte("OggS\x00\r\n--\r\n\xff"), 1000)
	_, _ = fw.Write(audio)
	_ = w.WriteField("model", "openai/whisper-1")
	_ = w.WriteField("response_format", "verbose_json")
	_ = w.WriteField("timestamp_granularities[]", "word")
	_ = w.WriteField("timestamp_granularities[]", "segment")
	_ = w.WriteField("prompt", "Olá")
	_ = w.WriteField("stream", "true")
	_ = w.Close()
	var r Request
	if err := ParseMultipart(form.Bytes(), []byte(w.Boundary()), &r); err != nil {
		t.Fatal(err)
	}
	if r.Model != "openai/whisper-1" || !r.Stream || r.ResponseFormat != "verbose_json" || !bytes.Equal(r.File(), audio) {
		t.Errorf("got %+v", r)
	}
	if want := int64(form.Len() - len(audio)); r.TextBytes != want {
		t.Errorf("TextBytes %d, want %d", r.TextBytes, want)
	}
	checkMultipart(t, form.Bytes(), w.Boundary(), &r)
}

// TestAimMultipartWithoutModel: a tenant's default model is put in as the first part.
func TestAimMultipartWithoutModel(t *testing.T) {
	for _, body := range []string{
		"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nOggS\r\n--b--\r\n",
		"--b--\r\n",
	} {
		var r Request
		if err := ParseMultipart([]byte(body), []byte("b"), &r); err != nil || r.HasModel {
			t.Fatal(err, r.HasModel)
		}
		checkMultipart(t, []byte(body), "b", &r)
	}
}

func TestParseMultipartRefuses(t *testing.T) {
	f := func(body, param, message string) {
		t.Helper()
		body = strings.ReplaceAll(body, "\n", "\r\n")
		var r Request
		err, _ := ParseMultipart([]byte(body), []byte("b"), &r).(*Error)
		if message == "" {
			if err != nil || r.Model != "m" {
				t.Errorf("ParseMultipart(%q) = %v, model %q", body, err, r.Model)
			} else {
				checkMultipart(t, []byte(body), "b", &r)
			}
			return
		}
		if err == nil || err.Param != param || !strings.Contains(err.Message, message) {
			t.Errorf("ParseMultipart(%q) = %v, want param %q and %q", body, err, param, message)
		}
	}
	const model = "--b\nContent-Disposition: form-data; name=\"model\"\n\nm\n"
	const end = "--b--\n"
	f(model+end, "", "")
	f(strings.Replace(model, `"model"`, `model`, 1)+end, "", "")
	f(strings.Replace(model, `Content-Disposition: form`, `content-disposition:FORM`, 1)+end, "", "")
	f(strings.Replace(model, "\n\n", "\nContent-Type: text/plain; charset=utf-8\n\n", 1)+end, "", "")
	f(model+model+end, "model", "twice")
	f(strings.Replace(model, "model", "Model", 1)+end, "Model", "letter case")
	f("preamble\n"+model+end, "", "does not start")
	f(model, "", "last boundary is missing")
	f(model+end+model, "", "follows the last boundary")
	f(model+"--bc\nx\n"+end, "", "one part contains it")
	f(model+"--b \n"+end, "", "one part contains it")
	f("--b\n--b--\n", "", "no headers")
	f("--b\nContent-Disposition: form-data; name=\"model\"\n--b--\n", "", "empty line")
	f("--b\n\nm\n"+end, "", "no Content-Disposition")
	f("--b\nContent-Disposition: form-data\n\nm\n"+end, "", "no name")
	f("--b\nContent-Disposition: attachment; name=\"model\"\n\nm\n"+end, "", "no form-data")
	f("--b\nContent-Disposition: form-data; name=\"x\"; name=\"model\"\n\nm\n"+end, "", "two names")
	f("--b\nContent-Disposition: form-data; name*=utf-8''model\n\nm\n"+end, "", "other than name=")
	f("--b\nContent-Disposition: form-data; name=\"x\"\nContent-Disposition: form-data; name=\"model\"\n\nm\n"+end, "", "two Content-Disposition")
	f("--b\nContent-Disposition: form-data; name=\"x\"; filename=\"a\\\"; name=\"model\"\n\nm\n"+end, "", "backslash")
	f("--b\nContent-Disposition: form-data; name=\"x\"; filename=\"a\\\"; name=model; y=\"\n\nm\n"+end, "", "backslash")
	f("--b\nContent-Disposition: form-data; name=\"mo%64el\"\n\nm\n"+end, "mo%64el", "percent")
	f("--b\nContent-Disposition: form-data; name=\"model\"; filename=\"x\"\n\nm\n"+end, "model", "no file")
	f(strings.Replace(model, "\n\n", "\nContent-Transfer-Encoding: quoted-printable\n\n", 1)+end, "model", "plain UTF-8")
	f(strings.Replace(model, "\n\n", "\nContent-Type: text/plain; charset=utf-7\n\n", 1)+end, "model", "plain UTF-8")
	f(strings.Replace(model, "\n\n", "\n folded: x\n\n", 1)+end, "", "malformed header")
	f(strings.Replace(model, "\nm\n", "\na\nb\n", 1)+end, "model", "control characters")
	f(strings.Replace(model, "\nm\n", "\n\n", 1)+end, "model", "empty string")
	f("--b\nContent-Disposition: form-data; name=\"stream\"\n\n1\n"+end, "stream", "true or false")
	f("--b\nContent-Disposition: form-data; name=\"n\"\n\n1e1\n"+end, "n", "digits only")
	f(strings.Repeat("--b\nContent-Disposition: form-data; name=\"x\"\n\n\n", 257)+end, "", "more than 256 parts")
}

func TestErrorBody(t *testing.T) {
	e := &Error{Message: "a \"b\" \\ \n </script> \u2028 \xff é", Type: "invalid_request_error", Code: "not_found"}
	want := `{"error":{"message":"a \"b\" \\ \n \u003c/script\u003e \u2028 \ufffd é","type":"invalid_request_error","param":null,"code":"not_found"}}`
	if got := string(e.AppendBody(nil)); got != want || !json.Valid([]byte(got)) {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(e.AppendEvent([]byte("x"))); got != "xdata: "+want+"\n\n" {
		t.Errorf("got %s", got)
	}
}
