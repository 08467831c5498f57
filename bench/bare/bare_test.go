package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// proxied starts the floor in front of a handler and posts one body through it.
func proxied(t *testing.T, upstream string, body string) *http.Response {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(upstream)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = ln.Close() })
	resp, err := http.Post("http://"+ln.Addr().String()+"/v1/chat/completions?a=b", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestPassesPlainCallsOn(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.URL.RequestURI()+" "+string(body))
	}))
	defer up.Close()
	resp := proxied(t, up.Listener.Addr().String(), `{"x":1}`)
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := `/v1/chat/completions?a=b {"x":1}`; resp.StatusCode != http.StatusTeapot || string(got) != want {
		t.Errorf("got %d %q, want 418 %q", resp.StatusCode, got, want)
	}
}

// TestStreamsArriveAsTheyAreSent: the upstream waits for the client to have the first event before it sends the second.
func TestStreamsArriveAsTheyAreSent(t *testing.T) {
	seen := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-seen:
			_, _ = io.WriteString(w, "data: 2\n\n")
		case <-time.After(5 * time.Second):
		}
	}))
	defer up.Close()
	resp := proxied(t, up.Listener.Addr().String(), `{"stream":true}`)
	first := make([]byte, len("data: 1\n\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	close(seen)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != "data: 2\n\n" {
		t.Errorf("after %q came %q, %v", first, rest, err)
	}
}

func TestAnUpstreamThatIsDownIsA502(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if resp := proxied(t, ln.Addr().String(), `{}`); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("status %d, want 502", resp.StatusCode)
	}
}
