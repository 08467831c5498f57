package metering

// callLog is what the spool knows of one incarnation.
type callLog struct {
	incarnation uint64
	segments    []*segment // oldest first; a log loses its head, never its middle
	calls       callTable
	// crashed has where in its segment the latest record of a call is that was open when its process died.
	crashed map[uint64]int64
	lost    Ranges // in no record that can be read
}

// A place is where the latest record of a call is, and how far the call has come: segment id and state in one word.
type place uint32

type callState uint32

const (
	unseen   callState = iota
	ongoing            // its OPEN is written
	ending             // its CLOSE is in memory, for the disk failed; the place is still that of the record before
	ended              // its CLOSE is written; it waits to be sent
	sent               // the queue has it, the ledger is not known to
	inLedger           // nothing remains to be done

	stateBits = 3
)

func newPlace(segment uint32, state callState) place {
	return place(segment<<stateBits | uint32(state))
}
func (p place) state() callState { return callState(p & (1<<stateBits - 1)) }
func (p place) segment() uint32  { return uint32(p >> stateBits) }

// callTable has a place for every call of an incarnation that is not in the ledger. Sequence numbers are dense, so it
// is an array in blocks; a block goes when all its calls are in the ledger, so that one long call keeps 1 KiB of it.
type callTable struct {
	blocks map[uint64]*callBlock
	last   *callBlock // of the latest number looked up, which the next is nearly always near
	lastNo uint64
	end    uint64 // one past the highest number seen
}

const blockCalls = 256

type callBlock struct {
	places [blockCalls]place
	left   int // that are neither in the ledger nor missing
}

func (t *callTable) block(no uint64) *callBlock {
	if t.last != nil && t.lastNo == no {
		return t.last
	}
	b := t.blocks[no]
	if b != nil {
		t.last, t.lastNo = b, no
	}
	return b
}

// get is where a call is. What has no block any more is in the ledger, unless it was never seen.
func (t *callTable) get(seq uint64) place {
	if seq == 0 || seq >= t.end {
		return newPlace(0, unseen)
	}
	if b := t.block(seq / blockCalls); b != nil {
		return b.places[seq%blockCalls]
	}
	return newPlace(0, inLedger)
}

func (t *callTable) set(seq uint64, p place) {
	no := seq / blockCalls
	b := t.block(no)
	if b == nil {
		if t.blocks == nil {
			t.blocks = make(map[uint64]*callBlock)
		}
		b = &callBlock{left: blockCalls}
		if no == 0 {
			b.left-- // there is no call 0
		}
		t.blocks[no], t.last, t.lastNo = b, b, no
	}
	was := b.places[seq%blockCalls].state()
	b.places[seq%blockCalls] = p
	t.end = max(t.end, seq+1)
	if p.state() == inLedger && was != inLedger {
		if b.left--; b.left == 0 {
			delete(t.blocks, no)
			t.last = nil
		}
	}
}

// each calls f for every call of a block. f may set the call it was called for.
func (t *callTable) each(no uint64, f func(seq uint64, p place)) {
	if b := t.blocks[no]; b != nil {
		for i, p := range b.places {
			f(no*blockCalls+uint64(i), p)
		}
	}
}

// settleMissing marks what was never seen as done with, for the log will not grow. It returns those from first on: they
// are lost, while older ones went with the segments that were deleted.
func (t *callTable) settleMissing(first uint64) (missing Ranges) {
	if t.end == 0 {
		return nil
	}
	end := t.end // set would move it
	for no := max(first, 1) / blockCalls; no <= (end-1)/blockCalls; no++ {
		if t.blocks[no] == nil {
			missing = missing.Union(Ranges{{max(no*blockCalls, first, 1), (no+1)*blockCalls - 1}})
		}
	}
	for no, b := range t.blocks {
		for i, p := range b.places {
			seq := no*blockCalls + uint64(i)
			if seq == 0 || p.state() != unseen {
				continue
			}
			if seq >= first && seq < end {
				missing = missing.Add(seq)
			}
			t.set(seq, newPlace(0, inLedger))
		}
	}
	t.end = end
	return missing
}
