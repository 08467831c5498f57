package budget

import (
	"time"

	"github.com/google/uuid"
)

// Charge is one usage event as the ledger of budgets sees it. Settle (settle.go) takes charges in the transaction that
// records the events, so each comes exactly once.
type Charge struct {
	EventID    // of a correction: of the event that it corrects
	Client     uuid.UUID
	AdmittedAt time.Time
	Cost       // of a correction: what was true less what was recorded, which may be below zero
	// Holds are what was held for the call, window by window; none where the proxy knew of no budget. The charge goes to
	// these windows, and also to the window that AdmittedAt lies in of each budget of the client that has none here.
	Holds []HeldFor
	// Doubt says that more may have been used than the cost tells: the call was cut short. What is left of its holds
	// stays in suspense until a correction comes.
	Doubt      bool
	Correction bool
}

// HeldFor is what a call held of a window.
type HeldFor struct {
	Window int64
	Amount int64
}
