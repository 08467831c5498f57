package metering

import (
	"context"
	"testing"
	"time"
)

// savedRate is what some process has saved.
type savedRate struct {
	ExchangeRate
	at time.Time
}

func (s *savedRate) SaveRate(context.Context, ExchangeRate) error { return nil }

func (s *savedRate) LastRate(context.Context) (ExchangeRate, time.Time, error) {
	return s.ExchangeRate, s.at, nil
}

func TestReplicasAgreeOnTheRate(t *testing.T) {
	store := &savedRate{}
	r := NewRates(RatesConfig{Store: store})
	refresh := func(want string) {
		t.Helper()
		if err := r.Refresh(t.Context()); err != nil || r.Now().Rate.String() != want {
			t.Errorf("%s, %v; want %s", r.Now().Rate, err, want)
		}
	}
	refresh("5") // nothing was saved: the made-up one
	store.ExchangeRate, store.at = ExchangeRate{Rate: 510_000_000, Source: "ptax"}, time.Now().Add(-time.Hour)
	refresh("5.1") // anything is better than that
	r.Put(ExchangeRate{Rate: 520_000_000, Source: "ptax"})
	refresh("5.2") // ours is newer
	store.ExchangeRate, store.at = ExchangeRate{Rate: 530_000_000, Source: "manual"}, time.Now().Add(time.Second)
	refresh("5.3")
}
