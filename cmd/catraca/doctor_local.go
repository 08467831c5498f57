package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockSkew is how far our clock was from another's.
type clockSkew struct {
	than  string
	ahead time.Duration
}

// noteClock remembers what another machine takes the time to be. Its header has whole seconds, and the answer took a
// while: both are in the tolerance of clock.
func (d *doctor) noteClock(than, date string) {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.skews = append(d.skews, clockSkew{than, d.now().Sub(theirs)})
}

// clock judges our time by the others'. The window of a budget, the price and the rate of a call hang on it.
func (d *doctor) clock() finding {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now().UTC().Format(time.RFC3339)
	if len(d.skews) == 0 {
		return skipped("%s; nobody answered to compare with", now)
	}
	// One machine may be wrong itself; the least skewed answer cannot make a wrong clock look right by chance.
	least := d.skews[0]
	for _, s := range d.skews {
		if s.ahead.Abs() < least.ahead.Abs() {
			least = s
		}
	}
	if least.ahead.Abs() > 5*time.Second {
		return failure("switch on NTP (chrony, systemd-timesyncd): the clock decides which price, rate and day a call belongs to",
			"%s is %s off what %s says", now, least.ahead.Abs().Round(time.Second), least.than)
	}
	return fine("%s, as %s says", now, least.than)
}

// listen opens the port for a moment. A port that our own serve holds is as it should be.
func (d *doctor) listen(ctx context.Context, variable, address string) finding {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		_ = l.Close()
		return fine("%s is free", address)
	}
	if d.serveIsRunning(ctx) {
		return fine("%s is taken, and a Catraca answers on %s", address, d.cfg.AdminListen)
	}
	advice := "another program has the port: find it with `ss -ltnp`, or change " + variable
	if !strings.Contains(err.Error(), "in use") {
		advice = "change " + variable + "; ports below 1024 need a privilege"
	}
	return failure(advice, "%s cannot be opened: %s", address, cause(err))
}

func (d *doctor) serveIsRunning(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(d.cfg.AdminListen)+"/healthz", nil)
	if err != nil {
		return false
	}
	response, err := d.client.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// reachable is the address to connect to for an address to listen on.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || !isWildcard(host) {
		return listen
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// dataDir writes a file and asks how much room there is. A directory that serve would make is tried where it would be.
func (d *doctor) dataDir() finding {
	dir := d.cfg.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return failure("name another in CATRACA_DATA_DIR, or let this user write there", "%s cannot be made: %s", dir, cause(err))
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return failure("let this user write there, or name another in CATRACA_DATA_DIR", "%s cannot be written: %s", dir, cause(err))
	}
	defer os.Remove(probe.Name())
	_, err = probe.WriteString("catraca doctor")
	if err == nil {
		err = probe.Sync()
	}
	_ = probe.Close()
	if err != nil {
		return failure("look at the disk", "%s cannot be written: %s", dir, cause(err))
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return warning("", "%s can be written; its free space cannot be read: %s", dir, cause(err))
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	switch {
	case free < 64<<20:
		return failure("make room: a call that cannot be put into the spool is refused", "%s has only %s free", dir, roughly(free))
	case free < int64(d.cfg.SpoolMaxBytes):
		return warning("make room, or lower CATRACA_SPOOL_MAX_BYTES, so that the spool and not the disk is what fills up",
			"%s has %s free, less than CATRACA_SPOOL_MAX_BYTES=%s", dir, roughly(free), d.cfg.SpoolMaxBytes)
	}
	return fine("%s can be written, %s free", dir, roughly(free))
}

// roughly writes a size for people.
func roughly(n int64) string {
	for _, u := range units() {
		if n >= u.factor {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.factor), u.suffix)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// cause is the last part of an error, without the operations and addresses that wrap it: those may hold a password.
func cause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}
