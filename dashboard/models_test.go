package dashboard_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

const modelsPath = "/api/ai-gateway/models"

func TestModels(t *testing.T) {
	everyStore(t, func(s *site) {
		seeded := want[dashboard.ModelList](s, 200, "GET", modelsPath, nil)
		i := slices.IndexFunc(seeded.Models, func(m dashboard.Model) bool { return m.GatewayID == "openai/gpt-4o-mini" })
		if i < 0 {
			s.Fatal("gpt-4o-mini is not seeded")
		}
		mini := seeded.Models[i]
		if mini.Price == nil || mini.Price.Input != "0.15" || mini.Price.Output != "0.6" || mini.Price.Cached != "0.075" || !mini.Price.Current || mini.Prices != nil {
			s.Errorf("gpt-4o-mini %+v, price %+v", mini, mini.Price)
		}
		if active := want[dashboard.ModelList](s, 200, "GET", modelsPath+"?active=true&kind=language&provider=anthropic", nil); len(active.Models) == 0 || len(active.Models) >= len(seeded.Models) {
			s.Errorf("%d active ones of %d", len(active.Models), len(seeded.Models))
		} else {
			for _, m := range active.Models {
				if m.Retired || !m.Active || m.Provider != "anthropic" || m.Kind != "language" {
					s.Errorf("listed as active: %+v", m)
				}
			}
		}

		made := want[dashboard.Model](s, 201, "POST", modelsPath, map[string]any{
			"provider": "acme", "model_name": "fast-1", "capabilities": map[string]bool{"text": true},
			"price": map[string]any{"input_price_per_million": "0.1", "output_price_per_million": "1.5e-1"},
		})
		if made.GatewayID != "acme/fast-1" || made.Kind != "language" || !made.Active || made.Price == nil || made.Price.Input != "0.1" || made.Price.Output != "0.15" || made.Price.Source != "manual" {
			s.Errorf("made %+v, price %+v", made, made.Price)
		}
		path := modelsPath + "/" + made.ID.String()
		later := noon.AddDate(1, 0, 0)
		price := want[dashboard.Price](s, 201, "POST", path+"/prices", map[string]any{
			"effective_from": later, "input_price_per_million": "0.2", "output_price_per_million": "0.000001", "note": "their page",
			"tiers": []map[string]any{{"min_input_tokens": 200000, "input_price_per_million": "0.4"}},
		})
		if price.Current || !price.From.Equal(later) || price.Output != "0.000001" || price.Note != "their page" || len(price.Tiers) != 1 || price.Tiers[0].Input != "0.4" || price.Tiers[0].Output != "" {
			s.Errorf("price %+v", price)
		}
		shown := want[dashboard.Model](s, 200, "GET", path, nil)
		if len(shown.Prices) != 2 || shown.Prices[0].ID != price.ID || !shown.Prices[1].To.Equal(later) {
			s.Errorf("prices %+v", shown.Prices)
		}
		changed := want[dashboard.Model](s, 200, "PATCH", path, map[string]any{"is_active": false, "retires_at": later, "replacement": "acme/fast-2", "context_window": 1000})
		if changed.Active || !changed.RetiresAt.Equal(later) || changed.Replacement != "acme/fast-2" || changed.ContextWindow != 1000 || !changed.Capabilities["text"] || len(changed.Prices) != 2 {
			s.Errorf("changed %+v", changed)
		}
	})
}

func TestWhatAModelCannotBe(t *testing.T) {
	tenants, ledger := onSQLite(t)
	s := newSite(t, tenants, ledger)
	made := want[dashboard.Model](s, 201, "POST", modelsPath, map[string]any{"provider": "acme", "model_name": "fast-1"})
	if made.Price != nil {
		t.Errorf("a price from nowhere: %+v", made.Price)
	}
	prices := modelsPath + "/" + made.ID.String() + "/prices"
	for _, c := range []struct {
		method, path, body string
		status             int
		hint               string
	}{
		{"POST", modelsPath, `{"provider":"acme"}`, 422, "model_name"},
		{"POST", modelsPath, `{"provider":"ac me","model_name":"x"}`, 422, "provider"},
		{"POST", modelsPath, `{"provider":"acme","model_name":"x","kind":"chat"}`, 422, "kind"},
		{"POST", modelsPath, `{"provider":"acme","model_name":"fast-1"}`, 409, made.ID.String()},
		{"POST", modelsPath, `{"provider":"other","model_name":"x","gateway_identifier":"acme/fast-1"}`, 409, made.ID.String()},
		{"POST", modelsPath, `{"provider":"acme","model_name":"x","context_window":-1}`, 422, "context_window"},
		{"POST", modelsPath, `{"provider":"acme","model_name":"x","price":{"input_price_per_million":"cheap"}}`, 422, "input_price_per_million"},
		{"POST", modelsPath, `{"provider":"acme","model_name":"x","price":{"input_price_per_million":0.1}}`, 422, "input_price_per_million"},
		{"POST", prices, `{}`, 422, "at least one figure"},
		{"POST", prices, `{"input_price_per_million":"-1"}`, 422, "not negative"},
		{"POST", prices, `{"input_price_per_million":"1","output_price_per_million":"NaN","image_price":"x"}`, 422, "image_price"},
		{"POST", prices, `{"input_price_per_million":"0.0000001"}`, 422, "finer than a pico-dollar"},
		{"POST", prices, `{"input_price_per_million":"1e999999999"}`, 422, "input_price_per_million"},
		{"POST", prices, `{"input_price_per_million":"99999999999999999999"}`, 422, "input_price_per_million"},
		{"POST", prices, `{"input_price_per_million":"1","effective_from":"2026-11-01T00:00:00Z"}`, 422, "in the past"},
		{"POST", prices, `{"input_price_per_million":"1","tiers":[{"min_input_tokens":5},{"min_input_tokens":5}]}`, 422, "tiers[1].min_input_tokens"},
		{"POST", modelsPath + "/" + uuid.NewString() + "/prices", `{"input_price_per_million":"1"}`, 404, "no such model"},
		{"PATCH", modelsPath + "/" + uuid.NewString(), `{}`, 404, "no such model"},
		{"GET", modelsPath + "/" + uuid.NewString(), ``, 404, "no such model"},
		{"GET", modelsPath + "?kind=chat", ``, 422, "kind"},
	} {
		var in any
		if c.body != "" {
			in = c.body
		}
		code, text := s.do(c.method, c.path, in)
		if code != c.status || !strings.Contains(string(text), c.hint) {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d … %s", c.method, c.path, c.body, code, text, c.status, c.hint)
		}
	}
	if shown := want[dashboard.Model](s, 200, "GET", modelsPath+"/"+made.ID.String(), nil); len(shown.Prices) != 0 {
		t.Errorf("a refused price was set: %+v", shown.Prices)
	}
}

// auditor remembers what it is told.
type auditor []string

func (a *auditor) Note(_ context.Context, action string, subject uuid.UUID, before, after json.RawMessage) error {
	*a = append(*a, action)
	if after == nil {
		return errors.New("nothing was changed")
	}
	return nil
}

func TestSync(t *testing.T) {
	tenants, ledger := onSQLite(t)
	var noted auditor
	price := metering.NewPrice()
	price.Input, price.Output = pico(t, "0.0000007"), pico(t, "0.0000028")
	jump := metering.NewPrice()
	jump.Input, jump.Output = pico(t, "0.15"), pico(t, "0.6")
	gateway := func(context.Context) ([]metering.GatewayModel, []metering.BadRow, error) {
		return []metering.GatewayModel{
			{ID: "acme/new-1", Kind: "language", Price: price},
			{ID: "openai/gpt-4o-mini", Kind: "language", Price: jump},
		}, []metering.BadRow{{ID: "acme/odd", Reason: "its id is not creator/name"}}, nil
	}
	s := newSite(t, tenants, ledger, func(o *dashboard.Options) { o.Gateway, o.Auditor = gateway, &noted })
	result := want[dashboard.SyncResult](s, 200, "POST", modelsPath+"/sync", nil)
	if !slices.Equal(result.Added, []string{"acme/new-1"}) || !slices.Equal(result.Held, []string{"openai/gpt-4o-mini"}) || len(result.Jumps) == 0 || result.Jumps[0].Applied ||
		len(result.Bad) != 1 || !slices.Contains(result.Missing, "openai/gpt-4o") {
		t.Errorf("%+v", result)
	}
	accepted := want[dashboard.SyncResult](s, 200, "POST", modelsPath+"/sync?accept_jumps=true", nil)
	if !slices.Equal(accepted.Changed, []string{"openai/gpt-4o-mini"}) || accepted.Unchanged != 1 || !accepted.Jumps[0].Applied {
		t.Errorf("%+v", accepted)
	}
	if !slices.Equal(noted, auditor{"model.sync", "model.sync"}) {
		t.Errorf("noted %v", noted)
	}
	want[dashboard.Model](s, 201, "POST", modelsPath, map[string]any{"provider": "acme", "model_name": "fast-1", "price": map[string]any{"image_price": "0.04"}})
	if !slices.Equal(noted[2:], auditor{"model.create", "model.price"}) {
		t.Errorf("noted %v", noted)
	}

	none := newSite(t, tenants, ledger)
	if p := want[problem](none, 409, "POST", modelsPath+"/sync", nil); !strings.Contains(p.Detail, "ENABLE_AI_GATEWAY") {
		t.Errorf("%+v", p)
	}
	away := newSite(t, tenants, ledger, func(o *dashboard.Options) {
		o.Gateway = func(context.Context) ([]metering.GatewayModel, []metering.BadRow, error) {
			return nil, nil, errors.New("dial 10.0.0.7: refused")
		}
	})
	if p := want[problem](away, 502, "POST", modelsPath+"/sync", nil); strings.Contains(p.Detail, "10.0.0.7") || !strings.Contains(p.Detail, "doctor") {
		t.Errorf("%+v", p)
	}
}
