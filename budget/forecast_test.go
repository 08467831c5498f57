package budget

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// forecastWindow is November 2026 of a shop in São Paulo.
func forecastWindow(limit, used int64) *Window {
	zone, err := time.LoadLocation("America/Sao_Paulo")
	if err != nil {
		panic(err)
	}
	return &Window{
		ID: 1, Unit: Tokens, Period: Monthly, TimeZone: "America/Sao_Paulo", Base: limit, Unheld: used,
		StartsAt: time.Date(2026, 11, 1, 0, 0, 0, 0, zone), EndsAt: time.Date(2026, 12, 1, 0, 0, 0, 0, zone),
	}
}

// forecastPoints is the usage of hours before a time.
func forecastPoints(now time.Time, hours int, in func(time.Time) int64) (points []UsagePoint) {
	for h := now.Truncate(time.Hour).Add(-time.Duration(hours) * time.Hour); h.Before(now); h = h.Add(time.Hour) {
		if n := in(h); n != 0 {
			points = append(points, UsagePoint{h.UTC(), n})
		}
	}
	return points
}

func TestForecastGoesOnEvenlyWithoutHistory(t *testing.T) {
	w := forecastWindow(1000, 760)
	now := time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)
	got := Forecast(w, now, forecastPoints(now, 24, func(time.Time) int64 { return 10 }))
	want := []Crossing{{80, now.Add(4 * time.Hour)}, {90, now.Add(14 * time.Hour)}, {100, now.Add(24 * time.Hour)}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	// Two hours of history are two hours, and not a day of which 22 had none; usage of before yesterday is no pace.
	got = Forecast(w, now, forecastPoints(now, 2, func(time.Time) int64 { return 20 }))
	if len(got) != 3 || got[0].At.Sub(now) != 2*time.Hour {
		t.Errorf("of two hours: %v", got)
	}
	if got := Forecast(w, now, []UsagePoint{{now.Add(-48 * time.Hour), 1 << 40}}); got != nil {
		t.Errorf("nothing came for a day, and %v", got)
	}
	// A first call a minute ago is not a pace for the month.
	got = Forecast(w, now.Add(time.Minute), []UsagePoint{{now, 20}})
	if len(got) == 0 || got[0].At.Sub(now) < 2*time.Hour {
		t.Errorf("of one minute: %v", got)
	}
}

func TestForecastKnowsTheHoursOfTheWeek(t *testing.T) {
	zone := windowZone(forecastWindow(1, 0))
	open := func(h time.Time) int64 { // weekdays, nine to six
		h = h.In(zone)
		if h.Weekday() == time.Saturday || h.Weekday() == time.Sunday || h.Hour() < 9 || h.Hour() >= 18 {
			return 0
		}
		return 100
	}
	now := time.Date(2026, 11, 20, 17, 30, 0, 0, zone) // a Friday, half an hour before they close
	history := forecastPoints(now, 28*24, open)
	history[len(history)-1].Used = 50 // of the hour that is not over
	w := forecastWindow(10000, 7900)
	got := Forecast(w, now, history)
	// 50 more today make 7950, so 80 % is reached on Monday after half an hour; 90 % needs 1050, which is a day of 900 and one
	// hour and a half of the next; 100 % is 1000 further: a day and an hour.
	want := []Crossing{{80, time.Date(2026, 11, 23, 9, 30, 0, 0, zone)}, {90, time.Date(2026, 11, 24, 10, 30, 0, 0, zone)}, {100, time.Date(2026, 11, 25, 11, 30, 0, 0, zone)}}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i].Threshold != want[i].Threshold || got[i].At.Sub(want[i].At).Abs() > 10*time.Minute {
			t.Errorf("%d %% at %v, want %v", got[i].Threshold, got[i].At.In(zone), want[i].At)
		}
	}
	// Twice as much in the last week is twice the pace: everything comes sooner.
	doubled := forecastPoints(now, 28*24, func(h time.Time) int64 {
		if h.After(now.Add(-7 * 24 * time.Hour)) {
			return 2 * open(h)
		}
		return open(h)
	})
	sooner := Forecast(w, now, doubled)
	if len(sooner) != 3 || !sooner[2].At.Before(want[2].At.Add(-12*time.Hour)) {
		t.Errorf("of twice the pace: %v", sooner)
	}
}

func TestForecastOfWhatWillNotBe(t *testing.T) {
	now := time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)
	points := forecastPoints(now, 24, func(time.Time) int64 { return 10 })
	for name, got := range map[string][]Crossing{
		"reached already":       Forecast(forecastWindow(1000, 1000), now, points),
		"too far":               Forecast(forecastWindow(1_000_000, 10), now, points),
		"no usage":              Forecast(forecastWindow(1000, 10), now, nil),
		"only the future":       Forecast(forecastWindow(1000, 10), now, []UsagePoint{{now.Add(time.Hour), 500}}),
		"corrections only":      Forecast(forecastWindow(1000, 10), now, forecastPoints(now, 24, func(time.Time) int64 { return -10 })),
		"corrected for weeks":   Forecast(forecastWindow(1000, 10), now, forecastPoints(now, 600, func(time.Time) int64 { return -10 })),
		"no limit":              Forecast(forecastWindow(0, 0), now, points),
		"a window that is over": Forecast(forecastWindow(1000, 10), now.AddDate(0, 1, 0), points),
		"a window to come":      Forecast(forecastWindow(1000, 10), now.AddDate(0, -1, 0), points),
	} {
		if got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := Forecast(forecastWindow(1000, 950), now, points); len(got) != 1 || got[0].Threshold != 100 {
		t.Errorf("past 90 %%: %v", got)
	}
	if got := Forecast(forecastWindow(MaxLimit, share(MaxLimit, 80)), now, forecastPoints(now, 24, func(time.Time) int64 { return MaxLimit / 100 })); len(got) != 2 {
		t.Errorf("at the bounds: %v", got)
	}
}

// TestForecastIsInOrder holds on any history: crossings rise, lie ahead and within the window, and are where a simulation of
// the same pace, minute by minute, has them.
func TestForecastIsInOrder(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		limit := 1 + r.Int64N(1_000_000)
		w := forecastWindow(limit, r.Int64N(limit))
		w.TimeZone = []string{"America/Sao_Paulo", "Asia/Kolkata", "Europe/Lisbon", "", "Nowhere/Land"}[r.IntN(5)]
		now := w.StartsAt.Add(time.Duration(r.Int64N(int64(w.EndsAt.Sub(w.StartsAt)))))
		points := forecastPoints(now, 1+r.IntN(28*24), func(time.Time) int64 { return r.Int64N(1+limit/50) - limit/500 })
		got := Forecast(w, now, points)
		last := now
		for _, c := range got {
			if c.At.Before(last.Truncate(time.Second)) || c.At.After(w.EndsAt) || w.Used() >= share(limit, c.Threshold) {
				t.Fatalf("seed %d: now %v, window to %v, used %d of %d: %v", seed, now, w.EndsAt, w.Used(), limit, got)
			}
			last = c.At
		}
		pace := newPace(points, now, windowZone(w))
		if pace == nil {
			if got != nil {
				t.Fatalf("seed %d: no pace, and %v", seed, got)
			}
			continue
		}
		used, found := float64(w.Used()), map[int]time.Time{}
		for at := now; at.Before(w.EndsAt); at = at.Add(time.Minute) {
			used += pace(at) / 60
			for _, threshold := range []int{80, 90, 100} {
				if w.Used() < share(limit, threshold) && used >= float64(share(limit, threshold)) && found[threshold].IsZero() {
					found[threshold] = at
				}
			}
		}
		for _, c := range got {
			if at, ok := found[c.Threshold]; ok && math.Abs(at.Sub(c.At).Minutes()) > 90 {
				t.Fatalf("seed %d: %d %% at %v, minute by minute at %v", seed, c.Threshold, c.At, at)
			}
			delete(found, c.Threshold)
		}
		for threshold, at := range found {
			if at.Before(w.EndsAt.Add(-2 * time.Hour)) {
				t.Fatalf("seed %d: %d %% is reached at %v, and was not forecast: %v", seed, threshold, at, got)
			}
		}
	}
}
