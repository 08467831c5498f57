package metering

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxIntervals bounds a set of numbers in a report. 10,000 intervals are some 200 KB as JSON, and a spool comes near
// that only when a queue has lost every other event of 20,000.
const maxIntervals = 10_000

// Report tells of each incarnation in the spool which numbers were given out and which of them the ledger is not known
// to have. All other numbers up to Last were in the ledger before it returns. It walks the whole backlog, a little at a
// time, so that the calls that are being admitted hardly wait: 17 ms in all for 1.7 million calls with 400,000 holes among them.
func (s *Spool) Report() []LogReport {
	type snapshot struct {
		log    *callLog
		report LogReport
		blocks []uint64
	}
	s.mu.Lock()
	logs := make([]snapshot, 0, len(s.logs))
	for _, l := range s.logs {
		shot := snapshot{log: l, report: LogReport{Incarnation: l.incarnation, Live: l == s.live, Lost: slices.Clone(l.lost)}}
		// Every number up to here has its place in a block that exists now, or is in the ledger.
		if l.calls.end > 0 {
			shot.report.Last = l.calls.end - 1
		}
		shot.blocks = slices.AppendSeq(make([]uint64, 0, len(l.calls.blocks)), maps.Keys(l.calls.blocks))
		logs = append(logs, shot)
	}
	s.mu.Unlock()

	reports := make([]LogReport, 0, len(logs))
	for _, shot := range logs {
		slices.Sort(shot.blocks)
		r := shot.report
		for some := range slices.Chunk(shot.blocks, 16) {
			s.mu.Lock()
			for _, no := range some {
				shot.log.calls.each(no, func(seq uint64, p place) {
					switch {
					case seq > r.Last:
					case p.state() == ongoing:
						r.Open = r.Open.then(seq)
					case p.state() == ending, p.state() == ended, p.state() == sent:
						r.Waiting = r.Waiting.then(seq)
					}
				})
			}
			s.mu.Unlock()
		}
		if len(r.Open) > maxIntervals || len(r.Waiting) > maxIntervals {
			r.Open, r.Waiting, r.Coarse = r.Open.coarser(maxIntervals), r.Waiting.coarser(maxIntervals), true
		}
		reports = append(reports, r)
	}
	return reports
}

// Over tells whether an earlier incarnation on this spool has nothing left here that the ledger is not known to have, and
// the highest number that it gave out, as far as it was found at the start. One that the spool knows nothing of is over.
func (s *Spool) Over(incarnation uint64) (last uint64, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		if l.incarnation == incarnation {
			return 0, false
		}
	}
	return s.earlier[incarnation], true
}

// then is r with a number above all that it has: Add without the search, which a set of many holes would pay for each time.
func (r Ranges) then(n uint64) Ranges {
	if last := len(r) - 1; last >= 0 && n-r[last][1] == 1 {
		r[last][1] = n
		return r
	}
	return append(r, [2]uint64{n, n})
}

// coarser fills the smallest holes of a set until it has no more intervals than most.
func (r Ranges) coarser(most int) Ranges {
	if len(r) <= most {
		return r
	}
	type hole struct {
		size uint64
		at   int // before the interval of this index
	}
	holes := make([]hole, 0, len(r)-1)
	for i := 1; i < len(r); i++ {
		holes = append(holes, hole{r[i][0] - r[i-1][1], i})
	}
	slices.SortFunc(holes, func(a, b hole) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.at, b.at)) })
	keep := make(map[int]bool, most)
	for _, h := range holes[:most-1] {
		keep[h.at] = true
	}
	out := Ranges{r[0]}
	for i := 1; i < len(r); i++ {
		if keep[i] {
			out = append(out, r[i])
		} else {
			out[len(out)-1][1] = r[i][1]
		}
	}
	return out
}

// minus is every number of r that is not in q; both are in order.
func (r Ranges) minus(q Ranges) (out Ranges) {
	for _, iv := range r {
		for len(q) > 0 && q[0][1] < iv[0] {
			q = q[1:]
		}
		first, rest := iv[0], q
		for ; len(rest) > 0 && rest[0][0] <= iv[1]; rest = rest[1:] {
			if rest[0][0] > first {
				out = append(out, [2]uint64{first, rest[0][0] - 1})
			}
			if rest[0][1] >= iv[1] {
				first = 0
				break
			}
			first = rest[0][1] + 1
		}
		if first != 0 {
			out = append(out, [2]uint64{first, iv[1]})
		}
	}
	return out
}

// and is every number of r that is in q as well.
func (r Ranges) and(q Ranges) Ranges { return r.minus(r.minus(q)) }

// Reporter says what a proxy is and what its spool holds.
type Reporter struct {
	name, version string
	startedAt     time.Time
	spool         *Spool
	configVersion func() int64

	mu        sync.Mutex
	inLedger  map[uint64]uint64 // of each incarnation, how many numbers the ledger had at the last report
	lastFlush time.Time
}

// NewReporter makes a reporter for the process with this spool. The name must be no other living process's, and best the
// same after a restart on the same spool.
func NewReporter(name, version string, spool *Spool, configVersion func() int64) *Reporter {
	return &Reporter{name: name, version: version, startedAt: time.Now().UTC(), spool: spool, configVersion: configVersion}
}

// Report is to be sent every few seconds, by one caller at a time, and once more with stopped set when the spool has
// been shut down. What it says stays true: a report that comes late is only older.
func (r *Reporter) Report(stopped bool) ProxyReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now().UTC()
	logs, stats := r.spool.Report(), r.spool.Stats()
	had := r.inLedger
	r.inLedger = make(map[uint64]uint64, len(logs))
	for i := range logs {
		l := &logs[i]
		if stopped {
			l.Live = false
		}
		taken := l.Last - min(l.Last, l.Open.Count()+l.Waiting.Count()+l.Lost.Count())
		if before, known := had[l.Incarnation]; known && taken > before {
			r.lastFlush = now
		}
		r.inLedger[l.Incarnation] = taken
	}
	for incarnation := range had {
		if _, still := r.inLedger[incarnation]; !still { // the last of it was taken
			r.lastFlush = now
		}
	}
	return ProxyReport{
		Name: r.name, Version: r.version, StartedAt: r.startedAt, At: now, ConfigVersion: r.configVersion(), LastFlush: r.lastFlush,
		Stopped: stopped, Open: stats.Open, Depth: stats.Depth, Oldest: stats.Oldest, Bytes: stats.Bytes, MaxBytes: stats.MaxBytes,
		Lost: stats.Lost, Logs: logs,
	}
}
