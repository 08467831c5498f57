package link

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/tenancy"
)

// counted counts what is asked of a store.
type counted struct {
	tenancy.Source
	loads, looks atomic.Int64
}

func (c *counted) PrincipalByKey(ctx context.Context, d [32]byte) (*tenancy.Principal, error) {
	c.loads.Add(1)
	return c.Source.PrincipalByKey(ctx, d)
}

func (c *counted) Changes(ctx context.Context, after int64) ([]tenancy.Change, int64, error) {
	c.looks.Add(1)
	return c.Source.Changes(ctx, after)
}

// fill puts tenants with a key each into a database, past its triggers.
func fill(t *testing.T, database string, vault *tenancy.Vault, n int) (clients []uuid.UUID, digests [][32]byte) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "SET session_replication_role = replica"); err != nil {
		t.Fatal(err)
	}
	rows := map[string][][]any{}
	for i := range n {
		id := uuid.New()
		_, digest, prefix := tenancy.NewSecret()
		clients, digests = append(clients, id), append(digests, digest)
		rows["clients"] = append(rows["clients"], []any{id, true, fmt.Sprint("tenant ", i)})
		rows["client_settings"] = append(rows["client_settings"], []any{id, fmt.Sprint("tenant ", i), vault.Seal(make([]byte, 32), "client_settings.phone_key/"+id.String())})
		rows["client_api_keys"] = append(rows["client_api_keys"], []any{uuid.New(), id, "main", digest[:], prefix})
	}
	for table, columns := range map[string][]string{
		"clients": {"id", "use_ai_gateway", "name"}, "client_settings": {"client_id", "name", "phone_key"},
		"client_api_keys": {"id", "client_id", "name", "digest", "prefix"},
	} {
		if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{table}, columns, pgx.CopyFromRows(rows[table])); err != nil {
			t.Fatal(err)
		}
	}
	return clients, digests
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// However many proxies follow, a change is in use at all of them within 2 s, the database is looked at as for one, and
// nobody loads what it does not serve. CATRACA_TEST_LARGE=1 makes it 1 000 proxies and 100 000 tenants.
func TestAFleetFollows(t *testing.T) {
	proxies, tenants := 100, 2_000
	if os.Getenv("CATRACA_TEST_LARGE") != "" {
		proxies, tenants = 1_000, 100_000
	}
	vault, err := tenancy.ParseMasterKeys(tenancy.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	database := testenv.Migrated(t)
	clients, digests := fill(t, database, vault, tenants)
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := tenancy.NewPostgres(pool, vault)
	source := &counted{Source: store}
	w := newWorld()
	options := w.options()
	options.Tenants = source
	local := NewLocal(options)
	background(t, local.Run)
	server := NewHandler(local, []string{goodToken}, nil).Server()
	address := listen(t, server.Serve)
	t.Cleanup(func() { _ = server.Close() })

	// Each serves ten tenants: one that all of them serve, and nine of its own.
	rings := make([]*tenancy.Keyring, proxies)
	var starting sync.WaitGroup
	for i := range rings {
		rings[i], _ = keyring(t, NewClient(address, goodToken, nil), nil)
		background(t, rings[i].Run)
		starting.Go(func() {
			for n := range 10 {
				which := 0
				if n > 0 {
					which = 1 + (i*9+n)%(tenants-1)
				}
				for {
					if _, err := rings[i].PrincipalByKey(t.Context(), digests[which]); err == nil {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	starting.Wait()
	eventually(t, 30*time.Second, "all follow", func() bool {
		return !slices.ContainsFunc(rings, func(k *tenancy.Keyring) bool { return k.Version() == 0 || k.Stats().Outdated > 0 })
	})
	for i, k := range rings {
		if n := k.Stats().Keys; n != 10 {
			t.Fatalf("proxy %d holds %d keys and serves 10", i, n)
		}
	}
	distinct := min(9*proxies+10, tenants)
	if n := source.loads.Load(); n > int64(3*distinct) {
		t.Errorf("%d principals were read from the database for %d that are served", n, distinct)
	}

	// Quiet: the database is looked at twice a second, for all of them.
	looks, loads, spent := source.looks.Load(), source.loads.Load(), cpu()
	time.Sleep(5 * time.Second)
	looks, loads, spent = source.looks.Load()-looks, source.loads.Load()-loads, cpu()-spent
	t.Logf("%d proxies at rest for 5 s: %d looks at the feed, %d loads, %s of CPU for both sides", proxies, looks, loads, spent.Round(time.Millisecond))
	if looks > 15 || loads > 0 {
		t.Errorf("at rest the database was looked at %d times and read %d times", looks, loads)
	}

	// A change of the tenant that all serve.
	var worst time.Duration
	for round := range 3 {
		loads, spent = source.loads.Load(), cpu()
		tenant, err := store.Tenant(t.Context(), clients[0])
		if err != nil {
			t.Fatal(err)
		}
		tenant.Name = fmt.Sprint("changed ", round)
		if _, err := store.UpdateTenant(t.Context(), tenant); err != nil {
			t.Fatal(err)
		}
		committed := time.Now()
		for _, k := range rings {
			eventually(t, 10*time.Second, "the change is in use", func() bool {
				p, err := k.PrincipalByKey(t.Context(), digests[0])
				return err == nil && p.Name == tenant.Name
			})
		}
		took := time.Since(committed)
		worst = max(worst, took)
		t.Logf("in use at all %d after %s: %d loads of the database, %s of CPU for both sides", proxies, took.Round(time.Millisecond), source.loads.Load()-loads, (cpu() - spent).Round(time.Millisecond))
		if n := source.loads.Load() - loads; n > 10 {
			t.Errorf("%d loads of the database for one change", n)
		}
	}
	if worst > 2*time.Second {
		t.Errorf("a change took %s", worst)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("heap of control and %d proxies in one process: %d MiB, %d goroutines", proxies, m.HeapAlloc>>20, runtime.NumGoroutine())
}
