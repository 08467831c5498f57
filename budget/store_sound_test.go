package budget

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// booksProxy is a proxy that does as it likes with what it was granted.
type booksProxy struct {
	incarnation, op, seq uint64
	epoch                int64
	avail                map[int64]int64
	clientOf             map[int64]uuid.UUID
	unitOf               map[int64]Unit
	over                 bool // it asks no more
}

// TestLedgerStaysSound does all there is to do, in any order, and compares the ledger with the log as it goes.
func TestLedgerStaysSound(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		w := &booksWorld{t: t, s: s, a: NewAuthority(s, AuthorityOptions{}), r: rand.New(rand.NewPCG(seed, 0))}
		w.clients = booksClients(t, s, 3)
		w.budgets()
		for range 3 {
			w.start()
		}
		for step := range 250 {
			w.step()
			if step%25 == 24 {
				booksSound(t, s, 1)
			}
			if t.Failed() {
				t.Fatalf("at step %d", step)
			}
		}
		booksMust[int](t)(s.Project(t.Context(), time.Now().Add(-time.Hour)))
		r := booksSound(t, s, len(w.made))
		if r.Logged == 0 {
			t.Error("nothing was used")
		}
	})
}

type booksWorld struct {
	t        *testing.T
	s        booksStore
	a        *Authority
	r        *rand.Rand
	clients  []uuid.UUID
	made     []Budget
	proxies  []*booksProxy
	recorded []Charge
}

func (w *booksWorld) budgets() {
	for _, client := range append(slices.Clone(w.clients), uuid.Nil) {
		for _, unit := range []Unit{Tokens, BRL} {
			b := booksBudget(client, unit, []Period{Daily, Monthly}[w.r.IntN(2)], 1000+w.r.Int64N(20_000))
			b.StartsAt = time.Now().Add(-time.Duration(w.r.Int64N(int64(100 * time.Hour))))
			b.PauseAtLimit, b.CarryOver, b.Debt = w.r.IntN(4) > 0, w.r.IntN(2) == 0, w.r.IntN(2) == 0
			w.made = append(w.made, booksMust[Budget](w.t)(w.s.CreateBudget(w.t.Context(), b)))
		}
	}
}

func (w *booksWorld) start() {
	w.proxies = append(w.proxies, &booksProxy{
		incarnation: w.r.Uint64(), avail: map[int64]int64{}, clientOf: map[int64]uuid.UUID{}, unitOf: map[int64]Unit{},
	})
}

func (w *booksWorld) step() {
	w.t.Helper()
	ctx := w.t.Context()
	p := w.proxies[w.r.IntN(len(w.proxies))]
	var err error
	switch n := w.r.IntN(100); {
	case n < 35:
		err = w.ask(p)
	case n < 75:
		err = w.use(p)
	case n < 82 && len(w.recorded) > 0:
		err = w.correct()
	case n < 85:
		err = w.end(p)
	case n < 88:
		err = w.a.Suspend(ctx, p.incarnation, "a test")
	case n < 91:
		err = w.a.TopUp(ctx, w.made[w.r.IntN(len(w.made))].ID, 1+w.r.Int64N(5000), "a test")
	case n < 94:
		for window := range p.avail {
			err = w.a.ReleaseDoubts(ctx, window, "a test")
			break
		}
	case n < 97:
		b := w.made[w.r.IntN(len(w.made))]
		b.Limit, b.PauseAtLimit, b.UpdatedAt = 1+w.r.Int64N(40_000), w.r.IntN(4) > 0, time.Time{}
		_, err = w.s.UpdateBudget(ctx, b)
	default:
		err = w.a.Tidy(ctx)
	}
	if err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrNotFound) {
		w.t.Fatal(err)
	}
}

// ask opens an account, asks for more, or gives back.
func (w *booksWorld) ask(p *booksProxy) error {
	if p.over {
		return nil
	}
	p.op++
	ask := Ask{Incarnation: p.incarnation, Name: "p", Op: p.op, Epoch: p.epoch}
	for _, client := range []uuid.UUID{w.clients[w.r.IntN(3)], uuid.Nil} {
		ask.Open = append(ask.Open, Opening{Client: client, Need: Cost{Tokens: 1 + w.r.Int64N(500), BRL: 100}})
	}
	for window, avail := range p.avail {
		switch w.r.IntN(3) {
		case 0:
			ask.Want = append(ask.Want, Want{Window: window, Least: 1, Need: 1 + w.r.Int64N(1000), More: w.r.Int64N(1000)})
		case 1:
			back := w.r.Int64N(avail + 1)
			p.avail[window] -= back
			ask.Return = append(ask.Return, Return{Window: window, Amount: back})
		}
	}
	r, err := w.a.Lease(w.t.Context(), ask)
	if err != nil {
		return err
	}
	p.epoch = r.Epoch
	for _, g := range r.Grants {
		p.avail[g.Window] += g.Amount
	}
	for _, s := range r.Windows {
		p.clientOf[s.ID], p.unitOf[s.ID] = s.Client, s.Unit
	}
	return nil
}

// use records a batch of calls, held in windows or not, some of them by a clock that is wrong.
func (w *booksWorld) use(p *booksProxy) error {
	var batch []Charge
	for range 1 + w.r.IntN(6) {
		p.seq++
		c := Charge{
			EventID: EventID{p.incarnation, p.seq}, Client: w.clients[w.r.IntN(3)],
			Cost: Cost{Tokens: w.r.Int64N(300), BRL: 50, USD: 1, Unpriced: w.r.IntN(10) == 0}, Doubt: w.r.IntN(6) == 0,
		}
		c.AdmittedAt = time.Now().Add(-time.Duration(w.r.Int64N(int64(time.Minute)))).Truncate(time.Microsecond)
		if w.r.IntN(8) == 0 {
			c.AdmittedAt = c.AdmittedAt.Add(-time.Duration(w.r.Int64N(int64(90 * time.Hour))))
		} else {
			if w.r.IntN(4) == 0 {
				c.AdmittedAt = c.AdmittedAt.Add(-time.Duration(w.r.Int64N(int64(50 * time.Minute))))
			}
			for window, avail := range p.avail {
				if of := p.clientOf[window]; (of == c.Client || of == uuid.Nil) && w.r.IntN(5) > 0 {
					hold := min(avail, 1+w.r.Int64N(400))
					p.avail[window] -= hold
					if used := min(hold, c.amount(p.unitOf[window])); !c.Doubt {
						p.avail[window] += hold - used
					}
					c.Holds = append(c.Holds, HeldFor{window, hold})
				}
			}
		}
		batch = append(batch, c)
	}
	w.recorded = append(w.recorded, batch...)
	return w.s.record(w.t.Context(), batch)
}

// correct records what a call was charged in truth, once.
func (w *booksWorld) correct() error {
	i := w.r.IntN(len(w.recorded))
	c := w.recorded[i]
	w.recorded = slices.Delete(w.recorded, i, i+1)
	c.Correction, c.Doubt = true, false
	c.Cost = Cost{Tokens: w.r.Int64N(2*c.Tokens+100) - c.Tokens, BRL: 0, Unpriced: c.Unpriced}
	return w.s.record(w.t.Context(), []Charge{c})
}

// end stops a proxy; the next one closes it, where all of it arrived.
func (w *booksWorld) end(p *booksProxy) error {
	if p.over || len(w.proxies) > 20 {
		return nil
	}
	p.over = true
	w.start()
	next := w.proxies[len(w.proxies)-1]
	next.op++
	r, err := w.a.Lease(w.t.Context(), Ask{Incarnation: next.incarnation, Name: "p", Op: next.op, Close: []Close{{p.incarnation, p.seq}}})
	next.epoch = r.Epoch
	if slices.Contains(r.Closed, p.incarnation) {
		clear(p.avail)
	}
	return err
}
