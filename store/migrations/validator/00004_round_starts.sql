-- +goose Up
-- How near to one instant the machines of a round were challenged: JSON of a list, one entry a group.
ALTER TABLE rounds ADD COLUMN starts TEXT NOT NULL DEFAULT '[]';
