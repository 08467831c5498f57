package tenancy

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The rules that both stores follow.

// maxChanges bounds one look at the feed; the next one gets the rest.
const maxChanges = 10_000

// rotate says what the successor of a key is and when the key itself ends.
func (k Key) rotate(now time.Time, rotated bool, prefix string, grace time.Duration) (successor Key, ends time.Time, err error) {
	switch {
	case !k.RevokedAt.IsZero():
		return Key{}, ends, &Invalid{"id", "the key is revoked"}
	case rotated:
		return Key{}, ends, &Invalid{"id", "the key was rotated already; rotate its successor"}
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return Key{}, ends, &Invalid{"id", "the key has expired"}
	case grace < 0:
		return Key{}, ends, &Invalid{"grace", "must not be negative"}
	}
	successor = Key{ClientID: k.ClientID, Name: k.Name, Prefix: prefix}
	ends = now.Add(grace)
	if !k.ExpiresAt.IsZero() {
		successor.ExpiresAt = now.Add(k.ExpiresAt.Sub(k.CreatedAt))
		if k.ExpiresAt.Before(ends) {
			ends = k.ExpiresAt
		}
	}
	successor, err = successor.normal()
	return successor, ends, err
}

// since takes the version asked for off the head of what the feed has from it on.
func since(feed []Change, after int64) ([]Change, int64, error) {
	if len(feed) == 0 || feed[0].Version != after {
		return nil, after, ErrChangesLost
	}
	return feed[1:], feed[len(feed)-1].Version, nil
}

// resealEach seals under the newest master key what is not yet. What does not open stops it: nothing is written over.
func resealEach[T any](all []T, v *Vault, read func(T) (uuid.UUID, []byte), write func(client uuid.UUID, was, is []byte) error) (int, error) {
	n := 0
	for _, one := range all {
		client, was := read(one)
		if v.Current(was) {
			continue
		}
		plain, err := v.Open(was, phoneKeyRow(client))
		if err != nil {
			return n, err
		}
		if err := write(client, was, v.Seal(plain, phoneKeyRow(client))); err != nil {
			return n, fmt.Errorf("reseal the phone key of tenant %s: %w", client, err)
		}
		n++
	}
	return n, nil
}
