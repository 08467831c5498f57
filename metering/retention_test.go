package metering

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

// longStore is a store that keeps house.
type longStore interface {
	upkeepStore
	Housekeeper
	Retention
}

func onLongStores(t *testing.T, test func(t *testing.T, s longStore)) {
	onStores(t, func(t *testing.T, s store) { test(t, s.(longStore)) })
}

// overMonths spreads events over months, from one on.
func overMonths(events []Event, year int, first time.Month, months int) []Event {
	for i := range events {
		events[i].AdmittedAt = time.Date(year, first+time.Month(i%months), 1+i%28, i%24, 0, 0, 0, time.UTC)
		if i%13 == 0 { // the last moment of a month
			events[i].AdmittedAt = time.Date(year, first+time.Month(i%months)+1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Microsecond)
		}
	}
	return events
}

func mustMakeMonths(t *testing.T, s Housekeeper, first time.Time, n int) {
	t.Helper()
	if _, err := s.MakePartitions(t.Context(), first, n-1); err != nil {
		t.Fatal(err)
	}
}

// mustReach checks what is left of the log: what the events from a time on are, and the roll-ups still have all of them.
func mustReach(t *testing.T, s longStore, events []Event, since time.Time) {
	t.Helper()
	got, err := s.LogSince(t.Context())
	if err != nil || !got.Equal(since) {
		t.Errorf("the log reaches back to %s, %v; want %s", got, err, since)
	}
	left := slices.DeleteFunc(slices.Clone(events), func(ev Event) bool { return ev.AdmittedAt.Before(since) })
	_, fromLog, err := s.UsageFromLog(t.Context(), UsageQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := plain(fromLog), plain(expected(left)); got != want {
		t.Errorf("log\n got %s\nwant %s", got, want)
	}
	all, err := s.Usage(t.Context(), UsageQuery{Limit: -1})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := plain(all.Total), plain(expected(events)); got != want {
		t.Errorf("roll-ups\n got %s\nwant %s", got, want)
	}
	recent, err := s.Usage(t.Context(), UsageQuery{Limit: -1, From: since})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := plain(recent.Total), plain(fromLog); got != want {
		t.Errorf("from there on the roll-ups have\n %s, the log\n %s", got, want)
	}
}

func TestDropMonths(t *testing.T) {
	onLongStores(t, func(t *testing.T, s longStore) {
		begin := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
		mustMakeMonths(t, s, begin, 8)
		events := overMonths(randomEvents(70, 11, 400), 2025, time.January, 8)
		mustRecord(t, s, events...)
		mustReach(t, s, events, time.Time{})

		if d, err := s.DropMonths(t.Context(), begin); err != nil || d != (Dropped{}) {
			t.Errorf("nothing is that old: %+v, %v", d, err)
		}
		mustReach(t, s, events, time.Time{})
		april := time.Date(2025, 4, 1, 0, 0, 0, 0, time.UTC)
		d, err := s.DropMonths(t.Context(), april)
		if err != nil || d == (Dropped{}) {
			t.Fatalf("dropped %+v, %v", d, err)
		}
		mustReach(t, s, events, april)
		mustRecord(t, s, events...) // repeats of what was let go of, and of what was not
		mustReach(t, s, events, april)
		if d, err := s.DropMonths(t.Context(), april); err != nil || d != (Dropped{}) {
			t.Errorf("again: %+v, %v", d, err)
		}
		// The reach never goes back, and a call that comes a year late is summed up and then let go of.
		if _, err := s.DropMonths(t.Context(), begin); err != nil {
			t.Error(err)
		}
		late := overMonths(randomEvents(71, 12, 10), 2025, time.February, 1)
		mustRecord(t, s, late...)
		if d, err := s.DropMonths(t.Context(), april); err != nil || d.Rows != 10 {
			t.Errorf("late ones: %+v, %v", d, err)
		}
		mustReach(t, s, append(events, late...), april)
	})
}

// TestDropMonthsWhileRecording lets go of months while workers write to them and to others, repeats among it.
func TestDropMonthsWhileRecording(t *testing.T) {
	onLongStores(t, func(t *testing.T, s longStore) {
		begin := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
		mustMakeMonths(t, s, begin, 6)
		events := overMonths(randomEvents(72, 13, 2400), 2025, time.January, 6)
		if p, ok := s.(*Postgres); ok { // old months are nearly always held by somebody
			tx, err := p.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if err := tx.QueryRow(t.Context(), "SELECT count(*) FROM gateway_usage_logs").Scan(&n); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(1200*time.Millisecond, func() { _ = tx.Rollback(context.Background()) })
		}
		var wg sync.WaitGroup
		longest := make([]time.Duration, 3)
		for w := range 3 {
			wg.Go(func() {
				for round := range 3 { // twice everything is a repeat
					for i := w * 800; i < (w+1)*800; i += 40 {
						began := time.Now()
						if err := s.Record(context.Background(), events[i:i+40]); err != nil {
							t.Errorf("round %d: %v", round, err)
						}
						longest[w] = max(longest[w], time.Since(began))
					}
				}
			})
		}
		for month := range 4 {
			if _, err := s.DropMonths(t.Context(), begin.AddDate(0, month, 0)); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		if _, err := s.DropMonths(t.Context(), begin.AddDate(0, 3, 0)); err != nil {
			t.Error(err)
		}
		mustReach(t, s, events, begin.AddDate(0, 3, 0))
		t.Logf("the longest a batch took: %v", slices.Max(longest))
	})
}

func TestPostgresDropLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	begin := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	mustMakeMonths(t, p, begin, 3)
	mustRecord(t, p, overMonths(randomEvents(73, 14, 30), 2025, time.January, 3)...)
	// An archive that somebody made is none of ours.
	pgExec(t, p, "CREATE TABLE gateway_usage_logs_2024_01 AS SELECT * FROM gateway_usage_logs")
	// A process ended between taking a month out and dropping it.
	pgExec(t, p, "SELECT catraca_detach_usage_partition('2025-01-15 00:00:00+00')")
	tables := func() int {
		return pgValue[int](t, p, "SELECT count(*) FROM pg_class WHERE relname ~ '^gateway_usage_logs_202[45]' AND relkind = 'r'")
	}
	if n := tables(); n != 4 {
		t.Fatalf("%d tables", n)
	}
	if d, err := p.DropMonths(t.Context(), begin.AddDate(0, 2, 0)); err != nil || d.Partitions != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	if n := tables(); n != 2 { // the archive, and March
		t.Errorf("%d tables", n)
	}
	if n := pgValue[int](t, p, "SELECT count(*) FROM gateway_usage_logs_2024_01"); n != 30 {
		t.Errorf("the archive has %d rows", n)
	}
}

// With a reader on the log that does not end, writers wait no longer than a moment, and the month is tried another time.
func TestPostgresDropGivesUpOnABusyLog(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for locks")
	}
	p := newPostgres(t)
	begin := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	mustMakeMonths(t, p, begin, 1)
	events := overMonths(randomEvents(74, 15, 40), 2025, time.January, 1)
	mustRecord(t, p, events[:20]...)
	tx, err := p.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // ends a read
	if _, err := tx.Exec(t.Context(), "SELECT count(*) FROM gateway_usage_logs"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	done := make(chan error)
	go func() { _, err := p.DropMonths(ctx, begin.AddDate(0, 1, 0)); done <- err }()
	for i := range 20 {
		began := time.Now()
		mustRecord(t, p, events[20+i])
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a writer waited %v", took)
		}
	}
	if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
	mustReach(t, p, events, time.Time{})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d, err := p.DropMonths(t.Context(), begin.AddDate(0, 1, 0)); err != nil || d.Partitions != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	mustReach(t, p, events, begin.AddDate(0, 1, 0))
}

// A correction lives and goes with the row that it corrects, and what it added to the sums stays.
func TestDropMonthsWithCorrections(t *testing.T) {
	onLongStores(t, func(t *testing.T, s longStore) {
		begin := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
		mustMakeMonths(t, s, begin, 3)
		events := overMonths(randomEvents(75, 16, 60), 2025, time.January, 3)
		truth := slices.Clone(events)
		for i := range events {
			events[i].Outcome, events[i].Usage.Source = ClientGone, Estimated
			truth[i].Outcome, truth[i].Usage.Source = ClientGone, Measured
			truth[i].Input, truth[i].Output = events[i].Input/2, events[i].Output+7
			truth[i].Usage.Total = truth[i].Input + truth[i].Output
			if events[i].Known {
				truth[i].USD, truth[i].BRL = events[i].USD+5, events[i].BRL/3
			}
		}
		mustRecord(t, s, events...)
		corrections := s.(Corrections)
		for i := range 40 {
			if err := corrections.Correct(t.Context(), truth[i]); err != nil {
				t.Fatal(err)
			}
		}
		sums := func() string {
			t.Helper()
			report, err := s.Usage(t.Context(), UsageQuery{Limit: -1})
			if err != nil {
				t.Fatal(err)
			}
			return plain(report.Total)
		}
		equal := func(since time.Time) {
			t.Helper()
			report, err := s.Usage(t.Context(), UsageQuery{Limit: -1, From: since})
			if err != nil {
				t.Fatal(err)
			}
			_, fromLog, err := s.UsageFromLog(t.Context(), UsageQuery{From: since})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := plain(fromLog), plain(report.Total); got != want {
				t.Errorf("log\n got %s\nwant %s", got, want)
			}
			var exported Totals
			err = s.(Exporter).Export(t.Context(), ExportQuery{From: since}, func(r *UsageRow) error {
				exported.Input, exported.Output, exported.Total = exported.Input+r.Input, exported.Output+r.Output, exported.Total+r.Usage.Total
				exported.USD, exported.BRL = exported.USD.Add(r.USD.Decimal()), exported.BRL.Add(r.BRL.Decimal())
				return nil
			})
			total := &report.Total
			if err != nil || exported.Input != total.Input || exported.Output != total.Output || exported.Total != total.Total || !exported.USD.Equal(total.USD) || !exported.BRL.Equal(total.BRL) {
				t.Errorf("the export has %s, %v; the sums %s", plain(exported), err, plain(*total))
			}
		}
		before := sums()
		equal(time.Time{})
		march := begin.AddDate(0, 2, 0)
		if _, err := s.DropMonths(t.Context(), march); err != nil {
			t.Fatal(err)
		}
		if after := sums(); after != before {
			t.Errorf("sums went from\n %s to\n %s", before, after)
		}
		equal(march)
		for i := range events { // those let go of cannot be corrected any more, the others once
			if err := corrections.Correct(t.Context(), truth[i]); (err != nil) != events[i].AdmittedAt.Before(march) {
				t.Errorf("a correction of %s: %v", events[i].AdmittedAt, err)
			}
		}
		equal(march)
		if due, err := corrections.DueEstimates(t.Context(), time.Now().Add(time.Hour), time.Minute, 1000); err != nil || len(due) != 0 {
			t.Errorf("%d are still to be asked about, %v", len(due), err)
		}
	})
}
