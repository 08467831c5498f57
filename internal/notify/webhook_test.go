package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	testSecret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	testSecret2 = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	canary      = "cAnArYpAtH"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func testNotice() *Notice {
	return &Notice{
		ID: "alert_6f1c", BudgetID: "b0000000-0000-4000-8000-000000000001", ClientID: "c0000000-0000-4000-8000-000000000001",
		Client: "Loja da Ana", Unit: "brl", Period: "monthly", Threshold: 80, Limit: 1_500_000_000_000_000, Used: 1_234_560_000_000_000, Hard: true,
		At: time.Date(2026, 11, 22, 17, 30, 0, 0, time.UTC), StartsAt: time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC), EndsAt: time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC),
		TimeZone: "America/Sao_Paulo", Foreseen: true,
		Forecast: map[int]time.Time{100: time.Date(2026, 11, 27, 21, 0, 0, 0, time.UTC), 90: time.Date(2026, 11, 25, 17, 20, 0, 0, time.UTC)},
	}
}

// testRules allow what runs on this machine.
func testRules(t *testing.T, servers ...*httptest.Server) Rules {
	r := Rules{AllowHTTP: true, AllowPrivate: loopback}
	for _, s := range servers {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		port, _ := strconv.Atoi(u.Port())
		r.AllowPorts = append(r.AllowPorts, port)
	}
	return r
}

func testWebhook(t *testing.T, o WebhookOptions) *Webhook {
	t.Helper()
	if o.Secrets == nil {
		o.Secrets = []string{testSecret}
	}
	w, err := NewWebhook(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func testServer(t *testing.T, f http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func TestSignatureIsTheSpecifications(t *testing.T) {
	s, err := NewSigner([]string{testSecret})
	if err != nil {
		t.Fatal(err)
	}
	// The vector that the specification's own libraries are tested with.
	got := s.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signed %s, want %s", got, want)
	}
	two, err := NewSigner([]string{testSecret2, testSecret})
	if err != nil {
		t.Fatal(err)
	}
	if both := two.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)); !strings.HasSuffix(both, " "+got) || strings.Count(both, "v1,") != 2 {
		t.Errorf("two secrets signed %q", both)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, s, s); strings.Contains(text, "49") || strings.Count(text, "[signer]") != 4 {
		t.Errorf("a signer prints as %s", text)
	}
}

func TestSecretsThatAreRefused(t *testing.T) {
	for _, secrets := range [][]string{
		nil,
		{""},
		{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		{"whsec_short"},
		{"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23))},
		{"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65))},
		{testSecret, "whsec_" + canary + "!"},
		{testSecret, ""},
	} {
		_, err := NewSigner(secrets)
		if err == nil {
			t.Errorf("%q was taken", secrets)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
	if _, err := NewSigner([]string{NewSecret(), NewSecret()}); err != nil {
		t.Error(err)
	}
}

// verify is a receiver's check, written from the specification.
func verify(secret string, h http.Header, body []byte, now time.Time) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return err
	}
	at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return fmt.Errorf("timestamp %q", h.Get("webhook-timestamp"))
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", h.Get("webhook-id"), at, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, signature := range strings.Split(h.Get("webhook-signature"), " ") {
		if hmac.Equal([]byte(signature), []byte(want)) {
			return nil
		}
	}
	return errors.New("no signature fits")
}

func TestWebhookArrives(t *testing.T) {
	type arrival struct {
		h    http.Header
		body []byte
		path string
	}
	arrived := make(chan arrival, 1)
	s := testServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- arrival{r.Header.Clone(), body, r.Method + " " + r.URL.String()}
		w.WriteHeader(http.StatusNoContent)
	})
	w := testWebhook(t, WebhookOptions{Rules: testRules(t, s), Secrets: []string{testSecret2, testSecret}})
	status, err := w.Send(t.Context(), s.URL+"/hooks/catraca?x=1", testNotice())
	if err != nil || status != 204 {
		t.Fatal(status, err)
	}
	got := <-arrived
	if got.path != "POST /hooks/catraca?x=1" || got.h.Get("webhook-id") != "alert_6f1c" || got.h.Get("Content-Type") != "application/json" {
		t.Errorf("arrived: %s %v", got.path, got.h)
	}
	client := testNotice().ClientID
	old := testWebhook(t, WebhookOptions{Secrets: []string{testSecret}})
	for who, secret := range map[string]string{
		"the newest secret": testSecret2, "the one before": testSecret,
		"the client's newest": w.ClientSecret(client), "the client's before": old.ClientSecret(client),
	} {
		if err := verify(secret, got.h, got.body, time.Now()); err != nil {
			t.Errorf("with %s: %v", who, err)
		}
	}
	for what, err := range map[string]error{
		"another client's secret": verify(w.ClientSecret("another"), got.h, got.body, time.Now()),
		"another body":            verify(testSecret, got.h, append(got.body, ' '), time.Now()),
		"a replay after minutes":  verify(testSecret, got.h, got.body, time.Now().Add(6*time.Minute)),
	} {
		if err == nil {
			t.Errorf("%s passed", what)
		}
	}
	const want = `{"type":"budget.threshold_reached","timestamp":"2026-11-22T17:30:00Z","data":{"budget_id":"b0000000-0000-4000-8000-000000000001",` +
		`"client_id":"c0000000-0000-4000-8000-000000000001","client_name":"Loja da Ana","budget_type":"brl","budget_period":"monthly","threshold":80,` +
		`"limit":"1500","used":"1234.56","pause_at_limit":true,"period_start":"2026-11-01T00:00:00-03:00","resets_at":"2026-12-01T00:00:00-03:00",` +
		`"time_zone":"America/Sao_Paulo","forecast":[{"threshold":90,"at":"2026-11-25T14:20:00-03:00"},{"threshold":100,"at":"2026-11-27T18:00:00-03:00"}]}}`
	if string(got.body) != want {
		t.Errorf("body:\n%s\nwant:\n%s", got.body, want)
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		unit   string
		amount int64
		want   string
	}{
		{"tokens", 12345, "12345"},
		{"brl", 0, "0"},
		{"brl", 1, "0.000000000001"},
		{"usd", 1_500_000_000_000, "1.5"},
		{"usd", -37_500, "-0.0000000375"},
		{"brl", 1<<62 - 1, "4611686.018427387903"},
	} {
		if got := number(c.unit, c.amount); got != c.want {
			t.Errorf("%d %s is %s, want %s", c.amount, c.unit, got, c.want)
		}
	}
}

func TestWebhookOverTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	rules := testRules(t, s)
	rules.AllowHTTP = false
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	if status, err := testWebhook(t, WebhookOptions{Rules: rules, Roots: roots}).Send(t.Context(), s.URL+"/"+canary, testNotice()); err != nil || status != 200 {
		t.Error(status, err)
	}
	_, err := testWebhook(t, WebhookOptions{Rules: rules}).Send(t.Context(), s.URL+"/"+canary, testNotice())
	if err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), canary) {
		t.Errorf("a certificate of nobody: %v", err)
	}
	if _, err := testWebhook(t, WebhookOptions{Rules: rules, Roots: roots}).Send(t.Context(), strings.Replace(s.URL, "https", "http", 1), testNotice()); err == nil {
		t.Error("http passed")
	}
}

func TestAddressesThatAreReached(t *testing.T) {
	rules := Rules{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, Deny: []netip.Prefix{netip.MustParsePrefix("8.8.4.0/24"), netip.MustParsePrefix("10.96.0.10/32")}}
	for address, want := range map[string]bool{
		"8.8.8.8": true, "200.147.3.157": true, "2800:3f0:4001:80b::200e": true, "2606:4700::1": true, "10.100.1.2": true, "::ffff:8.8.8.8": true,
		"8.8.4.4": false, "10.96.0.10": false, "10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "127.0.0.1": false, "127.9.9.9": false,
		"0.0.0.0": false, "0.1.2.3": false, "169.254.169.254": false, "100.64.0.1": false, "100.100.100.200": false, "192.0.0.192": false, "168.63.129.16": false,
		"192.0.2.1": false, "198.51.100.7": false, "203.0.113.9": false, "198.19.0.1": false, "192.88.99.1": false, "224.0.0.1": false, "239.255.255.250": false,
		"240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"fe80::1%eth0": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false,
		"64:ff9b:1::7f00:1": false, "2002:7f00:1::": false, "2001::1": false, "2001:0:53aa:64c::1": false, "2001:db8::1": false, "3fff::1": false, "100::1": false, "5f00::1": false,
		"fec0::1": false, "172.15.0.1": true, "172.32.0.1": true, "100.128.0.1": true, "198.20.0.1": true, "169.253.0.1": true, "2001:200::1": true,
	} {
		if got := rules.reach(netip.MustParseAddr(address)) == nil; got != want {
			t.Errorf("%s is reached: %v, want %v", address, got, want)
		}
	}
	if err := rules.reach(netip.Addr{}); err == nil {
		t.Error("no address is reached")
	}
}

func TestCheckURL(t *testing.T) {
	for _, c := range []struct{ address, want string }{
		{"https://hooks.example.com/catraca?token=1", ""},
		{"https://hooks.example.com:443/", ""},
		{"https://8.8.8.8/x", ""},
		{"https://xn--so-fka.example/", ""},
		{"https://[2606:4700::1]/", ""},
		{"HTTPS://Example.COM./", ""},
		{"", "must begin with https://"},
		{"hooks.example.com", "must begin with https://"},
		{"ftp://example.com/", "must begin with https://"},
		{"http://example.com/", "http is not allowed"},
		{"https:///path", "no host"},
		{"https://user:pw@example.com/", "user or a password"},
		{"https://user@example.com/", "user or a password"},
		{"https://example.com/#f", "fragment"},
		{"https://example.com:8443/", "port 8443"},
		{"https://example.com:80/", "port 80"},
		{"https://example.com:99999999/", "port"},
		{"https://127.0.0.1/", "not public"},
		{"https://[::1]/", "not public"},
		{"https://[::ffff:10.0.0.1]/", "not public"},
		{"https://169.254.169.254/latest/meta-data", "not public"},
		{"https://localhost/", "not public"},
		{"https://a.localhost/", "not public"},
		{"https://2130706433/", "neither a name nor an address"},
		{"https://0x7f.1/", "neither"},
		{"https://0x7f000001/", "neither"},
		{"https://017700000001/", "neither"},
		{"https://127.1/", "neither"},
		{"https://1.2.3.4.5/", "neither"},
		{"https://são.example/", "xn--"},
		{"https://ⓛocalhost/", "xn--"},
		{"https://a..b/", "not a name"},
		{"https://.example/", "not a name"},
		{"https://exa mple.com/", "not a URL"},
		{" https://example.com/", "not a URL"},
		{"https://example.com/\r\nX: y", "not a URL"},
		{"https://example.com/" + strings.Repeat("x", 2048), "at most 2048"},
		{"https://example.com:https/", "not a URL"},
		{"https://[fe80::1%25eth0]/", "not public"},
		{"https://./", "not a name"},
	} {
		err := (&Rules{}).CheckURL(c.address)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.address, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "meta-data") {
			t.Errorf("the error holds the path: %v", err)
		}
	}
	wide := Rules{AllowHTTP: true, AllowPorts: []int{8443}, AllowPrivate: loopback}
	for _, address := range []string{"http://example.com/", "http://example.com:80/", "https://example.com:8443/", "https://localhost/", "https://127.0.0.1/"} {
		if err := wide.CheckURL(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	if wide.CheckURL("https://10.0.0.1/") == nil || wide.CheckURL("http://example.com:443/") == nil {
		t.Error("more is allowed than was")
	}
}

// fakeDNS answers each question for an IPv4 address with the next of its answers; the last one stays.
type fakeDNS struct {
	mu      sync.Mutex
	answers [][]string
	asked   int
}

func (f *fakeDNS) next() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.answers[min(f.asked, len(f.answers))-1]
}

func (f *fakeDNS) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(f.reply(buf[:n]), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (f *fakeDNS) reply(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5
	kind := query[end-3]
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if kind != 1 {
		return reply
	}
	for _, a := range f.next() {
		reply[7]++
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, netip.MustParseAddr(a).AsSlice()...)
	}
	return reply
}

func TestRebindingGainsNothing(t *testing.T) {
	var hits atomic.Int64
	s := testServer(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	u, _ := url.Parse(s.URL)
	rules := testRules(t, s)
	rules.AllowPrivate = nil
	for _, c := range []struct {
		name    string
		answers [][]string
	}{
		{"public first, this machine when it is connected to", [][]string{{"8.8.8.8"}, {"127.0.0.1"}}},
		{"several at once", [][]string{{"8.8.8.8"}, {"127.0.0.1", "10.0.0.1", "169.254.169.254"}}},
		{"nothing but private", [][]string{{"0.0.0.0"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dns := &fakeDNS{answers: c.answers}
			resolver := dns.resolver(t)
			if c.answers[0][0] == "8.8.8.8" { // what a check ahead of the request would have seen
				if got, err := resolver.LookupHost(t.Context(), "hooks.example.com"); err != nil || got[0] != "8.8.8.8" {
					t.Fatal(got, err)
				}
			}
			w := testWebhook(t, WebhookOptions{Rules: rules, Resolver: resolver})
			status, err := w.Send(t.Context(), "http://hooks.example.com:"+u.Port()+"/"+canary, testNotice())
			if status != 0 || !errors.Is(err, errPrivate) {
				t.Errorf("status %d, %v", status, err)
			}
			if err != nil && (strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), canary)) {
				t.Errorf("the error tells too much: %v", err)
			}
		})
	}
	if n := hits.Load(); n > 0 {
		t.Errorf("%d requests came through", n)
	}
	// The same with the network allowed: it is this check that stopped them, and the resolver is the one given.
	rules.AllowPrivate = loopback
	dns := &fakeDNS{answers: [][]string{{"127.0.0.1"}}}
	w := testWebhook(t, WebhookOptions{Rules: rules, Resolver: dns.resolver(t)})
	if status, err := w.Send(t.Context(), "http://hooks.example.com:"+u.Port()+"/", testNotice()); err != nil || status != 200 || hits.Load() != 1 {
		t.Error(status, err, hits.Load())
	}
}

func TestProxiesOfTheEnvironmentAreNotAsked(t *testing.T) {
	var hits atomic.Int64
	proxy := testServer(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	// The proxy could be reached: what keeps it out is that nobody asks for one. net/http reads the environment once a
	// process, so what a request does here would not show that alone.
	w := testWebhook(t, WebhookOptions{Rules: Rules{AllowHTTP: true, AllowPrivate: loopback}, Resolver: (&fakeDNS{answers: [][]string{{"10.0.0.1"}}}).resolver(t)})
	if w.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("proxies are asked for")
	}
	if _, err := w.Send(t.Context(), "http://hooks.example.com/", testNotice()); !errors.Is(err, errPrivate) || hits.Load() > 0 {
		t.Errorf("%v, and the proxy was asked %d times", err, hits.Load())
	}
}

// rawServer answers any request with bytes.
func rawServer(t *testing.T, answer func(conn net.Conn)) *httptest.Server {
	return testServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		answer(conn)
	})
}

func TestAnswersThatAreFailures(t *testing.T) {
	status := func(code int, header ...string) *httptest.Server {
		return testServer(t, func(w http.ResponseWriter, r *http.Request) {
			if len(header) > 0 {
				w.Header().Set(header[0], header[1])
			}
			w.WriteHeader(code)
			fmt.Fprint(w, canary, r.URL)
		})
	}
	closed := testServer(t, nil)
	closed.Close()
	var metadata atomic.Int64
	inside := testServer(t, func(http.ResponseWriter, *http.Request) { metadata.Add(1) })
	for _, c := range []struct {
		name   string
		server *httptest.Server
		status int
		want   string
	}{
		{"redirect to the metadata", status(302, "Location", "http://169.254.169.254/latest/"+canary), 302, "redirect (302)"},
		{"redirect to what is allowed", status(307, "Location", inside.URL+"/"+canary), 307, "redirect (307)"},
		{"redirect to nowhere", status(301), 301, "redirect (301)"},
		{"error", status(500), 500, "status 500"},
		{"not found", status(404), 404, "status 404"},
		{"gone", status(410), 410, "nobody wants"},
		{"nobody listens", closed, 0, "refused"},
		{"closes at once", rawServer(t, func(net.Conn) {}), 0, "closed before"},
		{"echoes in its status line", rawServer(t, func(c net.Conn) { fmt.Fprintf(c, "HTTP/1.1 /%s %s\r\n\r\n", canary, canary) }), 0, "not HTTP"},
		{"no HTTP at all", rawServer(t, func(c net.Conn) { fmt.Fprint(c, canary+" "+canary+"\r\n\r\n") }), 0, "not HTTP"},
		{"a bad header", rawServer(t, func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\n"+canary+"\r\n\r\n") }), 0, "not HTTP"},
		{"huge headers", rawServer(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\n")
			for range 3000 {
				fmt.Fprint(c, "X-"+canary+": "+strings.Repeat("y", 90)+"\r\n")
			}
		}), 0, "larger than allowed"},
		{"never answers", rawServer(t, func(c net.Conn) { io.Copy(io.Discard, c) }), 0, "in time"},
		{"drips its headers", rawServer(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(c, "X-%d: y\r\n", i); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}), 0, "in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := testWebhook(t, WebhookOptions{Rules: testRules(t, c.server, inside), Timeout: 300 * time.Millisecond})
			began := time.Now()
			got, err := w.Send(t.Context(), c.server.URL+"/"+canary+"?"+canary, testNotice())
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if err == nil || got != c.status || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("status %d, %v; want %d and %q", got, err, c.status, c.want)
			}
			if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, canary) || strings.Contains(text, testSecret[6:]) {
				t.Errorf("the error tells too much: %s", text)
			}
			var final interface{ Final() bool }
			if errors.As(err, &final) != (c.status == 410) {
				t.Errorf("final: %v", !errors.As(err, &final))
			}
		})
	}
	if metadata.Load() > 0 {
		t.Error("a redirect was followed")
	}
}

func TestRepliesAreReadInPart(t *testing.T) {
	var written atomic.Int64
	done := make(chan struct{})
	s := testServer(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		for range 1 << 14 {
			n, err := w.Write(bytes.Repeat([]byte("x"), 16<<10))
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	w := testWebhook(t, WebhookOptions{Rules: testRules(t, s)})
	if status, err := w.Send(t.Context(), s.URL, testNotice()); err != nil || status != 200 {
		t.Error(status, err)
	}
	<-done
	if n := written.Load(); n > 32<<20 { // what the kernel's buffers of both sides take, and not 256 MiB
		t.Errorf("%d bytes of the reply were taken", n)
	}
	w = testWebhook(t, WebhookOptions{Rules: testRules(t, s)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Send(ctx, s.URL, testNotice()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestPayloadOfABudgetOverAll(t *testing.T) {
	n := testNotice()
	n.ClientID, n.Client, n.Forecast, n.TimeZone, n.Unit = "", "", nil, "Nowhere/Land", "tokens"
	b, err := json.Marshal(newPayload(n))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.Contains(s, "client_") || !strings.Contains(s, `"forecast":[]`) || !strings.Contains(s, `"resets_at":"2026-12-01T03:00:00Z"`) || !strings.Contains(s, `"limit":"1500000000000000"`) {
		t.Error(s)
	}
}
