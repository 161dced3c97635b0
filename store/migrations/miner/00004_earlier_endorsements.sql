-- +goose Up
-- The endorsements that an executor had before its present one, oldest first: JSON of a list. Each but the first replaces the
-- attestation key of the one before.
ALTER TABLE executors ADD COLUMN earlier TEXT NOT NULL DEFAULT '[]';
