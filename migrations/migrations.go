// Package migrations brings a database to the shape this binary needs. It only ever goes forward.
//
// The files under postgres/ and sqlite/ are plain SQL and carry the same numbers for the same step.
package migrations

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// Dialect says which of the two kinds of database is meant.
type Dialect string

// The databases Catraca keeps its data in.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// Migration is one step and when it was taken here.
type Migration struct {
	Version   int64
	Name      string
	AppliedAt time.Time // zero: pending
}

// versionTable is our own, so that a SaaS that uses goose for itself in the same database does not meet our numbers.
const versionTable = "catraca_migrations"

// lockID names the advisory lock under which migrations run. Any number will do, as long as it stays the same.
const lockID = 0x63617472616361 // "catraca"

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// Files is the SQL of a dialect, by file name.
func Files(dialect Dialect) (fs.FS, error) {
	if dialect != Postgres && dialect != SQLite {
		return nil, fmt.Errorf("migrations: no such dialect: %q", dialect)
	}
	return fs.Sub(files, string(dialect))
}

// Up applies what is pending. Any number of processes may call it at once on one database: one of them does the work
// while the others wait, for at most five minutes. On Postgres that takes a session lock, so db must reach the server
// itself or through a pooler in session mode.
func Up(ctx context.Context, db *sql.DB, dialect Dialect) error {
	if dialect == SQLite {
		return upSQLite(ctx, db)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return up(ctx, db, dialect, goose.WithSessionLocker(locker))
}

// upSQLite has no lock that another process would see. Each step is a transaction, so of two processes that try the
// same step one fails; it has lost nothing and looks again.
func upSQLite(ctx context.Context, db *sql.DB) error {
	for left := -1; ; {
		err := up(ctx, db, SQLite)
		if err == nil {
			return nil
		}
		n, pendingErr := Pending(ctx, db, SQLite)
		if pendingErr != nil || n == left {
			return err
		}
		left = n
	}
}

func up(ctx context.Context, db *sql.DB, dialect Dialect, opts ...goose.ProviderOption) error {
	p, err := provider(db, dialect, opts...)
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Pending counts the steps that the database has not taken yet. It changes nothing. Steps that this binary does not
// know, taken by a newer one, do not count.
func Pending(ctx context.Context, db *sql.DB, dialect Dialect) (int, error) {
	all, err := Status(ctx, db, dialect)
	n := 0
	for _, m := range all {
		if m.AppliedAt.IsZero() {
			n++
		}
	}
	return n, err
}

// Status lists all steps that this binary knows, in order. It changes nothing, unlike goose's own, which makes its table.
func Status(ctx context.Context, db *sql.DB, dialect Dialect) ([]Migration, error) {
	p, err := provider(db, dialect)
	if err != nil {
		return nil, err
	}
	at, err := appliedAt(ctx, db, dialect)
	if err != nil {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	var all []Migration
	for _, s := range p.ListSources() {
		all = append(all, Migration{Version: s.Version, Name: s.Path, AppliedAt: at[s.Version]})
	}
	return all, nil
}

func appliedAt(ctx context.Context, db *sql.DB, dialect Dialect) (map[int64]time.Time, error) {
	exists := "SELECT to_regclass('" + versionTable + "') IS NOT NULL"
	if dialect == SQLite {
		exists = "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = '" + versionTable + "'"
	}
	var there bool
	if err := db.QueryRowContext(ctx, exists).Scan(&there); err != nil || !there {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, "SELECT version_id, tstamp FROM "+versionTable+" WHERE is_applied")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	at := map[int64]time.Time{}
	for rows.Next() {
		var version int64
		var when sql.NullTime
		if err := rows.Scan(&version, &when); err != nil {
			return nil, err
		}
		at[version] = cmp.Or(when.Time, time.Unix(0, 0)) // applied, whenever it was
	}
	return at, rows.Err()
}

func provider(db *sql.DB, dialect Dialect, opts ...goose.ProviderOption) (*goose.Provider, error) {
	dir, err := Files(dialect)
	if err != nil {
		return nil, err
	}
	kind := database.DialectPostgres
	if dialect == SQLite {
		kind = database.DialectSQLite3
	}
	opts = append(opts, goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	p, err := goose.NewProvider(kind, db, dir, opts...)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return p, nil
}
