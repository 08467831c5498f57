package budget

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Books is the durable store of the ledger. All rules are in Go, once, over these rows (window.go, authority.go,
// settle.go); a store loads them, locks them and writes them back.
type Books interface {
	// Update runs f in one transaction that is written whole or not at all, and survives a crash once Update returned
	// nil. f may be run again after a conflict.
	Update(ctx context.Context, f func(Tx) error) error
}

// Tx is a transaction on the books. Windows are locked by loading them, always in the order of their ids; everything
// that hangs on a window (leases, doubts) is changed under its window's lock only.
type Tx interface {
	// Now is the authority's clock: the database's. Asked again it has moved on, whenever the transaction began.
	Now(ctx context.Context) (time.Time, error)
	// Epoch is the state of the ledger as a whole, locked against changes of it. Its Identity is what was stored; current
	// is the identity that the database has now: another one after a failover or a restore.
	Epoch(ctx context.Context) (stored Epoch, current string, err error)
	SaveEpoch(ctx context.Context, e Epoch) error

	// Holders are the incarnations with these ids; missing ones are left out. Locked.
	Holders(ctx context.Context, ids []uint64) ([]*Holder, error)
	// LiveHolders are all that are not closed, without their answers. Not locked.
	LiveHolders(ctx context.Context) ([]*Holder, error)
	SaveHolders(ctx context.Context, hs []*Holder) error

	// Budgets are those in force of these clients, and those over all clients where uuid.Nil is one of them.
	Budgets(ctx context.Context, clients []uuid.UUID) ([]Budget, error)
	// BudgetsByID are those in force with these ids; others are left out.
	BudgetsByID(ctx context.Context, ids []uuid.UUID) ([]Budget, error)
	Policies(ctx context.Context, clients []uuid.UUID) (map[uuid.UUID]*Policy, error)

	// Windows are the rows with these ids, locked; those that are not there are left out.
	Windows(ctx context.Context, ids []int64) ([]*Window, error)
	// WindowsOf are all windows of the budgets that end after a time, not locked, oldest first.
	WindowsOf(ctx context.Context, budgets []uuid.UUID, after time.Time) ([]*Window, error)
	// LastWindows is the newest window of each of the budgets that began before a time, not locked.
	LastWindows(ctx context.Context, budgets []uuid.UUID, before time.Time) ([]*Window, error)
	// OpenWindows inserts those that are not there and loads those that are, by their ids, which all differ; they come
	// back locked and in the order asked for. isNew tells which were inserted: these come with Unheld set to what the usage
	// log has for them already, rows included that the same transaction wrote: of their client, or of all; admitted within
	// StartsAt and EndsAt; corrections included; but not calls that hold something of a window of the same budget, which
	// are settled there.
	OpenWindows(ctx context.Context, ws []*Window) (opened []*Window, isNew []bool, err error)
	SaveWindows(ctx context.Context, ws []*Window) error
	// States are the windows with these ids, and those on which the incarnation has something left of a lease; of all of
	// them only what changed (Since) after a time. Not locked, each once.
	States(ctx context.Context, ids []int64, incarnation uint64, changed time.Time) ([]*Window, error)

	// Leases are those of the keys; missing ones are left out.
	Leases(ctx context.Context, keys []LeaseKey) ([]*Lease, error)
	LeasesOf(ctx context.Context, incarnations []uint64) ([]*Lease, error) // those not closed
	LeasesIn(ctx context.Context, windows []int64) ([]*Lease, error)       // those not closed
	// Sharers counts, for each window, the leases that are neither closed nor lost; a window without one may be left out.
	Sharers(ctx context.Context, windows []int64) (map[int64]int, error)
	SaveLeases(ctx context.Context, ls []*Lease) error

	// Doubts are those of the events.
	Doubts(ctx context.Context, events []EventID) ([]Doubt, error)
	DoubtsIn(ctx context.Context, window int64) ([]Doubt, error)
	AddDoubts(ctx context.Context, ds []Doubt) error
	DropDoubts(ctx context.Context, ds []Doubt) error

	// AddAlerts writes alerts into the outbox; one that is there already (window, threshold, limit version) is left as
	// it is.
	AddAlerts(ctx context.Context, as []Alert) error
	// Arrived tells, for each incarnation, whether the usage ledger has all sequence numbers from 1 to its last.
	Arrived(ctx context.Context, closes []Close) (map[uint64]bool, error)
	// Journal appends what happened, for people and for the audit.
	Journal(ctx context.Context, entries []Entry) error

	// DueBudgets are budgets in force, begun (StartsAt <= now), without a window that ends after now; at most so many.
	DueBudgets(ctx context.Context, now time.Time, most int) ([]Budget, error)
	// DueWindows are the ids of windows to seal, oldest first, at most so many: not sealed, over (EndsAt <= now) and either
	// with nothing held and nothing in suspense or over for SealAfter; but none whose budget has an older unsealed one,
	// for what is carried goes from window to window. Not locked.
	DueWindows(ctx context.Context, now time.Time, most int) ([]int64, error)
}

// Epoch is one life of the database's history. A new one begins when its end was lost.
type Epoch struct {
	Number   int64
	Identity string    // of the database and its timeline
	Learning time.Time // nothing is granted before; zero: not learning
	Since    time.Time
}

// Holder is an incarnation of a proxy, as the authority knows it.
type Holder struct {
	Incarnation uint64
	Name        string
	Op          uint64 // the newest message that was answered
	Reply       []byte // to it, as it was
	Epoch       int64  // in which it last spoke
	HeardAt     time.Time
	State       HolderState
}

// SealAfter is how long after its end a window is sealed at the latest.
const SealAfter = 48 * time.Hour

// HolderState is how far an incarnation's life has come.
type HolderState string

// The states.
const (
	Live   HolderState = "live"
	Left   HolderState = "left"   // it said that it leaves; its last events may be on their way
	Lost   HolderState = "lost"   // its volume is taken to be destroyed: what it held is in suspense
	Closed HolderState = "closed" // all of it arrived and what was left came back
)

// Window is one period of one budget. Its id is a pure function of budget and beginning, so that no other window can
// ever have it, whatever is lost.
type Window struct {
	ID       int64
	BudgetID uuid.UUID
	ClientID uuid.UUID
	Unit     Unit
	Period   Period
	Hard     bool
	TimeZone string
	StartsAt time.Time
	EndsAt   time.Time

	Base         int64 // the budget's limit
	Carried      int64 // from the window before; below zero: debt
	ToppedUp     int64 // for this window only
	LimitVersion int64 // rises with each change of the sum

	// Committed is what was spent, held and in suspense when the limit was last lowered below that; nothing is taken
	// back from work in flight. Always Spent + Held + Suspense <= greatest(limit, Committed).
	Committed int64

	Spent    int64 // settled against holds
	Held     int64 // Σ leases that are not in suspense
	Suspense int64 // doubts, and leases of lost incarnations
	Overrun  int64 // billed above what was held
	Unheld   int64 // used without a hold: alert-only budgets, calls of before the proxy knew

	Recall  int64
	Exact   bool      // little is free: since Recall last rose, grants are for calls that wait and no more
	Alerted int       // the highest threshold that was alerted for this limit version, in percent
	Sealed  bool      // nothing is held any more and it is over: its carry is final
	Since   time.Time // of the last change
}

// LeaseKey names a lease.
type LeaseKey struct {
	Window      int64
	Incarnation uint64
}

// Lease is what one incarnation has of one window. What it still holds is
// Granted − Returned − Settled − Doubted; that part counts in Window.Held, or in Window.Suspense when Lost.
type Lease struct {
	LeaseKey
	Granted  int64
	Returned int64
	Settled  int64 // Σ min(charge, hold) of its events
	Doubted  int64 // Σ doubts of its events
	Lost     bool
	Closed   bool // by proof: nothing is held any more
}

// EventID names a usage event.
type EventID struct {
	Incarnation uint64
	Seq         uint64
}

// Doubt is what may have been used beyond the estimate of a call that was cut short: it stays in suspense until the
// upstream's figure is known.
type Doubt struct {
	EventID
	Window int64
	Amount int64
	At     time.Time
}

// Alert is a threshold that was crossed, in the outbox.
type Alert struct {
	Window       int64
	BudgetID     uuid.UUID
	ClientID     uuid.UUID
	Threshold    int // percent
	LimitVersion int64
	Limit        int64
	Used         int64
	At           time.Time
}

// Entry is a line of the journal: an amount that went from one place to another.
type Entry struct {
	Window      int64
	Incarnation uint64 // 0: none
	Kind        string // "close", "suspend", "release", "adjust", "top_up", "limit", "carry", "forgotten", …
	Amount      int64
	Reason      string
	At          time.Time
}
