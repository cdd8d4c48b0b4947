-- With `timescale = 'true'`: history and messages in chunks of time. A unique index of a hypertable must hold its time.
CREATE EXTENSION IF NOT EXISTS timescaledb;

DROP INDEX device_history_once;
CREATE UNIQUE INDEX device_history_once ON device_history (_event_id, _rule, _row, "timestamp");
SELECT create_hypertable('device_history', 'timestamp', migrate_data => true);

DROP INDEX device_messages_once;
CREATE UNIQUE INDEX device_messages_once ON device_messages (_event_id, _rule, _row, "timestamp");
SELECT create_hypertable('device_messages', 'timestamp', migrate_data => true)
