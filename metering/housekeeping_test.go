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

func (f *fakeHouse) ShowPrices(_ context.Context, now time.Time) error {
	f.shown[now.Format(time.DateOnly)] = true
	return nil
}

func TestKeepHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*24*time.Hour) // from 2000-01-01 on
		defer cancel()
		f := &fakeHouse{began: time.Now(), months: map[string]bool{}, shown: map[string]bool{}}
		if err := KeepHouse(ctx, f, nil); err != nil {
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
	})
}
