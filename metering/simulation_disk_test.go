package metering

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// simDisk is a proxy's volume: what the page cache shows, and what a power loss would leave of it.
type simDisk struct {
	s       *sim
	files   map[string]*simFile
	unnamed map[string]*simFile // deleted, and back after a power loss unless the directory was synced
	holder  *simView            // of the lock
	full    bool                // by others
	ill     float64             // how many writes and syncs fail
	faults  int                 // of syncs
}

type simFile struct {
	shown []byte
	kept  []byte // on the platter
	dirty []simWrite
	named bool // durably
}

type simWrite struct {
	at int64
	b  []byte
}

// simDiskOf is the disk as one process has it, until it dies.
type simDiskOf struct {
	*simDisk
	v *simView
	p *simProxy
}

func (d simDiskOf) lock(string) (io.Closer, error) {
	d.v.point("lock")
	if d.holder != nil && !d.holder.dead() {
		return nil, errors.New("locked")
	}
	d.holder = d.v
	return simLock(d), nil
}

type simLock simDiskOf

func (l simLock) Close() error {
	if l.holder == l.v {
		l.holder = nil
	}
	return nil
}

func (d simDiskOf) list(string) (all []listed, err error) {
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[path]
		all = append(all, listed{filepath.Base(path), int64(len(f.shown)), d.s.now, true})
	}
	return all, nil
}

func (d simDiskOf) create(path string, size int64) (segmentFile, error) {
	d.v.point("before create")
	if d.full {
		return nil, syscall.ENOSPC
	}
	if d.s.chance(d.ill) {
		return nil, syscall.EIO
	}
	if d.files[path] != nil {
		d.s.failf("segment %s was made twice", path)
	}
	f := &simFile{shown: make([]byte, size), kept: make([]byte, size)}
	d.files[path] = f
	d.v.point("after create")
	return &simOpen{d, path, f}, nil
}

func (d simDiskOf) open(path string) (readFile, error) {
	f := d.files[path]
	if f == nil {
		return nil, os.ErrNotExist
	}
	return simRead{f}, nil
}

type simRead struct{ f *simFile }

func (simRead) Close() error { return nil }
func (r simRead) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(r.f.shown)) {
		return 0, io.EOF
	}
	n := copy(b, r.f.shown[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (d simDiskOf) remove(path string) error {
	d.v.point("before delete")
	f := d.files[path]
	if f == nil {
		return os.ErrNotExist
	}
	d.s.mayGo(d.p, path)
	d.s.tracef("deletes %s", path)
	delete(d.files, path)
	if f.named {
		d.unnamed[path] = f
	}
	d.v.point("after delete")
	return nil
}

func (d simDiskOf) rename(from, to string) error {
	d.v.point("before rename")
	d.s.mayGo(d.p, from)
	d.s.tracef("renames %s", from)
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

func (d simDiskOf) syncNames(string) error {
	d.v.point("before directory sync")
	if d.s.chance(d.ill) {
		d.faults++
		return syscall.EIO
	}
	for _, f := range d.files {
		f.named = true
	}
	clear(d.unnamed)
	d.v.point("after directory sync")
	return nil
}

func (d simDiskOf) sync(path string) error {
	f := d.files[path]
	if f == nil {
		return os.ErrNotExist
	}
	return (&simOpen{d, path, f}).Sync()
}

func (d simDiskOf) free(string) (int64, error) {
	if d.full {
		return 0, nil
	}
	return 1 << 40, nil
}

// simOpen is a segment that is written to.
type simOpen struct {
	d    simDiskOf
	path string
	f    *simFile
}

func (o *simOpen) Close() error { return nil }

func (o *simOpen) WriteAt(b []byte, at int64) (int, error) {
	o.d.v.point("before write")
	n, err := len(b), error(nil)
	if o.d.s.chance(o.d.ill) {
		n, err = o.d.s.r.IntN(3)*len(b)/2, syscall.EIO
	} else if o.d.s.chance(0.001) && !o.d.s.quiet {
		n = o.d.s.r.IntN(len(b)) // a kill in the middle of it
		defer o.d.v.die("in a write", false)
	}
	copy(o.f.shown[at:], b[:n])
	o.f.dirty = append(o.f.dirty, simWrite{at, slices.Clone(b[:n])})
	if at > 0 {
		o.d.s.wrote(o.d.p, o.path, b, n == len(b), err)
	}
	if err == nil {
		o.d.v.point("after write")
	}
	return n, err
}

func (o *simOpen) Sync() error {
	o.d.v.point("before sync")
	if o.d.s.chance(o.d.ill) {
		o.d.s.tracef("%s does not sync", o.path)
		o.d.faults++
		o.f.dirty = nil // clean, says the kernel, and nothing of it is on the platter
		o.d.p.forget(func(w simVersion) bool { return w.path == o.path })
		return syscall.EIO
	}
	for _, w := range o.f.dirty {
		copy(o.f.kept[w.at:], w.b)
	}
	o.f.dirty = nil
	o.d.v.point("after sync")
	return nil
}

// loses is a power loss: of what was not synced, all, some or nothing is on the platter.
func (d *simDisk) loses() {
	r := d.s.r
	how := r.IntN(4)
	for _, path := range slices.Sorted(maps.Keys(d.unnamed)) {
		if r.IntN(2) == 0 && d.files[path] == nil {
			d.files[path] = d.unnamed[path]
		}
	}
	clear(d.unnamed)
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[path]
		if !f.named && (how == 0 || r.IntN(2) == 0) {
			delete(d.files, path)
			continue
		}
		for _, w := range f.dirty {
			const sector = 512
			for from := int64(0); from < int64(len(w.b)); {
				to := min(from+sector-(w.at+from)%sector, int64(len(w.b)))
				if how == 1 || how > 1 && r.IntN(4) > 0 {
					copy(f.kept[w.at+from:], w.b[from:to])
				} else if how == 2 {
					break
				}
				from = to
			}
		}
		f.shown, f.dirty, f.named = slices.Clone(f.kept), nil, true
	}
}

func (d *simDisk) segments() (names []string) {
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		if strings.HasSuffix(path, segmentSuffix) {
			names = append(names, path)
		}
	}
	return names
}

// mayGo checks that nothing is lost with a segment.
func (s *sim) mayGo(p *simProxy, path string) {
	for _, c := range s.at[path] {
		if known := c.orphan && c.also != path && p.disk.files[c.also] != nil; c.path == path && !known && !s.ledger.has(c.id) && !c.powered {
			s.failf("%s deletes %s, the last that knows of call %v, which is not in the ledger", p.name, filepath.Base(path), c)
		}
	}
	delete(s.at, path)
}

// wrote notes a record that went to a segment: all of it, or a part.
func (s *sim) wrote(p *simProxy, path string, b []byte, whole bool, err error) {
	var e Event
	if e.Decode(b[recordHeader:]) != nil {
		s.failf("%s wrote what is no event", p.name)
	}
	id := simID{e.Incarnation, e.Seq}
	c := s.calls[id]
	if p.opening != nil && (c == nil || c.key != e.RequestID) {
		if c != nil {
			s.failf("identity %v is used for two calls", id)
		}
		if !whole || err != nil {
			s.phantoms[id] = append(s.phantoms[id], e)
			return
		}
		c = p.opening
		c.id = id
		c.opened(s, p)
	}
	if c == nil {
		if _, known := s.phantoms[id]; known {
			return
		}
		s.failf("a record of call %v, which is none", id)
	}
	version := slices.IndexFunc(c.versions, func(v Event) bool { return sameEvent(v, e) })
	if version < 0 {
		s.failf("a record of call %v that says what no caller said: %+v", c, e)
	}
	c.hi = max(c.hi, version)
	s.tracef("%s: version %d of %v to %s: whole %v, %v", p.name, version, c, filepath.Base(path), whole, err)
	if whole && err != nil {
		c.also = path
	}
	if whole && err == nil {
		if version < c.safe {
			s.failf("call %v goes back from version %d to %d", c, c.safe, version)
		}
		c.safe, c.path = version, path
		s.at[path] = append(s.at[path], c)
		p.written = append(p.written, simVersion{c, version, path})
	}
}

type simVersion struct {
	c       *simCall
	version int
	path    string
}

func (id simID) String() string { return fmt.Sprintf("%x/%d", id.incarnation, id.seq) }
