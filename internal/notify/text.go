package notify

import (
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"
)

// words are what a language says about a notice.
type words struct {
	language  string
	thousands string
	decimal   string
	real      string
	dollar    string
	moment    string // a layout of time.Format
	hour      string
	periods   map[string]string
	units     map[string]string
	subject   *template.Template
	body      *template.Template
}

// wordsOf are those of a language.
func wordsOf(language string) (*words, error) {
	switch strings.ToLower(language) {
	case "", "pt", "pt-br":
		return portuguese(), nil
	case "en", "en-us", "en-gb":
		return english(), nil
	}
	return nil, fmt.Errorf("there are no e-mails in %.20q; the languages are pt-BR and en", language)
}

func portuguese() *words {
	return &words{
		language: "pt-BR", thousands: ".", decimal: ",", real: "R$ ", dollar: "US$ ",
		moment: "02/01/2006 15:04", hour: "02/01/2006 às 15h",
		periods: map[string]string{"daily": "diário", "weekly": "semanal", "monthly": "mensal"},
		units:   map[string]string{"tokens": "em tokens", "brl": "em reais", "usd": "em dólares"},
		subject: template.Must(template.New("subject").Parse(
			`{{.Who}}: {{.Threshold}}% do orçamento {{.Period}} {{.Unit}}`)),
		body: template.Must(template.New("body").Parse(`O orçamento {{.Period}} {{.Unit}} de {{.Who}} chegou a {{.Threshold}}%.

Usado: {{.Used}} de {{.Limit}} ({{.Percent}}%)
Quando: {{.At}}
Período: de {{.Starts}} a {{.Ends}} ({{.Zone}})

{{if and .Full .Hard}}O limite foi alcançado: novas chamadas que contam neste orçamento não passam até {{.Ends}}, a não ser que o limite seja aumentado.
{{- else if .Full}}O limite foi alcançado. Este orçamento só avisa: as chamadas continuam passando.
{{- else if .Hard}}Ao chegar a 100%, novas chamadas que contam neste orçamento deixam de passar até {{.Ends}}.
{{- else}}Este orçamento só avisa: ao chegar a 100%, as chamadas continuam passando.{{end}}
{{- if .Expected}}

Previsão, no ritmo atual:{{range .Expected}}
  {{.Threshold}}% em {{.At}}{{end}}
{{- else if and .Foreseen (not .Full)}}

Previsão, no ritmo atual: o limite não será alcançado neste período.{{end}}
`)),
	}
}

func english() *words {
	return &words{
		language: "en", thousands: ",", decimal: ".", real: "R$", dollar: "US$",
		moment: "2006-01-02 15:04", hour: "2006-01-02 15:00",
		periods: map[string]string{"daily": "daily", "weekly": "weekly", "monthly": "monthly"},
		units:   map[string]string{"tokens": "in tokens", "brl": "in reais", "usd": "in US dollars"},
		subject: template.Must(template.New("subject").Parse(
			`{{.Who}}: {{.Threshold}}% of the {{.Period}} budget {{.Unit}}`)),
		body: template.Must(template.New("body").Parse(`The {{.Period}} budget {{.Unit}} of {{.Who}} has reached {{.Threshold}}%.

Used: {{.Used}} of {{.Limit}} ({{.Percent}}%)
When: {{.At}}
Period: {{.Starts}} to {{.Ends}} ({{.Zone}})

{{if and .Full .Hard}}The limit has been reached: new calls that count in this budget do not pass until {{.Ends}}, unless the limit is raised.
{{- else if .Full}}The limit has been reached. This budget only alerts: calls go on passing.
{{- else if .Hard}}At 100%, new calls that count in this budget no longer pass until {{.Ends}}.
{{- else}}This budget only alerts: at 100%, calls go on passing.{{end}}
{{- if .Expected}}

Forecast, at the present pace:{{range .Expected}}
  {{.Threshold}}% on {{.At}}{{end}}
{{- else if and .Foreseen (not .Full)}}

Forecast, at the present pace: the limit will not be reached in this period.{{end}}
`)),
	}
}

// facts are a notice in words.
type facts struct {
	Who, Period, Unit, Used, Limit, Percent, At, Starts, Ends, Zone string
	Threshold                                                       int
	Full, Hard, Foreseen                                            bool
	Expected                                                        []expectation
}

type expectation struct {
	Threshold int
	At        string
}

func (w *words) facts(n *Notice) facts {
	zone := zoneOf(n)
	f := facts{
		Who: w.who(n), Period: w.periods[n.Period], Unit: w.units[n.Unit], Threshold: n.Threshold,
		Used: w.amount(n.Unit, n.Used), Limit: w.amount(n.Unit, n.Limit), Percent: w.percent(n.Used, n.Limit),
		At: n.At.In(zone).Format(w.moment), Starts: n.StartsAt.In(zone).Format(w.moment), Ends: n.EndsAt.In(zone).Format(w.moment),
		Zone: zone.String(), Full: n.Threshold >= 100, Hard: n.Hard, Foreseen: n.Foreseen,
	}
	for _, threshold := range expected(n) {
		f.Expected = append(f.Expected, expectation{threshold, n.Forecast[threshold].In(zone).Format(w.hour)})
	}
	return f
}

// longestName keeps a subject readable.
const longestName = 80

// who is the client's name without what could look like other lines, or like a sign of another direction.
func (w *words) who(n *Notice) string {
	name := strings.Join(strings.FieldsFunc(n.Client, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }), " ")
	if runes := []rune(name); len(runes) > longestName {
		name = string(runes[:longestName]) + "…"
	}
	switch {
	case name != "":
		return name
	case n.ClientID != "":
		return n.ClientID
	case w.language == "en":
		return "all clients together"
	}
	return "todos os clientes juntos"
}

// amount is an amount as people of the language write it: R$ 1.234,56 or 12.345 tokens.
func (w *words) amount(unit string, amount int64) string {
	if unit == "tokens" {
		return w.grouped(strconv.FormatInt(amount, 10)) + " tokens"
	}
	sign := w.real
	if unit == "usd" {
		sign = w.dollar
	}
	minus, places := "", 2
	if amount < 0 {
		minus, amount = "-", max(-amount, 0)
	}
	const pico = 1_000_000_000_000
	if amount < pico && amount%(pico/100) != 0 {
		places = 4 // a cent is much where a call costs a hundredth of one
	}
	step := int64(pico)
	for range places {
		step /= 10
	}
	rounded := amount / step
	if amount%step >= step/2 {
		rounded++
	}
	s := strconv.FormatInt(rounded, 10)
	if len(s) <= places {
		s = strings.Repeat("0", places+1-len(s)) + s
	}
	return minus + sign + w.grouped(s[:len(s)-places]) + w.decimal + s[len(s)-places:]
}

func (w *words) grouped(digits string) string {
	digits, negative := strings.CutPrefix(digits, "-")
	var b strings.Builder
	if negative {
		b.WriteByte('-')
	}
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteString(w.thousands)
		}
		b.WriteByte(digits[i])
	}
	return b.String()
}

// percent is used of limit, never rounded up: 99.96 % is not all.
func (w *words) percent(used, limit int64) string {
	if limit <= 0 {
		return "100" + w.decimal + "0"
	}
	tenths := int64(float64(used) / float64(limit) * 1000)
	if used < limit {
		tenths = min(tenths, 999)
	}
	return strconv.FormatInt(tenths/10, 10) + w.decimal + strconv.FormatInt(tenths%10, 10)
}

func fill(t *template.Template, f facts) (string, error) {
	var b strings.Builder
	err := t.Execute(&b, f)
	return b.String(), err
}

// date is a moment as RFC 5322 writes it.
func date(t time.Time) string { return t.Format("Mon, 02 Jan 2006 15:04:05 -0700") }
