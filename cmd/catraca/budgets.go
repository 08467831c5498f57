package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/catraca/catraca/budget"
	"github.com/catraca/catraca/metering"
	"github.com/catraca/catraca/tenancy"
)

// Budgets and the meter are siblings that know nothing of each other. Here is where they meet:
//
//	metering.Event ─► charges ─► budget.Settle      in the worker's transaction (stores.go)
//	metering.Spool.Over ─► budget.Purse             an incarnation is closed when the meter has all of it
//	budget.Store.Check ─► the audit's I4 and I5

// charges are usage events as the ledger of budgets sees them. A correction has the number of its estimate, negated.
func charges(fresh []metering.Event) []budget.Charge {
	all := make([]budget.Charge, len(fresh))
	for i := range fresh {
		e := &fresh[i]
		c := &all[i]
		*c = budget.Charge{
			EventID: budget.EventID{Incarnation: e.Incarnation, Seq: e.Seq}, Client: e.ClientID, AdmittedAt: e.AdmittedAt,
			Cost:  budget.Cost{Tokens: e.Total, BRL: e.BRL, USD: e.USD, Unpriced: !e.Known},
			Doubt: e.Doubt,
		}
		if int64(e.Seq) < 0 {
			c.Seq, c.Correction = -e.Seq, true
		}
		for _, h := range e.Holds {
			c.Holds = append(c.Holds, budget.HeldFor{Window: h.Window, Amount: h.Amount})
		}
	}
	return all
}

// auditedUsage is the usage store whose audit also tells whether budgets and log agree.
type auditedUsage struct {
	usageStore
	budgets budget.Store
}

// Audit is the meter's, and the invariants I4 and I5 of budgets, looked at right behind it.
func (a auditedUsage) Audit(ctx context.Context, o metering.AuditOptions) (metering.AuditReport, error) {
	r, err := a.usageStore.Audit(ctx, o)
	if err != nil {
		return r, err
	}
	check, err := a.budgets.Check(ctx)
	if err != nil {
		return r, err
	}
	r.Add(budgetChecks(&check)...)
	return r, nil
}

func budgetChecks(c *budget.CheckReport) []metering.AuditCheck {
	i4 := metering.AuditCheck{ID: "I4", Name: "log = budgets, window by window", Holds: true}
	i5 := metering.AuditCheck{ID: "I5", Name: "free + held + spent + in suspense = limit", Holds: true}
	var off4, off5 int64
	for _, f := range c.Faults {
		to, off := &i5, &off5
		if f.What == "spent" {
			to, off = &i4, &off4
		}
		if to.Holds {
			to.Detail = fmt.Sprintf("window %d of budget %s: %s is %d, and should be %d", f.Window, f.Budget, f.What, f.Ledger, f.Log)
		}
		to.Holds = false
		*off++
	}
	for check, off := range map[*metering.AuditCheck]int64{&i4: off4, &i5: off5} {
		check.Left, check.Right = fmt.Sprintf("%d windows", c.Windows), fmt.Sprintf("%d agree", int64(c.Windows)-off)
		check.Difference = fmt.Sprint(off)
	}
	return []metering.AuditCheck{i4, i5}
}

// conversations tells whether a conversation was under way within the last day.
type conversations struct {
	log interface {
		Seen(ctx context.Context, client uuid.UUID, conversation string, since time.Time) (bool, error)
	}
}

// Seen implements what link.LocalOptions asks for.
func (c conversations) Seen(ctx context.Context, client uuid.UUID, conversation string) (bool, error) {
	return c.log.Seen(ctx, client, conversation, time.Now().Add(-24*time.Hour))
}

const (
	tidyEvery    = time.Second // windows are opened and sealed, and the plan's columns written, this soon
	tidyTimeout  = 30 * time.Second
	projectAgain = time.Minute // how far back the first look goes, for what another process left unwritten
	// projectSlack is how much clocks of the database and of this machine may differ, and how long a transaction may take
	// from its beginning, which its changes are dated by, to its end.
	projectSlack = 15 * time.Second
)

// tidyBudgets keeps the ledger of budgets in order until ctx ends. It never takes more than a tenth of the time: with very
// many budgets its rounds become fewer.
func tidyBudgets(authority *budget.Authority, store budget.Store, log *slog.Logger) part {
	return func(ctx context.Context) error {
		since, failing := time.Now().Add(-projectAgain), false
		for {
			began := time.Now()
			limit, cancel := context.WithTimeout(ctx, tidyTimeout)
			err := authority.Tidy(limit)
			if err == nil {
				_, err = store.Project(limit, since)
			}
			cancel()
			took := time.Since(began)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil && !failing:
				log.Warn("budgets could not be tidied; trying again", "error", err)
			case err == nil:
				since = began.Add(-projectSlack - took)
			}
			failing = err != nil
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(max(tidyEvery, 10*took)):
			}
		}
	}
}

// pruneEvery is how often what old windows no longer need is let go.
const pruneEvery = time.Hour

func pruneBudgets(store budget.Store, log *slog.Logger) part {
	return func(ctx context.Context) error {
		for {
			n, err := store.Prune(ctx, time.Now().Add(-budget.KeepLeases))
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				log.Warn("old leases of budgets could not be let go; trying again in an hour", "error", err)
			case n > 0:
				log.Info("old leases of budgets were let go", "rows", n)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pruneEvery):
			}
		}
	}
}

// openPurse makes what this process holds of its clients' budgets. Earlier incarnations on the same volume are closed
// once the meter has all of them.
func openPurse(cfg *Config, spool *metering.Spool, lender budget.Lender, log *slog.Logger) (*budget.Purse, error) {
	var purse *budget.Purse
	purse, err := budget.OpenPurse(budget.PurseOptions{
		Incarnation: spool.Incarnation(), Name: processName(cfg), Dir: filepath.Join(cfg.DataDir, "leases"), Lender: lender, Log: log,
		Over: func() (over []budget.Close) {
			for _, incarnation := range purse.Earlier() {
				if last, is := spool.Over(incarnation); is {
					over = append(over, budget.Close{Incarnation: incarnation, Last: last})
				}
			}
			return over
		},
	})
	return purse, err
}

// staleAccounts tells the purse whose budgets may have changed. No changes at a version that is not the newest mean that
// the feed begins anew, and then everybody's may have.
func staleAccounts(purse *budget.Purse) func([]tenancy.Change, int64) {
	var last int64
	return func(changes []tenancy.Change, newest int64) {
		switch {
		case len(changes) > 0:
			ids := make([]uuid.UUID, 0, len(changes))
			for _, c := range changes {
				if c.ClientID != uuid.Nil {
					ids = append(ids, c.ClientID)
				}
			}
			purse.Stale(ids...)
		case newest != last:
			purse.Stale(uuid.Nil)
		}
		last = newest
	}
}
