package tenancy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	. "github.com/catraca/catraca/tenancy"
)

// switching is a store that can be exchanged while it is used.
type switching struct {
	Store
	now atomic.Pointer[Store]
}

func (s *switching) swap(to Store) { s.now.Store(&to) }

func (s *switching) current() Store {
	if p := s.now.Load(); p != nil {
		return *p
	}
	return s.Store
}

func (s *switching) PrincipalByKey(ctx context.Context, d [32]byte) (*Principal, error) {
	return s.current().PrincipalByKey(ctx, d)
}

func (s *switching) PrincipalByClient(ctx context.Context, id uuid.UUID) (*Principal, error) {
	return s.current().PrincipalByClient(ctx, id)
}

// fake is a store in memory that counts what is asked of it. Only what a keyring needs is there.
type fake struct {
	Store
	mu      sync.Mutex
	keys    map[[32]byte]*Principal
	clients map[uuid.UUID]*Principal
	feed    []Change
	err     error
	delay   time.Duration
	lose    bool // say once that changes were lost
	loads   int
	running int
	peak    int
	touched map[uuid.UUID]int
	onLoad  func() // called after a load has its result, before it gives it
}

func newFake() *fake {
	return &fake{keys: map[[32]byte]*Principal{}, clients: map[uuid.UUID]*Principal{}, feed: []Change{{Version: 1}}, touched: map[uuid.UUID]int{}}
}

// add makes a tenant with a key.
func (f *fake) add(expires time.Time) (p *Principal, secret string) {
	secret, digest, _ := NewSecret()
	p = &Principal{ClientID: uuid.New(), KeyID: uuid.New(), ExpiresAt: expires}
	f.set(digest, p)
	return p, secret
}

func (f *fake) set(digest [32]byte, p *Principal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[digest], f.clients[p.ClientID] = p, p
	f.feed = append(f.feed, Change{Version: int64(len(f.feed) + 1), ClientID: p.ClientID})
}

func (f *fake) revoke(t testing.TB, secret string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := digestOf(t, secret)
	f.feed = append(f.feed, Change{Version: int64(len(f.feed) + 1), ClientID: f.keys[d].ClientID})
	delete(f.keys, d)
}

func (f *fake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loads
}

func (f *fake) load(find func() *Principal) (*Principal, error) {
	f.mu.Lock()
	f.loads++
	f.running++
	f.peak = max(f.peak, f.running)
	p, err, delay, onLoad := find(), f.err, f.delay, f.onLoad
	f.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	if onLoad != nil {
		onLoad()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	if err != nil {
		return nil, err
	}
	if p == nil || p.Expired(time.Now()) {
		return nil, ErrNotFound
	}
	return p, nil
}

func (f *fake) PrincipalByKey(_ context.Context, d [32]byte) (*Principal, error) {
	return f.load(func() *Principal { return f.keys[d] })
}

func (f *fake) PrincipalByClient(_ context.Context, id uuid.UUID) (*Principal, error) {
	return f.load(func() *Principal { return f.clients[id] })
}

func (f *fake) Changes(_ context.Context, after int64) ([]Change, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, after, f.err
	}
	if f.lose && after > 0 {
		f.lose = false
		return nil, after, ErrChangesLost
	}
	newest := int64(len(f.feed))
	if after == 0 {
		return nil, newest, nil
	}
	return slices.Clone(f.feed[after:]), newest, nil
}

func (f *fake) TouchKeys(_ context.Context, ids []uuid.UUID, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.touched[id]++
	}
	return f.err
}

// running has a keyring follow a fake store, in time that a test moves.
func running(t *testing.T, opts KeyringOptions, test func(t *testing.T, f *fake, k *Keyring), prepare ...func(*Keyring)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := NewKeyring(f, opts)
		for _, p := range prepare {
			p(k)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		test(t, f, k)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func ask(k *Keyring, secret string) error {
	_, err := k.Key(context.Background(), []byte(secret))
	return err
}

func TestKeyringLoadsOnce(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		time.Sleep(time.Second) // the change is seen before the key is
		f.delay = 100 * time.Millisecond
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got, err := k.Key(context.Background(), []byte(secret)); got != p {
					t.Error(got, err)
				}
			})
		}
		wg.Wait()
		for range 100 {
			if err := ask(k, secret); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.count(); n != 1 {
			t.Errorf("the store was read %d times for one key", n)
		}
		id := []byte(p.ClientID.String())
		if got, err := k.Client(context.Background(), id); got != p {
			t.Error(got, err)
		}
		if got, err := k.Client(context.Background(), bytes.ToUpper(id)); got != p {
			t.Error(got, err)
		}
	})
}

func TestKeyringRefusesWithoutTheStore(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		_, secret := f.add(time.Time{})
		for _, bad := range []string{
			"", "ck_", secret[:len(secret)-1], secret + "x", secret[1:], strings.ToUpper(secret), "sk-proj-abc", strings.Repeat("a", 52),
			secret[:10] + "!" + secret[11:], strings.Repeat("x", 1<<16), "ck_" + secret[3:40] + secret[3:15], " " + secret[:51],
		} {
			if err := ask(k, bad); err != ErrInvalidKey {
				t.Errorf("%.60q: %v", bad, err)
			}
		}
		id := uuid.NewString()
		for _, bad := range []string{
			"", uuid.Nil.String(), id[:35], id + "0", "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), "x" + id[1:],
			strings.ReplaceAll(id, "-", "_"), id + "," + id, " " + id[:35],
		} {
			if _, err := k.Client(context.Background(), []byte(bad)); err != ErrInvalidKey {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if n := f.count(); n != 0 {
			t.Errorf("the store was read %d times for what cannot be", n)
		}
	})
}

// TestOneWayForAllInvalidKeys: unknown, revoked and expired keys cost the store the same, the first time and later.
func TestOneWayForAllInvalidKeys(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		_, revoked := f.add(time.Time{})
		_, expired := f.add(time.Now().Add(10 * time.Second))
		unknown, _, _ := NewSecret()
		time.Sleep(time.Second)
		for _, good := range []string{revoked, expired} {
			if err := ask(k, good); err != nil {
				t.Fatal(err)
			}
		}
		f.revoke(t, revoked)
		time.Sleep(10 * time.Second)
		// The revoked key's entry was read again when the change came, which a caller does not see.
		for name, secret := range map[string]string{"expired": expired, "unknown": unknown} {
			for i, want := range []int{1, 0, 0} {
				before := f.count()
				if err := ask(k, secret); err != ErrInvalidKey {
					t.Errorf("%s, time %d: %v", name, i, err)
				}
				if n := f.count() - before; n != want {
					t.Errorf("%s, time %d: %d reads, want %d", name, i, n, want)
				}
			}
		}
		if err := ask(k, revoked); err != ErrInvalidKey {
			t.Error(err)
		}
	})
}

func TestKeyringChangeIsInUseWithinTwoSeconds(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		other, _ := f.add(time.Time{})
		digest := digestOf(t, secret)
		if err := ask(k, secret); err != nil {
			t.Fatal(err)
		}
		paused := *p
		paused.Paused = true
		f.set(digest, &paused)
		time.Sleep(time.Second)
		if got, _ := k.Key(context.Background(), []byte(secret)); got != &paused {
			t.Errorf("after a second: %+v", got)
		}
		loads := f.count()
		f.set([32]byte{1}, other) // another tenant's change
		time.Sleep(time.Second)
		if err := ask(k, secret); err != nil || f.count() != loads {
			t.Errorf("another tenant's change read this one again (%d reads), %v", f.count()-loads, err)
		}
		f.revoke(t, secret)
		time.Sleep(time.Second)
		if err := ask(k, secret); err != ErrInvalidKey {
			t.Errorf("a second after revocation: %v", err)
		}
		if s := k.Stats(); s.Keys != 0 || s.Outdated != 0 {
			t.Errorf("left over: %+v", s)
		}
		again := *p
		f.set(digest, &again) // as a key that is made after it was tried
		time.Sleep(time.Second)
		if err := ask(k, secret); err != nil {
			t.Errorf("a second after it was made: %v", err)
		}
	})
}

func TestInvalidateIsAtOnce(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		if err := ask(k, secret); err != nil {
			t.Fatal(err)
		}
		f.revoke(t, secret)
		k.Invalidate(p.ClientID)
		if err := ask(k, secret); err != ErrInvalidKey {
			t.Error(err)
		}
	})
}

// TestChangeDuringLoad has a key revoked between the moment the store read it and the moment the keyring gets it.
func TestChangeDuringLoad(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		time.Sleep(time.Second)
		var once sync.Once
		f.onLoad = func() {
			once.Do(func() {
				f.revoke(t, secret)
				k.Invalidate(p.ClientID)
			})
		}
		if err := ask(k, secret); err != ErrInvalidKey {
			t.Errorf("the stale read was used: %v", err)
		}

		// The other way round: made while the store was saying that there is none.
		made, digest, _ := NewSecret()
		var again sync.Once
		f.onLoad = func() {
			again.Do(func() {
				f.set(digest, p)
				k.Invalidate(p.ClientID)
			})
		}
		if err := ask(k, made); err != nil {
			t.Errorf("the stale miss was used: %v", err)
		}
	})
}

// TestChangesWithoutEnd never lets a read come to rest. It must end all the same, and not be believed for long.
func TestChangesWithoutEnd(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		f.onLoad = func() { k.Invalidate(uuid.New()) }
		if got, err := k.Key(context.Background(), []byte(secret)); got != p {
			t.Fatal(got, err)
		}
		if s := k.Stats(); s.Outdated != 1 {
			t.Errorf("it is taken as sure: %+v", s)
		}
		f.mu.Lock()
		f.onLoad = nil
		f.mu.Unlock()
		time.Sleep(time.Second)
		if s := k.Stats(); s.Outdated != 0 || s.Keys != 1 {
			t.Errorf("it was not read again: %+v", s)
		}
	})
}

func TestKeyringWithStoreDown(t *testing.T) {
	var log bytes.Buffer
	running(t, KeyringOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, f *fake, k *Keyring) {
		known, secret := f.add(time.Time{})
		_, dying := f.add(time.Now().Add(time.Minute))
		_, late := f.add(time.Time{})
		unknown, _, _ := NewSecret()
		time.Sleep(time.Second)
		for _, s := range []string{secret, dying} {
			if err := ask(k, s); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(k, unknown); err != ErrInvalidKey {
			t.Fatal(err)
		}
		f.fail(errors.New("connection refused"))
		time.Sleep(10 * time.Second)
		k.Invalidate(known.ClientID) // changed, but how cannot be known
		for range 3 {
			if got, err := k.Key(context.Background(), []byte(secret)); got != known {
				t.Errorf("a known key: %v", err)
			}
		}
		if err := ask(k, unknown); !errors.Is(err, ErrUnavailable) { // remembered until Invalidate cleared it
			t.Errorf("an unknown key: %v", err)
		}
		if err := ask(k, late); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalidKey) {
			t.Errorf("a key not seen before: %v", err)
		}
		loads := f.count()
		for range 1000 {
			ask(k, late)
		}
		if n := f.count() - loads; n > 1 {
			t.Errorf("a store that is down was asked %d times in a moment", n)
		}
		time.Sleep(time.Minute)
		if err := ask(k, dying); err == nil || errors.Is(err, ErrInvalidKey) {
			t.Errorf("a key past its time, store down: %v", err)
		}
		f.fail(nil)
		time.Sleep(2 * time.Second)
		if err := ask(k, late); err != nil {
			t.Errorf("after the store is back: %v", err)
		}
		if err := ask(k, dying); err != ErrInvalidKey {
			t.Errorf("the expired key after the store is back: %v", err)
		}
		if s := k.Stats(); s.Outdated != 0 {
			t.Errorf("not read again: %+v", s)
		}
	})
	t.Cleanup(func() {
		if n := strings.Count(log.String(), "level="); n != 2 {
			t.Errorf("an outage is %d lines in the log, want one at its begin and one at its end:\n%s", n, log.String())
		}
	})
}

func TestLostChangesReadEverythingAgain(t *testing.T) {
	var globals atomic.Int64
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		if err := ask(k, secret); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		changed := *p
		f.keys[digestOf(t, secret)], f.lose = &changed, true // without a line in the feed
		f.mu.Unlock()
		time.Sleep(2 * time.Second)
		if got, _ := k.Key(context.Background(), []byte(secret)); got != &changed {
			t.Error("the change that was lost is not in use")
		}
		if n := globals.Load(); n != 2 {
			t.Errorf("models and prices were read %d times, want once in the beginning and once now", n)
		}
		f.mu.Lock()
		f.feed = append(f.feed, Change{Version: int64(len(f.feed) + 1)}, Change{Version: int64(len(f.feed) + 2)})
		f.mu.Unlock()
		time.Sleep(time.Second)
		if n := globals.Load(); n != 3 {
			t.Errorf("after a global change: %d calls", n)
		}
	}, func(k *Keyring) { k.OnGlobalChange(func() { globals.Add(1) }) })
}

func TestStormOfUnknownKeys(t *testing.T) {
	running(t, KeyringOptions{MaxUnknown: 100, MaxLoads: 4}, func(t *testing.T, f *fake, k *Keyring) {
		f.delay = time.Millisecond
		var wg sync.WaitGroup
		for range 500 {
			secret, _, _ := NewSecret()
			wg.Go(func() {
				if err := ask(k, secret); err != ErrInvalidKey {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if f.peak > 4 {
			t.Errorf("%d reads ran at once", f.peak)
		}
		if s := k.Stats(); s.Unknown > 100 || s.Unknown == 0 || s.Keys != 0 {
			t.Errorf("kept: %+v", s)
		}
		one, _, _ := NewSecret()
		ask(k, one)
		loads := f.count()
		ask(k, one)
		if f.count() != loads {
			t.Error("an unknown key was not remembered")
		}
		time.Sleep(time.Minute)
		ask(k, one)
		if f.count() != loads+1 {
			t.Error("an unknown key was remembered for more than a minute")
		}
		f.mu.Lock()
		f.delay = 10 * time.Second // a store that hangs
		f.mu.Unlock()
		over := 0
		for range 6000 {
			secret, _, _ := NewSecret()
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if _, err := k.Key(ctx, []byte(secret)); errors.Is(err, ErrUnavailable) {
					f.mu.Lock()
					over++
					f.mu.Unlock()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if over == 0 {
			t.Error("any number may wait for a store that hangs")
		}
		time.Sleep(time.Minute)
	})
}

func TestLastUsedIsWrittenInBatches(t *testing.T) {
	running(t, KeyringOptions{}, func(t *testing.T, f *fake, k *Keyring) {
		p, secret := f.add(time.Time{})
		idle, _ := f.add(time.Time{})
		for range 1000 {
			if err := ask(k, secret); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if n := f.touched[p.KeyID]; n != 1 || f.touched[idle.KeyID] != 0 {
			t.Errorf("1000 uses in 100 s were written %d times, an idle key %d times", n, f.touched[idle.KeyID])
		}
	})
}

func TestLastUsedIsWrittenInTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := NewKeyring(f, KeyringOptions{})
		p, secret := f.add(time.Time{})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		if err := ask(k, secret); err != nil {
			t.Fatal(err)
		}
		ask(k, secret)
		cancel()
		<-done
		if f.touched[p.KeyID] != 1 {
			t.Error("the last use before the end was not written")
		}
	})
}

// TestTimingTellsNothing compares medians of interleaved calls: what is unknown, was revoked and has expired must take
// the same time. The bound is wide, so that a busy machine does not fail it; a way of its own would be far beyond it.
func TestTimingTellsNothing(t *testing.T) {
	f := newFake()
	k := NewKeyring(f, KeyringOptions{UnknownFor: time.Hour})
	gone, revoked := f.add(time.Time{})
	_, expired := f.add(time.Now().Add(20 * time.Millisecond))
	unknown, _, _ := NewSecret()
	for _, s := range []string{revoked, expired} {
		if err := ask(k, s); err != nil {
			t.Fatal(err)
		}
	}
	f.revoke(t, revoked)
	k.Invalidate(gone.ClientID)
	time.Sleep(30 * time.Millisecond)
	secrets := [][]byte{[]byte(unknown), []byte(revoked), []byte(expired)}
	took := make([][]time.Duration, len(secrets))
	const rounds, calls = 2000, 20
	for range rounds {
		for i, s := range secrets {
			start := time.Now()
			for range calls {
				if _, err := k.Key(context.Background(), s); err != ErrInvalidKey {
					t.Fatal(err)
				}
			}
			took[i] = append(took[i], time.Since(start)/calls)
		}
	}
	var medians []time.Duration
	for _, d := range took {
		slices.Sort(d)
		medians = append(medians, d[len(d)/2])
	}
	t.Logf("unknown, revoked, expired: %v", medians)
	if slices.Max(medians) > slices.Min(medians)*3/2+50*time.Nanosecond {
		t.Errorf("an invalid key's kind can be told from its time: %v", medians)
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	f := newFake()
	k := NewKeyring(f, KeyringOptions{})
	p, secret := f.add(time.Now().Add(time.Hour))
	ctx, key, id := context.Background(), []byte(secret), []byte(p.ClientID.String())
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := k.Key(ctx, key); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Client(ctx, id); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	bad := []byte("ck_nonsense")
	if n := testing.AllocsPerRun(1000, func() { k.Key(ctx, bad) }); n != 0 {
		t.Errorf("%v allocations for garbage", n)
	}
}

func BenchmarkKey(b *testing.B) {
	f := newFake()
	k := NewKeyring(f, KeyringOptions{})
	secrets := make([][]byte, 1000)
	for i := range secrets {
		_, secret := f.add(time.Time{})
		secrets[i] = []byte(secret)
		if err := ask(k, secret); err != nil {
			b.Fatal(err)
		}
	}
	ctx := context.Background()
	b.Run("one tenant", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				k.Key(ctx, secrets[0])
			}
		})
	})
	b.Run("many tenants", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				k.Key(ctx, secrets[i%len(secrets)])
			}
		})
	})
	b.Run("unknown", func(b *testing.B) {
		secret, _, _ := NewSecret()
		key := []byte(secret)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				k.Key(ctx, key)
			}
		})
	})
}

// TestHundredThousandTenants tells what they weigh: all in memory, each with its name, phone key and three models.
func TestHundredThousandTenants(t *testing.T) {
	const tenants = 100_000
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	f := newMaking(t)
	k := NewKeyring(f, KeyringOptions{})
	secrets := make([][]byte, tenants)
	for i := range secrets {
		secret, _, _ := NewSecret()
		secrets[i] = []byte(secret)
	}
	before, start := heap(), time.Now()
	for _, s := range secrets {
		if _, err := k.Key(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
	took, after := time.Since(start), heap()
	if s := k.Stats(); s.Keys != tenants {
		t.Fatalf("held: %+v", s)
	}
	runtime.KeepAlive(secrets)
	t.Logf("%d tenants: %.1f MiB, %.0f bytes each; first use of all took %v", tenants, after-before, (after-before)*(1<<20)/tenants, took.Round(time.Millisecond))
	if after-before > 100 {
		t.Errorf("%d tenants take %.0f MiB, want at most 100", tenants, after-before)
	}
}

// making is a store that knows every key: each belongs to a tenant of its own.
type making struct {
	Store
	zone *time.Location
}

func newMaking(t *testing.T) *making {
	zone, err := time.LoadLocation(DefaultTimeZone)
	if err != nil {
		t.Fatal(err)
	}
	return &making{zone: zone}
}

func (m *making) PrincipalByKey(_ context.Context, d [32]byte) (*Principal, error) {
	p, err := NewPrincipal(Tenant{
		ID: uuid.UUID(d[:16]), Name: fmt.Sprintf("tenant %x", d[:4]), TimeZone: "UTC",
		AllowedModels: []string{"openai/gpt-5-mini", "groq/llama-3.3-70b", "google/gemini-2.5-flash"},
	}, Key{ID: uuid.UUID(d[16:])}, d[:])
	if err == nil {
		p.TimeZone = m.zone // as a store gives one zone to all who are in it
	}
	return p, err
}
