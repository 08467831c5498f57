package metering

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Exporter is a store that gives away the log, call by call.
type Exporter interface {
	// Export gives each call to a function, oldest first, as the log was at one moment: what is recorded meanwhile is
	// in the next export. Whatever the number of calls, it needs the memory of a few thousand. An error of each ends it.
	Export(ctx context.Context, q ExportQuery, each func(*UsageRow) error) error
}

// ExportQuery says which calls are meant. The zero value means all.
type ExportQuery struct {
	ClientID uuid.UUID // zero: all clients
	From     time.Time // inclusive; zero: since the beginning
	To       time.Time // exclusive; zero: until now
}

// exportFetch is how many rows are read ahead.
const exportFetch = 2000

func (q *ExportQuery) check() error {
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		return errors.New("export: to is before from")
	}
	return nil
}
