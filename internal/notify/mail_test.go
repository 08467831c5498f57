package notify

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeSMTP is a mail server of a few words.
type fakeSMTP struct {
	extensions []string          // said after EHLO
	replies    map[string]string // to a command's first word, in the place of the usual one
	password   string            // that is right
	atOnce     bool              // TLS from the first byte
	silent     bool              // never says a word

	tls   *tls.Config
	roots *x509.CertPool
	addr  string

	mu    sync.Mutex
	lines []string // that it was told
	mails []string
	clear []string // of lines, those that came in the clear
}

func startSMTP(t *testing.T, s *fakeSMTP) *fakeSMTP {
	t.Helper()
	// httptest has a certificate for 127.0.0.1, made for this.
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	s.tls = &tls.Config{Certificates: donor.TLS.Certificates}
	s.roots = x509.NewCertPool()
	s.roots.AddCert(donor.Certificate())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var wait sync.WaitGroup
	t.Cleanup(func() { l.Close(); wait.Wait() })
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *fakeSMTP) serve(conn net.Conn) {
	defer func() { conn.Close() }()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if s.silent {
		io.Copy(io.Discard, conn)
		return
	}
	secret := s.atOnce
	if secret {
		conn = tls.Server(conn, s.tls)
	}
	r := bufio.NewReader(conn)
	say := func(format string, args ...any) { fmt.Fprintf(conn, format+"\r\n", args...) }
	hear := func() (string, bool) {
		line, err := r.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lines = append(s.lines, line)
		if !secret {
			s.clear = append(s.clear, line)
		}
		return line, err == nil
	}
	answer := func(word, usual string) string {
		if special, ok := s.replies[word]; ok {
			return special
		}
		return usual
	}
	say("%s", answer("greeting", "220 fake"))
	for {
		line, ok := hear()
		if !ok {
			return
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "EHLO":
			say("250-fake greets you")
			for _, e := range s.extensions {
				say("250-%s", e)
			}
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go on")
			conn = tls.Server(conn, s.tls)
			r, secret = bufio.NewReader(conn), true
		case "AUTH":
			way, given, _ := strings.Cut(rest, " ")
			if way == "LOGIN" {
				say("334 %s", base64.StdEncoding.EncodeToString([]byte("Username:")))
				hear()
				say("334 %s", base64.StdEncoding.EncodeToString([]byte("Password:")))
				given, _ = hear()
			}
			plain, _ := base64.StdEncoding.DecodeString(given)
			if strings.HasSuffix(string(plain), s.password) {
				say("235 welcome")
			} else {
				say("535 %s is wrong", plain)
			}
		case "DATA":
			say("%s", answer("DATA", "354 go on"))
			var mail strings.Builder
			for {
				line, ok := hear()
				if !ok || line == "." {
					break
				}
				mail.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
			}
			s.mu.Lock()
			s.mails = append(s.mails, mail.String())
			s.mu.Unlock()
			say("%s", answer(".", "250 taken"))
		case "QUIT":
			say("221 bye")
			return
		default:
			say("%s", answer(word, "250 fine"))
		}
	}
}

func (s *fakeSMTP) inTheClear() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.clear)
}

func (s *fakeSMTP) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *fakeSMTP) url(scheme, user string) string {
	if user != "" {
		user += "@"
	}
	return scheme + "://" + user + s.addr
}

func testMailer(t *testing.T, o MailOptions) *Mailer {
	t.Helper()
	if o.From == "" {
		o.From = "Catraca <alerts@example.com>"
	}
	m, err := NewMailer(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// parts reads a mail as a reader would.
func parts(t *testing.T, raw string) (header mail.Header, subject, text, html string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatal(kind, err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for _, to := range []*string{&text, &html} {
		p, err := r.NextPart() // undoes quoted-printable
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		*to = strings.ReplaceAll(string(b), "\r\n", "\n")
	}
	return m.Header, subject, text, html
}

func TestMailArrives(t *testing.T) {
	for name, c := range map[string]struct {
		server *fakeSMTP
		scheme string
		user   string
		tls    string
	}{
		"STARTTLS and PLAIN": {&fakeSMTP{extensions: []string{"STARTTLS", "AUTH PLAIN LOGIN"}}, "smtp", "ana:p%40ss", ""},
		"STARTTLS and LOGIN": {&fakeSMTP{extensions: []string{"STARTTLS", "AUTH XOAUTH2 LOGIN"}}, "smtp", "ana:p%40ss", ""},
		"TLS at once":        {&fakeSMTP{extensions: []string{"AUTH PLAIN"}, atOnce: true}, "smtps", "ana:p%40ss", ""},
		"in the clear":       {&fakeSMTP{}, "smtp", "", "?tls=off"},
		"no password":        {&fakeSMTP{extensions: []string{"STARTTLS"}}, "smtp", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.server.password = "p@ss"
			s := startSMTP(t, c.server)
			m := testMailer(t, MailOptions{URL: s.url(c.scheme, c.user) + c.tls, Roots: s.roots})
			if status, err := m.Send(t.Context(), "dono@loja.example", testNotice()); err != nil || status != 250 {
				t.Fatal(status, err)
			}
			if len(s.mails) != 1 {
				t.Fatalf("%d mails came", len(s.mails))
			}
			header, subject, text, html := parts(t, s.mails[0])
			if subject != "Loja da Ana: 80% do orçamento mensal em reais" || header.Get("To") != "<dono@loja.example>" ||
				header.Get("From") != `"Catraca" <alerts@example.com>` || header.Get("Message-ID") != "<alert_6f1c@example.com>" || header.Get("Auto-Submitted") != "auto-generated" {
				t.Errorf("%q %v", subject, header)
			}
			if !strings.Contains(text, "Usado: R$ 1.234,56 de R$ 1.500,00 (82,3%)") || !strings.Contains(html, "Usado: R$ 1.234,56 de R$ 1.500,00 (82,3%)") {
				t.Errorf("%s\n%s", text, html)
			}
			if all := s.told(); !strings.Contains(all, "MAIL FROM:<alerts@example.com>") || !strings.Contains(all, "RCPT TO:<dono@loja.example>") {
				t.Error(all)
			}
			if clear := s.inTheClear(); c.tls == "" && strings.Contains(strings.Join(clear, "\n"), "AUTH") {
				t.Errorf("in the clear: %q", clear)
			}
			if c.user != "" && !strings.Contains(s.told(), "AUTH") {
				t.Error("no password was given")
			}
		})
	}
}

func TestMailThatFails(t *testing.T) {
	withTLS := []string{"STARTTLS", "AUTH PLAIN"}
	for name, c := range map[string]struct {
		server *fakeSMTP
		user   string
		status int
		want   string
	}{
		"a wrong password":      {&fakeSMTP{extensions: withTLS, password: "other"}, "ana:" + canary, 535, "the user and password were refused: it answered 535"},
		"no STARTTLS":           {&fakeSMTP{extensions: []string{"AUTH PLAIN"}}, "ana:" + canary, 0, "offers no STARTTLS"},
		"no way to sign in":     {&fakeSMTP{extensions: []string{"STARTTLS", "AUTH GSSAPI"}}, "ana:" + canary, 0, "neither AUTH PLAIN nor AUTH LOGIN"},
		"an unknown recipient":  {&fakeSMTP{extensions: withTLS, replies: map[string]string{"RCPT": "550 <dono@loja.example> " + canary}}, "", 550, "the recipient was refused: it answered 550"},
		"a sender refused":      {&fakeSMTP{extensions: withTLS, replies: map[string]string{"MAIL": "553 " + canary}}, "", 553, "the sender was refused: it answered 553"},
		"spam":                  {&fakeSMTP{extensions: withTLS, replies: map[string]string{".": "554 " + canary}}, "", 554, "the mail was refused: it answered 554"},
		"greylisted":            {&fakeSMTP{extensions: withTLS, replies: map[string]string{"RCPT": "451-later\r\n451 " + canary}}, "", 451, "answered 451"},
		"busy":                  {&fakeSMTP{replies: map[string]string{"greeting": "421 " + canary}}, "", 421, "the greeting: it answered 421"},
		"no SMTP":               {&fakeSMTP{replies: map[string]string{"greeting": "HTTP/1.1 400 " + canary}}, "", 0, "the greeting: the connection failed"},
		"a greeting of no end":  {&fakeSMTP{replies: map[string]string{"greeting": "220-" + strings.Repeat(canary, 20000)}}, "", 0, "the greeting: the connection failed"},
		"never says a word":     {&fakeSMTP{silent: true}, "", 0, "in time"},
		"a certificate of none": {&fakeSMTP{extensions: withTLS}, "", 0, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSMTP(t, c.server)
			roots, timeout := s.roots, 5*time.Second
			if c.server.silent {
				timeout = 300 * time.Millisecond
			}
			if name == "a certificate of none" {
				roots = nil
			}
			m := testMailer(t, MailOptions{URL: s.url("smtp", c.user), Roots: roots, Timeout: timeout})
			began := time.Now()
			status, err := m.Send(t.Context(), "dono@loja.example", testNotice())
			if err == nil || status != c.status || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%d, %v; want %d and %q", status, err, c.status, c.want)
			}
			if text := err.Error(); strings.Contains(text, canary) || strings.Contains(text, "dono") {
				t.Errorf("the error tells too much: %s", text)
			}
			if time.Since(began) > 4*time.Second {
				t.Errorf("it took %v", time.Since(began))
			}
			if strings.Contains(strings.Join(s.inTheClear(), ""), "AUTH PLAIN ") {
				t.Error("the password went in the clear")
			}
		})
	}
	m := testMailer(t, MailOptions{URL: "smtp://127.0.0.1:1"})
	if _, err := m.Send(t.Context(), "dono@loja.example", testNotice()); err == nil || !strings.Contains(err.Error(), "could not be reached") {
		t.Error(err)
	}
	silent := startSMTP(t, &fakeSMTP{silent: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := testMailer(t, MailOptions{URL: silent.url("smtp", "")}).Send(ctx, "dono@loja.example", testNotice()); err == nil {
		t.Error("no error of a context that ended")
	}
}

func TestMailSettingsThatAreRefused(t *testing.T) {
	for _, o := range []MailOptions{
		{URL: "", From: "a@b.example"},
		{URL: "mail.example:587", From: "a@b.example"},
		{URL: "http://mail.example", From: "a@b.example"},
		{URL: "smtp://u:" + canary + "%zz@mail.example", From: "a@b.example"},
		{URL: "smtp://u:" + canary + "/@mail.example", From: "a@b.example"},
		{URL: "smtp://u:" + canary + "@mail.example?tls=off", From: "a@b.example"},
		{URL: "smtps://mail.example?tls=off", From: "a@b.example"},
		{URL: "smtp://mail.example?tls=maybe", From: "a@b.example"},
		{URL: "smtp://mail.example", From: ""},
		{URL: "smtp://mail.example", From: "nobody"},
		{URL: "smtp://mail.example", From: "a@b.example\r\nBcc: c@d.example"},
		{URL: "smtp://mail.example", From: "a@b.example", Language: "fr"},
	} {
		if _, err := NewMailer(o); err == nil {
			t.Errorf("%+v was taken", o)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("the error holds the password: %v", err)
		}
	}
	m := testMailer(t, MailOptions{URL: "smtps://mail.example"})
	if m.port != "465" || testMailer(t, MailOptions{URL: "smtp://mail.example", Language: "en"}).port != "587" {
		t.Error("ports")
	}
}

func TestCheckAddress(t *testing.T) {
	for address, good := range map[string]bool{
		"dono@loja.example": true, "a.b+c@sub.loja.com.br": true, "x@y.z": true,
		"": false, "dono": false, "dono@": false, "@loja.example": false, "dono@loja": false, "a@b@c.example": false, "Ana <dono@loja.example>": false, "<dono@loja.example>": false,
		"a@b.example,c@d.example": false, "a@b.example c@d.example": false, "a@b.example\r\nBcc: x@y.z": false, "a\x00@b.example": false, "a@b.example\n": false, "são@loja.example": false,
		"a@são.example": false, "a@[127.0.0.1]": false, "a@b..example": false, "a@.example": false, `"a b"@c.example`: false, "a@b.example>": false, "a(c)@b.example": false,
		strings.Repeat("a", 65) + "@b.example": false, "a@" + strings.Repeat("b", 260) + ".example": false, "a..b@c.example": false,
	} {
		if err := CheckAddress(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// TestNothingGetsIntoHeaders puts what headers are made of into all that a notice holds.
func TestNothingGetsIntoHeaders(t *testing.T) {
	m := testMailer(t, MailOptions{URL: "smtp://mail.example", Language: "en"})
	const poison = "Ana\r\nBcc: x@y.z\r\n\r\n<script>alert(1)</script>\u202e\u0000\x1b[2J"
	n := testNotice()
	n.Client = poison
	raw, err := m.compose("dono@loja.example", n, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	header, subject, text, html := parts(t, string(raw))
	if len(header) != 9 || header.Get("Bcc") != "" {
		t.Errorf("headers: %v", header)
	}
	if subject != "Ana Bcc: x@y.z <script>alert(1)</script> [2J: 80% of the monthly budget in reais" {
		t.Errorf("subject %q", subject)
	}
	if strings.Contains(html, "<script") || strings.ContainsAny(text+html, "\u202e\x00\x1b") || strings.Contains(text, "\nBcc") {
		t.Errorf("%s\n%s", text, html)
	}
	n.Client = strings.Repeat("漢", 3000)
	if raw, err = m.compose("dono@loja.example", n, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(raw), "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
			t.Errorf("a line of %d bytes: %.80q", len(line), line)
		}
	}
	if _, subject, _, _ = parts(t, string(raw)); subject != strings.Repeat("漢", 80)+"…: 80% of the monthly budget in reais" {
		t.Errorf("subject %q", subject)
	}
	n.ID = "x\r\nBcc: x@y.z"
	if _, err := m.compose("dono@loja.example", n, time.Now()); err == nil {
		t.Error("a header of two lines was written")
	}
}
