package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/catraca/catraca/dashboard"
)

// budgetFlags are the settings of a budget. A pointer that is nil was not named.
type budgetFlags struct {
	Limit        *string `placeholder:"AMOUNT" help:"Tokens, reais or dollars, such as 200.00."`
	PauseAtLimit *bool   `negatable:"" help:"Stop calls that do not fit, or (--no-pause-at-limit) only alert."`
	Zone         *string `placeholder:"ZONE" help:"IANA zone in which periods begin; default the client's."`
	BillingDay   *int    `placeholder:"DAY" help:"Day of the month, 1 to 31, on which a month begins."`
	Starts       string  `placeholder:"TIME" help:"What is admitted from then on counts: 2026-11-22, or RFC 3339. Default now."`
	CarryOver    *bool   `negatable:"" help:"Add what is left of a period to the next one."`
	CarryMax     *string `placeholder:"AMOUNT" help:"At most so much of it; 0: no bound."`
	Debt         *bool   `negatable:"" help:"Take what went beyond a limit off the next period."`
	Alert80      *bool   `name:"alert-80" negatable:"" help:"Alert at 80 %; on unless switched off, as the next two."`
	Alert90      *bool   `name:"alert-90" negatable:"" help:"Alert at 90 %."`
	Alert100     *bool   `name:"alert-100" negatable:"" help:"Alert at 100 %."`
	Thresholds   *string `placeholder:"50,75" help:"Alert at these too, in percent; empty for none."`
	Email        *string `placeholder:"ADDRESS" help:"Mail alerts there; empty for nobody."`
	Webhook      *string `placeholder:"URL" help:"Send alerts there; empty for nowhere."`
}

// settings is what to send. zone is where a day that is named begins.
func (f *budgetFlags) settings(zone string) (dashboard.BudgetSettings, error) {
	s := dashboard.BudgetSettings{
		Limit: f.Limit, PauseAtLimit: f.PauseAtLimit, TimeZone: f.Zone, BillingDay: f.BillingDay, CarryOver: f.CarryOver, CarryMax: f.CarryMax,
		Debt: f.Debt, Alert80: f.Alert80, Alert90: f.Alert90, Alert100: f.Alert100, Email: f.Email, Webhook: f.Webhook,
	}
	if f.Zone != nil {
		zone = *f.Zone
	}
	if f.Starts != "" {
		at, err := readTime(f.Starts, zone)
		if err != nil {
			return s, fmt.Errorf("--starts: %w", err)
		}
		s.StartsAt = &at
	}
	if f.Thresholds != nil {
		list, err := percentList(*f.Thresholds)
		if err != nil {
			return s, err
		}
		s.Thresholds = &list
	}
	return s, nil
}

func percentList(text string) ([]int, error) {
	list := []int{}
	for _, word := range strings.Split(text, ",") {
		word = strings.TrimSuffix(strings.TrimSpace(word), "%")
		if word == "" {
			continue
		}
		percent, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("--thresholds: %q is no percentage; write 50,75", word)
		}
		list = append(list, percent)
	}
	return list, nil
}

type budgetSet struct {
	asJSON
	Client string `arg:"" help:"Id or name; all: over all clients together."`
	Type   string `enum:",tokens,brl,usd" default:"" placeholder:"TYPE" help:"tokens, brl or usd."`
	Period string `enum:",daily,weekly,monthly" default:"" placeholder:"PERIOD" help:"daily, weekly or monthly."`
	Only   bool   `help:"The client has one budget: let this be it, whatever type and period that one has."`
	budgetFlags
}

// Run creates or changes.
func (c budgetSet) Run(t *terminal) error {
	if c.Type == "" && c.Period == "" && c.budgetFlags == (budgetFlags{}) {
		return errors.New("nothing to set; catraca budget set --help lists what can be")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	owner, err := api.budgetOwner(t.ctx, c.Client)
	if err != nil {
		return err
	}
	settings, err := c.settings(orElse(owner.TimeZone, "America/Sao_Paulo"))
	if err != nil {
		return err
	}
	var b dashboard.Budget
	done := "Changed"
	if c.Only {
		done = "Set"
		in := dashboard.BudgetSet{Type: c.Type, Period: c.Period, BudgetSettings: settings}
		err = api.call(t.ctx, http.MethodPut, budgetConfigPath, values("client_id", owner.ID.String()), in, &b)
	} else {
		b, done, err = c.put(t.ctx, api, owner, settings)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, b)
	}
	fmt.Fprintf(t.out, "%s. In force within 2 seconds.\n\n", done)
	return t.printBudget(&b, nil)
}

// put changes the budget of this type and period, or makes it.
func (c budgetSet) put(ctx context.Context, api *client, owner dashboard.Tenant, settings dashboard.BudgetSettings) (b dashboard.Budget, done string, err error) {
	all, err := api.budgets(ctx, owner.ID.String())
	if err != nil {
		return b, "", err
	}
	var found []dashboard.Budget
	for _, o := range all {
		if (c.Type == "" || c.Type == o.Type) && (c.Period == "" || c.Period == o.Period) {
			found = append(found, o)
		}
	}
	switch {
	case len(found) > 1:
		return b, "", fmt.Errorf("%s has %d such budgets: name one by --type and --period", orElse(owner.Name, c.Client), len(found))
	case len(found) == 1:
		in := dashboard.BudgetChange{BudgetSettings: settings}
		return b, "Changed", api.call(ctx, http.MethodPut, budgetConfigPath+"/"+found[0].ID.String(), nil, in, &b)
	case c.Type == "" || c.Period == "" || c.Limit == nil:
		return b, "", fmt.Errorf("%s has no such budget yet: to make one name --type, --period and --limit", orElse(owner.Name, c.Client))
	}
	in := dashboard.BudgetNew{ClientID: owner.ID, Type: c.Type, Period: c.Period, BudgetSettings: settings}
	err = api.call(ctx, http.MethodPost, budgetConfigPath, nil, in, &b)
	return b, "Created", err
}
