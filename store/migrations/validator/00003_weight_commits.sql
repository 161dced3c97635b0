-- +goose Up
-- Weights that the chain holds sealed, one row a commit. A row is written, as "sent", with the intent and before the
-- transaction is: what opens a commit must not be lost. States after that are those of the contract.
CREATE TABLE weight_commits (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    book INTEGER NOT NULL REFERENCES books (id),
    round INTEGER NOT NULL,
    hash BLOB NOT NULL,
    extrinsic BLOB NOT NULL,
    commitment BLOB NOT NULL,
    state TEXT NOT NULL,
    content TEXT NOT NULL,
    weights TEXT NOT NULL,
    weight_set INTEGER REFERENCES weight_sets (seq),
    UNIQUE (book, commitment)
) STRICT;
CREATE INDEX weight_commits_open ON weight_commits (book, seq) WHERE state IN ('waiting', 'due');
