package tenancy_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/internal/testenv"
	. "github.com/catraca/catraca/tenancy"
)

// TestForeignClientsTable has a SaaS's clients: no name, an age in a form of its own, columns that must be filled.
func TestForeignClientsTable(t *testing.T) {
	t.Parallel()
	ctx, id := context.Background(), uuid.New()
	s := onPostgres(t, newVault(t))
	s.exec("ALTER TABLE clients DROP COLUMN name, DROP COLUMN created_at, ADD COLUMN created_at bigint, ADD COLUMN company text NOT NULL")
	s.exec("INSERT INTO clients (id, company, created_at) VALUES ('" + id.String() + "', 'Oficina', 1700000000)")
	if tenant := must[Tenant](t)(s.Tenant(ctx, id)); tenant.Name != "" || tenant.UseGateway {
		t.Errorf("tenant %+v", tenant)
	}
	_, secret := mustKey(t, s, id, time.Time{})
	must[*Principal](t)(s.PrincipalByKey(ctx, digestOf(t, secret)))
	tenant := must[Tenant](t)(s.UpdateTenant(ctx, Tenant{ID: id, Name: "Oficina do Zé", UseGateway: true}))
	if tenant.Name != "Oficina do Zé" || s.query("SELECT use_ai_gateway::text FROM clients") != "true" {
		t.Errorf("updated %+v", tenant)
	}
	var invalid *Invalid
	if _, err := s.CreateTenant(ctx, Tenant{Name: "x"}); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "company") {
		t.Errorf("a client that only the SaaS can make: %v", err)
	}
	s.exec("ALTER TABLE clients ALTER COLUMN company DROP NOT NULL")
	if made := must[Tenant](t)(s.CreateTenant(ctx, Tenant{Name: "x"})); made.Name != "x" {
		t.Errorf("created without a name column: %+v", made)
	}
}

// TestCheckFindsHiddenRows uses a role that may read the tables, but not see their rows.
func TestCheckFindsHiddenRows(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	where := testenv.Migrated(t)
	owner := openPool(t, where)
	if err := NewPostgres(owner, newVault(t)).Check(ctx); err != nil {
		t.Fatal(err)
	}
	role := "reader_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if _, err := owner.Exec(ctx, "CREATE ROLE "+role+" LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { owner.Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "x")
	reader, err := pgxpool.New(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	err = NewPostgres(reader, newVault(t)).Check(ctx)
	if err == nil || !strings.Contains(err.Error(), role) || !strings.Contains(err.Error(), "client_api_keys") {
		t.Errorf("a role that sees nothing is told: %v", err)
	}
}

// TestKeyringOverPostgres is two proxies on one database: what one side changes, the other has within 2 s.
func TestKeyringOverPostgres(t *testing.T) {
	t.Parallel()
	s := onPostgres(t, newVault(t))
	ctx, cancel := context.WithCancel(context.Background())
	tenant := mustTenant(t, s, "a")
	key, secret := mustKey(t, s, tenant.ID, time.Time{})
	ring := NewKeyring(s, KeyringOptions{})
	ended := make(chan error)
	go func() { ended <- ring.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if p := must[*Principal](t)(ring.Key(ctx, []byte(secret))); !p.UseGateway {
		t.Fatalf("principal %+v", p)
	}
	// within runs a change and measures how long the keyring goes on without it.
	within := func(what string, change func(), seen func() bool) {
		t.Helper()
		change()
		start := time.Now()
		for !seen() {
			if time.Since(start) > 2*time.Second {
				t.Fatalf("%s was not in use after 2 s", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Logf("%s: in use after %v", what, time.Since(start).Round(time.Millisecond))
	}
	gateway := func() bool { return must[*Principal](t)(ring.Key(ctx, []byte(secret))).UseGateway }
	within("the SaaS's flag", func() { s.exec("UPDATE clients SET use_ai_gateway = false") }, func() bool { return !gateway() })
	fresh, digest, prefix := NewSecret()
	if _, err := ring.Key(ctx, []byte(fresh)); !errors.Is(err, ErrInvalidKey) {
		t.Fatal(err)
	}
	within("a key that was tried before it was made", func() {
		must[Key](t)(s.CreateKey(ctx, Key{ClientID: tenant.ID, Prefix: prefix}, digest))
	}, func() bool { _, err := ring.Key(ctx, []byte(fresh)); return err == nil })
	within("a revocation", func() {
		if err := s.RevokeKey(ctx, key.ID); err != nil {
			t.Fatal(err)
		}
	}, func() bool { _, err := ring.Key(ctx, []byte(secret)); return errors.Is(err, ErrInvalidKey) })
	within("a deletion", func() {
		if err := s.DeleteTenant(ctx, tenant.ID); err != nil {
			t.Fatal(err)
		}
	}, func() bool { _, err := ring.Key(ctx, []byte(fresh)); return errors.Is(err, ErrInvalidKey) })
}

// TestKeyringOutlivesPostgres takes the database away.
func TestKeyringOutlivesPostgres(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := onPostgres(t, newVault(t))
	tenant := mustTenant(t, s, "a")
	_, secret := mustKey(t, s, tenant.ID, time.Time{})
	pool := openPool(t, s.query("SELECT 'postgres://postgres@127.0.0.1:1/' || current_database()"))
	away := &switching{Store: s}
	ring := NewKeyring(away, KeyringOptions{LoadTimeout: 500 * time.Millisecond})
	must[*Principal](t)(ring.Key(ctx, []byte(secret)))
	away.swap(NewPostgres(pool, newVault(t)))
	ring.Invalidate(tenant.ID)
	if p, err := ring.Key(ctx, []byte(secret)); err != nil || p.ClientID != tenant.ID {
		t.Errorf("a known key with the store down: %v", err)
	}
	other, _, _ := NewSecret()
	if _, err := ring.Key(ctx, []byte(other)); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalidKey) {
		t.Errorf("an unknown key with the store down: %v", err)
	}
	if _, err := ring.Client(ctx, []byte(uuid.NewString())); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an unknown client with the store down: %v", err)
	}
}

// TestErrorsAndLogsTellNoSecret marks what is secret, makes everything fail, and looks for the marks.
func TestErrorsAndLogsTellNoSecret(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	master := NewMasterKey()
	s := onPostgres(t, newVault(t, master))
	tenant := mustTenant(t, s, "a")
	_, secret := mustKey(t, s, tenant.ID, time.Time{})
	digest := digestOf(t, secret)
	var said bytes.Buffer
	note := func(_ any, err error) {
		if err == nil {
			t.Error("this should have failed")
		}
		fmt.Fprintf(&said, "%v\n%+v\n%#v\n", err, err, errors.Unwrap(err))
	}
	note(s.CreateKey(ctx, Key{ClientID: tenant.ID, Prefix: secret[:9]}, digest)) // the digest is there already
	note(s.CreateKey(ctx, Key{ClientID: tenant.ID, Prefix: secret}, digest))
	note(s.again(newVault(t)).PrincipalByKey(ctx, digest)) // another master key
	down := NewPostgres(openPool(t, "postgres://someone:canary-password@127.0.0.1:1/x"), newVault(t, master))
	note(down.PrincipalByKey(ctx, digest))
	note(down.Tenants(ctx))
	note(nil, down.Check(ctx))
	note(nil, down.TouchKeys(ctx, []uuid.UUID{tenant.ID}, time.Now()))
	for _, store := range []Store{down, s.again(newVault(t))} {
		ring := NewKeyring(store, KeyringOptions{Poll: time.Millisecond, TouchEvery: time.Millisecond, Log: slog.New(slog.NewJSONHandler(&said, nil))})
		note(ring.Key(ctx, []byte(secret)))
		note(ring.Key(ctx, []byte(secret[:40])))
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		if err := ring.Run(short); err != nil {
			t.Error(err)
		}
		cancel()
	}
	text := strings.ToLower(said.String())
	for what, mark := range map[string]string{
		"the secret": secret[9:30], "the digest": hex.EncodeToString(digest[:8]), "the digest, as Go prints bytes": fmt.Sprint(digest[:4])[1:12],
		"the master key": master[:20], "the password": "canary-password",
	} {
		if strings.Contains(text, strings.ToLower(mark)) {
			t.Errorf("%s is told:\n%s", what, text)
		}
	}
	if !strings.Contains(text, "tenant changes cannot be read") {
		t.Errorf("the log was not looked at:\n%s", text)
	}
}
