package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/internal/simulator"
)

type auditCommand struct {
	asJSON
	Full      bool          `help:"Read the whole log; this is the default." xor:"depth"`
	Recent    bool          `help:"Compare the last hours only, as is done every minute." xor:"depth"`
	Since     time.Duration `placeholder:"720h" help:"Leave out what is older in a full audit."`
	Simulator string        `placeholder:"URL" help:"Compare with what this simulator issued, too; it must be the only upstream."`
}

// Run audits the meter. It ends with 1 when something does not hold and with 2 when it could not be checked.
func (c auditCommand) Run(t *terminal) error {
	report, err := c.ask(t)
	if err != nil {
		fmt.Fprintf(t.err, "catraca: %v\n", err)
		return exitCode(2)
	}
	if c.JSON {
		err = writeJSON(t.out, report)
	} else {
		err = printAudit(t.out, report)
	}
	if err != nil {
		return err
	}
	if !report.Holds {
		return exitCode(1)
	}
	if c.Simulator != "" {
		for _, check := range report.Checks {
			if check.Skipped && strings.HasPrefix(check.ID, "I2") {
				return exitCode(2)
			}
		}
	}
	return nil
}

func (c auditCommand) ask(t *terminal) (*dashboard.MeterAudit, error) {
	if c.Since < 0 {
		return nil, errors.New("--since must be more than 0")
	}
	api, err := t.client()
	if err != nil {
		return nil, err
	}
	query := values("depth", "full")
	if c.Recent {
		query.Set("depth", "recent")
	}
	if c.Since > 0 {
		query.Set("since", t.now().Add(-c.Since).UTC().Format(time.RFC3339Nano))
	}
	var issued *simulator.Stats
	if c.Simulator != "" {
		if issued, err = simulatorStats(t.ctx, c.Simulator); err != nil {
			return nil, err
		}
		query.Set("totals_since", issued.Since.UTC().Format(time.RFC3339Nano))
	}
	var report dashboard.MeterAudit
	// A full audit of a long log takes its time; the server has no limit, and who asks can press Ctrl-C.
	api.http.Timeout = 0
	if err := api.call(t.ctx, http.MethodGet, "/api/ai-gateway/audit", query, nil, &report); err != nil {
		return nil, err
	}
	if issued != nil {
		checks, err := compareIssued(issued, &report)
		if err != nil {
			return nil, err
		}
		for _, check := range checks {
			report.Holds = report.Holds && (check.Holds || check.Skipped)
		}
		report.Checks = append(checks, report.Checks...)
	}
	return &report, nil
}

// simulatorStats reads what a simulator served.
func simulatorStats(ctx context.Context, address string) (*simulator.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(address, "/")+"/_stats", nil)
	if err != nil {
		return nil, fmt.Errorf("--simulator: %q is no URL: write http://127.0.0.1:9090", address)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("--simulator: %s does not answer (%s)", address, networkCause(err))
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("--simulator: the answer of %s broke off: %w", address, err)
	}
	var stats simulator.Stats
	if response.StatusCode != http.StatusOK || json.Unmarshal(text, &stats) != nil || stats.Since.IsZero() {
		return nil, fmt.Errorf("--simulator: %s is no simulator of this version", address)
	}
	return &stats, nil
}

// compareIssued is I2: what the upstream issued is in the ledger. Seconds of audio are left out: the upstream bills them
// in its own steps. Dead letters claim no more than a total and a cost.
func compareIssued(stats *simulator.Stats, report *dashboard.MeterAudit) ([]dashboard.MeterCheck, error) {
	var all []dashboard.MeterTotal
	for _, source := range []string{"measured", "none", "dead", "estimated"} {
		all = append(all, report.Totals[source])
	}
	issued := stats.Total.Issued
	whole := func(n int64) decimal.Decimal { return decimal.NewFromInt(n) }
	var failed error
	money := func(s string) decimal.Decimal {
		d, err := decimal.NewFromString(s)
		if err != nil && s != "" {
			failed = fmt.Errorf("%q is no amount; use a client and a simulator of the server's version", s)
		}
		return d
	}
	classes := []struct {
		id, name  string
		issued    decimal.Decimal
		of        func(dashboard.MeterTotal) decimal.Decimal
		inLetters bool // dead letters claim it
	}{
		{"input", "prompt tokens", whole(issued.Input), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.InputTokens) }, false},
		{"output", "completion tokens", whole(issued.Output), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.OutputTokens) }, false},
		{"cached", "cached tokens", whole(issued.Cached), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.CachedTokens) }, false},
		{"written", "tokens written to a cache", whole(issued.CacheWrite), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.CacheWriteTokens) }, false},
		{"reasoning", "reasoning tokens", whole(issued.Reasoning), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.ReasoningTokens) }, false},
		{"total", "tokens", whole(issued.Total), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.TotalTokens) }, true},
		{"images", "images", whole(issued.Images), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.Images) }, false},
		{"characters", "characters", whole(issued.Characters), func(t dashboard.MeterTotal) decimal.Decimal { return whole(t.Characters) }, false},
		{"usd", "US$", money(issued.CostUSD), func(t dashboard.MeterTotal) decimal.Decimal { return money(t.CostUSD) }, true},
	}
	var checks []dashboard.MeterCheck
	for _, c := range classes {
		exact := decimal.Sum(c.of(all[0]), c.of(all[1]), c.of(all[2]))
		estimated := c.of(all[3])
		held := exact.Add(estimated)
		check := dashboard.MeterCheck{
			ID: "I2-" + c.id, Name: c.name + ": issued by the upstream = ledger", Left: c.issued.String(), Right: held.String(),
			Difference: c.issued.Sub(held).String(), Holds: c.issued.Equal(held),
		}
		calls := report.Totals["estimated"].Calls
		switch {
		case stats.Open > 0 || report.OnTheWay+report.Unjudged+report.Silent > 0:
			check.Skipped, check.Detail = true, "calls are still going on or on their way to the ledger; ask again when all is quiet"
		case all[2].Calls > 0 && !c.inLetters:
			check.Skipped, check.Detail = true, "dead letters claim only a total and a cost"
		case check.Holds:
		case calls > 0 && c.issued.GreaterThanOrEqual(exact):
			check.Holds = true
			check.Detail = fmt.Sprintf("the difference is in %s cut short: %s issued, %s estimated", countOf(calls, "call"), c.issued.Sub(exact), estimated)
		}
		checks = append(checks, check)
	}
	return checks, failed
}

func printAudit(out io.Writer, r *dashboard.MeterAudit) error {
	scope := "all that is kept"
	if !r.From.IsZero() {
		scope = "from " + r.From.UTC().Format("2006-01-02 15:04Z") + " on"
	}
	fmt.Fprintf(out, "Audit of %s, %s, in %s\n\n", r.At.UTC().Format("2006-01-02 15:04:05Z"), scope, time.Duration(r.TookMs)*time.Millisecond)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHECK\tWHAT\tLEFT\tRIGHT\tDIFFERENCE\tHOLDS")
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.ID, c.Name, orElse(c.Left, "-"), orElse(c.Right, "-"), orElse(c.Difference, "-"), verdictOf(c))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range r.Checks {
		if c.Detail != "" {
			fmt.Fprintf(out, "\n%s: %s", c.ID, printable(c.Detail))
		}
	}
	if len(r.Gaps) > 0 {
		fmt.Fprint(out, "\n\n")
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "STATE\tINCARNATION\tCALLS\tNUMBERS\tPROXY\tLAST HEARD OF")
		for _, g := range r.Gaps {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", g.State, g.Incarnation, g.Count, g.Numbers, orElse(printable(g.Proxy), "unknown"), inZone(g.Heard, "UTC"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	word := "Everything adds up"
	if !r.Holds {
		word = "The meter does NOT add up"
	}
	_, err := fmt.Fprintf(out, "\n\n%s: unaccounted %d, on the way %d, silent %d, too new to judge %d.\n", word, r.Unaccounted, r.OnTheWay, r.Silent, r.Unjudged)
	return err
}

func verdictOf(c dashboard.MeterCheck) string {
	switch {
	case c.Skipped:
		return "not checked"
	case c.Holds:
		return "yes"
	}
	return "NO"
}
