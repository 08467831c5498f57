package metering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// flakyDisk makes segments that fail when they are told to.
type flakyDisk struct {
	realDisk
	mu     sync.Mutex
	calls  int // of Write and Sync, counted from 1
	writes func(call int) error
	syncs  func(call int) error
	news   func() error
	torn   bool // a write that fails has written half
}

func (d *flakyDisk) create(path string, size int64) (segmentFile, error) {
	if d.news != nil {
		if err := d.news(); err != nil {
			return nil, err
		}
	}
	f, err := createFile(path, size)
	return &flakyFile{f, d}, err
}

func (d *flakyDisk) count(fault func(int) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if fault == nil {
		return nil
	}
	return fault(d.calls)
}

type flakyFile struct {
	segmentFile
	d *flakyDisk
}

func (f *flakyFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.d.count(f.d.writes); err != nil {
		n := 0
		if f.d.torn {
			n, _ = f.segmentFile.WriteAt(b[:len(b)/2], at)
		}
		return n, err
	}
	return f.segmentFile.WriteAt(b, at)
}

func (f *flakyFile) Sync() error {
	if err := f.d.count(f.d.syncs); err != nil {
		return err
	}
	return f.segmentFile.Sync()
}

// otherFiles is the real disk with other files on it.
type otherFiles struct {
	realDisk
	make func(path string, size int64) (segmentFile, error)
}

func (d otherFiles) create(path string, size int64) (segmentFile, error) { return d.make(path, size) }

// TestSpoolFaultAtEveryWrite lets the n-th write or sync fail, for n = 1, 2, … until none is reached: whatever Open
// accepted is sent, by this process or by the next.
func TestSpoolFaultAtEveryWrite(t *testing.T) {
	eio := fmt.Errorf("write: %w", syscall.EIO)
	for _, lasting := range []bool{false, true} {
		for n := 1; ; n++ {
			reached := false
			fault := func(call int) error {
				if call == n || lasting && call > n {
					reached = true
					return eio
				}
				return nil
			}
			disk := &flakyDisk{writes: fault, syncs: fault, torn: n%2 == 0}
			faultyRun(t, disk, fmt.Sprintf("n=%d lasting=%v", n, lasting), lasting)
			if !reached {
				if n < 50 {
					t.Fatalf("only %d writes and syncs", n)
				}
				break
			}
		}
	}
}

func faultyRun(t *testing.T, disk *flakyDisk, name string, lasting bool) {
	t.Helper()
	o := SpoolOptions{Dir: filepath.Join(t.TempDir(), "spool"), SegmentBytes: smallSegment, disk: disk}
	s := openSpool(t, o)
	accepted, ended := map[uint64]bool{}, map[uint64]bool{}
	var open []*Event
	for i := range 60 {
		e := usualEvent(0)
		switch err := s.Open(&e); {
		case err == nil:
			if accepted[e.Seq] {
				t.Fatalf("%s: sequence number %d was given twice", name, e.Seq)
			}
			accepted[e.Seq] = true
			open = append(open, &e)
		case !errors.Is(err, ErrSpoolBroken):
			t.Fatalf("%s: Open answered %v", name, err)
		}
		if len(open) > 3 {
			s.Progress(open[1])
			s.Close(open[0])
			ended[open[0].Seq] = true
			open = open[1:]
		}
		if i%10 == 9 {
			s.sync()
			s.mendAt = time.Time{}
			s.mend(time.Now())
		}
	}
	sentNow := takeAll(t, s)
	if !lasting && len(s.late) == 0 {
		seen := map[uint64]bool{}
		for _, e := range sentNow {
			seen[e.Seq] = true
		}
		for seq := range ended {
			if !seen[seq] {
				t.Fatalf("%s: call %d has ended and is not sent", name, seq)
			}
		}
	}
	abandonSpool(s)
	o.disk = nil
	s = openSpool(t, o)
	got := map[uint64]bool{}
	for _, e := range takeAll(t, s) {
		got[e.Seq] = true
	}
	for seq := range accepted {
		if !got[seq] {
			t.Fatalf("%s: call %d was accepted and is lost", name, seq)
		}
	}
	if s.Stats().Lost > 0 {
		t.Fatalf("%s: %+v", name, s.Stats())
	}
	shutdown(t, s)
}

func TestSpoolMendsWhenTheDiskDoes(t *testing.T) {
	broken := false
	disk := &flakyDisk{writes: func(int) error {
		if broken {
			return syscall.EIO
		}
		return nil
	}}
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, disk: disk})
	a, b := mustOpen(t, s), mustOpen(t, s)
	broken = true
	s.Close(a)
	s.Close(a) // still only once
	refused := usualEvent(0)
	if err := s.Open(&refused); !errors.Is(err, ErrSpoolBroken) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v", err)
	}
	now := time.Now()
	s.mend(now)
	broken = false
	s.mend(now) // not so soon
	if s.broken == nil {
		t.Error("mended without waiting")
	}
	s.mend(now.Add(2 * time.Second))
	c := mustOpen(t, s)
	s.Close(b)
	s.Close(c)
	var seqs []uint64
	for _, e := range takeAll(t, s) {
		seqs = append(seqs, e.Seq)
	}
	slices.Sort(seqs)
	if !slices.Equal(seqs, []uint64{1, 2, 3}) || s.Stats().Open != 0 || s.Stats().WriteFails == 0 {
		t.Errorf("sent %v, %+v", seqs, s.Stats())
	}
	shutdown(t, s)
}

func TestSpoolSyncErrorWritesAgain(t *testing.T) {
	fail := false
	disk := &flakyDisk{syncs: func(int) error {
		if fail {
			fail = false
			return syscall.EIO
		}
		return nil
	}}
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, disk: disk})
	closed, open, sentAlready, known := mustOpen(t, s), mustOpen(t, s), mustOpen(t, s), mustOpen(t, s)
	s.Close(sentAlready)
	s.Close(known)
	takeAll(t, s)
	s.Acknowledge(s.Incarnation(), Ranges{{known.Seq, known.Seq}})
	s.Close(closed)
	suspect := s.current.path
	fail = true
	s.sync()
	s.trim()
	if st := s.Stats(); st.SyncErrors != 1 || st.Depth != 2 || st.Open != 1 {
		t.Fatalf("stats %+v", st)
	}
	if !slices.Contains(segmentFiles(t, s), suspect) {
		t.Error("the segment that did not sync is gone before what is written again is durable")
	}
	s.sync()
	s.trim()
	if slices.Contains(segmentFiles(t, s), suspect) {
		t.Error("the segment that did not sync is still there")
	}
	s.Close(open)
	var seqs []uint64
	for _, e := range takeAll(t, s) {
		seqs = append(seqs, e.Seq)
	}
	slices.Sort(seqs)
	if !slices.Equal(seqs, []uint64{closed.Seq, open.Seq, sentAlready.Seq}) {
		t.Errorf("sent %v", seqs)
	}
	s.sync()
	shutdown(t, s)
	recovered := openSpool(t, SpoolOptions{Dir: s.o.Dir})
	if got := takeAll(t, recovered); len(got) != 3 || recovered.Stats().Lost > 0 {
		t.Errorf("recovered %d, %+v", len(got), recovered.Stats())
	}
	shutdown(t, recovered)
}

// TestSpoolFull fills the disk that the spool may have: each call that was admitted ends, of the largest size there is.
func TestSpoolFull(t *testing.T) {
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, MaxBytes: 5 * smallSegment})
	fillAndEnd(t, s)
	if b := s.Stats().Bytes; b > 5*smallSegment {
		t.Errorf("%d bytes of %d", b, 5*smallSegment)
	}
	events := takeAll(t, s)
	s.Acknowledge(s.Incarnation(), Ranges{{1, uint64(len(events))}})
	s.sync()
	s.trim()
	s.Close(mustOpen(t, s)) // there is room again
	shutdown(t, s)
}

// fillAndEnd opens calls until the spool refuses, and then ends all of them with the longest CLOSE there is.
func fillAndEnd(t *testing.T, s *Spool) {
	t.Helper()
	var open []*Event
	for {
		e := usualEvent(0)
		err := s.Open(&e)
		if err != nil {
			if !errors.Is(err, ErrSpoolFull) || e.Seq != 0 {
				t.Fatalf("after %d calls: %v, seq %d", len(open), err, e.Seq)
			}
			break
		}
		open = append(open, &e)
		s.Progress(&e)
		if len(open) > 100_000 {
			t.Fatal("the spool is never full")
		}
	}
	if len(open) < 5 {
		t.Fatalf("only %d calls fit", len(open))
	}
	for _, e := range open {
		for _, n := range e.numbers() {
			*n = -1 << 63
		}
		for _, text := range e.texts() {
			*text = strings.Repeat("x", textLimit)
		}
		e.Status = -1 << 31
		s.Progress(e) // must not eat the room of a CLOSE
		s.Close(e)
	}
	if st := s.Stats(); st.Open != 0 || st.Depth != len(open) || st.WriteFails > 0 || len(s.late) > 0 {
		t.Fatalf("%d calls, %+v, %d late", len(open), st, len(s.late))
	}
	if got := takeAll(t, s); len(got) != len(open) {
		t.Fatalf("%d of %d are sent", len(got), len(open))
	}
	s.resend()
}

func TestSpoolUnderFileSizeLimit(t *testing.T) {
	if dir := os.Getenv("SPOOL_TEST_FSIZE"); dir != "" {
		s := openSpool(t, SpoolOptions{Dir: dir, SegmentBytes: smallSegment})
		open := []*Event{mustOpen(t, s), mustOpen(t, s), mustOpen(t, s)}
		limit := uint64(s.current.end.Load() + 100) // the next record is cut short, and no other segment can be made
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			t.Fatal(err)
		}
		for _, e := range open {
			s.Close(e)
		}
		e := usualEvent(0)
		fmt.Printf("Open answered: %v; %d late\n", s.Open(&e), len(s.late))
		return
	}
	dir := filepath.Join(t.TempDir(), "spool")
	out, err := asChild(t, t.Name(), "SPOOL_TEST_FSIZE="+dir, nil).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Open answered: the spool cannot be written")) || !bytes.Contains(out, []byte("3 late")) {
		t.Fatalf("%v: %s", err, out)
	}
	s := openSpool(t, SpoolOptions{Dir: dir})
	got := takeAll(t, s)
	if len(got) != 3 || got[0].Outcome != Crashed || s.Stats().Lost > 0 || s.Stats().Damaged > 0 {
		t.Errorf("recovered %d, %+v", len(got), s.Stats())
	}
	shutdown(t, s)
}

// lastSegment closes n calls in a spool of one segment, leaves it as kill -9 would, and gives its one file.
func lastSegment(t *testing.T, n int) (o SpoolOptions, path string, b []byte, ends []int64) {
	t.Helper()
	o = SpoolOptions{Dir: filepath.Join(t.TempDir(), "spool"), SegmentBytes: 64 << 10}
	s := openSpool(t, o)
	for range n {
		e := mustOpen(t, s)
		ends = append(ends, s.current.end.Load())
		s.Close(e)
		ends = append(ends, s.current.end.Load())
	}
	path = s.current.path
	abandonSpool(s)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return o, path, b, ends
}

// reopen puts bytes where a segment was and tells what is sent of it.
func reopen(t *testing.T, o SpoolOptions, path string, b []byte) (events []Event, st SpoolStats) {
	t.Helper()
	for _, pattern := range []string{"*.spool", "*.damaged"} {
		names, _ := filepath.Glob(filepath.Join(o.Dir, pattern))
		for _, name := range names {
			os.Remove(name)
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, o)
	events, st = takeAll(t, s), s.Stats()
	shutdown(t, s)
	return events, st
}

// TestSpoolTornTail cuts the file, and then zeros it as a file system may after a power loss, at each of the last bytes.
func TestSpoolTornTail(t *testing.T) {
	o, path, b, ends := lastSegment(t, 6)
	end := ends[len(ends)-1]
	for cut := end - 512; cut <= end; cut++ {
		whole := 0
		for _, e := range ends {
			if e <= cut {
				whole++
			}
		}
		zeroed := slices.Clone(b)
		clear(zeroed[cut:])
		for name, b := range map[string][]byte{"cut": b[:cut], "zeroed": zeroed} {
			events, st := reopen(t, o, path, b)
			// A call is known from its OPEN on, and as it ended from its CLOSE on. A record that ends in zeros of its own
			// is whole without them.
			if len(events) < (whole+1)/2 || st.Lost > 0 || st.Damaged > 0 {
				t.Fatalf("%s at %d: %d events of %d whole records, %+v", name, cut, len(events), whole, st)
			}
			for i, e := range events {
				if want := 2*i+1 < whole; (e.Outcome == OK) != want && cut < end-8 {
					t.Fatalf("%s at %d: call %d has outcome %d", name, cut, i+1, e.Outcome)
				}
			}
		}
	}
}

// TestSpoolFlippedByte flips each byte of a segment: at most the one record around it is lost, and none comes out wrong.
func TestSpoolFlippedByte(t *testing.T) {
	o, path, b, ends := lastSegment(t, 3)
	want, _ := reopen(t, o, path, b)
	for at := range ends[len(ends)-1] {
		flipped := slices.Clone(b)
		flipped[at] ^= 0xff
		events, st := reopen(t, o, path, flipped)
		hit := -1 // the record
		for i, e := range ends {
			if at >= headerBytes && at < e {
				hit = i
				break
			}
		}
		if len(events) != len(want) {
			t.Fatalf("byte %d: %d calls; a call has two records and one is enough to know of it", at, len(events))
		}
		if hit < len(ends)-1 && st.Damaged != 1 { // after the last record it looks like a torn write
			t.Fatalf("byte %d: %+v", at, st)
		}
		for i, e := range events {
			if sameEvent(e, want[i]) {
				continue
			}
			if hit != 2*i+1 || e.Outcome != Crashed || e.Seq != want[i].Seq || e.RequestID != want[i].RequestID {
				t.Fatalf("byte %d, in record %d: call %d came out as %+v", at, hit, i+1, e)
			}
		}
	}
}

func TestSpoolNamesWhatIsLost(t *testing.T) {
	o, path, b, ends := lastSegment(t, 6)
	clear(b[ends[3]:ends[7]]) // calls 3 and 4
	var log bytes.Buffer
	o.Log = textLog(&log)
	events, st := reopen(t, o, path, b)
	if len(events) != 4 || st.Lost != 2 || st.Damaged != 1 || !strings.Contains(log.String(), "seqs=3-4") {
		t.Errorf("%d events, %+v, %s", len(events), st, &log)
	}
}

// TestSpoolDamagedWhileRunning loses records on disk before they were read: they are named and hold up nothing.
func TestSpoolDamagedWhileRunning(t *testing.T) {
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment})
	s.Close(mustOpen(t, s))
	from := s.current.end.Load()
	s.Close(mustOpen(t, s))
	f, err := os.OpenFile(s.current.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, s.current.end.Load()-from), from); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for range 50 {
		s.Close(mustOpen(t, s))
	}
	if got := takeAll(t, s); len(got) != 51 {
		t.Errorf("%d events", len(got))
	}
	if st := s.Stats(); st.Lost != 1 || st.Depth != 51 {
		t.Errorf("%+v", st)
	}
	s.Acknowledge(s.Incarnation(), Ranges{{1, 52}})
	s.sync()
	s.trim()
	if n := len(segmentFiles(t, s)); n > 2 {
		t.Errorf("%d segments stay", n)
	}
	if damaged, _ := filepath.Glob(filepath.Join(s.o.Dir, "*.damaged")); len(damaged) != 1 {
		t.Errorf("the damaged segment is not kept: %v", damaged)
	}
	shutdown(t, s)
}

// TestSpoolLongCallKeepsNoSegments has one call outlive thousands.
func TestSpoolLongCallKeepsNoSegments(t *testing.T) {
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment})
	long, stream := mustOpen(t, s), mustOpen(t, s)
	most := 0
	for i := range 2000 {
		s.Close(mustOpen(t, s))
		if i%100 == 99 {
			stream.ResponseBytes = int64(i)
			s.Progress(stream)
			takeAll(t, s)
			s.Acknowledge(s.Incarnation(), Ranges{{3, uint64(3 + i)}})
			s.sync()
			s.carryStragglers()
			s.trim()
			most = max(most, len(segmentFiles(t, s)))
		}
	}
	if most > 14 {
		t.Errorf("%d segments for one call", most)
	}
	abandonSpool(s)
	recovered := openSpool(t, SpoolOptions{Dir: s.o.Dir})
	got := takeAll(t, recovered)
	slices.SortFunc(got, func(a, b Event) int { return int(a.Seq) - int(b.Seq) })
	if len(got) < 2 || got[0].Seq != long.Seq || got[0].Outcome != Crashed || got[1].ResponseBytes != stream.ResponseBytes {
		t.Errorf("recovered %d: %+v", len(got), got)
	}
	if st := recovered.Stats(); st.Lost > 0 {
		t.Errorf("%+v", st)
	}
	shutdown(t, recovered)
}

// TestSpoolSlowSync has a sync take half a second: no caller waits for it.
func TestSpoolSlowSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		syncing := make(chan struct{}, 100)
		slow := otherFiles{make: func(path string, size int64) (segmentFile, error) {
			f, err := createFile(path, size)
			return slowFile{f, syncing}, err
		}}
		s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, disk: slow})
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() { defer close(stopped); s.Run(ctx) }()
		mustOpen(t, s)
		<-syncing
		began := time.Now()
		for range 100 {
			s.Close(mustOpen(t, s))
		}
		if took := time.Since(began); took > 0 { // a bubble's clock moves only while all wait
			t.Errorf("callers waited %s", took)
		}
		stop()
		<-stopped
		shutdown(t, s)
	})
}

type slowFile struct {
	segmentFile
	syncing chan struct{}
}

func (f slowFile) Sync() error {
	f.syncing <- struct{}{}
	time.Sleep(500 * time.Millisecond)
	return f.segmentFile.Sync()
}

func TestSpoolSyncsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		syncs := 0
		disk := &flakyDisk{syncs: func(int) error { syncs++; return nil }}
		s := openSpool(t, SpoolOptions{disk: disk})
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() { defer close(stopped); s.Run(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if syncs != 0 {
			t.Errorf("%d syncs of nothing", syncs)
		}
		e := mustOpen(t, s)
		time.Sleep(time.Second)
		synctest.Wait()
		if syncs != 1 {
			t.Errorf("%d syncs of one record", syncs)
		}
		s.Close(e)
		stop()
		<-stopped
		if syncs != 2 {
			t.Errorf("%d syncs; the last is the stop's", syncs)
		}
		shutdown(t, s)
	})
}

// FuzzSegment overwrites a part of a segment: what is read of it was written, or is not read.
func FuzzSegment(f *testing.F) {
	f.Add(uint16(0), []byte("CATRSPL1"))
	f.Add(uint16(70), []byte{0xff})
	f.Add(uint16(500), make([]byte, 900))
	f.Add(uint16(64), []byte{54, 0, 0, 0, 1, 2, 3, 4, 1, 1})
	dir := f.TempDir()
	s := openSpool(f, SpoolOptions{Dir: filepath.Join(dir, "spool"), SegmentBytes: 64 << 10})
	written := map[int64]string{}
	for range 5 {
		e := usualEvent(0)
		if err := s.Open(&e); err != nil {
			f.Fatal(err)
		}
		s.Close(&e)
	}
	g := s.current
	whole, err := os.ReadFile(g.path)
	if err != nil {
		f.Fatal(err)
	}
	whole = whole[:8<<10]
	read := func(b []byte) (records []record, st error) {
		path := filepath.Join(dir, fmt.Sprintf("%d", os.Getpid()))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return nil, err
		}
		copied := &segment{number: g.number, log: g.log, disk: realDisk{}, path: path}
		r, err := copied.reader()
		if err != nil {
			return nil, err
		}
		defer r.close()
		for {
			rec, ok, err := r.next(int64(len(b)))
			if !ok || err != nil {
				return records, err
			}
			rec.payload = bytes.Clone(rec.payload)
			records = append(records, rec)
		}
	}
	all, err := read(whole)
	if err != nil || len(all) != 10 {
		f.Fatalf("%d records, %v", len(all), err)
	}
	for _, r := range all {
		written[r.at] = string(append([]byte{r.kind}, r.payload...))
	}
	f.Fuzz(func(t *testing.T, at uint16, over []byte) {
		b := bytes.Clone(whole)
		from := min(int(at), len(b))
		to := from + copy(b[from:], over)
		records, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		got := map[int64]bool{}
		for _, r := range records {
			if written[r.at] != string(append([]byte{r.kind}, r.payload...)) {
				t.Fatalf("at %d a record was read that was never written", r.at)
			}
			got[r.at] = true
		}
		for _, r := range all {
			if clear := r.at+r.size() <= int64(from) || r.at >= int64(to); clear && !got[r.at] {
				t.Fatalf("the record at %d was not read though only %d to %d is damaged", r.at, from, to)
			}
		}
	})
}

// TestSpoolLeavesABadSegment has one file that takes no writes any more: the log goes on in the next, and nobody is
// refused.
func TestSpoolLeavesABadSegment(t *testing.T) {
	bad := ""
	s := openSpool(t, SpoolOptions{SegmentBytes: smallSegment, disk: otherFiles{make: func(path string, size int64) (segmentFile, error) {
		f, err := createFile(path, size)
		return badSector{f, path, &bad}, err
	}}})
	e := mustOpen(t, s)
	bad = s.current.path
	s.Close(e)
	s.Close(mustOpen(t, s))
	if got := takeAll(t, s); len(got) != 2 || s.Stats().WriteFails != 1 || s.current.path == bad {
		t.Errorf("%d sent, %+v", len(got), s.Stats())
	}
	shutdown(t, s)
}

type badSector struct {
	segmentFile
	path string
	bad  *string
}

func (f badSector) WriteAt(b []byte, at int64) (int, error) {
	if f.path == *f.bad {
		return 0, syscall.EIO
	}
	return f.segmentFile.WriteAt(b, at)
}

// TestSpoolHeaderDamaged breaks each header of a log: the names say enough.
func TestSpoolHeaderDamaged(t *testing.T) {
	o := SpoolOptions{Dir: filepath.Join(t.TempDir(), "spool"), SegmentBytes: smallSegment}
	s := openSpool(t, o)
	var open []*Event
	for range 100 { // calls that begin in one segment and end in the next
		open = append(open, mustOpen(t, s))
		if len(open) > 10 {
			s.Close(open[0])
			open = open[1:]
		}
	}
	files := segmentFiles(t, s)
	abandonSpool(s)
	for i, path := range files {
		whole, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) { // a spare, which the first recovery has deleted
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		broken := slices.Clone(whole)
		clear(broken[:headerBytes])
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openSpool(t, o)
		crashed := 0
		got := takeAll(t, s)
		for _, e := range got {
			if e.Outcome == Crashed {
				crashed++
			}
		}
		if len(got) != 100 || crashed != len(open) || s.Stats().Lost > 0 {
			t.Errorf("without the header of segment %d: %d calls, %d crashed, %+v", i, len(got), crashed, s.Stats())
		}
		abandonSpool(s)
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSpoolRecordOutOfPlace has a record where it was not written, in the same file and in another: it is not one.
func TestSpoolRecordOutOfPlace(t *testing.T) {
	o, path, b, ends := lastSegment(t, 2)
	end := ends[len(ends)-1]
	incarnation, number, _ := parseSegmentName(filepath.Base(path))
	g := &segment{number: number, log: &callLog{incarnation: incarnation}}
	if _, ok := g.parse(b[headerBytes:], headerBytes); !ok {
		t.Error("the first record is not read in its place")
	}
	if r, ok := g.parse(b[headerBytes:], end); ok {
		t.Errorf("it is read at the end as well: %+v", r)
	}
	for _, name := range []string{segmentName(incarnation, number+1), segmentName(incarnation+1, number)} {
		if events, _ := reopen(t, o, filepath.Join(o.Dir, name), b); len(events) != 0 {
			t.Errorf("a copy named %s gave %d calls", name, len(events))
		}
	}
}
