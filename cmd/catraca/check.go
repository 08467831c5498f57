package main

import (
	_ "embed"
	"encoding"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"
)

// configSource is config.go itself: it is the one text about the settings, so `check --explain` prints from it.
//
//go:embed config.go
var configSource string

type checkCommand struct {
	asJSON
	forPlane
	Explain bool `help:"Print what each setting is for, its default and when to change it."`
}

// forPlane is the flag of commands that judge settings: what is right for one plane is wrong for another.
type forPlane struct {
	For string `enum:"serve,proxy,control," default:"" help:"Which command the settings are for: serve, proxy or control. Without it: proxy where CATRACA_CONTROL_URL is set, else serve."`
}

// plane is what the flag says, or what the settings look like.
func (f forPlane) plane(cfg *Config) plane {
	switch {
	case f.For == "proxy" || f.For == "" && cfg.ControlURL != "":
		return planeProxy
	case f.For == "control":
		return planeControl
	}
	return planeBoth
}

// checkResult is what check prints as JSON.
type checkResult struct {
	OK       bool           `json:"ok"`
	For      string         `json:"for"`
	Embedded bool           `json:"embedded"`
	Settings []checkSetting `json:"settings"`
	Warnings []string       `json:"warnings"`
	Mistakes []string       `json:"mistakes"`
}

type checkSetting struct {
	Name  string `json:"name"`
	Value string `json:"value"` // secrets masked
	From  string `json:"from"`  // default, environment, file …, not set
	About string `json:"about,omitempty"`
}

// Run prints the settings in force and every mistake in them.
func (c checkCommand) Run(t *terminal) error {
	result := check(t.environ, c.forPlane)
	if c.Explain {
		about := explanations()
		for i, s := range result.Settings {
			result.Settings[i].About = about[s.Name]
		}
	}
	var err error
	if c.JSON {
		err = writeJSON(t.out, result)
	} else {
		err = result.print(t)
	}
	if err == nil && !result.OK {
		return exitCode(1)
	}
	return err
}

func check(environ []string, of forPlane) checkResult {
	cfg, err := LoadConfig(environ)
	cfg.plane = of.plane(&cfg)
	result := checkResult{For: cfg.plane.command(), Embedded: cfg.Embedded(), Warnings: cfg.Warnings(), Mistakes: lines(errors.Join(err, cfg.Validate()))}
	result.OK = len(result.Mistakes) == 0
	for _, s := range settings(&cfg) {
		value, from := settingText(s.value), cfg.origin[s.name]
		switch {
		case from != "":
		case value == "":
			from = "not set"
		default:
			from = "default"
		}
		result.Settings = append(result.Settings, checkSetting{Name: s.name, Value: value, From: from})
	}
	return result
}

// settingText writes a value as it would stand in the environment, secrets masked.
func settingText(value any) string {
	switch v := value.(type) {
	case time.Duration:
		return shortDuration(v)
	case Bytes:
		return v.String()
	case slog.Level:
		return strings.ToLower(v.String())
	case encoding.TextMarshaler: // the secrets' mask
		text, err := v.MarshalText()
		if err != nil {
			return "****"
		}
		return string(text)
	}
	return fmt.Sprint(value)
}

// shortDuration writes 10m, where time.Duration says 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// lines takes a joined error apart.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func (r checkResult) print(t *terminal) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	for _, s := range r.Settings {
		if s.About != "" {
			fmt.Fprintf(w, "\n%s", wrap(s.About, "# ", 110))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.Value, s.From)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	switch {
	case r.For == planeProxy.command():
		fmt.Fprintln(t.out, "\nFor `catraca proxy`: the data plane alone.")
	case r.For == planeControl.command():
		fmt.Fprintln(t.out, "\nFor `catraca control`: the control plane alone.")
	case r.Embedded:
		fmt.Fprintln(t.out, "\nEmbedded: everything is kept in CATRACA_DATA_DIR; no Postgres, no Redis.")
	default:
		fmt.Fprintln(t.out, "\nWith Postgres and Redis.")
	}
	for _, line := range r.Warnings {
		fmt.Fprintln(t.out, "warning:", line)
	}
	if r.OK {
		_, err := fmt.Fprintln(t.out, "The settings are valid. `catraca doctor` tries what they name.")
		return err
	}
	for _, line := range r.Mistakes {
		fmt.Fprintln(t.err, "mistake:", line)
	}
	_, err := fmt.Fprintf(t.err, "%d to mend.\n", len(r.Mistakes))
	return err
}

// explanations reads the comment of each field of Config from the source, by the name of its variable.
func explanations() map[string]string {
	about := make(map[string]string)
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", configSource, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return about // cannot happen in a binary that was compiled from this very file
	}
	ast.Inspect(file, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok || field.Tag == nil || field.Doc == nil {
			return true
		}
		_, tag, _ := strings.Cut(field.Tag.Value, `env:"`)
		name, _, _ := strings.Cut(tag, `"`)
		about[name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
		return true
	})
	return about
}

// wrap breaks a text into lines, each with a prefix.
func wrap(text, prefix string, width int) string {
	var b strings.Builder
	line := prefix
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) > width && line != prefix {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = prefix
		}
		line += word + " "
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	return b.String()
}
