//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// drainLimit is how long the road may take to be empty: as long as options say for what waits to be sent again, which by
// default is longer than an event waits, twice over,
// and for each estimate as long as a corrector takes, which asks the gateway ten times a second at most, and again half
// a minute later where it was too early.
func (w *world) drainLimit(ctx context.Context) time.Duration {
	const each = 200 * time.Millisecond
	road := w.o.patience
	n, err := w.estimatesWaiting(ctx)
	if err != nil {
		return road // the database may be on its way back; what is wrong with it will show
	}
	return road + time.Duration(n)*each
}

// drain waits until nothing is under way any more: no call open upstream or at a proxy, no spool and no stream with
// anything in it, and with lookups no estimate that the gateway has still to be asked about.
func (w *world) drain(ctx context.Context, limit time.Duration, lookups bool) (took time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for quiet := 0; ; {
		rest, err := w.underWay(ctx, lookups)
		if err == nil && rest == "" {
			if quiet++; quiet == 2 { // between two looks something could have moved from one place to the other
				return time.Since(began), nil
			}
		} else {
			quiet = 0
		}
		select {
		case <-ctx.Done():
			after := context.WithoutCancel(ctx)
			return time.Since(began), fmt.Errorf("after %s this is still under way: %s (%v); the streams:\n%s\nthe database's sessions:\n%s",
				limit, rest, err, pending(after, w.redis), w.sessionsOf(after))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// underWay names what has not arrived; empty when all has.
func (w *world) underWay(ctx context.Context, lookups bool) (string, error) {
	var rest []string
	note := func(n int, what string) {
		if n > 0 {
			rest = append(rest, fmt.Sprintf("%d %s", n, what))
		}
	}
	stats, err := w.stats(ctx)
	if err != nil {
		return "", err
	}
	note(stats.Open-1, "calls open upstream") // the asking one is open too
	for i, url := range w.reports {
		values, err := metrics(ctx, url+"/metrics")
		if err != nil {
			return "", err
		}
		for _, name := range []string{"catraca_spool_depth", "catraca_spool_open_calls"} {
			value, ok := values[name]
			if !ok {
				return "", fmt.Errorf("%s tells no %s", w.proxies[i].name, name)
			}
			note(int(value), name+" at "+w.proxies[i].name)
		}
	}
	n, err := streamed(ctx, w.redis)
	if err != nil {
		return "", err
	}
	note(n, "entries in streams")
	if !lookups {
		return strings.Join(rest, ", "), nil
	}
	if n, err = w.estimatesWaiting(ctx); err != nil {
		return "", err
	}
	note(n, "estimates to look up")
	return strings.Join(rest, ", "), nil
}

// metrics reads what a process tells Prometheus: the series without labels.
func metrics(ctx context.Context, url string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, found := strings.Cut(lines.Text(), " ")
		if value, err := strconv.ParseFloat(text, 64); found && err == nil {
			values[name] = value
		}
	}
	return values, lines.Err()
}

// collect gathers what all sides say, now that nothing moves.
func (w *world) collect(ctx context.Context, calls []*call) (*evidence, error) {
	ev := &evidence{calls: calls}
	if err := w.readJournal(ctx, ev); err != nil {
		return nil, err
	}
	var err error
	if ev.corrects, err = w.corrects(ctx); err != nil {
		return nil, err
	}
	ev.corrects = ev.corrects && !w.o.hasty
	return ev, w.readLedger(ctx, ev)
}

// audit runs Catraca's own, where it has one, and keeps what it says.
func (w *world) audit(ctx context.Context, v *verdict) error {
	if _, err := w.command(ctx, "audit", "--help"); err != nil {
		return nil // this build has none
	}
	said, err := w.command(ctx, "audit", "--simulator", w.simulator())
	if writeErr := os.WriteFile(filepath.Join(w.dir, "audit.txt"), said, 0o600); writeErr != nil {
		return writeErr
	}
	v.audited = "equal"
	if err != nil {
		v.audited = "BROKEN"
		v.wrong++
		v.complain("catraca audit: %v:\n%s", err, said)
	}
	return nil
}
