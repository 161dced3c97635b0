-- +goose Up
-- A display name, labels, until when a drain waits, the certificate before the last renewal (still valid), when the executor
-- was revoked, and the digest of what it says it trusts.
ALTER TABLE executors ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE executors ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE executors ADD COLUMN drain_until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executors ADD COLUMN previous BLOB NOT NULL DEFAULT x'';
ALTER TABLE executors ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executors ADD COLUMN trust BLOB NOT NULL DEFAULT x'';
