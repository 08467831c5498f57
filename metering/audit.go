package metering

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/shopspring/decimal"
)

// The audit compares what must be equal, all of it in one snapshot of the store:
//
//	numbers given out = watermark + on the way      what proxies report is older than the snapshot, so nothing is missed
//	watermark         = log rows + dead letters     to the sequence number
//	log               = roll-ups = histograms = performance of the cache       to the last decimal
//	cost              = what its source said
//
// A number is unaccounted when the ledger does not have it and nobody who could have it says so. A proxy that is silent
// may still have on its disk what it last spoke of, so its numbers are silent first, and unaccounted only after WriteOff:
// a machine that comes back with its disk after a weekend loses nothing, a volume that is destroyed shows at once as
// silent and within a day as lost. Where a later run of a proxy has not got what it should have, GoneAfter is enough.

// AuditDepth says how much an audit reads.
type AuditDepth string

// The depths of an audit.
const (
	// AuditRecent reads the hours that the last two hours are in: cheap enough for every minute.
	AuditRecent AuditDepth = "recent"
	// AuditFull reads all that is kept.
	AuditFull AuditDepth = "full"
)

// AuditOptions says what an audit looks at. The zero value is a full one.
type AuditOptions struct {
	Depth AuditDepth
	Since time.Time // a full one leaves out the hours before; zero: none
	// TotalsSince bounds AuditReport.Totals to calls admitted from then on, to the microsecond.
	TotalsSince time.Time

	SilentAfter time.Duration // without a word from its proxy, a number is silent and not on its way. Default 1 minute
	GoneAfter   time.Duration // until what a later run of its proxy has not got is believed lost. Default 1 minute
	WriteOff    time.Duration // until what a silent proxy last spoke of is taken for lost. Default 24 hours
}

func (o AuditOptions) withDefaults() AuditOptions {
	o.Depth = cmp.Or(o.Depth, AuditFull)
	o.SilentAfter = cmp.Or(o.SilentAfter, time.Minute)
	o.GoneAfter = cmp.Or(o.GoneAfter, time.Minute)
	o.WriteOff = cmp.Or(o.WriteOff, 24*time.Hour)
	return o
}

// window is the time that log and roll-ups are compared over: whole hours, and none of which the log was let go.
func (o AuditOptions) window(now, kept time.Time) (from time.Time) {
	from = o.Since
	if o.Depth == AuditRecent {
		from = now.Add(-2 * time.Hour)
	}
	if !from.IsZero() {
		from = from.Truncate(time.Hour)
	}
	if from.Before(kept) {
		from = kept
	}
	return from
}

// AuditReport is what an audit found.
type AuditReport struct {
	At    time.Time     `json:"at"` // of the snapshot, by the store's clock
	Depth AuditDepth    `json:"depth"`
	From  time.Time     `json:"from,omitzero"` // log and roll-ups were compared from this hour on; zero: all
	Took  time.Duration `json:"took_ns"`
	Holds bool          `json:"holds"` // everything that was checked

	Incarnations int    `json:"incarnations"` // whose numbers were looked at
	Unaccounted  uint64 `json:"unaccounted"`  // calls that nobody has
	OnTheWay     uint64 `json:"on_the_way"`   // calls that a proxy has and the ledger not yet
	Silent       uint64 `json:"silent"`       // calls that only a proxy has that is not heard of
	Unjudged     uint64 `json:"unjudged"`     // too new for the last report of their proxy

	Checks []AuditCheck `json:"checks"`
	Gaps   []AuditGap   `json:"gaps,omitempty"` // the first hundred, lost ones first
	Totals AuditTotals  `json:"totals"`
}

// AuditCheck is one row of the table.
type AuditCheck struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Left       string `json:"left"`
	Right      string `json:"right"`
	Difference string `json:"difference"`
	Holds      bool   `json:"holds"`
	Skipped    bool   `json:"skipped,omitzero"` // it could not be checked; Detail says why
	Detail     string `json:"detail,omitempty"`
}

// AuditGap is a run of numbers of one incarnation that are not in the ledger.
type AuditGap struct {
	Incarnation string    `json:"incarnation"` // 16 hex digits
	Numbers     string    `json:"numbers"`     // "7-9,12"; the first of them where there are many
	Count       uint64    `json:"count"`
	State       string    `json:"state"` // lost: its spool cannot read it; unaccounted; silent
	Proxy       string    `json:"proxy,omitempty"`
	Heard       time.Time `json:"heard,omitzero"` // when its proxy was last heard of
}

// AuditTotals is what the log and the dead letters hold, for whoever has another count to compare with.
type AuditTotals struct {
	Since     time.Time   `json:"since,omitzero"`
	Measured  AuditAmount `json:"measured"`  // with corrections, and with estimates that were corrected
	Estimated AuditAmount `json:"estimated"` // not corrected
	None      AuditAmount `json:"none"`      // nothing was used
	Dead      AuditAmount `json:"dead"`      // what dead letters claim that are open
}

// AuditAmount is a sum. USD is exact.
type AuditAmount struct {
	Calls      int64           `json:"calls"`
	Input      int64           `json:"input_tokens"`
	Output     int64           `json:"output_tokens"`
	Total      int64           `json:"total_tokens"`
	Cached     int64           `json:"cached_tokens"`
	CacheWrite int64           `json:"cache_write_tokens"`
	Reasoning  int64           `json:"reasoning_tokens"`
	AudioMs    int64           `json:"audio_ms"`
	Images     int64           `json:"images"`
	Characters int64           `json:"characters"`
	USD        decimal.Decimal `json:"cost_usd"`
	BRL        decimal.Decimal `json:"cost_brl"`
}

// Auditor is what a store can be asked about itself.
type Auditor interface {
	// Audit compares what must be equal, in one snapshot.
	Audit(ctx context.Context, o AuditOptions) (AuditReport, error)
	// LeaseAudit gives the newest recent audit that any process made, and tells whether this one should make the next:
	// it is older than every and nobody else is at it.
	LeaseAudit(ctx context.Context, every, lease time.Duration) (last AuditReport, mine bool, err error)
	// ShareAudit keeps an audit for all processes, and notes what it found settled.
	ShareAudit(ctx context.Context, r AuditReport) error
}

// auditTimeout bounds one recent audit, and is how long a process that died in the middle of one keeps others off it.
const auditTimeout = 5 * time.Minute

// RunAudit makes a recent audit so often, in one of all the processes that run this, and hands the newest to each of
// them. An audit never takes more than a tenth of the time: where one takes long, they become fewer.
func RunAudit(ctx context.Context, store Auditor, every time.Duration, set func(AuditReport), log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pace := every
	var shown, failing, broken bool
	for {
		last, err := auditOnce(ctx, store, pace)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			log.Warn("the meter could not be audited; trying again", "err", err)
		case err == nil && !last.At.IsZero():
			set(last)
			shown = true
			if !last.Holds && !broken {
				log.Error("the meter does not add up; `catraca audit` names what is missing", "broken", last.broken(), "unaccounted", last.Unaccounted)
			}
			broken = !last.Holds
			pace = max(every, 10*last.Took)
		}
		failing = err != nil
		wait := pace / 4 // somebody else may make it, and then it is fetched soon
		if !shown {
			wait = min(wait, time.Second)
		}
		sleep(ctx, max(wait, 10*time.Millisecond))
		if ctx.Err() != nil {
			return nil
		}
	}
}

func auditOnce(ctx context.Context, store Auditor, every time.Duration) (AuditReport, error) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	last, mine, err := store.LeaseAudit(ctx, every, auditTimeout)
	if err != nil || !mine {
		return last, err
	}
	r, err := store.Audit(ctx, AuditOptions{Depth: AuditRecent})
	if err != nil {
		return AuditReport{}, err
	}
	return r, store.ShareAudit(ctx, r)
}

// Add puts checks of another ledger, of budgets, beside those of the meter.
func (r *AuditReport) Add(checks ...AuditCheck) {
	r.Checks = append(r.Checks, checks...)
	r.Holds = len(r.broken()) == 0
}

// broken lists the checks that do not hold.
func (r *AuditReport) broken() (ids []string) {
	for _, c := range r.Checks {
		if !c.Holds && !c.Skipped {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// maxGaps bounds what a report names one by one; it counts all of them.
const maxGaps = 100

// report puts an audit together from what a store found.
func (f *auditFacts) report(o AuditOptions) AuditReport {
	r := AuditReport{At: f.at, Depth: o.Depth, From: f.from, Incarnations: f.incarnations, Totals: f.totals}
	r.Totals.Since = o.TotalsSince
	r.Checks = append(r.Checks, f.numbers(o, &r))
	r.Checks = append(r.Checks, f.rows.check(o.Depth))
	r.Checks = append(r.Checks, f.sums.checks()...)
	r.Checks = append(r.Checks, f.latencies.check(), f.cache.check(), f.costs.check())
	r.Holds = len(r.broken()) == 0
	order := []string{"lost", "unaccounted", "silent"}
	slices.SortStableFunc(r.Gaps, func(a, b AuditGap) int {
		return cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State))
	})
	if len(r.Gaps) > maxGaps {
		r.Gaps = r.Gaps[:maxGaps]
	}
	return r
}

// numbers is I1: every number that was given out is in the ledger or on its way there.
func (f *auditFacts) numbers(o AuditOptions, r *AuditReport) AuditCheck {
	for i := range f.open {
		n := &f.open[i]
		v := n.judge(f.at, o)
		r.Unaccounted += v.lost.Count() + v.unaccounted.Count()
		r.OnTheWay += v.onTheWay.Count()
		r.Silent += v.silent.Count()
		r.Unjudged += v.unjudged.Count()
		for _, g := range []struct {
			state string
			of    Ranges
		}{{"lost", v.lost}, {"unaccounted", v.unaccounted}, {"silent", v.silent}} {
			if len(g.of) > 0 {
				r.Gaps = append(r.Gaps, AuditGap{
					Incarnation: fmt.Sprintf("%016x", n.incarnation), Numbers: firstOf(g.of), Count: g.of.Count(), State: g.state,
					Proxy: n.holder, Heard: n.heard,
				})
			}
		}
	}
	right := f.received + r.OnTheWay + r.Silent
	c := AuditCheck{
		ID: "I1", Name: "numbers given out = in the ledger + on the way", Left: fmt.Sprint(right + r.Unaccounted), Right: fmt.Sprint(right),
		Difference: fmt.Sprint(r.Unaccounted), Holds: r.Unaccounted == 0,
		Detail: fmt.Sprintf("%d on the way, %d silent, %d too new to judge", r.OnTheWay, r.Silent, r.Unjudged),
	}
	return c
}

// firstOf writes a set, as far as a reader would follow.
func firstOf(r Ranges) string {
	const most = 20
	if len(r) <= most {
		return r.String()
	}
	return fmt.Sprintf("%s,… and %d more ranges up to %d", r[:most], len(r)-most, r[len(r)-1][1])
}
