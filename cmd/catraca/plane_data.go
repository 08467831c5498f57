package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/link"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// dataPlane answers clients. All that it needs of the control plane is in memory, and in a snapshot on disk.
type dataPlane struct {
	cfg      *Config
	log      *slog.Logger
	wire     net.Listener
	proxy    *proxy.Proxy
	routes   *upstream.Routes
	follower *link.Follower
	keys     *tenancy.Keyring
	spool    *metering.Spool
	queue    metering.Queue
	reporter *metering.Reporter
	purse    *budget.Purse
}

// publisher makes a data plane's end of the queue; what it sends is signed with the newest of the keys.
type publisher func(keys func() [][]byte) metering.Queue

// newDataPlane builds the data plane from leaf to root. The spool comes first, because it takes the data directory for
// this process.
func newDataPlane(cfg *Config, control link.Control, publish publisher, snapshot *link.Snapshot, metrics *prometheus.Registry, log *slog.Logger) (*dataPlane, error) {
	d := &dataPlane{cfg: cfg, log: log, follower: link.NewFollower(control, snapshot, log)}
	var err error
	d.routes, err = upstream.NewRoutes(targets(cfg), upstream.Timeouts{
		Connect: cfg.ConnectTimeout, FirstByte: cfg.FirstByteTimeout, Idle: cfg.IdleTimeout,
	})
	if err != nil {
		return nil, err
	}
	if len(d.routes.All()) == 0 {
		log.Warn("no upstream is configured: set AI_GATEWAY_API_KEY or a provider's key; every call is refused until then")
	}
	d.spool, err = metering.OpenSpool(metering.SpoolOptions{
		Dir: cfg.SpoolDir(), MaxBytes: int64(cfg.SpoolMaxBytes), Price: priceFrom(d.follower.Catalog), Log: log,
	})
	if err != nil {
		return nil, err
	}
	if d.purse, err = openPurse(cfg, d.spool, d.follower, log); err != nil {
		return nil, errors.Join(err, d.spool.Shutdown())
	}
	d.keys = tenancy.NewKeyring(d.follower, tenancy.KeyringOptions{
		Wait: link.WatchFor, Journal: d.follower.Journal(), OnChanges: staleAccounts(d.purse), Log: log,
	})
	d.recall()
	d.queue = publish(d.follower.SigningKeys)
	d.reporter = metering.NewReporter(processName(cfg), buildVersion(), d.spool, d.keys.Version)
	d.proxy = proxy.New(proxy.Options{
		Keys: d.keys, Meter: d.spool, Prices: d.follower, Owners: d.follower, Routes: d.routes,
		Budgets: d.purse, Conversations: d.follower,
		UseGateway: cfg.EnableGateway, UnknownModels: cfg.UnknownModelPolicy,
		TrustClientID: cfg.TrustClientID, CallerToken: cfg.CallerToken.Reveal(),
		MaxBody: int(cfg.MaxBodyBytes), ReadTimeout: readTimeout, IdleTimeout: idleTimeout, WriteTimeout: writeTimeout,
		Log: log, Registry: metrics,
	})
	watchSpool(metrics, d.spool)
	watchPurse(metrics, d.purse)
	watchKeys(metrics, d.keys, snapshot)
	if d.wire, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, errors.Join(fmt.Errorf("CATRACA_LISTEN: %w", err), d.spool.Shutdown())
	}
	return d, nil
}

// recall takes up what an earlier process knew. Without it the proxy asks the control plane, as in its first life.
func (d *dataPlane) recall() {
	began := time.Now()
	n, err := d.follower.Recall(d.keys)
	if err != nil {
		d.log.Warn("starting without the last good configuration; until the control plane answers, calls get 503", "error", err)
		return
	}
	if n > 0 {
		s := d.keys.Stats()
		d.log.Info("the last good configuration is in use", "keys", s.Keys, "clients", s.Clients, "version", d.keys.Version(),
			"took", time.Since(began).Round(time.Millisecond))
	}
}

// priceFrom puts a cost from the price list on a call that has none: one that was open when its process died, or whose
// counts were put right later.
func priceFrom(catalog func() *metering.Catalog) func(*metering.Event) {
	return func(e *metering.Event) {
		var price *metering.Price
		if m := catalog().ByID(e.ModelID); m != nil {
			price = m.PriceAt(e.AdmittedAt)
		}
		e.Cost = metering.ComputeCost(price, &e.Usage, 0, false, e.Rate)
	}
}

// processName tells this process from others of the fleet, and is the same after a restart on the same spool.
func processName(cfg *Config) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		dir = cfg.DataDir
	}
	return host + ":" + dir
}

// close is for a start that fails half-way.
func (d *dataPlane) close() error { return errors.Join(d.wire.Close(), d.spool.Shutdown()) }

func (d *dataPlane) serve(ctx context.Context) error {
	return d.proxy.Serve(ctx, d.wire, d.cfg.DrainTimeout)
}

// ship sends usage on, once there are settings: prices, for calls that an earlier process left open, and the keys that
// events are signed with.
func (d *dataPlane) ship(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.follower.Known():
	}
	return metering.NewShipper(d.spool, d.queue, d.log).Run(ctx)
}

func (d *dataPlane) keepSpool(ctx context.Context) error {
	return errors.Join(d.spool.Run(ctx), d.spool.Shutdown())
}

const (
	beatEvery   = 5 * time.Second
	beatTimeout = 3 * time.Second
)

// beat says every few seconds how this proxy does, and once more when it has stopped.
func (d *dataPlane) beat(ctx context.Context) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		stopped := ctx.Err() != nil
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatTimeout)
		_, err := d.follower.Beat(limit, link.Beat{Report: d.reporter.Report(stopped)})
		cancel()
		if err != nil {
			d.log.Debug("the control plane was not told how this proxy does", "error", err)
		}
		if stopped {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (d *dataPlane) background() []part {
	return []part{
		d.keys.Run,
		func(ctx context.Context) error { return d.follower.Run(ctx, d.keys) },
		closeIdle(d.routes),
		tuneCollector,
	}
}

// ready says whether calls should be sent here, and what is amiss. What a proxy knows it serves, whoever is away; only
// one that knows nothing yet is of no use.
func (d *dataPlane) ready(_ context.Context, state func() string) (text string, ok bool) {
	if d.spool.Broken() != nil {
		return "the spool cannot be written", false
	}
	note := state()
	select {
	case <-d.follower.Known():
	default:
		if note == "" {
			note = "just started"
		}
		return "no configuration yet: " + note, false
	}
	if note != "" {
		return "ready; " + note, true
	}
	return "ready", true
}
