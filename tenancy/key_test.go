package tenancy_test

import (
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	. "github.com/catraca/catraca/tenancy"
)

func TestNewSecret(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^ck_[0-9A-Za-z]{49}$`)
	seen := map[string]bool{}
	for range 1000 {
		secret, digest, prefix := NewSecret()
		if !form.MatchString(secret) || seen[secret] {
			t.Fatalf("secret %q", secret)
		}
		seen[secret] = true
		if prefix != secret[:9] {
			t.Errorf("prefix %q of %q", prefix, secret)
		}
		if digest != sha256.Sum256([]byte(secret)) {
			t.Error("the digest is not SHA-256 of the secret")
		}
		if got, ok := Digest([]byte(secret)); !ok || got != digest {
			t.Errorf("%q is not taken for a key", secret)
		}
	}
}

// TestChecksumFindsMistakes changes each character to each other, and swaps neighbours.
func TestChecksumFindsMistakes(t *testing.T) {
	t.Parallel()
	secret, _, _ := NewSecret()
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_- \x00\xff"
	for i := range secret {
		for _, c := range []byte(alphabet) {
			bad := []byte(secret)
			bad[i] = c
			if _, ok := Digest(bad); ok && string(bad) != secret {
				t.Errorf("%q passes for %q", bad, secret)
			}
		}
		if i > 0 {
			bad := []byte(secret)
			bad[i-1], bad[i] = bad[i], bad[i-1]
			if _, ok := Digest(bad); ok && string(bad) != secret {
				t.Errorf("%q passes for %q", bad, secret)
			}
		}
		if _, ok := Digest([]byte(secret[:i])); ok {
			t.Errorf("%q passes for a whole key", secret[:i])
		}
	}
}

func TestDigestAllocatesNothing(t *testing.T) {
	secret, _, _ := NewSecret()
	good, bad := []byte(secret), []byte(strings.Repeat("x", len(secret)))
	if n := testing.AllocsPerRun(100, func() { Digest(good); Digest(bad) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDigest(f *testing.F) {
	secret, _, _ := NewSecret()
	f.Add([]byte(secret))
	f.Add([]byte("ck_"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, ok := Digest(b)
		if ok && (d != sha256.Sum256(b) || len(b) != len(secret)) || !ok && d != [32]byte{} {
			t.Errorf("%q: %x, %v", b, d, ok)
		}
	})
}
