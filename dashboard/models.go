package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// Registry keeps models and their prices.
type Registry = metering.ModelStore

// Model is one row of the registry.
type Model struct {
	ID            uuid.UUID       `json:"id" format:"uuid"`
	Provider      string          `json:"provider"`
	Name          string          `json:"model_name" doc:"The provider's own name."`
	GatewayID     string          `json:"gateway_identifier" example:"openai/gpt-4o-mini"`
	Kind          string          `json:"kind"`
	Capabilities  map[string]bool `json:"capabilities"`
	ContextWindow int             `json:"context_window" doc:"Tokens; 0: not known."`
	MaxOutput     int             `json:"max_output_tokens" doc:"0: not known."`
	Active        bool            `json:"is_active"`
	RetiresAt     time.Time       `json:"retires_at,omitzero" doc:"When its provider switches it off."`
	Retired       bool            `json:"retired"`
	Replacement   string          `json:"replacement,omitempty" doc:"What its provider names instead."`
	Description   string          `json:"description,omitempty"`
	CreatedAt     time.Time       `json:"created_at"`
	Price         *Price          `json:"price,omitempty" doc:"In force now; absent: its calls have no known cost."`
	Prices        []Price         `json:"prices,omitempty" doc:"All there were and are to come, newest first."`
}

// ModelList is models by gateway id.
type ModelList struct {
	Models []Model `json:"models" nullable:"false"`
}

// ModelNew is what a model is created from.
type ModelNew struct {
	Provider      string          `json:"provider" minLength:"1" maxLength:"100" pattern:"^\\S+$"`
	Name          string          `json:"model_name" minLength:"1" maxLength:"200" pattern:"^\\S+$" doc:"The provider's own name."`
	GatewayID     string          `json:"gateway_identifier,omitempty" maxLength:"200" pattern:"^\\S+$" doc:"Default: provider/model_name."`
	Kind          string          `json:"kind,omitempty" enum:"language,embedding,image,speech,transcription,moderation" default:"language"`
	Capabilities  map[string]bool `json:"capabilities,omitempty"`
	ContextWindow int             `json:"context_window,omitempty" minimum:"0" maximum:"2000000000"`
	MaxOutput     int             `json:"max_output_tokens,omitempty" minimum:"0" maximum:"2000000000"`
	RetiresAt     time.Time       `json:"retires_at,omitzero"`
	Replacement   string          `json:"replacement,omitempty" maxLength:"200"`
	Description   string          `json:"description,omitempty" maxLength:"1000"`
	Price         *Figures        `json:"price,omitempty" doc:"From now on; without it the cost of its calls is not known."`
}

// ModelChange changes what it names and leaves the rest.
type ModelChange struct {
	Active        *bool            `json:"is_active,omitempty" doc:"An inactive model is refused with 404."`
	Capabilities  *map[string]bool `json:"capabilities,omitempty"`
	ContextWindow *int             `json:"context_window,omitempty" minimum:"0" maximum:"2000000000"`
	MaxOutput     *int             `json:"max_output_tokens,omitempty" minimum:"0" maximum:"2000000000"`
	RetiresAt     *time.Time       `json:"retires_at,omitempty"`
	Replacement   *string          `json:"replacement,omitempty" maxLength:"200"`
	Description   *string          `json:"description,omitempty" maxLength:"1000"`
}

func (s *server) modelRoutes() {
	const tag = "models"
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/models", "list-models", "List models with the price in force", tag), s.listModels)
	huma.Register(s.api, operation(http.MethodPost, "/api/ai-gateway/models", "create-model", "Add a model", tag, status(http.StatusCreated), fails(http.StatusConflict)), s.createModel)
	huma.Register(s.api, operation(http.MethodGet, "/api/ai-gateway/models/{id}", "show-model", "Show a model with all its prices", tag, missing), s.showModel)
	huma.Register(s.api, operation(http.MethodPatch, "/api/ai-gateway/models/{id}", "change-model", "Change a model", tag, missing,
		describe("A change is in use within 2 seconds.")), s.changeModel)
	huma.Register(s.api, operation(http.MethodPost, "/api/ai-gateway/models/{id}/prices", "set-price", "Set the price of a model from a time on", tag, missing, status(http.StatusCreated),
		describe("The price before it ends where this one begins. What was used stays priced as it was.")), s.setPrice)
	huma.Register(s.api, operation(http.MethodPost, "/api/ai-gateway/models/sync", "sync-models", "Read models and prices from the gateway", tag, fails(http.StatusConflict, http.StatusBadGateway)), s.syncModels)
}

func (s *server) listModels(ctx context.Context, in *struct {
	Provider string `query:"provider"`
	Kind     string `query:"kind" enum:"language,embedding,image,speech,transcription,moderation"`
	Active   bool   `query:"active" doc:"Only those that are active and not retired."`
},
) (*body[ModelList], error) {
	catalog, err := s.Registry.LoadCatalog(ctx)
	if err != nil {
		return nil, s.fail(ctx, "model", err)
	}
	list := ModelList{Models: []Model{}}
	for _, m := range catalog.Models() {
		b := s.modelBody(m, false)
		if in.Provider != "" && m.Provider != in.Provider || in.Kind != "" && m.Kind != in.Kind || in.Active && (!m.Active || b.Retired) {
			continue
		}
		list.Models = append(list.Models, b)
	}
	return answer(list), nil
}

// model finds one by its id.
func (s *server) model(ctx context.Context, id uuid.UUID) (*metering.Model, error) {
	catalog, err := s.Registry.LoadCatalog(ctx)
	if err != nil {
		return nil, s.fail(ctx, "model", err)
	}
	m := catalog.ByID(id)
	if m == nil {
		return nil, s.fail(ctx, "model", metering.ErrUnknownModel)
	}
	return m, nil
}

func (s *server) showModel(ctx context.Context, in *ByID) (*body[Model], error) {
	m, err := s.model(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return answer(s.modelBody(m, true)), nil
}

func (s *server) createModel(ctx context.Context, in *struct{ Body ModelNew }) (*body[Model], error) {
	b := in.Body
	m := metering.Model{
		Provider: b.Provider, Name: b.Name, GatewayID: b.GatewayID, Kind: b.Kind, Capabilities: b.Capabilities, ContextWindow: b.ContextWindow,
		MaxOutput: b.MaxOutput, Active: b.Price == nil, RetiresAt: b.RetiresAt, Replacement: b.Replacement, Description: b.Description,
	}
	if m.GatewayID == "" {
		m.GatewayID = m.Provider + "/" + m.Name
	}
	var price metering.Price
	if b.Price != nil {
		var wrong []error
		if price, wrong = b.Price.price(); len(wrong) > 0 {
			return nil, huma.Error422UnprocessableEntity("the price is not valid", wrong...)
		}
		price.From = s.Now()
	}
	catalog, err := s.Registry.LoadCatalog(ctx)
	if err != nil {
		return nil, s.fail(ctx, "model", err)
	}
	for _, other := range catalog.Models() {
		if other.GatewayID == m.GatewayID || other.Provider == m.Provider && other.Name == m.Name {
			return nil, huma.Error409Conflict("model " + other.ID.String() + " has this name already; change it instead")
		}
	}
	made, err := s.Registry.UpsertModel(ctx, m)
	if err != nil {
		return nil, s.fail(ctx, "model", err)
	}
	s.audit(ctx, "model.create", made.ID, nil, s.modelBody(&made, false))
	if b.Price != nil { // active only with its price: a call in between would cost nothing that is known
		if _, err := s.putPrice(ctx, made.ID, price); err != nil {
			return nil, err
		}
		made.Active = true
		if _, err := s.Registry.UpsertModel(ctx, made); err != nil {
			return nil, s.fail(ctx, "model", err)
		}
	}
	return s.showModel(ctx, &ByID{made.ID})
}

func (s *server) changeModel(ctx context.Context, in *struct {
	ByID
	Body ModelChange
},
) (*body[Model], error) {
	was, err := s.model(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	m, b := *was, in.Body
	replace(&m.Active, b.Active)
	replace(&m.Capabilities, b.Capabilities)
	replace(&m.ContextWindow, b.ContextWindow)
	replace(&m.MaxOutput, b.MaxOutput)
	replace(&m.RetiresAt, b.RetiresAt)
	replace(&m.Replacement, b.Replacement)
	replace(&m.Description, b.Description)
	changed, err := s.Registry.UpsertModel(ctx, m)
	if err != nil {
		return nil, s.fail(ctx, "model", err)
	}
	s.audit(ctx, "model.update", m.ID, s.modelBody(was, false), s.modelBody(&changed, false))
	return s.showModel(ctx, &in.ByID)
}

func (s *server) setPrice(ctx context.Context, in *struct {
	ByID
	Body PriceNew
},
) (*body[Price], error) {
	if in.Body.Figures.empty() {
		return nil, huma.Error422UnprocessableEntity("a price needs at least one figure; a model that costs nothing has input and output at \"0\"")
	}
	price, wrong := in.Body.Figures.price()
	if len(wrong) > 0 {
		return nil, huma.Error422UnprocessableEntity("the price is not valid", wrong...)
	}
	price.Note, price.From = in.Body.Note, s.Now()
	if from := in.Body.From; !from.IsZero() {
		// What is in the log was priced when it was admitted; a price in the past would only make the two differ.
		if from.Before(s.Now().Add(-time.Minute)) {
			return nil, huma.Error422UnprocessableEntity("a price cannot begin in the past: what was used is priced already",
				&huma.ErrorDetail{Location: "body.effective_from", Message: "must be now or later"})
		}
		price.From = from
	}
	if _, err := s.model(ctx, in.ID); err != nil {
		return nil, err
	}
	set, err := s.putPrice(ctx, in.ID, price)
	if err != nil {
		return nil, err
	}
	return answer(priceBody(&set, s.Now())), nil
}

func (s *server) putPrice(ctx context.Context, model uuid.UUID, price metering.Price) (metering.Price, error) {
	set, err := s.Registry.SetPrice(ctx, model, price)
	if err != nil {
		return set, s.fail(ctx, "model", err)
	}
	s.audit(ctx, "model.price", model, nil, priceBody(&set, s.Now()))
	return set, nil
}

// checkModels refuses names that the registry does not know: one letter wrong in the only allowed model shuts a tenant
// out. Names that were there before stay, and where unknown models are metered any name goes.
func (s *server) checkModels(ctx context.Context, t, before tenancy.Tenant) error {
	policy := t.UnknownModels
	if policy == "" {
		policy = s.Settings.UnknownModelPolicy
	}
	if policy == tenancy.MeterUnknown {
		return nil
	}
	var catalog *metering.Catalog
	var wrong []error
	check := func(field, name string) error {
		if name == "" {
			return nil
		}
		if catalog == nil {
			var err error
			if catalog, err = s.Registry.LoadCatalog(ctx); err != nil {
				return s.fail(ctx, "model", err)
			}
		}
		if catalog.Lookup(name) == nil {
			wrong = append(wrong, &huma.ErrorDetail{Location: "body." + field, Message: fmt.Sprintf("the registry has no model %.80q", name)})
		}
		return nil
	}
	for _, name := range t.AllowedModels {
		if name = strings.TrimSpace(name); !slices.Contains(before.AllowedModels, name) {
			if err := check("allowed_models", name); err != nil {
				return err
			}
		}
	}
	if name := strings.TrimSpace(t.DefaultModel); name != before.DefaultModel {
		if err := check("default_model", name); err != nil {
			return err
		}
	}
	if len(wrong) > 0 {
		return huma.Error422UnprocessableEntity("models must be in the registry; list or add them under /api/ai-gateway/models, or set unknown_models to meter", wrong...)
	}
	return nil
}

func (s *server) modelBody(m *metering.Model, withPrices bool) Model {
	now := s.Now()
	b := Model{
		ID: m.ID, Provider: m.Provider, Name: m.Name, GatewayID: m.GatewayID, Kind: m.Kind, Capabilities: m.Capabilities,
		ContextWindow: m.ContextWindow, MaxOutput: m.MaxOutput, Active: m.Active, RetiresAt: utc(m.RetiresAt),
		Retired: !m.RetiresAt.IsZero() && !m.RetiresAt.After(now), Replacement: m.Replacement, Description: m.Description, CreatedAt: utc(m.CreatedAt),
	}
	if b.Capabilities == nil {
		b.Capabilities = map[string]bool{}
	}
	if p := m.PriceAt(now); p != nil {
		price := priceBody(p, now)
		b.Price = &price
	}
	if withPrices {
		for i := range m.Prices {
			b.Prices = append(b.Prices, priceBody(&m.Prices[i], now))
		}
	}
	return b
}
