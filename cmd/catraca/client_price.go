package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/catraca/catraca/dashboard"
)

// priceFlags are the figures of a price.
type priceFlags struct {
	Input       string `placeholder:"US$" help:"A million prompt tokens."`
	Output      string `placeholder:"US$" help:"A million completion tokens."`
	Cached      string `placeholder:"US$" help:"A million prompt tokens read from cache; default as input."`
	CacheWrite  string `placeholder:"US$" help:"A million prompt tokens written to cache; default as input."`
	AudioInput  string `placeholder:"US$" help:"A million audio tokens in; default as input."`
	AudioOutput string `placeholder:"US$" help:"A million audio tokens out; default as output."`
	AudioSecond string `placeholder:"US$" help:"A second transcribed."`
	Image       string `placeholder:"US$" help:"An image generated."`
	Character   string `placeholder:"US$" help:"A million characters spoken."`
}

func (p priceFlags) figures() dashboard.Figures {
	return dashboard.Figures{
		Input: p.Input, Output: p.Output, Cached: p.Cached, CacheWrite: p.CacheWrite, AudioInput: p.AudioInput,
		AudioOutput: p.AudioOutput, AudioSecond: p.AudioSecond, Image: p.Image, Character: p.Character,
	}
}

type modelPrice struct {
	asJSON
	Model string `arg:"" help:"Id, gateway id or name."`
	From  string `placeholder:"TIME" help:"Begins then (UTC, or RFC 3339); default now."`
	Note  string `help:"Where the figures are from."`
	priceFlags
}

// Run sets a price.
func (c modelPrice) Run(t *terminal) error {
	if c.priceFlags == (priceFlags{}) {
		return errors.New("name at least one figure, such as --input 0.15 --output 0.60")
	}
	in := dashboard.PriceNew{Note: c.Note, Figures: c.figures()}
	if c.From != "" {
		from, err := readTime(c.From, "UTC")
		if err != nil {
			return fmt.Errorf("--from: %w", err)
		}
		in.From = from
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	m, err := api.model(t.ctx, c.Model)
	if err != nil {
		return err
	}
	var set dashboard.Price
	if err := api.call(t.ctx, http.MethodPost, modelsPath+"/"+m.ID.String()+"/prices", nil, in, &set); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, set)
	}
	_, err = fmt.Fprintf(t.out, "%s: %s\n", printable(m.GatewayID), describePrice(set))
	return err
}

// shortPrice is a price in three columns.
func shortPrice(p *dashboard.Price) (in, out, cached string) {
	switch {
	case p.Input != "" || p.Output != "":
		return p.Input, p.Output, p.Cached
	case p.AudioSecond != "":
		return p.AudioSecond + "/s", "", ""
	case p.Image != "":
		return "", p.Image + "/image", ""
	}
	return p.Character + "/1M chars", "", ""
}

// describePrice writes all of a price that there is in one line.
func describePrice(p dashboard.Price) string {
	var parts []string
	add := func(name, value, unit string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf("%s US$ %s%s", name, value, unit))
		}
	}
	add("input", p.Input, "")
	add("output", p.Output, "")
	add("cached", p.Cached, "")
	add("cache write", p.CacheWrite, "")
	add("audio input", p.AudioInput, "")
	add("audio output", p.AudioOutput, "")
	add("audio", p.AudioSecond, " a second")
	add("image", p.Image, "")
	add("characters", p.Character, "")
	for _, tier := range p.Tiers {
		parts = append(parts, fmt.Sprintf("from %s tokens in: %s/%s", count(tier.MinInput), tier.Input, tier.Output))
	}
	when := "from " + p.From.Format(time.DateOnly)
	if !p.To.IsZero() {
		when += " to " + p.To.Format(time.DateOnly)
	}
	if p.Current {
		when += ", in force"
	}
	return strings.Join(parts, ", ") + " (" + when + "; " + p.Source + ")"
}
