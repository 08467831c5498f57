package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
)

type keyCommand struct {
	Create keyCreate `cmd:"" help:"Make a key for a tenant and print its secret, this once."`
	List   keyList   `cmd:"" help:"List the keys of a tenant, or of all."`
	Rotate keyRotate `cmd:"" help:"Make a successor; the old key works until the grace is over."`
	Revoke keyRevoke `cmd:"" help:"Stop a key, within 2 seconds."`
}

type keyCreate struct {
	asJSON
	Tenant  string        `required:"" help:"Id or name."`
	Name    string        `help:"Where the key is used, for those who have to find it."`
	Expires time.Duration `placeholder:"720h" help:"Let it end after this time; default never."`
}

// Run makes a key.
func (c keyCreate) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	tenant, err := api.tenant(t.ctx, c.Tenant)
	if err != nil {
		return err
	}
	in := dashboard.KeyNew{Name: c.Name}
	if c.Expires < 0 {
		return errors.New("--expires must be a time to come, such as 720h")
	}
	if c.Expires > 0 {
		in.ExpiresAt = t.now().Add(c.Expires).UTC()
	}
	var made dashboard.KeyMade
	if err := api.call(t.ctx, http.MethodPost, "/api/tenants/"+tenant.ID.String()+"/keys", nil, in, &made); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, made)
	}
	return t.printSecret(api, tenant, made)
}

// printSecret shows a new secret with a call that streams, ready to paste.
func (t *terminal) printSecret(api *client, tenant dashboard.Tenant, made dashboard.KeyMade) error {
	fmt.Fprintf(t.out, "Key %s of tenant %s (%s)\n\n  %s\n\nIt is shown this once: keep it now.", made.Prefix+"…", printable(tenant.Name), made.ID, made.Secret)
	if !made.ExpiresAt.IsZero() {
		fmt.Fprintf(t.out, " It ends on %s.", inZone(made.ExpiresAt, tenant.TimeZone))
	}
	model := tenant.DefaultModel
	if model == "" && len(tenant.AllowedModels) > 0 {
		model = tenant.AllowedModels[0]
	}
	_, err := fmt.Fprintf(t.out, ` Try it:

  curl -N %s/v1/chat/completions \
    -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' \
    -d '{"model":"%s","stream":true,"messages":[{"role":"user","content":"Oi!"}]}'
`, t.wire(api), made.Secret, orElse(model, "openai/gpt-4o-mini"))
	return err
}

// wire is the address of the OpenAI side: as the server says, or as this environment has it. A wildcard is reached as
// the admin side was.
func (t *terminal) wire(api *client) string {
	var running dashboard.GatewayConfig
	if err := api.call(t.ctx, http.MethodGet, "/api/ai-gateway/config", nil, nil, &running); err != nil || running.Listen == "" {
		running.Listen = api.listen
	}
	host, port, err := net.SplitHostPort(running.Listen)
	if err != nil {
		return "http://" + running.Listen
	}
	if u, err := url.Parse(api.base); isWildcard(host) && err == nil {
		host = u.Hostname()
	}
	return "http://" + net.JoinHostPort(host, port)
}

type keyList struct {
	asJSON
	Tenant string `help:"Id or name; default all tenants."`
}

// Run lists.
func (c keyList) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	tenants := make([]dashboard.Tenant, 1)
	if c.Tenant != "" {
		tenants[0], err = api.tenant(t.ctx, c.Tenant)
	} else {
		var list dashboard.TenantList
		err = api.call(t.ctx, http.MethodGet, "/api/tenants", nil, nil, &list)
		tenants = list.Tenants
	}
	if err != nil {
		return err
	}
	keys := []dashboard.Key{}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tPREFIX\tNAME\tSTATE\tEXPIRES\tLAST USED\tID")
	for _, tenant := range tenants {
		var list dashboard.KeyList
		if err := api.call(t.ctx, http.MethodGet, "/api/tenants/"+tenant.ID.String()+"/keys", nil, nil, &list); err != nil {
			return err
		}
		keys = append(keys, list.Keys...)
		for _, k := range list.Keys {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable(tenant.Name), k.Prefix+"…", printable(k.Name), k.State,
				inZone(k.ExpiresAt, tenant.TimeZone), inZone(k.LastUsedAt, tenant.TimeZone), k.ID)
		}
	}
	if c.JSON {
		return writeJSON(t.out, keys)
	}
	if len(keys) == 0 {
		_, err := fmt.Fprintln(t.out, "No keys yet. Make one: catraca key create --tenant NAME")
		return err
	}
	return w.Flush()
}

type keyRotate struct {
	asJSON
	ID    string        `arg:"" help:"Id of the key, as key list shows it."`
	Grace time.Duration `default:"24h" help:"How long the old key still works; 0s stops it at once."`
}

// Run rotates.
func (c keyRotate) Run(t *terminal) error {
	api, id, err := t.clientForKey(c.ID)
	if err != nil {
		return err
	}
	seconds := int64(c.Grace / time.Second)
	var made dashboard.KeyMade
	if err := api.call(t.ctx, http.MethodPost, "/api/keys/"+id+"/rotate", nil, dashboard.Rotation{GraceSeconds: &seconds}, &made); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, made)
	}
	var tenant dashboard.Tenant
	if err := api.call(t.ctx, http.MethodGet, "/api/tenants/"+made.ClientID.String(), nil, nil, &tenant); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "The old key works for %s more.\n", shortDuration(c.Grace))
	return t.printSecret(api, tenant, made)
}

type keyRevoke struct {
	asJSON
	ID string `arg:"" help:"Id of the key, as key list shows it."`
}

// Run revokes.
func (c keyRevoke) Run(t *terminal) error {
	api, id, err := t.clientForKey(c.ID)
	if err != nil {
		return err
	}
	if err := api.call(t.ctx, http.MethodDelete, "/api/keys/"+id, nil, nil, nil); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, map[string]string{"revoked": id})
	}
	_, err = fmt.Fprintf(t.out, "Revoked %s: it stops within 2 seconds.\n", id)
	return err
}

// clientForKey refuses what is not an id before it asks. The secret itself must not get into a path, and so into logs.
func (t *terminal) clientForKey(named string) (*client, string, error) {
	id, err := uuid.Parse(named)
	if err != nil {
		return nil, "", errors.New("name the key by its id, which `catraca key list` shows")
	}
	api, err := t.client()
	return api, id.String(), err
}
