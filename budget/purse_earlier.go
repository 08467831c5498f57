package budget

import (
	"maps"
	"slices"
)

// Earlier lists the incarnations of before, on this volume, that had leases and are not closed yet.
func (p *Purse) Earlier() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.earlier))
}
