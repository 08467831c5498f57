package metering

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
)

// openStore is a store that can be looked into, person by person and call by call.
type openStore interface {
	upkeepStore
	Exporter
	Persons
}

func onExporters(t *testing.T, test func(t *testing.T, s openStore)) {
	onStores(t, func(t *testing.T, s store) { test(t, s.(openStore)) })
}

// exported adds up what an export gives, and checks its order.
func exported(t *testing.T, s Exporter, q ExportQuery) (total Totals, rows int) {
	t.Helper()
	var events []Event
	var last *UsageRow
	err := s.Export(t.Context(), q, func(r *UsageRow) error {
		if last != nil && (r.AdmittedAt.Before(last.AdmittedAt) || r.ID == last.ID) {
			t.Errorf("row %d, of %s, comes after one of %s", rows, r.AdmittedAt, last.AdmittedAt)
		}
		kept := *r
		last = &kept
		rows++
		events = append(events, r.Event)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return expected(events), rows
}

func TestExportIsTheSums(t *testing.T) {
	onExporters(t, func(t *testing.T, s openStore) {
		const n = 50_000
		events := randomEvents(80, 21, n)
		for i := 0; i < n; i += 1000 {
			mustRecord(t, s, events[i:i+1000]...)
		}
		from, to := testDay.Add(time.Hour), testDay.Add(3*time.Hour)
		for _, q := range []ExportQuery{
			{},
			{ClientID: clientIDs[1]},
			{ClientID: clientIDs[2], From: from, To: to},
			{From: from},
			{To: to},
			{ClientID: uuid.New()},
		} {
			report, err := s.Usage(t.Context(), UsageQuery{ClientID: q.ClientID, From: q.From, To: q.To, Limit: -1})
			if err != nil {
				t.Fatal(err)
			}
			total, rows := exported(t, s, q)
			if got, want := plain(total), plain(report.Total); got != want || int64(rows) != report.Total.Calls {
				t.Errorf("%+v: %d rows\n got %s\nwant %s", q, rows, got, want)
			}
		}
		if err := s.Export(t.Context(), ExportQuery{From: to, To: from}, nil); err == nil {
			t.Error("a time that ends before it begins has an export")
		}
		stop, rows := errors.New("enough"), 0
		err := s.Export(t.Context(), ExportQuery{}, func(*UsageRow) error {
			if rows++; rows == 3 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || rows != 3 {
			t.Errorf("ended after %d rows with %v", rows, err)
		}
	})
}

// TestExportHoldsStill adds rows in the middle of an export, before and after the place it is at.
func TestExportHoldsStill(t *testing.T) {
	onExporters(t, func(t *testing.T, s openStore) {
		events := randomEvents(81, 22, 9000)
		mustRecord(t, s, events[:8000]...)
		var got []Event
		more := events[8000:]
		err := s.Export(t.Context(), ExportQuery{}, func(r *UsageRow) error {
			if len(got)%500 == 10 && len(more) > 0 {
				mustRecord(t, s, more[:100]...)
				more = more[100:]
			}
			got = append(got, r.Event)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if g, w := plain(expected(got)), plain(expected(events[:8000])); g != w {
			t.Errorf("%d rows\n got %s\nwant %s", len(got), g, w)
		}
		mustHold(t, s, events)
	})
}

// personEvents makes a tenant's events of three people, who write through phones that come in several spellings.
func personEvents(seed uint64, n int) (events []Event, client uuid.UUID) {
	client = clientIDs[0]
	events = randomEvents(seed, seed, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range events {
		ev := &events[i]
		switch r.IntN(5) {
		case 0:
			ev.Phone, ev.ConversationID = "AbCdEfGhIjKlMnOpQrStUv", "conversa-da-ana"
		case 1:
			ev.Phone, ev.ConversationID = "+55 11 98765-4321", "conversa-dois-da-ana"
		case 2:
			ev.Phone, ev.ConversationID = "", "conversa-da-ana" // she, though no phone is named
		case 3:
			ev.Phone, ev.ConversationID = "zzCdEfGhIjKlMnOpQrStUv", "conversa-do-beto"
		default:
			ev.Phone, ev.ConversationID = "", ""
		}
	}
	return events, client
}

// ana is one of them, and isAna tells her calls apart in another way.
func ana(client uuid.UUID) Person {
	is := func(phone string) bool {
		return phone == "AbCdEfGhIjKlMnOpQrStUv" || plainPhone(phone) == "5511987654321"
	}
	return Person{ClientID: client, Is: is, Phones: []string{"AbCdEfGhIjKlMnOpQrStUv", "5511987654321@s.whatsapp.net"}}
}

func isAna(ev *Event, client uuid.UUID) bool {
	return ev.ClientID == client && (ev.Phone == "AbCdEfGhIjKlMnOpQrStUv" || ev.Phone == "+55 11 98765-4321" || ev.Phone == "" && ev.ConversationID == "conversa-da-ana")
}

// personCalls reads a person's calls.
func personCalls(t *testing.T, s Persons, p Person) (ids map[uuid.UUID]bool) {
	t.Helper()
	ids = map[uuid.UUID]bool{}
	if err := s.PersonCalls(t.Context(), p, func(r *UsageRow) error { ids[r.ID] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	return ids
}

// countAna counts the calls of hers, of another person of her tenant, and of other tenants.
func countAna(t *testing.T, s Exporter, client uuid.UUID) (n, beto, others int) {
	t.Helper()
	err := s.Export(t.Context(), ExportQuery{}, func(r *UsageRow) error {
		switch {
		case isAna(&r.Event, client) || r.ClientID == client && r.ConversationID == "conversa-dois-da-ana":
			n++
		case r.ClientID == client && r.ConversationID == "conversa-do-beto":
			beto++
		case r.ClientID != client && r.ConversationID != "":
			others++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, beto, others
}

func TestEraseAPerson(t *testing.T) {
	onExporters(t, func(t *testing.T, s openStore) {
		events, client := personEvents(90, 600)
		now := testDay.Add(7 * time.Hour)
		mustRecord(t, s, events...)
		mine := map[uuid.UUID]bool{}
		for i := range events {
			if isAna(&events[i], client) {
				mine[EventID(events[i].Incarnation, events[i].Seq)] = true
			}
		}
		had, beto, others := countAna(t, s, client)
		if had != len(mine) || had < 80 || beto < 20 {
			t.Fatalf("%d of hers, %d of his", had, beto)
		}
		if got := personCalls(t, s, ana(client)); len(got) != len(mine) {
			t.Errorf("an export of her has %d calls of %d", len(got), len(mine))
		}
		erased, err := s.Erase(t.Context(), ana(client), now)
		if err != nil || erased.Calls != len(mine) || erased.Letters != 0 {
			t.Errorf("erased %+v, %v; want %d calls", erased, err, len(mine))
		}
		if n, b, o := countAna(t, s, client); n != 0 || b != beto || o != others {
			t.Errorf("left are %d of hers, %d of %d of his, %d of %d of other tenants'", n, b, beto, o, others)
		}
		if got := personCalls(t, s, ana(client)); len(got) != 0 {
			t.Errorf("an export of her still has %d calls", len(got))
		}
		mustHold(t, s, events) // to the token
		if again, err := s.Erase(t.Context(), ana(client), now.Add(time.Second)); err != nil || again != (Erased{}) {
			t.Errorf("again: %+v, %v", again, err)
		}

		// Calls of hers that were on their way come late; later ones she makes anew.
		late, _ := personEvents(91, 200)
		after, _ := personEvents(92, 200)
		newCalls := 0
		for i := range after {
			after[i].AdmittedAt = now.Add(time.Minute)
			if isAna(&after[i], client) {
				newCalls++
			}
		}
		lateCalls := 0
		for i := range late {
			if isAna(&late[i], client) {
				lateCalls++
			}
		}
		mustRecord(t, s, late...)
		mustRecord(t, s, after...)
		n, err := s.EraseLate(t.Context(), now.Add(time.Hour))
		if err != nil || n != lateCalls || n == 0 {
			t.Errorf("%d erased of late calls, %v; want %d", n, err, lateCalls)
		}
		if n, err := s.EraseLate(t.Context(), now.Add(2*time.Hour)); err != nil || n != 0 {
			t.Errorf("again: %d, %v", n, err)
		}
		letter := late[0] // one that came late, and could not be recorded either
		letter.Seq, letter.ClientID, letter.Phone, letter.ConversationID = 9999, client, "(55) 11-98765-4321", "x"
		if err := s.DeadLetter(t.Context(), letter.Append(nil), letter, "poison"); err != nil {
			t.Fatal(err)
		}
		if n, err := s.EraseLate(t.Context(), now.Add(2*time.Hour)); err != nil || n != 1 {
			t.Errorf("a late letter: %d, %v", n, err)
		}
		for _, l := range mustLetters(t, s, LetterQuery{}) {
			whole, err := s.Letter(t.Context(), l.ID)
			if ev, readErr := whole.Event(); err != nil || readErr != nil || ev.Phone != "" || ev.ConversationID != "" || ev.USD != letter.USD {
				t.Errorf("the late letter is %+v, %v, %v", ev, err, readErr)
			}
		}
		if n, _, _ := countAna(t, s, client); n != newCalls {
			t.Errorf("%d of hers are left, want the %d since", n, newCalls)
		}
		all := append(append(events, late...), after...)
		mustHold(t, s, all)

		// When nothing can be late any more, even the digests are forgotten.
		if n, err := s.EraseLate(t.Context(), now.Add(lateFor+time.Minute)); err != nil || n != 0 {
			t.Errorf("%d, %v", n, err)
		}
		later, _ := personEvents(93, 50)
		mustRecord(t, s, later...)
		if n, err := s.EraseLate(t.Context(), now.Add(lateFor+time.Minute)); err != nil || n != 0 {
			t.Errorf("the erasure is still remembered: %d, %v", n, err)
		}
	})
}

func TestEraseFromDeadLetters(t *testing.T) {
	onExporters(t, func(t *testing.T, s openStore) {
		cure := poisonLog(t, s)
		events, client := personEvents(94, 200)
		for i := range events {
			if i%3 == 0 {
				events[i].ModelServed = "poison"
			}
		}
		mustBury(t, s, events)
		// Ones that nobody can read, with her in it.
		newer := events[1]
		newer.Phone = "AbCdEfGhIjKlMnOpQrStUv"
		raw := newer.Append(nil)
		raw[0] = 77
		var known Event
		why := known.Decode(raw)
		known.Incarnation = 4711
		if err := s.DeadLetter(t.Context(), raw, known, why.Error()); err != nil {
			t.Fatal(err)
		}
		if err := s.DeadLetter(t.Context(), []byte("garbage with 5511987654321@s.whatsapp.net in it"), Event{}, "garbage"); err != nil {
			t.Fatal(err)
		}
		want := 2
		for i := range events {
			if i%3 == 0 && isAna(&events[i], client) {
				want++
			}
		}
		erased, err := s.Erase(t.Context(), ana(client), testDay.Add(7*time.Hour))
		if err != nil || erased.Letters != want {
			t.Errorf("erased %+v, %v; want %d letters", erased, err, want)
		}
		for _, l := range mustLetters(t, s, LetterQuery{Limit: 1000}) {
			whole, err := s.Letter(t.Context(), l.ID)
			if err != nil {
				t.Fatal(err)
			}
			if ev, err := whole.Event(); err == nil && isAna(&ev, client) {
				t.Errorf("letter %s is still hers", l.ID)
			} else if err != nil && (string(whole.Raw[:7]) == "garbage") != (string(whole.Raw) == "garbage with **************************** in it") {
				t.Errorf("letter %q", whole.Raw)
			}
		}
		cure()
		if sum, err := ReplayAll(t.Context(), s, LetterQuery{Limit: 1000}); err != nil || sum.Recorded != 67 || sum.Refused != 2 {
			t.Errorf("replayed %+v, %v", sum, err)
		}
		mustHold(t, s, events)
		if n, _, _ := countAna(t, s, client); n != 0 {
			t.Errorf("%d of hers came back out of the letters", n)
		}
	})
}

func TestPlainPhone(t *testing.T) {
	for in, want := range map[string]string{
		"+55 (11) 98765-4321": "5511987654321", "whatsapp:+5511987654321": "5511987654321", "5511987654321@s.whatsapp.net": "5511987654321",
		"AbCdEfGhIjKlMnOpQrStUv": "AbCdEfGhIjKlMnOpQrStUv", "": "", "12": "12", "maria@example.com": "maria@example.com",
	} {
		if got := plainPhone(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
