package proxy

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	_ "modernc.org/sqlite"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/migrations"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// A world is a proxy on a real listener, with everything around it under the test's hand. What the upstream does is a
// function of the test.
type world struct {
	t     testing.TB
	proxy *Proxy
	addr  string
	meter *meter
	keys  *keys
	own   *owners
	up    *fakeUpstream
	log   *lockedBuffer
	stop  func() error // ends Serve and returns what it returned; may be called again
}

// Secrets that must be seen in no answer, log or metric.
var secrets = map[string]string{
	"gateway":   "vck_canary_gateway_0123456789",
	"openai":    "sk-canary-openai-0123456789",
	"groq":      "gsk_canary_groq_0123456789",
	"anthropic": "sk-ant-canary-0123456789",
	"google":    "AIzaCanaryGoogle0123456789",
}

const callerToken = "caller-canary-0123456789"

// start makes a world. serve is run for every connection that the proxy makes upstream.
func start(t testing.TB, serve func(c *upConn), change func(*Options)) *world {
	t.Helper()
	return startWith(t, serve, defaultTimeouts, time.Second, change)
}

func startWith(t testing.TB, serve func(c *upConn), timeouts upstream.Timeouts, drain time.Duration, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t, keys: theTenants(), own: &owners{}, log: &lockedBuffer{}}
	w.meter = newMeter(t)
	w.up = listenUpstream(t, serve)
	o := Options{
		Keys: w.keys, Meter: w.meter, Prices: prices{theCatalog()}, Owners: w.own, Routes: w.routes(timeouts),
		UseGateway: true, UnknownModels: tenancy.RefuseUnknown, MaxBody: 32 << 20,
		ReadTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Registry: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&o)
	}
	w.serve(o, drain)
	t.Cleanup(func() {
		if err := w.stop(); err != nil && !t.Failed() {
			t.Error("stop:", err)
		}
		w.up.close()
		w.meter.check()
		for name, secret := range secrets {
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("the log holds the %s key", name)
			}
		}
	})
	return w
}

var defaultTimeouts = upstream.Timeouts{Connect: 5 * time.Second, FirstByte: 20 * time.Second, Idle: 20 * time.Second}

func (w *world) routes(timeouts upstream.Timeouts) *upstream.Routes {
	w.t.Helper()
	base := "http://" + w.up.addr
	r, err := upstream.NewRoutes([]upstream.TargetConfig{
		{Route: "gateway", Provider: "vercel", BaseURL: base + "/gateway/v1", APIKey: secrets["gateway"]},
		{Route: "direct", Provider: "openai", BaseURL: base + "/openai/v1", APIKey: secrets["openai"]},
		{Route: "direct", Provider: "groq", BaseURL: base + "/groq/openai/v1", APIKey: secrets["groq"]},
		{Route: "direct", Provider: "anthropic", BaseURL: base + "/anthropic/v1/", APIKey: secrets["anthropic"]},
		{Route: "direct", Provider: "google", BaseURL: base + "/google/v1beta/openai/", APIKey: secrets["google"]},
	}, timeouts)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) serve(o Options, drain time.Duration) {
	w.t.Helper()
	w.proxy = New(o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.proxy.Serve(ctx, ln, drain) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-served:
			return err
		case <-time.After(20 * time.Second):
			return fmt.Errorf("Serve did not return")
		}
	})
}

// metric is the sum of a counter or gauge over its labels.
func (w *world) metric(name string) (sum float64) {
	w.t.Helper()
	families, err := w.proxy.Registry.(*prometheus.Registry).Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// keys knows the tenants of all tests.
type keys struct {
	byKey    map[string]*tenancy.Principal
	byClient map[string]*tenancy.Principal
	before   *hook // of every look-up
}

func (k *keys) Key(_ context.Context, secret []byte) (*tenancy.Principal, error) {
	k.before.call()
	if p := k.byKey[string(secret)]; p != nil {
		return p, nil
	}
	if string(secret) == "ck_unavailable" {
		return nil, fmt.Errorf("keyring: %w", tenancy.ErrUnavailable)
	}
	return nil, tenancy.ErrInvalidKey
}

func (k *keys) Client(_ context.Context, id []byte) (*tenancy.Principal, error) {
	if p := k.byClient[strings.ToLower(string(id))]; p != nil {
		return p, nil
	}
	return nil, tenancy.ErrInvalidKey
}

// clientID is the id of a tenant of the tests: its number, in a form that can be told.
func clientID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}

// tenants are made through the store, because a Principal cannot be made otherwise. A tenant's key is ck_ and its name.
var tenants = sync.OnceValue(func() *keys {
	dir, err := os.MkdirTemp("", "catraca")
	must(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "tenants.db")+"?_txlock=immediate")
	must(err)
	defer db.Close()
	ctx := context.Background()
	must(migrations.Up(ctx, db, migrations.SQLite))
	vault, err := tenancy.ParseMasterKeys(tenancy.NewMasterKey())
	must(err)
	store := tenancy.NewSQLite(db, vault)
	k := &keys{byKey: map[string]*tenancy.Principal{}, byClient: map[string]*tenancy.Principal{}}
	for i, t := range []tenancy.Tenant{
		{Name: "gateway", UseGateway: true},
		{Name: "direct"},
		{Name: "other", UseGateway: true},
		{Name: "raw", UseGateway: true, RawPhones: true},
		{Name: "few", UseGateway: true, AllowedModels: []string{"openai/gpt-4o-mini", "text-embedding-3-small", "acme/unheard-of"}, UnknownModels: tenancy.MeterUnknown},
		{Name: "default", UseGateway: true, DefaultModel: "gpt-4o-mini"},
		{Name: "unknown", UseGateway: true, UnknownModels: tenancy.MeterUnknown},
		{Name: "unknown-direct", UnknownModels: tenancy.MeterUnknown},
		{Name: "paused", UseGateway: true, Paused: true, PausedReason: "fatura em atraso"},
		{Name: "exact", UseGateway: true, OnClientGone: tenancy.ReadOnGone, UnknownModels: tenancy.MeterUnknown},
		{Name: "exact-direct", OnClientGone: tenancy.ReadOnGone},
	} {
		t.ID, t.TimeZone = clientID(i+1), "America/Sao_Paulo"
		t, err = store.CreateTenant(ctx, t)
		must(err)
		_, digest, prefix := tenancy.NewSecret()
		_, err = store.CreateKey(ctx, tenancy.Key{ClientID: t.ID, Name: "test", Prefix: prefix}, digest)
		must(err)
		p, err := store.PrincipalByKey(ctx, digest)
		must(err)
		k.byKey["ck_"+t.Name] = p
		p, err = store.PrincipalByClient(ctx, t.ID)
		must(err)
		k.byClient[t.ID.String()] = p
	}
	return k
})

func theTenants() *keys {
	k := *tenants()
	k.before = new(hook)
	return &k
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// prices has a catalog and a rate that never change.
type prices struct{ catalog *metering.Catalog }

func (p prices) Catalog() *metering.Catalog { return p.catalog }

func (p prices) Rate() metering.ExchangeRate {
	return metering.ExchangeRate{Rate: 5 * money.RateUnit, Date: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"}
}

var theModels = func() (list []metering.Model) {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	add := func(provider, name, gatewayID string, change func(*metering.Model, *metering.Price)) {
		none := metering.NoPrice
		m := metering.Model{
			ID: clientID(100 + len(list)), Provider: provider, Name: name, GatewayID: gatewayID, Kind: "language", Active: true, CreatedAt: day,
		}
		p := metering.Price{
			ID: clientID(200 + len(list)), ModelID: m.ID, From: day, Source: "seed", Input: none, Output: none, Cached: none, CacheWrite: none,
			AudioInput: none, AudioOutput: none, AudioSecond: none, Image: none, Character: none,
		}
		change(&m, &p)
		m.Prices = []metering.Price{p}
		list = append(list, m)
	}
	// perMillion sets token prices in cents for a million tokens.
	perMillion := func(in, out, cached money.Pico) func(*metering.Model, *metering.Price) {
		return func(_ *metering.Model, p *metering.Price) {
			p.Input, p.Output, p.Cached = in*10_000, out*10_000, cached*10_000
		}
	}
	add("openai", "gpt-4o-mini", "openai/gpt-4o-mini", perMillion(15, 60, 7))
	add("openai", "gpt-4o", "openai/gpt-4o", perMillion(250, 1000, 125))
	add("groq", "llama-3.3-70b-versatile", "meta/llama-3.3-70b", perMillion(59, 79, 59))
	add("anthropic", "claude-sonnet-4-5", "anthropic/claude-sonnet-4.5", perMillion(300, 1500, 30))
	add("google", "gemini-2.5-flash", "google/gemini-2.5-flash", perMillion(30, 250, 3))
	add("openai", "gpt-3.5-turbo-instruct", "openai/gpt-3.5-turbo-instruct", perMillion(150, 200, 150))
	add("openai", "text-embedding-3-small", "openai/text-embedding-3-small", perMillion(2, 0, 2))
	add("openai", "omni-moderation-latest", "openai/omni-moderation-latest", perMillion(0, 0, 0))
	add("openai", "gpt-4o-transcribe", "openai/gpt-4o-transcribe", perMillion(250, 1000, 250))
	add("openai", "whisper-1", "openai/whisper-1", func(_ *metering.Model, p *metering.Price) { p.AudioSecond = money.Unit / 10_000 })
	add("openai", "tts-1", "openai/tts-1", func(_ *metering.Model, p *metering.Price) { p.Character = money.Unit / 1_000_000 * 15 })
	add("openai", "dall-e-2", "openai/dall-e-2", func(_ *metering.Model, p *metering.Price) { p.Image = money.Unit / 100 * 2 })
	add("openai", "gpt-image-1", "openai/gpt-image-1", perMillion(500, 4000, 125))
	add("openai", "gpt-retired", "openai/gpt-retired", func(m *metering.Model, p *metering.Price) {
		m.Active = false
		p.Input, p.Output = 1, 1
	})
	add("openai", "gpt-leaving", "openai/gpt-leaving", func(m *metering.Model, p *metering.Price) {
		m.RetiresAt = time.Date(2027, 3, 31, 0, 0, 0, 0, time.UTC)
		p.Input, p.Output = 1, 1
	})
	return list
}()

var theCatalog = sync.OnceValue(func() *metering.Catalog { return metering.NewCatalog(theModels) })

func modelName(id uuid.UUID) string {
	for _, m := range theModels {
		if m.ID == id {
			return m.GatewayID
		}
	}
	return "none"
}

// owners answers for the ledger. What it is not told of belongs to nobody.
type owners struct {
	mu    sync.Mutex
	made  map[string]owner
	fails error
	asked int
}

func (o *owners) Owner(_ context.Context, client uuid.UUID, id string) (route, provider string, ok bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.fails != nil {
		return "", "", false, o.fails
	}
	who, ok := o.made[id]
	if !ok || who.client != client {
		return "", "", false, nil
	}
	return who.route, who.provider, true, nil
}

// meter holds the proxy to its promise: every call that was opened is closed, once.
type meter struct {
	t testing.TB

	mu       sync.Mutex
	changed  *sync.Cond
	seq      uint64
	open     map[uint64]metering.Event
	opened   []metering.Event
	closed   []metering.Event
	progress []metering.Event
	refuse   error
	onOpen   hook
	onClose  hook
}

// hook is something that a test makes happen, now or no more.
type hook struct{ f atomic.Pointer[func()] }

func (h *hook) set(f func()) { h.f.Store(&f) }

func (h *hook) call() {
	if f := h.f.Load(); f != nil && *f != nil {
		(*f)()
	}
}

func newMeter(t testing.TB) *meter {
	m := &meter{t: t, open: map[uint64]metering.Event{}}
	m.changed = sync.NewCond(&m.mu)
	return m
}

func (m *meter) Open(e *metering.Event) error {
	m.onOpen.call()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return m.refuse
	}
	m.seq++
	e.Incarnation, e.Seq = 7, m.seq
	m.open[m.seq] = clone(e)
	m.opened = append(m.opened, clone(e))
	return nil
}

func (m *meter) Progress(e *metering.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.open[e.Seq]; !ok {
		m.t.Errorf("progress of call %d, which is not open", e.Seq)
	}
	m.progress = append(m.progress, clone(e))
}

func (m *meter) Close(e *metering.Event) {
	m.mu.Lock()
	before, ok := m.open[e.Seq]
	switch {
	case !ok:
		m.t.Errorf("call %d was closed that was not open", e.Seq)
	case before.RequestID != e.RequestID || before.ClientID != e.ClientID || !before.AdmittedAt.Equal(e.AdmittedAt) || before.Endpoint != e.Endpoint:
		m.t.Errorf("call %d was opened as %+v and closed as %+v", e.Seq, before, *e)
	}
	delete(m.open, e.Seq)
	m.closed = append(m.closed, clone(e))
	m.changed.Broadcast()
	m.mu.Unlock()
	m.onClose.call()
}

// wait returns the n-th event that was closed, from 1.
func (m *meter) wait(n int) metering.Event {
	m.t.Helper()
	timer := time.AfterFunc(10*time.Second, m.changed.Broadcast)
	defer timer.Stop()
	end := time.Now().Add(10 * time.Second)
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.closed) < n {
		if time.Now().After(end) {
			m.t.Fatalf("%d calls were closed, waiting for the %dth; %d are open", len(m.closed), n, len(m.open))
		}
		m.changed.Wait()
	}
	return m.closed[n-1]
}

func (m *meter) counts() (opened, closed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int(m.seq), len(m.closed)
}

func (m *meter) check() {
	if opened, closed := m.counts(); opened != closed {
		m.t.Errorf("%d calls were opened and %d closed", opened, closed)
	}
}

// clone copies an event with its strings, which point into buffers that are used again.
func clone(e *metering.Event) metering.Event {
	c := *e
	c.Holds = slices.Clone(e.Holds)
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(strings.Clone(f.String()))
		}
	}
	return c
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ io.Writer = (*lockedBuffer)(nil)
