package budget

import (
	"time"
	_ "time/tzdata"
)

// simDate is a day of the calendar, whatever the clocks of a zone do on it.
type simDate struct {
	year  int
	month time.Month
	day   int
}

func simDateOf(t time.Time) simDate {
	y, m, d := t.Date()
	return simDate{y, m, d}
}

// plus is so many days later.
func (d simDate) plus(days int) simDate {
	return simDateOf(time.Date(d.year, d.month, d.day+days, 12, 0, 0, 0, time.UTC))
}

func (d simDate) before(o simDate) bool {
	if d.year != o.year {
		return d.year < o.year
	}
	if d.month != o.month {
		return d.month < o.month
	}
	return d.day < o.day
}

func (d simDate) weekday() time.Weekday {
	return time.Date(d.year, d.month, d.day, 12, 0, 0, 0, time.UTC).Weekday()
}

// begins is the first instant of a day in a zone. It is searched for, second by second as it were: this is the oracle,
// and has nothing in common with the rules it judges.
func (d simDate) begins(zone *time.Location) time.Time {
	noon := time.Date(d.year, d.month, d.day, 12, 0, 0, 0, time.UTC).Unix()
	lo, hi := noon-48*3600, noon+15*3600 // the local date is before d at lo, and is not at hi
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		if simDateOf(time.Unix(mid, 0).In(zone)).before(d) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return time.Unix(hi, 0).UTC()
}

// simBilling is the day of a month that a period begins on.
func simBilling(year int, month time.Month, billing int) simDate {
	last := time.Date(year, month+1, 0, 12, 0, 0, 0, time.UTC)
	return simDate{last.Year(), last.Month(), min(billing, last.Day())}
}

// simSpan is the period that an instant lies in.
func simSpan(p Period, billing int, zone *time.Location, t time.Time) (from, to time.Time) {
	today := simDateOf(t.In(zone))
	first, next := today, today.plus(1)
	switch p {
	case Weekly:
		first = today.plus(-(int(today.weekday()) + 6) % 7)
		next = first.plus(7)
	case Monthly:
		first = simBilling(today.year, today.month, billing)
		if today.before(first) {
			first = simBilling(today.year, today.month-1, billing)
		}
		next = simBilling(first.year, first.month+1, billing)
	}
	return first.begins(zone), next.begins(zone)
}
