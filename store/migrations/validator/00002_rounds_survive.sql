-- +goose Up
-- What an open round has found so far, one row per executor: a restart closes the round with it.
CREATE TABLE findings (
    round_id INTEGER NOT NULL REFERENCES rounds (id),
    miner TEXT NOT NULL,
    executor TEXT NOT NULL,
    verification TEXT NOT NULL,
    pin TEXT NOT NULL,
    PRIMARY KEY (round_id, miner, executor)
) STRICT, WITHOUT ROWID;

-- Weights on their way to the chain, written before the transaction is sent. One row a round: a round whose row is settled
-- is never submitted again.
CREATE TABLE weight_intents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    book INTEGER NOT NULL REFERENCES books (id),
    round INTEGER NOT NULL,
    hash BLOB NOT NULL,
    extrinsic BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    born INTEGER NOT NULL,
    death INTEGER NOT NULL,
    content TEXT NOT NULL,
    settled INTEGER NOT NULL DEFAULT 0,
    UNIQUE (book, round, hash)
) STRICT;
