//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one phase of one target in one round. Times are CPU times of the target, per unit of the phase's work.
type sample struct {
	Phase, Target   string
	Round           int
	CPUMicros       float64 // user + system within the window
	SystemMicros    float64 // the system's part of it
	AllMicros       float64 // from the first request until the target was idle again: what it put off is in here
	PerSecond       float64 // units of work in the window
	Busy            float64 // share of the target's core that it used in the window: 1 is saturated
	Foreign         float64 // share of a core that others used in the window
	PeakMiB         float64 // highest resident memory of the phase
	IdleMiB         float64 // resident memory before the load
	Open            int64   // calls open at the end of the window
	AllocsPerUnit   float64 // heap allocations, when the target tells; 0 when it does not
	P50Millis       float64
	P99Millis       float64
	TailSeconds     float64 // how long the target went on after the last answer
	UnitsWholePhase int64
}

// measure starts a target, drives one phase against it and reads the clocks at the window's ends.
func (b *bench) measure(ctx context.Context, t target, ph phase) (sample, error) {
	s := sample{Phase: ph.name, Target: t.name}
	r, err := t.start(ctx)
	if err != nil {
		return s, err
	}
	defer r.end()
	pid := r.cmd.Process.Pid
	if err := settle(pid); err != nil {
		return s, err
	}
	s.IdleMiB, _ = statusMiB(pid, "VmRSS:")
	mallocsBefore, recordedBefore := metric(r.metrics, mallocsMetric), metric(r.recorded, recordedMetric)
	first := cpuOf(pid)

	args := append([]string{
		"-addr", r.addr, "-reference", b.upstream.addr, "-key", r.key, "-model", b.model,
		"-warm", ph.warm.String(), "-window", b.window.String(),
	}, ph.args...)
	load, out, err := b.start(ctx, "load", b.loadCore, nil, filepath.Join(b.bin, "load"), args...)
	if err != nil {
		return s, err
	}
	defer load.stop()
	marks, err := b.readMarks(out, pid, load.cmd.Process.Pid)
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, load.tail())
	}
	done := time.Now()
	if err := settle(pid); err != nil {
		return s, err
	}
	for end := time.Now().Add(ledgerLag); b.shared && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if int64(metric(r.recorded, recordedMetric)-recordedBefore) >= marks["done"].Requests {
			break // the other process has written down what this one sent
		}
	}
	if recorded := metric(r.recorded, recordedMetric) - recordedBefore; r.metrics != "" && ph.unit == "request" && int64(recorded) < marks["done"].Requests {
		return s, fmt.Errorf("the target is idle, but its ledger has %.0f of %d calls", recorded, marks["done"].Requests)
	}
	last := cpuOf(pid)
	s.TailSeconds = max(0, time.Since(done).Seconds()-quiet.Seconds())
	begin, end, total := marks["begin"], marks["end"], marks["done"]
	window := end.when.Sub(begin.when).Seconds()
	units := func(m Mark) int64 {
		if ph.unit == "chunk" {
			return m.Events
		}
		return m.Requests
	}
	n := float64(units(end.Mark) - units(begin.Mark))
	if n <= 0 {
		return s, fmt.Errorf("no %s was answered within the window", ph.unit)
	}
	cpu := end.target.sub(begin.target)
	s.CPUMicros = cpu.total.Seconds() * 1e6 / n
	s.SystemMicros = cpu.system.Seconds() * 1e6 / n
	s.UnitsWholePhase = units(total.Mark)
	s.AllMicros = last.sub(first).total.Seconds() * 1e6 / float64(s.UnitsWholePhase)
	s.PerSecond = n / window
	s.Busy = cpu.total.Seconds() / window
	s.Foreign = max(0, (end.machine-begin.machine).Seconds()-(end.ours-begin.ours).Seconds()) / window
	s.PeakMiB, err = statusMiB(pid, "VmHWM:")
	s.Open, s.P50Millis, s.P99Millis = end.Open, end.P50ms, end.P99ms
	if mallocsBefore > 0 {
		s.AllocsPerUnit = (metric(r.metrics, mallocsMetric) - mallocsBefore) / float64(s.UnitsWholePhase)
	}
	return s, err
}

// Mark is a line that the load prints; see bench/load.
type Mark struct {
	Mark     string  `json:"mark"`
	Requests int64   `json:"requests"`
	Events   int64   `json:"events"`
	Failed   int64   `json:"failed"`
	Open     int64   `json:"open"`
	P50ms    float64 `json:"p50_ms"`
	P99ms    float64 `json:"p99_ms"`
}

// instant is a mark of the load with the clocks as they stood when it came.
type instant struct {
	Mark
	when          time.Time
	target        cpuTime
	machine, ours time.Duration
}

// readMarks reads the clocks at each mark, and gives them when the load has ended well.
func (b *bench) readMarks(out io.Reader, target, load int) (map[string]instant, error) {
	marks := map[string]instant{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		at := instant{when: time.Now(), target: cpuOf(target), machine: machineBusy()}
		at.ours = at.target.total + cpuOf(load).total + cpuOf(b.upstream.cmd.Process.Pid).total + cpuOf(os.Getpid()).total
		if err := json.Unmarshal(lines.Bytes(), &at.Mark); err != nil {
			return nil, fmt.Errorf("the load printed %q: %w", lines.Text(), err)
		}
		marks[at.Mark.Mark] = at
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the load failed: %w", err)
	}
	if len(marks) != 3 {
		return nil, fmt.Errorf("the load ended early, after %d of its 3 marks", len(marks))
	}
	return marks, nil
}

// quiet is how long a target must use next to nothing to count as idle.
const quiet = 300 * time.Millisecond

// settle waits until the target is idle: started up, or done with what it had put off.
func settle(pid int) error {
	const limit = 60 * time.Second
	for end := time.Now().Add(limit); time.Now().Before(end); {
		before := cpuOf(pid)
		time.Sleep(quiet)
		if cpuOf(pid).sub(before).total <= quiet/20 {
			return nil
		}
	}
	return fmt.Errorf("the target did not come to rest within %s", limit)
}

// cpuTime is what a process has used. The total is exact; the system's part is known in ticks.
type cpuTime struct{ total, system time.Duration }

func (c cpuTime) sub(o cpuTime) cpuTime { return cpuTime{c.total - o.total, c.system - o.system} }

// tick is the unit of /proc: USER_HZ, which is 100 on every Linux that runs Go.
const tick = 10 * time.Millisecond

func ticks(field string) time.Duration {
	n, _ := strconv.ParseInt(field, 10, 64) // the kernel writes numbers
	return time.Duration(n) * tick
}

func readProc(path string) string {
	text, _ := os.ReadFile("/proc/" + path) // gone means empty, and every caller says what that means
	return string(text)
}

// cpuOf reads what all threads of a process have used; zero when it is gone.
func cpuOf(pid int) cpuTime {
	stat := readProc(strconv.Itoa(pid) + "/stat")
	if stat == "" {
		return cpuTime{}
	}
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // the name before it may hold blanks
	c := cpuTime{total: ticks(f[11]) + ticks(f[12]), system: ticks(f[12])}
	// The clock of another process, as clock_getcpuclockid(3) makes it, counts nanoseconds where /proc counts ticks.
	var ts unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &ts) == nil {
		c.total = time.Duration(ts.Nano())
	}
	return c
}

// machineBusy reads what all cores have worked, whoever for; time stolen by other machines counts too.
func machineBusy() time.Duration {
	line, _, _ := strings.Cut(readProc("stat"), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal
	return ticks(f[1]) + ticks(f[2]) + ticks(f[3]) + ticks(f[6]) + ticks(f[7]) + ticks(f[8])
}

// statusMiB reads one memory figure of a process.
func statusMiB(pid int, name string) (float64, error) {
	_, after, found := strings.Cut(readProc(strconv.Itoa(pid)+"/status"), name)
	fields := strings.Fields(after)
	if !found || len(fields) == 0 {
		return 0, fmt.Errorf("process %d is gone: the target ended during the phase", pid)
	}
	kib, err := strconv.ParseFloat(fields[0], 64)
	return kib / 1024, err
}

// The metrics that are read from a target that has any.
// ledgerLag is how long the ledger of -shared may be behind: it has a busy core less than the proxy.
const ledgerLag = time.Minute

const (
	mallocsMetric  = "go_memstats_mallocs_total"
	recordedMetric = "catraca_ledger_recorded_total"
)

// metric reads one value without labels; 0 when there is none.
func metric(url, name string) float64 {
	if url == "" {
		return 0
	}
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, _ := strconv.ParseFloat(v, 64)
			return n
		}
	}
	return 0
}
