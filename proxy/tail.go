package proxy

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Conversations tells whether a client's conversation had a call in the last day, whichever replica it went through.
type Conversations interface {
	Seen(ctx context.Context, client uuid.UUID, conversation string) (bool, error)
}

// tails remembers which conversations are open: those that had a call in the last day. When little of a budget is left,
// they may end in it and new ones are refused.
type tails struct{ open *recent[openConversation] }

type openConversation struct {
	at    time.Duration // of its last call
	calls int32         // made from what is left for the end
}

const (
	openFor = 24 * time.Hour
	// openKeys bounds the memory: of the newest 262 144 at the least half are there, at about 40 bytes each.
	openKeys = 262_144
)

func newTails() *tails { return &tails{newRecent[openConversation](openKeys, openFor)} }

// begin notes a call that had room as everybody has: the tail is whole again.
func (t *tails) begin(key uint64, now time.Duration) {
	s := t.open.lock(key, now)
	s.put(key, openConversation{at: now}, now)
	s.mu.Unlock()
}

// isOpen tells whether a conversation is known here to be open.
func (t *tails) isOpen(key uint64, now time.Duration) bool {
	s := t.open.lock(key, now)
	defer s.mu.Unlock()
	c, ok := s.get(key)
	return ok && now-c.at < openFor
}

// take takes one of the calls that an open conversation has for its end. What is not used is given back.
func (t *tails) take(key uint64, now time.Duration, most int) (ok bool) {
	s := t.open.lock(key, now)
	defer s.mu.Unlock()
	c, _ := s.get(key)
	if int(c.calls) >= most {
		return false
	}
	s.put(key, openConversation{now, c.calls + 1}, now)
	return true
}

func (t *tails) giveBack(key uint64, now time.Duration) {
	s := t.open.lock(key, now)
	defer s.mu.Unlock()
	if c, ok := s.get(key); ok && c.calls > 0 {
		c.calls--
		s.put(key, c, now)
	}
}
