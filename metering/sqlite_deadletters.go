package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

var _ DeadLetters = (*SQLite)(nil)

const sqliteLetterColumns = `incarnation, seq, digest, state, reason, note, tries, created_at, settled_at, coalesce(client_id, ''),
	total_tokens, cost_usd, cost_brl`

// scan reads a letter. SQLite gives an empty text where the client is not known.
func (r *letterRow) sqliteScan(row interface{ Scan(...any) error }, more ...any) error {
	var client string
	err := row.Scan(append([]any{
		&r.incarnation, &r.seq, &r.digest, &r.State, &r.Reason, &r.Note, &r.Tries,
		sqliteInstant{&r.CreatedAt},
		sqliteInstant{&r.SettledAt},
		&client, &r.tokens, &r.usd, &r.brl,
	}, more...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNoLetter
	}
	if err == nil && client != "" {
		r.ClientID, err = uuid.Parse(client)
	}
	return err
}

// Letters lists dead letters, newest first. See DeadLetters.
func (s *SQLite) Letters(ctx context.Context, q LetterQuery) (page []Letter, next string, err error) {
	plan, err := q.plan()
	if err != nil {
		return nil, "", err
	}
	var where sqliteWhere
	where.and("state = ?", string(plan.State))
	if plan.ClientID != uuid.Nil {
		where.and("client_id = ?", plan.ClientID.String())
	}
	if plan.Reason != "" {
		where.and("instr(lower(reason), lower(?)) > 0", plan.Reason)
	}
	if a := plan.after; a != nil {
		where.and("(created_at, incarnation, seq, digest) < (?, ?, ?, ?)", a.at, int64(a.id.Incarnation), int64(a.id.Seq), a.id.Digest[:])
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+sqliteLetterColumns+" FROM dead_letters"+where.String()+
		" ORDER BY created_at DESC, incarnation DESC, seq DESC, digest DESC LIMIT "+strconv.Itoa(plan.Limit+1), where.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	defer rows.Close()
	var all []Letter
	for rows.Next() {
		var r letterRow
		if err := r.sqliteScan(rows); err != nil {
			return nil, "", fmt.Errorf("list dead letters: %w", err)
		}
		all = append(all, r.letter())
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	page, next = plan.page(all)
	return page, next, nil
}

func sqliteLetter(ctx context.Context, db sqliteReader, id LetterID) (r letterRow, err error) {
	err = r.sqliteScan(db.QueryRowContext(ctx, "SELECT "+sqliteLetterColumns+", raw FROM dead_letters WHERE incarnation = ? AND seq = ? AND substr(digest, 1, 8) = ? LIMIT 1",
		int64(id.Incarnation), int64(id.Seq), id.Digest[:]), &r.Raw)
	return r, err
}

// Letter gives one dead letter with its bytes. See DeadLetters.
func (s *SQLite) Letter(ctx context.Context, id LetterID) (Letter, error) {
	r, err := sqliteLetter(ctx, s.read, id)
	if err != nil {
		return Letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return r.letter(), nil
}

// Replay tries to record a dead letter's event now. See DeadLetters.
func (s *SQLite) Replay(ctx context.Context, id LetterID) (done Replayed, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		r, err := sqliteLetter(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.State != LetterOpen {
			done.Outcome = ReplaySettled
			return nil
		}
		rows, refused := r.toReplay()
		if refused == "" {
			done.Outcome, err = s.replayRow(ctx, tx, &r, rows)
			if err = sqlitePermanent(err); errors.Is(err, ErrUnrecordable) {
				refused = err.Error()
			} else if err != nil {
				return err
			}
		}
		if refused == "" {
			_, err = tx.ExecContext(ctx, "UPDATE dead_letters SET state = 'replayed', settled_at = "+sqliteNow+" WHERE incarnation = ? AND seq = ? AND digest = ?",
				r.incarnation, r.seq, r.digest)
			return err
		}
		done = Replayed{ReplayRefused, cleanText(refused, maxReason)}
		_, err = tx.ExecContext(ctx, "UPDATE dead_letters SET reason = ?, tries = tries + 1 WHERE incarnation = ? AND seq = ? AND digest = ?",
			done.Reason, r.incarnation, r.seq, r.digest)
		return err
	})
	if err != nil {
		return Replayed{}, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return done, nil
}

// sqliteNow is the time of day as SQLite keeps it.
const sqliteNow = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"

// replayRow records a letter's row, in a savepoint: of what SQLite refuses nothing may stay behind.
func (s *SQLite) replayRow(ctx context.Context, tx *sql.Tx, r *letterRow, rows []logRow) (outcome ReplayOutcome, err error) {
	row := &rows[0]
	var had bool
	err = tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM gateway_usage_logs WHERE client_id = ? AND created_at = ? AND incarnation = ? AND seq = ?)",
		row.ClientID.String(), row.AdmittedAt.UnixMicro(), row.incarnation, row.seq).Scan(&had)
	if err != nil {
		return "", err
	}
	received, err := readReceived(ctx, tx, row.incarnation)
	if err != nil {
		return "", err
	}
	// A letter that could not be read never counted as this event, so the watermark tells the truth of it.
	if had || r.seq == 0 && received.Contains(uint64(row.seq)) {
		return ReplayHad, nil
	}
	if _, err := tx.ExecContext(ctx, "SAVEPOINT replay"); err != nil {
		return "", err
	}
	err = writeReceived(ctx, tx, row.incarnation, without(received, uint64(row.seq)))
	if err == nil {
		err = s.recordIn(ctx, tx, rows)
	}
	if err != nil {
		_, back := tx.ExecContext(ctx, "ROLLBACK TO replay")
		return "", errors.Join(err, back)
	}
	_, err = tx.ExecContext(ctx, "RELEASE replay")
	return ReplayRecorded, err
}

// recordIn is Record in a transaction that does more.
func (s *SQLite) recordIn(ctx context.Context, tx *sql.Tx, rows []logRow) error {
	fresh, err := receive(ctx, tx, rows)
	if err != nil {
		return err
	}
	if fresh, err = insertSQLite(ctx, tx, s.insert, logColumns, fresh); err != nil {
		return err
	}
	return s.settle(ctx, tx, fresh)
}

// Discard settles a dead letter that will never be recorded. See DeadLetters.
func (s *SQLite) Discard(ctx context.Context, id LetterID, note string) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		r, err := sqliteLetter(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.State != LetterOpen {
			return ErrLetterSettled
		}
		_, err = tx.ExecContext(ctx, "UPDATE dead_letters SET state = 'discarded', settled_at = "+sqliteNow+", note = ? WHERE incarnation = ? AND seq = ? AND digest = ?",
			cleanText(note, maxReason), r.incarnation, r.seq, r.digest)
		return err
	})
	if err != nil {
		return fmt.Errorf("discard dead letter %s: %w", id, err)
	}
	return nil
}

// LetterClaims sums up what dead letters claim. The sums are of parts, because a letter may claim any nonsense and
// SQLite's sum() fails past 64 bits. See DeadLetters.
func (s *SQLite) LetterClaims(ctx context.Context) ([]LetterClaims, error) {
	query := "SELECT state, count(*), count(*) FILTER (WHERE total_tokens IS NULL)"
	for _, column := range []string{"total_tokens", "cost_usd", "cost_brl"} {
		query += fmt.Sprintf(", coalesce(sum(%[1]s / 1000000000), 0), coalesce(sum(%[1]s %% 1000000000), 0)", column)
	}
	rows, err := s.read.QueryContext(ctx, query+" FROM dead_letters GROUP BY 1 ORDER BY 1")
	if err != nil {
		return nil, fmt.Errorf("sum up dead letters: %w", err)
	}
	defer rows.Close()
	var all []LetterClaims
	for rows.Next() {
		var c LetterClaims
		var high, low [3]int64
		if err := rows.Scan(&c.State, &c.Count, &c.Unread, &high[0], &low[0], &high[1], &low[1], &high[2], &low[2]); err != nil {
			return nil, fmt.Errorf("sum up dead letters: %w", err)
		}
		for i, to := range []*decimal.Decimal{&c.Tokens, &c.USD, &c.BRL} {
			*to = decimal.New(high[i], 9).Add(decimal.New(low[i], 0))
		}
		c.USD, c.BRL = c.USD.Shift(-12), c.BRL.Shift(-12)
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sum up dead letters: %w", err)
	}
	return all, nil
}
