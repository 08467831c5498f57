package dashboard

import (
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
)

// Price is what a model costs over a time, in dollars as decimal numbers. A figure that is absent is one the price list
// does not have.
type Price struct {
	ID      uuid.UUID `json:"id" format:"uuid"`
	From    time.Time `json:"effective_from"`
	To      time.Time `json:"effective_to,omitzero" doc:"Absent: still in force."`
	Source  string    `json:"source" doc:"seed, gateway or manual."`
	Note    string    `json:"note,omitempty" doc:"Where the figures are from."`
	Current bool      `json:"current"`
	Figures
}

// Figures are the numbers of a price list.
type Figures struct {
	Input       string `json:"input_price_per_million,omitempty" doc:"A million prompt tokens." example:"0.15"`
	Output      string `json:"output_price_per_million,omitempty" doc:"A million completion tokens." example:"0.6"`
	Cached      string `json:"cached_input_price_per_million,omitempty" doc:"Read from the provider's cache; absent: as input."`
	CacheWrite  string `json:"cache_write_price_per_million,omitempty" doc:"Written to the provider's cache; absent: as input."`
	AudioInput  string `json:"audio_input_price_per_million,omitempty" doc:"Absent: as input."`
	AudioOutput string `json:"audio_output_price_per_million,omitempty" doc:"Absent: as output."`
	AudioSecond string `json:"audio_price_per_second,omitempty" doc:"A second transcribed."`
	Image       string `json:"image_price,omitempty" doc:"An image generated."`
	Character   string `json:"character_price_per_million,omitempty" doc:"A million characters spoken."`
	Tiers       []Tier `json:"tiers,omitempty" doc:"Ascending; the last whose min_input_tokens is reached prices the whole request."`
}

// Tier replaces the token prices of a request with a long prompt.
type Tier struct {
	MinInput   int64  `json:"min_input_tokens" minimum:"1"`
	Input      string `json:"input_price_per_million,omitempty"`
	Output     string `json:"output_price_per_million,omitempty"`
	Cached     string `json:"cached_input_price_per_million,omitempty"`
	CacheWrite string `json:"cache_write_price_per_million,omitempty"`
}

// PriceNew is a price from a time on.
type PriceNew struct {
	From time.Time `json:"effective_from,omitzero" doc:"Default: now. Calls admitted before keep the price they had."`
	Note string    `json:"note,omitempty" maxLength:"500" doc:"Where the figures are from."`
	Figures
}

func priceBody(p *metering.Price, now time.Time) Price {
	body := Price{
		ID: p.ID, From: utc(p.From), To: utc(p.To), Source: p.Source, Note: p.Note,
		Current: !p.From.After(now) && (p.To.IsZero() || p.To.After(now)),
		Figures: Figures{
			Input: perMillion(p.Input), Output: perMillion(p.Output), Cached: perMillion(p.Cached), CacheWrite: perMillion(p.CacheWrite),
			AudioInput: perMillion(p.AudioInput), AudioOutput: perMillion(p.AudioOutput), AudioSecond: perPiece(p.AudioSecond),
			Image: perPiece(p.Image), Character: perMillion(p.Character),
		},
	}
	for _, t := range p.Tiers {
		body.Tiers = append(body.Tiers, Tier{
			MinInput: t.MinInput, Input: perMillion(t.Input), Output: perMillion(t.Output), Cached: perMillion(t.Cached), CacheWrite: perMillion(t.CacheWrite),
		})
	}
	return body
}

func perPiece(p money.Pico) string {
	if p == metering.NoPrice {
		return ""
	}
	return p.String()
}

func perMillion(p money.Pico) string {
	if p == metering.NoPrice {
		return ""
	}
	return p.Decimal().Shift(6).String()
}

// price reads figures. It collects what is wrong with them, so that one answer names all of it.
func (f Figures) price() (metering.Price, []error) {
	r := figureReader{}
	p := metering.Price{
		Source: "manual",
		Input:  r.read("input_price_per_million", f.Input, 6), Output: r.read("output_price_per_million", f.Output, 6),
		Cached: r.read("cached_input_price_per_million", f.Cached, 6), CacheWrite: r.read("cache_write_price_per_million", f.CacheWrite, 6),
		AudioInput: r.read("audio_input_price_per_million", f.AudioInput, 6), AudioOutput: r.read("audio_output_price_per_million", f.AudioOutput, 6),
		AudioSecond: r.read("audio_price_per_second", f.AudioSecond, 0), Image: r.read("image_price", f.Image, 0),
		Character: r.read("character_price_per_million", f.Character, 6),
	}
	for i, t := range f.Tiers {
		at := fmt.Sprintf("tiers[%d].", i)
		if i > 0 && t.MinInput <= f.Tiers[i-1].MinInput {
			r.wrong(at+"min_input_tokens", "must be more than that of the tier before")
		}
		p.Tiers = append(p.Tiers, metering.Tier{
			MinInput: t.MinInput, Input: r.read(at+"input_price_per_million", t.Input, 6), Output: r.read(at+"output_price_per_million", t.Output, 6),
			Cached: r.read(at+"cached_input_price_per_million", t.Cached, 6), CacheWrite: r.read(at+"cache_write_price_per_million", t.CacheWrite, 6),
		})
	}
	return p, r.errs
}

type figureReader struct{ errs []error }

func (r *figureReader) wrong(field, why string) {
	r.errs = append(r.errs, &huma.ErrorDetail{Location: "body." + field, Message: why})
}

// read takes a price for ten to the shift pieces. It must come out exact: a price that was rounded without a word would
// show as a difference on every bill.
func (r *figureReader) read(field, text string, shift int32) money.Pico {
	if text == "" {
		return metering.NoPrice
	}
	whole, err := money.Parse(text)
	if err != nil || whole < 0 {
		r.wrong(field, `must be a decimal number of dollars, not negative, such as "0.15"`)
		return metering.NoPrice
	}
	exact, err := decimal.NewFromString(text)
	if err == nil {
		exact = exact.Shift(-shift)
		if p, fits := money.FromDecimal(exact); fits == nil && p.Decimal().Equal(exact) {
			return p
		}
	}
	r.wrong(field, "is finer than a pico-dollar a piece (0.000001 a million), which nothing here counts")
	return metering.NoPrice
}

func (f Figures) empty() bool {
	return f.Input == "" && f.Output == "" && f.Cached == "" && f.CacheWrite == "" && f.AudioInput == "" && f.AudioOutput == "" &&
		f.AudioSecond == "" && f.Image == "" && f.Character == "" && len(f.Tiers) == 0
}
