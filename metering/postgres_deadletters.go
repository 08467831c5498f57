package metering

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var _ DeadLetters = (*Postgres)(nil)

const pgLetterColumns = `incarnation, seq, digest, state, reason, note, tries, created_at, coalesce(settled_at, '0001-01-01'),
	coalesce(client_id, '00000000-0000-0000-0000-000000000000'), total_tokens::int8, (cost_usd * 1000000000000)::int8, (cost_brl * 1000000000000)::int8`

func (r *letterRow) pgScan(row pgx.Row, more ...any) error {
	err := row.Scan(append([]any{
		&r.incarnation, &r.seq, &r.digest, &r.State, &r.Reason, &r.Note, &r.Tries, &r.CreatedAt, &r.SettledAt,
		&r.ClientID, &r.tokens, &r.usd, &r.brl,
	}, more...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoLetter
	}
	return err
}

// Letters lists dead letters, newest first. See DeadLetters.
func (p *Postgres) Letters(ctx context.Context, q LetterQuery) (page []Letter, next string, err error) {
	plan, err := q.plan()
	if err != nil {
		return nil, "", err
	}
	var where pgWhere
	where.and("state = ?", plan.State)
	if plan.ClientID != uuid.Nil {
		where.and("client_id = ?", plan.ClientID)
	}
	if plan.Reason != "" {
		where.and("strpos(lower(reason), lower(?::text)) > 0", plan.Reason)
	}
	if a := plan.after; a != nil {
		where.and("(created_at, incarnation, seq, digest) < (?, ?, ?, ?)", time.UnixMicro(a.at), int64(a.id.Incarnation), int64(a.id.Seq), a.id.Digest[:])
	}
	rows, err := p.pool.Query(ctx, "SELECT "+pgLetterColumns+" FROM dead_letters"+where.String()+
		" ORDER BY created_at DESC, incarnation DESC, seq DESC, digest DESC LIMIT "+strconv.Itoa(plan.Limit+1), where.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Letter, error) {
		var r letterRow
		err := r.pgScan(row)
		return r.letter(), err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	page, next = plan.page(all)
	return page, next, nil
}

// pgRow is a pool or a transaction.
type pgRow interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// pgLetter reads a letter with its bytes.
func pgLetter(ctx context.Context, q pgRow, id LetterID, lock string) (r letterRow, err error) {
	err = r.pgScan(q.QueryRow(ctx, "SELECT "+pgLetterColumns+", raw FROM dead_letters WHERE incarnation = $1 AND seq = $2 AND substring(digest FOR 8) = $3 LIMIT 1"+lock,
		int64(id.Incarnation), int64(id.Seq), id.Digest[:]), &r.Raw)
	return r, err
}

// Letter gives one dead letter with its bytes. See DeadLetters.
func (p *Postgres) Letter(ctx context.Context, id LetterID) (Letter, error) {
	r, err := pgLetter(ctx, p.pool, id, "")
	if err != nil {
		return Letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return r.letter(), nil
}

// Replay tries to record a dead letter's event now. See DeadLetters.
func (p *Postgres) Replay(ctx context.Context, id LetterID) (done Replayed, err error) {
	err = p.retry(ctx, func(tx pgx.Tx) error {
		done = Replayed{}
		r, err := pgLetter(ctx, tx, id, " FOR UPDATE")
		if err != nil {
			return err
		}
		if r.State != LetterOpen {
			done.Outcome = ReplaySettled
			return nil
		}
		rows, refused := r.toReplay()
		if refused == "" {
			done.Outcome, err = p.replayRow(ctx, tx, &r, rows)
			if err = permanent(err); errors.Is(err, ErrUnrecordable) {
				refused = err.Error()
			} else if err != nil {
				return err
			}
		}
		if refused == "" {
			_, err = tx.Exec(ctx, "UPDATE dead_letters SET state = 'replayed', settled_at = clock_timestamp() WHERE incarnation = $1 AND seq = $2 AND digest = $3",
				r.incarnation, r.seq, r.digest)
			return err
		}
		done = Replayed{ReplayRefused, cleanText(refused, maxReason)}
		_, err = tx.Exec(ctx, "UPDATE dead_letters SET reason = $4, tries = tries + 1 WHERE incarnation = $1 AND seq = $2 AND digest = $3",
			r.incarnation, r.seq, r.digest, done.Reason)
		return err
	})
	if err != nil {
		return Replayed{}, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return done, nil
}

// replayRow records a letter's row, in a savepoint: what Postgres refuses must not take the rest of the transaction along.
func (p *Postgres) replayRow(ctx context.Context, tx pgx.Tx, r *letterRow, rows []logRow) (outcome ReplayOutcome, err error) {
	row := &rows[0]
	outcome = ReplayRecorded
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		var had bool
		err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM gateway_usage_logs WHERE client_id = $1 AND created_at = $2 AND incarnation = $3 AND seq = $4)",
			row.ClientID, row.AdmittedAt, row.incarnation, row.seq).Scan(&had)
		if err != nil {
			return err
		}
		if r.seq == 0 && !had { // the letter never counted as this event, so the watermark tells the truth of it
			err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM producers WHERE incarnation = $1 AND received @> $2::int8)", row.incarnation, row.seq).Scan(&had)
			if err != nil {
				return err
			}
		}
		if had {
			outcome = ReplayHad
			return nil
		}
		if r.seq != 0 {
			_, err := tx.Exec(ctx, "UPDATE producers SET received = received - int8multirange(int8range($2, $2, '[]')) WHERE incarnation = $1", row.incarnation, row.seq)
			if err != nil {
				return err
			}
		}
		fresh, err := insertFresh(ctx, tx, p.record, columnArrays(logColumns, rows), rows)
		if err != nil {
			return err
		}
		incarnations, received := receivedOf(rows)
		return p.settle(ctx, tx, fresh, receiveSQL, incarnations, received)
	})
	return outcome, err
}

// Discard settles a dead letter that will never be recorded. See DeadLetters.
func (p *Postgres) Discard(ctx context.Context, id LetterID, note string) error {
	err := p.retry(ctx, func(tx pgx.Tx) error {
		r, err := pgLetter(ctx, tx, id, " FOR UPDATE")
		if err != nil {
			return err
		}
		if r.State != LetterOpen {
			return ErrLetterSettled
		}
		_, err = tx.Exec(ctx, "UPDATE dead_letters SET state = 'discarded', settled_at = clock_timestamp(), note = $4 WHERE incarnation = $1 AND seq = $2 AND digest = $3",
			r.incarnation, r.seq, r.digest, cleanText(note, maxReason))
		return err
	})
	if err != nil {
		return fmt.Errorf("discard dead letter %s: %w", id, err)
	}
	return nil
}

// LetterClaims sums up what dead letters claim. See DeadLetters.
func (p *Postgres) LetterClaims(ctx context.Context) ([]LetterClaims, error) {
	rows, err := p.pool.Query(ctx, `SELECT state, count(*), count(*) FILTER (WHERE total_tokens IS NULL), coalesce(sum(total_tokens), 0)::text,
	coalesce(sum(cost_usd), 0)::text, coalesce(sum(cost_brl), 0)::text FROM dead_letters GROUP BY 1 ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("sum up dead letters: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c LetterClaims, err error) {
		err = row.Scan(&c.State, &c.Count, &c.Unread, textDecimal{&c.Tokens}, textDecimal{&c.USD}, textDecimal{&c.BRL})
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("sum up dead letters: %w", err)
	}
	return all, nil
}
