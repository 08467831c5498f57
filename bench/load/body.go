package main

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// buildRequest gives the bytes of one whole request, head and body. The fields that steer the upstream stand first.
func buildRequest(o Options, host string) []byte {
	body := buildBody(o)
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\nUser-Agent: OpenAI/JS 6.9.1\r\n"+
		"Authorization: Bearer %s\r\nContent-Type: application/json\r\nX-Stainless-Lang: js\r\nX-Stainless-Runtime: node\r\n"+
		"Content-Length: %d\r\n\r\n%s", o.Path, host, o.Key, len(body), body)
}

// buildBody gives a chat request of o.BodyBytes bytes: text of a prompt, or an image as a data URL.
func buildBody(o Options) string {
	start := fmt.Sprintf(`{"model":%q,`, o.Model)
	switch o.Mode {
	case "stream":
		start += fmt.Sprintf(`"stream":true,"bench_chunks":%d,"bench_every_ms":%d,`, o.Chunks, o.EveryMillis)
	case "held":
		start += fmt.Sprintf(`"stream":true,"bench_chunks":%d,"bench_every_ms":%d,`, 1<<30, o.EveryMillis)
	}
	start += `"max_tokens":400,"temperature":0.7,"messages":[{"role":"system","content":"Você é o atendente da loja. Responda em português, com cortesia."},`
	var open, end string
	var fill func(n int) string
	if o.Mode == "image" {
		open = `{"role":"user","content":[{"type":"text","text":"O que há nesta foto?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,`
		end = `"}}]}]}`
		fill = base64Of
	} else {
		open = `{"role":"user","content":"`
		end = `"}]}`
		fill = promptOf
	}
	return start + open + fill(o.BodyBytes-len(start)-len(open)-len(end)) + end
}

// promptOf gives n bytes of prompt, with the escapes and the accents that real prompts have.
func promptOf(n int) string {
	const line = `Cliente perguntou: \"qual é o prazo de entrega?\"\nPedido 4711, três itens, frete grátis acima de R$ 199,00. `
	var b strings.Builder
	for b.Len()+len(line) <= n {
		b.WriteString(line)
	}
	for b.Len() < n {
		b.WriteByte('.')
	}
	return b.String()
}

// base64Of gives n bytes of base64 that do not repeat within a cache line, from a fixed linear generator.
func base64Of(n int) string {
	raw := make([]byte, max(n, 0)/4*3)
	x := uint32(20261122)
	for i := range raw {
		x = x*1664525 + 1013904223
		raw[i] = byte(x >> 24)
	}
	return base64.StdEncoding.EncodeToString(raw)
}
