// Package notify tells people and programs outside that a budget's threshold was reached: by webhook and by e-mail.
//
// Where a notice goes is set by people who need not be trusted with the network that this process is in. So a webhook
// reaches public addresses only, and what comes of it is told in words of ours: no error holds an address's path, a
// recipient, a secret, or anything that the other side said.
package notify

import "time"

// Notice is a threshold that a budget reached. Its fields are plain, so that whoever knows budgets need not know this
// package.
type Notice struct {
	ID       string // of this event, the same however often it is sent
	BudgetID string
	ClientID string // empty: the budget is over all clients
	Client   string // the client's name
	Unit     string // tokens, brl, usd
	Period   string // daily, weekly, monthly

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
