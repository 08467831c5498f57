package dashboard

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

// Tenant is one client company.
type Tenant struct {
	ID            uuid.UUID `json:"id" format:"uuid"`
	Name          string    `json:"name"`
	Paused        bool      `json:"paused" doc:"A paused tenant's calls are refused with 403."`
	PausedReason  string    `json:"paused_reason"`
	UseGateway    bool      `json:"use_ai_gateway" doc:"Through the AI gateway (true) or straight to the providers."`
	AllowedModels []string  `json:"allowed_models" nullable:"false" doc:"Names or gateway ids; empty: all active models."`
	DefaultModel  string    `json:"default_model" doc:"Used when a request names no model; empty: none."`
	UnknownModels string    `json:"unknown_models" enum:"refuse,meter," doc:"What happens to a model the registry does not know; empty: as the deployment says."`
	TimeZone      string    `json:"time_zone" example:"America/Sao_Paulo"`
	RawPhones     bool      `json:"raw_phones" doc:"Keep phone numbers as sent instead of a pseudonym."`
	OnClientGone  string    `json:"on_client_gone" enum:"cancel,read_on" doc:"When a caller leaves before its answer is whole: end the upstream's work and bill an estimate (cancel), or read the answer on for at most a minute, to the exact bill (read_on). What the upstream writes meanwhile is paid for."`
	CreatedAt     time.Time `json:"created_at"`
	UpdatedAt     time.Time `json:"updated_at,omitzero"`
}

// TenantNew is what a tenant is created from.
type TenantNew struct {
	ID            uuid.UUID `json:"id,omitzero" format:"uuid" doc:"Only to take the id that the client has elsewhere; else one is made."`
	Name          string    `json:"name" minLength:"1" maxLength:"200"`
	UseGateway    *bool     `json:"use_ai_gateway,omitempty" doc:"Default true."`
	AllowedModels []string  `json:"allowed_models,omitempty" maxItems:"500"`
	DefaultModel  string    `json:"default_model,omitempty"`
	UnknownModels string    `json:"unknown_models,omitempty" enum:"refuse,meter,"`
	TimeZone      string    `json:"time_zone,omitempty" doc:"IANA name; default: the deployment's."`
	RawPhones     bool      `json:"raw_phones,omitempty"`
	OnClientGone  string    `json:"on_client_gone,omitempty" enum:"cancel,read_on" doc:"Default cancel."`
}

// TenantChange changes what it names and leaves the rest.
type TenantChange struct {
	Name          *string   `json:"name,omitempty" minLength:"1" maxLength:"200"`
	UseGateway    *bool     `json:"use_ai_gateway,omitempty"`
	AllowedModels *[]string `json:"allowed_models,omitempty" maxItems:"500" doc:"The whole new list; [] allows all."`
	DefaultModel  *string   `json:"default_model,omitempty"`
	UnknownModels *string   `json:"unknown_models,omitempty" enum:"refuse,meter,"`
	TimeZone      *string   `json:"time_zone,omitempty"`
	RawPhones     *bool     `json:"raw_phones,omitempty"`
	OnClientGone  *string   `json:"on_client_gone,omitempty" enum:"cancel,read_on"`
}

// TenantList is all tenants.
type TenantList struct {
	Tenants []Tenant `json:"tenants" nullable:"false"`
}

// Pause says why.
type Pause struct {
	Reason string `json:"reason" maxLength:"200" doc:"For the people who ask why; a tenant's own callers see it."`
}

// ByID is the path parameter of what has an id.
type ByID struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (s *server) tenantRoutes() {
	const tag = "tenants"
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, "/api/tenants", "list-tenants", "List tenants", tag), s.listTenants)
	huma.Register(s.api, operation(http.MethodPost, "/api/tenants", "create-tenant", "Create a tenant", tag, status(http.StatusCreated), fails(http.StatusConflict)), s.createTenant)
	huma.Register(s.api, operation(http.MethodGet, "/api/tenants/{id}", "show-tenant", "Show a tenant", tag, missing), s.showTenant)
	huma.Register(s.api, operation(http.MethodPatch, "/api/tenants/{id}", "change-tenant", "Change a tenant", tag, missing, fails(http.StatusConflict)), s.changeTenant)
	huma.Register(s.api, operation(http.MethodDelete, "/api/tenants/{id}", "delete-tenant", "Delete a tenant", tag, missing,
		describe("Its keys stop within 2 seconds and the key of its phone pseudonyms is destroyed. What it used stays.")), s.deleteTenant)
	huma.Register(s.api, operation(http.MethodPost, "/api/tenants/{id}/pause", "pause-tenant", "Refuse a tenant's calls", tag, missing, fails(http.StatusConflict)), s.pauseTenant)
	huma.Register(s.api, operation(http.MethodPost, "/api/tenants/{id}/resume", "resume-tenant", "Take a tenant's calls again", tag, missing, fails(http.StatusConflict)), s.resumeTenant)
}

func (s *server) listTenants(ctx context.Context, _ *struct{}) (*body[TenantList], error) {
	all, err := s.Tenants.Tenants(ctx)
	if err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	list := TenantList{Tenants: make([]Tenant, 0, len(all))}
	for _, t := range all {
		list.Tenants = append(list.Tenants, tenantBody(t))
	}
	return answer(list), nil
}

func (s *server) createTenant(ctx context.Context, in *struct{ Body TenantNew }) (*body[Tenant], error) {
	b := in.Body
	t := tenancy.Tenant{
		ID: b.ID, Name: b.Name, UseGateway: b.UseGateway == nil || *b.UseGateway, AllowedModels: b.AllowedModels,
		DefaultModel: b.DefaultModel, UnknownModels: tenancy.Policy(b.UnknownModels), TimeZone: b.TimeZone, RawPhones: b.RawPhones,
		OnClientGone: tenancy.GonePolicy(b.OnClientGone),
	}
	if t.TimeZone == "" {
		t.TimeZone = s.Settings.TimeZone
	}
	if err := s.checkTenant(ctx, t, tenancy.Tenant{}); err != nil {
		return nil, err
	}
	made, err := s.Tenants.CreateTenant(ctx, t)
	if err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	return answer(tenantBody(made)), nil
}

func (s *server) showTenant(ctx context.Context, in *ByID) (*body[Tenant], error) {
	t, err := s.Tenants.Tenant(ctx, in.ID)
	if err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	return answer(tenantBody(t)), nil
}

func (s *server) changeTenant(ctx context.Context, in *struct {
	ByID
	Body TenantChange
},
) (*body[Tenant], error) {
	return s.editTenant(ctx, in.ID, func(t *tenancy.Tenant) error {
		before := *t
		b := in.Body
		replace(&t.Name, b.Name)
		replace(&t.UseGateway, b.UseGateway)
		replace(&t.AllowedModels, b.AllowedModels)
		replace(&t.DefaultModel, b.DefaultModel)
		replace(&t.TimeZone, b.TimeZone)
		replace(&t.RawPhones, b.RawPhones)
		if b.UnknownModels != nil {
			t.UnknownModels = tenancy.Policy(*b.UnknownModels)
		}
		if b.OnClientGone != nil {
			t.OnClientGone = tenancy.GonePolicy(*b.OnClientGone)
		}
		return s.checkTenant(ctx, *t, before)
	})
}

func replace[T any](field *T, with *T) {
	if with != nil {
		*field = *with
	}
}

// editTenant reads, changes and writes. The store refuses the write when somebody else wrote in between.
func (s *server) editTenant(ctx context.Context, id uuid.UUID, edit func(*tenancy.Tenant) error) (*body[Tenant], error) {
	t, err := s.Tenants.Tenant(ctx, id)
	if err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	if t.Name == "" {
		t.Name = t.ID.String() // the SaaS's own table may have no names, and a tenant must be pausable all the same
	}
	if err := edit(&t); err != nil {
		return nil, err
	}
	if t, err = s.Tenants.UpdateTenant(ctx, t); err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	return answer(tenantBody(t)), nil
}

func (s *server) deleteTenant(ctx context.Context, in *ByID) (*struct{}, error) {
	if err := s.Tenants.DeleteTenant(ctx, in.ID); err != nil {
		return nil, s.fail(ctx, "tenant", err)
	}
	return nil, nil
}

func (s *server) pauseTenant(ctx context.Context, in *struct {
	ByID
	Body Pause
},
) (*body[Tenant], error) {
	return s.editTenant(ctx, in.ID, func(t *tenancy.Tenant) error {
		t.Paused, t.PausedReason = true, in.Body.Reason
		return nil
	})
}

func (s *server) resumeTenant(ctx context.Context, in *ByID) (*body[Tenant], error) {
	return s.editTenant(ctx, in.ID, func(t *tenancy.Tenant) error {
		t.Paused, t.PausedReason = false, ""
		return nil
	})
}

// checkTenant finds what the store cannot know: a name that another tenant has, which the command line could then not
// tell apart, and models that do not exist, which would shut the tenant out without a word.
func (s *server) checkTenant(ctx context.Context, t, before tenancy.Tenant) error {
	if name := strings.TrimSpace(t.Name); name != before.Name {
		all, err := s.Tenants.Tenants(ctx)
		if err != nil {
			return s.fail(ctx, "tenant", err)
		}
		for _, other := range all {
			if other.ID != t.ID && strings.EqualFold(other.Name, name) {
				return huma.Error409Conflict("tenant "+other.ID.String()+" has this name already; choose another", &huma.ErrorDetail{Location: "body.name", Message: "is taken"})
			}
		}
	}
	return s.checkModels(ctx, t, before)
}

func tenantBody(t tenancy.Tenant) Tenant {
	models := t.AllowedModels
	if models == nil {
		models = []string{}
	}
	return Tenant{
		ID: t.ID, Name: t.Name, Paused: t.Paused, PausedReason: t.PausedReason, UseGateway: t.UseGateway, AllowedModels: models,
		DefaultModel: t.DefaultModel, UnknownModels: string(t.UnknownModels), TimeZone: t.TimeZone, RawPhones: t.RawPhones,
		OnClientGone: string(t.OnClientGone), CreatedAt: utc(t.CreatedAt), UpdatedAt: utc(t.UpdatedAt),
	}
}

// utc keeps a zero time zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}
