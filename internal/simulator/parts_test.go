package simulator

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestWordsAreWholeTokens(t *testing.T) {
	all := append(words[:], closings[:]...)
	for _, word := range all {
		for _, piece := range word {
			want(t, fmt.Sprintf("bytes of %q", piece), len(piece), tokenBytes)
		}
	}
	for _, n := range []int{1, 2, 3, 100, 5000} {
		pieces := prose(7, n)
		want(t, "pieces", len(pieces), n)
		want(t, "split again", len(split(strings.Join(pieces, ""))), n)
	}
	for _, s := range []string{"", "a", "abcd", "abcde", "çççç", "🌊🌊", "a🌊b", "\xff\xfe\xfd\xfc\xfb\xfa", "\x80\x80\x80\x80\x80"} {
		if got := strings.Join(split(s), ""); got != s {
			t.Errorf("split lost something of %q: %q", s, got)
		}
	}
}

func TestJSONText(t *testing.T) {
	for _, s := range []string{"", "a\"b\\c", "\n\t\r\x00\x1f\x7f", "é🌊<>&\u2028", "bad\xffutf"} {
		var back string
		if err := json.Unmarshal(encode(s), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") {
			t.Errorf("%q became %s (%v)", s, encode(s), err)
		}
	}
	want(t, "object", string(encode(object{"a", nil, "b", list{1, int64(2), true, raw("1.0")}, "c", pico(1_900_000_000)})), `{"a":null,"b":[1,2,true,1.0],"c":0.0019}`)
}

func TestPrices(t *testing.T) {
	for _, c := range []struct {
		model string
		used  usage
		cost  string
	}{
		// A recorded answer of the gateway.
		{"google/gemini-2.5-flash", usage{prompt: 5099, cached: 5097, output: 2374}, "0.00608851"},
		{"gpt-4o", usage{prompt: 1_000_000}, "2.5"},
		{"openai/gpt-4o-mini", usage{prompt: 1, output: 1}, "0.00000075"},
		{"gpt-6-luna", usage{prompt: 100, written: 100}, "0.0000125"},
		{"gpt-4o", usage{prompt: 100, written: 100}, "0.00025"},
		{"claude-haiku-5-5", usage{prompt: 100_000, output: 10}, "0.010005"},
		{"claude-haiku-5-5", usage{prompt: 100_001, output: 10}, "0.0500255"},
		{"whisper-1", usage{seconds: 60}, "0.006"},
		{"whisper-large-v3-turbo", usage{seconds: 1}, "0.000011111112"},
		{"tts-1", usage{characters: 1000}, "0.015"},
		{"dall-e-3", usage{images: 2}, "0.08"},
		{"llama-3.3-70b-versatile", usage{prompt: 10, cached: 5, output: 1}, "0.00000669"},
		{"no-such-model", usage{prompt: 1_000_000, output: 1_000_000}, "5"},
	} {
		m, _ := pricing(c.model)
		want(t, c.model, m.cost(c.used).String(), c.cost)
	}
	want(t, "negative", pico(-1_500_000_000_000).String(), "-1.5")
}

func TestInventedJSON(t *testing.T) {
	for schema, wanted := range map[string]string{
		`null`:            `{}`,
		`{"const":5}`:     `5`,
		`{"enum":["x"]}`:  `"x"`,
		`{"type":"null"}`: `null`,
		`{"type":["null","integer"],"minimum":3,"maximum":3}`:                           `3`,
		`{"type":"number","minimum":0.5,"maximum":0.5}`:                                 `0.5`,
		`{"type":"integer","exclusiveMinimum":4,"exclusiveMaximum":6}`:                  `5`,
		`{"type":"integer","multipleOf":7,"minimum":8,"maximum":14}`:                    `14`,
		`{"type":"array","items":{"const":1},"minItems":3}`:                             `[1,1,1]`,
		`{"type":"array","items":{"const":1},"maxItems":1}`:                             `[1]`,
		`{"anyOf":[{"type":"null"},{"const":"a"}]}`:                                     `"a"`,
		`{"allOf":[{"properties":{"a":{"const":1}}},{"properties":{"b":{"const":2}}}]}`: `{"a":1,"b":2}`,
		`{"$ref":"#/$defs/a~1b","$defs":{"a/b":{"const":true}}}`:                        `true`,
		`{"type":"object","properties":{"z":{"const":1},"a":{"const":2}}}`:              `{"z":1,"a":2}`,
		`{"type":"string","maxLength":0}`:                                               `""`,
		`{"type":"object","additionalProperties":{"const":1}}`:                          `{"chave":1}`,
	} {
		want(t, schema, string(invent(json.RawMessage(schema), 3)), wanted)
	}
	if s := string(invent(json.RawMessage(`{"type":"string","minLength":50}`), 3)); len(s) < 52 {
		t.Errorf("too short: %s", s)
	}
	tree := `{"$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"l":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]},"c":{"type":"array","items":{"$ref":"#/$defs/n"}}},"required":["v","l","c"]}},"$ref":"#/$defs/n"}`
	endless := `{"type":"object","properties":{"x":{"$ref":"#"}},"required":["x"]}`
	for _, schema := range []string{tree, endless, `{"$ref":"#/nowhere"}`, `{"$ref":"#"}`, `7`, `true`, `{"type":"array"}`, `{"type":"array","minItems":100000}`, `{"enum":[]}`, `{"properties":{}}`} {
		if b := invent(json.RawMessage(schema), 3); !json.Valid(b) || len(b) > 1<<20 {
			t.Errorf("%s made %d bytes: %.100s", schema, len(b), b)
		}
	}
}

func TestExchange(t *testing.T) {
	b := start(t, Config{})
	er := b.ask("GET", "/_exchange/er-api", "")
	want(t, "rate", er.at(t, "rates", "BRL"), "5.4102")
	want(t, "result", er.at(t, "result"), "success")
	day := func(d string) answer {
		return b.ask("GET", "/_exchange/ptax/CotacaoDolarDia(dataCotacao=@dataCotacao)?@dataCotacao='"+d+"'&$format=json", "")
	}
	friday := day("11-20-2026")
	rate := friday.at(t, "value", 0, "cotacaoVenda")
	want(t, "the same day", day("11-20-2026").at(t, "value", 0, "cotacaoVenda"), rate)
	want(t, "escaped", b.ask("GET", "/_exchange/ptax/CotacaoDolarDia(dataCotacao=@dataCotacao)?"+url.QueryEscape("@dataCotacao")+"="+url.QueryEscape("'11-20-2026'"), "").at(t, "value", 0, "cotacaoVenda"), rate)
	want(t, "in the path", b.ask("GET", "/_exchange/ptax/CotacaoDolarDia(dataCotacao='11-20-2026')", "").at(t, "value", 0, "cotacaoVenda"), rate)
	want(t, "a Sunday", fmt.Sprint(day("11-22-2026").at(t, "value")), "[]")
	period := b.ask("GET", "/_exchange/ptax/CotacaoDolarPeriodo(dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)?@dataInicial='11-13-2026'&@dataFinalCotacao='11-22-2026'&$top=1&$orderby=dataHoraCotacao%20desc&$format=json", "")
	want(t, "latest", period.at(t, "value", 0, "cotacaoVenda"), rate)
	want(t, "entries", len(period.at(t, "value").([]any)), 1)
	want(t, "a bad date", day("2026-11-20").StatusCode, 400)

	b.post("/_exchange", `{"er_api":6.01,"ptax":{"2026-11-20":"5.1442","2026-11-19":""},"published_until":"2026-11-20"}`)
	want(t, "set", day("11-20-2026").at(t, "value", 0, "cotacaoVenda"), "5.1442")
	want(t, "a holiday", fmt.Sprint(day("11-19-2026").at(t, "value")), "[]")
	want(t, "not yet", fmt.Sprint(day("11-23-2026").at(t, "value")), "[]")
	want(t, "set", b.ask("GET", "/_exchange/er-api/v6/latest/USD", "").at(t, "rates", "BRL"), "6.01")
	b.post("/_exchange", `{"commented":true}`)
	want(t, "commented", strings.HasPrefix(string(day("11-20-2026").body), "/*{"), true)
	b.post("/_exchange", `{"status":503}`)
	want(t, "down", day("11-20-2026").StatusCode, 503)
	b.post("/_reset", "")
	want(t, "reset", b.ask("GET", "/_exchange/er-api", "").at(t, "rates", "BRL"), "5.4102")
}
