package tenancy

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// AuditEntry is one line of the audit log: who changed what, and how it was before and after, without secrets.
type AuditEntry struct {
	ID       int64           `json:"id"`
	At       time.Time       `json:"at"`
	Actor    string          `json:"actor"`
	Action   string          `json:"action"` // "tenant.update", "key.revoke", …
	ClientID uuid.UUID       `json:"client_id"`
	Subject  string          `json:"subject"` // id of what was changed
	Before   json.RawMessage `json:"before,omitempty"`
	After    json.RawMessage `json:"after,omitempty"`
}

// maxAudit bounds a page of the audit log.
const maxAudit = 1000

type actorKey struct{}

// WithActor says who acts in a context: "admin:ana@example.com", "cli". It is a name, never a credential.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// Actor is who acts in a context; "unknown" when nobody said.
func Actor(ctx context.Context) string {
	if actor, _ := ctx.Value(actorKey{}).(string); actor != "" {
		return actor
	}
	return "unknown"
}

// auditJSON is a tenant or a key for the log; nil for none.
func auditJSON(what any) ([]byte, error) {
	if what == nil {
		return nil, nil
	}
	b, err := json.Marshal(what)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return b, nil
}

// orNothing keeps an absent document apart from the document null.
func orNothing(doc json.RawMessage) any {
	if len(doc) == 0 {
		return nil
	}
	return doc
}
