package budget

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
	_ "time/tzdata" // slim images have no time zones, and every budget lives in one

	"github.com/google/uuid"
)

// Span is the period that an instant lies in, by the calendar of a zone: a day, a week from Monday, or a month from its
// billing day. It is a pure function: the spans of one calendar follow each other without gap or overlap, however many
// hours their days have.
func Span(p Period, billingDay int, zone *time.Location, at time.Time) (start, end time.Time) {
	year, month, day := at.In(zone).Date()
	start, end = spanOfDate(p, billingDay, zone, year, month, day)
	// A clock that is put back across midnight shows the evening's date again when the next day has begun.
	if !at.Before(end) {
		return spanOfDate(p, billingDay, zone, year, month, day+1)
	}
	return start, end
}

// spanOfDate is the period that a calendar day lies in.
func spanOfDate(p Period, billingDay int, zone *time.Location, year int, month time.Month, day int) (start, end time.Time) {
	noon := time.Date(year, month, day, 12, 0, 0, 0, time.UTC)
	year, month, day = noon.Date() // the 32nd of January is the 1st of February
	switch p {
	case Daily:
		return firstInstant(zone, year, month, day), firstInstant(zone, year, month, day+1)
	case Weekly:
		monday := day - (int(noon.Weekday())+6)%7
		return firstInstant(zone, year, month, monday), firstInstant(zone, year, month, monday+7)
	}
	if day < turnOf(year, month, billingDay) {
		month--
	}
	return monthTurn(zone, year, month, billingDay), monthTurn(zone, year, month+1, billingDay)
}

// monthTurn is where the billing month that turns in a calendar month begins.
func monthTurn(zone *time.Location, year int, month time.Month, billingDay int) time.Time {
	return firstInstant(zone, year, month, turnOf(year, month, billingDay))
}

// turnOf is the billing day as it falls in a month: a shorter month turns on its last day.
func turnOf(year int, month time.Month, billingDay int) int {
	last := time.Date(year, month+1, 0, 12, 0, 0, 0, time.UTC).Day()
	return min(max(billingDay, 1), last)
}

// firstInstant is where a calendar day begins. That is not always its midnight: some zones skip it when they put the clock
// forward, some have it twice when they put it back, and a day that a zone skipped whole (it moved across the date line)
// begins where the next one does. So what is searched is the first instant whose date is the day's or later.
func firstInstant(zone *time.Location, year int, month time.Month, day int) time.Time {
	noon := time.Date(year, month, day, 12, 0, 0, 0, time.UTC)
	year, month, day = noon.Date()
	reached := func(t time.Time) bool {
		y, m, d := t.In(zone).Date()
		return y > year || y == year && (m > month || m == month && d >= day)
	}
	midnight := time.Date(year, month, day, 0, 0, 0, 0, zone)
	if reached(midnight) && !reached(midnight.Add(-1)) && !reached(midnight.Add(-2*time.Hour)) {
		return midnight // nearly always
	}
	// No zone is further than a day from UTC. Steps of a minute first: a clock that is put back across midnight reaches the
	// day twice, and it begins the first time.
	before := noon.Add(-48 * time.Hour)
	for !reached(before.Add(time.Minute)) {
		before = before.Add(time.Minute)
	}
	after := before.Add(time.Minute)
	for after.Sub(before) > 1 {
		if middle := before.Add(after.Sub(before) / 2); reached(middle) {
			after = middle
		} else {
			before = middle
		}
	}
	return after.In(zone)
}

// WindowID names the window of a budget that begins at an instant (to the microsecond, which is what databases keep). No
// other window can ever have it, whatever is lost and made again. It is above zero.
func WindowID(budget uuid.UUID, startsAt time.Time) int64 {
	name := binary.BigEndian.AppendUint64(budget[:], uint64(startsAt.UnixMicro()))
	sum := sha256.Sum256(name)
	return int64(max(1, binary.BigEndian.Uint64(sum[:8])&^(1<<63)))
}

// zones are time zones by name, as far as they were needed: reading one takes longer than any use of it.
type zones map[string]*time.Location

// of is where a budget's calendar is. A name that is not known (any more) falls back to the default, for a budget that has
// no window would cap nothing.
func (z zones) of(b *Budget) *time.Location {
	if zone := z[b.TimeZone]; zone != nil {
		return zone
	}
	zone, err := time.LoadLocation(b.TimeZone)
	if err != nil || b.TimeZone == "" {
		zone, err = time.LoadLocation(DefaultZone)
	}
	if err != nil {
		panic("BUG: the zones that are built in lack " + DefaultZone)
	}
	z[b.TimeZone] = zone
	return zone
}

// zone is where the budget's calendar is.
func (b *Budget) zone() *time.Location { return zones{}.of(b) }

// place says where the budget's window lies that an instant belongs to, among those that there are: the one that is there,
// or the bounds of one to open. What is there stays as it is, so a new zone or billing day takes effect with the window
// that follows; that one begins where the last one ends. ok is false before the budget starts.
func (b *Budget) place(there []*Window, at time.Time) (w *Window, start, end time.Time, ok bool) {
	return b.placeIn(zones{}, there, at)
}

// placeIn is place with zones that may be known already.
func (b *Budget) placeIn(zs zones, there []*Window, at time.Time) (w *Window, start, end time.Time, ok bool) {
	var last, next time.Time // where the one before ends, and the one after begins
	for _, o := range there {
		switch {
		case o.BudgetID != b.ID:
		case o.StartsAt.After(at):
			if next.IsZero() || o.StartsAt.Before(next) {
				next = o.StartsAt
			}
		case o.EndsAt.After(at):
			return o, o.StartsAt, o.EndsAt, true
		default:
			last = later(last, o.EndsAt)
		}
	}
	if b.StartsAt.After(at) {
		return nil, start, end, false
	}
	start, end = Span(b.Period, b.BillingDay, zs.of(b), at)
	start = later(later(start, last), b.StartsAt).Truncate(time.Microsecond)
	if !next.IsZero() && next.Before(end) {
		end = next
	}
	return nil, start, end, true
}
