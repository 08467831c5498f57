// Package link is what lies between the two planes: what a proxy needs of a control plane, and the way to it.
//
//	catraca proxy                                        │ catraca control
//	 keyring ─► Follower ─► Client ──── HTTP, mTLS ──────┼─► Handler ─► Local ─► stores
//	               │  ▲                 or a token       │                ▲ one look at the feed every 500 ms,
//	               ▼  │ at a start                       │                │ for however many proxies
//	            Snapshot (disk, sealed)
//
//	catraca serve:  keyring ─► Follower ─► Local ─► stores
//
// Promises:
//   - A change is in use at every proxy within 2 seconds. A thousand proxies cost the database no more than one.
//   - A proxy is told what it serves and nothing else; of secrets there cross the link only what pseudonyms of phone
//     numbers are made with, and what events are signed with.
//   - With the control plane away a proxy goes on with what it knows, after a restart too.
package link

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// Control is what a proxy needs of the control plane: of the one in its own process, or of one far away.
type Control interface {
	// PrincipalByKey and PrincipalByClient are a tenancy.Source's. What they answer is at least as new as the newest
	// version that Watch gave before.
	PrincipalByKey(ctx context.Context, digest [32]byte) (*tenancy.Principal, error)
	PrincipalByClient(ctx context.Context, id uuid.UUID) (*tenancy.Principal, error)
	TouchKeys(ctx context.Context, ids []uuid.UUID, at time.Time) error
	// Watch waits until something changed after a version, or the settings are no longer those of the tag, at most for
	// WatchFor. With version 0 it does not wait. tenancy.ErrChangesLost: begin again with 0.
	Watch(ctx context.Context, after int64, settings string) (News, error)
	// Settings are those in force; nil when they are the ones with this tag.
	Settings(ctx context.Context, have string) (*Settings, error)
	// Owner tells on which route an upstream's stored answer of a client was made.
	Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error)
	// Beat is a proxy's sign of life, every few seconds, with all that it has to tell and to ask in one call.
	Beat(ctx context.Context, b Beat) (Pulse, error)
	// Lease is a message of a proxy's purse to the ledger of budgets. See budget.Lender.
	Lease(ctx context.Context, a budget.Ask) (budget.Reply, error)
	// Seen tells whether a conversation of a client was under way within the last day, at whatever proxy.
	Seen(ctx context.Context, client uuid.UUID, conversation string) (bool, error)
}

// WatchFor is how long Watch waits for news. Shorter than the idle times of the load balancers in between.
const WatchFor = 20 * time.Second

// News is what Watch tells: what changed, the newest version, and the tag of the settings in force.
type News struct {
	Changes  []tenancy.Change `json:"changes"`
	Version  int64            `json:"version"`
	Settings string           `json:"settings"`
}

// Beat is what a proxy tells. What it asks of budgets it asks apart (Lease), for that cannot wait for the next beat.
type Beat struct {
	Report metering.ProxyReport `json:"report"`
}

// Pulse is the answer to a Beat.
type Pulse struct {
	At time.Time `json:"at"` // by the control plane's clock
}

// Settings are what every proxy needs alike. They are shared and never changed.
type Settings struct {
	Tag         string // tells other settings apart, and says nothing of these
	Catalog     *metering.Catalog
	Rate        metering.ExchangeRate
	SigningKeys [][]byte // of events, newest first

	encoded []byte
}

// settingsText is how Settings travel and are kept.
type settingsText struct {
	Catalog     *metering.Catalog     `json:"catalog"`
	Rate        metering.ExchangeRate `json:"rate"`
	SigningKeys [][]byte              `json:"signing_keys"`
}

func newSettings(catalog *metering.Catalog, rate metering.ExchangeRate, keys [][]byte) (*Settings, error) {
	encoded, err := json.Marshal(settingsText{catalog, rate, keys})
	if err != nil {
		return nil, fmt.Errorf("encode the settings: %w", err)
	}
	return &Settings{Tag: tagOf(encoded), Catalog: catalog, Rate: rate, SigningKeys: keys, encoded: encoded}, nil
}

func tagOf(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16])
}

func decodeSettings(encoded []byte) (*Settings, error) {
	var text settingsText
	if err := json.Unmarshal(encoded, &text); err != nil || text.Catalog == nil {
		return nil, errors.New("the settings cannot be read: they are damaged, or of a release too far from this one")
	}
	return &Settings{Tag: tagOf(encoded), Catalog: text.Catalog, Rate: text.Rate, SigningKeys: text.SigningKeys, encoded: encoded}, nil
}
