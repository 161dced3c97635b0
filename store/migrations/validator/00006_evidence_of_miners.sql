-- +goose Up
-- Whose record it is: the oldest of the miner that has most is dropped first.
ALTER TABLE evidence ADD COLUMN miner TEXT NOT NULL DEFAULT '';
UPDATE evidence SET miner = v.miner FROM verdicts d JOIN verifications v ON v.seq = d.verification WHERE d.evidence = evidence.sha256 AND dropped = 0;
DROP INDEX evidence_kept;
CREATE INDEX evidence_kept ON evidence (miner, stored, size) WHERE dropped = 0;
