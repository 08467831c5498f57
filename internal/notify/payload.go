package notify

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// The type of the one event there is.
const thresholdReached = "budget.threshold_reached"

// payload is the body of a webhook. Amounts are decimal numbers in strings, of whole tokens, reais or dollars: JSON's own
// numbers lose digits in many readers.
type payload struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	BudgetID     string     `json:"budget_id"`
	ClientID     string     `json:"client_id,omitempty"` // missing: a budget over all clients
	ClientName   string     `json:"client_name,omitempty"`
	BudgetType   string     `json:"budget_type"`
	BudgetPeriod string     `json:"budget_period"`
	Threshold    int        `json:"threshold"` // percent
	Limit        string     `json:"limit"`
	Used         string     `json:"used"`
	PauseAtLimit bool       `json:"pause_at_limit"`
	PeriodStart  string     `json:"period_start"` // in the budget's zone
	ResetsAt     string     `json:"resets_at"`
	TimeZone     string     `json:"time_zone"`
	Forecast     []crossing `json:"forecast"` // empty: none is expected within the period
}

type crossing struct {
	Threshold int    `json:"threshold"`
	At        string `json:"at"`
}

func newPayload(n *Notice) payload {
	zone := zoneOf(n)
	local := func(t time.Time) string { return t.In(zone).Format(time.RFC3339) }
	d := data{
		BudgetID: n.BudgetID, ClientID: n.ClientID, ClientName: n.Client, BudgetType: n.Unit, BudgetPeriod: n.Period,
		Threshold: n.Threshold, Limit: number(n.Unit, n.Limit), Used: number(n.Unit, n.Used), PauseAtLimit: n.Hard,
		PeriodStart: local(n.StartsAt), ResetsAt: local(n.EndsAt), TimeZone: n.TimeZone, Forecast: []crossing{},
	}
	for _, threshold := range expected(n) {
		d.Forecast = append(d.Forecast, crossing{threshold, local(n.Forecast[threshold])})
	}
	return payload{Type: thresholdReached, Timestamp: n.At.UTC(), Data: d}
}

// expected are the thresholds of the forecast, lowest first.
func expected(n *Notice) []int {
	var all []int
	for threshold := range n.Forecast {
		all = append(all, threshold)
	}
	slices.Sort(all)
	return all
}

// zoneOf is the budget's zone; UTC where this machine does not know it.
func zoneOf(n *Notice) *time.Location {
	if zone, err := time.LoadLocation(n.TimeZone); err == nil {
		return zone
	}
	return time.UTC
}

const picoDigits = 12

// number is an amount as a decimal number.
func number(unit string, amount int64) string {
	s := strconv.FormatInt(amount, 10)
	if unit == "tokens" {
		return s
	}
	s, negative := strings.CutPrefix(s, "-")
	if len(s) <= picoDigits {
		s = strings.Repeat("0", picoDigits+1-len(s)) + s
	}
	whole, fraction := s[:len(s)-picoDigits], strings.TrimRight(s[len(s)-picoDigits:], "0")
	if fraction != "" {
		whole += "." + fraction
	}
	if negative {
		return "-" + whole
	}
	return whole
}
