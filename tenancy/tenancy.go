// Package tenancy knows who is asking: tenants, their keys and what each is allowed.
//
//	admin API ──► Store (Postgres, SQLite) ──► change feed ──► Keyring (memory) ──► proxy, on every request
//
// Promises:
//   - A key's secret is shown once, when it is made; only its SHA-256 is stored.
//   - The hot path reads memory. What a proxy has not served yet is loaded when it is first needed, and a change in the
//     store is in use within 2 seconds.
//   - Unknown, revoked and expired keys take the same way to the same answer.
package tenancy

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// ErrInvalidKey is the one answer to a key that is missing, malformed, unknown, revoked or expired, and to an unknown
// client id.
var ErrInvalidKey = errors.New("invalid API key")

// ErrNotFound says that the store has no such tenant or key.
var ErrNotFound = errors.New("not found")

// ErrUnavailable says that a key could not be judged, because it is not in memory and the store does not answer.
var ErrUnavailable = errors.New("tenant store unavailable")

// ErrExists says that a tenant or key cannot be created: its id (or a key's secret) is somebody's already. A client who
// is in the database is a tenant by that alone.
var ErrExists = errors.New("already exists")

// ErrConflict says that somebody else changed a tenant since it was read.
var ErrConflict = errors.New("changed by somebody else in the meantime")

// ErrChangesLost says that the feed no longer reaches back to the version asked for, or never knew it (the store is
// another one, or was restored): anything may have changed.
var ErrChangesLost = errors.New("the change feed does not reach back this far")

// Policy says what happens to a model that the registry does not know.
type Policy string

// The policies for unknown models. The empty one means: as the deployment's setting says.
const (
	RefuseUnknown Policy = "refuse" // 404 model_not_found
	MeterUnknown  Policy = "meter"  // forward it, count tokens, mark the cost unknown
)

// GonePolicy says what happens to an upstream's answer when the client that asked for it has left.
type GonePolicy string

// The policies for clients that leave. The empty one is CancelGone.
const (
	CancelGone GonePolicy = "cancel"  // end the upstream's work; what had passed is billed, as an estimate
	ReadOnGone GonePolicy = "read_on" // read on, within bounds, to the exact bill
)

// Tenant is one client company, as the admin API shows it.
type Tenant struct {
	ID            uuid.UUID  `json:"id"`
	Name          string     `json:"name"`
	Paused        bool       `json:"paused"`
	PausedReason  string     `json:"paused_reason,omitzero"`
	UseGateway    bool       `json:"use_ai_gateway"`          // clients.use_ai_gateway
	AllowedModels []string   `json:"allowed_models,omitzero"` // registry names or gateway ids; empty: all active models
	DefaultModel  string     `json:"default_model,omitzero"`  // used when a request names no model
	UnknownModels Policy     `json:"unknown_models,omitzero"`
	TimeZone      string     `json:"time_zone"`  // IANA; "America/Sao_Paulo" by default
	RawPhones     bool       `json:"raw_phones"` // keep phone numbers as sent instead of a pseudonym
	OnClientGone  GonePolicy `json:"on_client_gone,omitzero"`
	CreatedAt     time.Time  `json:"created_at,omitzero"`
	UpdatedAt     time.Time  `json:"updated_at,omitzero"` // zero: nothing is set here yet, all is by default
}

// Key is one credential of a tenant, as the admin API shows it: without its secret.
type Key struct {
	ID         uuid.UUID `json:"id"`
	ClientID   uuid.UUID `json:"client_id"`
	Name       string    `json:"name"`
	Prefix     string    `json:"prefix"`              // "ck_" and the first six characters, so that people can tell keys apart
	ExpiresAt  time.Time `json:"expires_at,omitzero"` // zero: never
	RevokedAt  time.Time `json:"revoked_at,omitzero"` // zero: in force
	CreatedAt  time.Time `json:"created_at,omitzero"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // as of the last minutes
}

// Principal is who a request is from: what the proxy needs of a tenant, in the form it needs it. It is shared between
// requests and never changed: a change makes a new one.
type Principal struct {
	ClientID      uuid.UUID
	KeyID         uuid.UUID // zero when a trusted header named the client
	Name          string
	Paused        bool
	PausedReason  string
	UseGateway    bool
	DefaultModel  string
	UnknownModels Policy
	TimeZone      *time.Location
	ExpiresAt     time.Time // of the key; zero: never
	ReadOn        bool      // when the client has gone: ReadOnGone
	Budgets       bool      // a budget may refuse a call, of the client or over all, or a policy may: alert-only budgets need nothing of a proxy

	allowed   map[string]struct{} // nil: all
	rawPhones bool
	phoneKey  Secret // zero when rawPhones
}

// Source is what a Keyring needs to know tenants: a Store, or the link to one.
type Source interface {
	// PrincipalByKey finds a key that is in force now, with its tenant; ErrNotFound otherwise.
	PrincipalByKey(ctx context.Context, digest [32]byte) (*Principal, error)
	PrincipalByClient(ctx context.Context, id uuid.UUID) (*Principal, error)
	// Changes lists what changed after a version, and the newest version. A first call with version 0 lists nothing.
	// ErrChangesLost: begin again with 0 and take everything as changed.
	Changes(ctx context.Context, after int64) ([]Change, int64, error)
	// TouchKeys notes that keys were used at about a time.
	TouchKeys(ctx context.Context, ids []uuid.UUID, at time.Time) error
}

// Store keeps tenants and keys. Every write is also a change that Changes reports, and a line in the audit log under
// the name that WithActor put into the context.
type Store interface {
	Source

	CreateTenant(ctx context.Context, t Tenant) (Tenant, error) // a zero ID is given one; ErrExists
	Tenant(ctx context.Context, id uuid.UUID) (Tenant, error)
	Tenants(ctx context.Context) ([]Tenant, error)
	// UpdateTenant writes all settings. With the UpdatedAt that was read it is refused (ErrConflict) where somebody else
	// wrote since; with a zero one it is not.
	UpdateTenant(ctx context.Context, t Tenant) (Tenant, error)
	// DeleteTenant stops a tenant's keys and destroys the key of its phone pseudonyms. Its usage stays.
	DeleteTenant(ctx context.Context, id uuid.UUID) error

	CreateKey(ctx context.Context, k Key, digest [32]byte) (Key, error)
	Keys(ctx context.Context, client uuid.UUID) ([]Key, error)
	// RotateKey makes a successor, with the lifetime of the old key from now on, and lets the old one work until the
	// grace is over. A key that is not in force, or was rotated already, is refused.
	RotateKey(ctx context.Context, id uuid.UUID, digest [32]byte, prefix string, grace time.Duration) (Key, error)
	RevokeKey(ctx context.Context, id uuid.UUID) error

	// Note writes down a change of something else than a tenant: of a model, of a price.
	Note(ctx context.Context, action string, subject uuid.UUID, before, after json.RawMessage) error
	// Audit lists who changed what, newest first: entries older than an id (0: from the newest), of one client or of all.
	Audit(ctx context.Context, client uuid.UUID, before int64, limit int) ([]AuditEntry, error)
	// ResealPhoneKeys seals every phone key that is under an older master key with the newest, and counts them.
	ResealPhoneKeys(ctx context.Context) (int, error)
}

// Change names a tenant whose settings or keys changed, or (with a zero ClientID) something global: models or prices.
type Change struct {
	Version  int64
	ClientID uuid.UUID
}
