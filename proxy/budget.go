package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/openai"
)

// Budgets knows what clients may still spend. It answers from memory but for clients that it has not served yet; nil is
// for a client that has neither budgets nor a policy.
type Budgets interface {
	Account(ctx context.Context, client uuid.UUID) (*budget.Account, error)
}

// stake is what a call has to do with the budgets of its client. It is zero where there are none.
type stake struct {
	account *budget.Account
	policy  *budget.Policy

	// What a hard budget counts, as it was when the call was admitted.
	countsTokens, countsMoney bool
	background                bool // the answer is made after the call has ended

	worst    budget.Cost // the most that the call can cost, and what is held for it
	output   int64       // tokens of output that are held for, all choices together
	most     int64       // the limit of one choice that makes it so; 0: the endpoint has none
	outPrice money.Pico  // of a token more
	sends    bool        // most is sent with a request that sets no limit
	fitted   bool        // most is lower than what was asked for, so it is sent in any case
	kept     bool        // there is room, but it is kept for conversations that are open

	hold     budget.Hold
	held     bool // and not settled yet
	parts    [budget.MaxHolds]metering.Hold
	standing budget.Standing // of the tightest budget, when the call was admitted
	stands   bool
	limited  budget.Action // what was done at the limit; empty: it was not reached
	nextTry  int64         // tokens of output from which on more may be asked for, once there was no more
	loops    [2]uint64     // where the call is counted by the loop breaker; 0: nowhere
}

// hold holds money for the worst that the call can cost, or does what the client's policy says where there is not enough.
// answered says that the client has an answer of ours, and nothing goes upstream.
func (c *call) hold() (answered bool, err error) {
	if c.p.Budgets == nil || !c.who.Budgets || c.ep.body == noBody {
		return false, nil
	}
	s := &c.stake
	if s.account, err = c.p.Budgets.Account(context.Background(), c.who.ClientID); err != nil || s.account == nil {
		c.countUnavailable(err)
		return false, err
	}
	s.policy = s.account.Policy()
	s.background = c.req.Background && c.ep.kind == openai.Responses
	c.rate = c.p.Prices.Rate()
	if err := c.breakLoop(); err != nil {
		return false, err
	}
	if err = c.holdAsAimed(); err == nil {
		return false, nil
	}
	if denied := asDenied(err); denied != nil {
		return c.atLimit(denied)
	}
	c.countUnavailable(err)
	return false, err
}

// counts tells what a hard budget counts, now.
func (s *stake) counts() (tokens, money bool) {
	return s.account.Counts(budget.Tokens), s.account.Counts(budget.BRL) || s.account.Counts(budget.USD)
}

func (c *call) countUnavailable(err error) {
	if errors.Is(err, budget.ErrUnavailable) {
		c.p.metrics.budgets.unavailable.Inc()
	}
}

// holdAsAimed holds for the model that the call is aimed at. Where the policy keeps a tail for open conversations, others
// must leave it over.
func (c *call) holdAsAimed() error {
	s := &c.stake
	for try := 0; ; try++ {
		s.countsTokens, s.countsMoney = s.counts()
		if err := c.worstCase(); err != nil {
			return err
		}
		err := c.holdWorst()
		tokens, money := s.counts()
		if err != nil || (s.countsTokens || !tokens) && (s.countsMoney || !money) {
			return err
		}
		// The ledger told of a budget only when it was asked: nothing is held in its unit.
		c.letGo()
		if try == 2 {
			return budget.ErrUnavailable
		}
	}
}

// holdWorst holds for the worst case, from what is for everybody or from what is kept for open conversations.
func (c *call) holdWorst() error {
	policy := c.stake.policy
	if policy.TailCalls <= 0 {
		return c.reserve(0)
	}
	leave := policy.TailPercent
	if leave == 0 {
		leave = defaultTailPercent
	}
	err := c.reserve(leave)
	key := keyOf(c.p.seed, c.who.ClientID, aConversation, unsafeString(c.head.conversation))
	now := c.sinceBirth()
	if err == nil {
		if key != 0 {
			c.p.tails.begin(key, now)
		}
		return nil
	}
	if d := asDenied(err); d == nil || d.Paused || !c.tailHasRoom() {
		return err
	}
	c.stake.kept = true
	if key == 0 || !c.isOpen(key, now) || !c.p.tails.take(key, now, policy.TailCalls) {
		return err
	}
	if err := c.reserve(0); err != nil {
		c.p.tails.giveBack(key, now)
		return err
	}
	c.p.metrics.budgets.limits[limitTail].Inc()
	return nil
}

const defaultTailPercent = 5

// tailHasRoom tells whether the call would fit if nothing had to be left over: else there is no need to find out whether
// its conversation is open.
func (c *call) tailHasRoom() bool {
	s := &c.stake
	room, w := s.account.Room(context.Background(), 0), &s.worst
	if w.Tokens <= room.Tokens && (w.Unpriced || w.BRL <= room.BRL && w.USD <= room.USD) {
		return true
	}
	if !c.mayFit() {
		return false
	}
	worst, output, most := s.worst, s.output, s.most
	ok := c.fit(room)
	s.worst, s.output, s.most, s.fitted = worst, output, most, false
	return ok
}

// isOpen tells whether the conversation had a call in the last day: here, or at another replica.
func (c *call) isOpen(key uint64, now time.Duration) bool {
	if c.p.tails.isOpen(key, now) {
		return true
	}
	if c.p.Conversations == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), askConversation)
	defer cancel()
	seen, err := c.p.Conversations.Seen(ctx, c.who.ClientID, unsafeString(c.head.conversation))
	return err == nil && seen
}

// askConversation bounds the question whether a conversation is open. Without an answer it counts as new.
const askConversation = time.Second

// reserve holds the worst case, or a lower one where the policy has the output lowered to what fits.
func (c *call) reserve(leave int) error {
	s := &c.stake
	err := s.account.Reserve(context.Background(), s.worst, leave, &s.hold)
	if err != nil && c.mayFit() {
		err = c.reserveFitted(err, leave)
	}
	if err != nil {
		return err
	}
	s.held = true
	s.standing, s.stands = s.hold.Tightest()
	return nil
}

// mayFit tells whether the output may be lowered: not that of a model that thinks before it answers, which would be paid
// for no answer at all.
func (c *call) mayFit() bool {
	s := &c.stake
	return s.policy.FitOutput && s.most > 0 && !(c.model != nil && c.model.Capabilities["reasoning"])
}

func (c *call) reserveFitted(denied error, leave int) error {
	s := &c.stake
	if d := asDenied(denied); d == nil || d.Paused {
		return denied
	}
	worst, output, most := s.worst, s.output, s.most
	if c.fit(s.account.Room(context.Background(), leave)) {
		err := s.account.Reserve(context.Background(), s.worst, leave, &s.hold)
		if err == nil {
			c.p.metrics.budgets.limits[limitFit].Inc()
			return nil
		}
	}
	s.worst, s.output, s.most, s.fitted = worst, output, most, false
	return denied
}

// limitOutput adds to the edits what makes the upstream keep to the output that is held for.
func (c *call) limitOutput(edits []openai.Edit) []openai.Edit {
	s := &c.stake
	if s.most <= 0 {
		return edits
	}
	field := ""
	if s.fitted || s.sends {
		provider := c.target.Provider
		if c.model != nil {
			provider = c.model.Provider
		}
		field = openai.OutputField(c.ep.kind, provider, c.target.Route == "gateway")
	}
	return c.req.LimitOutput(c.ep.kind, field, s.most, edits)
}

// heldParts are the holds as the ledger will know them.
func (c *call) heldParts() []metering.Hold {
	s := &c.stake
	parts := s.hold.Parts()
	for i, p := range parts {
		s.parts[i] = metering.Hold{Window: p.Window, Amount: p.Amount}
	}
	return s.parts[:len(parts)]
}

// doubtful tells whether more may have been used than the event says: the call was cut short after some of it had been
// sent, and the upstream's own figure is not known. What is left of the hold then stays held.
func (c *call) doubtful(outcome metering.Outcome) bool {
	e, s := &c.event, &c.stake
	switch {
	case len(e.Holds) == 0:
		return false
	case s.countsMoney && !e.Known:
		return true // it has a cost, and nobody can say which
	case s.background && outcome == metering.OK && e.Source != metering.Measured:
		return true // it has only begun
	case s.policy.AcceptEstimates, e.Source == metering.Measured, outcome == metering.OK, outcome == metering.Refused:
		return false
	}
	// An upstream that answered with an error, or sent us elsewhere, did nothing that it would bill.
	return c.x.Sent && e.Status < 300
}

// settleHold ends the hold with what the event says.
func (c *call) settleHold() {
	s, e := &c.stake, &c.event
	if e.Known && e.BRL > 0 {
		for _, key := range s.loops {
			if key != 0 {
				c.p.loops.spend(key, c.sinceBirth(), e.BRL)
			}
		}
	}
	if s.held {
		s.held = false
		s.hold.Settle(budget.Cost{Tokens: e.Total, BRL: e.BRL, USD: e.USD, Unpriced: !e.Known}, e.Doubt)
	}
}

// letGo gives back what was held for a call that nothing became of.
func (c *call) letGo() {
	if c.stake.held {
		c.stake.held = false
		c.stake.hold.Release()
	}
}

// sinceBirth is the time of the call on a clock that nobody sets.
func (c *call) sinceBirth() time.Duration { return c.start.Sub(c.p.born) }

// standingHeaders tell how the client's budgets stood when the call was admitted.
func (c *call) standingHeaders(h *fasthttp.ResponseHeader) {
	s := &c.stake
	if s.stands {
		standingHeaders(h, &s.standing)
	}
	if s.limited != "" {
		h.SetCanonical(headerLimit, []byte(s.limited))
	}
}
