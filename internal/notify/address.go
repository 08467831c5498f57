package notify

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Rules say where webhooks may go. The zero Rules allow https on port 443 to public addresses.
type Rules struct {
	AllowHTTP    bool           // http on port 80 too
	AllowPorts   []int          // beside these
	AllowPrivate []netip.Prefix // networks of ours that may be reached although they are not public
	Deny         []netip.Prefix // networks that may not be, although they look public: a cluster's own, say
}

// notPublic are the special ranges of IPv4, and those within the public part of IPv6 (2000::/3).
var notPublic = prefixes(
	"0.0.0.0/8",        // this network; 0.0.0.0 reaches this machine
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier-grade NAT; metadata of some clouds
	"127.0.0.0/8",      // this machine
	"168.63.129.16/32", // public by its number, and the inside of Azure by its use
	"169.254.0.0/16",   // link-local; metadata of most clouds
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; metadata of some clouds
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // relays of 6to4
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, and broadcast
	"2001::/23",        // protocol assignments: Teredo, which holds an IPv4 address, and more
	"2001:db8::/32",    // documentation
	"2002::/16",        // 6to4, which holds an IPv4 address
	"3fff::/20",        // documentation
)

// publicIPv6 is all of IPv6 that is handed out to the public. Outside of it are loopback, link-local, private, multicast
// and mapped addresses, and those of NAT64.
var publicIPv6 = netip.MustParsePrefix("2000::/3")

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

func within(a netip.Addr, ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// errPrivate says that a host leads to where webhooks may not go. It does not tell the address: what names mean inside
// a network is not for everybody who may set a webhook to learn.
var errPrivate = errors.New("its host is at an address that is not public; allow that network if it shall be reached")

// reach tells whether an address may be connected to.
func (r *Rules) reach(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid() || within(a, r.Deny):
		return errPrivate
	case within(a, r.AllowPrivate):
		return nil
	case a.Is6() && !publicIPv6.Contains(a), within(a, notPublic):
		return errPrivate
	}
	return nil
}

// longestURL is more than any webhook's address needs.
const longestURL = 2048

// CheckURL says what is wrong with a webhook's address. It looks at how it is written only: where its host leads is
// checked whenever it is connected to, for that may change. The error does not hold the address's path or query.
func (r *Rules) CheckURL(raw string) error {
	_, err := r.parse(raw)
	return err
}

func (r *Rules) parse(raw string) (*url.URL, error) {
	if len(raw) > longestURL {
		return nil, fmt.Errorf("the webhook's address has %d bytes; at most %d are possible", len(raw), longestURL)
	}
	u, err := url.Parse(raw) // its error would hold the whole address
	if err != nil || raw != strings.TrimSpace(raw) {
		return nil, errors.New("the webhook's address is not a URL: write https://host/path")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the webhook's address must begin with https://")
	case u.Scheme == "http" && !r.AllowHTTP:
		return nil, errors.New("the webhook's address must begin with https://; http is not allowed here")
	case u.User != nil:
		return nil, errors.New("the webhook's address must not hold a user or a password: notices are signed, check the signature instead")
	case u.Fragment != "":
		return nil, errors.New("the webhook's address must not have a fragment (#…): it would not be sent")
	}
	if err := r.checkHost(u.Hostname()); err != nil {
		return nil, err
	}
	return u, r.checkPort(u)
}

func (r *Rules) checkHost(host string) error {
	if host == "" {
		return errors.New("the webhook's address has no host: write https://host/path")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if err := r.reach(a); err != nil {
			return fmt.Errorf("the webhook's address: %w", err)
		}
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return errors.New("the host of the webhook's address may have letters a-z, digits, - and . only; write other names in their xn-- form")
		}
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case name == "" || len(name) > 253 || strings.HasPrefix(name, ".") || strings.Contains(name, ".."):
		return errors.New("the host of the webhook's address is not a name")
	case last[0] >= '0' && last[0] <= '9':
		// 127.1, 0x7f000001, 017700000001: to some resolvers these are addresses. No top-level domain begins with a digit.
		return errors.New("the host of the webhook's address is neither a name nor an address as 192.0.2.1 is written")
	case last == "localhost" && len(r.AllowPrivate) == 0:
		return fmt.Errorf("the webhook's address: %w", errPrivate)
	}
	return nil
}

func (r *Rules) checkPort(u *url.URL) error {
	if u.Port() == "" {
		return nil
	}
	port, err := strconv.Atoi(u.Port())
	standard := u.Scheme == "https" && port == 443 || u.Scheme == "http" && port == 80
	if err != nil || !standard && !slices.Contains(r.AllowPorts, port) {
		return fmt.Errorf("the webhook's address has the port %.5s, which is not allowed; leave it out for the usual one", u.Port())
	}
	return nil
}
