package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CheckVault says whether the master keys open what was sealed last in this database. With others, every tenant would
// be broken.
func (p *Postgres) CheckVault(ctx context.Context) error {
	var client uuid.UUID
	var sealed []byte
	err := p.pool.QueryRow(ctx, `
		SELECT client_id, phone_key FROM client_settings WHERE phone_key IS NOT NULL
		 ORDER BY created_at DESC LIMIT 1`).Scan(&client, &sealed)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("check the master key: %w", err)
	}
	if _, err := p.vault.Open(sealed, phoneKeyRow(client)); err != nil {
		return fmt.Errorf("CATRACA_MASTER_KEY is not the one that this database was filled with: %w", err)
	}
	return nil
}
