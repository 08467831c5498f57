package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// fake answers every request on its connections with the given bytes, as they stand.
func fake(t *testing.T, raw string, thenClose bool) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(c, raw)
					if thenClose {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func length(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func chunks(parts ...string) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
	for _, p := range append(parts, "") {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
	}
	return b.String()
}

// TestAnswersAreChecked holds that a wrong answer fails the load: a floor is worth nothing if errors count as requests.
func TestAnswersAreChecked(t *testing.T) {
	const two = "data: {}\n\ndata: [DONE]\n\n"
	plain, stream := fake(t, length(`{"id":"x"}`), false), fake(t, chunks(two), false)
	for name, c := range map[string]struct {
		mode, reference, answer string
		thenClose               bool
		want                    string
	}{
		"equal":                        {"plain", plain, length(`{"id":"x"}`), false, ""},
		"other bytes, same length":     {"plain", plain, length(`{"id":"y"}`), false, "not the upstream's"},
		"status":                       {"plain", plain, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", false, "502"},
		"body cut":                     {"plain", plain, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", true, "broke off"},
		"stream equal":                 {"stream", stream, chunks(two), false, ""},
		"events split across chunks":   {"stream", stream, chunks("data: {}\n", "\ndata: [DO", "NE]\n", "\n"), false, ""},
		"an event missing":             {"stream", stream, chunks("data: [DONE]\n\n"), false, "1 events"},
		"no DONE":                      {"stream", stream, chunks("data: {}\n\ndata: {}\n\n"), false, "without [DONE]"},
		"stream cut at a chunk's edge": {"stream", stream, strings.TrimSuffix(chunks(two), "0\r\n\r\n"), true, "broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{
				Addr: fake(t, c.answer, c.thenClose), Reference: c.reference, Path: "/", Mode: c.mode, Conns: 2, BodyBytes: 512,
				Chunks: 1, Warm: 10 * time.Millisecond, Window: 50 * time.Millisecond,
			}
			err := run(o, json.NewEncoder(io.Discard))
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("a right answer was refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestBodiesAreJSONOfTheSizeAskedFor(t *testing.T) {
	for _, o := range []Options{
		{Mode: "plain", BodyBytes: 1024},
		{Mode: "plain", BodyBytes: 32 << 10},
		{Mode: "stream", BodyBytes: 1024, Chunks: 50, EveryMillis: 20},
		{Mode: "held", BodyBytes: 1024},
		{Mode: "image", BodyBytes: 1 << 20},
	} {
		o.Model = "openai/gpt-5"
		body := buildBody(o)
		if !json.Valid([]byte(body)) {
			t.Errorf("%s: the body is not JSON: %.200s", o.Mode, body)
		}
		if off := o.BodyBytes - len(body); off < 0 || off > 3 { // base64 comes in fours
			t.Errorf("%s: %d bytes, want %d", o.Mode, len(body), o.BodyBytes)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for us := range 1000 {
		h.add(time.Duration(us+1) * time.Microsecond)
	}
	for q, want := range map[float64]float64{0.5: 0.5, 0.99: 0.99} {
		if got := h.quantile(q); got < want*0.92 || got > want*1.08 {
			t.Errorf("quantile %v = %v ms, want %v within 8 %%", q, got, want)
		}
	}
}
