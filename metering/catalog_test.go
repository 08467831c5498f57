package metering

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestLookup(t *testing.T) {
	model := func(provider, name, gateway string, active bool) Model {
		return Model{ID: uuid.New(), Provider: provider, Name: name, GatewayID: gateway, Kind: "language", Active: active}
	}
	c := NewCatalog([]Model{
		model("zeta", "shared", "zeta/shared", true),
		model("google", "shared", "google/shared", true),
		model("openai", "shared", "openai/shared", true),
		model("openai", "gone", "openai/gone", false),
		model("groq", "gone", "groq/gone", true),
		model("groq", "openai/gpt-oss-120b", "openai/gpt-oss-120b", true),
		model("anthropic", "claude-sonnet-5-5", "anthropic/claude-sonnet-5.5", true),
		model("openai", "gpt-4o", "openai/gpt-4o", false),
	})
	f := func(name, want string) {
		t.Helper()
		got := ""
		if m := c.Lookup(name); m != nil {
			got = m.GatewayID
		}
		if got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	f("openai/gpt-4o", "openai/gpt-4o") // an inactive one is found: to say no is not the catalog's part
	f("gpt-4o", "openai/gpt-4o")
	f("shared", "openai/shared")
	f("zeta/shared", "zeta/shared")
	f("gone", "groq/gone") // an active one goes before openai's
	f("openai/gone", "openai/gone")
	f("openai/gpt-oss-120b", "openai/gpt-oss-120b")
	f("groq/openai/gpt-oss-120b", "openai/gpt-oss-120b")
	f("gpt-oss-120b", "openai/gpt-oss-120b")
	f("claude-sonnet-5-5", "anthropic/claude-sonnet-5.5")
	f("claude-sonnet-5.5", "anthropic/claude-sonnet-5.5")
	f("anthropic/claude-sonnet-5-5", "anthropic/claude-sonnet-5.5")
	f("GPT-4o", "")
	f("", "")
	f("openai/", "")
	if m := c.Models()[0]; c.ByID(m.ID) != m || c.ByID(uuid.New()) != nil {
		t.Error("not found by id")
	}
	name := []byte("shared")
	if n := testing.AllocsPerRun(100, func() { c.Lookup(string(name)) }); n > 1 { // the conversion to a string
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { c.Lookup("openai/gpt-4o") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFitPrice(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	history := []Price{
		{Note: "third", From: day(20)},
		{Note: "second", From: day(10), To: day(20)},
		{Note: "first", From: day(1), To: day(8)},
	}
	f := func(from int, wantOld string, wantTo time.Time) {
		t.Helper()
		old, got := fitPrice(history, Price{From: day(from), To: day(31)})
		note := ""
		if old != nil {
			note = old.Note
		}
		if note != wantOld || !got.To.Equal(wantTo) {
			t.Errorf("from day %d: ends %q and itself at %v, want %q and %v", from, note, got.To, wantOld, wantTo)
		}
	}
	f(25, "third", time.Time{})
	f(20, "third", time.Time{}) // that one is then in force for no time at all
	f(15, "second", day(20))
	f(9, "", day(10)) // into a gap
	f(5, "first", day(10))
	old, _ := fitPrice(nil, Price{From: day(1)})
	if old != nil {
		t.Error("ends a price where there is none")
	}
}

func TestTiersAsText(t *testing.T) {
	tiers := []Tier{{MinInput: 272001, Input: 4_000_000, Output: 20_000_000, Cached: 200_001, CacheWrite: NoPrice}, {MinInput: 1 << 50}}
	raw, err := marshalTiers(tiers)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"min_input":272001,"input":"0.000004","output":"0.00002","cached":"0.000000200001"},` +
		`{"min_input":1125899906842624,"input":"0","output":"0","cached":"0","cache_write":"0"}]`
	if raw != want {
		t.Errorf("got %s\nwant %s", raw, want)
	}
	back, err := parseTiers(raw)
	if err != nil || len(back) != 2 || back[0] != tiers[0] || back[1] != tiers[1] {
		t.Errorf("%+v, %v", back, err)
	}
	for _, bad := range []string{`{}`, `[{"input":"x"}]`, `[{"input":4}]`} {
		if _, err := parseTiers(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	for _, bad := range [][]Tier{{{MinInput: 0}}, {{MinInput: 5}, {MinInput: 5}}, {{MinInput: 5, Output: -7}}} {
		if err := (&Price{Tiers: bad}).check(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
