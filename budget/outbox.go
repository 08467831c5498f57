package budget

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Outbox is where alerts wait until somebody was told of them. Any number of processes may take from it at once.
type Outbox interface {
	// Due claims alerts that are due, new ones first, at most so many. For as long as the lease nobody else gets them;
	// after that somebody does, unless Record said what became of them. A zero now is the store's own clock.
	Due(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Delivery, error)
	// Record writes down tries, numbering them, and when the next one is due; a zero next: none. Where the claim has
	// passed to somebody else in the meantime, the tries are kept and when the next one is due is left to them.
	Record(ctx context.Context, d *Delivery, tries []Attempt, next time.Time) error
	// HourlyUsage is what was used since a time, hour by hour in order, by a client or, with uuid.Nil, by all together.
	HourlyUsage(ctx context.Context, client uuid.UUID, unit Unit, from time.Time) ([]UsagePoint, error)
}

// Delivery is an alert that somebody is to be told of, with what is there to tell now.
type Delivery struct {
	AlertID int64
	Alert
	Client   string // the client's name
	Window   Window // without what leases have of it; a zero ID: it is not there
	Email    string // of the budget, as is Webhook
	Webhook  string
	Attempts []Attempt // so far
	Now      time.Time // by the clock that Due went by
	Until    time.Time // when the claim ends
}
