-- Types are chosen so that SQLite and PostgreSQL read the same text. Sequence numbers come from
-- `counters`, inside the transaction that uses them: they grow and are never given twice.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO counters (name, last) VALUES ('outbox', 0), ('facts', 0);

-- One serialised state machine per row; `version` counts its writes.
CREATE TABLE machines (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    state BYTEA NOT NULL,
    PRIMARY KEY (kind, id)
);

-- Messages decided but perhaps not yet delivered.
CREATE TABLE outbox (
    seq BIGINT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    body BYTEA NOT NULL
);
CREATE INDEX outbox_machine ON outbox (kind, id, seq);

-- The append-only log of what happened; `body` is JSON.
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
