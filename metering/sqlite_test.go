package metering

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // database/sql's driver "sqlite"

	"github.com/catraca/catraca/migrations"
)

func newSQLite(t testing.TB) *SQLite {
	t.Helper()
	dsn := "file:" + filepath.Join(t.TempDir(), "catraca.db") +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"
	write, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { write.Close() })
	write.SetMaxOpenConns(1)
	if err := migrations.Up(t.Context(), write, migrations.SQLite); err != nil {
		t.Fatal(err)
	}
	read, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	return NewSQLite(write, read)
}
