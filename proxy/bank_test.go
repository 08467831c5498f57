package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/proxy/upstream"
	"github.com/catraca/catraca/tenancy"
)

// A bank is a world with budgets: a purse, the authority and books in memory, and a worker that settles what the meter was
// told when the test says so.
type bank struct {
	*world
	books  *budget.Memory
	purse  *budget.Purse
	lender *lender
	sent   *bodies
	done   int // events that were settled

	settling sync.Mutex
	ahead    atomic.Int64 // how far the clock of the ledger is

	elsewhere uint64 // charges of another proxy
}

// lender passes messages on, or does not answer.
type lender struct {
	budget.Lender
	silent atomic.Bool
	asked  atomic.Int64
}

func (l *lender) Lease(ctx context.Context, a budget.Ask) (budget.Reply, error) {
	l.asked.Add(1)
	if l.silent.Load() {
		return budget.Reply{}, budget.ErrUnavailable
	}
	return l.Lender.Lease(ctx, a)
}

// bankModels are models that are known well enough to bound what they cost.
var bankModels = sync.OnceValue(func() *metering.Catalog {
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var list []metering.Model
	add := func(name, kind string, window, output int, change func(*metering.Model, *metering.Price)) {
		m := metering.Model{
			ID: clientID(300 + len(list)), Provider: "openai", Name: name, GatewayID: "openai/" + name, Kind: kind, Active: true,
			CreatedAt: day, ContextWindow: window, MaxOutput: output,
		}
		p := metering.NewPrice()
		p.ID, p.ModelID, p.From, p.Source = clientID(400+len(list)), m.ID, day, "seed"
		change(&m, &p)
		if p.Source != "" {
			m.Prices = []metering.Price{p}
		}
		list = append(list, m)
	}
	// perMillion sets token prices in dollars for a million tokens.
	perMillion := func(in, out money.Pico) func(*metering.Model, *metering.Price) {
		return func(_ *metering.Model, p *metering.Price) { p.Input, p.Output = in*1_000_000, out*1_000_000 }
	}
	add("gpt-4o-mini", "language", 128_000, 1000, perMillion(1, 4))
	add("gpt-4o", "language", 128_000, 1000, perMillion(10, 40))
	add("thinker", "language", 128_000, 1000, func(m *metering.Model, p *metering.Price) {
		m.Capabilities = map[string]bool{"reasoning": true}
		p.Input, p.Output = 1_000_000, 4_000_000
	})
	add("tiered", "language", 128_000, 1000, func(_ *metering.Model, p *metering.Price) {
		p.Input, p.Output, p.CacheWrite = 1_000_000, 4_000_000, 2_000_000
		p.Tiers = []metering.Tier{
			{MinInput: 300, Input: 5_000_000, Output: 3_000_000, Cached: metering.NoPrice, CacheWrite: metering.NoPrice},
			{MinInput: 100_000, Input: 90_000_000, Output: 90_000_000, Cached: metering.NoPrice, CacheWrite: metering.NoPrice},
		}
	})
	add("endless", "language", 0, 0, perMillion(1, 4))
	add("priceless", "language", 128_000, 1000, func(_ *metering.Model, p *metering.Price) { p.Source = "" })
	add("gpt-3.5-turbo-instruct", "language", 4096, 1000, perMillion(1, 4))
	add("text-embedding-3-small", "embedding", 8192, 0, perMillion(1, 0))
	add("omni-moderation-latest", "moderation", 32_000, 0, perMillion(0, 0))
	add("tts-1", "speech", 0, 0, func(_ *metering.Model, p *metering.Price) { p.Character = 15_000_000 })
	add("whisper-1", "transcription", 0, 0, func(_ *metering.Model, p *metering.Price) { p.AudioSecond = money.Unit / 10_000 })
	add("dall-e-3", "image", 0, 0, func(_ *metering.Model, p *metering.Price) { p.Image = money.Unit / 25 })
	return metering.NewCatalog(list)
})

// openBank makes a bank. The tenants "direct" and "gateway" have budgets.
func openBank(t testing.TB, serve func(c *upConn), change func(*Options)) *bank {
	t.Helper()
	return openBankWith(t, serve, defaultTimeouts, change)
}

// openSaying makes a bank whose upstream answers every request with the same bytes, and remembers what it was asked.
func openSaying(t testing.TB, raw string, change func(*Options)) *bank {
	t.Helper()
	sent := &bodies{}
	b := openBank(t, func(c *upConn) {
		for {
			_, body, err := c.request()
			if err != nil {
				return
			}
			sent.mu.Lock()
			sent.all = append(sent.all, body)
			sent.mu.Unlock()
			c.say(raw)
		}
	}, change)
	b.sent = sent
	return b
}

func openBankWith(t testing.TB, serve func(c *upConn), timeouts upstream.Timeouts, change func(*Options)) *bank {
	t.Helper()
	b := &bank{sent: &bodies{}}
	b.books = budget.NewMemory(b.now)
	b.lender = &lender{Lender: budget.NewAuthority(b.books, budget.AuthorityOptions{})}
	var err error
	b.purse, err = budget.OpenPurse(budget.PurseOptions{Incarnation: 7, Name: "test", Dir: t.TempDir(), Lender: b.lender, Now: b.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.purse.Run(ctx) }()
	b.world = startWith(t, serve, timeouts, time.Second, func(o *Options) {
		o.Budgets, o.Prices = b.purse, prices{bankModels()}
		k := *o.Keys.(*keys)
		k.byKey = map[string]*tenancy.Principal{}
		for secret, p := range o.Keys.(*keys).byKey {
			held := *p
			held.Budgets = secret == "ck_direct" || secret == "ck_gateway" || secret == "ck_exact-direct"
			k.byKey[secret] = &held
		}
		o.Keys = &k
		if change != nil {
			change(o)
		}
	})
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := b.books.Check(); err != nil && !t.Failed() {
			t.Error("books:", err)
		}
	})
	return b
}

var direct, gateway = clientID(2), clientID(1)

// limit gives a client a hard budget for a day.
func (b *bank) limit(client uuid.UUID, unit budget.Unit, limit int64) {
	b.t.Helper()
	b.budget(budget.Budget{ClientID: client, Unit: unit, Period: budget.Daily, Limit: limit, PauseAtLimit: true})
}

func (b *bank) now() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }

func (b *bank) budget(x budget.Budget) {
	b.t.Helper()
	x.ID, x.TimeZone, x.StartsAt = uuid.New(), budget.DefaultZone, time.Now().Add(-time.Hour)
	if err := b.books.SetBudget(x); err != nil {
		b.t.Fatal(err)
	}
	b.purse.Stale(uuid.Nil)
}

func (b *bank) policy(client uuid.UUID, p budget.Policy) {
	b.books.SetPolicy(client, p)
	b.purse.Stale(client)
}

// bodies are what the upstream got.
type bodies struct {
	mu  sync.Mutex
	all []string
}

func (b *bank) bodies() []string {
	b.sent.mu.Lock()
	defer b.sent.mu.Unlock()
	return append([]string(nil), b.sent.all...)
}

// settle charges what the meter was told since the last time, as the worker does.
func (b *bank) settle() {
	b.t.Helper()
	b.settling.Lock()
	defer b.settling.Unlock()
	b.meter.mu.Lock()
	events := b.meter.closed[b.done:]
	b.done = len(b.meter.closed)
	b.meter.mu.Unlock()
	var charges []budget.Charge
	for i := range events {
		e := &events[i]
		c := budget.Charge{
			EventID: budget.EventID{Incarnation: e.Incarnation, Seq: e.Seq}, Client: e.ClientID, AdmittedAt: e.AdmittedAt, Doubt: e.Doubt,
			Cost: budget.Cost{Tokens: e.Total, BRL: e.BRL, USD: e.USD, Unpriced: !e.Known},
		}
		for _, h := range e.Holds {
			c.Holds = append(c.Holds, budget.HeldFor{Window: h.Window, Amount: h.Amount})
		}
		charges = append(charges, c)
	}
	if _, err := b.books.Settle(context.Background(), charges); err != nil {
		b.t.Error(err)
	}
	if err := b.books.Check(); err != nil {
		b.t.Error(err)
	}
}

// window is the one window of a unit, once all calls were settled and what is idle went back.
func (b *bank) window(unit budget.Unit) *budget.Window {
	b.t.Helper()
	for _, w := range b.books.Windows() {
		if w.Unit == unit {
			return w
		}
	}
	b.t.Fatalf("no window of %s", unit)
	return nil
}

// opened is the n-th event, from 1, as it was opened.
func (b *bank) opened(n int) metering.Event {
	b.meter.mu.Lock()
	defer b.meter.mu.Unlock()
	return b.meter.opened[n-1]
}

// counted is a counter with a label of this value, or the one without labels for "".
func (b *bank) counted(name, label string) (n float64) {
	b.t.Helper()
	families, err := b.proxy.Registry.(*prometheus.Registry).Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// limited counts the calls that budgets did something about.
func (b *bank) limited(action string) float64 {
	return b.counted("catraca_budget_limited_total", action)
}

func chatBody(model, more string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"Ola"}]` + more + `}`
}

func chatCall(model, more string, header ...string) string {
	return postJSON("/v1/chat/completions", "ck_direct", chatBody(model, more), header...)
}

// spend uses up some of a unit's budget, elsewhere and without a hold.
func (b *bank) spend(unit budget.Unit, n int64) {
	b.t.Helper()
	b.elsewhere++
	c := budget.Charge{EventID: budget.EventID{Incarnation: 8, Seq: b.elsewhere}, Client: direct, AdmittedAt: time.Now()}
	switch unit {
	case budget.Tokens:
		c.Tokens = n
	case budget.BRL:
		c.BRL = money.Pico(n)
	case budget.USD:
		c.USD = money.Pico(n)
	}
	if _, err := b.books.Settle(context.Background(), []budget.Charge{c}); err != nil {
		b.t.Fatal(err)
	}
}

// conversations knows one conversation, of whichever client.
type conversations struct {
	asked  atomic.Int64
	seen   atomic.Pointer[string]
	client uuid.UUID
}

func (c *conversations) Seen(_ context.Context, client uuid.UUID, conversation string) (bool, error) {
	c.asked.Add(1)
	known := c.seen.Load()
	if known == nil || *known != conversation {
		return false, nil
	}
	c.client = client
	return true, nil
}
