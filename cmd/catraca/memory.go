package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A proxy holds what it knows of its tenants for as long as they call: with very many of them, memory that lives long. Go
// would take as much again for garbage before it collects. So from a certain size on it is given a fixed room for garbage
// instead, and collects a little more often. Whoever sets GOGC or GOMEMLIMIT decides alone.
const (
	garbageRoom   = 20 << 20 // bytes
	leastPercent  = 20       // of what lives: below it, collecting would be most of the work
	mostPercent   = 100      // Go's own
	collectorLook = 5 * time.Second
	liveHeap      = "/gc/heap/live:bytes"
)

// gcPercent is how much garbage may lie about before it is collected, in percent of the heap that lives.
func gcPercent(live uint64) int {
	if live <= garbageRoom {
		return mostPercent
	}
	return max(leastPercent, int(garbageRoom*100/live))
}

// tuneCollector keeps the room for garbage in proportion, until ctx ends.
func tuneCollector(ctx context.Context) error {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		<-ctx.Done()
		return nil
	}
	sample := []metrics.Sample{{Name: liveHeap}}
	now := mostPercent
	tick := time.NewTicker(collectorLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(sample)
		if sample[0].Value.Kind() != metrics.KindUint64 {
			continue // a Go that does not tell
		}
		// Small changes are not worth the pause that setting it takes.
		if percent := gcPercent(sample[0].Value.Uint64()); percent < now-2 || percent > now+2 {
			debug.SetGCPercent(percent)
			now = percent
		}
	}
}
