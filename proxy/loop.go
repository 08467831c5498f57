package proxy

import (
	"time"

	"github.com/catraca/catraca/internal/money"
)

// loops counts what each conversation and each contact did in the last hour, so that two bots who answer each other are
// stopped. It knows what passed through this process: a loop goes over one connection far more often than not, and
// behind several replicas the bound is that many times as high.
type loops struct{ counts *recent[*loopCount] }

// The hour slides in steps: a call counts for 55 to 60 minutes.
const (
	loopStep  = 5 * time.Minute
	loopSteps = 12
)

// loopKeys bounds the memory: of the newest 65 536 at the least half are there, at about 200 bytes each.
const loopKeys = 65_536

// loopNames are what calls are counted for.
var loopNames = [...]string{"conversation", "contact"}

type loopCount struct {
	calls  [loopSteps]uint32
	brl    [loopSteps]money.Pico
	newest int64 // the number of the last step that was counted in, from the start of the process
}

func newLoops() *loops { return &loops{newRecent[*loopCount](loopKeys, time.Hour)} }

// take counts a call, unless as many were made or as much was spent as may be; then wait is how long until one may be
// made again. A bound of 0 is none.
func (l *loops) take(key uint64, now time.Duration, calls int64, brl money.Pico) (wait time.Duration, ok bool) {
	s := l.counts.lock(key, now)
	defer s.mu.Unlock()
	n, there := s.get(key)
	if !there {
		n = new(loopCount)
	}
	step := n.slide(now)
	if wait := n.waits(now, calls, brl); wait > 0 {
		return wait, false
	}
	n.calls[step]++
	s.put(key, n, now)
	return 0, true
}

// spend counts what a call cost.
func (l *loops) spend(key uint64, now time.Duration, brl money.Pico) {
	s := l.counts.lock(key, now)
	defer s.mu.Unlock()
	n, there := s.get(key)
	if !there {
		n = new(loopCount)
	}
	step := n.slide(now)
	if sum, fits := n.brl[step].Add(brl); fits {
		n.brl[step] = sum
	}
	s.put(key, n, now)
}

// slide empties the steps that have gone by and returns the one to count in.
func (n *loopCount) slide(now time.Duration) (step int) {
	number := int64(now / loopStep)
	if number-n.newest >= loopSteps {
		*n = loopCount{newest: number}
	}
	for n.newest < number {
		n.newest++
		n.calls[n.newest%loopSteps], n.brl[n.newest%loopSteps] = 0, 0
	}
	return int(n.newest % loopSteps)
}

// waits is how long it takes until enough has slid out for one more call; 0: there is room now.
func (n *loopCount) waits(now time.Duration, calls int64, brl money.Pico) time.Duration {
	var made int64
	var spent money.Pico
	for i := range n.calls {
		made += int64(n.calls[i])
		if sum, fits := spent.Add(n.brl[i]); fits {
			spent = sum
		}
	}
	over := func() bool { return calls > 0 && made >= calls || brl > 0 && spent >= brl }
	if !over() {
		return 0
	}
	for number := n.newest - loopSteps + 1; ; number++ {
		i := ((number % loopSteps) + loopSteps) % loopSteps
		made -= int64(n.calls[i])
		spent -= n.brl[i]
		if !over() || number == n.newest {
			return time.Duration(number+loopSteps)*loopStep - now
		}
	}
}
