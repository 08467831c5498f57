package metering

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Step is how near to full a spool is. Each step gives up more, and none of them gives up what the ledger needs.
type Step int

// The steps, with the share of the room from which they hold.
const (
	StepFine    Step = iota
	StepWarn         // 70 %: someone should look why usage does not reach the ledger
	StepSparing      // 85 %: no more records of how far calls have come
	StepRefuse       // 95 %: no more calls; those that were admitted end as usual
)

// limits are the steps in bytes. The room is what is used of it and what is free, so that a volume that others fill
// counts as much as a spool that does.
type limits struct {
	room                int64
	warn, spare, refuse int64
}

func newLimits(room int64) limits {
	share := func(percent int64) int64 { return room/100*percent + room%100*percent/100 }
	return limits{room, share(70), share(85), share(95)}
}

func (l limits) step(used int64) Step {
	switch {
	case used >= l.refuse:
		return StepRefuse
	case used >= l.spare:
		return StepSparing
	case used >= l.warn:
		return StepWarn
	}
	return StepFine
}

// used is what can no longer be written to of the disk that the spool has.
func (s *Spool) used() int64 {
	n := s.stats.Bytes - int64(len(s.spares))*s.o.SegmentBytes
	if s.current != nil {
		n -= s.current.size - s.current.end.Load()
	}
	return n
}

// measure finds out how much room there is. Between two looks the room stays, for what a new segment takes of the
// volume the spool has more.
func (s *Spool) measure() {
	free, err := s.o.disk.free(s.o.Dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.o.MaxBytes
	if err == nil { // a file system that does not say is taken to have enough; Open will find out
		room = min(room, s.stats.Bytes+max(free, 0))
	}
	s.limits = newLimits(room)
	step := s.limits.step(s.used())
	if step == s.stats.Step {
		return
	}
	s.stats.Step = step
	args := []any{"dir", s.o.Dir, "used", s.used(), "room", room, "max", s.o.MaxBytes}
	switch step {
	case StepFine:
		s.log.Info("spool has room again", args...)
	case StepWarn:
		s.log.Warn("spool is filling up: is usage reaching the ledger, and has the volume room?", args...)
	case StepSparing:
		s.log.Warn("spool is nearly full: the progress of long calls is no longer written down", args...)
	case StepRefuse:
		s.log.Error("spool is full: no call is admitted until usage has reached the ledger, or the volume has room", args...)
	}
}

// makeRoom sees to it that a record of n bytes fits and that the CLOSE records of so many open calls fit after it, of
// the largest size each.
func (s *Spool) makeRoom(n, open int) error {
	for {
		left, ok := s.slotsAfter(int64(n))
		need := int64(open)
		if ok && left >= need {
			if left < need+s.slots/2 {
				select { // in good time, so that a caller rarely has to
				case s.grow <- struct{}{}:
				default:
				}
			}
			return nil
		}
		if err := s.addSpare(); err != nil {
			return err
		}
	}
}

// slotsAfter counts how many of the largest records fit once one of n bytes is written.
func (s *Spool) slotsAfter(n int64) (slots int64, ok bool) {
	spares := int64(len(s.spares))
	if s.current != nil {
		if left := s.current.size - s.current.end.Load() - n; left >= 0 {
			return left/maxRecord + spares*s.slots, true
		}
	}
	if spares == 0 {
		return 0, false
	}
	return (s.o.SegmentBytes-headerBytes-n)/maxRecord + (spares-1)*s.slots, true
}

// roll goes on in the next spare segment, or in a new one.
func (s *Spool) roll() error {
	if s.current != nil {
		s.current.sealed = true
		s.current = nil
	}
	if len(s.spares) == 0 {
		// The room that was kept went with a segment that failed. A call that was admitted ends all the same, beyond
		// MaxBytes if it must: else a spool whose segments all wait for such a CLOSE would wait for ever.
		if err := s.keepSpare(s.newSegment()); err != nil {
			return err
		}
	}
	g := s.spares[0]
	s.spares = s.spares[1:]
	g.firstSeq, g.begun = s.next, s.o.now()
	s.join(g)
	if _, err := g.file.WriteAt(g.header(), 0); err != nil {
		s.stats.WriteFails++
		g.sealed = true
		return err
	}
	s.current = g
	return nil
}

// join makes g the end of its log.
func (s *Spool) join(g *segment) {
	s.segments[g.id] = g
	s.joined++
	g.order = s.joined
	g.log.segments = append(g.log.segments, g)
}

// addSpare makes a segment while the caller waits, which is seldom: Run makes them ahead.
func (s *Spool) addSpare() error {
	if !s.mayGrow() {
		return ErrSpoolFull
	}
	return s.keepSpare(s.newSegment())
}

func (s *Spool) mayGrow() bool { return s.stats.Bytes+s.o.SegmentBytes <= s.o.MaxBytes }

// newSegment makes the next segment of the live log.
func (s *Spool) newSegment() (*segment, error) {
	g := s.nameSegment()
	return g, s.createSegment(g)
}

// nameSegment takes the room and the name of a new segment.
func (s *Spool) nameSegment() *segment {
	s.lastID++
	g := &segment{id: s.lastID, number: uint64(s.lastID), log: s.live, disk: s.o.disk, size: s.o.SegmentBytes}
	g.path = filepath.Join(s.o.Dir, segmentName(s.live.incarnation, g.number))
	s.stats.Bytes += g.size
	return g
}

func (s *Spool) createSegment(g *segment) (err error) {
	g.file, err = s.o.disk.create(g.path, g.size)
	return err
}

func (s *Spool) keepSpare(g *segment, err error) error {
	if err != nil {
		s.stats.Bytes -= g.size
		if isNoSpace(err) {
			return fmt.Errorf("%w: %w", ErrSpoolFull, err)
		}
		return fmt.Errorf("%w: %w", ErrSpoolBroken, err)
	}
	if g.id < s.newest {
		// A caller that could not wait has made one meanwhile. Segments are used in the order of their numbers, for
		// that is how a recovery reads them.
		s.stats.Bytes -= g.size
		return errors.Join(g.file.Close(), g.disk.remove(g.path))
	}
	s.newest = g.id
	g.end.Store(headerBytes)
	s.newNames = true
	s.spares = append(s.spares, g)
	return nil
}
