package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/catraca/catraca/internal/money"
)

// answer is what a GET brought.
type answer struct {
	status int
	body   []byte
	took   time.Duration
}

// get asks for an address. Bodies are read up to a size no catalogue of models reaches.
func (d *doctor) get(ctx context.Context, address string, header http.Header) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	began := time.Now()
	response, err := d.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	d.noteClock(request.URL.Hostname(), response.Header.Get("Date"))
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	return answer{response.StatusCode, body, time.Since(began).Round(time.Millisecond)}, err
}

// join puts a path behind a base URL.
func join(base, path string) string { return strings.TrimRight(base, "/") + path }

func bearer(key Secret) http.Header {
	return http.Header{"Authorization": {"Bearer " + key.Reveal()}}
}

// gateway asks for the catalogue, which needs no key.
func (d *doctor) gateway(ctx context.Context) finding {
	if !d.cfg.EnableGateway {
		return skipped("ENABLE_AI_GATEWAY is false")
	}
	p := d.cfg.Gateway()
	got, err := d.get(ctx, join(p.BaseURL, "/models"), nil)
	if err != nil && !p.Key.IsSet() {
		return warning(networkAdvice(p), "%s: %s; it is not needed as long as AI_GATEWAY_API_KEY is not set", p.BaseURL, networkCause(err))
	}
	if err != nil {
		return failure(networkAdvice(p), "%s: %s", p.BaseURL, networkCause(err))
	}
	if n, ok := countModels(got.body); ok && got.status == http.StatusOK {
		return fine("%s lists %d models in %s", p.BaseURL, n, got.took)
	}
	return failure("check "+p.BaseVar+": it must end with /v1", "%s/models answers %d and no list of models", strings.TrimRight(p.BaseURL, "/"), got.status)
}

// gatewayKey asks for the credits, the cheapest call that a wrong key cannot make.
func (d *doctor) gatewayKey(ctx context.Context) finding {
	p := d.cfg.Gateway()
	if !d.cfg.EnableGateway || !p.Key.IsSet() {
		return skipped("AI_GATEWAY_API_KEY is not set or the gateway is switched off")
	}
	got, err := d.get(ctx, join(p.BaseURL, "/credits"), bearer(p.Key))
	switch {
	case err != nil:
		return failure(networkAdvice(p), "%s: %s", p.BaseURL, networkCause(err))
	case got.status == http.StatusUnauthorized || got.status == http.StatusForbidden:
		return failure("make a key in Vercel under AI Gateway, API keys, and put it into AI_GATEWAY_API_KEY", "%s is refused (%d)", p.Key, got.status)
	case got.status != http.StatusOK:
		return warning("try it again; the gateway's own status page may say more", "the gateway answers %d when asked for the credits of %s", got.status, p.Key)
	}
	var credits struct {
		Balance json.RawMessage `json:"balance"`
	}
	if json.Unmarshal(got.body, &credits) == nil && len(credits.Balance) > 0 {
		text := strings.Trim(string(credits.Balance), `"`)
		if balance, err := money.Parse(text); err == nil && balance <= 0 {
			return warning("add credits in Vercel, or bring your own provider keys there", "%s is accepted, its balance is US$ %s", p.Key, balance)
		} else if err == nil {
			return fine("%s is accepted, its balance is US$ %s", p.Key, balance)
		}
	}
	return fine("%s is accepted", p.Key)
}

// provider lists the models with the key, which costs nothing.
func (d *doctor) provider(ctx context.Context, p Provider) finding {
	if !p.Key.IsSet() {
		return skipped("%s is not set", p.KeyVar)
	}
	header := bearer(p.Key)
	if p.Name == "anthropic" {
		// The list of models is not part of Anthropic's OpenAI-compatible endpoint; its own API wants these two.
		header = http.Header{"X-Api-Key": {p.Key.Reveal()}, "Anthropic-Version": {"2023-06-01"}, "Authorization": header["Authorization"]}
	}
	got, err := d.get(ctx, join(p.BaseURL, "/models"), header)
	switch {
	case err != nil:
		return failure(networkAdvice(p), "%s: %s", p.BaseURL, networkCause(err))
	case got.status == http.StatusUnauthorized || got.status == http.StatusForbidden:
		return failure("check "+p.KeyVar, "%s is refused (%d)", p.Key, got.status)
	case got.status == http.StatusTooManyRequests:
		return warning("look at the limits and the balance of the account", "%s is accepted but out of quota (429)", p.Key)
	case got.status == http.StatusBadRequest && p.Name == "google":
		return failure("check "+p.KeyVar, "%s is refused (Gemini says 400 to a wrong key)", p.Key)
	case got.status != http.StatusOK:
		return failure("check "+p.BaseVar, "%s/models answers %d", strings.TrimRight(p.BaseURL, "/"), got.status)
	}
	n, ok := countModels(got.body)
	if !ok {
		return failure("check "+p.BaseVar, "%s/models answers no list of models", strings.TrimRight(p.BaseURL, "/"))
	}
	return fine("%s is accepted, %d models in %s", p.Key, n, got.took)
}

func networkAdvice(p Provider) string {
	return "allow outgoing connections (or set HTTPS_PROXY), or correct " + p.BaseVar
}

func countModels(body []byte) (int, bool) {
	var list struct {
		Data []json.RawMessage `json:"data"`
	}
	err := json.Unmarshal(body, &list)
	return len(list.Data), err == nil && list.Data != nil
}

// exchangeRate asks the source that is used when PTAX has nothing.
func (d *doctor) exchangeRate(ctx context.Context) finding {
	got, err := d.get(ctx, d.cfg.ExchangeRateURL, nil)
	if err != nil {
		return warning(rateAdvice("CATRACA_EXCHANGE_RATE_URL"), "%s: %s", d.cfg.ExchangeRateURL, networkCause(err))
	}
	var doc struct {
		Rates map[string]json.Number `json:"rates"`
	}
	if err := json.Unmarshal(got.body, &doc); err != nil || got.status != http.StatusOK {
		return warning(rateAdvice("CATRACA_EXCHANGE_RATE_URL"), "%s answers %d and no rates", d.cfg.ExchangeRateURL, got.status)
	}
	rate, err := money.ParseRate(doc.Rates["BRL"].String())
	if err != nil {
		return warning(rateAdvice("CATRACA_EXCHANGE_RATE_URL"), "%s has no rate for BRL", d.cfg.ExchangeRateURL)
	}
	return fine("US$ 1 = R$ %s in %s", rate, got.took)
}

// ptax asks for the newest of the last ten days, because there is none on weekends and holidays.
func (d *doctor) ptax(ctx context.Context) finding {
	now := d.now()
	query := fmt.Sprintf("/CotacaoDolarPeriodo(dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)?@dataInicial=%s&@dataFinalCotacao=%s&$top=1&$orderby=%s&$format=json",
		url.QueryEscape(now.AddDate(0, 0, -10).Format("'01-02-2006'")), url.QueryEscape(now.Format("'01-02-2006'")), "dataHoraCotacao%20desc")
	got, err := d.get(ctx, join(d.cfg.PTAXURL, query), nil)
	if err != nil {
		return warning(rateAdvice("CATRACA_PTAX_URL"), "%s: %s", d.cfg.PTAXURL, networkCause(err))
	}
	var doc struct {
		Value []struct {
			Venda json.Number `json:"cotacaoVenda"`
			At    string      `json:"dataHoraCotacao"`
		} `json:"value"`
	}
	if err := json.Unmarshal(got.body, &doc); err != nil || got.status != http.StatusOK || len(doc.Value) == 0 {
		return warning(rateAdvice("CATRACA_PTAX_URL"), "%s answers %d and no rate", d.cfg.PTAXURL, got.status)
	}
	rate, err := money.ParseRate(doc.Value[0].Venda.String())
	if err != nil {
		return warning(rateAdvice("CATRACA_PTAX_URL"), "%s: %s", d.cfg.PTAXURL, err)
	}
	return fine("US$ 1 = R$ %s, of %.16s, in %s", rate, doc.Value[0].At, got.took)
}

func rateAdvice(variable string) string {
	return "the last known rate stays in use, and the other source is asked; allow outgoing connections, or correct " + variable
}
