package tenancy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// What a keyring has learnt can be kept, so that a process that starts while the store is away serves what an earlier
// one served. Its journal is a row of records; each is true of the state that the ones before it lead to, so that any
// beginning of a journal is a state that was:
//
//	k digest flag principal    whose a key is. The flag says that it has changed since it was read
//	c client flag principal    a tenant that a trusted header named
//	o client | o               what is held of a client, or of all, has changed since it was read
//	v version                  all changes up to this one are in what goes before
//
// A principal of no length says that there is none any more.
const (
	recordKey      = 'k'
	recordClient   = 'c'
	recordOutdated = 'o'
	recordVersion  = 'v'
)

var errRecord = errors.New("not a record of a keyring")

func principalRecord(kind byte, name []byte, p *Principal, outdated bool) []byte {
	b := make([]byte, 0, 256)
	b = append(append(b, kind), name...)
	flag := byte(0)
	if outdated {
		flag = 1
	}
	b = append(b, flag)
	if p != nil {
		b = p.Append(b)
	}
	return b
}

func (k *Keyring) journal(kind byte, body []byte) {
	if k.opts.Journal != nil {
		k.opts.Journal(append([]byte{kind}, body...))
	}
}

// setVersion notes up to which version the feed is in force.
func (k *Keyring) setVersion(version int64) {
	if k.version.Swap(version) != version {
		k.journal(recordVersion, binary.BigEndian.AppendUint64(nil, uint64(version)))
	}
}

// Recall takes in one record of an earlier keyring's journal, or of Dump. It is for before the keyring is used: all
// records in their order, and then Run, which goes on from the version that they led to.
func (k *Keyring) Recall(record []byte) error {
	if len(record) == 0 {
		return errRecord
	}
	body := record[1:]
	switch record[0] {
	case recordKey:
		if len(body) < 33 {
			return errRecord
		}
		return recall(k.keys, [32]byte(body[:32]), body[32], body[33:])
	case recordClient:
		if len(body) < 17 {
			return errRecord
		}
		return recall(k.clients, uuid.UUID(body[:16]), body[16], body[17:])
	case recordOutdated:
		if len(body) == 0 {
			k.keys.outdateAll()
			k.clients.outdateAll()
			return nil
		}
		client, err := uuid.FromBytes(body)
		if err != nil {
			return errRecord
		}
		k.Invalidate(client)
		return nil
	case recordVersion:
		if len(body) != 8 {
			return errRecord
		}
		k.version.Store(int64(binary.BigEndian.Uint64(body)))
		return nil
	}
	return fmt.Errorf("%w: it begins with %q", errRecord, record[0])
}

// recall puts an entry in its place. Nobody reads yet, so the shard is changed where it is: copying it for each of very
// many entries is what a start would take longest for.
func recall[K comparable](r *ring[K], name K, flag byte, encoded []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.find(name)
	if len(encoded) == 0 {
		if h != nil {
			r.drop(name, h)
		}
		return nil
	}
	p, err := r.keyring.zones.decode(encoded)
	if err != nil {
		return err
	}
	if h == nil {
		h = &held{}
		shard := r.shard(name)
		if shard.Load() == nil {
			shard.Store(&map[K]*held{})
		}
		(*shard.Load())[name] = h
		r.owned[p.ClientID] = append(r.owned[p.ClientID], name)
	} else if was := h.principal.Load().ClientID; was != p.ClientID {
		r.disown(was, name)
		r.owned[p.ClientID] = append(r.owned[p.ClientID], name)
	}
	h.principal.Store(p)
	h.outdated.Store(flag != 0)
	if flag != 0 {
		r.outdated[name] = struct{}{}
	} else {
		delete(r.outdated, name)
	}
	return nil
}

// Dump writes down all that is held and in time, as records. It may run beside everything else: what the journal is
// told from before Dump began on, replayed behind it, leads to the state that is true then.
func (k *Keyring) Dump(emit func(record []byte)) {
	version := k.version.Load()
	dump(k.keys, emit)
	dump(k.clients, emit)
	emit(append([]byte{recordVersion}, binary.BigEndian.AppendUint64(nil, uint64(version))...))
}

func dump[K comparable](r *ring[K], emit func([]byte)) {
	now := time.Now()
	for i := range r.shards {
		// Under the lock, so that an entry and its flag are of the same moment; a shard at a time, so that nobody waits.
		r.mu.Lock()
		var records [][]byte
		if m := r.shards[i].Load(); m != nil {
			for name, h := range *m {
				if p := h.principal.Load(); !p.Expired(now) {
					records = append(records, r.record(name, p, h.outdated.Load()))
				}
			}
		}
		r.mu.Unlock()
		for _, record := range records {
			emit(record)
		}
	}
}

// A principal is encoded as fields of a tag, a length and bytes, in which a release skips what it does not know: planes
// of different releases work together, and a newer release reads what an older one has kept. What has its zero value
// is left out.
const (
	fieldClient       = 1
	fieldKey          = 2
	fieldName         = 3
	fieldFlags        = 4
	fieldPausedReason = 5
	fieldDefaultModel = 6
	fieldUnknown      = 7
	fieldZone         = 8
	fieldExpires      = 9 // seconds and nanoseconds of the Unix time
	fieldAllowed      = 10
	fieldPhoneKey     = 11
)

const (
	flagPaused = 1 << iota
	flagGateway
	flagReadOn
	flagRawPhones
	flagSomeAllowed // a list of allowed models, be it of none
	flagBudgets
)

// Append encodes a principal, secrets included: for an authenticated link, or to be sealed.
func (p *Principal) Append(b []byte) []byte {
	field := func(tag byte, value string) {
		if value != "" {
			b = append(binary.AppendUvarint(append(b, tag), uint64(len(value))), value...)
		}
	}
	field(fieldClient, string(p.ClientID[:]))
	if p.KeyID != uuid.Nil {
		field(fieldKey, string(p.KeyID[:]))
	}
	field(fieldName, p.Name)
	var flags byte
	for flag, is := range map[byte]bool{
		flagPaused: p.Paused, flagGateway: p.UseGateway, flagReadOn: p.ReadOn, flagRawPhones: p.rawPhones, flagSomeAllowed: p.allowed != nil,
		flagBudgets: p.Budgets,
	} {
		if is {
			flags |= flag
		}
	}
	if flags != 0 {
		field(fieldFlags, string([]byte{flags}))
	}
	field(fieldPausedReason, p.PausedReason)
	field(fieldDefaultModel, p.DefaultModel)
	field(fieldUnknown, string(p.UnknownModels))
	if p.TimeZone != nil {
		field(fieldZone, p.TimeZone.String())
	}
	if !p.ExpiresAt.IsZero() {
		at := binary.AppendVarint(nil, p.ExpiresAt.Unix())
		field(fieldExpires, string(binary.AppendUvarint(at, uint64(p.ExpiresAt.Nanosecond()))))
	}
	for _, model := range slices.Sorted(maps.Keys(p.allowed)) {
		field(fieldAllowed, model)
	}
	field(fieldPhoneKey, p.phoneKey.Reveal())
	return b
}

var errEncoding = errors.New("not an encoded tenant")

// Decoder reads encoded principals, and has each time zone once for all of them.
type Decoder struct{ zones zones }

// Principal reads what Append wrote.
func (d *Decoder) Principal(b []byte) (*Principal, error) { return d.zones.decode(b) }

func (z *zones) decode(b []byte) (*Principal, error) {
	p := &Principal{TimeZone: time.UTC}
	for len(b) > 0 {
		tag := b[0]
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return nil, errEncoding
		}
		value := b[1+n : 1+n+int(size)]
		b = b[1+n+int(size):]
		if err := z.field(p, tag, value); err != nil {
			return nil, err
		}
	}
	if p.ClientID == uuid.Nil || !p.rawPhones && len(p.phoneKey.Reveal()) != phoneKeySize {
		return nil, errEncoding
	}
	return p, nil
}

func (z *zones) field(p *Principal, tag byte, value []byte) (err error) {
	switch tag {
	case fieldClient:
		p.ClientID, err = uuid.FromBytes(value)
	case fieldKey:
		p.KeyID, err = uuid.FromBytes(value)
	case fieldName:
		p.Name = string(value)
	case fieldFlags:
		if len(value) == 0 {
			return errEncoding
		}
		flags := value[0]
		p.Paused, p.UseGateway = flags&flagPaused != 0, flags&flagGateway != 0
		p.ReadOn, p.rawPhones = flags&flagReadOn != 0, flags&flagRawPhones != 0
		p.Budgets = flags&flagBudgets != 0
		if flags&flagSomeAllowed != 0 && p.allowed == nil {
			p.allowed = map[string]struct{}{}
		}
	case fieldPausedReason:
		p.PausedReason = string(value)
	case fieldDefaultModel:
		p.DefaultModel = string(value)
	case fieldUnknown:
		p.UnknownModels = policy(value)
	case fieldZone:
		p.TimeZone, err = z.load(string(value))
	case fieldExpires:
		p.ExpiresAt, err = decodeTime(value)
	case fieldAllowed:
		if p.allowed == nil {
			p.allowed = map[string]struct{}{}
		}
		p.allowed[string(value)] = struct{}{}
	case fieldPhoneKey:
		p.phoneKey = NewSecretText(string(value))
	}
	if err != nil {
		return fmt.Errorf("%w: %v", errEncoding, err)
	}
	return nil
}

// policy is the constant where there is one, and not a text of its own for each tenant.
func policy(value []byte) Policy {
	switch string(value) {
	case string(RefuseUnknown):
		return RefuseUnknown
	case string(MeterUnknown):
		return MeterUnknown
	}
	return Policy(value)
}

func decodeTime(value []byte) (time.Time, error) {
	seconds, n := binary.Varint(value)
	if n <= 0 {
		return time.Time{}, errEncoding
	}
	nanos, m := binary.Uvarint(value[n:])
	if m <= 0 || nanos >= 1e9 {
		return time.Time{}, errEncoding
	}
	return time.Unix(seconds, int64(nanos)).UTC(), nil
}
