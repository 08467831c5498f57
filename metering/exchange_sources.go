package metering

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/catraca/catraca/internal/money"
)

// ptaxSource is the Brazilian central bank.
type ptaxSource struct {
	client *http.Client
	url    string
}

// ptaxDays is how far back to look: no row of weekends and holidays is longer, and an older rate means that the source
// stands still.
const ptaxDays = 8

// fetch gets the newest rate. Weekends, holidays and hours before its publication have none, so a range is asked for.
func (s ptaxSource) fetch(ctx context.Context, now time.Time) (ExchangeRate, error) {
	today := now.In(brasilia)
	url := strings.TrimSuffix(s.url, "/") +
		"/CotacaoDolarPeriodo(dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)?@dataInicial='" +
		today.AddDate(0, 0, -ptaxDays).Format("01-02-2006") + "'&@dataFinalCotacao='" + today.Format("01-02-2006") +
		"'&$top=1&$orderby=dataHoraCotacao%20desc&$format=json"
	body, err := get(ctx, s.client, url)
	if err != nil {
		return ExchangeRate{}, fmt.Errorf("ptax: %w", err)
	}
	// Some clients were sent the body as a comment, a guard of old against JSON being run as a script.
	body = bytes.TrimSpace(body)
	if inner, ok := bytes.CutPrefix(body, []byte("/*")); ok {
		body = bytes.TrimSuffix(bytes.TrimSpace(inner), []byte("*/"))
	}
	var answer struct {
		Value []struct {
			CotacaoVenda    json.Number
			DataHoraCotacao string
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return ExchangeRate{}, fmt.Errorf("ptax: %w", err)
	}
	newest := ExchangeRate{Source: sourcePTAX}
	for _, v := range answer.Value {
		day, _, _ := strings.Cut(v.DataHoraCotacao, " ")
		date, err := time.Parse(time.DateOnly, day)
		if err != nil {
			return ExchangeRate{}, fmt.Errorf("ptax: dataHoraCotacao %.40q has no date", v.DataHoraCotacao)
		}
		if !date.After(newest.Date) {
			continue
		}
		if newest.Rate, err = money.ParseRate(v.CotacaoVenda.String()); err != nil {
			return ExchangeRate{}, fmt.Errorf("ptax: %w", err)
		}
		newest.Date = date
	}
	if newest.Rate == 0 {
		return ExchangeRate{}, fmt.Errorf("ptax: no rate in the %d days before %s", ptaxDays, today.Format(time.DateOnly))
	}
	if newest.Date.Before(dateOf(today.AddDate(0, 0, -ptaxDays))) {
		return ExchangeRate{}, fmt.Errorf("ptax: its newest rate is of %s", newest.Date.Format(time.DateOnly))
	}
	return newest, nil
}

// erAPISource is open.er-api.com, which needs no key and renews its rates once a day.
type erAPISource struct {
	client *http.Client
	url    string
}

// Over-use is answered with 429 for twenty minutes.
const erAPIPause = 21 * time.Minute

// fetch gets the day's rate, and says before when it must not be asked again.
func (s erAPISource) fetch(ctx context.Context, now time.Time) (rate ExchangeRate, next time.Time, err error) {
	body, err := get(ctx, s.client, s.url)
	if err != nil {
		var status statusError
		if errors.As(err, &status) && status == http.StatusTooManyRequests {
			next = now.Add(erAPIPause)
		}
		return ExchangeRate{}, next, fmt.Errorf("er-api: %w", err)
	}
	// Of some 160 rates one is wanted, as it is written: a float could change its last place.
	if !gjson.ValidBytes(body) {
		return ExchangeRate{}, next, errors.New("er-api: the answer is not JSON")
	}
	answer := gjson.ParseBytes(body)
	if result, base := answer.Get("result").Str, answer.Get("base_code").Str; result != "success" || base != "USD" {
		return ExchangeRate{}, next, fmt.Errorf("er-api: result %.40q, base %.8q, error %.60q", result, base, answer.Get("error-type").Str)
	}
	if at := answer.Get("time_next_update_unix").Int(); at > 0 {
		// A day's rates are renewed within two days; a date beyond that is a fault that must not silence us for years.
		next = time.Unix(min(at, now.Add(48*time.Hour).Unix()), 0)
	}
	if end := answer.Get("time_eol_unix").Int(); end > 0 && end <= now.Unix() {
		return ExchangeRate{}, next, errors.New("er-api: this endpoint has reached its announced end of life; set CATRACA_EXCHANGE_RATE_URL to its successor")
	}
	rate = ExchangeRate{Source: sourceERAPI, Date: dateOf(now.UTC())}
	if at := answer.Get("time_last_update_unix").Int(); at > 0 {
		rate.Date = dateOf(time.Unix(at, 0).UTC())
	}
	if rate.Rate, err = money.ParseRate(answer.Get("rates.BRL").Raw); err != nil {
		return ExchangeRate{}, next, fmt.Errorf("er-api: BRL: %w", err)
	}
	return rate, next, nil
}

// statusError is an HTTP status other than 200.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("answered with status %d", int(s)) }

// largestAnswer bounds what is read from a source: er-api lists 160 currencies in 4 KB, the gateway's list of models has
// some hundreds of KB.
const largestAnswer = 16 << 20

// get reads a whole answer.
func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	return getWith(ctx, client, url, "")
}

func getWith(ctx context.Context, client *http.Client, url, bearer string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, largestAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > largestAnswer {
		return nil, fmt.Errorf("answered with more than %d bytes", largestAnswer)
	}
	return body, nil
}
