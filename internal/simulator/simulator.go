// Package simulator stands in for the upstreams: the AI gateway, OpenAI, Groq, and the OpenAI-compatible layers of
// Anthropic and Google, with their endpoints, their dialects, their headers, their errors and their ways to break.
//
//	request ──► route ──────► dialect: gateway │ openai │ groq │ anthropic │ google
//	              │                      (who is allowed, which endpoints exist, how an error looks)
//	              ▼
//	           read name ───► traits: sim/cut-after-5, sim/usage-string, sim/slow-20 …
//	              │
//	              ▼
//	           answer ──────► text, tool call, JSON for a schema, vectors, sound, picture:
//	              │           the same for the same seed and question, whatever the route or stream
//	              ▼
//	           wire ────────► a plain reply, or events one by one, broken as the traits say
//	              │
//	              ▼
//	           tally ───────► what was reported and what was generated, to the token: GET /_stats
//
// Its promise: the tally of a request is final before the client can see the answer's end, so whoever has read an
// answer can compare bills at once. It knows nothing of the proxy in front of it and shares no code with it.
package simulator

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Config says how the simulator behaves; its zero value is quick, deterministic and lets every key in.
type Config struct {
	// Seed changes every answer; the same seed and request give the same answer, byte for byte.
	Seed int64
	// FirstTokenDelay passes before the first byte of an answer, TokenDelay before every further token. Both 0: at once.
	FirstTokenDelay time.Duration
	TokenDelay      time.Duration
	// Tokens is how long an answer is when the request sets no lower limit. Default 32.
	Tokens int
	// ErrorRate is the share of requests, 0 to 1, that fail with a 429, 500 or 503 chosen by the seed.
	ErrorRate float64
	// Keys are the API keys accepted; empty accepts any but a missing one.
	Keys []string
	// Behaviours are asked of every request, as if its model's name did: "slow-20", "gzip".
	Behaviours []string
	// UniqueIDs gives every answer its own id and time of day, as real upstreams do. Without it both follow from the
	// request, so that two equal requests get equal bytes.
	UniqueIDs bool
	// Strict refuses models the catalogue does not know or that are retired, and endpoints the gateway is not known to have.
	Strict bool
	// Remember bounds how many raw requests GET /_last can show. Default 64.
	Remember int
	// Log gets one debug line a request, with no content in it; nil is silent.
	Log *slog.Logger
}

// Simulator is an http.Handler for HTTP/1.1 (cuts and resets take over the connection).
type Simulator struct {
	cfg      Config
	always   traits
	log      *slog.Logger
	counted  atomic.Int64 // requests so far: request ids and the error rate follow it
	tally    tallies
	recorder recorder
	stored   responseStore
	past     generationStore
	exchange exchange
	closing  chan struct{}
	closed   atomic.Bool
}

// New builds a simulator. It panics on a behaviour that does not exist: Check tells beforehand.
func New(cfg Config) *Simulator {
	always, err := cfg.check()
	if err != nil {
		panic("BUG: " + err.Error())
	}
	if cfg.Tokens == 0 {
		cfg.Tokens = 32
	}
	if cfg.Remember == 0 {
		cfg.Remember = 64
	}
	s := &Simulator{cfg: cfg, always: always, log: cfg.Log, closing: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.tally.reset()
	s.recorder.limit = cfg.Remember
	s.exchange.reset()
	return s
}

// Check says what is wrong with the configuration, in words for whoever typed it.
func (c Config) Check() error {
	_, err := c.check()
	return err
}

func (c Config) check() (traits, error) {
	if c.ErrorRate < 0 || c.ErrorRate > 1 {
		return nil, fmt.Errorf("the error rate is a share between 0 and 1, not %v", c.ErrorRate)
	}
	if c.Tokens < 0 || c.Tokens > largestN {
		return nil, fmt.Errorf("an answer has between 1 and %d tokens, not %d", largestN, c.Tokens)
	}
	always := traits{}
	for _, b := range c.Behaviours {
		if err := always.parse(b); err != nil {
			return nil, err
		}
	}
	return always, nil
}

// Close lets go of every request that hangs on purpose; answers that are under way are cut.
func (s *Simulator) Close() {
	if s.closed.CompareAndSwap(false, true) {
		close(s.closing)
	}
}

// ServeHTTP answers as the upstream its path belongs to.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_") {
		s.serveControl(w, r)
		return
	}
	c := &call{sim: s, w: w, r: r, started: time.Now(), number: s.counted.Add(1)}
	s.tally.enter()
	defer s.tally.leave()
	c.serve()
	s.log.Debug("served", "method", r.Method, "route", c.route, "endpoint", c.endpoint, "model", c.model,
		"streamed", c.streamed, "outcome", c.outcome.String(), "ms", time.Since(c.started).Milliseconds())
}

// serveControl is the simulator's own side: what it did, and what it shall do.
func (s *Simulator) serveControl(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/_stats" && r.Method == http.MethodGet:
		writeControl(w, s.Stats())
	case path == "/_journal" && r.Method == http.MethodPost:
		s.startJournal()
		w.WriteHeader(http.StatusNoContent)
	case path == "/_journal" && r.Method == http.MethodGet:
		s.serveJournal(w)
	case path == "/_reset" && r.Method == http.MethodPost:
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	case path == "/_last" && r.Method == http.MethodGet:
		writeControl(w, s.Last())
	case path == "/_behaviours" && r.Method == http.MethodGet:
		writeControl(w, Behaviours())
	case path == "/_healthz":
		w.WriteHeader(http.StatusOK)
	case path == "/_elsewhere":
		body, _ := readAll(r)
		s.recorder.keep(r, body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"elsewhere":true}`))
	case strings.HasPrefix(path, "/_picture/"):
		// What the links of image answers lead to: the same picture for the same link.
		c := &call{dice: seeded(s.cfg.Seed, []byte(path))}
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(c.picture(0))
	case path == "/_exchange" || strings.HasPrefix(path, "/_exchange/"):
		s.exchange.serve(w, r)
	default:
		http.Error(w, "the simulator has GET /_stats /_journal /_last /_behaviours /_healthz /_exchange/…, POST /_reset /_journal /_exchange", http.StatusNotFound)
	}
}

// Reset forgets everything served so far; settings stay.
func (s *Simulator) Reset() {
	s.tally.reset()
	s.recorder.reset()
	s.stored.reset()
	s.past.reset()
	s.exchange.reset()
	s.counted.Store(0)
}

// opaque is a lower-case hex identifier that follows from the seed and the parts.
func (s *Simulator) opaque(n int, parts ...string) string {
	h := sha256.New()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(s.cfg.Seed))
	h.Write(b[:])
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))[:n]
}
