//go:build linux

// Command run measures what a target costs per request beside a floor, in one run on one machine: `make bench`.
//
// The upstream and the load are pinned to one core, the target to another. Each sample starts its target afresh, so that
// memory is that phase's own; targets alternate within a round, so that a slow minute of the machine hits all of them.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type options struct {
	shared           bool
	targets, phases  string
	catraca, against string
	rounds           int
	window, warm     time.Duration
	held             int
	targetCore       string
	loadCore         string
	model, envs      string
	foreign          float64
	json, bin, keep  string
}

func main() {
	var o options
	flag.StringVar(&o.targets, "targets", "bare,catraca", "what to measure, the floor first: bare, bare2 (the floor again: how far to trust a ratio), nginx, catraca, against")
	flag.StringVar(&o.phases, "phases", "all", "which phases: all, or some of "+strings.Join(phaseNames(), ","))
	flag.StringVar(&o.catraca, "catraca", "bin/catraca", "the binary to measure as catraca")
	flag.StringVar(&o.against, "against", "", "another catraca binary, for the target against: an older build, say")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; each measures every phase of every target once")
	flag.DurationVar(&o.window, "window", 4*time.Second, "length of the measured window")
	flag.DurationVar(&o.warm, "warm", 2*time.Second, "load before the window")
	flag.IntVar(&o.held, "held", 1000, "streams of the held phase")
	flag.StringVar(&o.targetCore, "target-core", "1", "core of the target")
	flag.StringVar(&o.loadCore, "load-core", "0", "core of load and upstream")
	flag.StringVar(&o.model, "model", "openai/gpt-5", "model to ask for; catraca must know its price")
	flag.StringVar(&o.envs, "env", "", "more settings for catraca, as NAME=value,NAME=value")
	flag.BoolVar(&o.shared, "shared", false, "catraca on Postgres and Redis, with the ledger's work in a second process: the cost of the proxy alone. Run it under internal/testenv/start, which names both; allow for their CPU with -foreign")
	flag.Float64Var(&o.foreign, "foreign", 0.10, "drop a sample when others used more than this share of a core")
	flag.StringVar(&o.json, "json", "", "also write all samples to this file")
	flag.StringVar(&o.bin, "bin", "", "folder with the built bench programs; empty builds them")
	flag.StringVar(&o.keep, "keep", "", "keep the targets' logs in this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	phases, err := choosePhases(o)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "catraca-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	b := &bench{options: o, tmp: tmp}
	if err := b.build(ctx); err != nil {
		return err
	}
	targets, err := b.chooseTargets()
	if err != nil {
		return err
	}
	up, err := b.startListening(ctx, "upstream", o.loadCore, filepath.Join(b.bin, "upstream"))
	if err != nil {
		return err
	}
	defer up.stop()
	b.upstream = up
	defer func() {
		if b.ledger != nil {
			b.ledger.stop()
		}
	}()

	var samples []sample
	for round := range o.rounds {
		for _, ph := range phases {
			for i := range targets {
				t := targets[(i+round)%len(targets)] // no target always goes first
				s, err := b.measure(ctx, t, ph)
				if err != nil {
					return fmt.Errorf("%s, phase %s: %w", t.name, ph.name, err)
				}
				s.Round = round + 1
				samples = append(samples, s)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-8s %-8s %8.2f µs/%s  others %3.0f %% of a core%s\n", s.Round, o.rounds,
					ph.name, t.name, s.CPUMicros, ph.unit, 100*s.Foreign, noisy(s.Foreign > o.foreign))
			}
		}
	}
	printTables(os.Stdout, samples, phases, targets, o.foreign)
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(samples, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(text, '\n'), 0o644)
}

func noisy(is bool) string {
	if is {
		return "  (noisy, dropped)"
	}
	return ""
}

// bench is one run: its settings, the folder of its binaries and the upstream that all targets share.
type bench struct {
	options
	tmp      string
	upstream *process
	ledger   *ledger // with -shared
}

// build makes the bench programs, unless a folder with them was given.
func (b *bench) build(ctx context.Context) error {
	if b.bin != "" {
		return nil
	}
	b.bin = b.tmp
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.bin+"/", "./bench/upstream", "./bench/bare", "./bench/load")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the bench programs failed (%w); run this from the project's root, as `make bench` does", err)
	}
	return nil
}

// chooseTargets turns the flag into targets, and says at once what is missing.
func (b *bench) chooseTargets() ([]target, error) {
	known := map[string]target{
		"bare":    {"bare", b.startBare},
		"bare2":   {"bare2", b.startBare},
		"nginx":   {"nginx", b.startNginx},
		"catraca": {"catraca", b.startCatraca(b.catraca)},
		"against": {"against", b.startCatraca(b.against)},
	}
	needs := map[string]string{"catraca": b.catraca, "against": b.against, "nginx": "nginx"}
	var out []target
	for _, name := range strings.Split(b.targets, ",") {
		t, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("unknown target %q; there are bare, bare2, nginx, catraca and against", name)
		}
		if need, ok := needs[name]; ok {
			if _, err := exec.LookPath(need); err != nil {
				return nil, fmt.Errorf("target %s needs the program %q: %w; build or install it, or leave it out of -targets", name, need, err)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func choosePhases(o options) ([]phase, error) {
	all := allPhases(o)
	if o.phases == "all" {
		return all, nil
	}
	var out []phase
	for _, name := range strings.Split(o.phases, ",") {
		i := slices.IndexFunc(all, func(p phase) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown phase %q; there are %s", name, strings.Join(phaseNames(), ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}
