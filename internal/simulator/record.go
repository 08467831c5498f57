package simulator

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Recorded is one request as it came in, for tests that ask what exactly was forwarded.
type Recorded struct {
	Method        string      `json:"method"`
	Path          string      `json:"path"` // as on the request line, query included
	Host          string      `json:"host"`
	Proto         string      `json:"proto"`
	Header        http.Header `json:"header"`       // credentials masked to their last 4 characters
	HeaderNames   []string    `json:"header_names"` // sorted
	ContentLength int64       `json:"content_length"`
	Chunked       bool        `json:"chunked"`
	Body          []byte      `json:"body_base64"`
	At            time.Time   `json:"at"`
}

// recordedBytes bounds what the recorder holds together; the oldest requests go first.
const recordedBytes = 64 << 20

type recorder struct {
	limit int
	mu    sync.Mutex
	last  []Recorded // oldest first
	size  int
}

// keep remembers one request. It takes body over.
func (k *recorder) keep(r *http.Request, body []byte) {
	rec := Recorded{
		Method: r.Method, Path: r.RequestURI, Host: r.Host, Proto: r.Proto, Header: r.Header.Clone(),
		ContentLength: r.ContentLength, Chunked: slices.Contains(r.TransferEncoding, "chunked"), Body: body, At: time.Now(),
	}
	for name, values := range rec.Header {
		rec.HeaderNames = append(rec.HeaderNames, name)
		for i := range values {
			values[i] = masked(name, values[i])
		}
	}
	slices.Sort(rec.HeaderNames)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = append(k.last, rec)
	k.size += len(body)
	for len(k.last) > k.limit || k.size > recordedBytes && len(k.last) > 1 {
		k.size -= len(k.last[0].Body)
		k.last[0] = Recorded{}
		k.last = k.last[1:]
	}
}

func (k *recorder) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last, k.size = nil, 0
}

// Last returns the requests remembered, newest first.
func (s *Simulator) Last() []Recorded {
	s.recorder.mu.Lock()
	defer s.recorder.mu.Unlock()
	out := slices.Clone(s.recorder.last)
	slices.Reverse(out)
	return out
}

// masked hides all but the end of a credential, so that a test can tell which one it was.
func masked(header, value string) string {
	switch header {
	case "Authorization", "X-Api-Key", "X-Goog-Api-Key", "Cookie", "Proxy-Authorization":
	default:
		return value
	}
	scheme, secret, found := strings.Cut(value, " ")
	if !found {
		scheme, secret = "", value
	} else {
		scheme += " "
	}
	if len(secret) <= 8 {
		return scheme + "****"
	}
	return scheme + "****" + secret[len(secret)-4:]
}

// largestBody is more than any upstream accepts; beyond it a client is at fault.
const largestBody = 128 << 20

// readAll reads a body; whole is false when it ended early, was malformed or is larger than any upstream takes.
func readAll(r *http.Request) (body []byte, whole bool) {
	n := r.ContentLength
	if n > largestBody {
		return nil, false
	}
	if n > 0 {
		body = make([]byte, n)
		got, err := io.ReadFull(r.Body, body)
		if err == nil {
			// net/http watches for the client's leaving once the body has been read to its end.
			_, err = r.Body.Read(make([]byte, 1))
		}
		return body[:got], err == io.EOF
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, largestBody))
	return body, err == nil && len(body) < largestBody
}

func writeControl(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
