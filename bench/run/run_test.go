//go:build linux

package main

import (
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// TestClocksAgree burns a known time on the clock that all figures come from, and on the machine's.
func TestClocksAgree(t *testing.T) {
	before, machine := cpuOf(os.Getpid()), machineBusy()
	x := 1.0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		x = math.Sqrt(x + 1)
	}
	used, busy := cpuOf(os.Getpid()).sub(before).total, machineBusy()-machine
	if used < 30*time.Millisecond || used > 900*time.Millisecond { // a loaded machine gives us less than we asked for
		t.Errorf("300 ms of work were counted as %s (%v)", used, x)
	}
	if busy+20*time.Millisecond < used { // in ticks, on either side
		t.Errorf("the machine was busy for %s, we alone for %s", busy, used)
	}
}

func TestRatiosPairRoundsAndLeaveNoisyOnesOut(t *testing.T) {
	samples := []sample{
		{Phase: "plain", Target: "bare", Round: 1, CPUMicros: 10},
		{Phase: "plain", Target: "catraca", Round: 1, CPUMicros: 12},
		{Phase: "plain", Target: "bare", Round: 2, CPUMicros: 20},
		{Phase: "plain", Target: "catraca", Round: 2, CPUMicros: 26},
		{Phase: "plain", Target: "bare", Round: 3, CPUMicros: 10, Foreign: 0.5},
		{Phase: "plain", Target: "catraca", Round: 3, CPUMicros: 99},
		{Phase: "held", Target: "catraca", Round: 1, CPUMicros: 1000},
	}
	if got, want := ratio(samples, "plain", "catraca", "bare", 0.1, cpu), "1.250 (1.20–1.30)"; got != want {
		t.Errorf("ratio %q, want %q", got, want)
	}
	quiet, mark := keepQuiet(only(samples, "plain", "bare"), 0.1)
	if len(quiet) != 2 || mark != "" || med(quiet, cpu) != 15 {
		t.Errorf("quiet samples %v %q, median %v; want the two quiet ones and 15", quiet, mark, med(quiet, cpu))
	}
	var out strings.Builder
	printTables(&out, samples, []phase{{name: "plain", unit: "request"}}, []target{{name: "bare"}, {name: "catraca"}}, 0.1)
	for _, want := range []string{"2/3", "15.00", "1.250 (1.20–1.30)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestMistakesInFlagsAreNamed(t *testing.T) {
	if _, err := choosePhases(options{phases: "plain,fast"}); err == nil || !strings.Contains(err.Error(), `"fast"`) {
		t.Errorf("an unknown phase gave %v", err)
	}
	b := &bench{options: options{targets: "bare,catraca", catraca: "/nowhere/catraca"}}
	if _, err := b.chooseTargets(); err == nil || !strings.Contains(err.Error(), "/nowhere/catraca") {
		t.Errorf("a missing binary gave %v", err)
	}
}
