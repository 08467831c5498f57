package metering

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
)

// recover reads the segments that earlier processes left. What they hold is not changed: each incarnation's log is
// shipped as it is, and deleted once the ledger has all of it.
func (s *Spool) recover() error {
	entries, err := s.o.disk.list(s.o.Dir)
	if err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	logs := make(map[uint64]*callLog)
	s.earlier = make(map[uint64]uint64)
	for _, entry := range entries {
		if !strings.HasSuffix(entry.name, segmentSuffix) {
			continue
		}
		incarnation, number, ok := parseSegmentName(entry.name)
		if !ok || !entry.regular {
			s.log.Warn("spool directory has a file that is not a segment; it is left alone", "file", entry.name)
			continue
		}
		l := logs[incarnation]
		if l == nil {
			l = &callLog{incarnation: incarnation, crashed: make(map[uint64]int64)}
			logs[incarnation] = l
		}
		s.lastID++
		l.segments = append(l.segments, &segment{
			id: s.lastID, number: number, log: l, disk: s.o.disk, path: filepath.Join(s.o.Dir, entry.name), size: entry.size,
			sealed: true, begun: entry.modified,
		})
		s.stats.Bytes += entry.size
	}
	for _, incarnation := range slices.Sorted(maps.Keys(logs)) {
		l := logs[incarnation]
		if err := s.recoverLog(l); err != nil {
			return err
		}
		s.logs = append(s.logs, l)
		s.earlier[incarnation] = max(l.calls.end, 1) - 1
	}
	slices.SortStableFunc(s.logs, func(a, b *callLog) int { return a.segments[0].begun.Compare(b.segments[0].begun) })
	for _, l := range s.logs {
		segments := l.segments
		l.segments = nil
		for _, g := range segments {
			s.join(g)
			s.old, s.newNames = append(s.old, g), true
		}
	}
	s.trim()
	return nil
}

// recoverLog finds out how far each call of an incarnation had come.
func (s *Spool) recoverLog(l *callLog) error {
	var bare []*segment // without a header that can be read
	first := uint64(math.MaxUint64)
	for _, g := range l.segments {
		s.segments[g.id] = g
		whole, err := g.loadHeader()
		if err != nil {
			return fmt.Errorf("spool segment %s: %w", g.path, err)
		}
		if whole {
			first = min(first, g.firstSeq)
		} else {
			bare = append(bare, g)
		}
	}
	slices.SortFunc(l.segments, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	for _, g := range l.segments {
		if err := s.recoverSegment(g); err != nil {
			return fmt.Errorf("spool segment %s: %w", g.path, err)
		}
	}
	for _, g := range bare { // a spare that was never used has none, and nothing else either
		if g.end.Load() > headerBytes {
			g.damaged = true
			s.stats.Damaged++
			s.log.Error("spool segment has a damaged header; its records are used", "file", filepath.Base(g.path))
		}
	}
	open := 0
	for seq := range l.crashed {
		g := s.segments[l.calls.get(seq).segment()]
		g.open--
		g.closed++
		l.calls.set(seq, newPlace(g.id, ended))
		open++
	}
	closed := 0
	for _, g := range l.segments {
		closed += g.closed
	}
	lost := l.calls.settleMissing(first)
	l.lost = lost
	s.stats.Lost += int(lost.Count())
	s.stats.Depth += closed
	s.unread += closed
	if len(lost) > 0 {
		s.log.Error("spool records of these calls are lost; unless they are in the ledger, their usage is not",
			"incarnation", fmt.Sprintf("%016x", l.incarnation), "seqs", lost.String())
	}
	if closed > 0 {
		s.log.Info("spool of an earlier process recovered", "incarnation", fmt.Sprintf("%016x", l.incarnation),
			"calls", closed, "unfinished", open, "segments", len(l.segments))
	}
	return nil
}

// loadHeader reads the header; whole is false where it is not one.
func (g *segment) loadHeader() (whole bool, err error) {
	f, err := g.disk.open(g.path)
	if err != nil {
		return false, err
	}
	b := make([]byte, headerBytes)
	n, err := readSegment(f, b, 0)
	return g.readHeader(b[:n]), errors.Join(err, f.Close())
}

// recoverSegment notes the records of one segment. After the last whole record a write may have been torn; a stretch
// before it that is no record is damage.
func (s *Spool) recoverSegment(g *segment) error {
	r, err := g.reader()
	if err != nil {
		return err
	}
	defer r.close()
	for {
		rec, ok, err := r.next(g.size)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		s.recoverRecord(g, rec)
	}
	g.end.Store(r.good)
	if len(r.bad) > 0 {
		g.damaged = true
		s.stats.Damaged += len(r.bad)
		s.log.Error("spool segment is damaged; the records around are used", "file", filepath.Base(g.path), "at", fmt.Sprint(r.bad))
	}
	return nil
}

func (s *Spool) recoverRecord(g *segment, r record) {
	l := g.log
	was := l.calls.get(r.seq)
	switch was.state() {
	case ended:
		if r.kind != recordClose {
			return // a CLOSE is the last word, wherever it stands
		}
		s.segments[was.segment()].closed-- // written again, because the segment before did not sync
		s.segments[was.segment()].heir = g
	case ongoing:
		s.segments[was.segment()].open--
		s.segments[was.segment()].heir = g
	}
	if r.kind == recordClose {
		delete(l.crashed, r.seq)
		l.calls.set(r.seq, newPlace(g.id, ended))
		g.closed++
		return
	}
	l.crashed[r.seq] = r.at
	l.calls.set(r.seq, newPlace(g.id, ongoing))
	g.open++
}

// bytesPerToken is what text has for a token: 3.5 to 4.5 in English and Portuguese, less in code and other scripts. It
// is only used where a process died, and the row says that it is estimated.
const bytesPerToken = 4

// crash ends a call that was open when its process died. It depends on nothing but the call, so that it comes out the
// same however often it is done.
func (e *Event) crash(price func(*Event)) {
	e.Outcome = Crashed
	if e.Usage.Source == Measured {
		return // the upstream's own counts had come, and the price with them
	}
	tokens := func(bytes int64) int64 { return (max(bytes, 0) + bytesPerToken - 1) / bytesPerToken }
	e.Usage.Source = Estimated
	e.Doubt = len(e.Holds) > 0
	e.Input = max(e.Input, tokens(e.RequestBytes))
	e.Output = max(e.Output, tokens(e.ResponseBytes))
	e.Total = e.Input + e.Output
	if price != nil {
		price(e)
	}
}
