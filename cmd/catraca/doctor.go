package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"text/tabwriter"
	"time"
)

type doctorCommand struct {
	asJSON
	forPlane
	Timeout time.Duration `default:"10s" help:"How long each dependency may take to answer."`
}

// finding is what doctor has to say of one dependency.
type finding struct {
	Name   string  `json:"name"`
	Status verdict `json:"status"`
	Detail string  `json:"detail"`
	Advice string  `json:"advice,omitempty"`
}

// verdict is how a dependency does.
type verdict string

const (
	verdictOK   verdict = "ok"
	verdictWarn verdict = "warn" // works, but look at it
	verdictFail verdict = "fail" // serve will not start, or a route will not work
	verdictSkip verdict = "skip" // not configured
)

func fine(format string, args ...any) finding {
	return finding{Status: verdictOK, Detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) finding {
	return finding{Status: verdictSkip, Detail: fmt.Sprintf(format, args...)}
}

func warning(advice, format string, args ...any) finding {
	return finding{Status: verdictWarn, Detail: fmt.Sprintf(format, args...), Advice: advice}
}

func failure(advice, format string, args ...any) finding {
	return finding{Status: verdictFail, Detail: fmt.Sprintf(format, args...), Advice: advice}
}

// doctor tries things; what it needs of the outside is here so that tests can stand in for it.
type doctor struct {
	cfg    Config
	now    func() time.Time
	client *http.Client

	mu    sync.Mutex
	skews []clockSkew // as seen in the Date of answers
}

// examination is one thing to try.
type examination struct {
	name string
	try  func(context.Context) finding
}

// Run tries everything at once and prints what was found in a fixed order.
func (c doctorCommand) Run(t *terminal) error {
	cfg, err := LoadConfig(t.environ)
	cfg.plane = c.plane(&cfg)
	wrong := lines(errors.Join(err, cfg.Validate()))
	d := &doctor{cfg: cfg, now: t.now, client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}}
	findings := settingsFindings(wrong, cfg.Warnings())
	findings = append(findings, d.examine(t.ctx, c.Timeout)...)

	ok := true
	for _, f := range findings {
		ok = ok && f.Status != verdictFail
	}
	if c.JSON {
		err = writeJSON(t.out, struct {
			OK     bool      `json:"ok"`
			Checks []finding `json:"checks"`
		}{ok, findings})
	} else {
		err = printFindings(t, findings)
	}
	if err == nil && !ok {
		return exitCode(1)
	}
	return err
}

func settingsFindings(wrong, warnings []string) []finding {
	var findings []finding
	for _, line := range wrong {
		findings = append(findings, failure("mend it; `catraca check --explain` tells about each setting", "%s", line))
	}
	for _, line := range warnings {
		findings = append(findings, warning("", "%s", line))
	}
	if len(findings) == 0 {
		findings = append(findings, fine("valid"))
	}
	for i := range findings {
		findings[i].Name = "settings"
	}
	return findings
}

// examine runs all examinations side by side; the clock comes last, because it is judged by what the others saw.
func (d *doctor) examine(ctx context.Context, timeout time.Duration) []finding {
	all := d.examinations()
	findings := make([]finding, len(all))
	var wait sync.WaitGroup
	for i, e := range all {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			findings[i] = e.try(ctx)
			findings[i].Name = e.name
		})
	}
	wait.Wait()
	clock := d.clock()
	clock.Name = "clock"
	return append(findings, clock)
}

func (d *doctor) examinations() []examination {
	var all []examination
	add := func(name string, try func(context.Context) finding) { all = append(all, examination{name, try}) }
	if d.cfg.plane != planeControl {
		add("listen", func(ctx context.Context) finding { return d.listen(ctx, "CATRACA_LISTEN", d.cfg.Listen) })
	}
	add("admin listen", func(ctx context.Context) finding { return d.listen(ctx, "CATRACA_ADMIN_LISTEN", d.cfg.AdminListen) })
	switch d.cfg.plane {
	case planeControl:
		add("link listen", func(ctx context.Context) finding { return d.listen(ctx, "CATRACA_CONTROL_LISTEN", d.cfg.ControlListen) })
	case planeProxy:
		add("control", d.control)
	}
	if d.cfg.plane != planeControl {
		add("data directory", func(context.Context) finding { return d.dataDir() })
	}
	if d.cfg.plane != planeProxy {
		add("database", d.database)
	}
	add("redis", d.redis)
	add("gateway", d.gateway)
	add("gateway key", d.gatewayKey)
	for _, p := range d.cfg.Providers() {
		add(p.Name, func(ctx context.Context) finding { return d.provider(ctx, p) })
	}
	if d.cfg.plane != planeProxy { // a proxy gets the rate from its control plane
		add("exchange rate", d.exchangeRate)
		add("ptax", d.ptax)
	}
	return all
}

func printFindings(t *terminal, findings []finding) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	count := make(map[verdict]int)
	for _, f := range findings {
		count[f.Status]++
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Status, f.Name, f.Detail)
		if f.Advice != "" {
			fmt.Fprintf(w, "\t\t→ %s\n", f.Advice)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(t.out, "\n%d ok, %d to look at, %d to mend, %d not configured\n",
		count[verdictOK], count[verdictWarn], count[verdictFail], count[verdictSkip])
	return err
}
