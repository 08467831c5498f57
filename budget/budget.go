// Package budget keeps clients within what they may spend: a hard cap that holds across any number of proxies.
//
//	proxy                                        │ control
//	 Reserve ─► Account ─► slots (memory)        │ Authority ─► Books: windows, leases, doubts, alerts
//	 Settle ──►              ▲ │                 │    ▲           Postgres or SQLite
//	            Purse ───────┴─┴── Ask, Answer ──┼────┘              ▲
//	                       (Lender: in process,  │  worker ─► Settle ┘ in the transaction that records usage
//	                        or over the link)
//
// A budget is a limit on one unit (tokens, BRL, USD) over one period (day, week, month). Each of its periods is a
// Window: a row with a beginning, an end and a limit of its own, so that nothing is ever reset. What a window has is in
// five places:
//
//	limit = free + held by proxies' leases + spent + in suspense (+ what came without a hold, and overruns)
//
// Promises:
//   - A proxy admits a call only against what it holds on a lease, for the worst that the call can cost, in all of the
//     call's windows or in none. So however many proxies there are, the sum of what was admitted fits the limit.
//   - Money leaves the free part when it is leased and comes back only by proof: a settled event, an explicit return, or
//     a closed incarnation all of whose events have arrived. Never by a timer.
//   - Every message of a proxy has a number; repeating it gives the first answer and changes nothing.
//   - A charge belongs to the window that admitted it, whenever it is settled.
//   - When the ledger cannot be asked and the lease is spent, hard-capped calls are refused. Redis plays no part.
//
// What an upstream bills above the worst case is recorded as overrun, raises an alarm, and is never silent.
package budget

import (
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// Unit is what a budget counts. Amounts are tokens, or pico-units of the currency.
type Unit string

// The units, as client_budgets.budget_type spells them.
const (
	Tokens Unit = "tokens"
	BRL    Unit = "brl"
	USD    Unit = "usd"
)

// Period is how long a budget's windows are.
type Period string

// The periods, as client_budgets.budget_period spells them. A week begins on Monday, a month on the billing day.
const (
	Daily   Period = "daily"
	Weekly  Period = "weekly"
	Monthly Period = "monthly"
)

// Cost is what one call costs, or may cost at worst, in every unit.
type Cost struct {
	Tokens   int64
	BRL, USD money.Pico
	// Unpriced says that the two currencies mean nothing, for there is no price.
	Unpriced bool
}

// In is the part of a cost that a unit counts.
func (c *Cost) In(u Unit) int64 {
	switch u {
	case Tokens:
		return c.Tokens
	case BRL:
		return int64(c.BRL)
	case USD:
		return int64(c.USD)
	}
	return 0
}

// Budget is a limit as people set it. A client may have one for each unit and period; those with a zero ClientID are over
// all clients together. Unit, Period and ClientID never change.
type Budget struct {
	ID       uuid.UUID `json:"id"`
	ClientID uuid.UUID `json:"client_id,omitzero"`
	Unit     Unit      `json:"budget_type"`
	Period   Period    `json:"budget_period"`
	Limit    int64     `json:"-"` // tokens or pico-units

	PauseAtLimit bool      `json:"pause_at_limit"` // a hard cap; else it only alerts
	BillingDay   int       `json:"billing_day"`    // 1 … 31, of Monthly; a month that is shorter begins on its last day
	TimeZone     string    `json:"time_zone"`      // IANA; a change takes effect with the next window
	StartsAt     time.Time `json:"starts_at"`      // what is admitted from here on counts
	CarryOver    bool      `json:"carry_over"`     // what is left of a window is added to the next one
	CarryMax     int64     `json:"-"`              // at most so much; 0: no bound
	Debt         bool      `json:"debt"`           // what went beyond a window's limit is taken off the next one

	Alert80    bool  `json:"alert_threshold_80"`
	Alert90    bool  `json:"alert_threshold_90"`
	Alert100   bool  `json:"alert_threshold_100"`
	Thresholds []int `json:"thresholds,omitzero"` // more of them, in percent

	Email   string `json:"notification_email,omitzero"`
	Webhook string `json:"notification_webhook,omitzero"`

	Paused       bool   `json:"paused"` // by a person, with a reason; not by the limit
	PausedReason string `json:"paused_reason,omitzero"`

	CreatedAt time.Time `json:"created_at,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	DeletedAt time.Time `json:"-"` // zero: in force. Its windows stay.
}

// Bounds of what people may set.
const (
	MaxBudgets    = 6 // of one client, and over all clients; one call has at most the sum of both, see MaxHolds
	MaxHolds      = 2 * MaxBudgets
	MaxThresholds = 10
	MaxLimit      = 1<<62 - 1 // so that sums of two amounts never overflow
)

// DefaultZone is the time zone of budgets that name none.
const DefaultZone = "America/Sao_Paulo"

// Action is what a client is answered at its limit.
type Action string

// The actions. The empty one is Block.
const (
	Block     Action = "block"     // 402
	Answer    Action = "answer"    // a set text, as a normal completion
	Downgrade Action = "downgrade" // a cheaper model, while that fits; then 402
	Handoff   Action = "handoff"   // an empty completion with X-Catraca-Limit: handoff
)

// Bound is how the worst case of a prompt is found.
type Bound string

// The bounds. The empty one is BoundBytes.
const (
	BoundBytes     Bound = "bytes"     // no token covers less than a byte: never too low
	BoundTokenizer Bound = "tokenizer" // counted, with a margin: tighter, and a little may be overrun
)

// Outrun is what happens to a stream that goes beyond its hold.
type Outrun string

// The two ways. The empty one is TopUp.
const (
	TopUp Outrun = "top_up" // hold more, and cut where there is no more
	Cut   Outrun = "cut"
)

// Policy is how a client is treated with respect to its budgets. The zero Policy is the default.
type Policy struct {
	AtLimit        Action `json:"at_limit,omitzero"`
	AnswerText     string `json:"answer_text,omitzero"`     // empty: a sentence in Portuguese
	DowngradeModel string `json:"downgrade_model,omitzero"` // registry name or gateway id
	FitOutput      bool   `json:"fit_output,omitzero"`      // lower the output cap to what fits instead of refusing
	Bound          Bound  `json:"bound,omitzero"`
	// OutputCap is held for, and sent upstream, where a request sets none; 0: the model's maximum.
	OutputCap   int64  `json:"output_cap,omitzero"`
	LeaveOutput bool   `json:"leave_output,omitzero"` // do not send it upstream: then the cap is as good as the upstream's own
	Outrun      Outrun `json:"outrun,omitzero"`
	// AcceptEstimates settles calls that were cut short for what was counted. Else the rest of their worst case stays in
	// suspense until the upstream's figure is known, or the window ends.
	AcceptEstimates bool `json:"accept_estimates,omitzero"`
	// TailCalls is how many more calls a conversation that is open may make once what is left is less than TailPercent of
	// the limit; new conversations are refused from there on. 0: no tail.
	TailCalls   int `json:"tail_calls,omitzero"`
	TailPercent int `json:"tail_percent,omitzero"` // 0: 5
	// The loop breaker: what one conversation, and one contact (X-Phone), may do in an hour; 0: no bound.
	ConversationCalls int64      `json:"conversation_calls_per_hour,omitzero"`
	ConversationBRL   money.Pico `json:"conversation_brl_pico,omitzero"`
	ContactCalls      int64      `json:"contact_calls_per_hour,omitzero"`
	ContactBRL        money.Pico `json:"contact_brl_pico,omitzero"`
}

// Errors of the ledger.
var (
	// ErrNotFound says that there is no such budget, window or incarnation.
	ErrNotFound = errors.New("budget: not found")
	// ErrExists says that the client has a budget of this unit and period.
	ErrExists = errors.New("budget: there is one of this type and period already")
	// ErrConflict says that somebody else changed a budget since it was read.
	ErrConflict = errors.New("budget: changed by somebody else in the meantime")
	// ErrAlive says that a proxy cannot be taken for lost: it was heard of a moment ago.
	ErrAlive = errors.New("budget: the proxy is alive")
	// ErrUnavailable says that the ledger could not be asked.
	ErrUnavailable = errors.New("budget: the ledger does not answer")
	// ErrStale says that a message is older than one that was answered already, or of an incarnation that was closed.
	ErrStale = errors.New("budget: a message from the past")
)
