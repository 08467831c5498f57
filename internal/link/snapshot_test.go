package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

func fixed(secrets ...string) func() [][]byte {
	return func() (list [][]byte) {
		for _, s := range secrets {
			list = append(list, []byte(s))
		}
		return list
	}
}

// learn lets a proxy serve some tenants and stop; what it knew is on disk then.
func learn(t *testing.T, w *world, path string, keys int) {
	t.Helper()
	_, _, address := control(t, w, goodToken)
	k, f := keyring(t, NewClient(address, goodToken, nil), NewSnapshot(path, fixed("secret"), nil))
	stopKeys, stopFollower := background(t, k.Run), background(t, func(ctx context.Context) error { return f.Run(ctx, k) })
	eventually(t, 3*time.Second, "there are settings", func() bool { return f.settings.Load() != nil && k.Version() > 0 })
	for i := range keys {
		if _, err := k.PrincipalByKey(t.Context(), digestOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	stopKeys()
	stopFollower()
}

// nobody is a control plane that is away.
func nobody() Control { return NewClient("http://127.0.0.1:9", goodToken, nil) }

func TestARestartKnowsWhatWasServed(t *testing.T) {
	w := newWorld()
	for i := range 50 {
		w.set(t, uuid.New(), digestOf(i), fmt.Sprint("tenant ", i), "America/Sao_Paulo")
	}
	path := filepath.Join(t.TempDir(), "last-good")
	learn(t, w, path, 40)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{[]byte("tenant 1"), bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{1}, 32)} {
		if bytes.Contains(content, secret) {
			t.Errorf("the file holds %q in the clear", secret)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("the file may be read by %s", info.Mode())
	}
	k, f := keyring(t, nobody(), NewSnapshot(path, fixed("newer", "secret"), nil))
	if s := k.Stats(); s.Keys != 40 || s.Outdated != 0 || k.Version() != 51 {
		t.Errorf("%+v at version %d", s, k.Version())
	}
	p, err := k.PrincipalByKey(t.Context(), digestOf(7))
	if err != nil || p.Name != "tenant 7" || p.Phone([]byte("+5511987654321")) != w.keys[digestOf(7)].Phone([]byte("+5511987654321")) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := k.PrincipalByKey(t.Context(), digestOf(45)); !errors.Is(err, tenancy.ErrUnavailable) {
		t.Errorf("what was never served: %v", err)
	}
	if f.Rate() != w.rate || len(f.SigningKeys()) != 1 {
		t.Errorf("settings: %v, %d keys", f.Rate(), len(f.SigningKeys()))
	}
	select {
	case <-f.Known():
	default:
		t.Error("settings are there and not known")
	}
}

func TestAnotherSecretOpensNothing(t *testing.T) {
	w := newWorld()
	w.set(t, uuid.New(), digestOf(0), "a", "UTC")
	path := filepath.Join(t.TempDir(), "last-good")
	learn(t, w, path, 1)
	s := NewSnapshot(path, fixed("another"), nil)
	n, err := s.Load(func([]byte) error { t.Error("a record"); return nil })
	if n != 0 || !errors.Is(err, ErrSealed) {
		t.Errorf("%d, %v", n, err)
	}
	// It goes on with its own, and the one of the mistyped token is not lost.
	stop := background(t, func(ctx context.Context) error { return s.Run(ctx, func(emit func([]byte)) { emit([]byte("mine")) }) })
	stop()
	if _, err := NewSnapshot(path+".unreadable", fixed("secret"), nil).Load(func([]byte) error { return nil }); err != nil {
		t.Errorf("the old one is gone: %v", err)
	}
	var got []string
	if _, err := NewSnapshot(path, fixed("another"), nil).Load(func(r []byte) error { got = append(got, string(r)); return nil }); err != nil || len(got) != 1 || got[0] != "mine" {
		t.Errorf("%q, %v", got, err)
	}
}

// Whatever is cut off or altered, what is read is a beginning of what was written, and nothing else.
func TestDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "last-good")
	s := NewSnapshot(path, fixed("secret"), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx, func(emit func([]byte)) { emit([]byte("first")) }) }()
	eventually(t, 5*time.Second, "it was written", func() bool { return s.Stats().Bytes > 0 })
	for i := range 3 {
		s.Keep(fmt.Appendf(nil, "then %d", i))
		before := s.Stats().Bytes
		eventually(t, 5*time.Second, "it was appended", func() bool { return s.Stats().Bytes > before })
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"first", "then 0", "then 1", "then 2"}
	read := func(content []byte) (got []string) {
		copied := filepath.Join(dir, "copy")
		if err := os.WriteFile(copied, content, 0o600); err != nil {
			t.Fatal(err)
		}
		r := NewSnapshot(copied, fixed("secret"), nil)
		_, _ = r.Load(func(b []byte) error { got = append(got, string(b)); return nil })
		if r.file != nil {
			_ = r.file.Close()
		}
		return got
	}
	if got := read(whole); len(got) != 4 {
		t.Fatalf("the whole file: %q", got)
	}
	beginning := func(got []string) bool {
		for i := range got {
			if i >= len(want) || got[i] != want[i] {
				return false
			}
		}
		return true
	}
	for n := range whole {
		if got := read(whole[:n]); !beginning(got) || len(got) == 4 {
			t.Fatalf("cut at %d: %q", n, got)
		}
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x10
		if got := read(flipped); !beginning(got) || len(got) == 4 {
			t.Fatalf("byte %d altered: %q", n, got)
		}
	}
}

// What is appended is written anew once half of it is of no more use, and a disk that takes nothing costs no memory.
func TestTheFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "last-good")
	s := NewSnapshot(path, fixed("secret"), nil)
	dump := func(emit func([]byte)) { emit([]byte("all")) }
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	if err := s.flush(dump); err != nil {
		t.Fatal(err)
	}
	record := make([]byte, 1<<20)
	for range 20 {
		s.Keep(record)
		if err := s.flush(dump); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Bytes > 2*rewriteFrom || st.Rewrites < 3 {
		t.Errorf("%+v", st)
	}
	s.path = filepath.Join(path, "cannot be") // a file is no directory
	for range 20 {
		s.Keep(record)
	}
	if len(s.pending) > keptMost {
		t.Errorf("%d bytes wait", len(s.pending))
	}
	if err := s.flush(dump); err == nil {
		t.Error("it was written where nothing can be")
	}
	s.path = path
	if err := s.flush(dump); err != nil {
		t.Fatal(err)
	}
	n := 0
	if _, err := NewSnapshot(path, fixed("secret"), nil).Load(func([]byte) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d records, %v", n, err)
	}
}
