-- What keeps the ledger in order for years; as in postgres/00005_upkeep.sql, but for the roles, which a file does not have.

-- +goose Up
ALTER TABLE dead_letters ADD COLUMN state      TEXT    NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded'));
ALTER TABLE dead_letters ADD COLUMN tries      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN settled_at INTEGER;
ALTER TABLE dead_letters ADD COLUMN note       TEXT    NOT NULL DEFAULT '';

CREATE TABLE usage_log_kept (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    since    INTEGER NOT NULL
) STRICT;

CREATE TABLE erasures (
    client_id TEXT    NOT NULL,
    erased_at INTEGER NOT NULL,
    salt      BLOB    NOT NULL,
    digest    BLOB    NOT NULL,
    PRIMARY KEY (client_id, erased_at, digest)
) STRICT, WITHOUT ROWID;
