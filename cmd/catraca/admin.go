package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/catraca/catraca/dashboard"
	"github.com/catraca/catraca/metering"
)

// admin is the second listener: the API, /metrics, /healthz and /readyz.
type admin struct {
	listener net.Listener
	server   *http.Server
	log      *slog.Logger
}

// newAdmin builds the admin side. When ctx ends it stops being ready: load balancers then send calls elsewhere.
func newAdmin(ctx context.Context, cfg *Config, wire net.Addr, st *stores, reg *registry, spool *metering.Spool, metrics *prometheus.Registry, log *slog.Logger) (*admin, error) {
	listener, err := net.Listen("tcp", cfg.AdminListen)
	if err != nil {
		return nil, fmt.Errorf("CATRACA_ADMIN_LISTEN: %w", err)
	}
	settings := dashboard.Settings{
		Embedded: cfg.Embedded(), Listen: wire.String(), EnableGateway: cfg.EnableGateway,
		TimeZone: cfg.TimeZone, UnknownModelPolicy: cfg.UnknownModelPolicy,
	}
	for _, p := range append([]Provider{cfg.Gateway()}, cfg.Providers()...) {
		settings.Upstreams = append(settings.Upstreams, dashboard.Upstream{Name: p.Name, BaseURL: p.BaseURL, HasKey: p.Key.IsSet()})
	}
	mux := http.NewServeMux()
	mux.Handle("/", dashboard.New(dashboard.Options{
		Token: cfg.AdminToken.Reveal(), Tenants: st.tenants, Registry: st.usage,
		Usage: st.usage, Rates: reg, Settings: settings, Gateway: gatewayModels(cfg), Auditor: st.tenants, Log: log, Version: buildVersion(),
	}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready(w, r, st, spool, ctx.Err() != nil)
	})
	return &admin{listener: listener, log: log, server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// ready says whether calls should be sent here. A database that is away does not make a proxy unready: what it knows
// it goes on serving, and the meter goes to the spool.
func ready(w http.ResponseWriter, r *http.Request, st *stores, spool *metering.Spool, draining bool) {
	switch {
	case draining:
		say(w, http.StatusServiceUnavailable, "draining")
	case spool.Broken() != nil:
		say(w, http.StatusServiceUnavailable, "the spool cannot be written")
	default:
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := st.ping(ctx); err != nil {
			say(w, http.StatusOK, "ready; the database does not answer, usage is kept in the spool")
			return
		}
		say(w, http.StatusOK, "ready")
	}
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func (a *admin) addr() net.Addr { return a.listener.Addr() }

// run serves until ctx ends.
func (a *admin) run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- a.server.Serve(a.listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := a.server.Shutdown(limit); err != nil {
		return errors.Join(err, a.server.Close())
	}
	return nil
}
