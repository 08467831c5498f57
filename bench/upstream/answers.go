package main

import "strings"

// The answers have the shape and the size of what the gateway sends: the routing record inside the message or the finish
// chunk, the cost there as a decimal string and in usage as a number.
const (
	genID   = "gen_01KAPZ4M9V6W3T8R2X5Y7Q1B0C"
	routing = `{"originalModelId":"openai/gpt-5","resolvedProvider":"openai","resolvedProviderApiModelId":"gpt-5-2025-08-07",` +
		`"internalResolvedModelId":"openai:gpt-5-2025-08-07","fallbacksAvailable":["azure"],"internalReasoning":"Selected openai as preferred provider",` +
		`"planningReasoning":"System credentials planned for: openai, azure","canonicalSlug":"openai/gpt-5","finalProvider":"openai",` +
		`"attempts":[{"provider":"openai","internalModelId":"openai:gpt-5-2025-08-07","providerApiModelId":"gpt-5-2025-08-07",` +
		`"credentialType":"system","success":true,"startTime":257240.5,"endTime":260698.9,"statusCode":200}],"modelAttemptCount":1,"totalProviderAttemptCount":1}`
	gatewayMeta = `{"openai":{"responseId":"resp_68f0c5d2a1b48190","serviceTier":"default"},"gateway":{"routing":` + routing +
		`,"cost":"0.00190375","marketCost":"0.00190375","generationId":"` + genID + `","billableWebSearchCalls":0}}`
	usage = `{"prompt_tokens":219,"completion_tokens":124,"total_tokens":343,"cost":0.00190375,"is_byok":false,` +
		`"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0,"video_tokens":0},` +
		`"cost_details":{"upstream_inference_cost":null,"upstream_inference_prompt_cost":0,"upstream_inference_completions_cost":0},` +
		`"completion_tokens_details":{"reasoning_tokens":64,"image_tokens":0},"cache_creation_input_tokens":0,"market_cost":0.00190375}`
	tail       = `"system_fingerprint":"fp_68f0c5d2a1","service_tier":"default","generationId":"` + genID + `"}`
	chunkStart = `data: {"id":"` + genID + `","object":"chat.completion.chunk","created":1763812345,"model":"openai/gpt-5","choices":[{"index":0,"delta":`
	chunkEnd   = `,"logprobs":null,"finish_reason":null}],"system_fingerprint":"fp_68f0c5d2a1"}` + "\n\n"
)

var (
	plainAnswer = []byte(`{"id":"` + genID + `","object":"chat.completion","created":1763812345,"model":"openai/gpt-5","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"` + strings.Repeat("Claro, posso ajudar com isso. ", 10) + `",` +
		`"provider_metadata":` + gatewayMeta + `},"logprobs":null,"finish_reason":"stop"}],"usage":` + usage + `,` + tail)

	roleChunk    = chunkStart + `{"role":"assistant"}` + chunkEnd
	contentChunk = chunkStart + `{"content":" resposta"}` + chunkEnd
	finishChunk  = chunkStart + `{"provider_metadata":` + gatewayMeta + `},"logprobs":null,"finish_reason":"stop"}],"usage":` + usage + `,` + tail + "\n\n"
	doneChunk    = "data: [DONE]\n\n"
)
