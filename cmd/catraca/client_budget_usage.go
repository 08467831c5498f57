package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/catraca/catraca/dashboard"
)

type budgetUsage struct {
	asJSON
	Client string `arg:"" optional:"" help:"Id or name; all: those over all clients. Default every budget."`
}

// Run tells how budgets stand.
func (c budgetUsage) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	id, err := api.ownerID(t.ctx, c.Client)
	if err != nil {
		return err
	}
	all, err := api.standings(t.ctx, id)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(t.out, "No budgets. Make one: catraca budget set CLIENT --type brl --limit 200 --period monthly --pause-at-limit")
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLIENT\tPERIOD\tUSED\tLIMIT\t%\tHELD\tLEFT\tUNTIL\tSTATE\tFORECAST")
	for i := range all {
		u := &all[i]
		amount := func(text string) string { return budgetAmount(u.Type, text) }
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", budgetClient(u.Client, u.ClientID), u.Period, amount(u.CurrentUsage), amount(u.Limit),
			u.UsagePercentage, amount(u.Held), amount(u.Remaining), when(u.NextResetAt, u.TimeZone), standingState(u), forecastText(u))
	}
	return w.Flush()
}

// standings reads all pages. An empty id: of every client.
func (c *client) standings(ctx context.Context, client string) ([]dashboard.BudgetUsage, error) {
	all := []dashboard.BudgetUsage{}
	for cursor := ""; ; {
		var page dashboard.BudgetUsagePage
		if err := c.call(ctx, http.MethodGet, budgetPath+"/current-usage", values("client_id", client, "cursor", cursor, "limit", "500"), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Budgets...)
		if cursor = page.Next; cursor == "" {
			slices.SortStableFunc(all, func(a, b dashboard.BudgetUsage) int { return compareClients(a.Client, b.Client) })
			return all, nil
		}
	}
}

// standing is how one budget stands; nil where it is gone.
func (c *client) standing(ctx context.Context, b *dashboard.Budget) (*dashboard.BudgetUsage, error) {
	all, err := c.standings(ctx, b.ClientID.String())
	for i := range all {
		if all[i].BudgetID == b.ID {
			return &all[i], nil
		}
	}
	return nil, err
}

// printStanding prints how a budget stands.
func (t *terminal) printStanding(line func(name, value string), u *dashboard.BudgetUsage) {
	amount := func(text string) string { return budgetAmount(u.Type, text) }
	if !u.Started {
		line("this period", "has not begun")
		return
	}
	line("this period", when(u.PeriodStart, u.TimeZone)+" to "+when(u.NextResetAt, u.TimeZone))
	line("used", fmt.Sprintf("%s of %s (%s %%)", amount(u.CurrentUsage), amount(u.Limit), u.UsagePercentage))
	if u.Carried != "0" {
		line("carried over", amount(u.Carried))
	}
	if u.ToppedUp != "0" {
		line("topped up", amount(u.ToppedUp))
	}
	line("held", amount(u.Held))
	if u.Suspense != "0" {
		line("in suspense", amount(u.Suspense))
	}
	if u.Overrun != "0" {
		line("overrun", amount(u.Overrun)+", which upstreams billed above the worst case")
	}
	line("left", amount(u.Remaining))
	line("standing", standingState(u))
	line("forecast", forecastText(u))
}

func standingState(u *dashboard.BudgetUsage) string {
	switch {
	case !u.Started:
		return "begins " + when(u.PeriodStart, u.TimeZone)
	case u.PausedBy == "person":
		return "paused: " + printable(u.PausedReason)
	case u.IsPaused:
		return "at its limit"
	case len(u.Alerted) > 0:
		return "over " + strconv.Itoa(u.Alerted[len(u.Alerted)-1]) + " %"
	}
	return "active"
}

func forecastText(u *dashboard.BudgetUsage) string {
	var parts []string
	for _, f := range u.Forecast {
		parts = append(parts, strconv.Itoa(f.Threshold)+" % "+when(f.At, u.TimeZone))
	}
	return orElse(strings.Join(parts, ", "), "-")
}

type budgetHistory struct {
	asJSON
	budgetChoice
	Limit int `default:"12" help:"How many periods to show."`
}

// Run lists periods.
func (c budgetHistory) Run(t *terminal) error {
	if c.Limit < 1 {
		return errors.New("--limit must be more than 0")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	b, err := c.find(t.ctx, api)
	if err != nil {
		return err
	}
	var list dashboard.BudgetHistory
	if err := api.call(t.ctx, http.MethodGet, budgetConfigPath+"/"+b.ID.String()+"/windows", values("limit", strconv.Itoa(c.Limit)), nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, list.Windows)
	}
	if len(list.Windows) == 0 {
		_, err := fmt.Fprintln(t.out, "No period of it has begun yet.")
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FROM\tTO\tLIMIT\tUSED\t%\tCARRIED\tTOPPED UP\tHELD\tIN SUSPENSE\tOVERRUN")
	for _, p := range list.Windows {
		amount := func(text string) string { return budgetAmount(b.Type, text) }
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", when(p.StartsAt, p.TimeZone), when(p.EndsAt, p.TimeZone), amount(p.Limit), amount(p.Used),
			p.Percentage, amount(p.Carried), amount(p.ToppedUp), amount(p.Held), amount(p.Suspense), amount(p.Overrun))
	}
	return w.Flush()
}

type budgetJournal struct {
	asJSON
	budgetChoice
	Window string `placeholder:"ID" help:"Of which period, as catraca budget history --json shows it; default the newest."`
	Limit  int    `default:"50" help:"How many lines to show."`
}

// Run lists what happened.
func (c budgetJournal) Run(t *terminal) error {
	if c.Limit < 1 {
		return errors.New("--limit must be more than 0")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	b, err := c.find(t.ctx, api)
	if err != nil {
		return err
	}
	var list dashboard.BudgetJournal
	query := values("limit", strconv.Itoa(min(1000, c.Limit)), "window", c.Window)
	if err := api.call(t.ctx, http.MethodGet, budgetConfigPath+"/"+b.ID.String()+"/journal", query, nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, list.Entries)
	}
	if len(list.Entries) == 0 {
		_, err := fmt.Fprintln(t.out, "Nothing was done to it.")
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tWHAT\tAMOUNT\tINCARNATION\tREASON")
	for _, e := range list.Entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", inZone(e.At, b.TimeZone), printable(e.Kind), budgetAmount(b.Type, e.Amount), orElse(e.Incarnation, "-"), printable(e.Reason))
	}
	return w.Flush()
}

type budgetAlerts struct {
	asJSON
	Client string `arg:"" optional:"" help:"Id or name; all: of budgets over all clients. Default every alert."`
	Limit  int    `default:"20" help:"How many to show."`
}

// Run lists alerts.
func (c budgetAlerts) Run(t *terminal) error {
	if c.Limit < 1 {
		return errors.New("--limit must be more than 0")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	id, err := api.ownerID(t.ctx, c.Client)
	if err != nil {
		return err
	}
	var list dashboard.BudgetAlertList
	if err := api.call(t.ctx, http.MethodGet, budgetPath+"/alerts", values("client_id", id, "limit", strconv.Itoa(min(1000, c.Limit))), nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, list.Alerts)
	}
	if len(list.Alerts) == 0 {
		_, err := fmt.Fprintln(t.out, "No alerts.")
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME (UTC)\tCLIENT\tPERIOD\tREACHED\tUSED\tLIMIT\tTOLD")
	for i := range list.Alerts {
		a := &list.Alerts[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%d %%\t%s\t%s\t%s\n", a.At.UTC().Format("2006-01-02 15:04:05"), budgetClient(a.Client, a.ClientID), a.Period, a.Threshold,
			budgetAmount(a.Type, a.Used), budgetAmount(a.Type, a.Limit), told(a))
	}
	return w.Flush()
}

// told says what came of the last try on each channel.
func told(a *dashboard.BudgetAlert) string {
	var order, parts []string
	last := map[string]string{}
	for _, try := range a.Attempts {
		if last[try.Channel] == "" {
			order = append(order, try.Channel)
		}
		switch {
		case try.Done && try.Error == "":
			last[try.Channel] = try.Channel
		case try.Done:
			last[try.Channel] = fmt.Sprintf("%s: given up after %d", try.Channel, try.Try)
		default:
			last[try.Channel] = fmt.Sprintf("%s: try %d failed", try.Channel, try.Try)
		}
	}
	for _, channel := range order {
		parts = append(parts, printable(last[channel]))
	}
	return orElse(strings.Join(parts, ", "), "-")
}
