package notify

import (
	"strings"
	"testing"
	"time"
)

func bodyIn(t *testing.T, language string, n *Notice) string {
	t.Helper()
	w, err := wordsOf(language)
	if err != nil {
		t.Fatal(err)
	}
	text, err := fill(w.body, w.facts(n))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTextsOfMails(t *testing.T) {
	if got, want := bodyIn(t, "pt-BR", testNotice()), `O orçamento mensal em reais de Loja da Ana chegou a 80%.

Usado: R$ 1.234,56 de R$ 1.500,00 (82,3%)
Quando: 22/11/2026 14:30
Período: de 01/11/2026 00:00 a 01/12/2026 00:00 (America/Sao_Paulo)

Ao chegar a 100%, novas chamadas que contam neste orçamento deixam de passar até 01/12/2026 00:00.

Previsão, no ritmo atual:
  90% em 25/11/2026 às 14h
  100% em 27/11/2026 às 18h
`; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	n := testNotice()
	n.Unit, n.Limit, n.Used, n.Threshold, n.Period, n.ClientID, n.Client, n.Forecast = "tokens", 2_000_000, 1_999_999, 100, "daily", "", "", nil
	if got, want := bodyIn(t, "en", n), `The daily budget in tokens of all clients together has reached 100%.

Used: 1,999,999 tokens of 2,000,000 tokens (99.9%)
When: 2026-11-22 14:30
Period: 2026-11-01 00:00 to 2026-12-01 00:00 (America/Sao_Paulo)

The limit has been reached: new calls that count in this budget do not pass until 2026-12-01 00:00, unless the limit is raised.
`; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	n.Hard = false
	if got := bodyIn(t, "pt", n); !strings.Contains(got, "O limite foi alcançado. Este orçamento só avisa: as chamadas continuam passando.") || !strings.Contains(got, "todos os clientes juntos") {
		t.Error(got)
	}
	n.Threshold, n.TimeZone = 80, "Europe/Lisbon"
	if got := bodyIn(t, "pt", n); !strings.Contains(got, "ao chegar a 100%, as chamadas continuam passando.\n\nPrevisão, no ritmo atual: o limite não será alcançado neste período.\n") || !strings.Contains(got, "Quando: 22/11/2026 17:30") {
		t.Error(got)
	}
	n.Foreseen = false
	if got := bodyIn(t, "en", n); strings.Contains(got, "Forecast") {
		t.Error(got)
	}
	n.ClientID, n.At = "c0000000", time.Time{}
	if got := bodyIn(t, "en", n); !strings.Contains(got, "of c0000000 has") {
		t.Error(got)
	}
	if _, err := wordsOf("fr"); err == nil {
		t.Error("there is French")
	}
}

func TestAmountsAsPeopleWriteThem(t *testing.T) {
	const real = 1_000_000_000_000
	for _, c := range []struct {
		unit   string
		amount int64
		pt, en string
	}{
		{"tokens", 0, "0 tokens", "0 tokens"},
		{"tokens", 999, "999 tokens", "999 tokens"},
		{"tokens", 12345, "12.345 tokens", "12,345 tokens"},
		{"tokens", 1234567890, "1.234.567.890 tokens", "1,234,567,890 tokens"},
		{"tokens", -1234, "-1.234 tokens", "-1,234 tokens"},
		{"brl", 0, "R$ 0,00", "R$0.00"},
		{"brl", 1234*real + real*56/100, "R$ 1.234,56", "R$1,234.56"},
		{"brl", real / 2, "R$ 0,50", "R$0.50"},
		{"brl", 19_037_500_000, "R$ 0,0190", "R$0.0190"},
		{"brl", 1, "R$ 0,0000", "R$0.0000"},
		{"usd", 999_999*real + real*995/1000, "US$ 1.000.000,00", "US$1,000,000.00"},
		{"usd", 1<<62 - 1, "US$ 4.611.686,02", "US$4,611,686.02"},
		{"brl", -5 * real, "-R$ 5,00", "-R$5.00"},
	} {
		if pt, en := portuguese().amount(c.unit, c.amount), english().amount(c.unit, c.amount); pt != c.pt || en != c.en {
			t.Errorf("%d %s: %q, %q; want %q, %q", c.amount, c.unit, pt, en, c.pt, c.en)
		}
	}
	for _, c := range []struct {
		used, limit int64
		want        string
	}{{80, 100, "80,0"}, {9999, 10000, "99,9"}, {10000, 10000, "100,0"}, {123456, 100000, "123,4"}, {1, 0, "100,0"}, {1<<62 - 2, 1<<62 - 1, "99,9"}} {
		if got := portuguese().percent(c.used, c.limit); got != c.want {
			t.Errorf("%d of %d is %s %%, want %s", c.used, c.limit, got, c.want)
		}
	}
}
