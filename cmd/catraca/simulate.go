package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/catraca/catraca/internal/simulator"
)

type simulateCommand struct {
	asJSON
	List            bool          `help:"Print the behaviours that a model's name can ask for, and end."`
	Listen          string        `default:"127.0.0.1:8090" help:"Address to listen on, host:port; port 0 takes a free one."`
	Seed            int64         `help:"Changes every answer; the same seed and request give the same answer."`
	FirstTokenDelay time.Duration `default:"0s" help:"Wait before the first byte of an answer."`
	TokenDelay      time.Duration `default:"0s" help:"Wait before each further token."`
	Tokens          int           `default:"32" help:"Length of an answer that the request does not limit."`
	ErrorRate       float64       `default:"0" help:"Share of requests, 0 to 1, that fail with 429, 500 or 503."`
	Key             []string      `help:"Accept only these keys; without it any key will do."`
	Behaviour       []string      `help:"Behave so in every request, as if its model's name said it, such as slow-20. Repeat for more."`
	UniqueIDs       bool          `name:"unique-ids" help:"Give every answer its own id, as real upstreams do."`
	Strict          bool          `help:"Refuse models that the catalogue does not know or that are retired."`
	Verbose         bool          `short:"v" help:"Log each request, without its content."`
}

// Run serves until a signal.
func (c simulateCommand) Run(t *terminal) error {
	if c.List {
		return c.list(t)
	}
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	cfg := simulator.Config{
		Seed: c.Seed, FirstTokenDelay: c.FirstTokenDelay, TokenDelay: c.TokenDelay, Tokens: c.Tokens, ErrorRate: c.ErrorRate,
		Keys: c.Key, Behaviours: c.Behaviour, UniqueIDs: c.UniqueIDs, Strict: c.Strict,
		Log: slog.New(slog.NewJSONHandler(t.err, &slog.HandlerOptions{Level: level})),
	}
	if err := cfg.Check(); err != nil {
		return fmt.Errorf("simulate: %w; `catraca simulate --list` tells what there is", err)
	}
	ctx, stop := signal.NotifyContext(t.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("simulate: %w; choose another address with --listen", err)
	}
	return c.serve(ctx, t, listener, simulator.New(cfg))
}

func (c simulateCommand) serve(ctx context.Context, t *terminal, listener net.Listener, sim *simulator.Simulator) error {
	// No limits on reading and writing: an answer may be slow, or hang, because a test asked for that.
	server := &http.Server{Handler: sim, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() {
		sim.Close()
		_ = server.Close()
	})
	base := "http://" + listener.Addr().String()
	fmt.Fprintf(t.err, `simulating the AI gateway and four providers on %[1]s; any key will do unless --key says which

  AI_GATEWAY_BASE_URL=%[1]s/v1  AI_GATEWAY_API_KEY=vck_simulated
  OPENAI_BASE_URL=%[1]s/openai/v1  GROQ_BASE_URL=%[1]s/groq/openai/v1
  ANTHROPIC_BASE_URL=%[1]s/anthropic/v1  GOOGLE_BASE_URL=%[1]s/google/v1beta/openai
  CATRACA_EXCHANGE_RATE_URL=%[1]s/_exchange/er-api  CATRACA_PTAX_URL=%[1]s/_exchange/ptax

  curl -s %[1]s/_stats    what was served and billed
`, base)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("simulate: %w", err)
	}
	return nil
}

func (c simulateCommand) list(t *terminal) error {
	all := simulator.Behaviours()
	if c.JSON {
		type behaviour struct {
			Name    string `json:"name"`
			Example string `json:"example"`
			What    string `json:"what"`
		}
		list := []behaviour{}
		for _, b := range all {
			list = append(list, behaviour(b))
		}
		return writeJSON(t.out, list)
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	for _, b := range all {
		fmt.Fprintf(w, "%s\t%s\n", b.Example, b.What)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(t.out, "\nName it as the model. Several are joined by +, as in sim/slow-20+cut-after-5; other models answer normally.")
	return err
}
