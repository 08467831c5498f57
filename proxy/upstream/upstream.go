// Package upstream speaks HTTP/1.1 to the gateway and to the providers: one exchange at a time, byte for byte.
//
//	Routes.Pick ──► Target ──► Exchange: write head and body ──► read the answer's head ──► Body.Next …
//	(which one)     (address,   (a connection of the target's     (into the client's        (framing taken off,
//	                 key, pool)  pool, kept when all went well)     response header)          cuts told from ends)
//
// fasthttp's own client hides what a meter must know: a stream that its peer cut at a chunk boundary reads as a clean
// end, its timeouts run over whole streams, and it retries what costs money. So the exchange is written here, on
// fasthttp's header reader, and promises:
//   - io.EOF from Body.Next means that the framing said so; everything else is ErrTruncated or a timeout.
//   - A request is sent at most twice, the second time only when a kept connection turned out to be closed before one
//     byte of an answer.
//   - No timer runs over a whole answer: only over the wait for the first byte, and between bytes.
package upstream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Errors of an exchange, for the proxy to translate.
var (
	ErrConnect   = errors.New("upstream could not be reached")
	ErrTimeout   = errors.New("upstream did not answer in time")
	ErrTruncated = errors.New("upstream broke off its answer")
	ErrMalformed = errors.New("upstream sent a malformed answer")
	ErrEncoding  = errors.New("upstream sent an encoding that was not asked for and cannot be read")
	ErrCancelled = errors.New("the client went away")
)

// Timeouts bound the silent stretches of an exchange.
type Timeouts struct {
	Connect   time.Duration // dialling and TLS
	FirstByte time.Duration // from the request to the first byte of the answer's head
	Idle      time.Duration // between two bytes of a body, either way
}

// TargetConfig names one place that requests can be sent to.
type TargetConfig struct {
	Route    string // "gateway" or "direct"
	Provider string // "openai", …; for the gateway "vercel"
	BaseURL  string // with the path up to where "/chat/completions" follows
	APIKey   string
}

// Target is one place that requests can be sent to, with its connections.
type Target struct {
	Route    string
	Provider string

	secret   []byte
	basePath string
	head     []byte // the header lines that every request carries: host, authorization, no compression
	timeouts Timeouts
	pool     pool
}

// NewTarget checks the configuration and prepares the pool. It does not connect.
func NewTarget(cfg TargetConfig, t Timeouts) (*Target, error) {
	u, err := url.Parse(cfg.BaseURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("base URL of %s/%s must look like https://host/path", cfg.Route, cfg.Provider)
	}
	if strings.ContainsAny(cfg.APIKey, "\r\n\x00 ") {
		return nil, fmt.Errorf("API key of %s/%s holds a space or line break: set it again without", cfg.Route, cfg.Provider)
	}
	addr, host := u.Host, u.Hostname()
	if u.Port() == "" {
		addr = net.JoinHostPort(host, map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	target := &Target{
		Route: cfg.Route, Provider: cfg.Provider, secret: []byte(cfg.APIKey),
		basePath: strings.TrimRight(u.EscapedPath(), "/"),
		timeouts: t,
		pool:     pool{addr: addr, connect: t.Connect},
	}
	if u.Scheme == "https" {
		target.pool.tls = &tls.Config{
			ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(64),
		}
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, " HTTP/1.1\r\nHost: %s\r\nAccept-Encoding: identity\r\n", u.Host)
	if cfg.APIKey != "" {
		fmt.Fprintf(&head, "Authorization: Bearer %s\r\n", cfg.APIKey)
	}
	target.head = head.Bytes()
	return target, nil
}

// Secret is the key that requests carry, for finding it where it must not be seen.
func (t *Target) Secret() []byte { return t.secret }

// CloseIdle closes connections that have been idle for longer than keep; zero closes all idle ones.
func (t *Target) CloseIdle(keep time.Duration) { t.pool.closeIdle(keep) }

// Routes holds every configured target. It is immutable; a change of keys makes a new one.
type Routes struct {
	gateway *Target
	direct  map[string]*Target
}

// ErrNoRoute says that no configured target can serve a request.
type ErrNoRoute struct{ Route, Provider string }

func (e *ErrNoRoute) Error() string {
	if e.Route == "gateway" {
		return "no gateway is configured: set AI_GATEWAY_API_KEY"
	}
	return fmt.Sprintf("no direct route to provider %q is configured", e.Provider)
}

// NewRoutes builds the set of targets. At most one is the gateway.
func NewRoutes(configs []TargetConfig, t Timeouts) (*Routes, error) {
	r := &Routes{direct: make(map[string]*Target)}
	var errs []error
	for _, cfg := range configs {
		target, err := NewTarget(cfg, t)
		switch {
		case err != nil:
			errs = append(errs, err)
		case cfg.Route == "gateway":
			r.gateway = target
		default:
			r.direct[cfg.Provider] = target
		}
	}
	return r, errors.Join(errs...)
}

// Pick chooses where a request goes: the gateway when it may be used, else directly to the model's provider.
func (r *Routes) Pick(useGateway bool, provider string) (*Target, error) {
	if useGateway {
		if r.gateway == nil {
			return nil, &ErrNoRoute{Route: "gateway"}
		}
		return r.gateway, nil
	}
	if t := r.direct[provider]; t != nil {
		return t, nil
	}
	return nil, &ErrNoRoute{Route: "direct", Provider: provider}
}

// Named finds the target that an earlier call was sent to, by the names on its ledger row.
func (r *Routes) Named(route, provider string) (*Target, error) {
	return r.Pick(route == "gateway", provider)
}

// All lists the targets, the gateway first.
func (r *Routes) All() []*Target {
	var all []*Target
	if r.gateway != nil {
		all = append(all, r.gateway)
	}
	for _, t := range r.direct {
		all = append(all, t)
	}
	return all
}
