package tenancy

import (
	"crypto/hkdf"
	"crypto/sha256"
)

// Derive makes keys of 32 bytes for another purpose, one from each master key, newest first. They say nothing of the
// master keys, nor of each other.
func (v *Vault) Derive(purpose string) [][]byte {
	derived := make([][]byte, len(v.keys))
	for i, k := range v.keys {
		key, err := hkdf.Key(sha256.New, []byte(k.key.Reveal()), nil, "catraca derive 1\x00"+purpose, 32)
		if err != nil {
			panic("BUG: a key of 32 bytes could not be derived: " + err.Error())
		}
		derived[i] = key
	}
	return derived
}
