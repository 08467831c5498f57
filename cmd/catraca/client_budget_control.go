package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/catraca/catraca/dashboard"
)

type budgetPause struct {
	asJSON
	budgetChoice
	Reason string `required:"" help:"Why; the client's callers see it."`
}

// Run pauses.
func (c budgetPause) Run(t *terminal) error {
	var b dashboard.Budget
	return t.budgetCall(c.JSON, c.budgetChoice, "pause", dashboard.BudgetPause{Reason: c.Reason}, &b, func() {
		fmt.Fprintf(t.out, "Paused: the calls of %s are refused from now on.\n", budgetClient(b.Client, b.ClientID))
	})
}

type budgetResume struct {
	asJSON
	budgetChoice
	Reason string `required:"" help:"Why; for the audit log."`
}

// Run resumes.
func (c budgetResume) Run(t *terminal) error {
	var b dashboard.Budget
	return t.budgetCall(c.JSON, c.budgetChoice, "resume", dashboard.Because{Reason: c.Reason}, &b, func() {
		fmt.Fprintf(t.out, "Resumed: %s, %s, for %s.\n", budgetAmount(b.Type, b.Limit), b.Period, budgetClient(b.Client, b.ClientID))
	})
}

// budgetCall does something to a budget and prints the answer.
func (t *terminal) budgetCall(asJSON bool, choice budgetChoice, verb string, in, out any, say func()) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	b, err := choice.find(t.ctx, api)
	if err != nil {
		return err
	}
	if err := api.call(t.ctx, http.MethodPost, budgetPath+"/"+b.ID.String()+"/"+verb, nil, in, out); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(t.out, out)
	}
	say()
	return nil
}

type budgetTopUp struct {
	asJSON
	budgetChoice
	Amount string `arg:"" help:"How much more, in the unit of the budget, such as 50.00."`
	Reason string `required:"" help:"Why; kept in the journal."`
}

// Run tops up.
func (c budgetTopUp) Run(t *terminal) error {
	var u dashboard.BudgetUsage
	return t.budgetCall(c.JSON, c.budgetChoice, "top-up", dashboard.BudgetTopUp{Amount: c.Amount, Reason: c.Reason}, &u, func() {
		fmt.Fprintf(t.out, "%s more for %s until %s: %s of %s used.\n", budgetAmount(u.Type, c.Amount), budgetClient(u.Client, u.ClientID),
			when(u.NextResetAt, u.TimeZone), budgetAmount(u.Type, u.CurrentUsage), budgetAmount(u.Type, u.Limit))
	})
}

type budgetRelease struct {
	asJSON
	budgetChoice
	Window string `placeholder:"ID" help:"In which period, as catraca budget history --json shows it; default the newest."`
	Reason string `required:"" help:"How you know that it was not used; kept in the journal."`
}

// Run releases.
func (c budgetRelease) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	b, err := c.find(t.ctx, api)
	if err != nil {
		return err
	}
	var w dashboard.BudgetWindow
	in := dashboard.BudgetRelease{Window: c.Window, Reason: c.Reason}
	if err := api.call(t.ctx, http.MethodPost, budgetPath+"/"+b.ID.String()+"/release", nil, in, &w); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, w)
	}
	_, err = fmt.Fprintf(t.out, "Released. In suspense now: %s; used: %s of %s.\n", budgetAmount(b.Type, w.Suspense), budgetAmount(b.Type, w.Used), budgetAmount(b.Type, w.Limit))
	return err
}

type budgetSuspend struct {
	asJSON
	Incarnation string `arg:"" help:"Of the proxy's run, as catraca proxies --json shows it."`
	Reason      string `required:"" help:"How you know that the volume will not come back; kept in the journal."`
}

// Run suspends.
func (c budgetSuspend) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	in := dashboard.Lost{Incarnation: strings.ToLower(strings.TrimPrefix(c.Incarnation, "0x")), Reason: c.Reason}
	if err := api.call(t.ctx, http.MethodPost, budgetPath+"/suspend", nil, in, nil); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, in)
	}
	_, err = fmt.Fprintf(t.out, "Suspended %s: what it held stays in suspense until its periods end, or catraca budget release gives it free.\n", in.Incarnation)
	return err
}
