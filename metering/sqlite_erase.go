package metering

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

var _ Persons = (*SQLite)(nil)

// sqlitePersonRows are a person's calls: of a client, by phones and conversations, both as JSON.
const sqlitePersonRows = "client_id = ? AND (phone IN (SELECT value FROM json_each(?)) OR phone = '' AND conversation_id IN (SELECT value FROM json_each(?)))"

// sqliteList is texts as one parameter.
func sqliteList(texts []string) string {
	b, _ := json.Marshal(append([]string{}, texts...)) // strings always marshal
	return string(b)
}

func sqliteTexts(ctx context.Context, db sqliteReader, query string, args ...any) (all []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// sqliteTraces looks for what a person left in the log.
func sqliteTraces(ctx context.Context, db sqliteReader, p *Person) (*traces, error) {
	phones, err := sqliteTexts(ctx, db, "SELECT DISTINCT phone FROM gateway_usage_logs WHERE client_id = ? AND phone <> ''", p.ClientID.String())
	if err != nil {
		return nil, err
	}
	t := &traces{}
	for _, phone := range phones {
		if p.Is(phone) {
			t.phones = append(t.phones, phone)
		}
	}
	t.conversations, err = sqliteTexts(ctx, db, `SELECT DISTINCT conversation_id FROM gateway_usage_logs
WHERE client_id = ? AND phone IN (SELECT value FROM json_each(?)) AND conversation_id IS NOT NULL`, p.ClientID.String(), sqliteList(t.phones))
	return t, err
}

// Erase makes a person's calls nobody's. See Persons.
func (s *SQLite) Erase(ctx context.Context, person Person, now time.Time) (erased Erased, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		t, err := sqliteTraces(ctx, tx, &person)
		if err != nil {
			return err
		}
		erased.Letters, err = sqliteEraseLetters(ctx, tx, person.ClientID, func(raw []byte) ([]byte, bool) { return person.eraseFrom(raw, t) })
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, "UPDATE gateway_usage_logs SET phone = '', conversation_id = NULL, metadata = '{}' WHERE "+sqlitePersonRows,
			person.ClientID.String(), sqliteList(t.phones), sqliteList(t.conversations))
		if err != nil {
			return err
		}
		calls, err := result.RowsAffected()
		if err != nil {
			return err
		}
		erased.Calls = int(calls)
		e := newErasure(&person, t, now)
		for digest := range e.digests {
			_, err := tx.ExecContext(ctx, "INSERT INTO erasures (client_id, erased_at, salt, digest) VALUES (?, ?, ?, ?)", e.client.String(), e.at.UnixMicro(), e.salt, digest[:])
			if err != nil {
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

// sqliteEraseLetters takes a person out of the client's dead letters, and out of those that nobody can tell whose they are.
func sqliteEraseLetters(ctx context.Context, tx *sql.Tx, client uuid.UUID, erase func(raw []byte) ([]byte, bool)) (letters int, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT incarnation, seq, digest, raw FROM dead_letters WHERE client_id = ? OR client_id IS NULL", client.String())
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var all []letterRow
	for rows.Next() {
		var r letterRow
		if err := rows.Scan(&r.incarnation, &r.seq, &r.digest, &r.Raw); err != nil {
			return 0, err
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for i := range all {
		r := &all[i]
		clean, changed := erase(r.Raw)
		if !changed {
			continue
		}
		digest := sha256.Sum256(clean)
		_, err := tx.ExecContext(ctx, "UPDATE dead_letters SET raw = ?, digest = ? WHERE incarnation = ? AND seq = ? AND digest = ?",
			clean, digest[:], r.incarnation, r.seq, r.digest)
		if err != nil {
			return 0, err
		}
		letters++
	}
	return letters, nil
}

// EraseLate erases from calls that came late. See Housekeeper.
func (s *SQLite) EraseLate(ctx context.Context, now time.Time) (calls int, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM erasures WHERE erased_at < ?", now.Add(-lateFor).UnixMicro()); err != nil {
			return err
		}
		all, err := sqliteErasures(ctx, tx)
		if err != nil {
			return err
		}
		for _, e := range all {
			n, err := sqliteEraseLate(ctx, tx, e)
			if err != nil {
				return err
			}
			calls += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("erase persons from late calls: %w", err)
	}
	return calls, nil
}

func sqliteErasures(ctx context.Context, tx *sql.Tx) (all []*erasure, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT client_id, erased_at, salt, digest FROM erasures ORDER BY 1, 2, 3")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var client uuid.UUID
		var at time.Time
		var salt, digest []byte
		if err := rows.Scan(&client, sqliteInstant{&at}, &salt, &digest); err != nil {
			return nil, err
		}
		all = addErasure(all, client, at, salt, digest)
	}
	return all, rows.Err()
}

// sqliteEraseLate applies an erasure to calls that were admitted before it: what the person did later is not meant.
func sqliteEraseLate(ctx context.Context, tx *sql.Tx, e *erasure) (calls int, err error) {
	const window = "client_id = ? AND created_at >= ? AND created_at < ?"
	letters, err := sqliteEraseLetters(ctx, tx, e.client, e.eraseFrom)
	if err != nil {
		return 0, err
	}
	args := []any{e.client.String(), e.at.Add(-lateFor).UnixMicro(), e.at.UnixMicro()}
	rows, err := tx.QueryContext(ctx, "SELECT DISTINCT phone, coalesce(conversation_id, '') FROM gateway_usage_logs WHERE "+window+" AND (phone <> '' OR conversation_id IS NOT NULL)", args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var phones, conversations []string
	for rows.Next() {
		var phone, conversation string
		if err := rows.Scan(&phone, &conversation); err != nil {
			return 0, err
		}
		switch {
		case !e.has(phone, conversation):
		case phone != "":
			phones = append(phones, phone)
		default:
			conversations = append(conversations, conversation)
		}
	}
	if err := rows.Err(); err != nil || len(phones)+len(conversations) == 0 {
		return letters, err
	}
	result, err := tx.ExecContext(ctx, "UPDATE gateway_usage_logs SET phone = '', conversation_id = NULL, metadata = '{}' WHERE "+window+
		" AND (phone IN (SELECT value FROM json_each(?)) OR phone = '' AND conversation_id IN (SELECT value FROM json_each(?)))",
		append(args, sqliteList(phones), sqliteList(conversations))...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return letters + int(n), err
}

// PersonCalls gives every call of a person, oldest first. See Persons.
func (s *SQLite) PersonCalls(ctx context.Context, person Person, each func(*UsageRow) error) error {
	t, err := sqliteTraces(ctx, s.read, &person)
	if err == nil && !t.empty() {
		var where sqliteWhere
		where.and(sqlitePersonRows, person.ClientID.String(), sqliteList(t.phones), sqliteList(t.conversations))
		err = s.export(ctx, where, each)
	}
	if err != nil {
		return fmt.Errorf("read a person's calls: %w", err)
	}
	return nil
}
