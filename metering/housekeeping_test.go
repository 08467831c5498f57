package metering

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// fakeHouse fails in its first hour and notes what it is asked.
type fakeHouse struct {
	began         time.Time
	failed, fine  int
	months, shown map[string]bool
	kept          map[string]bool
	late          int
}

func (f *fakeHouse) MakePartitions(_ context.Context, now time.Time, ahead int) (int, error) {
	if now.Sub(f.began) < time.Hour {
		f.failed++
		return 0, errors.New("the database is away")
	}
	f.fine++
	f.months[time.Date(now.Year(), now.Month()+time.Month(ahead), 1, 0, 0, 0, 0, time.UTC).Format("2006-01")] = true
	return 1, nil
}

func (f *fakeHouse) DropMonths(_ context.Context, before time.Time) (Dropped, error) {
	f.kept[before.Format(time.DateOnly)] = true
	return Dropped{}, errors.New("the log is busy")
}

func (f *fakeHouse) EraseLate(context.Context, time.Time) (int, error) {
	f.late++
	return 1, nil
}

func (f *fakeHouse) ShowPrices(_ context.Context, now time.Time) error {
	f.shown[now.Format(time.DateOnly)] = true
	return nil
}

func TestKeepHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*24*time.Hour) // from 2000-01-01 on
		defer cancel()
		f := &fakeHouse{began: time.Now(), months: map[string]bool{}, shown: map[string]bool{}, kept: map[string]bool{}}
		if err := KeepHouse(ctx, f, HouseOptions{}, nil); err != nil {
			t.Error(err)
		}
		if f.failed != 12 || f.fine < 195 || f.fine > 200 {
			t.Errorf("%d tries failed, %d did not", f.failed, f.fine)
		}
		if len(f.shown) != 50 {
			t.Errorf("prices were looked at on %d days of 50", len(f.shown))
		}
		if len(f.months) != 2 || !f.months["2000-04"] || !f.months["2000-05"] {
			t.Errorf("the last months were %v", f.months)
		}
		if len(f.kept) != 0 || f.late != f.failed+f.fine {
			t.Errorf("with nothing to be let go of: %v; late calls looked for %d times", f.kept, f.late)
		}
	})
}

// A chore that fails is tried again soon, and keeps no other from being done.
func TestKeepHouseLetsGoOfMonths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 40*24*time.Hour) // from 2000-01-01 on
		defer cancel()
		f := &fakeHouse{months: map[string]bool{}, shown: map[string]bool{}, kept: map[string]bool{}}
		if err := KeepHouse(ctx, f, HouseOptions{MonthsAhead: 1, MonthsKept: 2}, nil); err != nil {
			t.Error(err)
		}
		if len(f.kept) != 2 || !f.kept["1999-11-01"] || !f.kept["1999-12-01"] {
			t.Errorf("kept from %v", f.kept)
		}
		if n := 40 * 24 * 12; f.late < n || len(f.shown) < 40 || !f.months["2000-03"] || len(f.months) != 2 {
			t.Errorf("%d rounds, prices on %d days, months %v", f.late, len(f.shown), f.months)
		}
	})
}

func TestKeptFrom(t *testing.T) {
	at := time.Date(2026, 1, 31, 23, 30, 0, 0, time.FixedZone("", -3*3600)) // February in UTC
	for months, want := range map[int]string{0: "2026-02-01", 1: "2026-01-01", 2: "2025-12-01", 26: "2023-12-01"} {
		if got := KeptFrom(at, months).Format(time.DateOnly); got != want {
			t.Errorf("%d months: kept from %s, want %s", months, got, want)
		}
	}
}
