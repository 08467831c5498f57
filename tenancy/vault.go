package tenancy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Vault seals what is secret before it is stored, so that who reads the database alone reads nothing.
//
// Each row has a key of its own, derived from the master key and the row's identity. What was sealed for one row does
// not open in another.
type Vault struct {
	keys []masterKey // newest first
}

type masterKey struct {
	id  [keyIDSize]byte
	key Secret
}

// Sealed bytes are: format, id of the master key, nonce, ciphertext and tag.
const (
	sealFormat = 1
	keyIDSize  = 8
)

// NewMasterKey makes a master key in the form that ParseMasterKeys reads.
func NewMasterKey() string {
	var key [32]byte
	rand.Read(key[:])
	return base64.StdEncoding.EncodeToString(key[:])
}

// ParseMasterKeys makes a vault from the setting CATRACA_MASTER_KEY: one or more keys of 32 bytes in base64 or hex,
// separated by commas or blanks. The first seals; all of them open.
func ParseMasterKeys(list string) (*Vault, error) {
	fields := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
	if len(fields) == 0 {
		return nil, errors.New("the master key is empty; make one with: openssl rand -base64 32")
	}
	v := &Vault{}
	for i, field := range fields {
		key, ok := decodeMasterKey(field)
		if !ok {
			return nil, fmt.Errorf("master key %d of %d is not 32 bytes in base64 or hex; make one with: openssl rand -base64 32", i+1, len(fields))
		}
		if key == [32]byte{} {
			return nil, fmt.Errorf("master key %d of %d is all zeros; make one with: openssl rand -base64 32", i+1, len(fields))
		}
		added := masterKey{id: masterKeyID(key), key: NewSecretText(string(key[:]))}
		for _, other := range v.keys {
			if other.id == added.id {
				return nil, fmt.Errorf("master key %d of %d is listed twice", i+1, len(fields))
			}
		}
		v.keys = append(v.keys, added)
	}
	return v, nil
}

func decodeMasterKey(text string) (key [32]byte, ok bool) {
	if b, err := hex.DecodeString(text); err == nil && len(b) == 32 {
		return [32]byte(b), true
	}
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(b) != 32 {
		return key, false
	}
	return [32]byte(b), true
}

// masterKeyID tells master keys apart and says nothing of them.
func masterKeyID(key [32]byte) [keyIDSize]byte {
	sum := sha256.Sum256(append([]byte("catraca master key id\x00"), key[:]...))
	return [keyIDSize]byte(sum[:keyIDSize])
}

// Seal encrypts a row's secret under the newest master key. row names table, column and primary key, and must be given
// to Open the same.
func (v *Vault) Seal(plain []byte, row string) []byte {
	newest := v.keys[0]
	sealed := append([]byte{sealFormat}, newest.id[:]...)
	return newest.aead(row).Seal(sealed, nil, plain, []byte(row))
}

// Open decrypts what Seal made for the same row, under any of the master keys.
func (v *Vault) Open(sealed []byte, row string) ([]byte, error) {
	if len(sealed) < 1+keyIDSize || sealed[0] != sealFormat {
		return nil, fmt.Errorf("open %s: not something that was sealed here", row)
	}
	id, body := sealed[1:1+keyIDSize], sealed[1+keyIDSize:]
	for _, k := range v.keys {
		if !bytes.Equal(k.id[:], id) {
			continue
		}
		plain, err := k.aead(row).Open(nil, nil, body, []byte(row))
		if err != nil {
			return nil, fmt.Errorf("open %s: it was altered, or sealed for another row", row)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("open %s: it is under master key %x, which CATRACA_MASTER_KEY does not list", row, id)
}

// Current says whether something is sealed under the newest master key. What is not should be sealed anew before the
// older key is taken off the list.
func (v *Vault) Current(sealed []byte) bool {
	return len(sealed) > keyIDSize && sealed[0] == sealFormat && bytes.Equal(sealed[1:1+keyIDSize], v.keys[0].id[:])
}

// String tells how many keys there are and no more.
func (v *Vault) String() string { return fmt.Sprintf("vault of %d keys", len(v.keys)) }

// Format is String, whatever the verb.
func (v *Vault) Format(f fmt.State, _ rune) { io.WriteString(f, v.String()) }

// aead is the cipher of one row. The nonce is random: a row is sealed a few times in its life.
func (k masterKey) aead(row string) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, []byte(k.key.Reveal()), nil, "catraca seal 1\x00"+row, 32)
	if err != nil {
		panic("BUG: a key of 32 bytes could not be derived: " + err.Error())
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("BUG: AES refused a key of 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("BUG: GCM refused AES: " + err.Error())
	}
	return aead
}
