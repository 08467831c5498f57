package tenancy

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"
)

// A key's secret is "ck_", 32 random bytes as 43 characters of base 62, and 6 characters of checksum over all before.
// The checksum tells a key from what never was one (a truncated copy, another service's key) without asking the store.
// It guards nothing: anybody can compute it.
const (
	keyMark       = "ck_"
	randomChars   = 43 // 62^43 > 2^256
	checksumChars = 6  // 62^6 > 2^32
	secretChars   = len(keyMark) + randomChars + checksumChars
	prefixChars   = len(keyMark) + 6
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// crcTable is only read. CRC-32C is what processors have an instruction for.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// NewSecret makes a key's secret, which is shown once, with what is kept of it: the digest, and a prefix to tell keys
// apart by.
func NewSecret() (secret string, digest [32]byte, prefix string) {
	var random [32]byte
	rand.Read(random[:]) // never fails: it ends the process rather than give less
	b := make([]byte, secretChars)
	copy(b, keyMark)
	encode62(b[len(keyMark):secretChars-checksumChars], random[:])
	checksum(b[secretChars-checksumChars:], b[:secretChars-checksumChars])
	return string(b), sha256.Sum256(b), string(b[:prefixChars])
}

// Digest is what a secret is known by. ok is false when it cannot be one of ours.
//
// SHA-256 without salt or stretching is enough here: a secret is 256 random bits, so that there is nothing to guess.
func Digest(secret []byte) (digest [32]byte, ok bool) {
	if len(secret) != secretChars || string(secret[:len(keyMark)]) != keyMark {
		return digest, false
	}
	var sum [checksumChars]byte
	checksum(sum[:], secret[:secretChars-checksumChars])
	if string(sum[:]) != string(secret[secretChars-checksumChars:]) {
		return digest, false
	}
	return sha256.Sum256(secret), true
}

// checksum writes a CRC of what goes before, most significant character first.
func checksum(to, over []byte) {
	sum := crc32.Checksum(over, crcTable)
	for i := len(to) - 1; i >= 0; i-- {
		to[i] = base62[sum%62]
		sum /= 62
	}
}

// encode62 writes a big-endian number in base 62, filled with zeros on the left. It eats the number.
func encode62(to, number []byte) {
	for i := len(to) - 1; i >= 0; i-- {
		remainder := 0
		for j, b := range number {
			n := remainder<<8 | int(b)
			number[j], remainder = byte(n/62), n%62
		}
		to[i] = base62[remainder]
	}
}

// validPrefix says whether a key's prefix is one that NewSecret gives.
func validPrefix(prefix string) bool {
	return len(prefix) == prefixChars && strings.HasPrefix(prefix, keyMark) &&
		strings.Trim(prefix[len(keyMark):], base62) == ""
}
