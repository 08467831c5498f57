package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/tenancy"
)

// ErrRefused says that the control plane does not accept this proxy.
var ErrRefused = errors.New("the control plane refuses this proxy: CATRACA_SIDECAR_TOKEN is not one it lists, or the certificate not one it trusts")

var errForeign = errors.New("what answers at CATRACA_CONTROL_URL is not a control plane of Catraca's")

// How long the control plane may take. A look for changes waits for news beside.
const (
	dialTimeout     = 3 * time.Second
	callTimeout     = 5 * time.Second
	settingsTimeout = 15 * time.Second
	maxAnswer       = 64 << 20
)

// Client is the way to a control plane elsewhere. It is what a proxy has for a Control.
type Client struct {
	base   string
	token  string
	http   *http.Client
	decode tenancy.Decoder
	seen   atomic.Int64 // newest version that Watch gave

	mu    sync.Mutex
	stats ClientStats
}

var _ Control = (*Client)(nil)

// ClientStats is a look at a link, for metrics and readiness.
type ClientStats struct {
	Up       bool      // the last call was answered
	Since    time.Time // since when it is up, or is not; zero: it was not asked yet
	Problem  string    // why it is not, without addresses and secrets
	Answered map[string]int64
	Failed   map[string]int64 // by call
}

// NewClient makes a client of the control plane at an address (http://host:port or https://). Either of token and
// certificates may be empty.
func NewClient(address, token string, certificates *Certificates) *Client {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: WatchFor + callTimeout,
	}
	if certificates != nil {
		transport.DialTLSContext = certificates.dial
	}
	return &Client{
		base: strings.TrimRight(address, "/"), token: token,
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errForeign // a token is for whom it was given to
		}},
		stats: ClientStats{Answered: map[string]int64{}, Failed: map[string]int64{}},
	}
}

// do makes one call. A nil body is a GET.
func (c *Client) do(ctx context.Context, call, path string, timeout time.Duration, header http.Header, body any) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	response, content, err := c.roundTrip(ctx, path, header, body)
	c.note(call, err)
	return response, content, err
}

func (c *Client) roundTrip(ctx context.Context, path string, header http.Header, body any) (*http.Response, []byte, error) {
	method, content := http.MethodGet, io.Reader(nil)
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, nil, err
		}
		method, content = http.MethodPost, bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+"/link/v1/"+path, content)
	if err != nil {
		return nil, nil, errors.New("CATRACA_CONTROL_URL is not an address")
	}
	for name := range header {
		request.Header.Set(name, header.Get(name))
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, nil, unwrapURL(err)
	}
	defer response.Body.Close()
	if response.Header.Get(linkHeader) == "" {
		return nil, nil, errForeign
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("the control plane's answer broke off: %w", err)
	case len(answer) > maxAnswer:
		return nil, nil, errForeign
	case response.StatusCode == http.StatusOK || response.StatusCode == http.StatusNotModified:
		return response, answer, nil
	}
	return nil, nil, faultOf(answer)
}

// unwrapURL takes the address out of an error: an operator's log need not have it in every line.
func unwrapURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

func faultOf(answer []byte) error {
	var f fault
	if json.Unmarshal(answer, &f) != nil || f.Code == "" {
		return errForeign
	}
	switch f.Code {
	case errUnauthorized.Code:
		return ErrRefused
	case errUnknown.Code:
		return tenancy.ErrNotFound
	case errLost.Code:
		return tenancy.ErrChangesLost
	case errBrokenTenant.Code:
		return fmt.Errorf("the control plane says: %w", tenancy.ErrBroken)
	}
	return &f
}

// note keeps how the link does. An answer is an answer, be it that there is no such key.
func (c *Client) note(call string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answered := err == nil || errors.Is(err, tenancy.ErrNotFound) || errors.Is(err, tenancy.ErrChangesLost) || errors.Is(err, tenancy.ErrBroken)
	switch {
	case answered:
		c.stats.Answered[call]++
	case errors.Is(err, context.Canceled):
		return // by ourselves
	default:
		c.stats.Failed[call]++
		c.stats.Problem = err.Error()
	}
	if c.stats.Up != answered || c.stats.Since.IsZero() {
		c.stats.Up, c.stats.Since = answered, time.Now()
	}
	if answered {
		c.stats.Problem = ""
	}
}

// Stats tells how the link does.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Answered, s.Failed = cloneCounts(s.Answered), cloneCounts(s.Failed)
	return s
}

func cloneCounts(counts map[string]int64) map[string]int64 {
	clone := make(map[string]int64, len(counts))
	for call, n := range counts {
		clone[call] = n
	}
	return clone
}

// Hello tries the link: how far the control plane's clock is ahead of ours, and the version of its feed.
func (c *Client) Hello(ctx context.Context) (at time.Time, version int64, err error) {
	_, answer, err := c.do(ctx, "hello", "hello", callTimeout, nil, nil)
	if err != nil {
		return at, 0, err
	}
	var h hello
	if json.Unmarshal(answer, &h) != nil {
		return at, 0, errForeign
	}
	return h.At, h.Version, nil
}

// PrincipalByKey implements Control.
func (c *Client) PrincipalByKey(ctx context.Context, digest [32]byte) (*tenancy.Principal, error) {
	return c.principal(ctx, asked{Key: digest[:], Version: c.seen.Load()})
}

// PrincipalByClient implements Control.
func (c *Client) PrincipalByClient(ctx context.Context, id uuid.UUID) (*tenancy.Principal, error) {
	return c.principal(ctx, asked{Client: id, Version: c.seen.Load()})
}

func (c *Client) principal(ctx context.Context, q asked) (*tenancy.Principal, error) {
	_, answer, err := c.do(ctx, "principal", "principal", callTimeout, nil, q)
	if err != nil {
		return nil, err
	}
	p, err := c.decode.Principal(answer)
	if err != nil {
		return nil, fmt.Errorf("the control plane's answer: %w: %w", tenancy.ErrBroken, err)
	}
	return p, nil
}

// Watch implements Control.
func (c *Client) Watch(ctx context.Context, after int64, settings string) (News, error) {
	c.seen.Store(after)
	query := url.Values{"after": {strconv.FormatInt(after, 10)}, "settings": {settings}}
	_, answer, err := c.do(ctx, "changes", "changes?"+query.Encode(), WatchFor+callTimeout, nil, nil)
	if err != nil {
		return News{}, err
	}
	var news News
	if json.Unmarshal(answer, &news) != nil || news.Version <= 0 {
		return News{}, errForeign
	}
	c.seen.Store(news.Version)
	return news, nil
}

// Settings implements Control.
func (c *Client) Settings(ctx context.Context, have string) (*Settings, error) {
	header := http.Header{}
	if have != "" {
		header.Set("If-None-Match", `"`+have+`"`)
	}
	response, answer, err := c.do(ctx, "settings", "settings", settingsTimeout, header, nil)
	if err != nil || response.StatusCode == http.StatusNotModified {
		return nil, err
	}
	return decodeSettings(answer)
}

// TouchKeys implements Control.
func (c *Client) TouchKeys(ctx context.Context, ids []uuid.UUID, at time.Time) error {
	_, _, err := c.do(ctx, "touched", "touched", callTimeout, nil, touched{ids, at})
	return err
}

// Owner implements Control.
func (c *Client) Owner(ctx context.Context, client uuid.UUID, upstreamID string) (route, provider string, ok bool, err error) {
	_, answer, err := c.do(ctx, "owner", "owner", callTimeout, nil, ownerAsked{client, upstreamID})
	if err != nil {
		return "", "", false, err
	}
	var found ownerFound
	if json.Unmarshal(answer, &found) != nil {
		return "", "", false, errForeign
	}
	return found.Route, found.Provider, found.OK, nil
}

// Beat implements Control.
func (c *Client) Beat(ctx context.Context, b Beat) (Pulse, error) {
	_, answer, err := c.do(ctx, "beat", "beat", callTimeout, nil, b)
	if err != nil {
		return Pulse{}, err
	}
	var p Pulse
	if json.Unmarshal(answer, &p) != nil {
		return Pulse{}, errForeign
	}
	return p, nil
}
