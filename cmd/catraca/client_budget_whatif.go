package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/catraca/catraca/dashboard"
)

type budgetWhatIf struct {
	asJSON
	Client       string  `arg:"" help:"Id or name; all: all clients together."`
	Type         string  `required:"" enum:"tokens,brl,usd" placeholder:"TYPE" help:"tokens, brl or usd."`
	Limit        string  `required:"" placeholder:"AMOUNT" help:"Tokens, reais or dollars, such as 200.00."`
	Period       string  `required:"" enum:"daily,weekly,monthly" placeholder:"PERIOD" help:"daily, weekly or monthly."`
	PauseAtLimit *bool   `negatable:"" help:"As a hard cap, which is the default, or (--no-pause-at-limit) only alerting."`
	Zone         *string `placeholder:"ZONE" help:"IANA zone in which periods begin; default the client's."`
	BillingDay   *int    `placeholder:"DAY" help:"Day of the month, 1 to 31, on which a month begins."`
	CarryOver    *bool   `negatable:"" help:"Add what is left of a period to the next one."`
	CarryMax     *string `placeholder:"AMOUNT" help:"At most so much of it."`
	Debt         *bool   `negatable:"" help:"Take what went beyond a limit off the next period."`
	From         string  `placeholder:"TIME" help:"Only calls from this time on: 2026-10-01, or RFC 3339. Default the last month, four weeks or thirty days."`
	To           string  `placeholder:"TIME" help:"Only calls before this time; default the beginning of this period."`
}

// Run tries a limit on calls of the past.
func (c budgetWhatIf) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	owner, err := api.budgetOwner(t.ctx, c.Client)
	if err != nil {
		return err
	}
	in := dashboard.WhatIf{
		ClientID: owner.ID, Type: c.Type, Limit: c.Limit, Period: c.Period, PauseAtLimit: c.PauseAtLimit, TimeZone: c.Zone, BillingDay: c.BillingDay,
		CarryOver: c.CarryOver, CarryMax: c.CarryMax, Debt: c.Debt,
	}
	zone := orElse(owner.TimeZone, "America/Sao_Paulo")
	if c.Zone != nil {
		zone = *c.Zone
	}
	for _, bound := range []struct {
		flag, text string
		to         *time.Time
	}{{"--from", c.From, &in.From}, {"--to", c.To, &in.To}} {
		if bound.text == "" {
			continue
		}
		if *bound.to, err = readTime(bound.text, zone); err != nil {
			return fmt.Errorf("%s: %w", bound.flag, err)
		}
	}
	var r dashboard.WhatIfReport
	if err := api.call(t.ctx, http.MethodPost, budgetPath+"/what-if", nil, in, &r); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, r)
	}
	return t.printWhatIf(&r)
}

func (t *terminal) printWhatIf(r *dashboard.WhatIfReport) error {
	amount := func(text string) string { return budgetAmount(r.Type, text) }
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FROM\tTO\tLIMIT\tCALLS\tUSED\t%\tREACHED\tREFUSED\tWHICH COST")
	for i := range r.Windows {
		p := &r.Windows[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", when(p.StartsAt, r.TimeZone), when(p.EndsAt, r.TimeZone), amount(p.Limit), count(p.Calls),
			amount(p.Used), p.Percentage, crossedText(p, r.TimeZone), count(p.Refused), amount(p.RefusedCost))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	line := fmt.Sprintf("\n%s: %s would have been used", countOf(r.Calls, "call"), amount(r.Used))
	if r.Refused > 0 {
		line += fmt.Sprintf(", and %s refused, the first at %s, which cost %s", countOf(r.Refused, "call"), when(r.FirstRefusal, r.TimeZone), amount(r.RefusedCost))
	} else {
		line += ", and none refused"
	}
	line += fmt.Sprintf(". The most at one time in one period: %s.", amount(r.Peak))
	if r.Unpriced > 0 {
		line += fmt.Sprintf("\nNot in these sums: %s of unknown cost. A hard cap on money lets no such call through.", countOf(r.Unpriced, "call"))
	}
	_, err := fmt.Fprintln(t.out, line)
	return err
}

func crossedText(p *dashboard.WhatIfWindow, zone string) string {
	var parts []string
	for _, c := range p.Crossed {
		parts = append(parts, strconv.Itoa(c.Threshold)+" % "+when(c.At, zone))
	}
	return orElse(strings.Join(parts, ", "), "-")
}
