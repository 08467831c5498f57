package metering

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/internal/testenv"
)

func openPostgres(t testing.TB, url string) *Postgres {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return NewPostgres(pool)
}

func newPostgres(t testing.TB) *Postgres { return openPostgres(t, testenv.Migrated(t)) }

// feedLength counts the changes of anything in the feed that proxies follow.
func feedLength(t *testing.T, s store) int {
	t.Helper()
	const query = "SELECT count(*) FROM config_changes WHERE client_id IS NULL"
	var n int
	var err error
	switch s := s.(type) {
	case *Postgres:
		err = s.pool.QueryRow(t.Context(), query).Scan(&n)
	case *SQLite:
		err = s.read.QueryRowContext(t.Context(), query).Scan(&n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
