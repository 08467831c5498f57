package budget

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Store keeps what people set, and shows what the ledger has. Every write is also a change in the feed that proxies
// follow, for the client concerned or, where the budget is over all clients, for every client.
type Store interface {
	Books

	// Budgets lists those in force: of a client, with uuid.Nil those over all clients, with nil all there are.
	Budgets(ctx context.Context, client *uuid.UUID) ([]Budget, error)
	Budget(ctx context.Context, id uuid.UUID) (Budget, error)
	CreateBudget(ctx context.Context, b Budget) (Budget, error) // a zero ID is given one; ErrExists
	// UpdateBudget writes all that may change. With the UpdatedAt that was read it is refused (ErrConflict) where somebody
	// else wrote since; with a zero one it is not. A change of the limit, of PauseAtLimit or of thresholds is in the open
	// window at once (Window.Amend). Another limit is another limit version, for which all thresholds are alerted anew; a
	// threshold that is added below one that was alerted already waits for the next window.
	UpdateBudget(ctx context.Context, b Budget) (Budget, error)
	DeleteBudget(ctx context.Context, id uuid.UUID) error

	Policy(ctx context.Context, client uuid.UUID) (Policy, error) // the zero one where none was set
	SetPolicy(ctx context.Context, client uuid.UUID, p Policy) error

	// History lists windows of a budget, newest first.
	History(ctx context.Context, budget uuid.UUID, most int) ([]*Window, error)
	// Entries lists the journal of a window, newest first.
	Entries(ctx context.Context, window int64, most int) ([]Entry, error)
	// Alerts lists those of a client (nil: of all), newest first, with their deliveries.
	Alerts(ctx context.Context, client *uuid.UUID, most int) ([]AlertStatus, error)
	// Project brings the plan's columns of client_budgets (current_usage, period_start_date, next_reset_at, is_paused) up
	// to date with the windows that changed since a time, and tells how many rows it wrote.
	Project(ctx context.Context, since time.Time) (int, error)
	// Prune lets go of what windows that were sealed and ended before a time no longer need: leases, doubts, and runs of
	// proxies that were closed before it. Windows, journal and alerts stay. It may be done at any time.
	Prune(ctx context.Context, before time.Time) (int, error)
	// Check compares the ledger with the usage log: invariants I4 and I5. The lines are those that do not hold.
	Check(ctx context.Context) (CheckReport, error)
}

// KeepLeases is how long leases are kept once their window is sealed. A proxy that is further behind with its last calls
// than that is heard all the same: what it held is noted as forgotten.
const KeepLeases = 35 * 24 * time.Hour

const pruneBatch = 2000

// AlertStatus is an alert with what became of it.
type AlertStatus struct {
	ID int64 `json:"id"`
	Alert
	Attempts []Attempt `json:"attempts"`
}

// Attempt is one try to tell somebody of an alert.
type Attempt struct {
	Channel string    `json:"channel"` // "webhook", "email"
	Try     int       `json:"try"`
	At      time.Time `json:"at"`
	Status  int       `json:"status,omitzero"` // HTTP or SMTP
	Error   string    `json:"error,omitzero"`  // without address or secret
	Done    bool      `json:"done"`            // delivered, or given up
}

// CheckReport is what Check found. All is well when Faults is empty.
type CheckReport struct {
	Windows int         `json:"windows"`
	Spent   int64       `json:"-"` // Σ of what the windows say was used, in mixed units: only to compare
	Logged  int64       `json:"-"` // Σ of what the usage log says
	Faults  []CheckLine `json:"faults,omitempty"`
}

// CheckLine is a window that does not add up.
type CheckLine struct {
	Window int64     `json:"window"`
	Budget uuid.UUID `json:"budget"`
	Client uuid.UUID `json:"client"`
	Unit   Unit      `json:"unit"`
	What   string    `json:"what"` // "spent", "held", "free", …
	Ledger int64     `json:"ledger"`
	Log    int64     `json:"log"`
}
