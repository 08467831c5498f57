package dashboard

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/catraca/catraca/metering"
)

// Ledger is what is done to the ledger over the years.
type Ledger interface {
	metering.DeadLetters
	metering.Persons
	metering.Exporter
}

// DeadLetter is an event that could not be recorded when it came.
type DeadLetter struct {
	ID        string    `json:"id" example:"00f3a2b1c4d5e6f7.17.9c22d1e0f0a1b2c3"`
	State     string    `json:"state" enum:"open,replayed,discarded" doc:"Open ones are a claim that is missing from the sums."`
	Reason    string    `json:"reason" doc:"Why it could not be recorded, the last time it was tried."`
	Note      string    `json:"note,omitempty" doc:"Why it was discarded."`
	Tries     int       `json:"tries" doc:"How often it was replayed and refused again."`
	At        time.Time `json:"at"`
	SettledAt time.Time `json:"settled_at,omitzero"`
	ClientID  uuid.UUID `json:"client_id,omitzero" format:"uuid" doc:"Absent where it could not be read."`

	ClaimKnown  bool   `json:"claim_known" doc:"Whether what it claims could be read."`
	TotalTokens int64  `json:"total_tokens"`
	CostKnown   bool   `json:"cost_known"`
	CostUSD     string `json:"cost_usd" example:"0.00190375"`
	CostBRL     string `json:"cost_brl" example:"0.00979382"`
}

// DeadLetterWhole is a dead letter with what is in it.
type DeadLetterWhole struct {
	DeadLetter
	Raw        []byte `json:"raw" doc:"The event as it came, in base64."`
	Unreadable string `json:"unreadable,omitempty" doc:"Why this release cannot read it."`
	Call       *Call  `json:"call,omitempty" doc:"The event, where this release can read it."`
}

// DeadLetterClaim is what the letters of one state claim together.
type DeadLetterClaim struct {
	State       string `json:"state" enum:"open,replayed,discarded"`
	Count       int64  `json:"count"`
	Unread      int64  `json:"unread" doc:"Of these nothing is known."`
	TotalTokens string `json:"total_tokens"`
	CostUSD     string `json:"cost_usd"`
	CostBRL     string `json:"cost_brl"`
}

// DeadLetterPage is a page of letters, newest first.
type DeadLetterPage struct {
	Letters []DeadLetter      `json:"letters" nullable:"false"`
	Claims  []DeadLetterClaim `json:"claims" nullable:"false" doc:"Of all letters there are."`
	Next    string            `json:"next,omitempty" doc:"Send it as cursor to get the next page; absent on the last."`
}

// Replayed is what came of replaying a letter.
type Replayed struct {
	Outcome string `json:"outcome" enum:"recorded,had,refused,settled" doc:"recorded: it is in the log and in the sums now. had: the log had it already. refused: it stays, for the reason. settled: it was replayed or discarded before."`
	Reason  string `json:"reason,omitempty"`
}

// ReplayedMany counts what came of replaying a page of letters.
type ReplayedMany struct {
	Recorded int    `json:"recorded"`
	Had      int    `json:"had"`
	Refused  int    `json:"refused"`
	Next     string `json:"next,omitempty" doc:"Send it as cursor to go on; absent when all were tried."`
}

// LetterByID names a letter in a path.
type LetterByID struct {
	ID string `path:"id" maxLength:"60" doc:"Id of the dead letter."`
}

// LetterSpan is which letters are meant.
type LetterSpan struct {
	ClientID uuid.UUID `query:"client_id" format:"uuid" doc:"Only of this tenant."`
	Reason   string    `query:"reason" maxLength:"200" doc:"Only those whose reason contains this, in any case."`
	Limit    int       `query:"limit" minimum:"1" maximum:"1000" default:"50"`
	Cursor   string    `query:"cursor" pattern:"^([A-Za-z0-9_-]{43})?$" patternDescription:"the next of a page before" doc:"next of the page before."`
}

func (l LetterSpan) query() metering.LetterQuery {
	return metering.LetterQuery{ClientID: l.ClientID, Reason: l.Reason, Limit: l.Limit, Cursor: l.Cursor}
}

const lettersPath = "/api/ai-gateway/dead-letters"

func (s *server) deadLetterRoutes() {
	if s.Ledger == nil {
		return
	}
	const tag = "dead letters"
	missing := fails(http.StatusNotFound)
	huma.Register(s.api, operation(http.MethodGet, lettersPath, "list-dead-letters", "List events that could not be recorded, newest first", tag,
		describe("Their numbers count as had, so nothing is sent again; what they claim is missing from the sums until they are replayed.")), s.listLetters)
	huma.Register(s.api, operation(http.MethodGet, lettersPath+"/{id}", "show-dead-letter", "Show a dead letter with what is in it", tag, missing), s.showLetter)
	huma.Register(s.api, operation(http.MethodPost, lettersPath+"/{id}/replay", "replay-dead-letter", "Try to record a dead letter now", tag, missing,
		describe("Once the cause is removed. Log, sums and the letter's state change together; to repeat it changes nothing.")), s.replayLetter)
	huma.Register(s.api, operation(http.MethodPost, lettersPath+"/replay", "replay-dead-letters", "Try to record many dead letters now", tag,
		describe("One page of the open ones, each by itself.")), s.replayLetters)
	huma.Register(s.api, operation(http.MethodPost, lettersPath+"/{id}/discard", "discard-dead-letter", "Settle a dead letter that will never be recorded", tag, missing, fails(http.StatusConflict),
		describe("It is kept, with the reason, and what it claims stays missing from the sums.")), s.discardLetter)
}

func (s *server) listLetters(ctx context.Context, in *struct {
	LetterSpan
	State string `query:"state" enum:"open,replayed,discarded" default:"open"`
},
) (*body[DeadLetterPage], error) {
	q := in.query()
	q.State = metering.LetterState(in.State)
	letters, next, err := s.Ledger.Letters(ctx, q)
	if err != nil {
		return nil, s.fail(ctx, "dead letter", err)
	}
	claims, err := s.Ledger.LetterClaims(ctx)
	if err != nil {
		return nil, s.fail(ctx, "dead letter", err)
	}
	page := DeadLetterPage{Letters: make([]DeadLetter, 0, len(letters)), Claims: make([]DeadLetterClaim, 0, len(claims)), Next: next}
	for i := range letters {
		page.Letters = append(page.Letters, letterBody(&letters[i]))
	}
	for _, c := range claims {
		page.Claims = append(page.Claims, DeadLetterClaim{string(c.State), c.Count, c.Unread, c.Tokens.String(), c.USD.String(), c.BRL.String()})
	}
	return answer(page), nil
}

// letter finds one by the id in a path.
func (s *server) letter(ctx context.Context, id string) (metering.Letter, error) {
	named, err := metering.ParseLetterID(id)
	if err != nil {
		return metering.Letter{}, s.failLetter(ctx, metering.ErrNoLetter)
	}
	l, err := s.Ledger.Letter(ctx, named)
	if err != nil {
		return l, s.failLetter(ctx, err)
	}
	return l, nil
}

func (s *server) failLetter(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, metering.ErrNoLetter):
		return huma.Error404NotFound("there is no such dead letter; list them to find the id")
	case errors.Is(err, metering.ErrLetterSettled):
		return huma.Error409Conflict("this dead letter was replayed or discarded already; show it to see which")
	}
	return s.fail(ctx, "dead letter", err)
}

func (s *server) showLetter(ctx context.Context, in *LetterByID) (*body[DeadLetterWhole], error) {
	l, err := s.letter(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	whole := DeadLetterWhole{DeadLetter: letterBody(&l), Raw: l.Raw}
	ev, err := l.Event()
	if err != nil {
		whole.Unreadable = err.Error()
		return answer(whole), nil
	}
	names, err := s.tenantNames(ctx)
	if err != nil {
		return nil, err
	}
	call := callBody(&metering.UsageRow{ID: metering.EventID(ev.Incarnation, ev.Seq), Event: ev}, names)
	whole.Call = &call
	return answer(whole), nil
}

func (s *server) replayLetter(ctx context.Context, in *LetterByID) (*body[Replayed], error) {
	l, err := s.letter(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	r, err := s.Ledger.Replay(ctx, l.ID)
	if err != nil {
		return nil, s.failLetter(ctx, err)
	}
	if r.Outcome != metering.ReplaySettled {
		s.audit(ctx, "dead_letter.replay", l.ID.Subject(), letterBody(&l), Replayed{string(r.Outcome), r.Reason})
	}
	return answer(Replayed{string(r.Outcome), r.Reason}), nil
}

func (s *server) replayLetters(ctx context.Context, in *struct{ LetterSpan }) (*body[ReplayedMany], error) {
	sum, err := metering.ReplayAll(ctx, s.Ledger, in.query())
	done := ReplayedMany{sum.Recorded, sum.Had, sum.Refused, sum.Next}
	if sum.Recorded+sum.Had+sum.Refused > 0 { // also when it failed in the middle: those before are recorded
		s.audit(ctx, "dead_letter.replay_many", in.ClientID, map[string]any{"client_id": in.ClientID, "reason": in.Reason}, done)
	}
	if err != nil {
		return nil, s.failLetter(ctx, err)
	}
	return answer(done), nil
}

// Discarding says why a letter is given up.
type Discarding struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500" pattern:"\\S" doc:"Kept with the letter and in the audit log."`
}

func (s *server) discardLetter(ctx context.Context, in *struct {
	LetterByID
	Body Discarding
},
) (*body[DeadLetter], error) {
	l, err := s.letter(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.Ledger.Discard(ctx, l.ID, in.Body.Reason); err != nil {
		return nil, s.failLetter(ctx, err)
	}
	s.audit(ctx, "dead_letter.discard", l.ID.Subject(), letterBody(&l), in.Body)
	after, err := s.letter(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return answer(letterBody(&after)), nil
}

func letterBody(l *metering.Letter) DeadLetter {
	return DeadLetter{
		ID: l.ID.String(), State: string(l.State), Reason: l.Reason, Note: l.Note, Tries: l.Tries, At: utc(l.CreatedAt), SettledAt: utc(l.SettledAt),
		ClientID: l.ClientID, ClaimKnown: l.ClaimKnown, TotalTokens: l.Tokens, CostKnown: l.CostKnown,
		CostUSD: amount(l.USD, l.CostKnown), CostBRL: amount(l.BRL, l.CostKnown),
	}
}
