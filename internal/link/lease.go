package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
)

// What crosses the link of budgets:
//
//	POST /link/v1/lease    a message of a proxy's purse to the ledger, and its reply
//	POST /link/v1/seen     whether a conversation of a client was under way before, at whatever proxy

// errPast is told to a purse whose message the ledger is past. It must not ask again.
var errPast = &fault{http.StatusConflict, "stale", "the ledger has answered a later message of this proxy, or has closed it"}

// errNoBudgets is told while this control plane keeps no budgets.
var errNoBudgets = errors.New("this control plane keeps no budgets")

// Lease implements Control.
func (l *Local) Lease(ctx context.Context, a budget.Ask) (budget.Reply, error) {
	if l.o.Budgets == nil {
		return budget.Reply{}, fmt.Errorf("%w: %w", budget.ErrUnavailable, errNoBudgets)
	}
	return l.o.Budgets.Lease(ctx, a)
}

// Seen implements Control.
func (l *Local) Seen(ctx context.Context, client uuid.UUID, conversation string) (bool, error) {
	if l.o.Conversations == nil || conversation == "" {
		return false, nil
	}
	return l.o.Conversations.Seen(ctx, client, conversation)
}

func (h *Handler) lease(w http.ResponseWriter, r *http.Request) {
	a, err := read[budget.Ask](r)
	if err == nil && (a.Incarnation == 0 || a.Op == 0) {
		err = errBadRequest
	}
	var reply budget.Reply
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), loadTimeout)
		defer cancel()
		reply, err = h.local.Lease(ctx, a)
	}
	if errors.Is(err, budget.ErrStale) {
		err = errPast
	}
	h.answer(w, reply, err)
}

type seenAsked struct {
	Client       uuid.UUID `json:"client"`
	Conversation string    `json:"conversation"`
}

type seenFound struct {
	Seen bool `json:"seen"`
}

func (h *Handler) seen(w http.ResponseWriter, r *http.Request) {
	q, err := read[seenAsked](r)
	var found seenFound
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), loadTimeout)
		defer cancel()
		found.Seen, err = h.local.Seen(ctx, q.Client, q.Conversation)
	}
	h.answer(w, found, err)
}

// Lease implements Control. Whatever keeps the ledger from answering is budget.ErrUnavailable to a purse.
func (c *Client) Lease(ctx context.Context, a budget.Ask) (budget.Reply, error) {
	var reply budget.Reply
	_, answer, err := c.do(ctx, "lease", "lease", callTimeout, nil, a)
	var f *fault
	switch {
	case errors.As(err, &f) && f.Code == errPast.Code:
		return reply, budget.ErrStale
	case err != nil:
		return reply, fmt.Errorf("%w: %w", budget.ErrUnavailable, err)
	}
	if json.Unmarshal(answer, &reply) != nil || reply.Op != a.Op {
		return budget.Reply{}, fmt.Errorf("%w: %w", budget.ErrUnavailable, errForeign)
	}
	return reply, nil
}

// Seen implements Control.
func (c *Client) Seen(ctx context.Context, client uuid.UUID, conversation string) (bool, error) {
	_, answer, err := c.do(ctx, "seen", "seen", callTimeout, nil, seenAsked{client, conversation})
	if err != nil {
		return false, err
	}
	var found seenFound
	if json.Unmarshal(answer, &found) != nil {
		return false, errForeign
	}
	return found.Seen, nil
}
