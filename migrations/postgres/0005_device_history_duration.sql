-- How long the connection had lasted that a disconnect ended, in milliseconds.
ALTER TABLE device_history ADD COLUMN duration bigint
