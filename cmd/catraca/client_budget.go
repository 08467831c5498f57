package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/dashboard"
)

type budgetCommand struct {
	List    budgetList    `cmd:"" help:"List budgets, of a client or all there are."`
	Show    budgetShow    `cmd:"" help:"Show one budget and how it stands."`
	Set     budgetSet     `cmd:"" help:"Create a budget, or change the one of its type and period; what is not named stays."`
	Delete  budgetDelete  `cmd:"" help:"Delete a budget. Its history stays."`
	Usage   budgetUsage   `cmd:"" help:"How budgets stand in the period that is open now."`
	Pause   budgetPause   `cmd:"" help:"Refuse the calls that a budget is for, within 2 seconds."`
	Resume  budgetResume  `cmd:"" help:"Take them again."`
	TopUp   budgetTopUp   `cmd:"" help:"Give a budget more, for this period only."`
	Policy  budgetPolicy  `cmd:"" help:"Show or set what a client is answered at its limit."`
	WhatIf  budgetWhatIf  `cmd:"" help:"What would a limit have done to calls of the past?"`
	History budgetHistory `cmd:"" help:"The periods of a budget, newest first."`
	Journal budgetJournal `cmd:"" help:"What was done to a period of a budget, newest first."`
	Alerts  budgetAlerts  `cmd:"" help:"Thresholds that were crossed, and who was told."`
	Secret  budgetSecret  `cmd:"" help:"Show what a client's webhooks are signed with."`
	Release budgetRelease `cmd:"" help:"Give free what is in suspense, by your word that it was not used."`
	Suspend budgetSuspend `cmd:"" help:"Say that a proxy's volume is destroyed."`
}

const (
	budgetPath       = "/api/budget"
	budgetConfigPath = budgetPath + "/config"
)

// allClients names the budgets over all clients together.
const allClients = "all"

// budgetOwner finds a client by its id or name; "all" is the zero id.
func (c *client) budgetOwner(ctx context.Context, named string) (dashboard.Tenant, error) {
	if named == allClients {
		return dashboard.Tenant{Name: "all clients"}, nil
	}
	return c.tenant(ctx, named)
}

// budgetChoice names a budget.
type budgetChoice struct {
	Budget string `arg:"" help:"Id, or the client's id or name; all: the one over all clients."`
	Type   string `enum:",tokens,brl,usd" default:"" placeholder:"TYPE" help:"tokens, brl or usd; where the client has several."`
	Period string `enum:",daily,weekly,monthly" default:"" placeholder:"PERIOD" help:"daily, weekly or monthly; where the client has several."`
}

// find finds it.
func (b budgetChoice) find(ctx context.Context, api *client) (dashboard.Budget, error) {
	var one dashboard.Budget
	if id, err := uuid.Parse(b.Budget); err == nil {
		err := api.call(ctx, http.MethodGet, budgetConfigPath+"/"+id.String(), nil, nil, &one)
		if err == nil || !strings.Contains(err.Error(), "no such budget") {
			return one, err
		}
	}
	owner, err := api.budgetOwner(ctx, b.Budget)
	if err != nil {
		return one, err
	}
	all, err := api.budgets(ctx, owner.ID.String())
	if err != nil {
		return one, err
	}
	var found []dashboard.Budget
	for _, o := range all {
		if (b.Type == "" || b.Type == o.Type) && (b.Period == "" || b.Period == o.Period) {
			found = append(found, o)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(all) == 0:
		return one, fmt.Errorf("%s has no budget; `catraca budget set` makes one", orElse(owner.Name, b.Budget))
	case len(found) == 0:
		return one, fmt.Errorf("%s has no such budget; `catraca budget list` shows those there are", orElse(owner.Name, b.Budget))
	}
	return one, fmt.Errorf("%s has %d budgets: name one by --type and --period, or by its id, which `catraca budget list` shows", orElse(owner.Name, b.Budget), len(found))
}

// budgets lists those of a client; an empty id: all there are.
func (c *client) budgets(ctx context.Context, client string) ([]dashboard.Budget, error) {
	var list dashboard.BudgetList
	err := c.call(ctx, http.MethodGet, budgetConfigPath, values("client_id", client), nil, &list)
	slices.SortStableFunc(list.Budgets, func(a, b dashboard.Budget) int { return compareClients(a.Client, b.Client) })
	return list.Budgets, err
}

// compareClients orders by name, as people look for one. Those over all clients have none, and come first.
func compareClients(a, b string) int {
	return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
}

type budgetList struct {
	asJSON
	Client string `arg:"" optional:"" help:"Id or name; all: those over all clients. Default every budget."`
}

// Run lists.
func (c budgetList) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	id, err := api.ownerID(t.ctx, c.Client)
	if err != nil {
		return err
	}
	all, err := api.budgets(t.ctx, id)
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
	fmt.Fprintln(w, "CLIENT\tLIMIT\tPERIOD\tAT LIMIT\tALERTS\tZONE\tSTATE\tID")
	for i := range all {
		b := &all[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", budgetClient(b.Client, b.ClientID), budgetAmount(b.Type, b.Limit), b.Period, atLimit(b.PauseAtLimit),
			thresholdList(b), b.TimeZone, budgetState(b), b.ID)
	}
	return w.Flush()
}

// ownerID is empty where nobody is named.
func (c *client) ownerID(ctx context.Context, named string) (string, error) {
	if named == "" {
		return "", nil
	}
	owner, err := c.budgetOwner(ctx, named)
	return owner.ID.String(), err
}

func budgetClient(name string, id uuid.UUID) string {
	if id == uuid.Nil {
		return "(all clients)"
	}
	return printable(orElse(name, id.String()))
}

// budgetAmount writes an amount as the people who count in it do.
func budgetAmount(kind, text string) string {
	d, err := decimal.NewFromString(text)
	switch {
	case err != nil:
		return printable(text)
	case kind == "brl":
		return reais(d)
	case kind == "usd":
		return dollars(d)
	}
	return countOf(d.IntPart(), "token")
}

func atLimit(hard bool) string {
	if hard {
		return "stops"
	}
	return "alerts"
}

func thresholdList(b *dashboard.Budget) string {
	list := slices.Clone(b.Thresholds)
	for percent, on := range map[int]bool{80: b.Alert80, 90: b.Alert90, 100: b.Alert100} {
		if on {
			list = append(list, percent)
		}
	}
	slices.Sort(list)
	words := make([]string, len(list))
	for i, percent := range list {
		words[i] = strconv.Itoa(percent) + " %"
	}
	return orElse(strings.Join(words, ", "), "none")
}

func budgetState(b *dashboard.Budget) string {
	if b.Paused {
		return "paused"
	}
	return "active"
}

type budgetShow struct {
	asJSON
	budgetChoice
}

// Run shows.
func (c budgetShow) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	b, err := c.find(t.ctx, api)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, b)
	}
	u, err := api.standing(t.ctx, &b)
	if err != nil {
		return err
	}
	return t.printBudget(&b, u)
}

// printBudget prints all of a budget. u is how it stands, nil where that is not to be shown.
func (t *terminal) printBudget(b *dashboard.Budget, u *dashboard.BudgetUsage) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) }
	line("client", budgetClient(b.Client, b.ClientID))
	line("id", b.ID.String())
	line("limit", budgetAmount(b.Type, b.Limit)+", "+b.Period)
	if b.Period == "monthly" {
		line("billing day", strconv.Itoa(b.BillingDay))
	}
	line("time zone", b.TimeZone)
	line("counts from", inZone(b.StartsAt, b.TimeZone))
	if b.PauseAtLimit {
		line("at the limit", "stops calls that do not fit")
	} else {
		line("at the limit", "alerts")
	}
	if b.CarryOver {
		most := "all that is left"
		if b.CarryMax != "0" {
			most = "at most " + budgetAmount(b.Type, b.CarryMax)
		}
		line("carries over", most)
	}
	if b.Debt {
		line("debt", "what went beyond is taken off the next period")
	}
	line("alerts at", thresholdList(b))
	line("e-mail", orElse(b.Email, "none"))
	line("webhook", orElse(b.Webhook, "none"))
	if b.Paused {
		line("state", "paused: "+b.PausedReason)
	} else {
		line("state", "active")
	}
	if u != nil {
		t.printStanding(line, u)
	}
	return w.Flush()
}

type budgetDelete struct {
	asJSON
	budgetChoice
	Yes bool `required:"" help:"Really; calls are no longer held to it."`
}

// Run deletes.
func (c budgetDelete) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	b, err := c.find(t.ctx, api)
	if err != nil {
		return err
	}
	if err := api.call(t.ctx, http.MethodDelete, budgetConfigPath+"/"+b.ID.String(), nil, nil, nil); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, b)
	}
	_, err = fmt.Fprintf(t.out, "Deleted the %s budget of %s for %s. Its history stays.\n", b.Period, budgetAmount(b.Type, b.Limit), budgetClient(b.Client, b.ClientID))
	return err
}

// when writes a time as a budget's clock shows it, to the minute.
func when(at time.Time, zone string) string {
	place, err := time.LoadLocation(zone)
	if err != nil {
		place = time.UTC
	}
	return at.In(place).Format("2006-01-02 15:04 -07")
}
