package metering

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// corrStore is a Corrections in memory.
type corrStore struct {
	mu       sync.Mutex
	rows     map[string]*corrRow // by upstream id
	order    []string
	down     error
	refuse   error // by Correct
	corrects []Event
}

type corrRow struct {
	e        Estimate
	due      time.Time
	over     bool
	givenUp  bool
	takenBy  int
	putOffAt []time.Time
}

func newCorrStore(events ...Event) *corrStore {
	s := &corrStore{rows: map[string]*corrRow{}}
	for _, e := range events {
		s.rows[e.UpstreamID] = &corrRow{e: Estimate{Event: e}}
		s.order = append(s.order, e.UpstreamID)
	}
	return s
}

func (s *corrStore) DueEstimates(_ context.Context, now time.Time, lease time.Duration, most int) (due []Estimate, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	for _, id := range s.order {
		if r := s.rows[id]; !r.over && !r.due.After(now) && len(due) < most {
			r.due = now.Add(lease)
			r.takenBy++
			due = append(due, r.e)
		}
	}
	return due, nil
}

func (s *corrStore) Correct(_ context.Context, truth Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	if r := s.rows[truth.UpstreamID]; !r.over {
		r.over = true
		s.corrects = append(s.corrects, truth)
	}
	return nil
}

func (s *corrStore) PutOff(_ context.Context, e Estimate, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rows[e.UpstreamID]
	r.putOffAt = append(r.putOffAt, until)
	r.due, r.givenUp = until, until.IsZero()
	r.over = r.givenUp
	return nil
}

// corrGateway answers as a test says, and remembers when it was asked about what.
type corrGateway struct {
	mu     sync.Mutex
	answer func(id string, age time.Duration) (Generation, error)
	began  time.Time
	asked  map[string][]time.Duration
}

func newCorrGateway(answer func(id string, age time.Duration) (Generation, error)) *corrGateway {
	return &corrGateway{answer: answer, began: time.Now(), asked: map[string][]time.Duration{}}
}

func (g *corrGateway) Generation(_ context.Context, id string) (Generation, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	age := time.Since(g.began)
	g.asked[id] = append(g.asked[id], age)
	return g.answer(id, age)
}

func (g *corrGateway) times(id string) []time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked[id])
}

func corrEvent(id string) Event {
	return Event{
		Incarnation: 7, Seq: 1, RequestID: "req_1", ClientID: uuid.MustParse("00000000-0000-4000-8000-000000000001"),
		Endpoint: "chat.completions", Streamed: true, Route: "gateway", Provider: "openai", ModelAsked: "gpt-4o-mini", ModelServed: "openai/gpt-4o-mini",
		ModelID: uuid.MustParse("00000000-0000-4000-8000-000000000002"), AdmittedAt: time.Now(), Outcome: ClientGone, Status: 200,
		UpstreamID: id, Usage: Usage{Source: Estimated, Input: 10, Output: 3, Total: 13},
		Cost: Cost{USD: 100, BRL: 500, Known: true, ListUSD: 100, ListKnown: true, Rate: ExchangeRate{Rate: 5 * money.RateUnit, Source: "ptax"}},
	}
}

// corrPrice charges one pico-dollar for a token that goes in and ten for one that comes out, by a rate of its own that
// must not be used.
func corrPrice(e *Event) {
	e.Cost = Cost{ListUSD: money.Pico(e.Input + 10*e.Output), ListKnown: true, USD: 1, BRL: 1, Known: true, Rate: ExchangeRate{Rate: 9 * money.RateUnit}}
}

var corrKnown = Generation{Input: 20, Output: 30, Cached: 4, Reasoning: 5, USD: 777, HasUSD: true}

// corrRun runs a corrector in a bubble of its own time until the test ends it.
func corrRun(t *testing.T, store Corrections, ask Generations) (c *Corrector, stop func()) {
	t.Helper()
	c = NewCorrector(store, ask, corrPrice, nil)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	return c, func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
}

// A call that the gateway comes to know after a while is asked about at growing distances, and then is as it was.
func TestCorrectorAsksUntilItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newCorrStore(corrEvent("gen_1"))
		gateway := newCorrGateway(func(_ string, age time.Duration) (Generation, error) {
			if age < 5*time.Minute {
				return Generation{}, ErrNoGeneration
			}
			return corrKnown, nil
		})
		c, stop := corrRun(t, store, gateway)
		time.Sleep(time.Hour)
		stop()
		if len(store.corrects) != 1 {
			t.Fatalf("%d corrections", len(store.corrects))
		}
		want := corrEvent("gen_1")
		want.AdmittedAt = store.rows["gen_1"].e.AdmittedAt
		want.Usage = Usage{Source: Measured, Input: 20, Output: 30, Total: 50, Cached: 4, Reasoning: 5}
		want.Cost = Cost{
			USD: 777, BRL: 5 * 777, Known: true, ListUSD: 320, ListKnown: true, GateUSD: 777, GateKnown: true, Rate: want.Rate,
		}
		if got := store.corrects[0]; !sameEvent(got, want) {
			t.Errorf("recorded\n%+v, want\n%+v", got, want)
		}
		// 0 s, and then 30 s, 1, 2 and 5 minutes after each other, give or take a look for what is due.
		asked := gateway.times("gen_1")
		if len(asked) != 5 || asked[0] > time.Second || asked[4] < 8*time.Minute || asked[4] > 10*time.Minute {
			t.Errorf("asked at ages of %v", asked)
		}
		if s := c.Stats(); s != (CorrectorStats{Asked: 5, Corrected: 1}) {
			t.Errorf("%+v", s)
		}
	})
}

func TestCorrectorGivesUpAfterADay(t *testing.T) {
	for name, answer := range map[string]error{"unknown": ErrNoGeneration, "garbage": fmt.Errorf("%w: it is not JSON", ErrBadGeneration)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newCorrStore(corrEvent("gen_1"))
				gateway := newCorrGateway(func(string, time.Duration) (Generation, error) { return Generation{}, answer })
				c, stop := corrRun(t, store, gateway)
				time.Sleep(72 * time.Hour)
				stop()
				asked := gateway.times("gen_1")
				if last := asked[len(asked)-1]; !store.rows["gen_1"].givenUp || last < 24*time.Hour || last > 25*time.Hour+time.Minute || len(asked) > 32 {
					t.Errorf("given up %t; asked %d times, at last at %v", store.rows["gen_1"].givenUp, len(asked), last)
				}
				if s := c.Stats(); s.GivenUp != 1 || s.Corrected != 0 || (s.Failures > 0) != (name == "garbage") {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// An outage of the gateway costs no estimate its chance, however long, and the gateway is left in peace meanwhile.
func TestCorrectorSitsOutAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		for i := range 20 {
			events = append(events, corrEvent(fmt.Sprint("gen_", i)))
		}
		store := newCorrStore(events...)
		gateway := newCorrGateway(func(_ string, age time.Duration) (Generation, error) {
			if age < 48*time.Hour {
				return Generation{}, errors.New("the gateway answered with status 401")
			}
			return corrKnown, nil
		})
		c, stop := corrRun(t, store, gateway)
		time.Sleep(48 * time.Hour)
		during := c.Stats()
		if during.Asked > 20*48+300 || during.Asked < 48 || during.Failures < during.Asked || during.GivenUp > 0 {
			t.Errorf("after two days: %+v", during)
		}
		time.Sleep(2 * time.Hour)
		stop()
		if s := c.Stats(); s.Corrected != 20 || s.GivenUp > 0 {
			t.Errorf("two hours after: %+v", s)
		}
	})
}

func TestCorrectorForgetsWhatNobodyAnswersForAMonth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newCorrStore(corrEvent("gen_1"))
		c, stop := corrRun(t, store, newCorrGateway(func(string, time.Duration) (Generation, error) { return Generation{}, errors.New("down") }))
		time.Sleep(29 * 24 * time.Hour)
		if s := c.Stats(); s.GivenUp != 0 {
			t.Errorf("after 29 days: %+v", s)
		}
		time.Sleep(3 * 24 * time.Hour)
		stop()
		if s := c.Stats(); s.GivenUp != 1 {
			t.Errorf("after 32 days: %+v", s)
		}
	})
}

// One call that the gateway has a fault with must not hold up the others.
func TestCorrectorPassesOneThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := []Event{corrEvent("gen_bad")}
		for i := range 120 {
			events = append(events, corrEvent(fmt.Sprint("gen_", i)))
		}
		store := newCorrStore(events...)
		gateway := newCorrGateway(func(id string, _ time.Duration) (Generation, error) {
			if id == "gen_bad" {
				return Generation{}, errors.New("the gateway answered with status 500")
			}
			return corrKnown, nil
		})
		c, stop := corrRun(t, store, gateway)
		time.Sleep(11 * time.Second)
		early := c.Stats().Asked
		time.Sleep(3 * time.Second)
		stop()
		if s := c.Stats(); s.Corrected != 120 {
			t.Errorf("after 14 seconds: %+v", s)
		}
		if early > 11*asksPerSecond+1 {
			t.Errorf("%d questions in 11 seconds", early)
		}
	})
}

// What the gateway has on record without a count and a cost is asked about again, until it is plain that it stays so.
func TestCorrectorWaitsForWhatIsBlank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newCorrStore(corrEvent("gen_late"), corrEvent("gen_nothing"))
		gateway := newCorrGateway(func(id string, age time.Duration) (Generation, error) {
			if id == "gen_late" && age > time.Minute {
				return corrKnown, nil
			}
			return Generation{HasUSD: true}, nil
		})
		_, stop := corrRun(t, store, gateway)
		time.Sleep(5 * time.Minute)
		store.mu.Lock()
		if len(store.corrects) != 1 || store.corrects[0].Output != 30 {
			t.Errorf("after five minutes: %+v", store.corrects)
		}
		store.mu.Unlock()
		time.Sleep(time.Hour)
		stop()
		if len(store.corrects) != 2 || store.corrects[1].Total != 0 || store.corrects[1].USD != 0 || !store.corrects[1].Known {
			t.Errorf("after an hour: %+v", store.corrects)
		}
	})
}

func TestCorrectorAndItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		direct, bare := corrEvent("chatcmpl-1"), corrEvent("")
		direct.Route = "direct"
		store := newCorrStore(corrEvent("gen_1"), direct, bare)
		store.down = errors.New("connection refused")
		gateway := newCorrGateway(func(string, time.Duration) (Generation, error) { return corrKnown, nil })
		c, stop := corrRun(t, store, gateway)
		time.Sleep(time.Minute)
		if s := c.Stats(); s.Asked != 0 || s.Failures < 3 || s.Failures > 6 {
			t.Errorf("without a store: %+v", s)
		}
		store.mu.Lock()
		store.down, store.refuse = nil, errors.New("serialization failure")
		store.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if s := c.Stats(); s.Corrected != 0 || s.GivenUp != 2 { // the two that the gateway cannot know
			t.Errorf("with a store that refuses: %+v", s)
		}
		if n := len(gateway.times("chatcmpl-1")) + len(gateway.times("")); n != 0 {
			t.Errorf("%d questions about what the gateway cannot know", n)
		}
		store.mu.Lock()
		store.refuse = nil
		store.mu.Unlock()
		time.Sleep(10 * time.Minute)
		stop()
		if s := c.Stats(); s.Corrected != 1 {
			t.Errorf("at last: %+v", s)
		}
	})
}

func TestCorrectorDropsWhatCannotBeRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newCorrStore(corrEvent("gen_1"))
		store.refuse = fmt.Errorf("%w: a count is outside", ErrUnrecordable)
		_, stop := corrRun(t, store, newCorrGateway(func(string, time.Duration) (Generation, error) { return corrKnown, nil }))
		time.Sleep(time.Minute)
		stop()
		if !store.rows["gen_1"].givenUp {
			t.Error("it is tried for ever")
		}
	})
}

// Several processes share the work, and one that stops gives back what it had taken.
func TestCorrectorsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		for i := range 300 {
			events = append(events, corrEvent(fmt.Sprint("gen_", i)))
		}
		store := newCorrStore(events...)
		gateway := newCorrGateway(func(string, time.Duration) (Generation, error) { return corrKnown, nil })
		_, stopFirst := corrRun(t, store, gateway)
		_, stopSecond := corrRun(t, store, gateway)
		time.Sleep(2500 * time.Millisecond)
		stopFirst()
		time.Sleep(40 * time.Second) // far less than the lease
		stopSecond()
		if len(store.corrects) != 300 {
			t.Errorf("%d of 300 are corrected", len(store.corrects))
		}
		for id, r := range store.rows {
			if n := len(gateway.times(id)); n != 1 {
				t.Errorf("%s: taken %d times, asked about %d times", id, r.takenBy, n)
			}
		}
	})
}

func TestAskAgainAfter(t *testing.T) {
	for age, want := range map[time.Duration]time.Duration{
		-time.Minute: 30 * time.Second, 0: 30 * time.Second, 30 * time.Second: time.Minute, 89 * time.Second: time.Minute,
		90 * time.Second: 2 * time.Minute, 4 * time.Minute: 5 * time.Minute, 10 * time.Minute: 15 * time.Minute,
		24 * time.Minute: time.Hour, 20 * time.Hour: time.Hour,
	} {
		if got := askAgainAfter(age); got != want {
			t.Errorf("at %v: %v, want %v", age, got, want)
		}
	}
}

func TestTruthOfAnEstimate(t *testing.T) {
	rate := ExchangeRate{Rate: 5 * money.RateUnit, Source: "ptax"}
	for _, tt := range []struct {
		name  string
		gen   Generation
		price func(*Event)
		rate  ExchangeRate
		want  Cost
	}{
		{
			"the gateway's figure",
			Generation{Input: 1, Output: 1, USD: 7, HasUSD: true},
			corrPrice, rate,
			Cost{USD: 7, BRL: 35, Known: true, ListUSD: 11, ListKnown: true, GateUSD: 7, GateKnown: true, Rate: rate},
		},
		{
			"it was free",
			Generation{Input: 1, Output: 1, HasUSD: true},
			corrPrice, rate,
			Cost{Known: true, ListUSD: 11, ListKnown: true, GateKnown: true, Rate: rate},
		},
		{
			"the price list's",
			Generation{Input: 1, Output: 1},
			corrPrice, rate,
			Cost{USD: 11, BRL: 55, Known: true, ListUSD: 11, ListKnown: true, Rate: rate},
		},
		{
			"no price list",
			Generation{Input: 1, Output: 1, USD: 7, HasUSD: true},
			nil, rate,
			Cost{USD: 7, BRL: 35, Known: true, GateUSD: 7, GateKnown: true, Rate: rate},
		},
		{"neither", Generation{Input: 1, Output: 1}, func(e *Event) { e.Cost = Cost{} }, rate, Cost{Rate: rate}},
		{
			"no exchange rate",
			Generation{Input: 1, Output: 1, USD: 7, HasUSD: true},
			corrPrice,
			ExchangeRate{},
			Cost{ListUSD: 11, ListKnown: true, GateUSD: 7, GateKnown: true},
		},
		{
			"more than fits",
			Generation{Input: 1, Output: 1, USD: 1<<63 - 1, HasUSD: true},
			nil, rate,
			Cost{GateUSD: 1<<63 - 1, GateKnown: true, Rate: rate},
		},
	} {
		e := corrEvent("gen_1")
		e.Rate, e.AudioInput = tt.rate, 5
		got := NewCorrector(nil, nil, tt.price, nil).truth(&Estimate{Event: e}, &tt.gen)
		if got.Cost != tt.want {
			t.Errorf("%s:\n%+v, want\n%+v", tt.name, got.Cost, tt.want)
		}
		if got.Source != Measured || got.Total != 2 || got.AudioInput != 1 || got.Outcome != ClientGone || got.Seq != e.Seq || got.ModelServed != e.ModelServed {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

const corrAnswer = `{"data":{"id":"gen_1","total_cost":0.00190375,"upstream_inference_cost":0,"is_byok":false,"provider_name":"openai",
"tokens_prompt":11,"tokens_completion":12,"native_tokens_prompt":19,"native_tokens_completion":124,"native_tokens_reasoning":64,
"native_tokens_cached":3,"native_tokens_cache_creation":2,"latency":12.5,"finish_reason":"stop"}}`

func TestParseGeneration(t *testing.T) {
	with := func(old, new string) string { return strings.Replace(corrAnswer, old, new, 1) }
	whole := Generation{ID: "gen_1", Input: 19, Output: 124, Cached: 3, CacheWrite: 2, Reasoning: 64, USD: 1_903_750_000, HasUSD: true}
	but := func(change func(*Generation)) Generation {
		g := whole
		change(&g)
		return g
	}
	for _, tt := range []struct {
		name, body string
		want       Generation
	}{
		{"as documented", corrAnswer, whole},
		{"a cost in a text", with("0.00190375", `"0.00190375"`), whole},
		{"a cost with an exponent", with("0.00190375", `1.90375e-3`), whole},
		{"a count written as a float", with(":124", ":124.0"), whole},
		{"fields that are new", with(`"latency"`, `"usage":{"x":[1]},"latency"`), whole},
		{
			"the tenant's own key", with(`"upstream_inference_cost":0,"is_byok":false`, `"upstream_inference_cost":"0.001","is_byok":true`),
			but(func(g *Generation) { g.USD += money.Unit / 1000 }),
		},
		{
			"the tenant's own key, and not what it paid", with(`"upstream_inference_cost":0,"is_byok":false`, `"upstream_inference_cost":null,"is_byok":true`),
			but(func(g *Generation) { g.USD, g.HasUSD = 0, false }),
		},
		{"no native counts", with(`"native_tokens_prompt":19,"native_tokens_completion":124,`, ``), but(func(g *Generation) { g.Input, g.Output = 11, 64 })},
		{"no cost", with(`"total_cost":0.00190375,`, ``), but(func(g *Generation) { g.USD, g.HasUSD = 0, false })},
		{"parts beyond the whole", with(`"native_tokens_cached":3`, `"native_tokens_cached":100`), but(func(g *Generation) { g.Cached, g.Input = 100, 102 })},
	} {
		if got, err := parseGeneration([]byte(tt.body), "gen_1"); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
	for name, body := range map[string]string{
		"nothing": "", "not JSON": "<html>", "half": corrAnswer[:80], "a list": "[]", "null": "null", "no data": `{"error":{"message":"x"}}`,
		"data is a list": `{"data":[]}`, "no id": `{"data":{"tokens_prompt":1}}`, "another id": with("gen_1", "gen_2"),
		"negative count": with(":124", ":-124"), "fraction": with(":124", ":124.5"), "text": with(":124", `:"124"`), "huge": with(":124", ":9223372036854775807"),
		"overflow": with(":124", ":99999999999999999999"), "flag": with(":124", ":true"), "negative cost": with("0.00190375", "-1"),
		"a cost of words": with("0.00190375", `"free"`), "a cost beyond all": with("0.00190375", "1e300"), "a list of costs": with("0.00190375", "[1]"),
		"costs that do not fit":   with(`0.00190375,"upstream_inference_cost":0,"is_byok":false`, `9000000,"upstream_inference_cost":9000000,"is_byok":true`),
		"neither counts nor cost": `{"data":{"id":"gen_1"}}`,
	} {
		if g, err := parseGeneration([]byte(body), "gen_1"); !errors.Is(err, ErrBadGeneration) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

func FuzzParseGeneration(f *testing.F) {
	f.Add([]byte(corrAnswer))
	f.Add([]byte(`{"data":{"id":"gen_1","total_cost":"1e5"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		g, err := parseGeneration(body, "gen_1")
		if err != nil {
			if !errors.Is(err, ErrBadGeneration) {
				t.Fatal(err)
			}
			return
		}
		e := corrEvent("gen_1")
		truth := NewCorrector(nil, nil, corrPrice, nil).truth(&Estimate{Event: e}, &g)
		if err := checkEvent(&truth); err != nil && g.Input <= maxCount/2 && g.Output <= maxCount/2 {
			t.Errorf("a truth that cannot be recorded: %v", err)
		}
	})
}

func TestGatewayGenerations(t *testing.T) {
	const key = "vck_canary_0123456789"
	var path, bearer string
	status, body := 200, corrAnswer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, bearer = r.URL.String(), r.Header.Get("Authorization")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	ask := NewGatewayGenerations(nil, server.URL+"/v1/", key)
	g, err := ask.Generation(t.Context(), "gen_1")
	if err != nil || g.Output != 124 || path != "/v1/generation?id=gen_1" || bearer != "Bearer "+key {
		t.Errorf("%+v, %v; asked %s with %q", g, err, path, bearer)
	}
	_, _ = ask.Generation(t.Context(), "gen 1&id=gen_2/../x")
	if path != "/v1/generation?id=gen+1%26id%3Dgen_2%2F..%2Fx" {
		t.Errorf("asked %s", path)
	}
	for code, want := range map[int]error{404: ErrNoGeneration, 410: ErrNoGeneration, 400: ErrBadGeneration, 422: ErrBadGeneration, 401: nil, 403: nil, 429: nil, 500: nil, 503: nil, 302: nil} {
		status, body = code, "the key "+key+" is wrong"
		_, err := ask.Generation(t.Context(), "gen_1")
		known := errors.Is(err, ErrNoGeneration) || errors.Is(err, ErrBadGeneration)
		if err == nil || want != nil && !errors.Is(err, want) || want == nil && known || strings.Contains(err.Error(), key) {
			t.Errorf("%d: %v", code, err)
		}
		if code == 401 && !strings.Contains(err.Error(), "AI_GATEWAY_API_KEY") {
			t.Errorf("a refused key: %v", err)
		}
	}
	status, body = 200, strings.Repeat(" ", largestAnswer+1)
	if _, err := ask.Generation(t.Context(), "gen_1"); err == nil {
		t.Error("an endless answer was taken")
	}
	server.Close()
	if _, err := ask.Generation(t.Context(), "gen_1"); err == nil || strings.Contains(err.Error(), "gen_1") || strings.Contains(err.Error(), key) {
		t.Errorf("without a gateway: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask.Generation(ctx, "gen_1"); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is cancelled: %v", err)
	}
}
