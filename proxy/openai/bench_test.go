package openai

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf16"
)

// typicalChat is a chat request of about a kibibyte, as an SDK sends it.
var typicalChat = []byte(`{"model":"openai/gpt-6-luna","messages":[{"role":"system","content":"Você é a atendente virtual da Clínica Sorriso. Responda em português, com educação e em no máximo três frases. Nunca prometa horários que não estejam na agenda.\nHorário de atendimento: segunda a sexta, das 8h às 18h."},{"role":"user","content":"Oi, bom dia! Queria marcar uma limpeza para a semana que vem, de preferência na terça à tarde."},{"role":"assistant","content":"Bom dia! Temos terça-feira às 14h30 ou às 16h. Qual prefere?"},{"role":"user","content":"16h, por favor. Posso levar meu filho também?"}],"temperature":0.7,"max_tokens":512,"stream":true,"tools":[{"type":"function","function":{"name":"marcar_consulta","description":"Marca uma consulta na agenda","parameters":{"type":"object","properties":{"data":{"type":"string"},"hora":{"type":"string"}},"required":["data","hora"]}}}],"user":"tenant-7"}`)

// longChat wraps text into a chat request of about n bytes.
func longChat(n int, text string) []byte {
	var b bytes.Buffer
	b.WriteString(`{"model":"openai/gpt-6-luna","stream":true,"messages":[{"role":"user","content":"`)
	for b.Len() < n {
		b.WriteString(text)
	}
	b.WriteString(`"}]}`)
	return b.Bytes()
}

// portugueseWords are as frequent with an accent here as they are in chats of Brazilian shops.
var portugueseWords = strings.Fields(`oi bom dia não consigo falar com a recepção às dez da manhã você pode me ajudar sim claro qual é o seu nome
	meu pedido ainda chegou e o prazo era ontem vou verificar um momento por favor obrigado de nada até mais já está a caminho amanhã
	gostaria marcar uma avaliação para terça à tarde temos horário disponível quanto custa o orçamento fica em reais pode ser parcelado no
	cartão que bom então combinado endereço da clínica é rua das flores número cento e vinte próximo ao metrô`)

// history is a chat of about n bytes: turns of a few sentences, with line ends, quotes and an emoji now and then.
func history(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 2))
	var b strings.Builder
	b.WriteString(`{"model":"openai/gpt-6-luna","messages":[{"role":"system","content":"Você é a atendente da Clínica Sorriso."}`)
	for turn := 0; b.Len() < n; turn++ {
		b.WriteString(`,{"role":"` + []string{"user", "assistant"}[turn%2] + `","content":"`)
		for range 10 + r.IntN(60) {
			b.WriteString(portugueseWords[r.IntN(len(portugueseWords))])
			b.WriteString([]string{" ", " ", " ", " ", " ", " ", ", ", ". ", `\n`, "? "}[r.IntN(10)])
			if r.IntN(25) == 0 {
				b.WriteString([]string{"😊", "R$ 199,00", "“certo”", `\"sim\"`, "🙏🏽"}[r.IntN(5)])
			}
		}
		b.WriteString(`"}`)
	}
	b.WriteString(`]}`)
	return b.String()
}

// onlyASCII writes what is not ASCII as escapes, as Python's json.dumps does.
func onlyASCII(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func imageChat(n int) []byte {
	image := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("\xff\xd8\xff\xe0 a jpeg"), n/16))
	return []byte(`{"model":"openai/gpt-6-luna","messages":[{"role":"user","content":[{"type":"text","text":"O que é isto?"},{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,` + image + `"}}]}]}`)
}

const (
	englishText    = `Please summarise the following conversation between the customer and the clinic, keeping dates and prices.\n`
	portugueseText = `Olá, não consegui falar com a recepção às 10h; a avaliação não está disponível e a situação é urgente, você poderia me ajudar?\n`
	chineseText    = `请总结以下客户与诊所之间的对话,保留日期和价格。`
	quotedText     = `{\"name\":\"Ana\",\"phone\":\"x\",\"note\":\"linha\\n\"}`
)

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"chat1KiB", typicalChat},
		{"english32KiB", longChat(32<<10, englishText)},
		{"portuguese32KiB", longChat(32<<10, portugueseText)},
		{"chinese32KiB", longChat(32<<10, chineseText)},
		{"quoted32KiB", longChat(32<<10, quotedText)},
		{"turns32KiB", []byte(`{"model":"m","messages":[` + strings.Repeat(`{"role":"user","content":"E amanhã às 10h, pode ser? Não consigo outro horário."},`, 400) + `{}]}`)},
		{"image1MiB", imageChat(1 << 20)},
	} {
		b.Run(c.name, func(b *testing.B) {
			var r Request
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Parse(c.body, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParseHistories reads a hundred different chats in turn: the branch predictor learns a single one by heart,
// and then it costs half of what a chat costs that comes once.
func BenchmarkParseHistories(b *testing.B) {
	for _, c := range []struct {
		name string
		make func(seed uint64) string
	}{
		{"1KiB", func(seed uint64) string { return history(seed, 1<<10) }},
		{"32KiB", func(seed uint64) string { return history(seed, 32<<10) }},
		{"ASCII32KiB", func(seed uint64) string { return onlyASCII(history(seed, 25<<10)) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var bodies [100][]byte
			for i := range bodies {
				bodies[i] = []byte(c.make(uint64(i)))
			}
			var r Request
			b.SetBytes(int64(len(bodies[0])))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := Parse(bodies[i%len(bodies)], &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWorst is what a budget costs on top of BenchmarkParse: the bound, and the edits of a limit.
func BenchmarkWorst(b *testing.B) {
	for _, c := range []struct {
		name    string
		body    []byte
		counted bool
	}{
		{"bytes", typicalChat, false},
		{"bytes32KiB", []byte(history(1, 32<<10)), false},
		{"counted1KiB", typicalChat, true},
		{"counted32KiB", []byte(history(1, 32<<10)), true},
	} {
		b.Run(c.name, func(b *testing.B) {
			var r Request
			if err := Parse(c.body, &r); err != nil {
				b.Fatal(err)
			}
			m := Limits{Provider: "openai", Model: "gpt-6-luna", Context: 400_000, MaxOutput: 128_000, Counted: c.counted}
			var edits []Edit
			b.ReportAllocs()
			for b.Loop() {
				r.insert = r.insert[:0]
				w := r.Worst(Chat, &m)
				edits = r.LimitOutput(Chat, "max_tokens", w.Output-1, edits[:0])
			}
		})
	}
}

func BenchmarkReply(b *testing.B) {
	p := Reply{ID: "chatcmpl-1", Model: "openai/gpt-6-luna", Created: 1764000000, Text: "O limite de uso deste mês foi atingido. Volte amanhã."}
	for _, c := range []struct {
		name   string
		append func(dst []byte) []byte
	}{
		{"body", func(dst []byte) []byte { return p.AppendBody(dst, Chat) }},
		{"stream", func(dst []byte) []byte { return p.AppendStream(dst, Chat, true) }},
		{"responses", func(dst []byte) []byte { return p.AppendStream(dst, Responses, true) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = c.append(dst[:0])
			}
		})
	}
}

func BenchmarkAimAt(b *testing.B) {
	var r Request
	if err := Parse(typicalChat, &r); err != nil {
		b.Fatal(err)
	}
	var edits []Edit
	out := make([]byte, 0, 2*len(typicalChat))
	b.ReportAllocs()
	for b.Loop() {
		r.insert = r.insert[:0]
		edits = r.AimAt("groq/openai/gpt-oss-120b", true, edits[:0])
		out = AppendEdited(out[:0], typicalChat, edits)
	}
}

// ordinaryChunk is a delta as OpenAI sends it when usage was asked for.
const ordinaryChunk = `{"id":"chatcmpl-Cx1yZ2abcDEF3ghiJKL4mnoPQR5st","object":"chat.completion.chunk","created":1764000000,"model":"gpt-6-luna-2026-09-01","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" amanhã"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"a1B2c3D4"}`

// gatewayChunk is a delta as the Vercel gateway sends it.
const gatewayChunk = `{"id":"gen_01KKHTABCDEFGHJKMNPQRSTVWX","object":"chat.completion.chunk","created":1773346188,"model":"openai/gpt-5","choices":[{"index":0,"delta":{"content":"Olá"},"logprobs":null,"finish_reason":null}],"system_fingerprint":"fp_01"}`

// finishChunk is the gateway's last, with usage and its block.
const finishChunk = `{"id":"gen_01KKHTABCDEFGHJKMNPQRSTVWX","object":"chat.completion.chunk","created":1773346188,"model":"openai/gpt-5","choices":[{"index":0,"delta":{"provider_metadata":{"openai":{"responseId":"resp_1","serviceTier":"default"},"gateway":{"routing":{"originalModelId":"openai/gpt-5","resolvedProvider":"openai","resolvedProviderApiModelId":"gpt-5-2025-08-07","fallbacksAvailable":["azure"],"canonicalSlug":"openai/gpt-5","finalProvider":"openai","attempts":[{"provider":"openai","credentialType":"system","success":true,"startTime":257240.5,"endTime":260698.9,"statusCode":200}]},"cost":"0.00159375","marketCost":"0.00159375","generationId":"gen_01KKHT"}}},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":124,"total_tokens":143,"cost":0.00159375,"is_byok":false,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"cost_details":{"upstream_inference_cost":null},"completion_tokens_details":{"reasoning_tokens":64}},"system_fingerprint":"fp_01","generationId":"gen_01KKHT"}`

func BenchmarkStream(b *testing.B) {
	for _, c := range []struct {
		name  string
		hide  bool
		chunk string
	}{
		{"ordinary", false, ordinaryChunk},
		{"ordinary,hidden", true, ordinaryChunk},
		{"gateway,hidden", true, gatewayChunk},
		{"finish,hidden", true, finishChunk},
	} {
		b.Run(c.name, func(b *testing.B) {
			var s Stream
			var rd Reading
			s.Init(Chat, c.hide, &rd)
			p := []byte("data: " + c.chunk + "\n\n")
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				s.Feed(p)
			}
		})
	}
}

func BenchmarkReadEvent(b *testing.B) {
	for _, c := range []struct{ name, chunk string }{{"ordinary", ordinaryChunk}, {"gateway", gatewayChunk}, {"finish", finishChunk}} {
		b.Run(c.name, func(b *testing.B) {
			var rd Reading
			data := []byte(c.chunk)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				rd.ReadEvent(Chat, data)
			}
		})
	}
}

// gatewayAnswer is a short answer as the Vercel gateway sends it: most of it is the gateway's own record.
var gatewayAnswer = `{"id":"gen_01KAPZ4M9V6W3T8R2X5Y7Q1B0C","object":"chat.completion","created":1763812345,"model":"openai/gpt-5","choices":[{"index":0,"message":{"role":"assistant","content":"` +
	strings.Repeat("Claro, posso ajudar com isso. ", 10) + `","provider_metadata":{"openai":{"responseId":"resp_68f0c5d2a1b48190","serviceTier":"default"},"gateway":{"routing":{"originalModelId":"openai/gpt-5","resolvedProvider":"openai","resolvedProviderApiModelId":"gpt-5-2025-08-07","internalResolvedModelId":"openai:gpt-5-2025-08-07","fallbacksAvailable":["azure"],"internalReasoning":"Selected openai as preferred provider","planningReasoning":"System credentials planned for: openai, azure","canonicalSlug":"openai/gpt-5","finalProvider":"openai","attempts":[{"provider":"openai","internalModelId":"openai:gpt-5-2025-08-07","providerApiModelId":"gpt-5-2025-08-07","credentialType":"system","success":true,"startTime":257240.5,"endTime":260698.9,"statusCode":200}],"modelAttemptCount":1,"totalProviderAttemptCount":1},"cost":"0.00190375","marketCost":"0.00190375","generationId":"gen_01KAPZ4M9V6W3T8R2X5Y7Q1B0C","billableWebSearchCalls":0}}},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":219,"completion_tokens":124,"total_tokens":343,"cost":0.00190375,"is_byok":false,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0,"video_tokens":0},"cost_details":{"upstream_inference_cost":null,"upstream_inference_prompt_cost":0,"upstream_inference_completions_cost":0},"completion_tokens_details":{"reasoning_tokens":64,"image_tokens":0},"cache_creation_input_tokens":0,"market_cost":0.00190375},"system_fingerprint":"fp_68f0c5d2a1","service_tier":"default","generationId":"gen_01KAPZ4M9V6W3T8R2X5Y7Q1B0C"}`

func BenchmarkReadBody(b *testing.B) {
	usage := `"usage":{"prompt_tokens":19,"completion_tokens":124,"total_tokens":143}}`
	answer := func(text string) string {
		return `{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-6-luna","choices":[{"index":0,"message":{"role":"assistant","content":"` + text + `"},"finish_reason":"stop"}],` + usage
	}
	for _, c := range []struct {
		name string
		kind Kind
		body string
	}{
		{"chat1KiB", Chat, answer(strings.Repeat("não é? ", 120))},
		{"gateway2KiB", Chat, gatewayAnswer},
		{"chat32KiB", Chat, answer(strings.Repeat(portugueseText, 250))},
		{"embeddings32KiB", Embeddings, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[` + strings.Repeat("-0.012345678,", 2600) + `0.1]}],"model":"text-embedding-3-small",` + usage},
		{"image1MiB", Images, `{"created":1,"data":[{"b64_json":"` + strings.Repeat("iVBORw0KGgoAAAAN", 1<<16) + `"}],` + usage},
	} {
		b.Run(c.name, func(b *testing.B) {
			var rd Reading
			body := []byte(c.body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				rd.Reset()
				rd.ReadBody(c.kind, body)
			}
			if !rd.HasUsage || !rd.Complete {
				b.Fatal("not read")
			}
		})
	}
}
