package metering

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// fill gives every field of a struct a value of its own, so that a field which the codec forgets is seen.
func fill(v reflect.Value, n *int64) {
	switch *n++; v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 1+int(*n%28), 0, 0, 0, 0, time.UTC)))
		return
	case uuid.UUID:
		v.Set(reflect.ValueOf(uuid.UUID{15: byte(*n)}))
		return
	case []Hold:
		v.Set(reflect.ValueOf([]Hold{{*n + 1, *n}, {1 << 62, 1 << 61}}))
		return
	case Source:
		v.Set(reflect.ValueOf(Estimated))
		return
	case Outcome:
		v.Set(reflect.ValueOf(Crashed))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(strings.Repeat("é", int(*n%7)) + string(rune('a'+*n%26)))
	case reflect.Int, reflect.Int64:
		v.SetInt(*n * 1_000_003)
	case reflect.Uint64:
		v.SetUint(uint64(*n) * 1_000_003)
	default:
		panic("a kind of field that the codec does not know: " + v.Kind().String())
	}
}

func filledEvent() Event {
	var e Event
	var n int64
	fill(reflect.ValueOf(&e).Elem(), &n)
	return e
}

// usualEvent is what most calls look like.
func usualEvent(seq uint64) Event {
	return Event{
		Seq: seq, RequestID: "req_01JD3W5X8Q5N3M2K7H6G4F2D1C", ClientID: uuid.UUID{1, 2, 3, 4: byte(seq), 15: 9}, KeyID: uuid.UUID{7, 15: 1},
		ConversationID: "0193565e-7d4c-7d2b-9f0a-1b2c3d4e5f60", Phone: "p_4f2a9c1d8e7b6a50", Endpoint: "chat.completions",
		Streamed: true, Route: "gateway", Provider: "openai", ModelAsked: "openai/gpt-4o-mini", ModelServed: "gpt-4o-mini-2024-07-18",
		ModelID: uuid.UUID{4, 15: 2}, AdmittedAt: time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC), LatencyMs: 1843, TTFTMs: 412, OverheadUs: 61,
		Status: 200, Usage: Usage{Source: Measured, Input: 812, Output: 233, Total: 1045, Cached: 512},
		Cost: Cost{
			USD: 261_600_000, BRL: 1_345_722_720, Known: true, ListUSD: 261_600_000, ListKnown: true, GateUSD: 261_600_000, GateKnown: true,
			PriceID: uuid.UUID{3, 15: 4}, Rate: ExchangeRate{Rate: 514_420_000, Date: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Source: "ptax"},
		},
		UpstreamID: "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx", FinishReason: "stop", RequestBytes: 3120, ResponseBytes: 941,
	}
}

func TestEventRoundTrip(t *testing.T) {
	events := []Event{{}, filledEvent(), usualEvent(7)}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 { // some fields filled, some not
		e, filled := Event{}, filledEvent()
		to, from := reflect.ValueOf(&e).Elem(), reflect.ValueOf(filled)
		for i := range to.NumField() {
			if r.IntN(2) == 0 {
				to.Field(i).Set(from.Field(i))
			}
		}
		for _, n := range e.numbers() {
			*n = r.Int64() >> r.IntN(64) * (r.Int64N(3) - 1)
		}
		events = append(events, e)
	}
	for _, e := range events {
		b := e.Append([]byte("before"))[6:]
		if len(b) > maxEncoded {
			t.Fatalf("%d bytes, over the bound of %d", len(b), maxEncoded)
		}
		var got Event
		if err := got.Decode(b); err != nil {
			t.Fatalf("%v in %+v", err, e)
		}
		if !sameEvent(got, e) {
			t.Fatalf("got  %+v\nwant %+v", got, e)
		}
	}
}

func TestEventSize(t *testing.T) {
	e := usualEvent(1)
	if n := len(e.Append(nil)); n > 400 {
		t.Errorf("a usual event has %d bytes, which the sizes of the spool do not reckon with", n)
	}
	e = filledEvent()
	for _, n := range e.numbers() {
		*n = math.MinInt64
	}
	for _, s := range e.texts() {
		*s = strings.Repeat("x", 10_000)
	}
	e.Status = math.MinInt32
	e.Holds = slices.Repeat([]Hold{{math.MaxInt64, math.MaxInt64}}, maxHolds+5)
	if n := len(e.Append(nil)); n > maxEncoded {
		t.Errorf("the largest event has %d bytes; the room that is kept is %d", n, maxEncoded)
	}
}

func TestEventTextsAreCleaned(t *testing.T) {
	for _, text := range []string{
		"a\x00b", "\xff\xfe", "ok\xc3", strings.Repeat("a", 254) + "é", strings.Repeat("é", 1000), strings.Repeat("\x00", 9000),
	} {
		e := Event{Seq: 1, UpstreamID: text, ErrorCode: "after"}
		var got Event
		if err := got.Decode(e.Append(nil)); err != nil {
			t.Fatalf("%.20q: %v", text, err)
		}
		if s := got.UpstreamID; !utf8.ValidString(s) || strings.ContainsRune(s, 0) || len(s) > textLimit || len(s) == 0 {
			t.Errorf("%.20q became %q", text, s)
		}
		if got.ErrorCode != "after" {
			t.Errorf("%.20q shifted the text after it to %q", text, got.ErrorCode)
		}
	}
}

func TestEventOfALaterVersion(t *testing.T) {
	e := usualEvent(42)
	e.Incarnation = 77
	b := e.Append(nil)
	b[0] = 9
	for _, b := range [][]byte{b, b[:20], append(b, make([]byte, 9000)...)} {
		var got Event
		var version *VersionError
		if err := got.Decode(b); !errors.As(err, &version) || version.Version != 9 {
			t.Fatalf("got %v", err)
		}
		if want := (Event{Incarnation: 77, Seq: 42}); !sameEvent(got, want) {
			t.Errorf("got %+v", got)
		}
	}
}

func TestEventMalformed(t *testing.T) {
	whole := usualEvent(3)
	whole.LatencyMs = 0 // the first number: one byte, of which there is a longer spelling
	b := whole.Append(nil)
	mutate := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(b)) }
	cases := map[string][]byte{
		"nothing":  nil,
		"too long": mutate(func(b []byte) []byte { return append(b, 0) }),
		"long varint": mutate(func(b []byte) []byte {
			return append(append(b[:prefixBytes:prefixBytes], 0x80, 0), b[prefixBytes+1:]...)
		}),
		"unknown flag":   mutate(func(b []byte) []byte { b[atFlags+1] = 0x80; return b }),
		"source":         mutate(func(b []byte) []byte { b[atSource] = 3; return b }),
		"outcome":        mutate(func(b []byte) []byte { b[atOutcome] = 200; return b }),
		"year 300000":    mutate(func(b []byte) []byte { binary.LittleEndian.PutUint64(b[atAdmitted:], math.MaxInt64); return b }),
		"text with NUL":  mutate(func(b []byte) []byte { b[len(b)-1] = 0; return b }),
		"text not UTF-8": mutate(func(b []byte) []byte { b[len(b)-1] = 0xff; return b }),
	}
	for n := range b {
		cases["cut at "+string(rune('0'+n%10))+strings.Repeat(".", n)] = b[:n]
	}
	for name, b := range cases {
		var e Event
		if err := e.Decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.20s: %v", name, err)
		} else if !sameEvent(e, Event{}) {
			t.Errorf("%.20s: left %+v behind", name, e)
		}
	}
}

func FuzzEventDecode(f *testing.F) {
	for _, e := range []Event{{}, filledEvent(), usualEvent(1)} {
		f.Add(e.Append(nil))
	}
	f.Add([]byte{2, 16: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		var e Event
		err := e.Decode(b)
		if err == nil {
			if again := e.Append(nil); !bytes.Equal(again, b) {
				t.Fatalf("another encoding of the same event was accepted:\n%x\n%x", b, again)
			}
			clear(b) // callers use their memory again
			if again := e.Append(nil); !bytes.Equal(again, kept) {
				t.Fatal("the event still refers to the bytes it was decoded from")
			}
			return
		}
		var version *VersionError
		if errors.As(err, &version) != (len(b) > 0 && !known(b[0]) && len(b) >= atClient && len(b) <= maxPayload) {
			t.Fatalf("%v for version %x of %d bytes", err, b[:min(1, len(b))], len(b))
		}
	})
}

func TestEventAppendDoesNotAllocate(t *testing.T) {
	e := usualEvent(1)
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = e.Append(buf[:0]) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEventAppend(b *testing.B) {
	e := usualEvent(1)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.Append(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkEventDecode(b *testing.B) {
	e := usualEvent(1)
	buf := e.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// What no budget concerns is written as older releases know it, and what does concern one is not.
func TestEventVersions(t *testing.T) {
	plain, held, doubted := usualEvent(1), usualEvent(1), usualEvent(1)
	held.Holds = []Hold{{Window: 7, Amount: 0}}
	doubted.Doubt = true
	for _, tc := range []struct {
		e    Event
		want byte
	}{{plain, eventVersion}, {held, heldVersion}, {doubted, heldVersion}} {
		b := tc.e.Append(nil)
		if b[0] != tc.want {
			t.Errorf("version %d, want %d", b[0], tc.want)
		}
		b[0] ^= eventVersion ^ heldVersion
		if err := new(Event).Decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("under the other version: %v", err)
		}
	}
	for _, bad := range [][]Hold{{{Window: 0, Amount: 1}}, {{Window: -1, Amount: 1}}, {{Window: 1, Amount: -1}}} {
		held.Holds = bad
		if err := new(Event).Decode(held.Append(nil)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestCrashLeavesADoubt(t *testing.T) {
	e := usualEvent(1)
	e.Holds = []Hold{{Window: 7, Amount: 5000}}
	e.Usage = Usage{}
	e.crash(nil)
	if !e.Doubt {
		t.Error("what a call may have used when its process died is free again")
	}
	e.Usage.Source, e.Doubt = Measured, false
	if e.crash(nil); e.Doubt {
		t.Error("a call that was measured is doubted")
	}
}
