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

// CreateKey implements Store.
func (l *SQLite) CreateKey(ctx context.Context, k Key, digest [32]byte) (Key, error) {
	k, err := k.normal()
	if err != nil {
		return Key{}, err
	}
	err = l.tx(ctx, func(tx *sql.Tx) error {
		if _, err := liteReadTenant(ctx, tx, k.ClientID); err != nil {
			return err
		}
		if k, err = liteInsertKey(ctx, tx, k, digest); err != nil {
			return err
		}
		return liteAudit(ctx, tx, "key.create", k.ClientID, k.ID, nil, k)
	})
	if err != nil {
		return Key{}, fmt.Errorf("create a key: %w", err)
	}
	return k, nil
}

func liteInsertKey(ctx context.Context, tx *sql.Tx, k Key, digest [32]byte) (Key, error) {
	if k.ID == uuid.Nil {
		k.ID = uuid.New()
	}
	made, err := liteScanKey(tx.QueryRowContext(ctx, `
		INSERT INTO client_api_keys (id, client_id, name, digest, prefix, expires_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING RETURNING id, client_id, name, prefix, expires_at, revoked_at, created_at, last_used_at`,
		k.ID, k.ClientID, k.Name, digest[:], k.Prefix, microOrNil(k.ExpiresAt), time.Now().UnixMicro()))
	if errors.Is(err, ErrNotFound) {
		return Key{}, fmt.Errorf("a key with this id or secret: %w", ErrExists)
	}
	return made, err
}

// Keys implements Store.
func (l *SQLite) Keys(ctx context.Context, client uuid.UUID) ([]Key, error) {
	if _, err := l.Tenant(ctx, client); err != nil {
		return nil, err
	}
	rows, err := l.db.QueryContext(ctx, liteKey+" WHERE client_id = ? ORDER BY created_at, rowid", client)
	all, err := liteCollect(rows, err, liteScanKey)
	if err != nil {
		return nil, fmt.Errorf("list the keys of tenant %s: %w", client, err)
	}
	return all, nil
}

// RotateKey implements Store.
func (l *SQLite) RotateKey(ctx context.Context, id uuid.UUID, digest [32]byte, prefix string, grace time.Duration) (Key, error) {
	var next Key
	err := l.tx(ctx, func(tx *sql.Tx) error {
		old, err := liteScanKey(tx.QueryRowContext(ctx, liteKey+" WHERE id = ?", id))
		if err != nil {
			return err
		}
		var rotated bool
		if err := tx.QueryRowContext(ctx, "SELECT successor_id IS NOT NULL FROM client_api_keys WHERE id = ?", id).Scan(&rotated); err != nil {
			return err
		}
		successor, ends, err := old.rotate(time.Now(), rotated, prefix, grace)
		if err != nil {
			return err
		}
		if next, err = liteInsertKey(ctx, tx, successor, digest); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE client_api_keys SET expires_at = ?, successor_id = ? WHERE id = ?", ends.UnixMicro(), next.ID, id); err != nil {
			return err
		}
		return liteAudit(ctx, tx, "key.rotate", next.ClientID, id, old, next)
	})
	if err != nil {
		return Key{}, fmt.Errorf("rotate key %s: %w", id, err)
	}
	return next, nil
}

// RevokeKey implements Store.
func (l *SQLite) RevokeKey(ctx context.Context, id uuid.UUID) error {
	err := l.tx(ctx, func(tx *sql.Tx) error {
		before, err := liteScanKey(tx.QueryRowContext(ctx, liteKey+" WHERE id = ?", id))
		if err != nil || !before.RevokedAt.IsZero() {
			return err // revoked is revoked
		}
		after := before
		after.RevokedAt = time.UnixMicro(time.Now().UnixMicro()).UTC()
		if _, err := tx.ExecContext(ctx, "UPDATE client_api_keys SET revoked_at = ? WHERE id = ?", after.RevokedAt.UnixMicro(), id); err != nil {
			return err
		}
		return liteAudit(ctx, tx, "key.revoke", before.ClientID, id, before, after)
	})
	if err != nil {
		return fmt.Errorf("revoke key %s: %w", id, err)
	}
	return nil
}

// TouchKeys implements Store.
func (l *SQLite) TouchKeys(ctx context.Context, ids []uuid.UUID, at time.Time) error {
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	_, err = l.db.ExecContext(ctx, `
		UPDATE client_api_keys SET last_used_at = ?2 WHERE id IN (SELECT value FROM json_each(?1))
		   AND (last_used_at IS NULL OR last_used_at < ?2 - 30 * 1000000)`, string(list), at.UnixMicro())
	if err != nil {
		return fmt.Errorf("note the last use of %d keys: %w", len(ids), err)
	}
	return nil
}

// PrincipalByKey implements Store.
func (l *SQLite) PrincipalByKey(ctx context.Context, digest [32]byte) (*Principal, error) {
	return l.principal(ctx, liteTenant+", k.id, k.expires_at"+liteFrom+` JOIN client_api_keys k ON k.client_id = c.id
		WHERE s.deleted_at IS NULL AND k.digest = ? AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?)`,
		digest[:], time.Now().UnixMicro())
}

// PrincipalByClient implements Store.
func (l *SQLite) PrincipalByClient(ctx context.Context, id uuid.UUID) (*Principal, error) {
	return l.principal(ctx, liteTenant+", '"+uuid.Nil.String()+"', NULL"+liteFrom+" WHERE s.deleted_at IS NULL AND c.id = ?", id)
}

func (l *SQLite) principal(ctx context.Context, query string, args ...any) (*Principal, error) {
	var keyID uuid.UUID
	var expires sql.NullInt64
	s, err := liteScanTenant(l.db.QueryRowContext(ctx, query, args...), &keyID, &expires)
	if err != nil {
		return nil, fmt.Errorf("find a tenant: %w", err)
	}
	s.keyID, s.expiresAt = keyID, microTime(expires)
	if s.phoneKey == nil && !s.tenant.RawPhones {
		if s.phoneKey, err = l.makePhoneKey(ctx, s.tenant.ID); err != nil {
			return nil, fmt.Errorf("make the phone key of tenant %s: %w", s.tenant.ID, err)
		}
	}
	return s.principal(l.vault, &l.zones)
}

// makePhoneKey gives a client that has no settings its phone key. Of several that try at once one wins, and all get
// that one's.
func (l *SQLite) makePhoneKey(ctx context.Context, client uuid.UUID) (sealed []byte, err error) {
	err = l.db.QueryRowContext(ctx, `
		INSERT INTO client_settings (client_id, phone_key) VALUES (?, ?)
		ON CONFLICT (client_id) DO UPDATE SET phone_key = coalesce(phone_key, excluded.phone_key) WHERE deleted_at IS NULL
		RETURNING phone_key`, client, newPhoneKey(l.vault, client)).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound // deleted in this moment
	}
	return sealed, err
}

// ResealPhoneKeys implements Store.
func (l *SQLite) ResealPhoneKeys(ctx context.Context) (int, error) {
	type sealed struct {
		client   uuid.UUID
		phoneKey []byte
	}
	rows, err := l.db.QueryContext(ctx, "SELECT client_id, phone_key FROM client_settings WHERE phone_key IS NOT NULL")
	all, err := liteCollect(rows, err, func(row liteRow) (s sealed, err error) {
		err = row.Scan(&s.client, &s.phoneKey)
		return s, err
	})
	if err != nil {
		return 0, fmt.Errorf("reseal phone keys: %w", err)
	}
	return resealEach(all, l.vault, func(s sealed) (uuid.UUID, []byte) { return s.client, s.phoneKey },
		func(client uuid.UUID, was, is []byte) error {
			_, err := l.db.ExecContext(ctx, "UPDATE client_settings SET phone_key = ? WHERE client_id = ? AND phone_key = ?", is, client, was)
			return err
		})
}

// Changes implements Store. The row of the version asked for is read as well: when it is not there, others may not be
// there either.
func (l *SQLite) Changes(ctx context.Context, after int64) ([]Change, int64, error) {
	if after == 0 {
		var newest int64
		if err := l.db.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM config_changes").Scan(&newest); err != nil {
			return nil, 0, fmt.Errorf("read the change feed: %w", err)
		}
		return nil, newest, nil
	}
	rows, err := l.db.QueryContext(ctx, `SELECT version, coalesce(client_id, '`+uuid.Nil.String()+`') FROM config_changes
		WHERE version >= ? ORDER BY version LIMIT ?`, after, maxChanges+1)
	all, err := liteCollect(rows, err, func(row liteRow) (c Change, err error) {
		err = row.Scan(&c.Version, &c.ClientID)
		return c, err
	})
	if err != nil {
		return nil, after, fmt.Errorf("read the change feed: %w", err)
	}
	return since(all, after)
}

func liteScanKey(row liteRow) (k Key, err error) {
	var created int64
	var expires, revoked, used sql.NullInt64
	err = row.Scan(&k.ID, &k.ClientID, &k.Name, &k.Prefix, &expires, &revoked, &created, &used)
	if errors.Is(err, sql.ErrNoRows) {
		return k, ErrNotFound
	}
	k.CreatedAt = time.UnixMicro(created).UTC()
	k.ExpiresAt, k.RevokedAt, k.LastUsedAt = microTime(expires), microTime(revoked), microTime(used)
	return k, err
}
