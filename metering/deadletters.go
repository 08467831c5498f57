package metering

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/internal/money"
)

// A dead letter is an event that could not be recorded when it came. Its number counts as had, so that its spool lets
// go of it, and what it claims is an open claim on the sums until it is settled in one of two ways:
//
//	poison ──► open ──► replayed    recorded after all: log, roll-ups and state change in one transaction
//	                └─► discarded   by somebody who said why

// ErrNoLetter says that there is no such dead letter.
var ErrNoLetter = errors.New("no such dead letter")

// ErrLetterSettled says that a letter was replayed or discarded already.
var ErrLetterSettled = errors.New("the dead letter is settled already")

// DeadLetters is what a store does with its dead letters. Any number of processes may use it at once.
type DeadLetters interface {
	// Letters lists letters without their bytes, newest first. next is empty on the last page.
	Letters(ctx context.Context, q LetterQuery) (page []Letter, next string, err error)
	// Letter gives one with its bytes; ErrNoLetter.
	Letter(ctx context.Context, id LetterID) (Letter, error)
	// Replay tries to record a letter's event now. Its number is taken out of the watermark and the event goes the way
	// of all others, in one transaction that also settles the letter, so it is recorded once however often and by
	// however many this is called. A letter that is refused again stays open with the new reason.
	Replay(ctx context.Context, id LetterID) (Replayed, error)
	// Discard settles a letter that will never be recorded; ErrNoLetter, ErrLetterSettled.
	Discard(ctx context.Context, id LetterID, note string) error
	// LetterClaims sums up what the letters of each state claim.
	LetterClaims(ctx context.Context) ([]LetterClaims, error)
}

// LetterState is what became of a letter.
type LetterState string

// The states of letters.
const (
	LetterOpen      LetterState = "open"
	LetterReplayed  LetterState = "replayed"
	LetterDiscarded LetterState = "discarded"
)

// LetterID names a letter: the event it holds, zero and zero where that could not be read, and how the digest of its
// bytes begins.
type LetterID struct {
	Incarnation uint64
	Seq         uint64
	Digest      [8]byte
}

// String writes an id as "00f3a2….17.9c22d1e0f0a1b2c3".
func (id LetterID) String() string {
	return fmt.Sprintf("%016x.%d.%x", id.Incarnation, id.Seq, id.Digest)
}

// ParseLetterID reads what String wrote.
func ParseLetterID(s string) (id LetterID, err error) {
	wrong := fmt.Errorf("%.80q is not the id of a dead letter", s)
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return id, wrong
	}
	id.Incarnation, err = strconv.ParseUint(parts[0], 16, 64)
	if err != nil {
		return id, wrong
	}
	if id.Seq, err = strconv.ParseUint(parts[1], 10, 63); err != nil {
		return id, wrong
	}
	digest, err := hex.DecodeString(parts[2])
	if err != nil || len(digest) != len(id.Digest) {
		return id, wrong
	}
	copy(id.Digest[:], digest)
	return id, nil
}

// Subject is an id for the audit log: that of the row the event would have, or of the bytes where it cannot be read.
func (id LetterID) Subject() uuid.UUID {
	if id.Seq != 0 {
		return EventID(id.Incarnation, id.Seq)
	}
	return uuid.NewSHA1(uuid.Nil, id.Digest[:])
}

// Letter is one dead letter.
type Letter struct {
	ID        LetterID
	State     LetterState
	Reason    string // why it could not be recorded, the last time it was tried
	Note      string // why it was discarded
	Tries     int    // replays that were refused
	CreatedAt time.Time
	SettledAt time.Time // zero while open
	ClientID  uuid.UUID // zero where it could not be read
	Raw       []byte    // as it came; nil in lists

	// What the event claimed, as far as it could be read when it came.
	ClaimKnown bool
	Tokens     int64
	CostKnown  bool
	USD, BRL   money.Pico
}

// Event reads the letter's bytes with what this release understands.
func (l *Letter) Event() (Event, error) {
	var ev Event
	err := ev.Decode(l.Raw)
	return ev, err
}

// LetterQuery asks for letters. The zero value asks for the newest open ones.
type LetterQuery struct {
	ClientID uuid.UUID   // zero: of all clients, and those that nobody can tell whose they are
	State    LetterState // empty: open ones
	Reason   string      // only letters whose reason contains this, in any case
	Limit    int         // 0: 50; at most 1000
	Cursor   string      // next of the page before
}

// ReplayOutcome says what came of a replay.
type ReplayOutcome string

// The outcomes of a replay.
const (
	ReplayRecorded ReplayOutcome = "recorded" // now in log and roll-ups
	ReplayHad      ReplayOutcome = "had"      // the log had the event already; nothing was added
	ReplayRefused  ReplayOutcome = "refused"  // still cannot be recorded; it stays open
	ReplaySettled  ReplayOutcome = "settled"  // replayed or discarded before; nothing changed
)

// Replayed is what came of replaying one letter.
type Replayed struct {
	Outcome ReplayOutcome
	Reason  string // why it was refused
}

// LetterClaims is what the letters of one state claim together. What could not be read claims nothing that is known.
type LetterClaims struct {
	State  LetterState
	Count  int64
	Unread int64 // of these nothing is known
	Tokens decimal.Decimal
	USD    decimal.Decimal
	BRL    decimal.Decimal
}

// ReplaySum counts the outcomes of many replays.
type ReplaySum struct {
	Recorded int
	Had      int
	Refused  int
	Next     string // cursor to go on from; empty when all were tried
}

// ReplayAll replays the open letters that a query asks for, one page of them, each in a transaction of its own.
func ReplayAll(ctx context.Context, s DeadLetters, q LetterQuery) (sum ReplaySum, err error) {
	q.State = LetterOpen
	page, next, err := s.Letters(ctx, q)
	if err != nil {
		return sum, err
	}
	for i := range page {
		r, err := s.Replay(ctx, page[i].ID)
		if err != nil {
			return sum, err
		}
		switch r.Outcome {
		case ReplayRecorded:
			sum.Recorded++
		case ReplayHad:
			sum.Had++
		case ReplayRefused:
			sum.Refused++
		case ReplaySettled: // by somebody else, a moment ago
		}
	}
	sum.Next = next
	return sum, nil
}

// letterPlace is where a page of letters begins: after this one.
type letterPlace struct {
	at int64 // microseconds
	id LetterID
}

func (p letterPlace) String() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.at))
	b = binary.BigEndian.AppendUint64(b, p.id.Incarnation)
	b = binary.BigEndian.AppendUint64(b, p.id.Seq)
	return base64.RawURLEncoding.EncodeToString(append(b, p.id.Digest[:]...))
}

func parseLetterPlace(s string) (p letterPlace, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 32 {
		return p, errCursor
	}
	p.at = int64(binary.BigEndian.Uint64(b))
	p.id.Incarnation, p.id.Seq = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	copy(p.id.Digest[:], b[24:])
	return p, nil
}

// letterPlan is a checked LetterQuery.
type letterPlan struct {
	LetterQuery
	after *letterPlace
}

func (q LetterQuery) plan() (*letterPlan, error) {
	p := &letterPlan{LetterQuery: q}
	switch p.State {
	case "":
		p.State = LetterOpen
	case LetterOpen, LetterReplayed, LetterDiscarded:
	default:
		return nil, fmt.Errorf("state %.40q: one of open, replayed, discarded", q.State)
	}
	if p.Limit = min(q.Limit, 1000); p.Limit <= 0 {
		p.Limit = 50
	}
	if q.Cursor != "" {
		after, err := parseLetterPlace(q.Cursor)
		if err != nil {
			return nil, err
		}
		p.after = &after
	}
	return p, nil
}

// page cuts what the store read, one more than the limit where there are more.
func (p *letterPlan) page(letters []Letter) (page []Letter, next string) {
	if len(letters) <= p.Limit {
		return letters, ""
	}
	last := &letters[p.Limit-1]
	return letters[:p.Limit], letterPlace{last.CreatedAt.UnixMicro(), last.ID}.String()
}

// letterRow is a letter as the stores read it.
type letterRow struct {
	Letter
	incarnation, seq int64
	digest           []byte
	tokens, usd, brl *int64
}

func (r *letterRow) letter() Letter {
	l := r.Letter
	l.ID = LetterID{Incarnation: uint64(r.incarnation), Seq: uint64(r.seq)}
	copy(l.ID.Digest[:], r.digest)
	l.CreatedAt = l.CreatedAt.UTC()
	if !l.SettledAt.IsZero() {
		l.SettledAt = l.SettledAt.UTC()
	}
	if r.tokens != nil {
		l.ClaimKnown, l.Tokens = true, *r.tokens
	}
	if r.usd != nil && r.brl != nil {
		l.CostKnown, l.USD, l.BRL = true, money.Pico(*r.usd), money.Pico(*r.brl)
	}
	return l
}

// toReplay is the event of an open letter as a row of the log. refused says why there is none.
func (r *letterRow) toReplay() (rows []logRow, refused string) {
	ev, err := r.Event()
	var version *VersionError
	switch {
	case errors.As(err, &version):
		return nil, fmt.Sprintf("this release cannot read it: %v; replay it with the release that wrote it, or a newer one", err)
	case err != nil:
		return nil, "this release cannot read it: " + err.Error()
	}
	if r.seq != 0 && (ev.Incarnation != uint64(r.incarnation) || ev.Seq != uint64(r.seq)) {
		return nil, "its bytes name another event than the letter does"
	}
	if rows, err = newLogRows([]Event{ev}); err != nil {
		return nil, err.Error()
	}
	return rows, ""
}

// without is a set less one number.
func without(set Ranges, n uint64) Ranges {
	var out Ranges
	for _, iv := range set {
		if n < iv[0] || n > iv[1] {
			out = append(out, iv)
			continue
		}
		if iv[0] < n {
			out = append(out, [2]uint64{iv[0], n - 1})
		}
		if n < iv[1] {
			out = append(out, [2]uint64{n + 1, iv[1]})
		}
	}
	return out
}
