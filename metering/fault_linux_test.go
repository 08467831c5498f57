package metering

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSpoolOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs to be had: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	o := SpoolOptions{Dir: filepath.Join(dir, "spool"), SegmentBytes: 64 << 10}
	s := openSpool(t, o)
	fillAndEnd(t, s)
	left := s.Stats().Depth
	abandonSpool(s)

	// The next process finds no room for a segment of its own, and ships what there is.
	if err := os.WriteFile(filepath.Join(dir, "rest"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the rest: %v", err)
	}
	o.SegmentBytes *= 8
	s = openSpool(t, o)
	e := usualEvent(0)
	if err := s.Open(&e); !errors.Is(err, ErrSpoolFull) {
		t.Fatalf("got %v", err)
	}
	events := takeAll(t, s)
	if len(events) != left {
		t.Fatalf("%d of %d are sent", len(events), left)
	}
	s.Acknowledge(events[0].Incarnation, Ranges{{1, uint64(left)}})
	s.sync()
	s.trim()
	s.Close(mustOpen(t, s))
	shutdown(t, s)
}

// TestSpoolFreesADeletedSegment: what is deleted must not stay open for reading. It keeps its blocks then, and on a disk
// that has room for one segment only, no call is ever taken again.
func TestSpoolFreesADeletedSegment(t *testing.T) {
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, MaxBytes: 3 * smallSegment})
	fillAndEnd(t, s)
	left := s.Stats().Depth
	abandonSpool(s)
	s = openSpool(t, SpoolOptions{Dir: s.o.Dir, SegmentBytes: smallSegment, MaxBytes: 3 * smallSegment})
	events := takeAll(t, s)
	s.resend()
	if again := takeAll(t, s); len(events) != left || len(again) != left {
		t.Fatalf("%d were sent and %d sent again, of %d", len(events), len(again), left)
	}
	s.Acknowledge(events[0].Incarnation, Ranges{{1, uint64(left)}})
	s.sync()
	s.trim()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		file, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && strings.HasPrefix(file, s.o.Dir) && strings.HasSuffix(file, " (deleted)") {
			t.Errorf("%s is open still", filepath.Base(file))
		}
	}
	s.Close(mustOpen(t, s))
	if got := takeAll(t, s); len(got) != 1 {
		t.Errorf("then %d were sent, want the one new call", len(got))
	}
	shutdown(t, s)
}

// narrowDisk is a volume on which others leave so much.
type narrowDisk struct {
	disk
	left int64
}

func (d *narrowDisk) free(string) (int64, error) { return d.left, nil }

// TestSpoolSteps fills the spool's own share, and then has others fill the volume: at 70 % the spool warns, at 85 % it
// spares PROGRESS records, at 95 % it admits nobody; what was admitted ends all the same, and room brings all of it back.
func TestSpoolSteps(t *testing.T) {
	volume := &narrowDisk{disk: realDisk{}, left: 1 << 40}
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, MaxBytes: 20 * smallSegment, disk: volume})
	long := mustOpen(t, s)
	progressed := func() bool {
		before := s.current.end.Load()
		s.Progress(long)
		return s.current.end.Load() != before
	}
	share := func() int64 { st := s.Stats(); return st.Used * 100 / st.Room }
	calls := 1
	for _, want := range []struct {
		step  Step
		share int64
	}{{StepFine, 0}, {StepWarn, 70}, {StepSparing, 85}, {StepRefuse, 95}} {
		for s.measure(); share() < want.share; s.measure() {
			e := usualEvent(0)
			if err := s.Open(&e); err != nil {
				t.Fatalf("refused at %d %%: %v", share(), err)
			}
			s.Close(&e)
			calls++
		}
		if st := s.Stats(); st.Step != want.step || progressed() != (want.step < StepSparing) {
			t.Errorf("at %d %% the step is %d, want %d, or PROGRESS is not as it should be", share(), st.Step, want.step)
		}
	}
	if e := usualEvent(0); !errors.Is(s.Open(&e), ErrSpoolFull) {
		t.Errorf("a call was admitted at %d %%", share())
	}
	s.Close(long)
	if got := takeAll(t, s); len(got) != calls {
		t.Fatalf("%d of %d calls are there", len(got), calls)
	}
	s.Acknowledge(s.Incarnation(), Ranges{{1, uint64(calls)}})
	s.sync()
	s.trim()
	s.measure()
	s.Close(mustOpen(t, s))

	volume.left = 0
	s.measure()
	if st := s.Stats(); st.Step != StepFine && st.Step != StepRefuse || st.Room != st.Bytes {
		t.Errorf("with nothing left on the volume: %+v", st)
	}
	for range 1000 {
		e := usualEvent(0)
		if err := s.Open(&e); errors.Is(err, ErrSpoolFull) {
			volume.left = 1 << 40
			s.measure()
			s.Close(mustOpen(t, s))
			shutdown(t, s)
			return
		} else if err != nil {
			t.Fatal(err)
		}
		s.Close(&e)
		s.measure()
	}
	t.Error("a volume that others have filled is never full")
}
