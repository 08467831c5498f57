package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Certificates are files in PEM that are read again when they change, so that whoever renews them need not restart
// anything. An empty name stands for none.
type Certificates struct {
	Cert, Key string // our own
	CA        string // of those on the other side: of the control plane, or of the proxies that may come
	Log       *slog.Logger

	mu    sync.Mutex
	asked time.Time
	times [3]time.Time
	pair  *tls.Certificate
	pool  *x509.CertPool
}

const certificatesEvery = time.Second

// Load reads the files where they changed. A bad file is an error at first and later leaves what there was in use.
func (c *Certificates) Load() (pair *tls.Certificate, pool *x509.CertPool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.asked.IsZero() && time.Since(c.asked) < certificatesEvery {
		return c.pair, c.pool, nil
	}
	first := c.asked.IsZero()
	times := c.modified()
	if !first && times == c.times {
		c.asked = time.Now()
		return c.pair, c.pool, nil
	}
	pair, pool, err = c.read()
	if err != nil {
		if first {
			return nil, nil, err
		}
		c.asked = time.Now()
		if c.Log != nil {
			c.Log.Warn("new certificates of the link cannot be used; the last ones stay in use", "error", err)
		}
		return c.pair, c.pool, nil
	}
	c.asked, c.times, c.pair, c.pool = time.Now(), times, pair, pool
	return pair, pool, nil
}

func (c *Certificates) modified() (times [3]time.Time) {
	for i, name := range []string{c.Cert, c.Key, c.CA} {
		if info, err := os.Stat(name); name != "" && err == nil {
			times[i] = info.ModTime()
		}
	}
	return times
}

func (c *Certificates) read() (pair *tls.Certificate, pool *x509.CertPool, err error) {
	if c.Cert != "" {
		both, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %s with key %s: %w", c.Cert, c.Key, err)
		}
		pair = &both
	}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, nil, err
		}
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("%s holds no certificate in PEM", c.CA)
		}
	}
	return pair, pool, nil
}

// Server is the control plane's side of TLS. Without a token, every client must show a certificate.
func (c *Certificates) Server(tokens bool) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair, pool, err := c.Load()
		if err != nil {
			return nil, err
		}
		if pair == nil {
			return nil, errors.New("no certificate of our own")
		}
		config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*pair}, ClientCAs: pool}
		switch {
		case pool != nil && tokens:
			config.ClientAuth = tls.VerifyClientCertIfGiven
		case pool != nil:
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
		return config, nil
	}}
}

// dial is how a proxy connects by TLS, with the certificates of the moment.
func (c *Certificates) dial(ctx context.Context, network, address string) (net.Conn, error) {
	pair, pool, err := c.Load()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: pool}
	if pair != nil {
		config.Certificates = []tls.Certificate{*pair}
	}
	return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: config}).DialContext(ctx, network, address)
}
