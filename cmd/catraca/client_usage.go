package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/dashboard"
)

type usageCommand struct {
	asJSON
	Tenant  string        `help:"Id or name; default all tenants."`
	Since   time.Duration `placeholder:"24h" help:"Only what is younger than this."`
	From    string        `placeholder:"TIME" help:"Only from this time on: 2026-11-22, or RFC 3339."`
	To      string        `placeholder:"TIME" help:"Only before this time."`
	Limit   int           `default:"20" help:"How many calls to show."`
	Summary string        `placeholder:"day,model" help:"Sums instead of calls, by day, hour, month, tenant, model, provider, route or endpoint."`
	Latency bool          `help:"With --summary: how long calls took, as quantiles."`
}

// Run shows recent calls, or sums.
func (c usageCommand) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	var list dashboard.TenantList
	if err := api.call(t.ctx, http.MethodGet, "/api/tenants", nil, nil, &list); err != nil {
		return err
	}
	view := usageView{t: t, api: api, zones: make(map[uuid.UUID]string)}
	for _, tenant := range list.Tenants {
		view.zones[tenant.ID] = tenant.TimeZone
		view.zone = tenant.TimeZone
	}
	if len(list.Tenants) != 1 {
		view.zone = ""
	}
	if c.Tenant != "" {
		tenant, err := api.tenant(t.ctx, c.Tenant)
		if err != nil {
			return err
		}
		view.client, view.zone = tenant.ID.String(), tenant.TimeZone
	}
	if view.zone == "" {
		var cfg dashboard.GatewayConfig
		if err := api.call(t.ctx, http.MethodGet, "/api/ai-gateway/config", nil, nil, &cfg); err != nil {
			return err
		}
		view.zone = cfg.TimeZone
	}
	if err := c.span(t, &view); err != nil {
		return err
	}
	if c.Summary != "" {
		return view.summary(c.Summary, c.Latency, c.JSON)
	}
	return view.calls(c.Limit, c.JSON)
}

// span works out which time is meant.
func (c usageCommand) span(t *terminal, view *usageView) error {
	if c.Since != 0 && c.From != "" {
		return errors.New("--since and --from say the same thing in two ways: use one of them")
	}
	if c.Since < 0 || c.Limit < 1 {
		return errors.New("--since and --limit must be more than 0")
	}
	if c.Since > 0 {
		view.from = t.now().Add(-c.Since).UTC().Format(time.RFC3339Nano)
	}
	for _, bound := range []struct {
		flag, text string
		to         *string
	}{{"--from", c.From, &view.from}, {"--to", c.To, &view.to}} {
		if bound.text == "" {
			continue
		}
		at, err := readTime(bound.text, view.zone)
		if err != nil {
			return fmt.Errorf("%s: %w", bound.flag, err)
		}
		*bound.to = at.UTC().Format(time.RFC3339Nano)
	}
	return nil
}

// readTime reads a day, which begins in the tenant's zone, or an instant.
func readTime(text, zone string) (time.Time, error) {
	place, err := time.LoadLocation(zone)
	if err != nil {
		place = time.UTC
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02 15:04", time.DateTime} {
		if at, err := time.ParseInLocation(layout, text, place); err == nil {
			return at, nil
		}
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	return time.Time{}, errors.New("write a day such as 2026-11-22, or a time such as 2026-11-22T15:04:00-03:00")
}

// usageView is what is asked for and how it is shown.
type usageView struct {
	t        *terminal
	api      *client
	zones    map[uuid.UUID]string // of tenants
	zone     string               // of what is no one tenant's
	client   string
	from, to string
}

func (v *usageView) calls(limit int, asJSON bool) error {
	calls, more := []dashboard.Call{}, false
	for cursor := ""; ; {
		var page dashboard.CallPage
		query := values("client_id", v.client, "from", v.from, "to", v.to, "cursor", cursor, "limit", strconv.Itoa(min(1000, limit-len(calls))))
		if err := v.api.call(v.t.ctx, http.MethodGet, "/api/usage", query, nil, &page); err != nil {
			return err
		}
		calls = append(calls, page.Calls...)
		cursor, more = page.Next, page.Next != ""
		if !more || len(calls) >= limit {
			break
		}
	}
	if asJSON {
		return writeJSON(v.t.out, calls)
	}
	if len(calls) == 0 {
		_, err := fmt.Fprintln(v.t.out, "No calls in this time.")
		return err
	}
	return v.printCalls(calls, more)
}

func (v *usageView) printCalls(calls []dashboard.Call, more bool) error {
	w := tabwriter.NewWriter(v.t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tTENANT\tMODEL\tIN\tOUT\tCACHED\tUS$\tR$\tSOURCE\tOUTCOME")
	var usd, brl decimal.Decimal
	var in, out int64
	unknown := 0
	for _, c := range calls {
		in, out = in+c.InputTokens, out+c.OutputTokens
		costUSD, costBRL := "unknown", "unknown"
		if c.CostKnown {
			u, errU := decimal.NewFromString(c.CostUSD)
			b, errB := decimal.NewFromString(c.CostBRL)
			if errU != nil || errB != nil {
				return fmt.Errorf("the server sends a cost that is no number, %q and %q; use a client of its version", c.CostUSD, c.CostBRL)
			}
			usd, brl = usd.Add(u), brl.Add(b)
			costUSD, costBRL = dollars(u), reais(b)
		} else {
			unknown++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", inZone(c.At, v.zoneOf(c)), printable(orElse(c.Client, c.ClientID.String())),
			printable(c.Model), count(c.InputTokens), count(c.OutputTokens), count(c.CachedTokens), costUSD, costBRL, c.Source, outcome(c))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	line := fmt.Sprintf("\n%s, %s tokens in, %s out: %s, %s", countOf(int64(len(calls)), "call"), count(in), count(out), dollars(usd), reais(brl))
	if unknown > 0 {
		line += " and " + countOf(int64(unknown), "call") + " of unknown cost"
	}
	if rate := rateOf(calls); rate != "" {
		line += "; " + rate
	}
	if more {
		line += "\nThere are older ones: --limit shows more, --summary day adds them up."
	}
	_, err := fmt.Fprintln(v.t.out, line)
	return err
}

func (v *usageView) zoneOf(c dashboard.Call) string {
	if zone := v.zones[c.ClientID]; zone != "" {
		return zone
	}
	return v.zone
}

// outcome says what went wrong, if anything did.
func outcome(c dashboard.Call) string {
	text := c.Outcome
	if c.Outcome == "refused" && c.Status != 0 {
		text += " " + strconv.Itoa(c.Status)
	}
	if c.WasFallback {
		text += ", fallback"
	}
	if c.WasCached {
		text += ", cached"
	}
	return text
}

// rateOf names the exchange rate when all calls have one and the same.
func rateOf(calls []dashboard.Call) string {
	first := calls[0]
	for _, c := range calls {
		if c.Rate != first.Rate || c.RateDate != first.RateDate || c.RateSource != first.RateSource {
			return ""
		}
	}
	if first.Rate == "" {
		return ""
	}
	text := "US$ 1 = R$ " + strings.Replace(first.Rate, ".", ",", 1)
	switch {
	case first.RateSource == "fallback":
		return text + " (no rate was ever fetched: this one is made up)"
	case first.RateDate != "":
		return text + " (" + first.RateSource + ", " + first.RateDate + ")"
	}
	return text
}

func (v *usageView) summary(by string, latency, asJSON bool) error {
	by = strings.ReplaceAll(by, "tenant", "client")
	var summary dashboard.Summary
	query := values("client_id", v.client, "from", v.from, "to", v.to, "group_by", by, "time_zone", v.zone)
	if latency {
		query.Set("quantiles", "true")
	}
	if err := v.api.call(v.t.ctx, http.MethodGet, "/api/usage/summary", query, nil, &summary); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(v.t.out, summary)
	}
	dimensions := strings.Split(by, ",")
	w := tabwriter.NewWriter(v.t.out, 0, 0, 2, ' ', 0)
	columns := "%s\tCALLS\tFAILED\tIN\tOUT\tCACHED\tUS$\tR$"
	if latency {
		columns += "\tP50\tP95\tP99\tFIRST BYTE P50\tP95"
	}
	fmt.Fprintf(w, columns+"\n", strings.ToUpper(strings.Join(strings.Split(strings.ReplaceAll(by, "client", "tenant"), ","), "\t")))
	for _, g := range summary.Groups {
		for _, d := range dimensions {
			fmt.Fprintf(w, "%s\t", printable(groupName(g, d)))
		}
		if err := writeSum(w, g.Sum, latency); err != nil {
			return err
		}
	}
	fmt.Fprint(w, "TOTAL", strings.Repeat("\t", len(dimensions)))
	if err := writeSum(w, summary.Total, latency); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := summary.Total.UnknownCost; n > 0 {
		_, err := fmt.Fprintf(v.t.out, "\nNot in these sums: %s of unknown cost. `catraca model price` sets what is missing, for calls to come.\n", countOf(n, "call"))
		return err
	}
	return nil
}

func writeSum(w *tabwriter.Writer, s dashboard.Sum, latency bool) error {
	usd, errU := decimal.NewFromString(s.CostUSD)
	brl, errB := decimal.NewFromString(s.CostBRL)
	if errU != nil || errB != nil {
		return fmt.Errorf("the server sends a sum that is no number, %q and %q; use a client of its version", s.CostUSD, s.CostBRL)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s", count(s.Calls), count(s.Errors), count(s.InputTokens), count(s.OutputTokens),
		count(s.CachedTokens), dollars(usd), reais(brl))
	if latency {
		all, first := cmp.Or(s.Latency, &dashboard.Quantiles{}), cmp.Or(s.TTFT, &dashboard.Quantiles{})
		fmt.Fprintf(w, "\t%s ms\t%s ms\t%s ms\t%s ms\t%s ms", count(all.P50Ms), count(all.P95Ms), count(all.P99Ms), count(first.P50Ms), count(first.P95Ms))
	}
	_, err := fmt.Fprintln(w)
	return err
}

func groupName(g dashboard.Group, dimension string) string {
	switch dimension {
	case "hour":
		return g.Start.Format("2006-01-02 15:04 -07")
	case "day":
		return g.Start.Format(time.DateOnly)
	case "month":
		return g.Start.Format("2006-01")
	case "client":
		return orElse(g.Client, g.ClientID.String())
	case "model":
		return g.Model
	case "provider":
		return g.Provider
	case "route":
		return g.Route
	}
	return g.Endpoint
}
