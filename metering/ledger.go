package metering

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// ErrUnrecordable says that trying again is no use: an event of the batch can never be recorded as it is. It belongs
// among the dead letters.
var ErrUnrecordable = errors.New("unrecordable event")

// maxCount bounds what one call can have used of anything. No upstream serves a trillion tokens; a count beyond it is
// garbage that would push the sums of a whole hour towards overflow.
const maxCount = 1_000_000_000_000

// What a text column may have: no less than an encoded event's texts, and far below what an index entry may have
// (Postgres: 2704 bytes for all its columns). The reason of a dead letter is not indexed.
const (
	maxColumn = 255
	maxReason = 1000
)

// maxSeq bounds sequence numbers so that they and their negatives, which corrections have, fit an id.
const maxSeq = 1<<57 - 1

// EventID is the id of an event's row: a UUID of version 8 whose free bits are the 64 of the incarnation and 58 of the
// sequence number, so that the same event has the same id wherever it is written, and no two share one. A correction's
// number is the negative of its estimate's, and of those 58 bits it has the highest set.
func EventID(incarnation, seq uint64) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], incarnation>>16<<16|0x8000|incarnation>>4&0x0fff)
	binary.BigEndian.PutUint64(id[8:], 0x2<<62|incarnation&0xf<<58|seq&(1<<58-1))
	return id
}

// logRow is an event as gateway_usage_logs has it. Every column is one field of a plain type.
type logRow struct {
	Event
	id          uuid.UUID
	incarnation int64
	seq         int64
	model       string // served, or asked for when nothing served
	outcome     string
	source      string
	status      int64
	costSource  string
	usd         nullInt64
	brl         nullInt64
	listUSD     nullInt64
	gateUSD     nullInt64
	rate        int64
	details     string // JSON
	holds       string // JSON: [[window, amount], …]
	recordedAt  time.Time

	corrects    uuid.UUID // id of the row that this one corrects; zero: it is a call
	becameKnown bool      // that row's cost was unknown and no longer is
}

func (r *logRow) isCorrection() bool { return r.corrects != uuid.Nil }

// columnKind is how a column is kept, which the two stores do in different ways.
type columnKind uint8

const (
	asText     columnKind = iota // never null
	asOptional                   // text; empty is null
	asDocument                   // JSON; empty is null
	asNumber                     // whole
	asFlag                       // boolean
	asInstant                    // a point in time
	asDay                        // a date; zero is null
	asID                         // uuid
	asIDOrNil                    // uuid; zero is null
	asAmount                     // pico-units
	asRate                       // 1e-8; zero is null
)

type logColumn struct {
	name string
	kind columnKind
	at   func(*logRow) any // *string, *int64, *bool, *time.Time, *uuid.UUID or *nullInt64
}

// logColumns is what a call has in gateway_usage_logs. metadata and recorded_at have defaults.
var logColumns = []logColumn{
	{"id", asID, func(r *logRow) any { return &r.id }},
	{"client_id", asID, func(r *logRow) any { return &r.ClientID }},
	{"conversation_id", asOptional, func(r *logRow) any { return &r.ConversationID }},
	{"phone", asText, func(r *logRow) any { return &r.Phone }},
	{"request_id", asOptional, func(r *logRow) any { return &r.RequestID }},
	{"model_registry_id", asIDOrNil, func(r *logRow) any { return &r.ModelID }},
	{"provider", asText, func(r *logRow) any { return &r.Provider }},
	{"model_name", asText, func(r *logRow) any { return &r.model }},
	{"input_tokens", asNumber, func(r *logRow) any { return &r.Input }},
	{"output_tokens", asNumber, func(r *logRow) any { return &r.Output }},
	{"cached_tokens", asNumber, func(r *logRow) any { return &r.Cached }},
	{"total_tokens", asNumber, func(r *logRow) any { return &r.Total }},
	{"latency_ms", asNumber, func(r *logRow) any { return &r.LatencyMs }},
	{"was_cached", asFlag, func(r *logRow) any { return &r.WasCached }},
	{"was_fallback", asFlag, func(r *logRow) any { return &r.WasFallback }},
	{"fallback_reason", asOptional, func(r *logRow) any { return &r.FallbackReason }},
	{"cost_usd", asAmount, func(r *logRow) any { return &r.usd }},
	{"cost_brl", asAmount, func(r *logRow) any { return &r.brl }},
	{"usd_to_brl_rate", asRate, func(r *logRow) any { return &r.rate }},
	{"error_details", asDocument, func(r *logRow) any { return &r.details }},
	{"created_at", asInstant, func(r *logRow) any { return &r.AdmittedAt }},
	{"incarnation", asNumber, func(r *logRow) any { return &r.incarnation }},
	{"seq", asNumber, func(r *logRow) any { return &r.seq }},
	{"key_id", asIDOrNil, func(r *logRow) any { return &r.KeyID }},
	{"endpoint", asText, func(r *logRow) any { return &r.Endpoint }},
	{"route", asText, func(r *logRow) any { return &r.Route }},
	{"streamed", asFlag, func(r *logRow) any { return &r.Streamed }},
	{"model_requested", asText, func(r *logRow) any { return &r.ModelAsked }},
	{"outcome", asText, func(r *logRow) any { return &r.outcome }},
	{"status", asNumber, func(r *logRow) any { return &r.status }},
	{"usage_source", asText, func(r *logRow) any { return &r.source }},
	{"cache_write_tokens", asNumber, func(r *logRow) any { return &r.CacheWrite }},
	{"reasoning_tokens", asNumber, func(r *logRow) any { return &r.Reasoning }},
	{"audio_input_tokens", asNumber, func(r *logRow) any { return &r.AudioInput }},
	{"audio_output_tokens", asNumber, func(r *logRow) any { return &r.AudioOutput }},
	{"audio_ms", asNumber, func(r *logRow) any { return &r.AudioMs }},
	{"images", asNumber, func(r *logRow) any { return &r.Images }},
	{"characters", asNumber, func(r *logRow) any { return &r.Characters }},
	{"cost_source", asOptional, func(r *logRow) any { return &r.costSource }},
	{"cost_usd_list", asAmount, func(r *logRow) any { return &r.listUSD }},
	{"cost_usd_gateway", asAmount, func(r *logRow) any { return &r.gateUSD }},
	{"price_id", asIDOrNil, func(r *logRow) any { return &r.PriceID }},
	{"rate_date", asDay, func(r *logRow) any { return &r.Rate.Date }},
	{"rate_source", asOptional, func(r *logRow) any { return &r.Rate.Source }},
	{"ttft_ms", asNumber, func(r *logRow) any { return &r.TTFTMs }},
	{"overhead_us", asNumber, func(r *logRow) any { return &r.OverheadUs }},
	{"upstream_id", asOptional, func(r *logRow) any { return &r.UpstreamID }},
	{"upstream_request_id", asOptional, func(r *logRow) any { return &r.UpstreamRequestID }},
	{"finish_reason", asOptional, func(r *logRow) any { return &r.FinishReason }},
	{"request_bytes", asNumber, func(r *logRow) any { return &r.RequestBytes }},
	{"response_bytes", asNumber, func(r *logRow) any { return &r.ResponseBytes }},
	{"budget_holds", asDocument, func(r *logRow) any { return &r.holds }},
}

// allColumns is what a row has that is read again, or that is a correction. A call has the defaults of the last two.
var allColumns = slices.Concat(logColumns, []logColumn{
	{"corrects", asIDOrNil, func(r *logRow) any { return &r.corrects }},
	{"cost_became_known", asFlag, func(r *logRow) any { return &r.becameKnown }},
})

// columnNames is columns as a list for SQL.
func columnNames(columns []logColumn) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}

var (
	sourceWords  = []string{None: "none", Measured: "measured", Estimated: "estimated"}
	outcomeWords = []string{
		OK: "ok", Refused: "refused", ClientGone: "client_gone", Truncated: "truncated",
		Unreachable: "unreachable", Crashed: "crashed", InternalError: "internal_error",
	}
)

// correctionWord is the outcome of a correction, which is no call and so ended in none of those ways.
const correctionWord = "correction"

// nullInt64 is an amount that may be unknown.
type nullInt64 struct {
	V     int64
	Valid bool
}

// logIdentity is what an event is known by, as the log has it.
type logIdentity struct{ incarnation, seq int64 }

// newLogRows turns a batch into rows, each identity once.
func newLogRows(batch []Event) ([]logRow, error) {
	rows := make([]logRow, 0, len(batch))
	seen := make(map[logIdentity]bool, len(batch))
	for i := range batch {
		ev := &batch[i]
		if err := checkEvent(ev); err != nil {
			return nil, fmt.Errorf("%w %x/%d: %w", ErrUnrecordable, ev.Incarnation, ev.Seq, err)
		}
		id := logIdentity{int64(ev.Incarnation), int64(ev.Seq)}
		if seen[id] {
			continue
		}
		seen[id] = true
		rows = append(rows, newLogRow(ev))
	}
	return rows, nil
}

// checkEvent finds what no store could keep, or what could only be a fault of the one who made the event.
func checkEvent(ev *Event) error {
	switch {
	case ev.Incarnation == 0 || ev.Seq == 0 || ev.Seq > maxSeq:
		return errors.New("it has no identity")
	case ev.ClientID == uuid.Nil:
		return errors.New("it has no client")
	case ev.AdmittedAt.Year() < 2000 || ev.AdmittedAt.Year() > 2200:
		return fmt.Errorf("admitted in the year %d", ev.AdmittedAt.Year())
	case int(ev.Outcome) >= len(outcomeWords):
		return fmt.Errorf("unknown outcome %d", ev.Outcome)
	case int(ev.Usage.Source) >= len(sourceWords):
		return fmt.Errorf("unknown source of usage %d", ev.Usage.Source)
	case ev.Known && (ev.USD < 0 || ev.BRL < 0) || ev.ListKnown && ev.ListUSD < 0 || ev.GateKnown && ev.GateUSD < 0:
		return errors.New("negative cost")
	case ev.Rate.Rate < 0 || ev.Rate.Rate > 1000*money.RateUnit:
		return fmt.Errorf("exchange rate %s", ev.Rate.Rate)
	}
	for _, n := range ev.Usage.counts() {
		if n < 0 || n > maxCount {
			return fmt.Errorf("a count of %d is outside 0 … %d", n, maxCount)
		}
	}
	return nil
}

// counts lists everything counted.
func (u *Usage) counts() [11]int64 {
	return [11]int64{
		u.Input, u.Output, u.Total, u.Cached, u.CacheWrite, u.Reasoning, u.AudioInput, u.AudioOutput,
		u.AudioMs, u.Images, u.Characters,
	}
}

func newLogRow(ev *Event) logRow {
	r := logRow{
		Event: *ev, id: EventID(ev.Incarnation, ev.Seq), incarnation: int64(ev.Incarnation), seq: int64(ev.Seq),
		model: ev.ModelServed, outcome: outcomeWords[ev.Outcome], source: sourceWords[ev.Usage.Source],
		status: int64(min(max(ev.Status, 0), 999)), rate: int64(ev.Rate.Rate),
		usd:     nullInt64{V: int64(ev.USD), Valid: ev.Known},
		brl:     nullInt64{V: int64(ev.BRL), Valid: ev.Known},
		listUSD: nullInt64{V: int64(ev.ListUSD), Valid: ev.ListKnown},
		gateUSD: nullInt64{V: int64(ev.GateUSD), Valid: ev.GateKnown},
	}
	if r.model == "" {
		r.model = ev.ModelAsked
	}
	switch {
	case ev.Known && ev.GateKnown:
		r.costSource = "gateway"
	case ev.Known && ev.ListKnown:
		r.costSource = "list"
	}
	// Whoever looks at the row may add as much; a clock that ran backwards is no reason to lose the money beside it.
	for _, n := range []*int64{&r.LatencyMs, &r.TTFTMs, &r.OverheadUs, &r.RequestBytes, &r.ResponseBytes} {
		*n = min(max(*n, 0), maxCount)
	}
	if ev.ErrorCode != "" {
		b, _ := json.Marshal(map[string]string{"code": cleanText(ev.ErrorCode, maxColumn)}) // strings always marshal
		r.details = string(b)
	}
	r.holds = holdsText(ev.Holds)
	r.AdmittedAt = ev.AdmittedAt.UTC().Truncate(time.Microsecond)
	for _, s := range []*string{
		&r.Provider, &r.model, &r.ModelAsked, &r.Endpoint, &r.Route, &r.UpstreamID, &r.Rate.Source, &r.ConversationID,
		&r.Phone, &r.RequestID, &r.FallbackReason, &r.UpstreamRequestID, &r.FinishReason,
	} {
		*s = cleanText(*s, maxColumn)
	}
	return r
}

// cleanText makes a text that every store can keep. A header with a bad byte must not cost the bill it is written on.
func cleanText(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// usageRow is the row as readers get it. A correction has the identity of the event that it corrects.
func (r *logRow) usageRow() UsageRow {
	ev := r.Event
	ev.Incarnation, ev.Seq = uint64(r.incarnation), uint64(max(r.seq, -r.seq))
	ev.ModelServed = r.model
	ev.Status = int(r.status)
	ev.Usage.Source = Source(max(0, indexOf(sourceWords, r.source)))
	ev.Outcome = Outcome(max(0, indexOf(outcomeWords, r.outcome)))
	ev.USD, ev.BRL, ev.Known = money.Pico(r.usd.V), money.Pico(r.brl.V), r.usd.Valid
	ev.ListUSD, ev.ListKnown = money.Pico(r.listUSD.V), r.listUSD.Valid
	ev.GateUSD, ev.GateKnown = money.Pico(r.gateUSD.V), r.gateUSD.Valid
	ev.Rate.Rate = money.Rate(r.rate)
	ev.AdmittedAt, ev.Rate.Date = ev.AdmittedAt.UTC(), ev.Rate.Date.UTC()
	if r.details != "" {
		var d struct{ Code string }
		if json.Unmarshal([]byte(r.details), &d) == nil {
			ev.ErrorCode = d.Code
		}
	}
	ev.Holds = parseHolds(r.holds)
	return UsageRow{ID: r.id, Event: ev, RecordedAt: r.recordedAt.UTC(), Corrects: r.corrects}
}

// holdsText writes holds as the log has them; nothing for none.
func holdsText(holds []Hold) string {
	if len(holds) == 0 {
		return ""
	}
	b := []byte{'['}
	for i, h := range holds[:min(len(holds), maxHolds)] {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, "[%d,%d]", h.Window, h.Amount)
	}
	return string(append(b, ']'))
}

func parseHolds(text string) (holds []Hold) {
	var pairs [][2]int64
	if text == "" || json.Unmarshal([]byte(text), &pairs) != nil {
		return nil
	}
	for _, p := range pairs {
		holds = append(holds, Hold{p[0], p[1]})
	}
	return holds
}

func indexOf(words []string, word string) int {
	for i, w := range words {
		if w == word {
			return i
		}
	}
	return -1
}

// deadLetter is a row of dead_letters. An event that has no identity has the numbers 0 and 0.
type deadLetter struct {
	incarnation, seq int64
	digest           []byte
	raw              []byte
	reason           string
	client           uuid.UUID
	tokens, usd, brl *int64 // what the event claimed; nil where it could not be read
}

func newDeadLetter(raw []byte, ev Event, reason string) deadLetter {
	digest := sha256.Sum256(raw)
	l := deadLetter{digest: digest[:], raw: raw, reason: cleanText(reason, maxReason)}
	if raw == nil {
		l.raw = []byte{} // the column is not null
	}
	if ev.Incarnation == 0 || ev.Seq == 0 || ev.Seq > maxSeq {
		return l
	}
	l.incarnation, l.seq, l.client = int64(ev.Incarnation), int64(ev.Seq), ev.ClientID
	l.tokens = &ev.Total
	if ev.Known {
		usd, brl := int64(ev.USD), int64(ev.BRL)
		l.usd, l.brl = &usd, &brl
	}
	return l
}

// Scan reads an amount from a row of either store.
func (n *nullInt64) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*n = nullInt64{}
	case int64:
		*n = nullInt64{v, true}
	default:
		return fmt.Errorf("an amount in the log is a %T", src)
	}
	return nil
}
