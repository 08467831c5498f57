package tenancy

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	phoneKeySize   = 32
	pseudonymBytes = 16 // 22 characters; two of a billion people meet with a chance of 1e-21
	maxRawPhone    = 64 // bytes kept of what a tenant with raw phones sends
)

// Phone is how a person's phone number is kept: as a pseudonym of 22 characters, or as it was sent where the tenant
// turned that on. Nothing in, nothing out.
//
// The pseudonym is HMAC-SHA-256 over the number in E.164 ("+5511987654321"), under a key of the tenant's own. A plain
// hash would not do: all Brazilian mobile numbers can be tried in seconds. Two tenants cannot join their people, and
// when the key is destroyed nobody can.
func (p *Principal) Phone(raw []byte) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return ""
	}
	if p.rawPhones {
		return printable(raw)
	}
	if p.phoneKey.IsZero() { // not of a store; rather nothing than what anybody can compute
		return ""
	}
	var buf [16]byte
	message, ok := e164(buf[:0], raw)
	if !ok {
		message = raw // not a number (a user name, an id): the same text is still the same person
	}
	mac := hmacSHA256(p.phoneKey.Reveal(), message)
	var text [22]byte
	base64.RawURLEncoding.Encode(text[:], mac[:pseudonymBytes])
	return string(text[:])
}

// hmacSHA256 is RFC 2104 on the stack: crypto/hmac allocates five times, and this is on the way of every WhatsApp call.
// phone_test.go holds it to crypto/hmac.
func hmacSHA256(key string, message []byte) [32]byte {
	var inner [sha256.BlockSize + 64]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	for i := range sha256.BlockSize {
		k := byte(0)
		if i < len(key) {
			k = key[i]
		}
		inner[i], outer[i] = k^0x36, k^0x5c
	}
	digest := sha256.Sum256(append(inner[:sha256.BlockSize], message...))
	copy(outer[sha256.BlockSize:], digest[:])
	return sha256.Sum256(outer[:])
}

// e164 appends "+" and the digits of a number, country first. It knows the ways a number reaches us from WhatsApp and
// from Brazilian forms:
//
//	+55 11 98765-4321, 005511987654321, whatsapp:+5511987654321, tel:+55-11-98765-4321
//	5511987654321@s.whatsapp.net, 5511987654321:12@s.whatsapp.net (a device), …@c.us
//	11 98765-4321, (011) 98765-4321                     a Brazilian number without its country
//	551187654321                                        a Brazilian mobile without its ninth digit, as WhatsApp has it
//
// ok is false for what is not a number.
func e164(to, raw []byte) (number []byte, ok bool) {
	raw = bytes.TrimPrefix(raw, []byte("whatsapp:"))
	raw = bytes.TrimPrefix(raw, []byte("tel:"))
	if user, host, found := bytes.Cut(raw, []byte("@")); found {
		if string(host) != "s.whatsapp.net" && string(host) != "c.us" {
			return nil, false
		}
		raw, _, _ = bytes.Cut(user, []byte(":"))
	}
	to = append(to, '+')
	international := false
	for i, c := range raw {
		switch {
		case c >= '0' && c <= '9':
			if len(to) == cap(to) { // E.164 has at most 15 digits; "00" and "0" before them are dropped as they come
				return nil, false
			}
			to = append(to, c)
		case c == '+' && i == 0:
			international = true
		case c != ' ' && c != '-' && c != '.' && c != '(' && c != ')' && c != '/':
			return nil, false
		}
		if !international && string(to) == "+00" {
			to, international = to[:1], true
		}
	}
	if !international {
		to = withCountry(to)
	}
	if len(to) < 6 || to[1] == '0' {
		return nil, false
	}
	return withNinthDigit(to), true
}

// withCountry puts 55 before a number that can only be a Brazilian one: an area code (11 to 99, no zero in it) and a
// mobile number of 9 digits from 9 on, or 8 digits from 2 on; with or without the 0 of a long-distance call.
func withCountry(number []byte) []byte {
	digits := number[1:]
	if len(digits) > 0 && digits[0] == '0' {
		digits = digits[1:]
	}
	if len(digits) != 10 && len(digits) != 11 || digits[0] == '0' || digits[1] == '0' {
		return number
	}
	if len(digits) == 11 && digits[2] != '9' || len(digits) == 10 && digits[2] < '2' {
		return number
	}
	if cap(number) < len("+55")+len(digits) {
		return number
	}
	whole := number[:len("+55")+len(digits)]
	copy(whole[3:], digits)
	copy(whole, "+55")
	return whole
}

// withNinthDigit gives a Brazilian mobile number of the old length the 9 that all of them have now.
func withNinthDigit(number []byte) []byte {
	if len(number) != len("+551187654321") || string(number[:3]) != "+55" || number[5] < '6' || cap(number) == len(number) {
		return number
	}
	number = number[:len(number)+1]
	copy(number[6:], number[5:])
	number[5] = '9'
	return number
}

// printable keeps raw text fit for a text column: valid UTF-8, no control characters, and not long.
func printable(raw []byte) string {
	text := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return -1
		}
		return r
	}, string(raw))
	if len(text) > maxRawPhone {
		text = strings.ToValidUTF8(text[:maxRawPhone], "")
	}
	return text
}
