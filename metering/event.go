package metering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The encoding of an Event, little-endian:
//
//	version u8 │ incarnation u64 │ seq u64 │ client 16 │ admitted µs i64 │ flags u16 │ source u8 │ outcome u8
//	│ numbers, zigzag varints │ key, model and price ids, 16 each where flagged │ holds where flagged, a count byte and
//	window and amount of each as varints │ texts, each a length byte and UTF-8
//
// Version 2 has holds or a doubt, and version 1 has neither: calls that no budget concerns are read by older releases too.
//
// The first seventeen bytes keep their place in every version to come, so that whoever meets an event that is too new
// for it can still say which one it was. There is exactly one encoding of an event: what Decode accepts, Append writes
// again to the byte.
const (
	eventVersion = 1
	heldVersion  = 2

	atIncarnation = 1
	atSeq         = 9
	atClient      = 17
	atAdmitted    = 33
	atFlags       = 41
	atSource      = 43
	atOutcome     = 44
	prefixBytes   = 45

	// textLimit is what one text may have; the rest is cut off. With it an event has a largest size, and the spool can
	// keep the room of every CLOSE that may still come.
	textLimit  = 255
	numberOf   = 21
	textOf     = 14
	maxEncoded = prefixBytes + (numberOf+2)*binary.MaxVarintLen64 + 3*16 + 1 + maxHolds*2*binary.MaxVarintLen64 + textOf*(1+textLimit)

	// Times outside of the years 1 to 9999 are none of ours, and a database may not hold them.
	firstMicro, lastMicro = -62_135_596_800_000_000, 253_402_300_799_999_999
	firstDay, lastDay     = -719_162, 2_932_896
)

const (
	flagKey = 1 << iota
	flagModel
	flagPrice
	flagStreamed
	flagKnown
	flagListKnown
	flagGateKnown
	flagCached
	flagFallback
	flagRateDate
	flagHolds
	flagDoubt
	flagEnd

	flagsHeld = flagHolds | flagDoubt
)

// ErrMalformed says that bytes are not an event, or not one as Append writes it.
var ErrMalformed = errors.New("not a well-formed event")

// VersionError says that an event was written by a newer release. Decode has filled in its identity, so that it can be
// parked under its name and replayed after the upgrade.
type VersionError struct{ Version byte }

func (e *VersionError) Error() string {
	return fmt.Sprintf("event version %d is not known to this release, which knows %d", e.Version, heldVersion)
}

// numbers lists whole-number fields in their order of encoding. LatencyMs comes first because the spool peeks at it.
func (e *Event) numbers() [numberOf]*int64 {
	u, c := &e.Usage, &e.Cost
	return [...]*int64{
		&e.LatencyMs, &e.TTFTMs, &e.OverheadUs,
		&u.Input, &u.Output, &u.Total, &u.Cached, &u.CacheWrite, &u.Reasoning,
		&u.AudioInput, &u.AudioOutput, &u.AudioMs, &u.Images, &u.Characters,
		(*int64)(&c.USD), (*int64)(&c.BRL), (*int64)(&c.ListUSD), (*int64)(&c.GateUSD), (*int64)(&c.Rate.Rate),
		&e.RequestBytes, &e.ResponseBytes,
	}
}

// texts lists the text fields in their order of encoding.
func (e *Event) texts() [textOf]*string {
	return [...]*string{
		&e.RequestID, &e.ConversationID, &e.Phone, &e.Endpoint, &e.Route, &e.Provider, &e.ModelAsked, &e.ModelServed,
		&e.UpstreamID, &e.UpstreamRequestID, &e.FinishReason, &e.ErrorCode, &e.FallbackReason, &e.Rate.Source,
	}
}

// Append appends the encoding of e to dst. Texts are cleaned as it goes, for no database takes a NUL or broken UTF-8
// and an upstream may send both: one bad id must not keep a charge out of the ledger.
func (e *Event) Append(dst []byte) []byte {
	le := binary.LittleEndian
	flags := e.flags()
	dst = append(dst, versionOf(flags))
	dst = le.AppendUint64(dst, e.Incarnation)
	dst = le.AppendUint64(dst, e.Seq)
	dst = append(dst, e.ClientID[:]...)
	dst = le.AppendUint64(dst, uint64(min(max(e.AdmittedAt.UnixMicro(), firstMicro), lastMicro)))
	day, dated := dayOf(e.Rate.Date)
	if dated {
		flags |= flagRateDate
	}
	dst = le.AppendUint16(dst, flags)
	dst = append(dst, byte(e.Source), byte(e.Outcome))

	for _, n := range e.numbers() {
		dst = binary.AppendVarint(dst, *n)
	}
	dst = binary.AppendVarint(dst, int64(e.Status))
	if dated {
		dst = binary.AppendVarint(dst, day)
	}
	for _, id := range [...]*uuid.UUID{&e.KeyID, &e.ModelID, &e.PriceID} {
		if *id != uuid.Nil {
			dst = append(dst, id[:]...)
		}
	}
	dst = e.appendHolds(dst)
	for _, text := range e.texts() {
		s := cleanText(*text, textLimit)
		dst = append(dst, byte(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

func (e *Event) flags() uint16 {
	var flags uint16
	for i, set := range [...]bool{
		e.KeyID != uuid.Nil, e.ModelID != uuid.Nil, e.PriceID != uuid.Nil,
		e.Streamed, e.Known, e.ListKnown, e.GateKnown, e.WasCached, e.WasFallback,
	} {
		if set {
			flags |= 1 << i
		}
	}
	if len(e.Holds) > 0 {
		flags |= flagHolds
	}
	if e.Doubt {
		flags |= flagDoubt
	}
	return flags
}

func versionOf(flags uint16) byte {
	if flags&flagsHeld != 0 {
		return heldVersion
	}
	return eventVersion
}

func known(version byte) bool { return version == eventVersion || version == heldVersion }

func (e *Event) appendHolds(dst []byte) []byte {
	if len(e.Holds) == 0 {
		return dst
	}
	holds := e.Holds[:min(len(e.Holds), maxHolds)]
	dst = append(dst, byte(len(holds)))
	for _, h := range holds {
		dst = binary.AppendVarint(dst, h.Window)
		dst = binary.AppendVarint(dst, h.Amount)
	}
	return dst
}

func (e *Event) decodeHolds(b []byte) (rest []byte, err error) {
	if len(b) == 0 || b[0] == 0 || b[0] > maxHolds {
		return nil, fmt.Errorf("%w: how many holds", ErrMalformed)
	}
	e.Holds = make([]Hold, b[0])
	b = b[1:]
	for i := range e.Holds {
		h := &e.Holds[i]
		if h.Window, b, err = varint(b); err != nil {
			return nil, err
		}
		if h.Amount, b, err = varint(b); err != nil {
			return nil, err
		}
		if h.Window <= 0 || h.Amount < 0 {
			return nil, fmt.Errorf("%w: a hold", ErrMalformed)
		}
	}
	return b, nil
}

// dayOf counts days since 1970 of the date that t shows where it is; ok is false for no date.
func dayOf(t time.Time) (day int64, ok bool) {
	if t.IsZero() {
		return 0, false
	}
	y, m, d := t.Date()
	day = time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
	return day, day > firstDay && day <= lastDay
}

// Decode reads what Append wrote, and nothing else: any other bytes give ErrMalformed, and a version that is not known
// gives a *VersionError with the identity filled in. It copies what it keeps of b.
func (e *Event) Decode(b []byte) error {
	*e = Event{}
	if len(b) < prefixBytes || len(b) > maxEncoded {
		if version, ok := peekForeign(b); ok {
			e.Incarnation, e.Seq = peekIdentity(b)
			return &VersionError{version}
		}
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	e.Incarnation, e.Seq = peekIdentity(b)
	if !known(b[0]) {
		return &VersionError{b[0]}
	}
	if err := e.decode(b); err != nil {
		*e = Event{}
		return err
	}
	return nil
}

func (e *Event) decode(b []byte) error {
	le := binary.LittleEndian
	copy(e.ClientID[:], b[atClient:])
	micro := int64(le.Uint64(b[atAdmitted:]))
	flags := le.Uint16(b[atFlags:])
	e.Source, e.Outcome = Source(b[atSource]), Outcome(b[atOutcome])
	if micro < firstMicro || micro > lastMicro || flags >= flagEnd || b[0] != versionOf(flags) || e.Source > Estimated || e.Outcome > InternalError {
		return fmt.Errorf("%w: time, flags, source or outcome out of range", ErrMalformed)
	}
	e.AdmittedAt = time.UnixMicro(micro).UTC()
	e.Streamed, e.WasCached, e.WasFallback = flags&flagStreamed != 0, flags&flagCached != 0, flags&flagFallback != 0
	e.Doubt = flags&flagDoubt != 0
	e.Known, e.ListKnown, e.GateKnown = flags&flagKnown != 0, flags&flagListKnown != 0, flags&flagGateKnown != 0

	b, err := e.decodeNumbers(b[prefixBytes:], flags)
	if err != nil {
		return err
	}
	for i, id := range [...]*uuid.UUID{&e.KeyID, &e.ModelID, &e.PriceID} {
		if flags&(1<<i) == 0 {
			continue
		}
		if len(b) < len(id) {
			return fmt.Errorf("%w: cut off in an id", ErrMalformed)
		}
		if b = b[copy(id[:], b):]; *id == uuid.Nil {
			return fmt.Errorf("%w: an id of zero", ErrMalformed)
		}
	}
	if flags&flagHolds != 0 {
		if b, err = e.decodeHolds(b); err != nil {
			return err
		}
	}
	return e.decodeTexts(b)
}

func (e *Event) decodeNumbers(b []byte, flags uint16) (rest []byte, err error) {
	var status, day int64
	for _, n := range e.numbers() {
		if *n, b, err = varint(b); err != nil {
			return nil, err
		}
	}
	if status, b, err = varint(b); err != nil {
		return nil, err
	}
	if status < math.MinInt32 || status > math.MaxInt32 {
		return nil, fmt.Errorf("%w: status %d", ErrMalformed, status)
	}
	e.Status = int(status)
	if flags&flagRateDate == 0 {
		return b, nil
	}
	if day, b, err = varint(b); err != nil {
		return nil, err
	}
	if day <= firstDay || day > lastDay {
		return nil, fmt.Errorf("%w: day %d of the exchange rate", ErrMalformed, day)
	}
	e.Rate.Date = time.Unix(day*86400, 0).UTC()
	return b, nil
}

// varint reads one number and refuses a spelling that is longer than it need be.
func varint(b []byte) (v int64, rest []byte, err error) {
	v, n := binary.Varint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, fmt.Errorf("%w: a number", ErrMalformed)
	}
	return v, b[n:], nil
}

func (e *Event) decodeTexts(b []byte) error {
	all := string(b) // one allocation for all of them
	for _, text := range e.texts() {
		if len(all) == 0 || len(all) < 1+int(all[0]) {
			return fmt.Errorf("%w: cut off in a text", ErrMalformed)
		}
		n := 1 + int(all[0])
		*text, all = all[1:n], all[n:]
		if !utf8.ValidString(*text) || strings.IndexByte(*text, 0) >= 0 {
			return fmt.Errorf("%w: a text that is not UTF-8, or holds a NUL", ErrMalformed)
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrMalformed, len(all))
	}
	return nil
}

// peekForeign tells whether b, of a size that this version never has, begins as a version that is not known does.
func peekForeign(b []byte) (version byte, ok bool) {
	if len(b) < atClient || len(b) > maxPayload {
		return 0, false
	}
	return b[0], !known(b[0])
}

// peekIdentity reads who an encoded event is. It has atClient bytes at least.
func peekIdentity(b []byte) (incarnation, seq uint64) {
	return binary.LittleEndian.Uint64(b[atIncarnation:]), binary.LittleEndian.Uint64(b[atSeq:])
}

// peekClient reads whose an encoded event is.
func peekClient(b []byte) (id uuid.UUID) {
	if len(b) >= prefixBytes {
		copy(id[:], b[atClient:])
	}
	return id
}

// peekEnd reads when a call ended, in microseconds: when it was admitted and how long it took.
func peekEnd(b []byte) int64 {
	if len(b) < prefixBytes || !known(b[0]) {
		return 0
	}
	ms, _ := binary.Varint(b[prefixBytes:])
	return int64(binary.LittleEndian.Uint64(b[atAdmitted:])) + ms*1000
}
