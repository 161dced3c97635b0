-- +goose Up
-- What lasts for a while is counted by a clock of the database's own (clock.go): worker_until, lease_until and not_before
-- of tasks, until of replays, and the columns below. created, expires, issued and the like are the machine's own time, for people.
CREATE TABLE clock (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    run INTEGER NOT NULL,
    wall INTEGER NOT NULL
) STRICT;

ALTER TABLE tokens ADD COLUMN ends INTEGER NOT NULL DEFAULT 0;
UPDATE tokens SET ends = expires;

ALTER TABLE grants ADD COLUMN given INTEGER NOT NULL DEFAULT 0;
ALTER TABLE grants ADD COLUMN ends INTEGER NOT NULL DEFAULT 0;
UPDATE grants SET given = issued, ends = expires;
DROP INDEX grants_validator;
DROP INDEX grants_expires;
CREATE INDEX grants_validator ON grants (genesis, validator, given);
CREATE INDEX grants_ends ON grants (ends);

ALTER TABLE executors ADD COLUMN beat_run INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executors ADD COLUMN drain_ends INTEGER NOT NULL DEFAULT 0; -- 0: its running tasks may end by themselves
UPDATE executors SET drain_ends = drain_until;
ALTER TABLE executors ADD COLUMN beat_gpus INTEGER NOT NULL DEFAULT 0; -- named by the last heartbeat
UPDATE executors SET beat_run = beat_at, beat_gpus = coalesce(json_array_length(facts, '$.gpus'), 0);

ALTER TABLE tasks ADD COLUMN offered INTEGER NOT NULL DEFAULT 0; -- the executor may hold the attempt
ALTER TABLE tasks ADD COLUMN retries INTEGER NOT NULL DEFAULT 0; -- attempts that may have run, were lost, and were repeated as the spec allows
ALTER TABLE tasks ADD COLUMN log_start INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN log_kept INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tasks ADD COLUMN ended_run INTEGER NOT NULL DEFAULT 0;
UPDATE tasks SET offered = 1 WHERE state NOT IN ('queued') AND ended = 0;
UPDATE tasks SET ended_run = ended;
DROP INDEX tasks_client;
CREATE INDEX tasks_pages ON tasks (client, created, id);
CREATE INDEX tasks_ended ON tasks (ended_run) WHERE ended > 0;
