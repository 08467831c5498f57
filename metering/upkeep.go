package metering

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Run keeps the spool in order until ctx ends: it syncs, makes segments ahead and mends what failed. It ends with a
// sync. The other methods work without it, and after it, but then a power loss may take more and a caller may wait for
// a segment to be made.
func (s *Spool) Run(ctx context.Context) error {
	tick := time.NewTicker(s.o.SyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mend(time.Now())
			s.sync()
			return nil
		case <-s.grow:
			s.growAhead()
		case now := <-tick.C:
			s.sync()
			s.mend(now)
			s.carryStragglers()
			s.trim()
		}
	}
}

// Shutdown syncs, closes the files and lets go of the directory. A spool whose calls are all in the ledger leaves no
// segment behind. Nothing else may be called after it.
func (s *Spool) Shutdown() error {
	s.sync()
	s.trim()
	s.read.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, g := range append(slices.Clone(s.live.segments), s.spares...) {
		if g.file != nil {
			errs = append(errs, g.file.Close())
			g.file = nil
		}
	}
	for _, g := range s.spares {
		errs = append(errs, os.Remove(g.path))
	}
	if g := s.current; g != nil && len(s.live.segments) == 1 && g.open == 0 && g.closed == 0 {
		errs = append(errs, os.Remove(g.path))
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// sync brings to the disk what was written since the last one, with no lock held while the disk works.
func (s *Spool) sync() {
	type dirty struct {
		g   *segment
		f   segmentFile
		end int64
	}
	var todo []dirty
	s.mu.Lock()
	for _, g := range s.live.segments {
		if end := g.end.Load(); g.file != nil && !g.suspect && (g.synced < end || g.sealed) {
			todo = append(todo, dirty{g, g.file, end})
		}
	}
	newNames := s.newNames
	s.newNames = false
	s.mu.Unlock()

	if newNames {
		if err := syncDir(s.o.Dir); err != nil {
			s.log.Error("spool directory did not sync", "dir", s.o.Dir, "err", err)
		}
	}
	for _, d := range todo {
		err := d.f.Sync()
		s.mu.Lock()
		d.g.synced = d.end
		if err != nil {
			s.seal(d.g, err)
		}
		if d.g.sealed && (d.g.suspect || d.g.synced == d.g.end.Load()) {
			_ = d.f.Close() // it is synced, or will be carried over
			d.g.file = nil
		}
		s.mu.Unlock()
		if err != nil {
			s.carry(d.g, true)
		}
	}
}

// seal takes a segment whose sync failed out of use. The kernel may have marked its pages clean without writing them,
// so a second sync that succeeds would prove nothing: its records are written again elsewhere instead.
func (s *Spool) seal(g *segment, err error) {
	s.stats.SyncErrors++
	g.sealed, g.suspect = true, true
	if s.current == g {
		s.current = nil
	}
	s.log.Error("spool sync failed; writing the segment's calls again in another", "file", filepath.Base(g.path), "err", err)
}

// carryStragglers frees the head of the log where all that holds it are calls that have not ended. Without it one
// call of an hour would keep an hour of segments.
func (s *Spool) carryStragglers() {
	s.mu.Lock()
	var head *segment
	if l := s.live.segments; len(l) > 2 {
		head = l[0]
	}
	ripe := head != nil && head.sealed && head.closed == 0 && head.open > 0
	s.mu.Unlock()
	if ripe {
		s.carry(head, false)
	}
}

// carry writes the latest records that are in g again at the end of the log: those of open calls, and those of ended
// ones too if it is asked for. The shipper will read and send the ended ones once more, which does no harm.
func (s *Spool) carry(g *segment, withEnded bool) {
	latest := make(map[uint64]int64)
	wanted := func(r record) bool {
		p := s.live.calls.get(r.seq)
		return p.segment() == g.id && (p.state() == ongoing || withEnded && (p.state() == ended || p.state() == sent))
	}
	err := s.eachRecord(g, func(r record) error {
		if wanted(r) {
			latest[r.seq] = r.at
		}
		return nil
	})
	if err == nil {
		err = s.eachRecord(g, func(r record) error {
			if at, ok := latest[r.seq]; ok && at == r.at && wanted(r) {
				return s.carryRecord(g, r)
			}
			return nil
		})
	}
	if err != nil {
		s.log.Error("spool segment could not be carried over; it stays", "file", filepath.Base(g.path), "err", err)
	}
}

// eachRecord calls f, with the lock held, for each record of a segment of the live log.
func (s *Spool) eachRecord(g *segment, f func(record) error) error {
	r, err := g.reader()
	if err != nil {
		return err
	}
	defer r.close()
	for {
		rec, ok, err := r.next(g.end.Load())
		if err != nil || !ok {
			return err
		}
		s.mu.Lock()
		err = f(rec)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (s *Spool) carryRecord(g *segment, r record) error {
	b := append(make([]byte, recordHeader, r.size()), r.payload...)
	if err := s.makeRoom(len(b), s.stats.Open); err != nil {
		return err
	}
	kind := byte(recordProgress)
	if r.kind == recordClose {
		kind = recordClose
	}
	if err := s.append(b, kind); err != nil {
		return err
	}
	was := s.live.calls.get(r.seq).state()
	if was == ongoing {
		g.open--
		s.current.open++
		s.live.calls.set(r.seq, newPlace(s.current.id, ongoing))
		return nil
	}
	g.closed--
	s.current.closed++
	s.live.calls.set(r.seq, newPlace(s.current.id, ended))
	if was == sent {
		s.toSend(1)
	}
	return nil
}

// mend tries again what the disk refused. A success ends the refusal of new calls.
func (s *Spool) mend(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil || now.Before(s.mendAt) {
		return
	}
	s.mendAt = now.Add(time.Second) // each try may cost a segment
	for len(s.late) > 0 {
		l := s.late[0]
		if err := s.append(l.b, recordClose); err != nil {
			s.broken = err
			return
		}
		s.late = s.late[1:]
		s.closed(l.seq, s.live.calls.get(l.seq))
	}
	if s.current == nil {
		if err := s.roll(); err != nil {
			s.broken = err
			return
		}
	}
	s.broken = nil
	s.log.Info("spool can be written again")
}

// growAhead makes a spare segment while no caller waits.
func (s *Spool) growAhead() {
	s.mu.Lock()
	g, err := s.reserveSpare()
	s.mu.Unlock()
	if err != nil {
		return // there is room for what was admitted, and who wants more will be told
	}
	err = s.createSpare(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.keepSpare(g, err); err != nil {
		s.log.Warn("spool could not make a segment ahead", "err", err)
	}
}

// trim deletes the segments that nothing needs any more, from the head of each log. Like sync it is for Run alone: one
// closes files that the other may be syncing.
func (s *Spool) trim() {
	var gone []*segment
	s.mu.Lock()
	s.logs = slices.DeleteFunc(s.logs, func(l *callLog) bool {
		for len(l.segments) > 0 && l.segments[0].sealed && l.segments[0].open == 0 && l.segments[0].closed == 0 {
			g := l.segments[0]
			l.segments = l.segments[1:]
			delete(s.segments, g.id)
			s.stats.Bytes -= g.size
			gone = append(gone, g)
		}
		return len(l.segments) == 0 && l != s.live
	})
	s.mu.Unlock()
	for _, g := range gone {
		if g.file != nil {
			_ = g.file.Close() // nothing in it is wanted
		}
		var err error
		if g.damaged { // its calls are accounted for, but someone may want to see what became of it
			err = os.Rename(g.path, g.path+".damaged")
		} else {
			err = os.Remove(g.path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Error("spool segment could not be deleted", "file", filepath.Base(g.path), "err", err)
		}
	}
}

// lockDir makes the directory if need be and takes it for this process.
func lockDir(dir string) (*os.File, error) {
	err := os.MkdirAll(dir, 0o700)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("spool directory %s cannot be written by user %d: make that user its owner, or choose another: %w",
			dir, os.Geteuid(), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		who := make([]byte, 32)
		n, _ := f.Read(who)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("spool directory %s belongs to process %.32q already: give each process its own", dir, who[:n])
		}
		return nil, fmt.Errorf("spool directory %s cannot be locked: %w", dir, err)
	}
	pid := fmt.Appendf(nil, "%d", os.Getpid())
	if _, err = f.WriteAt(pid, 0); err == nil {
		err = f.Truncate(int64(len(pid)))
	}
	if err != nil && !isNoSpace(err) { // the number is a courtesy
		return nil, errors.Join(fmt.Errorf("spool directory %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// isNoSpace tells a disk or a quota that is full from one that fails.
func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}
