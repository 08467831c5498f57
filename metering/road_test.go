package metering

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

type identity struct{ incarnation, seq uint64 }

// mapLedger is a ledger in memory that can be down, and that some events are poison to.
type mapLedger struct {
	mu      sync.Mutex
	events  map[identity]Event
	had     map[uint64]Ranges
	dead    []deadEvent
	records int // calls of Record
	repeats int // events it had already
	down    error
	poison  func(*Event) error
	entered func() // called in Record
}

type deadEvent struct {
	raw    string
	event  Event
	reason string
}

func newMapLedger() *mapLedger {
	return &mapLedger{events: map[identity]Event{}, had: map[uint64]Ranges{}}
}

func (l *mapLedger) Record(ctx context.Context, batch []Event) error {
	if l.entered != nil {
		l.entered()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records++
	if l.down != nil {
		return l.down
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range batch {
		if l.poison != nil {
			if err := l.poison(&batch[i]); err != nil {
				return err
			}
		}
	}
	fresh := map[uint64]Ranges{}
	for _, e := range batch {
		id := identity{e.Incarnation, e.Seq}
		if _, had := l.events[id]; had {
			l.repeats++
			continue
		}
		l.events[id] = e
		fresh[e.Incarnation] = append(fresh[e.Incarnation], [2]uint64{e.Seq, e.Seq})
	}
	for incarnation, r := range fresh {
		l.had[incarnation] = l.had[incarnation].Union(r)
	}
	return nil
}

func (l *mapLedger) Received(_ context.Context, incarnation uint64) (r Ranges, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return nil, l.down
	}
	r = slices.Clone(l.had[incarnation])
	for _, d := range l.dead {
		if d.event.Incarnation == incarnation {
			r = append(r, [2]uint64{d.event.Seq, d.event.Seq})
		}
	}
	return r.Union(nil), nil
}

func (l *mapLedger) DeadLetter(_ context.Context, raw []byte, e Event, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return l.down
	}
	l.dead = append(l.dead, deadEvent{string(raw), e, reason})
	return nil
}

func (l *mapLedger) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *mapLedger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events)
}

// badQueue loses, repeats and reorders what it is given, as a Queue may.
type badQueue struct {
	Queue
	mu         sync.Mutex
	r          *rand.Rand
	down       error
	lose       bool
	published  int // events
	publishes  int // calls
	generation string
}

func (q *badQueue) Publish(ctx context.Context, batch []Message) error {
	q.mu.Lock()
	q.publishes++
	q.published += len(batch)
	down, lose := q.down, q.lose
	dice := -1
	if q.r != nil {
		dice = q.r.IntN(5)
		q.r.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	}
	q.mu.Unlock()
	switch {
	case down != nil:
		return down
	case lose || dice == 0:
		return nil // it took them, and keeps none
	case dice == 1:
		if err := q.Queue.Publish(ctx, batch); err != nil {
			return err
		}
	case dice == 2: // the answer is lost
		return errors.Join(q.Queue.Publish(ctx, batch[:len(batch)/2]), errors.New("connection reset"))
	}
	return q.Queue.Publish(ctx, batch)
}

func (q *badQueue) Generation(context.Context) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.generation, nil
}

func (q *badQueue) set(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
}

func (q *badQueue) counts() (publishes, published int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.publishes, q.published
}

// start runs something until stop is called, which waits for its end.
func start(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// makeCalls opens and closes calls of a few clients and tells what the ledger must have in the end.
func makeCalls(t testing.TB, s *Spool, n int) map[identity]Event {
	t.Helper()
	want := map[identity]Event{}
	for i := range n {
		e := usualEvent(0)
		e.ClientID, e.AdmittedAt = uuid.UUID{15: byte(1 + i%7)}, time.Now().UTC().Truncate(time.Microsecond)
		if err := s.Open(&e); err != nil {
			t.Fatal(err)
		}
		e.Output = int64(i)
		s.Close(&e)
		want[identity{e.Incarnation, e.Seq}] = e
	}
	return want
}

func (l *mapLedger) mustEqual(t testing.TB, want map[identity]Event) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) != len(want) {
		t.Errorf("the ledger has %d events, want %d", len(l.events), len(want))
	}
	for id, e := range want {
		if got, ok := l.events[id]; !ok || !sameEvent(got, e) {
			t.Fatalf("call %x/%d is in the ledger as %+v, %v", id.incarnation, id.seq, got, ok)
		}
	}
}

func TestRoadInMemory(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			ledger := newMapLedger()
			memory := NewMemoryQueue(4, 300)
			queue := &badQueue{Queue: memory, r: rand.New(rand.NewPCG(seed, 1))}
			worker := NewWorker(ledger, memory, nil, nil)
			s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment})
			stopSpool := start(t, s.Run)
			stopWorker := start(t, worker.Run)
			stopShipper := start(t, NewShipper(s, queue, nil).Run)
			want := makeCalls(t, s, 3000)
			for s.Stats().Depth > 0 {
				time.Sleep(time.Second)
			}
			ledger.mustEqual(t, want)
			stopShipper()
			stopWorker()
			stopSpool()
			shutdown(t, s)
			if files := segmentFiles(t, s); len(files) > 0 {
				t.Errorf("left %v", files)
			}
			if st := worker.Stats(); st.Recorded < 3000 || st.DeadLetters > 0 || ledger.repeats == 0 {
				t.Errorf("%+v, %d repeats: the queue was to repeat some", st, ledger.repeats)
			}
		})
	}
}

func TestRoadDrainsOnStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newMapLedger()
		queue := NewMemoryQueue(1, 1000)
		s := openSpool(t, SpoolOptions{})
		stopWorker := start(t, NewWorker(ledger, queue, nil, nil).Run)
		stop := start(t, NewShipper(s, queue, nil).Run)
		synctest.Wait()
		want := makeCalls(t, s, 700)
		began := time.Now()
		stop()
		if st := s.Stats(); st.Depth != 0 {
			t.Errorf("%+v", st)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a stop took %s", took)
		}
		ledger.mustEqual(t, want)
		stopWorker()
		shutdown(t, s)
	})
}

// TestRoadLedgerDown has no ledger for an hour: the queue is not filled with repeats, and nothing is lost.
func TestRoadLedgerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newMapLedger()
		ledger.down = errors.New("connection refused")
		memory := NewMemoryQueue(2, 1_000_000)
		queue := &badQueue{Queue: memory}
		s := openSpool(t, SpoolOptions{})
		worker := NewWorker(ledger, memory, nil, nil)
		stopWorker := start(t, worker.Run)
		stop := start(t, NewShipper(s, queue, nil).Run)
		const calls = 21_000 // more than may be in flight
		want := makeCalls(t, s, calls)
		time.Sleep(time.Hour)
		if st := s.Stats(); st.Depth != calls || st.InFlight != maxInFlight || st.Oldest < time.Hour-2*time.Second {
			t.Errorf("%+v", st)
		}
		if _, n := queue.counts(); n > 13*maxInFlight {
			t.Errorf("%d events were published in an hour for %d calls", n, calls)
		}
		ledger.set(func() {
			if ledger.records > 4*int(time.Hour/maxLedgerPause) {
				t.Errorf("the ledger was tried %d times", ledger.records)
			}
			ledger.down = nil
		})
		for s.Stats().Depth > 0 {
			time.Sleep(time.Second)
		}
		ledger.mustEqual(t, want)
		if worker.Stats().DeadLetters > 0 {
			t.Error("events were parked because the ledger was down")
		}
		stop()
		stopWorker()
		shutdown(t, s)
	})
}

func TestShipperWaitsForABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := &badQueue{Queue: NewMemoryQueue(1, 10_000)}
		s := openSpool(t, SpoolOptions{})
		stop := start(t, NewShipper(s, queue, nil).Run)
		synctest.Wait()
		for range 5 {
			makeCalls(t, s, 1)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(batchWait - 10*time.Millisecond)
		if n, _ := queue.counts(); n != 0 {
			t.Errorf("%d batches at once", n)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if calls, events := queue.counts(); calls != 1 || events != 5 {
			t.Errorf("%d batches of %d events", calls, events)
		}
		makeCalls(t, s, maxBatch) // a full one does not wait
		synctest.Wait()
		if calls, events := queue.counts(); calls != 2 || events != 5+maxBatch {
			t.Errorf("%d batches of %d events", calls, events)
		}
		stop()
		shutdown(t, s)
	})
}

func TestShipperSendsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := NewMemoryQueue(1, 10_000)
		queue := &badQueue{Queue: memory, lose: true, generation: "a"}
		s := openSpool(t, SpoolOptions{})
		stop := start(t, NewShipper(s, queue, nil).Run)
		makeCalls(t, s, 600)
		published := func(want int, when string) {
			t.Helper()
			synctest.Wait()
			if _, n := queue.counts(); n != want {
				t.Errorf("%s: %d published, want %d", when, n, want)
			}
		}
		time.Sleep(29 * time.Second)
		published(600, "at first")
		time.Sleep(2 * time.Second)
		published(1200, "after 30 s")
		time.Sleep(57 * time.Second)
		published(1200, "after 30 s and nearly 60 more, for nothing was acknowledged")
		time.Sleep(5 * time.Second)
		published(1800, "after 60 s more")
		queue.set(func() { queue.generation = "b" })
		time.Sleep(1100 * time.Millisecond)
		published(2400, "when the queue has lost its memory")
		if err := memory.PublishReceived(t.Context(), 0, s.Incarnation(), Ranges{{1, 600}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		published(2400, "when all is acknowledged")
		stop()
		shutdown(t, s)
	})
}

func TestShipperBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		memory := NewMemoryQueue(1, 10_000)
		queue := &badQueue{Queue: memory, down: errors.New("connection refused")}
		s := openSpool(t, SpoolOptions{})
		stop := start(t, NewShipper(s, queue, textLog(&log)).Run)
		makeCalls(t, s, 10)
		time.Sleep(time.Minute)
		if n, _ := queue.counts(); n < 10 || n > 40 {
			t.Errorf("%d tries in a minute", n)
		}
		queue.set(func() { queue.down = nil })
		time.Sleep(maxBackoff + time.Second)
		synctest.Wait()
		ds, err := memory.Next(t.Context(), 0, 100, 0)
		if err != nil || len(ds) != 10 {
			t.Errorf("%d events came, %v", len(ds), err)
		}
		stop()
		if n := strings.Count(log.String(), "not taking events"); n != 1 {
			t.Errorf("the outage is logged %d times:\n%s", n, &log)
		}
		shutdown(t, s)
	})
}

// deliver puts events into a queue as they are.
func deliver(t testing.TB, q Queue, events ...Event) {
	t.Helper()
	for _, e := range events {
		if err := q.Publish(t.Context(), []Message{{ClientID: e.ClientID, Payload: e.Append(nil)}}); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(n int) (events []Event) {
	for i := range n {
		e := usualEvent(uint64(i + 1))
		e.Incarnation, e.ClientID = 5, uuid.UUID{15: 1}
		events = append(events, e)
	}
	return events
}

func TestWorkerFindsPoison(t *testing.T) {
	for name, poison := range map[string]error{"certain": fmt.Errorf("out of range: %w", ErrUnrecordable), "found out": errors.New("some error")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := newMapLedger()
				bad := func(seq uint64) bool { return seq == 77 || seq == 78 || seq == 400 }
				ledger.poison = func(e *Event) error {
					if bad(e.Seq) {
						return poison
					}
					return nil
				}
				queue := NewMemoryQueue(1, 1000)
				deliver(t, queue, numbered(maxBatch)...)
				worker := NewWorker(ledger, queue, nil, nil)
				stop := start(t, worker.Run)
				time.Sleep(10 * time.Minute) // nothing else comes, so each time but the first takes a minute
				synctest.Wait()
				if len(ledger.events) != maxBatch-3 || len(ledger.dead) != 3 || worker.Stats().DeadLetters != 3 {
					t.Fatalf("%d recorded, %d dead letters", len(ledger.events), len(ledger.dead))
				}
				for _, d := range ledger.dead {
					var e Event
					if err := e.Decode([]byte(d.raw)); err != nil || !sameEvent(e, d.event) || !bad(e.Seq) || d.reason != poison.Error() {
						t.Errorf("dead letter %d, %q, %v", d.event.Seq, d.reason, err)
					}
				}
				// Three times down a tree of nine levels with both halves tried; and, where it is not certain, rounds for five minutes.
				if most := map[string]int{"certain": 60, "found out": 180}[name]; ledger.records > most {
					t.Errorf("it took %d batches", ledger.records)
				}
				r, _ := queue.Received(t.Context(), 5)
				if r.String() != "1-500" {
					t.Errorf("the spool hears of %v", r)
				}
				deliver(t, queue, func() Event { e := usualEvent(501); e.Incarnation = 5; return e }())
				time.Sleep(2 * time.Second)
				if ledger.size() != maxBatch-2 {
					t.Error("the shard is blocked")
				}
				stop()
				if queue.held != 0 {
					t.Errorf("%d are left in the queue", queue.held)
				}
			})
		})
	}
}

// TestWorkerDoesNotBlameTheEvent lets a lone event fail for a day: with nothing else recorded it may be the ledger.
func TestWorkerDoesNotBlameTheEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newMapLedger()
		ledger.poison = func(e *Event) error {
			if e.Seq == 1 {
				return errors.New("relation does not exist")
			}
			return nil
		}
		queue := NewMemoryQueue(1, 1000)
		events := numbered(20)
		deliver(t, queue, events[0])
		worker := NewWorker(ledger, queue, nil, nil)
		stop := start(t, worker.Run)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if worker.Stats().DeadLetters != 0 {
			t.Fatal("parked while nothing could be recorded")
		}
		for _, e := range events[1:] {
			deliver(t, queue, e)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if ledger.size() != 19 || len(ledger.dead) != 1 || ledger.dead[0].event.Seq != 1 {
			t.Errorf("%d recorded, dead %v", ledger.size(), ledger.dead)
		}
		stop()
	})
}

func TestWorkerParksWhatItCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newMapLedger()
		queue := NewMemoryQueue(1, 1000)
		e := usualEvent(9)
		e.Incarnation = 5
		later := e.Append(nil)
		later[0] = heldVersion + 1
		for _, b := range [][]byte{[]byte("\x01garbage"), later, nil} {
			if err := queue.Publish(t.Context(), []Message{{Payload: b}}); err != nil {
				t.Fatal(err)
			}
		}
		deliver(t, queue, numbered(1)...)
		ledger.down = errors.New("connection refused") // parking is tried again as well
		stop := start(t, NewWorker(ledger, queue, nil, nil).Run)
		time.Sleep(time.Minute)
		ledger.set(func() { ledger.down = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(ledger.dead) != 3 || ledger.size() != 1 {
			t.Fatalf("dead %v, %d recorded", ledger.dead, ledger.size())
		}
		for i, want := range []identity{{}, {5, 9}, {}} {
			if d := ledger.dead[i]; d.event.Incarnation != want.incarnation || d.event.Seq != want.seq || d.reason == "" {
				t.Errorf("dead letter %d: %+v", i, d)
			}
		}
		stop()
		if r, _ := queue.Received(t.Context(), 5); r.String() != "1,9" {
			t.Errorf("the spool hears of %v", r)
		}
	})
}

// TestWorkerStops is stopped in the middle of a batch: what it holds it records, and the rest is for the next.
func TestWorkerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := newMapLedger()
		ctx, cancel := context.WithCancel(t.Context())
		ledger.entered = func() { cancel(); time.Sleep(time.Second) }
		queue := NewMemoryQueue(1, 2000)
		deliver(t, queue, numbered(maxBatch+10)...)
		if err := NewWorker(ledger, queue, nil, nil).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if n := ledger.size(); n != maxBatch || queue.held != 10 {
			t.Errorf("%d recorded, %d left", n, queue.held)
		}
		if r, _ := queue.Received(t.Context(), 5); r.String() != "1-500" {
			t.Errorf("the spool hears of %v", r)
		}
		ledger.entered = nil
		stop := start(t, NewWorker(ledger, queue, nil, nil).Run)
		time.Sleep(2 * time.Second)
		stop()
		if n := ledger.size(); n != maxBatch+10 || ledger.repeats != 0 {
			t.Errorf("%d recorded, %d repeats", n, ledger.repeats)
		}
	})
}

type oneHolder struct {
	mu      sync.Mutex
	holders map[int]int
	most    int
	taken   []int
	fail    error
}

func (o *oneHolder) Acquire(_ context.Context, shard int) (func(), error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		err := o.fail
		o.fail = nil
		return nil, err
	}
	o.holders[shard]++
	o.most = max(o.most, o.holders[shard])
	o.taken = append(o.taken, shard)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.holders[shard]--
	}, nil
}

func TestWorkerLocksItsShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := &oneHolder{holders: map[int]int{}, fail: errors.New("no connection")}
		stop := start(t, NewWorker(newMapLedger(), NewMemoryQueue(3, 10), lock, nil).Run)
		time.Sleep(time.Second)
		stop()
		slices.Sort(lock.taken)
		if !slices.Equal(lock.taken, []int{0, 1, 2}) || lock.most != 1 || lock.holders[0]+lock.holders[1]+lock.holders[2] != 0 {
			t.Errorf("taken %v, at once %d, held in the end %v", lock.taken, lock.most, lock.holders)
		}
	})
}

func TestMemoryQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewMemoryQueue(1, 3)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var batch []Message
		for _, e := range numbered(5) {
			batch = append(batch, Message{e.ClientID, e.Append(nil)})
		}
		if err := q.Publish(ctx, batch); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		ds, _ := q.Next(t.Context(), 0, 10, 0)
		if len(ds) != 3 {
			t.Fatalf("%d fit", len(ds))
		}
		clear(batch[0].Payload) // its owner uses the memory again
		if ds[0].Payload[0] != eventVersion {
			t.Error("the queue kept the caller's memory")
		}
		done := make(chan error)
		go func() { done <- q.Publish(t.Context(), batch[3:]) }()
		synctest.Wait()
		if err := q.Done(t.Context(), 0, ds[:2]); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := q.Claim(t.Context(), 0); err != nil { // a worker died with one in its hands
			t.Fatal(err)
		}
		if again, _ := q.Next(t.Context(), 0, 10, 0); len(again) != 3 || again[0].ID != ds[2].ID {
			t.Errorf("got %v", again)
		}
	})
}
