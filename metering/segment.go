package metering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A segment is a file of the spool. It is as large as it will ever be from the start:
//
//	header, 64 bytes: magic 8 │ incarnation u64 │ number u64 │ first seq u64 │ begun µs i64 │ … │ crc32c u32
//	records:          length of payload u32 │ crc32c u32 │ type u8 │ payload: an encoded event
//	zeros:            not written yet
//
// The checksum of a record begins from its place, so a record is only one where it was written: neither one left over
// from elsewhere nor bytes inside of a payload that look like one can be taken for it.
const (
	segmentMagic  = "CATRSPL1"
	segmentSuffix = ".spool"
	headerBytes   = 64
	recordHeader  = 9
	maxRecord     = recordHeader + maxEncoded
	maxPayload    = 1<<16 - 1 // a later release may write longer events than we do
)

// The types of records. Each holds the whole event as it is known by then, and the latest of a call counts.
const (
	recordOpen     = 1
	recordProgress = 2
	recordClose    = 3
)

type segment struct {
	id     uint32 // in this process; a place names it
	number uint64 // in its incarnation
	log    *callLog
	disk   disk
	path   string
	size   int64
	end    atomic.Int64 // where the records end

	// The rest is guarded by Spool.mu.
	file     segmentFile // nil unless it is written to
	synced   int64
	sealed   bool     // no record will be added
	suspect  bool     // a sync failed: its pages may never reach the disk though reads still show them
	damaged  bool     // something in it could not be read
	order    int      // among all segments, as they are read
	open     int      // calls whose latest record is here, and which have not ended
	closed   int      // calls whose latest record is here, and which the ledger is not known to have
	heirs    uint64   // Spool.writes when a call that had its latest record here last got a later one elsewhere
	heir     *segment // in the log of an earlier process, the last that has a later record of a call that has one here
	begun    time.Time
	firstSeq uint64
}

func segmentName(incarnation, number uint64) string {
	return fmt.Sprintf("%016x-%08d%s", incarnation, number, segmentSuffix)
}

func parseSegmentName(name string) (incarnation, number uint64, ok bool) {
	_, err := fmt.Sscanf(name, "%16x-%08d"+segmentSuffix, &incarnation, &number)
	return incarnation, number, err == nil && name == segmentName(incarnation, number)
}

func (g *segment) header() []byte {
	b := make([]byte, headerBytes)
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], g.log.incarnation)
	le.PutUint64(b[16:], g.number)
	le.PutUint64(b[24:], g.firstSeq)
	le.PutUint64(b[32:], uint64(g.begun.UnixMicro()))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli()))
	return b
}

// readHeader takes what only the header knows. The name has the identity too, so a broken header costs little.
func (g *segment) readHeader(b []byte) (ok bool) {
	le := binary.LittleEndian
	if len(b) < headerBytes || string(b[:8]) != segmentMagic || le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli()) ||
		le.Uint64(b[8:]) != g.log.incarnation || le.Uint64(b[16:]) != g.number {
		return false
	}
	g.firstSeq, g.begun = le.Uint64(b[24:]), time.UnixMicro(int64(le.Uint64(b[32:])))
	return true
}

// castagnoli is the polynomial that processors have an instruction for. MakeTable returns the same table each time.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// checksum is of a record whose payload, with its type before it, is b.
func (g *segment) checksum(b []byte, at int64) uint32 {
	seed := uint32(g.log.incarnation) ^ uint32(g.log.incarnation>>32) ^ uint32(g.number)*0x9E3779B1 ^ uint32(at)*0x85EBCA77
	return crc32.Update(seed, castagnoli(), b)
}

// stamp completes the header of the record b for its place.
func (g *segment) stamp(b []byte, kind byte, at int64) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-recordHeader))
	b[8] = kind
	binary.LittleEndian.PutUint32(b[4:], g.checksum(b[8:], at))
}

// record is one that was read. Its payload lies in the reader's buffer.
type record struct {
	kind    byte
	at      int64
	seq     uint64
	payload []byte
}

func (r *record) size() int64 { return recordHeader + int64(len(r.payload)) }

// parse reads the record that b begins with, at is where b begins in the file.
func (g *segment) parse(b []byte, at int64) (r record, ok bool) {
	if len(b) < recordHeader+prefixBytes || b[8] < recordOpen || b[8] > recordClose {
		return r, false
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n < prefixBytes || n > maxPayload || recordHeader+n > len(b) {
		return r, false
	}
	b = b[:recordHeader+n]
	if binary.LittleEndian.Uint32(b[4:]) != g.checksum(b[8:], at) {
		return r, false
	}
	incarnation, seq := peekIdentity(b[recordHeader:])
	if incarnation != g.log.incarnation || seq == 0 {
		return r, false
	}
	return record{b[8], at, seq, b[recordHeader:]}, true
}

// span is a stretch of a file: from, to.
type span [2]int64

// segmentReader reads the records of a segment in order, from disk and a window at a time. It steps over what is broken
// and goes on at the next record that is whole.
type segmentReader struct {
	g      *segment
	f      readFile
	at     int64 // where the next record is looked for
	good   int64 // where the last whole record ended
	bad    []span
	window []byte // of the file, from the place start on
	start  int64
}

// readWindow is how much is read at once: some hundreds of records, and well above the largest one.
const readWindow = 256 << 10

func (g *segment) reader() (*segmentReader, error) {
	f, err := g.disk.open(g.path)
	if err != nil {
		return nil, err
	}
	window := make([]byte, 0, min(readWindow, max(g.size, recordHeader+maxPayload)))
	return &segmentReader{g: g, f: f, at: headerBytes, good: headerBytes, window: window}, nil
}

func (r *segmentReader) close() { _ = r.f.Close() } // it was only read

// next is the next whole record before limit, which is a record's end or the file's.
func (r *segmentReader) next(limit int64) (rec record, ok bool, err error) {
	for r.at < limit {
		b, err := r.fill(limit)
		if err != nil {
			return record{}, false, err
		}
		if rec, ok := r.g.parse(b, r.at); ok {
			if r.at > r.good {
				r.bad = append(r.bad, span{r.good, r.at})
			}
			r.at += rec.size()
			r.good = r.at
			return rec, true, nil
		}
		// A length is never zero, so a record cannot begin more than three bytes before the first that is not.
		r.at += int64(max(1, leadingZeros(b)-3))
	}
	return record{}, false, nil
}

// fill is the file from r.at on: to the limit, or so much that any record fits.
func (r *segmentReader) fill(limit int64) ([]byte, error) {
	const enough = recordHeader + maxPayload
	if have := r.start + int64(len(r.window)) - r.at; r.at < r.start || have < min(enough, limit-r.at) {
		b := r.window[:min(int64(cap(r.window)), limit-r.at)]
		n, err := readSegment(r.f, b, r.at)
		if err != nil {
			return nil, err
		}
		// What lies past the end of a file that was cut short reads as zeros, as what was never written does.
		clear(b[n:])
		r.window, r.start = b, r.at
	}
	b := r.window[r.at-r.start:]
	return b[:min(int64(len(b)), limit-r.at)], nil
}

// leadingZeros counts them. Most of a segment that holds little is zeros.
func leadingZeros(b []byte) int {
	n := 0
	for len(b)-n >= 8 && binary.LittleEndian.Uint64(b[n:]) == 0 {
		n += 8
	}
	for n < len(b) && b[n] == 0 {
		n++
	}
	return n
}

// readSegment fills b with the file's bytes from a place on. Pages that the disk cannot give read as zeros, for the
// records around them are still worth having.
func readSegment(f io.ReaderAt, b []byte, at int64) (n int, err error) {
	n, err = f.ReadAt(b, at)
	if err == nil || errors.Is(err, io.EOF) {
		return n, nil
	}
	const page = 4096
	for n = 0; n < len(b); {
		m := min(page-int((at+int64(n))%page), len(b)-n)
		got, err := f.ReadAt(b[n:n+m], at+int64(n))
		if errors.Is(err, io.EOF) {
			return n + got, nil
		}
		if err != nil && !errors.Is(err, unix.EIO) {
			return n, err
		}
		clear(b[n+got : n+m])
		n += m
	}
	return n, nil
}
