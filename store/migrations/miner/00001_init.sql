-- +goose Up
CREATE TABLE tokens (
    hash BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used_by TEXT NOT NULL DEFAULT '',
    used_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE executors (
    id TEXT PRIMARY KEY,
    addr TEXT NOT NULL,
    ssh_addr TEXT NOT NULL,
    host_key BLOB NOT NULL,
    key_spki BLOB NOT NULL UNIQUE,
    certificate BLOB NOT NULL,
    endorsement TEXT NOT NULL,
    facts TEXT NOT NULL,
    enrolled INTEGER NOT NULL,
    drain INTEGER NOT NULL DEFAULT 0,
    beat_at INTEGER NOT NULL DEFAULT 0,
    beat_clock INTEGER NOT NULL DEFAULT 0,
    beat_version TEXT NOT NULL DEFAULT '',
    beat_health TEXT NOT NULL DEFAULT '{}'
) STRICT;

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    spec BLOB NOT NULL,
    spec_digest BLOB NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT 'null',
    executor TEXT NOT NULL DEFAULT '',
    attempt INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0,
    gpus TEXT NOT NULL DEFAULT 'null',
    created INTEGER NOT NULL,
    started INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    outputs TEXT NOT NULL DEFAULT 'null',
    log_bytes INTEGER NOT NULL DEFAULT 0,
    receipt TEXT NOT NULL DEFAULT 'null',
    worker TEXT NOT NULL DEFAULT '',
    worker_until INTEGER NOT NULL DEFAULT 0,
    worker_fence INTEGER NOT NULL DEFAULT 0,
    UNIQUE (client, idempotency_key)
) STRICT;
CREATE INDEX tasks_open ON tasks (state, seq) WHERE ended = 0;
CREATE INDEX tasks_client ON tasks (client, seq);

CREATE TABLE attempts (
    task TEXT NOT NULL REFERENCES tasks (id),
    attempt INTEGER NOT NULL,
    executor TEXT NOT NULL,
    placed INTEGER NOT NULL,
    outcome TEXT NOT NULL DEFAULT '', -- '': under way; busy, abandoned or ended
    released INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task, attempt)
) STRICT;
CREATE INDEX attempts_unreleased ON attempts (executor) WHERE outcome IN ('ended', 'abandoned') AND released = 0;

CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    genesis BLOB NOT NULL,
    netuid INTEGER NOT NULL,
    validator TEXT NOT NULL,
    round INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX grants_validator ON grants (genesis, validator, issued);
CREATE INDEX grants_expires ON grants (expires);

CREATE TABLE grant_executors (
    grant_id TEXT NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    executor TEXT NOT NULL,
    PRIMARY KEY (executor, grant_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX grant_executors_grant ON grant_executors (grant_id);

CREATE TABLE replays (
    hotkey TEXT NOT NULL,
    nonce TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (hotkey, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX replays_until ON replays (until);

CREATE TABLE blob_owners (
    client TEXT NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (client, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_owners_digest ON blob_owners (digest);
