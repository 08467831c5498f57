-- What became of alerts; as in postgres/00009_alert_deliveries.sql. Times are microseconds.

-- +goose Up
ALTER TABLE budget_alerts ADD COLUMN deliver_at INTEGER DEFAULT 0; -- null: nothing is left to do
CREATE INDEX budget_alerts_deliver_at ON budget_alerts (deliver_at, id) WHERE deliver_at IS NOT NULL;

CREATE TABLE budget_alert_attempts (
    alert_id INTEGER NOT NULL REFERENCES budget_alerts (id) ON DELETE CASCADE,
    channel  TEXT    NOT NULL,
    try      INTEGER NOT NULL CHECK (try > 0),
    at       INTEGER NOT NULL,
    status   INTEGER NOT NULL,
    error    TEXT    NOT NULL,
    done     INTEGER NOT NULL,
    PRIMARY KEY (alert_id, channel, try)
) STRICT, WITHOUT ROWID;
