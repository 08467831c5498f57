// Package tidy holds the rules about the tree that no compiler checks, as tests: which package may import which, which
// driver lives in which file, and a few habits. Each complaint names the place, the rule and what to do.
package tidy

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func TestTree(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("this is not the project's root: %v", err)
	}
	tree, err := readTree(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.goFiles) < 10 {
		t.Fatalf("only %d Go files found: the walk misses the tree", len(tree.goFiles))
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			for _, complaint := range rule.check(tree) {
				t.Error(complaint)
			}
		})
	}
}

// TestRulesBite breaks every rule once: a rule that finds nothing in a bad tree guards nothing.
func TestRulesBite(t *testing.T) {
	long := "package x\n\nfunc f() {\n" + strings.Repeat("\tg()\n", maxFuncLines) + "}\n"
	for _, c := range []struct{ rule, file, text, want string }{
		{"arrows", "tenancy/a.go", `package tenancy; import _ "github.com/catraca/catraca/metering"`, "tenancy may not import metering"},
		{"arrows", "dashboard/a.go", `package dashboard; import _ "github.com/catraca/catraca/proxy"`, "dashboard may not import proxy"},
		{"arrows", "metering/a.go", `package metering; import _ "github.com/catraca/catraca/internal/testenv"`, "may not import internal/testenv"},
		{"arrows", "surprise/a.go", `package surprise; import _ "github.com/catraca/catraca/metering"`, "has no line in arrows"},
		{"drivers", "budget/ledger.go", `package budget; import _ "github.com/jackc/pgx/v5/pgxpool"`, "postgres"},
		{"drivers", "budget/postgres.go", `package budget; import _ "modernc.org/sqlite"`, "sqlite"},
		{"drivers", "budget/postgres.go", `package budget; import _ "github.com/redis/go-redis/v9"`, "redis"},
		{"drivers", "metering/spool.go", `package metering; import _ "github.com/valyala/fasthttp"`, "fasthttp"},
		{"package comments", "budget/a.go", "package budget", "no package comment"},
		{"package comments", "budget/a.go", "// This does things.\npackage budget", "Package budget"},
		{"no init", "budget/a.go", "package budget\nfunc init() {}", "init()"},
		{"function length", "budget/a.go", long, "f is 72 lines"},
		{"file names", "budget/ledger_util.go", "package budget", "util"},
		{"file names", "budget/types.go", "package budget", "types"},
		{"never trim", "metering/redis.go", "package metering\nvar a = redis.XAddArgs{MaxLen: 9}", "MaxLen"},
		{"never trim", "metering/redis.go", "package metering\nvar a = \"XADD s MAXLEN 9\"", "MAXLEN"},
		{"no machine in the tree", "README.md", "see /ho" + "me/someone/x", "a path of one machine"},
		{"no machine in the tree", "e2e/package-lock.json", `"resolved": "https://example.org/x.tgz"`, "download address"},
		{"no machine in the tree", "docs/a.md", "use registry.npm" + "js.org", "registry"},
	} {
		tree, err := readTree(fstest.MapFS{c.file: {Data: []byte(c.text)}})
		if err != nil {
			t.Fatalf("%s: %v", c.file, err)
		}
		for _, rule := range rules {
			if rule.name != c.rule {
				continue
			}
			if got := strings.Join(rule.check(tree), "\n"); !strings.Contains(got, c.want) {
				t.Errorf("rule %q over %s\n%s\ngave %q, want something with %q", c.rule, c.file, c.text, got, c.want)
			}
		}
	}
}

// TestRulesLeaveGoodCodeAlone holds the places that the rules allow.
func TestRulesLeaveGoodCodeAlone(t *testing.T) {
	good := fstest.MapFS{}
	for file, text := range map[string]string{
		"cmd/catraca/main.go":      "// Command catraca runs.\npackage main\nimport (\n_ \"github.com/catraca/catraca/proxy\"\n_ \"github.com/jackc/pgx/v5\"\n_ \"github.com/valyala/fasthttp\"\n)",
		"budget/budget.go":         "// Package budget holds.\npackage budget\nimport _ \"github.com/catraca/catraca/internal/money\"",
		"budget/postgres_grant.go": "package budget\nimport _ \"github.com/jackc/pgx/v5\"",
		"budget/sqlite.go":         "package budget\nimport _ \"database/sql\"",
		"budget/store_test.go":     "package budget_test\nimport (\n_ \"github.com/catraca/catraca/internal/testenv\"\n_ \"github.com/jackc/pgx/v5\"\n)",
		"metering/redis.go":        "// Package metering counts. Never MAXLEN.\npackage metering\nimport _ \"github.com/redis/go-redis/v9\"",
	} {
		good[file] = &fstest.MapFile{Data: []byte(text), Mode: fs.ModePerm}
	}
	tree, err := readTree(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		for _, complaint := range rule.check(tree) {
			t.Errorf("%s: %s", rule.name, complaint)
		}
	}
}
