package budget

import (
	"time"
)

// UsagePoint is what was used in an hour, in a budget's unit. Hours without usage need no point.
type UsagePoint struct {
	Hour time.Time // its beginning
	Used int64
}

// Crossing is when a threshold will be reached, as things look.
type Crossing struct {
	Threshold int       `json:"threshold"` // percent
	At        time.Time `json:"at"`
}

// ForecastHistory is how much of the past a forecast has a use for: four of each hour of the week.
const ForecastHistory = 28 * 24 * time.Hour

// leastHistory is how much of it tells one day of the week from another: each at least twice. With less, the last day's
// usage is taken to go on evenly.
const leastHistory = 14 * 24 * time.Hour

// Forecast tells when 80, 90 and 100 % of a window's limit will be reached, of those that were not yet and will be before
// the window ends. recent is the usage of the client before now, the window's own included.
//
// People write to shops by day, and on some days more than on others. So each hour to come is expected to bring what that
// hour of the week brought on average, times how much more or less the last week was than the weeks before it.
func Forecast(w *Window, now time.Time, recent []UsagePoint) []Crossing {
	limit := w.Limit()
	if limit <= 0 || now.Before(w.StartsAt) || !now.Before(w.EndsAt) {
		return nil
	}
	var goals []int
	for _, threshold := range []int{80, 90, 100} {
		if w.Used() < share(limit, threshold) {
			goals = append(goals, threshold)
		}
	}
	expect := newPace(recent, now, windowZone(w))
	if expect == nil {
		return nil
	}
	var crossings []Crossing
	used := float64(w.Used())
	for from := now; from.Before(w.EndsAt) && len(goals) > 0; {
		to := from.Truncate(time.Hour).Add(time.Hour)
		if to.After(w.EndsAt) {
			to = w.EndsAt
		}
		brings := expect(from) * to.Sub(from).Hours()
		for len(goals) > 0 {
			missing := float64(share(limit, goals[0])) - used
			if missing > brings || brings <= 0 {
				break
			}
			at := from.Add(time.Duration(max(0, missing) / brings * float64(to.Sub(from))))
			crossings = append(crossings, Crossing{goals[0], at.Truncate(time.Second)})
			goals = goals[1:]
		}
		used += brings
		from = to
	}
	return crossings
}

func windowZone(w *Window) *time.Location {
	b := Budget{TimeZone: w.TimeZone}
	return b.zone()
}

// newPace gives the usage to expect in an hour, for any time to come; nil when nothing was used.
func newPace(recent []UsagePoint, now time.Time, zone *time.Location) func(time.Time) float64 {
	first := now
	var lastDay float64
	for _, p := range recent {
		if p.Used == 0 || !p.Hour.Before(now) {
			continue
		}
		if p.Hour.Before(first) {
			first = p.Hour
		}
		lastDay += float64(p.Used) * overlap(p.Hour, now.Add(-24*time.Hour), now)
	}
	if first.Equal(now) {
		return nil
	}
	if now.Sub(first) < leastHistory {
		hours := max(1, min(24, now.Sub(first).Hours()))
		return func(time.Time) float64 { return lastDay / hours }
	}
	return weekly(recent, first, now, zone)
}

// overlap is the part of an hour that lies between two times.
func overlap(hour, from, to time.Time) float64 {
	end := hour.Add(time.Hour)
	if hour.Before(from) {
		hour = from
	}
	if end.After(to) {
		end = to
	}
	return max(0, end.Sub(hour).Hours())
}

// hourOfWeek is the hour of the week by the clock on the wall.
func hourOfWeek(t time.Time, zone *time.Location) int {
	t = t.In(zone)
	return int(t.Weekday())*24 + t.Hour()
}

// weekly is the pace of each hour of the week: the average since first, with the level of the last seven days.
func weekly(recent []UsagePoint, first, now time.Time, zone *time.Location) func(time.Time) float64 {
	var used, hours [7 * 24]float64
	for h := first.Truncate(time.Hour); h.Before(now); h = h.Add(time.Hour) {
		hours[hourOfWeek(h, zone)] += overlap(h, first, now)
	}
	lastWeek := now.Add(-7 * 24 * time.Hour)
	var all, last float64
	for _, p := range recent {
		if !p.Hour.Before(now) {
			continue
		}
		// Of the hour that is not over, all that is known is what has come so far.
		used[hourOfWeek(p.Hour, zone)] += float64(p.Used)
		all += float64(p.Used)
		last += float64(p.Used) * overlap(p.Hour, lastWeek, p.Hour.Add(time.Hour))
	}
	if all <= 0 {
		return nil
	}
	weeks := now.Sub(first).Hours() / (7 * 24)
	level := last / (all / weeks)
	return func(t time.Time) float64 {
		h := hourOfWeek(t, zone)
		if hours[h] == 0 {
			return 0
		}
		return used[h] / hours[h] * level
	}
}
