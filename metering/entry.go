package metering

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// An entry is what travels between processes: some events of one shard together, for each trip to the queue and each
// signature costs as much as the work on the event itself. Its value is
//
//	signature, where there is a key │ for each event: length, a varint │ the event as Event.Append wrote it
//
// What an entry may hold is bounded so that a consumer can bound what it reads; both limits are far beyond the point
// where more events would make one cheaper.
const (
	entryEvents = 64
	entryBytes  = 32 << 10
	macBytes    = 16
)

// What is signed for one use must not be passed off in another.
const (
	kindEvent = "event" // one event to an entry, as releases before this one wrote it
	kindBatch = "batch"
)

var (
	errSignature = errors.New("its signature is missing or wrong: written by a stranger, or with another key")
	errEntry     = errors.New("not a well-formed entry of the queue")
)

// entry is one to be written.
type entry struct {
	shard, events int
	value         []byte // not signed yet
}

// pack sorts a batch into entries. What one shard gets keeps its order.
func pack(batch []Message, shards int) []entry {
	var entries []entry
	open := make([]int, shards) // by shard: one more than the place of the entry that its next event goes into
	rest := make([]int, shards) // by shard: the bytes that are still to be packed
	for _, m := range batch {
		rest[shardOf(m.ClientID, shards)] += binary.MaxVarintLen16 + len(m.Payload)
	}
	for _, m := range batch {
		shard := shardOf(m.ClientID, shards)
		i := open[shard] - 1
		if i < 0 || entries[i].events == entryEvents || len(entries[i].value)+len(m.Payload) > entryBytes {
			i = len(entries)
			entries = append(entries, entry{shard: shard, value: make([]byte, 0, min(rest[shard], entryBytes))})
			open[shard] = len(entries)
		}
		e := &entries[i]
		e.events++
		e.value = binary.AppendUvarint(e.value, uint64(len(m.Payload)))
		e.value = append(e.value, m.Payload...)
		rest[shard] -= binary.MaxVarintLen16 + len(m.Payload)
	}
	return entries
}

// unpack gives the events of an entry, which share its memory.
func unpack(value []byte) (payloads [][]byte, err error) {
	for len(value) > 0 {
		size, n := binary.Uvarint(value)
		if n <= 0 || size > uint64(len(value)-n) {
			return nil, errEntry
		}
		end := n + int(size)
		payloads = append(payloads, value[n:end:end])
		value = value[end:]
	}
	if len(payloads) == 0 {
		return nil, errEntry
	}
	return payloads, nil
}

// sharedKeys are what all ends of a queue know, the newest first: it signs, and any of them verifies. Without a key
// nothing is signed, and with one nothing unsigned is believed.
type sharedKeys [][]byte

// sign puts a signature before b.
func (k sharedKeys) sign(kind string, b []byte) []byte {
	if len(k) == 0 {
		return b
	}
	return append(mac(k[0], kind, b), b...)
}

// verify takes the signature off.
func (k sharedKeys) verify(kind string, b []byte) (signed []byte, ok bool) {
	if len(k) == 0 {
		return b, true
	}
	if len(b) < macBytes {
		return nil, false
	}
	for _, key := range k {
		if hmac.Equal(b[:macBytes], mac(key, kind, b[macBytes:])) {
			return b[macBytes:], true
		}
	}
	return nil, false
}

func mac(key []byte, kind string, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(kind))
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil)[:macBytes]
}
