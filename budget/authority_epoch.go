package budget

import (
	"context"
	"slices"
)

// A database that lost its end may have forgotten what it lent. Then a new epoch begins: nothing is granted until those
// that were heard lately have said what they hold.

// epoch is the state of the books as a whole; a new one begins when the database is not the one that it was.
func (a *Authority) epoch(ctx context.Context, p *page) (Epoch, error) {
	stored, current, err := p.tx.Epoch(ctx)
	switch {
	case err != nil || stored.Identity == current && stored.Number > 0:
		return stored, err
	case stored.Identity == "" && stored.Number == 0: // the first start is no loss
		first := Epoch{Number: 1, Identity: current, Since: p.now}
		return first, p.tx.SaveEpoch(ctx, first)
	}
	return a.newEpoch(ctx, p, stored.Number+1, current)
}

func (a *Authority) newEpoch(ctx context.Context, p *page, number int64, identity string) (Epoch, error) {
	a.o.Log.Warn("the budget ledger's database is another one than before, or lost its end; granting nothing until proxies have said what they hold",
		"epoch", number, "at_most", a.o.LearnFor)
	e := Epoch{Number: number, Identity: identity, Since: p.now, Learning: p.now.Add(a.o.LearnFor)}
	return e, p.tx.SaveEpoch(ctx, e)
}

// betraysLoss tells whether a message follows on an answer that the books do not know, other than by the loss that began
// this epoch: whoever has not spoken in it has a gap by that one.
func (m *message) betraysLoss(epoch Epoch) bool {
	var answered uint64
	if h := m.holders[m.Incarnation]; h != nil {
		answered = h.Op
	}
	return m.Ask.Epoch > epoch.Number || m.Op > answered+1 && m.Ask.Epoch == epoch.Number
}

// endLearning ends learning when all those that were heard lately have spoken, or when its time is over; then those that
// are still silent are taken for lost.
func (a *Authority) endLearning(ctx context.Context, p *page, epoch Epoch) error {
	if epoch.Learning.IsZero() || p.now.Before(epoch.Since.Add(a.o.LearnAtLeast)) {
		return nil
	}
	holders, err := p.tx.LiveHolders(ctx)
	if err != nil {
		return err
	}
	due := !p.now.Before(epoch.Learning)
	var silent []uint64
	for _, h := range holders {
		if h.State != Live || h.Epoch >= epoch.Number {
			continue
		}
		if !due && h.HeardAt.After(epoch.Since.Add(-heardLately)) {
			return nil // one that was heard lately has not spoken yet
		}
		silent = append(silent, h.Incarnation)
	}
	if due && len(silent) > 0 {
		lost, err := p.tx.Holders(ctx, sortedIncarnations(silent))
		if err != nil {
			return err
		}
		lost = slices.DeleteFunc(lost, func(h *Holder) bool { return h.Epoch >= epoch.Number || h.State != Live })
		if err := p.suspend(ctx, lost, "silent while the ledger was learning what proxies hold"); err != nil {
			return err
		}
	}
	a.o.Log.Info("the budget ledger has learned what proxies hold, and grants again", "epoch", epoch.Number, "lost", len(silent))
	return p.tx.SaveEpoch(ctx, Epoch{Number: epoch.Number, Identity: epoch.Identity, Since: epoch.Since})
}

// suspend takes incarnations for lost: what they hold goes into suspense.
func (p *page) suspend(ctx context.Context, holders []*Holder, reason string) error {
	var incarnations []uint64
	for _, h := range holders {
		h.State = Lost
		incarnations = append(incarnations, h.Incarnation)
	}
	if len(holders) == 0 {
		return nil
	}
	if err := p.tx.SaveHolders(ctx, holders); err != nil {
		return err
	}
	leases, err := p.leasesOf(ctx, incarnations)
	if err != nil {
		return err
	}
	for _, l := range leases {
		w, l := p.touch(l.Window, l.Incarnation)
		p.note(w.ID, l.Incarnation, "suspend", w.suspendLease(l), reason)
	}
	return nil
}

// leasesOf locks what incarnations have, window by window, and loads it.
func (p *page) leasesOf(ctx context.Context, incarnations []uint64) ([]*Lease, error) {
	if len(incarnations) == 0 {
		return nil, nil
	}
	peeked, err := p.tx.LeasesOf(ctx, sortedIncarnations(incarnations))
	if err != nil {
		return nil, err
	}
	return p.reload(ctx, peeked)
}

// reload locks the windows of leases that were read without a lock, and reads them again.
func (p *page) reload(ctx context.Context, peeked []*Lease) ([]*Lease, error) {
	windows, keys := map[int64]bool{}, map[LeaseKey]bool{}
	for _, l := range peeked {
		windows[l.Window], keys[l.LeaseKey] = true, true
	}
	if err := p.lock(ctx, windows); err != nil {
		return nil, err
	}
	if err := p.load(ctx, keys); err != nil {
		return nil, err
	}
	return p.locked(peeked), nil
}

// locked are leases as they are on the page, of those that were read before.
func (p *page) locked(peeked []*Lease) (ls []*Lease) {
	for _, l := range peeked {
		if l := p.leases[l.LeaseKey]; l != nil && p.windows[l.Window] != nil {
			ls = append(ls, l)
		}
	}
	return ls
}

func sortedIncarnations(ids []uint64) []uint64 {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}
