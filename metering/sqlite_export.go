package metering

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

var _ Exporter = (*SQLite)(nil)

// Export gives each call to a function, oldest first. See Exporter.
func (s *SQLite) Export(ctx context.Context, q ExportQuery, each func(*UsageRow) error) error {
	if err := q.check(); err != nil {
		return err
	}
	var where sqliteWhere
	if q.ClientID != uuid.Nil {
		where.and("client_id = ?", q.ClientID.String())
	}
	if !q.From.IsZero() {
		where.and("created_at >= ?", q.From.UnixMicro())
	}
	if !q.To.IsZero() {
		where.and("created_at < ?", q.To.UnixMicro())
	}
	if err := s.export(ctx, where, each); err != nil {
		return fmt.Errorf("export the usage log: %w", err)
	}
	return nil
}

// export is one statement, which SQLite answers from the database as it was when it began.
func (s *SQLite) export(ctx context.Context, where sqliteWhere, each func(*UsageRow) error) error {
	rows, err := s.read.QueryContext(ctx, "SELECT "+sqliteReadColumns()+" FROM gateway_usage_logs"+where.String()+
		" ORDER BY created_at, incarnation, seq", where.args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r logRow
		if err := scanSQLiteRow(rows, &r); err != nil {
			return err
		}
		row := r.usageRow()
		if err := each(&row); err != nil {
			return err
		}
	}
	return rows.Err()
}
