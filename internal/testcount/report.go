package main

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// report counts tests and prints the output of those that failed. A test with sub-tests is counted by these, because
// it is they that check something; it counts itself only when it fails while they all pass.
type report struct {
	out                     io.Writer
	passed, failed, skipped int
	packages                map[string]*packageReport
	builds                  map[string]string // output of builds, by import path
}

type packageReport struct {
	tests                   map[string]*testReport
	output                  strings.Builder // what belongs to no test
	passed, failed, skipped int
}

type testReport struct {
	output   strings.Builder
	subs     int
	subsFail int
	ended    bool
}

func (r *report) line() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
}

func (r *report) add(e event) {
	if r.packages == nil {
		r.packages, r.builds = map[string]*packageReport{}, map[string]string{}
	}
	if e.Action == "build-output" {
		r.builds[e.ImportPath] += e.Output
		return
	}
	if e.Package == "" {
		return // build-fail: the packages that needed the build fail by themselves
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &packageReport{tests: map[string]*testReport{}}
		r.packages[e.Package] = p
	}
	if e.Test == "" {
		r.addPackage(p, e)
		return
	}
	t := p.tests[e.Test]
	if t == nil {
		t = &testReport{}
		p.tests[e.Test] = t
		if above := parent(e.Test); p.tests[above] != nil {
			p.tests[above].subs++
		}
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.ended = true
		r.endTest(p, t, e)
	}
}

func (r *report) endTest(p *packageReport, t *testReport, e event) {
	defer t.output.Reset()
	above := p.tests[parent(e.Test)]
	switch {
	case e.Action == "fail":
		if above != nil {
			above.subsFail++
		}
		if t.subsFail == 0 {
			p.failed++
		}
		if said := spoken(t.output.String()); said != "" || t.subsFail == 0 {
			fmt.Fprintf(r.out, "--- FAIL  %s  %s\n%s", e.Package, e.Test, said)
		}
	case e.Action == "skip" && t.subs == 0:
		p.skipped++
		fmt.Fprintf(r.out, "--- skip  %s  %s%s\n", e.Package, e.Test, reason(t.output.String()))
	case e.Action == "pass" && t.subs == 0:
		p.passed++
	}
	others := foreignTotals(t.output.String())
	p.passed += others.passed
	p.failed += others.failed
	p.skipped += others.skipped
}

func (r *report) addPackage(p *packageReport, e event) {
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
		return
	case "skip": // no test files
		return
	case "pass":
		if p.passed+p.skipped == 0 {
			return // nothing was tested, and nothing claimed
		}
		fmt.Fprintf(r.out, "ok    %s  %s  %.1fs%s\n", e.Package, count(p.passed, "test"), e.Elapsed, skips(p.skipped))
	case "fail":
		for name, t := range p.tests { // those that were running when the process ended: a panic or a time-out
			if !t.ended && !waiting.MatchString(t.output.String()) {
				fmt.Fprintf(r.out, "--- did not end  %s  %s\n%s", e.Package, name, spoken(t.output.String()))
			}
		}
		fmt.Fprint(r.out, p.output.String())
		for path, output := range r.builds {
			fmt.Fprint(r.out, output)
			delete(r.builds, path)
		}
		p.failed = max(p.failed, 1) // a package that fails without a failed test did not build, or broke down
		fmt.Fprintf(r.out, "FAIL  %s  %d failed, %d passed  %.1fs%s\n", e.Package, p.failed, p.passed, e.Elapsed, skips(p.skipped))
	default:
		return
	}
	r.passed += p.passed
	r.failed += p.failed
	r.skipped += p.skipped
	delete(r.packages, e.Package)
}

func parent(test string) string {
	if i := strings.LastIndexByte(test, '/'); i >= 0 {
		return test[:i]
	}
	return ""
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func skips(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("  (%d skipped)", n)
}

var framework = regexp.MustCompile(`(?m)^\s*(=== (RUN|PAUSE|CONT|NAME)|--- (FAIL|PASS|SKIP)):?\s.*\n`)

// waiting is the output of a parallel test that never had its turn.
var waiting = regexp.MustCompile(`=== PAUSE \S+\n$`)

// spoken is what a test said itself, without the lines that go test adds.
func spoken(output string) string { return framework.ReplaceAllString(output, "") }

var skipReason = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// reason finds what a skipped test said.
func reason(output string) string {
	if m := skipReason.FindStringSubmatch(output); m != nil {
		return ": " + m[1]
	}
	return ""
}

type totals struct{ passed, failed, skipped int }

var (
	nodeTotal   = regexp.MustCompile(`(?m)^\s*(?:\S+\.go:\d+: )?[ℹ#] (pass|fail|cancelled|skipped|todo) (\d+)\s*$`)
	pytestTotal = regexp.MustCompile(`(?m)^\s*(?:\S+\.go:\d+: )?[\s=]*((?:\d+ (?:passed|failed|errors?|skipped|warnings?|deselected|xfailed|xpassed)(?:, )?)+) in [\d.:]+`)
	pytestPart  = regexp.MustCompile(`(\d+) (passed|failed|error|skipped)`)
)

// foreignTotals reads the closing lines of test runners in other languages. The Go test that ran such a suite counts
// too: it is the one that fails when the runner does.
func foreignTotals(output string) (t totals) {
	found := append(nodeTotal.FindAllStringSubmatch(output, -1), swap(pytestParts(output))...)
	for _, m := range found {
		n, _ := strconv.Atoi(m[2]) // digits, by the pattern
		switch m[1] {
		case "pass", "passed":
			t.passed += n
		case "fail", "cancelled", "failed", "error":
			t.failed += n
		case "skipped", "todo":
			t.skipped += n
		}
	}
	return t
}

func pytestParts(output string) (parts [][]string) {
	for _, line := range pytestTotal.FindAllStringSubmatch(output, -1) {
		parts = append(parts, pytestPart.FindAllStringSubmatch(line[1], -1)...)
	}
	return parts
}

// swap puts the word before the number, as node writes it.
func swap(matches [][]string) [][]string {
	for _, m := range matches {
		m[1], m[2] = m[2], m[1]
	}
	return matches
}
