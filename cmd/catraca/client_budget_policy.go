package main

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"text/tabwriter"

	"github.com/catraca/catraca/dashboard"
)

type budgetPolicy struct {
	asJSON
	Client string `arg:"" help:"Id or name."`
	policyFlags
}

// policyFlags are the settings of a policy. A pointer that is nil was not named.
type policyFlags struct {
	AtLimit           *string `placeholder:"ACTION" help:"block (402), answer (a text), downgrade (a cheaper model) or handoff (an empty completion)."`
	AnswerText        *string `placeholder:"TEXT" help:"Of answer; empty: a sentence in Portuguese."`
	DowngradeModel    *string `placeholder:"MODEL" help:"Of downgrade; name or gateway id."`
	FitOutput         *bool   `negatable:"" help:"Lower the cap on the output to what still fits, instead of refusing."`
	Bound             *string `placeholder:"bytes|tokenizer" help:"How the worst case of a prompt is found: never too low, or tighter."`
	OutputCap         *int64  `placeholder:"TOKENS" help:"Held and sent upstream where a request sets none; 0: the model's maximum."`
	LeaveOutput       *bool   `negatable:"" help:"Do not send it upstream."`
	Outrun            *string `placeholder:"top_up|cut" help:"What happens to a stream that goes beyond its hold."`
	AcceptEstimates   *bool   `negatable:"" help:"Settle calls that were cut short for what was counted."`
	TailCalls         *int    `placeholder:"CALLS" help:"How many more calls an open conversation may make near the limit; 0: none."`
	TailPercent       *int    `placeholder:"PERCENT" help:"Near the limit is when less than this is left."`
	ConversationCalls *int64  `placeholder:"CALLS" help:"What one conversation may do in an hour; 0: no bound."`
	ConversationBRL   *string `name:"conversation-brl" placeholder:"R$" help:"What one conversation may cost in an hour; 0: no bound."`
	ContactCalls      *int64  `placeholder:"CALLS" help:"What one contact may do in an hour; 0: no bound."`
	ContactBRL        *string `name:"contact-brl" placeholder:"R$" help:"What one contact may cost in an hour; 0: no bound."`
}

// Run shows, or sets what is named.
func (c budgetPolicy) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	if c.Client == allClients {
		return errors.New("a policy is a client's: name one")
	}
	tenant, err := api.tenant(t.ctx, c.Client)
	if err != nil {
		return err
	}
	path := budgetPath + "/policy/" + tenant.ID.String()
	var p dashboard.BudgetPolicy
	if f := c.policyFlags; f == (policyFlags{}) {
		err = api.call(t.ctx, http.MethodGet, path, nil, nil, &p)
	} else {
		err = api.call(t.ctx, http.MethodPut, path, nil, dashboard.BudgetPolicyChange{
			AtLimit: f.AtLimit, AnswerText: f.AnswerText, DowngradeModel: f.DowngradeModel, FitOutput: f.FitOutput, Bound: f.Bound, OutputCap: f.OutputCap,
			LeaveOutput: f.LeaveOutput, Outrun: f.Outrun, AcceptEstimates: f.AcceptEstimates, TailCalls: f.TailCalls, TailPercent: f.TailPercent,
			ConversationCalls: f.ConversationCalls, ConversationBRL: f.ConversationBRL, ContactCalls: f.ContactCalls, ContactBRL: f.ContactBRL,
		}, &p)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, p)
	}
	return t.printPolicy(&p)
}

func (t *terminal) printPolicy(p *dashboard.BudgetPolicy) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) }
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	line("at the limit", p.AtLimit)
	line("answer", orElse(p.AnswerText, "a sentence in Portuguese"))
	line("downgrade to", orElse(p.DowngradeModel, "no model"))
	line("fit output", yes(p.FitOutput))
	line("bound", p.Bound)
	if p.OutputCap == 0 {
		line("output cap", "the model's maximum")
	} else {
		line("output cap", countOf(p.OutputCap, "token"))
	}
	line("sent upstream", yes(!p.LeaveOutput))
	line("outrun", p.Outrun)
	line("accept estimates", yes(p.AcceptEstimates))
	if p.TailCalls == 0 {
		line("tail", "none")
	} else {
		line("tail", fmt.Sprintf("%s once less than %d %% is left", countOf(int64(p.TailCalls), "call"), p.TailPercent))
	}
	bound := func(calls int64, brl string) string {
		text := "any number of calls"
		if calls > 0 {
			text = strconv.FormatInt(calls, 10) + " calls"
		}
		if brl != "0" {
			text += ", " + budgetAmount("brl", brl)
		}
		return text
	}
	line("a conversation an hour", bound(p.ConversationCalls, p.ConversationBRL))
	line("a contact an hour", bound(p.ContactCalls, p.ContactBRL))
	return w.Flush()
}

type budgetSecret struct {
	asJSON
	Client string `arg:"" help:"Id or name; all: of budgets over all clients."`
}

// Run shows what webhooks are signed with.
func (c budgetSecret) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	owner, err := api.budgetOwner(t.ctx, c.Client)
	if err != nil {
		return err
	}
	var secret dashboard.WebhookSecret
	if err := api.call(t.ctx, http.MethodPost, budgetPath+"/policy/"+owner.ID.String()+"/webhook-secret", nil, nil, &secret); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, secret)
	}
	_, err = fmt.Fprintf(t.out, "%s\n\nWhoever receives the webhooks of %s verifies them with it, as the Standard Webhooks specification says.\n", secret.Secret, printable(orElse(owner.Name, c.Client)))
	return err
}
