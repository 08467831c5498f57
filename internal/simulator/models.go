package simulator

import (
	"net/http"
	"slices"
	"strings"
	"sync"
)

// generation is what the gateway remembers of one call.
type generation struct {
	id       string
	model    string
	provider string
	streamed bool
	byok     bool
	finish   string
	used     usage
	market   pico
	created  int64
}

// generationsKept bounds what GET generation can find; the oldest go first.
const generationsKept = 65_536

type generationStore struct {
	mu    sync.Mutex
	byID  map[string]generation
	order []string
}

func (g *generationStore) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.byID, g.order = nil, nil
}

func (g *generationStore) keep(one generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byID == nil {
		g.byID = map[string]generation{}
	}
	if _, known := g.byID[one.id]; !known {
		g.order = append(g.order, one.id)
	}
	g.byID[one.id] = one
	if len(g.order) > generationsKept {
		delete(g.byID, g.order[0])
		g.order = g.order[1:]
	}
}

func (g *generationStore) find(id string) (generation, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one, ok := g.byID[id]
	return one, ok
}

// remember promises that the gateway knows this answer by its id: as soon as it is settled, before the client can see
// its end, with all of it or with what was made until it broke off.
func (c *call) remember(id, finish string, byok bool, u usage) {
	if c.route != gateway {
		return
	}
	provider, _ := providers(c.priced.creator)
	c.settled = func() {
		one := generation{id: id, model: c.slug(), provider: provider, streamed: c.streamed, byok: byok, finish: finish, used: u, created: c.created()}
		if c.outcome != completed {
			one.used, one.finish = c.made, "error"
		}
		one.market = c.market(one.used)
		c.sim.past.keep(one)
	}
}

// generation serves GET generation?id=gen_….
func (c *call) generation() {
	c.begun()
	one, ok := c.sim.past.find(c.r.URL.Query().Get("id"))
	if !ok {
		c.refuse(problem{status: http.StatusNotFound, kind: "not_found", message: "Generation not found."})
		return
	}
	total, upstream := one.market, pico(0)
	if one.byok {
		total, upstream = 0, one.market
	}
	u := one.used
	c.reply(object{"data", object{
		"id", one.id, "total_cost", total, "upstream_inference_cost", upstream, "usage", total,
		"created_at", isoTime(one.created), "model", one.model, "is_byok", one.byok, "provider_name", one.provider,
		"streamed", one.streamed, "finish_reason", one.finish, "latency", 200, "generation_time", 1500,
		"tokens_prompt", u.prompt, "tokens_completion", u.output, "native_tokens_prompt", u.prompt, "native_tokens_completion", u.output,
		"native_tokens_reasoning", u.reasoning, "native_tokens_cached", u.cached, "native_tokens_cache_creation", u.written,
		"billable_web_search_calls", 0,
	}}, usage{})
}

// credits serves GET credits.
func (c *call) credits() {
	c.begun()
	c.reply(object{"balance", "95.50", "total_used", "4.50"}, usage{})
}

// models serves GET models.
func (c *call) models() {
	c.begun()
	data := list{}
	ids := []string{}
	for i := range catalogue {
		if m := &catalogue[i]; c.offers(m) {
			data, ids = append(data, c.listing(m)), append(ids, m.id())
		}
	}
	if c.route == gateway {
		for _, b := range behaviours {
			m := unlisted
			m.slug = strings.TrimPrefix(b.Example, "sim/")
			data = append(data, c.listing(&m))
		}
	}
	if c.route == anthropic {
		c.reply(object{"data", data, "has_more", false, "first_id", ids[0], "last_id", ids[len(ids)-1]}, usage{})
		return
	}
	c.reply(object{"object", "list", "data", data}, usage{})
}

// offers says whether the upstream serves a model of the catalogue today.
func (c *call) offers(m *model) bool {
	ofGroq := m.creator == "meta" || strings.HasPrefix(m.slug, "gpt-oss") || strings.HasPrefix(m.slug, "whisper-large")
	switch c.route {
	case gateway:
		return !m.retired || m.creator == "meta"
	case groq:
		return ofGroq && !m.retired
	}
	return m.creator == c.route && !ofGroq && !m.retired
}

// oneModel serves GET models/{id}, and at the gateway GET models/{creator}/{model}/endpoints.
func (c *call) oneModel() {
	c.begun()
	id, endpoints := strings.CutSuffix(c.rest, "/endpoints")
	m, known := pricing(strings.TrimPrefix(id, "models/"))
	if !known && c.route == gateway && slices.ContainsFunc(behaviours, func(b Behaviour) bool { return b.Example == id }) {
		copied := unlisted
		copied.slug = strings.TrimPrefix(id, "sim/")
		m, known = &copied, true
	}
	if !known || !c.offers(m) {
		c.model = id
		p := c.standard(http.StatusNotFound)
		c.model = ""
		c.refuse(p)
		return
	}
	if endpoints && c.route == gateway {
		c.reply(object{"data", endpointListing(m)}, usage{})
		return
	}
	c.reply(c.listing(m), usage{})
}

// listing is a model in the upstream's shape.
func (c *call) listing(m *model) object {
	switch c.route {
	case gateway:
		return gatewayListing(m)
	case groq:
		return object{
			"id", m.id(), "object", "model", "created", int64(epoch), "owned_by", m.creator, "active", true,
			"context_window", m.context, "public_apps", nil, "max_completion_tokens", m.maximum,
		}
	case anthropic:
		return object{"type", "model", "id", m.id(), "display_name", m.slug, "created_at", isoTime(epoch)}
	case google:
		return object{"id", "models/" + m.id(), "object", "model", "owned_by", "google", "display_name", m.slug}
	}
	o := object{"id", m.id(), "object", "model", "created", int64(epoch), "owned_by", "system"}
	if m.shutdown != "" {
		o = o.with("shutdown_date", m.shutdown)
	}
	return o
}

// gatewayListing has prices as decimal strings, in dollars a token.
func gatewayListing(m *model) object {
	o := object{
		"id", m.creator + "/" + m.slug, "object", "model", "created", int64(epoch), "released", int64(epoch), "owned_by", m.creator,
		"name", m.slug, "description", "Modelo simulado.", "context_window", m.context, "max_tokens", m.maximum, "type", m.kind,
	}
	tags := list{}
	if m.kind == "language" {
		tags = append(tags, "tool-use", "vision")
	}
	if m.reasons {
		tags = append(tags, "reasoning")
	}
	if m.at.cached > 0 {
		tags = append(tags, "implicit-caching")
	}
	return o.with("tags", tags).with("pricing", m.listPrices("input", "output"))
}

// listPrices names the prices as asked; the two listings of the gateway disagree on two of the names.
func (m *model) listPrices(input, output string) object {
	o := object{}
	add := func(name string, price, long pico) {
		if price == 0 {
			return
		}
		o = o.with(name, price.String())
		if m.above > 0 {
			// The lower bound is in the tier, the upper one is not.
			o = o.with(name+"_tiers", list{object{"cost", price.String(), "min", 0, "max", m.above + 1}, object{"cost", long.String(), "min", m.above + 1}})
		}
	}
	add(input, m.at.input, m.long.input)
	add(output, m.at.output, m.long.output)
	add("input_cache_read", m.at.cached, m.long.cached)
	add("input_cache_write", m.at.write, m.long.write)
	add("image", m.perImage, m.perImage)
	return o
}

func endpointListing(m *model) object {
	first, _ := providers(m.creator)
	prices := m.listPrices("prompt", "completion").with("request", "0").with("discount", 0)
	return object{
		"id", m.creator + "/" + m.slug, "name", m.slug, "created", int64(epoch), "released", int64(epoch), "description", "Modelo simulado.",
		"architecture",
		object{"modality", "text->text", "input_modalities", list{"text"}, "output_modalities", list{"text"}},
		"endpoints",
		list{object{
			"name", first + " | " + m.slug, "model_name", m.slug, "context_length", m.context, "pricing", prices,
			"provider_name", first, "tag", first, "max_completion_tokens", m.maximum, "supported_parameters",
			list{"max_tokens", "temperature", "stop", "tools"},
			"status", 0, "uptime_last_15m", raw("100"), "uptime_last_1h", raw("100"), "uptime_last_1d", raw("99.99"), "supports_implicit_caching", m.at.cached > 0,
		}},
	}
}
