package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/catraca/catraca/dashboard"
)

type exportCommand struct {
	Tenant string `help:"Id or name; default all tenants." aliases:"client"`
	From   string `placeholder:"TIME" help:"Only from this time on: 2026-11-22, which begins in the tenant's zone, or RFC 3339."`
	To     string `placeholder:"TIME" help:"Only before this time."`
	Format string `enum:"csv,jsonl" default:"csv" help:"csv or jsonl."`
}

// Run writes the log, call by call, to the standard output.
func (c exportCommand) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	query, zone := values("format", c.Format), ""
	if c.Tenant != "" {
		tenant, err := api.tenant(t.ctx, c.Tenant)
		if err != nil {
			return err
		}
		query.Set("client_id", tenant.ID.String())
		zone = tenant.TimeZone
	} else {
		var cfg dashboard.GatewayConfig
		if err := api.call(t.ctx, http.MethodGet, "/api/ai-gateway/config", nil, nil, &cfg); err != nil {
			return err
		}
		zone = cfg.TimeZone
	}
	for _, bound := range []struct{ name, text string }{{"from", c.From}, {"to", c.To}} {
		if bound.text == "" {
			continue
		}
		at, err := readTime(bound.text, zone)
		if err != nil {
			return fmt.Errorf("--%s: %w", bound.name, err)
		}
		query.Set(bound.name, at.UTC().Format(time.RFC3339Nano))
	}
	return api.stream(t.ctx, http.MethodGet, "/api/ai-gateway/export", query, nil, t.out)
}

// stream sends a request and passes the answer on as it comes, for as long as it takes.
func (c *client) stream(ctx context.Context, method, path string, query url.Values, in any, out io.Writer) error {
	request, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	patient := *c.http
	patient.Timeout = 0 // a year of calls takes its time
	response, err := patient.Do(request)
	if err != nil {
		return c.unreachable(err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		return c.refused(response, text)
	}
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("the export broke off and is not whole: %w; try again, or a shorter time", err)
	}
	return nil
}
