package metering

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
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
			s.mend(s.o.now())
			s.sync()
			return nil
		case <-s.grow:
			s.growAhead()
		case <-tick.C:
			s.tend()
		}
	}
}

// tend is one round of Run.
func (s *Spool) tend() {
	now := s.o.now()
	if !now.Before(s.syncAt) {
		s.sync()
	}
	s.mend(now)
	s.carryStragglers()
	s.trim()
	if now.Sub(s.measuredAt).Abs() >= measureEvery {
		s.measuredAt = now
		s.measure()
	}
}

const (
	measureEvery = time.Second // what a volume has free
	maxSyncWait  = 30 * time.Second
)

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
		errs = append(errs, g.disk.remove(g.path))
	}
	if g := s.current; g != nil && len(s.live.segments) == 1 && g.open == 0 && g.closed == 0 {
		errs = append(errs, g.disk.remove(g.path))
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
	newNames, written, old := s.newNames, s.writes, s.old
	s.newNames, s.old = false, nil
	s.mu.Unlock()

	var failed bool
	if newNames {
		if err := s.o.disk.syncNames(s.o.Dir); err != nil {
			failed = true
			s.log.Error("spool directory did not sync; a power loss may take whole segments", "dir", s.o.Dir, "err", err)
			s.mu.Lock()
			s.newNames = true
			s.stats.SyncErrors++
			s.mu.Unlock()
		}
	}
	for _, g := range old { // a process that is killed leaves what it wrote last to the kernel
		if err := g.disk.sync(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = true
			s.mu.Lock()
			g.suspect = true
			s.stats.SyncErrors++
			s.mu.Unlock()
			s.log.Error("spool segment of an earlier process did not sync", "file", filepath.Base(g.path), "err", err)
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
			failed = true
			s.carry(d.g, true)
		}
	}
	s.synced(written, failed)
}

// synced notes how far the log is durable. A segment that did not sync, and whose calls could not be written again for
// want of room, holds that up. A disk whose syncs fail is left alone for longer each time, for each costs a segment.
func (s *Spool) synced(written uint64, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failed {
		s.syncWait = min(max(2*s.syncWait, time.Second), maxSyncWait)
		s.syncAt = s.o.now().Add(s.syncWait)
		return
	}
	s.syncWait, s.syncAt = 0, time.Time{}
	for _, l := range s.logs {
		if slices.ContainsFunc(l.segments, func(g *segment) bool { return g.suspect && g.open+g.closed > 0 }) {
			return
		}
	}
	s.durable = written
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
// call of an hour would keep an hour of segments. And it tries again what could not be carried when a sync failed.
func (s *Spool) carryStragglers() {
	var suspects []*segment
	s.mu.Lock()
	var head *segment
	if l := s.live.segments; len(l) > 2 {
		head = l[0]
	}
	ripe := head != nil && head.sealed && head.closed == 0 && head.open > 0
	for _, g := range s.live.segments {
		if g.suspect && g.open+g.closed > 0 {
			suspects = append(suspects, g)
		}
	}
	s.mu.Unlock()
	for _, g := range suspects {
		s.carry(g, true)
	}
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
	g.heirs = s.writes
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
	if !s.mayGrow() {
		s.mu.Unlock()
		return // there is room for what was admitted, and who wants more will be told
	}
	g := s.nameSegment()
	s.mu.Unlock()
	err := s.createSegment(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.keepSpare(g, err); err != nil {
		s.log.Warn("spool could not make a segment ahead", "err", err)
	}
}

// trim deletes the segments that nothing needs any more, from the head of each log: each of their calls is in the
// ledger, or has a later record that a power loss cannot take. Like sync it is for Run alone: one closes files that the
// other may be syncing.
func (s *Spool) trim() {
	var gone []*segment
	s.mu.Lock()
	s.logs = slices.DeleteFunc(s.logs, func(l *callLog) bool {
		for len(l.segments) > 0 && (l == s.live && l.segments[0].idle(s.durable) || l != s.live && l.headSettled()) {
			g := l.segments[0]
			l.segments = l.segments[1:]
			delete(s.segments, g.id)
			s.stats.Bytes -= g.size
			gone = append(gone, g)
		}
		return len(l.segments) == 0 && l != s.live
	})
	s.mu.Unlock()
	if len(gone) > 0 {
		s.read.forget(gone)
	}
	for _, g := range gone {
		if g.file != nil {
			_ = g.file.Close() // nothing in it is wanted
		}
		var err error
		if g.damaged { // its calls are accounted for, but someone may want to see what became of it
			err = g.disk.rename(g.path, g.path+".damaged")
		} else {
			err = g.disk.remove(g.path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Error("spool segment could not be deleted", "file", filepath.Base(g.path), "err", err)
		}
	}
}

// idle tells whether nothing needs the segment any more, with so many records durable.
func (g *segment) idle(durable uint64) bool {
	return g.sealed && g.open == 0 && g.closed == 0 && g.heirs <= durable
}

// headSettled tells whether the ledger has every call with a record in the first segment of an earlier process's log,
// also those whose latest record is in another. That one may have failed to sync, and only that process knew.
func (l *callLog) headSettled() bool {
	last := 0
	for i, g := range l.segments {
		if i > last {
			break
		}
		if !g.sealed || g.open+g.closed > 0 {
			return false
		}
		last = max(last, slices.Index(l.segments, g.heir))
	}
	return true
}
