package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
)

// Secret is a setting that must not be seen. Whatever prints, formats, logs or encodes it gets a mask; Reveal alone
// gives it out. It holds a pointer because fmt does not call methods of unexported fields and would print a string there.
type Secret struct{ value *string }

// NewSecret hides a value.
func NewSecret(value string) Secret { return Secret{&value} }

// IsSet says whether there is a value at all.
func (s Secret) IsSet() bool { return s.value != nil && *s.value != "" }

// Reveal is the value itself, for the one place that sends or compares it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// String is the mask: the last four characters tell keys apart, and are left out where they would tell too much.
func (s Secret) String() string {
	switch v := s.Reveal(); {
	case v == "":
		return ""
	case len(v) < 16:
		return "****"
	default:
		return "****" + v[len(v)-4:]
	}
}

// Format masks under every verb, %x and %#v too.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue masks in log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks in JSON and everything like it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes a value.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// SecretURL is an address that may hold a password. It prints as the address without it, because which host and
// database are meant is what one wants to see.
type SecretURL struct{ Secret }

// NewSecretURL hides an address.
func NewSecretURL(value string) SecretURL { return SecretURL{NewSecret(value)} }

// String is the address with user's password and all query values but harmless ones masked.
func (s SecretURL) String() string {
	if !s.IsSet() {
		return ""
	}
	u, err := url.Parse(s.Reveal())
	if err != nil || u.Host == "" && u.Path == "" || u.Opaque != "" || u.Scheme == "" {
		return "****"
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "****")
	}
	query := u.Query()
	for name, values := range query {
		if !harmlessParameter(name) {
			for i := range values {
				values[i] = "****"
			}
		}
	}
	u.RawQuery = query.Encode()
	return strings.ReplaceAll(u.String(), "%2A%2A%2A%2A", "****")
}

// harmlessParameter lists the parameters that help to see a mistake; any other may be a password.
func harmlessParameter(name string) bool {
	switch name {
	case "sslmode", "application_name", "search_path", "connect_timeout", "pool_max_conns", "addr", "master_name", "db", "protocol":
		return true
	}
	return false
}

// Format masks under every verb.
func (s SecretURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue masks in log/slog.
func (s SecretURL) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks in JSON and everything like it.
func (s SecretURL) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
