// Command testcount runs the Go tests of one or more modules, prints what a reader needs of them, and ends in a line that
// counts them all:
//
//	go run ./internal/testcount . e2e
//
// The arguments are module folders; flags after a -- go to `go test`. The counting line goes to the file of -summary too,
// for whoever prints more after it. A suite in another language that a Go test runs is
// counted by the totals it prints itself (node --test, pytest).
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	summary := flag.String("summary", "", "also write the last line to this file")
	flag.Parse()
	dirs, flags := flag.Args(), []string(nil)
	if i := slices.Index(dirs, "--"); i >= 0 {
		dirs, flags = dirs[:i], dirs[i+1:]
	}
	if len(dirs) == 0 {
		dirs = []string{"."}
	}
	// ^C reaches go test by itself; we stay to say what was counted until then.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	all := &report{out: os.Stdout}
	for _, dir := range dirs {
		if err := testModule(dir, flags, all); err != nil {
			fmt.Printf("FAIL  %s: %v\n", dir, err)
			all.failed++
		}
	}
	fmt.Println(all.line())
	if *summary != "" {
		if err := os.WriteFile(*summary, []byte(all.line()+"\n"), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "testcount:", err)
			os.Exit(1)
		}
	}
	if all.failed > 0 || all.passed == 0 {
		os.Exit(1)
	}
}

// testModule runs go test in a folder and reports as the results come.
func testModule(dir string, flags []string, all *report) error {
	cmd := exec.Command("go", append(append([]string{"test", "-json"}, flags...), "./...")...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failedBefore := all.failed
	readErr := all.read(out)
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && all.failed > failedBefore {
		err = nil // what failed was said already
	}
	return errors.Join(readErr, err)
}

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// read takes the events of one go test to their end.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				r.add(e)
			} else {
				fmt.Fprintf(r.out, "%s", line) // go itself had something to say
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
