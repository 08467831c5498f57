package simulator

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"math"
	"mime/multipart"
	"strings"
	"testing"
)

func TestEmbeddings(t *testing.T) {
	b := start(t, Config{})
	const path = "/openai/v1/embeddings"
	a := b.post(path, `{"model":"text-embedding-3-small","input":["olá","mundo"]}`)
	want(t, "default size", len(a.at(t, "data", 1, "embedding").([]any)), 1536)
	want(t, "tokens", a.at(t, "usage", "prompt_tokens"), 1+2)
	want(t, "output tallied", b.total().Reported.Output, 0)
	numbers := b.post(path, `{"model":"text-embedding-3-small","input":"olá","dimensions":4}`).at(t, "data", 0, "embedding").([]any)
	packed, err := base64.StdEncoding.DecodeString(fmt.Sprint(b.post(path, `{"model":"text-embedding-3-small","input":"olá","dimensions":4,"encoding_format":"base64"}`).at(t, "data", 0, "embedding")))
	if err != nil || len(packed) != 16 {
		t.Fatalf("%v, %d bytes", err, len(packed))
	}
	norm := 0.0
	for i, n := range numbers {
		x := math.Float32frombits(binary.LittleEndian.Uint32(packed[4*i:]))
		f, _ := n.(json.Number).Float64()
		if float32(f) != x {
			t.Errorf("entry %d: %v as number, %v as bytes", i, f, x)
		}
		norm += f * f
	}
	if math.Abs(norm-1) > 1e-5 {
		t.Errorf("length² %v", norm)
	}
	want(t, "tokens given", b.post(path, `{"model":"text-embedding-3-small","input":[[1,2,3],[4]],"dimensions":2}`).at(t, "usage", "total_tokens"), 4)
	for _, in := range []string{`[]`, `null`, `7`, `[null]`, `{}`} {
		want(t, in, b.post(path, `{"model":"text-embedding-3-small","input":`+in+`}`).StatusCode, 400)
	}
	g := b.post("/v1/embeddings", `{"model":"openai/text-embedding-3-small","input":"olá"}`)
	want(t, "cost", g.at(t, "providerMetadata", "gateway", "cost"), "0.00000002")
}

func TestResponses(t *testing.T) {
	b := start(t, Config{})
	const path = "/openai/v1/responses"
	a := b.post(path, `{"model":"gpt-5","input":"Qual é a capital?","instructions":"Seja breve.","metadata":{"a":"b"}}`)
	id := fmt.Sprint(a.at(t, "id"))
	want(t, "reasoning first", a.at(t, "output", 0, "type"), "reasoning")
	text := a.at(t, "output", 1, "content", 0, "text")
	want(t, "length", len(fmt.Sprint(text)), 128)
	want(t, "output tokens", a.at(t, "usage", "output_tokens"), 96)
	want(t, "input tokens", a.at(t, "usage", "input_tokens"), 8)
	want(t, "metadata", a.at(t, "metadata", "a"), "b")

	want(t, "stored", b.ask("GET", path+"/"+id, "").at(t, "output", 1, "content", 0, "text"), text)
	want(t, "its input", b.ask("GET", path+"/"+id+"/input_items", "").at(t, "data", 0, "content", 0, "text"), "Qual é a capital?")
	next := b.post(path, `{"model":"gpt-5","input":"E a maior?","previous_response_id":"`+id+`"}`)
	want(t, "input with what was before", next.at(t, "usage", "input_tokens"), 3+8+96)
	want(t, "deleted", b.ask("DELETE", path+"/"+id, "").at(t, "deleted"), true)
	want(t, "gone", b.ask("GET", path+"/"+id, "").StatusCode, 404)
	want(t, "nothing before", b.post(path, `{"model":"gpt-5","input":"x","previous_response_id":"`+id+`"}`).StatusCode, 400)
	unstored := b.post(path, `{"model":"gpt-4o","input":"y","store":false}`)
	want(t, "not stored", b.ask("GET", path+"/"+fmt.Sprint(unstored.at(t, "id")), "").StatusCode, 404)
	want(t, "incomplete", b.post(path, `{"model":"gpt-4o","input":"y","max_output_tokens":3}`).at(t, "incomplete_details", "reason"), "max_output_tokens")
	for _, body := range []string{`{"model":"gpt-4o"}`, `{"input":"x"}`, `{"model":"gpt-4o","input":7}`, `{"model":"gpt-4o","input":"x","max_output_tokens":0}`} {
		want(t, body, b.post(path, body).StatusCode, 400)
	}
}

func TestResponsesStream(t *testing.T) {
	b := start(t, Config{})
	const path = "/openai/v1/responses"
	names := func(body string) (order []string, last string, joined string) {
		for i, e := range b.post(path, body).events(t) {
			v := tree(t, []byte(e))
			want(t, "number", at(t, v, "sequence_number"), i)
			name := fmt.Sprint(at(t, v, "type"))
			if len(order) == 0 || order[len(order)-1] != name {
				order = append(order, strings.TrimPrefix(name, "response."))
			}
			if len(order) > 1 && order[len(order)-1] == order[len(order)-2] {
				order = order[:len(order)-1]
			}
			if d, ok := at(t, v, "delta").(string); ok {
				joined += d
			}
			last = e
		}
		return order, last, joined
	}
	order, last, joined := names(`{"model":"gpt-4o","input":"oi","stream":true}`)
	want(t, "order", strings.Join(order, " "), "created in_progress output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done completed")
	want(t, "usage", at(t, tree(t, []byte(last)), "response", "usage", "output_tokens"), 32)
	want(t, "text", at(t, tree(t, []byte(last)), "response", "output", 0, "content", 0, "text"), joined)
	id := fmt.Sprint(at(t, tree(t, []byte(last)), "response", "id"))
	want(t, "stored", b.ask("GET", path+"/"+id, "").at(t, "status"), "completed")

	tool := `"tools":[{"type":"function","name":"clima","parameters":{"type":"object","properties":{"cidade":{"type":"string"}}}}]`
	order, last, joined = names(`{"model":"gpt-5","input":"oi","stream":true,` + tool + `}`)
	want(t, "order", strings.Join(order, " "), "created in_progress output_item.added output_item.done output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed")
	want(t, "call", at(t, tree(t, []byte(last)), "response", "output", 1, "arguments"), joined)
	want(t, "arguments", joined, `{"cidade":"São Paulo"}`)
	done := b.post(path, `{"model":"gpt-4o","input":[{"role":"user","content":"oi"},{"type":"function_call_output","call_id":"x","output":"sol"}],`+tool+`}`)
	want(t, "after a result", done.at(t, "output", 0, "type"), "message")
	structured := b.post(path, `{"model":"gpt-4o","input":"oi","text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}}}}`)
	want(t, "structured", keys(t, fmt.Sprint(structured.at(t, "output", 0, "content", 0, "text"))), "a")
	_, last, _ = names(`{"model":"gpt-4o","input":"oi","stream":true,"max_output_tokens":2}`)
	want(t, "limited", at(t, tree(t, []byte(last)), "type"), "response.incomplete")
	want(t, "all reported", b.total().Unreported, 0)
}

func TestCompletionsAndModerations(t *testing.T) {
	b := start(t, Config{})
	a := b.post("/openai/v1/completions", `{"model":"gpt-3.5-turbo-instruct","prompt":["a","b"],"n":2,"echo":true,"logprobs":1,"max_tokens":4}`)
	want(t, "choices", len(a.at(t, "choices").([]any)), 4)
	want(t, "echo", strings.HasPrefix(fmt.Sprint(a.at(t, "choices", 3, "text")), "bOlá"), true)
	want(t, "logprobs", len(a.at(t, "choices", 0, "logprobs", "tokens").([]any)), 4)
	want(t, "usage", a.at(t, "usage", "total_tokens"), 2+16)
	es := b.post("/openai/v1/completions", `{"model":"gpt-3.5-turbo-instruct","prompt":"a","max_tokens":4`+streamed+`}`).events(t)
	want(t, "events", len(es), 4+1+1+1)
	want(t, "usage", at(t, tree(t, []byte(es[5])), "usage", "total_tokens"), 5)
	want(t, "no prompt", b.post("/openai/v1/completions", `{"model":"gpt-3.5-turbo-instruct"}`).StatusCode, 400)

	m := b.post("/openai/v1/moderations", `{"input":["bom dia","vou matar"]}`)
	want(t, "kind", m.at(t, "results", 0, "flagged"), false)
	want(t, "unkind", m.at(t, "results", 1, "categories", "violence"), true)
	want(t, "parts", b.post("/openai/v1/moderations", `{"input":[{"type":"text","text":"oi"}]}`).StatusCode, 200)
	want(t, "nothing", b.post("/openai/v1/moderations", `{}`).StatusCode, 400)
}

// upload sends a file of n bytes with fields.
func (b *bench) upload(path string, n int, fields map[string]string) answer {
	b.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for k, v := range fields {
		_ = form.WriteField(k, v)
	}
	file, _ := form.CreateFormFile("file", "som.wav")
	_, _ = file.Write(bytes.Repeat([]byte{7}, n))
	_ = form.Close()
	resp, err := b.do(b.Context(), "POST", path, form.FormDataContentType(), body.String())
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, text, err}
}

func TestTranscriptions(t *testing.T) {
	b := start(t, Config{})
	const path = "/openai/v1/audio/transcriptions"
	a := b.upload(path, 40_000, map[string]string{"model": "whisper-1"})
	want(t, "type", a.at(t, "usage", "type"), "duration")
	want(t, "seconds", a.at(t, "usage", "seconds"), 3)
	want(t, "tallied", b.total().Reported.Seconds, 3)
	want(t, "cost", b.total().Issued.CostUSD, "0.0003")
	again := b.upload(path, 40_000, map[string]string{"model": "whisper-1"})
	if !bytes.Equal(a.body, again.body) {
		t.Error("another boundary, another answer")
	}
	n := b.upload(path, 40_000, map[string]string{"model": "gpt-4o-transcribe", "prompt": "oito b.."})
	want(t, "type", n.at(t, "usage", "type"), "tokens")
	want(t, "audio", n.at(t, "usage", "input_token_details", "audio_tokens"), 30)
	want(t, "text", n.at(t, "usage", "input_token_details", "text_tokens"), 2)
	for format, part := range map[string]string{"text": "Olá", "srt": "1\n00:00:00,000 --> 00:00:03,000", "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:03.000", "verbose_json": `"segments"`} {
		if a := b.upload(path, 40_000, map[string]string{"model": "whisper-1", "response_format": format}); !strings.Contains(string(a.body), part) {
			t.Errorf("%s: %.100s", format, a.body)
		}
	}
	es := b.upload(path, 40_000, map[string]string{"model": "gpt-4o-mini-transcribe", "stream": "true"}).events(t)
	want(t, "events", len(es), 32+1+1)
	want(t, "first", at(t, tree(t, []byte(es[0])), "type"), "transcript.text.delta")
	want(t, "usage", at(t, tree(t, []byte(es[32])), "usage", "output_tokens"), 32)
	g := b.upload("/groq/openai/v1/audio/transcriptions", 40_000, map[string]string{"model": "whisper-large-v3"})
	want(t, "groq", g.at(t, "usage"), nil)
	want(t, "no model", b.upload(path, 10, nil).StatusCode, 400)
	want(t, "format", b.upload(path, 10, map[string]string{"model": "whisper-1", "response_format": "x"}).StatusCode, 400)
	want(t, "no form", b.post(path, `{}`).StatusCode, 400)
}

func TestSpeechAndImages(t *testing.T) {
	b := start(t, Config{})
	const path = "/openai/v1/audio/speech"
	for format, kind := range soundTypes {
		a := b.post(path, `{"model":"tts-1","voice":"alloy","input":"Olá!","response_format":"`+format+`"}`)
		want(t, format, a.Header.Get("Content-Type"), kind)
		if len(a.body) < 4*bytesPerCharacter {
			t.Errorf("%s: %d bytes", format, len(a.body))
		}
	}
	want(t, "characters", b.total().Issued.Characters, 4*len(soundTypes))
	es := b.post(path, `{"model":"gpt-4o-mini-tts","voice":"alloy","input":"Olá, tudo bem com você?","stream_format":"sse"}`).events(t)
	want(t, "last", at(t, tree(t, []byte(es[len(es)-1])), "type"), "speech.audio.done")
	want(t, "input", at(t, tree(t, []byte(es[len(es)-1])), "usage", "input_tokens"), 7)
	want(t, "no text", b.post(path, `{"model":"tts-1"}`).StatusCode, 400)

	const images = "/openai/v1/images/generations"
	old := b.post(images, `{"model":"dall-e-3","prompt":"um gato","response_format":"b64_json"}`)
	want(t, "usage", old.at(t, "usage"), nil)
	want(t, "prompt", old.at(t, "data", 0, "revised_prompt"), "um gato")
	raw, _ := base64.StdEncoding.DecodeString(fmt.Sprint(old.at(t, "data", 0, "b64_json")))
	if _, err := png.Decode(bytes.NewReader(raw)); err != nil {
		t.Errorf("not a picture: %v", err)
	}
	if url := fmt.Sprint(b.post(images, `{"model":"dall-e-3","prompt":"um gato"}`).at(t, "data", 0, "url")); !strings.HasPrefix(url, b.url) {
		t.Errorf("url %s", url)
	} else if _, err := png.Decode(bytes.NewReader(b.ask("GET", strings.TrimPrefix(url, b.url), "").body)); err != nil {
		t.Errorf("what the url leads to: %v", err)
	}
	a := b.post(images, `{"model":"gpt-image-1","prompt":"um gato","n":2,"quality":"high"}`)
	want(t, "output", a.at(t, "usage", "output_tokens"), 2*4160)
	want(t, "too many", b.post(images, `{"model":"dall-e-3","prompt":"um gato","n":2}`).StatusCode, 400)
}
