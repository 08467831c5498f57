package simulator

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// The upstreams, each under the prefix that its base URL is set to.
const (
	gateway   = "gateway"
	openai    = "openai"
	groq      = "groq"
	anthropic = "anthropic"
	google    = "google"
)

// routes are tried in this order; the gateway's prefix is the plainest and comes last.
var routes = []struct{ name, prefix string }{
	{openai, "/openai/v1"},
	{groq, "/groq/openai/v1"},
	{anthropic, "/anthropic/v1"},
	{google, "/google/v1beta/openai"},
	{gateway, "/v1"},
}

// endpoint is one line of what an upstream offers.
type endpoint struct {
	method string
	path   string
	sub    bool     // the path goes on: an id
	routes []string // where it exists
	serve  func(*call)
}

// unconfirmed are paths nobody has seen at the gateway; it has them here unless Config.Strict.
var unconfirmed = []string{"completions", "moderations", "audio/translations"}

var endpoints = []endpoint{
	{"POST", "chat/completions", false, []string{gateway, openai, groq, anthropic, google}, (*call).chat},
	{"POST", "completions", false, []string{gateway, openai}, (*call).completions},
	{"POST", "embeddings", false, []string{gateway, openai, google}, (*call).embeddings},
	{"POST", "responses", false, []string{gateway, openai, groq}, (*call).responses},
	{"GET", "responses", true, []string{gateway, openai}, (*call).storedResponse},
	{"DELETE", "responses", true, []string{gateway, openai}, (*call).deleteResponse},
	{"POST", "moderations", false, []string{gateway, openai}, (*call).moderations},
	{"POST", "audio/transcriptions", false, []string{gateway, openai, groq}, (*call).transcriptions},
	{"POST", "audio/translations", false, []string{gateway, openai, groq}, (*call).transcriptions},
	{"POST", "audio/speech", false, []string{gateway, openai, groq}, (*call).speech},
	{"POST", "images/generations", false, []string{gateway, openai, google}, (*call).images},
	{"GET", "models", false, []string{gateway, openai, groq, anthropic, google}, (*call).models},
	{"GET", "models", true, []string{gateway, openai, groq, anthropic, google}, (*call).oneModel},
	{"GET", "credits", false, []string{gateway}, (*call).credits},
	{"GET", "generation", false, []string{gateway}, (*call).generation},
}

func (e *endpoint) at(route string, strict bool) bool {
	if strict && route == gateway && slices.Contains(unconfirmed, e.path) {
		return false
	}
	return slices.Contains(e.routes, route)
}

// open endpoints need no key.
func (e *endpoint) open(route string) bool { return route == gateway && e.path == "models" }

// headers sets what the upstream sends on every answer, beside its content type.
func (c *call) headers() {
	h := c.w.Header()
	n := strconv.FormatInt(c.number, 10)
	ms := strconv.FormatInt(time.Since(c.started).Milliseconds(), 10)
	switch c.route {
	case gateway:
		h.Set("Server", "Vercel")
		h.Set("Cache-Control", "public, max-age=0, must-revalidate")
		h.Set("X-Vercel-Id", "gru1::iad1::"+c.sim.opaque(5, "vercel", n)+"-"+strconv.FormatInt(c.started.UnixMilli(), 10)+"-"+c.sim.opaque(12, "v", n))
		h.Set("X-Vercel-Cache", "MISS")
	case openai:
		h.Set("Server", "cloudflare")
		h.Set("X-Request-Id", "req_"+c.sim.opaque(32, "openai", n))
		h.Set("Openai-Version", "2020-10-01")
		h.Set("Openai-Organization", "org-simulada")
		h.Set("Openai-Processing-Ms", ms)
		h.Set("Set-Cookie", "__cf_bm="+c.sim.opaque(24, "cf", n)+"; path=/; HttpOnly; Secure; SameSite=None")
		c.rateHeaders(10_000, 30_000_000, "6ms", "0s")
	case groq:
		h.Set("X-Request-Id", "req_01"+c.sim.opaque(24, "groq", n))
		h.Set("X-Groq-Region", "gru")
		// The request limit of this provider is a day's, the token limit a minute's.
		c.rateHeaders(14_400, 300_000, "6s", "7.66ms")
	case anthropic:
		h.Set("Request-Id", "req_01"+c.sim.opaque(22, "anthropic", n))
		h.Set("Openai-Version", "2020-10-01")
		h.Set("Openai-Processing-Ms", "")
		c.rateHeaders(4_000, 400_000, "1s", "1s")
	case google:
		h.Set("Server-Timing", "gfet4t7; dur="+ms)
		h.Set("Vary", "Origin, X-Origin, Referer")
	}
}

func (c *call) rateHeaders(requests, tokens int64, resetRequests, resetTokens string) {
	h := c.w.Header()
	h.Set("X-Ratelimit-Limit-Requests", strconv.FormatInt(requests, 10))
	h.Set("X-Ratelimit-Remaining-Requests", strconv.FormatInt(max(0, requests-1), 10))
	h.Set("X-Ratelimit-Reset-Requests", resetRequests)
	h.Set("X-Ratelimit-Limit-Tokens", strconv.FormatInt(tokens, 10))
	h.Set("X-Ratelimit-Remaining-Tokens", strconv.FormatInt(max(0, tokens-c.made.total()), 10))
	h.Set("X-Ratelimit-Reset-Tokens", resetTokens)
}

// contentType is what the upstream calls JSON, and a stream of events.
func (c *call) contentType(streamed bool) string {
	switch {
	case streamed && c.route == openai, streamed && c.route == anthropic:
		return "text/event-stream; charset=utf-8"
	case streamed:
		return "text/event-stream"
	case c.route == google:
		return "application/json; charset=UTF-8"
	}
	return "application/json"
}

// epoch is the day deterministic answers are dated.
const epoch = 1_773_346_188

// created is the answer's time in seconds.
func (c *call) created() int64 {
	if c.sim.cfg.UniqueIDs {
		return c.started.Unix()
	}
	d := c.idDice
	return epoch + int64(d.below(86_400))
}

// letters draws n characters of an id; kind keeps the ids of one answer apart.
func (c *call) letters(kind, alphabet string, n int) string {
	d := seeded(int64(c.idDice), []byte(kind))
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[d.below(len(alphabet))]
	}
	return string(b)
}

const (
	base62    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	hexLower  = "0123456789abcdef"
)

// ulid is 48 bits of time and 80 drawn ones.
func (c *call) ulid() string {
	ms := uint64(c.created())*1000 + uint64(c.idDice%1000)
	var b [26]byte
	for i := 9; i >= 0; i-- {
		b[i] = crockford[ms&31]
		ms >>= 5
	}
	copy(b[10:], c.letters("ulid", crockford, 16))
	return string(b[:])
}

func (c *call) uuid() string {
	sum := sha256.Sum256([]byte(c.letters("uuid", hexLower, 32)))
	id, err := uuid.FromBytes(sum[:16])
	if err != nil {
		panic("BUG: sixteen bytes are a UUID: " + err.Error())
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id.String()
}

// chatID is the id of a chat completion, in the upstream's fashion.
func (c *call) chatID() string {
	switch c.route {
	case gateway:
		return "gen_" + c.ulid()
	case groq:
		return "chatcmpl-" + c.uuid()
	case anthropic:
		return "msg_01" + c.letters("chat", base62, 22)
	case google:
		return base64.RawURLEncoding.EncodeToString([]byte(c.letters("chat", base62, 16)))
	}
	return "chatcmpl-" + c.letters("chat", base62, 29)
}

func (c *call) fingerprint() string { return "fp_" + c.letters("fingerprint", hexLower, 10) }

// served is the model the answer names.
func (c *call) served() string {
	if c.traits.has("wrong-model") {
		return "sim/quite-another-model"
	}
	return c.model
}

// unlucky says whether the error rate picks this request, and with which status.
func (c *call) unlucky() (status int, ok bool) {
	if c.sim.cfg.ErrorRate == 0 {
		return 0, false
	}
	d := rand.New(rand.NewPCG(uint64(c.sim.cfg.Seed), uint64(c.number)))
	return []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable}[d.IntN(3)], d.Float64() < c.sim.cfg.ErrorRate
}

// object ids of the responses endpoint: resp_…, msg_…, fc_….
func (c *call) hexID(prefix string) string {
	return fmt.Sprintf("%s_%s", prefix, c.letters(prefix, hexLower, 48))
}
