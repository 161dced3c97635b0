-- +goose Up
-- What refers to a row is looked up when the row is dropped.
CREATE INDEX verdicts_evidence ON verdicts (evidence) WHERE evidence IS NOT NULL;
CREATE INDEX weight_commits_set ON weight_commits (weight_set) WHERE weight_set IS NOT NULL;
