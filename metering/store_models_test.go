package metering

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// planSeed is the plan's INSERT, as people read it.
var planSeed = []struct {
	provider, name, gateway string
	vision                  bool
	context, output         int
	inputPrice, outputPrice string
	description, retires    string
}{
	{"openai", "gpt-4o", "openai/gpt-4o", true, 128000, 16384, "2.5", "10", "OpenAI GPT-4o - Multimodal flagship model", "2027-01-14"},
	{"openai", "gpt-4o-mini", "openai/gpt-4o-mini", true, 128000, 16384, "0.15", "0.6", "OpenAI GPT-4o Mini - Cost-effective multimodal", "2027-01-14"},
	{"groq", "llama-3.3-70b-versatile", "groq/llama-3.3-70b-versatile", false, 131072, 32768, "0.59", "0.79", "Meta Llama 3.3 70B on Groq - Fast inference", "2026-08-16"},
	{"anthropic", "claude-3-5-sonnet-20241022", "anthropic/claude-3-5-sonnet-20241022", true, 200000, 8192, "3", "15", "Anthropic Claude 3.5 Sonnet", "2025-10-28"},
	{"anthropic", "claude-3-opus-20240229", "anthropic/claude-3-opus-20240229", true, 200000, 4096, "15", "75", "Anthropic Claude 3 Opus", "2026-01-05"},
	{"google", "gemini-2.0-flash-exp", "google/gemini-2.0-flash-exp", true, 1000000, 8192, "0", "0", "Google Gemini 2.0 Flash", "2026-02-18"},
}

func mustLoad(t *testing.T, s store) *Catalog {
	t.Helper()
	c, err := s.LoadCatalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSeed(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		c := mustLoad(t, s)
		for _, want := range planSeed {
			m := c.Lookup(want.gateway)
			if m == nil {
				t.Fatalf("%s is missing", want.gateway)
			}
			can := map[string]bool{"text": true, "tools": true, "streaming": true}
			if want.vision {
				can["vision"] = true
			}
			if m.Provider != want.provider || m.Name != want.name || m.ContextWindow != want.context || m.MaxOutput != want.output ||
				!m.Active || m.Description != want.description || m.Kind != "language" || !reflect.DeepEqual(m.Capabilities, can) {
				t.Errorf("%+v", m)
			}
			if m.RetiresAt.Format(time.DateOnly) != want.retires || c.Lookup(m.Replacement) == nil || c.Lookup(m.Replacement).GatewayID != m.Replacement {
				t.Errorf("%s retires %s for %q", m.GatewayID, m.RetiresAt, m.Replacement)
			}
			p := m.PriceAt(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
			if p == nil || p.Input != perMillion(want.inputPrice) || p.Output != perMillion(want.outputPrice) || p.Source != "seed" {
				t.Errorf("%s costs %+v", m.GatewayID, p)
			}
		}
		if len(c.Models()) < 30 {
			t.Errorf("only %d models", len(c.Models()))
		}
		for _, m := range c.Models() {
			if m.PriceAt(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)) == nil || m.PriceAt(time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)) == nil {
				t.Errorf("%s has no price", m.GatewayID)
			}
			for _, p := range m.Prices {
				if p.Note == "" || p.check() != nil {
					t.Errorf("%s: %+v: %v", m.GatewayID, p, p.check())
				}
			}
		}
	})
}

func TestSeedPrices(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		c := mustLoad(t, s)
		f := func(name, day string, u Usage, want string) {
			t.Helper()
			at, err := time.Parse(time.DateTime, day)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := c.Lookup(name).Cost(at, &u)
			if !ok || got.String() != want {
				t.Errorf("%s on %s: %s, %v; want %s", name, day, got, ok, want)
			}
		}
		million := Usage{Input: 1_000_000}
		f("gemini-3.8-flash", "2026-12-31 23:59:59", million, "0.75")
		f("gemini-3.8-flash", "2027-01-01 00:00:00", million, "1.5")
		f("gemini-2.5-pro", "2026-11-30 23:59:59", million, "2.5") // over 200K tokens
		f("gemini-2.5-pro", "2026-12-01 00:00:00", million, "0.75")
		f("gpt-4o-mini", "2026-11-22 00:00:00", Usage{Input: 1_000_000, Cached: 1_000_000}, "0.075")
		f("gpt-6-luna", "2026-11-22 00:00:00", Usage{Input: 1_000_000, CacheWrite: 1_000_000}, "0.125")
		f("gpt-6.1-sol", "2026-11-22 00:00:00", Usage{Input: 272_000}, "0.544")
		f("gpt-6.1-sol", "2026-11-22 00:00:00", Usage{Input: 272_001, Output: 1}, "1.088024")
		f("claude-haiku-5-5", "2026-11-22 00:00:00", Usage{Input: 100_001, Cached: 100_001}, "0.00500005")
		f("claude-sonnet-5-5", "2026-10-06 00:00:00", Usage{Input: 10, Cached: 10}, "0.000002")
		f("claude-sonnet-5-5", "2026-10-07 00:00:00", Usage{Input: 10, Cached: 10}, "0.000001")
		f("text-embedding-3-small", "2026-11-22 00:00:00", million, "0.02")
		f("text-embedding-3-large", "2026-11-22 00:00:00", million, "0.13")
		f("whisper-1", "2026-11-22 00:00:00", Usage{AudioMs: 60_000}, "0.006")
		f("gpt-4o-mini-transcribe", "2026-11-22 00:00:00", Usage{Input: 100, AudioInput: 100}, "0.0003")
		f("tts-1", "2026-11-22 00:00:00", Usage{Characters: 1_000_000}, "15")
		f("omni-moderation-latest", "2026-11-22 00:00:00", million, "0")
		f("dall-e-3", "2026-11-22 00:00:00", Usage{Images: 2}, "0.08")
		f("gpt-image-1", "2026-11-22 00:00:00", Usage{Input: 1000, Output: 1000, Images: 1}, "0.045")
	})
}

// The two seeds are two files; this holds them to each other.
func TestSeedsAreEqual(t *testing.T) {
	a, b := mustLoad(t, newSQLite(t)), mustLoad(t, newPostgres(t))
	if len(a.Models()) != len(b.Models()) {
		t.Fatalf("%d models and %d", len(a.Models()), len(b.Models()))
	}
	for i, m := range a.Models() {
		n := *b.Models()[i]
		n.CreatedAt = m.CreatedAt
		if !reflect.DeepEqual(*m, n) {
			t.Errorf("sqlite   %+v\npostgres %+v", *m, n)
		}
	}
}

func TestUpsertModel(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		want := Model{
			Provider: "openai", Name: "gpt-7", GatewayID: "openai/gpt-7", Kind: "language", Capabilities: map[string]bool{"text": true, "tools": true},
			ContextWindow: 1000, MaxOutput: 10, Active: true, RetiresAt: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Replacement: "openai/gpt-8", Description: "É novo",
		}
		added, err := s.UpsertModel(t.Context(), want)
		if err != nil || added.ID == uuid.Nil {
			t.Fatalf("%+v, %v", added, err)
		}
		compare := func() {
			t.Helper()
			want.ID, want.CreatedAt = added.ID, added.CreatedAt
			if got := mustLoad(t, s).Lookup("gpt-7"); got == nil || !reflect.DeepEqual(*got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		}
		compare()
		if got := mustLoad(t, s).Lookup("gpt-7").PriceAt(time.Now()); got != nil {
			t.Errorf("has a price: %+v", got)
		}
		want.ContextWindow, want.MaxOutput, want.RetiresAt, want.Description = 0, 0, time.Time{}, ""
		again, err := s.UpsertModel(t.Context(), want)
		if err != nil || again.ID != added.ID || !again.CreatedAt.Equal(added.CreatedAt) {
			t.Errorf("%+v, %v", again, err)
		}
		compare()
		if err := s.DeactivateModel(t.Context(), added.ID); err != nil {
			t.Error(err)
		}
		want.Active = false
		compare()
		if err := s.DeactivateModel(t.Context(), uuid.New()); !errors.Is(err, ErrUnknownModel) {
			t.Errorf("deactivate an unknown model: %v", err)
		}
		for name, bad := range map[string]Model{
			"no provider":     {Name: "a", GatewayID: "a/a", Kind: "language"},
			"blank":           {Provider: "a", Name: " a", GatewayID: "a/a", Kind: "language"},
			"NUL":             {Provider: "a", Name: "a\x00", GatewayID: "a/a", Kind: "language"},
			"another has it":  {Provider: "openai", Name: "gpt-4o", GatewayID: "openai/gpt-4o-copy", Kind: "language"},
			"negative window": {Provider: "a", Name: "a", GatewayID: "a/a", Kind: "language", ContextWindow: -1},
		} {
			if _, err := s.UpsertModel(t.Context(), bad); err == nil {
				t.Errorf("%s: taken", name)
			}
		}
	})
}

func TestSetPrice(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		c := mustLoad(t, s)
		gemini := c.Lookup("gemini-3.8-flash")
		at := time.Now().UTC()
		p := NewPrice()
		p.Input, p.Output, p.Cached, p.Image, p.Character, p.AudioSecond = 1, 2, 3, 4, 5, 6
		p.CacheWrite, p.AudioInput, p.AudioOutput = 7, 1<<63-1, 9
		p.Tiers = []Tier{{MinInput: 5, Input: 1, Output: NoPrice, Cached: 0, CacheWrite: 2}}
		p.Source, p.Note = "manual", "contract"
		set, err := s.SetPrice(t.Context(), gemini.ID, p)
		if err != nil {
			t.Fatal(err)
		}
		m := mustLoad(t, s).Lookup("gemini-3.8-flash")
		if len(m.Prices) != 3 {
			t.Fatalf("%d prices, want 3", len(m.Prices))
		}
		// Before: the promotion. From now on: ours. When 2027 begins: still what was announced.
		announced, now, before := m.Prices[0], m.Prices[1], m.Prices[2]
		if !reflect.DeepEqual(now, set) || now.From.Before(at.Add(-time.Second)) || !now.To.Equal(announced.From) || !before.To.Equal(now.From) {
			t.Errorf("set %+v\nkept %+v", set, now)
		}
		if got := m.PriceAt(time.Now()); got.ID != set.ID {
			t.Errorf("in force: %+v", got)
		}
		p.ID, p.ModelID, p.From, p.To = set.ID, set.ModelID, set.From, set.To
		if !reflect.DeepEqual(p, set) {
			t.Errorf("asked for %+v\nkept %+v", p, set)
		}
		for i, q := range []Price{p, {Source: "manual", Input: -5}, {Source: "manual", Tiers: []Tier{{}}}, {}} {
			id := gemini.ID
			if i == 0 {
				id = uuid.New()
			}
			if _, err := s.SetPrice(t.Context(), id, q); err == nil || i == 0 && !errors.Is(err, ErrUnknownModel) {
				t.Errorf("case %d: %v", i, err)
			}
		}
		if got := mustLoad(t, s).Lookup("gemini-3.8-flash"); len(got.Prices) != 3 {
			t.Errorf("a refused price left %d prices", len(got.Prices))
		}
	})
}

func TestChangesOfModelsAreInTheFeed(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		changes := func() int { return feedLength(t, s) }
		before := changes()
		m := mustLoad(t, s).Lookup("gpt-4o")
		if changes() != before {
			t.Error("reading made a change")
		}
		p := NewPrice()
		p.Source = "manual"
		if _, err := s.SetPrice(t.Context(), m.ID, p); err != nil {
			t.Fatal(err)
		}
		after := changes()
		if after == before {
			t.Error("a new price is not in the feed")
		}
		if err := s.DeactivateModel(t.Context(), m.ID); err != nil || changes() == after {
			t.Errorf("a deactivation is not in the feed: %v", err)
		}
	})
}

func TestSync(t *testing.T) {
	list := `{"object":"list","data":[
	{"id":"openai/gpt-4o-mini","type":"language","context_window":128000,"max_tokens":16384,"tags":["vision","tool-use"],"pricing":{"input":"0.00000015","output":"0.0000006","input_cache_read":"0.000000075"}},
	{"id":"openai/gpt-4o","type":"language","context_window":128000,"max_tokens":16384,"pricing":{"input":"0.0000025","output":"0.000012","input_cache_read":"0.00000125"}},
	{"id":"openai/gpt-6-luna","type":"language","context_window":900000,"max_tokens":64000,"pricing":{"input":"0.0000001","output":"0.0000005"}},
	{"id":"openai/gpt-5","type":"language","pricing":{"input":"0","output":"0.00001"}},
	{"id":"openai/gpt-5-mini","type":"language","pricing":{"input":"0.00000251","output":"0.000002"}},
	{"id":"openai/o3","type":"language","pricing":{"input":"0.000001","output":"0.000008"}},
	{"id":"anthropic/claude-new-6.1","type":"language","context_window":200000,"description":"New","tags":["reasoning"],"pricing":{"input":"0.000003","output":"0.000015","input_cache_write":"0.00000375",
		"input_tiers":[{"cost":"0.000003","min":0,"max":200001},{"cost":"0.000006","min":200001}],"output_tiers":[{"cost":"0.000015","min":0,"max":100000},{"cost":"0.0000225","min":100000}]}},
	{"id":"bfl/flux","type":"image","pricing":{"image":"0.04"}},
	{"id":"xai/nothing-said"},
	{"id":"bad/negative","pricing":{"input":"-0.1"}},
	{"id":"bad/words","pricing":{"input":"cheap"}},
	{"id":"bad/units","pricing":{"input":"2.50"}},
	{"id":"no-slash","pricing":{}},
	{"id":7},
	{"id":"openai/gpt-4o","pricing":{"input":"9"}},
	{"id":"bad/exponent","pricing":{"input":"1e999999999"}}
	]}`
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" || r.Header.Get("Authorization") != "Bearer vck_test" {
			t.Errorf("%s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		w.Write([]byte(list))
	}))
	t.Cleanup(gateway.Close) // after the parallel subtests
	onStores(t, func(t *testing.T, s store) {
		o3 := mustLoad(t, s).Lookup("o3")
		byHand := *o3.PriceAt(time.Now())
		byHand.Source, byHand.From = "manual", time.Time{}
		if _, err := s.SetPrice(t.Context(), o3.ID, byHand); err != nil {
			t.Fatal(err)
		}
		rows, bad, err := FetchGatewayModels(t.Context(), gateway.Client(), gateway.URL+"/v1", "vck_test")
		if err != nil {
			t.Fatal(err)
		}
		var badIDs []string
		for _, b := range bad {
			badIDs = append(badIDs, b.ID)
		}
		if !slices.Equal(badIDs, []string{"bad/negative", "bad/words", "bad/units", "no-slash", "entry 14", "openai/gpt-4o", "bad/exponent"}) {
			t.Errorf("bad rows: %+v", bad)
		}
		report, err := Sync(t.Context(), s, rows, SyncOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(report.Added, []string{"anthropic/claude-new-6.1", "bfl/flux", "xai/nothing-said"}) ||
			!slices.Equal(report.Changed, []string{"openai/gpt-4o", "openai/gpt-6-luna"}) ||
			!slices.Equal(report.Unchanged, []string{"openai/gpt-4o-mini"}) || !slices.Equal(report.Kept, []string{"openai/o3"}) ||
			!slices.Equal(report.Held, []string{"openai/gpt-5", "openai/gpt-5-mini"}) || len(report.Bad) != 0 ||
			!slices.Contains(report.Missing, "google/gemini-2.0-flash-exp") || slices.Contains(report.Missing, "openai/gpt-4o") {
			t.Errorf("%+v", report)
		}
		wantJumps := []PriceJump{
			{ID: "openai/gpt-5", What: "input", From: 1_250_000, To: 0},
			{ID: "openai/gpt-5-mini", What: "input", From: 250_000, To: 2_510_000},
		}
		if !slices.Equal(report.Jumps, wantJumps) {
			t.Errorf("jumps %+v", report.Jumps)
		}

		c := mustLoad(t, s)
		gpt4o := c.Lookup("openai/gpt-4o")
		if len(gpt4o.Prices) != 2 || gpt4o.PriceAt(time.Now()).Output != 12_000_000 || gpt4o.PriceAt(testDay.AddDate(0, 0, -1)).Output != 10_000_000 {
			t.Errorf("prices of gpt-4o: %+v", gpt4o.Prices)
		}
		luna := c.Lookup("gpt-6-luna")
		if len(luna.Prices) != 1 || luna.ContextWindow != 900000 || luna.PriceAt(time.Now()).CacheWrite != 125_000 {
			t.Errorf("gpt-6-luna: %+v", luna)
		}
		claude := c.Lookup("claude-new-6-1")
		wantTiers := []Tier{
			{MinInput: 100000, Input: 3_000_000, Output: 22_500_000, Cached: NoPrice, CacheWrite: 3_750_000},
			{MinInput: 200001, Input: 6_000_000, Output: 22_500_000, Cached: NoPrice, CacheWrite: 3_750_000},
		}
		if claude == nil || claude.GatewayID != "anthropic/claude-new-6.1" || !reflect.DeepEqual(claude.PriceAt(time.Now()).Tiers, wantTiers) || !claude.Capabilities["reasoning"] {
			t.Errorf("claude: %+v", claude)
		}
		if flux := c.Lookup("bfl/flux"); flux.Kind != "image" || flux.PriceAt(time.Now()).Image != 4*money.Unit/100 || flux.PriceAt(time.Now()).Input != NoPrice {
			t.Errorf("flux: %+v", flux)
		}
		if said := c.Lookup("xai/nothing-said"); said == nil || said.PriceAt(time.Now()) != nil {
			t.Errorf("a model without prices: %+v", said)
		}
		if p := c.Lookup("o3").PriceAt(time.Now()); p.Input != 2_000_000 || p.Source != "manual" {
			t.Errorf("a price set by hand became %+v", p)
		}

		// Again changes nothing, but that jumps are taken when asked for.
		feed := feedLength(t, s)
		report, err = Sync(t.Context(), s, rows, SyncOptions{})
		if err != nil || len(report.Added)+len(report.Changed) != 0 || feedLength(t, s) != feed {
			t.Errorf("again: %+v, %v", report, err)
		}
		report, err = Sync(t.Context(), s, rows, SyncOptions{AcceptJumps: true})
		if err != nil || !slices.Equal(report.Changed, []string{"openai/gpt-5", "openai/gpt-5-mini"}) || len(report.Jumps) != 2 || !report.Jumps[0].Applied {
			t.Errorf("with jumps: %+v, %v", report, err)
		}
		if p := mustLoad(t, s).Lookup("gpt-5").PriceAt(time.Now()); p.Input != 0 || p.Source != "gateway" {
			t.Errorf("gpt-5 after a jump that was accepted: %+v", p)
		}
	})
}

func TestFetchGatewayModelsFails(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"status": func(w http.ResponseWriter) { w.WriteHeader(500) },
		"HTML":   func(w http.ResponseWriter) { w.Write([]byte("<html>")) },
		"empty":  func(w http.ResponseWriter) { w.Write([]byte(`{"data":[]}`)) },
		"endless": func(w http.ResponseWriter) {
			w.Write(make([]byte, largestAnswer+1))
		},
	} {
		gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		if _, _, err := FetchGatewayModels(t.Context(), gateway.Client(), gateway.URL, ""); err == nil {
			t.Errorf("%s: no error", name)
		}
		gateway.Close()
	}
}

func TestRatesAreKept(t *testing.T) {
	onStores(t, func(t *testing.T, s store) {
		if r, at, err := s.LastRate(t.Context()); err != nil || r != (ExchangeRate{}) || !at.IsZero() {
			t.Errorf("of an empty store: %+v, %v, %v", r, at, err)
		}
		day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
		saved := []ExchangeRate{
			{Rate: 514420000, Date: day(20), Source: "ptax"},
			{Rate: 512345678, Date: day(21), Source: "er-api"},
			{Rate: 514430001, Date: day(20), Source: "ptax"}, // the same day again
		}
		for _, r := range saved {
			if err := s.SaveRate(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			got, at, err := s.LastRate(t.Context())
			if err != nil || got != r || time.Since(at) > time.Minute || time.Since(at) < -time.Minute {
				t.Errorf("saved %+v, last is %+v at %v, %v", r, got, at, err)
			}
		}
		all, err := s.ExchangeRates(t.Context(), 10)
		if err != nil || !slices.Equal(all, []ExchangeRate{saved[2], saved[1]}) {
			t.Errorf("%+v, %v", all, err)
		}
	})
}
