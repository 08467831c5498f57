package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
)

type modelCommand struct {
	List   modelList   `cmd:"" help:"List models with the price in force."`
	Show   modelShow   `cmd:"" help:"Show a model with all its prices."`
	Create modelCreate `cmd:"" help:"Add a model."`
	Set    modelSet    `cmd:"" help:"Change a model; what is not named stays."`
	Price  modelPrice  `cmd:"" help:"Set the price of a model, from now or from a time on."`
	Sync   modelSync   `cmd:"" help:"Read models and prices from the gateway."`
}

const modelsPath = "/api/ai-gateway/models"

// model finds a model by its id, gateway id or own name.
func (c *client) model(ctx context.Context, named string) (dashboard.Model, error) {
	var found dashboard.Model
	id, err := uuid.Parse(named)
	if err != nil {
		if id, err = c.modelID(ctx, named); err != nil {
			return found, err
		}
	}
	return found, c.call(ctx, http.MethodGet, modelsPath+"/"+id.String(), nil, nil, &found)
}

func (c *client) modelID(ctx context.Context, named string) (uuid.UUID, error) {
	var list dashboard.ModelList
	if err := c.call(ctx, http.MethodGet, modelsPath, nil, nil, &list); err != nil {
		return uuid.Nil, err
	}
	var names []string
	var same []dashboard.Model
	for _, m := range list.Models {
		if m.GatewayID == named {
			return m.ID, nil
		}
		if m.Name == named || m.Provider+"/"+m.Name == named {
			same = append(same, m)
		}
		names = append(names, m.GatewayID, m.Name)
	}
	switch len(same) {
	case 1:
		return same[0].ID, nil
	case 0:
		return uuid.Nil, notFound("model", named, names)
	}
	return uuid.Nil, fmt.Errorf("%d models are called %q: name one by its gateway id, such as %s", len(same), named, same[0].GatewayID)
}

type modelList struct {
	asJSON
	Provider string `help:"Only of this provider: openai, groq, anthropic, google."`
	Kind     string `help:"Only of this kind: language, embedding, image, speech, transcription, moderation."`
	All      bool   `help:"Inactive and retired ones too."`
}

// Run lists.
func (c modelList) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	active := "true"
	if c.All {
		active = ""
	}
	var list dashboard.ModelList
	if err := api.call(t.ctx, http.MethodGet, modelsPath, values("provider", c.Provider, "kind", c.Kind, "active", active), nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, list.Models)
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tKIND\tUS$ IN\tOUT\tCACHED\tSTATE")
	for _, m := range list.Models {
		in, out, cached := "unknown", "unknown", ""
		if m.Price != nil {
			in, out, cached = shortPrice(m.Price)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(m.GatewayID), m.Kind, in, out, cached, modelState(m))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.out, "\nDollars for a million tokens, unless another unit stands behind. `catraca model show MODEL` has all of it.")
	return err
}

func modelState(m dashboard.Model) string {
	day := m.RetiresAt.Format(time.DateOnly)
	var text string
	switch {
	case !m.Active:
		return "inactive"
	case m.RetiresAt.IsZero():
		return "active"
	case m.Retired:
		text = "retired " + day
	default:
		text = "retires " + day
	}
	if m.Replacement != "" {
		text += ", use " + m.Replacement
	}
	return printable(text)
}

type modelShow struct {
	asJSON
	Model string `arg:"" help:"Id, gateway id (openai/gpt-4o-mini) or name."`
}

// Run shows.
func (c modelShow) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	m, err := api.model(t.ctx, c.Model)
	if err != nil {
		return err
	}
	return t.showModel(m, c.JSON)
}

func (t *terminal) showModel(m dashboard.Model, asJSON bool) error {
	if asJSON {
		return writeJSON(t.out, m)
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) }
	line("model", m.GatewayID)
	line("id", m.ID.String())
	line("provider", m.Provider+", which calls it "+m.Name)
	line("kind", m.Kind)
	line("state", modelState(m))
	if m.ContextWindow > 0 {
		line("context", count(int64(m.ContextWindow))+" tokens")
	}
	if m.MaxOutput > 0 {
		line("output", "at most "+count(int64(m.MaxOutput))+" tokens")
	}
	if m.Description != "" {
		line("about", m.Description)
	}
	if len(m.Prices) == 0 {
		line("price", "unknown: its calls are counted in tokens only")
	}
	for _, p := range m.Prices {
		line("price", describePrice(p))
	}
	return w.Flush()
}

// modelOptions are what create and set have in common.
type modelOptions struct {
	ContextWindow *int    `help:"Tokens."`
	MaxOutput     *int    `help:"Tokens."`
	Retires       *string `placeholder:"2027-01-15" help:"The day its provider switches it off."`
	Replacement   *string `help:"Gateway id of what its provider names instead."`
	Description   *string `help:"For people."`
}

func (o modelOptions) retires() (*time.Time, error) {
	if o.Retires == nil {
		return nil, nil
	}
	at, err := readTime(*o.Retires, "UTC")
	if err != nil {
		return nil, fmt.Errorf("--retires: %w", err)
	}
	return &at, nil
}

type modelCreate struct {
	asJSON
	GatewayID    string   `arg:"" name:"gateway-id" help:"The gateway's name for it, such as openai/gpt-4o-mini."`
	Provider     string   `help:"Default: what stands before the slash."`
	Name         string   `help:"The provider's own name; default: what stands behind the slash."`
	Kind         string   `default:"language" help:"language, embedding, image, speech, transcription or moderation."`
	Capabilities []string `help:"Such as text,vision,tools,streaming."`
	modelOptions
	priceFlags
}

// Run creates.
func (c modelCreate) Run(t *terminal) error {
	provider, name, _ := strings.Cut(c.GatewayID, "/")
	in := dashboard.ModelNew{Provider: orElse(c.Provider, provider), Name: orElse(c.Name, name), GatewayID: c.GatewayID, Kind: c.Kind}
	if in.Name == "" {
		return errors.New("write the gateway id as creator/model, or give --name")
	}
	for _, capability := range c.Capabilities {
		if in.Capabilities == nil {
			in.Capabilities = make(map[string]bool)
		}
		in.Capabilities[capability] = true
	}
	copyIf(&in.ContextWindow, c.ContextWindow)
	copyIf(&in.MaxOutput, c.MaxOutput)
	copyIf(&in.Replacement, c.Replacement)
	copyIf(&in.Description, c.Description)
	retires, err := c.retires()
	if err != nil {
		return err
	}
	copyIf(&in.RetiresAt, retires)
	if c.priceFlags != (priceFlags{}) {
		figures := c.figures()
		in.Price = &figures
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	var made dashboard.Model
	if err := api.call(t.ctx, http.MethodPost, modelsPath, nil, in, &made); err != nil {
		return err
	}
	return t.showModel(made, c.JSON)
}

type modelSet struct {
	asJSON
	Model  string `arg:"" help:"Id, gateway id or name."`
	Active *bool  `negatable:"" help:"Serve it, or (--no-active) refuse it with 404."`
	modelOptions
}

// Run changes.
func (c modelSet) Run(t *terminal) error {
	retires, err := c.retires()
	if err != nil {
		return err
	}
	in := dashboard.ModelChange{
		Active: c.Active, ContextWindow: c.ContextWindow, MaxOutput: c.MaxOutput, RetiresAt: retires, Replacement: c.Replacement, Description: c.Description,
	}
	if in == (dashboard.ModelChange{}) {
		return errors.New("nothing to set; catraca model set --help lists what can be")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	m, err := api.model(t.ctx, c.Model)
	if err != nil {
		return err
	}
	var changed dashboard.Model
	if err := api.call(t.ctx, http.MethodPatch, modelsPath+"/"+m.ID.String(), nil, in, &changed); err != nil {
		return err
	}
	return t.showModel(changed, c.JSON)
}

type modelSync struct {
	asJSON
	AcceptJumps bool `help:"Take prices that look like a mistake as well: to nothing, from nothing, or more than tenfold."`
}

// Run syncs.
func (c modelSync) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	accept := ""
	if c.AcceptJumps {
		accept = "true"
	}
	var result dashboard.SyncResult
	if err := api.call(t.ctx, http.MethodPost, modelsPath+"/sync", values("accept_jumps", accept), nil, &result); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, result)
	}
	fmt.Fprintf(t.out, "%d added, %d changed, %d as they were.\n", len(result.Added), len(result.Changed), result.Unchanged)
	for _, group := range []struct {
		what string
		ids  []string
	}{
		{"added", result.Added},
		{"changed", result.Changed},
		{"price set by hand, which stays", result.Kept},
		{"price held back, see below", result.Held},
		{"not in the gateway's list", result.Missing},
	} {
		if len(group.ids) > 0 {
			fmt.Fprintf(t.out, "%s: %s\n", group.what, printable(someOf(group.ids)))
		}
	}
	for _, j := range result.Jumps {
		state := "not taken; --accept-jumps takes it"
		if j.Applied {
			state = "taken"
		}
		fmt.Fprintf(t.out, "%s: price of %s from US$ %s to US$ %s, %s\n", printable(j.GatewayID), j.What, j.From, j.To, state)
	}
	for _, b := range result.Bad {
		fmt.Fprintf(t.out, "%s: cannot be used: %s\n", printable(b.GatewayID), printable(b.Reason))
	}
	return nil
}

// someOf lists names as far as a person reads them.
func someOf(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more (--json lists all)", strings.Join(names[:most], ", "), len(names)-most)
}
