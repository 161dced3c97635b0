-- +goose Up
-- Every row belongs to one book: a chain (genesis), a subnet of it and a validator's hotkey.
CREATE TABLE books (
    id INTEGER PRIMARY KEY,
    genesis BLOB NOT NULL,
    netuid INTEGER NOT NULL,
    validator TEXT NOT NULL,
    UNIQUE (genesis, netuid, validator)
) STRICT;

-- A chain that is put back keeps its genesis: a round is known by its block's hash too.
CREATE TABLE rounds (
    id INTEGER PRIMARY KEY,
    book INTEGER NOT NULL REFERENCES books (id),
    first INTEGER NOT NULL,
    hash BLOB NOT NULL,
    slot INTEGER NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '{}',
    scores TEXT NOT NULL DEFAULT '[]',
    UNIQUE (book, first, hash)
) STRICT;
CREATE INDEX rounds_open ON rounds (book) WHERE ended = 0;

CREATE TABLE verifications (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    book INTEGER NOT NULL REFERENCES books (id),
    round_id INTEGER NOT NULL REFERENCES rounds (id),
    round INTEGER NOT NULL,
    block INTEGER NOT NULL,
    miner TEXT NOT NULL,
    miner_uid INTEGER NOT NULL,
    executor TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    result TEXT NOT NULL,
    strength TEXT NOT NULL,
    after_open INTEGER NOT NULL,
    holder TEXT NOT NULL,
    gpus TEXT NOT NULL,
    facts TEXT NOT NULL,
    UNIQUE (round_id, miner, executor)
) STRICT;
CREATE INDEX verifications_executor ON verifications (book, miner, executor, seq);
CREATE INDEX verifications_seq ON verifications (book, seq);

CREATE TABLE verdicts (
    verification INTEGER NOT NULL REFERENCES verifications (seq),
    place INTEGER NOT NULL,
    check_name TEXT NOT NULL,
    result TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    evidence BLOB REFERENCES evidence (sha256),
    class TEXT NOT NULL DEFAULT '',
    signed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (verification, place)
) STRICT, WITHOUT ROWID;

-- One row for every record file that was ever kept; dropped is when retention removed the file, 0 while it is there.
CREATE TABLE evidence (
    sha256 BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX evidence_kept ON evidence (stored) WHERE dropped = 0;

CREATE TABLE pins (
    book INTEGER NOT NULL REFERENCES books (id),
    miner TEXT NOT NULL,
    executor TEXT NOT NULL,
    key_spki BLOB NOT NULL,
    attest_spki BLOB NOT NULL,
    host_key BLOB NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (book, miner, executor)
) STRICT, WITHOUT ROWID;

-- The fold of score.Standing.Next over an executor's verifications, oldest first.
CREATE TABLE standings (
    book INTEGER NOT NULL REFERENCES books (id),
    miner TEXT NOT NULL,
    executor TEXT NOT NULL,
    seen INTEGER NOT NULL,
    standing TEXT NOT NULL,
    PRIMARY KEY (book, miner, executor)
) STRICT, WITHOUT ROWID;

CREATE TABLE weight_sets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    book INTEGER NOT NULL REFERENCES books (id),
    block INTEGER NOT NULL,
    at INTEGER NOT NULL,
    submitted INTEGER NOT NULL,
    content TEXT NOT NULL
) STRICT;
CREATE INDEX weight_sets_book ON weight_sets (book, seq);
