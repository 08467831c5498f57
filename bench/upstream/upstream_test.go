package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func serving(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer()
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = ln.Close() })
	return "http://" + ln.Addr().String() + "/v1/chat/completions"
}

func post(t *testing.T, url, body string) *http.Response {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestPlainAnswerIsAGatewayAnswer(t *testing.T) {
	resp := post(t, serving(t), `{"model":"openai/gpt-5"}`)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Choices []struct {
			Message struct {
				ProviderMetadata struct{ Gateway struct{ Cost string } } `json:"provider_metadata"`
			}
		}
		Usage struct {
			TotalTokens int `json:"total_tokens"`
		}
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if got.Choices[0].Message.ProviderMetadata.Gateway.Cost != "0.00190375" || got.Usage.TotalTokens != 343 {
		t.Errorf("cost and usage are not where the gateway puts them: %s", body)
	}
	if len(body) < 1800 || len(body) > 2300 {
		t.Errorf("%d bytes, want about 2 KiB", len(body))
	}
}

func TestStreamHasTheChunksAskedForAtTheirPace(t *testing.T) {
	start := time.Now()
	resp := post(t, serving(t), `{"model":"m","stream":true,"bench_chunks":7,"bench_every_ms":20}`)
	var events []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events = append(events, data)
		}
	}
	if took := time.Since(start); took < 7*20*time.Millisecond {
		t.Errorf("7 chunks at 20 ms took %s", took)
	}
	if len(events) != 7+3 || events[len(events)-1] != "[DONE]" {
		t.Fatalf("%d events, want a role, 7 chunks, a finish and [DONE]; the last is %q", len(events), events[len(events)-1])
	}
	for _, e := range events[:len(events)-1] {
		if !json.Valid([]byte(e)) {
			t.Errorf("not JSON: %s", e)
		}
	}
	if !strings.Contains(events[len(events)-2], `"usage":{"prompt_tokens":219`) {
		t.Errorf("no usage on the finish chunk: %s", events[len(events)-2])
	}
}
