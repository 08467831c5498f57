package metering

import (
	"context"
	"time"
)

// A call that was cut short is recorded as an estimate. Where the gateway knows the call by its id, the worker's
// transaction also notes it as one to ask about; once the gateway has answered, a correction is recorded: a row of its
// own, whose counts and cost are what was true minus what was estimated, so that sums over the log are exact and no row
// is ever edited.
//
//	estimated row ──► estimates to look up ──► GET /v1/generation ──► correction row (seq negative) + roll-ups

// Estimate is a recorded call whose counts were worked out by us and that the gateway may know better.
type Estimate struct {
	Event     // as the log has it
	Tries int // how often the gateway was asked before
}

// Corrections is what a Corrector needs of a store. Any number of processes may use it at once.
type Corrections interface {
	// DueEstimates takes estimates whose time has come, at most so many, and keeps others off them for the time of lease.
	DueEstimates(ctx context.Context, now time.Time, lease time.Duration, most int) ([]Estimate, error)
	// Correct records what a call truly used: truth is the event as it should have been recorded, with the identity,
	// client and admission time of the estimate. The row, its roll-ups and the end of the look-up are one transaction,
	// and once it is done for an event, doing it again changes nothing.
	Correct(ctx context.Context, truth Event) error
	// PutOff says when to ask about an estimate again; with a zero time it is given up, and the estimate stays.
	PutOff(ctx context.Context, e Estimate, until time.Time) error
}
