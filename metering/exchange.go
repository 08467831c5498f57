package metering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/catraca/catraca/internal/money"
)

// fallbackRate is used until a rate was fetched once, and marked so on every row that it priced.
const fallbackRate = 5 * money.RateUnit

// RateStore keeps exchange rates.
type RateStore interface {
	SaveRate(ctx context.Context, r ExchangeRate) error
	// LastRate is the one that was saved last, and when; a zero rate when there is none.
	LastRate(ctx context.Context) (r ExchangeRate, savedAt time.Time, err error)
}

// Rates knows the exchange rate of the day. Nothing ever waits for it: a rate is fetched in the background and, until a
// newer one is there, the last one holds, across restarts too.
//
// The accounting rate is the central bank's PTAX, at which it sells. Where that cannot be had, er-api's is used, and
// where neither can, the last one known.
type Rates struct {
	store RateStore // nil: nothing is kept
	ptax  ptaxSource
	erAPI erAPISource
	log   *slog.Logger
	now   atomic.Pointer[heldRate]

	mu        sync.Mutex // held by whoever changes now
	erAPINext time.Time  // er-api asks to be left alone until then
}

type heldRate struct {
	ExchangeRate
	at time.Time // when it was fetched
}

// RatesConfig is what Rates needs. Empty URLs are the public ones.
type RatesConfig struct {
	Store    RateStore    // nil: nothing is kept
	Client   *http.Client // nil: http.DefaultClient
	PTAXURL  string       // up to and with /odata
	ERAPIURL string       // whole
	Log      *slog.Logger // nil: slog.Default()
}

// The public sources.
const (
	DefaultPTAXURL  = "https://olinda.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata"
	DefaultERAPIURL = "https://open.er-api.com/v6/latest/USD"
)

// NewRates makes a Rates that has the fallback until Run or Put gives it a better one.
func NewRates(c RatesConfig) *Rates {
	if c.Client == nil {
		c.Client = http.DefaultClient
	}
	if c.PTAXURL == "" {
		c.PTAXURL = DefaultPTAXURL
	}
	if c.ERAPIURL == "" {
		c.ERAPIURL = DefaultERAPIURL
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	r := &Rates{store: c.Store, ptax: ptaxSource{c.Client, c.PTAXURL}, erAPI: erAPISource{c.Client, c.ERAPIURL}, log: c.Log}
	r.now.Store(&heldRate{ExchangeRate: ExchangeRate{Rate: fallbackRate, Source: sourceFallback}})
	return r
}

// The names of sources, as they stand on every row.
const (
	sourcePTAX     = "ptax"
	sourceERAPI    = "er-api"
	sourceManual   = "manual"
	sourceFallback = "fallback"
)

// Now is the rate in use.
func (r *Rates) Now() ExchangeRate { return r.now.Load().ExchangeRate }

// Load takes the rate that the store has, if that is better than the fallback.
func (r *Rates) Load(ctx context.Context) error {
	if r.store == nil {
		return nil
	}
	last, at, err := r.store.LastRate(ctx)
	if err != nil {
		return fmt.Errorf("load the exchange rate: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last.Rate > 0 && r.Now().Source == sourceFallback {
		r.now.Store(&heldRate{last, at})
	}
	return nil
}

// Refresh takes a rate that another process has saved since ours was fetched, so that all of them price alike.
func (r *Rates) Refresh(ctx context.Context) error {
	if r.store == nil {
		return nil
	}
	last, at, err := r.store.LastRate(ctx)
	if err != nil {
		return fmt.Errorf("refresh the exchange rate: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if held := r.now.Load(); last.Rate > 0 && last != held.ExchangeRate && (held.Source == sourceFallback || at.After(held.at)) {
		r.now.Store(&heldRate{last, at})
	}
	return nil
}

// Put takes a rate from somewhere else: the control plane's, in a proxy that fetches none of its own.
func (r *Rates) Put(rate ExchangeRate) {
	if rate.Rate <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Store(&heldRate{rate, time.Now()})
}

// Set puts in force, and keeps, a rate that an operator names. It holds until the next one is fetched, and that one is
// then measured by it: this is how a refused jump is let through.
func (r *Rates) Set(ctx context.Context, rate money.Rate, date time.Time) error {
	if rate <= 0 {
		return fmt.Errorf("exchange rate %s: it must be above 0", rate)
	}
	er := ExchangeRate{Rate: rate, Date: dateOf(date), Source: sourceManual}
	if r.store != nil {
		if err := r.store.SaveRate(ctx, er); err != nil {
			return err
		}
	}
	r.Put(er)
	return nil
}

func dateOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

// How often sources are asked. PTAX comes out once on a working day, about 13:10 in Brasília, which has had no summer
// time since 2019; on other days the last one is simply given again.
const (
	firstRetry   = time.Minute
	longestRetry = time.Hour
	freshPTAX    = 24 * time.Hour // for so long a PTAX rate is not given up for er-api's only because one fetch failed
	fetchTimeout = 20 * time.Second
	publishedAt  = 13*time.Hour + 20*time.Minute
)

var brasilia = time.FixedZone("-03", -3*60*60)

// nextPTAX is when the next PTAX rate should be out.
func nextPTAX(now time.Time) time.Time {
	local := now.In(brasilia)
	next := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, brasilia).Add(publishedAt)
	if !next.After(now) {
		next = next.AddDate(0, 0, 1)
	}
	return next
}

// Run fetches now and then daily until ctx ends.
func (r *Rates) Run(ctx context.Context) error {
	if err := r.Load(ctx); err != nil {
		r.log.Warn("exchange rate: the stored one could not be read; going on without it", "error", err)
	}
	for failures := 0; ; {
		var wait time.Duration
		if err := r.refresh(ctx); err == nil {
			failures = 0
			// Spread over twenty minutes, so that not every Catraca in the country asks in the same second.
			wait = time.Until(nextPTAX(time.Now())) + rand.N(20*time.Minute)
		} else {
			if ctx.Err() != nil {
				return nil
			}
			wait = min(firstRetry<<min(failures, 10), longestRetry)
			wait = wait/2 + rand.N(wait/2+1)
			failures++
			r.log.Warn("exchange rate: will try again", "error", err, "in", wait.Round(time.Second), "using", r.Now().Source)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// refresh asks PTAX and, where that fails, er-api. Its error says that PTAX should be asked again soon.
func (r *Rates) refresh(ctx context.Context) error {
	rate, ptaxErr := r.ptax.fetch(ctx, time.Now())
	if ptaxErr == nil {
		ptaxErr = r.take(ctx, rate)
	}
	if ptaxErr == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	held := r.now.Load()
	if held.Source == sourcePTAX && time.Since(held.at) < freshPTAX || time.Now().Before(r.erAPINext) {
		return ptaxErr
	}
	rate, next, err := r.erAPI.fetch(ctx, time.Now())
	r.erAPINext = next
	if err == nil {
		err = r.take(ctx, rate)
	}
	return errors.Join(ptaxErr, err)
}

// take puts a fetched rate in force and keeps it. One that is too far from the last one is more likely a fault of the
// source than the market's.
func (r *Rates) take(ctx context.Context, rate ExchangeRate) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.now.Load()
	if held.Source != sourceFallback && jumps(held.Rate, rate.Rate) {
		r.log.Error("exchange rate: refused, it is more than 30 % away from the last one; if it is right, set it by hand",
			"source", rate.Source, "rate", rate.Rate.String(), "last", held.Rate.String(), "last_source", held.Source)
		return fmt.Errorf("%s: %s refused, the last rate was %s", rate.Source, rate.Rate, held.Rate)
	}
	if rate.Source == held.Source && rate.Date.Before(held.Date) {
		return fmt.Errorf("%s: gave the rate of %s, but that of %s is known", rate.Source, rate.Date.Format(time.DateOnly), held.Date.Format(time.DateOnly))
	}
	r.now.Store(&heldRate{rate, time.Now()})
	if r.store == nil {
		return nil
	}
	if err := r.store.SaveRate(ctx, rate); err != nil {
		// The rate is good all the same; a restart would only go back to the one before.
		r.log.Warn("exchange rate: could not be kept", "error", err)
	}
	return nil
}

// jumps tells whether two rates are more than 30 % of the first apart.
func jumps(last, next money.Rate) bool {
	diff := int64(next) - int64(last)
	return max(diff, -diff) > int64(last)/10*3
}
