//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/catraca/catraca/internal/testenv"
)

// killing kills processes with SIGKILL, one at a time and at random moments, and starts each again. Half of the time it
// does not wait until the process serves before it looks for the next to kill, so that some die while they read their
// spool.
func killing(which func(*running) []*process, times int) func(context.Context, *running) error {
	return func(ctx context.Context, r *running) error {
		for range max(2, r.times(times)) {
			sleep(ctx, r.between(200*time.Millisecond, 1500*time.Millisecond))
			list := which(r)
			victim := list[r.dice.IntN(len(list))]
			if err := victim.kill(); err != nil {
				return err
			}
			r.hits++
			sleep(ctx, r.between(0, 300*time.Millisecond))
			if err := victim.start(); err != nil {
				return err
			}
			if r.dice.IntN(2) == 0 {
				if err := victim.await(ctx, time.Minute); err != nil {
					return err
				}
			}
		}
		for _, p := range which(r) {
			if err := p.await(ctx, time.Minute); err != nil {
				return err
			}
		}
		sleep(ctx, time.Second)
		return ctx.Err()
	}
}

func theProxies(r *running) []*process { return r.proxies }

// theWorkers are who records: the control planes, or the processes that are both.
func theWorkers(r *running) []*process {
	if len(r.controls) > 0 {
		return r.controls
	}
	return r.proxies
}

// redisStops halts Redis without a word to its clients: connections stay open and nothing is answered.
func redisStops(ctx context.Context, r *running) error {
	sleep(ctx, time.Second)
	if err := r.redis.Pause(); err != nil {
		return err
	}
	r.hits++
	sleep(ctx, r.lasting(30*time.Second))
	if err := r.redis.Resume(); err != nil {
		return err
	}
	sleep(ctx, time.Second)
	return ctx.Err()
}

// redisDies kills a Redis that keeps nothing on disk: each time all that it held is gone.
func redisDies(ctx context.Context, r *running) error {
	lost := 0
	for range max(2, r.times(5)) {
		sleep(ctx, r.between(500*time.Millisecond, 2*time.Second))
		if n, err := streamed(ctx, r.redis); err == nil {
			lost += n
		}
		r.redis.Kill()
		r.hits++
		sleep(ctx, r.between(0, 2*time.Second))
		if err := r.redis.Restart(); err != nil {
			return err
		}
	}
	r.note("%d events were in Redis when it died", lost)
	sleep(ctx, time.Second)
	return ctx.Err()
}

// redisFlushed empties Redis. The workers are held up before, so that there is something to lose.
func redisFlushed(ctx context.Context, r *running) error {
	lost := 0
	for range max(2, r.times(5)) {
		sleep(ctx, r.between(500*time.Millisecond, 2*time.Second))
		resume, err := holdUp(r)
		if err != nil {
			return err
		}
		sleep(ctx, r.between(300*time.Millisecond, time.Second))
		n, err := streamed(ctx, r.redis)
		err = errors.Join(err, flush(ctx, r.redis), resume())
		if err != nil {
			return err
		}
		lost += n
		r.hits++
	}
	r.note("%d events were in Redis when it was emptied", lost)
	sleep(ctx, time.Second)
	return ctx.Err()
}

// holdUp stops the control planes for a moment, so that events stay in Redis. Processes that are proxies too go on.
func holdUp(r *running) (resume func() error, err error) {
	var errs []error
	for _, c := range r.controls {
		errs = append(errs, c.pause())
	}
	return func() error {
		var errs []error
		for _, c := range r.controls {
			errs = append(errs, c.resume())
		}
		return errors.Join(errs...)
	}, errors.Join(errs...)
}

// redisFailsOver makes a replica the primary while the old primary still takes writes, as asynchronous replication
// allows at any time: what came in between was acknowledged and is lost. What the old one had deleted comes back.
func redisFailsOver(ctx context.Context, r *running) error {
	lost := 0
	for range max(1, r.times(5)) {
		n, err := failOver(ctx, r)
		if err != nil {
			return err
		}
		lost += n
		r.hits++
	}
	r.note("%d acknowledged events were lost by failovers", lost)
	if lost == 0 {
		return errors.New("the failover lost nothing: it proved nothing")
	}
	sleep(ctx, time.Second)
	return ctx.Err()
}

func failOver(ctx context.Context, r *running) (lost int, err error) {
	replica, err := testenv.StartRedis(false)
	if err != nil {
		return 0, err
	}
	r.retired = append(r.retired, replica) // stopped with the world whatever happens
	if err := replica.Follow(ctx, r.redis); err != nil {
		return 0, err
	}
	sleep(ctx, r.between(500*time.Millisecond, 1500*time.Millisecond))
	resume, err := holdUp(r)
	if err != nil {
		return 0, err
	}
	if err := replica.Promote(ctx); err != nil {
		return 0, errors.Join(err, resume())
	}
	sleep(ctx, r.between(300*time.Millisecond, time.Second))
	before, errOld := streams(ctx, r.redis)
	after, errNew := streams(ctx, replica)
	r.redis.Kill()
	err = errors.Join(errOld, errNew, replica.TakeOver(ctx, r.redis), resume())
	for key, ids := range before {
		kept := map[string]bool{}
		for _, id := range after[key] {
			kept[id] = true
		}
		for _, id := range ids {
			if !kept[id] {
				lost++
			}
		}
	}
	r.redis = replica
	return lost, err
}

// postgresRestarts restarts the database, by turns regularly and by force, and then leaves it stopped for a minute.
func postgresRestarts(ctx context.Context, r *running) error {
	for i := range max(2, r.times(5)) {
		sleep(ctx, r.between(time.Second, 2*time.Second))
		if i%2 == 1 {
			r.pg.Kill()
		}
		if err := r.pg.Restart(); err != nil {
			return err
		}
		r.hits++
	}
	sleep(ctx, time.Second)
	r.pg.Halt()
	sleep(ctx, r.lasting(time.Minute))
	if err := r.pg.Restart(); err != nil {
		return err
	}
	r.hits++
	sleep(ctx, time.Second)
	return ctx.Err()
}

// workersFight takes the shards away from whoever holds them, without telling it: the other takes them, and for a while
// both record the same events. In every other round one is stopped in the middle of it and goes on later.
func workersFight(ctx context.Context, r *running) error {
	stolen := 0
	workers := theWorkers(r)
	for i := range max(3, r.times(20)) {
		sleep(ctx, r.between(300*time.Millisecond, 1500*time.Millisecond))
		stopped := workers[r.dice.IntN(len(workers))]
		if i%2 == 0 {
			if err := stopped.pause(); err != nil {
				return err
			}
		}
		n, err := r.stealLocks(ctx)
		if i%2 == 0 {
			sleep(ctx, r.between(500*time.Millisecond, 2500*time.Millisecond))
			err = errors.Join(err, stopped.resume())
		}
		if err != nil {
			return err
		}
		stolen += n
		r.hits++
	}
	r.note("%d sessions lost their locks", stolen)
	if stolen == 0 {
		return errors.New("nobody held a lock: there was no fight")
	}
	sleep(ctx, time.Second)
	return ctx.Err()
}

// allDown takes Redis, Postgres and the control plane away, restarts a proxy in the middle of it, and brings all back.
func allDown(ctx context.Context, r *running) error {
	sleep(ctx, time.Second)
	for _, c := range r.controls {
		if err := c.kill(); err != nil {
			return err
		}
	}
	r.redis.Kill()
	r.pg.Kill()
	r.hits += 2 + len(r.controls)
	sleep(ctx, r.lasting(20*time.Second))
	for i, p := range r.proxies {
		err := errors.Join(p.kill(), p.start())
		if err == nil {
			err = p.await(ctx, 30*time.Second)
		}
		if err != nil {
			return fmt.Errorf("a proxy is restarted with everything else down: %w", err)
		}
		r.hits++
		if err := r.answers(ctx, i); err != nil {
			return err
		}
		sleep(ctx, r.lasting(10*time.Second))
	}
	if err := errors.Join(r.pg.Restart(), r.redis.Restart()); err != nil {
		return err
	}
	for _, c := range r.controls {
		if err := errors.Join(c.start(), c.await(ctx, time.Minute)); err != nil {
			return err
		}
	}
	sleep(ctx, 2*time.Second)
	return ctx.Err()
}

// answers makes sure that the load gets whole answers from a proxy that has just been restarted.
func (r *running) answers(ctx context.Context, proxy int) error {
	probe := newLoad(fmt.Sprintf("%s-restarted%d", r.name, proxy+1), r.wires[proxy:proxy+1], r.tenants, 1, uint64(r.o.seed))
	probe.plain = true
	probe.most.Store(int64(len(r.tenants)))
	probe.start(ctx)
	if err := probe.wait(ctx, int64(len(r.tenants))); err != nil {
		return err
	}
	probe.done.Wait()
	calls := probe.finish()
	r.load.adopt(calls)
	for _, c := range calls {
		if c.result != whole {
			return fmt.Errorf("a proxy that was restarted with everything else down answers %s %s", c.result, c.detail)
		}
	}
	return nil
}
