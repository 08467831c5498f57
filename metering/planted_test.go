package metering

import (
	"testing"

	"github.com/catraca/catraca/internal/defect"
)

// TestPlantedDefects plants mistakes in spool, shipper and worker that would lose, double or falsify usage: the simulation
// finds each.
func TestPlantedDefects(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the package once for each defect")
	}
	var planted []defect.Planted
	for _, p := range plantedDefects {
		planted = append(planted, defect.Planted{Name: p.name, File: p.file, Old: p.old, New: p.new, Why: p.why})
	}
	defect.Check(t, ".", defect.Options{
		Run: "^TestSimulation$", Args: []string{"-seeds", "1200"},
		Without: []string{"audit*_test.go", "c*_test.go", "d*_test.go", "e*_test.go", "f*_test.go", "h*_test.go", "l*_test.go", "p*_test.go", "r*_test.go", "sp*_test.go", "sq*_test.go", "st*_test.go", "u*_test.go"},
	}, planted)
}

var plantedDefects = []struct{ name, file, old, new, why string }{
	{"acknowledge before commit", "worker.go", "	c.record(ctx, fine)\n", "	for _, a := range fine {\n		a.settled = true\n	}\n	c.record(ctx, fine)\n", "the queue forgets what the ledger does not have"},
	{"segment deleted when sent", "outbox.go", "	g.log.calls.set(r.seq, newPlace(g.id, sent))\n	s.unread--\n", "	s.done(g.log, r.seq, newPlace(g.id, ended))\n", "what the queue loses is lost"},
	{"CLOSE skipped", "spool.go", "	if err := s.append(*buf, recordClose); err != nil {", "	if err := error(nil); err != nil {", "a call that ended is charged as one that was cut"},
	{"incarnation used again", "spool.go", "	s.live = &callLog{incarnation: o.incarnation()}\n", "	s.live = &callLog{incarnation: o.incarnation()}\n	if len(s.logs) > 0 {\n		s.live.incarnation = s.logs[0].incarnation\n	}\n", "a new call is dropped as a repeat of an old one"},
	{"sequence with gaps", "spool.go", "	e.Seq = s.next\n	s.next++\n", "	e.Seq = s.next\n	s.next += 1 + s.next%7/6\n", "a gap no longer means a loss"},
	{"refused call keeps its number", "spool.go", "	e.Seq = s.next\n	s.next++\n", "	e.Seq = s.next\n	if s.stats.Open > 3 {\n		s.next++\n	}\n", "two calls share an identity"},
	{"failed batch taken for sent", "ship.go", "		h.spool.posted(&h.batch, time.Time{})\n", "		h.spool.posted(&h.batch, never)\n", "what a broken connection swallowed is never sent again"},
	{"done before record", "worker.go", "	c.record(ctx, fine)\n\n	c.held = nil\n", "	if err := c.consumer.Done(ctx, c.shard, ds); err != nil {\n		return err\n	}\n	c.record(ctx, fine)\n\n	c.held = nil\n", "a crash between loses the batch"},
	{"bisect settles all", "worker.go", "	if len(batch) == 1 {\n		c.failed(ctx, batch[0], err)\n		return\n	}\n", "	if len(batch) == 1 {\n		c.failed(ctx, batch[0], err)\n		return\n	}\n	for _, a := range batch {\n		a.settled = true\n	}\n", "one poisoned event takes its neighbours along"},
	{"received from memory", "worker.go", "		r, err := c.ledger.Received(ctx, incarnation)\n", "		r, err := Ranges{{1, 1000}}, error(nil)\n", "spools let go of what the ledger does not have"},
	{"PROGRESS ignored", "recover.go", "	l.crashed[r.seq] = r.at\n	l.calls.set(r.seq, newPlace(g.id, ongoing))\n	g.open++\n", "	if was.state() == ongoing {\n		s.segments[was.segment()].open++\n		return\n	}\n	l.crashed[r.seq] = r.at\n	l.calls.set(r.seq, newPlace(g.id, ongoing))\n	g.open++\n", "a long stream that is cut costs nothing"},
	{"PROGRESS not written", "spool.go", "	if err := s.append(*buf, recordProgress); err != nil {", "	if s.next > 0 {\n		return\n	}\n	if err := s.append(*buf, recordProgress); err != nil {", "a long stream that is cut costs nothing"},
	{"torn record accepted", "segment.go", "	if binary.LittleEndian.Uint32(b[4:]) != g.checksum(b[8:], at) {\n		return r, false\n	}\n", "", "half a record is charged as a whole one"},
	{"no room kept for CLOSE", "spool.go", "s.makeRoom(len(b), s.stats.Open+1)", "s.makeRoom(len(b), 0)", "the end of a call finds no room"},
	{"carry drops open calls", "upkeep.go", "	if was == ongoing {\n		g.open--\n", "	if was == ongoing && s.stats.Open < 0 {\n		g.open--\n", "an open call is taken for one that ended"},
	{"carry forgets open calls", "upkeep.go", "p.state() == ongoing || withEnded", "p.state() == ending || withEnded", "an open call stays on pages that never reach the disk"},
	{"sync error believed", "upkeep.go", "		err := d.f.Sync()\n", "		err := d.f.Sync()\n		if err != nil {\n			err = d.f.Sync()\n		}\n", "a power loss takes what a sync had promised"},
	{"deleted before its heirs are durable", "upkeep.go", "g.closed == 0 && g.heirs <= durable", "g.closed == 0", "a power loss takes a call that a sync had covered"},
	{"earlier process left unsynced", "upkeep.go", "	for _, g := range old {", "	for _, g := range old[:0] {", "a power loss after a crash takes what is older than a sync"},
	{"directory never synced", "upkeep.go", "	if newNames {\n", "	if newNames && s.writes == 0 {\n", "a power loss takes whole segments"},
	{"never sent again", "outbox.go", "	if now.Before(o.nextDue) {\n		return\n	}\n", "	if now.Before(o.nextDue) || s != nil {\n		return\n	}\n", "what a queue lost is lost"},
	{"patience without end, generation ignored", "ship.go", "	h.spool.posted(&h.batch, now.Add(h.patience))\n", "	h.spool.posted(&h.batch, never)\n	h.generation = \"\"\n", "what a queue lost is lost"},
	{"poison dropped", "worker.go", "	if err := c.ledger.DeadLetter(ctx, a.Payload, a.event, why.Error()); err != nil {", "	if err := error(nil); err != nil {", "a call vanishes"},
	{"pending not handed out again", "worker.go", "	if len(done) == 0 {\n		return nil\n	}\n", "	c.held = nil\n	if len(done) == 0 {\n		return nil\n	}\n	for _, a := range batch {\n		done = append(done, a.Delivery)\n	}\n", "what failed is taken off the queue"},
	{"crash priced by chance", "recover.go", "	e.Total = e.Input + e.Output\n	if price", "	e.Total = e.Input + e.Output + int64(uintptr(len(e.RequestID))) + e.AdmittedAt.Unix()%2\n	if price", "the same call has two prices"},
	{"lock not taken", "spool.go", "	lock, err := o.disk.lock(o.Dir)\n	if err != nil {\n		return nil, err\n	}\n", "	lock, _ := o.disk.lock(o.Dir)\n", "two processes delete each other's segments"},
	{"late CLOSE forgotten", "upkeep.go", "	for len(s.late) > 0 {\n", "	s.late = nil\n	for len(s.late) > 0 {\n", "a call never ends"},
	{"acknowledged by another's numbers", "outbox.go", "func(l *callLog) bool { return l.incarnation == incarnation }", "func(l *callLog) bool { return l == s.live }", "one process's progress lets go of another's calls"},
}
