-- What became of alerts: when the next try to deliver one is due, and every try that was made.
--
-- Row-level security is on without policies, for the reason that 00001_tenancy.sql gives.

-- +goose Up

-- Whoever delivers moves deliver_at on first, which keeps others off for so long. An alert that nothing was tried for yet
-- comes before all that wait for another try.
ALTER TABLE budget_alerts
    ADD COLUMN deliver_at timestamptz DEFAULT 'epoch'; -- null: nothing is left to do
CREATE INDEX budget_alerts_deliver_at ON budget_alerts (deliver_at, id) WHERE deliver_at IS NOT NULL;

CREATE TABLE budget_alert_attempts (
    alert_id bigint      NOT NULL REFERENCES budget_alerts (id) ON DELETE CASCADE,
    channel  text        NOT NULL, -- webhook, email: the budget's own; default_webhook, default_email, …: the operator's
    try      integer     NOT NULL CHECK (try > 0),
    at       timestamptz NOT NULL,
    status   integer     NOT NULL, -- of HTTP or SMTP; 0: no answer came
    error    text        NOT NULL, -- holds no address and no secret
    done     boolean     NOT NULL, -- delivered, or given up where there is an error
    PRIMARY KEY (alert_id, channel, try)
);

ALTER TABLE budget_alert_attempts ENABLE ROW LEVEL SECURITY;
