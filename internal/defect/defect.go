// Package defect plants faults in production code, to see that tests find them.
package defect

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Planted is a fault: a place in a file of the package, and what would stand there instead.
type Planted struct {
	Name string
	File string // in the package's directory
	Old  string // found there exactly once
	New  string
	Why  string // it would hurt
}

// Options say how the tests are run.
type Options struct {
	Run     string   // the tests, as for go test -run
	Args    []string // for the test binary
	Without []string // files of the package, as patterns, that its build leaves out, for it is built once for each fault
}

// Check builds the package in dir once for each fault, with the fault in it, and runs the tests: they must fail. The files
// themselves are not touched. A fault that has no place any more, or that does not compile, is a failure of its own.
func Check(t *testing.T, dir string, o Options, planted []Planted) {
	t.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	binary, out, err := build(t, dir, o, nil)
	if err != nil {
		t.Fatalf("with no fault planted: %v\n%s", err, out)
	}
	if out, err := run(t, dir, binary, o); err != nil {
		t.Fatalf("the tests fail with no fault planted: %v\n%s", err, out)
	}
	for _, p := range planted {
		t.Run(strings.ReplaceAll(p.Name, " ", "_"), func(t *testing.T) {
			binary, out, err := build(t, dir, o, &p)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err = run(t, dir, binary, o)
			exit := (*exec.ExitError)(nil)
			switch {
			case err == nil:
				t.Fatalf("not caught: %s (%s)", p.Name, p.Why)
			case !errors.As(err, &exit):
				t.Fatalf("the tests did not run: %v", err)
			}
			t.Logf("caught: %s", firstComplaint(out))
		})
	}
}

// build compiles the package's tests with a fault in them.
func build(t *testing.T, dir string, o Options, p *Planted) (binary, out string, err error) {
	t.Helper()
	scratch := t.TempDir()
	replace := map[string]string{}
	for _, pattern := range o.Without {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", "", err
		}
		for _, name := range names {
			replace[name] = "" // go build takes it for a file that is not there
		}
	}
	if p != nil {
		source := filepath.Join(dir, p.File)
		b, err := os.ReadFile(source)
		if err != nil {
			return "", "", err
		}
		if n := strings.Count(string(b), p.Old); n != 1 {
			return "", "", fmt.Errorf("the place of this fault is found %d times in %s, and must be once: bring the table up to date with the code. It is:\n%s", n, p.File, p.Old)
		}
		faulty := filepath.Join(scratch, "faulty.go")
		if err := os.WriteFile(faulty, []byte(strings.Replace(string(b), p.Old, p.New, 1)), 0o600); err != nil {
			return "", "", err
		}
		replace[source] = faulty
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", "", err
	}
	if err := os.WriteFile(filepath.Join(scratch, "overlay.json"), overlay, 0o600); err != nil {
		return "", "", err
	}
	binary = filepath.Join(scratch, "faulty.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", filepath.Join(scratch, "overlay.json"), "-o", binary, ".")
	cmd.Dir = dir
	b, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("it does not compile, so nothing is caught: %w", err)
	}
	return binary, string(b), err
}

func run(t *testing.T, dir, binary string, o Options) (out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"-test.run", o.Run, "-test.timeout", "2m"}, o.Args...)...)
	cmd.Dir = dir
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// firstComplaint is the line of a test's output that says what went wrong.
func firstComplaint(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "_test.go:") || strings.HasPrefix(line, "panic:") {
			return fmt.Sprintf("%.250s", line)
		}
	}
	return fmt.Sprintf("%.250s", out)
}
