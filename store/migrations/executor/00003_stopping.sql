-- +goose Up
-- Why a process asked the engine to end an attempt's container: one that dies right after leaves the next one a container
-- that was killed, and no other word on by whom.
ALTER TABLE attempts ADD COLUMN stopping TEXT NOT NULL DEFAULT '';
