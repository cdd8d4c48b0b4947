-- How long the connection had lasted that a disconnect ended, in milliseconds. The view is made anew, since its columns
-- are those that the table had when it was made.
ALTER TABLE device_history ADD COLUMN IF NOT EXISTS duration Nullable(Int64) AFTER disconnected_at;

DROP VIEW IF EXISTS device_history_now;

CREATE VIEW IF NOT EXISTS device_history_now AS SELECT * FROM device_history FINAL;
