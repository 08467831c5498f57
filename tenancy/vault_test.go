package tenancy_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	. "github.com/catraca/catraca/tenancy"
)

func TestVault(t *testing.T) {
	t.Parallel()
	first, second := NewMasterKey(), NewMasterKey()
	old, both, other := newVault(t, first), newVault(t, second, first), newVault(t, second)
	plain := []byte("segredo")
	sealed := old.Seal(plain, "t/1")
	if bytes.Contains(sealed, plain) || bytes.Equal(sealed, old.Seal(plain, "t/1")) {
		t.Error("sealing twice gives the same, or shows what is sealed")
	}
	for name, v := range map[string]*Vault{"the same key": old, "a list that holds it": both} {
		if got, err := v.Open(sealed, "t/1"); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("with %s: %q, %v", name, got, err)
		}
	}
	if !old.Current(sealed) || both.Current(sealed) || other.Current(sealed) || !both.Current(both.Seal(nil, "x")) {
		t.Error("Current does not tell the newest master key")
	}
	if _, err := other.Open(sealed, "t/1"); err == nil || !strings.Contains(err.Error(), "CATRACA_MASTER_KEY does not list") {
		t.Errorf("without its master key: %v", err)
	}
	if _, err := old.Open(sealed, "t/2"); err == nil || !strings.Contains(err.Error(), "another row") {
		t.Errorf("in another row: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := old.Open(bad, "t/1"); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
		if _, err := old.Open(sealed[:i], "t/1"); err == nil {
			t.Errorf("the first %d bytes open", i)
		}
	}
}

func TestParseMasterKeys(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte{0xfb, 0xff, 0x01, 0x02}, 8)
	forms := []string{
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)), base64.StdEncoding.EncodeToString(raw),
		base64.RawStdEncoding.EncodeToString(raw), base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	}
	sealed := newVault(t, forms[0]).Seal([]byte("x"), "r")
	for _, form := range forms {
		v, err := ParseMasterKeys(" " + form + "\n")
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		if _, err := v.Open(sealed, "r"); err != nil {
			t.Errorf("%s is another key: %v", form, err)
		}
	}
	good := NewMasterKey()
	for bad, says := range map[string]string{
		"":                     "empty",
		" , ":                  "empty",
		"change-me":            "key 1 of 1",
		good + "," + good[:40]: "key 2 of 2",
		good + "," + good:      "listed twice",
		base64.StdEncoding.EncodeToString(make([]byte, 32)): "all zeros",
		hex.EncodeToString(raw[:31]):                        "not 32 bytes",
		base64.StdEncoding.EncodeToString(append(raw, 1)):   "not 32 bytes",
	} {
		_, err := ParseMasterKeys(bad)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", bad, err)
		} else if len(bad) > 20 && strings.Contains(err.Error(), bad[:20]) {
			t.Errorf("the error repeats the key: %v", err)
		}
	}
}

// TestNothingPrintsSecrets puts marked secrets through every way of printing that Go has.
func TestNothingPrintsSecrets(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a91"
	masterKey := bytes.Repeat([]byte{0xc5}, 32)
	vault, err := ParseMasterKeys(hex.EncodeToString(masterKey))
	if err != nil {
		t.Fatal(err)
	}
	secret := NewSecretText(canary)
	type holder struct {
		Public  Secret
		private Secret
		Vault   *Vault
		vault   *Vault
		list    []Secret
	}
	h := holder{secret, secret, vault, vault, []Secret{secret}}
	var out strings.Builder
	for _, v := range []any{secret, &secret, h, &h, vault, *vault, []Secret{secret}, map[string]Secret{"a": secret}, error(&Invalid{"x", fmt.Sprint(secret)})} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		for _, log := range []*slog.Logger{slog.New(slog.NewJSONHandler(&out, nil)), slog.New(slog.NewTextHandler(&out, nil))} {
			log.Info("x", "v", v)
		}
	}
	text := strings.ToLower(out.String())
	for _, bad := range []string{canary, hex.EncodeToString([]byte(canary)), hex.EncodeToString(masterKey), "197, 197", "197 197", "0xc5"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("%q is printed: …%s…", bad, text[max(0, i-100):i+len(bad)])
		}
	}
	if secret.Reveal() != canary || !NewSecretText("").IsZero() || secret.IsZero() {
		t.Error("the secret is not kept")
	}
}
