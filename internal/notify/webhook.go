package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// WebhookOptions is what a Webhook is made of.
type WebhookOptions struct {
	Rules
	Secrets  []string       // newest first; see NewSigner
	Timeout  time.Duration  // for all of one notice; 0: 10 s
	Resolver *net.Resolver  // nil: the system's
	Roots    *x509.CertPool // nil: the system's
}

// Webhook sends notices by HTTP.
type Webhook struct {
	rules  Rules
	signer *Signer
	client *http.Client
}

const (
	webhookTimeout = 10 * time.Second
	// largestReply is how much of a reply is read: what it says is not used, but to read it lets the other side end in
	// good order.
	largestReply = 64 << 10
)

// NewWebhook makes a sender.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	signer, err := NewSigner(o.Secrets)
	if err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = webhookTimeout
	}
	w := &Webhook{rules: o.Rules, signer: signer}
	// The address is checked when a connection is made to it, after the name was resolved, so that a name which leads
	// elsewhere the next time it is asked for gains nothing.
	dialer := &net.Dialer{Timeout: o.Timeout, Resolver: o.Resolver, Control: func(network, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return errPrivate
		}
		return w.rules.reach(to.Addr())
	}}
	w.client = &http.Client{
		Timeout: o.Timeout,
		Transport: &http.Transport{
			Proxy:                  nil, // one from the environment would resolve names itself, past the check
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.Roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: largestReply,
		},
		// A redirect could lead anywhere, and would turn the POST into a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

// CheckURL says what is wrong with an address to send to. See Rules.CheckURL.
func (w *Webhook) CheckURL(raw string) error { return w.rules.CheckURL(raw) }

// ClientSecret is what a client checks its webhooks with. See Signer.
func (w *Webhook) ClientSecret(client string) string { return w.signer.ClientSecret(client) }

// Send sends a notice to an address, once. It gives the status of the answer, or 0 where none came. Only a status of
// 2xx is no error.
func (w *Webhook) Send(ctx context.Context, to string, n *Notice) (status int, err error) {
	body, err := json.Marshal(newPayload(n))
	if err != nil {
		return 0, fmt.Errorf("webhook: %w", err)
	}
	u, err := w.rules.parse(to)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the webhook's address is not one that can be asked")
	}
	now, signer := time.Now(), w.signer
	if n.ClientID != "" {
		signer = signer.For(n.ClientID)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Catraca")
	req.Header.Set("webhook-id", n.ID)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", signer.Sign(n.ID, now, body))
	resp, err := w.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("webhook to %s: %w", u.Hostname(), plainly(err))
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, largestReply)) // the status came: how the rest ends changes nothing
	return resp.StatusCode, refusal(u.Hostname(), resp.StatusCode)
}

// refusal is what a status means.
func refusal(host string, status int) error {
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return fmt.Errorf("webhook to %s: it answered with a redirect (%d), which is not followed: set the address that it leads to", host, status)
	case status == http.StatusGone:
		return fmt.Errorf("webhook to %s: %w", host, Final{"it answered that nobody wants its notices any more (410)"})
	}
	return fmt.Errorf("webhook to %s: it answered with status %d", host, status)
}

// Final is an error that no further try will change.
type Final struct{ what string }

func (f Final) Error() string { return f.what }

// Final says that it is.
func (f Final) Final() bool { return true }

// plainly says what went wrong, in words that cannot hold the address's path or what the other side sent: errors of
// net/http quote both.
func plainly(err error) error {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var timeout interface{ Timeout() bool }
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.Is(err, errPrivate):
		return errPrivate
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("it did not answer in time")
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return errors.New("there is no host of this name")
		}
		return errors.New("its name could not be resolved")
	case errors.As(err, &certificate):
		return errors.New("its certificate is not valid for this name, has ended, or is of an authority that is not trusted")
	case errors.As(err, &record), errors.As(err, &alert), strings.Contains(err.Error(), "tls: "):
		return errors.New("TLS could not be agreed upon")
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("the connection was refused")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return errors.New("there is no way to it")
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("the connection was closed before an answer came")
	}
	return errors.New("what it answered is not HTTP, or larger than allowed")
}
