package notify

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Signer signs webhooks as the Standard Webhooks specification (standardwebhooks.com, version 1) has it. It shows itself
// in no log.
type Signer struct{ keys [][]byte }

const secretPrefix = "whsec_"

// NewSigner reads secrets, newest first, as whsec_ and 24 to 64 bytes in base64. All of them sign, so that receivers
// can change from one to the next in their own time.
func NewSigner(secrets []string) (*Signer, error) {
	s := &Signer{}
	for i, secret := range secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
		if err != nil || !strings.HasPrefix(secret, secretPrefix) {
			return nil, fmt.Errorf("webhook secret %d of %d: write whsec_ and base64, as in: echo whsec_$(openssl rand -base64 32)", i+1, len(secrets))
		}
		if len(key) < 24 || len(key) > 64 {
			return nil, fmt.Errorf("webhook secret %d of %d has %d bytes; 24 to 64 are needed, as in: echo whsec_$(openssl rand -base64 32)", i+1, len(secrets), len(key))
		}
		s.keys = append(s.keys, key)
	}
	if len(s.keys) == 0 {
		return nil, errors.New("no webhook secret is set, and a notice that is not signed proves nothing")
	}
	return s, nil
}

// NewSecret makes a secret.
func NewSecret() string {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// For is what signs a client's webhooks: by keys of its own, and by the signer's. Whoever receives for one client is
// given that client's secret, with which nothing can be forged for another; whoever receives for all of them needs no
// more than the secrets that were set.
func (s *Signer) For(client string) *Signer {
	all := &Signer{}
	for _, key := range s.keys {
		all.keys = append(all.keys, clientKey(key, client))
	}
	all.keys = append(all.keys, s.keys...)
	return all
}

// ClientSecret is what a client checks its webhooks with. It changes with the newest secret.
func (s *Signer) ClientSecret(client string) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(clientKey(s.keys[0], client))
}

func clientKey(key []byte, client string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("catraca: webhooks of the client " + client))
	return mac.Sum(nil)
}

// Sign gives the header webhook-signature. The id must have no full stop in it.
func (s *Signer) Sign(id string, at time.Time, body []byte) string {
	var signatures []string
	for _, key := range s.keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}

// String, GoString and LogValue keep the keys out of whatever a signer is printed into.
func (s *Signer) String() string       { return "[signer]" }
func (s *Signer) GoString() string     { return "[signer]" }
func (s *Signer) LogValue() slog.Value { return slog.StringValue("[signer]") }
