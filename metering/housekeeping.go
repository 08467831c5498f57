package metering

import (
	"context"
	"log/slog"
	"time"
)

// Housekeeper is a store with daily work.
type Housekeeper interface {
	// MakePartitions makes the log's partitions for the month of now and some months ahead.
	MakePartitions(ctx context.Context, now time.Time, ahead int) (made int, err error)
	// ShowPrices brings the registry's price columns to the prices in force.
	ShowPrices(ctx context.Context, now time.Time) error
}

const (
	monthsAhead   = 3 // months of nobody looking may pass before rows go to the default partition
	houseEvery    = 6 * time.Hour
	houseAfterBad = 5 * time.Minute
)

// KeepHouse does a store's daily work until ctx ends. Any number of processes may do it at once.
func KeepHouse(ctx context.Context, s Housekeeper, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for {
		wait := houseEvery
		made, err := s.MakePartitions(ctx, time.Now(), monthsAhead)
		if err == nil {
			err = s.ShowPrices(ctx, time.Now())
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Warn("housekeeping of the ledger failed; trying again", "error", err, "in", houseAfterBad)
			wait = houseAfterBad
		case made > 0:
			log.Info("made partitions of the usage log", "count", made)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
