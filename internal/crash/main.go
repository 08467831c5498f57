//go:build linux

// Command crash proves the road to the ledger on real processes: proxies, control planes, Redis and Postgres, under load
// and under every fault that reliability.md promises to bear.
//
//	clients ──► proxy ──► simulator            what the clients saw   ┐
//	              │ spool                      what was issued        ├─► judge: lost, doubled, wrong
//	              ▼                            what the ledger has    ┘
//	            Redis ──► control ──► Postgres
//
// Each scenario begins with empty servers, lets clients call while its faults happen, waits until nothing is on its way
// any more, and compares the three sides call by call and sum by sum. It prints a table and ends with 1 when anything was
// lost, doubled or wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// options say how the matrix is run.
type options struct {
	bin      string // the catraca under test
	dir      string // for logs and data
	requests int    // of the scenario without faults
	least    int    // requests of every other
	seed     int64
	hasty    bool // do not wait until the gateway was asked about estimates, which takes half a minute
	short    bool // fewer faults, and shorter ones
	keep     bool
	patience time.Duration // after the load, until nothing is on its way
	split    bool          // the planes are processes of their own; else `catraca serve` is both
	cradle   cradle
}

func main() {
	o := options{least: 2000}
	pattern := flag.String("run", "", "only the scenarios whose name matches this `regexp`")
	shape := flag.String("shape", "split", "split: catraca proxy and catraca control; serve: both in each process")
	flag.StringVar(&o.bin, "catraca", "", "the binary to try; without it one is built")
	flag.IntVar(&o.requests, "requests", 100_000, "requests of the scenario without faults")
	flag.Int64Var(&o.seed, "seed", time.Now().UnixNano()%1_000_000, "of the calls and the moments of faults")
	flag.BoolVar(&o.short, "short", false, "a tenth of the faults, and shorter ones")
	flag.DurationVar(&o.patience, "patience", 4*time.Minute, "how long the road may take to be empty, beside the look-ups at the gateway")
	flag.BoolVar(&o.keep, "keep", false, "keep logs and data; those of a scenario that fails are kept anyway")
	flag.Parse()
	o.split = *shape != "serve"
	if o.short {
		o.least = 300
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := o.main(ctx, *pattern)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

func (o *options) main(ctx context.Context, pattern string) (failed bool, err error) {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return false, fmt.Errorf("-run: %w", err)
	}
	if o.dir, err = os.MkdirTemp("", "catraca-crash-"); err != nil {
		return false, err
	}
	defer func() {
		if !o.keep && !failed {
			_ = os.RemoveAll(o.dir)
		} else {
			fmt.Fprintln(os.Stderr, "logs and data are in", o.dir)
		}
	}()
	if err := o.ready(ctx); err != nil {
		return true, err
	}
	fmt.Printf("seed %d\n", o.seed)
	var results []*outcome
	for _, s := range matrix(o.short) {
		if !wanted.MatchString(s.name) || s.split && !o.split {
			continue
		}
		out := o.play(ctx, s)
		out.tell(os.Stdout)
		results = append(results, out)
		failed = failed || out.failed()
		if ctx.Err() != nil {
			return true, errors.New("interrupted")
		}
	}
	fmt.Println()
	table(os.Stdout, results)
	return failed, nil
}

// ready makes what all scenarios share: the binary, and the thread that starts processes.
func (o *options) ready(ctx context.Context) error {
	o.cradle = newCradle()
	if o.bin != "" {
		abs, err := filepath.Abs(o.bin)
		o.bin = abs
		return err
	}
	o.bin = filepath.Join(o.dir, "catraca")
	build := exec.CommandContext(ctx, "go", "build", "-o", o.bin, "github.com/catraca/catraca/cmd/catraca")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build catraca: %w\n%s", err, said)
	}
	return nil
}
