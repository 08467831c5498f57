package tenancy

import (
	"context"
	"errors"

	"github.com/google/uuid"
)

// ErrBroken says that the store answered, but what it holds of a tenant cannot be used. Others are not affected.
var ErrBroken = errBroken

// PrincipalByKey is Key for who knows the digest only: a control plane, whose proxies do not send it secrets. It is
// ErrNotFound for what Key calls an invalid key.
func (k *Keyring) PrincipalByKey(ctx context.Context, digest [32]byte) (*Principal, error) {
	return asSource(k.keys.get(ctx, digest))
}

// PrincipalByClient is Client as a Source has it.
func (k *Keyring) PrincipalByClient(ctx context.Context, id uuid.UUID) (*Principal, error) {
	return asSource(k.clients.get(ctx, id))
}

func asSource(p *Principal, err error) (*Principal, error) {
	if errors.Is(err, ErrInvalidKey) {
		return nil, ErrNotFound
	}
	return p, err
}
