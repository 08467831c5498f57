package metering

import (
	"context"
	"time"
)

// The log is let go of by the month, oldest first, and its sums stay:
//
//	          since                 now
//	roll-ups ───┼──────────────────►│   for ever
//	     log    ├──────────────────►│   as many months as are kept, and the running one

// Retention is a store that lets go of old calls.
type Retention interface {
	// DropMonths lets go of calls before a time, which must be the beginning of a month in UTC. See Housekeeper.
	DropMonths(ctx context.Context, before time.Time) (Dropped, error)
	// LogSince tells from when on the log is complete; zero: nothing was ever let go of. Log and roll-ups are equal
	// from there on, and before it only the roll-ups tell what was used.
	LogSince(ctx context.Context) (time.Time, error)
}

// Dropped says how much the log let go of.
type Dropped struct {
	Partitions int // whole months, uncounted
	Rows       int // beside them
}

// KeptFrom is the beginning of the first month that is kept when so many months are, beside the one that runs.
func KeptFrom(now time.Time, months int) time.Time {
	now = now.UTC()
	return time.Date(now.Year(), now.Month()-time.Month(months), 1, 0, 0, 0, 0, time.UTC)
}

// dropBatch is how many rows are deleted in one transaction: few enough that writers behind it do not notice.
const dropBatch = 5000
