-- +goose Up
-- AUTOINCREMENT never gives a number twice, whatever was deleted: it is the fencing number.
CREATE TABLE holdings (
    fence INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    holder TEXT NOT NULL,
    gpus TEXT NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE TABLE held_gpus (
    gpu TEXT PRIMARY KEY,
    fence INTEGER NOT NULL REFERENCES holdings (fence) ON DELETE CASCADE
) STRICT;
CREATE INDEX held_gpus_fence ON held_gpus (fence);

CREATE TABLE attempts (
    task TEXT NOT NULL,
    number INTEGER NOT NULL,
    client TEXT NOT NULL,
    spec BLOB NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT 'null',
    fence INTEGER NOT NULL,
    holding TEXT NOT NULL,
    container TEXT NOT NULL DEFAULT '',
    image_id TEXT NOT NULL DEFAULT '',
    accepted INTEGER NOT NULL,
    pulling INTEGER NOT NULL DEFAULT 0,
    started INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    outputs TEXT NOT NULL DEFAULT 'null',
    receipt TEXT NOT NULL DEFAULT 'null',
    PRIMARY KEY (task, number)
) STRICT;
CREATE INDEX attempts_open ON attempts (accepted) WHERE ended = 0;

CREATE TABLE attempt_blobs (
    task TEXT NOT NULL,
    number INTEGER NOT NULL,
    sum TEXT NOT NULL,
    PRIMARY KEY (task, number, sum),
    FOREIGN KEY (task, number) REFERENCES attempts (task, number) ON DELETE CASCADE
) STRICT;
CREATE INDEX attempt_blobs_sum ON attempt_blobs (sum);

CREATE TABLE blobs (
    sum TEXT PRIMARY KEY,
    seen INTEGER NOT NULL
) STRICT;
