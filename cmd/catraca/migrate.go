package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx" of database/sql, which migrations want
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/catraca/catraca/migrations"
)

type migrateCommand struct {
	asJSON
	Status bool `help:"Only list the steps and when each was taken; change nothing."`
}

// migrationStep is what migrate prints as JSON.
type migrationStep struct {
	Version   int64     `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at,omitzero"`
}

// Run takes the steps that the database lacks.
func (c migrateCommand) Run(t *terminal) error {
	cfg, err := LoadConfig(t.environ)
	var m mistakes
	cfg.validateStores(&m)
	if err := errors.Join(append([]error{err}, m...)...); err != nil {
		return fmt.Errorf("the settings are wrong:\n%w", err)
	}
	db, dialect, err := openForMigration(&cfg, c.Status)
	if err != nil {
		return err
	}
	defer db.Close()
	before, err := migrations.Pending(t.ctx, db, dialect)
	if err != nil {
		return fmt.Errorf("%w; `catraca doctor` finds out what is wrong with the database", err)
	}
	if !c.Status && before > 0 {
		if err := migrations.Up(t.ctx, db, dialect); err != nil {
			return fmt.Errorf("%w; nothing of the step that failed was kept: mend the cause and run it again", err)
		}
	}
	return c.report(t, db, dialect, before)
}

func (c migrateCommand) report(t *terminal, db *sql.DB, dialect migrations.Dialect, before int) error {
	all, err := migrations.Status(t.ctx, db, dialect)
	if err != nil {
		return err
	}
	if c.JSON {
		steps := []migrationStep{}
		for _, m := range all {
			steps = append(steps, migrationStep(m))
		}
		return writeJSON(t.out, steps)
	}
	if !c.Status {
		if before == 0 {
			_, err = fmt.Fprintln(t.out, "The database is up to date.")
			return err
		}
		if _, err = fmt.Fprintf(t.out, "Took %d of %d steps. The database is up to date.\n", before, len(all)); err != nil {
			return err
		}
		return hintReaders(t, db, dialect)
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	for _, m := range all {
		state := "pending"
		if !m.AppliedAt.IsZero() {
			state = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", m.Version, m.Name, state)
	}
	return w.Flush()
}

// hintReaders says what a user who may not make roles left undone. Nothing else needs that role.
func hintReaders(t *terminal, db *sql.DB, dialect migrations.Dialect) error {
	if dialect != migrations.Postgres {
		return nil
	}
	var there bool
	err := db.QueryRowContext(t.ctx, "SELECT to_regrole('catraca_tenant_reader') IS NOT NULL").Scan(&there)
	if err == nil && !there {
		_, err = fmt.Fprintln(t.out, "This user may not create roles, so tenants cannot be given a database login that reads their own rows. To have that,\n"+
			"run CREATE ROLE catraca_tenant_reader NOLOGIN as one who may, then SELECT catraca_open_all_to_readers() as this user.")
	}
	return err
}

// openForMigration opens the database that the settings name. To only look must not leave an empty SQLite file behind.
func openForMigration(cfg *Config, onlyLook bool) (*sql.DB, migrations.Dialect, error) {
	if !cfg.Embedded() {
		db, err := sql.Open("pgx", cfg.DatabaseURL.Reveal())
		if err != nil {
			// pgx puts the address into its errors, and with some mistakes the password too.
			return nil, "", errors.New("CATRACA_DATABASE_URL cannot be read: write postgres://user:password@host:5432/database")
		}
		return db, migrations.Postgres, nil
	}
	path := cfg.SQLitePath()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && onlyLook {
		path = ":memory:"
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, "", fmt.Errorf("CATRACA_DATA_DIR: %w", err)
	}
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_txlock=immediate")
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer is all SQLite has
	return db, migrations.SQLite, nil
}

// pendingMigrations counts the steps a database lacks.
func pendingMigrations(ctx context.Context, cfg *Config) (int, error) {
	db, dialect, err := openForMigration(cfg, true)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return migrations.Pending(ctx, db, dialect)
}
