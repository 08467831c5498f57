package proxy

import (
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/proxy/openai"
)

// atLimit does what the client's policy says for a call that does not fit.
func (c *call) atLimit(denied *budget.Denied) (answered bool, err error) {
	limits := &c.p.metrics.budgets.limits
	action := c.stake.policy.AtLimit
	switch {
	case denied.Paused:
		limits[limitPaused].Inc()
		return false, denied
	case action == budget.Downgrade:
		switch err := c.downgrade(); {
		case err == nil:
			c.stake.limited = budget.Downgrade
			limits[limitDowngrade].Inc()
			return false, nil
		case asDenied(err) != nil:
			denied = asDenied(err) // of the cheaper model: what a client must have is that much
		}
	case action == budget.Answer && openai.CanAnswer(c.ep.kind) && !c.req.WantsJSON:
		limits[limitAnswer].Inc()
		c.answer(denied, budget.Answer, answerText(c.stake.policy))
		return true, nil
	case action == budget.Handoff && openai.CanAnswer(c.ep.kind):
		limits[limitHandoff].Inc()
		c.answer(denied, budget.Handoff, "")
		return true, nil
	}
	limits[limitBlock].Inc()
	r := overBudget(denied)
	if c.stake.kept {
		r.body.Message += "; what is left is kept for conversations that are under way"
	}
	return false, r
}

func answerText(p *budget.Policy) string {
	if p.AnswerText != "" {
		return p.AnswerText
	}
	return "Desculpe, não consigo responder agora. Por favor, tente de novo mais tarde."
}

// answer gives the client an answer of ours, as the model would: whole, or as a stream.
func (c *call) answer(denied *budget.Denied, as budget.Action, text string) {
	model := c.req.Model
	if model == "" {
		model = c.send
	}
	reply := openai.Reply{
		ID: openai.ReplyID(c.ep.kind, strings.TrimPrefix(c.requestID(), "req_")), Model: model, Created: c.start.Unix(),
		Text: text, Choices: c.req.Worst(c.ep.kind, new(openai.Limits)).Choices, Previous: c.req.PreviousResponse,
	}
	resp := &c.ctx.Response
	h := &resp.Header
	h.SetStatusCode(fasthttp.StatusOK)
	if c.req.Stream {
		h.SetContentType("text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		resp.SetBody(reply.AppendStream(nil, c.ep.kind, c.req.WantsUsage))
	} else {
		h.SetContentType("application/json")
		resp.SetBody(reply.AppendBody(nil, c.ep.kind))
	}
	c.stake.limited, c.stake.standing, c.stake.stands = as, denied.Standing, true
	h.SetCanonical(headerRequestID, c.idBytes())
	h.SetCanonical(headerModel, []byte(model))
	c.standingHeaders(h)
}

// downgrade aims the call at the cheaper model of the policy and holds for that.
func (c *call) downgrade() error {
	name := c.stake.policy.DowngradeModel
	m, err := c.permitted(name)
	switch {
	case err != nil || m == nil:
		return c.cannotDowngrade(name, "it is not a model that this client may use")
	case m == c.model:
		return errNoCheaper
	case c.model != nil && m.Kind != c.model.Kind:
		return c.cannotDowngrade(name, "it is of another kind than the model that was asked for")
	}
	was := c.target
	if err := c.pick(was.Route == "gateway", name, m); err != nil {
		return c.cannotDowngrade(name, "no route leads to it")
	}
	if c.req.PreviousResponse != "" && c.target != was {
		c.target = was
		return errNoCheaper // what it goes on from lies where it was made
	}
	c.model = m
	return c.holdAsAimed()
}

// errNoCheaper says that there is nothing to downgrade to; the client gets the word of its budget instead.
var errNoCheaper = &openai.Error{Message: "no cheaper model"}

// cannotDowngrade tells the people who run this, once an hour, that a policy is not what it looks like.
func (c *call) cannotDowngrade(name, why string) error {
	key := keyOf(c.p.seed, c.who.ClientID, aDowngrade, name)
	now := c.sinceBirth()
	s := c.p.warned.lock(key, now)
	_, told := s.get(key)
	if !told {
		s.put(key, struct{}{}, now)
	}
	s.mu.Unlock()
	if !told {
		c.p.Log.Warn("a policy names a model to downgrade to that cannot serve, so calls are blocked at the limit",
			"client", c.who.ClientID, "model", name, "why", why)
	}
	return errNoCheaper
}

// breakLoop refuses a call of a conversation, or of a contact, that has made or spent as much within the hour as it may.
func (c *call) breakLoop() error {
	p, s := c.stake.policy, &c.stake
	now := c.sinceBirth()
	take := func(i int, kind byte, name string, calls int64, brl money.Pico) time.Duration {
		key := keyOf(c.p.seed, c.who.ClientID, kind, name)
		if key == 0 || calls <= 0 && brl <= 0 {
			return 0
		}
		wait, ok := c.p.loops.take(key, now, calls, brl)
		if ok {
			s.loops[i] = key
		}
		return wait
	}
	if p.ContactCalls > 0 || p.ContactBRL > 0 {
		c.phone = c.who.Phone(c.head.phone)
	}
	of, wait := 0, take(0, aConversation, unsafeString(c.head.conversation), p.ConversationCalls, p.ConversationBRL)
	if wait == 0 {
		of, wait = 1, take(1, aContact, c.phone, p.ContactCalls, p.ContactBRL)
	}
	if wait == 0 {
		return nil
	}
	c.p.metrics.budgets.loops[of].Inc()
	return loopDetected(loopNames[of], wait)
}
