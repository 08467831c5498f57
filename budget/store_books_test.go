package budget

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// booksWindow is a window of a budget that is in no table.
func booksWindow(id int64, budget uuid.UUID, starts time.Time, limit int64) *Window {
	return &Window{
		ID: id, BudgetID: budget, ClientID: uuid.New(), Unit: Tokens, Period: Daily, Hard: true, TimeZone: "UTC",
		StartsAt: starts.UTC().Truncate(time.Microsecond), EndsAt: starts.UTC().Truncate(time.Microsecond).Add(24 * time.Hour), Base: limit, LimitVersion: 1, Since: starts.UTC().Truncate(time.Microsecond),
	}
}

func booksUpdate(t *testing.T, s Books, f func(tx Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// TestBooksKeepWindows writes every column of a window and reads it again by each way there is.
func TestBooksKeepWindows(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx, now := t.Context(), time.Now().UTC().Truncate(time.Microsecond)
		budget, other := uuid.New(), uuid.New()
		old := booksWindow(11, budget, now.Add(-72*time.Hour), 100)
		w := booksWindow(3, budget, now.Add(-time.Hour), 1000)
		w.ClientID = uuid.Nil
		far := booksWindow(MaxLimit, other, now.Add(-time.Hour), MaxLimit)
		booksUpdate(t, s, func(tx Tx) error {
			opened, isNew, err := tx.OpenWindows(ctx, []*Window{old, w, far})
			if err == nil && (!slices.Equal(isNew, []bool{true, true, true}) || !reflect.DeepEqual(opened, []*Window{old, w, far})) {
				t.Errorf("opened %v %+v", isNew, opened)
			}
			return err
		})
		w.Base, w.Carried, w.ToppedUp, w.LimitVersion, w.Committed, w.Hard = 500, -20, 30, 4, 700, false
		w.Spent, w.Held, w.Suspense, w.Overrun, w.Unheld, w.Recall, w.Exact, w.Alerted, w.Sealed = 300, 350, 50, 7, 8, 9, true, 90, true
		w.Since = now.Add(time.Second)
		booksUpdate(t, s, func(tx Tx) error { return tx.SaveWindows(ctx, []*Window{w}) })
		booksUpdate(t, s, func(tx Tx) error {
			same := func(what string, want []*Window) func([]*Window, error) {
				return func(got []*Window, err error) {
					t.Helper()
					if err != nil || len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
						t.Errorf("%s: %+v, %v", what, got, err)
					}
				}
			}
			same("by id, in their order", []*Window{w, old, far})(tx.Windows(ctx, []int64{MaxLimit, 11, 3, 12}))
			same("by none", nil)(tx.Windows(ctx, nil))
			same("that end after now", []*Window{w})(tx.WindowsOf(ctx, []uuid.UUID{budget}, now))
			same("that end after long ago", []*Window{old, w})(tx.WindowsOf(ctx, []uuid.UUID{budget}, now.Add(-100*time.Hour)))
			same("the last before", []*Window{old})(tx.LastWindows(ctx, []uuid.UUID{budget, budget, other}, w.StartsAt))
			same("the last of both", []*Window{w, far})(tx.LastWindows(ctx, []uuid.UUID{budget, other}, now))
			opened, isNew, err := tx.OpenWindows(ctx, []*Window{far, booksWindow(3, uuid.New(), now, 1)})
			if slices.Contains(isNew, true) {
				t.Error("a window that is there was opened")
			}
			same("opened again", []*Window{far, w})(opened, err)
			same("states", []*Window{w, far})(tx.States(ctx, []int64{3, MaxLimit, 3}, 1, time.Time{}))
			same("states that changed", []*Window{w})(tx.States(ctx, []int64{3, MaxLimit}, 1, now))
			due, err := tx.DueWindows(ctx, now, 10)
			if err != nil || !slices.Equal(due, []int64{11}) {
				t.Errorf("due: %v, %v", due, err)
			}
			return nil
		})
		err := s.Update(ctx, func(tx Tx) error { return tx.SaveWindows(ctx, []*Window{w, booksWindow(77, budget, now, 1)}) })
		if err == nil {
			t.Error("a window that is not there was saved")
		}
	})
}

func TestBooksKeepLeases(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx, now := t.Context(), time.Now().UTC().Truncate(time.Microsecond)
		const high = uint64(1)<<63 + 5 // below zero for a database
		ls := []*Lease{
			{LeaseKey{1, high}, 100, 1, 2, 3, false, false},
			{LeaseKey{2, high}, 100, 100, 0, 0, false, false},
			{LeaseKey{1, 7}, 10, 0, 0, 0, true, false},
			{LeaseKey{3, high}, 5, 5, 0, 0, false, true},
		}
		ds := []Doubt{{EventID{high, 4}, 1, 3, now}, {EventID{high, 4}, 2, 5, now}, {EventID{7, 4}, 1, 6, now}}
		hs := []*Holder{
			{high, "proxy-1", 1<<64 - 1, []byte("{}"), 2, now, Live}, {7, "proxy-2", 1, nil, 1, now, Lost}, {9, "proxy-3", 1, nil, 1, now, Closed},
		}
		booksUpdate(t, s, func(tx Tx) error {
			_, _, err := tx.OpenWindows(ctx, []*Window{booksWindow(1, uuid.New(), now, 9), booksWindow(2, uuid.New(), now, 9)})
			return errors.Join(err, tx.SaveLeases(ctx, ls), tx.AddDoubts(ctx, ds), tx.SaveHolders(ctx, hs))
		})
		ls[0].Settled, hs[0].Op, hs[0].Reply = 4, 8, []byte("{1}")
		booksUpdate(t, s, func(tx Tx) error {
			return errors.Join(tx.SaveLeases(ctx, ls[:1]), tx.SaveHolders(ctx, hs[:1]), tx.DropDoubts(ctx, ds[1:2]))
		})
		booksUpdate(t, s, func(tx Tx) error {
			var errs []error
			is := func(what string, want any) func(any, error) {
				return func(got any, err error) {
					t.Helper()
					if err != nil || !reflect.DeepEqual(got, want) {
						t.Errorf("%s: %+v, want %+v; %v", what, got, want, err)
					}
				}
			}
			leases, err := tx.Leases(ctx, []LeaseKey{{1, high}, {1, 7}, {9, 9}, {1, high}})
			slices.SortFunc(leases, func(a, b *Lease) int { return compareKeys(a.LeaseKey, b.LeaseKey) })
			is("leases", []*Lease{ls[2], ls[0]})(leases, err)
			of, err := tx.LeasesOf(ctx, []uint64{high, high})
			is("of one", []*Lease{ls[0], ls[1]})(of, err)
			in, err := tx.LeasesIn(ctx, []int64{2, 3})
			is("in some", []*Lease{ls[1]})(in, err)
			sharers, err := tx.Sharers(ctx, []int64{1, 2, 3, 4})
			is("sharers", map[int64]int{1: 1, 2: 1})(sharers, err)
			doubts, err := tx.Doubts(ctx, []EventID{{high, 4}, {high, 5}, {high, 4}})
			is("doubts", ds[:1])(doubts, err)
			inside, err := tx.DoubtsIn(ctx, 1)
			slices.SortFunc(inside, func(a, b Doubt) int { return int(a.Amount - b.Amount) })
			is("doubts in one", []Doubt{ds[0], ds[2]})(inside, err)
			holders, err := tx.Holders(ctx, []uint64{high, 9, 1000})
			slices.SortFunc(holders, func(a, b *Holder) int { return strings.Compare(a.Name, b.Name) })
			is("holders", []*Holder{hs[0], hs[2]})(holders, err)
			states, err := tx.States(ctx, nil, high, time.Time{})
			is("states by lease", []int64{1})(column(states, (*Window).id), err)
			live, err := tx.LiveHolders(ctx)
			if err != nil || len(live) != 2 || live[0].Reply != nil || live[1].Reply != nil {
				t.Errorf("live holders: %+v, %v", live, err)
			}
			return errors.Join(errs...)
		})
	})
}

func TestBooksArrivedJournalEpoch(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx, now := t.Context(), time.Now().UTC().Truncate(time.Microsecond)
		full, hole := "'{[1,9)}'", "'{[1,4),[5,9)}'"
		if _, lite := s.(*booksSQLite); lite {
			full, hole = "'[[1,8]]'", "'[[1,3],[5,8]]'"
		}
		s.exec(t, "INSERT INTO producers (incarnation, received) VALUES (-5, "+full+"), (6, "+hole+")")
		minus5 := ^uint64(4)
		booksUpdate(t, s, func(tx Tx) error {
			for last, want := range map[uint64]map[uint64]bool{0: {minus5: true, 6: true, 7: true}, 3: {minus5: true, 6: true, 7: false}, 8: {minus5: true, 6: false, 7: false}, 9: {minus5: false, 6: false, 7: false}} {
				got, err := tx.Arrived(ctx, []Close{{minus5, last}, {6, last}, {7, last}})
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("up to %d arrived: %v, want %v; %v", last, got, want, err)
				}
			}
			return tx.Journal(ctx, []Entry{{1, minus5, "close", 5, "a", now}, {2, 0, "limit", -3, "b", now}, {1, 0, "carry", 6, "c", now}})
		})
		want := []Entry{{1, 0, "carry", 6, "c", now}, {1, minus5, "close", 5, "a", now}}
		if got := booksMust[[]Entry](t)(s.Entries(ctx, 1, 10)); !reflect.DeepEqual(got, want) {
			t.Errorf("journal %+v, want %+v", got, want)
		}
		var first string
		e := Epoch{Number: 3, Identity: "x", Learning: now, Since: now.Add(-time.Hour)}
		booksUpdate(t, s, func(tx Tx) error {
			stored, current, err := tx.Epoch(ctx)
			if stored.Number != 0 || stored.Identity != "" || !stored.Learning.IsZero() || current == "" {
				t.Errorf("at first %+v, %q", stored, current)
			}
			first = current
			return errors.Join(err, tx.SaveEpoch(ctx, e))
		})
		booksUpdate(t, s, func(tx Tx) error {
			stored, current, err := tx.Epoch(ctx)
			if stored != e || current != first {
				t.Errorf("then %+v, %q", stored, current)
			}
			return err
		})
	})
}

// TestBooksSaveEpochAtOnce has all read the epoch before one writes it: none may wait for another for ever.
func TestBooksSaveEpochAtOnce(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		var wg sync.WaitGroup
		begun := time.Now()
		for range 8 {
			wg.Go(func() {
				err := s.Update(t.Context(), func(tx Tx) error {
					e, _, err := tx.Epoch(t.Context())
					if err != nil {
						return err
					}
					e.Number++
					return tx.SaveEpoch(t.Context(), e)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := s.number(t, "SELECT number FROM budget_epoch"); n != 8 {
			t.Errorf("eight each added one, and it is %d", n)
		}
		t.Logf("took %v", time.Since(begun).Round(time.Millisecond))
	})
}

// TestBooksAtOnce moves amounts between windows from many sides. Each transaction locks its windows in the order of
// their ids, so none is broken off, and no amount is lost.
func TestBooksAtOnce(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, s Books) {
		const workers, each, windows = 8, 200, 12
		ctx, now := t.Context(), time.Now()
		ids := make([]int64, windows)
		booksUpdate(t, s, func(tx Tx) error {
			var ws []*Window
			for i := range ids {
				ids[i] = rand.Int64N(MaxLimit)
				ws = append(ws, booksWindow(ids[i], uuid.New(), now, MaxLimit))
			}
			_, _, err := tx.OpenWindows(ctx, ws)
			return err
		})
		var want [windows]atomic.Int64
		runs, wg := atomic.Int64{}, sync.WaitGroup{}
		for worker := range workers {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			wg.Go(func() {
				for range each {
					picked := r.Perm(windows)[:1+r.IntN(5)]
					amount := 1 + r.Int64N(1000)
					err := s.Update(ctx, func(tx Tx) error {
						runs.Add(1)
						var some []int64
						for _, i := range picked {
							some = append(some, ids[i])
						}
						ws, err := tx.Windows(ctx, some)
						if err != nil {
							return err
						}
						var ls []*Lease
						for _, w := range ws {
							l := &Lease{LeaseKey: LeaseKey{w.ID, uint64(worker)}}
							if had, err := tx.Leases(ctx, []LeaseKey{l.LeaseKey}); err != nil {
								return err
							} else if len(had) > 0 {
								l = had[0]
							}
							w.grant(l, amount)
							ls = append(ls, l)
						}
						return errors.Join(tx.SaveWindows(ctx, ws), tx.SaveLeases(ctx, ls))
					})
					if err != nil {
						t.Error(err)
						return
					}
					for _, i := range picked {
						want[i].Add(amount)
					}
				}
			})
		}
		wg.Wait()
		booksUpdate(t, s, func(tx Tx) error {
			for i, id := range ids {
				ws, err := tx.Windows(ctx, []int64{id})
				if err != nil || ws[0].Held != want[i].Load() {
					t.Errorf("window %d holds %d, want %d; %v", i, ws[0].Held, want[i].Load(), err)
				}
				var sum int64
				ls, err := tx.LeasesIn(ctx, []int64{id})
				for _, l := range ls {
					sum += l.Rest()
				}
				if err != nil || sum != want[i].Load() {
					t.Errorf("leases of window %d sum up to %d, want %d; %v", i, sum, want[i].Load(), err)
				}
			}
			return nil
		})
		if runs.Load() != workers*each {
			t.Errorf("%d transactions were begun for %d", runs.Load(), workers*each)
		}
	}
	onBooksStores(t, func(t *testing.T, s booksStore) { run(t, s) })
	t.Run("memory", func(t *testing.T) { t.Parallel(); run(t, NewMemory(time.Now)) })
}

// TestBooksRefuseWhatDoesNotAddUp breaks the rules by hand.
func TestBooksRefuseWhatDoesNotAddUp(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx, now := t.Context(), time.Now()
		refused := func(what string, constraint string, f func(tx Tx) error) {
			t.Helper()
			if err := s.Update(ctx, f); err == nil || !strings.Contains(err.Error(), constraint) {
				t.Errorf("%s: %v", what, err)
			}
		}
		budget := uuid.New()
		good := booksWindow(1, budget, now, 100)
		booksUpdate(t, s, func(tx Tx) error {
			_, _, err := tx.OpenWindows(ctx, []*Window{good})
			return errors.Join(err, tx.SaveLeases(ctx, []*Lease{{LeaseKey: LeaseKey{1, 1}, Granted: 10, Settled: 10}}))
		})
		for what, c := range map[string]struct {
			constraint string
			change     func(w *Window)
		}{
			"spent below zero":           {"budget_windows_spent", func(w *Window) { w.Spent = -1 }},
			"held below zero":            {"budget_windows_held", func(w *Window) { w.Held = -1 }},
			"suspense below zero":        {"budget_windows_suspense", func(w *Window) { w.Suspense = -1 }},
			"more held than the limit":   {"budget_windows_adds_up", func(w *Window) { w.Held = 101 }},
			"all together more":          {"budget_windows_adds_up", func(w *Window) { w.Spent, w.Held, w.Suspense = 50, 50, 1 }},
			"more than was committed":    {"budget_windows_adds_up", func(w *Window) { w.Base, w.Committed, w.Spent = 50, 99, 100 }},
			"more than a limit in debt":  {"budget_windows_adds_up", func(w *Window) { w.Carried, w.Spent = -50, 51 }},
			"spent with a negative debt": {"budget_windows_adds_up", func(w *Window) { w.Carried, w.Spent = -500, 1 }},
		} {
			refused(what, c.constraint, func(tx Tx) error {
				w := *good
				c.change(&w)
				return tx.SaveWindows(ctx, []*Window{&w})
			})
		}
		refused("a lease that settled more than it was granted", "budget_leases_adds_up", func(tx Tx) error {
			return tx.SaveLeases(ctx, []*Lease{{LeaseKey: LeaseKey{1, 1}, Granted: 10, Settled: 9, Doubted: 2}})
		})
		refused("a lease that was given back below zero", "budget_leases_signs", func(tx Tx) error {
			return tx.SaveLeases(ctx, []*Lease{{LeaseKey: LeaseKey{1, 2}, Granted: 10, Returned: -1}})
		})
		refused("a window that ends before it begins", "budget_windows_period", func(tx Tx) error {
			w := booksWindow(2, budget, now, 1)
			w.EndsAt = w.StartsAt
			_, _, err := tx.OpenWindows(ctx, []*Window{w})
			return err
		})
		booksUpdate(t, s, func(tx Tx) error { // the largest amounts are none of these
			w := *good
			w.Base, w.Carried, w.ToppedUp, w.Spent = MaxLimit, MaxLimit, MaxLimit, MaxLimit
			return tx.SaveWindows(ctx, []*Window{&w})
		})
	})
}

// TestBooksAnswerOnce has the same message come several times at once.
func TestBooksAnswerOnce(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		client := booksClients(t, s, 1)[0]
		b := booksMust[Budget](t)(s.CreateBudget(ctx, booksBudget(client, Tokens, Daily, 1_000_000)))
		a := NewAuthority(s, AuthorityOptions{})
		for round := range uint64(10) {
			incarnation := 100 + round
			ask := Ask{Incarnation: incarnation, Name: "p", Op: 1, Open: []Opening{{Client: client, Need: Cost{Tokens: 1000}}}}
			var replies [4]Reply
			var wg sync.WaitGroup
			for i := range replies {
				wg.Go(func() {
					r, err := a.Lease(ctx, ask)
					if err != nil {
						t.Error(err)
					}
					r.At = time.Time{}
					replies[i] = r
				})
			}
			wg.Wait()
			for _, r := range replies {
				if len(r.Grants) != 1 || r.Grants[0] != replies[0].Grants[0] || r.Grants[0].Amount < 1000 {
					t.Fatalf("answers differ: %+v", replies)
				}
			}
			booksUpdate(t, s, func(tx Tx) error {
				ls, err := tx.LeasesOf(ctx, []uint64{incarnation})
				if err == nil && (len(ls) != 1 || ls[0].Granted != replies[0].Grants[0].Amount) {
					t.Errorf("leased %+v, answered %+v", ls, replies[0].Grants)
				}
				return err
			})
		}
		if w := booksMust[[]*Window](t)(s.History(ctx, b.ID, 1))[0]; w.Held < 10_000 {
			t.Errorf("window %+v", w)
		}
		booksSound(t, s, 1)
	})
}

// booksLogged is what the log has for a window, counted call by call.
func booksLogged(t *testing.T, s booksStore, w *Window) int64 {
	t.Helper()
	what := map[Unit]string{Tokens: "total_tokens", BRL: "cost_brl", USD: "cost_usd"}[w.Unit]
	if _, lite := s.(*booksSQLite); !lite && w.Unit != Tokens {
		what += " * 1000000000000"
	}
	of := ""
	if w.ClientID != uuid.Nil {
		of = fmt.Sprintf(" AND client_id = '%s'", w.ClientID)
	}
	return s.number(t, fmt.Sprintf("SELECT CAST(coalesce(sum(%s), 0) AS BIGINT) FROM gateway_usage_logs WHERE created_at >= %s AND created_at < %s%s",
		what, s.instant(w.StartsAt), s.instant(w.EndsAt), of))
}

// TestBudgetsThatComeWhileUsageIsRecorded makes budgets that begin in the past while workers record usage of then and
// of now: each event must be in each window once.
func TestBudgetsThatComeWhileUsageIsRecorded(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		clients := booksClients(t, s, 3)
		begin := time.Now().Add(-3 * time.Hour)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var recorded atomic.Int64
		for worker := range uint64(4) {
			r := rand.New(rand.NewPCG(7, worker))
			wg.Go(func() {
				for seq := uint64(1); ; {
					select {
					case <-stop:
						return
					default:
					}
					var batch []Charge
					for range 1 + r.IntN(8) {
						batch = append(batch, Charge{
							EventID: EventID{worker + 1, seq}, Client: clients[r.IntN(3)],
							AdmittedAt: begin.Add(time.Duration(r.Int64N(int64(3 * time.Hour)))).Truncate(time.Microsecond),
							Cost:       Cost{Tokens: 1 + r.Int64N(1000), BRL: 1 + 3_000_000_000, USD: 7},
						})
						seq++
					}
					if err := s.record(ctx, batch); err != nil {
						t.Error(err)
						return
					}
					recorded.Add(int64(len(batch)))
				}
			})
		}
		var made []Budget
		for _, unit := range []Unit{Tokens, BRL, USD} {
			for _, client := range append(slices.Clone(clients), uuid.Nil) {
				time.Sleep(30 * time.Millisecond)
				b := booksBudget(client, unit, Monthly, MaxLimit)
				b.StartsAt, b.PauseAtLimit = begin.Add(time.Duration(rand.Int64N(int64(3*time.Hour)))), false
				made = append(made, booksMust[Budget](t)(s.CreateBudget(ctx, b)))
			}
		}
		// Somebody else may write a budget as well, and then it is a settlement, or Tidy, that opens its window.
		b := booksBudget(clients[0], Tokens, Daily, MaxLimit).completed(begin)
		s.exec(t, fmt.Sprintf("INSERT INTO client_budgets (id, client_id, budget_type, budget_limit, budget_period, period_start_date, next_reset_at, starts_at, time_zone) VALUES ('%s', '%s', 'tokens', 1000, 'daily', '2026-01-01', %s, %s, 'UTC')",
			b.ID, b.ClientID, s.instant(begin), s.instant(begin)))
		made = append(made, b)
		time.Sleep(100 * time.Millisecond)
		close(stop)
		wg.Wait()
		if err := NewAuthority(s, AuthorityOptions{}).Tidy(ctx); err != nil {
			t.Fatal(err)
		}
		for _, b := range made {
			ws := booksMust[[]*Window](t)(s.History(ctx, b.ID, 10))
			if len(ws) == 0 {
				t.Errorf("budget %s has no window", b.ID)
			}
			for _, w := range ws {
				if want := booksLogged(t, s, w); w.Used() != want {
					t.Errorf("%s window of client %s from %s: %d used, the log has %d", w.Unit, w.ClientID, w.StartsAt, w.Used(), want)
				}
			}
		}
		booksSound(t, s, len(made))
		t.Logf("%d events recorded while %d budgets came", recorded.Load(), len(made))
	})
}

// TestSettlementsOpenTheFirstWindowAtOnce has many settlements meet a budget that has no window yet.
func TestSettlementsOpenTheFirstWindowAtOnce(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		client := booksClients(t, s, 1)[0]
		at := time.Now().Truncate(time.Microsecond)
		var seq atomic.Uint64
		record := func(n int) error {
			var batch []Charge
			for range n {
				batch = append(batch, Charge{EventID: EventID{1, seq.Add(1)}, Client: client, AdmittedAt: at, Cost: Cost{Tokens: 3}})
			}
			return s.record(ctx, batch)
		}
		if err := record(5); err != nil {
			t.Fatal(err)
		}
		for round, period := range []string{"daily", "weekly", "monthly"} {
			s.exec(t, fmt.Sprintf("INSERT INTO client_budgets (id, client_id, budget_type, budget_limit, budget_period, period_start_date, next_reset_at, starts_at, time_zone) VALUES ('%s', '%s', 'tokens', 1000, '%s', '2026-01-01', %s, %s, 'UTC')",
				uuid.New(), client, period, s.instant(at), s.instant(at.Add(-time.Second))))
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					if err := record(2); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			want := int64(3 * (5 + 12*(round+1)))
			if n := s.number(t, "SELECT count(*) FROM budget_windows WHERE unheld <> "+fmt.Sprint(want)); n != 0 {
				t.Errorf("round %d: %d windows do not have %d", round, n, want)
			}
			if n := s.number(t, "SELECT count(*) FROM budget_windows"); n != int64(round+1) {
				t.Errorf("round %d: %d windows", round, n)
			}
		}
		booksSound(t, s, 3)
	})
}

// TestCheckFindsFaults breaks the ledger and the log, one at a time.
func TestCheckFindsFaults(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx := t.Context()
		client := booksClients(t, s, 1)[0]
		b := booksBudget(client, Tokens, Monthly, 1_000_000)
		b.StartsAt = time.Now().Add(-26 * time.Hour)
		b = booksMust[Budget](t)(s.CreateBudget(ctx, b))
		a := NewAuthority(s, AuthorityOptions{})
		r := booksMust[Reply](t)(a.Lease(ctx, Ask{Incarnation: 9, Op: 1, Open: []Opening{{Client: client, Need: Cost{Tokens: 5000}}}}))
		window := r.Grants[0].Window
		hold := []HeldFor{{window, 1000}}
		now := time.Now().Truncate(time.Microsecond)
		for i, c := range []Charge{
			{Cost: Cost{Tokens: 400}, Holds: hold},
			{Cost: Cost{Tokens: 1100}, Holds: hold},
			{Cost: Cost{Tokens: 100}, Holds: hold, Doubt: true},
			{Cost: Cost{Tokens: 30}},                                                     // without a hold
			{Cost: Cost{Tokens: 500}, Holds: hold, AdmittedAt: now.Add(-27 * time.Hour)}, // by a clock that is wrong
			{Cost: Cost{Tokens: 40}, AdmittedAt: now.Add(-20 * time.Hour)},               // in the middle
		} {
			c.EventID, c.Client = EventID{9, uint64(i + 1)}, client
			if c.AdmittedAt.IsZero() {
				c.AdmittedAt = now
			}
			if i == 4 {
				c.AdmittedAt = b.StartsAt.Add(-30 * time.Minute)
			}
			if err := s.record(ctx, []Charge{c}); err != nil {
				t.Fatal(err)
			}
		}
		correction := Charge{EventID: EventID{9, 2}, Client: client, AdmittedAt: now, Cost: Cost{Tokens: -100}, Holds: hold, Correction: true}
		if err := s.record(ctx, []Charge{correction}); err != nil {
			t.Fatal(err)
		}
		if got := booksSound(t, s, 1); got.Spent != 400+1000+100+30+500+40 {
			t.Errorf("used %d", got.Spent)
		}
		for statement, c := range map[string]struct{ undo, what string }{
			"UPDATE budget_windows SET spent = spent + 1":       {"UPDATE budget_windows SET spent = spent - 1", "spent"},
			"UPDATE budget_windows SET unheld = unheld - 1":     {"UPDATE budget_windows SET unheld = unheld + 1", "spent"},
			"UPDATE budget_windows SET held = held - 1":         {"UPDATE budget_windows SET held = held + 1", "held"},
			"UPDATE budget_leases SET returned = returned + 1":  {"UPDATE budget_leases SET returned = returned - 1", "held"},
			"UPDATE budget_windows SET suspense = suspense + 1": {"UPDATE budget_windows SET suspense = suspense - 1", "suspense"},
			"UPDATE budget_doubts SET amount = amount + 1":      {"UPDATE budget_doubts SET amount = amount - 1", "suspense"},
			"UPDATE usage_rollups SET total_tokens = total_tokens + 1 WHERE hour = (SELECT min(hour) FROM usage_rollups WHERE total_tokens = 40)": {"UPDATE usage_rollups SET total_tokens = 40 WHERE total_tokens = 41", "spent"},
			"UPDATE gateway_usage_logs SET budget_holds = NULL WHERE total_tokens = 500": {
				fmt.Sprintf("UPDATE gateway_usage_logs SET budget_holds = '[[%d,1000]]' WHERE total_tokens = 500", window), "spent",
			},
		} {
			s.exec(t, statement)
			got := booksMust[CheckReport](t)(s.Check(ctx))
			if len(got.Faults) != 1 || got.Faults[0].What != c.what || got.Faults[0].Window != window || got.Faults[0].Budget != b.ID {
				t.Errorf("after %s: %+v", statement, got.Faults)
			}
			s.exec(t, c.undo)
			booksSound(t, s, 1)
		}
		s.exec(t, "INSERT INTO usage_log_kept (only_one, since) VALUES ("+s.yes()+", "+s.instant(now)+")")
		s.exec(t, "DELETE FROM gateway_usage_logs")
		booksSound(t, s, 1) // nothing is left to compare with
		s.exec(t, "UPDATE budget_windows SET held = held - 1")
		if got := booksMust[CheckReport](t)(s.Check(ctx)); len(got.Faults) != 1 || got.Logged != 0 {
			t.Errorf("without a log: %+v", got)
		}
	})
}
