package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/catraca/catraca/internal/link"
)

// control tries a proxy's link: whether the control plane answers, takes our credential, and has its database.
func (d *doctor) control(ctx context.Context) finding {
	if d.cfg.ControlURL == "" {
		return skipped("CATRACA_CONTROL_URL is not set")
	}
	client, err := d.cfg.controlClient(slog.New(slog.DiscardHandler))
	if err != nil {
		return failure("correct the file, or let this user read it", "%s", err)
	}
	began := time.Now()
	at, version, err := client.Hello(ctx)
	var untrusted x509.UnknownAuthorityError
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.Is(err, link.ErrRefused):
		return failure("give this proxy a token that the control plane's CATRACA_SIDECAR_TOKEN lists, or a certificate of CATRACA_CONTROL_CLIENT_CA",
			"%s answers and refuses our credential", d.cfg.ControlURL)
	case errors.As(err, &untrusted), errors.As(err, &unverified):
		return failure("name the authority of its certificate in CATRACA_CONTROL_CA, and in CATRACA_CONTROL_URL a host that the certificate is for",
			"%s: its certificate is not trusted: %s", d.cfg.ControlURL, cause(err))
	case err != nil:
		return failure("start `catraca control`, or correct CATRACA_CONTROL_URL: it is the control plane's CATRACA_CONTROL_LISTEN; without it a proxy goes on with what it knows",
			"%s: %s", d.cfg.ControlURL, networkCause(err))
	}
	d.mu.Lock()
	d.skews = append(d.skews, clockSkew{"the control plane", d.now().Sub(at)})
	d.mu.Unlock()
	if version == 0 {
		return warning("look into the control plane's log", "%s answers, and has not reached its database yet", d.cfg.ControlURL)
	}
	return fine("%s answers in %s, configuration at version %d", d.cfg.ControlURL, time.Since(began).Round(time.Millisecond), version)
}
