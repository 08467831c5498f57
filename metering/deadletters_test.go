package metering

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

// upkeepStore is a store with what is done to it over the years.
type upkeepStore interface {
	store
	DeadLetters
}

// onUpkeepStores runs a test on each store.
func onUpkeepStores(t *testing.T, test func(t *testing.T, s upkeepStore)) {
	onStores(t, func(t *testing.T, s store) { test(t, s.(upkeepStore)) })
}

// poisonLog makes the log refuse every row of the model "poison", as a bad constraint would, and gives what undoes it.
func poisonLog(t *testing.T, s store) (cure func()) {
	t.Helper()
	return poisonTable(t, s, "gateway_usage_logs")
}

func poisonTable(t *testing.T, s store, table string) (cure func()) {
	t.Helper()
	switch s := s.(type) {
	case *Postgres:
		pgExec(t, s, "ALTER TABLE "+table+" ADD CONSTRAINT no_poison CHECK (model_name <> 'poison')")
		return func() { pgExec(t, s, "ALTER TABLE "+table+" DROP CONSTRAINT no_poison") }
	case *SQLite:
		sqliteExec(t, s, "CREATE TRIGGER no_poison BEFORE INSERT ON "+table+" WHEN NEW.model_name = 'poison' BEGIN SELECT RAISE(ABORT, 'no_poison'); END")
		return func() { sqliteExec(t, s, "DROP TRIGGER no_poison") }
	}
	t.Fatalf("a store of type %T", s)
	return nil
}

func sqliteExec(t *testing.T, s *SQLite, query string, args ...any) {
	t.Helper()
	if _, err := s.write.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

// mustBury records events one by one and parks those that the log refuses, as a worker does.
func mustBury(t *testing.T, s store, events []Event) (buried int) {
	t.Helper()
	for _, ev := range events {
		err := s.Record(t.Context(), []Event{ev})
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrUnrecordable) {
			t.Fatal(err)
		}
		buried++
		if err := s.DeadLetter(t.Context(), ev.Append(nil), ev, err.Error()); err != nil {
			t.Fatal(err)
		}
	}
	return buried
}

func mustLetters(t *testing.T, s DeadLetters, q LetterQuery) []Letter {
	t.Helper()
	var all []Letter
	for {
		page, next, err := s.Letters(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if q.Cursor = next; next == "" {
			return all
		}
	}
}

func mustReplay(t *testing.T, s DeadLetters, id LetterID, want ReplayOutcome) Replayed {
	t.Helper()
	r, err := s.Replay(t.Context(), id)
	if err != nil || r.Outcome != want {
		t.Fatalf("replay of %s: %+v, %v; want %s", id, r, err, want)
	}
	return r
}

// poisoned gives events of which every fifth is of the model "poison".
func poisoned(seed, incarnation uint64, n int) []Event {
	events := randomEvents(seed, incarnation, n)
	for i := range events {
		if i%5 == 4 {
			events[i].ModelServed = "poison"
		}
	}
	return events
}

func TestReplayMakesTheSumsWhole(t *testing.T) {
	onUpkeepStores(t, func(t *testing.T, s upkeepStore) {
		cure := poisonLog(t, s)
		events := poisoned(60, 0xfedcba9876543210, 60)
		if n := mustBury(t, s, events); n != 12 {
			t.Fatalf("%d letters", n)
		}
		letters := mustLetters(t, s, LetterQuery{Limit: 5}) // three pages
		if len(letters) != 12 {
			t.Fatalf("%d letters on all pages", len(letters))
		}
		seen := map[uint64]bool{}
		for _, l := range letters {
			want := events[l.ID.Seq-1]
			if seen[l.ID.Seq] || l.ID.Incarnation != want.Incarnation || l.State != LetterOpen || l.ClientID != want.ClientID || !l.ClaimKnown || l.Tokens != want.Usage.Total ||
				l.CostKnown != want.Known || l.USD != want.USD || l.BRL != want.BRL || !strings.Contains(l.Reason, "no_poison") || l.Raw != nil || !l.SettledAt.IsZero() {
				t.Errorf("letter %+v\n of %+v", l, want)
			}
			seen[l.ID.Seq] = true
		}
		var open []Event
		for i := range events {
			if i%5 == 4 {
				open = append(open, events[i])
			}
		}
		mustClaim(t, s, LetterOpen, open)

		one, err := s.Letter(t.Context(), letters[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := one.Event(); err != nil || !reflect.DeepEqual(ev, events[one.ID.Seq-1]) {
			t.Errorf("%+v, %v", ev, err)
		}
		// The cause is still there: it stays, and says so.
		r := mustReplay(t, s, one.ID, ReplayRefused)
		if again, _ := s.Letter(t.Context(), one.ID); again.State != LetterOpen || again.Tries != 1 || again.Reason != r.Reason || !strings.Contains(r.Reason, "no_poison") {
			t.Errorf("after a replay in vain: %+v, %+v", again, r)
		}
		if got, err := s.Received(t.Context(), events[0].Incarnation); err != nil || !reflect.DeepEqual(got, Ranges{{1, 60}}) {
			t.Errorf("a replay in vain left the watermark at %v, %v", got, err)
		}

		cure()
		mustReplay(t, s, one.ID, ReplayRecorded)
		mustReplay(t, s, one.ID, ReplaySettled)
		sum, err := ReplayAll(t.Context(), s, LetterQuery{})
		if err != nil || sum.Recorded != 11 || sum.Had != 0 || sum.Refused != 0 || sum.Next != "" {
			t.Errorf("all others: %+v, %v", sum, err)
		}
		mustHold(t, s, events)
		mustClaim(t, s, LetterOpen, nil)
		mustClaim(t, s, LetterReplayed, open)
		if done, _ := s.Letter(t.Context(), one.ID); done.State != LetterReplayed || done.SettledAt.IsZero() {
			t.Errorf("replayed: %+v", done)
		}
		// The event itself, once more, is a repeat; so is its letter.
		mustRecord(t, s, events...)
		if err := s.DeadLetter(t.Context(), events[4].Append(nil), events[4], "again"); err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, events)
		if n := len(mustLetters(t, s, LetterQuery{})); n != 0 {
			t.Errorf("%d letters are open again", n)
		}
		if n := len(mustLetters(t, s, LetterQuery{State: LetterReplayed})); n != 12 {
			t.Errorf("%d letters are kept", n)
		}
	})
}

// What is refused when the log already has the row must not leave the row there.
func TestReplayRefusedByTheSums(t *testing.T) {
	onUpkeepStores(t, func(t *testing.T, s upkeepStore) {
		cure := poisonTable(t, s, "usage_rollups")
		events := poisoned(65, 12, 20)
		if n := mustBury(t, s, events); n != 4 {
			t.Fatalf("%d letters", n)
		}
		if sum, err := ReplayAll(t.Context(), s, LetterQuery{}); err != nil || sum.Refused != 4 {
			t.Errorf("%+v, %v", sum, err)
		}
		mustHold(t, s, slices.DeleteFunc(slices.Clone(events), func(ev Event) bool { return ev.ModelServed == "poison" }))
		if got, err := s.Received(t.Context(), 12); err != nil || !reflect.DeepEqual(got, Ranges{{1, 20}}) {
			t.Errorf("received %v, %v", got, err)
		}
		cure()
		if sum, err := ReplayAll(t.Context(), s, LetterQuery{}); err != nil || sum.Recorded != 4 {
			t.Errorf("%+v, %v", sum, err)
		}
		mustHold(t, s, events)
	})
}

// mustClaim checks what the letters of a state claim together.
func mustClaim(t *testing.T, s DeadLetters, state LetterState, events []Event) {
	t.Helper()
	all, err := s.LetterClaims(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got LetterClaims
	for _, c := range all {
		if c.State == state {
			got = c
		}
	}
	want := expected(events)
	if got.Count != want.Calls || got.Tokens.IntPart() != want.Total || !got.USD.Equal(want.USD) || !got.BRL.Equal(want.BRL) {
		t.Errorf("%s letters claim %+v, want %+v", state, got, want)
	}
}

func TestReplayInParallel(t *testing.T) {
	onUpkeepStores(t, func(t *testing.T, s upkeepStore) {
		cure := poisonLog(t, s)
		events := poisoned(61, 3, 150)
		mustBury(t, s, events)
		cure()
		letters := mustLetters(t, s, LetterQuery{Limit: 1000})
		var wg sync.WaitGroup
		recorded := make(chan LetterID, 1000)
		for worker := range 6 {
			wg.Go(func() {
				for i := range letters {
					id := letters[(i*7+worker*5)%len(letters)].ID
					r, err := s.Replay(context.Background(), id)
					if err != nil {
						t.Error(err)
					}
					if r.Outcome == ReplayRecorded {
						recorded <- id
					} else if r.Outcome != ReplaySettled {
						t.Errorf("%s: %+v", id, r)
					}
				}
			})
		}
		wg.Go(func() { // and the queue brings everything again
			for i := 0; i < len(events); i += 10 {
				if err := s.Record(context.Background(), events[i:i+10]); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		if len(recorded) != len(letters) || len(letters) != 30 {
			t.Errorf("%d recorded of %d letters", len(recorded), len(letters))
		}
		mustHold(t, s, events)
		if got, err := s.Received(t.Context(), 3); err != nil || !reflect.DeepEqual(got, Ranges{{1, 150}}) {
			t.Errorf("received %v, %v", got, err)
		}
	})
}

func TestLettersThatCannotBeRead(t *testing.T) {
	onUpkeepStores(t, func(t *testing.T, s upkeepStore) {
		ev := randomEvents(62, 5, 2)
		newer := ev[0].Append(nil)
		newer[0] = 99
		var known Event
		tooNew := known.Decode(newer)
		for _, l := range []struct {
			raw []byte
			ev  Event
			why error
		}{
			{[]byte("\x00\xffnothing\x00"), Event{}, ErrMalformed},
			{nil, Event{}, ErrMalformed},
			{newer, known, tooNew},
			{ev[1].Append(nil), Event{}, errors.New("an older release could not read it")},
		} {
			if err := s.DeadLetter(t.Context(), l.raw, l.ev, l.why.Error()); err != nil {
				t.Fatal(err)
			}
		}
		letters := mustLetters(t, s, LetterQuery{Limit: 1})
		if len(letters) != 4 {
			t.Fatalf("%d letters", len(letters))
		}
		outcomes := map[ReplayOutcome]int{}
		for _, l := range letters {
			if back, err := ParseLetterID(l.ID.String()); err != nil || back != l.ID || l.ID.Subject() == uuid.Nil {
				t.Errorf("id %s reads as %+v, %v", l.ID, back, err)
			}
			r, err := s.Replay(t.Context(), l.ID)
			if err != nil {
				t.Fatal(err)
			}
			outcomes[r.Outcome]++
			if r.Outcome == ReplayRefused && !strings.Contains(r.Reason, "this release cannot read it") {
				t.Errorf("refused because of %q", r.Reason)
			}
		}
		if outcomes[ReplayRefused] != 3 || outcomes[ReplayRecorded] != 1 {
			t.Errorf("outcomes %v", outcomes)
		}
		mustHold(t, s, ev[1:])
	})
}

// A letter that could not be read may hold an event that came whole on another way.
func TestReplayOfWhatTheLogHas(t *testing.T) {
	onUpkeepStores(t, func(t *testing.T, s upkeepStore) {
		events := randomEvents(63, 6, 3)
		if err := s.DeadLetter(t.Context(), events[1].Append(nil), Event{}, "not read"); err != nil {
			t.Fatal(err)
		}
		mustRecord(t, s, events...)
		letters := mustLetters(t, s, LetterQuery{})
		mustReplay(t, s, letters[0].ID, ReplayHad)
		mustReplay(t, s, letters[0].ID, ReplaySettled)
		mustHold(t, s, events)
	})
}

func TestDiscard(t *testing.T) {
	onUpkeepStores(t, func(t *testing.T, s upkeepStore) {
		cure := poisonLog(t, s)
		events := poisoned(64, 8, 10)
		mustBury(t, s, events)
		cure()
		mine := mustLetters(t, s, LetterQuery{ClientID: events[4].ClientID})
		if len(mine) == 0 || mine[len(mine)-1].ClientID != events[4].ClientID {
			t.Fatalf("by client: %+v", mine)
		}
		letters := mustLetters(t, s, LetterQuery{Reason: "NO_Poison"})
		if len(letters) != 2 || len(mustLetters(t, s, LetterQuery{Reason: "%"})) != 0 {
			t.Fatalf("by reason: %+v", letters)
		}
		id := letters[0].ID
		if err := s.Discard(t.Context(), id, "a test of ours"); err != nil {
			t.Fatal(err)
		}
		if err := s.Discard(t.Context(), id, "twice"); !errors.Is(err, ErrLetterSettled) {
			t.Errorf("discarded twice: %v", err)
		}
		mustReplay(t, s, id, ReplaySettled)
		if l, err := s.Letter(t.Context(), id); err != nil || l.State != LetterDiscarded || l.Note != "a test of ours" || l.SettledAt.IsZero() {
			t.Errorf("%+v, %v", l, err)
		}
		mustClaim(t, s, LetterDiscarded, events[id.Seq-1:id.Seq])
		mustReplay(t, s, letters[1].ID, ReplayRecorded)
		if err := s.Discard(t.Context(), letters[1].ID, "too late"); !errors.Is(err, ErrLetterSettled) {
			t.Errorf("a replayed one was discarded: %v", err)
		}
		none := LetterID{Incarnation: 1, Seq: 2}
		if _, err := s.Letter(t.Context(), none); !errors.Is(err, ErrNoLetter) {
			t.Errorf("read: %v", err)
		}
		if _, err := s.Replay(t.Context(), none); !errors.Is(err, ErrNoLetter) {
			t.Errorf("replay: %v", err)
		}
		if err := s.Discard(t.Context(), none, "x"); !errors.Is(err, ErrNoLetter) {
			t.Errorf("discard: %v", err)
		}
		for _, q := range []LetterQuery{{State: "lost"}, {Cursor: "x"}, {Cursor: strings.Repeat("A", 32)}} {
			if _, _, err := s.Letters(t.Context(), q); err == nil {
				t.Errorf("%+v has an answer", q)
			}
		}
	})
}

func TestLetterIDs(t *testing.T) {
	for _, s := range []string{"", "1.2", "1.2.3", "x.2.0011223344556677", "1.-2.0011223344556677", "1.18446744073709551615.0011223344556677", "1.2.001122334455667788"} {
		if id, err := ParseLetterID(s); err == nil {
			t.Errorf("%q is %+v", s, id)
		}
	}
	for _, c := range []struct {
		set  Ranges
		n    uint64
		want string
	}{
		{Ranges{{1, 9}}, 1, "2-9"},
		{Ranges{{1, 9}}, 9, "1-8"},
		{Ranges{{1, 9}}, 5, "1-4,6-9"},
		{Ranges{{1, 1}, {3, 4}}, 1, "3-4"},
		{Ranges{{1, 1}, {3, 4}}, 2, "1,3-4"},
		{nil, 2, ""},
	} {
		if got := without(c.set, c.n).String(); got != c.want {
			t.Errorf("%s without %d is %s, want %s", c.set, c.n, got, c.want)
		}
	}
}
