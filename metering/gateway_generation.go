package metering

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/catraca/catraca/internal/money"
)

// Generation is what the gateway knows of one call by its id, after the call has ended.
type Generation struct {
	ID                                           string
	Input, Output, Cached, CacheWrite, Reasoning int64
	USD                                          money.Pico // the gateway's figure, with the provider's share where the tenant's own key paid that
	HasUSD                                       bool
}

// blank says that there is nothing on it: a call that never came to anything, or one that is not booked yet.
func (g *Generation) blank() bool { return g.Input == 0 && g.Output == 0 && g.USD == 0 }

// What a gateway may answer instead of a generation.
var (
	// ErrNoGeneration: it does not know this id, by now.
	ErrNoGeneration = errors.New("the gateway does not know this generation")
	// ErrBadGeneration: it answered, and not in a way that a bill can be made of.
	ErrBadGeneration = errors.New("the gateway's answer about a generation cannot be used")
)

// Generations is whom a Corrector asks. An error that is neither ErrNoGeneration nor ErrBadGeneration has nothing to do
// with the id that was asked about: the gateway cannot be reached, is overloaded or refuses the key.
type Generations interface {
	Generation(ctx context.Context, id string) (Generation, error)
}

// GatewayGenerations asks the gateway itself.
type GatewayGenerations struct {
	client *http.Client
	url    string
	key    string
}

var _ Generations = (*GatewayGenerations)(nil)

// NewGatewayGenerations asks the gateway at baseURL, which ends where "/generation" follows. A nil client is
// http.DefaultClient.
func NewGatewayGenerations(client *http.Client, baseURL, key string) *GatewayGenerations {
	if client == nil {
		client = http.DefaultClient
	}
	return &GatewayGenerations{client: client, url: strings.TrimSuffix(baseURL, "/") + "/generation?id=", key: key}
}

// Generation implements Generations.
func (g *GatewayGenerations) Generation(ctx context.Context, id string) (Generation, error) {
	body, err := getWith(ctx, g.client, g.url+url.QueryEscape(id), g.key)
	var status statusError
	switch {
	case err == nil:
		return parseGeneration(body, id)
	case errors.As(err, &status):
		switch int(status) {
		case http.StatusNotFound, http.StatusGone:
			return Generation{}, ErrNoGeneration
		case http.StatusBadRequest, http.StatusUnprocessableEntity: // an id that it takes for none
			return Generation{}, fmt.Errorf("%w: it %w", ErrBadGeneration, err)
		case http.StatusUnauthorized, http.StatusForbidden:
			return Generation{}, fmt.Errorf("the gateway %w: is its key still in force? See AI_GATEWAY_API_KEY", err)
		}
		return Generation{}, fmt.Errorf("the gateway %w", err)
	}
	return Generation{}, fmt.Errorf("the gateway was asked about a generation: %w", withoutURL(err))
}

// withoutURL takes the address off an error of net/http: the log line is long enough, and ids have no place in it.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// parseGeneration reads {"data":{…}}. Every field may be missing but the counts, and every one may be wrong.
func parseGeneration(body []byte, id string) (Generation, error) {
	bad := func(what string) (Generation, error) {
		return Generation{}, fmt.Errorf("%w: %s", ErrBadGeneration, what)
	}
	if !gjson.ValidBytes(body) {
		return bad("it is not JSON")
	}
	data := gjson.GetBytes(body, "data")
	if !data.IsObject() {
		return bad("it has no data")
	}
	if of := data.Get("id"); of.Str != id {
		return bad("it is about another id")
	}
	g := Generation{ID: id}
	counts := map[string]int64{}
	for _, name := range []string{
		"tokens_prompt", "tokens_completion", "native_tokens_prompt", "native_tokens_completion",
		"native_tokens_cached", "native_tokens_cache_creation", "native_tokens_reasoning",
	} {
		n, ok := tokenCount(data.Get(name))
		if !ok {
			return bad(name + " is no count")
		}
		counts[name] = n
	}
	// The native counts are the provider's own, by which it bills; the others may be another tokenizer's.
	g.Input, g.Output = counts["native_tokens_prompt"], counts["native_tokens_completion"]
	if g.Input == 0 && g.Output == 0 {
		g.Input, g.Output = counts["tokens_prompt"], counts["tokens_completion"]
	}
	g.Cached, g.CacheWrite, g.Reasoning = counts["native_tokens_cached"], counts["native_tokens_cache_creation"], counts["native_tokens_reasoning"]
	// As in answers: what is a part is never more than the whole, whichever way the provider counts.
	g.Input, g.Output = max(g.Input, g.Cached+g.CacheWrite), max(g.Output, g.Reasoning)

	total, known, ok := dollars(data.Get("total_cost"))
	if !ok {
		return bad("total_cost is no amount")
	}
	share, shareKnown, ok := dollars(data.Get("upstream_inference_cost"))
	if !ok {
		return bad("upstream_inference_cost is no amount")
	}
	if data.Get("is_byok").Bool() {
		// The provider charged the tenant's own key, and its price stands beside the total.
		if total, ok = total.Add(share); !ok {
			return bad("its costs do not fit")
		}
		known = known && shareKnown
	}
	if known {
		g.USD, g.HasUSD = total, true
	}
	if !known && g.Input == 0 && g.Output == 0 {
		return bad("it has neither counts nor a cost")
	}
	return g, nil
}

// tokenCount reads a whole number that may be absent, and may be written 19.0.
func tokenCount(v gjson.Result) (n int64, ok bool) {
	switch v.Type {
	case gjson.Null:
		return 0, true
	case gjson.Number:
		raw := strings.TrimSuffix(v.Raw, ".0")
		n, err := strconv.ParseInt(raw, 10, 64)
		return n, err == nil && n >= 0 && n <= maxCount
	}
	return 0, false
}

// dollars reads an amount that may be absent: a number, or a decimal number in a text, taken from its digits.
func dollars(v gjson.Result) (p money.Pico, known, ok bool) {
	text := v.Raw
	switch v.Type {
	case gjson.Null:
		return 0, false, true
	case gjson.String:
		text = v.Str
	case gjson.Number:
	default:
		return 0, false, false
	}
	p, err := money.Parse(text)
	return p, true, err == nil && p >= 0
}
