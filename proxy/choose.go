package proxy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
	"github.com/catraca/catraca/tenancy"
)

// choose decides which model is asked for, whether this tenant may have it, and which target it is sent to under which
// name.
func (c *call) choose() error {
	if c.ep.body == noBody {
		return c.chooseOwner()
	}
	name := c.req.Model
	if !c.req.HasModel {
		name = c.who.DefaultModel
		if name == "" && c.ep.modelOptional == "" {
			return &openai.Error{Type: invalidRequest, Code: "model_required", Param: "model", Message: "name a model: this client has no default model"}
		}
	}
	price := name
	if price == "" {
		price = c.ep.modelOptional
	}
	m, err := c.permitted(price)
	if err != nil {
		return err
	}
	for _, other := range c.req.Fallbacks {
		if _, err := c.permitted(other); err != nil {
			return err
		}
	}
	c.model = m
	gateway := c.p.UseGateway && c.who.UseGateway
	if c.req.PreviousResponse != "" {
		// What it goes on from lies where it was made, whatever the flags say by now.
		route, _, err := c.ownerOf(c.req.PreviousResponse)
		if err != nil {
			return err
		}
		gateway = route == "gateway"
	}
	if err := c.pick(gateway, price, m); err != nil {
		return err
	}
	if name == "" {
		c.send = "" // nothing was asked for and nothing is put in
	}
	c.hide = c.ep.usageOption && c.req.Stream && !c.req.WantsUsage
	return nil
}

// permitted looks a model up and checks that the tenant may use it.
func (c *call) permitted(name string) (*metering.Model, error) {
	m := c.p.Prices.Catalog().Lookup(name)
	if m == nil {
		policy := c.who.UnknownModels
		if policy == "" {
			policy = c.p.UnknownModels
		}
		if policy != tenancy.MeterUnknown {
			return nil, modelNotFound(name)
		}
		if !c.who.Allows(name) {
			return nil, modelNotAllowed(name)
		}
		return nil, nil
	}
	if !m.Active {
		return nil, modelNotFound(name)
	}
	if !c.who.Allows(m.GatewayID) && !c.who.Allows(m.Name) {
		return nil, modelNotAllowed(name)
	}
	return m, nil
}

func modelNotFound(name string) error {
	return notFound("model_not_found", "model", fmt.Sprintf("the model %q does not exist here: GET /v1/models lists those that do", name))
}

func modelNotAllowed(name string) error {
	return forbidden("model_not_allowed", "model", fmt.Sprintf("this client may not use the model %q: GET /v1/models lists those that it may", name))
}

// pick chooses the target and the model's name there: the gateway knows models as creator/model, a provider by its own
// name. Where the gateway may be used and none is configured, the direct route serves: what the plan calls legacy.
func (c *call) pick(gateway bool, name string, m *metering.Model) (err error) {
	provider := "openai"
	if m != nil {
		provider = m.Provider
	} else if creator, _, ok := strings.Cut(name, "/"); ok {
		if _, err := c.p.Routes.Pick(false, creator); err == nil {
			provider = creator
		}
	}
	if gateway {
		if c.target, err = c.p.Routes.Pick(true, provider); err == nil {
			c.send = name
			if m != nil {
				c.send = m.GatewayID
			}
			return nil
		}
	}
	if c.target, err = c.p.Routes.Pick(false, provider); err != nil {
		return err
	}
	c.send = strings.TrimPrefix(name, provider+"/")
	if m != nil {
		c.send = m.Name
	}
	return nil
}

// chooseOwner finds the target of a stored response by who made it.
func (c *call) chooseOwner() error {
	id, _, _ := strings.Cut(string(c.rest), "/")
	id, _, _ = strings.Cut(id, "?")
	route, provider, err := c.ownerOf(id)
	if err != nil {
		return err
	}
	c.target, err = c.p.Routes.Named(route, provider)
	return err
}

// ownerOf says where a response of this client was made. Another client's response is answered like one that does not
// exist: with the shared key, the upstream would hand it out.
func (c *call) ownerOf(id string) (route, provider string, err error) {
	if o, ok := c.p.owned.get(id); ok && o.client == c.who.ClientID {
		return o.route, o.provider, nil
	}
	// The row may be on its way: what another replica answered a moment ago reaches the ledger within a second or two.
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	for {
		route, provider, ok, err := c.p.Owners.Owner(ctx, c.who.ClientID, id)
		if err != nil {
			return "", "", unavailable("overloaded", "it could not be checked whose response this is: try again", 2)
		}
		if ok {
			return route, provider, nil
		}
		if c.ep.body == noBody {
			break
		}
		select {
		case <-time.After(500 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		break
	}
	r := notFound("response_not_found", "", fmt.Sprintf("Response with id %q not found.", id))
	if c.ep.body != noBody {
		r.status, r.body.Code, r.body.Param = fasthttp.StatusBadRequest, "previous_response_not_found", "previous_response_id"
	}
	return "", "", r
}
