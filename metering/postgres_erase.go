package metering

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var _ Persons = (*Postgres)(nil)

// pgPersonRows are a person's calls: of the client $1, by phones $2 and conversations $3.
const pgPersonRows = "client_id = $1 AND (phone = ANY ($2) OR phone = '' AND conversation_id = ANY ($3))"

// pgTraces looks for what a person left in the log.
func pgTraces(ctx context.Context, tx pgx.Tx, p *Person) (*traces, error) {
	t := &traces{phones: []string{}, conversations: []string{}}
	rows, err := tx.Query(ctx, "SELECT DISTINCT phone FROM gateway_usage_logs WHERE client_id = $1 AND phone <> ''", p.ClientID)
	if err != nil {
		return nil, err
	}
	var phone string
	_, err = pgx.ForEachRow(rows, []any{&phone}, func() error {
		if p.Is(phone) {
			t.phones = append(t.phones, phone)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, "SELECT DISTINCT conversation_id FROM gateway_usage_logs WHERE client_id = $1 AND phone = ANY ($2) AND conversation_id IS NOT NULL", p.ClientID, t.phones)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	t.conversations = append(t.conversations, found...)
	return t, err
}

// Erase makes a person's calls nobody's. See Persons.
func (p *Postgres) Erase(ctx context.Context, person Person, now time.Time) (erased Erased, err error) {
	err = p.retry(ctx, func(tx pgx.Tx) error {
		t, err := pgTraces(ctx, tx, &person)
		if err != nil {
			return err
		}
		// Letters first: one that is being replayed is waited for, and its call is then in the log.
		erased.Letters, err = pgEraseLetters(ctx, tx, person.ClientID, func(raw []byte) ([]byte, bool) { return person.eraseFrom(raw, t) })
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "UPDATE gateway_usage_logs SET phone = '', conversation_id = NULL, metadata = '{}' WHERE "+pgPersonRows,
			person.ClientID, t.phones, t.conversations)
		if err != nil {
			return err
		}
		erased.Calls = int(tag.RowsAffected())
		e := newErasure(&person, t, now)
		for digest := range e.digests {
			if _, err := tx.Exec(ctx, "INSERT INTO erasures (client_id, erased_at, salt, digest) VALUES ($1, $2, $3, $4)", e.client, e.at, e.salt, digest[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Erased{}, fmt.Errorf("erase a person of client %s: %w", person.ClientID, err)
	}
	return erased, nil
}

// pgEraseLetters takes a person out of the client's dead letters, and out of those that nobody can tell whose they are.
func pgEraseLetters(ctx context.Context, tx pgx.Tx, client uuid.UUID, erase func(raw []byte) ([]byte, bool)) (letters int, err error) {
	rows, err := tx.Query(ctx, "SELECT incarnation, seq, digest, raw FROM dead_letters WHERE client_id = $1 OR client_id IS NULL FOR UPDATE", client)
	if err != nil {
		return 0, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r letterRow, err error) {
		err = row.Scan(&r.incarnation, &r.seq, &r.digest, &r.Raw)
		return r, err
	})
	if err != nil {
		return 0, err
	}
	for i := range all {
		r := &all[i]
		clean, changed := erase(r.Raw)
		if !changed {
			continue
		}
		digest := sha256.Sum256(clean)
		_, err := tx.Exec(ctx, "UPDATE dead_letters SET raw = $4, digest = $5 WHERE incarnation = $1 AND seq = $2 AND digest = $3",
			r.incarnation, r.seq, r.digest, clean, digest[:])
		if err != nil {
			return 0, err
		}
		letters++
	}
	return letters, nil
}

// EraseLate erases from calls that came late. See Housekeeper.
func (p *Postgres) EraseLate(ctx context.Context, now time.Time) (calls int, err error) {
	fail := func(err error) (int, error) {
		return calls, fmt.Errorf("erase persons from late calls: %w", err)
	}
	if _, err := p.pool.Exec(ctx, "DELETE FROM erasures WHERE erased_at < $1", now.Add(-lateFor)); err != nil {
		return fail(err)
	}
	rows, err := p.pool.Query(ctx, "SELECT client_id, erased_at, salt, digest FROM erasures ORDER BY 1, 2, 3")
	if err != nil {
		return fail(err)
	}
	var all []*erasure
	var client uuid.UUID
	var at time.Time
	var salt, digest []byte
	_, err = pgx.ForEachRow(rows, []any{&client, &at, &salt, &digest}, func() error {
		all = addErasure(all, client, at, append([]byte(nil), salt...), digest)
		return nil
	})
	if err != nil {
		return fail(err)
	}
	for _, e := range all {
		n, err := p.eraseLate(ctx, e)
		if err != nil {
			return fail(err)
		}
		calls += n
	}
	return calls, nil
}

// eraseLate applies an erasure to calls that were admitted before it: what the person did later is not meant.
func (p *Postgres) eraseLate(ctx context.Context, e *erasure) (calls int, err error) {
	const window = "client_id = $1 AND created_at >= $2 AND created_at < $3"
	err = p.retry(ctx, func(tx pgx.Tx) error {
		letters, err := pgEraseLetters(ctx, tx, e.client, e.eraseFrom)
		if err != nil {
			return err
		}
		calls = letters
		args := []any{e.client, e.at.Add(-lateFor), e.at}
		rows, err := tx.Query(ctx, "SELECT DISTINCT phone, coalesce(conversation_id, '') FROM gateway_usage_logs WHERE "+window+" AND (phone <> '' OR conversation_id IS NOT NULL)", args...)
		if err != nil {
			return err
		}
		phones, conversations := []string{}, []string{}
		var phone, conversation string
		_, err = pgx.ForEachRow(rows, []any{&phone, &conversation}, func() error {
			switch {
			case !e.has(phone, conversation):
			case phone != "":
				phones = append(phones, phone)
			default:
				conversations = append(conversations, conversation)
			}
			return nil
		})
		if err != nil || len(phones)+len(conversations) == 0 {
			return err
		}
		tag, err := tx.Exec(ctx, "UPDATE gateway_usage_logs SET phone = '', conversation_id = NULL, metadata = '{}' WHERE "+window+
			" AND (phone = ANY ($4) OR phone = '' AND conversation_id = ANY ($5))", append(args, phones, conversations)...)
		calls += int(tag.RowsAffected())
		return err
	})
	return calls, err
}

// PersonCalls gives every call of a person, oldest first. See Persons.
func (p *Postgres) PersonCalls(ctx context.Context, person Person, each func(*UsageRow) error) error {
	err := p.snapshot(ctx, func(tx pgx.Tx) error {
		t, err := pgTraces(ctx, tx, &person)
		if err != nil || t.empty() {
			return err
		}
		return pgExport(ctx, tx, " WHERE "+pgPersonRows, []any{person.ClientID, t.phones, t.conversations}, each)
	})
	if err != nil {
		return fmt.Errorf("read a person's calls: %w", err)
	}
	return nil
}
