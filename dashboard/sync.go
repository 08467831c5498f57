package dashboard

import (
	"context"
	"fmt"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/metering"
)

// GatewayModels reads the gateway's list of models, as metering.FetchGatewayModels does.
type GatewayModels func(ctx context.Context) ([]metering.GatewayModel, []metering.BadRow, error)

// SyncResult is what reading the gateway's list changed here. The lists hold gateway ids.
type SyncResult struct {
	Added     []string `json:"added" nullable:"false"`
	Changed   []string `json:"changed" nullable:"false"`
	Unchanged int      `json:"unchanged"`
	Kept      []string `json:"kept" nullable:"false" doc:"Have a price set by hand, which stays although the gateway's is another."`
	Held      []string `json:"held" nullable:"false" doc:"The new price looks like a mistake and was not taken: see jumps, and repeat with accept_jumps."`
	Missing   []string `json:"missing" nullable:"false" doc:"Active here, and not in the gateway's list."`
	Jumps     []Jump   `json:"jumps" nullable:"false"`
	Bad       []Bad    `json:"bad" nullable:"false"`
}

// Jump is a change of a price to nothing, from nothing, or more than tenfold.
type Jump struct {
	GatewayID string `json:"gateway_identifier"`
	What      string `json:"what" example:"input"`
	From      string `json:"from_usd" doc:"For one piece."`
	To        string `json:"to_usd"`
	Applied   bool   `json:"applied"`
}

// Bad is an entry of the gateway's that could not be used.
type Bad struct {
	GatewayID string `json:"gateway_identifier"`
	Reason    string `json:"reason"`
}

func (s *server) syncModels(ctx context.Context, in *struct {
	AcceptJumps bool `query:"accept_jumps" doc:"Take prices that look like a mistake as well."`
},
) (*body[SyncResult], error) {
	if s.Gateway == nil {
		return nil, huma.Error409Conflict("there is no gateway to read from: ENABLE_AI_GATEWAY is false")
	}
	rows, bad, err := s.Gateway(ctx)
	if err != nil {
		id := faultID()
		s.Log.Error("admin API: the gateway's models", "fault", id, "error", err)
		return nil, huma.Error502BadGateway("the gateway's list of models cannot be read (fault " + id + " in the log); catraca doctor finds out why")
	}
	report, err := metering.Sync(ctx, s.Registry, rows, metering.SyncOptions{AcceptJumps: in.AcceptJumps})
	if err != nil {
		return nil, s.fail(ctx, "model", err)
	}
	result := syncBody(report, bad)
	if len(result.Added)+len(result.Changed) > 0 {
		s.audit(ctx, "model.sync", uuid.Nil, nil, result)
	}
	return answer(result), nil
}

func syncBody(r metering.SyncReport, bad []metering.BadRow) SyncResult {
	list := func(ids []string) []string { return append([]string{}, ids...) }
	result := SyncResult{
		Added: list(r.Added), Changed: list(r.Changed), Unchanged: len(r.Unchanged), Kept: list(r.Kept), Held: list(r.Held),
		Missing: list(r.Missing), Jumps: []Jump{}, Bad: []Bad{},
	}
	for _, j := range r.Jumps {
		result.Jumps = append(result.Jumps, Jump{j.ID, j.What, j.From.String(), j.To.String(), j.Applied})
	}
	for _, b := range append(bad, r.Bad...) {
		result.Bad = append(result.Bad, Bad{fmt.Sprintf("%.200s", b.ID), fmt.Sprintf("%.200s", b.Reason)})
	}
	return result
}
