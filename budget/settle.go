package budget

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"
)

// Settle charges usage events to the windows, in the transaction that records them, which must have written them to the
// usage log before. The windows are those that the calls were held in, whenever they are settled; for budgets of the
// client that have none among them, the one that the call was admitted in. No two charges of a batch are of one event,
// unless they are corrections.
func Settle(ctx context.Context, tx Tx, charges []Charge) error {
	if len(charges) == 0 {
		return nil
	}
	p, err := openPage(ctx, tx)
	if err != nil {
		return err
	}
	s := &settlement{page: p, of: map[uuid.UUID][]*Budget{}, doubts: map[EventID][]Doubt{}}
	if err := s.read(ctx, charges); err != nil {
		return err
	}
	for i := range charges {
		s.charge(&charges[i])
	}
	if len(s.dropped) > 0 {
		if err := s.tx.DropDoubts(ctx, s.dropped); err != nil {
			return err
		}
	}
	if added := s.added(); len(added) > 0 {
		if err := s.tx.AddDoubts(ctx, added); err != nil {
			return err
		}
	}
	return s.save(ctx)
}

// settlement is a batch of charges.
type settlement struct {
	*page
	of      map[uuid.UUID][]*Budget // by client; those over all clients under the zero one
	placed  []*opening              // of all charges
	byPlace map[placeKey]*opening
	doubts  map[EventID][]Doubt // those in the books, and those of this batch
	isNew   map[EventID]bool    // of this batch
	dropped []Doubt
}

// placeKey names the window of a budget that a charge was admitted in.
type placeKey struct {
	budget uuid.UUID
	at     int64 // microseconds
}

func keyOf(b *Budget, c *Charge) placeKey { return placeKey{b.ID, c.AdmittedAt.UnixMicro()} }

// read brings all rows that the charges are about onto the page, windows in the order of their ids.
func (s *settlement) read(ctx context.Context, charges []Charge) error {
	if err := s.readBudgets(ctx, charges); err != nil {
		return err
	}
	if err := s.readDoubts(ctx, charges); err != nil {
		return err
	}
	if err := s.findPlaces(ctx, charges); err != nil {
		return err
	}
	windows, keys := map[int64]bool{}, map[LeaseKey]bool{}
	for _, o := range s.placed {
		if o.window != nil {
			windows[o.window.ID] = true
		}
	}
	for i := range charges {
		c := &charges[i]
		for _, h := range c.Holds {
			windows[h.Window] = true
			if !c.Correction {
				keys[LeaseKey{h.Window, c.Incarnation}] = true
			}
		}
		for _, d := range s.doubts[c.EventID] {
			windows[d.Window] = true
		}
	}
	if err := s.lock(ctx, windows); err != nil {
		return err
	}
	if err := s.load(ctx, keys); err != nil {
		return err
	}
	s.discount(charges)
	return nil
}

func (s *settlement) readBudgets(ctx context.Context, charges []Charge) error {
	clients := map[uuid.UUID]bool{uuid.Nil: true}
	for i := range charges {
		clients[charges[i].Client] = true
	}
	bs, err := s.tx.Budgets(ctx, slices.SortedFunc(maps.Keys(clients), compareIDs))
	if err != nil {
		return err
	}
	for _, b := range s.keep(bs) {
		s.of[b.ClientID] = append(s.of[b.ClientID], b)
	}
	return nil
}

func (s *settlement) readDoubts(ctx context.Context, charges []Charge) error {
	s.isNew = map[EventID]bool{}
	var events []EventID
	for i := range charges {
		if charges[i].Correction {
			events = append(events, charges[i].EventID)
		}
	}
	if len(events) == 0 {
		return nil
	}
	ds, err := s.tx.Doubts(ctx, events)
	for _, d := range ds {
		s.doubts[d.EventID] = append(s.doubts[d.EventID], d)
	}
	return err
}

// budgetsFor are those that a client's charges count in.
func (s *settlement) budgetsFor(client uuid.UUID) []*Budget {
	if client == uuid.Nil {
		return s.of[uuid.Nil]
	}
	return slices.Concat(s.of[client], s.of[uuid.Nil])
}

// findPlaces finds, for each charge and budget, the window that it was admitted in. Most of them are in few windows.
func (s *settlement) findPlaces(ctx context.Context, charges []Charge) error {
	s.byPlace = map[placeKey]*opening{}
	for i := range charges {
		c := &charges[i]
		for _, b := range s.budgetsFor(c.Client) {
			key := keyOf(b, c)
			if s.byPlace[key] == nil {
				s.byPlace[key] = &opening{budget: b, at: c.AdmittedAt}
				s.placed = append(s.placed, s.byPlace[key])
			}
		}
	}
	return s.open(ctx, s.placed)
}

// discount takes the batch's own charges off windows that were just opened: those came with what the usage log has, and
// the batch is in the log already. What was held in a window of the same budget was not counted.
func (s *settlement) discount(charges []Charge) {
	for i := range charges {
		c := &charges[i]
		for _, b := range s.budgetsFor(c.Client) {
			if o := s.byPlace[keyOf(b, c)]; o.window != nil && o.isNew && !s.holds(c, b) {
				s.windows[o.window.ID].useUnheld(-c.amount(b.Unit))
			}
		}
	}
}

// holds tells whether a charge says that something was held for it in a window of a budget.
func (s *settlement) holds(c *Charge, b *Budget) bool {
	return slices.ContainsFunc(c.Holds, func(h HeldFor) bool {
		w := s.windows[h.Window]
		return w != nil && w.BudgetID == b.ID
	})
}

// amount is what a charge counts in a unit: without a price, no money.
func (c *Charge) amount(u Unit) int64 {
	if c.Unpriced && u != Tokens {
		return 0
	}
	return min(MaxLimit, max(-MaxLimit, c.In(u)))
}

// charge books one event.
func (s *settlement) charge(c *Charge) {
	booked := map[uuid.UUID]bool{} // budgets
	for _, h := range s.holdsOf(c) {
		w := s.windows[h.Window]
		if w == nil || booked[w.BudgetID] {
			continue // the books lost this window, and nobody has said yet where it was
		}
		booked[w.BudgetID] = true
		if c.Correction {
			s.correct(w, c)
		} else {
			s.settle(w, c, h.Amount)
		}
	}
	for _, b := range s.budgetsFor(c.Client) {
		o := s.byPlace[keyOf(b, c)]
		if booked[b.ID] || o.window == nil {
			continue
		}
		w := s.windows[o.window.ID]
		if amount := c.amount(w.Unit); amount != 0 {
			w.useUnheld(amount)
			s.touched[w.ID] = true
		}
	}
}

// holdsOf are the windows that an event was held in. A correction may not say; then the doubts about its event do.
func (s *settlement) holdsOf(c *Charge) []HeldFor {
	if !c.Correction {
		return c.Holds
	}
	holds := slices.Clone(c.Holds)
	for _, d := range s.doubts[c.EventID] {
		holds = append(holds, HeldFor{Window: d.Window})
	}
	return holds
}

func (s *settlement) settle(w *Window, c *Charge, hold int64) {
	_, l := s.touch(w.ID, c.Incarnation)
	doubted, missing := w.settle(l, c.amount(w.Unit), hold, c.Doubt)
	s.note(w.ID, c.Incarnation, "forgotten", missing, "an event was held for on a lease that the books do not have")
	if doubted > 0 {
		s.doubts[c.EventID] = append(s.doubts[c.EventID], Doubt{c.EventID, w.ID, doubted, s.now})
		s.isNew[c.EventID] = true
	}
}

func (s *settlement) correct(w *Window, c *Charge) {
	s.touched[w.ID] = true
	difference := c.amount(w.Unit)
	ds := s.doubts[c.EventID]
	at := slices.IndexFunc(ds, func(d Doubt) bool { return d.Window == w.ID })
	if at < 0 {
		w.adjust(difference)
		s.note(w.ID, c.Incarnation, "adjust", difference, "an event was corrected")
		return
	}
	w.undoubt(ds[at].Amount, difference)
	s.note(w.ID, c.Incarnation, "doubt", -ds[at].Amount, "an event was corrected")
	if !s.isNew[c.EventID] {
		s.dropped = append(s.dropped, ds[at])
	}
	s.doubts[c.EventID] = slices.Delete(ds, at, at+1)
}

// added are the doubts of this batch that are still open, in a fixed order.
func (s *settlement) added() (ds []Doubt) {
	for id := range s.isNew {
		ds = append(ds, s.doubts[id]...)
	}
	slices.SortFunc(ds, func(a, b Doubt) int {
		return compareKeys(LeaseKey{a.Window, a.Incarnation}, LeaseKey{b.Window, b.Incarnation})
	})
	return ds
}
