package metering

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// ModelStore is what keeps the registry.
type ModelStore interface {
	LoadCatalog(ctx context.Context) (*Catalog, error)
	UpsertModel(ctx context.Context, m Model) (Model, error)
	SetPrice(ctx context.Context, model uuid.UUID, p Price) (Price, error)
	DeactivateModel(ctx context.Context, id uuid.UUID) error
}

// PriceJump is a change of a price that looks like a mistake: to nothing, from nothing, or more than tenfold.
type PriceJump struct {
	ID      string
	What    string // "input", "output", …
	From    money.Pico
	To      money.Pico
	Applied bool
}

// SyncReport says what a synchronisation did. The lists hold gateway ids.
type SyncReport struct {
	Added     []string
	Changed   []string
	Unchanged []string
	Kept      []string    // have a price set by hand, which stays although the gateway's is another
	Held      []string    // the new price looks like a mistake and was not taken; see Jumps
	Missing   []string    // active here, and not in the gateway's list
	Jumps     []PriceJump // looked at by a person before they are believed
	Bad       []BadRow
}

// SyncOptions say how to synchronise.
type SyncOptions struct {
	AcceptJumps bool // take prices that look like a mistake as well
}

// Sync brings the registry to the gateway's list: new models are added, and where a price is another one a new price
// begins now. It takes nothing away.
func Sync(ctx context.Context, store ModelStore, rows []GatewayModel, o SyncOptions) (SyncReport, error) {
	var report SyncReport
	catalog, err := store.LoadCatalog(ctx)
	if err != nil {
		return report, err
	}
	listed := map[string]bool{}
	for i := range rows {
		row := &rows[i]
		listed[row.ID] = true
		m := catalog.Lookup(row.ID)
		if m == nil || m.GatewayID != row.ID {
			err = report.add(ctx, store, row)
		} else {
			err = report.change(ctx, store, m, row, o)
		}
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		if err != nil {
			report.Bad = append(report.Bad, BadRow{row.ID, err.Error()})
		}
	}
	for _, m := range catalog.Models() {
		if m.Active && !listed[m.GatewayID] {
			report.Missing = append(report.Missing, m.GatewayID)
		}
	}
	return report, nil
}

const (
	priceFromGateway = "gateway"
	priceByHand      = "manual"
)

func (r *SyncReport) add(ctx context.Context, store ModelStore, row *GatewayModel) error {
	provider, name, _ := strings.Cut(row.ID, "/")
	if provider == "anthropic" {
		name = strings.ReplaceAll(name, ".", "-") // the slug is claude-sonnet-4.6, the provider's own name claude-sonnet-4-6
	}
	m, err := store.UpsertModel(ctx, Model{
		Provider: provider, Name: name, GatewayID: row.ID, Kind: row.Kind, Capabilities: row.Capabilities,
		ContextWindow: row.ContextWindow, MaxOutput: row.MaxOutput, Active: true, Description: row.Description,
	})
	if err != nil {
		return err
	}
	if !samePrice(&row.Price, new(NewPrice())) {
		if err := setGatewayPrice(ctx, store, m.ID, row.Price); err != nil {
			return err
		}
	}
	r.Added = append(r.Added, row.ID)
	return nil
}

func setGatewayPrice(ctx context.Context, store ModelStore, model uuid.UUID, p Price) error {
	p.From, p.Source, p.Note = time.Time{}, priceFromGateway, "the gateway's /v1/models"
	_, err := store.SetPrice(ctx, model, p)
	return err
}

func (r *SyncReport) change(ctx context.Context, store ModelStore, m *Model, row *GatewayModel, o SyncOptions) error {
	changed := false
	if next, differs := row.onto(m); differs {
		if _, err := store.UpsertModel(ctx, next); err != nil {
			return err
		}
		changed = true
	}
	now := m.PriceAt(time.Now())
	if now == nil {
		now = new(NewPrice())
	}
	next := row.priceOnto(now)
	switch jumps := priceJumps(row.ID, now, &next); {
	case samePrice(now, &next):
	case now.Source == priceByHand:
		r.Kept = append(r.Kept, row.ID)
		return nil
	case len(jumps) > 0 && !o.AcceptJumps:
		r.Jumps = append(r.Jumps, jumps...)
		r.Held = append(r.Held, row.ID)
		return nil
	default:
		if err := setGatewayPrice(ctx, store, m.ID, next); err != nil {
			return err
		}
		for i := range jumps {
			jumps[i].Applied = true
		}
		r.Jumps = append(r.Jumps, jumps...)
		changed = true
	}
	if changed {
		r.Changed = append(r.Changed, row.ID)
	} else {
		r.Unchanged = append(r.Unchanged, row.ID)
	}
	return nil
}

// onto is the model with what the gateway knows of it. What people may have written stays: its names, whether it is
// active, when it retires, its description.
func (row *GatewayModel) onto(m *Model) (next Model, differs bool) {
	next = *m
	if row.ContextWindow > 0 && row.ContextWindow != m.ContextWindow {
		next.ContextWindow, differs = row.ContextWindow, true
	}
	if row.MaxOutput > 0 && row.MaxOutput != m.MaxOutput {
		next.MaxOutput, differs = row.MaxOutput, true
	}
	if m.Description == "" && row.Description != "" {
		next.Description, differs = row.Description, true
	}
	next.Capabilities = map[string]bool{}
	for _, known := range []map[string]bool{m.Capabilities, row.Capabilities} {
		for name := range known {
			next.Capabilities[name] = true
			differs = differs || !m.Capabilities[name]
		}
	}
	return next, differs
}

// priceOnto is a price with the gateway's figures in it. A figure that the gateway does not give stays as it is, unless
// it was the gateway that gave it before.
func (row *GatewayModel) priceOnto(now *Price) Price {
	next := *now
	ours := now.Source != priceFromGateway
	for _, f := range []struct{ to, from *money.Pico }{
		{&next.Input, &row.Price.Input},
		{&next.Output, &row.Price.Output},
		{&next.Cached, &row.Price.Cached},
		{&next.CacheWrite, &row.Price.CacheWrite},
		{&next.Image, &row.Price.Image},
	} {
		if *f.from != NoPrice || !ours {
			*f.to = *f.from
		}
	}
	if len(row.Price.Tiers) > 0 || !ours {
		next.Tiers = row.Price.Tiers
	}
	return next
}

func samePrice(a, b *Price) bool {
	af, bf := a.figures(), b.figures()
	for i := range af {
		if *af[i] != *bf[i] {
			return false
		}
	}
	return slices.Equal(a.Tiers, b.Tiers)
}

// priceJumps compares figures that both prices have.
func priceJumps(id string, now, next *Price) (jumps []PriceJump) {
	compare := func(what string, from, to money.Pico) {
		if from == NoPrice || to == NoPrice || from == to {
			return
		}
		low, high := min(from, to), max(from, to)
		if low == 0 || high/10 > low || high/10 == low && high%10 > 0 {
			jumps = append(jumps, PriceJump{ID: id, What: what, From: from, To: to})
		}
	}
	names := [9]string{"input", "output", "cached", "cache_write", "audio_input", "audio_output", "audio_second", "image", "character"}
	from, to := now.figures(), next.figures()
	for i, name := range names {
		compare(name, *from[i], *to[i])
	}
	for _, a := range now.Tiers {
		for _, b := range next.Tiers {
			if a.MinInput == b.MinInput {
				from, to := a.figures(), b.figures()
				for i := range from {
					compare(fmt.Sprintf("%s from %d tokens", names[i], a.MinInput), *from[i], *to[i])
				}
			}
		}
	}
	return jumps
}
