package budget

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// calendarZones have every kind of odd day: clocks changed at midnight, by half an hour, twice a year or never; days skipped.
var calendarZones = strings.Fields(`UTC America/Sao_Paulo America/Manaus America/Noronha America/Asuncion America/Santiago America/Punta_Arenas
	America/Havana America/St_Johns America/New_York America/Los_Angeles America/Mexico_City America/Bogota America/Caracas America/Nuuk
	America/Scoresbysund America/Argentina/Buenos_Aires America/Montevideo Atlantic/Azores Atlantic/Reykjavik Europe/Lisbon Europe/London
	Europe/Berlin Europe/Moscow Europe/Istanbul Africa/Cairo Africa/Casablanca Africa/El_Aaiun Africa/Johannesburg Africa/Lagos Asia/Beirut
	Asia/Gaza Asia/Hebron Asia/Amman Asia/Damascus Asia/Tehran Asia/Kabul Asia/Kolkata Asia/Kathmandu Asia/Yangon Asia/Shanghai Asia/Tokyo
	Asia/Kamchatka Australia/Sydney Australia/Lord_Howe Australia/Eucla Pacific/Auckland Pacific/Chatham Pacific/Apia Pacific/Kiritimati
	Antarctica/Troll Pacific/Marquesas`)

// Each instant lies in exactly one span, and the spans follow each other, in 52 zones and 3 years, which have 2023's midnights that did not exist.
func TestSpansCoverTimeOnce(t *testing.T) {
	from, to := time.Date(2022, 6, 1, 0, 0, 0, 0, time.UTC), time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
	if len(calendarZones) < 50 {
		t.Fatalf("%d zones", len(calendarZones))
	}
	rng := rand.New(rand.NewPCG(4, 2))
	for _, name := range calendarZones {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			period Period
			day    int
		}{{Daily, 1}, {Weekly, 1}, {Monthly, 1}, {Monthly, 15}, {Monthly, 31}} {
			coverOnce(t, rng, name, zone, c.period, c.day, from, to)
		}
	}
}

func coverOnce(t *testing.T, rng *rand.Rand, name string, zone *time.Location, period Period, day int, from, to time.Time) {
	t.Helper()
	for at := from; at.Before(to); {
		start, end := Span(period, day, zone, at)
		length := end.Sub(start)
		for _, in := range []time.Time{start, start.Add(1), end.Add(-1), start.Add(time.Duration(rng.Int64N(int64(length))))} {
			if s, e := Span(period, day, zone, in); !s.Equal(start) || !e.Equal(end) {
				t.Fatalf("%s %s %d: %s is in %s … %s, and also in %s … %s", name, period, day, in.In(zone), start, end, s, e)
			}
		}
		if next, _ := Span(period, day, zone, end); !next.Equal(end) {
			t.Fatalf("%s %s %d: after %s begins %s", name, period, day, end, next)
		}
		least, most := 22*time.Hour, 26*time.Hour
		switch period {
		case Weekly:
			least, most = 7*24*time.Hour-2*time.Hour, 7*24*time.Hour+2*time.Hour
		case Monthly:
			least, most = 28*24*time.Hour-2*time.Hour, 31*24*time.Hour+2*time.Hour
		}
		if length < least || length > most {
			t.Fatalf("%s %s %d: %s … %s has %s", name, period, day, start, end, length)
		}
		at = end
	}
}

func TestSpan(t *testing.T) {
	for _, c := range []struct {
		zone           string
		period         Period
		day            int
		at, start, end string
	}{
		{"America/Sao_Paulo", Daily, 1, "2026-03-10T02:59:59Z", "2026-03-09T03:00:00Z", "2026-03-10T03:00:00Z"},
		{"America/Sao_Paulo", Daily, 1, "2026-03-10T03:00:00Z", "2026-03-10T03:00:00Z", "2026-03-11T03:00:00Z"},
		{"America/Sao_Paulo", Daily, 1, "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}, // no midnight; 23 hours
		{"Africa/Cairo", Daily, 1, "2023-04-28T12:00:00Z", "2023-04-27T22:00:00Z", "2023-04-28T21:00:00Z"},      // no midnight; 23 hours
		{"Asia/Beirut", Daily, 1, "2024-03-31T12:00:00Z", "2024-03-30T22:00:00Z", "2024-03-31T21:00:00Z"},       // no midnight; 23 hours
		{"America/Asuncion", Daily, 1, "2023-10-01T12:00:00Z", "2023-10-01T04:00:00Z", "2023-10-02T03:00:00Z"},  // no midnight; 23 hours
		{"America/Havana", Daily, 1, "2024-11-03T12:00:00Z", "2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z"},    // midnight twice; 25 hours
		{"America/New_York", Daily, 1, "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},  // 25 hours
		{"America/St_Johns", Daily, 1, "2010-11-07T02:30:30Z", "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z"},  // a minute past midnight back to the evening before
		{"America/St_Johns", Daily, 1, "2010-11-07T02:45:00Z", "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z"},  // in that evening, which the new day has already
		{"Pacific/Apia", Daily, 1, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},      // the 30th was skipped
		{"Pacific/Apia", Daily, 1, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},      // so it is the 31st
		{"UTC", Weekly, 1, "2026-03-08T23:59:59Z", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"},              // Sunday
		{"UTC", Weekly, 1, "2026-03-09T00:00:00Z", "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z"},              // Monday
		{"UTC", Monthly, 1, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"UTC", Monthly, 15, "2026-01-14T12:00:00Z", "2025-12-15T00:00:00Z", "2026-01-15T00:00:00Z"},
		{"UTC", Monthly, 31, "2026-02-28T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"},
		{"UTC", Monthly, 31, "2026-02-27T23:00:00Z", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"},
		{"UTC", Monthly, 30, "2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-30T00:00:00Z"},
		{"UTC", Monthly, 0, "2026-02-10T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"}, // none set
	} {
		zone, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		start, end := Span(c.period, c.day, zone, at)
		if s, e := start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339); s != c.start || e != c.end {
			t.Errorf("Span(%s, %d, %s, %s) = %s … %s; want %s … %s", c.period, c.day, c.zone, c.at, s, e, c.start, c.end)
		}
	}
}

func TestWindowID(t *testing.T) {
	budget := uuid.MustParse("01234567-89ab-cdef-0123-456789abcdef")
	at := time.Date(2026, 3, 10, 3, 0, 0, 0, time.UTC)
	id := WindowID(budget, at)
	if id != 4760796072492140987 {
		t.Errorf("WindowID = %d: it is stored for ever and may not change", id)
	}
	if WindowID(budget, at.In(time.FixedZone("", 3600)).Add(999)) != id {
		t.Error("the id is of the instant, to the microsecond")
	}
	if WindowID(budget, at.Add(time.Microsecond)) == id || WindowID(uuid.Max, at) == id {
		t.Error("another window has the same id")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		if id := WindowID(uuid.UUID{byte(rng.Uint32()), byte(rng.Uint32())}, time.UnixMicro(rng.Int64())); id <= 0 {
			t.Fatalf("id %d", id)
		}
	}
}

func TestZoneOfABudget(t *testing.T) {
	for name, want := range map[string]string{"": DefaultZone, "Nowhere/Land": DefaultZone, "Asia/Tokyo": "Asia/Tokyo", "UTC": "UTC"} {
		zs := zones{}
		for range 2 {
			if got := zs.of(&Budget{TimeZone: name}).String(); got != want {
				t.Errorf("zone of %q = %s, want %s", name, got, want)
			}
		}
	}
}

func TestPlace(t *testing.T) {
	day := func(d, h int) time.Time { return time.Date(2026, 3, d, h, 0, 0, 0, time.UTC) }
	b := Budget{ID: uuid.New(), Unit: Tokens, Period: Daily, TimeZone: "UTC"}
	other := Budget{ID: uuid.New(), Unit: Tokens, Period: Daily, TimeZone: "UTC"}
	window := func(b *Budget, start, end time.Time) *Window { return b.newWindow(start, end) }
	here := window(&b, day(10, 0), day(11, 0))
	for _, c := range []struct {
		what       string
		startsAt   time.Time
		there      []*Window
		at         time.Time
		found      bool
		start, end time.Time
		ok         bool
	}{
		{"nothing there", time.Time{}, nil, day(10, 5), false, day(10, 0), day(11, 0), true},
		{"it is there", time.Time{}, []*Window{here}, day(10, 0), true, day(10, 0), day(11, 0), true},
		{"its end is not in it", time.Time{}, []*Window{here}, day(11, 0), false, day(11, 0), day(12, 0), true},
		{"another budget's", time.Time{}, []*Window{window(&other, day(10, 0), day(11, 0))}, day(10, 5), false, day(10, 0), day(11, 0), true},
		{"begins within a day", day(10, 3), nil, day(10, 5), false, day(10, 3), day(11, 0), true},
		{"has not begun", day(10, 6), nil, day(10, 5), false, time.Time{}, time.Time{}, false},
		{"after one by an older calendar", time.Time{}, []*Window{window(&b, day(9, 4), day(10, 4))}, day(10, 5), false, day(10, 4), day(11, 0), true},
		{"before one by an older calendar", time.Time{}, []*Window{window(&b, day(10, 8), day(11, 8))}, day(10, 5), false, day(10, 0), day(10, 8), true},
		{"between two", time.Time{}, []*Window{window(&b, day(11, 2), day(11, 3)), window(&b, day(10, 9), day(11, 0)), window(&b, day(9, 4), day(10, 4))}, day(10, 5), false, day(10, 4), day(10, 9), true},
	} {
		b := b
		b.StartsAt = c.startsAt
		w, start, end, ok := b.place(c.there, c.at)
		if (w != nil) != c.found || !start.Equal(c.start) || !end.Equal(c.end) || ok != c.ok {
			t.Errorf("%s: %v, %s … %s, %v", c.what, w, start, end, ok)
		}
	}
}
