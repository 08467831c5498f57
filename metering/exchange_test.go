package metering

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/catraca/catraca/internal/money"
)

// fakeBanks is the two sources, answering as a test says.
type fakeBanks struct {
	mu       sync.Mutex
	ptax     func(*http.Request) (int, string)
	erAPI    func(*http.Request) (int, string)
	ptaxAt   []time.Time
	erAPIAt  []time.Time
	lastPTAX string // URL
}

func (f *fakeBanks) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var status int
	var body string
	if strings.Contains(r.URL.Host, "bcb") {
		f.ptaxAt, f.lastPTAX = append(f.ptaxAt, time.Now()), r.URL.String()
		status, body = f.ptax(r)
	} else {
		f.erAPIAt = append(f.erAPIAt, time.Now())
		status, body = f.erAPI(r)
	}
	if status == 0 {
		<-r.Context().Done() // a source that hangs
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (f *fakeBanks) set(ptax, erAPI func(*http.Request) (int, string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ptax != nil {
		f.ptax = ptax
	}
	if erAPI != nil {
		f.erAPI = erAPI
	}
}

func (f *fakeBanks) calls() (ptax, erAPI int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ptaxAt), len(f.erAPIAt)
}

// asked is the last question to PTAX and when all were put.
func (f *fakeBanks) asked() (last string, at []time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastPTAX, slices.Clone(f.ptaxAt)
}

func says(status int, body string) func(*http.Request) (int, string) {
	return func(*http.Request) (int, string) { return status, body }
}

func ptaxSays(rate, at string) func(*http.Request) (int, string) {
	return says(200, `{"@odata.context":"x","value":[{"cotacaoCompra":1.0,"cotacaoVenda":`+rate+`,"dataHoraCotacao":"`+at+`"}]}`)
}

func erAPISays(rate string) func(*http.Request) (int, string) {
	return func(*http.Request) (int, string) {
		midnight := time.Now().UTC().Truncate(24 * time.Hour)
		return 200, fmt.Sprintf(`{"result":"success","time_last_update_unix":%d,"time_next_update_unix":%d,"time_eol_unix":0,"base_code":"USD","rates":{"USD":1,"AED":3.6725,"BRL":%s}}`,
			midnight.Unix()+151, midnight.Unix()+86400+151, rate)
	}
}

// memoryRates is a RateStore that a test can break.
type memoryRates struct {
	mu   sync.Mutex
	last ExchangeRate
	at   time.Time
	err  error
}

func (m *memoryRates) SaveRate(_ context.Context, r ExchangeRate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.last, m.at = r, time.Now()
	}
	return m.err
}

func (m *memoryRates) LastRate(context.Context) (ExchangeRate, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.at, m.err
}

// rateBubble runs a test of Rates in a bubble whose clock begins on Saturday 2000-01-01 UTC.
func rateBubble(t *testing.T, store RateStore, test func(t *testing.T, r *Rates, f *fakeBanks)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBanks{ptax: says(500, ""), erAPI: says(500, "")}
		r := NewRates(RatesConfig{Store: store, Client: &http.Client{Transport: f}, Log: slog.New(slog.DiscardHandler)})
		test(t, r, f)
	})
}

// run starts r until the bubble ends.
func run(t *testing.T, r *Rates) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

// pass lets time go by and what then happens come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func wantRate(t *testing.T, r *Rates, rate, date, source string) {
	t.Helper()
	got := r.Now()
	gotDate := ""
	if !got.Date.IsZero() {
		gotDate = got.Date.Format(time.DateOnly)
	}
	if got.Rate.String() != rate || gotDate != date || got.Source != source {
		t.Errorf("rate %s of %s from %s, want %s of %s from %s", got.Rate, gotDate, got.Source, rate, date, source)
	}
}

func TestRatesFallback(t *testing.T) {
	rateBubble(t, nil, func(t *testing.T, r *Rates, f *fakeBanks) {
		wantRate(t, r, "5", "", "fallback") // there before anything was fetched: nothing waits
		f.set(says(0, ""), says(0, ""))     // both hang
		run(t, r)
		wantRate(t, r, "5", "", "fallback")
		pass(time.Hour)
		wantRate(t, r, "5", "", "fallback")
		f.set(ptaxSays("6.1935", "1999-12-31 13:03:25.555497"), nil)
		pass(2 * time.Hour)
		wantRate(t, r, "6.1935", "1999-12-31", "ptax") // any distance from the fallback: it is no rate that ever was
	})
}

func TestRatesDaily(t *testing.T) {
	store := &memoryRates{}
	rateBubble(t, store, func(t *testing.T, r *Rates, f *fakeBanks) {
		f.set(func(r *http.Request) (int, string) { // always of the last working day
			day := time.Now().In(brasilia)
			for day.Weekday() == time.Saturday || day.Weekday() == time.Sunday {
				day = day.AddDate(0, 0, -1)
			}
			return ptaxSays("5.14420", day.Format(time.DateOnly)+" 13:03:25.555497")(r)
		}, erAPISays("9"))
		run(t, r)
		wantRate(t, r, "5.1442", "1999-12-31", "ptax")
		if kept, _, err := store.LastRate(t.Context()); err != nil || kept != r.Now() {
			t.Errorf("kept %+v, %v", kept, err)
		}
		// 1999-12-31 21:00 in Brasília. The URL asks for the days before, month first.
		want := "https://olinda.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata/CotacaoDolarPeriodo(dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)" +
			"?@dataInicial='12-23-1999'&@dataFinalCotacao='12-31-1999'&$top=1&$orderby=dataHoraCotacao%20desc&$format=json"
		if got, _ := f.asked(); got != want {
			t.Errorf("asked %s\nwant  %s", got, want)
		}
		// One question a day, some minutes after it is published.
		pass(10*24*time.Hour + time.Minute)
		ptax, erAPI := f.calls()
		if ptax != 11 || erAPI != 0 {
			t.Errorf("%d calls of ptax and %d of er-api in ten days", ptax, erAPI)
		}
		_, asked := f.asked()
		for _, at := range asked[1:] {
			clock := at.In(brasilia)
			if minute := clock.Hour()*60 + clock.Minute(); minute < 13*60+20 || minute > 13*60+41 {
				t.Errorf("asked at %s", clock)
			}
		}
		f.set(ptaxSays("5.2001", "2000-01-11 13:08:00"), nil)
		pass(24 * time.Hour)
		wantRate(t, r, "5.2001", "2000-01-11", "ptax")
	})
}

func TestRatesSecondSource(t *testing.T) {
	rateBubble(t, &memoryRates{}, func(t *testing.T, r *Rates, f *fakeBanks) {
		f.set(says(200, `{"value":[]}`), erAPISays("5.380123"))
		run(t, r)
		wantRate(t, r, "5.380123", "2000-01-01", "er-api")
		pass(23 * time.Hour)
		ptax, erAPI := f.calls()
		if erAPI != 1 || ptax < 20 || ptax > 60 {
			t.Errorf("%d calls of ptax and %d of er-api, which asked to be left alone for the day", ptax, erAPI)
		}
		pass(3 * time.Hour)
		if _, erAPI := f.calls(); erAPI != 2 {
			t.Errorf("%d calls of er-api after its next update", erAPI)
		}
		f.set(ptaxSays("5.4", "2000-01-03 13:03:25"), nil)
		pass(time.Hour + time.Minute)
		wantRate(t, r, "5.4", "2000-01-03", "ptax")

		// PTAX fails for some hours: its rate stays. It fails for more than a day: the other source's is better.
		f.set(says(503, ""), erAPISays("5.5"))
		pass(22 * time.Hour)
		wantRate(t, r, "5.4", "2000-01-03", "ptax")
		pass(26 * time.Hour)
		if r.Now().Source != "er-api" || r.Now().Rate != 550_000_000 {
			t.Errorf("%+v", r.Now())
		}
	})
}

func TestRatesTooManyRequests(t *testing.T) {
	rateBubble(t, nil, func(t *testing.T, r *Rates, f *fakeBanks) {
		f.set(nil, says(429, ""))
		run(t, r)
		pass(20 * time.Minute)
		if ptax, erAPI := f.calls(); erAPI != 1 || ptax < 3 {
			t.Errorf("%d calls of ptax and %d of er-api in the minutes after its 429", ptax, erAPI)
		}
		pass(time.Hour)
		if _, erAPI := f.calls(); erAPI < 2 {
			t.Error("er-api is never asked again")
		}
	})
}

func TestRatesRefusesJumps(t *testing.T) {
	rateBubble(t, &memoryRates{}, func(t *testing.T, r *Rates, f *fakeBanks) {
		f.set(ptaxSays("5.0000", "1999-12-30 13:03:25"), nil)
		run(t, r)
		f.set(ptaxSays("6.51", "1999-12-31 13:03:25"), erAPISays("50.123"))
		pass(48 * time.Hour)
		wantRate(t, r, "5", "1999-12-30", "ptax")
		f.set(ptaxSays("6.50", "1999-12-31 13:03:25"), nil) // just 30 %
		pass(2 * time.Hour)
		wantRate(t, r, "6.5", "1999-12-31", "ptax")
		f.set(ptaxSays("4.54", "2000-01-03 13:03:25"), nil)
		pass(48 * time.Hour)
		wantRate(t, r, "6.5", "1999-12-31", "ptax")
		// A person says that the market really is there.
		if err := r.Set(t.Context(), 450_000_000, time.Now()); err != nil {
			t.Fatal(err)
		}
		wantRate(t, r, "4.5", "2000-01-05", "manual")
		pass(2 * time.Hour)
		wantRate(t, r, "4.54", "2000-01-03", "ptax")
		if err := r.Set(t.Context(), 0, time.Now()); err == nil {
			t.Error("a rate of 0 was taken")
		}
	})
}

func TestRatesAcrossRestarts(t *testing.T) {
	store := &memoryRates{last: ExchangeRate{Rate: 612340000, Date: time.Date(1999, 12, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"}}
	rateBubble(t, store, func(t *testing.T, r *Rates, f *fakeBanks) {
		run(t, r) // both sources fail
		pass(72 * time.Hour)
		wantRate(t, r, "6.1234", "1999-12-20", "ptax")
		f.set(nil, erAPISays("3.1")) // measured by the stored one
		pass(72 * time.Hour)
		wantRate(t, r, "6.1234", "1999-12-20", "ptax")
	})
}

func TestRatesWithABrokenStore(t *testing.T) {
	store := &memoryRates{err: errors.New("disk full")}
	rateBubble(t, store, func(t *testing.T, r *Rates, f *fakeBanks) {
		f.set(ptaxSays("5.1", "1999-12-31 13:03:25"), nil)
		run(t, r)
		wantRate(t, r, "5.1", "1999-12-31", "ptax") // it serves all the same
	})
}

func TestRatesPut(t *testing.T) {
	r := NewRates(RatesConfig{})
	r.Put(ExchangeRate{})
	wantRate(t, r, "5", "", "fallback")
	r.Put(ExchangeRate{Rate: 5 * money.RateUnit, Source: "ptax"})
	wantRate(t, r, "5", "", "ptax")
	if n := testing.AllocsPerRun(100, func() { _ = r.Now() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPTAXAnswers(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		banks := &fakeBanks{ptax: says(200, body)}
		got, err := ptaxSource{&http.Client{Transport: banks}, DefaultPTAXURL}.fetch(t.Context(), time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC))
		if want == "" {
			if err == nil {
				t.Errorf("%s: taken as %+v", body, got)
			}
			return
		}
		if err != nil || got.Rate.String()+" "+got.Date.Format(time.DateOnly) != want || got.Source != "ptax" {
			t.Errorf("%s: %+v, %v; want %s", body, got, err, want)
		}
	}
	one := `{"cotacaoCompra":5.14360,"cotacaoVenda":5.14420,"dataHoraCotacao":"2026-06-19 13:03:25.555497"}`
	f(`{"@odata.context":"https://x","value":[`+one+`]}`, "5.1442 2026-06-19")
	f("/*{\"value\":["+one+"]}*/", "5.1442 2026-06-19")
	f(" /* {\"value\":["+one+"]} */ \n", "5.1442 2026-06-19")
	f(`{"value":[{"cotacaoVenda":5.2,"dataHoraCotacao":"2026-06-18 13:03:25"},`+one+`,{"cotacaoVenda":5.3,"dataHoraCotacao":"2026-06-17 13:03:25"}]}`, "5.1442 2026-06-19")
	f(`{"value":[{"cotacaoVenda":5.12345678901,"dataHoraCotacao":"2026-06-19 13:03:25"}]}`, "5.12345679 2026-06-19")
	f(`{"value":[]}`, "")
	f(`{"value":[{"cotacaoVenda":5.2,"dataHoraCotacao":"2026-06-01 13:03:25"}]}`, "") // it stands still
	f(`{"value":[{"cotacaoVenda":0,"dataHoraCotacao":"2026-06-19 13:03:25"}]}`, "")
	f(`{"value":[{"cotacaoVenda":-5,"dataHoraCotacao":"2026-06-19 13:03:25"}]}`, "")
	f(`{"value":[{"dataHoraCotacao":"2026-06-19 13:03:25"}]}`, "")
	f(`{"value":[{"cotacaoVenda":5.2,"dataHoraCotacao":"today"}]}`, "")
	f(`{"value":[{"cotacaoVenda":1e99,"dataHoraCotacao":"2026-06-19 13:03:25"}]}`, "")
	f(`<html>`, "")
	f(``, "")
}

func TestERAPIAnswers(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f := func(body, want string, next time.Time) {
		t.Helper()
		banks := &fakeBanks{erAPI: says(200, body)}
		got, gotNext, err := erAPISource{&http.Client{Transport: banks}, DefaultERAPIURL}.fetch(t.Context(), now)
		if want == "" {
			if err == nil {
				t.Errorf("%s: taken as %+v", body, got)
			}
			return
		}
		if err != nil || got.Rate.String()+" "+got.Date.Format(time.DateOnly) != want || !gotNext.Equal(next) {
			t.Errorf("%s: %+v, %v, %v; want %s", body, got, gotNext, err, want)
		}
	}
	f(`{"result":"success","base_code":"USD","time_last_update_unix":1795219351,"time_next_update_unix":1795306621,"rates":{"BRL":5.380123}}`,
		"5.380123 2026-11-21", time.Unix(1795306621, 0))
	f(`{"result":"success","base_code":"USD","time_next_update_unix":9999999999,"rates":{"BRL":5.38}}`, "5.38 2026-11-22", now.Add(48*time.Hour))
	f(`{"result":"success","base_code":"USD","rates":{"BRL":5.38}}`, "5.38 2026-11-22", time.Time{})
	f(`{"result":"error","error-type":"unsupported-code"}`, "", time.Time{})
	f(`{"result":"success","base_code":"EUR","rates":{"BRL":6}}`, "", time.Time{})
	f(`{"result":"success","base_code":"USD","rates":{}}`, "", time.Time{})
	f(`{"result":"success","base_code":"USD","rates":{"BRL":"abc"}}`, "", time.Time{})
	f(`{"result":"success","base_code":"USD","time_eol_unix":1795000000,"rates":{"BRL":5}}`, "", time.Time{})
	f(`[]`, "", time.Time{})
}
