package link

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

// Handler answers proxies, over HTTP:
//
//	GET  /link/v1/hello              who answers; for doctor
//	POST /link/v1/principal          whose a key is: its digest, or a client's id, and the version known there
//	GET  /link/v1/changes            waits for news: after=VERSION&settings=TAG
//	GET  /link/v1/settings           models, prices, the exchange rate, signing keys; not when If-None-Match has them
//	POST /link/v1/touched            keys that were used
//	POST /link/v1/owner              on which route a stored answer was made
//	POST /link/v1/beat               a proxy's sign of life
//	POST /link/v1/lease, seen        budgets: see lease.go
//
// Every answer has X-Catraca-Link, so that a proxy never takes another server's word for ours. Within /link/v1 fields
// are only added.
type Handler struct {
	local  *Local
	tokens [][sha256.Size]byte
	log    *slog.Logger
	mux    *http.ServeMux

	requests, refused, failed atomic.Int64
	compressed                atomic.Pointer[compressedSettings]
}

const (
	linkHeader = "X-Catraca-Link"
	maxRequest = 1 << 20 // of all but a beat and a lease
	maxBeat    = 8 << 20 // a report with as many intervals as there may be, of several incarnations; what 50 000 windows want
)

// NewHandler makes a handler that lets in who shows one of the tokens, or a certificate that the listener verified.
func NewHandler(local *Local, tokens []string, log *slog.Logger) *Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Handler{local: local, log: log, mux: http.NewServeMux()}
	for _, t := range tokens {
		h.tokens = append(h.tokens, sha256.Sum256([]byte(t)))
	}
	h.mux.HandleFunc("GET /link/v1/hello", h.hello)
	h.mux.HandleFunc("POST /link/v1/principal", h.principal)
	h.mux.HandleFunc("GET /link/v1/changes", h.changes)
	h.mux.HandleFunc("GET /link/v1/settings", h.settings)
	h.mux.HandleFunc("POST /link/v1/touched", h.touched)
	h.mux.HandleFunc("POST /link/v1/owner", h.owner)
	h.mux.HandleFunc("POST /link/v1/beat", h.beat)
	h.mux.HandleFunc("POST /link/v1/lease", h.lease)
	h.mux.HandleFunc("POST /link/v1/seen", h.seen)
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { h.fail(w, errNoSuchCall) })
	return h
}

// Server is an HTTP server for the handler, with limits for whoever connects.
func (h *Handler) Server() *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: WatchFor + 30*time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	w.Header().Set(linkHeader, "1")
	w.Header().Set("Cache-Control", "no-store")
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			h.log.Error("BUG: a call of a proxy panicked", "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			h.fail(w, errInternal)
		}
	}()
	if !h.authorized(r) {
		h.refused.Add(1)
		h.fail(w, errUnauthorized)
		return
	}
	limit := int64(maxRequest)
	if r.URL.Path == "/link/v1/beat" || r.URL.Path == "/link/v1/lease" {
		limit = maxBeat
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	h.mux.ServeHTTP(w, r)
}

// authorized compares digests, all of them: how long it takes tells nothing of a token.
func (h *Handler) authorized(r *http.Request) bool {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	shown, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	digest, equal := sha256.Sum256([]byte(shown)), 0
	for i := range h.tokens {
		equal |= subtle.ConstantTimeCompare(digest[:], h.tokens[i][:])
	}
	return bearer && equal == 1
}

// fault is an error as it crosses the link.
type fault struct {
	status  int
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *fault) Error() string { return f.Message }

// The faults there are. Client knows them by their code.
var (
	errUnauthorized = &fault{http.StatusUnauthorized, "unauthorized", "this control plane does not accept the proxy's token or certificate"}
	errNoSuchCall   = &fault{http.StatusNotFound, "no_such_call", "this control plane does not know the call: it is of an older release"}
	errBadRequest   = &fault{http.StatusBadRequest, "bad_request", "the call cannot be read"}
	errUnknown      = &fault{http.StatusNotFound, "not_found", "there is no such key or tenant"}
	errLost         = &fault{http.StatusGone, "changes_lost", "the change feed does not reach back this far"}
	errBrokenTenant = &fault{http.StatusUnprocessableEntity, "broken", "the tenant's settings cannot be used"}
	errAway         = &fault{http.StatusServiceUnavailable, "unavailable", "the control plane's database does not answer"}
	errInternal     = &fault{http.StatusInternalServerError, "internal", "the control plane failed; its log says why"}
)

func (h *Handler) fail(w http.ResponseWriter, err error) {
	var f *fault
	switch {
	case errors.As(err, &f):
	case errors.Is(err, tenancy.ErrNotFound):
		f = errUnknown
	case errors.Is(err, tenancy.ErrChangesLost):
		f = errLost
	case errors.Is(err, tenancy.ErrBroken):
		f = errBrokenTenant
	default:
		f = errAway
		h.failed.Add(1)
		h.log.Debug("a call of a proxy failed", "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(f)
}

func (h *Handler) answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		h.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func read[T any](r *http.Request) (value T, err error) {
	if err := json.NewDecoder(r.Body).Decode(&value); err != nil {
		return value, errBadRequest
	}
	return value, nil
}

// hello is what doctor asks for.
type hello struct {
	At      time.Time `json:"at"`
	Version int64     `json:"version"` // of the change feed; 0: the database has not answered yet
	Proxies int       `json:"proxies"`
}

func (h *Handler) hello(w http.ResponseWriter, _ *http.Request) {
	s := h.local.Stats()
	h.answer(w, hello{At: time.Now().UTC(), Version: s.Version, Proxies: s.Proxies}, nil)
}

// asked is what a proxy wants to know of: a key by its digest, or a client.
type asked struct {
	Key     []byte    `json:"key,omitempty"`
	Client  uuid.UUID `json:"client,omitzero"`
	Version int64     `json:"version"` // the answer must hold all changes up to it
}

// loadTimeout bounds a read of the database for a proxy, which itself waits two seconds.
const loadTimeout = 5 * time.Second

func (h *Handler) principal(w http.ResponseWriter, r *http.Request) {
	q, err := read[asked](r)
	if err != nil {
		h.fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), loadTimeout)
	defer cancel()
	var p *tenancy.Principal
	switch source := h.local.source(q.Version); {
	case len(q.Key) == sha256.Size:
		p, err = source.PrincipalByKey(ctx, [sha256.Size]byte(q.Key))
	case len(q.Key) == 0 && q.Client != uuid.Nil:
		p, err = source.PrincipalByClient(ctx, q.Client)
	default:
		err = errBadRequest
	}
	if err != nil {
		h.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(p.Append(nil))
}

func (h *Handler) changes(w http.ResponseWriter, r *http.Request) {
	var after int64
	query := r.URL.Query()
	if _, err := fmt.Sscan(query.Get("after"), &after); err != nil || after < 0 {
		h.fail(w, errBadRequest)
		return
	}
	news, err := h.local.Watch(r.Context(), after, query.Get("settings"))
	if r.Context().Err() != nil {
		return // nobody is there any more
	}
	h.answer(w, news, err)
}

// compressedSettings are settings as they are sent, made once for all proxies.
type compressedSettings struct {
	tag   string
	bytes []byte
}

func (h *Handler) settings(w http.ResponseWriter, r *http.Request) {
	s, err := h.local.Settings(r.Context(), strings.Trim(r.Header.Get("If-None-Match"), `"`))
	if err != nil {
		h.fail(w, err)
		return
	}
	if s == nil {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	c := h.compressed.Load()
	if c == nil || c.tag != s.Tag {
		var b strings.Builder
		z := gzip.NewWriter(&b)
		if _, err := z.Write(s.encoded); err != nil || z.Close() != nil {
			h.fail(w, errInternal)
			return
		}
		c = &compressedSettings{s.Tag, []byte(b.String())}
		h.compressed.Store(c)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Set("ETag", `"`+c.tag+`"`)
	_, _ = w.Write(c.bytes)
}

type touched struct {
	Keys []uuid.UUID `json:"keys"`
	At   time.Time   `json:"at"`
}

func (h *Handler) touched(w http.ResponseWriter, r *http.Request) {
	t, err := read[touched](r)
	if err == nil {
		if now := time.Now(); t.At.After(now) {
			t.At = now // a proxy's clock is ahead
		}
		err = h.local.TouchKeys(r.Context(), t.Keys, t.At)
	}
	h.answer(w, struct{}{}, err)
}

type ownerAsked struct {
	Client uuid.UUID `json:"client"`
	ID     string    `json:"id"`
}

type ownerFound struct {
	OK       bool   `json:"ok"`
	Route    string `json:"route,omitempty"`
	Provider string `json:"provider,omitempty"`
}

func (h *Handler) owner(w http.ResponseWriter, r *http.Request) {
	q, err := read[ownerAsked](r)
	var found ownerFound
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), loadTimeout)
		defer cancel()
		found.Route, found.Provider, found.OK, err = h.local.Owner(ctx, q.Client, q.ID)
	}
	h.answer(w, found, err)
}

func (h *Handler) beat(w http.ResponseWriter, r *http.Request) {
	b, err := read[Beat](r)
	var p Pulse
	if err == nil && b.Report.Name == "" {
		err = errBadRequest
	}
	if err == nil {
		p, err = h.local.Beat(r.Context(), b)
	}
	h.answer(w, p, err)
}

// HandlerStats counts what proxies asked.
type HandlerStats struct{ Requests, Refused, Failed int64 }

// Stats counts since the start.
func (h *Handler) Stats() HandlerStats {
	return HandlerStats{h.requests.Load(), h.refused.Load(), h.failed.Load()}
}
