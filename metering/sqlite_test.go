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
	dir := t.TempDir()
	open := func(option string) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "catraca.db")+
			"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&"+option)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	write := open("_txlock=immediate")
	write.SetMaxOpenConns(1)
	if err := migrations.Up(t.Context(), write, migrations.SQLite); err != nil {
		t.Fatal(err)
	}
	read := open("_pragma=query_only(1)") // so that a write through it is noticed
	return NewSQLite(write, read)
}

func BenchmarkRecordSQLite(b *testing.B) { benchmarkRecord(b, newSQLite(b)) }
