package proxy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/tools/txtar"

	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

var update = flag.Bool("update", false, "rewrite what the conversations in testdata expect")

// A conversation is a file of testdata. Its sections are
//
//	settings   optional: lines "trust", "token", "gateway off", "unknown meter", "owner ID CLIENT ROUTE PROVIDER"
//	request    what the client sends: a head with LF line ends, to which a length is added, a blank line, a body
//	upstream   what the upstream answers: see parseScript; absent where nothing may be asked of it
//	sent       what the upstream got
//	client     what the client got
//	event      what the meter was told last
//
// and the last five again, numbered .2, .3 …, for further calls over the same connection. What stands in the last three is
// expected, and written by -update. A body that is no plain text stands as quoted strings of Go, one a line, joined.
//
// Each conversation is held once with the upstream's writes as they stand, once byte by byte, and once all in one; what
// came out must be the same.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no conversations", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []writeSize{asScripted, byteByByte, allAtOnce} {
				got := hold(t, archive, size)
				if *update && size == asScripted {
					if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
						t.Fatal(err)
					}
					archive = got
				}
				compare(t, size, archive, got)
			}
		})
	}
}

func compare(t *testing.T, size writeSize, want, got *txtar.Archive) {
	t.Helper()
	if len(want.Files) != len(got.Files) {
		t.Errorf("%s: the file lacks sections that came out, or has too many: -update writes them", size)
		return
	}
	for i, w := range want.Files {
		if g := got.Files[i]; w.Name != g.Name || string(w.Data) != string(g.Data) {
			t.Errorf("%s: section %s is\n%s\nwant %s\n%s", size, g.Name, g.Data, w.Name, w.Data)
		}
	}
}

type writeSize string

const (
	asScripted writeSize = "as scripted"
	byteByByte writeSize = "byte by byte"
	allAtOnce  writeSize = "all at once"
)

// exchange is one call of a conversation.
type exchange struct {
	n       int
	request string
	script  *script
	sent    []string // requests that the upstream got
	answer  *answer
	err     error
	left    bool // the connection was ended behind the answer
	event   *metering.Event
}

func (e *exchange) section(name string) string {
	if e.n == 1 {
		return name
	}
	return fmt.Sprint(name, ".", e.n)
}

// hold holds a conversation and returns it as it went.
func hold(t *testing.T, archive *txtar.Archive, size writeSize) *txtar.Archive {
	t.Helper()
	sections := map[string]string{}
	for _, f := range archive.Files {
		sections[f.Name] = string(f.Data)
	}
	var calls []*exchange
	for n := 1; ; n++ {
		e := &exchange{n: n}
		text, ok := sections[e.section("request")]
		if !ok {
			break
		}
		var err error
		if e.request, err = parseRequest(text); err != nil {
			t.Fatal(err)
		}
		if text, ok := sections[e.section("upstream")]; ok {
			if e.script, err = parseScript(text); err != nil {
				t.Fatal(err)
			}
		}
		calls = append(calls, e)
	}
	var mu sync.Mutex
	var now *exchange
	w := start(t, func(c *upConn) {
		for {
			head, body, err := c.request()
			if err != nil {
				return
			}
			mu.Lock()
			e := now
			e.sent = append(e.sent, head+body)
			mu.Unlock()
			if e.script == nil || !e.script.play(c, size) {
				return
			}
		}
	}, func(o *Options) { settle(t, sections["settings"], o) })
	defer w.stop()
	w.own.set(t, sections["settings"])
	talk(w, calls, func(e *exchange) { mu.Lock(); now = e; mu.Unlock() })

	out := &txtar.Archive{Comment: archive.Comment}
	keep := func(name string) {
		if text, ok := sections[name]; ok {
			out.Files = append(out.Files, txtar.File{Name: name, Data: []byte(text)})
		}
	}
	keep("settings")
	for _, e := range calls {
		keep(e.section("request"))
		keep(e.section("upstream"))
		mu.Lock()
		for _, part := range []struct{ name, text string }{{"sent", e.showSent(w)}, {"client", e.showClient()}, {"event", showEvent(e.event)}} {
			out.Files = append(out.Files, txtar.File{Name: e.section(part.name), Data: []byte(part.text)})
		}
		mu.Unlock()
	}
	return out
}

// talk makes the calls one after the other, over one connection for as long as it lasts.
func talk(w *world, calls []*exchange, begin func(*exchange)) {
	var c *client
	for _, e := range calls {
		if c == nil {
			c = w.dial()
		}
		begin(e)
		opened, _ := w.meter.counts()
		c.say(e.request)
		e.answer, e.err = c.answer()
		// An answer that does not end the connection leaves it open; a short look is enough, as the calls that
		// follow would notice.
		patience := 10 * time.Millisecond
		if e.err != nil || e.answer.closing || !e.answer.whole {
			patience = 5 * time.Second
		}
		if e.left = c.ended(patience); e.left {
			c.Close()
			c = nil
		}
		if now, _ := w.meter.counts(); now > opened {
			event := w.meter.wait(now)
			e.event = &event
		}
	}
	if c != nil {
		c.Close()
	}
}

func settle(t *testing.T, text string, o *Options) {
	t.Helper()
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); {
		case line == "trust":
			o.TrustClientID = true
		case line == "token":
			o.CallerToken = callerToken
		case line == "gateway off":
			o.UseGateway = false
		case line == "unknown meter":
			o.UnknownModels = tenancy.MeterUnknown
		case strings.HasPrefix(line, "owner "):
		default:
			t.Fatalf("no such setting: %s", line)
		}
	}
}

func (o *owners) set(t *testing.T, text string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.made = map[string]owner{}
	for line := range strings.Lines(text) {
		var id, tenant, route, provider string
		if _, err := fmt.Sscanf(line, "owner %s %s %s %s", &id, &tenant, &route, &provider); err == nil {
			o.made[id] = owner{theTenants().byKey["ck_"+tenant].ClientID, route, provider}
		}
	}
}

// parseRequest makes the bytes of a request from a section.
func parseRequest(text string) (string, error) {
	head, body, _ := strings.Cut(text, "\n\n")
	head = strings.TrimSuffix(head, "\n")
	writes, err := parseBody(body)
	if err != nil {
		return "", err
	}
	body = strings.Join(writes, "")
	lower := strings.ToLower(head)
	if !strings.Contains(lower, "\ncontent-length:") && !strings.Contains(lower, "\ntransfer-encoding:") && !strings.HasPrefix(head, "GET ") {
		head += fmt.Sprint("\nContent-Length: ", len(body))
	}
	return strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body, nil
}

// parseBody is the body of a section as the writes it stands for: one, of plain text without its last line end, or one
// for each quoted string. A string may be followed by * and a number.
func parseBody(text string) (writes []string, err error) {
	if !strings.HasPrefix(text, `"`) {
		if text = strings.TrimSuffix(text, "\n"); text == "" {
			return nil, nil
		}
		return []string{text}, nil
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, fmt.Errorf("line %s: %w", line, err)
		}
		s, _ := strconv.Unquote(quoted)
		if times, ok := strings.CutPrefix(strings.TrimSpace(line[len(quoted):]), "*"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(times))
			if err != nil {
				return nil, fmt.Errorf("line %s: %w", line, err)
			}
			s = strings.Repeat(s, n)
		}
		writes = append(writes, s)
	}
	return writes, nil
}

// A script is what the upstream says to one request.
type script struct {
	writes []string
	ends   bool // the connection is closed behind it
}

// parseScript reads a section "upstream". Its first line says how the body is framed:
//
//	length      with a Content-Length; "length -5" or "length 5" is wrong by so much
//	chunked     a chunk for each write
//	closed      by the end of the connection
//	raw         there is no head here: the quoted strings are all that is written
//
// Behind it, ", cut" ends the connection where the body ends, without what should follow, and ", cut N" after N bytes of
// what follows the head. Then come a head, a blank line and a body. Plain text is one write for each event of a stream.
func parseScript(text string) (*script, error) {
	first, text, _ := strings.Cut(text, "\n")
	framing, cut, isCut := strings.Cut(first, ", cut")
	word, number, _ := strings.Cut(framing, " ")
	head, body := "", text
	if word != "raw" {
		head, body, _ = strings.Cut(text, "\n\n")
		head = strings.ReplaceAll(strings.TrimSuffix(head, "\n"), "\n", "\r\n") + "\r\n"
	}
	writes, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	if len(writes) == 1 && !strings.HasPrefix(body, `"`) {
		writes = strings.SplitAfter(body, "\n\n")
		if last := len(writes) - 1; writes[last] == "" {
			writes = writes[:last]
		} else {
			writes[last] = strings.TrimSuffix(writes[last], "\n")
		}
	}
	s := &script{ends: isCut || word == "closed"}
	switch word {
	case "raw":
		s.writes = writes
		s.ends = isCut
		return s, nil
	case "length":
		off, _ := strconv.Atoi(number)
		head += fmt.Sprintf("Content-Length: %d\r\n", len(strings.Join(writes, ""))+off)
	case "chunked":
		head += "Transfer-Encoding: chunked\r\n"
		for i, b := range writes {
			writes[i] = chunk(b)
		}
		if !isCut || cut != "" {
			writes = append(writes, "0\r\n\r\n")
		}
	case "closed":
	default:
		return nil, fmt.Errorf("no such framing: %q", first)
	}
	if cut = strings.TrimSpace(cut); cut != "" {
		n, err := strconv.Atoi(cut)
		if err != nil {
			return nil, err
		}
		writes = []string{strings.Join(writes, "")[:n]}
	}
	s.writes = append([]string{head + "\r\n"}, writes...)
	return s, nil
}

// play says the script. goesOn tells whether the connection lives.
func (s *script) play(c *upConn, size writeSize) (goesOn bool) {
	switch size {
	case asScripted:
		for _, b := range s.writes {
			c.say(b)
		}
	case allAtOnce:
		c.say(strings.Join(s.writes, ""))
	case byteByByte:
		all := strings.Join(s.writes, "")
		step := 1 + len(all)>>14 // long ones would take a system call for every byte
		for i := 0; i < len(all); i += step {
			c.say(all[i:min(i+step, len(all))])
		}
	}
	return !s.ends
}

func (e *exchange) showSent(w *world) string {
	var b strings.Builder
	for i, raw := range e.sent {
		if i > 0 {
			b.WriteString("\n==== again ====\n")
		}
		head, body, _ := strings.Cut(raw, "\r\n\r\n")
		head = strings.ReplaceAll(head, w.up.addr, "UPSTREAM")
		b.WriteString(strings.ReplaceAll(head, "\r\n", "\n") + "\n\n" + showBody(body))
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

var ourRequestID = regexp.MustCompile(`^(X-Request-Id: req_)[0-9a-f]{16}$`)

func (e *exchange) showClient() string {
	a := e.answer
	if a == nil {
		return fmt.Sprintf("no answer: %v\n", e.err)
	}
	var b strings.Builder
	switch {
	case e.err != nil:
		fmt.Fprintf(&b, "broken: %v\n", e.err)
	case !a.whole:
		fmt.Fprintf(&b, "cut short\n")
	case e.left:
		fmt.Fprintf(&b, "whole, connection ended\n")
	default:
		fmt.Fprintf(&b, "whole, connection kept\n")
	}
	b.WriteString(a.first + "\n")
	for _, line := range a.header {
		if strings.HasPrefix(line, "Date: ") {
			continue
		}
		b.WriteString(ourRequestID.ReplaceAllString(line, "${1}…") + "\n")
	}
	b.WriteString("\n" + showBody(e.hideID(string(a.body))))
	return b.String()
}

// hideID blots out the request id in a body of ours.
func (e *exchange) hideID(body string) string {
	if id := e.answer.get("X-Request-Id"); id != "" {
		return strings.ReplaceAll(body, id, "req_…")
	}
	return body
}

// showBody writes a body so that parseBody reads it back: as it is where it is plain text, else quoted.
func showBody(body string) string {
	plain := utf8.ValidString(body) && len(body) < 8<<10 && !strings.HasPrefix(body, `"`)
	for i, r := range body {
		plain = plain && (r >= ' ' || r == '\n') && r != 0x7f && r != 0xfeff
		if i == 0 && r == '-' || strings.HasPrefix(body[i:], "\n-- ") {
			plain = false // would be taken for a section
		}
	}
	switch {
	case body == "":
		return ""
	case plain:
		return body + "\n"
	}
	var b strings.Builder
	for len(body) > 0 {
		n := strings.IndexByte(body, '\n') + 1
		if n == 0 {
			n = len(body)
		}
		line := body[:n]
		body = body[n:]
		if long := longRun(line); long > 64 {
			fmt.Fprintf(&b, "%q * %d\n", line[:1], long)
			body = line[long:] + body
			continue
		} else if i := runInside(line); i > 0 {
			body = line[i:] + body
			line = line[:i]
		}
		fmt.Fprintf(&b, "%q\n", line)
	}
	return b.String()
}

// longRun tells how often s repeats its first byte at its start.
func longRun(s string) int { return len(s) - len(strings.TrimLeft(s, s[:1])) }

// runInside finds where in s a long run of one byte begins, 0 when nowhere.
func runInside(s string) int {
	for i := 1; i < len(s); i++ {
		if s[i] == s[i-1] {
			continue
		}
		if longRun(s[i:]) > 64 {
			return i
		}
	}
	return 0
}

// showEvent tells an event's essentials, without what is zero.
func showEvent(e *metering.Event) string {
	if e == nil {
		return "none\n"
	}
	var b strings.Builder
	say := func(name string, value any) {
		if s := fmt.Sprint(value); s != "" && s != "0" && s != "false" {
			fmt.Fprintf(&b, "%s: %s\n", name, s)
		}
	}
	say("tenant", tenantName(e))
	say("outcome", outcomeName(e.Outcome))
	say("status", e.Status)
	say("endpoint", e.Endpoint)
	say("streamed", e.Streamed)
	say("route", e.Route+"/"+e.Provider)
	say("asked", e.ModelAsked)
	say("served", e.ModelServed)
	say("priced as", modelName(e.ModelID))
	say("conversation", e.ConversationID)
	say("phone", showPhone(e.Phone))
	say("usage", [...]string{"none", "measured", "estimated"}[e.Source])
	for _, n := range []struct {
		name string
		n    int64
	}{
		{"input", e.Input},
		{"cached", e.Cached},
		{"cache write", e.CacheWrite},
		{"output", e.Output},
		{"reasoning", e.Reasoning},
		{"total", e.Total},
		{"audio input", e.AudioInput},
		{"audio output", e.AudioOutput},
		{"audio ms", e.AudioMs},
		{"images", e.Images},
		{"characters", e.Characters},
		{"request bytes", e.RequestBytes},
		{"response bytes", e.ResponseBytes},
	} {
		say(n.name, n.n)
	}
	if e.Known {
		fmt.Fprintf(&b, "cost: US$ %s, R$ %s\n", e.USD, e.BRL)
	} else {
		say("cost", "unknown")
	}
	if e.GateKnown {
		fmt.Fprintf(&b, "the gateway says: US$ %s\n", e.GateUSD)
	}
	if e.ListKnown {
		fmt.Fprintf(&b, "by the list: US$ %s\n", e.ListUSD)
	}
	say("upstream id", e.UpstreamID)
	say("upstream request", e.UpstreamRequestID)
	say("finish", e.FinishReason)
	say("error", e.ErrorCode)
	return b.String()
}

func tenantName(e *metering.Event) string {
	for key, p := range theTenants().byKey {
		if p.ClientID == e.ClientID {
			by := "by key"
			if e.KeyID != p.KeyID {
				by = "by name"
			}
			return strings.TrimPrefix(key, "ck_") + " " + by
		}
	}
	return "nobody we know"
}

func showPhone(phone string) string {
	if len(phone) == 22 && !strings.HasPrefix(phone, "+") {
		return "(pseudonym)" // under a key that is another one in each run
	}
	return phone
}
