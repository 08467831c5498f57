package simulator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// bench is a simulator on a socket and a client of its own.
type bench struct {
	*testing.T
	sim *Simulator
	url string
}

func start(t *testing.T, cfg Config) *bench {
	t.Helper()
	s := New(cfg)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		srv.CloseClientConnections()
		srv.Close()
	})
	return &bench{t, s, srv.URL}
}

// client neither follows redirects nor decompresses, so that a test sees what was sent.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 300},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

const testKey = "sk-teste-1234567890"

func (b *bench) do(ctx context.Context, method, path, contentType, body string) (*http.Response, error) {
	b.Helper()
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testKey)
	r.Header.Set("Content-Type", contentType)
	return client.Do(r)
}

// answer is a response read to its end, which may be a broken one.
type answer struct {
	*http.Response
	body []byte
	err  error
}

func (b *bench) ask(method, path, body string) answer {
	b.Helper()
	resp, err := b.do(b.Context(), method, path, "application/json", body)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, text, err}
}

func (b *bench) post(path, body string) answer { b.Helper(); return b.ask("POST", path, body) }

// chatBody is a small chat request; more is further members.
func chatBody(model, more string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Qual é a capital?"}]%s}`, model, more)
}

const streamed = `,"stream":true,"stream_options":{"include_usage":true}`

// events splits a well-spelled stream into the data of its events.
func (a answer) events(t testing.TB) []string {
	t.Helper()
	var all []string
	lines := bufio.NewScanner(bytes.NewReader(a.body))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			all = append(all, data)
		}
	}
	return all
}

// tree reads JSON into maps; numbers keep their spelling.
func tree(t testing.TB, text []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("not JSON: %v in %.300s", err, text)
	}
	return v
}

// at walks a tree: at(t, v, "choices", 0, "message").
func at(t testing.TB, v any, path ...any) any {
	t.Helper()
	for i, step := range path {
		switch step := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no object at %v", path[:i])
			}
			v = m[step]
		case int:
			l, ok := v.([]any)
			if !ok || step >= len(l) {
				t.Fatalf("no entry %d at %v", step, path[:i])
			}
			v = l[step]
		}
	}
	return v
}

func (a answer) at(t testing.TB, path ...any) any {
	t.Helper()
	if a.err != nil {
		t.Fatalf("broken answer: %v", a.err)
	}
	return at(t, tree(t, a.body), path...)
}

func want(t testing.TB, what string, got, wanted any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(wanted) {
		t.Errorf("%s = %v, want %v", what, got, wanted)
	}
}

// contents joins what the deltas of a chat stream say.
func contents(t testing.TB, events []string) string {
	t.Helper()
	var all strings.Builder
	for _, e := range events {
		if e == "[DONE]" {
			continue
		}
		choices, _ := at(t, tree(t, []byte(e)), "choices").([]any)
		for _, ch := range choices {
			if s, ok := at(t, ch, "delta", "content").(string); ok {
				all.WriteString(s)
			}
		}
	}
	return all.String()
}

func TestKeys(t *testing.T) {
	b := start(t, Config{Keys: []string{testKey}})
	for _, route := range routes {
		r, _ := http.NewRequest("POST", b.url+route.prefix+"/chat/completions", strings.NewReader(chatBody("sim/ok", "")))
		for _, key := range []string{"", "Bearer ", "Bearer wrong", "Basic " + testKey} {
			r.Header.Set("Authorization", key)
			r.Body = io.NopCloser(strings.NewReader(chatBody("sim/ok", "")))
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			want(t, route.name+" status with "+key, resp.StatusCode, 401)
			if m, ok := at(t, tree(t, body), "error", "message").(string); !ok || m == "" {
				t.Errorf("%s: no message in %s", route.name, body)
			}
		}
		want(t, route.name+" status", b.post(route.prefix+"/chat/completions", chatBody("sim/ok", "")).StatusCode, 200)
	}
	resp, err := http.Get(b.url + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want(t, "the gateway's list without a key", resp.StatusCode, 200)
}

func TestUnknownPathsAndMethods(t *testing.T) {
	b := start(t, Config{})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/v1/chat/completions", 405},
		{"POST", "/v1/nothing", 404},
		{"POST", "/groq/openai/v1/embeddings", 404},
		{"POST", "/anthropic/v1/responses", 404},
		{"GET", "/nowhere", 404},
		{"GET", "/_nothing", 404},
		{"DELETE", "/openai/v1/responses/resp_none", 404},
	} {
		want(t, c.method+" "+c.path, b.ask(c.method, c.path, "").StatusCode, c.status)
	}
	want(t, "an unconfirmed path, leniently", b.post("/v1/completions", `{"model":"sim/ok","prompt":"oi"}`).StatusCode, 200)
	strict := start(t, Config{Strict: true})
	want(t, "an unconfirmed path, strictly", strict.post("/v1/completions", `{"model":"sim/ok","prompt":"oi"}`).StatusCode, 404)
	want(t, "an unknown model, strictly", strict.post("/v1/chat/completions", chatBody("no/such", "")).StatusCode, 404)
	want(t, "a retired model, strictly", strict.post("/anthropic/v1/chat/completions", chatBody("claude-3-opus-20240229", "")).StatusCode, 404)
	want(t, "a behaviour, strictly", strict.post("/v1/chat/completions", chatBody("sim/ok", "")).StatusCode, 200)
}

func TestSameRequestSameBytes(t *testing.T) {
	a, b, other := start(t, Config{Seed: 1}), start(t, Config{Seed: 1}), start(t, Config{Seed: 2})
	requests := map[string]string{
		"/v1/chat/completions":                   chatBody("openai/gpt-5", ""),
		"/openai/v1/chat/completions":            chatBody("gpt-4o", streamed+`,"n":2`),
		"/groq/openai/v1/chat/completions":       chatBody("openai/gpt-oss-120b", streamed),
		"/google/v1beta/openai/chat/completions": chatBody("gemini-3.8-flash", streamed),
		"/anthropic/v1/chat/completions":         chatBody("claude-haiku-5-5", ""),
		"/openai/v1/responses":                   `{"model":"gpt-4o","input":"oi","stream":true}`,
		"/openai/v1/embeddings":                  `{"model":"text-embedding-3-small","input":["a","b"],"dimensions":8}`,
		"/openai/v1/completions":                 `{"model":"gpt-3.5-turbo-instruct","prompt":"oi"}`,
		"/openai/v1/audio/speech":                `{"model":"tts-1","input":"olá","voice":"alloy"}`,
		"/openai/v1/images/generations":          `{"model":"gpt-image-1","prompt":"um gato"}`,
	}
	for path, body := range requests {
		first, again, twin, stranger := a.post(path, body), a.post(path, body), b.post(path, body), other.post(path, body)
		if !bytes.Equal(first.body, again.body) || !bytes.Equal(first.body, twin.body) {
			t.Errorf("%s: equal requests got different answers", path)
		}
		if bytes.Equal(first.body, stranger.body) {
			t.Errorf("%s: another seed got the same answer", path)
		}
	}
	u := start(t, Config{UniqueIDs: true})
	one, two := u.post("/v1/chat/completions", chatBody("sim/ok", "")), u.post("/v1/chat/completions", chatBody("sim/ok", ""))
	if one.at(t, "id") == two.at(t, "id") {
		t.Error("unique ids are equal")
	}
	want(t, "text under unique ids", one.at(t, "choices", 0, "message", "content"), two.at(t, "choices", 0, "message", "content"))
}

// A proxy adds stream_options and providerOptions, another spelling of the model and another route; the text stays.
func TestTextFollowsTheQuestionOnly(t *testing.T) {
	b := start(t, Config{})
	text := b.post("/openai/v1/chat/completions", chatBody("gpt-4o", "")).at(t, "choices", 0, "message", "content")
	for _, path := range []string{"/v1", "/openai/v1", "/groq/openai/v1", "/anthropic/v1", "/google/v1beta/openai"} {
		plain := b.post(path+"/chat/completions", chatBody("openai/gpt-4o", `,"providerOptions":{"gateway":{"only":["openai"]}}`))
		want(t, path+" plain", plain.at(t, "choices", 0, "message", "content"), text)
		want(t, path+" streamed", contents(t, b.post(path+"/chat/completions", chatBody("gpt-4o", streamed)).events(t)), text)
	}
}

func TestLastShowsTheRawRequest(t *testing.T) {
	b := start(t, Config{Remember: 3})
	body := "{\"model\" : \"sim/echo\",\n \"messages\":[{\"role\":\"user\",\"content\":\"caf\\u00e9 é <&>\"}], \"x\": 1.50e2 }"
	echoed := b.post("/v1/chat/completions?a=b", body).at(t, "choices", 0, "message", "content")
	want(t, "echo", echoed, body)
	last := b.sim.Last()[0]
	want(t, "body", string(last.Body), body)
	want(t, "path", last.Path, "/v1/chat/completions?a=b")
	want(t, "authorization", last.Header.Get("Authorization"), "Bearer ****7890")
	if !strings.Contains(strings.Join(last.HeaderNames, " "), "Content-Type") {
		t.Errorf("header names: %v", last.HeaderNames)
	}
	for range 5 {
		b.post("/v1/chat/completions", chatBody("sim/ok", ""))
	}
	want(t, "remembered", len(b.sim.Last()), 3)
	over := b.ask("GET", "/_last", "")
	want(t, "over HTTP", over.at(t, 0, "method"), "POST")
	if bytes.Contains(over.body, []byte(testKey)) {
		t.Error("a key is shown whole")
	}
}

func TestServeStopsAndSaysWhere(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	where, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() { ended <- Serve(ctx, "127.0.0.1:0", Config{}, func(a net.Addr) { where <- a }) }()
	base := "http://" + (<-where).String()
	hung := make(chan error, 1)
	go func() {
		r, _ := http.NewRequest("POST", base+"/v1/chat/completions", strings.NewReader(chatBody("sim/hang", "")))
		r.Header.Set("Authorization", "Bearer x")
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
		}
		hung <- err
	}()
	for open := 0; open == 0; {
		resp, err := http.Get(base + "/_stats")
		if err != nil {
			t.Fatal(err)
		}
		var st Stats
		if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		open = st.Open
	}
	begun := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if took := time.Since(begun); took > drainTime+time.Second {
		t.Errorf("stopping took %v", took)
	}
	if err := <-hung; err == nil {
		t.Error("a hung answer ended as if whole")
	}
	if err := Serve(t.Context(), "127.0.0.1:0", Config{Behaviours: []string{"nonsense"}}, nil); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a wrong behaviour: %v", err)
	}
}

func TestErrorRate(t *testing.T) {
	b := start(t, Config{ErrorRate: 0.25})
	failed := map[int]int{}
	for range 400 {
		failed[b.post("/v1/chat/completions", chatBody("sim/tokens-1", "")).StatusCode]++
	}
	if n := 400 - failed[200]; n < 70 || n > 130 || failed[429] == 0 || failed[500] == 0 || failed[503] == 0 {
		t.Errorf("of 400: %v", failed)
	}
	want(t, "refused", b.sim.Stats().Total.Refused, 400-failed[200])
}
