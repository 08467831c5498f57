package tenancy

import "time"

// unknowns remembers names that the store does not know, in two generations of at most half the limit each. A
// generation is full or old, becomes the previous one, and is then forgotten.
type unknowns[K comparable] struct {
	limit     int
	keep      time.Duration
	now, past map[K]struct{}
	since     time.Time // when now began
}

func (u *unknowns[K]) has(name K) bool {
	u.turn()
	_, ok := u.now[name]
	if !ok {
		_, ok = u.past[name]
	}
	return ok
}

func (u *unknowns[K]) add(name K) {
	u.turn()
	if u.now == nil {
		u.now = map[K]struct{}{}
	}
	u.now[name] = struct{}{}
}

func (u *unknowns[K]) turn() {
	age := time.Since(u.since)
	switch {
	case age > u.keep:
		u.now, u.past, u.since = nil, nil, time.Now()
	case age > u.keep/2 || len(u.now) >= max(u.limit/2, 1):
		u.now, u.past, u.since = nil, u.now, time.Now()
	}
}

func (u *unknowns[K]) clear() { u.now, u.past = nil, nil }

func (u *unknowns[K]) len() int { return len(u.now) + len(u.past) }
