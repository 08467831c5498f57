package proxy

import (
	"hash/maphash"
	"strconv"
	"testing"
	"time"

	"github.com/catraca/catraca/internal/money"
)

func TestLoopCountsCalls(t *testing.T) {
	l := newLoops()
	const bound = 3
	now := 7 * time.Hour
	for i := range bound {
		if wait, ok := l.take(1, now, bound, 0); !ok {
			t.Fatalf("call %d was refused for %v", i, wait)
		}
		now += 2 * time.Minute
	}
	wait, ok := l.take(1, now, bound, 0)
	if ok || wait <= 0 || wait > time.Hour {
		t.Fatalf("after %d calls: %t, wait %v", bound, ok, wait)
	}
	if _, ok := l.take(2, now, bound, 0); !ok {
		t.Error("another conversation is refused for it")
	}
	if _, ok := l.take(1, now+wait-time.Second, bound, 0); ok {
		t.Error("let through before its time")
	}
	if wait, ok := l.take(1, now+wait, bound, 0); !ok {
		t.Errorf("not let through when it was said that it would be: %v more", wait)
	}
	if _, ok := l.take(1, now+10*time.Hour, bound, 0); !ok {
		t.Error("not let through long after")
	}
}

// What a call counts for, it counts for 55 to 60 minutes, whenever in a step it was made.
func TestLoopSlides(t *testing.T) {
	for _, at := range []time.Duration{0, time.Second, loopStep - 1, loopStep, 3*time.Hour + 17*time.Minute} {
		l := newLoops()
		if _, ok := l.take(1, at, 1, 0); !ok {
			t.Fatal("the first call was refused")
		}
		for after := time.Duration(0); after <= 2*time.Hour; after += 30 * time.Second {
			_, ok := l.take(1, at+after, 1, 0)
			if early, late := ok && after < 55*time.Minute, !ok && after >= time.Hour; early || late {
				t.Fatalf("made at %v, asked %v later: %t", at, after, ok)
			}
			if ok {
				break
			}
		}
	}
}

func TestLoopCountsMoney(t *testing.T) {
	l := newLoops()
	now := time.Minute
	for range 4 {
		if _, ok := l.take(1, now, 0, money.Unit); !ok {
			t.Fatal("refused with money left")
		}
		l.spend(1, now, money.Unit/4)
		now += 6 * time.Minute
	}
	wait, ok := l.take(1, now, 0, money.Unit)
	if ok {
		t.Fatal("let through with nothing left")
	}
	if _, ok := l.take(1, now+wait, 0, money.Unit); !ok {
		t.Error("not let through when the first quarter had slid out")
	}
	// A sum that does not fit stops counting, and does not turn around.
	l.spend(1, now+wait, 1<<62)
	l.spend(1, now+wait, 1<<62)
	if _, ok := l.take(1, now+wait, 0, money.Unit); ok {
		t.Error("let through after more money than fits")
	}
}

// Memory stays within its bound, and the newest are remembered.
func TestRecentIsBounded(t *testing.T) {
	r := newRecent[int](1600, time.Hour)
	seed := maphash.MakeSeed()
	key := func(i int) uint64 { return keyOf(seed, clientID(1), aConversation, strconv.Itoa(i)) }
	put := func(k uint64, v int, now time.Duration) {
		s := r.lock(k, now)
		s.put(k, v, now)
		s.mu.Unlock()
	}
	has := func(k uint64, now time.Duration) bool {
		s := r.lock(k, now)
		defer s.mu.Unlock()
		_, ok := s.get(k)
		return ok
	}
	for i := range 100_000 {
		put(key(i), i, time.Minute)
	}
	kept := 0
	for i := range r.shards {
		kept += len(r.shards[i].young) + len(r.shards[i].old)
	}
	if kept > 1600 || kept < 800 {
		t.Errorf("%d of at most 1600 are kept", kept)
	}
	for i := 100_000 - 300; i < 100_000; i++ {
		if !has(key(i), time.Minute) {
			t.Fatalf("%d of 100000 is forgotten", i)
		}
	}
	if k := key(99_999); has(k, 4*time.Hour) && has(k, 8*time.Hour) {
		t.Error("nothing is ever forgotten")
	}
	if keyOf(seed, clientID(1), aConversation, "") != 0 {
		t.Error("a call without a conversation has a key")
	}
	if keyOf(seed, clientID(1), aConversation, "a") == keyOf(seed, clientID(2), aConversation, "a") ||
		keyOf(seed, clientID(1), aConversation, "a") == keyOf(seed, clientID(1), aContact, "a") {
		t.Error("two clients, or a conversation and a contact, share a key")
	}
}

func TestTails(t *testing.T) {
	tl := newTails()
	now := time.Hour
	if tl.isOpen(1, now) {
		t.Error("what never was is open")
	}
	tl.begin(1, now)
	if !tl.isOpen(1, now+openFor-time.Second) || tl.isOpen(1, now+openFor) {
		t.Error("a conversation is open for a day and no longer")
	}
	for i := range 2 {
		if !tl.take(1, now, 2) {
			t.Errorf("call %d of the tail was refused", i)
		}
	}
	if tl.take(1, now, 2) {
		t.Error("a third call of two")
	}
	tl.giveBack(1, now)
	if !tl.take(1, now, 2) || tl.take(1, now, 2) {
		t.Error("what was given back can be taken once")
	}
	tl.begin(1, now)
	if !tl.take(1, now, 1) {
		t.Error("a call that had room did not make the tail whole")
	}
}
