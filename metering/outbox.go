package metering

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// The bounds of what is on its way. The spool is where usage waits, not the queue: with the ledger down for a day, a
// queue holds this many events of each process and not a day's.
const (
	maxBatch    = 500
	maxInFlight = 20_000
)

// outbox reads the spool from its start on and remembers what a queue has been given.
type outbox struct {
	mu      sync.Mutex
	reader  *segmentReader // of the segment that is being read; nil before the first, and when it is deleted
	after   int            // the order of the segment that was read last
	flight  []flying       // in the order they were first taken
	batch   uint64
	nextDue time.Time // none of flight is due before

	again *segmentReader // of the segment that a repeat was last read from
}

// flying is a call that a queue was given and that the ledger is not known to have.
type flying struct {
	g     *segment
	at    int64
	seq   uint64
	ended int64     // µs
	due   time.Time // to be sent again; zero: at once, for the queue does not have it
	batch uint64
}

// batch is what is sent at once. Its memory is used again for the next.
type batch struct {
	no       uint64
	repeats  int // how many were sent before
	messages []Message
	sizes    []int
	bytes    []byte
}

func (b *batch) reset(no uint64) {
	b.no, b.repeats, b.messages, b.sizes, b.bytes = no, 0, b.messages[:0], b.sizes[:0], b.bytes[:0]
}

func (b *batch) add(payload []byte) {
	b.bytes = append(b.bytes, payload...)
	b.sizes = append(b.sizes, len(payload))
}

// finish makes the messages, now that the bytes move no more.
func (b *batch) finish() {
	rest := b.bytes
	for _, n := range b.sizes {
		b.messages = append(b.messages, Message{ClientID: peekClient(rest[:n]), Payload: rest[:n:n]})
		rest = rest[n:]
	}
}

// take fills b with what is to be sent: first what is due again, then what was never sent. Whether the queue took it,
// posted has to be told.
func (s *Spool) take(b *batch, now time.Time) error {
	o := &s.read
	o.mu.Lock()
	defer o.mu.Unlock()
	o.batch++
	b.reset(o.batch)
	o.takeDue(s, b, now)
	var err error
	for len(b.sizes) < maxBatch && len(o.flight) < maxInFlight && err == nil {
		var g *segment
		var rec record
		if g, rec, err = o.nextUnsent(s); g == nil {
			break
		}
		if e := s.payload(g, rec, b); e != nil {
			// It stays in the spool, for a release that can read it.
			s.log.Error("spool holds a call that this release cannot finish", "seq", rec.seq, "err", e)
			continue
		}
		o.flight = append(o.flight, flying{g, rec.at, rec.seq, peekEnd(rec.payload), never, o.batch})
	}
	b.finish()
	return err
}

// never is when what a batch holds is due, until it is known what became of it.
var never = time.Unix(1<<40, 0)

// takeDue adds what has waited long enough, read from disk again.
func (o *outbox) takeDue(s *Spool, b *batch, now time.Time) {
	if now.Before(o.nextDue) {
		return
	}
	o.nextDue = never
	for i := range o.flight {
		f := &o.flight[i]
		if len(b.sizes) < maxBatch && !now.Before(f.due) && s.placeOf(f.g, f.seq) == newPlace(f.g.id, sent) {
			rec, err := o.readAgain(f)
			if err == nil {
				err = s.payload(f.g, rec, b)
			}
			if err != nil {
				s.log.Error("spool record could not be read again", "file", filepath.Base(f.g.path), "seq", f.seq, "err", err)
				f.due = now.Add(maxPatience)
			} else {
				if !f.due.IsZero() {
					b.repeats++
				}
				f.batch, f.due = o.batch, never
			}
		}
		o.nextDue = earlier(o.nextDue, f.due)
	}
}

func (o *outbox) readAgain(f *flying) (record, error) {
	if o.again == nil || o.again.g != f.g {
		if o.again != nil {
			o.again.close()
		}
		var err error
		if o.again, err = f.g.reader(); err != nil {
			return record{}, err
		}
	}
	o.again.at, o.again.good = f.at, f.at
	rec, ok, err := o.again.next(f.g.end.Load())
	if err == nil && (!ok || rec.at != f.at) {
		err = fmt.Errorf("the record at %d is damaged", f.at)
	}
	return rec, err
}

// payload adds a call to b: as its CLOSE says or, where its process died before, as far as it had come.
func (s *Spool) payload(g *segment, r record, b *batch) error {
	if r.kind == recordClose {
		b.add(r.payload)
		return nil
	}
	var e Event
	if err := e.Decode(r.payload); err != nil {
		return err
	}
	e.crash(s.o.Price)
	b.add(e.Append(nil))
	return nil
}

// nextUnsent finds the next call that was never sent and marks it sent. g is nil when there is none.
func (o *outbox) nextUnsent(s *Spool) (g *segment, r record, err error) {
	for {
		if o.reader == nil {
			if more, err := o.advance(s, o.after); !more || err != nil {
				return nil, r, err
			}
		}
		g = o.reader.g
		s.mu.Lock()
		sealed := g.sealed // asked before the end: once it is sealed the end stays
		s.mu.Unlock()
		rec, ok, err := o.reader.next(g.end.Load())
		if err != nil {
			return nil, r, fmt.Errorf("read %s: %w", filepath.Base(g.path), err)
		}
		if ok {
			if s.markSent(g, rec) {
				return g, rec, nil
			}
			continue
		}
		if !sealed {
			return nil, r, nil
		}
		if o.reader.good < o.reader.at || len(o.reader.bad) > 0 {
			s.abandon(g)
		}
		if more, err := o.advance(s, g.order); !more || err != nil {
			return nil, r, err
		}
	}
}

// advance goes to the first segment after the given one. There is none yet while the log's end has not moved on.
func (o *outbox) advance(s *Spool, after int) (more bool, err error) {
	s.mu.Lock()
	var g *segment
	for _, l := range s.logs {
		for _, c := range l.segments {
			if c.order > after && (g == nil || c.order < g.order) {
				g = c
			}
		}
	}
	s.mu.Unlock()
	if g == nil {
		return false, nil
	}
	r, err := g.reader()
	if errors.Is(err, os.ErrNotExist) { // all of it is in the ledger already
		return o.advance(s, g.order)
	}
	if err != nil {
		return false, err
	}
	if o.reader != nil {
		o.reader.close()
	}
	o.reader, o.after = r, g.order
	return true, nil
}

// forget closes what is read of segments that are deleted: a file that is open keeps its blocks, and on a full disk
// those are what the next segment needs.
func (o *outbox) forget(gone []*segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range []**segmentReader{&o.reader, &o.again} {
		if *r != nil && slices.Contains(gone, (*r).g) {
			(*r).close()
			*r = nil
		}
	}
}

// markSent tells whether r is the last word on a call that waits to be sent, and takes it.
func (s *Spool) markSent(g *segment, r record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.log.calls.get(r.seq) != newPlace(g.id, ended) {
		return false
	}
	if r.kind != recordClose {
		if at, crashed := g.log.crashed[r.seq]; !crashed || at != r.at {
			return false
		}
	}
	g.log.calls.set(r.seq, newPlace(g.id, sent))
	s.unread--
	return true
}

func (s *Spool) placeOf(g *segment, seq uint64) place {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.log.calls.get(seq)
}

// abandon gives up the calls of a segment that was read to its end and whose records were not found: the disk has lost
// them. They are named, and hold up nothing.
func (s *Spool) abandon(g *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lost Ranges
	for no := range g.log.calls.blocks {
		g.log.calls.each(no, func(seq uint64, p place) {
			if p == newPlace(g.id, ended) {
				lost = lost.Add(seq)
				s.done(g.log, seq, p)
			}
		})
	}
	if !g.damaged {
		g.damaged = true
		s.stats.Damaged++
	}
	if len(lost) == 0 {
		return
	}
	g.log.lost = g.log.lost.Union(lost)
	s.stats.Lost += int(lost.Count())
	s.log.Error("spool segment is damaged; these calls can no longer be read", "file", filepath.Base(g.path),
		"incarnation", fmt.Sprintf("%016x", g.log.incarnation), "seqs", lost.String())
}

// done takes a call out of the account.
func (s *Spool) done(l *callLog, seq uint64, p place) {
	s.segments[p.segment()].closed--
	s.stats.Depth--
	if p.state() == ended {
		s.unread--
	}
	delete(l.crashed, seq)
	l.calls.set(seq, newPlace(0, inLedger))
}

// Acknowledge says that the ledger has these events of an incarnation, for good. Run deletes the segments of which
// nothing else is wanted. Numbers of calls that have not ended mean nothing and are passed over.
func (s *Spool) Acknowledge(incarnation uint64, r Ranges) (fresh int) {
	s.mu.Lock()
	i := slices.IndexFunc(s.logs, func(l *callLog) bool { return l.incarnation == incarnation })
	if i < 0 || len(r) == 0 {
		s.mu.Unlock()
		return 0
	}
	l := s.logs[i]
	var blocks []uint64
	for no := range l.calls.blocks {
		blocks = append(blocks, no)
	}
	s.mu.Unlock()
	// A few blocks at a time, so that a long backlog does not hold up the calls that are being admitted.
	for some := range slices.Chunk(blocks, 16) {
		s.mu.Lock()
		for _, no := range some {
			l.calls.each(no, func(seq uint64, p place) {
				if (p.state() == ended || p.state() == sent) && r.Contains(seq) {
					s.done(l, seq, p)
					fresh++
				}
			})
		}
		s.mu.Unlock()
	}
	s.read.land(s)
	return fresh
}

// land forgets what is no longer on its way: the ledger has it, or it was carried to another segment.
func (o *outbox) land(s *Spool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	keep := o.flight[:0]
	for some := range slices.Chunk(o.flight, 1000) {
		s.mu.Lock()
		for _, f := range some {
			if f.g.log.calls.get(f.seq) == newPlace(f.g.id, sent) {
				keep = append(keep, f)
			}
		}
		s.mu.Unlock()
	}
	clear(o.flight[len(keep):])
	o.flight = keep
}

// posted says when a batch is due again: after a while if the queue took it, at once, with the zero time, if not.
func (s *Spool) posted(b *batch, due time.Time) {
	o := &s.read
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.flight {
		if o.flight[i].batch == b.no {
			o.flight[i].due = due
		}
	}
	o.nextDue = earlier(o.nextDue, due)
}

// resend makes all that is on its way due at once: the queue has lost it.
func (s *Spool) resend() (n int) {
	o := &s.read
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.flight {
		o.flight[i].due = time.Time{}
	}
	o.nextDue = time.Time{}
	return len(o.flight)
}

// waiting lists the incarnations with calls that were sent and not acknowledged, or never sent.
func (s *Spool) waiting() (incarnations []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		if slices.ContainsFunc(l.segments, func(g *segment) bool { return g.closed > 0 }) {
			incarnations = append(incarnations, l.incarnation)
		}
	}
	return incarnations
}

// inFlight counts what a queue has, and tells when the oldest of it ended.
func (o *outbox) inFlight() (n int, oldest time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.flight) == 0 {
		return 0, oldest
	}
	first := o.flight[0].ended
	for i := range o.flight {
		first = min(first, o.flight[i].ended)
	}
	return len(o.flight), time.UnixMicro(first)
}

// full tells whether no more may be on its way.
func (o *outbox) full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.flight) >= maxInFlight
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reader != nil {
		o.reader.close()
	}
	if o.again != nil {
		o.again.close()
	}
	o.reader, o.again = nil, nil
}

// unsent counts the calls that have ended and were not taken.
func (s *Spool) unsent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unread
}
