package main

import (
	"net/url"
	"os"
	"strings"
)

// validateLink finds what is wrong with the link between the planes.
func (c *Config) validateLink(m *mistakes) {
	tokens := c.SidecarTokens()
	for _, token := range tokens {
		checkToken(m, "CATRACA_SIDECAR_TOKEN", NewSecret(token))
		for name, other := range map[string]Secret{"CATRACA_ADMIN_TOKEN": c.AdminToken, "CATRACA_CALLER_TOKEN": c.CallerToken} {
			if other.IsSet() && other.Reveal() == token {
				m.add("CATRACA_SIDECAR_TOKEN is the same as %s: make another with `openssl rand -hex 24`", name)
			}
		}
	}
	switch c.plane {
	case planeProxy:
		c.validateProxyLink(m)
	case planeControl:
		c.validateControlLink(m)
	default:
		if c.ControlURL != "" {
			m.add("CATRACA_CONTROL_URL is for `catraca proxy`; serve is both planes in one process: unset it, or start `catraca proxy`")
		}
	}
}

func (c *Config) validateProxyLink(m *mistakes) {
	checkPair(m, "CATRACA_PROXY_TLS_CERT", c.ProxyTLSCert, "CATRACA_PROXY_TLS_KEY", c.ProxyTLSKey)
	checkFile(m, "CATRACA_CONTROL_CA", c.ControlCA)
	if !c.given("CATRACA_SIDECAR_TOKEN", c.SidecarToken) && c.ProxyTLSCert == "" {
		m.add("CATRACA_SIDECAR_TOKEN is required by a proxy: set it to one of the control plane's, or CATRACA_PROXY_TLS_CERT and CATRACA_PROXY_TLS_KEY for mTLS")
	}
	if c.ControlURL == "" {
		m.add("CATRACA_CONTROL_URL is required by a proxy: write where `catraca control` listens for proxies, such as https://catraca-control:8082")
		return
	}
	u := checkURL(m, "CATRACA_CONTROL_URL", c.ControlURL)
	if u == nil {
		return
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		m.add("CATRACA_CONTROL_URL=%s must end with its port: the paths are added behind it", c.ControlURL)
	}
	if u.Scheme == "http" && !loopbackURL(u) && !c.ControlInsecure {
		m.add("CATRACA_CONTROL_URL=%s would send the token, and get the keys of phone pseudonyms, in the clear: use https://, or CATRACA_CONTROL_INSECURE=true where a service mesh encrypts", c.ControlURL)
	}
	if u.Scheme == "http" && c.ProxyTLSCert != "" && !c.given("CATRACA_SIDECAR_TOKEN", c.SidecarToken) {
		m.add("CATRACA_PROXY_TLS_CERT can only be shown over https://: write CATRACA_CONTROL_URL so, or set CATRACA_SIDECAR_TOKEN")
	}
	if pointsAt(u, c.Listen) || pointsAt(u, c.AdminListen) {
		m.add("CATRACA_CONTROL_URL=%s is a listener of this proxy itself: name the control plane's CATRACA_CONTROL_LISTEN", c.ControlURL)
	}
}

func (c *Config) validateControlLink(m *mistakes) {
	checkListen(m, "CATRACA_CONTROL_LISTEN", c.ControlListen)
	if overlap(c.ControlListen, c.AdminListen) {
		m.add("CATRACA_CONTROL_LISTEN=%s is the same port as CATRACA_ADMIN_LISTEN: give it another", c.ControlListen)
	}
	checkPair(m, "CATRACA_CONTROL_TLS_CERT", c.ControlTLSCert, "CATRACA_CONTROL_TLS_KEY", c.ControlTLSKey)
	checkFile(m, "CATRACA_CONTROL_CLIENT_CA", c.ControlClientCA)
	tokens := c.given("CATRACA_SIDECAR_TOKEN", c.SidecarToken)
	switch {
	case c.ControlClientCA != "" && c.ControlTLSCert == "":
		m.add("CATRACA_CONTROL_CLIENT_CA needs a certificate of our own: set CATRACA_CONTROL_TLS_CERT and CATRACA_CONTROL_TLS_KEY")
	case !tokens && c.ControlClientCA == "":
		m.add("nothing says which proxies may come: set CATRACA_SIDECAR_TOKEN (`openssl rand -hex 24`), or CATRACA_CONTROL_CLIENT_CA for mTLS")
	}
	if !isLoopback(c.ControlListen) && c.ControlTLSCert == "" && !c.ControlInsecure {
		m.add("CATRACA_CONTROL_LISTEN=%s can be reached from other machines, and without CATRACA_CONTROL_TLS_CERT tokens and keys would cross the network in the clear: set it, or CATRACA_CONTROL_INSECURE=true where a service mesh encrypts", c.ControlListen)
	}
}

// linkWarnings are settings of the link that do nothing here.
func (c *Config) linkWarnings() (lines []string) {
	if c.ControlInsecure && (c.plane == planeProxy && strings.HasPrefix(c.ControlURL, "http:") || c.plane == planeControl && c.ControlTLSCert == "") {
		lines = append(lines, "CATRACA_CONTROL_INSECURE=true: the link between the planes is not encrypted by Catraca; a service mesh must do it")
	}
	if c.plane == planeBoth && c.SidecarToken.IsSet() {
		lines = append(lines, "CATRACA_SIDECAR_TOKEN does nothing in serve: proxies come to `catraca control`")
	}
	if c.plane == planeProxy && c.MasterKey.IsSet() {
		lines = append(lines, "CATRACA_MASTER_KEY does nothing in a proxy, and opens all that is sealed in the database: do not give it to proxies")
	}
	return lines
}

func loopbackURL(u *url.URL) bool { return isLoopback(u.Host) || isLoopback(u.Hostname()) }

// checkPair refuses one file of a certificate without the other.
func checkPair(m *mistakes, certName, cert, keyName, key string) {
	if (cert == "") != (key == "") {
		m.add("%s and %s go together: set both or neither", certName, keyName)
		return
	}
	checkFile(m, certName, cert)
	checkFile(m, keyName, key)
}

func checkFile(m *mistakes, name, path string) {
	if path == "" {
		return
	}
	file, err := os.Open(path)
	if err != nil {
		m.add("%s: %w; check the path and that this user may read it", name, err)
		return
	}
	_ = file.Close()
}
