package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

// Auditor keeps what was changed by whom. Changes of tenants and keys are not its business: their store writes them down
// in the transaction of the change.
type Auditor interface {
	Note(ctx context.Context, action string, subject uuid.UUID, before, after json.RawMessage) error
}

// audit writes down a change that was made. It cannot undo the change, so a failure is logged and no more.
func (s *server) audit(ctx context.Context, action string, subject uuid.UUID, before, after any) {
	if s.Auditor == nil {
		s.Log.Info("admin API: changed", "actor", tenancy.Actor(ctx), "action", action, "subject", subject)
		return
	}
	err := s.Auditor.Note(ctx, action, subject, asDocument(before), asDocument(after))
	if err != nil {
		s.Log.Error("admin API: the audit log lacks a change", "actor", tenancy.Actor(ctx), "action", action, "subject", subject, "error", err)
	}
}

func asDocument(what any) json.RawMessage {
	if what == nil {
		return nil
	}
	text, err := json.Marshal(what)
	if err != nil {
		return nil
	}
	return text
}

// Change is one line of the audit log.
type Change struct {
	ID       int64     `json:"id"`
	At       time.Time `json:"at"`
	Actor    string    `json:"actor"`
	Action   string    `json:"action" example:"key.revoke"`
	ClientID uuid.UUID `json:"client_id,omitzero" format:"uuid"`
	Subject  string    `json:"subject" doc:"Id of what was changed."`
	Before   any       `json:"before,omitempty"`
	After    any       `json:"after,omitempty"`
}

// ChangePage is a page of changes, newest first.
type ChangePage struct {
	Changes []Change `json:"changes" nullable:"false"`
	Next    int64    `json:"next,omitempty" doc:"Send it as before to get the next page; absent on the last."`
}

func (s *server) auditRoutes() {
	huma.Register(s.api, operation(http.MethodGet, "/api/audit", "list-changes", "Who changed what, newest first", "audit"), s.listChanges)
}

func (s *server) listChanges(ctx context.Context, in *struct {
	ClientID uuid.UUID `query:"client_id" format:"uuid" doc:"Only of this tenant."`
	Before   int64     `query:"before" minimum:"0" doc:"next of the page before."`
	Limit    int       `query:"limit" minimum:"1" maximum:"1000" default:"50"`
},
) (*body[ChangePage], error) {
	entries, err := s.Tenants.Audit(ctx, in.ClientID, in.Before, in.Limit)
	if err != nil {
		return nil, s.fail(ctx, "change", err)
	}
	page := ChangePage{Changes: make([]Change, 0, len(entries))}
	for _, e := range entries {
		c := Change{ID: e.ID, At: utc(e.At), Actor: e.Actor, Action: e.Action, ClientID: e.ClientID, Subject: e.Subject}
		// Without this a nil document would be sent as null.
		if len(e.Before) > 0 {
			c.Before = e.Before
		}
		if len(e.After) > 0 {
			c.After = e.After
		}
		page.Changes = append(page.Changes, c)
	}
	if len(entries) == in.Limit {
		page.Next = entries[len(entries)-1].ID
	}
	return answer(page), nil
}
