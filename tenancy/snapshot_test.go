package tenancy_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	. "github.com/catraca/catraca/tenancy"
)

func principals(t *testing.T) []*Principal {
	t.Helper()
	id := uuid.New()
	var list []*Principal
	for _, c := range []struct {
		tenant Tenant
		key    Key
	}{
		{Tenant{ID: id, TimeZone: "UTC"}, Key{}},
		{Tenant{ID: id, Name: "Pão & Cia", TimeZone: "America/Sao_Paulo", UseGateway: true}, Key{ID: uuid.New()}},
		{Tenant{ID: id, TimeZone: "America/Manaus", Paused: true, PausedReason: "não pagou", AllowedModels: []string{"a", "b/c"}, DefaultModel: "a", UnknownModels: MeterUnknown, RawPhones: true, OnClientGone: ReadOnGone}, Key{ID: uuid.New(), ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)}},
		{Tenant{ID: id, TimeZone: "UTC", UnknownModels: RefuseUnknown}, Key{ID: uuid.New(), ExpiresAt: time.Unix(-5, 999_999_999).UTC()}},
	} {
		p, err := NewPrincipal(c.tenant, c.key, bytes.Repeat([]byte{9}, 32))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

func TestPrincipalsComeAcross(t *testing.T) {
	var d Decoder
	for _, p := range principals(t) {
		encoded := p.Append(nil)
		got, err := d.Principal(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if got.TimeZone.String() != p.TimeZone.String() {
			t.Errorf("zone %s, want %s", got.TimeZone, p.TimeZone)
		}
		got.TimeZone = p.TimeZone
		if !reflect.DeepEqual(got, p) {
			t.Errorf("got %+v, want %+v", got, p)
		}
		// A field that only a later release knows.
		if later, err := d.Principal(append([]byte{200, 3, 'n', 'e', 'w'}, encoded...)); err != nil || later.ClientID != p.ClientID {
			t.Errorf("a field of a later release: %v", err)
		}
		for n := range encoded { // nothing that is cut or altered may panic, or lose who it is
			if cut, err := d.Principal(encoded[:n]); err == nil && cut.ClientID != p.ClientID {
				t.Errorf("cut at %d", n)
			}
			altered := bytes.Clone(encoded)
			altered[n] ^= 0xff
			_, _ = d.Principal(altered)
		}
	}
}

func FuzzDecodePrincipal(f *testing.F) {
	f.Add([]byte{1, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 4, 1, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decoder
		p, err := d.Principal(b)
		if err != nil {
			return
		}
		again, err := d.Principal(p.Append(nil))
		if err != nil || again.ClientID != p.ClientID || again.Name != p.Name || !again.ExpiresAt.Equal(p.ExpiresAt) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

// What a journal and a dump lead to is what the keyring knew: entries, what has changed since, and the version.
func TestAKeyringRemembers(t *testing.T) {
	store := newFake()
	var journal [][]byte
	k := NewKeyring(store, KeyringOptions{Journal: func(r []byte) { journal = append(journal, bytes.Clone(r)) }})
	var secrets []string
	for range 3 {
		p, secret := store.add(time.Time{})
		q, err := NewPrincipal(Tenant{ID: p.ClientID, TimeZone: "UTC"}, Key{ID: p.KeyID}, bytes.Repeat([]byte{9}, 32))
		if err != nil {
			t.Fatal(err)
		}
		digest, _ := Digest([]byte(secret))
		store.set(digest, q)
		if _, err := k.Key(t.Context(), []byte(secret)); err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, secret)
	}
	first, err := k.Key(t.Context(), []byte(secrets[0]))
	if err != nil {
		t.Fatal(err)
	}
	k.Invalidate(first.ClientID)
	var dumped [][]byte
	k.Dump(func(r []byte) { dumped = append(dumped, bytes.Clone(r)) })
	for name, records := range map[string][][]byte{"journal": journal, "dump": dumped} {
		again := NewKeyring(newFake(), KeyringOptions{})
		for _, r := range records {
			if err := again.Recall(r); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if s := again.Stats(); s.Keys != 3 || s.Outdated != 1 {
			t.Errorf("%s: %+v", name, s)
		}
		if p, err := again.Key(t.Context(), []byte(secrets[1])); err != nil || p.ClientID == uuid.Nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range [][]byte{nil, {}, []byte("k"), []byte("v123"), []byte("o12"), []byte("x"), append([]byte("k"), make([]byte, 40)...)} {
		if err := k.Recall(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
