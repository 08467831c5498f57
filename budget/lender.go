package budget

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Lender is who a Purse gets its leases from: the Authority in its own process, or the link to one far away.
type Lender interface {
	Lease(ctx context.Context, a Ask) (Reply, error)
}

// Ask is a message of one incarnation to the authority. An incarnation has one message under way at a time: the next one
// goes out when the one before was answered, and until then that one is repeated, unchanged.
type Ask struct {
	Incarnation uint64 `json:"incarnation"`
	Name        string `json:"name"`  // of the proxy, for people
	Op          uint64 `json:"op"`    // 1, 2, 3, …
	Epoch       int64  `json:"epoch"` // of the newest answer; 0: none yet

	Open    []Opening `json:"open,omitempty"`
	Want    []Want    `json:"want,omitempty"`
	Return  []Return  `json:"return,omitempty"`
	Refused []int64   `json:"refused,omitempty"` // windows for whose limit a call was refused since the last message
	Watch   []int64   `json:"watch,omitempty"`   // windows whose state is wanted in the reply, beside those leased
	Close   []Close   `json:"close,omitempty"`
	// Assert says what this incarnation holds, window by window. It goes with the first message in an epoch that is new
	// to it: the authority may have forgotten.
	Assert []Assertion `json:"assert,omitempty"`
	// Leaving is its last word: all has been returned, nothing will be admitted any more.
	Leaving bool `json:"leaving,omitempty"`
}

// Opening asks for a client's account: its policy and the windows that are open now, with a first slice of each. The zero
// client's account has the budgets over all clients.
type Opening struct {
	Client uuid.UUID `json:"client"`
	Need   Cost      `json:"need"`            // of the calls that wait
	Ahead  bool      `json:"ahead,omitempty"` // also the windows that come next, with a slice
}

// Want asks for more of a window.
type Want struct {
	Window int64 `json:"window"`
	Least  int64 `json:"least"` // below which nothing is of use: the smallest call that waits; 0: none waits
	Need   int64 `json:"need"`  // what those that wait need in all
	More   int64 `json:"more"`  // what the next seconds will need, by what the last ones did
}

// Return gives back what is not needed. It has been taken from what the proxy holds before it is sent.
type Return struct {
	Window int64 `json:"window"`
	Amount int64 `json:"amount"`
}

// Close says that an earlier incarnation on the same volume has ended and that its spool has nothing left that the usage
// ledger does not have. Last is the highest sequence number that it is known to have given out.
type Close struct {
	Incarnation uint64 `json:"incarnation"`
	Last        uint64 `json:"last"`
}

// Assertion is what an incarnation got and gave back of a window, as answered to it.
type Assertion struct {
	Client   uuid.UUID `json:"client"`
	Budget   uuid.UUID `json:"budget"`
	Window   int64     `json:"window"`
	StartsAt time.Time `json:"starts_at"`
	Granted  int64     `json:"granted"`
	Returned int64     `json:"returned"`
}

// Reply answers an Ask. Repeating the Ask gives the same Reply, but for At.
type Reply struct {
	Op    uint64    `json:"op"`
	Epoch int64     `json:"epoch"`
	At    time.Time `json:"at"` // by the authority's clock
	// Learning says that nothing is granted for now: the authority's database lost its end, and it is hearing what
	// proxies hold.
	Learning bool `json:"learning,omitempty"`
	// Assert asks for assertions with the next message.
	Assert bool `json:"assert,omitempty"`

	Accounts []AccountState `json:"accounts,omitempty"` // one for each Opening
	Grants   []Grant        `json:"grants,omitempty"`   // for openings and wants, those of 0 included
	Windows  []WindowState  `json:"windows,omitempty"`  // of windows leased, watched, wanted or opened
	Closed   []uint64       `json:"closed,omitempty"`   // incarnations of Close that are done with
}

// AccountState is a client's account: nothing in it means that the client has no budget.
type AccountState struct {
	Client  uuid.UUID `json:"client"`
	Policy  *Policy   `json:"policy,omitempty"` // nil: the default one
	Windows []int64   `json:"windows,omitempty"`
	Next    []int64   `json:"next,omitempty"` // those that come after; none of budgets that carry something from one to the next
	// Paused is why a person paused the client's budget; only where IsPaused.
	IsPaused bool   `json:"is_paused,omitempty"`
	Paused   string `json:"paused,omitempty"`
}

// Grant is what a lease was raised by.
type Grant struct {
	Window int64 `json:"window"`
	Amount int64 `json:"amount"`
}

// WindowState is what a proxy must know of a window.
type WindowState struct {
	ID       int64     `json:"id"`
	Budget   uuid.UUID `json:"budget"`
	Client   uuid.UUID `json:"client"`
	Unit     Unit      `json:"unit"`
	Period   Period    `json:"period"`
	Hard     bool      `json:"hard"`
	TimeZone string    `json:"time_zone"`
	StartsAt time.Time `json:"starts_at"`
	EndsAt   time.Time `json:"ends_at"`
	Limit    int64     `json:"limit"`
	Used     int64     `json:"used"` // settled, suspense not included
	Held     int64     `json:"held"` // by all proxies, and in suspense
	Free     int64     `json:"free"`
	// Recall rises when idle slices shall come back: from then on the window is in exact mode, where a proxy asks for what
	// the calls that wait need, and gives back what it does not need at once.
	Recall int64 `json:"recall"`
	// Exact tells whether that mode is still on: more may have become free since.
	Exact bool `json:"exact,omitempty"`
}
