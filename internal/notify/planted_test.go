package notify

import (
	"testing"

	"github.com/catraca/catraca/internal/defect"
)

// TestPlantedDefects plants mistakes that would let a webhook into a private network, a forged notice through, or a secret
// out: the other tests find each.
func TestPlantedDefects(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the package once for each defect")
	}
	defect.Check(t, ".", defect.Options{
		Run: "^Test(Signature|Secrets|Webhook|Addresses|CheckURL|Rebinding|Proxies|Answers|Mail|Nothing|CheckAddress)", Without: []string{"planted_test.go"},
	}, []defect.Planted{
		{Name: "resolved address not checked", File: "webhook.go", Old: "		return w.rules.reach(to.Addr())\n", New: "		return w.rules.reach(netip.AddrPortFrom(netip.AddrFrom4([4]byte{8, 8, 8, 8}), to.Port()).Addr())\n", Why: "a name that leads inside reaches it"},
		{Name: "redirects followed", File: "webhook.go", Old: "		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },\n", New: "", Why: "a public host sends us inside"},
		{Name: "proxy of the environment", File: "webhook.go", Old: "Proxy:                  nil,", New: "Proxy:                  http.ProxyFromEnvironment,", Why: "a proxy resolves names past the check"},
		{Name: "mapped addresses", File: "address.go", Old: "a = a.Unmap().WithZone(\"\")", New: "a = a.WithZone(\"\")", Why: "what is allowed or refused as IPv4 is not as IPv6"},
		{Name: "special ranges of IPv4", File: "address.go", Old: ", within(a, notPublic):", New: ", a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast():", Why: "carrier-grade NAT, 6to4 and others are inside too"},
		{Name: "IPv6 beyond the public part", File: "address.go", Old: "case a.Is6() && !publicIPv6.Contains(a), within", New: "case within", Why: "loopback, NAT64 and private IPv6 are reached"},
		{Name: "numbers as hosts", File: "address.go", Old: "	case last[0] >= '0' && last[0] <= '9':", New: "	case last == \"0\":", Why: "127.1 and 2130706433 are taken for names"},
		{Name: "timestamp not signed", File: "signature.go", Old: "strconv.FormatInt(at.Unix(), 10) + \".\"", New: "strconv.FormatInt(0*at.Unix(), 10) + \".\"", Why: "an old notice is replayed"},
		{Name: "only the newest secret signs", File: "signature.go", Old: "	for _, key := range s.keys {\n		mac := hmac.New(sha256.New, key)\n		mac.Write([]byte(id", New: "	for _, key := range s.keys[:1] {\n		mac := hmac.New(sha256.New, key)\n		mac.Write([]byte(id", Why: "receivers break when a secret is rotated"},
		{Name: "one secret for all clients", File: "signature.go", Old: "	mac.Write([]byte(\"catraca: webhooks of the client \" + client))\n", New: "", Why: "one client forges notices for another"},
		{Name: "errors of net/http as they are", File: "webhook.go", Old: "u.Hostname(), plainly(err))", New: "u.Hostname(), err)", Why: "the path of a webhook is a secret in many systems"},
		{Name: "password before TLS", File: "mail.go", Old: "	if !m.atOnce && !m.clear {\n", New: "	if ok, _ := c.Extension(\"STARTTLS\"); ok && !m.atOnce && !m.clear {\n", Why: "whoever strips STARTTLS reads the password"},
		{Name: "answers of the mail server as they are", File: "mail.go", Old: "return fmt.Errorf(\"%s: it answered %d\", step, reply.Code)", New: "return err", Why: "they hold the recipient's address"},
		{Name: "names as they are", File: "text.go", Old: "return !unicode.IsPrint(r) || r == unicode.ReplacementChar", New: "return r == unicode.ReplacementChar", Why: "a client's name writes headers and other texts"},
	})
}
