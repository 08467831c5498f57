// Package metering counts what was used and carries it, with nothing lost and nothing twice, to the ledger.
//
//	proxy                                   │ control
//	 Open ──► spool (disk) ──► Ship ──► Queue ──► Worker ──► Ledger: log + roll-ups + watermark, one transaction
//	 Close ─►   │  ▲                  Redis Streams,            Postgres or SQLite
//	            │  └──── Ack: received ranges ◄──────────────────┘
//	            └ a segment is deleted when all of it is in the ledger, and never sooner
//
// Promises:
//   - Open has reached the page cache before it returns, so a call that was sent upstream is known after kill -9.
//   - An event's identity is (Incarnation, Seq). Seq is contiguous from 1 in an incarnation, so a repeat is dropped
//     for ever, however late, and a gap can be seen.
//   - The queue is a pipe: whatever it loses is sent again, because the spool only lets go of what the ledger has.
//   - Log, roll-ups and watermark change in one transaction, so they are always equal.
package metering

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// Source says how an event's counts came to be.
type Source uint8

// The sources of counts.
const (
	None      Source = iota // nothing was used, or nothing could be known
	Measured                // the upstream said so
	Estimated               // worked out by us from the bytes that passed
)

// Outcome says how a call ended.
type Outcome uint8

// The outcomes of a call.
const (
	OK            Outcome = iota // the upstream answered and the answer was passed on whole
	Refused                      // the upstream answered with a 4xx or 5xx of its own
	ClientGone                   // the client left before the answer was whole
	Truncated                    // the upstream broke off in the middle of its answer
	Unreachable                  // no answer: connecting, writing or waiting failed
	Crashed                      // we died in the middle; written when the spool is read again
	InternalError                // a fault of ours, after the call was admitted
)

// Usage is what one call used. Cached, CacheWrite, and the audio tokens are parts of Input (or Output), not additions.
type Usage struct {
	Source      Source
	Input       int64 // prompt tokens, the cached ones included
	Output      int64 // completion tokens, reasoning included
	Total       int64
	Cached      int64 // read from the provider's prompt cache
	CacheWrite  int64 // written to the provider's prompt cache
	Reasoning   int64
	AudioInput  int64
	AudioOutput int64
	AudioMs     int64 // length of audio transcribed
	Images      int64 // pieces generated
	Characters  int64 // characters spoken
}

// Event is one call, as the ledger will know it. Open writes what is known at admission, Close the rest.
type Event struct {
	Incarnation uint64
	Seq         uint64
	RequestID   string // ours, the X-Request-Id of the answer

	ClientID       uuid.UUID
	KeyID          uuid.UUID // zero when a trusted header named the client
	ConversationID string
	Phone          string // pseudonym, or raw where the tenant turned that on

	Endpoint    string // "chat.completions", "embeddings", …: a name from the proxy's route table
	Streamed    bool
	Route       string    // "gateway" or "direct"
	Provider    string    // that served: "openai", "groq", … as far as known
	ModelAsked  string    // what the client wrote
	ModelServed string    // what the upstream says it was
	ModelID     uuid.UUID // ai_models_registry.id of what was priced; zero when unknown

	AdmittedAt time.Time // fixes price, rate, partition and budget window; microseconds, UTC
	LatencyMs  int64     // admission to last byte
	TTFTMs     int64     // admission to first byte of the answer; 0 when none came
	OverheadUs int64     // our own share of the latency before the upstream was called

	Outcome Outcome
	Status  int // HTTP status the upstream gave; 0 when none

	Usage
	Cost

	UpstreamID        string // the upstream's id of the answer: chatcmpl-…, gen_…, resp_…
	UpstreamRequestID string
	FinishReason      string
	ErrorCode         string // ours or the upstream's code, never its text: that may hold what was asked

	WasCached      bool // by our response cache
	WasFallback    bool
	FallbackReason string

	// Holds are what was held of budgets for this call; what ends a call settles them. Doubt says that more may have been
	// used than is counted here, for the call was cut short: what is left of the holds is then not free again before the
	// upstream's own figure is known.
	Holds []Hold
	Doubt bool

	// What a crash charge can be worked out from, while the call is open.
	RequestBytes  int64 // length of the prompt as it was sent
	ResponseBytes int64 // text bytes of the answer that have passed
}

// Hold is an amount that was held of one window of a budget, in that budget's unit.
type Hold struct {
	Window int64
	Amount int64
}

// maxHolds is how many holds an event can have: as many as one call may have budgets.
const maxHolds = 12

// Cost is what a Usage costs by one price and one exchange rate, both fixed at admission.
type Cost struct {
	USD     money.Pico // the truth: the gateway's own figure when it gave one, else ours from the price list
	BRL     money.Pico
	Known   bool       // false: no price and no gateway figure; USD and BRL are 0 and mean nothing
	ListUSD money.Pico // ours from the price list; meaningful when ListKnown
	GateUSD money.Pico // the gateway's own figure, provider share included; meaningful when GateKnown

	ListKnown bool
	GateKnown bool
	PriceID   uuid.UUID
	Rate      ExchangeRate
}

// ExchangeRate is BRL for one USD, with where it is from. It is stamped on every row.
type ExchangeRate struct {
	Rate   money.Rate
	Date   time.Time // the day the source gives it for
	Source string    // "ptax", "er-api", "manual", or "fallback" when nothing was ever fetched
}

// Ranges is a set of sequence numbers as sorted, disjoint, closed intervals.
type Ranges [][2]uint64

// Ledger is what the worker needs of a store. Record writes all of a batch or nothing, and an event that is in the
// ledger already changes nothing: it may be called with the same events any number of times, from any number of workers.
type Ledger interface {
	Record(ctx context.Context, batch []Event) error
	// Received tells which sequence numbers of an incarnation the ledger has (dead letters count as had).
	Received(ctx context.Context, incarnation uint64) (Ranges, error)
	// DeadLetter keeps what can never be recorded, with the reason. ev's identity is zero when raw could not be decoded.
	DeadLetter(ctx context.Context, raw []byte, ev Event, reason string) error
}

// Queue carries closed events from spools to workers. It may lose, repeat and reorder them.
type Queue interface {
	// Publish hands over encoded events. A nil error is soft: it means that the queue took them, not that it keeps them.
	Publish(ctx context.Context, batch []Message) error
	// Received reads back what workers published as recorded for an incarnation.
	Received(ctx context.Context, incarnation uint64) (Ranges, error)
}

// Message is one encoded, closed event on its way.
type Message struct {
	ClientID uuid.UUID // decides the shard
	Payload  []byte
}
