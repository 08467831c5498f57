package metering

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/catraca/catraca/internal/money"
)

// GatewayModel is a model as the gateway's /v1/models lists it.
type GatewayModel struct {
	ID            string
	Kind          string
	Description   string
	ContextWindow int
	MaxOutput     int
	Capabilities  map[string]bool
	Price         Price // NoPrice where the gateway says nothing
}

// BadRow is an entry of the gateway's that could not be used.
type BadRow struct{ ID, Reason string }

// FetchGatewayModels reads the gateway's list. An entry that cannot be read is listed as bad and costs nothing else. The
// key may be empty: the gateway shows its list to anybody.
func FetchGatewayModels(ctx context.Context, client *http.Client, baseURL, key string) ([]GatewayModel, []BadRow, error) {
	body, err := getWith(ctx, client, strings.TrimSuffix(baseURL, "/")+"/models", key)
	if err != nil {
		return nil, nil, fmt.Errorf("the gateway's models: %w", err)
	}
	models, bad, err := parseGatewayModels(body)
	if err != nil {
		return nil, nil, fmt.Errorf("the gateway's models: %w", err)
	}
	return models, bad, nil
}

func parseGatewayModels(body []byte) (models []GatewayModel, bad []BadRow, err error) {
	var answer struct{ Data []json.RawMessage }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, nil, err
	}
	if len(answer.Data) == 0 {
		// Believing it would report every model as missing.
		return nil, nil, errors.New("the list is empty")
	}
	seen := map[string]bool{}
	for i, raw := range answer.Data {
		var row gatewayRow
		if err := json.Unmarshal(raw, &row); err != nil {
			bad = append(bad, BadRow{cmp.Or(row.ID, fmt.Sprintf("entry %d", i+1)), err.Error()})
			continue
		}
		m, err := row.model()
		if err == nil && seen[row.ID] {
			err = errors.New("listed twice")
		}
		if err != nil {
			bad = append(bad, BadRow{cmp.Or(row.ID, fmt.Sprintf("entry %d", i+1)), err.Error()})
			continue
		}
		seen[row.ID] = true
		models = append(models, m)
	}
	return models, bad, nil
}

// gatewayRow is an entry of /v1/models. Every field may be missing.
type gatewayRow struct {
	ID            string                     `json:"id"`
	Type          string                     `json:"type"`
	Description   string                     `json:"description"`
	ContextWindow json.Number                `json:"context_window"`
	MaxTokens     json.Number                `json:"max_tokens"`
	Tags          []string                   `json:"tags"`
	Pricing       map[string]json.RawMessage `json:"pricing"`
}

func (row *gatewayRow) model() (GatewayModel, error) {
	m := GatewayModel{ID: row.ID, Kind: cmp.Or(row.Type, "language"), Description: cleanText(row.Description, maxReason)}
	creator, name, ok := strings.Cut(row.ID, "/")
	if !ok || creator == "" || name == "" {
		return m, errors.New("its id is not creator/name")
	}
	for _, n := range []struct {
		name string
		from json.Number
		to   *int
	}{{"context_window", row.ContextWindow, &m.ContextWindow}, {"max_tokens", row.MaxTokens, &m.MaxOutput}} {
		if n.from == "" {
			continue
		}
		v, err := n.from.Int64()
		if err != nil || v < 0 || v > 1<<31-1 {
			return m, fmt.Errorf("%s %.20q is no count of tokens", n.name, n.from)
		}
		*n.to = int(v)
	}
	m.Capabilities = capabilitiesOf(m.Kind, row.Tags)
	var err error
	m.Price, err = row.price(m.Kind)
	return m, err
}

func capabilitiesOf(kind string, tags []string) map[string]bool {
	can := map[string]bool{}
	switch kind {
	case "language":
		can["text"], can["streaming"] = true, true
	case "embedding":
		can["embeddings"] = true
	default:
		can[kind] = true
	}
	for tag, name := range map[string]string{"vision": "vision", "tool-use": "tools", "reasoning": "reasoning", "image-generation": "image"} {
		if slices.Contains(tags, tag) {
			can[name] = true
		}
	}
	return can
}

// tokenPrices are the gateway's names of the four prices that a Tier has, in its order.
var tokenPrices = [4]string{"input", "output", "input_cache_read", "input_cache_write"}

// dearestToken is ten thousand dollars for a million tokens. A list that says more has mixed up its units.
const dearestToken = money.Unit / 100

func (row *gatewayRow) price(kind string) (Price, error) {
	p := NewPrice()
	steps := [4][]gatewayTier{}
	base := [4]*money.Pico{&p.Input, &p.Output, &p.Cached, &p.CacheWrite}
	for i, name := range tokenPrices {
		var err error
		if *base[i], err = pricing(row.Pricing[name]); err != nil {
			return p, fmt.Errorf("pricing.%s: %w", name, err)
		}
		if steps[i], err = gatewayTiers(row.Pricing[name+"_tiers"]); err != nil {
			return p, fmt.Errorf("pricing.%s_tiers: %w", name, err)
		}
		if len(steps[i]) > 0 && steps[i][0].min == 0 {
			*base[i] = steps[i][0].cost
		}
		if *base[i] > dearestToken {
			return p, fmt.Errorf("pricing.%s: %s dollars for one token cannot be", name, *base[i])
		}
	}
	p.Tiers = mergeTiers(base, steps)
	if kind == "image" {
		var err error
		if p.Image, err = pricing(row.Pricing["image"]); err != nil {
			return p, fmt.Errorf("pricing.image: %w", err)
		}
	}
	return p, p.check()
}

// pricing reads a price: a decimal number in a text, or a number, taken from its digits.
func pricing(raw json.RawMessage) (money.Pico, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return NoPrice, nil
	}
	text := string(raw)
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return NoPrice, err
		}
	}
	p, err := money.Parse(text)
	if err == nil && p < 0 {
		err = fmt.Errorf("%s is negative", p)
	}
	return p, err
}

type gatewayTier struct {
	min  int64
	cost money.Pico
}

func gatewayTiers(raw json.RawMessage) ([]gatewayTier, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var rows []struct {
		Cost json.RawMessage `json:"cost"`
		Min  json.Number     `json:"min"`
	}
	if err := json.Unmarshal(raw, &rows); err != nil {
		return nil, err
	}
	tiers := make([]gatewayTier, 0, len(rows))
	for _, row := range rows {
		cost, err := pricing(row.Cost)
		if err != nil {
			return nil, err
		}
		least, err := cmp.Or(row.Min, "0").Int64()
		if err != nil || least < 0 || cost == NoPrice || cost > dearestToken {
			return nil, fmt.Errorf("a tier from %.20q tokens at %s", row.Min, cost)
		}
		tiers = append(tiers, gatewayTier{least, cost})
	}
	slices.SortStableFunc(tiers, func(a, b gatewayTier) int { return cmp.Compare(a.min, b.min) })
	return tiers, nil
}

// mergeTiers makes tiers that hold all four prices of lists that may each have steps of their own.
func mergeTiers(base [4]*money.Pico, steps [4][]gatewayTier) []Tier {
	var mins []int64
	for _, s := range steps {
		for _, t := range s {
			if t.min > 0 {
				mins = append(mins, t.min)
			}
		}
	}
	slices.Sort(mins)
	var tiers []Tier
	for _, least := range slices.Compact(mins) {
		tier := Tier{MinInput: least}
		for i, f := range tier.figures() {
			*f = *base[i]
			for _, t := range steps[i] {
				if t.min <= least {
					*f = t.cost
				}
			}
		}
		tiers = append(tiers, tier)
	}
	return tiers
}
