//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

var columns = []string{
	"scenario", "faults", "requests", "streamed", "whole", "left by client", "failed upstream", "met the fault",
	"rows measured", "estimated", "corrected", "**lost**", "**doubled**", "**wrong**",
	"tokens issued", "US$ issued", "less booked", "of calls nobody could look up", "at rest after", "audit", "what happened",
}

// table writes the matrix as Markdown.
func table(out io.Writer, results []*outcome) {
	fmt.Fprintf(out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, o := range results {
		fmt.Fprintf(out, "| %s |\n", strings.Join(o.cells(), " | "))
	}
}

func (o *outcome) cells() []string {
	line := []string{o.title}
	v := o.verdict
	if v == nil {
		why := o.skipped
		if o.err != nil {
			why = "did not come to a verdict"
		}
		for range len(columns) - 2 {
			line = append(line, "")
		}
		return append(line, why)
	}
	met := 0
	for _, n := range v.failures {
		met += n
	}
	upstream := v.requests - v.results[whole] - v.results[left] - met
	whole, diff := v.results[whole], "0"
	if !v.excess.equal(bill{}) {
		diff = fmt.Sprintf("%d tokens, US$ %s", v.excess.Total, v.excess.usd)
	}
	audited := v.audited
	if audited == "" {
		audited = "–"
	}
	return append(line, number(o.hits), number(v.requests), number(v.streamed), number(whole), number(v.results[left]), number(upstream), number(met),
		number(v.measured), number(v.estimated), number(v.corrected), number(v.lost), number(v.doubled), number(v.wrong),
		number(int(v.issued.Total)), v.issued.usd.String(), diff, number(v.unlooked), fmt.Sprintf("%.1f s", o.drained.Seconds()), audited, strings.Join(o.notes, "; "))
}

// number is n with a blank between thousands.
func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// tell writes what a scenario came to, in words.
func (o *outcome) tell(out io.Writer) {
	switch {
	case o.skipped != "":
		fmt.Fprintf(out, "%-15s %s\n", o.name, o.skipped)
		return
	case o.err != nil:
		fmt.Fprintf(out, "%-15s FAILED: %v\n", o.name, o.err)
	}
	v := o.verdict
	if v == nil {
		return
	}
	word := "ok"
	if !v.holds() {
		word = "FAILED"
	}
	fmt.Fprintf(out, "%-15s %s: %d requests in %s, %d faults; %d rows measured, %d estimated, %d of nothing, %d corrections; lost %d, doubled %d, wrong %d; at rest after %s\n",
		o.name, word, v.requests, o.load.Round(time.Second), o.hits, v.measured, v.estimated, v.nothing, v.corrected, v.lost, v.doubled, v.wrong, o.drained.Round(100*time.Millisecond))
	fmt.Fprintf(out, "    issued %s\n    booked %s\n", v.issued, v.booked)
	if v.unlooked > 0 {
		fmt.Fprintf(out, "    %d estimates nobody could look up (%d of calls that were never sent); issued less booked: %s\n", v.unlooked, v.neverSent, v.excess)
	}
	for _, what := range sortedKeys(v.failures) {
		fmt.Fprintf(out, "    clients met %d × %s\n", v.failures[what], what)
	}
	for _, note := range o.notes {
		fmt.Fprintf(out, "    %s\n", note)
	}
	for _, complaint := range v.complaints {
		fmt.Fprintf(out, "    ! %s\n", complaint)
	}
}
