package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// LoadConfig reads the settings from an environment as os.Environ gives it. What it returns beside an error is filled as
// far as could be understood, so that Validate can add its own findings and one run shows every mistake.
func LoadConfig(environ []string) (Config, error) {
	set := make(map[string]string, len(environ))
	for _, entry := range environ {
		// An empty variable is what a chart or a compose file leaves behind for "not set".
		if name, value, _ := strings.Cut(entry, "="); value != "" {
			set[name] = value
		}
	}
	// A first pass over nothing fills in the defaults, which then stand where a value cannot be read: a second line about
	// the zero value would only distract.
	cfg := Config{origin: make(map[string]string)}
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: map[string]string{}}); err != nil {
		return cfg, fmt.Errorf("BUG: defaults of the settings: %w", err)
	}
	var mistakes []error
	known := settings(&cfg)
	for _, s := range known {
		if _, ok := set[s.name]; ok {
			cfg.origin[s.name] = "environment"
		}
		if s.secret {
			mistakes = append(mistakes, readSecretFile(set, cfg.origin, s.name))
		}
	}
	err := env.ParseWithOptions(&cfg, env.Options{Environment: set})
	mistakes = append(mistakes, readable(err, set, known)...)
	mistakes = append(mistakes, unknownVariables(set, known)...)
	return cfg, errors.Join(mistakes...)
}

// unreadable marks a secret whose file could not be read: it is neither set nor missing.
const unreadable = "unreadable file"

// setting is one field of Config as the environment sees it.
type setting struct {
	name   string // of its variable
	field  string // in Config
	secret bool   // may come from a file
	value  any
}

// settings lists the fields of a Config in their order.
func settings(cfg *Config) []setting {
	var list []setting
	v := reflect.ValueOf(cfg).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("env")
		if name == "" {
			continue
		}
		value := v.Field(i).Interface()
		s := setting{name: name, field: field.Name, value: value}
		switch value.(type) {
		case Secret, SecretURL:
			s.secret = true
		}
		list = append(list, s)
	}
	return list
}

// readSecretFile puts the content of the file that NAME_FILE names in the place of NAME. Editors and `kubectl create
// secret` end files with a line break that is no part of the secret.
func readSecretFile(set, origin map[string]string, name string) error {
	path, ok := set[name+"_FILE"]
	if !ok {
		return nil
	}
	if _, both := set[name]; both {
		return fmt.Errorf("%s and %s_FILE are both set: keep one of them", name, name)
	}
	origin[name] = unreadable
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s_FILE: %w; check the path and that this user may read it", name, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return fmt.Errorf("%s_FILE: %s is empty; write the secret into it or unset the variable", name, path)
	}
	set[name] = value
	origin[name] = "file " + path
	return nil
}

// readable puts the library's findings, which name Go fields and types, into the words of who set the variable.
func readable(err error, set map[string]string, known []setting) []error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		if err != nil {
			return []error{err}
		}
		return nil
	}
	var lines []error
	for _, e := range all.Errors {
		var wrong env.ParseError
		if !errors.As(e, &wrong) {
			lines = append(lines, e)
			continue
		}
		i := slices.IndexFunc(known, func(s setting) bool { return s.field == wrong.Name })
		if i < 0 {
			lines = append(lines, e)
			continue
		}
		s := known[i]
		lines = append(lines, fmt.Errorf("%s=%.60q: %s", s.name, set[s.name], expectation(s.value)))
	}
	return lines
}

// expectation says how a value of a setting's type is written.
func expectation(value any) string {
	switch reflect.TypeOf(value).String() {
	case "bool":
		return "write true or false"
	case "int":
		return "write a whole number"
	case "time.Duration":
		return "write a time with its unit, such as 500ms, 25s or 10m"
	case "slog.Level":
		return "write debug, info, warn or error"
	case "main.Bytes":
		return "write a size such as 33554432, 32MiB or 4GiB"
	}
	return "this value cannot be read"
}

// unknownVariables finds misspelt names: a setting that is silently not in force is worse than a start that fails.
func unknownVariables(set map[string]string, known []setting) []error {
	var names []string
	for _, s := range known {
		names = append(names, s.name)
		if s.secret {
			names = append(names, s.name+"_FILE")
		}
	}
	var mistakes []error
	for name, value := range set {
		if !strings.HasPrefix(name, "CATRACA_") || slices.Contains(names, name) || notOurs(name, value) {
			continue
		}
		near, distance := nearest(name, names)
		line := fmt.Sprintf("%s is not a setting of Catraca", name)
		if distance <= max(3, len(name)/4) {
			line += fmt.Sprintf(": did you mean %s?", near)
		} else {
			line += "; `catraca check` lists all there are"
		}
		mistakes = append(mistakes, errors.New(line))
	}
	slices.SortFunc(mistakes, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return mistakes
}

// serviceLink matches what Kubernetes puts into every pod for a Service, and the chart's Service is called catraca.
var serviceLink = regexp.MustCompile(`^CATRACA(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// notOurs says that a variable with our prefix was set by others: Kubernetes' service links, and our own tests.
func notOurs(name, value string) bool {
	if strings.HasPrefix(name, "CATRACA_TEST_") {
		return true
	}
	if name == "CATRACA_PORT" || strings.HasSuffix(name, "_PORT") && !strings.Contains(name, "SERVICE") {
		return strings.Contains(value, "://") || isDigits(value) && serviceLink.MatchString(name) && name != "CATRACA_PORT"
	}
	return serviceLink.MatchString(name)
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// nearest finds the name with the fewest letters to change.
func nearest(name string, candidates []string) (best string, distance int) {
	distance = len(name) + 1
	for _, c := range candidates {
		if d := editDistance(name, c); d < distance {
			best, distance = c, d
		}
	}
	return best, distance
}

// editDistance is Levenshtein's: insertions, deletions and replacements from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
