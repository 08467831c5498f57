package metering

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// silence is a logger for go-redis, which would write every failed dial to stderr: what fails is returned too.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// OpenRedis makes a client; it connects when it is first used. The forms, each with s for TLS and with user and
// password where needed:
//
//	redis://[user:password@]host:6379/0                    rediss://…           one server
//	redis+cluster://host:6379,host2:6379                   rediss+cluster://…   a cluster; some of its nodes
//	redis+sentinel://host:26379,host2:26379/0?master_name=mymaster              sentinels, and what they watch
//
// Options of go-redis may follow as a query: ?dial_timeout=2s&pool_size=50.
func OpenRedis(address string) (redis.UniversalClient, error) {
	redis.SetLogger(silence{})
	scheme, rest, found := strings.Cut(address, "://")
	base, form, _ := strings.Cut(scheme, "+")
	if !found || base != "redis" && base != "rediss" || form != "" && form != "cluster" && form != "sentinel" {
		return nil, errors.New("redis URL: it must begin with redis://, rediss://, redis+cluster:// or redis+sentinel://")
	}
	single := base + "://" + rest
	if form != "" {
		single = oneHost(base, rest)
	}
	client, err := dialer(single, form)
	// The error of a URL that cannot be parsed quotes it, password and all.
	if parse := (*url.Error)(nil); errors.As(err, &parse) {
		err = parse.Err
	}
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	return client, nil
}

// oneHost turns host,host2/path?query into what go-redis parses: the first as host, the others as addr parameters.
func oneHost(base, rest string) string {
	end := len(rest)
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		end = i
	}
	authority, tail := rest[:end], rest[end:]
	user := ""
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, authority = authority[:i+1], authority[i+1:]
	}
	hosts := strings.Split(authority, ",")
	path, query, _ := strings.Cut(tail, "?")
	for _, h := range hosts[1:] {
		if query != "" {
			query += "&"
		}
		query += "addr=" + url.QueryEscape(h)
	}
	return base + "://" + user + hosts[0] + path + "?" + query
}

// How long Redis may take. Nothing waits for it but the shipper and the worker, which try again themselves: the
// client's own retries would only turn a second into many.
const (
	redisDial = time.Second
	redisIO   = 2 * time.Second
	redisPool = 64 // sixteen shards block on one each
)

func dialer(address, form string) (redis.UniversalClient, error) {
	quiet := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch form {
	case "cluster":
		o, err := redis.ParseClusterURL(address)
		if err != nil {
			return nil, err
		}
		o.ContextTimeoutEnabled, o.DisableIdentity, o.MaintNotificationsConfig = true, true, quiet
		calm(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		return redis.NewClusterClient(o), nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(address)
		if err != nil {
			return nil, err
		}
		if o.MasterName == "" {
			return nil, errors.New("sentinels need ?master_name=")
		}
		o.ContextTimeoutEnabled, o.DisableIdentity = true, true
		calm(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		return redis.NewFailoverClient(o), nil
	}
	o, err := redis.ParseURL(address)
	if err != nil {
		return nil, err
	}
	o.ContextTimeoutEnabled, o.DisableIdentity, o.MaintNotificationsConfig = true, true, quiet
	calm(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
	return redis.NewClient(o), nil
}

// calm sets what the URL did not.
func calm(retries, dials, pool *int, dial, read, write *time.Duration) {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(retries, -1)
	set(dials, 1)
	set(pool, redisPool)
	for p, v := range map[*time.Duration]time.Duration{dial: redisDial, read: redisIO, write: redisIO} {
		if *p == 0 {
			*p = v
		}
	}
}
