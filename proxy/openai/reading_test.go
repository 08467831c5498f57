package openai

import (
	"strings"
	"testing"

	"github.com/catraca/catraca/internal/money"
)

// readingSeeds are answers that FuzzReading and FuzzStream start from.
var readingSeeds = []string{
	ordinaryChunk, gatewayChunk, finishChunk, usageChunk, `{}`, `[]`, `{"usage":`, `{"usage":null}`, `[{"error":{"code":1}}]`, `[DONE]`,
	`{"choices":[{"index":1,"message":{"content":[{"type":"text","text":"a\u00e9\ud83d\ude00\ud800"}]},"finish_reason":"stop"}]}`,
	`{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":1,"output_tokens":2}}}`,
	`{"type":"response.output_text.delta","delta":"x"}`, `{"response":{"response":{"response":{}}}}`, `{"error":"x","type":"y"}`,
	`{"data":[{"b64_json":"x"},{}],"usage":{"total_tokens":5}}`, `{"duration":"8.5","text":"x"}`, "WEBVTT\n\n00:01.000 --> 00:02.500\nx\n",
	`{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":"stop"}]}`,
	`{"choices":[{"delta":{"content":["a",{"text":"bc"},[{"x":{"text":"d"}}],{"text":1}]},"finish_reason":"length"}],"id":"x"}`,
	`{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"xyz"}}],"refusal":true,"audio":{"data":"AA","transcript":"oi"}}}],"model":"m"}`,
	`{"usage":{"prompt_tokens":1e3,"completion_tokens":-1,"total_tokens":99999999999999999999,"cost":1e-7}}`,
}

// TestUsageNumbers is the rule table for what stands where a count should.
func TestUsageNumbers(t *testing.T) {
	f := func(usage string, has bool, input, output, total int64) {
		t.Helper()
		var r Reading
		r.ReadBody(Chat, []byte(`{"usage":`+usage+`}`))
		if r.HasUsage != has || r.Input != input || r.Output != output || r.Total != total {
			t.Errorf("%s: usage %v, %d + %d = %d; want %v, %d + %d = %d", usage, r.HasUsage, r.Input, r.Output, r.Total, has, input, output, total)
		}
	}
	f(`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}`, true, 10, 5, 15)
	f(`{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`, true, 0, 0, 0) // zero is not absent
	f(`{}`, false, 0, 0, 0)
	f(`null`, false, 0, 0, 0)
	f(`[]`, false, 0, 0, 0)
	f(`"x"`, false, 0, 0, 0)
	f(`{"prompt_tokens":null,"completion_tokens":null}`, false, 0, 0, 0)
	f(`{"prompt_tokens":10}`, true, 10, 0, 10)
	f(`{"completion_tokens":5}`, true, 0, 5, 5)
	f(`{"total_tokens":15}`, true, 15, 0, 15)
	f(`{"total_tokens":15,"completion_tokens":5}`, true, 10, 5, 15)
	f(`{"prompt_tokens":35,"completion_tokens":12,"total_tokens":109}`, true, 35, 74, 109) // Gemini's thinking
	f(`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":3}`, true, 10, 5, 15)
	f(`{"prompt_tokens":-10,"completion_tokens":5,"total_tokens":15}`, true, 10, 5, 15)
	f(`{"prompt_tokens":10,"completion_tokens":-5,"total_tokens":15}`, true, 10, 5, 15)
	f(`{"prompt_tokens":-1,"completion_tokens":-2,"total_tokens":-3}`, false, 0, 0, 0)
	f(`{"prompt_tokens":10.5,"completion_tokens":5,"total_tokens":15}`, true, 10, 5, 15)
	f(`{"prompt_tokens":10.0,"completion_tokens":5.00}`, true, 10, 5, 15)
	f(`{"prompt_tokens":"10","completion_tokens":5}`, true, 0, 5, 5)
	f(`{"prompt_tokens":1e1,"completion_tokens":5}`, true, 0, 5, 5)
	f(`{"prompt_tokens":true,"completion_tokens":[5],"total_tokens":{}}`, false, 0, 0, 0)
	f(`{"prompt_tokens":99999999999999999999999,"completion_tokens":5}`, true, maxCount, 5, maxCount+5)
	f(`{"prompt_tokens":9223372036854775807,"completion_tokens":9223372036854775807}`, true, maxCount, maxCount, 2*maxCount)
	f(`{"input_tokens":7,"output_tokens":8}`, true, 7, 8, 15)
	f(`{"prompt_tokens":10,"completion_tokens":20,"total_tokens":5030,"prompt_tokens_details":{"cached_tokens":5000}}`, true, 5000, 30, 5030) // cached counted apart
}

func TestUsageDetails(t *testing.T) {
	f := func(usage string, cached, write, reasoning, audioIn, audioOut int64) {
		t.Helper()
		var r Reading
		r.ReadBody(Chat, []byte(`{"usage":{"prompt_tokens":100,"completion_tokens":50,`+usage+`}}`))
		if r.Cached != cached || r.CacheWrite != write || r.Reasoning != reasoning || r.AudioInput != audioIn || r.AudioOutput != audioOut {
			t.Errorf("%s: %+v", usage, r)
		}
	}
	f(`"prompt_tokens_details":{"cached_tokens":64,"cache_write_tokens":8,"audio_tokens":2},"completion_tokens_details":{"reasoning_tokens":16,"audio_tokens":4}`, 64, 8, 16, 2, 4)
	f(`"prompt_tokens_details":null,"completion_tokens_details":null`, 0, 0, 0, 0, 0)
	f(`"prompt_tokens_details":{},"completion_tokens_details":[]`, 0, 0, 0, 0, 0)
	f(`"prompt_tokens_details":{"cached_tokens":-1,"cache_write_tokens":"7"}`, 0, 0, 0, 0, 0)
	f(`"cache_creation_input_tokens":9`, 0, 9, 0, 0, 0)
	f(`"cache_creation_input_tokens":9,"prompt_tokens_details":{"cache_write_tokens":9}`, 0, 9, 0, 0, 0) // one count under two names
	f(`"cache_read_input_tokens":9,"prompt_tokens_details":{"cached_tokens":9}`, 9, 0, 0, 0, 0)
	f(`"prompt_cache_hit_tokens":9,"prompt_cache_miss_tokens":91`, 9, 0, 0, 0, 0)
	f(`"input_tokens_details":{"cached_tokens":3},"output_tokens_details":{"reasoning_tokens":4}`, 3, 0, 4, 0, 0)
}

func TestGatewayCost(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		var r Reading
		r.ReadBody(Chat, []byte(body))
		got := "none"
		if r.HasGatewayUSD {
			got = r.GatewayUSD.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	f(`{"usage":{"prompt_tokens":1,"cost":0.00190375}}`, "0.00190375")
	f(`{"usage":{"prompt_tokens":1,"cost":0}}`, "0")
	f(`{"usage":{"prompt_tokens":1,"cost":null}}`, "none")
	f(`{"usage":{"prompt_tokens":1,"cost":7.5e-7}}`, "0.00000075")
	f(`{"usage":{"prompt_tokens":1,"cost":"0.5"}}`, "0.5")
	f(`{"usage":{"prompt_tokens":1,"cost":-0.5}}`, "none")
	f(`{"usage":{"prompt_tokens":1,"cost":1e400}}`, "none")
	f(`{"usage":{"prompt_tokens":1,"cost":0.1234567890123456789}}`, "0.123456789013") // up, once
	f(`{"usage":{"prompt_tokens":1,"cost":true}}`, "none")
	f(`{"usage":{"cost":0.25}}`, "0.25")
	f(`{"providerMetadata":{"gateway":{"cost":"0.00000012"}}}`, "0.00000012")
	f(`{"choices":[{"message":{"provider_metadata":{"gateway":{"cost":"0.5"}}}}]}`, "0.5")
	f(`{"choices":[{"message":{"provider_metadata":{"gateway":{"cost":"0.5"}}}}],"usage":{"cost":0.25}}`, "0.25")
	f(`{"usage":{"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":0.002}}}`, "0.002")
	f(`{"usage":{"cost":0.001,"is_byok":true,"upstream_inference_cost":0.002}}`, "0.003")
	f(`{"usage":{"cost":0.001,"is_byok":false,"cost_details":{"upstream_inference_cost":0.002}}}`, "0.001")
	f(`{"usage":{"cost":0.001,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}}`, "0.001")
}

// TestPlainAmount holds the short way of reading an amount to money.Parse.
func TestPlainAmount(t *testing.T) {
	for _, s := range []string{
		"0", "1", "0.5", "999999", "999999.999999999999", "0.000000000001", "00.5", "123.456", "1000000", "0.0000000000001", "1.", ".5", "", ".",
		"1.2.3", "-1", "1e3", "1,5", " 1", "0.00190375",
	} {
		got, ok := plainAmount([]byte(s))
		want, err := money.Parse(s)
		if ok && (err != nil || got != want) {
			t.Errorf("plainAmount(%q) = %v, want %v, %v", s, got, want, err)
		}
		if short := strings.Trim(s, "0123456789.") == "" && len(s) > 0 && s[0] != '.' && len(s) < 13 && err == nil; short && !ok && s != "1." && s != "1000000" {
			t.Errorf("plainAmount(%q) leaves it to the slow way", s)
		}
	}
}

func TestReadFailures(t *testing.T) {
	f := func(body string, failed bool, code string) {
		t.Helper()
		for _, k := range []Kind{Chat, Completions, Responses, Embeddings, Moderations, Transcriptions, Speech, Images} {
			var r Reading
			r.ReadBody(k, []byte(body))
			if r.Failed != failed || r.ErrorCode != code || r.Complete == failed {
				t.Errorf("%s as kind %d: failed %v, code %q, complete %v", body, k, r.Failed, r.ErrorCode, r.Complete)
			}
		}
	}
	f(`{"error":{"message":"secret","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}`, true, "rate_limit_exceeded")
	f(`{"error":{"message":"secret","type":"tokens"}}`, true, "tokens")
	f(`{"error":{"message":"secret","code":null,"type":"tokens"}}`, true, "tokens")
	f(`{"error":{"message":"secret","code":429}}`, true, "429")
	f(`{"error":{"message":"secret","code":"two words"}}`, true, "")
	f(`{"error":{"code":400,"message":"secret","status":"INVALID_ARGUMENT"}}`, true, "INVALID_ARGUMENT")
	f(`{"error":"secret","type":"no_providers_available","statusCode":400}`, true, "no_providers_available")
	f(`{"type":"error","error":{"type":"overloaded_error","message":"secret"}}`, true, "overloaded_error")
	f(`{"error":null}`, false, "")
	f(`{"error":""}`, false, "")
	f(`{"error":false}`, false, "")
	var r Reading
	r.ReadBody(Chat, []byte(`[{"error":{"code":429,"message":"secret","status":"RESOURCE_EXHAUSTED"}}]`))
	if !r.Failed || r.ErrorCode != "RESOURCE_EXHAUSTED" {
		t.Errorf("array: %+v", r)
	}
}

// TestReadStrings: what goes to headers, logs and labels is sound or not there.
func TestReadStrings(t *testing.T) {
	f := func(body, id, model string) {
		t.Helper()
		var r Reading
		r.ReadBody(Chat, []byte(body))
		if r.ID != id || r.Model != model {
			t.Errorf("%.80s: id %q, model %q", body, r.ID, r.Model)
		}
	}
	f(`{"id":"a","model":"b"}`, "a", "b")
	f(`{"id":"a"}`, "a", "")
	f(`{"model":"openai\/gpt-5"}`, "", "openai/gpt-5")
	f(`{"id":"a\r\nSet-Cookie: x","model":"b"}`, "", "b")
	f(`{"id":"a`+"\n"+`b","model":"b"}`, "", "b")
	f(`{"id":"`+strings.Repeat("x", 300)+`","model":7}`, "", "")
	f(`{"id":"\ud800","model":"\x"}`, "", "")
	f(`{"id":"","model":""}`, "", "")
}

func TestEstimateOutput(t *testing.T) {
	f := func(deltas, text, want int64) {
		t.Helper()
		r := Reading{Deltas: deltas, TextBytes: text}
		if got := r.EstimateOutput(); got != want {
			t.Errorf("EstimateOutput of %d deltas, %d bytes = %d, want %d", deltas, text, got, want)
		}
	}
	f(0, 0, 0)
	f(1, 1, 1)
	f(1, 5, 2)
	f(10, 5, 10)
	f(2, 400, 100)
	if EstimateTokens(-1) != 0 || EstimateTokens(4) != 1 || EstimateTokens(5) != 2 {
		t.Error("EstimateTokens")
	}
}

func TestOutputSoFar(t *testing.T) {
	for _, c := range []struct {
		told, deltas, text, soFar, atLeast int64
	}{
		{0, 0, 0, 0, 0}, {0, 5, 8, 5, 0}, {0, 1, 400, 100, 40}, {70, 1, 400, 100, 70}, {700, 1, 400, 700, 700},
	} {
		r := Reading{Output: c.told, Deltas: c.deltas, TextBytes: c.text}
		if r.OutputSoFar() != c.soFar || r.OutputAtLeast() != c.atLeast {
			t.Errorf("%+v: %d so far, %d at least", c, r.OutputSoFar(), r.OutputAtLeast())
		}
	}
	for _, c := range countedTexts(t) {
		r := Reading{TextBytes: int64(len(c.Text))}
		if got := r.OutputAtLeast(); got > min(c.CL100K, c.O200K) {
			t.Errorf("%s: at least %d of %d tokens", c.Name, got, min(c.CL100K, c.O200K))
		}
	}
}

// TestUsageIsReplaced: usage is cumulative or repeated, never a part; the last that counts something wins.
func TestUsageIsReplaced(t *testing.T) {
	var r Reading
	for _, data := range []string{
		`{"choices":[{}],"usage":{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":4}}}`,
		`{"choices":[{}],"usage":{"prompt_tokens":10,"completion_tokens":7}}`,
		`{"choices":[{}],"x_groq":{"usage":{"prompt_tokens":11,"completion_tokens":7}}}`,
		`{"choices":[{}],"usage":null}`,
		`{"choices":[{}],"usage":{}}`,
		`{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":99}"}}],"x":{"usage":{"prompt_tokens":99}}}`,
	} {
		r.ReadEvent(Chat, []byte(data))
	}
	if r.Input != 11 || r.Output != 7 || r.Cached != 0 {
		t.Errorf("%+v", r)
	}
}

func TestReadBodyKinds(t *testing.T) {
	f := func(k Kind, body, want string) {
		t.Helper()
		var r Reading
		r.ReadBody(k, []byte(body))
		if got := strings.ReplaceAll(strings.TrimSpace(showReading(&r)), "\n", ", "); got != want {
			t.Errorf("%q\n got %s\nwant %s", body, got, want)
		}
	}
	f(Opaque, `{"usage":{"prompt_tokens":1}}`, "")
	f(Chat, ``, "")
	f(Chat, `<html>`, "")
	f(Chat, `{"usage":{"prompt_tokens":1}`, "usage true, input 1, total 1")
	f(Moderations, `{"id":"modr-1","model":"omni-moderation-latest","results":[{"flagged":false}]}`, "id modr-1, model omni-moderation-latest, complete true")
	f(Embeddings, `{"data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":8,"total_tokens":8}}`, "usage true, input 8, total 8, complete true")
	f(Embeddings, `{"data":[],"usage":{"total_tokens":8}}`, "usage true, input 8, total 8, complete true")
	f(Images, `{"created":1,"data":[{"url":"x"},{"url":"y"}]}`, "images 2, complete true")
	f(Images, `{"created":1,"data":[]}`, "complete true")
	f(Transcriptions, `{"text":"Olá"}`, "complete true, deltas 1, text_bytes 4")
	f(Transcriptions, `{"text":"x","duration":"8.4701"}`, "usage true, audio_ms 8471, complete true, deltas 1, text_bytes 1")
	f(Transcriptions, `{"duration":-1}`, "complete true")
	f(Transcriptions, `Olá, seta --> aqui`, "complete true, text_bytes 19")
	f(Transcriptions, "WEBVTT\n\n00:00.000 --> 00:03.320 align:start\nOlá\n", "usage true, audio_ms 3320, complete true, text_bytes 49")
	f(Speech, "ID3\x04\x00audio", "complete true")
	f(Responses, `{"id":"r","status":"in_progress","output":[],"usage":null}`, "id r, complete true")
	f(Responses, `{"id":"r","status":"failed","error":{"code":"server_error"}}`, "id r, finish failed, failed true, error server_error")
	f(Responses, `{"status":"completed","output":[{"content":[{"text":"quatro"},{"text":"seis"}]}]}`, "finish completed, complete true, deltas 1, text_bytes 10")
}

// TestStreamComplete: a stream is whole when it says so.
func TestStreamComplete(t *testing.T) {
	f := func(k Kind, complete bool, events ...string) {
		t.Helper()
		var r Reading
		for _, e := range events {
			r.ReadEvent(k, []byte(e))
		}
		if r.Complete != complete {
			t.Errorf("%q: complete %v", events, r.Complete)
		}
	}
	f(Chat, false)
	f(Chat, false, `{"choices":[{"index":0,"delta":{"content":"x"}}]}`)
	f(Chat, true, `{"choices":[{"index":0,"delta":{"content":"x"}}]}`, `[DONE]`)
	f(Chat, true, `{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}`)
	f(Chat, false, `{"choices":[{"index":0,"delta":{}}]}`, `{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}`)
	f(Chat, true, `{"choices":[{"index":0,"delta":{}}]}`, `{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}`, `{"choices":[{"index":0,"finish_reason":"length"}]}`)
	f(Chat, true, `{"choices":[{"index":0}]}`, usageChunk)
	f(Chat, false, `{"choices":[{"index":0}],"usage":{"prompt_tokens":1}}`) // Gemini's comes with every chunk
	f(Chat, false, `{"choices":[],"prompt_filter_results":[]}`)
	f(Chat, false, `{"choices":[{"index":0,"finish_reason":"stop"}]}`, `{"error":{"code":"x"}}`)
	f(Chat, false, `{"error":{"code":"x"}}`, `[DONE]`)
	f(Responses, false, `{"type":"response.created","response":{"status":"in_progress"}}`)
	f(Responses, true, `{"type":"response.completed","response":{"status":"completed"}}`)
	f(Responses, false, `{"type":"response.failed","response":{"status":"failed"}}`)
	f(Transcriptions, true, `{"type":"transcript.text.done","text":"x"}`)
	f(Speech, true, `{"type":"speech.audio.done"}`)
	f(Images, false, `{"type":"image_generation.partial_image","b64_json":""}`)
	f(Images, true, `{"type":"image_edit.completed","b64_json":""}`)
}
