package metering

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
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
	// Coarse: Open and Waiting have so many holes that the smallest were filled; a number in one of them may be in the
	// ledger already.
	Coarse bool `json:"coarse,omitzero"`
}

// Fleet keeps what proxies say of themselves, so that every control plane sees all of them.
type Fleet interface {
	Report(ctx context.Context, reports []ProxyReport) error
	// Proxies lists those heard of since a time, by name.
	Proxies(ctx context.Context, since time.Time) ([]ProxyReport, error)
}

// heldLog is a log with the proxy that holds it.
type heldLog struct {
	holder  string
	started time.Time
	LogReport
}

// over tells whether its spool has nothing of it left.
func (l *heldLog) over() bool { return !l.Live && len(l.Open) == 0 && len(l.Waiting) == 0 }

// newestOf keeps the last report of each proxy and the last word on each incarnation, in the order in which stores lock
// rows: two control planes that keep reports at once cannot then wait for each other.
func newestOf(reports []ProxyReport) (proxies []ProxyReport, logs []heldLog) {
	byName := make(map[string]ProxyReport, len(reports))
	for _, r := range reports {
		r.StartedAt = r.StartedAt.UTC().Truncate(time.Microsecond)
		r.Name = cleanText(r.Name, maxColumn)
		byName[r.Name] = r
	}
	byIncarnation := make(map[uint64]heldLog)
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		r := byName[name]
		for _, l := range r.Logs {
			if l.Incarnation != 0 {
				l.Last = min(l.Last, math.MaxInt64-1)
				byIncarnation[l.Incarnation] = heldLog{name, r.StartedAt, l}
			}
		}
		r.Logs = nil
		proxies = append(proxies, r)
	}
	logs = slices.SortedFunc(maps.Values(byIncarnation), func(a, b heldLog) int {
		return cmp.Compare(int64(a.Incarnation), int64(b.Incarnation))
	})
	return proxies, logs
}

// withLogs puts logs, in the order of their incarnations, back into the reports of the proxies that hold them.
func withLogs(reports []ProxyReport, logs []heldLog) []ProxyReport {
	at := make(map[string]int, len(reports))
	for i := range reports {
		at[reports[i].Name] = i
	}
	for _, l := range logs {
		if i, ok := at[l.holder]; ok {
			reports[i].Logs = append(reports[i].Logs, l.LogReport)
		}
	}
	return reports
}
