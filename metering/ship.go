package metering

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// How the shipper keeps time.
const (
	batchWait = 50 * time.Millisecond // for more, after the first
	pollEvery = time.Second           // for what the ledger has
	pollSoon  = 100 * time.Millisecond
	// patience is how long an event may be on its way before it is sent again. While nothing at all is acknowledged,
	// the ledger is down and not the queue: then it doubles, so that a queue is not filled with repeats.
	minPatience    = 30 * time.Second
	maxPatience    = 10 * time.Minute
	publishTimeout = 5 * time.Second
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 5 * time.Second
	// stopWait bounds the stop. What is not acknowledged by then is sent when the spool is next opened.
	stopWait = 5 * time.Second
)

// generations is what a queue may have beside Queue: a word that changes when it has lost what it held, so that it is
// sent again at once and not when patience ends.
type generations interface {
	Generation(ctx context.Context) (string, error)
}

// Shipper sends what ends up in a spool to a queue, again and again until the ledger has it.
type Shipper struct {
	spool *Spool
	queue Queue
	log   *slog.Logger

	batch      batch
	patience   time.Duration
	doubledAt  time.Time
	fresh      bool // something was acknowledged since patience was last looked at
	pollAt     time.Time
	retryAt    time.Time // the queue is down: not before
	backoff    time.Duration
	generation string

	// What a simulation replaces.
	now    func() time.Time
	jitter func(time.Duration) time.Duration // less than it is given
}

// NewShipper makes a shipper; Run does its work. A spool has one.
func NewShipper(s *Spool, q Queue, log *slog.Logger) *Shipper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Shipper{spool: s, queue: q, log: log, patience: minPatience, now: time.Now, jitter: rand.N[time.Duration]}
}

// Run ships until ctx ends. Then it sends the last batch and waits, within bounds, until the ledger has everything.
func (h *Shipper) Run(ctx context.Context) error {
	// What earlier incarnations left may be in the ledger already.
	h.poll(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(h.ship(ctx).Sub(h.now()))
		select {
		case <-ctx.Done():
			h.drain(context.WithoutCancel(ctx))
			return nil
		case <-timer.C:
		case <-h.spool.wake:
			h.gather(ctx)
		}
		if !h.now().Before(h.pollAt) {
			h.poll(ctx)
		}
	}
}

// gather gives a batch a moment to fill.
func (h *Shipper) gather(ctx context.Context) {
	if h.spool.unsent() >= maxBatch {
		return
	}
	timer := time.NewTimer(batchWait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-h.spool.wake: // it is full
	}
}

// ship sends all there is to send and tells when to come again.
func (h *Shipper) ship(ctx context.Context) (again time.Time) {
	for ctx.Err() == nil {
		now := h.now()
		if now.Before(h.retryAt) {
			return earlier(h.retryAt, h.pollAt)
		}
		if err := h.spool.take(&h.batch, now); err != nil {
			h.log.Error("spool could not be read; trying again", "err", err)
			h.pause(now)
		}
		if len(h.batch.messages) == 0 {
			break
		}
		if h.batch.repeats > 0 {
			h.losePatience(now)
		}
		if !h.publish(ctx, now) || len(h.batch.messages) < maxBatch {
			break
		}
	}
	if h.spool.read.full() {
		h.pollAt = earlier(h.pollAt, h.now().Add(pollSoon))
	}
	if !h.retryAt.IsZero() {
		return earlier(h.retryAt, h.pollAt)
	}
	return h.pollAt
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// publish hands the batch to the queue.
func (h *Shipper) publish(ctx context.Context, now time.Time) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := h.queue.Publish(ctx, h.batch.messages); err != nil {
		h.spool.posted(&h.batch, time.Time{})
		if h.backoff == 0 {
			h.log.Warn("usage queue is not taking events; they wait in the spool", "err", err)
		}
		h.pause(now)
		return false
	}
	h.spool.posted(&h.batch, now.Add(h.patience))
	if h.backoff > 0 {
		h.log.Info("usage queue is taking events again")
		h.backoff, h.retryAt = 0, time.Time{}
		h.pollAt = now // it may have come back empty
	}
	return true
}

func (h *Shipper) pause(now time.Time) {
	h.backoff = min(max(2*h.backoff, minBackoff), maxBackoff)
	h.retryAt = now.Add(h.backoff/2 + h.jitter(h.backoff/2)) // apart from the other processes
}

// losePatience is called when events are sent again.
func (h *Shipper) losePatience(now time.Time) {
	switch {
	case h.fresh:
		h.patience, h.fresh = minPatience, false
	case now.Sub(h.doubledAt) > h.patience/2: // once for all the batches of a round
		h.patience, h.doubledAt = min(2*h.patience, maxPatience), now
	}
}

// poll asks what the ledger has, and whether the queue still has what it was given.
func (h *Shipper) poll(ctx context.Context) {
	h.pollAt = h.now().Add(pollEvery)
	waiting := h.spool.waiting()
	if len(waiting) == 0 && h.generation != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for _, incarnation := range waiting {
		r, err := h.queue.Received(ctx, incarnation)
		if err != nil {
			h.log.Debug("usage queue did not tell what the ledger has", "incarnation", fmt.Sprintf("%016x", incarnation), "err", err)
			if ctx.Err() != nil {
				return
			}
			continue // what is wrong with one must not hold up the others
		}
		if h.spool.Acknowledge(incarnation, r) > 0 {
			h.fresh = true
		}
	}
	q, ok := h.queue.(generations)
	if !ok {
		return
	}
	generation, err := q.Generation(ctx)
	if err != nil {
		h.log.Debug("usage queue did not tell its generation", "err", err)
		return
	}
	if h.generation != "" && h.generation != generation {
		if n := h.spool.resend(); n > 0 {
			h.log.Warn("usage queue has lost what it held; sending it again", "events", n)
		}
	}
	h.generation = generation
}

// drain is the stop: everything is sent, and acknowledged if that comes in time.
func (h *Shipper) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	h.retryAt = time.Time{}
	for {
		h.ship(ctx)
		h.poll(ctx)
		depth := h.spool.Stats().Depth
		if depth == 0 {
			return
		}
		timer := time.NewTimer(pollSoon)
		select {
		case <-ctx.Done():
			timer.Stop()
			h.log.Warn("stopping before the ledger has all usage; the rest is in the spool for the next start", "events", depth)
			return
		case <-timer.C:
		}
	}
}
