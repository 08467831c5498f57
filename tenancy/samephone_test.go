package tenancy

import "testing"

func TestSamePhone(t *testing.T) {
	t.Parallel()
	for _, same := range [][2]string{
		{"+5511987654321", "5511987654321@s.whatsapp.net"},
		{"(011) 98765-4321", "whatsapp:+5511987654321"},
		{"551187654321", "+55 11 98765-4321"}, // WhatsApp's spelling, without the ninth digit
		{"maria", "maria"},
		{"", ""},
	} {
		if !SamePhone(same[0], same[1]) || !SamePhone(same[1], same[0]) {
			t.Errorf("%q and %q are told apart", same[0], same[1])
		}
	}
	for _, other := range [][2]string{
		{"+5511987654321", "+5511987654322"},
		{"+5511987654321", "+15511987654321"},
		{"+5511987654321", ""},
		{"maria", "Maria"},
		{"+5511987654321", "maria"},
	} {
		if SamePhone(other[0], other[1]) {
			t.Errorf("%q and %q are taken for one", other[0], other[1])
		}
	}
}
