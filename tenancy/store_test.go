package tenancy_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
	. "github.com/catraca/catraca/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// under is one kind of store under test: made anew for each test, and opened a second time as another process would.
type under struct {
	Store
	again func(vault *Vault) Store
	exec  func(statement string) // straight to the database, as the SaaS does
	query func(query string) string
}

func newVault(t testing.TB, keys ...string) *Vault {
	t.Helper()
	if len(keys) == 0 {
		keys = []string{NewMasterKey()}
	}
	v, err := ParseMasterKeys(strings.Join(keys, ","))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func onPostgres(t testing.TB, vault *Vault) under {
	t.Helper()
	url := testenv.Migrated(t)
	pool := openPool(t, url)
	return under{
		Store: NewPostgres(pool, vault),
		again: func(vault *Vault) Store { return NewPostgres(openPool(t, url), vault) },
		exec: func(statement string) {
			t.Helper()
			if _, err := pool.Exec(context.Background(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		},
		query: func(query string) (text string) {
			t.Helper()
			if err := pool.QueryRow(context.Background(), query).Scan(&text); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			return text
		},
	}
}

func onSQLite(t testing.TB, vault *Vault) under {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catraca.db")
	open := func() *sql.DB {
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_txlock=immediate")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	db := open()
	if err := migrations.Up(context.Background(), db, migrations.SQLite); err != nil {
		t.Fatal(err)
	}
	return under{
		Store: NewSQLite(db, vault),
		again: func(vault *Vault) Store { return NewSQLite(open(), vault) },
		exec: func(statement string) {
			t.Helper()
			if _, err := db.Exec(statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		},
		query: func(query string) (text string) {
			t.Helper()
			if err := db.QueryRow(query).Scan(&text); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			return text
		},
	}
}

// onEachStore runs a case over every kind of store.
func onEachStore(t *testing.T, run func(t *testing.T, s under)) {
	t.Helper()
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		run(t, onPostgres(t, newVault(t)))
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		run(t, onSQLite(t, newVault(t)))
	})
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func mustTenant(t testing.TB, s Store, name string) Tenant {
	t.Helper()
	return must[Tenant](t)(s.CreateTenant(context.Background(), Tenant{Name: name, UseGateway: true}))
}

func must2(t testing.TB) func([]Change, int64, error) ([]Change, int64) {
	return func(changes []Change, version int64, err error) ([]Change, int64) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return changes, version
	}
}

// mustKey makes a key and gives it with its secret.
func mustKey(t testing.TB, s Store, client uuid.UUID, expires time.Time) (Key, string) {
	t.Helper()
	secret, digest, prefix := NewSecret()
	k := must[Key](t)(s.CreateKey(context.Background(), Key{ClientID: client, Name: "k", Prefix: prefix, ExpiresAt: expires}, digest))
	return k, secret
}

func digestOf(t testing.TB, secret string) [32]byte {
	t.Helper()
	d, ok := Digest([]byte(secret))
	if !ok {
		t.Fatal("a secret of ours is not taken for one")
	}
	return d
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestTenantRoundTrip(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		in := Tenant{
			Name: "  Padaria São João ", Paused: true, PausedReason: "não pagou", UseGateway: true,
			AllowedModels: []string{"gpt-5", "anthropic/claude", "gpt-5"}, DefaultModel: "gpt-5", UnknownModels: MeterUnknown,
			TimeZone: "America/Manaus", RawPhones: true, OnClientGone: ReadOnGone,
		}
		made := must[Tenant](t)(s.CreateTenant(ctx, in))
		want := in
		want.ID, want.CreatedAt, want.UpdatedAt = made.ID, made.CreatedAt, made.UpdatedAt
		want.Name, want.AllowedModels = "Padaria São João", []string{"anthropic/claude", "gpt-5"}
		if !reflect.DeepEqual(made, want) {
			t.Errorf("created\n%+v, want\n%+v", made, want)
		}
		if d := time.Since(made.CreatedAt); d < -time.Minute || d > time.Minute || made.ID == uuid.Nil {
			t.Errorf("created at %v with id %v", made.CreatedAt, made.ID)
		}
		if read := must[Tenant](t)(s.Tenant(ctx, made.ID)); !reflect.DeepEqual(read, made) {
			t.Errorf("read\n%+v, want\n%+v", read, made)
		}

		change := made
		change.Name, change.Paused, change.AllowedModels, change.DefaultModel, change.UseGateway, change.RawPhones = "Nova", false, nil, "", false, false
		changed := must[Tenant](t)(s.UpdateTenant(ctx, change))
		if !changed.UpdatedAt.After(made.UpdatedAt) {
			t.Errorf("updated_at went from %v to %v", made.UpdatedAt, changed.UpdatedAt)
		}
		change.UpdatedAt, change.PausedReason = changed.UpdatedAt, "" // no reason without a pause
		if !reflect.DeepEqual(changed, change) {
			t.Errorf("updated\n%+v, want\n%+v", changed, change)
		}
		if all := must[[]Tenant](t)(s.Tenants(ctx)); !reflect.DeepEqual(all, []Tenant{changed}) {
			t.Errorf("listed %+v", all)
		}
		_, err := s.UpdateTenant(ctx, made) // with the UpdatedAt of before
		wantErr(t, "an update over somebody else's", err, ErrConflict)
		_, err = s.CreateTenant(ctx, Tenant{ID: made.ID, Name: "again"})
		wantErr(t, "a second tenant with the id", err, ErrExists)
	})
}

// TestWhenAClientHasGone follows the setting from its write to the principal that the proxy sees.
func TestWhenAClientHasGone(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		tenant := mustTenant(t, s, "a")
		if tenant.OnClientGone != CancelGone {
			t.Errorf("by default %q", tenant.OnClientGone)
		}
		_, secret := mustKey(t, s, tenant.ID, time.Time{})
		for _, policy := range []GonePolicy{ReadOnGone, CancelGone, ReadOnGone, ""} {
			_, version := must2(t)(s.Changes(ctx, 0))
			tenant.OnClientGone = policy
			tenant = must[Tenant](t)(s.UpdateTenant(ctx, tenant))
			if changes, _ := must2(t)(s.Changes(ctx, version)); len(changes) != 1 || changes[0].ClientID != tenant.ID {
				t.Errorf("to %q: the feed has %+v", policy, changes)
			}
			byKey := must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, secret)))
			byClient := must[*Principal](t)(s.PrincipalByClient(ctx, tenant.ID))
			if on := policy == ReadOnGone; byKey.ReadOn != on || byClient.ReadOn != on || (tenant.OnClientGone == ReadOnGone) != on {
				t.Errorf("to %q: by key %t, by client %t, kept as %q", policy, byKey.ReadOn, byClient.ReadOn, tenant.OnClientGone)
			}
		}
		log := must[[]AuditEntry](t)(s.Audit(ctx, tenant.ID, 0, 1))
		if !strings.Contains(string(log[0].Before), `"read_on"`) || !strings.Contains(string(log[0].After), `"cancel"`) {
			t.Errorf("the audit log has %s, then %s", log[0].Before, log[0].After)
		}
		// A client of the SaaS's that nothing was set for.
		bare := uuid.New()
		s.exec("INSERT INTO clients (id, name) VALUES ('" + bare.String() + "', 'bare')")
		if p := must[*Principal](t)(s.PrincipalByClient(ctx, bare)); p.ReadOn {
			t.Error("a client without settings has its answers read on")
		}
	})
}

func TestUnknownTenantsAndKeys(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx, nobody := context.Background(), uuid.New()
		_, err := s.Tenant(ctx, nobody)
		wantErr(t, "Tenant", err, ErrNotFound)
		_, err = s.UpdateTenant(ctx, Tenant{ID: nobody, Name: "x"})
		wantErr(t, "UpdateTenant", err, ErrNotFound)
		wantErr(t, "DeleteTenant", s.DeleteTenant(ctx, nobody), ErrNotFound)
		_, err = s.Keys(ctx, nobody)
		wantErr(t, "Keys", err, ErrNotFound)
		_, digest, prefix := NewSecret()
		_, err = s.CreateKey(ctx, Key{ClientID: nobody, Prefix: prefix}, digest)
		wantErr(t, "CreateKey", err, ErrNotFound)
		_, err = s.RotateKey(ctx, nobody, digest, prefix, 0)
		wantErr(t, "RotateKey", err, ErrNotFound)
		wantErr(t, "RevokeKey", s.RevokeKey(ctx, nobody), ErrNotFound)
		_, err = s.PrincipalByKey(ctx, digest)
		wantErr(t, "PrincipalByKey", err, ErrNotFound)
		_, err = s.PrincipalByClient(ctx, nobody)
		wantErr(t, "PrincipalByClient", err, ErrNotFound)
	})
}

func TestInvalidTenants(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		good := mustTenant(t, s, "good")
		for field, bad := range map[string]Tenant{
			"name":           {Name: "  "},
			"time_zone":      {Name: "x", TimeZone: "America/Atlantis"},
			"unknown_models": {Name: "x", UnknownModels: "maybe"},
			"on_client_gone": {Name: "x", OnClientGone: "wait"},
			"default_model":  {Name: "x", AllowedModels: []string{"a"}, DefaultModel: "b"},
			"allowed_models": {Name: "x", AllowedModels: []string{"a", " "}},
			"paused_reason":  {Name: "x", Paused: true, PausedReason: strings.Repeat("x", 201)},
		} {
			var invalid *Invalid
			if _, err := s.CreateTenant(context.Background(), bad); !errors.As(err, &invalid) || invalid.Field != field {
				t.Errorf("create with a bad %s: %v", field, err)
			}
			bad.ID = good.ID
			if _, err := s.UpdateTenant(context.Background(), bad); !errors.As(err, &invalid) || invalid.Field != field {
				t.Errorf("update with a bad %s: %v", field, err)
			}
		}
		for _, name := range []string{"a\x00b", "a\nb", "a\x1b[31m", "\xff"} {
			if _, err := s.CreateTenant(context.Background(), Tenant{Name: name}); err == nil {
				t.Errorf("the name %q was taken", name)
			}
		}
		if n := len(must[[]Tenant](t)(s.Tenants(context.Background()))); n != 1 {
			t.Errorf("%d tenants, want the good one", n)
		}
	})
}

func TestKeyLife(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		tenant := mustTenant(t, s, "a")
		k, secret := mustKey(t, s, tenant.ID, time.Time{})
		if !strings.HasPrefix(secret, k.Prefix) || !k.ExpiresAt.IsZero() || !k.RevokedAt.IsZero() || !k.LastUsedAt.IsZero() {
			t.Errorf("a new key: %+v", k)
		}
		p := must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, secret)))
		if p.ClientID != tenant.ID || p.KeyID != k.ID || p.Name != "a" || !p.UseGateway || p.TimeZone.String() != DefaultTimeZone {
			t.Errorf("principal %+v", p)
		}
		if again := must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, secret))); again.TimeZone != p.TimeZone {
			t.Error("a time zone is kept once for each tenant")
		}
		if by := must[*Principal](t)(s.PrincipalByClient(ctx, tenant.ID)); by.ClientID != tenant.ID || by.KeyID != uuid.Nil {
			t.Errorf("principal by client %+v", by)
		}

		used := time.Now().Add(-time.Second).Truncate(time.Microsecond).UTC()
		if err := s.TouchKeys(ctx, []uuid.UUID{k.ID, uuid.New()}, used); err != nil {
			t.Fatal(err)
		}
		k.LastUsedAt = used
		if keys := must[[]Key](t)(s.Keys(ctx, tenant.ID)); !reflect.DeepEqual(keys, []Key{k}) {
			t.Errorf("keys\n%+v, want\n%+v", keys, []Key{k})
		}

		for range 2 { // revoking twice is revoking
			if err := s.RevokeKey(ctx, k.ID); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.PrincipalByKey(ctx, digestOf(t, secret))
		wantErr(t, "a revoked key", err, ErrNotFound)
		if keys := must[[]Key](t)(s.Keys(ctx, tenant.ID)); keys[0].RevokedAt.IsZero() {
			t.Error("the key does not show as revoked")
		}
		_, digest, prefix := NewSecret()
		if _, err := s.RotateKey(ctx, k.ID, digest, prefix, time.Hour); err == nil {
			t.Error("a revoked key was rotated")
		}
		_, err = s.CreateKey(ctx, Key{ClientID: tenant.ID, Prefix: k.Prefix}, digestOf(t, secret))
		wantErr(t, "a second key with the secret", err, ErrExists)
		_, soon := mustKey(t, s, tenant.ID, time.Now().Add(-time.Second))
		_, err = s.PrincipalByKey(ctx, digestOf(t, soon))
		wantErr(t, "an expired key", err, ErrNotFound)
	})
}

func TestRotation(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		tenant := mustTenant(t, s, "a")
		old, oldSecret := mustKey(t, s, tenant.ID, time.Now().Add(90*24*time.Hour))
		secret, digest, prefix := NewSecret()
		next := must[Key](t)(s.RotateKey(ctx, old.ID, digest, prefix, time.Hour))
		if next.ClientID != tenant.ID || next.Name != old.Name || next.ID == old.ID || next.Prefix != prefix {
			t.Errorf("successor %+v of %+v", next, old)
		}
		if life := time.Until(next.ExpiresAt); life < 89*24*time.Hour || life > 91*24*time.Hour {
			t.Errorf("the successor of a key of 90 days lives for %v", life)
		}
		before := must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, oldSecret)))
		if life := time.Until(before.ExpiresAt); life < 59*time.Minute || life > 61*time.Minute {
			t.Errorf("after rotation with an hour's grace the old key lives for %v", life)
		}
		if p := must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, secret))); p.KeyID != next.ID {
			t.Errorf("the new secret is of key %v", p.KeyID)
		}
		_, digest2, prefix2 := NewSecret()
		if _, err := s.RotateKey(ctx, old.ID, digest2, prefix2, time.Hour); err == nil {
			t.Error("a key was rotated twice")
		}

		forever, foreverSecret := mustKey(t, s, tenant.ID, time.Time{})
		next = must[Key](t)(s.RotateKey(ctx, forever.ID, digest2, prefix2, 0))
		if !next.ExpiresAt.IsZero() {
			t.Errorf("the successor of a key without end ends at %v", next.ExpiresAt)
		}
		_, err := s.PrincipalByKey(ctx, digestOf(t, foreverSecret))
		wantErr(t, "a key rotated without grace", err, ErrNotFound)
	})
}

func TestDeletedTenant(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		tenant := mustTenant(t, s, "a")
		_, secret := mustKey(t, s, tenant.ID, time.Time{})
		if err := s.DeleteTenant(ctx, tenant.ID); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "deleting twice", s.DeleteTenant(ctx, tenant.ID), ErrNotFound)
		_, err := s.PrincipalByKey(ctx, digestOf(t, secret))
		wantErr(t, "its key", err, ErrNotFound)
		_, err = s.PrincipalByClient(ctx, tenant.ID)
		wantErr(t, "its id", err, ErrNotFound)
		_, err = s.Tenant(ctx, tenant.ID)
		wantErr(t, "Tenant", err, ErrNotFound)
		if n := len(must[[]Tenant](t)(s.Tenants(ctx))); n != 0 {
			t.Errorf("%d tenants are listed", n)
		}
		if n := s.query("SELECT count(*) FROM clients"); n != "1" {
			t.Errorf("%s clients; usage needs the row", n)
		}
		if n := s.query("SELECT count(*) FROM client_settings WHERE phone_key IS NOT NULL"); n != "0" {
			t.Error("the phone key outlived its tenant")
		}
	})
}

func TestChangesTellEverything(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		none, version, err := s.Changes(ctx, 0)
		if err != nil || len(none) != 0 || version == 0 {
			t.Fatalf("the first look gives %v, %d, %v", none, version, err)
		}
		// seen runs a write and says which clients the feed names for it.
		seen := func(what string, write func(), want ...uuid.UUID) {
			t.Helper()
			write()
			changes, next, err := s.Changes(ctx, version)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			var got []uuid.UUID
			for _, c := range changes {
				if c.Version <= version || c.Version > next {
					t.Errorf("%s: version %d after %d and up to %d", what, c.Version, version, next)
				}
				if !slices.Contains(got, c.ClientID) {
					got = append(got, c.ClientID)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: the feed names %v, want %v", what, got, want)
			}
			version = next
		}
		id, other := uuid.New(), uuid.New()
		var key Key
		seen("nothing", func() {})
		seen("create", func() { must[Tenant](t)(s.CreateTenant(ctx, Tenant{ID: id, Name: "a"})) }, id)
		seen("another", func() { must[Tenant](t)(s.CreateTenant(ctx, Tenant{ID: other, Name: "b"})) }, other)
		seen("update", func() { must[Tenant](t)(s.UpdateTenant(ctx, Tenant{ID: id, Name: "c"})) }, id)
		seen("key", func() { key, _ = mustKey(t, s, id, time.Time{}) }, id)
		seen("use of a key", func() {
			if err := s.TouchKeys(ctx, []uuid.UUID{key.ID}, time.Now()); err != nil {
				t.Fatal(err)
			}
		})
		seen("rotate", func() {
			_, digest, prefix := NewSecret()
			key = must[Key](t)(s.RotateKey(ctx, key.ID, digest, prefix, time.Hour))
		}, id)
		seen("revoke", func() {
			if err := s.RevokeKey(ctx, key.ID); err != nil {
				t.Fatal(err)
			}
		}, id)
		seen("the SaaS's flag", func() {
			s.exec("UPDATE clients SET use_ai_gateway = NOT use_ai_gateway WHERE id = '" + other.String() + "'")
		}, other)
		seen("the flag as it was", func() { s.exec("UPDATE clients SET use_ai_gateway = use_ai_gateway") })
		seen("a key moved in SQL", func() {
			s.exec("UPDATE client_api_keys SET client_id = '" + other.String() + "' WHERE id = '" + key.ID.String() + "'")
		}, other, id)
		seen("something global", func() { s.exec("INSERT INTO config_changes (client_id) VALUES (NULL)") }, uuid.Nil)
		seen("delete", func() {
			if err := s.DeleteTenant(ctx, id); err != nil {
				t.Fatal(err)
			}
		}, id)
		seen("the SaaS's delete", func() { s.exec("DELETE FROM clients WHERE id = '" + other.String() + "'") }, other)

		_, _, err = s.Changes(ctx, version+1000)
		wantErr(t, "a version of another store", err, ErrChangesLost)
		s.exec("DELETE FROM config_changes WHERE version = 1")
		_, _, err = s.Changes(ctx, 1)
		wantErr(t, "a version that is gone", err, ErrChangesLost)
	})
}

// TestClientOfTheSaaS has a row in clients that nobody made through us.
func TestClientOfTheSaaS(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx, id := context.Background(), uuid.New()
		s.exec("INSERT INTO clients (id, name, use_ai_gateway) VALUES ('" + id.String() + "', 'Oficina', true)")
		tenant := must[Tenant](t)(s.Tenant(ctx, id))
		if tenant.Name != "Oficina" || !tenant.UseGateway || tenant.TimeZone != DefaultTimeZone || !tenant.UpdatedAt.IsZero() || tenant.CreatedAt.Year() < 2020 {
			t.Errorf("tenant %+v", tenant)
		}
		// Many proxies meet it at once: all use the same phone key.
		pseudonyms := make([]string, 8)
		var wg sync.WaitGroup
		for i := range pseudonyms {
			wg.Go(func() {
				p, err := s.PrincipalByClient(ctx, id)
				if err != nil {
					t.Error(err)
					return
				}
				pseudonyms[i] = p.Phone([]byte("+5511987654321"))
			})
		}
		wg.Wait()
		for _, p := range pseudonyms {
			if p == "" || p != pseudonyms[0] {
				t.Errorf("pseudonyms of one person differ: %q", pseudonyms)
				break
			}
		}
		_, err := s.CreateTenant(ctx, Tenant{ID: id, Name: "x"})
		wantErr(t, "creating what is there", err, ErrExists)
		_, secret := mustKey(t, s, id, time.Time{})
		must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, secret)))
		tenant.Paused, tenant.UpdatedAt = true, time.Time{}
		must[Tenant](t)(s.UpdateTenant(ctx, tenant))
		if p := must[*Principal](t)(s.PrincipalByClient(ctx, id)); !p.Paused || p.Phone([]byte("+5511987654321")) != pseudonyms[0] {
			t.Error("the first settings lost the phone key")
		}
	})
}

func TestParallelWriters(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := context.Background()
		tenant := mustTenant(t, s, "a")
		old, _ := mustKey(t, s, tenant.ID, time.Time{})
		_, version, err := s.Changes(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		stores := []Store{s, s.again(newVault(t)), s.again(newVault(t)), s.again(newVault(t))}
		var mu sync.Mutex
		var wins, conflicts, rotations int
		var wg sync.WaitGroup
		for _, store := range stores {
			wg.Go(func() {
				update := tenant
				update.Paused = true
				_, err := store.UpdateTenant(ctx, update)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					wins++
				case errors.Is(err, ErrConflict):
					conflicts++
				default:
					t.Error(err)
				}
			})
			wg.Go(func() {
				_, digest, prefix := NewSecret()
				_, err := store.RotateKey(ctx, old.ID, digest, prefix, time.Hour)
				var invalid *Invalid
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					rotations++
				} else if !errors.As(err, &invalid) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				for range 10 {
					_, digest, prefix := NewSecret()
					if _, err := store.CreateKey(ctx, Key{ClientID: tenant.ID, Prefix: prefix}, digest); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if wins != 1 || conflicts != len(stores)-1 || rotations != 1 {
			t.Errorf("of %d writers %d won and %d met a conflict; %d rotated one key", len(stores), wins, conflicts, rotations)
		}
		if n := len(must[[]Key](t)(s.Keys(ctx, tenant.ID))); n != 1+rotations+10*len(stores) {
			t.Errorf("%d keys", n)
		}
		changes, _, err := s.Changes(ctx, version)
		if err != nil || len(changes) < 10*len(stores)+2 {
			t.Errorf("%d changes, %v", len(changes), err)
		}
	})
}

func TestAuditNote(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		subject := uuid.New()
		ctx := WithActor(context.Background(), "admin")
		if err := s.Note(ctx, "model.update", subject, json.RawMessage(`{"a":1}`), nil); err != nil {
			t.Fatal(err)
		}
		all := must[[]AuditEntry](t)(s.Audit(context.Background(), uuid.Nil, 0, 10))
		if len(all) != 1 || all[0].Action != "model.update" || all[0].Subject != subject.String() || all[0].ClientID != uuid.Nil ||
			all[0].Actor != "admin" || string(all[0].Before) == "" || all[0].After != nil {
			t.Errorf("%+v", all)
		}
	})
}

func TestAuditLog(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		ctx := WithActor(context.Background(), "admin:ana")
		tenant := must[Tenant](t)(s.CreateTenant(ctx, Tenant{Name: "a"}))
		mustTenant(t, s, "b")
		secret, digest, prefix := NewSecret()
		key := must[Key](t)(s.CreateKey(ctx, Key{ClientID: tenant.ID, Prefix: prefix}, digest))
		tenant.Paused = true
		must[Tenant](t)(s.UpdateTenant(ctx, tenant))
		if err := s.RevokeKey(ctx, key.ID); err != nil {
			t.Fatal(err)
		}
		all := must[[]AuditEntry](t)(s.Audit(context.Background(), tenant.ID, 0, 100))
		var actions []string
		for _, e := range all {
			actions = append(actions, e.Action)
			if e.Actor != "admin:ana" || e.ClientID != tenant.ID || time.Since(e.At) > time.Minute {
				t.Errorf("entry %+v", e)
			}
			if text := string(e.Before) + string(e.After); strings.Contains(text, secret) || strings.Contains(text, "igest") || strings.Contains(text, "phone_key") {
				t.Errorf("%s tells too much: %s", e.Action, text)
			}
		}
		if want := []string{"key.revoke", "tenant.update", "key.create", "tenant.create"}; !slices.Equal(actions, want) {
			t.Errorf("actions %v, want %v", actions, want)
		}
		compact := strings.NewReplacer(" ", "")
		if before, after := compact.Replace(string(all[1].Before)), compact.Replace(string(all[1].After)); !strings.Contains(before, `"paused":false`) || !strings.Contains(after, `"paused":true`) {
			t.Errorf("the pause is logged as %s → %s", before, after)
		}
		page := must[[]AuditEntry](t)(s.Audit(context.Background(), uuid.Nil, all[0].ID, 2))
		if len(page) != 2 || page[0].ID != all[1].ID {
			t.Errorf("the page behind the newest: %+v", page)
		}
		if e := must[[]AuditEntry](t)(s.Audit(context.Background(), uuid.Nil, 0, 100)); len(e) != 5 {
			t.Errorf("%d entries in all", len(e))
		}
	})
}

func TestMasterKeyRotation(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(testing.TB, *Vault) under{"postgres": onPostgres, "sqlite": onSQLite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			first, second := NewMasterKey(), NewMasterKey()
			s := open(t, newVault(t, first))
			a, b := mustTenant(t, s, "a"), mustTenant(t, s, "b")
			phone := func(s Store, id uuid.UUID) string {
				t.Helper()
				return must[*Principal](t)(s.PrincipalByClient(ctx, id)).Phone([]byte("+5511987654321"))
			}
			was := phone(s, a.ID)
			if was == phone(s, b.ID) {
				t.Error("two tenants have one pseudonym for a person")
			}
			both := s.again(newVault(t, second, first))
			if phone(both, a.ID) != was {
				t.Error("the older master key no longer opens")
			}
			if n := must[int](t)(both.ResealPhoneKeys(ctx)); n != 2 {
				t.Errorf("%d phone keys were sealed anew, want 2", n)
			}
			if n := must[int](t)(both.ResealPhoneKeys(ctx)); n != 0 {
				t.Errorf("%d were sealed twice", n)
			}
			if phone(s.again(newVault(t, second)), a.ID) != was {
				t.Error("the pseudonym changed with the master key")
			}
			if _, err := s.PrincipalByClient(ctx, a.ID); err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "CATRACA_MASTER_KEY") {
				t.Errorf("without the new master key: %v", err)
			}

			// A row that somebody swapped does not open.
			s.exec("UPDATE client_settings SET phone_key = (SELECT phone_key FROM client_settings WHERE client_id = '" + a.ID.String() + "') WHERE client_id = '" + b.ID.String() + "'")
			if _, err := both.PrincipalByClient(ctx, b.ID); err == nil || !strings.Contains(err.Error(), "another row") {
				t.Errorf("a swapped phone key: %v", err)
			}
		})
	}
}

// TestFeedIsPruned has entries of long ago, which a thousand new ones take with them.
func TestFeedIsPruned(t *testing.T) {
	onEachStore(t, func(t *testing.T, s under) {
		s.exec("UPDATE config_changes SET at = " + map[bool]string{true: "at - interval '31 days'", false: "at - 31 * 86400 * 1000000"}[isPostgres(s)])
		_, before, err := s.Changes(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		s.exec("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO config_changes (client_id) SELECT NULL FROM n")
		if n := s.query("SELECT count(*) FROM config_changes"); n != "1000" {
			t.Errorf("%s changes are kept, want the new thousand", n)
		}
		_, _, err = s.Changes(context.Background(), before)
		wantErr(t, "a follower that was away for so long", err, ErrChangesLost)
	})
}

func isPostgres(s under) bool {
	_, ok := s.Store.(*Postgres)
	return ok
}
