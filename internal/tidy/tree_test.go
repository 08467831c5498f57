package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tree is all that the rules look at: every Go file, parsed, and every text.
type tree struct {
	goFiles []*goFile
	texts   map[string]string
}

type goFile struct {
	name, dir string // slash-separated, from the root
	ast       *ast.File
	set       *token.FileSet
}

// notOurs says whether a folder holds nothing written by us: what .gitignore names, and git itself.
func notOurs(dir string) bool {
	switch dir {
	case ".git", ".cache", "bin", "data":
		return true
	}
	switch path.Base(dir) {
	case "node_modules", "dist", ".venv", "__pycache__":
		return true
	}
	return false
}

func readTree(root fs.FS) (tree, error) {
	t := tree{texts: map[string]string{}}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if notOurs(name) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if utf8.Valid(text) {
			t.texts[name] = string(text)
		}
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("%s does not parse: %w", name, err)
		}
		t.goFiles = append(t.goFiles, &goFile{name: name, dir: path.Dir(name), ast: f, set: set})
		return nil
	})
	return t, err
}

// functions gives every declared function of the tree with its file.
func (t tree) functions() iter.Seq2[*goFile, *ast.FuncDecl] {
	return func(yield func(*goFile, *ast.FuncDecl) bool) {
		for _, f := range t.goFiles {
			for _, d := range f.ast.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && !yield(f, fn) {
					return
				}
			}
		}
	}
}

func (f *goFile) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

func (f *goFile) imports() (paths []string) {
	for _, spec := range f.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value) // it parsed, so it is quoted
		paths = append(paths, p)
	}
	return paths
}

func (f *goFile) line(p token.Pos) int { return f.set.Position(p).Line }

func (f *goFile) at(n ast.Node) string { return fmt.Sprintf("%s:%d", f.name, f.line(n.Pos())) }
