package metering

import (
	"fmt"
	"path/filepath"
	"time"
)

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
		if err := s.addSpare(); err != nil {
			return err
		}
	}
	g := s.spares[0]
	s.spares = s.spares[1:]
	g.firstSeq, g.begun = s.next, time.Now()
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
	g, err := s.reserveSpare()
	if err != nil {
		return err
	}
	return s.keepSpare(g, s.createSpare(g))
}

// reserveSpare takes the room and the name of a new segment.
func (s *Spool) reserveSpare() (*segment, error) {
	if s.stats.Bytes+s.o.SegmentBytes > s.o.MaxBytes {
		return nil, ErrSpoolFull
	}
	s.lastID++
	g := &segment{id: s.lastID, number: uint64(s.lastID), log: s.live, size: s.o.SegmentBytes}
	g.path = filepath.Join(s.o.Dir, segmentName(s.live.incarnation, g.number))
	s.stats.Bytes += g.size
	return g, nil
}

func (s *Spool) createSpare(g *segment) (err error) {
	g.file, err = s.o.create(g.path, g.size)
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
	g.end.Store(headerBytes)
	s.newNames = true
	s.spares = append(s.spares, g)
	return nil
}
