-- +goose Up
-- What a process must know of attempts that an earlier one began: in which boot of the machine and under which process of
-- the engine the container was made, and when its time limit ends (on the time line of clocks).
ALTER TABLE attempts ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN engine TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN deadline INTEGER NOT NULL DEFAULT 0;

-- Of a holding in quarantine: what still has its GPUs.
ALTER TABLE holdings ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdings ADD COLUMN container TEXT NOT NULL DEFAULT '';
ALTER TABLE holdings ADD COLUMN boot TEXT NOT NULL DEFAULT '';

-- Grants that the miner ended early.
CREATE TABLE revoked_grants (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT;

-- Images that this machine loaded from a file; id is empty while the engine loads it.
CREATE TABLE loaded_images (
    source TEXT PRIMARY KEY,
    id TEXT NOT NULL
) STRICT;

-- Where the ledger's time line begins in this boot: a wall clock's time and the time since boot at that moment, both in
-- microseconds. It moves with the time since boot alone, so that setting the clock ends no lease and lengthens none.
CREATE TABLE clocks (
    boot TEXT PRIMARY KEY,
    wall INTEGER NOT NULL,
    up INTEGER NOT NULL
) STRICT;
