package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// asJSON is the flag of every command that prints a result.
type asJSON struct {
	JSON bool `name:"json" help:"Print JSON instead of text."`
}

// writeJSON prints a result for programs.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

type versionCommand struct{ asJSON }

// Run prints which build this is.
func (c versionCommand) Run(t *terminal) error {
	v := readBuild()
	if c.JSON {
		return writeJSON(t.out, v)
	}
	_, err := fmt.Fprintf(t.out, "catraca %s %s %s/%s\n", v.Version, v.Go, v.OS, v.Arch)
	return err
}

type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// readBuild reads what the Go linker recorded: a release tag, or the commit of a local build.
func readBuild() versionInfo {
	v := versionInfo{Version: "(devel)", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}

// buildVersion is the short name of this build.
func buildVersion() string { return readBuild().Version }
