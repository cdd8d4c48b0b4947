-- Who is here and who is missing: the latest connect or disconnect of each client. A row replaces another of its client
-- if its `seq` is not smaller, so late and repeated rows change nothing. Read `device_status_now`, or with FINAL.
CREATE TABLE IF NOT EXISTS device_status (
    clientid String,
    event LowCardinality(String),
    online Bool DEFAULT event = 'client.connected',
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
    _row UInt32
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY clientid
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS device_status_now AS SELECT * FROM device_status FINAL;
