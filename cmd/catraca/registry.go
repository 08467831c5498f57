package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/catraca/catraca/metering"
)

// registry is the catalogue of models and the day's exchange rate, as the hot path reads them: without waiting.
type registry struct {
	store   usageStore
	log     *slog.Logger
	catalog atomic.Pointer[metering.Catalog]
	rates   *metering.Rates
}

func newRegistry(ctx context.Context, st *stores, cfg *Config, log *slog.Logger) (*registry, error) {
	r := &registry{store: st.usage, log: log}
	catalog, err := st.usage.LoadCatalog(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the model registry: %w", err)
	}
	r.catalog.Store(catalog)
	r.rates = metering.NewRates(metering.RatesConfig{Store: st.usage, PTAXURL: cfg.PTAXURL, ERAPIURL: cfg.ExchangeRateURL, Log: log})
	return r, r.rates.Load(ctx)
}

// Catalog is the registry as last loaded.
func (r *registry) Catalog() *metering.Catalog { return r.catalog.Load() }

// Rate is the exchange rate in force.
func (r *registry) Rate() metering.ExchangeRate { return r.rates.Now() }

// reload takes up a change. A bad load keeps what there is.
func (r *registry) reload() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	catalog, err := r.store.LoadCatalog(ctx)
	if err != nil {
		r.log.Error("the model registry could not be loaded; the last one stays in use", "error", err)
		return
	}
	r.catalog.Store(catalog)
}

// priceCrashed puts a cost on a call that was open when an earlier process died.
func (r *registry) priceCrashed(e *metering.Event) {
	var price *metering.Price
	if m := r.Catalog().ByID(e.ModelID); m != nil {
		price = m.PriceAt(e.AdmittedAt)
	}
	e.Cost = metering.ComputeCost(price, &e.Usage, 0, false, e.Rate)
}
