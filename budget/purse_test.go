package budget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// lenderFunc is a Lender that a test scripts.
type lenderFunc func(ctx context.Context, a Ask) (Reply, error)

func (f lenderFunc) Lease(ctx context.Context, a Ask) (Reply, error) { return f(ctx, a) }

// startPurse runs a purse until the test ends.
func startPurse(t testing.TB, o PurseOptions) (p *Purse, stop func()) {
	t.Helper()
	p, err := OpenPurse(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return p, stop
}

func TestPurseIsSafeForManyGoroutines(t *testing.T) {
	clients := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	budgets := []Budget{purseTestBudget(uuid.Nil, Tokens, Monthly, 1<<40)}
	for _, c := range clients {
		budgets = append(budgets, purseTestBudget(c, Tokens, Monthly, 20_000), purseTestBudget(c, USD, Monthly, 1<<40))
	}
	books := NewMemory(time.Now)
	for _, b := range budgets {
		if err := books.SetBudget(b); err != nil {
			t.Fatal(err)
		}
	}
	ledger := NewAuthority(books, AuthorityOptions{})
	var lost atomic.Int64
	lender := lenderFunc(func(ctx context.Context, a Ask) (Reply, error) {
		r, err := ledger.Lease(ctx, a)
		if lost.Add(1)%7 == 0 {
			return Reply{}, errors.New("the answer is lost")
		}
		return r, err
	})
	var spent [3]atomic.Int64
	var wg sync.WaitGroup
	for n := range 2 {
		p, _ := startPurse(t, PurseOptions{Incarnation: uint64(n + 1), Name: "p", Dir: t.TempDir(), Lender: lender})
		for g := range 8 {
			wg.Go(func() {
				var h Hold
				for i := range 800 {
					which := (g + i) % 3
					a, err := p.Account(t.Context(), clients[which])
					if err != nil {
						continue
					}
					if err := a.Reserve(t.Context(), Cost{Tokens: 20, USD: 3}, 0, &h); err != nil {
						if d := (*Denied)(nil); !errors.As(err, &d) && !errors.Is(err, ErrUnavailable) {
							t.Error(err)
						}
						continue
					}
					if i%50 == 0 {
						p.Stale(clients[which])
					}
					if i%20 == 0 && !h.TopUp(t.Context(), Cost{Tokens: 5}) {
						h.Release()
						continue
					}
					spent[which].Add(11)
					h.Settle(Cost{Tokens: 11, USD: 1}, false)
					_, _, _ = a.Room(t.Context(), 0), a.Policy(), a.Counts(BRL)
					_ = p.Stats()
				}
			})
		}
	}
	wg.Wait()
	for i := range spent {
		if got := spent[i].Load(); got > 20_000 || got < 10_000 {
			t.Errorf("client %d spent %d of 20000", i, got)
		}
	}
}

func TestPurseReturnsAllWhenItEnds(t *testing.T) {
	client := uuid.New()
	books := NewMemory(time.Now)
	if err := books.SetBudget(purseTestBudget(client, Tokens, Monthly, 1_000_000)); err != nil {
		t.Fatal(err)
	}
	p, stop := startPurse(t, PurseOptions{Incarnation: 9, Name: "p", Lender: NewAuthority(books, AuthorityOptions{})})
	a, err := p.Account(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	var h Hold
	if err := a.Reserve(t.Context(), Cost{Tokens: 100}, 0, &h); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(300 * time.Millisecond)
		h.Settle(Cost{Tokens: 60}, false)
	}()
	stop()
	l := books.Leases()[0]
	if l.Granted-l.Returned != 60 {
		t.Errorf("%+v: all but the 60 that were used should have come back", l)
	}
	if hs := books.Holders(); hs[0].State != Left {
		t.Errorf("it did not say that it leaves: %+v", hs[0])
	}
	if err := a.Reserve(t.Context(), Cost{Tokens: 1}, 0, &h); !errors.Is(err, ErrUnavailable) {
		t.Errorf("admitted after the end: %v", err)
	}
}

// TestPurseWithoutLedger looks at what callers are told when nobody answers, and that it is soon.
func TestPurseWithoutLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := uuid.New()
		books := NewMemory(time.Now)
		if err := books.SetBudget(purseTestBudget(client, Tokens, Monthly, 1_000_000)); err != nil {
			t.Fatal(err)
		}
		ledger := NewAuthority(books, AuthorityOptions{})
		var away atomic.Bool
		p, stop := startPurse(t, PurseOptions{Incarnation: 9, Name: "p", Lender: lenderFunc(func(ctx context.Context, a Ask) (Reply, error) {
			if away.Load() {
				return Reply{}, errors.New("connection refused")
			}
			return ledger.Lease(ctx, a)
		})})
		a, err := p.Account(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		var h, rest Hold
		if err := a.Reserve(t.Context(), Cost{Tokens: 1000}, 0, &h); err != nil {
			t.Fatal(err)
		}
		h.Release()
		time.Sleep(3 * time.Second)
		away.Store(true)
		time.Sleep(10 * time.Second)
		have := a.folio.Load().slots[0].avail.Load()
		if have < 1000 {
			t.Fatalf("only %d are held", have)
		}
		if err := a.Reserve(t.Context(), Cost{Tokens: have}, 0, &rest); err != nil {
			t.Errorf("what is held should last: %v", err)
		}
		began := time.Now()
		if err := a.Reserve(t.Context(), Cost{Tokens: 1}, 0, &h); !errors.Is(err, ErrUnavailable) {
			t.Errorf("without lease and ledger: %v", err)
		}
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("refused after %v", took)
		}
		if _, err := p.Account(t.Context(), uuid.New()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("an account that is not known: %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("the caller hung up")
		cancel(gone)
		if err := a.Reserve(ctx, Cost{Tokens: 1}, 0, &h); !errors.Is(err, gone) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("a caller that hung up: %v", err)
		}
		away.Store(false)
		time.Sleep(2 * time.Second)
		if err := a.Reserve(t.Context(), Cost{Tokens: 1}, 0, &h); err != nil {
			t.Errorf("the ledger is back: %v", err)
		}
		h.Release()
		rest.Release()
		if s := p.Stats(); s.Failures == 0 || s.Messages <= s.Failures || s.Accounts != 2 || s.Slots != 1 {
			t.Errorf("%+v", s)
		}
		stop()
	})
}

func TestPurseDeniesLocally(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 100))
	p := w.purses[0]
	a := w.account(p, client)
	var h Hold
	if err := w.reserve(a, Cost{Tokens: 100}, 0, &h); err != nil {
		t.Fatal(err)
	}
	w.settle(p, client, &h, Cost{Tokens: 100}, false)
	w.ship()
	first := w.reserve(a, Cost{Tokens: 1}, 0, &h)
	if d := (*Denied)(nil); !errors.As(first, &d) {
		t.Fatal(first)
	}
	w.run(1100 * time.Millisecond)
	before := p.messages.Load()
	for range 1000 {
		wait, err := a.reserve(Cost{Tokens: 1}, 0, &h)
		if d := (*Denied)(nil); wait != nil || !errors.As(err, &d) {
			t.Fatalf("not refused at once: %v, %v", wait, err)
		}
		w.run(10 * time.Millisecond)
	}
	if sent := p.messages.Load() - before; sent > 11 {
		t.Errorf("%d messages in 10 s of refusals", sent)
	}
	// More becomes free: the next heartbeat tells.
	if err := w.ledger.TopUp(context.Background(), w.books.Windows()[0].BudgetID, 50, "test"); err != nil {
		t.Fatal(err)
	}
	w.run(1100 * time.Millisecond)
	if err := w.reserve(a, Cost{Tokens: 50}, 0, &h); err != nil {
		t.Errorf("there is more: %v", err)
	}
}

func TestPursePaused(t *testing.T) {
	client := uuid.New()
	b := purseTestBudget(client, Tokens, Daily, 100)
	w := newPurseWorld(t, 1, b)
	p := w.purses[0]
	a := w.account(p, client)
	var h Hold
	if err := w.reserve(a, Cost{Tokens: 1}, 0, &h); err != nil {
		t.Fatal(err)
	}
	h.Release()
	b.Paused, b.PausedReason = true, "contract under review"
	if err := w.books.SetBudget(b); err != nil {
		t.Fatal(err)
	}
	p.Stale(client)
	w.run(100 * time.Millisecond)
	d := (*Denied)(nil)
	if err := w.reserve(a, Cost{Tokens: 1}, 0, &h); !errors.As(err, &d) || !d.Paused || d.Reason != b.PausedReason || d.Limit != 100 {
		t.Errorf("%v", err)
	}
	b.Paused = false
	b.DeletedAt = w.now
	if err := w.books.SetBudget(b); err != nil {
		t.Fatal(err)
	}
	p.Stale(uuid.Nil)
	w.run(3 * time.Second)
	if a := w.account(p, client); a != nil {
		t.Error("there is an account, with its only budget deleted")
	}
	w.check()
	if rest := w.books.Leases()[0].Rest(); rest != 0 {
		t.Errorf("%d are still lent of a budget that is no more", rest)
	}
}

func TestPurseKeepsATail(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 1000))
	p := w.purses[0]
	a := w.account(p, client)
	fits := func(leave int) (n int) {
		for range 2000 {
			var h Hold
			if err := w.reserve(a, Cost{Tokens: 10}, leave, &h); err != nil {
				if d := (*Denied)(nil); !errors.As(err, &d) {
					t.Fatal(err)
				}
				return n
			}
			w.settle(p, client, &h, Cost{Tokens: 10}, false)
			w.ship()
			n++
		}
		return n
	}
	if n := fits(20); n != 80 {
		t.Errorf("%d calls that leave a fifth fit, not 80", n)
	}
	w.run(2 * time.Second)
	for _, alert := range w.books.Alerts() {
		if alert.Threshold == 100 {
			t.Error("the limit was alerted, and it is not reached")
		}
	}
	if n := fits(0); n != 20 {
		t.Errorf("%d more calls fit, not 20", n)
	}
	if room := a.Room(t.Context(), 0); room.Tokens != 0 || room.BRL < money.Pico(MaxLimit) {
		t.Errorf("room: %+v", room)
	}
}

// TestPurseTurns goes through midnight in São Paulo: who is let through before it counts for the old day, whenever it
// settles; nobody waits at the turn; and what was idle of the old day comes back.
func TestPurseTurns(t *testing.T) {
	client := uuid.New()
	b := purseTestBudget(client, Tokens, Daily, 10_000)
	w := newPurseWorld(t, 1, b, purseTestBudget(uuid.Nil, Tokens, Daily, 1_000_000))
	w.now = time.Date(2026, 3, 5, 2, 58, 0, 0, time.UTC)
	p := w.purses[0]
	a := w.account(p, client)
	var long Hold
	if err := w.reserve(a, Cost{Tokens: 500}, 0, &long); err != nil {
		t.Fatal(err)
	}
	old := long.Parts()[0].Window
	midnight := time.Date(2026, 3, 5, 3, 0, 0, 0, time.UTC)
	waited := 0
	for w.now.Before(midnight.Add(30 * time.Second)) {
		var h Hold
		wait, err := a.reserve(Cost{Tokens: 10}, 0, &h)
		if wait != nil {
			waited++
			w.run(50 * time.Millisecond)
			if done, err := wait.poll(); !done || err != nil {
				t.Fatal(done, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if after := !w.now.Before(midnight); after == (h.Parts()[0].Window == old) {
			t.Fatalf("at %v, window %d", w.now, h.Parts()[0].Window)
		}
		w.settle(p, client, &h, Cost{Tokens: 5}, false)
		w.run(200 * time.Millisecond)
	}
	if waited > 1 {
		t.Errorf("%d calls waited", waited)
	}
	w.settle(p, client, &long, Cost{Tokens: 400}, false)
	w.ship()
	w.run(3 * time.Second)
	w.check()
	for _, l := range w.books.Leases() {
		if l.Window == old && l.Rest() != 0 {
			t.Errorf("%d of yesterday are still lent", l.Rest())
		}
	}
	if len(p.retired) != 0 {
		t.Errorf("%d slots of yesterday are remembered", len(p.retired))
	}
}

// TestPurseLapses lets a period end while the ledger is away: nobody knows what comes after it.
func TestPurseLapses(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 10_000))
	p := w.purses[0]
	a := w.account(p, client)
	var h Hold
	if err := w.reserve(a, Cost{Tokens: 500}, 0, &h); err != nil {
		t.Fatal(err)
	}
	h.Release()
	w.now = time.Date(2026, 3, 6, 4, 0, 0, 0, time.UTC)
	wait, err := a.reserve(Cost{Tokens: 1}, 0, &h)
	if wait == nil {
		t.Fatalf("let through on what was yesterday's: %v", err)
	}
	if room := a.Room(t.Context(), 0); room.Tokens == 500 {
		t.Error("yesterday's room")
	}
	w.run(50 * time.Millisecond)
	if done, err := wait.poll(); !done || err != nil {
		t.Errorf("the ledger is back: %v, %v", done, err)
	}
	h.Release()
}

func TestPurseGoesExact(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 2, purseTestBudget(client, Tokens, Daily, 100_000))
	one, two := w.account(w.purses[0], client), w.account(w.purses[1], client)
	var h, rest Hold
	if err := w.reserve(one, Cost{Tokens: 1000}, 0, &h); err != nil {
		t.Fatal(err)
	}
	h.Release() // it lies there
	if one.folio.Load().slots[0].avail.Load() < 1000 {
		t.Fatal("nothing lies idle")
	}
	if err := w.reserve(two, Cost{Tokens: 94_000}, 0, &rest); err != nil {
		t.Fatal(err)
	}
	if err := w.reserve(two, Cost{Tokens: 5900}, 0, &h); err == nil {
		t.Fatal("more than there is")
	}
	w.run(2100 * time.Millisecond) // a heartbeat of each
	if err := w.reserve(two, Cost{Tokens: 5900}, 0, &h); err != nil {
		t.Errorf("what lay idle with the other one should have come back: %v", err)
	}
	w.settle(w.purses[1], client, &h, Cost{Tokens: 5000}, false)
	w.settle(w.purses[1], client, &rest, Cost{Tokens: 90_000}, false)
	w.ship()
	w.run(200 * time.Millisecond)
	w.check()
	for _, l := range w.books.Leases() {
		if l.Rest() != 0 {
			t.Errorf("in exact mode, %d lie idle with %d", l.Rest(), l.Incarnation)
		}
	}
}

// TestPurseAsserts sets the books back to what they were: what was lent since then must not be lent again.
func TestPurseAsserts(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 2, purseTestBudget(client, Tokens, Daily, 1000))
	snapshot := w.books.Snapshot()
	a, b := w.account(w.purses[0], client), w.account(w.purses[1], client)
	var h, other Hold
	if err := w.reserve(a, Cost{Tokens: 600}, 0, &h); err != nil {
		t.Fatal(err)
	}
	w.run(time.Second)
	w.books.Restore(snapshot)
	w.run(500 * time.Millisecond)
	if err := w.reserve(b, Cost{Tokens: 600}, 0, &other); !errors.Is(err, ErrUnavailable) {
		t.Errorf("while the ledger learns: %v", err)
	}
	for range 15 {
		w.run(time.Second)
		if err := w.ledger.Tidy(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if d := (*Denied)(nil); !errors.As(w.reserve(b, Cost{Tokens: 600}, 0, &other), &d) {
		t.Error("lent twice")
	}
	if err := w.reserve(b, Cost{Tokens: 300}, 0, &other); err != nil {
		t.Errorf("there is enough for this one: %v", err)
	}
	w.settle(w.purses[0], client, &h, Cost{Tokens: 600}, false)
	w.settle(w.purses[1], client, &other, Cost{Tokens: 300}, false)
	w.ship()
	w.run(3 * time.Second)
	w.check()
}

func TestPurseIsFinished(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 1000))
	var log strings.Builder
	p := w.purses[0]
	p.log = purseTestLog(&log)
	a := w.account(p, client)
	var h Hold
	w.now = w.now.Add(time.Second)
	wait, _ := a.reserve(Cost{Tokens: 1}, 0, &h)
	if _, ok := p.next(); !ok || wait == nil {
		t.Fatal("nothing is asked")
	}
	p.failed(fmt.Errorf("refused: %w", ErrStale))
	if done, err := wait.poll(); !done || !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v %v", done, err)
	}
	if _, err := a.reserve(Cost{Tokens: 1}, 0, &h); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if _, ok := p.due(); ok || !p.Stats().Finished || !strings.Contains(log.String(), "Restart the proxy") {
		t.Errorf("due %v, %+v, %s", ok, p.Stats(), log.String())
	}
}

func TestPurseRepeatsItself(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 1000))
	p := w.purses[0]
	_, _ = p.account(client)
	first, ok := p.next()
	if !ok {
		t.Fatal("nothing is asked")
	}
	if _, ok := p.next(); ok {
		t.Fatal("two messages under way")
	}
	for i := range 5 {
		p.failed(errors.New("lost"))
		if _, ok := p.next(); ok {
			t.Fatal("no pause before it is repeated")
		}
		w.now = w.now.Add(time.Second)
		again, ok := p.next()
		if !ok || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", first) {
			t.Fatalf("try %d: %v\n%+v\n%+v", i, ok, first, again)
		}
	}
	p.replied(Reply{Op: first.Op + 1, Epoch: 1, At: w.now})
	if p.under == nil {
		t.Error("the answer to another message was taken")
	}
	w.deliver(p, first)
	if p.accountOf(client, false).folio.Load() == nil {
		t.Error("the account did not come")
	}
	before := p.holding()
	w.deliver(p, first)
	if fmt.Sprint(before) != fmt.Sprint(p.holding()) {
		t.Error("an answer counted twice")
	}
}

func TestPurseForgetsWhatIsIdle(t *testing.T) {
	client, bare := uuid.New(), uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Monthly, 100_000))
	p := w.purses[0]
	a := w.account(p, client)
	if w.account(p, bare) != nil {
		t.Fatal("an account for a client without budgets")
	}
	var h Hold
	if err := w.reserve(a, Cost{Tokens: 10}, 0, &h); err != nil {
		t.Fatal(err)
	}
	w.settle(p, client, &h, Cost{Tokens: 4}, false)
	w.ship()
	for range 7 * 60 {
		w.now = w.now.Add(time.Second)
		w.pump()
	}
	w.check()
	if l := w.books.Leases()[0]; l.Rest() != 0 {
		t.Errorf("%d are lent to one who is idle", l.Rest())
	}
	for range 5 * 60 {
		w.now = w.now.Add(time.Second)
		w.pump()
	}
	if p.accountOf(client, false) != nil || p.accountOf(bare, false) != nil {
		t.Error("an account that is not used is not dropped")
	}
	if got := p.holding()[w.books.Windows()[0].ID]; got.Granted-got.Returned != 4 {
		t.Errorf("what was leased is forgotten: %+v", got)
	}
	// Whoever kept the old account goes on with the new one.
	if err := w.reserve(a, Cost{Tokens: 10}, 0, &h); err != nil {
		t.Fatal(err)
	}
	w.settle(p, client, &h, Cost{Tokens: 10}, false)
	w.ship()
	w.run(2 * time.Second)
	w.check()
	l := w.books.Leases()[0]
	if got := p.holding()[l.Window]; got.Granted != l.Granted || got.Returned != l.Returned {
		t.Errorf("%+v here, %+v there", got, *l)
	}
}

func TestPurseRemembersItsRuns(t *testing.T) {
	dir := t.TempDir()
	open := func(incarnation uint64, over ...Close) *Purse {
		p, err := OpenPurse(PurseOptions{Incarnation: incarnation, Dir: dir, Over: func() []Close { return over }})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	answer := func(p *Purse, closed ...uint64) Ask {
		a, ok := p.next()
		if !ok {
			t.Fatal("nothing is sent")
		}
		p.replied(Reply{Op: a.Op, Epoch: 1, At: time.Now(), Closed: closed})
		return a
	}
	first := open(1)
	if _, err := os.Stat(filepath.Join(dir, "0000000000000001.lease")); err == nil {
		t.Error("a file, and nothing was lent")
	}
	_, _ = first.account(uuid.New())
	answer(first)
	if b, err := os.ReadFile(filepath.Join(dir, "0000000000000001.lease")); err != nil || string(b) != leaseText(1) {
		t.Fatalf("%q %v", b, err)
	}
	for name, text := range map[string]string{"0000000000000007.lease": "catraca lea", "notes.txt": "mine", leaseTemp + "123": "half"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := open(2, Close{1, 40}, Close{7, 3}, Close{12, 1})
	_, _ = second.account(uuid.New())
	if a := answer(second); len(a.Close) != 1 || a.Close[0] != (Close{1, 40}) {
		t.Errorf("closes %v; only 1 has a file that can be read", a.Close)
	}
	second.tickAt, second.closeAt = second.tickAt-heartbeat, 0
	time.Sleep(gap)
	if a := answer(second, 1); len(a.Close) != 1 {
		t.Errorf("closes %v, and 1 is not closed yet", a.Close)
	}
	if _, err := os.Stat(filepath.Join(dir, "0000000000000001.lease")); err == nil {
		t.Error("the file of a closed run stays")
	}
	for _, name := range []string{"0000000000000002.lease", "0000000000000007.lease", "notes.txt"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, leaseTemp+"123")); err == nil {
		t.Error("a half-written file stays")
	}
}

func TestPurseNeedsItsFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "leases")
	now := time.Now()
	p, err := OpenPurse(PurseOptions{Incarnation: 3, Dir: dir, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	_, _ = p.account(uuid.New())
	if _, ok := p.next(); ok {
		t.Fatal("asked for leases that no file would remember")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	if _, ok := p.next(); !ok {
		t.Fatal("the file can be written now")
	}
}

// purseTestLender lends without bound or memory, with as little work as possible.
func purseTestLender(shared bool) lenderFunc {
	start := time.Now().Truncate(time.Hour).Add(-time.Hour)
	state := func(client uuid.UUID, n byte) WindowState {
		id := int64(client[0])<<40 | int64(client[1])<<32 | int64(client[2])<<24 | int64(client[3])<<16 | int64(n)
		units := []Unit{Tokens, BRL}
		return WindowState{
			ID: id, Budget: uuid.UUID{byte(id >> 16), byte(id >> 24), byte(id >> 32), byte(id >> 40), n}, Client: client, Unit: units[n%2], Period: Monthly, Hard: true,
			TimeZone: DefaultZone, StartsAt: start, EndsAt: start.Add(24 * 30 * time.Hour), Limit: 1 << 60, Used: 1 << 20, Free: 1 << 59,
		}
	}
	return func(_ context.Context, a Ask) (Reply, error) {
		r := Reply{Op: a.Op, Epoch: 1, At: time.Now()}
		for _, o := range a.Open {
			st := AccountState{Client: o.Client}
			for n := range byte(2) {
				if o.Client == uuid.Nil && (!shared || n > 0) {
					break
				}
				w := state(o.Client, n)
				r.Windows = append(r.Windows, w)
				st.Windows = append(st.Windows, w.ID)
				r.Grants = append(r.Grants, Grant{w.ID, 1 << 50})
			}
			r.Accounts = append(r.Accounts, st)
		}
		for _, w := range a.Want {
			r.Grants = append(r.Grants, Grant{w.Window, w.Need + w.More})
		}
		return r, nil
	}
}

func purseTestLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// pumpPurse delivers all that a purse without Run has to say now.
func pumpPurse(tb testing.TB, p *Purse, l Lender) {
	for a, ok := p.next(); ok; a, ok = p.next() {
		r, err := l.Lease(context.Background(), a)
		if err != nil {
			tb.Fatal(err)
		}
		p.replied(r)
	}
}

func benchAccount(b *testing.B) *Account {
	p, err := OpenPurse(PurseOptions{Incarnation: 1})
	if err != nil {
		b.Fatal(err)
	}
	_, _ = p.account(uuid.UUID{1, 2})
	pumpPurse(b, p, purseTestLender(true))
	a, _ := p.account(uuid.UUID{1, 2})
	if a == nil {
		b.Fatal("no account")
	}
	return a
}

// BenchmarkReserveSettle3 is what a call costs with two windows of its client, and one over all.
func BenchmarkReserveSettle3(b *testing.B) {
	a := benchAccount(b)
	worst, cost := Cost{Tokens: 4000, BRL: 70_000}, Cost{Tokens: 900, BRL: 12_000}
	var h Hold
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Reserve(b.Context(), worst, 0, &h); err != nil {
			b.Fatal(err)
		}
		h.Settle(cost, false)
	}
	if len(h.Parts()) != 3 {
		b.Fatalf("%d windows", len(h.Parts()))
	}
}

func BenchmarkReserveSettle3Parallel(b *testing.B) {
	a := benchAccount(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var h Hold
		for pb.Next() {
			if err := a.Reserve(context.Background(), Cost{Tokens: 4000, BRL: 70_000}, 0, &h); err != nil {
				b.Error(err)
				return
			}
			h.Settle(Cost{Tokens: 900, BRL: 12_000}, false)
		}
	})
}

func BenchmarkAccount(b *testing.B) {
	a := benchAccount(b)
	b.ReportAllocs()
	for b.Loop() {
		if got, err := a.p.Account(b.Context(), a.client); got != a || err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDenied is what refusing a call costs, once the ledger has said no.
func BenchmarkDenied(b *testing.B) {
	a := benchAccount(b)
	s := a.folio.Load().slots[0]
	s.flags.Or(slotFull)
	s.free.Store(0)
	s.avail.Store(10)
	began := time.Now()
	a.p.o.Now = func() time.Time { return began } // what the ledger said stays fresh, however long this runs
	a.p.began = began
	s.stateAt.Store(0)
	var h Hold
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Reserve(b.Context(), Cost{Tokens: 4000, BRL: 70_000}, 0, &h); err == nil {
			b.Fatal("held")
		}
	}
}

// TestPurseHotPathAllocatesNothing holds what the benchmark measures.
func TestPurseHotPathAllocatesNothing(t *testing.T) {
	p, err := OpenPurse(PurseOptions{Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = p.account(uuid.UUID{1, 2})
	pumpPurse(t, p, purseTestLender(true))
	a, _ := p.account(uuid.UUID{1, 2})
	var h Hold
	if n := testing.AllocsPerRun(1000, func() {
		if err := a.Reserve(t.Context(), Cost{Tokens: 4000, BRL: 70_000}, 5, &h); err != nil {
			t.Fatal(err)
		}
		h.Settle(Cost{Tokens: 900, BRL: 12_000}, false)
	}); n > 0 {
		t.Errorf("%v allocations a call", n)
	}
}

// TestPurseMemory counts what 100 000 accounts with two windows each take.
func TestPurseMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	const n = 100_000
	now := time.Now()
	p, err := OpenPurse(PurseOptions{Incarnation: 1, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	before := heapInUse()
	lender := purseTestLender(true)
	for i := range n {
		_, wait := p.account(uuid.UUID{byte(i), byte(i >> 8), byte(i >> 16), 1, 15: byte(i)})
		if wait == nil {
			t.Fatal("known already")
		}
		if i%400 == 399 {
			now = now.Add(time.Second / 10)
			pumpPurse(t, p, lender)
		}
	}
	opened := heapInUse()
	var h Hold
	for i := range n {
		a, _ := p.account(uuid.UUID{byte(i), byte(i >> 8), byte(i >> 16), 1, 15: byte(i)})
		if a == nil || len(a.folio.Load().slots) != 2 {
			t.Fatal("no account")
		}
		if err := a.Reserve(t.Context(), Cost{Tokens: 1, BRL: 1}, 0, &h); err != nil {
			t.Fatal(err)
		}
		h.Settle(Cost{Tokens: 1}, false)
	}
	used := heapInUse()
	began := time.Now()
	now = now.Add(time.Second)
	pumpPurse(t, p, lender)
	took := time.Since(began)
	runtime.KeepAlive(p)
	t.Logf("%d bytes an account, %d while all are in use; a heartbeat with all in use takes %v", (opened-before)/n, (used-before)/n, took)
	if each := (opened - before) / n; each > 450 {
		t.Errorf("%d bytes an account", each)
	}
	if each := (used - before) / n; each > 700 {
		t.Errorf("%d bytes an account while all are in use", each)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestPurseSeesBudgetsBegin has a budget that begins in a while: until then nothing is held, and from then on it is.
func TestPurseSeesBudgetsBegin(t *testing.T) {
	client := uuid.New()
	b := purseTestBudget(client, Tokens, Daily, 100)
	b.StartsAt = time.Date(2026, 3, 4, 15, 1, 0, 0, time.UTC)
	w := newPurseWorld(t, 1, b)
	p := w.purses[0]
	if w.account(p, client) != nil {
		w.run(100 * time.Millisecond)
	}
	w.run(100 * time.Millisecond)
	a := w.account(p, client)
	var h Hold
	if err := w.reserve(a, Cost{Tokens: 500}, 0, &h); err != nil || len(h.Parts()) != 0 {
		t.Fatalf("before it begins: %v, %v", err, h.Parts())
	}
	w.run(time.Minute)
	if d := (*Denied)(nil); !errors.As(w.reserve(a, Cost{Tokens: 500}, 0, &h), &d) {
		t.Error("it has begun, and does not hold")
	}
	if err := w.reserve(a, Cost{Tokens: 100}, 0, &h); err != nil {
		t.Error(err)
	}
}

// TestPurseAfterItsEnd asks for what only a purse that lends could give.
func TestPurseReopensAll(t *testing.T) {
	now := time.Now()
	p, err := OpenPurse(PurseOptions{Incarnation: 1, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	open := func() (clients map[uuid.UUID]int, messages int) {
		clients = map[uuid.UUID]int{}
		pumpPurse(t, p, lenderFunc(func(ctx context.Context, a Ask) (Reply, error) {
			messages++
			for _, o := range a.Open {
				clients[o.Client]++
			}
			now = now.Add(gap)
			return purseTestLender(true)(ctx, a)
		}))
		return clients, messages
	}
	const n = 3000
	for i := range n {
		_, _ = p.account(uuid.UUID{byte(i), byte(i >> 8), 1, 15: byte(i)})
	}
	if clients, _ := open(); len(clients) != n+1 {
		t.Fatalf("%d accounts", len(clients))
	}
	p.Stale(uuid.Nil)
	clients, messages := open()
	if len(clients) != n+1 || messages != n/mostOpenings+1 || len(p.opens)+len(p.openQueue) > 0 {
		t.Errorf("%d accounts in %d messages; %d and %d are left", len(clients), messages, len(p.opens), len(p.openQueue))
	}
	for c, times := range clients {
		if times != 1 {
			t.Fatalf("%v is asked for %d times", c, times)
		}
	}
}

func TestPurseAfterItsEnd(t *testing.T) {
	w := newPurseWorld(t, 1)
	p := w.purses[0]
	p.leave()
	_, wait := p.account(uuid.New())
	if wait == nil {
		t.Fatal("an account that nobody knows")
	}
	if done, err := wait.poll(); !done || !errors.Is(err, ErrUnavailable) {
		t.Error(done, err)
	}
	if _, err := p.Account(t.Context(), uuid.New()); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// TestPurseHearsOfChangesWhileItAsks pauses a budget after the authority answered and before the answer came.
func TestPurseHearsOfChangesWhileItAsks(t *testing.T) {
	client := uuid.New()
	b := purseTestBudget(client, Tokens, Daily, 1000)
	w := newPurseWorld(t, 1, b)
	p := w.purses[0]
	_, wait := p.account(client)
	a, ok := p.next()
	if !ok || wait == nil {
		t.Fatal("nothing is asked")
	}
	if _, err := w.ledger.Lease(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	p.failed(errors.New("the answer is lost"))
	b.Paused, b.PausedReason = true, "stop"
	if err := w.books.SetBudget(b); err != nil {
		t.Fatal(err)
	}
	p.Stale(client)
	w.run(200 * time.Millisecond)
	var h Hold
	if d := (*Denied)(nil); !errors.As(w.reserve(w.account(p, client), Cost{Tokens: 1}, 0, &h), &d) || !d.Paused {
		t.Error("what the ledger said before the change is what holds")
	}
}

// TestPurseClosesAgain sets the books back to before an earlier run was closed.
func TestPurseClosesAgain(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 1000))
	var h Hold
	if err := w.reserve(w.account(w.purses[0], client), Cost{Tokens: 600}, 0, &h); err != nil {
		t.Fatal(err)
	}
	w.purses = nil // killed
	snapshot := w.books.Snapshot()
	p, err := OpenPurse(PurseOptions{Incarnation: 2, Now: func() time.Time { return w.now }, Over: func() []Close { return []Close{{Incarnation: 1}} }})
	if err != nil {
		t.Fatal(err)
	}
	w.purses = []*Purse{p}
	a := w.account(p, client)
	w.run(3 * time.Second)
	if err := w.reserve(a, Cost{Tokens: 1000}, 0, &h); err != nil {
		t.Fatalf("the earlier run's are not back: %v", err)
	}
	h.Release()
	w.books.Restore(snapshot)
	for range 20 {
		w.run(time.Second)
		if err := w.ledger.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.reserve(a, Cost{Tokens: 1000}, 0, &h); err != nil {
		t.Errorf("the earlier run's are not back, after the books were set back: %v", err)
	}
}

func TestPurseClock(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p, err := OpenPurse(PurseOptions{Incarnation: 1, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	ledger := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	// answer sends a message, takes so long, and has the authority's clock say what it said after a part of that.
	answer := func(takes, said time.Duration) {
		now, ledger = now.Add(time.Second), ledger.Add(time.Second)
		p.Stale(uuid.Nil)
		a, ok := p.next()
		if !ok {
			t.Fatal("nothing is sent")
		}
		at := ledger.Add(said)
		now, ledger = now.Add(takes), ledger.Add(takes)
		p.replied(Reply{Op: a.Op, Epoch: 1, At: at})
	}
	off := func() time.Duration { return ledger.Sub(time.Unix(0, p.ledgerTime(p.mono()))) }
	answer(time.Millisecond, time.Millisecond)
	answer(30*time.Second, 0)
	if off() != 0 {
		t.Errorf("an answer that took long sets the clock back by %v", off())
	}
	answer(2*time.Second, time.Second)
	if off() != 0 {
		t.Errorf("the clock is off by %v", off())
	}
	for _, jump := range []time.Duration{time.Hour, -2 * time.Hour} {
		ledger = ledger.Add(jump)
		answer(10*time.Millisecond, 5*time.Millisecond)
		if got := off(); got < -10*time.Millisecond || got > 10*time.Millisecond {
			t.Errorf("after the authority's clock went %v, it is off by %v", jump, got)
		}
	}
}

// TestPurseUnlearns has the books forget that a budget was made soft.
func TestPurseUnlearns(t *testing.T) {
	client := uuid.New()
	b := purseTestBudget(client, Tokens, Daily, 1000)
	w := newPurseWorld(t, 1, b)
	w.account(w.purses[0], client)
	snapshot := w.books.Snapshot()
	b.PauseAtLimit = false
	if err := w.books.SetBudget(b); err != nil {
		t.Fatal(err)
	}
	w.purses[0].Stale(client)
	w.run(time.Second)
	if a := w.account(w.purses[0], client); a != nil && a.Counts(Tokens) {
		t.Fatal("it is soft")
	}
	w.books.Restore(snapshot)
	_, wait := w.purses[0].account(uuid.New()) // something to send
	w.run(2 * time.Second)
	if a := w.account(w.purses[0], client); wait == nil || a == nil || !a.Counts(Tokens) {
		t.Error("it is hard again, and nobody asked")
	}
}

// TestPurseHearsOfBudgetsOverAll gets a budget over all clients, of which the feed tells client by client.
func TestPurseHearsOfBudgetsOverAll(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1)
	p := w.purses[0]
	if w.account(p, client) != nil {
		t.Fatal("an account, and there are no budgets")
	}
	if err := w.books.SetBudget(purseTestBudget(uuid.Nil, Tokens, Daily, 1000)); err != nil {
		t.Fatal(err)
	}
	p.Stale(client)
	w.run(200 * time.Millisecond)
	a := w.account(p, client)
	if a == nil || !a.Counts(Tokens) {
		t.Fatal("the budget over all clients is not known")
	}
	var h Hold
	if err := w.reserve(a, Cost{Tokens: 10}, 0, &h); err != nil {
		t.Fatal(err)
	}
	if s, ok := h.Tightest(); !ok || !s.Shared || s.Limit != 1000 || s.Zone.String() != "America/Sao_Paulo" {
		t.Errorf("%+v", s)
	}
	d := (*Denied)(nil)
	if err := w.reserve(a, Cost{Tokens: 1000}, 0, &Hold{}); !errors.As(err, &d) || !d.Shared {
		t.Errorf("%v", err)
	}
}

func TestHoldEndsOnce(t *testing.T) {
	client := uuid.New()
	w := newPurseWorld(t, 1, purseTestBudget(client, Tokens, Daily, 1000), purseTestBudget(client, USD, Daily, 1000))
	p := w.purses[0]
	a := w.account(p, client)
	avail := func() (n [2]int64) {
		for i, s := range a.folio.Load().slots {
			n[s.unit/2] = a.folio.Load().slots[i].avail.Load()
		}
		return n
	}
	var warm, h Hold
	if err := w.reserve(a, Cost{Tokens: 200, USD: 200}, 0, &warm); err != nil {
		t.Fatal(err)
	}
	warm.Release()
	before := avail()
	for _, c := range []struct {
		name   string
		end    func()
		change [2]int64
	}{
		{"settled", func() { h.Settle(Cost{Tokens: 30, USD: 7}, false) }, [2]int64{30, 7}},
		{"above the hold", func() { h.Settle(Cost{Tokens: 3000, USD: 7}, false) }, [2]int64{100, 7}},
		{"below nothing", func() { h.Settle(Cost{Tokens: -5, USD: 7}, false) }, [2]int64{0, 7}},
		{"in doubt", func() { h.Settle(Cost{Tokens: 30, USD: 7}, true) }, [2]int64{100, 50}},
		{"without a price", func() { h.Settle(Cost{Tokens: 30, Unpriced: true}, false) }, [2]int64{30, 50}},
		{"released", h.Release, [2]int64{}},
		{"topped up", func() {
			if !h.TopUp(t.Context(), Cost{Tokens: 20, USD: 5}) || h.Parts()[0].Amount+h.Parts()[1].Amount != 175 {
				t.Error("not topped up")
			}
			h.Settle(Cost{Tokens: 115, USD: 55}, false)
		}, [2]int64{115, 55}},
	} {
		a.folio.Load().slots[0].avail.Add(500)
		a.folio.Load().slots[1].avail.Add(500)
		before = avail()
		if err := a.Reserve(t.Context(), Cost{Tokens: 100, USD: 50}, 0, &h); err != nil {
			t.Fatal(err)
		}
		if got := avail(); before[0]-got[0] != 100 || before[1]-got[1] != 50 {
			t.Errorf("%s: held %v of %v", c.name, got, before)
		}
		c.end()
		h.Settle(Cost{}, false)
		h.Release()
		if h.TopUp(t.Context(), Cost{Tokens: 1}) {
			t.Errorf("%s: topped up after the end", c.name)
		}
		if got := avail(); before[0]-got[0] != c.change[0] || before[1]-got[1] != c.change[1] {
			t.Errorf("%s: %v before, %v after", c.name, before, got)
		}
	}
	var none Hold
	none.Settle(Cost{Tokens: 5}, false)
	if _, ok := none.Tightest(); ok || len(none.Parts()) != 0 {
		t.Error("a hold of nothing has parts")
	}
}
