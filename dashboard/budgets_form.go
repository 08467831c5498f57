package dashboard

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/internal/money"
)

// BudgetSettings are what people set of a budget. Their bounds are not in the schema: all mistakes are found in one go,
// by one reader.
type BudgetSettings struct {
	Limit        *string    `json:"budget_limit,omitempty" example:"200.00" doc:"Tokens, reais or dollars, as a decimal number; more than 0."`
	PauseAtLimit *bool      `json:"pause_at_limit,omitempty" doc:"A hard cap: calls that do not fit are not let through. Default false: it only alerts."`
	TimeZone     *string    `json:"time_zone,omitempty" doc:"IANA name; default: the client's."`
	BillingDay   *int       `json:"billing_day,omitempty" doc:"1 to 31, of monthly budgets; default 1."`
	StartsAt     *time.Time `json:"starts_at,omitempty" doc:"What is admitted from here on counts; at most 400 days ago or a year ahead. Default: now."`
	CarryOver    *bool      `json:"carry_over,omitempty" doc:"What is left of a period is added to the next one. Default false."`
	CarryMax     *string    `json:"carry_max,omitempty" doc:"At most so much, in the unit of budget_limit; 0, the default: no bound."`
	Debt         *bool      `json:"debt,omitempty" doc:"What went beyond a period's limit is taken off the next one. Default false."`
	Alert80      *bool      `json:"alert_threshold_80,omitempty" doc:"Default true, as the next two."`
	Alert90      *bool      `json:"alert_threshold_90,omitempty"`
	Alert100     *bool      `json:"alert_threshold_100,omitempty"`
	Thresholds   *[]int     `json:"thresholds,omitempty" doc:"More of them, in percent: at most 10, each from 1 to 1000. The whole new list."`
	Email        *string    `json:"notification_email,omitempty" doc:"Empty for none."`
	Webhook      *string    `json:"notification_webhook,omitempty" doc:"Empty for none."`
	UpdatedAt    *time.Time `json:"updated_at,omitempty" doc:"Of the budget as it was read: the change is then refused where somebody else wrote since."`
}

// BudgetNew is what a budget is created from.
type BudgetNew struct {
	ClientID uuid.UUID `json:"client_id" format:"uuid" doc:"The zero uuid: over all clients together."`
	Type     string    `json:"budget_type" enum:"tokens,brl,usd"`
	Period   string    `json:"budget_period" enum:"daily,weekly,monthly" doc:"A week begins on Monday, a month on the billing day."`
	BudgetSettings
}

// BudgetSet is the one budget of a client.
type BudgetSet struct {
	Type   string `json:"budget_type,omitempty" enum:"tokens,brl,usd" doc:"Another than before replaces the budget."`
	Period string `json:"budget_period,omitempty" enum:"daily,weekly,monthly" doc:"Another than before replaces the budget."`
	BudgetSettings
}

// BudgetChange changes what it names and leaves the rest. Type and period never change; who sends the whole budget back
// may name them.
type BudgetChange struct {
	Type   string `json:"budget_type,omitempty" enum:"tokens,brl,usd"`
	Period string `json:"budget_period,omitempty" enum:"daily,weekly,monthly"`
	BudgetSettings
}

const (
	oldestStart   = 400 * 24 * time.Hour // as far back as the usage log is kept by default, and a month
	furthestStart = 366 * 24 * time.Hour
	maxThreshold  = 1000
	maxContact    = 2000 // characters of an address
)

// budgetForm reads settings and collects what is wrong with them.
type budgetForm struct {
	now      time.Time
	url      func(string) error
	address  func(string) error
	mistakes []error
}

func (s *server) newBudgetForm() *budgetForm {
	return &budgetForm{now: s.Now(), url: s.Budgets.CheckURL, address: s.Budgets.CheckAddress}
}

func (f *budgetForm) wrong(field, why string) {
	f.mistakes = append(f.mistakes, &huma.ErrorDetail{Location: "body." + field, Message: why})
}

func (f *budgetForm) err() error {
	if len(f.mistakes) == 0 {
		return nil
	}
	return huma.Error422UnprocessableEntity("the budget is not valid", f.mistakes...)
}

// apply writes what is named into a budget that is otherwise as it was, or as it is by default.
func (f *budgetForm) apply(b *budget.Budget, in *BudgetSettings) {
	if in.Limit != nil {
		b.Limit = f.amount("budget_limit", b.Unit, *in.Limit, 1)
	}
	f.calendar(b, in)
	replace(&b.PauseAtLimit, in.PauseAtLimit)
	replace(&b.Debt, in.Debt)
	f.carry(b, in)
	replace(&b.Alert80, in.Alert80)
	replace(&b.Alert90, in.Alert90)
	replace(&b.Alert100, in.Alert100)
	if in.Thresholds != nil {
		b.Thresholds = f.thresholds(*in.Thresholds)
	}
	if in.Email != nil && *in.Email != b.Email {
		b.Email = f.contact("notification_email", *in.Email, f.address)
	}
	if in.Webhook != nil && *in.Webhook != b.Webhook {
		b.Webhook = f.contact("notification_webhook", *in.Webhook, f.url)
	}
}

func (f *budgetForm) calendar(b *budget.Budget, in *BudgetSettings) {
	if in.TimeZone != nil {
		b.TimeZone = *in.TimeZone
		if !isZone(b.TimeZone) {
			f.wrong("time_zone", "must be an IANA name such as America/Sao_Paulo")
		}
	}
	if day := in.BillingDay; day != nil {
		switch {
		case *day < 1 || *day > 31:
			f.wrong("billing_day", "must be from 1 to 31; a month that is shorter begins on its last day")
		case b.Period != budget.Monthly && *day != 1:
			f.wrong("billing_day", "is of monthly budgets only: a day begins at midnight, a week on Monday")
		default:
			b.BillingDay = *day
		}
	}
	if at := in.StartsAt; at != nil && !at.Equal(b.StartsAt) {
		switch {
		case at.Before(f.now.Add(-oldestStart)):
			f.wrong("starts_at", "must not be more than 400 days ago")
		case at.After(f.now.Add(furthestStart)):
			f.wrong("starts_at", "must not be more than a year ahead")
		}
		b.StartsAt = at.UTC()
	}
}

// isZone: "Local" is a zone for Go, but another one on each machine, and the empty name is UTC.
func isZone(name string) bool {
	_, err := time.LoadLocation(name)
	return err == nil && name != "" && name != "Local"
}

func (f *budgetForm) carry(b *budget.Budget, in *BudgetSettings) {
	replace(&b.CarryOver, in.CarryOver)
	if in.CarryMax != nil {
		b.CarryMax = f.amount("carry_max", b.Unit, *in.CarryMax, 0)
		if b.CarryMax > 0 && !b.CarryOver {
			f.wrong("carry_max", "says nothing without carry_over")
		}
	}
	if !b.CarryOver {
		b.CarryMax = 0
	}
}

func (f *budgetForm) thresholds(list []int) []int {
	list = slices.Clone(list)
	slices.Sort(list)
	switch {
	case len(list) > budget.MaxThresholds:
		f.wrong("thresholds", fmt.Sprintf("are %d, and %d is the most", len(list), budget.MaxThresholds))
	case len(list) > 0 && (list[0] < 1 || list[len(list)-1] > maxThreshold):
		f.wrong("thresholds", "must each be from 1 to 1000 percent")
	case len(slices.Compact(slices.Clone(list))) < len(list):
		f.wrong("thresholds", "names one of them twice")
	case slices.Contains(list, 80) || slices.Contains(list, 90) || slices.Contains(list, 100):
		f.wrong("thresholds", "must not name 80, 90 or 100, which alert_threshold_80, _90 and _100 switch")
	}
	return list
}

// contact reads where an alert goes. The checkers know what is a public address; here is what holds without them.
func (f *budgetForm) contact(field, text string, check func(string) error) string {
	switch {
	case text == "":
	case len(text) > maxContact || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		f.wrong(field, fmt.Sprintf("must be at most %d characters, without blanks", maxContact))
	case check != nil:
		if err := check(text); err != nil {
			f.wrong(field, err.Error())
		}
	}
	return text
}

func (f *budgetForm) amount(field string, unit budget.Unit, text string, least int64) int64 {
	n, why := readAmount(unit, text)
	if why == "" && n < least {
		why = "must not be less than 0"
		if least > 0 {
			why = "must be more than 0"
		}
	}
	if why != "" {
		f.wrong(field, why)
	}
	return n
}

// readAmount reads an amount in whole units of a budget's type, and says what is wrong with it.
func readAmount(unit budget.Unit, text string) (n int64, why string) {
	if unit == budget.Tokens {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n > budget.MaxLimit || n < -budget.MaxLimit {
			return 0, fmt.Sprintf(`must be a whole number of tokens, such as "1000000", at most %d`, int64(budget.MaxLimit))
		}
		return n, ""
	}
	p, err := money.Parse(text)
	if err != nil || p > budget.MaxLimit || p < -budget.MaxLimit {
		return 0, `must be a decimal number, such as "200.00", at most ` + money.Pico(budget.MaxLimit).Decimal().Truncate(2).String()
	}
	// Parse has bounded the exponent, so this is cheap.
	if exact, err := decimal.NewFromString(text); err != nil || !exact.Equal(p.Decimal()) {
		return 0, "has more than 12 decimal places, which nothing here counts"
	}
	return int64(p), ""
}

// writeAmount is an amount in whole units of a budget's type.
func writeAmount(unit budget.Unit, n int64) string {
	if unit == budget.Tokens {
		return strconv.FormatInt(n, 10)
	}
	return money.Pico(n).String()
}

func budgetBody(b *budget.Budget, client string) Budget {
	thresholds := b.Thresholds
	if thresholds == nil {
		thresholds = []int{}
	}
	return Budget{
		ID: b.ID, ClientID: b.ClientID, Client: client, Type: string(b.Unit), Limit: writeAmount(b.Unit, b.Limit), Period: string(b.Period),
		PauseAtLimit: b.PauseAtLimit, TimeZone: b.TimeZone, BillingDay: b.BillingDay, StartsAt: utc(b.StartsAt),
		CarryOver: b.CarryOver, CarryMax: writeAmount(b.Unit, b.CarryMax), Debt: b.Debt,
		Alert80: b.Alert80, Alert90: b.Alert90, Alert100: b.Alert100, Thresholds: thresholds, Email: b.Email, Webhook: b.Webhook,
		Paused: b.Paused, PausedReason: b.PausedReason, CreatedAt: utc(b.CreatedAt), UpdatedAt: utc(b.UpdatedAt),
	}
}

// auditedBudget is a budget for the audit log, which is kept longer than a webhook is: the path of one may be a
// credential, so only its host is written down.
func auditedBudget(b *budget.Budget) Budget {
	out := budgetBody(b, "")
	if out.Webhook != "" {
		out.Webhook = "…"
		if u, err := url.Parse(b.Webhook); err == nil {
			out.Webhook = u.Scheme + "://" + u.Host + "/…"
		}
	}
	return out
}

// compareBudgets orders by client, then as people think of them: the largest period last.
func compareBudgets(a, b budget.Budget) int {
	order := func(p budget.Period) int {
		return slices.Index([]budget.Period{budget.Daily, budget.Weekly, budget.Monthly}, p)
	}
	if c := strings.Compare(string(a.ClientID[:]), string(b.ClientID[:])); c != 0 {
		return c
	}
	if c := strings.Compare(string(a.Unit), string(b.Unit)); c != 0 {
		return c
	}
	if c := order(a.Period) - order(b.Period); c != 0 {
		return c
	}
	return strings.Compare(string(a.ID[:]), string(b.ID[:]))
}
