package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/catraca/catraca/metering"
)

// signedQueue is a data plane's end of the queue. The keys that events are signed with come from the control plane, may
// not be known yet at a start, and change when its master key is rotated.
type signedQueue struct {
	client redis.UniversalClient
	keys   func() [][]byte // newest first

	mu    sync.Mutex
	with  [][]byte
	queue *metering.RedisQueue
}

var errNoSigningKey = errors.New("the control plane has not said yet what events are signed with")

func (q *signedQueue) now() (*metering.RedisQueue, error) {
	keys := q.keys()
	if len(keys) == 0 {
		return nil, errNoSigningKey
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue == nil || !slices.EqualFunc(keys, q.with, bytes.Equal) {
		q.queue, q.with = newRedisQueue(q.client, keys), keys
	}
	return q.queue, nil
}

// Publish implements metering.Queue.
func (q *signedQueue) Publish(ctx context.Context, batch []metering.Message) error {
	queue, err := q.now()
	if err != nil {
		return err
	}
	return queue.Publish(ctx, batch)
}

// Received implements metering.Queue.
func (q *signedQueue) Received(ctx context.Context, incarnation uint64) (metering.Ranges, error) {
	queue, err := q.now()
	if err != nil {
		return nil, err
	}
	return queue.Received(ctx, incarnation)
}

// Generation tells the shipper when Redis has lost its memory.
func (q *signedQueue) Generation(ctx context.Context) (string, error) {
	queue, err := q.now()
	if err != nil {
		return "", err
	}
	return queue.Generation(ctx)
}
