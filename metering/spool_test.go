package metering

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// smallSegment holds a dozen calls or so: enough to see segments come and go.
const smallSegment = 4 * maxRecord

func openSpool(t testing.TB, o SpoolOptions) *Spool {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "spool")
	}
	s, err := OpenSpool(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func shutdown(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Shutdown(); err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t testing.TB, s *Spool) *Event {
	t.Helper()
	e := usualEvent(0)
	e.Usage, e.Cost, e.ResponseBytes = Usage{}, Cost{Rate: e.Rate}, 0 // as at admission
	if err := s.Open(&e); err != nil {
		t.Fatal(err)
	}
	return &e
}

// abandonSpool is what kill -9 does to a spool, as far as a process can do it to itself.
func abandonSpool(s *Spool) {
	s.read.close()
	for _, g := range append(slices.Clone(s.live.segments), s.spares...) {
		if g.file != nil {
			g.file.Close()
		}
	}
	s.lock.Close()
}

// takeAll is everything that a spool has to send, decoded.
func takeAll(t testing.TB, s *Spool) (events []Event) {
	t.Helper()
	var b batch
	for {
		if err := s.take(&b, time.Now()); err != nil {
			t.Fatal(err)
		}
		if len(b.messages) == 0 {
			return events
		}
		s.posted(&b, never)
		for _, m := range b.messages {
			var e Event
			if err := e.Decode(m.Payload); err != nil {
				t.Fatal(err)
			}
			if m.ClientID != e.ClientID {
				t.Fatalf("message of client %v holds an event of %v", m.ClientID, e.ClientID)
			}
			events = append(events, e)
		}
	}
}

func segmentFiles(t testing.TB, s *Spool) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.o.Dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestSpoolSendsWhatWasClosed(t *testing.T) {
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment})
	var want []Event
	for i := range 100 {
		e := mustOpen(t, s)
		if e.Seq != uint64(i+1) || e.Incarnation != s.Incarnation() {
			t.Fatalf("call %d has the identity %x/%d", i, e.Incarnation, e.Seq)
		}
		e.Output = int64(i)
		s.Close(e)
		want = append(want, *e)
	}
	open := mustOpen(t, s)
	if got := takeAll(t, s); !slices.EqualFunc(got, want, sameEvent) {
		t.Fatalf("got %d events, want %d, in order", len(got), len(want))
	}
	if got := takeAll(t, s); len(got) > 0 {
		t.Fatalf("%d events twice", len(got))
	}
	if st := s.Stats(); st.Open != 1 || st.Depth != 100 || st.InFlight != 100 || st.Bytes < 5*smallSegment {
		t.Errorf("stats %+v", st)
	}

	if fresh := s.Acknowledge(s.Incarnation(), Ranges{{1, 50}, {52, 1000}}); fresh != 99 {
		t.Errorf("%d were news, want 99: the open call cannot be", fresh)
	}
	if st := s.Stats(); st.Open != 1 || st.Depth != 1 || st.InFlight != 1 {
		t.Errorf("stats %+v", st)
	}
	s.sync()
	s.trim()
	s.Close(open)
	if got := takeAll(t, s); len(got) != 1 || got[0].Seq != 101 {
		t.Errorf("got %v", got)
	}
	s.Acknowledge(s.Incarnation(), Ranges{{1, 101}})
	if s.Acknowledge(s.Incarnation()+1, Ranges{{1, 101}}) != 0 {
		t.Error("an incarnation that is not here was acknowledged")
	}
	shutdown(t, s)
	if files := segmentFiles(t, s); len(files) > 0 {
		t.Errorf("a spool whose calls are all in the ledger leaves %v", files)
	}
}

func TestSpoolDeletesOnlyWhatTheLedgerHas(t *testing.T) {
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment})
	for range 200 {
		s.Close(mustOpen(t, s))
	}
	takeAll(t, s)
	full := len(segmentFiles(t, s))
	s.Acknowledge(s.Incarnation(), Ranges{{2, 200}})
	s.sync()
	s.trim()
	if n := len(segmentFiles(t, s)); n != full {
		t.Fatalf("%d segments of %d are left although the first call is in none but the first", n, full)
	}
	s.Acknowledge(s.Incarnation(), Ranges{{1, 1}})
	s.trim()
	if n := len(segmentFiles(t, s)); n > 2 {
		t.Fatalf("%d segments are left of %d", n, full)
	}
	shutdown(t, s)
}

func TestSpoolIgnoresWhatIsNotOpen(t *testing.T) {
	s := openSpool(t, SpoolOptions{})
	e := mustOpen(t, s)
	s.Close(e)
	s.Close(e)
	s.Progress(e)
	other := *e
	other.Incarnation++
	s.Close(&other)
	other = *e
	other.Seq = 99
	s.Close(&other)
	if got := takeAll(t, s); len(got) != 1 {
		t.Errorf("%d events from one call", len(got))
	}
	if st := s.Stats(); st.Open != 0 || st.Depth != 1 {
		t.Errorf("stats %+v", st)
	}
	shutdown(t, s)
}

func TestSpoolRecovery(t *testing.T) {
	priced := func(e *Event) { e.USD, e.Known = 17, true }
	o := SpoolOptions{Dir: filepath.Join(t.TempDir(), "spool"), SegmentBytes: smallSegment, Price: priced}
	s := openSpool(t, o)
	first := s.Incarnation()
	closed, open, far := mustOpen(t, s), mustOpen(t, s), mustOpen(t, s)
	far.ResponseBytes, far.LatencyMs = 101, 5000
	s.Progress(far)
	far.ResponseBytes = 402
	s.Progress(far)
	s.Close(closed)
	for range 30 { // the calls above are in a segment that is full
		s.Close(mustOpen(t, s))
	}
	takeAll(t, s)
	abandonSpool(s)

	for round := range 3 { // a repeat of the recovery gives the same, to the byte
		s = openSpool(t, o)
		if s.Incarnation() == first {
			t.Fatal("an incarnation was used twice")
		}
		if st := s.Stats(); st.Depth != 33 || st.Lost != 0 || st.Damaged != 0 || st.Oldest <= 0 {
			t.Fatalf("stats %+v", st)
		}
		got := map[uint64]Event{}
		for _, e := range takeAll(t, s) {
			if e.Incarnation != first {
				t.Fatalf("incarnation %x", e.Incarnation)
			}
			if _, twice := got[e.Seq]; twice {
				t.Fatalf("call %d twice", e.Seq)
			}
			got[e.Seq] = e
		}
		if len(got) != 33 || !sameEvent(got[closed.Seq], *closed) {
			t.Fatalf("%d calls; the closed one is %+v", len(got), got[closed.Seq])
		}
		if e := got[open.Seq]; e.Outcome != Crashed || e.Usage.Source != Estimated || e.Input != 780 || !e.Known || e.USD != 17 {
			t.Errorf("the open call became %+v", e)
		}
		want := *far
		want.Outcome, want.Usage = Crashed, Usage{Source: Estimated, Input: 780, Output: 101, Total: 881}
		want.USD, want.Known = 17, true
		if e := got[far.Seq]; !sameEvent(e, want) {
			t.Errorf("round %d: the stream became %+v", round, e)
		}
		abandonSpool(s)
	}

	s = openSpool(t, o)
	s.Acknowledge(first, Ranges{{1, 33}}) // before anything was sent
	if got := takeAll(t, s); len(got) > 0 {
		t.Errorf("%d events are sent that the ledger has", len(got))
	}
	s.sync()
	s.trim()
	if len(s.logs) != 1 || s.Stats().Depth != 0 {
		t.Errorf("%d logs, %+v", len(s.logs), s.Stats())
	}
	shutdown(t, s)
	if files := segmentFiles(t, s); len(files) > 0 {
		t.Errorf("left %v", files)
	}
}

func TestCrashKeepsMeasuredUsage(t *testing.T) {
	e := usualEvent(1)
	want := e
	want.Outcome = Crashed
	e.crash(func(*Event) { t.Error("priced again") })
	if !sameEvent(e, want) {
		t.Errorf("got %+v", e)
	}
}

func TestSpoolIsOfOneProcess(t *testing.T) {
	s := openSpool(t, SpoolOptions{})
	_, err := OpenSpool(SpoolOptions{Dir: s.o.Dir})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process \"%d\"", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
	shutdown(t, s)
	shutdown(t, openSpool(t, SpoolOptions{Dir: s.o.Dir}))
}

func TestSpoolRefusesOptions(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []SpoolOptions{
		{},
		{Dir: dir, SegmentBytes: 100},
		{Dir: dir, SegmentBytes: 2 << 30},
		{Dir: dir, MaxBytes: 16 << 20},
		{Dir: dir, SyncEvery: time.Microsecond},
		{Dir: dir, SyncEvery: -1},
	} {
		if s, err := OpenSpool(o); err == nil {
			t.Errorf("%+v was accepted", o)
			shutdown(t, s)
		}
	}
}

// asChild runs a test of this binary again in a process of its own, where env says which part it plays.
func asChild(t *testing.T, test, env string, as *syscall.Credential) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	return cmd
}

func TestSpoolOfAnotherUser(t *testing.T) {
	if dir := os.Getenv("SPOOL_TEST_READ_ONLY"); dir != "" {
		_, err := OpenSpool(SpoolOptions{Dir: dir})
		fmt.Printf("refused: %v\n", err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	exe := filepath.Join(t.TempDir(), "test") // where another user may run it
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for p := filepath.Dir(exe); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, SpoolOptions{})
	shutdown(t, s)
	cmd := asChild(t, t.Name(), "SPOOL_TEST_READ_ONLY="+s.o.Dir, &syscall.Credential{Uid: 65534, Gid: 65534})
	cmd.Path, cmd.Dir = exe, filepath.Dir(exe)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "cannot be written by user 65534") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSpoolSurvivesKill appends in another process that kills itself with SIGKILL, and counts.
func TestSpoolSurvivesKill(t *testing.T) {
	if dir := os.Getenv("SPOOL_TEST_KILL"); dir != "" {
		s := openSpool(t, SpoolOptions{Dir: dir, SegmentBytes: 1 << 20, SyncEvery: time.Millisecond})
		go s.Run(t.Context())
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for {
					e := mustOpen(t, s)
					fmt.Fprintf(os.Stderr, "O %d\n", e.Seq) // a write to a pipe: what we said is said
					s.Progress(e)
					if e.Seq%3 != 0 {
						s.Close(e)
						fmt.Fprintf(os.Stderr, "C %d\n", e.Seq)
					}
					if e.Seq == 5000 {
						syscall.Kill(os.Getpid(), syscall.SIGKILL)
					}
				}
			})
		}
		callers.Wait()
	}
	dir := filepath.Join(t.TempDir(), "spool")
	cmd := asChild(t, t.Name(), "SPOOL_TEST_KILL="+dir, nil)
	var said strings.Builder
	cmd.Stderr = &said
	err := cmd.Run()
	if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v: %s", err, said.String())
	}
	s := openSpool(t, SpoolOptions{Dir: dir, SegmentBytes: 1 << 20})
	defer shutdown(t, s)
	got := map[uint64]Outcome{}
	for _, e := range takeAll(t, s) {
		if _, twice := got[e.Seq]; twice {
			t.Fatalf("call %d twice", e.Seq)
		}
		got[e.Seq] = e.Outcome
	}
	opened := 0
	for line := range strings.Lines(said.String()) {
		var kind string
		var seq uint64
		if n, _ := fmt.Sscanf(line, "%1s %d", &kind, &seq); n != 2 || !strings.HasSuffix(line, "\n") {
			continue
		}
		outcome, found := got[seq]
		if !found || kind == "C" && outcome != OK {
			t.Errorf("the child said %s and what is left is %v, %v", strings.TrimSpace(line), outcome, found)
		}
		if kind == "O" {
			opened++
		}
	}
	if opened < 4990 || s.Stats().Lost > 0 || s.Stats().Damaged > 0 {
		t.Errorf("%d calls opened, %+v", opened, s.Stats())
	}
}

func BenchmarkSpool(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", goroutines), func(b *testing.B) {
			s := openSpool(b, SpoolOptions{MaxBytes: 8 << 30})
			stopped := make(chan struct{})
			ctx, stop := context.WithCancel(context.Background())
			go func() { defer close(stopped); s.Run(ctx) }()
			b.Cleanup(func() { stop(); <-stopped; s.Shutdown() })
			// Acknowledged at once, as by a ledger that keeps up; without a shipper, which has its own benchmark.
			call := func(e *Event) {
				if err := s.Open(e); err != nil {
					b.Error(err)
				}
				s.Close(e)
				if e.Seq%8192 == 0 {
					s.Acknowledge(s.Incarnation(), Ranges{{1, e.Seq - 200}})
				}
			}
			b.ReportAllocs()
			var before, after syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			b.ResetTimer()
			if goroutines == 1 {
				e := usualEvent(0)
				for range b.N {
					call(&e)
				}
			} else {
				b.SetParallelism(goroutines / 2)
				b.RunParallel(func(pb *testing.PB) {
					e := usualEvent(0)
					for pb.Next() {
						call(&e)
					}
				})
			}
			b.StopTimer()
			syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}
