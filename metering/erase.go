package metering

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A person is erased from the log, not out of it: each call stays with all it counted and cost, and nothing is left on
// it by which one could tell whose it was. Phone, conversation and metadata go; the sums do not change by a token.
//
// Calls that are still on their way come with the person on them. So the erasure is remembered, as salted digests and
// for as long as anything can be late, and housekeeping applies it again.

// Person says whose calls are meant.
type Person struct {
	ClientID uuid.UUID
	Is       func(phone string) bool // whether a phone, as the log keeps it, is this person's
	Phones   []string                // as the log would keep it: for calls that are not here yet
}

// Erased counts what a person was erased from.
type Erased struct {
	Calls   int
	Letters int // dead ones
}

// Persons is a store that knows and forgets persons.
type Persons interface {
	// Erase makes a person's calls nobody's. Calls of a conversation of the person that name no phone are the person's
	// as well. It can be repeated.
	Erase(ctx context.Context, p Person, now time.Time) (Erased, error)
	// PersonCalls gives every call of a person, oldest first.
	PersonCalls(ctx context.Context, p Person, each func(*UsageRow) error) error
	// EraseLate erases from calls that came late. See Housekeeper.
	EraseLate(ctx context.Context, now time.Time) (calls int, err error)
}

// lateFor is how long a call may be on its way: a spool on a disk that was away for a month still counts.
const lateFor = 35 * 24 * time.Hour

// traces are what a person left in the log of a client.
type traces struct {
	phones        []string
	conversations []string
}

func (t *traces) empty() bool { return len(t.phones) == 0 && len(t.conversations) == 0 }

// own tells whether an event with these is the person's.
func (p *Person) own(t *traces, phone, conversation string) bool {
	if phone != "" {
		return p.Is(phone)
	}
	return conversation != "" && slices.Contains(t.conversations, conversation)
}

// minTrace is the shortest text that is looked for in bytes that cannot be read: a shorter one could be anything.
const minTrace = 8

// eraseFrom takes a person out of a dead letter's bytes, and says whether there was anything. Bytes that this release
// can read are written anew; in others the texts are overwritten in place, so that a release that can read them still can.
func (p *Person) eraseFrom(raw []byte, t *traces) (clean []byte, changed bool) {
	var ev Event
	if ev.Decode(raw) == nil {
		if ev.ClientID != p.ClientID || !p.own(t, ev.Phone, ev.ConversationID) {
			return raw, false
		}
		ev.Phone, ev.ConversationID = "", ""
		return ev.Append(nil), true
	}
	clean = raw
	for _, text := range slices.Concat(t.phones, p.Phones, t.conversations) {
		if len(text) >= minTrace && bytes.Contains(clean, []byte(text)) {
			clean, changed = bytes.ReplaceAll(clean, []byte(text), bytes.Repeat([]byte{'*'}, len(text))), true
		}
	}
	return clean, changed
}

// erasure is who was erased, in digests.
type erasure struct {
	client  uuid.UUID
	at      time.Time
	salt    []byte
	digests map[[32]byte]bool
}

// newErasure remembers what is known of a person.
func newErasure(p *Person, t *traces, now time.Time) *erasure {
	e := &erasure{client: p.ClientID, at: now.UTC().Truncate(time.Microsecond), salt: make([]byte, 16), digests: map[[32]byte]bool{}}
	rand.Read(e.salt) // never fails
	for _, phone := range slices.Concat(t.phones, p.Phones) {
		e.digests[e.digest("phone", plainPhone(phone))] = true
	}
	for _, conversation := range t.conversations {
		e.digests[e.digest("conversation", conversation)] = true
	}
	return e
}

func (e *erasure) digest(kind, text string) [32]byte {
	return sha256.Sum256(slices.Concat(e.salt, []byte(kind), []byte{0}, []byte(text)))
}

// has tells whether a late call with these is of whom was erased.
func (e *erasure) has(phone, conversation string) bool {
	if phone != "" {
		return e.digests[e.digest("phone", plainPhone(phone))]
	}
	return conversation != "" && e.digests[e.digest("conversation", conversation)]
}

// eraseFrom is Person.eraseFrom for a letter that came late. In one that cannot be read nobody is found by a digest.
func (e *erasure) eraseFrom(raw []byte) (clean []byte, changed bool) {
	var ev Event
	if ev.Decode(raw) != nil || ev.ClientID != e.client || !ev.AdmittedAt.Before(e.at) || !e.has(ev.Phone, ev.ConversationID) {
		return raw, false
	}
	ev.Phone, ev.ConversationID = "", ""
	return ev.Append(nil), true
}

// addErasure puts a row of the table of erasures to the others of its erasure.
func addErasure(all []*erasure, client uuid.UUID, at time.Time, salt, digest []byte) []*erasure {
	last := len(all) - 1
	if last < 0 || all[last].client != client || !all[last].at.Equal(at) || !bytes.Equal(all[last].salt, salt) {
		all = append(all, &erasure{client: client, at: at, salt: salt, digests: map[[32]byte]bool{}})
		last++
	}
	if len(digest) == sha256.Size {
		all[last].digests[[32]byte(digest)] = true
	}
	return all
}

// plainPhone is a number without the marks that people write between its digits; what is no number stays as it is.
func plainPhone(s string) string {
	number := strings.TrimPrefix(strings.TrimPrefix(s, "whatsapp:"), "tel:")
	number, _, _ = strings.Cut(number, "@")
	digits := make([]byte, 0, len(number))
	for i := range len(number) {
		switch c := number[i]; {
		case c >= '0' && c <= '9':
			digits = append(digits, c)
		case !strings.ContainsRune("+ -.()/", rune(c)):
			return s
		}
	}
	if len(digits) < 6 {
		return s
	}
	return string(digits)
}
