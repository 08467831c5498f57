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
)

// site is a listener of our own, beside the one for clients, and what serves it.
type site struct {
	listener net.Listener
	server   *http.Server
}

// newAdmin builds the admin side: /metrics, /healthz, /readyz and, where there is one, the API. When ctx ends it stops
// being ready: load balancers then send calls elsewhere.
func newAdmin(ctx context.Context, cfg *Config, api http.Handler, metrics *prometheus.Registry, ready func(context.Context) (string, bool), log *slog.Logger) (*site, error) {
	listener, err := net.Listen("tcp", cfg.AdminListen)
	if err != nil {
		return nil, fmt.Errorf("CATRACA_ADMIN_LISTEN: %w", err)
	}
	mux := http.NewServeMux()
	if api != nil {
		mux.Handle("/", api)
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			say(w, http.StatusServiceUnavailable, "draining")
			return
		}
		limit, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if text, ok := ready(limit); ok {
			say(w, http.StatusOK, text)
		} else {
			say(w, http.StatusServiceUnavailable, text)
		}
	})
	return &site{listener: listener, server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func (s *site) addr() net.Addr { return s.listener.Addr() }

// run serves until ctx ends.
func (s *site) run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := s.server.Shutdown(limit); err != nil {
		return errors.Join(err, s.server.Close())
	}
	return nil
}
