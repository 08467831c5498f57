package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CreateKey implements Store.
func (p *Postgres) CreateKey(ctx context.Context, k Key, digest [32]byte) (Key, error) {
	k, err := k.normal()
	if err != nil {
		return Key{}, err
	}
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := pgLockTenant(ctx, tx, k.ClientID); err != nil {
			return err
		}
		if k, err = pgInsertKey(ctx, tx, k, digest); err != nil {
			return err
		}
		return pgAudit(ctx, tx, "key.create", k.ClientID, k.ID, nil, k)
	})
	if err != nil {
		return Key{}, fmt.Errorf("create a key: %w", err)
	}
	return k, nil
}

func pgInsertKey(ctx context.Context, tx pgx.Tx, k Key, digest [32]byte) (Key, error) {
	if k.ID == uuid.Nil {
		k.ID = uuid.New()
	}
	made, err := pgScanKey(tx.QueryRow(ctx, `
		INSERT INTO client_api_keys (id, client_id, name, digest, prefix, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT DO NOTHING RETURNING id, client_id, name, prefix, expires_at, revoked_at, created_at, last_used_at`,
		k.ID, k.ClientID, k.Name, digest[:], k.Prefix, orNil(k.ExpiresAt)))
	if errors.Is(err, ErrNotFound) { // a conflict; Postgres' own error would hold the digest
		return Key{}, fmt.Errorf("a key with this id or secret: %w", ErrExists)
	}
	return made, err
}

// Keys implements Store.
func (p *Postgres) Keys(ctx context.Context, client uuid.UUID) ([]Key, error) {
	if _, err := p.Tenant(ctx, client); err != nil {
		return nil, err
	}
	rows, err := p.pool.Query(ctx, pgKey+" WHERE client_id = $1 ORDER BY created_at, id", client)
	if err != nil {
		return nil, fmt.Errorf("list the keys of tenant %s: %w", client, err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Key, error) { return pgScanKey(row) })
	if err != nil {
		return nil, fmt.Errorf("list the keys of tenant %s: %w", client, err)
	}
	return all, nil
}

// RotateKey implements Store.
func (p *Postgres) RotateKey(ctx context.Context, id uuid.UUID, digest [32]byte, prefix string, grace time.Duration) (Key, error) {
	var next Key
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		old, err := pgScanKey(tx.QueryRow(ctx, pgKey+" WHERE id = $1 FOR UPDATE", id))
		if err != nil {
			return err
		}
		var now time.Time
		var rotated bool
		if err := tx.QueryRow(ctx, "SELECT now(), successor_id IS NOT NULL FROM client_api_keys WHERE id = $1", id).Scan(&now, &rotated); err != nil {
			return err
		}
		successor, ends, err := old.rotate(now.UTC(), rotated, prefix, grace)
		if err != nil {
			return err
		}
		if next, err = pgInsertKey(ctx, tx, successor, digest); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE client_api_keys SET expires_at = $2, successor_id = $3 WHERE id = $1", id, ends, next.ID); err != nil {
			return err
		}
		return pgAudit(ctx, tx, "key.rotate", next.ClientID, id, old, next)
	})
	if err != nil {
		return Key{}, fmt.Errorf("rotate key %s: %w", id, err)
	}
	return next, nil
}

// RevokeKey implements Store.
func (p *Postgres) RevokeKey(ctx context.Context, id uuid.UUID) error {
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		before, err := pgScanKey(tx.QueryRow(ctx, pgKey+" WHERE id = $1 FOR UPDATE", id))
		if err != nil || !before.RevokedAt.IsZero() {
			return err // revoked is revoked
		}
		if _, err := tx.Exec(ctx, "UPDATE client_api_keys SET revoked_at = now() WHERE id = $1", id); err != nil {
			return err
		}
		after, err := pgScanKey(tx.QueryRow(ctx, pgKey+" WHERE id = $1", id))
		if err != nil {
			return err
		}
		return pgAudit(ctx, tx, "key.revoke", before.ClientID, id, before, after)
	})
	if err != nil {
		return fmt.Errorf("revoke key %s: %w", id, err)
	}
	return nil
}

// TouchKeys implements Store. Replicas that note the same keys take the rows in one order, and leave alone what another
// has just written.
func (p *Postgres) TouchKeys(ctx context.Context, ids []uuid.UUID, at time.Time) error {
	_, err := p.pool.Exec(ctx, `
		UPDATE client_api_keys SET last_used_at = $2
		 WHERE id IN (SELECT id FROM client_api_keys WHERE id = ANY ($1)
		                 AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '30 seconds')
		               ORDER BY id FOR NO KEY UPDATE)`, ids, at)
	if err != nil {
		return fmt.Errorf("note the last use of %d keys: %w", len(ids), err)
	}
	return nil
}

// PrincipalByKey implements Store.
func (p *Postgres) PrincipalByKey(ctx context.Context, digest [32]byte) (*Principal, error) {
	return p.principal(ctx, `
		SELECT t.*, k.id, k.expires_at FROM client_api_keys k CROSS JOIN LATERAL (`+pgTenant+` AND c.id = k.client_id) t
		 WHERE k.digest = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())`, digest[:])
}

// PrincipalByClient implements Store.
func (p *Postgres) PrincipalByClient(ctx context.Context, id uuid.UUID) (*Principal, error) {
	return p.principal(ctx, `
		SELECT t.*, '00000000-0000-0000-0000-000000000000'::uuid, NULL::timestamptz FROM (`+pgTenant+` AND c.id = $1) t`, id)
}

func (p *Postgres) principal(ctx context.Context, query string, arg any) (*Principal, error) {
	var keyID uuid.UUID
	var expires *time.Time
	s, err := pgScanTenant(p.pool.QueryRow(ctx, query, arg), &keyID, &expires)
	if pgAnswered(err) {
		return nil, fmt.Errorf("find a tenant: %w: %v", errBroken, err)
	}
	if err != nil {
		return nil, fmt.Errorf("find a tenant: %w", err)
	}
	s.keyID, s.expiresAt = keyID, orZero(expires)
	if s.phoneKey == nil && !s.tenant.RawPhones {
		if s.phoneKey, err = p.makePhoneKey(ctx, s.tenant.ID); err != nil {
			return nil, fmt.Errorf("make the phone key of tenant %s: %w", s.tenant.ID, err)
		}
	}
	return s.principal(p.vault, &p.zones)
}

// pgAnswered says that a query failed for what is in the rows, not for the state of the server: classes 22, 23 and 42 of
// its errors, or a value that has not the type it should have.
func pgAnswered(err error) bool {
	var scan pgx.ScanArgError
	var refused *pgconn.PgError
	return errors.As(err, &scan) || errors.As(err, &refused) && slices.Contains([]string{"22", "23", "42"}, refused.Code[:2])
}

// makePhoneKey gives a client of the SaaS's its phone key. Of several that try at once one wins, and all get that one's.
func (p *Postgres) makePhoneKey(ctx context.Context, client uuid.UUID) (sealed []byte, err error) {
	err = p.pool.QueryRow(ctx, `
		INSERT INTO client_settings AS s (client_id, phone_key) VALUES ($1, $2)
		ON CONFLICT (client_id) DO UPDATE SET phone_key = coalesce(s.phone_key, EXCLUDED.phone_key) WHERE s.deleted_at IS NULL
		RETURNING phone_key`, client, newPhoneKey(p.vault, client)).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound // deleted in this moment
	}
	return sealed, err
}

// ResealPhoneKeys implements Store.
func (p *Postgres) ResealPhoneKeys(ctx context.Context) (int, error) {
	rows, err := p.pool.Query(ctx, "SELECT client_id, phone_key FROM client_settings WHERE phone_key IS NOT NULL")
	if err != nil {
		return 0, fmt.Errorf("reseal phone keys: %w", err)
	}
	type sealed struct {
		ClientID uuid.UUID
		PhoneKey []byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sealed])
	if err != nil {
		return 0, fmt.Errorf("reseal phone keys: %w", err)
	}
	return resealEach(all, p.vault, func(s sealed) (uuid.UUID, []byte) { return s.ClientID, s.PhoneKey },
		func(client uuid.UUID, was, is []byte) error {
			_, err := p.pool.Exec(ctx, "UPDATE client_settings SET phone_key = $3 WHERE client_id = $1 AND phone_key = $2", client, was, is)
			return err
		})
}

// Changes implements Store. The row of the version asked for is read as well: when it is not there, others may not be
// there either.
func (p *Postgres) Changes(ctx context.Context, after int64) ([]Change, int64, error) {
	if after == 0 {
		var newest int64
		if err := p.pool.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM config_changes").Scan(&newest); err != nil {
			return nil, 0, fmt.Errorf("read the change feed: %w", err)
		}
		return nil, newest, nil
	}
	rows, err := p.pool.Query(ctx, `
		SELECT version, coalesce(client_id, '00000000-0000-0000-0000-000000000000') FROM config_changes
		 WHERE version >= $1 ORDER BY version LIMIT $2`, after, maxChanges+1)
	if err != nil {
		return nil, after, fmt.Errorf("read the change feed: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Change])
	if err != nil {
		return nil, after, fmt.Errorf("read the change feed: %w", err)
	}
	return since(all, after)
}

func pgScanKey(row pgx.Row) (k Key, err error) {
	var expires, revoked, used *time.Time
	err = row.Scan(&k.ID, &k.ClientID, &k.Name, &k.Prefix, &expires, &revoked, &k.CreatedAt, &used)
	if errors.Is(err, pgx.ErrNoRows) {
		return k, ErrNotFound
	}
	k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt = k.CreatedAt.UTC(), orZero(expires), orZero(revoked), orZero(used)
	return k, err
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
