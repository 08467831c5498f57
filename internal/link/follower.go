package link

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/money"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// Follower is a proxy's side of the link: it has the settings in memory, hands a keyring what it asks for, and keeps
// both on disk where it has a snapshot.
type Follower struct {
	Control
	snapshot *Snapshot // nil: nothing is kept
	log      *slog.Logger
	settings atomic.Pointer[Settings]
	known    chan struct{} // closed when there are settings
	first    sync.Once
	empty    *metering.Catalog
}

var _ tenancy.Source = (*Follower)(nil)

// NewFollower makes a follower that knows nothing yet. snapshot may be nil.
func NewFollower(c Control, snapshot *Snapshot, log *slog.Logger) *Follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Follower{Control: c, snapshot: snapshot, log: log, known: make(chan struct{}), empty: metering.NewCatalog(nil)}
}

// Catalog is the registry as last heard of; empty when nothing was.
func (f *Follower) Catalog() *metering.Catalog {
	if s := f.settings.Load(); s != nil {
		return s.Catalog
	}
	return f.empty
}

// Rate is the exchange rate as last heard of.
func (f *Follower) Rate() metering.ExchangeRate {
	if s := f.settings.Load(); s != nil {
		return s.Rate
	}
	return metering.ExchangeRate{Rate: 5 * money.RateUnit, Source: "fallback"}
}

// SigningKeys are what events are signed with, newest first; nil when none were heard of.
func (f *Follower) SigningKeys() [][]byte {
	if s := f.settings.Load(); s != nil {
		return s.SigningKeys
	}
	return nil
}

// Known is closed once there are settings: from the control plane or from disk.
func (f *Follower) Known() <-chan struct{} { return f.known }

// Changes implements tenancy.Source. On the way it takes up new settings.
func (f *Follower) Changes(ctx context.Context, after int64) ([]tenancy.Change, int64, error) {
	have := ""
	if s := f.settings.Load(); s != nil {
		have = s.Tag
	}
	news, err := f.Watch(ctx, after, have)
	if err != nil {
		return nil, after, err
	}
	if news.Settings != have && news.Settings != "" {
		err = f.load(ctx, have)
	}
	if err != nil && len(news.Changes) == 0 && news.Version == after {
		return nil, after, err
	}
	return news.Changes, news.Version, nil // where settings failed, the next look tells again that they are others
}

func (f *Follower) load(ctx context.Context, have string) error {
	s, err := f.Settings(ctx, have)
	if err != nil || s == nil {
		return err
	}
	f.use(s)
	if f.snapshot != nil {
		f.snapshot.Keep(append([]byte{recordSettings}, s.encoded...))
	}
	return nil
}

func (f *Follower) use(s *Settings) {
	f.settings.Store(s)
	f.first.Do(func() { close(f.known) })
}

// recordSettings is the one kind of record that is not a keyring's.
const recordSettings = 's'

// Recall takes in what an earlier process kept, and gives what is a keyring's to it.
func (f *Follower) Recall(keys *tenancy.Keyring) (n int, err error) {
	if f.snapshot == nil {
		return 0, nil
	}
	return f.snapshot.Load(func(record []byte) error {
		if len(record) > 0 && record[0] == recordSettings {
			s, err := decodeSettings(append([]byte(nil), record[1:]...))
			if err == nil {
				f.use(s)
			}
			return err
		}
		return keys.Recall(record)
	})
}

// Run keeps what is learnt on disk until ctx ends.
func (f *Follower) Run(ctx context.Context, keys *tenancy.Keyring) error {
	if f.snapshot == nil {
		<-ctx.Done()
		return nil
	}
	return f.snapshot.Run(ctx, func(emit func([]byte)) {
		if s := f.settings.Load(); s != nil {
			emit(append([]byte{recordSettings}, s.encoded...))
		}
		keys.Dump(emit)
	})
}

// Journal is for the keyring to tell what it learns; nil where nothing is kept.
func (f *Follower) Journal() func(record []byte) {
	if f.snapshot == nil {
		return nil
	}
	return f.snapshot.Keep
}

// errNoOwner keeps a look-up from being made that cannot succeed.
var errNoOwner = errors.New("no id to look for")

// Owner implements Control.
func (f *Follower) Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error) {
	if upstreamID == "" {
		return "", "", false, errNoOwner
	}
	return f.Control.Owner(ctx, client, upstreamID)
}
