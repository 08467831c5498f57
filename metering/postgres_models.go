package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catraca/catraca/internal/money"
)

// LoadCatalog reads the registry with all prices.
func (p *Postgres) LoadCatalog(ctx context.Context) (*Catalog, error) {
	models, err := pgModels(ctx, p.pool)
	if err != nil {
		return nil, fmt.Errorf("load the registry: %w", err)
	}
	prices, err := pgPrices(ctx, p.pool, uuid.Nil)
	if err != nil {
		return nil, fmt.Errorf("load the registry: %w", err)
	}
	return catalogOf(models, prices), nil
}

type pgReader interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

func pgModels(ctx context.Context, db pgReader) ([]Model, error) {
	rows, err := db.Query(ctx, `SELECT id, provider, model_name, gateway_identifier, kind, capabilities, coalesce(context_window, 0),
	coalesce(max_output_tokens, 0), coalesce(is_active, true), coalesce(retires_at, '0001-01-01 00:00:00+00'), replacement,
	coalesce(description, ''), coalesce(created_at, '0001-01-01 00:00:00+00')
FROM ai_models_registry`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Model, err error) {
		var capabilities []byte
		err = row.Scan(&m.ID, &m.Provider, &m.Name, &m.GatewayID, &m.Kind, &capabilities, &m.ContextWindow, &m.MaxOutput, &m.Active,
			&m.RetiresAt, &m.Replacement, &m.Description, &m.CreatedAt)
		m.RetiresAt, m.CreatedAt, m.Capabilities = m.RetiresAt.UTC(), m.CreatedAt.UTC(), parseCapabilities(capabilities)
		return m, err
	})
}

// pgPrices reads the prices of a model, or of all.
func pgPrices(ctx context.Context, db pgReader, model uuid.UUID) ([]Price, error) {
	rows, err := db.Query(ctx, `SELECT id, model_id, effective_from, coalesce(effective_to, '0001-01-01 00:00:00+00'), source, note,
	(input_usd * 1000000000000)::int8, (output_usd * 1000000000000)::int8, (cached_usd * 1000000000000)::int8,
	(cache_write_usd * 1000000000000)::int8, (audio_input_usd * 1000000000000)::int8, (audio_output_usd * 1000000000000)::int8,
	(audio_second_usd * 1000000000000)::int8, (image_usd * 1000000000000)::int8, (character_usd * 1000000000000)::int8, tiers::text
FROM model_prices WHERE $1 = '00000000-0000-0000-0000-000000000000'::uuid OR model_id = $1`, model)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (price Price, err error) {
		var figures [9]*int64
		var tiers string
		dest := []any{&price.ID, &price.ModelID, &price.From, &price.To, &price.Source, &price.Note}
		for i := range figures {
			dest = append(dest, &figures[i])
		}
		if err := row.Scan(append(dest, &tiers)...); err != nil {
			return price, err
		}
		for i, f := range price.figures() {
			*f = NoPrice
			if figures[i] != nil {
				*f = money.Pico(*figures[i])
			}
		}
		price.From, price.To = price.From.UTC(), price.To.UTC()
		price.Tiers, err = parseTiers(tiers)
		return price, err
	})
}

// UpsertModel adds a model, or changes the one that has its id or else its gateway id, and gives it as it is now,
// without prices: those are SetPrice's.
func (p *Postgres) UpsertModel(ctx context.Context, m Model) (Model, error) {
	if err := m.check(); err != nil {
		return Model{}, err
	}
	capabilities, err := json.Marshal(trueOnes(m.Capabilities))
	if err != nil {
		return Model{}, fmt.Errorf("model %s: %w", m.GatewayID, err)
	}
	err = p.retry(ctx, func(tx pgx.Tx) error {
		var id uuid.UUID
		err := tx.QueryRow(ctx, "SELECT id FROM ai_models_registry WHERE id = $1 OR gateway_identifier = $2 ORDER BY id = $1 DESC LIMIT 1 FOR UPDATE",
			m.ID, m.GatewayID).Scan(&id)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			if m.ID == uuid.Nil {
				m.ID = uuid.New()
			}
			return tx.QueryRow(ctx, `INSERT INTO ai_models_registry
	(id, provider, model_name, gateway_identifier, kind, capabilities, context_window, max_output_tokens, is_active, retires_at,
	 replacement, description, input_price_per_million, output_price_per_million)
VALUES ($1, $2, $3, $4, $5, $6, nullif($7::int4, 0), nullif($8::int4, 0), $9, $10, $11, $12, 0, 0) RETURNING created_at`,
				m.ID, m.Provider, m.Name, m.GatewayID, m.Kind, capabilities, m.ContextWindow, m.MaxOutput, m.Active, orNull(m.RetiresAt),
				m.Replacement, m.Description).Scan(&m.CreatedAt)
		case err != nil:
			return err
		}
		m.ID = id
		return tx.QueryRow(ctx, `UPDATE ai_models_registry SET provider = $2, model_name = $3, gateway_identifier = $4, kind = $5,
	capabilities = $6, context_window = nullif($7::int4, 0), max_output_tokens = nullif($8::int4, 0), is_active = $9, retires_at = $10,
	replacement = $11, description = $12, updated_at = now()
WHERE id = $1 RETURNING coalesce(created_at, '0001-01-01 00:00:00+00')`,
			m.ID, m.Provider, m.Name, m.GatewayID, m.Kind, capabilities, m.ContextWindow, m.MaxOutput, m.Active, orNull(m.RetiresAt),
			m.Replacement, m.Description).Scan(&m.CreatedAt)
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		return Model{}, fmt.Errorf("model %s: another model already is %s of %s, or has its gateway id", m.GatewayID, m.Name, m.Provider)
	}
	if err != nil {
		return Model{}, fmt.Errorf("model %s: %w", m.GatewayID, err)
	}
	m.CreatedAt, m.Prices = m.CreatedAt.UTC(), nil
	return m, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// DeactivateModel makes a model one that is refused. Its prices and its usage stay.
func (p *Postgres) DeactivateModel(ctx context.Context, id uuid.UUID) error {
	tag, err := p.pool.Exec(ctx, "UPDATE ai_models_registry SET is_active = false, updated_at = now() WHERE id = $1", id)
	if err != nil {
		return fmt.Errorf("deactivate model %s: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("deactivate model %s: %w", id, ErrUnknownModel)
	}
	return nil
}

// SetPrice begins a price: at price.From, or now when that is zero. The price that was in force then ends there, and one
// that was announced for later still comes. It gives the price as it is kept.
func (p *Postgres) SetPrice(ctx context.Context, model uuid.UUID, price Price) (Price, error) {
	price, tiers, err := newPrice(model, price, time.Now())
	if err != nil {
		return Price{}, err
	}
	err = p.retry(ctx, func(tx pgx.Tx) error {
		// The lock orders those who set prices of one model.
		err := tx.QueryRow(ctx, "SELECT id FROM ai_models_registry WHERE id = $1 FOR UPDATE", model).Scan(&model)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrUnknownModel
		}
		if err != nil {
			return err
		}
		prices, err := pgPrices(ctx, tx, model)
		if err != nil {
			return err
		}
		old, fitted := fitPrice(prices, price)
		if old != nil {
			if _, err := tx.Exec(ctx, "UPDATE model_prices SET effective_to = $2 WHERE id = $1", old.ID, fitted.From); err != nil {
				return err
			}
		}
		args := []any{fitted.ID, model, fitted.From, orNull(fitted.To), fitted.Source, fitted.Note, tiers}
		for _, f := range fitted.figures() {
			args = append(args, pico(*f))
		}
		if _, err := tx.Exec(ctx, `INSERT INTO model_prices (id, model_id, effective_from, effective_to, source, note, tiers, input_usd,
	output_usd, cached_usd, cache_write_usd, audio_input_usd, audio_output_usd, audio_second_usd, image_usd, character_usd)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::int8 * 0.000000000001, $9::int8 * 0.000000000001, $10::int8 * 0.000000000001,
	$11::int8 * 0.000000000001, $12::int8 * 0.000000000001, $13::int8 * 0.000000000001, $14::int8 * 0.000000000001,
	$15::int8 * 0.000000000001, $16::int8 * 0.000000000001)`, args...); err != nil {
			return err
		}
		price = fitted
		return pgShowPrice(ctx, tx, model, time.Now())
	})
	if err != nil {
		return Price{}, fmt.Errorf("set the price of model %s: %w", model, err)
	}
	return price, nil
}

// pgShowPrice brings the registry's price columns to the price in force.
func pgShowPrice(ctx context.Context, tx pgx.Tx, model uuid.UUID, now time.Time) error {
	prices, err := pgPrices(ctx, tx, model)
	if err != nil {
		return err
	}
	input, output, cached := registryPrices((&Model{Prices: prices}).PriceAt(now))
	_, err = tx.Exec(ctx, `UPDATE ai_models_registry SET input_price_per_million = $2::text::numeric,
	output_price_per_million = $3::text::numeric, cached_input_price_per_million = $4::text::numeric, updated_at = now()
WHERE id = $1 AND (input_price_per_million, output_price_per_million, cached_input_price_per_million)
	IS DISTINCT FROM ($2::text::numeric, $3::text::numeric, $4::text::numeric)`, model, input, output, cached)
	return err
}

// ShowPrices brings the registry's price columns to the prices in force. They are for readers of the plan's columns; run
// it daily, because a price that was announced begins without anybody's doing.
func (p *Postgres) ShowPrices(ctx context.Context, now time.Time) error {
	catalog, err := p.LoadCatalog(ctx)
	if err != nil {
		return err
	}
	for _, m := range catalog.Models() {
		if len(m.Prices) == 0 {
			continue // a registry of the plan's may have prices in its own columns only
		}
		err := p.retry(ctx, func(tx pgx.Tx) error { return pgShowPrice(ctx, tx, m.ID, now) })
		if err != nil {
			return fmt.Errorf("show the price of model %s: %w", m.GatewayID, err)
		}
	}
	return nil
}
