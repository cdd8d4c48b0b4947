-- What devices published: one row a message. The payload is kept as it came. Rows that are sent twice become one at a
-- merge, and with FINAL (`device_messages_now`) at once.
CREATE TABLE IF NOT EXISTS device_messages (
    clientid String,
    event LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    topic String,
    qos UInt8,
    payload String CODEC(ZSTD(1)),
    username Nullable(String),
    peername Nullable(String),
    peerhost Nullable(String),
    flags Map(LowCardinality(String), Bool),
    publish_received_at Nullable(DateTime64(3, 'UTC')),
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

CREATE VIEW IF NOT EXISTS device_messages_now AS SELECT * FROM device_messages FINAL;
