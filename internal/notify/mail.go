package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"net/url"
	"strings"
	"time"
)

// MailOptions is what a Mailer is made of.
type MailOptions struct {
	// URL is the mail server: smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465 (TLS at once).
	// With ?tls=off mail goes in the clear, which is refused together with a password.
	URL      string
	From     string         // an address, or "Name <address>"
	Language string         // pt-BR or en; empty: pt-BR
	Timeout  time.Duration  // for all of one mail; 0: 30 s
	Roots    *x509.CertPool // nil: the system's
}

// Mailer sends notices by e-mail.
type Mailer struct {
	host, port     string
	user, password string
	atOnce, clear  bool // TLS at once; no TLS
	from           *mail.Address
	words          *words
	timeout        time.Duration
	roots          *x509.CertPool
}

const mailTimeout = 30 * time.Second

// NewMailer makes a sender. Its errors do not hold the URL, which has a password in it.
func NewMailer(o MailOptions) (*Mailer, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "smtp" && u.Scheme != "smtps" {
		return nil, errors.New("the mail server must be written as smtp://user:password@host:587 or smtps://user:password@host:465, with signs such as @ / : in the password as %40 %2F %3A")
	}
	m := &Mailer{host: u.Hostname(), port: u.Port(), atOnce: u.Scheme == "smtps", timeout: o.Timeout, roots: o.Roots}
	if m.port == "" {
		m.port = map[bool]string{true: "465", false: "587"}[m.atOnce]
	}
	m.user = u.User.Username()
	m.password, _ = u.User.Password()
	switch tls := u.Query().Get("tls"); {
	case tls == "off" && !m.atOnce:
		m.clear = true
	case tls != "":
		return nil, errors.New("the mail server's URL: ?tls=off, with smtp://, is all that can be set")
	}
	if m.clear && m.user != "" && !isLoopback(m.host) {
		return nil, errors.New("the mail server's URL has a user and ?tls=off: the password would cross the network in the clear")
	}
	if m.from, err = mail.ParseAddress(o.From); err != nil || CheckAddress(m.from.Address) != nil {
		return nil, errors.New(`the sender of e-mails must be an address, such as alerts@example.com or "Catraca <alerts@example.com>"`)
	}
	if m.words, err = wordsOf(o.Language); err != nil {
		return nil, err
	}
	if m.timeout == 0 {
		m.timeout = mailTimeout
	}
	return m, nil
}

// CheckAddress says what is wrong with an address to send to: one, without a name, in ASCII.
func CheckAddress(address string) error {
	if len(address) > 254 {
		return errors.New("the e-mail address is longer than 254 bytes")
	}
	for _, c := range []byte(address) {
		if c <= ' ' || c > '~' || strings.IndexByte(`<>,;:"()[]\`, c) >= 0 {
			return errors.New("the e-mail address must be one address, as name@example.com, in letters, digits and usual signs")
		}
	}
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Address != address {
		return errors.New("the e-mail address is not one: write name@example.com")
	}
	name, domain, _ := strings.Cut(address, "@")
	if len(name) > 64 || strings.Contains(domain, "..") || strings.HasPrefix(domain, ".") || !strings.Contains(strings.Trim(domain, "."), ".") {
		return errors.New("the e-mail address has no whole domain: write name@example.com")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Send sends a notice to an address, once. It gives the server's last reply code, or 0 where none came. An error says
// that the server did not take the mail; where it was taken and the reply got lost, it comes twice, with one Message-ID.
func (m *Mailer) Send(ctx context.Context, to string, n *Notice) (status int, err error) {
	if err := CheckAddress(to); err != nil {
		return 0, err
	}
	text, err := m.compose(to, n, time.Now())
	if err != nil {
		return 0, fmt.Errorf("e-mail: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	err = m.deliver(ctx, to, text)
	if err == nil {
		return 250, nil
	}
	var reply *textproto.Error
	if errors.As(err, &reply) {
		status = reply.Code
	} else if ctx.Err() != nil {
		// The connection was closed on us because time was up; what reading from it says then is not why.
		err = failed{stepOf(err), ctx.Err()}
	}
	return status, fmt.Errorf("e-mail by %s: %w", m.host, plainMail(err))
}

// failed is an error with the step it came in.
type failed struct {
	step string
	error
}

func (f failed) Unwrap() error { return f.error }

func stepOf(err error) string {
	var at failed
	if errors.As(err, &at) {
		return at.step
	}
	return "it could not be reached"
}

// plainMail says what went wrong in words of ours: what servers answer often holds the recipient's address.
func plainMail(err error) error {
	step := stepOf(err)
	var reply *textproto.Error
	var timeout interface{ Timeout() bool }
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &reply):
		return fmt.Errorf("%s: it answered %d", step, reply.Code)
	case errors.Is(err, errNoTLS):
		return errNoTLS
	case errors.Is(err, errNoAuth):
		return errNoAuth
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s: it did not answer in time", step)
	case errors.As(err, &certificate):
		return errors.New("its certificate is not valid for this name, has ended, or is of an authority that is not trusted")
	}
	return fmt.Errorf("%s: the connection failed", step)
}

var (
	errNoTLS  = errors.New("it offers no STARTTLS; use smtps://, or ?tls=off where the network is yours alone")
	errNoAuth = errors.New("it offers neither AUTH PLAIN nor AUTH LOGIN; leave user and password out of its URL if it needs none")
)

func (m *Mailer) deliver(ctx context.Context, to string, text []byte) error {
	dialer := net.Dialer{}
	plain, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(m.host, m.port))
	if err != nil {
		return failed{"it could not be reached", err}
	}
	defer plain.Close()
	if deadline, ok := ctx.Deadline(); ok {
		plain.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { plain.Close() })()
	var conn net.Conn = &shortSpoken{Conn: plain, left: largestReply}
	secure := &tls.Config{ServerName: m.host, MinVersion: tls.VersionTLS12, RootCAs: m.roots}
	if m.atOnce {
		conn = tls.Client(conn, secure)
	}
	c, err := smtp.NewClient(conn, m.host)
	if err != nil {
		return failed{"the greeting", err}
	}
	defer c.Close()
	if err := m.introduce(c, secure); err != nil {
		return err
	}
	if err := c.Mail(m.from.Address); err != nil {
		return failed{"the sender was refused", err}
	}
	if err := c.Rcpt(to); err != nil {
		return failed{"the recipient was refused", err}
	}
	return send(c, text)
}

// introduce says who we are, and makes the connection a secret one.
func (m *Mailer) introduce(c *smtp.Client, secure *tls.Config) error {
	_, domain, _ := strings.Cut(m.from.Address, "@")
	if err := c.Hello(domain); err != nil {
		return failed{"the greeting", err}
	}
	if !m.atOnce && !m.clear {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errNoTLS
		}
		if err := c.StartTLS(secure); err != nil {
			return failed{"STARTTLS", err}
		}
	}
	if m.user == "" {
		return nil
	}
	_, ways := c.Extension("AUTH")
	offered := strings.Fields(strings.ToUpper(ways))
	for _, way := range offered {
		var auth smtp.Auth
		switch way {
		case "PLAIN":
			auth = plainAuth{m}
		case "LOGIN":
			auth = loginAuth{m}
		default:
			continue
		}
		if err := c.Auth(auth); err != nil {
			return failed{"the user and password were refused", err}
		}
		return nil
	}
	return errNoAuth
}

func send(c *smtp.Client, text []byte) error {
	w, err := c.Data()
	if err != nil {
		return failed{"the mail was refused", err}
	}
	if _, err := w.Write(text); err != nil {
		return failed{"the mail was not taken", err}
	}
	if err := w.Close(); err != nil {
		return failed{"the mail was refused", err}
	}
	c.Quit() // it was taken: how the conversation ends changes nothing
	return nil
}

// plainAuth and loginAuth are two ways to say a user and a password. That the connection is a secret one, or stays on
// this machine, was seen to by NewMailer and introduce.
type (
	plainAuth struct{ m *Mailer }
	loginAuth struct{ m *Mailer }
)

func (a plainAuth) Start(*smtp.ServerInfo) (string, []byte, error) {
	return "PLAIN", []byte("\x00" + a.m.user + "\x00" + a.m.password), nil
}

func (a plainAuth) Next(_ []byte, more bool) ([]byte, error) {
	if more {
		return nil, errors.New("an unexpected question")
	}
	return nil, nil
}

func (a loginAuth) Start(*smtp.ServerInfo) (string, []byte, error) { return "LOGIN", nil, nil }

func (a loginAuth) Next(question []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	switch q := strings.ToLower(string(question)); {
	case strings.HasPrefix(q, "user"):
		return []byte(a.m.user), nil
	case strings.HasPrefix(q, "pass"):
		return []byte(a.m.password), nil
	}
	return nil, errors.New("an unexpected question")
}

// shortSpoken is a connection on which the other side can say so much and no more: net/smtp reads lines of any length.
type shortSpoken struct {
	net.Conn
	left int
}

func (s *shortSpoken) Read(b []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.Conn.Read(b[:min(len(b), s.left)])
	s.left -= n
	return n, err
}
