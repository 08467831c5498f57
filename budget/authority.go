package budget

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Authority lends what the windows have: it is the one that may move money between their places, beside the settlement.
// It holds nothing itself, so there may be several over the same books.
type Authority struct {
	books Books
	o     AuthorityOptions
}

// AuthorityOptions is what may be set; the zero options are the default.
type AuthorityOptions struct {
	// LearnFor is how long nothing is granted after the database lost its end, at most, and LearnAtLeast at least: so long
	// proxies that it has forgotten altogether have to speak. Default 10 s and 3 s.
	LearnFor, LearnAtLeast time.Duration
	// AliveFor is how long an incarnation must have been silent before a person may take it for lost; 0: no time at all. One
	// that has leases speaks every second.
	AliveFor time.Duration
	Log      *slog.Logger // nil: none
}

// heardLately is how long before a loss an incarnation must have spoken to be waited for.
const heardLately = time.Minute

var _ Lender = (*Authority)(nil)

// NewAuthority makes an authority over books.
func NewAuthority(b Books, o AuthorityOptions) *Authority {
	if o.LearnFor <= 0 {
		o.LearnFor = 10 * time.Second
	}
	if o.LearnAtLeast <= 0 {
		o.LearnAtLeast = 3 * time.Second
	}
	o.LearnAtLeast = min(o.LearnAtLeast, o.LearnFor)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Authority{b, o}
}

// Lease answers a message of an incarnation. All that it does is in one transaction with its answer, so the same message
// comes to nothing when it is repeated, and to the same answer.
func (a *Authority) Lease(ctx context.Context, ask Ask) (reply Reply, err error) {
	err = a.books.Update(ctx, func(tx Tx) error {
		reply, err = a.answer(ctx, tx, &ask)
		return err
	})
	return reply, err
}

func (a *Authority) answer(ctx context.Context, tx Tx, ask *Ask) (Reply, error) {
	p, err := openPage(ctx, tx)
	if err != nil {
		return Reply{}, err
	}
	epoch, err := a.epoch(ctx, p)
	if err != nil {
		return Reply{}, err
	}
	holders, err := tx.Holders(ctx, ask.speakers())
	if err != nil {
		return Reply{}, err
	}
	m := &message{Ask: ask, page: p, holders: map[uint64]*Holder{}}
	for _, h := range holders {
		m.holders[h.Incarnation] = h
	}
	if answered, reply, err := m.repeated(); answered || err != nil {
		return reply, err
	}
	if m.betraysLoss(epoch) {
		if epoch, err = a.newEpoch(ctx, p, max(epoch.Number, ask.Epoch)+1, epoch.Identity); err != nil {
			return Reply{}, err
		}
	}
	m.learning = !epoch.Learning.IsZero()
	m.hear(epoch)
	if err := m.act(ctx); err != nil {
		return Reply{}, err
	}
	return m.reply, m.finish(ctx)
}

// message is an Ask while it is answered.
type message struct {
	*Ask
	*page
	holders map[uint64]*Holder // the one that speaks, and those that it closes
	self    *Holder
	since   time.Time // since when the holder wants to know of changes
	told    bool      // of them just now
	resumed []*Lease  // of one that was taken for lost
	closing []*Lease  // of those that it closes

	learning bool
	reply    Reply
}

// speakers are the incarnations that a message is about.
func (ask *Ask) speakers() []uint64 {
	ids := []uint64{ask.Incarnation}
	for _, c := range ask.Close {
		if c.Incarnation != ask.Incarnation {
			ids = append(ids, c.Incarnation)
		}
	}
	return sortedIncarnations(ids)
}

// repeated answers a message that was answered before with what was said then, and refuses one from further back, or
// from an incarnation that has ended.
func (m *message) repeated() (answered bool, reply Reply, err error) {
	h := m.holders[m.Incarnation]
	switch {
	case m.Op == 0:
		return false, reply, fmt.Errorf("%w: messages are counted from 1", ErrStale)
	case h == nil:
		return false, reply, nil
	case m.Op == h.Op:
		if err := json.Unmarshal(h.Reply, &reply); err != nil {
			return false, reply, fmt.Errorf("stored answer %d of incarnation %x: %w", h.Op, h.Incarnation, err)
		}
		reply.At = m.now
		return true, reply, nil
	case m.Op < h.Op:
		return false, reply, fmt.Errorf("%w: message %d of incarnation %x, which has had an answer to %d", ErrStale, m.Op, h.Incarnation, h.Op)
	case h.State == Closed, h.State == Left:
		return false, reply, fmt.Errorf("%w: incarnation %x is %s", ErrStale, h.Incarnation, h.State)
	}
	return false, reply, nil
}

// hear writes down that the incarnation spoke.
func (m *message) hear(epoch Epoch) {
	h := m.holders[m.Incarnation]
	if h == nil {
		h = &Holder{Incarnation: m.Incarnation, State: Live}
		m.holders[m.Incarnation] = h
		if m.Op == 1 {
			h.Epoch = epoch.Number // it holds nothing that could be forgotten
		}
	}
	if m.Ask.Epoch == epoch.Number {
		h.Epoch = epoch.Number // it knew of this epoch, and has told what it holds
	}
	if !h.HeardAt.IsZero() && m.Ask.Epoch == epoch.Number {
		m.since = h.HeardAt.Add(-changeSlack)
		m.told = h.HeardAt.Truncate(tellEvery).Equal(m.now.Truncate(tellEvery))
	}
	h.Name, h.Op, h.HeardAt = m.Name, m.Op, m.now
	m.self = h
	m.reply = Reply{
		Op: m.Op, Epoch: epoch.Number, At: m.now,
		Learning: m.learning, Assert: h.Epoch < epoch.Number,
	}
}

// changeSlack is how far back changes of windows are told once more: those of a transaction carry the time at which it
// began, and are seen when it has ended.
const changeSlack = 15 * time.Second

// tellEvery is how often one is told of all leased windows that changed, however fast it speaks: near the limit, that is a
// hundred times a second. It is a little less than the time between two heartbeats.
const tellEvery = 900 * time.Millisecond

// finish writes all back, with the answer.
func (m *message) finish(ctx context.Context) error {
	if err := m.save(ctx); err != nil {
		return err
	}
	if err := m.states(ctx); err != nil {
		return err
	}
	text, err := json.Marshal(m.reply)
	if err != nil {
		return fmt.Errorf("answer to incarnation %x: %w", m.Incarnation, err)
	}
	m.self.Reply = text
	changed := []*Holder{m.self}
	for _, id := range m.reply.Closed {
		if h := m.holders[id]; h != nil {
			changed = append(changed, h)
		}
	}
	return m.tx.SaveHolders(ctx, changed)
}

// states tells of the windows that this message is about or that are watched, and of the leased ones that changed.
func (m *message) states(ctx context.Context) error {
	ids := map[int64]bool{}
	for _, id := range m.Watch {
		ids[id] = true
	}
	for _, w := range m.Want {
		ids[w.Window] = true
	}
	for _, account := range m.reply.Accounts {
		for _, id := range slices.Concat(account.Windows, account.Next) {
			ids[id] = true
		}
	}
	var asked []*Window
	var err error
	if len(ids) > 0 {
		if asked, err = m.tx.States(ctx, sortedWindows(ids), 0, time.Time{}); err != nil {
			return err
		}
	}
	var leased []*Window
	if !m.told {
		if leased, err = m.tx.States(ctx, nil, m.Incarnation, m.since); err != nil {
			return err
		}
	}
	told := map[int64]bool{}
	for _, w := range append(asked, leased...) {
		if !told[w.ID] {
			told[w.ID] = true
			m.reply.Windows = append(m.reply.Windows, w.State())
		}
	}
	return nil
}

// Current is a budget with its window of now; a nil one has not begun.
type Current struct {
	Budget Budget
	Window *Window
}

// Current shows the budgets of clients (uuid.Nil: those over all clients) with their windows of now, which are opened
// where they are not yet.
func (a *Authority) Current(ctx context.Context, clients ...uuid.UUID) (current []Current, err error) {
	err = a.books.Update(ctx, func(tx Tx) error {
		current = nil
		p, err := openPage(ctx, tx)
		if err != nil {
			return err
		}
		bs, err := tx.Budgets(ctx, clients)
		if err != nil {
			return err
		}
		var os []*opening
		for _, b := range p.keep(bs) {
			os = append(os, &opening{budget: b, at: p.now})
		}
		if err := p.open(ctx, os); err != nil {
			return err
		}
		for _, o := range os {
			current = append(current, Current{*o.budget, o.window})
		}
		return p.save(ctx)
	})
	return current, err
}
