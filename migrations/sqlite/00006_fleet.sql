-- What proxies say of themselves, and what an audit needs of it; as in postgres/00006_fleet.sql. Times are microseconds,
-- sets of numbers are [[first,last],…], sorted and disjoint.

-- +goose Up
CREATE TABLE proxies (
    name       TEXT    PRIMARY KEY,
    started_at INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    stopped    INTEGER NOT NULL,
    report     TEXT    NOT NULL
) STRICT;

CREATE TABLE incarnations (
    incarnation    INTEGER PRIMARY KEY,
    holder         TEXT    NOT NULL,
    holder_started INTEGER NOT NULL,
    issued         INTEGER NOT NULL,
    covered        INTEGER NOT NULL,
    live           INTEGER NOT NULL,
    open_calls     TEXT    NOT NULL,
    waiting        TEXT    NOT NULL,
    lost           TEXT    NOT NULL,
    over           INTEGER NOT NULL,
    reported_at    INTEGER NOT NULL,
    gone_at        INTEGER,
    settled_at     INTEGER
) STRICT;
CREATE INDEX incarnations_holder ON incarnations (holder) WHERE over = 0;

CREATE TABLE meter_audits (
    depth        TEXT PRIMARY KEY,
    at           INTEGER,
    leased_until INTEGER,
    report       TEXT
) STRICT;
