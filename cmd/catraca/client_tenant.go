package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/tenancy"
)

type tenantCommand struct {
	Create tenantCreate `cmd:"" help:"Create a tenant."`
	List   tenantList   `cmd:"" help:"List all tenants."`
	Show   tenantShow   `cmd:"" help:"Show one tenant."`
	Set    tenantSet    `cmd:"" help:"Change settings of a tenant; what is not named stays."`
	Pause  tenantPause  `cmd:"" help:"Refuse a tenant's calls with 403, within 2 seconds."`
	Resume tenantResume `cmd:"" help:"Take a tenant's calls again."`
	Delete tenantDelete `cmd:"" help:"Delete a tenant. Its keys stop; what it used stays in the log."`
}

// tenantOptions are the settings that create and set have in common. A pointer that is nil was not named.
type tenantOptions struct {
	Gateway       *bool   `name:"gateway" negatable:"" help:"Go through the AI gateway, or (--no-gateway) straight to the providers."`
	Models        *string `placeholder:"A,B" help:"Allowed models, names or gateway ids; an empty list allows all."`
	DefaultModel  *string `placeholder:"MODEL" help:"Model of requests that name none; empty for none."`
	UnknownModels *string `placeholder:"refuse|meter" help:"What happens to models the registry does not know; empty: as CATRACA_UNKNOWN_MODEL_POLICY says."`
	TimeZone      *string `placeholder:"ZONE" help:"IANA zone in which its days begin, such as America/Manaus."`
	RawPhones     *bool   `negatable:"" help:"Keep phone numbers as they are sent instead of a pseudonym."`
	OnClientGone  *string `placeholder:"cancel|read_on" help:"When a caller leaves before its answer is whole: end the upstream's work and bill an estimate, or read on for at most a minute, to the exact bill."`
}

// models is the list to send; nil when it was not named.
func (o tenantOptions) models() *[]string {
	if o.Models == nil {
		return nil
	}
	list := []string{}
	for _, m := range strings.Split(*o.Models, ",") {
		if m = strings.TrimSpace(m); m != "" {
			list = append(list, m)
		}
	}
	return &list
}

type tenantCreate struct {
	asJSON
	Name string `arg:"" help:"Name of the company; unique."`
	ID   string `name:"id" placeholder:"UUID" help:"Take the id that the client has elsewhere; else one is made."`
	tenantOptions
}

// Run creates.
func (c tenantCreate) Run(t *terminal) error {
	in := dashboard.TenantNew{Name: c.Name, UseGateway: c.Gateway}
	if c.ID != "" {
		id, err := uuid.Parse(c.ID)
		if err != nil {
			return errors.New("--id must be a uuid, such as 2f1c6c5e-5d3f-4a53-9c9d-0d5a0c3b7a11")
		}
		in.ID = id
	}
	if list := c.models(); list != nil {
		in.AllowedModels = *list
	}
	copyIf(&in.DefaultModel, c.DefaultModel)
	copyIf(&in.UnknownModels, c.UnknownModels)
	copyIf(&in.TimeZone, c.TimeZone)
	copyIf(&in.RawPhones, c.RawPhones)
	copyIf(&in.OnClientGone, c.OnClientGone)
	var made dashboard.Tenant
	return t.tenantCall(c.JSON, http.MethodPost, "", "/api/tenants", in, &made, func() {
		fmt.Fprintf(t.out, "Created tenant %s (%s).\nNext: catraca key create --tenant %s\n", made.Name, made.ID, shellWord(made.Name))
	})
}

func copyIf[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// tenantCall makes one call about a tenant, whose id stands for * in the path, and prints the answer.
func (t *terminal) tenantCall(asJSON bool, method, named, path string, in any, out *dashboard.Tenant, say func()) error {
	c, err := t.client()
	if err != nil {
		return err
	}
	if named != "" {
		found, err := c.tenant(t.ctx, named)
		if err != nil {
			return err
		}
		*out = found
		path = strings.Replace(path, "*", found.ID.String(), 1)
	}
	var into any = out
	if method == http.MethodDelete {
		into = nil
	}
	if err := c.call(t.ctx, method, path, nil, in, into); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(t.out, out)
	}
	say()
	return nil
}

type tenantList struct{ asJSON }

// Run lists.
func (c tenantList) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	var list dashboard.TenantList
	if err := api.call(t.ctx, http.MethodGet, "/api/tenants", nil, nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, list.Tenants)
	}
	if len(list.Tenants) == 0 {
		_, err := fmt.Fprintln(t.out, "No tenants yet. Create one: catraca tenant create NAME")
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tROUTE\tMODELS\tZONE\tID")
	for _, tenant := range list.Tenants {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(tenant.Name), tenantState(tenant), tenantRoute(tenant), modelCount(tenant), tenant.TimeZone, tenant.ID)
	}
	return w.Flush()
}

func tenantState(t dashboard.Tenant) string {
	if t.Paused {
		return "paused"
	}
	return "active"
}

func tenantRoute(t dashboard.Tenant) string {
	if t.UseGateway {
		return "gateway"
	}
	return "direct"
}

func modelCount(t dashboard.Tenant) string {
	if len(t.AllowedModels) == 0 {
		return "all"
	}
	return fmt.Sprint(len(t.AllowedModels))
}

type tenantShow struct {
	asJSON
	Tenant string `arg:"" help:"Id or name."`
}

// Run shows.
func (c tenantShow) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	tenant, err := api.tenant(t.ctx, c.Tenant)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, tenant)
	}
	return t.printTenant(tenant)
}

func (t *terminal) printTenant(tenant dashboard.Tenant) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, printable(value)) }
	line("name", tenant.Name)
	line("id", tenant.ID.String())
	if tenant.Paused && tenant.PausedReason != "" {
		line("state", "paused: "+tenant.PausedReason)
	} else {
		line("state", tenantState(tenant))
	}
	line("route", tenantRoute(tenant))
	line("allowed models", orElse(strings.Join(tenant.AllowedModels, ", "), "all active"))
	line("default model", orElse(tenant.DefaultModel, "none"))
	line("unknown models", orElse(tenant.UnknownModels, "as the deployment says"))
	line("time zone", tenant.TimeZone)
	if tenant.RawPhones {
		line("phones", "as sent")
	} else {
		line("phones", "pseudonyms")
	}
	if tenant.OnClientGone == string(tenancy.ReadOnGone) {
		line("caller gone", "read on to the exact bill")
	} else {
		line("caller gone", "cancel upstream")
	}
	line("created", inZone(tenant.CreatedAt, tenant.TimeZone))
	return w.Flush()
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

type tenantSet struct {
	asJSON
	Tenant string  `arg:"" help:"Id or name."`
	Name   *string `help:"New name."`
	tenantOptions
}

// Run changes.
func (c tenantSet) Run(t *terminal) error {
	in := dashboard.TenantChange{
		Name: c.Name, UseGateway: c.Gateway, AllowedModels: c.models(), DefaultModel: c.DefaultModel,
		UnknownModels: c.UnknownModels, TimeZone: c.TimeZone, RawPhones: c.RawPhones, OnClientGone: c.OnClientGone,
	}
	if in == (dashboard.TenantChange{}) {
		return errors.New("nothing to set; catraca tenant set --help lists what can be")
	}
	var changed dashboard.Tenant
	return t.tenantCall(c.JSON, http.MethodPatch, c.Tenant, "/api/tenants/*", in, &changed, func() { _ = t.printTenant(changed) })
}

type tenantPause struct {
	asJSON
	Tenant string `arg:"" help:"Id or name."`
	Reason string `help:"Why; the tenant's callers see it."`
}

// Run pauses.
func (c tenantPause) Run(t *terminal) error {
	var changed dashboard.Tenant
	return t.tenantCall(c.JSON, http.MethodPost, c.Tenant, "/api/tenants/*/pause", dashboard.Pause{Reason: c.Reason}, &changed, func() {
		fmt.Fprintf(t.out, "Paused %s: its calls are refused from now on.\n", changed.Name)
	})
}

type tenantResume struct {
	asJSON
	Tenant string `arg:"" help:"Id or name."`
}

// Run resumes.
func (c tenantResume) Run(t *terminal) error {
	var changed dashboard.Tenant
	return t.tenantCall(c.JSON, http.MethodPost, c.Tenant, "/api/tenants/*/resume", nil, &changed, func() {
		fmt.Fprintf(t.out, "%s is active again.\n", changed.Name)
	})
}

type tenantDelete struct {
	asJSON
	Tenant string `arg:"" help:"Id or name."`
	Yes    bool   `required:"" help:"Really; it cannot be undone."`
}

// Run deletes.
func (c tenantDelete) Run(t *terminal) error {
	var gone dashboard.Tenant
	return t.tenantCall(c.JSON, http.MethodDelete, c.Tenant, "/api/tenants/*", nil, &gone, func() {
		fmt.Fprintf(t.out, "Deleted %s (%s). Its keys stop within 2 seconds; what it used stays.\n", gone.Name, gone.ID)
	})
}

// printable keeps what others named from moving the cursor of who reads it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}

// shellWord quotes a name for a command line to copy.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// inZone writes a time as a tenant's clock shows it.
func inZone(at time.Time, zone string) string {
	if at.IsZero() {
		return "never"
	}
	place, err := time.LoadLocation(zone)
	if err != nil {
		place = time.UTC
	}
	return at.In(place).Format("2006-01-02 15:04:05 -07")
}

// values is a query from pairs; pairs with an empty value are left out.
func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}
