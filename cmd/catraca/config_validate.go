package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/catraca/catraca/tenancy"
)

// mistakes collects one clear line for each setting that is wrong.
type mistakes []error

func (m *mistakes) add(format string, args ...any) { *m = append(*m, fmt.Errorf(format, args...)) }

// Validate finds everything that is wrong with the settings as a whole, all at once. Each line of the error begins with
// the variable and says what to do. Of what is outside it looks at files that settings name and no more: the rest is for
// `catraca doctor`.
func (c *Config) Validate() error {
	var m mistakes
	c.validateListeners(&m)
	c.validateStores(&m)
	c.validateLink(&m)
	c.validateSecrets(&m)
	c.validateUpstreams(&m)
	c.validateLimits(&m)
	c.validateAlerts(&m)
	return errors.Join(m...)
}

func (c *Config) validateListeners(m *mistakes) {
	checkListen(m, "CATRACA_LISTEN", c.Listen)
	checkListen(m, "CATRACA_ADMIN_LISTEN", c.AdminListen)
	if c.plane != planeControl && overlap(c.Listen, c.AdminListen) {
		m.add("CATRACA_ADMIN_LISTEN=%s is the same port as CATRACA_LISTEN: give it another", c.AdminListen)
	}
	if c.AdminURL != "" {
		checkURL(m, "CATRACA_ADMIN_URL", c.AdminURL)
	}
	if c.TrustClientID && !isLoopback(c.Listen) && !c.given("CATRACA_CALLER_TOKEN", c.CallerToken) {
		m.add("CATRACA_TRUST_CLIENT_ID=true lets whoever reaches CATRACA_LISTEN=%s spend as any tenant: listen on 127.0.0.1, or set CATRACA_CALLER_TOKEN", c.Listen)
	}
	if c.DataDir == "" {
		m.add("CATRACA_DATA_DIR is empty: name a directory that survives a restart")
	}
}

func (c *Config) validateStores(m *mistakes) {
	switch c.plane {
	case planeProxy:
		if c.given("CATRACA_DATABASE_URL", c.DatabaseURL.Secret) {
			m.add("CATRACA_DATABASE_URL is set, and a proxy never has a database: unset it; the control plane has it")
		}
		if !c.given("CATRACA_REDIS_URL", c.RedisURL.Secret) {
			m.add("CATRACA_REDIS_URL is required by a proxy: it is the way of usage to the ledger; name the control plane's")
		}
	case planeControl:
		if !c.given("CATRACA_DATABASE_URL", c.DatabaseURL.Secret) || !c.given("CATRACA_REDIS_URL", c.RedisURL.Secret) {
			m.add("CATRACA_DATABASE_URL and CATRACA_REDIS_URL are both required by a control plane; `catraca serve` runs without either")
		}
	default:
		c.validatePair(m)
	}
	checkStoreURL(m, "CATRACA_DATABASE_URL", c.DatabaseURL, "postgres://user:password@host:5432/database", "postgres", "postgresql")
	checkStoreURL(m, "CATRACA_REDIS_URL", c.RedisURL, "redis://user:password@host:6379/0", "redis", "rediss", "unix")
}

func (c *Config) validatePair(m *mistakes) {
	database, redis := c.given("CATRACA_DATABASE_URL", c.DatabaseURL.Secret), c.given("CATRACA_REDIS_URL", c.RedisURL.Secret)
	if database != redis {
		have, lack := "CATRACA_DATABASE_URL", "CATRACA_REDIS_URL"
		if redis {
			have, lack = lack, have
		}
		m.add("%s is set and %s is not: set both, or neither to run embedded", have, lack)
	}
}

// given says that somebody meant to set a secret, be it that its file could not be read: that has its own line.
func (c *Config) given(name string, s Secret) bool { return s.IsSet() || c.origin[name] == unreadable }

func (c *Config) validateSecrets(m *mistakes) {
	database := !c.Embedded() && c.plane != planeProxy
	if !c.given("CATRACA_MASTER_KEY", c.MasterKey) && database {
		m.add("CATRACA_MASTER_KEY is required with CATRACA_DATABASE_URL, because every process must have the same: make one with `openssl rand -base64 32`")
	}
	if _, err := c.Vault(); err != nil {
		m.add("%w", err)
	}
	if !c.given("CATRACA_ADMIN_TOKEN", c.AdminToken) && database {
		m.add("CATRACA_ADMIN_TOKEN is required with CATRACA_DATABASE_URL: make one with `openssl rand -hex 24`")
	}
	checkToken(m, "CATRACA_ADMIN_TOKEN", c.AdminToken)
	checkToken(m, "CATRACA_CALLER_TOKEN", c.CallerToken)
	checkToken(m, "CATRACA_CRON_TOKEN", c.CronToken)
	if c.CallerToken.IsSet() && c.CallerToken.Reveal() == c.AdminToken.Reveal() {
		m.add("CATRACA_CALLER_TOKEN is the same as CATRACA_ADMIN_TOKEN: callers would be administrators; make another with `openssl rand -hex 24`")
	}
}

func (c *Config) validateUpstreams(m *mistakes) {
	for _, p := range append([]Provider{c.Gateway()}, c.Providers()...) {
		if strings.IndexFunc(p.Key.Reveal(), func(r rune) bool { return r > '~' || r <= ' ' }) >= 0 {
			m.add("%s has a space, a line break or a letter that no key has inside: copy it again", p.KeyVar)
		}
		u := checkURL(m, p.BaseVar, p.BaseURL)
		if u == nil {
			continue
		}
		if u.RawQuery != "" || u.Fragment != "" {
			m.add("%s=%s must end with its path: paths are added behind it, so remove what follows ? or #", p.BaseVar, p.BaseURL)
		}
		if pointsAt(u, c.Listen) {
			m.add("%s=%s is Catraca's own CATRACA_LISTEN: every call would go round in a circle; that address is for the clients, so unset it here", p.BaseVar, p.BaseURL)
		}
	}
	checkURL(m, "CATRACA_EXCHANGE_RATE_URL", c.ExchangeRateURL)
	checkURL(m, "CATRACA_PTAX_URL", c.PTAXURL)
}

func (c *Config) validateLimits(m *mistakes) {
	if c.UnknownModelPolicy != tenancy.RefuseUnknown && c.UnknownModelPolicy != tenancy.MeterUnknown {
		m.add("CATRACA_UNKNOWN_MODEL_POLICY=%q: write refuse or meter", string(c.UnknownModelPolicy))
	}
	if _, err := time.LoadLocation(c.TimeZone); err != nil || c.TimeZone == "" || c.TimeZone == "Local" {
		m.add("CATRACA_TIME_ZONE=%q is not an IANA time zone: write one such as America/Sao_Paulo", c.TimeZone)
	}
	if c.MaxBodyBytes < 1<<10 || c.MaxBodyBytes > 1<<30 {
		m.add("CATRACA_MAX_BODY_BYTES=%s: choose from 1KiB to 1GiB", c.MaxBodyBytes)
	}
	if c.SpoolMaxBytes < 64<<20 {
		m.add("CATRACA_SPOOL_MAX_BYTES=%s: it needs at least 64MiB", c.SpoolMaxBytes)
	}
	if c.LogKeepMonths < 0 || c.LogKeepMonths > 1200 {
		m.add("CATRACA_LOG_KEEP_MONTHS=%d: write how many months of calls to keep beside the running one, such as 12, or 0 for all", c.LogKeepMonths)
	}
	if c.DrainTimeout < 0 {
		m.add("CATRACA_DRAIN_TIMEOUT=%s: it cannot be negative; 0 cuts calls at once", c.DrainTimeout)
	}
	for _, t := range []struct {
		name  string
		value time.Duration
	}{
		{"CATRACA_CONNECT_TIMEOUT", c.ConnectTimeout},
		{"CATRACA_FIRST_BYTE_TIMEOUT", c.FirstByteTimeout},
		{"CATRACA_IDLE_TIMEOUT", c.IdleTimeout},
	} {
		if t.value <= 0 {
			m.add("%s=%s: it must be more than 0", t.name, t.value)
		}
	}
}

// Warnings are what works but is probably not meant.
func (c *Config) Warnings() []string {
	var lines []string
	warn := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	keys := 0
	for _, p := range append([]Provider{c.Gateway()}, c.Providers()...) {
		if !p.Key.IsSet() {
			continue
		}
		keys++
		if u, err := url.Parse(p.BaseURL); err == nil && u.Scheme == "http" && !isLoopback(u.Host) {
			warn("%s=%s is not encrypted: %s crosses the network in the clear", p.BaseVar, p.BaseURL, p.KeyVar)
		}
	}
	switch {
	case c.plane == planeControl:
	case keys == 0:
		warn("no upstream has a key: set AI_GATEWAY_API_KEY, or one of OPENAI_API_KEY, GROQ_API_KEY, ANTHROPIC_API_KEY, GOOGLE_API_KEY")
	case c.EnableGateway && !c.GatewayKey.IsSet():
		warn("ENABLE_AI_GATEWAY is true and AI_GATEWAY_API_KEY is not set: tenants that use the gateway cannot be served")
	}
	lines = append(lines, c.linkWarnings()...)
	if c.CallerToken.IsSet() && !c.TrustClientID {
		warn("CATRACA_CALLER_TOKEN does nothing while CATRACA_TRUST_CLIENT_ID is false")
	}
	if !isLoopback(c.AdminListen) {
		warn("CATRACA_ADMIN_LISTEN=%s can be reached from other machines, without TLS: keep it inside the cluster", c.AdminListen)
	}
	return lines
}

// Vault is what seals under CATRACA_MASTER_KEY; nil when it is not set.
func (c *Config) Vault() (*tenancy.Vault, error) {
	if !c.MasterKey.IsSet() {
		return nil, nil
	}
	vault, err := tenancy.ParseMasterKeys(c.MasterKey.Reveal())
	if err != nil {
		return nil, fmt.Errorf("CATRACA_MASTER_KEY: %w", err)
	}
	return vault, nil
}

// checkToken refuses what can be guessed. A random token of 16 characters hardly ever has fewer than 7 different ones.
func checkToken(m *mistakes, name string, token Secret) {
	if !token.IsSet() {
		return
	}
	different := make(map[rune]bool)
	for _, r := range token.Reveal() {
		different[r] = true
		if r > '~' || r <= ' ' || unicode.IsSpace(r) {
			m.add("%s has a space, a line break or a letter outside ASCII inside, which no header can carry: make one with `openssl rand -hex 24`", name)
			return
		}
	}
	if len(token.Reveal()) < 16 || len(different) < 7 {
		m.add("%s is too weak: it needs 16 characters that cannot be guessed; make one with `openssl rand -hex 24`", name)
	}
}

func checkListen(m *mistakes, name, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		m.add("%s=%q is not host:port: write for example 127.0.0.1:8080, or :8080 for all interfaces", name, address)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		m.add("%s=%q: port %q is not a number from 0 to 65535 (0 takes a free one)", name, address, port)
	} else if n > 0 && strings.ContainsAny(host, "/ @") {
		m.add("%s=%q: %q is not a host; write an address such as 127.0.0.1, with no http:// before it", name, address, host)
	}
}

func checkURL(m *mistakes, name, address string) *url.URL {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		m.add("%s=%q is not an http:// or https:// address", name, masked(address))
	case u.User != nil:
		m.add("%s holds a user or password: put the key into its own variable", name)
	default:
		return u
	}
	return nil
}

// masked cuts out what may be a password in an address that could not be read.
func masked(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		return "****" + address[i:]
	}
	return address
}

func checkStoreURL(m *mistakes, name string, address SecretURL, example string, schemes ...string) {
	if !address.IsSet() {
		return
	}
	u, err := url.Parse(address.Reveal())
	if err != nil {
		m.add("%s cannot be read as a URL: write %s, with %%40 for an @ and %%2F for a / inside the password", name, example)
		return
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme && (u.Host != "" || u.Query().Get("host") != "" || scheme == "unix") {
			return
		}
	}
	m.add("%s=%s: write %s", name, address, example)
}

// isLoopback says that only programs on this machine, or in this pod, can reach an address.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// overlap says that two listeners cannot both open.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && portA != "0" && (hostA == hostB || isWildcard(hostA) || isWildcard(hostB) ||
		isLoopback(a) && isLoopback(b) && (hostA == "localhost" || hostB == "localhost"))
}

func isWildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// pointsAt says that a URL leads to our own listener.
func pointsAt(u *url.URL, listen string) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" || port != portOf(u) {
		return false
	}
	return u.Hostname() == host || isLoopback(u.Host) && (isLoopback(listen) || isWildcard(host))
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}
