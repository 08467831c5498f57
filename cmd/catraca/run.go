package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// Limits that no deployment has needed to change.
const (
	readTimeout  = time.Minute // for a request to arrive whole
	idleTimeout  = time.Minute // between requests; equal to the former, so that one deadline serves both
	writeTimeout = time.Minute // for a client that reads nothing
)

// run serves both planes in one process until ctx ends: it opens the stores, builds the parts from leaf to root, and
// takes them down in the other direction, so that nothing is lost on the way:
//
//	listener closes → open calls end → spool ships its rest → worker records it → stores close
func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	return serve(ctx, cfg, log, nil)
}

// serve is run with a word for whoever wants to know when both listeners are open, and where.
func serve(ctx context.Context, cfg Config, log *slog.Logger, ready func(st *stores, wire, admin net.Addr)) (err error) {
	cfg, err = cfg.withLocalSecrets()
	if err != nil {
		return err
	}
	vault, err := cfg.Vault()
	if err != nil {
		return err
	}
	st, err := openStores(ctx, &cfg, vault, log)
	if err != nil {
		return err
	}
	defer st.close()
	routes, err := upstream.NewRoutes(targets(&cfg), upstream.Timeouts{
		Connect: cfg.ConnectTimeout, FirstByte: cfg.FirstByteTimeout, Idle: cfg.IdleTimeout,
	})
	if err != nil {
		return err
	}
	if len(routes.All()) == 0 {
		log.Warn("no upstream is configured: set AI_GATEWAY_API_KEY or a provider's key; every call is refused until then")
	}
	reg, err := newRegistry(ctx, st, &cfg, log)
	if err != nil {
		return err
	}
	spool, err := metering.OpenSpool(metering.SpoolOptions{
		Dir: cfg.SpoolDir(), MaxBytes: int64(cfg.SpoolMaxBytes), Price: reg.priceCrashed, Log: log,
	})
	if err != nil {
		return err
	}
	keys := tenancy.NewKeyring(st.tenants, tenancy.KeyringOptions{Log: log})
	keys.OnGlobalChange(reg.reload)

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	px := newProxy(&cfg, keys, spool, reg, st, routes, metrics, log)
	worker := metering.NewWorker(st.usage, st.queue, st.shards, log)
	watchRoad(metrics, spool, worker)

	wire, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("CATRACA_LISTEN: %w", err), spool.Shutdown())
	}
	admin, err := newAdmin(ctx, &cfg, wire.Addr(), st, reg, spool, metrics, log)
	if err != nil {
		return errors.Join(err, wire.Close(), spool.Shutdown())
	}
	log.Info("serving", "listen", wire.Addr().String(), "admin", admin.addr().String(), "embedded", cfg.Embedded(), "version", buildVersion())
	if ready != nil {
		ready(st, wire.Addr(), admin.addr())
	}
	defer func() {
		depth := spool.Stats().Depth
		err = errors.Join(err, spool.Shutdown())
		log.Info("stopped", "spool_depth", depth)
	}()
	return st.runParts(ctx, parts{
		proxy:   func(ctx context.Context) error { return px.Serve(ctx, wire, cfg.DrainTimeout) },
		ship:    metering.NewShipper(spool, st.queue, log).Run,
		worker:  worker.Run,
		spool:   spool.Run,
		admin:   admin.run,
		helpers: []func(context.Context) error{keys.Run, reg.rates.Run, st.upkeep, closeIdle(routes)},
	})
}

func newProxy(cfg *Config, keys proxy.Keys, meter proxy.Meter, prices proxy.Prices, st *stores, routes *upstream.Routes, metrics prometheus.Registerer, log *slog.Logger) *proxy.Proxy {
	return proxy.New(proxy.Options{
		Keys: keys, Meter: meter, Prices: prices, Owners: st.usage, Routes: routes,
		UseGateway: cfg.EnableGateway, UnknownModels: cfg.UnknownModelPolicy,
		TrustClientID: cfg.TrustClientID, CallerToken: cfg.CallerToken.Reveal(),
		MaxBody: int(cfg.MaxBodyBytes), ReadTimeout: readTimeout, IdleTimeout: idleTimeout, WriteTimeout: writeTimeout,
		Log: log, Registry: metrics,
	})
}

// parts are what runs, in the order in which it stops.
type parts struct {
	proxy, ship, worker, spool, admin func(context.Context) error
	helpers                           []func(context.Context) error
}

// runParts runs everything until ctx ends or a part fails, and then stops part after part: each gets its own context,
// which ends when the one before it has returned.
func (st *stores) runParts(ctx context.Context, p parts) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var helpers sync.WaitGroup
	for _, h := range p.helpers {
		helpers.Go(func() {
			if err := h(background); err != nil && background.Err() == nil {
				fail(err)
			}
		})
	}
	order := []func(context.Context) error{p.proxy, p.ship, p.worker, p.spool, p.admin}
	stop := make([]context.CancelFunc, len(order))
	done := make([]chan error, len(order))
	for i, part := range order {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		stop[i], done[i] = cancel, make(chan error, 1)
		go func() {
			err := part(own)
			if own.Err() == nil {
				if err == nil {
					err = errors.New("a part ended by itself")
				}
				fail(err)
			}
			done[i] <- err
		}()
	}
	<-ctx.Done()
	var errs []error
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		errs = append(errs, cause)
	}
	for i := range order {
		stop[i]()
		if err := <-done[i]; err != nil && !errors.Is(err, context.Canceled) && (len(errs) == 0 || err != errs[0]) {
			errs = append(errs, err)
		}
	}
	stopBackground()
	helpers.Wait()
	return errors.Join(errs...)
}

// targets lists the upstreams that have a key.
func targets(cfg *Config) []upstream.TargetConfig {
	var list []upstream.TargetConfig
	if gw := cfg.Gateway(); gw.Key.IsSet() {
		list = append(list, upstream.TargetConfig{Route: "gateway", Provider: "vercel", BaseURL: gw.BaseURL, APIKey: gw.Key.Reveal()})
	}
	for _, p := range cfg.Providers() {
		if p.Key.IsSet() {
			list = append(list, upstream.TargetConfig{Route: "direct", Provider: p.Name, BaseURL: p.BaseURL, APIKey: p.Key.Reveal()})
		}
	}
	return list
}

// closeIdle gives up upstream connections that nobody has used for a while.
func closeIdle(routes *upstream.Routes) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(15 * time.Second):
			}
			for _, t := range routes.All() {
				t.CloseIdle(upstream.KeepIdle)
			}
		}
	}
}

// watchRoad shows how full the road to the ledger is.
func watchRoad(reg prometheus.Registerer, spool *metering.Spool, worker *metering.Worker) {
	gauge := func(name, help string, value func(metering.SpoolStats) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(spool.Stats()) }))
	}
	gauge("catraca_spool_depth", "Ended calls that the ledger does not have yet.", func(s metering.SpoolStats) float64 { return float64(s.Depth) })
	gauge("catraca_spool_open_calls", "Calls that have begun and not ended.", func(s metering.SpoolStats) float64 { return float64(s.Open) })
	gauge("catraca_spool_bytes", "Disk that the spool has.", func(s metering.SpoolStats) float64 { return float64(s.Bytes) })
	gauge("catraca_spool_oldest_seconds", "Age of the oldest ended call that the ledger does not have yet.", func(s metering.SpoolStats) float64 { return s.Oldest.Seconds() })
	counter := func(name, help string, value func() int64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	counter("catraca_ledger_recorded_total", "Events that the ledger took, repeats included.", func() int64 { return worker.Stats().Recorded })
	counter("catraca_ledger_dead_letters_total", "Events that could not be recorded and were parked.", func() int64 { return worker.Stats().DeadLetters })
	counter("catraca_ledger_failures_total", "Failures of the ledger or the queue; each is tried again.", func() int64 { return worker.Stats().Failures })
}
