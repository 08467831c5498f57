package tenancy

import "bytes"

// SamePhone tells whether two texts are one person's phone: the same number, however each is written, or the same text
// where either is no number. It compares numbers as they are kept raw; a pseudonym is compared with Principal.Phone.
func SamePhone(a, b string) bool {
	var bufA, bufB [16]byte
	numberA, okA := e164(bufA[:0], bytes.TrimSpace([]byte(a)))
	numberB, okB := e164(bufB[:0], bytes.TrimSpace([]byte(b)))
	if okA && okB {
		return bytes.Equal(numberA, numberB)
	}
	return a == b
}
