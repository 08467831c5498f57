//go:build linux

package main

import (
	"fmt"
	"slices"
)

// verdict is what the comparison of all three came to.
type verdict struct {
	requests, streamed             int
	results                        map[result]int
	measured, estimated, corrected int
	nothing                        int // rows of calls that used nothing
	lost, doubled, wrong           int
	excess                         bill // issued less booked, over the estimates that nobody could look up
	unlooked                       int  // how many they are
	neverSent                      int  // rows of calls that the proxy died on before it had sent them
	issued, booked                 bill
	failures                       map[string]int // that clients met, by what they saw
	complaints                     []string
	audited                        string // the last line of catraca audit; empty: there is no such command
}

const maxComplaints = 40

func (v *verdict) complain(format string, args ...any) {
	if len(v.complaints) < maxComplaints {
		v.complaints = append(v.complaints, fmt.Sprintf(format, args...))
	}
}

func (v *verdict) holds() bool { return v.lost == 0 && v.doubled == 0 && v.wrong == 0 }

// judge compares, call by call, what the client saw, what the upstream issued and what the ledger has:
//
//   - an answer that came whole is one row, measured, equal to the upstream's count in every class and to the last
//     decimal, and to the usage that the client was told;
//   - an upstream's refusal is one row of nothing;
//   - a call cut short is one row: equal all the same where it is measured, and else marked as an estimate. Where its
//     estimate was corrected the two together are equal. Where it was not, nobody could look it up, and the difference
//     is listed;
//   - a call that never reached the upstream has no row, or one that says that it was cut short or used nothing.
//
// At the end the sums that each side keeps by itself must differ by exactly what was listed.
func judge(ev *evidence) *verdict {
	v := &verdict{results: map[result]int{}, failures: map[string]int{}, issued: ev.issued, booked: ev.booked}
	byMark := map[string]*call{}
	for _, c := range ev.calls {
		byMark[c.mark] = c
		v.requests++
		if c.stream {
			v.streamed++
		}
		v.results[c.result]++
		if !c.asExpected() {
			v.failures[string(c.result)+": "+c.detail]++
		}
	}
	originals, corrections := v.sort(ev, byMark)
	for _, c := range ev.calls {
		v.judgeCall(ev, c, ev.entries[c.mark], originals[c.mark], corrections)
	}
	for mark, es := range ev.entries {
		if byMark[mark] == nil {
			v.wrong += len(es)
			v.complain("the upstream had a call %q that no client made", mark)
		}
	}
	for _, flaw := range ev.flaws {
		v.wrong++
		v.complain("%s", flaw)
	}
	if left := ev.issued.plus(-1, ev.booked).plus(-1, v.excess); !left.equal(bill{}) {
		v.wrong++
		v.complain("issued less booked is not what the estimates explain; unaccounted: %s", left)
	}
	return v
}

// asExpected tells whether a call ended as its client, or what it asked of the upstream, wanted it to. A plain answer that
// the upstream breaks off is an error of the proxy's to the client, who must not see half of it.
func (c *call) asExpected() bool {
	switch c.result {
	case ours:
		return c.failing && c.detail == "502 all_routes_failed"
	case broken:
		return c.failing
	case unreached:
		return false
	}
	return true
}

// identity is that of an event: unique for ever.
type identity struct{ incarnation, seq int64 }

// sort puts each row to its call, and each correction to what it corrects.
func (v *verdict) sort(ev *evidence, byMark map[string]*call) (originals map[string][]*row, corrections map[identity][]*row) {
	originals, corrections = map[string][]*row{}, map[identity][]*row{}
	seen, requests := map[identity]bool{}, map[string]bool{}
	for _, r := range ev.rows {
		id := identity{r.incarnation, r.seq}
		if seen[id] {
			v.doubled++
			v.complain("two rows are event %x/%d", uint64(r.incarnation), r.seq)
			continue
		}
		seen[id] = true
		if r.seq < 0 {
			v.corrected++
			id.seq = -r.seq
			corrections[id] = append(corrections[id], r)
			continue
		}
		if requests[r.requestID] || r.requestID == "" {
			v.doubled++
			v.complain("two rows have the request id %q", r.requestID)
		}
		requests[r.requestID] = true
		switch r.source {
		case "measured":
			v.measured++
		case "estimated":
			v.estimated++
		default:
			v.nothing++
		}
		c := byMark[r.mark]
		if c == nil {
			v.wrong++
			v.complain("row %x/%d is of a call %q that no client made", uint64(r.incarnation), r.seq, r.mark)
			continue
		}
		if c.tenant.id != r.client {
			v.wrong++
			v.complain("%s was made by %s and booked on %s", c.mark, c.tenant.id, r.client)
		}
		originals[r.mark] = append(originals[r.mark], r)
	}
	for id, rows := range corrections {
		if len(rows) > 1 || !seen[id] {
			v.wrong++
			v.complain("event %x/%d has %d corrections and is there: %v", uint64(id.incarnation), id.seq, len(rows), seen[id])
		}
	}
	return originals, corrections
}

// judgeCall is judge for one call.
func (v *verdict) judgeCall(ev *evidence, c *call, es []*entry, rows []*row, corrections map[identity][]*row) {
	if len(rows) > 1 {
		v.doubled += len(rows) - 1
		v.complain("%s has %d rows", c.mark, len(rows))
	}
	if missing := max(len(es), btoi(c.answered)) - len(rows); missing > 0 {
		v.lost += missing
		v.complain("%s reached the upstream %d times and has %d rows (client saw: %s %s)", c.mark, len(es), len(rows), c.result, c.detail)
	}
	if len(rows) == 0 {
		return
	}
	r := rows[0]
	bad := func(format string, args ...any) {
		v.wrong++
		v.complain("%s (%s, %s; row %s %s, US$ %s): %s", c.mark, c.result, c.detail, r.outcome, r.source, r.usd, fmt.Sprintf(format, args...))
	}
	if c.requestID != "" && c.requestID != r.requestID {
		bad("the client was told the request id %s, the row has %s", c.requestID, r.requestID)
	}
	var e entry // of nothing, where it never reached the upstream
	if len(es) > 0 {
		e = *es[0]
	} else if c.result == whole || c.result == refused {
		bad("the upstream does not know of it")
	} else if r.source == "estimated" {
		v.neverSent++
	}
	issued := bill{e.tokens(), e.cost()}
	if e.Outcome == "unfinished" {
		bad("the upstream still works on it")
	}
	switch {
	case c.result == whole && (r.outcome != "ok" || r.source != "measured"):
		bad("the client had a whole answer")
	case c.result == refused && (r.outcome != "refused" || r.source != "none" || r.status != int64(c.status)):
		bad("the upstream refused with %d, the row says %d", c.status, r.status)
	case c.result == whole && c.used != nil && !c.used.sameAs(r.tokens):
		bad("the client was told of %+v, the row has %s", *c.used, r.bill)
	case r.source != "estimated" && !r.priced:
		bad("it has no price")
	case r.source != "estimated" && !r.bill.equal(issued):
		bad("the upstream issued %s, the row has %s", issued, r.bill)
	case r.source == "estimated":
		v.judgeEstimate(ev, r, issued, corrections[identity{r.incarnation, r.seq}], bad)
	}
}

// judgeEstimate asks of a row that the proxy had to guess, of a call that was cut short, whether the truth came later.
func (v *verdict) judgeEstimate(ev *evidence, r *row, issued bill, corrections []*row, bad func(string, ...any)) {
	final := r.bill
	for _, x := range corrections {
		final = final.plus(1, x.bill)
	}
	difference := issued.plus(-1, final)
	switch {
	case len(corrections) > 0 && !difference.equal(bill{}):
		bad("the upstream issued %s, row and correction come to %s", issued, final)
	case len(corrections) == 0 && ev.corrects && r.route == "gateway" && r.upstreamID != "":
		bad("the gateway knows it as %s and it was not corrected", r.upstreamID)
	case len(corrections) == 0:
		v.unlooked++
	}
	v.excess = v.excess.plus(1, difference)
}

// sameAs compares with what a client was told, which has no word for tokens written to a cache.
func (t tokens) sameAs(o tokens) bool {
	o.CacheWrite, t.CacheWrite = 0, 0
	return t == o
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
