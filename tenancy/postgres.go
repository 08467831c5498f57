package tenancy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres is the Store of a deployment. The database may be a SaaS's own: its clients table then has columns we know
// nothing of, and may lack the name.
type Postgres struct {
	pool  *pgxpool.Pool
	vault *Vault
	zones zones
}

var _ Store = (*Postgres)(nil)

// NewPostgres is the store in a migrated database.
func NewPostgres(pool *pgxpool.Pool, vault *Vault) *Postgres {
	return &Postgres{pool: pool, vault: vault}
}

// pgTenant reads a tenant. to_jsonb finds a client's name and age where the SaaS's table has them, in a form we can read,
// and nothing where it has not.
const pgTenant = `
SELECT c.id, coalesce(nullif(s.name, ''), to_jsonb(c) ->> 'name', ''), coalesce(s.paused, false), coalesce(s.paused_reason, ''),
       coalesce(c.use_ai_gateway, false), coalesce(s.allowed_models, '{}'), coalesce(s.default_model, ''),
       coalesce(s.unknown_models, ''), coalesce(s.time_zone, '` + DefaultTimeZone + `'), coalesce(s.raw_phones, false),
       coalesce(s.on_client_gone, '` + string(CancelGone) + `'),
       coalesce(CASE WHEN to_jsonb(c) ->> 'created_at' ~ '^\d{4}-\d\d-\d\d[ T]\d\d:' THEN (to_jsonb(c) ->> 'created_at')::timestamptz END,
                s.created_at, 'epoch'), s.updated_at, s.phone_key,
       EXISTS (SELECT FROM client_budgets b WHERE b.deleted_at IS NULL AND (b.client_id = c.id OR b.client_id IS NULL) AND (b.pause_at_limit OR b.paused))
       OR EXISTS (SELECT FROM budget_policies y WHERE y.client_id = c.id)
  FROM clients c LEFT JOIN client_settings s ON s.client_id = c.id
 WHERE s.deleted_at IS NULL`

const pgKey = `SELECT id, client_id, name, prefix, expires_at, revoked_at, created_at, last_used_at FROM client_api_keys`

// pgQuery is a pool or a transaction.
type pgQuery interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Check says whether this role can see the tables' rows. Under row-level security that is not its own, everything would
// look empty and every key invalid.
func (p *Postgres) Check(ctx context.Context) error {
	var role, hidden string
	err := p.pool.QueryRow(ctx, `
		SELECT current_user, coalesce(string_agg(name, ', '), '')
		  FROM unnest(ARRAY['clients', 'client_settings', 'client_api_keys', 'config_changes', 'audit_log']) AS name
		 WHERE row_security_active(name)`).Scan(&role, &hidden)
	if err != nil {
		return fmt.Errorf("check the tenancy tables: %w", err)
	}
	if hidden != "" {
		return fmt.Errorf("row-level security hides rows of %s from role %q: use the role that owns the tables, a member of it, or one with BYPASSRLS", hidden, role)
	}
	return nil
}

// CreateTenant implements Store.
func (p *Postgres) CreateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	t, err := t.normal()
	if err != nil {
		return Tenant{}, err
	}
	if t.ID == uuid.Nil {
		t.ID = uuid.New()
	}
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if err := pgInsertClient(ctx, tx, t); err != nil {
			return err
		}
		if err := p.writeSettings(ctx, tx, t); err != nil {
			return err
		}
		if t, err = pgReadTenant(ctx, tx, t.ID); err != nil {
			return err
		}
		return pgAudit(ctx, tx, "tenant.create", t.ID, t.ID, nil, t)
	})
	if err != nil {
		return Tenant{}, fmt.Errorf("create tenant: %w", err)
	}
	return t, nil
}

// pgInsertClient adds a row to clients, which may be the SaaS's table.
func pgInsertClient(ctx context.Context, tx pgx.Tx, t Tenant) error {
	var named bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_attribute
		WHERE attrelid = 'clients'::regclass AND attname = 'name' AND NOT attisdropped)`).Scan(&named)
	if err != nil {
		return err
	}
	if named {
		_, err = tx.Exec(ctx, "INSERT INTO clients (id, use_ai_gateway, name) VALUES ($1, $2, $3)", t.ID, t.UseGateway, t.Name)
	} else {
		_, err = tx.Exec(ctx, "INSERT INTO clients (id, use_ai_gateway) VALUES ($1, $2)", t.ID, t.UseGateway)
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.TableName == "clients" {
		switch refused.Code {
		case "23505":
			return fmt.Errorf("client %s: %w", t.ID, ErrExists)
		case "23502", "23514", "23503":
			return &Invalid{"id", fmt.Sprintf("this database's clients table asks for more than Catraca knows (%s %s): create the client where it is managed, and it is a tenant here", refused.ColumnName, refused.ConstraintName)}
		}
	}
	return err
}

// writeSettings writes a tenant's settings, with a phone key when there is none yet.
func (p *Postgres) writeSettings(ctx context.Context, tx pgx.Tx, t Tenant) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO client_settings AS s (client_id, name, paused, paused_reason, allowed_models, default_model, unknown_models,
		                                  time_zone, raw_phones, on_client_gone, phone_key)
		VALUES ($1, $2, $3, $4, coalesce($5, '{}'::text[]), $6, $7, $8, $9, $10, $11)
		ON CONFLICT (client_id) DO UPDATE SET
			name = EXCLUDED.name, paused = EXCLUDED.paused, paused_reason = EXCLUDED.paused_reason,
			allowed_models = EXCLUDED.allowed_models, default_model = EXCLUDED.default_model,
			unknown_models = EXCLUDED.unknown_models, time_zone = EXCLUDED.time_zone, raw_phones = EXCLUDED.raw_phones,
			on_client_gone = EXCLUDED.on_client_gone, phone_key = coalesce(s.phone_key, EXCLUDED.phone_key),
			updated_at = greatest(clock_timestamp(), s.updated_at + interval '1 microsecond')`,
		t.ID, t.Name, t.Paused, t.PausedReason, t.AllowedModels, t.DefaultModel, string(t.UnknownModels), t.TimeZone, t.RawPhones,
		string(t.OnClientGone), newPhoneKey(p.vault, t.ID))
	return err
}

// Tenant implements Store.
func (p *Postgres) Tenant(ctx context.Context, id uuid.UUID) (Tenant, error) {
	t, err := pgReadTenant(ctx, p.pool, id)
	if err != nil {
		return Tenant{}, fmt.Errorf("tenant %s: %w", id, err)
	}
	return t, nil
}

// Tenants implements Store.
func (p *Postgres) Tenants(ctx context.Context) ([]Tenant, error) {
	rows, err := p.pool.Query(ctx, pgTenant+" ORDER BY 2, 1")
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Tenant, error) {
		s, err := pgScanTenant(row)
		return s.tenant, err
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return all, nil
}

// UpdateTenant implements Store.
func (p *Postgres) UpdateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	t, err := t.normal()
	if err != nil {
		return Tenant{}, err
	}
	var after Tenant
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		before, err := pgLockTenant(ctx, tx, t.ID)
		if err != nil {
			return err
		}
		if !t.UpdatedAt.IsZero() && !t.UpdatedAt.Equal(before.UpdatedAt) {
			return ErrConflict
		}
		if t.UseGateway != before.UseGateway {
			if _, err := tx.Exec(ctx, "UPDATE clients SET use_ai_gateway = $2 WHERE id = $1", t.ID, t.UseGateway); err != nil {
				return err
			}
		}
		if err := p.writeSettings(ctx, tx, t); err != nil {
			return err
		}
		if after, err = pgReadTenant(ctx, tx, t.ID); err != nil {
			return err
		}
		return pgAudit(ctx, tx, "tenant.update", t.ID, t.ID, before, after)
	})
	if err != nil {
		return Tenant{}, fmt.Errorf("update tenant %s: %w", t.ID, err)
	}
	return after, nil
}

// DeleteTenant implements Store.
func (p *Postgres) DeleteTenant(ctx context.Context, id uuid.UUID) error {
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		before, err := pgLockTenant(ctx, tx, id)
		if err != nil {
			return err
		}
		for _, statement := range []string{
			`INSERT INTO client_settings (client_id, name, deleted_at) VALUES ($1, '', now())
			 ON CONFLICT (client_id) DO UPDATE SET deleted_at = now(), updated_at = now(), phone_key = NULL`,
			`UPDATE client_api_keys SET revoked_at = now() WHERE client_id = $1 AND revoked_at IS NULL`,
		} {
			if _, err := tx.Exec(ctx, statement, id); err != nil {
				return err
			}
		}
		return pgAudit(ctx, tx, "tenant.delete", id, id, before, nil)
	})
	if err != nil {
		return fmt.Errorf("delete tenant %s: %w", id, err)
	}
	return nil
}

// pgLockTenant reads a tenant for a change. The lock is the client's, because it may have no settings yet.
func pgLockTenant(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Tenant, error) {
	if _, err := tx.Exec(ctx, "SELECT FROM clients WHERE id = $1 FOR NO KEY UPDATE", id); err != nil {
		return Tenant{}, err
	}
	return pgReadTenant(ctx, tx, id)
}

func pgReadTenant(ctx context.Context, q pgQuery, id uuid.UUID) (Tenant, error) {
	s, err := pgScanTenant(q.QueryRow(ctx, pgTenant+" AND c.id = $1", id))
	return s.tenant, err
}

// pgScanTenant reads a row of pgTenant, and what was selected behind it.
func pgScanTenant(row pgx.Row, more ...any) (stored, error) {
	var s stored
	var updated *time.Time
	t := &s.tenant
	err := row.Scan(append([]any{
		&t.ID, &t.Name, &t.Paused, &t.PausedReason, &t.UseGateway, &t.AllowedModels, &t.DefaultModel, (*string)(&t.UnknownModels),
		&t.TimeZone, &t.RawPhones, (*string)(&t.OnClientGone), &t.CreatedAt, &updated, &s.phoneKey, &s.budgets,
	}, more...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, ErrNotFound
	}
	if len(t.AllowedModels) == 0 {
		t.AllowedModels = nil
	}
	t.CreatedAt, t.UpdatedAt = t.CreatedAt.UTC(), orZero(updated)
	return s, err
}

func pgAudit(ctx context.Context, tx pgx.Tx, action string, client, subject uuid.UUID, before, after any) error {
	was, err := auditJSON(before)
	if err != nil {
		return err
	}
	is, err := auditJSON(after)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO audit_log (actor, action, client_id, subject, before, after) VALUES ($1, $2, NULLIF($3, '00000000-0000-0000-0000-000000000000'::uuid), $4, $5, $6)",
		Actor(ctx), action, client, subject.String(), was, is)
	return err
}

// Note implements Store.
func (p *Postgres) Note(ctx context.Context, action string, subject uuid.UUID, before, after json.RawMessage) error {
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		return pgAudit(ctx, tx, action, uuid.Nil, subject, orNothing(before), orNothing(after))
	})
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// Audit implements Store.
func (p *Postgres) Audit(ctx context.Context, client uuid.UUID, before int64, limit int) ([]AuditEntry, error) {
	rows, err := p.pool.Query(ctx, `
		SELECT id, at, actor, action, client_id, subject, before, after FROM audit_log
		 WHERE ($1 = '00000000-0000-0000-0000-000000000000'::uuid OR client_id = $1) AND ($2 <= 0 OR id < $2)
		 ORDER BY id DESC LIMIT $3`, client, before, min(max(limit, 1), maxAudit))
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e AuditEntry, err error) {
		var of *uuid.UUID
		var was, is []byte
		err = row.Scan(&e.ID, &e.At, &e.Actor, &e.Action, &of, &e.Subject, &was, &is)
		e.At, e.Before, e.After = e.At.UTC(), json.RawMessage(was), json.RawMessage(is)
		if of != nil {
			e.ClientID = *of
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return all, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
