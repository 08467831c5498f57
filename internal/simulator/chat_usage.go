package simulator

import (
	"fmt"
	"strings"
)

// usageField is the usage object of u as the upstream writes it and the traits spoil it; ok is false where none is sent.
func (a *chatAnswer) usageField(u usage) (value any, ok bool) {
	if a.c.traits.has("no-usage") {
		return nil, false
	}
	return a.c.spoil(a.c.chatUsage(u, a.byok)), true
}

// chatUsage is the five dialects of the same numbers.
func (c *call) chatUsage(u usage, byok bool) object {
	switch c.route {
	case gateway:
		return c.gatewayUsage(u, byok)
	case groq:
		o := object{
			"queue_time", raw("0.018"), "prompt_tokens", u.prompt, "prompt_time", raw("0.002"),
			"completion_tokens", u.output, "completion_time", raw("0.125"), "total_tokens", u.total(), "total_time", raw("0.127"),
		}
		if u.cached > 0 {
			o = o.with("prompt_tokens_details", object{"cached_tokens", u.cached})
		}
		if u.reasoning > 0 {
			o = o.with("completion_tokens_details", object{"reasoning_tokens", u.reasoning})
		}
		return o
	case anthropic:
		return object{
			"completion_tokens", u.output, "prompt_tokens", u.prompt, "total_tokens", u.total(),
			"completion_tokens_details",
			object{},
			"prompt_tokens_details",
			object{},
		}
	case google:
		// What was thought is in the total and nowhere else.
		return object{"completion_tokens", u.output - u.reasoning, "prompt_tokens", u.prompt, "total_tokens", u.total()}
	}
	prompt := object{"cached_tokens", u.cached}
	if u.written > 0 || strings.HasPrefix(c.base, "gpt-6") {
		prompt = prompt.with("cache_write_tokens", u.written)
	}
	return object{
		"prompt_tokens", u.prompt, "completion_tokens", u.output, "total_tokens", u.total(),
		"prompt_tokens_details", prompt.with("audio_tokens", 0),
		"completion_tokens_details",
		object{
			"reasoning_tokens", u.reasoning, "audio_tokens", 0,
			"accepted_prediction_tokens", 0, "rejected_prediction_tokens", 0,
		},
	}
}

// gatewayUsage has the cost as a number; with a key of the tenant's own, the provider's price is in another place.
func (c *call) gatewayUsage(u usage, byok bool) object {
	market := c.market(u)
	cost, upstream := market, any(nil)
	if byok {
		cost, upstream = 0, market
	}
	return object{
		"prompt_tokens", u.prompt, "completion_tokens", u.output, "total_tokens", u.total(), "cost", cost, "is_byok", byok,
		"prompt_tokens_details",
		object{"cached_tokens", u.cached, "audio_tokens", u.audio, "video_tokens", 0},
		"cost_details",
		object{"upstream_inference_cost", upstream, "upstream_inference_prompt_cost", raw("0"), "upstream_inference_completions_cost", raw("0")},
		"completion_tokens_details",
		object{"reasoning_tokens", u.reasoning, "image_tokens", 0},
		"cache_creation_input_tokens", u.written, "market_cost", market, "gateway_cost", cost,
	}
}

// market is the list price of what the answer says it used.
func (c *call) market(u usage) pico {
	if c.traits.has("usage-zero") {
		return 0
	}
	return c.priced.cost(u)
}

// providers are who serves a creator's models at the gateway, the first and the fallback.
func providers(creator string) (first, second string) {
	switch creator {
	case "openai":
		return "openai", "azure"
	case "anthropic":
		return "anthropic", "bedrock"
	case "google":
		return "google", "vertex"
	case "meta":
		return "groq", "bedrock"
	}
	return creator, "simulator"
}

// gatewayMetadata is the block the gateway adds to a message, or to a stream's last delta.
func (a *chatAnswer) gatewayMetadata() object {
	c := a.c
	first, second := providers(c.priced.creator)
	credential := "system"
	cost := c.market(a.usage)
	if a.byok {
		credential, cost = "byok", 0
	}
	slug := c.slug()
	api := slug[strings.IndexByte(slug, '/')+1:]
	attempt := object{
		"provider", first, "internalModelId", first + ":" + api, "providerApiModelId", api, "credentialType", credential,
		"success", true, "startTime", raw("257240.5"), "endTime", raw("260698.9"), "statusCode", 200, "providerResponseId", c.hexID("resp"),
	}
	reason := fmt.Sprintf("Using %s from the routing config", first)
	routing := object{
		"originalModelId", c.model, "resolvedProvider", first, "resolvedProviderApiModelId", api,
		"internalResolvedModelId", first + ":" + api, "fallbacksAvailable",
		list{second},
		"internalReasoning", reason,
		"planningReasoning", reason, "canonicalSlug", slug, "finalProvider", first, "attempts",
		list{attempt},
		"modelAttemptCount", 1,
		"modelAttempts",
		list{object{"modelId", c.model, "canonicalSlug", slug, "success", true, "providerAttemptCount", 1, "providerAttempts", list{attempt}}},
		"totalProviderAttemptCount", 1,
	}
	return object{
		first,
		object{"responseId", c.hexID("resp"), "serviceTier", "default"},
		"gateway",
		object{
			"routing", routing, "cost", cost.String(), "marketCost", c.market(a.usage).String(),
			"generationId", a.id, "billableWebSearchCalls", 0,
		},
	}
}

// slug is the gateway's name of the model that was served.
func (c *call) slug() string {
	if c.traits.has("wrong-model") || c.priced == &unlisted {
		return c.served()
	}
	return c.priced.creator + "/" + c.priced.slug
}
