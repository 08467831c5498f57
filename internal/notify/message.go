package notify

import (
	"bytes"
	"fmt"
	"html/template"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"strings"
	"time"
)

// compose makes the mail: a text, and the same with paragraphs for readers that show HTML. Nothing of a notice gets
// into a header as it is.
func (m *Mailer) compose(to string, n *Notice, now time.Time) ([]byte, error) {
	f := m.words.facts(n)
	subject, err := fill(m.words.subject, f)
	if err != nil {
		return nil, err
	}
	text, err := fill(m.words.body, f)
	if err != nil {
		return nil, err
	}
	html, err := paragraphs(m.words.language, subject, text)
	if err != nil {
		return nil, err
	}
	var parts bytes.Buffer
	w := multipart.NewWriter(&parts)
	for _, part := range []struct{ kind, content string }{{"text/plain", text}, {"text/html", html}} {
		if err := writePart(w, part.kind, part.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(m.from.Address, "@")
	var mail bytes.Buffer
	for _, h := range [][2]string{
		{"From", m.from.String()},
		{"To", "<" + to + ">"},
		{"Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", subject), "?= =?", "?=\r\n =?")},
		{"Date", date(now)},
		{"Message-ID", "<" + n.ID + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, // so that nobody's holiday notice answers
		{"MIME-Version", "1.0"},
		{"Content-Language", m.words.language},
		{"Content-Type", "multipart/alternative; boundary=" + w.Boundary()},
	} {
		if strings.ContainsAny(strings.ReplaceAll(h[1], "\r\n ", ""), "\r\n") {
			return nil, fmt.Errorf("the header %s would be more than one line", h[0])
		}
		fmt.Fprintf(&mail, "%s: %s\r\n", h[0], h[1])
	}
	mail.WriteString("\r\n")
	mail.Write(parts.Bytes())
	return mail.Bytes(), nil
}

func writePart(w *multipart.Writer, kind, content string) error {
	part, err := w.CreatePart(textproto.MIMEHeader{
		"Content-Type":              {kind + "; charset=utf-8"},
		"Content-Transfer-Encoding": {"quoted-printable"},
	})
	if err != nil {
		return err
	}
	q := quotedprintable.NewWriter(part)
	if _, err := io.WriteString(q, strings.ReplaceAll(content, "\n", "\r\n")); err != nil {
		return err
	}
	return q.Close()
}

// paragraphs is a text as HTML.
func paragraphs(language, title, text string) (string, error) {
	page, err := template.New("mail").Parse(`<!doctype html>
<html lang="{{.Language}}"><head><meta charset="utf-8"><title>{{.Title}}</title></head>
<body style="font-family: sans-serif; font-size: 16px; line-height: 1.5; max-width: 40em">
{{range .Paragraphs}}<p style="white-space: pre-line">{{.}}</p>
{{end}}</body></html>
`)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = page.Execute(&b, map[string]any{"Language": language, "Title": title, "Paragraphs": strings.Split(strings.TrimSpace(text), "\n\n")})
	return b.String(), err
}
