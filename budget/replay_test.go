package budget

import (
	"errors"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

func replayCalls(calls ...PastCall) iter.Seq2[PastCall, error] {
	return func(yield func(PastCall, error) bool) {
		for _, c := range calls {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// replayDay is a time on a day of November in São Paulo.
func replayDay(t *testing.T, at string) time.Time {
	t.Helper()
	zone, err := time.LoadLocation(DefaultZone)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := time.ParseInLocation("2006-01-02 15:04", "2026-11-"+at, zone)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func replayDaily(t *testing.T, limit int64) Budget {
	return Budget{
		ID: uuid.MustParse("5d3f2f1c-6c5e-4a53-9c9d-0d5a0c3b7a11"), Unit: Tokens, Period: Daily, Limit: limit, PauseAtLimit: true, TimeZone: DefaultZone, BillingDay: 1,
		StartsAt: replayDay(t, "01 00:00"), DeletedAt: replayDay(t, "04 00:00"),
	}
}

func tokensAt(at time.Time, tokens int64) PastCall {
	return PastCall{At: at, Cost: Cost{Tokens: tokens, BRL: money.Pico(tokens)}}
}

// Three days with a limit of 1000 tokens, worked out by hand.
func TestReplayByHand(t *testing.T) {
	d := func(at string) time.Time { return replayDay(t, at) }
	report, err := Replay(replayDaily(t, 1000), replayCalls(
		tokensAt(d("01 00:00").Add(-time.Second), 900), // the day before: does not count
		tokensAt(d("01 09:00"), 700),
		tokensAt(d("01 10:00"), 100), // 800: 80 %
		tokensAt(d("01 11:00"), 150), // 950: 90 %
		tokensAt(d("01 12:00"), 60),  // does not fit: 100 %
		tokensAt(d("01 13:00"), 40),  // fits: 990
		tokensAt(d("01 14:00"), 11),  // does not
		tokensAt(d("01 23:59"), 10),  // 1000
		tokensAt(d("03 00:00"), 1001),
		tokensAt(d("03 12:00"), 400),
		tokensAt(d("04 00:00"), 5), // after the end
	))
	if err != nil {
		t.Fatal(err)
	}
	day := func(n int, sum ReplaySum, refusal time.Time, crossed ...ReplayCrossing) ReplayWindow {
		start := d("01 00:00").AddDate(0, 0, n)
		return ReplayWindow{StartsAt: start, EndsAt: start.AddDate(0, 0, 1), Limit: 1000, ReplaySum: sum, FirstRefusal: refusal, Crossed: crossed}
	}
	want := ReplayReport{
		Unit: Tokens, FirstRefusal: d("01 12:00"),
		ReplaySum: ReplaySum{Calls: 9, Refused: 3, Used: 1400, RefusedCost: 60 + 11 + 1001, Peak: 1000},
		Windows: []ReplayWindow{
			day(0, ReplaySum{7, 2, 1000, 71, 1000}, d("01 12:00"), ReplayCrossing{80, d("01 10:00")}, ReplayCrossing{90, d("01 11:00")}, ReplayCrossing{100, d("01 12:00")}),
			day(1, ReplaySum{}, time.Time{}),
			day(2, ReplaySum{2, 1, 400, 1001, 400}, d("03 00:00"), ReplayCrossing{100, d("03 00:00")}),
		},
	}
	compareReplays(t, report, want)
}

func compareReplays(t *testing.T, got, want ReplayReport) {
	t.Helper()
	same := func(a, b time.Time) bool { return a.Equal(b) }
	if got.Unit != want.Unit || got.ReplaySum != want.ReplaySum || got.Unpriced != want.Unpriced || !same(got.FirstRefusal, want.FirstRefusal) || len(got.Windows) != len(want.Windows) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	for i, g := range got.Windows {
		w := want.Windows[i]
		crossed := slices.EqualFunc(g.Crossed, w.Crossed, func(a, b ReplayCrossing) bool { return a.Threshold == b.Threshold && same(a.At, b.At) })
		if !same(g.StartsAt, w.StartsAt) || !same(g.EndsAt, w.EndsAt) || g.Limit != w.Limit || g.Carried != w.Carried || g.ReplaySum != w.ReplaySum || !same(g.FirstRefusal, w.FirstRefusal) || !crossed {
			t.Errorf("window %d:\ngot  %+v\nwant %+v", i, g, w)
		}
	}
}

// Calls that are under way at the same time are held at the same time, for as much as was held for them then.
func TestReplayHoldsWhatIsUnderWay(t *testing.T) {
	at := replayDay(t, "01 12:00")
	call := func(second int, took time.Duration, worst, tokens int64) PastCall {
		return PastCall{At: at.Add(time.Duration(second) * time.Second), Took: took, Cost: Cost{Tokens: tokens}, Worst: Cost{Tokens: worst}}
	}
	report, err := Replay(replayDaily(t, 1000), replayCalls(
		call(0, 10*time.Second, 600, 100),
		call(1, time.Second, 500, 50), // 600 are held: does not fit
		call(2, time.Second, 400, 50), // just fits
		call(5, time.Second, 450, 50), // 50 used, 600 held: does not fit
		call(10, time.Second, 850, 0), // the first has just ended: 150 used
		call(12, time.Second, 850, 900),
		call(14, time.Second, 0, 0), // nothing is left, not even for a call that cost nothing
	))
	if err != nil {
		t.Fatal(err)
	}
	// 100 + 50 + 0, then 900 that were held as 850: all of it is used, and 50 of it is beyond the hold.
	if got, want := report.ReplaySum, (ReplaySum{Calls: 7, Refused: 3, Used: 1050, RefusedCost: 100, Peak: 1050}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if peak := report.Windows[0].Peak; peak != 1050 {
		t.Errorf("peak %d", peak)
	}
}

func TestReplayCarriesOver(t *testing.T) {
	d := func(at string) time.Time { return replayDay(t, at) }
	b := replayDaily(t, 1000)
	b.CarryOver, b.CarryMax, b.Debt = true, 500, true
	calls := []PastCall{
		tokensAt(d("01 12:00"), 300),  // 700 are left, 500 go over
		tokensAt(d("02 12:00"), 1400), // of 1500
		{At: d("02 23:59"), Took: time.Hour, Cost: Cost{Tokens: 250}, Worst: Cost{Tokens: 100}}, // 150 beyond: debt
		tokensAt(d("03 12:00"), 850),
		tokensAt(d("03 13:00"), 1),
	}
	report, err := Replay(b, replayCalls(calls...))
	if err != nil {
		t.Fatal(err)
	}
	var carried, limits, used, refused []int64
	for _, w := range report.Windows {
		carried, limits, used, refused = append(carried, w.Carried), append(limits, w.Limit), append(used, w.Used), append(refused, w.Refused)
	}
	if !slices.Equal(carried, []int64{0, 500, -150}) || !slices.Equal(limits, []int64{1000, 1500, 850}) || !slices.Equal(used, []int64{300, 1650, 850}) || !slices.Equal(refused, []int64{0, 0, 1}) {
		t.Errorf("carried %v, limits %v, used %v, refused %v", carried, limits, used, refused)
	}
}

func TestReplayOfWhatOnlyAlerts(t *testing.T) {
	d := func(at string) time.Time { return replayDay(t, at) }
	b := replayDaily(t, 100)
	b.PauseAtLimit, b.Thresholds = false, []int{50, 150}
	report, err := Replay(b, replayCalls(tokensAt(d("01 01:00"), 50), tokensAt(d("01 02:00"), 49), tokensAt(d("01 03:00"), 60)))
	if err != nil {
		t.Fatal(err)
	}
	var crossed []int
	for _, c := range report.Windows[0].Crossed {
		crossed = append(crossed, c.Threshold)
	}
	if report.Refused != 0 || report.Used != 159 || !slices.Equal(crossed, []int{50, 80, 90, 100, 150}) || !report.FirstRefusal.IsZero() {
		t.Errorf("%+v, crossed %v", report, crossed)
	}
}

func TestReplayOfUnknownCosts(t *testing.T) {
	d := func(at string) time.Time { return replayDay(t, at) }
	b := replayDaily(t, 100)
	unknown := PastCall{At: d("01 01:00"), Cost: Cost{Tokens: 60, Unpriced: true}}
	calls := replayCalls(unknown, tokensAt(d("01 02:00"), 60))
	if report, err := Replay(b, calls); err != nil || report.Unpriced != 0 || report.Refused != 1 {
		t.Errorf("in tokens: %+v, %v", report.ReplaySum, err)
	}
	b.Unit = BRL
	if report, err := Replay(b, calls); err != nil || report.Unpriced != 1 || report.Refused != 0 || report.Used != 60 || report.Calls != 2 {
		t.Errorf("in reais: %+v, %v", report, err)
	}
}

func TestReplayStopsAtAnError(t *testing.T) {
	broken := errors.New("the log ends here")
	calls := func(yield func(PastCall, error) bool) {
		if yield(tokensAt(replayDay(t, "01 01:00"), 1), nil) {
			yield(PastCall{}, broken)
		}
	}
	if report, err := Replay(replayDaily(t, 100), calls); !errors.Is(err, broken) || report.Calls != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err := Replay(replayDaily(t, 100), replayCalls()); err != nil || len(report.Windows) != 3 {
		t.Errorf("no calls: %+v, %v", report, err)
	}
	if report, err := Replay(Budget{Unit: Tokens, Period: Daily, Limit: 1}, replayCalls()); err != nil || len(report.Windows) != 0 {
		t.Errorf("no calls and no bounds: %+v, %v", report, err)
	}
}

// Whatever the calls: a hard cap is kept where holds are not exceeded, periods follow each other without a gap, and every
// token was either used or refused.
func TestReplayOfAnything(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		b := replayDaily(t, r.Int64N(5000)+1)
		b.Period = []Period{Daily, Weekly, Monthly}[r.IntN(3)]
		b.CarryOver, b.Debt = r.IntN(2) == 0, r.IntN(2) == 0
		b.DeletedAt = b.StartsAt.AddDate(0, 0, r.IntN(60)+1)
		at := b.StartsAt
		var calls []PastCall
		var all int64
		for range r.IntN(200) {
			at = at.Add(time.Duration(r.Int64N(int64(6 * time.Hour))))
			c := tokensAt(at, r.Int64N(900))
			c.Took = time.Duration(r.Int64N(int64(12 * time.Hour)))
			c.Worst.Tokens = c.Cost.Tokens + r.Int64N(300) + 1
			calls = append(calls, c)
			if at.Before(b.DeletedAt) {
				all += c.Cost.Tokens
			}
		}
		report, err := Replay(b, replayCalls(calls...))
		if err != nil {
			t.Fatal(err)
		}
		if report.Used+report.RefusedCost != all {
			t.Fatalf("seed %d: %d used + %d refused is not %d", seed, report.Used, report.RefusedCost, all)
		}
		last := b.StartsAt
		for i, w := range report.Windows {
			if !w.StartsAt.Equal(last) || !w.EndsAt.After(w.StartsAt) {
				t.Fatalf("seed %d: window %d is from %v to %v, after %v", seed, i, w.StartsAt, w.EndsAt, last)
			}
			last = w.EndsAt
			if w.Peak > w.Limit || w.Used > w.Peak {
				t.Fatalf("seed %d: window %d has peak %d and %d used of %d", seed, i, w.Peak, w.Used, w.Limit)
			}
		}
		if last.Before(b.DeletedAt) {
			t.Fatalf("seed %d: the last window ends at %v, before %v", seed, last, b.DeletedAt)
		}
		again, err := Replay(b, replayCalls(calls...))
		if err != nil || !reflect.DeepEqual(again, report) {
			t.Fatalf("seed %d: a second time it is %+v, %v", seed, again, err)
		}
	}
}

// A correction is added to its call wherever it stands among the rows of that instant.
func TestPastCallsAddCorrections(t *testing.T) {
	at := replayDay(t, "01 12:00")
	rows := []pastRow{
		{at: at, incarnation: 1, seq: -7, tokens: -40, usd: 5, brl: 25, priced: true},
		{at: at, incarnation: 1, seq: 6, tokens: 10, usd: 1, brl: 5, priced: true, holds: "[[3,70],[4,90]]"},
		{at: at, incarnation: 1, seq: 7, tokens: 100, tookMs: 1500},
		{at: at, incarnation: 2, seq: -9, tokens: 1000},
		{at: at, incarnation: 2, seq: 7, tokens: 1, usd: 1, brl: 5, priced: true},
		{at: at.Add(time.Microsecond), incarnation: 2, seq: 9, tokens: 2},
	}
	seq := func(yield func(pastRow, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
	var got []PastCall
	for c, err := range pastCalls(seq, map[int64]Unit{3: BRL, 4: Tokens}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	want := []PastCall{
		{At: at, Cost: Cost{Tokens: 10, USD: 1, BRL: 5}, Worst: Cost{Tokens: 90, BRL: 70}},
		{At: at, Took: 1500 * time.Millisecond, Cost: Cost{Tokens: 60, USD: 5, BRL: 25}},
		{At: at, Cost: Cost{Tokens: 1, USD: 1, BRL: 5}},
		{At: at.Add(time.Microsecond), Cost: Cost{Tokens: 2, Unpriced: true}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	rows[1].holds = "[[3"
	for _, err := range pastCalls(seq, map[int64]Unit{3: BRL}) {
		if err != nil {
			return
		}
	}
	t.Error("holds that cannot be read go unnoticed")
}

func TestReplayThresholds(t *testing.T) {
	if list := replayThresholds(&Budget{Thresholds: []int{95, 80, 120}}); !slices.Equal(list, []int{80, 90, 95, 100, 120}) {
		t.Error(list)
	}
}
