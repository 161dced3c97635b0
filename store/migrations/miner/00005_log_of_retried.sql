-- +goose Up
-- A task that was repeated, and then ended in the queue, said that its log ended before its last attempt's began.
UPDATE tasks SET log_bytes = log_start WHERE log_bytes < log_start;
