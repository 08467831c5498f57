package metering

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// ErrUnknownModel says that the registry has no such model.
var ErrUnknownModel = errors.New("no such model in the registry")

// Catalog is the registry as it was at one moment. It is shared and never changed: a change makes a new one. Inactive
// and retired models are in it, since what they once did must still be priced; whether to serve them is for who asks.
type Catalog struct {
	models []*Model
	byName map[string]*Model
	byID   map[uuid.UUID]*Model
}

// NewCatalog makes a catalog of models, whose prices it puts in order, newest first.
//
// A model can be called by its gateway id ("openai/gpt-4o"), by provider and name ("groq/openai/gpt-oss-120b"), by its
// bare name ("gpt-4o"), or by what follows the slash in its gateway id ("gpt-oss-120b"). Where two models could be
// meant, the first of these four decides, then an active model before another, then the provider: openai, groq,
// anthropic, google, and then by the alphabet.
func NewCatalog(models []Model) *Catalog {
	c := &Catalog{byName: map[string]*Model{}, byID: make(map[uuid.UUID]*Model, len(models))}
	for i := range models {
		m := models[i]
		m.Prices = slices.Clone(m.Prices)
		slices.SortStableFunc(m.Prices, func(a, b Price) int { return b.From.Compare(a.From) })
		c.models = append(c.models, &m)
		c.byID[m.ID] = &m
	}
	slices.SortFunc(c.models, func(a, b *Model) int { return strings.Compare(a.GatewayID, b.GatewayID) })
	ranked := slices.Clone(c.models)
	slices.SortStableFunc(ranked, func(a, b *Model) int {
		return cmp.Or(cmp.Compare(inactive(a), inactive(b)), cmp.Compare(providerRank(a), providerRank(b)), strings.Compare(a.Provider, b.Provider))
	})
	for _, name := range []func(*Model) string{
		func(m *Model) string { return m.GatewayID },
		func(m *Model) string { return m.Provider + "/" + m.Name },
		func(m *Model) string { return m.Name },
		func(m *Model) string { return m.GatewayID[strings.LastIndexByte(m.GatewayID, '/')+1:] },
	} {
		for _, m := range ranked {
			if n := name(m); c.byName[n] == nil {
				c.byName[n] = m
			}
		}
	}
	return c
}

// catalogOf puts together what a store read: models first and prices after them, so that every model has all prices
// that it had when it was read, with no transaction around the two.
func catalogOf(models []Model, prices []Price) *Catalog {
	byModel := map[uuid.UUID][]Price{}
	for _, p := range prices {
		byModel[p.ModelID] = append(byModel[p.ModelID], p)
	}
	for i := range models {
		models[i].Prices = byModel[models[i].ID]
	}
	return NewCatalog(models)
}

func inactive(m *Model) int {
	if m.Active {
		return 0
	}
	return 1
}

func providerRank(m *Model) int {
	order := []string{"openai", "groq", "anthropic", "google"}
	if i := slices.Index(order, m.Provider); i >= 0 {
		return i
	}
	return len(order)
}

// Lookup finds a model by any of its names; nil when there is none. It does not allocate.
func (c *Catalog) Lookup(name string) *Model { return c.byName[name] }

// ByID finds a model by its id; nil when there is none.
func (c *Catalog) ByID(id uuid.UUID) *Model { return c.byID[id] }

// Models lists all models by gateway id. The list belongs to the catalog.
func (c *Catalog) Models() []*Model { return c.models }

// check finds what the registry cannot hold.
func (m *Model) check() error {
	for _, f := range []struct{ name, value string }{
		{"provider", m.Provider}, {"model name", m.Name}, {"gateway id", m.GatewayID}, {"kind", m.Kind},
	} {
		if f.value == "" || len(f.value) > maxColumn || cleanText(f.value, maxColumn) != f.value || strings.TrimSpace(f.value) != f.value {
			return fmt.Errorf("model %.60q: its %s must have 1 to %d characters and no blank around them", m.GatewayID, f.name, maxColumn)
		}
	}
	if m.ContextWindow < 0 || m.MaxOutput < 0 || m.ContextWindow > math.MaxInt32 || m.MaxOutput > math.MaxInt32 {
		return fmt.Errorf("model %q: context window and largest output are 0 (unknown) to %d", m.GatewayID, math.MaxInt32)
	}
	return nil
}

// fitPrice says how a price list goes on when a new price begins: which of the old ones ends there, and when the new
// one ends itself. prices are a model's, in any order; old is nil when none covers the beginning of the new one.
func fitPrice(prices []Price, p Price) (old *Price, fitted Price) {
	p.To = time.Time{}
	for i := range prices {
		q := &prices[i]
		switch {
		case q.From.After(p.From):
			if p.To.IsZero() || q.From.Before(p.To) {
				p.To = q.From // a price that is announced already still comes
			}
		case q.To.IsZero() || p.From.Before(q.To):
			old = q
		}
	}
	return old, p
}

// registryPrices are the plan's columns: dollars for a million tokens.
func registryPrices(p *Price) (input, output string, cached *string) {
	million := func(of *Price, i int) string { return max(*of.figures()[i], 0).Decimal().Shift(6).String() }
	if p == nil {
		return "0", "0", nil
	}
	if p.Cached != NoPrice {
		s := million(p, 2)
		cached = &s
	}
	return million(p, 0), million(p, 1), cached
}

// newPrice makes a price ready to be kept: with an id, a beginning, and its tiers as text.
func newPrice(model uuid.UUID, p Price, now time.Time) (price Price, tiers string, err error) {
	p.ID, p.ModelID = uuid.New(), model
	if p.From.IsZero() {
		p.From = now
	}
	// Stores keep microseconds.
	p.From = p.From.UTC().Truncate(time.Microsecond)
	p.To = time.Time{}
	p.Note = cleanText(p.Note, maxReason)
	if p.Source == "" || cleanText(p.Source, maxColumn) != p.Source {
		return Price{}, "", errors.New("price: it must say what its source is: seed, gateway or manual")
	}
	if err := p.check(); err != nil {
		return Price{}, "", err
	}
	tiers, err = marshalTiers(p.Tiers)
	return p, tiers, err
}

// pico is a price as a store gets it: NoPrice is null.
func pico(p money.Pico) *int64 {
	if p == NoPrice {
		return nil
	}
	n := int64(p)
	return &n
}

// parseCapabilities reads a registry's capabilities. Only what is true counts; a SaaS may keep other things there.
func parseCapabilities(raw []byte) map[string]bool {
	var all map[string]any
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	can := map[string]bool{}
	for name, value := range all {
		if value == true {
			can[name] = true
		}
	}
	return can
}

func trueOnes(capabilities map[string]bool) map[string]bool {
	can := map[string]bool{}
	for name, is := range capabilities {
		if is {
			can[name] = true
		}
	}
	return can
}
