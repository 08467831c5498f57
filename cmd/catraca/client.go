package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/dashboard"
)

// client is the admin client: it goes through the admin API like everybody else, so that there is one way to write.
type client struct {
	base      string // without a slash at its end
	token     Secret
	tokenFrom string // for the message when it is refused
	listen    string // of the OpenAI side, as far as this environment knows
	http      *http.Client
}

// client finds the API and the token as the settings say.
func (t *terminal) client() (*client, error) {
	cfg, err := LoadConfig(t.environ)
	if err != nil {
		return nil, fmt.Errorf("the settings are wrong:\n%w", err)
	}
	c := &client{base: strings.TrimRight(cfg.AdminURL, "/"), listen: cfg.Listen, http: &http.Client{Timeout: 2 * time.Minute}}
	if c.base == "" {
		c.base = "http://" + reachable(cfg.AdminListen)
	}
	var m mistakes
	if checkURL(&m, "CATRACA_ADMIN_URL", c.base); len(m) > 0 {
		return nil, m[0]
	}
	if c.token, c.tokenFrom = cfg.AdminToken, "CATRACA_ADMIN_TOKEN"; c.token.IsSet() {
		return c, nil
	}
	path := cfg.AdminTokenPath()
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no admin token: CATRACA_ADMIN_TOKEN is not set and there is no %s; start `catraca serve` first, run this where it was started, or set CATRACA_ADMIN_TOKEN or CATRACA_DATA_DIR", path)
	case err != nil:
		return nil, fmt.Errorf("no admin token: %w; run this as the user that runs `catraca serve`, or set CATRACA_ADMIN_TOKEN", err)
	}
	c.token, c.tokenFrom = NewSecret(strings.TrimSpace(string(content))), path
	return c, nil
}

// request makes one to the admin API; in, unless it is nil, is sent as JSON.
func (c *client) request(ctx context.Context, method, path string, query url.Values, in any) (*http.Request, error) {
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// call sends a request and reads the answer into out, unless that is nil.
func (c *client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	request, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.unreachable(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 256<<20))
	if err != nil {
		return fmt.Errorf("the answer of %s broke off: %w; try again", c.base, err)
	}
	if response.StatusCode >= 300 {
		return c.refused(response, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s answers something else than the admin API; check CATRACA_ADMIN_URL", c.base)
	}
	return nil
}

// unreachable says how to get a server that answers.
func (c *client) unreachable(err error) error {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" && !os.IsTimeout(err) {
		return fmt.Errorf("no Catraca answers on %s (%s): start one with `catraca serve`, or point CATRACA_ADMIN_URL at the one that runs", c.base, networkCause(err))
	}
	return fmt.Errorf("%s: %s; try again, or check CATRACA_ADMIN_URL", c.base, networkCause(err))
}

// refused puts the API's own words into an error.
func (c *client) refused(response *http.Response, text []byte) error {
	if response.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("%s refuses the admin token from %s: use the token that this server was started with, by CATRACA_ADMIN_TOKEN or its data directory's admin-token", c.base, c.tokenFrom)
	}
	var problem struct {
		Detail string `json:"detail"`
		Errors []struct {
			Message  string `json:"message"`
			Location string `json:"location"`
		} `json:"errors"`
	}
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		return fmt.Errorf("%s answers %s and is not the admin API; check CATRACA_ADMIN_URL", c.base, response.Status)
	}
	message := problem.Detail
	for _, e := range problem.Errors {
		message += "\n  " + strings.TrimPrefix(e.Location, "body.") + ": " + e.Message
	}
	return errors.New(message)
}

// tenant finds a tenant by its id or its name.
func (c *client) tenant(ctx context.Context, named string) (dashboard.Tenant, error) {
	if id, err := uuid.Parse(named); err == nil {
		var t dashboard.Tenant
		return t, c.call(ctx, http.MethodGet, "/api/tenants/"+id.String(), nil, nil, &t)
	}
	var list dashboard.TenantList
	if err := c.call(ctx, http.MethodGet, "/api/tenants", nil, nil, &list); err != nil {
		return dashboard.Tenant{}, err
	}
	var found []dashboard.Tenant
	names := make([]string, 0, len(list.Tenants))
	for _, t := range list.Tenants {
		names = append(names, t.Name)
		if strings.EqualFold(t.Name, named) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return dashboard.Tenant{}, notFound("tenant", named, names)
	}
	return dashboard.Tenant{}, fmt.Errorf("%d tenants are called %q: name one by its id, which `catraca tenant list` shows", len(found), named)
}

// notFound suggests what was probably meant.
func notFound(what, named string, names []string) error {
	if near, distance := nearest(strings.ToLower(named), lowered(names)); len(names) > 0 && distance <= max(2, len(named)/3) {
		for _, n := range names {
			if strings.ToLower(n) == near {
				return fmt.Errorf("no %s %q: did you mean %q?", what, named, n)
			}
		}
	}
	return fmt.Errorf("no %s %q; `catraca %s list` shows them", what, named, what)
}

func lowered(names []string) []string {
	low := make([]string, len(names))
	for i, n := range names {
		low[i] = strings.ToLower(n)
	}
	return low
}
