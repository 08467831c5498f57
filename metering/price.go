package metering

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// Model is one row of the registry with its price history. It is immutable once in a Catalog.
type Model struct {
	ID            uuid.UUID
	Provider      string // "openai", "groq", "anthropic", "google", or another creator that only the gateway has
	Name          string // the provider's own name: what the direct route sends
	GatewayID     string // the gateway's slug: "openai/gpt-4o-mini"
	Kind          string // "language", "embedding", "image", "speech", "transcription", "moderation"
	Capabilities  map[string]bool
	ContextWindow int
	MaxOutput     int
	Active        bool
	RetiresAt     time.Time // zero: not announced
	Replacement   string    // gateway id of what its provider names instead
	Description   string
	CreatedAt     time.Time
	Prices        []Price // newest first
}

// Price is what a model costs over a time. All figures are pico-dollars for one piece; NoPrice marks one that the
// price list does not have.
type Price struct {
	ID      uuid.UUID
	ModelID uuid.UUID
	From    time.Time
	To      time.Time // zero: still in force
	Source  string    // "seed", "gateway", "manual"
	Note    string    // where the figures are from

	Input       money.Pico // a prompt token
	Output      money.Pico // a completion token
	Cached      money.Pico // a prompt token read from cache; NoPrice: as Input
	CacheWrite  money.Pico // a prompt token written to cache; NoPrice: as Input
	AudioInput  money.Pico // NoPrice: as Input
	AudioOutput money.Pico // NoPrice: as Output
	AudioSecond money.Pico // a second transcribed, charged by the millisecond
	Image       money.Pico // an image generated
	Character   money.Pico // a character spoken
	Tiers       []Tier     // ascending; the last whose MinInput is reached prices the whole request
}

// NoPrice stands where a price list has no figure.
const NoPrice money.Pico = -1

// Tier replaces the token prices of a whole request whose prompt has at least MinInput tokens.
type Tier struct {
	MinInput   int64
	Input      money.Pico
	Output     money.Pico
	Cached     money.Pico
	CacheWrite money.Pico
}

// NewPrice is a price list with no figure in it. The zero Price is another thing: everything is free.
func NewPrice() Price {
	return Price{
		Input: NoPrice, Output: NoPrice, Cached: NoPrice, CacheWrite: NoPrice, AudioInput: NoPrice, AudioOutput: NoPrice,
		AudioSecond: NoPrice, Image: NoPrice, Character: NoPrice,
	}
}

// PriceAt is the price in force at a time; nil when there was none.
func (m *Model) PriceAt(t time.Time) *Price {
	for i := range m.Prices {
		p := &m.Prices[i]
		if !t.Before(p.From) && (p.To.IsZero() || t.Before(p.To)) {
			return p
		}
	}
	return nil
}

// Retired tells whether its provider has switched the model off by now, or said it would have.
func (m *Model) Retired(now time.Time) bool { return !m.RetiresAt.IsZero() && !now.Before(m.RetiresAt) }

// check finds what is no price list.
func (p *Price) check() error {
	for _, f := range p.figures() {
		if *f < NoPrice {
			return fmt.Errorf("price: a figure is negative: %s", *f)
		}
	}
	least := int64(0)
	for i := range p.Tiers {
		t := &p.Tiers[i]
		if t.MinInput <= least {
			return fmt.Errorf("price: tiers must ascend from above 0 tokens; tier %d begins at %d", i+1, t.MinInput)
		}
		least = t.MinInput
		for _, f := range t.figures() {
			if *f < NoPrice {
				return fmt.Errorf("price: a figure of the tier from %d tokens is negative: %s", t.MinInput, *f)
			}
		}
	}
	if !p.To.IsZero() && p.To.Before(p.From) {
		return fmt.Errorf("price: it ends before it begins")
	}
	return nil
}

// figures lists the prices in the order of the columns of model_prices.
func (p *Price) figures() [9]*money.Pico {
	return [9]*money.Pico{
		&p.Input, &p.Output, &p.Cached, &p.CacheWrite, &p.AudioInput, &p.AudioOutput, &p.AudioSecond, &p.Image, &p.Character,
	}
}

func (t *Tier) figures() [4]*money.Pico {
	return [4]*money.Pico{&t.Input, &t.Output, &t.Cached, &t.CacheWrite}
}

// tierText is a Tier as the stores keep it: JSON with decimal numbers in texts, since JSON's own numbers are floating
// point to too many who read them.
type tierText struct {
	MinInput   int64   `json:"min_input"`
	Input      *string `json:"input,omitempty"`
	Output     *string `json:"output,omitempty"`
	Cached     *string `json:"cached,omitempty"`
	CacheWrite *string `json:"cache_write,omitempty"`
}

func (t *tierText) texts() [4]**string {
	return [4]**string{&t.Input, &t.Output, &t.Cached, &t.CacheWrite}
}

func marshalTiers(tiers []Tier) (string, error) {
	all := make([]tierText, len(tiers))
	for i := range tiers {
		all[i].MinInput = tiers[i].MinInput
		texts := all[i].texts()
		for j, f := range tiers[i].figures() {
			if *f != NoPrice {
				s := f.String()
				*texts[j] = &s
			}
		}
	}
	b, err := json.Marshal(all)
	return string(b), err
}

func parseTiers(raw string) ([]Tier, error) {
	var all []tierText
	if err := json.Unmarshal([]byte(raw), &all); err != nil {
		return nil, fmt.Errorf("price tiers: %w", err)
	}
	var tiers []Tier
	for _, text := range all {
		t := Tier{MinInput: text.MinInput, Input: NoPrice, Output: NoPrice, Cached: NoPrice, CacheWrite: NoPrice}
		figures := t.figures()
		for j, s := range text.texts() {
			if *s == nil {
				continue
			}
			f, err := money.Parse(**s)
			if err != nil {
				return nil, fmt.Errorf("price tiers: %w", err)
			}
			*figures[j] = f
		}
		tiers = append(tiers, t)
	}
	return tiers, nil
}
