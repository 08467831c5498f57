package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var updateSettings = flag.Bool("update-settings", false, "write docs/settings.md from config.go")

const settingsPath = "../../docs/settings.md"

// TestSettingsPage holds docs/settings.md to config.go, which is the one text about settings.
func TestSettingsPage(t *testing.T) {
	want := settingsPage(t)
	if *updateSettings {
		if err := os.WriteFile(settingsPath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(settingsPath)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/settings.md is not what config.go says: run go test ./cmd/catraca -run SettingsPage -update-settings")
	}
}

func settingsPage(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Settings\n\n")
	ast.Inspect(file, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.TYPE {
			return true
		}
		spec := decl.Specs[0].(*ast.TypeSpec)
		fields, ok := spec.Type.(*ast.StructType)
		if spec.Name.Name != "Config" || !ok {
			return true
		}
		fmt.Fprintf(&b, "%s\n\n`catraca check` prints what is in force, secrets masked, and every mistake at once.\n",
			paragraphs(strings.TrimPrefix(strings.Replace(decl.Doc.Text(), "; this file is the one text about them", "", 1), "Config is e"), "E"))
		for _, f := range fields.Fields.List {
			if f.Tag == nil || f.Doc == nil {
				continue
			}
			tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`"))
			name := tag.Get("env")
			text := strings.TrimPrefix(strings.TrimPrefix(f.Doc.Text(), f.Names[0].Name+" "), "is ")
			fmt.Fprintf(&b, "\n## `%s`\n\n%s\n", name, paragraphs(text, ""))
		}
		return false
	})
	return b.String()
}

// paragraphs joins the lines of a comment and begins it with a capital.
func paragraphs(text, first string) string {
	text = strings.TrimSpace(text)
	if first == "" && text != "" {
		first, text = strings.ToUpper(text[:1]), text[1:]
	}
	parts := strings.Split(text, "\n\n")
	for i, p := range parts {
		parts[i] = strings.Join(strings.Fields(p), " ")
	}
	return first + strings.Join(parts, "\n\n")
}
