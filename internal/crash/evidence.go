//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/shopspring/decimal"
)

// entry is what the simulator says of one call: its journal's line.
type entry struct {
	Mark    string `json:"mark"`
	Route   string `json:"route"`
	Outcome string `json:"outcome"`
	Told    bool   `json:"told"`
	Input   int64  `json:"input_tokens"`
	Output  int64  `json:"output_tokens"`
	Total   int64  `json:"total_tokens"`
	Cached  int64  `json:"cached_tokens"`
	Written int64  `json:"cache_write_tokens"`
	Thought int64  `json:"reasoning_tokens"`
	CostUSD string `json:"cost_usd"`
}

func (e *entry) tokens() tokens {
	return tokens{e.Input, e.Output, e.Total, e.Cached, e.Written, e.Thought}
}

func (e *entry) cost() decimal.Decimal { return amount(e.CostUSD) }

// amount reads a sum of money; none is 0.
func amount(text string) decimal.Decimal {
	if text == "" {
		return decimal.Zero
	}
	d, err := decimal.NewFromString(text)
	if err != nil {
		panic("BUG: not an amount: " + text)
	}
	return d
}

// bill is tokens and what they cost.
type bill struct {
	tokens
	usd decimal.Decimal
}

func (b bill) plus(sign int64, o bill) bill {
	return bill{b.tokens.plus(sign, o.tokens), b.usd.Add(o.usd.Mul(decimal.NewFromInt(sign)))}
}

func (b bill) equal(o bill) bool { return b.tokens == o.tokens && b.usd.Equal(o.usd) }

func (b bill) String() string {
	return fmt.Sprintf("%d in, %d out, %d in all (%d cached, %d written, %d thought), US$ %s", b.Input, b.Output, b.Total, b.Cached, b.CacheWrite, b.Reasoning, b.usd)
}

// row is one of the ledger's.
type row struct {
	client, mark, requestID, route, outcome, source, upstreamID string
	status                                                      int64
	incarnation, seq                                            int64
	priced                                                      bool
	bill
}

// evidence is what the three that were there say: the clients, the upstream, the ledger.
type evidence struct {
	calls    []*call
	entries  map[string][]*entry // by mark
	issued   bill                // by the simulator's own sums, which are not made from its journal
	rows     []*row
	booked   bill // by the database's own sum of the log
	flaws    []string
	corrects bool // the ledger looks estimates up, so that what could be looked up must be exact
}

// readJournal fetches what the simulator did: each call, and its sums.
func (w *world) readJournal(ctx context.Context, ev *evidence) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.simulator()+"/_journal", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	ev.entries = map[string][]*entry{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("the simulator's journal: %w", err)
		}
		if e.Mark != "" {
			ev.entries[e.Mark] = append(ev.entries[e.Mark], &e)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	stats, err := w.stats(ctx)
	if err != nil {
		return err
	}
	sum := &stats.Total.Issued
	ev.issued = bill{sum.tokens(), sum.cost()}
	return nil
}

type simulatorStats struct {
	Open  int `json:"open"`
	Total struct {
		Requests int64 `json:"requests"`
		Issued   entry `json:"issued"`
	} `json:"total"`
}

func (w *world) stats(ctx context.Context) (s simulatorStats, err error) {
	return s, request(ctx, http.MethodGet, w.simulator()+"/_stats", "", nil, &s)
}
