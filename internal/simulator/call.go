package simulator

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// call is one request on its way through.
type call struct {
	sim     *Simulator
	w       http.ResponseWriter
	r       *http.Request
	started time.Time
	number  int64 // of the requests since the start

	route    string
	endpoint string
	rest     string // what the path says after the endpoint
	body     []byte

	model    string // as asked
	base     string // the name without its behaviours
	priced   *model
	traits   traits
	streamed bool
	dice     dice // what the answer follows from
	idDice   dice // what its ids follow from

	// The account so far, and the counters it goes to.
	account
	booked account // as last settled
	row    *Tally
	entry  *Entry // nil where no journal is kept
	era    int
	// settled, if not nil, is called whenever the account is.
	settled func()
	events  int
	wrote   time.Time
}

// serve finds the upstream and the endpoint, and refuses who has no key.
func (c *call) serve() {
	path := ""
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(c.r.URL.Path, r.prefix+"/"); ok {
			c.route, path = r.name, rest
			break
		}
	}
	e, wrongMethod := c.find(path)
	body, whole := readAll(c.r)
	c.body = body
	c.sim.recorder.keep(c.r, body)
	switch {
	case !whole:
		// The client left, or broke its own body off, before there was anything to answer.
		c.begun()
		c.settle(gone)
		panic(http.ErrAbortHandler)
	case wrongMethod:
		c.begun()
		c.refuse(problem{status: http.StatusMethodNotAllowed, message: "Method not allowed for this path."})
	case e == nil:
		c.begun()
		c.refuse(c.unknownPath())
	case !e.open(c.route) && !c.authorized():
		c.begun()
		c.refuse(c.badKey())
	default:
		e.serve(c)
	}
}

// find looks the endpoint up; wrongMethod says that the path exists for another method.
func (c *call) find(path string) (e *endpoint, wrongMethod bool) {
	if c.route == "" {
		return nil, false
	}
	for i := range endpoints {
		e := &endpoints[i]
		rest, sub := strings.CutPrefix(path, e.path+"/")
		if !e.at(c.route, c.sim.cfg.Strict) || (path != e.path || e.sub) && !(sub && e.sub) {
			continue
		}
		if e.method != c.r.Method {
			wrongMethod = true
			continue
		}
		c.endpoint, c.rest = e.path, rest
		return e, false
	}
	return nil, wrongMethod
}

// secret is the credential sent, wherever the upstream accepts one.
func (c *call) secret() string {
	if bearer, ok := strings.CutPrefix(c.r.Header.Get("Authorization"), "Bearer "); ok {
		return strings.TrimSpace(bearer)
	}
	switch c.route {
	case gateway, anthropic:
		return c.r.Header.Get("X-Api-Key")
	case google:
		return c.r.Header.Get("X-Goog-Api-Key")
	}
	return ""
}

func (c *call) authorized() bool {
	secret := c.secret()
	return secret != "" && (len(c.sim.cfg.Keys) == 0 || slices.Contains(c.sim.cfg.Keys, secret))
}

// begun counts a request that will be refused before anything is known of it.
func (c *call) begun() {
	c.priced = &unlisted
	c.sim.tally.begin(c)
}

// begin takes what the endpoint has read of the request: the model, and the parts the answer follows from. It is false
// when the request has been answered already, by an error or by one of the behaviours that give none.
func (c *call) begin(name string, streamed bool, parts ...[]byte) bool {
	c.model, c.streamed = name, streamed
	c.traits = maps.Clone(c.sim.always)
	base, err := c.traits.readName(name)
	c.base = base
	known := false
	c.priced, known = pricing(base)
	// The creator is left out: the same model over another route gives the same answer.
	short := name[strings.LastIndexByte(base, '/')+1:]
	c.dice = seeded(c.sim.cfg.Seed, append([][]byte{[]byte(c.endpoint), []byte(short)}, parts...)...)
	c.idDice = c.dice
	if c.sim.cfg.UniqueIDs {
		c.idDice = seeded(c.sim.cfg.Seed, []byte(strconv.FormatInt(c.number, 10)), []byte(strconv.FormatInt(c.started.UnixNano(), 10)))
	}
	c.sim.tally.begin(c)
	if err != nil {
		c.refuse(problem{status: http.StatusNotFound, message: err.Error(), code: "model_not_found"})
		return false
	}
	if c.sim.cfg.Strict && (!known || c.priced.retired) && len(c.traits) == len(c.sim.always) {
		c.refuse(c.standard(http.StatusNotFound))
		return false
	}
	if c.misbehave() {
		return false
	}
	c.interim()
	return true
}

// malformed refuses a request that cannot be read, before begin.
func (c *call) malformed(message, param string) {
	c.begun()
	c.refuse(problem{status: http.StatusBadRequest, message: message, param: param})
}

// interim sends what some proxies in front of upstreams send before the answer.
func (c *call) interim() {
	if c.traits.has("100-continue") {
		c.w.WriteHeader(http.StatusContinue)
	}
	if c.traits.has("early-hints") {
		c.w.Header().Set("Link", "</style.css>; rel=preload; as=style")
		c.w.WriteHeader(http.StatusEarlyHints)
		c.w.Header().Del("Link")
	}
}

// wait lets d pass; it is false when the client left or the simulator closes meanwhile.
func (c *call) wait(d time.Duration) bool {
	if d <= 0 {
		return c.r.Context().Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.r.Context().Done():
	case <-c.sim.closing:
	}
	return false
}

// linger holds the request until the client leaves.
func (c *call) linger() {
	select {
	case <-c.r.Context().Done():
	case <-c.sim.closing:
	}
}

// settle books how the request ended, and again if it turns out otherwise.
func (c *call) settle(end outcome) {
	c.sim.tally.settle(c, end)
	if c.settled != nil {
		c.settled()
	}
}

// left ends the request as one whose client is gone, and closes the connection.
func (c *call) left() {
	c.settle(gone)
	panic(http.ErrAbortHandler)
}

// firstDelay is how long the first byte takes; perToken how long each token after it.
func (c *call) firstDelay() time.Duration {
	if n, ok := c.traits["first"]; ok {
		return time.Duration(n) * time.Millisecond
	}
	return c.sim.cfg.FirstTokenDelay
}

func (c *call) perToken() time.Duration {
	if n, ok := c.traits["slow"]; ok {
		return time.Duration(n) * time.Millisecond
	}
	return c.sim.cfg.TokenDelay
}

// tell books u as reported in a usage object, unless the traits send none, or none that can be read.
func (c *call) tell(u usage) {
	if c.usageSpoiled() {
		return
	}
	c.told, c.toldAny = u, true
	if c.traits.has("usage-zero") {
		c.told = usage{}
	}
}

// usageSpoiled says whether what goes out cannot be read as whole, non-negative numbers.
func (c *call) usageSpoiled() bool {
	for _, name := range []string{"no-usage", "usage-null", "usage-string", "usage-negative", "usage-huge"} {
		if c.traits.has(name) {
			return true
		}
	}
	return false
}

// count writes one number of a usage object as the traits want it.
func (c *call) count(n int64) any {
	switch t := c.traits; {
	case t.has("usage-zero"):
		return 0
	case t.has("usage-string"):
		return strconv.FormatInt(n, 10)
	case t.has("usage-negative"):
		return -n - 1
	case t.has("usage-float"):
		return raw(strconv.FormatInt(n, 10) + ".0")
	case t.has("usage-huge"):
		return raw("9223372036854775807")
	}
	return n
}

// spoil turns the numbers of a finished usage object into what the traits want; nil where usage is null.
func (c *call) spoil(u object) any {
	if c.traits.has("usage-null") {
		return nil
	}
	if len(c.traits) == 0 {
		return u
	}
	out := slices.Clone(u)
	for i := 1; i < len(out); i += 2 {
		switch v := out[i].(type) {
		case int64:
			out[i] = c.count(v)
		case int:
			out[i] = c.count(int64(v))
		case object:
			if inner := c.spoil(v); inner != nil {
				out[i] = inner
			}
		}
	}
	return out
}
