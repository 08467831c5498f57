package metering

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/catraca/catraca/internal/testenv"
)

// BenchmarkShip is what a call costs after its end: read from the spool, published in memory, acknowledged.
func BenchmarkShip(b *testing.B) {
	s := openSpool(b, SpoolOptions{MaxBytes: 8 << 30})
	queue := &swallow{}
	h := NewShipper(s, queue, nil)
	e := usualEvent(0)
	b.ReportAllocs()
	for n := 0; n < b.N; n += 2000 {
		b.StopTimer()
		for range 2000 {
			if err := s.Open(&e); err != nil {
				b.Fatal(err)
			}
			s.Close(&e)
		}
		b.StartTimer()
		h.ship(b.Context())
		h.poll(b.Context())
		b.StopTimer()
		s.sync()
		s.trim()
		b.StartTimer()
	}
	if s.Stats().Depth != 0 {
		b.Fatalf("%+v", s.Stats())
	}
	if err := s.Shutdown(); err != nil {
		b.Fatal(err)
	}
}

// swallow is a queue whose ledger has everything at once.
type swallow struct{ n uint64 }

func (q *swallow) Publish(_ context.Context, batch []Message) error {
	q.n += uint64(len(batch))
	return nil
}

func (q *swallow) Received(context.Context, uint64) (Ranges, error) { return Ranges{{1, q.n}}, nil }

// BenchmarkRecover reads what 100,000 calls left.
func BenchmarkRecover(b *testing.B) {
	s := openSpool(b, SpoolOptions{})
	e := usualEvent(0)
	for range 100_000 {
		if err := s.Open(&e); err != nil {
			b.Fatal(err)
		}
		s.Close(&e)
	}
	abandonSpool(s)
	o := SpoolOptions{Dir: s.o.Dir}
	for b.Loop() {
		s := openSpool(b, o)
		if s.Stats().Depth != 100_000 {
			b.Fatalf("%+v", s.Stats())
		}
		abandonSpool(s)
	}
}

// BenchmarkRoad is the whole way through a real Redis, with a ledger in memory.
func BenchmarkRoad(b *testing.B) {
	url := testenv.Redis(b)
	ledger := newMapLedger()
	s := openSpool(b, SpoolOptions{MaxBytes: 8 << 30})
	stopSpool := start(b, s.Run)
	stopShipper := start(b, NewShipper(s, NewRedisQueue(openRedis(b, url), nil), nil).Run)
	stopWorker := start(b, NewWorker(ledger, NewRedisQueue(openRedis(b, url), nil), nil, nil).Run)
	b.ResetTimer()
	for i := range b.N {
		e := usualEvent(0)
		e.ClientID = uuid.UUID{15: byte(i)}
		if err := s.Open(&e); err != nil {
			b.Fatal(err)
		}
		s.Close(&e)
	}
	eventually(b, "all is acknowledged", func() bool { return s.Stats().Depth == 0 })
	b.StopTimer()
	if n := ledger.size(); n != b.N {
		b.Fatalf("%d recorded of %d", n, b.N)
	}
	stopShipper()
	stopWorker()
	stopSpool()
}
