//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// diskBytes has room for one segment of the spool and a little beside it.
const diskBytes = 18 << 20

// mountDisk gives the proxy a disk of its own that can be filled.
func mountDisk(r *running) error {
	if os.Getuid() != 0 {
		return fmt.Errorf("%w: only root can mount a disk to fill", errSkipped)
	}
	dir := filepath.Join(r.dir, "disk")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := syscall.Mount("catraca-crash", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes))
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w: this machine lets nobody mount a disk to fill", errSkipped)
	}
	if err != nil {
		return fmt.Errorf("mount a disk of %d bytes: %w", diskBytes, err)
	}
	r.cleanups = append(r.cleanups, func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	r.plan.dataDir = dir
	return nil
}

// diskFills fills the disk under the spool in the two ways that it happens: something else takes the room, and the proxy
// is started so; or the ledger takes nothing, and the spool fills by itself.
func diskFills(ctx context.Context, r *running) error {
	if err := strangerFills(ctx, r); err != nil {
		return err
	}
	if !r.o.short {
		return spoolFills(ctx, r)
	}
	return nil
}

// strangerFills restarts the proxy on a disk without room. It must start, refuse calls, and take them once there is room.
func strangerFills(ctx context.Context, r *running) error {
	sleep(ctx, time.Second)
	p := r.proxies[0]
	r.load.paused.Store(true)
	if _, err := r.drain(ctx, time.Minute, false); err != nil {
		return err
	}
	p.stop() // so that it leaves no segment
	ballast := filepath.Join(r.plan.dataDir, "ballast")
	if err := fill(ballast); err != nil {
		return err
	}
	if err := errors.Join(p.start(), p.await(ctx, 30*time.Second)); err != nil {
		return fmt.Errorf("a proxy is started on a full disk: %w", err)
	}
	r.hits++
	r.load.paused.Store(false)
	if err := r.met(ctx, 20*time.Second, refusedForRoom); err != nil {
		return fmt.Errorf("with the disk full: %w", err)
	}
	sleep(ctx, time.Second)
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if err := r.met(ctx, 30*time.Second, gotWhole); err != nil {
		return fmt.Errorf("with room on the disk again: %w", err)
	}
	sleep(ctx, 2*time.Second)
	return ctx.Err()
}

// fill takes all the room that a disk has.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}

// spoolFills holds Redis until the spool has no room, kills the proxy on top of that, and lets Redis go on.
func spoolFills(ctx context.Context, r *running) error {
	if err := r.redis.Pause(); err != nil {
		return err
	}
	filler := newLoad(r.name+"-filler", r.wires, r.tenants, 32, uint64(r.o.seed))
	filler.plain, filler.padding = true, "-"+strings.Repeat("x", 200)
	before := r.load
	before.paused.Store(true)
	filler.start(ctx)
	r.load = filler
	err := r.met(ctx, 4*time.Minute, refusedForRoom)
	calls := filler.finish()
	before.adopt(calls)
	r.load = before
	before.paused.Store(false)
	if err != nil {
		return fmt.Errorf("the spool is to fill (%d calls): %w", len(calls), err)
	}
	r.note("%d calls filled the spool", len(calls))
	r.hits++
	sleep(ctx, 2*time.Second)
	p := r.proxies[0]
	if err := errors.Join(p.kill(), p.start(), p.await(ctx, 30*time.Second)); err != nil {
		return fmt.Errorf("a proxy is restarted with its spool full: %w", err)
	}
	r.hits++
	sleep(ctx, 2*time.Second)
	if err := r.redis.Resume(); err != nil {
		return err
	}
	if err := r.met(ctx, 2*time.Minute, gotWhole); err != nil {
		return fmt.Errorf("with the spool shipped: %w", err)
	}
	sleep(ctx, 2*time.Second)
	return ctx.Err()
}

func refusedForRoom(c *call) bool {
	return c.result == ours && strings.HasSuffix(c.detail, spoolRefusal)
}
func gotWhole(c *call) bool { return c.result == whole }

// met waits until some client of the load, in a call that began after now, met what is looked for.
func (r *running) met(ctx context.Context, limit time.Duration, is func(*call) bool) error {
	since := r.load.recorded()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; sleep(ctx, 50*time.Millisecond) {
		if r.load.anyEnded(since, is) {
			return nil
		}
	}
	return fmt.Errorf("in %s no client met what it should", limit)
}
