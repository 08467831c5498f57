package budget

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func TestOffer(t *testing.T) {
	for _, c := range []struct {
		what    string
		w       Window
		want    Want
		sharers int
		amount  int64
		exact   bool
		recall  int64
	}{
		{"what is needed soon", Window{Base: 1000}, Want{Least: 10, Need: 10, More: 50}, 1, 60, false, 0},
		{"within a share of what is free", Window{Base: 1000}, Want{Least: 10, Need: 10, More: 5000}, 1, 250, false, 0},
		{"a smaller share with others", Window{Base: 1000}, Want{Least: 10, Need: 10, More: 5000}, 5, 50, false, 0},
		{"what waits is beyond the share", Window{Base: 1000}, Want{Least: 10, Need: 400}, 5, 400, false, 0},
		{"not more than is free", Window{Base: 1000}, Want{Least: 10, Need: 4000}, 1, 1000, false, 0},
		{"none waits", Window{Base: 1000}, Want{More: 100}, 1, 100, false, 0},
		{"nothing asked", Window{Base: 1000}, Want{}, 0, 0, false, 0},
		{"nonsense", Window{Base: 1000}, Want{Least: -1, Need: -5, More: -7}, -3, 0, false, 0},
		{"near the limit what waits and no more", Window{Base: 1000, Spent: 960}, Want{Least: 10, Need: 20, More: 500}, 1, 20, true, 1},
		{"part of what waits", Window{Base: 1000, Spent: 960}, Want{Least: 10, Need: 60}, 1, 40, true, 1},
		{"the smallest does not fit", Window{Base: 1000, Spent: 960}, Want{Least: 50, Need: 60}, 1, 0, true, 1},
		{"none waits near the limit", Window{Base: 1000, Spent: 960}, Want{More: 60}, 1, 0, true, 1},
		{"big calls make it near early", Window{Base: 1000, Spent: 500}, Want{Least: 200, Need: 200, More: 200}, 3, 200, true, 1},
		{"it is told once", Window{Base: 1000, Spent: 960, Exact: true, Recall: 4}, Want{Least: 10, Need: 20}, 1, 20, true, 4},
		{"a little more does not end it", Window{Base: 1000, Spent: 800, Exact: true, Recall: 4}, Want{Least: 1, Need: 1, More: 9}, 1, 1, true, 4},
		{"plenty does", Window{Base: 1000, Spent: 700, Exact: true, Recall: 4}, Want{Least: 1, Need: 1, More: 9}, 1, 10, false, 4},
		{"but not for big calls", Window{Base: 1000, Spent: 700, Exact: true, Recall: 4}, Want{Least: 200, Need: 200, More: 9}, 1, 200, true, 4},
		{"nothing is free", Window{Base: 1000, Spent: 1000}, Want{Least: 1, Need: 1, More: 1}, 1, 0, true, 1},
		{"no limit at all", Window{}, Want{Least: 1, Need: 1, More: 1}, 1, 0, true, 1},
		{"unheld use counts", Window{Base: 1000, Unheld: 990, Overrun: 5}, Want{Least: 1, Need: 9, More: 1}, 1, 5, true, 1},
		{"huge numbers", Window{Base: MaxLimit}, Want{Least: math.MaxInt64, Need: math.MaxInt64, More: math.MaxInt64}, math.MaxInt, MaxLimit, false, 0},
		{"very many sharers", Window{Base: 1000}, Want{More: 100}, math.MaxInt, 0, false, 0},
	} {
		w := c.w
		got := w.offer(c.want, c.sharers)
		if got != c.amount || w.Exact != c.exact || w.Recall != c.recall {
			t.Errorf("%s: offer = %d, exact %v, recall %d; want %d, %v, %d", c.what, got, w.Exact, w.Recall, c.amount, c.exact, c.recall)
		}
	}
}

// windowCase is a window and a lease before and after an operation.
type windowCase struct {
	what   string
	w      Window
	l      Lease
	do     func(*Window, *Lease) int64
	told   int64
	wAfter Window
	lAfter Lease
}

func TestPlacesOfAWindow(t *testing.T) {
	settle := func(charge, hold int64, doubt bool) func(*Window, *Lease) int64 {
		return func(w *Window, l *Lease) int64 {
			doubted, missing := w.settle(l, charge, hold, doubt)
			return doubted*1000 + missing
		}
	}
	for _, c := range []windowCase{
		{
			"grant",
			Window{Base: 100},
			Lease{Closed: true},
			func(w *Window, l *Lease) int64 { w.grant(l, 30); return 0 }, 0,
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
		},
		{
			"grant to one that is lost",
			Window{Base: 100},
			Lease{Lost: true},
			func(w *Window, l *Lease) int64 { w.grant(l, 30); return 0 }, 0,
			Window{Base: 100, Suspense: 30},
			Lease{Granted: 30, Lost: true},
		},
		{
			"give back",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			func(w *Window, l *Lease) int64 { return w.giveBack(l, 20) }, 20,
			Window{Base: 100, Held: 10},
			Lease{Granted: 30, Returned: 20},
		},
		{
			"give back too much",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			func(w *Window, l *Lease) int64 { return w.giveBack(l, 31) }, 30,
			Window{Base: 100},
			Lease{Granted: 30, Returned: 30},
		},
		{
			"give back less than nothing",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			func(w *Window, l *Lease) int64 { return w.giveBack(l, -5) }, 0,
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
		},
		{
			"settle within the hold",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			settle(5, 20, false), 0,
			Window{Base: 100, Held: 25, Spent: 5},
			Lease{Granted: 30, Settled: 5},
		},
		{
			"settle when the rest was given back meanwhile",
			Window{Base: 100, Held: 5},
			Lease{Granted: 30, Returned: 25},
			settle(5, 20, false), 0,
			Window{Base: 100, Spent: 5},
			Lease{Granted: 30, Returned: 25, Settled: 5},
		},
		{
			"settle beyond the hold",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			settle(25, 20, false), 0,
			Window{Base: 100, Held: 10, Spent: 20, Overrun: 5},
			Lease{Granted: 30, Settled: 20},
		},
		{
			"settle with doubt",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			settle(5, 20, true), 15_000,
			Window{Base: 100, Held: 10, Spent: 5, Suspense: 15},
			Lease{Granted: 30, Settled: 5, Doubted: 15},
		},
		{
			"settle with doubt beyond the hold",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			settle(25, 20, true), 0,
			Window{Base: 100, Held: 10, Spent: 20, Overrun: 5},
			Lease{Granted: 30, Settled: 20},
		},
		{
			"settle of one that is lost",
			Window{Base: 100, Suspense: 30},
			Lease{Granted: 30, Lost: true},
			settle(5, 20, true), 15_000,
			Window{Base: 100, Spent: 5, Suspense: 25},
			Lease{Granted: 30, Settled: 5, Doubted: 15, Lost: true},
		},
		{
			"settle on a lease that was forgotten",
			Window{Base: 100},
			Lease{},
			settle(5, 20, false), 5,
			Window{Base: 100, Spent: 5},
			Lease{Granted: 5, Settled: 5},
		},
		{
			"settle with doubt on a lease that was forgotten",
			Window{Base: 100, Held: 4},
			Lease{Granted: 4},
			settle(5, 20, true), 15_016,
			Window{Base: 100, Spent: 5, Suspense: 15},
			Lease{Granted: 20, Settled: 5, Doubted: 15},
		},
		{
			"what was forgotten may be beyond the limit",
			Window{Base: 100, Spent: 90, Held: 10},
			Lease{},
			settle(5, 20, false), 5,
			Window{Base: 100, Spent: 95, Held: 10, Committed: 105},
			Lease{Granted: 5, Settled: 5},
		},
		{
			"settle nonsense",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			settle(-5, -20, true), 0,
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
		},
		{
			"close",
			Window{Base: 100, Held: 30, Spent: 5},
			Lease{Granted: 36, Settled: 5, Returned: 1},
			func(w *Window, l *Lease) int64 { return w.closeLease(l) }, 30,
			Window{Base: 100, Spent: 5},
			Lease{Granted: 36, Settled: 5, Returned: 31, Closed: true},
		},
		{
			"suspend",
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
			func(w *Window, l *Lease) int64 { return w.suspendLease(l) + w.suspendLease(l) }, 30,
			Window{Base: 100, Suspense: 30},
			Lease{Granted: 30, Lost: true},
		},
		{
			"resume",
			Window{Base: 100, Suspense: 30},
			Lease{Granted: 30, Lost: true},
			func(w *Window, l *Lease) int64 { return w.resumeLease(l) + w.resumeLease(l) }, 30,
			Window{Base: 100, Held: 30},
			Lease{Granted: 30},
		},
		{
			"close one that is lost",
			Window{Base: 100, Suspense: 37},
			Lease{Granted: 30, Lost: true},
			func(w *Window, l *Lease) int64 { return w.closeLease(l) }, 30,
			Window{Base: 100, Suspense: 7},
			Lease{Granted: 30, Returned: 30, Lost: true, Closed: true},
		},
		{
			"assert more than is known",
			Window{Base: 100, Held: 10},
			Lease{Granted: 10},
			func(w *Window, l *Lease) int64 { return w.assert(l, 50, 20) }, 20,
			Window{Base: 100, Held: 30},
			Lease{Granted: 50, Returned: 20},
		},
		{
			"assert less than is known",
			Window{Base: 100, Held: 10},
			Lease{Granted: 30, Returned: 20},
			func(w *Window, l *Lease) int64 { return w.assert(l, 25, 15) }, 0,
			Window{Base: 100, Held: 10},
			Lease{Granted: 30, Returned: 20},
		},
		{
			"assert a return that is not known",
			Window{Base: 100, Held: 10},
			Lease{Granted: 10},
			func(w *Window, l *Lease) int64 { return w.assert(l, 10, 4) }, -4,
			Window{Base: 100, Held: 6},
			Lease{Granted: 10, Returned: 4},
		},
		{
			"assert what cannot be",
			Window{Base: 100, Spent: 8, Held: 2},
			Lease{Granted: 10, Settled: 8},
			func(w *Window, l *Lease) int64 { return w.assert(l, 10, 9) }, -2,
			Window{Base: 100, Spent: 8},
			Lease{Granted: 17, Returned: 9, Settled: 8},
		},
		{
			"assert beyond the limit",
			Window{Base: 100, Spent: 90},
			Lease{Closed: true},
			func(w *Window, l *Lease) int64 { return w.assert(l, 50, 0) }, 50,
			Window{Base: 100, Spent: 90, Held: 50, Committed: 140},
			Lease{Granted: 50},
		},
		{"doubt ends with nothing more", Window{Base: 100, Spent: 5, Suspense: 15}, Lease{}, func(w *Window, _ *Lease) int64 { w.undoubt(15, 0); return 0 }, 0, Window{Base: 100, Spent: 5}, Lease{}},
		{"doubt ends with more", Window{Base: 100, Spent: 5, Suspense: 15}, Lease{}, func(w *Window, _ *Lease) int64 { w.undoubt(15, 10); return 0 }, 0, Window{Base: 100, Spent: 15}, Lease{}},
		{"doubt ends beyond it", Window{Base: 100, Spent: 5, Suspense: 15}, Lease{}, func(w *Window, _ *Lease) int64 { w.undoubt(15, 18); return 0 }, 0, Window{Base: 100, Spent: 20, Overrun: 3}, Lease{}},
		{"doubt ends with less", Window{Base: 100, Spent: 5, Suspense: 15}, Lease{}, func(w *Window, _ *Lease) int64 { w.undoubt(15, -2); return 0 }, 0, Window{Base: 100, Spent: 3}, Lease{}},
		{"doubt is released", Window{Base: 100, Suspense: 15}, Lease{}, func(w *Window, _ *Lease) int64 { w.release(15); return 0 }, 0, Window{Base: 100}, Lease{}},
		{"corrected upwards", Window{Base: 100, Spent: 50}, Lease{}, func(w *Window, _ *Lease) int64 { w.adjust(10); return 0 }, 0, Window{Base: 100, Spent: 60}, Lease{}},
		{"corrected beyond what is free", Window{Base: 100, Spent: 50, Held: 45}, Lease{}, func(w *Window, _ *Lease) int64 { w.adjust(10); return 0 }, 0, Window{Base: 100, Spent: 55, Held: 45, Overrun: 5}, Lease{}},
		{"corrected downwards", Window{Base: 100, Spent: 50}, Lease{}, func(w *Window, _ *Lease) int64 { w.adjust(-10); return 0 }, 0, Window{Base: 100, Spent: 40}, Lease{}},
		{"corrected downwards beyond what was spent", Window{Base: 100, Spent: 5, Overrun: 4, Unheld: 3}, Lease{}, func(w *Window, _ *Lease) int64 { w.adjust(-10); return 0 }, 0, Window{Base: 100, Unheld: 2}, Lease{}},
		{"used without a hold", Window{Base: 100, Unheld: 3}, Lease{}, func(w *Window, _ *Lease) int64 { w.useUnheld(4); return 0 }, 0, Window{Base: 100, Unheld: 7}, Lease{}},
		{"that corrected", Window{Base: 100, Unheld: 3, Spent: 9}, Lease{}, func(w *Window, _ *Lease) int64 { w.useUnheld(-4); return 0 }, 0, Window{Base: 100, Spent: 8}, Lease{}},
	} {
		w, l := c.w, c.l
		if told := c.do(&w, &l); told != c.told || w != c.wAfter || l != c.lAfter {
			t.Errorf("%s: %d\n%+v\n%+v\nwant %d\n%+v\n%+v", c.what, told, w, l, c.told, c.wAfter, c.lAfter)
		}
		if err := w.Check(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if err := l.Check(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestAmend(t *testing.T) {
	for _, c := range []struct {
		what     string
		w, after Window
		do       func(*Window)
	}{
		{"raised", Window{Base: 100, Hard: true, LimitVersion: 1, Alerted: 80, Spent: 85}, Window{Base: 200, Hard: true, LimitVersion: 2, Spent: 85}, func(w *Window) { w.Amend(200, true) }},
		{"the same", Window{Base: 100, Hard: true, LimitVersion: 1, Alerted: 80}, Window{Base: 100, LimitVersion: 1, Alerted: 80}, func(w *Window) { w.Amend(100, false) }},
		{"lowered", Window{Base: 100, LimitVersion: 1, Spent: 10, Held: 20}, Window{Base: 50, LimitVersion: 2, Spent: 10, Held: 20}, func(w *Window) { w.Amend(50, false) }},
		{"lowered below what is committed", Window{Base: 100, LimitVersion: 1, Spent: 10, Held: 20, Suspense: 5}, Window{Base: 30, LimitVersion: 2, Spent: 10, Held: 20, Suspense: 5, Committed: 35, Exact: true, Recall: 1}, func(w *Window) { w.Amend(30, false) }},
		{"lowered to nothing", Window{Base: 100, LimitVersion: 1}, Window{LimitVersion: 2, Exact: true, Recall: 1}, func(w *Window) { w.Amend(0, false) }},
		{"lowered again", Window{Base: 30, LimitVersion: 2, Held: 20, Committed: 35, Exact: true, Recall: 1}, Window{Base: 10, LimitVersion: 3, Held: 20, Committed: 20, Exact: true, Recall: 1}, func(w *Window) { w.Amend(10, false) }},
		{"raised over what is committed", Window{Base: 30, LimitVersion: 2, Held: 20, Committed: 35, Exact: true, Recall: 1}, Window{Base: 40, LimitVersion: 3, Held: 20, Recall: 1}, func(w *Window) { w.Amend(40, false) }},
		{"topped up", Window{Base: 100, LimitVersion: 1, Alerted: 100, Spent: 100}, Window{Base: 100, ToppedUp: 50, LimitVersion: 2, Spent: 100}, func(w *Window) { w.TopUp(50) }},
		{"debt", Window{Base: 100, LimitVersion: 1, Held: 20}, Window{Base: 100, Carried: -90, LimitVersion: 2, Held: 20, Committed: 20, Exact: true, Recall: 1}, func(w *Window) { w.carry(-90) }},
	} {
		w := c.w
		if c.do(&w); w != c.after {
			t.Errorf("%s:\n%+v, want\n%+v", c.what, w, c.after)
		}
		if err := w.Check(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestLimitStaysInItsBounds(t *testing.T) {
	for _, c := range []struct {
		w     Window
		limit int64
		free  int64
	}{
		{Window{Base: 100, Carried: 20, ToppedUp: 3}, 123, 123},
		{Window{Base: 100, Carried: -120}, 0, 0},
		{Window{Base: MaxLimit, Carried: MaxLimit, ToppedUp: MaxLimit}, MaxLimit, MaxLimit},
		{Window{Base: math.MaxInt64, Carried: math.MinInt64}, 0, 0},
		{Window{Base: 100, Spent: 40, Held: 30, Suspense: 20, Overrun: 5, Unheld: 4}, 100, 1},
		{Window{Base: 100, Spent: MaxLimit, Held: MaxLimit, Suspense: MaxLimit, Overrun: MaxLimit, Unheld: MaxLimit}, 100, 0},
	} {
		if c.w.Limit() != c.limit || c.w.Free() != c.free {
			t.Errorf("%+v: limit %d, free %d; want %d, %d", c.w, c.w.Limit(), c.w.Free(), c.limit, c.free)
		}
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		amount  int64
		percent int
		want    int64
	}{{1000, 80, 800}, {1001, 80, 801}, {1, 1, 1}, {0, 100, 0}, {-5, 80, 0}, {5, -1, 0}, {MaxLimit, 100, MaxLimit}, {MaxLimit, 1 << 40, MaxLimit}, {MaxLimit, 250, MaxLimit}} {
		if got := share(c.amount, c.percent); got != c.want {
			t.Errorf("share(%d, %d) = %d, want %d", c.amount, c.percent, got, c.want)
		}
	}
}

func TestCarryOf(t *testing.T) {
	left, debt, even := Window{Base: 100, Spent: 20, Held: 10, Suspense: 5}, Window{Base: 100, Spent: 100, Overrun: 7}, Window{Base: 100, Unheld: 100}
	for _, c := range []struct {
		w    Window
		b    Budget
		want int64
	}{
		{left, Budget{}, 0},
		{left, Budget{CarryOver: true}, 65},
		{left, Budget{CarryOver: true, CarryMax: 50}, 50},
		{left, Budget{CarryOver: true, CarryMax: 70}, 65},
		{left, Budget{Debt: true}, 0},
		{debt, Budget{CarryOver: true}, 0},
		{debt, Budget{CarryOver: true, CarryMax: 9}, 0},
		{debt, Budget{Debt: true}, -7},
		{even, Budget{Debt: true, CarryOver: true}, 0},
	} {
		if got := c.w.carryOf(&c.b); got != c.want {
			t.Errorf("%+v with %+v: carry %d, want %d", c.w, c.b, got, c.want)
		}
	}
}

func TestOver(t *testing.T) {
	end := time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC)
	w := Window{EndsAt: end}
	if w.over(end.Add(-1)) || !w.over(end) {
		t.Error("a window is over from its end on")
	}
	if w.Sealed = true; !w.over(end.Add(-1)) {
		t.Error("what is sealed is over")
	}
}

func TestChecksSeeWhatIsWrong(t *testing.T) {
	for _, w := range []Window{
		{Base: -1},
		{ToppedUp: -1},
		{Committed: -1},
		{Base: 9, Spent: -1},
		{Base: 9, Held: -1},
		{Base: 9, Suspense: -1},
		{Overrun: -1},
		{Unheld: -1},
		{Base: MaxLimit + 1},
		{Base: 10, Spent: 5, Held: 4, Suspense: 2},
		{Base: 10, Spent: 5, Held: 7, Committed: 11},
	} {
		if w.Check() == nil {
			t.Errorf("%+v was found in order", w)
		}
	}
	for _, l := range []Lease{{Granted: -1}, {Granted: 5, Returned: 6}, {Granted: 5, Settled: 3, Doubted: 3}, {Granted: 5, Settled: -1}, {Granted: 5, Closed: true}} {
		if l.Check() == nil {
			t.Errorf("%+v was found in order", l)
		}
	}
}

func TestGrantOfWhatIsNotFreeIsABug(t *testing.T) {
	for _, amount := range []int64{11, -1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d was granted where 10 is free", amount)
				}
			}()
			(&Window{Base: 10}).grant(&Lease{}, amount)
		}()
	}
}

func TestStateOfAWindow(t *testing.T) {
	w := Window{ID: 5, Base: 100, Carried: 20, ToppedUp: 10, Spent: 30, Overrun: 2, Unheld: 3, Held: 40, Suspense: 5, Recall: 2, Exact: true, Hard: true, Unit: BRL, Period: Weekly, TimeZone: "UTC"}
	want := WindowState{ID: 5, Limit: 130, Used: 35, Held: 45, Free: 50, Recall: 2, Exact: true, Hard: true, Unit: BRL, Period: Weekly, TimeZone: "UTC"}
	if got := w.State(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Whatever happens to a window, in any order, each part of it stays at or above zero, what is committed stays covered, and
// held and suspense are what the leases and doubts say.
func TestWindowHoldsInvariantsUnderRandomOperations(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 0))
		w := Window{Base: rng.Int64N(10_000), LimitVersion: 1}
		leases := []*Lease{{}, {}, {}}
		var doubts []int64
		for step := range 300 {
			l, n := leases[rng.IntN(len(leases))], rng.Int64N(2_000)
			if seed%4 == 0 && rng.IntN(9) == 0 {
				n = rng.Int64() // nonsense, from far away
			}
			op := rng.IntN(16)
			switch op {
			case 0, 1, 2, 3:
				w.grant(l, min(w.offer(Want{Least: n / 4, Need: n / 2, More: n}, 1+rng.IntN(5)), MaxLimit-l.Granted))
			case 4:
				w.giveBack(l, n)
			case 5, 6:
				if d, _ := w.settle(l, n/8, n/4, rng.IntN(2) == 0); d > 0 {
					doubts = append(doubts, d)
				}
			case 7:
				w.settle(l, n, n/2, false)
			case 8, 9:
				if len(doubts) > 0 {
					w.undoubt(doubts[0], rng.Int64N(2*min(doubts[0], 1<<40)+1)-doubts[0])
					doubts = doubts[1:]
				}
			case 10:
				w.adjust(n - 1000)
			case 11:
				w.useUnheld(n/8 - 125)
			case 12:
				w.Amend(min(MaxLimit, rng.Int64N(20_000)+n/2000*1000), true)
			case 13:
				w.carry(n - 1000)
			case 14:
				w.assert(l, n, n/2)
			case 15:
				if l.Lost {
					w.resumeLease(l)
				} else if w.suspendLease(l); n%4 == 0 {
					w.closeLease(l)
				}
			}
			var held, suspense int64
			for _, l := range leases {
				if err := l.Check(); err != nil {
					t.Fatalf("seed %d, step %d, operation %d: %v", seed, step, op, err)
				}
				if l.Lost {
					suspense += l.Rest()
				} else {
					held += l.Rest()
				}
			}
			for _, d := range doubts {
				suspense += d
			}
			if err := w.Check(); err != nil || w.Held != held || w.Suspense != suspense {
				t.Fatalf("seed %d, step %d, operation %d: %v; held %d, suspense %d, by leases and doubts %d, %d", seed, step, op, err, w.Held, w.Suspense, held, suspense)
			}
		}
	}
}
