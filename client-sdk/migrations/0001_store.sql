-- Types are chosen so that SQLite and PostgreSQL read the same text.

-- One serialised state machine per row; `version` counts its writes.
CREATE TABLE machines (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    state BYTEA NOT NULL,
    PRIMARY KEY (kind, id)
);

-- The append-only log of what happened, numbered without gaps; `body` is JSON.
CREATE TABLE facts (
    seq BIGINT NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    job TEXT NOT NULL,
    actor TEXT NOT NULL,
    predicate TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX facts_job ON facts (job, seq);

-- Small keyed values: identities, enrolled parties, manifests.
CREATE TABLE records (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (kind, key)
);
