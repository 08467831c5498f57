package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

// Key is one credential of a tenant, without its secret.
type Key struct {
	ID         uuid.UUID `json:"id" format:"uuid"`
	ClientID   uuid.UUID `json:"client_id" format:"uuid"`
	Name       string    `json:"name"`
	Prefix     string    `json:"prefix" doc:"How the secret begins."`
	State      string    `json:"state" enum:"active,expired,revoked"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	RevokedAt  time.Time `json:"revoked_at,omitzero"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero" doc:"To a few minutes."`
}

// KeyMade is a new key with its secret.
type KeyMade struct {
	Key
	Secret string `json:"secret" doc:"The key itself. It is shown here and never again."`
}

// KeyList is a tenant's keys.
type KeyList struct {
	Keys []Key `json:"keys" nullable:"false"`
}

// KeyNew is what a key is made from.
type KeyNew struct {
	Name      string    `json:"name,omitempty" maxLength:"200" doc:"Where it is used, for those who have to find it."`
	ExpiresAt time.Time `json:"expires_at,omitzero" doc:"Default: never."`
}

// Rotation says how long the old key goes on.
type Rotation struct {
	GraceSeconds *int64 `json:"grace_seconds,omitempty" minimum:"0" maximum:"7776000" doc:"How long the old key still works; default 86400, one day; 0 stops it at once."`
}

// defaultGrace is a working day's time to put the new key in place.
const defaultGrace = 24 * time.Hour

func (s *server) keyRoutes() {
	const tag = "keys"
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, "/api/tenants/{id}/keys", "list-keys", "List a tenant's keys", tag, missing), s.listKeys)
	huma.Register(s.api, operation(http.MethodPost, "/api/tenants/{id}/keys", "create-key", "Make a key", tag, missing, status(http.StatusCreated),
		describe("The answer holds the secret, this once.")), s.createKey)
	huma.Register(s.api, operation(http.MethodPost, "/api/keys/{id}/rotate", "rotate-key", "Make a successor for a key", tag, missing, status(http.StatusCreated),
		describe("The answer holds the successor's secret, this once. The old key works until the grace is over.")), s.rotateKey)
	huma.Register(s.api, operation(http.MethodDelete, "/api/keys/{id}", "revoke-key", "Revoke a key", tag, missing,
		describe("It stops within 2 seconds.")), s.revokeKey)
}

func (s *server) listKeys(ctx context.Context, in *ByID) (*body[KeyList], error) {
	if _, err := s.Tenants.Tenant(ctx, in.ID); err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	all, err := s.Tenants.Keys(ctx, in.ID)
	if err != nil {
		return nil, s.fail(ctx, "key", err)
	}
	list := KeyList{Keys: make([]Key, 0, len(all))}
	for _, k := range all {
		list.Keys = append(list.Keys, s.keyBody(k))
	}
	return answer(list), nil
}

func (s *server) createKey(ctx context.Context, in *struct {
	ByID
	Body KeyNew
},
) (*body[KeyMade], error) {
	if _, err := s.Tenants.Tenant(ctx, in.ID); err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	if e := in.Body.ExpiresAt; !e.IsZero() && !e.After(s.Now()) {
		return nil, huma.Error422UnprocessableEntity("the key would have expired already; give a time to come, or none", &huma.ErrorDetail{Location: "body.expires_at", Message: "is in the past"})
	}
	secret, digest, prefix := tenancy.NewSecret()
	made, err := s.Tenants.CreateKey(ctx, tenancy.Key{ClientID: in.ID, Name: in.Body.Name, Prefix: prefix, ExpiresAt: in.Body.ExpiresAt}, digest)
	if err != nil {
		return nil, s.fail(ctx, "key", err)
	}
	return answer(KeyMade{s.keyBody(made), secret}), nil
}

func (s *server) rotateKey(ctx context.Context, in *struct {
	ByID
	Body *Rotation
},
) (*body[KeyMade], error) {
	grace := defaultGrace
	if in.Body != nil && in.Body.GraceSeconds != nil {
		grace = time.Duration(*in.Body.GraceSeconds) * time.Second
	}
	secret, digest, prefix := tenancy.NewSecret()
	made, err := s.Tenants.RotateKey(ctx, in.ID, digest, prefix, grace)
	if err != nil {
		return nil, s.fail(ctx, "key", err)
	}
	return answer(KeyMade{s.keyBody(made), secret}), nil
}

func (s *server) revokeKey(ctx context.Context, in *ByID) (*struct{}, error) {
	if err := s.Tenants.RevokeKey(ctx, in.ID); err != nil {
		return nil, s.fail(ctx, "key", err)
	}
	return nil, nil
}

func (s *server) keyBody(k tenancy.Key) Key {
	state := "active"
	switch {
	case !k.RevokedAt.IsZero():
		state = "revoked"
	case !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(s.Now()):
		state = "expired"
	}
	return Key{
		ID: k.ID, ClientID: k.ClientID, Name: k.Name, Prefix: k.Prefix, State: state, ExpiresAt: utc(k.ExpiresAt),
		RevokedAt: utc(k.RevokedAt), CreatedAt: utc(k.CreatedAt), LastUsedAt: utc(k.LastUsedAt),
	}
}
