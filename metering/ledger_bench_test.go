package metering

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catraca/catraca/internal/testenv"
	"github.com/catraca/catraca/migrations"
)

// BenchmarkLedger is the worker's way into a store that keeps its promise when the power fails: batches of 500, each of
// one of 16 shards of 200 clients, four models, two hours, latencies as calls have them. An op is an event that was
// delivered. Beside the rate by the clock there are two that do not depend on what else the machine does: how many
// events a second of the recorder's CPU, and of the database's, is good for.
func BenchmarkLedger(b *testing.B) {
	for _, repeats := range []int{0, 30} {
		b.Run(fmt.Sprintf("postgres/repeats=%d%%", repeats), func(b *testing.B) { benchmarkLedgerPostgres(b, repeats) })
		b.Run(fmt.Sprintf("sqlite/repeats=%d%%", repeats), func(b *testing.B) { benchmarkLedger(b, durableSQLite(b), repeats, nil) })
	}
}

func benchmarkLedgerPostgres(b *testing.B, repeats int) {
	server, err := testenv.StartPostgres(true)
	if err != nil {
		b.Fatal(err)
	}
	defer server.Stop()
	db, err := sql.Open("pgx", server.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := migrations.Up(b.Context(), db, migrations.Postgres); err != nil {
		b.Fatal(err)
	}
	pool, err := pgxpool.New(b.Context(), server.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	p := NewPostgres(pool)
	if _, err := p.MakePartitions(b.Context(), testDay, 1); err != nil {
		b.Fatal(err)
	}
	var backend int
	if err := pool.QueryRow(b.Context(), "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		b.Fatal(err)
	}
	benchmarkLedger(b, p, repeats, func() time.Duration { return childrenCPU(parentOf(backend)) })
}

// durableSQLite is the embedded ledger as cmd opens it.
func durableSQLite(b *testing.B) *SQLite {
	dsn := "file:" + (&url.URL{Path: filepath.Join(b.TempDir(), "catraca.db")}).EscapedPath() +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_txlock=immediate"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	if err := migrations.Up(b.Context(), db, migrations.SQLite); err != nil {
		b.Fatal(err)
	}
	return NewSQLite(db, db)
}

const benchBatch = 500

// benchmarkLedger hands b.N events over, made before the clock runs, in batches of a shard each, with as many recorders
// at once as a worker may have busy shards.
func benchmarkLedger(b *testing.B, s Ledger, repeats int, storeCPU func() time.Duration) {
	const warm, shards, recorders = 10, 16, 4
	r := rand.New(rand.NewPCG(1, uint64(repeats)))
	batches := make([][][]Event, shards)
	for i := range warm*shards + (b.N+benchBatch-1)/benchBatch {
		shard := i % shards
		var old []Event
		if n := len(batches[shard]); n > 0 {
			old = batches[shard][n-1][benchBatch*repeats/100:] // new ones of the batch before
		}
		batch := append([]Event(nil), old[:min(benchBatch*repeats/100, len(old))]...)
		for len(batch) < benchBatch {
			batch = append(batch, benchEvent(r, shard, uint64(i*benchBatch+len(batch)+1)))
		}
		batches[shard] = append(batches[shard], batch)
	}
	record := func(from, to int) (events int) {
		var g sync.WaitGroup
		var n atomic.Int64
		for w := range recorders {
			g.Go(func() {
				for round := from; round < to; round++ {
					for shard := w; shard < shards; shard += recorders {
						if round >= len(batches[shard]) {
							continue
						}
						if err := s.Record(context.Background(), batches[shard][round]); err != nil {
							b.Error(err)
						}
						n.Add(benchBatch)
					}
				}
			})
		}
		g.Wait()
		return int(n.Load())
	}
	record(0, warm) // roll-ups as full as they are in the middle of their hour
	own, store := ownCPU(), cpuOf(storeCPU)
	b.ReportAllocs()
	b.ResetTimer()
	delivered := float64(record(warm, len(batches[0])))
	b.StopTimer()
	b.ReportMetric(delivered/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(delivered/(ownCPU()-own).Seconds(), "events/recorder-cpu-s")
	if storeCPU != nil {
		b.ReportMetric(delivered/(cpuOf(storeCPU)-store).Seconds(), "events/database-cpu-s")
	}
}

// benchHour is so much before the full hour that a batch has calls of one hour or of two.
var benchHour = testDay.Add(30 * time.Minute)

func benchEvent(r *rand.Rand, shard int, seq uint64) Event {
	client := shard + 16*r.IntN(13)
	if client >= 200 {
		client -= 16
	}
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[8:], uint64(client)+1)
	model := r.IntN(4)
	name := []string{"gpt-4o-mini", "gpt-4o", "llama-3.3-70b-versatile", "claude-sonnet-5-5"}[model]
	provider := []string{"openai", "openai", "groq", "anthropic"}[model]
	latency := int64(math.Exp(r.NormFloat64()*0.6 + 7.2))
	ev := randomEvent(r, uint64(shard)+1, seq)
	ev.ClientID, ev.ModelID, ev.ModelServed, ev.Provider = id, uuid.UUID{6: 0x40, 8: 0x80, 15: byte(model)}, name, provider
	ev.Endpoint, ev.Route, ev.Outcome, ev.WasCached, ev.ErrorCode = "chat.completions", "gateway", OK, false, ""
	ev.Usage.Source = Measured
	if r.IntN(50) == 0 {
		ev.Usage.Source, ev.Outcome = Estimated, ClientGone
	}
	ev.LatencyMs, ev.TTFTMs = latency, latency/4+1
	// Calls come nearly in the order of their admission, a hundred thousand of them in an hour.
	at := time.Duration(seq)*36*time.Millisecond - time.Duration(r.Int64N(int64(time.Minute)))
	ev.AdmittedAt = benchHour.Add(at).Truncate(time.Microsecond)
	return ev
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func cpuOf(f func() time.Duration) time.Duration {
	if f == nil {
		return 0
	}
	return f()
}

// statOf is what Linux tells of a process behind its name; nothing elsewhere.
func statOf(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.Fields(rest)
}

func parentOf(pid int) int {
	if f := statOf(pid); len(f) > 1 {
		n, _ := strconv.Atoi(f[1])
		return n
	}
	return 0
}

// childrenCPU is what all processes of a server have used.
func childrenCPU(parent int) (total time.Duration) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	for _, child := range strings.Fields(string(children)) {
		pid, _ := strconv.Atoi(child)
		if f := statOf(pid); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			total += time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	return total
}
