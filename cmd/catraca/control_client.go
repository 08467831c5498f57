package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/catraca/catraca/internal/link"
)

// controlClient is the way to the control plane that the settings name.
func (c *Config) controlClient(log *slog.Logger) (*link.Client, error) {
	certificates := &link.Certificates{Cert: c.ProxyTLSCert, Key: c.ProxyTLSKey, CA: c.ControlCA, Log: log}
	if _, _, err := certificates.Load(); err != nil {
		return nil, fmt.Errorf("CATRACA_CONTROL_CA, CATRACA_PROXY_TLS_CERT: %w", err)
	}
	token := ""
	if tokens := c.SidecarTokens(); len(tokens) > 0 {
		token = tokens[0]
	}
	return link.NewClient(c.ControlURL, token, certificates), nil
}

// snapshotSecrets are what a proxy's last good configuration is sealed with: its credential of the link. Who has that
// can ask the control plane for the same.
func (c *Config) snapshotSecrets() (secrets [][]byte) {
	for _, token := range c.SidecarTokens() {
		secrets = append(secrets, []byte(token))
	}
	if len(secrets) == 0 && c.ProxyTLSKey != "" {
		if key, err := os.ReadFile(c.ProxyTLSKey); err == nil {
			secrets = append(secrets, key)
		}
	}
	return secrets
}
