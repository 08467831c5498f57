//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/catraca/catraca/internal/testenv"
)

// onRedis runs f on a client of a server.
func onRedis(s *testenv.Server, f func(*redis.Client) error) error {
	o, err := redis.ParseURL(s.URL)
	if err != nil {
		return err
	}
	o.MaxRetries = -1
	rdb := redis.NewClient(o)
	defer rdb.Close()
	return f(rdb)
}

// streams lists what a Redis has in its streams: by key, the id of each entry.
func streams(ctx context.Context, s *testenv.Server) (ids map[string][]string, err error) {
	ids = map[string][]string{}
	return ids, onRedis(s, func(rdb *redis.Client) error {
		keys, err := rdb.Keys(ctx, "catraca:usage:{*}").Result() // a Redis of our own, with a few keys
		if err != nil {
			return err
		}
		for _, key := range keys {
			if strings.HasSuffix(key, ":generation") {
				continue
			}
			entries, err := rdb.XRange(ctx, key, "-", "+").Result()
			if err != nil {
				return fmt.Errorf("read %s: %w", key, err)
			}
			for _, e := range entries {
				ids[key] = append(ids[key], e.ID)
			}
		}
		return nil
	})
}

// streamed counts the entries that wait in a Redis.
func streamed(ctx context.Context, s *testenv.Server) (n int, err error) {
	ids, err := streams(ctx, s)
	for _, list := range ids {
		n += len(list)
	}
	return n, err
}

// pending is a word on the entries that wait in a Redis: how many were handed to a worker, and since when.
func pending(ctx context.Context, s *testenv.Server) string {
	ids, err := streams(ctx, s)
	if err != nil {
		return err.Error()
	}
	var words []string
	err = onRedis(s, func(rdb *redis.Client) error {
		for _, key := range sortedKeys(ids) {
			held, err := rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: "ledger", Start: "-", End: "+", Count: 3}).Result()
			if err != nil {
				return err
			}
			words = append(words, fmt.Sprintf("%s has %d entries, handed to a worker: %+v", key, len(ids[key]), held))
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return strings.Join(words, "\n")
}

// flush empties a Redis.
func flush(ctx context.Context, s *testenv.Server) error {
	return onRedis(s, func(rdb *redis.Client) error { return rdb.FlushAll(ctx).Err() })
}
