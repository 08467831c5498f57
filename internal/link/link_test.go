package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// world is a control plane's stores in memory.
type world struct {
	mu      sync.Mutex
	keys    map[[32]byte]*tenancy.Principal
	feed    []tenancy.Change
	loads   int
	looks   int
	touched int
	away    bool
	rate    metering.ExchangeRate
	models  []metering.Model
	reports []metering.ProxyReport
}

var errWorldAway = errors.New("the database is away: dial tcp 10.0.0.1:5432 password=hunter2")

func newWorld() *world {
	return &world{keys: map[[32]byte]*tenancy.Principal{}, feed: []tenancy.Change{{Version: 1}}, rate: metering.ExchangeRate{Rate: 514_420_000, Source: "ptax"}}
}

func (w *world) change(client uuid.UUID) {
	w.feed = append(w.feed, tenancy.Change{Version: w.feed[len(w.feed)-1].Version + 1, ClientID: client})
}

// add makes a tenant with a key, or changes it.
func (w *world) set(t testing.TB, id uuid.UUID, digest [32]byte, name string, zone string) {
	t.Helper()
	p, err := tenancy.NewPrincipal(tenancy.Tenant{ID: id, Name: name, TimeZone: zone}, tenancy.Key{ID: uuid.New()}, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys[digest] = p
	w.change(id)
}

func (w *world) drop(digest [32]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.keys[digest].ClientID
	delete(w.keys, digest)
	w.change(id)
}

func (w *world) PrincipalByKey(_ context.Context, digest [32]byte) (*tenancy.Principal, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loads++
	if w.away {
		return nil, errWorldAway
	}
	if p := w.keys[digest]; p != nil {
		return p, nil
	}
	return nil, tenancy.ErrNotFound
}

func (w *world) PrincipalByClient(_ context.Context, id uuid.UUID) (*tenancy.Principal, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.keys {
		if p.ClientID == id {
			return p, nil
		}
	}
	return nil, tenancy.ErrNotFound
}

func (w *world) Changes(_ context.Context, after int64) ([]tenancy.Change, int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	newest := w.feed[len(w.feed)-1].Version
	switch {
	case w.away:
		return nil, after, errWorldAway
	case after == 0:
		return nil, newest, nil
	}
	for i, c := range w.feed {
		if c.Version == after {
			return append([]tenancy.Change(nil), w.feed[i+1:]...), newest, nil
		}
	}
	return nil, after, tenancy.ErrChangesLost
}

func (w *world) TouchKeys(_ context.Context, ids []uuid.UUID, _ time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.touched += len(ids)
	return nil
}

func (w *world) Owner(_ context.Context, _ uuid.UUID, id string) (route, provider string, ok bool, err error) {
	return "direct", "openai", id == "resp_1", nil
}

func (w *world) Report(_ context.Context, reports []metering.ProxyReport) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports = append(w.reports, reports...)
	return nil
}

func (w *world) Proxies(context.Context, time.Time) ([]metering.ProxyReport, error) { return nil, nil }

func (w *world) catalog(context.Context) (*metering.Catalog, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errWorldAway
	}
	return metering.NewCatalog(w.models), nil
}

func (w *world) options() LocalOptions {
	return LocalOptions{
		Tenants: w, Cache: true, Catalog: w.catalog, Owners: w, Fleet: w, SigningKeys: [][]byte{bytes.Repeat([]byte{1}, 32)},
		Rate: func() metering.ExchangeRate { w.mu.Lock(); defer w.mu.Unlock(); return w.rate },
	}
}

// background runs something until the test ends, and waits for it.
func background(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

const goodToken = "sidecar-0123456789abcdef"

// control is a control plane over a world, listening.
func control(t testing.TB, w *world, tokens ...string) (local *Local, h *Handler, address string) {
	t.Helper()
	local = NewLocal(w.options())
	background(t, local.Run)
	h = NewHandler(local, tokens, nil)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return local, h, server.URL
}

func eventually(t testing.TB, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}

// listen serves on a free port until the test ends, and gives the address.
func listen(t testing.TB, serve func(net.Listener) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = serve(listener) }()
	return "http://" + listener.Addr().String()
}

func TestMain(m *testing.M) { testenv.Main(m) }

func digestOf(i int) [32]byte { return sha256.Sum256([]byte(fmt.Sprint("key ", i))) }

func TestAProxyIsToldWhatItAsks(t *testing.T) {
	w := newWorld()
	id := uuid.New()
	w.models = []metering.Model{{ID: uuid.New(), Provider: "openai", Name: "gpt-4o", GatewayID: "openai/gpt-4o", Active: true, Prices: []metering.Price{{Input: 5, Output: metering.NoPrice, Tiers: []metering.Tier{{MinInput: 9, Input: 7}}}}}}
	w.set(t, id, digestOf(1), "ACME", "America/Manaus")
	_, _, address := control(t, w, goodToken)
	c := NewClient(address, goodToken, nil)
	ctx := t.Context()
	eventually(t, 2*time.Second, "the control plane is ready", func() bool { _, err := c.Settings(ctx, ""); return err == nil })

	p, err := c.PrincipalByKey(ctx, digestOf(1))
	if err != nil || p.ClientID != id || p.Name != "ACME" || p.TimeZone.String() != "America/Manaus" || p.KeyID == uuid.Nil {
		t.Errorf("by key: %+v, %v", p, err)
	}
	if got, want := p.Phone([]byte("+5511987654321")), w.keys[digestOf(1)].Phone([]byte("+5511987654321")); got != want || got == "" {
		t.Errorf("a phone's pseudonym is %q at the proxy, %q at the store", got, want)
	}
	if p, err := c.PrincipalByClient(ctx, id); err != nil || p.ClientID != id {
		t.Errorf("by client: %+v, %v", p, err)
	}
	if _, err := c.PrincipalByKey(ctx, digestOf(2)); !errors.Is(err, tenancy.ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
	s, err := c.Settings(ctx, "")
	if err != nil || s.Rate != w.rate || len(s.SigningKeys) != 1 {
		t.Fatalf("settings: %+v, %v", s, err)
	}
	if m := s.Catalog.Lookup("gpt-4o"); m == nil || m.Prices[0].Input != 5 || m.Prices[0].Output != metering.NoPrice || m.Prices[0].Tiers[0].Input != 7 {
		t.Errorf("the catalogue did not come across: %+v", m)
	}
	if again, err := c.Settings(ctx, s.Tag); err != nil || again != nil {
		t.Errorf("settings that are known were sent again: %v, %v", again, err)
	}
	if route, provider, ok, err := c.Owner(ctx, id, "resp_1"); !ok || err != nil || route != "direct" || provider != "openai" {
		t.Errorf("owner: %s %s %v %v", route, provider, ok, err)
	}
	if _, _, ok, err := c.Owner(ctx, id, "resp_2"); ok || err != nil {
		t.Errorf("no owner: %v %v", ok, err)
	}
	if pulse, err := c.Beat(ctx, Beat{Report: metering.ProxyReport{Name: "p", At: time.Unix(1, 0), Depth: 3, Stopped: true}}); err != nil || time.Since(pulse.At) > time.Minute {
		t.Errorf("beat: %v %v", pulse, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.reports) != 1 || w.reports[0].Depth != 3 || time.Since(w.reports[0].At) > time.Minute {
		t.Errorf("the fleet has %+v", w.reports)
	}
}

func TestWhoIsLetIn(t *testing.T) {
	w := newWorld()
	_, h, address := control(t, w, "newest-0123456789abcdef", "older-0123456789abcdef")
	for token, want := range map[string]bool{
		"newest-0123456789abcdef": true, "older-0123456789abcdef": true, "": false, "newest-0123456789abcde": false,
		"newest-0123456789abcdefg": false, "newest-0123456789abcdef,older-0123456789abcdef": false,
	} {
		_, _, err := NewClient(address, token, nil).Hello(t.Context())
		if got := err == nil; got != want || !want && !errors.Is(err, ErrRefused) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	for _, path := range []string{"hello", "principal", "changes?after=0", "settings", "touched", "owner", "beat", "nothing"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			request, err := http.NewRequestWithContext(t.Context(), method, address+"/link/v1/"+path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s without a token: %d", method, path, response.StatusCode)
			}
		}
	}
	if s := h.Stats(); s.Refused < 24 {
		t.Errorf("%d were counted as refused", s.Refused)
	}
}

// A control plane without tokens lets in certificates only, so an empty token must never be one of them.
func TestNoTokensLetNobodyIn(t *testing.T) {
	_, _, address := control(t, newWorld())
	for _, token := range []string{"", "x"} {
		if _, _, err := NewClient(address, token, nil).Hello(t.Context()); !errors.Is(err, ErrRefused) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestBadCallsAreRefused(t *testing.T) {
	w := newWorld()
	_, _, address := control(t, w, goodToken)
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{"principal", "", 400},
		{"principal", "{", 400},
		{"principal", "[]", 400},
		{"principal", "{}", 400},
		{"principal", `{"key":"AAAA"}`, 400},
		{"principal", `{"client":"x"}`, 400},
		{"principal", strings.Repeat(" ", maxRequest+1) + "{}", 400},
		{"changes?after=-1", "GET", 400},
		{"changes?after=x", "GET", 400},
		{"changes", "GET", 400},
		{"beat", "{}", 400},
		{"touched", `{"keys":[1]}`, 400},
		{"nothing", "{}", 404},
	} {
		method, body := http.MethodPost, c.body
		if c.body == "GET" {
			method, body = http.MethodGet, ""
		}
		request, err := http.NewRequestWithContext(t.Context(), method, address+"/link/v1/"+c.path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+goodToken)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Errorf("%s %.40q: %v", c.path, c.body, err)
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != c.want || response.Header.Get(linkHeader) == "" {
			t.Errorf("%s %.40q: %d, want %d", c.path, c.body, response.StatusCode, c.want)
		}
	}
}

// What is no control plane must never be believed, least of all when it says 404.
func TestStrangersAreNotBelieved(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"a web server":      func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) },
		"one that says yes": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"code":"not_found"}`) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:9/", http.StatusFound)
		},
		"garbage under ours": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(linkHeader, "1")
			fmt.Fprint(w, "\x01\xff\xff\xff")
		},
	} {
		server := httptest.NewServer(handler)
		c := NewClient(server.URL, goodToken, nil)
		if _, err := c.PrincipalByKey(t.Context(), digestOf(1)); err == nil || errors.Is(err, tenancy.ErrNotFound) {
			t.Errorf("%s: a key is judged by it: %v", name, err)
		}
		if _, err := c.Watch(t.Context(), 1, ""); err == nil || errors.Is(err, tenancy.ErrChangesLost) {
			t.Errorf("%s: it is followed: %v", name, err)
		}
		if _, err := c.Settings(t.Context(), ""); err == nil {
			t.Errorf("%s: its settings are taken", name)
		}
		server.Close()
	}
}

// A control plane whose database is away says so, and says nothing of what its errors hold.
func TestAnAwayDatabaseIsNoAnswer(t *testing.T) {
	w := newWorld()
	w.set(t, uuid.New(), digestOf(1), "ACME", "UTC")
	var said bytes.Buffer
	options := w.options()
	local := NewLocal(options)
	background(t, local.Run)
	h := NewHandler(local, []string{goodToken}, slog.New(slog.NewTextHandler(&said, nil)))
	server := httptest.NewServer(h)
	defer server.Close()
	c := NewClient(server.URL, goodToken, nil)
	eventually(t, 2*time.Second, "it is ready", func() bool { _, err := c.Watch(t.Context(), 0, ""); return err == nil })
	if _, err := c.PrincipalByKey(t.Context(), digestOf(1)); err != nil {
		t.Fatal(err)
	}
	// It changes, and before it is read again the database goes away: what was read before is no answer any more.
	w.set(t, w.keys[digestOf(1)].ClientID, digestOf(1), "ACME 2", "UTC")
	w.mu.Lock()
	w.away = true
	w.mu.Unlock()
	local.known.Invalidate(w.keys[digestOf(1)].ClientID)
	_, err := c.PrincipalByKey(t.Context(), digestOf(1))
	if err == nil || errors.Is(err, tenancy.ErrNotFound) {
		t.Errorf("a stale answer was given: %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("the error tells of the inside: %v", err)
	}
	if s := c.Stats(); s.Up || s.Problem == "" {
		t.Errorf("the link counts as up: %+v", s)
	}
}

// A replica that has not heard yet of a change that the proxy knows reads the store instead of its memory.
func TestAReplicaThatLagsReadsTheStore(t *testing.T) {
	w := newWorld()
	id := uuid.New()
	w.set(t, id, digestOf(1), "before", "UTC")
	local := NewLocal(w.options()) // its poll does not run: it lags for ever
	server := httptest.NewServer(NewHandler(local, []string{goodToken}, nil))
	defer server.Close()
	c := NewClient(server.URL, goodToken, nil)
	if p, err := c.PrincipalByKey(t.Context(), digestOf(1)); err != nil || p.Name != "before" {
		t.Fatal(p, err)
	}
	w.set(t, id, digestOf(1), "after", "UTC")
	if p, err := c.PrincipalByKey(t.Context(), digestOf(1)); err != nil || p.Name != "before" {
		t.Fatalf("it does not cache: %v %v", p, err)
	}
	c.seen.Store(3)
	if p, err := c.PrincipalByKey(t.Context(), digestOf(1)); err != nil || p.Name != "after" {
		t.Errorf("a stale answer to a proxy that knows better: %v %v", p, err)
	}
}

// keyring is a proxy without the rest: it follows a control plane.
func keyring(t testing.TB, c Control, s *Snapshot) (*tenancy.Keyring, *Follower) {
	t.Helper()
	f := NewFollower(c, s, nil)
	k := tenancy.NewKeyring(f, tenancy.KeyringOptions{Wait: WatchFor, Journal: f.Journal()})
	if _, err := f.Recall(k); err != nil {
		t.Logf("recall: %v", err)
	}
	return k, f
}

func TestChangesAreInUseInTime(t *testing.T) {
	w := newWorld()
	id := uuid.New()
	w.set(t, id, digestOf(1), "before", "UTC")
	_, _, address := control(t, w, goodToken)
	k, f := keyring(t, NewClient(address, goodToken, nil), nil)
	background(t, k.Run)
	name := func() string {
		p, err := k.PrincipalByKey(t.Context(), digestOf(1))
		if err != nil {
			return err.Error()
		}
		return p.Name
	}
	eventually(t, 3*time.Second, "it is served", func() bool { return name() == "before" })
	w.set(t, id, digestOf(1), "after", "UTC")
	eventually(t, 2*time.Second, "a change is in use", func() bool { return name() == "after" })
	w.drop(digestOf(1))
	eventually(t, 2*time.Second, "a revoked key is refused", func() bool { return name() == tenancy.ErrNotFound.Error() })
	w.set(t, id, digestOf(1), "again", "UTC")
	eventually(t, 2*time.Second, "a key that was unknown works", func() bool { return name() == "again" })

	w.mu.Lock()
	w.models = []metering.Model{{ID: uuid.New(), Name: "new", GatewayID: "acme/new"}}
	w.change(uuid.Nil)
	w.mu.Unlock()
	eventually(t, 2*time.Second, "a new model is in use", func() bool { return f.Catalog().Lookup("acme/new") != nil })
	w.mu.Lock()
	w.rate.Rate = 600_000_000
	w.mu.Unlock()
	eventually(t, 3*time.Second, "a new rate is in use", func() bool { return f.Rate().Rate == 600_000_000 })
}

// A restarted control plane answers what its proxies missed, and one whose database lost its end is noticed.
func TestControlComesBack(t *testing.T) {
	w := newWorld()
	id := uuid.New()
	w.set(t, id, digestOf(1), "before", "UTC")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve := func(l net.Listener) (stop func()) {
		local := NewLocal(w.options())
		stopLocal := background(t, local.Run)
		server := NewHandler(local, []string{goodToken}, nil).Server()
		go func() { _ = server.Serve(l) }()
		return func() { _ = server.Close(); stopLocal() }
	}
	stop := serve(listener)
	k, _ := keyring(t, NewClient("http://"+listener.Addr().String(), goodToken, nil), nil)
	background(t, k.Run)
	name := func() string {
		p, err := k.PrincipalByKey(t.Context(), digestOf(1))
		if err != nil {
			return err.Error()
		}
		return p.Name
	}
	eventually(t, 3*time.Second, "it is served", func() bool { return name() == "before" && k.Version() == 2 })
	stop()
	w.set(t, id, digestOf(1), "changed meanwhile", "UTC")
	w.set(t, uuid.New(), digestOf(2), "another", "UTC")
	if name() != "before" {
		t.Error("what was known is not served with the control plane away")
	}
	if _, err := k.PrincipalByKey(t.Context(), digestOf(2)); !errors.Is(err, tenancy.ErrUnavailable) {
		t.Errorf("a key that cannot be judged: %v", err)
	}
	again, err := net.Listen("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	stop = serve(again)
	eventually(t, 8*time.Second, "the change is in use", func() bool { return name() == "changed meanwhile" })
	stop()
	w.mu.Lock() // restored from a backup: versions begin at another place
	w.feed = []tenancy.Change{{Version: 2000}}
	w.mu.Unlock()
	w.set(t, id, digestOf(1), "restored", "UTC")
	if again, err = net.Listen("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	stop = serve(again)
	defer stop()
	eventually(t, 8*time.Second, "everything is read again", func() bool { return name() == "restored" })
}
