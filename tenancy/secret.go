package tenancy

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is text that nothing prints: not fmt with any verb, not JSON, not slog. Who needs it asks with Reveal.
type Secret struct {
	// fmt does not call the methods of what an unexported field holds. It prints a pointer to a struct, an array or a
	// slice with all that is in it, but one to a string as an address.
	text *string
}

// NewSecretText keeps text from being printed.
func NewSecretText(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal gives the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero says that there is no text.
func (s Secret) IsZero() bool { return s.text == nil }

// String never tells.
func (s Secret) String() string {
	if s.text == nil {
		return ""
	}
	return redacted
}

// Format never tells, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText never tells. JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON never tells.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// LogValue never tells.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
