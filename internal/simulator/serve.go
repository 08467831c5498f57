package simulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// drainTime is how long answers under way may take once the simulator is asked to stop.
const drainTime = 5 * time.Second

// Serve runs a simulator on addr until ctx ends, then lets open answers finish for a moment and cuts the rest. ready,
// if not nil, is called once with the address that was bound, which matters where addr has port 0.
func Serve(ctx context.Context, addr string, cfg Config, ready func(net.Addr)) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("the simulator cannot listen on %s: %w", addr, err)
	}
	s := New(cfg)
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)}
	if ready != nil {
		ready(l.Addr())
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("the simulator stopped: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	// What hangs on purpose would hang for the whole drain; it is let go at half of it.
	letGo := time.AfterFunc(drainTime/2, s.Close)
	defer letGo.Stop()
	if err := srv.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stopping the simulator: %w", err)
	}
	s.Close()
	return srv.Close()
}
