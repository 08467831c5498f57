package budget

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
)

// PurseOptions is what a Purse is made of.
type PurseOptions struct {
	Incarnation uint64 // of this process: the spool's
	Name        string // of the proxy, for people
	Dir         string // on the spool's volume: where incarnations that had leases are remembered until they are closed
	Lender      Lender
	// Over lists earlier incarnations of this volume of which the spool has nothing left: no call open, none waiting.
	Over func() []Close
	Now  func() time.Time // nil: time.Now; only differences count
	Log  *slog.Logger     // nil: none
}

// Purse is what a proxy holds of its clients' budgets. It is safe for any number of goroutines.
type Purse struct{ o PurseOptions }

// OpenPurse makes the purse of an incarnation. It lends while Run runs.
func OpenPurse(o PurseOptions) (*Purse, error) { return &Purse{o}, nil }

// Run keeps the leases: it asks for more in time, gives back what lies idle, closes earlier incarnations. When ctx ends
// it returns all that is not in use, until nothing is or a few seconds are over, and leaves.
func (p *Purse) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Account is a client's account: from memory, or with one question to the ledger. It is nil for a client without
// budgets. ErrUnavailable: it is not known here and the ledger does not answer.
func (p *Purse) Account(ctx context.Context, client uuid.UUID) (*Account, error) { return nil, nil }

// Stale says that what is known of these clients' budgets and policies may have changed; uuid.Nil: of all clients.
func (p *Purse) Stale(clients ...uuid.UUID) {}

// Account is a client's budgets, as a proxy holds them.
type Account struct{}

// Policy is how the client is treated. It is shared: do not change it.
func (a *Account) Policy() *Policy { return &Policy{} }

// Counts tells whether a hard budget of the account counts a unit: then a call whose cost in it has no bound cannot be
// let through.
func (a *Account) Counts(u Unit) bool { return false }

// Reserve holds the worst that a call can cost, in all windows of the account and of the budgets over all clients, or in
// none. leave is the share of each limit, in percent, that must be left over (for the tail of open conversations).
// The error is a *Denied, or ErrUnavailable.
func (a *Account) Reserve(ctx context.Context, worst Cost, leave int, h *Hold) error { return nil }

// Room is about the most that Reserve would now hold, in each unit; the largest amount where no hard window counts the unit.
func (a *Account) Room(ctx context.Context, leave int) Cost { return Cost{} }

// Hold is what is held for one call. The zero Hold holds nothing. It is used by one goroutine at a time.
type Hold struct {
	n     int
	parts [MaxHolds]HeldFor
}

// Settle ends the hold with what the call cost. With doubt the rest stays held, for the ledger to keep in suspense.
func (h *Hold) Settle(c Cost, doubt bool) {}

// Release ends the hold: nothing was used.
func (h *Hold) Release() {}

// TopUp holds more for a call that outruns its hold. False: there is no more.
func (h *Hold) TopUp(ctx context.Context, more Cost) bool { return true }

// Parts are the windows and the amounts held, valid until the hold ends.
func (h *Hold) Parts() []HeldFor { return h.parts[:h.n] }

// Tightest is the state of the window that has the least left in proportion to its limit, as far as known here. ok is
// false when the hold has none.
func (h *Hold) Tightest() (s Standing, ok bool) { return Standing{}, false }

// Standing is how a window stands, for people.
type Standing struct {
	Unit     Unit
	Period   Period
	Shared   bool // over all clients: its figures are not for a client to see
	Limit    int64
	Used     int64
	Held     int64
	ResetsAt time.Time
	Zone     *time.Location
}

// Denied says that a call does not fit.
type Denied struct {
	Standing
	Paused bool   // by a person: Reason says why
	Reason string // a person's words
	Need   int64  // of the call, in the window's unit
}

func (d *Denied) Error() string {
	if d.Paused {
		return "budget paused: " + d.Reason
	}
	return fmt.Sprintf("%s %s budget: %d of %d used, %d held, %d needed", d.Period, d.Unit, d.Used, d.Limit, d.Held, d.Need)
}
