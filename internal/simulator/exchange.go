package simulator

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// exchange stands in for the two sources of the dollar's price: open.er-api.com under /_exchange/er-api and the central
// bank's PTAX under /_exchange/ptax/…. POST /_exchange changes any of it, a member at a time.
type exchange struct {
	mu  sync.Mutex
	set ExchangeSettings
}

// ExchangeSettings is the body of POST /_exchange; members left out keep their value.
type ExchangeSettings struct {
	// ERAPI is the rate of the exchange-rate API, as a JSON number is written.
	ERAPI json.Number `json:"er_api"`
	// PTAX gives single days (2006-01-02) their own selling rate; an empty one makes the day a holiday.
	PTAX map[string]string `json:"ptax"`
	// PublishedUntil, a day, is the last one PTAX has; empty: all.
	PublishedUntil string `json:"published_until"`
	// Status other than 0 or 200 makes both fail with it.
	Status int `json:"status"`
	// DelayMs passes before every answer.
	DelayMs int `json:"delay_ms"`
	// Commented wraps PTAX answers in /* */, as some clients report.
	Commented bool `json:"commented"`
	// Raw, when not empty, is sent as it stands in place of both answers.
	Raw string `json:"raw"`
	// UpdatedUnix dates the answer of the exchange-rate API; 0: today's midnight, UTC.
	UpdatedUnix int64 `json:"updated_unix"`
}

func (e *exchange) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.set = ExchangeSettings{ERAPI: "5.4102"}
}

// SetExchange replaces the settings of the exchange-rate stand-in.
func (s *Simulator) SetExchange(set ExchangeSettings) {
	s.exchange.mu.Lock()
	defer s.exchange.mu.Unlock()
	s.exchange.set = set
}

func (e *exchange) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	set := e.set
	if r.Method == http.MethodPost {
		defer e.mu.Unlock()
		// Answers under way read the old map.
		set.PTAX = maps.Clone(set.PTAX)
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil {
			http.Error(w, "POST /_exchange takes the settings as JSON: "+err.Error(), http.StatusBadRequest)
			return
		}
		e.set = set
		writeControl(w, set)
		return
	}
	e.mu.Unlock()
	select {
	case <-time.After(time.Duration(set.DelayMs) * time.Millisecond):
	case <-r.Context().Done():
		return
	}
	if set.Status != 0 && set.Status != http.StatusOK {
		http.Error(w, http.StatusText(set.Status), set.Status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	path := strings.TrimPrefix(r.URL.Path, "/_exchange")
	switch {
	case set.Raw != "":
		_, _ = w.Write([]byte(set.Raw))
	case strings.HasPrefix(path, "/er-api"):
		_, _ = w.Write(set.erAPI(time.Now()))
	case strings.HasPrefix(path, "/ptax"):
		set.ptax(w, r)
	case path == "":
		writeControl(w, set)
	default:
		http.NotFound(w, r)
	}
}

// erAPI is the answer of GET v6/latest/USD.
func (set ExchangeSettings) erAPI(now time.Time) []byte {
	updated := set.UpdatedUnix
	if updated == 0 {
		updated = now.UTC().Truncate(24 * time.Hour).Unix()
	}
	next := updated + 86_400
	date := func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC1123Z) }
	return encode(object{
		"result", "success", "provider", "https://www.exchangerate-api.com", "documentation", "https://www.exchangerate-api.com/docs/free",
		"terms_of_use", "https://www.exchangerate-api.com/terms", "time_last_update_unix", updated, "time_last_update_utc", date(updated),
		"time_next_update_unix", next, "time_next_update_utc", date(next), "time_eol_unix", 0, "base_code", "USD",
		"rates",
		object{"USD", 1, "BRL", raw(set.ERAPI), "EUR", raw("0.8612"), "ARS", raw("1435.5")},
	})
}

// ptax answers CotacaoDolarDia and CotacaoDolarPeriodo; days without trading have no entry.
func (set ExchangeSettings) ptax(w http.ResponseWriter, r *http.Request) {
	const layout = "01-02-2006"
	from, errFrom := time.Parse(layout, argument(r, "@dataCotacao", "@dataInicial", "dataCotacao", "dataInicial"))
	to, errTo := from, error(nil)
	if strings.Contains(r.URL.Path, "CotacaoDolarPeriodo") {
		to, errTo = time.Parse(layout, argument(r, "@dataFinalCotacao", "dataFinalCotacao"))
	} else if !strings.Contains(r.URL.Path, "CotacaoDolarDia") {
		http.NotFound(w, r)
		return
	}
	if errFrom != nil || errTo != nil || to.Sub(from) > 3660*24*time.Hour {
		http.Error(w, `{"codigo":400,"mensagem":"Erro: data inválida, use 'MM-DD-AAAA'"}`, http.StatusBadRequest)
		return
	}
	values := list{}
	for day := from; !day.After(to); day = day.AddDate(0, 0, 1) {
		if v, ok := set.quote(day); ok {
			values = append(values, v)
		}
	}
	if strings.Contains(r.URL.Query().Get("$orderby"), "desc") {
		for i, j := 0, len(values)-1; i < j; i, j = i+1, j-1 {
			values[i], values[j] = values[j], values[i]
		}
	}
	if top, err := strconv.Atoi(r.URL.Query().Get("$top")); err == nil && top >= 0 {
		values = values[:min(top, len(values))]
	}
	b := encode(object{"@odata.context", "https://was-p.bcnet.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata$metadata#_CotacaoDolarDia", "value", values})
	if set.Commented {
		b = []byte("/*" + string(b) + "*/")
	}
	_, _ = w.Write(b)
}

// quote is one day's closing rate: the one that was set, or one that follows from the date.
func (set ExchangeSettings) quote(day time.Time) (object, bool) {
	key := day.Format(time.DateOnly)
	sell, fixed := set.PTAX[key]
	weekend := day.Weekday() == time.Saturday || day.Weekday() == time.Sunday
	if fixed && sell == "" || !fixed && weekend || set.PublishedUntil != "" && key > set.PublishedUntil {
		return nil, false
	}
	buy := sell
	if !fixed {
		d := seeded(0, []byte(key))
		tenThousandths := 53_000 + d.below(4_000)
		sell, buy = fmt.Sprintf("%d.%04d0", tenThousandths/10_000, tenThousandths%10_000), fmt.Sprintf("%d.%04d0", (tenThousandths-6)/10_000, (tenThousandths-6)%10_000)
	}
	return object{"cotacaoCompra", raw(buy), "cotacaoVenda", raw(sell), "dataHoraCotacao", key + " 13:03:25.555497"}, true
}

// argument reads a date as OData writes it, in the query or in the parentheses of the path, without its quotes.
func argument(r *http.Request, names ...string) string {
	for _, name := range names {
		if v := r.URL.Query().Get(name); v != "" {
			return strings.Trim(v, "'")
		}
	}
	_, inside, _ := strings.Cut(r.URL.Path, "(")
	inside = strings.TrimSuffix(inside, ")")
	for _, pair := range strings.Split(inside, ",") {
		for _, name := range names {
			if v, ok := strings.CutPrefix(strings.TrimSpace(pair), name+"="); ok && !strings.HasPrefix(v, "@") {
				return strings.Trim(v, "'")
			}
		}
	}
	return ""
}

// isoTime writes Unix seconds as the upstreams' management answers do.
func isoTime(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02T15:04:05.000Z") }
