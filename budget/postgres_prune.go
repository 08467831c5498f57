package budget

import (
	"context"
	"fmt"
	"time"
)

// pgPrune are the statements of Prune. Each takes a batch, so that nobody waits long for what it locks.
var pgPrune = []string{
	`DELETE FROM budget_leases l USING (
		SELECT x.window_id, x.incarnation FROM budget_windows w JOIN budget_leases x ON x.window_id = w.id
		WHERE w.sealed AND w.ends_at < $1 AND (x.closed OR x.granted = x.returned + x.settled + x.doubted) LIMIT $2) old
	WHERE l.window_id = old.window_id AND l.incarnation = old.incarnation`,
	`DELETE FROM budget_doubts d USING (
		SELECT x.incarnation, x.seq, x.window_id FROM budget_windows w JOIN budget_doubts x ON x.window_id = w.id
		WHERE w.sealed AND w.ends_at < $1 LIMIT $2) old
	WHERE d.incarnation = old.incarnation AND d.seq = old.seq AND d.window_id = old.window_id`,
	`DELETE FROM budget_holders h USING (
		SELECT x.incarnation FROM budget_holders x WHERE x.state = 'closed' AND x.heard_at < $1
			AND NOT EXISTS (SELECT FROM budget_leases l WHERE l.incarnation = x.incarnation AND NOT l.closed) LIMIT $2) old
	WHERE h.incarnation = old.incarnation`,
}

// Prune implements Store.
func (p *Postgres) Prune(ctx context.Context, before time.Time) (gone int, err error) {
	for _, statement := range pgPrune {
		for {
			done, err := p.pool.Exec(ctx, statement, before, pruneBatch)
			if err != nil {
				return gone, fmt.Errorf("prune the ledger of budgets: %w", err)
			}
			gone += int(done.RowsAffected())
			if done.RowsAffected() < pruneBatch {
				break
			}
		}
	}
	return gone, nil
}
