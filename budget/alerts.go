package budget

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Notice is what somebody is told of an alert. Its fields are plain, so that whoever sends it need not know budgets.
type Notice struct {
	ID       string // the same however often it is sent, and whatever is lost and made again
	BudgetID string
	ClientID string // empty: the budget is over all clients
	Client   string // the client's name
	Unit     string
	Period   string

	Threshold int   // percent
	Limit     int64 // tokens or pico-units, as is Used
	Used      int64 // when the threshold was reached
	Hard      bool  // calls are stopped at the limit

	At       time.Time // when the threshold was reached
	StartsAt time.Time // of the period, as is EndsAt
	EndsAt   time.Time
	TimeZone string

	// Forecast says when further thresholds will be reached, of those that will be within the period. Foreseen says that
	// a forecast could be made: then what is missing in it is not expected.
	Forecast map[int]time.Time
	Foreseen bool
}

// AlertsReport is what CheckAlerts found and did.
type AlertsReport struct {
	Windows int `json:"windows"` // open ones
	Added   int `json:"added"`   // alerts that were missing
	Deliveries
}

// sweepBudgets is how many budgets are looked at in one transaction.
const sweepBudgets = 500

// CheckAlerts looks whether open windows reached thresholds of which there is no alert, and delivers what is due. Neither
// is needed while all goes well: alerts are written as usage is settled, and couriers run. It may be called at any time
// and any number of times. Without a courier nothing is delivered.
func CheckAlerts(ctx context.Context, s Store, c *Courier) (report AlertsReport, err error) {
	budgets, err := s.Budgets(ctx, nil)
	if err != nil {
		return report, err
	}
	for some := range slices.Chunk(budgets, sweepBudgets) {
		windows, added, err := sweepAlerts(ctx, s, some)
		if err != nil {
			return report, err
		}
		report.Windows += windows
		report.Added += added
	}
	if c != nil {
		report.Deliveries, err = c.Deliver(ctx)
	}
	return report, err
}

// sweepAlerts writes alerts that are missing. Only windows that miss one are locked, for settlement needs them.
func sweepAlerts(ctx context.Context, s Store, budgets []Budget) (windows, added int, err error) {
	var ids []uuid.UUID
	for i := range budgets {
		ids = append(ids, budgets[i].ID)
	}
	err = s.Update(ctx, func(tx Tx) error {
		p, err := openPage(ctx, tx)
		if err != nil {
			return err
		}
		p.keep(budgets)
		open, err := tx.WindowsOf(ctx, ids, p.now)
		if err != nil {
			return err
		}
		windows = len(open)
		short := map[int64]bool{}
		for _, w := range open {
			if now := *w; p.misses(&now) {
				short[w.ID] = true
			}
		}
		if err := p.lock(ctx, short); err != nil {
			return err
		}
		for id := range p.windows {
			p.touched[id] = true // save raises what they crossed
		}
		err = p.save(ctx)
		added = len(p.alerts)
		return err
	})
	return windows, added, err
}

// misses tells whether there would be an alert for a window. It may change the window, so it is given a copy.
func (p *page) misses(w *Window) bool {
	before := len(p.alerts)
	p.raise(w)
	missing := len(p.alerts) > before
	p.alerts = p.alerts[:before]
	return missing
}

// ResetReport is what ResetPeriods did.
type ResetReport struct {
	Shown int `json:"shown"` // rows of client_budgets that were brought up to date
}

// ResetPeriods opens the windows that begin, seals those that are over, and shows the current ones in client_budgets.
// Nothing is ever reset by it: a call belongs to the window that its time lies in, whether or not this was called. It may
// be called at any time and any number of times.
func ResetPeriods(ctx context.Context, a *Authority, s Store) (report ResetReport, err error) {
	if err := a.Tidy(ctx); err != nil {
		return report, err
	}
	report.Shown, err = s.Project(ctx, time.Time{})
	return report, err
}
