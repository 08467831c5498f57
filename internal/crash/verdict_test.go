//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"
)

// sound is a small world in which all is well: a whole answer, a refusal, one cut short whose estimate was corrected,
// one straight to a provider that nobody can be asked about, and one that never reached the upstream.
func sound() *evidence {
	t := &tenant{id: "t1"}
	ev := &evidence{entries: map[string][]*entry{}, corrects: true}
	add := func(c *call, e *entry, rows ...*row) {
		c.tenant = t
		ev.calls = append(ev.calls, c)
		if e != nil {
			e.Mark = c.mark
			ev.entries[c.mark] = []*entry{e}
			ev.issued = ev.issued.plus(1, bill{e.tokens(), e.cost()})
		}
		for _, r := range rows {
			r.client, r.mark, r.requestID, r.priced, r.incarnation = "t1", c.mark, "req-"+c.mark, true, 7
			ev.booked = ev.booked.plus(1, r.bill)
			ev.rows = append(ev.rows, r)
		}
	}
	b := func(in, out int64, usd string) bill {
		return bill{tokens{Input: in, Output: out, Total: in + out}, amount(usd)}
	}
	add(&call{mark: "whole", result: whole, answered: true, used: &tokens{Input: 10, Output: 5, Total: 15}},
		&entry{Outcome: "completed", Told: true, Input: 10, Output: 5, Total: 15, CostUSD: "0.0000045"},
		&row{seq: 1, route: "gateway", outcome: "ok", source: "measured", bill: b(10, 5, "0.0000045")})
	add(&call{mark: "refused", result: refused, failing: true, status: 429, answered: true}, &entry{Outcome: "refused"},
		&row{seq: 2, route: "gateway", outcome: "refused", source: "none", status: 429})
	add(&call{mark: "cut", result: left, leaves: true, answered: true}, &entry{Outcome: "client gone", Input: 10, Output: 3, Total: 13, CostUSD: "0.0000033"},
		&row{seq: 3, route: "gateway", outcome: "client_gone", source: "estimated", upstreamID: "gen_1", bill: b(12, 2, "0.000003")},
		&row{seq: -3, route: "gateway", outcome: "correction", source: "measured", bill: b(-2, 1, "0.0000003")})
	add(&call{mark: "direct", result: left, leaves: true, answered: true}, &entry{Outcome: "client gone", Input: 10, Output: 4, Total: 14, CostUSD: "0.0000039"},
		&row{seq: 4, route: "direct", outcome: "client_gone", source: "estimated", upstreamID: "chatcmpl-1", bill: b(11, 2, "0.00000285")})
	add(&call{mark: "never", result: unreached}, nil)
	return ev
}

func (ev *evidence) row(mark string, seq int64) *row {
	for _, r := range ev.rows {
		if r.mark == mark && r.seq == seq {
			return r
		}
	}
	panic("BUG: no such row")
}

func (ev *evidence) call(mark string) *call {
	for _, c := range ev.calls {
		if c.mark == mark {
			return c
		}
	}
	panic("BUG: no such call")
}

func (ev *evidence) drop(r *row) {
	for i := range ev.rows {
		if ev.rows[i] == r {
			ev.rows = append(ev.rows[:i:i], ev.rows[i+1:]...)
			ev.booked = ev.booked.plus(-1, r.bill)
			return
		}
	}
}

func TestJudgeAcceptsWhatIsSound(t *testing.T) {
	v := judge(sound())
	if !v.holds() || len(v.complaints) > 0 {
		t.Fatalf("lost %d, doubled %d, wrong %d: %q", v.lost, v.doubled, v.wrong, v.complaints)
	}
	if v.measured != 1 || v.estimated != 2 || v.corrected != 1 || v.nothing != 1 || v.unlooked != 1 || v.excess.Total != 1 || v.excess.usd.String() != "0.00000105" {
		t.Errorf("miscounted: %+v", v)
	}
	if fmt.Sprint(v.failures) != "map[unreached: :1]" {
		t.Errorf("failures of clients: %v", v.failures)
	}
}

// TestJudgeCatches plants one defect after the other.
func TestJudgeCatches(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*evidence)
		want  string // lost, doubled or wrong
		says  string
	}{
		"a lost row":        {func(ev *evidence) { ev.drop(ev.row("whole", 1)) }, "lost", "has 0 rows"},
		"a lost row of cut": {func(ev *evidence) { ev.drop(ev.row("direct", 4)) }, "lost", "has 0 rows"},
		"a lost refusal":    {func(ev *evidence) { ev.drop(ev.row("refused", 2)) }, "lost", "has 0 rows"},
		"sent twice":        {func(ev *evidence) { ev.entries["cut"] = append(ev.entries["cut"], ev.entries["cut"][0]) }, "lost", "2 times"},
		"an event twice":    {func(ev *evidence) { r := *ev.row("whole", 1); ev.rows = append(ev.rows, &r) }, "doubled", "two rows are event"},
		"a call twice": {func(ev *evidence) {
			r := *ev.row("whole", 1)
			r.seq, r.requestID = 9, "x"
			ev.rows = append(ev.rows, &r)
		}, "doubled", "2 rows"},
		"a request id twice":                       {func(ev *evidence) { ev.row("whole", 1).requestID = "req-cut" }, "doubled", "request id"},
		"a token too many":                         {func(ev *evidence) { ev.row("whole", 1).Output++ }, "wrong", "the client was told"},
		"a token too many that no client was told": {func(ev *evidence) { ev.call("whole").used = nil; ev.row("whole", 1).Output++ }, "wrong", "the upstream issued"},
		"a pico too many":                          {func(ev *evidence) { r := ev.row("whole", 1); r.usd = r.usd.Add(amount("0.000000000001")) }, "wrong", "the upstream issued"},
		"cached is not cached":                     {func(ev *evidence) { ev.call("whole").used = nil; ev.entries["whole"][0].Cached = 4 }, "wrong", "4 cached"},
		"a whole answer estimated":                 {func(ev *evidence) { ev.row("whole", 1).source = "estimated" }, "wrong", "had a whole answer"},
		"a whole answer not ok":                    {func(ev *evidence) { ev.row("whole", 1).outcome = "client_gone" }, "wrong", "had a whole answer"},
		"a refusal with another status":            {func(ev *evidence) { ev.row("refused", 2).status = 500 }, "wrong", "refused with 429"},
		"another request id":                       {func(ev *evidence) { ev.call("whole").requestID = "req-other" }, "wrong", "was told the request id"},
		"another's bill":                           {func(ev *evidence) { ev.row("whole", 1).client = "t2" }, "wrong", "booked on t2"},
		"a row of nobody":                          {func(ev *evidence) { ev.row("cut", 3).mark = "who" }, "wrong", "no client made"},
		"a call of nobody":                         {func(ev *evidence) { ev.entries["who"] = []*entry{{}} }, "wrong", "no client made"},
		"no price":                                 {func(ev *evidence) { ev.row("whole", 1).priced = false }, "wrong", "no price"},
		"a correction that is off":                 {func(ev *evidence) { ev.row("cut", -3).Input++ }, "wrong", "row and correction"},
		"a correction missing":                     {func(ev *evidence) { ev.drop(ev.row("cut", -3)) }, "wrong", "was not corrected"},
		"a correction of nothing":                  {func(ev *evidence) { ev.row("cut", -3).seq = -8 }, "wrong", "corrections"},
		"two corrections":                          {func(ev *evidence) { r := *ev.row("cut", -3); ev.rows = append(ev.rows, &r) }, "doubled", "two rows are event"},
		"the upstream's sum is another":            {func(ev *evidence) { ev.issued.Output++ }, "wrong", "unaccounted"},
		"the log's sum is another":                 {func(ev *evidence) { ev.booked.usd = ev.booked.usd.Add(amount("0.000000000001")) }, "wrong", "unaccounted"},
		"a roll-up is off":                         {func(ev *evidence) { ev.flaws = []string{"roll-up of x differs"} }, "wrong", "roll-up"},
		"still open upstream":                      {func(ev *evidence) { ev.entries["cut"][0].Outcome = "unfinished" }, "wrong", "still works"},
	} {
		t.Run(name, func(t *testing.T) {
			ev := sound()
			c.plant(ev)
			v := judge(ev)
			found := map[string]int{"lost": v.lost, "doubled": v.doubled, "wrong": v.wrong}
			if found[c.want] == 0 || !strings.Contains(strings.Join(v.complaints, "\n"), c.says) {
				t.Errorf("lost %d, doubled %d, wrong %d, want %s with %q: %q", v.lost, v.doubled, v.wrong, c.want, c.says, v.complaints)
			}
		})
	}
}
