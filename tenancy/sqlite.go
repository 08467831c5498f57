package tenancy

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// SQLite is the Store of an embedded gateway. Times in it are microseconds since 1970, by this machine's clock.
type SQLite struct {
	db    *sql.DB
	vault *Vault
	zones zones
}

var _ Store = (*SQLite)(nil)

// NewSQLite is the store in a migrated database. Its transactions must begin as writers (_txlock=immediate): one that
// reads first and then writes would fail when another wrote in between.
func NewSQLite(db *sql.DB, vault *Vault) *SQLite {
	return &SQLite{db: db, vault: vault}
}

const liteTenant = `
SELECT c.id, coalesce(nullif(s.name, ''), c.name), coalesce(s.paused, 0), coalesce(s.paused_reason, ''),
       coalesce(c.use_ai_gateway, 0), coalesce(s.allowed_models, '[]'), coalesce(s.default_model, ''),
       coalesce(s.unknown_models, ''), coalesce(s.time_zone, '` + DefaultTimeZone + `'), coalesce(s.raw_phones, 0),
       coalesce(s.on_client_gone, '` + string(CancelGone) + `'), c.created_at, s.updated_at, s.phone_key,
       EXISTS (SELECT 1 FROM client_budgets b WHERE b.deleted_at IS NULL AND (b.client_id = c.id OR b.client_id IS NULL) AND (b.pause_at_limit OR b.paused))
       OR EXISTS (SELECT 1 FROM budget_policies y WHERE y.client_id = c.id)`

const liteFrom = `
  FROM clients c LEFT JOIN client_settings s ON s.client_id = c.id`

const liteKey = `SELECT id, client_id, name, prefix, expires_at, revoked_at, created_at, last_used_at FROM client_api_keys`

// liteQuery is a database or a transaction.
type liteQuery interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

type liteRow interface{ Scan(...any) error }

// tx runs f in a transaction.
func (l *SQLite) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// CreateTenant implements Store.
func (l *SQLite) CreateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	t, err := t.normal()
	if err != nil {
		return Tenant{}, err
	}
	if t.ID == uuid.Nil {
		t.ID = uuid.New()
	}
	err = l.tx(ctx, func(tx *sql.Tx) error {
		added, err := tx.ExecContext(ctx, "INSERT INTO clients (id, name, use_ai_gateway, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			t.ID, t.Name, t.UseGateway, time.Now().UnixMicro())
		if err != nil {
			return err
		}
		if n, err := added.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("client %s: %w", t.ID, ErrExists))
		}
		if err := l.writeSettings(ctx, tx, t); err != nil {
			return err
		}
		if t, err = liteReadTenant(ctx, tx, t.ID); err != nil {
			return err
		}
		return liteAudit(ctx, tx, "tenant.create", t.ID, t.ID, nil, t)
	})
	if err != nil {
		return Tenant{}, fmt.Errorf("create tenant: %w", err)
	}
	return t, nil
}

// writeSettings writes a tenant's settings, with a phone key when there is none yet.
func (l *SQLite) writeSettings(ctx context.Context, tx *sql.Tx, t Tenant) error {
	models, err := json.Marshal(append([]string{}, t.AllowedModels...))
	if err != nil {
		return err
	}
	now := time.Now().UnixMicro()
	_, err = tx.ExecContext(ctx, `
		INSERT INTO client_settings (client_id, name, paused, paused_reason, allowed_models, default_model, unknown_models,
		                             time_zone, raw_phones, on_client_gone, phone_key, created_at, updated_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (client_id) DO UPDATE SET
			name = excluded.name, paused = excluded.paused, paused_reason = excluded.paused_reason,
			allowed_models = excluded.allowed_models, default_model = excluded.default_model,
			unknown_models = excluded.unknown_models, time_zone = excluded.time_zone, raw_phones = excluded.raw_phones,
			on_client_gone = excluded.on_client_gone, phone_key = coalesce(phone_key, excluded.phone_key), updated_at = max(excluded.updated_at, updated_at + 1)`,
		t.ID, t.Name, t.Paused, t.PausedReason, string(models), t.DefaultModel, string(t.UnknownModels), t.TimeZone, t.RawPhones,
		string(t.OnClientGone), newPhoneKey(l.vault, t.ID), now, now)
	return err
}

// Tenant implements Store.
func (l *SQLite) Tenant(ctx context.Context, id uuid.UUID) (Tenant, error) {
	t, err := liteReadTenant(ctx, l.db, id)
	if err != nil {
		return Tenant{}, fmt.Errorf("tenant %s: %w", id, err)
	}
	return t, nil
}

// Tenants implements Store.
func (l *SQLite) Tenants(ctx context.Context) ([]Tenant, error) {
	rows, err := l.db.QueryContext(ctx, liteTenant+liteFrom+" WHERE s.deleted_at IS NULL ORDER BY 2, 1")
	all, err := liteCollect(rows, err, func(row liteRow) (Tenant, error) {
		s, err := liteScanTenant(row)
		return s.tenant, err
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return all, nil
}

// UpdateTenant implements Store.
func (l *SQLite) UpdateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	t, err := t.normal()
	if err != nil {
		return Tenant{}, err
	}
	var after Tenant
	err = l.tx(ctx, func(tx *sql.Tx) error {
		before, err := liteReadTenant(ctx, tx, t.ID)
		if err != nil {
			return err
		}
		if !t.UpdatedAt.IsZero() && !t.UpdatedAt.Equal(before.UpdatedAt) {
			return ErrConflict
		}
		if _, err := tx.ExecContext(ctx, "UPDATE clients SET use_ai_gateway = ? WHERE id = ?", t.UseGateway, t.ID); err != nil {
			return err
		}
		if err := l.writeSettings(ctx, tx, t); err != nil {
			return err
		}
		if after, err = liteReadTenant(ctx, tx, t.ID); err != nil {
			return err
		}
		return liteAudit(ctx, tx, "tenant.update", t.ID, t.ID, before, after)
	})
	if err != nil {
		return Tenant{}, fmt.Errorf("update tenant %s: %w", t.ID, err)
	}
	return after, nil
}

// DeleteTenant implements Store.
func (l *SQLite) DeleteTenant(ctx context.Context, id uuid.UUID) error {
	err := l.tx(ctx, func(tx *sql.Tx) error {
		before, err := liteReadTenant(ctx, tx, id)
		if err != nil {
			return err
		}
		now := time.Now().UnixMicro()
		for _, statement := range []string{
			`INSERT INTO client_settings (client_id, deleted_at) VALUES (?1, ?2)
			 ON CONFLICT (client_id) DO UPDATE SET deleted_at = ?2, updated_at = ?2, phone_key = NULL`,
			`UPDATE client_api_keys SET revoked_at = ?2 WHERE client_id = ?1 AND revoked_at IS NULL`,
		} {
			if _, err := tx.ExecContext(ctx, statement, id, now); err != nil {
				return err
			}
		}
		return liteAudit(ctx, tx, "tenant.delete", id, id, before, nil)
	})
	if err != nil {
		return fmt.Errorf("delete tenant %s: %w", id, err)
	}
	return nil
}

func liteReadTenant(ctx context.Context, q liteQuery, id uuid.UUID) (Tenant, error) {
	s, err := liteScanTenant(q.QueryRowContext(ctx, liteTenant+liteFrom+" WHERE s.deleted_at IS NULL AND c.id = ?", id))
	return s.tenant, err
}

// liteScanTenant reads a row of liteTenant, and what was selected behind it.
func liteScanTenant(row liteRow, more ...any) (stored, error) {
	var s stored
	var models string
	var created int64
	var updated sql.NullInt64
	t := &s.tenant
	err := row.Scan(append([]any{
		&t.ID, &t.Name, &t.Paused, &t.PausedReason, &t.UseGateway, &models, &t.DefaultModel, &t.UnknownModels,
		&t.TimeZone, &t.RawPhones, &t.OnClientGone, &created, &updated, &s.phoneKey, &s.budgets,
	}, more...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return s, ErrNotFound
	}
	if err != nil {
		return s, err
	}
	t.CreatedAt, t.UpdatedAt = time.UnixMicro(created).UTC(), microTime(updated)
	if err := json.Unmarshal([]byte(models), &t.AllowedModels); err != nil {
		return s, fmt.Errorf("tenant %s: %w: allowed_models: %v", t.ID, errBroken, err)
	}
	if len(t.AllowedModels) == 0 {
		t.AllowedModels = nil
	}
	return s, nil
}

func liteAudit(ctx context.Context, tx *sql.Tx, action string, client, subject uuid.UUID, before, after any) error {
	was, err := auditJSON(before)
	if err != nil {
		return err
	}
	is, err := auditJSON(after)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO audit_log (at, actor, action, client_id, subject, before, after) VALUES (?, ?, ?, NULLIF(?, '"+uuid.Nil.String()+"'), ?, ?, ?)",
		time.Now().UnixMicro(), Actor(ctx), action, client, subject.String(), textOrNil(was), textOrNil(is))
	return err
}

// Note implements Store.
func (l *SQLite) Note(ctx context.Context, action string, subject uuid.UUID, before, after json.RawMessage) error {
	err := l.tx(ctx, func(tx *sql.Tx) error {
		return liteAudit(ctx, tx, action, uuid.Nil, subject, orNothing(before), orNothing(after))
	})
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// Audit implements Store.
func (l *SQLite) Audit(ctx context.Context, client uuid.UUID, before int64, limit int) ([]AuditEntry, error) {
	rows, err := l.db.QueryContext(ctx, `
		SELECT id, at, actor, action, coalesce(client_id, '`+uuid.Nil.String()+`'), subject, before, after FROM audit_log
		 WHERE (?1 = '`+uuid.Nil.String()+`' OR client_id = ?1) AND (?2 <= 0 OR id < ?2) ORDER BY id DESC LIMIT ?3`,
		client, before, min(max(limit, 1), maxAudit))
	all, err := liteCollect(rows, err, func(row liteRow) (e AuditEntry, err error) {
		var at int64
		var was, is []byte
		err = row.Scan(&e.ID, &at, &e.Actor, &e.Action, &e.ClientID, &e.Subject, &was, &is)
		e.At, e.Before, e.After = time.UnixMicro(at).UTC(), was, is
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return all, nil
}

// liteCollect reads all rows of a query that may have failed.
func liteCollect[T any](rows *sql.Rows, err error, scan func(liteRow) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

func microTime(at sql.NullInt64) time.Time {
	if !at.Valid {
		return time.Time{}
	}
	return time.UnixMicro(at.Int64).UTC()
}

func microOrNil(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func textOrNil(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}
