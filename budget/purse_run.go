package budget

import (
	"context"
	"fmt"
	"time"
)

// How long things may take.
const (
	answerWithin = 2 * time.Second // then a message counts as lost, and is repeated
	leaveWithin  = 5 * time.Second // for calls to end and money to go back, once Run shall end
	hurryAfter   = 4 * time.Second // of it: then the last word is said though calls are open. Their money comes back when this run is closed
)

// Run keeps the leases: it asks for more in time, gives back what lies idle, closes earlier incarnations. When ctx ends
// it returns all that is not in use, until nothing is or a few seconds are over, and leaves.
func (p *Purse) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		in, ok := p.due()
		if !ok { // the authority has done with this incarnation
			<-ctx.Done()
			break
		}
		if in > 0 {
			timer := time.NewTimer(in)
			select {
			case <-timer.C:
			case <-p.nudge:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		p.exchange(ctx, answerWithin)
	}
	p.leave()
	began := time.Now()
	for !p.left() {
		spent := time.Since(began)
		if spent > leaveWithin {
			p.log.Warn("Leases could not be given back in time: the ledger did not answer. They come back when the next run of this proxy closes this one", "incarnation", p.o.Incarnation)
			break
		}
		if spent > hurryAfter {
			p.mu.Lock()
			p.hurry = true
			p.mu.Unlock()
		}
		in, ok := p.due()
		if !ok {
			break
		}
		if in > 0 {
			time.Sleep(min(in, 50*time.Millisecond))
			continue
		}
		p.exchange(ctx, leaveWithin-spent)
	}
	return nil
}

// exchange sends the next message, if there is one, and takes in the answer.
func (p *Purse) exchange(ctx context.Context, within time.Duration) {
	a, ok := p.next()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(within, 100*time.Millisecond))
	defer cancel()
	r, err := p.o.Lender.Lease(ctx, a)
	if err == nil && r.Op != a.Op {
		err = fmt.Errorf("the answer is to message %d, not %d", r.Op, a.Op)
	}
	if err != nil {
		p.failed(err)
		return
	}
	p.replied(r)
}
