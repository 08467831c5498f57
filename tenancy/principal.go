package tenancy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
)

// errBroken says that the store answered, but what it holds of a tenant cannot be used. Others are not affected.
var errBroken = errors.New("the tenant's settings cannot be used")

// Allows says whether the tenant may use a model, by its registry name or its gateway id.
func (p *Principal) Allows(model string) bool {
	if p.allowed == nil {
		return true
	}
	_, ok := p.allowed[model]
	return ok
}

// Expired says whether the key is past its time.
func (p *Principal) Expired(now time.Time) bool {
	return !p.ExpiresAt.IsZero() && !now.Before(p.ExpiresAt)
}

// stored is a tenant, and maybe a key, as a store reads them for a Principal.
type stored struct {
	tenant    Tenant
	phoneKey  []byte // sealed; nil: none made yet
	keyID     uuid.UUID
	expiresAt time.Time
	budgets   bool
}

// principal gives what is stored the form that the proxy needs.
func (s *stored) principal(v *Vault, z *zones) (*Principal, error) {
	t := &s.tenant
	var phoneKey []byte
	if !t.RawPhones {
		var err error
		if phoneKey, err = v.Open(s.phoneKey, phoneKeyRow(t.ID)); err != nil {
			return nil, fmt.Errorf("tenant %s: %w: %v", t.ID, errBroken, err)
		}
	}
	p, err := z.principal(*t, Key{ID: s.keyID, ExpiresAt: s.expiresAt}, phoneKey)
	if err == nil {
		p.Budgets = s.budgets
	}
	return p, err
}

// NewPrincipal is a tenant as the proxy needs it, asked for by a key (or, with a zero one, by its id). phoneKey is the
// 32 bytes that its phone pseudonyms are made with; a tenant with raw phones needs none.
func NewPrincipal(t Tenant, k Key, phoneKey []byte) (*Principal, error) {
	return new(zones).principal(t, k, phoneKey)
}

// zones keeps each time zone once. time.LoadLocation reads its file anew each time, and its result weighs kilobytes:
// far more than all else of a tenant.
type zones struct{ byName sync.Map }

func (z *zones) load(name string) (*time.Location, error) {
	if known, ok := z.byName.Load(name); ok {
		return known.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, err
	}
	first, _ := z.byName.LoadOrStore(name, zone)
	return first.(*time.Location), nil
}

func (z *zones) principal(t Tenant, k Key, phoneKey []byte) (*Principal, error) {
	zone, err := z.load(t.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("tenant %s: %w: time zone %q is not known", t.ID, errBroken, t.TimeZone)
	}
	if !t.RawPhones && len(phoneKey) != phoneKeySize {
		return nil, fmt.Errorf("tenant %s: %w: its phone key has %d bytes, not %d", t.ID, errBroken, len(phoneKey), phoneKeySize)
	}
	p := &Principal{
		ClientID: t.ID, KeyID: k.ID, Name: t.Name, Paused: t.Paused, PausedReason: t.PausedReason, UseGateway: t.UseGateway,
		DefaultModel: t.DefaultModel, UnknownModels: t.UnknownModels, TimeZone: zone, ExpiresAt: k.ExpiresAt,
		ReadOn:    t.OnClientGone == ReadOnGone,
		rawPhones: t.RawPhones, phoneKey: NewSecretText(string(phoneKey)),
	}
	if len(t.AllowedModels) > 0 {
		p.allowed = make(map[string]struct{}, len(t.AllowedModels))
		for _, m := range t.AllowedModels {
			p.allowed[m] = struct{}{}
		}
	}
	return p, nil
}

// newPhoneKey makes a tenant's phone key, sealed for its row.
func newPhoneKey(v *Vault, client uuid.UUID) []byte {
	var key [phoneKeySize]byte
	rand.Read(key[:])
	return v.Seal(key[:], phoneKeyRow(client))
}

func phoneKeyRow(client uuid.UUID) string { return "client_settings.phone_key/" + client.String() }
