package budget

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// What is let go is what nobody can need any more, and nothing else.
func TestPrune(t *testing.T) {
	t.Parallel()
	onBooksStores(t, func(t *testing.T, s booksStore) {
		ctx, now := t.Context(), time.Now().UTC().Truncate(time.Microsecond)
		old, fresh := booksWindow(101, uuid.New(), now.Add(-100*24*time.Hour), 1000), booksWindow(102, uuid.New(), now, 1000)
		old.Sealed = true
		old.EndsAt = old.StartsAt.Add(24 * time.Hour)
		old.Spent, old.Suspense, fresh.Spent = 10, 7, 10
		old.Committed, fresh.Committed = 1000, 1000
		booksUpdate(t, s, func(tx Tx) error {
			if _, _, err := tx.OpenWindows(ctx, []*Window{old, fresh}); err != nil {
				return err
			}
			if err := tx.SaveWindows(ctx, []*Window{old, fresh}); err != nil {
				return err
			}
			spent := Lease{Granted: 10, Settled: 10, Closed: true}
			var ls []*Lease
			for _, key := range []LeaseKey{{101, 1}, {102, 1}} {
				l := spent
				l.LeaseKey = key
				ls = append(ls, &l)
			}
			ls = append(ls, &Lease{LeaseKey: LeaseKey{101, 2}, Granted: 5, Lost: true}) // somebody may still come back with it
			if err := tx.SaveLeases(ctx, ls); err != nil {
				return err
			}
			if err := tx.AddDoubts(ctx, []Doubt{{EventID{1, 1}, 101, 2, old.EndsAt}, {EventID{1, 2}, 102, 0, now}}); err != nil {
				return err
			}
			return tx.SaveHolders(ctx, []*Holder{
				{Incarnation: 1, State: Closed, HeardAt: old.EndsAt}, {Incarnation: 2, State: Lost, HeardAt: old.EndsAt}, {Incarnation: 3, State: Closed, HeardAt: now},
			})
		})
		for round, want := range []int{3, 0} { // a lease, a doubt, a holder; and then nothing
			if n := booksMust[int](t)(s.Prune(ctx, now.Add(-KeepLeases))); n != want {
				t.Errorf("round %d: %d rows were let go, want %d", round, n, want)
			}
		}
		booksUpdate(t, s, func(tx Tx) error {
			ls, err := tx.Leases(ctx, []LeaseKey{{101, 1}, {101, 2}, {102, 1}})
			if err == nil && len(ls) != 2 {
				t.Errorf("leases left: %+v", ls)
			}
			hs, err := tx.Holders(ctx, []uint64{1, 2, 3})
			if err == nil && len(hs) != 2 {
				t.Errorf("holders left: %+v", hs)
			}
			return err
		})
	})
}
