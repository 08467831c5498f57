package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/catraca/catraca/tenancy"
)

// withLocalSecrets is the configuration with the secrets that an embedded Catraca makes for itself: from the data
// directory, or made now and kept there, readable by this user alone. With a database it changes nothing: what several
// processes share cannot be made up by one of them.
func (c Config) withLocalSecrets() (Config, error) {
	if !c.Embedded() {
		return c, nil
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return c, fmt.Errorf("CATRACA_DATA_DIR: %w; name a directory that this user may write", err)
	}
	var err error
	if !c.AdminToken.IsSet() {
		c.AdminToken, err = keptSecret(c.AdminTokenPath(), newAdminToken)
	}
	if err == nil && !c.MasterKey.IsSet() {
		c.MasterKey, err = keptSecret(c.MasterKeyPath(), tenancy.NewMasterKey)
		if err == nil {
			if _, wrong := c.Vault(); wrong != nil {
				err = fmt.Errorf("%s is damaged (%w); restore it from a backup: what it sealed cannot be read without it", c.MasterKeyPath(), wrong)
			}
		}
	}
	return c, err
}

// newAdminToken makes a token that shows what it is where it turns up by mistake.
func newAdminToken() string { return "ca_" + rand.Text() + rand.Text() }

// keptSecret reads a secret from its file, or makes one and writes the file. It is linked into place
// whole, so that of two processes that start at once both use what one of them wrote.
func keptSecret(path string, generate func() string) (Secret, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		content, err = makeSecretFile(path, generate)
	}
	if err != nil {
		return Secret{}, fmt.Errorf("%w; Catraca keeps a secret there and must be able to read and write it", err)
	}
	value := strings.TrimSpace(string(content))
	if value == "" {
		return Secret{}, fmt.Errorf("%s is empty: restore it from a backup, or remove it to have a new one made", path)
	}
	return NewSecret(value), nil
}

func makeSecretFile(path string, generate func() string) ([]byte, error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-secret-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(generate() + "\n")
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err != nil {
		return nil, err
	}
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		// Some network volumes have no hard links; there the last of two writers wins.
		if err := os.Rename(temp.Name(), path); err != nil {
			return nil, err
		}
	}
	return os.ReadFile(path)
}
