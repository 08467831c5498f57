package tidy

import (
	"fmt"
	"go/ast"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
)

// rules are all that is held, by the name of the sub-test that holds it.
var rules = []struct {
	name  string
	check func(tree) []string
}{
	{"arrows", arrowsHold},
	{"drivers", driversInTheirFiles},
	{"package comments", onePackageComment},
	{"no init", noInit},
	{"function length", functionsAreShort},
	{"file names", filesNameTheirSubject},
	{"never trim", streamsAreNeverTrimmed},
	{"no machine in the tree", noMachineInTheTree},
}

const (
	module       = "github.com/catraca/catraca/"
	maxFuncLines = 70
)

// arrows says what each package may import of ours; a package that imports none needs no line. "*" is everything.
var arrows = map[string][]string{
	"cmd/catraca":            {"*"},
	"proxy":                  {"proxy/openai", "proxy/upstream", "proxy/cache", "tenancy", "budget", "metering", "internal/money"},
	"proxy/upstream":         {"proxy/openai"},
	"proxy/openai":           {"internal/money"},
	"tenancy":                {"internal/money"},
	"metering":               {"internal/money"},
	"budget":                 {"internal/money"},
	"dashboard":              {"tenancy", "metering", "budget", "internal/money"},
	"internal/link":          {"tenancy", "metering", "budget", "internal/money"},
	"internal/testenv":       {"migrations"},
	"internal/testenv/start": {"internal/testenv"},
	"internal/crash":         {"internal/testenv"},
}

// forTests is what the tests of any package may import beside.
var forTests = []string{"internal/testenv", "internal/defect", "internal/simulator", "migrations", "internal/money"}

func arrowsHold(t tree) (complaints []string) {
	for _, f := range t.goFiles {
		may, known := arrows[f.dir]
		for _, imported := range f.imports() {
			to, ours := strings.CutPrefix(imported, module)
			switch {
			case !ours || to == f.dir || slices.Contains(may, "*") || slices.Contains(may, to):
			case f.isTest() && slices.Contains(forTests, to):
			case !known:
				complaints = append(complaints, fmt.Sprintf("%s imports %s, but the package %s has no line in arrows: add one, and draw it in the design", f.name, to, f.dir))
			default:
				complaints = append(complaints, fmt.Sprintf("%s: %s may not import %s; it may import %v. Pass a plain value, or let cmd hand over a small interface", f.name, f.dir, to, may))
			}
		}
	}
	return complaints
}

// drivers says where a technology may be named: in files that carry its name, and in some folders.
var drivers = []struct {
	what    string
	imports []string
	prefix  string   // of the file's name; empty is no file
	dirs    []string // whole folders where it is opened
	inTests bool     // a test may open it anywhere
}{
	{"pgx", []string{"github.com/jackc/"}, "postgres", []string{"cmd/catraca", "migrations", "internal/testenv", "internal/deps"}, true},
	{"SQLite", []string{"modernc.org/sqlite", "database/sql"}, "sqlite", []string{"cmd/catraca", "migrations", "internal/testenv", "internal/deps"}, true},
	{"go-redis", []string{"github.com/redis/go-redis/"}, "redis", []string{"cmd/catraca", "internal/testenv", "internal/deps"}, true},
	{"fasthttp", []string{"github.com/valyala/fasthttp"}, "", []string{"cmd/catraca", "proxy", "proxy/upstream", "bench/bare", "bench/upstream", "internal/deps"}, false},
}

func driversInTheirFiles(t tree) (complaints []string) {
	for _, f := range t.goFiles {
		for _, d := range drivers {
			base := strings.TrimSuffix(path.Base(f.name), ".go")
			named := d.prefix != "" && (base == d.prefix || strings.HasPrefix(base, d.prefix+"_"))
			if named || slices.Contains(d.dirs, f.dir) || d.inTests && f.isTest() {
				continue
			}
			for _, imported := range f.imports() {
				if slices.ContainsFunc(d.imports, func(p string) bool { return strings.HasPrefix(imported, p) }) {
					where := "the folders " + strings.Join(d.dirs, ", ")
					if d.prefix != "" {
						where = d.prefix + ".go or " + d.prefix + "_*.go, or " + where
					}
					complaints = append(complaints, fmt.Sprintf("%s imports %s: %s belongs in %s", f.name, imported, d.what, where))
				}
			}
		}
	}
	return complaints
}

func onePackageComment(t tree) (complaints []string) {
	comments, files := map[string][]string{}, map[string]*goFile{}
	for _, f := range t.goFiles {
		if f.isTest() && f.dir != "internal/tidy" {
			continue
		}
		files[f.dir] = f
		if f.ast.Doc != nil {
			comments[f.dir] = append(comments[f.dir], f.name)
			start := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name == "main" {
				start = "Command " + path.Base(f.dir) + " "
			}
			if !strings.HasPrefix(f.ast.Doc.Text(), start) {
				complaints = append(complaints, fmt.Sprintf("%s: the package comment should start with %q", f.name, start))
			}
		}
	}
	for dir := range files {
		switch n := len(comments[dir]); {
		case n == 0:
			complaints = append(complaints, dir+" has no package comment: say in one sentence what the package is for")
		case n > 1:
			complaints = append(complaints, fmt.Sprintf("%s has %d package comments, keep one: %v", dir, n, comments[dir]))
		}
	}
	slices.Sort(complaints)
	return complaints
}

func noInit(t tree) (complaints []string) {
	for f, fn := range t.functions() {
		if fn.Name.Name == "init" && fn.Recv == nil {
			complaints = append(complaints, fmt.Sprintf("%s has an init(): build it in New or in cmd, where the reader sees it", f.at(fn)))
		}
	}
	return complaints
}

// longFunctions are allowed, each for its reason, under "file.go function".
var longFunctions = map[string]string{}

func functionsAreShort(t tree) (complaints []string) {
	for f, fn := range t.functions() {
		lines := f.line(fn.End()) - f.line(fn.Pos()) + 1
		if lines <= maxFuncLines || f.isTest() || longFunctions[f.name+" "+fn.Name.Name] != "" {
			continue
		}
		complaints = append(complaints, fmt.Sprintf("%s: %s is %d lines; past %d something wants a name (or a reason in longFunctions)", f.at(fn), fn.Name.Name, lines, maxFuncLines))
	}
	return complaints
}

var emptyWords = regexp.MustCompile(`(^|_)(utils?|commons?|helpers?|types?|managers?|impls?|misc)(_|$)`)

func filesNameTheirSubject(t tree) (complaints []string) {
	for _, f := range t.goFiles {
		if word := emptyWords.FindString(strings.TrimSuffix(path.Base(f.name), ".go")); word != "" {
			complaints = append(complaints, fmt.Sprintf("%s: %q says nothing; name the file after its main word", f.name, strings.Trim(word, "_")))
		}
	}
	return complaints
}

// streamsAreNeverTrimmed: a trimmed stream loses entries that nobody has read yet, without an error.
func streamsAreNeverTrimmed(t tree) (complaints []string) {
	for _, f := range t.goFiles {
		if f.isTest() || !strings.HasPrefix(f.dir, "metering") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			word := ""
			switch n := n.(type) {
			case *ast.Ident:
				word = n.Name
			case *ast.BasicLit:
				word = n.Value
			}
			if strings.Contains(strings.ToUpper(word), "MAXLEN") || strings.HasPrefix(word, "XTrim") {
				complaints = append(complaints, fmt.Sprintf("%s: %s trims a stream, and what it trims was perhaps never read; delete what is acknowledged by its id", f.at(n), word))
			}
			return true
		})
	}
	return complaints
}

var (
	machinePath   = regexp.MustCompile(`(^|[^\w.~-])/(home|Users|root|work)/\w+`)
	resolvedField = regexp.MustCompile(`"resolved":\s*"https?://`)
	publicHosts   = []string{`proxy\.golang\.org`, `sum\.golang\.org`, `registry\.npmjs\.org`, `registry\.yarnpkg\.com`, `files\.pythonhosted\.org`}
)

// noMachineInTheTree: what is written on one machine must build on another, so no file says where this one keeps its
// checkouts or fetches its packages from.
func noMachineInTheTree(t tree) (complaints []string) {
	registry := regexp.MustCompile(strings.Join(append(configuredHosts(), publicHosts...), "|"))
	for name, text := range t.texts {
		for i, line := range strings.Split(text, "\n") {
			at := fmt.Sprintf("%s:%d", name, i+1)
			if found := machinePath.FindString(line); found != "" {
				complaints = append(complaints, fmt.Sprintf("%s: %q is a path of one machine; make it relative or a setting", at, found))
			}
			if found := registry.FindString(line); found != "" {
				complaints = append(complaints, fmt.Sprintf("%s: %q is a package registry; the environment says where packages come from, not the tree", at, found))
			}
			if strings.HasSuffix(name, "-lock.json") && resolvedField.MatchString(line) {
				complaints = append(complaints, at+": a download address in a lock file; write the lock with npm's omit-lockfile-registry-resolved")
			}
		}
	}
	slices.Sort(complaints)
	return complaints
}

// configuredHosts gives the module proxies that this machine is set to use, as patterns.
func configuredHosts() (hosts []string) {
	out, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		return nil // no go command, no setting to leak
	}
	for _, m := range regexp.MustCompile(`https?://([^/:,|\s]+)`).FindAllStringSubmatch(string(out), -1) {
		hosts = append(hosts, regexp.QuoteMeta(m[1]))
	}
	return hosts
}
