package tenancy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
)

func TestE164(t *testing.T) {
	t.Parallel()
	f := func(in, want string) {
		t.Helper()
		var buf [16]byte
		got, ok := e164(buf[:0], []byte(in))
		if string(got) != want && (ok || want != "") {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
		if ok != (want != "") {
			t.Errorf("%q: ok is %v", in, ok)
		}
	}
	const mobile = "+5511987654321"
	for _, in := range []string{
		"+5511987654321", "+55 11 98765-4321", "+55 (11) 98765.4321", "5511987654321", "005511987654321", "00 55 11 98765 4321",
		"whatsapp:+5511987654321", "tel:+55-11-98765-4321", "5511987654321@s.whatsapp.net", "5511987654321:12@s.whatsapp.net",
		"5511987654321@c.us", "11987654321", "(11) 98765-4321", "011987654321", "(011) 98765-4321",
		"551187654321", "+551187654321", "551187654321@s.whatsapp.net", "1187654321", "01187654321",
	} {
		f(in, mobile)
	}
	f("+551132654321", "+551132654321")       // a landline keeps its eight digits
	f("1132654321", "+551132654321")          // and is Brazilian without its country
	f("+14155552671", "+14155552671")         // other countries as they are
	f("14155552671", "+14155552671")          // 11 digits, but no Brazilian mobile
	f("+351912345678", "+351912345678")       // Portugal
	f("+123456789012345", "+123456789012345") // the longest there is
	f("00123456789012345", "+123456789012345")
	for _, in := range []string{
		"", "+", "abc", "123", "+1234567890123456", "BR.13491208655302741918", "123456789@lid", "5511987654321@g.us",
		"+55 11 98765-4321 ext 5", "55119876５4321", "+0155512345", "0", "00", "000000000000", "1+1987654321", strings.Repeat("1", 10000),
	} {
		f(in, "")
	}
}

func testPrincipal(key byte, raw bool) *Principal {
	return &Principal{ClientID: uuid.New(), rawPhones: raw, phoneKey: NewSecretText(strings.Repeat(string([]byte{key}), phoneKeySize))}
}

func TestPhone(t *testing.T) {
	t.Parallel()
	if got := new(Principal).Phone([]byte("+5511987654321")); got != "" {
		t.Errorf("without a key there is a pseudonym: %q", got)
	}
	p, other, raw := testPrincipal(1, false), testPrincipal(2, false), testPrincipal(1, true)
	one := p.Phone([]byte("+55 11 98765-4321"))
	if len(one) != 22 || strings.Trim(one, base62+"-_") != "" {
		t.Errorf("pseudonym %q", one)
	}
	if p.Phone([]byte(" 5511987654321@s.whatsapp.net ")) != one {
		t.Error("one person has two pseudonyms")
	}
	if other.Phone([]byte("+5511987654321")) == one {
		t.Error("two tenants can join their people")
	}
	if p.Phone([]byte("+5511987654322")) == one || p.Phone([]byte("user-a")) == p.Phone([]byte("user-b")) {
		t.Error("people are not told apart")
	}
	if first, again := p.Phone([]byte("user-a")), p.Phone([]byte("user-a")); first != again {
		t.Error("one person has two pseudonyms")
	}
	for _, empty := range []string{"", "  ", "\t"} {
		if p.Phone([]byte(empty)) != "" || raw.Phone([]byte(empty)) != "" {
			t.Errorf("%q is somebody", empty)
		}
	}
	if got := raw.Phone([]byte(" +55 11 98765-4321 ")); got != "+55 11 98765-4321" {
		t.Errorf("raw %q", got)
	}
	for _, nasty := range []string{"a\x00b\nc", "\xff\xfe1", strings.Repeat("é", 100), "a" + strings.Repeat("é", 100)} {
		got := raw.Phone([]byte(nasty))
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\n") || len(got) > maxRawPhone || got == "" {
			t.Errorf("raw %q is kept as %q", nasty, got)
		}
	}
}

func TestHMACIsTheStandardOne(t *testing.T) {
	t.Parallel()
	key := [phoneKeySize]byte{1, 2, 3, 0xff}
	for n := range 300 {
		message := bytes.Repeat([]byte{byte(n)}, n)
		want := hmac.New(sha256.New, key[:])
		want.Write(message)
		if got := hmacSHA256(string(key[:]), message); !hmac.Equal(got[:], want.Sum(nil)) {
			t.Fatalf("%d bytes: %x", n, got)
		}
	}
}

func TestPhoneAllocatesItsResultOnly(t *testing.T) {
	p, number := testPrincipal(1, false), []byte("+55 11 98765-4321")
	if n := testing.AllocsPerRun(100, func() { p.Phone(number) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// TestPrincipalPrintsNoKey marks the phone key and prints the principal in every way.
func TestPrincipalPrintsNoKey(t *testing.T) {
	t.Parallel()
	p := testPrincipal(0xc5, false)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{p, *p, struct{ P *Principal }{p}, struct{ p Principal }{*p}} {
			text := strings.ToLower(fmt.Sprintf(verb, v))
			for _, bad := range []string{"c5c5c5c5", string([]byte{0xc5, 0xc5}), "197 197", "197, 197", "0xc5, 0xc5"} {
				if strings.Contains(text, bad) {
					t.Errorf("%s of %T shows the key: %s", verb, v, text)
				}
			}
		}
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	all, some := &Principal{}, &Principal{allowed: map[string]struct{}{"gpt-5": {}}}
	if !all.Allows("x") || !some.Allows("gpt-5") || some.Allows("gpt-5-mini") || some.Allows("") {
		t.Error("Allows does not hold to the list")
	}
}

func FuzzPhone(f *testing.F) {
	for _, s := range []string{"+5511987654321", "5511987654321:1@s.whatsapp.net", "00", "011 8765-4321", "@", ":"} {
		f.Add([]byte(s))
	}
	p, raw := testPrincipal(1, false), testPrincipal(1, true)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := p.Phone(b); len(got) != 22 && len(bytes.TrimSpace(b)) > 0 {
			t.Errorf("%q: %q", b, got)
		}
		if got := raw.Phone(b); !utf8.ValidString(got) || len(got) > maxRawPhone {
			t.Errorf("%q: %q", b, got)
		}
		var buf, again [16]byte
		if number, ok := e164(buf[:0], b); ok {
			if second, ok := e164(again[:0], number); !ok || !bytes.Equal(number, second) {
				t.Errorf("%q is %q, which is %q", b, number, second)
			}
		}
	})
}
