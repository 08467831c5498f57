package budget

import (
	"context"
	"fmt"
	"time"
)

var litePrune = []string{
	`DELETE FROM budget_leases WHERE (window_id, incarnation) IN (SELECT x.window_id, x.incarnation FROM budget_windows w JOIN budget_leases x ON x.window_id = w.id
	WHERE w.sealed AND w.ends_at < ?1 AND (x.closed OR x.granted = x.returned + x.settled + x.doubted) LIMIT ?2)`,
	`DELETE FROM budget_doubts WHERE (incarnation, seq, window_id) IN (SELECT x.incarnation, x.seq, x.window_id FROM budget_windows w JOIN budget_doubts x ON x.window_id = w.id
	WHERE w.sealed AND w.ends_at < ?1 LIMIT ?2)`,
	`DELETE FROM budget_holders WHERE incarnation IN (SELECT x.incarnation FROM budget_holders x WHERE x.state = 'closed' AND x.heard_at < ?1
	AND NOT EXISTS (SELECT 1 FROM budget_leases l WHERE l.incarnation = x.incarnation AND NOT l.closed) LIMIT ?2)`,
}

// Prune implements Store.
func (s *SQLite) Prune(ctx context.Context, before time.Time) (gone int, err error) {
	for _, statement := range litePrune {
		for {
			done, err := s.write.ExecContext(ctx, statement, before.UnixMicro(), pruneBatch)
			if err != nil {
				return gone, fmt.Errorf("prune the ledger of budgets: %w", err)
			}
			n, err := done.RowsAffected()
			if err != nil {
				return gone, fmt.Errorf("prune the ledger of budgets: %w", err)
			}
			gone += int(n)
			if n < pruneBatch {
				break
			}
		}
	}
	return gone, nil
}
