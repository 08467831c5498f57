package metering

import (
	"fmt"

	"github.com/catraca/catraca/internal/money"
)

// difference is the row that corrects an estimate: what the call truly used and cost, minus what its row says. All else
// is as in that row, so that the two are summed up in the same hour, under the same model, provider and route, even
// where the truth names another.
//
// Where the true cost is unknown, what was charged stays charged; where only the estimate's was, the call stops
// counting as one of unknown cost.
func difference(estimate *logRow, truth *Event) (logRow, error) {
	if estimate.source != sourceWords[Estimated] {
		return logRow{}, fmt.Errorf("%w %x/%d: it is no estimate, so there is nothing to correct", ErrUnrecordable, truth.Incarnation, truth.Seq)
	}
	t := newLogRow(truth)
	d := *estimate
	d.Event = estimate.usageRow().Event
	d.id, d.corrects = EventID(uint64(estimate.incarnation), uint64(-estimate.seq)), estimate.id
	d.seq = -estimate.seq
	d.outcome, d.source, d.details = correctionWord, sourceWords[Measured], ""
	d.ErrorCode, d.FinishReason = "", t.FinishReason
	d.LatencyMs, d.TTFTMs, d.OverheadUs, d.RequestBytes, d.ResponseBytes = 0, 0, 0, 0, 0

	was := estimate.Usage
	d.Usage = Usage{
		Source: Measured,
		Input:  t.Input - was.Input, Output: t.Output - was.Output, Total: t.Usage.Total - was.Total,
		Cached: t.Cached - was.Cached, CacheWrite: t.CacheWrite - was.CacheWrite, Reasoning: t.Reasoning - was.Reasoning,
		AudioInput: t.AudioInput - was.AudioInput, AudioOutput: t.AudioOutput - was.AudioOutput, AudioMs: t.AudioMs - was.AudioMs,
		Images: t.Images - was.Images, Characters: t.Characters - was.Characters,
	}
	d.usd, d.brl = t.usd.minus(estimate.usd), t.brl.minus(estimate.brl)
	d.listUSD, d.gateUSD = t.listUSD.minus(estimate.listUSD), t.gateUSD.minus(estimate.gateUSD)
	d.rate, d.costSource, d.becameKnown = t.rate, t.costSource, t.usd.Valid && !estimate.usd.Valid
	d.Cost = Cost{
		USD: money.Pico(d.usd.V), BRL: money.Pico(d.brl.V), Known: d.usd.Valid, ListUSD: money.Pico(d.listUSD.V), ListKnown: d.listUSD.Valid,
		GateUSD: money.Pico(d.gateUSD.V), GateKnown: d.gateUSD.Valid, PriceID: t.PriceID, Rate: t.Rate,
	}
	return d, nil
}

// minus is what has to be added to an amount, where it is known, to make n.
func (n nullInt64) minus(was nullInt64) nullInt64 {
	if !n.Valid {
		return nullInt64{}
	}
	return nullInt64{V: n.V - was.V, Valid: true}
}

// checkTruth finds what no correction could be made of.
func checkTruth(truth *Event) error {
	if err := checkEvent(truth); err != nil {
		return fmt.Errorf("%w %x/%d: %w", ErrUnrecordable, truth.Incarnation, truth.Seq, err)
	}
	if truth.Usage.Source == Estimated {
		return fmt.Errorf("%w %x/%d: another estimate corrects nothing", ErrUnrecordable, truth.Incarnation, truth.Seq)
	}
	return nil
}

// noEstimate says that the log does not have what is to be corrected, which will not change.
func noEstimate(truth *Event) error {
	return fmt.Errorf("%w %x/%d: the log has no such call; it may be past its retention", ErrUnrecordable, truth.Incarnation, truth.Seq)
}
