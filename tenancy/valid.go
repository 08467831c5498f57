package tenancy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// DefaultTimeZone is a tenant's zone unless another is set.
const DefaultTimeZone = "America/Sao_Paulo"

const (
	maxName   = 200 // characters of a name or a reason
	maxModels = 500 // allowed models of a tenant
)

// Invalid says which field of a tenant or key cannot be so, and why. It repeats nothing of what was sent but names.
type Invalid struct {
	Field  string // as in the API: "time_zone"
	Reason string
}

// Error says what is wrong.
func (e *Invalid) Error() string { return e.Field + ": " + e.Reason }

// normal is the tenant with blanks trimmed and defaults filled in, or an *Invalid.
func (t Tenant) normal() (Tenant, error) {
	t.Name, t.PausedReason = strings.TrimSpace(t.Name), strings.TrimSpace(t.PausedReason)
	t.DefaultModel, t.TimeZone = strings.TrimSpace(t.DefaultModel), strings.TrimSpace(t.TimeZone)
	if t.TimeZone == "" {
		t.TimeZone = DefaultTimeZone
	}
	if t.OnClientGone == "" {
		t.OnClientGone = CancelGone
	}
	models := make([]string, 0, len(t.AllowedModels))
	for _, m := range t.AllowedModels {
		models = append(models, strings.TrimSpace(m))
	}
	slices.Sort(models)
	t.AllowedModels = slices.Compact(models)
	if len(t.AllowedModels) == 0 {
		t.AllowedModels = nil
	}
	if !t.Paused {
		t.PausedReason = ""
	}
	return t, t.check()
}

func (t *Tenant) check() error {
	if t.Name == "" {
		return &Invalid{"name", "must not be empty"}
	}
	if err := checkText("name", t.Name); err != nil {
		return err
	}
	if err := checkText("paused_reason", t.PausedReason); err != nil {
		return err
	}
	if err := checkText("default_model", t.DefaultModel); err != nil {
		return err
	}
	if len(t.AllowedModels) > maxModels {
		return &Invalid{"allowed_models", fmt.Sprintf("at most %d", maxModels)}
	}
	for _, m := range t.AllowedModels {
		if m == "" {
			return &Invalid{"allowed_models", "a model's name must not be empty"}
		}
		if err := checkText("allowed_models", m); err != nil {
			return err
		}
	}
	if t.DefaultModel != "" && len(t.AllowedModels) > 0 && !slices.Contains(t.AllowedModels, t.DefaultModel) {
		return &Invalid{"default_model", "must be one of the allowed models"}
	}
	if !slices.Contains([]Policy{"", RefuseUnknown, MeterUnknown}, t.UnknownModels) {
		return &Invalid{"unknown_models", `must be "refuse", "meter" or empty`}
	}
	if !slices.Contains([]GonePolicy{CancelGone, ReadOnGone}, t.OnClientGone) {
		return &Invalid{"on_client_gone", `must be "cancel" or "read_on"`}
	}
	// "Local" is a zone for Go, but another one on each machine.
	if _, err := time.LoadLocation(t.TimeZone); err != nil || t.TimeZone == "Local" {
		return &Invalid{"time_zone", "must be an IANA name such as America/Sao_Paulo"}
	}
	return nil
}

// normal is the key with blanks trimmed, or an *Invalid.
func (k Key) normal() (Key, error) {
	k.Name = strings.TrimSpace(k.Name)
	if k.ClientID == uuid.Nil {
		return k, &Invalid{"client_id", "must name a tenant"}
	}
	if !validPrefix(k.Prefix) {
		return k, &Invalid{"prefix", "must be the first nine characters of the secret"}
	}
	return k, checkText("name", k.Name)
}

// checkText refuses what would break a column, a log line or a header.
func checkText(field, text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return &Invalid{field, "must be plain text in UTF-8"}
	}
	if utf8.RuneCountInString(text) > maxName {
		return &Invalid{field, fmt.Sprintf("must not be longer than %d characters", maxName)}
	}
	return nil
}
