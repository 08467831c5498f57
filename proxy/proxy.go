// Package proxy carries one OpenAI call from its first byte to its last.
//
//	client ─► head ─► identify ─► read ─► choose ─► (cache) ─► hold ─► open ─► forward ─► relay ─► settle ─► client
//	          one     whose       the     model,    answers    money     the     upstream   plain or  count,
//	          pass    request     few     target    paid for   for it    spool   exchange   streamed  cost, close
//	                  it is       fields            already
//
// The step in brackets has its place in call.run and a package of its own.
//
// Promises:
//   - What the client sent goes out as it came, but for the edits that openai.Request.AimAt lists; what the upstream
//     answered comes back as it came, but for what we asked for and the client did not.
//   - A call that was opened is closed, once, whatever happens: call.settle is the one place.
//   - A client with hard budgets has no call sent upstream but with its worst case held (budget.go), and the hold ends with
//     the call: settled for what the meter was told, or let go.
//   - The client leaving ends the upstream's work within a second, streamed or not (watch.go), unless its tenant has
//     answers read on to the exact bill; that has bounds (gone.go).
//   - An answer that the upstream did not finish never looks finished to the client.
//   - Every error a client can meet is made in errors.go and holds no secret, address or other tenant's data.
package proxy

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// Keys says whose request it is. Both answer from memory but for what they have not served yet.
type Keys interface {
	Key(ctx context.Context, secret []byte) (*tenancy.Principal, error)
	Client(ctx context.Context, id []byte) (*tenancy.Principal, error)
}

// Meter remembers a call before it leaves and again when it has ended.
type Meter interface {
	Open(e *metering.Event) error
	Progress(e *metering.Event)
	Close(e *metering.Event)
}

// Prices is the registry and the day's exchange rate; both never wait.
type Prices interface {
	Catalog() *metering.Catalog
	Rate() metering.ExchangeRate
}

// Owners tells which route a stored answer of a client was made on, and whether it is that client's at all: with one
// shared key, the upstream cannot tell tenants apart.
type Owners interface {
	Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error)
}

// Options is all that a Proxy is built from.
type Options struct {
	Keys   Keys
	Meter  Meter
	Prices Prices
	Owners Owners
	Routes *upstream.Routes

	Budgets       Budgets       // nil: nobody has any
	Conversations Conversations // nil: each replica knows of its own

	UseGateway    bool           // first level of the flag: ENABLE_AI_GATEWAY
	UnknownModels tenancy.Policy // for tenants that have none of their own
	TrustClientID bool           // accept X-Client-Id without a key
	CallerToken   string         // what X-Catraca-Token must be where X-Client-Id is trusted; empty: not asked for
	MaxBody       int            // bytes of a request body
	ReadTimeout   time.Duration  // for a whole request to arrive
	IdleTimeout   time.Duration  // between requests of one connection
	WriteTimeout  time.Duration  // for a client that reads nothing
	ReadOn        ReadOn         // bounds, for tenants that have answers read on when their clients have gone

	Log      *slog.Logger
	Registry prometheus.Registerer
}

// Proxy serves the OpenAI wire. It is safe for any number of connections.
type Proxy struct {
	Options
	server   *fasthttp.Server
	metrics  *metrics
	watch    *watch
	owned    *owned
	loops    *loops
	tails    *tails
	warned   *recent[struct{}] // what was logged and shall not be again for a while
	seed     maphash.Seed
	born     time.Time
	calls    sync.Pool
	idBase   uint64
	idNext   atomic.Uint64
	draining atomic.Bool
}

// New builds a Proxy. It listens when Serve is called.
func New(o Options) *Proxy {
	p := &Proxy{
		Options: o, idBase: rand.Uint64(), watch: newWatch(o.WriteTimeout, o.ReadOn), owned: newOwned(),
		loops: newLoops(), tails: newTails(), warned: newRecent[struct{}](4096, time.Hour), seed: maphash.MakeSeed(), born: time.Now(),
	}
	p.metrics = newMetrics(o.Registry, o.Routes.All(), p.watch)
	p.calls.New = func() any { return &call{p: p} }
	p.server = &fasthttp.Server{
		Handler:               p.handle,
		ErrorHandler:          p.refuseMalformed,
		ExpectHandler:         p.expect,
		MaxRequestBodySize:    o.MaxBody,
		ReadBufferSize:        maxRequestHead,
		ReadTimeout:           o.ReadTimeout,
		IdleTimeout:           o.IdleTimeout,
		NoDefaultServerHeader: true,
		NoDefaultContentType:  true,
		SecureErrorLogMessage: true,
		CloseOnShutdown:       true,
		// Multipart bodies are forwarded as they came; parsing them into files would lose that.
		DisablePreParseMultipartForm: true,
		Concurrency:                  1 << 20,
		Logger:                       discardLogger{},
	}
	return p
}

// maxRequestHead bounds a request's header block: official SDKs send 0.5 to 1 KiB, and common servers take 8. It is
// also what every open connection holds of memory.
const maxRequestHead = 8 << 10

// discardLogger drops what fasthttp logs about single connections: it quotes addresses and bytes of clients. What
// matters of it is counted in metrics.
type discardLogger struct{}

func (discardLogger) Printf(string, ...any) {}

// Serve answers on ln until ctx is done; then it stops accepting, lets open calls end for at most drain, and cuts what
// is left.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener, drain time.Duration) error {
	stopWatch := p.watch.run()
	defer stopWatch()
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(p.watch.wrap(ln)) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	p.draining.Store(true)
	p.watch.draining.Store(true)
	limit, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	end := time.Now().Add(drain)
	err := p.server.ShutdownWithContext(limit)
	_ = ln.Close() // a server that had not begun to serve leaves it open, and would begin now
	if err == nil && p.watch.wait(time.Until(end)) != nil {
		err = context.DeadlineExceeded // streams to HTTP/1.0 clients, which were taken from the server
	}
	if errors.Is(err, context.DeadlineExceeded) {
		n := p.watch.closeAll()
		p.Log.Warn("calls were cut at the end of the drain time", "connections", n, "drain", drain)
		err = p.watch.wait(5 * time.Second)
	}
	for _, t := range p.Routes.All() {
		t.CloseIdle(0)
	}
	return errors.Join(err, <-served)
}
