package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/catraca/catraca/internal/link"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/upstream"
)

// Limits that no deployment has needed to change.
const (
	readTimeout  = time.Minute // for a request to arrive whole
	idleTimeout  = time.Minute // between requests; equal to the former, so that one deadline serves both
	writeTimeout = time.Minute // for a client that reads nothing
)

// What runs is one of the two planes, or both:
//
//	dataPlane     keys, settings │ spool ► shipper │ proxy         serve, proxy     plane_data.go
//	controlPlane  stores │ worker │ link │ admin API │ upkeep      serve, control   plane_control.go
//
// Between them lies link.Control: in one process it is called, and else it is HTTP (internal/link).

// run serves both planes in one process until ctx ends.
func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	return serve(ctx, cfg, log, nil)
}

// serve is run with a word for whoever wants to know when both listeners are open, and where.
func serve(ctx context.Context, cfg Config, log *slog.Logger, ready func(st *stores, wire, admin net.Addr)) error {
	cfg, err := cfg.withLocalSecrets()
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
	metrics := newMetrics()
	control, err := newControlPlane(&cfg, st, vault, false, metrics, log)
	if err != nil {
		return err
	}
	var snapshot *link.Snapshot
	if !cfg.Embedded() { // SQLite is there when the data directory is: the snapshot would be a copy beside the original
		snapshot = link.NewSnapshot(cfg.SnapshotPath(), func() [][]byte { return vault.Derive("snapshot") }, log)
	}
	data, err := newDataPlane(&cfg, control.local, st.publisher, snapshot, metrics, log)
	if err != nil {
		return err
	}
	admin, err := newAdmin(ctx, &cfg, control.api(data.wire.Addr()), metrics, func(ctx context.Context) (string, bool) {
		return data.ready(ctx, func() string { return st.state(ctx) })
	}, log)
	if err != nil {
		return errors.Join(err, data.close())
	}
	log.Info("serving", "listen", data.wire.Addr().String(), "admin", admin.addr().String(), "embedded", cfg.Embedded(), "version", buildVersion())
	if ready != nil {
		ready(st, data.wire.Addr(), admin.addr())
	}
	defer func() { log.Info("stopped", "spool_depth", data.spool.Stats().Depth) }()
	return runParts(ctx, parts{
		// listener closes → open calls end → leases go back → spool ships its rest → worker records it → last word → stores close
		order:      []part{data.serve, data.purse.Run, data.ship, control.work, data.keepSpool, data.beat, admin.run},
		background: append(data.background(), control.background()...),
	})
}

// runProxy runs the data plane alone, beside a control plane elsewhere.
func runProxy(ctx context.Context, cfg Config, log *slog.Logger) error {
	client, err := cfg.controlClient(log)
	if err != nil {
		return err
	}
	redis, err := openRedis(ctx, &cfg, log)
	if err != nil {
		return err
	}
	defer redis.Close()
	metrics := newMetrics()
	publisher := func(keys func() [][]byte) metering.Queue { return &signedQueue{client: redis, keys: keys} }
	snapshot := link.NewSnapshot(cfg.SnapshotPath(), cfg.snapshotSecrets, log)
	data, err := newDataPlane(&cfg, client, publisher, snapshot, metrics, log)
	if err != nil {
		return err
	}
	watchLink(metrics, client)
	admin, err := newAdmin(ctx, &cfg, nil, metrics, func(ctx context.Context) (string, bool) {
		return data.ready(ctx, func() string { return linkState(client) })
	}, log)
	if err != nil {
		return errors.Join(err, data.close())
	}
	log.Info("serving", "listen", data.wire.Addr().String(), "admin", admin.addr().String(), "control", cfg.ControlURL, "version", buildVersion())
	defer func() { log.Info("stopped", "spool_depth", data.spool.Stats().Depth) }()
	return runParts(ctx, parts{
		order:      []part{data.serve, data.purse.Run, data.ship, data.keepSpool, data.beat, admin.run},
		background: data.background(),
	})
}

// runControl runs the control plane alone, for proxies elsewhere.
func runControl(ctx context.Context, cfg Config, log *slog.Logger) error {
	vault, err := cfg.Vault()
	if err != nil {
		return err
	}
	st, err := openStores(ctx, &cfg, vault, log)
	if err != nil {
		return err
	}
	defer st.close()
	metrics := newMetrics()
	control, err := newControlPlane(&cfg, st, vault, true, metrics, log)
	if err != nil {
		return err
	}
	proxies, err := control.listen(&cfg)
	if err != nil {
		return err
	}
	admin, err := newAdmin(ctx, &cfg, control.api(nil), metrics, func(ctx context.Context) (string, bool) {
		if note := st.state(ctx); note != "" {
			return "ready; " + note, true // what it knows it goes on telling
		}
		return "ready", true
	}, log)
	if err != nil {
		return errors.Join(err, proxies.listener.Close())
	}
	log.Info("controlling", "link", proxies.addr().String(), "admin", admin.addr().String(), "version", buildVersion())
	defer log.Info("stopped")
	return runParts(ctx, parts{
		order:      []part{control.work, proxies.run, admin.run},
		background: control.background(),
	})
}

func newMetrics() *prometheus.Registry {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return metrics
}

// part is something that runs until its context ends.
type part = func(context.Context) error

// parts are what runs: some in the order in which they stop, and what serves all of them to the end.
type parts struct {
	order      []part
	background []part
}

// runParts runs everything until ctx ends or a part fails, and then stops part after part: each gets its own context,
// which ends when the one before it has returned.
func runParts(ctx context.Context, p parts) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var running sync.WaitGroup
	for _, run := range p.background {
		running.Go(func() {
			if err := run(background); err != nil && background.Err() == nil {
				fail(err)
			}
		})
	}
	stop := make([]context.CancelFunc, len(p.order))
	done := make([]chan error, len(p.order))
	for i, run := range p.order {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		stop[i], done[i] = cancel, make(chan error, 1)
		go func() {
			err := run(own)
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
	for i := range p.order {
		stop[i]()
		if err := <-done[i]; err != nil && !errors.Is(err, context.Canceled) && (len(errs) == 0 || err != errs[0]) {
			errs = append(errs, err)
		}
	}
	stopBackground()
	running.Wait()
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
