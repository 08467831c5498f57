package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs certificates for a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	dir  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	writePEM(t, filepath.Join(a.dir, "ca.crt"), "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) ca() string { return filepath.Join(a.dir, "ca.crt") }

// issue writes a certificate and its key under a name.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	writePEM(t, cert, "CERTIFICATE", der)
	bare, _ := x509.MarshalECPrivateKey(k)
	writePEM(t, key, "EC PRIVATE KEY", bare)
	return cert, key
}

func TestCertificatesInThePlaceOfTokens(t *testing.T) {
	ours, stranger := newAuthority(t, "ours"), newAuthority(t, "stranger")
	cert, key := ours.issue(t, "control")
	server := &Certificates{Cert: cert, Key: key, CA: ours.ca()}
	local := NewLocal(newWorld().options())
	background(t, local.Run)
	serve := func(tokens ...string) (address string) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := NewHandler(local, tokens, nil).Server()
		go func() { _ = s.Serve(tls.NewListener(listener, server.Server(len(tokens) > 0))) }()
		t.Cleanup(func() { _ = s.Close() })
		return "https://" + listener.Addr().String()
	}
	both, only := serve(goodToken), serve()
	mine, mineKey := ours.issue(t, "proxy")
	theirs, theirsKey := stranger.issue(t, "proxy")
	for name, c := range map[string]struct {
		address, token string
		files          *Certificates
		want           bool
	}{
		"a certificate":                        {only, "", &Certificates{Cert: mine, Key: mineKey, CA: ours.ca()}, true},
		"a certificate where tokens do too":    {both, "", &Certificates{Cert: mine, Key: mineKey, CA: ours.ca()}, true},
		"a token where certificates do too":    {both, goodToken, &Certificates{CA: ours.ca()}, true},
		"a token where only certificates do":   {only, goodToken, &Certificates{CA: ours.ca()}, false},
		"neither":                              {both, "", &Certificates{CA: ours.ca()}, false},
		"a stranger's certificate":             {only, "", &Certificates{Cert: theirs, Key: theirsKey, CA: ours.ca()}, false},
		"a stranger's certificate, with token": {both, "wrong-0123456789abcdef", &Certificates{Cert: theirs, Key: theirsKey, CA: ours.ca()}, false},
		"a control plane of a stranger's":      {both, goodToken, &Certificates{CA: stranger.ca()}, false},
	} {
		_, _, err := NewClient(c.address, c.token, c.files).Hello(t.Context())
		if (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A renewed certificate is used without a restart; a bad file leaves the last good one.
func TestCertificatesAreReadAgain(t *testing.T) {
	a := newAuthority(t, "ours")
	cert, key := a.issue(t, "proxy")
	c := &Certificates{Cert: cert, Key: key, CA: a.ca()}
	first, _, err := c.Load()
	if err != nil {
		t.Fatal(err)
	}
	later := func() {
		c.mu.Lock()
		c.asked = c.asked.Add(-time.Hour)
		c.mu.Unlock()
	}
	a.issue(t, "proxy")
	_ = os.Chtimes(cert, time.Now(), time.Now().Add(time.Minute))
	later()
	second, _, err := c.Load()
	if err != nil || second == first {
		t.Errorf("the renewed one is not in use: %v", err)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chtimes(cert, time.Now(), time.Now().Add(time.Hour))
	later()
	if third, _, err := c.Load(); err != nil || third != second {
		t.Errorf("a bad file took the last good one away: %v", err)
	}
	if _, _, err := (&Certificates{Cert: cert, Key: key}).Load(); err == nil {
		t.Error("a bad file at the start is no error")
	}
}
