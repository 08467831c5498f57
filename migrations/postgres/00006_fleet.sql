-- What proxies say of themselves, and what an audit needs of it: which sequence numbers were given out, and which of
-- them are still on their way here.
--
-- Row-level security is on without policies, for the reason that 00001_tenancy.sql gives.

-- +goose Up

-- The newest report of each proxy, as it came, but for its logs: those are the rows of incarnations that it holds.
-- Rows are rewritten every few seconds, in place for as long as their page has room and no index has the time.
CREATE TABLE proxies (
    name       text        PRIMARY KEY,
    started_at timestamptz NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(), -- when the report came, by this database's clock
    stopped    boolean     NOT NULL,                           -- its last word: a clean stop
    report     jsonb       NOT NULL
) WITH (fillfactor = 50);

-- One row a run of a proxy, kept for ever beside its watermark in producers. It is a table of its own, so that a report
-- never waits for the ledger's transactions nor they for it.
CREATE TABLE incarnations (
    incarnation    bigint      PRIMARY KEY,
    holder         text        NOT NULL, -- the proxy whose spool has it, or had it last
    holder_started timestamptz NOT NULL,
    issued         bigint      NOT NULL, -- the highest number known to have been given out
    covered        bigint      NOT NULL, -- the newest report speaks of the numbers up to here
    live           boolean     NOT NULL, -- it may give out more
    open_calls     int8multirange NOT NULL, -- admitted and not ended
    waiting        int8multirange NOT NULL, -- ended, and not known to be in the ledger
    lost           int8multirange NOT NULL, -- in no record that its spool could read; never shrinks
    over           boolean     NOT NULL, -- its spool said that nothing of it is left there
    reported_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- when any of the above last changed
    gone_at        timestamptz,          -- since when a later run of the holder does not have it and should
    settled_at     timestamptz           -- when an audit found all of it in the ledger
) WITH (fillfactor = 70);
CREATE INDEX incarnations_holder ON incarnations (holder) WHERE NOT over;
CREATE INDEX incarnations_unsettled ON incarnations (incarnation) WHERE settled_at IS NULL;

-- The newest audit, which one control plane makes and all of them show.
CREATE TABLE meter_audits (
    depth        text        PRIMARY KEY, -- recent
    at           timestamptz,             -- null: none was made yet
    leased_until timestamptz,             -- somebody is at it until then
    report       jsonb
);

ALTER TABLE proxies      ENABLE ROW LEVEL SECURITY;
ALTER TABLE incarnations ENABLE ROW LEVEL SECURITY;
ALTER TABLE meter_audits ENABLE ROW LEVEL SECURITY;
