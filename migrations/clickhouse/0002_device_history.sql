-- What happened to devices: one row for each connect, disconnect, subscribe and unsubscribe. The key ends in what makes a
-- row unique, so rows that are sent twice become one at a merge, and with FINAL (`device_history_now`) at once.
CREATE TABLE IF NOT EXISTS device_history (
    clientid String,
    event LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    username Nullable(String),
    reason LowCardinality(Nullable(String)),
    peername Nullable(String),
    sockname Nullable(String),
    proto_name LowCardinality(Nullable(String)),
    proto_ver Nullable(UInt8),
    keepalive Nullable(UInt32),
    clean_start Nullable(Bool),
    receive_maximum Nullable(UInt32),
    expiry_interval Nullable(UInt64),
    is_bridge Nullable(Bool),
    mountpoint Nullable(String),
    connected_at Nullable(DateTime64(3, 'UTC')),
    disconnected_at Nullable(DateTime64(3, 'UTC')),
    topic Nullable(String),
    qos Nullable(UInt8),
    by_proxy Nullable(Bool),
    client_attrs Map(LowCardinality(String), String),
    session UInt64,
    seq UInt64,
    node LowCardinality(String),
    id String,
    event_id String,
    offset UInt64 CODEC(Delta(8), ZSTD(1)),
    extra String DEFAULT '{}' CODEC(ZSTD(1)), -- what has no column, as JSON
    _event_id String,
    _rule LowCardinality(String),
    _row UInt32,
    INDEX by_time timestamp TYPE minmax
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (clientid, timestamp, _event_id, _rule, _row)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS device_history_now AS SELECT * FROM device_history FINAL;
