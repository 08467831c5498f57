package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
)

type deadLetterCommand struct {
	List    deadLetterList    `cmd:"" help:"List events that could not be recorded, newest first."`
	Show    deadLetterShow    `cmd:"" help:"Show a dead letter with what is in it."`
	Replay  deadLetterReplay  `cmd:"" help:"Try to record a dead letter now, or all of them."`
	Discard deadLetterDiscard `cmd:"" help:"Settle a dead letter that will never be recorded."`
}

const lettersPath = "/api/ai-gateway/dead-letters"

// letterChoice is which letters are meant.
type letterChoice struct {
	Tenant string `help:"Only of this tenant; id or name." aliases:"client"`
	Reason string `help:"Only those whose reason contains this."`
}

// query turns it into the API's words.
func (c letterChoice) query(ctx context.Context, api *client, more ...string) (url.Values, error) {
	query := values(append(more, "reason", c.Reason)...)
	if c.Tenant != "" {
		tenant, err := api.tenant(ctx, c.Tenant)
		if err != nil {
			return nil, err
		}
		query.Set("client_id", tenant.ID.String())
	}
	return query, nil
}

type deadLetterList struct {
	asJSON
	letterChoice
	State string `enum:"open,replayed,discarded" default:"open" help:"open, replayed or discarded."`
	Limit int    `default:"20" help:"How many to show."`
}

// Run lists.
func (c deadLetterList) Run(t *terminal) error {
	if c.Limit < 1 {
		return errors.New("--limit must be more than 0")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	query, err := c.query(t.ctx, api, "state", c.State)
	if err != nil {
		return err
	}
	var page dashboard.DeadLetterPage
	letters := []dashboard.DeadLetter{}
	for len(letters) < c.Limit {
		query.Set("limit", strconv.Itoa(min(1000, c.Limit-len(letters))))
		page = dashboard.DeadLetterPage{}
		if err := api.call(t.ctx, http.MethodGet, lettersPath, query, nil, &page); err != nil {
			return err
		}
		letters = append(letters, page.Letters...)
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	if c.JSON {
		return writeJSON(t.out, letters)
	}
	return c.print(t, letters, &page)
}

func (c deadLetterList) print(t *terminal, letters []dashboard.DeadLetter, page *dashboard.DeadLetterPage) error {
	if len(letters) == 0 {
		_, err := fmt.Fprintf(t.out, "No %s dead letters.\n", c.State)
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME (UTC)\tID\tTOKENS\tUS$\tTRIES\tREASON")
	for _, l := range letters {
		tokens, usd := "unknown", "unknown"
		if l.ClaimKnown {
			tokens = strconv.FormatInt(l.TotalTokens, 10)
		}
		if l.CostKnown {
			usd = l.CostUSD
		}
		reason := []rune(printable(l.Reason))
		if len(reason) > 80 {
			reason = append(reason[:79], '…')
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", l.At.UTC().Format(time.DateTime), l.ID, tokens, usd, l.Tries, string(reason))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, claim := range page.Claims {
		if claim.State == c.State {
			fmt.Fprintf(t.out, "\n%d %s in all; those that could be read claim %s tokens, US$ %s, R$ %s.\n", claim.Count, claim.State, claim.TotalTokens, claim.CostUSD, claim.CostBRL)
		}
	}
	return nil
}

type deadLetterShow struct {
	asJSON
	ID string `arg:"" help:"As catraca deadletter list shows it."`
}

// Run shows.
func (c deadLetterShow) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	var l dashboard.DeadLetterWhole
	if err := api.call(t.ctx, http.MethodGet, lettersPath+"/"+url.PathEscape(c.ID), nil, nil, &l); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, l)
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) }
	line("id", l.ID)
	line("state", l.State)
	line("reason", l.Reason)
	if l.Note != "" {
		line("discarded because", l.Note)
	}
	line("parked", l.At.UTC().Format(time.RFC3339))
	if !l.SettledAt.IsZero() {
		line("settled", l.SettledAt.UTC().Format(time.RFC3339))
	}
	if l.ClientID != uuid.Nil {
		line("client", l.ClientID.String())
	}
	if l.ClaimKnown {
		line("claims", fmt.Sprintf("%d tokens, US$ %s, R$ %s", l.TotalTokens, orUnknown(l.CostUSD), orUnknown(l.CostBRL)))
	}
	if call := l.Call; call != nil {
		line("call", fmt.Sprintf("%s of %s, %s by %s, %d in, %d out, %s", call.RequestID, call.At.UTC().Format(time.RFC3339), call.Model, call.Provider, call.InputTokens, call.OutputTokens, call.Outcome))
	} else {
		line("unreadable", l.Unreadable)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "\n%s", hex.Dump(l.Raw))
	return err
}

func orUnknown(amount string) string {
	if amount == "" {
		return "unknown"
	}
	return amount
}

type deadLetterReplay struct {
	asJSON
	letterChoice
	ID  string `arg:"" optional:"" help:"As catraca deadletter list shows it."`
	All bool   `help:"All open ones, or with --tenant or --reason those."`
}

// Run replays. It ends with 1 when a letter is still refused.
func (c deadLetterReplay) Run(t *terminal) error {
	if (c.ID == "") == !c.All || c.ID != "" && (c.Tenant != "" || c.Reason != "") {
		return errors.New("name one dead letter by its id, or give --all, with --tenant or --reason for fewer")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	if c.ID != "" {
		return c.one(t, api)
	}
	query, err := c.query(t.ctx, api, "limit", "200")
	if err != nil {
		return err
	}
	var sum dashboard.ReplayedMany
	for {
		var page dashboard.ReplayedMany
		if err := api.call(t.ctx, http.MethodPost, lettersPath+"/replay", query, nil, &page); err != nil {
			return err
		}
		sum.Recorded, sum.Had, sum.Refused = sum.Recorded+page.Recorded, sum.Had+page.Had, sum.Refused+page.Refused
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	if c.JSON {
		err = writeJSON(t.out, sum)
	} else {
		_, err = fmt.Fprintf(t.out, "%d recorded, %d the log had already, %d refused again.\n", sum.Recorded, sum.Had, sum.Refused)
	}
	if err == nil && sum.Refused > 0 {
		return exitCode(1)
	}
	return err
}

func (c deadLetterReplay) one(t *terminal, api *client) error {
	var done dashboard.Replayed
	if err := api.call(t.ctx, http.MethodPost, lettersPath+"/"+url.PathEscape(c.ID)+"/replay", nil, nil, &done); err != nil {
		return err
	}
	said := map[string]string{
		"recorded": "Recorded: it is in the log and in the sums now.",
		"had":      "The log had this call already; nothing was added.",
		"settled":  "It was replayed or discarded before; nothing changed.",
		"refused":  "Refused again, and kept: " + printable(done.Reason),
	}
	var err error
	if c.JSON {
		err = writeJSON(t.out, done)
	} else {
		_, err = fmt.Fprintln(t.out, said[done.Outcome])
	}
	if err == nil && done.Outcome == "refused" {
		return exitCode(1)
	}
	return err
}

type deadLetterDiscard struct {
	asJSON
	ID      string `arg:"" help:"As catraca deadletter list shows it."`
	Because string `required:"" help:"Why; kept with the letter and in the audit log."`
}

// Run discards.
func (c deadLetterDiscard) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	var l dashboard.DeadLetter
	if err := api.call(t.ctx, http.MethodPost, lettersPath+"/"+url.PathEscape(c.ID)+"/discard", nil, dashboard.Discarding{Reason: c.Because}, &l); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, l)
	}
	_, err = fmt.Fprintf(t.out, "Discarded %s. What it claims stays missing from the sums.\n", l.ID)
	return err
}
