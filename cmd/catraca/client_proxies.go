package main

import (
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/catraca/catraca/dashboard"
)

type proxiesCommand struct {
	asJSON
	Since time.Duration `default:"24h" help:"Only those heard of in this time."`
}

// Run lists the proxies.
func (c proxiesCommand) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	var fleet dashboard.Fleet
	query := values("since", t.now().Add(-c.Since).UTC().Format(time.RFC3339Nano))
	if err := api.call(t.ctx, http.MethodGet, "/api/ai-gateway/proxies", query, nil, &fleet); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, fleet)
	}
	if len(fleet.Proxies) == 0 {
		_, err := fmt.Fprintln(t.out, "No proxy was heard of in this time.")
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tVERSION\tCONFIG\tOPEN\tSPOOL\tOLDEST\tDISK\tLAST FLUSH\tSEEN")
	now := t.now()
	for _, p := range fleet.Proxies {
		config := fmt.Sprint(p.ConfigVersion)
		if p.ConfigBehind > 0 {
			config += fmt.Sprintf(" (%d behind)", p.ConfigBehind)
		}
		spool := count(int64(p.SpoolDepth))
		if p.SpoolLost > 0 {
			spool += fmt.Sprintf(" (%d lost)", p.SpoolLost)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d%%\t%s\t%s\n", printable(p.Name), p.State, printable(p.Version), config, p.OpenCalls, spool,
			(time.Duration(p.SpoolOldestMs) * time.Millisecond).Round(time.Second), diskPercent(p), ago(now, p.LastFlush), ago(now, p.SeenAt))
	}
	return w.Flush()
}

func diskPercent(p dashboard.Proxy) int64 {
	if p.SpoolMaxBytes <= 0 {
		return 0
	}
	return 100 * p.SpoolBytes / p.SpoolMaxBytes
}

// ago says how long a moment is past, to the second.
func ago(now, at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return max(0, now.Sub(at)).Round(time.Second).String() + " ago"
}
