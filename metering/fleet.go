package metering

import (
	"context"
	"time"
)

// A ProxyReport is what a proxy says of itself, every few seconds: for the view of the fleet, and for the audit, which
// must know what is still on its way to the ledger.
type ProxyReport struct {
	Name          string    `json:"name"`    // of the machine or pod, and the process
	Version       string    `json:"version"` // of the build
	StartedAt     time.Time `json:"started_at"`
	At            time.Time `json:"at"`                  // by the control plane's clock, when it came
	ConfigVersion int64     `json:"config_version"`      // newest change of the feed that is in use there
	LastFlush     time.Time `json:"last_flush,omitzero"` // when the ledger was last known to have taken a call of it
	Stopped       bool      `json:"stopped,omitzero"`    // its last word: a clean stop

	Open     int           `json:"open_calls"`
	Depth    int           `json:"spool_depth"` // ended calls that the ledger is not known to have
	Oldest   time.Duration `json:"spool_oldest_ns"`
	Bytes    int64         `json:"spool_bytes"`
	MaxBytes int64         `json:"spool_max_bytes"`
	Lost     int           `json:"spool_lost"` // calls in no record that can be read

	Logs []LogReport `json:"logs"`
}

// A LogReport is what a spool knows of one incarnation: all numbers up to Last were given out, and those that are
// neither open nor waiting are in the ledger, or were never sent upstream.
type LogReport struct {
	Incarnation uint64 `json:"incarnation"`
	Last        uint64 `json:"last"`
	Live        bool   `json:"live,omitzero"`    // more may come
	Open        Ranges `json:"open,omitzero"`    // admitted and not ended
	Waiting     Ranges `json:"waiting,omitzero"` // ended, and not known to be in the ledger
	Lost        Ranges `json:"lost,omitzero"`    // in no record that can be read
}

// Fleet keeps what proxies say of themselves, so that every control plane sees all of them.
type Fleet interface {
	Report(ctx context.Context, reports []ProxyReport) error
	// Proxies lists those heard of since a time, by name.
	Proxies(ctx context.Context, since time.Time) ([]ProxyReport, error)
}
