package metering

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
)

// LoadCatalog reads the registry with all prices.
func (s *SQLite) LoadCatalog(ctx context.Context) (*Catalog, error) {
	models, err := sqliteModels(ctx, s.read)
	if err != nil {
		return nil, fmt.Errorf("load the registry: %w", err)
	}
	prices, err := sqlitePrices(ctx, s.read, uuid.Nil)
	if err != nil {
		return nil, fmt.Errorf("load the registry: %w", err)
	}
	return catalogOf(models, prices), nil
}

func sqliteModels(ctx context.Context, db sqliteReader) ([]Model, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, provider, model_name, gateway_identifier, kind, capabilities, coalesce(context_window, 0),
	coalesce(max_output_tokens, 0), coalesce(is_active, 1), retires_at, replacement, coalesce(description, ''), created_at
FROM ai_models_registry`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var models []Model
	for rows.Next() {
		var m Model
		var capabilities string
		err := rows.Scan(&m.ID, &m.Provider, &m.Name, &m.GatewayID, &m.Kind, &capabilities, &m.ContextWindow, &m.MaxOutput, &m.Active,
			sqliteInstant{&m.RetiresAt}, &m.Replacement, &m.Description, sqliteInstant{&m.CreatedAt})
		if err != nil {
			return nil, err
		}
		m.Capabilities = parseCapabilities([]byte(capabilities))
		models = append(models, m)
	}
	return models, rows.Err()
}

// sqlitePrices reads the prices of a model, or of all.
func sqlitePrices(ctx context.Context, db sqliteReader, model uuid.UUID) ([]Price, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, model_id, effective_from, effective_to, source, note, input_usd, output_usd, cached_usd,
	cache_write_usd, audio_input_usd, audio_output_usd, audio_second_usd, image_usd, character_usd, tiers
FROM model_prices WHERE ?1 = ?2 OR model_id = ?1`, model.String(), uuid.Nil.String())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var prices []Price
	for rows.Next() {
		var price Price
		var figures [9]sql.Null[int64]
		var tiers string
		dest := []any{&price.ID, &price.ModelID, sqliteInstant{&price.From}, sqliteInstant{&price.To}, &price.Source, &price.Note}
		for i := range figures {
			dest = append(dest, &figures[i])
		}
		if err := rows.Scan(append(dest, &tiers)...); err != nil {
			return nil, err
		}
		for i, f := range price.figures() {
			*f = NoPrice
			if figures[i].Valid {
				*f = money.Pico(figures[i].V)
			}
		}
		if price.Tiers, err = parseTiers(tiers); err != nil {
			return nil, err
		}
		prices = append(prices, price)
	}
	return prices, rows.Err()
}

// sqliteMicros is a time as SQLite keeps it; zero is null.
func sqliteMicros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// UpsertModel adds a model, or changes the one that has its id or else its gateway id, and gives it as it is now,
// without prices: those are SetPrice's.
func (s *SQLite) UpsertModel(ctx context.Context, m Model) (Model, error) {
	if err := m.check(); err != nil {
		return Model{}, err
	}
	capabilities, err := json.Marshal(trueOnes(m.Capabilities))
	if err != nil {
		return Model{}, fmt.Errorf("model %s: %w", m.GatewayID, err)
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		var id uuid.UUID
		err := tx.QueryRowContext(ctx, "SELECT id FROM ai_models_registry WHERE id = ?1 OR gateway_identifier = ?2 ORDER BY id = ?1 DESC LIMIT 1",
			m.ID.String(), m.GatewayID).Scan(&id)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			if m.ID == uuid.Nil {
				m.ID = uuid.New()
			}
			return tx.QueryRowContext(ctx, `INSERT INTO ai_models_registry
	(id, provider, model_name, gateway_identifier, kind, capabilities, context_window, max_output_tokens, is_active, retires_at,
	 replacement, description, input_price_per_million, output_price_per_million)
VALUES (?, ?, ?, ?, ?, ?, nullif(?, 0), nullif(?, 0), ?, ?, ?, ?, '0', '0') RETURNING created_at`,
				m.ID.String(), m.Provider, m.Name, m.GatewayID, m.Kind, string(capabilities), m.ContextWindow, m.MaxOutput, m.Active,
				sqliteMicros(m.RetiresAt), m.Replacement, m.Description).Scan(sqliteInstant{&m.CreatedAt})
		case err != nil:
			return err
		}
		m.ID = id
		return tx.QueryRowContext(ctx, `UPDATE ai_models_registry SET provider = ?2, model_name = ?3, gateway_identifier = ?4, kind = ?5,
	capabilities = ?6, context_window = nullif(?7, 0), max_output_tokens = nullif(?8, 0), is_active = ?9, retires_at = ?10,
	replacement = ?11, description = ?12, updated_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER)
WHERE id = ?1 RETURNING created_at`,
			m.ID.String(), m.Provider, m.Name, m.GatewayID, m.Kind, string(capabilities), m.ContextWindow, m.MaxOutput, m.Active,
			sqliteMicros(m.RetiresAt), m.Replacement, m.Description).Scan(sqliteInstant{&m.CreatedAt})
	})
	if err != nil && strings.Contains(err.Error(), "UNIQUE constraint failed") {
		return Model{}, fmt.Errorf("model %s: another model already is %s of %s, or has its gateway id", m.GatewayID, m.Name, m.Provider)
	}
	if err != nil {
		return Model{}, fmt.Errorf("model %s: %w", m.GatewayID, err)
	}
	m.Prices = nil
	return m, nil
}

// DeactivateModel makes a model one that is refused. Its prices and its usage stay.
func (s *SQLite) DeactivateModel(ctx context.Context, id uuid.UUID) error {
	res, err := s.write.ExecContext(ctx, `UPDATE ai_models_registry SET is_active = 0,
	updated_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE id = ?`, id.String())
	if err != nil {
		return fmt.Errorf("deactivate model %s: %w", id, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("deactivate model %s: %w", id, errors.Join(err, ErrUnknownModel))
	}
	return nil
}

// SetPrice begins a price: at price.From, or now when that is zero. The price that was in force then ends there, and one
// that was announced for later still comes. It gives the price as it is kept.
func (s *SQLite) SetPrice(ctx context.Context, model uuid.UUID, price Price) (Price, error) {
	price, tiers, err := newPrice(model, price, time.Now())
	if err != nil {
		return Price{}, err
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		var one int
		err := tx.QueryRowContext(ctx, "SELECT 1 FROM ai_models_registry WHERE id = ?", model.String()).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknownModel
		}
		if err != nil {
			return err
		}
		prices, err := sqlitePrices(ctx, tx, model)
		if err != nil {
			return err
		}
		old, fitted := fitPrice(prices, price)
		if old != nil {
			_, err := tx.ExecContext(ctx, "UPDATE model_prices SET effective_to = ? WHERE id = ?", fitted.From.UnixMicro(), old.ID.String())
			if err != nil {
				return err
			}
		}
		args := []any{fitted.ID.String(), model.String(), fitted.From.UnixMicro(), sqliteMicros(fitted.To), fitted.Source, fitted.Note, tiers}
		for _, f := range fitted.figures() {
			args = append(args, pico(*f))
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO model_prices (id, model_id, effective_from, effective_to, source, note, tiers, input_usd,
	output_usd, cached_usd, cache_write_usd, audio_input_usd, audio_output_usd, audio_second_usd, image_usd, character_usd)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, args...); err != nil {
			return err
		}
		price = fitted
		return sqliteShowPrice(ctx, tx, model, time.Now())
	})
	if err != nil {
		return Price{}, fmt.Errorf("set the price of model %s: %w", model, err)
	}
	return price, nil
}

// sqliteShowPrice brings the registry's price columns to the price in force.
func sqliteShowPrice(ctx context.Context, tx *sql.Tx, model uuid.UUID, now time.Time) error {
	prices, err := sqlitePrices(ctx, tx, model)
	if err != nil {
		return err
	}
	input, output, cached := registryPrices((&Model{Prices: prices}).PriceAt(now))
	_, err = tx.ExecContext(ctx, `UPDATE ai_models_registry SET input_price_per_million = ?2, output_price_per_million = ?3,
	cached_input_price_per_million = ?4, updated_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER)
WHERE id = ?1 AND (input_price_per_million <> ?2 OR output_price_per_million <> ?3 OR cached_input_price_per_million IS NOT ?4)`,
		model.String(), input, output, cached)
	return err
}

// ShowPrices brings the registry's price columns to the prices in force. They are for readers of the plan's columns; run
// it daily, because a price that was announced begins without anybody's doing.
func (s *SQLite) ShowPrices(ctx context.Context, now time.Time) error {
	catalog, err := s.LoadCatalog(ctx)
	if err != nil {
		return err
	}
	for _, m := range catalog.Models() {
		if len(m.Prices) == 0 {
			continue
		}
		err := s.transact(ctx, func(tx *sql.Tx) error { return sqliteShowPrice(ctx, tx, m.ID, now) })
		if err != nil {
			return fmt.Errorf("show the price of model %s: %w", m.GatewayID, err)
		}
	}
	return nil
}
