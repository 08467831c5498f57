//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// printTables prints one table a phase: medians of the quiet samples, and the ratio to the first target.
func printTables(w io.Writer, samples []sample, phases []phase, targets []target, foreign float64) {
	for _, ph := range phases {
		fmt.Fprintf(w, "\n%s: %s\n", ph.name, ph.title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(tw, "target\tquiet\tCPU µs/%s\tsystem\t× %s\twith tail\t× %s\t%ss/s\tcore\tpeak MiB\tKiB/open\tallocs\tp50 ms\tp99 ms\t\n",
			ph.unit, targets[0].name, targets[0].name, ph.unit)
		for _, t := range targets {
			all := only(samples, ph.name, t.name)
			used, mark := keepQuiet(all, foreign)
			perOpen, allocs := "–", "–"
			if ph.name == "held" {
				perOpen = fmt.Sprintf("%.1f", med(used, func(s sample) float64 { return (s.PeakMiB - s.IdleMiB) * 1024 / float64(max(s.Open, 1)) }))
			}
			if a := med(used, func(s sample) float64 { return s.AllocsPerUnit }); a > 0 {
				allocs = fmt.Sprintf("%.1f", a)
			}
			fmt.Fprintf(tw, "%s\t%d/%d%s\t%.2f\t%.2f\t%s\t%.2f\t%s\t%.0f\t%.0f %%\t%.0f\t%s\t%s\t%.2f\t%.2f\t\n", t.name, len(used), len(all), mark,
				med(used, cpu), med(used, func(s sample) float64 { return s.SystemMicros }), ratio(samples, ph.name, t.name, targets[0].name, foreign, cpu),
				med(used, withTail), ratio(samples, ph.name, t.name, targets[0].name, foreign, withTail),
				med(used, func(s sample) float64 { return s.PerSecond }), 100*med(used, func(s sample) float64 { return s.Busy }),
				med(used, func(s sample) float64 { return s.PeakMiB }), perOpen, allocs,
				med(used, func(s sample) float64 { return s.P50Millis }), med(used, func(s sample) float64 { return s.P99Millis }))
		}
		_ = tw.Flush()
	}
	fmt.Fprintf(w, "\nMedians of the samples in which others used at most %.0f %% of a core; ! marks a row that had none, so that all were taken.\n"+
		"A ratio is the median of the rounds' own ratios. \"With tail\" is all CPU from the first request until the target was idle again,\n"+
		"over all requests: work that a target puts off, a ledger for one, shows only there.\n", 100*foreign)
}

func cpu(s sample) float64      { return s.CPUMicros }
func withTail(s sample) float64 { return s.AllMicros }

// only gives the samples of one phase of one target.
func only(samples []sample, phase, target string) []sample {
	var out []sample
	for _, s := range samples {
		if s.Phase == phase && s.Target == target {
			out = append(out, s)
		}
	}
	return out
}

// keepQuiet leaves out what others disturbed; when that is everything, it keeps all and marks it.
func keepQuiet(all []sample, foreign float64) ([]sample, string) {
	quiet := slices.DeleteFunc(slices.Clone(all), func(s sample) bool { return s.Foreign > foreign })
	if len(quiet) == 0 {
		return all, " !"
	}
	return quiet, ""
}

// ratio gives the median over rounds of target over floor, from rounds in which both were quiet, and its range.
func ratio(samples []sample, phase, target, floor string, foreign float64, of func(sample) float64) string {
	var ratios []float64
	for _, s := range only(samples, phase, target) {
		for _, f := range only(samples, phase, floor) {
			if f.Round == s.Round && f.Foreign <= foreign && s.Foreign <= foreign {
				ratios = append(ratios, of(s)/of(f))
			}
		}
	}
	if len(ratios) == 0 {
		return "–"
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.3f (%.2f–%.2f)", median(ratios), ratios[0], ratios[len(ratios)-1])
}

func med(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, 0, len(samples))
	for _, s := range samples {
		values = append(values, of(s))
	}
	return median(values)
}

// median gives the middle value; of an even number, the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	mid := len(values) / 2
	if len(values)%2 == 1 {
		return values[mid]
	}
	return (values[mid-1] + values[mid]) / 2
}
