-- One row an alarm that was raised; its deactivation (a greater `offset`) replaces the row. An alarm that is about no
-- device has '' for clientid. Read `device_alarms_now`, or with FINAL.
CREATE TABLE IF NOT EXISTS device_alarms (
    name LowCardinality(String),
    clientid String,
    activated_at DateTime64(3, 'UTC'),
    active Bool DEFAULT event = 'alarm.activated',
    deactivated_at Nullable(DateTime64(3, 'UTC')),
    duration Nullable(Int64), -- milliseconds
    kind LowCardinality(Nullable(String)),
    severity LowCardinality(Nullable(String)),
    username Nullable(String),
    message Nullable(String),
    details String DEFAULT '{}' CODEC(ZSTD(1)), -- JSON
    since Nullable(DateTime64(3, 'UTC')),
    event LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    node LowCardinality(String),
    id String,
    event_id String,
    offset UInt64 CODEC(Delta(8), ZSTD(1)),
    extra String DEFAULT '{}' CODEC(ZSTD(1)), -- what has no column, as JSON
    _event_id String,
    _rule LowCardinality(String),
    _row UInt32
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (name, clientid, activated_at)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS device_alarms_now AS SELECT * FROM device_alarms FINAL;
