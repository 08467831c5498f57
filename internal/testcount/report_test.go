package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCountsOfARealModule runs the command's own road, go test included, over a small module with each kind of result.
func TestCountsOfARealModule(t *testing.T) {
	for name, c := range map[string]struct{ file, want, says string }{
		"all pass":              {`func TestA(t *testing.T) {}; func TestB(t *testing.T) { t.Run("x", func(*testing.T) {}); t.Run("y", func(*testing.T) {}) }`, "3 passed, 0 failed, 0 skipped", "ok    "},
		"a sub-test fails":      {`func TestB(t *testing.T) { t.Run("x", func(*testing.T) {}); t.Run("y", func(t *testing.T) { t.Error("the reason") }) }`, "1 passed, 1 failed, 0 skipped", "the reason"},
		"only the parent fails": {`func TestB(t *testing.T) { t.Run("x", func(*testing.T) {}); t.Error("the reason") }`, "1 passed, 1 failed, 0 skipped", "the reason"},
		"skipped":               {`func TestA(t *testing.T) {}; func TestB(t *testing.T) { t.Skip("no server here") }`, "1 passed, 0 failed, 1 skipped", "no server here"},
		"a panic":               {`func TestA(t *testing.T) {}; func TestB(t *testing.T) { panic("it broke") }`, "1 passed, 1 failed, 0 skipped", "it broke"},
		"it does not build":     {`func TestA(t *testing.T) { nowhere() }`, "0 passed, 1 failed, 0 skipped", "undefined: nowhere"},
		"os.Exit in a test":     {`func TestA(t *testing.T) {}; func TestB(t *testing.T) { os.Exit(3) }`, "1 passed, 1 failed, 0 skipped", "TestB"},
		"another language":      {"func TestNode(t *testing.T) { t.Log(\"✔ a\\nℹ tests 7\\nℹ pass 5\\nℹ fail 0\\nℹ skipped 2\\n\") }", "6 passed, 0 failed, 2 skipped", "ok    "},
		"its failures":          {"func TestPy(t *testing.T) { t.Log(\"=== 2 failed, 9 passed, 1 skipped, 3 warnings in 2.31s ===\"); t.Fatal(\"exit status 1\") }", "9 passed, 3 failed, 1 skipped", "FAIL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := module(t, c.file)
			var out strings.Builder
			r := &report{out: &out}
			if err := testModule(dir, nil, r); err != nil {
				t.Fatal(err)
			}
			if r.line() != c.want {
				t.Errorf("counted %q, want %q; printed:\n%s", r.line(), c.want, out.String())
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("did not say %q; printed:\n%s", c.says, out.String())
			}
		})
	}
}

// TestATimeoutNamesTheTestThatHung, and not those that waited for it.
func TestATimeoutNamesTheTestThatHung(t *testing.T) {
	t.Parallel()
	dir := module(t, `func TestWaits(t *testing.T) { t.Parallel() }; func TestHangs(t *testing.T) { t.Log("so far"); select {} }`)
	var out strings.Builder
	r := &report{out: &out}
	if err := testModule(dir, []string{"-timeout=300ms"}, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"TestHangs", "so far", "FAIL  sample  1 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("did not say %q; printed:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "did not end  sample  TestWaits") {
		t.Errorf("a test that had no turn is blamed:\n%s", out.String())
	}
}

func TestABrokenModuleIsAnError(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "go.mod", "modul sample\n")
	r := &report{out: &strings.Builder{}}
	if err := testModule(dir, nil, r); err == nil {
		t.Errorf("no error, and counted %q", r.line())
	}
}

// module makes a small module with these tests in a folder of its own.
func module(t *testing.T, tests string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	imports := `import "testing"`
	if strings.Contains(tests, "os.Exit") {
		imports = `import ("os"; "testing")`
	}
	write(t, dir, "go.mod", "module sample\n\ngo 1.26\n")
	write(t, dir, "a_test.go", "package sample\n\n"+imports+"\n\n"+strings.ReplaceAll(tests, "}; func", "}\nfunc"))
	return dir
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
