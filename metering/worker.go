package metering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Consumer is what a worker needs of a queue. A shard is consumed by one goroutine at a time.
type Consumer interface {
	Shards() int
	// Claim begins to consume a shard: what was handed out to an earlier worker and not done is handed out again first.
	Claim(ctx context.Context, shard int) error
	// Next hands out some events, the most asked for at most. With none there it waits so long and gives none.
	Next(ctx context.Context, shard, most int, wait time.Duration) ([]Delivery, error)
	// Done says that the ledger has these, or has parked them, and that the queue may forget them.
	Done(ctx context.Context, shard int, ds []Delivery) error
	// PublishReceived lets the spools know what the ledger has of an incarnation.
	PublishReceived(ctx context.Context, shard int, incarnation uint64, r Ranges) error
}

// Delivery is one event as a queue hands it out.
type Delivery struct {
	ID      string // the queue's
	Payload []byte
	Spoilt  error // why the queue would not trust it; nil for nearly all
}

// ShardLock keeps workers of other processes off a shard. It is for speed, not for truth: two workers on one shard make
// each other wait on the same rows, and the ledger stays exact.
type ShardLock interface {
	// Acquire waits until the shard is ours. release gives it back.
	Acquire(ctx context.Context, shard int) (release func(), err error)
}

// How the worker keeps time.
const (
	idleWait       = time.Second // for an event to come
	recordTimeout  = 30 * time.Second
	receivedEvery  = 500 * time.Millisecond // at the most, for a shard
	maxLedgerPause = 10 * time.Second
	// wholeTries is how often a batch is tried as it is before it is taken apart: most errors are a database that was
	// away for a moment.
	wholeTries = 2
	// poisonTries is how often one event must fail, while others succeed, to be held for the cause.
	poisonTries = 5
	poisonWait  = time.Minute
)

// Worker brings events from a queue into the ledger.
type Worker struct {
	ledger   Ledger
	consumer Consumer
	lock     ShardLock
	log      *slog.Logger
	success  atomic.Int64 // when the ledger last took something, in ns; any shard's

	recorded, deadLetters, failures atomic.Int64

	// What a simulation replaces.
	now   func() time.Time
	sleep func(ctx context.Context, d time.Duration)
}

// WorkerStats counts what a worker did since it began.
type WorkerStats struct {
	Recorded    int64 // events the ledger took, repeats included
	DeadLetters int64
	Failures    int64 // of the ledger or the queue; each is tried again
}

// NewWorker makes a worker for all shards of a queue. lock may be nil where no other process consumes them.
func NewWorker(ledger Ledger, c Consumer, lock ShardLock, log *slog.Logger) *Worker {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Worker{ledger: ledger, consumer: c, lock: lock, log: log, now: time.Now, sleep: sleep}
}

// Stats tells what the worker did.
func (w *Worker) Stats() WorkerStats {
	return WorkerStats{Recorded: w.recorded.Load(), DeadLetters: w.deadLetters.Load(), Failures: w.failures.Load()}
}

// Run consumes until ctx ends; what it holds by then it still records.
func (w *Worker) Run(ctx context.Context) error {
	var shards sync.WaitGroup
	for shard := range w.consumer.Shards() {
		shards.Go(func() { w.runShard(ctx, shard) })
	}
	shards.Wait()
	return nil
}

func (w *Worker) runShard(ctx context.Context, shard int) {
	var pause time.Duration
	for ctx.Err() == nil {
		began := w.now()
		err := w.holdShard(ctx, shard)
		if ctx.Err() != nil || err == nil {
			return
		}
		w.failures.Add(1)
		if w.now().Sub(began) > maxLedgerPause {
			pause = 0 // it worked for a while
		}
		if pause == 0 {
			w.log.Warn("usage worker lost its shard; trying again", "shard", shard, "err", err)
		}
		pause = nextPause(pause)
		w.sleep(ctx, pause)
	}
}

func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, minBackoff), maxLedgerPause)
}

// sleep waits, and less when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// holdShard takes the shard and consumes it until something fails.
func (w *Worker) holdShard(ctx context.Context, shard int) error {
	if w.lock != nil {
		release, err := w.lock.Acquire(ctx, shard)
		if err != nil {
			return fmt.Errorf("acquire shard %d: %w", shard, err)
		}
		defer release()
	}
	if err := w.consumer.Claim(ctx, shard); err != nil {
		return fmt.Errorf("claim shard %d: %w", shard, err)
	}
	c := w.consume(shard)
	for {
		if last, err := c.round(ctx); last {
			return err
		}
	}
}

func (w *Worker) consume(shard int) *consumption {
	return &consumption{Worker: w, shard: shard, dirty: make(map[uint64]bool)}
}

// round is a batch, from the queue into the ledger.
func (c *consumption) round(ctx context.Context) (last bool, err error) {
	ds, err := c.fetch(ctx)
	// A stop takes effect once what was fetched is recorded and told: it cuts nothing short.
	work := context.WithoutCancel(ctx)
	err = errors.Join(err, c.settle(work, ds))
	last = err != nil || ctx.Err() != nil
	c.publish(work, last)
	return last, err
}

// consumption is one shard while it is ours.
type consumption struct {
	*Worker
	shard       int
	held        []*attempt // not in the ledger yet, for it failed
	tries       int        // in a row that left something held
	pause       time.Duration
	dirty       map[uint64]bool // incarnations of which the ledger has news
	publishedAt time.Time
}

// attempt is an event that is to be recorded.
type attempt struct {
	Delivery
	event   Event
	settled bool
	since   int64 // when a batch with it first failed, or when it was last held against it, in ns
	fails   int   // alone, each after the ledger took others since then
}

// fetch gets the next batch: as it comes when there is much, after a moment of waiting when there is little.
func (c *consumption) fetch(ctx context.Context) (ds []Delivery, err error) {
	most := maxBatch - len(c.held)
	if len(c.held) > 0 {
		c.sleep(ctx, c.pause)
		if most == 0 {
			return nil, nil
		}
		return c.consumer.Next(ctx, c.shard, most, 0)
	}
	wait := idleWait
	if len(c.dirty) > 0 {
		wait = receivedEvery
	}
	ds, err = c.consumer.Next(ctx, c.shard, most, wait)
	if err != nil || len(ds) == 0 || len(ds) == most {
		return ds, err
	}
	c.sleep(ctx, batchWait)
	more, err := c.consumer.Next(ctx, c.shard, most-len(ds), 0)
	return append(ds, more...), err
}

// settle records what is held and what has come. An error is the queue's; where the ledger fails, events stay held.
func (c *consumption) settle(ctx context.Context, ds []Delivery) error {
	batch := c.held
	for _, d := range ds {
		a := &attempt{Delivery: d}
		if a.Spoilt == nil {
			a.Spoilt = a.event.Decode(d.Payload)
		}
		batch = append(batch, a)
	}
	if len(batch) == 0 {
		return nil
	}
	fine := make([]*attempt, 0, len(batch))
	for _, a := range batch {
		if a.Spoilt == nil {
			fine = append(fine, a)
		} else {
			c.bury(ctx, a, a.Spoilt)
		}
	}
	c.record(ctx, fine)

	c.held = nil
	done := make([]Delivery, 0, len(batch))
	for _, a := range batch {
		if a.settled {
			done = append(done, a.Delivery)
		} else {
			c.held = append(c.held, a)
		}
	}
	if len(c.held) == 0 {
		c.tries, c.pause = 0, 0
	} else {
		c.tries++
		c.pause = nextPause(c.pause)
	}
	if len(done) == 0 {
		return nil
	}
	if err := c.consumer.Done(ctx, c.shard, done); err != nil {
		return fmt.Errorf("take %d events off the queue: %w", len(done), err)
	}
	return nil
}

// record tries a batch whole. When that has failed more than once, or can never succeed, it takes it apart.
func (c *consumption) record(ctx context.Context, batch []*attempt) {
	if len(batch) == 0 {
		return
	}
	fresh := slices.ContainsFunc(batch, func(a *attempt) bool { return a.since == 0 })
	err := c.try(ctx, batch)
	if err == nil {
		return
	}
	// With a ledger that is down it is no use to take a large batch apart each time: it is done when it has something
	// new in it, and else less and less often.
	apart := c.tries >= wholeTries && (fresh || len(batch) <= 8 || bits.OnesCount(uint(c.tries)) == 1)
	if len(batch) > 1 && !apart && !errors.Is(err, ErrUnrecordable) {
		return
	}
	budget := bisectBudget(len(batch))
	c.bisect(ctx, batch, err, &budget)
}

// bisectBudget is how many failures with no success between them are tried before the ledger is held to be down: so
// many that a single poisoned event among them is found.
func bisectBudget(n int) int { return 2*bits.Len(uint(n)) + 4 }

// bisect finds in a batch that failed what can be recorded.
func (c *consumption) bisect(ctx context.Context, batch []*attempt, err error, budget *int) {
	if len(batch) == 1 {
		c.failed(ctx, batch[0], err)
		return
	}
	for _, half := range [][]*attempt{batch[:len(batch)/2], batch[len(batch)/2:]} {
		if *budget <= 0 {
			return
		}
		err := c.try(ctx, half)
		if err == nil {
			*budget = bisectBudget(len(batch))
			continue
		}
		if !errors.Is(err, ErrUnrecordable) {
			*budget--
		}
		c.bisect(ctx, half, err, budget)
	}
}

// try records a batch, all of it or nothing.
func (c *consumption) try(ctx context.Context, batch []*attempt) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	events := make([]Event, len(batch))
	for i, a := range batch {
		events[i] = a.event
	}
	if err := c.ledger.Record(ctx, events); err != nil {
		if c.failures.Add(1); c.tries == 0 {
			c.log.Warn("ledger did not take a batch; trying again", "shard", c.shard, "events", len(batch), "err", err)
		}
		now := c.now().UnixNano()
		for _, a := range batch {
			if a.since == 0 {
				a.since = now
			}
		}
		return err
	}
	c.success.Store(c.now().UnixNano())
	c.recorded.Add(int64(len(batch)))
	for _, a := range batch {
		a.settled = true
		c.dirty[a.event.Incarnation] = true
	}
	return nil
}

// failed notes that an event failed alone. It is parked when no try can help, or when it has failed again and again
// while the ledger took others: with only failures around, the cause may be the ledger.
func (c *consumption) failed(ctx context.Context, a *attempt, err error) {
	// After the first time, an outage that begins now must not be held against it: others succeed again in between, or
	// it is given time.
	now := c.now()
	if c.success.Load() >= a.since || a.fails > 0 && now.UnixNano()-a.since >= int64(poisonWait) {
		a.fails++
		a.since = now.UnixNano()
	}
	if errors.Is(err, ErrUnrecordable) || a.fails >= poisonTries {
		c.bury(ctx, a, err)
	}
}

// bury parks an event among the dead letters.
func (c *consumption) bury(ctx context.Context, a *attempt, why error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if err := c.ledger.DeadLetter(ctx, a.Payload, a.event, why.Error()); err != nil {
		c.failures.Add(1)
		c.log.Warn("ledger did not take a dead letter; trying again", "shard", c.shard, "err", err)
		return
	}
	a.settled = true
	c.deadLetters.Add(1)
	if a.event.Incarnation != 0 {
		c.dirty[a.event.Incarnation] = true
	}
	c.log.Error("usage event parked among the dead letters", "incarnation", fmt.Sprintf("%016x", a.event.Incarnation),
		"seq", a.event.Seq, "reason", why)
}

// publish tells the spools what the ledger has, now and then.
func (c *consumption) publish(ctx context.Context, now bool) {
	if len(c.dirty) == 0 || !now && c.now().Sub(c.publishedAt).Abs() < receivedEvery {
		return
	}
	c.publishedAt = c.now()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for _, incarnation := range slices.Sorted(maps.Keys(c.dirty)) {
		r, err := c.ledger.Received(ctx, incarnation)
		if err == nil {
			err = c.consumer.PublishReceived(ctx, c.shard, incarnation, r)
		}
		if err != nil { // it stays dirty, and at the worst the spool sends its events again
			c.failures.Add(1)
			c.log.Debug("spools could not be told what the ledger has", "err", err)
			return
		}
		delete(c.dirty, incarnation)
	}
}
