package budget

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// An incarnation that has leases has a file on the spool's volume, from before its first message until the authority has
// closed it. The file says nothing but which incarnation it is: what there is to tell is in the spool.
const leaseFile = ".lease"

func leaseText(incarnation uint64) string {
	return fmt.Sprintf("catraca leases 1 %016x\n", incarnation)
}

func (p *Purse) leasePath(incarnation uint64) string {
	return filepath.Join(p.o.Dir, fmt.Sprintf("%016x%s", incarnation, leaseFile))
}

// listEarlier are the incarnations of before that have a file.
func (p *Purse) listEarlier() (map[uint64]bool, error) {
	earlier := map[uint64]bool{}
	if p.o.Dir == "" {
		return earlier, nil
	}
	if err := os.MkdirAll(p.o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory that remembers leases: %w", err)
	}
	entries, err := os.ReadDir(p.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("the directory that remembers leases: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), leaseTemp) && !e.IsDir() { // of a run that ended while it wrote it
			if err := os.Remove(filepath.Join(p.o.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				p.log.Warn("A half-written file cannot be removed", "file", e.Name(), "error", err)
			}
			continue
		}
		incarnation, err := p.readLease(e)
		if err != nil {
			p.log.Warn("A file among those that remember leases is damaged or not ours, and is left alone. If it was ours, what its run had not spent stays held until an operator releases it",
				"dir", p.o.Dir, "file", e.Name(), "error", err)
			continue
		}
		if incarnation != p.o.Incarnation {
			earlier[incarnation] = true
		}
	}
	return earlier, nil
}

const leaseTemp = ".writing-"

func (p *Purse) readLease(e fs.DirEntry) (uint64, error) {
	hex, ok := strings.CutSuffix(e.Name(), leaseFile)
	if !ok || !e.Type().IsRegular() {
		return 0, errors.New("its name is not that of a lease file")
	}
	incarnation, err := strconv.ParseUint(hex, 16, 64)
	if err != nil || len(hex) != 16 {
		return 0, errors.New("its name is not an incarnation")
	}
	b, err := os.ReadFile(filepath.Join(p.o.Dir, e.Name()))
	if err != nil {
		return 0, err
	}
	if string(b) != leaseText(incarnation) {
		return 0, errors.New("its text is not what was written")
	}
	return incarnation, nil
}

// note makes this incarnation's file, whole and on the disk before it returns.
func (p *Purse) note() error {
	if p.o.Dir == "" {
		return nil
	}
	temp, err := os.CreateTemp(p.o.Dir, leaseTemp)
	if err != nil {
		return err
	}
	_, err = temp.WriteString(leaseText(p.o.Incarnation))
	if err == nil {
		err = temp.Sync()
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), p.leasePath(p.o.Incarnation))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	dir, err := os.Open(p.o.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// forget removes the file of an incarnation that the authority has closed.
func (p *Purse) forget(incarnation uint64) {
	for _, c := range p.under.Close {
		if c.Incarnation == incarnation {
			p.closed[incarnation] = c
		}
	}
	delete(p.again, incarnation)
	p.closable = slices.DeleteFunc(p.closable, func(c Close) bool { return c.Incarnation == incarnation })
	if !p.earlier[incarnation] {
		return
	}
	delete(p.earlier, incarnation)
	// Left behind by a crash it does no harm: closing what is closed is answered in the same way.
	if err := os.Remove(p.leasePath(incarnation)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("The file of a run whose leases were closed cannot be removed; it will be closed again after the next start", "incarnation", incarnation, "error", err)
	}
}

// Earlier lists the incarnations of before, on this volume, that had leases and are not closed yet.
func (p *Purse) Earlier() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.earlier))
}
