package budget

import (
	"encoding/json"
	"iter"
	"time"

	"github.com/catraca/catraca/internal/money"
)

// pastRow is a row of the usage log, as far as Replay has a use for it.
type pastRow struct {
	at               time.Time
	incarnation, seq int64 // a correction has the seq of its call, negated
	tookMs           int64
	tokens, usd, brl int64
	priced           bool
	holds            string // JSON: [[window, amount], …]
}

// pastCalls makes calls of rows that come in the order of at, incarnation and seq. A correction has time and incarnation
// of its call, so no more than the rows of one such instant are remembered, however many there are in all. units are the
// windows whose unit is known.
func pastCalls(rows iter.Seq2[pastRow, error], units map[int64]Unit) iter.Seq2[PastCall, error] {
	return func(yield func(PastCall, error) bool) {
		var together []pastRow
		flush := func() bool {
			for i := range together {
				if r := &together[i]; r.seq > 0 {
					call, err := r.call(together, units)
					if !yield(call, err) || err != nil {
						return false
					}
				}
			}
			together = together[:0]
			return true
		}
		for r, err := range rows {
			if err != nil {
				yield(PastCall{}, err)
				return
			}
			if len(together) > 0 && (r.incarnation != together[0].incarnation || !r.at.Equal(together[0].at)) && !flush() {
				return
			}
			together = append(together, r)
		}
		flush()
	}
}

// call is a row with its correction, which is among those of its instant.
func (r *pastRow) call(together []pastRow, units map[int64]Unit) (PastCall, error) {
	c := PastCall{At: r.at, Took: time.Duration(max(0, r.tookMs)) * time.Millisecond}
	known := r.priced
	tokens, usd, brl := r.tokens, r.usd, r.brl
	for i := range together {
		if fix := &together[i]; fix.seq == -r.seq {
			tokens, usd, brl, known = tokens+fix.tokens, usd+fix.usd, brl+fix.brl, known || fix.priced
		}
	}
	c.Cost = Cost{Tokens: max(0, tokens), USD: money.Pico(max(0, usd)), BRL: money.Pico(max(0, brl)), Unpriced: !known}
	if r.holds == "" || len(units) == 0 {
		return c, nil
	}
	var holds [][2]int64
	if err := json.Unmarshal([]byte(r.holds), &holds); err != nil {
		return c, err
	}
	for _, h := range holds {
		switch units[h[0]] {
		case Tokens:
			c.Worst.Tokens = max(c.Worst.Tokens, h[1])
		case BRL:
			c.Worst.BRL = max(c.Worst.BRL, money.Pico(h[1]))
		case USD:
			c.Worst.USD = max(c.Worst.USD, money.Pico(h[1]))
		}
	}
	return c, nil
}
