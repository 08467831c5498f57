package metering

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Housekeeper is a store with daily work.
type Housekeeper interface {
	// MakePartitions makes the log's partitions for the month of now and some months ahead.
	MakePartitions(ctx context.Context, now time.Time, ahead int) (made int, err error)
	// DropMonths lets go of what the log has of calls before a time, the beginning of a month. Roll-ups, watermarks and
	// dead letters stay: sums are what they were, and a repeat is still a repeat.
	DropMonths(ctx context.Context, before time.Time) (Dropped, error)
	// EraseLate erases from calls and dead letters that came late who was erased before they came, and counts them.
	EraseLate(ctx context.Context, now time.Time) (calls int, err error)
	// ShowPrices brings the registry's price columns to the prices in force.
	ShowPrices(ctx context.Context, now time.Time) error
}

// HouseOptions says how far the log reaches.
type HouseOptions struct {
	MonthsAhead int // partitions made for the future; 0: 3
	MonthsKept  int // months of calls kept beside the running one; 0: all, for ever
}

const (
	monthsAhead   = 3 // months of nobody looking may pass before rows go to the default partition
	houseEvery    = 6 * time.Hour
	houseAfterBad = 5 * time.Minute
)

// KeepHouse does a store's daily work until ctx ends. Any number of processes may do it at once.
func KeepHouse(ctx context.Context, s Housekeeper, opts HouseOptions, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if opts.MonthsAhead <= 0 {
		opts.MonthsAhead = monthsAhead
	}
	for {
		wait := houseEvery
		if err := tidyUp(ctx, s, opts, time.Now(), log); ctx.Err() != nil {
			return nil
		} else if err != nil {
			log.Warn("housekeeping of the ledger failed; trying again", "error", err, "in", houseAfterBad)
			wait = houseAfterBad
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// tidyUp does each of the chores once. One that fails keeps no other from being done.
func tidyUp(ctx context.Context, s Housekeeper, opts HouseOptions, now time.Time, log *slog.Logger) error {
	made, err := s.MakePartitions(ctx, now, opts.MonthsAhead)
	if made > 0 {
		log.Info("made partitions of the usage log", "count", made)
	}
	errs := []error{err}
	if opts.MonthsKept > 0 {
		dropped, err := s.DropMonths(ctx, KeptFrom(now, opts.MonthsKept))
		if dropped != (Dropped{}) {
			log.Info("let go of old months of the usage log", "before", KeptFrom(now, opts.MonthsKept), "partitions", dropped.Partitions, "rows", dropped.Rows)
		}
		errs = append(errs, err)
	}
	rows, err := s.EraseLate(ctx, now)
	if rows > 0 {
		log.Info("erased persons from calls that came late", "calls", rows)
	}
	return errors.Join(append(errs, err, s.ShowPrices(ctx, now))...)
}
